"""The examples that a new user applies: accepted, planned, previewed, and applied again."""

from __future__ import annotations

from pathlib import Path

import pytest

from ordinaut import calls, db, planner
from ordinaut.cli.main import invoke

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["schedules.yaml", "host.yaml", "orders.yaml"])
def test_an_example(name, dsn, capsys):
    file = str(EXAMPLES / name)
    assert invoke(["task", "apply", file, "--dsn", dsn]) == 0
    with db.connect(dsn, name="test") as conn:
        while planner.step(conn)[0]:
            pass
        tasks = calls.list_tasks(conn)
        assert {task.status for task in tasks} == {"active"}
        told = {t.name for t in tasks if t.next_run is None}
        assert told <= {"when-the-queue-is-long"}  # nobody knows when
        capsys.readouterr()
        for task in tasks:
            full = f"{task.namespace}/{task.name}"
            code = invoke(["task", "preview", full, "-n", "3", "--dsn", dsn])
            said = capsys.readouterr()
            assert code == (2 if task.schedule_kind == "condition" else 0), said
            assert "20" in said.out or "nobody knows when" in said.err
    assert invoke(["task", "apply", file, "--dsn", dsn]) == 0
    assert "created" not in (said := capsys.readouterr().out)
    assert "updated" not in said
