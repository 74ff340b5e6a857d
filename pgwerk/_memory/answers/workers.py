"""Workers: their rows, who sleeps, who died."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pgwerk._core.notifications import PROBE
from pgwerk._core.statements import workers as st
from pgwerk._core.statements.columns import to_json
from pgwerk._core.statements.workers import Beat, LostClaim, WorkerInfo
from pgwerk._memory.answering import answers
from pgwerk._memory.answers.running import running
from pgwerk._memory.jsonb import jsonb
from pgwerk._memory.messages import WAKE
from pgwerk._memory.rows import Row
from pgwerk._memory.store import Store
from pgwerk._memory.values import text, uuid

_SILENT = "silent_at"


@answers(st.register)
def register(
    store: Store, worker: str, name: str, queues: Sequence[str], metadata: Mapping[str, Any], live: float
) -> None:
    id_ = uuid(worker)
    new = {"id": id_, "name": text(name), "queue": text(",".join(queues)), "started_at": store.now}
    changed = {"status": "active", "heartbeat_at": store.now, "expires_at": store.after(live)}
    row = store.tables.workers.get(id_, new)
    store.tables.workers.put(id_, {**row, **changed, "metadata": jsonb(to_json(dict(metadata)))})


@answers(st.heartbeat)
def heartbeat(store: Store, worker: str, live: float) -> Beat:
    id_ = uuid(worker)
    row = store.tables.workers.get(id_)
    known = row is not None and row["status"] != "stopped"
    if known:
        _change(store, id_, status="active", **_heard(store, row, live))
    others = [
        row["expires_at"]
        for other, row in store.tables.workers.items()
        if other != id_ and row["status"] == "active" and row["expires_at"] is not None
    ]
    next_expiry = (min(others) - store.now).total_seconds() if others else None
    return Beat(known, next_expiry, id_ in store.tables.idle)


def _heard(store: Store, row: Row | None, live: float) -> Row:
    assert row is not None
    heard = {"heartbeat_at": store.now, "expires_at": store.after(live)}
    metadata = json.loads(row["metadata"])
    if _SILENT not in metadata:
        return heard
    del metadata[_SILENT]
    return {**heard, "metadata": jsonb(to_json(metadata))}


@answers(st.renew)
def renew(store: Store, workers: Sequence[str], live: float) -> None:
    for worker in map(uuid, workers):
        row = store.tables.workers.get(worker)
        if row is not None and row["status"] == "active":
            _change(store, worker, **_heard(store, row, live))


@answers(st.leave)
def leave(store: Store, worker: str) -> None:
    id_ = uuid(worker)
    _ = store.tables.idle.drop(id_)
    _change(store, id_, status="stopped", heartbeat_at=store.now, expires_at=store.now)


def _change(store: Store, worker: str, **columns: Any) -> None:
    row = store.tables.workers.get(worker)
    if row is not None:
        store.tables.workers.put(worker, {**row, **columns})


@answers(st.want_notify)
def want_notify(store: Store, worker: str) -> None:
    store.tables.idle.put(uuid(worker), None)


@answers(st.stop_notify)
def stop_notify(store: Store, worker: str) -> None:
    _ = store.tables.idle.drop(uuid(worker))


@answers(st.prove)
def prove(store: Store) -> None:
    store.tell(WAKE, PROBE)


@answers(st.forget)
def forget(store: Store, worker: str) -> None:
    id_ = uuid(worker)
    row = store.tables.workers.get(id_)
    if row is not None and row["status"] == "lost" and id_ not in busy(store):
        _ = store.tables.workers.drop(id_)


def busy(store: Store) -> set[str]:
    """The workers that have claims."""
    return {claim.worker for claim in store.tables.claims.values()}


# Who died -----------------------------------------------------------------------------------------


def there(store: Store, seen: float | None) -> float:
    """For how many seconds somebody, or else this store, has been there to see what happens."""
    return (store.now - store.since).total_seconds() if seen is None else seen


@answers(st.lost_claims)
def lost_claims(store: Store, live: float, limit: int, seen: float | None) -> list[LostClaim]:
    unheard = store.before(live) if there(store, seen) >= live else None
    found: list[LostClaim] = []
    for number, claim in sorted(store.tables.claims.items()):
        row = store.tables.workers.get(claim.worker)
        lost = row["status"] != "active" if row is not None else unheard is not None and claim.at < unheard
        if lost and len(found) < limit:
            found.append(LostClaim(number, claim.worker, list(claim.job_ids)))
    return found


@answers(st.claims_of)
def claims_of(store: Store, worker: str) -> list[LostClaim]:
    id_ = uuid(worker)
    return [
        LostClaim(number, id_, list(claim.job_ids))
        for number, claim in sorted(store.tables.claims.items())
        if claim.worker == id_
    ]


@answers(st.mark_dead)
def mark_dead(store: Store, workers: Sequence[str], live: float = 0.0, seen: float = math.inf) -> list[str]:
    known = set(map(uuid, workers))
    dead: list[str] = []
    idle = [id_ for id_ in store.tables.idle if id_ in known or not _is_living(store, id_)]
    for id_, row in list(store.tables.workers.items()):
        if row["status"] != "active":
            continue
        silent = row["expires_at"] is not None and row["expires_at"] < store.now
        if id_ in known or (silent and _is_over(store, row, live, seen)):
            expires = store.now if row["expires_at"] is None else min(row["expires_at"], store.now)
            _change(store, id_, status="lost", expires_at=expires)
            dead.append(row["name"])
        elif silent and _silent_at(store, row) is None:
            metadata = {**json.loads(row["metadata"]), _SILENT: store.now.timestamp()}
            _change(store, id_, metadata=jsonb(to_json(metadata)))
    for id_ in idle:
        _ = store.tables.idle.drop(id_)
    return dead


def _is_over(store: Store, row: Row, live: float, seen: float) -> bool:
    """Whether a silent worker was silent for long enough while somebody was there to hear it."""
    patience = max(live, (row["expires_at"] - row["heartbeat_at"]).total_seconds())
    since = _silent_at(store, row)
    return seen >= patience or (since is not None and since + patience < store.now.timestamp())


def _silent_at(store: Store, row: Row) -> float | None:
    """When a worker's silence was first seen by this store."""
    found = json.loads(row["metadata"]).get(_SILENT)
    if isinstance(found, bool) or not isinstance(found, int | float) or found < store.since.timestamp():
        return None
    return found


