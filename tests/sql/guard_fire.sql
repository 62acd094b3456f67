-- A plan fires by its policy, each task by its own, and nothing is decided that the plan cannot tell.
\ir _begin.sql

create function test.at(p_seconds integer)
returns timestamptz
language sql
as $fn$
  select '2026-03-27 12:00:00+00'::timestamptz + p_seconds * interval '1 s';
$fn$;

-- Seconds after noon: what is planned, how far, and what a calendar keeps from running.
create function test.plan(p_name text, p_at integer[], p_until integer, p_excluded integer[] default '{}',
  p_exhausted boolean default false)
returns boolean
language plpgsql
as $fn$
declare
  v_task ordinaut.task_status := ordinaut.get_task(p_name);
  v_ok boolean;
begin
  v_ok := ordinaut.plan_task(v_task.task_id, v_task.revision, array(select test.at(u) from unnest(p_at) as u),
    test.at(p_until), '2026a', p_exhausted, jsonb_build_object('2026-03-27T12:00:10Z', 'gap'));
  update ordinaut.task_schedule as s
  set excluded = (select jsonb_object_agg(to_char(test.at(u) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), 'calendar closed')
    from unnest(p_excluded) as u)
  where s.task_id = v_task.task_id;
  return v_ok;
end
$fn$;

create function test.cron(p_name text, p_catchup text, p_at integer[], p_until integer, p_excluded integer[] default '{}',
  p_exhausted boolean default false, p_max_runs integer default null, p_overlap text default 'allow')
returns boolean
language plpgsql
as $fn$
begin
  perform ordinaut.create_task(p_name, 'echo', p_schedule_kind => 'cron', p_schedule_expr => '* * * * *', p_catchup => p_catchup,
    p_max_runs => p_max_runs, p_overlap => p_overlap, p_queue => p_name);
  return test.plan(p_name, p_at, p_until, p_excluded, p_exhausted);
end
$fn$;

create function test.decided(p_name text)
returns text
language sql
as $fn$
  select string_agg(o.decision || ' ' || extract(epoch from o.scheduled_for - test.at(0))::integer
    || coalesce(' ' || o.dst, '') || case when o.decision = 'excluded' then ' ' || o.reason else '' end,
    ', ' order by o.scheduled_for)
  from ordinaut.occurrence as o
  where o.task_id = (select task_id from ordinaut.get_task(p_name));
$fn$;

-- All of one outage, with plans that go on (until 25), that reach further, and that end.
select test.cron('all', 'all', '{10,20}', 25);
select test.cron('none', 'none', '{10,20}', 25);
select test.cron('latest', 'latest', '{10,20}', 25);
select test.cron('latest_far', 'latest', '{10,20}', 3600);
select test.cron('latest_end', 'latest', '{10,20}', 25, p_exhausted => true);
select test.cron('closed_last', 'latest', '{10,20}', 25, '{20}');
select test.cron('closed_within', 'latest', '{10,20,30}', 3600, '{30}');
select test.cron('closed_all', 'all', '{10,20,30,50}', 3600, '{20}');
select test.cron('later', 'latest', '{10,50}', 3600);
select ordinaut.create_task('every', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '10 s', p_start_at => test.at(10));
select ordinaut.create_task('ended', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '10 s', p_start_at => test.at(10),
  p_end_at => test.at(25));
select test.travel('40 s');
select test.eq((select (t.fired, t.missed)::text from ordinaut.tick() as t), '(13,8)', 'fired, and missed');
select test.eq(test.decided('all'), 'fired 10 gap, fired 20', 'all: all, with what the clocks did');
select test.eq(test.decided('none'), 'fired 10 gap, fired 20', 'none: those within the grace');
select test.eq(test.decided('latest'), 'missed 10 gap', 'latest: whether 20 is the latest shows when the plan goes on');
select test.eq(test.decided('latest_far'), 'missed 10 gap, fired 20', 'that plan tells');
select test.eq(test.decided('latest_end'), 'missed 10 gap, fired 20', 'so does one that ends');
select test.eq(test.decided('closed_last'), 'fired 10 gap, excluded 20 calendar closed', 'what does not run is not the latest');
select test.eq(test.decided('closed_within'), 'missed 10 gap, fired 20, excluded 30 calendar closed', 'nor beside others');
select test.eq(test.decided('closed_all'), 'fired 10 gap, excluded 20 calendar closed, fired 30', 'and no others are excluded');
select test.eq(test.decided('later'), 'fired 10 gap', 'what is not due is not decided');
select test.eq(test.decided('every'), 'missed 10, missed 20, missed 30, fired 40', 'an interval is its own plan');
select test.eq(test.decided('ended'), 'missed 10, fired 20', 'up to its end');
select test.eq((select array_agg(t.name order by t.name) from ordinaut.task as t where t.status = 'completed'),
  array['ended', 'latest_end'], 'who has no more is done');
