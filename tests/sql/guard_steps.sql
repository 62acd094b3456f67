-- A run of steps is told, ends and is undone for itself, whatever lives beside it.
\ir _begin.sql
\ir _steps.sql

-- All that is known of a run: nothing of this may change for what another does.
create function test.all_of(p_run_id uuid) returns jsonb
language sql
as $fn$
  select jsonb_build_array(
    (select to_jsonb(r) from ordinaut.task_run as r where r.run_id = p_run_id),
    (select jsonb_agg(to_jsonb(s) order by s.position) from ordinaut.step as s where s.run_id = p_run_id),
    (select jsonb_agg(to_jsonb(w) order by w.work_id) from ordinaut.due_work as w where w.run_id = p_run_id),
    (select jsonb_agg(to_jsonb(p) order by p.work_id) from ordinaut.parked as p where p.run_id = p_run_id),
    (select jsonb_agg(to_jsonb(c)) from ordinaut.cancel_request as c where c.run_id = p_run_id),
    (select jsonb_agg(to_jsonb(b)) from ordinaut.payload as b where b.run_id = p_run_id));
$fn$;
create function test.told(p_run_id uuid, p_name text) returns jsonb
language plpgsql
as $fn$
declare
  v_lease uuid := test.lease(p_run_id, p_name);
begin
  return (select ordinaut._body(l.work[1]) from ordinaut.lease as l where l.lease_id = v_lease);
end
$fn$;
create function test.end(p_run_id uuid, p_name text, p_outcome text, p_text text default null, p_queue text default null) returns text[]
language plpgsql
as $fn$
declare
  v_step ordinaut.step := test.step(p_run_id, p_name);
  v_lease uuid := coalesce((select l.lease_id from ordinaut.lease as l where l.work[1].work_id = v_step.step_id), test.lease(p_run_id, p_name));
begin
  return array(
    select coalesce(n.step, s.kind)
    from ordinaut._settle(v_lease, array[v_step.step_id], array[p_outcome], array[p_text], array[p_text], '{1000}', ordinaut.now(), p_queue, case when p_queue is not null then 5 end) as s
    left join unnest(s.next) as n on true);
end
$fn$;
create function test.large(p_who text) returns jsonb
language sql
as $fn$ select jsonb_build_object('who', p_who, 'text', string_agg(md5(p_who || n), '')) from generate_series(1, 160) as n $fn$;

\set ours '[{"id": "a", "uses": "echo", "save_as": "x", "on_rollback": {"uses": "undo"}}, {"id": "b", "uses": "echo", "save_as": "y"}, {"id": "c", "uses": "echo", "save_as": "z", "with": {"v": "${steps.x}"}, "on_rollback": {"uses": "undo"}}, {"id": "d", "uses": "echo", "with": {"all": "${steps}"}}, {"id": "e", "uses": "echo", "with": {"v": "${steps.c}"}}]'
\set theirs '[{"id": "a", "uses": "echo", "save_as": "theirs", "on_rollback": {"uses": "undo", "retry_count": 1}}, {"id": "o2", "uses": "echo", "save_as": "their_y"}, {"id": "o3", "uses": "echo", "needs": "a"}, {"id": "d", "uses": "echo"}, {"id": "e", "uses": "echo"}, {"id": "f", "uses": "echo"}]'

-- The neighbours: one has failed, and its rollback too; one is asked to stop; one's failure is not evaluated yet; one is being undone.
select ordinaut.create_task('theirs', p_pipeline => :'theirs', p_payload => test.large('theirs'));
select run_id as failed from ordinaut.run_now('theirs') \gset
select ordinaut.start_run(:'failed');
select test.done(:'failed', 'a', '"theirs"'), test.done(:'failed', 'o2', '"theirs"'), test.done(:'failed', 'o3'), test.fail(:'failed', 'd', 'boom'), test.fail(:'failed', 'rollback(a)', 'stays');
select run_id as asked from ordinaut.enqueue(p_pipeline => :'ours', p_payload => test.large('asked')) \gset
select ordinaut.start_run(:'asked');
select test.done(:'asked', 'a', '"asked"'), test.done(:'asked', 'b', '"asked"'), test.done(:'asked', 'c', '"asked"');
select test.lease(:'asked', 'd') as asked_lease \gset
select ordinaut.cancel_run(:'asked', 'not that one');
select run_id as open from ordinaut.run_now('theirs') \gset
select ordinaut.start_run(:'open');
select test.done(:'open', 'a', '"open"'), test.done(:'open', 'o2', '"open"');
select ordinaut._fail_unevaluated(test.lease(:'open', 'o3'), (test.step(:'open', 'o3')).step_id, '{"message": "later"}');
select test.run(:'ours') as undone \gset
select test.done(:'undone', 'a', '"undone"'), test.done(:'undone', 'b', '"undone"'), test.done(:'undone', 'c', '"undone"'), test.fail(:'undone', 'd', 'boom');
create temp table beside on commit drop as select r as run_id, test.all_of(r) as was from unnest(array[:'failed', :'asked', :'open', :'undone']::uuid[]) as r;
create function test.unmoved(p_what text) returns text
language sql
as $fn$ select test.eq((select array_agg(b.run_id) from beside as b where test.all_of(b.run_id) <> b.was), null, p_what) $fn$;
select ordinaut.reap();
select test.unmoved('a sweep finds nothing to do');
select test.eq((select error -> 'rollbacks_failed' from ordinaut.get_run(:'failed')), '["rollback(a)"]', 'a neighbour that could not be undone');

