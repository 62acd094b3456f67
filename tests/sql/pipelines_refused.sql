-- A pipeline that could not run is refused when it is defined, with the step named, and nothing is left of it.
\ir _begin.sql

create function test.refusal(p_pipeline jsonb) returns text
language plpgsql
as $fn$
declare
  v_message text;
begin
  perform ordinaut.create_task('t', p_pipeline => p_pipeline);
  return 'no error';
exception
  when invalid_parameter_value then
    get stacked diagnostics v_message = message_text;
    return v_message;
end
$fn$;
create function test.says(p_message text, p_pipeline jsonb) returns text
language plpgsql
as $fn$
declare
  v_said text := test.refusal(p_pipeline);
begin
  return test.ok(left(v_said, length(p_message)) = p_message, format('%s refused: %s', left(p_pipeline::text, 60), v_said));
end
$fn$;
create function test.message(p_call text) returns text
language plpgsql
as $fn$
begin
  execute 'select ordinaut.' || p_call;
  return null;
exception
  when others then
    return sqlerrm;
end
$fn$;
create function test.step(p_more jsonb) returns jsonb
language sql
as $fn$ select jsonb_build_array('{"id": "a", "uses": "echo"}'::jsonb, '{"id": "b", "uses": "echo"}'::jsonb || p_more) $fn$;

create function test.rows() returns bigint
language sql
as $fn$
  select (select count(*) from ordinaut.pipeline) + (select count(*) from ordinaut.pipeline_step)
    + (select count(*) from ordinaut.task) + (select count(*) from ordinaut.work);
$fn$;
select test.rows() as rows_before \gset

-- The whole.
select test.says('pipeline must be an array of steps', p::jsonb) from unnest(array['{}', '"echo"', '7', 'true']) as p;
select test.says('a pipeline of 1001 steps: at most 1000', (
  select jsonb_agg('{"uses": "echo"}'::jsonb) from generate_series(1, 1001)));
select test.says('step 2 (?): a step must be an object', '[{"uses": "echo"}, "echo"]');
select test.says('step 2 (?): a step must be an object', '[{"uses": "echo"}, null]');

