"""gRPC server reflection: how grpcurl, ghz and their like learn this server's calls and messages without our .proto file.

Our messages live in a private pool (protos/pool.py), gRPC's own in the default one, so both are asked. Answers v1 and v1alpha,
whose messages are the same bytes. Called by gRPC, each call in a thread of a small pool of its own: a caller may keep it open.
"""

import contextlib
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha import reflection_pb2 as pb

from protos.pool import POOL

METHODS = {
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo": version for version in ("v1", "v1alpha")
}
#: Reflection calls that may be open at once; one more waits.
THREADS = 2


class Reflection(grpc.GenericRpcHandler):
    """Answers what the named services are made of."""

    def __init__(self, services: tuple[str, ...]) -> None:
        servicer = reflection.ReflectionServicer((*services, reflection.SERVICE_NAME), pool=_BothPools())
        self._handler = grpc.stream_stream_rpc_method_handler(
            _Answering(servicer.ServerReflectionInfo),
            pb.ServerReflectionRequest.FromString,
            pb.ServerReflectionResponse.SerializeToString,
        )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return who answers a call."""
        return self._handler if handler_call_details.method in METHODS else None


class _Answering:
    """The servicer's method, with gRPC's name for "run this in that pool"."""

    def __init__(self, method: Any) -> None:
        self._method = method
        self.experimental_thread_pool = futures.ThreadPoolExecutor(THREADS, thread_name_prefix="reflection")

    def __call__(self, requests: Any, context: grpc.ServicerContext) -> Any:
        return self._method(requests, context)


class _BothPools:
    """The private descriptor pool, and the default one for what isn't in it. Only what the reflection servicer asks of a pool."""

    def __init__(self) -> None:
        self._pools = (POOL, descriptor_pool.Default())

    def __getattr__(self, question: str) -> Any:
        def find(*arguments: Any) -> Any:
            for pool in self._pools:
                with contextlib.suppress(KeyError):
                    return getattr(pool, question)(*arguments)
            raise KeyError(*arguments)

        return find

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        """Return a symbol's file; that of a method is its service's, which protobuf's pools don't know."""
        for name in (symbol, symbol.rpartition(".")[0]):
            for pool in self._pools:
                with contextlib.suppress(KeyError):
                    return pool.FindFileContainingSymbol(name)
        raise KeyError(symbol)
