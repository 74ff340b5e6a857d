"""What a worker remembers of jobs that nobody can change: for a time, and not without bound."""

from hypothesis import given
from hypothesis import strategies as st

from pgwerk.workers.coordinating.untouchable import FIRST, LONGEST, MOST, UntouchableJobs


def test_each_time_it_is_met_it_is_passed_over_for_longer() -> None:
    jobs, now, pauses = UntouchableJobs(), 0.0, []
    for _ in range(12):
        jobs.put("a", "no", now)
        assert jobs.ids(now) == ["a"]
        pause = FIRST
        while jobs.ids(now + pause):
            pause += FIRST
        pauses.append(pause)
        now += pause
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (FIRST, LONGEST)


def test_what_is_not_met_again_is_forgotten() -> None:
    jobs = UntouchableJobs()
    jobs.put("a", "no", 0.0)
    assert jobs.ids(3 * LONGEST) == []
    assert not jobs


@given(st.lists(st.tuples(st.integers(0, 2 * MOST), st.floats(0, 10)), max_size=50), st.integers(0, 2 * MOST))
def test_however_many_there_are_only_so_many_are_kept(met: list[tuple[int, float]], many: int) -> None:
    jobs, now = UntouchableJobs(), 0.0
    for number in range(many):
        jobs.put(f"first {number}", "no", now)
    for number, after in met:
        now += after
        jobs.put(str(number), "no", now)
    assert len(jobs) <= MOST
    assert set(jobs.ids(now)) <= set(jobs._entries)
