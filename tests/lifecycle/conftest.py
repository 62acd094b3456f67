"""What the lifecycle suites share: where their templates are."""

from __future__ import annotations

from pathlib import Path

import pytest

from ordinaut.testing import TestOrchestrator


@pytest.fixture(scope="session")
def templates() -> Path:
    return Path(__file__).parents[1] / "fixtures" / "task_templates"


@pytest.fixture
def kit(ordinaut_orchestrator: TestOrchestrator) -> TestOrchestrator:
    return ordinaut_orchestrator
