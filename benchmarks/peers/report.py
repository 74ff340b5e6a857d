"""The table: medians of all rounds, and their ratios to the raw reference of the same round."""

from dataclasses import dataclass, field
from statistics import median

from benchmarks.peers.contenders import RAW, Contender
from benchmarks.peers.turns import Result

COLUMNS = {
    "drain": "drain, jobs/s",
    "single": "enqueue, jobs/s",
    "bulk": "bulk enqueue, jobs/s",
    "p50": "start, p50 ms",
    "p99": "start, p99 ms",
}
NOTHING = "–"  # noqa: RUF001  # a dash, as tables have it
FOOTNOTE = """\
Medians of {rounds} round(s), {jobs:,} jobs that do nothing; in parentheses the ratio to the first row of the same
round: above 1 is better for rates, worse for latencies. A drain counts from the first start to the last completion that
the store shows. `enqueue` is one call after the other on one connection; `start` is from before the call to the start
of the handler on an idle worker (the raw row: NOTIFY and a claim of one). A dash: the peer has no such call, or was not
asked (rows of two workers only drain), or failed, which is said below.

Postgres: `fsync` and `synchronous_commit` on, every commit is on disk when it is counted. Redis: `appendonly yes`,
`appendfsync everysec`: it answers before anything is on disk, and a crash loses up to a second of jobs that were
already confirmed. Rows of Redis are therefore **not** as durable as the others."""


@dataclass
class Row:
    """A contender and all that was found about it; *reason* when it could not take part."""

    contender: Contender
    version: str = ""
    reason: str = ""
    results: list[Result] = field(default_factory=list)


def markdown(rows: list[Row], *, jobs: int) -> str:
    reference = next(row for row in rows if row.contender is RAW)
    lines = [
        "| | version | store | " + " | ".join(COLUMNS.values()) + " |",
        "|---|---|---|" + "---:|" * len(COLUMNS),
    ]
    for row in rows:
        cells = [row.contender.title, row.version or NOTHING, row.contender.store]
        if reason := row.reason or _failure(row):
            cells += [reason.replace("|", "/"), *[""] * (len(COLUMNS) - 1)]
        else:
            cells += [_cell(row, reference, key) for key in COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    rounds = max(len(row.results) for row in rows)
    footnote = FOOTNOTE.format(rounds=rounds, jobs=jobs)
    return "\n".join([*lines, "", footnote, *_noise(reference), "", *_remarks(rows)])


def _noise(reference: Row) -> list[str]:
    """How much the machine's other work shows."""
    found = [result.rates["drain"] for result in reference.results if "drain" in result.rates]
    if len(found) < 2:
        return []
    return [
        "",
        f"The reference drained {min(found):,.0f} … {max(found):,.0f} jobs/s: the wider, the busier the machine.",
    ]


def _failure(row: Row) -> str:
    """Why nothing at all was found."""
    if any(result.rates for result in row.results):
        return ""
    return next((note for result in row.results for note in result.notes), "not measured")


def _cell(row: Row, reference: Row, key: str) -> str:
    found = [result.rates[key] for result in row.results if key in result.rates]
    if not found:
        return NOTHING
    ratios = [
        mine.rates[key] / raw.rates[key]
        for mine, raw in zip(row.results, reference.results, strict=False)
        if key in mine.rates and key in raw.rates
    ]
    value = median(found)
    shown = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return f"{shown} ({median(ratios):.3g})" if ratios else shown


def _remarks(rows: list[Row]) -> list[str]:
    """How each was set up, and what went wrong."""
    remarks = []
    for row in rows:
        notes = dict.fromkeys(note for result in row.results for note in result.notes)
        remark = f"- {row.contender.title}: {row.contender.settings}"
        remarks.append(remark + "".join(f"; **{note}**" for note in notes))
    return remarks
