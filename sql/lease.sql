/*
 * Leasing: a worker borrows a batch of work.
 *
 *   due_work --delete … skip locked--> lease (one row per batch) | parked (its key is busy)
 *                                      | a run of steps: its row, its steps, and the first of them
 *
 * The lease id is the fencing token.  Nothing here waits: rows that others lock are skipped, a
 * key whose mutex is taken is put back.  (Only the row of a queue with max_running is waited
 * for, by leases of that queue, before anything else is held.)
 *
 * `for update` stands inside the sub-select: on a reference to a CTE it locks nothing.  `ctid =
 * any (array(…))` gives one plan shape, never more rows than asked, and no second index descent.
 * One lateral probe per priority makes run_at a boundary of the index, so that one table can
 * hold a million future rows (0.3 ms against 43 ms).
 */

create or replace function ordinaut._lease(
  p_lease_id   uuid,
  p_worker_id  uuid,
  p_holder     text,
  p_queue      text,
  p_limit      integer,
  p_expires_at timestamptz,
  p_floors     timestamptz[],
  p_now        timestamptz,
  p_next       ordinaut.work_item[] default '{}'
)
returns ordinaut.work_item[]
language plpgsql
volatile
as $fn$
declare
  v_limit integer := p_limit - cardinality(p_next);
  v_paused_at timestamptz;
  v_max_running integer;
  v_work ordinaut.work_item[];
  v_suspect boolean;
  v_keyed boolean;
  v_starting boolean;
  v_steps boolean;
  v_started ordinaut.work_item[];
  v_next ordinaut.work_item[] := p_next;
  v_guarded boolean := exists (select from ordinaut.breaker as b where b.state <> 'closed');
begin
  select q.paused_at, q.max_running into v_paused_at, v_max_running
  from ordinaut.queue as q
  where q.queue = p_queue;
  if v_paused_at is not null then
    v_limit := 0;
  end if;
  if v_max_running is not null then
    v_limit := least(v_limit, ordinaut._room_to_run(p_queue));
  end if;
  -- A suspect ends its batch, and what lies behind it is taken and put back: in small bites.
  if exists (
    select from ordinaut.due_work as w
    where w.queue = p_queue and w.crashes > 0 and w.run_at <= p_now
  ) then
    v_limit := least(v_limit, 10);
  end if;

  if v_guarded and v_next <> '{}' then
    v_next := ordinaut._pass_breakers(v_next, '{}', p_now);
  end if;
  -- Again, while all that was taken had to be parked: an empty answer sends a worker to sleep.
  for v_round in 1..20 loop
    exit when v_limit < 1;

    with taken as (
      delete from ordinaut.due_work as w
      where w.ctid = any (array(
        select z.tid
        from generate_series(1, 9) as p (priority)
        cross join lateral (
          select y.ctid as tid
          from ordinaut.due_work as y
          where
            y.queue = p_queue
            and y.priority = p.priority
            and y.run_at >= case
              when p_floors[p.priority] is null then '-infinity'
              else least(p_floors[p.priority], p_now - interval '50 ms')
            end
            and y.run_at <= p_now
          order by y.run_at
          limit v_limit
          for update skip locked
        ) as z
        limit v_limit
      ))
      returning w.*
    )
    select
      array_agg(
        row(t.work_id, t.run_id, t.step, t.task_id, t.queue, t.priority, t.run_at, t.scheduled_for,
          t.enqueued_at, t.attempt + 1, t.failures, t.crashes, t.max_attempts, t.timeout, t.tool,
          t.key, t.key_limit, t.idempotency_key, t.retry, t.retry_of, t.payload,
          t.pipeline_id)::ordinaut.work_item
        order by t.priority, t.run_at, t.work_id),
      bool_or(t.crashes > 0),
      bool_or(t.key is not null),
      bool_or(t.pipeline_id is not null and t.step is null),
      bool_or(t.step is not null)
    into v_work, v_suspect, v_keyed, v_starting, v_steps
    from taken as t;

    exit when v_work is null;
    if v_suspect and cardinality(v_work) + cardinality(v_next) > 1 then
      v_work := ordinaut._isolate_suspect(v_work, v_next = '{}');
    end if;
    if exists (select from ordinaut.cancel_request) then
      v_work := ordinaut._drop_cancelled(v_work);
    end if;
    if v_guarded then
      v_work := ordinaut._pass_breakers(v_work, v_next, p_now);
    end if;
    if v_keyed then
      v_work := ordinaut._take_keys(v_work);
    end if;
    if v_steps then
      v_work := ordinaut._begin_steps(v_work, p_now);
    end if;
    if v_starting then
      v_started := ordinaut._start_runs(array(
        select w from unnest(v_work) as w where w.pipeline_id is not null and w.step is null),
        p_queue, p_now);
      v_work := array(
        select w from unnest(v_work) as w where w.pipeline_id is null or w.step is not null);
      if v_guarded then
        v_started := ordinaut._pass_breakers(v_started, v_next || v_work, p_now);
      end if;
      v_work := v_work || v_started;
    end if;
    exit when cardinality(v_work) > 0;
  end loop;

  if cardinality(v_next) > 0 then
    v_work := v_next || v_work;
  end if;
  if coalesce(cardinality(v_work), 0) = 0 then
    return null;
  end if;
  insert into ordinaut.lease (lease_id, worker_id, holder, queue, leased_at, expires_at, size, work)
  values (p_lease_id, p_worker_id, p_holder, p_queue, p_now, p_expires_at, cardinality(v_work),
    v_work);
  return v_work;
