"""A producer in a process of its own, for tests that kill it: `python -m tests.support.appending RING` appends until it is killed.

Each payload names itself: the producer's process id, a number from 0, and filling that follows from both. The number is written
to stdout once the ring took the payload.
"""

import os
import pathlib
import struct
import sys

from serving.shadow.ring import Ring

_NUMBER = struct.Struct("<QQ")


def payload_of(pid: int, number: int) -> bytes:
    """Return the payload that a producer appends as its `number`-th."""
    return _NUMBER.pack(pid, number) + bytes([number % 251]) * (number * 37 % 500)


def identity_of(payload: bytes) -> tuple[int, int]:
    """Return process id and number of a payload."""
    pid, number = _NUMBER.unpack_from(payload)
    return pid, number


def main(path: pathlib.Path) -> None:
    """Append for ever."""
    ring, pid, number = Ring(path), os.getpid(), 0
    while True:
        ring.count_seen(1)
        if ring.append(payload_of(pid, number)):
            os.write(1, b"%d\n" % number)
        number += 1


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
