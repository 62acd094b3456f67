/*
 * A run of steps that has ended, but not in success, goes on: in place, with all that was done, or
 * from a step as a new run.  What was cancelled with it waits again for what it needs.  A run whose
 * effects were rolled back can only be replayed.
 */

/* The run goes on.  Its children, its events and its approvals ended with it: steps that waited for
   one begin again. */
create or replace function ordinaut._reopen_run(p_run ordinaut.task_run)
returns void
language plpgsql
volatile
as $fn$
begin
  if exists (
    select from ordinaut.step as s where s.run_id = p_run.run_id and s.kind = 'rollback'
  ) then
    raise exception using
      errcode = 'OR031',
      message = format('run %s was rolled back', p_run.run_id),
      hint = 'Its effects are undone: replay_run() starts a new run from any step.';
  elsif not exists (select from ordinaut.step as s where s.run_id = p_run.run_id) then
    raise exception using
      errcode = 'OR031',
      message = format('run %s ended before it started: it has no steps', p_run.run_id),
      hint = 'retry_run() queues it again.';
  elsif p_run.key is not null and not (
    ordinaut._try_key(p_run.key) and ordinaut._take_slot(ordinaut._run_item(p_run))
  ) then
    raise exception using
      errcode = 'OR031',
      message = format('run %s has the key %L, which others hold or wait for', p_run.run_id,
        p_run.key),
      hint = 'Wait until they have ended, or retry_run(), which waits in line.';
  end if;
  update ordinaut.task_run as r
  set
    state = 'running',
    finished_at = null,
    error = null
  where r.run_id = p_run.run_id;
  -- The row forgets that it was cancelled; the history of the step must not.
  perform ordinaut._journal('step_reopened', s.run_id, p_run.task_id, p_step => s.name,
    p_attempt => s.attempt::integer,
    p_detail => jsonb_build_object('cancelled_at', s.finished_at))
  from ordinaut.step as s
  where s.run_id = p_run.run_id and s.kind is null and s.state = 'cancelled';
  update ordinaut.step as s
  set
    state = 'pending',
    finished_at = null,
    wait = null
  where s.run_id = p_run.run_id and s.kind is null and s.state = 'cancelled';
  perform ordinaut._recount(p_run.run_id);
end
$fn$;

comment on function ordinaut._reopen_run(ordinaut.task_run) is
  'Make a run live again that failed or was cancelled, with its cancelled steps waiting. Errors: '
  'OR031 (it was rolled back, or its key is taken).';

-- Pending steps count anew what they wait for; those that wait for nothing become due.
create or replace function ordinaut._recount(p_run_id uuid)
returns void
language plpgsql
volatile
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_run ordinaut.task_run;
  v_step ordinaut.step;
begin
  select r.* into v_run from ordinaut.task_run as r where r.run_id = p_run_id;
  for v_step in
    update ordinaut.step as s
    set
      waits_for = n.waits_for,
      state = case when n.waits_for = 0 then 'ready' else s.state end
    from (
      select t.step_id, count(*) filter (
          where not ordinaut._satisfies(p.state, pd.continue_on_error)) as waits_for
      from ordinaut.step as t
      join ordinaut.pipeline_step as d
        on d.pipeline_id = v_run.pipeline_id and d.position = t.defined_by
      left join unnest(d.needs) as need (at) on true
      left join ordinaut.step as p on p.run_id = t.run_id and p.position = need.at
      left join ordinaut.pipeline_step as pd
        on pd.pipeline_id = v_run.pipeline_id and pd.position = need.at
      where t.run_id = p_run_id and t.kind is null and t.state = 'pending'
      group by t.step_id
    ) as n
    where s.step_id = n.step_id
    returning s.*
  loop
    if v_step.state = 'ready' then
      perform ordinaut._put_back(ordinaut._step_item(v_step, v_run, v_now), v_now);
    end if;
  end loop;
end
$fn$;

