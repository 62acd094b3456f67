"""
For pytest under the runner.

The first run, on the engine as it is, learns which test calls which function, from the server's
own counts (track_functions).  Then a mutant meets only the tests that call its function, and first
those that killed others of it.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

CALLS = "ORDINAUT_TEST_CALLS"  # a file to write: function to tests
CHOSEN = "ORDINAUT_TEST_CHOSEN"  # a file to read: the tests to run, in order

_calls: dict[str, list[str]] = defaultdict(list)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if file := os.environ.get(CHOSEN):
        rank = {nodeid: i for i, nodeid in enumerate(Path(file).read_text().splitlines())}
        config.hook.pytest_deselected(items=[i for i in items if i.nodeid not in rank])
        items[:] = sorted((i for i in items if i.nodeid in rank), key=lambda i: rank[i.nodeid])


@pytest.fixture(autouse=True)
def _counted(request: pytest.FixtureRequest) -> Iterator[None]:
    yield  # made first, it ends last: the sessions are closed, the database is there
    arguments = request.node.funcargs
    dsn = arguments.get("dsn") or arguments.get("shared_dsn") or arguments.get("prod_dsn")
    if CALLS in os.environ and dsn is not None:
        for function in _called(dsn):
            _calls[function].append(request.node.nodeid)


def _called(dsn: str) -> list[str]:
    """Return the functions that the sessions of this test called, or * when nobody can tell."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        # A session tells its counts when it ends, which may be a moment after it was closed.
        others = "select from pg_stat_activity as a where a.datname = current_database()" + (
            " and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'"
        )
        counted = "select f.funcname from pg_stat_user_functions as f where f.calls > 0"
        called: list[str] = []
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            left = conn.execute(others).fetchone() is None
            called = [name for (name,) in conn.execute(counted)]
            if left and called:
                break
            time.sleep(0.02)
        conn.execute("select pg_stat_reset()")
    return called or ["*"]


def pytest_sessionfinish() -> None:
    if file := os.environ.get(CALLS):
        Path(file).write_text(json.dumps(_calls))
