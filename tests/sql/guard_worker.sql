-- A worker lives while it is seen; what it leaves goes back once, charged when it died.
\ir _begin.sql

create function test.beat(p_id uuid, p_leases uuid[] default null)
returns text[]
language sql
as $fn$
  select coalesce(array_agg(h.kind || coalesce(' ' || array_position(p_leases, h.lease_id), '') order by h.kind, array_position(p_leases, h.lease_id)), '{}')
  from ordinaut.heartbeat(p_id, '1 min', p_leases) as h;
$fn$;

create function test.leased(p_worker uuid, p_lease uuid, p_limit integer, p_queue text default 'default')
returns uuid[]
language sql
as $fn$
  select array_agg(x.work_id order by x.run_at, x.work_id)
  from ordinaut.exchange(p_worker, p_queue, p_lease, p_limit) as x where x.kind = 'work';
$fn$;

create function test.charges(p_units uuid[])
returns integer[]
language sql
as $fn$
  select array_agg((select w.crashes::integer from ordinaut.due_work as w where w.work_id = u.id) order by u.n)
  from unnest(p_units) with ordinality as u (id, n);
$fn$;

select gen_random_uuid() as me, gen_random_uuid() as you, '00000000-0000-4000-8000-000000000001'::uuid as l1, gen_random_uuid() as l2, '00000000-0000-4000-8000-000000000003'::uuid as l3,
  gen_random_uuid() as l4, gen_random_uuid() as l5, gen_random_uuid() as y1, gen_random_uuid() as y2 \gset

-- Registering.
select test.throws('OR090', $$select ordinaut.register_worker(gen_random_uuid(), '{q}', '{a}', p_api => 0)$$, 'too old');
select test.throws('OR090', $$select ordinaut.register_worker(gen_random_uuid(), '{q}', '{a}', p_api => 99)$$, 'too new');
select test.throws('22023', $$select ordinaut.register_worker(null, '{q}', '{a}')$$, 'no id');
select test.throws('22023', $$select ordinaut.register_worker(gen_random_uuid(), '{}', '{a}')$$, 'no queue');
select test.throws('22023', $$select ordinaut.register_worker(gen_random_uuid(), '{q}', null)$$, 'no tools');
select test.throws('22023', $$select ordinaut.register_worker(gen_random_uuid(), array_fill('q'::text, '{1001}'), '{a}')$$, 'queues without end');
select test.throws('22023', $$select ordinaut.register_worker(gen_random_uuid(), '{q}', array_fill('a'::text, '{10001}'))$$, 'tools without end');
select test.throws('22023', format($$select ordinaut.register_worker(gen_random_uuid(), '{q}', %L)$$, array[t]), 'no name of a tool') from unnest(array[null, '', ' ', repeat('a', 201), E'a\n']) as t;
select test.throws('22023', $$select ordinaut.register_worker(gen_random_uuid(), '{q}', '{a}', repeat('x', 501))$$, 'a name without end');
select test.throws('22023', $$select ordinaut.register_worker(gen_random_uuid(), '{q}', '{a}', p_version => repeat('x', 501))$$, 'a version without end');
select test.throws('22023', format($$select ordinaut.register_worker(gen_random_uuid(), '{q}', '{a}', p_concurrency => %L)$$, n), 'so many at once') from unnest(array[null, -1, 100001]) as n;
select test.throws('22023', $$select ordinaut.deregister_worker(gen_random_uuid(), 'lost')$$, 'not stopped, not dead');
select test.throws('22023', $$select ordinaut.deregister_worker(gen_random_uuid(), null)$$, 'nor nothing');
select ordinaut.register_worker(:'me', '{default}', '{a}'), ordinaut.register_worker(:'you', '{yours}', '{a}');
select ordinaut.register_worker(:'me', '{default,more}', '{a}');
select test.eq((select w.queues from ordinaut.worker as w where w.worker_id = :'me'), '{default,more}', 'again, with more');
select test.eq((select w.queues from ordinaut.worker as w where w.worker_id = :'you'), '{yours}', 'which is mine');

-- Tools: parked until a live worker of the queue has one.
select test.ok(ordinaut._tool_matches('{a,python:*}', 'a') and ordinaut._tool_matches('{a,python:*}', 'python:x.y'), 'by name, and by its beginning');
select test.ok(not ordinaut._tool_matches('{a,python:*}', 'b') and not ordinaut._tool_matches('{ab}', 'abc')
  and not ordinaut._tool_matches('{a,pythonX}', 'python:x'), 'no other');
select run_id as p1 from ordinaut.enqueue('t1', p_queue => 'tools') \gset
select run_id as p2 from ordinaut.enqueue('t2', p_queue => 'tools') \gset
select run_id as p3 from ordinaut.enqueue('t1', p_queue => 'tools2') \gset
select run_id as p4 from ordinaut.enqueue('t1', p_queue => 'tools', p_key => 'k') \gset
select run_id as p5 from ordinaut.enqueue('t1', p_queue => 'tools', p_key => 'k', p_delay => '1 ms') \gset
select ordinaut._settle(lease_id, array[:'p1', :'p2']::uuid[], '{declined,declined}', '{null,null}', '{null,null}', '{1,1}', ordinaut.now())
  from (select distinct lease_id from ordinaut.lease_work('w', 'tools', 3)) as l;
