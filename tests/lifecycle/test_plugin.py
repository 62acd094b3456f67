"""
The plugin in somebody else's project: the built wheel on the path, and nothing of this checkout.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ordinaut.testing.postgres import Server

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

# What the guide shows.
PROJECT = {
    "shop.py": '''
import ordinaut
from ordinaut.tools.errors import Permanent

@ordinaut.tool
def reserve(sku: str) -> dict:
    if sku == "none":
        raise Permanent("sold out")
    return {"reserved": sku}

def pay(amount: int) -> int:
    return amount
''',
    "pytest.ini": "[pytest]\nordinaut_modules = shop\n",
    "test_shop.py": '''
from ordinaut.testing import StepAssertions, StepErrorSimulator

PIPELINE = [
    {"id": "reserve", "uses": "reserve", "with": {"sku": "${params.sku}"}, "save_as": "stock"},
    {"id": "pay", "uses": "python:shop.pay", "with": {"amount": 5}, "save_as": "paid"},
]

def test_an_order(ordinaut_orchestrator, ordinaut_clock):
    task = ordinaut_orchestrator.create_task("shop", "order", PIPELINE, {"sku": "a"})
    ordinaut_clock.settle()
    reserve, pay = ordinaut_orchestrator.get_task_steps(task)
    assert reserve.output == {"reserved": "a"}
    assert pay.output == 5

def test_no_stock_no_payment(ordinaut_db, ordinaut_orchestrator, ordinaut_worker):
    task = ordinaut_orchestrator.create_task("shop", "order", PIPELINE, {"sku": "none"})
    ordinaut_worker.drain()
    reserve, pay = ordinaut_orchestrator.get_task_steps(task)
    StepAssertions.assert_step_failed_permanently(ordinaut_db, reserve)
    StepAssertions.assert_step_blocked(ordinaut_db, pay)

def test_a_passing_failure(ordinaut_db, ordinaut_orchestrator, ordinaut_clock):
    task = ordinaut_orchestrator.create_task("shop", "order", PIPELINE, {"sku": "a"})
    reserve = ordinaut_orchestrator.get_first_step(task)
    StepErrorSimulator.simulate_external_service_error(ordinaut_db, reserve, 1, 30)
    at = ordinaut_clock.now
    StepAssertions.assert_step_waiting(ordinaut_db, reserve)
    assert (ordinaut_clock.advance_to_next_event() - at).total_seconds() == 30
    StepAssertions.assert_step_complete(ordinaut_db, reserve)

def test_every_test_has_a_database_of_its_own(ordinaut_db, ordinaut_client):
    assert ordinaut_client.enqueue("echo").outcome == "new"
    assert ordinaut_db.one("select count(*) from ordinaut.task") == 0
''',
}  # fmt: skip
IDLE = {
    "test_idle.py": '''
import os, sys

def test_nothing_of_ours_is_loaded_or_set(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("ordinaut")
    loaded = {name for name in sys.modules if name.startswith(("ordinaut", "psycopg", "pydantic"))}
    assert loaded == {"ordinaut", "ordinaut.version", "ordinaut.testing", "ordinaut.testing.plugin"}
    assert "ORDINAUT_ENV" not in os.environ
''',
}  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked: what `pip install` would put on the path."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, folder], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    site = folder / "site"
    zipfile.ZipFile(folder / done.stdout.split()[-1]).extractall(site)
    return site


def run(site: Path, folder: Path, files: dict[str, str], *flags: str, **environ: str) -> str:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ORDINAUT_", "TASKER_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *flags],
        cwd=folder, capture_output=True, text=True,
        env=kept | {"PYTHONPATH": str(site)} | environ,
    )  # fmt: skip
    return f"{done.stdout}\n{done.stderr}\nexit {done.returncode}"


@pytest.mark.parametrize("flags", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_a_foreign_project_tests_its_workflows(
    flags: list[str], installed: Path, tmp_path: Path, ordinaut_server: Server
) -> None:
    dsn = ordinaut_server.dsn
    said = run(installed, tmp_path / "shop", PROJECT, *flags, ORDINAUT_TEST_DSN=dsn)

    assert "4 passed" in said and said.endswith("exit 0"), said


def test_an_unused_plugin_does_nothing(installed: Path, tmp_path: Path) -> None:
    said = run(installed, tmp_path / "idle", IDLE, ORDINAUT_TEST_PG="7")

    assert "1 passed" in said, said


def test_without_a_server_one_sentence_says_why(installed: Path, tmp_path: Path) -> None:
    files = {"test_one.py": "def test_one(ordinaut_db): pass\n"}
    said = run(
        installed, tmp_path / "none", files, ORDINAUT_TEST_PG="7",
        DOCKER_HOST="unix:///nonexistent/docker.sock",
    )  # fmt: skip

    assert "no PostgreSQL 7 binaries" in said and "1 error" in said, said
    assert "Traceback" not in said and "postgres.py" not in said, said


def test_production_is_refused(installed: Path, tmp_path: Path) -> None:
    files = {"test_one.py": "def test_one(ordinaut_db): pass\n"}
    said = run(installed, tmp_path / "prod", files, ORDINAUT_ENV="production")

    assert "ORDINAUT_ENV=production: the test kit moves state as no worker would" in said, said
    assert "Set ORDINAUT_ENV=test, or leave it out." in said, said
    assert "1 error" in said and "Traceback" not in said and "environment.py" not in said, said
