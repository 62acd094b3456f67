-- why() names every reason why a run or a task has not run, and says ready when there is none.
\ir _begin.sql

create function test.why(p_id text, variadic p_except text[] default '{}') returns text
language sql
as $fn$
  select string_agg(w.reason, ' ' order by w.reason collate "C") from ordinaut.why(p_id) as w where w.reason <> all (p_except);
$fn$;
create function test.detail(p_id text, p_reason text) returns text
language sql
as 'select string_agg(w.detail, ''; '') from ordinaut.why(p_id) as w where w.reason = p_reason';

select gen_random_uuid() as worker_id \gset

-- Nobody to run it, then somebody.
select run_id from ordinaut.enqueue('echo', p_max_attempts => 9) \gset
select test.eq(test.why(:'run_id'), 'no_worker', 'nobody serves its queue');
select ordinaut.register_worker(:'worker_id', '{default}', '{echo}', 'host:1');
select test.eq(test.why(:'run_id'), 'ready', 'now it is only its turn');
select test.eq(test.why(right(:'run_id', 6)), 'ready', 'by the end of its id, too');
select test.travel('2 min');
select test.ok(test.detail(:'run_id', 'no_worker') like '%last seen: 2026-03-27 12:00:00+00%', 'a silent worker is none');
select ordinaut.heartbeat(:'worker_id');

-- Its queue.
select ordinaut.pause_queue('default', 'deploying');
select test.eq(test.why(:'run_id'), 'queue_paused', 'its queue is paused');
select test.ok(test.detail(:'run_id', 'queue_paused') like '%deploying%', 'with the note');
select ordinaut.resume_queue('default');
select ordinaut.set_queue('default', p_max_running => 0);
select test.eq(test.why(:'run_id'), 'queue_limit', 'its queue is full');
select ordinaut.set_queue('default');

-- It runs.
select lease_id from ordinaut.lease_work('ann', p_for => '1 min') \gset
select test.eq(test.why(:'run_id'), 'running', 'it runs');
select test.eq(test.detail(:'run_id', 'running'), 'attempt 1 is leased by ann', 'somewhere');
select test.travel('61 s');
select test.eq(test.why(:'run_id'), 'not_reaped running', 'its lessee is silent');
select ordinaut.heartbeat(:'lease_id');
select ordinaut.heartbeat(:'worker_id');

-- It waits for time.
select ordinaut.snooze_work(:'lease_id', :'run_id', '1 min');
select test.eq(test.why(:'run_id'), 'snoozed', 'its tool asked for a pause');
select test.eq(w.until, ordinaut.now() + '1 min', 'until then') from ordinaut.why(:'run_id') as w;
select test.travel('1 min');
select ordinaut.heartbeat(:'worker_id');
select lease_id from ordinaut.lease_work('ann') \gset
select ordinaut.fail_work(:'lease_id', p_error => 'no route', p_retry_after => '10 s');
select test.eq(test.why(:'run_id'), 'backoff', 'it failed');
select test.eq(test.detail(:'run_id', 'backoff'), 'attempt 2 failed: no route', 'so');
select run_id as later from ordinaut.enqueue('echo', p_delay => '1 hour') \gset
select test.eq(test.why(:'later'), 'not_due', 'it is scheduled for later');
select ordinaut.cancel_run(:'later');

-- It waits for a tool.
select ordinaut.heartbeat(:'worker_id');
select run_id as rare from ordinaut.enqueue('rare') \gset
select gen_random_uuid() as lease_id \gset
select count(*) from ordinaut.exchange(:'worker_id', 'default', :'lease_id', 1);
select count(*) from ordinaut.exchange(:'worker_id', 'default', null, 0, array[:'lease_id']::uuid[], array[:'rare']::uuid[],
  '{declined}', '{null}', '{null}', '{0}');
