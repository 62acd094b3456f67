-- diagnose() names what is wrong in the engine, in the words of why(), and is silent when all is well.
\ir _begin.sql

-- The server of the tests is none to rely on, which is rightly told; and its clock is not the story's.
create function test.found(p_patience interval default '60 s')
returns table (problem text, severity text, subject text, detail text, since timestamptz, evidence jsonb, act text)
language sql
as $fn$
  select d.* from ordinaut.diagnose(p_patience) as d
  where d.problem not in ('not_durable', 'autovacuum_off', 'not_vacuumed', 'xmin_held', 'lock_held', 'partition_missing', 'connections', 'blind');
$fn$;

create function test.problems(p_patience interval default '60 s') returns text
language sql
as $fn$
  select string_agg(distinct f.problem, ' ') from test.found(p_patience) as f;
$fn$;

select ordinaut.ensure_partitions();
select test.eq(test.problems(), null, 'an engine that has nothing to do is well');

-- Late work, queue by queue, with why it is.
select ordinaut.enqueue('echo', p_queue => q.name) from unnest(array['alone', 'paused', 'full', 'busy', 'slack']) as q (name);
select ordinaut.enqueue('echo', p_queue => 'alone') from generate_series(1, 2);
select ordinaut.pause_queue('paused', 'release');
select ordinaut.set_queue('full', p_max_running => 0);
select ordinaut.register_worker(gen_random_uuid(), '{paused,full,slack}', '{echo}', p_name => 'w', p_ttl => '1 day', p_concurrency => 2);
select ordinaut.register_worker('00000000-0000-0000-0000-00000000000b', '{busy}', '{echo}', p_name => 'b', p_ttl => '1 day');
select ordinaut.enqueue('echo', p_queue => 'busy');
select ordinaut.exchange('00000000-0000-0000-0000-00000000000b', 'busy', gen_random_uuid(), 1);
select test.travel('9 s');
select test.eq(test.problems(), null, 'work that is due for less than 10 s is not late');
select test.travel('2 s');
select test.eq(string_agg(f.problem || ' ' || f.subject || ' ' || f.severity, ', ' order by f.subject),
  'no_worker alone critical, queue_behind busy info, queue_limit full info, queue_paused paused warning, queue_behind slack info',
  'each queue with late work has its reason') from test.found() as f;
select test.eq(string_agg(distinct l.queue, ' ' order by l.queue), string_agg(distinct f.subject, ' ' order by f.subject), 'they are the queues of the view late')
from ordinaut.late as l full join test.found() as f on false;
select test.ok(bool_and(exists (
  select from ordinaut.why(f.evidence ->> 'oldest') as w where w.reason = f.problem or f.problem = 'queue_behind' and w.reason = 'ready')),
  'and why() says the same of the oldest unit of each') from test.found() as f;
select test.eq(string_agg((f.evidence - 'oldest')::text, ', '), '{"late": 3, "queue": "alone", "slots": 0, "running": 0, "workers": 0}', 'with numbers') from test.found() as f where f.subject = 'alone';
select test.eq(string_agg(f.act, ', '), 'start: ordinaut worker --queue alone', 'and what to do') from test.found() as f where f.subject = 'alone';
select test.ok(bool_and(f.detail ~ 'busy with 1 units'), 'busy workers are told') from test.found() as f where f.subject = 'busy';
select test.ok(bool_and(f.detail ~ 'could take more, and do not'), 'from those that do not take it') from test.found() as f where f.subject = 'slack';
select test.travel('60 s');
select test.eq(string_agg(f.severity, ', '), 'warning', 'what is late for longer is worse') from test.found() as f where f.subject = 'slack';
select test.eq(count(*), 1::bigint, 'a shorter patience sees more') from test.found('1 min') as f where f.subject = 'slack';

select ordinaut.deregister_worker(w.worker_id, 'stopped') from ordinaut.worker_status as w;
delete from ordinaut.due_work;
delete from ordinaut.queue;
select test.eq(test.problems(), null, 'all well again');

-- A tool that nobody has.
select ordinaut.register_worker('00000000-0000-0000-0000-00000000000c', '{default}', '{echo}', p_name => 'c');
select ordinaut.enqueue('rare');
select ordinaut._settle_alone(l.lease_id, null, 'declined', null, '{}') from ordinaut.lease_work('me') as l;
select test.eq(string_agg(f.problem || ' ' || f.subject, ', '), 'no_tool rare', 'a tool that no worker has is named') from test.found() as f;
delete from ordinaut.parked;
delete from ordinaut.due_work;

-- Workers that fall silent, with what they hold, and nobody who reaps.
select ordinaut.enqueue('echo') from generate_series(1, 3);
select ordinaut.exchange('00000000-0000-0000-0000-00000000000c', 'default', gen_random_uuid(), 3);
select test.travel('29 s');
select test.eq(test.problems(), null, 'a heartbeat may be late');
select test.travel('2 s');
select test.eq(string_agg(f.problem || ' ' || f.severity || ' ' || f.subject || ' ' || (f.evidence ->> 'units'), ', '), 'worker_silent critical c 3', 'a silent worker is named, with what it holds') from test.found() as f;
select test.travel('45 s');
select test.eq(test.problems(), 'not_reaped worker_silent', 'and that nobody took it back');
select test.eq(ordinaut.reap(), 3::bigint, 'once somebody does');
select test.eq(string_agg(f.problem, ' '), 'no_worker', 'the work waits for another worker') from test.found('20 s') as f;
delete from ordinaut.due_work;

select ordinaut.register_worker('00000000-0000-0000-0000-00000000000d', '{default}', '{echo}', p_name => 'd', p_version => '0.0.1');
select test.eq(string_agg(f.problem || ' ' || f.subject, ', '), 'worker_version d', 'a worker of another version is named') from test.found() as f;
select ordinaut.deregister_worker('00000000-0000-0000-0000-00000000000d');

