"""Postgres and memory side by side: each step is done to both, and all that can be seen of it must be the same.

What only one side can know is translated: jobs that the database itself inserted (callbacks, repetitions) are named
after their function, claims and executions are counted, and times may differ by as much as a step takes.
"""

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import psycopg
from psycopg.rows import dict_row

from pgwerk._core.claim import Claim, Claimed
from pgwerk._core.names import Names
from pgwerk._core.operation import Operation, Procedure
from pgwerk._core.statements.columns import JSON_COLUMNS, SELECTED
from pgwerk._memory import backend
from pgwerk._memory.messages import DONE, WAKE
from pgwerk._memory.rows import lane
from pgwerk._memory.store import Store
from pgwerk.errors import DatabaseError, WerkError
from tests.fixtures.run import SyncFace

TIMES = ("scheduled_at", "enqueued_at", "started_at", "completed_at", "touched_at", "expires_at")
COMPARED = (*(name for name in SELECTED if name not in (*TIMES, "claim_id", "watched")),
            "wait_delay", "budget", "blocked", "awaited", "lane")  # fmt: skip
PARSED = (*JSON_COLUMNS, "result", "progress")
CLOSE = timedelta(seconds=20)
"""How far the times of both sides may be apart."""
MARKER = "the last one"
NAMELESS = re.compile(r"running-\d+")


