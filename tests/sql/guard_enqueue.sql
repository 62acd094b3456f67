-- What enters is checked, entered once, and due when it was asked for.
\ir _begin.sql

create function test.live(p_queue text default 'default')
returns bigint
language sql
as $fn$
  select count(*) from ordinaut.due_work as w where w.queue = p_queue;
$fn$;

-- Arguments that contradict or overreach.
select test.throws('22023', $$select ordinaut.enqueue('a', p_run_at => now(), p_delay => '1 s')$$,
  'a time and a delay');
select test.throws('22023', $$select ordinaut.enqueue('a', p_run_at => 'infinity')$$, 'a time that never comes');
select test.throws('22023', $$select ordinaut.enqueue('a', p_delay => '-1 s')$$, 'a negative delay');
select test.throws('22023', $$select ordinaut.enqueue('a', p_delay => '11 years')$$, 'too long a delay');
select test.throws('22023', $$select ordinaut.enqueue('a', p_timeout => '0 s')$$, 'no time to run in');
select test.throws('22023', $$select ordinaut.enqueue('a', p_retry => '{"base": "soon"}')$$, 'a bad policy');
select test.throws('22023', $$select ordinaut.enqueue('a', p_key => '')$$, 'an empty key');
select test.throws('22023', $$select ordinaut.enqueue('a', p_key => 'k', p_key_limit => 0)$$, 'no slots');
select test.throws('22023', $$select ordinaut.enqueue('a', p_key => 'k', p_if_busy => 'ask')$$, 'not wait or drop');
select test.throws('22023', $$select ordinaut.enqueue('a', p_key => 'k', p_if_busy => null)$$, 'nor nothing');
select test.throws('22023', $$select ordinaut.enqueue('a', p_idempotency_key => '')$$, 'an empty key');
select test.throws('22023', $$select ordinaut.enqueue('a', p_idempotency_key => 'i', p_idempotent_for => null)$$,
  'kept for no time');
select test.eq((select e.outcome from ordinaut.enqueue('a', p_key_limit => 0, p_if_busy => 'ask') as e), 'new',
  'without a key, what is said about it is nothing');
select test.eq(test.live(), 1, 'the refused left nothing');

-- When it is due.
select run_id as late from ordinaut.enqueue('a', p_queue => 'when', p_delay => '10 s') \gset
select run_id as past from ordinaut.enqueue('a', p_queue => 'when', p_run_at => '2026-03-27 11:00:00+00') \gset
select test.eq((select w.run_at from ordinaut.due_work as w where w.run_id = :'past'),
  ordinaut.now(), 'the past is now');
select test.eq((select w.scheduled_for from ordinaut.due_work as w where w.run_id = :'past'),
  '2026-03-27 11:00:00+00', 'and the wish is kept');
select test.eq((select w.run_at from ordinaut.due_work as w where w.run_id = :'late'),
  ordinaut.now() + interval '10 s', 'a delay counts from now');

-- Payloads: short ones in the row, long ones beside it.
select jsonb_build_object('x', string_agg(md5(n::text), '')) as long from generate_series(1, 200) as n \gset
select run_id as long_id from ordinaut.enqueue('a', :'long', 'body') \gset
select run_id as short_id from ordinaut.enqueue('a', '{"x": 1}', 'body') \gset
select test.eq(
  (select array_agg(l.payload order by length(l.payload ->> 'x') desc) from ordinaut.lease_work('w', 'body', 9) as l),
  array[:'long'::jsonb, '{"x": 1}'], 'both are told to who leases them');
select test.eq((select array_agg(b.run_id) from ordinaut.payload as b where b.run_id in (:'long_id', :'short_id')),
  array[:'long_id']::uuid[], 'and each is kept in one place');

-- Idempotency keys.
select run_id as first from ordinaut.enqueue('a', p_queue => 'once', p_idempotency_key => 'i', p_idempotent_for => '1 h') \gset
select ordinaut.enqueue('a', p_queue => 'once', p_idempotency_key => 'other') as o \gset
select run_id as third from ordinaut.enqueue('a', p_queue => 'once3', p_idempotency_key => 'i3', p_idempotent_for => '1 h') \gset
select ordinaut.complete_work(lease_id) from ordinaut.lease_work('w', 'once3') as l;
select test.eq(
  (select e::text from ordinaut.enqueue('a', p_queue => 'once', p_idempotency_key => 'i') as e),
  format('(%s,existing)', :'first'), 'the key is known while its run lives');
select test.eq(test.live('once'), 2, 'and nothing entered');
select ordinaut.complete_work(lease_id, :'first') from ordinaut.lease_work('w', 'once', 2) as l limit 1;
select test.travel('59 min');
select test.eq(
  (select e::text from ordinaut.enqueue('a', p_queue => 'once', p_idempotency_key => 'i') as e),
  format('(%s,existing)', :'first'), 'and for as long after as was asked');
