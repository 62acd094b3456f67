-- A lease that runs out is work again, its crash charged; a heartbeat extends it.
\ir _begin.sql

select run_id from ordinaut.enqueue('mail') \gset
select lease_id from ordinaut.lease_work('w1', p_for => '30 s') \gset

select test.travel('29 s');
select test.eq(ordinaut.reap(), 0, 'a second early is too early');
select test.eq((select count(*) from ordinaut.heartbeat(:'lease_id', '30 s')), 0, 'its lessee asks for more time');
select test.travel('29 s');
select test.eq(ordinaut.reap(), 0, 'and has it');
select test.travel('1 s');
select test.eq(ordinaut.reap(), 1, 'at the limit it is taken back');
select test.throws('OR001', format('select ordinaut.complete_work(%L)', :'lease_id'), 'the lease is gone');
select test.throws('OR001', format('select ordinaut.complete_work(%L, %L)', :'lease_id', :'run_id'),
  'also for a lessee that names the unit');
select test.throws('OR001', format('select ordinaut.%s(%L, %L%s)', f, :'lease_id', :'run_id', more), f || ' is fenced off')
from (values ('fail_work', ''), ('release_work', ''), ('snooze_work', ', ''1 s'''), ('assert_lease', ''),
  ('log_work', ', ''log'', ''{}''')) as v (f, more);
select test.throws('OR001', format('select ordinaut.heartbeat(%L)', :'lease_id'), 'and so is its heartbeat');

select lease_id, attempt, failures from ordinaut.lease_work('w2', p_for => '1 min') \gset
select test.eq((:attempt, :failures), (2, 0), 'the next lease is attempt 2, and no failure');
select test.eq(w.crashes, 1, 'but a crash') from ordinaut.work as w;

-- A settle is accepted, late or not, until somebody has taken the work.
select test.travel('1 hour');
select test.eq(outcome, 'success', 'late, and still the only one') from ordinaut.complete_work(:'lease_id');
select test.eq(ordinaut.reap(), 0, 'nothing is left to take back');

-- What kills whoever leases it is abandoned at the third time.
select run_id from ordinaut.enqueue('bomb') \gset
create function test.crash() returns bigint
language sql
as $fn$
  select ordinaut.lease_work('w', p_for => '1 s');
  select test.travel('1 s');
  select ordinaut.reap();
$fn$;
select test.eq(test.crash(), 1, 'crash ' || n) from generate_series(1, 3) as n;
select test.eq((r.state, r.crashes, r.failures)::text, '(abandoned,3,0)', 'three are enough') from ordinaut.get_run(:'run_id') as r;
select test.eq(h.detail ->> 'message', 'the lease of w ran out', 'history tells why')
from ordinaut.run_history(:'run_id') as h where h.event = 'finished';

rollback;
