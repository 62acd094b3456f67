-- What stories about runs of steps share: start one, look at it, and let a step wait.
create function test.run(p_pipeline jsonb) returns uuid
language plpgsql
as $fn$
declare
  v_id uuid;
begin
  select e.run_id into v_id from ordinaut.enqueue(p_pipeline => p_pipeline) as e;
  perform ordinaut.start_run(v_id);
  return v_id;
end
$fn$;
create function test.step(p_run_id uuid, p_name text) returns ordinaut.step
language sql
as 'select s from ordinaut.step as s where s.run_id = p_run_id and s.name = p_name';
create function test.state(p_run_id uuid, p_name text) returns text
language sql
as 'select (test.step(p_run_id, p_name)).state';
create function test.state(p_run_id uuid) returns text
language sql
as 'select r.state from ordinaut.run as r where r.run_id = p_run_id';
create function test.lease(p_run_id uuid, p_name text) returns uuid
language sql
as $fn$ select ordinaut._lease_step((test.step(p_run_id, p_name)).step_id, 'w') $fn$;
create function test.wait(p_run_id uuid, p_name text, p_wait jsonb) returns text
language plpgsql
as $fn$
begin
  return w.outcome from ordinaut.wait_work(test.lease(p_run_id, p_name), (test.step(p_run_id, p_name)).step_id, p_wait) as w;
end
$fn$;
create function test.done(p_run_id uuid, p_name text, p_output jsonb default null) returns text
language plpgsql
as $fn$
begin
  return w.outcome from ordinaut.complete_work(test.lease(p_run_id, p_name), (test.step(p_run_id, p_name)).step_id, p_output) as w;
end
$fn$;
create function test.fail(p_run_id uuid, p_name text, p_error text, p_retryable boolean default false) returns text
language plpgsql
as $fn$
begin
  return w.outcome from ordinaut.fail_work(test.lease(p_run_id, p_name), (test.step(p_run_id, p_name)).step_id, p_error, p_retryable) as w;
end
$fn$;
create function test.error(p_run_id uuid, p_name text) returns text
language sql
as $fn$ select (test.step(p_run_id, p_name)).error ->> 'message' $fn$;
