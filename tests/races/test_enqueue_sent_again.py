"""
Race: the answer of an enqueue was lost, and the client that chose the run's id sends it again.

Wherever the run is meanwhile, it exists once:

    sent, sent              the second waits for the first, and is told of it
    sent, rolled back       the second is new
    waits, is leased, is parked, has failed once, is done, was cancelled     existing
    in bulk                 the items that got through are existing, the others new
    a day later             still known; an id of another day is refused
    with an idempotency key that another run holds   that run, and nothing is left behind
"""

from __future__ import annotations

import json
from uuid import UUID, uuid4

import pytest
from psycopg.errors import InvalidParameterValue

from tests.places import places, run

SEND = "select * from ordinaut.enqueue('echo', p_run_id => %s, p_key => 'k')"
LEASE = "select * from ordinaut.lease_work('w')"


@pytest.fixture
def run_id(boss) -> UUID:
    return boss.one("select ordinaut.uuid_generate_v7()")


@pytest.fixture
def client(at):
    return at("client", "12:00:10")


def send(session, run_id):
    [row] = session.run(SEND, run_id)
    session.commit()
    assert row.run_id == run_id
    return row.outcome


def lease(session):
    [row] = session.run(LEASE)
    session.commit()
    return row.lease_id


def test_sent_sent(run_id, client, at, boss):
    again = at("again", "12:00:11")
    client.run(SEND, run_id)
    again.start(SEND, run_id)
    again.wait_blocked(by=client)
    client.commit()
    assert again.result() == [(run_id, "existing")]
    again.commit()
    assert places(boss) == {run_id: "due_work"}


def test_sent_rolled_back(run_id, client, at, boss):
    again = at("again", "12:00:11")
    client.run(SEND, run_id)
    again.start(SEND, run_id)
    again.wait_blocked(by=client)
    client.rollback()
    assert again.result() == [(run_id, "new")]
    again.commit()
    assert places(boss) == {run_id: "due_work"}


def waits(session, run_id):
    pass


def is_leased(session, run_id):
    lease(session)


def is_parked(session, run_id):
    """Another run of its key was first."""
    session.run("insert into ordinaut.hold (key, slot, run_id) values ('k', 1, %s)", uuid4())
    assert session.run(LEASE) == []
    session.commit()


def failed_once(session, run_id):
    session.run("select * from ordinaut.fail_work(%s)", lease(session))
    session.commit()


def is_done(session, run_id):
    session.run("select * from ordinaut.complete_work(%s)", lease(session))
    session.commit()


def was_cancelled(session, run_id):
    assert session.one("select ordinaut.cancel_run(%s)", run_id) == "cancelled"
    session.commit()


@pytest.mark.parametrize(
    ("meanwhile", "place"),
    [
        (waits, "due_work"),
        (is_leased, "lease"),
        (is_parked, "parked"),
        (failed_once, "due_work"),
        (is_done, "task_run"),
        (was_cancelled, "task_run"),
    ],
)
def test_meanwhile(run_id, client, boss, meanwhile, place):
    assert send(client, run_id) == "new"
    meanwhile(client, run_id)
    before = run(boss, run_id)
    boss.commit()

    assert send(client, run_id) == "existing"
    assert places(boss) == {run_id: place}
    assert run(boss, run_id) == before


def test_in_bulk(run_id, client, boss):
    send(client, run_id)
    ids = [boss.one("select ordinaut.uuid_generate_v7()"), run_id]
    items = json.dumps([{"run_id": str(i), "tool": "echo"} for i in ids])
    rows = client.run("select * from ordinaut.enqueue_many(%s) order by ord", items)
    assert [(row.run_id, row.outcome) for row in rows] == [(ids[0], "new"), (ids[1], "existing")]


def test_a_day_later(run_id, at, client):
    send(client, run_id)
    is_done(client, run_id)
    later = at("later", "23:59:59")
    assert send(later, run_id) == "existing"
    later.at("2026-03-30 12:00:01+00")
    with pytest.raises(InvalidParameterValue, match="within a day"):
        later.run(SEND, run_id)


@pytest.mark.parametrize(
    "bad", ["00000000-0000-0000-0000-000000000000", "78f04ac7-b762-4104-96e1-f2a286554127"]
)
def test_no_v7(client, boss, bad):
    with pytest.raises(InvalidParameterValue, match="UUIDv7"):
        client.run(SEND, bad)
    client.rollback()
    assert places(boss) == {}


def test_an_idempotency_key_of_another_run(run_id, client, boss):
    keyed = "select * from ordinaut.enqueue('echo', p_run_id => %s, p_idempotency_key => 'order 1')"
    other = boss.one("select ordinaut.uuid_generate_v7()")
    boss.run(keyed, other)
    boss.commit()

    assert client.run(keyed, run_id) == [(other, "existing")]
    client.commit()
    assert client.run(keyed, other) == [(other, "existing")]
    assert places(boss) == {other: "due_work"}
    assert boss.one("select count(*) from ordinaut.hold where run_id = %s", run_id) == 0
