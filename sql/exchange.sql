/*
 * Exchange: the worker's loop in one call.  Settle what finished, lease the next batch: one
 * transaction, one fsync, one round trip.
 *
 * The worker chooses the id of the new lease.  If that lease exists, this exchange was committed
 * before and its answer was lost: the same batch is answered, and nothing is settled twice.  Twins
 * in flight take turns on the worker's advisory lock.
 *
 * What is lost comes back as rows, not as an error, so that good results in the same call are kept.
 */

create or replace function ordinaut._settle_carefully(
  p_lease_id uuid,
  p_work_ids uuid[],
  p_outcomes text[],
  p_outputs  text[],
  p_errors   text[],
  p_elapsed  bigint[],
  p_now      timestamptz
)
returns table (kind text, lease_id uuid, work_id uuid, next ordinaut.work_item[])
language plpgsql
volatile
as $fn$
begin
  /* One by one, each in a subtransaction: only for a batch that a normal call could not store.
     One bad row must not take the others with it, and must not come back for ever. */
  for v_i in 1..cardinality(p_work_ids) loop
    begin
      return query
      select s.* from ordinaut._settle(p_lease_id, p_work_ids[v_i:v_i], p_outcomes[v_i:v_i],
        p_outputs[v_i:v_i], p_errors[v_i:v_i], p_elapsed[v_i:v_i], p_now, null, 0) as s;
    exception
      when data_exception or program_limit_exceeded or integrity_constraint_violation
        or statement_too_complex then
      begin
        return query
        select s.* from ordinaut._settle(p_lease_id, p_work_ids[v_i:v_i], array['failed'],
          array[null::text], array[jsonb_build_object(
            'message', format('The result could not be stored: %s', sqlerrm),
            'type', 'UnstorableResult', 'category', 'validation', 'code', 'E2002',
            'retryable', false, 'outcome', p_outcomes[v_i], 'output_lost', true,
            'preview', left(coalesce(p_outputs[v_i], p_errors[v_i]), 1000))::text],
          p_elapsed[v_i:v_i], p_now, null, 0) as s;
      exception
        -- Not a unit of this lease, or not an outcome: there is nothing to keep.
        when data_exception then
          return query
          select 'lost', p_lease_id, p_work_ids[v_i], null::ordinaut.work_item[];
      end;
    end;
  end loop;
end
$fn$;

comment on function ordinaut._settle_carefully(
  uuid, uuid[], text[], text[], text[], bigint[], timestamptz
) is
  'As _settle, unit by unit: one whose result cannot be stored ends failed, with its output '
  'truncated.';

create or replace function ordinaut.exchange(
  p_worker_id uuid,
  p_queue     text,
  p_lease_id  uuid,
  p_limit     integer,
  p_lease_ids uuid[]        default null,
  p_work_ids  uuid[]        default null,
  p_outcomes  text[]        default null,
  p_outputs   text[]        default null,
  p_errors    text[]        default null,
  p_elapsed   bigint[]      default null,
  p_floors    timestamptz[] default null,
  p_idle      boolean       default null,
  p_notes     jsonb         default null,
  p_careful   boolean       default false
)
returns table (
  kind          text,
  lease_id      uuid,
  work_id       uuid,
  run_id        uuid,
  task_id       uuid,
  step          text,
  tool          text,
  payload       jsonb,
  attempt       integer,
  failures      integer,
  max_attempts  integer,
  timeout       interval,
  priority      integer,
  run_at        timestamptz,
  scheduled_for timestamptz,
  key           text,
  extra         jsonb
)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_nestloop = off
set jit = off
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_n integer := coalesce(cardinality(p_work_ids), 0);
  v_fact record;
  v_lease_id uuid;
  v_work ordinaut.work_item[];
  v_next ordinaut.work_item[] := array[]::ordinaut.work_item[];
  v_room integer := 0;
  v_repeated boolean := false;
  v_sweep_at timestamptz;
  v_stale boolean;
  v_queues text[];
