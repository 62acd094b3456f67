/*
 * Pipelines: what people write, checked and compiled once.
 *
 * A pipeline is named by its content, so a task, its queued runs and its running ones each keep the
 * definition that they have, whatever becomes of the task.  JMESPath inside ${…} and `if` is read
 * by Python (template.py); everything else is decided here.
 */

create or replace function ordinaut._refuse_step(p_position bigint, p_name text, p_message text)
returns void
language plpgsql
volatile
as $fn$
begin
  perform ordinaut._refuse(
    format('step %s (%s): %s', p_position, coalesce(left(p_name, 63), '?'), p_message));
end
$fn$;

comment on function ordinaut._refuse_step(bigint, text, text) is
  'Refuse a step of a pipeline. Errors: invalid_parameter_value.';

-- A duration of a definition: a number of seconds, or what interval reads.
create or replace function ordinaut._span_of(p_value jsonb)
returns interval
language sql
immutable
as $fn$
  select case jsonb_typeof(p_value)
    when 'number' then least((p_value #>> '{}')::float8, 1e10) * interval '1 s'
    else (p_value #>> '{}')::interval
  end;
$fn$;

comment on function ordinaut._span_of(jsonb) is 'A duration as people write it in JSON.';

create or replace function ordinaut._check_types(p_object jsonb, p_types jsonb)
returns void
language plpgsql
immutable
as $fn$
declare
  v_key text;
  v_value jsonb;
begin
  for v_key, v_value in select e.key, e.value from jsonb_each(p_object) as e loop
    if p_types -> v_key is null then
      perform ordinaut._refuse(format('unknown key %L; known are %s', left(v_key, 60), (
        select string_agg(k.key, ', ' order by k.key) from jsonb_object_keys(p_types) as k (key))));
    elsif not p_types -> v_key ? jsonb_typeof(v_value) then
      perform ordinaut._refuse(format('%s must be %s, not %s', v_key, (
          select string_agg(t.type, ' or ') from jsonb_array_elements_text(p_types -> v_key)
            as t (type)),
        jsonb_typeof(v_value)));
    end if;
  end loop;
end
$fn$;

comment on function ordinaut._check_types(jsonb, jsonb) is
  'Refuse keys that are not in p_types, and values of another type than it says. Errors: '
  'invalid_parameter_value.';

-- What can be said of a template without reading JMESPath.
create or replace function ordinaut._check_templates(p_value jsonb)
returns void
language plpgsql
immutable
as $fn$
declare
  v_text text;
begin
  for v_text in
    select s.text #>> '{}'
    from jsonb_path_query(p_value, 'strict $.** ? (@.type() == "string")') as s (text)
    where s.text #>> '{}' like '%${%'
  loop
    if v_text ~ '\$\{\s*\}' then
      perform ordinaut._refuse(format('an empty ${} in %L', left(v_text, 100)));
    elsif v_text ~ '\$\{[^}]*$' then
      perform ordinaut._refuse(format('a ${ without its } in %L', left(v_text, 100)));
    end if;
  end loop;
end
$fn$;

comment on function ordinaut._check_templates(jsonb) is
  'Refuse ${} that are empty or not closed. Errors: invalid_parameter_value.';

create or replace function ordinaut._compile_step(
  p_step     jsonb,
  p_position bigint,
  p_name     text
)
returns ordinaut.pipeline_step
language plpgsql
immutable
as $fn$
declare
  v_row ordinaut.pipeline_step;
  v_templates jsonb;
  v_undo jsonb := p_step -> 'on_rollback';
begin
  if length(p_name) > 63 or p_name !~ '^[A-Za-z_][A-Za-z0-9_-]*$' then
    perform ordinaut._refuse(format('id %L is not a name: letters, digits, _ and -, a letter or _ '
      'first, at most 63', left(p_name, 80)));
  end if;
  perform ordinaut._check_types(p_step, '{"id": ["string"], "uses": ["string"],
    "with": ["object"], "needs": ["array", "string"], "if": ["string"], "save_as": ["string"],
    "retry_count": ["number"], "retry": ["object"], "timeout": ["number", "string"],
    "timeout_seconds": ["number"], "queue": ["string"], "priority": ["number"],
    "on_rollback": ["object"], "continue_on_error": ["boolean"], "skip_with_needs": ["boolean"],
    "map": ["object"], "input_schema": ["object"], "output_schema": ["object"]}');
  if btrim(p_step ->> 'uses') is distinct from p_step ->> 'uses' or p_step ->> 'uses' = '' then
    perform ordinaut._refuse('uses is missing: it names the tool');
  end if;
  perform ordinaut._check_tool(p_step ->> 'uses');
  if btrim(p_step ->> 'save_as') = '' or length(p_step ->> 'save_as') > 63 then
    perform ordinaut._refuse('save_as must be a name of 1 to 63 characters');
  elsif btrim(p_step ->> 'if') = '' then
    perform ordinaut._refuse('if is blank');
  elsif p_step ? 'timeout' and p_step ? 'timeout_seconds' then
    perform ordinaut._refuse('timeout and timeout_seconds say the same: give one');
  elsif p_step ? 'retry_count' and p_step -> 'retry' ? 'max_attempts' then
    perform ordinaut._refuse('retry_count and retry.max_attempts say the same: give one');
  end if;

  v_row.position := p_position;
  v_row.name := p_name;
  v_row.tool := p_step ->> 'uses';
  v_row.save_as := p_step ->> 'save_as';
  v_row.queue := p_step ->> 'queue';
  if v_row.queue is not null then
    perform ordinaut._check_label('queue', v_row.queue);
  end if;
  v_row.priority := (p_step ->> 'priority')::numeric::integer;
  if v_row.priority is not null then
    perform ordinaut._check_count('priority', v_row.priority::integer, 1, 9);
  end if;
  v_row.timeout := ordinaut._span_of(coalesce(p_step -> 'timeout', p_step -> 'timeout_seconds'));
  perform ordinaut._check_span('timeout', v_row.timeout, '1 ms', '30 days');
  v_row.max_attempts := coalesce(
    (p_step ->> 'retry_count')::numeric::integer,
    (p_step -> 'retry' ->> 'max_attempts')::numeric::integer, 3);
  perform ordinaut._check_count('retry_count', v_row.max_attempts::integer, 1, 100);
  v_row.retry := nullif((p_step -> 'retry') - 'max_attempts'::text, '{}');
  perform ordinaut._check_retry(v_row.retry);
  v_row.continue_on_error := coalesce((p_step ->> 'continue_on_error')::boolean, false);
  v_row.skip_with_needs := coalesce((p_step ->> 'skip_with_needs')::boolean, false);

  if p_step ? 'map' then
    perform ordinaut._check_types(p_step -> 'map', '{"over": ["string", "array"],
      "as": ["string"], "max_parallel": ["number"], "on_failure": ["string"],
      "tolerate": ["number"]}');
    if not p_step -> 'map' ? 'over' then
      perform ordinaut._refuse('map.over is missing: the list to map over');
    elsif p_step -> 'map' ->> 'as' !~ '^[A-Za-z_][A-Za-z0-9_]*$'
      or p_step -> 'map' ->> 'as' in ('params', 'steps', 'run', 'now', 'index')
    then
      perform ordinaut._refuse(
        format('map.as %L cannot name the item', left(p_step -> 'map' ->> 'as', 60)));
    elsif p_step -> 'map' ->> 'on_failure' not in ('fail', 'continue') then
      perform ordinaut._refuse('map.on_failure must be fail or continue');
    end if;
    perform ordinaut._check_count('map.max_parallel',
      coalesce((p_step -> 'map' ->> 'max_parallel')::numeric::integer, 1), 1, 10000);
    perform ordinaut._check_count('map.tolerate',
      coalesce((p_step -> 'map' ->> 'tolerate')::numeric::integer, 0), 0, 10000);
  end if;
  if v_undo is not null then
    perform ordinaut._check_types(v_undo, '{"uses": ["string"], "with": ["object"],
      "timeout": ["number", "string"], "retry_count": ["number"]}');
    perform ordinaut._check_tool(v_undo ->> 'uses');
    perform ordinaut._check_span(
      'on_rollback.timeout', ordinaut._span_of(v_undo -> 'timeout'), '1 ms', '30 days');
    perform ordinaut._check_count('on_rollback.retry_count',
      coalesce((v_undo ->> 'retry_count')::numeric::integer, 3), 1, 100);
    perform ordinaut._check_templates(v_undo -> 'with');
    v_row.on_rollback := v_undo || jsonb_strip_nulls(jsonb_build_object(
      'timeout', ordinaut._span_of(v_undo -> 'timeout'),
      'retry_count', (v_undo ->> 'retry_count')::numeric::integer));
  end if;

  v_templates := jsonb_strip_nulls(jsonb_build_object('map', p_step -> 'map'))
    || jsonb_build_object('with', coalesce(p_step -> 'with', '{}'));
  perform ordinaut._check_templates(v_templates);
  v_row.has_context := p_step ? 'if' or p_step ? 'map' or v_templates::text like '%${%';
  v_row.body := v_templates
    || jsonb_strip_nulls(jsonb_build_object('if', p_step -> 'if'))
    || case when p_step ? 'input_schema'
      then jsonb_build_object('input_schema', p_step -> 'input_schema') else '{}' end
    || case when p_step ? 'output_schema'
      then jsonb_build_object('output_schema', p_step -> 'output_schema') else '{}' end;
  return v_row;
end
$fn$;

comment on function ordinaut._compile_step(jsonb, bigint, text) is
  'One step of a definition as a row, but for what joins it to the others. Errors: '
  'invalid_parameter_value and others of class 22.';

/* The names that a step reads as steps.<name>: in its templates, and in `if`.  null stands for a
   use of `steps` that this cannot follow: then the step is sent everything. */
create or replace function ordinaut._step_reads(p_body jsonb)
returns text[]
language sql
immutable
as $fn$
  with said as (
    select s.text #>> '{}' as text
    from jsonb_path_query(
      p_body - 'input_schema' - 'output_schema' - 'if',
      'strict $.** ? (@.type() == "string")') as s (text)
    where s.text #>> '{}' like '%${%'
    union all
    select p_body ->> 'if'
    where p_body ? 'if'
  )
  select array_agg(coalesce(m.found[2], m.found[3]))
  from said as s
  cross join lateral regexp_matches(
    s.text, '\m(steps)\M(?:\s*\.\s*(?:"([^"]+)"|([A-Za-z_][A-Za-z0-9_]*)))?', 'g') as m (found);
$fn$;

comment on function ordinaut._step_reads(jsonb) is
  'The names under steps that templates mention, with null for each use of steps as a whole; null '
  'when they mention none.';

create or replace function ordinaut._pipeline_id(p_definition jsonb)
returns uuid
language plpgsql
volatile
as $fn$
declare
  v_id uuid;
  v_n integer;
  v_steps jsonb[];
  v_names text[] := array[]::text[];
  v_rows ordinaut.pipeline_step[] := array[]::ordinaut.pipeline_step[];
  v_row ordinaut.pipeline_step;
  v_is_dag boolean;
  v_reason text;
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
  -- Known, and kept from being pruned until whoever asks refers to it.
  perform from ordinaut.pipeline as p where p.pipeline_id = v_id for key share;
  if found then
    return v_id;
  end if;
  perform ordinaut._check_payload(p_definition);

  v_steps := array(select e.step from jsonb_array_elements(p_definition) as e (step));
  v_is_dag := p_definition @? 'strict $[*] ? (exists (@.needs))';
  for v_i in 1..v_n loop
    if jsonb_typeof(v_steps[v_i]) <> 'object' then
      perform ordinaut._refuse_step(v_i, null, 'a step must be an object');
    end if;
    v_names := v_names || coalesce(v_steps[v_i] ->> 'id', 'step_' || v_i);
    begin
      v_row := ordinaut._compile_step(v_steps[v_i], v_i, v_names[v_i]);
    exception
      when data_exception then
        get stacked diagnostics v_reason = message_text;
    end;
    if v_reason is not null then
      perform ordinaut._refuse_step(v_i, v_names[v_i], v_reason);
    elsif array_position(v_names, v_names[v_i]) < v_i then
      perform ordinaut._refuse_step(v_i, v_names[v_i],
        format('its id is that of step %s', array_position(v_names, v_names[v_i])));
    end if;
    v_row.pipeline_id := v_id;
    v_rows := v_rows || v_row;
  end loop;
  for v_i in 1..v_n loop
    v_row := v_rows[v_i];
    if v_is_dag then
      v_row.needs := ordinaut._needs_of(v_steps[v_i] -> 'needs', v_i, v_names);
    else
      v_row.needs := case when v_i = 1 then '{}'::integer[] else array[v_i - 1] end;
    end if;
    v_rows[v_i] := v_row;
  end loop;

  insert into ordinaut.pipeline (pipeline_id, definition, created_at)
  values (v_id, p_definition, ordinaut.now())
  on conflict on constraint pipeline_pk do nothing;
  if found then
    insert into ordinaut.pipeline_step
    select r.* from unnest(ordinaut._link_steps(v_rows, v_names)) as r;
  end if;
  return v_id;
end
$fn$;

comment on function ordinaut._pipeline_id(jsonb) is
  'Check a definition, an array of steps, and store it; returns its id. The same content has the '
  'same id. Errors: invalid_parameter_value (the step is named), program_limit_exceeded.';

create or replace function ordinaut._needs_of(p_needs jsonb, p_position integer, p_names text[])
returns integer[]
language plpgsql
immutable
as $fn$
declare
  v_need text;
  v_at integer;
  v_needs integer[] := '{}';
begin
  if jsonb_typeof(p_needs) = 'string' then
    p_needs := jsonb_build_array(p_needs);
  end if;
  for v_need in select e.need from jsonb_array_elements_text(coalesce(p_needs, '[]')) as e (need) loop
    v_at := array_position(p_names, v_need);
    if v_at is null then
      perform ordinaut._refuse_step(p_position, p_names[p_position],
        format('it needs %L, which is no step', left(v_need, 63)));
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
  v_order integer[] := '{}';
  v_at integer;
  v_done integer := 0;
  v_cycle integer[] := '{}';
begin
  for v_i in 1..v_n loop
    v_left[v_i] := cardinality((v_rows[v_i]).needs);
    if v_left[v_i] = 0 then
      v_order := v_order || v_i;
    end if;
    v_row := v_rows[v_i];
    v_row.level := 0;
    v_row.followers := array(
      select r.position from unnest(p_rows) as r where v_i = any (r.needs) order by r.position);
    v_rows[v_i] := v_row;
  end loop;

  while v_done < cardinality(v_order) loop
    v_done := v_done + 1;
    v_row := v_rows[v_order[v_done]];
    foreach v_at in array v_row.followers loop
      v_next := v_rows[v_at];
      v_next.level := greatest(v_next.level, v_row.level + 1);
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
    perform ordinaut._refuse('the steps need each other in a cycle: ' || (
      select string_agg(p_names[c.at], ' -> ' order by c.n)
      from unnest(v_cycle) with ordinality as c (at, n)));
  end if;

  for v_i in 1..v_n loop
    v_row := v_rows[v_i];
    v_row.reads := ordinaut._reads_of(v_row, v_rows, v_before[v_i]);
    v_rows[v_i] := v_row;
  end loop;
  return v_rows;
end
$fn$;

comment on function ordinaut._link_steps(ordinaut.pipeline_step[], text[]) is
  'Steps with their followers, levels and reads. Errors: invalid_parameter_value (a cycle, a read '
  'of a step that does not come before).';

create or replace function ordinaut._reads_of(
  p_row    ordinaut.pipeline_step,
  p_rows   ordinaut.pipeline_step[],
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
  v_reads integer[] := '{}';
begin
  foreach v_name in array v_names loop
    if v_name is null then
      return null;
    end if;
    select r.position into v_at
    from unnest(p_rows) as r
    where v_name in (r.name, r.save_as)
    order by r.name = v_name desc
    limit 1;
    if v_at is null then
      perform ordinaut._refuse_step(p_row.position, p_row.name,
        format('it reads steps.%s, which is no step', left(v_name, 63)));
    elsif get_bit(p_before, v_at - 1) = 0 then
      perform ordinaut._refuse_step(p_row.position, p_row.name,
        format('it reads steps.%s, which it does not need', v_name));
    end if;
    v_reads := v_reads || v_at;
  end loop;
  return v_reads;
end
$fn$;

comment on function ordinaut._reads_of(
  ordinaut.pipeline_step, ordinaut.pipeline_step[], varbit
) is
  'The positions whose outputs a step reads; null: all before it. Errors: invalid_parameter_value.';

create or replace function ordinaut._is_referred_to(p_pipeline_id uuid)
returns boolean
language plpgsql
volatile  -- each call sees what is committed by then
as $fn$
begin
  return exists (select from ordinaut.task as t where t.pipeline_id = p_pipeline_id)
    or exists (select from ordinaut.due_work as w where w.pipeline_id = p_pipeline_id)
    or exists (select from ordinaut.parked as k where k.pipeline_id = p_pipeline_id)
    or exists (select from ordinaut.task_run as r where r.pipeline_id = p_pipeline_id);
end
$fn$;

comment on function ordinaut._is_referred_to(uuid) is
  'Whether a task or a run follows this pipeline.';

create or replace function ordinaut._what_to_run(p_tool text, p_payload jsonb, p_pipeline jsonb)
returns table (tool text, payload jsonb, pipeline_id uuid)
language plpgsql
volatile
as $fn$
declare
  v_pipeline jsonb := nullif(p_pipeline, 'null');
  v_payload jsonb := p_payload;
  v_key text;
begin
  if v_pipeline is null and coalesce(p_tool, 'pipeline') = 'pipeline' and p_payload ? 'pipeline' then
    select k.key into v_key from jsonb_object_keys(p_payload) as k (key)
    where k.key not in ('pipeline', 'params');
    if found then
      perform ordinaut._refuse(format('beside its pipeline, payload has an unknown key %L', v_key),
        'Arguments of the steps are under params.');
    end if;
    v_pipeline := p_payload -> 'pipeline';
    v_payload := coalesce(nullif(p_payload -> 'params', 'null'), '{}');
  end if;
  if v_pipeline is null then
    if p_tool = 'pipeline' then
      perform ordinaut._refuse('tool is pipeline, but there is no pipeline',
        'Give its steps as pipeline: [{"id": "a", "uses": "echo"}].');
    end if;
    return query select p_tool, p_payload, null::uuid;
    return;
  end if;

  if p_tool <> 'pipeline' then
    perform ordinaut._refuse(format('both a tool, %s, and a pipeline were given', left(p_tool, 80)),
      'Leave the tool out: each step names its own.');
  elsif jsonb_typeof(v_payload) is distinct from 'object' then
    perform ordinaut._refuse('the params of a pipeline must be an object');
  end if;
  return query select 'pipeline', v_payload, ordinaut._pipeline_id(v_pipeline);
end
$fn$;

comment on function ordinaut._what_to_run(text, jsonb, jsonb) is
  'A tool with its payload, or the pipeline with its params that were given, apart or as {"params": '
  '…, "pipeline": […]}. Errors: invalid_parameter_value, program_limit_exceeded.';
