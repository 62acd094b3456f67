-- A task of steps is scheduled as any other: a run is live from its first step to its last, and counts once.
\ir _begin.sql

create function test.task(p_name text, p_overlap text default 'allow', p_expr text default '1 min', p_more jsonb default '{}') returns void
language plpgsql
as $fn$
begin
  -- Two roots, and a step behind both.
  perform ordinaut.create_task(p_name, p_queue => p_name, p_schedule_kind => 'interval', p_schedule_expr => p_expr, p_overlap => p_overlap,
    p_pipeline => '[{"id": "a", "uses": "echo", "retry_count": 1}, {"id": "b", "uses": "echo", "needs": []}, {"id": "c", "uses": "echo", "needs": ["a", "b"]}]');
  if p_more <> '{}' then
    perform ordinaut.update_task(p_name, p_more);
  end if;
end
$fn$;
create function test.decisions(p_name text) returns text
language sql
as $fn$
  select string_agg(o.decision, ' ' order by o.scheduled_for)
  from ordinaut.occurrence as o
  join ordinaut.task as t on t.task_id = o.task_id
  where t.name = p_name;
$fn$;
-- Leases what the queue has, and returns which steps.
create function test.start(p_queue text) returns text
language plpgsql
as $fn$
declare
  v_steps text[];
  v_all text[] := '{}';
begin
  -- The lease that starts a run has its first step only.
  loop
    v_steps := array(select l.step from ordinaut.lease_work('me', p_queue, 9, '1 day') as l);
    exit when v_steps = '{}';
    v_all := v_all || v_steps;
  end loop;
  return (select string_agg(s.step, ' ' order by s.step) from unnest(v_all) as s (step));
end
$fn$;
create function test.finish(p_queue text) returns bigint
language sql
as $fn$
  select count(*) from ordinaut.work as w cross join lateral ordinaut.complete_work(w.lease_id, w.work_id)
  where w.queue = p_queue and w.status = 'running';
$fn$;

-- Skip: while any step of the run has not ended.
select test.task('skip', 'skip');
select test.travel('1 min');
select ordinaut.tick();
select test.eq((select string_agg(r.state, ' ') from ordinaut._live_runs(ordinaut._task_id('skip')) as r), 'pending', 'queued it is live');
select test.travel('1 min');
select ordinaut.tick();
select test.eq(test.start('skip'), 'a b', 'both roots start');
select test.eq((select string_agg(r.state, ' ') from ordinaut._live_runs(ordinaut._task_id('skip')) as r), 'running', 'running it is live once, with two units');
select test.eq((select count(*) from ordinaut.why('skip') as w where w.reason = 'live_run'), 1::bigint, 'why says it once');
select test.travel('1 min');
select ordinaut.tick();
select test.eq(test.finish('skip'), 2::bigint, 'both end');
select test.travel('1 min');
select ordinaut.tick();
select test.eq(test.start('skip'), 'c', 'the last step starts');
select test.travel('1 min');
select ordinaut.tick();
select test.eq(test.finish('skip'), 1::bigint, 'and ends');
select test.travel('1 min');
select ordinaut.tick();
select test.eq(test.decisions('skip'), 'fired skipped skipped skipped skipped fired', 'all between were skipped');

-- Buffer one: one run waits, though the live one has several units.
select test.task('buffer_one', 'buffer_one');
select test.travel('1 min');
select ordinaut.tick();
select test.eq((select string_agg(l.step, ' ') from ordinaut.lease_work('me', 'buffer_one', 9, '1 day') as l), 'a', 'it runs, and a step of it is due');
select test.travel('1 min');
select ordinaut.tick();
select test.eq(test.start('buffer_one'), 'b', 'the other step');
select test.travel('1 min');
select ordinaut.tick();
select test.eq(test.decisions('buffer_one'), 'fired buffered dropped', 'one waits, the next is dropped');
select test.eq(test.start('buffer_one'), null, 'the one that waits does not start beside it');
select test.finish('buffer_one');
select test.eq(test.start('buffer_one'), 'c', 'nor between its steps');
select test.finish('buffer_one');
select test.travel('1 s');
select test.eq(test.start('buffer_one'), 'a b', 'but then');