comment on function ordinaut._recount(uuid) is
  'Let the pending steps of a run wait for what they need now, or be due. The caller holds it.';

create or replace function ordinaut._start_over(p_step ordinaut.step, p_now timestamptz)
returns void
language plpgsql
volatile
as $fn$
declare
  v_step ordinaut.step;
  v_run ordinaut.task_run;
begin
  update ordinaut.step as s
  set
    state = 'ready',
    waits_for = 0,
    attempt = 0,
    failures = 0,
    crashes = 0,
    wait = null,
    retry_after = null,
    next_retry_at = null,
    finished_at = null
  where s.step_id = p_step.step_id
  returning s.* into v_step;
  select r.* into v_run from ordinaut.task_run as r where r.run_id = p_step.run_id;
  perform ordinaut._put_back(ordinaut._step_item(v_step, v_run, p_now), p_now);
end
$fn$;

comment on function ordinaut._start_over(ordinaut.step, timestamptz) is
  'Make a step due as if it had never been tried; the items of a map that are done stay done. '
  'The caller holds the run.';

/* One failure was seen to, another is left: the run must not wait for ever for what needs that. */
create or replace function ordinaut._fail_if_stuck(p_run_id uuid, p_now timestamptz)
returns void
language plpgsql
volatile
as $fn$
begin
  if exists (
    select from ordinaut.step as s
    where
      s.run_id = p_run_id
      and (s.state in ('ready', 'in_progress', 'waiting_for_retry') or s.wait is not null)
  ) then
    return;
  end if;
  update ordinaut.task_run as r
  set error = ordinaut._failure_of(r)
  where r.run_id = p_run_id and r.finished_at is null;
  if found then
    perform ordinaut._cancel_waiting(p_run_id, 'another step had failed', p_now);
    perform ordinaut._close_run(p_run_id, p_now);
  end if;
end
$fn$;

comment on function ordinaut._fail_if_stuck(uuid, timestamptz) is
  'End a run of which nothing can go on. The caller holds it.';

create or replace function ordinaut.retry_failed_steps(p_run_id uuid, p_note text default null)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_run ordinaut.task_run := ordinaut._lock_run(p_run_id);
  v_step ordinaut.step;
  v_n integer := 0;
begin
  if v_run.run_id is null then
    raise exception using
      errcode = 'OR020',
      message = format('there is no run of steps %s', p_run_id),
      hint = 'retry_run() runs one of a single tool again, as a new run.';
  elsif v_run.finished_at is null or v_run.state = 'success' then
    raise exception using
      errcode = 'OR031',
      message = format('run %s has not failed: it is %s', p_run_id, v_run.state),
      hint = 'reset_step() starts one step over; replay_run() starts a new run.';
  end if;
  perform ordinaut._journal('steps_retried', p_run_id, v_run.task_id, v_run.queue,
    p_detail => jsonb_strip_nulls(jsonb_build_object('note', p_note, 'from', v_run.state)));
  perform ordinaut._reopen_run(v_run);
  for v_step in
    select s.*
    from ordinaut.step as s
    join ordinaut.pipeline_step as d
      on d.pipeline_id = v_run.pipeline_id and d.position = s.defined_by
    where
      s.run_id = p_run_id and s.kind is null and s.state = 'error' and not d.continue_on_error
    order by s.position
  loop
    perform ordinaut._journal('step_retried', p_run_id, v_run.task_id, p_step => v_step.name,
      p_attempt => v_step.attempt::integer);
    perform ordinaut._start_over(v_step, ordinaut.now());
    v_n := v_n + 1;
  end loop;
  return v_n;
end
$fn$;

comment on function ordinaut.retry_failed_steps(uuid, text) is
  'Let a run of steps that failed, timed out or was cancelled go on: what failed is tried anew, '
  'what was cancelled waits for it again, what succeeded stays. Returns the number of failed '
  'steps. retry_run() starts a whole new run instead. Errors: OR020, OR031 (it has not failed, '
  'or was rolled back).';

