"""run-worker under the manager of a user, without any of the rights of root."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from tests.systemd.conftest import FAST, lacking, skip_or_fail
from tests.systemd.machine import ROOT, UserManager, wait_for

RUN_WORKER = str(ROOT / "deploy" / "run-worker")
UNIT = "ordinaut-run-default.service"


@pytest.fixture
def manager() -> Iterator[UserManager]:
    if why := lacking():
        skip_or_fail(why)
    manager = UserManager()
    try:
        yield manager
    finally:
        manager.stop()


@pytest.fixture
def program(tmp_path: Path) -> str:
    program = tmp_path / "ordinaut"
    program.write_text(
        f'#!/bin/sh\nexport PYTHONPATH={ROOT}\nexec {sys.executable} -m ordinaut "$@"\n'
    )
    program.chmod(0o755)
    return str(program)


def test_run_worker_needs_no_root(manager, program, prod_dsn, tmp_path, witness):
    env = tmp_path / "env"
    settings = {"ORDINAUT_DSN": make_conninfo(prod_dsn)} | FAST
    env.write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
    start = [RUN_WORKER, "--user", "--env", str(env), "--bin", program, "default"]

    manager.run(*start, "--", "--name", "mine")

    def show(name: str) -> str:
        return manager.run("systemctl", "--user", "show", "-P", name, UNIT)

    assert (show("ActiveState"), show("NoNewPrivileges")) == ("active", "yes")
    main = show("MainPID")
    manager.run("kill", "-9", main)
    wait_for(lambda: show("ActiveState") == "active" and show("MainPID") not in (main, "0"))
    manager.run("systemctl", "--user", "stop", UNIT)
    assert manager.run("systemctl", "--user", "is-active", UNIT, check=False) == "inactive"


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ([], 2, "which queue?"),
        (["a", "b"], 2, "one queue, please"),
        (["--concurrency", "8", "a"], 2, "those of the worker come after --"),
        (["--user", "--env", "/nonexistent", "a"], 78, "there are no settings in /nonexistent"),
        (["--user", "--env", "/dev/null", "--bin", "/nonexistent", "a"], 78, "there is no program"),
    ],
)
def test_a_mistake_is_one_sentence(args, code, says):
    done = subprocess.run([RUN_WORKER, *args], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr and "run-worker: " in done.stderr
