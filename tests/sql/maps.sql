-- A map runs its step once for each item of a list: in order, so many at once, and completes with the list of outputs.
\ir _begin.sql
\ir _steps.sql

create function test.map(p_items jsonb, p_more jsonb default '{}') returns uuid
language plpgsql
as $fn$
declare
  v_id uuid := test.run('[{"id": "m", "uses": "echo", "map": {"over": "${params}"}, "save_as": "all", "retry_count": 2}, {"id": "then", "uses": "echo"}]');
begin
  perform test.wait(v_id, 'm', jsonb_build_object('kind', 'map', 'items', p_items) || p_more);
  return v_id;
end
$fn$;
create function test.items(p_run_id uuid) returns text
language sql
as $fn$ select string_agg(s.state, ' ' order by s.position) from ordinaut.step as s where s.run_id = p_run_id and s.kind = 'item' $fn$;

-- All at once.
select test.map('["a", {"b": 1}, null]') as run_id \gset
select test.eq(test.items(:'run_id'), 'ready ready ready', 'a step for each item');
select test.eq((select array_agg(w.step order by w.run_at) from ordinaut.due_work as w), array['m[0]', 'm[1]', 'm[2]'], 'due in their order');
select test.ok(bool_and(w.run_at <= ordinaut.now() and w.tool = 'echo' and w.max_attempts = 2), 'all of them now, as the step says') from ordinaut.due_work as w;
select test.eq((select array_agg(s.item order by s.position) from ordinaut.step as s where s.kind = 'item'), array['"a"', '{"b": 1}', 'null']::jsonb[], 'with its item');
select test.eq((select w.detail from ordinaut._why_wait((test.step(:'run_id', 'm')).step_id) as w), 'it waits for 3 of 3 items', 'the map waits for them');
select test.eq(b.body - 'params' - 'run' - 'now' - 'steps' - 'with', '{"item": {"b": 1}, "index": 1, "as": "item"}', 'a worker is told the item')
from ordinaut.task_run as r cross join lateral test.step(r.run_id, 'm[1]') as s cross join lateral ordinaut._step_body(ordinaut._step_item(s, r, ordinaut.now())) as b (body) where r.run_id = :'run_id';
select test.done(:'run_id', 'm[2]', '3');
select test.done(:'run_id', 'm[0]', '1');
select test.eq(test.state(:'run_id', 'm') || ' ' || (test.step(:'run_id', 'm')).waits_for, 'in_progress 1', 'it counts');
select test.done(:'run_id', 'm[1]', '2');
select test.eq((test.step(:'run_id', 'm')).output, '[1, 2, 3]', 'the output is a list, in the order of the items');
select test.eq(test.state(:'run_id', 'then'), 'ready', 'and what follows may start');
select test.done(:'run_id', 'then');
select test.eq((select r.output from ordinaut.run as r where r.run_id = :'run_id'), '{"all": [1, 2, 3]}', 'items are not outputs of the run');

-- Nothing; too much; no list.
select test.map('[]') as run_id \gset
select test.eq((test.state(:'run_id', 'm'), (test.step(:'run_id', 'm')).output, test.state(:'run_id', 'then'))::text, '(complete,[],ready)', 'an empty list completes at once');
select test.eq(test.state(test.map((select jsonb_agg(n) from generate_series(1, 10001) as n)), 'm'), 'error', 'more than 10000 items fail');
select test.eq(test.state(test.map(i::jsonb, m::jsonb), 'm'), 'error', 'refused: ' || i || m) from (values ('{}', '{}'), ('null', '{}'), ('[1]', '{"max_parallel": 0}'), ('[1]', '{"tolerate": -1}'), ('[1]', '{"on_failure": "shrug"}')) as c (i, m);

-- So many at once.
select test.map('[0, 1, 2, 3, 4]', '{"max_parallel": 2}') as run_id \gset
select test.eq(test.items(:'run_id'), 'ready ready pending pending pending', 'two may start');
select test.done(:'run_id', 'm[1]');
select test.eq(test.items(:'run_id'), 'ready complete ready pending pending', 'one ends, the next may');
select test.lease(:'run_id', 'm[0]') as lease \gset
select test.done(:'run_id', 'm[2]'), test.done(:'run_id', 'm[3]');
select test.eq(test.items(:'run_id'), 'in_progress complete complete complete ready', 'a slow one holds up no more than its place');
select test.eq((test.step(:'run_id', 'm')).waits_for, 2, 'two are left');
select test.eq(count(*), 1::bigint, 'and each is due once') from ordinaut.due_work as w where w.step like 'm[%' and w.run_id = :'run_id';
select ordinaut.complete_work(:'lease', (test.step(:'run_id', 'm[0]')).step_id);
select test.fail(:'run_id', 'm[4]', 'try again', true);
select test.eq(test.items(:'run_id') || ' ' || test.state(:'run_id', 'm'), 'complete complete complete complete waiting_for_retry in_progress', 'an item is tried again as any step');
select test.done(:'run_id', 'm[4]');
select test.eq(test.state(:'run_id', 'm'), 'complete', 'the last has ended');

