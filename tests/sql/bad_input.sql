-- Bad input is refused with one clear error each, and nothing of it is written.
\ir _begin.sql

create function test.rows() returns bigint
language sql
as $fn$
  select (select count(*) from ordinaut.work) + (select count(*) from ordinaut.task) + (select count(*) from ordinaut.task_schedule)
    + (select count(*) from ordinaut.hold) + (select count(*) from ordinaut.payload) + (select count(*) from ordinaut.queue)
    + (select count(*) from ordinaut.run_log) + (select count(*) from ordinaut.worker) + (select count(*) from ordinaut.lease);
$fn$;
create function test.refused(p_sqlstate text, p_call text) returns text
language sql
as $fn$ select test.throws(p_sqlstate, 'select ordinaut.' || p_call, 'refused: ' || left(p_call, 70)) $fn$;

select test.rows() as rows_before \gset

select test.refused('22023', c) from unnest(array[
  -- Instants.
  'enqueue(''echo'', p_run_at => ''infinity'')', 'enqueue(''echo'', p_run_at => ''-infinity'')',
  'enqueue(''echo'', p_run_at => ''294000-01-01'')', 'enqueue(''echo'', p_run_at => ''0044-03-15 BC'')',
  'enqueue(''echo'', p_delay => ''-1 s'')', 'enqueue(''echo'', p_delay => ''1000 years'')',
  'enqueue(''echo'', p_run_at => now(), p_delay => ''1 s'')',
  'create_task(''t'', ''echo'', p_start_at => ''infinity'')', 'create_task(''t'', ''echo'', p_end_at => ''-infinity'')',
  'create_task(''t'', ''echo'', p_start_at => ''2027-01-02'', p_end_at => ''2027-01-01'')',
  -- Names.
  'enqueue('''')', 'enqueue(null)', 'enqueue(''rm -rf /'')', 'enqueue(''9lives'')', 'enqueue(repeat(''x'', 201))',
  'enqueue(''echo'', p_queue => ''Default'')', 'enqueue(''echo'', p_queue => '''')', 'enqueue(''echo'', p_queue => null)',
  'enqueue(''echo'', p_queue => repeat(''q'', 64))', 'enqueue(''echo'', p_queue => ''q; drop table x'')',
  'create_task(''no spaces'', ''echo'')', 'create_task('''', ''echo'')', 'create_task(null, ''echo'')',
  'create_task(''t'', null)', 'create_task(''t'', ''echo'', p_namespace => ''a/b'')', 'create_task(''t/u'', ''echo'')',
  E'enqueue(''echo\n'')', E'create_task(''t\n'', ''echo'')',
  -- Numbers.
  'enqueue(''echo'', p_priority => null)', 'enqueue(''echo'', p_max_attempts => 0)', 'enqueue(''echo'', p_max_attempts => 1001)',
  'enqueue(''echo'', p_timeout => ''0 s'')', 'enqueue(''echo'', p_timeout => ''31 days'')',
  'lease_work(''w'', p_limit => 0)', 'lease_work(''w'', p_limit => null)', 'lease_work('''')', 'lease_work(null)',
  'lease_work(''w'', p_for => ''0 s'')', 'lease_work(''w'', p_for => null)', 'lease_work(''w'', p_queue => null)',
  'set_queue(''q'', p_max_running => -1)', 'set_queue(''q'', p_ageing => ''0 s'')', 'reap(0)', 'tick(0)', 'prune(''1 h'')',
  'prune(null)', 'list_runs(p_limit => 0)', 'find_run(''xyz'')',
  'register_worker(null, ''{q}'', ''{echo}'')', 'register_worker(gen_random_uuid(), ''{}'', ''{echo}'')',
  'register_worker(gen_random_uuid(), ''{q}'', null)', 'register_worker(gen_random_uuid(), ''{q,"Q!"}'', ''{echo}'')',
  'register_worker(gen_random_uuid(), ''{q}'', ''{echo}'', p_ttl => null)', 'deregister_worker(gen_random_uuid(), ''lost'')',
  -- Schedules.
  'create_task(''t'', ''echo'', p_schedule_kind => ''hourly'')', 'create_task(''t'', ''echo'', p_schedule_kind => null)',
  'create_task(''t'', ''echo'', p_schedule_expr => ''5 min'')',
  'create_task(''t'', ''echo'', p_schedule_kind => ''interval'', p_schedule_expr => ''1 month'')',
  'create_task(''t'', ''echo'', p_schedule_kind => ''interval'', p_schedule_expr => ''1 year'')',
  'create_task(''t'', ''echo'', p_schedule_kind => ''interval'', p_schedule_expr => ''0.1 s'')',
  'create_task(''t'', ''echo'', p_schedule_kind => ''interval'', p_schedule_expr => ''-5 min'')',
  'create_task(''t'', ''echo'', p_schedule_kind => ''interval'', p_schedule_expr => ''often'')',
  'create_task(''t'', ''echo'', p_schedule_kind => ''interval'', p_schedule_expr => null)',
  'create_task(''t'', ''echo'', p_schedule_kind => ''interval'', p_schedule_expr => ''100000000 days'')',
  'create_task(''t'', ''echo'', p_schedule_kind => ''once'', p_schedule_expr => ''tomorrow'')',
  'create_task(''t'', ''echo'', p_schedule_kind => ''once'', p_schedule_expr => ''now'')',
  'create_task(''t'', ''echo'', p_schedule_kind => ''once'', p_schedule_expr => null)',
  'create_task(''t'', ''echo'', p_schedule_kind => ''once'', p_schedule_expr => ''2027-02-30 10:00'')',
  'create_task(''t'', ''echo'', p_schedule_kind => ''once'', p_schedule_expr => ''9999-12-31 10:00'')',
  'create_task(''t'', ''echo'', p_timezone => ''Mars/Base'')', 'create_task(''t'', ''echo'', p_timezone => ''CEST'')',
  'create_task(''t'', ''echo'', p_timezone => ''+02'')', 'create_task(''t'', ''echo'', p_timezone => ''Foo5'')',
  'create_task(''t'', ''echo'', p_timezone => null)', 'create_task(''t'', ''echo'', p_catchup => ''some'')',
  'create_task(''t'', ''echo'', p_catchup => null)', 'create_task(''t'', ''echo'', p_grace => ''-1 s'')',
  'create_task(''t'', ''echo'', p_grace => null)', 'create_task(''t'', ''echo'', p_key => '''')',
  'create_task(''t'', ''echo'', p_description => repeat(''x'', 8001))',
  -- Payloads and items.
  'enqueue(''echo'', null)', 'create_task(''t'', ''echo'', null)', 'enqueue_many(null, ''echo'')', 'enqueue_many(''{}'', ''echo'')',
  'enqueue_many(''[1]'', ''echo'')', 'enqueue_many(''[{}, null]'', ''echo'')', 'enqueue_many(''[{}]'')',
  'enqueue_many(''[{}, {"prioritty": 1}]'', ''echo'')', 'enqueue_many(''[{}, {"priority": 0}]'', ''echo'')',
  'enqueue_many(''[{}, {"tool": ""}]'', ''echo'')', 'enqueue_many(''[{}, {"queue": "Q"}]'', ''echo'')']) as c;

select test.refused('54000', c) from unnest(array[
  'enqueue(''echo'', to_jsonb(repeat(''x'', 1100000)))', 'create_task(''t'', ''echo'', to_jsonb(repeat(''x'', 1100000)))',
  'enqueue_many(jsonb_build_array(''{}''::jsonb, jsonb_build_object(''payload'', repeat(''x'', 1100000))), ''echo'')']) as c;
select test.refused('22P05', 'enqueue(''echo'', ''{"nul": "\u0000"}'')');
select test.refused('22P02', c) from unnest(array[
  'enqueue(''echo'', ''{"half": '')', 'enqueue_many(''[{"run_id": "7"}]'', ''echo'')',
  'enqueue_many(''[{"priority": "high"}]'', ''echo'')']) as c;
select test.refused('22007', c) from unnest(array['enqueue_many(''[{"run_at": "soon"}]'', ''echo'')', 'enqueue_many(''[{"delay": "soon"}]'', ''echo'')']) as c;

select test.eq(test.rows(), :rows_before, 'and nothing was written');

-- The error says which item, and that nothing came of the others.
do $do$
declare
  v_hint text;
begin
  perform ordinaut.enqueue_many('[{"key": "a"}, {"priority": 12}]', 'echo');
exception when others then
  get stacked diagnostics v_hint = pg_exception_hint;
  perform test.ok(sqlerrm like 'item 2: priority 12 must be 1 to 9', 'it names the item');
  perform test.eq(v_hint, 'Nothing was enqueued.', 'and what became of the rest');
end
$do$;
-- Names are data.
select run_id from ordinaut.enqueue('echo', '{"q": "''; drop table ordinaut.task; --"}', p_key => ''';--', p_idempotency_key => '%s$1\') \gset
select test.eq((l.payload ->> 'q', l.key)::text, '("''; drop table ordinaut.task; --",'';--)', 'whatever they look like') from ordinaut.lease_work('\x00''w') as l;

rollback;
