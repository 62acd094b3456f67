"""The example of a run of steps, as its head says to run it: fetched, approved, loaded, told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "orders.py"


def test_orders_go_from_the_shop_to_the_table():
    env = os.environ | {"PYTHONPATH": str(EXAMPLE.parents[1])}
    done = subprocess.run(
        [sys.executable, EXAMPLE], env=env, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=90,
    )  # fmt: skip
    said = done.stdout
    assert done.returncode == 0, f"{said}\n{done.stderr}"
    assert '"GET /orders.json HTTP/1.1" 503' in said, "the shop was busy, and asked again"
    assert "Load sales of 1290.0? The limit is 1000." in said
    assert "loaded    1 Ada Lovelace 980" in said
    assert "loaded    2 Grace Hopper 310" in said
    assert 'the shop was told {"rows": 2, "total": 1290.0}' in said
