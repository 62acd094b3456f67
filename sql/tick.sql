/*
 * Tick: what is due fires.  Set-based, in chunks; any number of schedulers call it at once, and
 * so may workers, pg_cron, or \watch.
 *
 * Each due task's schedule row is locked (skip locked), its occurrences up to now are decided,
 * and decision, run and advance commit together.  The primary key of `occurrence` makes a second
 * firing impossible; no leader is needed.  A row whose plan is of an older revision than its task
 * is not fired: the edit that raised the revision plans anew.  A calendar that a planner expands
 * has no next run while its plan is too short to decide.
 *
 * One task that cannot fire ends as invalid, with the reason, and delays no other: a chunk that
 * fails is halved.  Tick waits for nobody: a task whose overlap asks for a cancel that somebody's
 * open transaction holds up is left for the next tick.
 */

/* Halved until the one that cannot fire is alone: about as much as firing them all twice, where one
   by one would be a statement each. */
create or replace function ordinaut._fire_carefully(p_task_ids uuid[], p_now timestamptz)
returns table (fired integer, missed integer)
language plpgsql
volatile
as $fn$
declare
  v_half constant integer := cardinality(p_task_ids) / 2;
begin
  return query select f.fired, f.missed from ordinaut._fire(p_task_ids, p_now) as f;
exception
  -- Not for a database that is closing down, or a deadlock: those end the call.
  when data_exception or integrity_constraint_violation or program_limit_exceeded
    or invalid_parameter_value or lock_not_available or sqlstate 'OR010' then
    if v_half > 0 then
      return query
      select sum(f.fired)::integer, sum(f.missed)::integer
      from (values (p_task_ids[:v_half]), (p_task_ids[v_half + 1:])) as h (ids)
      cross join lateral ordinaut._fire_carefully(h.ids, p_now) as f;
      return;
    elsif sqlstate <> '55P03' then
      perform ordinaut._stop_task(p_task_ids[1], 'invalid', sqlerrm, 'tick');
    end if;
    return query select 0, 0;
end
$fn$;

comment on function ordinaut._fire_carefully(uuid[], timestamptz) is
  'Fire these tasks; one that cannot be fired becomes invalid, with the reason, one that '
  'somebody holds up (lock_timeout) is left as it is, and the others fire.';

create or replace function ordinaut.tick(
  p_limit integer     default 1000,
  p_floor timestamptz default null
)
returns table (fired integer, missed integer, next_run timestamptz, floor timestamptz)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set jit = off
set lock_timeout = '100ms'
set plan_cache_mode = force_generic_plan
-- Plans outlive the few tasks that they were made for: of a thousand that are due at once each
-- would be compared with each.
set enable_seqscan = off
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_floor timestamptz := coalesce(p_floor, '-infinity');
  v_next timestamptz;
  v_ids uuid[];
  v_fired integer;
  v_missed integer;
begin
  perform ordinaut._check_count('limit', p_limit, 1, 100000);
  perform ordinaut._follow_ended(v_now, v_floor);

  -- Locked in one statement, read in the next: an edit that we waited out is seen there.
  with due as (
    select s.task_id
    from ordinaut.task_schedule as s
    where s.next_run <= v_now and s.next_run >= v_floor
    order by s.next_run
    limit p_limit
    for update skip locked
  )
  select array_agg(d.task_id) into v_ids from due as d;

  if v_ids is not null then
    select array_agg(s.task_id) into v_ids
    from ordinaut.task_schedule as s
    join ordinaut.task as t on t.task_id = s.task_id
    where
      s.task_id = any (v_ids)
      and s.revision = t.revision
      and t.status = 'active';
  end if;

  if v_ids is not null then
    select f.fired, f.missed into v_fired, v_missed
    from ordinaut._fire_carefully(v_ids, v_now) as f;
  end if;

  perform ordinaut._sweep_waits(least(p_limit, 1000));

  select min(s.next_run) into v_next
  from ordinaut.task_schedule as s
  where s.next_run >= v_floor;
  return query
  select coalesce(v_fired, 0), coalesce(v_missed, 0), v_next,
    case when v_next > v_now or v_next is null then v_now - interval '10 s' else p_floor end;
end
$fn$;

comment on function ordinaut.tick(integer, timestamptz) is
  'Fire what is due: at most p_limit tasks, each with its occurrences up to now, by its catchup '
  'policy. Returns how many occurrences fired, how many were recorded as missed, and when the '
  'next is due (past: call again). Any number may call it at once; nothing fires twice. p_floor: '
  'a hint, the floor that the last call returned, below which next_run need not be looked at '
  '(under a held snapshot every firing leaves a dead index entry there); leave it out now and '
  'then, a task may be planned in the past. Errors: invalid_parameter_value.';
