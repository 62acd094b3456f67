/*
 * Operating a run of steps: what a person may do to one step, and to a run that has failed.  Each
 * act holds the run, is legal by legal_transition, and leaves in the journal who did it and why.
 *
 * A step that a worker holds is not touched: cancel the run, or wait.  A run that has ended, but
 * not in success, is reopened: what was cancelled with it waits again for what it needs.
 */

create or replace function ordinaut._operate(p_step_id uuid, p_event text, p_note text)
returns ordinaut.step
language plpgsql
volatile
as $fn$
declare
  v_step ordinaut.step := ordinaut._step_of(p_step_id);
  v_run ordinaut.task_run;
begin
  if v_step.step_id is null then
    raise exception using
      errcode = 'OR020',
      message = format('there is no step %s', p_step_id),
      hint = 'The view step_status lists the steps of runs; those of old runs are pruned.';
  end if;
  v_run := ordinaut._lock_run(v_step.run_id);
  -- The unit before the step, as a lease takes them: what is gone here is leased, or has ended.
  delete from ordinaut.due_work as w where w.work_id = p_step_id;
  delete from ordinaut.parked as p where p.work_id = p_step_id;
  v_step := ordinaut._step_of(p_step_id);

  if v_step.state = 'in_progress' and v_step.wait is null then
    raise exception using
      errcode = 'OR031',
      message = format('step %s (%s) of run %s is being run', p_step_id, v_step.name,
        v_step.run_id),
      hint = 'Wait for it, or cancel its run.';
  elsif v_run.state = 'success' or v_step.state in ('complete', 'skipped', 'resolved_manually') then
    raise exception using
      errcode = 'OR031',
      message = format('step %s (%s) of run %s is %s, and the run %s', p_step_id, v_step.name,
        v_step.run_id, v_step.state, v_run.state),
      hint = 'What has succeeded stays. replay_run() starts anew from a step.';
  elsif v_step.kind is not null then
    raise exception using
      errcode = 'OR031',
      message = format('step %s (%s) is part of another', p_step_id, v_step.name),
      hint = 'Act on the step that it belongs to.';
  end if;
  perform ordinaut._journal(p_event, v_step.run_id, v_run.task_id,
    p_attempt => v_step.attempt::integer, p_step => v_step.name,
    p_detail => jsonb_strip_nulls(jsonb_build_object('note', p_note, 'from', v_step.state)));
  if v_run.finished_at is not null or v_run.error is not null then
    perform ordinaut._reopen_run(v_run, p_step_id);
  end if;
  return ordinaut._step_of(p_step_id);
end
$fn$;

comment on function ordinaut._operate(uuid, text, text) is
  'Hold the run of a step that somebody acts on, take the step''s unit away, journal the act. '
  'Errors: OR020, OR031 (it is being run, or has succeeded).';

/* The run goes on.  p_except: the step that the caller decides about.  Its children, its events
   and its approvals ended with it: steps that waited for one begin again. */
create or replace function ordinaut._reopen_run(p_run ordinaut.task_run, p_except uuid)
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
  elsif exists (
    select from ordinaut.hold as h
    where h.key = p_run.key and h.slot >= 1 and h.run_id <> p_run.run_id
    having count(*) >= p_run.key_limit
  ) then
    raise exception using
      errcode = 'OR031',
      message = format('run %s has the key %L, which others hold', p_run.run_id, p_run.key),
      hint = 'Wait until they have ended, or replay_run(), which waits in line.';
  end if;
  if p_run.key is not null then
    insert into ordinaut.hold (key, slot, run_id)
    select p_run.key, min(n.slot), p_run.run_id
    from generate_series(1, p_run.key_limit) as n (slot)
    where not exists (
      select from ordinaut.hold as h where h.key = p_run.key and h.slot = n.slot)
    on conflict on constraint hold_pk do nothing;
  end if;
  delete from ordinaut.cancel_request as c where c.run_id = p_run.run_id;
  update ordinaut.task_run as r
  set
    state = 'running',
    finished_at = null,
    error = null
  where r.run_id = p_run.run_id;
  update ordinaut.step as s
  set
    state = 'pending',
    finished_at = null,
    wait = null
  where
    s.run_id = p_run.run_id and s.kind is null and s.state = 'cancelled'
    and s.step_id is distinct from p_except;
  perform ordinaut._recount(p_run.run_id);
end
$fn$;

