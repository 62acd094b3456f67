-- A run that runs for too long is ended from outside; what failed is counted, found and run again.
\ir _begin.sql

create function test.state(p_run_id uuid) returns text
language sql
as 'select r.state from ordinaut.get_run(p_run_id) as r';

-- One of 61 minutes, one of 59, and one in a batch with a third.
select run_id as old from ordinaut.enqueue('a', p_queue => 'o') \gset
select lease_id as old_lease from ordinaut.lease_work('w', 'o', p_for => '1 day') \gset
select run_id as b1 from ordinaut.enqueue('a', p_queue => 'b') \gset
select run_id as b2 from ordinaut.enqueue('a', p_queue => 'b') \gset
select lease_id as both from ordinaut.lease_work('w', 'b', 2, p_for => '1 day') limit 1 \gset
select ordinaut.complete_work(:'both', :'b2');
select test.travel('2 min');
select run_id as young from ordinaut.enqueue('a', p_queue => 'y') \gset
select lease_id as young_lease from ordinaut.lease_work('w', 'y', p_for => '1 day') \gset
select ordinaut.enqueue('a', p_queue => 'waiting');
select test.travel('59 min');
select test.eq(array_agg(s.run_id order by s.run_id), (select array_agg(i order by i) from unnest(array[:'old', :'b1']::uuid[]) as i),
  'those of 61 minutes are stuck, that of 59 is not, and one that waits is not running')
from ordinaut.get_stuck_runs('60 min') as s;
select test.eq(array_agg(t.outcome), '{stuck,stuck}', 'a dry run tells') from ordinaut.timeout_stuck('60 min', p_dry_run => true) as t;
select test.eq(test.state(:'old'), 'running', 'and changes nothing');
select test.eq(array_agg((t.outcome, t.running_for)::text), '{"(timed_out,01:01:00)","(timed_out,01:01:00)"}', 'the other does it')
from ordinaut.timeout_stuck() as t;
select test.eq((r.state, r.error ->> 'message', r.error ->> 'category', r.failures)::text, '(timed_out,"timed out after 60 minutes",timeout,1)',
  'timed out after 60 minutes') from ordinaut.get_run(:'old') as r;
select test.eq(test.state(:'young'), 'running', 'the younger goes on');
select test.eq((select count(*) from ordinaut.timeout_stuck()), 0, 'a second pass finds nothing');
select test.throws('OR001', format('select ordinaut.complete_work(%L, %L)', :'old_lease', :'old'), 'its worker comes too late');
select test.throws('OR001', format('select ordinaut.assert_lease(%L, %L)', :'old_lease', :'old'), 'and may not write');
select test.throws('OR001', format('select ordinaut.complete_work(%L, %L)', :'both', :'b1'), 'nor in what was a batch');
select test.eq((test.state(:'b1'), test.state(:'b2'))::text, '(timed_out,success)', 'its neighbour is as it was');
select test.eq(outcome, 'success', 'the younger succeeds') from ordinaut.complete_work(:'young_lease');
select test.eq(array_agg(h.event order by h.at), '{enqueued,started,timed_out,finished}', 'it is in its history') from ordinaut.run_history(:'old') as h;
select test.throws('22023', $$select ordinaut.timeout_stuck('0 s')$$, 'nothing is stuck at once');

-- In a lease that goes on: the other unit is not touched.
select run_id as c1 from ordinaut.enqueue('a', p_queue => 'c') \gset
select test.travel('1 ms');
select run_id as c2 from ordinaut.enqueue('a', p_queue => 'c') \gset
select lease_id as pair from ordinaut.lease_work('w', 'c', 2, p_for => '1 day') limit 1 \gset
select test.travel('2 min');
select ordinaut._time_out_unit(:'pair', :'c1', '{"message": "enough"}', ordinaut.now());
select test.throws('OR001', format('select ordinaut.complete_work(%L, %L)', :'pair', :'c1'), 'the one is out of it');
select test.eq(outcome, 'success', 'the other succeeds') from ordinaut.complete_work(:'pair', :'c2');
select test.eq((test.state(:'c1'), test.state(:'c2'))::text, '(timed_out,success)', 'each its own way');

