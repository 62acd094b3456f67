/*
 * How a run of steps ends: it succeeds, or it is failing or withdrawn: what has not started is
 * cancelled, what is leased finishes, what is done is rolled back, the last first, and then it ends.
 */

create or replace function ordinaut._failure_of(p_run ordinaut.task_run)
returns jsonb
language sql
stable
as $fn$
  select (s.error - 'outcome') || jsonb_build_object(
    'step', s.name, 'message', format('step %s: %s', s.name, s.error ->> 'message'))
  from ordinaut.step as s
  where
    s.run_id = p_run.run_id
    and s.state = 'error'
    and s.kind is null
    and not (
      select d.continue_on_error from ordinaut.pipeline_step as d
      where d.pipeline_id = p_run.pipeline_id and d.position = s.position)
  order by s.position
  limit 1;
$fn$;

comment on function ordinaut._failure_of(ordinaut.task_run) is
  'The error that a run fails with: of its first step in error that may not fail; null: none.';

-- Successes in one statement; the rest one by one.
create or replace function ordinaut._close_runs(p_run_ids uuid[], p_now timestamptz)
returns void
language plpgsql
volatile
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_nestloop = on
set enable_hashjoin = off
set enable_mergejoin = off
as $fn$
declare
  v_done uuid[];
  v_run ordinaut.task_run;
  v_id uuid;
begin
  with done as (
    update ordinaut.task_run as r
    set
      state = 'success',
      finished_at = p_now,
      output = coalesce((
        select jsonb_object_agg(d.save_as, s.output)
        from ordinaut.pipeline_step as d
        cross join lateral (
          select t.output from ordinaut.step as t
          where
            t.run_id = r.run_id and t.position = d.position
            and t.state in ('complete', 'resolved_manually')
          offset 0
        ) as s
        where d.pipeline_id = r.pipeline_id and d.save_as is not null
      ), '{}')
    where
      r.run_id = any (p_run_ids)
      and r.error is null
      and r.state in ('running', 'waiting')
      and not exists (
        select from ordinaut.step as s
        where s.run_id = r.run_id and s.state = 'cancelled' and s.kind is null)
      and ordinaut._failure_of(r) is null
      -- A run of no step: unless its pipeline is lost.
      and exists (select from ordinaut.pipeline as p where p.pipeline_id = r.pipeline_id)
    returning r.run_id, r.key, r.idempotency_key
  )
  select array_agg(d.run_id),
    (array_agg(d.run_id) filter (where d.key is not null or d.idempotency_key is not null))[1]
  into v_done, v_id
  from done as d;

  if v_done is not null and exists (select from ordinaut.cancel_request) then
    delete from ordinaut.cancel_request as c where c.run_id = any (v_done);
  end if;
  if v_id is not null then
    for v_run in
      select r.* from ordinaut.task_run as r where r.run_id = any (v_done) order by r.key, r.run_id
    loop
      perform ordinaut._end_holds(ordinaut._run_item(v_run));
    end loop;
  end if;
  if cardinality(v_done) is distinct from cardinality(p_run_ids) then
    foreach v_id in array p_run_ids loop
      if v_id <> all (coalesce(v_done, '{}')) then
        perform ordinaut._close_run(v_id, p_now);
      end if;
    end loop;
  end if;
end
$fn$;

comment on function ordinaut._close_runs(uuid[], timestamptz) is
  'End runs of which no step is live.';

create or replace function ordinaut._run_item(p_run ordinaut.task_run)
returns ordinaut.work_item
language sql
immutable
as $fn$
  select row(p_run.run_id, p_run.run_id, null, p_run.task_id, p_run.queue, p_run.priority,
    p_run.enqueued_at, p_run.scheduled_for, p_run.enqueued_at, p_run.attempt, p_run.failures,
    p_run.crashes, p_run.max_attempts, p_run.timeout, p_run.tool, p_run.key, p_run.key_limit,
    p_run.idempotency_key, p_run.retry, p_run.retry_of, p_run.payload,
    p_run.pipeline_id)::ordinaut.work_item;
$fn$;

comment on function ordinaut._run_item(ordinaut.task_run) is 'A run as the unit that it was.';

-- The end of a run that is not a plain success, or its rollback first.
create or replace function ordinaut._close_run(p_run_id uuid, p_now timestamptz)
returns void
language plpgsql
volatile
as $fn$
declare
  v_run ordinaut.task_run;
  v_request ordinaut.cancel_request;
  v_state text;
  v_error jsonb;
