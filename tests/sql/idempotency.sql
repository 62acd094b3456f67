-- The same enqueue twice is one run, for as long as its key is asked to live.
\ir _begin.sql

select run_id, outcome from ordinaut.enqueue('mail', p_idempotency_key => 'order 1', p_idempotent_for => '1 hour') \gset
select test.eq(:'outcome', 'new', 'the first is new');
select test.eq((q.run_id = :'run_id', q.outcome)::text, '(t,existing)', 'the second is told of it')
from ordinaut.enqueue('other', '{"a": 1}', p_idempotency_key => 'order 1') as q;
select test.eq((select count(*) from ordinaut.work), 1, 'there is one unit');
select test.eq(r.idempotency_key, 'order 1', 'which knows its key') from ordinaut.get_run(:'run_id') as r;

select lease_id from ordinaut.lease_work('me') \gset
select ordinaut.complete_work(:'lease_id');
select test.travel('59 min 59 s');
select test.eq(q.outcome, 'existing', 'the key outlives its run') from ordinaut.enqueue('mail', p_idempotency_key => 'order 1') as q;
select test.travel('1 s');
select test.eq((q.outcome, q.run_id = :'run_id')::text, '(new,f)', 'and is free again')
from ordinaut.enqueue('mail', p_idempotency_key => 'order 1', p_idempotent_for => '0 s') as q;

-- In bulk: within the bulk, and against what exists.
select test.eq(array_agg(q.outcome order by q.ord), '{new,existing,existing,new}', 'a bulk tells of each item')
from ordinaut.enqueue_many(
  '[{"idempotency_key": "a"}, {"idempotency_key": "a"}, {"idempotency_key": "order 1"}, {}]', 'mail') as q;

-- While one of a key lives, more of it may be dropped.
select run_id from ordinaut.enqueue('sync', p_key => 'sync', p_if_busy => 'drop') \gset
select test.eq((q.run_id = :'run_id', q.outcome)::text, '(t,dropped)', 'one waits: dropped')
from ordinaut.enqueue('sync', p_key => 'sync', p_if_busy => 'drop') as q;
select lease_id from ordinaut.lease_work('me', p_limit => 99) limit 1 \gset
select test.eq((q.run_id = :'run_id', q.outcome)::text, '(t,dropped)', 'one runs: dropped')
from ordinaut.enqueue('sync', p_key => 'sync', p_if_busy => 'drop', p_idempotency_key => 'now') as q;
select ordinaut.complete_work(:'lease_id');
select test.eq(q.outcome, 'new', 'what was dropped left its idempotency key free')
from ordinaut.enqueue('sync', p_key => 'sync', p_if_busy => 'drop', p_idempotency_key => 'now') as q;

select test.throws('22023', format('select ordinaut.enqueue(''mail'', %s)', a), 'refused: ' || left(a, 60))
from unnest(array['p_idempotency_key => ''''', 'p_idempotency_key => repeat(''x'', 501)', 'p_key => ''''',
  'p_idempotency_key => ''k'', p_idempotent_for => ''-1 s''', 'p_key => ''k'', p_key_limit => 0',
  'p_idempotency_key => ''k'', p_idempotent_for => null', 'p_key => ''k'', p_if_busy => ''perhaps''']) as a;

rollback;
