"""Clients that write through HTTP and note what became of each operation.

Three answers: ``ok`` was acknowledged, ``failed`` was refused for certain, ``unknown`` is
everything else: no answer, an answer of 5xx, or what stood in a batch before a 409.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kinto_dispatch.testing.kinto import USER
from tests.chaos import conflict
from tests.chaos.settings import BUCKET


TIMEOUT_SECONDS = 10.0
PAUSE_SECONDS = 0.2
"""After an unknown answer, as a client with manners does."""

PAGE = 1_000
"""How many records to ask for at once."""

HEADERS = {
    "Authorization": "Basic " + b64encode(":".join(USER).encode()).decode(),
    "Content-Type": "application/json",
}
ONLY_NEW = {"If-None-Match": "*"}

Spec = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Operation:
    """One change that was asked for. ``name`` is in the record, so it comes back in deliveries."""

    name: str
    kind: str
    collection: str
    record: str
    started: float
    outcome: str = "unknown"
    status: int | None = None
    ended: float = 0.0


class Client(threading.Thread):
    """Writes at a steady pace into a collection of its own until ``pace`` is set to 0.

    A record whose fate is unknown is left alone from then on, so that the storage tells at the
    end what became of it.
    """

    def __init__(self, number: int, port: int, pace: float, seed: int) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.operations: list[Operation] = []
        self.pace = pace
        self.error: BaseException | None = None
        self.collection = f"c{number}"
        self._path = f"{BUCKET}/collections/{self.collection}/records"
        self._chance = random.Random(f"{seed} client {number}")
        self._numbers = itertools.count(1)
        self._port = port
        self._connection: http.client.HTTPConnection | None = None
        self._records: list[str] = []
        self._ended = threading.Event()

    def run(self) -> None:
        """Write until told to end."""
        try:
            due = time.monotonic()
            while not self._ended.wait(max(0.0, due - time.monotonic())):
                due = max(due + 1 / self.pace, time.monotonic() - 1.0)
                if not self._write():
                    self._ended.wait(PAUSE_SECONDS)
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        """Ask it to end after the operation under way."""
        self._ended.set()

    def close(self) -> None:
        """Give back the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def make_collection(self) -> bool:
        """Create what the client writes into; whether it worked."""
        paths = (BUCKET, f"{BUCKET}/collections/{self.collection}")
        return all(self._send("PUT", path, {})[0] in (200, 201) for path in paths)

    def stored(self) -> Sequence[Mapping[str, Any]] | None:
        """Every record that the storage has, and the tombstones of those deleted; ``None`` where
        Kinto did not answer."""
        found: list[Mapping[str, Any]] = []
        since, page = 0, PAGE
        # Whoever asks for all at once gets the first ten thousand (storage_max_fetch_size).
        while page:
            query = f"_since={since}&_sort=last_modified&_limit={PAGE}"
            status, answer = self._send("GET", f"{self._path}?{query}", None)
            if status != 200:
                return None
            found += answer["data"]
            page = len(answer["data"])
            since = answer["data"][-1]["last_modified"] if page else 0
        return found

    # --- what to write -------------------------------------------------------------------

    def _write(self) -> bool:
        """One request, drawn by chance. False where its fate is unknown."""
        kinds = {
            self._create: 50,
            self._update: 15,
            self._remove: 5,
            self._batch: 20,
            self._batch_with_conflict: 5,
            self._refused: 5,
        }
        (write,) = self._chance.choices(list(kinds), list(kinds.values()))
        return write()

    def _create(self) -> bool:
        return self._single(*self._new())

    def _update(self) -> bool:
        return self._single(*self._changed()) if self._records else self._create()

    def _remove(self) -> bool:
        return self._single(*self._removed()) if self._records else self._create()

    def _refused(self) -> bool:
        """Kinto refuses it: the record exists, or the body is none."""
        if not self._records or self._chance.random() < 0.5:
            operation, spec = self._new()
            spec["body"] = {"data": ["not", "an", "object"]}
        else:
            operation, spec = self._new(self._chance.choice(self._records))
        operation.kind = "refused"
        return self._single(operation, spec)

    def _batch(self) -> bool:
        return self._send_batch(self._several())

    def _batch_with_conflict(self) -> bool:
        parts = self._several()
        place = self._chance.randrange(len(parts) + 1)
        return self._send_batch([*parts[:place], None, *parts[place:]])

    def _several(self) -> list[tuple[Operation, Spec] | None]:
        """Changes of different records, mostly creates: Kinto merges them into few events."""
        parts: list[tuple[Operation, Spec] | None] = []
        for _ in range(self._chance.randint(2, 6)):
            kind = self._chance.random()
            if kind < 0.2 and self._records:
                parts.append(self._changed())
            elif kind < 0.3 and self._records:
                parts.append(self._removed())
            else:
                parts.append(self._new())
        return parts

    def _new(self, record: str = "") -> tuple[Operation, Spec]:
        name = f"{self.collection}-{next(self._numbers)}"
        record = record or name
        return self._operation(name, "create", record), {
            "method": "PUT",
            "path": f"{self._path}/{record}",
            "headers": ONLY_NEW,
            "body": {"data": {"op": name}},
        }

    def _changed(self) -> tuple[Operation, Spec]:
        name = f"{self.collection}-{next(self._numbers)}"
        record = self._take()
        return self._operation(name, "update", record), {
            "method": "PUT",
            "path": f"{self._path}/{record}",
            "body": {"data": {"op": name}},
        }

    def _removed(self) -> tuple[Operation, Spec]:
        record = self._take()
        return self._operation(f"delete-{record}", "delete", record), {
            "method": "DELETE",
            "path": f"{self._path}/{record}",
        }

    def _take(self) -> str:
        """A record to change; it comes back to the others once its fate is known."""
        return self._records.pop(self._chance.randrange(len(self._records)))

    def _operation(self, name: str, kind: str, record: str) -> Operation:
        operation = Operation(
            name=name,
            kind=kind,
            collection=self.collection,
            record=record,
            started=time.monotonic(),
        )
        self.operations.append(operation)
        return operation

    # --- how it went ---------------------------------------------------------------------

    def _single(self, operation: Operation, spec: Spec) -> bool:
        status, _ = self._send(
            spec["method"], spec["path"], spec.get("body"), spec.get("headers", {})
        )
        return self._note(operation, _outcome(status), status)

    def _send_batch(self, parts: Sequence[tuple[Operation, Spec] | None]) -> bool:
        """``None`` stands for a request that answers 409."""
        conflicting = {"method": "POST", "path": conflict.PATH}
        requests = [part[1] if part else conflicting for part in parts]
        status, answer = self._send("POST", "/batch", {"requests": requests})
        if status != 200:
            known = [self._note(part[0], _outcome(status), status) for part in parts if part]
            return all(known)
        statuses = [response["status"] for response in answer["responses"]]
        known = [
            self._note(part[0], _outcome_in_batch(statuses, place), statuses[place])
            for place, part in enumerate(parts)
            if part
        ]
        return all(known)

    def _note(self, operation: Operation, outcome: str, status: int | None) -> bool:
        operation.outcome, operation.status = outcome, status
        operation.ended = time.monotonic()
        if _exists_for_certain(operation):
            self._records.append(operation.record)
        return outcome != "unknown"

    def _send(
        self, method: str, path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> tuple[int | None, Any]:
        """The status and the answer; ``None`` where none came."""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(
                    "127.0.0.1", self._port, timeout=TIMEOUT_SECONDS
                )
            text = None if body is None else json.dumps(body)
            self._connection.request(method, f"/v1{path}", text, {**HEADERS, **(headers or {})})
            response = self._connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            return None, str(error)


def _exists_for_certain(operation: Operation) -> bool:
    """Whether there is a record now that may be changed again."""
    match operation.kind, operation.outcome:
        case ("create" | "update", "ok") | ("update", "failed"):
            return True
    return False


def _outcome(status: int | None) -> str:
    if status is None or status >= 500:
        return "unknown"
    return "ok" if status < 300 else "failed"


def _outcome_in_batch(statuses: Sequence[int], place: int) -> str:
    """A 5xx voids the batch, a 409 what stands before it: then nothing is known of the rest."""
    if any(status >= 500 for status in statuses) or 409 in statuses[place + 1 :]:
        return "unknown"
    return _outcome(statuses[place])


def as_lines(operations: Sequence[Operation]) -> str:
    """The operations as JSON lines."""
    return "".join(json.dumps(asdict(operation)) + "\n" for operation in operations)
