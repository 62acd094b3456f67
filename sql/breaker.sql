/*
 * Circuit breakers: while a service is down, its work waits instead of failing.
 *
 *   closed --`threshold` failures in a row, within `time_window`--> open
 *   open   --`recovery` has passed: one unit is leased, the probe--> half_open
 *   half_open --the probe succeeds--> closed, and all that was parked becomes due
 *             --it fails as the others did--> open
 *             --neither: released, another kind of error, its worker died--> open, due at once
 *
 * A breaker guards the tools that set_breaker() names.  Workers share it: it is a row here.  What
 * they hold when it opens they finish.  Work that meets an open breaker is parked before it takes
 * a key; the first of it is put into due_work for the moment of the probe instead, so that nobody
 * has to look for it; reap() repairs what was lost on the way.
 *
 * Whoever changes a breaker, and whoever parks work behind it, holds its row: so the end that
 * makes the parked due misses none.  A lease only tries the row, and puts the work back if that
 * fails; a settle tries for 40 ms.  Neither can hang behind somebody's open transaction, nor
 * deadlock.  Operators wait for it.
 */

create or replace function ordinaut._try_breaker(p_name text, p_tries integer)
returns ordinaut.breaker
language plpgsql
volatile
as $fn$
declare
  v_breaker ordinaut.breaker;
begin
  for v_try in 1..p_tries loop
    if v_try > 1 then
      perform pg_sleep(0.002);
    end if;
    select b.* into v_breaker
    from ordinaut.breaker as b
    where b.name = p_name
    for no key update skip locked;
    exit when found;
  end loop;
  return v_breaker;
end
$fn$;

comment on function ordinaut._try_breaker(text, integer) is
  'Hold the row of a breaker until commit; null when somebody else does, 2 ms after 2 ms.';

create or replace function ordinaut._holds_probe(p_breaker ordinaut.breaker)
returns boolean
language sql
stable
as $fn$
  select case p_breaker.state
    when 'open' then exists (
      select from ordinaut.due_work as w where w.work_id = p_breaker.probe_id
    )
    else exists (
      select
      from ordinaut.lease as l
      cross join unnest(l.work) as u
      where u.work_id = p_breaker.probe_id and u.work_id <> all (l.settled)
    )
  end;
$fn$;

comment on function ordinaut._holds_probe(ordinaut.breaker) is
  'Whether the probe of a breaker is where it should be: due while open, leased while half_open.';

/* Units about to be leased whose tool's breaker is not closed: one may be the probe, the others
   are put aside.  p_beside: what this lease holds already; its row is not there yet. */
create or replace function ordinaut._pass_breakers(
  p_work   ordinaut.work_item[],
  p_beside ordinaut.work_item[],
  p_now    timestamptz
)
returns ordinaut.work_item[]
language plpgsql
volatile
as $fn$
declare
  v_met record;
  v_item ordinaut.work_item;
  v_name text;
  v_breaker ordinaut.breaker;
  v_back uuid[] := array[]::uuid[];
