"""What is written to a topic for `benchmarks.stream`'s flood: good pairs as the mirror packs them, and poison of every kind between them.

Decides the mixture. Of two hundred records that are poison, half are messages of their own, the dearest way to send one; the others lie in batches, each beside a good pair: in
batches with columns, and in batches whose pairs have tensors of their own. Pairs have 1 KiB inputs and 100 classes. Knows no stream.
"""

import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.pairs import LIVE, MODEL, NUM_CLASSES, NUM_FEATURES
from distill_loop.stream.writer import Outgoing
from protos import records_pb2 as records
from protos.records import ARM_UNIFORM, MODEL_HEADER, RECORDS_HEADER, SCHEMA_HEADER, SCHEMA_VERSION, mint_record_id
from protos.tensors import to_record
from protos.topics import PAIRS
from registry.bundle import version_of
from tests.support.packing import pack

#: Pairs of a message, as the mirror writes them where many wait.
BATCH = 64
#: The largest message that is taken in; one of a hundred that are poison as a whole is larger.
MAX_MESSAGE_BYTES = 2**18
#: Header that says when a message was sent, in unix nanoseconds, so that its delay can be told. Nobody else knows it.
SENT = "sent_unix_ns"
NOT_FINITE = np.full((1, NUM_CLASSES), np.nan, np.float32)
SHORT = np.zeros((1, NUM_FEATURES // 2), np.float32)

#: What makes a pair poison: where its batch has columns, and where it has tensors of its own.
IN_COLUMNS: tuple[Callable[[records.LogitPair], object], ...] = (
    lambda pair: setattr(pair, "input_key", b""),
    lambda pair: setattr(pair.arms[0], "probability", 0.0),
    lambda pair: setattr(pair.teacher.output, "raw", NOT_FINITE.tobytes()),
)
ALONE: tuple[Callable[[records.LogitPair], object], ...] = (
    *IN_COLUMNS,
    lambda pair: pair.ClearField("teacher"),
    lambda pair: setattr(pair.teacher, "kind", records.OUTPUT_KIND_LABEL),
    lambda pair: setattr(pair.inputs[0], "raw", b"1234"),
    lambda pair: pair.inputs[0].CopyFrom(to_record("features", SHORT)),
    lambda pair: pair.inputs[0].CopyFrom(to_record("features", SHORT.astype(np.float64))),
    lambda pair: pair.ClearField("inputs"),
)


class Maker:
    """Makes messages; no two of its pairs have one id."""

    def __init__(self, partitions: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._partitions = itertools.cycle(range(partitions))
        self._pairs = [_pair(rng) for _ in range(1000)]
        self._number = 0
        self._wholes = itertools.cycle(self._whole_kinds())

    def good(self, num_pairs: int, batch: int = BATCH) -> Iterator[Outgoing]:
        """Yield messages of so many good pairs."""
        for start in range(0, num_pairs, batch):
            yield self._message(pack([self._next() for _ in range(min(batch, num_pairs - start))]))

    def flood(self, num_pairs: int, *, spoilt: bool = True) -> Iterator[Outgoing]:
        """Yield messages of so many good pairs and as many records that are poison; or the same messages with good pairs in their places."""
        left = num_pairs
        while left:
            share = min(left, 4 * BATCH)
            in_columns, alone = share // 4, share // 4
            rest = share - in_columns - alone
            yield self._mixed(in_columns, IN_COLUMNS if spoilt else (_leave,), pack)
            yield from self.wholes(rest) if spoilt else self.good(rest, 1)
            yield from self.good(rest)
            yield self._mixed(alone, ALONE if spoilt else (_leave,), lambda pairs: records.PairBatch(pairs=pairs))
            left -= share

    def wholes(self, count: int) -> Iterator[Outgoing]:
        """Yield so many messages of one record each that nobody can take in."""
        yield from itertools.islice(self._wholes, count)

    def _mixed(
        self,
        count: int,
        ways: tuple[Callable[[records.LogitPair], object], ...],
        packed: Callable[[list[records.LogitPair]], records.PairBatch],
    ) -> Outgoing:
        """Return one message of so many good pairs, and as many others, each behind a good one."""
        pairs = []
        for _, spoil in zip(range(count), itertools.cycle(ways), strict=False):
            pairs += [self._next(), self._next()]
            spoil(pairs[-1])
        return self._message(packed(pairs))

    def _whole_kinds(self) -> list[Outgoing]:
        """Return a hundred messages that are poison as a whole; they bear no id that could be known."""
        good = [records.PairBatch(pairs=[self._next()]).SerializeToString() for _ in range(5)]
        columns = pack([self._next()])
        columns.columns.teacher_output.shape[0] = 7
        kinds = [
            self._outgoing(b"\xff rubbish", 1),
            self._outgoing(good[0][:-100], 1),
            self._outgoing(good[1], 1, **{SCHEMA_HEADER: "9"}),
            self._outgoing(good[2], 1, **{MODEL_HEADER: "another"}),
            self._outgoing(columns.SerializeToString(), 1),
        ]
        wholes = [kinds[number % len(kinds)] for number in range(99)]
        return [*wholes, self._outgoing(b"\xff" * (MAX_MESSAGE_BYTES + 1000), 1)]

    def _next(self) -> records.LogitPair:
        pair = records.LogitPair()
        pair.CopyFrom(self._pairs[self._number % len(self._pairs)])
        self._number += 1
        pair.record_id = mint_record_id()
        pair.input_key = mint_record_id()
        return pair

    def _message(self, batch: records.PairBatch) -> Outgoing:
        sent = str(time.time_ns())
        return self._outgoing(batch.SerializeToString(), len(batch.pairs), **{SENT: sent})

    def _outgoing(self, value: bytes, num_records: int, **others: str) -> Outgoing:
        headers = {SCHEMA_HEADER: str(SCHEMA_VERSION), MODEL_HEADER: MODEL, RECORDS_HEADER: str(num_records), **others}
        return Outgoing(PAIRS, next(self._partitions), headers, value)


def _leave(pair: records.LogitPair) -> None:
    """Leave a pair as it is."""


def _pair(rng: np.random.Generator) -> records.LogitPair:
    """Return a good pair of the uniform arm, as the mirror describes one."""
    pair = records.LogitPair(
        time_unix_ns=time.time_ns(),
        stratum="served",
        inputs=[to_record("features", rng.standard_normal((1, NUM_FEATURES), np.float32))],
        arms=[records.ArmTaken(arm=ARM_UNIFORM, probability=1.0)],
    )
    pair.student.version = version_of(LIVE)
    pair.student.logits.CopyFrom(to_record("logits", rng.standard_normal((1, NUM_CLASSES), np.float32)))
    pair.teacher.version, pair.teacher.kind = "teacher-1", records.OUTPUT_KIND_PROBABILITIES
    pair.teacher.output.CopyFrom(to_record("output", rng.dirichlet(np.ones(NUM_CLASSES), 1).astype(np.float32)))
    return pair
