"""The recipe nsl_kdd: features of network connections, five groups of attack; the drift is kinds of attack unseen before.

Decides how a line of the data becomes features (categories by their index, then signed log1p) and that the rows keep the data's
order: first those of its training file, then those of its test file. The teacher is a gradient-boosted model, an ONNX file; the
rows that it was fitted on are left out. Data and teacher can't be shipped and are read from EVERSTILL_DATA/nsl_kdd.
"""

import csv
import gzip
import io
import json
import pathlib
from typing import Any

import numpy as np

from everstill.recipes.recipe import Material, Order, Recipe, evenly, outside_data
from protos.tensors import Array

BEFORE_FILE, AFTER_FILE = "KDDTrain+_20Percent.txt.gz", "KDDTest+.txt.gz"
FILES = (BEFORE_FILE, AFTER_FILE, "schema.json", "split.npz", "teacher_lgbm.onnx")
SOURCE = (
    "NSL-KDD (University of New Brunswick; a copy: github.com/ddrogers/R-intrusion-detection-demo), don't redistribute, and a "
    "LightGBM model of five groups fitted on the rows that split.npz names, as ONNX with input features FP32 [-1,41] and output "
    "probabilities"
)
NUM_FEATURES = 41


def gather(order: Order) -> Material:
    """Return the stream: every row that the teacher wasn't fitted on, or an evenly thinned part of it, in the data's order."""
    folder = outside_data("nsl_kdd", FILES, SOURCE)
    schema = json.loads((folder / "schema.json").read_text())
    fitted = np.unpackbits(np.load(folder / "split.npz")["teacher_train"]).astype(bool)
    order.on_progress("reading connections")
    before, after = (read(folder / name, schema) for name in (BEFORE_FILE, AFTER_FILE))
    before_rows = before[~fitted[: len(before)]]
    after_rows = after[~fitted[len(before) : len(before) + len(after)]]
    wanted = min(order.num_requests, len(before_rows) + len(after_rows))
    num_before = round(wanted * order.drift_share)
    chosen = [
        before_rows[evenly(len(before_rows), num_before)],
        after_rows[evenly(len(after_rows), wanted - num_before)],
    ]
    rows = [{"features": row[None]} for part in chosen for row in part]
    return Material(rows, (len(chosen[0]),), str((folder / "teacher_lgbm.onnx").resolve()), tuple(schema["classes"]))


def read(path: pathlib.Path, schema: dict[str, Any]) -> Array:
    """Return a file's rows as float32 [rows, 41]: categories by their place in the schema's lists, then signed log1p."""
    columns: list[str] = schema["columns"]
    places = {
        columns.index(name): {value: float(place) for place, value in enumerate(values)}
        for name, values in schema["categories"].items()
    }
    with gzip.open(path) as file:
        lines = list(csv.reader(io.TextIOWrapper(file)))
    values = np.array(
        [
            [places[place][text] if place in places else float(text) for place, text in enumerate(line[:NUM_FEATURES])]
            for line in lines
        ],
        np.float32,
    )
    return np.sign(values) * np.log1p(np.abs(values))


RECIPE = Recipe(
    name="nsl_kdd",
    summary="tabular: features of network connections, five groups of attack, then attacks unseen before",
    num_requests=20_000,
    whole=28_587,
    requests_per_s=100.0,
    drift_share=15_003 / 28_587,
    requests_for_a_swap=2000,
    gathering="reading network connections; kinds of attack unseen before come later",
    rows_are="connections",
    after_drift="kinds of attack that were not there before began to come",
    gather=gather,
    scoring_batch=64,
    waits=True,
)
