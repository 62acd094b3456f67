-- A settle takes the units of its lease as they are told, once, and touches nothing else.
\ir _begin.sql

-- Lease all that is due in a queue; the units are a, b, c … in the order in which they came.
create function test.lend(p_queue text, p_n integer, p_item jsonb default '{}')
returns table (lease uuid, units uuid[])
language plpgsql
as $fn$
begin
  perform ordinaut.enqueue_many((select jsonb_agg(p_item) from generate_series(1, p_n)), 'a', p_queue);
  return query
  select l.lease_id, array_agg(l.work_id order by l.run_at, l.work_id)
  from ordinaut.lease_work('w', p_queue, 100) as l
  group by l.lease_id;
end
$fn$;

create function test.settle(p_lease uuid, p_units uuid[], p_outcomes text[],
  p_texts text[] default null, p_elapsed bigint default null)
returns text[]
language sql
as $fn$
  select coalesce(array_agg(s.kind || coalesce(' ' || array_position(p_units, s.work_id), '') order by s.kind, array_position(p_units, s.work_id)), '{}')
  from ordinaut._settle(p_lease, p_units, p_outcomes,
    array(select case when u.o = 'success' then u.t end from unnest(p_outcomes, p_texts) as u (o, t)),
    array(select case when u.o <> 'success' then u.t end from unnest(p_outcomes, p_texts) as u (o, t)),
    array_fill(p_elapsed, array[cardinality(p_units)]), ordinaut.now()) as s;
$fn$;

create function test.places(p_units uuid[])
returns text[]
language sql
as $fn$
  select array_agg(coalesce(
    (select 'due ' || extract(epoch from w.run_at - ordinaut.now())::numeric(20, 1) from ordinaut.due_work as w where w.work_id = u.id),
    (select 'parked ' || p.reason from ordinaut.parked as p where p.work_id = u.id),
    (select 'leased' from ordinaut.lease as l cross join unnest(l.work) as i
     where i.work_id = u.id and u.id <> all (l.settled)),
    (select r.state from ordinaut.task_run as r where r.run_id = u.id)) order by u.n)
  from unnest(p_units) with ordinality as u (id, n);
$fn$;

create function test.events(p_unit uuid)
returns text[]
language sql
as $fn$
  select array_agg(h.event) from ordinaut.run_history(p_unit) as h where h.event not in ('enqueued', 'started');
$fn$;

-- Every outcome, in one batch.
select lease as mix, units as m from test.lend('mix', 8, '{"retry": {"strategy": "fixed", "base": "7 s", "jitter": 0}}') \gset
select lease as rest, units as r from test.lend('rest', 2) \gset
select test.eq(test.settle(:'mix', :'m', array['success', 'failed', 'timed_out', 'crashed', 'released', 'snoozed', 'declined',
    'cancelled'], array['{"n": 1}', '{"message": "no"}', null, null, null, '{"retry_after": 9}', null, null], 5000000),
  '{}', 'what is as expected is not told');
select test.eq(test.places(:'m'), array['success', 'due 7.0', 'due 7.0', 'due 0.0', 'due 0.0', 'due 9.0', 'parked tool', 'due 0.0'],
  'each goes its way');
select test.eq(test.places(:'r'), array['leased', 'leased'], 'another lease stands');
select test.eq((select array_agg((w.failures, w.crashes)::text order by u.n)
    from unnest(:'m'::uuid[]) with ordinality as u (id, n) join ordinaut.due_work as w on w.work_id = u.id),
  array['(1,0)', '(1,0)', '(0,1)', '(0,0)', '(0,0)', '(0,0)'], 'and is charged what it cost');
select test.eq((select array_agg((test.events(u.id))[1] order by u.n) from unnest(:'m'::uuid[]) with ordinality as u (id, n)),
  array['finished', 'failed', 'timed_out', 'crashed', 'released', 'snoozed', 'declined', 'released'], 'history tells it');
select test.eq((select r.output from ordinaut.get_run((:'m'::uuid[])[1]) as r), '{"n": 1}', 'with its output');
select test.eq((select r.started_at from ordinaut.get_run((:'m'::uuid[])[1]) as r), ordinaut.now(), 'it began no earlier than its lease');
select test.ok((select q.sweep_requested_at = ordinaut.now() from ordinaut.queue as q where q.queue = 'mix'),
  'what went back in line is swept for');

-- A repeat is told so; a unit of another lease is refused.
select test.eq(test.settle(:'mix', :'m', array_fill('success'::text, array[8])),
  array['already 1', 'already 2', 'already 3', 'already 4', 'already 5', 'already 6', 'already 7', 'already 8'],
  'all were settled before, whatever came of them');
