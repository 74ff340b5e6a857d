"""One `enqueue` after the other, beside a raw INSERT of the same columns: each one commit."""

import json
import time
import uuid

from benchmarks.installation import Installation
from benchmarks.jobs import nothing
from benchmarks.table import Figure

BLOCK = 50
"""The two take turns in blocks of this size, so that a slow second hits both."""


def measure(at: Installation, count: int) -> list[Figure]:
    insert = f"""insert into {at.jobs} (id, function, payload) values (%s::uuid, %s, %s::jsonb)
                 returning id, status, scheduled_at, enqueued_at"""
    function = f"{nothing.__module__}.{nothing.__qualname__}"

    def ours(number: int) -> None:
        assert at.werk.enqueue(nothing, number) is not None

    def raw(number: int) -> None:
        payload = json.dumps({"args": [number]})
        _ = at.execute(insert, [str(uuid.uuid4()), function, payload])

    spent = {ours: 0.0, raw: 0.0}
    for call in spent:  # connect, prepare
        for number in range(20):
            call(number)
    for _ in range(max(1, count // BLOCK)):
        for call in spent:
            before = time.perf_counter()
            for number in range(BLOCK):
                call(number)
            spent[call] += time.perf_counter() - before
    done = max(1, count // BLOCK) * BLOCK
    return [Figure("enqueue, one commit each", done / spent[ours], done / spent[raw])]
