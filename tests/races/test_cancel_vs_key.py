"""
Race: runs of one key wait in line, and one of them is cancelled.

`a` holds the key, `b` and `c` are parked for it, in that order:

    cancel the holder, settle      the cancel asks; the settle ends it and promotes b
    cancel the holder in backoff   it is cancelled at once and promotes b
    cancel the next, settle        b is locked by its cancel: the slot goes to c
    settle, cancel the next        the cancel waits, then finds b due: cancelled, and c is next
    cancel the next, rolled back   the slot went to c; b waits for the next end
    cancel the last                changes nothing for the others
    cancel all                     leaves no hold and no request
    abandoned                      a holder that dies too often promotes b as well
"""

from __future__ import annotations

import pytest

from tests.places import places, run

CANCEL = "select ordinaut.cancel_run(%s)"
LEASE = "select * from ordinaut.lease_work(%s, p_for => '1 s')"


@pytest.fixture
def line(work, boss):
    """Three units of one key, and the lease of the first."""
    a, b, c = work(3, key="k")
    [held] = boss.run(LEASE, "w1")
    assert boss.run(LEASE.replace(")", ", p_limit => 3)"), "w2") == []
    boss.commit()
    found = places(boss)
    boss.commit()
    assert [found[i] for i in (a, b, c)] == ["lease", "parked", "parked"]
    return held.lease_id, a, b, c


@pytest.fixture
def operator(at):
    return at("operator", "12:00:10")


@pytest.fixture
def worker(at):
    return at("worker", "12:00:10")


def holder(boss):
    rows = boss.run("select run_id from ordinaut.hold where key = 'k'")
    boss.commit()
    return [row.run_id for row in rows]


def leased(session):
    rows = session.run(LEASE, "w3")
    session.commit()
    return [row.work_id for row in rows]


def test_cancel_the_holder(line, operator, worker, boss):
    lease, a, b, c = line
    assert operator.one(CANCEL, a) == "requested"
    operator.commit()
    assert worker.run("select outcome from ordinaut.fail_work(%s)", lease) == [("cancelled",)]
    worker.commit()
    assert (run(boss, a).state, holder(boss)) == ("cancelled", [b])
    assert leased(worker) == [b]
    assert places(boss)[c] == "parked"


def test_cancel_the_holder_in_backoff(line, operator, worker, boss):
    lease, a, b, _ = line
    worker.run("select * from ordinaut.fail_work(%s, p_retry_after => '1 hour')", lease)
    worker.commit()
    assert holder(boss) == [a]

    assert operator.one(CANCEL, a) == "cancelled"
    operator.commit()
    assert holder(boss) == [b]
    assert leased(worker) == [b]


def test_cancel_the_next_settle(line, operator, worker, boss):
    lease, _, b, c = line
    assert operator.one(CANCEL, b) == "cancelled"  # stays open
    assert worker.run("select outcome from ordinaut.complete_work(%s)", lease) == [("success",)]
    worker.commit()
    operator.commit()
    sweep(boss, worker)
    assert run(boss, b).state == "cancelled"
    assert leased(worker) == [c]


def sweep(boss, session):
    session.run("select ordinaut.reap()")
    session.commit()


def test_settle_cancel_the_next(line, operator, worker, boss):
    lease, _, b, c = line
    worker.run("select * from ordinaut.complete_work(%s)", lease)
    operator.start(CANCEL, b)
    operator.wait_blocked(by=worker)
    worker.commit()
    assert operator.result() in ([("cancelled",)], [("requested",)])
    operator.commit()

    assert leased(worker) in ([], [c])  # the lease reads the request and ends b
    assert run(boss, b).state == "cancelled"
    assert holder(boss) == [c]
    assert c in leased(worker) or places(boss)[c] == "lease"


def test_cancel_the_next_rolled_back(line, operator, worker, boss):
    lease, _, b, c = line
    operator.run(CANCEL, b)
    worker.run("select * from ordinaut.complete_work(%s)", lease)
    worker.commit()
    operator.rollback()
    sweep(boss, worker)
    [first] = leased(worker)
    assert first in (b, c)
    worker.run(
        "select ordinaut.complete_work(lease_id) from ordinaut.work where work_id = %s", first
    )
    worker.commit()
    assert leased(worker) == [({b, c} - {first}).pop()]


def test_cancel_the_last(line, operator, worker, boss):
    lease, a, b, c = line
    assert operator.one(CANCEL, c) == "cancelled"
    operator.commit()
    assert holder(boss) == [a]
    worker.run("select * from ordinaut.complete_work(%s)", lease)
    worker.commit()
    assert leased(worker) == [b]


def test_cancel_all(line, operator, worker, boss):
    lease, a, b, c = line
    assert [operator.one(CANCEL, i) for i in (c, a, b)] == ["cancelled", "requested", "cancelled"]
    operator.commit()
    worker.run("select * from ordinaut.release_work(%s)", lease)
    worker.commit()
    assert {run(boss, i).state for i in (a, b, c)} == {"cancelled"}
    assert holder(boss) == []
    assert boss.one("select count(*) from ordinaut.cancel_request") == 0


def test_abandoned(line, at, boss):
    _, a, b, _ = line
    for minute in (1, 2, 3):
        session = at(f"minute {minute}", f"12:0{minute}:00")
        assert session.one("select ordinaut.reap()") == 1
        session.commit()
        if minute < 3:
            assert leased(session) == [a]
    assert run(boss, a).state == "abandoned"
    assert holder(boss) == [b]