-- A run of steps: bounded as a whole by the timeout of its task; what is leased is fenced off.
select ordinaut.create_task('flow', 'pipeline', p_queue => 'p', p_timeout => '90 s', p_pipeline =>
  '[{"id": "one", "uses": "a", "save_as": "x", "on_rollback": {"uses": "undo"}}, {"id": "two", "uses": "a", "needs": ["one"]}, {"id": "three", "uses": "a", "needs": ["two"]}]');
select run_id as flow from ordinaut.run_now('flow') \gset
select lease_id, work_id from ordinaut.lease_work('w', 'p', p_for => '1 day') \gset
select ordinaut.complete_work(:'lease_id', :'work_id', '1');
select lease_id, work_id from ordinaut.lease_work('w', 'p', p_for => '1 day') \gset
select test.travel('89 s');
select ordinaut.reap();
select test.eq(test.state(:'flow'), 'running', 'not before');
select test.travel('1 s');
select ordinaut.reap();
select test.throws('OR001', format('select ordinaut.complete_work(%L, %L)', :'lease_id', :'work_id'), 'the step that ran is too late');
select test.eq(string_agg(s.name || ' ' || s.state, ', ' order by s.position), 'one complete, two error, three cancelled, rollback(one) ready',
  'what is done is rolled back') from ordinaut.step as s where s.run_id = :'flow';
select lease_id, tool from ordinaut.lease_work('w', 'p') \gset
select ordinaut.complete_work(:'lease_id');
select test.eq((r.state, r.error ->> 'message')::text, '(timed_out,"timed out after 90 seconds")', 'and it has timed out') from ordinaut.get_run(:'flow') as r;

select test.ok(not ordinaut._time_out_run(:'flow', '{}', ordinaut.now()), 'what has ended does not time out');
select run_id as flow2 from ordinaut.enqueue('pipeline', p_queue => 'p2', p_pipeline => '[{"id": "one", "uses": "a"}]') \gset
select lease_id, work_id from ordinaut.lease_work('w', 'p2', p_for => '1 day') \gset
select test.travel('61 min');
select test.eq(array_agg(t.outcome), '{timed_out}', 'it can be stuck, too') from ordinaut.timeout_stuck() as t where t.run_id = :'flow2';
select test.eq((r.state, r.error ->> 'message')::text, '(timed_out,"timed out after 60 minutes")', 'like any run') from ordinaut.get_run(:'flow2') as r;
select run_id as flow3 from ordinaut.enqueue('pipeline', p_queue => 'p3', p_pipeline => '[{"id": "nap", "uses": "sleep", "with": {"seconds": 1}}]') \gset
select lease_id, work_id from ordinaut.lease_work('w', 'p3') \gset
select ordinaut.wait_work(:'lease_id', :'work_id', '{"kind": "sleep", "seconds": 86400}');
select test.travel('2 hours');
select test.eq((select count(*) from ordinaut.get_stuck_runs() as s where s.run_id = :'flow3'), 0, 'one that sleeps is not stuck');

-- What is stuck in a service that hangs counts against it.
select ordinaut.set_breaker('hung', p_threshold => 1);
select ordinaut.enqueue('hung', p_queue => 'h');
select ordinaut.lease_work('w', 'h', p_for => '1 day');
select test.travel('61 min');
select ordinaut.timeout_stuck();
select test.eq(b.state, 'open', 'its breaker opens') from ordinaut.list_breakers() as b;

-- Recovery.
delete from ordinaut.due_work;
create function test.ended(p_outcome text, p_category text default 'network') returns uuid
language plpgsql
as $fn$
declare
  v_run_id uuid;
  v_lease_id uuid;
begin
  select e.run_id into v_run_id from ordinaut.enqueue('z', p_queue => 'z', p_max_attempts => 1) as e;
  select l.lease_id into v_lease_id from ordinaut.lease_work('w', 'z') as l;
  perform test.travel('4 s');
  perform ordinaut._settle_alone(v_lease_id, v_run_id, p_outcome, null, jsonb_build_object('message', 'no', 'category', p_category));
  return v_run_id;
