/*
 * Cancelling and retrying runs.
 *
 * A cancel tries to take the waiting work.  If the work moves between its places meanwhile, it
 * leaves its request: every lease, failure, release and reap reads it.  A race delays a cancel by
 * one lease and never loses it; a completion that comes first wins.
 *
 * The row of a request comes last in the order of locks: two cancels of a run that is being leased
 * would else hold it against each other, one waiting for the unit, one for the request.
 */

create or replace function ordinaut.cancel_run(p_run_id uuid, p_note text default null)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_parked ordinaut.parked;
  v_item ordinaut.work_item;
  v_where text;
  v_now timestamptz := ordinaut.now();
begin
  perform ordinaut._lock_run(p_run_id);
  if exists (
    select from ordinaut.task_run as r where r.run_id = p_run_id and r.finished_at is null
  ) then
    insert into ordinaut.cancel_request (run_id, requested_by, requested_at, note)
    values (p_run_id, ordinaut._actor(), v_now, p_note)
    on conflict on constraint cancel_request_pk do nothing;
    perform ordinaut._journal('cancel_requested', p_run_id,
      p_detail => jsonb_build_object('note', p_note));
    perform ordinaut._cancel_waiting(p_run_id, p_note, v_now);
    perform ordinaut._close_run(p_run_id, v_now);
    if exists (
      select from ordinaut.task_run as r where r.run_id = p_run_id and r.finished_at is not null
    ) then
      return 'cancelled';
    end if;
    perform pg_notify('ordinaut', '');
    return 'requested';
  end if;

  -- One snapshot for all places: a unit is in exactly one of them.
  select p.place into v_where
  from (
    select 'due' as place from ordinaut.due_work as w where w.work_id = p_run_id
    union all
    select 'parked' from ordinaut.parked as p where p.work_id = p_run_id
    union all
    select 'leased'
    from ordinaut.lease as l
    cross join unnest(l.work) as u
    where u.run_id = p_run_id and u.work_id <> all (l.settled)
    union all
    select 'done'
    from ordinaut.task_run as r
    where r.run_id = p_run_id and r.finished_at is not null
  ) as p;
  if v_where is null then
    raise exception using
      errcode = 'OR020',
      message = format('there is no run %s', p_run_id),
      hint = 'list_runs() shows runs; old ones may have been pruned.';
  elsif v_where = 'done' then
    return 'too_late';
  end if;

  delete from ordinaut.due_work as w where w.work_id = p_run_id returning w.* into v_item;
  if not found then
    delete from ordinaut.parked as p where p.work_id = p_run_id returning p.* into v_parked;
    v_item := case when found then ordinaut._item(v_parked) end;
  end if;
  if v_item.work_id is null then
    -- A lease has started it while we waited: what has not begun of its steps never will.
    if exists (
      select from ordinaut.task_run as r where r.run_id = p_run_id and r.finished_at is null
    ) then
      return ordinaut.cancel_run(p_run_id, p_note);
    end if;
    -- It ended while we waited for it: nobody would read the request.
    if exists (
      select from ordinaut.task_run as r where r.run_id = p_run_id and r.finished_at is not null
    ) then
      return 'too_late';
    end if;
  end if;

  insert into ordinaut.cancel_request (run_id, requested_by, requested_at, note)
  values (p_run_id, ordinaut._actor(), v_now, p_note)
  on conflict on constraint cancel_request_pk do nothing;
  if v_item.work_id is not null then
    perform ordinaut._finish_cancelled(v_item);
    return 'cancelled';
  end if;

  perform ordinaut._journal('cancel_requested', p_run_id,
    p_detail => jsonb_build_object('note', p_note));
  perform pg_notify('ordinaut', '');
  return 'requested';
end
$fn$;

comment on function ordinaut.cancel_run(uuid, text) is
  'Cancel a run. cancelled: it waited and is now cancelled; requested: it is leased (or steps of '
  'it are, or have to be rolled back), its worker is told, and it ends cancelled unless it '
  'succeeds first; too_late: it has ended. Errors: OR020.';

