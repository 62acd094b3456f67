-- A step asks people and goes on with their answer: one decision ever, by whoever may, in the form that was asked for.
\ir _begin.sql
\ir _steps.sql

create function test.asked(p_more jsonb default '{}') returns uuid
language plpgsql
as $fn$
declare
  v_id uuid := test.run('[{"id": "ask", "uses": "approval", "save_as": "answer"}, {"id": "go", "uses": "echo"}]');
begin
  perform test.wait(v_id, 'ask', '{"kind": "approval", "prompt": "Pay 700?"}'::jsonb || p_more);
  return v_id;
end
$fn$;

-- Asked and answered (AC-145).
select test.asked('{"data": {"amount": 700}, "schema": {"type": "object", "required": ["approved"], "properties": {"approved": {"type": "boolean"}, "why": {"type": "string", "minLength": 3}}, "additionalProperties": false}}') as run_id \gset
select test.eq(test.state(:'run_id', 'ask') || ' ' || test.state(:'run_id'), 'in_progress running', 'the step waits');
select test.eq((select count(*) from ordinaut.lease), 0::bigint, 'and holds no worker');
select a.approval_id, a.step_id from ordinaut.list_approvals() as a \gset
select test.eq((select (a.run_id, a.step, a.state, a.prompt, a.data, a.may_answer)::text from ordinaut.list_approvals() as a), format('(%s,ask,open,"Pay 700?","{""amount"": 700}",t)', :'run_id'), 'people see what is asked');
select test.eq((select w.detail from ordinaut._why_wait(:'step_id') as w), 'it waits for an answer of anyone who may call respond() to ''Pay 700?''', 'and why() of whom');
select test.throws('22023', format('select ordinaut.respond(%L, %L)', :'approval_id', r), 'refused: ' || coalesce(r, 'null'))
from unnest(array['true', '{}', '{"approved": 1}', '{"approved": true, "why": "no"}', '{"approved": true, "x": 1}', null]) as r;
select test.eq((select a.state from ordinaut.list_approvals() as a), 'open', 'a response that breaks the schema changes nothing');
select test.travel('1 s');
select test.eq(ordinaut.respond(:'step_id', '{"approved": true}', 'as agreed'), :'approval_id', 'it may be named by its step');
select test.eq((test.step(:'run_id', 'ask')).output - 'by', '{"response": {"approved": true}, "at": "2026-03-27T12:00:01.000000Z", "note": "as agreed"}', 'the step completes with the response');
select test.ok((test.step(:'run_id', 'ask')).output ->> 'by' like session_user || '%', 'and with who gave it');
select test.eq(test.state(:'run_id', 'go'), 'ready', 'and what follows may start');
select test.throws('OR031', format('select ordinaut.respond(%L, ''{"approved": false}'')', :'approval_id'), 'a second response is an error');
select test.throws('OR031', format('select ordinaut.cancel_approval(%L)', :'approval_id'), 'and so is a cancel');
select test.eq((select (a.state, a.response, a.note)::text from ordinaut.list_approvals('answered') as a), '(answered,"{""approved"": true}","as agreed")', 'the first decision stands');
select test.eq((select array_agg(h.event) from ordinaut.run_history(:'run_id') as h where h.event like 'approval%'), array['approval_answered'], 'and is in the journal');
select test.throws('OR020', 'select ordinaut.respond(gen_random_uuid(), ''true'')', 'an approval that nobody asked for');

-- Without a schema.
select test.asked() as run_id \gset
select a.approval_id from ordinaut.list_approvals() as a \gset
select test.throws('22023', format('select ordinaut.respond(%L, ''"yes"'')', :'approval_id'), 'without a schema: an object or a boolean');
select test.eq(array(select ordinaut.find_approval(right(:'approval_id', 8))), array[:'approval_id']::uuid[], 'found by the end of its id');
select test.eq(array(select ordinaut.find_approval(right(:'run_id', 8), 'ask')), array[:'approval_id']::uuid[], 'or of its run''s, with the name of its step');
select ordinaut.respond(:'approval_id', 'false');
select test.eq((test.step(:'run_id', 'ask')).output -> 'response', 'false', 'a no is an answer: conditions decide what it means');

-- Cancelled; with its run.
select test.asked() as run_id \gset
select ordinaut.cancel_approval(a.approval_id, 'changed our mind') from ordinaut.list_approvals() as a;
select test.eq(test.state(:'run_id'), 'failed', 'withdrawn, the step fails');
select test.ok(test.error(:'run_id', 'ask') like 'approval % was cancelled by %: changed our mind', 'and says who and why');
select test.asked() as run_id \gset
select a.approval_id from ordinaut.list_approvals() as a \gset
select ordinaut.cancel_run(:'run_id');
select test.throws('OR031', format('select ordinaut.respond(%L, ''true'')', :'approval_id'), 'nobody answers for a run that was cancelled');
select test.eq((select count(*) from ordinaut.list_approvals()), 0::bigint, 'it is not asked any more');
select test.eq((select a.approval_id from ordinaut.list_approvals('void') as a), :'approval_id', 'but void');

