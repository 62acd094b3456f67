/*
 * Enqueue: work enters.  In the caller's transaction: it exists when that commits, or never did.
 *
 * run_at is clamped to now, because workers pass a floor below which they rarely look;
 * scheduled_for keeps the wish.  A client-chosen run_id is an idempotency key too: an enqueue
 * whose answer was lost is simply sent again, whether the run waits, is leased, or is done.
 */

create or replace function ordinaut._claim_once(
  p_key text,
  p_run_id uuid,
  p_keep_for interval
)
returns uuid
language plpgsql
volatile
as $fn$
declare
  v_run_id uuid;
begin
  -- Do nothing, then read: `do update` would lock the row of a live run, and its settle would
  -- wait for our caller's transaction.
  insert into ordinaut.hold (key, slot, run_id, keep_for)
  values (p_key, 0, p_run_id, p_keep_for)
  on conflict on constraint hold_pk do nothing;
  if found then
    return p_run_id;
  end if;

  update ordinaut.hold as h
  set
    run_id = p_run_id,
    keep_for = p_keep_for,
    held_until = null
  where h.key = p_key and h.slot = 0 and h.held_until <= ordinaut.now();
  if found then
    return p_run_id;
  end if;

  select h.run_id into v_run_id from ordinaut.hold as h where h.key = p_key and h.slot = 0;
  if v_run_id is null then
    raise exception using
      errcode = 'serialization_failure',
      message = format('idempotency key %L was released while it was read', p_key),
      hint = 'Send the same call again.';
  end if;
  return v_run_id;
end
$fn$;

comment on function ordinaut._claim_once(text, uuid, interval) is
  'Hold an idempotency key for this run, and return the run that holds it: this one, or an '
  'earlier. Errors: serialization_failure.';

create or replace function ordinaut._check_room(p_queue text, p_more integer)
returns void
language plpgsql
volatile
as $fn$
declare
  v_max integer;
  v_pending bigint;
begin
  select q.max_pending into v_max from ordinaut.queue as q where q.queue = p_queue;
  if v_max is null then
    return;
  end if;
  select count(*) into v_pending
  from (select from ordinaut.due_work as w where w.queue = p_queue limit v_max + 1) as w;
  if v_pending + p_more > v_max then
    raise exception using
      errcode = 'configuration_limit_exceeded',
      message = format('queue %s is full: %s wait, at most %s may', p_queue, v_pending, v_max),
      hint = 'Wait until workers have caught up, or raise max_pending with set_queue().';
  end if;
end
$fn$;

comment on function ordinaut._check_room(text, integer) is
  'Refuse more work for a queue at its max_pending. Errors: configuration_limit_exceeded.';

