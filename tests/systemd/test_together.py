"""The scheduler's unit, the target that holds all together, and workers without a unit file."""

from __future__ import annotations

from tests.systemd.machine import wait_for

RUN_WORKER = "/opt/checkout/deploy/run-worker"


def fired(db) -> int:
    [(n,)] = db.execute("select count(*) from ordinaut.occurrence where decision = 'fired'")
    return n


def test_the_scheduler_fires_and_comes_back(service, db):
    scheduler = service("ordinaut-scheduler")
    scheduler.configure("WatchdogSec=2s")
    scheduler.start()
    assert scheduler.show("StatusText") == "scheduling"
    db.execute(
        "select ordinaut.create_task('t', 'echo', p_schedule_kind => 'cron',"
        " p_schedule_expr => '* * * * * *', p_timezone => 'Europe/Berlin')"
    )
    wait_for(lambda: fired(db))

    scheduler.signal("KILL", scheduler.main)
    scheduler.restarted()
    scheduler.signal("STOP", scheduler.main)
    wait_for(lambda: "with result 'watchdog'" in scheduler.journal())
    scheduler.restarted(2)

    seen = fired(db)
    wait_for(lambda: fired(db) > seen)
    scheduler.stop()
    assert scheduler.show("Result") == "success"


def test_the_target_starts_and_stops_what_is_enabled(service, machine, enqueue, ended):
    units = service("ordinaut-worker@default"), service("ordinaut-scheduler")
    names = [unit.unit for unit in units]
    machine.run("systemctl", "enable", "--quiet", *names)
    try:
        machine.run("systemctl", "start", "ordinaut.target")
        assert all([unit.is_ready for unit in units])
        assert ended(enqueue()).state == "success"
        assert {unit.show("Slice") for unit in units} == {"ordinaut.slice"}

        machine.run("systemctl", "stop", "ordinaut.target")
        wait_for(lambda: [unit.show("ActiveState") for unit in units] == ["inactive"] * 2)
    finally:
        machine.run("systemctl", "disable", "--quiet", *names)
        machine.run("systemctl", "stop", "ordinaut.slice", "ordinaut.target")


def test_run_worker_is_the_same_worker(machine, database, db, enqueue, ended, witness):
    unit = "ordinaut-run-default.service"
    more = ["-p", "ReadWritePaths=/opt/outside", "-p", "RestartSec=100ms"]

    def show(name):
        return machine.run("systemctl", "show", "-P", name, unit)

    machine.run(RUN_WORKER, *more, "default", "--", "--name", "by hand")
    try:
        assert (show("ActiveState"), show("Type"), show("DynamicUser")) == (
            "active",
            "notify",
            "yes",
        )
        assert show("RestartPreventExitStatus") == "78 243"
        assert db.execute("select name from ordinaut.worker").fetchone() == ("by hand",)
        run_id = enqueue(seconds=60, again=0)
        witness.wait("start")
        machine.run("kill", "-9", show("MainPID"))
        assert ended(run_id).state == "success"
        assert len(witness.lines("end")) == 1
        assert "already" in machine.run(RUN_WORKER, "default", check=False)
    finally:
        machine.run("systemctl", "stop", unit)
    assert db.execute("select count(*) from ordinaut.worker").fetchone() == (0,)
