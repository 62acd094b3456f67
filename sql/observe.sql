/*
 * Views for people.  The place of a unit is its state; these views say so in one column.
 */

create or replace view ordinaut.work as
select
  w.work_id, w.run_id, w.task_id, w.step, w.tool, w.queue, w.priority::integer as priority,
  'pending' as status, null::text as reason, w.key, w.attempt::integer as attempt,
  w.failures::integer as failures, w.crashes::integer as crashes,
  w.max_attempts::integer as max_attempts, w.enqueued_at,
  w.scheduled_for, w.run_at, null::uuid as lease_id, null::text as locked_by,
  null::timestamptz as locked_until, null::timestamptz as finished_at
from ordinaut.due_work as w
union all
select
  p.work_id, p.run_id, p.task_id, p.step, p.tool, p.queue, p.priority, 'parked', p.reason, p.key,
  p.attempt, p.failures, p.crashes, p.max_attempts, p.enqueued_at, p.scheduled_for, p.run_at,
  null, null, null, null
from ordinaut.parked as p
union all
select
  u.work_id, u.run_id, u.task_id, u.step, u.tool, u.queue, u.priority, 'running', null, u.key,
  u.attempt, u.failures, u.crashes, u.max_attempts, u.enqueued_at, u.scheduled_for, u.run_at,
  l.lease_id, coalesce(l.holder, k.name, l.worker_id::text),
  coalesce(l.expires_at, k.seen_at + k.ttl), null
from ordinaut.lease as l
cross join unnest(l.work) as u
left join ordinaut.worker as k on k.worker_id = l.worker_id
where u.work_id <> all (l.settled)
union all
select
  r.run_id, r.run_id, r.task_id, null, r.tool, r.queue, r.priority,
  case
    when r.state = 'success' then 'completed'
    when r.state = 'cancelled' then 'cancelled'
    when r.state in ('failed', 'timed_out', 'abandoned') then 'failed'
    else r.state
  end,
  r.state, r.key, r.attempt, r.failures, r.crashes, r.max_attempts, r.enqueued_at, r.scheduled_for,
  null, r.lease_id, null, null, r.finished_at
from ordinaut.task_run as r
where r.finished_at is not null;

comment on view ordinaut.work is
  'Every unit of work, wherever it is. status: pending, parked (reason), running (locked_by, '
  'locked_until), completed, failed, cancelled.';

