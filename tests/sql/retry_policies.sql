-- The kind of an error says how often and when it is tried again, where neither it nor its task does.
\ir _begin.sql

-- Fail the next unit of a queue once: how long until it is tried again, or how its run ended.
create function test.fail(p_queue text, p_details jsonb, p_retryable boolean default true, p_after interval default null)
returns text
language plpgsql
as $fn$
declare
  v_unit record;
  v_outcome text;
begin
  update ordinaut.due_work as w set run_at = ordinaut.now() where w.queue = p_queue;
  select l.lease_id, l.work_id into v_unit from ordinaut.lease_work('w', p_queue) as l;
  select f.outcome into v_outcome
  from ordinaut.fail_work(v_unit.lease_id, v_unit.work_id, 'it broke', p_retryable, p_after, p_details) as f;
  return case
    when v_outcome = 'retry' then (
      select (w.run_at - ordinaut.now())::text from ordinaut.work as w where w.work_id = v_unit.work_id)
    else (select r.error ->> 'message' from ordinaut.get_run(v_unit.work_id) as r)
  end;
end
$fn$;

-- Asked once: `between` would fail the unit twice.
create function test.soon(p_wait text, p_least interval, p_most interval, p_what text) returns text
language sql
as $fn$
  select test.ok(p_wait::interval between p_least and p_most, p_what);
$fn$;

-- Without a policy the task alone decides.
select ordinaut.enqueue('a', p_queue => 'q0', p_max_attempts => 9);
select test.ok(test.fail('q0', '{"category": "validation"}')::interval <= '1 s', 'as ever: a second');
select test.soon(test.fail('q0', '{"category": "network"}'), '1.8 s', '2 s', 'then two');

select test.eq(ordinaut.set_retry_policy('network', '{"max_attempts": 3, "base": "7 s", "jitter": 0}'), 1, 'one policy');
select ordinaut.enqueue('a', p_queue => 'q1', p_max_attempts => 9);
select test.eq(test.fail('q1', '{"category": "network"}'), '00:00:07', 'the policy gives the wait');
select test.soon(test.fail('q1', '{"category": "timeout"}'), '1.8 s', '2 s', 'a category without one is as before');
select test.eq(test.fail('q1', '{"category": "network"}'), 'Max retries exhausted (3 of 3): it broke', 'and bounds the attempts');

select ordinaut.enqueue('a', p_queue => 'q2', p_max_attempts => 9);
select test.eq(test.fail('q2', '{"type": "ConnectionError"}'), '00:00:07', 'an error without a category is classified');
select test.eq(test.fail('q2', '{"category": "network"}', p_after => '3 s'), '00:00:03', 'what the error asks for rules');
select ordinaut.enqueue('a', p_queue => 'q3', p_max_attempts => 2);
select test.fail('q3', '{"category": "network"}');
select test.eq(test.fail('q3', '{"category": "network"}'), 'Max retries exhausted (2 of 2): it broke', 'it never raises what the task allows');
select ordinaut.enqueue('a', p_queue => 'q4', p_max_attempts => 5, p_retry => '{"base": "4 s", "jitter": 0, "strategy": "fixed"}');
select test.fail('q4', '{"category": "network"}'), test.fail('q4', '{"category": "network"}');
select test.eq(test.fail('q4', '{"category": "network"}'), '00:00:04', 'an explicit retry rules over it, with all its attempts');
select ordinaut.enqueue('a', p_queue => 'q5');
select test.eq(test.fail('q5', '{"category": "network"}', p_retryable => false), 'it broke', 'what cannot be mended is not tried again');

-- A step of a run is no exception.
select run_id as run from ordinaut.enqueue('pipeline', p_queue => 'q6', p_pipeline => '[{"id": "s", "uses": "a", "retry_count": 9}]') \gset
select lease_id, work_id from ordinaut.lease_work('w', 'q6') \gset
select ordinaut.fail_work(:'lease_id', :'work_id', 'no', p_details => '{"category": "network"}');
select test.eq(w.run_at - ordinaut.now(), '7 s', 'the wait of a step') from ordinaut.work as w where w.work_id = :'work_id';
select test.fail('q6', '{"category": "network"}');
select test.fail('q6', '{"category": "network"}');
select test.eq(r.error ->> 'message', 'step s: Max retries exhausted (3 of 3): it broke', 'and its attempts') from ordinaut.get_run(:'run') as r;

