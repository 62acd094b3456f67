"""
Race: work waits for a key that its holder gives back at the same moment.

The wake-up must not be lost: either the newcomer sees the free slot, or the release sees the
newcomer parked.  `a` holds the key; `b` and `c` came after it:

    settle, lease         the settle holds the mutex: the newcomer goes back for 20 ms
    settled, lease        the newcomer takes the slot
    lease, settle         the newcomer is being parked: the settle leaves its slot to the sweep
    lease rolled back     as if it had never been
    parked, settle        the slot goes to the first in line, and nobody overtakes it
    lease, lease          the second goes back for 20 ms, and is parked when it comes again
    failed, lease         a run keeps its slot through its retries
    snoozed, lease        and through a pause that it asked for
    limit 2               two run, two wait, each end starts one
    two keys crosswise    two settles that want both mutexes: none waits, the sweep repairs
    sweep, settle         the sweep does not wait for an open settle
"""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.places import places, run

LEASE = "select * from ordinaut.lease_work(%s, p_limit => %s)"
COMPLETE = "select * from ordinaut.complete_work(%s)"


@pytest.fixture
def line(work):
    """Enqueue n units of one key, in one bulk: the first is the oldest."""

    def enqueue(n, limit=1):
        return work(n, key="k", key_limit=limit)

    return enqueue


@pytest.fixture
def holder(at):
    return at("holder", "12:00:30")


@pytest.fixture
def newcomer(at):
    return at("newcomer", "12:00:30")


def lease_one(session, who="w"):
    rows = session.run(LEASE, who, 1)
    session.commit()
    return (rows[0].lease_id, rows[0].work_id) if rows else None


def lease_many(session):
    rows = session.run(LEASE, "w", 2)
    session.commit()
    return rows[0].lease_id if rows else None


def holds(boss) -> list[tuple[int, UUID]]:
    rows = boss.run("select slot, run_id from ordinaut.hold where key = 'k' order by slot")
    boss.commit()
    return [tuple(row) for row in rows]


def test_settle_lease(line, holder, newcomer, at, boss):
    a, b = line(2)
    lease, leased = lease_one(holder)
    assert leased == a
    holder.run(COMPLETE, lease)
    assert newcomer.run(LEASE, "w2", 1) == []  # does not wait, and does not park
    newcomer.commit()
    holder.commit()

    assert places(boss)[b] == "due_work"
    assert lease_one(at("later", "12:00:31")) is not None
    assert holds(boss) == [(1, b)]


def test_settled_lease(line, holder, newcomer, boss):
    _, b = line(2)
    lease, _ = lease_one(holder)
    holder.run(COMPLETE, lease)
    holder.commit()
    assert lease_one(newcomer)[1] == b
    assert holds(boss) == [(1, b)]


def test_lease_settle(line, holder, newcomer, at, boss):
    a, b = line(2)
    lease, _ = lease_one(holder)
    assert newcomer.run(LEASE, "w2", 1) == []  # parks b, uncommitted: holds the mutex
    assert [row.outcome for row in holder.run(COMPLETE, lease)] == ["success"]  # does not wait
    holder.commit()
    newcomer.commit()
    assert (places(boss)[b], holds(boss)) == ("parked", [(1, a)])

    sweeper = at("sweeper", "12:00:31")
    sweeper.run("select ordinaut.reap()")
    sweeper.commit()
    assert (places(boss)[b], holds(boss)) == ("due_work", [(1, b)])
    assert lease_one(at("later", "12:00:31"))[1] == b


def test_lease_rolled_back(line, holder, newcomer, boss):
    _, b = line(2)
    lease, _ = lease_one(holder)
    newcomer.run(LEASE, "w2", 1)
    newcomer.rollback()
    holder.run(COMPLETE, lease)
    holder.commit()
    assert holds(boss) == []
    assert lease_one(newcomer)[1] == b


