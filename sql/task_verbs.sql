/*
 * What people do with a task that exists: pause, resume, snooze, cancel, run it now, look at it.
 *
 * A status changes in one place, under the lock of the task's schedule row, and replans: a task
 * that is not active has no next run, so tick never meets it.
 */

-- The one place that changes a task's status by hand.
create or replace function ordinaut._set_status(
  p_task   text,
  p_status text,
  p_event  text,
  p_note   text
)
returns text
language plpgsql
volatile
as $fn$
declare
  v_task_id uuid := ordinaut._task_id(p_task);
  v_task ordinaut.task;
begin
  perform from ordinaut.task_schedule as s where s.task_id = v_task_id for update;
  select t.* into v_task from ordinaut.task as t where t.task_id = v_task_id for update;
  if v_task.status = p_status then
    return p_status;
  end if;
  if p_status = 'active' then
    perform ordinaut._hold_pipeline(v_task.pipeline_id);
  end if;

  update ordinaut.task as t
  set
    status = p_status,
    status_note = p_note,
    status_by = ordinaut._actor(),
    status_at = ordinaut.now()
  where t.task_id = v_task_id
  returning t.* into v_task;
  -- A once whose time passed while it was paused has not fired: its catchup policy decides.
  perform ordinaut._plan(v_task,
    case v_task.schedule_kind when 'once' then '-infinity' else ordinaut.now() end);
  perform ordinaut._journal(p_event, p_task_id => v_task_id,
    p_detail => jsonb_build_object('note', p_note));
  return p_status;
end
$fn$;

comment on function ordinaut._set_status(text, text, text, text) is
  'Change a task''s status, replan, and journal it. Errors: OR010, OR020.';

create or replace function ordinaut._stop_task(
  p_task_id uuid,
  p_status  text,
  p_reason  text,
  p_by      text
)
returns void
language plpgsql
volatile
as $fn$
begin
  update ordinaut.task as t
  set
    status = p_status,
    status_note = left(p_reason, 1000),
    status_by = p_by,
    status_at = ordinaut.now()
  where t.task_id = p_task_id;
  update ordinaut.task_schedule as s
  set
    next_run = null,
    replan_at = null,
    look_at = null,
    is_met = s.is_met and s.next_run is null
  where s.task_id = p_task_id;
  perform ordinaut._journal('task_' || p_status, p_task_id => p_task_id,
    p_detail => jsonb_build_object('message', left(p_reason, 1000)));
end
$fn$;

comment on function ordinaut._stop_task(uuid, text, text, text) is
  'Make a task paused, invalid or completed that the engine itself can fire no more; the caller '
  'has locked its schedule row.';

create or replace function ordinaut.pause_task(p_task text, p_note text default null)
returns text
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select ordinaut._set_status(p_task, 'paused', 'task_paused', p_note);
$fn$;

comment on function ordinaut.pause_task(text, text) is
  'Fire a task no more until resume_task(); runs that exist go on. Pausing twice is fine. '
  'Errors: OR020, OR010 (it is completed or cancelled).';

create or replace function ordinaut.resume_task(p_task text, p_note text default null)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_task ordinaut.task;
begin
  select t.* into v_task from ordinaut.task as t where t.task_id = ordinaut._task_id(p_task);
  if v_task.status in ('completed', 'invalid') then
    raise exception using
      errcode = 'OR031',
      message = format('task %s/%s is %s: %s', v_task.namespace, v_task.name, v_task.status,
        coalesce(v_task.status_note, 'its schedule has no occurrence left')),
      hint = case v_task.status
        when 'invalid' then 'Mend it with update_task(); any change makes it active.'
        else 'Give it a schedule with update_task(); that makes it active.'
      end;
  end if;
  return ordinaut._set_status(p_task, 'active', 'task_resumed', p_note);
end
$fn$;

comment on function ordinaut.resume_task(text, text) is
  'Fire a paused task again, from its next occurrence after now: what passed meanwhile does not '
  'come in a burst; a once that passed fires now, or is recorded as missed if its catchup is '
  'none; a condition fires if it became true meanwhile. Errors: OR020, OR010 (cancelled), OR031 '
  '(completed or invalid).';