end
$fn$;

comment on function ordinaut._lease(
  uuid, uuid, text, text, integer, timestamptz, timestamptz[], timestamptz, ordinaut.work_item[]
) is
  'Move up to p_limit due units of a queue into a new lease, with the steps p_next that the '
  'caller goes on with, and return them; null when there are none.';

-- Serialises the leases of a limited queue on its row, for the rest of their transactions.
create or replace function ordinaut._room_to_run(p_queue text)
returns integer
language plpgsql
volatile
as $fn$
declare
  v_max integer;
  v_running bigint;
begin
  -- Paused while we waited: then there is no room, whatever the limit.
  select case when q.paused_at is null then q.max_running else 0 end into v_max
  from ordinaut.queue as q
  where q.queue = p_queue
  for no key update;
  -- A statement of its own: it must see what the leases that we waited for have taken.
  select coalesce(sum(l.size - cardinality(l.settled)), 0) into v_running
  from ordinaut.lease as l
  where l.queue = p_queue;
  return greatest(v_max - v_running, 0);
end
$fn$;

comment on function ordinaut._room_to_run(text) is
  'How many more units of a limited queue may be leased. Holds the queue''s row until commit.';

-- Put taken units back as they were: their lease did not happen.
create or replace function ordinaut._untake(p_items ordinaut.work_item[])
returns void
language plpgsql
volatile
as $fn$
declare
  v_item ordinaut.work_item;
begin
  foreach v_item in array p_items loop
    v_item.attempt := v_item.attempt - 1;
    perform ordinaut._put_due(array[v_item]);
  end loop;
end
$fn$;

comment on function ordinaut._untake(ordinaut.work_item[]) is
  'Undo the taking of units that this lease will not hold.';

-- Work that a worker died with may have killed it, and would take its batch with it again.  At
-- the head of the line it is leased alone; behind others it ends the batch, and is the head of
-- the next: leasing what follows it would move the worker's floor past it.
create or replace function ordinaut._isolate_suspect(
  p_work     ordinaut.work_item[],
  p_is_whole boolean
)
returns ordinaut.work_item[]
language plpgsql
volatile
as $fn$
declare
  v_n integer := case when p_is_whole then 1 else 0 end;
begin
  if (p_work[1]).crashes = 0 then
    while (p_work[v_n + 1]).crashes = 0 loop
      v_n := v_n + 1;
    end loop;
  end if;
  perform ordinaut._untake(p_work[v_n + 1:]);
  return p_work[1:v_n];
end
$fn$;

comment on function ordinaut._isolate_suspect(ordinaut.work_item[], boolean) is
  'Keep the head alone if it is a suspect (none, if they are not the whole batch), else the '
  'units before the first; put the rest back.';

create or replace function ordinaut._drop_cancelled(p_work ordinaut.work_item[])
returns ordinaut.work_item[]
language plpgsql
volatile
as $fn$
declare
  v_item ordinaut.work_item;
  v_kept ordinaut.work_item[] := array[]::ordinaut.work_item[];
begin
  foreach v_item in array p_work loop
    -- Of a step that was missed by the cancel, its worker is told at once.
    if v_item.step is null and exists (
      select from ordinaut.cancel_request as c where c.run_id = v_item.run_id
    ) then
      v_item.attempt := v_item.attempt - 1;
      perform ordinaut._finish_cancelled(v_item);
    else
      v_kept := v_kept || v_item;
    end if;
  end loop;
  return v_kept;
end
$fn$;

comment on function ordinaut._drop_cancelled(ordinaut.work_item[]) is
  'End the units whose cancel was requested while they moved; return the others.';

create or replace function ordinaut._finish_cancelled(
  p_item       ordinaut.work_item,
  p_worker_id  uuid default null,
  p_lease_id   uuid default null,
  p_started_at timestamptz default null
)
returns void
language plpgsql
volatile
as $fn$
declare
  v_request ordinaut.cancel_request;
