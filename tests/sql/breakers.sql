-- A breaker keeps work from a service that is down: it waits, one unit tries, and all goes on.
\ir _begin.sql

create function test.breaker() returns text
language sql
as $fn$
  select concat_ws(' ', b.state, b.failures) from ordinaut.breaker_status as b where b.name = 'crm';
$fn$;

create function test.call(p_outcome text, p_category text default 'external_service', p_tool text default 'crm')
returns text
language plpgsql
as $fn$
declare
  v_run_id uuid;
begin
  select e.run_id into v_run_id from ordinaut.enqueue(p_tool, p_queue => 'x', p_max_attempts => 1) as e;
  return test.settle('x', p_outcome, p_category);
end
$fn$;

create function test.settle(p_queue text, p_outcome text, p_category text default 'external_service')
returns text
language plpgsql
as $fn$
declare
  v_unit record;
begin
  select l.lease_id, l.work_id into v_unit from ordinaut.lease_work('w', p_queue) as l;
  if not found then
    return 'none';
  end if;
  perform ordinaut._settle_alone(v_unit.lease_id, v_unit.work_id, p_outcome, null,
    jsonb_build_object('message', 'crm says no', 'category', p_category));
  return test.breaker();
end
$fn$;

create function test.places(p_queue text) returns text
language sql
as $fn$
  select string_agg(coalesce(w.reason, w.status), ' ' order by coalesce(w.reason, w.status))
  from ordinaut.work as w where w.queue = p_queue and w.finished_at is null;
$fn$;

-- Closed by default; what has no breaker is nobody's business.
select test.eq(test.call('failed', p_tool => 'other'), null, 'a tool without a breaker counts nothing');
select ordinaut.set_breaker('crm', p_threshold => 3, p_window => '60 s', p_recovery => '30 s');
select test.eq(test.breaker(), 'closed 0', 'closed by default');
select test.ok(ordinaut.breaker_allows('crm'), 'and lets callers through');
select test.eq(test.call('success'), 'closed 0', 'a success keeps it closed');
select test.eq(test.call('failed', p_tool => 'other'), 'closed 0', 'another tool''s failure is not its own');
select test.call('failed');
select test.eq(test.call('failed'), 'closed 2', 'two failures of three: still closed');
select test.eq(test.call('success'), 'closed 0', 'a success begins the count anew');
select test.call('failed');
select test.call('failed');
select test.eq(test.call('failed', 'validation'), 'closed 2', 'what the caller did wrong does not count');
select test.travel('61 s');
select test.eq(test.call('failed'), 'closed 1', 'nor does what lies before the window');
select test.eq(test.call('timed_out', null), 'closed 2', 'a timeout counts, whatever it says');
select test.eq(test.call('failed', 'network'), 'open 3', 'the third opens it');

-- Open: nothing is called, nothing fails.
select run_id as first from ordinaut.enqueue('crm', p_queue => 'a') \gset
select test.travel('1 s');
select run_id as second from ordinaut.enqueue('crm', p_queue => 'a') \gset
select test.travel('1 ms');
select run_id as third from ordinaut.enqueue('crm', p_queue => 'a') \gset
select run_id as free from ordinaut.enqueue('other', p_queue => 'a') \gset
select test.eq(array_agg(l.run_id), array[:'free'::uuid], 'work of other tools goes on') from ordinaut.lease_work('w', 'a', 10) as l;
select test.eq(test.places('a'), 'breaker breaker pending running', 'the first waits to try, the others behind it');
select test.eq((w.run_at, w.attempt)::text, (b.probe_at, 0)::text, 'when the breaker says, uncharged')
from ordinaut.work as w, ordinaut.breaker_status as b where w.work_id = :'first';
select test.throws('OR031', $$select ordinaut.breaker_allows('crm')$$, 'other callers are told');
select test.ok(w.detail like 'Circuit breaker is OPEN: crm after 3 failures in a row (crm says no); one unit tries at 2026-03-27 12:01:31+00'
    and w.until = '2026-03-27 12:01:31+00', 'and so is who asks why')
