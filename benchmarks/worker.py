"""A worker process of a benchmark; its argument is JSON: dsn, schema, kind and the worker's own settings.

PGWERK_PROFILE=FILE writes a cProfile of the coordinator's thread there.
"""

import cProfile
import json
import logging
import os
import sys
from typing import Any

import pgwerk


def main() -> None:
    spec: dict[str, Any] = json.loads(sys.argv[1])
    logging.basicConfig(level=spec.pop("log", "WARNING"))
    app = pgwerk.Werk(spec.pop("dsn"), schema=spec.pop("schema"))
    kind = getattr(pgwerk, spec.pop("kind"))
    worker = kind(app, **{"burst": True, **spec})
    if profile := os.environ.get("PGWERK_PROFILE"):
        profiler = cProfile.Profile()
        profiler.runcall(worker.run)
        profiler.dump_stats(profile)
    else:
        worker.run()


if __name__ == "__main__":
    main()
