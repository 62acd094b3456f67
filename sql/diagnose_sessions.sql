/*
 * Sessions that harm the engine, by name: who holds back vacuum, who holds what others wait for,
 * who fills the NOTIFY queue.
 *
 * PostgreSQL shows statement, state and age of other roles' sessions to members of
 * pg_read_all_stats only.  These functions run as the owner of the schema: what it may not see is
 * null here, and `blind` says so.  A statement can carry data, so p_full decides over it.
 *
 * Nothing here takes a lock on a table of the engine: the catalog and the statistics have it all.
 */

create or replace function ordinaut._lasting(p_span interval)
returns text
language sql
immutable
as $fn$
  select case
    when s.s < 10 then round(s.s, 1) || ' s'
    when s.s < 120 then round(s.s) || ' s'
    when s.s < 7200 then round(s.s / 60) || ' min'
    when s.s < 172800 then round(s.s / 3600) || ' h'
    else round(s.s / 86400) || ' days'
  end
  from (select extract(epoch from p_span)::numeric) as s (s);
$fn$;

comment on function ordinaut._lasting(interval) is 'A duration in one rounded unit: 47 min.';

create or replace function ordinaut._session(p_pid integer, p_full boolean)
returns jsonb
language sql
stable
as $fn$
  select jsonb_strip_nulls(jsonb_build_object(
    'pid', a.pid, 'user', a.usename, 'database', a.datname,
    'application_name', nullif(a.application_name, ''),
    'client', coalesce(host(a.client_addr), case when a.client_port = -1 then 'local' end),
    'backend_type', a.backend_type, 'state', a.state, 'transaction_since', a.xact_start,
    'state_since', a.state_change, 'waits_for', a.wait_event,
    'statement', case
      when p_full and a.query not in ('', '<insufficient privilege>') then left(a.query, 1000)
    end))
  from pg_stat_activity as a
  where a.pid = p_pid;
$fn$;

comment on function ordinaut._session(integer, boolean) is
  'What is known of a session, its statement only if p_full; null: there is none.';

create or replace function ordinaut._session_said(p_session jsonb)
returns text
language sql
immutable
as $fn$
  select format('pid %s (%s)', p_session ->> 'pid', concat_ws(', ',
    p_session ->> 'user', p_session ->> 'application_name',
    p_session ->> 'client', p_session ->> 'state'));
$fn$;

comment on function ordinaut._session_said(jsonb) is 'A session in a few words.';

/* The horizon before which vacuum removes what is dead: held by snapshots of this database, by
   open writes of any, by prepared transactions, and by what replication asks to keep. */
create or replace function ordinaut._diagnose_horizon(
  p_now      timestamptz,
  p_patience interval,
  p_full     boolean
)
returns table (problem text, severity text, subject text, detail text, since timestamptz,
  evidence jsonb, act text)
language plpgsql
stable
as $fn$
declare
  -- Where no time is known: what a busy system does in it.
  v_xids constant bigint := greatest(1, extract(epoch from p_patience) * 1000);
  v_dead bigint;
  v_said text;
  v_severity text;
