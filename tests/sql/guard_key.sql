-- A key has its slots, in line, until its runs end; a sweep mends what a settle had to leave.
\ir _begin.sql

create function test.holds(p_key text)
returns text[]
language sql
as $fn$
  select coalesce(array_agg(coalesce(right(p.tool, 1), right(l.tool, 1), right(w.tool, 1), '?') order by h.slot), '{}')
  from ordinaut.hold as h
  left join ordinaut.parked as p on p.run_id = h.run_id
  left join ordinaut.due_work as w on w.run_id = h.run_id
  left join (select u.run_id, u.tool from ordinaut.lease as i cross join unnest(i.work) as u
    where u.work_id <> all (i.settled)) as l on l.run_id = h.run_id
  where h.key = p_key and h.slot >= 1;
$fn$;

create function test.parked(p_key text)
returns text[]
language sql
as $fn$
  select coalesce(array_agg(right(p.tool, 1) || ' ' || p.reason order by p.priority, p.run_at, p.work_id), '{}')
  from ordinaut.parked as p where p.key = p_key;
$fn$;

create function test.take(p_queue text, p_n integer default 9)
returns text
language sql
as $fn$
  select string_agg(right(l.tool, 1), '' order by l.tool) from ordinaut.lease_work('w', p_queue, p_n) as l;
$fn$;

create function test.settle(p_tool text, p_outcome text default 'success')
returns text
language sql
as $fn$
  select s.outcome
  from ordinaut.lease as l cross join unnest(l.work) as u
  cross join lateral ordinaut._settle_alone(l.lease_id, u.work_id, p_outcome, null, '{}') as s
  where u.tool = p_tool and u.work_id <> all (l.settled);
$fn$;

create function test.line(p_queue text, p_items text)
returns bigint
language sql
as $fn$
  select count(*) from ordinaut.enqueue_many(p_items::jsonb, 'x', p_queue);
$fn$;

-- One slot, in line.
select test.line('one', '[{"tool": "ta", "key": "k"}, {"tool": "tb", "key": "k"}, {"tool": "tc", "key": "k"}, {"tool": "td", "key": "other"},
  {"tool": "te"}]');
select test.eq(test.take('one'), 'ade', 'one of each key, and who has none');
select test.eq(test.parked('k'), array['b key', 'c key'], 'the others wait in line');
select test.eq(test.holds('k'), array['a'], 'for its slot');
select test.line('one', '[{"tool": "tf", "key": "k", "priority": 1}]');
select test.ok(test.take('one') is null, 'a newcomer does not overtake');
select test.eq(test.parked('k'), array['f key', 'b key', 'c key'], 'but its priority counts in line');
select test.settle('ta', 'released');
select test.eq(test.holds('k'), array['a'], 'a run that goes back keeps its slot');
select test.eq(test.take('one'), 'a', 'and is leased with it');
select test.settle('td');
select test.eq(test.holds('k'), array['a'], 'another key''s end is nothing to it');
select test.settle('te');
select test.travel('1 s');
select test.settle('ta');
select test.eq(test.holds('k'), array['f'], 'its end hands the slot to the first in line');
select test.eq(test.parked('k'), array['b key', 'c key'], 'who leaves the line');
select test.eq((select w.run_at from ordinaut.due_work as w where w.tool = 'tf'), ordinaut.now(), 'and is due now');
select test.line('one', '[{"tool": "tg", "key": "k"}]');
select test.eq(test.take('one'), 'f', 'it alone');

-- Parked for its tool, a run is in nobody's line; with a time to come it keeps that.
select test.settle('tf', 'declined');
select test.eq(test.parked('k'), array['f tool', 'b key', 'c key', 'g key'], 'it lacks its tool, and keeps its slot');
select ordinaut._promote_key('k');
select test.eq(test.parked('k'), array['f tool', 'b key', 'c key', 'g key'], 'no slot is free');
select ordinaut.cancel_run((select p.run_id from ordinaut.parked as p where p.tool = 'tf')) as c \gset
select test.eq(test.holds('k'), array['b'], 'a cancel ends its hold');
delete from ordinaut.hold as h where h.key = 'k';
update ordinaut.parked as p set reason = 'tool' where p.tool = 'tc';
delete from ordinaut.due_work as w where w.key = 'k';
select ordinaut._promote_key('k');
select test.eq(test.holds('k'), array['g'], 'who lacks its tool is passed over');
update ordinaut.parked as p set run_at = ordinaut.now() + interval '5 s' where p.tool = 'tc';
select ordinaut._unpark((select array_agg(p.work_id) from ordinaut.parked as p where p.tool = 'tc'));
select test.eq((select w.run_at from ordinaut.due_work as w where w.tool = 'tc'), ordinaut.now() + interval '5 s', 'not before its time');

-- Three slots, others' slots are not its own.
select test.line('many', (select jsonb_agg(jsonb_build_object('tool', 't' || n, 'key', 'm', 'key_limit', 3)) from generate_series(1, 6) as n)::text);
select test.line('many', '[{"tool": "t7", "key": "n", "key_limit": 2}]');
select test.eq(test.take('many'), '1237', 'three, and one of another key');
select test.eq(test.holds('m'), array['1', '2', '3'], 'each its slot');
select test.settle('t2');
select test.eq(test.holds('m'), array['1', '4', '3'], 'the free one is taken');
select test.settle('t1'), test.settle('t3');
select test.eq(test.holds('m'), array['5', '4', '6'], 'and both');
select test.eq((select h.slot from ordinaut.hold as h where h.key = 'n'), 1, 'as of the other');
select test.line('many', '[{"tool": "t8", "key": "m", "key_limit": 4}, {"tool": "t9", "key": "m", "key_limit": 4}]');
select test.eq(test.take('many'), '4568', 'one more by its own limit');
select test.eq(test.parked('m'), array['9 key'], 'one waits');