select test.eq(test.why(:'rare'), 'no_tool', 'nobody has its tool');
select gen_random_uuid() as other_id \gset
select ordinaut.register_worker(:'other_id', '{default}', '{rare}');
select test.eq(test.why(:'rare'), 'declined', 'until somebody has, and the second is over');
select test.travel('1 s');
select test.eq(test.why(:'rare'), 'ready', 'then');
select ordinaut.cancel_run(:'rare');
select ordinaut.deregister_worker(:'other_id');

-- It waits for a key.
select run_id as first from ordinaut.enqueue('echo', p_key => 'k') \gset
select run_id as second from ordinaut.enqueue('echo', p_key => 'k', p_run_at => ordinaut.now() + '1 us') \gset
select run_id as third from ordinaut.enqueue('echo', p_key => 'k', p_run_at => ordinaut.now() + '2 us') \gset
select test.travel('1 s');
select lease_id as of_first from ordinaut.lease_work('ann') \gset
select test.eq(test.why(:'second'), 'key_busy', 'its key is busy, and it has not met that yet');
select count(*) from ordinaut.lease_work('ann', p_limit => 9);
select test.eq(test.why(:'second'), 'key_busy', 'its key is held');
select test.eq(w.subject, :'first', 'by that run') from ordinaut.why(:'second') as w where w.reason = 'key_busy';
select test.eq(test.why(:'third'), 'in_line key_busy', 'and others came before');

-- It is to be cancelled; it has ended.
select test.eq(ordinaut.cancel_run(:'first', 'too slow'), 'requested', 'a cancel of what runs is a request');
select test.eq(test.why(:'first'), 'cancel_requested running', 'which why tells');
select ordinaut.release_work(:'of_first');
select test.eq(test.why(:'first'), 'finished', 'it has ended');
select test.eq(test.detail(:'first', 'finished') like 'it ended as cancelled: cancelled by %', true, 'so');
select test.eq(test.why(:'second'), 'ready', 'and the next is ready');

-- Tasks.
select ordinaut.create_task('beat', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 hour');
select test.eq(test.why('beat'), 'not_due', 'its next occurrence lies ahead');
select test.travel('2 hours');
select ordinaut.heartbeat(:'worker_id');
select test.eq(test.why('beat'), 'not_ticked', 'no scheduler ticks');
select count(*) from ordinaut.tick();
select test.eq(test.why('beat'), 'live_run missed not_due', 'it fired, and missed one');
select ordinaut.pause_task('beat', 'too loud');
select test.ok(test.detail('beat', 'task_paused') like '%too loud', 'it is paused, with the note');
select ordinaut.cancel_task('beat');
select test.eq(test.why('beat'), 'task_cancelled', 'it is cancelled');
select ordinaut.create_task('byhand', 'echo');
select test.eq(test.why('byhand'), 'manual', 'it has no schedule');
select ordinaut.create_task('over', 'echo', p_schedule_kind => 'once', p_schedule_expr => '2026-03-28 00:00');
select test.travel('1 day');
select count(*) from ordinaut.tick();
select test.eq(test.why('over'), 'exhausted live_run no_worker', 'it has fired, and what it fired waits');
select ordinaut.create_task('past', 'echo', p_schedule_kind => 'cron', p_schedule_expr => '0 * * * *');
select ordinaut.pause_task('past');
select ordinaut.backfill('past', ordinaut.now() - interval '1 day', ordinaut.now()) as id \gset
select test.eq(test.why('past'), 'not_backfilled task_paused', 'a backfill waits for a scheduler');
select ordinaut.plan_backfill(:'id', array[date_trunc('hour', ordinaut.now() - interval '1 h')]);
select test.eq(test.why('past'), 'live_run no_worker task_paused', 'and then its run for a worker');

select test.throws('OR020', format('select ordinaut.why(%L)', i), 'there is none: ' || i)
from unnest(array['nothing', '00000000-0000-7000-8000-000000000000', '', 'abcd']) as i;

rollback;