begin
  for v_met in
    select i as item, t.name
    from unnest(p_work) as i
    join ordinaut.breaker_tool as t on t.tool = i.tool
    join ordinaut.breaker as b on b.name = t.name and b.state <> 'closed'
    order by t.name, i.priority, i.run_at, i.work_id
  loop
    v_item := v_met.item;
    if v_met.name is distinct from v_name then
      v_name := v_met.name;
      v_breaker := ordinaut._try_breaker(v_name, 1);
      if v_breaker.state = 'half_open'
        and not exists (
          select from unnest(p_work || p_beside) as i where i.work_id = v_breaker.probe_id)
        and not ordinaut._holds_probe(v_breaker)
      then
        v_breaker.state := 'open';
        v_breaker.probe_at := p_now;
      end if;
    end if;
    continue when v_breaker.state = 'closed'
      or (v_breaker.state = 'half_open' and v_breaker.probe_id = v_item.work_id);
    if v_breaker.state = 'open' and v_breaker.probe_at <= p_now then
      v_breaker.state := 'half_open';
      v_breaker.probe_id := v_item.work_id;
      update ordinaut.breaker as b
      set state = 'half_open', probe_id = v_item.work_id, changed_at = p_now
      where b.name = v_name;
      continue;
    end if;

    v_back := v_back || v_item.work_id;
    v_item.attempt := v_item.attempt - 1;
    -- A step that its run's start, or the step before it, has just begun.
    update ordinaut.step as s
    set state = 'ready', attempt = v_item.attempt, started_at = null
    where
      v_item.step is not null and s.step_id = v_item.work_id
      and s.state = 'in_progress' and s.wait is null;
    if v_breaker.name is null then
      v_item.run_at := p_now + interval '20 ms';
      perform ordinaut._put_due(array[v_item]);
    elsif v_breaker.state = 'open' and v_breaker.probe_at is not null
      and not ordinaut._holds_probe(v_breaker)
    then
      v_breaker.probe_id := v_item.work_id;
      update ordinaut.breaker as b set probe_id = v_item.work_id where b.name = v_name;
      v_item.run_at := v_breaker.probe_at;
      perform ordinaut._put_due(array[v_item]);
    else
      perform ordinaut._park(v_item, 'breaker');
    end if;
  end loop;

  return coalesce((
    select array_agg(i order by i.priority, i.run_at, i.work_id)
    from unnest(p_work) as i
    where i.work_id <> all (v_back)
  ), '{}');
end
$fn$;

comment on function ordinaut._pass_breakers(
  ordinaut.work_item[], ordinaut.work_item[], timestamptz
) is
  'Of units about to be leased, those that their breakers let through; the others are parked, or '
  'due when one of them may try.';

-- The breaker's row is held.  What comes back keeps its place in line, below the floors.
create or replace function ordinaut._unpark_breaker(p_tools text[], p_probe_id uuid)
returns void
language plpgsql
volatile
as $fn$
declare
  v_item ordinaut.work_item;
  v_items ordinaut.work_item[];
  v_queue text;
begin
  -- The unit that was to try waits no longer, either.
  delete from ordinaut.due_work as w
  where w.work_id = p_probe_id and w.tool = any (p_tools) and w.run_at > ordinaut.now()
  returning w.* into v_item;
  if found then
    v_item.run_at := ordinaut.now();
    perform ordinaut._put_back(v_item, v_item.run_at);
  end if;
  with gone as (
    delete from ordinaut.parked as p
    where p.ctid = any (array(
      select q.ctid
      from ordinaut.parked as q
      where q.reason = 'breaker' and q.tool = any (p_tools)
      for update skip locked
    ))
    returning p as parked
  )
  select array_agg(ordinaut._item(g.parked)) into v_items from gone as g;
  if v_items is not null then
    perform ordinaut._put_due(v_items);
    for v_queue in select distinct i.queue from unnest(v_items) as i loop
      perform ordinaut._ask_sweep(v_queue);
      perform ordinaut._notify_idle(v_queue);
    end loop;
  end if;
end
$fn$;

comment on function ordinaut._unpark_breaker(text[], uuid) is
  'Make due what a breaker holds back of these tools, its probe included.';

create or replace function ordinaut._breaker_tools(p_name text)
returns text[]
language sql
stable
as $fn$
  select coalesce(array_agg(t.tool order by t.tool), '{}')
  from ordinaut.breaker_tool as t
  where t.name = p_name;
$fn$;

comment on function ordinaut._breaker_tools(text) is 'The tools that a breaker guards.';

/* The breaker's row is held.  p_probe_at: when the next unit tries; null: none will, somebody
   keeps it open. */
create or replace function ordinaut._open_breaker(
  p_breaker  ordinaut.breaker,
  p_probe_at timestamptz,
  p_now      timestamptz
)
returns void
language plpgsql
volatile
as $fn$
declare
  v_parked ordinaut.parked;
  v_item ordinaut.work_item;