begin
  select coalesce(sum(pg_stat_get_dead_tuples(c.oid)), 0) into v_dead
  from pg_class as c
  where c.relnamespace = 'ordinaut'::regnamespace and c.relkind = 'r';
  v_said := format('vacuum cannot remove what died since; Ordinaut has %s dead rows', v_dead);
  v_severity := case when v_dead > 100000 then 'critical' else 'warning' end;

  return query
  select
    'xmin_held',
    case when a.xact_start < p_now - 60 * p_patience then 'critical' else v_severity end,
    'pid ' || a.pid,
    format('%s has had a transaction open for %s: %s', ordinaut._session_said(n.session),
      coalesce(ordinaut._lasting(p_now - a.xact_start), a.xids || ' transactions'), v_said),
    a.xact_start, n.session || jsonb_build_object('xids', a.xids, 'dead_rows', v_dead),
    format(case when n.session ->> 'state' = 'active'
        then 'let it end, or: select pg_cancel_backend(%s)'
        else 'select pg_terminate_backend(%s); and give its role an '
          'idle_in_transaction_session_timeout'
      end, a.pid)
  from (
    select s.pid, s.xact_start, greatest(age(s.backend_xmin), age(s.backend_xid)) as xids
    from pg_stat_activity as s
    where
      s.pid <> pg_backend_pid()
      -- Hidden from who may not see: taken for a client.
      and coalesce(s.backend_type, '') not in ('autovacuum worker', 'walsender')
      and (s.backend_xid is not null
        or s.backend_xmin is not null and s.datname = current_database())
      -- The horizon does not wait for a vacuum.
      and not exists (select from pg_stat_progress_vacuum as v where v.pid = s.pid)
  ) as a
  cross join lateral ordinaut._session(a.pid, p_full) as n (session)
  where coalesce(a.xact_start < p_now - p_patience, a.xids > v_xids) and n.session is not null
  order by a.xids desc
  limit 5;

  return query
  select
    'xmin_prepared', 'critical', 'prepared transaction ' || p.gid,
    format('%s prepared it %s ago and has neither committed nor rolled it back: it keeps its '
      'locks, and %s', p.owner, ordinaut._lasting(p_now - p.prepared), v_said),
    p.prepared,
    jsonb_build_object('gid', p.gid, 'user', p.owner, 'database', p.database, 'dead_rows', v_dead),
    format('in database %s: commit prepared %L, or: rollback prepared %L', p.database, p.gid, p.gid)
  from pg_prepared_xacts as p
  where p.prepared < p_now - p_patience
  order by p.prepared
  limit 5;

  return query
  select
    'xmin_slot', v_severity, 'replication slot ' || r.slot_name,
    format('it keeps what the last %s transactions deleted, for %s: %s', age(r.xmin),
      case when r.active then 'a query on its standby (hot_standby_feedback)'
        else 'a standby that is not connected' end, v_said),
    null::timestamptz,
    jsonb_build_object('slot', r.slot_name, 'active', r.active, 'pid', r.active_pid,
      'xids', age(r.xmin), 'dead_rows', v_dead),
    case when r.active
      then 'end the long query on the standby, or set hot_standby_feedback = off there'
      else format('start the standby, or if it is no more: select pg_drop_replication_slot(%L)',
        r.slot_name)
    end
  from pg_replication_slots as r
  where age(r.xmin) > v_xids;

  return query
  select
    'xmin_standby', v_severity, 'standby ' || coalesce(nullif(a.application_name, ''), a.pid::text),
    format('a query there holds what the last %s transactions deleted (hot_standby_feedback): %s',
      age(a.backend_xmin), v_said),
    null::timestamptz,
    ordinaut._session(a.pid, p_full)
      || jsonb_build_object('xids', age(a.backend_xmin), 'dead_rows', v_dead),
    'end the long query on the standby, or set hot_standby_feedback = off there'
  from pg_stat_activity as a
  where a.backend_type = 'walsender' and age(a.backend_xmin) > v_xids;

  if not pg_is_in_recovery() then
    return query
    select
      'slot_behind', case when r.wal_status = 'lost' then 'warning' else 'critical' end,
      'replication slot ' || r.slot_name,
      format('nobody reads it: %s of WAL %s', pg_size_pretty(w.bytes),
        case when r.wal_status = 'lost' then 'are gone that it needs' else 'fill the disk' end),
      null::timestamptz,
      jsonb_build_object('slot', r.slot_name, 'wal_bytes', w.bytes, 'wal_status', r.wal_status),
      format('start its reader, or if it is no more: select pg_drop_replication_slot(%L)',
        r.slot_name)
    from pg_replication_slots as r
    cross join lateral pg_wal_lsn_diff(pg_current_wal_lsn(), r.restart_lsn) as w (bytes)
    where not r.active and (w.bytes > 2 ^ 30 or r.wal_status = 'lost');
  end if;
end
$fn$;

comment on function ordinaut._diagnose_horizon(timestamptz, interval, boolean) is
  'diagnose(): what keeps vacuum from removing dead rows, and WAL from being removed.';

/* A worker gives up a wait after 2 to 5 s and tries again, so who holds a lock that stops writes
   is named also at a moment at which nobody waits. */
create or replace function ordinaut._diagnose_locks(
  p_now      timestamptz,
  p_patience interval,
  p_full     boolean
)
returns table (problem text, severity text, subject text, detail text, since timestamptz,
  evidence jsonb, act text)
