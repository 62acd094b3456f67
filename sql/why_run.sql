/*
 * Why a run or a step has not run.
 */

create or replace function ordinaut._why_queue(p_queue text)
returns table (reason text, detail text, since timestamptz, until timestamptz, subject text)
language sql
stable
as $fn$
  select 'queue_paused',
    format('queue %s was paused by %s%s', q.queue, q.paused_by, coalesce(': ' || q.note, '')),
    q.paused_at, null::timestamptz, q.queue
  from ordinaut.queue as q
  where q.queue = p_queue and q.paused_at is not null
  union all
  select 'queue_limit',
    format('queue %s runs at most %s units at once, and does', q.queue, q.max_running),
    null, null, q.queue
  from ordinaut.queue as q
  where
    q.queue = p_queue
    and q.max_running <= (
      select coalesce(sum(l.size - cardinality(l.settled)), 0)
      from ordinaut.lease as l
      where l.queue = p_queue
    )
  union all
  select 'no_worker',
    format('no live worker serves queue %s%s', p_queue, coalesce(
      ' (last seen: ' || (
        select max(w.seen_at)::text from ordinaut.worker as w where p_queue = any (w.queues)
      ) || ')', '')),
    null, null, p_queue
  where not exists (
    select from ordinaut.worker as w
    where p_queue = any (w.queues) and w.seen_at + w.ttl > ordinaut.now()
  );
$fn$;

comment on function ordinaut._why_queue(text) is 'Why a queue leases nothing now.';

create or replace function ordinaut._why_unit(p_work_id uuid)
returns table (reason text, detail text, since timestamptz, until timestamptz, subject text)
language plpgsql
stable
as $fn$
declare
  v_work ordinaut.work;
  v_run ordinaut.run;
  v_last ordinaut.run_log;
  v_parked_at timestamptz;
begin
  select w.* into v_work from ordinaut.work as w where w.work_id = p_work_id;
  select r.* into v_run from ordinaut.run as r where r.run_id = p_work_id;
  select p.parked_at into v_parked_at from ordinaut.parked as p where p.work_id = p_work_id;

  if exists (
    select from ordinaut.cancel_request as c where c.run_id = coalesce(v_work.run_id, p_work_id)
  ) then
    return query
    select
      'cancel_requested',
      format('a cancel was requested by %s%s', c.requested_by, coalesce(': ' || c.note, '')),
      c.requested_at, null::timestamptz, p_work_id::text
    from ordinaut.cancel_request as c
    where c.run_id = coalesce(v_work.run_id, p_work_id);
  end if;

  case
    when v_run.finished_at is not null then
      return query
      select
        'finished',
        format('it ended as %s%s', v_run.state, coalesce(': ' || (v_run.error ->> 'message'), '')),
        v_run.finished_at, null::timestamptz, p_work_id::text;
    when v_work.status = 'running' then
      return query
      select 'running', format('attempt %s is leased by %s', v_work.attempt, v_work.locked_by),
        (select l.leased_at from ordinaut.lease as l where l.lease_id = v_work.lease_id),
        v_work.locked_until, p_work_id::text;
      if v_work.locked_until < ordinaut.now() then
        return query
        select
          'not_reaped',
          'its lessee is silent and nobody has called reap() since: no worker or scheduler runs',
          v_work.locked_until, null::timestamptz, v_work.lease_id::text;
      end if;
    when v_work.reason = 'key' then
      return query
      select
        'key_busy', format('key %s is held by run %s', v_work.key, h.run_id), v_parked_at,
        null::timestamptz, h.run_id::text
      from ordinaut.hold as h
      where h.key = v_work.key and h.slot >= 1;
      return query
      select
        'in_line', format('%s others wait for key %s before it', count(*), v_work.key),
        null::timestamptz, null::timestamptz, v_work.key
      from ordinaut.parked as p
      where
        p.key = v_work.key
        and (p.priority, p.run_at, p.work_id) < (v_work.priority, v_work.run_at, v_work.work_id)
      having count(*) > 0;
      if not exists (select from ordinaut.hold as h where h.key = v_work.key and h.slot >= 1) then
        return query
        select
          'key_free', 'its key is free: the next reap() makes it due', null::timestamptz,
          null::timestamptz, v_work.key;
      end if;
    when v_work.reason = 'tool' then
      return query
      select
        'no_tool', format('no live worker of queue %s has tool %s', v_work.queue, v_work.tool),
        v_parked_at, null::timestamptz, v_work.tool;
    when v_work.reason = 'breaker' or exists (
      -- The one that is to try, when the time comes.
      select from ordinaut.breaker as b where b.state = 'open' and b.probe_id = p_work_id
    ) then
      return query select b.* from ordinaut._why_breaker(v_work.tool) as b;
    when v_work.status = 'parked' then
      return query
      select
        'parked', format('it is held back: %s', v_work.reason), v_parked_at, null::timestamptz,
        p_work_id::text;
    else
      if v_work.run_at > ordinaut.now() then
        select g.* into v_last
        from ordinaut.run_log as g
        where
          g.run_id = v_work.run_id
          and g.step is not distinct from v_work.step
          and g.event in ('failed', 'timed_out', 'snoozed', 'declined')
        order by g.log_id desc
        limit 1;
        return query
        select
          case v_last.event
            when 'failed' then 'backoff'
            when 'timed_out' then 'backoff'
            when 'snoozed' then 'snoozed'
            when 'declined' then 'declined'
            else 'not_due'
          end,
          case v_last.event
            when 'declined' then format('a worker that lacks tool %s declined it', v_work.tool)
            when 'snoozed' then 'its tool asked for a pause'
            when 'failed'
              then format('attempt %s failed: %s', v_last.attempt, v_last.detail ->> 'message')
            when 'timed_out' then format('attempt %s timed out', v_last.attempt)
            else 'it is scheduled for later'
          end,
          v_last.at, v_work.run_at, p_work_id::text;
      end if;
      if v_work.key is not null then
        return query
        select
          'key_busy',
          format('key %s is held by run %s', v_work.key, string_agg(h.run_id::text, ', ')),
          null::timestamptz, null::timestamptz, v_work.key
        from ordinaut.hold as h
        where h.key = v_work.key and h.slot >= 1
        having count(*) >= 1 and not bool_or(h.run_id = p_work_id);
      end if;
  end case;

  if v_run.finished_at is null and v_work.status in ('pending', 'parked') then
    return query select q.* from ordinaut._why_queue(v_work.queue) as q;
  end if;
