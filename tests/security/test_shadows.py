"""
Look-alikes: a caller's own tables, functions, operators, types and settings beside the engine's.

For every function, operator and type that the engine's code could mean, a trap of the same name and
arguments lies first in the caller's search_path.  A trap that runs raises ZZ999.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.postgres import one
from tests.security.conftest import Conn, Town

TRAPPED = "ZZ999"
_TYPES = (
    "text", "uuid", "jsonb", "integer", "bigint", "boolean", "timestamptz", "interval", "name",
)  # fmt: skip

_TRAPS = """
create schema evil authorization rogue;
create function evil.boom() returns text language plpgsql
as $$ begin raise exception 'a trap ran as %', current_user using errcode = 'ZZ999'; end $$;
do $do$
declare
  v record;
  v_types oid[] := array(select t::regtype::oid from unnest($TYPES) as t);
  v_n integer := 0;
begin
  -- Operators, each with the same arguments as one of pg_catalog.
  for v in
    select o.oprname as name, o.oprleft::regtype as l, o.oprright::regtype as r,
      o.oprresult::regtype as result
    from pg_operator as o
    where
      o.oprnamespace = 'pg_catalog'::regnamespace
      and o.oprleft = any (v_types) and o.oprright = any (v_types) and o.oprkind = 'b'
  loop
    v_n := v_n + 1;
    execute format('create function evil.op%s(%s, %s) returns %s language sql'
      ' as $$ select evil.boom()::text::%s $$', v_n, v.l, v.r, v.result, v.result);
    execute format('create operator evil.%s (leftarg = %s, rightarg = %s, function = evil.op%s)',
      v.name, v.l, v.r, v_n);
  end loop;
  -- Functions that are named in the engine's code.
  for v in
    select p.proname as name, pg_get_function_identity_arguments(p.oid) as arguments,
      p.prorettype::regtype as result, p.proretset as many
    from pg_proc as p
    where
      p.pronamespace = 'pg_catalog'::regnamespace
      and p.prokind = 'f'
      and p.provariadic = 0
      and p.prorettype = any (v_types || array['bytea', 'record']::regtype[]::oid[])
      and p.prorettype <> 'record'::regtype
      and not p.proargtypes::oid[] && array['internal', 'cstring', '"any"']::regtype[]::oid[]
      and exists (
        select from pg_proc as f
        where
          f.pronamespace = 'ordinaut'::regnamespace and f.prosrc ~ ('\\m' || p.proname || '\\s*\\(')
      )
  loop
    execute format('create function evil.%I(%s) returns %s %s language sql'
      ' as $$ select evil.boom()::text::%s $$', v.name, v.arguments,
      case when v.many then 'setof' else '' end, v.result, v.result);
    v_n := v_n + 1;
  end loop;
  if v_n < 200 then
    raise exception 'only % traps', v_n;
  end if;
end
$do$;
grant usage on schema evil to public;
"""

# What the low role itself makes: tables and types that hide ours and the catalog's.
_TEMPORARY = """
do $do$
declare
  v_name text;
begin
  foreach v_name in array $NAMES || array['pg_class', 'pg_proc', 'pg_roles', 'pg_namespace',
    'pg_timezone_names', 'pg_inherits', 'pg_settings', 'pg_stat_activity', 'pg_auth_members']
  loop
    execute pg_catalog.format('create temporary table %I (worker_id uuid, lease_id uuid)', v_name);
  end loop;