select test.eq((select array_agg((t.name, s.next_run - test.at(0), s.replan_at - ordinaut.now())::text order by t.name)
  from ordinaut.task_schedule as s join ordinaut.task as t on t.task_id = s.task_id where t.name in ('latest', 'all', 'latest_end')),
  array['(all,,00:00:00)', '(latest,,00:00:00)', '(latest_end,,)'], 'who has no plan calls for one');
select test.eq((select (s.fired_count, s.missed_count, s.excluded_count, s.skipped_count, s.fired_until - test.at(0))::text
  from ordinaut.task_schedule as s join ordinaut.task as t on t.task_id = s.task_id where t.name = 'closed_within'),
  '(1,1,1,0,00:00:30)', 'counted, and gone through');
select test.eq((select min(w.run_at - ordinaut.now()) || ' ' || max(w.run_at - ordinaut.now()) from ordinaut.due_work as w
  join ordinaut.task as t on t.task_id = w.task_id where t.name = 'all'), '-00:00:00.000001 00:00:00', 'the older runs first');
select test.plan('latest', '{20,30}', 35);
select ordinaut.tick();
select test.eq(test.decided('latest'), 'missed 10 gap, missed 20', 'the next piece: 30 may be');
select test.plan('latest', '{30,60}', 3600);
select ordinaut.tick();
select test.eq(test.decided('latest'), 'missed 10 gap, missed 20, fired 30', 'and it is');

-- What was decided before does not count again.
select test.cron('twice', 'all', '{50,60,70}', 3600, p_max_runs => 2);
select test.travel('10 s');
select ordinaut.tick();
select test.travel('10 s');
select ordinaut.tick();
select test.eq(test.decided('twice'), 'fired 50, fired 60', 'two runs');
select test.eq((select t.status from ordinaut.get_task('twice') as t), 'completed', 'and no more');

-- Neither does what does not run: not as a run, not as one that others may not overlap.
create function test.reasons(p_name text)
returns text
language sql
as $fn$
  select string_agg(extract(epoch from o.scheduled_for - test.at(60))::integer || ' ' || o.decision
    || coalesce(' ' || left(o.reason, 30), ''), ', ' order by o.scheduled_for)
  from ordinaut.occurrence as o
  where o.task_id = (select task_id from ordinaut.get_task(p_name));
$fn$;
select test.cron('one', 'all', '{61,62,63,64}', 3600, '{61,64}', p_max_runs => 1);
select test.cron('skip', 'latest', '{61,62,63}', 3600, p_overlap => 'skip');
select test.cron('cancel', 'all', '{61,62,63,64}', 3600, '{64}', p_overlap => 'cancel_other');
select test.cron('parked', 'all', '{61,71}', 3600, p_overlap => 'skip');
select ordinaut.update_task('parked', '{"key": "busy"}');
select ordinaut.enqueue('echo', p_queue => 'busy', p_key => 'busy');
select ordinaut.lease_work('w', 'busy', 1);
select test.cron('lines', 'all', '{61,62,63}', 3600, p_overlap => 'buffer_one');
select test.cron('done', 'all', '{61,71}', 3600, p_overlap => 'skip');
select test.travel('4 s');
select ordinaut.tick();
select test.eq(test.reasons('one'), '1 excluded calendar closed, 2 fired, 3 dropped max_runs: it ran 1 times, 4 excluded calendar closed',
  'an excluded one is not the one');
select test.eq(test.reasons('skip'), '1 missed catchup latest: a later occurr, 2 missed catchup latest: a later occurr, 3 fired',
  'a missed one is no earlier run');
select test.eq(test.reasons('cancel'), '1 skipped overlap cancel_other: a later , 2 skipped overlap cancel_other: a later , 3 fired, '
  '4 excluded calendar closed', 'the last one that may run does');
select test.eq(test.reasons('lines'), '1 fired, 2 buffered overlap buffer_one: it waits f, 3 dropped overlap buffer_one: one run wa',
  'one waits, no more');
select ordinaut.lease_work('w', 'parked', 9);
select test.eq((select count(*) from ordinaut.parked as p where p.queue = 'parked'), 1, 'its key is busy: it is parked');
select ordinaut.enqueue('echo', p_queue => 'done');
select ordinaut.lease_work('w', 'done', 9, p_lease_id => '00000000-0000-7000-8000-000000000003');
select c.outcome from ordinaut.work as w
  cross join lateral ordinaut.complete_work('00000000-0000-7000-8000-000000000003', w.work_id) as c
where w.queue = 'done' and w.task_id is not null;
select test.travel('10 s');
select ordinaut.tick();
select test.eq(test.reasons('parked'), '1 fired, 11 skipped overlap skip: an earlier run i', 'a parked run is a live one');
select test.eq((select array_agg(w.status) from ordinaut.work as w where w.queue = 'cancel'), array['pending'], 'others cancel nothing of it');
select test.eq(test.reasons('done'), '1 fired, 11 fired', 'a settled one is not, though its lease is');

