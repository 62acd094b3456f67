/*
 * Retention: what is over is forgotten.  History goes whole partitions at a time (partition.sql),
 * everything else by rows.
 *
 * A call does a bounded step, and its caller commits and calls again: no lock is held for long,
 * and no transaction writes a gigabyte.
 */

create or replace function ordinaut._clear_detached(p_limit integer)
returns bigint
language plpgsql
volatile
as $fn$
declare
  v_name text;
  v_from timestamptz;
  v_n bigint := 0;
begin
  select c.relname into v_name
  from pg_class as c
  where
    c.relnamespace = 'ordinaut'::regnamespace
    and c.relkind = 'r'
    and not c.relispartition
    and c.relname ~ $re$^task_run_\d{8}$$re$
  order by c.relname
  limit 1;
  if not found then
    return 0;
  end if;
  v_from := to_date(right(v_name, 8), 'YYYYMMDD')::timestamp at time zone 'UTC';
  -- The body of a run that still waits, years ahead perhaps, stays: that run is not in the table.
  execute format(
    'delete from ordinaut.payload as b where b.run_id = any (array('
      || 'select p.run_id from ordinaut.payload as p join ordinaut.%I as r on r.run_id = p.run_id'
      || ' where p.run_id >= $1 and p.run_id < $2 limit $3))', v_name)
  using ordinaut._v7_floor(v_from), ordinaut._v7_floor(v_from + interval '7 days'), p_limit;
  get diagnostics v_n = row_count;
  if v_n = 0 and ordinaut._try_exclusive(array[v_name], p_waits => false) then
    execute format('drop table ordinaut.%I', v_name);
  end if;
  return v_n;
end
$fn$;

comment on function ordinaut._clear_detached(integer) is
  'Delete at most p_limit bodies of the runs of a partition that was detached; none is left, it '
  'is dropped. Returns how many.';

/* In the order of their ids, so that an index leads to the oldest: the rows that must stay among
   them are few. */
create or replace function ordinaut._prune_default(p_before timestamptz, p_limit integer)
returns table (what text, n bigint)
language plpgsql
volatile
set enable_seqscan = off
set enable_bitmapscan = off
as $fn$
declare
  v_floor uuid := ordinaut._v7_floor(p_before);
  v_ids uuid[];
begin
  -- A run that waited long ended here: its id is older than any partition.
  v_ids := array(
    select r.run_id from ordinaut.task_run_default as r
    where r.run_id < v_floor and r.finished_at < p_before
    order by r.run_id
    limit p_limit
    for update skip locked);
  delete from ordinaut.payload as b where b.run_id = any (v_ids);
  delete from ordinaut.task_run_default as r where r.run_id = any (v_ids);
  return query select 'old runs of no partition', cardinality(v_ids)::bigint;

  v_ids := array(
    select s.step_id from ordinaut.step_default as s
    where
      s.step_id < v_floor
      and not exists (select from ordinaut.task_run as r where r.run_id = s.run_id)
    order by s.step_id
    limit p_limit
    for update of s skip locked);
  delete from ordinaut.step_default as s where s.step_id = any (v_ids);
  return query select 'old steps of no partition', cardinality(v_ids)::bigint;

  v_ids := array(
    select e.event_id from ordinaut.event_default as e
    where e.event_id < v_floor and e.emitted_at < p_before
    order by e.event_id
    limit p_limit
    for update skip locked);
  delete from ordinaut.event_default as e where e.event_id = any (v_ids);
  return query select 'old events of no partition', cardinality(v_ids)::bigint;
end
$fn$;

comment on function ordinaut._prune_default(timestamptz, integer) is
  'Delete what is old in the default partitions but that of the journal, at most p_limit rows of '
  'each. Returns how many.';

create or replace function ordinaut._prune_rows(p_before timestamptz, p_limit integer)
returns table (what text, n bigint)
language plpgsql
volatile
as $fn$
declare
  v_ids uuid[];
  v_n bigint;
