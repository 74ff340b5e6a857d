"""What the jobs run."""

import time


def nothing(number: int) -> None:
    """Take an argument, as jobs do."""


def ring(fifo: str) -> None:
    """Say when the handler started; the monotonic clock is the same in all processes of a machine."""
    now = time.monotonic_ns()
    with open(fifo, "wb", buffering=0) as out:  # noqa: PTH123  # quicker than through a Path
        _ = out.write(now.to_bytes(8, "big"))
