-- What readiness and context say of steps and runs, from before a run starts until it has failed.
\ir _begin.sql
\ir _steps.sql
create function test.ready(p_id uuid, p_ids uuid[] default null) returns text language sql as $fn$
  select string_agg(format('%s %s%s%s %s/%s', r.name, r.current_state, case when r.ready_for_execution then ' ready' end,
    case when r.is_blocked then ' blocked' end, r.completed_parents, r.total_parents), ', ' order by r.position)
  from ordinaut.get_step_readiness_status(p_id, p_ids) as r $fn$;
create function test.context(p_id uuid) returns text language sql as $fn$
  select format('%s of %s, error %s, failed %s, pending %s, ready %s, blocked %s: %s, %s, %s, %s%%', c.completed_steps, c.total_steps, c.error_steps, c.failed_steps,
    c.pending_steps, c.ready_steps, c.blocked_steps, c.execution_status, c.recommended_action, c.health_status, c.completion_percentage)
  from ordinaut.get_task_execution_context(p_id) as c $fn$;
create function test.fail_only(p_run_id uuid, p_name text, p_error jsonb default '{"message": "x", "retryable": true}') returns void language sql as $fn$
  select ordinaut._fail_unevaluated(test.lease(p_run_id, p_name), (test.step(p_run_id, p_name)).step_id, p_error) $fn$;

\set diamond '[{"id": "s", "uses": "echo", "retry": {"jitter": 0}}, {"id": "l", "uses": "echo", "needs": "s"}, {"id": "r", "uses": "echo", "needs": "s"}, {"id": "j", "uses": "echo", "needs": ["l", "r"]}]'
select ordinaut.create_task('t', p_pipeline => :'diamond') as task \gset
select run_id as run from ordinaut.run_now('t') \gset
select test.eq(test.ready(:'run'), 's pending ready 0/0, l pending 0/1, r pending 0/1, j pending 0/2', 'before it starts a run has the steps of its pipeline');
select test.eq(count(*), 4, 'without ids') from ordinaut.get_step_readiness_status(:'run') as r where r.workflow_step_uuid is null and r.run_id = :'run';
select test.eq(test.context(:'run'), '0 of 4, error 0, failed 0, pending 4, ready 1, blocked 0: has_ready_steps, execute_ready_steps, healthy, 0.00%', 'and a context');

select ordinaut.start_run(:'run');
select (test.step(:'run', 's')).step_id as s, (test.step(:'run', 'j')).step_id as j \gset
select test.eq((r.ready_for_execution, r.dependencies_satisfied, r.retry_eligible, r.attempts, r.retry_limit, r.max_attempts, r.backoff_request_seconds, r.task_uuid, r.run_id)::text,
  (true, true, false, 0, 3, 3, null::float8, :'run'::uuid, :'run'::uuid)::text, 'a fresh step is ready, and not eligible for a retry') from ordinaut.get_step_readiness_status(:'s') as r;
select test.eq(test.ready(:'task'), test.ready(:'run'), 'a task means its newest run');
select test.eq((select count(*) from ordinaut.get_step_readiness_status_batch(array[:'s', :'j']::uuid[])), 2, 'several ids at once');
select test.eq(array_agg(d.name || d.dependency_level order by d.name), '{j2,l1,r1,s0}', 'levels of a pipeline')
from ordinaut.task as t cross join lateral ordinaut.calculate_dependency_levels(t.pipeline_id) as d where t.task_id = :'task';
select test.throws('OR020', format('select ordinaut.get_step_readiness_status(%L)', gen_random_uuid()), 'an id of nothing');

-- In error, and nobody has decided yet.
select test.fail_only(:'run', 's');
select test.eq((r.current_state, r.retry_eligible, r.ready_for_execution, r.attempts, r.next_retry_at > ordinaut.now(), r.backoff_request_seconds, r.last_failure_at)::text,
  ('error', true, false, 1, true, null::float8, ordinaut.now())::text, 'an error that may pass is eligible, and not ready') from ordinaut.get_step_readiness_status(:'s') as r;
