/*
 * Runs that run for too long, and runs that failed and may be worth another go.
 *
 * A worker enforces the timeout of an attempt.  What nobody gave a timeout, or whose worker does
 * not hear, timeout_stuck() ends from here: the unit is taken out of its lease, so that whatever
 * its worker reports later is too late.  The timeout of a run of steps bounds the whole run; reap()
 * looks after that.
 */

create or replace function ordinaut._minutes(p_span interval)
returns text
language sql
immutable
as $fn$
  select case
    when extract(epoch from p_span)::numeric % 60 = 0
      then format('%s minutes', (extract(epoch from p_span) / 60)::bigint)
    else format('%s seconds', trim_scale(extract(epoch from p_span)::numeric))
  end;
$fn$;

comment on function ordinaut._minutes(interval) is
  'A duration as people say it: 60 minutes, 90 seconds are seconds.';

create or replace function ordinaut.get_stuck_runs(p_after interval default '60 min')
returns table (
  run_id      uuid,
  task_id     uuid,
  tool        text,
  queue       text,
  attempt     integer,
  started_at  timestamptz,
  running_for interval,
  worker_id   uuid,
  lease_id    uuid
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_before timestamptz;
begin
  perform ordinaut._check_span('after', coalesce(p_after, '-1 s'), '1 s', '10 years');
  v_before := ordinaut.now() - p_after;
  return query
  select u.run_id, u.task_id, u.tool, u.queue, u.attempt::integer, l.leased_at,
    ordinaut.now() - l.leased_at, l.worker_id, l.lease_id
  from ordinaut.lease as l
  cross join unnest(l.work) as u
  where l.leased_at <= v_before and u.step is null and u.work_id <> all (l.settled)
  union all
  select r.run_id, r.task_id, r.tool, r.queue, r.attempt::integer, r.started_at,
    ordinaut.now() - r.started_at, null, null
  from ordinaut.task_run as r
  where
    r.finished_at is null
    and r.started_at <= v_before
    and r.error is null
    -- One that only waits, for a person, an event or a time, holds nothing and nobody.
    and exists (
      select from ordinaut.step as s
      where
        s.run_id = r.run_id and s.wait is null
        and s.state in ('ready', 'in_progress', 'waiting_for_retry')
    )
  order by 6, 1;
end
$fn$;

comment on function ordinaut.get_stuck_runs(interval) is
  'Runs that have been running for p_after or longer, the longest first: leased for so long, or '
  'runs of steps that started so long ago and do not merely wait. Errors: '
  'invalid_parameter_value.';

/* History does not name the lease: a tool that completes in its own transaction must not be told
   `already`, and commit. */
create or replace function ordinaut._time_out_unit(
  p_lease_id uuid,
  p_run_id   uuid,
  p_error    jsonb,
  p_now      timestamptz
)
returns boolean
language plpgsql
volatile
as $fn$
declare
  v_lease ordinaut.lease;
  v_item ordinaut.work_item;
begin
  -- Its worker settles it just now, or its tool writes (assert_lease, for key share): not stuck.
  perform from ordinaut.lease as l
  where l.lease_id = p_lease_id
  for update skip locked;
  if not found then
    return false;
  end if;
  v_lease := ordinaut._take_leased(p_lease_id, array[p_run_id]);
  v_item := v_lease.work[1];
  if v_item.work_id is null then
    return false;
  end if;
  v_item.failures := v_item.failures + 1;
  if exists (select from ordinaut.breaker) then
    perform ordinaut._breaker_heard(v_item, 'timed_out', p_error, p_now);
  end if;
  perform ordinaut._finish(
    v_item, 'timed_out', null, p_error, v_lease.worker_id, null, v_lease.leased_at);
  perform ordinaut._journal('timed_out', p_run_id, v_item.task_id, v_item.queue,
    v_item.attempt::integer, v_lease.worker_id, null,
    p_error || jsonb_build_object('taken_from', p_lease_id));
  return true;
end
$fn$;

comment on function ordinaut._time_out_unit(uuid, uuid, jsonb, timestamptz) is
  'Take a run of one unit out of its lease and end it as timed_out; false when its lease is '
  'locked or it is there no more.';

create or replace function ordinaut._time_out_run(p_run_id uuid, p_error jsonb, p_now timestamptz)
returns boolean
language plpgsql
volatile
as $fn$
declare
  v_step ordinaut.step;
  v_lease ordinaut.lease;
begin
  if ordinaut._try_runs(array[p_run_id]) = '{}' then
    return false;
  end if;
  update ordinaut.task_run as r
  set error = p_error || jsonb_build_object('outcome', 'timed_out')
  where r.run_id = p_run_id and r.finished_at is null and r.error is null;
  if not found then
    return false;
  end if;
  perform ordinaut._journal('timed_out', p_run_id, p_detail => p_error);
  perform ordinaut._cancel_waiting(p_run_id, p_error ->> 'message', p_now);
  -- What is leased is fenced off; a lease that is locked settles its step itself.
  for v_lease in
    select l.*
    from ordinaut.lease as l
    where exists (
      select from unnest(l.work) as u
      where u.run_id = p_run_id and u.step is not null and u.work_id <> all (l.settled)
    )
    order by l.lease_id
    for update skip locked
  loop
    v_lease := ordinaut._take_leased(v_lease.lease_id, array(
      select u.work_id from unnest(v_lease.work) as u
      where u.run_id = p_run_id and u.step is not null and u.work_id <> all (v_lease.settled)));
    for v_step in
      update ordinaut.step as s
      set state = 'error', error = p_error, finished_at = p_now, failures = s.failures + 1
      where
        s.step_id in (select u.work_id from unnest(v_lease.work) as u)
        and s.state = 'in_progress'
      returning s.*
    loop
      perform ordinaut._journal('timed_out', p_run_id, p_attempt => v_step.attempt::integer,
        p_worker_id => v_lease.worker_id, p_step => v_step.name,
        p_detail => p_error || jsonb_build_object('started_at', v_step.started_at));
    end loop;
  end loop;
  perform ordinaut._close_run(p_run_id, p_now);
  return true;
end
$fn$;

comment on function ordinaut._time_out_run(uuid, jsonb, timestamptz) is
  'End a run of steps as timed_out: what waits is cancelled, what is leased is fenced off, what '
  'is done is rolled back. False when somebody holds the run, or it is ending already.';

create or replace function ordinaut.timeout_stuck(
  p_after   interval default '60 min',
  p_dry_run boolean  default false
)
returns table (run_id uuid, running_for interval, outcome text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_stuck record;
  v_error jsonb;
  v_done boolean;
begin
  for v_stuck in select s.* from ordinaut.get_stuck_runs(p_after) as s loop
    run_id := v_stuck.run_id;
    running_for := v_stuck.running_for;
    if p_dry_run then
      outcome := 'stuck';
    else
      v_error := jsonb_build_object(
        'message', 'timed out after ' || ordinaut._minutes(p_after),
        'type', 'Stuck', 'category', 'timeout', 'code', 'E6001', 'retryable', false,
        'by', ordinaut._actor());
      v_done := case
        when v_stuck.lease_id is null then ordinaut._time_out_run(run_id, v_error, v_now)
        else ordinaut._time_out_unit(v_stuck.lease_id, run_id, v_error, v_now)
      end;
      outcome := case when v_done then 'timed_out' else 'busy' end;
    end if;
    return next;
  end loop;
end
$fn$;

comment on function ordinaut.timeout_stuck(interval, boolean) is
  'End the runs that get_stuck_runs(p_after) shows, as timed_out; p_dry_run only shows them. '
  'outcome: timed_out, stuck (a dry run), busy (it is being settled just now). What their '
  'workers report later is dropped; the tools themselves are stopped when their whole lease is '
  'gone. Errors: invalid_parameter_value.';

create or replace function ordinaut._sweep_deadlines(p_now timestamptz)
returns void
language plpgsql
volatile
as $fn$
declare
  v_run record;
begin
  for v_run in
    select r.run_id, r.timeout
    from ordinaut.task_run as r
    where
      r.finished_at is null
      and r.pipeline_id is not null
      and r.error is null
      and r.started_at + r.timeout <= p_now
    order by r.run_id
  loop
    perform ordinaut._time_out_run(v_run.run_id, jsonb_build_object(
      'message', 'timed out after ' || ordinaut._minutes(v_run.timeout),
      'type', 'Timeout', 'category', 'timeout', 'code', 'E6001', 'retryable', false), p_now);
  end loop;
end
$fn$;

comment on function ordinaut._sweep_deadlines(timestamptz) is
  'End runs of steps that have reached their task''s timeout.';
