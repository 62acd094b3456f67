-- Keys, queues and limits hold work back, and what ends starts the next.
\ir _begin.sql

create function test.leased(p_queue text) returns text
language sql
as $fn$
  select string_agg(l.payload ->> 'n', ' ') from ordinaut.lease_work('me', p_queue, 99) as l;
$fn$;
create function test.done(p_n text) returns void
language sql
as $fn$
  select ordinaut.complete_work(w.lease_id, w.work_id)
  from ordinaut.work as w join ordinaut.run as r using (run_id)
  where r.payload ->> 'n' = p_n and w.status = 'running';
$fn$;
create function test.enqueued(p_n integer, p_more jsonb) returns bigint
language sql
as $fn$
  select count(*) from ordinaut.enqueue_many(
    (select jsonb_agg(p_more || jsonb_build_object('payload', jsonb_build_object('n', n))) from generate_series(1, p_n) as n),
    'echo');
$fn$;

-- At most so many of a key.
select test.enqueued(5, '{"queue": "keys", "key": "host a", "key_limit": 2}');
select test.eq(test.leased('keys'), '1 2', 'two of five run');
select test.eq((select count(*) from ordinaut.work where status = 'parked' and reason = 'key'), 3, 'three are parked');
select test.done('2');
select test.eq(test.leased('keys'), '3', 'one ends, one starts');
select test.eq(test.leased('keys'), null, 'and no more');
select test.done('1');
select test.eq(test.leased('keys'), '4', 'first in,');
select test.done('3');
select test.eq(test.leased('keys'), '5', 'first out');
select test.enqueued(1, '{"queue": "keys", "key": "host b"}');
select test.eq(test.leased('keys'), '1', 'another key is another matter');

-- A pause.
select test.enqueued(1, '{"queue": "slow"}');
select ordinaut.pause_queue('slow', 'deploying');
select test.eq(test.leased('slow'), null, 'a paused queue leases nothing');
select test.eq((d.ready, d.note, d.paused_at is not null)::text, '(1,deploying,t)', 'and says why')
from ordinaut.queue_depth as d where d.queue = 'slow';
select test.throws('22023', 'select ordinaut.pause_queue(''No Such Name'')', 'a queue has a name');
select ordinaut.resume_queue('slow');
select test.eq(test.leased('slow'), '1', 'until it is resumed');
select test.done('1');

-- Limits.
select ordinaut.set_queue('slow', p_max_running => 2, p_max_pending => 3);
select test.enqueued(3, '{"queue": "slow"}');
select test.throws('53400', 'select ordinaut.enqueue(''echo'', p_queue => ''slow'')', 'the queue is full');
select test.throws('53400', 'select ordinaut.enqueue_many(''[{}]'', ''echo'', ''slow'')', 'for a bulk too');
select test.eq(test.leased('slow'), '1 2', 'two run at once');
select test.eq(test.leased('slow'), null, 'not three');
select test.done('1');
select test.eq(test.leased('slow'), '3', 'until one ends');
select ordinaut.set_queue('slow');
select test.enqueued(9, '{"queue": "slow"}');
select test.eq(test.leased('slow'), '1 2 3 4 5 6 7 8 9', 'without limits all of it');

-- Later.
select run_id from ordinaut.enqueue('echo', '{"n": "later"}', 'timed', p_delay => '1 hour') \gset
select ordinaut.enqueue('echo', '{"n": "at"}', 'timed', p_run_at => '2026-03-27 13:59:30+01');
select test.eq(test.leased('timed'), null, 'neither is due');
select test.travel('59 min 59 s');
select test.travel('-31 s');
select test.eq(test.leased('timed'), null, 'nor a second before');
select test.travel('31 s');
select test.travel('1 s');
select test.eq(test.leased('timed'), 'at later', 'both at one, the earlier first');
select ordinaut.enqueue('echo', '{"n": "past"}', 'timed', p_run_at => '2020-01-01 00:00+00');
select test.eq((w.run_at, w.scheduled_for), (ordinaut.now(), '2020-01-01 00:00+00'::timestamptz),
  'a wish of the past is due now, and remembered') from ordinaut.work as w where w.status = 'pending' and w.queue = 'timed';

rollback;