class Side:
    """One of the two."""

    def __init__(self) -> None:
        self.held: dict[str, Claimed] = {}
        """Claimed jobs, by their names."""
        self.known: dict[str, str] = {}
        """The names of all jobs that ever were, by id."""

    def run(self, op: Operation[Any]) -> Any:
        raise NotImplementedError

    def perform(self, steps: Procedure[Any]) -> Any:
        raise NotImplementedError

    def rows(self) -> list[dict[str, Any]]:
        """All jobs, by id."""
        raise NotImplementedError

    def executions(self) -> list[tuple[Any, ...]]:
        """Job, attempt, status, error, result; as recorded."""
        raise NotImplementedError

    def edges(self) -> list[tuple[Any, ...]]:
        raise NotImplementedError

    def permits(self) -> list[tuple[Any, ...]]:
        raise NotImplementedError

    def claims(self) -> list[tuple[Any, ...]]:
        """Worker and jobs."""
        raise NotImplementedError

    def workers(self) -> list[tuple[Any, ...]]:
        """Id, name, queues, status, metadata, when it was heard, when it counts as dead."""
        raise NotImplementedError

    def others(self) -> list[tuple[Any, ...]]:
        """Who sleeps, and the queues: whether they are paused, and why."""
        raise NotImplementedError

    def heard(self) -> list[tuple[str, str]]:
        """What was told since this was asked before: (channel, payload)."""
        raise NotImplementedError

    def shift(self, id_: str, column: str, seconds: float) -> None:
        """Move a time of a job into the past."""
        raise NotImplementedError

    def shift_worker(self, id_: str, heard: float, dead: float) -> None:
        """Let a worker have been heard so many seconds ago, and count as dead for so many."""
        raise NotImplementedError

    def shift_silence(self, id_: str, seconds: float) -> None:
        """Let a silence that was seen have been seen earlier."""
        raise NotImplementedError

    def shift_claims(self, worker: str, seconds: float) -> None:
        """Let a worker have claimed earlier."""
        raise NotImplementedError

    # Names --------------------------------------------------------------------------

    def names(self) -> dict[str, str]:
        self.known |= {row["id"]: f"{row['function']}/{row['repeat_remaining']}" for row in self.rows()}
        return self.known

    def id_of(self, name: str) -> str:
        return {name: id_ for id_, name in self.names().items()}[name]

    def seen(self) -> dict[str, Any]:
        """Everything that is stored, in words that both sides share."""
        rows, names = self.rows(), self.names()
        jobs = []
        for row in rows:
            known = {name: row[name] for name in (*COMPARED, *TIMES)}
            watched = row["watched"] and ("by this claim" if row["watched"] == row["claim_id"] else "by another")
            known |= {"claim_id": row["claim_id"] is not None, "watched": watched}
            jobs.append({**known, "id": names[row["id"]], "callback_of": names.get(row["callback_of"] or "")})
        executions = [(names.get(job, job), *rest) for job, *rest in self.executions()]
        return {
            "jobs": sorted(jobs, key=lambda job: (job["id"], job["status"])),
            "executions": sorted(executions, key=lambda row: tuple(map(str, row))),
            "edges": sorted((names.get(a, a), names.get(b, b), *rest) for a, b, *rest in self.edges()),
            "permits": sorted((key, slot, names.get(job, job)) for key, slot, job in self.permits()),
            "claims": sorted(
                (worker, sorted(str(names.get(id_, id_)) for id_ in ids)) for worker, ids in self.claims()
            ),
            "workers": sorted(self.workers()),
            "others": sorted(self.others()),
        }

    def words(self, value: Any) -> Any:  # noqa: C901  # one case a kind of value
        """A result in words that both sides share."""
        names = self.names()

        def translate(item: Any) -> Any:  # noqa: C901
            match item:
                case Enum():
                    return repr(item)
                case str():
                    for id_, name in names.items():
                        item = item.replace(id_, name)
                    return NAMELESS.sub("running", item)
                case datetime() | float():
                    return "a time"
                case bool() | int() | None:
                    return item
                case Claim():
                    return [
                        [translate(one) for one in item.jobs], sorted(item.denied), item.passed_over, item.largest,
                        item.curbed, item.last_queue, sorted(item.last), len(item),
                    ]  # fmt: skip
                case Claimed():
                    facts = (item.plain, item.bare, item.watched, item.heartbeat_secs, item.timeout_secs, item.payload)
                    return [*facts, translate(item.callback_of), item.claim > 0, translate(item.job)]
                case dict():
                    return {translate(key): translate(each) for key, each in item.items()}
                case list() | tuple() | set():
                    return [translate(each) for each in item]
                case _:
                    pass
            if is_dataclass(item):
                numbers = {"claim_id", "watched"} | ({"id"} if type(item).__name__ == "JobExecution" else set())
                found = {
                    one.name: translate(getattr(item, one.name)) for one in fields(item) if one.name not in numbers
                }
                watched = getattr(item, "watched", None)
                return {**found, "watched": watched if watched is None else bool(watched)}
            if hasattr(item, "__dict__"):
                return {key: translate(each) for key, each in vars(item).items() if not key.startswith("_")}
            return item

        return translate(value)

    def told(self) -> list[Any]:
        """What was told, in words that both sides share."""
        names, found = self.names(), []
        for channel, payload in self.heard():
            kind, rest = ("", payload) if channel == DONE else (payload[:1], payload[1:])
            if kind == "d":
                rest = "some time"
            elif kind in ("w", "") and payload != "p":
                found += [(channel, kind, names.get(id_, id_)) for id_ in rest.split(",")]
                continue
            found.append((channel, kind, rest))
        return sorted(found)


