/*
 * Backfill: what a calendar holds between two instants of the past fires now, once.
 *
 *   backfill() --> pending --> unplanned_backfills(), the planner, plan_backfill() --> done
 *      \-- SQL knows the calendar: done at once                        failed | cancelled
 *
 * Everything of one backfill commits together, under the lock of the task's schedule row: a tick
 * that decides the same occurrence came before, and its run is left alone, or comes after, and
 * finds the row.  The primary key of `occurrence` decides between them in any case.
 *
 * An occurrence is known by its row alone.  What prune() forgot counts as never decided, so rows
 * are kept by when they were decided, and not by what time they are about.
 */

-- Where the calendar begins: an interval counts from its creation if it has neither a start of its
-- own nor a phase.
create or replace function ordinaut._backfill_after(p_task ordinaut.task, p_from timestamptz)
returns timestamptz
language sql
immutable
as $fn$
  select greatest(
    p_from - interval '1 us',
    case
      when p_task.schedule_kind = 'once' then null
      when p_task.start_at is not null then p_task.start_at - interval '1 us'
      when p_task.schedule_kind = 'interval' and p_task.schedule_expr not like '% phase %'
        then p_task.created_at
    end);
$fn$;

comment on function ordinaut._backfill_after(ordinaut.task, timestamptz) is
  'The instant after which a backfill from p_from finds occurrences of a task.';

create or replace function ordinaut._backfill_until(p_task ordinaut.task, p_to timestamptz)
returns timestamptz
language sql
immutable
as $fn$
  select least(p_to - interval '1 us', p_task.end_at);
$fn$;

comment on function ordinaut._backfill_until(ordinaut.task, timestamptz) is
  'The last instant at which a backfill up to p_to finds occurrences of a task.';

create or replace function ordinaut._check_backfill_size(p_n bigint, p_at_most integer)
returns void
language plpgsql
immutable
as $fn$
begin
  if p_n > p_at_most then
    perform ordinaut._refuse(
      format('the range holds %s occurrences, the limit is %s',
        case when p_n > 10000 then 'more than 10000' else p_n::text end, p_at_most),
      'Nothing was started. Ask for a part of the range, or for a higher limit: at most 10000.');
  end if;
end
$fn$;

comment on function ordinaut._check_backfill_size(bigint, integer) is
  'Refuse more occurrences than a backfill may have. Errors: invalid_parameter_value.';

create or replace function ordinaut._backfill_instants(
  p_task    ordinaut.task,
  p_from    timestamptz,
  p_to      timestamptz,
  p_at_most integer
)
returns timestamptz[]
language plpgsql
stable
as $fn$
declare
  v_until constant timestamptz := ordinaut._backfill_until(p_task, p_to);
  v_first timestamptz := ordinaut._next_occurrence(p_task,
    ordinaut._backfill_after(p_task, p_from));
  v_every interval := interval '0 s';
  v_more bigint := 0;
begin
  if v_first is null or v_first > v_until then
    return array[]::timestamptz[];
  end if;
  if p_task.schedule_kind = 'interval' then
    v_every := ordinaut._every(p_task.schedule_expr);
    v_more := floor(
      extract(epoch from v_until - v_first) / extract(epoch from v_every))::bigint;
  end if;
  perform ordinaut._check_backfill_size(v_more + 1, p_at_most);
  return array(select v_first + n.n * v_every from generate_series(0, v_more) as n (n));
end
$fn$;

comment on function ordinaut._backfill_instants(ordinaut.task, timestamptz, timestamptz, integer) is
  'The occurrences of a once or interval from an instant to before another. Errors: '
  'invalid_parameter_value (more than p_at_most).';

