/*
 * Settling: what became of leased units.
 *
 * The fence is the lease row.  A settle deletes it (the whole batch) or appends to `settled`
 * (a part); whoever finds no row has lost the lease, unless history shows that this very lease
 * settled the unit before: then the answer is `already`, so that a settle whose answer was lost
 * can be sent again.
 *
 *   success              -> task_run
 *   failed, timed_out    -> due_work after the backoff | task_run when attempts are exhausted
 *   crashed              -> due_work, to be leased alone | task_run: abandoned
 *   released, snoozed    -> due_work, uncharged
 *   declined             -> due_work in a second | parked until a worker has the tool
 *   cancelled            -> task_run, if a cancel was requested; else as released
 *   skipped, waiting     -> a step's own: step_settle.sql
 */

create or replace function ordinaut._retry_after(p_error jsonb)
returns interval
language sql
immutable
as $fn$
  -- greatest() and least() pass nulls over: none asked for must stay null.
  select case when p_error ->> 'retry_after' is not null then
    least(greatest((p_error ->> 'retry_after')::float8, 0), 315576000) * interval '1 s' end;
$fn$;

comment on function ordinaut._retry_after(jsonb) is
  'The delay that an error asks for before the next attempt; null: none.';

create or replace function ordinaut._started_at(
  p_leased_at timestamptz,
  p_elapsed   bigint,
  p_now       timestamptz
)
returns timestamptz
language sql
stable  -- what it calls is: declared immutable, it would not be inlined
as $fn$
  -- Nor after it ended: the clock may have stepped back since.
  select least(
    greatest(p_leased_at, p_now - least(p_elapsed, 3155760000000000) * interval '1 us'), p_now);
$fn$;

comment on function ordinaut._started_at(timestamptz, bigint, timestamptz) is
  'When a unit that ran p_elapsed microseconds began; never before it was leased.';

/* Take a part of a lease out of it, or what a repeated call still finds.  Returns the lease with
   exactly the units asked for in `work`; null when it is gone.  Units settled before are left
   out. */
create or replace function ordinaut._take_leased(p_lease_id uuid, p_work_ids uuid[])
returns ordinaut.lease
language plpgsql
volatile
as $fn$
declare
  v_lease ordinaut.lease;
  v_ids uuid[];
begin
  select l.* into v_lease from ordinaut.lease as l where l.lease_id = p_lease_id for no key update;
  if not found then
    return null;
  end if;
  select coalesce(array_agg(distinct i.id), '{}') into v_ids
  from unnest(p_work_ids) as i (id)
  where i.id <> all (v_lease.settled);
  if cardinality(v_ids) + cardinality(v_lease.settled) >= v_lease.size then
    delete from ordinaut.lease as l where l.lease_id = p_lease_id;
  elsif cardinality(v_ids) > 0 then
    update ordinaut.lease as l set settled = l.settled || v_ids where l.lease_id = p_lease_id;
  end if;
  v_lease.work := coalesce((
    select array_agg(u order by u.priority, u.run_at, u.work_id)
    from unnest(v_lease.work) as u
    where u.work_id = any (v_ids)
  ), '{}');

  if cardinality(v_lease.work) <> cardinality(v_ids) then
    perform ordinaut._refuse(
      format('lease %s does not hold all of these %s units', p_lease_id, cardinality(v_ids)),
      'Settle each unit under the lease that it came with.');
  end if;
  return v_lease;
end
$fn$;

comment on function ordinaut._take_leased(uuid, uuid[]) is
  'Mark units of a lease as settled and return them; null when the lease is gone. Errors: '
  'invalid_parameter_value for a unit that the lease never held.';

create or replace function ordinaut._settled_before(p_lease_id uuid, p_work_id uuid)
returns boolean
language sql
stable
as $fn$
  select
    exists (
      select from ordinaut.task_run as r
      where r.run_id = p_work_id and r.lease_id = p_lease_id
    )
    or exists (
      select from ordinaut.step as s where s.step_id = p_work_id and s.lease_id = p_lease_id
    )
    or exists (
      select from ordinaut.run_log as g
      where g.run_id = p_work_id and g.lease_id = p_lease_id
        and g.event in (
          'failed', 'timed_out', 'crashed', 'released', 'snoozed', 'declined', 'cancelled')
    );
