-- An event wakes the steps that wait for it, also those that come to wait later, and starts the tasks that name it.
\ir _begin.sql
\ir _steps.sql

create function test.on(p_topic text, p_key text default null, p_more jsonb default '{}') returns jsonb
language sql
as $fn$ select jsonb_build_object('kind', 'event', 'topic', p_topic, 'key', p_key) || p_more $fn$;

-- The waiter first.
select test.run('[{"id": "paid", "uses": "wait_for_event", "with": {"topic": "order.paid"}, "save_as": "paid"}, {"id": "ship", "uses": "echo"}]') as run_id \gset
select test.eq(test.wait(:'run_id', 'paid', test.on('order.paid')), 'waiting', 'a step waits');
select test.eq((select count(*) from ordinaut.lease), 0::bigint, 'and holds no worker');
select test.travel('1 s');
select test.eq((select waiters from ordinaut.emit_event('order.sent')), 0, 'another topic wakes nobody');
select e.event_id, e.waiters, ordinaut.now() as at from ordinaut.emit_event('order.paid', '{"amount": 7}', '4711') as e \gset
select test.eq(:waiters, 1, 'its topic wakes it, whatever the key');
select test.eq((test.step(:'run_id', 'paid')).output,
  jsonb_build_object('topic', 'order.paid', 'key', '4711', 'payload', '{"amount": 7}'::jsonb, 'event_id', :'event_id', 'at', '2026-03-27T12:00:01.000000Z'), 'it gets the event');
select test.eq(test.state(:'run_id', 'ship'), 'ready', 'and what follows may start');
select test.eq((select waiters from ordinaut.emit_event('order.paid')), 0, 'a second event finds nobody');

-- The event first: since the start of the run.
select test.travel('1 s');
select ordinaut.emit_event('a.b', '{"n": 0}');
select test.travel('1 s');
select test.run('[{"id": "one", "uses": "wait_for_event"}, {"id": "two", "uses": "wait_for_event"}, {"id": "three", "uses": "wait_for_event"}]') as run_id \gset
select test.travel('1 s');
select ordinaut.emit_event('a.b', '{"n": 1}');
select test.travel('1 s');
select ordinaut.emit_event('a.b', '{"n": 2}', 'k');
select test.eq(test.wait(:'run_id', 'one', test.on('a.b')), 'success', 'an event that came before completes a wait at once');
select test.eq((test.step(:'run_id', 'one')).output -> 'payload', '{"n": 1}', 'the first since the start of the run, not one before');
select test.eq(test.wait(:'run_id', 'two', test.on('a.b')), 'success', 'and the next wait');
select test.eq((test.step(:'run_id', 'two')).output -> 'payload', '{"n": 2}', 'takes the next one');
select test.eq(test.wait(:'run_id', 'three', test.on('a.b')), 'waiting', 'and a third waits');
select test.run('[{"id": "one", "uses": "wait_for_event"}]') as late \gset
select test.eq(test.wait(:'late', 'one', test.on('a.b', null, '{"since": "2026-03-27T12:00:02Z"}')), 'success', 'since may be said');
select test.eq((test.step(:'late', 'one')).output -> 'payload', '{"n": 0}', 'and goes back before the run');
select test.eq(test.state(:'late'), 'success', 'and the run ends with its last step');

-- Keys; and one event for many.
select test.run('[{"id": "any", "uses": "wait_for_event", "needs": []}, {"id": "k", "uses": "wait_for_event", "needs": []}, {"id": "l", "uses": "wait_for_event", "needs": []}]') as run_id \gset
select test.wait(:'run_id', 'any', test.on('m')), test.wait(:'run_id', 'k', test.on('m', 'k')), test.wait(:'run_id', 'l', test.on('m', 'l'));
select test.eq((select waiters from ordinaut.emit_event('m', '{}', 'k')), 2, 'one event wakes all that wait for it: for its key, or for any');
select test.eq(test.state(:'run_id', 'l'), 'in_progress', 'but not for another key');
select test.eq((select w.detail from ordinaut._why_wait((test.step(:'run_id', 'l')).step_id) as w), 'it waits for event m (key l)', 'why() says so');
select test.eq((select waiters from ordinaut.emit_event('m')), 0, 'an event without a key is for nobody''s key');

