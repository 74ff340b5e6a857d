"""The raw reference: the plain psycopg programs that all benchmarks here are beside, on pgwerk's tables."""

import json
import os
import uuid

import commands
import psycopg
import tally

from benchmarks import raw_listener, raw_loop
from pgwerk import Werk

SCHEMA = "pgwerk"
JOBS = f"{SCHEMA}._pgwerk_jobs"
JOB = "tally.nothing"
ONE = f"""
insert into {JOBS} (id, function, payload) values (%s::uuid, %s, %s::jsonb)
returning id, status, scheduled_at, enqueued_at
""".encode()
MANY = f"""
insert into {JOBS} (id, function, payload)
select * from unnest(%s::uuid[], %s::text[], %s::jsonb[]) returning id
""".encode()
RING = f"""
with new as (insert into {JOBS} (function, payload) values (%s, %s::jsonb) returning id)
select pg_notify('{SCHEMA}', id::text) from new
""".encode()


def payload(number: int) -> str:
    return json.dumps({"args": [number]})


class Peer(commands.Program):
    def open(self) -> None:
        self.connection = psycopg.connect(self.url, autocommit=True)

    def close(self) -> None:
        self.connection.close()

    def setup(self) -> None:
        app = Werk(self.url, schema=SCHEMA)
        app.connect()
        app.close()

    def enqueue(self, number: int) -> None:
        _ = self.connection.execute(ONE, [str(uuid.uuid4()), JOB, payload(number)]).fetchall()

    def enqueue_many(self, count: int) -> None:
        ids = [str(uuid.uuid4()) for _ in range(count)]
        payloads = [payload(number) for number in range(count)]
        _ = self.connection.execute(MANY, [ids, [JOB] * count, payloads]).fetchall()

    def ring(self, number: int) -> None:
        _ = self.connection.execute(RING, [JOB, payload(number)])

    def work(self, mode: str) -> None:
        spec = {"dsn": self.url, "schema": SCHEMA, "batch": int(os.environ["BENCH_BATCH"])}
        if mode == "wait":
            raw_listener.run(spec, tally.nothing)
        else:
            raw_loop.run(spec, {JOB: tally.nothing})


if __name__ == "__main__":
    commands.main(Peer())
