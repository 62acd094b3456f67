/*
 * Partitions of the history: a week of runs, of steps, of journal, of occurrences, of events each.
 *
 * Making one locks the default partition against all, dropping one the parent too; whoever comes
 * while such a lock is waited for queues behind it, for as long as a dump runs or somebody forgot
 * a transaction.  So locks are taken at once or not at all; only when nobody holds the tables for
 * longer than a settle takes is one waited for, 100 ms at most.  One partition at a time, and as
 * the last that a transaction does: a lock held while others are sought stops every settle.
 *
 * No `detach concurrently`: PostgreSQL refuses it beside a default partition.
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

create or replace function ordinaut._partition_column(p_table text)
returns text
language sql
immutable
as $fn$
  select case p_table
    when 'task_run' then 'run_id'
    when 'step' then 'step_id'
    when 'run_log' then 'log_id'
    when 'event' then 'event_id'
    else 'scheduled_for'
  end;
$fn$;

comment on function ordinaut._partition_column(text) is
  'What a history table is partitioned by.';

create or replace function ordinaut._strays(p_table text, p_from timestamptz)
returns bigint
language plpgsql
volatile
as $fn$
declare
  v_n bigint;
begin
  execute format(
    'select count(*) from ('
      || 'select from ordinaut.%1$I as d where d.%2$I >= %3$L and d.%2$I < %4$L limit 1001) as s',
    p_table || '_default', ordinaut._partition_column(p_table),
    ordinaut._partition_bound(p_table, p_from),
    ordinaut._partition_bound(p_table, p_from + interval '7 days')) into v_n;
  return v_n;
end
$fn$;

comment on function ordinaut._strays(text, timestamptz) is
  'How many rows of a week are in the default partition; above 1000 it is not counted.';

create or replace function ordinaut._is_needed(
  p_table  text,
  p_name   text,
  p_from   timestamptz,
  p_before timestamptz
)
returns boolean
language plpgsql
volatile
as $fn$
declare
  v_is_needed boolean := false;
begin
  if p_name = 'run_log_default' then
    v_is_needed := exists (
      select from ordinaut.run_log_default as l where l.log_id >= ordinaut._v7_floor(p_before)
    );
  elsif p_table = 'occurrence' then
    -- A backfill decides long after the time.  Were its rows gone, another would fire them again.
    execute format('select exists (select from ordinaut.%I as o where o.decided_at >= $1)', p_name)
    into v_is_needed using p_before;
  elsif p_table in ('task_run', 'step') then
    -- A run that waits for an answer may live for months.
    select exists (
      select from ordinaut.task_run as r
      where r.finished_at is null and r.run_id >= ordinaut._v7_floor(p_from)
        and r.run_id < ordinaut._v7_floor(p_from + interval '7 days')
    ) into v_is_needed;
  end if;
  return v_is_needed;
end
$fn$;

comment on function ordinaut._is_needed(text, text, timestamptz, timestamptz) is
  'Whether an old partition has rows that are still in use.';

create or replace function ordinaut._partition_chores(p_before timestamptz)
returns table (parent text, name text, from_at timestamptz, is_new boolean, tables text[])
language plpgsql
volatile
as $fn$
declare
  v_strays bigint;
begin
  is_new := true;
  for v_i in 0..3 loop
    from_at := ordinaut._week(ordinaut.now()) + v_i * interval '7 days';
    foreach parent in array array['task_run', 'step', 'run_log', 'occurrence', 'event'] loop
      name := format('%s_%s', parent, to_char(from_at at time zone 'UTC', 'YYYYMMDD'));
      tables := array[parent || '_default'];
      /* What came while there was no partition moves into it, if that is little and not the
         journal.  Else it stays in the default one until it is pruned: this week has no partition
         then, but the next has. */
      continue when to_regclass('ordinaut.' || name) is not null;
      v_strays := ordinaut._strays(parent, from_at);
      if v_strays = 0 or v_strays <= 1000 and parent <> 'run_log' then
        return next;
      end if;
    end loop;
  end loop;

  is_new := false;
  for parent, name in
    select h.parent, c.relname
    from unnest(array['task_run', 'step', 'run_log', 'occurrence', 'event']) as h (parent)
    join pg_inherits as i on i.inhparent = to_regclass('ordinaut.' || h.parent)
    join pg_class as c on c.oid = i.inhrelid
    where p_before is not null and c.relname ~ $re$_\d{8}$$re$
    order by right(c.relname, 8), c.relname
  loop
    from_at := to_date(right(name, 8), 'YYYYMMDD')::timestamp at time zone 'UTC';
    if from_at + interval '7 days' <= p_before
      and not ordinaut._is_needed(parent, name, from_at, p_before)
    then
      tables := array[parent, name, parent || '_default'];
      return next;
    end if;
  end loop;

  -- Nobody deletes from the journal, row by row.
  if p_before is not null
    and exists (select from ordinaut.run_log_default)
    and not ordinaut._is_needed('run_log', 'run_log_default', null, p_before)
  then
    parent := 'run_log';
    name := 'run_log_default';
    from_at := null;
    tables := array[name];
    return next;
  end if;
end
$fn$;

comment on function ordinaut._partition_chores(timestamptz) is
  'The partitions to make, and those that ended before an instant (null: none) to drop, or to '
  'empty: the default one of the journal.';

