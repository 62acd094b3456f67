"""Stopping: SIGTERM finishes what runs, gives back the rest uncharged, and says goodbye."""

from __future__ import annotations

import os
import signal

from tests.loops.conftest import alive, wait_for


def due(db):
    return db.execute("select attempt, failures, crashes from ordinaut.due_work").fetchall()


def test_sigterm_finishes_what_runs_and_starts_nothing_more(db, worker, enqueue, ended, witness):
    running = worker()
    first = enqueue(seconds=1)
    witness.wait("start")
    second = enqueue()

    running.signal(signal.SIGTERM)

    assert running.wait() == 0
    assert ended(first).state == "success"
    assert len(witness.lines("start")) == 1
    assert db.execute("select run_id from ordinaut.due_work").fetchall() == [(second,)]
    assert db.execute("select count(*) from ordinaut.worker").fetchone() == (0,)
    assert db.execute("select count(*) from ordinaut.lease").fetchone() == (0,)


def test_the_drain_limit_gives_work_back_uncharged(db, worker, enqueue, witness):
    running = worker(drain=0.3)
    enqueue(seconds=60)
    [start] = witness.wait("start")

    running.signal(signal.SIGTERM)

    assert running.wait() == 0
    assert [row[1:] for row in due(db)] == [(0, 0)]
    assert not alive(start.pid)


def test_a_second_sigterm_means_now(db, worker, enqueue, witness):
    running = worker(drain=60)
    enqueue(seconds=60)
    [start] = witness.wait("start")

    running.signal(signal.SIGTERM)
    wait_for(lambda: "stopping" in running.log)
    running.signal(signal.SIGTERM)

    assert running.wait(5) == 0
    assert [row[1:] for row in due(db)] == [(0, 0)]
    assert not alive(start.pid)


def test_a_killed_parent_is_reported_at_once(db, worker, enqueue, ended, witness):
    first, second = worker(ttl=600, heartbeat=5), None
    run_id = enqueue(seconds=60, again=0)
    [start] = witness.wait("start")
    second = worker()

    os.kill(first.parent, signal.SIGKILL)

    assert first.wait() == 70
    wait_for(lambda: not alive(start.pid))
    run = ended(run_id)
    assert (run.state, run.attempt, run.crashes) == ("success", 2, 1)
    assert len(witness.lines("end")) == 1
    assert second.guard.poll() is None


def test_a_killed_guard_makes_the_parent_leave(db, worker, enqueue, ended, witness):
    first = worker(ttl=600, heartbeat=5)
    parent = first.parent
    run_id = enqueue(seconds=60, again=0)
    [start] = witness.wait("start")
    worker()

    first.signal(signal.SIGKILL)

    wait_for(lambda: not alive(parent) and not alive(start.pid))
    run = ended(run_id)
    assert (run.state, run.crashes) == ("success", 0)
    assert len(witness.lines("end")) == 1


def test_when_guard_and_parent_die_the_ttl_decides(db, worker, enqueue, ended, witness):
    first = worker(ttl=1.5)
    parent = first.parent
    run_id = enqueue(seconds=60, again=0)
    [start] = witness.wait("start")
    worker(ttl=1.5)

    first.signal(signal.SIGKILL)
    os.kill(parent, signal.SIGKILL)

    wait_for(lambda: not alive(start.pid))
    run = ended(run_id)
    assert (run.state, run.attempt, run.crashes) == ("success", 2, 1)
    assert len(witness.lines("end")) == 1


def test_a_hung_parent_is_killed_and_reported(db, worker, enqueue, ended, witness):
    first = worker(ttl=1.5)
    run_id = enqueue(seconds=60, again=0)
    witness.wait("start")

    os.kill(first.parent, signal.SIGSTOP)
    assert first.wait() == 70
    worker()

    run = ended(run_id)
    assert (run.state, run.crashes) == ("success", 1)
    assert "hangs" in first.log
    assert len(witness.lines("end")) == 1


def test_a_parent_that_is_slow_to_start_is_not_taken_for_a_hung_one(
    worker, enqueue, ended, witness, tmp_path, monkeypatch
):
    # As on a busy host: each Python takes longer to import than a parent may be silent.
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(1.5)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    running = worker(ttl=1.5)

    assert ended(enqueue()).state == "success"
    assert "hangs" not in running.log


def test_a_killed_child_costs_only_what_it_ran(db, worker, enqueue, ended, witness):
    worker()
    victim = enqueue(seconds=60, again=0, label="victim")
    [start] = witness.wait("start")
    others = [enqueue(label=str(n)) for n in range(5)]

    os.kill(start.pid, signal.SIGKILL)

    run = ended(victim)
    assert (run.state, run.attempt, run.crashes) == ("success", 2, 1)
    assert [ended(run_id).crashes for run_id in others] == [0] * 5
    errors = db.execute("select detail from ordinaut.run_history(%s)", [victim]).fetchall()
    assert "killed by signal 9 (out of memory?)" in str(errors)


def test_a_tool_that_always_kills_its_child_is_abandoned(db, worker, enqueue, ended, witness):
    worker()

    run = ended(enqueue("dies", first_only=False))

    assert (run.state, run.crashes) == ("abandoned", 3)
    assert "exit code 9" in str(run.error)


def test_systemd_hears_of_it(tmp_path, worker):
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        running = worker(environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        heard = manager.recv(1000).decode()
        assert "READY=1" in heard
        while "WATCHDOG=1" not in heard:
            heard += manager.recv(1000).decode()
        running.signal(signal.SIGTERM)
        while "STOPPING=1" not in heard:
            heard += manager.recv(1000).decode()
        assert running.wait() == 0
