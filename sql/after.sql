/*
 * After the end: an interval that is counted from the end of its last run.
 *
 *   tick fires it: next_run null  -->  _follow_ended(): has the run ended?
 *     yes: next_run = its end + duration        no: look again when that could be due
 *
 * Nothing tells a schedule that a run has ended: settling is the hot path, and it would have to
 * know.  A look is exact all the same: a run that has not ended now makes nothing due before now +
 * duration, so that is soon enough to look again.  A task costs a look per duration, however many
 * ticks there are.
 *
 * A run has ended when it is in no place of live work: in whatever way, and also when its history
 * was dropped.  So no task waits forever.  An occurrence without a run ended when it was decided.
 */

create or replace function ordinaut._last_ends(p_task_ids uuid[], p_now timestamptz)
returns table (task_id uuid, run_id uuid, ended_at timestamptz)
language sql
stable
as $fn$
  with last as materialized (
    select
      s.task_id, o.decided_at,
      -- The row of an occurrence may be dropped while its run goes on.
      case when o.task_id is null then s.awaits_run else o.run_id end as run_id
    from ordinaut.task_schedule as s
    left join ordinaut.occurrence as o
      on o.task_id = s.task_id and o.scheduled_for = s.fired_until
    where s.task_id = any (p_task_ids) and s.fired_until is not null
  ),
  live as materialized (
    select w.run_id from ordinaut.due_work as w where w.task_id = any (p_task_ids)
    union
    select p.run_id from ordinaut.parked as p where p.task_id = any (p_task_ids)
    union
    select u.run_id
    from ordinaut.lease as l
    cross join unnest(l.work) as u
    where u.task_id = any (p_task_ids) and u.work_id <> all (l.settled)
  ),
  ended as materialized (
    select
      l.*,
      -- A subquery: a join might read all of history for a thousand runs.
      (select r.finished_at from ordinaut.task_run as r where r.run_id = l.run_id) as finished_at
    from last as l
  )
  select
    e.task_id, e.run_id,
    case
      when e.run_id is null then coalesce(e.decided_at, p_now)
      when e.run_id not in (select v.run_id from live as v) then coalesce(e.finished_at, p_now)
    end
  from ended as e;
$fn$;

comment on function ordinaut._last_ends(uuid[], timestamptz) is
  'Of each task that ever was due: the run of its last occurrence, and when that ended; null: it '
  'is live. An occurrence without a run ended when it was decided, a run that is forgotten now.';

create or replace function ordinaut._plan_after_end(p_task ordinaut.task, p_after timestamptz)
returns table (next_run timestamptz, look_at timestamptz, awaits_run uuid)
language sql
stable
as $fn$
  with last as (
    select l.run_id, l.ended_at + ordinaut._every(p_task.schedule_expr) as next_run
    from ordinaut._last_ends(array[p_task.task_id], ordinaut.now()) as l
  ),
  next as (
    select case
      when exists (select from last as l where l.next_run is null) then null
      else greatest(
        p_task.start_at,
        coalesce(
          (select l.next_run from last as l where l.next_run > p_after),
          case
            when p_task.start_at > p_after then p_task.start_at
            else p_after + ordinaut._every(p_task.schedule_expr)
          end
        )
      )
    end as at
  )
  select
    case when n.at <= coalesce(p_task.end_at, 'infinity') then n.at end,
    case
      when n.at is null then ordinaut.now()
      when n.at <= coalesce(p_task.end_at, 'infinity') then n.at
    end,
    (select l.run_id from last as l)
  from next as n;
$fn$;

comment on function ordinaut._plan_after_end(ordinaut.task, timestamptz) is
  'The next run of a task that waits for the end of its last one: after that end; from start_at, '
  'or one duration after an instant, if there was none, or what it made due has passed; null, '
  'and a look at once, while the run is live.';

create or replace function ordinaut._follow_ended(p_now timestamptz, p_floor timestamptz)
returns void
language plpgsql
volatile
as $fn$
declare
  v_ids uuid[];
  v_over uuid;
begin
  -- Locked in one statement, read in the next, as tick does.
  with waiting as (
    select s.task_id
    from ordinaut.task_schedule as s
    join ordinaut.task as t on t.task_id = s.task_id
    where
      s.look_at <= p_now and s.look_at >= p_floor and s.next_run is null
      and t.schedule_kind = 'interval'
    order by s.look_at, s.task_id
    limit 1000
    for update of s skip locked
  )
  select array_agg(w.task_id) into v_ids from waiting as w;
  if v_ids is null then
    return;
  end if;

  for v_over in
    with looked as (
      select
        t.task_id, t.end_at, l.run_id, t.status = 'active' and ordinaut._is_told(t) as is_waiting,
        e.every,
        -- greatest() passes nulls over: a run that is live must leave it null.
        case when l.ended_at is not null then greatest(
          l.ended_at + e.every, t.start_at, s.plan_after, s.fired_until + interval '1 us'
        ) end as next_run
      -- Not `task_id = any (v_ids)` here: guessed at one row, it made a thousand looks a million.
      from ordinaut._last_ends(v_ids, p_now) as l
      join ordinaut.task_schedule as s on s.task_id = l.task_id
      join ordinaut.task as t on t.task_id = l.task_id
      cross join lateral (select ordinaut._every(t.schedule_expr) as every) as e
      where s.next_run is null and s.look_at <= p_now
    ),
    followed as (
      update ordinaut.task_schedule as s
      set
        next_run = case
          when k.is_waiting and k.next_run <= coalesce(k.end_at, 'infinity') then k.next_run
        end,
        look_at = case
          when not k.is_waiting then null
          -- A little earlier than it could be due: ticks come up to half a second apart.
          when k.next_run is null
            then p_now + greatest(k.every / 2, k.every - interval '1 s')
          when k.next_run <= coalesce(k.end_at, 'infinity') then k.next_run
        end,
        awaits_run = k.run_id
      from looked as k
      where s.task_id = k.task_id
      returning s.task_id, k.is_waiting and s.look_at is null as is_over
    )
    select f.task_id from followed as f where f.is_over
  loop
    perform ordinaut._stop_task(
      v_over, 'completed', 'its schedule has no occurrence left', 'tick');
  end loop;
end
$fn$;

comment on function ordinaut._follow_ended(timestamptz, timestamptz) is
  'Plan the tasks that waited for the end of a run that has ended; at most 1000 looks. p_floor: '
  'as of tick().';
