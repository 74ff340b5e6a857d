"""Where claims begin: whatever happens, everything that can be claimed is looked at soon."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pgwerk._core.cursor import FRESH, SHARE, STALE, Cursor, Place, Range

START = datetime(2030, 1, 1, tzinfo=UTC)


def place(rank: int, second: int) -> Place:
    return (rank, START + timedelta(seconds=second), f"{second:032d}")


def furthest(claimed: list[tuple[str, int, int]]) -> dict[str, Place]:
    places: dict[str, Place] = {}
    for queue, rank, second in claimed:
        places[queue] = max(place(rank, second), places.get(queue, place(-99, 0)))
    return places


def covered(ranges: list[Range], queue: str, where: Place) -> bool:
    """Whether a claim with these ranges would find a job there."""
    return any(
        one.queue == queue and (one.first is None or where >= one.first) and (one.below is None or where[0] < one.below)
        for one in ranges
    )


def test_a_full_claim_goes_on_where_it_stopped() -> None:
    cursor = Cursor()
    assert cursor.ranges(["a", "b"], 0.0) == [Range("a", 0), Range("b", 1)]
    assert cursor.whole
    cursor.claimed({"a": place(0, 5)}, 0.01, full=True)
    ranges = cursor.ranges(["a", "b"], 0.02)
    assert ranges == [Range("a", 0, below=0), Range("a", 0, first=place(0, 5)), Range("b", 1)]
    assert not cursor.whole


def test_a_claim_that_brings_less_than_asked_is_followed_by_one_from_the_front() -> None:
    cursor = Cursor()
    _ = cursor.ranges(["a"], 0.0)
    cursor.claimed({"a": place(0, 5)}, 0.01, full=True)
    _ = cursor.ranges(["a"], 0.02)
    cursor.claimed({"a": place(0, 6)}, 0.03, full=False)
    assert cursor.ranges(["a"], 0.04) == [Range("a", 0)]


def test_claims_from_the_front_that_take_long_come_seldom() -> None:
    cursor = Cursor()
    now = 0.0
    spent = {True: 0.0, False: 0.0}
    while now < 300:
        _ = cursor.ranges(["a"], now)
        took = 1.0 if cursor.whole else 0.01
        spent[cursor.whole] += took
        now += took
        cursor.claimed({"a": place(0, int(now * 1000))}, now, full=True)
    assert spent[True] < 300 * 1.5 / SHARE


def looks(costs: list[float]) -> list[float]:
    """How long after each claim from the front, which take so long, the next one comes; others are quick."""
    cursor, now, ended, found = Cursor(), 0.0, 0.0, []
    while True:
        _ = cursor.ranges(["a"], now)
        if cursor.whole:
            found.append(now - ended)
            if not costs:
                return found[1:]
        now += costs.pop(0) if cursor.whole else 0.01
        ended = now if cursor.whole else ended
        cursor.claimed({"a": place(0, int(now * 1000))}, now, full=True)


def test_one_slow_claim_from_the_front_does_not_put_off_the_next() -> None:
    assert max(looks([0.01, 0.01, 5.0, 0.01, 5.0, 0.01])) <= FRESH + 0.02


def test_however_long_they_take_claims_from_the_front_come_again() -> None:
    assert max(looks([0.01, 60.0, 60.0, 60.0])) <= STALE + 0.02


steps = st.lists(
    st.tuples(
        st.floats(0.001, 0.1),
        st.booleans(),
        st.lists(st.tuples(st.sampled_from("ab"), st.integers(-3, 3), st.integers(0, 50)), max_size=5),
    ),
    max_size=60,
)


@given(steps, st.sampled_from("ab"), st.integers(-3, 3), st.integers(0, 50))
def test_every_place_is_looked_at_again_within_a_moment(steps: Any, queue: str, rank: int, second: int) -> None:
    cursor = Cursor()
    now = seen = 0.0
    where = place(rank, second)
    for gap, full, claimed in steps:
        now += gap
        if covered(cursor.ranges(["a", "b"], now), queue, where):
            seen = now
        # A claim from the front takes no longer here than any other.
        cursor.claimed(furthest(claimed), now, full=full)
        assert now - seen <= FRESH + 0.2


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 50)), min_size=1), st.integers(-3, 3), st.integers(0, 50))
def test_what_lies_behind_the_cursor_or_has_a_higher_priority_is_never_missed(
    claimed: list[tuple[int, int]], rank: int, second: int
) -> None:
    cursor = Cursor()
    _ = cursor.ranges(["a"], 0.0)
    places = [place(*one) for one in claimed]
    cursor.claimed({"a": max(places)}, 0.001, full=True)
    where = place(rank, second)
    if where >= max(places) or rank < max(places)[0]:
        assert covered(cursor.ranges(["a"], 0.002), "a", where)
