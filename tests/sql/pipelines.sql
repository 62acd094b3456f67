-- A pipeline is stored once by what it says, compiled, and frozen into each run that follows it.
\ir _begin.sql

create function test.compiled(p_task text) returns setof ordinaut.pipeline_step
language sql
as $fn$
  select p.*
  from ordinaut.task as t
  join ordinaut.pipeline_step as p on p.pipeline_id = t.pipeline_id
  where t.name = p_task
  order by p.position;
$fn$;

-- In sequence, as nobody says needs; every default; the ids that are missing.
select ordinaut.create_task('line', p_pipeline => '[{"uses": "echo", "save_as": "first", "with": {"n": 1}},
  {"id": "b", "uses": "sql", "with": {"x": "${steps.first.n}", "y": "It''s 5 o''clock. Steps. Of steps.nobody: ${params.y}"}},
  {"uses": "echo", "if": "${steps.b.n > `5` && params.x == ''steps.zzz''}"}]', p_payload => '{"y": 1}') as line \gset
select test.eq(array(select c.name from test.compiled('line') as c), array['step_1', 'b', 'step_3'], 'names');
select test.eq(array(select c.needs::text from test.compiled('line') as c), array['{}', '{1}', '{2}'], 'each needs the one before');
select test.eq(array(select c.followers::text from test.compiled('line') as c), array['{2}', '{3}', '{}'], 'and is followed by the next');
select test.eq(array(select c.level from test.compiled('line') as c), array[0, 1, 2], 'levels');
select test.eq(array(select c.reads::text from test.compiled('line') as c), array['{}', '{1}', '{2}'], 'reads: no literal, and no text outside of ${}');
select test.eq(array(select c.has_context from test.compiled('line') as c), array[false, true, true], 'what has templates');
select test.eq(array(select c.max_attempts::integer from test.compiled('line') as c), array[3, 3, 3], 'three attempts');
select test.eq((select c.body from test.compiled('line') as c where c.position = 1), '{"with": {"n": 1}}'::jsonb, 'a body has what was said');
select test.eq((select t.tool from ordinaut.get_task('line') as t), 'pipeline', 'its tool');
select test.eq((select t.payload from ordinaut.get_task('line') as t), '{"y": 1}'::jsonb, 'its payload is the params');
select test.eq((select t.pipeline -> 1 ->> 'id' from ordinaut.get_task('line') as t), 'b', 'and its definition is shown');

-- A graph, and everything that can be said of a step.
select ordinaut.create_task('graph', p_pipeline => '[{"id": "d", "uses": "echo", "needs": ["b", "c"], "with": {"all": "${steps}"}},
  {"id": "b", "uses": "echo", "needs": "a"}, {"id": "c", "uses": "echo", "needs": ["a"], "with": {"h": "${ {x: steps.a.b, y: `1`} }"}},
  {"id": "a", "uses": "http", "queue": "io", "priority": 2, "timeout": "90 s", "retry_count": 5, "retry": {"base": "2 s"}, "save_as": "top",
   "continue_on_error": true, "skip_with_needs": true, "input_schema": {"a": null}, "output_schema": {}, "map": {"over": [1, null], "as": "x"},
   "on_rollback": {"uses": "undo", "with": {"id": "${output.id}"}, "timeout": 5, "retry_count": 2}},
  {"id": "e", "uses": "echo", "needs": ["d"], "with": {"x": "${params.steps.q} ${params.list[?steps.x].y} $${steps.none}"}, "timeout_seconds": 1.5, "retry": {"max_attempts": 9}}]');
select test.eq(array(select c.needs::text from test.compiled('graph') as c), array['{2,3}', '{4}', '{4}', '{}', '{1}'], 'needs by position');
select test.eq(array(select c.followers::text from test.compiled('graph') as c), array['{5}', '{1}', '{1}', '{2,3}', '{}'], 'followers');
select test.eq(array(select c.level from test.compiled('graph') as c), array[2, 1, 1, 0, 3], 'the longest way');
select test.eq(array(select c.reads::text from test.compiled('graph') as c), array[null, '{}', null, '{}', null], 'what cannot be followed reads all');
select test.eq((select to_jsonb(c) - array['pipeline_id', 'body'] from test.compiled('graph') as c where c.name = 'a'),
  '{"position": 4, "name": "a", "tool": "http", "save_as": "top", "queue": "io", "priority": 2, "timeout": "00:01:30", "max_attempts": 5,
    "retry": {"base": "2 s"}, "needs": [], "followers": [2, 3], "level": 0, "reads": [], "has_context": true, "continue_on_error": true,
    "skip_with_needs": true, "on_rollback": {"uses": "undo", "with": {"id": "${output.id}"}, "timeout": "00:00:05", "retry_count": 2}}'::jsonb, 'the row');
