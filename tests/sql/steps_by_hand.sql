-- What a person may do to a step, and to a run of steps that has failed.
\ir _begin.sql
\ir _steps.sql
create function test.states(p_run_id uuid) returns text language sql as $fn$
  select string_agg(s.name || ' ' || s.state, ', ' order by s.position) || ': ' || test.state(p_run_id) from ordinaut.step as s where s.run_id = p_run_id $fn$;
create function test.id(p_run_id uuid, p_name text) returns uuid language sql as 'select (test.step(p_run_id, p_name)).step_id';
create function test.seen(p_run_id uuid, p_name text) returns text[] language sql as
  'select array_agg(h.to_state) from ordinaut.step_history(test.id(p_run_id, p_name)) as h';
create function test.placed() returns text language sql as $fn$
  select string_agg(w.step || ' ' || w.status, ', ' order by w.step) from ordinaut.work as w where w.finished_at is null $fn$;
\set three '[{"id": "a", "uses": "echo", "save_as": "a"}, {"id": "b", "uses": "echo", "save_as": "b"}, {"id": "c", "uses": "echo", "save_as": "c"}]'
create function test.failed(p_pipeline jsonb) returns uuid language plpgsql as $fn$
declare v_id uuid := test.run(p_pipeline);
begin
  perform test.done(v_id, 'a', '{"n": 1}'), test.travel('1 s');
  perform test.fail(v_id, 'b', 'boom'), test.travel('1 s');
  return v_id;
end $fn$;

-- A failed run goes on in place.
select test.failed(:'three') as run \gset
select test.eq(test.states(:'run'), 'a complete, b error, c cancelled: failed', 'it has failed');
select test.eq(ordinaut.retry_failed_steps(:'run', 'fixed'), 1, 'one step is tried again');
select test.eq(test.states(:'run'), 'a complete, b ready, c pending: running', 'the run goes on');
select test.eq((state, error, finished_at, output)::text, ('running', null, null, null)::text, 'as if it had not ended') from ordinaut.get_run(:'run');
select test.eq((s.attempt, s.failures, s.waits_for)::text, (0, 0, 0)::text, 'its attempts are counted anew') from test.step(:'run', 'b') as s;
select test.throws('OR031', format('select ordinaut.retry_failed_steps(%L)', :'run'), 'a run that runs has not failed');
select test.travel('1 s');
select test.done(:'run', 'b', '{"n": 2}'), test.travel('1 s'), test.done(:'run', 'c');
select test.eq((state, output)::text, ('success', '{"a": {"n": 1}, "b": {"n": 2}, "c": null}')::text, 'and succeeds') from ordinaut.get_run(:'run');
select test.eq(test.seen(:'run', 'b'), '{pending,in_progress,error,ready,in_progress,complete}', 'its history tells both tries');
select test.eq(test.seen(:'run', 'c'), '{pending,cancelled,pending,in_progress,complete}', 'what was cancelled is not forgotten');
select test.eq(array_agg(h.event || coalesce(' ' || h.step, '') order by h.event), '{"step_reopened c","step_retried b","steps_retried"}', 'and the journal who and why')
from ordinaut.run_history(:'run') as h where h.actor is not null and h.event ~ '^steps?_re';
select test.eq(detail ->> 'note', 'fixed', 'why') from ordinaut.run_history(:'run') where event = 'steps_retried';
select test.throws('OR031', format('select ordinaut.retry_failed_steps(%L)', :'run'), 'what has succeeded is not retried');
select test.throws('OR020', format('select ordinaut.retry_failed_steps(%L)', gen_random_uuid()), 'nor what there is not');

-- A cancelled run, and one of which two branches failed.
select test.run(:'three') as run \gset
select test.done(:'run', 'a');
select ordinaut.cancel_run(:'run');
select test.eq(ordinaut.retry_failed_steps(:'run'), 0, 'none has failed');
select test.eq(test.states(:'run'), 'a complete, b ready, c pending: running', 'but it goes on');
select ordinaut.cancel_run(:'run');
select test.run('[{"id": "a", "uses": "echo", "needs": []}, {"id": "b", "uses": "echo", "needs": []}, {"id": "j", "uses": "echo", "needs": ["a", "b"]}]') as run \gset
select test.lease(:'run', 'a') as lease \gset
select test.fail(:'run', 'b', 'boom');
select ordinaut.fail_work(:'lease', test.id(:'run', 'a'), 'bang', false);
select test.eq(test.states(:'run'), 'a error, b error, j cancelled: failed', 'both have failed');
select test.eq(ordinaut.resolve_step(test.id(:'run', 'a')), 'resolved_manually', 'one is resolved');
select test.eq(test.states(:'run'), 'a resolved_manually, b error, j cancelled: failed', 'the other still fails the run');
select test.eq(error ->> 'step', 'b', 'and says so') from ordinaut.get_run(:'run');
select test.eq(ordinaut.retry_failed_steps(:'run'), 1, 'the other is retried');
select test.done(:'run', 'b'), test.done(:'run', 'j');
select test.eq(test.state(:'run'), 'success', 'and the run succeeds');

