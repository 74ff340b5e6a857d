"""Moments at which no exception may be raised in a thread from outside.

Such an exception arrives at the thread's next Python instruction, also between ``lock.acquire()`` and the ``try`` that
releases it: the lock then stays taken for the life of the process. A thread is judged by its stack:

- `with` over a lock made in C is safe: the interpreter looks for exceptions nowhere between taking it and entering the
  block. So are code in C, which it never interrupts, and its own locks (of files, of `queue.SimpleQueue`).
- `threading`, `concurrent.futures`, `multiprocessing` and the import system take locks in Python code. Nothing is
  raised while one of their own functions runs; what they call may be interrupted, since they release in `finally`.
  `Condition.wait` (and thus `Event.wait`, `Queue.get`, `Future.result`) is where threads spend their time: it may be
  interrupted as soon as it waits.
- The import system and `os.path` swallow each OSError, which JobTimeout is, as every TimeoutError.
- `logging` takes locks in Python code, and its handlers swallow what is raised under them. `psycopg_pool` loses the
  connection that it is about to hand out. `coverage` takes a lock without `try` when it meets a file for the first
  time. `__del__` swallows. Nothing is raised anywhere under one of these.
- `__enter__` and `__exit__` take and give back what their block needs. They are left to finish, but not for ever:
  some wait in them.

A thread that does hardly anything but log would be seen nowhere else: logging is where it lets others run. So while an
interruption is due, the next record that the thread makes raises it (`raise_at_a_record`), before any lock is taken.

A lock that the code of a handler takes by ``acquire()`` outside of all this is the handler's own affair (`with` is the
way to take one); the worker shares none with it. Its own locks are taken by `with`, its log lines go through
`pgwerk.workers.reporting.log_writer`.
"""

import dis
import logging
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

_ANYWHERE = ("logging", "psycopg_pool", "coverage")
"""Packages under which nothing may be raised."""
_BEFORE_ITS_LOCKS = frozenset((
    "debug", "info", "warning", "error", "exception", "critical", "log", "_log", "process", "makeRecord", "findCaller",
    "getMessage",
))  # fmt: skip
"""Functions of `logging` that only prepare a record."""
_INNERMOST = (
    "threading", "concurrent.futures", "multiprocessing.synchronize", "multiprocessing.queues", "multiprocessing.heap",
    "multiprocessing.resource_tracker", "importlib._bootstrap_external", "_frozen_importlib_external", "genericpath",
)  # fmt: skip
"""Modules and packages whose own functions are left to finish."""
_IMPORTING = ("importlib._bootstrap", "_frozen_importlib")
_IMPORT_LOCKS = frozenset((
    "_get_module_lock", "_lock_unlock_module", "acquire", "release", "has_deadlock", "cb", "__init__", "__enter__",
    "__exit__",
))  # fmt: skip
"""The same for the functions of the import system that have to do with its locks."""
_BRIEF = ("contextlib", "queue", "tempfile", "weakref")
"""Modules whose own functions lose something when they are interrupted."""
_PASSAGES = ("__enter__", "__exit__")


def may_raise(frame: FrameType | None, *, hurried: bool = False) -> bool:
    """Whether an exception may be raised where a thread is; *hurried*: also where something may get lost."""
    if frame is None:
        return False
    code = frame.f_code
    module: str = frame.f_globals.get("__name__", "")
    if _within(module, _INNERMOST) and not _waits(frame, code):
        return False
    if module in _IMPORTING and code.co_name in _IMPORT_LOCKS:
        return False
    passing = code.co_name in _PASSAGES
    if (passing and module.startswith("pgwerk.")) or (not hurried and (passing or module in _BRIEF)):
        return False
    outer: FrameType | None = frame
    while outer is not None:
        name = outer.f_code.co_name
        if name == "__del__":
            return False
        if name not in _BEFORE_ITS_LOCKS and _within(outer.f_globals.get("__name__", ""), _ANYWHERE):
            return False
        outer = outer.f_back
    return True


def _within(module: str, names: tuple[str, ...]) -> bool:
    return module.startswith(names) and any(module == name or module.startswith(f"{name}.") for name in names)


def _waits(frame: FrameType, code: CodeType) -> bool:
    """Whether it waits for a condition, under the `finally` that takes the condition's lock again."""
    return code is threading.Condition.wait.__code__ and _BEGIN < frame.f_lasti < _END


def _bounds(code: CodeType) -> tuple[int, int]:
    """Where in the code of `Condition.wait` the protected part begins and ends."""
    begin = end = -1
    for instruction in dis.get_instructions(code):
        if begin < 0 and instruction.opname.startswith("STORE_FAST") and instruction.argval == "gotit":
            begin = instruction.offset
        elif begin >= 0 and end < 0 and instruction.argval == "_acquire_restore":
            end = instruction.offset
    return begin, end


_due: dict[int, Callable[[FrameType], None]] = {}
"""By the ident of a thread: what raises an interruption in it, if this is the moment."""
_make: Callable[..., logging.LogRecord] | None = None


def raise_at_a_record(thread: int, act: Callable[[FrameType], None]) -> None:
    """Call *act* with its frame whenever this thread makes a log record, until `forget`."""
    global _make  # noqa: PLW0603  # logging has one factory for the whole process
    _due[thread] = act
    if _make is None:
        # Once: a factory that is set later may call ours.
        _make = logging.getLogRecordFactory()
        logging.setLogRecordFactory(_record)


def forget(thread: int) -> None:
    """Let its records be."""
    _ = _due.pop(thread, None)


def _record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    if _due:
        act = _due.get(threading.get_ident())
        if act is not None:
            act(sys._getframe(1))  # noqa: SLF001  # whether locks are held is written on the stack
    assert _make is not None
    return _make(*args, **kwargs)


_BEGIN, _END = _bounds(threading.Condition.wait.__code__)