select test.run('[{"id": "soon", "uses": "wait_for_event", "needs": []}, {"id": "late", "uses": "wait_for_event", "needs": []}, {"id": "x", "uses": "echo", "needs": "soon"}, {"id": "after", "uses": "wait_for_event", "needs": "x"}]') as run_id \gset
select test.wait(:'run_id', 'soon', test.on('p')), test.travel('1 s');
select ordinaut.emit_event('p');
select test.done(:'run_id', 'x');
select test.eq(test.wait(:'run_id', 'late', test.on('p')), 'success', 'nor does it matter which of two came to wait first');
select test.eq(test.wait(:'run_id', 'after', test.on('p')), 'waiting', 'but what follows one of them waits for a later event');

-- In vain.
select test.run('[{"id": "w", "uses": "wait_for_event"}]') as failing \gset
select test.run('[{"id": "w", "uses": "wait_for_event", "save_as": "w"}]') as going_on \gset
select test.wait(:'failing', 'w', test.on('never', 'k', '{"timeout": 300}')), test.wait(:'going_on', 'w', test.on('never', null, '{"timeout": 300, "on_timeout": "continue"}'));
select test.travel('299 s');
select ordinaut.reap();
select test.eq(test.state(:'failing'), 'running', 'a second early is too early');
select test.travel('1 s');
select * from ordinaut.tick();
select test.eq(test.state(:'failing'), 'failed', 'at its deadline the step fails');
select test.eq((select jsonb_build_array(s.error -> 'message', s.error -> 'category', s.error -> 'code', s.error -> 'retryable') from test.step(:'failing', 'w') as s),
  '["no event never with key k within 00:05:00", "timeout", "E6001", false]', 'as a timeout');
select test.eq((test.state(:'going_on'), (select r.output from ordinaut.task_run as r where r.run_id = :'going_on'))::text, '(success,"{""w"": null}")', 'or goes on with null');
select test.eq((select count(*) from ordinaut.parked as p where p.payload ? 'deadline'), 0::bigint, 'and no waiter is left');

-- What asks for nonsense fails as a step, and an emitter is refused.
select test.run('[{"id": "w", "uses": "wait_for_event"}]') as run_id \gset
select test.eq(test.wait(:'run_id', 'w', test.on('no topic')), 'failed', 'a topic that is none fails the step');
select test.eq((select s.error ->> 'category' from test.step(:'run_id', 'w') as s), 'validation', 'for good');
select test.throws('22023', format('select ordinaut.emit_event(%L)', t), 'refused: ' || left(t, 20)) from unnest(array['', 'a b', 'a.*', '*', '.a', repeat('a', 201)]) as t;
select test.throws('22023', 'select ordinaut.emit_event(''a'', null)', 'refused: no payload');
select test.throws('22023', format('select ordinaut.emit_event(''a'', %L)', p), 'refused: one that asks for a secret, ' || p) from unnest(array['{"$secret": "x"}', '{"a": [1, {"$secret": "x"}]}']) as p;
select test.eq((select e.outcome from ordinaut.emit_event('a', '{"a": "$secret", "b": [null, 1]}') as e), 'new', 'a word is no such thing');
select test.run('[{"id": "w", "uses": "wait_for_event"}]') as run_id \gset
select test.eq(test.wait(:'run_id', 'w', test.on('a', null, format('{%s}', w)::jsonb)), 'failed', 'a step may not ask for ' || w)
from unnest(array['"timeout": -1']) as w;

-- Sent again.
select e.event_id from ordinaut.emit_event('once', '{}', null, 'delivery 1') as e \gset
select test.eq((select (e.event_id, e.outcome, e.waiters)::text from ordinaut.emit_event('once', '{}', null, 'delivery 1') as e), format('(%s,existing,0)', :'event_id'), 'an event sent again is the same one');
select test.travel('1 day');
select test.eq((select e.outcome from ordinaut.emit_event('once', '{}', null, 'delivery 1') as e), 'new', 'for a day');

-- Tasks of kind event (AC-37).
select ordinaut.create_task('mail', 'echo', '{"box": "in"}', 'event', 'user.email.received') as mail \gset
select ordinaut.create_task('flow', p_pipeline => '[{"id": "look", "uses": "echo", "with": {"said": "${params.event.payload.subject}"}}]', p_schedule_kind => 'event', p_schedule_expr => 'user.*') as flow \gset
select ordinaut.create_task('paused', 'echo', p_schedule_kind => 'event', p_schedule_expr => 'user.email.received') as paused \gset
select ordinaut.create_task('other', 'echo', p_schedule_kind => 'event', p_schedule_expr => 'user.email');
select ordinaut.pause_task('paused');
select e.event_id, e.task_ids, e.run_ids from ordinaut.emit_event('user.email.received', '{"subject": "hi"}', 'k') as e \gset
select test.eq(array(select t.id from unnest(:'task_ids'::uuid[]) as t (id) order by 1), array(select t.id::uuid from unnest(array[:'mail', :'flow']) as t (id) order by 1), 'an event starts each active task that names its topic');
select test.eq(array(select t.name from ordinaut.due_work as w join ordinaut.task as t on t.task_id = w.task_id where w.run_id = any (:'run_ids') order by 1), array['flow', 'mail'], 'with a run each');
select test.eq((select w.payload from ordinaut.due_work as w where w.task_id = :'mail'),
  jsonb_build_object('box', 'in', 'event', jsonb_build_object('topic', 'user.email.received', 'key', 'k', 'payload', '{"subject": "hi"}'::jsonb, 'event_id', :'event_id', 'at', ordinaut._iso(ordinaut.now()))), 'whose payload has the event');
