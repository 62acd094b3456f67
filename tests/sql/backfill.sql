-- Backfill: what the past held runs now, once, or nothing runs.
\ir _begin.sql
set local test.now = '2026-03-27 12:00:00+00';

create function test.message(p_statement text) returns text
language plpgsql
as $fn$
begin
  execute p_statement;
  return null;
exception when others then
  return sqlerrm;
end
$fn$;
-- A millisecond later than the one before: they are listed by time.
create function test.backfill(p_task text, p_from timestamptz, p_to timestamptz, p_limit integer default 1000,
  p_rate integer default null, p_note text default null) returns uuid
language plpgsql
as $fn$
begin
  perform test.travel('1 ms');
  return ordinaut.backfill(p_task, p_from, p_to, p_limit, p_rate, p_note);
end
$fn$;
create function test.runs(p_task text) returns bigint
language sql
as $fn$
  select count(*) from ordinaut.due_work as w where w.task_id = ordinaut._task_id(p_task);
$fn$;
-- The latest, as (state,fired,left_alone).
create function test.last(p_task text) returns text
language sql
as $fn$
  select (b.state, b.fired, b.left_alone)::text from ordinaut.list_backfills(p_task) as b limit 1;
$fn$;
create function test.counts(p_task text) returns text
language sql
as $fn$
  select (t.fired_count, t.missed_count, t.skipped_count, t.dropped_count, t.excluded_count)::text
  from ordinaut.get_task(p_task) as t;
$fn$;

-- What has no calendar, no past or too wide a range is refused, and nothing is left behind.
select ordinaut.create_task('hand', 'echo');
select ordinaut.create_task('every', 'echo', '{"n": 1}', 'interval', '10 min', p_start_at => '2026-03-27 00:00+00',
  p_catchup => 'none', p_queue => 'slow', p_priority => 7, p_timeout => '9 s', p_retry => '{"base": "2 s"}');