-- Expired.
select test.asked('{"expires_in": 60}') as failing \gset
select test.asked('{"expires_in": 60, "on_expiry": "continue"}') as going_on \gset
select a.approval_id from ordinaut.list_approvals(p_run_id => :'failing') as a \gset
select test.travel('59 s');
select ordinaut.reap();
select test.eq(count(*), 2::bigint, 'a second before its expiry it is open') from ordinaut.list_approvals();
select test.travel('1 s');
select test.throws('OR031', format('select ordinaut.respond(%L, ''true'')', :'approval_id'), 'too late, though no sweep came yet');
select ordinaut.reap();
select test.eq((test.state(:'failing'), test.error(:'failing', 'ask'))::text, '(failed,"nobody answered within 00:01:00")', 'then the step fails');
select test.eq((test.state(:'going_on', 'ask'), (test.step(:'going_on', 'ask')).output)::text, '(complete,null)', 'or goes on with null');
select test.eq(count(*), 2::bigint, 'both have expired') from ordinaut.list_approvals('expired');

-- Who may.
create role test_boss;
create role test_clerk login;
grant usage on schema ordinaut, test to test_clerk;
grant execute on all functions in schema test to test_clerk;
grant execute on function ordinaut.respond, ordinaut.list_approvals to test_clerk;
select test.asked('{"responders": ["test_boss"]}') as run_id \gset
select a.approval_id from ordinaut.list_approvals() as a \gset
set local session authorization test_clerk;
select test.throws('42501', format('select ordinaut.respond(%L, ''true'')', :'approval_id'), 'who is not asked may not answer');
select test.eq(a.may_answer, false, 'and sees that') from ordinaut.list_approvals() as a;
reset session authorization;
grant test_boss to test_clerk;
set local session authorization test_clerk;
select ordinaut.respond(:'approval_id', 'true');
reset session authorization;
select test.ok((test.step(:'run_id', 'ask')).output ->> 'by' like 'test_clerk%', 'a member of the role may, by the name of the login role');

-- What asks for nonsense fails as a step.
select test.eq(test.wait(test.run('[{"id": "ask", "uses": "approval"}]'), 'ask', '{"kind": "approval", "prompt": "?"}'::jsonb || w::jsonb), 'failed', 'refused: ' || w)
from unnest(array['{"prompt": ""}', '{"prompt": null}', '{"responders": ["test_nobody"]}', '{"responders": []}', '{"expires_in": "soon"}', '{"on_expiry": "explode"}',
  '{"schema": []}', '{"schema": {"oneOf": []}}', '{"schema": {"type": "text"}}', '{"schema": {"properties": {"a": {"format": "date"}}}}', '{"schema": {"pattern": "("}}', '{"schema": {"items": {"$ref": "#"}}}']) as w;
select test.eq(count(*), 0::bigint, 'and nobody is asked') from ordinaut.list_approvals();

-- The schema, keyword by keyword.
select test.eq(ordinaut._json_problem(c.schema::jsonb, c.good::jsonb), null, c.schema || ' takes ' || c.good),
  test.ok(ordinaut._json_problem(c.schema::jsonb, c.bad::jsonb) is not null, c.schema || ' refuses ' || c.bad)
from (values
  ('{"type": "integer"}', '3', '3.5'), ('{"type": "integer"}', '3.0', '"3"'), ('{"type": ["string", "null"]}', 'null', '1'), ('{"type": "number"}', '3.5', 'true'),
  ('{"enum": ["a", 1, null]}', 'null', '"b"'), ('{"const": {"a": 1}}', '{"a": 1.0}', '{"a": 2}'), ('{"minimum": 1, "maximum": 2}', '2', '2.5'), ('{"minimum": 1}', '1', '0'),
  ('{"minLength": 2, "maxLength": 3}', '"äöü"', '"x"'), ('{"maxLength": 3}', '"abc"', '"abcd"'), ('{"pattern": "^a.*z$"}', '"abz"', '"abzy"'), ('{"required": ["a", "b"]}', '{"a": null, "b": 1}', '{"a": 1}'),
  ('{"properties": {"a": {"type": "string"}}}', '{"b": 1}', '{"a": 1}'), ('{"properties": {"a": {}}, "additionalProperties": false}', '{"a": 1}', '{"b": 1}'), ('{"additionalProperties": false}', '{}', '{"b": 1}'),
  ('{"items": {"type": "integer"}}', '[1, 2]', '[1, "2"]'), ('{"minLength": 5}', '12', '"abc"'), ('{"title": "x", "properties": {"a": {"items": {"enum": [1]}}}}', '{"a": [1]}', '{"a": [1, 2]}')
) as c (schema, good, bad);
select test.eq(ordinaut._json_problem('{"properties": {"a": {"items": {"properties": {"b": {"type": "string"}}}}}}', '{"a": [{}, {"b": 1}]}'), 'response.a[1].b must be string, not number', 'it says where');

-- Kept as long as its run is.
select test.prune('1 day') from test.travel('400 days');
select test.eq(count(*), 4::bigint, 'as long as its run lives, it is kept') from ordinaut.list_approvals('any');
select ordinaut.cancel_run(r.run_id) from ordinaut.task_run as r;
select test.prune('1 day') from test.travel('400 days');
select test.eq(count(*), 0::bigint, 'with its run it goes') from ordinaut.list_approvals('any');

rollback;
