/*
 * Steps: the nodes of a run that follows a pipeline.  A ready step is a unit of work like any
 * other: work_id is its step_id, and its definition lies in pipeline_step, where nobody changes it.
 *
 * Whoever changes a step holds the run's row in task_run: so a join is unlocked once, and a run
 * ends once, however many of its steps end at the same moment on different workers.  A lease does
 * not need the row: it moves a step from ready to in_progress only, and whoever takes a ready step
 * away deletes its unit from due_work before it touches the step.
 */

create or replace function ordinaut._lock_run(p_run_id uuid)
returns ordinaut.task_run
language plpgsql
volatile
as $fn$
declare
  v_run ordinaut.task_run;
begin
  select r.* into v_run
  from ordinaut.task_run as r
  where r.run_id = p_run_id and r.pipeline_id is not null
  for no key update;
  return v_run;
end
$fn$;

comment on function ordinaut._lock_run(uuid) is
  'A run of steps that has started, with its row held until commit; null when there is none.';

-- Somebody's open transaction may hold a run for as long as it likes: a loop must not wait for it.
create or replace function ordinaut._try_runs(p_run_ids uuid[])
returns uuid[]
language plpgsql
volatile
set jit = off
set enable_seqscan = off
as $fn$
declare
  v_held uuid[];
begin
  for v_try in 1..20 loop
    select array_agg(h.run_id) into v_held
    from (
      select r.run_id
      from ordinaut.task_run as r
      where r.run_id = any (p_run_ids)
      order by r.run_id
      for no key update skip locked
    ) as h;
    exit when cardinality(v_held) = cardinality(p_run_ids);
    perform pg_sleep(0.002);
  end loop;
  return coalesce(v_held, '{}');
end
$fn$;

comment on function ordinaut._try_runs(uuid[]) is
  'Hold the rows of these runs (no id twice) until commit; returns those that it got within 40 '
  'ms.';

create or replace function ordinaut._lock_runs(p_run_ids uuid[])
returns uuid[]
language plpgsql
volatile
as $fn$
begin
  perform from ordinaut.task_run as r
  where r.run_id = any (p_run_ids)
  order by r.run_id
  for no key update;
  return p_run_ids;
end
$fn$;

comment on function ordinaut._lock_runs(uuid[]) is
  'Hold the rows of these runs until commit, waiting for them.';

create or replace function ordinaut._step_of(p_step_id uuid)
returns ordinaut.step
language sql
stable
as $fn$
  select s from ordinaut.step as s where s.step_id = p_step_id;
$fn$;

comment on function ordinaut._step_of(uuid) is 'A step by its id; null when there is none.';

-- A failure that nobody has evaluated yet waits for that; others in error have ended.
create or replace function ordinaut._is_live(p_state text, p_wait jsonb)
returns boolean
language sql
immutable
as $fn$
  select p_state in ('pending', 'ready', 'in_progress', 'waiting_for_retry')
    or (p_state = 'error' and p_wait is not null);
$fn$;

comment on function ordinaut._is_live(text, jsonb) is
  'Whether a step in this state, with this wait, has not ended.';

create or replace function ordinaut._step_item(
  p_step   ordinaut.step,
  p_run    ordinaut.task_run,
  p_run_at timestamptz
)
returns ordinaut.work_item
language sql
stable
as $fn$
  select row(p_step.step_id, p_step.run_id, p_step.name, p_run.task_id,
    coalesce(d.queue, p_run.queue), coalesce(d.priority, p_run.priority), p_run_at,
    p_run.scheduled_for, p_step.created_at, p_step.attempt, p_step.failures, p_step.crashes,
    case p_step.kind
      when 'rollback' then coalesce((d.on_rollback ->> 'retry_count')::smallint, 3)
      else d.max_attempts
    end,
    case p_step.kind
      when 'rollback' then (d.on_rollback ->> 'timeout')::interval
      else d.timeout
    end,
    case p_step.kind when 'rollback' then d.on_rollback ->> 'uses' else d.tool end,
    null, null, null, d.retry, null,
    case when p_step.kind is null and not d.has_context then d.body end,
    p_run.pipeline_id)::ordinaut.work_item
  from ordinaut.pipeline_step as d
  where d.pipeline_id = p_run.pipeline_id and d.position = p_step.defined_by;
$fn$;

comment on function ordinaut._step_item(ordinaut.step, ordinaut.task_run, timestamptz) is
  'The unit of work of a step, as its row and its definition say.';

/* What the templates of a step may read.  Only the outputs that they name, if that can be told:
   a long run would else send everything to everybody. */
create or replace function ordinaut._step_body(p_item ordinaut.work_item)
returns jsonb
language plpgsql
stable
as $fn$
declare
  v_step ordinaut.step := ordinaut._step_of(p_item.work_id);
  v_run ordinaut.task_run;
  v_def ordinaut.pipeline_step;
  v_undone jsonb;
