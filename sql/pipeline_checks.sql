/*
 * One step of a pipeline: what people write, checked, and as the row that runs are made from.
 *
 * What is wrong is said once and completely, because a definition that is accepted is what a run
 * relies on for as long as it lives.  JMESPath, inside ${…} and in `if`, is read by Python
 * (template.py, stepcheck.py); all else is decided here.
 */

create or replace function ordinaut._refuse_step(
  p_position bigint,
  p_name     text,
  p_message  text,
  p_hint     text default null
)
returns void
language plpgsql
volatile
as $fn$
begin
  perform ordinaut._refuse(
    format('step %s (%s): %s', p_position, coalesce(left(p_name, 63), '?'), p_message), p_hint);
end
$fn$;

comment on function ordinaut._refuse_step(bigint, text, text, text) is
  'Refuse a step of a pipeline. Errors: invalid_parameter_value.';

create or replace function ordinaut._check_types(
  p_object jsonb,
  p_types  jsonb,
  p_of     text default ''
)
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
      perform ordinaut._refuse(format('unknown key %L', p_of || left(v_key, 60)), 'Known are ' || (
        select string_agg(k.key, ', ' order by k.key) from jsonb_object_keys(p_types) as k (key))
        || '.');
    elsif not p_types -> v_key ? jsonb_typeof(v_value) then
      perform ordinaut._refuse(format('%s%s must be %s, not %s', p_of, v_key, (
          select string_agg(t.type, ' or ' order by t.n)
          from jsonb_array_elements_text(p_types -> v_key) with ordinality as t (type, n)),
        jsonb_typeof(v_value)));
    end if;
  end loop;
end
$fn$;

comment on function ordinaut._check_types(jsonb, jsonb, text) is
  'Refuse keys that are not in p_types, and values of another type than it says. Errors: '
  'invalid_parameter_value.';

-- A duration of a definition: a number of seconds, or what interval reads.
create or replace function ordinaut._span_of(p_what text, p_value jsonb)
returns interval
language plpgsql
immutable
as $fn$
declare
  v_span interval;