select ordinaut._settle(lease_id, array[:'p3']::uuid[], '{declined}', '{null}', '{null}', '{1}', ordinaut.now())
  from ordinaut.lease_work('w', 'tools2') as l;
select test.travel('2 ms');
select count(*) from ordinaut.lease_work('w', 'tools');
select test.eq((select count(*) from ordinaut.parked as p), 4, 'three lack their tool, one waits for its key');
select ordinaut.register_worker(gen_random_uuid(), '{tools}', '{t1}', p_ttl => '10 s');
select test.eq((select array_agg(p.work_id order by p.queue, p.reason desc) from ordinaut.parked as p), array[:'p2', :'p5', :'p3']::uuid[],
  'one has come');
select ordinaut.register_worker(gen_random_uuid(), '{tools}', '{t3}');
select test.eq((select count(*) from ordinaut.parked as p), 3, 'this one helps nobody');
select test.travel('11 s');
select test.ok(not ordinaut._has_tool('tools', 't1'), 'the first has not been seen for long');
delete from ordinaut.worker as w where w.queues = '{tools}';

select ordinaut.complete_work(l.lease_id) from ordinaut.lease as l;

-- Leases unknown to their worker.
select count(*) from ordinaut.enqueue_many((select jsonb_agg('{}'::jsonb) from generate_series(1, 8)), 'a');
select count(*) from ordinaut.enqueue_many((select jsonb_agg('{}'::jsonb) from generate_series(1, 2)), 'a', 'yours');
select test.leased(:'me', :'l1', 2) as u1, test.leased(:'me', :'l2', 2) as u2, test.leased(:'you', :'y1', 2, 'yours') as uy \gset
select test.travel('1 s');
select test.eq(test.beat(:'me', array[:'l1', :'l2']::uuid[]), '{}', 'all known');
select test.travel('1 s');
select test.leased(:'me', :'l3', 2) as u3 \gset
select test.eq(test.beat(:'me', array[:'l1', gen_random_uuid(), :'y1']::uuid[]), array['lost 2', 'lost 3', 'sweep'], 'one it lost, one is another''s');
select test.eq((select array_agg(l.lease_id order by l.leased_at, l.lease_id = :'y1') from ordinaut.lease as l), array[:'l1', :'y1', :'l3']::uuid[],
  'the unknown went back, not the young, nor another''s');
select test.eq(test.charges(:'u2'), array[0, 0], 'uncharged');
select test.eq(test.beat(:'me'), '{}', 'without a list nothing is compared');
select test.eq((select count(*) from ordinaut.lease), 3, 'and all stand');
select test.throws('OR022', 'select ordinaut.heartbeat(gen_random_uuid(), p_lease_ids => $${}$$)', 'a worker that is not here');
select test.throws('OR001', 'select ordinaut.heartbeat(gen_random_uuid())', 'or a lease');
select test.travel('1 s');
select test.beat(:'me');
select test.eq((select w.seen_at from ordinaut.worker as w where w.worker_id = :'me'), ordinaut.now(), 'who beats is seen');
select test.ok((select w.seen_at < ordinaut.now() from ordinaut.worker as w where w.worker_id = :'you'), 'who does not is not');

-- Cancels and sweeps are told to whom they concern.
select ordinaut.complete_work(:'l3', (:'u3'::uuid[])[1]);
insert into ordinaut.cancel_request (run_id, requested_by, requested_at)
select u.id, 'x', ordinaut.now() from unnest(:'u3'::uuid[] || (:'u1'::uuid[])[1] || (:'uy'::uuid[])[1]) as u (id);
select test.eq(test.beat(:'me'), array['cancel', 'cancel'], 'mine, not what has ended');
select test.eq(test.beat(:'you'), array['cancel'], 'yours');
delete from ordinaut.cancel_request;
select test.eq(test.beat(:'me'), '{}', 'no more');
select test.travel('1 s');
select ordinaut._ask_sweep('nobodys');
select test.eq(test.beat(:'me') || test.beat(:'you'), '{}', 'a queue of neither');
select test.travel('2 s');
select ordinaut._ask_sweep('more');
select test.eq(test.beat(:'you'), '{}', 'not yours');
select test.travel('1 s');
select test.eq(test.beat(:'me'), array['sweep'], 'mine');
select test.eq(test.beat(:'me'), '{}', 'once');

