"""What is said where a client of kafka-python raised, and what to do about it: silence, a want of rights and an answer that says no are three things.

Decides the sentence alone; whether the client is made anew is `kafka_consumer`'s. Pure functions, any thread.
"""

import kafka
import kafka.errors

from distill_loop.stream.kafka_batches import Damaged
from protos.errors import UnavailableError
from registry.kafka_options import Unreachable, forbidden, unreachable
from registry.sections import KafkaSection

#: Nobody answers, or a link to one ended.
SILENCE = (
    OSError,
    RuntimeError,
    kafka.errors.Cancelled,
    kafka.errors.KafkaConnectionError,
    kafka.errors.KafkaTimeoutError,
    kafka.errors.NodeNotReadyError,
    kafka.errors.RequestTimedOutError,
)
ANEW = "The client is made anew"


def trouble(settings: KafkaSection, error: BaseException) -> UnavailableError:
    """Return the error that says what one of `kafka_client.LOST` means; an `Unreachable` where it may pass by itself."""
    brokers = f"Kafka at {settings.bootstrap}"
    match error:
        case kafka.errors.TopicAuthorizationFailedError():
            names = error.args[0] if error.args else "?"
            return forbidden(settings, names if isinstance(names, str) else ", ".join(sorted(names)), "Read")
        case Damaged():
            return Unreachable(
                f"{brokers} said that {error}; another client can read there",
                fix=f"{ANEW}; where that comes again, compare the replicas of the partition",
            )
        case kafka.errors.LogTruncationError():
            return Unreachable(
                f"{brokers} has cut off a log that was read, and doesn't say where: {error}",
                fix=f"{ANEW}, and reads on from what is there",
            )
        case KeyError(args=[kafka.TopicPartition(topic=topic, partition=partition)]):
            return Unreachable(
                f"nobody leads {topic}/{partition} of {brokers}",
                fix="A partition has a leader as soon as a broker with a replica that has all of it runs",
            )
        case _ if isinstance(error, SILENCE):
            return unreachable(settings, error)
    return Unreachable(
        f"{brokers} answers, but with an error: {error!r}", fix=f"{ANEW}; where that comes again, see the brokers' logs"
    )


def stalled(
    settings: KafkaSection, place: kafka.TopicPartition, end: int, position: int, silent_s: float
) -> Unreachable:
    """Return the error of a partition that has messages and brings none."""
    return Unreachable(
        f"Kafka at {settings.bootstrap} has {place.topic}/{place.partition} up to offset {end}, and for {silent_s:.0f} s brought nothing from {position} on",
        fix=f"{ANEW}; where that doesn't help, look what the partition's leader says in its log",
    )
