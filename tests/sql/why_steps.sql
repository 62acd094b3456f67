-- Why a run of steps has not gone on, and why one of its steps has not run.
\ir _begin.sql
\ir _steps.sql
create function test.why(p_id text) returns text[] language sql as
  $fn$ select array_agg(w.reason || ': ' || w.detail order by w.reason, w.detail) from ordinaut.why(p_id) as w $fn$;
select ordinaut.register_worker(gen_random_uuid(), '{default}', '{echo}');

select test.run('[{"id": "a", "uses": "echo", "needs": [], "retry": {"base": "10 s", "jitter": 0}}, {"id": "z", "uses": "sleep", "needs": []}, {"id": "b", "uses": "echo", "needs": ["a", "z"]}]') as run \gset
select test.eq(test.why((test.step(:'run', 'a')).step_id::text), array['ready: nothing holds it back: the next lease of its queue may take it'], 'a step that is due');
select test.eq(test.why(:'run'), array['ready: step a: nothing holds it back: the next lease of its queue may take it', 'ready: step z: nothing holds it back: the next lease of its queue may take it',
  'waits_step: step b waits for step a, which is ready', 'waits_step: step b waits for step z, which is ready'], 'a run tells of each step');
select test.wait(:'run', 'z', '{"kind": "sleep", "seconds": 60}');
select test.fail(:'run', 'a', 'boom', true);
select test.eq(test.why(:'run'), array['backoff: step a: attempt 1 failed: boom', 'sleeping: step z sleeps',
  'waits_step: step b waits for step a, which is waiting_for_retry', 'waits_step: step b waits for step z, which is in_progress'], 'what it waits for');
select test.eq(w.until, ordinaut.now() + '60 s', 'and until when') from ordinaut.why(right((test.step(:'run', 'z')).step_id::text, 12)) as w;
select test.lease(:'run', 'a');
select test.eq(test.why((test.step(:'run', 'a')).step_id::text), array['running: step a: attempt 2 is leased by w'], 'a step that runs');
select ordinaut.fail_work((select lease_id from ordinaut.lease), (test.step(:'run', 'a')).step_id, 'no', false);
select test.eq(test.why((test.step(:'run', 'b')).step_id::text), array['finished: step b ended as cancelled'], 'a step that never ran');
select test.eq(test.why(:'run'), array['finished: it ended as failed: step a: no'], 'a run that has ended');

select test.run('[{"id": "a", "uses": "echo", "on_rollback": {"uses": "echo"}}, {"id": "b", "uses": "echo"}]') as run \gset
select test.done(:'run', 'a');
select test.fail(:'run', 'b', 'boom');
select test.eq((test.why(:'run'))[1], 'failing: it will end as failed when what runs has ended and what is done is rolled back: step b: boom', 'a run that is rolled back');
select test.run('[{"id": "a", "uses": "wait_for_event"}]') as run \gset
select test.wait(:'run', 'a', '{"kind": "event", "topic": "paid"}');
select test.eq(test.why(:'run'), array['waits_event: step a: it waits for event paid'], 'an event');
select test.throws('OR020', 'select ordinaut.why(''abcdef99'')', 'nothing has such an id');
rollback;
