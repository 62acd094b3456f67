/*
 * Runs of steps: what follows when a step ends.  Everything here happens in the transaction that
 * ended the step, with the run's row held.
 *
 *   a step ends      -> followers that waited for nothing else become ready
 *                    -> the last one: the run succeeds, with the outputs that are saved
 *   a step fails     -> waiting_for_retry | the run is failing: what has not started is cancelled,
 *     for good          what is leased finishes, rollbacks run in reverse, the run is failed
 */

/* The hot path: p_ended have just ended, and satisfy what needs them.  Set-based.  Of each run one
   step, at most p_room in all, that became ready in p_queue is answered as leased: whoever settled
   the step before goes on with it, so that a run once begun gets done before the next one. */
create or replace function ordinaut._unlock(
  p_ended uuid[],
  p_queue text,
  p_room  integer,
  p_now   timestamptz
)
returns ordinaut.work_item[]
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
  v_items ordinaut.work_item[];
  v_leased ordinaut.work_item[];
  v_queue text;
  v_skip uuid[];
  v_is_part boolean;  -- an item or a rollback has ended
  v_ended uuid[];
begin
  /* Every look-up is a lateral one that cannot be flattened: a join order that was planned on
     empty tables goes through all runs of a pipeline for each step (84 ms a batch against 2).
     And the plan is kept: made at each call, it costs 1.5 ms. */
  with over as materialized (
    select s.run_id, s.position, s.kind from ordinaut.step as s where s.step_id = any (p_ended)
  ),
  ended as (
    select s.run_id, s.position, r.pipeline_id
    from over as s
    cross join lateral (
      select t.pipeline_id from ordinaut.task_run as t
      where t.run_id = s.run_id and t.error is null
      offset 0
    ) as r
    where s.kind is null
  ),
  pushed as (
    select e.run_id, e.pipeline_id, f.position, count(*) as n
    from ended as e
    cross join lateral (
      select p.followers from ordinaut.pipeline_step as p
      where p.pipeline_id = e.pipeline_id and p.position = e.position
      offset 0
    ) as d
    cross join unnest(d.followers) as f (position)
    group by e.run_id, e.pipeline_id, f.position
  ),
  next as (
    select s.step_id, p.run_id, p.pipeline_id, p.position, p.n, s.waits_for = p.n as is_ready,
      r.queue, r.priority, r.task_id, r.scheduled_for, r.enqueued_at, d as def,
      s.waits_for = p.n and coalesce(d.queue, r.queue) = p_queue and not d.skip_with_needs
        and row_number() over (
          partition by p.run_id, s.waits_for = p.n, coalesce(d.queue, r.queue) = p_queue
          order by p.position
        ) = 1 as is_first
    from pushed as p
    cross join lateral (
      select t.queue, t.priority, t.task_id, t.scheduled_for, t.enqueued_at
      from ordinaut.task_run as t
      where t.run_id = p.run_id
      offset 0
    ) as r
    cross join lateral (
      select q.* from ordinaut.pipeline_step as q
      where q.pipeline_id = p.pipeline_id and q.position = p.position
      offset 0
    ) as d
    cross join lateral (
      select t.step_id, t.waits_for from ordinaut.step as t
      where t.run_id = p.run_id and t.position = p.position and t.state = 'pending'
      offset 0
    ) as s
  ),
  placed as (
    select n.*, n.is_first and row_number() over (
        partition by n.is_first order by n.run_id
      ) <= p_room as is_leased
    from next as n
  ),
  moved as (
    update ordinaut.step as s
    set
      waits_for = s.waits_for - p.n,
      state = case
        when p.is_leased then 'in_progress' when p.is_ready then 'ready' else s.state
      end,
      attempt = case when p.is_leased then s.attempt + 1 else s.attempt end,
      started_at = case when p.is_leased then p_now else s.started_at end
    from placed as p
    where s.step_id = p.step_id
    returning s.step_id, s.attempt, s.failures, s.crashes, p.is_leased, p.is_ready, p.run_id,
      p.pipeline_id, p.queue, p.priority, p.task_id, p.scheduled_for, p.enqueued_at, p.def
  ),
  unit as (
    select m.is_leased, row(m.step_id, m.run_id, (m.def).name, m.task_id,
      coalesce((m.def).queue, m.queue), coalesce((m.def).priority, m.priority),
      -- Gone on with: its place in line, and nothing to learn for those who look for due work.
      case when m.is_leased then m.enqueued_at else p_now end,
      m.scheduled_for, p_now, m.attempt, m.failures, m.crashes, (m.def).max_attempts,
      (m.def).timeout, (m.def).tool, null, null, null, (m.def).retry, null,
      case when not (m.def).has_context then (m.def).body end,
      m.pipeline_id)::ordinaut.work_item as item
    from moved as m
    where m.is_ready and not (m.def).skip_with_needs
  )
  select
    (select array_agg(u.item) filter (where u.is_leased) from unit as u),
    (select array_agg(u.item) filter (where not u.is_leased) from unit as u),
    (select array_agg(m.step_id) from moved as m where m.is_ready and (m.def).skip_with_needs),
    -- Runs in which nothing came next may have ended.
    array(select o.run_id from over as o except select m.run_id from moved as m),
    (select bool_or(o.kind is not null) from over as o)
  into v_leased, v_items, v_skip, v_ended, v_is_part;

  if v_items is not null then
    perform ordinaut._put_due(v_items);
    for v_queue in select distinct i.queue from unnest(v_items) as i loop
      perform ordinaut._notify_idle(v_queue);
    end loop;
  end if;
  if v_skip is not null then
    perform ordinaut._skip_with_needs(v_skip, p_now);
  end if;
  if v_is_part then
    perform ordinaut._after_dynamic(p_ended, p_now);
  end if;
  if v_ended <> '{}' then
    v_ended := array(
      select e.run_id from unnest(v_ended) as e (run_id)
      where not exists (
        select from ordinaut.step as s
        where s.run_id = e.run_id and ordinaut._is_live(s.state, s.wait))
    );
    if v_ended <> '{}' then
      perform ordinaut._close_runs(v_ended, p_now);
    end if;
  end if;
  return v_leased;