end
$fn$;

comment on function ordinaut._why_unit(uuid) is
  'Every reason why a unit has not run; no rows when only its turn is missing.';

create or replace function ordinaut._why_step(p_step_id uuid)
returns table (reason text, detail text, since timestamptz, until timestamptz, subject text)
language plpgsql
stable
as $fn$
declare
  v_step ordinaut.step := ordinaut._step_of(p_step_id);
  v_map ordinaut.step;
begin
  if not ordinaut._is_live(v_step.state, v_step.wait) then
    return query
    select 'finished', format('step %s ended as %s%s', v_step.name, v_step.state,
        coalesce(': ' || (v_step.error ->> 'message'), '')),
      v_step.finished_at, null::timestamptz, p_step_id::text;
  elsif v_step.state = 'pending' and v_step.kind = 'item' then
    v_map := ordinaut._step_of(v_step.map_step_id);
    return query
    select 'in_line', format('items of step %s run %s at a time, in order', v_map.name,
        v_map.wait ->> 'max_parallel'), v_step.created_at, null::timestamptz, v_map.step_id::text;
  elsif v_step.state = 'pending' and v_step.kind = 'rollback' then
    return query
    select 'waits_step', 'rollbacks run one after the other', v_step.created_at,
      null::timestamptz, v_step.run_id::text;
  elsif v_step.state = 'pending' then
    return query
    select 'waits_step',
      format('step %s waits for step %s, which is %s%s', v_step.name, r.name, r.current_state,
        case when r.current_state = 'error' then ' for good' else '' end),
      v_step.created_at, r.next_retry_at, r.workflow_step_uuid::text
    from ordinaut.task_run as t
    join ordinaut.pipeline_step as d
      on d.pipeline_id = t.pipeline_id and d.position = v_step.position
    cross join lateral ordinaut._readiness(t.run_id, null) as r
    join ordinaut.pipeline_step as n
      on n.pipeline_id = t.pipeline_id and n.position = r.position
    where
      t.run_id = v_step.run_id
      and r.position = any (d.needs)
      and not ordinaut._satisfies(r.current_state, n.continue_on_error);
  elsif v_step.state = 'error' then
    return query
    select 'not_evaluated', format('step %s failed, and evaluate_step_failure() is to decide: %s',
        v_step.name, v_step.error ->> 'message'),
      v_step.finished_at, v_step.next_retry_at, p_step_id::text;
  elsif v_step.wait ->> 'kind' = 'sleep' then
    return query
    select 'sleeping', format('step %s sleeps', v_step.name), v_step.started_at,
      (v_step.wait ->> 'until')::timestamptz, p_step_id::text;
  elsif v_step.wait is not null then
    return query
    select w.reason, format('step %s: %s', v_step.name, w.detail), w.since, w.until, w.subject
    from ordinaut._why_wait(p_step_id) as w;
  else
    return query
    select u.reason, format('step %s: %s', v_step.name, u.detail), u.since, u.until, u.subject
    from ordinaut._why_unit(p_step_id) as u;
  end if;
end
$fn$;

comment on function ordinaut._why_step(uuid) is
  'Every reason why a step has not run; no rows when only its turn is missing.';

create or replace function ordinaut._why_run(p_run_id uuid)
returns table (reason text, detail text, since timestamptz, until timestamptz, subject text)
language plpgsql
stable
as $fn$
declare
  v_run ordinaut.task_run;
begin
  select r.* into v_run
  from ordinaut.task_run as r
  where r.run_id = p_run_id and r.pipeline_id is not null and r.finished_at is null;
  if not found then
    return query select u.* from ordinaut._why_unit(p_run_id) as u;
    return;
  end if;

  return query
  select 'cancel_requested',
    format('a cancel was requested by %s%s', c.requested_by, coalesce(': ' || c.note, '')),
    c.requested_at, null::timestamptz, p_run_id::text
  from ordinaut.cancel_request as c
  where c.run_id = p_run_id;
  if v_run.error is not null then
    return query
    select 'failing',
      format('it will end as %s when what runs has ended and what is done is rolled back: %s',
        coalesce(v_run.error ->> 'outcome', 'failed'), v_run.error ->> 'message'),
      null::timestamptz, null::timestamptz, p_run_id::text;
  end if;
  return query
  select coalesce(w.reason, 'ready'),
    coalesce(w.detail,
      format('step %s: nothing holds it back: the next lease of its queue may take it', s.name)),
    w.since, w.until, coalesce(w.subject, s.step_id::text)
  from (
    select l.step_id, l.name, l.position
    from ordinaut.step as l
    where l.run_id = p_run_id and ordinaut._is_live(l.state, l.wait)
    order by l.state = 'pending', l.position
    limit 20
  ) as s
  left join lateral ordinaut._why_step(s.step_id) as w on true;
end
$fn$;

comment on function ordinaut._why_run(uuid) is
  'Every reason why a run has not run, or not ended: of a run of steps, of those first that are '
  'not pending, 20 at most. No rows when only its turn is missing.';
