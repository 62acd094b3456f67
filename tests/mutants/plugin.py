"""For pytest under the runner: the tests that killed a mutant of this function before go first."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    first = os.environ.get("ORDINAUT_TEST_FIRST", "").split("\n")
    rank = {nodeid: i for i, nodeid in enumerate(first)}
    items.sort(key=lambda item: rank.get(item.nodeid, len(rank)))
