"""What takes a worker several transactions, done one at a time between its turns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pgwerk._core.agenda import Duty
from pgwerk._core.operation import Operation, Procedure, R


@dataclass
class _Chore:
    duty: Duty
    steps: Procedure[Any]
    done: Callable[[Any], None]
    op: Operation[Any]


class Chores:
    """Procedures that have been begun, at most one for each duty; the first goes on first."""

    def __init__(self) -> None:
        self._begun: list[_Chore] = []

    def __bool__(self) -> bool:
        return bool(self._begun)

    @property
    def first(self) -> Duty | None:
        """The duty whose procedure goes on next."""
        return self._begun[0].duty if self._begun else None

    def begin(self, duty: Duty, steps: Procedure[R], done: Callable[[R], None]) -> None:
        """Begin a procedure, whose result is passed to *done*; not while there is another for the same duty."""
        if any(chore.duty is duty for chore in self._begun):
            return
        self._begun.append(_Chore(duty, steps, done, next(steps)))

    def go_on(self, run: Callable[[Operation[Any]], Any]) -> None:
        """Run the next operation of the first one. What that raises, the procedure may catch; else it is over."""
        chore = self._begun[0]
        try:
            try:
                result = run(chore.op)
            except Exception as error:  # noqa: BLE001  # the procedure decides
                chore.op = chore.steps.throw(error)
            else:
                chore.op = chore.steps.send(result)
        except StopIteration as stop:
            del self._begun[0]
            chore.done(stop.value)
        except BaseException:
            del self._begun[0]
            raise

    def drop(self) -> None:
        """Forget them all."""
        self._begun.clear()
