/*
 * Pipelines in use: by tasks and runs, which hold them; by planners, which read their templates.
 */

/* Prune waits for whoever is about to refer to a pipeline; so does a planner that found it wrong,
   and does not then miss the task.  What was found wrong once is looked at again: by a planner that
   may know more. */
create or replace function ordinaut._hold_pipeline(p_pipeline_id uuid)
returns boolean
language plpgsql
volatile
as $fn$
declare
  v_problem text;
begin
  select p.problem into v_problem
  from ordinaut.pipeline as p
  where p.pipeline_id = p_pipeline_id
  for key share;
  if not found then
    return false;
  end if;
  if v_problem is not null then
    update ordinaut.pipeline as p set checked_at = null where p.pipeline_id = p_pipeline_id;
  end if;
  return true;
end
$fn$;

comment on function ordinaut._hold_pipeline(uuid) is
  'Keep a pipeline from being pruned until commit; false: there is none.';

create or replace function ordinaut._is_referred_to(p_pipeline_id uuid)
returns boolean
language plpgsql
volatile  -- each call sees what is committed by then
as $fn$
begin
  -- The last two have no index for it.
  return exists (select from ordinaut.task as t where t.pipeline_id = p_pipeline_id)
    or exists (select from ordinaut.task_run as r where r.pipeline_id = p_pipeline_id)
    or exists (select from ordinaut.parked as k where k.pipeline_id = p_pipeline_id)
    or exists (select from ordinaut.due_work as w where w.pipeline_id = p_pipeline_id);
end
$fn$;

comment on function ordinaut._is_referred_to(uuid) is
  'Whether a task or a run follows this pipeline.';

create or replace function ordinaut._what_to_run(p_tool text, p_payload jsonb, p_pipeline jsonb)
returns table (tool text, payload jsonb, pipeline_id uuid)
language plpgsql
volatile
as $fn$
declare
  v_pipeline jsonb := nullif(p_pipeline, 'null');
  v_payload jsonb := p_payload;
  v_key text;
begin
  if v_pipeline is null and coalesce(p_tool, 'pipeline') = 'pipeline'
    and jsonb_typeof(p_payload) = 'object' and p_payload ? 'pipeline'
  then
    select k.key into v_key
    from jsonb_object_keys(p_payload) as k (key)
    where k.key not in ('pipeline', 'params');
    if found then
      perform ordinaut._refuse(format('beside its pipeline, payload has an unknown key %L', v_key),
        'Arguments of the steps are under params.');
    end if;
    v_pipeline := coalesce(p_payload -> 'pipeline', 'null');
    v_payload := coalesce(nullif(p_payload -> 'params', 'null'), '{}');
  end if;
  if v_pipeline is null then
    if p_tool = 'pipeline' then
      perform ordinaut._refuse('tool is pipeline, but there is no pipeline',
        'Give its steps as pipeline: [{"id": "a", "uses": "echo"}].');
    end if;
    return query select p_tool, p_payload, null::uuid;
    return;
  end if;

  if p_tool <> 'pipeline' then
    perform ordinaut._refuse(format('both a tool, %s, and a pipeline were given', left(p_tool, 80)),
      'Leave the tool out: each step names its own.');
  end if;
  perform ordinaut._check_params(v_payload);
  return query select 'pipeline', v_payload, ordinaut._pipeline_id(v_pipeline);
end
$fn$;

comment on function ordinaut._what_to_run(text, jsonb, jsonb) is
  'A tool with its payload, or the pipeline with its params that were given, apart or as '
  '{"params": …, "pipeline": […]}. Errors: invalid_parameter_value, program_limit_exceeded.';

create or replace function ordinaut._check_params(p_params jsonb)
returns void
language plpgsql
immutable
as $fn$
begin
  if jsonb_typeof(p_params) is distinct from 'object' then
    perform ordinaut._refuse(
      format('the params of a pipeline must be an object, not %s',
        coalesce(jsonb_typeof(p_params), 'null')),
      'For example {"day": "2026-11-21"}: templates read it as ${params.day}.');
  end if;
end
$fn$;

comment on function ordinaut._check_params(jsonb) is
  'Refuse a payload that cannot be the params of a pipeline. Errors: invalid_parameter_value.';

create or replace function ordinaut.unchecked_pipelines(p_limit integer default 100)
returns table (pipeline_id uuid, definition jsonb)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  perform ordinaut._check_count('limit', p_limit, 1, 100000);
  return query
  select p.pipeline_id, p.definition
  from ordinaut.pipeline as p
  where p.checked_at is null
  order by p.pipeline_id
  limit p_limit
  for update of p skip locked;
end
$fn$;

comment on function ordinaut.unchecked_pipelines(integer) is
  'Pipelines whose templates no planner has read yet: it passes what it finds to '
  'note_pipeline_check(). Those that somebody refers to just now are left for the next call. '
  'Errors: invalid_parameter_value.';

create or replace function ordinaut.note_pipeline_check(p_pipeline_id uuid, p_problem text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_task_id uuid;
  v_is_done boolean := true;
begin
  -- Whoever just makes a task of it would be missed: the next call finds that task.
  perform from ordinaut.pipeline as p
  where p.pipeline_id = p_pipeline_id
  for update skip locked;
  if not found then
    return false;
  end if;

  for v_task_id in
    select t.task_id
    from ordinaut.task as t
    where t.pipeline_id = p_pipeline_id and t.status = 'active' and p_problem is not null
    order by t.task_id
  loop
    perform from ordinaut.task_schedule as s where s.task_id = v_task_id for update skip locked;
    if not found then
      v_is_done := false;
    elsif exists (
      select from ordinaut.task as t
      where t.task_id = v_task_id and t.pipeline_id = p_pipeline_id and t.status = 'active'
    ) then
      perform ordinaut._stop_task(v_task_id, 'invalid', p_problem, ordinaut._actor());
    end if;
  end loop;
  update ordinaut.pipeline as p
  set
    checked_at = case when v_is_done then ordinaut.now() end,
    problem = left(p_problem, 1000)
  where p.pipeline_id = p_pipeline_id;
  return v_is_done;
end
$fn$;

comment on function ordinaut.note_pipeline_check(uuid, text) is
  'Store what a planner found in the templates of a pipeline; a problem makes the active tasks '
  'that use it invalid, for this reason. False: somebody refers to it, or edits such a task, '
  'just now; it stays unchecked.';

-- Inlined, so that its plan is chosen with the caller's.
create or replace function ordinaut._tasks_using(p_tool text)
returns setof uuid
language sql
stable
as $fn$
  select t.task_id
  from ordinaut.pipeline as p
  join ordinaut.task as t on t.pipeline_id = p.pipeline_id
  where
    p.definition @> any (array[
      jsonb_build_array(jsonb_build_object('uses', p_tool)),
      jsonb_build_array(jsonb_build_object('on_rollback', jsonb_build_object('uses', p_tool)))])
  union
  select t.task_id from ordinaut.task as t where t.tool = p_tool;
$fn$;

comment on function ordinaut._tasks_using(text) is
  'The tasks that run a tool: as theirs, in a step, or to undo one.';