comment on function ordinaut._reopen_run(ordinaut.task_run, uuid) is
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
  'Make a step due as if it had never been tried; the items of a map that are done stay done. The '
  'caller holds the run.';

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
  perform ordinaut._reopen_run(v_run, null);
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
  'steps. retry_run() starts a whole new run instead. Errors: OR020, OR031 (it has not failed, or '
  'was rolled back).';

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
  select v_id, b.body from ordinaut.payload as b where b.run_id = p_run_id and v_run.payload is null;
  -- What comes before keeps its outcome; the step and all that follows from it run again.
  with recursive again as (
    select v_from as at
    union
    select f.at
    from again as a
    join ordinaut.pipeline_step as d on d.pipeline_id = v_run.pipeline_id and d.position = a.at
    cross join unnest(d.followers) as f (at)
  )
  insert into ordinaut.step (step_id, run_id, position, defined_by, name, state, waits_for, attempt,
    failures, crashes, output, error, created_at, started_at, finished_at)
  select ordinaut._v7(substring(uuid_send(v_id) for 6)), v_id, s.position, s.position, s.name,
    case when k.is_kept then s.state else 'pending' end, 0, case when k.is_kept then s.attempt else 0 end,
    0, 0,
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
  'Run a run of steps that has ended again from a step, as a new run (retry_of), and return its id. '
  'That step and all that follows from it run anew, with what had not succeeded; the rest keeps '
  'its outputs. Errors: OR020, OR031 (it has not ended, or has a key).';

create or replace function ordinaut.reset_step(p_step_id uuid, p_note text default null)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_step ordinaut.step := ordinaut._operate(p_step_id, 'step_reset', p_note);
begin
  if v_step.state not in ('error', 'waiting_for_retry') then
    raise exception using
      errcode = 'OR031',
      message = format('step %s (%s) has not failed: it is %s', p_step_id, v_step.name,
        v_step.state),
      hint = 'why() tells what it waits for.';
  end if;
  delete from ordinaut.step as s where s.map_step_id = v_step.step_id;
  perform ordinaut._start_over(v_step, ordinaut.now());
  return 'ready';
end
$fn$;

comment on function ordinaut.reset_step(uuid, text) is
  'Start a failed step over, its attempts counted from 0, at once; the run goes on if it had '
  'failed. Returns its state. Errors: OR020, OR031.';

create or replace function ordinaut._end_by_hand(
  p_step_id uuid,
  p_event   text,
  p_state   text,
  p_output  jsonb,
  p_note    text
)
returns text
language plpgsql
volatile
as $fn$
declare
  v_step ordinaut.step := ordinaut._operate(p_step_id, p_event, p_note);
begin
  -- Cancelled with its run: it waits again before it can end otherwise.
  if v_step.state = 'cancelled' then
    update ordinaut.step as s set state = 'pending', finished_at = null
    where s.step_id = p_step_id;
  end if;
  perform ordinaut._end_step(v_step, p_state, p_output, ordinaut.now());
  perform ordinaut._fail_if_stuck(v_step.run_id, ordinaut.now());
  return p_state;
end
$fn$;

comment on function ordinaut._end_by_hand(uuid, text, text, jsonb, text) is
  'End a step in place of its tool. Errors: OR020, OR031.';

create or replace function ordinaut.resolve_step(p_step_id uuid, p_note text default null)
returns text
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select ordinaut._end_by_hand(p_step_id, 'step_resolved', 'resolved_manually', null, p_note);
$fn$;

comment on function ordinaut.resolve_step(uuid, text) is
  'Declare a step resolved, by other means than its tool: what needs it goes on, also in a run that '
  'had failed. Returns resolved_manually. Errors: OR020, OR031 (it is being run, or has '
  'succeeded, or its run was rolled back).';

create or replace function ordinaut.skip_step(p_step_id uuid, p_note text default null)
returns text
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select ordinaut._end_by_hand(p_step_id, 'step_skipped', 'skipped', null, p_note);
$fn$;

comment on function ordinaut.skip_step(uuid, text) is
  'Skip a step: what needs it goes on without its output. Returns skipped. Errors: as '
  'resolve_step().';

create or replace function ordinaut.complete_step(
  p_step_id uuid,
  p_output  jsonb default null,
  p_note    text  default null
)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  if octet_length(p_output::text) > 1048576 then
    raise exception using
      errcode = 'program_limit_exceeded',
      message = format('output of %s bytes is over 1 MB', octet_length(p_output::text)),
      hint = 'Store it elsewhere and give a reference to it.';
  end if;
  return ordinaut._end_by_hand(p_step_id, 'step_completed', 'complete', p_output, p_note);
end
$fn$;

comment on function ordinaut.complete_step(uuid, jsonb, text) is
  'Complete a step by hand with the output that its tool should have given. Returns complete. '
  'Errors: as resolve_step(), program_limit_exceeded.';
