-- A tick fires what is due, by each task's policy, once, and delays nothing else.
\ir _begin.sql

create function test.work(p_queue text)
returns text[]
language sql
as $fn$
  select coalesce(array_agg(w.tool || ' ' || to_char(w.scheduled_for at time zone 'UTC', 'HH24:MI:SS') order by w.run_at, w.scheduled_for), '{}')
  from ordinaut.due_work as w where w.queue = p_queue;
$fn$;

create function test.decided(p_task uuid)
returns text[]
language sql
as $fn$
  select array_agg(o.decision || ' ' || to_char(o.scheduled_for at time zone 'UTC', 'HH24:MI:SS') || coalesce(' ' || left(o.reason, 14), '')
    order by o.scheduled_for)
  from ordinaut.occurrence as o where o.task_id = p_task;
$fn$;

create function test.tick(p_limit integer default 1000, p_floor timestamptz default null)
returns text
language sql
as $fn$
  select t.fired || ' ' || t.missed || ' ' || coalesce(extract(epoch from t.next_run - ordinaut.now())::integer::text, 'never')
  from ordinaut.tick(p_limit, p_floor) as t;
$fn$;

select ordinaut.create_task('all', 'a', p_schedule_kind => 'interval', p_schedule_expr => '10 s', p_queue => 'all', p_catchup => 'all',
  p_start_at => ordinaut.now() + interval '10 s') as all_id \gset
select ordinaut.create_task('latest', 'l', p_schedule_kind => 'interval', p_schedule_expr => '10 s', p_queue => 'latest',
  p_start_at => ordinaut.now() + interval '10 s') as latest_id \gset
select ordinaut.create_task('none', 'n', p_schedule_kind => 'interval', p_schedule_expr => '10 s', p_queue => 'none', p_catchup => 'none',
  p_grace => '10 s', p_start_at => ordinaut.now() + interval '10 s') as none_id \gset
select ordinaut.create_task('once', 'o', p_schedule_kind => 'once', p_schedule_expr => '2026-03-27 12:00:20+00', p_queue => 'once') as once_id \gset
select ordinaut.create_task('ends', 'e', p_schedule_kind => 'interval', p_schedule_expr => '10 s', p_queue => 'ends', p_catchup => 'all',
  p_start_at => ordinaut.now() + interval '10 s', p_end_at => ordinaut.now() + interval '20 s') as ends_id \gset
select ordinaut.create_task('later', 'z', p_schedule_kind => 'interval', p_schedule_expr => '1 h', p_queue => 'later',
  p_start_at => ordinaut.now() + interval '1 h') as later_id \gset

select test.eq(test.tick(), '0 0 10', 'nothing is due, for ten seconds');
select test.travel('9.999 s');
select test.eq(test.tick(), '0 0 0', 'a moment early is too early');
select test.travel('0.001 s');
select test.eq(test.tick(), '4 0 10', 'at its time it fires');
select test.eq(test.tick(), '0 0 10', 'once');
select test.eq((select array_agg((s.fired_count, s.missed_count)::text order by s.next_run) from ordinaut.task_schedule as s
  where s.task_id = :'all_id'), array['(1,0)'], 'and is counted');

-- Late by three: each by its policy.
select test.travel('35 s');
select test.eq(test.tick(), '7 4 5', 'what was missed is made up for, or noted');
select test.eq(test.work('all'), array['a 12:00:10', 'a 12:00:20', 'a 12:00:30', 'a 12:00:40'], 'all: all of them, oldest first');
select test.eq(test.work('latest'), array['l 12:00:10', 'l 12:00:40'], 'latest: the latest');
select test.eq(test.work('none'), array['n 12:00:10', 'n 12:00:40'], 'none: what is not older than its grace');
select test.eq(test.work('once'), array['o 12:00:20'], 'once: late, and once');
select test.eq(test.work('ends'), array['e 12:00:10', 'e 12:00:20'], 'ended: none after its end');
select test.eq(test.work('later'), '{}', 'later: not yet');
select test.eq(test.decided(:'latest_id'), array['fired 12:00:10', 'missed 12:00:20 catchup latest', 'missed 12:00:30 catchup latest',
  'fired 12:00:40'], 'what was not fired has its reason');
select test.eq(test.decided(:'none_id'), array['fired 12:00:10', 'missed 12:00:20 catchup none: ', 'missed 12:00:30 catchup none: ',
  'fired 12:00:40'], 'each its own');
select test.eq((select array_agg(t.name || ' ' || t.status order by t.name) from ordinaut.task as t),
  array['all active', 'ends completed', 'later active', 'latest active', 'none active', 'once completed'], 'who has no more is done');
select test.eq((select array_agg((t.name, s.fired_count, s.missed_count)::text order by t.name) from ordinaut.task_schedule as s
  join ordinaut.task as t on t.task_id = s.task_id),
  array['(all,4,0)', '(ends,2,0)', '(later,0,0)', '(latest,2,2)', '(none,2,2)', '(once,1,0)'], 'counted for each');
select test.eq((select count(*) from ordinaut.occurrence as o where o.decision = 'fired' and o.run_id is null
  or o.decision = 'missed' and o.run_id is not null), 0, 'what fired has a run, what did not has none');
