"""Connections that are kept between uses, for the threads of one process.

It needs no thread of its own to work, and no lock: a signal handler, a finaliser or an exit handler may ask for a
connection at any moment, also while the thread that it interrupts is in here.
"""

import _thread
import contextlib
import os
import random
import threading
import time
import weakref
from collections import deque
from queue import Empty, SimpleQueue
from types import TracebackType

import psycopg

from pgwerk._postgres.connecting import (
    GLANCE,
    MAX_IDLE,
    Tries,
    all_in_use,
    answer_within,
    silent,
    slot_seconds,
    unharmed,
)
from pgwerk._postgres.own_connection import OwnConnection
from pgwerk.sync.connector import Connector

_inherited: list[object] = []
"""What belongs to a parent process: kept, because its end is the parent's business."""


class _Slot:
    """The right to hold one connection. One that got lost (an exception came at a bad moment) is replaced."""

    __slots__ = ("_home",)

    def __init__(self, home: "weakref.ref[SimpleQueue[_Slot]]") -> None:
        self._home = home

    def __del__(self) -> None:
        home = self._home()
        if home is not None:
            home.put(_Slot(self._home))


class _Stock:
    """The connections of one process."""

    def __init__(self, size: int) -> None:
        self.idle: deque[tuple[OwnConnection, float]] = deque()
        """With the time of their last use, which ascends."""
        self.slots: SimpleQueue[_Slot] = SimpleQueue()
        for _ in range(size):
            self.slots.put(_Slot(weakref.ref(self.slots)))
        self.holders: dict[int, int] = {}
        """How many connections each thread holds, or is about to."""
        self.ended = False
        self.finalizer: weakref.finalize[..., Pool] | None = None
        self._reaper: threading.Thread | None = None
        self._over = _thread.allocate_lock()
        _ = self._over.acquire()

    def pop(self) -> OwnConnection | None:
        """Take the connection that was used last, if it is still good."""
        while True:
            try:
                connection, _ = self.idle.pop()
            except IndexError:
                return None
            if silent(connection.pgconn):
                return connection
            discard(connection)

    def keep(self, connection: OwnConnection) -> None:
        """Keep a connection for the next use."""
        self.idle.append((connection, time.monotonic()))
        if self._reaper is None:
            self._start_reaper()
        if self.ended:
            self.drop()

    def drop(self) -> None:
        """Close the connections that are not in use."""
        with contextlib.suppress(IndexError):
            while True:
                discard(self.idle.pop()[0])

    def end(self) -> None:
        """Close everything; what is in use is closed when it comes back."""
        self.ended = True
        self.drop()
        with contextlib.suppress(RuntimeError):
            # It may have ended, or been told, already.
            self._over.release()

    def _start_reaper(self) -> None:
        reaper = threading.Thread(target=self._reap, name="pgwerk-idle", daemon=True)
        self._reaper = reaper
        try:
            reaper.start()
        except RuntimeError:
            # The interpreter is shutting down, or there are too many threads: then nothing is kept.
            self._reaper = None
            self.drop()

    def _reap(self) -> None:
        """Close connections that nobody has used for a while; end when there are none."""
        while True:
            if self._over.acquire(timeout=MAX_IDLE / 4):
                return
            until = time.monotonic() - MAX_IDLE
            with contextlib.suppress(IndexError):
                while self.idle[0][1] < until:
                    # The oldest is on the left; should somebody have been quicker, this one is merely younger.
                    discard(self.idle.popleft()[0])
            if not self.idle:
                self._reaper = None
                if not self.idle:
                    return
                # One came back just now, and may not have seen that nobody looks after it.
                self._reaper = threading.current_thread()


