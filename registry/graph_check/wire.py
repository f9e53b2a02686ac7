"""Reads a protobuf message without building it: which fields stand where, and nothing of what is inside large ones.

Decides which bytes are a message at all, and is stricter than protobuf's own parsers where these would mend or merge: a field that stands once
may not stand twice, one that is known has its own wire type, groups have no place. Fields that a schema doesn't know are passed over, as ONNX
Runtime does. A walk is bounded by the number of fields, so that a file of nothing but fields ends too. Pure; one reader to a thread.
"""

import mmap
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from protos.errors import FormatError, plain

#: Wire types of protobuf.
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
#: Fields in one file; a second's walk or two.
MAX_FIELDS = 2_000_000
#: Runs of scalars that aren't packed (an attribute's floats and ints) are passed over at once: trees have millions. `++` keeps no way back.
_RUNS = {
    7: re.compile(rb"(?:\x3d[\x00-\xff]{4})++", re.DOTALL),
    8: re.compile(rb"(?:\x40[\x80-\xff]{0,9}[\x00-\x7f])++"),
}

Reason = Literal[
    "bad_protobuf",
    "bad_graph",
    "bad_tensor",
    "bad_sparse",
    "external_data",
    "forbidden_operator",
    "new_opset",
    "too_deep",
    "too_many_nodes",
    "wrong_graph",
]


class GraphError(FormatError):
    """A graph that nobody should load. `reason` is a short slug for metrics."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(plain(message), fix="It is not loaded; publish the version again")
        self.reason = reason


class Span(NamedTuple):
    """Where something stands, from its first byte up to the one after its last."""

    start: int
    end: int

    @property
    def num_bytes(self) -> int:
        """How long it is."""
        return self.end - self.start


class Field(NamedTuple):
    """What a schema says of a field: its wire type, whether it may stand more than once, and whether its scalars may be packed.

    run: unpacked scalars of which only the place is wanted.
    """

    wire: int
    many: bool = False
    packable: bool = False
    run: bool = False


Schema = Mapping[int, Field]
ONE_INT, ONE_TEXT = Field(VARINT), Field(LENGTH)
MANY_TEXTS = Field(LENGTH, many=True)
MANY_INTS = Field(VARINT, many=True, packable=True)


class Message:
    """The fields of one message, by number: integers of varints, spans of all else."""

    def __init__(self, fields: dict[int, list[int | Span]]) -> None:
        self._fields = fields

    def spans(self, number: int) -> list[Span]:
        """Return where the fields of this number stand."""
        return [one for one in self._fields.get(number, ()) if isinstance(one, Span)]

    def span(self, number: int) -> Span | None:
        """Return where the one field of this number stands, None where there is none."""
        return next(iter(self.spans(number)), None)

    def ints(self, number: int) -> list[int]:
        """Return the integers of this number, signed."""
        return [signed(one) for one in self._fields.get(number, ()) if isinstance(one, int)]

    def integer(self, number: int, default: int = 0) -> int:
        """Return the one integer of this number, signed."""
        return next(iter(self.ints(number)), default)


class Reader:
    """Reads messages of one file."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data = data
        self._left = MAX_FIELDS

    def message(self, span: Span, schema: Schema, what: str) -> Message:
        """Return a message's fields that the schema knows.

        Raises:
            GraphError: these bytes are no message, or one that two readers could read differently.
        """
        fields: dict[int, list[int | Span]] = {}
        data, (place, end) = self.data, span
        while place < end:
            self._left -= 1
            if self._left < 0:
                raise _too_many()
            start, tag = place, data[place]
            place += 1
            if tag >= 0x80:
                tag, place = self._varint(start, end)
            number, wire = tag >> 3, tag & 7
            known = schema.get(number)
            if known is not None and known.run and wire == known.wire:
                match = _RUNS[number].match(self.data, start, end)
                if match is None:
                    raise _bad("a list of numbers ends amid one")
                fields.setdefault(number, []).append(Span(start, match.end()))
                place = match.end()
                continue
            value, place = self._value(number, wire, place, end)
            if known is None:
                continue
            there = fields.setdefault(number, [])
            if there and not known.many:
                raise _bad(f"field {number} of {what} stands twice")
            if wire == known.wire:
                there.append(value)
            elif known.packable and wire == LENGTH and isinstance(value, Span):
                there.extend(self.packed(value) if known.wire == VARINT and not known.run else [value])
            else:
                raise _bad(f"field {number} of {what} is not of its type")
        return Message(fields)

    def packed(self, span: Span) -> list[int]:
        """Return the integers of a packed field, unsigned."""
        found = []
        place, end = span
        while place < end:
            self.count(1)
            value, place = self._varint(place, end)
            found.append(value)
        return found

    def text(self, span: Span | None) -> str:
        """Return a text; what isn't UTF-8 is shown, never taken for something else."""
        return "" if span is None else bytes(self.data[span.start : span.end]).decode("utf-8", "backslashreplace")

    def count(self, fields: int) -> None:
        """Note fields that were looked at; raises GraphError where there are too many of them."""
        self._left -= fields
        if self._left < 0:
            raise _too_many()

    def _value(self, number: int, wire: int, place: int, end: int) -> tuple[int | Span, int]:
        if not 0 < number < 2**29:
            raise _bad(f"a field has the number {number}")
        if wire == VARINT:
            return self._varint(place, end)
        if wire == LENGTH:
            size, place = self._varint(place, end)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise _bad(f"a field has the wire type {wire}")
        if size > end - place:
            raise _bad("a field goes on behind its message's end")
        return Span(place, place + size), place + size

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        data = self.data
        if place < end and data[place] < 0x80:  # most are short
            return data[place], place + 1
        value = shift = 0
        while place < end:
            byte = data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value, place
            shift += 7
            if shift > 63:
                break
        raise _bad("a number doesn't end, or is too large")


def signed(value: int) -> int:
    """Return a varint as the int64 that it stands for."""
    return value - 2**64 if value >> 63 else value


def _too_many() -> GraphError:
    return _bad(f"it has more than {MAX_FIELDS:,} fields")


def _bad(what: str) -> GraphError:
    return GraphError(f"can't be parsed: {what}", "bad_protobuf")
