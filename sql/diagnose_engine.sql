/*
 * The engine's own trouble: nobody works, nobody ticks, nobody plans, nobody reaps; work that is
 * late, and why.  Where why() has a word for it, the problem is called the same.
 *
 * Everything is looked up by index, and counts stop early: a backlog of millions costs no more
 * than one of a thousand.
 */

create or replace function ordinaut._scheduler_said()
returns text
language sql
stable
as $fn$
  select coalesce(
    'scheduler ' || string_agg(ordinaut._session_said(ordinaut._session(a.pid, false)), ', ')
      || ' is connected, and late',
    'no scheduler is connected')
  from pg_stat_activity as a
  where a.application_name = 'ordinaut-scheduler' and a.datname = current_database();
$fn$;

comment on function ordinaut._scheduler_said() is 'Which schedulers are connected, in words.';

create or replace function ordinaut._diagnose_workers(
  p_now      timestamptz,
  p_patience interval
)
returns table (problem text, severity text, subject text, detail text, since timestamptz,
  evidence jsonb, act text)
language sql
stable
as $fn$
  -- Half a ttl without a heartbeat: several are missing.
  select
    'worker_silent',
    case when l.units > 0 then 'critical' else 'warning' end,
    coalesce(w.name, w.worker_id::text),
    format('worker %s (queues %s) was last seen %s ago%s; it holds %s units, %s', w.worker_id,
      array_to_string(w.queues, ', '), ordinaut._lasting(p_now - w.seen_at),
      case when w.seen_at + w.ttl < p_now then ' and counts as dead' else '' end, l.units,
      case when l.units = 0 then 'so nothing is lost'
        else format('which go back %s after that', ordinaut._lasting(w.ttl)) end),
    w.seen_at,
    jsonb_build_object('worker_id', w.worker_id, 'name', w.name, 'queues', w.queues,
      'ttl', w.ttl, 'leases', l.leases, 'units', l.units, 'version', w.version),
    format('if its host is gone: select ordinaut.deregister_worker(%L, ''dead'')', w.worker_id)
  from ordinaut.worker as w
  cross join lateral (
    select count(*) as leases, coalesce(sum(h.size - cardinality(h.settled)), 0) as units
    from ordinaut.lease as h
    where h.worker_id = w.worker_id
  ) as l
  where w.seen_at < p_now - w.ttl / 2
  union all
  select
    'worker_version', 'warning', coalesce(w.name, w.worker_id::text),
    format('it is Ordinaut %s, the database %s%s', w.version, k.version,
      case when w.is_stale then ' with another API: it leases nothing more' else '' end),
    w.started_at,
    jsonb_build_object('worker_id', w.worker_id, 'version', w.version, 'database', k.version),
    'restart it with the version of the database, or: ordinaut install, if the database is older'
  from ordinaut.worker as w
  cross join lateral (
    select c.version from ordinaut.loaded_code as c order by c.at desc, c.api desc limit 1
  ) as k
  where (w.version <> k.version or w.is_stale) and w.seen_at + w.ttl > p_now
  union all
  -- What reap() would take back: after a start of the server it waits for one ttl.
  select
    'not_reaped', 'critical', format('%s leases', count(*)),
    format('%s units are held by lessees that are gone, and nobody has called reap() since: no '
      'worker and no scheduler runs', sum(g.size - cardinality(g.settled))),
    min(g.gone_at),
    jsonb_build_object('leases', (array_agg(g.lease_id order by g.gone_at))[:20]),
    'start a worker or a scheduler, or: select ordinaut.reap()'
  from (
    select h.lease_id, h.size, h.settled,
      greatest(coalesce(h.expires_at, w.seen_at + w.ttl, h.leased_at), e.seen_since + w.ttl)
        as gone_at
    from ordinaut.lease as h
    left join ordinaut.worker as w on w.worker_id = h.worker_id
    left join ordinaut.server_epoch as e on true
  ) as g
  where g.gone_at < p_now - least(p_patience, interval '10 s')
  having count(*) > 0;
$fn$;

comment on function ordinaut._diagnose_workers(timestamptz, interval) is
  'diagnose(): workers that are silent or of another version, and leases of the dead.';

create or replace function ordinaut._diagnose_queues(
  p_now      timestamptz,
  p_patience interval
)
returns table (problem text, severity text, subject text, detail text, since timestamptz,
  evidence jsonb, act text)
language plpgsql
stable
set enable_seqscan = off
set enable_bitmapscan = off
as $fn$
declare
  -- As the view `late` has it.
  v_before constant timestamptz := p_now - least(p_patience, interval '10 s');
