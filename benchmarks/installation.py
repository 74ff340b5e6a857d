"""One installation of pgwerk in a schema of its own, and raw connections to the same tables."""

import json
import secrets
from types import TracebackType
from typing import Any, Self

import psycopg

from pgwerk import EnqueueParams, Werk


class Installation:
    """Tables as pgwerk makes them; both sides write to the same."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.schema = f"bench_{secrets.token_hex(4)}"
        self.jobs = f"{self.schema}._pgwerk_jobs"
        self.executions = f"{self.schema}._pgwerk_jobs_executions"

    def __enter__(self) -> Self:
        self.werk = Werk(self.dsn, schema=self.schema, config={"allow_truncate": True})
        self.werk.connect()
        self.raw: psycopg.Connection[Any] = psycopg.connect(self.dsn, autocommit=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.werk.close()
        self.execute(f"drop schema {self.schema} cascade")
        self.raw.close()

    def execute(self, text: str, params: Any = None) -> list[Any]:
        cursor = self.raw.execute(text.encode(), params)
        return cursor.fetchall() if cursor.description else []

    def truncate(self) -> None:
        self.werk.truncate()

    def fill(self, count: int) -> None:
        """Queue *count* jobs that do nothing, and settle the tables so that each drain begins alike."""
        from benchmarks.jobs import nothing  # noqa: PLC0415  # not needed by raw processes

        self.werk.enqueue_many([EnqueueParams(func=nothing, args=(n,)) for n in range(count)])
        self.execute(f"vacuum analyze {self.jobs}")
        self.execute("checkpoint")

    def spec(self, **more: Any) -> str:
        """What a process of this benchmark is told."""
        return json.dumps({"dsn": self.dsn, "schema": self.schema, **more})
