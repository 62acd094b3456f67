-- A step whose tool's breaker is open waits like any work; its run neither fails nor forgets it.
\ir _begin.sql

create function test.steps(p_run_id uuid) returns text
language sql
as $fn$
  select string_agg(concat_ws(' ', s.name, s.state, s.attempt, w.reason), ', ' order by s.position)
  from ordinaut.step as s left join ordinaut.work as w on w.work_id = s.step_id
  where s.run_id = p_run_id;
$fn$;

select ordinaut.set_breaker('crm', p_threshold => 1, p_recovery => '30 s');
select ordinaut.enqueue('crm', p_queue => 'x', p_max_attempts => 1);
select lease_id from ordinaut.lease_work('w', 'x') \gset
select ordinaut.fail_work(:'lease_id', p_details => '{"category": "network"}');
select test.eq(b.state, 'open', 'open') from ordinaut.list_breakers() as b;
-- Somebody else is to try, so that what comes now is parked.
select ordinaut.enqueue('crm', p_queue => 'x');
select ordinaut.lease_work('w', 'x');

-- The first step of a run, as the run starts.
select run_id as first from ordinaut.enqueue('pipeline', p_queue => 'a', p_pipeline =>
  '[{"id": "call", "uses": "crm"}, {"id": "side", "uses": "echo", "needs": []}, {"id": "last", "uses": "echo", "needs": ["call", "side"]}]') \gset
select test.eq((select string_agg(l.step, ',') from ordinaut.lease_work('w', 'a', 10) as l), 'side', 'its other steps go on');
select test.eq(test.steps(:'first'), 'call ready 0 breaker, side in_progress 1, last pending 0', 'the step waits, uncharged');
select test.eq(w.reason, 'breaker', 'why says so') from ordinaut.why(:'first') as w where w.reason = 'breaker';

-- A step that follows another, in the settle of that one.
select ordinaut.register_worker('00000000-0000-4000-8000-000000000001', '{b}', '{echo,crm}');
select run_id as second from ordinaut.enqueue('pipeline', p_queue => 'b', p_pipeline =>
  '[{"id": "before", "uses": "echo"}, {"id": "call", "uses": "crm"}]') \gset
select work_id as before from ordinaut.exchange('00000000-0000-4000-8000-000000000001', 'b',
  '00000000-0000-4000-8000-00000000000a', 5) where kind = 'work' \gset
select test.eq((select count(*) from ordinaut.exchange('00000000-0000-4000-8000-000000000001', 'b', '00000000-0000-4000-8000-00000000000b', 5,
  array['00000000-0000-4000-8000-00000000000a']::uuid[], array[:'before']::uuid[], '{success}', '{null}', array[null::text], '{10}') where kind = 'work'),
  0, 'it is not gone on with');
select test.eq(test.steps(:'second'), 'before complete 1, call ready 0 breaker', 'but parked');

-- One that is tried again.
select ordinaut.close_breaker('crm');
select run_id as third from ordinaut.enqueue('pipeline', p_queue => 'c', p_pipeline =>
  '[{"id": "call", "uses": "crm", "retry": {"base": "5 s", "jitter": 0}}]') \gset
select lease_id, work_id from ordinaut.lease_work('w', 'c') \gset
select ordinaut.reset_breaker('crm');
select test.eq(outcome, 'retry', 'a step''s failure counts') from ordinaut.fail_work(:'lease_id', :'work_id', p_details => '{"category": "network"}');
select test.eq(b.state, 'open', 'and opens') from ordinaut.list_breakers() as b;
select test.travel('5 s');
select ordinaut.lease_work('w', 'c');
select test.eq(w.run_at, b.probe_at, 'it is the one to try') from ordinaut.work as w, ordinaut.list_breakers() as b where w.work_id = :'work_id';
select test.eq(test.steps(:'third'), 'call waiting_for_retry 1', 'and still waits for that');
select test.travel('25 s');
select lease_id, attempt from ordinaut.lease_work('w', 'c') \gset
select test.eq(:attempt, 2, 'it tries');
select test.eq(b.state, 'half_open', 'half open') from ordinaut.list_breakers() as b;
select ordinaut.complete_work(:'lease_id', :'work_id');
select test.eq(b.state, 'closed', 'a step''s success closes it') from ordinaut.list_breakers() as b;
select test.eq(r.state, 'success', 'the run has succeeded') from ordinaut.get_run(:'third') as r;

-- And what waited goes on.
select work_id, lease_id from ordinaut.lease_work('w', 'b') \gset
select ordinaut.complete_work(:'lease_id');
select test.eq(r.state, 'success', 'the second run succeeds') from ordinaut.get_run(:'second') as r;
select lease_id, step from ordinaut.lease_work('w', 'a') \gset
select test.eq(:'step', 'call', 'the step that waited is due');
select ordinaut.complete_work(:'lease_id');
select test.eq(test.steps(:'first'), 'call complete 1, side in_progress 1, last pending 0', 'complete at its first attempt');

-- Two steps of a run that start together are two units: one tries.
select ordinaut.reset_breaker('crm');
update ordinaut.breaker set state = 'open', failures = 1, probe_at = ordinaut.now();
select run_id as twins from ordinaut.enqueue('pipeline', p_queue => 'd', p_pipeline => '[{"id": "one", "uses": "crm", "needs": []}, {"id": "two", "uses": "crm", "needs": []}]') \gset
select ordinaut.enqueue('crm', p_queue => 'd');
select test.eq((select count(*) from ordinaut.lease_work('w', 'd', 10)), 1, 'of all in a batch one tries');
select test.eq((select count(*) from ordinaut.lease_work('w', 'd', 10)), 0, 'and no other');
-- Cancelled while a step of it is parked.
select test.ok(ordinaut.cancel_run(:'twins') in ('cancelled', 'requested'), 'a run can be cancelled');
select test.eq((select count(*) from ordinaut.parked as p where p.run_id = :'twins'), 0, 'nothing of it stays behind the breaker');
rollback;