select test.travel('1 min');
select run_id as second, outcome from ordinaut.enqueue('a', p_queue => 'once', p_idempotency_key => 'i') \gset
select test.eq(:'outcome', 'new', 'then it is free');
select test.eq(
  (select e::text from ordinaut.enqueue('a', p_queue => 'once', p_idempotency_key => 'i') as e),
  format('(%s,existing)', :'second'), 'and taken by the next');
select test.eq(
  (select e.outcome from ordinaut.enqueue('a', p_queue => 'once', p_idempotency_key => 'other') as e),
  'existing', 'other keys are as they were');
select test.eq((select h.run_id from ordinaut.hold as h where h.key = 'i3'), :'third'::uuid,
  'and belong to whom they belonged');
select ordinaut.enqueue('a', p_queue => 'same', p_key => 'same') as s \gset
select lease_id as s from ordinaut.lease_work('w', 'same') \gset
select run_id as same from ordinaut.enqueue('a', p_queue => 'same', p_idempotency_key => 'same') \gset
select test.eq(
  (select e::text from ordinaut.enqueue('a', p_queue => 'same', p_idempotency_key => 'same') as e),
  format('(%s,existing)', :'same'), 'a key for slots may be called the same');
select ordinaut.enqueue('a', p_queue => 'same', p_idempotency_key => 'i4') as s \gset
select test.eq(
  (select e.outcome from ordinaut.enqueue('a', p_queue => 'same', p_key => 'i4', p_if_busy => 'drop') as e),
  'new', 'and the other way round it is not busy');

-- A run_id of the caller's own.
select ordinaut.uuid_generate_v7(ordinaut.now()) as own \gset
select test.eq((select e::text from ordinaut.enqueue('a', p_queue => 'own', p_run_id => :'own') as e),
  format('(%s,new)', :'own'), 'a run_id is taken');
select test.eq((select e::text from ordinaut.enqueue('a', p_queue => 'own', p_run_id => :'own') as e),
  format('(%s,existing)', :'own'), 'and sent again it is known');
select test.eq(test.live('own'), 1, 'one run of it');
select test.throws('22023', $$select ordinaut.enqueue('a', p_run_id => gen_random_uuid())$$, 'it tells no time');
select test.throws('22023', format('select ordinaut.enqueue(%L, p_run_id => %L)', 'a',
  overlay(:'own' placing '4' from 15)), 'it does not say that it does');
select test.throws('22023', $$select ordinaut.enqueue('a',
  p_run_id => ordinaut.uuid_generate_v7(ordinaut.now() - interval '25 h'))$$, 'it is of another day');
select test.throws('22023', $$select ordinaut.enqueue('a',
  p_run_id => ordinaut.uuid_generate_v7(ordinaut.now() + interval '25 h'))$$, 'or of one to come');

-- Busy keys.
select run_id as busy from ordinaut.enqueue('a', p_queue => 'busy', p_key => 'k') \gset
select test.eq((select e.outcome from ordinaut.enqueue('a', p_queue => 'busy', p_key => 'k') as e), 'new',
  'waiting is the rule');
select test.eq(
  (select e.outcome from ordinaut.enqueue('a', p_queue => 'busy', p_key => 'else', p_if_busy => 'drop') as e),
  'new', 'a key of nobody is not busy');
select test.eq(
  (select e.outcome from ordinaut.enqueue('a', p_queue => 'busy', p_key => 'k', p_if_busy => 'drop',
    p_idempotency_key => 'd') as e), 'dropped', 'a live key drops');
select test.eq((select count(*) from ordinaut.hold as h where h.key = 'd'), 0, 'and forgets its idempotency key');
select test.eq((select count(*) from ordinaut.hold as h where h.key = 'i'), 1, 'its own alone');
select lease_id as held from ordinaut.lease_work('w', 'busy', 1) \gset
select test.eq((select count(*) from ordinaut.lease_work('w', 'busy', 9) as l where l.key = 'k'), 0,
  'the second is parked');
select test.eq(
  (select e.outcome from ordinaut.enqueue('a', p_queue => 'busy2', p_key => 'else2', p_if_busy => 'drop') as e),
  'new', 'which is nothing to other keys');
select test.eq(
  (select e::text from ordinaut.enqueue('a', p_queue => 'busy', p_key => 'k', p_if_busy => 'drop') as e),
  format('(%s,dropped)', :'busy'), 'the one that runs is named first');
select ordinaut.deregister_worker(gen_random_uuid()) as nobody \gset
delete from ordinaut.hold as h where h.key = 'k';
select test.eq(
  (select e.outcome from ordinaut.enqueue('a', p_queue => 'busy', p_key => 'k', p_if_busy => 'drop') as e),
  'dropped', 'a parked one counts too');

