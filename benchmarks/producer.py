"""A process that enqueues one by one; its argument is JSON. It says when it is ready, and how many it enqueued."""

import json
import sys
import time
from typing import Any, Literal

import pgwerk
from benchmarks.handlers import nothing
from pgwerk._core.statements import insert_texts
from pgwerk._core.statements.times import epoch

Telling = Literal["as it is", "never", "unheard", "always"]

TEXT = "TELL_ONE"
"""What the statement of `enqueue` ends with."""
IF_IDLE = "exists (select from {idle})"
NO_TELLING = f"\n    returning id::text, status, {epoch('scheduled_at')}, {epoch('enqueued_at')}, null\n"


def change(telling: Telling) -> None:
    """Take the notification out of this process's statement, send it always, or send it where nobody listens."""
    text: str = getattr(insert_texts, TEXT)
    assert IF_IDLE in text
    assert "pg_notify({wake}" in text
    changed: dict[Telling, str] = {
        "as it is": text,
        "never": NO_TELLING,
        "unheard": text.replace("pg_notify({wake}", "pg_notify('nobody'"),
        "always": text.replace(IF_IDLE, "true"),
    }
    setattr(insert_texts, TEXT, changed[telling])


def main() -> None:
    spec: dict[str, Any] = json.loads(sys.argv[1])
    change(spec["telling"])
    with pgwerk.Werk(spec["dsn"], schema=spec["schema"], config={"pool_size": 1}) as app:
        for number in range(10):  # connect, prepare
            _ = app.enqueue(nothing, number)
        print("ready", flush=True)
        until = float(sys.stdin.readline())
        done = 0
        while time.monotonic() < until:
            _ = app.enqueue(nothing, done)
            done += 1
        print(done, flush=True)


if __name__ == "__main__":
    main()