create or replace view ordinaut.run as
with place as (
  select
    w.work_id as run_id, w.task_id, w.tool, w.queue, w.priority::integer as priority,
    'pending' as state, null::text as reason, w.payload, null::jsonb as output,
    null::jsonb as error, w.attempt::integer as attempt, w.failures::integer as failures,
    w.crashes::integer as crashes, w.max_attempts::integer as max_attempts, w.key,
    w.idempotency_key, null::uuid as worker_id,
    w.enqueued_at, w.scheduled_for, w.run_at, null::timestamptz as started_at,
    null::timestamptz as finished_at, w.retry_of, w.pipeline_id
  from ordinaut.due_work as w
  where w.step is null
  union all
  select
    p.work_id, p.task_id, p.tool, p.queue, p.priority, 'waiting', p.reason, p.payload, null, null,
    p.attempt, p.failures, p.crashes, p.max_attempts, p.key, p.idempotency_key, null,
    p.enqueued_at, p.scheduled_for, p.run_at, null, null, p.retry_of, p.pipeline_id
  from ordinaut.parked as p
  where p.step is null
  union all
  select
    u.run_id, u.task_id, u.tool, u.queue, u.priority, 'running', null, u.payload, null, null,
    u.attempt, u.failures, u.crashes, u.max_attempts, u.key, u.idempotency_key, l.worker_id,
    u.enqueued_at, u.scheduled_for, u.run_at, l.leased_at, null, u.retry_of, u.pipeline_id
  from ordinaut.lease as l
  cross join unnest(l.work) as u
  where u.step is null and u.work_id <> all (l.settled)
  union all
  select
    r.run_id, r.task_id, r.tool, r.queue, r.priority, r.state, null, r.payload, r.output, r.error,
    r.attempt, r.failures, r.crashes, r.max_attempts, r.key, r.idempotency_key, r.worker_id,
    r.enqueued_at, r.scheduled_for, null, r.started_at, r.finished_at, r.retry_of, r.pipeline_id
  from ordinaut.task_run as r
),
told as (
  select p.*, (
      select g.detail
      from ordinaut.run_log as g
      where g.run_id = p.run_id and g.event = 'progress' and g.step is null
      order by g.log_id desc
      limit 1
    ) as progress
  from place as p
)
select
  p.run_id, p.task_id, t.namespace || '/' || t.name as task, p.tool, p.queue, p.priority, p.state,
  p.reason,
  coalesce(
    p.payload,
    (select b.body from ordinaut.payload as b where b.run_id = p.run_id)
  ) as payload,
  p.output, p.error, p.attempt, p.failures, p.crashes, p.max_attempts, p.key, p.idempotency_key,
  p.worker_id, p.enqueued_at, p.scheduled_for, p.run_at, p.started_at, p.finished_at, p.retry_of,
  p.progress,
  (
    select o.backfill_id
    from ordinaut.occurrence as o
    where
      o.task_id = p.task_id and o.scheduled_for = p.scheduled_for and o.run_id = p.run_id
  ) as backfill_id,
  p.error ->> 'message' as error_message,
  case
    when p.state = 'success' then 100
    when p.pipeline_id is null then (p.progress ->> 'percent')::numeric
    else (
      select round(100.0 * count(*) filter (
        where s.state in ('complete', 'skipped', 'resolved_manually')) / greatest(count(*), 1), 1)
      from ordinaut.step as s
      where s.run_id = p.run_id and s.kind is null
    )
  end as progress_percentage,
  case
    when p.pipeline_id is null then p.progress ->> 'note'
    else (
      select string_agg(s.name, ', ' order by s.position)
      from ordinaut.step as s
      where s.run_id = p.run_id and s.state = 'in_progress'
    )
  end as current_step,
  p.pipeline_id,
  case when p.idempotency_key like 'child:%' then (
    select s.run_id from ordinaut.step as s
    where s.step_id = ordinaut._child_step(p.idempotency_key)
  ) end as parent_run_id
from told as p
left join ordinaut.task as t on t.task_id = p.task_id;

comment on view ordinaut.run is
  'Every run, live or finished. state: pending, waiting (parked, with the reason), running, '
  'success, failed, cancelled, timed_out, abandoned. backfill_id: what made it up. Of a run of '
  'steps (pipeline_id): current_step, and parent_run_id when a step of another run started it.';

create or replace view ordinaut.task_status as
select
  t.task_id, t.namespace, t.name, t.description, t.tool, t.payload,
  (select p.definition from ordinaut.pipeline as p where p.pipeline_id = t.pipeline_id) as pipeline,
  t.queue, t.priority,
  t.schedule_kind, t.schedule_expr, t.timezone, t.dst_gap, t.dst_overlap, t.exclude, t.start_at,
  t.end_at,
  t.key, t.key_limit, t.max_attempts, t.retry, t.timeout, t.catchup, t.grace,
  t.catchup_window, t.catchup_rate, t.overlap, t.jitter, t.max_runs, t.pause_on_failure, t.status,
  t.status_note, t.status_by, t.status_at, t.revision, t.created_at, t.created_by, t.updated_at,
  -- When it runs, not when a calendar keeps it from it.
  case
    when s.excluded is null then s.next_run
    else (
      select min(u.at)
      from unnest(s.upcoming) as u (at)
      where u.at >= s.next_run and ordinaut._told(s.excluded, u.at) is null
    )
  end as next_run,
  s.last_run, s.fired_count, s.missed_count, s.skipped_count, s.buffered_count, s.dropped_count,
  s.excluded_count
