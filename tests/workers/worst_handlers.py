"""Handlers that do to their process what no thread would survive."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from typing import Any

from pgwerk import Context
from tests.workers.handlers import note


def pid() -> int:
    return os.getpid()


def group() -> int:
    return os.getpgid(0)


def draw() -> float:
    return random.random()


_calls: list[int] = []


def calls() -> int:
    """Count the calls that this process has seen."""
    _calls.append(1)
    return len(_calls)


def die(name: str, number: int) -> None:
    note(f"start {name}")
    os.kill(os.getpid(), number)
    time.sleep(60)


def die_at_first(ctx: Context, number: int) -> int:
    if ctx.job.attempts == 1:
        os.kill(os.getpid(), number)
        time.sleep(60)
    return ctx.job.attempts


def eat_and_die(megabytes: int) -> None:
    eaten = b"x" * (megabytes * 2**20)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    del eaten


_eaten: list[bytes] = []


def eat(megabytes: int) -> int:
    """Grow for good."""
    _eaten.append(b"x" * (megabytes * 2**20))
    return os.getpid()


def sleeps(name: str, seconds: float) -> None:
    """Sleep in one piece, in C."""
    note(f"start {name}")
    time.sleep(seconds)
    note(f"end {name}")


def deaf(name: str, seconds: float) -> None:
    """Let no signal through."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    note(f"start {name}")
    time.sleep(seconds)
    note(f"end {name}")


def swallows(name: str, seconds: float) -> None:
    """Go on, whatever is raised."""
    note(f"start {name}")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(until - time.monotonic())
        except Exception as error:  # noqa: BLE001  # the point
            note(f"swallowed {type(error).__name__}")


def leaves_a_process_and_dies() -> None:
    """What it started keeps all its descriptors open."""
    if os.fork() == 0:
        note("left")
        time.sleep(20)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


def starts_a_program(name: str) -> None:
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    note(f"{name} {program.pid}")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    program.wait()


def forks_and_returns() -> str:
    """Let the child of the handler come back as well."""
    return "child" if os.fork() == 0 else "parent"


def terminates_a_process() -> int | None:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(10)
    return process.exitcode


def closes_everything() -> None:
    os.closerange(3, 4096)
    time.sleep(60)


def has_an_alarm() -> str:
    def ring(_number: int, _frame: Any) -> None:
        raise InterruptedError("the alarm")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        time.sleep(10)
    except InterruptedError as error:
        return str(error)
    return "no alarm"


def writes(text: str) -> None:
    sys.stdout.write(text)


def swallows_the_cancelled_query() -> None:
    import psycopg

    with psycopg.connect(os.environ["TEST_NOTES_DSN"], autocommit=True) as connection:
        try:
            connection.execute("select pg_sleep(60)")
        except psycopg.errors.QueryCanceled:
            note("cancelled")
        time.sleep(60)


def about_its_context(ctx: Context) -> dict[str, Any]:
    assert ctx.deadline is not None
    ctx.log.warning("from the handler")
    other = ctx.app.enqueue(pid, _queue="elsewhere")
    return {
        "id": ctx.worker.id,
        "name": ctx.worker.name,
        "queues": list(ctx.worker.queues),
        "function": ctx.app.get_job(other).function,
        "stopping": ctx.stopping,
    }


def reports(ctx: Context) -> None:
    """Report progress until somebody wants it to end."""
    number = 0
    while not ctx.stopping:
        number += 1
        ctx.progress(min(1.0, number / 1000), f"step {number}")
        time.sleep(0.001)


def reports_nonsense(ctx: Context) -> str:
    try:
        ctx.progress(0.5, "a\0b")
    except Exception as error:  # noqa: BLE001  # shown
        return type(error).__name__
    return "stored"


def starts_badly() -> None:
    raise ValueError("the hook does not like it here")


def note_startup() -> None:
    note("startup")


def note_shutdown() -> None:
    note("shutdown")


def signals_of_programs() -> dict[str, list[str]]:
    """What a program that a handler starts ignores and blocks, by how it was started."""
    show = ["cat", "/proc/self/status"]
    plain = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    prepared = subprocess.run(show, capture_output=True, text=True, check=True, preexec_fn=os.getpid).stdout
    spoken = os.popen("cat /proc/self/status").read()
    return {
        how: [line.split()[1] for line in text.splitlines() if line.startswith(("SigIgn", "SigBlk"))]
        for how, text in (("plain", plain), ("prepared", prepared), ("shell", spoken))
    }


def forks_and(how: str) -> int:
    """Fork; what becomes of the child."""
    child = os.fork()
    if child == 0:
        if how == "exits":
            sys.exit(3)
        if how == "raises":
            raise ValueError("in the child")
        return -1
    return _status_of(child)


async def forks_in_a_coroutine_and(how: str) -> int:
    if how == "waits":
        import asyncio

        child = os.fork()
        if child == 0:
            await asyncio.sleep(0.01)
            os._exit(77)
        return _status_of(child)
    return forks_and(how)


def _status_of(child: int) -> int:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    _ = os.waitpid(child, 0)
    return -99


def uses_multiprocessing(method: str) -> list[Any]:
    """Run something in another process, and terminate one."""
    context: Any = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    working = context.Process(target=queue.put, args=(42,))
    working.start()
    got = queue.get()
    working.join(20)
    sleeping = context.Process(target=time.sleep, args=(60,))
    sleeping.start()
    sleeping.terminate()
    sleeping.join(10)
    if sleeping.is_alive():
        sleeping.kill()
    return [got, working.exitcode, sleeping.exitcode]
