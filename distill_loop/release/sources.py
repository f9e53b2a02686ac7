"""Which messages a version has learned from: where the loop had read when it was cut, less what the ledger says was never read.

Pure. The release office calls it for the line of what is cut.
"""

from collections.abc import Mapping, Sequence

from registry.ledger import Line, Range


def sources(lines: Sequence[Line], topic: str, ends: Mapping[int, int], stream: str) -> tuple[Range, ...]:
    """Return the offsets of a topic that were read, stream by stream, oldest first; of one that was cut off, what was read before and after.

    Args:
        lines: the ledger's.
        ends: by partition, the offset up to which the present stream was read.
        stream: its identity, empty where it isn't known.
    """
    gaps = [line for line in lines if line.kind == "gap" and line.evidence.get("topic") == topic]
    starts: dict[tuple[str, int], int] = {}  # of what was cut off: where it was read on
    read = []
    for line in gaps:
        if "replaced_by" in line.evidence:
            place = str(line.evidence["stream"]), int(line.evidence["partition"])
            read.append((*place, starts.pop(place, 0), int(line.evidence["first"])))
            if "cut_off_at" in line.evidence:
                starts[place] = int(line.evidence["read_from"])
    read += [(stream, partition, starts.get((stream, partition), 0), end) for partition, end in sorted(ends.items())]
    return tuple(
        one for source, partition, start, end in read for one in _pieces(gaps, topic, source, partition, start, end)
    )


def _pieces(gaps: Sequence[Line], topic: str, stream: str, partition: int, start: int, end: int) -> list[Range]:
    """Return what was read of one stream's partition from `start` up to `end`."""
    removed = sorted(
        (int(line.evidence["first"]), int(line.evidence["end"]))
        for line in gaps
        if line.trial_id == gap_id(topic, partition, int(line.evidence["first"]), stream)
    )
    pieces, first = [], start
    for gap_first, gap_end in [*removed, (end, end)]:
        if first < min(gap_first, end):
            pieces.append(Range(topic=topic, partition=partition, first=first, end=min(gap_first, end), stream=stream))
        first = max(first, gap_end)
    return pieces


def gap_id(topic: str, partition: int, first: int, stream: str) -> str:
    """Return the name of a gap's line: offsets of another stream are others."""
    return f"gap-{topic}-{partition}-{first}" + (f"-{stream[:16]}" if stream else "")
