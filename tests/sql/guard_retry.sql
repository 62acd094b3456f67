-- A retry takes the runs that its filter names, each once, and leaves the others.
\ir _begin.sql

create function test.ended(p_tool text, p_queue text, p_outcome text, p_payload jsonb default '{}')
returns uuid
language plpgsql
as $fn$
declare
  v_run_id uuid;
  v_lease_id uuid;
begin
  select e.run_id into v_run_id
  from ordinaut.enqueue(p_tool, p_payload, p_queue, p_max_attempts => 1) as e;
  select l.lease_id into v_lease_id from ordinaut.lease_work('w', p_queue) as l;
  if p_outcome = 'success' then
    perform ordinaut.complete_work(v_lease_id);
  else
    perform ordinaut._settle_alone(v_lease_id, v_run_id, p_outcome, null, '{"message": "no"}');
  end if;
  return v_run_id;
end
$fn$;

create function test.retried(p_arguments text)
returns uuid[]
language plpgsql
as $fn$
declare
  v_ids uuid[];
begin
  -- Looks, and takes it back.
  begin
    execute format('select array_agg(r.run_id order by r.run_id) from ordinaut.retry_run(%s) as r',
      p_arguments) into v_ids;
    raise exception using errcode = 'UNDO1';
  exception when sqlstate 'UNDO1' then
    return v_ids;
  end;
end
$fn$;

select test.ended('a', 'q1', 'failed') as a1 \gset
select test.travel('1 s');
select test.ended('b', 'q1', 'failed') as b1 \gset
select test.travel('59 s');
select test.ended('a', 'q2', 'failed') as a2 \gset
select test.ended('a', 'q2', 'timed_out') as t2 \gset
select test.ended('a', 'q2', 'success') as s2 \gset
select test.travel('1 min');
select ordinaut.create_task('job', 'a', p_queue => 'q3', p_max_attempts => 1) as job \gset
select ordinaut.create_task('other', 'a', p_queue => 'q3', p_max_attempts => 1) as other \gset
select run_id as j3 from ordinaut.run_now('job') \gset
select ordinaut.fail_work(lease_id) from ordinaut.lease_work('w', 'q3') as l;
select run_id as o3 from ordinaut.run_now('other') \gset
select ordinaut.fail_work(lease_id) from ordinaut.lease_work('w', 'q3') as l;

select test.throws('22023', 'select ordinaut.retry_run()', 'a retry of everything is refused');
select test.throws('22023', $$select ordinaut.retry_run(p_queue => 'q1', p_state => 'success')$$,
  'what succeeded cannot be meant');
select test.throws('22023', $$select ordinaut.retry_run(p_queue => 'q1', p_state => null)$$,
  'nor can no state');
select test.throws('22023', $$select ordinaut.retry_run(p_queue => 'q1', p_limit => 0)$$,
  'nor can a limit of nothing');

select ordinaut.enqueue('a', p_queue => 'q9', p_key => 'retry:' || :'b1') as e \gset
select count(*) from ordinaut.lease_work('w', 'q9');
select test.eq(test.retried($$p_queue => 'q1'$$), array[:'a1', :'b1']::uuid[], 'by queue');
select test.eq(test.retried($$p_tool => 'b'$$), array[:'b1']::uuid[], 'by tool');
select test.eq(test.retried($$p_tool => 'a', p_queue => 'q2'$$), array[:'a2']::uuid[],
  'by both, and failed ones alone');
select test.eq(test.retried($$p_queue => 'q2', p_state => 'timed_out'$$), array[:'t2']::uuid[],
  'by state');
select test.eq(test.retried($$p_task => 'job'$$), array[:'j3']::uuid[], 'by task');
select test.eq(test.retried($$p_since => '2026-03-27 12:01:00+00', p_until => '2026-03-27 12:02:00+00'$$),
  array[:'a2']::uuid[], 'from an instant, which counts, to one that does not');
select test.eq(test.retried($$p_queue => 'q1', p_limit => 1$$), array[:'a1']::uuid[], 'oldest first');

select retried_as as again from ordinaut.retry_run(:'a1', p_note => 'once more') \gset
select test.eq(
  (select (r.retry_of, r.state, r.queue, r.attempt)::text from ordinaut.get_run(:'again') as r),
  format('(%s,pending,q1,0)', :'a1'), 'a retry is a new run');
select test.eq(
  (select (r.retried_as, r.outcome)::text from ordinaut.retry_run(:'a1') as r),
  format('(%s,existing)', :'again'), 'and there is one');
select test.eq(test.retried($$p_queue => 'q1'$$), array[:'b1']::uuid[], 'the filter leaves it out');

select test.throws('OR020', $$select ordinaut.retry_run(gen_random_uuid())$$, 'no such run');
select test.throws('OR031', format('select ordinaut.retry_run(%L)', :'again'), 'it has not ended');
select test.throws('OR031', format('select ordinaut.retry_run(%L)', :'s2'), 'it succeeded');

-- A payload too long for its row is in a place of its own.
select jsonb_build_object('x', string_agg(md5(n::text), '')) as long from generate_series(1, 200) as n \gset
select run_id as bystander from ordinaut.enqueue('a', :'long', 'q5') \gset
select test.ended('a', 'q4', 'failed', :'long') as big \gset
select test.ended('a', 'q4', 'failed', '{"x": 1}') as small \gset
select retried_as as big_again from ordinaut.retry_run(:'big') \gset
select retried_as as small_again from ordinaut.retry_run(:'small') \gset
select test.eq((select count(*) from ordinaut.payload as b where b.run_id = :'small_again'), 0,
  'a short one stays in its row');
select test.eq(
  (select count(*) from ordinaut.lease_work('w', 'q4', 10) as l
   where l.payload = (select r.payload from ordinaut.get_run(:'big') as r)
     or l.payload = '{"x": 1}'), 2, 'and the retries get what their runs got');

rollback;