select test.eq(test.context(:'run'), '0 of 4, error 1, failed 0, pending 3, ready 0, blocked 0: waiting_for_retry, wait_for_retry, recovering, 0.00%', 'which blocks nobody');
select test.eq(ordinaut.evaluate_step_failure(:'s'), 'retry', 'it is evaluated');
select test.eq(test.ready(:'s'), 's waiting_for_retry 0/0', 'and waits');
select test.travel('1 s');
select test.eq(test.ready(:'s'), 's waiting_for_retry ready 0/0', 'until it is ready');
select test.fail_only(:'run', 's'), ordinaut.evaluate_step_failure(:'s'), test.fail_only(:'run', 's');
select test.eq((r.current_state, r.retry_eligible, r.attempts)::text, ('error', false, 3)::text, 'exhausted') from ordinaut.get_step_readiness_status(:'s') as r;
select test.eq(test.ready(:'run'), 's error 0/0, l pending blocked 0/1, r pending blocked 0/1, j pending blocked 0/2', 'all behind it is blocked');
select test.eq(test.context(:'run'), '0 of 4, error 1, failed 1, pending 3, ready 0, blocked 3: blocked_by_failures, handle_failures, blocked, 0.00%', 'and so is the run');
select test.eq(ordinaut.evaluate_step_failure(:'s'), 'failed', 'it fails');
select test.eq(test.ready(:'run'), 's error 0/0, l cancelled blocked 0/1, r cancelled blocked 0/1, j cancelled blocked 0/2', 'which changes no answer');

-- One branch fails for good, the other is done.
select test.run(:'diamond') as run \gset
select test.done(:'run', 's'), test.done(:'run', 'l');
select test.fail_only(:'run', 'r', '{"message": "no", "retryable": false}');
select test.eq(test.context(:'run'), '2 of 4, error 1, failed 1, pending 1, ready 0, blocked 1: blocked_by_failures, handle_failures, blocked, 50.00%', 'one branch failed');
select test.eq(test.ready(:'run', array[(test.step(:'run', 'j')).step_id]), 'j pending blocked 1/2', 'of a part of the steps all needs are counted');
select test.eq(array_agg(d.name || d.distance order by d.distance, d.name), '{l1,r1,s2}', 'what it needs, and they') from ordinaut.get_step_transitive_dependencies((test.step(:'run', 'j')).step_id) as d;

-- A delay that the tool asked for; limits.
select test.run('[{"id": "a", "uses": "echo", "retry_count": 2}]') as run \gset
select (test.step(:'run', 'a')).step_id as a \gset
select test.fail_only(:'run', 'a', '{"message": "x", "retryable": true, "retry_after": 30}');
select ordinaut.evaluate_step_failure(:'a');
select test.eq((r.backoff_request_seconds, r.next_retry_at - r.last_attempted_at, r.ready_for_execution)::text, (30::float8, interval '30 s', false)::text, 'it is kept') from ordinaut.get_step_readiness_status(:'a') as r;
select test.travel('30 s');
select test.eq(test.ready(:'a'), 'a waiting_for_retry ready 0/0', 'and ready after it');
select test.fail_only(:'run', 'a');
select test.eq((r.retry_eligible, r.attempts)::text, (false, 2)::text, 'at the limit') from ordinaut.get_step_readiness_status(:'a') as r;

-- Cancelled before anybody decided about its failure.
select test.run('[{"id": "a", "uses": "echo"}, {"id": "b", "uses": "echo"}]') as run \gset
select test.fail_only(:'run', 'a');
select ordinaut.cancel_run(:'run');
select test.eq((r.current_state, r.retry_eligible)::text, ('error', false)::text, 'nobody will try it again') from ordinaut.get_step_readiness_status((test.step(:'run', 'a')).step_id) as r;

-- A failure that is tolerated blocks nothing.
select test.run('[{"id": "a", "uses": "echo", "needs": [], "continue_on_error": true, "retry_count": 1}, {"id": "b", "uses": "echo", "needs": "a"}]') as run \gset
select test.fail(:'run', 'a', 'boom');
select test.eq(test.context(:'run'), '0 of 2, error 1, failed 1, pending 0, ready 1, blocked 0: has_ready_steps, execute_ready_steps, recovering, 0.00%', 'what needs it is ready');

