-- An exchange settles, leases and tells what its worker must know, and repeats its answer.
\ir _begin.sql

create function test.exchange(p_worker uuid, p_lease uuid, p_limit integer, p_leases uuid[] default '{}', p_units uuid[] default '{}',
  p_outcomes text[] default '{}', p_outputs text[] default null, p_careful boolean default false, p_notes jsonb default null,
  p_queue text default 'default', p_idle boolean default null)
returns text[]
language sql
as $fn$
  select coalesce(array_agg(x.kind || coalesce(' ' || array_position(p_leases, x.lease_id), '')
    || coalesce(' ' || array_position(p_units, x.work_id), '')), '{}')
  from (select * from ordinaut.exchange(p_worker, p_queue, p_lease, p_limit, p_leases, p_units, p_outcomes,
      coalesce(p_outputs, array_fill(null::text, array[cardinality(p_units)])), array_fill(null::text, array[cardinality(p_units)]),
      array_fill(null::bigint, array[cardinality(p_units)]), null, p_idle, p_notes, p_careful)
    order by kind, lease_id, array_position(p_units, work_id)) as x;
$fn$;

create function test.units(p_lease uuid)
returns uuid[]
language sql
as $fn$
  select array_agg(u.work_id order by u.run_at, u.work_id)
  from ordinaut.lease as l cross join unnest(l.work) as u where l.lease_id = p_lease and u.work_id <> all (l.settled);
$fn$;

select gen_random_uuid() as me, gen_random_uuid() as you, gen_random_uuid() as l1, gen_random_uuid() as l2, gen_random_uuid() as l3,
  gen_random_uuid() as l4, gen_random_uuid() as l5, gen_random_uuid() as l6, gen_random_uuid() as l7, gen_random_uuid() as y1 \gset
select test.throws('OR022', format('select ordinaut.exchange(%L, %L, null, 0)', :'me', 'default'), 'nobody knows me');
select ordinaut.register_worker(:'you', '{default}', '{a}');
select test.throws('OR022', format('select ordinaut.exchange(%L, %L, null, 0)', :'me', 'default'), 'though others are known');
select ordinaut.register_worker(:'me', '{default,body}', '{a}');

-- Lease, repeat, settle, repeat.
select count(*) from ordinaut.enqueue_many((select jsonb_agg('{}'::jsonb) from generate_series(1, 9)), 'a');
select test.eq(test.exchange(:'me', null, 5), '{}', 'without an id nothing is leased');
select test.eq(test.exchange(:'me', :'l1', 0), '{}', 'nor without a number');
select test.eq(test.exchange(:'me', :'l1', 3), array['work', 'work', 'work'], 'three are leased');
select test.units(:'l1') as u1 \gset
select test.eq(test.exchange(:'me', :'l1', 3), array['work', 'work', 'work'], 'and again when the answer was lost');
select test.eq(test.units(:'l1'), :'u1'::uuid[], 'the same three');
select test.throws('23505', format('select ordinaut.exchange(%L, %L, %L, 3)', :'you', 'default', :'l1'), 'not for another worker');
select test.throws('22023', format($$select ordinaut.exchange(%L, 'default', null, 0, %L::uuid[], %L::uuid[], '{success}', '{}', '{null}', '{1}')$$,
  :'me', array[:'l1']::uuid[], (:'u1'::uuid[])[1:1]), 'as many outputs as units');
select test.eq(test.exchange(:'me', :'l2', 2, array_fill(:'l1'::uuid, array[3]), :'u1', '{success,success,success}'),
  array['work', 'work'], 'settle three, lease two');
select test.eq(test.exchange(:'me', :'l2', 2, array_fill(:'l1'::uuid, array[3]), :'u1', '{success,success,success}'),
  array['already 1 1', 'already 1 2', 'already 1 3', 'work', 'work'], 'sent again it settles nothing, and says so');
select test.units(:'l2') as u2 \gset
select test.eq(test.exchange(:'me', null, 0, array[:'l2']::uuid[], (:'u2'::uuid[])[1:1], '{success}',
  p_notes => format('[{"lease_id": "%s", "work_id": "%s", "event": "log", "data": {"line": "x"}}]', :'l2', (:'u2'::uuid[])[2])::jsonb),
  '{}', 'one of two, and a note on the other');
