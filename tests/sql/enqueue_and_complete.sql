-- Work is enqueued, leased and completed with nothing but psql.
\ir _begin.sql

select run_id, outcome from ordinaut.enqueue('echo', '{"message": "hi"}') \gset
select test.eq(:'outcome', 'new', 'the run is new');
select test.eq((select r.state from ordinaut.get_run(:'run_id') as r), 'pending', 'and waits');

select lease_id, work_id, attempt from ordinaut.lease_work('me', 'default', 1, p_for => '1 min') \gset
select test.eq(:attempt, 1, 'its first attempt');
select test.eq((select count(*) from ordinaut.lease_work('you')), 0, 'nobody else gets it');

select test.travel('59 s');
select test.eq(ordinaut.reap(), 0, 'a second early is too early to take it back');
select test.eq(
  (select c.outcome from ordinaut.complete_work(:'lease_id', :'work_id', '{"message": "hi"}') as c),
  'success', 'the lessee completes it');
select test.eq((select r.state from ordinaut.get_run(:'run_id') as r), 'success', 'and so it is told');
select test.throws(
  'OR001', format('select ordinaut.complete_work(%L)', :'lease_id'), 'the lease has ended with it');

rollback;
