"""A small TCP proxy before a server on a Unix socket, in a process of its own.

``python -m tests.chaos.proxy`` prints the port of the loopback address where it listens, reads
commands from standard input, one a line, and answers each with one line:

    lead PATH       where connections go that are made from now on
    reset           what the server answers next on a connection is thrown away, and the connection
                    reset: it has carried out what was asked, and nobody is told
    count           how many answers were thrown away so far
    hold            whatever the servers say stays here from now on, on every connection there is

It ends when its standard input closes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self


RESET_ON_CLOSE = struct.pack("ii", 1, 0)
ANSWER_SECONDS = 10.0


class Proxy:
    """The process from outside. ``port`` is where it listens."""

    def __init__(self, path: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.chaos.proxy"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            start_new_session=True,
        )
        self.port = int(self._answer())
        self.lead(path)

    def lead(self, path: str) -> None:
        """Connections go to this socket from now on; those that exist stay where they are."""
        self._say(f"lead {path}")

    def reset(self) -> None:
        """Every connection that there is ends with the next answer, of which nothing arrives."""
        self._say("reset")

    def count(self) -> int:
        """How many answers got lost so far."""
        return int(self._say("count"))

    def hold(self) -> None:
        """Nothing that a server says passes any more."""
        self._say("hold")

    def close(self) -> None:
        """End it, and so all of its connections."""
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _say(self, command: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()


class Switch:
    """What all connections look at. ``resets`` counts up; a connection that began before the last
    one is to be reset; ``lost`` is how many have been."""

    def __init__(self) -> None:
        self.path = ""
        self.resets = 0
        self.lost = 0
        self.is_held = False

    def obey(self, command: str) -> None:
        """Carry out one line."""
        word, _, path = command.partition(" ")
        if word == "lead":
            self.path = path
        elif word == "reset":
            self.resets += 1
        elif word == "hold":
            self.is_held = True


class Inner(asyncio.Protocol):
    """The side of the server."""

    def __init__(self, outer: Outer) -> None:
        self._outer = outer

    def data_received(self, data: bytes) -> None:
        self._outer.answer(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._outer.end()


class Outer(asyncio.Protocol):
    """The side of a client; what it sends before there is a server waits."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._resets = switch.resets
        self._client: asyncio.Transport | None = None
        self._server: asyncio.WriteTransport | None = None
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._client = transport
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            server, _ = await loop.create_unix_connection(lambda: Inner(self), self._switch.path)
        except OSError:
            self.end()
            return
        if self._client is None:
            server.close()
            return
        self._server = server
        server.write(self._early)

    def data_received(self, data: bytes) -> None:
        if self._server is None:
            self._early += data
        else:
            self._server.write(data)

    def answer(self, data: bytes) -> None:
        """What the server said."""
        if self._client is None or self._switch.is_held:
            return
        if self._resets < self._switch.resets:
            self._reset()
        else:
            self._client.write(data)

    def end(self) -> None:
        """The server is gone, or was not there."""
        if self._client is not None and not self._switch.is_held:
            self._client.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client = None
        if self._server is not None:
            self._server.close()

    def _reset(self) -> None:
        assert self._client is not None
        self._switch.lost += 1
        end: socket.socket = self._client.get_extra_info("socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._client.abort()


async def serve() -> None:
    """Listen until standard input closes."""
    switch = Switch()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Outer(switch), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        switch.obey(line.decode().strip())
        print(switch.lost, flush=True)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve())