end
$fn$;

comment on function ordinaut._unlock(uuid[], text, integer, timestamptz) is
  'What follows from the end of these steps: followers become due, runs end. Returns the units '
  'that the caller may go on with; null when there are none.';

create or replace function ordinaut._skip_with_needs(p_step_ids uuid[], p_now timestamptz)
returns void
language plpgsql
volatile
as $fn$
declare
  v_step ordinaut.step;
begin
  for v_step in
    select s.* from ordinaut.step as s where s.step_id = any (p_step_ids) order by s.position
  loop
    if exists (
      select
      from ordinaut.task_run as r
      join ordinaut.pipeline_step as d
        on d.pipeline_id = r.pipeline_id and d.position = v_step.position
      join ordinaut.step as n on n.run_id = r.run_id and n.position = any (d.needs)
      where r.run_id = v_step.run_id and n.state <> 'skipped'
    ) then
      perform ordinaut._put_due(array[ordinaut._step_item(v_step, r, p_now)])
      from ordinaut.task_run as r
      where r.run_id = v_step.run_id;
    else
      perform ordinaut._journal('skipped', v_step.run_id, p_step => v_step.name,
        p_detail => jsonb_build_object('message', 'all that it needs was skipped'));
      perform ordinaut._end_step(v_step, 'skipped', null, p_now);
    end if;
  end loop;
end
$fn$;

comment on function ordinaut._skip_with_needs(uuid[], timestamptz) is
  'Skip those ready steps of which every need was skipped; the others become due.';

create or replace function ordinaut._after_dynamic(p_ended uuid[], p_now timestamptz)
returns void
language plpgsql
volatile
as $fn$
declare
  v_step ordinaut.step;
begin
  for v_step in
    select distinct on (coalesce(s.map_step_id, s.run_id)) s.*
    from ordinaut.step as s
    where s.step_id = any (p_ended) and s.kind is not null
    order by coalesce(s.map_step_id, s.run_id)
  loop
    if v_step.kind = 'item' then
      perform ordinaut._item_ended(v_step.map_step_id, p_now);
    else
      perform ordinaut._roll_back_next(v_step.run_id, p_now);
    end if;
  end loop;
end
$fn$;

comment on function ordinaut._after_dynamic(uuid[], timestamptz) is
  'What follows from the end of items of maps, and of rollbacks.';

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
  v_error := v_error || jsonb_strip_nulls(jsonb_build_object(
    'context', (
      select jsonb_build_object('partial', jsonb_object_agg(d.save_as, s.output))
      from ordinaut.step as s
      join ordinaut.pipeline_step as d
        on d.pipeline_id = v_run.pipeline_id and d.position = s.position
      where s.run_id = p_run_id and s.state = 'complete' and d.save_as is not null
      having count(*) > 0
    ),
    'rollbacks_failed', (
      select jsonb_agg(s.name order by s.position)
      from ordinaut.step as s
      where s.run_id = p_run_id and s.kind = 'rollback' and s.state = 'error'
    )));
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

create or replace function ordinaut._end_step(
  p_step   ordinaut.step,
  p_state  text,
  p_output jsonb,
  p_now    timestamptz
)
returns void
language plpgsql
volatile
as $fn$
begin
  -- The unit before the step: a lease takes them in this order.
  delete from ordinaut.due_work as w where w.work_id = p_step.step_id;
  delete from ordinaut.parked as p where p.work_id = p_step.step_id;
  update ordinaut.step as s
  set
    state = p_state, output = p_output, error = null, finished_at = p_now, next_retry_at = null,
    wait = null,
    started_at = coalesce(s.started_at, p_now)
  where s.step_id = p_step.step_id;
  perform ordinaut._unlock(array[p_step.step_id], null, 0, p_now);
end
$fn$;

comment on function ordinaut._end_step(ordinaut.step, text, jsonb, timestamptz) is
  'End a step that no worker holds as complete, skipped or resolved_manually; what follows from '
  'it follows. The caller holds the run. Errors: OR010.';

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
  with due as (
    delete from ordinaut.due_work as w
    where w.ctid = any (array(
      select y.ctid from ordinaut.due_work as y where y.work_id = any (v_ids)
      for update skip locked))
    returning w.work_id
  ),
  parked as (
    delete from ordinaut.parked as p
    where p.ctid = any (array(
      select y.ctid from ordinaut.parked as y where y.work_id = any (v_ids)
      for update skip locked))
    returning p.work_id
  )
  select array_agg(t.work_id) into v_taken
  from (select d.work_id from due as d union all select p.work_id from parked as p) as t;

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
