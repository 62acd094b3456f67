"""
Two schedulers race, and a third hand edits, pauses, snoozes, cancels and outdates what they plan.

The editor owns the clock: the schedulers read it, so nobody's lies ahead of the editor's.  Each
edit gives its task a calendar that fires at a second of its own, so that an occurrence tells which
calendar it is of.  A sequence, drawn under the lock of the task's schedule row by tick (the
default of a column) and by the editor (its log), says which came first.

    make stress SIZE=100000      SIZE / 20 edits; SEED=n throws other dice
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from ordinaut import calls, db, planner
from ordinaut.recurrence import Schedule, parse

EDITS = int(os.environ.get("SIZE", "10000")) // 20
SEED = int(os.environ.get("SEED", "7"))
TASKS = 50
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True)
class Era:
    """From one change of a task to the next: what may be decided meanwhile."""

    seq: int
    at: datetime  # nothing up to here
    calendar: Schedule | None  # None: nothing at all


class Lab:
    """The clock that all share, and what went wrong on the way."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.now = NOON
        self.is_over = False
        self.again = Counter[str]()
        self.rounds = threading.Semaphore(0)

    @contextmanager
    def connect(self, name: str) -> Iterator[db.Connection]:
        with db.connect(self.dsn, name=name, statement_timeout=timedelta(seconds=10)) as conn:
            yield conn

    def set_clock(self, conn: db.Connection) -> None:
        conn.execute("select set_config('test.now', %s, false)", [self.now.isoformat()])

    def schedule(self, name: str) -> None:
        """Plan and tick as a scheduler does, without the waiting."""
        with self.connect(name) as conn:
            while not self.is_over:
                self.set_clock(conn)
                try:
                    planner.step(conn)
                    calls.tick(conn)
                except db.AGAIN as exc:
                    self.again[type(exc).__name__] += 1
                self.rounds.release()


class Editor:
    def __init__(self, lab: Lab, conn: db.Connection) -> None:
        self.lab, self.conn = lab, conn
        self.dice = random.Random(SEED)
        self.eras: dict[UUID, list[Era]] = {}
        self.paused: dict[UUID, Schedule] = {}
        self.edits = Counter[UUID]()
        self.done = Counter[str]()

    def fields(self, task_id: UUID | None) -> tuple[dict[str, Any], Schedule]:
        """A calendar that fires at a second that no earlier one of this task had."""
        n = self.edits[task_id] if task_id else 0
        second, every = n % 60, self.dice.randint(1, 3)
        start = self.lab.now.replace(second=second) - timedelta(minutes=10)
        kind, expr = self.dice.choice([
            ("cron", f"{second} */{every} * * * *"),
            ("rrule", f"FREQ=MINUTELY;INTERVAL={every}"),
            ("interval", f"{every} min"),
        ])  # fmt: skip
        fields = {"schedule_kind": kind, "schedule_expr": expr, "start_at": start.isoformat()}
        return fields, parse(kind, expr, "UTC", dtstart=start)

    def create(self, name: str) -> None:
        fields, calendar = self.fields(None)
        task_id = calls.create_task(self.conn, name, "echo", catchup="all", **fields)
        self.edits[task_id] = 1
        self.note(task_id, calendar)

    def note(self, task_id: UUID, calendar: Schedule | None, at: datetime | None = None) -> None:
        """Begin an era; in the transaction that holds the schedule row."""
        row = self.conn.execute("select nextval('order_of_events')").fetchone()
        assert row
        era = Era(row[0], at or self.lab.now, calendar)
        self.eras.setdefault(task_id, []).append(era)

    def change(self) -> None:
        """Do one thing to one task, and let time pass."""
        dice, lab = self.dice, self.lab
        lab.set_clock(self.conn)
        task_id = dice.choice(list(self.eras))
        now = self.eras[task_id][-1]
        verbs = {"update": 8, "touch": 4, "pause": 4, "snooze": 4, "outdate": 2, "cancel": 0.2}
        verb = dice.choices(list(verbs), list(verbs.values()))[0]
        if task_id in self.paused and verb in ("touch", "pause", "snooze"):
            verb = "resume"
        if now.calendar is None and task_id not in self.paused:
            return  # cancelled
        with self.conn.transaction():
            if verb == "update":
                fields, calendar = self.fields(task_id)
                self.edits[task_id] += 1
                calls.update_task(self.conn, str(task_id), fields)
                if task_id in self.paused:
                    self.paused[task_id] = calendar
                else:
                    self.note(task_id, calendar)
            elif verb == "touch":
                calls.update_task(self.conn, str(task_id), {"priority": dice.randint(1, 9)})
            elif verb == "pause":
                assert now.calendar
                calls.pause_task(self.conn, str(task_id))
                self.paused[task_id] = now.calendar
                self.note(task_id, None)
            elif verb == "resume":
                calls.resume_task(self.conn, str(task_id))
                self.note(task_id, self.paused.pop(task_id))
            elif verb == "snooze":
                lasting = timedelta(seconds=dice.randint(1, 400))
                task = calls.get_task(self.conn, str(task_id))
                if task.next_run is not None:
                    try:
                        with self.conn.transaction():
                            found = calls.snooze_task(self.conn, str(task_id), lasting)
                    except psycopg.Error as exc:
                        assert exc.sqlstate == "OR031"  # its plan ran out meanwhile
                    else:
                        least = lab.now + lasting - MICROSECOND
                        at = found - MICROSECOND if found else least
                        assert at >= least
                        self.note(task_id, now.calendar, at)
            elif verb == "cancel":
                calls.cancel_task(self.conn, str(task_id))
                self.paused.pop(task_id, None)
                self.note(task_id, None)
        if verb == "outdate":
            calls.outdate_plans(self.conn, "9999z")
        self.done[verb] += 1
        for _ in range(dice.randint(0, 2)):
            assert lab.rounds.acquire(timeout=30), "no scheduler comes on"
        lab.now += timedelta(
            seconds=dice.choice((0, 1, 7, 30, 60) if dice.random() < 0.99 else (3600,))
        )


