/*
 * Child runs: a step runs a task, and waits for its end or does not.
 *
 *   the step waits --> a run of the task, with the idempotency key child:<step_id>
 *   the run ends   --> _child_ended(): the step completes with its output, or fails with its error
 *
 * The key says who the parent is, and that a step starts one run however often its lease is
 * repeated.  A step that is tried again after its run has ended starts another.
 *
 * Locks go from parent to child: a cancel does.  An end goes the other way, so it only tries: a
 * parent that is busy is told by the sweep, from unheard_end.
 */

create or replace function ordinaut._parent_of(p_run_id uuid)
returns uuid
language sql
stable
as $fn$
  select s.run_id
  from ordinaut.step as s
  where s.step_id = ordinaut._child_step((
    select h.key from ordinaut.hold as h
    where h.run_id = p_run_id and h.slot = 0 and h.key like 'child:%'
    union all
    select r.idempotency_key from ordinaut.task_run as r where r.run_id = p_run_id
    limit 1
  ));
$fn$;

comment on function ordinaut._parent_of(uuid) is
  'The run of which a step started this run; null: none did.';

-- The runs above a step's, itself first: what it is part of.
create or replace function ordinaut._check_ancestors(
  p_run  ordinaut.task_run,
  p_task ordinaut.task
)
returns void
language plpgsql
stable
as $fn$
declare
  v_key constant text := ordinaut._key_of(p_task);
  v_depth integer;
  v_chain text;
  v_holder uuid;
begin
  with recursive above as (
    select p_run.run_id, p_run.task_id, p_run.key, p_run.idempotency_key, 1 as depth
    union all
    select r.run_id, r.task_id, r.key, r.idempotency_key, a.depth + 1
    from above as a
    join ordinaut.step as s on s.step_id = ordinaut._child_step(a.idempotency_key)
    join ordinaut.task_run as r on r.run_id = s.run_id
    where a.depth < 20
  )
  select
    max(a.depth),
    string_agg(coalesce(t.namespace || '/' || t.name, 'a run of no task'), ' > '
      order by a.depth desc),
    (array_agg(a.run_id) filter (where a.key = v_key))[1]
  into v_depth, v_chain, v_holder
  from above as a
  left join ordinaut.task as t on t.task_id = a.task_id;
  if v_depth >= 20 then
    perform ordinaut._refuse(
      format('task %s/%s would be level 21 of %s', p_task.namespace, p_task.name,
        left(v_chain, 2000)),
      'A task that starts itself needs a step that ends it: give it an if.');
  elsif v_holder is not null and ordinaut._key_limit_of(p_task) = 1 then
    perform ordinaut._refuse(
      format('task %s/%s would wait for ever: run %s, above it, has its key %s', p_task.namespace,
        p_task.name, v_holder, v_key), 'Give one of them another key, or overlap allow.');
  end if;
end
$fn$;

comment on function ordinaut._check_ancestors(ordinaut.task_run, ordinaut.task) is
  'Refuse a child run of more than 20 levels, and one that would wait for a key of its own '
  'parent. Errors: invalid_parameter_value.';