begin
  perform pg_advisory_xact_lock(hashtextextended(p_worker_id::text, 7147));
  select w.is_stale, w.queues into v_stale, v_queues
  from ordinaut.worker as w
  where w.worker_id = p_worker_id and w.login = session_user;
  if not found then
    raise exception using
      errcode = 'OR022',
      message = format('worker %s is not registered by %s', p_worker_id, session_user),
      hint = 'It was declared dead, or stopped. Drop what it holds and register under a new id.';
  end if;
  if p_lease_id is not null and p_limit > 0 and p_queue = any (v_queues) is not true then
    perform ordinaut._refuse(
      format('worker %s has not declared queue %L', p_worker_id, left(p_queue, 80)),
      'Register it with the queues that it serves.');
  end if;

  if p_lease_id is not null then
    select array(select u from unnest(l.work) as u where u.work_id <> all (l.settled)) into v_work
    from ordinaut.lease as l
    where l.lease_id = p_lease_id and l.worker_id = p_worker_id;
    v_repeated := found;
  end if;

  if v_repeated then
    for v_fact in
      select u.lease_id, u.work_id,
        case when exists (
          select from ordinaut.lease as l cross join unnest(l.work) as w
          where
            l.lease_id = u.lease_id and w.work_id = u.work_id and w.work_id <> all (l.settled)
        ) then 'busy' else 'already' end as kind
      from unnest(p_lease_ids, p_work_ids) as u (lease_id, work_id)
    loop
      kind := v_fact.kind; lease_id := v_fact.lease_id; work_id := v_fact.work_id;
      return next;
    end loop;
  elsif v_n > 0 then
    if (v_n, v_n, v_n, v_n, v_n) is distinct from (
      cardinality(p_lease_ids), cardinality(p_outcomes), cardinality(p_outputs),
      cardinality(p_errors), cardinality(p_elapsed))
    then
      perform ordinaut._refuse(
        format('the arrays of exchange differ in length from its %s units', v_n));
    end if;

    -- Steps that follow may be gone on with at once, where leasing has no bounds to ask about.
    if p_lease_id is not null and not v_stale and not exists (
      select from ordinaut.queue as q
      where q.queue = p_queue and (q.paused_at is not null or q.max_running is not null)
    ) then
      v_room := least(p_limit, 10000);
    end if;
    -- A loop because each lease is a row to fence on.  Ids ascending.
    for v_lease_id in select distinct u.id from unnest(p_lease_ids) as u (id) order by 1 loop
      for v_fact in
        select s.* from ordinaut._settle_part(v_lease_id, p_lease_ids, p_work_ids, p_outcomes,
          p_outputs, p_errors, p_elapsed, v_now, p_careful, p_queue,
          v_room - cardinality(v_next)) as s
      loop
        if v_fact.kind = 'next' then
          v_next := v_next || v_fact.next;
        else
          kind := v_fact.kind; lease_id := v_fact.lease_id; work_id := v_fact.work_id;
          return next;
        end if;
      end loop;
    end loop;
  end if;

  if p_notes is not null and not v_repeated then
    -- Only of units that the lease holds, or has settled: the journal is no place for what
    -- others did.  A tool that completes in its own transaction is ahead of its notes.
    perform ordinaut._note(n.lease_id, n.work_id, n.event, n.data)
    from jsonb_to_recordset(p_notes) as n (lease_id uuid, work_id uuid, event text, data jsonb)
    where
      (n.lease_id, n.work_id) in (
        select l.lease_id, u.work_id
        from ordinaut.lease as l
        cross join unnest(l.work) as u
        where l.lease_id in (
          select m.lease_id from jsonb_to_recordset(p_notes) as m (lease_id uuid))
      )
      or ordinaut._settled_before(n.lease_id, n.work_id);
  end if;
  if p_idle is not null then
    update ordinaut.worker as w
    set is_idle = p_idle
    where w.worker_id = p_worker_id and w.is_idle is distinct from p_idle;
  end if;

  if exists (select from ordinaut.cancel_request) then
    for v_fact in
      select l.lease_id, u.work_id
      from ordinaut.lease as l
      cross join unnest(l.work) as u
      join ordinaut.cancel_request as c on c.run_id = u.run_id
      where l.worker_id = p_worker_id and u.work_id <> all (l.settled)
    loop
      kind := 'cancel'; lease_id := v_fact.lease_id; work_id := v_fact.work_id;
      return next;
    end loop;
  end if;

  select q.sweep_requested_at into v_sweep_at
  from ordinaut.queue as q
  where q.queue = p_queue and q.sweep_requested_at > v_now - interval '65 s';
  if found then
    kind := 'sweep'; lease_id := null; work_id := null;
    extra := jsonb_build_object('at', v_sweep_at);
    return next;
  end if;

  if v_stale then
    kind := 'skew'; lease_id := null; work_id := null; extra := null;
    return next;
  elsif not v_repeated and p_lease_id is not null and p_limit > 0 then
    v_work := ordinaut._lease(p_lease_id, p_worker_id, null, p_queue, least(p_limit, 10000), null,
      p_floors, v_now, v_next);
  end if;
  return query
  select 'work', p_lease_id, i.work_id, i.run_id, i.task_id, i.step, i.tool,
    case when i.payload is not null then i.payload else ordinaut._body(i) end,
    i.attempt::integer, i.failures::integer, i.max_attempts::integer, i.timeout,
    i.priority::integer, i.run_at, i.scheduled_for, i.key, null::jsonb
  from unnest(v_work) as i;