select test.eq(test.settle(gen_random_uuid(), :'m', array_fill('success'::text, array[8])), array['lost'], 'by this lease alone');
select test.throws('22023', format('select test.settle(%L, %L, %L)', :'rest', array[(:'r'::uuid[])[1], (:'m'::uuid[])[1]],
  '{success,success}'), 'a batch of the right size, with a stranger');
select test.throws('22023', format('select test.settle(%L, %L, %L)', :'rest', array[(:'m'::uuid[])[1]], '{success}'),
  'a part that is a stranger');
select test.throws('22023', format('select test.settle(%L, %L, %L)', :'rest', :'r', '{success,eaten}'), 'no such outcome');
select test.eq(test.places(:'r'), array['leased', 'leased'], 'which settles nothing');

-- Part by part, and the parts again.
select lease as part, units as p from test.lend('part', 4) \gset
select test.eq(test.settle(:'part', (:'p'::uuid[])[1:1], '{success}'), '{}', 'a part');
select test.eq(test.settle(:'part', (:'p'::uuid[])[1:1], '{failed}'), array['already 1'], 'the same part');
select test.eq(test.places(:'p'), array['success', 'leased', 'leased', 'leased'], 'the others stay');
select test.eq(test.settle(:'part', (:'p'::uuid[])[1:2], '{failed,failed}'), array['already 1'], 'a part that overlaps');
select test.eq(test.settle(:'part', :'p', array_fill('success'::text, array[4])), array['already 1', 'already 2'], 'and all');
select test.eq((test.places(:'p'))[3:4], array['success', 'success'], 'settles the rest');
select test.eq((select count(*) from ordinaut.lease as l where l.lease_id = :'part'), 0, 'it ended with its last unit');
select test.eq((select count(*) from ordinaut.lease as l where l.lease_id = :'rest'), 1, 'it alone');
select test.eq((select l.settled from ordinaut.lease as l where l.lease_id = :'rest'), '{}', 'and no other was changed');

-- What was taken back is lost, though its neighbours were settled, and though it left notes.
select lease as back, units as b from test.lend('back', 3) \gset
select test.eq(test.settle(:'back', (:'b'::uuid[])[1:2], '{success,failed}'), '{}', 'two of three');
select ordinaut.log_work(:'back', (:'b'::uuid[])[3], 'log', '{"line": "working"}') as l \gset
select ordinaut._dissolve(l, true, 'test') from ordinaut.lease as l where l.lease_id = :'back';
select test.eq(test.settle(:'back', (:'b'::uuid[])[3:3], '{success}'), array['lost'], 'the third is lost');
select test.eq(test.settle(:'back', :'b', '{success,success,success}'), array['already 1', 'already 2', 'lost'], 'it alone');
select test.eq(test.settle(:'back', (:'b'::uuid[])[1:1], '{success}'), array['already 1'], 'the first is not');

-- Results too long are cut; none is none.
select lease as long, units as l from test.lend('long', 3) \gset
select test.eq(test.settle(:'long', :'l', '{success,success,success}',
  array[to_jsonb(repeat('x', 1048574))::text, to_jsonb(repeat('x', 1048575))::text, null]), '{}', 'all are kept');
select test.eq((select array_agg(coalesce((r.output -> 'truncated')::text, jsonb_typeof(r.output), 'null') order by u.n)
  from unnest(:'l'::uuid[]) with ordinality as u (id, n) cross join lateral ordinaut.get_run(u.id) as r),
  array['string', 'true', 'null'], 'as far as they fit');
select lease as err, units as e from test.lend('err', 2, '{"max_attempts": 1}') \gset
select test.eq(test.settle(:'err', :'e', '{failed,failed}', array['"plain"',
  jsonb_build_object('message', 'm', 'extra', (select string_agg(md5(n::text), '') from generate_series(1, 4000) as n))::text]),
  '{}', 'errors too');
select test.eq((select array_agg((r.error -> 'message')::text || coalesce(r.error ->> 'truncated', '') order by u.n)
  from unnest(:'e'::uuid[]) with ordinality as u (id, n) cross join lateral ordinaut.get_run(u.id) as r),
  array['"Max retries exhausted (1 of 1): plain"', '"Max retries exhausted (1 of 1): m"true']::text[], 'in one shape');

