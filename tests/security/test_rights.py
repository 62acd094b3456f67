"""Who may call, read and change what: the table in sql/grants.sql, in both directions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.postgres import one
from tests.security.conftest import LOGINS, ROOT, Town

ROLES = ["viewer", "producer", "worker", "admin"]
GRANTS = {
    name: set(roles.split(","))
    for name, roles in re.findall(
        r"\('(\w+)', '\{([a-z,]+)\}'", (ROOT / "sql/grants.sql").read_text()
    )
}
VIEWS = {
    "run", "work", "task_status", "queue_depth", "worker_status", "late", "failing", "error_code",
    "error_category", "error_class", "breaker_status", "legal_transition", "step_status",
    "step_edge",
}  # fmt: skip
DENIED = "42501"


def test_each_function_is_for_the_roles_of_the_table_and_nobody_else(town: Town) -> None:
    dba = town.login()
    found = dba.execute(
        """
        select p.oid::regprocedure::text, p.proname, r.rolname,
          has_function_privilege(r.rolname, p.oid, 'execute')
        from pg_proc as p
        cross join pg_roles as r
        where p.pronamespace = 'ordinaut'::regnamespace and r.rolname = any (%s)
        """,
        [[*(f"ordinaut_{role}" for role in ROLES), "stranger"]],
    ).fetchall()

    wrong = [
        (signature, role, may)
        for signature, name, role, may in found
        if may != (role.removeprefix("ordinaut_") in GRANTS.get(name, ()))
    ]
    assert wrong == []
    assert {name for _, name, _, _ in found} > GRANTS.keys()
    assert len(found) > 5 * 300


def test_no_role_has_a_right_on_a_table_and_views_are_for_those_who_look(town: Town) -> None:
    found = (
        town.login()
        .execute(
            """
        select c.relname, c.relkind::text, r.rolname, p.privilege
        from pg_class as c
        cross join pg_roles as r
        cross join unnest(array[
          'select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger'
        ]) as p (privilege)
        where
          c.relnamespace = 'ordinaut'::regnamespace
          and c.relkind in ('r', 'p', 'v', 'm', 'f')
          and r.rolname = any (%s)
          and (
            has_table_privilege(r.rolname, c.oid, p.privilege)
            or p.privilege in ('select', 'insert', 'update', 'references')
              and has_any_column_privilege(r.rolname, c.oid, p.privilege)
          )
        """,
            [[*(f"ordinaut_{role}" for role in ROLES), "stranger"]],
        )
        .fetchall()
    )

    assert {row[:2] + row[3:] for row in found if row[2] == "ordinaut_viewer"} == {
        (view, "v", "select") for view in VIEWS
    }
    assert {row[2] for row in found} == {"ordinaut_viewer", "ordinaut_admin"}
    assert {row[0] for row in found} == VIEWS


def test_nobody_may_make_anything_in_the_schema(town: Town) -> None:
    dba = town.login()
    for login in set(LOGINS) - {"deployer"}:
        for what in ("create", "usage"):
            may = one(dba, "select has_schema_privilege(%s, 'ordinaut', %s)", login, what)
            assert may == (what == "usage" and login != "stranger"), (login, what)


def test_the_owner_cannot_log_in_and_is_no_superuser(town: Town) -> None:
    owners = (
        town.login()
        .execute(
            """
        select distinct r.rolname, r.rolcanlogin, r.rolsuper, r.rolbypassrls, r.rolcreaterole
        from pg_roles as r
        where r.oid in (
          select p.proowner from pg_proc as p where p.pronamespace = 'ordinaut'::regnamespace
          union all
          select c.relowner from pg_class as c where c.relnamespace = 'ordinaut'::regnamespace
          union all
          select n.nspowner from pg_namespace as n where n.nspname = 'ordinaut'
          union all
          select t.typowner from pg_type as t where t.typnamespace = 'ordinaut'::regnamespace
        )
        """
        )
        .fetchall()
    )

    assert owners == [("ordinaut_owner", False, False, False, False)]


def test_a_definer_ends_its_search_path_with_the_callers_temporary_schema(town: Town) -> None:
    loose = (
        town.login()
        .execute(
            """
        select p.oid::regprocedure::text
        from pg_proc as p
        where
          p.pronamespace = 'ordinaut'::regnamespace
          and p.prosecdef
          and not exists (
            select from unnest(p.proconfig) as c where c = 'search_path=pg_catalog, pg_temp'
          )
        """
        )
        .fetchall()
    )

    assert loose == []


def test_what_the_owner_makes_later_is_nobodys(town: Town, rows: Callable[..., Any]) -> None:
    owner = town.login("deployer", options="-c role=ordinaut_owner")
    owner.execute("create function ordinaut.later() returns int language sql as 'select 1'")
    owner.execute("create table ordinaut.later (n int)")

    for login in set(LOGINS) - {"deployer"}:
        conn = town.login(login)
        assert rows(conn, "select ordinaut.later()") == DENIED, login
        assert rows(conn, "select * from ordinaut.later") == DENIED, login


@pytest.mark.parametrize("login", [*ROLES, "stranger"])
def test_a_role_does_its_part_and_touches_no_table(
    town: Town, rows: Callable[..., Any], login: str
) -> None:
    admin = town.login("admin")
    admin.execute("select ordinaut.enqueue('echo')")
    admin.execute("select ordinaut.create_task('t', 'echo')")
    conn = town.login(login)
    parts = {
        "select lease_id from ordinaut.lease_work('me')": {"worker", "admin"},
        "select count(*) from ordinaut.tick()": {"worker", "admin"},
        "select ordinaut.enqueue('echo')": {"producer", "admin"},
        "select count(*) from ordinaut.list_runs()": {"viewer", "producer", "admin"},
        "select count(*) from ordinaut.run": {"viewer", "admin"},
        "select ordinaut.pause_task('t')": {"admin"},
        "select ordinaut._journal('forged')": set[str](),
    }
    for statement, roles in parts.items():
        answer = rows(conn, statement)
        assert (answer != DENIED) == (login in roles), (statement, answer)
    for table in ("task", "due_work", "lease", "task_run", "run_log", "loaded_code"):
        for statement in (
            "select from ordinaut.{}", "delete from ordinaut.{}", "truncate ordinaut.{}",
            "drop table ordinaut.{}", "alter table ordinaut.{} disable trigger all",
            "alter table ordinaut.{} owner to current_user", "copy ordinaut.{} to stdout",
            "create trigger t before insert on ordinaut.{} execute function f()",
        ):  # fmt: skip
            assert rows(conn, statement.format(table)) == DENIED, statement.format(table)
    for statement in (
        "update ordinaut.task_run set state = 'success'",
        "update ordinaut.worker set seen_at = 'infinity'",
        "insert into ordinaut.run_log (event) values ('forged')",
        "drop view ordinaut.run cascade",
        "drop function ordinaut.now() cascade",
        "create or replace function ordinaut.now() returns timestamptz language sql as 'select 1'",
        "create table ordinaut.mine (n int)",
        "drop schema ordinaut cascade",
        "set role ordinaut_owner",
        "set session_replication_role = replica",
        "select pg_read_file('/etc/passwd')",
    ):
        assert rows(conn, statement) == DENIED, statement


def test_a_worker_leases_and_completes(town: Town) -> None:
    town.login("producer").execute("select ordinaut.enqueue('echo')")
    worker = town.login("worker")

    lease = one(worker, "select lease_id from ordinaut.lease_work('me')")
    assert one(worker, "select outcome from ordinaut.complete_work(%s)", lease) == "success"


def test_the_journal_is_append_only_even_for_its_owner(
    town: Town, rows: Callable[..., Any]
) -> None:
    """By mistake, that is: an owner may take the trigger away, and a superuser the table."""
    admin = town.login("admin")
    admin.execute("select ordinaut.pause_queue('q')")
    owner = town.login("deployer", options="-c role=ordinaut_owner")

    for conn in (owner, town.login()):
        for statement in (
            "update ordinaut.run_log set actor = 'nobody'",
            "delete from ordinaut.run_log",
            "truncate ordinaut.run_log",
        ):
            assert rows(conn, statement) == "OR010", statement
    assert rows(owner, "select actor from ordinaut.run_log where event = 'queue_paused'") == [
        ("admin",)
    ]
    for login in ("viewer", "producer", "worker", "admin", "stranger"):
        assert (
            rows(town.login(login), "alter table ordinaut.run_log disable trigger user") == DENIED
        )
