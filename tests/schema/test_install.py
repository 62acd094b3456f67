"""Install and upgrade: what is done, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import hashlib
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ordinaut import schema
from ordinaut.bundle import bundle
from ordinaut.errors import VersionSkew
from ordinaut.version import API
from tests.postgres import one

NOW = """
create or replace function ordinaut.now() returns timestamptz language sql stable
as $fn$ select statement_timestamp(); $fn$;
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tiny Ordinaut: one table, one function, and room for more."""
    (tmp_path / "migrations").mkdir()
    (tmp_path / "sql").mkdir()
    (tmp_path / "migrations" / "0001_thing.sql").write_text("create table ordinaut.thing (n int);")
    (tmp_path / "sql" / "load.sql").write_text("\\ir clock.sql\n")
    (tmp_path / "sql" / "clock.sql").write_text(NOW)
    return tmp_path


@pytest.fixture
def conn(clean_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(clean_dsn, autocommit=True) as conn:
        yield conn


def migration(tree: Path, name: str, text: str) -> None:
    (tree / "migrations" / f"{name}.sql").write_text(text)


def fingerprint(conn: psycopg.Connection[Any]) -> str:
    """Everything in the schema's catalogs, so that "nothing changed" can be said."""
    rows = conn.execute(
        "select c.relname, c.xmin::text, c.oid from pg_class as c"
        " where c.relnamespace = to_regnamespace('ordinaut')"
        " union all select p.proname, p.xmin::text, p.oid from pg_proc as p"
        " where p.pronamespace = to_regnamespace('ordinaut') order by 1, 2"
    ).fetchall()
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def test_it_runs_each_migration_once(conn: psycopg.Connection[Any], tree: Path) -> None:
    assert [m.file for m in schema.install(conn, tree)] == ["0001_thing.sql"]
    migration(tree, "0002_more", "alter table ordinaut.thing add column more int;")

    assert [m.file for m in schema.install(conn, tree)] == ["0002_more.sql"]

    assert schema.install(conn, tree) == []


def test_an_edited_migration_is_refused_by_name(conn: psycopg.Connection[Any], tree: Path) -> None:
    schema.install(conn, tree)
    before = fingerprint(conn)
    migration(tree, "0001_thing", "create table ordinaut.thing (n bigint);")
    migration(tree, "0002_more", "create table ordinaut.more ();")

    with pytest.raises(schema.MigrationEdited, match="0001_thing"):
        schema.install(conn, tree)

    assert fingerprint(conn) == before


def test_a_database_newer_than_the_package_is_refused(
    conn: psycopg.Connection[Any], tree: Path
) -> None:
    migration(tree, "0002_more", "create table ordinaut.more ();")
    schema.install(conn, tree)
    before = fingerprint(conn)
    (tree / "migrations" / "0002_more.sql").unlink()

    with pytest.raises(VersionSkew, match="0002_more"):
        schema.install(conn, tree)

    assert fingerprint(conn) == before


def test_a_newer_api_is_refused(conn: psycopg.Connection[Any], tree: Path) -> None:
    schema.install(conn, tree)
    conn.execute(
        "insert into ordinaut.loaded_code values ('9', 'x', %s, now() + interval '1 s')", [API + 1]
    )
    before = fingerprint(conn)

    with pytest.raises(VersionSkew):
        schema.install(conn, tree)
    with pytest.raises(VersionSkew):
        schema.check_api(conn)

    assert fingerprint(conn) == before


def test_a_migration_out_of_order_is_refused(conn: psycopg.Connection[Any], tree: Path) -> None:
    migration(tree, "0003_third", "create table ordinaut.third ();")
    schema.install(conn, tree)
    migration(tree, "0002_late", "create table ordinaut.late ();")

    with pytest.raises(schema.SchemaError, match="0002_late"):
        schema.install(conn, tree)


def test_an_old_server_is_refused() -> None:
    with pytest.raises(schema.SchemaError, match="14"):
        schema._check_server(140012)
    schema._check_server(150000)


def test_a_foreign_schema_is_refused(conn: psycopg.Connection[Any], tree: Path) -> None:
    conn.execute("create schema ordinaut create table precious (n int)")
    before = fingerprint(conn)

    with pytest.raises(schema.SchemaError, match="precious"):
        schema.install(conn, tree)

    assert fingerprint(conn) == before


def test_an_empty_schema_is_used(conn: psycopg.Connection[Any], tree: Path) -> None:
    conn.execute("create schema ordinaut")

    assert len(schema.install(conn, tree)) == 1


def test_a_half_installed_schema_is_refused(conn: psycopg.Connection[Any], tree: Path) -> None:
    schema.install(conn, tree)
    conn.execute("truncate ordinaut.schema_migration")

    with pytest.raises(schema.SchemaError, match="half installed"):
        schema.install(conn, tree)


def test_broken_code_names_its_file_and_line_and_changes_nothing(
    conn: psycopg.Connection[Any], tree: Path
) -> None:
    (tree / "sql" / "clock.sql").write_text(NOW + "\nselect nonsense;\n")

    with pytest.raises(schema.SchemaError, match=r"sql/clock\.sql line 5"):
        schema.install(conn, tree)

    assert one(conn, "select to_regnamespace('ordinaut') is null")


def test_a_role_without_rights_is_told_which(
    conn: psycopg.Connection[Any], clean_dsn: str, tree: Path
) -> None:
    with psycopg.connect(clean_dsn) as lowly:
        database = lowly.info.dbname
        role = f"{database}_lowly"
        conn.execute(f"create role {role}")
        try:
            lowly.execute(f"set session authorization {role}")
            lowly.commit()

            with pytest.raises(schema.SchemaError, match="may not install") as refused:
                schema.install(lowly, tree)
            assert "grant create on database" in refused.value.hint
        finally:
            lowly.close()
            conn.execute(f"drop role {role}")


