"""The checker of recorded histories: it finds nothing in a correct one, and each violation."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.history import History, load
from tests.chaos.invariants import Finding, decide
from tests.postgres import Databases
from tests.unit.checker_violations import VIOLATIONS, Break, Broken
from tests.unit.checker_world import World

ALL = [f"I{n}" for n in range(1, 26)]


@pytest.fixture(scope="module")
def recorded(
    databases: Databases, clock_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A correct history, recorded from the real engine."""
    directory = tmp_path_factory.mktemp("history")
    with databases.fresh(clock_template) as dsn:
        world = World(dsn, directory)
        try:
            yield world.record()
        finally:
            world.close()


@pytest.fixture(scope="module")
def frozen(recorded: Path) -> bytes:
    return pickle.dumps(load(recorded))


@pytest.fixture
def history(frozen: bytes) -> History:
    thawed: History = pickle.loads(frozen)
    return thawed


def violated(findings: list[Finding]) -> dict[str, list[str]]:
    return {f.id: [what for what, _ in f.violations] for f in findings if f.violations}


def test_a_correct_history_is_clean_and_everything_in_it_is_checked(history: History) -> None:
    findings = decide(history)

    assert violated(findings) == {}
    assert [f.id for f in findings] == ALL
    assert [f.id for f in findings if f.checked == 0] == ["I21"]


@pytest.mark.parametrize(
    ("id", "break_it"), VIOLATIONS, ids=[f"{id}-{function.__name__}" for id, function in VIOLATIONS]
)
def test_a_violation_is_found_by_its_invariant_alone(
    history: History, id: str, break_it: Break
) -> None:
    break_it(Broken(history))

    assert list(violated(decide(history))) == [id]


def test_every_invariant_that_is_decided_has_a_violation() -> None:
    assert {id for id, _ in VIOLATIONS} == set(ALL) - {"I21"}
