-- A step runs a task and waits for its end: output, failure and cancel travel between parent and child.
\ir _begin.sql
\ir _steps.sql

create function test.parent(p_more jsonb default '{}') returns uuid
language plpgsql
as $fn$
declare
  v_id uuid := test.run('[{"id": "sub", "uses": "task", "save_as": "sub"}, {"id": "then", "uses": "echo"}]');
begin
  perform test.wait(v_id, 'sub', '{"kind": "task", "task": "ops/child"}'::jsonb || p_more);
  return v_id;
end
$fn$;
create function test.child(p_run_id uuid) returns ordinaut.run
language sql
as $fn$ select r from ordinaut.run as r where r.idempotency_key = 'child:' || (test.step(p_run_id, 'sub')).step_id order by r.run_id desc limit 1 $fn$;
create function test.settle(p_run_id uuid, p_error text default null) returns text
language plpgsql
as $fn$
declare
  v record;
begin
  select l.* into v from ordinaut.lease_work('w', p_queue => 'subs', p_limit => 1) as l;
  assert v.run_id = p_run_id, 'another run is first in line';
  return case when p_error is null then (select w.outcome from ordinaut.complete_work(v.lease_id, v.work_id, '{"n": 1}') as w)
    else (select w.outcome from ordinaut.fail_work(v.lease_id, v.work_id, p_error, false) as w) end;
end
$fn$;
select ordinaut.create_task('child', 'echo', '{"a": 1, "b": 2}', p_namespace => 'ops', p_queue => 'subs') as child \gset

-- Waited for.
select test.parent('{"params": {"b": 3}}') as run_id \gset
select (test.child(:'run_id')).run_id as child_id \gset
select test.eq((r.task, r.payload)::text, '(ops/child,"{""a"": 1, ""b"": 3}")', 'a run of the task, with params over its payload') from ordinaut.run as r where r.run_id = :'child_id';
select test.eq(ordinaut._parent_of(:'child_id'), :'run_id', 'knows its parent');
select test.eq(ordinaut._parent_of(:'run_id'), null, 'which has none');
select test.eq((select w.detail from ordinaut._why_wait((test.step(:'run_id', 'sub')).step_id) as w), format('it waits for run %s of task ops/child (pending)', :'child_id'), 'why() names the run');
select test.settle(:'child_id');
select test.eq((test.state(:'run_id', 'sub'), (test.step(:'run_id', 'sub')).output)::text, '(complete,"{""n"": 1}")', 'its output completes the step');
select test.eq(test.state(:'run_id', 'then'), 'ready', 'and what follows may start');
select test.eq(ordinaut._parent_of(:'child_id'), :'run_id', 'and it still knows');

-- Failed; cancelled.
select test.parent() as run_id \gset
select test.settle((test.child(:'run_id')).run_id, 'no disk');
select test.eq(test.state(:'run_id'), 'failed', 'a child that fails fails the step');
select test.eq(test.error(:'run_id', 'sub'), format('run %s of task ops/child failed: no disk', (test.child(:'run_id')).run_id), 'which says why');
select test.parent() as run_id \gset
select ordinaut.cancel_run((test.child(:'run_id')).run_id);
select test.ok(test.error(:'run_id', 'sub') like 'run % of task ops/child was cancelled: %', 'so does one that is cancelled');
select test.parent() as run_id \gset
select ordinaut.cancel_run(:'run_id', 'enough');
select test.eq((test.child(:'run_id')).state || ' ' || test.state(:'run_id'), 'cancelled cancelled', 'a cancel goes down');
select test.parent() as run_id \gset
select l.lease_id, l.work_id from ordinaut.lease_work('w', 'subs') as l \gset
select ordinaut.cancel_run(:'run_id');
select test.eq((select c.note from ordinaut.cancel_request as c where c.run_id = (test.child(:'run_id')).run_id), format('run %s, which it is part of, was cancelled', :'run_id'), 'also to one that runs');
select ordinaut.complete_work(:'lease_id', :'work_id');
select test.eq((test.child(:'run_id')).state || ' ' || test.state(:'run_id', 'sub'), 'success cancelled', 'a child that ends late unlocks nothing');

-- Not waited for.
select test.parent('{"wait": false}') as run_id \gset
select test.eq((test.step(:'run_id', 'sub')).output, jsonb_build_object('run_id', (test.child(:'run_id')).run_id), 'not waited for: the step has the run''s id');
select ordinaut.cancel_run(:'run_id');
select test.eq((test.child(:'run_id')).state, 'pending', 'and its run lives on');
select test.settle((test.child(:'run_id')).run_id);

