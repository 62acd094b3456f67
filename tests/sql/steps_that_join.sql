-- Branches and joins: a join waits for all, is unlocked once; skips and tolerated failures count as done.
\ir _begin.sql
\ir _steps.sql

\set diamond '[{"id": "s", "uses": "echo"}, {"id": "l", "uses": "echo", "needs": "s"}, {"id": "r", "uses": "echo", "needs": ["s"]}, {"id": "j", "uses": "echo", "needs": ["l", "r"], "save_as": "j"}]'
select test.run(:'diamond') as run \gset
select test.done(:'run', 's');
select test.eq((test.state(:'run', 'l'), test.state(:'run', 'r'))::text, ('ready', 'ready')::text, 'both branches are ready');
select test.done(:'run', 'l');
select test.eq(test.state(:'run', 'j'), 'pending', 'the join waits for the other');
select test.eq((r.dependencies_satisfied, r.total_parents, r.completed_parents)::text, (false, 2, 1)::text, 'and says so')
from ordinaut.get_step_readiness_status((test.step(:'run', 'j')).step_id) as r;
select test.done(:'run', 'r');
select test.eq(test.state(:'run', 'j'), 'ready', 'now it is ready');
select test.eq(count(*), 1, 'once') from ordinaut.due_work as w where w.step = 'j';
select test.done(:'run', 'j');
select test.eq(test.state(:'run'), 'success', 'and ends the run');
select test.eq(array_agg(d.name || d.dependency_level order by d.name), '{j2,l1,r1,s0}', 'levels') from ordinaut.calculate_dependency_levels(:'run') as d;

-- Both branches in one settle.
select test.run(:'diamond') as run \gset
select test.done(:'run', 's');
select distinct lease_id as lease from ordinaut.lease_work('w', p_limit => 2) \gset
select test.eq(array_agg(c.outcome), '{success,success}', 'both at once') from ordinaut.complete_work(:'lease') as c;
select test.eq(count(*), 1, 'unlock the join once') from ordinaut.due_work as w where w.step = 'j';

-- A skip satisfies what needs it; skip_with_needs passes a skip on.
select test.run('[{"id": "a", "uses": "echo", "needs": []}, {"id": "b", "uses": "echo", "needs": "a", "skip_with_needs": true},
  {"id": "c", "uses": "echo", "needs": "b", "skip_with_needs": true}, {"id": "d", "uses": "echo", "needs": ["c", "x"], "skip_with_needs": true},
  {"id": "x", "uses": "echo", "needs": []}, {"id": "e", "uses": "echo", "needs": "c"}]') as run \gset
select test.eq(outcome, 'skipped', 'a condition that does not hold') from ordinaut.skip_work(test.lease(:'run', 'a'), (test.step(:'run', 'a')).step_id, 'if n > 3');
select test.eq(array_agg(s.name || ' ' || s.state order by s.name), '{"a skipped","b skipped","c skipped","d pending","e ready","x ready"}', 'goes as far as somebody asks for it')
from ordinaut.step as s where s.run_id = :'run';
select test.done(:'run', 'x');
select test.eq(test.state(:'run', 'd'), 'ready', 'one need that was not skipped is enough to run');
select test.done(:'run', 'd'), test.done(:'run', 'e');
select test.eq(test.state(:'run'), 'success', 'skipped steps do not fail a run');
select test.eq(array_agg(g.step order by g.step), '{a,b,c}', 'each skip is in the journal') from ordinaut.run_log as g where g.run_id = :'run' and g.event = 'skipped';

-- An item of a map and a step that others need, in one settle.
select test.run('[{"id": "m", "uses": "echo", "queue": "own", "map": {"over": [1]}, "needs": []}, {"id": "x", "uses": "echo", "queue": "own", "needs": []}, {"id": "y", "uses": "echo", "needs": "x"}]') as run \gset
select test.wait(:'run', 'm', '{"kind": "map", "items": [1]}');
select distinct lease_id as lease from ordinaut.lease_work('w', 'own', p_limit => 9) \gset
select ordinaut.complete_work(:'lease');
select test.eq((test.state(:'run', 'm'), test.state(:'run', 'y'))::text, ('complete', 'ready')::text, 'the end of both is heard');
select test.done(:'run', 'y');
select test.eq(test.state(:'run'), 'success', 'and the run ends');

-- A failure that is tolerated.
select test.run('[{"id": "a", "uses": "echo", "continue_on_error": true, "retry_count": 1}, {"id": "b", "uses": "echo"}]') as run \gset
select test.eq(test.fail(:'run', 'a', 'boom'), 'failed', 'it fails');
select test.eq(test.state(:'run', 'b'), 'ready', 'and the next goes on');
select test.done(:'run', 'b');
select test.eq((state, error)::text, ('success', null)::text, 'the run succeeds') from ordinaut.get_run(:'run');
select test.eq(execution_status, 'all_complete', 'and its context says so') from ordinaut.get_task_execution_context(:'run');
rollback;
