"""The end of a process that a handler forked, where the handler ends: what follows is the worker's business."""

import contextlib
import os
import sys
import traceback
from types import TracebackType
from typing import NoReturn

generation = 0
"""How many forks lie between the first process and this one: cheaper to read than the process's id."""


def _forked() -> None:
    global generation  # noqa: PLW0603  # it is about the whole process
    generation += 1


os.register_at_fork(after_in_child=_forked)


class EndOfForks:
    """A block where a handler is called: a process that the handler forked, and that comes back as well, ends with it.

    It belongs to the process that made it, and may be entered any number of times.
    """

    __slots__ = ("generation",)

    def __init__(self) -> None:
        self.generation = generation

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if generation != self.generation:
            end_of_fork(error)


def end_of_fork(error: BaseException | None) -> NoReturn:
    """End a process that a handler forked, with the status of a program that ends like this.

    Without the interpreter's own end: what would be closed there is the worker's.
    """
    code = 0
    try:
        if isinstance(error, SystemExit):
            code = _status(error.code)
        elif error is not None:
            code = 1
            traceback.print_exception(error)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
    finally:
        os._exit(code)


def _status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)  # noqa: T201  # as the interpreter does
    return 1
