/*
 * Pipelines: stored once by what they say, so a task, its queued runs and its running ones each
 * keep the definition that they have, whatever becomes of the task.
 *
 * A step is checked by pipeline_checks.sql; here, what joins it to the others.  Templates are read
 * by Python, before a client stores them and, for those of psql, by a planner within a second: one
 * that is none makes the tasks that use it invalid, as a calendar that is none does.
 */

create or replace function ordinaut._pipeline_id(p_definition jsonb)
returns uuid
language plpgsql
volatile
as $fn$
declare
  v_id uuid;
  v_n integer;
  v_steps jsonb[];
  v_names text[];
  v_rows ordinaut.pipeline_step[] := array[]::ordinaut.pipeline_step[];
begin
  if jsonb_typeof(p_definition) is distinct from 'array' then
    perform ordinaut._refuse('pipeline must be an array of steps',
      'For example [{"id": "fetch", "uses": "http", "with": {"url": "https://…"}}].');
  end if;
  v_n := jsonb_array_length(p_definition);
  if v_n > 1000 then
    perform ordinaut._refuse(format('a pipeline of %s steps: at most 1000', v_n),
      'A map makes many steps of one.');
  end if;
  v_id := md5(p_definition::text)::uuid;
  if ordinaut._hold_pipeline(v_id) then
    return v_id;
  end if;
  perform ordinaut._check_payload(p_definition);

  v_steps := array(
    select e.step from jsonb_array_elements(p_definition) with ordinality as e (step, n)
    order by e.n);
  v_names := array(
    select coalesce(u.step ->> 'id', 'step_' || u.n)
    from unnest(v_steps) with ordinality as u (step, n)
    order by u.n);
  for v_i in 1..v_n loop
    v_rows := v_rows || ordinaut._check_step(v_steps[v_i], v_i, v_names, v_id);
  end loop;
  perform ordinaut._check_names(v_rows);
  v_rows := ordinaut._join_steps(v_rows, v_steps, v_names);
  insert into ordinaut.pipeline (pipeline_id, definition, created_at)
  values (v_id, p_definition, ordinaut.now())
  on conflict on constraint pipeline_pk do nothing;
  if found then
    insert into ordinaut.pipeline_step
    select r.* from unnest(ordinaut._link_steps(v_rows, v_names)) as r;
  else
    perform ordinaut._hold_pipeline(v_id);
  end if;
  return v_id;
end
$fn$;

comment on function ordinaut._pipeline_id(jsonb) is
  'Check a definition, an array of steps, and store it; returns its id. The same content has the '
  'same id. Errors: invalid_parameter_value (the step is named), program_limit_exceeded.';

create or replace function ordinaut._check_step(
  p_step        jsonb,
  p_position    integer,
  p_names       text[],
  p_pipeline_id uuid
)
returns ordinaut.pipeline_step
language plpgsql
volatile
as $fn$
declare
  v_row ordinaut.pipeline_step;
  v_reason text;
  v_hint text;
  v_first constant integer := array_position(p_names, p_names[p_position]);
begin
  if jsonb_typeof(p_step) <> 'object' then
    perform ordinaut._refuse_step(p_position, null, 'a step must be an object',
      'For example {"id": "fetch", "uses": "http"}.');
  end if;
  begin
    v_row := ordinaut._compile_step(p_step, p_position, p_names[p_position]);
  exception
    when data_exception then
      get stacked diagnostics v_reason = message_text, v_hint = pg_exception_hint;
  end;
  if v_reason is not null then
    perform ordinaut._refuse_step(p_position, p_names[p_position], v_reason, nullif(v_hint, ''));
  elsif v_first < p_position then
    perform ordinaut._refuse_step(p_position, p_names[p_position],
      format('its id is that of step %s', v_first));
  end if;
  v_row.pipeline_id := p_pipeline_id;
  return v_row;
end
$fn$;

comment on function ordinaut._check_step(jsonb, integer, text[], uuid) is
  'One step as a row, refused by its position and id. Errors: invalid_parameter_value.';

-- Under steps, an output has two names: neither may be another's.
create or replace function ordinaut._check_names(p_rows ordinaut.pipeline_step[])
returns void
language plpgsql
volatile
as $fn$
declare
  v_clash record;
