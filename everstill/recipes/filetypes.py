"""The recipe filetypes: real files of this machine's own Python, then kinds of file that the standard library makes from them.

Decides what is read and in which order; nothing is downloaded. Phase 1 is source, compiled and text files of the standard library
and the installed packages. Phase 2, the drift, is archives, compressed streams, pickles, databases, pictures and so on, made by
the standard library from files that phase 1 doesn't show, with some unseen files of phase 1 among them. Kinds are capped, equal
inputs dropped, the order is seeded. The teacher is the model inside the magika wheel.
"""

import dataclasses
import importlib.util
import marshal
import pathlib
import random
import sysconfig
import warnings
from collections.abc import Callable, Iterator

import numpy as np

from everstill.recipes.kinds import MAKERS
from everstill.recipes.recipe import Material, Order, Recipe
from protos.errors import UnavailableError
from protos.tensors import Array

#: The teacher's window: bytes from the start of a content and from its end, 256 being padding.
WINDOW, HALF, PADDING = 2048, 1024, 256
#: The teacher looks no further into a content.
READ_BYTES = 4096
#: Real kinds of phase 1 by suffix, and how many of each are enough.
PHASE_1_CAPS = {
    ".py": 1000, ".pyc": 500, ".txt": 150, ".rst": 120, ".md": 120, ".ini": 60, ".cfg": 60, ".toml": 60, ".json": 120, ".h": 300,
    ".c": 60, ".cpp": 60, ".hpp": 120, ".pyi": 150, ".csv": 60, ".xml": 60, ".html": 60, ".css": 60, ".js": 60, ".sh": 60, ".pem": 30,
    ".f": 30, ".f90": 60, ".cmake": 80, ".so": 60, ".yaml": 60, ".yml": 60, "METADATA": 60, "RECORD": 60,
}  # fmt: skip
SMALLEST_BYTES, LARGEST_BYTES = 64, 2_000_000
#: Share of phase 2 that is unseen files of phase 1: the old world doesn't vanish.
OLD_SHARE = 0.15


@dataclasses.dataclass(frozen=True)
class Item:
    """One input: its kind by name or maker (not a label: labels are the teacher's opinion) and its features int32 [1, 2048]."""

    kind: str
    features: Array


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Inputs in order; the drift is at index `drift`."""

    items: list[Item]
    drift: int


def features(content: bytes) -> Array:
    """Return what the magika model reads of a content, int32 [1, 2048].

    1,024 bytes from the start without leading white space, then 1,024 from the end without trailing white space, both out of
    the first and last 4,096 bytes; the first half is padded on its right, the second on its left.
    """
    start = content[:READ_BYTES].lstrip()[:HALF]
    end = content[-READ_BYTES:].rstrip()[-HALF:]
    window = np.full((1, WINDOW), PADDING, np.int32)
    window[0, : len(start)] = np.frombuffer(start, np.uint8)
    if end:
        window[0, WINDOW - len(end) :] = np.frombuffer(end, np.uint8)
    return window


def collect(
    num_before: int, num_after: int, seed: int, on_progress: Callable[[str, int], None] = lambda *_: None
) -> Corpus:
    """Return the inputs of a stream.

    Args:
        num_before, num_after: inputs wanted before and after the drift; fewer where the machine has fewer.
        on_progress: told the phase's name and the number of inputs so far.

    Raises:
        UnavailableError: this Python has too few files.
    """
    rng = random.Random(seed)
    paths = _candidates(rng)
    taken: set[bytes] = set()
    before = _take(_real_items(paths), num_before, taken, lambda count: on_progress("files of this Python", count))
    sources = [path for path in paths if path.suffix in (".py", ".h", ".txt", ".rst", ".md", ".pyi")]
    rng.shuffle(sources)
    num_old = int(num_after * OLD_SHARE)
    after = _take(
        _made_items(sources, num_after),
        num_after - num_old,
        taken,
        lambda count: on_progress("files made from them", count),
    )
    after += _take(_real_items(paths), num_old, taken, lambda count: on_progress("more files of this Python", count))
    if len(before) < num_before // 2 or len(after) < num_after // 2:
        raise UnavailableError(
            f"this Python has only {len(before)} + {len(after)} usable files", fix="Ask for fewer --requests"
        )
    rng.shuffle(before)
    rng.shuffle(after)
    return Corpus(before + after, len(before))


def gather(order: Order) -> Material:
    """Return the stream of this machine's files."""
    drift = int(order.num_requests * order.drift_share)
    inputs = collect(
        drift, order.num_requests - drift, order.seed, lambda what, count: order.on_progress(f"{count:,} {what}")
    )
    return Material([{"bytes": item.features} for item in inputs.items], (inputs.drift,), "magika")


