"""What a worker's parent sees of the jobs that have begun, also when the worker was killed in the middle."""

import os
import signal
import threading

from pgwerk._app.clock import new_id
from pgwerk._core.agenda import MAX_CLAIM
from pgwerk._core.claim import Claimed
from pgwerk._core.job import Job
from pgwerk._core.rate import MAX_BUFFER
from pgwerk.workers.supervising.begun import BegunJobs


def claimed(claim: int = 1) -> Claimed:
    return Claimed(new_id(), "app.work", claim, None, None, True, True, Job.of, {})


def test_a_parent_sees_what_began_and_was_not_settled_in_a_child_that_was_killed() -> None:
    begun = BegunJobs(2)
    jobs = [claimed(2**40 + n) for n in range(6)]
    pid = os.fork()
    if pid == 0:
        for number, one in enumerate(jobs[:5]):
            begun.begin(one, [None, 10.0, 30.0, 10.0, None][number])
        begun.settle(jobs[0].id)
        begun.settle(jobs[5].id)
        begun.begin(jobs[0], None)
        begun.settle(jobs[3].id)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert begun.read(20.0) == {
        (jobs[0].id, 2**40): False,
        (jobs[1].id, 2**40 + 1): True,
        (jobs[2].id, 2**40 + 2): False,
        (jobs[4].id, 2**40 + 4): False,
    }
    begun.clear()
    assert begun.read(20.0) == {}


def test_too_many_jobs_leave_a_doubt_and_no_error() -> None:
    begun = BegunJobs(1)
    jobs = [claimed() for _ in range(1 + MAX_BUFFER + MAX_CLAIM)]
    for one in jobs:
        begun.begin(one, None)
    found = begun.read(0.0)
    assert found is not None
    assert found.keys() == {(one.id, 1) for one in jobs}
    more = claimed()
    begun.begin(more, None)
    assert begun.read(0.0) is None
    begun.settle(more.id)


def test_threads_do_not_take_each_others_cells() -> None:
    begun = BegunJobs(8)

    def work(jobs: list[Claimed]) -> None:
        for one in jobs:
            begun.begin(one, None)

    parts = [[claimed() for _ in range(150)] for _ in range(8)]
    threads = [threading.Thread(target=work, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = begun.read(0.0)
    assert found is not None
    assert len(found) == 8 * 150
