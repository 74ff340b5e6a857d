"""What every job runs: it writes down when it started. Its size tells how many have; it needs nothing but Python.

One append of eight bytes costs a microsecond or two, is never torn, and works from threads, children and other
languages alike; the monotonic clock is the same in all processes of a machine.
"""

import os
import time

_out = os.open(os.environ["BENCH_TALLY"], os.O_WRONLY | os.O_APPEND)


def nothing(number: int) -> None:  # noqa: ARG001  # jobs have arguments
    _ = os.write(_out, time.monotonic_ns().to_bytes(8, "little"))


async def nothing_async(number: int) -> None:  # noqa: ARG001  # jobs have arguments
    _ = os.write(_out, time.monotonic_ns().to_bytes(8, "little"))