begin
  select r.* into v_run
  from ordinaut.task_run as r
  where r.run_id = p_run_id and r.finished_at is null;
  if not found or exists (
    select from ordinaut.step as s where s.run_id = p_run_id and ordinaut._is_live(s.state, s.wait)
  ) then
    return;
  end if;
  v_error := coalesce(v_run.error, ordinaut._failure_of(v_run));
  if v_error is null and exists (
    -- Items that were cancelled are the map's business.
    select from ordinaut.step as s
    where s.run_id = p_run_id and s.state = 'cancelled' and s.kind is null
  ) then
    select c.* into v_request from ordinaut.cancel_request as c where c.run_id = p_run_id;
    v_state := 'cancelled';
    v_error := jsonb_build_object(
      'message', 'cancelled by ' || coalesce(v_request.requested_by, ordinaut._actor()),
      'note', v_request.note);
  elsif v_error is not null then
    v_state := coalesce(v_error ->> 'outcome', 'failed');
  elsif not exists (
    select from ordinaut.pipeline as p where p.pipeline_id = v_run.pipeline_id
  ) then
    v_state := 'failed';
    v_error := jsonb_build_object('category', 'internal', 'code', 'E5002',
      'message', format('its pipeline %s is gone', v_run.pipeline_id));
  else
    perform ordinaut._close_runs(array[p_run_id], p_now);
    return;
  end if;

  if ordinaut._roll_back(v_run, p_now) then
    -- Why, until that is done; and a cancel has been heard: it must not stop the rollback.
    update ordinaut.task_run as r
    set error = v_error || jsonb_build_object('outcome', v_state)
    where r.run_id = p_run_id;
    delete from ordinaut.cancel_request as c where c.run_id = p_run_id;
    return;
  end if;
  v_error := v_error
    || coalesce((
      select jsonb_build_object(
        'context', jsonb_build_object('partial', jsonb_object_agg(d.save_as, s.output)))
      from ordinaut.step as s
      join ordinaut.pipeline_step as d
        on d.pipeline_id = v_run.pipeline_id and d.position = s.position
      where s.run_id = p_run_id and s.state = 'complete' and d.save_as is not null
      having count(*) > 0
    ), '{}')
    || coalesce((
      select jsonb_build_object('rollbacks_failed', jsonb_agg(s.name order by s.position))
      from ordinaut.step as s
      where s.run_id = p_run_id and s.kind = 'rollback' and s.state = 'error'
      having count(*) > 0
    ), '{}');
  update ordinaut.task_run as r
  set state = v_state, finished_at = p_now, error = v_error - 'outcome'
  where r.run_id = p_run_id;
  delete from ordinaut.cancel_request as c where c.run_id = p_run_id;
  perform ordinaut._journal(v_state, p_run_id, v_run.task_id, v_run.queue,
    p_detail => v_error - 'context');
  perform ordinaut._end_holds(ordinaut._run_item(v_run));
end
$fn$;

comment on function ordinaut._close_run(uuid, timestamptz) is
  'End a run of which no step is live: it succeeds, or what is done is rolled back and it fails '
  'or is cancelled. The caller holds the run.';

/* What its on_rollback says, of each completed step, the last first.  They are steps like others,
   one after the other; one that fails for good does not keep the others from running. */
create or replace function ordinaut._roll_back(p_run ordinaut.task_run, p_now timestamptz)
returns boolean
language plpgsql
volatile
as $fn$
begin
  if exists (
    select from ordinaut.step as s where s.run_id = p_run.run_id and s.kind = 'rollback'
  ) then
    return false;
  end if;
  insert into ordinaut.step (step_id, run_id, position, defined_by, kind, name, state, waits_for,
    attempt, failures, crashes, created_at)
  select
    ordinaut._v7(substring(uuid_send(p_run.run_id) for 6)), p_run.run_id,
    (select max(m.position) from ordinaut.step as m where m.run_id = p_run.run_id)
      + row_number() over (order by s.finished_at desc, s.position desc),
    s.position, 'rollback', format('rollback(%s)', s.name), 'pending', 1, 0, 0, 0, p_now
  from ordinaut.step as s
  join ordinaut.pipeline_step as d
    on d.pipeline_id = p_run.pipeline_id and d.position = s.position
  where
    s.run_id = p_run.run_id and s.kind is null and s.state = 'complete'
    and d.on_rollback is not null;
  return found and ordinaut._roll_back_next(p_run.run_id, p_now);
end
$fn$;

comment on function ordinaut._roll_back(ordinaut.task_run, timestamptz) is
  'Begin to roll a run back; false when there is nothing to roll back, or it was done.';

create or replace function ordinaut._roll_back_next(p_run_id uuid, p_now timestamptz)
returns boolean
language plpgsql
volatile
as $fn$
declare
  v_step ordinaut.step;
  v_item ordinaut.work_item;
