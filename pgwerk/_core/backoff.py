"""How long to wait before the next try: pure functions of the number of tries."""

BASE = 2.0
CAP = 300.0
LONGEST = 10 * 365.25 * 86400
"""No wait is longer than ten years."""


def exponential(attempt: int, *, base: float = BASE, cap: float = CAP) -> float:
    """Seconds after attempt number *attempt* (from 1): min(base * 2**i, cap), i counted from 0."""
    return min(base * 2.0 ** min(max(attempt - 1, 0), 60), cap)


def schedule(tries: int, *, base: float = BASE, cap: float = CAP) -> list[float]:
    """The delays of *tries* attempts, up to the first one that reaches the cap (the last repeats)."""
    delays: list[float] = []
    for attempt in range(1, tries):
        delays.append(exponential(attempt, base=base, cap=cap))
        if delays[-1] >= cap:
            break
    return delays


def interval(intervals: object, index: int) -> float:
    """The delay at *index*; the last one repeats, and none means at once.

    Rows may come from elsewhere: one number is taken as a list of it, and what is no duration as none.
    """
    items = intervals if isinstance(intervals, list | tuple) else [intervals]
    delay = items[min(max(index, 0), len(items) - 1)] if items else 0.0
    if isinstance(delay, bool) or not isinstance(delay, int | float):
        return 0.0
    return float(min(max(delay, 0.0), LONGEST))


def jittered(delay: float, draw: float, *, share: float = 0.25) -> float:
    """Spread *delay* by up to *share* of itself downwards, by a *draw* from 0 to 1.

    Downwards, so that a documented maximum holds.
    """
    return delay * (1.0 - share * min(max(draw, 0.0), 1.0))


def reconnect(failures: int, draw: float) -> float:
    """Seconds before connecting again after *failures* in a row: 0.1 s doubling to 5 s, with jitter."""
    return jittered(exponential(failures, base=0.1, cap=5.0), draw, share=0.5)
