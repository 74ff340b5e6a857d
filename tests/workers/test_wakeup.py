"""Waiting for several things at once, in processes that have many files open."""

import fcntl
import os
import resource
import threading
import time
from collections.abc import Iterator

import pytest

from pgwerk.workers.coordinating.wakeup import Wakeup

HIGH = 1500
"""More than select() can watch."""


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    made = Wakeup()
    yield made
    made.close()


def test_a_file_descriptor_beyond_the_reach_of_select_ends_a_wait_when_it_is_readable(wakeup: Wakeup) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard <= HIGH:
        pytest.skip("this system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, HIGH + 10), hard))
    read, write = os.pipe()
    high = fcntl.fcntl(read, fcntl.F_DUPFD, HIGH)
    try:
        before = time.monotonic()
        assert wakeup.wait(0.05, high) == []
        assert time.monotonic() - before >= 0.045, "it waits"
        os.write(write, b"x")
        assert wakeup.wait(10.0, high) == [high]
    finally:
        for fd in (read, write, high):
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_socket_that_was_closed_is_reported_to_its_owner(wakeup: Wakeup) -> None:
    read, write = os.pipe()
    os.close(write)
    os.close(read)
    assert wakeup.wait(10.0, read) == [read]


def test_a_wake_before_the_wait_counts_once_it_was_prepared(wakeup: Wakeup) -> None:
    wakeup.wake()
    assert wakeup.wait(0.0) == []
    wakeup.prepare()
    thread = threading.Thread(target=wakeup.wake)
    thread.start()
    thread.join()
    before = time.monotonic()
    assert wakeup.wait(10.0) == []
    assert time.monotonic() - before < 5