begin
  delete from ordinaut.occurrence_default as o
  where o.ctid = any (array(
    select d.ctid from ordinaut.occurrence_default as d
    where d.scheduled_for < p_before and d.decided_at < p_before
    limit p_limit));
  get diagnostics v_n = row_count;
  return query select 'old occurrences of no partition', v_n;

  delete from ordinaut.backfill as b
  where b.ctid = any (array(
    select d.ctid from ordinaut.backfill as d where d.ended_at < p_before limit p_limit));
  get diagnostics v_n = row_count;
  return query select 'backfills', v_n;

  delete from ordinaut.unheard_end as u
  where u.ctid = any (array(
    select d.ctid from ordinaut.unheard_end as d where d.ended_at < p_before limit p_limit));
  get diagnostics v_n = row_count;
  return query select 'ends that nobody waits for', v_n;

  -- With their runs, but not one that is still open.
  delete from ordinaut.approval as a
  where a.ctid = any (array(
    select d.ctid from ordinaut.approval as d
    where
      d.created_at < p_before
      and not exists (select from ordinaut.task_run as r where r.run_id = d.run_id)
    limit p_limit));
  get diagnostics v_n = row_count;
  return query select 'approvals', v_n;

  -- Locked first: whoever is about to refer to one holds it, and what is committed then is seen.
  v_ids := array(
    select p.pipeline_id from ordinaut.pipeline as p
    where p.created_at < p_before and not ordinaut._is_referred_to(p.pipeline_id)
    limit least(p_limit, 100)
    for update skip locked);
  delete from ordinaut.pipeline as p
  where p.pipeline_id = any (v_ids) and not ordinaut._is_referred_to(p.pipeline_id);
  get diagnostics v_n = row_count;
  return query select 'pipelines that nothing follows', v_n;

  -- The row of a queue that was only swept: queues may be named after customers.
  delete from ordinaut.queue as q
  where
    q.sweep_requested_at < p_before
    and q.paused_at is null
    and coalesce(q.max_running, q.max_pending) is null
    and q.ageing is null;
  get diagnostics v_n = row_count;
  return query select 'queues without settings', v_n;

  delete from ordinaut.hold as h
  where (h.key, h.slot) in (
    select e.key, e.slot
    from ordinaut.hold as e
    where e.held_until < ordinaut.now()
    order by e.held_until
    limit p_limit
    -- An enqueue takes the key over just now.
    for update skip locked
  );
  get diagnostics v_n = row_count;
  return query select 'idempotency keys expired', v_n;
end
$fn$;

comment on function ordinaut._prune_rows(timestamptz, integer) is
  'Delete what is over, at most p_limit rows of each table. Returns how many.';

create or replace function ordinaut.prune(
  p_keep  interval default '30 days',
  p_limit integer  default 5000
)
returns table (what text, n bigint)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_before timestamptz := ordinaut.now() - p_keep;
begin
  perform ordinaut._check_span('keep', coalesce(p_keep, '-1 s'), '1 day', '36500 days');
  perform ordinaut._check_count('limit', p_limit, 1, 1000000);
  -- A twin would wait for the rows that we delete.
  if not pg_try_advisory_xact_lock(hashtextextended('ordinaut.partitions', 7146)) then
    return;
  end if;
  return query
  select d.what, d.n
  from (
    select 'payloads' as what, ordinaut._clear_detached(p_limit) as n
    union all
    select t.* from ordinaut._prune_default(v_before, p_limit) as t
    union all
    select t.* from ordinaut._prune_rows(v_before, p_limit) as t
  ) as d
  where d.n > 0;
  -- Last, because it locks a table until the caller commits.
  return query
  select k.what, 1::bigint from ordinaut._keep_partitions(v_before) as k (what) where k.what <> '';
end
$fn$;

comment on function ordinaut.prune(interval, integer) is
  'Keep house, one step of it: delete what is older than p_keep (at least a day; a run counts '
  'from its enqueue) and idempotency keys that ran out, at most p_limit rows of a table, and '
  'make one of the coming partitions or drop an old one. Returns what was done, and no rows '
  'when there is nothing more to do now: commit and call again until then. '
  'What others use at this moment is left for a later call; while a twin is at it, no rows. '
  'Errors: invalid_parameter_value.';