-- One step, each message with its position and id.
select test.says('step 2 (b): ' || t.said, test.step(t.more::jsonb))
from (values
  ('unknown key ''use''', '{"use": "echo"}'),
  ('uses is missing', '{"uses": ""}'),
  ('uses is missing', '{"uses": " "}'),
  ('uses must be string, not null', '{"uses": null}'),
  ('uses must be string, not number', '{"uses": 7}'),
  ('uses cannot be pipeline', '{"uses": "pipeline"}'),
  ('tool ''rm -rf /'' is not a tool name', '{"uses": "rm -rf /"}'),
  ('with must be object, not array', '{"with": [1]}'),
  ('needs must be array or string, not object', '{"needs": {}}'),
  ('needs must be array or string, not null', '{"needs": null}'),
  ('it needs ''c'', which is no step', '{"needs": "c"}'),
  ('it needs ''1'', which is no step', '{"needs": [1]}'),
  ('it needs NULL, which is no step', '{"needs": [null]}'),
  ('it needs itself', '{"needs": ["b"]}'),
  ('it needs ''a'' twice', '{"needs": ["a", "a"]}'),
  ('if must be string, not boolean', '{"if": true}'),
  ('if is blank', '{"if": " "}'),
  ('an empty ${} in ''${}''', '{"if": "${}"}'),
  ('save_as '''' is not a name', '{"save_as": ""}'),
  ('save_as '' '' is not a name', '{"save_as": " "}'),
  ('save_as ''the result'' is not a name', '{"save_as": "the result"}'),
  ('save_as a is the id of step 1', '{"save_as": "a"}'),
  ('retry_count 0 must be a whole number, 1 to 100', '{"retry_count": 0}'),
  ('retry_count 101 must be a whole number, 1 to 100', '{"retry_count": 101}'),
  ('retry_count 1.5 must be a whole number', '{"retry_count": 1.5}'),
  ('retry_count 1000', ('{"retry_count": 1' || repeat('0', 400) || '}')),
  ('retry_count must be number, not string', '{"retry_count": "3"}'),
  ('retry_count and retry.max_attempts say the same', '{"retry_count": 3, "retry": {"max_attempts": 3}}'),
  ('retry.max_attempts "x" must be a whole number', '{"retry": {"max_attempts": "x"}}'),
  ('retry.bases cannot be', '{"retry": {"bases": "1 s"}}'),
  ('retry.base cannot be ''soon''', '{"retry": {"base": "soon"}}'),
  ('retry must be object, not number', '{"retry": 3}'),
  ('timeout "soon" is not a duration', '{"timeout": "soon"}'),
  ('timeout 00:00:00 must be 00:00:00.001 to 30 days', '{"timeout": 0}'),
  ('timeout -00:00:01 must be', '{"timeout": -1}'),
  ('timeout 1000', ('{"timeout": 1' || repeat('0', 400) || '}')),
  ('timeout 31 days must be', '{"timeout": "31 days"}'),
  ('timeout_seconds ', '{"timeout_seconds": 1e30}'),
  ('timeout_seconds must be number, not string', '{"timeout_seconds": "1 s"}'),
  ('timeout and timeout_seconds say the same', '{"timeout": 1, "timeout_seconds": 1}'),
  ('queue ''Q'' is not a name', '{"queue": "Q"}'),
  ('priority 0 must be a whole number, 1 to 9', '{"priority": 0}'),
  ('continue_on_error must be boolean, not string', '{"continue_on_error": "yes"}'),
  ('skip_with_needs must be boolean, not number', '{"skip_with_needs": 1}'),
  ('input_schema must be object, not boolean', '{"input_schema": true}'),
  ('output_schema must be object, not string', '{"output_schema": "x"}'),
  ('on_rollback must be object, not string', '{"on_rollback": "echo"}'),
  ('on_rollback.uses is missing', '{"on_rollback": {}}'),
  ('unknown key ''on_rollback.needs''', '{"on_rollback": {"uses": "echo", "needs": []}}'),
  ('on_rollback.timeout "x" is not a duration', '{"on_rollback": {"uses": "echo", "timeout": "x"}}'),
  ('on_rollback.retry_count 0 must be', '{"on_rollback": {"uses": "echo", "retry_count": 0}}'),
  ('a ${ without its } in', '{"on_rollback": {"uses": "echo", "with": {"x": "${output"}}}'),
  ('map must be object, not array', '{"map": [1]}'),
  ('map.over is missing', '{"map": {}}'),
  ('map.over must be string or array, not number', '{"map": {"over": 3}}'),
  ('map.over ''files'' is not a list', '{"map": {"over": "files"}}'),
  ('map.as ''my item'' cannot name the item', '{"map": {"over": [1], "as": "my item"}}'),
  ('map.as ''steps'' cannot name the item', '{"map": {"over": [1], "as": "steps"}}'),
  ('map.max_parallel 0 must be', '{"map": {"over": [1], "max_parallel": 0}}'),
  ('map.tolerate -1 must be', '{"map": {"over": [1], "tolerate": -1}}'),
  ('map.on_failure ''stop'' must be fail or continue', '{"map": {"over": [1], "on_failure": "stop"}}'),
  ('unknown key ''map.limit''', '{"map": {"over": [1], "limit": 1}}'),
  ('a ${ without its } in ''a ${params.x''', '{"with": {"x": [{"y": "a ${params.x"}]}}'),
  ('an empty ${} in ''a ${ } b''', '{"with": {"x": "a ${ } b"}}'),
  ('it reads steps.c, which is no step', '{"with": {"x": "${steps.c.y}"}}'),
  ('it reads steps.c, which is no step', '{"with": {"x": "a ${params.x} and ${steps.a.x || steps.c}"}}'),
  ('it reads steps.c, which is no step', '{"if": "steps.\"c\".n > `5`"}'),
  ('it reads steps.b, its own output', '{"with": {"x": "${steps.b.y}"}}'),
  ('it reads steps.saved, its own output', '{"with": {"x": "${steps.saved.y}"}, "save_as": "saved"}'),
  ('it reads steps.a, which it does not need', '{"needs": [], "map": {"over": "${steps.a.list}"}}')
) as t (said, more);

