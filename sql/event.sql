/*
 * Events: something happened, and whoever waits for that goes on.
 *
 *   emit_event(topic, payload, key) --> stored --> tasks of kind event start
 *                                              --> steps that wait for it complete
 *
 * Stored, so that it may come before its waiter: a wait takes the first event of its topic (and
 * key, if it has one) since the start of its run, and an event wakes any number of waits.  A step
 * takes a later event than those of the topic that steps took which it needs, directly or not.
 *
 * An emitter and a waiter in transactions that overlap do not see each other.  So the emitter
 * holds the lock of the topic shared, the waiter exclusively, both until they commit; but neither
 * can hang behind somebody's open transaction: both only try, for 40 ms.  Who fails says so in its
 * own row (event.is_open, `unsure` in the waiter), and the sweep looks again with the lock held.
 * Rolled back, an event never was.
 */

create or replace function ordinaut._check_topic(p_what text, p_topic text)
returns void
language plpgsql
immutable
as $fn$
begin
  if p_topic is null or length(p_topic) > 200 or p_topic !~ '^[A-Za-z0-9][A-Za-z0-9_.:/-]*$' then
    perform ordinaut._refuse(
      format('%s %L is not the topic of an event', p_what, left(p_topic, 80)),
      'Letters, digits, _ . : / - only, a letter or digit first, at most 200: order.paid');
  end if;
end
$fn$;

comment on function ordinaut._check_topic(text, text) is
  'Refuse what cannot be a topic. Errors: invalid_parameter_value.';

create or replace function ordinaut._try_topic(
  p_topic   text,
  p_is_emit boolean,
  p_tries   integer default 20
)
returns boolean
language plpgsql
volatile
as $fn$
declare
  v_key constant bigint := hashtextextended('topic:' || p_topic, 7146);
begin
  -- A snapshot from before the lock proves nothing.
  if current_setting('transaction_isolation') <> 'read committed' then
    return false;
  end if;
  for v_try in 1..p_tries loop
    if p_is_emit and pg_try_advisory_xact_lock_shared(v_key)
      or not p_is_emit and pg_try_advisory_xact_lock(v_key)
    then
      return true;
    end if;
    if v_try < p_tries then
      perform pg_sleep(0.002);
    end if;
  end loop;
  return false;
end
$fn$;

comment on function ordinaut._try_topic(text, boolean, integer) is
  'Lock a topic until commit, shared to emit, alone to wait; false: somebody holds it, or the '
  'caller''s snapshot is of old.';

create or replace function ordinaut._first_event(p_topic text, p_key text, p_since timestamptz)
returns ordinaut.event
language plpgsql
stable
as $fn$
declare
  v_event ordinaut.event;
begin
  if p_key is null then
    select e.* into v_event
    from ordinaut.event as e
    where
      e.topic = p_topic and e.emitted_at >= p_since and e.event_id >= ordinaut._v7_floor(p_since)
    order by e.emitted_at, e.event_id
    limit 1;
  else
    select e.* into v_event
    from ordinaut.event as e
    where
      e.topic = p_topic and e.key = p_key
      and e.emitted_at >= p_since and e.event_id >= ordinaut._v7_floor(p_since)
    order by e.emitted_at, e.event_id
    limit 1;
  end if;
  return v_event;
end
$fn$;

comment on function ordinaut._first_event(text, text, timestamptz) is
  'The first event of a topic since an instant, and with this key if it is not null; null: none.';

create or replace function ordinaut._event_output(p_event ordinaut.event)
returns jsonb
language sql
immutable
as $fn$
  select jsonb_build_object('topic', p_event.topic, 'key', p_event.key,
    'payload', p_event.payload, 'event_id', p_event.event_id,
    'at', ordinaut._iso(p_event.emitted_at));
$fn$;

comment on function ordinaut._event_output(ordinaut.event) is
  'An event as a step that waited for it, and a task that it starts, get it.';

-- Nothing here waits for a lock: the caller may be any transaction, with any other event before.
create or replace function ordinaut._wake_waiters(p_event ordinaut.event, p_limit integer)
returns table (woken integer, is_done boolean)
language plpgsql
volatile
as $fn$
declare
  v_parked ordinaut.parked;
  v_step ordinaut.step;
  v_first ordinaut.event;
