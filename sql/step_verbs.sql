/*
 * Operating steps: what a person may do to one.  Each act holds the run, is legal by
 * legal_transition, and leaves in the journal who did it and why.
 *
 * A step that a worker holds is not touched: cancel the run, or wait.  A run that has ended, but
 * not in success, is reopened (reopen.sql).  What a waiting step waited for ends with the wait: its
 * child run is cancelled, so are the items of a map that no worker holds.
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
  elsif v_run.finished_at is null and exists (
    select from ordinaut.cancel_request as c where c.run_id = v_step.run_id
  ) then
    raise exception using
      errcode = 'OR031',
      message = format('run %s, of which %s is a step, is being cancelled', v_step.run_id,
        v_step.name),
      hint = 'When what still runs has ended, retry_failed_steps() lets it go on.';
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
    perform ordinaut._reopen_run(v_run);
  end if;
  -- What it waited for is not waited for any more.
  if v_step.wait ->> 'kind' = 'map' then
    perform ordinaut._cancel_items(v_step, ordinaut.now());
  elsif v_step.wait ->> 'kind' = 'task' then
    perform ordinaut._cancel_child(p_step_id, coalesce(
      p_note, format('step %s of run %s does not wait for it any more', v_step.name,
        v_step.run_id)));
  end if;
  return ordinaut._step_of(p_step_id);
end
$fn$;

comment on function ordinaut._operate(uuid, text, text) is
  'Hold the run of a step that somebody acts on, take the step''s unit away, journal the act. '
  'Errors: OR020, OR031 (it is being run or cancelled, or has succeeded).';

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
  v_need text;
begin
  if v_step.state = 'pending' then
    select n.name || ' is ' || n.state into v_need
    from ordinaut.step_edge as e
    join ordinaut.step as n on n.step_id = e.from_step_id
    where e.to_step_id = p_step_id and n.state not in ('complete', 'skipped', 'resolved_manually')
    order by n.position
    limit 1;
    -- What needs this step relies on all before it having ended.
    raise exception using
      errcode = 'OR031',
      message = format('step %s (%s) waits for others: step %s', p_step_id, v_step.name, v_need),
      hint = 'Act on that one, or wait until it has ended.';
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
  'Declare a step resolved, by other means than its tool: what needs it goes on, also in a run '
  'that had failed. Returns resolved_manually. Errors: OR020, OR031 (it is being run, waits for '
  'another step or has succeeded, or its run was rolled back).';

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
