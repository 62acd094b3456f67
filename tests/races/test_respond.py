"""
Race: one decision is made about an approval.

    respond, respond    the second waits for the first, and is told who was faster
    respond, rollback   an answer that never was decides nothing
    respond, expiry     the sweep goes by an answer that is being given
    expiry, respond     an answer waits for the expiry, and comes too late
    respond, cancel     the run is cancelled after its step has the answer
    cancel, respond     nobody answers for a run that is cancelled
"""

from __future__ import annotations

import pytest

from ordinaut.errors import WrongState
from tests.races.waits import parked, started, state, step, swept

RESPOND = "select ordinaut.respond(%s, '{\"approved\": true}')"
CANCEL = "select ordinaut.cancel_run(%s)"


@pytest.fixture
def asked(boss):
    """A run, and its step that asks until a minute past noon."""
    run_id = started(boss, [{"id": "ask", "uses": "approval"}, {"id": "go", "uses": "echo"}])
    wait = {"kind": "approval", "prompt": "?", "expires_in": 60}
    return run_id, parked(boss, run_id, "ask", wait)


@pytest.fixture
def ann(at):
    return at("ann", "12:00:59")


@pytest.fixture
def bob(at):
    return at("bob", "12:00:59")


@pytest.fixture
def sweeper(at):
    return at("sweeper", "12:01:00")


def decisions(boss):
    rows = boss.run("select decision from ordinaut.approval")
    boss.commit()
    return [row.decision for row in rows]


def test_respond_respond(asked, ann, bob, boss):
    run_id, step_id = asked
    ann.run(RESPOND, step_id)
    bob.start(RESPOND, step_id)
    bob.wait_blocked(by=ann)
    ann.commit()
    with pytest.raises(WrongState, match=r"was answered by \w+ \(ann\) at 2026-03-29 12:00:59"):
        bob.result()
    assert decisions(boss) == ["answered"]
    assert step(boss, run_id, "go").state == "ready"


def test_respond_rollback(asked, ann, bob, boss):
    _, step_id = asked
    ann.run(RESPOND, step_id)
    bob.start(RESPOND, step_id)
    bob.wait_blocked(by=ann)
    ann.rollback()
    bob.result()
    bob.commit()
    assert boss.one("select decided_by like '%%(bob)' from ordinaut.approval where %s", True)


def test_respond_expiry(asked, ann, sweeper, boss):
    run_id, step_id = asked
    ann.run(RESPOND, step_id)
    swept(sweeper)  # does not wait
    ann.commit()
    swept(sweeper)
    assert decisions(boss) == ["answered"]
    assert state(boss, run_id) == "running"


def test_expiry_respond(asked, ann, sweeper, boss):
    run_id, step_id = asked
    sweeper.run("select ordinaut.reap()")  # uncommitted
    ann.start(RESPOND, step_id)
    ann.wait_blocked(by=sweeper)
    sweeper.commit()
    with pytest.raises(WrongState):
        ann.result()
    assert decisions(boss) == ["expired"]
    assert state(boss, run_id) == "failed"


def test_respond_cancel(asked, ann, bob, boss):
    run_id, step_id = asked
    ann.run(RESPOND, step_id)
    bob.start(CANCEL, run_id)
    bob.wait_blocked(by=ann)
    ann.commit()
    assert bob.result() == [("cancelled",)]
    bob.commit()
    assert (step(boss, run_id, "ask").state, step(boss, run_id, "go").state) == (
        "complete", "cancelled",
    )  # fmt: skip


def test_cancel_respond(asked, ann, bob, boss):
    run_id, step_id = asked
    bob.run(CANCEL, run_id)
    ann.start(RESPOND, step_id)
    ann.wait_blocked(by=bob)
    bob.commit()
    with pytest.raises(WrongState):
        ann.result()
    assert decisions(boss) == [None]
    assert state(boss, run_id) == "cancelled"