begin
  woken := 0;
  is_done := true;
  for v_parked in
    select p.*
    from ordinaut.parked as p
    where
      p.reason = 'event'
      and p.payload ->> 'topic' = p_event.topic
      and (p.payload ->> 'key' is null or p.payload ->> 'key' = p_event.key)
      and (p.payload ->> 'since')::timestamptz <= p_event.emitted_at
    order by p.run_id, p.work_id
    limit p_limit + 1
  loop
    v_step := ordinaut._hold_waiter(v_parked);
    if v_step.step_id is null or woken = p_limit then
      is_done := false;
      continue;
    end if;
    v_first := ordinaut._first_event(
      p_event.topic, v_parked.payload ->> 'key', (v_parked.payload ->> 'since')::timestamptz);
    perform ordinaut._end_step(
      v_step, 'complete', ordinaut._event_output(v_first), ordinaut.now());
    woken := woken + 1;
  end loop;
  return next;
end
$fn$;

comment on function ordinaut._wake_waiters(ordinaut.event, integer) is
  'Complete the steps that wait for an event, at most so many; is_done is false when some are '
  'left: more than that, or their run was busy.';

create or replace function ordinaut.emit_event(
  p_topic           text,
  p_payload         jsonb default '{}',
  p_key             text  default null,
  p_idempotency_key text  default null
)
returns table (event_id uuid, outcome text, waiters integer, task_ids uuid[], run_ids uuid[])
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_event ordinaut.event;
  v_holder uuid;
  v_wake record;
begin
  perform ordinaut._check_topic('topic', p_topic);
  perform ordinaut._check_payload(p_payload);
  -- It comes from outside, and goes into payloads, where workers put secrets in such places.
  if jsonb_path_exists(p_payload, 'strict $.** ? (@.type() == "object" && exists (@."$secret"))')
  then
    perform ordinaut._refuse('payload asks for a secret: {"$secret": ...}',
      'A task may have it in its own payload; an event may not bring it.');
  end if;
  perform ordinaut._check_key('key', p_key);
  event_id := ordinaut.uuid_generate_v7(v_now);
  if p_idempotency_key is not null then
    perform ordinaut._check_key('idempotency_key', p_idempotency_key);
    v_holder := ordinaut._claim_once('emit:' || p_idempotency_key, event_id, '1 day');
    if v_holder <> event_id then
      return query select v_holder, 'existing', 0, array[]::uuid[], array[]::uuid[];
      return;
    end if;
    update ordinaut.hold as h
    set held_until = v_now + h.keep_for
    where h.key = 'emit:' || p_idempotency_key and h.slot = 0;
  end if;

  v_event := row(event_id, p_topic, p_key, p_payload, v_now, ordinaut._actor(),
    not ordinaut._try_topic(p_topic, true), null)::ordinaut.event;
  insert into ordinaut.event select v_event.*;

  -- Tasks before runs: the order of locks.
  select
    coalesce(array_agg(f.task_id), '{}'),
    coalesce(array_agg(f.run_id) filter (where f.run_id is not null), '{}'),
    array_agg(f.task_id) filter (where f.is_left)
  into task_ids, run_ids, v_event.unfired
  from ordinaut._fire_on_event(v_event) as f;
  select w.* into v_wake from ordinaut._wake_waiters(v_event, 1000) as w;
  if v_event.unfired is not null or not v_wake.is_done then
    update ordinaut.event as e
    set
      is_open = true,
      unfired = v_event.unfired
    where e.event_id = v_event.event_id;
  end if;
  outcome := 'new';
  waiters := v_wake.woken;
  return next;
end
$fn$;

comment on function ordinaut.emit_event(text, jsonb, text, text) is
  'Say that something happened, in the caller''s transaction: rolled back, it did not. Steps '
  'that wait for the topic, and for this key if they name one, complete; every active task of '
  'kind event that names the topic (or a.* or *) runs once, with {"event": {topic, key, payload, '
  'event_id, at}} added to its payload. Kept, for steps of live runs that wait for it later. '
  'Returns the waits that it ended, the tasks that it starts and their runs: a task without a '
  'run was held up by its policies, or by an open transaction, and then it starts when that '
  'ends. outcome: new, existing (p_idempotency_key was used within a day: that event). Errors: '
  'invalid_parameter_value, program_limit_exceeded, serialization_failure (send again).';

create or replace function ordinaut._wait_event(
  p_step ordinaut.step,
  p_run  ordinaut.task_run,
  p_item ordinaut.work_item,
  p_wait jsonb,
  p_now  timestamptz
)
returns void
language plpgsql
volatile
as $fn$
declare
  v_topic constant text := p_wait ->> 'topic';
  v_key constant text := p_wait ->> 'key';
  v_since timestamptz;
  v_until timestamptz;
  v_event ordinaut.event;
  v_is_sure boolean;
