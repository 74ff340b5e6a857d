"""Rows that go, and what keeps them from going under somebody who depends on them."""

from collections.abc import Sequence

from pgwerk._core.operation import Statement, column, nothing, statement


@statement
def lock_outlived(ids: Sequence[str]) -> Statement[list[str]]:
    """Lock those of these jobs that have ended, are past their retention, and whose callbacks have ended too."""
    return Statement(
        """
        select j.id::text
        from {jobs} j
        where j.id = any(%(ids)s::uuid[])
          and j.status in ('complete', 'failed', 'aborted')
          and j.expires_at < now()
          and not exists (
              select from {jobs} c
              where c.callback_of = j.id and c.status not in ('complete', 'failed', 'aborted'))
        order by j.id
        for update of j skip locked  -- somebody changes it: the next sweep looks again
        """,
        {"ids": list(ids)},
        column,
    )


_SHARDS = 128
"""Of so many locks, the one for a job is that of its id's hash: one a job could be more than Postgres has room for."""


@statement
def hold(ids: Sequence[str]) -> Statement[bool]:
    """Keep the rows of these jobs from being swept away before this transaction, which depends on them, has ended.

    Once it has committed, its edges are there for all to see. Returns whether the transaction has one snapshot for all
    its statements (REPEATABLE READ, SERIALIZABLE): what it sees may have been swept away before; see `lock_present`.
    """
    return Statement(
        f"""
        select current_setting('transaction_isolation') in ('repeatable read', 'serializable'),
               pg_advisory_xact_lock_shared(hashtext({{wake}}), shard)  -- waits for deletions in progress
        from (select distinct hashtext(id) & {_SHARDS - 1} from unnest(%(ids)s::text[]) as t(id)) as s(shard)
        """,
        {"ids": list(ids)},
        lambda rows: bool(rows and rows[0][0]),
    )


@statement
def set_savepoint() -> Statement[None]:
    """Begin what `undo_to_savepoint` undoes."""
    return Statement("savepoint _pgwerk_look", {}, nothing)


@statement
def lock_present(ids: Sequence[str]) -> Statement[None]:
    """In a transaction with one snapshot: fail with a serialization error (40001) if one of these jobs is gone.

    A lock is the only way to see beyond the snapshot. One that was merely updated since is no error.
    """
    return Statement(
        """
        select id from {jobs}
        where id = any(%(ids)s::uuid[])
        order by id
        for key share  -- the weakest there is: an update that leaves the id alone is no conflict
            skip locked  -- a worker that settles the job at this moment does not delete it
        """,
        {"ids": list(ids)},
        nothing,
    )


@statement
def undo_to_savepoint() -> Statement[None]:
    """Let go of the locks taken since `set_savepoint`, which would keep workers waiting until the caller commits."""
    return Statement("rollback to savepoint _pgwerk_look", {}, nothing)


@statement
def release_savepoint() -> Statement[None]:
    """Forget the savepoint itself."""
    return Statement("release savepoint _pgwerk_look", {}, nothing)


@statement
def unheld(ids: Sequence[str]) -> Statement[list[str]]:
    """Say of which of these jobs no open transaction is making a dependency; none does until this one ends.

    What they are comes to light in a later statement: this one's snapshot is older than its locks.
    """
    return Statement(
        f"""
        with free as materialized (
            select shard, pg_try_advisory_xact_lock(hashtext({{wake}}), shard) as ours  -- never waits
            from (select distinct hashtext(id) & {_SHARDS - 1} from unnest(%(ids)s::text[]) as t(id)) as s(shard)
        )
        select t.id
        from unnest(%(ids)s::text[]) as t(id)
        join free f on f.shard = hashtext(t.id) & {_SHARDS - 1}
        where f.ours
        order by t.id
        """,
        {"ids": list(ids)},
        column,
    )


@statement
def delete(ids: Sequence[str]) -> Statement[list[str]]:
    """Delete jobs with their executions, edges and permits; the ids that existed come back."""
    return Statement(
        """
        with gone as (
            delete from {jobs} where id = any(%(ids)s::uuid[])
            returning id, awaited
        ), executions as (
            delete from {executions} where job_id = any(%(ids)s::uuid[])
        ), edges as (
            delete from {job_deps} where job_id = any(%(ids)s::uuid[])
        ), told as (
            select pg_notify({done}, string_agg(id::text, ','))
            from (select id, (row_number() over ()) / 150 as part from gone where awaited) t
            group by part
        )
        select g.id::text, (select count(*) from told) from gone g
        """,
        {"ids": list(ids)},
        column,
    )


@statement
def finished_callbacks(callbacks: Sequence[str]) -> Statement[list[str]]:
    """Find failed jobs with failure_mode 'delete' all of whose callbacks have ended, given ended callbacks."""
    return Statement(
        """
        select distinct p.id::text
        from {jobs} c
        join {jobs} p on p.id = c.callback_of
        where c.id = any(%(ids)s::uuid[])
          and p.status = 'failed'
          and p.failure_mode = 'delete'
          and not exists (
              select from {jobs} o
              where o.callback_of = p.id and o.status not in ('complete', 'failed', 'aborted'))
        """,
        {"ids": list(callbacks)},
        column,
    )