from ordinaut.task as t
join ordinaut.task_schedule as s on s.task_id = t.task_id;

comment on view ordinaut.task_status is 'Every task with its next and last run and its counters.';

create or replace view ordinaut.queue_depth as
with unit as (
  select
    w.queue, case when w.run_at <= ordinaut.now() then 'ready' else 'future' end as what, w.run_at
  from ordinaut.due_work as w
  union all
  select p.queue, 'parked', p.run_at from ordinaut.parked as p
  union all
  select l.queue, 'running', l.leased_at
  from ordinaut.lease as l
  cross join generate_series(1, l.size - cardinality(l.settled))
  union all
  select q.queue, 'none', null from ordinaut.queue as q
)
select
  u.queue,
  count(*) filter (where u.what = 'ready') as ready,
  count(*) filter (where u.what = 'future') as future,
  count(*) filter (where u.what = 'parked') as parked,
  count(*) filter (where u.what = 'running') as running,
  min(u.run_at) filter (where u.what = 'ready') as oldest_ready,
  (
    select count(*)
    from ordinaut.worker as k
    where u.queue = any (k.queues) and k.seen_at + k.ttl > ordinaut.now()
  ) as workers,
  q.paused_at, q.paused_by, q.note, q.max_running, q.max_pending, q.ageing
from unit as u
left join ordinaut.queue as q on q.queue = u.queue
group by u.queue, q.queue
order by u.queue;

comment on view ordinaut.queue_depth is
  'What waits and runs in each queue, how many live workers serve it, its limits and pause.';

create or replace view ordinaut.worker_status as
select
  w.worker_id, w.name, w.queues, w.tools, w.version, w.concurrency, w.started_at, w.seen_at, w.ttl,
  case when w.seen_at + w.ttl > ordinaut.now() then 'alive' else 'silent' end as state,
  w.is_idle,
  coalesce(l.leases, 0) as leases,
  coalesce(l.units, 0) as units
from ordinaut.worker as w
left join (
  select h.worker_id, count(*) as leases, sum(h.size - cardinality(h.settled)) as units
  from ordinaut.lease as h
  group by h.worker_id
) as l on l.worker_id = w.worker_id
order by w.started_at;

comment on view ordinaut.worker_status is
  'Registered workers: alive, or silent for more than their ttl (the next reap takes their work '
  'back).';

create or replace view ordinaut.late as
select
  'work' as what, w.work_id as id, w.queue, w.tool, w.run_at as due_at,
  ordinaut.now() - w.run_at as late_by
from ordinaut.due_work as w
where w.run_at < ordinaut.now() - interval '10 s'
union all
select 'task', s.task_id, t.queue, t.tool, s.next_run, ordinaut.now() - s.next_run
from ordinaut.task_schedule as s
join ordinaut.task as t on t.task_id = s.task_id
where s.next_run < ordinaut.now() - interval '10 s' and t.status = 'active';

comment on view ordinaut.late is
  'Work that is due for more than 10 s and not leased, and tasks whose occurrence no tick has '
  'fired. why(id) says why.';

create or replace view ordinaut.failing as
select
  t.task_id, t.namespace || '/' || t.name as task, r.tool, r.queue,
  count(*) filter (where r.state <> 'success') as failed,
  count(*) as ended,
  max(r.finished_at) filter (where r.state <> 'success') as last_failure,
  (array_agg(r.error ->> 'message' order by r.finished_at desc)
    filter (where r.state <> 'success'))[1] as last_error
from ordinaut.task_run as r
left join ordinaut.task as t on t.task_id = r.task_id
where
  r.run_id >= ordinaut._v7_floor(ordinaut.now() - interval '1 day')
  and r.finished_at is not null
group by t.task_id, r.tool, r.queue
having count(*) filter (where r.state in ('failed', 'timed_out', 'abandoned')) > 0
order by failed desc;

comment on view ordinaut.failing is
  'Tasks and tools with failed, timed out or abandoned runs among those of the last day, and the '
  'last error.';