begin
  return query
  with recursive named (queue) as (
    (select w.queue from ordinaut.due_work as w order by w.queue limit 1)
    union all
    -- From one queue to the next, by index.
    select (
      select w.queue from ordinaut.due_work as w where w.queue > n.queue order by w.queue limit 1)
    from named as n
    where n.queue is not null
  ),
  late as materialized (
    select n.queue, o.run_at, o.work_id
    from (select f.queue from named as f where f.queue is not null limit 1000) as n
    cross join lateral (
      select f.run_at, f.work_id
      from generate_series(1, 9) as p (priority)
      cross join lateral (
        select w.run_at, w.work_id
        from ordinaut.due_work as w
        where w.queue = n.queue and w.priority = p.priority and w.run_at < v_before
        order by w.run_at
        limit 1
      ) as f
      order by f.run_at
      limit 1
    ) as o
    order by o.run_at
    limit 20
  ),
  counted as (
    select l.*, c.n, k.workers, k.slots, k.units
    from late as l
    cross join lateral (
      select count(*) as n
      from (
        select
        from ordinaut.due_work as w
        where w.queue = l.queue and w.run_at < v_before
        limit 1000
      ) as w
    ) as c
    cross join lateral (
      select count(*) as workers, coalesce(sum(w.concurrency), 0) as slots,
        (
          select coalesce(sum(h.size - cardinality(h.settled)), 0)
          from ordinaut.lease as h
          where h.queue = l.queue
        ) as units
      from ordinaut.worker as w
      where l.queue = any (w.queues) and w.seen_at + w.ttl > p_now
    ) as k
  )
  select
    coalesce(y.reason, 'queue_behind'),
    case
      when y.reason = 'no_worker' then 'critical'
      when y.reason = 'queue_paused' then 'warning'
      when c.run_at < p_now - p_patience then 'warning'
      else 'info'
    end,
    c.queue,
    format('%s; %s units of it are late, the oldest by %s',
      coalesce(y.detail, case
        when c.units >= c.slots then format('its %s live workers are busy with %s units, all that '
          'they can', c.workers, c.units)
        else format('its %s live workers hold %s units, could take more, and do not', c.workers,
          c.units)
      end),
      case when c.n = 1000 then 'more than 1000' else c.n::text end,
      ordinaut._lasting(p_now - c.run_at)),
    c.run_at,
    jsonb_build_object('queue', c.queue, 'late', c.n, 'oldest', c.work_id, 'workers', c.workers,
      'slots', c.slots, 'running', c.units),
    case coalesce(y.reason, '')
      when 'no_worker' then format('start: ordinaut worker --queue %s', c.queue)
      when 'queue_paused' then format('select ordinaut.resume_queue(%L)', c.queue)
      when 'queue_limit' then format('raise it: select ordinaut.set_queue(%L, …)', c.queue)
      else case
        when c.units >= c.slots then 'more workers, a larger concurrency, or less work'
        else 'look for lock_held and xmin_held, and into the logs of the workers'
      end
    end
  from counted as c
  left join lateral ordinaut._why_queue(c.queue) as y on true;

  return query
  select
    'no_tool', 'critical', t.tool,
    format('no live worker of queue %s has tool %s; %s units wait for one, since %s', t.queue,
      t.tool, case when t.n = 1000 then '1000 or more' else t.n::text end,
      ordinaut._lasting(p_now - t.parked_at)),
    t.parked_at, jsonb_build_object('queue', t.queue, 'tool', t.tool, 'waiting', t.n),
    'enable it in the configuration of a worker of that queue, or deploy its code: the work '
      'comes back by itself'
  from (
    select p.queue, p.tool, count(*) as n, min(p.parked_at) as parked_at
    from (
      select q.queue, q.tool, q.parked_at
      from ordinaut.parked as q
      where q.reason = 'tool'
      limit 1000
    ) as p
    group by p.queue, p.tool
  ) as t
  where not ordinaut._has_tool(t.queue, t.tool)
  order by t.n desc
  limit 20;
end
$fn$;

comment on function ordinaut._diagnose_queues(timestamptz, interval) is
  'diagnose(): queues with work that is late and why() it is, 20 at most, and tools that no '
  'worker has.';

create or replace function ordinaut._diagnose_schedules(
  p_now      timestamptz,
  p_patience interval
)
returns table (problem text, severity text, subject text, detail text, since timestamptz,
  evidence jsonb, act text)
