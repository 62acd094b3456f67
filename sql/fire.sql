/*
 * Fire: what becomes of the occurrences that are due: the decision, its row, the run, the advance.
 *
 *   due --> spread (their occurrences) --> judged (excluded? missed?) --> overlapped --> decided
 *       --> occurrence, due_work, task_schedule
 *
 * One statement for a thousand tasks, with narrow rows: 10 000 due at once cost what their rows
 * cost.  All windows run over one sort, by task and time.  What a task defines is joined only
 * where the run is made.
 */

-- Paused here and not by the settle that failed: that holds a lease, and a task comes before it.
create or replace function ordinaut._pause_failing(p_task_ids uuid[])
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
    perform ordinaut._stop_task(v_task.task_id, 'paused',
      format('its last %s runs failed', v_task.pause_on_failure), 'tick');
    v_ids := v_ids || v_task.task_id;
  end loop;
  return v_ids;
end
$fn$;

comment on function ordinaut._pause_failing(uuid[]) is
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
  v_most integer;  -- occurrences of one task
  v_queue text;
  v_run record;
begin
  v_ids := ordinaut._pause_failing(p_task_ids);
  v_ids := array(select i.id from unnest(p_task_ids) as i (id) where i.id <> all (v_ids));
  -- A thousand tasks of every minute, a day without a tick: a million occurrences are too long a
  -- call, which would be given up and begin anew for ever.
  v_most := greatest(10, least(1000, 50000 / greatest(cardinality(v_ids), 1)));
  select array_agg(t.task_id) into v_guarded
  from ordinaut.task as t
  where t.task_id = any (v_ids) and t.overlap <> 'allow';

  with due as materialized (
    select
      d.*,
      /* Whether the last one of a plan that goes on is the latest that is due shows when the
         planner went on.  (One that a calendar excludes never is: what is before it fires, and so
         may one of the plan's next piece.) */
      case
        when d.catchup = 'latest' and d.planned_until <= p_now and not d.is_exhausted
          and ordinaut._told(d.excluded, d.last_planned) is null
          then d.last_planned
      end as held,
      case
        when d.catchup = 'latest' and d.is_planned then (
          select max(u.at)
          from unnest(d.upcoming) as u (at)
          where u.at <= p_now and ordinaut._told(d.excluded, u.at) is null
        )
        when d.catchup = 'latest' then d.next_run + d.steps * d.every
      end as latest_at
    from (
      select
        t.task_id, t.catchup, t.catchup_window, t.catchup_rate, t.grace, t.overlap, t.jitter,
        t.max_runs, t.end_at, s.next_run, s.upcoming, s.dst, s.excluded, s.planned_until,
        s.is_exhausted, s.catchup_at, s.fired_count + s.buffered_count as ran,
        s.upcoming[cardinality(s.upcoming)] as last_planned, p.is_planned, p.is_told, e.every,
        floor(
          extract(epoch from least(p_now, t.end_at) - s.next_run) / extract(epoch from e.every)
        )::integer as steps
      from ordinaut.task_schedule as s
      join ordinaut.task as t on t.task_id = s.task_id
      cross join lateral (
        select ordinaut._is_planned(t) as is_planned, ordinaut._is_told(t) as is_told
      ) as p
      cross join lateral (
        select case
          when t.schedule_kind = 'interval' and not p.is_planned and not p.is_told
            then ordinaut._every(t.schedule_expr)
        end as every
      ) as e
      where s.task_id = any (v_ids)
    ) as d
  ),
  -- Of each task at most v_most, oldest first; the next tick goes on.
  spread as (
    select
      d.task_id, d.catchup, d.catchup_window, d.catchup_rate, d.catchup_at, d.grace, d.overlap,
      d.jitter, d.max_runs, d.ran, d.latest_at, o.at, o.following,
      o.at < p_now - d.grace as is_late,
      ordinaut._told(d.dst, o.at) as dst,
      ordinaut._told(d.excluded, o.at) as excluded_for
    from due as d
    cross join lateral (
      (
        select u.at, d.upcoming[u.n + 1] as following
        from unnest(d.upcoming) with ordinality as u (at, n)
        where u.at >= d.next_run and u.at <= p_now and u.at is distinct from d.held
        order by u.n
        limit v_most
      )
      union all
      select
        d.next_run + n.n * d.every,
        case
          when d.end_at is null or d.next_run + (n.n + 1) * d.every <= d.end_at
            then d.next_run + (n.n + 1) * d.every
        end
      from generate_series(0, least(d.steps, v_most - 1)) as n (n)
      where d.every is not null
      union all
      select d.next_run, null
      where not d.is_planned and d.every is null
    ) as o
  ),
  -- One snapshot for all places: a run that moves between them is counted once.
  live as materialized (
    select u.task_id, count(*) as n
    from (
      select w.task_id
      from ordinaut.due_work as w
      where w.task_id = any (v_guarded) and w.step is null
      union all
      select p.task_id
      from ordinaut.parked as p
      where p.task_id = any (v_guarded) and p.step is null
      union all
      -- Of steps, from their start.
      select r.task_id
      from ordinaut.task_run as r
      where r.task_id = any (v_guarded) and r.finished_at is null
      union all
      select i.task_id
      from ordinaut.lease as l
      cross join unnest(l.work) as i
      where
        v_guarded is not null and i.task_id = any (v_guarded) and i.step is null
        and i.work_id <> all (l.settled)
    ) as u
    group by u.task_id
  ),
  judged as (
    select
      s.*,
      case
        when s.excluded_for is not null then s.excluded_for
        when s.catchup = 'none' and s.is_late
          then format('catchup none: later than its grace of %s', s.grace)
        when s.at < p_now - s.catchup_window
          then format('older than its catchup window of %s', s.catchup_window)
        when s.at < s.latest_at then 'catchup latest: a later occurrence was due too'
      end as kept_for
    from spread as s
  ),
  ranked as (
    select
      j.*,
      coalesce(l.n, 0) as live,
      count(*) over whole - row_number() over line as behind,
      last_value(j.following) over whole as then_at,
      count(*) filter (where j.kept_for is null) over line as nth,
      count(*) filter (where j.kept_for is null) over whole as passing
    from judged as j
    left join live as l on l.task_id = j.task_id
    window
      line as (partition by j.task_id order by j.at),
      whole as (line rows between unbounded preceding and unbounded following)
  ),
  overlapped as (
    select
      r.*,
      case
        when r.excluded_for is not null then 'excluded'
        when r.kept_for is not null then 'missed'
        when r.overlap = 'allow' then 'fired'
        when r.overlap = 'cancel_other' and r.nth < r.passing then 'skipped'
        when r.overlap = 'cancel_other' or r.live + r.nth = 1 then 'fired'
        when r.overlap = 'skip' then 'skipped'
        when r.overlap = 'buffer_one' and r.live + r.nth > 2 then 'dropped'
        else 'buffered'
      end as verdict
    from ranked as r
  ),
  numbered as (
    select
      o.*,
      count(*) filter (where o.verdict in ('fired', 'buffered')) over (
        partition by o.task_id order by o.at
      ) as number
    from overlapped as o
  ),
  decided as materialized (
    select
      n.task_id, n.at, n.dst, n.is_late, n.catchup_rate, n.then_at,
      greatest(
        -- Microseconds apart, so that what is made up for runs oldest first.
        p_now - n.behind * interval '1 us',
        case when n.jitter is not null then
          n.at + ordinaut._share(n.task_id)
            * least(n.jitter, n.following - n.at - interval '1 us')
        end,
        case when n.is_late then
          greatest(n.catchup_at, p_now) + (n.number - 1) * interval '1 min' / n.catchup_rate
        end
      ) as run_at,
      case
        when n.verdict in ('fired', 'buffered') and n.ran + n.number > n.max_runs then 'dropped'
        else n.verdict
      end as decision,
      case
        when n.kept_for is not null then n.kept_for
        when n.verdict = 'skipped' and n.overlap = 'skip'
          then 'overlap skip: an earlier run is live'
        when n.verdict = 'skipped' then 'overlap cancel_other: a later occurrence was due too'
        when n.verdict = 'dropped' then 'overlap buffer_one: one run waits already'
        when n.ran + n.number > n.max_runs then format('max_runs: it ran %s times', n.max_runs)
        when n.verdict = 'buffered'
          then format('overlap %s: it waits for an earlier run', n.overlap)
      end as reason,
      case when n.verdict in ('fired', 'buffered') then ordinaut._v7(v_prefix) end as run_id
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
    returning task_id, scheduled_for, decision
  ),
  outcome as materialized (
    -- No decision: it was decided before.
    select d.task_id, d.at, d.run_at, d.run_id, d.then_at, d.is_late, d.catchup_rate, n.decision
    from decided as d
    left join noted as n on n.task_id = d.task_id and n.scheduled_for = d.at
  ),
  made as materialized (
    select
      o.run_id, o.task_id, o.at, o.run_at, t.queue, t.priority, t.max_attempts, t.timeout, t.tool,
      t.retry, t.payload, t.pipeline_id, pg_column_size(t.payload) > 2000 as is_long,
      ordinaut._key_of(t) as key, ordinaut._key_limit_of(t) as key_limit
    from outcome as o
    join ordinaut.task as t on t.task_id = o.task_id
    where o.decision in ('fired', 'buffered')
  ),
  body as (
    insert into ordinaut.payload (run_id, body)
    select m.run_id, m.payload
    from made as m
    where m.is_long
  ),
  placed as (
    insert into ordinaut.due_work (work_id, run_id, task_id, queue, priority, run_at, scheduled_for,
      enqueued_at, attempt, failures, crashes, max_attempts, timeout, tool, key, key_limit, retry,
      payload, pipeline_id)
    select m.run_id, m.run_id, m.task_id, m.queue, m.priority, m.run_at, m.at, p_now, 0, 0, 0,
      m.max_attempts, m.timeout, m.tool, m.key, m.key_limit, m.retry,
      case when not m.is_long then m.payload end, m.pipeline_id
    from made as m
  ),
  counted as (
    select
      o.task_id,
      max(o.at) as last_at,
      max(o.then_at) as then_at,
      count(*) filter (where o.decision = 'fired') as fired,
      count(*) filter (where o.decision = 'missed') as missed,
      count(*) filter (where o.decision = 'skipped') as skipped,
      count(*) filter (where o.decision = 'buffered') as buffered,
      count(*) filter (where o.decision = 'dropped') as dropped,
      count(*) filter (where o.decision = 'excluded') as excluded,
      max(o.run_at + interval '1 min' / o.catchup_rate) filter (
        where o.is_late and o.decision in ('fired', 'buffered')
      ) as catchup_at
    from outcome as o
    group by o.task_id
  ),
  advanced as (
    update ordinaut.task_schedule as t
    set
      next_run = case when not c.is_over then c.then_at end,
      fired_until = greatest(t.fired_until, c.last_at),
      replan_at = case
        when c.is_over then null
        -- Nothing was decided, or only what is held back remains: the planner's turn.
        when c.is_planned and not t.is_exhausted and c.then_at is null then p_now
        else t.replan_at
      end,
      catchup_at = greatest(t.catchup_at, c.catchup_at),
      last_run = case when c.fired + c.buffered > 0 then p_now else t.last_run end,
      fired_count = t.fired_count + c.fired,
      missed_count = t.missed_count + c.missed,
      skipped_count = t.skipped_count + c.skipped,
      buffered_count = t.buffered_count + c.buffered,
      dropped_count = t.dropped_count + c.dropped,
      excluded_count = t.excluded_count + c.excluded
    from (
      select
        d.task_id, d.is_planned, d.is_told, n.last_at, n.catchup_at,
        nullif(n.then_at, d.held) as then_at,
        coalesce(d.max_runs <= d.ran + coalesce(n.fired + n.buffered, 0), false) as is_over,
        coalesce(n.fired, 0) as fired,
        coalesce(n.missed, 0) as missed,
        coalesce(n.skipped, 0) as skipped,
        coalesce(n.buffered, 0) as buffered,
        coalesce(n.dropped, 0) as dropped,
        coalesce(n.excluded, 0) as excluded
      from due as d
      left join counted as n on n.task_id = d.task_id
    ) as c
    where t.task_id = c.task_id
    returning t.task_id, t.next_run, c.is_over, c.fired + c.buffered as fired, c.missed,
      c.is_over or t.is_exhausted or not (c.is_planned or c.is_told) as is_exhausted
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
    (select array_agg(m.run_id) from made as m where m.task_id = any (v_guarded)),
    (select array_agg(m.task_id) from made as m where m.task_id = any (v_guarded))
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
