-- What one row could stop for all: times that Python has not, numbers that overflow in a sum, texts that no index and
-- no notification has room for. Whoever inserts rows with SQL is told at once.

-- Rows of before are changed first, where they are out of bounds; nobody adds another one meanwhile.
lock table {jobs} in access exclusive mode;

update {jobs}
set scheduled_at = greatest(least(scheduled_at, '9900-01-01 00:00:00+00'), '0002-01-01 00:00:00+00'),
    enqueued_at = greatest(least(enqueued_at, '9999-01-01 00:00:00+00'), '0002-01-01 00:00:00+00'),
    expires_at = case when expires_at is not null then greatest(least(expires_at, '9999-01-01 00:00:00+00'), '0002-01-01 00:00:00+00') end,
    started_at = case when started_at is not null then greatest(least(started_at, '9999-01-01 00:00:00+00'), '0002-01-01 00:00:00+00') end,
    completed_at = case when completed_at is not null then greatest(least(completed_at, '9999-01-01 00:00:00+00'), '0002-01-01 00:00:00+00') end,
    touched_at = case when touched_at is not null then greatest(least(touched_at, '9999-01-01 00:00:00+00'), '0002-01-01 00:00:00+00') end,
    attempts = greatest(least(attempts, 1000000000), 0),
    max_attempts = greatest(least(max_attempts, 1000000000), 0),
    result_ttl = case when result_ttl is not null then greatest(least(result_ttl, 1e9), 0) end,
    failure_ttl = case when failure_ttl is not null then greatest(least(failure_ttl, 1e9), 0) end,
    on_success_timeout = case when on_success_timeout is not null then greatest(least(on_success_timeout, 1e9), 0) end,
    on_failure_timeout = case when on_failure_timeout is not null then greatest(least(on_failure_timeout, 1e9), 0) end,
    on_stopped_timeout = case when on_stopped_timeout is not null then greatest(least(on_stopped_timeout, 1e9), 0) end,
    repeat_interval_secs = case when repeat_interval_secs is not null then greatest(least(repeat_interval_secs, 1e9), 0) end,
    queue = case when octet_length(queue) <= 1024 then queue else left(queue, 255) end,
    group_key = nullif(group_key, ''),
    blocked = blocked and nullif(group_key, '') is not null,
    function = case when octet_length(function) <= 4096 then function else left(function, 1000) end,
    on_success = case when octet_length(on_success) <= 4096 then on_success else left(on_success, 1000) end,
    on_failure = case when octet_length(on_failure) <= 4096 then on_failure else left(on_failure, 1000) end,
    on_stopped = case when octet_length(on_stopped) <= 4096 then on_stopped else left(on_stopped, 1000) end
where scheduled_at not between '0002-01-01 00:00:00+00' and '9900-01-01 00:00:00+00'
   or enqueued_at not between '0002-01-01 00:00:00+00' and '9999-01-01 00:00:00+00'
   or expires_at not between '0002-01-01 00:00:00+00' and '9999-01-01 00:00:00+00'
   or started_at not between '0002-01-01 00:00:00+00' and '9999-01-01 00:00:00+00'
   or completed_at not between '0002-01-01 00:00:00+00' and '9999-01-01 00:00:00+00'
   or touched_at not between '0002-01-01 00:00:00+00' and '9999-01-01 00:00:00+00'
   or attempts not between 0 and 1000000000
   or max_attempts not between 0 and 1000000000
   or result_ttl not between 0 and 1e9
   or failure_ttl not between 0 and 1e9
   or on_success_timeout not between 0 and 1e9
   or on_failure_timeout not between 0 and 1e9
   or on_stopped_timeout not between 0 and 1e9
   or repeat_interval_secs not between 0 and 1e9
   or octet_length(queue) > 1024
   or group_key = ''
   or blocked and group_key is null
   or octet_length(function) > 4096
   or octet_length(on_success) > 4096
   or octet_length(on_failure) > 4096
   or octet_length(on_stopped) > 4096;

alter table {jobs} add constraint [jobs_bounds] check (
    -- A ttl after the last due time is still a time of Python's.
    scheduled_at between '0002-01-01 00:00:00+00' and '9900-01-01 00:00:00+00'
    and enqueued_at between '0002-01-01 00:00:00+00' and '9999-01-01 00:00:00+00'
    and expires_at between '0002-01-01 00:00:00+00' and '9999-01-01 00:00:00+00'
    and started_at between '0002-01-01 00:00:00+00' and '9999-01-01 00:00:00+00'
    and completed_at between '0002-01-01 00:00:00+00' and '9999-01-01 00:00:00+00'
    and touched_at between '0002-01-01 00:00:00+00' and '9999-01-01 00:00:00+00'
    and attempts between 0 and 1000000000
    and max_attempts between 0 and 1000000000
    and result_ttl between 0 and 1e9
    and failure_ttl between 0 and 1e9
    and on_success_timeout between 0 and 1e9
    and on_failure_timeout between 0 and 1e9
    and on_stopped_timeout between 0 and 1e9
    and repeat_interval_secs between 0 and 1e9
    and octet_length(queue) <= 1024
    and group_key <> ''
    and (not blocked or group_key is not null)
    and octet_length(function) <= 4096
    and octet_length(on_success) <= 4096
    and octet_length(on_failure) <= 4096
    and octet_length(on_stopped) <= 4096);

-- With the id, so that a sweep can go on behind what it cannot delete yet.
drop index {in_schema}[jobs_expires];
create index [jobs_expires] on {jobs} (expires_at, id) where expires_at is not null;
