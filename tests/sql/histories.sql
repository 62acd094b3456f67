-- The history of a run of steps: what became of each attempt of each step, told once and in order.
\ir _begin.sql
\ir _steps.sql
create function test.told(p_run_id uuid, p_step text default null) returns text[] language sql as $fn$
  select array_agg(h.event || coalesce(' ' || h.step, '') || coalesce(' ' || h.state, '') || coalesce(' ' || nullif(h.attempt, 0), ''))
  from ordinaut.run_history(p_run_id) as h where p_step is null or h.step = p_step $fn$;
create function test.later() returns void language sql as $fn$ select test.travel('1 min') $fn$;

-- Retried, given back, done; then a failure for good, and a rollback.
select test.run('[{"id": "a", "uses": "echo", "on_rollback": {"uses": "undo"}}, {"id": "b", "uses": "echo"}, {"id": "c", "uses": "echo"}]') as run \gset
select test.lease(:'run', 'a') as lease \gset
select ordinaut.log_work(:'lease', (test.step(:'run', 'a')).step_id, 'log', '{"started_at": "at dawn", "run_at": "at dusk"}');
select test.later(), ordinaut.fail_work(:'lease', p_error => 'one');
select test.later(), test.lease(:'run', 'a') as lease \gset
select test.later(), ordinaut.release_work(:'lease');
select test.later(), test.lease(:'run', 'a') as lease \gset
select test.later(), ordinaut.complete_work(:'lease');
select test.later(), test.fail(:'run', 'b', 'boom');
select test.later(), test.done(:'run', 'rollback(a)');
select test.eq(test.told(:'run'), '{enqueued pending,started running 1,step_started a in_progress 1,log a,failed a waiting_for_retry 1,step_started a in_progress 2,released a ready 2,step_started a in_progress 3,step_finished a complete 3,step_started b in_progress 1,failed b error 1,step_finished c cancelled,step_started rollback(a) in_progress 1,step_finished rollback(a) complete 1,finished failed 1}', 'every transition, once');
select test.eq((h.detail ->> 'message', h.detail ->> 'step')::text, ('step b: boom', 'b')::text, 'and why it ended') from ordinaut.run_history(:'run') as h where h.event = 'finished';
select test.eq(array_agg(h.to_state), '{pending,in_progress,error,waiting_for_retry,ready,in_progress,ready,ready,in_progress,complete}', 'what a tool says does not stop the history of its step')
from ordinaut.step_history((test.step(:'run', 'a')).step_id) as h;

-- All at one instant: as the steps need each other, a map after its items.
select test.run('[{"id": "z", "uses": "echo"}, {"id": "m", "uses": "echo", "map": {"over": "${params}"}}, {"id": "a", "uses": "echo"}]') as run \gset
select test.done(:'run', 'z'), test.wait(:'run', 'm', '{"kind": "map", "items": [1, 2]}'), test.done(:'run', 'm[0]'), test.done(:'run', 'm[1]'), test.done(:'run', 'a');
select test.eq(test.told(:'run'), '{enqueued pending,started running 1,step_started z in_progress 1,step_finished z complete 1,step_started m in_progress 1,step_started m[0] in_progress 1,step_finished m[0] complete 1,step_started m[1] in_progress 1,step_finished m[1] complete 1,step_finished m complete 1,step_started a in_progress 1,step_finished a complete 1,finished success 1}', 'in order');

-- People: their act and what came of it are one; the ends that the run went on after are kept.
select test.run('[{"id": "a", "uses": "echo", "needs": []}, {"id": "b", "uses": "echo", "needs": []}, {"id": "c", "uses": "echo", "needs": ["a", "b"]}]') as run \gset
select test.later(), test.fail(:'run', 'a', 'boom');
select test.later(), ordinaut.retry_failed_steps(:'run', 'again');
select test.later(), ordinaut.skip_step((test.step(:'run', 'a')).step_id, 'no need');
select test.later(), ordinaut.cancel_run(:'run', 'enough');
select test.later(), ordinaut.resolve_step((test.step(:'run', 'b')).step_id, 'on paper');
select test.later(), ordinaut.skip_work(test.lease(:'run', 'c'), (test.step(:'run', 'c')).step_id, 'if x');
select test.eq(test.told(:'run'), '{enqueued pending,started running 1,step_started a in_progress 1,failed a error 1,step_finished b cancelled,step_finished c cancelled,failed failed,steps_retried running,step_retried a ready 1,step_reopened b pending,step_reopened c pending,step_skipped a skipped,cancel_requested,step_finished b cancelled,step_finished c cancelled,cancelled cancelled,step_reopened b pending,step_resolved b resolved_manually,step_reopened c pending,step_started c in_progress 1,skipped c skipped 1,finished success 1}', 'who ended what, and when it went on');
select test.eq(array_agg(h.detail ->> 'note' order by h.at) filter (where h.detail ? 'note'), '{again,no need,enough,enough,on paper}', 'and why') from ordinaut.run_history(:'run') as h;

-- A worker dies with a step, and with a run of one tool: that is told as ever.
select test.run('[{"id": "a", "uses": "echo", "retry_count": 1}]') as run \gset
select ordinaut.lease_work('w', p_for => '1 s'), test.later(), ordinaut.reap();
select test.eq(test.told(:'run', 'a'), '{step_started a in_progress 1,crashed a waiting_for_retry 1}', 'a crash');
select run_id as run from ordinaut.enqueue('echo', p_queue => 'one') \gset
create function test.crash() returns void language sql as $fn$ select ordinaut.lease_work('w', 'one', p_for => '1 s'); select test.later(); select ordinaut.reap(); $fn$;
select test.crash() from generate_series(1, 3);
select test.eq(test.told(:'run'), '{enqueued pending,crashed pending 1,crashed pending 2,started running 3,crashed pending 3,finished abandoned 3}', 'a run of one tool');
rollback;
