"""Ctrl-C in the midst of chaos: no process, no mount and no file of it is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def below(folder: Path) -> list[str]:
    """The processes that were told of this folder, or stand in it."""
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            known = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
            if str(folder).encode() in known + os.fsencode(os.readlink(proc / "cwd")):
                found.append(f"{proc.name} {(proc / 'cmdline').read_text()}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_midst_of_a_fault(tmp_path: Path, signum: int) -> None:
    options = ["--minutes", "5", "--seed", "1", "--only", "starved_cpu"]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.chaos", *options],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as chaos:
        assert chaos.stdout is not None
        try:
            for line in chaos.stdout:
                if "starved_cpu" in line:
                    break
            assert below(tmp_path)
            chaos.send_signal(signum)
            _, said = chaos.communicate(timeout=90)
        finally:
            chaos.kill()
            if sys.exc_info()[0] is not None:  # what it left must not starve other tests
                for line in below(tmp_path):
                    os.kill(int(line.split(" ")[0]), signal.SIGKILL)

    assert chaos.returncode == 130, said
    assert below(tmp_path) == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    assert list(tmp_path.iterdir()) == []
