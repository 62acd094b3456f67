"""
An upgrade under load: real workers of two versions, each version's own installer, and a witness
that is not the database.

    same API     the old workers go on, while and after the tables change below their leases
    next API     the old workers settle what they hold, lease nothing more and exit 75; the new
                 ones wait with 75 until it is installed
"""

from __future__ import annotations

import hashlib
import signal
import time
from contextlib import closing

import psycopg
import pytest

from ordinaut import calls
from tests.loops.conftest import ROOT, wait_for
from tests.upgrade.conftest import locked

DONE = "select count(*) from ordinaut.task_run where state = 'success'"
BUSY = """
select pid from pg_stat_activity
where datname = current_database() and application_name = 'ordinaut-install' and state <> 'idle'
  and wait_event_type = 'Lock'
"""


@pytest.fixture
def load(db, witness):
    """load(n): that many short runs more, labelled in a row."""
    made = 0

    def more(n, seconds=0.005):
        nonlocal made
        items = [
            {"payload": {"witness": witness.path, "label": str(made + i), "seconds": seconds}}
            for i in range(n)
        ]
        made += n
        calls.enqueue_many(db, items, tool="python:tests.loops.hands.work")

    yield more
    wait_for(lambda: db.execute(DONE).fetchone() == (made,), 30)
    for event in ("start", "end"):
        assert sorted(int(line.label) for line in witness.lines(event)) == list(range(made))


@pytest.fixture
def admin(prod_dsn):
    with psycopg.connect(prod_dsn, autocommit=True) as conn:
        yield conn


def fingerprint(conn):
    """Everything in the catalogs of the schema, so that "nothing changed" can be said."""
    rows = conn.execute(
        "select c.relname::text, c.xmin::text from pg_class as c"
        " where c.relnamespace = 'ordinaut'::regnamespace"
        " union all select p.proname::text, p.xmin::text from pg_proc as p"
        " where p.pronamespace = 'ordinaut'::regnamespace"
        " union all select m.name, m.xmin::text from ordinaut.schema_migration as m"
        " union all select c.sha256, c.xmin::text from ordinaut.loaded_code as c order by 1, 2"
    ).fetchall()
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def test_with_the_same_api_old_and_new_workers_go_on(
    worker, newer, install, load, witness, admin, prod_dsn
):
    old = worker(concurrency=2, ttl=20)
    load(200)
    witness.wait("end", 20)

    said = install(newer, prod_dsn)
    assert "0900_next" in said
    worker(root=newer, ttl=20)
    load(200)
    wait_for(lambda: admin.execute(DONE).fetchone() == (400,), 30)

    assert old.guard.poll() is None
    assert "fenced" not in old.log
    assert old.log.count("database lost") <= 1  # a prepared call whose result has changed
    assert "0900_next" in install(ROOT, prod_dsn, code=75)
    assert admin.execute("select max(version) from ordinaut.schema_migration").fetchone() == (900,)


def test_with_the_next_api_old_workers_finish_what_they_hold_and_leave(
    worker, breaking, installing, load, witness, admin, db, prod_dsn
):
    early = worker(root=breaking, ready=False)
    assert early.wait() == 75
    assert "speaks API 2, the database API 1" in early.log

    old = worker(ttl=20)
    with locked(admin, "select pg_advisory_xact_lock(hashtext('ordinaut.schema'))"):
        upgrade = installing(breaking, prod_dsn)
        wait_for(lambda: db.execute(BUSY).fetchone())
        load(1, seconds=5.0)
        [held] = witness.wait("start")
        load(20)
    said, _ = upgrade.communicate(timeout=30)
    assert upgrade.returncode == 0, said
    late = worker(ready=False)
    assert late.wait() == 75

    assert old.wait(20) == 75
    assert "another version was installed" in old.log
    assert [line.label for line in witness.lines("start")] == ["0"]
    assert [line.pid for line in witness.lines("end")] == [held.pid]
    assert admin.execute("select count(*) from ordinaut.lease").fetchone() == (0,)
    worker(root=breaking)


