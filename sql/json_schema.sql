/*
 * The part of JSON Schema that SQL checks: what people ask of an answer.  A schema that says more
 * is refused when it is given, not passed over when it is needed.
 */

create or replace function ordinaut._check_schema(p_schema jsonb, p_at text default 'schema')
returns void
language plpgsql
immutable
as $fn$
declare
  v_key text;
  v_value jsonb;
  v_type constant text := jsonb_typeof(p_schema);
  v_ok boolean;
begin
  if v_type is distinct from 'object' then
    perform ordinaut._refuse(format('%s must be an object, not %s', p_at, coalesce(v_type, 'null')),
      'For example {"type": "object", "required": ["approved"]}.');
  end if;
  for v_key, v_value in select e.key, e.value from jsonb_each(p_schema) as e loop
    v_ok := case v_key
      when 'type' then not exists (
        select
        from jsonb_array_elements(
          case jsonb_typeof(v_value) when 'array' then v_value else jsonb_build_array(v_value) end
        ) as t (name)
        where t.name not in ('"object"', '"array"', '"string"', '"number"', '"integer"',
          '"boolean"', '"null"'))
      when 'enum' then jsonb_typeof(v_value) = 'array'
      when 'const' then true
      when 'required' then jsonb_typeof(v_value) = 'array'
        and not jsonb_path_exists(v_value, '$[*] ? (@.type() != "string")')
      when 'properties' then jsonb_typeof(v_value) = 'object'
      when 'additionalProperties' then jsonb_typeof(v_value) = 'boolean'
      when 'items' then jsonb_typeof(v_value) = 'object'
      when 'pattern' then jsonb_typeof(v_value) = 'string'
      when 'minimum' then jsonb_typeof(v_value) = 'number'
      when 'maximum' then jsonb_typeof(v_value) = 'number'
      when 'minLength' then jsonb_typeof(v_value) = 'number'
      when 'maxLength' then jsonb_typeof(v_value) = 'number'
      else v_key in ('title', 'description', 'default', 'examples', '$schema')
    end;
    if v_ok is not true then
      perform ordinaut._refuse(
        format('%s: %s %s is not understood', p_at, v_key, left(v_value::text, 80)),
        'The keywords are type, enum, const, required, properties, additionalProperties (true or '
        'false), items, pattern, minimum, maximum, minLength and maxLength.');
    end if;
    case v_key
      when 'pattern' then
        perform '' ~ (v_value #>> '{}');  -- raises for what is no pattern
      when 'items' then
        perform ordinaut._check_schema(v_value, p_at || '.items');
      when 'properties' then
        perform ordinaut._check_schema(e.value, format('%s.properties.%s', p_at, e.key))
        from jsonb_each(v_value) as e;
      else null;
    end case;
  end loop;
end
$fn$;

comment on function ordinaut._check_schema(jsonb, text) is
  'Refuse a JSON Schema with a keyword that SQL does not check. Errors: invalid_parameter_value, '
  'invalid_regular_expression.';

create or replace function ordinaut._json_problem(
  p_schema jsonb,
  p_value  jsonb,
  p_at     text default 'response'
)
returns text
language plpgsql
immutable
as $fn$
declare
  v_type constant text := jsonb_typeof(p_value);
  v_types jsonb := p_schema -> 'type';
  v_text text;
  v_number numeric;
  v_problem text;
begin
  if jsonb_typeof(v_types) = 'string' then
    v_types := jsonb_build_array(v_types);
  end if;
  if not (v_types ? v_type)
    and not (v_types ? 'integer' and v_type = 'number'
      and p_value::text::numeric = trunc(p_value::text::numeric))
  then
    return format('%s must be %s, not %s', p_at, replace(
      (select string_agg(t, ' or ') from jsonb_array_elements_text(v_types) as t), '"', ''),
      v_type);
  elsif p_schema ? 'const' and p_schema -> 'const' <> p_value then
    return format('%s must be %s', p_at, left((p_schema -> 'const')::text, 200));
  elsif p_schema ? 'enum' and not exists (
    select from jsonb_array_elements(p_schema -> 'enum') as e (value) where e.value = p_value
  ) then
    return format('%s must be one of %s', p_at, left((p_schema -> 'enum')::text, 200));
  end if;

  case v_type
    when 'object' then
      select r.name into v_text
      from jsonb_array_elements_text(p_schema -> 'required') as r (name)
      where not p_value ? r.name
      limit 1;
      if found then
        return format('%s must have %s', p_at, v_text);
      end if;
      select k.name into v_text
      from jsonb_object_keys(p_value) as k (name)
      where
        p_schema -> 'additionalProperties' = 'false'
        and not coalesce(p_schema -> 'properties' ? k.name, false)
      limit 1;
      if found then
        return format('%s has %s, which is not in its schema', p_at, v_text);
      end if;
      select q.problem into v_problem
      from jsonb_each(p_schema -> 'properties') as e
      cross join lateral ordinaut._json_problem(
        e.value, p_value -> e.key, p_at || '.' || e.key) as q (problem)
      where p_value ? e.key and q.problem is not null
      limit 1;
    when 'array' then
      select q.problem into v_problem
      from jsonb_array_elements(p_value) with ordinality as e (value, n)
      cross join lateral ordinaut._json_problem(
        p_schema -> 'items', e.value, format('%s[%s]', p_at, e.n - 1)) as q (problem)
      where p_schema ? 'items' and q.problem is not null
      limit 1;
    when 'string' then
      v_text := p_value #>> '{}';
      v_problem := case
        when length(v_text) < (p_schema ->> 'minLength')::numeric
          then format('%s must have at least %s characters', p_at, p_schema ->> 'minLength')
        when length(v_text) > (p_schema ->> 'maxLength')::numeric
          then format('%s must have at most %s characters', p_at, p_schema ->> 'maxLength')
        when v_text !~ (p_schema ->> 'pattern')
          then format('%s must match %s', p_at, p_schema ->> 'pattern')
      end;
    when 'number' then
      v_number := p_value::text::numeric;
      v_problem := case
        when v_number < (p_schema ->> 'minimum')::numeric
          then format('%s must be at least %s', p_at, p_schema ->> 'minimum')
        when v_number > (p_schema ->> 'maximum')::numeric
          then format('%s must be at most %s', p_at, p_schema ->> 'maximum')
      end;
    else null;
  end case;
  return v_problem;
end
$fn$;

comment on function ordinaut._json_problem(jsonb, jsonb, text) is
  'What is wrong with a value by a schema that passed _check_schema, as a sentence; null: '
  'nothing.';