begin
  select r.* into v_run from ordinaut.task_run as r where r.run_id = p_item.run_id;
  select d.* into v_def
  from ordinaut.pipeline_step as d
  where d.pipeline_id = v_run.pipeline_id and d.position = v_step.defined_by;
  if v_step.kind = 'rollback' then
    select s.output into v_undone
    from ordinaut.step as s
    where s.run_id = v_step.run_id and s.position = v_step.defined_by;
    v_def.body := v_def.on_rollback || jsonb_build_object('output', v_undone);
    v_def.reads := null;
  elsif v_step.kind = 'item' then
    v_def.body := v_def.body - 'map' || jsonb_build_object(
      'item', v_step.item,
      'index', substring(v_step.name from $re$\[(\d+)\]$$re$)::integer,
      'as', coalesce(v_def.body -> 'map' ->> 'as', 'item'));
  end if;

  return v_def.body || jsonb_build_object(
    'params', coalesce(
      v_run.payload,
      (select b.body from ordinaut.payload as b where b.run_id = v_run.run_id)),
    'steps', coalesce((
      select jsonb_object_agg(n.name, s.output)
      from ordinaut.step as s
      join ordinaut.pipeline_step as d
        on d.pipeline_id = v_run.pipeline_id and d.position = s.position
      cross join unnest(array[d.name, d.save_as]) as n (name)
      where
        s.run_id = v_run.run_id
        and s.kind is null
        and s.state in ('complete', 'resolved_manually')
        and n.name is not null
        and (v_def.reads is null or s.position = any (v_def.reads))
    ), '{}'),
    'run', jsonb_build_object(
      'run_id', v_run.run_id,
      'task_id', v_run.task_id,
      'task', (
        select t.namespace || '/' || t.name from ordinaut.task as t
        where t.task_id = v_run.task_id),
      'scheduled_for', v_run.scheduled_for,
      'started_at', v_run.started_at),
    'now', to_char(v_run.started_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'));
end
$fn$;

comment on function ordinaut._step_body(ordinaut.work_item) is
  'What a worker is told to run a step: its definition, and all that its templates may read.';

/* Start runs: their row, their steps, and the units of the steps that need nothing.  Of each run
   the first such step of this queue is answered, as leased now; the others go into due_work. */
create or replace function ordinaut._start_runs(
  p_items ordinaut.work_item[],
  p_queue text,
  p_now   timestamptz
)
returns ordinaut.work_item[]
language plpgsql
volatile
set jit = off
set enable_seqscan = off
set enable_nestloop = on
set enable_hashjoin = off
set enable_mergejoin = off
as $fn$
declare
  v_leased ordinaut.work_item[];
  v_due ordinaut.work_item[];
  v_queue text;
  v_run_id uuid;
begin
  insert into ordinaut.task_run (run_id, task_id, tool, queue, priority, state, attempt, failures,
    crashes, max_attempts, enqueued_at, scheduled_for, started_at, timeout, key, key_limit,
    idempotency_key, retry, retry_of, payload, pipeline_id)
  select i.run_id, i.task_id, i.tool, i.queue, i.priority, 'running', greatest(i.attempt, 1),
    i.failures, i.crashes, i.max_attempts, i.enqueued_at, i.scheduled_for, p_now, i.timeout, i.key,
    i.key_limit, i.idempotency_key, i.retry, i.retry_of, i.payload, i.pipeline_id
  from unnest(p_items) as i;

  -- No join of the batch with itself: it would be quadratic.
  with root as materialized (
    select i.run_id, i.task_id, i.queue, i.priority, i.run_at, i.scheduled_for, i.pipeline_id,
      d as def,
      ordinaut._v7(substring(uuid_send(i.run_id) for 6)) as step_id,
      case
        when d.needs <> '{}' then 'pending'
        when coalesce(d.queue, i.queue) = p_queue and row_number() over (
            partition by i.run_id, d.needs = '{}', coalesce(d.queue, i.queue) = p_queue
            order by d.position
          ) = 1 then 'in_progress'
        else 'ready'
      end as state
    from unnest(p_items) as i
    join ordinaut.pipeline_step as d on d.pipeline_id = i.pipeline_id
  ),
  made as (
    insert into ordinaut.step (step_id, run_id, position, defined_by, name, state, waits_for,
      attempt, failures, crashes, created_at, started_at)
    select r.step_id, r.run_id, (r.def).position, (r.def).position, (r.def).name, r.state,
      cardinality((r.def).needs), case r.state when 'in_progress' then 1 else 0 end, 0, 0, p_now,
      case r.state when 'in_progress' then p_now end
    from root as r
  ),
  unit as (
    select r.state, row(r.step_id, r.run_id, (r.def).name, r.task_id,
      coalesce((r.def).queue, r.queue), coalesce((r.def).priority, r.priority),
      case r.state when 'in_progress' then r.run_at else p_now end, r.scheduled_for, p_now,
      case r.state when 'in_progress' then 1 else 0 end, 0, 0,
      (r.def).max_attempts, (r.def).timeout, (r.def).tool, null, null, null, (r.def).retry, null,
      case when not (r.def).has_context then (r.def).body end,
      r.pipeline_id)::ordinaut.work_item as item
    from root as r
    where r.state <> 'pending'
  )
  select
    array_agg(u.item) filter (where u.state = 'in_progress'),
    array_agg(u.item) filter (where u.state = 'ready')
  into v_leased, v_due
  from unit as u;

  if v_due is not null then
    perform ordinaut._put_due(v_due);
    for v_queue in select distinct d.queue from unnest(v_due) as d loop
      perform ordinaut._notify_idle(v_queue);
    end loop;
  end if;
  -- Runs of no step.
  if cardinality(v_leased) is distinct from cardinality(p_items) then
    for v_run_id in
      select i.run_id from unnest(p_items) as i
      where not exists (select from ordinaut.step as s where s.run_id = i.run_id)
    loop
      perform ordinaut._close_run(v_run_id, p_now);
    end loop;
  end if;
  return coalesce(v_leased, '{}');
end
$fn$;

comment on function ordinaut._start_runs(ordinaut.work_item[], text, timestamptz) is
  'Start queued runs of steps. Returns of each the first step that may start in p_queue, as '
  'leased; the others that may start are in due_work.';

create or replace function ordinaut.start_run(p_run_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_item ordinaut.work_item;
begin
  delete from ordinaut.due_work as w
  where w.work_id = p_run_id and w.pipeline_id is not null
  returning w.* into v_item;
  if not found then
    raise exception using
      errcode = 'OR031',
      message = format('run %s is not a run of steps that waits to start', p_run_id),
      hint = 'why() tells where it is.';
  elsif v_item.key is not null then
    raise exception using
      errcode = 'OR031',
      message = format('run %s has the key %s', p_run_id, v_item.key),
      hint = 'Only a worker may start it: the key decides whose turn it is.';
  end if;
  v_item.attempt := v_item.attempt + 1;
  perform ordinaut._start_runs(array[v_item], null, v_now);
end
$fn$;

comment on function ordinaut.start_run(uuid) is
  'Start a queued run of steps now, whatever its run_at: the steps that need nothing become due. '
  'Workers do it as they lease. Errors: OR031 (it has started, has a key, or has no steps).';

/* Leased units that are steps: their rows say so.  A step that was taken away meanwhile is dropped;
   the unit of one that slept means that its time has come. */
create or replace function ordinaut._begin_steps(p_work ordinaut.work_item[], p_now timestamptz)
returns ordinaut.work_item[]
language plpgsql
volatile
set jit = off
set enable_seqscan = off
set enable_nestloop = on
set enable_hashjoin = off
set enable_mergejoin = off
as $fn$
declare
  v_begun uuid[];
  v_item ordinaut.work_item;
begin
  with begun as (
    update ordinaut.step as s
    set
      state = 'in_progress',
      attempt = s.attempt + 1,
      started_at = p_now,
      next_retry_at = null
    where
      s.step_id = any (array(select i.work_id from unnest(p_work) as i where i.step is not null))
      and s.state in ('ready', 'waiting_for_retry')
    returning s.step_id
  )
  select array_agg(b.step_id) into v_begun from begun as b;

  if cardinality(v_begun) is distinct from cardinality(p_work) then
    for v_item in
      select i.* from unnest(p_work) as i
      where i.step is not null and i.work_id <> all (coalesce(v_begun, '{}'))
    loop
      perform ordinaut._wake(v_item, p_now);
    end loop;
  end if;
  return coalesce((
    select array_agg(i order by i.priority, i.run_at, i.work_id)
    from unnest(p_work) as i
    where i.step is null or i.work_id = any (v_begun)
  ), '{}');
end
$fn$;

comment on function ordinaut._begin_steps(ordinaut.work_item[], timestamptz) is
  'Note that these steps are leased. Returns the units that are to run.';

create or replace function ordinaut._wake(p_item ordinaut.work_item, p_now timestamptz)
returns void
language plpgsql
volatile
as $fn$
declare
  v_item ordinaut.work_item := p_item;
  v_step ordinaut.step;
begin
  if ordinaut._try_runs(array[p_item.run_id]) = '{}' then
    v_item.run_at := p_now + interval '20 ms';
    v_item.attempt := v_item.attempt - 1;
    perform ordinaut._put_due(array[v_item]);
    return;
  end if;
  v_step := ordinaut._step_of(p_item.work_id);
  if v_step.state = 'in_progress' and v_step.wait ->> 'kind' = 'sleep' then
    perform ordinaut._end_step(v_step, 'complete', v_step.wait - 'kind', p_now);
  end if;
end
$fn$;

comment on function ordinaut._wake(ordinaut.work_item, timestamptz) is
  'End the sleep of a step whose unit came due. A step that has ended is left alone.';
