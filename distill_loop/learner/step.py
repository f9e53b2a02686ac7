"""The learner: observe pairs, take steps, answer for itself. Everything it is goes into one state dict.

Decides what is held out (by the input's key, so that repeats fall on the same side), which teacher version is believed, and how a
step is taken. Knows nothing of streams, gates or releases. One thread; a restart from `state_dict` goes on bit for bit.
Shape suffixes: B batch, C classes.
"""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from distill_loop.config import LearnerSection
from distill_loop.learner.loss import distillation_loss
from distill_loop.learner.pair import TrainingPair
from distill_loop.learner.replay import Replay, pack_pairs, unpack_pairs
from distill_loop.learner.student import ByteWindowNet
from protos.errors import ConfigurationError, FormatError
from protos.tensors import Array, datatype_of, numpy_type
from registry.config import ModelSection

#: Newest held-out pairs that are kept.
HOLDOUT_PAIRS = 512


class Learner:
    """A student, its optimizer, its memory and its held-out pairs.

    Raises:
        ConfigurationError: the student can't read the model's inputs.
    """

    def __init__(self, settings: LearnerSection, model: ModelSection) -> None:
        _check_window(model)
        torch.set_num_threads(settings.threads)
        self._settings = settings
        self._model = model
        self.num_steps = 0
        self.num_spoilt_steps = 0
        self.teacher_version = ""
        self._newest_unix_ns = 0
        self._holdout: collections.deque[TrainingPair] = collections.deque(maxlen=HOLDOUT_PAIRS)
        self._replay = Replay(ring_pairs=settings.ring_pairs, memory_bytes=settings.memory_bytes, seed=settings.seed)
        torch.manual_seed(settings.seed)
        self.net: nn.Module = ByteWindowNet(settings, model.num_classes, model.inputs[0].shape[-1])
        self._optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

    @property
    def num_held_out(self) -> int:
        """Held-out pairs at hand."""
        return len(self._holdout)

    def observe(self, pair: TrainingPair) -> Literal["learned", "held_out"]:
        """Take a pair in, for later steps or for the held-out slice.

        A newer teacher version makes what the older one said worthless: it is forgotten. An answer of the older one that comes
        late (partitions are read in turn, spools drain) is taken in without effect.

        Raises:
            FormatError: its inputs are not the model's.
        """
        pair = self._fitted(pair)
        held_out = is_held_out(pair.input_key, self._settings.holdout_ratio)
        if self._believes(pair):
            if held_out:
                self._holdout.append(pair)
            else:
                self._replay.add(pair)
        return "held_out" if held_out else "learned"

    def learn(self, num_steps: int) -> None:
        """Take optimizer steps on replayed batches; none where there is nothing to learn from."""
        self.net.train()
        for _ in range(num_steps if len(self._replay) else 0):
            inputs, teacher_BC = self._replay.sample(self._settings.batch_size)
            loss = distillation_loss(
                self._forward(inputs),
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

    def logits(self, inputs: Mapping[str, Array]) -> Array:
        """Return the student's float32 logits [batch, classes]."""
        self.net.eval()
        with torch.inference_mode():
            logits: Array = self._forward(inputs).numpy()
        return logits

    def held_out(self, num_pairs: int) -> tuple[dict[str, Array], Array]:
        """Return the newest held-out pairs: inputs [n, ...] by name, teacher probabilities [n, classes]; n may be 0."""
        pairs = list(self._holdout)[-num_pairs:]
        if not pairs:
            empty = {
                spec.name: np.zeros((0, *spec.shape[1:]), numpy_type(spec.datatype)) for spec in self._model.inputs
            }
            return empty, np.zeros((0, self._model.num_classes), np.float32)
        inputs = {name: np.concatenate([pair.inputs[name] for pair in pairs]) for name in pairs[0].inputs}
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
            "newest_unix_ns": self._newest_unix_ns,
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
        self._newest_unix_ns = state["newest_unix_ns"]

    def _believes(self, pair: TrainingPair) -> bool:
        """Whether a pair is of the current teacher version; a later answer of another one makes that the current one."""
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
            raise FormatError(f"a pair has {pair.teacher_probabilities_C.size} classes, not {self._model.num_classes}")
        for spec in self._model.inputs:
            array = pair.inputs.get(spec.name)
            if array is None:
                raise FormatError(f"a pair has no input {spec.name!r}")
            if datatype_of(array) != spec.datatype or array.shape != (1, *spec.shape[1:]):
                raise FormatError(
                    f"a pair's input {spec.name!r} is {datatype_of(array)} {list(array.shape)}, "
                    f"[model] says {spec.datatype} {[1, *spec.shape[1:]]}"
                )
        return dataclasses.replace(pair, inputs={spec.name: pair.inputs[spec.name] for spec in self._model.inputs})

    def _forward(self, inputs: Mapping[str, Array]) -> torch.Tensor:
        logits: torch.Tensor = self.net(*(torch.from_numpy(np.array(inputs[spec.name])) for spec in self._model.inputs))
        return logits


def is_held_out(input_key: bytes, ratio: float) -> bool:
    """Whether an input is held out: by bytes of its key that the partition doesn't use, so the two are independent."""
    return int.from_bytes(input_key[8:16], "little") < ratio * 2**64


def _check_window(model: ModelSection) -> None:
    """Refuse a model whose inputs the byte-window student can't read."""
    spec = model.inputs[0]
    shape = spec.shape[1:]
    whole = spec.datatype in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16")
    if len(model.inputs) != 1 or not whole or len(shape) != 1 or shape[0] < 64 or shape[0] % 2:
        raise ConfigurationError(
            f"learner.student byte_window can't read the inputs of model {model.name!r}",
            fix="Give it one integer input [-1, L] with L even and at least 64",
        )
