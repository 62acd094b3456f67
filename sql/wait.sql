/*
 * Waiting: a step that waits for an event, a person or a child run holds no worker.  Its unit is
 * parked, and that row is the waiter: whoever ends the step removes it, and nothing is left over.
 * The row's payload says what is waited for, and its run_at is the deadline, if it has one.
 *
 *   emit_event, respond, the end of a child --> the run is locked --> the step ends
 *   nobody in time                          --> _expire_waits() --> the step fails, or goes on
 *
 * What wakes many runs locks none of them for long: a run that somebody holds is left to the sweep,
 * which tick() and reap() make.
 */

create or replace function ordinaut._try_run(p_run_id uuid)
returns ordinaut.task_run
language plpgsql  -- its plan is kept; that of a function in SQL is made at every call
volatile
as $fn$
declare
  v_run ordinaut.task_run;
begin
  select r.* into v_run
  from ordinaut.task_run as r
  where r.run_id = p_run_id and r.finished_at is null
  for no key update skip locked;
  return v_run;
end
$fn$;

comment on function ordinaut._try_run(uuid) is
  'Lock a live run of steps without waiting; null: it is busy, or has ended.';

create or replace function ordinaut._hold_waiter(p_parked ordinaut.parked)
returns ordinaut.step
language plpgsql
volatile
as $fn$
declare
  v_step ordinaut.step;
begin
  if (ordinaut._try_run(p_parked.run_id)).run_id is null then
    return null;
  end if;
  -- With the run locked nobody else ends it; somebody may have, before.
  select s.* into v_step
  from ordinaut.step as s
  where
    s.step_id = p_parked.work_id
    and s.state = 'in_progress'
    and exists (
      select from ordinaut.parked as p
      where
        p.work_id = p_parked.work_id and p.reason = p_parked.reason
        and p.payload = p_parked.payload
    );
  return v_step;
end
$fn$;

comment on function ordinaut._hold_waiter(ordinaut.parked) is
  'Lock the run of a step that waits, without waiting for it, and return the step; null: the run '
  'is busy, or the step waits no more.';

create or replace function ordinaut._iso(p_at timestamptz)
returns text
language sql
immutable
as $fn$
  select to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
$fn$;

comment on function ordinaut._iso(timestamptz) is 'An instant as steps read it, in UTC.';

create or replace function ordinaut._wait_error(
  p_message  text,
  p_type     text,
  p_category text,
  p_code     text
)
returns jsonb
language sql
immutable
as $fn$
  select jsonb_build_object('message', left(p_message, 4000), 'type', p_type,
    'category', p_category, 'code', p_code, 'retryable', false);
$fn$;

comment on function ordinaut._wait_error(text, text, text, text) is
  'The error of a step that waited in vain.';

-- What a step that waits says of its deadline; p_seconds is what the definition asked for.
create or replace function ordinaut._deadline(p_what text, p_seconds jsonb, p_now timestamptz)
returns timestamptz
language plpgsql
stable
as $fn$
begin
  if p_seconds is null or jsonb_typeof(p_seconds) = 'null' then
    return null;
  elsif jsonb_typeof(p_seconds) <> 'number' or p_seconds::text::numeric not between 0 and 315360000
  then
    perform ordinaut._refuse(
      format('%s %s is not a duration', p_what, left(p_seconds::text, 80)),
      'Seconds, or a duration such as 2 h; at most ten years.');
  end if;
  return p_now + make_interval(secs => p_seconds::text::float8);
end
$fn$;

comment on function ordinaut._deadline(text, jsonb, timestamptz) is
  'When a wait of so many seconds ends; null: never. Errors: invalid_parameter_value.';

create or replace function ordinaut._check_after(p_what text, p_value text)
returns text
language plpgsql
immutable
as $fn$
begin
  if p_value not in ('fail', 'continue') then
    perform ordinaut._refuse(format('%s %L must be fail or continue', p_what, left(p_value, 80)));
  end if;
  return coalesce(p_value, 'fail');
end
$fn$;

comment on function ordinaut._check_after(text, text) is
  'What to do after a wait in vain: fail, also for null, or continue. Errors: '
  'invalid_parameter_value.';

create or replace function ordinaut._expire_wait(
  p_parked ordinaut.parked,
  p_step   ordinaut.step,
  p_now    timestamptz
)
returns void
language plpgsql
volatile
as $fn$
declare
  v_wait constant jsonb := p_parked.payload;
  v_event ordinaut.event;
  v_within constant interval := date_trunc('milliseconds', p_parked.run_at - p_parked.parked_at);
  v_message text;