end
$fn$;
select test.travel('2 days');
select (ordinaut.now() - interval '1 s')::text as since \gset
select test.ended('success') from generate_series(1, 7);
select test.ended('failed') as f1 \gset
select test.ended('timed_out', 'timeout') as f2 \gset
select test.ended('failed', 'validation') as f3 \gset
select test.eq((s.total, s.by_status, s.avg_duration, s.success_rate)::text, '(10,"{""failed"": 2, ""success"": 7, ""timed_out"": 1}",4,0.7)',
  'seven of ten succeeded, in 4 s each') from ordinaut.get_execution_statistics(:'since') as s;
select test.eq((s.total_failures, s.by_category, s.by_severity, s.recovery_candidates)::text,
  '(3,"{""network"": 1, ""timeout"": 1, ""validation"": 1}","{""high"": 1, ""medium"": 2}",2)', 'three failed, two may be worth recovering')
from ordinaut.get_error_statistics(:'since') as s;
select test.eq(s.by_error_code, '{"E1000": 1, "E2000": 1, "E6000": 1}', 'by code') from ordinaut.get_error_statistics(:'since') as s;
select test.eq((s.total_failures, s.recovery_candidates)::text, '(0,0)', 'of a task: none') from ordinaut.get_error_statistics(:'since', 'flow') as s;
select test.eq((s.total, s.success_rate)::text, '(0,)', 'and no rate of nothing') from ordinaut.get_execution_statistics(:'since', 'flow') as s;
select test.eq((select count(*) from ordinaut.get_failed_runs_for_recovery() as r where r.tool = 'z'), 0, 'none has failed five minutes ago');
select test.travel('6 min');
select test.eq((select array_agg(r.run_id order by r.finished_at) from ordinaut.get_failed_runs_for_recovery() as r where r.tool = 'z'),
  array[:'f1', :'f2']::uuid[], 'now they have, oldest first');
select test.eq((select count(*) from ordinaut.get_failed_runs_for_recovery(1)), 1, 'as many as asked for');

select ordinaut.recover_run(:'f1', 'the network is back') as again \gset
select test.eq((r.state, r.retry_of)::text, format('(pending,%s)', :'f1'), 'recovered: a new run waits') from ordinaut.get_run(:'again') as r;
select test.eq(ordinaut.recover_run(:'f1'), :'again'::uuid, 'twice is once');
select test.eq((select array_agg(r.run_id) from ordinaut.get_failed_runs_for_recovery() as r where r.tool = 'z'), array[:'f2'::uuid], 'it needs no recovery any more');
select lease_id from ordinaut.lease_work('w', 'z') \gset
select test.throws('OR031', format('select ordinaut.recover_run(%L)', :'again'), 'running: not in failed state');
select test.throws('OR020', $$select ordinaut.recover_run(gen_random_uuid())$$, 'unknown: not found');

-- Many at once: each its own way.
select run_id as w1 from ordinaut.enqueue('z', p_queue => 'w') \gset
select gen_random_uuid() as nobody \gset
select test.eq((select jsonb_object_agg(c.run_id, c.outcome || ' ' || case c.outcome when 'failed' then '' else c.detail end)
    from ordinaut.cancel_runs(array[:'w1', :'again', :'f2', :'nobody', :'w1']::uuid[]) as c),
  jsonb_build_object(:'w1', 'updated cancelled', :'again', 'updated requested', :'f2', 'skipped too_late', :'nobody', 'failed '), 'cancelled');
select test.eq((select jsonb_object_agg(c.run_id, c.outcome) from ordinaut.retry_runs(array[:'w1', :'again', :'f1', :'f2', :'nobody']::uuid[]) as c),
  jsonb_build_object(:'w1', 'updated', :'again', 'skipped', :'f1', 'skipped', :'f2', 'updated', :'nobody', 'failed'), 'and retried');
select test.eq((select count(*) from ordinaut.cancel_runs('{}')), 0, 'none is none');
rollback;
