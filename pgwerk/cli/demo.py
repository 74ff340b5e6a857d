"""`werk demo`: see it work, without a server."""

import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from pgwerk.cli import output, words
from pgwerk.cli.grid import Cell, Grid, Part
from pgwerk.errors import WerkError

if TYPE_CHECKING:
    from pgwerk.demo.batch import Batch, Counts
    from pgwerk.demo.worker import WorkerProcess

EMBEDDED = "embedded://"
LOOK = 0.2
"""Seconds between two looks at the counts."""
STUCK_SECONDS = 60.0


@click.command(
    epilog="""\b
Examples:
  werk demo                                        with a private Postgres, nothing to install or configure
  werk demo --dsn postgresql://localhost/mydb      in a database of yours; makes the schemas pgwerk and pgwerk_demo
  werk demo --once > demo.txt                      plain text"""
)
@click.option("--dsn", metavar="DSN", default=EMBEDDED, show_default=True, help="The Postgres to use.")
@click.option("--once", is_flag=True, help="Plain text without a progress bar, also on a terminal.")
@click.option("--processes", type=click.IntRange(1, 64), default=2, show_default=True,
              help="Child processes of the worker.")  # fmt: skip
@click.option("--keep", is_flag=True, help="Keep the finished jobs for good; else a worker deletes them after a day.")
@click.option("--files", type=click.IntRange(1), hidden=True, help="Only this many files.")
def demo(dsn: str, once: bool, processes: int, keep: bool, files: int | None) -> None:
    """Index Python's standard library, one job a file, and watch.

    Starts a private Postgres (unless --dsn names another), migrates, enqueues more than a thousand jobs at once,
    starts a worker, and shows what came out. Some of Python's test files are broken on purpose: their jobs are tried
    twice and fail. A second run replaces the results of the first.
    """
    from pgwerk import Werk  # noqa: PLC0415  # `werk --help` must not wait for the driver
    from pgwerk.demo.batch import QUEUE, Batch, python_files  # noqa: PLC0415
    from pgwerk.demo.worker import WorkerProcess  # noqa: PLC0415

    plain = once or not output.is_terminal()
    with _ended_politely():
        if dsn.startswith(EMBEDDED):
            say(f"Starting a private Postgres ({dsn}) …")
        # Without a pool a server that does not answer is an error at once.
        batch = Batch(Werk(dsn, pool=False), keep=keep)
        batch.prepare()
        say(f"Connected to Postgres at {batch.app.where}; the tables are there.")
        if left := batch.left_over():
            say(f"{left:,} jobs of an interrupted run are still queued: they come first.")
        names = python_files(files)
        began = time.monotonic()
        batch.enqueue(names)
        say(f"Enqueued {batch.total:,} jobs in {words.duration(time.monotonic() - began)}, in one transaction.")
        # The password goes through the environment, where other users cannot read it.
        worker = WorkerProcess(batch.conninfo, QUEUE, processes)
        say(f"Started a worker: werk {' '.join(worker.arguments)}")
        began = time.monotonic()
        try:
            counts = _watch_plainly(batch, worker) if plain else _watch(batch, worker)
        except KeyboardInterrupt:
            worker.stop()
            left = batch.total - batch.counts().ended
            say(f"\nStopped. {left:,} jobs are still queued; the worker of the next `werk demo` goes on with them.")
            worker.forget_log()
            raise
        finally:
            worker.stop()
        took = time.monotonic() - began
        say("")
        output.show(*results(batch, counts, took, dsn), plain=plain)
        batch.close()
        worker.forget_log()


def say(sentence: str) -> None:
    """Print a line at once, also into a pipe."""
    click.echo(sentence)