-- Names are not slots; a greater limit is no way past the line; who lacks a tool is not in it.
select test.line('same', '[{"tool": "ta", "key": "x", "idempotency_key": "x"}, {"tool": "tb", "key": "x"}]');
select test.eq(test.take('same'), 'a', 'an idempotency key of the same name is no slot');
select test.travel('1 s');
select test.line('same', '[{"tool": "tc", "key": "x", "key_limit": 3}]');
select test.ok(test.take('same') is null, 'nobody passes');
select ordinaut._settle_alone(l.lease_id, null, 'success', null, null) from ordinaut.lease as l where l.queue = 'same';
select test.eq(test.holds('x'), array['b', 'c'], 'its end frees its slot, and the line moves');
select test.eq((select count(*) from ordinaut.hold as h where h.key = 'x' and h.slot = 0), 1, 'and not its idempotency key');
select test.line('lack', '[{"tool": "ta", "key": "y", "key_limit": 2}]');
select test.eq(test.take('lack'), 'a', 'one');
select ordinaut._settle_alone(l.lease_id, null, 'declined', null, '{}') from ordinaut.lease as l where l.queue = 'lack';
select test.line('lack', '[{"tool": "tb", "key": "y", "key_limit": 2}]');
select test.eq(test.take('lack'), 'b', 'the other does not wait for its tool');

-- A hold that waits in an enqueued run's name counts for it: the same run takes no second slot.
select test.settle('t4', 'released');
select test.eq(test.take('many'), '4', 'it comes back');
select test.eq(test.holds('m'), array['5', '4', '6', '8'], 'to its slot');

-- What a lost race leaves, the sweep mends.
select test.settle('t5'), test.settle('t6');
select test.eq(test.holds('m'), array['9', '4', '8'], 'nine moved up');
select test.line('sweep', '[{"tool": "ta", "key": "s"}, {"tool": "tb", "key": "s"}, {"tool": "tc", "key": "s2"}, {"tool": "td", "key": "s2"},
  {"tool": "te", "key": "s3"}, {"tool": "tf", "key": "s4", "key_limit": 2}, {"tool": "tg", "idempotency_key": "s"}]');
select test.eq(test.take('sweep'), 'acefg', 'one of each');
select test.settle('tf', 'released');
select test.settle('te', 'declined');
select ordinaut._sweep_holds() as n \gset
select test.eq(:n, 0, 'nothing is amiss');
select test.eq((select count(*) from ordinaut._ended_holds()), 0, 'no slot is without its run');
select test.eq(test.holds('s') || test.holds('s2') || test.holds('s3') || test.holds('s4'), array['a', 'c', 'e', 'f'], 'all stay');
delete from ordinaut.hold as h where h.key = 's' and h.slot >= 1;
select test.eq(ordinaut._sweep_holds(), 1, 'a slot that nobody has is handed on');
select test.eq(test.holds('s'), array['b'], 'to the first in line');
update ordinaut.hold as h set run_id = gen_random_uuid() where h.key = 's2';
insert into ordinaut.hold (key, slot, run_id) values ('s4', 2, gen_random_uuid()), ('s5', 1, gen_random_uuid());
select test.eq((select array_agg(h.key || h.slot order by h.key) from ordinaut._ended_holds() as h), array['s21', 's42', 's51'], 'whose run is gone');
select test.eq(ordinaut._sweep_holds(), 1, 'is released, and handed on');
select test.eq(test.holds('s2'), array['d'], 'the next');
select test.eq(test.holds('s4'), array['f'], 'the dead one, not the living');
select test.eq(test.holds('s5'), '{}', 'and nobody''s');
select test.eq((select count(*) from ordinaut.hold as h where h.key = 's' and h.slot = 0), 1, 'an idempotency key is no slot');
select test.settle('tg');
select test.ok((select h.held_until > ordinaut.now() from ordinaut.hold as h where h.key = 's' and h.slot = 0), 'and lives on');
select test.eq(test.holds('s'), array['b'], 'alone');

-- A settled unit of a lease that stands holds nothing; one with both keys ends both.
select test.line('both', '[{"tool": "ta", "key": "b1", "idempotency_key": "i1"}, {"tool": "tb", "key": "b2", "idempotency_key": "i2"},
  {"tool": "tc", "key": "b1"}]');
select test.eq(test.take('both'), 'ab', 'two');
select ordinaut._settle_alone(l.lease_id, u.work_id, 'success', null, null)
  from ordinaut.lease as l cross join unnest(l.work) as u where l.queue = 'both' and u.tool = 'ta';
select test.eq((select array_agg(h.key order by h.key) from ordinaut.hold as h where h.held_until is not null and h.key ~ '^[bi]\d'), array['i1'], 'its own');
select test.eq(test.holds('b2'), array['b'], 'not its neighbour''s');
update ordinaut.hold as h set run_id = (select r.run_id from ordinaut.task_run as r where r.queue = 'both') where h.key = 'b1' and h.slot = 1;
select test.eq((select array_agg(h.key) from ordinaut._ended_holds() as h), array['b1'], 'which has ended');

rollback;
