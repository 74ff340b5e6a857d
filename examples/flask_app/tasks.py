"""What runs in the background. A worker imports this module; every job gets a session of its own."""

import csv
import functools
import io
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import ParamSpec, TypeVar

from examples.flask_app.database import Rate, Report, db

P = ParamSpec("P")
R = TypeVar("R")


class BadSales(ValueError):
    """What was pasted is no list of sales: trying again is of no use."""


class RateUnknown(LookupError):
    """Nobody has entered the rate of this currency yet."""


def in_app(task: Callable[P, R]) -> Callable[P, R]:
    """Run a task in an application context, whose end also closes its session and returns its connection."""

    @functools.wraps(task)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        from examples.flask_app.app import app  # noqa: PLC0415  # the app imports its views, they import this

        with app.app_context():
            return task(*args, **kwargs)

    return run


@in_app
def build(report_id: str) -> int:
    """Add up a report; returns the number of products. Running twice does no harm, as it must be with jobs."""
    report = db.session.get(Report, report_id)
    if report is None:  # deleted meanwhile
        return 0
    sums = add_up(report.sales)
    rate = db.session.get(Rate, report.currency)
    if rate is None:
        raise RateUnknown(f"the rate of {report.currency} is not known yet")
    report.totals = {product: f"{amount * rate.euros:.2f}" for product, amount in sorted(sums.items())}
    db.session.commit()
    return len(sums)


@in_app
def expire(report_id: str) -> None:
    """Delete a report when its time is over."""
    db.session.execute(db.delete(Report).where(Report.id == report_id))
    db.session.commit()


def add_up(sales: str) -> dict[str, Decimal]:
    """Sum amounts by product; raises BadSales naming the line."""
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for number, row in enumerate(csv.reader(io.StringIO(sales), skipinitialspace=True), start=1):
        if not row:
            continue
        try:
            product, amount = row
            value = Decimal(amount)
        except (ValueError, InvalidOperation):
            raise BadSales(f"line {number}: expected 'product,amount', got {','.join(row)!r}") from None
        if not value.is_finite():
            raise BadSales(f"line {number}: {amount!r} is no amount")
        sums[product.strip()] += value
    return dict(sums)