-- Resolved: what needs it goes on.  Completed: with an output that it reads.  Skipped: without.
select test.failed(:'three') as run \gset
select test.eq(ordinaut.resolve_step(test.id(:'run', 'b'), 'done by phone'), 'resolved_manually', 'resolved');
select test.eq(test.states(:'run'), 'a complete, b resolved_manually, c ready: running', 'what needs it goes on');
select test.eq((h.from_state, h.to_state, h.detail ->> 'note', h.actor is not null)::text, ('error', 'resolved_manually', 'done by phone', true)::text, 'its history says why')
from ordinaut.step_history(test.id(:'run', 'b')) as h where h.is_current;
select test.eq((execution_status, completed_steps)::text, ('has_ready_steps', 2)::text, 'the context counts it') from ordinaut.get_task_execution_context(:'run');
select test.done(:'run', 'c');
select test.failed('[{"id": "a", "uses": "echo"}, {"id": "b", "uses": "echo", "save_as": "b"}, {"id": "c", "uses": "echo", "with": {"x": "${steps.b.n}"}}]') as run \gset
select test.throws('54000', format('select ordinaut.complete_step(%L, to_jsonb(repeat(''x'', 2000000)))', test.id(:'run', 'b')), 'an output has bounds');
select test.eq(test.states(:'run'), 'a complete, b error, c cancelled: failed', 'what is refused changes nothing');
select ordinaut.complete_step(test.id(:'run', 'b'), '{"n": 7}', 'by hand');
select test.eq(payload::jsonb -> 'steps' -> 'b' ->> 'n', '7', 'the output is what the next step reads') from ordinaut.lease_work('w') where step = 'c';
select ordinaut.complete_work((select lease_id from ordinaut.lease));
select test.eq((state, output)::text, ('success', '{"b": {"n": 7}}')::text, 'and what the run gives') from ordinaut.get_run(:'run');
select test.run(:'three') as run \gset
select test.throws('OR031', format('select ordinaut.skip_step(%L)', test.id(:'run', 'b')), 'a step that waits for another is left alone: the next would overtake that');
select test.done(:'run', 'a');
select test.eq(ordinaut.skip_step(test.id(:'run', 'b')), 'skipped', 'a step that is due is skipped');
select test.eq((test.states(:'run'), test.placed())::text, ('a complete, b skipped, c ready: running', 'c pending')::text, 'and passed over');
select test.eq(ordinaut.complete_step(test.id(:'run', 'c')), 'complete', 'a step that is due is completed');
select test.eq((test.state(:'run'), test.placed())::text, ('success', null)::text, 'its unit is gone, and the run done');
select test.throws('OR031', format('select ordinaut.skip_step(%L)', test.id(:'run', 'a')), 'what is complete stays');
select test.throws('OR020', format('select ordinaut.skip_step(%L)', gen_random_uuid()), 'there is no such step');

-- Cancelled with its run.
select test.failed(:'three') as run \gset
select test.throws('OR031', format('select ordinaut.reset_step(%L)', test.id(:'run', 'c')), 'what was cancelled has not failed');
select test.throws('OR031', format('select ordinaut.complete_step(%L)', test.id(:'run', 'c')), 'and waits for what has');
select test.eq(test.states(:'run'), 'a complete, b error, c cancelled: failed', 'nothing has changed');
select test.run(:'three') as run \gset
select ordinaut.cancel_run(:'run');
select test.eq(ordinaut.skip_step(test.id(:'run', 'a')), 'skipped', 'one that waits for nothing');
select test.eq(test.states(:'run'), 'a skipped, b ready, c pending: running', 'is ended, and the run goes on');
select ordinaut.cancel_run(:'run');