-- Limits of a queue.
select ordinaut.set_queue('full', p_max_pending => 2) as s \gset
select ordinaut.enqueue('a', p_queue => 'full') as e \gset
select ordinaut.enqueue('a', p_queue => 'full') as e \gset
select test.throws('53400', $$select ordinaut.enqueue('a', p_queue => 'full')$$, 'it holds two');
select test.eq((select e.outcome from ordinaut.enqueue('a', p_queue => 'roomy') as e), 'new', 'others hold more');
select ordinaut.set_queue('full2', p_max_pending => 2) as s \gset
select test.throws('53400', $$select ordinaut.enqueue_many('[{}, {}, {}]', 'a', 'full2')$$, 'three are too many');
select test.eq((select count(*) from ordinaut.enqueue_many('[{}, {}]', 'a', 'full2')), 2, 'two are not');

-- Many at once.
select test.throws('22023', $$select ordinaut.enqueue_many('{}', 'a')$$, 'an object is no list');
select test.throws('22023', $$select ordinaut.enqueue_many(null, 'a')$$, 'nor is nothing');
select test.throws('22023', $$select ordinaut.enqueue_many('[1]', 'a')$$, 'nor are numbers items');
select test.throws('22023', $$select ordinaut.enqueue_many('[{"colour": 1}]', 'a')$$, 'a field nobody knows');
select test.throws('22023', $$select ordinaut.enqueue_many('[{"tool": "a"}, {"tool": "!"}]')$$, 'a bad tool among good');
select test.throws('22023', format('select ordinaut.enqueue_many(%L)', format('[{"tool": "%s"}]', repeat('a', 201))),
  'a tool of 201 letters');
select test.throws('22023', $$select ordinaut.enqueue_many('[{"queue": "no, no"}]', 'a')$$, 'a bad queue');
select test.throws('22023', $$select ordinaut.enqueue_many('[{"priority": 10}]', 'a')$$, 'a bad priority');
select test.throws('22023', $$select ordinaut.enqueue_many('[{"max_attempts": 1001}]', 'a')$$, 'bad attempts');
select test.throws('54000', $$select ordinaut.enqueue_many(jsonb_build_array(jsonb_build_object('payload',
  (select string_agg(md5(n::text), '') from generate_series(1, 40000) as n))), 'a')$$, 'too much');
select test.eq((select count(*) from ordinaut.enqueue_many('[]', 'a')), 0, 'nothing is a list');
select test.eq((select array_agg(m.outcome) from ordinaut.enqueue_many(
  '[{"key": "m"}, {"payload": {"n": 1}}, {"delay": "1 h"}, {"queue": "m2"}, {"run_at": "2026-03-28 00:00:00+00"},
    {"timeout": "1 s"}, {"retry": {"base": "1 s"}}, {"if_busy": "wait"}, {"retry": null}]', 'a', 'many') as m),
  array_fill('new'::text, array[9]), 'all kinds together');
select test.eq(test.live('many'), 8, 'where they belong');
select test.eq(test.live('m2'), 1, 'each');
select test.eq((select count(*) from ordinaut.due_work as w where w.queue = 'many' and w.run_at > ordinaut.now()), 2,
  'when they belong');
select test.eq((select array_agg(m.outcome order by m.ord) from ordinaut.enqueue_many(
  '[{"idempotency_key": "z"}, {"idempotency_key": "y"}, {"idempotency_key": "z"}]', 'a', 'twice') as m),
  array['new', 'new', 'existing'], 'keys count among them');
select test.eq((select array_agg(m.ord) from ordinaut.enqueue_many(
  jsonb_build_array('{"payload": 1}'::jsonb, jsonb_build_object('payload', :'long'::jsonb), '{"payload": 3}'::jsonb),
  'a', 'bulk') as m), array[1, 2, 3], 'plain ones are told in order');
select test.eq((select array_agg(l.payload) from ordinaut.lease_work('w', 'bulk', 9) as l),
  array['1', :'long'::jsonb, '3'], 'and leased in order');
select test.eq((select count(*) from ordinaut.payload as b), 2, 'only the long have a place of their own');
select outcome from ordinaut.enqueue_many(jsonb_build_array('{"key": "p"}'::jsonb, jsonb_build_object('payload', :'long'::jsonb)),
  'a', 'mixed') \g (format=unaligned) /dev/null
select test.eq((select count(*) from ordinaut.payload as b), 3, 'also when one of them is not plain');
select test.eq((select count(distinct w.run_at) from ordinaut.due_work as w where w.queue = 'mixed'), 2, 'and in order too');
select run_id as alone from ordinaut.enqueue('a', p_queue => 'alone', p_idempotency_key => 'alone') \gset
select test.eq((select array_agg(m.outcome order by m.ord) from ordinaut.enqueue_many(
  '[{"idempotency_key": "alone"}, {"idempotency_key": "company"}]', 'a', 'alone') as m),
  array['existing', 'new'], 'a known one among them');
select test.eq((select w.run_at from ordinaut.due_work as w where w.run_id = :'alone'), ordinaut.now(),
  'stays where it was');
select test.eq((select count(*) from ordinaut.enqueue_many('[{"tool": "b", "priority": 9, "max_attempts": 1000}]')), 1,
  'an item may say it all');

rollback;
