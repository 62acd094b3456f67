-- Views show people what waits, runs, is late and fails, and a run's whole history.
\ir _begin.sql

select gen_random_uuid() as worker_id, gen_random_uuid() as batch \gset
select ordinaut.register_worker(:'worker_id', '{default}', '{echo}', 'host:1', '1.0', p_concurrency => 4);
select ordinaut.create_task('beat', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 min') as task_id \gset
select run_id as bad from ordinaut.enqueue('bad', p_max_attempts => 1) \gset
select run_id as good from ordinaut.enqueue('echo', '{"n": 1}') \gset
select run_id as held from ordinaut.enqueue('echo', p_key => 'k') \gset
select count(*) from ordinaut.exchange(:'worker_id', 'default', :'batch', 9);
select count(*) from ordinaut.exchange(:'worker_id', 'default', null, 0, array[:'batch', :'batch']::uuid[],
  array[:'good', :'bad']::uuid[], '{success,failed}', array['{"n": 2}', null], array[null, '{"message": "broken", "type": "Oops"}'], '{2500000,0}',
  p_notes => jsonb_build_array(jsonb_build_object('lease_id', :'batch', 'work_id', :'held', 'event', 'progress', 'data', '{"percent": 40}'::jsonb)));
select run_id as parked from ordinaut.enqueue('echo', p_key => 'k') \gset
select count(*) from ordinaut.exchange(:'worker_id', 'default', gen_random_uuid(), 9);
select run_id as waits from ordinaut.enqueue('echo') \gset
select run_id as later from ordinaut.enqueue('echo', p_delay => '1 hour') \gset
select run_id as other from ordinaut.enqueue('echo', p_queue => 'other') \gset
select ordinaut.cancel_run(:'other');

-- work: one row per unit, one status.
select test.eq((w.status, w.reason, w.locked_by)::text, e.expected, e.run_id || ' is ' || e.expected)
from (values (:'bad', '(failed,failed,)'), (:'good', '(completed,success,)'), (:'held', '(running,,host:1)'),
  (:'parked', '(parked,key,)'), (:'waits', '(pending,,)'), (:'later', '(pending,,)'), (:'other', '(cancelled,cancelled,)')) as e (run_id, expected)
join ordinaut.work as w on w.work_id = e.run_id::uuid;
select test.eq(count(*), 7::bigint, 'each once') from ordinaut.work;
select test.eq(w.locked_until, ordinaut.now() + '60 s', 'as long as its worker is seen') from ordinaut.work as w where w.status = 'running';

-- run: the same as people speak of it.
select test.eq((r.state, r.output, r.finished_at - r.enqueued_at, r.worker_id = :'worker_id')::text, '(success,"{""n"": 2}",00:00:00,t)', 'a success')
from ordinaut.run as r where r.run_id = :'good';
select test.eq((r.state, r.error ->> 'type')::text, '(failed,Oops)', 'a failure') from ordinaut.run as r where r.run_id = :'bad';
select test.eq((r.state, r.progress ->> 'percent')::text, '(running,40)', 'how far it is') from ordinaut.run as r where r.run_id = :'held';
select test.eq((r.state, r.reason)::text, '(waiting,key)', 'what waits for more than time') from ordinaut.run as r where r.run_id = :'parked';

-- queue_depth.
select test.eq((d.ready, d.future, d.parked, d.running, d.workers)::text, '(1,1,1,1,1)', 'what each queue holds')
from ordinaut.queue_depth as d where d.queue = 'default';

-- worker_status.
select test.eq((w.name, w.state, w.leases, w.units, w.concurrency)::text, '(host:1,alive,1,1,4)', 'who works on what') from ordinaut.worker_status as w;
select test.travel('61 s');
select test.eq(w.state, 'silent', 'and who does not any more') from ordinaut.worker_status as w;

-- late: what is due and nobody took, and what nobody fired.
select test.eq(array_agg(l.id), array[:'waits']::uuid[], 'the work') from ordinaut.late as l;
select test.travel('10 s');
select test.eq(array_agg(l.id order by l.what), array[:'task_id', :'waits']::uuid[], 'and the task, ten seconds after its time') from ordinaut.late as l;

-- failing.
select test.eq((f.tool, f.failed, f.ended, f.last_error)::text, '(bad,1,1,"Max retries exhausted (1 of 1): broken")', 'what fails, and how')
from ordinaut.failing as f;
select test.travel('25 hours');
select test.eq(count(*), 0::bigint, 'of the last day') from ordinaut.failing;

-- list_runs and find_run.
select test.eq(array_agg(r.run_id), array[:'bad']::uuid[], 'by state') from ordinaut.list_runs(p_state => 'failed') as r;
select test.eq(count(*), 1::bigint, 'by queue') from ordinaut.list_runs(p_queue => 'other') as r;
select test.eq(count(*), n, 'so many: ' || n) from generate_series(1::bigint, 7) as n, ordinaut.list_runs(p_limit => n::integer) as r group by n;
select test.eq(array_agg(r.run_id), array[:'held']::uuid[], 'what runs is not what its lease has settled') from ordinaut.list_runs(p_state => 'running') as r;
select test.eq(count(*), 0::bigint, 'since then') from ordinaut.list_runs(p_since => ordinaut.now()) as r;
select test.eq(f, :'good'::uuid, 'by the end of its id') from ordinaut.find_run(right(:'good', 12)) as f;

-- run_history: every transition, whatever table it comes from.
select run_id from ordinaut.enqueue('echo', p_queue => 'history', p_retry => '{"jitter": 0}') \gset
select test.travel('1 s');
select lease_id from ordinaut.lease_work('ann', 'history') \gset
select test.travel('1 s');
select ordinaut.log_work(:'lease_id', :'run_id', 'log', '{"line": "hello"}');
select test.travel('1 s');
select ordinaut.fail_work(:'lease_id', p_error => 'broken');
select test.travel('1 s');
select lease_id from ordinaut.lease_work('ann', 'history') \gset
select test.travel('1 s');
select ordinaut.release_work(:'lease_id', p_note => 'deploy');
select test.travel('1 s');
select lease_id from ordinaut.lease_work('ann', 'history') \gset
select test.travel('1 s');
select ordinaut.complete_work(:'lease_id', p_output => '{"ok": true}');
select test.eq(array_agg(h.event || '>' || coalesce(h.state, '-') || ' ' || coalesce(h.attempt::text, '') order by h.at),
  array['enqueued>pending 0', 'log>- ', 'failed>pending 1', 'released>pending 2', 'started>running 3', 'finished>success 3'], 'in order')
from ordinaut.run_history(:'run_id') as h;
select test.eq(count(*), 0::bigint, 'no such run, no history') from ordinaut.run_history(gen_random_uuid());
select test.throws('22023', format('select ordinaut.log_work(%L, %L, ''gossip'', ''{}'')', :'batch', :'held'), 'a tool logs and reports progress, no more');

rollback;