class PostgresSide(Side):
    """The real one."""

    def __init__(self, face: SyncFace, pg: "psycopg.Connection[Any]", names: Names) -> None:
        super().__init__()
        self.face, self.pg, self.tables = face, pg, names
        self.ear = psycopg.connect(face.executor.conninfo, autocommit=True)
        self.channels = {names.wake_channel: WAKE, names.done_channel: DONE}
        for channel in self.channels:
            self.ear.execute(f'listen "{channel}"'.encode())

    def run(self, op: Operation[Any]) -> Any:
        return self.face.run(op)

    def perform(self, steps: Procedure[Any]) -> Any:
        return self.face.perform(steps)

    def sql(self, text: str, *params: Any) -> list[tuple[Any, ...]]:
        cursor = self.pg.execute(self.tables.render(text, with_params=True).encode(), params)
        return cursor.fetchall() if cursor.description else []

    def rows(self) -> list[dict[str, Any]]:
        text = self.tables.render(
            "select j.*, j.id::text as id, j.worker_id::text as worker_id, j.callback_of::text as callback_of"
            " from {jobs} j order by j.id",
            with_params=False,
        )
        with self.pg.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(text.encode()).fetchall()

    def executions(self) -> list[tuple[Any, ...]]:
        return self.sql("select job_id::text, attempt, status, worker_id::text, error, result::text from {executions}")

    def edges(self) -> list[tuple[Any, ...]]:
        return self.sql("select job_id::text, depends_on::text, allow_failure, satisfied from {job_deps}")

    def permits(self) -> list[tuple[Any, ...]]:
        return self.sql("select key, slot, job_id::text from {permits}")

    def claims(self) -> list[tuple[Any, ...]]:
        return self.sql("select worker_id::text, job_ids::text[] from {claims}")

    def workers(self) -> list[tuple[Any, ...]]:
        return self.sql(
            "select id::text, name, queue, status, (metadata - 'silent_at')::text, metadata ? 'silent_at',"
            " heartbeat_at, expires_at from {worker}"
        )

    def others(self) -> list[tuple[Any, ...]]:
        return self.sql(
            "select worker_id::text, false, '' from {idle}"
            " union all select name, paused_at is not null, coalesce(reason, '') from {queues}"
        )

    def heard(self) -> list[tuple[str, str]]:
        channel = next(iter(self.channels))
        self.ear.execute("select pg_notify(%s, %s)", [channel, MARKER])
        found = []
        for notify in self.ear.notifies(timeout=20):
            if notify.payload == MARKER:
                break
            found.append((self.channels[notify.channel], notify.payload))
        return found

    def shift(self, id_: str, column: str, seconds: float) -> None:
        self.sql(f"update {{jobs}} set {column} = {column} - %s * interval '1 s' where id = %s", seconds, id_)

    def shift_worker(self, id_: str, heard: float, dead: float) -> None:
        self.sql(
            "update {worker} set heartbeat_at = now() - %s * interval '1 s', expires_at = now() - %s * interval '1 s'"
            " where id = %s", heard, dead, id_,
        )  # fmt: skip

    def shift_silence(self, id_: str, seconds: float) -> None:
        self.sql(
            "update {worker} set metadata = jsonb_set(metadata, '{silent_at}',"
            " to_jsonb((metadata ->> 'silent_at')::numeric - %s)) where id = %s and metadata ? 'silent_at'"
            .replace("'{silent_at}'", "array['silent_at']"), seconds, id_,
        )  # fmt: skip

    def shift_claims(self, worker: str, seconds: float) -> None:
        self.sql("update {claims} set claimed_at = now() - %s * interval '1 s' where worker_id = %s", seconds, worker)

    def close(self) -> None:
        self.ear.close()


