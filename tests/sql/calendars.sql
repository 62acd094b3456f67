-- A calendar is planned, fires, is continued, and ends.
\ir _begin.sql

create function test.cron(p_name text, p_expr text, p_kind text default 'cron') returns uuid
language sql
as $fn$
  select ordinaut.create_task(p_name, 'echo', p_schedule_kind => p_kind, p_schedule_expr => p_expr);
$fn$;

-- Syntax that tells is refused at once.
select test.throws('22023', format('select test.cron(''bad'', %L)', e), format('%L is no cron', e))
from unnest(array['', '5', '* * * *', '* * * * * * *', '@reboot', '@every 5m', '$ * * * *', null])
  as e;
select test.throws('22023', format('select test.cron(''bad'', %L, ''rrule'')', e), e || ' is no rule')
from unnest(array['', 'BYDAY=MO', repeat('FREQ=DAILY;', 10000)]) as e;
select test.throws('22023', $$select ordinaut.create_task('bad', 'echo', p_schedule_kind => 'cron',
  p_schedule_expr => '@daily', p_dst_gap => 'jump')$$, 'an unknown policy');
select test.throws('22023', $$select ordinaut.create_task('bad', 'echo',
  p_schedule_kind => 'interval', p_schedule_expr => '1 h', p_dst_overlap => 'first')$$,
  'an interval follows elapsed time');

-- Until a planner comes, the task has no next run, and says so.
select test.cron('hourly', '0 * * * *') as task_id \gset
select test.eq((select next_run from ordinaut.get_task('hourly')), null::timestamptz, 'no plan yet');
select test.eq((select reason from ordinaut.why('hourly') limit 1), 'not_planned', 'why');
select test.eq((select count(*) from ordinaut.unplanned_tasks()), 1::bigint, 'one to plan');
select plan_after, revision from ordinaut.unplanned_tasks() \gset
select test.eq(:'plan_after'::timestamptz, ordinaut.now(), 'from its creation');

create function test.plan(p_hours integer[], p_more boolean default true) returns boolean
language sql
as $fn$
  select ordinaut.plan_task(u.task_id, u.revision,
    array(select date_trunc('day', u.now) + h * interval '1 h' from unnest(p_hours) as h),
    date_trunc('day', u.now) + (p_hours[cardinality(p_hours)] + 1) * interval '1 h' - interval '1 us',
    '2026a', not p_more)
  from ordinaut.unplanned_tasks() as u;
$fn$;
select date_part('hour', ordinaut.now())::integer as h \gset
select test.throws('22023', format('select test.plan(array[%s, %s])', :h + 2, :h + 2),
  'not increasing');
select test.throws('22023', format('select ordinaut.plan_task(%L, 1, %L, %L, ''2026a'')', :'task_id',
  '{2026-03-29 14:00+00}', '2026-03-29 13:00+00'), 'planned up to before its last');
select test.eq(test.plan(array[:h + 1, :h + 2, :h + 3]), true, 'planned');
select test.eq((select next_run from ordinaut.get_task('hourly')),
  date_trunc('hour', ordinaut.now()) + interval '1 h', 'its next run is there');

-- The plan falls short while nobody plans: what is the latest that is due, cannot be told.
select test.travel('5 hours');
select test.eq((select (t.fired, t.missed) from ordinaut.tick() as t)::text, '(0,2)', 'two missed');
select test.eq((select reason from ordinaut.why('hourly') limit 1), 'not_planned', 'the third waits');
select test.eq((select (t.fired, t.missed) from ordinaut.tick() as t)::text, '(0,0)', 'nothing more');
select test.eq(test.plan(array[:h + 3, :h + 4, :h + 5, :h + 6]), true, 'the planner is back');
select test.eq((select (t.fired, t.missed) from ordinaut.tick() as t)::text, '(1,2)', 'the latest fires');
select test.eq((select fired_count + missed_count from ordinaut.get_task('hourly')), 5::bigint,
  'each occurrence is decided once');

-- What is left of a plan that nothing follows.
select test.travel('10 min');
select test.eq(test.plan(array[:h + 6], false), true, 'the last');
select test.travel('1 h');
select test.eq((select t.fired from ordinaut.tick() as t), 1, 'it fires');
select test.eq((select status from ordinaut.get_task('hourly')), 'completed', 'and that was all');
select test.eq((select reason from ordinaut.why('hourly') limit 1), 'exhausted', 'and why knows');

-- A calendar without any occurrence ahead ends at once; one that is none becomes invalid.
select test.cron('past', 'FREQ=DAILY;UNTIL=20200101T000000Z', 'rrule');
select test.eq((select ordinaut.plan_task(u.task_id, 1, '{}', null, '2026a', true)
  from ordinaut.unplanned_tasks() as u), true, 'an empty plan');
select test.eq((select status from ordinaut.get_task('past')), 'completed', 'is an end');
select test.cron('odd', '61 * * * *');
select test.eq((select ordinaut.invalidate_task(u.task_id, 1, 'minute: 61 is not between 0 and 59')
  from ordinaut.unplanned_tasks() as u), true, 'invalid');
select test.eq((select detail like '%61 is not between 0 and 59' from ordinaut.why('odd') limit 1),
  true, 'with the reason');
select test.eq((select count(*) from ordinaut.run_log where event = 'task_invalid'), 1::bigint,
  'journalled');
select ordinaut.update_task('odd', '{"schedule_expr": "1 * * * *"}');
select test.eq((select status from ordinaut.get_task('odd')), 'active', 'a better one revives it');

-- New time zone data: what was planned with older is planned again, what was decided stands.
select test.eq((select ordinaut.plan_task(u.task_id, u.revision,
  array[u.now + interval '1 h'], u.now + interval '2 h', '2026a') from ordinaut.unplanned_tasks() as u),
  true, 'planned with 2026a');
select test.eq(ordinaut.outdate_plans('2026a'), 0::bigint, 'the same release');
select test.eq(ordinaut.outdate_plans('2025b'), 0::bigint, 'an older one');
select test.eq(ordinaut.outdate_plans('2026b'), 1::bigint, 'a newer one');
select test.eq((select count(*) from ordinaut.unplanned_tasks()), 1::bigint, 'calls for a plan');

rollback;
