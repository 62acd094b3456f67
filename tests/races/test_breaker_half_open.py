"""
Race: several workers meet a breaker that is open, or half open, at the same moment.

One unit tries, whoever commits first; nobody waits, and nothing stays behind a closed breaker:

    lease, lease          the second takes nothing: the first's unit tries
    lease rolled back     the second's unit tries
    success, lease        a lease that meets the open success puts its unit back, for a moment
    lease, success        the success comes while a lease parks: what was parked is found again
    failure, failure      both count; the second does not wait for an open transaction
    reap, reap            one lost probe is replaced by one
    set open, lease       an operator's open transaction holds up nobody
"""

from __future__ import annotations

import pytest

from tests.places import unit

LEASE = "select * from ordinaut.lease_work(%s, p_limit => 10)"
DONE = "select * from ordinaut.complete_work(%s, %s)"
FAIL = "select * from ordinaut.fail_work(%s, %s, 'no', p_details => '{\"category\": \"network\"}')"


def breaker(session):
    [row] = session.run("select * from ordinaut.list_breakers()")
    session.commit()
    return row.state, row.failures


@pytest.fixture
def first(at):
    return at("first", "12:00:30")


@pytest.fixture
def second(at):
    return at("second", "12:00:30")


@pytest.fixture
def units(boss, work):
    """Three units of a tool whose breaker opened at 12:00:00, to be tried at 12:00:30."""
    boss.run("select ordinaut.set_breaker('echo', p_threshold => 1, p_recovery => '30 s')")
    [broken] = work(max_attempts=9, retry={"base": "20 s", "jitter": 0})
    [leased] = boss.run(LEASE, "w0")
    boss.run(FAIL, leased.lease_id, broken)
    boss.commit()
    assert breaker(boss) == ("open", 1)
    return [broken, *work(2)]


def tried(rows):
    return [row.work_id for row in rows]


def test_lease_lease(units, first, second, boss):
    [probe] = tried(first.run(LEASE, "w1"))
    assert tried(second.run(LEASE, "w2")) == []  # does not wait
    first.commit()
    second.commit()

    late = second.at("2026-03-29 12:00:31+00")
    assert tried(late.run(LEASE, "w2")) == []
    late.commit()
    assert breaker(boss) == ("half_open", 1)
    others = {unit(boss, work_id).reason for work_id in units if work_id != probe}
    assert others == {"breaker"}


def test_lease_rolled_back(units, first, second, boss):
    assert len(first.run(LEASE, "w1")) == 1
    first.rollback()
    assert len(second.run(LEASE, "w2")) == 1
    second.commit()

    assert breaker(boss) == ("half_open", 1)


def test_success_lease(units, first, second, boss, work):
    [probe] = first.run(LEASE, "w1")
    first.commit()
    first.run(DONE, probe.lease_id, probe.work_id)  # uncommitted: holds the breaker
    [newcomer] = work(1)
    assert tried(second.run(LEASE, "w2")) == []  # does not wait
    second.commit()
    first.commit()

    assert breaker(boss) == ("closed", 0)
    assert unit(boss, newcomer).status == "pending"
    late = second.at("2026-03-29 12:00:31+00")
    assert len(late.run(LEASE, "w2")) == 3
    late.commit()


def test_lease_success(units, first, second, boss, at, work):
    [probe] = first.run(LEASE, "w1")
    first.commit()
    [newcomer] = work(1)
    assert tried(second.run(LEASE, "w2")) == []  # uncommitted: parks the newcomer
    first.run(DONE, probe.lease_id, probe.work_id)  # tries for 40 ms
    first.commit()
    second.commit()

    assert breaker(boss) == ("half_open", 1)  # the success was not heard
    reaper = at("reaper", "12:00:32")
    reaper.run("select ordinaut.reap()")
    reaper.commit()
    assert breaker(boss) == ("open", 1)
    [again] = reaper.run(LEASE, "w3")
    reaper.run(DONE, again.lease_id, again.work_id)
    reaper.commit()
    assert breaker(boss) == ("closed", 0)
    assert {unit(boss, id).status for id in [*units, newcomer]} == {"completed", "pending"}


def test_failure_failure(boss, work, first, second):
    boss.run("select ordinaut.set_breaker('echo', p_threshold => 2)")
    work(3, max_attempts=1)
    a, b = (boss.run("select * from ordinaut.lease_work('w')")[0] for _ in range(2))
    boss.commit()
    first.run(FAIL, a.lease_id, a.work_id)
    second.start(FAIL, b.lease_id, b.work_id)
    assert [row.outcome for row in second.result()] == ["failed"]  # does not wait for the first
    second.commit()
    first.commit()
    assert breaker(boss) == ("closed", 1)

    [c] = second.run(LEASE, "w")
    second.run(FAIL, c.lease_id, c.work_id)
    second.commit()
    assert breaker(boss) == ("open", 2)


def test_reap_reap(units, first, second, boss, at):
    assert len(first.run(LEASE, "w1")) == 1
    first.commit()
    one, two = at("one", "12:03:00"), at("two", "12:03:00")
    assert one.one("select ordinaut.reap()") == 1
    assert two.one("select ordinaut.reap()") == 0
    one.commit()
    two.commit()

    assert breaker(boss) == ("open", 1)
    assert len(one.run(LEASE, "w3")) == 1
    assert two.run(LEASE, "w4") == []
    one.commit()
    two.commit()


def test_set_open_lease(units, first, boss):
    boss.run("select ordinaut.open_breaker('echo', 'by hand')")  # uncommitted
    assert tried(first.run(LEASE, "w1")) == []
    first.commit()
    boss.commit()

    late = first.at("2026-03-29 12:00:31+00")
    assert tried(late.run(LEASE, "w1")) == []
    late.commit()
    assert {unit(boss, work_id).reason for work_id in units} == {"breaker"}