language sql
stable
set enable_seqscan = off
set enable_bitmapscan = off
as $fn$
  with late as materialized (
    select x.*
    from (select p_now - least(p_patience, interval '10 s')) as b (before)
    cross join lateral (
      (
        select 'not_ticked' as problem, s.task_id, s.next_run as at
        from ordinaut.task_schedule as s
        join ordinaut.task as t on t.task_id = s.task_id
        where s.next_run < b.before and t.status = 'active'
        order by s.next_run
        limit 1000
      )
      union all
      (
        select case when s.next_run is null then 'not_planned' else 'plan_short' end, s.task_id,
          greatest(s.replan_at, s.planned_at, t.updated_at)
        from ordinaut.task_schedule as s
        join ordinaut.task as t on t.task_id = s.task_id
        where
          s.replan_at < b.before and t.status = 'active'
          and greatest(s.replan_at, t.updated_at) < b.before
        order by s.replan_at
        limit 1000
      )
      union all
      (
        select 'not_polled', s.task_id, s.look_at
        from ordinaut.task_schedule as s
        join ordinaut.task as t on t.task_id = s.task_id
        where s.look_at < b.before and t.status = 'active'
        order by s.look_at
        limit 1000
      )
      union all
      (
        select 'not_backfilled', f.task_id, f.created_at
        from ordinaut.backfill as f
        where f.state = 'pending' and f.created_at < b.before
        order by f.backfill_id
        limit 1000
      )
    ) as x
  ),
  grouped as (
    select l.problem, count(*) as n, min(l.at) as since,
      (array_agg(t.namespace || '/' || t.name order by l.at))[:5] as tasks
    from late as l
    join ordinaut.task as t on t.task_id = l.task_id
    group by l.problem
  )
  select
    g.problem, case g.problem when 'plan_short' then 'warning' else 'critical' end,
    g.tasks[1],
    format('%s %s, the first since %s: %s',
      case when g.n = 1 then 'task ' || g.tasks[1]
        when g.n = 1000 then 'more than 1000 tasks' else g.n || ' tasks' end,
      case g.problem
        when 'not_ticked' then 'should have fired'
        when 'not_planned' then 'have no plan, and do not fire'
        when 'plan_short' then 'have plans that run short'
        when 'not_polled' then 'have conditions that nobody asks'
        else 'wait for a backfill to be planned'
      end,
      ordinaut._lasting(p_now - g.since), ordinaut._scheduler_said()),
    g.since, jsonb_build_object('tasks', g.tasks, 'n', g.n),
    case g.problem
      when 'not_ticked' then 'start: ordinaut scheduler; at once: select * from ordinaut.tick()'
      else 'start: ordinaut scheduler'
    end
  from grouped as g;
$fn$;

comment on function ordinaut._diagnose_schedules(timestamptz, interval) is
  'diagnose(): what schedulers should have done by now.';

create or replace function ordinaut._diagnose_trouble(
  p_now      timestamptz,
  p_patience interval
)
returns table (problem text, severity text, subject text, detail text, since timestamptz,
  evidence jsonb, act text)
language sql
stable
as $fn$
  (
    select
      'task_invalid', 'warning', t.namespace || '/' || t.name,
      format('it does not fire any more: %s', coalesce(t.status_note, 'no reason is noted')),
      t.status_at, jsonb_build_object('task_id', t.task_id, 'by', t.status_by,
        'invalid_tasks', count(*) over ()),
      format('update_task(%L, …) with what works makes it active; cancel_task() ends it',
        t.namespace || '/' || t.name)
    from ordinaut.task as t
    where t.status = 'invalid'
    order by t.status_at desc
    limit 5
  )
  union all
  (
    select
      'condition_error', 'warning', t.namespace || '/' || t.name,
      format('its condition could not be asked, %s times in a row: %s', s.look_failures,
        s.look_error),
      null, jsonb_build_object('task_id', t.task_id, 'failures', s.look_failures),
      'correct the query of its condition, or the rights of condition_role'
    from ordinaut.task_schedule as s
    join ordinaut.task as t on t.task_id = s.task_id
    where s.look_failures >= 3 and s.look_at is not null and t.status = 'active'
    order by s.look_failures desc
    limit 5
  )
  union all
  select
    'breaker_open', case when b.changed_by is null then 'warning' else 'info' end, b.name,
    format('it has been %s for %s%s%s', replace(b.state, '_', ' '),
      ordinaut._lasting(p_now - b.changed_at), ', kept so by ' || b.changed_by,
      ': ' || b.note),
    b.changed_at,
    jsonb_build_object('breaker', b.name, 'tools', ordinaut._breaker_tools(b.name),
      'failures', b.failures, 'next_probe', b.probe_at),
    case when b.changed_by is null
      then 'mend the service behind it: the next probe that succeeds closes it'
      else format('select ordinaut.reset_breaker(%L), if that reason is gone', b.name)
    end
  from ordinaut.breaker as b
  where b.state <> 'closed' and b.changed_at < p_now - greatest(10 * b.recovery, p_patience)
  union all
  (
    select
      'stuck_run', 'warning', r.run_id::text,
      format('it has been running for %s', ordinaut._lasting(r.running_for)),
      r.started_at,
      jsonb_build_object('run_id', r.run_id, 'tool', r.tool, 'queue', r.queue,
        'worker_id', r.worker_id),
      'its tool hangs, or takes so long: select ordinaut.timeout_stuck(…), or give it a timeout'
    from ordinaut.get_stuck_runs('60 min') as r
    limit 5
  );
$fn$;

comment on function ordinaut._diagnose_trouble(timestamptz, interval) is
  'diagnose(): invalid tasks, conditions that fail, breakers that stay open, runs that do not '
  'end.';
