/*
 * Settling one by one: complete_work, fail_work, release_work, snooze_work, and assert_lease for
 * a tool's own transaction.  For psql and other clients; they raise where exchange() answers with
 * data.
 */

create or replace function ordinaut._settle_alone(
  p_lease_id uuid,
  p_work_id  uuid,
  p_outcome  text,
  p_output   jsonb,
  p_error    jsonb
)
returns table (work_id uuid, outcome text)
language plpgsql
volatile
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_ids uuid[] := array[p_work_id];
  v_id uuid;
  v_fact record;
begin
  if p_work_id is null then
    select array_agg(u.work_id) into v_ids
    from ordinaut.lease as l
    cross join unnest(l.work) as u
    where l.lease_id = p_lease_id and u.work_id <> all (l.settled);
  end if;
  if v_ids is null then
    raise exception using
      errcode = 'OR001',
      message = format('lease %s is gone', p_lease_id),
      hint = 'Stop: discard the result. Its work was taken back, or is settled; name the unit to '
        'know which.';
  end if;

  if octet_length(p_output::text) > 1048576 then
    raise exception using
      errcode = 'program_limit_exceeded',
      message = format('output of %s bytes is over 1 MB', octet_length(p_output::text)),
      hint = 'Store it elsewhere and return a reference to it.';
  end if;

  for v_fact in
    select s.* from ordinaut._settle(p_lease_id, v_ids,
      array_fill(p_outcome, array[cardinality(v_ids)]),
      array_fill(p_output::text, array[cardinality(v_ids)]),
      array_fill(p_error::text, array[cardinality(v_ids)]),
      array_fill(null::bigint, array[cardinality(v_ids)]), v_now) as s
  loop
    -- Nor may a tool commit with a unit that was taken out of a lease that still stands.
    if v_fact.kind = 'lost' or not ordinaut._settled_before(p_lease_id, v_fact.work_id) then
      raise exception using
        errcode = 'OR001',
        message = format('lease %s no longer holds %s', p_lease_id,
          coalesce('unit ' || p_work_id, 'its units')),
        hint = 'Stop: another attempt may be running. Discard this result.';
    end if;
    v_ids := array_remove(v_ids, v_fact.work_id);
    return query select v_fact.work_id, 'already';
  end loop;

  foreach v_id in array v_ids loop
    return query
    select v_id, coalesce(
      (select r.state from ordinaut.task_run as r where r.run_id = v_id),
      (select case s.state
          when 'complete' then 'success' when 'error' then 'failed'
          when 'waiting_for_retry' then 'retry' when 'ready' then p_outcome
          when 'in_progress' then 'waiting' else s.state
        end
       from ordinaut.step as s where s.step_id = v_id),
      case when p_outcome in ('failed', 'timed_out', 'crashed') then 'retry' else p_outcome end);
  end loop;
end
$fn$;

comment on function ordinaut._settle_alone(uuid, uuid, text, jsonb, jsonb) is
  'Settle one unit, or all that a lease still holds, and raise when the lease is lost. Errors: '
  'OR001, invalid_parameter_value, program_limit_exceeded.';

create or replace function ordinaut.complete_work(
  p_lease_id uuid,
  p_work_id  uuid  default null,
  p_output   jsonb default null
)
returns table (work_id uuid, outcome text)
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select s.work_id, s.outcome
  from ordinaut._settle_alone(p_lease_id, p_work_id, 'success', p_output, null) as s;
$fn$;

comment on function ordinaut.complete_work(uuid, uuid, jsonb) is
  'Settle a leased unit (null: all that the lease still holds) as success, with its output. '
  'outcome: success, or already when this lease settled it before. Accepted, late or not, until '
  'the lease is taken back. Errors: OR001 (stop: the lease is lost), invalid_parameter_value, '
  'program_limit_exceeded.';

create or replace function ordinaut.fail_work(
  p_lease_id    uuid,
  p_work_id     uuid     default null,
  p_error       text     default null,
  p_retryable   boolean  default true,
  p_retry_after interval default null,
  p_details     jsonb    default null
)
returns table (work_id uuid, outcome text)
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select s.work_id, s.outcome
  from ordinaut._settle_alone(p_lease_id, p_work_id, 'failed', null,
    coalesce(p_details, '{}') || jsonb_strip_nulls(jsonb_build_object(
      'message', left(coalesce(p_error, 'failed'), 16000),
      'retryable', p_retryable,
      'retry_after', extract(epoch from p_retry_after)))) as s;