-- Nobody ticks, plans, asks conditions, plans backfills.
select ordinaut.create_task('each', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 min', p_catchup => 'none');
select ordinaut.create_task('cron', 'echo', p_schedule_kind => 'cron', p_schedule_expr => '@daily');
select ordinaut.create_task('cond', 'echo', p_schedule_kind => 'condition', p_schedule_expr => 'every 1 min: select false');
select ordinaut.backfill('cron', ordinaut.now() - interval '3 days', ordinaut.now());
select test.travel('71 s');
select test.eq(string_agg(f.problem || ' ' || f.subject, ', ' order by f.problem),
  'not_backfilled default/cron, not_planned default/cron, not_polled default/cond, not_ticked default/each', 'each chore of a scheduler that is not done') from test.found() as f;
select test.ok(bool_and(f.severity = 'critical' and f.detail ~ 'no scheduler is connected'), 'and that none is there') from test.found() as f;
select test.ok(bool_and(exists (select from ordinaut.why(f.subject) as w where w.reason = f.problem)), 'why() says the same of the task') from test.found() as f;
select test.eq(count(*), 1::bigint, 'so does the view late') from ordinaut.late as l join test.found() as f on f.problem = 'not_ticked' where l.what = 'task';
select ordinaut.pause_task('cond'), ordinaut.pause_task('cron'), ordinaut.pause_task('each');
select ordinaut.cancel_backfill(b.backfill_id) from ordinaut.list_backfills() as b;
select test.eq(test.problems(), null, 'what is paused is not late');
select ordinaut.resume_task('cron');
select ordinaut.plan_task(u.task_id, u.revision, array[u.now + interval '1 h'], u.now + interval '1 h', '2025b') from ordinaut.unplanned_tasks() as u;
select test.travel('1 h 1 s');
update ordinaut.task_schedule set next_run = ordinaut.now() + interval '1 h';
select test.travel('11 s');
select test.eq(string_agg(f.problem || ' ' || f.severity, ', '), 'plan_short warning', 'a plan that runs short is told before it has') from test.found() as f;
select ordinaut.invalidate_task(t.task_id, t.revision, 'no such day') from ordinaut.get_task('cron') as g join ordinaut.task as t on t.task_id = g.task_id;
select test.eq(string_agg(f.problem || ' ' || f.detail, ', '), 'task_invalid it does not fire any more: no such day', 'an invalid task has its reason') from test.found() as f;
select ordinaut.cancel_task('cron'), ordinaut.cancel_task('each'), ordinaut.cancel_task('cond');

-- Breakers and runs that do not come back.
select ordinaut.set_breaker('bank', '{pay}', p_recovery => '10 s');
select ordinaut.open_breaker('bank', 'the bank called');
select test.travel('50 s');
select test.eq(test.problems(), null, 'a breaker may be open for a while');
select test.travel('51 s');
select test.eq(string_agg(f.problem || ' ' || f.severity || ' '|| (f.detail ~ 'kept so by .*the bank called'), ', '), 'breaker_open info true', 'one that stays open is told') from test.found() as f;
select ordinaut.drop_breaker('bank');
select ordinaut.enqueue('echo');
select ordinaut.lease_work('me', p_for => '1 day');
select test.travel('61 min');
select test.eq(string_agg(f.problem || ' ' || (f.evidence ->> 'tool'), ', '), 'stuck_run echo', 'a run that does not end is told') from test.found() as f;
delete from ordinaut.lease;

-- The clock of the server.
select ordinaut.reap();
select test.travel('-90 s');
select test.eq(string_agg(f.problem || ' ' || f.severity || ' ' || (f.detail ~ '90 s less'), ', '), 'clock_stepped_back critical true', 'a clock that steps back is told') from test.found() as f;
select test.eq(ordinaut.reap(), 0::bigint, 'and repaired');
select test.eq(test.problems(), null, 'at once');

-- Partitions, and what somebody did by hand.
select test.eq(count(*), 0::bigint, 'no partition is missing') from ordinaut.diagnose() as d where d.problem = 'partition_missing';
select test.travel('21 days');
select test.eq(string_agg(distinct d.severity, ' '), 'warning', 'they are told of in time') from ordinaut.diagnose() as d where d.problem = 'partition_missing';
select test.travel('7 days');
select test.eq(count(*) filter (where d.severity = 'critical'), 5::bigint, 'and when they are needed') from ordinaut.diagnose() as d where d.problem = 'partition_missing';
select ordinaut.ensure_partitions();
alter table ordinaut.task disable trigger task_guard_state;
alter table ordinaut.parked set unlogged;
select test.eq(string_agg(f.problem || ' ' || f.subject, ', '), 'table_unlogged parked, trigger_disabled task_guard_state on task', 'tables and triggers that were changed are named') from test.found() as f;

-- Who may ask, and what they see.
select test.throws('22023', 'select ordinaut.diagnose(''-1 s'')', 'a patience is no debt');
select test.eq(count(*), 12::bigint, 'p_all: each check answers') from (
  select distinct d.problem from ordinaut.diagnose(p_all => true) as d
  where d.severity = 'ok'
  union all
  select distinct case when d.problem in ('not_durable') then 'server' when d.problem = 'blind' then 'connections' when d.problem in ('table_unlogged', 'trigger_disabled') then 'catalog' else 'tables' end
  from ordinaut.diagnose(p_all => true) as d
  where d.problem in ('not_durable', 'blind', 'table_unlogged', 'trigger_disabled', 'autovacuum_off') 
) as c;

rollback;
