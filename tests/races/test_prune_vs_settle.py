"""
Race: old partitions are dropped while runs settle and people read.

    settle, prune            a drop is left to the next call
    settle, drop             that waits, 100 ms and no longer
    dump, prune, settle      waits for nothing, and so nobody waits behind it
    prune, settle            the settle waits for the drop, and then stores its run
    read, prune              a report that reads for minutes stops no drop but its own
    prune, prune             the second does not wait, and does nothing
    old run, settle          a run whose partition is gone ends in the default partition
    old run, body            the large payload of a run that waits or is leased survives its week
    old run, pruned          what ended in the default partition is dropped by its own age
    run that waits, prune    its week stays, with its steps, until it has ended
    new partitions, settle   are made without waiting for an open settle
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from tests.places import places, run

NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)
LARGE = json.dumps({"text": "".join(f"{n:04x}" for n in range(2000))})
PRUNE = "select what, n from ordinaut.prune('1 day')"


@pytest.fixture
def old(boss):
    """Partitions of the week of noon, and a large run in it that waits."""
    boss.run("select ordinaut.ensure_partitions()")
    run_id = boss.one("select e.run_id from ordinaut.enqueue('echo', %s) as e", LARGE)
    boss.commit()
    return run_id


def later(at, name, days=10):
    return at(name, "12:00:00").at(f"{NOON + timedelta(days=days):%F %T}+00")


def prune(session):
    """Call it as a scheduler does; return what was done in all."""
    total = Counter()
    while step := session.run(PRUNE):
        session.commit()
        total.update({row.what: row.n for row in step})
    session.commit()
    return total


def prune_up_to(session, what):
    """Do the steps up to this one, which stays open."""
    while what not in {row.what for row in session.run(PRUNE)}:
        session.commit()


def partitions(boss, table="task_run"):
    rows = boss.run(
        "select c.relname from pg_inherits as i join pg_class as c on c.oid = i.inhrelid"
        " where i.inhparent = %s::regclass order by 1",
        f"ordinaut.{table}",
    )
    boss.commit()
    return [row.relname for row in rows]


def complete(session):
    [held] = session.run("select * from ordinaut.lease_work('w')")
    session.run("select * from ordinaut.complete_work(%s)", held.lease_id)
    return held


OF_NOON = "task_run_20260326"


def test_settle_prune(old, at, boss):
    worker, housekeeper = later(at, "worker"), later(at, "housekeeper")
    complete(worker)  # stays open: the drop cannot have its lock
    assert prune(housekeeper)["task_run partitions dropped"] == 0
    assert OF_NOON in partitions(boss)
    worker.commit()
    assert prune(housekeeper)["task_run partitions dropped"] == 1
    assert OF_NOON not in partitions(boss)


def test_settle_drop(old, at, boss):
    worker, housekeeper = later(at, "worker"), later(at, "housekeeper")
    complete(worker)
    drop = "select ordinaut._do_partition('task_run', %s, '2026-03-26', false, %s, %s, true)"
    tables = ["task_run", OF_NOON, "task_run_default"]
    assert housekeeper.one(drop, OF_NOON, tables, NOON + timedelta(days=9)) is False
    worker.commit()
    assert OF_NOON in partitions(boss)


def test_dump_prune_settle(old, at, boss):
    dump, housekeeper = later(at, "dump"), later(at, "housekeeper")
    tables = boss.run(
        "select c.oid::regclass::text as name from pg_class as c"
        " where c.relnamespace = 'ordinaut'::regnamespace and c.relkind in ('r', 'p')"
    )
    boss.commit()
    dump.run(f"lock table {', '.join(row.name for row in tables)} in access share mode")
    waits = []
    housekeeper.run("set log_lock_waits = on")
    housekeeper.run("set deadlock_timeout = '1ms'")  # from then on a wait is told
    housekeeper.run("set client_min_messages = log")
    housekeeper.conn.add_notice_handler(lambda notice: waits.append(notice.message_primary))
    assert prune(housekeeper) == {}
    assert waits == []
    assert OF_NOON in partitions(boss)
    dump.commit()
    assert prune(housekeeper)["task_run partitions dropped"] == 1


def test_prune_settle(old, at, boss):
    worker, housekeeper = later(at, "worker"), later(at, "housekeeper")
    [held] = worker.run("select * from ordinaut.lease_work('w')")
    worker.commit()
    prune_up_to(housekeeper, "task_run partitions dropped")
    worker.start("select outcome from ordinaut.complete_work(%s)", held.lease_id)
    worker.wait_blocked(by=housekeeper)
    housekeeper.commit()

    assert worker.result() == [("success",)]
    worker.commit()
    assert run(boss, old).state == "success"
    assert boss.one("select count(*) from ordinaut.task_run_default") == 1


def test_read_prune(old, at, boss):
    reader, housekeeper = later(at, "reader"), later(at, "housekeeper")
    reader.run(f"select count(*) from ordinaut.{OF_NOON}")
    found = prune(housekeeper)
    assert found["task_run partitions dropped"] == 0
    assert found["run_log partitions dropped"] == 1
    reader.commit()
    assert prune(housekeeper)["task_run partitions dropped"] == 1


def test_prune_prune(old, at, boss):
    one, two = later(at, "one"), later(at, "two")
    one.run(PRUNE)
    assert two.run(PRUNE) == []
    two.commit()
    one.commit()
    assert prune(two)["task_run partitions dropped"] == 1
    assert OF_NOON not in partitions(boss)


def test_old_run_settle(old, at, boss):
    worker = later(at, "worker")
    prune(worker)
    held = complete(worker)
    worker.commit()
    assert held.payload == json.loads(LARGE)
    assert places(boss) == {old: "task_run"}
    assert run(boss, old).payload == json.loads(LARGE)
    assert boss.one("select tableoid::regclass::text from ordinaut.task_run") == (
        "ordinaut.task_run_default"
    )


def test_old_run_body(old, at, boss):
    worker = later(at, "worker")
    [held] = worker.run("select * from ordinaut.lease_work('w')")
    worker.commit()
    prune(worker)
    assert run(boss, old).payload == json.loads(LARGE)
    boss.commit()

    worker.run("select * from ordinaut.release_work(%s)", held.lease_id)
    worker.commit()
    assert complete(worker).payload == json.loads(LARGE)


def test_old_run_pruned(old, at, boss):
    worker = later(at, "worker")
    prune(worker)
    complete(worker)
    worker.commit()
    assert prune(later(at, "early", days=10))["old runs of no partition"] == 0
    assert prune(later(at, "late", days=12))["old runs of no partition"] == 1
    assert places(boss) == {}
    assert boss.one("select count(*) from ordinaut.payload") == 0


def test_run_that_waits_prune(old, at, boss):
    asks = boss.one(
        "select e.run_id from ordinaut.enqueue(p_pipeline => %s, p_queue => 'people') as e",
        json.dumps([{"id": "ask", "uses": "approval"}]),
    )
    boss.commit()
    [unit] = boss.run("select * from ordinaut.lease_work('w', 'people')")
    boss.run(
        "select ordinaut.wait_work(%s, %s, %s)",
        unit.lease_id, unit.work_id, json.dumps({"kind": "approval", "prompt": "?"}),
    )  # fmt: skip
    boss.commit()
    housekeeper = later(at, "housekeeper", days=100)
    prune(housekeeper)
    assert OF_NOON in partitions(boss)
    assert "step_20260326" in partitions(boss, "step")
    assert "run_log_20260326" not in partitions(boss, "run_log")

    assert housekeeper.one("select ordinaut.cancel_run(%s)", asks) == "cancelled"
    housekeeper.commit()
    prune(housekeeper)
    assert OF_NOON not in partitions(boss)
    assert "step_20260326" not in partitions(boss, "step")
    boss.run("select ordinaut.cancel_run(%s)", old)


def test_new_partitions_settle(old, at, boss):
    worker, housekeeper = at("worker", "12:00:00"), later(at, "housekeeper", days=5)
    before = partitions(boss)
    complete(worker)  # stays open, in the partition of noon
    housekeeper.run("select ordinaut.ensure_partitions()")
    housekeeper.commit()
    worker.commit()
    assert len(partitions(boss)) > len(before)