$fn$;

comment on function ordinaut.fail_work(uuid, uuid, text, boolean, interval, jsonb) is
  'Settle a leased unit (null: all that the lease still holds) as failed. outcome: retry (it '
  'runs again after p_retry_after or its backoff), failed (not retryable, or attempts '
  'exhausted), cancelled (a cancel was requested), already. Errors: OR001, '
  'invalid_parameter_value.';

create or replace function ordinaut.release_work(
  p_lease_id uuid,
  p_work_id  uuid default null,
  p_note     text default null
)
returns table (work_id uuid, outcome text)
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select s.work_id, s.outcome
  from ordinaut._settle_alone(p_lease_id, p_work_id, 'released', null,
    jsonb_strip_nulls(jsonb_build_object('message', p_note))) as s;
$fn$;

comment on function ordinaut.release_work(uuid, uuid, text) is
  'Give a leased unit (null: all that the lease still holds) back at its place in line, '
  'uncharged. outcome: released, cancelled, already. Errors: OR001, invalid_parameter_value.';

create or replace function ordinaut.snooze_work(
  p_lease_id uuid,
  p_work_id  uuid,
  p_for      interval,
  p_note     text default null
)
returns table (work_id uuid, outcome text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  perform ordinaut._check_span('for', coalesce(p_for, '-1 s'), '0 s', '10 years');
  return query
  select s.work_id, s.outcome
  from ordinaut._settle_alone(p_lease_id, p_work_id, 'snoozed', null,
    jsonb_strip_nulls(jsonb_build_object(
      'message', p_note, 'retry_after', extract(epoch from p_for)))) as s;
end
$fn$;

comment on function ordinaut.snooze_work(uuid, uuid, interval, text) is
  'Give a leased unit (null: all that the lease still holds) back, to be leased again after '
  'p_for, uncharged. outcome: snoozed, cancelled, already. Errors: OR001, '
  'invalid_parameter_value.';

create or replace function ordinaut.skip_work(
  p_lease_id uuid,
  p_work_id  uuid,
  p_note     text default null
)
returns table (work_id uuid, outcome text)
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select s.work_id, s.outcome
  from ordinaut._settle_alone(p_lease_id, p_work_id, 'skipped', null,
    jsonb_strip_nulls(jsonb_build_object('message', p_note))) as s;
$fn$;

comment on function ordinaut.skip_work(uuid, uuid, text) is
  'Settle a leased step as skipped: its condition does not hold. What needs it goes on. outcome: '
  'skipped, already. Errors: OR001, invalid_parameter_value (not a step).';

create or replace function ordinaut.wait_work(p_lease_id uuid, p_work_id uuid, p_wait jsonb)
returns table (work_id uuid, outcome text)
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select s.work_id, s.outcome
  from ordinaut._settle_alone(p_lease_id, p_work_id, 'waiting', p_wait, null) as s;
$fn$;

comment on function ordinaut.wait_work(uuid, uuid, jsonb) is
  'Let a leased step wait, holding no worker. p_wait: {"kind": "sleep", "seconds": n}, or of '
  'kind event, approval, task or map with what that takes. outcome: waiting, success (there was '
  'nothing to wait for), failed (it asks for something impossible), cancelled, already. Errors: '
  'OR001, invalid_parameter_value (not a step).';

create or replace function ordinaut.assert_lease(p_lease_id uuid, p_work_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_run_id uuid;
begin
  select u.run_id into v_run_id
  from (
    select l.work, l.settled from ordinaut.lease as l where l.lease_id = p_lease_id for key share
  ) as l
  cross join unnest(l.work) as u
  where u.work_id = p_work_id and u.work_id <> all (l.settled);
  if not found then
    raise exception using
      errcode = 'OR001',
      message = format('lease %s no longer holds unit %s', p_lease_id, p_work_id),
      hint = 'Stop and roll back: another attempt may be running.';
  end if;
  if exists (select from ordinaut.cancel_request as c where c.run_id = v_run_id) then
    raise exception using
      errcode = 'OR002',
      message = format('a cancel is requested for run %s', v_run_id),
      hint = 'Roll back, and settle the unit as cancelled.';
  end if;
end
$fn$;

comment on function ordinaut.assert_lease(uuid, uuid) is
  'Hold the lease of a unit for the rest of the caller''s transaction: nobody can take it back '
  'before that ends. With complete_work() as the last statement, writes and completion commit '
  'together. Errors: OR001, OR002.';
