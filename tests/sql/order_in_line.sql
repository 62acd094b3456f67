-- Work is leased by priority, then in the order in which it came.
\ir _begin.sql

create function test.leased(p_queue text, p_n integer) returns text
language sql
as $fn$
  select string_agg(coalesce(l.payload ->> 'n', to_char(l.scheduled_for at time zone 'UTC', 'MI')), ' ')
  from ordinaut.lease_work('me', p_queue, p_n) as l;
$fn$;

-- One of each priority, the least urgent first.
select count(*)
from generate_series(9, 1, -1) as p
cross join lateral ordinaut.enqueue('echo', jsonb_build_object('n', p), p_priority => p, p_queue => 'prio');
select test.eq(test.leased('prio', 4), '1 2 3 4', '1 is the most urgent');
select test.eq(test.leased('prio', 9), '5 6 7 8 9', '9 the least');
select test.throws('22023', format('select ordinaut.enqueue(''echo'', p_priority => %s)', p), p || ' is none')
from unnest(array[0, 10, -1]) as p;

-- A bulk keeps the order of its items, whichever way it goes in.
select count(*) from ordinaut.enqueue_many(
  (select jsonb_agg(jsonb_build_object('payload', jsonb_build_object('n', n)) order by n)
    from generate_series(1, 20) as n),
  'echo', 'plain');
select test.eq(test.leased('plain', 10), '1 2 3 4 5 6 7 8 9 10', 'plain items, the first ten');
select test.eq(test.leased('plain', 99), '11 12 13 14 15 16 17 18 19 20', 'and the rest');

select count(*) from ordinaut.enqueue_many(
  (select jsonb_agg(jsonb_build_object('payload', jsonb_build_object('n', n), 'queue', 'keyed',
      'idempotency_key', format('key %s', 100 - n)) order by n)
    from generate_series(1, 20) as n),
  'echo');
select test.eq(test.leased('keyed', 10), '1 2 3 4 5 6 7 8 9 10', 'items with keys of their own');
select test.eq(test.leased('keyed', 99), '11 12 13 14 15 16 17 18 19 20', 'and the rest of those');

select count(*) from ordinaut.enqueue_many(
  (select jsonb_agg(jsonb_build_object('payload', jsonb_build_object('n', n), 'queue', 'line',
      'key', 'k') order by n)
    from generate_series(1, 9) as n),
  'echo');
select test.eq(test.leased('line', 99), '1', 'of items that share a key the first goes');
select test.travel('20 ms');
create function test.next_in_line() returns text
language sql
as $fn$
  select ordinaut.complete_work(w.lease_id, w.work_id) from ordinaut.work as w
  where w.queue = 'line' and w.status = 'running';
  select test.leased('line', 99);
$fn$;
select test.eq(test.next_in_line(), n::text, 'then ' || n) from generate_series(2, 9) as n;

-- What is made up for runs oldest first.
select ordinaut.create_task('catch', 'echo', p_queue => 'catchup', p_schedule_kind => 'interval',
  p_schedule_expr => '1 min', p_catchup => 'all');
select test.travel('9 min');
select test.eq((select fired from ordinaut.tick()), 9, 'nine occurrences are made up for');
select test.eq(test.leased('catchup', 99), '01 02 03 04 05 06 07 08 09', 'the oldest first');

-- So does what is retried by filter.
select count(*) from ordinaut.work as w, ordinaut.fail_work(w.lease_id, w.work_id, 'broken', false)
where w.queue = 'plain' and w.status = 'running';
select count(*) from ordinaut.retry_run(p_queue => 'plain', p_limit => 20);
select test.eq(
  (select array_agg(r.retry_of order by w.run_at) from ordinaut.work as w
    join ordinaut.run as r using (run_id) where w.queue = 'plain' and w.status = 'pending'),
  (select array_agg(r.run_id order by r.run_id) from ordinaut.run as r
    where r.queue = 'plain' and r.state = 'failed'),
  'the oldest is retried first');

rollback;
