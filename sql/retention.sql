/*
 * Partitions and retention.  History is dropped whole partitions at a time: a week of run ids, of
 * journal, of occurrences.
 *
 * A partition is made apart and attached, which locks the parent only against other DDL; creating
 * it in place would stop every settle.  Dropping needs the parent for an instant: it waits 200 ms
 * for that and else leaves it to the next call.
 */

create or replace function ordinaut._week(p_at timestamptz)
returns timestamptz
language sql
immutable
as $fn$
  select to_timestamp(floor(extract(epoch from p_at) / 604800) * 604800);
$fn$;

comment on function ordinaut._week(timestamptz) is
  'The start of the partition that an instant falls into.';

create or replace function ordinaut._partition_bound(p_table text, p_at timestamptz)
returns text
language sql
stable
as $fn$
  select case p_table
    when 'occurrence' then to_char(p_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS+00')
    else ordinaut._v7_floor(p_at)::text
  end;
$fn$;

comment on function ordinaut._partition_bound(text, timestamptz) is
  'Where a partition of this table begins that begins at this instant.';

create or replace function ordinaut.ensure_partitions()
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
-- Attaching locks the default partition, and whoever queues behind us waits too.
set lock_timeout = '200ms'
as $fn$
declare
  v_table text;
  v_from timestamptz;
  v_name text;
  v_column text;
  v_rows bigint;
  v_n bigint := 0;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('ordinaut.partitions', 7146)) then
    return 0;
  end if;
  foreach v_table in array array['task_run', 'step', 'run_log', 'occurrence', 'event'] loop
    for v_i in 0..3 loop
      v_from := ordinaut._week(ordinaut.now()) + v_i * interval '7 days';
      v_name := format('%s_%s', v_table, to_char(v_from at time zone 'UTC', 'YYYYMMDD'));
      continue when to_regclass('ordinaut.' || v_name) is not null;

      v_column := case v_table
        when 'task_run' then 'run_id'
        when 'step' then 'step_id'
        when 'run_log' then 'log_id'
        when 'event' then 'event_id'
        else 'scheduled_for'
      end;
      execute format(
        'select count(*) from ordinaut.%I where %I >= %L and %I < %L', v_table || '_default',
        v_column, ordinaut._partition_bound(v_table, v_from),
        v_column, ordinaut._partition_bound(v_table, v_from + interval '7 days')) into v_rows;
      -- Rows that came while there was no partition stay in the default one until they are pruned.
      continue when v_rows > 0;

      begin
        execute format(
          'create table ordinaut.%I (like ordinaut.%I including defaults including constraints)'
            -- Steps are updated in place: room for that beside each.
            || case v_table when 'step' then ' with (fillfactor = 60)' else '' end,
          v_name, v_table);
        execute format(
          'alter table ordinaut.%I attach partition ordinaut.%I for values from (%L) to (%L)',
          v_table, v_name, ordinaut._partition_bound(v_table, v_from),
          ordinaut._partition_bound(v_table, v_from + interval '7 days'));
      exception
        -- Somebody reads the history: three weeks lie ahead to try again.
        when lock_not_available then return v_n;
      end;
      v_n := v_n + 1;
    end loop;
  end loop;
  return v_n;
end
$fn$;

comment on function ordinaut.ensure_partitions() is
  'Make the partitions of this week and the next three, where they are missing. Returns how many.';

create or replace function ordinaut._drop_old(p_table text, p_before timestamptz)
returns bigint
language plpgsql
volatile
as $fn$
declare
  v_part record;
  v_from timestamptz;
  v_to timestamptz;
  v_is_recent boolean;
  v_n bigint := 0;