create or replace function ordinaut.replay_run(
  p_run_id    uuid,
  p_from_step text,
  p_note      text default null
)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_run ordinaut.task_run;
  v_new ordinaut.task_run;
  v_id uuid := ordinaut.uuid_generate_v7(v_now);
  v_from integer;
begin
  v_run := ordinaut._lock_run(p_run_id);
  select d.position into v_from
  from ordinaut.pipeline_step as d
  where d.pipeline_id = v_run.pipeline_id and d.name = p_from_step;
  if v_from is null then
    raise exception using
      errcode = 'OR020',
      message = case
        when v_run.run_id is null then format('there is no run of steps %s', p_run_id)
        else format('run %s has no step %L', p_run_id, left(p_from_step, 63))
      end,
      hint = 'The view step_status lists the steps of a run.';
  elsif v_run.finished_at is null then
    raise exception using
      errcode = 'OR031',
      message = format('run %s has not ended: it is %s', p_run_id, v_run.state),
      hint = 'Cancel it first.';
  elsif v_run.key is not null then
    raise exception using
      errcode = 'OR031',
      message = format('run %s has the key %s', p_run_id, v_run.key),
      hint = 'Only a worker may start a run with a key: retry_run() queues it from its first step.';
  end if;

  v_new := v_run;
  v_new.run_id := v_id;
  v_new.state := 'running';
  v_new.enqueued_at := v_now;
  v_new.started_at := v_now;
  v_new.finished_at := null;
  v_new.retry_of := p_run_id;
  v_new.idempotency_key := null;
  v_new.output := null;
  v_new.error := null;
  insert into ordinaut.task_run select v_new.*;
  insert into ordinaut.payload (run_id, body)
  select v_id, b.body
  from ordinaut.payload as b
  where b.run_id = p_run_id and v_run.payload is null;
  -- What comes before keeps its outcome, unless that was undone; the step and all that follows from
  -- it run again.
  with recursive again as (
    select v_from as at
    union
    select s.defined_by from ordinaut.step as s where s.run_id = p_run_id and s.kind = 'rollback'
    union
    select f.at
    from again as a
    join ordinaut.pipeline_step as d on d.pipeline_id = v_run.pipeline_id and d.position = a.at
    cross join unnest(d.followers) as f (at)
  )
  insert into ordinaut.step (step_id, run_id, position, defined_by, name, state, waits_for, attempt,
    failures, crashes, output, error, created_at, started_at, finished_at)
  select ordinaut._v7(substring(uuid_send(v_id) for 6)), v_id, s.position, s.position, s.name,
    case when k.is_kept then s.state else 'pending' end, 0,
    case when k.is_kept then s.attempt else 0 end, 0, 0,
    case when k.is_kept then s.output end, case when k.is_kept then s.error end, v_now,
    case when k.is_kept then v_now end, case when k.is_kept then v_now end
  from ordinaut.step as s
  join ordinaut.pipeline_step as d
    on d.pipeline_id = v_run.pipeline_id and d.position = s.position
  cross join lateral (
    select ordinaut._satisfies(s.state, d.continue_on_error)
      and s.position not in (select a.at from again as a) as is_kept
  ) as k
  where s.run_id = p_run_id and s.kind is null;
  perform ordinaut._journal('replayed', p_run_id, v_run.task_id, v_run.queue,
    p_detail => jsonb_strip_nulls(jsonb_build_object(
      'replayed_as', v_id, 'from_step', p_from_step, 'note', p_note)));
  perform ordinaut._recount(v_id);
  return v_id;
end
$fn$;

comment on function ordinaut.replay_run(uuid, text, text) is
  'Run a run of steps that has ended again from a step, as a new run (retry_of), and return its '
  'id. That step and all that follows from it run anew, with what had not succeeded or was '
  'rolled back; the rest keeps its outputs. Errors: OR020, OR031 (it has not ended, or has a '
  'key).';