end
$fn$;

comment on function ordinaut.exchange(
  uuid, text, uuid, integer, uuid[], uuid[], text[], text[], text[], bigint[], timestamptz[],
  boolean, jsonb, boolean
) is
  'A registered worker settles units (parallel arrays: lease, unit, outcome, output and error as '
  'JSON text, microseconds run) and leases up to p_limit more under the id it chose, in one '
  'transaction. outcomes: success, failed, timed_out, cancelled, crashed, released, declined, '
  'snoozed. Rows by kind: work (leased under p_lease_id), lost (a lease that was taken back), '
  'already (settled before), busy (a step whose run another transaction holds: still leased, '
  'send its result again), cancel (wanted for a held unit), sweep (look below the floors; '
  'extra.at), skew (an install has changed the API since: settle what is held and leave; nothing more '
  'is leased). Steps have two more outcomes: skipped, and waiting (its output says for what). '
  'Repeating a call with the same p_lease_id repeats its answer. p_careful settles unit by unit '
  'after a data error. p_idle declares that a NOTIFY on channel ordinaut would wake this worker. '
  'Errors: OR022 (not registered), invalid_parameter_value, 22xxx (send again with p_careful), '
  '40001.';

create or replace function ordinaut._settle_part(
  p_lease_id  uuid,
  p_lease_ids uuid[],
  p_work_ids  uuid[],
  p_outcomes  text[],
  p_outputs   text[],
  p_errors    text[],
  p_elapsed   bigint[],
  p_now       timestamptz,
  p_careful   boolean,
  p_queue     text,
  p_room      integer
)
returns table (kind text, lease_id uuid, work_id uuid, next ordinaut.work_item[])
language plpgsql
volatile
as $fn$
declare
  v_work_ids uuid[] := p_work_ids;
  v_outcomes text[] := p_outcomes;
  v_outputs text[] := p_outputs;
  v_errors text[] := p_errors;
  v_elapsed bigint[] := p_elapsed;