end
$do$;
create domain pg_temp.jsonb as text check (evil.boom() is null);
create domain pg_temp.uuid as text check (evil.boom() is null);
create domain pg_temp.text as pg_catalog.text check (evil.boom() is null);
create domain pg_temp.timestamptz as pg_catalog.text check (evil.boom() is null);
create domain pg_temp.interval as pg_catalog.text check (evil.boom() is null);
create type pg_temp.work_item as (work_id pg_catalog.int4);
create function pg_temp.now() returns pg_catalog.timestamptz language sql
as 'select evil.boom()::pg_catalog.timestamptz';
create function pg_temp._settle() returns pg_catalog.text language sql as 'select evil.boom()';
"""


def _read(name: str) -> list[list[str]]:
    """Read lines of "login: statement"."""
    lines = Path(__file__).with_name(name).read_text().splitlines()
    return [line.split(": ", 1) for line in lines if not line.startswith("#")]


_STORY = _read("story.txt")
_LIFE = _read("life.txt")


@pytest.fixture
def traps(town: Town) -> str:
    """The settings of a session that walks into every trap it can; returns the path."""
    dba = town.login()
    dba.execute(
        "do $$ begin create role rogue nologin; exception when duplicate_object then end $$"
    )
    dba.execute(_TRAPS.replace("$TYPES", f"'{{{','.join(_TYPES)}}}'::text[]"))
    dba.execute("grant temporary on database town to public")
    town.login("admin").execute(
        "select ordinaut.create_task('every', 'echo', p_schedule_kind => 'interval',"
        " p_schedule_expr => '1 h')"
    )
    return "evil, pg_temp, ordinaut, pg_catalog"


def _arm(town: Town, login: str, path: str) -> Conn:
    names = [
        name
        for (name,) in town.login().execute(
            "select c.relname from pg_class as c where c.relnamespace = 'ordinaut'::regnamespace"
            " and c.relkind in ('r', 'p', 'v') and c.relname !~ '[0-9]{8}$'"
        )
    ]
    conn = town.login(login)
    conn.execute(_TEMPORARY.replace("$NAMES", f"'{{{','.join(names)}}}'::pg_catalog.text[]"))
    conn.execute(f"set search_path = {path}")
    return conn


def test_no_look_alike_is_taken_for_ours(town: Town, traps: str, rows: Callable[..., Any]) -> None:
    plain = {login: town.login(login) for login in ("viewer", "producer", "worker", "admin")}
    armed = {login: _arm(town, login, traps) for login in plain}
    assert rows(armed["viewer"], "select 'a'::pg_catalog.text = 'b'::pg_catalog.text") == TRAPPED
    assert rows(armed["viewer"], "select lower('A'::pg_catalog.text)") == TRAPPED

    for login, statement in _STORY:
        assert not isinstance(rows(armed[login], statement), str), (login, statement)

    assert one(town.login(), "select count(*) from ordinaut.task_run") > 0
    for conn in armed.values():
        look = "select count(*)::pg_catalog.text from pg_temp.due_work"
        assert one(town.login(), "select count(*) from ordinaut.run_log") > 0
        conn.execute("set search_path = pg_catalog")
        assert one(conn, look) == "0"

    # And every function, with nothing: most refuse that, but not by way of a trap.
    found = (
        town.login()
        .execute(
            """
        select distinct on (p.oid) replace(r.rolname, 'ordinaut_', ''), p.proname,
          array(
            select 'null::' || case when t::regtype::text ~ '^ordinaut' then t::regtype::text
              else 'pg_catalog.' || quote_ident(y.typname) end
            from unnest(p.proargtypes) with ordinality as u (t, n)
            join pg_type as y on y.oid = u.t
            order by u.n
          )
        from pg_proc as p
        join pg_roles as r
          on r.rolname ~ '^ordinaut_(viewer|producer|worker|admin)$'
          and has_function_privilege(r.rolname, p.oid, 'execute')
        where p.pronamespace = 'ordinaut'::regnamespace and p.prosecdef
        order by p.oid, r.rolname desc
        """
        )
        .fetchall()
    )
    assert len(found) > 90
    for login, name, nulls in found:
        said = rows(armed[login], f"select * from ordinaut.{name}({', '.join(nulls)})")
        assert said != TRAPPED, name


SETTINGS = {
    "test.now": "2001-01-01 00:00:00+00",
    "timezone": "Pacific/Kiritimati",
    "datestyle": "German",
    "intervalstyle": "sql_standard",
    "bytea_output": "escape",
    "backslash_quote": "on",
    "escape_string_warning": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "extra_float_digits": "-15",
    "row_security": "off",
    "enable_indexscan": "off",
    "enable_indexonlyscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_sort": "off",
    "enable_material": "off",
    "work_mem": "64kB",
    "from_collapse_limit": "1",
    "join_collapse_limit": "1",
    "plan_cache_mode": "force_generic_plan",
    "gin_fuzzy_search_limit": "1",
    "constraint_exclusion": "on",
    "plpgsql.extra_errors": "all",
    "plpgsql.check_asserts": "off",
    "check_function_bodies": "off",
    "xmloption": "document",
    "lc_numeric": "C",
    "default_transaction_isolation": "serializable",
    "synchronous_commit": "off",
    "client_min_messages": "error",
    "client_encoding": "LATIN1",
}


def _life(town: Town, settings: dict[str, str]) -> list[Any]:
    """Live through a bit of everything under these settings; return what came of it."""
    logins = ("producer", "worker", "admin")
    producer, worker, admin = (town.login(login) for login in logins)
    for conn in (producer, worker, admin):
        for name, value in settings.items():
            conn.execute("select set_config(%s, %s, false)", [name, value])
    for login, statement in _LIFE:
        (producer if login == "producer" else admin).execute(statement)
    came: list[Any] = []
    me = uuid4()
    worker.execute("select ordinaut.register_worker(%s, '{default}', '{echo}')", [me])
    outcomes = iter(["failed", "success", "released", "success", "success", "success", "success"])
    for outcome in outcomes:
        lease_id = uuid4()
        work = worker.execute(
            "select work_id, step, payload - '{run,now}'::text[], attempt, priority"
            " from ordinaut.exchange(%s, 'default', %s, 1)"
            " where kind = 'work'", [me, lease_id],
        ).fetchall()  # fmt: skip
        came.append([row[1:] for row in work])
        if work:
            error = '{"message": "HTTP 401", "retryable": false}'
            worker.execute(
                "select ordinaut.exchange(%s, 'default', null, 0, %s, %s, %s, %s, %s, '{7}')",
                [me, [lease_id], [work[0][0]], [outcome], ['{"n": 1.5}'], [error]],
            )  # fmt: skip
    worker.execute("select ordinaut.tick(), ordinaut.reap(), ordinaut.prune()")
    look = town.login()
    came += look.execute(
        "select r.state, r.attempt, r.output, r.error ->> 'message', r.retry,"
        " r.started_at between now() - interval '1 min' and now()"
        " from ordinaut.task_run as r order by r.state, r.output::text, r.retry::text"
    ).fetchall()
    came += look.execute(
        "select t.name, t.retry, t.schedule_expr, t.next_run > now()"
        " from ordinaut.task_status as t order by t.name"
    ).fetchall()
    came += look.execute(
        "select w.state, w.seen_at > now() - interval '1 min' from ordinaut.worker_status as w"
    ).fetchall()
    came += look.execute("select count(*) from ordinaut.due_work").fetchall()
    return came


def test_a_callers_settings_change_nothing(town: Town) -> None:
    dba = town.login("postgres", dbname="postgres")
    came = []
    groups = [{}, SETTINGS]
    if dba.info.server_version < 190000:  # later servers know no other way to read a literal
        groups.append({"standard_conforming_strings": "off", "escape_string_warning": "off"})
    for settings in groups:
        came.append(_life(town, settings))
        dba.execute("drop database town with (force)")
        dba.execute("create database town template capital")

    for other in came[1:]:
        assert other == came[0]


def test_settings_that_would_reach_the_engine_are_refused(
    town: Town, rows: Callable[..., Any]
) -> None:
    for login in ("viewer", "producer", "worker", "admin"):
        conn = town.login(login)
        conn.execute("do $$ begin end $$")  # plpgsql is loaded, and its settings with it
        for name, value in {
            "session_replication_role": "replica",
            "plpgsql.variable_conflict": "use_variable",
            "session_preload_libraries": "x",
            "log_statement": "none",
            "log_min_messages": "panic",
            "role": "ordinaut_owner",
            "session_authorization": "postgres",
        }.items():
            said = rows(conn, "select set_config(%s, %s, false)", name, value)
            assert said == "42501", (login, name)
