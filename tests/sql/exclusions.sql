-- Calendars that tasks exclude, and unions: what is refused, and what is planned.
\ir _begin.sql
set local test.now = '2026-12-21 12:00:00+00';  -- a Monday

create function test.union_of(p_expr text) returns uuid
language sql
as $fn$
  select ordinaut.create_task('bad', 'echo', p_schedule_kind => 'union', p_schedule_expr => p_expr);
$fn$;
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

-- A calendar is refused with the part that is wrong.
select test.throws('22023', format('select ordinaut.set_calendar(''bad'', %L)', d), d || ' is none')
from unnest(array['[]', '"x"', 'null', '{"days": []}', '{"timezone": "UTC"}', '{"dates": {}}',
  '{"dates": "2026-12-25"}', '{"dates": ["25.12.2026"]}', '{"dates": ["2026-02-30"]}',
  '{"dates": [20261225]}', '{"dates": [null]}', '{"dates": ["2500-01-01"]}', '{"ranges": ["x"]}',
  '{"ranges": [["2026-12-24", "2026-12-23"]]}', '{"ranges": [["2026-12-24", "2026-12-24"]]}',
  '{"ranges": [["2026-12-24", "later"]]}', '{"ranges": [["2026-12-24", null]]}',
  '{"ranges": [["2026-12-24"]]}', '{"ranges": [["2026-12-24", "infinity"]]}',
  '{"ranges": [["2026-12-24T10:00:00.5", "2026-12-25"]]}', '{"ranges": [["2026-12-24", "2200-01-01"]]}',
  '{"weekly": [{"days": "MON#2"}]}', '{"weekly": [{"days": "FUNDAY"}]}', '{"weekly": [{"days": ""}]}',
  '{"weekly": [{"days": "FRI-MON"}]}', '{"weekly": [{"days": "MON-2"}]}', '{"weekly": [{"days": 1}]}',
  '{"weekly": [{"from": "25:00"}]}', '{"weekly": [{"to": "24:00"}]}', '{"weekly": [{"at": "5"}]}',
  '{"weekly": ["MON"]}']) as d;
select test.throws('22023', format('select ordinaut.set_calendar(''bad'', %L)',
  jsonb_build_object('weekly', (select jsonb_agg('{}'::jsonb) from generate_series(1, 51)))),
  'too many windows');
select test.throws('22023', $$select ordinaut.set_calendar('bad', '{}', p_timezone => 'Mars/Base')$$,
  'an unknown zone');
select test.throws('22023', $$select ordinaut.set_calendar('Bad name', '{}')$$, 'an unfit name');
select test.eq(test.message($$select ordinaut.set_calendar('bad', '{"dates": ["2026-12-25", "x"]}')$$),
  'data.dates: number 2, "x", is none', 'the message says which');
select test.eq((select count(*) from ordinaut.list_calendars()), 0::bigint, 'and nothing is stored');

select test.eq(ordinaut.set_calendar('holidays', '{"dates": ["2026-12-25"], "ranges":
  [["2026-12-24T14:00", "2026-12-24 15:00+01"]], "weekly": [{"days": "sat, SUN"}, {"days": "MON-SUN/2"},
  {"days": "5-7,0", "from": "22:00", "to": "06:00"}, {}]}', p_timezone => 'Europe/Berlin'), 'created',
  'all forms');
select test.eq(ordinaut.set_calendar('holidays', '{"dates": ["2026-12-25"]}', p_note => 'closed'),
  'updated', 'changed');
select test.eq(ordinaut.set_calendar('holidays', '{"dates": ["2026-12-25"]}', p_note => 'closed'),
  'unchanged', 'and changed no more');
select test.eq((select (c.timezone, c.note, c.tasks)::text from ordinaut.get_calendar('holidays') as c),
  '(UTC,closed,0)', 'as it is');
select test.throws('OR020', $$select ordinaut.get_calendar('holidays', 'ops')$$, 'not in that namespace');
select test.throws('OR020', $$select ordinaut.drop_calendar('none')$$, 'there is none');

