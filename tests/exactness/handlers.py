"""Handlers that do their worst; they tell what they did through the table of notes."""

import os
import time
from typing import Any

import psycopg

from pgwerk import Context, Job


def note(what: str) -> None:
    """Write down that something happened, durably and outside of any transaction of the worker's."""
    with psycopg.connect(os.environ["TEST_NOTES_DSN"], autocommit=True) as connection:
        note_on(connection, what)


def note_on(connection: "psycopg.Connection[Any]", what: str) -> None:
    query = f"insert into {os.environ['TEST_NOTES_TABLE']} (what, pid) values (%s, %s)"
    connection.execute(query.encode(), [what, os.getpid()])


def noop() -> None:
    return None


def echo(value: Any) -> Any:
    return value


def noted(name: str) -> str:
    note(name)
    return name


def nap(seconds: float) -> None:
    """Sleep in small steps, so that an interruption arrives."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.002)


def member(group: str, seconds: float) -> None:
    """A second member of the group at the same time would be seen as two rows of "enter"."""
    with psycopg.connect(os.environ["TEST_NOTES_DSN"], autocommit=True) as connection:
        note_on(connection, f"enter {group}")
        nap(seconds)
        note_on(connection, f"leave {group}")


def named_nap(name: str, seconds: float) -> str:
    note(f"start {name}")
    nap(seconds)
    note(f"end {name}")
    return name


def computes(name: str, seconds: float) -> int:
    """Never wait, so that other threads only get what the interpreter takes away."""
    note(f"start {name}")
    until, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        rounds += sum(range(1000)) > 0
    return rounds


def fails(message: str = "on purpose") -> None:
    raise ValueError(message)


def fails_noted(name: str) -> None:
    note(name)
    raise ValueError("on purpose")


def until_noted(name: str, go: str) -> str:
    """Run until somebody writes *go* into the notes."""
    note(f"start {name}")
    query = f"select count(*) from {os.environ['TEST_NOTES_TABLE']} where what = %s"
    with psycopg.connect(os.environ["TEST_NOTES_DSN"], autocommit=True) as connection:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            row = connection.execute(query.encode(), [go]).fetchone()
            if row is not None and row[0]:
                note(f"end {name}")
                return name
            time.sleep(0.005)
    raise TimeoutError(go)


def until_noted_fails(name: str, go: str) -> None:
    until_noted(name, go)
    raise ValueError("on purpose")


def swallows(name: str, seconds: float) -> str:
    """Go on, whatever is raised in between."""
    note(f"start {name}")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            nap(until - time.monotonic())
        except Exception:  # noqa: BLE001  # the point
            note(f"swallowed {name}")
    note(f"end {name}")
    return name


def blocked_in_c(name: str, seconds: float) -> None:
    """Wait where no exception arrives."""
    note(f"start {name}")
    time.sleep(seconds)


def die_once(ctx: Context, name: str) -> str:
    """Kill the process at the first attempt, which is not counted."""
    note(f"{name} {ctx.job.attempts}")
    if ctx.job.watched is None:
        os._exit(9)
    return name


def repeating(ctx: Context, name: str) -> str:
    assert ctx.job.meta == {"name": name}
    note(f"run {name} {ctx.job.repeat_remaining or 0}")
    nap(0.01)
    return name


def on_end(job: Job) -> None:
    note(f"callback {job.status.value} {job.id}")


def slow_callback(job: Job) -> None:
    note(f"callback begins {job.id}")
    nap(0.05)
    note(f"callback ends {job.id}")


def dying_callback(ctx: Context) -> None:
    """Kill the process in the middle, twice."""
    query = f"select count(*) from {os.environ['TEST_NOTES_TABLE']} where what = %s"
    what = f"callback begins {ctx.job.id}"
    note(what)
    with psycopg.connect(os.environ["TEST_NOTES_DSN"], autocommit=True) as connection:
        row = connection.execute(query.encode(), [what]).fetchone()
    if row is not None and row[0] < 3:
        os._exit(9)
    note(f"callback ends {ctx.job.id}")


# What handlers raise and return -------------------------------------------------------------------


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class ExitingText(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class ExitingNotes(Exception):
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        raise SystemExit(3)


class ExitsWhenEncoded:
    def isoformat(self) -> str:
        raise AssertionError

    @property
    def __class__(self) -> Any:  # what isinstance() asks
        raise SystemExit("while it is encoded")

    @__class__.setter
    def __class__(self, _value: Any) -> None: ...


def raises(kind: str) -> None:
    match kind:
        case "unprintable":
            raise Unprintable
        case "exiting text":
            raise ExitingText
        case "exiting notes":  # pytest itself cannot show it, so nothing may raise it past the worker
            raise ExitingNotes
        case "NUL":
            raise ValueError("a\0b")
        case "surrogate":
            raise ValueError("a\udc80b")
        case "5 MB":
            raise ValueError("x" * 5_000_000)
        case "group":
            error: Exception = ValueError("innermost")
            for _ in range(400):
                error = ExceptionGroup[Exception]("deeper", [error])
            raise error
        case "chain":
            raise chained(2_000)
        case _:
            raise AssertionError(kind)


def chained(length: int) -> Exception:
    error: Exception = ValueError("innermost")
    for number in range(length):
        outer = ValueError(f"number {number}")
        outer.__cause__ = error
        error = outer
    return error


def returns(kind: str) -> Any:
    match kind:
        case "exits when encoded":
            return ExitsWhenEncoded()
        case "NUL":
            return "a\0b"
        case "surrogate":
            return "a\udc80b"
        case "endless":
            endless: list[Any] = []
            endless.append(endless)
            return endless
        case "deep":
            deep: list[Any] = []
            for _ in range(100_000):
                deep = [deep]
            return deep
        case "NaN":
            return float("nan")
        case _:
            raise AssertionError(kind)


def recurse() -> None:
    recurse()


def segfault() -> None:
    import ctypes

    ctypes.string_at(0)


def exit_hard() -> None:
    os._exit(7)


# Context ------------------------------------------------------------------------------------------


def with_deadline(ctx: Context) -> float:
    assert ctx.deadline is not None
    assert ctx.job.started_at is not None
    return (ctx.deadline - ctx.job.started_at).total_seconds()


def without_deadline(ctx: Context) -> bool:
    return ctx.deadline is None


def progressing(ctx: Context, go: str) -> str:
    ctx.progress(0.25, "a quarter")
    until_noted("progressing", go)
    ctx.progress(1.0)
    return "done"


SEEN: list[str] = []


def until_stopping(ctx: Context, name: str) -> str:
    note(f"start {name}")
    until = time.monotonic() + 30
    try:
        while not ctx.stopping and time.monotonic() < until:
            time.sleep(0.002)
    finally:
        SEEN.append(f"stopping {name} {ctx.stopping}")
    return name


def inside_app(ctx: Context, value: int) -> int:
    """Use the app that the context brings."""
    job = ctx.app.enqueue(echo, value, _queue="elsewhere")
    return int(ctx.app.get_job(job.id).args[0])


def sync_inside(ctx: Context, value: int) -> int:
    """Run another job in the middle of this one."""
    job = ctx.app.enqueue(echo, value, _sync=True)
    return int(job.result)


def writes_and_fails(ctx: Context, attempts: int) -> int:
    if ctx.job.attempts <= attempts:
        raise ValueError(f"attempt {ctx.job.attempts}")
    return ctx.job.attempts


def in_euros(amount: int) -> str:
    """Return what not every database can store."""
    return f"{amount} \N{EURO SIGN}"


def fails_in_euros() -> None:
    """Raise it."""
    raise ValueError("no \N{EURO SIGN} left")
