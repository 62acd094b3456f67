-- After the server or its clock was away, silence proves nothing, and nothing is stranded.
\ir _begin.sql

select gen_random_uuid() as w1, gen_random_uuid() as l1, gen_random_uuid() as w2 \gset
delete from ordinaut.server_epoch;
select test.eq(ordinaut.reap(), 0, 'the first reap notes the server');
select test.eq((select (e.seen_since, e.clock_high)::text from ordinaut.server_epoch as e),
  (ordinaut.now() - interval '1 day', ordinaut.now())::text, 'of which silence counts as ever');
select ctid as at from ordinaut.server_epoch \gset
select test.travel('1 s');
select ordinaut.reap() as n \gset
select test.eq((select e.ctid from ordinaut.server_epoch as e)::text, :'at', 'within a second it writes nothing');
select test.travel('0.1 s');
select ordinaut.reap() as n \gset
select test.eq((select e.clock_high from ordinaut.server_epoch as e), ordinaut.now(), 'then it does');

-- A restart: for one ttl nobody is dead.
select ordinaut.register_worker(:'w1', '{q}', '{a}', p_ttl => '60 s');
select run_id as u1 from ordinaut.enqueue('a', p_queue => 'q') \gset
select count(*) from ordinaut.exchange(:'w1', 'q', :'l1', 1);
select test.travel('61 s');
update ordinaut.server_epoch as e set server_run = 'before';
select test.eq(ordinaut.reap(), 0, 'nobody could be seen');
select test.ok((select e.server_run <> 'before' and e.seen_since = ordinaut.now() from ordinaut.server_epoch as e), 'since now');
select test.travel('0.2 s');
update ordinaut.server_epoch as e set server_run = 'again';
select test.eq(ordinaut.reap(), 0, 'a restart right after');
select test.eq((select e.seen_since from ordinaut.server_epoch as e), ordinaut.now(), 'counts too');
select test.travel('60 s');
select test.eq(ordinaut.reap(), 0, 'for its ttl');
select test.travel('1 ms');
select test.eq(ordinaut.reap(), 1, 'no longer');

-- The clock steps back by an hour.
select ordinaut.register_worker(:'w1', '{q}', '{a}');
select run_id as now_1 from ordinaut.enqueue('a', p_queue => 'q') \gset
select run_id as wish from ordinaut.enqueue('a', p_queue => 'q', p_delay => '10 min') \gset
select run_id as soon from ordinaut.enqueue('a', p_queue => 'q', p_delay => '30 s') \gset
select lease_id as hand from ordinaut.lease_work('w', 'q', 1, '5 min') \gset
select ordinaut.now() as high \gset
select ordinaut.reap() as n \gset
select test.travel('-1 h');
select ordinaut.register_worker(:'w2', '{q}', '{a}');
select run_id as new_1 from ordinaut.enqueue('a', p_queue => 'q') \gset
select test.travel('1 s');
select run_id as beyond from ordinaut.enqueue('a', p_queue => 'q') \gset
update ordinaut.due_work as w set run_at = :'high'::timestamptz + interval '2 min' where w.run_id = :'beyond';
select ordinaut.reap() as n \gset
select test.eq((select w.run_at from ordinaut.due_work as w where w.run_id = :'now_1'), ordinaut.now(), 'what was due is due');
select test.ok((select w.run_at > ordinaut.now() + interval '1 h' from ordinaut.due_work as w where w.run_id = :'wish'), 'a wish stays a wish');
select test.eq((select w.run_at from ordinaut.due_work as w where w.run_id = :'soon'), :'high'::timestamptz + interval '30 s', 'though it was near');
select test.eq((select w.run_at from ordinaut.due_work as w where w.run_id = :'new_1'), ordinaut.now() - interval '1 s', 'what came since keeps its place');
select test.eq((select w.run_at from ordinaut.due_work as w where w.run_id = :'beyond'),   :'high'::timestamptz + interval '2 min', 'and so does what lies beyond');
select test.eq((select w.seen_at from ordinaut.worker as w where w.worker_id = :'w1'), ordinaut.now(), 'nobody lives on by a date to come');
select test.eq((select w.seen_at from ordinaut.worker as w where w.worker_id = :'w2'), ordinaut.now() - interval '1 s', 'who was seen since was seen then');
select test.eq((select (l.leased_at, l.expires_at)::text from ordinaut.lease as l where l.lease_id = :'hand'),
  (ordinaut.now(), ordinaut.now() + interval '5 min')::text, 'a lease lasts as long as it was to');
select test.eq((select count(*) from ordinaut.run_log as g where g.event = 'clock_stepped_back'), 1, 'it is told');
select test.eq((select e.clock_high from ordinaut.server_epoch as e), ordinaut.now(), 'and over');
select ordinaut.reap() as n \gset
select test.eq((select count(*) from ordinaut.run_log as g where g.event = 'clock_stepped_back'), 1, 'once');
select lease_id as young from ordinaut.lease_work('w', 'q', 1, '5 min') \gset
select test.travel('-1 s');
select ordinaut.reap() as n \gset
select test.eq((select count(*) from ordinaut.run_log as g where g.event = 'clock_stepped_back'), 1, 'a second is no step');
select test.travel('-30 s');
update ordinaut.lease as l set leased_at = ordinaut.now() - interval '1 min', expires_at = ordinaut.now() + interval '4 min' where l.lease_id = :'hand';
select ordinaut.reap() as n \gset
select test.eq((select count(*) from ordinaut.run_log as g where g.event = 'clock_stepped_back'), 2, 'half a minute is');
select test.eq((select l.leased_at from ordinaut.lease as l where l.lease_id = :'hand'), ordinaut.now() - interval '1 min', 'an older lease is as it was');

-- Workers that were not seen since before the step are dead a ttl after it.
delete from ordinaut.lease;
select test.eq((select min(e.seen_since) <= ordinaut.now() from ordinaut.server_epoch as e), true, 'silence counts from the past');

rollback;
