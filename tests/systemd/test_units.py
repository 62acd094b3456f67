"""
The units as text: systemd finds nothing to say of them, and little that they leave open.

`systemd-analyze verify` exits with 0 when it has only warned, of a misspelt key too; so any word
of it is a failure.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.systemd.conftest import skip_or_fail
from tests.systemd.machine import UNITS

# What is left is what they need: the network and sockets, and for tools the host's own files.
EXPOSURE = {"ordinaut-worker@.service": 1.8, "ordinaut-scheduler.service": 1.4}


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A copy of the units whose program exists here."""
    if not shutil.which("systemd-analyze"):
        skip_or_fail("not installed: systemd-analyze")
    shutil.copytree(UNITS, tmp_path, dirs_exist_ok=True)
    for unit in tmp_path.glob("*.service"):
        unit.write_text(unit.read_text().replace("/opt/ordinaut/bin/ordinaut", sys.executable))
    return tmp_path


def analyze(*args: str | Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.mark.parametrize("name", [u.name for u in UNITS.iterdir() if u.suffix != ".env"])
def test_verify_prints_nothing(units: Path, name: str) -> None:
    assert analyze("verify", units / name) == ""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("Type=notify", "Type=notfy"),
        ("WatchdogSec=", "WatchDogSecs="),
        ("ordinaut.slice", "ordinaut slice"),
        ("@system-service", "@system-servise"),
    ],
)
def test_a_typo_is_caught(units: Path, right: str, wrong: str) -> None:
    unit = units / "ordinaut-worker@.service"
    unit.write_text(unit.read_text().replace(right, wrong))

    assert analyze("verify", unit) != ""


@pytest.mark.parametrize("name", EXPOSURE)
def test_little_is_left_open(units: Path, name: str) -> None:
    said = analyze("security", "--offline=true", "--no-pager", units / name)

    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", said)
    assert found, said
    assert float(found[1]) <= EXPOSURE[name], said
