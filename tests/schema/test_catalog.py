"""The database is linted where it lives: in its own catalog."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
import pytest

from ordinaut.errors import OrdinautError

# rule: the query for what breaks it, over `f`, the functions of the schema
BREAKERS: dict[str, LiteralString] = {
    "a definer has a pinned search path": """
        select f.name from f
        where
          f.prosecdef
          and not 'search_path=pg_catalog, pg_temp' = any (coalesce(f.proconfig, '{}'))
    """,
    "an API function that writes is a definer": """
        select f.name from f
        where
          f.provolatile = 'v'
          and f.proname !~ '^_'
          and f.proname <> 'uuid_generate_v7'  -- draws at random, and writes nothing
          and not f.prosecdef
    """,
    "a function says what it is for": """
        select f.name from f where obj_description(f.oid, 'pg_proc') is null
    """,
    "a view says what it is for": """
        select c.oid::regclass::text
        from pg_class as c
        where
          c.relnamespace = 'ordinaut'::regnamespace
          and c.relkind = 'v'
          and obj_description(c.oid, 'pg_class') is null
    """,
    "an argument is called p_something": """
        select f.name
        from f
        cross join generate_series(1, f.pronargs) as i
        where coalesce(f.proargnames[i], '') !~ '^p_'
    """,
    "public may execute nothing": """
        select f.name from f where has_function_privilege('public', f.oid, 'execute')
    """,
    "public may read nothing": """
        select c.oid::regclass::text
        from pg_class as c
        where
          c.relnamespace = 'ordinaut'::regnamespace
          and c.relkind in ('r', 'p', 'v', 'S')
          and has_table_privilege('public', c.oid, 'select, insert, update, delete, truncate')
    """,
    "nobody has rights on a table": """
        select c.oid::regclass::text
        from pg_class as c
        cross join aclexplode(c.relacl) as a
        where
          c.relnamespace = 'ordinaut'::regnamespace
          and c.relkind in ('r', 'p', 'S')
          and a.grantee <> c.relowner
    """,
    "an API function is granted to a role": """
        select f.name
        from f
        where
          f.proname !~ '^_'
          and f.prorettype <> 'trigger'::regtype
          and not exists (
            select from aclexplode(f.proacl) as a where a.grantee not in (0, f.proowner)
          )
    """,
    "a view is granted to a role": """
        select c.oid::regclass::text
        from pg_class as c
        where
          c.relnamespace = 'ordinaut'::regnamespace
          and c.relkind = 'v'
          and c.relname !~ '^_'
          and not exists (
            select from aclexplode(c.relacl) as a where a.grantee not in (0, c.relowner)
          )
    """,
    "a function has no overloads": """
        select f.proname::text from f group by f.proname having count(*) > 1
    """,
    "a constraint has a name of its own": """
        select k.conrelid::regclass || '.' || k.conname
        from pg_constraint as k
        where
          k.connamespace = 'ordinaut'::regnamespace
          and k.contype in ('c', 'f', 'p', 'u', 'x')
          and k.conparentid = 0
          and not (select c.relispartition from pg_class as c where c.oid = k.conrelid)
          and k.conname ~ '_(check|pkey|fkey)[0-9]*$'
    """,
    "ordinaut.now() is the only clock": r"""
        select f.name
        from f
        where
          f.proname <> 'now'
          and regexp_replace(f.prosrc, '/\*.*?\*/|--[^\n]*|''[^'']*''', '', 'g')
            ~* '(?<!ordinaut\.)\mnow\(\)|clock_timestamp|statement_timestamp|transaction_timestamp'
               '|current_(timestamp|date|time)|localtime'
    """,
    "no literal has a backslash, which would mean what the caller's settings say": r"""
        select f.name from f
        where
          regexp_replace(
            f.prosrc, '/\*.*?\*/|--[^\n]*|\$re\$.*?\$re\$|[^\\'']', '', 'g') ~ '\\'
    """,
    "the shipped clock has no hook": """
        select f.name
        from f
        where f.proname = 'now' and (f.prosrc ~* 'setting|coalesce' or f.provolatile <> 's')
    """,
    "a default, a check and an index call none of our functions": """
        select d.classid::regclass || ' ' || d.objid
        from pg_depend as d
        join f on f.oid = d.refobjid and d.refclassid = 'pg_proc'::regclass
        where d.classid in ('pg_attrdef'::regclass, 'pg_constraint'::regclass)
        union all
        select d.objid::regclass::text
        from pg_depend as d
        join f on f.oid = d.refobjid and d.refclassid = 'pg_proc'::regclass
        join pg_index as i on i.indexrelid = d.objid
        where d.classid = 'pg_class'::regclass
    """,
}

_FUNCTIONS: LiteralString = """
with f as (
  select p.*, p.oid::regprocedure::text as name
  from pg_proc as p
  where p.pronamespace = 'ordinaut'::regnamespace
)
"""


@pytest.fixture(scope="module")
def shipped(databases: Any, prod_template: str) -> Iterator[psycopg.Connection[Any]]:
    with (
        databases.fresh(prod_template) as dsn,
        psycopg.connect(dsn, autocommit=True) as conn,
    ):
        yield conn


@pytest.mark.parametrize("rule", BREAKERS)
def test_rule(shipped: psycopg.Connection[Any], rule: str) -> None:
    assert [name for (name,) in shipped.execute(_FUNCTIONS + BREAKERS[rule])] == []


def test_every_error_code_has_a_class_and_the_reverse(shipped: psycopg.Connection[Any]) -> None:
    in_sql = {code for (code,) in shipped.execute("select e.code from ordinaut.error_code as e")}

    assert {code for code in in_sql if code.startswith("OR")} == {
        kind.sqlstate for kind in _subclasses(OrdinautError) if kind.sqlstate
    }


def _subclasses(kind: type[OrdinautError]) -> Iterator[type[OrdinautError]]:
    for sub in kind.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def test_plpgsql_check_is_silent(shipped: psycopg.Connection[Any]) -> None:
    available = shipped.execute(
        "select from pg_available_extensions as e where e.name = 'plpgsql_check'"
    ).fetchone()
    if available is None:
        required = os.environ.get("CI") and shipped.info.server_version < 160000
        assert not required, "apt install postgresql-15-plpgsql-check"
        pytest.skip("this server has no plpgsql_check; CI runs it on PostgreSQL 15")
    shipped.execute("create extension plpgsql_check")

    said = shipped.execute(
        """
        select format('%s:%s %s: %s', p.oid::regprocedure, m.lineno, m.level, m.message)
        from pg_proc as p
        join pg_language as l on l.oid = p.prolang and l.lanname = 'plpgsql'
        left join pg_trigger as t on t.tgfoid = p.oid and t.tgparentid = 0
        cross join lateral plpgsql_check_function_tb(
          p.oid,
          coalesce(t.tgrelid, 0),
          oldtable => t.tgoldtable,
          newtable => t.tgnewtable,
          fatal_errors => false,
          performance_warnings => false
        ) as m
        where p.pronamespace = 'ordinaut'::regnamespace
        """
    ).fetchall()

    assert [line for (line,) in said] == []
