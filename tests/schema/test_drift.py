"""What is written twice must stay equal: files and databases, tree and wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import psycopg

from ordinaut import schema
from ordinaut.bundle import bundle
from tests.schema import snapshot

ROOT = Path(__file__).parents[2]
CATALOG = (Path(__file__).parent / "catalog.sql").read_text()


def catalog(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(CATALOG).fetchall()


def install(dsn: str) -> list[str]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return [m.file for m in schema.install(conn)]


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/|--[^\n]*", "", text, flags=re.DOTALL).lower()


def test_installing_again_changes_nothing(prod_dsn: str) -> None:
    before = catalog(prod_dsn)

    assert install(prod_dsn) == []

    assert catalog(prod_dsn) == before


def test_the_bundle_gives_what_install_gives(prod_dsn: str, clean_dsn: str, psql: str) -> None:
    done = subprocess.run(
        [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", clean_dsn],
        input=bundle(),
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert catalog(clean_dsn) == catalog(prod_dsn)
    assert install(clean_dsn) == []
    assert catalog(clean_dsn) == catalog(prod_dsn)


def test_load_sql_gives_what_install_gives(prod_dsn: str, psql: str) -> None:
    before = catalog(prod_dsn)

    done = subprocess.run(
        [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", prod_dsn, "-f", ROOT / "sql/load.sql"],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert catalog(prod_dsn) == before


def test_load_sql_names_every_file_once() -> None:
    assert sorted(schema.code()) == sorted(
        path.name for path in (ROOT / "sql").glob("*.sql") if path.name != "load.sql"
    )
    assert len(schema.code()) == (ROOT / "sql/load.sql").read_text().count("\\ir ")


def test_migrations_define_no_code() -> None:
    for m in schema.migrations():
        found = re.findall(
            r"create (?:or replace )?(?:function|procedure|view|trigger)", without_comments(m.text)
        )
        assert found == [], m.file


def test_sql_defines_no_tables() -> None:
    # At the start of a line: bodies are indented, and one of them makes partitions.
    tables = "create (?:unlogged )?(?:table|type|domain|(?:unique )?index|sequence)|alter table"
    for name, text in schema.code().items():
        assert re.findall(f"^(?:{tables})", without_comments(text), re.MULTILINE) == [], name


def test_migrations_are_numbered_without_gaps() -> None:
    assert [m.version for m in schema.migrations()] == list(range(1, len(schema.migrations()) + 1))


def test_the_snapshot_is_current(prod_dsn: str) -> None:
    with psycopg.connect(prod_dsn) as conn:
        assert snapshot.CURRENT.read_text() == snapshot.dump(conn), "run: make snapshot"


def test_the_wheel_has_every_file_as_it_is(tmp_path: Path) -> None:
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    wheel = zipfile.ZipFile(tmp_path / done.stdout.split()[-1])

    for packaged, folder, pattern in (
        ("ordinaut/_sql/", "sql", "*.sql"),
        ("ordinaut/_migrations/", "migrations", "*.sql"),
        ("ordinaut/", "ordinaut", "**/*.py"),
        ("ordinaut/", "ordinaut", "**/*.sql"),
    ):
        for path in (ROOT / folder).glob(pattern):
            name = packaged + path.relative_to(ROOT / folder).as_posix()
            assert wheel.read(name) == path.read_bytes(), name
    assert "ordinaut/py.typed" in wheel.namelist()