create or replace function ordinaut._holders(p_tables text[])
returns text[]
language sql
volatile
as $fn$
  select coalesce(array_agg(l.virtualtransaction), '{}')
  from pg_locks as l
  where
    l.locktype = 'relation'
    and l.granted
    and l.database = (select d.oid from pg_database as d where d.datname = current_database())
    and l.relation in (
      select to_regclass('ordinaut.' || t.name) from unnest(p_tables) as t (name)
    )
    and l.pid is distinct from pg_backend_pid();
$fn$;

comment on function ordinaut._holders(text[]) is
  'The open transactions of others that have locked one of these tables.';

create or replace function ordinaut._try_exclusive(p_tables text[], p_waits boolean)
returns boolean
language plpgsql
volatile
set lock_timeout = '100ms'
as $fn$
begin
  for v_i in 1..cardinality(p_tables) loop
    -- Who has the first has kept everybody from the others.
    execute format('lock table only ordinaut.%I in access exclusive mode', p_tables[v_i])
      || case when p_waits and v_i = 1 then '' else ' nowait' end;
  end loop;
  return true;
exception
  when lock_not_available then
    return false;
end
$fn$;

comment on function ordinaut._try_exclusive(text[], boolean) is
  'Lock tables against everybody until commit, all or none; p_waits: 100 ms for the first.';

create or replace function ordinaut._do_partition(
  p_table  text,
  p_name   text,
  p_from   timestamptz,
  p_is_new boolean,
  p_tables text[],
  p_before timestamptz,
  p_waits  boolean
)
returns boolean
language plpgsql
volatile
set lock_timeout = '100ms'
as $fn$
declare
  v_default text := p_table || '_default';
  v_from text := ordinaut._partition_bound(p_table, p_from);
  v_to text := ordinaut._partition_bound(p_table, p_from + interval '7 days');
begin
  if not ordinaut._try_exclusive(p_tables, p_waits) then
    return false;
  elsif not p_is_new then
    if ordinaut._is_needed(p_table, p_name, p_from, p_before) then
      return false;
    elsif p_name = v_default then
      execute format('truncate ordinaut.%I', p_name);
    elsif p_table = 'task_run' then
      -- Its rows name the bodies that go with it; _clear_detached() deletes these, then it.
      execute format('alter table ordinaut.task_run detach partition ordinaut.%I', p_name);
    else
      execute format('drop table ordinaut.%I', p_name);
    end if;
    return true;
  end if;

  execute format(
    'create table ordinaut.%I (like ordinaut.%I including defaults including constraints)'
      -- Steps are updated in place: room for that beside each.
      || case p_table
        when 'step' then ' with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05)'
        else ''
      end,
    p_name, p_table);
  execute format(
    'with stray as ('
      || 'delete from ordinaut.%1$I as d where d.%2$I >= %3$L and d.%2$I < %4$L returning d.*)'
      || ' insert into ordinaut.%5$I select s.* from stray as s',
    v_default, ordinaut._partition_column(p_table), v_from, v_to, p_name);
  execute format(
    'alter table ordinaut.%I attach partition ordinaut.%I for values from (%L) to (%L)',
    p_table, p_name, v_from, v_to);
  return true;
exception
  when lock_not_available then
    return false;
end
$fn$;

comment on function ordinaut._do_partition(
  text, text, timestamptz, boolean, text[], timestamptz, boolean
) is
  'Make a partition, or drop it; false: others use the table. It is locked until commit.';

create or replace function ordinaut._keep_partitions(p_before timestamptz)
returns text
language plpgsql
volatile
as $fn$
declare
  v_chore record;
  v_held text[];
begin
  for v_try in 1..2 loop
    for v_chore in select c.* from ordinaut._partition_chores(p_before) as c loop
      if v_try = 2 and v_held && ordinaut._holders(v_chore.tables) then
        continue;  -- a dump, a report, or a transaction that somebody forgot
      elsif ordinaut._do_partition(v_chore.parent, v_chore.name, v_chore.from_at, v_chore.is_new,
        v_chore.tables, p_before, p_waits => v_try = 2)
      then
        return case when v_chore.is_new then 'partitions made'
          else v_chore.parent || ' partitions dropped' end;
      elsif v_try = 2 then
        return null;
      end if;
      v_held := v_held || ordinaut._holders(v_chore.tables);
    end loop;
    exit when v_held is null;
    -- Longer than settles take, shorter than a tick may be late.
    perform pg_sleep(0.1);
  end loop;
  return null;
end
$fn$;

comment on function ordinaut._keep_partitions(timestamptz) is
  'Make or drop one partition; null: there is none to make or drop, or others use the tables. '
  'The caller does nothing after it but commit.';

create or replace function ordinaut.ensure_partitions()
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_chore record;
  v_n bigint := 0;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('ordinaut.partitions', 7146)) then
    return 0;
  end if;
  for v_chore in select c.* from ordinaut._partition_chores(null) as c loop
    if ordinaut._do_partition(v_chore.parent, v_chore.name, v_chore.from_at, true, v_chore.tables,
      null, p_waits => false)
    then
      v_n := v_n + 1;
    end if;
  end loop;
  return v_n;
end
$fn$;

comment on function ordinaut.ensure_partitions() is
  'Make the partitions of this week and the next three, where they are missing and nobody uses '
  'the table at this moment. Returns how many.';