select test.eq((select array_agg(distinct s.last_run = ordinaut.now()) from ordinaut.task_schedule as s
  where s.last_run is not null), array[true], 'its last run is now');
select test.ok((select s.last_run is null from ordinaut.task_schedule as s where s.task_id = :'later_id'), 'or never was');

-- Nothing but misses: no run, and the last one stays the last.
update ordinaut.task as t set grace = '1 s', status = case when t.name = 'none' then t.status else 'paused' end
  where t.name in ('all', 'latest', 'none');
select test.travel('12 s');
select test.eq(test.tick(), '0 1 -7', 'a miss');
select test.ok((select s.last_run < ordinaut.now() from ordinaut.task_schedule as s where s.task_id = :'none_id'), 'is no run');
select test.eq(test.work('all'), array['a 12:00:10', 'a 12:00:20', 'a 12:00:30', 'a 12:00:40'], 'who is paused does not fire');
update ordinaut.task as t set status = 'active' where t.status = 'paused';
update ordinaut.task as t set grace = '60 s', revision = t.revision + 1 where t.task_id = :'all_id';
select test.travel('1 s');
select test.eq(test.tick(), '1 0 -8', 'nor who was edited and not planned anew');
update ordinaut.task_schedule as s set revision = t.revision from ordinaut.task as t where t.task_id = s.task_id;

-- The floor, and the limit.
select test.eq(test.tick(1, ordinaut.now()), '0 0 2', 'below the floor nothing is looked for');
select test.eq((select k.floor from ordinaut.tick(1, ordinaut.now() + interval '3 h') as k), ordinaut.now() - interval '10 s', 'nor missed');
select test.throws('22023', 'select ordinaut.tick(0)', 'a limit of nothing');
select test.travel('20 s');
select ordinaut.tick(1, ordinaut.now() - interval '1 h') \gset t_
select test.ok((select count(distinct s.task_id) = 1 from ordinaut.occurrence as s where s.decided_at = ordinaut.now()), 'one task at a time');
select test.ok((select k.floor = ordinaut.now() - interval '1 h' from ordinaut.tick(1, ordinaut.now() - interval '1 h') as k),
  'while more are due the floor stays');
select test.ok((select k.floor = ordinaut.now() - interval '10 s' from ordinaut.tick() as k), 'then it rises');

-- An occurrence decided before is not fired again.
insert into ordinaut.occurrence (task_id, scheduled_for, decision, decided_at)
values (:'later_id', '2026-03-27 13:00:00+00', 'missed', ordinaut.now());
update ordinaut.task as t set status = 'paused' where t.name in ('all', 'latest', 'none');
select test.travel('1 h');
select test.eq(split_part(test.tick(), ' ', 1), '0', 'it was decided');
select test.eq(test.work('later'), '{}', 'and stays so');

-- Long payloads and keys go with the run.
update ordinaut.task as t set status = 'paused' where t.name = 'later';
select jsonb_build_object('x', string_agg(md5(n::text), '')) as long from generate_series(1, 200) as n \gset
select ordinaut.create_task('long', 'b', :'long', 'once', '2026-03-27 14:00:00+00', p_queue => 'body', p_key => 'k', p_key_limit => 2) as i,
  ordinaut.create_task('short', 'b', '{"x": 1}', 'once', '2026-03-27 14:00:01+00', p_queue => 'body') as j \gset
select test.travel('2 h');
select test.tick();
select test.eq((select array_agg(w.key || w.key_limit) from ordinaut.due_work as w where w.queue = 'body' and (w.key is not null or w.key_limit is not null)),
  array['k2'], 'a key, and its limit') ;
select test.eq((select array_agg(l.payload order by l.scheduled_for) from ordinaut.lease_work('w', 'body', 9) as l),
  array[:'long'::jsonb, '{"x": 1}'], 'payloads, each its own');
select test.eq((select count(*) from ordinaut.payload), 1, 'the long one in its place');

-- One that cannot fire ends as invalid, and delays nobody.
select ordinaut.create_task('good', 'g', p_schedule_kind => 'interval', p_schedule_expr => '1 h', p_queue => 'good',
  p_start_at => ordinaut.now() + interval '10 s') as good_id,
  ordinaut.create_task('bad', 'g', p_schedule_kind => 'interval', p_schedule_expr => '1 h', p_queue => 'good',
  p_start_at => ordinaut.now() + interval '10 s') as bad_id \gset
update ordinaut.task as t set schedule_expr = 'soon' where t.task_id = :'bad_id';
select test.travel('10 s');
select test.tick();
select test.eq((select array_agg(t.name || ' ' || t.status order by t.name) from ordinaut.task as t where t.name in ('good', 'bad')),
  array['bad invalid', 'good active'], 'the bad is told');
select test.eq(array_length(test.work('good'), 1), 1, 'the good fires');
select test.eq((select count(*) from ordinaut.task as t where t.status = 'invalid'), 1, 'nobody else is');
select test.eq((select array_agg(s.task_id) from ordinaut.task_schedule as s join ordinaut.task as t on t.task_id = s.task_id
  where s.next_run is null and t.status not in ('completed')), array[:'bad_id']::uuid[], 'and it is planned no more');

rollback;