-- One fails: what has not started is cancelled, what runs may finish.
select test.map('[0, 1, 2, 3]', '{"max_parallel": 3}') as run_id \gset
select test.lease(:'run_id', 'm[0]') as lease \gset
select test.fail(:'run_id', 'm[1]', 'no');
select test.eq(test.items(:'run_id') || ' ' || test.state(:'run_id', 'm'), 'in_progress error cancelled cancelled in_progress', 'one fails, and no other starts');
select ordinaut.complete_work(:'lease', (test.step(:'run_id', 'm[0]')).step_id);
select test.eq((test.state(:'run_id', 'm'), test.error(:'run_id', 'm'), test.state(:'run_id'))::text, '(error,"1 of 4 items failed: m[1]: no",failed)', 'when the last has ended the map fails, and says which');
select test.eq(count(*), 0::bigint, 'nothing of it is left') from ordinaut.work as w where w.run_id = :'run_id' and w.status in ('pending', 'parked', 'running');

-- Failures that are tolerated.
select test.map('[0, 1, 2]', '{"on_failure": "continue", "max_parallel": 1}') as run_id \gset
select test.fail(:'run_id', 'm[0]', 'no'), test.done(:'run_id', 'm[1]', '"b"'), test.fail(:'run_id', 'm[2]', 'no');
select test.eq((test.state(:'run_id', 'm'), (test.step(:'run_id', 'm')).output)::text, '(complete,"[null, ""b"", null]")', 'continue: what failed is null');
select test.map('[0, 1, 2, 3]', '{"tolerate": 1, "max_parallel": 1}') as run_id \gset
select test.fail(:'run_id', 'm[0]', 'no'), test.done(:'run_id', 'm[1]');
select test.eq(test.items(:'run_id'), 'error complete ready pending', 'tolerate 1: one may fail');
select test.fail(:'run_id', 'm[2]', 'nor');
select test.eq(test.error(:'run_id', 'm'), '2 of 4 items failed: m[0]: no', 'and no second one');

select test.run('[{"id": "m", "uses": "echo", "map": {"over": "${params}"}, "continue_on_error": true}]') as run_id \gset
select test.wait(:'run_id', 'm', '{"kind": "map", "items": [0, 1]}');
select test.fail(:'run_id', 'm[0]', 'no');
select test.eq(test.items(:'run_id') || ' ' || test.state(:'run_id'), 'error cancelled success', 'continue_on_error: a map that fails is a step like others, and its cancelled items cancel no run');

-- Cancelled with its run.
select test.map('[0, 1, 2]', '{"max_parallel": 2}') as run_id \gset
select test.lease(:'run_id', 'm[0]') as lease \gset
select ordinaut.cancel_run(:'run_id');
select test.eq(test.items(:'run_id') || ' ' || test.state(:'run_id', 'm'), 'in_progress cancelled cancelled cancelled', 'a cancel covers the items');
select ordinaut.complete_work(:'lease', (test.step(:'run_id', 'm[0]')).step_id);
select test.eq(test.state(:'run_id'), 'cancelled', 'and the run ends with the one that ran');

-- Items that wait: each a child run, or a person.
select ordinaut.create_task('child', 'echo', p_queue => 'subs');
select test.run('[{"id": "m", "uses": "task", "map": {"over": "${params}"}}]') as run_id \gset
select test.wait(:'run_id', 'm', '{"kind": "map", "items": [0, 1, 2]}');
select test.wait(:'run_id', 'm[0]', '{"kind": "task", "task": "child"}');
select test.wait(:'run_id', 'm[1]', '{"kind": "task", "task": "child"}') from test.travel('1 s');
select ordinaut.complete_work(l.lease_id, l.work_id, '"done"') from ordinaut.lease_work('w', 'subs') as l;
select test.eq(test.items(:'run_id'), 'complete in_progress ready', 'an item may be a child run');
select test.fail(:'run_id', 'm[2]', 'no');
select test.eq(test.state(:'run_id', 'm[1]') || ' ' || test.state(:'run_id'), 'cancelled failed', 'that waits in vain when the map fails');
select test.eq(array(select r.state from ordinaut.run as r where r.task = 'default/child' order by r.enqueued_at), array['success', 'cancelled'], 'and is cancelled');

-- Tried again: what was done stays done.
select test.map('[0, 1, 2]', '{"max_parallel": 1}') as run_id \gset
select test.done(:'run_id', 'm[0]', '"kept"');
select test.fail(:'run_id', 'm[1]', 'no');
select ordinaut.retry_failed_steps(:'run_id');
select test.wait(:'run_id', 'm', '{"kind": "map", "items": [0, 1, 2], "max_parallel": 1}');
select test.eq(test.items(:'run_id'), 'complete ready pending', 'the same list again: only what failed');
select test.done(:'run_id', 'm[1]', '"now"'), test.done(:'run_id', 'm[2]', '"too"');
select test.eq((test.step(:'run_id', 'm')).output, '["kept", "now", "too"]', 'and all outputs');
select test.map('[0, 1]') as run_id \gset
select test.done(:'run_id', 'm[0]'), test.fail(:'run_id', 'm[1]', 'no');
select ordinaut.retry_failed_steps(:'run_id');
select test.wait(:'run_id', 'm', '{"kind": "map", "items": ["new", "list", "of three"]}');
select test.eq(test.items(:'run_id'), 'ready ready ready', 'another list: from the beginning');

rollback;
