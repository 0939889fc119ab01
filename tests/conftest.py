"""A deployment of Kinto, its workers and its queue: real processes that all end with the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil
import pytest
import requests
from hypothesis import settings as hypothesis_settings

from kinto_dispatch.event import Event
from kinto_dispatch.queue import open_queue
from kinto_dispatch.queue.embedded import stop_server
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import DeadLetter, LaneStatus
from kinto_dispatch.settings import read
from kinto_dispatch.testing.builders import make_change, make_event
from kinto_dispatch.testing.kinto import LocalKinto
from kinto_dispatch.testing.waiting import eventually
from kinto_dispatch.testing.worker import LocalWorker


# How long one example takes depends on who else uses the machine; bounds are tested as bounds.
hypothesis_settings.register_profile("unhurried", deadline=None)
hypothesis_settings.load_profile("unhurried")

T = TypeVar("T")

PLUGIN = Path(__file__).parent / "plugin" / "recorder_channel.py"
BASE = "kinto.event_listeners.dispatch."
BUCKET = "/buckets/b"
CLIENTS = 4
"""Each writes to a collection of its own: writes of one collection get in each other's way."""


class Deployment:
    """What an operator has: an ini, Kinto, workers, a queue. Nothing runs until it is started.

    Channels are given by name with their settings; one without a ``plugin`` writes every delivery
    down, to be asked for with ``delivered`` and ``begun``.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str],
        channels: Mapping[str, Mapping[str, str]],
        processes: int,
    ) -> None:
        self.directory = directory
        self.queue_dir = directory / "queue"
        self.workers: list[LocalWorker] = []
        self._read: dict[str, tuple[int, list[dict[str, Any]]]] = {}
        shutil.copy(PLUGIN, directory)
        self.settings = {
            "kinto.event_listeners": "dispatch",
            f"{BASE}use": "kinto_dispatch",
            f"{BASE}queue_dir": str(self.queue_dir),
            f"{BASE}channels": " ".join(channels),
            **settings,
        }
        for name, options in channels.items():
            own = {"plugin": "recorder_channel:RecorderChannel", "path": str(self._ledger(name))}
            records = options.get("plugin", "recorder_channel").startswith("recorder_channel")
            for key, value in ({**own, **options} if records else options).items():
                self.settings[f"{BASE}channels.{name}.{key}"] = value
        self.kinto = LocalKinto(self.settings, directory, processes=processes)
        self.ini = self.kinto.ini

    # --- processes -----------------------------------------------------------------------

    def worker(self, *arguments: str) -> LocalWorker:
        """A worker of this deployment, not yet started."""
        worker = LocalWorker(self.ini, *arguments, name=f"worker-{len(self.workers) + 1}")
        self.workers.append(worker)
        return worker

    def burst(self, *arguments: str) -> None:
        """Run a worker until everything due has been settled."""
        worker = self.worker("--burst", *arguments).start(wait=False)
        assert worker.wait(60) == 0, worker.said[-2000:]

    def close(self) -> None:
        """End everything, and see that nothing is left."""
        for worker in self.workers:
            worker.close()
        self.kinto.stop()
        stop_server(self.queue_dir)
        eventually(lambda: not self.leftovers(), "every process to end")

    def leftovers(self) -> list[str]:
        """Processes that still have to do with this deployment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess):
                words = " ".join(process.cmdline())
                if str(self.directory) in words and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(words)
        found += [str(one) for worker in self.workers for one in worker.leftovers]
        return found

    # --- writes --------------------------------------------------------------------------

    def make_collections(self) -> None:
        """The bucket and the collections that records are written to."""
        for path in (BUCKET, *(f"{BUCKET}/collections/c{n}" for n in range(CLIENTS))):
            self.request("PUT", path).raise_for_status()

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """What Kinto answers to alice."""
        headers = {"Connection": "close", **options.pop("headers", {})}
        url = f"{self.kinto.url}{path}"
        return requests.request(
            method, url, auth=("alice", "s3cr3t"), timeout=30, headers=headers, **options
        )

    def put(self, record_id: str, **data: Any) -> requests.Response:
        """Write one record."""
        return self.request("PUT", f"{records(0)}/{record_id}", json={"data": data})

    def post_all(self, count: int, batch: int = 25) -> set[str]:
        """Create records in batches, from a few clients side by side; the ids that Kinto gave."""
        share = count // CLIENTS
        with ThreadPoolExecutor(CLIENTS) as clients:
            taken = clients.map(lambda n: self._post_share(n, share, batch), range(CLIENTS))
            return {record_id for ids in taken for record_id in ids}

    def _post_share(self, number: int, count: int, batch: int) -> list[str]:
        specs = [{"method": "POST", "path": records(number)}] * batch
        taken: list[str] = []
        with requests.Session() as session:
            session.auth = ("alice", "s3cr3t")
            for _ in range(0, count, batch):
                url = f"{self.kinto.url}/batch"
                answer = session.post(url, json={"requests": specs}, timeout=60)
                answer.raise_for_status()
                parts = answer.json()["responses"]
                assert [part["status"] for part in parts] == [201] * batch, parts
                taken += [part["body"]["data"]["id"] for part in parts]
        return taken

    # --- what came of it -----------------------------------------------------------------

    def begun(self, channel: str = "ops") -> list[dict[str, Any]]:
        """Every attempt of a channel that was begun, in order."""
        return [line for line in self._lines(channel) if line["what"] == "begun"]

    def done(self, channel: str = "ops") -> list[dict[str, Any]]:
        """Every attempt of a channel that ended well, in order."""
        return [line for line in self._lines(channel) if line["what"] == "done"]

    def delivered(self, channel: str = "ops") -> Counter[str]:
        """How often each record was delivered."""
        return Counter(record_id for line in self.done(channel) for record_id in line["ids"])

    def _lines(self, channel: str) -> list[dict[str, Any]]:
        offset, lines = self._read.setdefault(channel, (0, []))
        with contextlib.suppress(FileNotFoundError), self._ledger(channel).open("rb") as ledger:
            ledger.seek(offset)
            for line in ledger:
                offset += len(line)
                lines.append(json.loads(line))
        self._read[channel] = offset, lines
        return lines

    def _ledger(self, channel: str) -> Path:
        return self.directory / f"{channel}.jsonl"

    def await_delivered(
        self, expected: Iterable[str], channel: str = "ops", seconds: float = 30.0
    ) -> Counter[str]:
        """Wait until the channel was told of all of these; how often it was told of each."""
        wanted = set(expected)

        def missing() -> set[str]:
            return wanted - set(self.delivered(channel))

        try:
            eventually(lambda: not missing(), f"{len(wanted)} records to arrive", seconds)
        except AssertionError as error:
            said = "\n".join(worker.said[-2000:] for worker in self.workers)
            left = sorted(missing())
            raise AssertionError(f"{error}; {len(left)} missing: {left[:5]}\n{said}") from None
        return self.delivered(channel)

    # --- the queue -----------------------------------------------------------------------

    def with_queue(self, work: Callable[[Queue], Awaitable[T]]) -> T:
        """What ``work`` returns, given the deployment's queue with its lanes."""
        names = tuple(self.settings[f"{BASE}channels"].split())
        settings, _ = read(self.settings, {})

        async def run() -> T:
            queue = open_queue(settings, names)
            try:
                await queue.register(names)
                return await work(queue)
            finally:
                await queue.close()

        return asyncio.run(run())

    def publish(self, *records: Mapping[str, Any]) -> list[Event]:
        """Put an event for each record into the log, as Kinto does."""
        events = [
            make_event(changes=(make_change(object_id=record["id"], new=dict(record)),))
            for record in records
        ]
        self.with_queue(lambda queue: queue.append([(one.id, one.encode()) for one in events]))
        return events

    def dead_letters(self, channel: str = "ops") -> Sequence[DeadLetter]:
        """The dead letters of a channel."""
        return self.with_queue(lambda queue: queue.dead_letters(channel))

    def attempts(self, channel: str = "ops") -> list[dict[str, Any]]:
        """The attempt records of a channel, oldest first."""

        async def read(queue: Queue) -> list[dict[str, Any]]:
            return [
                json.loads(record) for _, record in await queue.attempts(channel, count=50_000)
            ]

        return self.with_queue(read)

    def status(self) -> Sequence[LaneStatus]:
        """All lanes in numbers, in the order of the channels."""
        names = self.settings[f"{BASE}channels"].split()
        return self.with_queue(lambda queue: queue.status(names))

    def is_idle(self) -> bool:
        """Whether nothing waits, runs or is put off in any lane."""
        return not any(lane.waiting or lane.in_flight or lane.retry for lane in self.status())


def records(number: int) -> str:
    """The path of a client's records."""
    return f"{BUCKET}/collections/c{number}/records"


class Deploy(Protocol):
    """Makes a deployment; see ``Deployment``. Settings of the dispatcher by their bare names."""

    def __call__(
        self,
        channels: Mapping[str, Mapping[str, str]] = ...,
        *,
        kinto: Mapping[str, str] = ...,
        processes: int = 1,
        **settings: str,
    ) -> Deployment: ...


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Deploy]:
    """Makes deployments that end with the test."""
    with contextlib.ExitStack() as stack:

        def make(
            channels: Mapping[str, Mapping[str, str]] = {"ops": {}},
            *,
            kinto: Mapping[str, str] = {},
            processes: int = 1,
            **settings: str,
        ) -> Deployment:
            own = {f"{BASE}{name}": value for name, value in settings.items()}
            deployment = Deployment(tmp_path, {**kinto, **own}, channels, processes)
            stack.callback(deployment.close)
            return deployment

        yield make