$fn$;

comment on function ordinaut._settled_before(uuid, uuid) is
  'Whether history shows that this lease settled this unit.';

-- The heart of it.  The arrays are parallel; every unit belongs to this lease.
create or replace function ordinaut._settle(
  p_lease_id uuid,
  p_work_ids uuid[],
  p_outcomes text[],
  p_outputs  text[],
  p_errors   text[],
  p_elapsed  bigint[],
  p_now      timestamptz,
  p_queue    text    default null,
  p_room     integer default null
)
returns table (kind text, lease_id uuid, work_id uuid, next ordinaut.work_item[])
language plpgsql
volatile
as $fn$
declare
  v_lease ordinaut.lease;
  v_work ordinaut.work_item[];  -- apart from v_lease: there it would be unpacked at every use
  v_row record;
  v_n bigint;
  v_holds boolean;
  v_has_steps boolean;
  v_runs uuid[];
  v_held uuid[];
  v_next ordinaut.work_item[];
begin
  -- The whole batch, in one go: the hot path.
  delete from ordinaut.lease as l
  where
    l.lease_id = p_lease_id
    and l.size = cardinality(p_work_ids)
    and l.settled = '{}'
  returning l.lease_id, l.worker_id, l.holder, l.queue, l.leased_at, l.expires_at, l.size, l.work
  into v_lease.lease_id, v_lease.worker_id, v_lease.holder, v_lease.queue, v_lease.leased_at,
    v_lease.expires_at, v_lease.size, v_work;

  if not found then
    v_lease := ordinaut._take_leased(p_lease_id, p_work_ids);
    if v_lease.lease_id is null then
      return query
      select 'already', p_lease_id, u.id, null::ordinaut.work_item[]
      from unnest(p_work_ids) as u (id)
      where ordinaut._settled_before(p_lease_id, u.id);
      if exists (
        select from unnest(p_work_ids) as u (id)
        where not ordinaut._settled_before(p_lease_id, u.id)
      ) then
        return query select 'lost', p_lease_id, null::uuid, null::ordinaut.work_item[];
      end if;
      return;
    end if;
    v_work := v_lease.work;
    return query
    select 'already', p_lease_id, u.id, null::ordinaut.work_item[]
    from unnest(p_work_ids) as u (id)
    where not exists (select from unnest(v_work) as w where w.work_id = u.id);
  end if;

  select bool_or(w.step is not null), bool_or(w.key is not null or w.idempotency_key is not null)
  into v_has_steps, v_holds
  from unnest(v_work) as w;
  if v_has_steps then
    v_runs := array(
      select distinct w.run_id from unnest(v_work) as w where w.step is not null order by 1);
    v_held := case
      -- A caller of its own may wait; a loop must not.
      when p_room is null then ordinaut._lock_runs(v_runs)
      else ordinaut._try_runs(v_runs)
    end;
    if cardinality(v_held) < cardinality(v_runs) then
      return query
      select 'busy', p_lease_id, w.work_id, null::ordinaut.work_item[]
      from unnest(v_work) as w
      where w.step is not null and w.run_id <> all (v_held);
      perform ordinaut._keep_leased(v_lease, array(
        select w from unnest(v_work) as w where w.step is not null and w.run_id <> all (v_held)),
        p_work_ids);
      v_work := array(
        select w from unnest(v_work) as w where w.step is null or w.run_id = any (v_held));
    end if;
  end if;

  insert into ordinaut.task_run (run_id, task_id, tool, queue, priority, state, attempt, failures,
    crashes, max_attempts, worker_id, lease_id, enqueued_at, scheduled_for, started_at, finished_at,
    timeout, key, key_limit, idempotency_key, retry, retry_of, payload, output)
  select w.run_id, w.task_id, w.tool, w.queue, w.priority, 'success', w.attempt, w.failures,
    w.crashes, w.max_attempts, v_lease.worker_id, p_lease_id, w.enqueued_at, w.scheduled_for,
    ordinaut._started_at(v_lease.leased_at, u.elapsed, p_now), p_now, w.timeout, w.key, w.key_limit,
    w.idempotency_key, w.retry, w.retry_of, w.payload,
    case
      when octet_length(u.output) <= 1048576 then u.output::jsonb
      when u.output is not null then jsonb_build_object(
        'truncated', true, 'size', octet_length(u.output), 'preview', left(u.output, 1000))
    end
  from unnest(p_work_ids, p_outcomes, p_outputs, p_elapsed) as u (id, outcome, output, elapsed)
  join unnest(v_work) as w on w.work_id = u.id
  where u.outcome = 'success' and w.step is null;
  get diagnostics v_n = row_count;

  if v_has_steps then
    select array_agg(u.id) as ids, array_agg(u.output) as outputs, array_agg(u.elapsed) as elapsed
    into v_row
    from unnest(p_work_ids, p_outcomes, p_outputs, p_elapsed) as u (id, outcome, output, elapsed)
    join unnest(v_work) as w on w.work_id = u.id
    where u.outcome = 'success' and w.step is not null;
    if v_row.ids is not null then
      v_n := v_n + cardinality(v_row.ids);
      v_next := ordinaut._complete_steps(v_lease, v_row.ids, v_row.outputs, v_row.elapsed, p_queue,
        coalesce(p_room, 0), p_now);
      if v_next is not null then
        return query select 'next', p_lease_id, null::uuid, v_next;
      end if;
    end if;
  end if;
  if v_holds then
    -- Keys in ascending order, as everywhere.
    perform ordinaut._end_holds(s.item)
    from (
      select w as item
      from unnest(v_work) as w
      join unnest(p_work_ids, p_outcomes) as u (id, outcome) on u.id = w.work_id
      where u.outcome = 'success' and (w.key is not null or w.idempotency_key is not null)
      order by w.key
    ) as s;
  end if;
  if exists (
    select from ordinaut.breaker as b where b.failures > 0 or b.state = 'half_open'
  ) then
    perform ordinaut._breakers_recover(v_work, p_work_ids, p_outcomes, p_now);
  end if;
  if exists (select from ordinaut.cancel_request) then
    delete from ordinaut.cancel_request as c
    using unnest(p_work_ids, p_outcomes) as u (id, outcome), unnest(v_work) as w
    where
      w.work_id = u.id and u.outcome = 'success' and w.step is null and c.run_id = w.run_id;
  end if;

  -- What did not simply succeed is journalled and decided one by one; it is the exception.
  if 'success' <> any (p_outcomes) then
    for v_row in
      select w as item, u.outcome, u.elapsed,
        case u.outcome when 'waiting' then u.output else u.error end as error
      from unnest(p_work_ids, p_outcomes, p_outputs, p_errors, p_elapsed)
        as u (id, outcome, output, error, elapsed)
      join unnest(v_work) as w on w.work_id = u.id
      where u.outcome <> 'success'
      order by w.key, w.work_id
    loop
      perform ordinaut._settle_otherwise(v_lease, v_row.item, v_row.outcome, v_row.error::jsonb,
        ordinaut._started_at(v_lease.leased_at, v_row.elapsed, p_now), p_now);
      v_n := v_n + 1;
    end loop;
  end if;

  -- A unit that the lease never held, in a batch of the right size.
  if v_n <> cardinality(v_work) then
    perform ordinaut._refuse(
      format('lease %s does not hold all of these %s units', p_lease_id, cardinality(p_work_ids)),
      'Settle each unit under the lease that it came with.');
  end if;
