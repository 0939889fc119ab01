"""What an outbox promises to the listener that writes it and to the relay that reads it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest
import transaction

from kinto_dispatch.errors import EventTooLarge, OutboxUnavailable
from kinto_dispatch.outbox.postgres import (
    LARGEST_WRITE_BYTES,
    PostgresOutbox,
    PostgresOutboxReader,
    tables_exist,
)
from kinto_dispatch.testing.builders import make_change, make_event
from kinto_dispatch.testing.outbox import open_storage, statements
from kinto_dispatch.testing.postgresql import LocalPostgresql
from kinto_dispatch.testing.waiting import eventually


pytestmark = pytest.mark.postgresql

A, B, C = ("event-a", b'{"a":1}'), ("event-b", b'{"b":2}'), ("event-c", b'{"c":3}')


@pytest.fixture
def client(postgresql_url: str) -> Iterator[Any]:
    """Kinto's storage client on a migrated database."""
    client = open_storage(postgresql_url)
    yield client
    transaction.abort()
    client.session_factory.get_bind().dispose()


@pytest.fixture
def outbox(client: Any) -> PostgresOutbox:
    """The writer's side."""
    return PostgresOutbox(client)


@pytest.fixture
def reader(client: Any, postgresql_url: str) -> Iterator[PostgresOutboxReader]:
    """The relay's side."""
    reader = PostgresOutboxReader(postgresql_url)
    yield reader
    reader.close()


@pytest.fixture
def other_reader(client: Any, postgresql_url: str) -> Iterator[PostgresOutboxReader]:
    """The relay's side in another process."""
    reader = PostgresOutboxReader(postgresql_url)
    yield reader
    reader.close()


def commit(outbox: PostgresOutbox, *events: tuple[str, bytes]) -> None:
    """One request that writes these events."""
    outbox.write(events)
    transaction.commit()


def relay(reader: PostgresOutboxReader, count: int = 100) -> list[tuple[str, bytes]]:
    """One batch taken and relayed."""
    batch = reader.take(count)
    if batch.events:
        reader.relayed()
    return list(batch.events)


@contextmanager
def long_transaction(client: Any, *events: tuple[str, bytes]) -> Iterator[None]:
    """A request of another thread that has written and commits only at the end."""
    written, may_commit = threading.Event(), threading.Event()

    def request() -> None:
        PostgresOutbox(client).write(events)
        written.set()
        may_commit.wait(30)
        transaction.commit()

    thread = threading.Thread(target=request)
    thread.start()
    try:
        assert written.wait(10)
        yield
    finally:
        may_commit.set()
        thread.join()


def sessions(url: str, condition: str) -> int:
    """How many other sessions of this database answer to ``condition``."""
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                f" AND pid <> pg_backend_pid() AND {condition}"
            )
            return int(cursor.fetchone()[0])
    finally:
        connection.close()


# --- writing -----------------------------------------------------------------------------