create or replace function ordinaut.enqueue(
  p_tool            text        default null,
  p_payload         jsonb       default '{}',
  p_queue           text        default 'default',
  p_priority        integer     default 5,
  p_run_at          timestamptz default null,
  p_delay           interval    default null,
  p_key             text        default null,
  p_key_limit       integer     default 1,
  p_if_busy         text        default 'wait',
  p_idempotency_key text        default null,
  p_idempotent_for  interval    default '1 day',
  p_max_attempts    integer     default 3,
  p_retry           jsonb       default null,
  p_timeout         interval    default null,
  p_run_id          uuid        default null,
  p_pipeline        jsonb       default null
)
returns table (run_id uuid, outcome text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_wish timestamptz := coalesce(p_run_at, v_now + p_delay);
  v_run_id uuid := coalesce(p_run_id, ordinaut.uuid_generate_v7(v_now));
  v_holder uuid;
  v_pipeline_id uuid;
begin
  if p_pipeline is not null or coalesce(p_tool, 'pipeline') = 'pipeline' then
    select w.tool, w.payload, w.pipeline_id into p_tool, p_payload, v_pipeline_id
    from ordinaut._what_to_run(p_tool, p_payload, p_pipeline) as w;
  end if;
  perform ordinaut._check_tool(p_tool);
  perform ordinaut._check_payload(p_payload);
  perform ordinaut._check_label('queue', p_queue);
  perform ordinaut._check_count('priority', p_priority, 1, 9);
  perform ordinaut._check_count('max_attempts', p_max_attempts, 1, 1000);
  if p_run_at is not null and p_delay is not null then
    perform ordinaut._refuse('run_at and delay were both given', 'Give one of them.');
  end if;
  if v_wish is not null then
    perform ordinaut._check_at('run_at', v_wish);
  end if;
  if p_delay is not null then
    perform ordinaut._check_span('delay', p_delay, '0 s', '10 years');
  end if;
  if p_timeout is not null then
    perform ordinaut._check_span('timeout', p_timeout, '1 ms', '30 days');
  end if;
  if p_retry is not null then
    perform ordinaut._check_retry(p_retry);
  end if;
  perform ordinaut._check_room(p_queue, 1);

  if p_key is not null then
    perform ordinaut._check_key('key', p_key);
    perform ordinaut._check_count('key_limit', p_key_limit, 1, 10000);
    if p_if_busy not in ('wait', 'drop') or p_if_busy is null then
      perform ordinaut._refuse(format('if_busy %L must be wait or drop', p_if_busy));
    end if;
  end if;

  if p_idempotency_key is not null then
    perform ordinaut._check_idempotency_key(p_idempotency_key);
    perform ordinaut._check_span(
      'idempotent_for', coalesce(p_idempotent_for, '-1 s'), '0 s', '10 years');
    v_holder := ordinaut._claim_once(p_idempotency_key, v_run_id, p_idempotent_for);
    if v_holder <> v_run_id then
      return query select v_holder, 'existing';
      return;
    end if;
  end if;

  if p_run_id is not null then
    if substr(p_run_id::text, 15, 1) <> '7'
      or ordinaut._v7_time(p_run_id)
        not between v_now - interval '1 day' and v_now + interval '1 day'
    then
      perform ordinaut._refuse(
        format('run_id %s is not a UUIDv7 of within a day of now', p_run_id),
        'Its time places the run in history. Leave it null, or use uuid_generate_v7().');
    end if;
    insert into ordinaut.hold (key, slot, run_id, keep_for)
    values ('id:' || p_run_id, 0, p_run_id, '3 days')
    on conflict on constraint hold_pk do nothing;
    if not found then
      return query select p_run_id, 'existing';
      return;
    end if;
  end if;

  -- After the idempotency key, so that a call sent again is told of its first run, not dropped.
  if p_key is not null and p_if_busy = 'drop' then
    select h.run_id into v_holder
    from (
      select w.run_id, 1 as place from ordinaut.due_work as w where w.key = p_key
      union all
      select p.run_id, 2 from ordinaut.parked as p where p.key = p_key
      union all
      select o.run_id, 0 from ordinaut.hold as o where o.key = p_key and o.slot >= 1
    ) as h
    order by h.place
    limit 1;
    if found then
      delete from ordinaut.hold as h where h.run_id = v_run_id and h.slot = 0;
      return query select v_holder, 'dropped';
      return;
    end if;
  end if;

  insert into ordinaut.due_work (work_id, run_id, queue, priority, run_at, scheduled_for,
    enqueued_at, attempt, failures, crashes, max_attempts, timeout, tool, key, key_limit,
    idempotency_key, retry, payload, pipeline_id)
  values (v_run_id, v_run_id, p_queue, p_priority, greatest(v_wish, v_now), v_wish,
    v_now, 0, 0, 0, p_max_attempts, p_timeout, p_tool, p_key,
    case when p_key is not null then p_key_limit end,
    coalesce(p_idempotency_key, 'id:' || p_run_id), p_retry,
    case when pg_column_size(p_payload) <= 2000 then p_payload end, v_pipeline_id);
  if pg_column_size(p_payload) > 2000 then
    insert into ordinaut.payload (run_id, body) values (v_run_id, p_payload);
  end if;

  if v_wish is null or v_wish <= v_now then
    perform ordinaut._notify_idle(p_queue);
  end if;
  return query select v_run_id, 'new';
end
$fn$;

comment on function ordinaut.enqueue(
  text, jsonb, text, integer, timestamptz, interval, text, integer, text, text, interval, integer,
  jsonb, interval, uuid, jsonb
) is
  'Queue one run of a tool, or of a pipeline (p_pipeline: its steps; p_payload: their params), '
  'at once, at p_run_at or after p_delay, in the caller''s transaction. outcome: new; existing '
  '(the idempotency key or run_id is known: its run_id); dropped (p_if_busy drop and a run with '
  'p_key is live: its run_id). An idempotency key outlives its run by p_idempotent_for. Errors: '
  'invalid_parameter_value, program_limit_exceeded (payload over 1 MB), '
  'configuration_limit_exceeded (queue full), serialization_failure (send again).';

create or replace function ordinaut.enqueue_many(
  p_items        jsonb,
  p_tool         text    default null,
  p_queue        text    default 'default',
  p_priority     integer default 5,
  p_max_attempts integer default 3
)
returns table (ord integer, run_id uuid, outcome text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_ids uuid[];
  v_n integer;
  v_key text;
  v_item jsonb;
  v_ord integer;
begin
  if jsonb_typeof(p_items) is distinct from 'array' then
    perform ordinaut._refuse('items must be an array of objects',
      'For example [{"payload": {"n": 1}}].');
  end if;
  perform ordinaut._check_label('queue', p_queue);
  v_n := jsonb_array_length(p_items);

  if jsonb_path_exists(p_items, '$[*] ? (@.type() != "object")') then
    perform ordinaut._refuse('items must be an array of objects',
      'For example [{"payload": {"n": 1}}].');
  end if;
  select k.key into v_key
  from jsonb_array_elements(p_items) as e
  cross join jsonb_object_keys(e.value) as k (key)
  where k.key not in ('tool', 'payload', 'queue', 'priority', 'run_at', 'delay', 'key', 'key_limit',
    'if_busy', 'idempotency_key', 'idempotent_for', 'max_attempts', 'retry', 'timeout', 'run_id',
    'pipeline')
  limit 1;
  if found then
    perform ordinaut._refuse(format('items have an unknown field %L', v_key),
      'The fields are the arguments of enqueue(), without p_.');
  end if;

  -- Ascending, as the items are: their index entries then go to the right edge, without splits.
  v_ids := array(
    select ordinaut._v7(ordinaut._v7_prefix(v_now)) as id from generate_series(1, v_n) order by id
  );

  /* Plain items go in by one statement; one that needs a key claimed, or breaks a rule, sends
     them all through enqueue(), one by one, which decides and words its errors.  Microseconds
     below now keep the order of the items. */
  return query
  with item as materialized (
    select
      x.ord::integer as ord,
      v_ids[x.ord] as run_id,
      coalesce(x.tool, p_tool) as tool,
      coalesce(x.payload, '{}') as payload,
      coalesce(x.queue, p_queue) as queue,
      coalesce(x.priority, p_priority) as priority,
      coalesce(x.max_attempts, p_max_attempts) as max_attempts
    from rows from (
      jsonb_to_recordset(p_items) as (tool text, payload jsonb, queue text, priority integer,
        max_attempts integer, idempotency_key text, run_at text, delay text, key text,
        retry jsonb, timeout text, run_id text, if_busy text, pipeline jsonb)
    ) with ordinality as x (tool, payload, queue, priority, max_attempts, idempotency_key, run_at,
        delay, key, retry, timeout, run_id, if_busy, pipeline, ord)
    where 9 = num_nulls(x.idempotency_key, x.run_at, x.delay, x.key, x.retry, x.timeout, x.run_id,
      x.if_busy, x.pipeline)
  ),
  fit as (
    select count(*) = v_n as ok
    from item as i
    where
      length(i.tool) <= 200
      and i.tool ~ '^[A-Za-z][A-Za-z0-9_.:-]*$'
      and i.tool <> 'pipeline'
      and i.priority between 1 and 9
      and i.max_attempts between 1 and 1000
      and i.queue = p_queue
      and pg_column_size(i.payload) <= 1048576
  ),
  body as (
    insert into ordinaut.payload (run_id, body)
    select i.run_id, i.payload
    from item as i, fit as f
    where f.ok and pg_column_size(i.payload) > 2000
  ),
  placed as (
    insert into ordinaut.due_work (work_id, run_id, queue, priority, run_at, enqueued_at, attempt,
      failures, crashes, max_attempts, tool, payload)
    select i.run_id, i.run_id, i.queue, i.priority, v_now - (v_n - i.ord) * interval '1 us', v_now,
      0, 0, 0, i.max_attempts, i.tool,
      case when pg_column_size(i.payload) <= 2000 then i.payload end
    from item as i, fit as f
    where f.ok
  )
  select i.ord, i.run_id, 'new'
  from item as i, fit as f
  where f.ok
  order by i.ord;

  if found or v_n = 0 then
    perform ordinaut._check_room(p_queue, 0);
    perform ordinaut._notify_idle(p_queue);
    return;
  end if;

  for v_item, v_ord in
    select e.value, e.ord::integer
    from jsonb_array_elements(p_items) with ordinality as e (value, ord)
    -- Keys in one order, whoever sends them: two bulk calls cannot deadlock on them.
    order by coalesce(e.value ->> 'idempotency_key', e.value ->> 'run_id'), e.ord
  loop
    ord := v_ord;
    begin
      select q.run_id, q.outcome into run_id, outcome
      from ordinaut.enqueue(
        coalesce(v_item ->> 'tool', p_tool),
        coalesce(v_item -> 'payload', '{}'),
        coalesce(v_item ->> 'queue', p_queue),
        coalesce((v_item ->> 'priority')::integer, p_priority),
        (v_item ->> 'run_at')::timestamptz,
        (v_item ->> 'delay')::interval,
        v_item ->> 'key',
        coalesce((v_item ->> 'key_limit')::integer, 1),
        coalesce(v_item ->> 'if_busy', 'wait'),
        v_item ->> 'idempotency_key',
        coalesce((v_item ->> 'idempotent_for')::interval, '1 day'),
        coalesce((v_item ->> 'max_attempts')::integer, p_max_attempts),
        nullif(v_item -> 'retry', 'null'),
        (v_item ->> 'timeout')::interval,
        (v_item ->> 'run_id')::uuid,
        nullif(v_item -> 'pipeline', 'null')) as q;
      -- The items' order, as above: with one instant for all, chance would decide it.
      update ordinaut.due_work as w
      set run_at = v_now - (v_n - v_ord) * interval '1 us'
      where outcome = 'new' and w.work_id = enqueue_many.run_id and w.run_at = v_now;
      return next;
    exception
      when data_exception or program_limit_exceeded then
        raise exception using
          errcode = sqlstate,
          message = format('item %s: %s', v_ord, sqlerrm),
          hint = 'Nothing was enqueued.';
    end;
  end loop;
end
$fn$;

comment on function ordinaut.enqueue_many(jsonb, text, text, integer, integer) is
  'Queue many runs by one call, all or none. p_items: an array of objects whose fields are the '
  'arguments of enqueue() without p_; what an item lacks comes from this call''s arguments. '
  'Returns one row per item (ord from 1; those with keys in the order of their keys). Errors: as '
  'enqueue(), naming the item.';