create or replace function ordinaut._wait_task(
  p_step ordinaut.step,
  p_run  ordinaut.task_run,
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
  v_key constant text := 'child:' || p_step.step_id;
  v_params constant jsonb := coalesce(nullif(p_wait -> 'params', 'null'), '{}');
  v_task ordinaut.task;
  v_child record;
begin
  select t.* into v_task
  from ordinaut.task as t
  where t.task_id = ordinaut._task_id(p_wait ->> 'task');
  if v_task.status <> 'active' then
    raise exception using
      errcode = 'OR031',
      message = format('task %s/%s is %s', v_task.namespace, v_task.name, v_task.status),
      hint = 'Only an active task can be run.';
  end if;
  perform ordinaut._check_ancestors(p_run, v_task);

  -- The run of an earlier attempt that has ended is done with.
  delete from ordinaut.hold as h
  where
    h.key = v_key and h.slot = 0
    and (h.held_until is not null or exists (
      select from ordinaut.task_run as r where r.run_id = h.run_id and r.finished_at is not null
    ));
  begin
    select q.run_id, q.outcome into v_child
    from ordinaut._enqueue_task(v_task,
      case
        when jsonb_typeof(v_task.payload) = 'object' and jsonb_typeof(v_params) = 'object'
          then v_task.payload || v_params
        when p_wait ? 'params' then v_params
        else v_task.payload
      end, v_key) as q;
  exception
    -- The queue is full, which passes: the step asks again.
    when configuration_limit_exceeded then
      update ordinaut.step as s
      set state = 'ready', wait = null
      where s.step_id = p_step.step_id;
      v_item.run_at := p_now + interval '5 s';
      perform ordinaut._put_due(array[v_item]);
      return;
  end;

  if coalesce((p_wait ->> 'wait')::boolean, true) then
    v_item.run_at := p_now;
    v_item.payload := jsonb_build_object(
      'run_id', v_child.run_id, 'task', v_task.namespace || '/' || v_task.name);
    perform ordinaut._park(v_item, 'child');
    if v_child.outcome = 'existing' then
      -- It may end just now, and would not see us.
      insert into ordinaut.unheard_end (run_id, step_id, ended_at)
      values (v_child.run_id, p_step.step_id, p_now)
      on conflict on constraint unheard_end_pk do nothing;
    end if;
  else
    perform ordinaut._end_step(
      p_step, 'complete', jsonb_build_object('run_id', v_child.run_id), p_now);
  end if;
end
$fn$;

comment on function ordinaut._wait_task(
  ordinaut.step, ordinaut.task_run, ordinaut.work_item, jsonb, timestamptz
) is
  'Run a task for a step, and park the step until the run has ended, or complete it at once with '
  '{"run_id"}. Errors: OR020, OR031, invalid_parameter_value.';

create or replace function ordinaut._tell_parent(
  p_run_id  uuid,
  p_step_id uuid,
  p_now     timestamptz
)
returns boolean
language plpgsql
volatile
as $fn$
declare
  v_parked ordinaut.parked;
  v_step ordinaut.step;
  v_run ordinaut.task_run;
begin
  select p.* into v_parked
  from ordinaut.parked as p
  where
    p.work_id = p_step_id and p.reason = 'child' and p.payload ->> 'run_id' = p_run_id::text;
  if not found then
    return true;  -- It does not wait, or no more.
  elsif (ordinaut._try_run(v_parked.run_id)).run_id is null then
    return false;
  end if;
  v_step := ordinaut._hold_waiter(v_parked);
  select r.* into v_run from ordinaut.task_run as r where r.run_id = p_run_id;
  if v_step.step_id is null then
    return true;
  elsif v_run.finished_at is null then
    return false;
  elsif v_run.state = 'success' then
    perform ordinaut._end_step(v_step, 'complete', v_run.output, p_now);
  else
    perform ordinaut._fail_step(v_step, ordinaut._wait_error(
      format('run %s of task %s %s%s', p_run_id, v_parked.payload ->> 'task',
        case v_run.state when 'cancelled' then 'was cancelled' else v_run.state end,
        coalesce(': ' || (v_run.error ->> 'message'), '')),
      coalesce(v_run.error ->> 'type', 'ChildFailed'),
      coalesce(v_run.error ->> 'category', 'external_service'),
      coalesce(v_run.error ->> 'code', 'E4004')) || jsonb_build_object('run_id', p_run_id), p_now);
  end if;
  return true;
end
$fn$;

comment on function ordinaut._tell_parent(uuid, uuid, timestamptz) is
  'End the step that waits for a run that has ended; false: its run is busy, or the run goes on.';

create or replace function ordinaut._child_ended(
  p_run_id  uuid,
  p_step_id uuid,
  p_now     timestamptz
)
returns void
language plpgsql
volatile
as $fn$
begin
  -- Siblings end in the same milliseconds.
  for v_try in 1..5 loop
    if ordinaut._tell_parent(p_run_id, p_step_id, p_now) then
      return;
    end if;
    perform pg_sleep(0.002);
  end loop;
  insert into ordinaut.unheard_end (run_id, step_id, ended_at)
  values (p_run_id, p_step_id, p_now)
  on conflict on constraint unheard_end_pk do nothing;
end
$fn$;

comment on function ordinaut._child_ended(uuid, uuid, timestamptz) is
  'Tell the step that waits for it that a run has ended; a parent that is busy is told by a '
  'sweep.';

create or replace function ordinaut._hear_children(p_limit integer)
returns void
language plpgsql
volatile
as $fn$
declare
  v_end ordinaut.unheard_end;
begin
  for v_end in
    select u.*
    from ordinaut.unheard_end as u
    order by u.run_id
    limit p_limit
    for update skip locked
  loop
    begin
      if ordinaut._tell_parent(v_end.run_id, v_end.step_id, ordinaut.now()) then
        delete from ordinaut.unheard_end as u where u.run_id = v_end.run_id;
      end if;
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded
        or lock_not_available or sqlstate 'OR010' then null;
    end;
  end loop;
end
$fn$;

comment on function ordinaut._hear_children(integer) is
  'Tell parents of the ends that they were too busy to hear.';

create or replace function ordinaut._cancel_child(p_step_id uuid, p_note text)
returns void
language plpgsql
volatile
as $fn$
begin
  perform ordinaut.cancel_run(h.run_id, p_note)
  from ordinaut.hold as h
  where h.key = 'child:' || p_step_id and h.slot = 0 and h.held_until is null;
exception
  when sqlstate 'OR020' then null;  -- Gone meanwhile.
end
$fn$;

comment on function ordinaut._cancel_child(uuid, text) is
  'Cancel the live run that a step has started.';

create or replace function ordinaut._cancel_children(p_run_id uuid, p_note text)
returns void
language plpgsql
volatile
as $fn$
declare
  v_child uuid;
begin
  for v_child in
    select h.run_id
    from ordinaut.task_run as r
    join ordinaut.pipeline_step as d on d.pipeline_id = r.pipeline_id and d.tool = 'task'
    join ordinaut.step as s on s.run_id = r.run_id and s.defined_by = d.position
    join ordinaut.hold as h on h.key = 'child:' || s.step_id and h.slot = 0
    where
      r.run_id = p_run_id
      -- Complete: it did not wait for its run.
      and s.state in ('cancelled', 'error')
      and h.held_until is null
    order by h.run_id
  loop
    begin
      perform ordinaut.cancel_run(
        v_child, coalesce(p_note, format('run %s, which it is part of, was cancelled', p_run_id)));
    exception
      when sqlstate 'OR020' then null;  -- Gone meanwhile.
    end;
  end loop;
end
$fn$;

comment on function ordinaut._cancel_children(uuid, text) is
  'Cancel the live runs that steps of a run were waiting for; the steps are cancelled already.';
