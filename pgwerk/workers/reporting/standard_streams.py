"""Standard input, output and error of a worker, which whoever starts it may have closed."""

import contextlib
import os


def open_standard_streams() -> None:
    """Open those that are closed, on nothing.

    Their numbers would go to the next files that are opened: a traceback would be written to a connection to Postgres.
    """
    for fd in (0, 1, 2):
        try:
            _ = os.fstat(fd)
        except OSError:
            with contextlib.suppress(OSError):
                # The lowest number that is free, which is this one.
                opened = os.open(os.devnull, os.O_RDWR)
                os.set_inheritable(opened, True)
