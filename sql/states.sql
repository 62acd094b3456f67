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
 * A run of one step has no row until it ends: its place (due_work, parked, lease) is its state.
 *
 * Lock order, everywhere: task_schedule, hold (behind its key's advisory lock), queue, due_work,
 * parked, lease, task_run.  Sweepers skip locked rows; nothing waits while it leases.
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
  ('run', 'waiting', 'cancelled', 'cancel_run');

comment on view ordinaut.legal_transition is
  'Every permitted change of state of a task or run, and the verb that makes it.';

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
  perform ordinaut._check_transition('run', old.state, new.state, new.run_id);
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
