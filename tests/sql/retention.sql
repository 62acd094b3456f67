-- What is over is forgotten, in bounded steps, and a month without a scheduler heals by itself.
\ir _begin.sql
\ir _steps.sql

create function test.end_all() returns void language plpgsql as $fn$
declare
  v_lease uuid;
begin
  loop
    select l.lease_id into v_lease from ordinaut.lease_work('me', p_limit => 1000) as l limit 1;
    exit when not found;
    perform from ordinaut.complete_work(v_lease);
  end loop;
end
$fn$;
create function test.parts(p_table text) returns text language sql as $fn$
  select string_agg(right(c.relname, 8), ' ' order by c.relname)
  from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
  where i.inhparent = ('ordinaut.' || p_table)::regclass and right(c.relname, 8) between '20260101' and '20260701'
$fn$;
create function test.in_default(p_table text) returns bigint language plpgsql as $fn$
declare
  v_n bigint;
begin
  execute format('select count(*) from ordinaut.%I', p_table || '_default') into v_n;
  return v_n;
end
$fn$;

-- A month without a scheduler: workers go on, and all goes to the default partitions.
select count(*) from ordinaut.enqueue_many((select jsonb_agg(jsonb_build_object('payload', jsonb_build_object('n', n, 'text', (select string_agg(md5(m::text), '') from generate_series(1, 100) as m)))) from generate_series(1, 25) as n), 'echo');
select test.end_all();
select test.travel('1 s');
select test.run('[{"id": "a", "uses": "echo"}, {"id": "b", "uses": "echo"}]') as steps \gset
select test.end_all();
select test.run('[{"id": "ask", "uses": "approval"}]') as asks \gset
select test.wait(:'asks', 'ask', '{"kind": "approval", "prompt": "?"}');
select ordinaut.emit_event('old', '{}');
insert into ordinaut.queue (queue, sweep_requested_at) values ('of one customer', ordinaut.now());
select ordinaut.set_queue('limited', p_max_running => 3);
select test.travel('29 days');
select count(*) from ordinaut.enqueue_many('[{}, {}]', 'echo');
select test.end_all();
select ordinaut.enqueue('echo', p_run_id => ordinaut.uuid_generate_v7(ordinaut.now() + '20 h')) as early \gset
select test.end_all();
select test.eq(array[test.in_default('task_run'), test.in_default('step')], array[30, 3]::bigint[], 'all of it');

select count(*) from ordinaut.prune();
select test.eq(test.parts('task_run'), '20260423', 'a step makes one partition');
select test.prune();
select test.eq(test.parts('task_run'), '20260423 20260430 20260507 20260514', 'the coming weeks have theirs');
select test.eq(test.in_default('task_run'), 27::bigint, 'what little came of this week has moved there');
select test.eq((select count(*) from ordinaut.task_run), 30::bigint, 'and nothing is lost');
select test.eq(test.prune(), 0::bigint, 'then there is nothing to do');

-- Too many to be moved at once: this week stays as it is, the next do not.
select set_config('test.now', '2026-06-05 12:00:00+00', true);
select count(*) from ordinaut.enqueue_many((select jsonb_agg('{}'::jsonb) from generate_series(1, 1001)), 'echo');
select test.end_all();
select test.prune('300 days');
select test.eq(test.parts('task_run'), '20260423 20260430 20260507 20260514 20260611 20260618 20260625', 'no partition of this week');
select test.eq(test.parts('event'), '20260423 20260430 20260507 20260514 20260604 20260611 20260618 20260625', 'of other tables there is');

-- Bounded.
select test.throws('OR010', 'delete from ordinaut.run_log_default', 'nobody deletes rows of the journal');
select test.eq((select sum(p.n) from ordinaut.prune('40 days', 10) as p where p.what = 'old runs of no partition'), 10::numeric, 'so many rows of a table in a step');
select test.eq((select count(*) from ordinaut.payload), 15::bigint, 'and their bodies');
select test.prune('40 days');
select test.eq((select count(*) from ordinaut.payload), 0::bigint, 'in the end all');
select test.eq((select array_agg(distinct r.run_id) from ordinaut.task_run as r where r.run_id < ordinaut._v7_floor('2026-04-01')), array[:'asks'::uuid], 'of then only the run that waits');
select test.eq((select array_agg(s.name) from ordinaut.step as s where s.step_id < ordinaut._v7_floor('2026-04-01')), '{ask}', 'with its step');
select test.eq((select count(*) from ordinaut.event as e where e.topic = 'old'), 0::bigint, 'no event');
select test.eq((select array_agg(q.queue) from ordinaut.queue as q), '{limited}', 'no queue that has no settings');
select test.eq(test.in_default('run_log'), 0::bigint, 'and of the journal nothing, all of it being old');
select set_config('test.now', '2026-07-20 12:00:00+00', true);
select test.prune();

-- Partitions: bodies go after their week, but not that of a run that waits.
select count(*) from ordinaut.enqueue_many((select jsonb_agg(jsonb_build_object('payload', jsonb_build_object('n', n, 'text', (select string_agg(md5(m::text), '') from generate_series(1, 100) as m)))) from generate_series(1, 12) as n), 'echo');
select test.end_all();
select ordinaut.enqueue('echo', jsonb_build_object('text', string_agg(md5(m::text), '')), p_delay => '1 year') from generate_series(1, 100) as m;
select test.travel('40 days');
select test.eq((select array_agg(p.n order by p.n) from ordinaut.prune(p_limit => 5) as p where p.what = 'payloads'), null, 'first the partition');
do $$ begin while to_regclass('ordinaut.task_run_20260716') is null or (select c.relispartition from pg_class as c where c.oid = to_regclass('ordinaut.task_run_20260716')) loop perform from ordinaut.prune(p_limit => 5); end loop; end $$;
select test.eq((select count(*) from ordinaut.run as r where r.finished_at is not null and r.run_id > ordinaut._v7_floor('2026-07-16')), 0::bigint, 'its runs are gone at once');
select test.eq((select count(*) from ordinaut.payload), 13::bigint, 'their bodies not yet');
select test.eq((select p.n from ordinaut.prune(p_limit => 5) as p where p.what = 'payloads'), 5::bigint, 'they go in steps');
select test.prune();
select test.ok(to_regclass('ordinaut.task_run_20260716') is null, 'then the rest of it');
select test.eq((select count(*) from ordinaut.payload), 1::bigint, 'but the body of what still waits');

rollback;
