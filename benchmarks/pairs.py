"""What a benchmark of the stream moves: samples of 1 KiB inputs and 100 classes, handed over as a worker hands them over.

Decides the model and its settings, and fills a ring with them through the real `Capture`. Knows no stream.
"""

from typing import Any

import numpy as np

from protos.records import mint_record_id
from registry.bundle import version_of
from serving.config import ServingSettings
from serving.served import Served
from serving.shadow.capture import Capture
from serving.shadow.ring import Ring

MODEL, NUM_FEATURES, NUM_CLASSES = "stream", 256, 100
#: Digest of the version that answered every row; the loop believes that it is live, and so judges each pair as in earnest.
LIVE = "ab" * 32
SETTINGS: dict[str, dict[str, Any]] = {
    "model": {"name": MODEL, "num_classes": NUM_CLASSES},
    "model.inputs": {"name": "features", "datatype": "FP32", "shape": [-1, NUM_FEATURES]},
    "capture": {"rate": 1.0, "ring_bytes": 128 * 2**20},
    "teacher": {"budget_ratio": 1.0, "budget_burst": 10**9, "max_calls_per_s": 1e9, "max_batch": 64},
    "loop": {"metrics_port": 0, "nice": 0},
}


def settings_with(sections: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the settings with others laid over them, key by key."""
    names = [*SETTINGS, *(name for name in sections if name not in SETTINGS)]
    return {name: {**SETTINGS.get(name, {}), **sections.get(name, {})} for name in names}


class HandOver:
    """The worker's side of the hand-over."""

    def __init__(self, settings: ServingSettings, ring: Ring, seed: int) -> None:
        self._capture = Capture(settings.capture, settings.teacher, settings.model, ring)
        self._rng = np.random.default_rng(seed)
        self._version = version_of(LIVE)

    def offer(self, num_pairs: int) -> None:
        """Hand over so many samples, each of another input."""
        inputs = self._rng.standard_normal((num_pairs, NUM_FEATURES), np.float32)
        logits = self._rng.standard_normal((num_pairs, NUM_CLASSES), np.float32)
        for row in range(num_pairs):
            self._capture.offer(
                Served(
                    record_id=mint_record_id(),
                    inputs={"features": inputs[row : row + 1]},
                    version=self._version,
                    logits_BC=logits[row : row + 1],
                    latency_s=0.001,
                    teacher_output_BC=None,
                    teacher_version="",
                    teacher_latency_s=0.0,
                    parameters={},
                )
            )
