/*
 * The roles of Ordinaut, for a DBA, where who installs may not make roles.  Once per cluster; again
 * does no harm.  Any client can run it: it is plain SQL.
 *
 *   ordinaut_owner     owns the schema, and its functions run with its rights; nobody logs in as it
 *   ordinaut_viewer    reads views
 *   ordinaut_producer  enqueues, cancels, answers
 *   ordinaut_worker    leases and settles, ticks and reaps: workers and schedulers
 *   ordinaut_admin     all of that, and defines tasks
 *
 * None of the last four has a right on a table: `ordinaut install` grants them functions and views.
 *
 * Then, for whoever deploys, and in each database:
 *
 *   grant ordinaut_owner to deployer;
 *   grant create on database app to deployer;    -- until the first install is done
 */

do $do$
declare
  v_role text;
begin
  foreach v_role in array array[
    'ordinaut_owner', 'ordinaut_viewer', 'ordinaut_producer', 'ordinaut_worker', 'ordinaut_admin'
  ] loop
    if not exists (select from pg_catalog.pg_roles as r where r.rolname = v_role) then
      execute pg_catalog.format('create role %I nologin', v_role);
    end if;
  end loop;
  -- So that diagnose() can name the sessions of other roles; without it, it says that it is blind.
  begin
    grant pg_read_all_stats to ordinaut_owner;
  exception
    when insufficient_privilege then
      raise notice 'ordinaut_owner lacks pg_read_all_stats: diagnose() will not see other sessions';
  end;
end
$do$;
