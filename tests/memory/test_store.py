"""The store itself: what is taken back, what is told, which indexes it keeps, and to which process it belongs."""

import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwerk._app.clock import new_id
from pgwerk._core.notifications import Due, make
from pgwerk._core.operation import Statement, Steps, operation, together
from pgwerk._core.operations.enqueue import NewJob, enqueue_many
from pgwerk._core.statements import (
    claims,
    deletions,
    enqueue,
    queries,
    recovery,
    running,
    schema,
    settling,
    upkeep,
    workers,
)
from pgwerk._handlers.moments import may_raise
from pgwerk._memory import backend
from pgwerk._memory.messages import DONE, WAKE
from pgwerk._memory.store import Store
from pgwerk._memory.tables import Edge
from pgwerk.errors import EnqueueError

WORKER = new_id()


@pytest.fixture
def store() -> Store:
    return Store()


def add(store: Store, **values: Any) -> str:
    """Insert a job; its id."""
    id_ = new_id()
    assert backend.run(store, enqueue.insert({"id": id_, "function": "f", **values}, always_tell=False))
    return id_


def everything(store: Store) -> dict[str, Any]:
    """All that the store keeps, but its clock and its numbers."""
    tables = vars(store.tables)
    plain = {name: dict(table) for name, table in tables.items() if name not in ("edges", "permits")}
    edges = {job: dict(tables["edges"].of(job)) for job in tables["edges"].jobs()}
    parents = {parent: set(jobs) for parent, jobs in tables["edges"]._by_parent.items() if jobs}
    indexes = {
        name: {key: value for key, value in getattr(store, name).items() if value}
        for name in ("_by_key", "_queues", "_lanes", "_blocked", "_callbacks")
    }
    copied = {name: {key: list(value) for key, value in index.items()} for name, index in indexes.items()}
    sets = {name: {key: sorted(map(str, value)) for key, value in index.items()} for name, index in copied.items()}
    return {
        "jobs": dict(store.jobs), **plain, "edges": edges, "parents": parents, **sets,
        "permits": tables["permits"].holders(), "expiring": set(store._expiring),
    }  # fmt: skip


# Transactions -------------------------------------------------------------------------------------


class Boom(Exception):
    pass


def changes(id_: str, other: str) -> "list[Statement[Any]]":
    """Statements that change each table."""
    return [
        enqueue.insert({"id": new_id(), "function": "g", "key": "k", "ttl": 60.0}, always_tell=True),
        enqueue.link([(other, id_, True)]),
        claims.claim(["default"], 5, WORKER),
        workers.register(WORKER, "w", ["default"], {}, 60.0),
        workers.want_notify(WORKER),
        queries.mark_awaited([id_]),
        settling.take_keys([id_]),
        deletions.delete([other]),
        schema.truncate_all(),
        enqueue.insert({"id": new_id(), "function": "h", "group_key": "x"}, always_tell=True),
        claims.claim(["default"], 5, WORKER),
    ]


@pytest.mark.parametrize("steps", range(1, 12))
def test_an_operation_that_raises_leaves_nothing_behind(store: Store, steps: int) -> None:
    id_, other = add(store, key="a", callback_of=new_id(), group_key="one"), add(store, ttl=60.0)
    _ = backend.run(store, enqueue.link([(id_, other, False)]))
    before, heard = everything(store), store.listener(WAKE, DONE)
    heard.connect()

    @operation()
    def fails() -> Steps[None]:
        for one in changes(id_, other)[:steps]:
            _ = yield (one,)
        raise Boom

    with pytest.raises(Boom):
        backend.run(store, fails())
    assert everything(store) == before
    assert heard.drain() == []
    heard.close()


def test_statements_that_are_asked_together_take_effect_together(store: Store) -> None:
    before = everything(store)
    ask = together(
        enqueue.insert({"id": new_id(), "function": "f"}, always_tell=True),
        enqueue.insert({"id": new_id(), "function": "f", "priority": 10**6}, always_tell=True),
    )

    @operation(atomic=False)
    def both() -> Steps[list[Any]]:
        return (yield from ask)

    with pytest.raises(TypeError, match="out of range"):
        backend.run(store, both())
    assert everything(store) == before


