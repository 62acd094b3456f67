/*
 * Keys: at most key_limit live runs with the same key, oldest first; and idempotency keys.
 *
 * ordinaut.hold is the truth.  A run takes a slot when it is first leased and keeps it, through
 * retries, until it ends; who finds no slot is parked, and the end of a run hands its slot to
 * the first in line, so that a newcomer cannot overtake.
 *
 * Deciding between "park" and "hand over" needs a mutex, or the parked row and the release miss
 * each other: the key's transaction-level advisory lock.  A lease only *tries* it and puts the
 * work back if that fails; a settle tries for 40 ms and then leaves its slot to the sweep: neither
 * can hang behind somebody's open transaction, and neither can deadlock.
 */

create or replace function ordinaut._try_key(p_key text)
returns boolean
language sql
volatile
as $fn$
  select pg_try_advisory_xact_lock(hashtextextended(p_key, 7146));
$fn$;

comment on function ordinaut._try_key(text) is
  'Take the mutex of a key until commit, without waiting.';

-- The mutex is held.  False: no slot, or others wait in line before it.
create or replace function ordinaut._take_slot(p_item ordinaut.work_item)
returns boolean
language plpgsql
volatile
as $fn$
declare
  v_slot integer;
begin
  if exists (
    select from ordinaut.hold as h
    where h.key = p_item.key and h.slot >= 1 and h.run_id = p_item.run_id
  ) then
    return true;
  end if;

  perform ordinaut._promote_key(p_item.key);
  if exists (
    select from ordinaut.parked as p where p.key = p_item.key and p.reason = 'key'
  ) then
    return false;
  end if;

  select s.slot into v_slot
  from generate_series(1, p_item.key_limit) as s (slot)
  where not exists (
    select from ordinaut.hold as h where h.key = p_item.key and h.slot = s.slot
  )
  order by s.slot
  limit 1;
  if not found then
    return false;
  end if;

  insert into ordinaut.hold (key, slot, run_id) values (p_item.key, v_slot, p_item.run_id);
  return true;
end
$fn$;

comment on function ordinaut._take_slot(ordinaut.work_item) is
  'Take a slot of the unit''s key for its run; false when none is free.';

-- The mutex is held.  Moves the first in line to due_work for every free slot.  run_at becomes
-- now: an old one would lie below the floors of the workers.
create or replace function ordinaut._promote_key(p_key text)
returns bigint
language plpgsql
volatile
as $fn$
declare
  v_next ordinaut.parked;
  v_slot integer;
  v_n bigint := 0;
begin
  loop
    select p.* into v_next
    from ordinaut.parked as p
    where p.key = p_key and p.reason = 'key'
    order by p.priority, p.run_at, p.work_id
    limit 1
    for update skip locked;
    exit when not found;

    select s.slot into v_slot
    from generate_series(1, v_next.key_limit) as s (slot)
    where not exists (
      select from ordinaut.hold as h where h.key = p_key and h.slot = s.slot
    )
    order by s.slot
    limit 1;
    exit when not found;

    insert into ordinaut.hold (key, slot, run_id) values (p_key, v_slot, v_next.run_id);
    perform ordinaut._unpark(array[v_next.work_id]);
    v_n := v_n + 1;
  end loop;
  return v_n;
end
$fn$;

comment on function ordinaut._promote_key(text) is
  'Hand the free slots of a key to those parked for it, first in line first.';

create or replace function ordinaut._unpark(p_work_ids uuid[])
returns void
language plpgsql
volatile
as $fn$
declare
  v_parked ordinaut.parked;
  v_item ordinaut.work_item;
  v_queues text[] := array[]::text[];
  v_queue text;
begin
  for v_parked in
    delete from ordinaut.parked as p where p.work_id = any (p_work_ids) returning p.*
  loop
    v_item := ordinaut._item(v_parked);
    v_item.run_at := greatest(v_item.run_at, ordinaut.now());
    perform ordinaut._put_due(array[v_item]);
    if v_item.queue <> all (v_queues) then
      v_queues := v_queues || v_item.queue;
    end if;
  end loop;

  foreach v_queue in array v_queues loop
    perform ordinaut._notify_idle(v_queue);
  end loop;
