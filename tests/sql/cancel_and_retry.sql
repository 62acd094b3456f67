-- Runs are cancelled where they are, and run again as new runs.
\ir _begin.sql

create function test.states(p_queue text) returns text
language sql
as $fn$
  select string_agg(r.state, ' ' order by r.enqueued_at, r.run_id) from ordinaut.run as r where r.queue = p_queue;
$fn$;

-- Waiting, leased, done.
select run_id from ordinaut.enqueue('echo', p_delay => '1 hour') \gset
select test.eq(ordinaut.cancel_run(:'run_id', 'a typo'), 'cancelled', 'what waits is cancelled at once');
select test.eq(ordinaut.cancel_run(:'run_id'), 'too_late', 'once');
select test.eq(r.error ->> 'note', 'a typo', 'with the note') from ordinaut.get_run(:'run_id') as r;

select run_id from ordinaut.enqueue('echo') \gset
select lease_id from ordinaut.lease_work('me') \gset
select test.eq(ordinaut.cancel_run(:'run_id', 'enough'), 'requested', 'what runs is asked to stop');
select test.eq(ordinaut.cancel_run(:'run_id'), 'requested', 'twice is fine');
select test.eq(h.kind, 'cancel', 'its lessee is told at its heartbeat') from ordinaut.heartbeat(:'lease_id') as h;
select test.throws('OR002', format('select ordinaut.assert_lease(%L, %L)', :'lease_id', :'run_id'), 'and before it writes');
select test.eq(outcome, 'cancelled', 'a failure is a cancel now') from ordinaut.fail_work(:'lease_id', p_error => 'stopped');
select test.eq(r.state, 'cancelled', 'so it ends') from ordinaut.get_run(:'run_id') as r;

select run_id from ordinaut.enqueue('echo') \gset
select lease_id from ordinaut.lease_work('me') \gset
select ordinaut.cancel_run(:'run_id');
select test.eq(outcome, 'success', 'a success that comes first wins') from ordinaut.complete_work(:'lease_id');
select test.eq((select count(*) from ordinaut.cancel_request), 0, 'and no request is left');
select test.throws('OR020', 'select ordinaut.cancel_run(''00000000-0000-7000-8000-000000000000'')', 'no such run');

-- One is run again.
select run_id from ordinaut.enqueue('mail', '{"to": "ann"}', 'dead', 3, p_max_attempts => 1, p_timeout => '5 s') \gset
select lease_id from ordinaut.lease_work('me', 'dead') \gset
select test.throws('OR031', format('select ordinaut.retry_run(%L)', :'run_id'), 'not while it runs');
select ordinaut.fail_work(:'lease_id', p_error => 'no route');
select retried_as, outcome from ordinaut.retry_run(:'run_id', p_note => 'route is back') \gset
select test.eq(:'outcome', 'new', 'a new run');
select test.eq((r.retry_of, r.tool, r.payload, r.priority, r.queue, r.max_attempts, r.failures)::text,
  format('(%s,mail,"{""to"": ""ann""}",3,dead,1,0)', :'run_id'), 'of the same work, from the start')
from ordinaut.get_run(:'retried_as') as r;
select test.eq((q.retried_as = :'retried_as', q.outcome)::text, '(t,existing)', 'a second click is told of it') from ordinaut.retry_run(:'run_id') as q;
select lease_id from ordinaut.lease_work('me', 'dead') \gset
select ordinaut.complete_work(:'lease_id');
select test.throws('OR031', format('select ordinaut.retry_run(%L)', :'retried_as'), 'what succeeded is not run again');
select test.ok(exists (select from ordinaut.run_history(:'run_id') where event = 'retried' and detail ->> 'note' = 'route is back'),
  'history knows');

-- Many, by filter.
select count(*) from ordinaut.enqueue_many('[{}, {}, {}, {}]', 'sms', 'dead', p_max_attempts => 1);
select lease_id from ordinaut.lease_work('me', 'dead', 3) limit 1 \gset
select ordinaut.fail_work(:'lease_id', p_error => 'no route');
select test.eq(count(*), 2::bigint, 'as many as asked') from ordinaut.retry_run(p_tool => 'sms', p_limit => 2);
select test.eq(count(*), 1::bigint, 'the rest, and none twice') from ordinaut.retry_run(p_tool => 'sms');
select test.eq(count(*), 0::bigint, 'then none') from ordinaut.retry_run(p_tool => 'sms');
select test.eq(count(*), 0::bigint, 'none of another queue') from ordinaut.retry_run(p_queue => 'default');
select test.eq(count(*), 2::bigint, 'those that were cancelled') from ordinaut.retry_run(p_queue => 'default', p_state => 'cancelled');
select test.eq(count(*), 0::bigint, 'none since then') from ordinaut.retry_run(p_since => ordinaut.now() + '1 s');
select test.throws('22023', 'select ordinaut.retry_run()', 'not everything by mistake');
select test.throws('22023', 'select ordinaut.retry_run(p_queue => ''dead'', p_state => ''success'')', 'nor what went well');

rollback;
