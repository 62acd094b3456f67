-- An interval after the end: the next occurrence follows the end of the last run, however it ended.
\ir _begin.sql

create function test.next(p_task text) returns text
language sql
as $fn$
  select to_char(t.next_run at time zone 'UTC', 'HH24:MI:SS') from ordinaut.get_task(p_task) as t;
$fn$;
create function test.last(p_task text) returns uuid
language sql
as 'select r.run_id from ordinaut.list_runs(p_task, p_limit => 1) as r';
create function test.why(p_task text) returns text
language sql
as 'select string_agg(w.reason, '' '') from ordinaut.why(p_task) as w where w.reason not in (''no_worker'', ''live_run'')';
-- Time passes as it does where a scheduler ticks: at its end each half second, before that less.
create function test.pass(p_for interval) returns bigint
language plpgsql
as $fn$
declare
  v_fired bigint := 0;
  v_step interval;
begin
  for v_step in
    select '20 s'::interval from generate_series(1, floor(extract(epoch from p_for) / 20 - 1))
    union all
    select '500 ms' from generate_series(1, 2 * least(
      extract(epoch from p_for), 20 + extract(epoch from p_for)::integer % 20))
  loop
    perform test.travel(v_step);
    v_fired := v_fired + (select t.fired from ordinaut.tick() as t);
  end loop;
  return v_fired;
end
$fn$;

-- The first, and the next.
select ordinaut.create_task('follow', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '10 min after end') as follow \gset
select test.eq(test.next('follow'), '12:10:00', 'the first comes one duration after its creation');
select test.eq(test.pass('10 min'), 1::bigint, 'and fires');
select test.eq(test.next('follow'), null, 'the next is not known while it runs');
select test.eq(test.why('follow'), 'waits_end', 'why() says what it waits for');
select test.eq((w.detail, w.subject)::text, format('("it waits for the end of run %s",%s)', test.last('follow'), test.last('follow')), 'and which run')
from ordinaut.why('follow') as w where w.reason = 'waits_end';
select test.pass('3 min');
select test.eq(test.next('follow'), null, 'as long as it waits for a worker');
select lease_id from ordinaut.lease_work('w', p_for => '2 hours') \gset
select test.pass('1 hour');
select test.eq(test.next('follow'), null, 'as long as it runs');
select ordinaut.complete_work(:'lease_id');
select test.eq(test.why('follow'), 'not_due', 'it has ended');
select test.pass('9 min 59 s');
select test.eq(test.next('follow'), '13:23:00', 'ten minutes after it ended');
select test.eq(test.pass('1 s'), 1::bigint, 'to the second');
select test.eq((select r.scheduled_for from ordinaut.get_run(test.last('follow')) as r), ordinaut.now(), 'as its own occurrence');

-- A retry is the same run.
select lease_id from ordinaut.lease_work('w') \gset
select ordinaut.fail_work(:'lease_id', p_error => 'no', p_retry_after => '20 min');
select test.pass('15 min');
select test.eq(test.next('follow'), null, 'an attempt that failed is not the end');
select test.pass('5 min');
select lease_id from ordinaut.lease_work('w') \gset
select ordinaut.fail_work(:'lease_id', p_error => 'no', p_retryable => false);
select test.pass('10 min');
select test.eq((t.next_run is null, t.fired_count)::text, '(t,3)', 'the last attempt is') from ordinaut.get_task('follow') as t;

-- Cancelled before anybody leased it.
select ordinaut.cancel_run(test.last('follow'));
select test.eq(test.pass('10 min'), 1::bigint, 'a run that was cancelled has ended');

-- Its worker dies, until it is given up.
create function test.die(p_times integer) returns void
language plpgsql
as $fn$
begin
  for v_i in 1..p_times loop
    perform from ordinaut.lease_work('w', p_for => '1 min');
    perform test.pass('61 s');
    perform ordinaut.reap();
  end loop;
