-- Preview and forecast: what is to come, as far as the database knows it.
\ir _begin.sql
set local test.now = '2026-03-27 12:00:00+00';

create function test.preview(p_task text, p_n integer) returns text[]
language sql
as $fn$
  select array_agg(concat_ws(' ', to_char(p.scheduled_for at time zone 'UTC', 'DD HH24:MI'),
    '(' || to_char(p.local, 'HH24:MI') || ')', p.note) order by p.scheduled_for)
  from ordinaut.preview(p_task, p_n) as p;
$fn$;
create function test.plan(p_task text, p_upcoming timestamptz[], p_until timestamptz, p_notes jsonb, p_excluded jsonb)
returns boolean
language sql
as $fn$
  select ordinaut.plan_task(u.task_id, u.revision, p_upcoming, p_until, '2026a', p_until is null, p_notes, p_excluded)
  from ordinaut.unplanned_tasks() as u
  where u.task_id = ordinaut._task_id(p_task);
$fn$;
create function test.forecast(p_from timestamptz, p_to timestamptz, p_bucket interval) returns text[]
language sql
as $fn$
  select array_agg(format('%s %s/%s%s', to_char(f.at at time zone 'UTC', 'HH24:MI'), f.expected, f.tasks,
    case when not f.is_complete then '?' end) order by f.at)
  from ordinaut.forecast(p_from, p_to, p_bucket) as f;
$fn$;
set local timezone = 'UTC';

select test.eq(test.forecast(null, '2026-03-27 12:10+00', '5 min'), '{12:00 0/0,12:05 0/0}', 'no task at all');

select ordinaut.create_task('hand', 'echo');
select ordinaut.create_task('every', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '20 min',
  p_start_at => '2026-03-27 12:20+00', p_end_at => '2026-03-27 13:20+00', p_timezone => 'Europe/Berlin');
select ordinaut.create_task('thrice', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 min', p_max_runs => 3);
select ordinaut.create_task('once', 'echo', p_schedule_kind => 'once', p_schedule_expr => '2026-03-27T12:31');
select ordinaut.create_task('cron', 'echo', p_schedule_kind => 'cron', p_schedule_expr => '0 * * * *');
select test.eq(test.preview('hand', 3), '{it has no schedule}', 'manual');
select test.eq(test.preview('every', 2), '{27 12:20 (13:20),27 12:40 (13:40)}', 'an interval');
select test.eq(test.preview('every', 9), '{27 12:20 (13:20),27 12:40 (13:40),27 13:00 (14:00),27 13:20 (14:20) the last}',
  'to its end');
select test.eq(test.preview('thrice', 9), '{27 12:01 (12:01),27 12:02 (12:02),27 12:03 (12:03) the last: max_runs}',
  'three times');
select test.eq(test.preview('once', 2), '{27 12:31 (12:31) the last}', 'a once');
select test.eq(test.preview('cron', 2), '{not planned yet}', 'a cron that nobody planned');
select test.throws('22023', $$select ordinaut.preview('cron', 0)$$, 'none');
select test.throws('OR020', $$select ordinaut.preview('x')$$, 'no such task');
select test.eq(test.forecast(null, null, '20 min'), '{12:00 3/1?,12:20 2/2?,12:40 1/1?}', 'nothing is complete');

select test.plan('cron', '{2026-03-27 13:00+00,2026-03-27 14:00+00,2026-03-27 15:00+00}', '2026-03-27 15:30+00',
  '{"2026-03-27T13:00:00Z": "gap: x"}', '{"2026-03-27T14:00:00Z": "calendar c"}');
select test.eq(test.preview('cron', 2), '{27 13:00 (13:00) gap: x,27 14:00 (14:00) excluded: calendar c}', 'and why');
select test.eq(test.preview('cron', 4), array['27 13:00 (13:00) gap: x', '27 14:00 (14:00) excluded: calendar c',
  '27 15:00 (15:00) planned until 2026-03-27 15:30:00+00'], 'how far it is known');
select test.eq(test.forecast('2026-03-27 12:30+00', '2026-03-27 16:00+00', '30 min'),
  '{12:30 2/2,13:00 3/2,13:30 0/0,14:00 0/0,14:30 0/0,15:00 1/1,15:30 0/0?}', 'complete up to the plan');
select test.eq(test.forecast('2026-03-27 13:20+00', '2026-03-27 13:35+00', '10 min'), '{13:20 1/1,13:30 0/0}',
  'the last bucket may be short');
select test.eq(test.forecast('2026-03-27 12:19:59+00', '2026-03-27 12:20+00', '1 s'), '{12:19 0/0}', 'to is not in it');
select test.eq(test.forecast('2026-03-27 12:20+00', '2026-03-27 12:20:00.000001+00', '1 s'), '{12:20 1/1}', 'from is');
select ordinaut.update_task('cron', '{"max_runs": 1}');
select test.plan('cron', '{2026-03-27 13:00+00,2026-03-27 14:00+00,2026-03-27 15:00+00}', null, null,
  '{"2026-03-27T13:00:00Z": "calendar c"}');
select test.eq(test.preview('cron', 4), array['27 13:00 (13:00) excluded: calendar c', '27 14:00 (14:00) the last: max_runs'],
  'what is excluded is no run');
select test.eq(test.forecast('2026-03-27 13:30+00', '2026-03-27 15:30+00', '1 h'), '{13:30 1/1,14:30 0/0}', 'here too');
select ordinaut.pause_task('cron');
select test.eq(test.preview('cron', 4), '{it is paused}', 'paused');
select test.eq(test.forecast('2026-03-27 13:30+00', '2026-03-27 14:30+00', '1 h'), '{13:30 0/0}', 'nothing is expected');

-- What only an end or an answer tells is never complete.
select ordinaut.create_task('asked', 'echo', p_schedule_kind => 'condition', p_schedule_expr => 'every 30 s: select true');
select test.eq(test.preview('asked', 4), '{what comes after is told when it happens}', 'a condition');
select test.eq(test.forecast('2026-03-27 13:30+00', '2026-03-27 14:30+00', '1 h'), '{13:30 0/0?}', 'is unknown');
select ordinaut.pause_task('asked');
select ordinaut.create_task('after', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 h after end',
  p_start_at => '2026-03-27 14:00+00');
select test.eq(test.preview('after', 4), '{27 14:00 (14:00) what comes after is told when it happens}', 'its start is known');
select test.eq(test.forecast('2026-03-27 13:30+00', '2026-03-27 14:30+00', '30 min'), '{13:30 0/0,14:00 1/1?}', 'no more');
select ordinaut.cancel_task('after');

select test.throws('22023', format('select ordinaut.forecast(%L, %L, %L)', f, t, b), 'a forecast that is none')
from (values ('2026-03-27', '2026-03-27', '1 s'), ('2026-03-27', '2026-03-28', '1 s'), ('2026-03-27', '2026-03-28', '0 s'),
  ('2026-03-27', 'infinity', '1 h'), ('2026-03-27', '2026-03-28', null)) as v (f, t, b);

rollback;
