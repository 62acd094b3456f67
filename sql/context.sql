/*
 * How far a run is as a whole: its steps counted by state, and what that comes to.
 */

create or replace function ordinaut._has_failed(p_run_id uuid)
returns boolean
language sql
stable
as $fn$
  select exists (
    select
    from ordinaut.step as s
    join ordinaut.task_run as r on r.run_id = s.run_id
    join ordinaut.pipeline_step as d
      on d.pipeline_id = r.pipeline_id and d.position = s.position
    where
      s.run_id = p_run_id
      and s.step_id between ordinaut._step_floor(p_run_id) and ordinaut._step_ceiling(p_run_id)
      and s.kind is null and s.state = 'error' and not d.continue_on_error
      and not ordinaut._may_retry(s.state, s.attempt, s.failures, d.max_attempts, s.error, s.wait)
  ) or exists (
    -- A run of one tool is its only step.
    select from ordinaut.task_run as r
    where r.run_id = p_run_id and r.pipeline_id is null and r.state <> 'success'
  );
$fn$;

comment on function ordinaut._has_failed(uuid) is
  'Whether a step of a run that may not fail has failed for good.';

create or replace function ordinaut.get_task_execution_context(p_id uuid)
returns table (
  task_uuid             uuid,
  task_id               uuid,
  namespace             text,
  name                  text,
  status                text,
  total_steps           integer,
  pending_steps         integer,
  in_progress_steps     integer,
  completed_steps       integer,
  failed_steps          integer,
  ready_steps           integer,
  error_steps           integer,
  waiting_steps         integer,
  skipped_steps         integer,
  cancelled_steps       integer,
  blocked_steps         integer,
  blocked_by_errors     boolean,
  completion_percentage numeric,
  execution_status      text,
  recommended_action    text,
  health_status         text
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set jit = off
set plan_cache_mode = force_generic_plan
as $fn$
declare
  v_run_id uuid := ordinaut._run_of(p_id);
  v_task_id uuid;
  v_tool text;
  v_state text;
begin
  -- The view of all runs reads every lease: only for those that have no row of their own.
  select r.task_id, r.tool, r.state into v_task_id, v_tool, v_state
  from ordinaut.task_run as r
  where r.run_id = v_run_id;
  if not found then
    select r.task_id, r.tool, r.state into v_task_id, v_tool, v_state
    from ordinaut.run as r
    where r.run_id = v_run_id;
  end if;

  return query
  with step as (
    select
      count(*) as total,
      count(*) filter (where s.current_state = 'pending') as pending,
      count(*) filter (where s.current_state = 'in_progress') as in_progress,
      count(*) filter (
        where s.current_state in ('complete', 'skipped', 'resolved_manually')) as completed,
      count(*) filter (where s.current_state = 'error' and not s.retry_eligible) as failed,
      count(*) filter (where s.ready_for_execution) as ready,
      count(*) filter (where s.current_state = 'error') as error,
      count(*) filter (
        where s.current_state = 'waiting_for_retry' and not s.ready_for_execution
          or s.current_state = 'error' and s.retry_eligible) as waiting,
      count(*) filter (where s.current_state = 'skipped') as skipped,
      count(*) filter (where s.current_state = 'cancelled') as cancelled,
      count(*) filter (where s.is_blocked) as blocked
    from ordinaut._readiness(v_run_id, null) as s
    where s.kind is distinct from 'rollback'
  ),
  judged as (
    select s.*,
      case
        when v_state = 'success' then 'all_complete'
        when v_state = 'cancelled' then 'cancelled'
        when v_state in ('failed', 'timed_out', 'abandoned')
          or (s.failed > 0 and ordinaut._has_failed(v_run_id)) then 'blocked_by_failures'
        when s.ready > 0 then 'has_ready_steps'
        when s.in_progress > 0 then 'processing'
        when s.completed = s.total then 'all_complete'
        when s.waiting > 0 then 'waiting_for_retry'
        else 'waiting_for_dependencies'
      end as execution
    from step as s
  )
  select
    v_run_id, v_task_id, coalesce(t.namespace, 'default'), coalesce(t.name, v_tool), v_state,
    j.total::integer, j.pending::integer, j.in_progress::integer, j.completed::integer,
    j.failed::integer, j.ready::integer, j.error::integer, j.waiting::integer, j.skipped::integer,
    j.cancelled::integer, j.blocked::integer,
    j.execution = 'blocked_by_failures',
    case
      when v_state = 'success' then 100
      when j.total = 0 then 0
      else round(100.0 * j.completed / j.total, 2)
    end,
    j.execution,
    case j.execution
      when 'blocked_by_failures' then 'handle_failures'
      when 'has_ready_steps' then 'execute_ready_steps'
      when 'processing' then 'wait_for_completion'
      when 'all_complete' then 'finalize_task'
      when 'waiting_for_retry' then 'wait_for_retry'
      when 'waiting_for_dependencies' then 'wait_for_dependencies'
    end,
    case
      when j.execution = 'blocked_by_failures' then 'blocked'
      when j.execution = 'cancelled' then 'unknown'
      when j.error > 0 or j.waiting > 0 then 'recovering'
      else 'healthy'
    end
  from judged as j
  left join ordinaut.task as t on t.task_id = v_task_id;
end
$fn$;

comment on function ordinaut.get_task_execution_context(uuid) is
  'A run as a whole, by the id of a step, a run or a task (its newest run): counts of its steps '
  'by state (completed: also skipped and resolved; error: in that state; failed: those of them '
  'that will not be tried again; blocked: behind those), rollbacks left out, and what follows. '
  'execution_status: blocked_by_failures (but not by those that may fail), has_ready_steps, '
  'processing, all_complete, waiting_for_retry, waiting_for_dependencies, cancelled. Errors: '
  'OR020.';

create or replace function ordinaut.get_task_execution_contexts_batch(p_ids uuid[])
returns table (
  task_uuid             uuid,
  task_id               uuid,
  namespace             text,
  name                  text,
  status                text,
  total_steps           integer,
  pending_steps         integer,
  in_progress_steps     integer,
  completed_steps       integer,
  failed_steps          integer,
  ready_steps           integer,
  error_steps           integer,
  waiting_steps         integer,
  skipped_steps         integer,
  cancelled_steps       integer,
  blocked_steps         integer,
  blocked_by_errors     boolean,
  completion_percentage numeric,
  execution_status      text,
  recommended_action    text,
  health_status         text
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select c.*
  from unnest(p_ids) as i (id)
  cross join lateral ordinaut.get_task_execution_context(i.id) as c;
$fn$;

comment on function ordinaut.get_task_execution_contexts_batch(uuid[]) is
  'get_task_execution_context() of several ids. Errors: OR020.';