language sql
stable
as $fn$
  with locks as materialized (
    select l.*, c.relname
    from pg_locks as l
    left join pg_class as c
      on c.oid = l.relation and c.relnamespace = 'ordinaut'::regnamespace
      and l.database = (select d.oid from pg_database as d where d.datname = current_database())
    where l.pid is distinct from pg_backend_pid()
  ),
  prepared as (
    -- A prepared transaction has no pid, and keeps the number that its session had.
    select p.gid, p.owner, p.prepared, x.virtualtransaction
    from pg_prepared_xacts as p
    join locks as x on x.pid is null and x.transactionid = p.transaction and x.granted
  ),
  waiting as materialized (
    select l.pid, l.mode, l.waitstart, pg_blocking_pids(l.pid) as blockers,
      -- A wait for a transaction holds the row that it is about.
      coalesce(l.relname, (
        select min(o.relname) from locks as o where o.pid = l.pid and o.locktype = 'tuple'
      )) as relname
    from locks as l
    where
      not l.granted
      and l.waitstart < p_now - least(p_patience, interval '1 s')
      and exists (select from locks as o where o.pid = l.pid and o.relname is not null)
  ),
  culprit as (
    select b.pid
    from waiting as w
    cross join unnest(w.blockers) as b (pid)
    -- Who waits in turn is no culprit, unless they wait for each other.
    where b.pid not in (select o.pid from waiting as o)
    union
    select coalesce(l.pid, 0)
    from locks as l
    left join pg_stat_activity as a on a.pid = l.pid
    left join prepared as p on l.pid is null and p.virtualtransaction = l.virtualtransaction
    where
      l.granted
      and l.locktype = 'relation'
      and l.relname is not null
      and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
      and coalesce(a.xact_start, p.prepared) < p_now - least(p_patience, interval '1 s')
  ),
  told as (
    select
      c.pid, ordinaut._session(c.pid, p_full) as session,
      (
        select jsonb_agg(jsonb_build_object('table', h.relname, 'mode', h.mode) order by h.relname)
        from locks as h
        where
          h.granted and h.locktype = 'relation' and coalesce(h.pid, 0) = c.pid
          and h.relname !~ '_(idx|pk|key)$'
          and h.mode not in ('AccessShareLock', 'RowShareLock')
      ) as held,
      (
        select jsonb_agg(jsonb_build_object('gid', p.gid, 'user', p.owner, 'since', p.prepared))
        from prepared as p
        where c.pid = 0 and exists (
          select from locks as h
          where
            h.pid is null and h.relname is not null
            and h.virtualtransaction = p.virtualtransaction)
      ) as prepared,
      (
        select jsonb_agg(ordinaut._session(w.pid, p_full) - 'backend_type'
          || jsonb_build_object('waits_for', w.mode, 'table', w.relname, 'since', w.waitstart)
          order by w.waitstart)
        from waiting as w
        where c.pid = any (w.blockers)
      ) as waiters
    from culprit as c
  )
  select
    'lock_held', 'critical',
    case when t.pid = 0 then 'prepared transactions' else 'pid ' || t.pid end,
    format('%s holds %s; %s',
      case
        when t.pid = 0 then (
          select 'prepared transaction ' || string_agg(p ->> 'gid', ', ')
          from jsonb_array_elements(t.prepared) as p)
        else ordinaut._session_said(t.session)
      end,
      coalesce(
        (
          select string_agg(format('%s on %s', h.modes, h.tables), ', ' order by h.modes)
          from (
            select regexp_replace(x ->> 'mode', 'Lock$', '') as modes,
              string_agg(x ->> 'table', ', ') as tables
            from jsonb_array_elements(t.held) as x
            group by 1
          ) as h
        ), 'rows or an advisory lock'),
      case jsonb_array_length(coalesce(t.waiters, '[]'))
        when 0 then 'nobody waits for it just now'
        else format('%s wait for it, the first for %s', jsonb_array_length(t.waiters),
          ordinaut._lasting(p_now - (t.waiters -> 0 ->> 'since')::timestamptz))
      end),
    (coalesce(t.session -> 'transaction_since', t.prepared -> 0 -> 'since') #>> '{}')::timestamptz,
    coalesce(t.session, jsonb_build_object('prepared', t.prepared))
      || jsonb_build_object('holds', coalesce(t.held, '[]'),
        'waiters', coalesce(t.waiters, '[]')),
    case
      when t.pid = 0 then 'commit prepared …, or: rollback prepared …'
      else format('let it end, or: select pg_terminate_backend(%s)', t.pid)
    end
  from told as t
  where t.session is not null or t.prepared is not null;
$fn$;

comment on function ordinaut._diagnose_locks(timestamptz, interval, boolean) is
  'diagnose(): who holds locks on the tables of the engine that others wait for, or will.';

create or replace function ordinaut._diagnose_notify(p_full boolean)
returns table (problem text, severity text, subject text, detail text, since timestamptz,
  evidence jsonb, act text)
language sql
stable
as $fn$
  select
    'notify_queue', case when u.used > 0.25 then 'critical' else 'warning' end,
    coalesce('pid ' || (o.session ->> 'pid'), 'NOTIFY'),
    format('the NOTIFY queue is %s %% full: a session that listens does not read, %s; when it is '
      'full, commits that notify fail', round(100 * u.used::numeric, 1), coalesce(
        'most likely ' || ordinaut._session_said(o.session) || ', whose transaction is the oldest',
        'and has a transaction open')),
    (o.session ->> 'transaction_since')::timestamptz,
    jsonb_build_object('used', u.used) || coalesce(o.session, '{}'),
    coalesce(format('select pg_terminate_backend(%s); ', o.session ->> 'pid'), '')
      || 'the server''s log names the pid when the queue is half full; workers do without: '
      'notify = false'
  from (select pg_notification_queue_usage()) as u (used)
  left join lateral (
    -- Of any database: the queue is the cluster's.
    select ordinaut._session(a.pid, p_full) as session
    from pg_stat_activity as a
    where a.xact_start is not null and a.backend_type = 'client backend'
      and a.pid <> pg_backend_pid()
    order by a.xact_start
    limit 1
  ) as o on true
  where u.used > 0.005;
$fn$;

comment on function ordinaut._diagnose_notify(boolean) is
  'diagnose(): whether the NOTIFY queue fills up, and who does not read it.';