begin
  update ordinaut.step as s
  set state = 'ready', waits_for = 0
  where s.step_id = (
    select n.step_id
    from ordinaut.step as n
    where n.run_id = p_run_id and n.kind = 'rollback' and n.state = 'pending'
    order by n.position
    limit 1
  )
  returning s.* into v_step;
  if v_step.step_id is null then
    return false;
  end if;
  v_item := (
    select ordinaut._step_item(v_step, r, p_now) from ordinaut.task_run as r
    where r.run_id = p_run_id);
  perform ordinaut._put_due(array[v_item]);
  perform ordinaut._notify_idle(v_item.queue);
  return true;
end
$fn$;

comment on function ordinaut._roll_back_next(uuid, timestamptz) is
  'Make the next rollback of a run due; false when there is none left.';

create or replace function ordinaut._fail_step(
  p_step  ordinaut.step,
  p_error jsonb,
  p_now   timestamptz
)
returns void
language plpgsql
volatile
as $fn$
begin
  delete from ordinaut.due_work as w where w.work_id = p_step.step_id;
  delete from ordinaut.parked as p where p.work_id = p_step.step_id;
  update ordinaut.step as s
  set
    state = 'error', error = p_error, finished_at = p_now, next_retry_at = null, wait = null,
    failures = greatest(s.failures, 1)
  where s.step_id = p_step.step_id and s.state in ('in_progress', 'waiting_for_retry');
  perform ordinaut._journal('failed', p_step.run_id, p_step => p_step.name,
    p_attempt => p_step.attempt::integer,
    p_detail => p_error || jsonb_build_object('started_at', p_step.started_at));
  perform ordinaut._failed_for_good(p_step, p_error, p_now);
end
$fn$;

comment on function ordinaut._fail_step(ordinaut.step, jsonb, timestamptz) is
  'End a step that no worker holds as failed, for good. The caller holds the run.';

create or replace function ordinaut._failed_for_good(
  p_step  ordinaut.step,
  p_error jsonb,
  p_now   timestamptz
)
returns void
language plpgsql
volatile
as $fn$
declare
  v_goes_on boolean;
begin
  select d.continue_on_error or p_step.kind is not null into v_goes_on
  from ordinaut.task_run as r
  join ordinaut.pipeline_step as d
    on d.pipeline_id = r.pipeline_id and d.position = p_step.defined_by
  where r.run_id = p_step.run_id;
  if not v_goes_on then
    -- outcome is the run's own word for how it ends: not what a tool's error says.
    update ordinaut.task_run as r
    set error = (p_error - 'outcome') || jsonb_build_object(
      'step', p_step.name,
      'message', format('step %s: %s', p_step.name, p_error ->> 'message'))
    where r.run_id = p_step.run_id and r.error is null and r.finished_at is null;
    if found then
      perform ordinaut._cancel_waiting(p_step.run_id, 'step ' || p_step.name || ' failed', p_now);
    end if;
  end if;
  -- Of an item or a rollback its own kind decides; of a run that is failing, whether it has ended.
  perform ordinaut._unlock(array[p_step.step_id], null, 0, p_now);
end
$fn$;

comment on function ordinaut._failed_for_good(ordinaut.step, jsonb, timestamptz) is
  'What follows from a step in error that will not be tried again.';

/* Whatever has not started, and what waits without a worker.  Units first: one that a lease takes
   just now is left to run. */
create or replace function ordinaut._cancel_waiting(
  p_run_id uuid,
  p_note   text,
  p_now    timestamptz
)
returns void
language plpgsql
volatile
set jit = off
set enable_seqscan = off
as $fn$
declare
  v_ids uuid[];
  v_taken uuid[];
begin
  select array_agg(s.step_id) into v_ids
  from ordinaut.step as s
  where
    s.run_id = p_run_id
    and s.kind is distinct from 'rollback'
    and s.state in ('ready', 'waiting_for_retry', 'in_progress', 'error');
  v_taken := ordinaut._withdraw(v_ids);

  update ordinaut.step as s
  set state = 'cancelled', finished_at = p_now, next_retry_at = null
  where
    s.run_id = p_run_id
    and s.kind is distinct from 'rollback'
    and (s.state = 'pending' or s.step_id = any (v_taken) and s.state <> 'error');
  update ordinaut.step as s
  set wait = null, next_retry_at = null
  where s.run_id = p_run_id and s.state = 'error' and s.wait is not null;
  perform ordinaut._cancel_children(p_run_id, p_note);
end
$fn$;

comment on function ordinaut._cancel_waiting(uuid, text, timestamptz) is
  'Cancel the steps of a run that no worker holds, but for rollbacks. The caller holds the run.';