create or replace function ordinaut._check_backfilled(p_task ordinaut.task)
returns void
language plpgsql
stable
as $fn$
begin
  if ordinaut._is_told(p_task)
    or not (ordinaut._is_planned(p_task) or p_task.schedule_kind in ('once', 'interval'))
  then
    perform ordinaut._refuse(
      format('task %s/%s is %s: no calendar says when it should have run', p_task.namespace,
        p_task.name, left(concat_ws(' ', p_task.schedule_kind, p_task.schedule_expr), 80)),
      'run_now() runs it once.');
  elsif p_task.status in ('cancelled', 'invalid') then
    raise exception using
      errcode = 'OR031',
      message = format('task %s/%s is %s', p_task.namespace, p_task.name, p_task.status),
      hint = case p_task.status
        when 'invalid' then 'Mend it with update_task() first.'
        else 'A cancelled task never fires again; create another.'
      end;
  end if;
end
$fn$;

comment on function ordinaut._check_backfilled(ordinaut.task) is
  'Refuse a task that cannot be backfilled. Errors: invalid_parameter_value, OR031.';

create or replace function ordinaut._fill(
  p_backfill ordinaut.backfill,
  p_task     ordinaut.task,
  p_at       timestamptz[],
  p_notes    jsonb
)
returns void
language plpgsql
volatile
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_prefix bytea := ordinaut._v7_prefix(v_now);
  v_tag constant text := 'backfill ' || right(replace(p_backfill.backfill_id::text, '-', ''), 8);
  v_was record;  -- what was decided of the range, under the lock
  v_n integer;
