-- A task that is due while a run of it is live does what its overlap policy says.
\ir _begin.sql

create function test.task(p_overlap text, p_catchup text default 'all') returns uuid
language sql
as $fn$
  select ordinaut.create_task(p_overlap, 'echo', p_schedule_kind => 'interval',
    p_schedule_expr => '1 min', p_queue => p_overlap, p_overlap => p_overlap,
    p_catchup => p_catchup, p_grace => '1 day');
$fn$;
create function test.decisions(p_name text) returns text
language sql
as $fn$
  select string_agg(o.decision, ' ' order by o.scheduled_for)
  from ordinaut.occurrence as o
  join ordinaut.task as t on t.task_id = o.task_id
  where t.name = p_name;
$fn$;
create function test.start(p_queue text) returns text
language sql
as $fn$
  select coalesce(string_agg(to_char(l.scheduled_for, 'MI'), ' ' order by l.scheduled_for), 'none')
  from ordinaut.lease_work('me', p_queue, 9, '1 day') as l;
$fn$;
create function test.finish(p_queue text) returns bigint
language sql
as $fn$
  select count(*) from ordinaut.work as w
  cross join lateral ordinaut.complete_work(w.lease_id, w.work_id)
  where w.queue = p_queue and w.status = 'running';
$fn$;

select test.task(o) from unnest(array['allow', 'skip', 'buffer_one', 'buffer_all', 'cancel_other']) as o;
select test.throws('22023', $$select test.task('double')$$, 'an unknown policy');
select test.throws('22023', $$select ordinaut.create_task('k', 'echo', p_overlap => 'skip',
  p_key => 'k', p_key_limit => 2)$$, 'a key that lets them overlap');
select to_char(ordinaut.now(), 'MI')::integer as m \gset

-- The first runs, and takes four minutes.
select test.travel('1 min');
select test.eq((select fired from ordinaut.tick()), 5, 'the first of each fires');
select test.start(o) from unnest(array['allow', 'skip', 'buffer_one', 'buffer_all', 'cancel_other']) as o;
select test.travel('1 min');
select count(*) from ordinaut.tick();
select test.travel('1 min');
select count(*) from ordinaut.tick();
select test.eq(test.decisions('allow'), 'fired fired fired', 'allow: beside each other');
select test.eq(test.decisions('skip'), 'fired skipped skipped', 'skip: not while it is live');
select test.eq(test.decisions('buffer_one'), 'fired buffered dropped', 'buffer_one: one waits');
select test.eq(test.decisions('buffer_all'), 'fired buffered buffered', 'buffer_all: they wait');
select test.eq(test.decisions('cancel_other'), 'fired fired fired', 'cancel_other: it is replaced');
select test.eq((select array[s.skipped_count, s.buffered_count, s.dropped_count]
  from ordinaut.get_task('buffer_one') as s), array[0, 1, 1]::bigint[], 'and is counted');
select test.eq(string_agg(w.reason, ', ' order by w.reason), 'overlap skip: an earlier run is live',
  'every one has a reason')
from (select distinct o.reason from ordinaut.occurrence as o where o.decision = 'skipped') as w;

-- Nothing that waits starts beside the live one.
select test.eq(test.start('allow') <> 'none', true, 'allow starts');
select test.eq(test.start(o), 'none', o || ' waits')
from unnest(array['skip', 'buffer_one', 'buffer_all', 'cancel_other']) as o;
select test.eq((select count(*) from ordinaut.cancel_request), 1::bigint, 'the live one is asked to stop');
select test.eq((select state from ordinaut.list_runs('cancel_other') offset 1 limit 1), 'cancelled',
  'the one that waited is cancelled');
select test.eq((select reason from ordinaut.why('buffer_all') where reason <> 'no_worker' limit 1),
  'not_due', 'why');
select test.eq((select count(*) from ordinaut.why('skip') where reason = 'skipped'), 2::bigint,
  'why tells of what was skipped');

-- It ends: the next in line starts, the oldest first.
select test.finish(o) from unnest(array['skip', 'buffer_one', 'buffer_all', 'cancel_other']) as o;
select test.travel('20 ms');
select test.eq(test.start('skip'), 'none', 'skip has nothing');
select test.eq(test.start('buffer_one'), lpad((:m + 2)::text, 2, '0'), 'the one that waited');
select test.eq(test.start('buffer_all'), lpad((:m + 2)::text, 2, '0'), 'the first in line');
select test.eq(test.start('cancel_other'), lpad((:m + 3)::text, 2, '0'), 'the newest');

-- A run by hand waits too.
select count(*) from ordinaut.run_now('buffer_all');
select test.finish('buffer_all');
select test.travel('20 ms');
select test.eq(test.start('buffer_all'), lpad((:m + 3)::text, 2, '0'), 'the line goes on');
select test.finish('buffer_all');
select test.travel('20 ms');
select test.eq((select count(*) from ordinaut.lease_work('me', 'buffer_all', 9)), 1::bigint,
  'the run by hand is last');

rollback;
