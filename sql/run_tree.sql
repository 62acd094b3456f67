/*
 * Runs that steps of other runs started, as one tree: above the run that is asked for, and below.
 * A child is found by its idempotency key, which says what step started it (subtask.sql).
 */

create or replace function ordinaut._children_of(p_run_id uuid)
returns table (run_id uuid, step text)
language plpgsql
stable
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $fn$
begin
  return query
  select c.run_id, s.name
  from ordinaut.step as s
  join ordinaut.task_run as r on r.run_id = s.run_id
  join ordinaut.pipeline_step as d
    on d.pipeline_id = r.pipeline_id and d.position = s.defined_by and d.tool = 'task'
  cross join lateral (
    -- Live, with no row of its own yet; and ended, an earlier try of the step among them.
    select h.run_id from ordinaut.hold as h where h.key = 'child:' || s.step_id and h.slot = 0
    union
    select e.run_id from ordinaut.task_run as e
    where e.idempotency_key like 'child:%' and e.idempotency_key = 'child:' || s.step_id
  ) as c
  where s.run_id = p_run_id
  order by s.position, c.run_id;
end
$fn$;

comment on function ordinaut._children_of(uuid) is 'The runs that steps of this run started.';

create or replace function ordinaut.run_tree(p_run_id uuid, p_limit integer default 200)
returns table (
  run_id        uuid,
  parent_run_id uuid,
  step          text,
  depth         integer,
  task          text,
  tool          text,
  state         text,
  started_at    timestamptz,
  finished_at   timestamptz,
  error_message text
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $fn$
declare
  v_root uuid;
begin
  perform ordinaut._check_count('limit', p_limit, 1, 10000);
  with recursive above as (
    select p_run_id as id, 0 as height
    union all
    select p.id, a.height + 1
    from above as a
    cross join lateral (select ordinaut._parent_of(a.id) as id) as p
    where p.id is not null and a.height < 20
  )
  select a.id into v_root from above as a order by a.height desc limit 1;

  return query
  with recursive below as (
    select v_root as id, null::uuid as parent, null::text as step, 0 as depth
    union all
    select c.run_id, b.id, c.step, b.depth + 1
    from below as b
    cross join lateral ordinaut._children_of(b.id) as c
    where b.depth < 20
  )
  select b.id, b.parent, b.step, b.depth, r.task, r.tool, r.state, r.started_at, r.finished_at,
    r.error_message
  from (select w.* from below as w limit p_limit) as b
  cross join lateral ordinaut.get_run(b.id) as r;
end
$fn$;

comment on function ordinaut.run_tree(uuid, integer) is
  'The tree of runs that a run belongs to, the topmost first, then level by level: which step of '
  'which run started it. Of a run that no other started, and that started none, itself. Errors: '
  'invalid_parameter_value.';