-- Retries: how often, how soon.
select lease as tries, units as t from test.lend('tries', 6, '{"max_attempts": 2, "retry": {"strategy": "fixed", "base": "7 s", "jitter": 0}}') \gset
select test.eq(test.settle(:'tries', :'t', array_fill('failed'::text, array[6]), array[null, '{"retryable": false, "message": "m"}',
  '{"retry_after": 3}', '{"retry_after": -3}', '{"retry_after": null}', '{"retryable": null}']), '{}', 'six fail');
select test.eq(test.places(:'t'), array['due 7.0', 'failed', 'due 3.0', 'due 0.0', 'due 7.0', 'due 7.0'], 'each as it asks');
select test.eq((select r.error ->> 'message' from ordinaut.get_run((:'t'::uuid[])[2]) as r), 'm', 'no retry was wanted');
select test.travel('8 s');
select lease_id as again from ordinaut.lease_work('w', 'tries', 1) \gset
select test.eq((select array_agg(f.outcome) from ordinaut.fail_work(:'again', p_error => 'm') as f), array['failed'], 'twice is enough');
select test.eq((select array_agg(ordinaut._backoff(p.policy::jsonb, p.n) order by p.i) from (values
    (1, '{"jitter": 0}', 1), (2, '{"jitter": 0}', 3), (3, '{"jitter": 0}', 30), (4, '{"jitter": 0, "factor": 3}', 3),
    (5, '{"jitter": 0, "strategy": "linear", "base": "2 s"}', 3), (6, '{"jitter": 0, "strategy": "fixed", "base": "2 s"}', 3),
    (7, '{"jitter": 0, "strategy": "linear", "cap": "5 s"}', 9), (8, '{"jitter": 0, "cap": "100000 days"}', 900)) as p (i, policy, n)),
  array['1 s', '4 s', '60 s', '9 s', '6 s', '2 s', '5 s', '1000000000 s']::interval[], 'the waits are as the policy says');

-- Crashes: three, and the last alone.
select lease as c1, units as c from test.lend('crash', 1) \gset
select test.settle(:'c1', :'c', '{crashed}');
select test.travel('1 s');
select lease as c2 from test.lend('crash', 1) \gset
select test.eq((select array_agg(u.work_id) from ordinaut.lease as l cross join unnest(l.work) as u where l.lease_id = :'c2'),
  :'c'::uuid[], 'a suspect is leased alone');
select test.settle(:'c2', :'c', '{crashed}');
select test.ok((test.places(:'c'))[1] like 'due %', 'twice is not enough');
update ordinaut.due_work as w set crashes = 0 where w.work_id = (:'c'::uuid[])[1];
select lease_id as c3 from ordinaut.lease_work('w', 'crash', 2) limit 1 \gset
update ordinaut.lease as l set work = array(select row(u.work_id, u.run_id, u.step, u.task_id, u.queue, u.priority, u.run_at,
  u.scheduled_for, u.enqueued_at, u.attempt, u.failures, 2, u.max_attempts, u.timeout, u.tool, u.key, u.key_limit,
  u.idempotency_key, u.retry, u.retry_of, u.payload, u.pipeline_id)::ordinaut.work_item from unnest(l.work) as u) where l.lease_id = :'c3';
select test.settle(:'c3', array(select u.work_id from ordinaut.lease as l cross join unnest(l.work) as u where l.lease_id = :'c3'),
  '{crashed,crashed}');
select test.eq((select count(*) from ordinaut.due_work as w where w.queue = 'crash' and w.crashes = 3), 2, 'in company nobody is blamed');
select lease_id as c4, work_id as c4u from ordinaut.lease_work('w', 'crash', 2) limit 1 \gset
select test.settle(:'c4', array[:'c4u']::uuid[], '{crashed}');
select test.eq(test.places(array[:'c4u']::uuid[]), array['abandoned'], 'alone it is');

-- A tool that a live worker has is not waited for.
select ordinaut.register_worker(gen_random_uuid(), '{tool}', '{a}') as w \gset
select lease as tool, units as o from test.lend('tool', 1) \gset
select test.settle(:'tool', :'o', '{declined}');
select test.eq(test.places(:'o'), array['due 1.0'], 'it is tried again in a second');
select test.eq((select count(*) from ordinaut.queue as q where q.queue = 'tool' and q.sweep_requested_at is not null), 0,
  'and nobody looks for it before');

-- Cancels: a success beats them, everything else does not, and each is for one run.
select lease as stop, units as s from test.lend('stop', 4) \gset
select ordinaut.cancel_run(u.id) from unnest((:'s'::uuid[])[1:3]) as u (id);
select test.settle(:'stop', (:'s'::uuid[])[1:2] || (:'s'::uuid[])[4], '{success,failed,failed}');
select test.eq((select array_agg(p.place order by p.n) from unnest(test.places(:'s')) with ordinality as p (place, n) where p.n < 4),
  array['success', 'cancelled', 'leased'], 'one by one');
