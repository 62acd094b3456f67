/*
 * The server under the engine: what it promises (durability, being the primary), whether it keeps
 * the tables in shape, whether the tables are as they were installed.  Statistics and catalog
 * only, so that it costs the same with a small history and a large one.
 */

create or replace function ordinaut._diagnose_server()
returns table (problem text, severity text, subject text, detail text, since timestamptz,
  evidence jsonb, act text)
language plpgsql
stable
as $fn$
begin
  if pg_is_in_recovery() then
    return query
    select 'standby', 'critical', current_database()::text,
      'this server is a standby: nothing can be enqueued or leased here', null::timestamptz,
      '{}'::jsonb, 'connect to the primary: a DSN with all hosts and '
        'target_session_attrs=read-write finds it';
  elsif current_setting('default_transaction_read_only')::boolean then
    return query
    select 'read_only', 'critical', current_database()::text,
      'default_transaction_read_only is on: nothing can be written', null::timestamptz,
      '{}'::jsonb, 'somebody set it for the server, this database or this role: take it back';
  end if;

  return query
  select 'not_durable', 'warning', s.name,
    format('%s is off: %s', s.name, case s.name
      when 'fsync' then 'a crash of the host can destroy the database'
      when 'full_page_writes' then 'a crash of the host can leave torn pages'
      else 'a crash of the server loses work that was confirmed, and runs again what had ended'
    end), null::timestamptz,
    jsonb_build_object('setting', s.name, 'source', s.source, 'file', s.sourcefile),
    format('set %s = on, unless this data is worth nothing', s.name)
  from pg_settings as s
  where s.name in ('fsync', 'full_page_writes', 'synchronous_commit') and s.setting = 'off'
  union all
  select 'not_durable', 'warning', w.who,
    format('synchronous_commit is off for %s: a crash of the server loses work that was '
      'confirmed, and runs again what had ended', w.who), null,
    jsonb_build_object('setting', 'synchronous_commit', 'for', w.who),
    format('alter %s reset synchronous_commit', w.who)
  from pg_db_role_setting as d
  cross join lateral (
    select concat_ws(' in ',
      'role ' || (select quote_ident(r.rolname) from pg_roles as r where r.oid = d.setrole),
      'database ' || (select quote_ident(b.datname) from pg_database as b
        where b.oid = d.setdatabase))
  ) as w (who)
  where
    d.setdatabase in (0, (select b.oid from pg_database as b where b.datname = current_database()))
    and 'synchronous_commit=off' = any (d.setconfig);

  return query
  select 'no_sync_standby', 'critical', s.setting,
    'a synchronous standby is asked for and none is connected: commits hang', null::timestamptz,
    jsonb_build_object('synchronous_standby_names', s.setting),
    'start it, or take it out of synchronous_standby_names'
  from pg_settings as s
  where
    s.name = 'synchronous_standby_names' and s.setting <> ''
    and current_setting('synchronous_commit') not in ('off', 'local')
    -- Who may not see the states of standbys sees null, and can only count them.
    and not exists (
      select from pg_stat_replication as r
      where coalesce(r.sync_state in ('sync', 'quorum'), true)
    )
    and not pg_is_in_recovery();
end
$fn$;

comment on function ordinaut._diagnose_server() is
  'diagnose(): a server that is a standby or read-only, durability that was turned off, a '
  'synchronous standby that is missing.';

create or replace function ordinaut._diagnose_clock(p_now timestamptz)
returns table (problem text, severity text, subject text, detail text, since timestamptz,
  evidence jsonb, act text)
language sql
stable
as $fn$
  select
    'clock_stepped_back', 'critical', 'server clock',
    format('the server''s clock reads %s less than it did: what was stamped since is not due yet, '
      'and the dead seem alive', ordinaut._lasting(t.high - p_now)),
    null::timestamptz, jsonb_build_object('now', p_now, 'highest', t.high),
    'keep the clock of the server by NTP; the next reap() repairs what is queued'
  from (
    select greatest(
      (select e.clock_high from ordinaut.server_epoch as e),
      (select max(w.seen_at) from ordinaut.worker as w))
  ) as t (high)
  where t.high > p_now + interval '1 s';
$fn$;

comment on function ordinaut._diagnose_clock(timestamptz) is
  'diagnose(): whether the server''s clock stepped back.';

create or replace function ordinaut._diagnose_connections(
  p_now      timestamptz,
  p_patience interval
)
returns table (problem text, severity text, subject text, detail text, since timestamptz,
  evidence jsonb, act text)
