"""Names of the stream's topics and the partition of a record. Pure functions, any thread."""

PAIRS = "pairs"
TRIALS = "trials"
LABELS = "labels"
REPORTS = "reports"
DEAD = "dead"


#: Every kind of topic that a model has.
KINDS = (PAIRS, TRIALS, LABELS, REPORTS, DEAD)
#: First part of a topic's name where the settings say nothing else.
PREFIX = "everstill"


def topic(model: str, kind: str, prefix: str = PREFIX) -> str:
    """Return the full topic name, e.g. `everstill.filetypes.pairs`."""
    return f"{prefix}.{model}.{kind}"


def partition_of(input_key: bytes, num_partitions: int) -> int:
    """Return the partition of an input: equal inputs always meet in one partition, so one loop rank sees every repeat."""
    return int.from_bytes(input_key[:8], "little") % num_partitions
