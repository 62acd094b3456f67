-- A failure is tried again after a growing pause, until the attempts are exhausted.
\ir _begin.sql

create function test.state(p_run_id uuid) returns text
language sql
as 'select r.state from ordinaut.get_run(p_run_id) as r';

select run_id from ordinaut.enqueue('mail', p_max_attempts => 4,
  p_retry => '{"base": "10 s", "cap": "30 s", "jitter": 0}') \gset
select lease_id from ordinaut.lease_work('me') \gset
select test.eq(outcome, 'retry', 'a first failure is retried')
from ordinaut.fail_work(:'lease_id', :'run_id', 'no route to host');
select test.eq(w.run_at - ordinaut.now(), '10 s'::interval, 'in ten seconds') from ordinaut.work as w;
select test.eq((w.attempt, w.failures, w.crashes), (1, 1, 0), 'charged as a failure') from ordinaut.work as w;
select test.eq((select count(*) from ordinaut.lease_work('me')), 0, 'not before');

select test.travel('10 s');
select lease_id, attempt, failures from ordinaut.lease_work('me') \gset
select test.eq((:attempt, :failures), (2, 1), 'the second attempt knows of the first');
select ordinaut.fail_work(:'lease_id', p_error => 'again');
select test.eq(w.run_at - ordinaut.now(), '20 s'::interval, 'then twice as long') from ordinaut.work as w;
select test.travel('20 s');
select lease_id from ordinaut.lease_work('me') \gset
select ordinaut.fail_work(:'lease_id', p_error => 'and again');
select test.eq(w.run_at - ordinaut.now(), '30 s'::interval, 'never longer than the cap') from ordinaut.work as w;
select test.travel('30 s');
select lease_id from ordinaut.lease_work('me') \gset
select test.eq(outcome, 'failed', 'the fourth is the last')
from ordinaut.fail_work(:'lease_id', p_error => 'out of luck');
select test.eq(r.error ->> 'message', 'Max retries exhausted (4 of 4): out of luck', 'and says so')
from ordinaut.get_run(:'run_id') as r;
select test.eq(outcome, 'already', 'an answer that was lost can be asked for again')
from ordinaut.fail_work(:'lease_id', :'run_id', 'out of luck');
select test.eq(array_agg(h.event), '{enqueued,failed,failed,failed,failed,started,finished}',
  'every attempt is in its history')
from (select h.event from ordinaut.run_history(:'run_id') as h
  order by h.at, array_position(array['enqueued', 'failed', 'started', 'finished'], h.event)) as h;

-- What trying again cannot mend.
select run_id from ordinaut.enqueue('mail') \gset
select lease_id from ordinaut.lease_work('me') \gset
select test.eq(outcome, 'failed', 'not retryable: it ends at once')
from ordinaut.fail_work(:'lease_id', p_error => 'no such address', p_retryable => false,
  p_details => '{"code": "E4"}');
select test.eq((r.error ->> 'message', r.error ->> 'code', r.failures)::text, '("no such address",E4,1)',
  'with its own words') from ordinaut.get_run(:'run_id') as r;

-- The other side knows best when to come back.
select run_id from ordinaut.enqueue('mail') \gset
select lease_id from ordinaut.lease_work('me') \gset
select ordinaut.fail_work(:'lease_id', p_error => 'quota', p_retry_after => '90 min');
select test.eq(w.run_at - ordinaut.now(), '90 min'::interval, 'retry_after rules over the backoff')
from ordinaut.work as w where w.run_id = :'run_id';
select test.travel('91 min');

-- Neither a release nor a snooze is charged, and a release keeps its place in line.
select test.travel('1 s');
select run_id as younger from ordinaut.enqueue('mail') \gset
select lease_id from ordinaut.lease_work('me') \gset
select test.eq(outcome, 'released', 'given back') from ordinaut.release_work(:'lease_id', p_note => 'deploy');
select lease_id, work_id, attempt, failures from ordinaut.lease_work('me') \gset
select test.eq(:'work_id', :'run_id', 'it is still before the younger');
select test.eq((:attempt, :failures), (3, 1), 'an attempt more, not a failure');
select test.eq(outcome, 'snoozed', 'put off') from ordinaut.snooze_work(:'lease_id', :'run_id', '1 hour');
select test.eq(work_id, :'younger', 'now the younger comes first') from ordinaut.lease_work('me', p_limit => 5);
select test.travel('1 hour');
select test.eq((w.failures, w.crashes), (1, 0), 'uncharged') from ordinaut.work as w where w.run_id = :'run_id';
select lease_id from ordinaut.lease_work('me') \gset
select test.eq(outcome, 'success', 'and it may succeed in the end') from ordinaut.complete_work(:'lease_id');

-- The curves; with jitter a little earlier, never later.
select test.eq(array_agg(ordinaut._backoff(c.retry, n) order by n), c.expected, c.retry ->> 'strategy')
from generate_series(1, 4) as n, (values
  ('{"strategy": "exponential", "base": "1 s", "factor": 3, "jitter": 0}'::jsonb,
    '{1 s,3 s,9 s,27 s}'::interval[]),
  ('{"strategy": "linear", "base": "1 s", "jitter": 0}', '{1 s,2 s,3 s,4 s}'),
  ('{"strategy": "fixed", "base": "1 s", "jitter": 0}', '{1 s,1 s,1 s,1 s}')) as c (retry, expected)
group by c.retry, c.expected;
select test.ok(bool_and(ordinaut._backoff(null, 5) between '14.4 s' and '16 s'), 'the default has a tenth of jitter')
from generate_series(1, 100);
select test.ok(ordinaut._backoff(null, 1000) <= '60 s', 'and a cap that no number of failures breaks');

-- A policy that could not be followed is refused when it is written.
select test.throws('22023', format('select ordinaut.enqueue(''mail'', p_retry => %L)', r), 'no policy: ' || r)
from unnest(array['[]', '{"base": "soon"}', '{"base": "-1 s"}', '{"cap": "31 days"}', '{"factor": 0.5}',
  '{"factor": "NaN"}', '{"jitter": 2}', '{"strategy": "hope"}', '{"tries": 3}']) as r;

rollback;
