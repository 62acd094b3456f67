/*
 * Settling steps.  The lease is the fence, as for every unit; what a settle means for the run is
 * in workflow.sql.  A run that somebody's open transaction holds is waited for 40 ms: then its
 * units stay in the lease and are answered `busy`, to be settled by the next call, and nobody else
 * waits with them.
 */

/* Takes out of a settle what it cannot decide now.  The lease row was deleted or marked before; it
   must go on to know the units that it has lost, for those who settle them again. */
create or replace function ordinaut._keep_leased(
  p_lease    ordinaut.lease,
  p_items    ordinaut.work_item[],
  p_work_ids uuid[]
)
returns void
language plpgsql
volatile
as $fn$
declare
  v_ids uuid[] := array(select i.work_id from unnest(p_items) as i);
begin
  update ordinaut.lease as l
  set settled = array(select s.id from unnest(l.settled) as s (id) where s.id <> all (v_ids))
  where l.lease_id = p_lease.lease_id;
  if not found then
    insert into ordinaut.lease (lease_id, worker_id, holder, queue, leased_at, expires_at, size,
      work, settled)
    values (p_lease.lease_id, p_lease.worker_id, p_lease.holder, p_lease.queue, p_lease.leased_at,
      p_lease.expires_at, p_lease.size, p_items, array(
        select distinct s.id from unnest(p_lease.settled || p_work_ids) as s (id)
        where s.id <> all (v_ids)));
  end if;
end
$fn$;

comment on function ordinaut._keep_leased(ordinaut.lease, ordinaut.work_item[], uuid[]) is
  'Leave units in their lease, whose row this transaction has taken to settle all of p_work_ids.';

/* The hot path: steps that succeeded, of runs that are held.  Returns what the caller goes on
   with. */
create or replace function ordinaut._complete_steps(
  p_lease    ordinaut.lease,
  p_work_ids uuid[],
  p_outputs  text[],
  p_elapsed  bigint[],
  p_queue    text,
  p_room     integer,
  p_now      timestamptz
)
returns ordinaut.work_item[]
language plpgsql
volatile
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_nestloop = on
set enable_hashjoin = off
set enable_mergejoin = off
as $fn$
declare
  v_done uuid[];
begin
  with done as (
    update ordinaut.step as s
    set
      state = 'complete',
      output = case
        when octet_length(u.output) <= 1048576 then u.output::jsonb
        when u.output is not null then jsonb_build_object(
          'truncated', true, 'size', octet_length(u.output), 'preview', left(u.output, 1000))
      end,
      error = null,
      started_at = ordinaut._started_at(p_lease.leased_at, u.elapsed, p_now),
      finished_at = p_now,
      worker_id = p_lease.worker_id,
      lease_id = p_lease.lease_id
    from unnest(p_work_ids, p_outputs, p_elapsed) as u (id, output, elapsed)
    where s.step_id = u.id and s.state = 'in_progress'
    returning s.step_id, s.run_id, s.name, s.attempt
  ),
  noted as (
    -- A success that was not simple.
    insert into ordinaut.run_log (log_id, at, event, run_id, step, attempt, worker_id, lease_id,
      actor)
    select ordinaut.uuid_generate_v7(p_now), p_now, 'complete', d.run_id, d.name, d.attempt,
      p_lease.worker_id, p_lease.lease_id, ordinaut._actor()
    from done as d
    where d.attempt > 1
  )
  select array_agg(d.step_id) into v_done from done as d;
  if v_done is null then
    return null;
  end if;
  return ordinaut._unlock(v_done, p_queue, p_room, p_now);
end
$fn$;

comment on function ordinaut._complete_steps(
  ordinaut.lease, uuid[], text[], bigint[], text, integer, timestamptz
) is
  'Complete leased steps. Returns units that the settler may go on with, as leased.';

-- One step that did not simply succeed.  The caller holds the run.
create or replace function ordinaut._settle_step(
  p_lease      ordinaut.lease,
  p_item       ordinaut.work_item,
  p_outcome    text,
  p_error      jsonb,
  p_cancel     boolean,
  p_started_at timestamptz,
  p_now        timestamptz
)
returns text
language plpgsql
volatile
as $fn$
declare
  v_item ordinaut.work_item := p_item;
  v_step ordinaut.step := ordinaut._step_of(p_item.work_id);
  v_is_over boolean := p_cancel;  -- whatever comes back is not started again
  v_outcome text := p_outcome;
