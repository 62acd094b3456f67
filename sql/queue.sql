/*
 * Queues exist by being named.  A row appears only when somebody pauses or limits one.
 */

create or replace function ordinaut.pause_queue(p_queue text, p_note text default null)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  perform ordinaut._check_label('queue', p_queue);
  insert into ordinaut.queue as q (queue, paused_at, paused_by, note)
  values (p_queue, ordinaut.now(), ordinaut._actor(), p_note)
  on conflict on constraint queue_pk do update
  set
    paused_at = coalesce(q.paused_at, excluded.paused_at),
    paused_by = excluded.paused_by,
    note = excluded.note;
  perform ordinaut._journal('queue_paused', p_queue => p_queue,
    p_detail => jsonb_build_object('note', p_note));
end
$fn$;

comment on function ordinaut.pause_queue(text, text) is
  'Lease nothing more from a queue; what is leased goes on. Pausing twice is fine. Errors: '
  'invalid_parameter_value.';

create or replace function ordinaut.resume_queue(p_queue text, p_note text default null)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  perform ordinaut._check_label('queue', p_queue);
  update ordinaut.queue as q
  set
    paused_at = null,
    paused_by = null,
    note = null
  where q.queue = p_queue and q.paused_at is not null;
  if found then
    perform ordinaut._ask_sweep(p_queue);
    perform ordinaut._notify_idle(p_queue);
    perform ordinaut._journal('queue_resumed', p_queue => p_queue,
      p_detail => jsonb_build_object('note', p_note));
  end if;
end
$fn$;

comment on function ordinaut.resume_queue(text, text) is
  'Lease from a paused queue again. Resuming one that is not paused does nothing. Errors: '
  'invalid_parameter_value.';

create or replace function ordinaut.set_queue(
  p_queue        text,
  p_max_running  integer  default null,
  p_max_pending  integer  default null,
  p_ageing       interval default null
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  perform ordinaut._check_label('queue', p_queue);
  if p_max_running is not null then
    perform ordinaut._check_count('max_running', p_max_running, 0, 1000000);
  end if;
  if p_max_pending is not null then
    perform ordinaut._check_count('max_pending', p_max_pending, 0, 100000000);
  end if;
  perform ordinaut._check_span('ageing', p_ageing, '1 s', '365 days');

  insert into ordinaut.queue as q (queue, max_running, max_pending, ageing)
  values (p_queue, p_max_running, p_max_pending, p_ageing)
  on conflict on constraint queue_pk do update
  set
    max_running = excluded.max_running,
    max_pending = excluded.max_pending,
    ageing = excluded.ageing;
  perform ordinaut._journal('queue_set', p_queue => p_queue,
    p_detail => jsonb_build_object('max_running', p_max_running, 'max_pending', p_max_pending,
      'ageing', p_ageing));
  perform ordinaut._notify_idle(p_queue);
end
$fn$;

comment on function ordinaut.set_queue(text, integer, integer, interval) is
  'Set all limits of a queue at once; null: none. p_max_running bounds what is leased at once, '
  'p_max_pending what may wait, p_ageing raises the priority of what waits longer by one. '
  'Errors: invalid_parameter_value.';

-- Waiting work climbs one priority per p_ageing, so that a stream of urgent work cannot starve
-- it.  It keeps its place in line, which lies below the floors: hence the sweep.
create or replace function ordinaut._age_queues(p_limit integer)
returns bigint
language plpgsql
volatile
as $fn$
declare
  v_queue ordinaut.queue;
  v_item ordinaut.work_item;
  v_moved boolean;
  v_n bigint := 0;
begin
  for v_queue in
    select q.* from ordinaut.queue as q where q.ageing is not null and q.paused_at is null
  loop
    v_moved := false;
    for v_item in
      delete from ordinaut.due_work as w
      where w.ctid = any (array(
        select z.tid
        from generate_series(2, 9) as p (priority)
        cross join lateral (
          select y.ctid as tid
          from ordinaut.due_work as y
          where
            y.queue = v_queue.queue
            and y.priority = p.priority
            and y.run_at <= ordinaut.now() - v_queue.ageing
          order by y.run_at
          limit p_limit
          for update skip locked
        ) as z
        limit p_limit
      ))
      returning w.*
    loop
      v_item.priority := v_item.priority - 1;
      v_item.run_at := v_item.run_at + v_queue.ageing;
      perform ordinaut._put_due(array[v_item]);
      v_moved := true;
      v_n := v_n + 1;
    end loop;
    if v_moved then
      perform ordinaut._ask_sweep(v_queue.queue);
    end if;
  end loop;
  return v_n;
end
$fn$;

comment on function ordinaut._age_queues(integer) is
  'Raise by one the priority of work that waited longer than its queue''s ageing. Returns units '
  'moved.';
