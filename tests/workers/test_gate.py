"""Who may begin, and when: watched jobs after their record, those on their last chance alone."""

from collections.abc import Sequence
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from pgwerk._app.clock import new_id
from pgwerk._core.claim import Claimed
from pgwerk._core.job import Job
from pgwerk.workers.coordinating.gate import Gate
from pgwerk.workers.crews.base import Crew


class FakeCrew:
    """Takes jobs, in order."""

    def __init__(self) -> None:
        self.jobs: list[Claimed] = []
        self.waiting = False

    def submit(self, jobs: Sequence[Claimed]) -> None:
        self.jobs += jobs

    def take_back(self) -> list[Claimed]:
        return []


def claimed(**values: Any) -> Claimed:
    job = Job(id=new_id(), **values)
    return Claimed(job.id, "app.work", 1, None, None, True, not values, lambda _: job, None, job)


KINDS = st.sampled_from([{}, {"watched": 0}, {"lost": 1}, {"max_lost": 0}, {"lost": 3}, {"lost": 1, "max_lost": 1}])


@given(st.lists(KINDS, max_size=30), st.integers(1, 4), st.integers(0, 3), st.randoms(use_true_random=False))
def test_all_begin_or_come_back_and_none_that_is_watched_without_its_record(
    kinds: list[dict[str, int]], size: int, max_lost: int, draw: Any
) -> None:
    crew = FakeCrew()
    gate = Gate(cast("Crew", crew), size, max_lost)
    jobs = [claimed(**kind) for kind in kinds]
    recorded: set[str] = set()
    returned: list[Claimed] = []
    over = 0

    def record(ones: Sequence[Claimed]) -> set[str]:
        assert len(crew.jobs) - over + len(ones) <= size, "only what has a slot"
        found = {one.id for one in ones if draw.random() < 0.8}
        recorded.update(found)
        return found

    gate.submit(jobs[: len(jobs) // 2])
    gate.submit(jobs[len(jobs) // 2 :])
    for turn in range(100):
        returned += gate.admit(len(crew.jobs) - over, record)
        returned += gate.surplus()
        running = crew.jobs[over:]
        last = [one for one in running if _last(one, max_lost)]
        assert not last or len(running) == 1, "alone"
        over += draw.randint(0, len(running)) if turn < 50 else len(running)
    assert len(gate) == 0
    assert sorted(one.id for one in [*crew.jobs, *returned]) == sorted(one.id for one in jobs)
    order = {one.id: at for at, one in enumerate(jobs)}
    places = [order[one.id] for one in crew.jobs]
    assert places == sorted(places)
    for one in crew.jobs:
        watched = one.watched or (max_lost == 0 and one.job.max_lost is None)
        assert (one.id in recorded) == watched


def _last(one: Claimed, max_lost: int) -> bool:
    limit = max_lost if one.job.max_lost is None else one.job.max_lost
    return one.job.lost > 0 and one.job.lost >= limit


def test_a_record_that_cannot_be_written_keeps_the_jobs() -> None:
    crew = FakeCrew()
    gate = Gate(cast("Crew", crew), 2, 3)
    jobs = [claimed(lost=1), claimed()]
    gate.submit(jobs)

    def fails(_ones: Sequence[Claimed]) -> set[str]:
        raise ConnectionError

    try:
        _ = gate.admit(0, fails)
    except ConnectionError:
        assert gate.take_back() == jobs
    assert crew.jobs == []