-- A union is refused with the member that is wrong.
select test.throws('22023', format('select test.union_of(%L)', e), format('%L is no union', e))
from unnest(array[null, '', 'x', '{}', '[]', '["@daily"]', '[{"kind": "cron"}]',
  '[{"kind": "manual", "expr": ""}]', '[{"kind": "union", "expr": "[]"}]',
  '[{"kind": "cron", "expr": 5}]', '[{"kind": "cron", "expr": "@daily", "timezone": "UTC"}]',
  '[{"kind": "cron", "expr": "@daily"}, {"kind": "interval", "expr": "1 month"}]',
  '[{"kind": "once", "expr": "tomorrow"}]', '[{"kind": "rrule", "expr": "BYDAY=MO"}]', repeat('[', 20000),
  (select jsonb_agg('{"kind": "cron", "expr": "@daily"}'::jsonb)::text from generate_series(1, 21))]) as e;
select test.eq(test.message($$select test.union_of(
    '[{"kind": "cron", "expr": "@daily"}, {"kind": "cron", "expr": "1 2 3"}]')$$),
  'schedule_expr: member 2 (cron): ''1 2 3'' has 3 fields', 'the message says which');

-- A task excludes calendars that exist, in its namespace, and only if it has planned times.
create function test.task(p_name text, p_kind text, p_expr text, p_exclude text[], p_start timestamptz
  default null) returns uuid
language sql
as $fn$
  select ordinaut.create_task(p_name, 'echo', p_schedule_kind => p_kind, p_schedule_expr => p_expr,
    p_exclude => p_exclude, p_start_at => p_start);
$fn$;
select test.throws('22023', $$select test.task('bad', 'cron', '@daily', '{none}')$$, 'no such calendar');
select test.throws('22023', $$select test.task('bad', 'cron', '@daily', '{holidays,none}')$$, 'nor one');
select test.throws('22023', $$select test.task('bad', 'cron', '@daily', '{{holidays}}')$$, 'no list');
select test.throws('22023', $$select test.task('bad', 'cron', '@daily', '{NULL}')$$, 'no name');
select test.throws('22023', $$select test.task('bad', 'cron', '@daily', array_fill('holidays'::text,
  '{21}'))$$, 'too many');
select test.throws('22023', $$select test.task('bad', 'manual', null, '{holidays}')$$, 'no times');
select test.task('daily', 'cron', '0 8 * * *', '{holidays}') as daily \gset
select test.eq((select exclude from ordinaut.get_task('daily')), '{holidays}', 'it has it');
select test.throws('22023', $$select ordinaut.update_task('daily', '{"namespace": "ops"}')$$,
  'the other namespace has no such calendar');
