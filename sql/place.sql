/*
 * Moving a unit of work between its four places.  A unit is in exactly one of due_work, parked,
 * lease, task_run, and each function here takes it out of none: the caller has just deleted it
 * from where it was, in the same transaction.
 */

create or replace function ordinaut._put_due(p_items ordinaut.work_item[])
returns void
language sql
volatile
as $fn$
  insert into ordinaut.due_work
  select i.* from unnest(p_items) as i;
$fn$;

comment on function ordinaut._put_due(ordinaut.work_item[]) is
  'Place units in due_work, as they are.';

create or replace function ordinaut._put_back(p_item ordinaut.work_item, p_now timestamptz)
returns void
language plpgsql
volatile
as $fn$
begin
  perform ordinaut._put_due(array[p_item]);
  if p_item.run_at <= p_now then
    perform ordinaut._ask_sweep(p_item.queue);
    perform ordinaut._notify_idle(p_item.queue);
  end if;
end
$fn$;

comment on function ordinaut._put_back(ordinaut.work_item, timestamptz) is
  'Place a unit that was leased in due_work again, and see to it that it is found.';

-- One that a lease takes just now, or that somebody's open transaction holds, is passed by.
create or replace function ordinaut._withdraw(p_work_ids uuid[])
returns uuid[]
language plpgsql
volatile
set jit = off
set enable_seqscan = off
as $fn$
declare
  v_taken uuid[];
begin
  with due as (
    delete from ordinaut.due_work as w
    where w.ctid = any (array(
      select y.ctid from ordinaut.due_work as y where y.work_id = any (p_work_ids)
      for update skip locked))
    returning w.work_id
  ),
  parked as (
    delete from ordinaut.parked as p
    where p.ctid = any (array(
      select y.ctid from ordinaut.parked as y where y.work_id = any (p_work_ids)
      for update skip locked))
    returning p.work_id
  )
  select array_agg(t.work_id) into v_taken
  from (select d.work_id from due as d union all select p.work_id from parked as p) as t;
  return v_taken;
end
$fn$;

comment on function ordinaut._withdraw(uuid[]) is
  'Take these units out of due_work and parked, without waiting; returns those that it got. null: '
  'none.';

-- The one list of columns that turns a parked row into a unit again.
create or replace function ordinaut._item(p_parked ordinaut.parked)
returns ordinaut.work_item
language sql
immutable
as $fn$
  select row(p_parked.work_id, p_parked.run_id, p_parked.step, p_parked.task_id, p_parked.queue,
    p_parked.priority, p_parked.run_at, p_parked.scheduled_for, p_parked.enqueued_at,
    p_parked.attempt, p_parked.failures, p_parked.crashes, p_parked.max_attempts, p_parked.timeout,
    p_parked.tool, p_parked.key, p_parked.key_limit, p_parked.idempotency_key, p_parked.retry,
    p_parked.retry_of, p_parked.payload, p_parked.pipeline_id)::ordinaut.work_item;
$fn$;

comment on function ordinaut._item(ordinaut.parked) is 'The unit in a parked row.';

create or replace function ordinaut._park(p_item ordinaut.work_item, p_reason text)
returns void
language sql
volatile
as $fn$
  insert into ordinaut.parked
  select p_reason, ordinaut.now(), (p_item).*;
$fn$;

comment on function ordinaut._park(ordinaut.work_item, text) is
  'Place a unit in parked, with the reason.';

-- Released and reaped work keeps its place in line, which lies below the floor of the workers of
-- its queue: they find it by the sweep that is asked for here.  At most one request a second.
create or replace function ordinaut._ask_sweep(p_queue text)
returns void
language sql
volatile
as $fn$
  insert into ordinaut.queue as q (queue, sweep_requested_at)
  values (p_queue, ordinaut.now())
  on conflict on constraint queue_pk do update
  set sweep_requested_at = excluded.sweep_requested_at
  where coalesce(q.sweep_requested_at, '-infinity') < excluded.sweep_requested_at - interval '1 s';
$fn$;

comment on function ordinaut._ask_sweep(text) is
  'Ask the workers of a queue to look below their floors.';

create or replace function ordinaut._finish(
  p_item ordinaut.work_item,
  p_state text,
  p_output jsonb default null,
  p_error jsonb default null,
  p_worker_id uuid default null,
  p_lease_id uuid default null,
  p_started_at timestamptz default null
)
returns void
language plpgsql
volatile
as $fn$
begin
  insert into ordinaut.task_run (run_id, task_id, tool, queue, priority, state, attempt, failures,
    crashes, max_attempts, worker_id, lease_id, enqueued_at, scheduled_for, started_at, finished_at,
    timeout, key, key_limit, idempotency_key, retry, retry_of, payload, output, error, pipeline_id)
  values (p_item.run_id, p_item.task_id, p_item.tool, p_item.queue, p_item.priority, p_state,
    p_item.attempt, p_item.failures, p_item.crashes, p_item.max_attempts, p_worker_id, p_lease_id,
    p_item.enqueued_at, p_item.scheduled_for, p_started_at, ordinaut.now(), p_item.timeout,
    p_item.key, p_item.key_limit, p_item.idempotency_key, p_item.retry, p_item.retry_of,
    p_item.payload, p_output, p_error, p_item.pipeline_id);

  delete from ordinaut.cancel_request as c where c.run_id = p_item.run_id;
  perform ordinaut._end_holds(p_item);
end
$fn$;

comment on function ordinaut._finish(
  ordinaut.work_item, text, jsonb, jsonb, uuid, uuid, timestamptz
) is
  'Place a unit in task_run: its run has ended in this state. Its key goes to the next in line.';
