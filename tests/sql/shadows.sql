-- A caller's search_path, temporary tables and look-alike functions do not reach the engine.
\ir _begin.sql
grant usage on schema test to public;

-- A role that may do what a producer, a worker and an admin may, and make what it likes elsewhere.
create role attacker;
grant ordinaut_producer, ordinaut_worker, ordinaut_admin to attacker;
create schema evil authorization attacker;
select ordinaut.create_task('t', 'echo', '{"true": 1}', p_schedule_kind => 'interval', p_schedule_expr => '1 min');
select gen_random_uuid() as worker_id \gset

set local role attacker;
set local search_path = evil, pg_temp, ordinaut, pg_catalog;

create temporary table due_work (work_id uuid, run_id uuid, payload jsonb);
create temporary table lease (lease_id uuid);
create temporary table task (task_id uuid, name text);
create temporary table pg_class (relname text);
create temporary table pg_roles (rolname text);
create temporary table pg_timezone_names (name text);
create temporary table pg_inherits (inhrelid oid);
create function evil.boom() returns text
language plpgsql
as $fn$ begin raise exception 'the engine ran as % what it should not', current_user using errcode = 'ZZ999'; end $fn$;
create function evil.now() returns timestamptz language sql as 'select evil.boom()::timestamptz';
create function evil.gen_random_uuid() returns uuid language sql as 'select evil.boom()::uuid';
create function evil.jsonb_typeof(jsonb) returns text language sql as 'select evil.boom()';
create function evil.octet_length(text) returns integer language sql as 'select evil.boom()::integer';
create function evil.length(text) returns integer language sql as 'select evil.boom()::integer';
create function evil.unnest(anyarray) returns setof anyelement language sql as 'select $1[1] where evil.boom() is null';
create function evil.equal(text, text) returns boolean language sql as 'select evil.boom() is null';
create operator evil.= (leftarg = text, rightarg = text, function = evil.equal);
create function evil.same(uuid, uuid) returns boolean language sql as 'select evil.boom() is null';
create operator evil.= (leftarg = uuid, rightarg = uuid, function = evil.same);
create domain pg_temp.jsonb as text check (evil.boom() is null);
create domain evil.uuid as text check (evil.boom() is null);
create domain evil.timestamptz as text check (evil.boom() is null);
select test.throws('ZZ999', 'select ''a''::text = ''b''::text', 'the traps work: an unguarded comparison runs them');

select run_id, outcome from ordinaut.enqueue('echo', '{"mine": 1}', p_key => 'k', p_idempotency_key => 'i', p_retry => '{"base": "1 s"}') \gset
select count(*) from ordinaut.enqueue_many('[{}, {"key": "k"}]', 'echo');
select ordinaut.register_worker(:'worker_id', '{default}', '{echo}');
select lease_id as leased, work_id as unit from ordinaut.lease_work('me') \gset
select ordinaut.heartbeat(:'leased');
select ordinaut.log_work(:'leased', :'unit', 'log', '{"n": 1}');
select ordinaut.assert_lease(:'leased', :'unit');
select ordinaut.fail_work(:'leased', :'unit', 'broken');
select count(*) from ordinaut.exchange(:'worker_id', 'default', pg_catalog.gen_random_uuid(), 5);
select ordinaut.update_task('t', '{"priority": 2, "timezone": "Europe/Berlin"}');
select ordinaut.pause_task('t'), ordinaut.resume_task('t'), ordinaut.snooze_task('t', '1 h');
select ordinaut.run_now('t');
select ordinaut.pause_queue('q'), ordinaut.resume_queue('q'), ordinaut.set_queue('q', 5);
select count(*) from ordinaut.tick(), ordinaut.reap(), ordinaut.prune();
select count(*) from ordinaut.list_runs(), ordinaut.why('t'), ordinaut.run_history(:'unit');
select count(*) from ordinaut.retry_run(p_queue => 'none');
select ordinaut.cancel_run(:'unit'), ordinaut.deregister_worker(:'worker_id', 'dead');
select ordinaut.cancel_task('t');
reset role;
set local search_path = pg_catalog;

select test.eq((select pg_catalog.count(*) from pg_temp.due_work), 0, 'nothing went into a look-alike table');
select test.ok((select pg_catalog.count(*) from ordinaut.work) >= 4, 'all of it went where it belongs');

rollback;