begin
  if p_probe_at is not null then
    -- The first in line waits in due_work for its turn to try.
    delete from ordinaut.parked as p
    where p.work_id = (
      select q.work_id
      from ordinaut.parked as q
      where q.reason = 'breaker' and q.tool = any (ordinaut._breaker_tools(p_breaker.name))
      order by q.priority, q.run_at, q.work_id
      limit 1
      for update skip locked
    )
    returning p.* into v_parked;
    if found then
      v_item := ordinaut._item(v_parked);
      v_item.run_at := greatest(p_probe_at, p_now);
      perform ordinaut._put_back(v_item, p_now);
    end if;
  end if;
  update ordinaut.breaker as b
  set
    state = 'open',
    failures = p_breaker.failures,
    counted_from = p_breaker.counted_from,
    note = p_breaker.note,
    changed_by = p_breaker.changed_by,
    changed_at = case when b.state = 'open' then b.changed_at else p_now end,
    probe_at = p_probe_at,
    probe_id = v_item.work_id
  where b.name = p_breaker.name;
end
$fn$;

comment on function ordinaut._open_breaker(ordinaut.breaker, timestamptz, timestamptz) is
  'Open a breaker, or keep it open, until a unit tries at p_probe_at.';

create or replace function ordinaut._close_breaker(
  p_breaker ordinaut.breaker,
  p_by      text,
  p_note    text,
  p_now     timestamptz
)
returns void
language plpgsql
volatile
as $fn$
begin
  update ordinaut.breaker as b
  set
    state = 'closed', failures = 0, counted_from = null, changed_at = p_now, changed_by = p_by,
    note = p_note, probe_at = null, probe_id = null
  where b.name = p_breaker.name;
  perform ordinaut._unpark_breaker(
    ordinaut._breaker_tools(p_breaker.name), p_breaker.probe_id);
end
$fn$;

comment on function ordinaut._close_breaker(ordinaut.breaker, text, text, timestamptz) is
  'Close a breaker; what it held back becomes due. p_by: somebody keeps it closed; null: nobody.';

-- Called for what did not simply succeed, where there is any breaker.
create or replace function ordinaut._breaker_heard(
  p_item    ordinaut.work_item,
  p_outcome text,
  p_error   jsonb,
  p_now     timestamptz
)
returns void
language plpgsql
volatile
as $fn$
declare
  v_breaker ordinaut.breaker;
  v_counts boolean := false;
begin
  select b.* into v_breaker
  from ordinaut.breaker_tool as t
  join ordinaut.breaker as b on b.name = t.name
  where t.tool = p_item.tool;
  if not found or v_breaker.changed_by is not null then
    return;
  end if;
  if p_outcome in ('failed', 'timed_out') then
    v_counts := 'timeout' = any (v_breaker.categories) and p_outcome = 'timed_out' or exists (
      select from ordinaut._class_of(p_error) as c where c.category = any (v_breaker.categories));
  end if;
  if v_breaker.state = 'half_open' and v_breaker.probe_id = p_item.work_id
    or v_breaker.state = 'closed' and v_counts
  then
    v_breaker := ordinaut._try_breaker(v_breaker.name, 20);
  else
    return;
  end if;

  if v_breaker.state = 'half_open' and v_breaker.probe_id = p_item.work_id then
    if v_counts then
      v_breaker.note := left(p_error ->> 'message', 1000);
    end if;
    perform ordinaut._open_breaker(
      v_breaker, p_now + case when v_counts then v_breaker.recovery else '0 s' end, p_now);
  elsif v_breaker.state = 'closed' and v_counts then
    if v_breaker.failures = 0 or v_breaker.counted_from < p_now - v_breaker.time_window then
      v_breaker.failures := 0;
      v_breaker.counted_from := p_now;
    end if;
    v_breaker.failures := v_breaker.failures + 1;
    v_breaker.note := left(p_error ->> 'message', 1000);
    if v_breaker.failures < v_breaker.threshold then
      update ordinaut.breaker as b
      set failures = v_breaker.failures, counted_from = v_breaker.counted_from,
        note = v_breaker.note
      where b.name = v_breaker.name;
    else
      perform ordinaut._open_breaker(v_breaker, p_now + v_breaker.recovery, p_now);
      perform ordinaut._journal('breaker_opened', p_queue => p_item.queue,
        p_detail => jsonb_build_object('breaker', v_breaker.name, 'failures', v_breaker.failures,
          'message', v_breaker.note, 'last', p_item.run_id));
    end if;
  end if;
