-- A large payload travels with its run wherever that goes, and leaves with it.
\ir _begin.sql

-- Random hex does not compress: 5 kB stay 5 kB.
select jsonb_build_object('text', string_agg(md5(n::text), '')) as large from generate_series(1, 160) as n \gset

select run_id from ordinaut.enqueue('echo', :'large', p_max_attempts => 2, p_retry => '{"base": "1 s", "jitter": 0}') \gset
select test.ok(w.payload is null, 'the hot table holds no large body') from ordinaut.due_work as w where w.run_id = :'run_id';
select test.eq(r.payload, :'large'::jsonb, 'it is there while the run waits') from ordinaut.get_run(:'run_id') as r;

select lease_id, payload = :'large'::jsonb as same from ordinaut.lease_work('me') \gset
select test.ok(:'same', 'it comes with the lease');
select test.eq(r.payload, :'large'::jsonb, 'it is there while the run runs') from ordinaut.get_run(:'run_id') as r;
select ordinaut.fail_work(:'lease_id', p_error => 'broken');
select test.travel('1 s');
select lease_id, payload = :'large'::jsonb as same from ordinaut.lease_work('me') \gset
select test.ok(:'same', 'and with the second attempt');
select ordinaut.fail_work(:'lease_id', p_error => 'broken');
select test.eq((r.state, r.payload = :'large'::jsonb)::text, '(failed,t)', 'and is in history') from ordinaut.get_run(:'run_id') as r;

select retried_as from ordinaut.retry_run(:'run_id') \gset
select lease_id, payload = :'large'::jsonb as same from ordinaut.lease_work('me') \gset
select test.ok(:'same', 'and with a retry of the run');
select ordinaut.release_work(:'lease_id');

-- A worker's exchange, a bulk, a task and a key answer it too.
select count(*) from ordinaut.enqueue_many(jsonb_build_array(jsonb_build_object('payload', :'large'::jsonb), '{}'::jsonb), 'echo', 'bulk');
select count(*) from ordinaut.enqueue_many(
  jsonb_build_array(jsonb_build_object('payload', :'large'::jsonb, 'key', 'k'), jsonb_build_object('payload', :'large'::jsonb, 'key', 'k')),
  'echo', 'keyed');
select ordinaut.create_task('big', 'echo', :'large', p_queue => 'task', p_schedule_kind => 'interval', p_schedule_expr => '1 s');
select test.travel('1 s');
select count(*) from ordinaut.tick();
select ordinaut.run_now('big');
select gen_random_uuid() as worker_id \gset
select ordinaut.register_worker(:'worker_id', '{bulk,keyed,task}', '{echo}');
select test.eq(array_agg(coalesce(e.payload = :'large'::jsonb, false) order by e.run_at), q.expected, 'through ' || q.queue)
from (values ('bulk', '{t,f}'::boolean[]), ('keyed', '{t}'), ('task', '{t,t}')) as q (queue, expected)
cross join lateral ordinaut.exchange(:'worker_id', q.queue, gen_random_uuid(), 9) as e
where e.kind = 'work'
group by q.queue, q.expected;
select test.eq(reason, 'key', 'a parked one') from ordinaut.work where status = 'parked';
select test.eq(r.payload, :'large'::jsonb, 'has it as well') from ordinaut.run as r where r.reason = 'key';

-- Results: what is too large is kept as a preview; one by one it is refused.
select test.eq(count(*), 0::bigint, 'large results are stored') from ordinaut.work as w
cross join lateral ordinaut.exchange(:'worker_id', 'bulk', null, 0, array[w.lease_id], array[w.work_id], '{success}',
  array[to_jsonb(repeat('x', 2000000))::text], '{null}', '{1}') as e where w.queue = 'bulk';
select test.eq((r.output -> 'truncated', r.output -> 'size', length(r.output ->> 'preview'))::text, '(true,2000002,1000)', 'cut to a preview')
from ordinaut.run as r where r.queue = 'bulk' limit 1;
select test.throws('54000', format('select ordinaut.complete_work(%L, %L, to_jsonb(repeat(''x'', 2000000)))', w.lease_id, w.work_id),
  'complete_work refuses it, and the lease stands') from ordinaut.work as w where w.queue = 'keyed' and w.status = 'running';
select test.eq(c.outcome, 'success', 'for a smaller one') from ordinaut.work as w, ordinaut.complete_work(w.lease_id, w.work_id, :'large') as c
where w.queue = 'keyed' and w.status = 'running';

-- A body just below the bound is kept inline, one above it is not; neither is kept twice.
select test.eq((select count(*) from ordinaut.payload as p join ordinaut.due_work as w using (run_id) where w.payload is not null), 0,
  'no run has its body twice');

rollback;