begin
  -- Its run was ended over its head: this result is late.
  if v_step.state is distinct from 'in_progress' then
    perform ordinaut._journal_step('late', p_item, p_lease, p_started_at, p_error);
    return 'late';
  end if;
  if v_step.kind is not distinct from 'rollback' then
    v_is_over := false;
  elsif p_outcome not in ('failed', 'timed_out', 'crashed') then
    v_is_over := p_cancel or exists (
      select from ordinaut.task_run as r where r.run_id = v_step.run_id and r.error is not null);
  end if;
  if v_is_over and p_outcome <> 'skipped' then
    v_outcome := 'cancelled';
  elsif p_outcome = 'cancelled' then
    v_outcome := 'released';
  end if;
  v_step.started_at := p_started_at;
  update ordinaut.step as s
  set started_at = p_started_at, worker_id = p_lease.worker_id, lease_id = p_lease.lease_id
  where s.step_id = v_step.step_id;

  if v_outcome = 'waiting' then
    perform ordinaut._wait_step(p_item, p_error, p_lease, p_now);
    return 'waiting';
  elsif v_outcome in ('failed', 'timed_out', 'crashed') then
    return ordinaut._step_failed(v_step, v_item, v_outcome, p_error, p_lease, p_now, true);
  end if;

  perform ordinaut._journal_step(v_outcome, p_item, p_lease, p_started_at, p_error);
  if v_outcome = 'skipped' then
    perform ordinaut._end_step(v_step, 'skipped', null, p_now);
    return 'skipped';
  elsif v_outcome = 'cancelled' then
    update ordinaut.step as s
    set state = 'cancelled', finished_at = p_now
    where s.step_id = v_step.step_id;
    perform ordinaut._unlock(array[v_step.step_id], null, 0, p_now);
    return 'cancelled';
  end if;

  -- released, snoozed, declined: uncharged.
  update ordinaut.step as s set state = 'ready' where s.step_id = v_step.step_id;
  if v_outcome = 'snoozed' then
    v_item.run_at := p_now + coalesce(ordinaut._retry_after(p_error), '1 s');
  elsif v_outcome = 'declined' then
    v_item.run_at := p_now + interval '1 s';
  end if;
  if v_outcome = 'declined' and not ordinaut._has_tool(v_item.queue, v_item.tool) then
    perform ordinaut._park(v_item, 'tool');
  else
    perform ordinaut._put_back(v_item, p_now);
  end if;
  return v_outcome;
end
$fn$;

comment on function ordinaut._settle_step(
  ordinaut.lease, ordinaut.work_item, text, jsonb, boolean, timestamptz, timestamptz
) is
  'Settle one leased step that did not succeed, journal it, and say what became of it.';

create or replace function ordinaut._journal_step(
  p_event      text,
  p_item       ordinaut.work_item,
  p_lease      ordinaut.lease,
  p_started_at timestamptz,
  p_detail     jsonb
)
returns void
language sql
volatile
as $fn$
  select ordinaut._journal(p_event, p_item.run_id, p_item.task_id, p_item.queue,
    p_item.attempt::integer, p_lease.worker_id, p_lease.lease_id,
    p_detail || jsonb_build_object('started_at', p_started_at), p_item.step);
$fn$;

comment on function ordinaut._journal_step(
  text, ordinaut.work_item, ordinaut.lease, timestamptz, jsonb
) is
  'Append what became of an attempt of a step to the journal.';

/* An attempt failed or crashed.  p_evaluate: decide at once what follows, as every settle does;
   else the step stays in error, with its unit parked, until evaluate_step_failure(). */
create or replace function ordinaut._step_failed(
  p_step     ordinaut.step,
  p_item     ordinaut.work_item,
  p_outcome  text,
  p_error    jsonb,
  p_lease    ordinaut.lease,
  p_now      timestamptz,
  p_evaluate boolean
)
returns text
language plpgsql
volatile
as $fn$
declare
  v_item ordinaut.work_item := p_item;
  v_error jsonb := p_error;
  v_retry record;
  v_again boolean;
  v_asked interval := ordinaut._retry_after(p_error);
begin
  if p_outcome = 'crashed' then
    v_item.crashes := v_item.crashes + 1;
    -- Only a unit that was leased alone can be the culprit for certain.
    v_again := v_item.crashes < 3 or p_lease.size > 1;
    v_item.run_at := p_now;
  else
    v_item.failures := v_item.failures + 1;
    select d.* into v_retry
    from ordinaut._retry_decision(v_item, v_error, v_item.failures) as d;
    v_again := v_retry.is_retryable and v_item.failures < v_retry.max_attempts;
    v_item.run_at := p_now + v_retry.after;
    if v_retry.is_retryable and not v_again then
      v_error := v_error || jsonb_build_object('message', format(
        'Max retries exhausted (%s of %s): %s',
        v_item.failures, v_retry.max_attempts, v_error ->> 'message'));
    end if;
  end if;
  -- A run that is failing or withdrawn does nothing again, but roll back.
  v_again := v_again and (p_step.kind is not distinct from 'rollback' or not exists (
    select from ordinaut.task_run as r where r.run_id = p_step.run_id and r.error is not null
  ));

  update ordinaut.step as s
  set
    state = 'error',
    failures = v_item.failures,
    crashes = v_item.crashes,
    error = v_error,
    retry_after = v_asked,
    next_retry_at = case when v_again then v_item.run_at end,
    finished_at = p_now,
    wait = case when not p_evaluate then jsonb_build_object('kind', 'evaluation') end
  where s.step_id = p_step.step_id;
  perform ordinaut._journal_step(p_outcome, p_item, p_lease, p_step.started_at,
    v_error || case
      when v_again then jsonb_build_object('run_at', v_item.run_at)
      else '{}'
    end);
  if not p_evaluate then
    perform ordinaut._park(v_item, 'error');
    return 'error';
  end if;
  return ordinaut._evaluate(v_item, v_error, v_again, p_now);