end
$fn$;
select test.die(2);
select test.pass('12 min');
select test.eq(test.next('follow'), null, 'a worker that dies does not end its run');
select test.die(1);
select test.eq((select r.state from ordinaut.get_run(test.last('follow')) as r), 'abandoned', 'the third time ends it');
select test.eq(test.pass('10 min'), 1::bigint, 'and it is followed');

-- History is forgotten while it waits: first the occurrence, then the run.
select lease_id from ordinaut.lease_work('w', p_for => '10 days') \gset
select test.pass('1 s');
delete from ordinaut.occurrence;
select test.pass('10 min');
select test.eq(test.why('follow'), 'waits_end', 'a run is waited for when its occurrence is forgotten');
select ordinaut.pause_task('follow');
select ordinaut.resume_task('follow');
select test.eq(test.why('follow'), 'waits_end', 'and after a pause');
select test.pass('1 s');
select ordinaut.complete_work(:'lease_id');
delete from ordinaut.task_run;
select test.pass('1 min');
select test.eq(test.next('follow'), null, 'not yet looked at');
select test.pass('19 min');
select test.eq((select count(*) from ordinaut.list_runs('follow')), 1::bigint, 'a run that is forgotten is not waited for');

-- Beside it.
select run_id as beside from ordinaut.run_now('follow') \gset
select test.pass('1 min');
select lease_id, run_id from ordinaut.lease_work('w', p_limit => 1, p_for => '1 hour') \gset
select test.ok(:'run_id' <> :'beside', 'the occurrence came first');
select ordinaut.complete_work(:'lease_id');
select test.eq(test.pass('10 min'), 1::bigint, 'a run by hand beside it is not waited for');
select ordinaut.cancel_run(r.run_id) from ordinaut.list_runs('follow', p_state => 'pending') as r;
select test.pass('1 min');

-- Paused and resumed, shorter and longer than it had to wait.
select test.next('follow') as known \gset
select ordinaut.pause_task('follow');
select test.eq(test.next('follow'), null, 'a pause has no next run');
select test.pass('1 min');
select ordinaut.resume_task('follow');
select test.eq(test.next('follow'), :'known', 'a short pause changes nothing');
select ordinaut.pause_task('follow');
select test.pass('1 hour');
select ordinaut.resume_task('follow');
select test.eq(test.next('follow'), to_char(ordinaut.now() at time zone 'UTC' + interval '10 min', 'HH24:MI:SS'), 'what a pause swallowed does not come at once');
select test.eq(test.pass('10 min'), 1::bigint, 'but in its time');
select ordinaut.pause_task('follow');
select test.pass('10 s');
select ordinaut.resume_task('follow');
select test.pass('1 hour');
select test.eq(test.why('follow'), 'waits_end', 'resumed beside its live run, it waits for that');

-- Snoozed.
select ordinaut.snooze_task('follow', '1 hour') as at \gset
select test.eq(:'at', ordinaut.now() + interval '1 hour', 'a snooze while it waits says when at the earliest');
select lease_id from ordinaut.lease_work('w') \gset
select ordinaut.complete_work(:'lease_id');
select test.eq(test.pass('59 min'), 0::bigint, 'and keeps it');
select test.eq(test.pass('1 min'), 1::bigint, 'to the second');
select lease_id from ordinaut.lease_work('w') \gset
select ordinaut.complete_work(:'lease_id');
select test.pass('6 min');
select test.next('follow') as known \gset
select test.eq(ordinaut.snooze_task('follow', '1 hour'), ordinaut.now() + interval '1 hour 4 min', 'a known one is moved');
select test.pass('1 hour 3 min');
select test.eq(test.pass('1 min'), 1::bigint, 'so far');