select test.eq(test.exchange(:'me', :'l2', 2), array['work'], 'a settled unit is not handed out again');
select test.eq((select count(*) from ordinaut.run_history((:'u2'::uuid[])[2]) as h where h.event = 'log'), 1, 'the note is kept');
select test.eq(test.exchange(:'me', :'l2', 2,
  p_notes => format('[{"lease_id": "%s", "work_id": "%s", "event": "log", "data": {"line": "x"}}]', :'l2', (:'u2'::uuid[])[2])::jsonb),
  array['work'], 'a repeat');
select test.eq((select count(*) from ordinaut.run_history((:'u2'::uuid[])[2]) as h where h.event = 'log'), 1, 'notes nothing twice');
select test.throws('22023', format('select test.exchange(%L, null, 0, p_notes => %L)', :'me',
    format('[{"lease_id": "%s", "work_id": "%s"%s}]', :'l2', (:'u2'::uuid[])[2], n.more)), n.what)
from (values (', "event": "failed"', 'a note is no event'), (', "data": 1', 'nor nothing')) as n (more, what);
select test.eq(test.exchange(:'me', null, 0, p_notes => jsonb_build_array(
  jsonb_build_object('lease_id', :'l2', 'work_id', w.work_id, 'event', 'log'), jsonb_build_object('work_id', w.work_id, 'event', 'log'))),
  '{}', 'a note on what the lease does not hold') from ordinaut.due_work as w limit 1;
select test.eq((select count(*) from ordinaut.run_log as g where g.event = 'log'), 1, 'is not kept');

-- Two leases in one exchange, and one that is gone.
select test.exchange(:'me', :'l3', 2);
select test.units(:'l3') as u3 \gset
select test.eq(test.exchange(:'me', null, 0, array[:'l3', gen_random_uuid(), :'l2', :'l3']::uuid[],
  array[(:'u3'::uuid[])[1], (:'u3'::uuid[])[1], (:'u2'::uuid[])[2], (:'u3'::uuid[])[2]], '{success,failed,failed,success}'),
  array['lost 2'], 'what is lost is told, what is not is settled');
select test.eq((select array_agg(r.state order by u.n) from unnest(:'u3'::uuid[] || (:'u2'::uuid[])[2]) with ordinality as u (id, n)
  cross join lateral ordinaut.get_run(u.id) as r), array['success', 'success', 'pending'], 'each as it was told');

-- A result that cannot be stored ends its unit, and only that.
select test.exchange(:'me', :'l4', 2);
select test.units(:'l4') as u4 \gset
select test.throws('22P02', format($$select test.exchange(%L, null, 0, %L, %L, '{success,success}', '{1,nonsense}')$$,
  :'me', array[:'l4', :'l4']::uuid[], :'u4'), 'it is refused whole');
select test.eq(test.exchange(:'me', null, 0, array[:'l4', :'l4', :'l4']::uuid[], :'me'::uuid || :'u4'::uuid[], '{success,success,success}',
  '{2,1,nonsense}', true), array['lost 1 1'], 'with care, unit by unit');
select test.eq((select array_agg(r.state order by u.n) from unnest(:'u4'::uuid[]) with ordinality as u (id, n)
  cross join lateral ordinaut.get_run(u.id) as r), array['success', 'failed'], 'the good is kept, the bad has failed');

-- Idle, and only who said so.
select test.exchange(:'me', null, 0, p_idle => true);
select test.eq((select array_agg(w.worker_id) from ordinaut.worker as w where w.is_idle), array[:'me']::uuid[], 'one is idle');
select test.exchange(:'me', null, 0);
select test.ok((select w.is_idle from ordinaut.worker as w where w.worker_id = :'me'), 'until it says otherwise');
select test.exchange(:'me', null, 0, p_idle => false);
select test.ok((select not w.is_idle from ordinaut.worker as w where w.worker_id = :'me'), 'so');

