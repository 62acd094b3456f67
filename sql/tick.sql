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
 * fails is repeated one by one.
 */

-- Only of a plan that is continued: with catchup latest, whether its last occurrence is the latest
-- that is due shows when the planner went on.
create or replace function ordinaut._held_back(
  p_task ordinaut.task,
  p_plan ordinaut.task_schedule,
  p_now  timestamptz
)
returns timestamptz
language sql
stable
as $fn$
  select case
    when p_task.catchup = 'latest' and not p_plan.is_exhausted and p_plan.planned_until <= p_now
      then p_plan.upcoming[cardinality(p_plan.upcoming)]
  end;
$fn$;

comment on function ordinaut._held_back(ordinaut.task, ordinaut.task_schedule, timestamptz) is
  'The planned occurrence that cannot be decided before the planner goes on; null: none.';

create or replace function ordinaut._due_occurrences(
  p_task  ordinaut.task,
  p_plan  ordinaut.task_schedule,
  p_until timestamptz,
  p_held  timestamptz
)
returns setof timestamptz
language plpgsql
stable
as $fn$
declare
  v_from timestamptz := p_plan.next_run;
  v_every interval;
begin
  if p_task.schedule_kind in ('cron', 'rrule') then
    return query
    select u.at
    from unnest(p_plan.upcoming) as u (at)
    where u.at >= v_from and u.at <= p_until and u.at is distinct from p_held
    order by u.at
    limit 1000;
    return;
  elsif p_task.schedule_kind = 'interval' then
    v_every := ordinaut._every(p_task.schedule_expr);
    return query
    select v_from + n.n * v_every
    from generate_series(0, least(999,
      floor(extract(epoch from p_until - v_from) / extract(epoch from v_every)))::integer) as n (n)
    where p_task.end_at is null or v_from + n.n * v_every <= p_task.end_at;
    return;
  end if;
  return next v_from;
end
$fn$;

comment on function ordinaut._due_occurrences(
  ordinaut.task, ordinaut.task_schedule, timestamptz, timestamptz
) is
  'The occurrences of a task from its planned next run up to an instant, at most 1000, without '
  'the one that is held back.';

-- Paused here and not by the settle that failed: that holds a lease, and a task comes before it.
create or replace function ordinaut._pause_failing(p_task_ids uuid[], p_now timestamptz)
returns uuid[]
language plpgsql
volatile
as $fn$
declare
  v_task ordinaut.task;
  v_ids uuid[] := array[]::uuid[];
begin
  for v_task in
    select t.*
    from ordinaut.task as t
    where
      t.task_id = any (p_task_ids)
      and t.pause_on_failure is not null
      and t.pause_on_failure = (
        select count(*)
        from (
          select r.state
          from ordinaut.task_run as r
          where r.task_id = t.task_id and r.finished_at > t.status_at
          order by r.run_id desc
          limit t.pause_on_failure
        ) as l
        where l.state in ('failed', 'timed_out', 'abandoned')
      )
    order by t.task_id
  loop
    update ordinaut.task as t
    set
      status = 'paused',
      status_note = format('its last %s runs failed', v_task.pause_on_failure),
      status_by = 'tick',
      status_at = p_now
    where t.task_id = v_task.task_id;
    update ordinaut.task_schedule as s
    set
      next_run = null,
      replan_at = null
    where s.task_id = v_task.task_id;
    perform ordinaut._journal('task_paused', p_task_id => v_task.task_id,
      p_detail => jsonb_build_object('failures', v_task.pause_on_failure));
    v_ids := v_ids || v_task.task_id;
  end loop;
  return v_ids;
end
$fn$;

comment on function ordinaut._pause_failing(uuid[], timestamptz) is
  'Pause those of these tasks whose last runs, since they were made active, all failed, as many '
  'as pause_on_failure says. Returns their ids.';

-- Between 0 and 1, always the same for a task.
create or replace function ordinaut._share(p_task_id uuid)
returns float8
language sql
immutable
as $fn$
  select abs(hashtextextended(p_task_id::text, 7146) % 1000000) / 1e6::float8;
$fn$;

comment on function ordinaut._share(uuid) is 'Where in its jitter a task starts: 0 to 1.';

create or replace function ordinaut._fire(p_task_ids uuid[], p_now timestamptz)
returns table (fired integer, missed integer)
language plpgsql
volatile
as $fn$
declare
  v_ids uuid[];
  v_guarded uuid[];  -- those whose runs must not overlap
  v_fresh uuid[];
  v_renewed uuid[];
  v_fired integer;
  v_missed integer;
  v_prefix bytea := ordinaut._v7_prefix(p_now);
  v_queue text;
  v_run record;
