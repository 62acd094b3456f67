"""Stories in psql: each file of tests/sql, run as a reader would paste it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

STORIES = sorted(p for p in (Path(__file__).parent / "sql").glob("*.sql") if p.name[0] != "_")


def title(story: Path) -> str:
    first = story.read_text().partition("\n")[0]
    assert first.startswith("-- "), f"{story.name} begins with no title"
    return first.removeprefix("-- ").rstrip(".")


@pytest.mark.parametrize("story", STORIES, ids=[title(s) for s in STORIES])
def test_story(story: Path, shared_dsn: str, psql: str) -> None:
    done = subprocess.run(
        [psql, "-X", "-v", "ON_ERROR_STOP=1", "-d", shared_dsn, "-f", story],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
