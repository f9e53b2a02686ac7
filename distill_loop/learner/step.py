"""The learner: observe pairs, take steps, answer for itself. Everything it is goes into one state dict.

Decides what is held out (by the input's key, so that repeats fall on the same side) and how a step is taken. Knows nothing of
streams, gates or releases. One thread; a restart from `state_dict` goes on bit for bit.
"""

import collections
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
from protos.tensors import Array
from registry.config import ModelSection

#: Newest held-out pairs that are kept.
HOLDOUT_PAIRS = 512


class Learner:
    """A student, its optimizer, its memory and its held-out pairs."""

    def __init__(self, settings: LearnerSection, model: ModelSection) -> None:
        torch.set_num_threads(settings.threads)
        self._settings = settings
        self._model = model
        self.num_steps = 0
        self.teacher_version = ""
        self._holdout: collections.deque[TrainingPair] = collections.deque(maxlen=HOLDOUT_PAIRS)
        self._replay = Replay(ring_pairs=settings.ring_pairs, memory_bytes=settings.memory_bytes, seed=settings.seed)
        torch.manual_seed(settings.seed)
        self.net: nn.Module = ByteWindowNet(settings, model.num_classes, model.inputs[0].shape[-1])
        self._optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    @property
    def num_held_out(self) -> int:
        """Held-out pairs at hand."""
        return len(self._holdout)

    def observe(self, pair: TrainingPair) -> Literal["learned", "held_out"]:
        """Take a pair in, for later steps or for the held-out slice."""
        if pair.teacher_version != self.teacher_version:
            self._holdout.clear()
            self.teacher_version = pair.teacher_version
        if is_held_out(pair.input_key, self._settings.holdout_ratio):
            self._holdout.append(pair)
            return "held_out"
        self._replay.add(pair)
        return "learned"

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
            nn.utils.clip_grad_norm_(self.net.parameters(), self._settings.max_grad_norm)
            self._optimizer.step()
            self.num_steps += 1

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
            empty = {spec.name: np.zeros((0, *spec.shape[1:]), np.int32) for spec in self._model.inputs}
            return empty, np.zeros((0, self._model.num_classes), np.float32)
        inputs = {name: np.concatenate([pair.inputs[name] for pair in pairs]) for name in pairs[0].inputs}
        return inputs, np.stack([pair.teacher_probabilities_C for pair in pairs])

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain values."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "replay": self._replay.state_dict(),
            "holdout": pack_pairs(list(self._holdout)),
            "num_steps": self.num_steps,
            "teacher_version": self.teacher_version,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described."""
        self.net.load_state_dict(state["net"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._replay.load_state_dict(state["replay"])
        self._holdout.clear()
        self._holdout.extend(unpack_pairs(state["holdout"]))
        self.num_steps = state["num_steps"]
        self.teacher_version = state["teacher_version"]

    def _forward(self, inputs: Mapping[str, Array]) -> torch.Tensor:
        logits: torch.Tensor = self.net(*(torch.from_numpy(np.array(inputs[spec.name])) for spec in self._model.inputs))
        return logits


def is_held_out(input_key: bytes, ratio: float) -> bool:
    """Whether an input is held out: by bytes of its key that the partition doesn't use, so the two are independent."""
    return int.from_bytes(input_key[8:16], "little") < ratio * 2**64
