"""`ordinaut dev`: real work in real processes, nothing left behind, and it takes up again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ordinaut.embedded import running_dsn


def environment() -> dict[str, str]:
    ours = ("ORDINAUT_", "DATABASE_URL")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return kept | {"PYTHONPATH": str(Path(__file__).parents[2])}


def dev(data: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ordinaut", "dev", "--data", str(data), *options]
    return subprocess.Popen(
        command, cwd=data, env=environment(), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def children(data: Path) -> list[str]:
    """Command lines of processes that run in the data directory's work/."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == (data / "work").resolve():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_the_demo_shows_every_task_and_takes_up_where_it_left_off(tmp_path: Path):
    with dev(tmp_path, "--seconds", "10") as first:
        said = first.communicate(timeout=60)[0]

    assert first.returncode == 0, said
    assert "5 created" in said
    assert "psql" in said
    assert "host/unsteady" in said
    assert "OSError: the sensor does not answer (attempt 2)" in said
    summary = said[said.index("runs ended in") :]
    for task in ("sample", "rollup", "archive", "rotate", "unsteady"):
        assert f"host/{task}" in summary, said
    assert "failed" not in summary
    assert (tmp_path / "work" / "archive" / "samples.tar").stat().st_size > 0
    assert children(tmp_path) == []
    assert running_dsn(tmp_path) is None

    with dev(tmp_path) as second:
        assert second.stdout is not None
        lines = iter(second.stdout)
        assert any("5 unchanged" in line for line in lines)
        assert any("host/sample" in line and "success" in line for line in lines)
        second.send_signal(signal.SIGINT)  # Ctrl-C
        rest = second.communicate(timeout=30)[0]

    assert second.returncode == 0, rest
    assert "runs ended in" in rest
    assert "KeyboardInterrupt" not in rest
    assert "/ordinaut/" not in rest  # what failed is a task's, and no frame of ours
    assert children(tmp_path) == []
    assert running_dsn(tmp_path) is None


def test_a_broken_manifest_starts_nothing(tmp_path: Path):
    (tmp_path / "m.yaml").write_text("tasks:\n  - {name: a}\n")
    with dev(tmp_path, "--manifest", "m.yaml") as process:
        said = process.communicate(timeout=30)[0]
    assert process.returncode == 78
    assert "m.yaml:2: tasks[0]: uses is missing" in said
    assert not (tmp_path / "pg").exists()
