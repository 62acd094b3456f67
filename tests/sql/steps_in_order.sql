-- A run of steps: it starts when it is leased, goes on in the settle's own transaction, ends once.
\ir _begin.sql
\ir _steps.sql

select run_id as r, outcome from ordinaut.enqueue(p_payload => '{"n": 7}', p_pipeline => '[
  {"id": "fetch", "uses": "echo", "save_as": "data"},
  {"id": "use", "uses": "echo", "with": {"x": "${steps.data.v}"}},
  {"id": "end", "uses": "echo", "save_as": "last"}]') \gset
select test.eq(count(*), 1, 'a queued run of steps is one unit') from ordinaut.work as w where w.run_id = :'r';
select test.eq(test.state(:'r'), 'pending', 'and has not begun');
select test.eq(array_agg(r.name || ' ' || r.ready_for_execution order by r.position), '{"fetch true","use false","end false"}', 'what it will be is known')
from ordinaut.get_step_readiness_status(:'r') as r;

select ordinaut.register_worker('00000000-0000-7000-8000-000000000001', '{default}', '{echo}');
create function test.turn(p_settle uuid, p_unit uuid, p_output text, p_lease uuid, p_limit integer default 5)
returns table (kind text, work_id uuid, step text, payload jsonb, attempt integer)
language sql
as $fn$
  select e.kind, e.work_id, e.step, e.payload, e.attempt
  from ordinaut.exchange('00000000-0000-7000-8000-000000000001', 'default', p_lease, p_limit,
    case when p_settle is not null then array[p_settle] end, case when p_settle is not null then array[p_unit] end,
    case when p_settle is not null then '{success}'::text[] end, case when p_settle is not null then array[p_output] end,
    case when p_settle is not null then '{null}'::text[] end, case when p_settle is not null then '{1000}'::bigint[] end) as e;
$fn$;

select work_id as a, step, payload from test.turn(null, null, null, '00000000-0000-4000-8000-00000000000a') \gset
select test.eq((:'step', :'payload')::text, ('fetch', '{"with": {}}')::text, 'a lease starts it, and has its first step');
select test.eq(array_agg(s.name || ' ' || s.state order by s.position), '{"fetch in_progress","use pending","end pending"}', 'its steps have rows now')
from ordinaut.step as s where s.run_id = :'r';
select test.eq(test.state(:'r'), 'running', 'it runs');
select test.eq(count(*), 0, 'a unit is in one place') from ordinaut.due_work;

select test.travel('1 s');
select work_id as b, step, payload from test.turn('00000000-0000-4000-8000-00000000000a', :'a', '{"v": [1, 2]}', '00000000-0000-4000-8000-00000000000b') \gset
select test.eq(:'step', 'use', 'the next step comes in the answer to the settle');
select test.eq((:'payload'::jsonb -> 'steps', :'payload'::jsonb -> 'params', :'payload'::jsonb ->> 'now')::text,
  ('{"data": {"v": [1, 2]}, "fetch": {"v": [1, 2]}}', '{"n": 7}', '2026-03-27T12:00:00.000000Z')::text, 'with all that its templates may read');
select test.eq(e.work_id, :'b', 'and again, if the answer was lost')
from test.turn('00000000-0000-4000-8000-00000000000a', :'a', '{"v": [1, 2]}', '00000000-0000-4000-8000-00000000000b') as e where e.kind = 'work';
select test.eq((progress_percentage, current_step)::text, (33.3, 'use')::text, 'a run says how far it is') from ordinaut.get_run(:'r');

-- Settled without room for more: the step is due, for anybody.
select test.eq(count(*), 0, 'nothing is leased') from test.turn('00000000-0000-4000-8000-00000000000b', :'b', 'null', null, 0);
select test.eq(w.step, 'end', 'the next step is due') from ordinaut.due_work as w;
select lease_id as l, work_id as c, step, attempt from ordinaut.lease_work('psql') \gset
select test.eq((:'step', :attempt)::text, ('end', 1)::text, 'and psql may lease it');
select test.eq(count(*), 0, 'the run has not ended') from ordinaut.task_run as t where t.finished_at is not null;
select test.eq(outcome, 'success', 'a step settles as any unit') from ordinaut.complete_work(:'l', :'c', '{"ok": true}');
select test.eq(outcome, 'already', 'once') from ordinaut.complete_work(:'l', :'c', '{"ok": false}');
select test.eq((state, output, progress_percentage)::text, ('success', '{"data": {"v": [1, 2]}, "last": {"ok": true}}', 100)::text, 'with the last step the run succeeds, its outputs by save_as')
from ordinaut.get_run(:'r');
select test.eq(array_agg(h.to_state order by h.at), '{pending,in_progress,complete}', 'a step that simply succeeded was in three states')
from ordinaut.step_history(:'a') as h;
select test.eq(count(*), 0, 'and wrote nothing into the journal') from ordinaut.run_log as g where g.run_id = :'r';
select test.eq(count(*), 0, 'nothing is left over') from ordinaut.work as w where w.status <> 'completed';

-- No step at all, and many at once.
select run_id as r from ordinaut.enqueue('pipeline', '{"pipeline": []}') \gset
select test.eq(count(*), 0, 'a run of no steps has nothing to lease') from ordinaut.lease_work('w');
select test.eq((state, output)::text, ('success', '{}')::text, 'and succeeds') from ordinaut.get_run(:'r');
select run_id as r from ordinaut.enqueue(p_pipeline => '[{"id": "a", "uses": "echo", "needs": []}, {"id": "b", "uses": "echo", "queue": "other"}, {"id": "c", "uses": "echo"}]') \gset
select test.eq(array_agg(l.step), '{a}', 'of several that may start, a lease that asks for one gets one') from ordinaut.lease_work('w') as l;
select test.eq(array_agg(w.step || ' ' || w.queue order by w.step), '{"b other","c default"}', 'the others are due, each in its queue') from ordinaut.due_work as w;
-- What was defined when it was queued is what runs.
select ordinaut.create_task('t', p_pipeline => '[{"id": "old", "uses": "echo"}]');
select run_id as r from ordinaut.run_now('t') \gset
select ordinaut.update_task('t', '{"pipeline": [{"id": "new", "uses": "echo"}]}');
select ordinaut.start_run(:'r');
select test.eq(s.name, 'old', 'an edit changes no run that is queued') from ordinaut.step as s where s.run_id = :'r';
select test.throws('OR031', format('select ordinaut.start_run(%L)', :'r'), 'a run starts once');
rollback;