def _is_living(store: Store, worker: str) -> bool:
    row = store.tables.workers.get(worker)
    return row is not None and row["status"] == "active" and not _is_silent(row, store.now)


def _is_silent(row: Row, now: datetime) -> bool:
    return row["expires_at"] is None or row["expires_at"] < now


@answers(st.living)
def living(store: Store, worker: str) -> bool:
    return _is_living(store, uuid(worker))


@answers(st.roster)
def roster(store: Store) -> list[WorkerInfo]:
    found = [_info(store, row) for row in store.tables.workers.values()]
    found.sort(key=lambda worker: worker.id)
    found.sort(key=lambda worker: worker.started_at, reverse=True)
    return sorted(found, key=lambda worker: worker.status)


def _info(store: Store, row: Row) -> WorkerInfo:
    metadata = json.loads(row["metadata"])
    _ = metadata.pop(_SILENT, None)
    silent = row["expires_at"] is not None and row["expires_at"] < store.now
    held = [
        job["id"]
        for number, claim in store.tables.claims.items()
        if claim.worker == row["id"]
        for job in running(store, number, claim.job_ids)
    ]
    return WorkerInfo(
        row["id"], row["name"], row["queue"], "lost" if row["status"] == "active" and silent else row["status"],
        metadata, row["heartbeat_at"], row["started_at"], row["expires_at"], len(held),
    )  # fmt: skip
