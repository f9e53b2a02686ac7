"""What a recipe is: a stream of inputs that turns at a known place, a teacher for it, and the settings that a service of it runs with.

Decides the words that the demo's story and a recipe share, and where data is read from that may not be shipped (EVERSTILL_DATA).
Knows no recipe and starts no process. A recipe's module makes one `Recipe`; the demo asks it to `gather`. Pure but for
reading files; any thread.
"""

import dataclasses
import importlib.resources
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from protos.errors import UnavailableError
from protos.tensors import Array

#: The variable that names the folder of data that can't be shipped.
DATA_VARIABLE = "EVERSTILL_DATA"
#: What a template's placeholders stand for is put in as TOML; JSON's strings and lists are TOML's too.
PLACEHOLDER = "@{}@"

#: One request's inputs: arrays [1, ...] by tensor name.
Row = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Order:
    """What is asked of a recipe.

    Args:
        num_requests: rows wanted; a recipe may have fewer.
        drift_share: share of them before the first drift.
        seed: of the rows' choice and order.
        folder: where a recipe may put files that it makes, e.g. a teacher.
        on_progress: told in words how far gathering is.
    """

    num_requests: int
    drift_share: float
    seed: int
    folder: pathlib.Path
    on_progress: Callable[[str], None] = lambda _: None


@dataclasses.dataclass(frozen=True)
class Material:
    """A recipe's stream.

    Args:
        rows: each request's inputs, in stream order.
        drifts: indices of rows at which the traffic turns; the frozen student stops at the first.
        teacher: the teacher's ONNX file, or `magika` for the one inside that wheel.
        labels: names of the classes, in the order of the output, or none.
    """

    rows: Sequence[Row]
    drifts: tuple[int, ...]
    teacher: str
    labels: tuple[str, ...] = ()

    @property
    def drift(self) -> int:
        """The first drift."""
        return self.drifts[0]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One stream with its teacher and its settings.

    Args:
        name: as in `everstill demo --recipe NAME`; its template is NAME.toml beside this module.
        summary: what the stream is, for people.
        num_requests, requests_per_s, drift_share: what the demo does where nothing else is asked.
        whole: rows of the whole stream.
        requests_for_a_swap: requests after which the gate has usually promoted something.
        gathering: what is said while rows are gathered.
        rows_are: what a row is, in the plural.
        after_drift: what the traffic becomes.
        gather: makes the stream; raises UnavailableError where its data is not at hand.
        scoring_batch: rows in one call while the demo scores; 1 for a teacher that batches badly.
        waits: whether the client waits for a loop that falls behind: a stream that is played faster than real time.
    """

    name: str
    summary: str
    num_requests: int
    whole: int
    requests_per_s: float
    drift_share: float
    requests_for_a_swap: int
    gathering: str
    rows_are: str
    after_drift: str
    gather: Callable[[Order], Material]
    scoring_batch: int = 1
    waits: bool = False

    def settings(self, values: Mapping[str, Any]) -> str:
        """Return the recipe's everstill.toml with its placeholders filled in.

        Args:
            values: by placeholder, e.g. {"TEACHER": "127.0.0.1:8101"}; what the template doesn't hold is passed over.
        """
        text = importlib.resources.files("everstill.recipes").joinpath(f"{self.name}.toml").read_text()
        for name, value in values.items():
            text = text.replace(PLACEHOLDER.format(name), json.dumps(value))
        return text


def outside_data(name: str, files: Sequence[str], source: str) -> pathlib.Path:
    """Return the folder of data that can't be shipped, having looked for its files.

    Args:
        name: of the folder inside EVERSTILL_DATA.
        files: that must be there.
        source: where the public can get it, with its licence.

    Raises:
        UnavailableError: the variable is not set, or a file is missing.
    """
    where = os.environ.get(DATA_VARIABLE, "")
    if not where:
        raise UnavailableError(
            f"the recipe {name} reads data that can't be shipped, and {DATA_VARIABLE} is not set",
            fix=f"Set {DATA_VARIABLE}=DIR with {', '.join(files)} in DIR/{name}; public source: {source}",
        )
    folder = pathlib.Path(where) / name
    for file in files:
        if not (folder / file).is_file():
            raise UnavailableError(
                f"the recipe {name} needs {file} in {folder} ({DATA_VARIABLE}={where}), which is not there",
                fix=f"Public source: {source}",
            )
    return folder


def evenly(num_rows: int, wanted: int) -> list[int]:
    """Return the places of at most `wanted` of `num_rows` rows, evenly spread and in order: a shorter stream of the same story."""
    wanted = min(wanted, num_rows)
    return [place * num_rows // wanted for place in range(wanted)]