begin
  select c.* into v_request from ordinaut.cancel_request as c where c.run_id = p_item.run_id;
  perform ordinaut._finish(
    p_item, 'cancelled', null,
    jsonb_build_object(
      'message', 'cancelled by ' || coalesce(v_request.requested_by, ordinaut._actor()),
      'note', v_request.note),
    p_worker_id, p_lease_id, p_started_at);
  perform ordinaut._journal('cancelled', p_item.run_id, p_item.task_id, p_item.queue,
    p_item.attempt, p_worker_id, p_lease_id,
    jsonb_build_object('requested_by', v_request.requested_by, 'note', v_request.note));
end
$fn$;

comment on function ordinaut._finish_cancelled(ordinaut.work_item, uuid, uuid, timestamptz) is
  'Place a unit in task_run as cancelled, with who asked for it.';

/* Keys in ascending order, each only tried.  A mutex that somebody holds means that a slot of
   this key moves just now: parking could miss it, so the work goes back for a moment. */
create or replace function ordinaut._take_keys(p_work ordinaut.work_item[])
returns ordinaut.work_item[]
language plpgsql
volatile
as $fn$
declare
  v_item ordinaut.work_item;
  v_back uuid[] := array[]::uuid[];
  v_key text;
  v_locked boolean;
begin
  for v_item in
    select i.* from unnest(p_work) as i
    where i.key is not null
    order by i.key, i.priority, i.run_at, i.work_id
  loop
    if v_item.key is distinct from v_key then
      v_key := v_item.key;
      v_locked := ordinaut._try_key(v_key);
    end if;
    continue when v_locked and ordinaut._take_slot(v_item);

    v_back := v_back || v_item.work_id;
    v_item.attempt := v_item.attempt - 1;
    if v_locked then
      perform ordinaut._park(v_item, 'key');
    else
      v_item.run_at := ordinaut.now() + interval '20 ms';
      perform ordinaut._put_due(array[v_item]);
    end if;
  end loop;

  return coalesce((
    select array_agg(i order by i.priority, i.run_at, i.work_id)
    from unnest(p_work) as i
    where i.work_id <> all (v_back)
  ), '{}');
end
$fn$;

comment on function ordinaut._take_keys(ordinaut.work_item[]) is
  'Take a slot for each unit with a key; park those that find none, and return the rest.';

-- What a lessee is told of its batch.
create or replace function ordinaut._body(p_item ordinaut.work_item)
returns jsonb
language sql
stable
as $fn$
  select case
    when p_item.payload is not null then p_item.payload
    when p_item.step is not null then ordinaut._step_body(p_item)
    else (select b.body from ordinaut.payload as b where b.run_id = p_item.run_id)
  end;
$fn$;

comment on function ordinaut._body(ordinaut.work_item) is
  'The payload of a unit, wherever it is kept.';

create or replace function ordinaut.lease_work(
  p_worker   text,
  p_queue    text          default 'default',
  p_limit    integer       default 1,
  p_for      interval      default '1 min',
  p_lease_id uuid          default null,
  p_floors   timestamptz[] default null
)
returns table (
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
  key           text
)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_lease_id uuid := coalesce(p_lease_id, gen_random_uuid());
  v_work ordinaut.work_item[];
begin
  perform ordinaut._check_key('worker', coalesce(p_worker, ''));
  perform ordinaut._check_label('queue', p_queue);
  perform ordinaut._check_count('limit', p_limit, 1, 10000);
  perform ordinaut._check_span('for', coalesce(p_for, '-1 s'), '1 ms', '30 days');

  v_work := ordinaut._lease(
    v_lease_id, null, p_worker, p_queue, p_limit, v_now + p_for, p_floors, v_now);

  return query
  select v_lease_id, i.work_id, i.run_id, i.task_id, i.step, i.tool, ordinaut._body(i),
    i.attempt::integer, i.failures::integer, i.max_attempts::integer, i.timeout,
    i.priority::integer, i.run_at, i.scheduled_for, i.key
  from unnest(v_work) as i;
end
$fn$;

comment on function ordinaut.lease_work(text, text, integer, interval, uuid, timestamptz[]) is
  'Borrow up to p_limit due units of a queue for p_for, as an ad-hoc lessee named p_worker; '
  'heartbeat(lease_id) extends the lease, and at its end reap() takes back what is not settled. '
  'Returns no rows when nothing is due or others hold it (why() tells). p_floors[1..9]: a hint, '
  'per priority, below which run_at need not be looked at. Registered workers use exchange(). '
  'Errors: invalid_parameter_value.';
