/*
 * What is wrong, and who did it.  The checks are in diagnose_{engine,sessions,server}.sql; each
 * stands alone: one that fails, for lack of a right or behind a lock, is a row that says so.
 *
 *   severity   critical  work does not run, or stops soon, or can be lost
 *              warning   it will get worse, or a guard is off
 *              info      worth knowing
 *
 * It reads the catalog, statistics, and a few index entries; it waits 100 ms for a lock at most.
 */

create or replace function ordinaut.diagnose(
  p_patience interval default '60 s',
  p_all      boolean  default false
)
returns table (
  problem  text,
  severity text,
  subject  text,
  detail   text,
  since    timestamptz,
  evidence jsonb,
  act      text
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set jit = off
set lock_timeout = '100ms'
as $fn$
declare
  v_now constant timestamptz := ordinaut.now();
  -- Inside a definer, current_user is its owner: `set role` or the login tell who asks.
  v_caller constant text := coalesce(nullif(current_setting('role'), 'none'), session_user);
  v_full constant boolean := exists (
    select
    from pg_roles as r
    where r.rolname in ('ordinaut_admin', current_user) and pg_has_role(v_caller, r.oid, 'usage')
  );
  v_check text;
begin
  perform ordinaut._check_span('patience', coalesce(p_patience, '-1 s'), '10 ms', '10 years');
  -- $1: now, $2: patience, $3: whether statements may be shown.
  foreach v_check in array array[
    -- Causes first: what is late further down may be late for them.
    'server()', 'clock($1)', 'locks($1, $2, $3)', 'horizon($1, $2, $3)', 'notify($3)',
    'connections($1, $2)', 'tables($1, $2)', 'catalog($1)', 'workers($1, $2)', 'queues($1, $2)',
    'schedules($1, $2)', 'trouble($1, $2)'
  ] loop
    begin
      return query execute 'select d.* from ordinaut._diagnose_' || v_check || ' as d'
      using v_now, p_patience, v_full;
      if not found and p_all then
        return query
        select split_part(v_check, '(', 1), 'ok', null::text, 'nothing is wrong', null::timestamptz, null::jsonb,
          null::text;
      end if;
    exception
      when others then
        return query
        select 'not_looked_at', 'warning', split_part(v_check, '(', 1), sqlerrm, null::timestamptz,
          jsonb_build_object('sqlstate', sqlstate),
          case sqlstate
            when '55P03' then 'somebody locks what it reads: look for lock_held'
            when '42501' then format('give %I the right', current_user)
            else 'the server''s log may say more'
          end;
    end;
  end loop;
end
$fn$;

comment on function ordinaut.diagnose(interval, boolean) is
  'What is wrong just now, one row each: problem (a stable name), severity (critical, warning, '
  'info), subject and detail (who and what), since when, evidence for programs, and what to do. '
  'No rows: nothing. p_patience: what lasts for less is left out, late work for less than 10 s '
  'and waits for locks of less than 1 s at most. p_all: also ok, for each check that found '
  'nothing. Statements are shown to members of ordinaut_admin only, as far as the owner may see '
  'them (pg_read_all_stats). Errors: invalid_parameter_value.';
