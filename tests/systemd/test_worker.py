"""The worker's unit as shipped, on a real systemd: it starts, works, dies and stops as it says."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.systemd.conftest import ROLE
from tests.systemd.machine import wait_for


def test_ready_means_agreed_on_the_schema(worker, machine, db, enqueue, ended):
    db.execute(f"alter role {ROLE} nologin")
    try:
        machine.run("systemctl", "start", "--no-block", worker.unit)
        wait_for(lambda: "no database, trying again" in worker.show("StatusText"))
        assert worker.show("ActiveState") == "activating"
    finally:
        db.execute(f"alter role {ROLE} login")

    wait_for(lambda: worker.is_ready)

    assert db.execute("select count(*) from ordinaut.worker").fetchone() == (1,)
    run_id = enqueue(label="x")
    assert ended(run_id).state == "success"
    wait_for(lambda: worker.show("StatusText") == "working: 0 in hand, 1 finished")


@pytest.mark.parametrize("victim", ["guard", "parent"])
def test_kill_9_restarts_it_and_its_work_is_done_once(worker, enqueue, ended, witness, victim):
    worker.start()
    run_id = enqueue(seconds=60, again=0)
    witness.wait("start")

    worker.signal("KILL", worker.main if victim == "guard" else worker.parent)

    worker.restarted()
    run = ended(run_id)
    assert (run.state, run.crashes) == ("success", 1)
    assert [len(witness.lines(event)) for event in ("start", "end")] == [2, 1]
    if victim == "parent":
        assert worker.journal("-p", "err").splitlines()[0].startswith("the worker died exit=-9")


@pytest.mark.parametrize("hangs", ["guard", "parent", "database"])
def test_the_watchdog_ends_what_hangs(worker, database, pg, enqueue, ended, witness, hangs):
    database.settings(ORDINAUT_TTL="4500ms")  # or the guard is faster when the parent hangs
    worker.configure("WatchdogSec=2s")
    worker.start()
    run_id = enqueue(seconds=60, again=0)
    witness.wait("start")
    server = [] if hangs != "database" else processes(pg)

    try:
        if hangs == "database":
            for pid in server:
                os.kill(pid, signal.SIGSTOP)
        else:
            worker.signal("STOP", worker.main if hangs == "guard" else worker.parent)
        wait_for(lambda: "with result 'watchdog'" in worker.journal())
    finally:
        for pid in server:
            os.kill(pid, signal.SIGCONT)

    worker.restarted()
    assert ended(run_id).state == "success"
    assert [len(witness.lines(event)) for event in ("start", "end")] == [2, 1]


def processes(pg) -> list[int]:
    """The postmaster and its backends, the postmaster first."""
    postmaster = int((pg.cluster / "postmaster.pid").read_text().split("\n")[0])
    below = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    return [postmaster, *map(int, below)]


def test_a_stop_drains_even_beyond_the_time_of_the_unit(worker, db, enqueue, ended, witness):
    worker.configure("TimeoutStopSec=1s")
    worker.start()
    running = enqueue(seconds=2.5)
    witness.wait("start")
    waiting = enqueue()

    worker.stop()

    assert worker.show("Result") == "success"
    assert ended(running).state == "success"
    assert db.execute("select run_id from ordinaut.due_work").fetchall() == [(waiting,)]
    assert len(witness.lines("start")) == 1
    assert db.execute("select count(*) from ordinaut.worker").fetchone() == (0,)


def test_the_memory_limit_kills_the_tool_and_not_the_worker(worker, enqueue, ended, witness):
    worker.configure("MemoryMax=160M", "MemorySwapMax=0")
    worker.start()
    before = worker.main, worker.parent

    run = ended(enqueue("eats", megabytes=400, attempts=1))

    assert run.state in ("failed", "abandoned")
    assert "killed by signal 9" in run.error["message"]
    assert ended(enqueue()).state == "success"
    assert (worker.main, worker.parent) == before
    assert worker.show("NRestarts") == "0"


def test_another_version_is_tried_again_until_it_fits(worker, machine, db):
    db.execute("update ordinaut.loaded_code set api = api + 1")
    machine.run("systemctl", "start", "--no-block", worker.unit)

    wait_for(lambda: int(worker.show("NRestarts")) >= 1)

    assert "code=exited, status=75" in worker.journal()
    assert "version skew error=this worker speaks API" in worker.journal("-p", "err")
    db.execute("update ordinaut.loaded_code set api = api - 1")
    wait_for(lambda: worker.is_ready)


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ('{"shell": {}}', "tools.shell.allow must list the absolute paths"),
        ('{"shel": {"allow": ["/bin/sh"]}}', "there is no tools.shel"),
    ],
)
def test_wrong_configuration_is_not_tried_again(worker, machine, database, tools, says):
    database.settings(ORDINAUT_TOOLS=tools)

    machine.run("systemctl", "start", worker.unit, check=False)

    wait_for(lambda: worker.show("ActiveState") == "failed")
    assert (worker.show("ExecMainStatus"), worker.show("NRestarts")) == ("78", "0")
    assert says in worker.show("StatusText")
    assert says in worker.journal("-p", "err")


def test_a_missing_credential_is_not_tried_again(worker, machine):
    machine.run("mv", "/etc/ordinaut/password", "/etc/ordinaut/gone")
    try:
        machine.run("systemctl", "start", worker.unit, check=False)
        wait_for(lambda: worker.show("ActiveState") == "failed")
    finally:
        machine.run("mv", "/etc/ordinaut/gone", "/etc/ordinaut/password")
    assert (worker.show("ExecMainStatus"), worker.show("NRestarts")) == ("243", "0")