-- What its steps are told: its own parameters and task, and of its own outputs those that it reads.
select ordinaut.create_task('ours', p_pipeline => :'ours', p_payload => test.large('ours'));
select run_id as run from ordinaut.run_now('ours') \gset
select ordinaut.start_run(:'run');
select test.done(:'run', 'a', '{"n": 1}');
select test.end(:'run', 'b', 'skipped');
select test.told(:'run', 'c') as told \gset
select test.eq(:'told'::jsonb -> 'params', test.large('ours'), 'large parameters are its own');
select test.eq(:'told'::jsonb -> 'run' ->> 'task', 'default/ours', 'so is the name of its task');
select test.eq(:'told'::jsonb -> 'steps', '{"a": {"n": 1}, "x": {"n": 1}}', 'by both names, what it reads');
select test.end(:'run', 'c', 'success', '{"n": 3}');
select test.eq(test.told(:'run', 'd') -> 'steps', '{"a": {"n": 1}, "x": {"n": 1}, "c": {"n": 3}, "z": {"n": 3}}', 'what was skipped has none, not null');
select test.end(:'run', 'd', 'success', '{"n": 4}');
select test.eq(test.told(:'run', 'e') -> 'steps', '{"c": {"n": 3}, "z": {"n": 3}}', 'what it does not read is not sent');
select test.end(:'run', 'e', 'failed', '{"message": "boom", "retryable": false}');
select test.eq((select array_agg(s.name || s.position order by s.position) from ordinaut.step as s where s.run_id = :'run' and s.kind = 'rollback'), '{rollback(c)6,rollback(a)7}', 'it is undone from the last to the first');
select test.eq(test.told(:'run', 'rollback(c)') -> 'output', '{"n": 3}', 'each is told the output');
select test.end(:'run', 'rollback(c)', 'success');
select test.eq(test.told(:'run', 'rollback(a)') -> 'output', '{"n": 1}', 'of what it undoes');
select test.end(:'run', 'rollback(a)', 'success');
select test.eq((select error - 'message' - 'retryable' from ordinaut.get_run(:'run')), '{"step": "e", "context": {"partial": {"x": {"n": 1}, "z": {"n": 3}}}}', 'and it fails with what it had, and all is undone');
select test.unmoved('while nothing moved beside it');

-- Success: what was skipped gives nothing.
select test.run(:'ours') as run \gset
select test.end(:'run', 'a', 'skipped'), test.done(:'run', 'b', '{"n": 2}'), test.end(:'run', 'c', 'skipped'), test.done(:'run', 'd'), test.done(:'run', 'e');
select test.eq((state, output)::text, '(success,"{""y"": {""n"": 2}}")', 'its outputs are its own') from ordinaut.get_run(:'run');
select test.unmoved('no request to stop another is answered');
select test.travel('1 s');
select ordinaut._close_runs(array[:'run']::uuid[], ordinaut.now());
select test.eq(r.finished_at, ordinaut.now() - interval '1 s', 'it ends once') from ordinaut.task_run as r where r.run_id = :'run';

-- Failure: what failed gives nothing, though others of the same name did.
select test.run(:'ours') as run \gset
select test.done(:'run', 'a', '{"n": null}'), test.fail(:'run', 'b', 'boom'), test.done(:'run', 'rollback(a)');
select test.eq((select error -> 'context' from ordinaut.get_run(:'run')), '{"partial": {"x": {"n": null}}}', 'it fails with its own, as it was');
select test.unmoved('a failure cancels no step of another, and forgives none');

