"""The names of a classifier's classes, read from the bytes of an ONNX file: what scikit-learn's and LightGBM's converters leave.

Walks protobuf's wire format as far as model, graph, node and attribute (fields 7, 1 and 5 of onnx.proto), since a gateway host
has no `onnx` package and ONNX Runtime doesn't show attributes. What it doesn't understand it skips. Pure; any thread.
"""

from collections.abc import Iterator

#: Attributes of ai.onnx.ml that hold class labels, as texts or as numbers.
ATTRIBUTES = (b"classlabels_strings", b"classlabels_int64s", b"classlabels_ints")
MODEL_GRAPH, GRAPH_NODE, NODE_ATTRIBUTE = 7, 1, 5
ATTRIBUTE_NAME, ATTRIBUTE_INTS, ATTRIBUTE_STRINGS = 1, 8, 9
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Field = tuple[int, int | memoryview]


def class_labels(model: memoryview) -> list[str] | None:
    """Return the labels of the last node that names classes, or None."""
    labels: list[str] | None = None
    try:
        for graph in _parts(model, MODEL_GRAPH):
            for node in _parts(graph, GRAPH_NODE):
                for attribute in _parts(node, NODE_ATTRIBUTE):
                    labels = _labels_of(attribute) or labels
    except (ValueError, IndexError):  # not what onnx.proto says; ONNX Runtime judges the file, this doesn't
        return None
    return labels


def _labels_of(attribute: memoryview) -> list[str]:
    fields = list(_fields(attribute))
    names = [bytes(value) for number, value in fields if number == ATTRIBUTE_NAME and isinstance(value, memoryview)]
    if not any(name in ATTRIBUTES for name in names):
        return []
    labels: list[str] = []
    for number, value in fields:
        if number == ATTRIBUTE_STRINGS and isinstance(value, memoryview):
            labels.append(bytes(value).decode())
        elif number == ATTRIBUTE_INTS:
            labels.extend(str(_signed(one)) for one in ([value] if isinstance(value, int) else _packed(value)))
    return labels


def _parts(message: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, value in _fields(message):
        if number == wanted and isinstance(value, memoryview):
            yield value


def _fields(message: memoryview) -> Iterator[Field]:
    """Yield the fields of a message, by number: numbers as they are, texts and messages as views."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == BYTES:
            size, place = _varint(message, place)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}")
        if place + size > len(message):
            raise ValueError("a field is cut short")
        if kind == BYTES:
            yield number, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, place


def _packed(values: memoryview) -> Iterator[int]:
    place = 0
    while place < len(values):
        value, place = _varint(values, place)
        yield value


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