def test_events_are_invisible_before_the_commit(
    outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """A relay sees nothing of a transaction that is still running."""
    outbox.write([A, B])
    assert reader.take(100).events == ()
    transaction.commit()
    assert relay(reader) == [A, B]


def test_a_rollback_takes_the_events_along(
    outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """What was rolled back is never relayed, and what comes after it is."""
    outbox.write([A])
    transaction.abort()
    commit(outbox, B)
    assert relay(reader) == [B]


def test_events_commit_with_the_record(client: Any, reader: PostgresOutboxReader) -> None:
    """The rows lie in the very transaction that stores the record."""
    with client.connect() as session:
        before = session.execute(_text("SELECT pg_current_xact_id()")).scalar()
        PostgresOutbox(client).write([A])
        after = session.execute(_text("SELECT xmin FROM kinto_dispatch_outbox")).scalar()
    assert int(before) == int(after)
    transaction.abort()
    assert reader.status().waiting == 0


@pytest.mark.parametrize("body", [b"", b"\x00\xff'\\%:x", b"{}" * 1_000_000])
def test_bodies_come_out_as_they_went_in(
    body: bytes, outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """The outbox does not look into a body, whatever its bytes and its size."""
    commit(outbox, ("event", body))
    assert relay(reader) == [("event", body)]


def test_writing_nothing_opens_no_transaction(outbox: PostgresOutbox) -> None:
    """A request without events costs nothing."""
    outbox.write([])
    assert not transaction.get()._resources


def test_a_delete_of_10000_records_is_one_row(
    outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """A large event is neither split nor cut."""
    changes = tuple(
        make_change(
            uri=f"/buckets/b/collections/c/records/{number}",
            object_id=str(number),
            old={"id": str(number), "text": "x" * 500},
            new=None,
        )
        for number in range(10_000)
    )
    deleted = make_event(action="delete", changes=changes)
    commit(outbox, (deleted.id, deleted.encode()))
    [(event_id, body)] = relay(reader)
    assert event_id == deleted.id
    assert type(deleted).decode(body) == deleted


def test_an_event_beyond_all_bounds_refuses_the_write(outbox: PostgresOutbox) -> None:
    """Better a refused request than a row that no queue will ever take."""
    with pytest.raises(EventTooLarge, match="at most 268,435,456"):
        outbox.write([A, ("large", bytes(LARGEST_WRITE_BYTES + 1))])
    assert not transaction.get()._resources


def test_many_large_events_are_written_in_parts(
    outbox: PostgresOutbox, reader: PostgresOutboxReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each statement takes what fits; all of them commit together, in their order."""
    monkeypatch.setattr("kinto_dispatch.outbox.postgres.LARGEST_WRITE_BYTES", 1000)
    events = [
        (f"event{number}", bytes(size)) for number, size in enumerate([1000, 1, 999, 2, 500])
    ]
    commit(outbox, *events)
    assert relay(reader) == events


def test_a_missing_table_says_what_to_do(client: Any, reader: PostgresOutboxReader) -> None:
    """Before ``kinto migrate`` both sides name the command, and nothing of the events."""
    with client.connect(force_commit=True) as session:
        session.execute(_text("DROP TABLE kinto_dispatch_outbox"))
    assert not tables_exist(client)
    with pytest.raises(OutboxUnavailable, match="kinto migrate") as caught:
        PostgresOutbox(client).write([("event", b"secret")])
    assert "secret" not in str(caught.value)
    transaction.abort()
    with pytest.raises(OutboxUnavailable, match="kinto migrate"):
        reader.take(1)


def test_migrating_twice_changes_nothing(
    postgresql_url: str, client: Any, outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """``kinto migrate`` may run at every start."""
    commit(outbox, A)
    open_storage(postgresql_url)
    assert tables_exist(client)
    assert relay(reader) == [A]


def test_looking_for_the_table_leaves_the_transaction_alone(client: Any) -> None:
    """The look-up at start neither begins nor ends a transaction."""
    assert tables_exist(client)
    assert not transaction.get()._resources


# --- lanes -------------------------------------------------------------------------------


def lanes_of(reader: PostgresOutboxReader) -> set[str]:
    """The lanes that come with the next batch, which is relayed."""
    batch = reader.take(100)
    reader.relayed()
    return set(batch.lanes)


def test_a_batch_brings_the_lanes_that_its_writers_know(
    client: Any, reader: PostgresOutboxReader
) -> None:
    """Lanes commit with the first event, whoever wrote it; no lane is ever taken back."""
    commit(PostgresOutbox(client), A)
    assert lanes_of(reader) == set()
    commit(PostgresOutbox(client, ["ops", "mail"]), B)
    assert lanes_of(reader) == {"ops", "mail"}
    commit(PostgresOutbox(client, ["ops", "chat"]), C)
    assert lanes_of(reader) == {"ops", "mail", "chat"}


class Refusing:
    """A resource that lets the commit fail."""

    transaction_manager = transaction.manager

    def tpc_vote(self, current: Any) -> None:
        raise RuntimeError("refused")

    def abort(self, current: Any) -> None: ...

    tpc_begin = commit = tpc_abort = abort

    def sortKey(self) -> str:
        return "refusing"


def refuse() -> None:
    """A commit that fails."""
    transaction.get().join(Refusing())
    with pytest.raises(RuntimeError, match="refused"):
        transaction.commit()
    transaction.abort()


@pytest.mark.parametrize("end", [transaction.abort, refuse])
def test_lanes_that_were_rolled_back_are_announced_again(
    end: Callable[[], None], client: Any, reader: PostgresOutboxReader
) -> None:
    """No event of a writer is committed before its lanes."""
    outbox = PostgresOutbox(client, ["ops"])
    outbox.write([A])
    end()
    commit(PostgresOutbox(client), B)
    assert lanes_of(reader) == set()
    commit(outbox, C)
    assert lanes_of(reader) == {"ops"}


def test_lanes_cost_a_statement_once(client: Any) -> None:
    """After the first commit a request adds one statement, with any number of channels."""
    outbox = PostgresOutbox(client, [f"channel-{number}" for number in range(50)])
    for expected in (2, 1, 1):
        with statements(client) as sent:
            commit(outbox, A, B)
        assert len(sent) == expected + len(["COMMIT"])
    assert sent[0].startswith("INSERT INTO kinto_dispatch_outbox")


def test_lanes_announced_at_the_start_cost_no_write(
    client: Any, reader: PostgresOutboxReader
) -> None:
    """Announcing leaves the running transaction alone, and does nothing the second time."""
    outbox = PostgresOutbox(client, ["ops"])
    outbox.announce()
    assert not transaction.get()._resources
    with statements(client) as sent:
        outbox.announce()
        commit(outbox, A)
    assert [line.partition(" ")[0] for line in sent] == ["INSERT", "COMMIT"]
    assert lanes_of(reader) == {"ops"}


def test_writers_that_announce_at_once_wait_for_each_other(
    client: Any, reader: PostgresOutboxReader
) -> None:
    """Several processes that start together: each gets through, whoever is first."""
    first, second = (PostgresOutbox(client, names) for names in (["a", "b"], ["b", "a"]))
    done = threading.Event()

    def request() -> None:
        commit(second, B)
        done.set()

    first.write([A])
    thread = threading.Thread(target=request)
    thread.start()
    assert not done.wait(0.2)
    transaction.commit()
    thread.join()
    assert relay(reader) == [A, B]


def test_a_database_that_takes_no_writes_is_told_so(client: Any) -> None:
    """A standby: the error says why, and the lanes are still to be announced."""
    outbox = PostgresOutbox(client, ["ops"])
    name = client.session_factory.get_bind().url.database
    with client.connect(force_commit=True) as session:
        session.execute(_text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    client.session_factory.get_bind().dispose()
    with pytest.raises(OutboxUnavailable, match="read-only transaction"):
        outbox.announce()
    with client.connect(force_commit=True) as session:
        session.execute(_text("SET TRANSACTION READ WRITE"))
        session.execute(_text(f'ALTER DATABASE "{name}" RESET default_transaction_read_only'))
    client.session_factory.get_bind().dispose()
    with statements(client) as sent:
        commit(outbox, A)
    assert len(sent) == 2 + len(["COMMIT"])


def test_an_outbox_from_before_the_lanes_is_migrated(
    postgresql_url: str, client: Any, outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """``kinto migrate`` adds what is missing and keeps the events."""
    commit(outbox, A)
    with client.connect(force_commit=True) as session:
        session.execute(_text("DROP TABLE kinto_dispatch_lane"))
    assert not tables_exist(client)
    open_storage(postgresql_url)
    assert tables_exist(client)
    assert relay(reader) == [A]


# --- taking ------------------------------------------------------------------------------


def test_rows_come_oldest_first_and_in_the_order_written(
    outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """The order of a request's events, and of requests after one another, is kept."""
    commit(outbox, B, A)
    commit(outbox, C)
    assert relay(reader, 2) == [B, A]
    assert relay(reader, 2) == [C]


def test_a_late_commit_with_a_lower_id_is_not_missed(
    client: Any, outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """A long transaction draws its id early; later rows are relayed before it, and it
    after (R23)."""
    with long_transaction(client, A):
        commit(outbox, B)
        assert relay(reader) == [B]
        assert relay(reader) == []
    assert relay(reader) == [A]


def test_what_is_given_back_comes_again(
    outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """A batch that could not be appended is the next one, under another mark."""
    commit(outbox, A)
    first = reader.take(100)
    reader.give_back()
    second = reader.take(100)
    assert second.events == first.events
    assert int(second.mark or 0) > int(first.mark or 0)


def test_one_batch_at_a_time_over_all_readers(
    outbox: PostgresOutbox, reader: PostgresOutboxReader, other_reader: PostgresOutboxReader
) -> None:
    """Batches reach the log in the order of their marks, so nobody overtakes."""
    commit(outbox, A, B)
    held = reader.take(1)
    assert other_reader.take(1).events == ()
    reader.relayed()
    after = other_reader.take(1)
    assert after.events == [B]
    assert after.last == held.mark


def test_a_reader_that_dies_frees_its_batch(
    outbox: PostgresOutbox, reader: PostgresOutboxReader, other_reader: PostgresOutboxReader
) -> None:
    """Rows that a dead relay held are there for the others."""
    commit(outbox, A)
    reader.take(1)
    reader.close()
    assert eventually(lambda: other_reader.take(1).events, "the rows to be free") == [A]


def test_large_bodies_make_small_batches(
    outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """A batch is bounded in bytes as well as in rows, and has always one row."""
    large = [(f"event-{number}", bytes(5 * 1024 * 1024)) for number in range(3)]
    commit(outbox, *large, A)
    assert [len(relay(reader)) for _ in range(4)] == [1, 1, 2, 0]


def test_a_large_event_is_held_for_as_long_as_it_may_take(
    outbox: PostgresOutbox, reader: PostgresOutboxReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were its batch given up while it is on its way to the queue, it would be sent again, and
    again, and nothing behind it would ever leave."""
    bound = _text("SET LOCAL idle_in_transaction_session_timeout = '1s'")
    monkeypatch.setattr("kinto_dispatch.outbox.reader.BOUND_TRANSACTION", bound)
    monkeypatch.setattr("kinto_dispatch.outbox.reader.BATCH_BYTES", 1_000)
    commit(outbox, ("large", bytes(2_000)), A)
    assert [event_id for event_id, _ in reader.take(10).events] == ["large"]
    time.sleep(2.5)  # what is shown is that nothing happens in this time
    reader.relayed()
    assert relay(reader) == [A]
    commit(outbox, B)
    reader.take(10)
    time.sleep(2.5)  # longer than the server lets a usual batch be held
    with pytest.raises(OutboxUnavailable):
        reader.relayed()


def test_a_batch_that_takes_long_to_read_is_read_in_the_end(
    outbox: PostgresOutbox, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A very large event on a slow network: with the same bound each time it would never come, nor
    anything behind it. Afterwards the usual one holds again."""
    module = "kinto_dispatch.outbox.reader"
    slow = "WITH slow AS MATERIALIZED (SELECT pg_sleep(3)) SELECT id, event_id, body FROM slow"
    monkeypatch.setattr(f"{module}.TAKE_BATCH", _text(f"{slow}, kinto_dispatch_outbox"))
    monkeypatch.setattr(f"{module}.BOUND_TRANSACTION", _text("SET LOCAL statement_timeout = '1s'"))
    monkeypatch.setattr(f"{module}.STATEMENT_SECONDS", 1)
    commit(outbox, A)
    with closing(PostgresOutboxReader(postgresql_url)) as reader:
        for _ in range(2):
            with pytest.raises(OutboxUnavailable, match="statement timeout"):
                reader.take(10)
        assert relay(reader) == [A]
        with pytest.raises(OutboxUnavailable, match="statement timeout"):
            reader.take(10)


def test_an_outbox_has_a_name_unless_nobody_may_know(
    postgresql_url: str, reader: PostgresOutboxReader, other_reader: PostgresOutboxReader
) -> None:
    """The same for all readers. Where the provider of the database forbids the question, the relay
    goes on without."""
    name = reader.name()
    assert name == other_reader.name()
    assert name is not None
    assert "cluster" in name
    connection = psycopg2.connect(postgresql_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        cursor.execute("CREATE ROLE modest LOGIN")
        cursor.execute("GRANT SELECT ON kinto_dispatch_outbox TO modest")
    try:
        modest = PostgresOutboxReader(postgresql_url.replace("postgres@", "modest@"))
        assert modest.name() is None
        assert modest.last_mark() is None
        modest.close()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP OWNED BY modest")
            cursor.execute("DROP ROLE modest")
        connection.close()


def test_waiting_readers_hold_no_transaction(
    postgresql_url: str, outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """Between two batches a relay does not keep PostgreSQL from cleaning up."""
    commit(outbox, A)
    relay(reader)
    reader.take(1), reader.status(), reader.last_mark(), reader.lead()
    assert sessions(postgresql_url, "state = 'idle'") > 0
    assert sessions(postgresql_url, "state LIKE 'idle in transaction%'") == 0


def test_a_held_batch_is_dealt_with_first(
    outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """Nothing can end a batch by accident."""
    commit(outbox, A)
    reader.take(1)
    with pytest.raises(RuntimeError, match="give_back"):
        reader.status()


# --- feeding again -----------------------------------------------------------------------


def test_rows_behind_a_mark_wait_again(
    outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """What the log lost comes again, oldest first, and what it has does not."""
    marks = []
    for one in (A, B, C):
        commit(outbox, one)
        marks.append(reader.take(1).mark)
        reader.relayed()
    last = reader.last_mark()
    assert last == marks[2]
    assert reader.feed_again(marks[0], last or "") == 2
    assert reader.feed_again(marks[0], last or "") == 0
    assert reader.last_mark() == marks[0]
    assert relay(reader) == [B, C]


def test_without_a_mark_all_kept_rows_wait_again(
    outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """A log without any memory gets everything that is kept."""
    commit(outbox, A)
    relay(reader)
    last = reader.last_mark()
    assert reader.feed_again(None, last or "") == 1
    assert reader.last_mark() is None
    assert relay(reader) == [A]


def test_rows_relayed_after_the_look_stay_relayed(
    outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """What another relay did since is not undone."""
    commit(outbox, A)
    relay(reader)
    last = reader.last_mark()
    commit(outbox, B)
    relay(reader)
    assert reader.feed_again(None, last or "") == 1
    assert relay(reader) == [A]


# --- pruning and counting ----------------------------------------------------------------


def test_only_relayed_rows_are_pruned_when_their_time_is_over(
    outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """A row that waits is kept for ever, a relayed one for as long as it was promised."""
    commit(outbox, A)
    relay(reader)
    commit(outbox, B)
    assert reader.prune(3600.0) == 0
    assert reader.prune(0.0) == 1
    assert reader.prune(0.0) == 0
    assert reader.last_mark() is None
    assert relay(reader) == [B]


def test_pruning_goes_in_bounded_steps(
    outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """However many rows there are, a call takes a bounded time."""
    commit(outbox, *((f"event-{number}", b"{}") for number in range(6000)))
    relay(reader, 6000)
    assert [reader.prune(0.0) for _ in range(3)] == [5000, 1000, 0]


def test_status_counts_what_is_committed_and_not_relayed(
    client: Any, outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """Operators see how many rows wait and for how long the oldest has."""
    assert reader.status().oldest_waiting_seconds is None
    commit(outbox, A, B)
    relay(reader, 1)
    with long_transaction(client, C):
        status = reader.status()
    assert status.waiting == 1
    assert status.oldest_waiting_seconds is not None
    assert 0 <= status.oldest_waiting_seconds < 60


# --- leading -----------------------------------------------------------------------------


def test_one_reader_leads_until_its_connection_ends(
    client: Any, reader: PostgresOutboxReader, other_reader: PostgresOutboxReader
) -> None:
    """One relay polls often; when it is gone another takes over."""
    assert reader.lead()
    assert not other_reader.lead()
    assert reader.lead()
    reader.close()
    eventually(other_reader.lead, "the other reader to lead")
    assert not reader.lead()


# --- losing the connection ---------------------------------------------------------------


def terminate(url: str, condition: str = "application_name = 'kinto-dispatch'") -> None:
    """Cut all connections of our readers, or others, as an administrator or a failover does."""
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                f" AND {condition}"
            )
    finally:
        connection.close()


@pytest.mark.parametrize("events", [[A], [A, B]], ids=["one", "two"])
def test_a_cut_connection_costs_one_write(
    postgresql_url: str,
    outbox: PostgresOutbox,
    reader: PostgresOutboxReader,
    events: list[tuple[str, bytes]],
) -> None:
    """The transaction fails with a clear error and can be aborted; the next has another
    connection."""
    outbox.write([C])
    terminate(postgresql_url, "state = 'idle in transaction'")
    with pytest.raises(OutboxUnavailable, match=r"cannot be written: .*connection"):
        outbox.write(events)
    transaction.abort()
    commit(outbox, *events)
    assert relay(reader) == events


def test_a_cut_connection_costs_one_call(
    postgresql_url: str, outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """The call in hand fails, the next one works."""
    commit(outbox, A)
    assert reader.status().waiting == 1
    terminate(postgresql_url)
    with pytest.raises(OutboxUnavailable, match="Check that PostgreSQL runs"):
        reader.take(1)
    assert relay(reader) == [A]


def test_a_batch_held_over_a_cut_is_not_relayed(
    postgresql_url: str, outbox: PostgresOutbox, reader: PostgresOutboxReader
) -> None:
    """Rows whose connection broke wait again, and nobody believes them to be relayed."""
    commit(outbox, A)
    reader.take(1)
    terminate(postgresql_url)
    with pytest.raises(OutboxUnavailable):
        reader.relayed()
    with pytest.raises(OutboxUnavailable, match="No batch is held"):
        reader.relayed()
    reader.give_back()
    assert relay(reader) == [A]


def test_closing_from_another_thread_ends_a_call(tmp_path: Any) -> None:
    """A server that does not answer cannot keep a worker from ending."""
    with LocalPostgresql(tmp_path) as server:
        url = server.create_database()
        reader = PostgresOutboxReader(url)
        open_storage(url).session_factory.get_bind().dispose()
        assert reader.status().waiting == 0
        server.pause()
        failed: list[Exception] = []
        thread = threading.Thread(target=_expect_failure, args=(reader, failed))
        thread.start()
        eventually(lambda: reader._in_call.locked(), "the call to be under way")
        reader.close()
        thread.join(10)
        assert not thread.is_alive()
        assert isinstance(failed[0], OutboxUnavailable)
        server.resume()
        assert reader.status().waiting == 0
        reader.close()


def _expect_failure(reader: PostgresOutboxReader, failed: list[Exception]) -> None:
    try:
        reader.status()
    except OutboxUnavailable as error:
        failed.append(error)


def test_an_error_never_shows_the_password() -> None:
    """What operators see in logs is safe to be seen (B20)."""
    reader = PostgresOutboxReader("postgresql://kinto:s3cret@127.0.0.1:1/kinto")
    with pytest.raises(OutboxUnavailable) as caught:
        reader.take(1)
    assert "s3cret" not in str(caught.value)


def _text(statement: str) -> Any:
    from sqlalchemy import text

    return text(statement)
