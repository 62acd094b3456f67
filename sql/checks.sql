/*
 * What may enter.  Every argument that would poison a loop later is refused here, with the name
 * of the argument and the reason; nothing is half-written, because a check precedes each write.
 *
 * Lengths are counted apart from patterns: {0,199} makes 200 states of one, and a match 8 us.
 */

create or replace function ordinaut._refuse(p_message text, p_hint text default null)
returns void
language plpgsql
volatile
as $fn$
begin
  if p_hint is null then
    raise exception using errcode = 'invalid_parameter_value', message = p_message;
  end if;
  raise exception using
    errcode = 'invalid_parameter_value',
    message = p_message,
    hint = p_hint;
end
$fn$;

comment on function ordinaut._refuse(text, text) is 'Raise invalid_parameter_value.';

create or replace function ordinaut._check_label(p_what text, p_value text)
returns void
language plpgsql
immutable
as $fn$
begin
  if p_value is null or length(p_value) > 63 or p_value !~ '^[a-z][a-z0-9_.-]*$' then
    perform ordinaut._refuse(
      format('%s %L is not a name', p_what, left(p_value, 80)),
      'Lowercase letters, digits, _ . - only, a letter first, at most 63.');
  end if;
end
$fn$;

comment on function ordinaut._check_label(text, text) is
  'Refuse a queue or namespace that is not a name. Errors: invalid_parameter_value.';

create or replace function ordinaut._check_tool(p_tool text)
returns void
language plpgsql
immutable
as $fn$
begin
  if p_tool is null or length(p_tool) > 200 or p_tool !~ '^[A-Za-z][A-Za-z0-9_.:-]*$' then
    perform ordinaut._refuse(
      format('tool %L is not a tool name', left(p_tool, 80)),
      'Letters, digits, _ . : - only, a letter first, at most 200: echo, '
      'python:package.module.function.');
  end if;
end
$fn$;

comment on function ordinaut._check_tool(text) is
  'Refuse what cannot be a tool''s name. Errors: invalid_parameter_value.';

create or replace function ordinaut._check_at(p_what text, p_at timestamptz)
returns void
language plpgsql
immutable
as $fn$
begin
  if p_at < '1970-01-01 00:00:00+00' or p_at >= '2200-01-01 00:00:00+00' then
    perform ordinaut._refuse(
      format('%s %s is outside 1970 to 2200', p_what, p_at),
      'infinity and far years cannot be scheduled; leave it null for no limit.');
  end if;
end
$fn$;

comment on function ordinaut._check_at(text, timestamptz) is
  'Refuse infinite and far instants; null passes. Errors: invalid_parameter_value.';

create or replace function ordinaut._check_span(
  p_what text,
  p_span interval,
  p_least interval,
  p_most interval
)
returns void
language plpgsql
immutable
as $fn$
begin
  if p_span < p_least or p_span > p_most then
    perform ordinaut._refuse(format('%s %s must be %s to %s', p_what, p_span, p_least, p_most));
  end if;
end
$fn$;

comment on function ordinaut._check_span(text, interval, interval, interval) is
  'Refuse a duration outside its bounds; null passes. Errors: invalid_parameter_value.';

create or replace function ordinaut._check_count(
  p_what  text,
  p_n     integer,
  p_least integer,
  p_most  integer
)
returns void
language plpgsql
immutable
as $fn$
begin
  if p_n is null or p_n < p_least or p_n > p_most then
    perform ordinaut._refuse(
      format('%s %s must be %s to %s', p_what, coalesce(p_n::text, 'null'), p_least, p_most));
  end if;
end
$fn$;

comment on function ordinaut._check_count(text, integer, integer, integer) is
  'Refuse a number outside its bounds, and null. Errors: invalid_parameter_value.';

create or replace function ordinaut._check_key(p_what text, p_key text)
returns void
language plpgsql
immutable
as $fn$
begin
  if p_key = '' or octet_length(p_key) > 500 then
    perform ordinaut._refuse(
      format('%s must be 1 to 500 bytes, not %s', p_what, octet_length(p_key)));
  end if;
end
$fn$;

comment on function ordinaut._check_key(text, text) is
  'Refuse an empty or huge key; null passes. Errors: invalid_parameter_value.';

-- Whoever held one of the engine's own before it does would have its run taken for the engine's:
-- a step that starts a task would take another's output for that task's.
create or replace function ordinaut._check_idempotency_key(p_key text)
returns void
language plpgsql
immutable
as $fn$
begin
  perform ordinaut._check_key('idempotency_key', p_key);
  if p_key ~ '^(child|emit|id|retry):' then
    perform ordinaut._refuse(
      format('idempotency_key %L begins as those of the engine do', left(p_key, 80)),
      'Any but child:, emit:, id: and retry: will do.');
  end if;
end
$fn$;

comment on function ordinaut._check_idempotency_key(text) is
  'Refuse a key that is empty, huge or of the engine''s own; null passes. Errors: '
  'invalid_parameter_value.';

-- pg_column_size of a value that comes as an argument is its size in memory: no text is built.
create or replace function ordinaut._check_payload(p_payload jsonb)
returns void
language plpgsql
immutable
as $fn$
begin
  if p_payload is null then
    perform ordinaut._refuse('payload is null', 'Pass {} for a tool without arguments.');
  elsif pg_column_size(p_payload) > 1048576 then
    raise exception using
      errcode = 'program_limit_exceeded',
      message = format('payload of %s bytes is over 1 MB', pg_column_size(p_payload)),
      hint = 'Store the data elsewhere and pass a reference to it.';
  end if;
end
$fn$;

comment on function ordinaut._check_payload(jsonb) is
  'Refuse null and more than 1 MB. Errors: invalid_parameter_value, program_limit_exceeded.';

-- Every key of a retry policy is tried once here, so that no failing run finds it broken later.
create or replace function ordinaut._check_retry(p_retry jsonb)
returns void
language plpgsql
immutable
as $fn$
declare
  v_key text;
  v_value text;
begin
  if p_retry is null then
    return;
  end if;
  if jsonb_typeof(p_retry) <> 'object' then
    perform ordinaut._refuse('retry must be an object',
      'For example {"base": "1 s", "cap": "60 s"}.');
  end if;

  for v_key, v_value in select e.key, e.value from jsonb_each_text(p_retry) as e loop
    begin
      case v_key
        when 'base', 'cap' then
          perform ordinaut._check_span('retry.' || v_key, v_value::interval, '0 s', '30 days');
        when 'factor' then
          if not v_value::numeric between 1 and 100 then
            raise numeric_value_out_of_range;
          end if;
        when 'jitter' then
          if not v_value::numeric between 0 and 1 then
            raise numeric_value_out_of_range;
          end if;
        when 'strategy' then
          if v_value not in ('exponential', 'linear', 'fixed') then
            raise numeric_value_out_of_range;
          end if;
        else
          raise numeric_value_out_of_range;
      end case;
    exception
      when data_exception then
        perform ordinaut._refuse(
          format('retry.%s cannot be %L', v_key, v_value),
          'base and cap are durations, factor 1 to 100, jitter 0 to 1, strategy exponential, '
          'linear or fixed.');
    end;
  end loop;
end
$fn$;

comment on function ordinaut._check_retry(jsonb) is
  'Refuse a retry policy with an unknown key or a value out of range. Errors: '
  'invalid_parameter_value.';