def results(batch: "Batch", counts: "Counts", took: float, dsn: str) -> list[Part]:
    """What came out, and what to try next."""
    top = Grid("The files that define most", [("file", False), ("functions", True), ("classes", True)])
    for one in batch.top_files():
        top.add(one.file, f"{one.functions:,}", f"{one.classes:,}")
    failed = batch.failed()
    columns = [("file", False), ("attempts", True), ("reason", False)]
    broken = Grid("Jobs that failed", columns, empty="No job failed.")
    if failed and all(words.reason(job.reason).startswith("SyntaxError") for job in failed):
        broken.title += ": Python's own tests need files that are broken"
    for job in failed:
        broken.add(str(job.args[0] if job.args else job.id), str(job.attempts), Cell(words.reason(job.reason), "red"))
    functions, classes = batch.totals()
    # A DSN with a user may hold a password, which does not belong on a screen.
    secret = not dsn.startswith(EMBEDDED) and ("@" in dsn or "password" in dsn)
    where = dsn if not secret else f"postgresql://{batch.app.where}"
    where = shlex.quote(where)
    total = (
        f"{counts.ended:,} jobs in {words.duration(took)} ({counts.ended / max(took, 0.001):,.0f} a second): "
        f"{counts.of('complete'):,} complete, {counts.of('failed'):,} failed, {batch.retried():,} retried. "
        f"They found {functions:,} functions and {classes:,} classes."
    )
    hints = [f"  werk info --dsn {where}", f"  werk jobs --dsn {where} --status failed"]
    if failed:
        hints.append(f"  werk job {failed[0].id} --dsn {where}")
    return [top, broken, total, "\n".join(["Look around:", *hints])]


def _watch_plainly(batch: "Batch", worker: "WorkerProcess") -> "Counts":
    said = 0.0
    counts = batch.counts()
    for counts, elapsed in _progress(batch, worker):
        if elapsed - said >= 2 or counts.ended == batch.total:
            said = elapsed
            rate = counts.ended / elapsed if elapsed else 0
            say(
                f"{counts.ended:,} of {batch.total:,} done, {counts.of('active')} active, "
                f"{counts.of('failed')} failed, {rate:,.0f} jobs/s"
            )
    return counts


def _watch(batch: "Batch", worker: "WorkerProcess") -> "Counts":
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (
        BarColumn(bar_width=None),
        TextColumn("[green]{task.fields[done]:,} done[/]"),
        TextColumn("[cyan]{task.fields[queued]:,} queued[/]"),
        TextColumn("[yellow]{task.fields[active]} active[/]"),
        TextColumn("[red]{task.fields[failed]} failed[/]"),
        TextColumn("{task.fields[rate]:,.0f} jobs/s"),
        TimeElapsedColumn(),
    )
    counts = batch.counts()
    with Progress(*columns, expand=True) as bar:
        task = bar.add_task("", total=batch.total, done=0, queued=batch.total, active=0, failed=0, rate=0.0)
        for counts, elapsed in _progress(batch, worker):
            bar.update(
                task,
                completed=counts.ended,
                done=counts.of("complete"),
                # A job that waits for its second attempt is scheduled.
                queued=counts.of("queued", "scheduled"),
                active=counts.of("active"),
                failed=counts.of("failed"),
                rate=counts.ended / elapsed if elapsed else 0.0,
            )
    return counts


def _progress(batch: "Batch", worker: "WorkerProcess") -> "Iterator[tuple[Counts, float]]":
    """Look again and again until all jobs have ended; raises WerkError when that does not happen."""
    began = moved = time.monotonic()
    ended, open_jobs = -1, batch.left_over()
    while True:
        counts = batch.counts()
        now = time.monotonic()
        if counts.ended != ended:
            ended, moved = counts.ended, now
        yield counts, now - began
        if counts.ended >= batch.total:
            return
        reason = worker.ended
        if reason is None and now - moved > STUCK_SECONDS:
            # It may be busy with what an interrupted run left.
            before, open_jobs, moved = open_jobs, batch.left_over(), now
            if open_jobs == before:
                reason = f"has finished no job for {STUCK_SECONDS:.0f} s"
        if reason is not None:
            raise WerkError(
                f"The demo's worker {reason}, {batch.total - counts.ended:,} jobs are left. "
                f"Its log is {worker.log}, and ends with:\n{worker.said()}"
            )
        time.sleep(LOOK)


@contextmanager
def _ended_politely() -> Iterator[None]:
    """Treat TERM and a closed terminal like Ctrl-C, so that no worker is left behind."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before: dict[int, Any] = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