begin
  perform ordinaut._check_backfilled(p_task);
  if p_at is null or exists (
    select
    from unnest(p_at) as u (at)
    where coalesce(u.at < p_backfill.from_at or u.at >= p_backfill.to_at, true)
  ) then
    perform ordinaut._refuse('instants of a backfill must lie in its range');
  end if;
  perform ordinaut._check_backfill_size(cardinality(p_at), p_backfill.at_most);
  select
    count(*) filter (where o.run_id is null)::integer as open,
    count(o.run_id)::integer as left_alone,
    count(*) filter (where o.decision = 'missed') as missed,
    count(*) filter (where o.decision = 'skipped') as skipped,
    count(*) filter (where o.decision = 'dropped') as dropped,
    count(*) filter (where o.decision = 'excluded') as excluded
  into v_was
  from (select distinct u.at from unnest(p_at) as u (at)) as w
  left join ordinaut.occurrence as o
    on o.task_id = p_task.task_id
    and o.scheduled_for = w.at
    and o.scheduled_for >= p_backfill.from_at
    and o.scheduled_for < p_backfill.to_at;
  if p_task.max_runs < v_was.open + (
    select s.fired_count + s.buffered_count
    from ordinaut.task_schedule as s
    where s.task_id = p_task.task_id
  ) then
    perform ordinaut._refuse(
      format('%s occurrences are more than max_runs %s leaves', v_was.open, p_task.max_runs),
      'A backfilled run counts as any other: raise max_runs, or ask for a part of the range.');
  end if;
  if v_was.open > 0 then
    perform ordinaut._check_room(p_task.queue, v_was.open);
  end if;

  with wanted as materialized (
    select w.at, o.decision as was, o.reason as why
    from (select distinct u.at from unnest(p_at) as u (at)) as w
    left join ordinaut.occurrence as o
      on o.task_id = p_task.task_id
      and o.scheduled_for = w.at
      and o.scheduled_for >= p_backfill.from_at
      and o.scheduled_for < p_backfill.to_at
  ),
  noted as (
    insert into ordinaut.occurrence as o (task_id, scheduled_for, decision, reason, dst, run_id,
      decided_at, backfill_id)
    select
      p_task.task_id, w.at, 'fired',
      v_tag || coalesce(', was: ' || w.was || coalesce(': ' || w.why, ''), ''),
      ordinaut._told(p_notes, w.at), ordinaut._v7(v_prefix), v_now, p_backfill.backfill_id
    from wanted as w
    on conflict on constraint occurrence_pk do update
    set
      decision = excluded.decision,
      reason = excluded.reason,
      dst = coalesce(excluded.dst, o.dst),
      run_id = excluded.run_id,
      decided_at = excluded.decided_at,
      backfill_id = excluded.backfill_id
    where o.run_id is null
    returning o.scheduled_for, o.run_id
  ),
  made as materialized (
    select
      n.scheduled_for as at, n.run_id,
      case
        when p_backfill.rate is not null
          then v_now + (row_number() over line - 1) * interval '1 min' / p_backfill.rate
        -- Microseconds apart, so that they run oldest first.
        else v_now - (count(*) over () - row_number() over line) * interval '1 us'
      end as run_at
    from noted as n
    window line as (order by n.scheduled_for)
  ),
  body as (
    insert into ordinaut.payload (run_id, body)
    select m.run_id, p_task.payload
    from made as m
    where pg_column_size(p_task.payload) > 2000
  ),
  placed as (
    insert into ordinaut.due_work (work_id, run_id, task_id, queue, priority, run_at, scheduled_for,
      enqueued_at, attempt, failures, crashes, max_attempts, timeout, tool, key, key_limit, retry,
      payload, pipeline_id)
    select
      m.run_id, m.run_id, p_task.task_id, p_task.queue, p_task.priority, m.run_at, m.at, v_now,
      0, 0, 0, p_task.max_attempts, p_task.timeout, p_task.tool, ordinaut._key_of(p_task),
      ordinaut._key_limit_of(p_task), p_task.retry,
      case when pg_column_size(p_task.payload) <= 2000 then p_task.payload end,
      p_task.pipeline_id
    from made as m
  ),
  counted as materialized (
    select count(*) as fired, min(m.at) as first_at, max(m.at) as last_at from made as m
  ),
  told as (
    update ordinaut.task_schedule as s
    set
      last_run = case when c.fired > 0 then v_now else s.last_run end,
      fired_count = s.fired_count + c.fired,
      missed_count = s.missed_count - v_was.missed,
      skipped_count = s.skipped_count - v_was.skipped,
      dropped_count = s.dropped_count - v_was.dropped,
      excluded_count = s.excluded_count - v_was.excluded
    from counted as c
    where s.task_id = p_task.task_id
  )
  update ordinaut.backfill as b
  set
    state = 'done',
    fired = c.fired,
    left_alone = v_was.left_alone,
    first_at = c.first_at,
    last_at = c.last_at,
    ended_at = v_now
  from counted as c
  where b.backfill_id = p_backfill.backfill_id
  returning c.fired into v_n;

  perform ordinaut._journal('task_backfilled', p_task_id => p_task.task_id,
    p_detail => jsonb_build_object('backfill_id', p_backfill.backfill_id,
      'from', p_backfill.from_at, 'to', p_backfill.to_at, 'fired', v_n,
      'left_alone', v_was.left_alone, 'note', p_backfill.note));
  if v_n > 0 then
    perform ordinaut._notify_idle(p_task.queue);
  end if;
end
$fn$;

comment on function ordinaut._fill(ordinaut.backfill, ordinaut.task, timestamptz[], jsonb) is
  'Fire these occurrences of a backfill''s task, but those that have a run, and end the '
  'backfill; the caller has locked the task''s schedule row. Errors: invalid_parameter_value, '
  'OR031, configuration_limit_exceeded (its queue has no room).';

create or replace function ordinaut._end_backfill(
  p_backfill ordinaut.backfill,
  p_state    text,
  p_reason   text
)
returns void
language plpgsql
volatile
as $fn$
begin
  update ordinaut.backfill as b
  set
    state = p_state,
    reason = left(p_reason, 1000),
    ended_at = ordinaut.now()
  where b.backfill_id = p_backfill.backfill_id;
  perform ordinaut._journal('backfill_' || p_state, p_task_id => p_backfill.task_id,
    p_detail => jsonb_build_object('backfill_id', p_backfill.backfill_id,
      'message', left(p_reason, 1000)));
end
$fn$;

comment on function ordinaut._end_backfill(ordinaut.backfill, text, text) is
  'Make a backfill failed or cancelled; the caller has locked its task''s schedule row.';
