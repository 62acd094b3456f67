-- A condition fires when it becomes true: once, whoever asked, and again when it was false in between.
\ir _begin.sql

-- What a scheduler does: ask whoever is due, and report; the test is the world that is asked about.
create function test.ask(p_is_true boolean, p_error text default null, p_is_defect boolean default false) returns bigint
language sql
as $fn$
  select count(*) filter (where ordinaut.report_condition(c.task_id, c.revision, c.polled_for, p_is_true, p_error, p_is_defect))
  from ordinaut.unpolled_conditions() as c;
$fn$;
create function test.fired() returns bigint
language sql
as 'select t.fired from ordinaut.tick() as t';
create function test.why(p_task text) returns text
language sql
as 'select string_agg(w.reason, '' '') from ordinaut.why(p_task) as w where w.reason not in (''no_worker'', ''live_run'')';

select ordinaut.create_task('unpaid', 'echo', p_schedule_kind => 'condition', p_schedule_expr => 'every 30 s: select exists (select from invoice)') as task_id \gset
select test.eq((c.query, c.polled_for = ordinaut.now())::text, '("select exists (select from invoice)",t)', 'it is asked at once') from ordinaut.unpolled_conditions() as c;
select test.eq(test.why('unpaid'), 'condition_unknown', 'nothing is known yet');
select test.eq(test.ask(false), 1::bigint, 'somebody asks');
select test.eq(test.fired(), 0::bigint, 'false fires nothing');
select test.eq(test.why('unpaid'), 'condition_unmet', 'why() says that it was false');
select test.travel('29 s');
select test.eq(count(*), 0::bigint, 'it is asked no more often than every 30 s') from ordinaut.unpolled_conditions();
select test.travel('1 s');
select ordinaut.report_condition(c.task_id, c.revision, c.polled_for, true), c.polled_for as poll from ordinaut.unpolled_conditions() as c \gset
select test.eq(ordinaut.report_condition(:'task_id', 1, :'poll', true), false, 'a second report of a poll is ignored');
select test.eq(test.fired(), 1::bigint, 'it became true: it fires');
select test.eq((o.scheduled_for = ordinaut.now(), o.decision)::text, '(t,fired)', 'as an occurrence of that instant') from ordinaut.occurrence as o where o.task_id = :'task_id';
select test.eq(test.why('unpaid'), 'condition_met', 'why() says that it is true');
select test.travel('30 s');
select test.eq(test.ask(true) + test.fired(), 1::bigint, 'it stays quiet while it is true');
select test.travel('30 s');
select test.eq(test.ask(null) + test.fired(), 1::bigint, 'null is false');
select test.travel('30 s');
select test.ask(true);
select test.eq(test.fired(), 1::bigint, 'and so true again is news');

-- It cannot be asked.
select test.travel('30 s');
select test.ask(null, 'relation "invoice" does not exist', true);
select test.eq(t.status, 'active', 'a query that worked before is an outage') from ordinaut.get_task('unpaid') as t;
select test.eq(test.why('unpaid'), 'condition_met condition_error', 'why() says so');
select test.eq(w.detail, 'its condition could not be asked, 1 times in a row: relation "invoice" does not exist', 'with its error') from ordinaut.why('unpaid') as w where w.reason = 'condition_error';
select test.eq(s.look_at - ordinaut.now(), interval '30 s', 'it is asked again') from ordinaut.task_schedule as s where s.task_id = :'task_id';
select test.travel('30 s');
select test.ask(null, 'relation "invoice" does not exist', true);
select test.eq(s.look_at - ordinaut.now(), interval '1 min', 'later and later, up to a minute') from ordinaut.task_schedule as s where s.task_id = :'task_id';
select test.travel('1 min');
select test.eq(test.ask(true) + test.fired(), 1::bigint, 'an outage is no edge: it was true before and is');
select test.eq(test.why('unpaid'), 'condition_met', 'and is forgotten');
select test.travel('45 s');
select test.eq(test.why('unpaid'), 'condition_met not_polled', 'nobody asks');
select ordinaut.create_task('typo', 'echo', p_schedule_kind => 'condition', p_schedule_expr => 'every 1 s: select exists (select from invoise)');
select ordinaut.report_condition(c.task_id, c.revision, c.polled_for, null, 'the server is busy') from ordinaut.unpolled_conditions() as c where c.query like '%invoise%';
select test.eq(t.status, 'active', 'what is not its fault changes nothing') from ordinaut.get_task('typo') as t;
select test.eq((array_agg(c.query))[1], 'select exists (select from invoice)', 'one that failed is asked last') from ordinaut.unpolled_conditions() as c;
select test.travel('1 s');
select test.ask(null, 'relation "invoise" does not exist', true);
select test.eq((t.status, t.status_note)::text, '(invalid,"relation ""invoise"" does not exist")', 'a query that never worked makes its task invalid') from ordinaut.get_task('typo') as t;
select ordinaut.update_task('typo', '{"schedule_expr": "every 1 s: select exists (select from invoice)"}');
select test.ask(true);
select test.eq(test.fired(), 1::bigint, 'the right query makes it active');