begin
  select r.position, r.name, r.save_as, o.position as other, o.name = r.save_as as is_id
  into v_clash
  from unnest(p_rows) as r
  join unnest(p_rows) as o
    on (o.name = r.save_as and o.position <> r.position)
    or (o.save_as = r.save_as and o.position < r.position)
  where r.save_as is not null
  order by r.position, o.position
  limit 1;
  if found then
    perform ordinaut._refuse_step(v_clash.position, v_clash.name,
      format('save_as %s is the %s of step %s', v_clash.save_as,
        case when v_clash.is_id then 'id' else 'save_as' end, v_clash.other));
  end if;
end
$fn$;

comment on function ordinaut._check_names(ordinaut.pipeline_step[]) is
  'Refuse two outputs of one name. Errors: invalid_parameter_value.';

create or replace function ordinaut._join_steps(
  p_rows  ordinaut.pipeline_step[],
  p_steps jsonb[],
  p_names text[]
)
returns ordinaut.pipeline_step[]
language plpgsql
volatile
as $fn$
declare
  v_rows ordinaut.pipeline_step[] := p_rows;
  v_row ordinaut.pipeline_step;
  v_is_dag constant boolean := exists (
    select from unnest(p_steps) as s (step) where s.step ? 'needs');
begin
  for v_i in 1..cardinality(p_rows) loop
    v_row := v_rows[v_i];
    v_row.needs := case
      when v_is_dag then ordinaut._needs_of(p_steps[v_i] -> 'needs', v_i, p_names)
      when v_i = 1 then '{}'::integer[]
      else array[v_i - 1]
    end;
    v_rows[v_i] := v_row;
  end loop;
  return v_rows;
end
$fn$;

comment on function ordinaut._join_steps(ordinaut.pipeline_step[], jsonb[], text[]) is
  'Steps with what each needs: the one before, if none of them says. Errors: '
  'invalid_parameter_value.';

create or replace function ordinaut._needs_of(p_needs jsonb, p_position integer, p_names text[])
returns integer[]
language plpgsql
volatile
as $fn$
declare
  v_need text;
  v_at integer;
  v_needs integer[] := array[]::integer[];
begin
  if jsonb_typeof(p_needs) = 'string' then
    p_needs := jsonb_build_array(p_needs);
  end if;
  for v_need in
    select e.need from jsonb_array_elements_text(coalesce(p_needs, '[]')) as e (need)
  loop
    v_at := array_position(p_names, v_need);
    if v_at is null then
      perform ordinaut._refuse_step(p_position, p_names[p_position],
        format('it needs %L, which is no step', left(v_need, 63)),
        'needs has ids of steps of this pipeline.');
    elsif v_at = p_position then
      perform ordinaut._refuse_step(p_position, p_names[p_position], 'it needs itself');
    elsif v_at = any (v_needs) then
      perform ordinaut._refuse_step(p_position, p_names[p_position],
        format('it needs %L twice', v_need));
    end if;
    v_needs := v_needs || v_at;
  end loop;
  return v_needs;
end
$fn$;

comment on function ordinaut._needs_of(jsonb, integer, text[]) is
  'The positions of the steps that a step needs. Errors: invalid_parameter_value.';

/* Followers and levels, in an order in which every step comes after those that it needs; what is
   left over is in a cycle.  The steps before each are kept as bits: a read of any other would be a
   race. */
create or replace function ordinaut._link_steps(
  p_rows  ordinaut.pipeline_step[],
  p_names text[]
)
returns ordinaut.pipeline_step[]
language plpgsql
immutable
as $fn$
declare
  v_n constant integer := cardinality(p_rows);
  v_rows ordinaut.pipeline_step[] := p_rows;
  v_row ordinaut.pipeline_step;
  v_next ordinaut.pipeline_step;
  v_left integer[] := array_fill(0, array[v_n]);
  v_before varbit[] := array_fill(repeat('0', v_n)::varbit, array[v_n]);
  v_order integer[] := array[]::integer[];
  v_saved constant text[] := array(select r.save_as from unnest(p_rows) as r order by r.position);
  v_followers integer[];
  v_at integer;
  v_done integer := 0;
  v_cycle integer[] := array[]::integer[];