create or replace function ordinaut.cancel_task(p_task text, p_note text default null)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_task_id uuid := ordinaut._task_id(p_task);
  v_run_id uuid;
  v_status text;
begin
  v_status := ordinaut._set_status(p_task, 'cancelled', 'task_cancelled', p_note);
  for v_run_id in
    select r.run_id from ordinaut._live_runs(v_task_id) as r order by r.run_id
  loop
    begin
      perform ordinaut.cancel_run(v_run_id, coalesce(p_note, 'its task was cancelled'));
    exception
      when sqlstate 'OR020' then null;  -- Pruned or gone meanwhile: nothing is left to cancel.
    end;
  end loop;
  return v_status;
end
$fn$;

comment on function ordinaut.cancel_task(text, text) is
  'End a task for good: it never fires again, its waiting runs are cancelled, its running ones '
  'are asked to stop. Errors: OR020.';

create or replace function ordinaut.snooze_task(
  p_task text,
  p_for  interval,
  p_note text default null
)
returns timestamptz
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_task_id uuid := ordinaut._task_id(p_task);
  v_task ordinaut.task;
  v_next timestamptz;
  v_look timestamptz;
  v_until constant timestamptz := ordinaut.now() + p_for;
begin
  perform ordinaut._check_span('for', coalesce(p_for, '-1 s'), '1 s', '7 days');
  select s.look_at into v_look
  from ordinaut.task_schedule as s
  where s.task_id = v_task_id
  for update;
  select t.next_run into v_next from ordinaut.task_status as t where t.task_id = v_task_id;
  select t.* into v_task from ordinaut.task as t where t.task_id = v_task_id;
  if v_task.status <> 'active' or coalesce(v_next, v_look) is null then
    raise exception using
      errcode = 'OR031',
      message = format('task %s/%s is %s and has no next run to snooze',
        v_task.namespace, v_task.name, v_task.status),
      hint = 'Only an active task with a schedule can be snoozed.';
  end if;

  if v_task.schedule_kind = 'once' then
    v_next := v_next + p_for;  -- somebody's wish: no calendar is asked
    update ordinaut.task_schedule as s
    set
      next_run = v_next,
      upcoming = case when s.upcoming is not null then array[v_next] end
    where s.task_id = v_task_id;
  elsif ordinaut._is_told(v_task) then
    update ordinaut.task_schedule as s
    set
      next_run = v_next + p_for,
      plan_after = v_until,
      look_at = case
        when v_task.schedule_kind = 'condition' then v_until
        else coalesce(v_next + p_for, s.look_at)
      end
    where s.task_id = v_task_id;
    v_next := coalesce(v_next + p_for, v_until);
  else
    perform ordinaut._plan(v_task, greatest(v_next, ordinaut.now()) + p_for - interval '1 us');
    select t.next_run into v_next from ordinaut.task_status as t where t.task_id = v_task_id;
  end if;
  perform ordinaut._journal('task_snoozed', p_task_id => v_task_id, p_detail => jsonb_build_object(
    'for', p_for, 'next_run', v_next, 'note', p_note));
  return v_next;
end
$fn$;

comment on function ordinaut.snooze_task(text, interval, text) is
  'Skip what a task''s schedule holds for the next p_for (1 s to 7 days) from its next run, and '
  'return the run after it; a once, and one after the end of a run, is moved by p_for. Where the '
  'next run is not known yet, it returns when it can be due at the earliest: a condition is not '
  'looked at before. Runs that exist are untouched. Errors: OR020, OR031 (nothing to snooze), '
  'invalid_parameter_value.';

create or replace function ordinaut.list_tasks(
  p_namespace text    default null,
  p_status    text    default null,
  p_limit     integer default 100,
  p_offset    integer default 0,
  p_uses      text    default null
)
returns setof ordinaut.task_status
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select t.*
  from ordinaut.task_status as t
  where
    (p_namespace is null or t.namespace = p_namespace)
    and (p_status is null or t.status = p_status)
    and (p_uses is null or t.task_id in (select u.id from ordinaut._tasks_using(p_uses) as u (id)))
  order by t.namespace, t.name
  limit p_limit offset p_offset;
