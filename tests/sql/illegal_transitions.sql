-- The state machine holds against hand-written statements, and the journal against all.
\ir _begin.sql

select ordinaut.create_task('t', 'echo') as task_id \gset
select run_id from ordinaut.enqueue('echo', p_max_attempts => 1) \gset
select lease_id from ordinaut.lease_work('me') \gset
select ordinaut.complete_work(:'lease_id');

select test.throws('OR010', format('update ordinaut.task_run set state = %L, finished_at = null', s), 'success is for good, not ' || s)
from unnest(array['pending', 'running', 'waiting']) as s;
select test.throws('OR010', format('update ordinaut.task_run set state = %L', s), 'nor ' || s)
from unnest(array['failed', 'cancelled', 'timed_out', 'abandoned']) as s;
select test.throws('23514', 'update ordinaut.task_run set state = ''done''', 'nor a state that is none');
do $do$
begin
  update ordinaut.task_run set state = 'pending', finished_at = null;
exception when others then
  perform test.ok(sqlerrm like 'run % Cannot transition from Success to Pending', 'in words: ' || sqlerrm);
end
$do$;

-- Every pair of a task's states: the view says which.
create function test.changes(p_from text, p_to text) returns boolean
language plpgsql
as $fn$
begin
  delete from ordinaut.task where name = 'pair';
  perform ordinaut.create_task('pair', 'echo');
  alter table ordinaut.task disable trigger task_guard_state;
  update ordinaut.task set status = p_from where name = 'pair';
  alter table ordinaut.task enable trigger task_guard_state;
  update ordinaut.task set status = p_to where name = 'pair';
  return true;
exception when sqlstate 'OR010' then
  return false;
end
$fn$;
select test.eq(test.changes(f, t), f = t or exists (
    select from ordinaut.legal_transition as l where l.machine = 'task' and l.from_state = f and l.to_state = t), f || ' to ' || t)
from unnest(array['active', 'paused', 'completed', 'cancelled', 'invalid']) as f,
  unnest(array['active', 'paused', 'completed', 'cancelled', 'invalid']) as t;
select test.eq(count(*), 0::bigint, 'nothing leaves a state that ends a run, but a retry of its steps') from ordinaut.legal_transition as l
where l.machine = 'run' and l.from_state in ('success', 'failed', 'cancelled', 'timed_out', 'abandoned') and l.verb <> 'retry_run';
select test.eq(count(*), 0::bigint, 'or a cancelled task') from ordinaut.legal_transition as l
where l.machine = 'task' and l.from_state = 'cancelled';

-- What a place implies is a constraint.
select test.throws('23514', 'update ordinaut.task_run set finished_at = null', 'what ended has an end');
select test.throws('23505', 'insert into ordinaut.task_run select r.* from ordinaut.task_run as r', 'and ended once');
select ordinaut.enqueue('echo');
select test.throws('23505', 'insert into ordinaut.due_work select w.* from ordinaut.due_work as w', 'what waits, waits once');
select test.throws('23514', 'update ordinaut.due_work set run_at = ''infinity''', 'for something finite');
select test.throws('23514', 'update ordinaut.due_work set priority = 10', 'at a priority that is leased');

-- The journal.
select test.ok(count(*) > 0, 'it has lines') from ordinaut.run_log;
select test.throws('OR010', c, c) from unnest(array['update ordinaut.run_log set event = ''nothing happened''',
  'delete from ordinaut.run_log', 'truncate ordinaut.run_log', 'update ordinaut.run_log_default set at = now()', 'delete from ordinaut.run_log_default']) as c;

rollback;