end
$fn$;

comment on function ordinaut._step_failed(
  ordinaut.step, ordinaut.work_item, text, jsonb, ordinaut.lease, timestamptz, boolean
) is
  'Note a failed attempt of a step, and decide what follows. The caller holds the run.';

create or replace function ordinaut._evaluate(
  p_item  ordinaut.work_item,
  p_error jsonb,
  p_again boolean,
  p_now   timestamptz
)
returns text
language plpgsql
volatile
as $fn$
begin
  if p_again then
    update ordinaut.step as s
    set state = 'waiting_for_retry', finished_at = null, wait = null
    where s.step_id = p_item.work_id;
    perform ordinaut._put_back(p_item, p_now);
    return 'retry';
  end if;
  update ordinaut.step as s set wait = null where s.step_id = p_item.work_id and s.wait is not null;
  perform ordinaut._failed_for_good(ordinaut._step_of(p_item.work_id), p_error, p_now);
  return 'failed';
end
$fn$;

comment on function ordinaut._evaluate(ordinaut.work_item, jsonb, boolean, timestamptz) is
  'What follows from a step in error: it is tried again, or it has failed.';

create or replace function ordinaut.evaluate_step_failure(p_step_id uuid)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_step ordinaut.step := ordinaut._step_of(p_step_id);
  v_parked ordinaut.parked;
  v_item ordinaut.work_item;
begin
  perform ordinaut._lock_run(v_step.run_id);
  v_step := ordinaut._step_of(p_step_id);
  delete from ordinaut.parked as p
  where p.work_id = p_step_id and p.reason = 'error'
  returning p.* into v_parked;
  if not found then
    raise exception using
      errcode = case when v_step.step_id is null then 'OR020' else 'OR031' end,
      message = coalesce(
        format('step %s (%s) has no failure to evaluate', p_step_id, v_step.state),
        format('there is no step %s', p_step_id)),
      hint = 'Workers evaluate a failure when they report it.';
  end if;
  v_item := ordinaut._item(v_parked);
  v_item.run_at := coalesce(v_step.next_retry_at, v_item.run_at);
  return ordinaut._evaluate(
    v_item, v_step.error, v_step.next_retry_at is not null, ordinaut.now());
end
$fn$;

comment on function ordinaut.evaluate_step_failure(uuid) is
  'Decide what follows from a step that was left in error: retry (it is waiting_for_retry), or '
  'failed. Errors: OR020, OR031 (there is nothing to decide).';

-- The first half of a failure, for tests of lifecycles: the engine itself always does both.
create or replace function ordinaut._fail_unevaluated(
  p_lease_id uuid,
  p_step_id  uuid,
  p_error    jsonb
)
returns void
language plpgsql
volatile
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_lease ordinaut.lease := ordinaut._take_leased(p_lease_id, array[p_step_id]);
  v_step ordinaut.step := ordinaut._step_of(p_step_id);
begin
  perform ordinaut._lock_run(v_step.run_id);
  perform ordinaut._step_failed(
    v_step, v_lease.work[1], 'failed', p_error, v_lease, v_now, false);
end
$fn$;

comment on function ordinaut._fail_unevaluated(uuid, uuid, jsonb) is
  'Settle a leased step as failed, and leave it in error. Errors: invalid_parameter_value.';

create or replace function ordinaut._lease_step(
  p_step_id uuid,
  p_holder  text,
  p_for     interval default '1 min'
)
returns uuid
language plpgsql
volatile
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_lease_id uuid := gen_random_uuid();
  v_item ordinaut.work_item;
  v_work ordinaut.work_item[];
begin
  delete from ordinaut.due_work as w where w.work_id = p_step_id returning w.* into v_item;
  if found then
    v_item.attempt := v_item.attempt + 1;
    v_work := ordinaut._begin_steps(array[v_item], v_now);
  end if;
  if coalesce(cardinality(v_work), 0) = 0 then
    raise exception using
      errcode = 'OR031',
      message = format('step %s is not waiting to run, but %s', p_step_id,
        coalesce((ordinaut._step_of(p_step_id)).state, 'unknown')),
      hint = 'why() tells what it waits for.';
  end if;
  insert into ordinaut.lease (lease_id, holder, queue, leased_at, expires_at, size, work)
  values (v_lease_id, p_holder, v_item.queue, v_now, v_now + p_for, 1, v_work);
  return v_lease_id;
end
$fn$;

comment on function ordinaut._lease_step(uuid, text, interval) is
  'Lease exactly this step, whatever its run_at. Errors: OR031 (it is not waiting to run).';
