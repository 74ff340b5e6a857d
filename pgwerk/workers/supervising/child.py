"""What happens in a process that the prefork parent has just forked. Nothing of the parent's is used."""

import contextlib
import faulthandler
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from pgwerk._core import backoff
from pgwerk._core.agenda import Pace
from pgwerk._core.job import DequeueStrategy
from pgwerk._core.operations.recover import Begun
from pgwerk._core.procedures.sweep import recover_dead
from pgwerk._core.statements.workers import forget
from pgwerk._handlers.call import Hooks
from pgwerk._handlers.thread_loop import finish
from pgwerk.errors import ConnectionFailed, WerkError
from pgwerk.sync.app import Werk
from pgwerk.sync.runtime import runtime_of
from pgwerk.workers.forking.signals import ignore
from pgwerk.workers.supervising.begun import BegunJobs
from pgwerk.workers.supervising.shared_heartbeats import SharedHeartbeats
from pgwerk.workers.thread import ThreadWorker

logger = logging.getLogger("pgwerk.worker")

STOP = b"s"
GIVE_BACK = b"g"
TOO_LARGE = b"m"
"""Stop, because of the memory that the process uses."""

UNUSABLE = 78
"""Exit code (EX_CONFIG of sysexits.h) of a child for whose trouble another child would be no better."""

RECOVERER_TRIES = 60.0
"""Seconds that a dead child's jobs are tried to be reported; after that the others find out by its heartbeat."""


@dataclass
class ChildSettings:
    """What a child is told."""

    worker_id: str
    threads: int
    queues: tuple[str, ...]
    pace: Pace
    strategy: DequeueStrategy
    hooks: Hooks
    max_jobs: int | None
    vitals: SharedHeartbeats
    """Where the parent looks for signs of life."""
    begun: BegunJobs
    """Where the parent looks for what had begun."""
    ours: Sequence[int]
    """The parent's ends of its other children's pipes, which must not stay open in this one."""


def run_child(app: Any, settings: ChildSettings, pipe: int) -> NoReturn:
    """Be a thread worker, then exit."""
    code = 1
    try:
        become_a_child(settings.ours)
        os.set_blocking(pipe, False)
        worker = ThreadWorker(app, settings.queues, settings.threads, dequeue_strategy=settings.strategy)
        worker.id = settings.worker_id
        worker.pace = replace(settings.pace, concurrency=settings.threads)
        worker.hooks = settings.hooks
        worker.kind = "prefork"
        worker.parent_pipe = pipe
        worker.vitals = settings.vitals
        worker.begun = settings.begun
        if settings.max_jobs is not None:
            # Not all children at once.
            worker.job_limit = max(1, int(settings.max_jobs * random.uniform(0.9, 1.0)))
        worker.run()
        finish(app.disconnect())
        code = 0
    except ConnectionFailed as error:
        if settings.pace.burst:
            logger.error("%s", error)  # noqa: TRY400  # its own text says all there is to say
            code = UNUSABLE
        else:
            # It was told to stop while it waited for Postgres.
            code = 0
    except WerkError as error:
        logger.error("%s", error)  # noqa: TRY400  # see above
        code = UNUSABLE
    except BaseException:
        logger.exception("child %d failed", os.getpid())
    finally:
        flush()
        # No atexit handlers, no joining of threads that were left behind: those are the parent's business.
        os._exit(code)


def run_recoverer(app: Werk, worker_id: str, reason: str, begun: Begun | None, ours: Sequence[int]) -> NoReturn:
    """Recover the jobs of a dead worker, then exit."""
    code = 1
    try:
        become_a_child(ours)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        deadline = time.monotonic() + RECOVERER_TRIES
        failures = 0
        while True:
            try:
                executor = runtime_of(app).backend
                recovered = executor.perform(recover_dead(worker_id, reason, begun, app.config.max_lost))
                # Everybody who has to know does; in a list of workers it would only alarm.
                executor.run(forget(worker_id))
                break
            except WerkError as error:
                failures += 1
                if time.monotonic() > deadline:
                    logger.error("could not recover the jobs of a dead child process: %s", error)  # noqa: TRY400
                    raise
                time.sleep(backoff.reconnect(failures, random.random()))
        if recovered:
            logger.warning("recovered %d jobs of a dead child process", len(recovered))
        code = 0
    except BaseException:
        logger.debug("recoverer failed", exc_info=True)
    finally:
        flush()
        os._exit(code)


def become_a_child(ours: Sequence[int]) -> None:
    """Let go of what belongs to the parent: its ends of pipes, its signal handlers, its random numbers."""
    for fd in ours:
        os.close(fd)
    faulthandler.unregister(signal.SIGUSR1)
    # A terminal's Ctrl-C goes to the whole group; the parent tells us what it means.
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ignore)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _ = signal.set_wakeup_fd(-1)
    random.seed()


def flush() -> None:
    """Write out what is buffered, so that a fork does not double it and an exit does not lose it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def resident_bytes(pid: int) -> int | None:
    """How much memory a process holds; None where that cannot be read."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:  # noqa: PTH123  # on the way of every look
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