-- Three levels, of steps.
select ordinaut.create_task('middle', p_pipeline => '[{"id": "sub", "uses": "task", "save_as": "deep"}]', p_namespace => 'ops');
select test.parent('{"task": "ops/middle"}') as run_id \gset
select (test.child(:'run_id')).run_id as middle \gset
select ordinaut.start_run(:'middle');
select test.wait(:'middle', 'sub', '{"kind": "task", "task": "ops/child"}');
select test.eq(ordinaut._parent_of(ordinaut._parent_of((test.child(:'middle')).run_id)), :'run_id', 'three levels');
select test.settle((test.child(:'middle')).run_id);
select test.eq((test.step(:'run_id', 'sub')).output, '{"deep": {"n": 1}}', 'outputs come up');
select test.parent('{"task": "ops/middle"}') as run_id \gset
select (test.child(:'run_id')).run_id as middle \gset
select ordinaut.start_run(:'middle');
select test.wait(:'middle', 'sub', '{"kind": "task", "task": "ops/child"}');
select ordinaut.cancel_run(:'run_id');
select test.eq((test.child(:'middle')).state, 'cancelled', 'a cancel goes all the way down');

-- Tried again: another run, once the first has ended.
select test.parent() as run_id \gset
select (test.child(:'run_id')).run_id as first_child, (test.step(:'run_id', 'sub')).step_id \gset
select test.settle(:'first_child', 'no disk');
select test.ok(h.held_until is not null, 'the key is free once the run has ended') from ordinaut.hold as h where h.key = 'child:' || :'step_id';

select ordinaut.retry_failed_steps(:'run_id') from test.travel('1 s');
select test.wait(:'run_id', 'sub', '{"kind": "task", "task": "ops/child"}');
select test.ok((test.child(:'run_id')).run_id <> :'first_child', 'tried again, the step starts another run');
select ordinaut._child_ended(:'first_child', :'step_id', ordinaut.now());
select test.eq(test.state(:'run_id', 'sub'), 'in_progress', 'and the end of the first is not taken for its');
select test.settle((test.child(:'run_id')).run_id);
select test.eq(test.state(:'run_id', 'sub'), 'complete', 'but its own is');

-- What cannot be run fails the step.
select test.eq(test.error(r, 'sub'), e, e)
from (values ('{"task": "ops/nobody"}', 'there is no task ''ops/nobody'''), ('{"task": null}', 'there is no task NULL')) as c (more, e) cross join lateral test.parent(c.more::jsonb) as r;
select ordinaut.pause_task('ops/child');
select test.eq(test.error(r, 'sub'), 'task ops/child is paused', 'a paused task') from test.parent() as r;
select ordinaut.resume_task('ops/child');
select ordinaut.set_queue('subs', p_max_pending => 1);
select ordinaut.enqueue('echo', p_queue => 'subs', p_run_at => ordinaut.now() + interval '1 hour');
select test.run('[{"id": "sub", "uses": "task"}]') as run_id \gset
select test.wait(:'run_id', 'sub', '{"kind": "task", "task": "ops/child"}');
select test.eq((s.state, w.run_at - ordinaut.now())::text, '(ready,00:00:05)', 'a full queue passes: it asks again') from test.step(:'run_id', 'sub') as s join ordinaut.due_work as w on w.work_id = s.step_id;

-- No end of children.
select ordinaut.create_task('loop', p_pipeline => '[{"id": "sub", "uses": "task"}]');
create function test.descend() returns text
language plpgsql
as $fn$
declare
  v_top uuid := (select n.run_id from ordinaut.run_now('loop') as n);
  v_id uuid := v_top;
begin
  for v_level in 1..30 loop
    perform ordinaut.start_run(v_id);
    if test.wait(v_id, 'sub', '{"kind": "task", "task": "loop"}') = 'failed' then
      return v_level || ': ' || test.error(v_id, 'sub') || '; ' || test.state(v_top);
    end if;
    v_id := (test.child(v_id)).run_id;
  end loop;
end
$fn$;
select test.eq(test.descend(), '20: task default/loop would be level 21 of ' || repeat('default/loop > ', 19) || 'default/loop; failed', 'a task that starts itself for ever is stopped, and all above fail');
select ordinaut.create_task('alone', p_pipeline => '[{"id": "sub", "uses": "task"}]', p_overlap => 'skip', p_queue => 'alone') as alone \gset
select n.run_id from ordinaut.run_now('alone') as n \gset
select l.lease_id, l.work_id from ordinaut.lease_work('w', 'alone') as l \gset
select ordinaut.wait_work(:'lease_id', :'work_id', '{"kind": "task", "task": "alone"}');
select test.eq(test.error(:'run_id', 'sub'), format('task default/alone would wait for ever: run %s, above it, has its key task:%s', :'run_id', :'alone'), 'nor does a run wait for a key of its own');

-- Nobody can be there before the child: the step would take its output for the task's.
select test.throws('22023', format('select ordinaut.enqueue(''echo'', p_idempotency_key => %L)', 'child:' || (test.step(:'run_id', 'sub')).step_id), 'a forged key');
select test.throws('22023', format('select ordinaut.run_now(''alone'', p_idempotency_key => %L)', 'child:' || (test.step(:'run_id', 'sub')).step_id), 'nor by a task');
select test.throws('22023', format('select ordinaut.enqueue_many(jsonb_build_array(jsonb_build_object(''idempotency_key'', %L)), ''echo'')', k), 'nor among many')
from unnest(array['child:x', 'emit:x', 'id:x', 'retry:x']) as k;

rollback;
