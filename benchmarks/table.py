"""Figures and how they are shown: the median of each, and its ratio to the raw one of the same round."""

from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True)
class Figure:
    """One measurement beside the raw one that was taken with it."""

    name: str
    value: float
    raw: float
    unit: str = "/s"
    details: dict[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return self.value / self.raw


def show(figures: list[Figure]) -> dict[str, float]:
    """Print the table; the ratios by name come back."""
    by_name: dict[str, list[Figure]] = {}
    for figure in figures:
        by_name.setdefault(figure.name, []).append(figure)
    print(f"\n{'':<44}{'pgwerk':>12}{'raw':>12}{'ratio':>8}  range of the ratio")
    ratios: dict[str, float] = {}
    for name, found in by_name.items():
        ratios[name] = median(one.ratio for one in found)
        value, raw, unit = median(one.value for one in found), median(one.raw for one in found), found[0].unit
        low, high = min(one.ratio for one in found), max(one.ratio for one in found)
        print(
            f"{name:<44}{_number(value, unit):>12}{_number(raw, unit):>12}{ratios[name]:>8.2f}  {low:.2f} … {high:.2f}"
        )
    with_details = {name: found for name, found in by_name.items() if found[0].details}
    if with_details:
        columns = list(next(iter(with_details.values()))[0].details)
        print(f"\n{'':<44}" + "".join(f"{column:>16}" for column in columns))
        for name, found in with_details.items():
            shown = [median(one.details.get(column, float("nan")) for one in found) for column in columns]
            print(f"{name:<44}" + "".join(f"{number:>16.3g}" for number in shown))
    return ratios


def _number(value: float, unit: str) -> str:
    return f"{value:,.0f}{unit}" if value >= 100 else f"{value:.2f}{unit}"