from ordinaut.why(:'second') as w where w.reason = 'breaker';
select test.ok(exists (select from ordinaut.why(:'first') as w where w.reason = 'breaker'), 'and who asks for the one that is to try');
select test.eq((select b.parked from ordinaut.list_breakers() as b), 2, 'they are counted');

-- One tries; the service is still down.
select test.travel('29 s');
select test.ok(ordinaut.breaker_allows('crm'), 'the time has come');
select test.eq((select array_agg(l.run_id) from ordinaut.lease_work('w', 'a', 10) as l), array[:'first'::uuid], 'one unit is let through');
select test.eq(test.breaker(), 'half_open 3', 'it is half open');
select test.throws('OR031', $$select ordinaut.breaker_allows('crm')$$, 'and nobody else may try');
select test.eq((select count(*) from ordinaut.lease_work('w', 'a', 10)), 0, 'nor any other unit');
select test.travel('1 ms');
select run_id as late from ordinaut.enqueue('crm', p_queue => 'a') \gset
select test.eq((select count(*) from ordinaut.lease_work('w', 'a', 10)), 0, 'nor one that comes now');
select ordinaut.fail_work(w.lease_id, w.work_id, 'still down', p_details => '{"category": "network"}')
from ordinaut.work as w where w.work_id = :'first';
select test.eq(test.breaker(), 'open 3', 'its failure opens it again');
select test.eq((w.status, w.run_at)::text, ('pending', b.probe_at)::text, 'now the second is to try')
from ordinaut.work as w, ordinaut.breaker_status as b where w.work_id = :'second';
select test.travel('2 s');
select test.eq((select count(*) from ordinaut.lease_work('w', 'a', 10)), 0, 'the one that failed waits behind it');
select test.eq(test.places('a'), 'breaker breaker breaker pending running', 'parked, not failed');

-- The service is back.
select test.travel('28 s');
select lease_id, run_id as tried from ordinaut.lease_work('w', 'a', 10) \gset
select test.eq(:'tried'::uuid, :'second'::uuid, 'the second tries');
select ordinaut.complete_work(:'lease_id');
select test.eq(test.breaker(), 'closed 0', 'its success closes the breaker');
select test.eq((select array_agg(l.run_id order by l.run_at, l.work_id) from ordinaut.lease_work('w', 'a', 10) as l),
  array[:'third', :'late', :'first']::uuid[], 'and all that waited runs, in its order');

-- Whatever else becomes of a probe, another one tries.
select run_id as p1 from ordinaut.enqueue('crm', p_queue => 'b') \gset
select run_id as p2 from ordinaut.enqueue('crm', p_queue => 'b') \gset
create function test.half_open() returns void
language plpgsql
as $fn$
begin
  update ordinaut.breaker set state = 'open', failures = 3, probe_at = ordinaut.now(), probe_id = null;
end
$fn$;
select test.half_open();
select test.eq((select count(*) from ordinaut.lease_work('w', 'b', 10)), 1, 'of a batch one tries');
select ordinaut.release_work(w.lease_id, w.work_id) from ordinaut.work as w where w.queue = 'b' and w.status = 'running';
select test.eq(test.breaker(), 'open 3', 'given back: nothing is known');
select test.eq((select count(*) from ordinaut.lease_work('w', 'b', 10)), 1, 'and the next may try at once');
select ordinaut._settle_alone(w.lease_id, w.work_id, 'failed', null, '{"category": "validation", "message": "no"}')
from ordinaut.work as w where w.queue = 'b' and w.status = 'running';
select test.eq(test.breaker(), 'open 3', 'an error of the unit''s own says nothing of the service');
select test.eq((select count(*) from ordinaut.lease_work('w', 'b', 10)), 1, 'and the next may try');
select test.travel('2 min');
select ordinaut.reap();
select test.eq(test.breaker(), 'open 3', 'a probe that died with its worker ends, too');
select test.eq((select count(*) from ordinaut.lease_work('w', 'b', 1)), 1, 'and the next may try');
select ordinaut.cancel_run(w.work_id) from ordinaut.work as w where w.queue = 'b' and w.status = 'running';
select ordinaut._settle_alone(w.lease_id, w.work_id, 'cancelled', null, null) from ordinaut.work as w where w.queue = 'b' and w.status = 'running';
select test.eq(test.breaker(), 'open 3', 'a cancelled one as well');

