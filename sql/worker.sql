/*
 * Workers: one row per process start, under a fresh uuid each time.  A lease lives as long as
 * its worker does, and a worker lives as long as it is seen: one small update per heartbeat,
 * however much it holds.
 *
 * A heartbeat carries the leases that the worker knows.  A lease here that it does not know was
 * taken by an exchange whose answer it never got: it goes back, uncharged.  One that it knows and
 * that is gone here is answered `lost`.
 *
 * A worker's id is no secret (views show it), so only the login that registered it speaks for it.
 */

create or replace function ordinaut._tool_matches(p_tools text[], p_tool text)
returns boolean
language sql
immutable
as $fn$
  select p_tool = any (p_tools) or exists (
    select from unnest(p_tools) as t (name)
    where right(t.name, 1) = '*' and starts_with(p_tool, left(t.name, -1))
  );
$fn$;

comment on function ordinaut._tool_matches(text[], text) is
  'Whether a list of tool names, where python:* stands for all that begin so, has this tool.';

create or replace function ordinaut._has_tool(p_queue text, p_tool text)
returns boolean
language sql
stable
as $fn$
  select exists (
    select
    from ordinaut.worker as w
    where
      p_queue = any (w.queues)
      and w.seen_at + w.ttl > ordinaut.now()
      and ordinaut._tool_matches(w.tools, p_tool)
  );
$fn$;

comment on function ordinaut._has_tool(text, text) is
  'Whether a live worker of this queue has this tool.';

