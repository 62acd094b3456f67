-- Each role may do its part and no more, and nobody may touch a table.
\ir _begin.sql
grant usage on schema test to public;

create function test.may(p_role text, p_yes boolean, p_statement text) returns text
language plpgsql
as $fn$
begin
  execute format('set local role %I', p_role);
  begin
    execute p_statement;
    reset role;
    return test.ok(p_yes, format('%s may: %s', p_role, left(p_statement, 60)));
  exception
    when insufficient_privilege then
      reset role;
      return test.ok(not p_yes, format('%s may not: %s', p_role, left(p_statement, 60)));
  end;
end
$fn$;

select ordinaut.create_task('t', 'echo');
select ordinaut.create_task('e', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 h');
select ordinaut.set_calendar('c', '{}');
select ordinaut.enqueue('echo') from generate_series(1, 5);

select test.may('ordinaut_' || r.name, r.name = any (c.roles), c.statement)
from (values
  ('{producer,admin}'::text[], 'select ordinaut.enqueue(''echo'')'),
  ('{producer,admin}', 'select ordinaut.enqueue_many(''[{}, {"key": "k"}]'', ''echo'')'),
  ('{producer,admin}', 'select ordinaut.run_now(''t'')'),
  ('{producer,admin}', 'select ordinaut.cancel_run(run_id) from ordinaut.list_runs(p_state => ''pending'', p_limit => 1)'),
  ('{worker,admin}', 'select ordinaut.lease_work(''me'')'),
  ('{worker,admin}', 'select ordinaut.complete_work(lease_id) from ordinaut.lease_work(''me'')'),
  ('{worker,admin}', 'select ordinaut.register_worker(gen_random_uuid(), ''{default}'', ''{echo}'')'),
  ('{worker,admin}', 'select ordinaut.reap()'),
  ('{worker,admin}', 'select ordinaut.tick()'),
  ('{worker,admin}', 'select ordinaut.prune()'),
  ('{admin}', 'select ordinaut.create_task(''t'' || random(), ''echo'')'),
  ('{admin}', 'select ordinaut.update_task(''t'', ''{}'')'),
  ('{admin}', 'select ordinaut.set_calendar(''c'', ''{}'')'),
  ('{viewer,producer,admin}', 'select ordinaut.get_calendar(''c'')'),
  ('{admin}', 'select ordinaut.drop_calendar(''c'')'),
  ('{admin}', 'select ordinaut.backfill(''e'', ordinaut.now() - interval ''1 h'', ordinaut.now())'),
  ('{admin}', 'select ordinaut.cancel_backfill(backfill_id) from ordinaut.list_backfills()'),
  ('{viewer,producer,admin}', 'select ordinaut.list_backfills(), ordinaut.preview(''t''), ordinaut.forecast()'),
  ('{worker,admin}', 'select ordinaut.unplanned_backfills(), ordinaut.plan_backfill(null, null), ordinaut.fail_backfill(null, null)'),
  ('{admin}', 'select ordinaut.pause_task(''t''), ordinaut.resume_task(''t'')'),
  ('{admin}', 'select ordinaut.retry_run(p_queue => ''none'')'),
  ('{admin}', 'select ordinaut.pause_queue(''q'')'),
  ('{admin}', 'select ordinaut.set_queue(''q'')'),
  ('{viewer,producer,admin}', 'select ordinaut.list_runs()'),
  ('{viewer,producer,admin}', 'select ordinaut.why(''t'')'),
  ('{viewer,admin}', 'select ordinaut.diagnose()'),
  ('{viewer,producer,admin}', 'select ordinaut.get_task(''t'')'),
  ('{viewer,producer,worker,admin}', 'select ordinaut.now()'),
  ('{viewer,producer,worker,admin}', 'select ordinaut.get_run(gen_random_uuid())'),
  ('{viewer,admin}', 'select * from ordinaut.run'),
  ('{viewer,admin}', 'select * from ordinaut.work'),
  ('{viewer,admin}', 'select * from ordinaut.queue_depth, ordinaut.late, ordinaut.failing, ordinaut.worker_status'),
  ('{viewer,admin}', 'select * from ordinaut.task_status, ordinaut.error_code, ordinaut.legal_transition'),
  -- Helpers are nobody's.
  ('{}', 'select ordinaut._put_due(null)'),
  ('{}', 'select ordinaut._settle(null, null, null, null, null, null, null)'),
  ('{}', 'select ordinaut._journal(''forged'')'),
  ('{}', 'create table ordinaut.mine (n integer)'),
  ('{}', 'create or replace function ordinaut.now() returns timestamptz language sql as ''select null::timestamptz''')
) as c (roles, statement)
cross join (values ('viewer'), ('producer'), ('worker'), ('admin')) as r (name);

-- No table, in no way, for no role.
select test.ok(bool_and(not has_table_privilege(r.rolname, c.oid, p.privilege)), r.rolname || ' has no right on any table')
from pg_roles as r
cross join pg_class as c
cross join unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) as p (privilege)
where r.rolname ~ '^ordinaut_(viewer|producer|worker|admin)$' and c.relnamespace = 'ordinaut'::regnamespace and c.relkind in ('r', 'p')
group by r.rolname;
select test.may('ordinaut_admin', false, format('select * from ordinaut.%I', t)) from unnest(array['task', 'due_work', 'run_log', 'lease']) as t;
select test.may('ordinaut_admin', false, 'update ordinaut.task_run set state = ''failed''');

-- The public has nothing: not even a function that somebody forgot to name.
select test.eq(array_agg(p.proname), null, 'no function is the public''s') from pg_proc as p
where p.pronamespace = 'ordinaut'::regnamespace and has_function_privilege('public', p.oid, 'execute');
select test.ok(not has_schema_privilege('public', 'ordinaut', 'usage'), 'nor the schema');

rollback;
