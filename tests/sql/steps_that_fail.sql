-- Retries, exhaustion, what a failure cancels, and what is rolled back.
\ir _begin.sql
\ir _steps.sql

select test.run('[{"id": "a", "uses": "echo", "save_as": "a"}, {"id": "b", "uses": "echo", "retry": {"base": "10 s", "jitter": 0}}, {"id": "c", "uses": "echo"}]') as run \gset
select test.done(:'run', 'a', '{"kept": 1}');
select test.eq(test.fail(:'run', 'b', 'boom', true), 'retry', 'a failure that may pass');
select test.eq((s.state, s.attempt, s.failures, s.next_retry_at - ordinaut.now())::text, ('waiting_for_retry', 1, 1, interval '10 s')::text, 'is tried again after its backoff') from test.step(:'run', 'b') as s;
select test.eq(count(*), 0, 'not before') from ordinaut.lease_work('w');
select test.eq((r.current_state, r.retry_eligible, r.ready_for_execution, r.attempts, r.retry_limit, r.backoff_request_seconds)::text, ('waiting_for_retry', true, false, 1, 3, null::float8)::text, 'readiness knows')
from ordinaut.get_step_readiness_status((test.step(:'run', 'b')).step_id) as r;
select test.eq((execution_status, recommended_action, blocked_by_errors)::text, ('waiting_for_retry', 'wait_for_retry', false)::text, 'and the run does') from ordinaut.get_task_execution_context(:'run');
select test.travel('10 s');
select test.eq(r.ready_for_execution, true, 'its time has come') from ordinaut.get_step_readiness_status((test.step(:'run', 'b')).step_id) as r;
select test.eq(l.attempt, 2, 'and it is leased') from ordinaut.lease_work('w') as l;
select test.eq(outcome, 'retry', 'a delay that the tool asks for') from ordinaut.fail_work((select lease_id from ordinaut.lease), (test.step(:'run', 'b')).step_id, 'again', p_retry_after => '30 s');
select test.eq((r.backoff_request_seconds, r.next_retry_at)::text, (30::float8, ordinaut.now() + '30 s')::text, 'is seen as such') from ordinaut.get_step_readiness_status((test.step(:'run', 'b')).step_id) as r;
select test.eq(test.fail(:'run', 'b', 'for good', true), 'failed', 'the third time is the last');
select test.eq((state, error ->> 'message', error ->> 'step', error -> 'context' -> 'partial', output)::text, ('failed', 'step b: Max retries exhausted (3 of 3): for good', 'b', '{"a": {"kept": 1}}', null)::text, 'the run fails, with what it had')
from ordinaut.get_run(:'run');
select test.eq((test.state(:'run', 'b'), test.state(:'run', 'c'))::text, ('error', 'cancelled')::text, 'what came after does not run');
select test.eq(array_agg(g.attempt order by g.attempt), '{1,2,3}', 'each attempt is in the journal') from ordinaut.run_log as g where g.run_id = :'run' and g.step = 'b' and g.event = 'failed';
select test.eq(array_agg(h.to_state), '{pending,in_progress,error,waiting_for_retry,ready,in_progress,error,waiting_for_retry,ready,in_progress,error}', 'and in its history')
from ordinaut.step_history((test.step(:'run', 'b')).step_id) as h;
select test.eq((execution_status, recommended_action, blocked_by_errors, failed_steps, error_steps, completed_steps)::text, ('blocked_by_failures', 'handle_failures', true, 1, 1, 1)::text, 'the context') from ordinaut.get_task_execution_context(:'run');
select test.eq(count(*), 0, 'nothing is left over') from ordinaut.work as w where w.status in ('pending', 'parked', 'running');