begin
  if p_lease_id <> any (p_lease_ids) then
    select array_agg(u.w order by u.n), array_agg(u.c order by u.n), array_agg(u.o order by u.n),
      array_agg(u.e order by u.n), array_agg(u.t order by u.n)
    into v_work_ids, v_outcomes, v_outputs, v_errors, v_elapsed
    from unnest(p_lease_ids, p_work_ids, p_outcomes, p_outputs, p_errors, p_elapsed)
      with ordinality as u (l, w, c, o, e, t, n)
    where u.l = p_lease_id;
  end if;

  if p_careful then
    return query select s.* from ordinaut._settle_carefully(
      p_lease_id, v_work_ids, v_outcomes, v_outputs, v_errors, v_elapsed, p_now) as s;
  else
    return query select s.* from ordinaut._settle(
      p_lease_id, v_work_ids, v_outcomes, v_outputs, v_errors, v_elapsed, p_now, p_queue,
      p_room) as s;
  end if;
end
$fn$;

comment on function ordinaut._settle_part(
  uuid, uuid[], uuid[], text[], text[], text[], bigint[], timestamptz, boolean, text, integer
) is
  'Settle those units of an exchange that belong to one lease.';

create or replace function ordinaut._is_progress(p_data jsonb)
returns boolean
language sql
immutable
as $fn$
  select coalesce(
    jsonb_path_exists(p_data, '$.percent ? (@.type() == "number" && @ >= 0 && @ <= 100)'), false);
$fn$;

comment on function ordinaut._is_progress(jsonb) is
  'Whether this tells of progress: its percent is from 0 to 100.';

create or replace function ordinaut._note(
  p_lease_id uuid,
  p_work_id  uuid,
  p_event    text,
  p_data     jsonb
)
returns void
language plpgsql
volatile
as $fn$
declare
  v_step constant ordinaut.step := ordinaut._step_of(p_work_id);
  v_event text := p_event;
begin
  if p_event not in ('log', 'progress') or p_event is null then
    perform ordinaut._refuse(
      format('event %L of unit %s must be log or progress', p_event, p_work_id));
  elsif p_event = 'progress' and not ordinaut._is_progress(p_data) then
    -- Views read the number; and a worker whose note is refused could settle nothing any more.
    v_event := 'log';
  end if;
  perform ordinaut._journal(v_event, coalesce(v_step.run_id, p_work_id),
    p_lease_id => p_lease_id, p_step => v_step.name, p_detail =>
    case
      when pg_column_size(p_data) <= 65536 then p_data
      else jsonb_build_object('truncated', true, 'preview', left(p_data::text, 10000))
    end);
end
$fn$;

comment on function ordinaut._note(uuid, uuid, text, jsonb) is
  'Append a tool''s own line or progress to the journal; more than 64 kB is truncated, and what '
  'is no progress is a line. Errors: invalid_parameter_value.';

create or replace function ordinaut.log_work(
  p_lease_id uuid,
  p_work_id  uuid,
  p_event    text,
  p_data     jsonb
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  if not exists (
    select
    from ordinaut.lease as l
    cross join unnest(l.work) as u
    where l.lease_id = p_lease_id and u.work_id = p_work_id
  ) then
    raise exception using
      errcode = 'OR001',
      message = format('lease %s does not hold unit %s', p_lease_id, p_work_id),
      hint = 'Stop: the lease was taken back.';
  elsif p_event = 'progress' and not ordinaut._is_progress(p_data) then
    perform ordinaut._refuse(
      format('progress of unit %s is not from 0 to 100: %s', p_work_id,
        coalesce(left(p_data ->> 'percent', 40), 'no percent')),
      'As in {"percent": 40, "note": "row 400 of 1000"}.');
  end if;
  perform ordinaut._note(p_lease_id, p_work_id, p_event, p_data);
end
$fn$;

comment on function ordinaut.log_work(uuid, uuid, text, jsonb) is
  'Append a line (event log) or progress (event progress: {"percent": n, "note": s}) of a leased '
  'unit to the journal. Errors: OR001, invalid_parameter_value.';