select test.eq((t.fired_count, t.next_run, t.status)::text, '(1,,active)', 'it is counted, and waits for the next') from ordinaut.get_task('mail') as t;
select * from ordinaut.tick();
select test.eq((select count(*) from ordinaut.due_work as w where w.task_id = :'mail'), 1::bigint, 'a tick starts it no second time');
select test.eq((select count(*) from generate_series(1, 3) as n, ordinaut.emit_event('user.email.received', to_jsonb(n))), 3::bigint, 'events of one instant');
select test.eq((select count(*) from ordinaut.due_work as w where w.task_id = :'mail'), 4::bigint, 'start a run each');
select test.eq((select w.detail from ordinaut.why('mail') as w limit 1), 'it waits for event user.email.received: emit_event() starts it', 'why() says what it waits for');
select test.eq((p.scheduled_for is null)::text || ' ' || p.note, 'true what comes after is told when it happens', 'preview() too') from ordinaut.preview('mail') as p limit 1;
select e.run_ids from ordinaut.emit_event('user.email.received', jsonb_build_object('text', repeat(md5('x'), 1000))) as e \gset
select test.eq((select length(b.body #>> '{event,payload,text}') from ordinaut.payload as b join ordinaut.due_work as w on w.run_id = b.run_id where b.run_id = any (:'run_ids') and w.task_id = :'mail' and w.payload is null), 32000, 'a long one, too');

-- Policies hold.
select ordinaut.cancel_task(t) from unnest(array['mail', 'flow', 'other', 'paused']) as t;
select ordinaut.create_task('alone', 'echo', p_schedule_kind => 'event', p_schedule_expr => '*', p_overlap => 'skip', p_max_runs => 2) as alone \gset
select test.travel('1 s');
select test.eq((select cardinality(e.run_ids) from ordinaut.emit_event('x') as e), 1, 'the first runs');
select test.travel('1 s');
select test.eq((select (e.task_ids, e.run_ids)::text from ordinaut.emit_event('x') as e), format('({%s},{})', :'alone'), 'overlap skip: while it does, no other');
select ordinaut.cancel_run(r.run_id) from ordinaut.list_runs('alone') as r where r.state = 'pending';
select test.travel('1 s');
select ordinaut.emit_event('x');
select test.eq((t.status, t.status_note)::text, '(completed,"it ran 2 times, its max_runs")', 'max_runs') from ordinaut.get_task('alone') as t;
select ordinaut.create_task('window', 'echo', p_schedule_kind => 'event', p_schedule_expr => 'x', p_start_at => ordinaut.now() + interval '1 min', p_end_at => ordinaut.now() + interval '2 min');
select test.eq(array(select cardinality(e.run_ids) from unnest(array['0 s', '1 min', '2 min']::interval[]) as d, test.travel(d) as t, ordinaut.emit_event('x', to_jsonb(t)) as e), array[0, 1, 0], 'start_at and end_at');
select ordinaut.update_task('window', '{"schedule_kind": "manual", "schedule_expr": null, "start_at": null, "end_at": null}');
select test.throws('22023', format('select ordinaut.create_task(''x'', ''echo'', p_schedule_kind => ''event'', p_schedule_expr => %L)', e), 'refused: ' || coalesce(e, 'nothing'))
from unnest(array[null, '', 'a*', '*.a', 'a.*.b', 'a b']) as e;
select test.throws('22023', 'select ordinaut.create_task(''x'', ''echo'', ''[]'', ''event'', ''x'')', 'refused: a payload that no event can be added to');

-- Kept as long as history is.
select test.ok((select count(*) > 10 from ordinaut.event), 'events are kept');
select test.prune('1 day') from test.travel('2 days');
select test.eq((select count(*) from ordinaut.event), 0::bigint, 'as long as prune() says');

rollback;