-- What is made up for keeps its pace from outage to outage; what is on time, or does not run, is no part of it.
create function test.starts(p_name text)
returns text
language sql
as $fn$
  select string_agg(extract(epoch from w.scheduled_for - test.at(0))::integer || '+'
    || extract(epoch from date_trunc('second', w.run_at) - ordinaut.now())::integer, ', ' order by w.scheduled_for)
  from ordinaut.due_work as w where w.queue = p_name;
$fn$;
select test.cron('paced', 'all', '{80,81,82,95,111,112,129,130}', 3600, '{82,112}');
select ordinaut.update_task('paced', '{"catchup_rate": 2, "grace": "5 s", "priority": 3}');
select test.travel('22 s');
select ordinaut.tick();
select test.eq(test.starts('paced'), '80+0, 81+30, 95+0', 'two a minute, but for the one that is on time');
select test.travel('16 s');
select ordinaut.tick();
select test.eq(test.starts('paced'), '80+-16, 81+14, 95+-16, 111+-1', 'nor does it delay');
select test.travel('24 s');
select ordinaut.tick();
select test.eq(test.starts('paced'), '80+-40, 81+-10, 95+-40, 111+-25, 129+20, 130+50', 'the late ones of today wait for those of yesterday');

-- The failures of others pause nobody, and nobody before its turn.
select ordinaut.create_task(n, 'fail', p_schedule_kind => 'interval', p_schedule_expr => '10 s', p_start_at => test.at(s), p_max_attempts => 1,
  p_pause_on_failure => p, p_queue => n)
from (values ('fails', 150, 1), ('waits', 150, 2), ('fresh', 160, 1)) as v (n, s, p);
select test.travel('18 s');
select ordinaut.tick();
select f.* from ordinaut.lease_work('w', 'fails', 1) as l cross join lateral ordinaut.fail_work(l.lease_id, l.work_id, 'no') as f;
select f.* from ordinaut.lease_work('w', 'waits', 1) as l cross join lateral ordinaut.fail_work(l.lease_id, l.work_id, 'no') as f;
update ordinaut.task_schedule as s set next_run = test.at(165) from ordinaut.task as t where t.task_id = s.task_id and t.name = 'fails';
select test.travel('10 s');
select ordinaut.tick();
select test.eq((select array_agg(t.name || ' ' || t.status order by t.name) from ordinaut.task as t where t.tool = 'fail'),
  array['fails active', 'fresh active', 'waits active'], 'not due, not failed, not often enough');
select test.travel('5 s');
select ordinaut.tick();
select test.eq((select array_agg(t.name || ' ' || t.status order by t.name) from ordinaut.task as t where t.tool = 'fail'),
  array['fails paused', 'fresh active', 'waits active'], 'now it is due');

-- The pace is that of the late ones that run.
select test.cron('pace', 'all', '{300,312,320,390,401}', 3600, '{390}');
select ordinaut.update_task('pace', '{"catchup_rate": 2, "grace": "5 s"}');
create function test.tick_at(p_seconds integer)
returns integer
language sql
as $fn$
  select test.travel(test.at(p_seconds) - ordinaut.now());
  select t.fired from ordinaut.tick() as t;
$fn$;
select test.tick_at(300);
select test.tick_at(318);
select test.eq(test.starts('pace'), '300+-18, 312+0', 'one on time set none');
select test.tick_at(327);
select test.eq(test.starts('pace'), '300+-27, 312+-9, 320+21', 'a late one did');
select test.tick_at(400);
select test.tick_at(408);
select test.eq(test.starts('pace'), '300+-108, 312+-90, 320+-60, 401+0', 'one that does not run sets none');

-- A plan that reaches far enough is not asked for again.
select test.cron('long', 'all', array(select 500 + 10 * i from generate_series(0, 15) as i), 3600);
select test.tick_at(500);
select test.eq((select s.replan_at - ordinaut.now() from ordinaut.task_schedule as s join ordinaut.task as t on t.task_id = s.task_id
  where t.name = 'long'), interval '80 s', 'until eight are left');

-- An interval that a planner expands is not computed as well.
select ordinaut.set_calendar('closed', '{"dates": ["2026-12-25"]}');
select ordinaut.create_task('spaced', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '10 s', p_exclude => '{closed}', p_queue => 'spaced');
select test.plan('spaced', '{510,520}', 3600);
select test.tick_at(510);
select test.eq((select count(*) from ordinaut.due_work as w where w.queue = 'spaced'), 1, 'one run');

-- A long outage of many is made up for in calls of a bounded size.
select count(ordinaut.create_task('many-' || n, 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 s', p_queue => 'many'))
from generate_series(1, 100) as n;
update ordinaut.task as t set status = 'paused' where t.queue <> 'many' and t.status = 'active';
select test.travel('700 s');
select test.eq((select (t.fired, t.missed)::text from ordinaut.tick() as t), '(0,50000)', 'not all at once');
select test.eq((select (t.fired, t.missed)::text from ordinaut.tick() as t), '(100,19900)', 'but all');

rollback;
