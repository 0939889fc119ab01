"""What ``--health-port`` answers: whether the workers of this command live, and are ready."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kinto_dispatch.cli.address import Address
from kinto_dispatch.cli.exits import FAILED, leave
from kinto_dispatch.cli.printing import note
from kinto_dispatch.vitals import Vitals


logger = logging.getLogger(__name__)

REQUEST_SECONDS = 5.0
"""How long one connection may take, from its first byte to its last."""

CONNECTIONS = 16
"""At a time; who comes on top is hung up on. Those who probe are few."""

SWEEP_SECONDS = 0.5

Look = Callable[[], Sequence[Vitals]]
"""Tells of each worker process, from any thread."""


def answer(path: str, workers: Sequence[Vitals]) -> tuple[int, dict[str, Any]]:
    """The status and the body for a path.

    ``/livez`` is 503 when no worker is live: one that is not is its supervisor's business, and to
    end all for it would end what the others have in flight. ``/readyz`` is 503 unless all are.
    """
    if path == "/livez":
        return _verdict(any(one.is_live for one in workers), workers)
    if path == "/readyz":
        return _verdict(bool(workers) and all(one.is_ready for one in workers), workers)
    return 404, {"error": "not found: GET /livez or /readyz"}


def _verdict(ok: bool, workers: Sequence[Vitals]) -> tuple[int, dict[str, Any]]:
    reasons = [reason for one in workers for reason in (*one.stuck, *one.unready)]
    counts = {
        "expected": len(workers),
        "live": sum(one.is_live for one in workers),
        "ready": sum(one.is_ready for one in workers),
    }
    body = {"ok": ok, "workers": counts, "reasons": list(dict.fromkeys(reasons))}
    return 200 if ok else 503, body


def open_port(address: Address) -> HealthServer:
    """A server that listens there; where it cannot, the command ends and says why."""
    try:
        return HealthServer(address)
    except OSError as error:
        host, port = address
        why = error.strerror or error
        note(f"--health-port {host}:{port} cannot be used: {why}. Choose another, or 0 for any.")
        leave(FAILED)


class HealthServer(ThreadingHTTPServer):
    """Answers on an address from threads of its own, so also where an event loop stands still.

    Listens once it is made, and raises ``OSError`` where it cannot; answers once it is started.
    Every connection carries one request and is closed after some seconds whatever comes; there
    are never more than a few.
    """

    daemon_threads = True

    def __init__(self, address: Address) -> None:
        family, _, _, _, found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        self.look: Look = tuple
        self._room = threading.Semaphore(CONNECTIONS)
        self._until: dict[socket.socket, float] = {}
        super().__init__(found, _Handler)  # type: ignore[arg-type]  # four parts in IPv6

    def server_bind(self) -> None:
        """As any server: one of HTTP looks for its name in the DNS as well."""
        socketserver.TCPServer.server_bind(self)

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self, look: Look) -> None:
        """Answer with what ``look`` tells, until ``stop`` or the end of the process."""
        self.look = look
        run, every = self.serve_forever, (SWEEP_SECONDS,)
        threading.Thread(target=run, args=every, name="dispatch-health", daemon=True).start()
        logger.info("worker.health url=%s paths=/livez,/readyz", self.url)

    def stop(self) -> None:
        """Answer no more, and give the port back. Only after ``start``."""
        self.shutdown()
        self.server_close()

    # --- bounds --------------------------------------------------------------------------

    def process_request(self, request: Any, client_address: Any) -> None:
        """One more, if there is room."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._until[request] = time.monotonic() + REQUEST_SECONDS
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In a thread of its own."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def _forget(self, request: Any) -> None:
        if self._until.pop(request, None) is not None:
            self._room.release()

    def service_actions(self) -> None:
        """Hang up on who takes too long: a byte now and then would keep a thread for ever."""
        now = time.monotonic()
        for request, until in list(self._until.items()):
            if now > until:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever hangs up in the middle is nobody's trouble."""
        logger.debug("worker.health hung up: %r", sys.exception())


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: HealthServer
    timeout = REQUEST_SECONDS
    server_version = "kinto-dispatch"
    sys_version = ""

    def do_GET(self) -> None:
        """Health, or where to find it."""
        status, body = answer(self.path.partition("?")[0], self.server.look())
        self._send(status, body)

    do_HEAD = do_GET

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """What is no request that we know, in our own form."""
        self.close_connection = True
        self._send(code, {"error": message or self.responses[code][0]})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Probes come every few seconds."""
        logger.debug(format, *arguments)