-- Cancelled: who asked for this one, and why; until it is undone nobody is told to stop again.
select test.run(:'ours') as run \gset
select test.done(:'run', 'a', '{"n": 1}'), test.done(:'run', 'b'), test.done(:'run', 'c');
select test.lease(:'run', 'd') as lease \gset
select ordinaut.cancel_run(:'run', 'ours');
select test.eq((select array_agg(h.kind) from ordinaut.heartbeat(:'lease') as h), '{cancel}', 'its worker is told to stop');
select test.end(:'run', 'd', 'failed', '{"message": "stopped"}');
select test.lease(:'run', 'rollback(c)') as lease \gset
select test.eq((select array_agg(h.kind) from ordinaut.heartbeat(:'lease') as h where h.kind = 'cancel'), null, 'who undoes it is not');
select test.eq((ordinaut.cancel_run(:'run', 'again'), test.state(:'run', 'rollback(a)'))::text, '(requested,pending)', 'not even if asked again');
select test.end(:'run', 'rollback(c)', 'success'), test.done(:'run', 'rollback(a)');
select test.eq((state, error ->> 'note')::text, '(cancelled,ours)', 'it was cancelled for its own reason') from ordinaut.get_run(:'run');
select test.unmoved('the request for another stands');

-- A step that goes with its needs looks at its own.
select test.run('[{"id": "a", "uses": "echo"}, {"id": "b", "uses": "echo"}, {"id": "c", "uses": "echo", "needs": "b", "skip_with_needs": true}]') as run \gset
select test.done(:'run', 'a'), test.end(:'run', 'b', 'skipped');
select test.eq((test.state(:'run', 'c'), test.state(:'run'))::text, '(skipped,success)', 'all that it needs was skipped');
select test.run('[{"id": "s", "uses": "echo"}, {"id": "a", "uses": "echo", "needs": "s"}, {"id": "b", "uses": "echo", "needs": "s"}, {"id": "j", "uses": "echo", "needs": ["a", "b"], "skip_with_needs": true}, {"id": "k", "uses": "echo", "needs": ["a", "b"], "skip_with_needs": true, "with": {"v": "${params}"}}]') as run \gset
select test.done(:'run', 's'), test.end(:'run', 'a', 'skipped'), test.done(:'run', 'b');
select test.eq(test.told(:'run', 'j'), '{"with": {}}', 'one of two was not: it runs, and is told no more than it reads');
select test.eq(test.told(:'run', 'k') -> 'params', '{}', 'or all that it may read');

-- One that may fail is not another.
select test.run('[{"id": "a", "uses": "echo", "continue_on_error": true}, {"id": "b", "uses": "echo"}, {"id": "c", "uses": "echo"}]') as run \gset
select test.fail(:'run', 'a', 'boom');
select test.eq(test.state(:'run', 'b'), 'ready', 'the first may fail');
select test.fail(:'run', 'b', 'boom');
select test.eq(test.state(:'run', 'c') || ' ' || test.state(:'run'), 'cancelled failed', 'the second may not');

-- Its pipeline is lost: that is why it fails, whatever was cancelled elsewhere.
create function test.lose(p_run_id uuid) returns void language sql as
  $fn$ delete from ordinaut.pipeline as p using ordinaut.task_run as r where r.run_id = p_run_id and p.pipeline_id = r.pipeline_id $fn$;
select test.run('[{"id": "lost", "uses": "echo"}]') as run \gset
select test.lease(:'run', 'lost') as lease \gset
select test.lose(:'run');
select ordinaut.complete_work(:'lease');
select test.ok(state = 'failed' and error ->> 'message' like 'its pipeline % is gone', 'its last step ended all the same') from ordinaut.get_run(:'run');
select test.run('[{"id": "m", "uses": "echo", "map": {"over": "${params}"}, "continue_on_error": true}, {"id": "lost", "uses": "echo"}]') as run \gset
select test.wait(:'run', 'm', '{"kind": "map", "items": [0, 1]}'), test.fail(:'run', 'm[0]', 'boom');
select test.lease(:'run', 'lost') as lease \gset
select test.lose(:'run');
select ordinaut.complete_work(:'lease');
select test.eq(test.state(:'run', 'm[1]') || ' ' || test.state(:'run'), 'cancelled failed', 'items that were cancelled are the business of their map');

-- At last the neighbours end as they would have.
select test.end(:'asked', 'd', 'cancelled');
select test.eq(test.told(:'asked', 'rollback(c)') -> 'output', '"asked"', 'one is undone');
select test.end(:'asked', 'rollback(c)', 'success'), test.done(:'asked', 'rollback(a)');
select test.eq((state, error ->> 'note', error -> 'context' -> 'partial' ->> 'y')::text, '(cancelled,"not that one",asked)', 'as it was asked') from ordinaut.get_run(:'asked');
select test.eq(ordinaut.evaluate_step_failure((test.step(:'open', 'o3')).step_id), 'retry', 'one goes on');
rollback;