-- Items take turns; a rollback is no step of the run's.
select test.run('[{"id": "m", "uses": "echo", "map": {"over": "${params}"}, "on_rollback": {"uses": "undo", "retry_count": 7}}, {"id": "z", "uses": "echo"}]') as run \gset
select test.wait(:'run', 'm', '{"kind": "map", "items": [1, 2], "max_parallel": 1}');
select test.eq(test.ready(:'run'), 'm in_progress 0/0, z pending 0/1, m[0] ready ready 0/0, m[1] pending 0/0', 'items are steps, and take turns');
select test.done(:'run', 'm[0]'), test.done(:'run', 'm[1]');
select test.fail(:'run', 'z', 'boom');
select test.eq((r.kind, r.retry_limit)::text, ('rollback', 7)::text, 'a rollback has its own limit') from ordinaut.get_step_readiness_status((test.step(:'run', 'rollback(m)')).step_id) as r;
select test.eq(c.total_steps, 4, 'and is not counted') from ordinaut.get_task_execution_context(:'run') as c;

-- A run of one tool is one step, itself.
select run_id as run from ordinaut.enqueue('echo') \gset
select test.eq((r.name, r.workflow_step_uuid, r.current_state, r.ready_for_execution)::text, ('echo', :'run'::uuid, 'ready', true)::text, 'it waits') from ordinaut.get_step_readiness_status(:'run') as r;
select test.eq(test.context(:'run'), '0 of 1, error 0, failed 0, pending 0, ready 1, blocked 0: has_ready_steps, execute_ready_steps, healthy, 0.00%', 'its context');
select lease_id as lease from ordinaut.lease_work('w', p_limit => 100) where run_id = :'run' \gset
select test.eq(test.context(:'run'), '0 of 1, error 0, failed 0, pending 0, ready 0, blocked 0: processing, wait_for_completion, healthy, 0.00%', 'it runs');
select ordinaut.fail_work(:'lease', :'run', 'no', false);
select test.eq(test.context(:'run'), '0 of 1, error 1, failed 1, pending 0, ready 0, blocked 0: blocked_by_failures, handle_failures, blocked, 0.00%', 'it has failed');

-- Progress: 0 to 100, of a run and of a step.
select run_id as run from ordinaut.enqueue('echo', p_queue => 'p') \gset
select lease_id as lease from ordinaut.lease_work('w', 'p') \gset
select test.throws('22023', format('select ordinaut.log_work(%L, %L, ''progress'', %L)', :'lease', :'run', p), 'refused: ' || p)
from unnest('{"{\"percent\": -1}","{\"percent\": 101}","{\"percent\": \"5\"}",null,"[]"}'::text[]) as p;
select ordinaut.log_work(:'lease', :'run', 'progress', '{"percent": 40, "note": "row 4"}');
select ordinaut._note(:'lease', :'run', 'progress', '{"percent": "all"}');
select test.eq((progress_percentage, current_step)::text, (40::numeric, 'row 4')::text, 'what its tool said') from ordinaut.get_run(:'run');
select ordinaut.complete_work(:'lease');
select test.eq(progress_percentage, 100, 'done is 100') from ordinaut.get_run(:'run');
select test.run('[{"id": "a", "uses": "echo"}, {"id": "b", "uses": "echo"}]') as run \gset
select test.lease(:'run', 'a') as lease \gset
select ordinaut.log_work(:'lease', (test.step(:'run', 'a')).step_id, 'progress', '{"percent": 12.5}');
select test.eq((progress_percentage, current_step)::text, (0.0::numeric, 'a')::text, 'a run of steps counts those that are done') from ordinaut.get_run(:'run');
select test.eq(progress ->> 'percent', '12.5', 'and each step has its own') from ordinaut.list_steps(:'run') where name = 'a';
select test.eq(step, 'a', 'in the journal of the run') from ordinaut.run_history(:'run') where event = 'progress';
select ordinaut.complete_work(:'lease');
select test.eq((progress_percentage, current_step)::text, (50.0::numeric, null)::text, 'half of it') from ordinaut.get_run(:'run');
rollback;
