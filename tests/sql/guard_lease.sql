-- A lease takes what is due in its queue, as it ranks, as far as it may.
\ir _begin.sql

create function test.take(p_queue text, p_n integer default 9, p_floors timestamptz[] default null)
returns text
language sql
as $fn$
  select string_agg(right(l.tool, 1), '' order by l.tool) from ordinaut.lease_work('w', p_queue, p_n, p_floors => p_floors) as l;
$fn$;

create function test.line(p_queue text, p_items text)
returns bigint
language sql
as $fn$
  select count(*) from ordinaut.enqueue_many(p_items::jsonb, 'x', p_queue);
$fn$;

-- Rank before age, and no more than asked.
select test.line('rank', '[{"tool": "ta", "priority": 9}]');
select test.travel('1 s');
select test.line('rank', '[{"tool": "tb", "priority": 5}, {"tool": "tc", "priority": 5}, {"tool": "td", "priority": 1}]');
select test.eq(test.take('rank', 2), 'bd', 'the highest, then the next, though the last is older');
select test.eq(test.take('rank', 1), 'c', 'then its fellow');
select test.eq(test.take('rank', 1), 'a', 'then it');
select test.eq((select array_agg(l.size order by l.size) from ordinaut.lease as l), array[1, 1, 2], 'three leases');

-- Floors: a hint that is followed, per priority, and never hides what comes now.
select test.line('floor', '[{"tool": "ta", "priority": 5}, {"tool": "tb", "priority": 6}]');
select test.travel('10 s');
select test.ok(test.take('floor', 9, array_fill(ordinaut.now() - interval '5 s', array[9])) is null, 'below the floor is not looked');
select test.eq(test.take('floor', 9, array[null, null, null, null, null, ordinaut.now()]::timestamptz[]), 'a', 'a priority without a floor is');
select test.travel('-9.96 s');
select test.eq(test.take('floor', 9, array_fill(ordinaut.now() + interval '1 h', array[9])), 'b', 'what came a moment ago always is');

-- A pause, and a limit, each of its queue.
select test.line('still', '[{"tool": "ta"}]'), test.line('other', '[{"tool": "tb"}]');
select ordinaut.pause_queue('still');
select test.ok(test.take('still') is null, 'paused');
select test.eq(test.take('other'), 'b', 'the other is not');
select ordinaut.set_queue('few', p_max_running => 2), ordinaut.set_queue('more', p_max_running => 5);
select test.line('few', '[{"tool": "ta"}, {"tool": "tb"}, {"tool": "tc"}]'),
  test.line('more', '[{"tool": "t1"}, {"tool": "t2"}, {"tool": "t3"}, {"tool": "t4"}, {"tool": "t5"}, {"tool": "t6"}]');
select test.eq(length(test.take('more')), 5, 'as many as may run');
select test.eq(length(test.take('few')), 2, 'each queue by its own limit');
select test.ok(test.take('few') is null, 'no more');
select ordinaut.complete_work(l.lease_id, (l.work[1]).work_id) from ordinaut.lease as l where l.queue = 'few';
select test.eq(length(test.take('few')), 1, 'an end makes room');

-- Suspects are leased alone; what is behind them waits.
select test.line('crash', '[{"tool": "ta"}, {"tool": "tb"}, {"tool": "tc"}, {"tool": "td"}]');
update ordinaut.due_work as w set crashes = 1 where w.tool = 'tc' and w.queue = 'crash';
select test.eq(test.take('crash'), 'ab', 'up to the suspect');
select test.eq(test.take('crash'), 'c', 'then it, alone');
select test.eq(test.take('crash'), 'd', 'then the rest');
select test.eq((select array_agg((u.attempt)) from ordinaut.lease as l cross join unnest(l.work) as u where l.queue = 'crash'),
  array[1, 1, 1, 1]::smallint[], 'each its first attempt');

-- While a suspect waits, its queue is leased in small bites; no other queue is.
select test.line(q.q, (select jsonb_agg('{"tool": "ta"}'::jsonb) from generate_series(1, 12))::text)
from (values ('bite'), ('calm'), ('soon')) as q (q);
update ordinaut.due_work as w set crashes = 1
where w.queue = 'bite' and w.run_at = (select max(x.run_at) from ordinaut.due_work as x where x.queue = 'bite');
select run_id as later from ordinaut.enqueue('ta', p_queue => 'soon', p_delay => '1 s') \gset
update ordinaut.due_work as w set crashes = 1 where w.run_id = :'later';
select test.eq(length(test.take('bite', 20)), 10, 'ten');
select test.eq(length(test.take('calm', 20)), 12, 'all');
select test.eq(length(test.take('soon', 20)), 12, 'a suspect that is not due is no hurry, nor leased');

-- A cancel that came while the unit moved is found by its next lease, and is for it alone.
select run_id as c1 from ordinaut.enqueue('ta', p_queue => 'stop') \gset
select run_id as c2 from ordinaut.enqueue('tb', p_queue => 'stop') \gset
select run_id as c3 from ordinaut.enqueue('tc', p_queue => 'elsewhere') \gset
insert into ordinaut.cancel_request (run_id, requested_by, requested_at, note)
values (:'c3', 'somebody', ordinaut.now(), 'third'), (:'c1', 'me', ordinaut.now(), 'first');
select test.eq(test.take('stop'), 'b', 'the other is leased');
select test.eq((select (r.state, r.error ->> 'message', r.error ->> 'note', r.attempt)::text from ordinaut.get_run(:'c1') as r),
  '(cancelled,"cancelled by me",first,0)', 'the one is cancelled, by who asked, before an attempt');
select test.eq((select array_agg(c.run_id) from ordinaut.cancel_request as c), array[:'c3']::uuid[], 'other requests stand');

-- A batch that had to be parked whole leaves no lease.
select test.line('key', (select jsonb_agg('{"tool": "ta", "key": "k"}'::jsonb) from generate_series(1, 25))::text);
select test.eq(test.take('key', 1), 'a', 'the first has the slot');
select test.eq((select count(*) from ordinaut.lease_work('w', 'key', 1)), 0, 'the others have not');
select test.eq((select count(*) from ordinaut.parked as p where p.queue = 'key'), 20, 'twenty looks are enough');
select test.eq((select count(*) from ordinaut.lease as l where l.queue = 'key' and l.size = 1), 1, 'one lease')
  , test.eq((select count(*) from ordinaut.lease as l where l.size = 0), 0, 'and no empty one');
select test.line('key', '[{"tool": "tb"}]');
select test.eq(test.take('key', 1), 'b', 'what is behind them is found');

rollback;
