"""What happens in a child of the zygote: it runs the jobs that come through its socket, one at a time.

In its main thread, where a signal interrupts whatever a handler does.
"""

import _thread
import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
import traceback
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

from pgwerk._core.claim import Claimed
from pgwerk._core.enqueue_options import encode_meta
from pgwerk._core.payload import storable_text
from pgwerk._handlers.call import Hooks
from pgwerk._handlers.forked import end_of_fork
from pgwerk._handlers.interrupt import BLINK, PATIENCE, cancel_queries, stop_waiting
from pgwerk._handlers.moments import forget, may_raise, raise_at_a_record
from pgwerk._handlers.run import Run, monotonic
from pgwerk._handlers.thread import Runner
from pgwerk._handlers.thread_loop import close_loop, finish
from pgwerk.sync.runtime import runtime_of
from pgwerk.workers.crews.base import deadline_of
from pgwerk.workers.forking.channel import Board, Channel, Progress, Ready, Unusable
from pgwerk.workers.forking.signals import handled, ignore
from pgwerk.workers.forking.zygote_server import LEAVE_SECONDS
from pgwerk.workers.supervising.child import flush

logger = logging.getLogger("pgwerk.worker")


@dataclass(frozen=True)
class HostSettings:
    """What children need to know of their worker; by the fork they know it."""

    app: Any
    werk: Any
    """The app as the worker itself uses it."""
    hooks: Hooks
    board: Board
    worker_id: str
    name: str
    queues: tuple[str, ...]
    concurrency: int
    kind: str


@dataclass
class HostedWorker:
    """Stands for the worker in the context of a handler."""

    id: str
    name: str
    queues: tuple[str, ...]
    concurrency: int
    kind: str
    _board: Board = field(repr=False)
    _channel: Channel = field(repr=False)

    @property
    def stopping(self) -> bool:
        """Whether the worker is on its way out."""
        return self._board.stopping

    def report_progress(self, _claimed: Claimed, fraction: float, message: str | None) -> None:
        """Have the worker store the progress of the running job, soon."""
        # Encoded here, so that what cannot be stored is an error of the handler's.
        self._channel.send(Progress(encode_meta({"fraction": fraction, "message": message})))


def read_progress(progress: Progress) -> tuple[float, str | None]:
    """The fraction and the message."""
    value = json.loads(progress.text)
    return value["fraction"], value["message"]


@dataclass(eq=False, slots=True)
class HostedRun(Run):
    """The run of a handler in the main thread of a process of its own."""

    sending: threading.Lock = field(default_factory=threading.Lock)
    cancelled: bool = False
    delivered: bool = False

    def deliver(self, frame: FrameType | None) -> None:
        """Raise the reason in the handler, unless this is not the moment: we are asked again until it has ended."""
        if self.delivered or self.shields or self.sending.locked() or self.reason is None:
            return
        if not self.cancelled and (cancel_queries(frame) or stop_waiting(frame, self.reason)):
            # The error of the query comes first, and leaves the connection usable.
            self.cancelled = True
            return
        if frame is not None and not may_raise(frame, hurried=monotonic() > self.interrupted + PATIENCE):
            # Sooner than the worker reminds us.
            raise_at_a_record(threading.get_ident(), self.deliver)
            with contextlib.suppress(RuntimeError):
                _ = _thread.start_new_thread(_signal_again, ())
            return
        self.delivered = True
        raise self.reason

    def close(self) -> None:
        """Let nothing more be raised."""
        self.open = False
        if self.reason is not None:
            forget(threading.get_ident())

    def unshielded(self) -> None:
        """Deliver what was put off."""
        if self.open and threading.current_thread() is threading.main_thread():
            self.deliver(None)


def _signal_again() -> None:
    time.sleep(BLINK)
    os.kill(os.getpid(), signal.SIGTERM)


def host(settings: HostSettings, connection: socket.socket, slot: int) -> NoReturn:
    """Run jobs until the worker hangs up, then exit."""
    code = 1
    try:
        _Host(settings, Channel(connection), slot).serve()
        code = 0
    except (EOFError, OSError):
        # The worker is gone, or does not want us any more.
        code = 0
    except BaseException:
        logger.exception("a job process failed")
    finally:
        flush()
        # No atexit handlers and no joining of threads: those are the parent's business.
        os._exit(code)


class _Host:
    def __init__(self, settings: HostSettings, channel: Channel, slot: int) -> None:
        self._settings = settings
        self._channel = channel
        self._board = settings.board
        self._slot = slot
        self._pid = os.getpid()
        self._run: HostedRun | None = None
        werk = settings.werk
        worker = HostedWorker(
            settings.worker_id, settings.name, settings.queues, settings.concurrency, settings.kind,
            settings.board, channel,
        )  # fmt: skip
        self._runner = Runner(settings.app, worker, werk.serializer, settings.hooks, werk.get_job)

    def serve(self) -> None:
        """Run startup hooks, jobs, shutdown hooks."""
        self._set_up_signals()
        try:
            self._start_app()
        except BaseException:  # noqa: BLE001  # reported, whatever it is
            self._channel.send(Unusable(storable_text(traceback.format_exc()).rstrip()))
            return
        with contextlib.suppress(EOFError, OSError):
            self._channel.send(Ready(self._pid))
            while True:
                claimed = self._channel.receive(lambda: self._board.begin(self._slot))
                self._one(claimed)
        self._leave()

    def _start_app(self) -> None:
        app = self._settings.app
        runtime_of(app.sync).forked()
        _ = finish(app.connect())
        if os.getpid() != self._pid:
            end_of_fork(None)

    def _one(self, claimed: Claimed) -> None:
        started = monotonic()
        run = HostedRun(claimed, started, deadline_of(claimed, started), sending=self._channel.sending)
        self._run = run
        outcome = self._runner.run(run)
        self._run = None
        flush()
        self._channel.send(outcome)

    def _leave(self) -> None:
        # Nobody waits for us: should a hook hang, this ends it.
        _ = signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _ = signal.setitimer(signal.ITIMER_REAL, LEAVE_SECONDS)
        try:
            _ = finish(self._settings.app.disconnect())
        except Exception:
            logger.exception("a shutdown hook failed")
        close_loop()

    # Signals ----------------------------------------------------------------------

    def _set_up_signals(self) -> None:
        _ = signal.signal(signal.SIGTERM, self._hear)
        for number in (signal.SIGINT, signal.SIGHUP):
            _ = signal.signal(number, ignore)
        handled(
            {signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
        )

    def _hear(self, _number: int, frame: FrameType | None) -> None:
        """Interrupt the handler, if the worker says so on the board; a TERM from others is the worker's business."""
        run = self._run
        if run is None or not run.open:
            return
        if run.reason is None:
            reason = self._board.reason(self._slot)
            if reason is None or not run.mark(reason):
                return
        run.deliver(frame)