language sql
stable
as $fn$
  with client as materialized (
    select coalesce(nullif(a.application_name, ''), a.usename, 'unnamed') as name
    from pg_stat_activity as a
    where coalesce(a.backend_type, 'client backend') = 'client backend'
  ),
  used as (
    select
      count(*) as n,
      current_setting('max_connections')::integer
        - current_setting('superuser_reserved_connections')::integer as most
    from client as c
  )
  select
    'connections', case when u.n >= 0.95 * u.most then 'critical' else 'warning' end,
    (g.names ->> 0), format('%s of %s connections are taken: %s', u.n, u.most, g.said),
    null::timestamptz, jsonb_build_object('used', u.n, 'max', u.most, 'by', g.names),
    'fewer connections for those named, or a pooler before them; few workers with a larger '
    'concurrency take fewer than many'
  from used as u
  cross join lateral (
    select jsonb_agg(t.name order by t.n desc) as names,
      string_agg(format('%s by %s', t.n, t.name), ', ' order by t.n desc) as said
    from (
      select c.name, count(*) as n from client as c group by c.name order by 2 desc limit 5
    ) as t
  ) as g
  where u.n >= 0.85 * u.most
  union all
  -- Sessions that we may not look into could be the culprits of everything above.
  select
    'blind', 'info', current_user::text,
    format('%s, who owns Ordinaut, may not see what %s sessions of other roles do', current_user,
      count(*)),
    null, jsonb_build_object('sessions', count(*)),
    format('grant pg_read_all_stats to %I', current_user)
  from pg_stat_activity as a
  where a.query = '<insufficient privilege>' and a.datname = current_database()
  having count(*) > 0
  union all
  select 'commits_hang', 'critical', 'synchronous standby',
    format('%s sessions wait for a synchronous standby, the first for %s: what they committed is '
      'not confirmed', count(*), ordinaut._lasting(p_now - min(a.state_change))),
    min(a.state_change), jsonb_build_object('pids', jsonb_agg(a.pid),
      'synchronous_standby_names', current_setting('synchronous_standby_names')),
    'start the standby that synchronous_standby_names asks for, or take it out of there'
  from pg_stat_activity as a
  where a.wait_event = 'SyncRep' and a.state_change < p_now - least(p_patience, interval '10 s')
  having count(*) > 0;
$fn$;

comment on function ordinaut._diagnose_connections(timestamptz, interval) is
  'diagnose(): whether connections run out, and whose they are; commits that wait for a standby; '
  'and whether the owner may see what sessions do.';

/* A table's bound is ten times the dead rows at which autovacuum is to come, and three of the
   minutes that it sleeps: a busy queue passes the first in between, and a healthy one not both. */
create or replace function ordinaut._diagnose_tables(
  p_now      timestamptz,
  p_patience interval
)
returns table (problem text, severity text, subject text, detail text, since timestamptz,
  evidence jsonb, act text)
language plpgsql
stable
as $fn$
declare
  v_is_on constant boolean := current_setting('autovacuum')::boolean
    and current_setting('track_counts')::boolean;
  v_before constant timestamptz := p_now
    - 3 * least(p_patience, current_setting('autovacuum_naptime')::interval);
  v_made timestamptz;
begin
  select min(k.at) into v_made from ordinaut.loaded_code as k;

  return query
  with rel as materialized (
    select c.oid, c.relname::text as name,
      coalesce((o.value ->> 'autovacuum_enabled')::boolean, true) as is_on,
      coalesce(o.value ->> 'autovacuum_vacuum_threshold',
          current_setting('autovacuum_vacuum_threshold'))::numeric
        + coalesce(o.value ->> 'autovacuum_vacuum_scale_factor',
          current_setting('autovacuum_vacuum_scale_factor'))::numeric
        * greatest(c.reltuples, 0)::numeric as due_at,
      pg_stat_get_dead_tuples(c.oid) as dead, pg_stat_get_live_tuples(c.oid) as live,
      greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid))
        as vacuumed_at
    from pg_class as c
    cross join lateral (
      select jsonb_object_agg(p.option_name, p.option_value)
      from pg_options_to_table(c.reloptions) as p
    ) as o (value)
    where c.relnamespace = 'ordinaut'::regnamespace and c.relkind = 'r'
  )
  select 'not_vacuumed', case when r.dead > 100 * r.due_at then 'critical' else 'warning' end,
    r.name,
    format('%s dead rows beside %s, and %s', r.dead, r.live,
      coalesce('the last vacuum was ' || ordinaut._lasting(p_now - r.vacuumed_at) || ' ago',
        'it was never vacuumed')
      || case
        when not v_is_on then ': autovacuum is off'
        when not r.is_on then ': autovacuum is off for this table'
        else ': autovacuum does not come, or does not get through'
      end),
    coalesce(r.vacuumed_at, v_made),
    jsonb_build_object('dead_rows', r.dead, 'live_rows', r.live, 'bound', 10 * r.due_at,
      'last_vacuum', r.vacuumed_at),
    format('vacuum ordinaut.%I; and more autovacuum_max_workers, if others take them all', r.name)
  from rel as r
  where
    r.dead > 10 * r.due_at
    and coalesce(r.vacuumed_at, v_made) < v_before
    and not exists (select from pg_stat_progress_vacuum as v where v.relid = r.oid)
  union all
  select 'autovacuum_off', 'warning', r.name,
    'autovacuum is off for this table: dead rows pile up, and leases slow down', null,
    '{}'::jsonb, format('alter table ordinaut.%I reset (autovacuum_enabled)', r.name)
  from rel as r
  where not r.is_on
  union all
  select 'autovacuum_off', 'warning', 'server',
    'autovacuum or track_counts is off: dead rows pile up, and leases slow down', null,
    '{}'::jsonb, 'set autovacuum = on and track_counts = on'
  where not v_is_on;

  return query
  -- More than two pages a row; what is left of a large backlog, or of a long held horizon.
  select 'table_bloated', 'info', r.relname::text,
    format('%s for %s rows of %s', pg_size_pretty(r.relpages * 8192::bigint),
      pg_stat_get_live_tuples(t.oid), t.relname),
    null::timestamptz,
    jsonb_build_object('pages', r.relpages, 'live_rows', pg_stat_get_live_tuples(t.oid)),
    case when r.relkind = 'i' then format('reindex index concurrently ordinaut.%I', r.relname)
      else format('vacuum full ordinaut.%I, in a quiet minute: all wait for it', r.relname) end
  from pg_class as r
  left join pg_index as i on i.indexrelid = r.oid
  join pg_class as t on t.oid = coalesce(i.indrelid, r.oid)
  where
    r.relnamespace = 'ordinaut'::regnamespace
    and t.relname in ('due_work', 'parked', 'lease', 'hold', 'worker', 'task_schedule', 'queue')
    and r.relpages > 16384
    and r.relpages > 2 * pg_stat_get_live_tuples(t.oid);

  return query
  select 'wraparound', case when a.share > 0.7 then 'critical' else 'warning' end, a.name,
    format('its oldest row is %s transactions old, of 2^31 at which the server stops: autovacuum '
      'does not get through', a.n),
    null::timestamptz, jsonb_build_object('age', a.n),
    'look for xmin_held above, then: vacuum (freeze, verbose) ' || a.name
  from (
    select coalesce(nullif(n.nspname, 'pg_toast') || '.', 'pg_toast.') || c.relname,
      greatest(age(c.relfrozenxid), mxid_age(c.relminmxid)),
      greatest(age(c.relfrozenxid), mxid_age(c.relminmxid)) / 2 ^ 31
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where c.relkind in ('r', 't', 'm')
    order by 2 desc
    limit 1
  ) as a (name, n, share)
  where a.n > 2 * current_setting('autovacuum_freeze_max_age')::bigint;
