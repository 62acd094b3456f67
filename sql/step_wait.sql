/*
 * Steps that wait: settled as `waiting`, with what they wait for.  Sleeping is here; the others are
 * in event.sql, approval.sql, subtask.sql and map.sql.
 */

create or replace function ordinaut._wait_step(
  p_item  ordinaut.work_item,
  p_wait  jsonb,
  p_lease ordinaut.lease,
  p_now   timestamptz
)
returns void
language plpgsql
volatile
as $fn$
declare
  v_step ordinaut.step;
  v_run ordinaut.task_run;
begin
  update ordinaut.step as s set wait = p_wait where s.step_id = p_item.work_id
  returning s.* into v_step;
  select r.* into v_run from ordinaut.task_run as r where r.run_id = p_item.run_id;
  begin
    case coalesce(p_wait ->> 'kind', '')
      when 'sleep' then perform ordinaut._wait_sleep(v_step, p_item, p_wait, p_now);
      when 'event' then perform ordinaut._wait_event(v_step, v_run, p_item, p_wait, p_now);
      when 'approval' then perform ordinaut._wait_approval(v_step, v_run, p_item, p_wait, p_now);
      when 'task' then perform ordinaut._wait_task(v_step, v_run, p_item, p_wait, p_now);
      when 'map' then perform ordinaut._wait_map(v_step, v_run, p_item, p_wait, p_now);
      else
        perform ordinaut._refuse(format('step %s waits for an unknown kind: %s',
          p_item.step, left(p_wait::text, 200)));
    end case;
  exception
    -- What the step asked for is wrong: its failure, not its worker's.
    when data_exception or program_limit_exceeded or sqlstate 'OR020' or sqlstate 'OR031' then
      perform ordinaut._step_failed(v_step, p_item, 'failed', jsonb_build_object(
        'message', sqlerrm, 'category', 'validation', 'code', 'E2002', 'retryable', false),
        p_lease, p_now, true);
  end;
end
$fn$;

comment on function ordinaut._wait_step(ordinaut.work_item, jsonb, ordinaut.lease, timestamptz) is
  'Let a control step wait without a worker, for what it says; one that asks for something '
  'impossible fails. The caller holds the run.';

create or replace function ordinaut._wait_sleep(
  p_step ordinaut.step,
  p_item ordinaut.work_item,
  p_wait jsonb,
  p_now  timestamptz
)
returns void
language plpgsql
volatile
as $fn$
declare
  v_item ordinaut.work_item := p_item;
begin
  v_item.run_at := coalesce(
    (p_wait ->> 'until')::timestamptz,
    p_now + least(greatest((p_wait ->> 'seconds')::float8, 0), 3155760000) * interval '1 s');
  perform ordinaut._check_at('until', v_item.run_at);
  update ordinaut.step as s
  set wait = p_wait || jsonb_build_object('until', v_item.run_at)
  where s.step_id = p_step.step_id;
  perform ordinaut._put_due(array[v_item]);
end
$fn$;

comment on function ordinaut._wait_sleep(ordinaut.step, ordinaut.work_item, jsonb, timestamptz) is
  'Let a step sleep: its unit is due when it wakes. Errors: invalid_parameter_value.';