begin
  perform ordinaut._check_topic('topic', v_topic);
  perform ordinaut._check_key('key', v_key);
  v_until := ordinaut._deadline('timeout', p_wait -> 'timeout', p_now);
  -- Not again what led here: but beside it, or before it knew, any number may take an event.
  v_since := greatest(
    coalesce((p_wait ->> 'since')::timestamptz, p_run.started_at, p_now),
    (
      with recursive needed as (
        select n.position
        from ordinaut.pipeline_step as d
        cross join unnest(d.needs) as n (position)
        where d.pipeline_id = p_run.pipeline_id and d.position = p_step.defined_by
        union
        select n.position
        from needed as b
        join ordinaut.pipeline_step as d
          on d.pipeline_id = p_run.pipeline_id and d.position = b.position
        cross join unnest(d.needs) as n (position)
      )
      select max((s.output ->> 'at')::timestamptz) + interval '1 us'
      from ordinaut.step as s
      where
        s.run_id = p_run.run_id and s.state = 'complete'
        and s.defined_by in (select b.position from needed as b)
        and s.output ? 'event_id' and s.output ->> 'topic' = v_topic
    )
  );

  v_is_sure := ordinaut._try_topic(v_topic, false);
  v_event := ordinaut._first_event(v_topic, v_key, v_since);
  if v_event.event_id is not null then
    perform ordinaut._end_step(p_step, 'complete', ordinaut._event_output(v_event), p_now);
    return;
  end if;
  p_item.run_at := coalesce(v_until, p_now);
  p_item.payload := jsonb_strip_nulls(jsonb_build_object(
    'topic', v_topic, 'key', v_key, 'since', ordinaut._iso(v_since),
    'after', ordinaut._check_after('on_timeout', p_wait ->> 'on_timeout'),
    'deadline', ordinaut._iso(v_until),
    'unsure', case when not v_is_sure then true end));
  perform ordinaut._park(p_item, 'event');
end
$fn$;

comment on function ordinaut._wait_event(
  ordinaut.step, ordinaut.task_run, ordinaut.work_item, jsonb, timestamptz
) is
  'Complete a step with the event that it waits for, or park it until that comes. Errors: '
  'invalid_parameter_value.';

create or replace function ordinaut._recheck_events(p_limit integer)
returns void
language plpgsql
volatile
as $fn$
declare
  v_event ordinaut.event;
  v_parked ordinaut.parked;
  v_step ordinaut.step;
  v_is_done boolean;
  v_unfired uuid[];
begin
  for v_event in
    select e.*
    from ordinaut.event as e
    where e.is_open
    order by e.emitted_at
    limit p_limit
    for update skip locked
  loop
    continue when not ordinaut._try_topic(v_event.topic, true, 1);
    begin
      v_unfired := null;
      if v_event.unfired is not null then
        select array_agg(f.task_id) filter (where f.is_left) into v_unfired
        from ordinaut._fire_on_event(v_event, v_event.unfired) as f;
      end if;
      select w.is_done into v_is_done from ordinaut._wake_waiters(v_event, p_limit) as w;
      update ordinaut.event as e
      set
        is_open = v_unfired is not null or not v_is_done,
        unfired = v_unfired
      where
        e.event_id = v_event.event_id
        and (v_is_done or v_unfired is distinct from v_event.unfired);
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded
        or lock_not_available or sqlstate 'OR010' then null;
    end;
  end loop;

  for v_parked in
    select p.*
    from ordinaut.parked as p
    where p.reason = 'event' and p.payload ? 'unsure'
    order by p.work_id
    limit p_limit
  loop
    continue when not ordinaut._try_topic(v_parked.payload ->> 'topic', false, 1);
    v_step := ordinaut._hold_waiter(v_parked);
    continue when v_step.step_id is null;
    v_event := ordinaut._first_event(v_parked.payload ->> 'topic', v_parked.payload ->> 'key',
      (v_parked.payload ->> 'since')::timestamptz);
    begin
      if v_event.event_id is not null then
        perform ordinaut._end_step(
          v_step, 'complete', ordinaut._event_output(v_event), ordinaut.now());
      else
        update ordinaut.parked as p
        set payload = p.payload - 'unsure'
        where p.work_id = v_parked.work_id;
      end if;
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded
        or lock_not_available or sqlstate 'OR010' then null;
    end;
  end loop;
end
$fn$;

comment on function ordinaut._recheck_events(integer) is
  'Bring together the events and waits that could not see each other, or found a lock held.';