-- While a run is being cancelled, it is.
select test.run('[{"id": "a", "uses": "echo", "needs": []}, {"id": "b", "uses": "echo", "needs": []}]') as run \gset
select test.lease(:'run', 'a') as lease \gset
select test.eq(ordinaut.cancel_run(:'run'), 'requested', 'one step still runs');
select test.throws('OR031', format('select ordinaut.skip_step(%L)', test.id(:'run', 'b')), 'nobody lets the others go on');
select ordinaut.release_work(:'lease', test.id(:'run', 'a'));
select test.eq(ordinaut.skip_step(test.id(:'run', 'b')), 'skipped', 'until it has ended');
select test.eq(test.states(:'run'), 'a ready, b skipped: running', 'then it goes on');
select test.travel('1 s'), test.done(:'run', 'a');
select test.eq(test.state(:'run'), 'success', 'and the cancel is forgotten');
select test.eq((h.to_state, h.actor, h.detail)::text, ('complete', null, '{}')::text, 'nor does it tell of its end') from ordinaut.step_history(test.id(:'run', 'a')) as h where h.is_current;

-- Reset: at once, and counted anew.
select test.run('[{"id": "a", "uses": "echo", "retry": {"base": "1 h", "jitter": 0}}]') as run \gset
select test.fail(:'run', 'a', 'x', true), test.travel('1 s');
select test.eq(ordinaut.reset_step(test.id(:'run', 'a'), 'again'), 'ready', 'a step that backs off is reset');
select test.eq((s.state, s.attempt, s.failures, s.next_retry_at)::text, ('ready', 0, 0, null)::text, 'as if it had never been tried') from test.step(:'run', 'a') as s;
select test.eq(count(*), 1, 'and due') from ordinaut.due_work as w where w.run_at <= ordinaut.now();
select test.throws('OR031', format('select ordinaut.reset_step(%L)', test.id(:'run', 'a')), 'it has not failed now');
select test.travel('1 s'), test.fail(:'run', 'a', 'for good');
select test.eq(ordinaut.reset_step(test.id(:'run', 'a')), 'ready', 'the reset of a failed step reopens its run');
select test.eq(test.states(:'run'), 'a ready: running', 'which goes on');
select test.travel('1 s');
select test.lease(:'run', 'a') as lease \gset
select test.throws('OR031', format('select ordinaut.%s(%L)', v, test.id(:'run', 'a')), v || ' does not touch what a worker holds') from unnest('{resolve_step,complete_step,skip_step,reset_step}'::text[]) as v;
select ordinaut.complete_work(:'lease');
select test.eq(test.seen(:'run', 'a'), '{pending,in_progress,error,waiting_for_retry,ready,in_progress,error,ready,in_progress,complete}', 'all of it is in the history');

-- What waits without a worker: an event, a child, items.
select test.run('[{"id": "a", "uses": "wait_for_event"}]') as run \gset
select test.wait(:'run', 'a', '{"kind": "event", "topic": "paid"}');
select ordinaut.complete_step(test.id(:'run', 'a'), '{"by": "hand"}');
select test.eq((test.state(:'run'), test.placed())::text, ('success', null)::text, 'a step that waits is completed');
select test.eq((ordinaut.emit_event('paid')).waiters, 0, 'and hears no event');
select ordinaut.create_task('sub', 'echo', p_queue => 'subs');
select test.run('[{"id": "a", "uses": "task"}, {"id": "b", "uses": "echo"}]') as run \gset
select test.wait(:'run', 'a', '{"kind": "task", "task": "sub"}');
select run_id as child from ordinaut.work where queue = 'subs' \gset
select ordinaut.skip_step(test.id(:'run', 'a'), 'not today');
select test.eq((test.state(:'run', 'b'), test.state(:'child'))::text, ('ready', 'cancelled')::text, 'the run that it waited for is cancelled');
select test.done(:'run', 'b');
select test.run('[{"id": "m", "uses": "echo", "map": {"over": "${params}"}, "save_as": "m"}, {"id": "b", "uses": "echo"}]') as run \gset
select test.wait(:'run', 'm', '{"kind": "map", "items": [1, 2, 3]}');
select test.lease(:'run', 'm[0]') as lease \gset
select test.throws('OR031', format('select ordinaut.skip_step(%L)', test.id(:'run', 'm[1]')), 'an item belongs to its map');
select ordinaut.complete_step(test.id(:'run', 'm'), '[7]');
select test.eq(test.states(:'run'), 'm complete, b ready, m[0] in_progress, m[1] cancelled, m[2] cancelled: running', 'items that no worker holds are cancelled');
select test.done(:'run', 'b');
select test.eq(test.state(:'run'), 'running', 'one still runs');
select ordinaut.complete_work(:'lease');
select test.eq((state, output)::text, ('success', '{"m": [7]}')::text, 'its end ends the run') from ordinaut.get_run(:'run');