-- Ad-hoc leases are extended, never cut, and only while they stand.
select lease_id as adhoc, work_id as adhoc_unit from ordinaut.lease_work('hand', 'default', 2, '10 min') limit 1 \gset
select lease_id as other from ordinaut.lease_work('hand', 'default', 1, '2 min') \gset
select test.eq(test.beat(:'adhoc'), '{}', 'it lives');
select test.eq((select l.expires_at from ordinaut.lease as l where l.lease_id = :'adhoc'), ordinaut.now() + interval '10 min', 'no shorter');
select count(*) from ordinaut.heartbeat(:'adhoc', '20 min');
select test.eq((select l.expires_at from ordinaut.lease as l where l.lease_id = :'adhoc'), ordinaut.now() + interval '20 min', 'longer');
select test.eq((select l.expires_at from ordinaut.lease as l where l.lease_id = :'other'), ordinaut.now() + interval '2 min', 'alone');
select test.throws('OR001', format('select ordinaut.heartbeat(%L)', :'l1'), 'a worker''s lease is not extended by hand');
select ordinaut.cancel_run(:'adhoc_unit') as c \gset
insert into ordinaut.cancel_request (run_id, requested_by, requested_at) values ((:'u1'::uuid[])[1], 'x', ordinaut.now());
select test.eq(test.beat(:'adhoc'), array['cancel'], 'its cancel is told');
select test.eq(test.beat(:'other'), '{}', 'to it alone');
select ordinaut.complete_work(:'adhoc', :'adhoc_unit');
insert into ordinaut.cancel_request (run_id, requested_by, requested_at) values (:'adhoc_unit', 'x', ordinaut.now());
select test.eq(test.beat(:'adhoc'), '{}', 'and not for what has ended');
delete from ordinaut.cancel_request;

-- Reaping: ad-hoc leases at their end, workers past their ttl, and nothing else.
select test.eq(ordinaut.reap(), 0, 'nobody is late');
select test.travel('2 min');
select test.beat(:'me'), test.beat(:'you');
select test.eq(ordinaut.reap(), 1, 'one ran out, at its end');
select test.eq((select count(*) from ordinaut.lease), 4, 'the others stand');
select test.eq((select count(*) from ordinaut.run_log as g where g.event = 'crashed' and g.detail ->> 'message' = 'the lease of hand ran out'), 1,
  'and it is told whose it was');
select test.travel('59 s');
select test.beat(:'you');
select test.eq(ordinaut.reap(), 0, 'not yet') ;
select test.travel('2 s');
select test.eq(ordinaut.reap(1), 2, 'one has not been seen for its ttl: a lease of two') ;
select test.eq((select array_agg(w.worker_id) from ordinaut.worker as w), array[:'you']::uuid[], 'and is gone');
select test.eq(ordinaut.reap(), 1, 'then its other lease, of which one unit is left');
select test.eq(test.charges(:'u1'), array[1, 1], 'all are charged');
select test.eq(test.charges((:'u3'::uuid[])[2:2]), array[1], 'each once');
select test.ok((select bool_or(h.detail ->> 'message' like 'its worker%') from ordinaut.run_history((:'u1'::uuid[])[1]) as h), 'with the reason');
select test.eq((select array_agg(l.lease_id) from ordinaut.lease as l where l.lease_id <> :'adhoc'), array[:'y1']::uuid[], 'who is seen keeps his');

-- Deregistering: uncharged, or charged; one's own, and what is not settled.
select ordinaut.complete_work(:'y1', (:'uy'::uuid[])[1]);
select ordinaut.register_worker(:'me', '{default}', '{a}');
select count(*) from ordinaut.enqueue_many((select jsonb_agg('{}'::jsonb) from generate_series(1, 2)), 'a', 'more');
select test.throws('22023', format('select test.leased(%L, %L, 2, %L)', :'me', :'l4', q), 'a queue that it has not declared') from unnest(array['more', null]) as q;
select ordinaut.register_worker(:'me', '{default,more}', '{a}');
select test.leased(:'me', :'l4', 2, 'more') as u4 \gset
select test.eq(ordinaut.deregister_worker(:'you'), 1, 'one was left');
select test.eq(test.charges((:'uy'::uuid[])[2:2]), array[0], 'it stopped');
select test.eq(ordinaut.deregister_worker(:'you'), 0, 'twice is nothing');
select test.eq((select array_agg(w.worker_id) from ordinaut.worker as w), array[:'me']::uuid[], 'others live');
select test.eq(ordinaut.deregister_worker(:'me', 'dead'), 2, 'two');
select test.eq(test.charges(:'u4'), array[1, 1], 'it died');

-- As many as asked, in whole leases.
select count(*) from ordinaut.enqueue_many((select jsonb_agg('{}'::jsonb) from generate_series(1, 6)), 'a', 'lots');
select count(*) from ordinaut.lease_work('hand', 'lots', 2, '1 s');
select count(*) from ordinaut.lease_work('hand', 'lots', 2, '1 s');
select count(*) from ordinaut.lease_work('hand', 'lots', 2, '1 s');
select test.travel('1 s');
select test.eq(ordinaut.reap(2), 2, 'one lease is two');
select test.eq(ordinaut.reap(), 4, 'two are four');

-- Leftovers: a request for a run that has ended goes, one for a run that lives stays.
insert into ordinaut.cancel_request (run_id, requested_by, requested_at)
values ((:'uy'::uuid[])[1], 'x', ordinaut.now()), ((:'uy'::uuid[])[2], 'x', ordinaut.now());
select ordinaut.reap();
select test.eq((select array_agg(c.run_id) from ordinaut.cancel_request as c), (:'uy'::uuid[])[2:2], 'the live one');

rollback;