-- Paused and resumed; edited; snoozed.
select ordinaut.cancel_task('typo');
select test.travel('1 min');
select test.ask(true);
select ordinaut.pause_task('unpaid');
select test.travel('1 hour');
select test.eq(count(*), 0::bigint, 'a paused condition is not asked') from ordinaut.unpolled_conditions();
select ordinaut.resume_task('unpaid');
select test.eq(test.ask(true) + test.fired(), 1::bigint, 'what was true before the pause fires no second time');
select test.travel('30 s');
select test.ask(false);
select ordinaut.pause_task('unpaid');
select test.travel('1 hour');
select ordinaut.resume_task('unpaid');
select test.ask(true);
select test.eq(test.fired(), 1::bigint, 'what became true in it does');
select c.polled_for as poll from (select test.travel('30 s')) as t, ordinaut.unpolled_conditions() as c \gset
select ordinaut.update_task('unpaid', '{"priority": 3, "schedule_expr": "every 10 s: select exists (select from invoice)"}');
select test.eq(ordinaut.report_condition(:'task_id', 1, :'poll', false), false, 'an answer to what was asked before an edit is void');
select test.eq(test.ask(true) + test.fired(), 1::bigint, 'the same query fires no second time');
select ordinaut.update_task('unpaid', '{"schedule_expr": "every 10 s: select not exists (select from invoice)"}');
select test.ask(true);
select test.eq(test.fired(), 1::bigint, 'another query does');
select ordinaut.update_task('unpaid', '{"schedule_expr": "every 10 s: select 1 = (select count(*) from invoice)"}');
select test.ask(true);
select test.travel('1 us');
select test.eq(test.fired(), 1::bigint, 'and one more, in the same instant');
select test.travel('10 s');
select test.ask(false);
select test.eq(ordinaut.snooze_task('unpaid', '1 hour'), ordinaut.now() + interval '1 hour', 'a snooze');
select test.travel('59 min');
select test.eq(count(*), 0::bigint, 'asks nothing') from ordinaut.unpolled_conditions();
select test.travel('1 min');
select test.ask(true);
select ordinaut.snooze_task('unpaid', '1 hour');
select test.eq(test.fired(), 0::bigint, 'and moves what is due');
select test.travel('1 hour');
select test.eq(test.fired(), 1::bigint, 'by so much');

-- Policies and bounds.
select ordinaut.cancel_task('unpaid');
select ordinaut.create_task('single', 'echo', p_schedule_kind => 'condition', p_schedule_expr => E'every 00:00:10:\n  select true', p_overlap => 'skip', p_max_runs => 2);
select test.ask(true);
select test.fired();
select test.ask(false) from test.travel('10 s');
select test.ask(true) from test.travel('10 s');
select test.eq(test.fired(), 0::bigint, 'overlap skip');
select test.eq(o.decision, 'skipped', 'is recorded') from ordinaut.occurrence as o where o.scheduled_for = ordinaut.now();
select ordinaut.cancel_run(r.run_id) from ordinaut.list_runs('single') as r where r.state = 'pending';
select test.ask(false) from test.travel('10 s');
select test.ask(true) from test.travel('10 s');
select test.fired();
select test.eq(t.status, 'completed', 'max_runs') from ordinaut.get_task('single') as t;
select ordinaut.create_task('failing', 'echo', p_schedule_kind => 'condition', p_schedule_expr => 'every 10 s: select true', p_pause_on_failure => 1);
select test.ask(true);
select test.fired();
select test.travel('1 s');
select ordinaut.fail_work(l.lease_id, l.work_id, p_retryable => false) from ordinaut.lease_work('w', p_limit => 100) as l where l.task_id = ordinaut._task_id('failing');
select test.ask(false) from test.travel('10 s');
select test.ask(true) from test.travel('10 s');
select test.eq(test.fired(), 0::bigint, 'pause_on_failure');
select test.eq(t.status, 'paused', 'pauses it when it is due next') from ordinaut.get_task('failing') as t;
select ordinaut.resume_task('failing');
select test.ask(true);
select test.eq(test.fired(), 1::bigint, 'and what did not fire is news after the resume');
select ordinaut.cancel_task('failing');
select ordinaut.create_task('window', 'echo', p_schedule_kind => 'condition', p_schedule_expr => 'every 10 s: select true',
  p_start_at => ordinaut.now() + interval '1 min', p_end_at => ordinaut.now() + interval '2 min');
select test.eq(test.ask(true), 0::bigint, 'not asked before start_at') from test.travel('59 s');
select test.eq(test.ask(false), 1::bigint, 'but then') from test.travel('1 s');
select test.eq(test.ask(true), 1::bigint, 'asked a last time') from test.travel('61 s');
select test.eq((t.status, t.status_note, t.fired_count)::text, '(completed,"its end_at has come",0)', 'after end_at nothing fires') from ordinaut.get_task('window') as t;

-- Other kinds are not asked, and what is visibly no condition is refused.
select ordinaut.create_task('plain', 'echo', p_schedule_kind => 'interval', p_schedule_expr => '1 min after end');
select test.eq(count(*), 0::bigint, 'an interval is no condition') from test.travel('1 hour'), ordinaut.unpolled_conditions();
select test.eq(ordinaut.report_condition(s.task_id, 1, s.look_at, true), false, 'nor can it be told')
from ordinaut.task_schedule as s where s.task_id = ordinaut._task_id('plain');
select test.throws('22023', format('select ordinaut.create_task(''x'', ''echo'', p_schedule_kind => ''condition'', p_schedule_expr => %L)', e), 'refused: ' || left(e, 60))
from unnest(array['select true', 'every: select true', 'every 30 s:select true', 'every 30 s: ', 'every 30 s: drop table invoice', 'every 1 month: select true',
  'every 100 ms: select true', 'every 5 min after end: select true', 'every 5 min phase 1 min: select true', 'each 30 s: select true',
  'every 30 s: select ' || repeat('x', 20000)]) as e;
select test.throws('22023', 'select ordinaut.create_task(''x'', ''echo'', p_schedule_kind => ''condition'')', 'refused: nothing at all');

rollback;
