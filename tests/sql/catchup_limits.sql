-- Made-up runs have a window and a rate; jitter, max_runs and pause_on_failure hold.
\ir _begin.sql

create function test.task(p_name text, p_window interval, p_rate integer) returns uuid
language sql
as $fn$
  select ordinaut.create_task(p_name, 'echo', p_schedule_kind => 'interval', p_start_at => ordinaut.now(),
    p_schedule_expr => '10 min', p_catchup => 'all', p_grace => '5 s', p_catchup_window => p_window,
    p_catchup_rate => p_rate);
$fn$;

select test.task('windowed', '25 min', null);
select test.task('slow', null, 2);
select test.travel('40 min');
select count(*) from ordinaut.tick();
select test.eq((select array[t.fired_count, t.missed_count] from ordinaut.get_task('windowed') as t),
  array[3, 1]::bigint[], 'older than the window is missed');
select test.eq((select distinct reason from ordinaut.occurrence where decision = 'missed'),
  'older than its catchup window of 00:25:00', 'with the reason');
select test.eq(array_agg(w.run_at - ordinaut.now() order by w.scheduled_for),
  array['0 s', '30 s', '60 s', '0 s']::interval[], 'two a minute, the oldest first; the last is on time')
from ordinaut.due_work as w where w.task_id = (select task_id from ordinaut.get_task('slow'));

-- Jitter: later, always by the same, and before the next.
select ordinaut.create_task('j' || n, 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 min',
  p_jitter => j, p_start_at => ordinaut.now() + interval '1 min')
from (values (1, '40 s'::interval), (2, '1 day'), (3, null)) as v (n, j);
create function test.delay(p_name text) returns interval
language sql
as $fn$
  select w.run_at - w.scheduled_for from ordinaut.due_work as w
  join ordinaut.task as t on t.task_id = w.task_id
  where t.name = p_name order by w.scheduled_for desc limit 1;
$fn$;
select test.travel('1 min');
select count(*) from ordinaut.tick();
select test.delay('j1') as first, test.delay('j2') as bounded \gset
select test.eq(:'first'::interval between '0 s' and '40 s' and :'first'::interval <> '0 s', true, 'later');
select test.eq(:'bounded'::interval < '1 min' and :'bounded'::interval > '0 s', true, 'before the next');
select test.eq(test.delay('j3'), '0 s'::interval, 'not without');
select test.travel('1 min');
select count(*) from ordinaut.tick();
select test.eq(test.delay('j1'), :'first'::interval, 'always the same');

-- max_runs: then it is completed; more of them revive it.
select ordinaut.create_task('thrice', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 min',
  p_max_runs => 3, p_catchup => 'all');
select test.travel('5 min');
select count(*) from ordinaut.tick();
select test.eq((select (t.status, t.fired_count, t.dropped_count, t.next_run)::text
  from ordinaut.get_task('thrice') as t), '(completed,3,2,)', 'three, and no more');
select test.eq((select detail like '%max_runs%' from ordinaut.why('thrice') limit 1), true, 'why');
select ordinaut.update_task('thrice', '{"max_runs": 4}');
select test.travel('1 min');
select count(*) from ordinaut.tick();
select test.eq((select (t.status, t.fired_count)::text from ordinaut.get_task('thrice') as t),
  '(completed,4)', 'one more');

-- pause_on_failure: the third failure in a row; a resume begins to count anew.
select ordinaut.create_task('flaky', 'fail', p_schedule_kind => 'interval', p_schedule_expr => '1 min',
  p_pause_on_failure => 3, p_queue => 'flaky');
create function test.beat(p_good boolean) returns text
language sql
as $fn$
  select test.travel('1 min');
  select count(*) from ordinaut.tick();
  select count(*) from ordinaut.lease_work('me', 'flaky');
  select count(*) from ordinaut.work as w
  cross join lateral ordinaut.complete_work(w.lease_id, w.work_id)
  where w.queue = 'flaky' and w.status = 'running' and p_good;
  select count(*) from ordinaut.work as w
  cross join lateral ordinaut.fail_work(w.lease_id, w.work_id, 'no', false)
  where w.queue = 'flaky' and w.status = 'running' and not p_good;
  select t.status from ordinaut.get_task('flaky') as t;
$fn$;
select test.eq(test.beat(good), 'active', 'two failures, a success, two failures')
from unnest(array[false, false, true, false, false]) as good;
select test.eq(test.beat(false), 'active', 'the third fails');
select test.eq(test.beat(true), 'paused', 'and none is fired any more');
select test.eq((select detail like '%its last 3 runs failed' from ordinaut.why('flaky') limit 1), true,
  'with the reason');
select ordinaut.resume_task('flaky');
select test.eq(test.beat(false), 'active', 'resumed, it has all its tries again');
select test.eq(test.beat(false), 'active', 'and again');

rollback;
