"""A real drifting stream for `benchmarks.gates`: network connections, whose kinds of attack change half-way (the recipe nsl_kdd), its real teacher, and a small student.

The student is a softmax regression on random features, in numpy, that learns from a random tenth of the requests. Every so often it is
frozen as a candidate and compared with the live one on the requests that follow, under each rule: the same learner, the same coins, only the rule differs; the product's makes
room for a learner that has overtaken the candidate. A promotion counts as false where the promoted student agrees with the teacher no more often than the one it replaced on the 2,000 requests that follow its trial.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.gate_rules import Decides
from distill_loop.gates.evidence import Counters, Floats
from distill_loop.gates.promise import FRESH_ROWS, Duel, Outlook, is_overtaken
from distill_loop.gates.rule import Rule
from everstill.recipes import find
from everstill.recipes.recipe import Order
from tests.support.gate_streams import Bools, Ints

LABEL_RATE, FIRST_PAIRS, CUT_EVERY_PAIRS = 0.1, 256, 64
#: Requests that a trial may have here, and must find left; requests that say whether a promotion was right, and how many are taken at a time.
MOST_ROWS, LEAST_ROWS, TRUTH_ROWS, STEP = 4_000, 1_000, 2_000, 32
NUM_FEATURES, MEMORY, BATCH, RATE = 256, 4_096, 64, 0.3


@dataclasses.dataclass(frozen=True)
class Stream:
    """Features [N, F], made ready for the student, and the teacher's class of each row."""

    features: Floats
    teacher: Ints

    def __len__(self) -> int:
        return len(self.teacher)


def load(folder: pathlib.Path, num_requests: int) -> Stream:
    """Return the stream; raises what the recipe raises where its data isn't there."""
    recipe = find("nsl_kdd")
    material = recipe.gather(Order(num_requests, recipe.drift_share, 1, folder, lambda _: None))
    rows = np.concatenate([row["features"] for row in material.rows])
    session = ort.InferenceSession(material.teacher, providers=["CPUExecutionProvider"])
    (said,) = session.run(["probabilities"], {"features": rows})
    head = rows[:2_000]
    scaled = np.clip((rows - head.mean(axis=0)) / (head.std(axis=0) + 0.1), -5, 5).astype(np.float64)
    rng = np.random.default_rng(0)
    mixed = np.maximum(scaled @ rng.normal(size=(rows.shape[1], NUM_FEATURES)) / 6 + rng.normal(size=NUM_FEATURES), 0)
    return Stream(np.concatenate([mixed, scaled, np.ones((len(rows), 1))], axis=1) / 8, said.argmax(axis=1))


