/*
 * Runs of steps: what follows when a step ends.  Everything here happens in the transaction that
 * ended the step, with the run's row held.  How the run ends is in run_end.sql.
 *
 *   a step ends      -> followers that waited for nothing else become ready
 *                    -> the last one: the run succeeds, with the outputs that are saved
 *   a step fails     -> waiting_for_retry | the run is failing: what has not started is cancelled,
 *     for good          what is leased finishes, rollbacks run in reverse, the run is failed
 */

/* The hot path: p_ended have just ended, and satisfy what needs them.  Set-based.  Of each run one
   step, at most p_room in all, that became ready in p_queue is answered as leased: whoever settled
   the step before goes on with it, so that a run once begun gets done before the next one. */
create or replace function ordinaut._unlock(
  p_ended uuid[],
  p_queue text,
  p_room  integer,
  p_now   timestamptz
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
  v_items ordinaut.work_item[];
  v_leased ordinaut.work_item[];
  v_queue text;
  v_skip uuid[];
  v_is_part boolean;  -- an item or a rollback has ended
  v_ended uuid[];
begin
  /* Every look-up is a lateral one that cannot be flattened: a join order that was planned on
     empty tables goes through all runs of a pipeline for each step (84 ms a batch against 2).
     And the plan is kept: made at each call, it costs 1.5 ms. */
  with over as materialized (
    select s.run_id, s.position, s.kind from ordinaut.step as s where s.step_id = any (p_ended)
  ),
  ended as (
    select s.run_id, s.position, r.pipeline_id
    from over as s
    cross join lateral (
      select t.pipeline_id from ordinaut.task_run as t
      where t.run_id = s.run_id and t.error is null
      offset 0
    ) as r
    where s.kind is null
  ),
  pushed as (
    select e.run_id, e.pipeline_id, f.position, count(*) as n
    from ended as e
    cross join lateral (
      select p.followers from ordinaut.pipeline_step as p
      where p.pipeline_id = e.pipeline_id and p.position = e.position
      offset 0
    ) as d
    cross join unnest(d.followers) as f (position)
    group by e.run_id, e.pipeline_id, f.position
  ),
  next as (
    select s.step_id, p.run_id, p.pipeline_id, p.position, p.n, s.waits_for = p.n as is_ready,
      r.queue, r.priority, r.task_id, r.scheduled_for, r.enqueued_at, d as def,
      s.waits_for = p.n and coalesce(d.queue, r.queue) = p_queue and not d.skip_with_needs
        and row_number() over (
          partition by p.run_id, s.waits_for = p.n, coalesce(d.queue, r.queue) = p_queue
          order by p.position
        ) = 1 as is_first
    from pushed as p
    cross join lateral (
      select t.queue, t.priority, t.task_id, t.scheduled_for, t.enqueued_at
      from ordinaut.task_run as t
      where t.run_id = p.run_id
      offset 0
    ) as r
    cross join lateral (
      select q.* from ordinaut.pipeline_step as q
      where q.pipeline_id = p.pipeline_id and q.position = p.position
      offset 0
    ) as d
    cross join lateral (
      select t.step_id, t.waits_for from ordinaut.step as t
      where t.run_id = p.run_id and t.position = p.position and t.state = 'pending'
      offset 0
    ) as s
  ),
  placed as (
    select n.*, n.is_first and row_number() over (
        partition by n.is_first order by n.run_id
      ) <= p_room as is_leased
    from next as n
  ),
  moved as (
    update ordinaut.step as s
    set
      waits_for = s.waits_for - p.n,
      state = case
        when p.is_leased then 'in_progress' when p.is_ready then 'ready' else s.state
      end,
      attempt = case when p.is_leased then s.attempt + 1 else s.attempt end,
      started_at = case when p.is_leased then p_now else s.started_at end
    from placed as p
    where s.step_id = p.step_id
    returning s.step_id, s.attempt, s.failures, s.crashes, p.is_leased, p.is_ready, p.run_id,
      p.pipeline_id, p.queue, p.priority, p.task_id, p.scheduled_for, p.enqueued_at, p.def
  ),
  unit as (
    select m.is_leased, row(m.step_id, m.run_id, (m.def).name, m.task_id,
      coalesce((m.def).queue, m.queue), coalesce((m.def).priority, m.priority),
      -- Gone on with: its place in line, and nothing to learn for those who look for due work.
      case when m.is_leased then m.enqueued_at else p_now end,
      m.scheduled_for, p_now, m.attempt, m.failures, m.crashes, (m.def).max_attempts,
      (m.def).timeout, (m.def).tool, null, null, null, (m.def).retry, null,
      case when not (m.def).has_context then (m.def).body end,
      m.pipeline_id)::ordinaut.work_item as item
    from moved as m
    where m.is_ready and not (m.def).skip_with_needs
  )
  select
    (select array_agg(u.item) filter (where u.is_leased) from unit as u),
    (select array_agg(u.item) filter (where not u.is_leased) from unit as u),
    (select array_agg(m.step_id) from moved as m where m.is_ready and (m.def).skip_with_needs),
    -- Runs in which nothing came next may have ended.
    array(select o.run_id from over as o except select m.run_id from moved as m),
    (select bool_or(o.kind is not null) from over as o)
  into v_leased, v_items, v_skip, v_ended, v_is_part;

  if v_items is not null then
    perform ordinaut._put_due(v_items);
    for v_queue in select distinct i.queue from unnest(v_items) as i loop
      perform ordinaut._notify_idle(v_queue);
    end loop;
  end if;
  if v_skip is not null then
    perform ordinaut._skip_with_needs(v_skip, p_now);
  end if;
  if v_is_part then
    perform ordinaut._after_dynamic(p_ended, p_now);
  end if;
  if v_ended <> '{}' then
    v_ended := array(
      select e.run_id from unnest(v_ended) as e (run_id)
      where not exists (
        select from ordinaut.step as s
        where s.run_id = e.run_id and ordinaut._is_live(s.state, s.wait))
    );
    if v_ended <> '{}' then
      perform ordinaut._close_runs(v_ended, p_now);
    end if;
  end if;
  return v_leased;
end
$fn$;

comment on function ordinaut._unlock(uuid[], text, integer, timestamptz) is
  'What follows from the end of these steps: followers become due, runs end. Returns the units '
  'that the caller may go on with; null when there are none.';

create or replace function ordinaut._skip_with_needs(p_step_ids uuid[], p_now timestamptz)
returns void
language plpgsql
volatile
as $fn$
declare
  v_step ordinaut.step;
begin
  for v_step in
    select s.* from ordinaut.step as s where s.step_id = any (p_step_ids) order by s.position
  loop
    if exists (
      select
      from ordinaut.task_run as r
      join ordinaut.pipeline_step as d
        on d.pipeline_id = r.pipeline_id and d.position = v_step.position
      join ordinaut.step as n on n.run_id = r.run_id and n.position = any (d.needs)
      where r.run_id = v_step.run_id and n.state <> 'skipped'
    ) then
      perform ordinaut._put_back(ordinaut._step_item(v_step, r, p_now), p_now)
      from ordinaut.task_run as r
      where r.run_id = v_step.run_id;
    else
      perform ordinaut._journal('skipped', v_step.run_id, p_step => v_step.name,
        p_detail => jsonb_build_object('message', 'all that it needs was skipped'));
      perform ordinaut._end_step(v_step, 'skipped', null, p_now);
    end if;
  end loop;
end
$fn$;

comment on function ordinaut._skip_with_needs(uuid[], timestamptz) is
  'Skip those ready steps of which every need was skipped; the others become due.';

create or replace function ordinaut._after_dynamic(p_ended uuid[], p_now timestamptz)
returns void
language plpgsql
volatile
as $fn$
declare
  v_step ordinaut.step;
begin
  for v_step in
    select distinct on (coalesce(s.map_step_id, s.run_id)) s.*
    from ordinaut.step as s
    where s.step_id = any (p_ended) and s.kind is not null
    order by coalesce(s.map_step_id, s.run_id)
  loop
    if v_step.kind = 'item' then
      perform ordinaut._item_ended(v_step.map_step_id, p_now);
    else
      perform ordinaut._roll_back_next(v_step.run_id, p_now);
    end if;
  end loop;
end
$fn$;

comment on function ordinaut._after_dynamic(uuid[], timestamptz) is
  'What follows from the end of items of maps, and of rollbacks.';

create or replace function ordinaut._end_step(
  p_step   ordinaut.step,
  p_state  text,
  p_output jsonb,
  p_now    timestamptz
)
returns void
language plpgsql
volatile
as $fn$
begin
  -- The unit before the step: a lease takes them in this order.
  delete from ordinaut.due_work as w where w.work_id = p_step.step_id;
  delete from ordinaut.parked as p where p.work_id = p_step.step_id;
  update ordinaut.step as s
  set
    state = p_state, output = p_output, error = null, finished_at = p_now, next_retry_at = null,
    wait = null,
    started_at = coalesce(s.started_at, p_now)
  where s.step_id = p_step.step_id;
  perform ordinaut._unlock(array[p_step.step_id], null, 0, p_now);
end
$fn$;

comment on function ordinaut._end_step(ordinaut.step, text, jsonb, timestamptz) is
  'End a step that no worker holds as complete, skipped or resolved_manually; what follows from '
  'it follows. The caller holds the run. Errors: OR010.';