begin
  if p_parked.reason = 'event' then
    -- One that came in time and found the run busy.
    v_event := ordinaut._first_event(
      v_wait ->> 'topic', v_wait ->> 'key', (v_wait ->> 'since')::timestamptz);
    if v_event.event_id is not null then
      perform ordinaut._end_step(p_step, 'complete', ordinaut._event_output(v_event), p_now);
      return;
    end if;
    v_message := format('no event %s%s within %s', v_wait ->> 'topic',
      coalesce(' with key ' || (v_wait ->> 'key'), ''), v_within);
  else
    update ordinaut.approval as a
    set
      decision = 'expired',
      decided_at = p_now,
      decided_by = 'its expiry'
    where a.approval_id = (v_wait ->> 'approval_id')::uuid and a.decision is null;
    v_message := format('nobody answered within %s', v_within);
  end if;

  if v_wait ->> 'after' = 'continue' then
    perform ordinaut._end_step(p_step, 'complete', 'null', p_now);
  else
    perform ordinaut._fail_step(
      p_step, ordinaut._wait_error(v_message, 'WaitTimedOut', 'timeout', 'E6001'), p_now);
  end if;
end
$fn$;

comment on function ordinaut._expire_wait(ordinaut.parked, ordinaut.step, timestamptz) is
  'End a wait whose deadline has come, its run being locked: the step fails, or goes on with '
  'null, or takes an event that it has missed.';

create or replace function ordinaut._expire_waits(p_limit integer)
returns bigint
language plpgsql
volatile
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_parked ordinaut.parked;
  v_step ordinaut.step;
  v_n bigint := 0;
begin
  for v_parked in
    select p.*
    from ordinaut.parked as p
    where
      p.reason in ('event', 'approval') and p.payload ? 'deadline' and p.run_at <= v_now
    order by p.run_at
    limit p_limit
  loop
    v_step := ordinaut._hold_waiter(v_parked);
    continue when v_step.step_id is null;
    begin
      perform ordinaut._expire_wait(v_parked, v_step, v_now);
      v_n := v_n + 1;
    exception
      -- One that cannot end must not keep the others waiting.
      when data_exception or integrity_constraint_violation or program_limit_exceeded
        or lock_not_available or sqlstate 'OR010' then null;
    end;
  end loop;
  return v_n;
end
$fn$;

comment on function ordinaut._expire_waits(integer) is
  'End the waits whose deadline has come. Returns how many.';

create or replace function ordinaut._sweep_waits(p_limit integer)
returns void
language plpgsql
volatile
as $fn$
begin
  perform ordinaut._recheck_events(p_limit);
  perform ordinaut._expire_waits(p_limit);
  perform ordinaut._hear_children(p_limit);
end
$fn$;

comment on function ordinaut._sweep_waits(integer) is
  'Wake what no emitter, and what the end of no child run, could; end the waits that are over.';

create or replace function ordinaut._why_wait(p_step_id uuid)
returns table (reason text, detail text, since timestamptz, until timestamptz, subject text)
language sql
stable
as $fn$
  select
    case p.reason
      when 'event' then 'waits_event'
      when 'approval' then 'waits_approval'
      else 'waits_child'
    end,
    case
      when p.reason = 'event' then format('it waits for event %s%s', p.payload ->> 'topic',
        coalesce(' (key ' || (p.payload ->> 'key') || ')', ''))
      when p.reason = 'approval' then format('it waits for an answer of %s to %L',
        coalesce(array_to_string(a.responders, ' or '), 'anyone who may call respond()'),
        left(a.prompt, 200))
      when p.payload ? 'run_id' then format('it waits for run %s of task %s (%s)',
        p.payload ->> 'run_id', p.payload ->> 'task', coalesce(
          (
            select r.state
            from ordinaut.run as r
            where r.run_id = (p.payload ->> 'run_id')::uuid
          ), 'gone'))
      else format('it waits for %s of %s items', s.waits_for, s.wait ->> 'count')
    end,
    p.parked_at,
    case when p.payload ? 'deadline' then p.run_at end,
    case
      when p.reason = 'event' then p.payload ->> 'topic'
      else coalesce(p.payload ->> 'approval_id', p.payload ->> 'run_id', p.work_id::text)
    end
  from ordinaut.parked as p
  join ordinaut.step as s on s.step_id = p.work_id
  left join ordinaut.approval as a
    on p.reason = 'approval' and a.approval_id = (p.payload ->> 'approval_id')::uuid
  where p.work_id = p_step_id and p.reason in ('event', 'approval', 'child');
$fn$;

comment on function ordinaut._why_wait(uuid) is
  'What a step waits for; no rows if it waits for no event, answer, child run or items.';