class Learner:
    """A softmax regression that learns on."""

    def __init__(self, stream: Stream, seed: int) -> None:
        self._stream = stream
        self._rng = np.random.default_rng(seed)
        self.weights = np.zeros((stream.features.shape[1], int(stream.teacher.max()) + 1))
        self._squares = np.full(self.weights.shape, 1e-3)
        self._memory: list[int] = []
        self.num_pairs = 0

    def take(self, first: int, end: int) -> None:
        """See requests go by: learn from those that the coin takes."""
        asked = first + np.flatnonzero(self._rng.random(end - first) < LABEL_RATE)
        self._memory = (self._memory + asked.tolist())[-MEMORY:]
        self.num_pairs += len(asked)
        for _ in asked:
            old = self._rng.integers(0, len(self._memory), BATCH // 2)
            self._step(np.array(self._memory[-BATCH // 2 :] + [self._memory[place] for place in old]))

    def _step(self, rows: Ints) -> None:
        features, teacher = self._stream.features[rows], self._stream.teacher[rows]
        logits = features @ self.weights
        said = np.exp(logits - logits.max(axis=1, keepdims=True))
        said /= said.sum(axis=1, keepdims=True)
        said[np.arange(len(rows)), teacher] -= 1
        gradient = features.T @ said / len(rows)
        self._squares += gradient**2
        self.weights = self.weights - RATE * gradient / np.sqrt(self._squares)


class Service:
    """A student that serves the stream, a learner beside it, and one rule.

    Args:
        makes_room: whether an open trial ends where the learner has overtaken its candidate, as the product's does.
    """

    def __init__(self, stream: Stream, decides: Decides, seed: int, *, makes_room: bool) -> None:
        self._stream = stream
        self._decides = decides
        self._makes_room = makes_room
        self._learner = Learner(stream, seed)
        self._place = 0
        while self._learner.num_pairs < FIRST_PAIRS:
            self._learner.take(self._place, self._place + STEP)
            self._place += STEP
        self._start, self._live, self._cut_at = self._place, self._learner.weights, self._learner.num_pairs
        self._right, self._calls, self._refreshes = 0, 0, 0
        self._truths: list[float] = []

    def run(self) -> dict[str, Any]:
        """Serve the stream to its end; returns what became of it."""
        while self._place < len(self._stream):
            due = self._learner.num_pairs - self._cut_at >= CUT_EVERY_PAIRS
            if due and self._place + LEAST_ROWS <= len(self._stream):
                self._refresh()
            else:
                self._serve(self._place + STEP)
        return {
            "refreshes": self._refreshes,
            "promotions": len(self._truths),
            "false_promotions": sum(truth <= 0 for truth in self._truths),
            "lost_points": 100 * sum(max(-truth, 0.0) for truth in self._truths),
            "agreement": self._right / (len(self._stream) - self._start),
            "teacher_calls_ratio": (self._calls + self._learner.num_pairs) / len(self._stream),
        }

    def _serve(self, end: int) -> None:
        """Answer requests, and let the learner see them."""
        end = min(end, len(self._stream))
        said = _said(self._stream, self._live, self._place, end)
        self._right += int((said == self._stream.teacher[self._place : end]).sum())
        self._learner.take(self._place, end)
        self._place = end

    def _refresh(self) -> None:
        """Put the learner as it is on trial; where that promotes it, see whether that was right."""
        self._refreshes += 1
        self._cut_at = asked_at = self._learner.num_pairs
        first, candidate = self._place, self._learner.weights
        advantage, differs = _compare(self._stream, candidate, self._live, first, first + MOST_ROWS)
        ends = self._decides(advantage[None])
        end, promoted = first + int(ends.requests[0]), bool(ends.promoted[0])
        while self._place < end:
            self._serve(min(self._place + STEP, end))
            if self._makes_room and self._learner.num_pairs - asked_at >= CUT_EVERY_PAIRS and self._place < end:
                asked_at = self._learner.num_pairs
                if self._is_overtaken(candidate, first, advantage, differs):
                    end, promoted = self._place, False
        self._calls += int(differs[: end - first].sum())
        if promoted:
            after = _compare(self._stream, candidate, self._live, self._place, self._place + TRUTH_ROWS)[0]
            self._truths.append(float(after.mean()) if len(after) else 0.0)
            self._live = candidate

    def _is_overtaken(self, candidate: Floats, first: int, advantage: Ints, differs: Bools) -> bool:
        """Ask the product's rule, on the newest of the trial's rows that the teacher was asked about."""
        num = self._place - first
        asked = np.flatnonzero(differs[:num])[-FRESH_ROWS:]
        features, teacher = self._stream.features[first + asked], self._stream.teacher[first + asked]
        learner, tried, live = (
            ((features @ weights).argmax(axis=1) == teacher).astype(int)
            for weights in (self._learner.weights, candidate, self._live)
        )
        duel = Duel(*(_outlook(ahead) for ahead in (learner - live, tried - live, learner - tried)))
        counted = Counters(int((advantage[:num] > 0).sum()), int((advantage[:num] < 0).sum()), num)
        return is_overtaken(Rule(max_rows=MOST_ROWS), counted, int(differs[:num].sum()), duel)


def _outlook(ahead: Ints) -> Outlook:
    return Outlook(int((ahead > 0).sum()), int((ahead < 0).sum()), len(ahead))


def _said(stream: Stream, weights: Floats, first: int, end: int) -> Ints:
    said: Ints = (stream.features[first:end] @ weights).argmax(axis=1)
    return said


def _compare(stream: Stream, candidate: Floats, live: Floats, first: int, end: int) -> tuple[Ints, Bools]:
    """Return D of the requests from `first` to `end`, and where the two students differ."""
    said = [_said(stream, weights, first, end) for weights in (candidate, live)]
    teacher = stream.teacher[first:end]
    return (said[0] == teacher).astype(np.int64) - (said[1] == teacher), said[0] != said[1]