end
$fn$;

comment on function ordinaut._unpark(uuid[]) is
  'Move parked units to due_work: the reason is gone.';

-- What a run held ends with it: its slot goes to the next in line, its idempotency key lives on
-- for as long as its caller asked.
create or replace function ordinaut._end_holds(p_item ordinaut.work_item)
returns void
language plpgsql
volatile
as $fn$
declare
  v_slot integer;
begin
  if p_item.idempotency_key is not null then
    update ordinaut.hold as h
    set held_until = ordinaut.now() + h.keep_for
    where h.run_id = p_item.run_id and h.slot = 0;
    if p_item.idempotency_key like 'child:%' then
      perform ordinaut._child_ended(
        p_item.run_id, ordinaut._child_step(p_item.idempotency_key), ordinaut.now());
    end if;
  end if;

  if p_item.key is null then
    return;
  end if;
  for v_try in 1..20 loop
    if ordinaut._try_key(p_item.key) then
      delete from ordinaut.hold as h
      where h.key = p_item.key and h.slot >= 1 and h.run_id = p_item.run_id
      returning h.slot into v_slot;
      if v_slot is not null then
        perform ordinaut._promote_key(p_item.key);
      end if;
      return;
    end if;
    perform pg_sleep(0.002);
  end loop;
end
$fn$;

comment on function ordinaut._end_holds(ordinaut.work_item) is
  'End the holds of a run that ends, and tell the step that started it. Never waits long: a slot '
  'it cannot release is left to _sweep_holds.';

create or replace function ordinaut._ended_holds()
returns setof ordinaut.hold
language sql
stable
as $fn$
  -- One snapshot for all places: a run that moves between them is seen in one of them.
  select h.*
  from ordinaut.hold as h
  where
    h.slot >= 1
    and h.run_id not in (
      select w.run_id from ordinaut.due_work as w where w.key is not null
      union all
      select p.run_id from ordinaut.parked as p where p.key is not null
      union all
      select u.run_id
      from ordinaut.lease as l
      cross join unnest(l.work) as u
      where u.key is not null and u.work_id <> all (l.settled)
      union all
      select r.run_id from ordinaut.task_run as r where r.finished_at is null and r.key is not null
    );
$fn$;

comment on function ordinaut._ended_holds() is 'Slots of keys whose run is in no live place.';

-- Repairs what a settle had to leave, and a parked row that no release saw.  Only keys where
-- something is amiss are locked: a sweep must not stand in the way of those that are not.
create or replace function ordinaut._sweep_holds()
returns bigint
language plpgsql
volatile
as $fn$
declare
  v_key text;
  v_n bigint := 0;
begin
  for v_key in
    select d.key
    from (
      select p.key, max(p.key_limit) as key_limit
      from ordinaut.parked as p
      where p.reason = 'key'
      group by p.key
    ) as d
    where d.key_limit > (
      select count(*) from ordinaut.hold as h where h.key = d.key and h.slot >= 1
    )
    union
    select h.key from ordinaut._ended_holds() as h
    order by 1
  loop
    continue when not ordinaut._try_key(v_key);
    delete from ordinaut.hold as h
    using ordinaut._ended_holds() as e
    where h.key = v_key and h.key = e.key and h.slot = e.slot and h.run_id = e.run_id;
    v_n := v_n + ordinaut._promote_key(v_key);
  end loop;
  return v_n;
end
$fn$;

comment on function ordinaut._sweep_holds() is
  'Release slots whose run has ended, and hand free slots to those in line. Returns units moved.';

create or replace function ordinaut._child_step(p_key text)
returns uuid
language sql
immutable
as $fn$
  select case
    when p_key ~ '^child:[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' then substr(p_key, 7)::uuid
  end;
$fn$;

comment on function ordinaut._child_step(text) is
  'The step that started a run with this idempotency key; null: none did.';
