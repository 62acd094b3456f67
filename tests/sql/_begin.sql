-- The head of every story: a transaction, a clock that stands still, and four assertions.
--
--   select test.eq(actual, expected, 'what that means');
--   select test.ok(condition, 'what that means');
--   select test.throws('OR001', 'select ...', 'what that means');
--   select test.travel('30 s');
--   select test.prune();             all of its steps
\set QUIET on
\pset pager off
\pset tuples_only on
begin;
set local client_min_messages = warning;
set local test.now = '2026-03-27 12:00:00+00';
create schema test;

create function test.travel(p_by interval)
returns timestamptz
language sql
as $fn$
  select set_config('test.now', (current_setting('test.now')::timestamptz + p_by)::text, true)::timestamptz;
$fn$;

create function test.ok(p_ok boolean, p_what text)
returns text
language plpgsql
as $fn$
begin
  if p_ok is not true then
    raise exception using errcode = 'assert_failure', message = format('not so: %s', p_what);
  end if;
  return 'ok: ' || p_what;
end
$fn$;

create function test.eq(p_actual anycompatible, p_expected anycompatible, p_what text)
returns text
language plpgsql
as $fn$
begin
  if p_actual is distinct from p_expected then
    raise exception using
      errcode = 'assert_failure',
      message = format('not so: %s', p_what),
      detail = format('got %L, expected %L', p_actual, p_expected);
  end if;
  return 'ok: ' || p_what;
end
$fn$;

create function test.throws(p_sqlstate text, p_statement text, p_what text)
returns text
language plpgsql
as $fn$
declare
  v_sqlstate text := 'no error';
  v_message  text;
begin
  begin
    execute p_statement;
  exception when others then
    v_sqlstate := sqlstate;
    v_message := sqlerrm;
  end;
  if v_sqlstate <> p_sqlstate then
    raise exception using
      errcode = 'assert_failure',
      message = format('not so: %s', p_what),
      detail = format('got %s (%s), expected %s', v_sqlstate, v_message, p_sqlstate);
  end if;
  return 'ok: ' || p_what;
end
$fn$;

create function test.prune(p_keep interval default '30 days')
returns bigint
language plpgsql
as $fn$
declare
  v_n bigint := 0;
  v_step bigint;
begin
  loop
    select count(*) into v_step from ordinaut.prune(p_keep);
    exit when v_step = 0;
    v_n := v_n + 1;
  end loop;
  return v_n;
end
$fn$;
