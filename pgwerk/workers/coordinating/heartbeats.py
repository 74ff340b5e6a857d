"""The thread that says that a worker lives: its heartbeats wait for nothing that the worker does."""

import contextlib
import logging
import random
import threading
from collections.abc import Callable

from pgwerk._app.ports import ANSWER_SECONDS, WorkerListener
from pgwerk._core import backoff
from pgwerk._core.agenda import Pace
from pgwerk._core.stall import Motion, Stall
from pgwerk._core.statements import workers
from pgwerk._core.statements.workers import Beat
from pgwerk._handlers.run import monotonic
from pgwerk.errors import ConnectionFailed, WerkError
from pgwerk.workers.coordinating.identity import Identity
from pgwerk.workers.coordinating.wakeup import Wakeup
from pgwerk.workers.supervising.shared_heartbeats import SharedHeartbeats

logger = logging.getLogger("pgwerk.worker")

LOOKS = 2
"""Looks at the coordinator for each heartbeat, at least."""
SLOWEST = 5.0
"""Seconds between two looks, at most."""
RETRY = 0.25
"""Heartbeats after which one that failed is tried again, at the latest: the others wait for 2.5."""
GAP = 1.25
"""Heartbeats between two answers that show that Postgres and we were there all the time in between."""
END_SECONDS = ANSWER_SECONDS + 1.0


