"""Python tools: which may be called, what they get, and what becomes of what they do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ordinaut.tools import registry
from tests.unit.child import HANDS, Child, unit_of
from tests.unit.child import child as child


@pytest.fixture
def runner(child: Callable[..., Child]) -> Child:
    return child()


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "TOOLS", {})
    yield


def test_functions_are_called_by_their_own_name_or_by_their_path(runner: Child) -> None:
    for name in ("greet", f"python:{HANDS}.greet"):
        assert runner.run(name, {"name": "you"}) == ("success", "Hello, you")


def test_async_functions_are_too(runner: Child) -> None:
    assert runner.run("math.add", {"a": 1, "b": 2}) == ("success", 3)


@pytest.mark.parametrize(
    ("name", "code", "retryable"),
    [
        ("python:os.system", "E8001", False),
        ("python:antigravity.webbrowser", "E8001", False),
        ("python:tests.unit.child.unit_of", "E8001", False),  # not decorated, not listed
        (f"python:{HANDS}.Permanent", "E8001", False),  # listed, but somebody else's
        (f"python:{HANDS}.os", "E8001", False),
        (f"python:{HANDS}.__name__", "E8001", False),
        ("python:sleep", "E8001", False),
        (f"python:{HANDS}.missing", "E7001", True),
        ("python:no.such.module.x", "E7001", True),
        ("python:tests..x", "E7001", True),
    ],
)
def test_what_is_no_tool_is_not_called(
    runner: Child, name: str, code: str, retryable: bool
) -> None:
    outcome, error = runner.run(name, {"command": "touch /tmp/owned"})

    assert (outcome, error["code"], error["retryable"]) == ("failed", code, retryable)


def test_a_strict_worker_does_not_even_import_other_modules(child: Callable[..., Child]) -> None:
    runner = child(tools={"python": {"modules": [], "strict": True}})

    assert runner.hand("greet", {"name": "x"})[1]["code"] == "E8001"


def test_a_payload_that_does_not_fit_is_refused_before_the_tool_runs(runner: Child) -> None:
    outcome, error = runner.run("greet", {"name": 5})

    assert outcome == "failed"
    assert error["message"] == "name: 5 is not of type 'string'"
    assert (error["code"], error["retryable"], error["traceback"]) == ("E2002", False, None)
    assert runner.run("greet", {})[1]["message"] == "name: missing"
    assert runner.run("math.add", {"a": "x", "b": 1})[1]["message"].startswith("a: ")


@pytest.mark.parametrize(
    ("kind", "outcome", "facts"),
    [
        ("value", "failed", {"type": "ValueError", "message": "bad", "retryable": False}),
        ("exit", "failed", {"type": "SystemExit", "message": "the tool called exit('bye')"}),
        ("interrupt", "failed", {"type": "KeyboardInterrupt"}),
        ("base", "failed", {"type": "BaseException", "retryable": True}),
        ("retry", "failed", {"retry_after": 7, "retryable": True, "message": "busy"}),
        ("permanent", "failed", {"retryable": False, "message": "never"}),
        ("snooze", "snoozed", {"retry_after": 30, "message": "not yet"}),
    ],
)
@pytest.mark.parametrize("function", ["throw", "athrow"])
def test_what_a_tool_raises_decides_and_the_child_lives(
    runner: Child, function: str, kind: str, outcome: str, facts: dict[str, Any]
) -> None:
    got, error = runner.hand(function, {"kind": kind})

    assert got == outcome
    assert error.items() >= facts.items()
    assert runner.run("echo", {}) == ("success", {})


def test_a_traceback_begins_in_the_tool(runner: Child) -> None:
    text = runner.hand("throw", {"kind": "value"})[1]["traceback"]

    assert "child_hands.py" in text
    assert "runner.py" not in text


def test_results_are_made_storable_or_refused(runner: Child) -> None:
    assert runner.hand("give", {"kind": "none"}) == ("success", None)
    assert runner.hand("give", {"kind": "nan"}) == ("success", "nan")
    assert runner.hand("give", {"kind": "nul"}) == ("success", "a\ufffdb")
    outcome, error = runner.hand("give", {"kind": "object"})
    assert (outcome, error["type"], error["retryable"]) == ("failed", "NotStorable", False)
    assert "object is not a JSON type" in error["message"]


# Async


def begin(runner: Child, name: str, payload: Any = None, timeout: float = 0) -> bytes:
    """Start an async unit, and return its id once it runs."""
    unit = unit_of(f"python:{HANDS}.{name}", payload, timeout=timeout)
    runner.tell("run", [unit])
    while not any(work_id == unit[1] for work_id, _, _ in runner.notes):
        runner.hear()
    assert unit[1] in runner.started
    return bytes(unit[1])


def test_async_units_share_a_child_and_end_in_their_own_order(runner: Child) -> None:
    slow = begin(runner, "nap", {"seconds": 0.3})
    fast = begin(runner, "nap", {"seconds": 0.01})

    assert [r[1] for r in runner.results(2)] == [fast, slow]


def test_a_cancelled_async_unit_stops(runner: Child) -> None:
    work_id = begin(runner, "nap", {"seconds": 60})

    runner.tell("cancel", work_id)

    ((_, who, outcome, _, _, elapsed),) = runner.results()
    assert (who, outcome) == (work_id, "cancelled")
    assert elapsed > 0


def test_a_cancel_on_the_heels_of_its_unit_is_not_lost(runner: Child) -> None:
    for _ in range(30):
        unit = unit_of(f"python:{HANDS}.nap", {"seconds": 60})
        runner.tell("run", [unit])
        runner.tell("cancel", unit[1])
        assert runner.results()[0][2] in ("cancelled", "released")


def test_an_async_unit_is_stopped_at_its_timeout(runner: Child) -> None:
    outcome, error = runner.hand("nap", {"seconds": 60}, timeout=0.05)

    assert outcome == "timed_out"
    assert (error["category"], error["code"]) == ("timeout", "E6001")


def test_work_that_is_done_in_spite_of_its_timeout_is_done(runner: Child) -> None:
    assert runner.hand("too_late", timeout=0.05) == ("success", "done all the same")


@pytest.mark.parametrize(
    ("name", "payload"), [("stubborn", {}), ("blocks", {"seconds": 60})], ids=["deaf", "blocking"]
)
def test_one_that_ignores_its_cancellation_is_overdue(
    child: Callable[..., Child], name: str, payload: Any
) -> None:
    runner = child(async_grace=0.05)
    work_id = begin(runner, name, payload)

    runner.tell("cancel", work_id)
    while not runner.overdue:
        runner.hear()

    assert runner.overdue == [work_id]


def test_one_that_holds_the_gil_costs_its_child(child: Callable[..., Child]) -> None:
    runner = child(async_grace=0.05)
    begin(runner, "hog", timeout=0.2)

    with pytest.raises(EOFError):
        runner.results()

    assert "Timeout" in runner.end()  # with the stack of every thread


def test_no_more_than_a_limit_of_async_units_runs_at_once(runner: Child) -> None:
    units = [unit_of(f"python:{HANDS}.nap", {"seconds": 0.05}) for _ in range(80)]

    runner.tell("run", units)
    seen, ended = 0, 0
    while ended < len(units):
        message = runner.hear()
        ended += len(message[1]) if message[0] == "done" else 0
        seen = max(seen, len(runner.started) - ended)

    assert 1 < seen <= 32


# Secrets


def test_secrets_reach_the_tool_and_nobody_else(
    child: Callable[..., Child], tmp_path: Path
) -> None:
    (tmp_path / "db-password").write_text("hunter2\n")
    runner = child(secrets_dir=str(tmp_path), env={"ORDINAUT_SECRET_API_KEY": "k3y'\"\n"})

    reference = {"$secret": "db-password"}
    output = runner.hand("secret", {"password": reference})[1]
    error = runner.hand("leak", {"password": {"$secret": "api-key"}})[1]

    assert output == {"password": "***", "length": "7"}
    assert runner.notes[0][2] == {"message": "the password is ***", "password": "***"}
    assert error["message"].startswith("cannot log in with '***")
    assert "k3y" not in str(error)
    assert runner.run("echo", {"p": reference})[1] == {"p": reference}


@pytest.mark.parametrize("name", ["missing", "../etc/passwd", "", 5, ".", "a/b"])
def test_a_secret_that_is_not_here_is_a_configuration_error(runner: Child, name: Any) -> None:
    outcome, error = runner.hand("leak", {"password": {"$secret": name}})

    assert (outcome, error["category"], error["retryable"]) == ("failed", "configuration", False)


# The registry


def test_a_decorated_function_stays_a_function(no_tools: None) -> None:
    @registry.tool
    def one() -> int:
        return 1

    @registry.tool(name="deux")
    def two() -> int:
        return 2

    assert (one(), two()) == (1, 2)
    assert set(registry.TOOLS) == {"one", "deux"}


def test_two_tools_of_one_name_and_names_of_builtins_are_refused(no_tools: None) -> None:
    registry.tool("x")(math.floor)
    registry.tool("x")(math.floor)

    with pytest.raises(ValueError, match="two tools are called 'x'"):
        registry.tool("x")(math.ceil)
    for name in ("echo", "sql", "a:b"):
        with pytest.raises(ValueError, match="built-in"):
            registry.tool(name)(math.ceil)


def test_entry_points_are_tools(
    no_tools: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ordinaut.tools]\nacme.root = math:isqrt\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    registry.load([])

    assert {"acme.root": math.isqrt} == registry.TOOLS
