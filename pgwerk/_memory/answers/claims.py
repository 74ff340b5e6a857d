"""Claiming jobs."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

from pgwerk._core.claim import Claim, Claimed
from pgwerk._core.cursor import Place, Range
from pgwerk._core.statements import claims as st
from pgwerk._core.statuses import RELEASED
from pgwerk._memory.answering import answers
from pgwerk._memory.rows import Row, claimed_of, place
from pgwerk._memory.store import Store
from pgwerk._memory.tables import StoredClaim
from pgwerk._memory.values import uuid


@answers(st.claim)
def claim(
    store: Store,
    where: Sequence[str | Range],
    count: int,
    worker: str,
    *,
    in_turns: bool = False,
    each: int | None = None,
    skip: Sequence[str] = (),
) -> Claim:
    ranges = [one if isinstance(one, Range) else Range(one, number) for number, one in enumerate(where)]
    by_queue: dict[int, list[Row]] = defaultdict(list)
    for part in ranges:
        by_queue[part.place] += islice(_able(store, part, skip), count if each is None else each)
    for rows in by_queue.values():
        rows.sort(key=place)
    picked = _in_turns(by_queue)[:count] if in_turns else _by_priority(list(by_queue.values()), each)[:count]
    picked = list({row["id"]: row for row in picked}.values())  # a queue may be named twice
    denied = _grant(store, picked)
    taken = _take(store, [row for row in picked if row["id"] not in denied], worker)
    in_order = sorted(taken, key=place)
    queues = Counter(row["queue"] for row in taken)
    jobs = _one_of_each(in_order, [part.queue for part in ranges]) if in_turns else in_order
    return Claim(
        len(jobs),
        lambda: [claimed_of(row) for row in jobs],
        last={row["queue"]: place(row) for row in in_order},
        last_queue=jobs[-1]["queue"] if jobs else None,
        largest=max(queues.values(), default=0),
        denied=sorted({store.jobs[id_]["group_key"] for id_ in denied}),
        passed_over=len(denied),
        each=each,
    )


def _able(store: Store, part: Range, skip: Sequence[str]) -> Iterator[Row]:
    """The jobs of a range that may be claimed, in order."""
    if store.is_paused(part.queue):
        return
    for row in store.claimable(part.queue, part.first):
        if part.below is not None and -row["priority"] >= part.below:
            return
        if store.may_run(row) and row["id"] not in skip:
            yield row


def _by_priority(queues: Sequence[Sequence[Row]], each: int | None) -> list[Row]:
    rows = sorted((row for rows in queues for row in rows), key=place)
    # A queue that gave as many as were looked at may have more: what comes after the last of these has to wait.
    bounds: list[Place] = [place(rows[each - 1]) for rows in queues if each is not None and len(rows) >= each]
    return [row for row in rows if place(row) <= min(bounds)] if bounds else rows


def _in_turns(queues: dict[int, list[Row]]) -> list[Row]:
    turns = [(nth, number, row) for number, rows in queues.items() for nth, row in enumerate(rows)]
    return [row for _, _, row in sorted(turns, key=lambda turn: turn[:2])]


def _one_of_each(rows: Sequence[Row], queues: Sequence[str]) -> list[Row]:
    """The first of each queue, then the second of each, and so on."""
    by_queue = {
        number: [row for row in rows if row["queue"] == name] for number, name in enumerate(dict.fromkeys(queues))
    }
    return _in_turns(by_queue)


def _grant(store: Store, picked: Sequence[Row]) -> set[str]:
    """Hand out permits in the order of claims; the ids of those for whom there is none, who are blocked now."""
    denied: set[str] = set()
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in sorted((row for row in picked if row["group_key"] is not None), key=place):
        groups[row["group_key"]].append(row)
    for key, members in sorted(groups.items()):
        limits = {row["id"]: row["group_limit"] or 1 for row in members}
        taken = store.tables.permits.taken(key)
        # Each member has the slot of its turn, or none: one that is beyond its own limit is nobody's.
        free = iter([slot for slot in range(1, max(limits.values()) + 1) if slot not in taken])
        for row in members:
            slot = next(free, None)
            if slot is not None and slot <= limits[row["id"]]:
                store.tables.permits.grant(key, slot, row["id"])
            else:
                denied.add(row["id"])
                _ = store.change(row["id"], blocked=True)
    return denied


def _take(store: Store, rows: Sequence[Row], worker: str) -> list[Row]:
    mine = uuid(worker)
    if not rows:
        return []
    number = store.next_number()
    store.tables.claims.put(number, StoredClaim(mine, tuple(row["id"] for row in rows), store.now))
    return [
        store.change(
            row["id"], status="active", attempts=row["attempts"] + 1, claim_id=number, worker_id=mine,
            started_at=store.now, touched_at=store.now, expires_at=None,
        )
        for row in rows
    ]  # fmt: skip


@answers(st.claim_one)
def claim_one(store: Store, job_id: str, worker: str) -> Claimed | None:
    row = store.find(job_id)
    if row is None or row["status"] not in RELEASED:
        return None
    (taken,) = _take(store, [row], worker)
    # It begins at once.
    return claimed_of(store.change(taken["id"], watched=taken["claim_id"]))