def _candidates(rng: random.Random) -> list[pathlib.Path]:
    """Return real files of phase 1's kinds, shuffled, each kind capped at a few times what is shown of it."""
    roots = dict.fromkeys(
        pathlib.Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib", "include")
    )
    by_kind: dict[str, list[pathlib.Path]] = {kind: [] for kind in PHASE_1_CAPS}
    for root in roots:
        for path in sorted(root.rglob("*")) if root.is_dir() else []:
            kind = _kind(path)
            if kind in by_kind and path.is_file() and SMALLEST_BYTES <= path.stat().st_size <= LARGEST_BYTES:
                by_kind[kind].append(path)
    if not by_kind[".pyc"]:
        by_kind[".pyc"] = by_kind[".py"]  # installers that don't compile leave none: they are compiled here
    chosen: list[pathlib.Path] = []
    for kind, paths in by_kind.items():
        rng.shuffle(paths)
        chosen += paths[: PHASE_1_CAPS[kind] + 200]
    rng.shuffle(chosen)
    return chosen


def _kind(path: pathlib.Path) -> str:
    return path.name if path.name in PHASE_1_CAPS else path.suffix


def _real_items(paths: list[pathlib.Path]) -> Iterator[Item]:
    """Yield real files' inputs, each kind up to its cap."""
    counts = dict.fromkeys(PHASE_1_CAPS, 0)
    compile_sources = not any(path.suffix == ".pyc" for path in paths)
    for path in paths:
        kind = _kind(path)
        if counts[kind] < PHASE_1_CAPS[kind]:
            counts[kind] += 1
            yield Item(kind, features(_read(path)))
        if compile_sources and kind == ".py" and counts[".pyc"] < PHASE_1_CAPS[".pyc"]:
            counts[".pyc"] += 1
            compiled = _compiled(path)
            if compiled:
                yield Item(".pyc", features(compiled))


def _compiled(path: pathlib.Path) -> bytes:
    """Return a source as the import system would cache it, or nothing where it can't be compiled."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(_read(path), path.name, "exec")
    except (SyntaxError, ValueError):
        return b""
    return importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code)


def _made_items(sources: list[pathlib.Path], wanted: int) -> Iterator[Item]:
    """Yield made inputs, the kinds in turn, until each source was used a few times."""
    for turn in range(1 + 4 * wanted // max(1, len(sources))):
        for place, path in enumerate(sources):
            name = list(MAKERS)[(place + turn) % len(MAKERS)]
            yield Item(name, features(MAKERS[name](_read(path), place + turn * len(sources))))


def _take(items: Iterator[Item], wanted: int, taken: set[bytes], on_progress: Callable[[int], None]) -> list[Item]:
    """Return the first inputs that equal none before."""
    chosen: list[Item] = []
    for item in items:
        key = item.features.tobytes()
        if key in taken:
            continue
        taken.add(key)
        chosen.append(item)
        if len(chosen) % 100 == 0:
            on_progress(len(chosen))
        if len(chosen) == wanted:
            break
    on_progress(len(chosen))
    return chosen


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


RECIPE = Recipe(
    name="filetypes",
    summary="bytes: files of this machine's Python, 214 kinds, then kinds made from them",
    num_requests=4800,
    whole=4800,
    requests_per_s=24.0,
    drift_share=0.5,
    requests_for_a_swap=1500,
    gathering="gathering real files of this Python, and making others from them",
    rows_are="inputs",
    after_drift="the inputs changed",
    gather=gather,
)