create or replace function ordinaut.retry_run(
  p_run_id uuid        default null,
  p_task   text        default null,
  p_queue  text        default null,
  p_tool   text        default null,
  p_state  text        default 'failed',
  p_since  timestamptz default null,
  p_until  timestamptz default null,
  p_limit  integer     default 100,
  p_note   text        default null
)
returns table (run_id uuid, retried_as uuid, outcome text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_run ordinaut.task_run;
  v_id uuid;
  v_holder uuid;
  v_task_id uuid;
  v_n integer := 0;
begin
  perform ordinaut._check_count('limit', p_limit, 1, 100000);
  if p_run_id is not null then
    if not exists (select from ordinaut.run as r where r.run_id = p_run_id) then
      raise exception using
        errcode = 'OR020',
        message = format('there is no run %s', p_run_id),
        hint = 'list_runs() shows runs; old ones may have been pruned.';
    elsif not exists (
      select from ordinaut.task_run as r
      where r.run_id = p_run_id and r.state in ('failed', 'cancelled', 'timed_out', 'abandoned')
    ) then
      raise exception using
        errcode = 'OR031',
        message = format('run %s has not failed', p_run_id),
        hint = 'Only a run that failed, timed out, was cancelled or abandoned can be retried; '
          'run_now() starts a task anew.';
    end if;
  else
    if p_task is null and p_queue is null and p_tool is null and p_since is null then
      perform ordinaut._refuse('retry_run needs a run or a filter',
        'Name p_run_id, or one of p_task, p_queue, p_tool, p_since.');
    end if;
    if p_state not in ('failed', 'cancelled', 'timed_out', 'abandoned') or p_state is null then
      perform ordinaut._refuse(
        format('state %L must be failed, cancelled, timed_out or abandoned', p_state));
    end if;
    if p_task is not null then
      v_task_id := ordinaut._task_id(p_task);
    end if;
  end if;

  for v_run in
    select r.*
    from ordinaut.task_run as r
    where
      case
        when p_run_id is not null then r.run_id = p_run_id
        else
          r.state = p_state
          and (v_task_id is null or r.task_id = v_task_id)
          and (p_queue is null or r.queue = p_queue)
          and (p_tool is null or r.tool = p_tool)
          and (p_since is null or r.finished_at >= p_since)
          and (p_until is null or r.finished_at < p_until)
          -- Retried before: its retry is what can be retried.
          and not exists (
            select from ordinaut.hold as h where h.key = 'retry:' || r.run_id and h.slot = 0
          )
      end
    order by r.run_id
    limit p_limit
  loop
    v_n := v_n + 1;
    v_id := ordinaut.uuid_generate_v7(v_now);
    v_holder := ordinaut._claim_once('retry:' || v_run.run_id, v_id, '365 days');
    if v_holder <> v_id then
      return query select v_run.run_id, v_holder, 'existing';
      continue;
    end if;

    insert into ordinaut.due_work (work_id, run_id, task_id, queue, priority, run_at, scheduled_for,
      enqueued_at, attempt, failures, crashes, max_attempts, timeout, tool, key, key_limit,
      idempotency_key, retry, retry_of, payload, pipeline_id)
    values (v_id, v_id, v_run.task_id, v_run.queue, v_run.priority,
      -- Microseconds apart, so that they run oldest first.
      v_now - greatest(10000 - v_n, 0) * interval '1 us', v_run.scheduled_for,
      v_now, 0, 0, 0, v_run.max_attempts, v_run.timeout, v_run.tool, v_run.key, v_run.key_limit,
      'retry:' || v_run.run_id, v_run.retry, v_run.run_id, v_run.payload,
      v_run.pipeline_id);
    insert into ordinaut.payload (run_id, body)
    select v_id, b.body
    from ordinaut.payload as b
    where b.run_id = v_run.run_id and v_run.payload is null;
    perform ordinaut._journal('retried', v_run.run_id, v_run.task_id, v_run.queue,
      p_detail => jsonb_build_object('retried_as', v_id, 'note', p_note));
    perform ordinaut._notify_idle(v_run.queue);
    return query select v_run.run_id, v_id, 'new';
  end loop;
end
$fn$;

comment on function ordinaut.retry_run(
  uuid, text, text, text, text, timestamptz, timestamptz, integer, text
) is
  'Run again, as a new run (retry_of), one run that did not succeed, or up to p_limit by filter, '
  'oldest first; those with this p_state that no retry followed yet. outcome: new, existing (it '
  'was retried before: that run). A run of steps begins again from its first: '
  'retry_failed_steps() goes on in place from what failed, replay_run() anew from any step. '
  'Errors: OR020, OR031 (it has not failed), invalid_parameter_value (no filter).';