select test.throws('22023', $$select ordinaut.backfill('hand', '2026-03-01', '2026-03-02')$$, 'a manual task');
select ordinaut.create_task('after', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 h after end');
select ordinaut.create_task('asked', 'echo', p_schedule_kind => 'condition', p_schedule_expr => 'every 30 s: select true');
select test.eq(test.message(format($$select ordinaut.backfill(%L, '2026-03-01', '2026-03-02')$$, t)),
  format('task default/%s is %s: no calendar says when it should have run', t, k), 'nor has ' || t)
from (values ('hand', 'manual'), ('after', 'interval 1 h after end'), ('asked', 'condition every 30 s: select true')) as v (t, k);
select test.throws('OR020', $$select ordinaut.backfill('none', '2026-03-01', '2026-03-02')$$, 'no such task');
select test.throws('22023', format($$select ordinaut.backfill('every', %L, %L)$$, f, t), f || ' to ' || t)
from (values ('2026-03-27', '2026-03-27'), ('2026-03-27', '2026-03-26'), ('2026-03-27', '2026-03-27 12:00:01+00'),
  ('-infinity', '2026-03-27'), ('2026-03-27', 'infinity'), (null, '2026-03-27'), ('2026-03-27', null)) as v (f, t);
select test.throws('22023', $$select ordinaut.backfill('every', '2026-03-26', '2026-03-27', 10001)$$, 'a huge limit');
select test.throws('22023', $$select ordinaut.backfill('every', '2026-03-26', '2026-03-27', p_rate => 0)$$, 'no rate');
select test.eq(test.message($$select ordinaut.backfill('every', '2026-03-27 00:00+00', '2026-03-27 12:00+00', 71)$$),
  'the range holds 72 occurrences, the limit is 71', 'the count and the bound');
select test.throws('OR020', $$select ordinaut.list_backfills('none')$$, 'no such task, though nothing is listed');
select test.eq((select count(*) from ordinaut.backfill), 0::bigint, 'no request is left');
select test.eq(test.runs('every'), 0::bigint, 'nor a run');

-- An interval: from is in the range, to is not; each run is for its occurrence, oldest first.
select test.backfill('every', '2026-03-27 01:00+00', '2026-03-27 02:00+00', p_note => 'lost') as id \gset
select test.eq(test.last('every'), '(done,6,0)', 'six in an hour');
select test.eq((select (first_at, last_at, note, reason)::text from ordinaut.list_backfills('every')),
  ('2026-03-27 01:00+00'::timestamptz, '2026-03-27 01:50+00'::timestamptz, 'lost', null)::text, 'from, to, and why');
select test.eq((select array_agg(to_char(w.scheduled_for at time zone 'UTC', 'HH24:MI') order by w.run_at)
  from ordinaut.due_work as w), '{01:00,01:10,01:20,01:30,01:40,01:50}', 'oldest first');
select test.ok((select bool_and(w.run_at <= ordinaut.now()) from ordinaut.due_work as w), 'all due at once');
select test.eq((select distinct (w.queue, w.priority, w.timeout, w.tool, w.retry, w.payload, w.attempt, w.key)::text
  from ordinaut.due_work as w), ('slow', 7, '9 s'::interval, 'echo', '{"base": "2 s"}'::jsonb, '{"n": 1}'::jsonb, 0, null)::text,
  'as the task has it');
select test.eq((select (o.decision, o.reason, o.run_id = w.run_id, o.backfill_id)::text from ordinaut.occurrence as o
  join ordinaut.due_work as w on w.scheduled_for = o.scheduled_for order by 1 limit 1),
  ('fired', 'backfill ' || right(:'id', 8), true, :'id'::uuid)::text, 'the rows say who made them fire');
select test.eq(test.counts('every'), '(6,0,0,0,0)', 'and the counters');
select test.eq((select (count(*), count(distinct r.backfill_id), min(h.detail ->> 'backfill_id'))::text
  from ordinaut.list_runs('every') as r cross join ordinaut.run_history(r.run_id) as h), (6, 1, :'id')::text, 'its runs say so');
select test.eq((select (event, detail ->> 'fired', detail ->> 'note')::text from ordinaut.run_log
  where event = 'task_backfilled'), '(task_backfilled,6,lost)', 'the journal too');

-- Again: what fired is left alone.
select test.backfill('every', '2026-03-27 01:30+00', '2026-03-27 02:30+00');
select test.eq(test.last('every'), '(done,3,3)', 'three are new');
select test.eq(test.runs('every'), 9::bigint, 'and have runs');
select test.backfill('every', '2026-03-27 01:00+00', '2026-03-27 02:30+00');
select test.eq(test.last('every'), '(done,0,9)', 'nothing is');
-- Its calendar does not begin before its start, and ends with it.
select test.backfill('every', '2026-03-26', '2026-03-27 00:10+00');
select test.eq(test.last('every'), '(done,1,0)', 'nothing before the start');
select ordinaut.update_task('every', '{"end_at": "2026-03-27 03:00:00+00"}');
select test.backfill('every', '2026-03-27 02:50+00', '2026-03-27 04:00+00');
select test.eq(test.last('every'), '(done,2,0)', 'nothing after its end');
select ordinaut.create_task('born', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 h');
select test.backfill('born', '2026-03-20', '2026-03-27 12:00+00');
select test.eq(test.last('born'), '(done,0,0)', 'an interval without a start begins with its creation');
select test.travel('3 hours');
select test.backfill('born', '2026-03-20', '2026-03-27 15:00+00');
select test.eq(test.last('born'), '(done,2,0)', 'and its first is one duration later');
select set_config('test.now', '2026-03-27 12:00:00+00', true);

-- One with a phase has its place on the clock, from ever on.
select ordinaut.create_task('phase', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '15 min phase 5 min');
select test.backfill('phase', '2026-03-20 00:00+00', '2026-03-20 01:00+00');
select test.eq((select (fired, first_at, last_at)::text from ordinaut.list_backfills('phase')),
  (4, '2026-03-20 00:05+00'::timestamptz, '2026-03-20 00:50+00'::timestamptz)::text, 'on its marks');

-- What was missed fires, says what it was, and is counted as what it is; tick decides no more.
select ordinaut.create_task('late', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 h',
  p_start_at => '2026-03-27 13:00+00', p_catchup => 'none');
select test.travel('4 hours 30 min');
select test.eq((select missed from ordinaut.tick() limit 1) >= 4, true, 'nobody ticked');
select test.travel('1 hour');
select test.eq(test.counts('late'), '(0,4,0,0,0)', 'four were missed, a fifth is due');
select test.backfill('late', '2026-03-27 13:00+00', '2026-03-27 17:30+00', p_rate => 2);
select test.eq(test.last('late'), '(done,5,0)', 'all five fire');
select test.eq(test.counts('late'), '(5,0,0,0,0)', 'and count as fired');
select test.eq((select o.reason from ordinaut.occurrence as o where o.scheduled_for = '2026-03-27 13:00+00'
  and o.task_id = ordinaut._task_id('late')),
  (select 'backfill ' || right(backfill_id::text, 8) || ', was: missed: catchup none: later than its grace of 00:01:00'
   from ordinaut.list_backfills('late')), 'the row keeps what it was');
select test.eq((select array_agg(w.run_at - ordinaut.now() order by w.scheduled_for) from ordinaut.due_work as w
  where w.task_id = ordinaut._task_id('late')), '{0,30 s,1 min,90 s,2 min}'::interval[], 'two a minute');
select ordinaut.tick();
select test.eq(test.counts('late'), '(5,0,0,0,0)', 'tick finds the fifth decided');
select test.eq((select next_run from ordinaut.get_task('late')), '2026-03-27 18:00+00'::timestamptz, 'and goes on');

-- Runs that must not overlap wait in line; max_runs and the queue leave room for so many.
select ordinaut.create_task('alone', 'echo', (select jsonb_agg(md5(i::text)) from generate_series(1, 200) as i), 'interval', '1 h',
  p_start_at => '2026-03-27 00:00+00', p_overlap => 'buffer_all', p_max_runs => 3, p_queue => 'small');
select test.throws('22023', $$select ordinaut.backfill('alone', '2026-03-27 00:00+00', '2026-03-27 04:00+00')$$, 'max_runs');
select ordinaut.set_queue('small', p_max_pending => 1);
select test.throws('53400', $$select ordinaut.backfill('alone', '2026-03-27 00:00+00', '2026-03-27 02:00+00')$$, 'a full queue');
select ordinaut.set_queue('small', p_max_pending => 2);
select test.backfill('alone', '2026-03-27 00:00+00', '2026-03-27 02:00+00');
select test.eq((select count(distinct w.key) from ordinaut.due_work as w where w.key like 'task:%'
  and w.key_limit = 1 and w.queue = 'small'), 1::bigint, 'one key for both');
select test.eq((select count(*) from ordinaut.payload as p join ordinaut.due_work as w on w.run_id = p.run_id
  where w.payload is null and w.queue = 'small'), 2::bigint, 'a long payload lies apart');

-- A once that was missed; a paused task may be, a cancelled one not.
select ordinaut.create_task('once', 'echo', p_schedule_kind => 'once', p_schedule_expr => '2026-03-27T08:00',
  p_timezone => 'Europe/Berlin', p_allow_past => true, p_catchup => 'none');
select ordinaut.tick();
select test.eq((select status from ordinaut.get_task('once')), 'completed', 'missed');
select test.backfill('once', '2026-03-27 07:00+00', '2026-03-27 08:00+00');
select test.eq(test.counts('once'), '(1,0,0,0,0)', 'made up for');
select ordinaut.pause_task('late');
select test.backfill('late', '2026-03-27 13:00+00', '2026-03-27 17:30+00');
select ordinaut.cancel_task('late');
select test.throws('OR031', $$select ordinaut.backfill('late', '2026-03-27 13:00+00', '2026-03-27 17:30+00')$$, 'cancelled');

-- Cancelled: what has not started does not start.
select ordinaut.create_task('stop', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 h',
  p_start_at => '2026-03-27 00:00+00', p_queue => 'q');
select test.backfill('stop', '2026-03-27 00:00+00', '2026-03-27 05:00+00') as id \gset
select ordinaut.lease_work('w', 'q', 1);
select test.eq(ordinaut.cancel_backfill(:'id', 'wrong day'), 4, 'four of five');
select test.eq((select (state, reason)::text from ordinaut.list_backfills('stop')),
  ('cancelled', '4 of 5 runs had not started: wrong day')::text, 'it says so');
select test.eq((select count(*) from ordinaut.task_run where task_id = ordinaut._task_id('stop') and state = 'cancelled'),
  4::bigint, 'they are cancelled');
select test.eq(ordinaut.cancel_backfill(:'id'), 0, 'twice is fine');
select test.throws('OR020', $$select ordinaut.cancel_backfill('00000000-0000-7000-8000-000000000000')$$, 'no such backfill');

-- cron waits for a planner, who is told all it needs.
select ordinaut.set_calendar('noon', '{"weekly": [{"from": "12:00", "to": "13:00"}]}');
select ordinaut.create_task('cron', 'echo', p_schedule_kind => 'cron', p_schedule_expr => '0 * * * *',
  p_exclude => '{noon}');
select test.backfill('cron', '2026-03-26 10:00+00', '2026-03-26 14:00+00', 3) as id \gset
select test.eq(test.last('cron'), '(pending,,)', 'it waits');
select test.eq((select (u.backfill_id, u.schedule_expr, u.plan_after, u.end_at, u.calendars #>> '{0,name}')::text
  from ordinaut.unplanned_backfills() as u), (:'id'::uuid, '0 * * * *'::text, '2026-03-26 09:59:59.999999+00'::timestamptz,
  '2026-03-26 13:59:59.999999+00'::timestamptz, 'noon')::text, 'what is to be expanded');
select test.eq(ordinaut.plan_backfill(:'id', '{2026-03-26 10:00+00,2026-03-26 11:00+00,2026-03-26 13:00+00}',
  '{"2026-03-26T11:00:00Z": "gap"}'), true, 'handed in');
select test.eq(test.last('cron'), '(done,3,0)', 'done');
select test.eq((select o.dst from ordinaut.occurrence as o where o.scheduled_for = '2026-03-26 11:00+00'
  and o.task_id = ordinaut._task_id('cron')), 'gap', 'with what the clocks did');
select test.eq(ordinaut.plan_backfill(:'id', '{2026-03-26 12:00+00}'), false, 'once');
select test.eq(ordinaut.fail_backfill(:'id', 'x'), false, 'and for good');
select test.eq((select count(*) from ordinaut.unplanned_backfills()), 0::bigint, 'nothing waits');

-- What a planner hands in that cannot be fails it, and nothing fires.
create function test.handed(p_at timestamptz[]) returns text
language plpgsql
as $fn$
declare
  v_id uuid := test.backfill('cron', '2026-03-25 10:00+00', '2026-03-25 14:00+00', 2);
begin
  perform ordinaut.plan_backfill(v_id, p_at);
  return (select b.state || ': ' || b.reason from ordinaut.list_backfills('cron') as b limit 1);
end
$fn$;
select test.eq(test.handed('{2026-03-25 10:00+00,2026-03-25 11:00+00,2026-03-25 13:00+00}'),
  'failed: the range holds 3 occurrences, the limit is 2', 'too many');
select test.eq(test.handed(array_fill('2026-03-25 10:00+00'::timestamptz, '{10001}')),
  'failed: the range holds more than 10000 occurrences, the limit is 2', 'far too many');
select test.eq(test.handed('{2026-03-25 14:00+00}'), 'failed: instants of a backfill must lie in its range', 'the end');
select test.eq(test.handed('{2026-03-25 09:00+00}'), 'failed: instants of a backfill must lie in its range', 'before');
select test.eq(test.handed('{null}'), 'failed: instants of a backfill must lie in its range', 'none');
select test.eq(test.handed(null), 'failed: instants of a backfill must lie in its range', 'nothing');
select test.backfill('cron', '2026-03-25 10:00+00', '2026-03-25 14:00+00') as id \gset
select ordinaut.update_task('cron', '{"priority": 2}');
select test.eq(ordinaut.plan_backfill(:'id', '{2026-03-25 10:00+00}'), true, 'after an edit');
select test.eq((select reason from ordinaut.list_backfills('cron') limit 1),
  'task default/cron was edited after this was asked for (revision 1, now 2)', 'it fails');
select test.backfill('cron', '2026-03-25 10:00+00', '2026-03-25 14:00+00') as id \gset
select test.eq(ordinaut.cancel_backfill(:'id'), 0, 'one that waits');
select test.eq(ordinaut.plan_backfill(:'id', '{2026-03-25 10:00+00}'), false, 'is cancelled');
select test.eq(ordinaut.fail_backfill(test.backfill('cron', '2026-03-25 10:00+00', '2026-03-25 14:00+00'), 'none'),
  true, 'a calendar that is none');
select test.eq(test.counts('cron'), '(3,0,0,0,0)', 'nothing of all that fired');
-- A row that a calendar excluded when it was due, and no longer does.
insert into ordinaut.occurrence (task_id, scheduled_for, decision, reason, decided_at)
values (ordinaut._task_id('cron'), '2026-03-24 12:00+00', 'excluded', 'calendar noon', ordinaut.now()),
  (ordinaut._task_id('cron'), '2026-03-24 13:00+00', 'skipped', null, ordinaut.now()),
  (ordinaut._task_id('cron'), '2026-03-24 14:00+00', 'dropped', 'x', ordinaut.now());
update ordinaut.task_schedule set excluded_count = 1, skipped_count = 2, dropped_count = 3
where task_id = ordinaut._task_id('cron');
select ordinaut.plan_backfill(test.backfill('cron', '2026-03-24', '2026-03-25'),
  '{2026-03-24 12:00+00,2026-03-24 13:00+00,2026-03-24 14:00+00}');
select test.eq(test.counts('cron'), '(6,0,1,2,0)', 'the counters tell what the rows tell');

-- What was decided lately about long ago is kept: another backfill must find it.
select ordinaut.plan_backfill(test.backfill('cron', '2020-01-01', '2020-01-02'), '{2020-01-01 12:00+00}');
select test.prune();
select ordinaut.plan_backfill(test.backfill('cron', '2020-01-01', '2020-01-02'), '{2020-01-01 12:00+00}');
select test.eq(test.last('cron'), '(done,0,1)', 'found');
select test.travel('32 days');
select test.prune();
select test.eq((select count(*) from ordinaut.list_backfills()), 0::bigint, 'and in the end all is forgotten');
-- In a partition too.
select set_config('test.now', '2026-05-20 12:00:00+00', true);
select test.ok(to_regclass('ordinaut.occurrence_20260402') is not null, 'it has a partition');
select ordinaut.plan_backfill(test.backfill('cron', '2026-04-03', '2026-04-04'), '{2026-04-03 12:00+00}');
select test.prune();
select ordinaut.plan_backfill(test.backfill('cron', '2026-04-03', '2026-04-04'), '{2026-04-03 12:00+00}');
select test.eq(test.last('cron'), '(done,0,1)', 'which stays as long as its rows are new');
select set_config('test.now', '2026-06-30 12:00:00+00', true);
select test.prune();
select test.ok(to_regclass('ordinaut.occurrence_20260402') is null, 'and no longer');

rollback;