select test.throws('22023', $$select ordinaut.update_task('daily', '{"exclude": "holidays"}')$$, 'no list');
select test.throws('22023', $$select ordinaut.update_task('daily', '{"schedule_kind": "manual",
  "schedule_expr": null}')$$, 'nothing to exclude');
select test.throws('OR031', $$select ordinaut.drop_calendar('holidays')$$, 'a task excludes it');
select test.eq(test.message($$select ordinaut.drop_calendar('holidays')$$),
  'calendar default/holidays is excluded by daily', 'and is named');
select test.eq((select tasks from ordinaut.get_calendar('holidays')), 1, 'and counted');

-- What a planner is told: the calendars, and as much as SQL can tell it.
select test.eq((select calendars from ordinaut.unplanned_tasks()),
  '[{"name": "holidays", "timezone": "UTC", "dates": ["2026-12-25"]}]'::jsonb, 'the calendars');
select ordinaut.set_calendar('nights', '{"weekly": [{"from": "22:00", "to": "06:00"}]}');
select test.task('often', 'interval', '1 hour 30 min', '{nights,holidays}', '2026-12-21 13:00+00');
select ordinaut.create_task('late', 'echo', p_schedule_kind => 'once', p_schedule_expr =>
  '2026-12-25T09:00', p_timezone => 'Europe/Berlin', p_exclude => '{nights}', p_start_at => '2027-01-01Z');
select test.eq((select (schedule_expr::numeric, dtstart, plan_after, jsonb_path_query_array(calendars, '$[*].name'))
    ::text from ordinaut.unplanned_tasks() where schedule_kind = 'interval'),
  (5400.000000, '2026-12-21 13:00+00'::timestamptz, '2026-12-21 12:59:59.999999+00'::timestamptz,
  '["nights", "holidays"]'::jsonb)::text, 'an interval in seconds, in the order of exclude');
select test.eq((select (schedule_expr, plan_after)::text from ordinaut.unplanned_tasks()
    where schedule_kind = 'once'),
  ('2026-12-25T08:00:00.000000+00:00'::text, '1969-12-31 23:59:59+00'::timestamptz)::text,
  'a once as an instant, whatever start_at says');
select test.eq((select count(*) from ordinaut.task_schedule where next_run is null and replan_at is not null),
  3::bigint, 'they all wait for the planner');
select test.eq((select reason from ordinaut.why('often') limit 1), 'not_planned', 'and say so');

-- The plan holds what is excluded, too; who asks is told the next run.
create function test.plan(p_task text, p_upcoming timestamptz[], p_excluded jsonb) returns boolean
language sql
as $fn$
  select ordinaut.plan_task(u.task_id, u.revision, p_upcoming,
    p_upcoming[cardinality(p_upcoming)] + interval '1 h', '2026a', p_excluded => p_excluded)
  from ordinaut.unplanned_tasks() as u
  where u.task_id = (select t.task_id from ordinaut.get_task(p_task) as t);
$fn$;
select test.throws('22023', $$select test.plan('daily', '{2026-12-25 08:00+00}', '[]')$$, 'no notes');
select test.eq(test.plan('daily', '{2026-12-25 08:00+00,2026-12-26 08:00+00}',
  '{"2026-12-25T08:00:00Z": "calendar holidays"}'), true, 'planned');
select test.eq((select next_run from ordinaut.get_task('daily')), '2026-12-26 08:00+00'::timestamptz,
  'it runs on the 26th');
select test.eq((select next_run from ordinaut.task_schedule where task_id = :'daily'),
  '2026-12-25 08:00+00'::timestamptz, 'and tick looks at the 25th');
select test.eq((select (reason, until, subject)::text from ordinaut.why('daily') limit 1),
  ('excluded'::text, '2026-12-26 08:00+00'::timestamptz, 'calendar holidays'::text)::text, 'why');
select ordinaut.pause_task('daily');
select ordinaut.resume_task('daily');
select test.eq((select reason from ordinaut.why('daily') limit 1), 'excluded', 'a pause keeps that');
select test.eq(test.plan('often', '{2026-12-21 22:00+00}', '{"2026-12-21T22:00:00Z": "calendar nights"}'),
  true, 'nothing but night');
select test.eq((select next_run from ordinaut.get_task('often')), null::timestamptz, 'no run is known');
select test.eq((select detail like '%does not fire: calendar nights; nor does any other that is planned%'
  from ordinaut.why('often') limit 1), true, 'and why says how far it looked');
select test.throws('OR031', $$select ordinaut.snooze_task('often', '1 h')$$, 'there is nothing to snooze');

-- A change of a calendar drops the plans of those who exclude it, and no other.
select revision as daily_revision from ordinaut.get_task('daily') \gset
select test.eq(ordinaut.set_calendar('nights', '{"weekly": [{"from": "23:00", "to": "06:00"}]}'), 'updated',
  'shorter nights');
select test.eq((select (next_run, upcoming, excluded, is_exhausted, replan_at)::text from ordinaut.task_schedule
  where task_id = (select task_id from ordinaut.get_task('often'))), '(,,,f,-infinity)', 'no plan is left');
select test.eq((select next_run from ordinaut.get_task('daily')), '2026-12-26 08:00+00'::timestamptz,
  'the others have theirs');
select test.eq((select revision from ordinaut.get_task('daily')), :daily_revision, 'and their revision');
select test.eq((select revision from ordinaut.get_task('often')), 2, 'which is raised');
select test.eq(ordinaut.plan_task((select task_id from ordinaut.get_task('often')), 1,
  '{2026-12-21 22:00+00}', '2026-12-21 23:00+00', '2026a'), false, 'so the old plan comes too late');
select test.eq(ordinaut.set_calendar('nights', '{"weekly": [{"from": "23:00", "to": "06:00"}]}', p_note => 'x'),
  'updated', 'a note');
select test.eq((select revision from ordinaut.get_task('often')), 2, 'changes no plan');

-- The calendars of another namespace are others.
select ordinaut.set_calendar('nights', '{"weekly": [{"from": "20:00"}]}', 'ops');
select test.eq(test.plan('often', '{2026-12-21 22:00+00}', null), true, 'planned');
select test.eq((select count(*) from ordinaut.unplanned_tasks() where schedule_kind = 'interval'), 0::bigint,
  'that was it');
select ordinaut.update_task('often', '{"namespace": "ops", "exclude": ["nights"]}');
select ordinaut.update_task('ops/often', '{"namespace": "default"}');
select test.eq(test.plan('often', '{2026-12-21 22:00+00}', null), true, 'planned');
select ordinaut.update_task('often', '{"namespace": "ops"}');
select test.eq((select calendars #>> '{0,weekly,0,from}' from ordinaut.unplanned_tasks()
  where schedule_kind = 'interval'), '20:00', 'the move calls for a plan');
select ordinaut.update_task('ops/often', '{"namespace": "default", "exclude": ["nights", "holidays"]}');
select ordinaut.drop_calendar('nights', 'ops');

-- A paused task is planned when it is resumed; an invalid one gets another chance.
select ordinaut.pause_task('often');
select ordinaut.invalidate_task((select task_id from ordinaut.get_task('late')), 2, 'calendar nights: odd');
select ordinaut.set_calendar('nights', '{}');
select test.eq((select replan_at from ordinaut.task_schedule
  where task_id = (select task_id from ordinaut.get_task('often'))), null::timestamptz, 'paused stays paused');
select test.eq((select (status, status_note)::text from ordinaut.get_task('late')), '(active,)', 'revived');
select ordinaut.resume_task('often');
select test.eq((select count(*) from ordinaut.unplanned_tasks() where schedule_kind <> 'cron'), 2::bigint,
  'both are to be planned');

-- A once that is snoozed goes where it was sent.
select test.eq((select ordinaut.plan_task(u.task_id, u.revision, '{2026-12-25 08:00+00}', null, '2026a', true)
  from ordinaut.unplanned_tasks() as u where u.schedule_kind = 'once'), true, 'planned');
select test.eq(ordinaut.snooze_task('late', '2 h'), '2026-12-25 10:00+00'::timestamptz, 'snoozed');
select test.eq((select upcoming from ordinaut.task_schedule
  where task_id = (select task_id from ordinaut.get_task('late'))), '{2026-12-25 10:00+00}', 'in its plan too');

-- Without exclude SQL plans again by itself.
select ordinaut.update_task('often', '{"exclude": []}');
select test.eq((select (exclude, next_run)::text from ordinaut.get_task('often')),
  (null::text[], '2026-12-21 13:00+00'::timestamptz)::text, 'at once');
select test.eq((select upcoming from ordinaut.task_schedule
  where task_id = (select task_id from ordinaut.get_task('often'))), null::timestamptz[], 'with no plan');
select ordinaut.update_task('daily', '{"exclude": null, "schedule_kind": "interval", "schedule_expr": "1 h"}');
select test.eq((select next_run from ordinaut.get_task('daily')), '2026-12-21 13:00+00'::timestamptz,
  'whatever was excluded');
select ordinaut.cancel_task('late');
select ordinaut.drop_calendar('holidays');
select ordinaut.drop_calendar('nights');
select test.eq((select array_agg(event order by event desc) from ordinaut.run_log where event like 'calendar%'),
  array_cat(array_fill('calendar_set'::text, '{7}'), array_fill('calendar_dropped'::text, '{3}')),
  'the journal has it all');

rollback;
