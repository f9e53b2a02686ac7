"""Inputs of `everstill infer`: files and standard input become rows, and rows become requests.

Decides how a value fits a model's input, and says per line why one doesn't. Knows no server: what a model takes arrives as
`TensorSpec`s. Generators, read in the thread that sends; pillow is needed for images only.
"""

import dataclasses
import importlib.util
import json
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from protos.errors import EverstillError, FormatError, UnavailableError
from protos.tensors import BYTES, Array, numpy_type, strings
from registry.sections import TensorSpec

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TEXTS = (".txt",)
JSON_LINES = (".jsonl", ".ndjson", ".json")
CHANNEL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
#: What stands for the only input of a model, whatever its name.
ANY_INPUT = "input"
ID = "id"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line, array row or image: `inputs` are arrays [1, ...], or `error` says why there are none."""

    source: str
    line: int
    inputs: dict[str, Array] = dataclasses.field(default_factory=dict)
    request_id: str | None = None
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Options:
    """How files are read.

    Args:
        text: every line is a text, whatever the file's name.
        resize: whether images are resized to what the model takes.
        scale: what an image's values (0 to 255) are multiplied by.
    """

    text: bool = False
    resize: bool = False
    scale: float = 1.0


def read(files: Sequence[str], stdin: BinaryIO, specs: Sequence[TensorSpec], options: Options) -> Iterator[Row]:
    """Yield each file's rows in order; `-`, or no file, is standard input.

    Raises:
        UnavailableError: a file can't be read. FormatError: it is of no known kind.
    """
    for name in files or ["-"]:
        if name == "-":
            yield from _lines("-", stdin, specs, options.text)
            continue
        path = pathlib.Path(name)
        suffix = path.suffix.lower()
        try:
            if suffix == ".npz" and not options.text:
                yield from _npz(name, path, specs)
            elif suffix in IMAGES and not options.text:
                yield _image(name, path, specs, options)
            elif options.text or suffix in (*TEXTS, *JSON_LINES):
                with path.open("rb") as file:
                    yield from _lines(name, file, specs, options.text or suffix in TEXTS)
            else:
                known = ", ".join((".npz", *TEXTS, *JSON_LINES, *IMAGES))
                raise FormatError(
                    f"{name} is of no known kind", fix=f"Known are {known}; --text reads any file as lines"
                )
        except OSError as error:
            raise UnavailableError(f"cannot read {name}: {error.strerror or error}") from None


def batches(rows: Iterable[Row], most: int) -> Iterator[list[Row]]:
    """Yield up to `most` neighbouring rows of equal trailing shapes together; a row with an error stands alone."""
    waiting: list[Row] = []
    for row in rows:
        joins = waiting and not row.error and row.request_id is None and len(waiting) < most
        if waiting and not (joins and _shapes(row) == _shapes(waiting[0])):
            yield waiting
            waiting = []
        if row.error or row.request_id is not None:
            yield [row]
        else:
            waiting.append(row)
            if len(waiting) == most:
                yield waiting
                waiting = []
    if waiting:
        yield waiting


def join(rows: Sequence[Row]) -> dict[str, Array]:
    """Return a batch's inputs."""
    return {name: np.concatenate([row.inputs[name] for row in rows]) for name in rows[0].inputs}


def as_row(spec: TensorSpec, value: Any) -> Array:
    """Return a JSON value as one row [1, ...] of an input.

    Raises:
        FormatError: it doesn't fit the input's datatype or shape.
    """
    array = _texts(spec, value) if spec.datatype == BYTES else _numbers(spec, value)
    wanted = spec.shape[1:]
    if array.ndim == len(wanted) + 1 and len(array) == 1:
        array = array[0]  # written with its batch of one
    if array.ndim != len(wanted) or any(want not in (-1, have) for want, have in zip(wanted, array.shape, strict=True)):
        if array.ndim == 0 and spec.datatype == BYTES and wanted == (1,):
            return array.reshape(1, 1)
        raise FormatError(f"input {spec.name!r} has shape {list(array.shape)}, the model takes {list(wanted)} a row")
    return array[None]


def _lines(source: str, file: BinaryIO, specs: Sequence[TensorSpec], text: bool) -> Iterator[Row]:
    for number, raw in enumerate(file, start=1):
        line = raw.rstrip(b"\r\n")
        if not line.strip():
            continue
        try:
            yield _text(source, number, line, specs) if text else _json(source, number, line, specs)
        except EverstillError as error:
            yield Row(source, number, error=str(error))


def _text(source: str, number: int, line: bytes, specs: Sequence[TensorSpec]) -> Row:
    if len(specs) != 1 or specs[0].datatype != BYTES:
        taken = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in specs)
        raise FormatError("the model takes no text", fix=f"It takes {taken}: give JSON lines or npz")
    return Row(source, number, {specs[0].name: strings([line]).reshape(1, *[1] * (len(specs[0].shape) - 1))})


def _json(source: str, number: int, line: bytes, specs: Sequence[TensorSpec]) -> Row:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise FormatError(f"not JSON: {error}", fix="Write one JSON value a line, or use --text") from None
    if not isinstance(value, dict):
        if len(specs) != 1:
            raise FormatError("a bare value, but the model has several inputs", fix=f"Name them: {_names(specs)}")
        value = {specs[0].name: value}
    names = {spec.name for spec in specs}
    request_id = str(value.pop(ID)) if ID in value and ID not in names else None
    if len(specs) == 1 and specs[0].name not in value and ANY_INPUT in value:
        value[specs[0].name] = value.pop(ANY_INPUT)
    if unknown := value.keys() - names:
        raise FormatError(f"unknown input {sorted(unknown)[0]!r}", fix=f"The model takes {_names(specs)}")
    if missing := names - value.keys():
        raise FormatError(f"input {sorted(missing)[0]!r} is missing", fix=f"The model takes {_names(specs)}")
    return Row(source, number, {spec.name: as_row(spec, value[spec.name]) for spec in specs}, request_id)


