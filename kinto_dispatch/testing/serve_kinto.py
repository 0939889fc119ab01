"""One process of ``LocalKinto``: ``python -m kinto_dispatch.testing.serve_kinto INI FD THREADS``.

Serves on a socket that it inherits. Ends when its standard input closes.
"""

from __future__ import annotations

import os
import socket
import sys
import threading


def main(ini: str, descriptor: int, threads: int) -> None:
    """Serve until a signal ends the process."""
    from pyramid.paster import get_app, setup_logging
    from waitress import serve  # type: ignore[import-untyped]  # Kinto uses it

    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    setup_logging(ini)
    shared = socket.socket(fileno=descriptor)
    serve(get_app(ini), sockets=[shared], threads=threads, _quiet=True)


def _end_with_standard_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
