"""The workers as `pgwerk.aio` shows them: `await worker.run()`.

The synchronous ones do the work in a thread beside the loop; handlers of the AsyncWorker run on the caller's loop.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from pgwerk.workers import asynchronous, fork, prefork, process, thread
from pgwerk.workers.base import BaseWorker
from pgwerk.workers.forking import signals


class _Awaitable(BaseWorker):
    """Makes `run` awaitable."""

    async def run(self) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Work until stopped; with burst, until nothing is queued or running.

        Cancelled, it stops as by `stop`: what runs is finished or, after the shutdown timeout, given back.
        """
        with self._signals_of_the_loop():
            await _beside(self._blocking_run, self.stop)

    def _blocking_run(self) -> None:
        super().run()

    @contextlib.contextmanager
    def _signals_of_the_loop(self) -> Iterator[None]:
        """Stop on TERM and INT; only where the loop runs in the main thread."""
        loop = asyncio.get_running_loop()
        added: dict[int, Any] = {}
        self._signalled = 0
        if threading.current_thread() is threading.main_thread():
            for number in (int(signal.SIGTERM), int(signal.SIGINT)):
                before = signal.getsignal(number)
                if before in (signal.SIG_DFL, signal.default_int_handler):
                    with contextlib.suppress(NotImplementedError, ValueError):
                        loop.add_signal_handler(number, self.stop_at, signal.Signals(number))
                        added[number] = before
        signals.handled(added)
        try:
            yield
        finally:
            signals.not_handled(added)
            for number in added:
                _ = loop.remove_signal_handler(number)


async def _beside(run: Callable[[], None], stop: Callable[[], None]) -> None:
    """Call *run* in a thread of its own; a cancellation calls *stop* and is passed on when it has ended."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[BaseException | None] = loop.create_future()

    def tell(error: BaseException | None) -> None:
        if not over.done():
            over.set_result(error)

    def work() -> None:
        error: BaseException | None = None
        try:
            run()
        except BaseException as raised:  # noqa: BLE001  # raised by whoever awaits
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            _ = loop.call_soon_threadsafe(tell, error)

    threading.Thread(target=work, name="werk", daemon=True).start()
    cancelled = False
    while not over.done():
        try:
            await asyncio.shield(over)
        except asyncio.CancelledError:
            cancelled = True
            stop()
    error = over.result()
    if error is not None:
        raise error
    if cancelled:
        raise asyncio.CancelledError


class Worker(_Awaitable, prefork.Worker):  # type: ignore[misc]  # awaitable where its base blocks
    """Run jobs in threads of child processes."""


class ThreadWorker(_Awaitable, thread.ThreadWorker):  # type: ignore[misc]  # awaitable where its base blocks
    """Run jobs in threads of this process; each runs coroutines on a loop of its own."""


class ProcessWorker(_Awaitable, process.ProcessWorker):  # type: ignore[misc]  # awaitable where its base blocks
    """Run jobs in child processes, one at a time each."""


class ForkWorker(_Awaitable, fork.ForkWorker):  # type: ignore[misc]  # awaitable where its base blocks
    """Run each job in a process of its own."""


class AsyncWorker(_Awaitable, asynchronous.AsyncWorker):
    """Run jobs as coroutines on the loop that awaits `run`; plain functions run in threads."""

    _caller: Any = None

    async def run(self) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Work until stopped; with burst, until nothing is queued or running.

        Cancelled, it stops as by `stop`: what runs is finished or, after the shutdown timeout, given back.
        """
        self._caller = asyncio.get_running_loop()
        await super().run()

    def _blocking_run(self) -> None:
        self.run_beside(self._caller)