def _texts(spec: TensorSpec, value: Any) -> Array:
    array = np.array(value, dtype=object)
    flat = [array.item()] if array.ndim == 0 else array.reshape(-1).tolist()
    if not all(isinstance(one, str) for one in flat):
        raise FormatError(f"input {spec.name!r} takes texts", fix="Write them as JSON strings")
    texts = strings(flat)
    return texts.reshape(array.shape)


def _numbers(spec: TensorSpec, value: Any) -> Array:
    dtype = numpy_type(spec.datatype)
    try:
        given = np.array(value)
    except ValueError:
        raise FormatError(f"input {spec.name!r} is a list of lists of different lengths") from None
    if given.size == 0:
        given = given.astype(dtype)
    kinds = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    if given.dtype.kind not in kinds:
        found = "texts" if given.dtype.kind == "U" else "values of another kind"
        raise FormatError(f"input {spec.name!r} is {spec.datatype} and has {found}")
    _refuse_outside(spec, given)
    return given.astype(dtype)


def _refuse_outside(spec: TensorSpec, given: Array, fix: str = "") -> None:
    """Raise FormatError where an integer of the input's datatype can't hold a value: numpy would wrap it without a word."""
    dtype = numpy_type(spec.datatype)
    if dtype.kind in "iu" and given.size:
        limits = np.iinfo(dtype)
        if not (given.min() >= limits.min and given.max() <= limits.max):  # so that no NaN passes
            raise FormatError(f"input {spec.name!r} has a value outside the range of {spec.datatype}", fix=fix)


def _npz(source: str, path: pathlib.Path, specs: Sequence[TensorSpec]) -> Iterator[Row]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile) as error:
        raise FormatError(f"{source} is not an npz file of plain arrays: {error}") from None
    if len(specs) == 1 and len(arrays) == 1 and specs[0].name not in arrays:
        arrays = {specs[0].name: next(iter(arrays.values()))}
    if missing := [spec.name for spec in specs if spec.name not in arrays]:
        raise FormatError(f"{source} has no array {missing[0]!r}", fix=f"It has {', '.join(sorted(arrays))}")
    lengths = {len(arrays[spec.name]) if arrays[spec.name].ndim else 0 for spec in specs}
    if len(lengths) != 1:
        raise FormatError(f"{source} has arrays of different lengths: {sorted(lengths)}")
    for number in range(lengths.pop()):
        try:
            row = {spec.name: _array_row(spec, arrays[spec.name][number]) for spec in specs}
            yield Row(source, number + 1, row)
        except FormatError as error:
            yield Row(source, number + 1, error=str(error))


def _array_row(spec: TensorSpec, value: Any) -> Array:
    return as_row(
        spec, value.tolist() if isinstance(value, np.ndarray | np.generic) and spec.datatype == BYTES else value
    )


def _image(source: str, path: pathlib.Path, specs: Sequence[TensorSpec], options: Options) -> Row:
    if importlib.util.find_spec("PIL") is None:
        raise UnavailableError("images need pillow, which is not installed", fix="Install everstill[images]")
    from PIL import Image, UnidentifiedImageError  # an extra that only this function needs

    try:
        height, width, channels, first = image_layout(specs)
        with Image.open(path) as opened:
            image = opened.convert(CHANNEL_MODES[channels])
        if any(want not in (-1, have) for want, have in zip((width, height), image.size, strict=True)):
            if not options.resize or -1 in (width, height):
                raise FormatError(
                    f"the image is {image.width} x {image.height}, the model takes {width} x {height}",
                    fix="Give --resize to have it resized",
                )
            image = image.resize((width, height))
        pixels = np.asarray(image)
        if options.scale != 1.0:
            pixels = pixels * options.scale
        _refuse_outside(specs[0], pixels, fix="Give another --scale: an image's values are 0 to 255 before it")
    except UnidentifiedImageError:
        return Row(source, 1, error="not an image that pillow knows")
    except EverstillError as error:
        return Row(source, 1, error=str(error))
    spec = specs[0]
    if channels > 1 and first:
        pixels = np.moveaxis(pixels, -1, 0)
    rank = len(spec.shape) - 1
    if rank == 3 and channels == 1:
        pixels = pixels[None] if first else pixels[..., None]
    return Row(source, 1, {spec.name: pixels[None].astype(numpy_type(spec.datatype))})


def image_layout(specs: Sequence[TensorSpec]) -> tuple[int, int, int, bool]:
    """Return (height, width, channels, channels first) of a model's image input.

    Raises:
        FormatError: its input is none.
    """
    shape = specs[0].shape[1:]
    if len(specs) == 1 and specs[0].datatype != BYTES:
        if len(shape) == 2:
            return shape[0], shape[1], 1, False
        if len(shape) == 3 and shape[2] in CHANNEL_MODES:
            return shape[0], shape[1], shape[2], False
        if len(shape) == 3 and shape[0] in CHANNEL_MODES:
            return shape[1], shape[2], shape[0], True
    taken = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in specs)
    raise FormatError(f"the model takes no image, but {taken}")


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs)


def _shapes(row: Row) -> list[tuple[int, ...]]:
    return [array.shape[1:] for array in row.inputs.values()]