begin
  v_ids := ordinaut._pause_failing(p_task_ids, p_now);
  v_ids := array(select i.id from unnest(p_task_ids) as i (id) where i.id <> all (v_ids));
  select array_agg(t.task_id) into v_guarded
  from ordinaut.task as t
  where t.task_id = any (v_ids) and t.overlap <> 'allow';

  with due as materialized (
    select
      t.task_id, t as task, s as plan, ordinaut._held_back(t, s, p_now) as held,
      t.schedule_kind in ('cron', 'rrule') as is_planned, t.max_runs,
      s.fired_count + s.buffered_count as ran
    from ordinaut.task_schedule as s
    join ordinaut.task as t on t.task_id = s.task_id
    where s.task_id = any (v_ids)
  ),
  spread as materialized (
    select
      d.task_id, d.task, d.plan, o.at,
      row_number() over (partition by d.task_id order by o.at desc) as back,
      case
        when d.is_planned
          then ordinaut._next_planned(d.plan, max(o.at) over (partition by d.task_id))
        else ordinaut._next_occurrence(d.task, max(o.at) over (partition by d.task_id))
      end as then_at
    from due as d
    cross join lateral ordinaut._due_occurrences(d.task, d.plan, p_now, d.held) as o (at)
  ),
  -- One snapshot for all places: a run that moves between them is counted once.
  live as materialized (
    select u.task_id, count(*) as n
    from (
      select w.task_id from ordinaut.due_work as w where w.task_id = any (v_guarded)
      union all
      select p.task_id from ordinaut.parked as p where p.task_id = any (v_guarded)
      union all
      select i.task_id
      from ordinaut.lease as l
      cross join unnest(l.work) as i
      where
        v_guarded is not null and i.task_id = any (v_guarded) and i.work_id <> all (l.settled)
    ) as u
    group by u.task_id
  ),
  judged as (
    select
      s.*,
      coalesce(l.n, 0) as live,
      s.at < p_now - (s.task).grace as is_late,
      case
        when (s.task).catchup = 'none' and s.at < p_now - (s.task).grace
          then format('catchup none: later than its grace of %s', (s.task).grace)
        when s.at < p_now - (s.task).catchup_window
          then format('older than its catchup window of %s', (s.task).catchup_window)
        -- The latest of all that are due: not if the next chunk holds later ones.
        when (s.task).catchup = 'latest' and (s.back > 1 or s.then_at <= p_now)
          then 'catchup latest: a later occurrence was due too'
      end as missed_for
    from spread as s
    left join live as l on l.task_id = s.task_id
  ),
  ranked as (
    select
      j.*,
      row_number() over (partition by j.task_id order by j.missed_for is not null, j.at) as nth,
      count(*) filter (where j.missed_for is null) over (partition by j.task_id) as passing,
      lead(j.at, 1, j.then_at) over (partition by j.task_id order by j.at) as following
    from judged as j
  ),
  overlapped as (
    select
      r.*,
      case
        when r.missed_for is not null then 'missed'
        when (r.task).overlap = 'allow' or r.live + r.nth = 1 then 'fired'
        when (r.task).overlap = 'skip' then 'skipped'
        when (r.task).overlap = 'buffer_one' and r.live + r.nth > 2 then 'dropped'
        when (r.task).overlap <> 'cancel_other' then 'buffered'
        when r.nth < r.passing then 'skipped'
        else 'fired'
      end as verdict
    from ranked as r
  ),
  numbered as (
    select
      o.*,
      (o.plan).fired_count + (o.plan).buffered_count + row_number() over (
        partition by o.task_id order by o.verdict not in ('fired', 'buffered'), o.at
      ) as run_number,
      row_number() over (
        partition by o.task_id order by o.verdict not in ('fired', 'buffered'), o.at
      ) as made_up
    from overlapped as o
  ),
  decided as (
    select
      n.task_id, n.task, n.at,
      (n.plan).dst ->> to_char(n.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as dst,
      greatest(
        -- Microseconds apart, so that what is made up for runs oldest first.
        p_now - (n.back - 1) * interval '1 us',
        case when (n.task).jitter is not null then
          n.at + ordinaut._share(n.task_id)
            * least((n.task).jitter, n.following - n.at - interval '1 us')
        end,
        case when n.is_late and (n.task).catchup_rate is not null then
          greatest((n.plan).catchup_at, p_now)
            + (n.made_up - 1) * interval '1 min' / (n.task).catchup_rate
        end
      ) as run_at,
      n.is_late,
      case
        when n.verdict in ('fired', 'buffered') and n.run_number > (n.task).max_runs then 'dropped'
        else n.verdict
      end as decision,
      case
        when n.missed_for is not null then n.missed_for
        when n.verdict = 'skipped' and (n.task).overlap = 'skip'
          then 'overlap skip: an earlier run is live'
        when n.verdict = 'skipped' then 'overlap cancel_other: a later occurrence was due too'
        when n.verdict = 'dropped' then 'overlap buffer_one: one run waits already'
        when n.run_number > (n.task).max_runs
          then format('max_runs: it ran %s times', (n.task).max_runs)
        when n.verdict = 'buffered'
          then format('overlap %s: it waits for an earlier run', (n.task).overlap)
      end as reason,
      ordinaut._v7(v_prefix) as run_id
    from numbered as n
  ),
  noted as (
    insert into ordinaut.occurrence (task_id, scheduled_for, decision, reason, dst, run_id,
      decided_at)
    select
      d.task_id, d.at, d.decision, d.reason, d.dst,
      case when d.decision in ('fired', 'buffered') then d.run_id end, p_now
    from decided as d
    on conflict on constraint occurrence_pk do nothing
    returning task_id, scheduled_for, decision, run_id
  ),
  body as (
    insert into ordinaut.payload (run_id, body)
    select n.run_id, (d.task).payload
    from noted as n
    join decided as d on d.run_id = n.run_id
    where pg_column_size((d.task).payload) > 2000
  ),
  placed as (
    insert into ordinaut.due_work (work_id, run_id, task_id, queue, priority, run_at, scheduled_for,
      enqueued_at, attempt, failures, crashes, max_attempts, timeout, tool, key, key_limit, retry,
      payload)
    select n.run_id, n.run_id, d.task_id, (d.task).queue, (d.task).priority, d.run_at, d.at, p_now,
      0, 0, 0, (d.task).max_attempts, (d.task).timeout, (d.task).tool, ordinaut._key_of(d.task),
      ordinaut._key_limit_of(d.task), (d.task).retry,
      case when pg_column_size((d.task).payload) <= 2000 then (d.task).payload end
    from noted as n
    join decided as d on d.run_id = n.run_id
  ),
  counted as (
    select
      d.task_id,
      d.is_planned,
      max(s.at) as last_at,
      -- Nothing was decided, or only what is held back remains: the planner's turn.
      nullif((array_agg(s.then_at))[1], d.held) as then_at,
      coalesce(max(n.fired), 0) as fired,
      coalesce(max(n.missed), 0) as missed,
      coalesce(max(n.skipped), 0) as skipped,
      coalesce(max(n.buffered), 0) as buffered,
      coalesce(max(n.dropped), 0) as dropped,
      max(n.catchup_at) as catchup_at,
      coalesce(d.max_runs <= d.ran + coalesce(max(n.fired + n.buffered), 0), false) as is_over
    from due as d
    left join spread as s on s.task_id = d.task_id
    left join (
      select
        o.task_id,
        count(*) filter (where o.decision = 'fired') as fired,
        count(*) filter (where o.decision = 'missed') as missed,
        count(*) filter (where o.decision = 'skipped') as skipped,
        count(*) filter (where o.decision = 'buffered') as buffered,
        count(*) filter (where o.decision = 'dropped') as dropped,
        max(e.run_at + interval '1 min' / (e.task).catchup_rate) filter (where e.is_late)
          as catchup_at
      from noted as o
      left join decided as e on e.run_id = o.run_id
      group by o.task_id
    ) as n on n.task_id = d.task_id
    group by d.task_id, d.is_planned, d.held, d.max_runs, d.ran
  ),
  advanced as (
    update ordinaut.task_schedule as t
    set
      next_run = case when not c.is_over then c.then_at end,
      fired_until = greatest(t.fired_until, c.last_at),
      replan_at = case
        when c.is_over then null
        when c.is_planned and not t.is_exhausted and c.then_at is null then p_now
        else t.replan_at
      end,
      catchup_at = greatest(t.catchup_at, c.catchup_at),
      last_run = case when c.fired + c.buffered > 0 then p_now else t.last_run end,
      fired_count = t.fired_count + c.fired,
      missed_count = t.missed_count + c.missed,
      skipped_count = t.skipped_count + c.skipped,
      buffered_count = t.buffered_count + c.buffered,
      dropped_count = t.dropped_count + c.dropped
    from counted as c
    where t.task_id = c.task_id
    returning t.task_id, t.next_run, c.is_over, c.fired + c.buffered as fired, c.missed,
      c.is_over or not c.is_planned or t.is_exhausted as is_exhausted
  ),
  exhausted as (
    update ordinaut.task as t
    set
      status = 'completed',
      status_note = case
        when a.is_over then format('it ran %s times, its max_runs', t.max_runs)
        else 'its schedule has no occurrence left'
      end,
      status_by = 'tick',
      status_at = p_now
    from advanced as a
    where t.task_id = a.task_id and a.next_run is null and a.is_exhausted
  )
  select
    coalesce(sum(a.fired), 0), coalesce(sum(a.missed), 0),
    (
      select array_agg(n.run_id)
      from noted as n
      where n.task_id = any (v_guarded) and n.run_id is not null
    ),
    (
      select array_agg(n.task_id)
      from noted as n
      where n.task_id = any (v_guarded) and n.run_id is not null
    )
  into v_fired, v_missed, v_fresh, v_renewed
  from advanced as a;

  -- The new run waits for the key until these have ended.
  for v_run in
    select r.run_id
    from ordinaut.task as t
    cross join lateral ordinaut._live_runs(t.task_id) as r
    where
      t.task_id = any (v_renewed)
      and t.overlap = 'cancel_other'
      and r.run_id <> all (v_fresh)
    order by r.run_id
  loop
    begin
      perform ordinaut.cancel_run(v_run.run_id, 'overlap cancel_other: its task is due again');
    exception
      when sqlstate 'OR020' then null;  -- Gone meanwhile.
    end;
  end loop;

  if v_fired > 0 then
    for v_queue in
      select distinct t.queue from ordinaut.task as t where t.task_id = any (p_task_ids)
    loop
      perform ordinaut._notify_idle(v_queue);
    end loop;
  end if;
  return query select v_fired, v_missed;
end
$fn$;

comment on function ordinaut._fire(uuid[], timestamptz) is
  'Decide the due occurrences of these tasks, whose schedule rows the caller has locked, and '
  'advance them.';

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
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_floor timestamptz := coalesce(p_floor, '-infinity');
  v_next timestamptz;
  v_ids uuid[];
  v_id uuid;
  v_fired integer := 0;
  v_missed integer := 0;
  v_more record;
begin
  perform ordinaut._check_count('limit', p_limit, 1, 100000);

  -- Locked in one statement, read in the next: an edit that we waited out is seen there.
  with due as (
    select s.task_id
    from ordinaut.task_schedule as s
    where s.next_run <= v_now and s.next_run >= v_floor
    order by s.next_run, s.task_id
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
      and s.next_run <= v_now
      and s.revision = t.revision
      and t.status = 'active';
  end if;

  if v_ids is not null then
    begin
      select f.fired, f.missed into v_fired, v_missed from ordinaut._fire(v_ids, v_now) as f;
    exception
      -- Not for a database that is closing down, or a deadlock: those end the call.
      when data_exception or integrity_constraint_violation or program_limit_exceeded
        or invalid_parameter_value or sqlstate 'OR010' then
        foreach v_id in array v_ids loop
          begin
            select f.fired, f.missed into v_more from ordinaut._fire(array[v_id], v_now) as f;
            v_fired := v_fired + v_more.fired;
            v_missed := v_missed + v_more.missed;
          exception
            when data_exception or integrity_constraint_violation or program_limit_exceeded
              or invalid_parameter_value or sqlstate 'OR010' then
              update ordinaut.task as t
              set
                status = 'invalid',
                status_note = sqlerrm,
                status_by = 'tick',
                status_at = v_now
              where t.task_id = v_id;
              update ordinaut.task_schedule as s
              set
                next_run = null,
                replan_at = null
              where s.task_id = v_id;
              perform ordinaut._journal('task_invalid', p_task_id => v_id,
                p_detail => jsonb_build_object('message', sqlerrm));
          end;
        end loop;
    end;
  end if;

  select min(s.next_run) into v_next
  from ordinaut.task_schedule as s
  where s.next_run >= v_floor;
  return query
  select v_fired, v_missed, v_next,
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