$fn$;

comment on function ordinaut.list_tasks(text, text, integer, integer, text) is
  'Tasks with their schedules and counters, by name, as rows of ordinaut.task_status. p_uses: '
  'only those that run this tool, also in a step.';

create or replace function ordinaut.get_task(p_task text)
returns setof ordinaut.task_status
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select t.* from ordinaut.task_status as t where t.task_id = ordinaut._task_id(p_task);
$fn$;

comment on function ordinaut.get_task(text) is
  'One task, as a row of ordinaut.task_status. Errors: OR020.';

create or replace function ordinaut.run_now(
  p_task            text,
  p_payload         jsonb default null,
  p_idempotency_key text  default null
)
returns table (run_id uuid, outcome text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_task ordinaut.task;
  v_run_id uuid;
  v_outcome text;
begin
  perform ordinaut._check_idempotency_key(p_idempotency_key);
  -- Edits wait for us, and we for them; tick, which only completes a task, does not.
  select t.* into v_task
  from ordinaut.task as t
  where t.task_id = ordinaut._task_id(p_task)
  for key share;
  if v_task.status <> 'active' then
    raise exception using
      errcode = 'OR031',
      message = format('task %s/%s is %s', v_task.namespace, v_task.name, v_task.status),
      hint = 'Only an active task can be run; resume it first, or enqueue its tool.';
  end if;

  select q.run_id, q.outcome into v_run_id, v_outcome
  from ordinaut._enqueue_task(v_task, coalesce(p_payload, v_task.payload), p_idempotency_key) as q;
  if v_outcome = 'new' then
    perform ordinaut._journal('run_now', v_run_id, v_task.task_id, v_task.queue);
  end if;
  return query select v_run_id, v_outcome;
end
$fn$;

comment on function ordinaut.run_now(text, jsonb, text) is
  'Run an active task at once, beside its schedule; p_payload replaces its own. outcome: new, or '
  'existing (p_idempotency_key is known: that run). Errors: OR020, OR031 (not active), '
  'invalid_parameter_value.';

create or replace function ordinaut._enqueue_task(
  p_task            ordinaut.task,
  p_payload         jsonb,
  p_idempotency_key text
)
returns table (run_id uuid, outcome text)
language plpgsql
volatile
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_run_id uuid := ordinaut.uuid_generate_v7(v_now);
  v_holder uuid;
begin
  perform ordinaut._check_payload(p_payload);
  if p_task.pipeline_id is not null then
    perform ordinaut._check_params(p_payload);
  end if;
  perform ordinaut._check_room(p_task.queue, 1);
  if p_idempotency_key is not null then
    v_holder := ordinaut._claim_once(p_idempotency_key, v_run_id, '1 day');
    if v_holder <> v_run_id then
      return query select v_holder, 'existing';
      return;
    end if;
  end if;
  insert into ordinaut.due_work (work_id, run_id, task_id, queue, priority, run_at, enqueued_at,
    attempt, failures, crashes, max_attempts, timeout, tool, key, key_limit, idempotency_key, retry,
    payload, pipeline_id)
  values (v_run_id, v_run_id, p_task.task_id, p_task.queue, p_task.priority, v_now, v_now, 0, 0, 0,
    p_task.max_attempts, p_task.timeout, p_task.tool, ordinaut._key_of(p_task),
    ordinaut._key_limit_of(p_task), p_idempotency_key, p_task.retry,
    case when pg_column_size(p_payload) <= 2000 then p_payload end, p_task.pipeline_id);
  if pg_column_size(p_payload) > 2000 then
    insert into ordinaut.payload (run_id, body) values (v_run_id, p_payload);
  end if;
  perform ordinaut._notify_idle(p_task.queue);
  return query select v_run_id, 'new';
end
$fn$;

comment on function ordinaut._enqueue_task(ordinaut.task, jsonb, text) is
  'Queue one run of a task now. Errors: invalid_parameter_value, configuration_limit_exceeded.';
