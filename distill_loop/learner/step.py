"""The learner: observe pairs, take steps, answer for itself. Everything it is goes into one state dict.

Decides what is held out (by the input's key, so that repeats fall on the same side), which teacher version is believed, and how a
step is taken. Knows nothing of streams, gates or releases. One thread; a restart from `state_dict` goes on bit for bit.
Shape suffixes: B batch, C classes.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from distill_loop.config import LearnerSection
from distill_loop.learner import batch, students
from distill_loop.learner.loss import distillation_loss
from distill_loop.learner.pair import TrainingPair
from distill_loop.learner.replay import Replay, pack_pairs, unpack_pairs
from distill_loop.learner.student import Student
from protos.errors import FormatError, RecordError
from protos.tensors import Array
from registry.sections import ModelSection

#: Newest held-out pairs that are kept.
HOLDOUT_PAIRS = 512
#: Rows that are answered in one forward: enough that a call costs little, few enough that wide inputs fit into memory.
MAX_ROWS = 128
#: How often, in one length of the memory, pairs that are too old are looked for.
SWEEPS = 64
Fate = Literal["learned", "held_out", "refused"]


class Learner:
    """A student, its optimizer, its memory and its held-out pairs.

    Raises:
        ConfigurationError: there is no such student, or it doesn't suit the model.
    """

    def __init__(self, settings: LearnerSection, model: ModelSection) -> None:
        torch.set_num_threads(settings.threads)
        self._settings = settings
        self._model = model
        self.num_steps = 0
        self.num_spoilt_steps = 0
        self.teacher_version = ""
        self._newest_unix_ns = self._oldest_unix_ns = self._swept_unix_ns = 0
        self._holdout: collections.deque[TrainingPair] = collections.deque(maxlen=HOLDOUT_PAIRS)
        self._replay = Replay(ring_pairs=settings.ring_pairs, memory_bytes=settings.memory_bytes, seed=settings.seed)
        torch.manual_seed(settings.seed)
        self.student: Student = students.build(settings, model)
        self.net: nn.Module = self.student.net
        self._random_state = torch.get_rng_state()
        self._optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

    @property
    def num_held_out(self) -> int:
        """Held-out pairs at hand."""
        return len(self._holdout)

    def observe(self, pair: TrainingPair) -> Fate:
        """Take one pair in.

        Raises:
            RecordError: its inputs are not the model's, or more than the student can take.
        """
        pair = self._fitted(pair)
        if self.student.may_raise and isinstance(top := self.top_classes([pair])[0], RecordError):
            raise top
        return self.take([pair])[0]

    def take(self, pairs: Sequence[TrainingPair]) -> list[Fate]:
        """Take pairs in, whose inputs the student can take, for later steps or for the held-out slice; returns what becomes of each.

        A newer teacher version makes what the older one said worthless: it is forgotten. An answer of the older one that comes
        late (partitions are read in turn, spools drain) is refused, as is a pair that is older than the memory keeps any.
        """
        fates: list[Fate] = []
        learned = []
        for pair in pairs:
            if not self._believes(pair):
                fates.append("refused")
            elif is_held_out(pair.input_key, self._settings.holdout_ratio):
                self._holdout.append(pair)
                fates.append("held_out")
            else:
                self._replay.add(pair)
                learned.append(pair)
                fates.append("learned")
        if learned and self.student.scaling:
            self.student.scaling.observe(batch.stack(self._model.inputs, [pair.inputs for pair in learned]))
        return fates

    def forget(self, now_unix_ns: int) -> None:
        """Forget pairs whose records are older than `learner.memory_s` by then; now and then, since each look is at all of them.

        A clock that went too far may be set back: what is gone is gone, but pairs are learned from again.
        """
        memory_ns = int(self._settings.memory_s * 1e9)
        self._oldest_unix_ns = max(0, now_unix_ns - memory_ns)
        if abs(self._oldest_unix_ns - self._swept_unix_ns) < memory_ns // SWEEPS:
            return
        self._swept_unix_ns = self._oldest_unix_ns
        self._replay.forget_before(self._oldest_unix_ns)
        kept = [pair for pair in self._holdout if pair.time_unix_ns >= self._oldest_unix_ns]
        self._holdout.clear()
        self._holdout.extend(kept)

    def learn(self, num_steps: int) -> None:
        """Take optimizer steps on replayed batches; none where there is nothing to learn from."""
        if not len(self._replay):
            return
        with torch.random.fork_rng(
            devices=[]
        ):  # a net's own chances (dropout) go on after a restart as if there was none
            torch.set_rng_state(self._random_state)
            self.net.train()
            for _ in range(num_steps):
                self._step()
            self._random_state = torch.get_rng_state()

    def _step(self) -> None:
        inputs, teacher_BC = self._batch(self._replay.sample(self._settings.batch_size))
        loss = distillation_loss(
            self._forward(inputs)[0],
            torch.from_numpy(teacher_BC),
            relation_weight=self._settings.loss_relation_weight,
            kl_weight=self._settings.loss_kl_weight,
        )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self._settings.max_grad_norm)
        self.num_steps += 1
        if torch.isfinite(norm):
            self._optimizer.step()
        else:  # one such step would leave NaN in every weight, for ever
            self.num_spoilt_steps += 1

    def answers(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the student's outputs by name, the float32 logits [batch, classes] first.

        Raises:
            FormatError: a module of the user's can't take these inputs.
        """
        if self.net.training:
            self.net.eval()
        names = [self._model.output, *(spec.name for spec in self._model.extra_outputs)]
        try:
            with torch.inference_mode():
                return {name: tensor.numpy() for name, tensor in zip(names, self._forward(inputs), strict=True)}
        except Exception as error:  # a supervision point: the user's code may raise anything
            if not self.student.may_raise:
                raise
            raise FormatError(f"the student raises {type(error).__name__} on these inputs: {error}") from error

    def logits(self, inputs: Mapping[str, Array]) -> Array:
        """Return the student's float32 logits [batch, classes]."""
        return self.answers(inputs)[self._model.output]

    def top_classes(self, pairs: Sequence[TrainingPair]) -> list[int | RecordError]:
        """Return the student's class for each pair, or why it has none; rows of one shape are answered together."""
        shapes: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for place, pair in enumerate(pairs):
            shapes.setdefault(tuple(array.shape for array in pair.inputs.values()), []).append(place)
        tops: list[int | RecordError] = [-1] * len(pairs)
        for places in shapes.values():
            for start in range(0, len(places), MAX_ROWS):
                chosen = places[start : start + MAX_ROWS]
                for place, top in zip(chosen, self._tops([pairs[one] for one in chosen]), strict=True):
                    tops[place] = top
        return tops

    def _tops(self, pairs: list[TrainingPair]) -> list[int | RecordError]:
        """Return the classes of pairs of one shape; where the student raises, halves are asked, down to the row that it can't take."""
        try:
            tops: list[int | RecordError] = self.logits(self._batch(pairs)[0]).argmax(axis=1).tolist()
            return tops
        except FormatError as error:
            if len(pairs) == 1:
                return [RecordError(error.message, "student_raises")]
        half = len(pairs) // 2
        return self._tops(pairs[:half]) + self._tops(pairs[half:])

    def held_out(self, num_pairs: int) -> tuple[dict[str, Array], Array]:
        """Return the newest held-out pairs: inputs [n, ...] by name, teacher probabilities [n, classes]; n may be 0."""
        return self._batch(list(self._holdout)[-num_pairs:])

    def _batch(self, pairs: list[TrainingPair]) -> tuple[dict[str, Array], Array]:
        inputs = batch.stack(self._model.inputs, [pair.inputs for pair in pairs])
        if not pairs:
            return inputs, np.zeros((0, self._model.num_classes), np.float32)
        return inputs, np.stack([pair.teacher_probabilities_C for pair in pairs])

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain values; tensors are the learner's own, so dump them before it goes on."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "replay": self._replay.state_dict(),
            "holdout": pack_pairs(list(self._holdout)),
            "num_steps": self.num_steps,
            "num_spoilt_steps": self.num_spoilt_steps,
            "teacher_version": self.teacher_version,
            "times": [self._newest_unix_ns, self._oldest_unix_ns, self._swept_unix_ns],
            "random": self._random_state,
            "scaling": self.student.scaling.state_dict() if self.student.scaling else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described.

        Raises:
            FormatError: it is of another student than [learner] and [model] describe; nothing is changed then.
        """
        mine = {name: tuple(tensor.shape) for name, tensor in self.net.state_dict().items()}
        if mine != {name: tuple(tensor.shape) for name, tensor in state["net"].items()}:
            raise FormatError(
                "the checkpoint is of another student than [learner] and [model] describe",
                fix="Restore these settings, or start with an empty registry",
            )
        self.net.load_state_dict(state["net"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._replay.load_state_dict(state["replay"])
        self._holdout.clear()
        self._holdout.extend(unpack_pairs(state["holdout"]))
        self.num_steps = state["num_steps"]
        self.num_spoilt_steps = state["num_spoilt_steps"]
        self.teacher_version = state["teacher_version"]
        self._newest_unix_ns, self._oldest_unix_ns, self._swept_unix_ns = state["times"]
        self._random_state = state["random"]
        if self.student.scaling:
            self.student.scaling.load_state_dict(state["scaling"])

    def _believes(self, pair: TrainingPair) -> bool:
        """Whether a pair is of the current teacher version, and young enough; a later answer of another one makes that the current one."""
        if pair.time_unix_ns < self._oldest_unix_ns:
            return False
        if pair.teacher_version != self.teacher_version:
            if self.teacher_version and pair.time_unix_ns <= self._newest_unix_ns:
                return False
            self._holdout.clear()
            self._replay.clear()
            self.teacher_version = pair.teacher_version
        self._newest_unix_ns = max(self._newest_unix_ns, pair.time_unix_ns)
        return True

    def _fitted(self, pair: TrainingPair) -> TrainingPair:
        """Return a pair with the model's inputs and no others; one that doesn't fit would stop every later batch."""
        if pair.teacher_probabilities_C.shape != (self._model.num_classes,):
            raise RecordError(
                f"a pair has {pair.teacher_probabilities_C.size} classes, not {self._model.num_classes}", "wrong_shape"
            )
        batch.check_row(self._model.inputs, pair.inputs)
        return dataclasses.replace(pair, inputs={spec.name: pair.inputs[spec.name] for spec in self._model.inputs})

    def _forward(self, inputs: Mapping[str, Array]) -> tuple[torch.Tensor, ...]:
        """Return the logits, and extra outputs after them."""
        answer = self.net(*batch.as_tensors(self._model.inputs, inputs, self._settings.text_bytes))
        return answer if isinstance(answer, tuple) else (answer,)


def is_held_out(input_key: bytes, ratio: float) -> bool:
    """Whether an input is held out: by bytes of its key that the partition doesn't use, so the two are independent."""
    return int.from_bytes(input_key[8:16], "little") < ratio * 2**64
