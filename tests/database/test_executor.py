"""The executors themselves: transactions, repeating, errors, and what a cancelled task leaves behind."""

import asyncio
import gc
import os
import random
import warnings
from typing import Any

import psycopg
import pytest

from pgwerk._core.names import Names
from pgwerk._core.operation import (
    Operation,
    Procedure,
    Statement,
    Steps,
    ask,
    found,
    nothing,
    operation,
    scalar,
    together,
)
from pgwerk._core.operations import migrate
from pgwerk.aio.executor import Executor as AioExecutor
from pgwerk.errors import ConfigError, ConnectionFailed, DatabaseError, SchemaVersionMismatch, SerializationError
from tests.fixtures.run import FACES, AioFace, Run

pytestmark = pytest.mark.every_executor

ME = Statement("select pg_backend_pid()", {}, scalar, repeatable=True)
NAP = Statement("select pg_sleep(5)", {}, nothing)


def note(text: str) -> Statement[None]:
    return Statement("insert into {queues} (name) values (%(text)s)", {"text": text}, nothing)


NOTES: Statement[list[tuple[str]]] = Statement("select name from {queues} order by name", {}, list)
FAIL = Statement("select 1 / 0", {}, nothing)


@operation()
def two_steps(fails: bool) -> Steps[None]:
    yield from note("one")
    if fails:
        yield from FAIL
    yield from note("two")


@operation()
def translated_inside() -> Steps[None]:
    yield from note("one")
    try:
        yield from FAIL
    except psycopg.Error as error:
        raise LookupError("translated") from error


def test_an_operation_is_all_or_nothing(run: Run) -> None:
    run(two_steps(False))
    assert run(NOTES) == [("one",), ("two",)]
    run(Statement("delete from {queues}", {}, nothing))
    with pytest.raises(SerializationError, match="division by zero"):
        run(two_steps(True))
    assert run(NOTES) == []


def test_an_operation_may_translate_an_error_and_is_rolled_back(run: Run) -> None:
    with pytest.raises(LookupError, match="translated"):
        run(translated_inside())
    assert run(NOTES) == []


def test_statements_together_are_all_or_nothing(run: Run) -> None:
    @operation(atomic=False)
    def batch(*statements: Statement[None]) -> Steps[list[None]]:
        return (yield from together(*statements))

    run(batch(note("a"), note("b")))
    with pytest.raises(SerializationError):
        run(batch(note("c"), FAIL, note("d")))
    with pytest.raises(SerializationError):
        run(batch(note("e"), FAIL))
    assert run(batch()) == []
    assert run(NOTES) == [("a",), ("b",)]


def test_an_operation_can_be_walked_any_number_of_times(run: Run) -> None:
    op = two_steps(False)
    run(op)
    run(Statement("delete from {queues}", {}, nothing))
    run(op)
    assert len(run(NOTES)) == 2


def test_a_procedure_sees_the_errors_of_its_operations_and_goes_on(run: Run) -> None:
    def steps() -> Procedure[str]:
        yield from ask(note("before"))
        try:
            yield from ask(two_steps(True))
        except SerializationError:
            yield from ask(note("after"))
        return "done"

    assert run.perform(steps()) == "done"
    assert run(NOTES) == [("after",), ("before",)]


def test_a_deadlock_or_a_serialization_failure_is_walked_again(run: Run) -> None:
    walks = []

    @operation()
    def unlucky(state: str) -> Steps[Any]:
        walks.append(state)
        if len(walks) < 3:
            yield from Statement("do $$ begin raise exception using errcode = '" + state + "'; end $$", {}, nothing)
        return (yield from Statement("select 42", {}, scalar))

    for state in ("40001", "40P01"):
        walks.clear()
        assert run(unlucky(state)) == 42
        assert len(walks) == 3


def test_what_never_succeeds_is_given_up(run: Run) -> None:
    @operation()
    def hopeless() -> Steps[None]:
        yield from Statement("do $$ begin raise exception using errcode = '40001'; end $$", {}, nothing)

    with pytest.raises(DatabaseError) as caught:
        run(hopeless())
    assert caught.value.sqlstate == "40001"


def test_only_what_is_repeatable_runs_again_after_a_lost_connection(run: Run, pg: psycopg.Connection) -> None:
    walks = []

    def killing(repeatable: bool) -> Operation[Any]:
        @operation(atomic=False, repeatable=repeatable)
        def steps() -> Steps[Any]:
            pid = yield from ME
            walks.append(pid)
            if len(walks) < 2:
                pg.execute("select pg_terminate_backend(%s)", [pid])
            return (yield from ME)

        return steps()

    assert run(killing(True)) == walks[1]
    assert len(walks) == 2
    walks.clear()
    with pytest.raises(ConnectionFailed):
        run(killing(False))
    assert len(walks) == 1
    assert run(ME) > 0


def test_connections_killed_while_idle_are_replaced(run: Run, pg: psycopg.Connection) -> None:
    pid = run(ME)
    pg.execute("select pg_terminate_backend(%s, 1000)", [pid])
    assert run(ME) != pid


def test_errors_say_what_to_do(run: Run) -> None:
    with pytest.raises(SchemaVersionMismatch, match="werk migrate"):
        run(Statement("select * from nowhere", {}, found))
    with pytest.raises(SchemaVersionMismatch, match="another version"):
        run(Statement("select nothing_such from {jobs}", {}, found))
    with pytest.raises(SerializationError):
        run(Statement("select %(text)s::uuid", {"text": "no uuid"}, found))
    with pytest.raises(DatabaseError, match="syntax"):
        run(Statement("selec 1", {}, found))