-- Cancels for what it holds, and only that.
select count(*) from ordinaut.enqueue_many((select jsonb_agg('{}'::jsonb) from generate_series(1, 6)), 'a');
select test.exchange(:'me', :'l5', 3);
select test.exchange(:'you', :'y1', 3);
select test.units(:'l5') as u5, test.units(:'y1') as uy \gset
select ordinaut.cancel_run(u.id) from unnest((:'u5'::uuid[])[1:2] || (:'uy'::uuid[])[1]) as u (id);
select test.eq(test.exchange(:'me', null, 0), array['cancel', 'cancel'], 'two are wanted of me');
select test.exchange(:'me', null, 0, array[:'l5']::uuid[], (:'u5'::uuid[])[1:1], '{released}');
select test.eq(test.exchange(:'me', null, 0), array['cancel'], 'then one');
select test.eq(test.exchange(:'you', null, 0), array['cancel'], 'and one of you');
insert into ordinaut.cancel_request (run_id, requested_by, requested_at) values ((:'u5'::uuid[])[1], 'x', ordinaut.now());
select test.eq(test.exchange(:'me', null, 0), array['cancel'], 'what is settled is not asked for');
delete from ordinaut.cancel_request;

-- Sweeps: of its queue, and of late.
select test.travel('66 s');
select test.eq(test.exchange(:'me', null, 0), '{}', 'what was asked long ago is done');
select ordinaut._ask_sweep('other');
select test.eq(test.exchange(:'me', null, 0), '{}', 'other queues are for others');
select ordinaut._ask_sweep('default');
select test.travel('64 s');
select test.eq(test.exchange(:'me', null, 0), array['sweep'], 'this one is not');
select test.travel('1 s');
select test.eq(test.exchange(:'me', null, 0), '{}', 'for 65 s');

-- At most one request a second.
select ordinaut._ask_sweep('calm');
select test.travel('0.5 s');
select ordinaut._ask_sweep('calm');
select test.ok((select q.sweep_requested_at < ordinaut.now() from ordinaut.queue as q where q.queue = 'calm'), 'once is enough');
select test.travel('0.6 s');
select ordinaut._ask_sweep('calm');
select test.ok((select q.sweep_requested_at = ordinaut.now() from ordinaut.queue as q where q.queue = 'calm'), 'for a second');

-- log_work: for what is held.
select test.units(:'l5') as u5 \gset
select ordinaut.log_work(:'l5', (:'u5'::uuid[])[1], 'progress', '{"percent": 50}');
select ordinaut.log_work(:'l5', (:'u5'::uuid[])[1], 'log', jsonb_build_object('line',
  (select string_agg(md5(n::text), '') from generate_series(1, 4000) as n)));
select test.eq((select array_agg(coalesce(h.detail ->> 'percent', h.detail ->> 'truncated') order by h.event) from
  ordinaut.run_history((:'u5'::uuid[])[1]) as h where h.event in ('log', 'progress')), array['true', '50'], 'a long line is cut');
select test.throws('OR001', format('select ordinaut.log_work(%L, %L, %L, %L)', :'l5', (:'uy'::uuid[])[1], 'log', '{}'), 'not another''s');
select test.throws('OR001', format('select ordinaut.log_work(%L, %L, %L, %L)', gen_random_uuid(), (:'u5'::uuid[])[1], 'log', '{}'), 'nor under no lease');
select test.throws('OR001', format('select ordinaut.log_work(%L, %L, %L, %L)', :'y1', (:'u5'::uuid[])[1], 'log', '{}'), 'nor under another''s');

-- Long payloads come along.
select jsonb_build_object('x', string_agg(md5(n::text), '')) as long from generate_series(1, 200) as n \gset
select ordinaut.enqueue('a', :'long', 'body') as e, ordinaut.enqueue('a', '{"x": 1}', 'body') as f \gset
select ordinaut.enqueue('a', jsonb_set(:'long', '{y}', '1'), 'elsewhere') as e \gset
select test.eq((select array_agg(x.payload order by length(x.payload::text)) from ordinaut.exchange(:'me', 'body', :'l6', 9) as x
  where x.kind = 'work'), array['{"x": 1}', :'long'::jsonb], 'each its own');

rollback;
