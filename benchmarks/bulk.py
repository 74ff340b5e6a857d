"""`enqueue_many` beside one raw `INSERT … SELECT unnest` of the same rows: one commit each."""

import json
import time
import uuid

from benchmarks.installation import Installation
from benchmarks.jobs import nothing
from benchmarks.table import Figure
from pgwerk import EnqueueParams


def measure(at: Installation, count: int) -> list[Figure]:
    insert = f"""insert into {at.jobs} (id, function, payload)
                 select * from unnest(%s::uuid[], %s::text[], %s::jsonb[]) returning id"""
    function = f"{nothing.__module__}.{nothing.__qualname__}"

    def ours() -> None:
        made = at.werk.enqueue_many([EnqueueParams(func=nothing, args=(number,)) for number in range(count)])
        assert len(made) == count

    def raw() -> None:
        ids = [str(uuid.uuid4()) for _ in range(count)]
        payloads = [json.dumps({"args": [number]}) for number in range(count)]
        assert len(at.execute(insert, [ids, [function] * count, payloads])) == count

    rates = {}
    for call in (ours, raw):
        at.truncate()
        before = time.perf_counter()
        call()
        rates[call] = count / (time.perf_counter() - before)
    return [Figure(f"enqueue_many of {count:,}", rates[ours], rates[raw])]