begin
  for v_row in
    select r.* from unnest(p_rows) as r order by r.position
  loop
    v_left[v_row.position] := cardinality(v_row.needs);
    if v_left[v_row.position] = 0 then
      v_order := v_order || v_row.position;
    end if;
    v_row.level := 0;
    v_row.followers := '{}';
    v_rows[v_row.position] := v_row;
  end loop;
  -- By need, in one pass: looking for each among all would be a million looks.
  for v_at, v_followers in
    select n.need, array_agg(r.position order by r.position)
    from unnest(p_rows) as r
    cross join unnest(r.needs) as n (need)
    group by n.need
  loop
    v_row := v_rows[v_at];
    v_row.followers := v_followers;
    v_rows[v_at] := v_row;
  end loop;

  while v_done < cardinality(v_order) loop
    v_done := v_done + 1;
    v_row := v_rows[v_order[v_done]];
    foreach v_at in array v_row.followers loop
      v_next := v_rows[v_at];
      v_next.level := v_row.level + 1;  -- of its last need, which is the deepest
      v_rows[v_at] := v_next;
      v_before[v_at] := set_bit(
        v_before[v_at] | v_before[v_row.position], v_row.position - 1, 1)::varbit;
      v_left[v_at] := v_left[v_at] - 1;
      if v_left[v_at] = 0 then
        v_order := v_order || v_at;
      end if;
    end loop;
  end loop;
  if v_done < v_n then
    v_at := (select min(i.n) from generate_series(1, v_n) as i (n) where v_left[i.n] > 0);
    while v_at <> all (v_cycle) loop
      v_cycle := v_cycle || v_at;
      v_at := (
        select min(d.need) from unnest((v_rows[v_at]).needs) as d (need) where v_left[d.need] > 0);
    end loop;
    v_cycle := v_cycle[array_position(v_cycle, v_at):] || v_at;
    perform ordinaut._refuse_step(v_at, p_names[v_at], 'its needs are a cycle: ' || (
      select string_agg(p_names[c.at], ' -> ' order by c.n)
      from unnest(v_cycle) with ordinality as c (at, n)), 'A step starts when all that it needs '
      'have ended.');
  end if;

  for v_i in 1..v_n loop
    v_row := v_rows[v_i];
    v_row.reads := ordinaut._reads_of(v_row, p_names, v_saved, v_before[v_i]);
    v_rows[v_i] := v_row;
  end loop;
  return v_rows;
end
$fn$;

comment on function ordinaut._link_steps(ordinaut.pipeline_step[], text[]) is
  'Steps with their followers, levels and reads. Errors: invalid_parameter_value (a cycle, a '
  'read of a step that does not come before).';

create or replace function ordinaut._reads_of(
  p_row    ordinaut.pipeline_step,
  p_names  text[],
  p_saved  text[],
  p_before varbit
)
returns integer[]
language plpgsql
immutable
as $fn$
declare
  v_names text[] := coalesce(ordinaut._step_reads(p_row.body), '{}');
  v_name text;
  v_at integer;
  v_reads integer[] := array[]::integer[];
begin
  foreach v_name in array v_names loop
    if v_name is null then
      return null;
    end if;
    v_at := coalesce(array_position(p_names, v_name), array_position(p_saved, v_name));
    if v_at is null then
      perform ordinaut._refuse_step(p_row.position, p_row.name,
        format('it reads steps.%s, which is no step', left(v_name, 63)));
    elsif get_bit(p_before, v_at - 1) = 0 then
      perform ordinaut._refuse_step(p_row.position, p_row.name,
        case
          when v_at = p_row.position then format('it reads steps.%s, its own output', v_name)
          else format('it reads steps.%s, which it does not need', v_name)
        end,
        'Only what a step needs, directly or not, has ended when it starts.');
    end if;
    v_reads := v_reads || v_at;
  end loop;
  return v_reads;
end
$fn$;

comment on function ordinaut._reads_of(ordinaut.pipeline_step, text[], text[], varbit) is
  'The positions whose outputs a step reads; null: all before it. Errors: '
  'invalid_parameter_value.';
