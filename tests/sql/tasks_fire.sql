-- Tasks fire by their schedules, once each, and make up for downtime as they were told.
\ir _begin.sql

create function test.runs(p_task text) returns text
language sql
as $fn$
  select string_agg(to_char(r.scheduled_for at time zone 'UTC', 'HH24:MI'), ' ' order by r.scheduled_for)
  from ordinaut.list_runs(p_task) as r;
$fn$;
create function test.next(p_task text) returns text
language sql
as $fn$
  select to_char(t.next_run at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') from ordinaut.get_task(p_task) as t;
$fn$;
create function test.ticked() returns text
language sql
as 'select t.fired || '' fired, '' || t.missed || '' missed'' from ordinaut.tick() as t';

-- Once.
select ordinaut.create_task('party', 'echo', '{"n": 1}', 'once', '2026-03-27T13:00:00Z') as task_id \gset
select test.eq(test.ticked(), '0 fired, 0 missed', 'not before its time');
select test.travel('1 hour');
select test.eq(test.ticked(), '1 fired, 0 missed', 'at its time');
select test.eq(test.ticked(), '0 fired, 0 missed', 'once');
select test.eq((t.status, t.next_run, t.fired_count)::text, '(completed,,1)', 'then it is completed') from ordinaut.get_task('party') as t;
select test.eq((r.task, r.payload, r.scheduled_for = ordinaut.now())::text, '(default/party,"{""n"": 1}",t)', 'the run is its own')
from ordinaut.list_runs('party') as r;
select test.throws('OR031', 'select ordinaut.run_now(''party'')', 'a completed task runs no more');
select test.throws('OR031', 'select ordinaut.resume_task(''party'')', 'and cannot be resumed');
select test.throws('OR010', 'select ordinaut.pause_task(''party'')', 'or paused');
select test.eq(ordinaut.update_task('party', '{"schedule_expr": "2026-03-27T14:00Z"}'), 2, 'a new date makes it active');
select test.eq(test.next('party'), '2026-03-27 14:00:00', 'and is planned at once');

-- Once in a zone: the gap of spring and the repeated hour of autumn.
select ordinaut.create_task('gap', 'echo', p_schedule_kind => 'once', p_schedule_expr => '2027-03-14 02:30',
  p_timezone => 'America/New_York');
select test.eq(test.next('gap'), '2027-03-14 07:00:00', 'a skipped half past two is three o''clock EDT');
select ordinaut.create_task('twice', 'echo', p_schedule_kind => 'once', p_schedule_expr => '2026-11-01 01:30',
  p_timezone => 'America/New_York');
select test.eq(test.next('twice'), '2026-11-01 05:30:00', 'a repeated half past one is the first, EDT');
select ordinaut.create_task('offset', 'echo', p_schedule_kind => 'once', p_schedule_expr => '2026-11-01 01:30-05:00',
  p_timezone => 'America/New_York');
select test.eq(test.next('offset'), '2026-11-01 06:30:00', 'an offset says which');
select ordinaut.create_task('plain', 'echo', p_schedule_kind => 'once', p_schedule_expr => '2027-07-01 09:00',
  p_timezone => 'Europe/Berlin');
select test.eq(test.next('plain'), '2027-07-01 07:00:00', 'a summer morning in Berlin');
select test.throws('22023', 'select ordinaut.create_task(''late'', ''echo'', p_schedule_kind => ''once'', p_schedule_expr => ''2026-03-27T12:58Z'')',
  'past by more than its grace');
select ordinaut.create_task('late', 'echo', p_schedule_kind => 'once', p_schedule_expr => '2026-03-27T12:00Z', p_allow_past => true);
select ordinaut.create_task('just', 'echo', p_schedule_kind => 'once', p_schedule_expr => '2026-03-27T12:59:30Z', p_catchup => 'none');
select test.eq(test.ticked(), '2 fired, 0 missed', 'a past that was allowed runs at once');

-- Interval, and what passed while nobody ticked.
select ordinaut.create_task(c, 'echo', p_schedule_kind => 'interval', p_schedule_expr => '5 min', p_catchup => c)
from unnest(array['all', 'latest', 'none']) as c;
select test.eq(test.next('all'), '2026-03-27 13:05:00', 'the first is one duration away');
select test.travel('5 min');
select test.eq(test.ticked(), '3 fired, 0 missed', 'each fires');
select test.travel('20 min 90 s');
select test.eq(test.ticked(), '5 fired, 7 missed', 'after downtime');
select test.eq(test.runs('all'), '13:05 13:10 13:15 13:20 13:25', 'all: every one');
select test.eq(test.runs('latest'), '13:05 13:25', 'latest: the last');
select test.eq(test.runs('none'), '13:05', 'none: not even the last, it is later than its grace');
select test.eq(test.next('none'), '2026-03-27 13:30:00', 'all go on by the same clock');
select test.eq((t.fired_count, t.missed_count)::text, '(1,4)', 'what is missed is counted') from ordinaut.get_task('none') as t;
select test.eq(count(*), 3::bigint, 'and why() names the last three') from ordinaut.why('none') where reason = 'missed';

-- More than a thousand in one downtime.
select ordinaut.create_task('busy', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 s');
select test.travel('2500 s');
select test.ticked() from generate_series(1, 3);
select test.eq((t.fired_count, t.missed_count)::text, '(1,2499)', 'latest fires one of 2500') from ordinaut.get_task('busy') as t;
select test.eq((select max(r.scheduled_for) from ordinaut.list_runs('busy') as r), ordinaut.now(), 'the last one');

-- With a start of its own; a day is 24 hours, whatever the zone does.
select ordinaut.create_task('daily', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 day',
  p_start_at => '2026-03-28 09:00+01', p_end_at => '2026-03-30 12:00+02', p_timezone => 'Europe/Berlin', p_catchup => 'all');
select test.eq(test.next('daily'), '2026-03-28 08:00:00', 'from its start');
select test.travel('10 days');
select test.ticked();
select test.eq((t.fired_count, t.status)::text, '(3,completed)', 'to its end') from ordinaut.get_task('daily') as t;
select test.eq(array_agg(r.scheduled_for - lag order by r.scheduled_for), '{24:00:00,24:00:00}'::interval[], '24 hours apart')
from (select r.scheduled_for, lag(r.scheduled_for) over (order by r.scheduled_for) as lag from ordinaut.list_runs('daily') as r) as r
where lag is not null;

-- By hand.
select ordinaut.create_task('manual', 'echo', '{"a": 1}', p_priority => 2, p_queue => 'ops');
select test.eq(test.next('manual'), null, 'a manual task has no next run');
select run_id, outcome from ordinaut.run_now('manual', p_idempotency_key => 'click') \gset
select test.eq((r.payload, r.priority, r.queue)::text, '("{""a"": 1}",2,ops)', 'run_now starts it as it is') from ordinaut.get_run(:'run_id') as r;
select test.eq((q.run_id = :'run_id', q.outcome)::text, '(t,existing)', 'one click is one run') from ordinaut.run_now('manual', p_idempotency_key => 'click') as q;
select test.eq(r.payload ->> 'a', '2', 'with another payload') from ordinaut.run_now('manual', '{"a": 2}') as q, ordinaut.get_run(q.run_id) as r;

rollback;
