-- The steps of a run before and after it starts, its history, and the tree of runs that it is part of.
\ir _begin.sql
\ir _steps.sql
create function test.steps(p_run_id uuid) returns text language sql as $fn$
  select string_agg(s.name || ' ' || s.tool || ' ' || s.state || coalesce(' after ' || nullif(array_to_string(s.needs, ' '), ''), ''), ', ') from ordinaut.list_steps(p_run_id) as s $fn$;
create function test.tree(p_id uuid) returns text[] language sql as $fn$
  select array_agg(repeat('.', t.depth) || coalesce(t.step, 'top') || ' ' || t.state || coalesce(' ' || (p.run_id = t.parent_run_id)::text, '') order by t.depth, t.step)
  from ordinaut.run_tree(p_id) as t cross join lateral ordinaut.get_run(t.run_id) as g left join ordinaut.run_tree(p_id) as p on p.run_id = g.parent_run_id $fn$;

select ordinaut.create_task('low', 'echo', p_queue => 'low');
select ordinaut.create_task('mid', p_pipeline => '[{"id": "x", "uses": "echo"}, {"id": "deep", "uses": "task"}]', p_queue => 'mid');
select run_id as top from ordinaut.enqueue(p_pipeline => '[{"id": "a", "uses": "task", "needs": []}, {"id": "b", "uses": "task", "needs": []}, {"id": "c", "uses": "echo", "needs": ["a", "b"]}]') \gset
select test.eq(test.steps(:'top'), 'a task pending, b task pending, c echo pending after a b', 'before it starts');
select test.eq(test.tree(:'top'), '{"top pending"}', 'it is alone');
select ordinaut.start_run(:'top');
select test.wait(:'top', 'a', '{"kind": "task", "task": "mid"}'), test.wait(:'top', 'b', '{"kind": "task", "task": "low"}');
select test.eq(test.steps(:'top'), 'a task in_progress, b task in_progress, c echo pending after a b', 'they wait for other runs');
select run_id as mid from ordinaut.work where queue = 'mid' \gset
select run_id as low from ordinaut.work where queue = 'low' \gset
select test.eq(test.tree(:'low'), '{"top running",".a pending true",".b pending true"}', 'the tree, from wherever it is looked at');
select ordinaut.start_run(:'mid');
select test.done(:'mid', 'x'), test.wait(:'mid', 'deep', '{"kind": "task", "task": "low"}');
select test.eq(test.tree(:'mid'), '{"top running",".a running true",".b pending true","..deep pending true"}', 'of several levels');
select ordinaut.complete_work(l.lease_id, l.work_id) from ordinaut.lease_work('w', 'low', 2) as l;
select ordinaut.reap();
select test.eq(test.tree(:'mid'), '{"top running",".a success true",".b success true","..deep success true"}', 'and when they have ended');
select test.done(:'top', 'c');
select test.eq(array_agg(h.event || ' ' || h.step || ' ' || h.state order by h.step, h.event desc), '{"step_started a in_progress","step_finished a complete","step_started b in_progress","step_finished b complete","step_started c in_progress","step_finished c complete"}', 'each step is in the history of its run')
from ordinaut.run_history(:'top') as h where h.step is not null;
select test.eq(array_agg(h.event) filter (where h.step is null), '{enqueued,started,finished}', 'and the run itself') from ordinaut.run_history(:'top') as h;

-- Keys that only look like those of children.
select ordinaut.enqueue('echo', p_queue => 'odd');
update ordinaut.due_work set idempotency_key = 'child:none' where queue = 'odd';
select test.eq(count(*) > 0, true, 'do not break the view of runs') from ordinaut.run as r where r.parent_run_id is null;
rollback;