end
$fn$;

comment on function ordinaut._diagnose_tables(timestamptz, interval) is
  'diagnose(): tables past their bound of dead rows or of size, autovacuum that is off, and '
  'transaction ids that run out.';

create or replace function ordinaut._diagnose_catalog(p_now timestamptz)
returns table (problem text, severity text, subject text, detail text, since timestamptz,
  evidence jsonb, act text)
language sql
stable
as $fn$
  select 'partition_missing', case when w.i = 0 then 'critical' else 'warning' end,
    format('%s of %s', t.name, to_char(w.at at time zone 'UTC', 'YYYY-MM-DD')),
    format('%s has no partition for the week of %s: %s', t.name,
      to_char(w.at at time zone 'UTC', 'YYYY-MM-DD'), case w.i
        when 0 then 'its rows go to the default one, and leave it one by one'
        else 'nobody keeps house, or it cannot'
      end),
    null::timestamptz, jsonb_build_object('table', t.name, 'from', w.at),
    'start ordinaut scheduler, or: select ordinaut.ensure_partitions()'
  from unnest(array['task_run', 'step', 'run_log', 'occurrence', 'event']) as t (name)
  cross join (values (0), (1)) as n (i)
  cross join lateral (
    select n.i, ordinaut._week(p_now) + n.i * interval '7 days'
  ) as w (i, at)
  where to_regclass(format('ordinaut.%s_%s', t.name,
    to_char(w.at at time zone 'UTC', 'YYYYMMDD'))) is null
  union all
  select 'table_unlogged', 'critical', c.relname,
    'it is unlogged: empty after a crash, and on every standby', null, '{}'::jsonb,
    format('alter table ordinaut.%I set logged', c.relname)
  from pg_class as c
  where
    c.relnamespace = 'ordinaut'::regnamespace and c.relkind = 'r' and c.relpersistence = 'u'
  union all
  select 'index_invalid', 'warning', i.indexrelid::regclass::text,
    'it was never finished: it costs its writes and serves no reader', null, '{}'::jsonb,
    format('reindex index concurrently %s', i.indexrelid::regclass)
  from pg_index as i
  join pg_class as c on c.oid = i.indexrelid and c.relnamespace = 'ordinaut'::regnamespace
  where c.relkind = 'i' and not (i.indisvalid and i.indisready)
  union all
  select 'trigger_disabled', 'critical', format('%s on %s', g.tgname, c.relname),
    'it guards what may become of a state, and is off', null, '{}'::jsonb,
    format('alter table ordinaut.%I enable trigger %I', c.relname, g.tgname)
  from pg_trigger as g
  join pg_class as c on c.oid = g.tgrelid and c.relnamespace = 'ordinaut'::regnamespace
  where g.tgenabled not in ('O', 'A') and g.tgparentid = 0;
$fn$;

comment on function ordinaut._diagnose_catalog(timestamptz) is
  'diagnose(): partitions that are missing, and tables, indexes and triggers that somebody '
  'changed.';