class MemorySide(Side):
    """The one that is tested."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.ear = store.listener(WAKE, DONE)
        self.ear.connect()

    def run(self, op: Operation[Any]) -> Any:
        return backend.run(self.store, op)

    def perform(self, steps: Procedure[Any]) -> Any:
        return backend.perform(self.store, steps)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {**row, **{name: json.loads(row[name]) for name in PARSED if row[name] is not None}, "lane": lane(row)}
            for _, row in sorted(self.store.jobs.items())
        ]

    def executions(self) -> list[tuple[Any, ...]]:
        return [
            (job, one.attempt, one.status, one.worker_id, one.error, one.result)
            for job, attempts in self.store.tables.executions.items()
            for one in attempts
        ]

    def edges(self) -> list[tuple[Any, ...]]:
        return [
            (job, parent, edge.allow_failure, edge.satisfied)
            for job in self.store.tables.edges.jobs()
            for parent, edge in self.store.tables.edges.of(job).items()
        ]

    def permits(self) -> list[tuple[Any, ...]]:
        return list(self.store.tables.permits.holders())

    def claims(self) -> list[tuple[Any, ...]]:
        return [(claim.worker, list(claim.job_ids)) for claim in self.store.tables.claims.values()]

    def workers(self) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for id_, row in self.store.tables.workers.items():
            metadata = json.loads(row["metadata"])
            silent = metadata.pop("silent_at", None) is not None
            texts = (row["name"], row["queue"], row["status"], json.dumps(metadata, ensure_ascii=False))
            found.append((id_, *texts, silent, row["heartbeat_at"], row["expires_at"]))
        return found

    def others(self) -> list[tuple[Any, ...]]:
        queues = self.store.tables.queues.items()
        paused = [(name, pause.since is not None, pause.reason or "") for name, pause in queues]
        return [(worker, False, "") for worker in self.store.tables.idle] + paused

    def heard(self) -> list[tuple[str, str]]:
        return self.ear.drain()

    def shift(self, id_: str, column: str, seconds: float) -> None:
        moment = self.store.jobs[id_][column] if id_ in self.store.jobs else None
        if moment is not None:
            with self.store.transaction():
                _ = self.store.change(id_, **{column: moment - timedelta(seconds=seconds)})

    def shift_worker(self, id_: str, heard: float, dead: float) -> None:
        with self.store.transaction():
            times = {"heartbeat_at": self.store.before(heard), "expires_at": self.store.before(dead)}
            self.store.tables.workers.put(id_, {**self.store.tables.workers[id_], **times})

    def shift_silence(self, id_: str, seconds: float) -> None:
        row = self.store.tables.workers[id_]
        metadata = json.loads(row["metadata"])
        with contextlib.suppress(KeyError), self.store.transaction():
            metadata["silent_at"] -= seconds
            self.store.tables.workers.put(id_, {**row, "metadata": json.dumps(metadata)})

    def shift_claims(self, worker: str, seconds: float) -> None:
        with self.store.transaction():
            for number, claim in list(self.store.tables.claims.items()):
                if claim.worker == worker:
                    self.store.tables.claims.put(number, claim._replace(at=self.store.before(seconds)))

    def close(self) -> None:
        self.ear.close()


@dataclass
class Both:
    """The two sides."""

    postgres: PostgresSide
    memory: MemorySide

    def follow(self) -> None:
        """Let memory have Postgres's time, and be as old."""
        store, clock = self.memory.store, self.memory.store.clock
        clock.freeze()
        ((now, store.since),) = self.postgres.sql("select clock_timestamp(), pg_postmaster_start_time()")
        clock.set(now)
        _ = self.memory.heard()  # that the clock was moved

    def do(self, what: Callable[[Side], Any]) -> Any:
        """Do something to both; the result, which has to be the same, or what was raised, the same."""
        self.follow()
        first, second = (self._one(side, what) for side in (self.postgres, self.memory))
        assert second == first, f"\nPostgres: {first}\nmemory:   {second}"
        told, also = self.postgres.told(), self.memory.told()
        assert also == told, f"\nPostgres told: {told}\nmemory told:   {also}"
        return first

    @staticmethod
    def _one(side: Side, what: Callable[[Side], Any]) -> Any:
        try:
            found = what(side)
        except DatabaseError as error:
            return f"raised DatabaseError {error.sqlstate}"
        except WerkError as error:
            return f"raised {type(error).__name__}"
        return side.words(found)

    def compare(self) -> None:
        """All that is stored must be the same."""
        first, second = self.postgres.seen(), self.memory.seen()
        for table, rows in first.items():
            assert len(second[table]) == len(rows), f"\nPostgres: {rows}\nmemory:   {second[table]}"
            for row, mine in zip(rows, second[table], strict=True):
                assert alike(row, mine), f"{table}\nPostgres: {row}\nmemory:   {mine}"


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same, or times that are close to each other."""
    match one, other:
        case datetime(), datetime():
            return abs(one - other) < CLOSE
        case dict(), dict():
            return one.keys() == other.keys() and all(alike(value, other[name]) for name, value in one.items())
        case ((list() | tuple()), (list() | tuple())):
            return len(one) == len(other) and all(map(alike, one, other))
        case _:
            return type(one) is type(other) and bool(one == other)
