"""Fixtures for all tests come from the plugins named here, one subject a file."""

pytest_plugins = [
    "tests.fixtures.database",
    "tests.fixtures.run",
    "tests.fixtures.workers",
    "tests.fixtures.processes",  # after what it imports, whose assertions would not be explained otherwise
]