select test.eq((select array_agg(c.run_id) from ordinaut.cancel_request as c), (:'s'::uuid[])[3:3], 'what is answered is forgotten');

-- Keys: a success frees its own; a failure keeps its slot for its next try.
select units as k from test.lend('key', 1, '{"key": "k1", "idempotency_key": "i1"}') \gset
select ordinaut.enqueue_many('[{"key": "k2", "idempotency_key": "i2"}, {"key": "k3"}, {"idempotency_key": "i4"}, {}]', 'a', 'key') as e \g /dev/null
select lease_id as key, array_agg(work_id order by key, (select w.idempotency_key from ordinaut.lease as l
  cross join unnest(l.work) as w where w.work_id = k.work_id)) as ks from ordinaut.lease_work('w', 'key', 9) as k group by lease_id \gset
select test.settle(:'key', :'ks', '{failed,success,success,success}');
select test.eq((select array_agg(h.key || h.slot order by h.key, h.slot) from ordinaut.hold as h where h.key ~ '^[ik]' and h.held_until is null),
  array['i10', 'i20', 'k11', 'k21'], 'slots and idempotency keys end with their runs');
select test.eq((select array_agg(h.key) from ordinaut.hold as h where h.held_until is not null), array['i4'], 'an idempotency key lives on');

-- One by one, by name or all.
select lease as one, units as n from test.lend('one', 3) \gset
select test.eq((select array_agg(c::text) from ordinaut.complete_work(:'one', (:'n'::uuid[])[2]) as c),
  array[format('(%s,success)', (:'n'::uuid[])[2])], 'one by name');
select test.eq((select array_agg(c::text) from ordinaut.fail_work(:'one', (:'n'::uuid[])[2]) as c),
  array[format('(%s,already)', (:'n'::uuid[])[2])], 'once');
select test.throws('54000', format('select ordinaut.complete_work(%L, null, %L)', :'one', to_jsonb(repeat('x', 1048575))),
  'a result over 1 MB is the caller''s to store');
select test.eq((select array_agg(c.outcome order by c.outcome) from ordinaut.fail_work(:'one') as c), array['retry', 'retry'], 'then the rest');
select test.throws('OR001', format('select ordinaut.fail_work(%L)', :'one'), 'and nothing is left');
select test.throws('OR001', format('select ordinaut.complete_work(%L, %L)', gen_random_uuid(), (:'n'::uuid[])[1]), 'nor elsewhere');
select lease as ways, units as y from test.lend('ways', 3) \gset
select test.eq((select c.outcome from ordinaut.release_work(:'ways', (:'y'::uuid[])[1]) as c), 'released', 'released');
select test.eq((select c.outcome from ordinaut.snooze_work(:'ways', (:'y'::uuid[])[2], '5 s') as c), 'snoozed', 'snoozed');
select ordinaut.cancel_run((:'y'::uuid[])[3]) as c \gset
select test.eq((select c.outcome from ordinaut.release_work(:'ways', (:'y'::uuid[])[3]) as c), 'cancelled', 'cancelled');
select lease as hard, units as h from test.lend('hard', 1) \gset
select test.eq((select c.outcome from ordinaut.fail_work(:'hard', p_retryable => false) as c), 'failed', 'failed');

-- The lease in a tool's own transaction.
select lease as own, units as w from test.lend('own', 2) \gset
select ordinaut.assert_lease(:'own', (:'w'::uuid[])[1]);
select test.throws('OR001', format('select ordinaut.assert_lease(%L, %L)', :'own', (:'m'::uuid[])[1]), 'not of this lease');
select test.throws('OR001', format('select ordinaut.assert_lease(%L, %L)', :'rest', (:'w'::uuid[])[1]), 'nor of another');
select ordinaut.complete_work(:'own', (:'w'::uuid[])[1]);
select test.throws('OR001', format('select ordinaut.assert_lease(%L, %L)', :'own', (:'w'::uuid[])[1]), 'settled');
select ordinaut.assert_lease(:'own', (:'w'::uuid[])[2]);
select ordinaut.cancel_run((:'w'::uuid[])[2]) as c \gset
select test.throws('OR002', format('select ordinaut.assert_lease(%L, %L)', :'own', (:'w'::uuid[])[2]), 'to be cancelled');

rollback;