-- A run that was rolled back does not go on; one that is failing does, until then.
select test.run('[{"id": "a", "uses": "echo", "on_rollback": {"uses": "undo"}}, {"id": "b", "uses": "echo"}]') as run \gset
select test.done(:'run', 'a'), test.fail(:'run', 'b', 'boom');
select test.throws('OR031', format('select ordinaut.%s(%L)', v, test.id(:'run', 'b')), v || ' comes too late for a rollback') from unnest('{resolve_step,complete_step,skip_step,reset_step}'::text[]) as v;
select test.done(:'run', 'rollback(a)');
select test.throws('OR031', format('select ordinaut.retry_failed_steps(%L)', :'run'), 'it is undone');
select ordinaut.replay_run(:'run', 'b') as again \gset
select test.eq(test.states(:'again'), 'a ready, b pending: running', 'a replay does again what was undone');
select ordinaut.cancel_run(:'again');

-- A key: who goes on needs its turn.
select run_id as run from ordinaut.enqueue(p_pipeline => :'three', p_key => 'k') \gset
select step, lease_id as lease from ordinaut.lease_work('w') \gset
select ordinaut.fail_work(:'lease', test.id(:'run', 'a'), 'boom', false);
select run_id as other from ordinaut.enqueue('echo', p_key => 'k') \gset
select lease_id as lease from ordinaut.lease_work('w') \gset
select test.throws('OR031', format('select ordinaut.retry_failed_steps(%L)', :'run'), 'another holds the key');
select ordinaut.complete_work(:'lease');
select test.eq(ordinaut.retry_failed_steps(:'run'), 1, 'now it is free');
select test.eq(h.run_id, :'run'::uuid, 'and held again') from ordinaut.hold as h where h.key = 'k' and h.slot = 1;
select ordinaut.cancel_run(:'run');
select test.throws('OR031', format('select ordinaut.replay_run(%L, ''a'')', :'run'), 'a run with a key is not replayed');

-- Replay: a new run from a step; what does not follow from it keeps its output.
select run_id as run from ordinaut.enqueue(p_payload => '{"x": 5}', p_pipeline => '[{"id": "s", "uses": "echo", "save_as": "s"}, {"id": "l", "uses": "echo", "needs": "s", "save_as": "l"},
  {"id": "r", "uses": "echo", "needs": "s", "save_as": "r"}, {"id": "j", "uses": "echo", "needs": ["l", "r"], "with": {"x": "${steps.l}"}}]') \gset
select ordinaut.start_run(:'run');
select test.throws('OR031', format('select ordinaut.replay_run(%L, ''l'')', :'run'), 'a run that runs is not replayed');
select test.done(:'run', 's', '1'), test.done(:'run', 'l', '2'), test.done(:'run', 'r', '3'), test.done(:'run', 'j', '4');
select ordinaut.replay_run(:'run', 'l', 'once more') as again \gset
select test.eq(test.states(:'again'), 's complete, l ready, r complete, j pending: running', 'what does not follow stays');
select test.eq((retry_of, payload ->> 'x', state)::text, (:'run'::uuid, '5', 'running')::text, 'a new run of the same') from ordinaut.get_run(:'again');
select test.eq((state, output -> 'l')::text, ('success', '2')::text, 'the old one stays as it was') from ordinaut.get_run(:'run');
select test.done(:'again', 'l', '20');
select test.eq(payload::jsonb -> 'steps' ->> 'l', '20', 'what follows reads the new output') from ordinaut.lease_work('w') where step = 'j';
select ordinaut.complete_work((select lease_id from ordinaut.lease));
select test.eq((state, output)::text, ('success', '{"l": 20, "r": 3, "s": 1}')::text, 'and so does the run') from ordinaut.get_run(:'again');
select test.eq((detail ->> 'replayed_as', detail ->> 'from_step', detail ->> 'note')::text, (:'again', 'l', 'once more')::text, 'the old one knows') from ordinaut.run_history(:'run') where event = 'replayed';
select test.throws('OR020', format('select ordinaut.replay_run(%L, ''nope'')', :'run'), 'there is no such step');
select test.eq((n.name, p.name)::text, ('l', 'j')::text, 'edges') from ordinaut.step_edge as e join ordinaut.step as n on n.step_id = e.from_step_id join ordinaut.step as p on p.step_id = e.to_step_id
where e.run_id = :'again' and n.name = 'l';
select test.eq((tool, needs, attempts, retry_limit, level, task_id)::text, ('echo', '{l,r}'::text[], 1, 3, 2, null)::text, 'a step and its definition') from ordinaut.list_steps(:'again') where name = 'j';
rollback;
