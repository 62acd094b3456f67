/*
 * Tasks of kind event: each event that matches starts them once, through _fire, as time does.
 */

create or replace function ordinaut._check_topic_pattern(p_expr text)
returns void
language plpgsql
immutable
as $fn$
begin
  if p_expr is distinct from '*' then
    perform ordinaut._check_topic('schedule_expr', regexp_replace(p_expr, $re$\.\*$$re$, ''));
  end if;
end
$fn$;

comment on function ordinaut._check_topic_pattern(text) is
  'Refuse what names no topics: a.b, a.* (all that begin with a.) or *. Errors: '
  'invalid_parameter_value.';

create or replace function ordinaut._topic_patterns(p_topic text)
returns text[]
language plpgsql
immutable
as $fn$
declare
  v_words constant text[] := string_to_array(p_topic, '.');
  v_patterns text[] := array[p_topic, '*'];
begin
  for v_n in 1..cardinality(v_words) - 1 loop
    v_patterns := v_patterns || (array_to_string(v_words[:v_n], '.') || '.*');
  end loop;
  return v_patterns;
end
$fn$;

comment on function ordinaut._topic_patterns(text) is
  'What a task may name to be started by a topic: a.b is meant by a.b, a.* and *.';

/* Through _fire, so that overlap, jitter, max_runs, pause_on_failure and keys mean what they mean
   elsewhere: the event is an occurrence of its instant.  Then the run gets the event. */
create or replace function ordinaut._fire_on_event(
  p_event    ordinaut.event,
  p_task_ids uuid[] default null
)
returns table (task_id uuid, run_id uuid, is_left boolean)
language plpgsql
volatile
set lock_timeout = '100ms'
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_task ordinaut.task;
  v_at timestamptz;
  v_payload jsonb;
begin
  for task_id in
    select t.task_id
    from ordinaut.task as t
    where
      t.schedule_kind = 'event'
      and t.schedule_expr = any (ordinaut._topic_patterns(p_event.topic))
      and t.status = 'active'
      and coalesce(t.start_at <= p_event.emitted_at, true)
      and coalesce(t.end_at >= p_event.emitted_at, true)
      and (p_task_ids is null or t.task_id = any (p_task_ids))
    order by t.task_id
  loop
    run_id := null;
    perform
    from ordinaut.task_schedule as s
    where s.task_id = _fire_on_event.task_id
    for update skip locked;
    is_left := not found;
    if is_left then
      return next;
      continue;
    end if;
    -- Edited or paused, until we had the lock?
    select t.* into v_task
    from ordinaut.task as t
    where
      t.task_id = _fire_on_event.task_id
      and t.schedule_kind = 'event'
      and t.schedule_expr = any (ordinaut._topic_patterns(p_event.topic))
      and t.status = 'active';
    continue when not found;

    begin
      update ordinaut.task_schedule as s
      set next_run = greatest(v_now, s.fired_until + interval '1 us')
      where s.task_id = v_task.task_id
      returning s.next_run into v_at;
      perform ordinaut._fire(array[v_task.task_id], v_now);
      select o.run_id into run_id
      from ordinaut.occurrence as o
      where o.task_id = v_task.task_id and o.scheduled_for = v_at;
      if run_id is not null then
        v_payload := v_task.payload
          || jsonb_build_object('event', ordinaut._event_output(p_event));
        perform ordinaut._give_payload(run_id, v_payload);
      end if;
    exception
      when lock_not_available then
        is_left := true;
        run_id := null;
      when data_exception or integrity_constraint_violation or program_limit_exceeded
        or sqlstate 'OR010' then
        perform ordinaut._stop_task(v_task.task_id, 'invalid', sqlerrm, 'emit_event');
        continue;
    end;
    return next;
  end loop;
end
$fn$;

comment on function ordinaut._fire_on_event(ordinaut.event, uuid[]) is
  'Start the active tasks that an event starts, or those of them in p_task_ids, with the event '
  'in their payload. run_id null: the task''s policies did not let it run; is_left: somebody '
  'holds it, and a sweep has to do it. One that cannot fire becomes invalid.';

create or replace function ordinaut._give_payload(p_run_id uuid, p_payload jsonb)
returns void
language plpgsql
volatile
as $fn$
begin
  if pg_column_size(p_payload) <= 2000 then
    update ordinaut.due_work as w set payload = p_payload where w.work_id = p_run_id;
    return;
  end if;
  update ordinaut.due_work as w set payload = null where w.work_id = p_run_id;
  insert into ordinaut.payload (run_id, body)
  values (p_run_id, p_payload)
  on conflict on constraint payload_pk do update
  set body = excluded.body;
end
$fn$;

comment on function ordinaut._give_payload(uuid, jsonb) is
  'Give a run that was placed in this transaction another payload.';