class Pool:
    """Lends connections; made anew after a fork. *size* None: each use has a new one, which is closed after it."""

    def __init__(self, connector: Connector, size: int | None, seconds: float) -> None:
        self._connector = connector
        self._size = size
        self._seconds = seconds
        self._stocks: dict[int, _Stock] = {}
        """By process; there is one, unless we were forked."""

    def lease(self) -> "Lease":
        """A connection for a block."""
        return Lease(self._connector, self._stock(), self._size, self._seconds)

    def drop_idle(self) -> None:
        """Close what is not in use."""
        stock = self._stocks.get(os.getpid())
        if stock is not None:
            stock.drop()

    @property
    def idle(self) -> int:
        """How many connections are kept that nobody uses."""
        stock = self._stocks.get(os.getpid())
        return len(stock.idle) if stock is not None else 0

    def close(self) -> None:
        """Close everything; the next use begins anew."""
        stock = self._stocks.pop(os.getpid(), None)
        if stock is not None:
            if stock.finalizer is not None:
                _ = stock.finalizer.detach()
            stock.end()

    def _stock(self) -> _Stock:
        pid = os.getpid()
        found = self._stocks.get(pid)
        if found is not None:
            return found
        # The parent's connections are not ours: neither used nor closed.
        _inherited.extend(self._stocks.pop(other, None) for other in list(self._stocks) if other != pid)
        made = _Stock(self._size or 0)
        # By setdefault, which is atomic: threads may meet here, and a lock would not survive a fork.
        found = self._stocks.setdefault(pid, made)
        if found is made:
            # At the latest at the end of the program. Exit handlers that come later still get connections.
            made.finalizer = weakref.finalize(self, _end, made, pid)
        return found


def _end(stock: _Stock, pid: int) -> None:
    if os.getpid() == pid:
        stock.end()
    else:
        _inherited.append(stock)


class Lease:
    """A connection for a block. What is begun in it is ended in it: no commit or rollback is asked for."""

    __slots__ = ("_connection", "_connector", "_seconds", "_size", "_slot", "_stock")

    def __init__(self, connector: Connector, stock: _Stock, size: int | None, seconds: float) -> None:
        self._connector = connector
        self._stock = stock
        self._size = size
        self._seconds = seconds
        self._slot: _Slot | None = None

    def __enter__(self) -> OwnConnection:
        holders, me = self._stock.holders, threading.get_ident()
        again = me in holders
        # From before it has a slot until after it has none: who interrupts us in between must not wait for it.
        holders[me] = holders.get(me, 0) + 1
        try:
            self._slot = self._free_slot(again)
            connection = self._connection = self._stock.pop() or self._new()
            connection.patience = answer_within(connection.pooled)
        except BaseException:
            self._give_slot_back()
            self._hold_no_more()
            raise
        return connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stock, connection = self._stock, self._connection
        if self._slot is not None and not connection.torn and not stock.ended and unharmed(connection.pgconn, error):
            stock.keep(connection)
        else:
            discard(connection)
        self._give_slot_back()
        self._hold_no_more()

    def _hold_no_more(self) -> None:
        holders, me = self._stock.holders, threading.get_ident()
        left = holders.get(me, 1) - 1
        if left > 0:
            holders[me] = left
        else:
            _ = holders.pop(me, None)

    def _give_slot_back(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            self._stock.slots.put(slot)

    def _free_slot(self, again: bool) -> _Slot | None:  # what the caller saw
        """Wait for the right to a connection; None for one beside the others, which is not kept.

        *again*: this thread is in here already.
        """
        if self._size is None:
            return None
        slots = self._stock.slots
        try:
            return slots.get_nowait()
        except Empty:
            if again:
                # A signal handler or finaliser of this very thread, which would wait for itself.
                return None
        seconds = slot_seconds(self._seconds)
        try:
            return slots.get(timeout=seconds)
        except Empty:
            raise all_in_use(self._size, seconds, self._connector.where) from None

    def _new(self) -> OwnConnection:
        """Connect, trying again for a while, and taking what comes back to the pool meanwhile."""
        stock, where = self._stock, self._connector.where
        tries = Tries(self._seconds, time.monotonic())
        while True:
            try:
                return self._connector.attempt()
            except psycopg.Error as error:
                me = threading.get_ident()
                # A copy, because other threads come and go.
                others = len(stock.idle) + sum(n for thread, n in list(stock.holders.items()) if thread != me)
                pause = tries.pause(error, where, others, time.monotonic(), random.random())
            until = time.monotonic() + pause
            while time.monotonic() < until:
                if (found := stock.pop()) is not None:
                    return found
                time.sleep(GLANCE)


def discard(connection: OwnConnection) -> None:
    """Close a connection, whatever its state."""
    with contextlib.suppress(Exception):
        connection.close()
