"""What an install says to the database around the files of migrations/ and sql/."""

from __future__ import annotations

from typing import Final

BOOKS: Final = """
create table if not exists ordinaut.schema_migration (
  version     integer     not null,
  name        text        not null,
  sha256      text        not null,
  applied_at  timestamptz not null,
  constraint schema_migration_pk primary key (version)
);

create table if not exists ordinaut.loaded_code (
  version  text        not null,
  sha256   text        not null,
  api      integer     not null,
  at       timestamptz not null,
  constraint loaded_code_pk primary key (at)
);
"""

# The lock is for installs among themselves.  lock_timeout off while we wait for it, because the
# other install may take minutes; the search path, so that nobody's object stands in for ours.
BEGIN: Final = """
set local lock_timeout = 0;
set local statement_timeout = 0;
set local client_min_messages = warning;
set local search_path = pg_catalog, pg_temp;
select pg_advisory_xact_lock(hashtext('ordinaut.schema'));
"""

# Functions run with their owner's rights, so that is ordinaut_owner, which can log in nowhere and
# owns nothing else: a superuser that installs makes it.  What is installed keeps its owner, whoever
# upgrades it.
SCHEMA: Final = """
do $do$
declare
  v_there boolean := to_regnamespace('ordinaut') is not null;
  v_owner oid := (select n.nspowner from pg_namespace as n where n.nspname = 'ordinaut');
begin
  if not v_there then
    if (select r.rolsuper from pg_roles as r where r.rolname = current_user) then
      begin
        create role ordinaut_owner nologin;
      exception
        -- It is there, or another database of this cluster installs at the same moment.
        when duplicate_object or unique_violation then null;
      end;
      begin
        -- diagnose() names sessions of other roles; it tells members of ordinaut_admin only.
        if not pg_has_role('ordinaut_owner', 'pg_read_all_stats', 'member') then
          grant pg_read_all_stats to ordinaut_owner;
        end if;
      exception
        when unique_violation or internal_error then null;
      end;
    end if;
    select r.oid into v_owner from pg_roles as r where r.rolname = 'ordinaut_owner';
  end if;
  if v_owner is null or not pg_has_role(current_user, v_owner,
    case when current_setting('server_version_num')::integer < 160000 then 'member' else 'set' end)
  then
    v_owner := (select r.oid from pg_roles as r where r.rolname = current_user);
  end if;
  -- The right to create it may be the installer's or the owner's.
  if not v_there and has_database_privilege(current_database(), 'create') then
    execute format('create schema ordinaut authorization %I', pg_get_userbyid(v_owner));
    v_there := true;
  end if;
  perform set_config('role', pg_get_userbyid(v_owner), true);
  if not v_there then
    create schema ordinaut;
  end if;
end
$do$;
"""

ENSURE_PARTITIONS: Final = """
do $do$
begin
  if exists (
    select from pg_proc as p
    where p.pronamespace = 'ordinaut'::regnamespace and p.proname = 'ensure_partitions'
  ) then
    perform ordinaut.ensure_partitions();
  end if;
end
$do$;
"""
