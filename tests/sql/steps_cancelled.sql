-- Cancels of runs of steps: queued, waiting, running, rolling back, ended.
\ir _begin.sql
\ir _steps.sql

\set two '[{"id": "a", "uses": "echo", "on_rollback": {"uses": "undo"}}, {"id": "b", "uses": "echo"}]'
select run_id as run from ordinaut.enqueue(p_pipeline => :'two') \gset
select test.eq(ordinaut.cancel_run(:'run', 'not now'), 'cancelled', 'a queued run');
select test.eq(count(*), 0, 'is never leased') from ordinaut.lease_work('w');
select test.eq((state, error ->> 'note')::text, ('cancelled', 'not now')::text, 'and says why') from ordinaut.get_run(:'run');
select test.eq(ordinaut.cancel_run(:'run'), 'too_late', 'once');
select test.throws('OR031', format('select ordinaut.retry_failed_steps(%L)', :'run'), 'it has no steps to go on with');
select test.eq(outcome, 'new', 'but may be queued again') from ordinaut.retry_run(:'run');
select ordinaut.cancel_run(retried_as) from (select r.run_id as retried_as from ordinaut.run as r where r.state = 'pending') as r;

select test.run(:'two') as run \gset
select test.eq(ordinaut.cancel_run(:'run'), 'cancelled', 'a run of which no step is leased');
select test.eq((test.state(:'run'), test.state(:'run', 'a'), test.state(:'run', 'b'))::text, ('cancelled', 'cancelled', 'cancelled')::text, 'ends at once');

-- Leased: its worker is told, and what it says then decides.
select test.run(:'two') as run \gset
select test.lease(:'run', 'a') as lease \gset
select test.eq(ordinaut.cancel_run(:'run', 'stop'), 'requested', 'a step is being run');
select ordinaut.reap();
select test.ok(exists (select from ordinaut.cancel_request as c where c.run_id = :'run'), 'a sweep forgets no request of a live run');
select test.eq(test.state(:'run', 'b'), 'cancelled', 'what has not started never will');
select test.eq(kind, 'cancel', 'its lessee is told') from ordinaut.heartbeat(:'lease');
select test.throws('OR002', format('select ordinaut.assert_lease(%L, %L)', :'lease', (test.step(:'run', 'a')).step_id), 'its transaction too');
select test.eq(outcome, 'cancelled', 'it gives up') from ordinaut.fail_work(:'lease', (test.step(:'run', 'a')).step_id, 'stopped');
select test.eq(test.state(:'run'), 'cancelled', 'and the run has ended, with nothing to undo');

-- It succeeds first: that is recorded, unlocks nothing, and is undone.
select test.run(:'two') as run \gset
select test.lease(:'run', 'a') as lease \gset
select ordinaut.cancel_run(:'run', 'stop');
select test.eq(outcome, 'success', 'a step that finishes late') from ordinaut.complete_work(:'lease', (test.step(:'run', 'a')).step_id);
select test.eq((test.state(:'run', 'a'), test.state(:'run', 'b'), test.state(:'run', 'rollback(a)'), test.state(:'run'))::text, ('complete', 'cancelled', 'ready', 'running')::text, 'is rolled back');
select test.eq(ordinaut.cancel_run(:'run'), 'requested', 'a cancel does not stop a rollback');
select test.eq(test.done(:'run', 'rollback(a)'), 'success', 'it runs');
select test.eq((state, error ->> 'note')::text, ('cancelled', 'stop')::text, 'then the run is cancelled') from ordinaut.get_run(:'run');

-- The last step succeeds first: the run has succeeded.
select test.run('[{"id": "a", "uses": "echo"}]') as run \gset
select test.lease(:'run', 'a') as lease \gset
select ordinaut.cancel_run(:'run');
select ordinaut.complete_work(:'lease');
select test.eq(test.state(:'run'), 'success', 'a completion that comes first wins');
select test.eq(count(*), 0, 'no request is left behind') from ordinaut.cancel_request;
select test.eq(count(*), 0, 'and no work') from ordinaut.work as w where w.status in ('pending', 'parked', 'running');

-- With its task.
select ordinaut.create_task('t', p_pipeline => :'two');
select run_id as run from ordinaut.run_now('t') \gset
select ordinaut.start_run(:'run');
select ordinaut.cancel_task('t');
select test.eq(test.state(:'run'), 'cancelled', 'a task takes its runs with it');
rollback;