select test.eq((select c.body from test.compiled('graph') as c where c.name = 'a'),
  '{"with": {}, "map": {"over": [1, null], "as": "x"}, "input_schema": {"a": null}, "output_schema": {}}'::jsonb, 'the body, nulls kept');
select test.eq((select (c.timeout, c.max_attempts)::text from test.compiled('graph') as c where c.name = 'e'), '(00:00:01.5,9)', 'the other names of timeout and retry_count');

-- The limits: none, and a thousand.
select ordinaut.create_task('none', p_pipeline => '[]');
select test.eq((select count(*) from test.compiled('none')), 0::bigint, 'a pipeline of no steps');
select ordinaut.create_task('long', p_pipeline => (
  select jsonb_agg(jsonb_build_object('uses', 'echo') order by n) from generate_series(1, 1000) as n));
select test.eq((select max(c.level) from test.compiled('long') as c), 999, 'a thousand in sequence');

-- By content: the same definition is one, in whatever form it comes.
select count(*) as pipelines from ordinaut.pipeline \gset
select ordinaut.create_task('same', 'pipeline', '{"params": {"y": 2}, "pipeline": [{"id": "a", "uses": "echo"}]}');
select ordinaut.create_task('again', p_pipeline => '[{"uses":   "echo", "id": "a"}]');
select test.eq((select count(*) from ordinaut.pipeline), :pipelines + 1::bigint, 'one more, not two');
select test.eq((select t.payload from ordinaut.get_task('same') as t), '{"y": 2}'::jsonb, 'params and pipeline in one payload are taken apart');
select test.eq((select t.payload from ordinaut.get_task('again') as t), '{}'::jsonb, 'no params are {}');