-- Edited.
select ordinaut.update_task('follow', '{"schedule_expr": "20 min after end"}');
select test.pass('1 hour');
select test.eq(test.why('follow'), 'waits_end', 'another duration still waits for the live run');
select lease_id from ordinaut.lease_work('w') \gset
select ordinaut.complete_work(:'lease_id');
select ordinaut.update_task('follow', '{"schedule_expr": "30 min after end"}');
select test.eq(test.pass('29 min'), 0::bigint, 'the new one counts from its end');
select test.eq(test.pass('1 min'), 1::bigint, 'and fires');
select ordinaut.update_task('follow', '{"schedule_expr": "30 min"}');
select test.ok(test.next('follow') is not null, 'a plain interval waits for nothing');
select ordinaut.cancel_task('follow');

-- What made no run was over when it was decided.
select ordinaut.create_task('none', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '10 min after end', p_catchup => 'none');
select test.travel('1 hour');
select test.eq((t.fired, t.missed)::text, '(0,1)', 'missed') from ordinaut.tick() as t;
select test.eq(test.pass('9 min 59 s'), 0::bigint, 'the next is counted from when that was decided');
select test.eq(test.pass('1 s'), 1::bigint, 'and fires');

-- Bounds.
select ordinaut.cancel_task('none');
select ordinaut.create_task('bounded', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 min after end',
  p_start_at => ordinaut.now() + interval '5 min', p_end_at => ordinaut.now() + interval '7 min 30 s');
create function test.work(p_for interval) returns bigint
language plpgsql
as $fn$
declare
  v_fired bigint := 0;
begin
  for v_i in 1..extract(epoch from p_for) loop
    v_fired := v_fired + test.pass('1 s');
    perform ordinaut.complete_work(l.lease_id) from ordinaut.lease_work('w') as l;
  end loop;
  return v_fired;
end
$fn$;
select test.eq(test.work('10 min'), 3::bigint, 'from start_at to end_at');
select test.eq((t.status, t.status_note)::text, '(completed,"its schedule has no occurrence left")', 'then it is completed') from ordinaut.get_task('bounded') as t;
select ordinaut.create_task('twice', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 s after end', p_max_runs => 2);
select test.eq(test.work('10 s'), 2::bigint, 'max_runs');
select test.eq(t.status, 'completed', 'completes it') from ordinaut.get_task('twice') as t;
select test.eq(count(*), 0::bigint, 'nothing is looked at for those that are over') from ordinaut.task_schedule where look_at <= ordinaut.now();
select ordinaut.create_task('failing', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 s after end', p_pause_on_failure => 1);
select test.pass('1 s');
select ordinaut.fail_work(l.lease_id, p_retryable => false) from ordinaut.lease_work('w') as l;
select test.pass('2 s');
select test.eq(t.status, 'paused', 'pause_on_failure pauses it') from ordinaut.get_task('failing') as t;

-- A run that waits for its key lives; one of a batch that goes on has ended.
select ordinaut.cancel_task('failing');
select ordinaut.create_task('keyed', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 min after end', p_key => 'k');
select ordinaut.enqueue('echo', p_key => 'k');
select lease_id as holder from ordinaut.lease_work('w', p_for => '1 hour') \gset
select test.pass('1 min');
select test.eq(count(*), 0::bigint, 'its key is busy') from ordinaut.lease_work('w');
select test.eq(r.state, 'waiting', 'it is parked') from ordinaut.list_runs('keyed') as r;
select test.pass('5 min');
select test.eq(test.next('keyed'), null, 'and waited for');
select ordinaut.complete_work(:'holder');
select ordinaut.enqueue('echo');
select max(lease_id::text) as batch, count(*) as units from ordinaut.lease_work('w', p_limit => 2, p_for => '1 hour') \gset
select test.eq(:units, 2, 'leased with another');
select ordinaut.complete_work(:'batch', test.last('keyed'));
select test.eq(test.pass('1 min'), 1::bigint, 'it has ended, the batch has not');

-- What is none.
select test.throws('22023', format('select ordinaut.create_task(''x'', ''echo'', p_schedule_kind => ''interval'', p_schedule_expr => %L)', e), 'refused: ' || e)
from unnest(array['after end', ' after end', '1 month after end', '5 min after end after end', '5 min AFTER END', '5 min phase 1 min after end', '0 s after end']) as e;

rollback;
