-- The whole first schema. Names in braces are the quoted, schema-qualified names of this installation;
-- a name in [brackets] is a bare identifier, for what lives inside a table's schema (indexes, constraints).

create table {versions} (
    version integer primary key,
    name text not null,
    applied_at timestamptz not null default now()
);

create table {jobs} (
    -- First what never is null and has one width, then what indexes mention: each update looks at all of these, and
    -- finds a column by walking over those before it.

    -- UUIDv7: clients make their own, this default serves an INSERT from psql or from another language.
    id uuid not null
        -- (No backslash in here: standard_conforming_strings may be off.)
        default (overlay(overlay(gen_random_uuid()::text placing '7' from 15)
            placing overlay(lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0')
                            placing '-' from 9 for 0)
            from 1 for 13))::uuid,
    scheduled_at timestamptz not null default statement_timestamp(),
    enqueued_at timestamptz not null default statement_timestamp(),
    attempts integer not null default 0,
    max_attempts integer not null default 1,
    priority smallint not null default 0,
    -- A member of a full group waits outside the claim index until a permit is free.
    blocked boolean not null default false,
    -- Somebody waits for the end of this job: the settle tells them.
    awaited boolean not null default false,

    queue text not null default 'default',
    status text not null default 'queued',
    -- Which index holds the row; no index mentions the status itself. Claiming leaves it as it was, so that a claim is
    -- a heap-only update that writes no index; only the settle takes the row out of the claim's way.
    lane text not null generated always as (
        case
            when status in ('active', 'queued', 'aborting') then case when blocked then 'blocked' else 'ready' end
            when status in ('failed', 'aborted') then 'failed'
            else status
        end) stored,
    key text,
    group_key text,
    callback_of uuid,
    expires_at timestamptz,

    -- The fence: the batch that this job was claimed in. Never the same twice for a job; kept after the settle.
    claim_id bigint,
    worker_id uuid,
    started_at timestamptz,
    completed_at timestamptz,
    touched_at timestamptz,

    function text not null,
    payload jsonb,
    result jsonb,
    error text,
    meta jsonb,
    progress jsonb,

    timeout_secs double precision,
    heartbeat_secs double precision,
    group_limit integer,
    ttl double precision,
    result_ttl double precision,
    failure_ttl double precision,
    failure_mode text not null default 'hold',
    retry_intervals jsonb,
    no_retry jsonb,
    on_success text,
    on_success_timeout double precision,
    on_failure text,
    on_failure_timeout double precision,
    on_stopped text,
    on_stopped_timeout double precision,
    callback_kind text,
    wait_delay double precision,
    repeat_remaining integer,
    repeat_interval_secs double precision,
    repeat_intervals jsonb,
    schedule_name text,

    -- Each settle adds an entry beside that of the insert: without room for it, pages split, to be no smaller in the end.
    constraint [jobs_pkey] primary key (id) with (fillfactor = 50),
    constraint [jobs_status] check (status in
        ('active', 'complete', 'queued', 'scheduled', 'waiting', 'aborting', 'failed', 'aborted')),
    constraint [jobs_failure_mode] check (failure_mode in ('hold', 'delete')),
    -- What would make a claim, a release or a recovery of many jobs fail because of one.
    constraint [jobs_sane] check (
        octet_length(group_key) <= 1024 and group_limit between 1 and 10000
        and timeout_secs between 0 and 1e9 and heartbeat_secs between 0 and 1e9
        and ttl between 0 and 1e9 and wait_delay between 0 and 1e9)
) with (
    -- Room on each page for the claim's new version of every row of it, which is longer: a batch takes whole pages.
    fillfactor = 40,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 1
);

-- One range of this index is one queue in the order it is claimed. (A smallint has no negative of -32768.)
create index [jobs_claim] on {jobs} (queue, (-priority::integer), scheduled_at, id) where lane = 'ready';
create index [jobs_scheduled] on {jobs} (scheduled_at) where lane = 'scheduled';
create index [jobs_waiting] on {jobs} (id) where lane = 'waiting';
create index [jobs_blocked] on {jobs} (group_key, (-priority::integer), scheduled_at, id) where lane = 'blocked';
create index [jobs_expires] on {jobs} (expires_at) where expires_at is not null;
create unique index [jobs_key] on {jobs} (key) where key is not null;
create index [jobs_callback] on {jobs} (callback_of) where callback_of is not null;
create index [jobs_failed] on {jobs} (id) where lane = 'failed';

-- One row a claimed batch. Its number is the fence, and it is how the jobs of a dead worker are found without
-- an index on active rows (which every claim would have to write).
create table {claims} (
    id bigint generated always as identity,
    worker_id uuid not null,
    job_ids uuid[] not null,
    claimed_at timestamptz not null default now(),
    constraint [claims_pkey] primary key (id)
) with (
    -- The ids of a large batch fill a page, and stay in it: they live for a moment, and compressing them costs more.
    toast_tuple_target = 8160,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0
);

create table {executions} (
    id bigint generated always as identity,
    job_id uuid not null,
    attempt integer not null,
    status text not null,
    worker_id uuid,
    started_at timestamptz,
    completed_at timestamptz,
    error text,
    result jsonb,
    -- One index, in the order of its readers; job ids ascend with time, so its writes are local.
    constraint [executions_pkey] primary key (job_id, id)
) with (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 1
);

create table {job_deps} (
    job_id uuid not null,
    depends_on uuid not null,
    allow_failure boolean not null default false,
    -- Settled for good, so that the row of the other job may go.
    satisfied boolean not null default false,
    constraint [job_deps_pkey] primary key (job_id, depends_on)
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 1);
create index [job_deps_parent] on {job_deps} (depends_on) where not satisfied;

-- Who may run: a member of a group holds one slot while it is active. The unique index arbitrates.
create table {permits} (
    key text not null,
    slot integer not null,
    job_id uuid not null,
    constraint [permits_pkey] primary key (key, slot)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);

create {unlogged} table {worker} (
    id uuid not null,
    name text not null,
    queue text not null,
    status text not null default 'active',
    metadata jsonb not null default '{}',
    heartbeat_at timestamptz not null default now(),
    started_at timestamptz not null default now(),
    expires_at timestamptz,
    constraint [worker_pkey] primary key (id)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);

-- A row here: this worker sleeps and wants to be told. Narrow, because every enqueue looks at it.
create {unlogged} table {idle} (
    worker_id uuid not null,
    constraint [idle_pkey] primary key (worker_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100, autovacuum_vacuum_cost_delay = 0);

create table {queues} (
    name text not null,
    paused_at timestamptz,
    reason text,
    constraint [queues_pkey] primary key (name)
);

create view {worker_jobs} as
    select c.worker_id, j.id as job_id, c.claimed_at
    from {claims} c
    cross join unnest(c.job_ids) as member(id)
    cross join lateral (
        select j.id from {jobs} j
        where j.id = member.id and j.claim_id = c.id and j.status in ('active', 'aborting')
        offset 0  -- one look-up each, whatever the planner thinks of the size of claims
    ) j;