begin
  begin
    v_span := case jsonb_typeof(p_value)
      when 'number' then make_interval(secs => least((p_value #>> '{}')::float8, 1e10))
      else (p_value #>> '{}')::interval
    end;
  exception
    when data_exception then
      perform ordinaut._refuse(format('%s %s is not a duration', p_what, left(p_value::text, 80)),
        'A number of seconds, or text as in "5 min".');
  end;
  perform ordinaut._check_span(p_what, v_span, '1 ms', '30 days');
  return v_span;
end
$fn$;

comment on function ordinaut._span_of(text, jsonb) is
  'A duration as people write it in JSON, from 1 ms to 30 days; null for null. Errors: '
  'invalid_parameter_value.';

create or replace function ordinaut._whole_of(
  p_what  text,
  p_value jsonb,
  p_least integer,
  p_most  integer
)
returns integer
language plpgsql
immutable
as $fn$
declare
  v_n numeric;
begin
  if p_value is null then
    return null;
  elsif jsonb_typeof(p_value) = 'number' then
    v_n := (p_value #>> '{}')::numeric;
  end if;
  if v_n between p_least and p_most and v_n = trunc(v_n) then
    return v_n;
  end if;
  perform ordinaut._refuse(format('%s %s must be a whole number, %s to %s', p_what,
    left(p_value::text, 80), p_least, p_most));
  return null;
end
$fn$;

comment on function ordinaut._whole_of(text, jsonb, integer, integer) is
  'A number as people write it in JSON; null for null. Errors: invalid_parameter_value.';

/* What can be said of a template without reading JMESPath.  $${ is no template. */
create or replace function ordinaut._check_templates(p_value jsonb)
returns void
language plpgsql
immutable
as $fn$
declare
  v_text text;
begin
  for v_text in
    select replace(s.text #>> '{}', '$${', '')
    from jsonb_path_query(p_value, 'strict $.** ? (@.type() == "string")') as s (text)
    where s.text #>> '{}' like '%${%'
  loop
    if v_text ~ $re$\$\{\s*\}$re$ then
      perform ordinaut._refuse(format('an empty ${} in %L', left(v_text, 100)),
        'Name what to put there, as in ${params.day}.');
    elsif v_text ~ $re$\$\{[^}]*$$re$ then
      perform ordinaut._refuse(format('a ${ without its } in %L', left(v_text, 100)),
        'Write $${ for a plain ${.');
    end if;
  end loop;
end
$fn$;

comment on function ordinaut._check_templates(jsonb) is
  'Refuse ${} that are empty or not closed. Errors: invalid_parameter_value.';

create or replace function ordinaut._check_map(p_map jsonb)
returns void
language plpgsql
immutable
as $fn$
declare
  v_as text := p_map ->> 'as';
begin
  if p_map is null then
    return;
  end if;
  perform ordinaut._check_types(p_map, '{"over": ["string", "array"], "as": ["string"],
    "max_parallel": ["number"], "on_failure": ["string"], "tolerate": ["number"]}', 'map.');
  if not p_map ? 'over' then
    perform ordinaut._refuse('map.over is missing: the list to map over',
      'As in {"over": "${steps.find.files}", "as": "file"}.');
  elsif jsonb_typeof(p_map -> 'over') = 'string' and strpos(p_map ->> 'over', '${') = 0 then
    perform ordinaut._refuse(format('map.over %L is not a list', left(p_map ->> 'over', 80)),
      'A list, or the template of one: ${steps.find.files}.');
  elsif v_as !~ '^[A-Za-z_][A-Za-z0-9_]*$'
    or v_as in ('params', 'steps', 'run', 'now', 'event', 'index', 'output')
  then
    perform ordinaut._refuse(format('map.as %L cannot name the item', left(v_as, 80)),
      'Letters, digits and _ only, and not params, steps, run, now, event, index, output.');
  elsif p_map ->> 'on_failure' not in ('fail', 'continue') then
    perform ordinaut._refuse(
      format('map.on_failure %L must be fail or continue', left(p_map ->> 'on_failure', 80)));
  end if;
  perform ordinaut._whole_of('map.max_parallel', p_map -> 'max_parallel', 1, 10000);
  perform ordinaut._whole_of('map.tolerate', p_map -> 'tolerate', 0, 10000);
end
$fn$;

comment on function ordinaut._check_map(jsonb) is
  'Refuse what does not say how to map a step; null passes. Errors: invalid_parameter_value.';

-- As the row keeps it: what a worker is told, and timeout and retry_count as they are cast later.
create or replace function ordinaut._rollback_of(p_undo jsonb)
returns jsonb
language plpgsql
immutable
as $fn$
begin
  if p_undo is null then
    return null;
  end if;
  perform ordinaut._check_types(p_undo, '{"uses": ["string"], "with": ["object"],
    "timeout": ["number", "string"], "retry_count": ["number"]}', 'on_rollback.');
  perform ordinaut._check_uses('on_rollback.uses', p_undo -> 'uses');
  perform ordinaut._check_templates(p_undo -> 'with');
  return '{"with": {}}' || p_undo || jsonb_strip_nulls(jsonb_build_object(
    'timeout', ordinaut._span_of('on_rollback.timeout', p_undo -> 'timeout'),
    'retry_count', ordinaut._whole_of('on_rollback.retry_count', p_undo -> 'retry_count', 1, 100)));
end
$fn$;

comment on function ordinaut._rollback_of(jsonb) is
  'What undoes a step, checked; null for null. Errors: invalid_parameter_value.';

create or replace function ordinaut._check_uses(p_what text, p_uses jsonb)
returns void
language plpgsql
immutable
as $fn$
begin
  if p_uses is null or btrim(p_uses #>> '{}') = '' then
    perform ordinaut._refuse(p_what || ' is missing: it names the tool');
  elsif p_uses = '"pipeline"' then
    perform ordinaut._refuse(p_what || ' cannot be pipeline',
      'A step of kind task runs a task, and that may have steps.');
  end if;
  perform ordinaut._check_tool(p_uses #>> '{}');
end
$fn$;

comment on function ordinaut._check_uses(text, jsonb) is
  'Refuse a step without a tool. Errors: invalid_parameter_value.';

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
  v_key text;
begin
  perform ordinaut._check_types(p_step, '{"id": ["string"], "uses": ["string"],
    "with": ["object"], "needs": ["array", "string"], "if": ["string"], "save_as": ["string"],
    "retry_count": ["number"], "retry": ["object"], "timeout": ["number", "string"],
    "timeout_seconds": ["number"], "queue": ["string"], "priority": ["number"],
    "on_rollback": ["object"], "continue_on_error": ["boolean"], "skip_with_needs": ["boolean"],
    "map": ["object"], "input_schema": ["object"], "output_schema": ["object"]}');
  foreach v_key in array array['id', 'save_as'] loop
    if length(p_step ->> v_key) > 63 or p_step ->> v_key !~ '^[A-Za-z_][A-Za-z0-9_-]*$' then
      perform ordinaut._refuse(format('%s %L is not a name', v_key, left(p_step ->> v_key, 80)),
        'Letters, digits, _ and - only, a letter or _ first, at most 63.');
    end if;
  end loop;
  perform ordinaut._check_uses('uses', p_step -> 'uses');
  if btrim(p_step ->> 'if') = '' then
    perform ordinaut._refuse('if is blank', 'Leave it out: then the step always runs.');
  elsif p_step ? 'timeout' and p_step ? 'timeout_seconds' then
    perform ordinaut._refuse('timeout and timeout_seconds say the same: give one');
  elsif p_step ? 'retry_count' and p_step -> 'retry' ? 'max_attempts' then
    perform ordinaut._refuse('retry_count and retry.max_attempts say the same: give one');
  end if;
  if p_step ? 'queue' then
    perform ordinaut._check_label('queue', p_step ->> 'queue');
  end if;
  perform ordinaut._check_retry((p_step -> 'retry') - 'max_attempts'::text);
  perform ordinaut._check_map(p_step -> 'map');
  perform ordinaut._check_templates(
    p_step - array['id', 'needs', 'on_rollback', 'input_schema', 'output_schema']);

  v_row.position := p_position;
  v_row.name := p_name;
  v_row.tool := p_step ->> 'uses';
  v_row.save_as := p_step ->> 'save_as';
  v_row.queue := p_step ->> 'queue';
  v_row.priority := ordinaut._whole_of('priority', p_step -> 'priority', 1, 9);
  v_row.timeout := coalesce(
    ordinaut._span_of('timeout', p_step -> 'timeout'),
    ordinaut._span_of('timeout_seconds', p_step -> 'timeout_seconds'));
  v_row.max_attempts := coalesce(
    ordinaut._whole_of('retry_count', p_step -> 'retry_count', 1, 100),
    ordinaut._whole_of('retry.max_attempts', p_step -> 'retry' -> 'max_attempts', 1, 100),
    3);
  v_row.retry := nullif((p_step -> 'retry') - 'max_attempts'::text, '{}');
  v_row.continue_on_error := coalesce((p_step ->> 'continue_on_error')::boolean, false);
  v_row.skip_with_needs := coalesce((p_step ->> 'skip_with_needs')::boolean, false);
  v_row.on_rollback := ordinaut._rollback_of(p_step -> 'on_rollback');
  v_row.body := '{"with": {}}' || coalesce((
    select jsonb_object_agg(e.key, e.value)
    from jsonb_each(p_step) as e
    where e.key in ('with', 'if', 'map', 'input_schema', 'output_schema')), '{}');
  v_row.has_context := p_step ?| array['if', 'map'] or (v_row.body -> 'with')::text like '%${%';
  return v_row;
end
$fn$;

comment on function ordinaut._compile_step(jsonb, bigint, text) is
  'One step of a definition as a row, but for what joins it to the others. Errors: '
  'invalid_parameter_value.';

/* The names that a step reads as steps.<name>: in its templates, and in `if`.  null stands for a
   use of `steps` that this cannot follow: then the step is sent everything, and only Python can
   say whether it may read it.  What is followed must be certain: a text is refused for it.  So
   literals are taken out, and an expression in which `steps` may be a field of something else, or
   the whole context has no name, is not followed. */
create or replace function ordinaut._step_reads(p_body jsonb)
returns text[]
language sql
immutable
as $fn$
  with template as (
    select replace(s.text #>> '{}', '$${', '') as text
    from jsonb_path_query(
      p_body - array['input_schema', 'output_schema', 'if'],
      'strict $.** ? (@.type() == "string")') as s (text)
    where s.text #>> '{}' like '%${%'
    union all
    select case
      when btrim(p_body ->> 'if') like '${%' then p_body ->> 'if'
      else format('${%s}', p_body ->> 'if')
    end
    where p_body ? 'if'
  ),
  expression as (
    -- With braces of its own an expression does not match, and its ${ is left over.
    select m.found[1] as text
    from template as t
    cross join lateral regexp_matches(t.text,
      $re$\$\{((?:'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|"(?:[^"\\]|\\.)*"|[^{}'`"])*)\}$re$,
      'g') as m (found)
    union all
    select '@'
    from template as t
    where regexp_replace(t.text,
      $re$\$\{((?:'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|"(?:[^"\\]|\\.)*"|[^{}'`"])*)\}$re$,
      '', 'g') like '%${%'
  ),
  plain as (
    select regexp_replace(e.text,
      $re$'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|\|\||&&$re$, ' ', 'g') as text
    from expression as e
  ),
  read as (
    select coalesce(m.found[1], m.found[2]) as name
    from plain as p
    cross join lateral regexp_matches(p.text,
      $re$(?<!\.\s*)\msteps\M(?:\s*\.\s*(?:"([^"\\]+)"|([A-Za-z_][A-Za-z0-9_]*)))?$re$, 'g'
    ) as m (found)
    where p.text !~ $re$[@&|]|\[\s*\?|\.\s*[[{]|^\s*[*[]$re$
    union all
    select null
    from plain as p
    where p.text ~ $re$[@&|]|\[\s*\?|\.\s*[[{]|^\s*[*[]$re$ and p.text ~ $re$\msteps\M|@|\*$re$
  )
  select array_agg(distinct r.name) from read as r;
$fn$;

comment on function ordinaut._step_reads(jsonb) is
  'The names under steps that templates mention, with null for each use of steps that is not '
  'followed; null when they mention none.';