end
$fn$;

comment on function ordinaut._settle(
  uuid, uuid[], text[], text[], text[], bigint[], timestamptz, text, integer
) is
  'Settle units of one lease. Returns rows only for what is not as expected: already, lost, busy '
  '(its run is held by another transaction: still leased), and for what follows: next, up to '
  'p_room steps of p_queue that are leased to the caller now. p_room null: wait for runs. '
  'Errors: invalid_parameter_value.';

create or replace function ordinaut._settle_otherwise(
  p_lease      ordinaut.lease,
  p_item       ordinaut.work_item,
  p_outcome    text,
  p_error      jsonb,
  p_started_at timestamptz,
  p_now        timestamptz
)
returns text
language plpgsql
volatile
as $fn$
declare
  v_item ordinaut.work_item := p_item;
  v_error jsonb := coalesce(p_error, '{}');
  v_cancel boolean := exists (
    select from ordinaut.cancel_request as c where c.run_id = p_item.run_id
  );
  v_after interval;
  v_retry record;
  v_result text;
begin
  if p_outcome not in (
    'failed', 'timed_out', 'crashed', 'released', 'snoozed', 'declined', 'cancelled'
  ) and (p_item.step is null or p_outcome not in ('skipped', 'waiting')) then
    perform ordinaut._refuse(format('unit %s: unknown outcome %L', p_item.work_id, p_outcome));
  end if;
  if jsonb_typeof(v_error) <> 'object' then
    v_error := jsonb_build_object('message', v_error);
  end if;
  if pg_column_size(v_error) > 65536 and p_outcome <> 'waiting' then
    v_error := jsonb_strip_nulls(jsonb_build_object(
      'message', left(v_error ->> 'message', 8000), 'type', v_error -> 'type',
      'code', v_error -> 'code', 'category', v_error -> 'category',
      'retryable', v_error -> 'retryable', 'retry_after', v_error -> 'retry_after',
      'truncated', true));
  end if;
  v_after := ordinaut._retry_after(v_error);
  if exists (select from ordinaut.breaker) then
    perform ordinaut._breaker_heard(p_item, p_outcome, v_error, p_now);
  end if;
  if p_item.step is not null then
    return ordinaut._settle_step(
      p_lease, p_item, p_outcome, v_error, v_cancel, p_started_at, p_now);
  end if;

  -- A cancel wins over everything but success, and over a failure that came with it.
  if v_cancel then
    perform ordinaut._finish_cancelled(v_item, p_lease.worker_id, p_lease.lease_id, p_started_at);
    return 'cancelled';
  end if;

  case p_outcome
    when 'failed', 'timed_out' then
      v_item.failures := v_item.failures + 1;
      select d.* into v_retry
      from ordinaut._retry_decision(v_item, v_error, v_item.failures) as d;
      if v_retry.is_retryable and v_item.failures < v_retry.max_attempts then
        v_item.run_at := p_now + v_retry.after;
        v_result := 'retry';
      else
        if v_retry.is_retryable then
          v_error := v_error || jsonb_build_object('message', format(
            'Max retries exhausted (%s of %s): %s',
            v_item.failures, v_retry.max_attempts, v_error ->> 'message'));
        end if;
        v_result := p_outcome;
      end if;
    when 'crashed' then
      v_item.crashes := v_item.crashes + 1;
      -- Only a unit that was leased alone can be the culprit for certain.
      v_result := case
        when v_item.crashes >= 3 and p_lease.size = 1 then 'abandoned'
        else 'retry'
      end;
    when 'snoozed' then
      v_item.run_at := p_now + coalesce(v_after, '1 s');
      v_result := 'snoozed';
    when 'declined' then
      v_item.run_at := p_now + interval '1 s';
      v_result := 'declined';
    else
      v_result := 'released';
  end case;

  perform ordinaut._journal(
    case when p_outcome = 'cancelled' then 'released' else p_outcome end,
    v_item.run_id, v_item.task_id, v_item.queue, v_item.attempt, p_lease.worker_id,
    p_lease.lease_id,
    v_error || case v_result
      when 'retry' then jsonb_build_object('run_at', v_item.run_at)
      else '{}'
    end);

  if v_result in ('failed', 'timed_out', 'abandoned') then
    perform ordinaut._finish(
      v_item, v_result, null, v_error, p_lease.worker_id, p_lease.lease_id, p_started_at);
  elsif v_result = 'declined' and not ordinaut._has_tool(v_item.queue, v_item.tool) then
    perform ordinaut._park(v_item, 'tool');
  else
    perform ordinaut._put_back(v_item, p_now);
  end if;
  return v_result;
end
$fn$;

comment on function ordinaut._settle_otherwise(
  ordinaut.lease, ordinaut.work_item, text, jsonb, timestamptz, timestamptz
) is
  'Settle one unit that did not succeed, journal it, and say what became of it. Errors: '
  'invalid_parameter_value.';
