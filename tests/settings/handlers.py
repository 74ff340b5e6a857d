"""Handlers for databases in which everything is set the other way round."""

from typing import Any

from pgwerk import Context

SEEN: list[Any] = []


def work(*args: Any, **kwargs: Any) -> list[Any]:
    return [list(args), kwargs]


def failing(text: str) -> None:
    raise ValueError(text)


def second_time(ctx: Context, text: str) -> str:
    if ctx.job.attempts == 1:
        raise ValueError(text)
    return text


def failing_in_euro() -> None:
    raise ValueError("é 10 €")


def euro() -> str:
    return "€"
