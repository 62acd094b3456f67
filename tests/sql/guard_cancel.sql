-- A cancel finds its run wherever it is, and no other.
\ir _begin.sql

select run_id as due from ordinaut.enqueue('a', p_queue => 'q') \gset
select run_id as held from ordinaut.enqueue('a', p_queue => 'h', p_key => 'k') \gset
select lease_id as lease from ordinaut.lease_work('w', 'h') \gset
select run_id as parked from ordinaut.enqueue('a', p_queue => 'h', p_key => 'k') \gset
select count(*) from ordinaut.lease_work('w', 'h');
select run_id as done from ordinaut.enqueue('a', p_queue => 'd') \gset
select ordinaut.complete_work(lease_id) from ordinaut.lease_work('w', 'd') as l;

select test.throws('OR020', 'select ordinaut.cancel_run(gen_random_uuid())', 'there is no such run, though there are others');
select test.eq((select count(*) from ordinaut.cancel_request), 0, 'and nothing is asked for');
select test.eq(ordinaut.cancel_run(:'done'), 'too_late', 'it has ended');
select test.eq((select count(*) from ordinaut.cancel_request), 0, 'and nothing is asked for it');
select test.eq(ordinaut.cancel_run(:'held', 'first'), 'requested', 'it runs');
select test.eq(ordinaut.cancel_run(:'held', 'again'), 'requested', 'asking again changes nothing');
select test.eq((select array_agg(c.note) from ordinaut.cancel_request as c where c.run_id = :'held'), array['first'], 'of who asked');
select test.eq(ordinaut.cancel_run(:'parked'), 'cancelled', 'it waits for its key');
select test.eq(ordinaut.cancel_run(:'due'), 'cancelled', 'it is due');
select test.eq(ordinaut.cancel_run(:'due'), 'too_late', 'once');
select test.eq((select array_agg(c.run_id) from ordinaut.cancel_request as c), array[:'held']::uuid[], 'one request is open');

rollback;