def test_an_unknown_dependency_leaves_nothing_behind(store: Store) -> None:
    new = NewJob({"id": new_id(), "function": "f", "waiting": True}, ((new_id(), False),))
    with pytest.raises(EnqueueError, match="does not exist"):
        backend.run(store, enqueue_many([new], always_tell=True))
    assert not store.jobs


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=12), st.integers(0, 12))
def test_whatever_was_done_can_be_taken_back(todo: list[tuple[int, int, bool]], kept: int) -> None:
    store = Store()
    ids = [new_id() for _ in range(4)]

    def act(which: int, what: int, odd: bool) -> None:
        id_ = ids[which]
        if id_ not in store.jobs:
            options = {"group_key": "g", "blocked": True} if odd else {"key": f"k{which}", "expires_at": store.now}
            _ = store.insert({"id": id_, "function": "f", **options}, store.now)
        elif what == 0:
            _ = store.remove(id_)
        else:
            _ = store.change(id_, status="failed" if odd else "queued", priority=what, blocked=False)
        store.tables.edges.put(ids[0], id_, Edge(allow_failure=False, satisfied=odd))
        store.tables.edges.drop(ids[what])

    for one in todo[:kept]:
        with store.transaction():
            act(*one)
    before = everything(store)
    with pytest.raises(Boom), store.transaction():  # noqa: PT012  # what was done before it is the point
        for one in todo[kept:]:
            act(*one)
        raise Boom
    assert everything(store) == before


def test_a_reader_gets_copies(store: Store) -> None:
    id_ = add(store, payload='{"args":[[1]]}', meta='{"a":[1]}')

    def read() -> Any:
        job = backend.run(store, queries.get(id_, lambda text: {"args": [text]}))
        assert job is not None
        return job

    first = read()
    first.meta["a"].append(2)
    first.payload["args"].clear()
    first.status = "failed"
    assert read().meta == {"a": [1]}
    assert read().status == "queued"
    (claimed,) = backend.run(store, claims.claim(["default"], 1, WORKER)).jobs
    claimed.job.meta["a"].append(3)  # type: ignore[index]
    assert read().meta == {"a": [1]}


# Messages -----------------------------------------------------------------------------------------


def test_listeners_hear_what_is_told_once_the_transaction_is_over(store: Store) -> None:
    heard = store.listener(WAKE)
    assert heard.fileno() == -1
    assert heard.wait(60) == []
    heard.connect()
    with store.transaction():
        for payload in ("qa", "qb", "qa"):
            store.tell(WAKE, payload)
        store.tell(DONE, "somebody else's")
        assert heard.drain() == []
    assert heard.wait(60) == [(WAKE, "qa"), (WAKE, "qb")]
    assert heard.drain() == []
    heard.close()
    assert heard.fileno() == -1


def test_a_listener_can_be_waited_for_by_select(store: Store) -> None:
    heard = store.listener(WAKE)
    heard.connect()
    assert select.select([heard], [], [], 0)[0] == []
    for _ in range(100_000):  # more than a pipe could hold
        with store.transaction():
            store.tell(WAKE, "p")
    assert select.select([heard], [], [], 0)[0] == [heard]
    assert len(heard.drain()) == 100_000
    assert select.select([heard], [], [], 0)[0] == []
    heard.close()


def test_a_listener_in_another_thread_is_woken(store: Store) -> None:
    heard = store.listener(DONE)
    heard.connect()
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.extend(heard.wait(60)))
    waiting.start()
    backend.run(store, queries.tell_waiters())
    waiting.join(60)
    assert found == [(DONE, "p")]
    heard.close()


# The clock ----------------------------------------------------------------------------------------

THEN = datetime(2030, 1, 1, tzinfo=UTC)


def test_now_is_the_same_within_a_transaction_and_each_moment_is_later(store: Store) -> None:
    store.clock.freeze()
    with store.transaction():
        began = store.now
        moments = [store.instant() for _ in range(3)]
        store.clock.advance(60)
        assert store.now == began
    assert [began, *moments] == sorted({began, *moments})
    with store.transaction():
        assert store.now > moments[-1]


def test_the_clock_can_be_set_advanced_frozen_and_let_go(store: Store) -> None:
    clock = store.clock
    clock.freeze()
    clock.set(THEN)
    assert clock.now() == THEN
    assert clock.advance(timedelta(hours=1)) == clock.now() == THEN + timedelta(hours=1)
    clock.set(THEN.replace(tzinfo=None))
    clock.resume()
    assert THEN <= clock.now() < THEN + timedelta(minutes=5)
    clock.set(datetime(2020, 1, 1, tzinfo=UTC))
    with store.transaction():
        assert store.now.year == 2020
    with pytest.raises(ValueError, match="forward only"):
        clock.advance(-1)


def test_a_job_that_is_due_in_an_hour_is_due_when_an_hour_was_skipped(store: Store) -> None:
    id_ = add(store, delay=3600.0)
    heard = store.listener(WAKE)
    heard.connect()
    assert backend.run(store, upkeep.promote(10)).moved == 0
    store.clock.advance(3601)
    assert heard.drain() == [(WAKE, make(Due(0.0)))]
    assert backend.run(store, upkeep.promote(10)).moved == 1
    assert [one.id for one in backend.run(store, claims.claim(["default"], 1, WORKER)).jobs] == [id_]
    heard.close()


def test_what_was_inserted_can_be_claimed_at_once_while_the_clock_stands(store: Store) -> None:
    store.clock.freeze()
    ids = [add(store) for _ in range(3)]
    assert [one.id for one in backend.run(store, claims.claim(["default"], 5, WORKER)).jobs] == ids


