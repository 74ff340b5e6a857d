"""A worker process for tests: its settings are one JSON argument."""

import json
import logging
import sys

from pgwerk import AsyncWorker, ForkWorker, ProcessWorker, ThreadWorker, Werk, Worker
from pgwerk.workers.crews.base import Crew

KINDS = {"prefork": Worker, "thread": ThreadWorker, "process": ProcessWorker, "fork": ForkWorker, "async": AsyncWorker}


def main() -> None:
    spec = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(process)d %(name)s %(levelname)s %(message)s")
    logging.getLogger("psycopg").setLevel(logging.WARNING)
    app = Werk(
        spec.pop("dsn"),
        schema=spec.pop("schema"),
        config=spec.pop("config"),
        auto_migrate=spec.pop("auto_migrate", True),
    )
    Crew.grace = spec.pop("grace", Crew.grace)
    kind = KINDS[spec.pop("kind", "prefork")]
    kind(app, **spec).run()


if __name__ == "__main__":
    main()