-- A probe that is cancelled while it waits, with nobody to notice: reap() finds another.
select ordinaut.reset_breaker('crm');
delete from ordinaut.due_work; delete from ordinaut.parked;
select test.call('failed'), test.call('failed'), test.call('failed');
select run_id as p1 from ordinaut.enqueue('crm', p_queue => 'c') \gset
select test.travel('1 s');
select run_id as p2 from ordinaut.enqueue('crm', p_queue => 'c') \gset
select ordinaut.lease_work('w', 'c', 10);
select test.eq(test.places('c'), 'breaker pending', 'one is to try');
select ordinaut.cancel_run(:'p1');
select test.travel('28 s');
select ordinaut.reap();
select test.eq(test.places('c'), 'breaker', 'before its time nothing is moved');
select test.travel('3 s');
select ordinaut.reap();
select test.eq(test.places('c'), 'pending', 'then another is found');
select test.eq((select array_agg(l.run_id) from ordinaut.lease_work('w', 'c', 10) as l), array[:'p2'::uuid], 'and tries');
select ordinaut.complete_work(w.lease_id) from ordinaut.work as w where w.work_id = :'p2' and w.status = 'running';

-- Each queue has somebody who may try, when the one whose turn it is cannot.
select test.call('failed'), test.call('failed'), test.call('failed');
select ordinaut.enqueue('crm', p_queue => 'd1'), ordinaut.enqueue('crm', p_queue => 'd2'), ordinaut.enqueue('crm', p_queue => 'd2');
select ordinaut.lease_work('w', 'd1', 10);
select ordinaut.lease_work('w', 'd2', 10);
select ordinaut.pause_queue('d1');
select test.travel('32 s');
select test.eq((select count(*) from ordinaut.lease_work('w', 'd1')), 0, 'whose turn it is is paused');
select ordinaut.reap();
select test.eq((select count(*) from ordinaut.lease_work('w', 'd2', 10)), 1, 'another queue''s unit tries');
select ordinaut.complete_work(w.lease_id) from ordinaut.work as w where w.queue = 'd2' and w.status = 'running';
select test.eq(test.breaker(), 'closed 0', 'and closes it');

-- A key is not held behind a breaker by who never ran.
select test.call('failed'), test.call('failed'), test.call('failed');
select run_id as keyed from ordinaut.enqueue('crm', p_queue => 'k', p_key => 'k1') \gset
select run_id as other from ordinaut.enqueue('echo', p_queue => 'k', p_key => 'k1') \gset
select test.eq((select array_agg(l.run_id) from ordinaut.lease_work('w', 'k', 10) as l), array[:'other'::uuid], 'another of its key runs');

-- A probe that is let through and finds its key busy has not tried: the next one does.
select ordinaut.reset_breaker('crm');
select test.half_open();
select run_id as keyed2 from ordinaut.enqueue('crm', p_queue => 'k2', p_key => 'k1') \gset
select test.eq((select count(*) from ordinaut.lease_work('w', 'k2')), 0, 'its key is busy');
select test.eq((test.breaker(), w.reason)::text, '("half_open 3",key)', 'it waits for that') from ordinaut.work as w where w.work_id = :'keyed2';
select run_id as next from ordinaut.enqueue('crm', p_queue => 'k2') \gset
select test.eq((select array_agg(l.run_id) from ordinaut.lease_work('w', 'k2', 10) as l), array[:'next'::uuid], 'another tries');
select ordinaut.complete_work(w.lease_id) from ordinaut.work as w where w.work_id = :'next';