-- The table of defaults.
select test.eq(ordinaut.set_retry_policy('defaults'), 8, 'all categories');
select test.eq(string_agg(format('%s %s %s', p.category, p.max_attempts, p.retry ->> 'base'), ', ' order by p.category),
  'configuration 1 0 s, external_service 6 1 s, internal 2 5 s, network 4 2 s, permission 1 0 s, '
  'resource 4 5 s, timeout 3 10 s, validation 1 0 s', 'have theirs') from ordinaut.list_retry_policies() as p;
select ordinaut.enqueue('a', p_queue => 'q7', p_max_attempts => 9);
select test.eq(test.fail('q7', '{"category": "permission"}'), 'Max retries exhausted (1 of 1): it broke', 'hopeless ones are tried once');
select test.eq(ordinaut.set_retry_policy('network'), 1, 'one can be taken away');
select test.eq(ordinaut.set_retry_policy('none'), 7, 'and all');

-- For programs that retry on their own.
select test.eq((a.should_retry, a.delay, a.next_attempt)::text, '(f,0,)', 'validation: no') from ordinaut.advise_retry(1, 'ValueError') as a;
select test.ok(a.should_retry and a.delay between 1.5 and 2 and a.next_attempt = 2, 'network: yes, soon') from ordinaut.advise_retry(1, 'ConnectionError') as a;
select test.eq((a.should_retry, a.delay)::text, '(f,0)', 'but not for ever') from ordinaut.advise_retry(5, 'ConnectionError') as a;
select ordinaut.set_retry_policy('network', '{"max_attempts": 9, "base": "1 s", "jitter": 0}');
select test.eq((a.should_retry, a.delay, a.next_attempt)::text, '(t,16,6)', 'as its policy says') from ordinaut.advise_retry(5, 'ConnectionError') as a;

-- Curves.
select test.eq(array_agg(ordinaut.calculate_backoff_delay(n) order by n), '{1,2,4,8,16,32,60,60}', 'defaults: 1, doubling, at most 60')
from generate_series(1, 8) as n;
select test.eq(array_agg(ordinaut.calculate_backoff_delay(n, 2, p_cap => 20) order by n), '{2,4,8,16,20}', 'base and cap') from generate_series(1, 5) as n;
select test.eq(array_agg(ordinaut.calculate_backoff_delay(n, 3, p_strategy => 'linear') order by n), '{3,6,9}', 'linear') from generate_series(1, 3) as n;
select test.eq(array_agg(ordinaut.calculate_backoff_delay(n, 5, p_strategy => 'fixed') order by n), '{5,5,5}', 'fixed') from generate_series(1, 3) as n;
select test.ok(min(d) >= low and max(d) <= high and max(d) - min(d) > (high - low) / 2, 'jitter ' || mode)
from (values ('plus_minus', 6, 10), ('minus', 6, 8), ('half', 4, 8), ('full', 0, 8)) as m (mode, low, high),
  lateral (select ordinaut.calculate_backoff_delay(4, p_jitter_mode => mode) as d from generate_series(1, 200)) as x
group by mode, low, high;

select test.throws('22023', q, 'refused: ' || q)
from unnest(array[
  $$select ordinaut.set_retry_policy('weather', '{"max_attempts": 1}')$$, $$select ordinaut.set_retry_policy(null)$$,
  $$select ordinaut.set_retry_policy('network', '[]')$$, $$select ordinaut.set_retry_policy('network', '{"base": "1 s"}')$$,
  $$select ordinaut.set_retry_policy('network', '{"max_attempts": 0}')$$, $$select ordinaut.set_retry_policy('network', '{"max_attempts": 101}')$$,
  $$select ordinaut.set_retry_policy('network', '{"max_attempts": 2, "tries": 1}')$$,
  $$select ordinaut.set_retry_policy('network', '{"max_attempts": 2, "base": "soon"}')$$,
  $$select ordinaut.set_retry_policy('defaults', '{"max_attempts": 1}')$$,
  'select ordinaut.calculate_backoff_delay(0)', 'select ordinaut.calculate_backoff_delay(null)',
  'select ordinaut.calculate_backoff_delay(1, -1)', $$select ordinaut.calculate_backoff_delay(1, 'NaN')$$,
  'select ordinaut.calculate_backoff_delay(1, p_multiplier => 0)', 'select ordinaut.calculate_backoff_delay(1, p_jitter_pct => 2)',
  $$select ordinaut.calculate_backoff_delay(1, p_strategy => 'hope')$$, $$select ordinaut.calculate_backoff_delay(1, p_jitter_mode => 'some')$$,
  $$select ordinaut.calculate_backoff_delay(1, p_jitter_mode => null)$$, 'select ordinaut.advise_retry(0)']) as q;
rollback;
