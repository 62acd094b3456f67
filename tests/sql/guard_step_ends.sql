-- A step is started, gone on with and ended by whoever may, and once; what comes late or unasked changes nothing.
\ir _begin.sql
\ir _steps.sql

create function test.id(p_run_id uuid, p_name text) returns uuid language sql as $fn$ select (test.step(p_run_id, p_name)).step_id $fn$;
create function test.settle(p_lease uuid, p_step_id uuid, p_outcome text, p_text text default null) returns text[]
language sql
as $fn$
  select array(select s.kind from ordinaut._settle(p_lease, array[p_step_id], array[p_outcome], array[p_text], array[p_text], '{1000}', ordinaut.now()) as s);
$fn$;
create function test.said(p_run_id uuid, p_name text) returns text[]
language sql
as $fn$ select array_agg(g.event order by g.log_id) from ordinaut.run_log as g where g.run_id = p_run_id and g.step = p_name $fn$;
\set two '[{"id": "a", "uses": "echo"}, {"id": "b", "uses": "echo"}]'

-- By hand only a run of steps is started, and only one that has no key.
select run_id as plain from ordinaut.enqueue('echo', p_queue => 'plain') \gset
select test.throws('OR031', format('select ordinaut.start_run(%L)', :'plain'), 'a run of one tool is leased, not started');
select run_id as keyed from ordinaut.enqueue(p_pipeline => :'two', p_key => 'k', p_queue => 'keyed') \gset
select test.throws('OR031', format('select ordinaut.start_run(%L)', :'keyed'), 'whose turn it is, its key decides');
select test.eq((select count(*) from ordinaut.due_work as w where w.work_id in (:'plain', :'keyed')), 2, 'both wait as before');
select lease_id as lease from ordinaut.lease_work('w', 'plain') \gset
select ordinaut.fail_work(:'lease', p_retryable => false);
select test.throws('OR020', format('select ordinaut.retry_failed_steps(%L)', :'plain'), 'it has no steps to go on with');

-- Keys of runs end with their own runs.
select run_id as other from ordinaut.enqueue(p_pipeline => '[{"id": "b", "uses": "echo"}]', p_key => 'k2', p_queue => 'keyed') \gset
select lease_id as lease from ordinaut.lease_work('w', 'keyed', 2) limit 1 \gset
select test.settle(:'lease', test.id(:'other', 'b'), 'success');
select test.eq((test.state(:'other'), (select array_agg(h.key) from ordinaut.hold as h where h.key in ('k', 'k2')))::text, '(success,{k})', 'one has ended, the other holds its own');

-- Nobody else has the run: it is had at once.
select clock_timestamp() as since \gset
select ordinaut._try_runs(array[:'other']::uuid[]) from generate_series(1, 20);
select test.ok(clock_timestamp() - :'since' < '400 ms', 'a run that is free is not waited for');

-- Whoever settled a step goes on with one that follows in its queue: the first; the others are for everybody.
select test.run('[{"id": "s", "uses": "echo"}, {"id": "else", "uses": "echo", "needs": "s", "queue": "other"}, {"id": "first", "uses": "echo", "needs": "s"},
  {"id": "next", "uses": "echo", "needs": "s", "with": {"v": "${params}"}}, {"id": "last", "uses": "echo", "needs": "s"}]') as run \gset
select test.travel('5 s');
select test.eq(array_agg((n.step, n.payload, ordinaut.now() - n.run_at)::text), array['(first,"{""with"": {}}",00:00:05)'], 'the first of its queue, told what it reads, with the place in line of its run')
from ordinaut._settle(test.lease(:'run', 's'), array[test.id(:'run', 's')], '{success}', '{null}', '{null}', '{0}', ordinaut.now(), 'default', 5) as s cross join unnest(s.next) as n;
select test.eq((select array_agg(w.step || ' ' || w.queue || ' ' || (w.run_at = ordinaut.now()) || coalesce(' ' || w.payload::text, '') order by w.step) from ordinaut.due_work as w where w.run_id = :'run'),
  array['else other true {"with": {}}', 'last default true {"with": {}}', 'next default true'], 'the others are due now');
select test.eq((select array_agg(s.name order by s.position) from ordinaut.step as s where s.run_id = :'run' and s.started_at = ordinaut.now()), array['s', 'first']::text[], 'and have not begun');

-- Results too long are cut, as those of any unit.
select test.run(:'two') as run \gset
select test.settle(test.lease(:'run', 'a'), test.id(:'run', 'a'), 'success', to_jsonb(repeat('x', 1048575))::text);
select test.eq((s.output -> 'truncated', s.output -> 'size', length(s.output ->> 'preview'))::text, '(true,1048577,1000)', 'with a preview') from test.step(:'run', 'a') as s;
select test.settle(test.lease(:'run', 'b'), test.id(:'run', 'b'), 'success');
select test.eq((s.state, s.output)::text, '(complete,)', 'none is none') from test.step(:'run', 'b') as s;

