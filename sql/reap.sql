/*
 * Reaping: work whose lessee is gone becomes work again.  Part of every worker and scheduler
 * loop, never a job of its own: a rescue that can get stuck is none.
 *
 * A lease is reaped when no live worker holds it and it has no end ahead.  After the server was
 * down, nobody could be seen: for one ttl from the first reap that notices the new server run (a
 * start or a promotion), silence proves nothing.
 */

create or replace function ordinaut._server_run()
returns text
language sql
volatile
as $fn$
  -- The timeline changes at a promotion, the start time at a start.
  select extract(epoch from pg_postmaster_start_time())::text || '/'
    || left(pg_walfile_name(pg_current_wal_lsn()), 8);
$fn$;

comment on function ordinaut._server_run() is
  'What names this run of the server: start time and timeline.';

/* Remember the server run and the highest clock.  A clock that stepped back strands what was
   stamped "now" before the step: that is made due again, and nobody lives on by a future date. */
create or replace function ordinaut._note_epoch(p_now timestamptz)
returns timestamptz
language plpgsql
volatile
as $fn$
declare
  v_run text := ordinaut._server_run();
  v_epoch ordinaut.server_epoch;
begin
  select e.* into v_epoch from ordinaut.server_epoch as e for update skip locked;
  if not found then
    -- Locked: another reaper notes it just now.  An insert would wait for all that it does.
    select e.* into v_epoch from ordinaut.server_epoch as e;
    if found then
      return case when v_epoch.server_run = v_run then v_epoch.seen_since else p_now end;
    end if;
    -- The first reap of all; one beside it must not wait for it either.
    if pg_try_advisory_xact_lock(hashtextextended('ordinaut.server_epoch', 7146)) then
      insert into ordinaut.server_epoch (only_row, server_run, seen_since, clock_high)
      values (true, v_run, p_now - interval '1 day', p_now)
      on conflict on constraint server_epoch_pk do nothing;
    end if;
    return coalesce((select e.seen_since from ordinaut.server_epoch as e), p_now);
  end if;

  if v_epoch.clock_high > p_now + interval '1 s' then
    perform ordinaut._step_back(p_now, v_epoch.clock_high);
    v_epoch.seen_since := least(v_epoch.seen_since, p_now);
  end if;
  if v_epoch.server_run <> v_run then
    v_epoch.seen_since := p_now;
  end if;
  if v_epoch.server_run <> v_run or abs(extract(epoch from v_epoch.clock_high - p_now)) > 1 then
    update ordinaut.server_epoch as e
    set
      server_run = v_run,
      seen_since = v_epoch.seen_since,
      clock_high = p_now;
  end if;
  return v_epoch.seen_since;
end
$fn$;

comment on function ordinaut._note_epoch(timestamptz) is
  'Note the server run and the clock; returns since when silence counts.';

create or replace function ordinaut._step_back(p_now timestamptz, p_high timestamptz)
returns void
language plpgsql
volatile
as $fn$
declare
  v_item ordinaut.work_item;
begin
  update ordinaut.worker as w set seen_at = p_now where w.seen_at > p_now;
  update ordinaut.lease as l
  set
    leased_at = p_now,
    expires_at = p_now + (l.expires_at - l.leased_at)
  where l.leased_at > p_now;

  for v_item in
    delete from ordinaut.due_work as w
    where w.ctid = any (array(
      select y.ctid
      from ordinaut.due_work as y
      -- The highest clock was noted a while before the step; what came since lies above it.
      where
        y.run_at > p_now
        and y.run_at <= p_high + interval '1 min'
        and y.scheduled_for is null
      for update skip locked
    ))
    returning w.*
  loop
    v_item.run_at := p_now;
    perform ordinaut._put_due(array[v_item]);
    perform ordinaut._ask_sweep(v_item.queue);
    perform ordinaut._notify_idle(v_item.queue);
  end loop;
  perform ordinaut._journal('clock_stepped_back', p_detail => jsonb_build_object(
    'from', p_high, 'to', p_now));
end
$fn$;

comment on function ordinaut._step_back(timestamptz, timestamptz) is
  'Repair after the server''s clock stepped back: work stamped in what is now the future becomes '
  'due.';

create or replace function ordinaut.reap(p_limit integer default 1000)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_since timestamptz;
  v_lease ordinaut.lease;
  v_n bigint := 0;
begin
  perform ordinaut._check_count('limit', p_limit, 1, 1000000);
  v_since := ordinaut._note_epoch(v_now);

  delete from ordinaut.worker as w
  where w.worker_id in (
    select d.worker_id
    from ordinaut.worker as d
    where d.seen_at + d.ttl < v_now and v_since + d.ttl < v_now
    order by d.worker_id
    for update skip locked
  );

  for v_lease in
    select l.*
    from ordinaut.lease as l
    where
      (l.expires_at is null or l.expires_at <= v_now)
      and not exists (select from ordinaut.worker as w where w.worker_id = l.worker_id)
    order by l.lease_id
    limit p_limit
    for update skip locked
  loop
    v_n := v_n + ordinaut._dissolve(v_lease, true, case
      when v_lease.worker_id is null
        then format('the lease of %s ran out', v_lease.holder)
      else format('its worker %s was not seen for its ttl', v_lease.worker_id)
    end);
    exit when v_n >= p_limit;
  end loop;

  -- Repairs, each of something that normally needs none.
  perform ordinaut._unpark_tools();
  perform ordinaut._sweep_holds();
  perform ordinaut._sweep_breakers(v_now);
  perform ordinaut._sweep_deadlines(v_now);
  perform ordinaut._age_queues(p_limit);
  perform ordinaut._sweep_waits(least(p_limit, 1000));
  delete from ordinaut.cancel_request as c
  where c.ctid = any (array(
    select q.ctid
    from ordinaut.cancel_request as q
    where exists (
      select from ordinaut.task_run as r where r.run_id = q.run_id and r.finished_at is not null
    )
    for update skip locked
  ));
  return v_n;
end
$fn$;

comment on function ordinaut.reap(integer) is
  'Take back the work of dead workers and of ad-hoc leases that ran out, at least p_limit units '
  'if there are so many, each charged a crash; work that crashed three times, the last time '
  'leased alone, is abandoned. Also repairs what a lost race left behind. Any number may call it '
  'at once. Returns the units taken back. Errors: invalid_parameter_value.';