-- A run keeps what it was queued with, whatever becomes of its task.
select run_id from ordinaut.run_now('again') \gset
select test.eq((select w.payload from ordinaut.due_work as w where w.work_id = :'run_id'), '{}'::jsonb, 'queued with its params');
select test.eq((select p.definition #>> '{0,id}' from ordinaut.due_work as w join ordinaut.pipeline as p using (pipeline_id) where w.work_id = :'run_id'), 'a', 'and its steps');
select test.eq(ordinaut.update_task('again', '{"pipeline": [{"id": "b", "uses": "echo"}], "params": {"z": 3}}'), 2, 'its steps and params change');
select test.eq(ordinaut.update_task('again', '{"pipeline": [{"id": "b", "uses": "echo"}], "payload": {"z": 3}}'), 2, 'the same again is no change');
select test.eq((select p.definition #>> '{0,id}' from ordinaut.due_work as w join ordinaut.pipeline as p using (pipeline_id) where w.work_id = :'run_id'), 'a', 'the queued run has the old ones');
select test.eq((select w.payload from ordinaut.due_work as w where w.work_id = :'run_id'), '{}'::jsonb, 'and the old params');
select run_id as second from ordinaut.run_now('again', '{"z": 4}') \gset
select test.eq((select p.definition #>> '{0,id}' || (w.payload ->> 'z') from ordinaut.due_work as w join ordinaut.pipeline as p using (pipeline_id) where w.work_id = :'second'), 'b4', 'a new one the new');
select test.throws('22023', 'select ordinaut.run_now(''again'', ''[1]'')', 'params must be an object then, too');
select test.eq(ordinaut.update_task('again', '{"params": {"pipeline": "p"}, "pipeline": [{"id": "b", "uses": "echo"}]}'), 3, 'params may be called so');
select test.eq(ordinaut.update_task('again', '{"priority": 3}'), 4, 'and are left alone');
select test.eq((select t.payload from ordinaut.get_task('again') as t), '{"pipeline": "p"}'::jsonb, 'as they are');
select test.throws('22023', 'select ordinaut.update_task(''again'', ''{"payload": {}, "params": {}}'')', 'params twice');
select test.throws('22023', 'select ordinaut.update_task(''again'', ''{"pipeline": null}'')', 'steps cannot be taken away');
select test.throws('22023', 'select ordinaut.update_task(''again'', ''{"payload": [1]}'')', 'nor params made a list');
select test.throws('22023', 'select ordinaut.update_task(''again'', ''{"tool": "echo", "pipeline": []}'')', 'nor both be given');
select test.eq(ordinaut.update_task('again', '{"tool": "echo"}'), 5, 'but a tool can replace them');
select test.eq((select t.pipeline from ordinaut.get_task('again') as t), null::jsonb, 'all of them');
select test.eq(ordinaut.update_task('again', '{"payload": {"params": {"q": 1}, "pipeline": []}, "tool": "pipeline"}'), 6, 'and steps a tool');
select test.eq((select t.payload from ordinaut.get_task('again') as t), '{"q": 1}'::jsonb, 'in the form of seeds, too');

-- Every way to a run carries it.
select test.eq((select count(*) from ordinaut.enqueue(p_pipeline => '[{"id": "b", "uses": "echo"}]', p_payload => '{"k": 1}', p_queue => 'e')), 1::bigint, 'enqueue');
select test.eq((select count(*) from ordinaut.enqueue('pipeline', '{"params": {"k": 1}, "pipeline": [{"id": "b", "uses": "echo"}]}', 'e')), 1::bigint, 'enqueue in one payload');
select test.eq((select count(*) from ordinaut.enqueue_many('[{"pipeline": [{"id": "b", "uses": "echo"}], "payload": {"k": 1}},
  {"tool": "pipeline", "payload": {"params": {"k": 1}, "pipeline": [{"id": "b", "uses": "echo"}]}}]', p_queue => 'e')), 2::bigint, 'enqueue_many');
select ordinaut.create_task('due', p_pipeline => '[{"id": "b", "uses": "echo"}]', p_payload => '{"k": 1}', p_queue => 'e',
  p_schedule_kind => 'interval', p_schedule_expr => '1 min');
select test.travel('1 min');
select test.eq((select t.fired from ordinaut.tick() as t), 1, 'tick');
select test.eq((select array_agg(distinct (w.tool, w.payload, p.definition #>> '{0,id}', w.step)::text) from ordinaut.due_work as w join ordinaut.pipeline as p using (pipeline_id) where w.queue = 'e'),
  array['(pipeline,"{""k"": 1}",b,)'], 'all alike');
select test.eq((select count(*) from ordinaut.due_work as w where w.queue = 'e'), 5::bigint, 'all five');

-- Tasks by tool.
select test.eq(array(select t.name from ordinaut.list_tasks(p_uses => 'http') as t), array['graph'], 'a tool of a step');
select test.eq(array(select t.name from ordinaut.list_tasks(p_uses => 'undo') as t), array['graph'], 'of a rollback');
select ordinaut.create_task('plain', 'http');
select test.eq(array(select t.name from ordinaut.list_tasks(p_uses => 'http') as t), array['graph', 'plain'], 'of a task itself');
select test.eq(array(select t.name from ordinaut.list_tasks(p_uses => 'http', p_limit => 1, p_offset => 1) as t), array['plain'], 'and by pages');

-- A template that is none, from psql: what a planner says of it makes the tasks that use it invalid.
select ordinaut.create_task('bad', p_pipeline => '[{"id": "b", "uses": "echo", "if": "> 25"}]') as bad \gset
select ordinaut.create_task('bad_too', p_pipeline => '[{"id": "b", "uses": "echo", "if": "> 25"}]');
select ordinaut.pause_task('bad_too');
select pipeline_id as bad_id from ordinaut.task where task_id = :'bad' \gset
select test.eq(array(select u.definition #>> '{0,if}' from ordinaut.unchecked_pipelines(1000) as u where u.pipeline_id = :'bad_id'), array['> 25'], 'it is asked for');
select test.eq((select count(*) from ordinaut.unchecked_pipelines(2)), 2::bigint, 'in pieces');
select count(*) as unchecked from ordinaut.unchecked_pipelines(1000) \gset
select test.ok(ordinaut.note_pipeline_check(pipeline_id, null), 'of one pipeline') from ordinaut.task where name = 'line';
select test.eq((select count(*) from ordinaut.unchecked_pipelines(1000)), :unchecked - 1::bigint, 'a verdict is on that one');
select test.ok(ordinaut.note_pipeline_check(u.pipeline_id, null), 'this one is good') from ordinaut.unchecked_pipelines() as u where u.pipeline_id <> :'bad_id';
select test.ok(ordinaut.note_pipeline_check(:'bad_id', 'step b, if: no JMESPath'), 'this one is not');
select test.eq((select count(*) from ordinaut.unchecked_pipelines()), 0::bigint, 'and nothing is left to look at');
select test.eq((select array_agg(t.name) from ordinaut.task as t where t.status = 'invalid'), array['bad'], 'its task is invalid, no other');
select test.ok((select w.detail like 'it was made invalid by %: step b, if: no JMESPath' from ordinaut.why('bad') as w), 'why says it');
select test.throws('OR031', 'select ordinaut.run_now(''bad'')', 'it does not run');
select ordinaut.update_task('bad', '{"priority": 1}');
select test.eq((select t.status from ordinaut.get_task('bad') as t), 'active', 'any change makes it active,');
select test.eq(array(select u.pipeline_id from ordinaut.unchecked_pipelines() as u), array[:'bad_id'::uuid], 'and its templates are read again');
select test.ok(ordinaut.note_pipeline_check(:'bad_id', 'step b, if: no JMESPath'), 'found wrong again');
select ordinaut.resume_task('bad_too');
select test.eq(array(select u.pipeline_id from ordinaut.unchecked_pipelines() as u), array[:'bad_id'::uuid], 'and so when a paused task is resumed');
select test.ok(ordinaut.note_pipeline_check(:'bad_id', 'step b, if: no JMESPath'), 'wrong');
select test.eq((select array_agg(t.name order by t.name) from ordinaut.task as t where t.status = 'invalid'), array['bad', 'bad_too'], 'both now');
select ordinaut.create_task('bad_three', p_pipeline => '[{"id": "b", "uses": "echo", "if": "> 25"}]');
select test.eq(array(select u.pipeline_id from ordinaut.unchecked_pipelines() as u), array[:'bad_id'::uuid], 'or another is made of it');
select test.ok(ordinaut.note_pipeline_check(:'bad_id', null), 'a later version reads it');
select ordinaut.update_task('bad', '{"priority": 2}');
select test.eq((select count(*) from ordinaut.unchecked_pipelines()), 0::bigint, 'then it is good');
select test.ok(not ordinaut.note_pipeline_check(gen_random_uuid(), null), 'of no pipeline nothing is noted');

-- A payload that only looks like one is left to its tool.
select ordinaut.create_task('alike', 'echo', '{"pipeline": [1], "x": 2}');
select test.eq((select t.payload from ordinaut.get_task('alike') as t), '{"pipeline": [1], "x": 2}'::jsonb, 'a key of that name');

-- A pipeline is kept while a task, a queued run, a parked one or a finished one follows it.
create function test.kept(p_id text) returns boolean
language sql
as $fn$ select exists (select from ordinaut.pipeline as p where p.definition #>> '{0,id}' = p_id) $fn$;
select ordinaut.create_task('k', p_pipeline => '[{"id": "of_task", "uses": "echo"}]');
select run_id as queued from ordinaut.enqueue(p_pipeline => '[{"id": "of_queued", "uses": "echo"}]', p_run_at => '2027-01-01 00:00:00+00') \gset
select ordinaut.enqueue(p_pipeline => '[{"id": "of_holder", "uses": "echo"}]', p_key => 'k', p_queue => 'k');
select ordinaut.enqueue(p_pipeline => '[{"id": "of_parked", "uses": "echo"}]', p_key => 'k', p_queue => 'k');
select count(*) from ordinaut.lease_work('me', 'k', 2, '1 day');
select test.eq((select count(*) from ordinaut.parked as p where p.queue = 'k'), 1::bigint, 'one is parked');
select ordinaut.enqueue(p_pipeline => '[{"id": "of_nobody", "uses": "echo"}]', p_queue => 'gone');
delete from ordinaut.due_work as w where w.queue = 'gone';
select test.travel('29 days');
select ordinaut.ensure_partitions();
select test.prune();
select test.eq(array(select i from unnest(array['of_task', 'of_queued', 'of_holder', 'of_parked', 'of_nobody']) as i where test.kept(i)),
  array['of_task', 'of_queued', 'of_holder', 'of_parked', 'of_nobody'], 'young ones are all kept');
select test.travel('2 days');
select test.prune();
select test.eq(array(select i from unnest(array['of_task', 'of_queued', 'of_holder', 'of_parked', 'of_nobody']) as i where test.kept(i)),
  array['of_task', 'of_queued', 'of_holder', 'of_parked'], 'old ones while something follows them');

rollback;