-- A branch that runs when another fails is let finish, but nothing more begins.
\set diamond '[{"id": "s", "uses": "echo"}, {"id": "l", "uses": "echo", "needs": "s"}, {"id": "r", "uses": "echo", "needs": "s"}, {"id": "r2", "uses": "echo", "needs": "r"}, {"id": "j", "uses": "echo", "needs": ["l", "r2"]}]'
select test.run(:'diamond') as run \gset
select test.done(:'run', 's');
select test.lease(:'run', 'r') as lease \gset
select test.fail(:'run', 'l', 'boom');
select test.eq((test.state(:'run', 'r'), test.state(:'run', 'r2'), test.state(:'run'))::text, ('in_progress', 'cancelled', 'running')::text, 'one branch still runs');
select test.eq(outcome, 'success', 'it may succeed') from ordinaut.complete_work(:'lease', (test.step(:'run', 'r')).step_id);
select test.eq((test.state(:'run'), test.state(:'run', 'r'))::text, ('failed', 'complete')::text, 'and the run ends then');
select test.run(:'diamond') as run \gset
select test.done(:'run', 's');
select test.lease(:'run', 'r') as lease \gset
select test.fail(:'run', 'l', 'boom');
select test.eq(outcome, 'cancelled', 'a step that comes back to a failing run is not started again') from ordinaut.release_work(:'lease', (test.step(:'run', 'r')).step_id);
select test.eq(test.state(:'run'), 'failed', 'so the run has ended');

-- Rollbacks: what completed, the last first, one after the other; one that fails keeps none from running.
select test.run('[{"id": "a", "uses": "echo", "on_rollback": {"uses": "undo", "with": {"x": "${output.n}"}}}, {"id": "b", "uses": "echo"},
  {"id": "c", "uses": "echo", "on_rollback": {"uses": "undo", "retry_count": 1}}, {"id": "d", "uses": "echo", "on_rollback": {"uses": "undo"}}]') as run \gset
select test.done(:'run', 'a', '{"n": 5}'), test.done(:'run', 'b'), test.done(:'run', 'c');
select test.fail(:'run', 'd', 'boom');
select test.eq(array_agg(s.name || ' ' || s.state order by s.position), '{"rollback(c) ready","rollback(a) pending"}', 'the last first, and not what failed') from ordinaut.step as s where s.run_id = :'run' and s.kind = 'rollback';
select test.eq(test.state(:'run'), 'running', 'the run goes on for it');
select test.eq(test.fail(:'run', 'rollback(c)', 'cannot undo'), 'failed', 'one that fails');
select tool, payload from ordinaut.lease_work('w') \gset
select test.eq((:'tool', :'payload'::jsonb -> 'output', :'payload'::jsonb -> 'with')::text, ('undo', '{"n": 5}', '{"x": "${output.n}"}')::text, 'lets the next run, with the output that it undoes');
select ordinaut.complete_work((select lease_id from ordinaut.lease));
select test.eq((state, error ->> 'message', error -> 'rollbacks_failed')::text, ('failed', 'step d: boom', '["rollback(c)"]')::text, 'then the run has failed, and says what is not undone') from ordinaut.get_run(:'run');
select test.throws('OR031', format('select ordinaut.retry_failed_steps(%L)', :'run'), 'what is undone cannot go on');

-- A worker dies with it.
select test.run('[{"id": "a", "uses": "echo"}]') as run \gset
create function test.crash() returns bigint language sql as $fn$
  select ordinaut.lease_work('w', p_for => '1 s'); select test.travel('1 s'); select ordinaut.reap(); $fn$;
select test.eq(test.crash(), 1, 'crash ' || n) from generate_series(1, 2) as n;
select test.eq((s.state, s.attempt, s.crashes, s.failures)::text, ('waiting_for_retry', 2, 2, 0)::text, 'a crash is no failure') from test.step(:'run', 'a') as s;
select test.eq(test.crash(), 1, 'the third, leased alone');
select test.eq((test.state(:'run', 'a'), test.state(:'run'))::text, ('error', 'failed')::text, 'condemns it');

-- Given back, and put off: uncharged.
select test.run('[{"id": "a", "uses": "echo"}]') as run \gset
select test.eq(outcome, 'released', 'given back') from ordinaut.release_work(test.lease(:'run', 'a'), (test.step(:'run', 'a')).step_id);
select test.eq(outcome, 'snoozed', 'put off') from ordinaut.snooze_work(test.lease(:'run', 'a'), (test.step(:'run', 'a')).step_id, '1 min');
select test.eq((s.state, s.failures, s.crashes, w.run_at - ordinaut.now())::text, ('ready', 0, 0, interval '1 min')::text, 'is uncharged') from test.step(:'run', 'a') as s, ordinaut.due_work as w;
select test.done(:'run', 'a');
select test.eq(test.state(:'run'), 'success', 'and succeeds');
rollback;
