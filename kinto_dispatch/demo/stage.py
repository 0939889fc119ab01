"""Real servers on loopback, started for the demo and all stopped at its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib import resources
from pathlib import Path
from types import TracebackType

import redis
import requests

from kinto_dispatch.demo.report import Report
from kinto_dispatch.queue.embedded import ensure_server, stop_server
from kinto_dispatch.testing.http import LocalHttp
from kinto_dispatch.testing.smtp import LocalSmtp
from kinto_dispatch.testing.waiting import eventually


AUTH = ("alice", "s3cr3t")
COLLECTION = "/buckets/demo/collections/notes"
START_SECONDS = 30.0
ARRIVE_SECONDS = 30.0
POLL_SECONDS = 0.002


class Stage:
    """A mail server, a stand-in for Slack, the embedded queue, Kinto and one worker."""

    def __init__(self, directory: Path, report: Report) -> None:
        self._directory = directory
        self._report = report
        self._stack = contextlib.ExitStack()
        self._closing = threading.Event()

    def __enter__(self) -> Stage:
        with self._stack:
            self._smtp = self._stack.enter_context(LocalSmtp())
            self._slack = self._stack.enter_context(LocalHttp())
            self._queue_url = ensure_server(self._directory / "queue")
            self._stack.callback(stop_server, self._directory / "queue")
            self._list = redis.Redis.from_url(self._queue_url)
            self._stack.callback(self._list.close)
            self._ini = self._write_ini()
            self._start("kinto.__main__", "start", "--ini", str(self._ini))
            self._start("kinto_dispatch.cli", "worker", "--ini", str(self._ini))
            eventually(self._kinto_answers, "Kinto to answer", START_SECONDS)
            watcher = threading.Thread(target=self._watch, daemon=True)
            watcher.start()
            self._stack.callback(watcher.join)
            self._stack.callback(self._closing.set)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    # --- the play ------------------------------------------------------------------------

    def play(self) -> bool:
        """Write the records and wait until they arrived everywhere. False if they did not."""
        requests.put(f"{self._url}/buckets/demo", auth=AUTH, timeout=10).raise_for_status()
        requests.put(f"{self._url}{COLLECTION}", auth=AUTH, timeout=10).raise_for_status()
        for number in range(1, self._report.records + 1):
            title = f"note-{number}"
            self._report.note_write(title)
            answer = requests.put(
                f"{self._url}{COLLECTION}/records/{title}",
                json={"data": {"title": title}},
                auth=AUTH,
                timeout=10,
            )
            self._report.note_answer(title)
            answer.raise_for_status()
        with contextlib.suppress(AssertionError):
            eventually(lambda: self._report.complete, "every message", ARRIVE_SECONDS)
        return self._report.complete

    def keep(self) -> None:
        """Leave everything running, and print what arrives, until Ctrl-C."""
        user = ":".join(AUTH)
        print(f"\nKinto runs at {self._url} with {self._ini}. Try, and press Ctrl-C to end:\n")
        print(
            f"  curl -u {user} -H 'Content-Type: application/json' -X PUT "
            f'{self._url}{COLLECTION}/records/hello -d \'{{"data": {{"title": "hello"}}}}\'\n'
        )
        seen = self._counts()
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(0.2)
                for channel, count in self._counts().items():
                    for _ in range(count - seen.get(channel, 0)):
                        print(f"arrived: {channel}", flush=True)
                seen = self._counts()

    def _counts(self) -> dict[str, int]:
        return {channel: len(times) for channel, times in dict(self._report.arrived).items()}

    # --- what arrives --------------------------------------------------------------------

    def _watch(self) -> None:
        """Tell the report what the servers got. Ends when the stage closes."""
        mails = posts = 0
        while not self._closing.wait(POLL_SECONDS):
            for message in self._smtp.messages[mails:]:
                mails += 1
                channel = "admins" if "admin@example.com" in message.recipients else "mail"
                self._report.note_arrival(channel, str(message.message["Subject"]), message.at)
            for request in self._slack.requests[posts:]:
                posts += 1
                self._report.note_arrival("slack", _slack_title(request.body), request.at)
            while item := self._list.lpop("eventqueue"):
                uri = json.loads(item)["uri"]  # type: ignore[arg-type]  # synchronous client
                self._report.note_arrival(
                    "eventqueue", uri.rpartition("/")[2], time.perf_counter()
                )

    # --- the servers ---------------------------------------------------------------------

    def _write_ini(self) -> Path:
        port = _free_port()
        self._url = f"http://127.0.0.1:{port}/v1"
        text = resources.files("kinto_dispatch.demo").joinpath("kinto.ini").read_text()
        path = self._directory / "kinto.ini"
        path.write_text(
            text.format(
                directory=self._directory,
                smtp=self._smtp.address,
                slack=self._slack.url,
                redis=self._queue_url,
                port=port,
            )
        )
        return path

    def _start(self, module: str, *arguments: str) -> None:
        """Run the command whose ``main`` is in ``module``; it is stopped when the stage closes."""
        environ = {**os.environ, "PYTHONWARNINGS": "ignore", "KINTO_INI": str(self._ini)}
        code = f"import sys; from {module} import main; sys.exit(main())"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdin=subprocess.DEVNULL, env=environ
        )
        self._stack.callback(_stop, process)

    def _kinto_answers(self) -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{self._url}/", timeout=5).ok
        return False


def _slack_title(body: bytes) -> str:
    """The first line of what was posted: the subject."""
    return str(json.loads(body)["text"]).splitlines()[0].strip("*")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
