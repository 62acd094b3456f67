-- One lease and one settle may hold steps of several runs, whole runs and plain units: each is done by its own rules.
\ir _begin.sql
\ir _steps.sql
create function test.all(p_queue text) returns text[] language sql as
  $fn$ select array_agg(coalesce(l.step, l.tool) order by coalesce(l.step, l.tool)) from ordinaut.lease_work('w', p_queue, 20) as l $fn$;

select run_id as plain from ordinaut.enqueue('mail') \gset
select run_id as one from ordinaut.enqueue(p_pipeline => '[{"id": "a1", "uses": "echo", "save_as": "x"}, {"id": "a2", "uses": "echo"}]') \gset
select run_id as two from ordinaut.enqueue(p_pipeline => '[{"id": "b1", "uses": "echo", "save_as": "y"}]') \gset
select test.run('[{"id": "c1", "uses": "echo"}, {"id": "c2", "uses": "sleep"}, {"id": "c3", "uses": "echo"}]') as three \gset
select test.done(:'three', 'c1');
select test.wait(:'three', 'c2', '{"kind": "sleep", "seconds": 10}');
select test.run('[{"id": "d1", "uses": "echo"}]') as four \gset
select test.travel('10 s');
select test.eq(test.all('default'), '{a1,b1,d1,mail}', 'a lease takes them all, and wakes who slept');
select test.eq(test.state(:'three', 'c2') || ' ' || test.state(:'three', 'c3'), 'complete ready', 'whose next step is due');
select test.eq((s.output ->> 'seconds')::integer, 10, 'a sleep says how long') from test.step(:'three', 'c2') as s;
select test.eq(count(*), 4::bigint, 'in one settle') from ordinaut.complete_work((select lease_id from ordinaut.lease), null, '{"n": 1}');
select test.eq((test.state(:'plain'), test.state(:'one'), test.state(:'two'), test.state(:'four'))::text, ('success', 'running', 'success', 'success')::text, 'each ends, or goes on, for itself');
select test.eq(array_agg(r.output order by r.run_id = :'two'), array['{}', '{"y": {"n": 1}}']::jsonb[], 'with its own outputs') from ordinaut.run as r where r.run_id in (:'two', :'four');
select test.eq(r.output, '{"n": 1}', 'the plain one too') from ordinaut.run as r where r.run_id = :'plain';
select test.eq(test.all('default'), '{a2,c3}', 'what comes next is due');
select ordinaut.complete_work((select lease_id from ordinaut.lease));
select test.eq((r.state, r.output)::text, ('success', '{"x": {"n": 1}}'::jsonb)::text, 'and ends its run') from ordinaut.run as r where r.run_id = :'one';
select test.eq(count(*), 0, 'nothing is left over') from ordinaut.work as w where w.status <> 'completed';

-- Declined: back in a second if somebody has the tool, else parked until somebody does.
select ordinaut.register_worker('00000000-0000-7000-8000-000000000001', '{default}', '{echo}');
select test.run('[{"id": "a", "uses": "echo", "needs": []}, {"id": "b", "uses": "rare", "needs": []}]') as run \gset
create function test.decline(p_run_id uuid, p_name text) returns text language plpgsql as $fn$
declare v_lease uuid := test.lease(p_run_id, p_name);
begin
  perform ordinaut._settle(v_lease, array[(test.step(p_run_id, p_name)).step_id], '{declined}', '{null}', '{null}', '{1}', ordinaut.now());
  return (select w.status || coalesce(' ' || w.reason, ' ' || (w.run_at - ordinaut.now())::text) from ordinaut.work as w where w.step = p_name);
end $fn$;
select test.eq(test.decline(:'run', 'a'), 'pending 00:00:01', 'somebody has it');
select test.eq(test.decline(:'run', 'b'), 'parked tool', 'nobody has it');
select test.eq(test.state(:'run', 'b'), 'ready', 'the step is ready all the same');
select ordinaut.register_worker('00000000-0000-7000-8000-000000000002', '{default}', '{rare}');
select test.eq(w.status, 'pending', 'until a worker comes that has it') from ordinaut.work as w where w.step = 'b';

-- A rollback that comes back is run again, although its run is failing.
select test.run('[{"id": "a", "uses": "echo", "on_rollback": {"uses": "undo", "timeout": "5 s"}}, {"id": "b", "uses": "echo"}]') as run \gset
select test.done(:'run', 'a'), test.fail(:'run', 'b', 'boom');
select test.eq(w.timeout, interval '5 s', 'a rollback has its own timeout') from ordinaut.due_work as w where w.step = 'rollback(a)';
select outcome from ordinaut.release_work(test.lease(:'run', 'rollback(a)'), (test.step(:'run', 'rollback(a)')).step_id);
select test.eq(test.state(:'run', 'rollback(a)'), 'ready', 'released, it is due');
select test.eq(test.fail(:'run', 'rollback(a)', 'not yet', true), 'retry', 'failed, it is tried again');
select test.travel('1 min');
select test.done(:'run', 'rollback(a)');
select test.eq((r.state, r.error ->> 'message')::text, ('failed', 'step b: boom')::text, 'and then the run has failed') from ordinaut.run as r where r.run_id = :'run';

-- An output that no row takes ends its step, and no other.
select test.run('[{"id": "a", "uses": "echo", "retry_count": 1}]') as run \gset
select test.run('[{"id": "a", "uses": "echo"}]') as other \gset
select ordinaut.exchange('00000000-0000-7000-8000-000000000001', 'default', '00000000-0000-4000-8000-00000000000a', 9);
select array_agg(u.work_id) as ids from ordinaut.lease as l, unnest(l.work) as u where u.run_id in (:'run', :'other') \gset
select ordinaut.exchange('00000000-0000-7000-8000-000000000001', 'default', null, 0, '{00000000-0000-4000-8000-00000000000a,00000000-0000-4000-8000-00000000000a}',
  :'ids', '{success,success}', array['{"a": "\u0000"}', '{}'], '{null,null}', '{1,1}', p_careful => true);
select test.eq(array_agg(r.state order by r.state), '{failed,success}', 'one bad row takes no other with it') from ordinaut.run as r where r.run_id in (:'run', :'other');
rollback;
