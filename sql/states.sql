/*
 * The life of tasks and runs.  The arrows are rows: psql can read them, the guard enforces them,
 * the model test walks them.
 *
 *   run    pending --lease--> running --complete--> success
 *             ^ |                | |--fail--------> failed | timed_out
 *             | |                | |--reap--------> abandoned
 *             | \---cancel-------+-+--------------> cancelled
 *             \---retry, release, snooze, reap---/
 *
 *   step   pending -> ready -> in_progress -> complete | skipped | error -> waiting_for_retry
 *
 * A run of one unit has no row until it ends: its place (due_work, parked, lease) is its state.
 * A run of steps has its row from its start; whoever changes a step locks that row first.
 *
 * Lock order, everywhere: task_schedule, hold (behind its key's advisory lock), queue, due_work,
 * parked, lease, task_run, step; of runs the parent before its child.  Sweepers skip locked rows;
 * nothing waits while it leases.  What goes against the order only tries: the end of a child tells
 * its parent so, and the lock of an event's topic is never waited for; nor is a breaker's row, but
 * by operators, who take it before anything else.
 */

create or replace view ordinaut.legal_transition (machine, from_state, to_state, verb) as
values
  ('task', 'active', 'paused', 'pause_task'),
  ('task', 'active', 'completed', 'tick'),
  ('task', 'active', 'cancelled', 'cancel_task'),
  ('task', 'active', 'invalid', 'tick'),
  ('task', 'paused', 'active', 'resume_task'),
  ('task', 'paused', 'cancelled', 'cancel_task'),
  ('task', 'invalid', 'active', 'update_task'),
  ('task', 'invalid', 'paused', 'pause_task'),
  ('task', 'invalid', 'cancelled', 'cancel_task'),
  ('task', 'completed', 'active', 'update_task'),
  ('task', 'completed', 'cancelled', 'cancel_task'),
  ('run', 'pending', 'running', 'lease_work'),
  ('run', 'pending', 'cancelled', 'cancel_run'),
  ('run', 'running', 'success', 'complete_work'),
  ('run', 'running', 'failed', 'fail_work'),
  ('run', 'running', 'timed_out', 'fail_work'),
  ('run', 'running', 'cancelled', 'cancel_run'),
  ('run', 'running', 'abandoned', 'reap'),
  ('run', 'running', 'pending', 'release_work'),
  ('run', 'running', 'waiting', 'snooze_work'),
  ('run', 'waiting', 'pending', 'tick'),
  ('run', 'waiting', 'running', 'lease_work'),
  ('run', 'waiting', 'cancelled', 'cancel_run'),
  ('run', 'waiting', 'success', 'complete_work'),
  ('run', 'waiting', 'failed', 'fail_work'),
  ('run', 'waiting', 'timed_out', 'timeout_stuck'),
  ('run', 'failed', 'running', 'retry_run'),
  ('run', 'timed_out', 'running', 'retry_run'),
  ('run', 'cancelled', 'running', 'retry_run'),
  ('step', 'pending', 'ready', 'complete_work'),
  ('step', 'pending', 'in_progress', 'lease_work'),
  ('step', 'pending', 'skipped', 'skip_step'),
  ('step', 'pending', 'cancelled', 'cancel_run'),
  ('step', 'pending', 'complete', 'complete_step'),
  ('step', 'pending', 'resolved_manually', 'resolve_step'),
  ('step', 'ready', 'in_progress', 'lease_work'),
  ('step', 'ready', 'skipped', 'skip_step'),
  ('step', 'ready', 'cancelled', 'cancel_run'),
  ('step', 'ready', 'complete', 'complete_step'),
  ('step', 'ready', 'resolved_manually', 'resolve_step'),
  ('step', 'in_progress', 'complete', 'complete_work'),
  ('step', 'in_progress', 'skipped', 'skip_work'),
  ('step', 'in_progress', 'error', 'fail_work'),
  ('step', 'in_progress', 'ready', 'release_work'),
  ('step', 'in_progress', 'cancelled', 'cancel_run'),
  ('step', 'in_progress', 'resolved_manually', 'resolve_step'),
  ('step', 'error', 'waiting_for_retry', 'fail_work'),
  ('step', 'error', 'ready', 'retry_run'),
  ('step', 'error', 'complete', 'complete_step'),
  ('step', 'error', 'skipped', 'skip_step'),
  ('step', 'error', 'cancelled', 'cancel_run'),
  ('step', 'error', 'resolved_manually', 'resolve_step'),
  ('step', 'waiting_for_retry', 'ready', 'reset_step'),
  ('step', 'waiting_for_retry', 'in_progress', 'lease_work'),
  ('step', 'waiting_for_retry', 'complete', 'complete_step'),
  ('step', 'waiting_for_retry', 'skipped', 'skip_step'),
  ('step', 'waiting_for_retry', 'error', 'fail_work'),
  ('step', 'waiting_for_retry', 'cancelled', 'cancel_run'),
  ('step', 'waiting_for_retry', 'resolved_manually', 'resolve_step'),
  ('step', 'cancelled', 'pending', 'retry_run'),
  ('step', 'cancelled', 'ready', 'retry_run');