begin
  for v_part in
    select c.relname
    from pg_inherits as i
    join pg_class as c on c.oid = i.inhrelid
    where i.inhparent = to_regclass('ordinaut.' || p_table) and c.relname ~ $re$_\d{8}$$re$
    order by c.relname
  loop
    v_from := to_date(right(v_part.relname, 8), 'YYYYMMDD')::timestamp at time zone 'UTC';
    v_to := v_from + interval '7 days';
    continue when v_to > p_before;
    if p_table = 'occurrence' then
      -- A backfill decides long after the time.  Were its rows gone, another would fire them again.
      execute format('select exists (select from ordinaut.%I as o where o.decided_at >= $1)',
        v_part.relname) into v_is_recent using p_before;
      continue when v_is_recent;
    elsif p_table in ('task_run', 'step') then
      -- A run that waits for an answer may live for months.
      select exists (
        select from ordinaut.task_run as r
        where r.finished_at is null and r.run_id >= ordinaut._v7_floor(v_from)
          and r.run_id < ordinaut._v7_floor(v_to)
      ) into v_is_recent;
      continue when v_is_recent;
    end if;

    begin
      execute format('drop table ordinaut.%I', v_part.relname);
      if p_table = 'task_run' then
        -- The body of a run that still waits, years ahead perhaps, stays.
        delete from ordinaut.payload as b
        where
          b.run_id >= ordinaut._v7_floor(v_from)
          and b.run_id < ordinaut._v7_floor(v_to)
          and not exists (select from ordinaut.due_work as w where w.run_id = b.run_id)
          and not exists (select from ordinaut.parked as p where p.run_id = b.run_id)
          and not exists (
            select from ordinaut.lease as l cross join unnest(l.work) as u where u.run_id = b.run_id
          );
      end if;
      v_n := v_n + 1;
    exception
      when lock_not_available then
        return v_n;
    end;
  end loop;
  return v_n;
end
$fn$;

comment on function ordinaut._drop_old(text, timestamptz) is
  'Drop the partitions of a history table that ended before an instant. Returns how many.';

create or replace function ordinaut.prune(p_keep interval default '30 days')
returns table (what text, n bigint)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '200ms'
as $fn$
declare
  v_before timestamptz := ordinaut.now() - p_keep;
  v_ids uuid[];
  v_n bigint;
begin
  perform ordinaut._check_span('keep', coalesce(p_keep, '-1 s'), '1 day', '36500 days');
  -- A twin holds the lock of every table here: we would fail, and undo what we did, after 200 ms.
  if not pg_try_advisory_xact_lock(hashtextextended('ordinaut.partitions', 7146)) then
    return;
  end if;
  return query select 'partitions made', ordinaut.ensure_partitions();
  return query select 'task_run partitions dropped', ordinaut._drop_old('task_run', v_before);
  return query select 'step partitions dropped', ordinaut._drop_old('step', v_before);
  return query select 'run_log partitions dropped', ordinaut._drop_old('run_log', v_before);
  return query select 'occurrence partitions dropped', ordinaut._drop_old('occurrence', v_before);

  return query select 'event partitions dropped', ordinaut._drop_old('event', v_before);

  -- A run that waited long ended in the default partition: its id is older than any partition.
  delete from ordinaut.payload as b
  using ordinaut.task_run_default as r
  where r.run_id = b.run_id and r.finished_at < v_before;
  delete from ordinaut.step_default as s
  using ordinaut.task_run_default as r
  where r.run_id = s.run_id and r.finished_at < v_before;
  delete from ordinaut.task_run_default as r where r.finished_at < v_before;
  get diagnostics v_n = row_count;
  return query select 'old runs of no partition', v_n;
  delete from ordinaut.occurrence_default as o
  where o.scheduled_for < v_before and o.decided_at < v_before;
  delete from ordinaut.backfill as b where b.ended_at < v_before;
  delete from ordinaut.event_default as e where e.emitted_at < v_before;
  delete from ordinaut.unheard_end as u where u.ended_at < v_before;
  -- With their runs, but not one that is still open.
  delete from ordinaut.approval as a
  where
    a.created_at < v_before
    and not exists (select from ordinaut.task_run as r where r.run_id = a.run_id);
  -- Locked first: whoever is about to refer to one holds it, and what is committed then is seen.
  v_ids := array(
    select p.pipeline_id from ordinaut.pipeline as p
    where p.created_at < v_before and not ordinaut._is_referred_to(p.pipeline_id)
    for update skip locked);
  delete from ordinaut.pipeline as p
  where p.pipeline_id = any (v_ids) and not ordinaut._is_referred_to(p.pipeline_id);

  delete from ordinaut.hold as h
  where (h.key, h.slot) in (
    select e.key, e.slot
    from ordinaut.hold as e
    where e.held_until < ordinaut.now()
    -- An enqueue takes the key over just now.
    for update skip locked
  );
  get diagnostics v_n = row_count;
  return query select 'idempotency keys expired', v_n;
end
$fn$;

comment on function ordinaut.prune(interval) is
  'Keep house: make the coming partitions, drop those older than p_keep (at least a day; a run '
  'counts from its enqueue), and forget idempotency keys that ran out. A drop that would wait '
  'for others is left to the next call. Returns what was done; no rows while another call is at '
  'it. Errors: invalid_parameter_value.';