-- Ended over its worker's head: what it says then is late.
select test.run(:'two') as run \gset
select test.lease(:'run', 'a') as lease \gset
update ordinaut.step as s set state = 'cancelled', finished_at = ordinaut.now() where s.step_id = test.id(:'run', 'a');
select test.settle(:'lease', test.id(:'run', 'a'), 'success', '{"n": 1}');
select test.eq((s.state, s.output)::text, '(cancelled,)', 'a success') from test.step(:'run', 'a') as s;
select test.run(:'two') as run \gset
select test.lease(:'run', 'a') as lease \gset
update ordinaut.step as s set state = 'cancelled', finished_at = ordinaut.now() where s.step_id = test.id(:'run', 'a');
select test.settle(:'lease', test.id(:'run', 'a'), 'failed', '{"message": "boom"}');
select test.eq((test.state(:'run', 'a'), test.said(:'run', 'a'), test.state(:'run'))::text, '(cancelled,{late},running)', 'or a failure');

-- Skipped is an outcome of its own, even of a run that is to stop.  To stop, somebody must have asked.
select test.run(:'two') as run \gset
select test.lease(:'run', 'a') as lease \gset
select ordinaut.cancel_run(:'run');
select test.settle(:'lease', test.id(:'run', 'a'), 'skipped');
select test.eq(test.state(:'run', 'a') || ' ' || test.state(:'run'), 'skipped cancelled', 'it was skipped');
select test.run(:'two') as run \gset
select test.settle(test.lease(:'run', 'a'), test.id(:'run', 'a'), 'cancelled');
select test.eq((test.state(:'run', 'a'), test.said(:'run', 'a'), test.state(:'run'))::text, '(ready,{released},running)', 'nobody asked: it is given back');
select test.eq(test.done(:'run', 'a'), 'success', 'and run again');

-- A failure is evaluated once, if there is one.
select test.run('[{"id": "a", "uses": "echo", "continue_on_error": true, "retry_count": 1}]') as run \gset
select test.throws('OR020', 'select ordinaut.evaluate_step_failure(gen_random_uuid())', 'there is no such step');
select test.throws('OR031', format('select ordinaut.evaluate_step_failure(%L)', test.id(:'run', 'a')), 'it has not failed');
select test.settle(test.lease(:'run', 'a'), test.id(:'run', 'a'), 'declined');
select test.throws('OR031', format('select ordinaut.evaluate_step_failure(%L)', test.id(:'run', 'a')), 'it is parked, but for its tool');
select test.eq((select p.reason from ordinaut.parked as p where p.run_id = :'run'), 'tool', 'and waits for that as before');
select ordinaut.register_worker('00000000-0000-7000-8000-000000000001', '{default}', '{echo}');
select ordinaut._fail_unevaluated(test.lease(:'run', 'a'), test.id(:'run', 'a'), '{"message": "boom"}');
select test.eq(test.state(:'run', 'a') || ' ' || test.state(:'run'), 'error running', 'now it has');
select test.eq(ordinaut.evaluate_step_failure(test.id(:'run', 'a')), 'failed', 'it was its last attempt');
select test.eq(test.state(:'run'), 'success', 'which may fail: so nothing more is waited for');

-- A sleep ends when its time has come, and not if it was withdrawn.
select test.run(:'two') as run \gset
select test.wait(:'run', 'a', '{"kind": "sleep", "seconds": 10}');
select test.throws('OR031', format('select ordinaut._lease_step(%L, ''w'')', test.id(:'run', 'a')), 'who sleeps is not leased');
select ordinaut.cancel_run(:'run');
select ordinaut._wake(ordinaut._step_item(s, r, ordinaut.now()), ordinaut.now()) from ordinaut.step as s, ordinaut.task_run as r where s.step_id = test.id(:'run', 'a') and r.run_id = :'run';
select test.eq(test.state(:'run', 'a'), 'cancelled', 'it was withdrawn');
select test.run(:'two') as run \gset
select test.wait(:'run', 'a', '{"kind": "approval", "prompt": "?"}');
select ordinaut._wake(ordinaut._step_item(s, r, ordinaut.now()), ordinaut.now()) from ordinaut.step as s, ordinaut.task_run as r where s.step_id = test.id(:'run', 'a') and r.run_id = :'run';
select test.eq(test.state(:'run', 'a'), 'in_progress', 'it waits for people, not for a time');

-- Of two failures one is seen to by hand: what still runs may end, but not in success.
select test.run('[{"id": "a", "uses": "echo", "needs": []}, {"id": "b", "uses": "echo", "needs": []}, {"id": "c", "uses": "echo", "needs": []}]') as run \gset
select test.lease(:'run', 'a') as a, test.lease(:'run', 'b') as b, test.lease(:'run', 'c') as c \gset
select test.settle(:'a', test.id(:'run', 'a'), 'failed', '{"message": "bang", "retryable": false}'), test.settle(:'b', test.id(:'run', 'b'), 'failed', '{"message": "boom", "retryable": false}');
select test.eq(ordinaut.resolve_step(test.id(:'run', 'a')), 'resolved_manually', 'one is resolved');
select test.eq(test.state(:'run'), 'running', 'one still runs');
select test.settle(:'c', test.id(:'run', 'c'), 'success');
select test.eq((state, error ->> 'message')::text, '(failed,"step b: boom")', 'the other failure is left') from ordinaut.get_run(:'run');
rollback;