comment on view ordinaut.legal_transition is
  'Every permitted change of state of a task, run or step, and the verb that makes it.';

create or replace function ordinaut._state_word(p_state text)
returns text
language sql
immutable
parallel safe
as $fn$
  select replace(initcap(replace(p_state, '_', ' ')), ' ', '');
$fn$;

comment on function ordinaut._state_word(text) is
  'A state as people write it: timed_out is TimedOut.';

create or replace function ordinaut._check_transition(
  p_machine text,
  p_from    text,
  p_to      text,
  p_id      uuid
)
returns void
language plpgsql
stable
as $fn$
begin
  if not exists (
    select
    from ordinaut.legal_transition as t
    where t.machine = p_machine and t.from_state = p_from and t.to_state = p_to
  ) then
    raise exception using
      errcode = 'OR010',
      message = format('%s %s: Cannot transition from %s to %s', p_machine, p_id,
        ordinaut._state_word(p_from), ordinaut._state_word(p_to)),
      hint = 'The permitted changes are the rows of ordinaut.legal_transition.';
  end if;
end
$fn$;

comment on function ordinaut._check_transition(text, text, text, uuid) is
  'Refuse a change of state that legal_transition lacks. Errors: OR010.';

create or replace function ordinaut._guard_task()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  perform ordinaut._check_transition('task', old.status, new.status, new.task_id);
  return null;
end
$fn$;

comment on function ordinaut._guard_task() is
  'Refuse changes of a task''s status that legal_transition lacks, whoever makes them.';

create or replace function ordinaut._guard_run()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  -- Only a run of steps is ever reopened: of another, the next run is another run.
  perform ordinaut._check_transition(
    case
      when old.finished_at is not null and new.pipeline_id is null then 'run without steps'
      else 'run'
    end,
    old.state, new.state, new.run_id);
  return null;
end
$fn$;

comment on function ordinaut._guard_run() is
  'Refuse changes of a run''s state that legal_transition lacks, whoever makes them.';

create or replace trigger task_guard_state
  after update of status on ordinaut.task
  for each row
  when (old.status is distinct from new.status)
  execute function ordinaut._guard_task();

create or replace trigger task_run_guard_state
  after update of state on ordinaut.task_run
  for each row
  when (old.state is distinct from new.state)
  execute function ordinaut._guard_run();

create or replace function ordinaut._guard_step()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  perform ordinaut._check_transition('step', old.state, new.state, new.step_id);
  return null;
end
$fn$;

comment on function ordinaut._guard_step() is
  'Refuse changes of a step''s state that legal_transition lacks, whoever makes them.';

-- The arrows of every day are named here, too: asking the function costs 8 us a step and arrow.
create or replace trigger step_guard_state
  after update of state on ordinaut.step
  for each row
  when (
    old.state is distinct from new.state
    and (old.state, new.state) not in (
      ('pending', 'ready'), ('pending', 'in_progress'), ('ready', 'in_progress'),
      ('in_progress', 'complete'))
  )
  execute function ordinaut._guard_step();