class HeartbeatThread:
    """Sends the heartbeats of one worker as long as its coordinator gets on, and holds the line that it hears on.

    The coordinator waits for the line's socket itself, so that a notification wakes it and nobody else.
    """

    def __init__(
        self,
        identity: Identity,
        listener: WorkerListener,
        pace: Pace,
        liveness: float,
        motion: Callable[[], Motion],
        wake: Callable[[], None],
        stuck: Callable[[], None],
        asking: float,
    ) -> None:
        self._identity = identity
        self._listener = listener
        self._heartbeat = pace.heartbeat
        self._liveness = liveness
        self._motion = motion
        self._wake = wake
        self._stuck = stuck
        """Called when the coordinator waits for an answer that will not come any more."""
        self._tick = min(pace.heartbeat / LOOKS, SLOWEST)
        self._stall = Stall(pace.heartbeat, self._tick, asking)
        self._wakeup = Wakeup()
        self._using = threading.Lock()
        """Whoever uses the connection; a coordinator that does not get it comes back later."""
        self._over = False
        self._thread: threading.Thread | None = None
        self.vitals = SharedHeartbeats()
        self.works: Callable[[], bool] = lambda: True
        """Whether the coordinator reaches Postgres as well; a worker that cannot claim is not well."""
        self._beat_at = 0.0
        self._failures = 0
        self._silenced = False
        self._answered: float | None = None
        self._present: float | None = None
        """Since when every heartbeat was answered in time."""
        self._answer: Beat | None = None
        self._news = False
        """Whether we began to listen since somebody asked: what was said before was not heard."""

    # From the coordinator ---------------------------------------------------------

    def start(self, registered: float) -> None:
        """Begin to beat; or again, at once. The row was written at *registered*."""
        self.vitals.beaten = registered
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="werk-heart", daemon=True)
            self._thread.start()
        else:
            self.soon()

    def soon(self) -> None:
        """Beat now."""
        self._beat_at = 0.0
        self._wakeup.force()

    @property
    def seen(self) -> float:
        """For how long (seconds) this worker and Postgres have been there without a gap."""
        answered, present, now = self._answered, self._present, monotonic()
        if answered is None or present is None or now - answered > self._gap:
            return 0.0
        return now - present

    def fileno(self) -> int:
        """The socket on which notifications arrive; -1 while that is none of the coordinator's business."""
        return -1 if self._using.locked() else self._listener.fileno()

    def drain(self) -> None:
        """Take in what has arrived. Never waits."""
        if not self._using.acquire(blocking=False):
            # Whoever has the connection takes it in.
            return
        try:
            self._listener.drain()
        except WerkError as error:
            logger.warning("%s", error)
            self.soon()
        finally:
            self._using.release()

    def heard(self) -> list[str]:
        """Take the payloads that were taken in."""
        found: list[str] = []
        with contextlib.suppress(IndexError):
            while self._listener.heard:
                payload = self._listener.heard.popleft()
                self._listener.look_for_proof(payload)
                found.append(payload)
        return found

    def answer(self) -> Beat | None:
        """Take the last answer to a heartbeat."""
        answer, self._answer = self._answer, None
        return answer

    def news(self) -> bool:
        """Whether notifications may have been missed since the last call."""
        news, self._news = self._news, False
        return news

    def wants_proof(self) -> bool:
        """Whether the coordinator should notify itself; see `WorkerListener`."""
        return self._listener.wants_proof()

    @property
    def pending(self) -> bool:
        """Whether there is anything to take."""
        return self._answer is not None or self._news or bool(self._listener.heard)

    def stop(self) -> None:
        """Beat no more, and let go of the connection."""
        if self._over:
            return
        self._over = True
        self._wakeup.force()
        if self._thread is not None:
            self._thread.join(END_SECONDS)
            if self._thread.is_alive():
                # It holds the connection, and its wait there has an end.
                return
        self._listener.close()
        self._wakeup.close()

    # The thread -------------------------------------------------------------------

    @property
    def _gap(self) -> float:
        return max(GAP * self._heartbeat, self._heartbeat + 0.5)

    def _run(self) -> None:
        while not self._over:
            try:
                self._once()
            except Exception:
                # The last resort: whatever it was, the others must not take us for dead.
                logger.exception("a heartbeat failed; retrying")
                self._later()
            self._wakeup.prepare()
            if not self._over:
                _ = self._wakeup.wait(min(self._beat_at - monotonic(), self._tick))

    def _once(self) -> None:
        now = monotonic()
        motion = self._motion()
        stuck = self._stall.look(motion, now)
        if stuck and motion.asking:
            self._stuck()
        if stuck is not self._silenced:
            self._silenced = stuck
            if stuck:
                logger.error(
                    "this worker's coordinator has been stuck for %.0f s: no more heartbeats are sent, so that other "
                    "workers take over its jobs",
                    self._stall.still,
                )
            else:
                logger.info("this worker's coordinator is no longer stuck")
                self._beat_at = now
        if not stuck and now >= self._beat_at:
            self._beat(now)
        self._listener.look_for_proof()

    def _beat(self, now: float) -> None:
        self._beat_at = now + self._heartbeat
        listened = self._listener.listening
        try:
            with self._using:
                try:
                    self._listener.connect()
                    self._listener.drain()
                    self._send()
                except ConnectionFailed:
                    self._listener.close()
                    raise
        except WerkError as error:
            self._failed(error)
        else:
            self._failures = 0
            if self._listener.listening and not listened:
                self._news = True
        if self.pending:
            self._wake()

    def _send(self) -> None:
        sent = monotonic()
        me = self._identity
        beat = self._listener.run(workers.heartbeat(me.id, self._liveness))
        if not beat.known and not self._over:
            logger.warning("this worker's row was missing: registered it again")
            self._listener.run(workers.register(me.id, me.name, me.queues, me.metadata, self._liveness))
        if self.works():
            self.vitals.beaten = sent
        now = monotonic()
        if self._answered is None or self._present is None or now - self._answered > self._gap:
            self._present = now
        self._answered = now
        self._answer = beat

    def _failed(self, error: WerkError) -> None:
        if self._failures == 0:
            log = logger.info if isinstance(error, ConnectionFailed) else logger.warning
            log("a heartbeat did not arrive: %s", error)
        self._failures += 1
        self._later()

    def _later(self) -> None:
        pause = min(backoff.reconnect(max(1, self._failures), random.random()), RETRY * self._heartbeat)
        self._beat_at = monotonic() + pause
