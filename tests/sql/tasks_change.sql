-- Tasks are paused, resumed, snoozed, changed and cancelled, by whatever name they go.
\ir _begin.sql

create function test.next(p_task text) returns text
language sql
as $fn$
  select to_char(t.next_run at time zone 'UTC', 'HH24:MI:SS') from ordinaut.get_task(p_task) as t;
$fn$;

select ordinaut.create_task('beat', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '10 min') as task_id \gset
select ordinaut.create_task('beat', 'echo', p_namespace => 'other') as other_id \gset

-- Names.
select test.eq((t.task_id, t.namespace)::text, format('(%s,default)', :'task_id'), 'by ' || n)
from unnest(array['beat', 'default/beat', :'task_id', right(:'task_id', 8), upper(:'task_id')]) as n, ordinaut.get_task(n) as t;
select test.eq(t.task_id, :'other_id', 'in its namespace') from ordinaut.get_task('other/beat') as t;
select test.throws('OR020', format('select ordinaut.get_task(%L)', n), 'none: ' || n)
from unnest(array['beet', 'nowhere/beat', 'abc', '00000000-0000-0000-0000-000000000000', '']) as n;
select test.throws('OR020', format('select ordinaut.pause_task(%L)', left(:'task_id', 4)), 'a beginning is no end');
select test.throws('OR030', 'select ordinaut.create_task(''beat'', ''echo'')', 'a name is taken once');

-- Pause and resume.
select test.eq(ordinaut.pause_task('beat', 'too loud'), 'paused', 'paused');
select test.eq(ordinaut.pause_task('beat', 'twice'), 'paused', 'twice is fine');
select test.eq((t.next_run, t.status_note)::text, '(,"too loud")', 'the first note stands') from ordinaut.get_task('beat') as t;
select test.throws('OR031', 'select ordinaut.run_now(''beat'')', 'a paused task is not run by hand');
select test.travel('35 min');
select test.eq((select fired + missed from ordinaut.tick()), 0, 'nothing fires');
select test.eq(ordinaut.resume_task('beat'), 'active', 'resumed');
select test.eq(test.next('beat'), '12:40:00', 'at its next beat, in its old rhythm');

-- A once that passed while it was paused was never fired: that is made up for, or recorded.
select ordinaut.create_task('party', 'echo', p_schedule_kind => 'once', p_schedule_expr => '2026-03-27T12:40Z');
select ordinaut.pause_task('party');
select test.travel('10 min');
select test.eq(ordinaut.resume_task('party'), 'active', 'it can be resumed');
select test.eq(test.next('party'), '12:40:00', 'and is due since its time');
select ordinaut.update_task('party', '{"schedule_expr": "2026-03-27T13:40Z"}');
select test.eq(test.next('party'), '13:40:00', 'until it has a new date');

-- Snooze.
select test.eq((select fired from ordinaut.tick()), 1, 'the beat of 12:40');
select test.eq(test.next('beat'), '12:50:00', 'the next');
select test.eq(ordinaut.snooze_task('beat', '25 min'), '2026-03-27 13:20+00'::timestamptz, 'two beats are skipped');
select test.eq(ordinaut.snooze_task('party', '1 hour'), '2026-03-27 14:40+00'::timestamptz, 'a once moves');
select test.throws('OR031', 'select ordinaut.snooze_task(''other/beat'', ''1 hour'')', 'a manual task cannot be snoozed');
select test.throws('22023', format('select ordinaut.snooze_task(''beat'', %L)', d), 'nor for ' || coalesce(d, 'null'))
from unnest(array['0 s', '-1 h', '8 days', null]) as d;

-- Update.
select test.eq(ordinaut.update_task('beat', '{}'), 1, 'an empty patch changes nothing');
select test.eq(ordinaut.update_task('beat', '{"priority": 5}'), 1, 'nor does what is so already');
select test.eq(ordinaut.update_task('beat', '{"priority": 1, "payload": {"x": 1}}'), 2, 'a change raises the revision');
select test.eq(test.next('beat'), '13:20:00', 'the plan stands');
select test.eq(ordinaut.update_task('beat', '{"schedule_expr": "1 hour"}'), 3, 'a new schedule');
select test.eq(test.next('beat'), '13:00:00', 'is planned at once');
select test.eq(ordinaut.update_task('beat', '{"name": "pulse", "description": null}'), 4, 'a new name');
select test.eq(t.task_id, :'task_id', 'is the same task') from ordinaut.get_task('pulse') as t;
select test.throws('OR030', 'select ordinaut.update_task(''pulse'', ''{"name": "beat", "namespace": "other"}'')', 'not a name that is taken');
select test.throws('22023', format('select ordinaut.update_task(''pulse'', %L)', p), 'refused: ' || p)
from unnest(array['[]', 'null', '{"frequency": 1}', '{"priority": 0}', '{"priority": "high"}', '{"priority": null}', '{"tool": null}',
  '{"name": "no name"}', '{"namespace": null}', '{"payload": null}', '{"schedule_expr": "1 month"}', '{"schedule_kind": "cronn"}',
  '{"timezone": "Mars/Base"}', '{"timezone": null}', '{"status": "paused"}', '{"revision": 7}', '{"task_id": null}',
  '{"grace": null}', '{"catchup": "some"}', '{"key_limit": 0}', '{"start_at": "infinity"}']) as p;
select test.eq((t.revision, t.priority)::text, '(4,1)', 'and nothing of it was written') from ordinaut.get_task('pulse') as t;

-- Cancel: it never fires again, what waits is cancelled, what runs is asked to stop.
select run_id as waits from ordinaut.run_now('other/beat') \gset
select run_id as runs from ordinaut.enqueue('x', p_queue => 'q') \gset
select test.eq(ordinaut.cancel_task('other/beat', 'enough'), 'cancelled', 'cancelled');
select test.eq(r.state, 'cancelled', 'its runs too') from ordinaut.get_run(:'waits') as r;
select test.eq(r.state, 'pending', 'not those of others') from ordinaut.get_run(:'runs') as r;
select test.throws('OR010', 'select ordinaut.resume_task(''other/beat'')', 'there is no way back');
select test.throws('OR031', 'select ordinaut.update_task(''other/beat'', ''{"priority": 1}'')', 'or on');
select test.eq(ordinaut.cancel_task('other/beat'), 'cancelled', 'cancelling twice is fine');

rollback;