-- What stayed behind, for whatever reason, is found.
select ordinaut.open_breaker('crm');
select run_id as behind from ordinaut.enqueue('crm', p_queue => 'l') \gset
select ordinaut.lease_work('w', 'l');
update ordinaut.breaker set state = 'closed', changed_by = null;
select test.ok(exists (select from ordinaut.why(:'behind') as w where w.detail like '%next reap() makes it due'), 'why tells');
select ordinaut.reap();
select test.eq((select array_agg(l.run_id) from ordinaut.lease_work('w', 'l') as l), array[:'behind'::uuid], 'reap() makes it due');

-- By hand.
select ordinaut.open_breaker('crm', 'maintenance');
select test.travel('1 day');
select test.eq((select count(*) from ordinaut.lease_work('w', 'd2', 10)), 0, 'kept open, nothing tries');
select test.ok(b.state = 'open' and b.changed_by like 'postgres%' and b.note = 'maintenance' and b.probe_at is null, 'who and why')
from ordinaut.list_breakers() as b;
select ordinaut.reap();
select test.eq(test.breaker(), 'open 0', 'a sweep respects that');
select ordinaut.close_breaker('crm', 'it is fine');
select test.call('failed'), test.call('failed'), test.call('failed');
select test.eq(test.call('failed'), 'closed 0', 'kept closed, nothing opens it');
select ordinaut.reset_breaker('crm');
select test.call('failed'), test.call('failed');
select test.eq(test.call('failed'), 'open 3', 'reset, it decides by itself again');
select ordinaut.enqueue('crm', p_queue => 'e'), ordinaut.enqueue('crm', p_queue => 'e');
select ordinaut.lease_work('w', 'e', 10);
select test.eq(test.places('e'), 'breaker pending', 'work waits');
select ordinaut.drop_breaker('crm');
select test.eq((select count(*) from ordinaut.lease_work('w', 'e', 10)), 2, 'dropped, it is due, and the one that was to try');
select test.throws('OR020', $$select ordinaut.drop_breaker('crm')$$, 'there is none left');

-- Several tools, one service.
select ordinaut.set_breaker('billing', '{invoice,refund}', 1);
select test.throws('OR030', $$select ordinaut.set_breaker('refund')$$, 'a tool has one breaker');
select ordinaut.set_breaker('billing', '{invoice,refund}', 2, p_recovery => '5 s');
select ordinaut.enqueue('invoice', p_queue => 'f');
select test.settle('f', 'failed');
select ordinaut.enqueue('refund', p_queue => 'f');
select test.settle('f', 'failed');
select test.throws('OR031', $$select ordinaut.breaker_allows('invoice')$$, 'they fail and wait together');
select ordinaut.enqueue('invoice', p_queue => 'g'), ordinaut.enqueue('refund', p_queue => 'g');
select ordinaut.lease_work('w', 'g', 10);
select ordinaut.set_breaker('billing', '{invoice}');
select test.eq((select array_agg(l.tool) from ordinaut.lease_work('w', 'g', 10) as l), array['refund'], 'a tool taken out is free');

select test.throws('22023', q, 'refused: ' || q)
from unnest(array[
  $$select ordinaut.set_breaker('no tool')$$, $$select ordinaut.set_breaker('a', '{}')$$,
  $$select ordinaut.set_breaker('a', p_threshold => 0)$$, $$select ordinaut.set_breaker('a', p_window => '-1 s')$$,
  $$select ordinaut.set_breaker('a', p_recovery => null)$$, $$select ordinaut.set_breaker('a', p_categories => '{weather}')$$,
  $$select ordinaut.set_breaker('a', p_categories => '{}')$$]) as q;
select test.throws('OR020', q, 'unknown: ' || q)
from unnest(array[$$select ordinaut.open_breaker('a')$$, $$select ordinaut.close_breaker('a')$$,
  $$select ordinaut.reset_breaker('a')$$, $$select ordinaut.breaker_allows('a')$$]) as q;

rollback;