-- Nor does a step that waits for an event make two of a run.
select test.task('waits', 'buffer_one');
select test.travel('1 min');
select ordinaut.tick();
select ordinaut.wait_work(l.lease_id, l.work_id, '{"kind": "event", "topic": "t", "key": null, "timeout": null, "on_timeout": "fail"}')
from ordinaut.lease_work('me', 'waits', 1, '1 day') as l;
select test.start('waits');
select test.finish('waits');
select test.eq((select string_agg(w.reason, ' ') from ordinaut.work as w where w.queue = 'waits'), 'event', 'all that is left waits');
select test.travel('1 min');
select ordinaut.tick();
select test.eq(test.decisions('waits'), 'fired buffered', 'the next run waits for it');

-- Cancel other: the run is cancelled as a whole, and the new one starts.
select test.task('other', 'cancel_other');
select test.travel('1 min');
select ordinaut.tick();
select test.eq(test.start('other'), 'a b', 'it runs');
select test.finish('other');
select test.travel('1 min');
select ordinaut.tick();
select test.eq((select array_agg(r.state order by r.run_id) from ordinaut.list_runs('other') as r where r.state <> 'waiting'), array['cancelled', 'pending'], 'cancelled between its steps');
select test.travel('1 s');
select test.eq(test.start('other'), 'a b', 'and the new one runs');

-- Paused on failure: by runs, not by steps.
select test.task('pause', p_more => '{"pause_on_failure": 2}');
create function test.fail() returns void
language sql
as $fn$
  select test.start('pause');
  select ordinaut.fail_work(w.lease_id, w.work_id, 'no')
  from ordinaut.work as w join ordinaut.step as s on s.step_id = w.work_id
  where w.queue = 'pause' and w.status = 'running' and s.name = 'a';
  select test.finish('pause');
$fn$;
select test.travel('1 min');
select ordinaut.tick();
select test.fail();
select test.travel('1 min');
select ordinaut.tick();
select test.eq((select t.status from ordinaut.get_task('pause') as t), 'active', 'one run failed');
select test.fail();
select test.eq((select array_agg(r.state) from ordinaut.list_runs('pause') as r), array['failed', 'failed'], 'two did');
select test.travel('1 min');
select ordinaut.tick();
select test.eq((select t.status || ': ' || t.status_note from ordinaut.get_task('pause') as t), 'paused: its last 2 runs failed', 'and it is paused');

-- After the end: of the last step.
select test.task('follow', p_expr => '1 min after end');
select test.travel('1 min');
select ordinaut.tick();
select test.eq(test.start('follow'), 'a b', 'it runs');
select test.finish('follow');
select test.travel('5 min');
select ordinaut.tick();
select test.eq((select t.next_run from ordinaut.get_task('follow') as t), null::timestamptz, 'and has not ended');
select test.eq(test.start('follow'), 'c', 'its last step');
select test.finish('follow');
select test.travel('1 min');
select ordinaut.tick();
select test.travel('1 min');
select ordinaut.tick();
select test.eq(test.decisions('follow'), 'fired fired', 'again when it had');

-- A cancelled task: its run ends as a whole.
select test.task('gone');
select test.travel('1 min');
select ordinaut.tick();
select test.eq(test.start('gone'), 'a b', 'it runs');
select test.finish('gone');
select ordinaut.cancel_task('gone', 'enough');
select test.eq((select array_agg(r.state) from ordinaut.list_runs('gone') as r), array['cancelled'], 'cancelled between its steps');

-- By hand, and again.
select run_id as gone from ordinaut.list_runs('gone') \gset
select test.eq((select r.outcome from ordinaut.retry_run(:'gone') as r), 'new', 'a retry of it');
select test.eq(test.start('gone'), 'a b', 'has its steps');
select test.task('hand');
select run_id as hand from ordinaut.run_now('hand') \gset
select test.eq(test.start('hand'), 'a b', 'as has a run by hand');

-- What a calendar held before there was a task.
select test.task('past', p_expr => '1 hour', p_more => '{"start_at": "2026-03-27 00:00:00+00"}');
select ordinaut.backfill('past', '2026-03-27 01:00:00+00', '2026-03-27 03:00:00+00', p_limit => 10);
select test.travel('1 s');
select test.eq(test.start('past'), 'a a b b', 'two runs, two steps of each');

rollback;