create or replace function ordinaut.register_worker(
  p_worker_id   uuid,
  p_queues      text[],
  p_tools       text[],
  p_name        text     default null,
  p_version     text     default null,
  p_api         integer  default 1,
  p_ttl         interval default '60 s',
  p_concurrency integer  default 1
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_api integer;
  v_name text;
begin
  -- Not beside an install: it would not see us, to tell us that the API has changed.
  perform pg_advisory_xact_lock_shared(hashtext('ordinaut.schema'));
  select c.api into v_api from ordinaut.loaded_code as c order by c.at desc, c.api desc limit 1;
  if v_api is distinct from p_api then
    raise exception using
      errcode = 'OR090',
      message = format('this worker speaks API %s, the database API %s', p_api, v_api),
      hint = case
        when p_api < v_api then 'Upgrade the worker.'
        else 'Run `ordinaut install` of the worker''s version on the database.'
      end;
  end if;
  if p_worker_id is null or coalesce(cardinality(p_queues), 0) = 0 or p_tools is null then
    perform ordinaut._refuse('a worker needs an id, at least one queue, and its tools');
  end if;
  -- Every enqueue, exchange and sweep reads these rows: a huge one would be everybody's burden.
  perform ordinaut._check_count('the number of queues', cardinality(p_queues), 1, 1000);
  perform ordinaut._check_count('the number of tools', cardinality(p_tools), 0, 10000);
  foreach v_name in array p_queues loop
    perform ordinaut._check_label('queue', v_name);
  end loop;
  foreach v_name in array p_tools loop
    -- Where the name of a tool ends in *, it stands for many.
    perform ordinaut._check_tool(case when right(v_name, 1) = '*' then left(v_name, -1) || 'x'
      else v_name end);
  end loop;
  perform ordinaut._check_key('name', p_name);
  perform ordinaut._check_key('version', p_version);
  perform ordinaut._check_count('concurrency', p_concurrency, 0, 100000);
  perform ordinaut._check_span('ttl', coalesce(p_ttl, '-1 s'), '100 ms', '1 day');

  insert into ordinaut.worker as w (worker_id, login, name, queues, tools, version, concurrency,
    ttl, is_idle, started_at, seen_at)
  values (p_worker_id, session_user, p_name, p_queues, p_tools, p_version, p_concurrency, p_ttl,
    false, v_now, v_now)
  on conflict on constraint worker_pk do update
  set
    queues = excluded.queues,
    tools = excluded.tools,
    is_idle = false,
    is_stale = false,
    seen_at = excluded.seen_at
  where w.login = session_user;
  if not found then
    raise exception using
      errcode = 'OR030',
      message = format('worker %s was registered by another login than %s', p_worker_id,
        session_user),
      hint = 'Register under an id of its own, new at each start.';
  end if;
  perform ordinaut._unpark_tools();
end
$fn$;

comment on function ordinaut.register_worker(
  uuid, text[], text[], text, text, integer, interval, integer
) is
  'Announce a worker process under an id of its own (new at each start). It is alive while '
  'heartbeat() comes within p_ttl. Work that waited for its tools becomes due. Registering the '
  'same id again renews it. Only this login may act for it. Errors: OR090 (versions differ), '
  'OR030 (another login''s id), invalid_parameter_value.';

-- session_user: inside a security definer, current_user is the owner.
create or replace function ordinaut._may_end(p_login text)
returns boolean
language sql
stable
as $fn$
  select p_login = session_user or exists (
    select
    from pg_roles as r
    where
      r.rolname in ('ordinaut_admin', current_user) and pg_has_role(session_user, r.oid, 'member')
  );
$fn$;

comment on function ordinaut._may_end(text) is
  'Whether the login role may take a worker of this login off: it is the same, an admin, or the '
  'owner.';

create or replace function ordinaut._unpark_tools()
returns void
language plpgsql
volatile
as $fn$
declare
  v_ids uuid[];
begin
  select array_agg(p.work_id order by p.work_id) into v_ids
  from (
    select q.work_id
    from ordinaut.parked as q
    where
      q.reason = 'tool'
      and (q.queue, q.tool) in (
        select d.queue, d.tool
        from (
          select distinct t.queue, t.tool from ordinaut.parked as t where t.reason = 'tool'
        ) as d
        where ordinaut._has_tool(d.queue, d.tool)
      )
    order by q.work_id
    for update skip locked
  ) as p;
  if v_ids is not null then
    perform ordinaut._unpark(v_ids);
  end if;
end
$fn$;

comment on function ordinaut._unpark_tools() is
  'Make due what waited for a tool that a live worker has now.';

/* Take a lease apart that its lessee will not settle.  The caller has locked its row. */
create or replace function ordinaut._dissolve(p_lease ordinaut.lease, p_charged boolean, p_why text)
returns bigint
language plpgsql
volatile
as $fn$
declare
  v_nobody ordinaut.lease := p_lease;
  v_item ordinaut.work_item;
  v_left ordinaut.work_item[] := array[]::ordinaut.work_item[];
  v_n bigint := 0;
begin
  delete from ordinaut.lease as l where l.lease_id = p_lease.lease_id;
  -- History must not say that this lease settled these units: a zombie that tries would be told
  -- `already`, and commit.
  v_nobody.lease_id := null;
  for v_item in
    select u.*
    from unnest(p_lease.work) as u
    where u.work_id <> all (p_lease.settled)
    order by u.key, u.work_id
  loop
    -- Its run is held by somebody's open transaction: another sweep comes.
    if v_item.step is not null and ordinaut._try_runs(array[v_item.run_id]) = '{}' then
      v_left := v_left || v_item;
      continue;
    end if;
    perform ordinaut._settle_otherwise(v_nobody, v_item,
      case when p_charged then 'crashed' else 'released' end,
      jsonb_build_object('message', p_why, 'taken_from', p_lease.lease_id),
      p_lease.leased_at, ordinaut.now());
    v_n := v_n + 1;
  end loop;
  if v_left <> '{}' then
    perform ordinaut._keep_leased(
      p_lease, v_left, array(select u.work_id from unnest(p_lease.work) as u));
  end if;
  return v_n;
end
$fn$;

comment on function ordinaut._dissolve(ordinaut.lease, boolean, text) is
  'Give back the units of a lease, charged as a crash or not, and say why in the journal. '
  'Returns how many.';

create or replace function ordinaut._dissolve_where(
  p_worker_id uuid,
  p_known     uuid[],
  p_before    timestamptz,
  p_charged   boolean,
  p_why       text
)
returns bigint
language plpgsql
volatile
as $fn$
declare
  v_lease ordinaut.lease;
  v_n bigint := 0;
begin
  for v_lease in
    select l.*
    from ordinaut.lease as l
    where
      l.worker_id = p_worker_id
      and l.lease_id <> all (p_known)
      and l.leased_at < p_before
    order by l.lease_id
    for update skip locked
  loop
    v_n := v_n + ordinaut._dissolve(v_lease, p_charged, p_why);
  end loop;
  return v_n;
end
$fn$;

comment on function ordinaut._dissolve_where(uuid, uuid[], timestamptz, boolean, text) is
  'Dissolve the leases of a worker, except the known and the younger. Skips those being settled.';

create or replace function ordinaut.deregister_worker(
  p_worker_id uuid,
  p_state     text default 'stopped'
)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  if p_state not in ('stopped', 'dead') or p_state is null then
    perform ordinaut._refuse(format('state %L must be stopped or dead', p_state));
  end if;
  if exists (
    select from ordinaut.worker as w
    where w.worker_id = p_worker_id and not ordinaut._may_end(w.login)
  ) then
    raise exception using
      errcode = 'insufficient_privilege',
      message = format('worker %s was registered by another login than %s', p_worker_id,
        session_user),
      hint = 'That login may take it off, or a member of ordinaut_admin.';
  end if;
  delete from ordinaut.worker as w where w.worker_id = p_worker_id;
  return ordinaut._dissolve_where(p_worker_id, '{}', 'infinity', p_state = 'dead',
    format('its worker %s %s', p_worker_id,
      case p_state when 'dead' then 'died' else 'stopped' end));
end
$fn$;

comment on function ordinaut.deregister_worker(uuid, text) is
  'Take a worker off. stopped: what it holds goes back uncharged; dead: its leases are reaped at '
  'once, and each unit is charged a crash. Returns the units given back. An unknown worker gives '
  '0. Errors: invalid_parameter_value, insufficient_privilege (another login''s, and no admin).';

create or replace function ordinaut.heartbeat(
  p_id        uuid,
  p_for       interval default '1 min',
  p_lease_ids uuid[]   default null
)
returns table (kind text, lease_id uuid, work_id uuid)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_seen_at timestamptz;
begin
  select w.seen_at into v_seen_at
  from ordinaut.worker as w
  where w.worker_id = p_id and w.login = session_user;
  if not found then
    perform ordinaut._check_span('for', coalesce(p_for, '-1 s'), '1 ms', '30 days');
    update ordinaut.lease as l
    set expires_at = greatest(l.expires_at, v_now + p_for)
    where l.lease_id = p_id and l.worker_id is null;
    if found then
      return query
      select 'cancel', l.lease_id, u.work_id
      from ordinaut.lease as l
      cross join unnest(l.work) as u
      join ordinaut.cancel_request as c on c.run_id = u.run_id
      where l.lease_id = p_id and u.work_id <> all (l.settled);
      return;
    end if;
    raise exception using
      errcode = case when p_lease_ids is null then 'OR001' else 'OR022' end,
      message = format('%s is no live worker and no lease', p_id),
      hint = 'Stop the work: it was taken back. A worker registers anew under a new id.';
  end if;

  update ordinaut.worker as w set seen_at = v_now where w.worker_id = p_id;
  if not found then
    raise exception using
      errcode = 'OR022',
      message = format('worker %s was declared dead', p_id),
      hint = 'Drop what it holds and register under a new id.';
  end if;

  if p_lease_ids is not null then
    /* Only leases from before the last heartbeat: the list was made after that one returned, so
       it would name them.  A lease taken since may be missing from it and be well known. */
    perform ordinaut._dissolve_where(p_id, p_lease_ids, v_seen_at, false,
      'its worker never heard of this lease');
    return query
    select 'lost', k.id, null::uuid
    from unnest(p_lease_ids) as k (id)
    where not exists (
      select from ordinaut.lease as l where l.lease_id = k.id and l.worker_id = p_id
    );
  end if;
  return query
  select 'cancel', l.lease_id, u.work_id
  from ordinaut.lease as l
  cross join unnest(l.work) as u
  join ordinaut.cancel_request as c on c.run_id = u.run_id
  where l.worker_id = p_id and u.work_id <> all (l.settled);
  return query
  select 'sweep', null::uuid, null::uuid
  from ordinaut.queue as q
  join ordinaut.worker as w on w.worker_id = p_id and q.queue = any (w.queues)
  where q.sweep_requested_at > v_seen_at
  limit 1;
end
$fn$;

comment on function ordinaut.heartbeat(uuid, interval, uuid[]) is
  'A worker (p_id: its id) says that it lives, and which leases it knows: those of its leases '
  'that it does not know go back uncharged. Rows: lost (a lease it knows that is gone), cancel '
  '(wanted for a unit it holds), sweep. An ad-hoc lessee (p_id: its lease id) extends the lease '
  'to now + p_for. Errors: OR001 (no such lease), OR022 (no such worker), '
  'invalid_parameter_value.';
