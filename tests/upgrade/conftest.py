"""
Another version of Ordinaut, made of this tree: a further migration, code that goes with it, and a
version number of its own.  It is installed by its own installer and works with its own workers.

    newer     the same API
    breaking  the next API
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ordinaut.version import API
from tests.loops.conftest import (  # noqa: F401  fixtures of real workers
    ROOT,
    db,
    ended,
    enqueue,
    witness,
    worker,
)

MIGRATION = """
alter table ordinaut.task_run add column remark text;
alter table ordinaut.due_work add column hint text;
alter table ordinaut.parked add column hint text;
alter type ordinaut.work_item add attribute hint text;
create index due_work_hint_idx on ordinaut.due_work (hint) where hint is not null;
"""


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "newer", API)


@pytest.fixture
def breaking(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "breaking", API + 1)


def make_tree(root: Path, api: int) -> Path:
    for folder in ("ordinaut", "sql", "migrations"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    version = root / "ordinaut" / "version.py"
    text = re.sub(r'(__version__.*= )".*"', r'\1"9.9.0"', version.read_text())
    version.write_text(re.sub(r"(API.*= )\d+", rf"\g<1>{api}", text))
    (root / "migrations" / "0900_next.sql").write_text(MIGRATION)
    for file in (root / "sql").glob("*.sql"):  # the new attribute, where a row is made
        text = file.read_text()
        file.write_text(text.replace(")::ordinaut.work_item", ", null)::ordinaut.work_item"))
    return root


Installer = subprocess.Popen[str]


@pytest.fixture
def installing() -> Iterator[Callable[[Path, str], Installer]]:
    """installing(root, dsn): that version's own `ordinaut install`, under way."""
    started: list[Installer] = []

    def start(root: Path, dsn: str) -> Installer:
        done = subprocess.Popen(
            [sys.executable, "-m", "ordinaut", "--dsn", dsn, "install"],
            cwd=root,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(done)
        return done

    yield start
    for one in started:
        one.kill()
        one.communicate()


@pytest.fixture
def install(installing: Callable[[Path, str], Installer]) -> Callable[[Path, str], str]:
    """install(root, dsn): the same, done; returns what it said."""

    def run(root: Path, dsn: str, code: int = 0) -> str:
        one = installing(root, dsn)
        said, _ = one.communicate(timeout=60)
        assert one.returncode == code, said
        return said

    return run


@contextmanager
def locked(conn: Any, statement: str) -> Iterator[None]:
    """Hold what `statement` locks."""
    conn.execute("begin")
    conn.execute(statement)
    yield
    conn.execute("rollback")