@pytest.mark.slow
def test_racing_schedulers(dsn: str) -> None:
    print(f"SEED={SEED}")
    with psycopg.connect(dsn) as conn:
        conn.execute("create sequence order_of_events")
        conn.execute("grant usage on sequence order_of_events to public")  # tick has an owner
        conn.execute(
            "alter table ordinaut.occurrence add column seq bigint default"
            " nextval('order_of_events')"
        )
    lab = Lab(dsn)
    with lab.connect("editor") as conn, ThreadPoolExecutor(2) as pool:
        lab.set_clock(conn)
        editor = Editor(lab, conn)
        for n in range(TASKS):
            editor.create(f"task{n}")
        threads = [pool.submit(lab.schedule, name) for name in ("one", "two")]
        try:
            for _ in range(EDITS):
                editor.change()
        finally:
            lab.is_over = True
        for thread in threads:
            thread.result()
        lab.set_clock(conn)
        for _ in range(1000):
            more, _ = planner.step(conn)
            done = calls.tick(conn)
            if not more and done.next_run and done.next_run > lab.now:
                break
        print(f"{dict(editor.done)}, again: {dict(lab.again)}")

        cursor = conn.cursor(row_factory=namedtuple_row)
        rows = cursor.execute("select * from ordinaut.occurrence order by seq").fetchall()
        runs = cursor.execute(
            "select task_id, scheduled_for, count(*) as n from ordinaut.due_work group by 1, 2"
        ).fetchall()
        tasks = {t.task_id: t for t in calls.list_tasks(conn, limit=1000)}
        why = {i: calls.why(conn, str(i))[0].reason for i, t in tasks.items() if t.next_run is None}
    assert [run for run in runs if run.n != 1] == []

    faults = []
    for task_id, eras in editor.eras.items():
        task, mine = tasks[task_id], [row for row in rows if row.task_id == task_id]
        for row in mine:
            era = [era for era in eras if era.seq < row.seq][-1]
            if row.scheduled_for <= era.at or not fires(era.calendar, row.scheduled_for):
                faults.append(f"{task.name} {row.scheduled_for} is none of {era}")
        decided = Counter(row.decision for row in mine)
        if (task.fired_count, task.missed_count) != (decided["fired"], decided["missed"]):
            faults.append(f"{task.name} fired {task.fired_count}: {decided}")
        last = eras[-1]
        due = [] if last.calendar is None else occurrences(last.calendar, last.at, lab.now)
        since = [row.scheduled_for for row in mine if row.seq > last.seq]
        if since != due:
            faults.append(f"{task.name} {since} since {last}, not {due}")
        if task.status == "active" and (task.next_run is None or task.next_run <= lab.now):
            faults.append(f"{task.name} has stopped: {task.next_run}")
        if task.status != "active" and why[task_id] != f"task_{task.status}":
            faults.append(f"{task.name} is {task.status}, why says {why[task_id]}")
    assert not faults, "\n".join(faults[:20])
    assert len(rows) > EDITS


def fires(calendar: Schedule | None, at: datetime) -> bool:
    return calendar is not None and calendar.after(at - MICROSECOND)[0].at == at


def occurrences(calendar: Schedule, after: datetime, until: datetime) -> list[datetime]:
    found = []
    for occurrence in calendar.walk(after):
        if occurrence.at > until:
            break
        found.append(occurrence.at)
    return found