def test_nobody_listening_is_a_connection_error(executor_kind: str) -> None:
    with FACES[executor_kind]("postgresql://user:secret@127.0.0.1:9/x", Names(), pooled=False) as face:
        with pytest.raises(ConnectionFailed) as caught:
            face.run(ME)
        assert "127.0.0.1:9/x" in str(caught.value)
        assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        FACES[executor_kind]("host=a nonsense", Names())


def test_without_a_pool_every_operation_has_a_connection_of_its_own(executor_kind: str, dsn: str, schema: str) -> None:
    with FACES[executor_kind](dsn, Names(schema), pooled=False) as face:
        face.run(migrate.migrate())
        assert face.run(ME) != face.run(ME)
        with pytest.raises(SerializationError):
            face.run(two_steps(True))
        assert face.run(NOTES) == []


def test_closing_is_not_the_end(run: Run) -> None:
    pid = run(ME)
    if isinstance(run.face, AioFace):
        run.face.wait(run.face.executor.close())
        run.face.wait(run.face.executor.close())
    else:
        run.face.executor.close()
        run.face.executor.close()
    assert run(ME) != pid


def test_a_pooled_connection_is_used_again(run: Run) -> None:
    assert run(ME) == run(ME)


# The asyncio side -----------------------------------------------------------------


AIO = pytest.mark.parametrize("executor_kind", ["aio"], indirect=True)


@pytest.fixture
def aio(run: Run) -> AioFace:
    assert isinstance(run.face, AioFace)
    return run.face


@AIO
def test_tasks_run_side_by_side(aio: AioFace) -> None:
    async def many() -> list[Any]:
        return await asyncio.gather(*(aio.executor.run(ME) for _ in range(30)))

    assert 1 <= len(set(aio.wait(many()))) <= 4


@AIO
def test_a_cancelled_wait_leaves_no_transaction_and_a_usable_connection(
    aio: AioFace, run: Run, pg: psycopg.Connection
) -> None:
    @operation()
    def slow() -> Steps[None]:
        yield from note("half")
        yield from NAP

    async def cancelled() -> None:
        task = asyncio.create_task(aio.executor.run(slow()))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for _ in range(6):  # more often than the pool has connections
        aio.wait(cancelled())
    assert run(NOTES) == []
    assert _busy(pg) == []


def _busy(pg: psycopg.Connection) -> list[tuple[str, str]]:
    return pg.execute(
        "select state, query from pg_stat_activity where application_name = 'werk' and state <> 'idle' "
        "and backend_start > now() - interval '1 minute' and query like '%pg_sleep%'"
    ).fetchall()


@AIO
@pytest.mark.parametrize("seed", range(4))
def test_cancelling_at_any_moment_is_all_or_nothing(aio: AioFace, run: Run, seed: int) -> None:
    draw = random.Random(seed)

    @operation()
    def pair(number: int) -> Steps[None]:
        yield from note(f"{number} a")
        yield from together(note(f"{number} b"), note(f"{number} c"))
        yield from note(f"{number} d")

    async def storm() -> int:
        ended = 0
        for number in range(60):
            task = asyncio.create_task(aio.executor.run(pair(number)))
            for _ in range(draw.randint(0, 40)):
                await asyncio.sleep(0)
            if draw.random() < 0.3:
                await asyncio.sleep(draw.random() * 0.003)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                continue
            ended += 1
        return ended

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ended = aio.wait(storm())
    notes = [name for (name,) in run(NOTES)]
    assert len(notes) % 4 == 0
    assert len(notes) >= 4 * ended
    whole = {name.split()[0] for name in notes}
    assert sorted(notes) == sorted(f"{number} {letter}" for number in whole for letter in "abcd")
    run(pair(1000))


@AIO
def test_a_cancelled_transaction_of_the_callers_stays_the_callers(aio: AioFace, run: Run) -> None:
    async def scenario() -> str:
        connection = await psycopg.AsyncConnection.connect(aio.executor.conninfo)
        try:
            await aio.executor.run(note("mine"), connection)
            task = asyncio.create_task(aio.executor.run(NAP, connection))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            status = connection.info.transaction_status.name
            await connection.rollback()
            return status
        finally:
            await connection.close()

    assert aio.wait(scenario()) == "INERROR"
    assert run(NOTES) == []


def test_one_executor_serves_one_loop_after_the_other(dsn: str, schema: str) -> None:
    executor = AioExecutor(dsn, Names(schema))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pids = [asyncio.run(executor.run(ME)) for _ in range(3)]
        gc.collect()
    assert len(set(pids)) == 3
    with psycopg.connect(dsn, autocommit=True) as look:
        left: Any = None
        for _ in range(200):
            left = look.execute("select count(*) from pg_stat_activity where pid = any(%s)", [pids[:2]]).fetchone()
            if left == (0,):
                break
            look.execute("select pg_sleep(0.01)")
        assert left == (0,)
    del executor
    gc.collect()


def test_one_executor_serves_two_loops_at_once(dsn: str, schema: str) -> None:
    executor = AioExecutor(dsn, Names(schema))

    async def pause() -> int:
        first = await executor.run(ME)
        await asyncio.sleep(0.05)
        assert await executor.run(ME) == first
        await executor.close()
        return int(first)

    async def both() -> list[int]:
        return await asyncio.gather(*(asyncio.to_thread(asyncio.run, pause()) for _ in range(2)))

    assert len(set(asyncio.run(both()))) == 2


def test_a_forked_child_has_connections_of_its_own(dsn: str, schema: str) -> None:
    executor = AioExecutor(dsn, Names(schema))
    runner = asyncio.Runner()
    mine = runner.run(executor.run(ME))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            warnings.simplefilter("error")
            theirs = asyncio.run(executor.run(ME))
            gc.collect()
            code = 0 if theirs != mine else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert runner.run(executor.run(ME)) == mine
    runner.run(executor.close())
    runner.close()