-- Ids.
select test.says('step 2 (a): its id is that of step 1', '[{"id": "a", "uses": "echo"}, {"id": "a", "uses": "echo"}]');
select test.says('step 2 (step_2): its id is that of step 1', '[{"id": "step_2", "uses": "echo"}, {"uses": "echo"}]');
select test.says('step 1 (9a): id ''9a'' is not a name', '[{"id": "9a", "uses": "echo"}]');
select test.says('step 1 (): id '''' is not a name', '[{"id": "", "uses": "echo"}]');
select test.says('step 1 (step_1): id must be string, not null', '[{"id": null, "uses": "echo"}]');
select test.says('step 1 (' || repeat('x', 63) || '): id', jsonb_build_array(jsonb_build_object('id', repeat('x', 64), 'uses', 'echo')));
select test.says('step 1 (step_1): uses is missing', '[{}]');
select test.says('step 3 (c): save_as x is the save_as of step 1',
  '[{"id": "a", "uses": "echo", "save_as": "x"}, {"id": "b", "uses": "echo"}, {"id": "c", "uses": "echo", "save_as": "x"}]');

-- Cycles are named, from a step in it, whatever hangs on them.
select test.says('step 2 (b): its needs are a cycle: b -> d -> c -> b',
  '[{"id": "a", "uses": "echo"}, {"id": "b", "uses": "echo", "needs": ["a", "d"]}, {"id": "c", "uses": "echo", "needs": "b"},
    {"id": "d", "uses": "echo", "needs": "c"}, {"id": "e", "uses": "echo", "needs": "d"}]');
select test.says('step 1 (a): its needs are a cycle: a -> b -> a',
  '[{"id": "a", "uses": "echo", "needs": "b"}, {"id": "b", "uses": "echo", "needs": "a"}]');

-- A read of a step that only others wait for is a race, and refused; one through others is fine.
select test.says('step 3 (c): it reads steps.x, which it does not need',
  '[{"id": "a", "uses": "echo"}, {"id": "b", "uses": "echo", "needs": "a", "save_as": "x"}, {"id": "c", "uses": "echo", "needs": "a", "if": "steps.x"}]');

-- The tool and the pipeline.
select test.throws('22023', 'select ordinaut.create_task(''t'', ''echo'', p_pipeline => ''[]'')', 'a tool and a pipeline');
select test.throws('22023', 'select ordinaut.create_task(''t'', ''pipeline'')', 'no pipeline');
select test.throws('22023', 'select ordinaut.create_task(''t'')', 'neither');
select test.throws('22023', 'select ordinaut.create_task(''t'', p_payload => ''[1]'', p_pipeline => ''[]'')', 'params that are no object');
select test.throws('22023', 'select ordinaut.create_task(''t'', ''pipeline'', ''{"pipeline": [], "parms": {}}'')', 'params misspelt');
select test.throws('22023', 'select ordinaut.create_task(''t'', ''pipeline'', ''{"pipeline": null}'')', 'a pipeline that is null');
select test.ok(test.message(c) = 'tool is pipeline, but there is no pipeline', c) from unnest(array[
  'create_task(''t'', ''pipeline'')', 'create_task(''t'', ''pipeline'', ''["pipeline"]'')', 'enqueue(''pipeline'', ''"pipeline"'')']) as c;
select test.throws('22023', 'select ordinaut.enqueue(p_pipeline => ''[{}]'')', 'enqueue');
select test.throws('22023', 'select ordinaut.enqueue(''pipeline'')', 'enqueue without one');
select test.throws('22023', 'select ordinaut.enqueue_many(''[{"pipeline": [{}]}, {"pipeline": []}]'')', 'enqueue_many');
select test.throws('22023', 'select ordinaut.enqueue_many(''[{}]'', ''pipeline'')', 'enqueue_many without one');
select test.throws('54000', 'select ordinaut.enqueue(p_pipeline => jsonb_build_array(jsonb_build_object(''uses'', ''echo'', ''with'', jsonb_build_object(''x'', repeat(''y'', 1100000)))))', 'over 1 MB');

select test.eq(test.rows(), :rows_before, 'and nothing was written');
rollback;
