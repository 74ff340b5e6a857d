-- What is known of a job whose workers die. All of it is null for most jobs, so that none of these columns takes any room.
alter table {jobs}
    -- How often its worker died while it ran, and how often that may happen; null is what the app's configuration says.
    add column lost integer,
    add column max_lost integer,
    -- Not null: whoever claims it writes here, before the handler begins, under which claim that is. So the next death
    -- leaves no doubt. 0: nothing of the kind was written yet.
    add column watched bigint,
    -- How often its handler was interrupted by a shutdown, and given back without a charge.
    add column interrupted integer,
    -- The attempts that it has each time it is queued again by hand; null: that has not happened, they are max_attempts.
    add column budget integer;
