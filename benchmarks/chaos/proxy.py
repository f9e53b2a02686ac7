"""A network that can be cut: a TCP proxy in a process of its own, `python -m benchmarks.chaos.proxy LISTEN_PORT HOST:PORT`.

Commands on standard input, one a line: `silence` (connections stay open, nothing passes), `cut` (connections are reset, new ones too),
`heal`. It answers each, and ends with its standard input. `Proxy` is the other side.
"""

import argparse
import asyncio
import contextlib
import json
import socket
import struct
import sys
from collections.abc import Callable
from typing import Literal

from benchmarks.told import Told

Weather = Literal["heal", "silence", "cut"]
CHUNK_BYTES = 2**16


class Network:
    """All connections through the proxy, and whether bytes pass."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._open = asyncio.Event()
        self._open.set()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()

    def become(self, weather: Weather) -> None:
        """Change what happens to connections from now on."""
        self._refusing = weather == "cut"
        if weather == "silence":
            self._open.clear()
        else:
            self._open.set()
        if weather == "cut":
            for writer in list(self._writers):
                _reset(writer)

    async def ended(self) -> None:
        """Wait until no connection is left."""
        while self._writers:
            await asyncio.sleep(0.01)

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its end."""
        self._writers.add(writer)
        try:
            await self._open.wait()
            if self._refusing:
                _reset(writer)
                return
            there_reader, there_writer = await asyncio.open_connection(self._host, self._port)
            self._writers.add(there_writer)
            try:
                await asyncio.gather(self._carry(reader, there_writer), self._carry(there_reader, writer))
            finally:
                self._writers.discard(there_writer)
        except OSError:
            _reset(writer)  # the broker is away: so is the way to it
        finally:
            self._writers.discard(writer)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                await self._open.wait()
                writer.write(chunk)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Proxy(Told):
    """A running proxy."""

    def __init__(self, port: int, target: str) -> None:
        super().__init__("benchmarks.chaos.proxy", str(port), target)

    def become(self, weather: Weather) -> None:
        """Change the weather; returns once it has changed."""
        self.tell(weather)
        self.hear()


async def serve(port: int, target: str, say: Callable[[], None]) -> None:
    """Carry connections until standard input ends."""
    host, _, number = target.rpartition(":")
    network = Network(host, int(number))
    server = await asyncio.start_server(network.connect, "127.0.0.1", port)
    say()
    while line := await asyncio.to_thread(sys.stdin.readline):
        weather = line.strip()
        assert weather in ("heal", "silence", "cut")
        network.become(weather)
        say()
    server.close()
    network.become("cut")
    await network.ended()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="benchmarks.chaos.proxy", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("target")
    parsed = parser.parse_args()
    asyncio.run(serve(parsed.port, parsed.target, lambda: print(json.dumps({"event": "done"}), flush=True)))


if __name__ == "__main__":
    main()