end
$fn$;

comment on function ordinaut._breaker_heard(ordinaut.work_item, text, jsonb, timestamptz) is
  'Count a failure for the breaker of its tool, if it counts; or end the probe that it was.';

-- Called for successes while any breaker counts or is half open.
create or replace function ordinaut._breakers_recover(
  p_work     ordinaut.work_item[],
  p_work_ids uuid[],
  p_outcomes text[],
  p_now      timestamptz
)
returns void
language plpgsql
volatile
as $fn$
declare
  v_name text;
  v_breaker ordinaut.breaker;
  v_ids uuid[];
begin
  for v_name, v_ids in
    select b.name, array_agg(w.work_id)
    from unnest(p_work_ids, p_outcomes) as u (id, outcome)
    join unnest(p_work) as w on w.work_id = u.id
    join ordinaut.breaker_tool as t on t.tool = w.tool
    join ordinaut.breaker as b on b.name = t.name
    where
      u.outcome = 'success'
      and (
        b.state = 'closed' and b.failures > 0 or b.state = 'half_open' and b.probe_id = w.work_id
      )
    group by b.name
    order by b.name
  loop
    v_breaker := ordinaut._try_breaker(v_name, 20);
    if v_breaker.state = 'half_open' and v_breaker.probe_id = any (v_ids) then
      perform ordinaut._close_breaker(v_breaker, null, null, p_now);
      perform ordinaut._journal('breaker_closed',
        p_detail => jsonb_build_object('breaker', v_name, 'probe', v_breaker.probe_id));
    elsif v_breaker.state = 'closed' then
      update ordinaut.breaker as b
      set failures = 0, counted_from = null, note = null
      where b.name = v_name and b.failures > 0;
    end if;
  end loop;
end
$fn$;

comment on function ordinaut._breakers_recover(ordinaut.work_item[], uuid[], text[], timestamptz) is
  'After successes: the breakers of their tools count from zero again, or close if one was a '
  'probe.';

create or replace function ordinaut._sweep_breakers(p_now timestamptz)
returns void
language plpgsql
volatile
as $fn$
declare
  v_breaker ordinaut.breaker;
  v_queue text;
begin
  for v_breaker in
    select b.*
    from ordinaut.breaker as b
    where case b.state
      when 'closed' then exists (
        select
        from ordinaut.parked as p
        join ordinaut.breaker_tool as t on t.tool = p.tool
        where p.reason = 'breaker' and t.name = b.name
      )
      when 'open' then b.probe_at < p_now - interval '1 s'
      else not ordinaut._holds_probe(b)
    end
    order by b.name
    for no key update skip locked
  loop
    if v_breaker.state = 'closed' then
      perform ordinaut._unpark_breaker(ordinaut._breaker_tools(v_breaker.name), null);
    -- Asked again, with the row held: by now another may try.
    elsif not ordinaut._holds_probe(v_breaker) then
      perform ordinaut._open_breaker(v_breaker, p_now, p_now);
    elsif v_breaker.state = 'open' then
      -- It is due and nobody leases it: its queue may be paused, and another's not.
      for v_queue in
        select distinct p.queue
        from ordinaut.parked as p
        where p.reason = 'breaker' and p.tool = any (ordinaut._breaker_tools(v_breaker.name))
      loop
        perform ordinaut._unpark(array(
          select p.work_id
          from ordinaut.parked as p
          where
            p.reason = 'breaker' and p.queue = v_queue
            and p.tool = any (ordinaut._breaker_tools(v_breaker.name))
          order by p.priority, p.run_at, p.work_id
          limit 1
          for update skip locked
        ));
      end loop;
    end if;
  end loop;
end
$fn$;

comment on function ordinaut._sweep_breakers(timestamptz) is
  'Repair breakers whose probe was lost on its way, and work that stayed behind a closed one.';
