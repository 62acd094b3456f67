/*
 * Maps: a step that runs once for each item of a list.
 *
 *   the step is leased: `over` is evaluated --> an item step for each, name[0], name[1], …
 *   so many of them are ready at once       --> the end of one makes the next one ready
 *   the last has ended                      --> the map step completes with the list of outputs
 *
 * Items are steps of their own: leased, retried and inspected as any.  They begin in order, so
 * all that is undecided lies in a window: before it all have ended, behind it none has begun.
 * `wait` of the map step keeps its bounds; looking at the window and not at the list makes a long
 * list cost what its items cost.
 *
 *   first     position of item 0          ended     all items before it have ended
 *   released  items that may have begun   failed    how many of those before `ended` failed
 */

create or replace function ordinaut._wait_map(
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
  v_items constant jsonb := p_wait -> 'items';
  v_on_failure constant text := ordinaut._check_after('on_failure', p_wait ->> 'on_failure');
  v_prefix constant bytea := substring(uuid_send(p_run.run_id) for 6);
  v_n integer;
  v_last integer;
  v_max integer;
  v_released integer;
begin
  if jsonb_typeof(v_items) is distinct from 'array' then
    perform ordinaut._refuse(format('step %s: what it maps over is no list but %s', p_step.name,
      coalesce(jsonb_typeof(v_items), 'nothing')));
  end if;
  v_n := jsonb_array_length(v_items);
  select max(s.position) into v_last from ordinaut.step as s where s.run_id = p_run.run_id;
  if v_n > 10000 or v_last + v_n > 60000 then
    perform ordinaut._refuse(
      format('step %s maps over %s items, in a run of %s steps', p_step.name, v_n, v_last),
      'At most 10000 items, and 60000 steps a run: map over chunks of the list.');
  end if;
  v_max := coalesce((p_wait ->> 'max_parallel')::integer, 1000000);
  perform ordinaut._check_count('max_parallel', v_max, 1, 1000000);
  perform ordinaut._check_count('tolerate', coalesce((p_wait ->> 'tolerate')::integer, 0),
    0, 1000000);
  if v_n = 0 then
    perform ordinaut._end_step(p_step, 'complete', '[]', p_now);
    return;
  end if;

  v_released := least(v_max, v_n);
  -- Tried again: what was done stays done, if it is the same list.
  select min(s.position) into v_last
  from ordinaut.step as s
  where s.map_step_id = p_step.step_id
  having jsonb_agg(s.item order by s.position) = v_items;
  if v_last is not null then
    -- What failed had been released, and all before it: only what came after may be pending again.
    select greatest(v_released, max(s.position) - v_last + 1) into v_released
    from ordinaut.step as s
    where s.map_step_id = p_step.step_id and s.state = 'error';
    update ordinaut.step as s
    set
      state = case when s.position - v_last < v_released then 'ready' else 'pending' end,
      attempt = 0, failures = 0, crashes = 0, error = null, wait = null, started_at = null,
      finished_at = null
    where s.map_step_id = p_step.step_id and s.state in ('error', 'cancelled');
  else
    delete from ordinaut.step as s where s.map_step_id = p_step.step_id;
    select max(s.position) + 1 into v_last from ordinaut.step as s where s.run_id = p_run.run_id;
    insert into ordinaut.step (step_id, run_id, position, defined_by, kind, name, state, waits_for,
      attempt, failures, crashes, map_step_id, item, created_at)
    select
      ordinaut._v7(v_prefix), p_run.run_id, v_last + i.n::integer - 1, p_step.defined_by, 'item',
      format('%s[%s]', p_step.name, i.n - 1),
      case when i.n <= v_released then 'ready' else 'pending' end,
      0, 0, 0, 0, p_step.step_id, i.value, p_now
    from jsonb_array_elements(v_items) with ordinality as i (value, n);
  end if;

  -- Without the list: the items have it.
  update ordinaut.step as s
  set
    waits_for = v_n,
    wait = jsonb_build_object('kind', 'map', 'count', v_n, 'first', v_last, 'ended', 0,
      'released', v_released, 'failed', 0, 'max_parallel', v_max,
      'tolerate', case v_on_failure
        when 'continue' then v_n
        else coalesce((p_wait ->> 'tolerate')::integer, 0)
      end)
  where s.step_id = p_step.step_id;
  v_item.run_at := p_now;
  v_item.payload := jsonb_build_object('items', v_n);
  perform ordinaut._park(v_item, 'child');
  perform ordinaut._release_items(p_step.step_id, p_run, v_last, v_last + v_n - 1, p_now);
  perform ordinaut._item_ended(p_step.step_id, p_now);
end
$fn$;

comment on function ordinaut._wait_map(
  ordinaut.step, ordinaut.task_run, ordinaut.work_item, jsonb, timestamptz
) is
  'Make a step for each item, as many ready as max_parallel says, and park the map step until '
  'they have ended. Errors: invalid_parameter_value.';

-- One unit is asked for, and copied: of the same definition they differ in id, name and time.
create or replace function ordinaut._release_items(
  p_map_step_id uuid,
  p_run         ordinaut.task_run,
  p_from        integer,
  p_to          integer,
  p_now         timestamptz
)
returns void
language plpgsql
volatile
as $fn$
declare
  v_unit ordinaut.work_item;
begin
  v_unit := (
    select ordinaut._step_item(s, p_run, p_now)
    from ordinaut.step as s
    where
      s.map_step_id = p_map_step_id and s.position between p_from and p_to and s.state = 'ready'
    limit 1);
  if v_unit.work_id is null then
    return;
  end if;
  insert into ordinaut.due_work (work_id, run_id, step, task_id, queue, priority, run_at,
    scheduled_for, enqueued_at, attempt, failures, crashes, max_attempts, timeout, tool, retry,
    payload, pipeline_id)
  select
    s.step_id, s.run_id, s.name, v_unit.task_id, v_unit.queue, v_unit.priority,
    -- Microseconds apart, and not ahead: in their order, and all of them due.
    p_now - (p_to - s.position) * interval '1 us',
    v_unit.scheduled_for, p_now, s.attempt, s.failures, s.crashes, v_unit.max_attempts,
    v_unit.timeout, v_unit.tool, v_unit.retry, v_unit.payload, v_unit.pipeline_id
  from ordinaut.step as s
  where s.map_step_id = p_map_step_id and s.position between p_from and p_to and s.state = 'ready';
  perform ordinaut._notify_idle(v_unit.queue);
end
$fn$;

comment on function ordinaut._release_items(
  uuid, ordinaut.task_run, integer, integer, timestamptz
) is
  'Put the ready items of a map within these positions into due_work, where none of them is yet.';

create or replace function ordinaut._item_ended(p_map_step_id uuid, p_now timestamptz)
returns void
language plpgsql
volatile
as $fn$
declare
  v_map ordinaut.step := ordinaut._step_of(p_map_step_id);
  v_first constant integer := (v_map.wait ->> 'first')::integer;
  v_count constant integer := (v_map.wait ->> 'count')::integer;
  v_max constant integer := (v_map.wait ->> 'max_parallel')::integer;
  v_ended integer := (v_map.wait ->> 'ended')::integer;
  v_released integer := (v_map.wait ->> 'released')::integer;
  v_failed integer := (v_map.wait ->> 'failed')::integer;
  v_window record;
  v_first_error text;
begin
  if v_map.state is distinct from 'in_progress' or v_first is null then
    return;  -- Withdrawn: its last items may end, and decide nothing.
  end if;
  loop
    select
      count(*) filter (where i.is_live) as live,
      count(*) filter (where i.state = 'error' and not i.is_live) as failed,
      -- All before it have ended.
      coalesce(min(i.position) filter (where i.is_live), v_first + v_released) as low
    into v_window
    from (
      select s.position, s.state, ordinaut._is_live(s.state, s.wait) as is_live
      from ordinaut.step as s
      where
        s.map_step_id = p_map_step_id
        and s.position >= v_first + v_ended and s.position < v_first + v_released
    ) as i;
    if v_failed + v_window.failed > (v_map.wait ->> 'tolerate')::integer then
      if ordinaut._cancel_items(v_map, p_now) then
        select format('%s: %s', s.name, s.error ->> 'message') into v_first_error
        from ordinaut.step as s
        where s.map_step_id = p_map_step_id and s.state = 'error'
        order by s.finished_at, s.position
        limit 1;
        perform ordinaut._fail_step(v_map, ordinaut._wait_error(
          format('%s of %s items failed: %s', v_failed + v_window.failed, v_count, v_first_error),
          'ItemsFailed', 'external_service', 'E4004'), p_now);
      end if;
      return;
    end if;
    exit when v_released = v_count or v_window.live >= v_max;

    -- Then once more: somebody may have skipped those that were next.
    update ordinaut.step as s
    set state = 'ready'
    where
      s.map_step_id = p_map_step_id and s.state = 'pending'
      and s.position >= v_first + v_released
      and s.position < v_first + v_released + v_max - v_window.live;
    perform ordinaut._release_items(p_map_step_id, r, v_first + v_released,
      v_first + least(v_released + v_max - v_window.live::integer, v_count) - 1, p_now)
    from ordinaut.task_run as r
    where r.run_id = v_map.run_id;
    v_released := least(v_released + v_max - v_window.live::integer, v_count);
  end loop;

  if v_window.live = 0 then
    perform ordinaut._end_step(v_map, 'complete', (
      select jsonb_agg(
        case when s.state in ('complete', 'resolved_manually') then s.output end
        order by s.position)
      from ordinaut.step as s
      where s.map_step_id = p_map_step_id
    ), p_now);
    return;
  end if;
  select count(*) filter (where s.state = 'error') + v_failed into v_failed
  from ordinaut.step as s
  where
    s.map_step_id = p_map_step_id
    and s.position >= v_first + v_ended and s.position < v_window.low;
  update ordinaut.step as s
  set
    waits_for = v_window.live + v_count - v_released,
    wait = s.wait || jsonb_build_object(
      'ended', v_window.low - v_first, 'released', v_released, 'failed', v_failed)
  where s.step_id = p_map_step_id;
end
$fn$;

comment on function ordinaut._item_ended(uuid, timestamptz) is
  'What follows when items of a map have ended: others start, or the map step ends. The caller '
  'holds the run.';

create or replace function ordinaut._cancel_items(p_map ordinaut.step, p_now timestamptz)
returns boolean
language plpgsql
volatile
set jit = off
set enable_seqscan = off
as $fn$
declare
  v_ids uuid[];
  v_taken uuid[];
begin
  select array_agg(s.step_id) into v_ids
  from ordinaut.step as s
  where
    s.map_step_id = p_map.step_id
    and s.state in ('ready', 'waiting_for_retry', 'in_progress', 'error');
  -- Units first, as _cancel_waiting: one that a lease takes just now is left to run.
  v_taken := ordinaut._withdraw(v_ids);
  update ordinaut.step as s
  set state = 'cancelled', finished_at = p_now, next_retry_at = null
  where
    s.map_step_id = p_map.step_id
    and (s.state = 'pending' or s.step_id = any (v_taken) and s.state <> 'error');
  perform ordinaut._cancel_children(
    p_map.run_id, format('too many items of step %s failed', p_map.name));
  return not exists (
    select
    from ordinaut.step as s
    where s.map_step_id = p_map.step_id and ordinaut._is_live(s.state, s.wait)
  );
end
$fn$;

comment on function ordinaut._cancel_items(ordinaut.step, timestamptz) is
  'Cancel the items of a map that no worker holds. True: none is live any more.';