def test_an_ordinary_role_may_install_into_its_own_database(
    conn: psycopg.Connection[Any], clean_dsn: str
) -> None:
    with psycopg.connect(clean_dsn) as owner:
        database = owner.info.dbname
        role = f"{database}_owner"
        conn.execute(f"create role {role}")
        try:
            conn.execute(f"grant create on database {database} to {role}")
            owner.execute(f"set session authorization {role}")
            owner.commit()

            assert schema.install(owner) != []
            assert schema.install(owner) == []
        finally:
            owner.close()
            conn.execute(f"drop owned by {role}")
            conn.execute(f"drop role {role}")


def test_an_open_transaction_is_refused(clean_dsn: str, tree: Path) -> None:
    with psycopg.connect(clean_dsn) as busy:
        busy.execute("select 1")

        with pytest.raises(schema.SchemaError, match="open transaction"):
            schema.install(busy, tree)


@pytest.mark.parametrize("fresh", [True, False])
def test_a_migration_without_transaction_runs_alone(
    conn: psycopg.Connection[Any], tree: Path, fresh: bool
) -> None:
    if not fresh:
        schema.install(conn, tree)
    migration(tree, "0002_more", "alter table ordinaut.thing add column more int;")
    migration(
        tree,
        "0003_idx",
        "-- 0003_idx: more; sooner\n-- ordinaut: no transaction\n"
        "drop index concurrently if exists ordinaut.thing_idx;\n"
        "create index concurrently thing_idx\n  on ordinaut.thing (more);\n",
    )
    migration(tree, "0004_last", "alter table ordinaut.thing add column last int;")

    ran = [m.version for m in schema.install(conn, tree)]

    assert ran == ([1, 2, 3, 4] if fresh else [2, 3, 4])
    assert one(
        conn, "select indisvalid from pg_index where indexrelid = 'ordinaut.thing_idx'::regclass"
    )
    assert (
        one(
            conn,
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        )
        == 0
    )
    assert schema.install(conn, tree) == []


def test_two_installs_at_once_take_turns(conn: psycopg.Connection[Any], clean_dsn: str) -> None:
    """Race: install, install.  Both begin together; one does the work, the other finds it done."""
    start = threading.Barrier(2)

    def deploy() -> int:
        # The isolation of the role must not make the second blind to the first, nor a
        # lock_timeout make it give up.
        with psycopg.connect(
            clean_dsn, options="-c lock_timeout=1 -c default_transaction_isolation=serializable"
        ) as mine:
            start.wait()
            return len(schema.install(mine))

    with ThreadPoolExecutor(2) as pool:
        ran = [f.result() for f in [pool.submit(deploy), pool.submit(deploy)]]

    assert sorted(ran) == [0, len(schema.migrations())]
    assert one(conn, "select count(*) from ordinaut.loaded_code") == 1


def test_an_install_waits_for_the_one_before_it(session: Any, dsn: str) -> None:
    """Race: install holds the lock; the next one blocks, and goes on after its commit."""
    first = session("first")
    first.run("select pg_advisory_xact_lock(hashtext('ordinaut.schema'))")
    second = session("second")
    second._pending = second._pool.submit(schema.install, second.conn)

    second.wait_blocked(by=first)
    first.commit()

    assert second.result() == []


def test_an_install_gives_way_to_a_reader_and_then_succeeds(
    conn: psycopg.Connection[Any], clean_dsn: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Race: install meets a long reader.  It gives up its place in the queue for locks and
    comes back, so that callers behind it are served meanwhile."""
    schema.install(conn, tree)
    migration(tree, "0002_more", "alter table ordinaut.thing add column more int;")
    reader = psycopg.connect(clean_dsn)
    reader.execute("select * from ordinaut.thing")
    monkeypatch.setattr(schema, "_DDL_LOCK_TIMEOUT", "50ms")
    given_way: list[float] = []

    def let_the_reader_end(seconds: float) -> None:
        given_way.append(seconds)
        reader.close()

    monkeypatch.setattr(schema.time, "sleep", let_the_reader_end)

    assert [m.version for m in schema.install(conn, tree)] == [2]
    assert len(given_way) == 1


def test_a_lock_that_is_never_released_is_reported(
    conn: psycopg.Connection[Any], clean_dsn: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.install(conn, tree)
    migration(tree, "0002_more", "alter table ordinaut.thing add column more int;")
    monkeypatch.setattr(schema, "_DDL_LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(schema, "_LOCK_PATIENCE", 0.0)

    with psycopg.connect(clean_dsn) as reader:
        reader.execute("select * from ordinaut.thing")
        with pytest.raises(schema.SchemaError, match="locked by other sessions"):
            schema.install(conn, tree)


def test_check_api(conn: psycopg.Connection[Any], tree: Path) -> None:
    with pytest.raises(schema.SchemaError, match="not installed"):
        schema.check_api(conn)
    schema.install(conn, tree)

    schema.check_api(conn)


def test_the_bundle_refuses_a_database_in_use(prod_dsn: str, psql: str) -> None:
    done = subprocess.run(
        [psql, "-X", "-v", "ON_ERROR_STOP=1", "-d", prod_dsn],
        input=bundle(),
        capture_output=True,
        text=True,
    )

    assert done.returncode != 0
    assert "already in use" in done.stderr


def test_partitions_exist_after_install(prod_dsn: str) -> None:
    with psycopg.connect(prod_dsn) as conn:
        for table in ("task_run", "run_log", "occurrence"):
            ahead = one(
                conn, "select count(*) from pg_inherits where inhparent = %s::regclass",
                f"ordinaut.{table}",
            )  # fmt: skip
            assert ahead > 1, table
