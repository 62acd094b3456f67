"""Installed by no superuser, run by logins of one role each, and gone without a trace."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from ordinaut import schema
from tests.loops.conftest import Running, wait_for
from tests.postgres import EmbeddedPostgres, one
from tests.security.conftest import LOGINS, ROLES, ROOT, Town


def test_the_roles_can_be_made_again_and_by_any_client(town: Town) -> None:
    dba = town.login()
    before = one(dba, "select count(*) from pg_roles")
    dba.execute(ROLES)
    dba.execute(ROLES)
    assert one(dba, "select count(*) from pg_roles") == before


def test_an_upgrade_by_another_leaves_all_with_the_owner(town: Town) -> None:
    for login in ("postgres", "deployer"):
        conn = town.login(login)
        conn.execute("drop function ordinaut.preview")
        schema.install(conn)
        assert one(
            town.login(),
            "select p.proowner::regrole::text from pg_proc as p"
            " where p.oid = 'ordinaut.preview'::regproc",
        ) == ("ordinaut_owner")
        assert one(conn, "select current_user::text") == login


def test_others_may_not_upgrade(town: Town) -> None:
    for login in set(LOGINS) - {"deployer"}:
        with pytest.raises(schema.SchemaError, match="may not install"):
            schema.install(town.login(login))


def test_reinstalling_keeps_what_was_granted(town: Town) -> None:
    dba = town.login()
    dba.execute("grant ordinaut_viewer to stranger")
    try:
        schema.install(town.login("deployer"))
        town.login("stranger").execute("select from ordinaut.run")
    finally:
        dba.execute("revoke ordinaut_viewer from stranger")


def test_an_owner_of_the_database_installs_without_any_role(
    city: EmbeddedPostgres, town: Town
) -> None:
    """Where there is no ordinaut_owner that it may become, it is the owner itself."""
    dba = town.login()
    dba.execute("drop schema ordinaut cascade")
    dba.execute("alter database town owner to stranger")

    owner = town.login("stranger")
    assert schema.install(owner)
    assert schema.install(owner) == []
    one(owner, "select run_id from ordinaut.enqueue('echo')")
    assert one(owner, "select count(*) from ordinaut.lease_work('me')") == 1
    dba.execute("drop schema ordinaut cascade")


def test_a_worker_and_a_scheduler_need_their_role_and_no_more(
    town: Town, worker: Callable[..., Running]
) -> None:
    admin = town.login("admin")
    admin.execute(
        "select ordinaut.create_task('often', 'echo', p_schedule_kind => 'cron',"
        " p_schedule_expr => '* * * * * *')"
    )
    admin.execute("select ordinaut.run_now('often', '{\"by\": \"hand\"}')")
    worker(town.dsn_of("worker"))
    scheduler = _scheduler(town.dsn_of("rival"))
    try:
        ended = (
            "select count(*) from ordinaut.run where state = 'success' and scheduled_for is {} null"
        )
        for which in ("", "not"):
            wait_for(lambda which=which: one(admin, ended.format(which)))
    finally:
        scheduler.terminate()
        assert scheduler.wait(15) == 0


def test_prune_drops_partitions_for_a_worker(town: Town) -> None:
    dba = town.login()
    dba.execute(
        "create table ordinaut.run_log_20200102 (like ordinaut.run_log including constraints);"
        "alter table ordinaut.run_log_20200102 owner to ordinaut_owner;"
        "alter table ordinaut.run_log attach partition ordinaut.run_log_20200102 for values"
        " from ('016f6423-0000-0000-0000-000000000000') to ('016f8830-0000-0000-0000-000000000000')"
    )
    dropped = town.login("worker").execute("select * from ordinaut.prune('1 day')").fetchall()
    assert ("run_log partitions dropped", 1) in dropped
    assert one(dba, "select to_regclass('ordinaut.run_log_20200102') is null")


def test_the_runbook_removes_it_without_a_trace(city: EmbeddedPostgres) -> None:
    section = (ROOT / "deploy/runbook.md").read_text().partition("## Removing it")[2]
    in_database, in_cluster = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)[:2]
    with psycopg.connect(city.dsn, autocommit=True) as dba:
        dba.execute("create database leaving")
        with psycopg.connect(city.dsn_of("leaving"), autocommit=True) as conn:
            before = _everything(conn)
            schema.install(conn)
            conn.execute("select ordinaut.enqueue('echo')")
            conn.execute(in_database)
            assert _everything(conn) == before
            left = conn.execute(
                "select d.* from pg_shdepend as d join pg_roles as r on r.oid = d.refobjid"
                " where r.rolname ~ '^ordinaut_' and d.dbid ="
                " (select b.oid from pg_database as b where b.datname = current_database())"
            ).fetchall()
            assert left == []
        dba.execute("drop database leaving")
        assert all(f"drop role {role}" in in_cluster for role in filter(None, LOGINS.values()))


def _everything(conn: psycopg.Connection[Any]) -> list[Any]:
    return conn.execute(
        "select 'schema', n.nspname from pg_namespace as n where n.nspname !~ '^pg_(toast_)?temp'"
        " union all select 'relation', c.relname from pg_class as c where c.oid >= 16384"
        " union all select 'function', p.proname from pg_proc as p where p.oid >= 16384"
        " union all select 'type', t.typname from pg_type as t where t.oid >= 16384"
        " union all select 'default', d.defaclacl::text from pg_default_acl as d order by 1, 2"
    ).fetchall()


def _scheduler(dsn: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "ordinaut", "--dsn", dsn, "scheduler"], cwd=ROOT)