def test_parked_settle(line, holder, newcomer, at, boss):
    _, b, c = line(3)
    lease, _ = lease_one(holder)
    assert newcomer.run(LEASE, "w2", 2) == []
    newcomer.commit()
    assert (places(boss)[b], places(boss)[c]) == ("parked", "parked")

    [d] = line(1)  # at the same instant: it is the last of its microsecond
    holder.run(COMPLETE, lease)
    holder.commit()
    assert (places(boss)[b], holds(boss)) == ("due_work", [(1, b)])
    assert [row.work_id for row in newcomer.run(LEASE, "w2", 5)] == [b]  # d came after
    newcomer.commit()
    assert (places(boss)[c], places(boss)[d]) == ("parked", "parked")


def test_lease_lease(line, holder, newcomer, at, boss):
    a, b = line(2)
    assert [row.work_id for row in holder.run(LEASE, "w1", 1)] == [a]
    assert newcomer.run(LEASE, "w2", 1) == []
    newcomer.commit()
    holder.commit()
    assert places(boss)[b] == "due_work"

    assert lease_one(at("later", "12:00:31")) is None
    assert places(boss)[b] == "parked"


@pytest.mark.parametrize(
    "give_back",
    [
        "select * from ordinaut.fail_work(%s, p_error => 'broken', p_retry_after => '5 s')",
        "select * from ordinaut.snooze_work(%s, null, '5 s')",
    ],
    ids=["failed", "snoozed"],
)
def test_a_run_keeps_its_slot(line, holder, newcomer, at, boss, give_back):
    a, b = line(2)
    lease, _ = lease_one(holder)
    holder.run(give_back, lease)
    holder.commit()
    assert lease_one(newcomer) is None
    assert (places(boss)[b], holds(boss)) == ("parked", [(1, a)])

    assert lease_one(at("later", "12:01:00"))[1] == a


def test_limit_2(line, holder, newcomer, at, boss):
    a, b, c, d = line(4, limit=2)
    leased = holder.run(LEASE, "w1", 4)
    holder.commit()
    assert [row.work_id for row in leased] == [a, b]
    assert holds(boss) == [(1, a), (2, b)]

    for done, following in ((b, c), (a, d)):
        holder.run("select * from ordinaut.complete_work(%s, %s)", leased[0].lease_id, done)
        holder.commit()
        assert lease_one(newcomer)[1] == following
    assert holds(boss) == [(1, d), (2, c)]


def test_two_keys_crosswise(work, holder, newcomer, at, boss):
    """Batches of two workers hold one slot each of both keys, and each end wants both mutexes."""
    for key in "klkl":
        work(1, key=key, key_limit=2)
    [(one, _), (other, _)] = [(lease_many(s), s) for s in (holder, newcomer)]
    waiting = [work(1, key=key, key_limit=2)[0] for key in "kl"]
    assert lease_many(at("third", "12:00:30")) is None

    assert len(holder.run(COMPLETE, one)) == 2
    assert len(newcomer.run(COMPLETE, other)) == 2  # does not wait, and so cannot deadlock
    holder.commit()
    newcomer.commit()
    sweeper = at("sweeper", "12:00:31")
    sweeper.run("select ordinaut.reap()")
    sweeper.commit()
    assert {places(boss)[work_id] for work_id in waiting} == {"due_work"}
    assert boss.one("select count(*) from ordinaut.hold") == 2


def test_sweep_settle(line, holder, newcomer, at, boss):
    a, b = line(2)
    lease, _ = lease_one(holder)
    lease_one(newcomer)
    assert places(boss)[b] == "parked"
    holder.run(COMPLETE, lease)  # uncommitted: hands the slot to b

    sweeper = at("sweeper", "12:00:31")
    assert sweeper.one("select ordinaut.reap()") == 0  # does not wait
    sweeper.commit()
    holder.commit()
    assert holds(boss) == [(1, b)]
    assert run(boss, a).state == "success"