# Threads and processes ----------------------------------------------------------------------------


def test_each_job_is_claimed_by_one_of_many_threads(store: Store) -> None:
    ids = [add(store) for _ in range(300)]
    found: list[str] = []

    def work() -> None:
        while claim := backend.run(store, claims.claim(["default"], 2, WORKER)).jobs:
            found.extend(one.id for one in claim)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == ids


def test_stores_are_shared_by_name() -> None:
    name = new_id()
    assert backend.store_of(name) is backend.store_of(name)
    assert backend.store_of(name) is not backend.store_of(name + "x")
    assert backend.store_of("") is not backend.store_of("")


def in_a_child(act: Callable[[], Any]) -> str:
    """What an act raises in a forked child: the class and the text."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            act()
            told = "nothing"
        except BaseException as error:  # noqa: BLE001  # the parent shows it
            told = f"{type(error).__name__}: {error}"
        os.write(write, told.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    _ = os.waitpid(child, 0)
    return told


@pytest.mark.parametrize("locked", [False, True])
def test_a_forked_child_is_refused_even_while_somebody_holds_the_lock(store: Store, *, locked: bool) -> None:
    id_ = add(store)
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with store.transaction():
            held.set()
            _ = let_go.wait(60)

    holder = threading.Thread(target=hold)
    if locked:
        holder.start()
        assert held.wait(60)
    heard = store.listener(WAKE)
    acts: list[Callable[[], Any]] = [
        lambda: backend.run(store, queries.get(id_, str)), lambda: add(store), store.clock.now,
        lambda: store.clock.advance(1), heard.connect,
    ]  # fmt: skip
    for act in acts:
        told = in_a_child(act)
        assert told.startswith("ConfigError: an in-memory store cannot be used in another process")
        assert f"belongs to process {os.getpid()}" in told
        assert "postgresql://" in told
    assert in_a_child(lambda: add(Store())) == "nothing", "one of its own is fine"
    if locked:
        let_go.set()
        holder.join(60)
    assert backend.run(store, queries.get(id_, str)) is not None


def test_no_exception_is_raised_from_outside_while_an_operation_runs(store: Store) -> None:
    seen: list[bool] = []

    @operation()
    def looks() -> Steps[None]:
        seen.append(may_raise(sys._getframe()))
        yield (workers.prove(),)

    backend.run(store, looks())
    assert seen == [False]
    assert may_raise(sys._getframe())


def test_nothing_of_it_imports_a_driver() -> None:
    program = (
        "import sys, pgwerk._memory.backend as backend\n"
        "from pgwerk._core.statements import enqueue\n"
        "from pgwerk._app.clock import new_id\n"
        "store = backend.store_of('x')\n"
        "assert backend.run(store, enqueue.insert({'id': new_id(), 'function': 'f'}, always_tell=True))\n"
        "found = {name.split('.')[0] for name in sys.modules} & {'psycopg', 'psycopg_c', 'asyncio'}\n"
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_closed_claim_is_a_fence(store: Store) -> None:
    id_ = add(store)
    (claimed,) = backend.run(store, claims.claim(["default"], 1, WORKER)).jobs
    assert backend.run(store, running.touch([(id_, claimed.claim)])) == [id_]
    assert backend.run(store, running.touch([(id_, claimed.claim + 1)])) == []


def test_errors_name_the_statement_that_only_postgres_answers(store: Store) -> None:
    with pytest.raises(LookupError, match="script has no answer in memory"):
        backend.run(store, schema.script("select 1"))
    with pytest.raises(LookupError, match="without a name"):
        backend.run(store, Statement("select 1", {}, len))


def test_a_heartbeat_counts_only_where_somebody_could_have_seen_it(store: Store) -> None:
    id_ = add(store, heartbeat_secs=60.0)
    (claimed,) = backend.run(store, claims.claim(["default"], 1, WORKER)).jobs
    store.clock.advance(61)
    assert backend.run(store, recovery.overdue(10, 59.0)) == []
    late = (id_, claimed.claim, "worker lost: the job was not renewed for 60 s")
    assert backend.run(store, recovery.overdue(10, 60.0)) == [late]
    assert backend.run(store, recovery.overdue(10, None)) == [late], "the store is as old"


def test_a_job_outlives_its_retention_until_its_callbacks_have_ended(store: Store) -> None:
    id_ = add(store, failure_ttl=1.0)
    callback = add(store, callback_of=id_)
    with store.transaction():
        _ = store.change(id_, status="failed", expires_at=store.before(1.0))
    assert backend.run(store, deletions.lock_outlived([id_])) == []
    with store.transaction():
        _ = store.change(callback, status="complete")
    assert backend.run(store, deletions.lock_outlived([id_])) == [id_]
