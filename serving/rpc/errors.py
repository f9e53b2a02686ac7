"""What a call without an answer is called, for callers that act on it. `code` is the gRPC status code's name.

RpcError
 +- InvalidRequest     mend the request: INVALID_ARGUMENT, OUT_OF_RANGE, FAILED_PRECONDITION
 +- NotFound           no such model or version there
 +- Unimplemented      that server doesn't have this call
 +- Overloaded         send less, or later: RESOURCE_EXHAUSTED (also UnavailableError)
 +- DeadlineExceeded   the time was up first (also UnavailableError)
 +- Unavailable        away, stopping, or not ready yet (also UnavailableError)

Decides which statuses are worth another try. Used by the clients; pure functions, any thread.
"""

import dataclasses
import random
import re

import grpc

from protos import inference_pb2 as pb
from protos.errors import EverstillError, UnavailableError

#: Statuses after which the same request may be answered: nothing was wrong with it.
WORTH_ANOTHER_TRY = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
#: How a RESOURCE_EXHAUSTED says that the message is too large, in the words of everstill's gateway and of gRPC's C, Go and Java: it
#: would be so every time.
TOO_LARGE = re.compile(r"\b(request|answer to \d+ rows) has \d+ bytes|message.* larger than max|exceeds maximum size")
#: The parameter that names the status of a request that failed inside a stream.
STREAM_CODE = "code"
#: What grpc's asyncio says of a stream that the server ended during a write; the server's own status is lost then.
HIDDEN_STATUS = "Internal error from Core"
#: What Triton's sentences say of a model that isn't there.
UNKNOWN_MODEL = ("unknown model", "not found")
OTHER_STREAM = "answers streams in another form than Triton's (MLServer does): call it without a stream"


class RpcError(EverstillError):
    """A call that got no answer. `retries` says how often it was tried again."""

    exit_code = 4

    def __init__(self, message: str, code: str, *, retries: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.retries = retries


class InvalidRequest(RpcError):
    """The request is wrong, and would be every time."""

    exit_code = 1


class NotFound(RpcError):
    """There is no such model or version."""

    exit_code = 1


class Unimplemented(RpcError):
    """The server doesn't have this call."""

    exit_code = 1


class Overloaded(RpcError, UnavailableError):
    """Too large, or too much at once."""


class DeadlineExceeded(RpcError, UnavailableError):
    """The time was up before an answer came."""


class Unavailable(RpcError, UnavailableError):
    """The server is away, is stopping, or has no version yet."""


KINDS: dict[str, type[RpcError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "FAILED_PRECONDITION": InvalidRequest,
    "NOT_FOUND": NotFound,
    "UNIMPLEMENTED": Unimplemented,
    "RESOURCE_EXHAUSTED": Overloaded,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "UNAVAILABLE": Unavailable,
}


def error_of(code: str, message: str, *, retries: int = 0) -> RpcError:
    """Return the error of a status, of the class that says what to do about it."""
    return KINDS.get(code, RpcError)(message, code, retries=retries)


def check_address(address: str) -> str:
    """Return the address of a server; raises InvalidRequest where it is empty: gRPC would take it, and log about it."""
    if not address.strip():
        raise error_of("INVALID_ARGUMENT", "the server's address is empty; give host:port")
    return address


def closed(address: str) -> RpcError:
    """Return the error of a call of a client that was closed before."""
    return error_of("UNAVAILABLE", f"this client of {address} was closed before the call; open a new one")


def as_error(address: str, error: grpc.RpcError, *, timeout_s: float, retries: int = 0) -> RpcError:
    """Return what a call's grpc error means, as a sentence that names the server."""
    known = isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    code = error.code().name if known else "UNKNOWN"
    details = str(error.details() if known else error)
    if code == "INTERNAL" and details == HIDDEN_STATUS:
        code, message = "UNAVAILABLE", f"{address} ended the call while a request was being sent"
    elif code == "INTERNAL" and details.startswith("Exception deserializing response"):
        code, message = "UNIMPLEMENTED", f"{address} {OTHER_STREAM}"
    elif code == "DEADLINE_EXCEEDED" and details == "Deadline Exceeded":  # this side's words: the server said nothing
        message = f"{address} gave no answer within {timeout_s:g} s"
    elif code == "UNAVAILABLE" and "failed to connect to all addresses" in details:
        message = f"nothing answers at {address}: {details.rsplit(': ', 1)[-1]}"
    else:
        message = f"{address} answered {code}: {details}"
    return error_of(code, message, retries=retries)


def error_in_stream(address: str, model: str, response: pb.ModelStreamInferResponse) -> RpcError:
    """Return the error of one request of a stream.

    everstill names the status; Triton doesn't, and its sentence must do. MLServer answers with ModelInferResponse, whose first field,
    the model's name, then stands where the error belongs.
    """
    sentence, parameters = response.error_message, response.infer_response.parameters
    if sentence == model:
        return error_of("UNIMPLEMENTED", f"{address} {OTHER_STREAM}")
    if STREAM_CODE in parameters:
        code = parameters[STREAM_CODE].string_param
    else:
        code = "NOT_FOUND" if any(words in sentence.lower() for words in UNKNOWN_MODEL) else "INVALID_ARGUMENT"
    return error_of(code, f"{address} answered {code}: {sentence.removeprefix(f'{code}: ')}")


@dataclasses.dataclass(frozen=True)
class Retry:
    """How often a call is tried again, and after which pause: random, up to a bound that doubles (full jitter).

    Args:
        retries: further tries of one call, at most; 0 tries nothing again.
        first_s: bound of the first pause.
        longest_s: bound of every pause.
    """

    retries: int = 0
    first_s: float = 0.05
    longest_s: float = 2.0

    def pause_s(self, error: RpcError, num_retries: int, remaining_s: float) -> float | None:
        """Return the pause before the next try, or None where there is none: it must end before the deadline."""
        if num_retries >= self.retries or error.code not in WORTH_ANOTHER_TRY:
            return None
        if error.code == "RESOURCE_EXHAUSTED" and TOO_LARGE.search(error.message):
            return None
        pause_s = random.uniform(0.0, min(self.longest_s, self.first_s * 2**num_retries))
        return pause_s if pause_s < remaining_s else None
