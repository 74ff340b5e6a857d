"""Fixtures for all tests come from the plugins named here, one subject a file."""

import signal
import sys

import pytest
from hypothesis import settings

# How long an example takes says more about the machine than about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

pytest_plugins = [
    "tests.fixtures.database",
    "tests.fixtures.run",
    "tests.fixtures.workers",
    "tests.fixtures.processes",  # after what it imports, whose assertions would not be explained otherwise
]


def pytest_configure() -> None:
    """Let programs that tests start hear Ctrl-C: what a shell runs in the background is told to ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        _ = signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what does not survive a tracer; `make unit` runs it by itself."""
    if sys.gettrace() is None:
        return
    for item in items:
        if item.get_closest_marker("untraced") is not None:
            item.add_marker(pytest.mark.skip(reason="traced; `make unit` runs it by itself"))