@pytest.mark.parametrize(
    "held",
    [
        "select pg_advisory_xact_lock(hashtext('ordinaut.schema'))",
        "select from ordinaut.due_work",
        "lock table ordinaut.step in row exclusive mode",
    ],
    ids=["before", "in the migration", "in the code"],
)
def test_an_installer_that_is_killed_leaves_nothing(
    newer, installing, install, admin, db, prod_dsn, held
):
    before = fingerprint(db)
    with locked(admin, held):
        killed = installing(newer, prod_dsn)
        wait_for(lambda: db.execute(BUSY).fetchone())
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    gone = BUSY.partition(" and state")[0]
    wait_for(lambda: not db.execute(gone).fetchone())

    assert fingerprint(db) == before
    advisory = (
        "select count(*) from pg_locks as l join pg_database as d on d.oid = l.database"
        " where l.locktype = 'advisory' and d.datname = current_database()"
    )
    assert db.execute(advisory).fetchone() == (0,)
    assert "0900_next" in install(newer, prod_dsn)


def test_a_server_that_dies_below_an_install_forgets_it(private_pg, newer, installing, install):
    install(ROOT, private_pg.dsn)
    with closing(psycopg.connect(private_pg.dsn, autocommit=True)) as db:
        before = fingerprint(db)
        with closing(psycopg.connect(private_pg.dsn)) as reader:
            reader.execute("lock table ordinaut.step in row exclusive mode")
            broken = installing(newer, private_pg.dsn)
            wait_for(lambda: db.execute(BUSY).fetchone())
            private_pg.crash()
    assert broken.wait(30) == 69
    private_pg.start()

    with psycopg.connect(private_pg.dsn, autocommit=True) as db:
        assert fingerprint(db) == before
    assert "0900_next" in install(newer, private_pg.dsn)


def test_of_eight_installs_at_once_one_installs(newer, installing, prod_dsn):
    deploys = [installing(newer, prod_dsn) for _ in range(8)]

    said = [one.communicate(timeout=90)[0] for one in deploys]

    assert [one.returncode for one in deploys] == [0] * 8, said
    assert sum("0900_next" in text for text in said) == 1


def test_an_install_behind_a_long_reader_stops_nobody_for_long(
    worker, newer, installing, load, witness, admin, db, prod_dsn
):
    worker(ttl=20, concurrency=2)
    longest = 0.0
    with locked(admin, "select from ordinaut.due_work"):
        upgrade = installing(newer, prod_dsn)
        wait_for(lambda: db.execute(BUSY).fetchone())
        until = time.monotonic() + 6
        while time.monotonic() < until:
            began = time.monotonic()
            load(5)
            longest = max(longest, time.monotonic() - began)
            witness.wait("end", 5)
        during = len(witness.lines("end"))
        assert upgrade.poll() is None
    said, _ = upgrade.communicate(timeout=30)

    print(f"longest enqueue {longest:.2f} s, {during} runs done meanwhile")
    assert upgrade.returncode == 0, said
    assert longest < 2.0
    assert during > 20


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_a_transaction_that_failed_to_serialize_is_tried_again(worker, load, admin, state):
    admin.execute("create sequence ordinaut.unlucky")
    # One statement of three, thirteen times; a sequence forgets nothing at a rollback.
    admin.execute(
        "create function ordinaut.unlucky() returns trigger language plpgsql security definer as"
        " $$ declare v bigint := nextval('ordinaut.unlucky');"
        " begin if v < 40 and v % 3 = 1 then"
        f" raise exception 'unlucky' using errcode = '{state}'; end if;"
        " return null; end $$"
    )
    for table, event in (
        ("lease", "insert"), ("lease", "delete"), ("task_run", "insert"),
        ("worker", "insert or update"),
    ):  # fmt: skip
        admin.execute(
            f"create trigger unlucky_{event.partition(' ')[0]} before {event} on"
            f" ordinaut.{table} for each statement execute function ordinaut.unlucky()"
        )
    running = worker(ttl=20, heartbeat=0.3)

    load(40)

    wait_for(lambda: admin.execute(DONE).fetchone() == (40,), 30)
    assert running.guard.poll() is None
    assert "fenced" not in running.log
    assert admin.execute("select last_value > 9 from ordinaut.unlucky").fetchone() == (True,)
