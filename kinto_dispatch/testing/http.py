"""A real HTTP server on loopback that keeps what it gets and answers what it is told to."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType, TracebackType
from typing import Any, ClassVar, Self


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request as it came in. The names of ``headers`` are in lower case; ``at`` is the
    ``time.perf_counter`` of its arrival."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int = 200
    body: bytes = b"ok"
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0


class LocalHttp:
    """HTTP/1.1 on a free port of 127.0.0.1, a thread per connection; a context manager.

    A request is in ``requests`` before it is answered.
    """

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []
        self._answer = _Answer()
        self._closing = threading.Event()

    @property
    def address(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """``http://127.0.0.1:port``, without a path."""
        return f"http://{self.address}"

    def answer(
        self,
        status: int = 200,
        body: bytes = b"ok",
        headers: Mapping[str, str] = MappingProxyType({}),
        delay_seconds: float = 0.0,
    ) -> None:
        """Answer this to every request from now on, ``delay_seconds`` after it came in."""
        self._answer = _Answer(status, body, dict(headers), delay_seconds)

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="local-http"
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()

    def respond(self, handler: _Handler, request: ReceivedRequest) -> None:
        """Keep ``request``, then write the answer. Called in the connection's thread."""
        self.requests.append(request)
        answer = self._answer
        self._closing.wait(answer.delay_seconds)
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(answer.body)))
        handler.end_headers()
        if request.method != "HEAD":
            handler.wfile.write(answer.body)


class _Server(ThreadingHTTPServer):
    owner: LocalHttp
    daemon_threads = False  # closing waits for every connection
    request_queue_size = 1024  # clients may come all at once

    def __init__(self, *arguments: Any) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End the connections that clients keep open."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up early is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    methods: ClassVar = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_") and name[3:] in self.methods:
            return self._handle
        raise AttributeError(name)

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = ReceivedRequest(self.command, self.path, headers, body, time.perf_counter())
        self.server.owner.respond(self, request)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the requests are kept."""
