"""A server for one test, one benchmark, one script."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from pgwerk.embedded import locks
from pgwerk.embedded.binaries import Binaries, find
from pgwerk.embedded.cluster import Cluster
from pgwerk.embedded.server import Server

PREFIX = "pgwerk-temporary-"

SETTINGS = {"max_connections": "200", "shared_preload_libraries": ""}

UNSAFE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@contextlib.contextmanager
def temporary(
    *,
    fsync: bool = False,
    settings: Mapping[str, str] | None = None,
    binaries: Binaries | None = None,
) -> Iterator[Server]:
    """Run a fresh server for a block; the directory goes with it.

    It is fast and careless: nothing is fsynced and `Server.kill()` loses the last commits, unless
    `fsync` says otherwise (or `settings` have synchronous_commit=on, which is enough to survive
    anything but a power cut). It dies with this process, however that ends. What a killed process
    could not remove, a later call sweeps up.
    """
    binaries = binaries or find()
    sweep()
    root = Path(tempfile.mkdtemp(prefix=PREFIX))
    owner = locks.attempt(root / "owner.lock")
    options = SETTINGS | ({} if fsync else UNSAFE) | dict(settings or {})
    server = Server(Cluster(root), binaries, settings=options)
    try:
        server.cluster.create(binaries, sync=fsync)
        server.start()
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(root, ignore_errors=True)
        if owner is not None:
            locks.release(owner)


def sweep() -> None:
    """Remove directories whose process was killed; they are recognised by their free lock."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/owner.lock"):
        with contextlib.suppress(OSError):
            # A young one may not have been locked yet; another user's fails to open.
            if time.time() - lock.stat().st_mtime > 60 and not locks.is_held(lock):
                shutil.rmtree(lock.parent, ignore_errors=True)
