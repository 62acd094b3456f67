"""
The scheduler: a loop that plans calendars, asks conditions, fires what is due, takes back what
died, keeps house.

It registers nothing and owns nothing.  Any number of schedulers may run: an occurrence fires
once, whoever ticks, because its primary key says so.  The client's clock decides nothing: the
database answers when the next firing is due, and how long that is from now.

Each chore fails alone.  A lost database stops them all, until it is back; that, and the version
of the schema, are the only things that the chores share.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import psycopg
from psycopg import errors

from ordinaut import calls, db, pipeline, planner, schema, systemd
from ordinaut.backfill import Backfills
from ordinaut.conditions import Poller
from ordinaut.errors import VersionSkew, sentence
from ordinaut.recurrence import tzdata_version

log = logging.getLogger(__name__)

BATCH = 2000  # tasks a tick: a chunk is a transaction, its runs start when it commits
_OUTDATE = 60.0  # between two looks for plans of older time zone data, in seconds
_HELD = 0.02  # between two ticks that decide nothing of what is due, in seconds
_STEP = 0.02  # between two steps of keeping house, in seconds
_SWEEP = 5.0  # between two ticks without a floor, in seconds


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Everything in seconds.

    Attributes:
        poll: the longest sleep between two ticks: a task that somebody creates now, due at
            once, is seen so much later.
        reap, prune: between two of each, jittered so that schedulers do not march in step.
        keep: an interval as PostgreSQL reads it: how long finished runs stay.
        condition_role: whose rights the queries of conditions have; None: those of the DSN.
        condition_timeout: then a condition counts as failed.
    """

    dsn: str
    pooled: bool = False
    poll: float = 0.25
    reap: float = 3.0
    prune: float = 60.0
    keep: str = "30 days"
    condition_role: str | None = None
    condition_timeout: float = 5.0


@dataclass(slots=True)
class _Chore:
    """Something to do from time to time: `do` returns the seconds until the next time."""

    name: str
    do: Callable[[db.Connection], float]
    due: float = 0.0
    failing: str = ""
    backoff: db.Backoff = field(default_factory=lambda: db.Backoff(base=0.5, cap=60.0))


class Scheduler:
    """One scheduler, from `run()` to SIGTERM."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self._stopping = threading.Event()
        self._conn: db.Connection | None = None
        self._met = False
        self._gone = ""
        self._lost = db.Backoff()
        self._floor: datetime | None = None
        self._sweep = 0.0
        self._outdate = 0.0
        self._pruned: Counter[str] = Counter()
        self._poller = Poller(
            config.dsn, pooled=config.pooled, role=config.condition_role,
            timeout=timedelta(seconds=config.condition_timeout),
        )  # fmt: skip
        self._backfills = Backfills()
        self._ticking = _Chore("tick", self._tick)
        self._chores = [
            _Chore("plan", self._plan),
            _Chore("pipelines", self._pipelines),
            _Chore("conditions", self._conditions),
            self._ticking,
            _Chore("backfill", self._backfill),
            _Chore("reap", self._reap),
            _Chore("prune", self._prune),
        ]

    def stop(self) -> None:
        """Let `run` return.  Safe in a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Work until stopped.

        Raises:
            VersionSkew: the database speaks another API.
            SchemaError: the database has no Ordinaut.
            psycopg.errors.InsufficientPrivilege: our role may not tick.
        """
        try:
            while not self._stopping.is_set():
                try:
                    pause = self._round()
                except psycopg.Error as exc:
                    if not db.is_gone(exc):
                        raise
                    pause = self._disconnected(exc)
                self._stopping.wait(pause)
        finally:
            systemd.notify("STOPPING=1", "STATUS=stopping")
            self._poller.close()
            if self._conn is not None:
                self._conn.close()
        log.info("scheduler stopped")

    def _round(self) -> float:
        conn = self._connected()
        for chore in self._chores:
            if chore.due <= time.monotonic() and not self._stopping.is_set():
                self._do(conn, chore)
        systemd.notify("WATCHDOG=1")
        return max(0.0, min(chore.due for chore in self._chores) - time.monotonic())

    def _do(self, conn: db.Connection, chore: _Chore) -> None:
        try:
            pause = chore.do(conn)
        except db.AGAIN:
            pause = random.uniform(0.01, 0.1)
        except psycopg.Error as exc:
            if db.is_gone(exc) or isinstance(exc, VersionSkew):
                raise
            if isinstance(exc, errors.InsufficientPrivilege) and self._floor is None:
                raise  # not once could it tick: somebody started it with the wrong role
            pause = chore.backoff.next()
            if chore.failing != str(exc):  # a line per change, not per attempt
                chore.failing = str(exc)
                log.error("%s fails: %s", chore.name, sentence(exc))
        else:
            chore.backoff.reset()
            if chore.failing:
                log.info("%s works again", chore.name)
                chore.failing = ""
        chore.due = time.monotonic() + pause

    def _connected(self) -> db.Connection:
        if self._conn is None:
            conn = db.connect(self.config.dsn, name="ordinaut-scheduler", pooled=self.config.pooled)
            self._conn = conn
            schema.check_api(conn)
            log.info("scheduler connected again" if self._met else "scheduler started")
            self._met, self._gone = True, ""
            self._lost.reset()
            systemd.notify("READY=1", "STATUS=scheduling")
        return self._conn

    def _disconnected(self, exc: psycopg.Error) -> float:
        if self._conn is not None:
            self._conn.close()
            self._conn = None
        reason = sentence(exc)
        if not self._gone:
            what = "database gone" if self._met else "no database"
            log.warning("%s, trying again: %s", what, reason)
            systemd.notify(f"STATUS={what}, trying again: {reason}")
        self._gone = reason
        return self._lost.next()

    def _plan(self, conn: db.Connection) -> float:
        if time.monotonic() >= self._outdate:
            if n := calls.outdate_plans(conn, tzdata_version()):
                log.info("plans of older time zone data: %d", n)
            self._outdate = time.monotonic() + _OUTDATE
        more, earliest = planner.step(conn)
        if earliest is not None:
            self._ticking.due = 0.0
            if self._floor is not None:
                self._floor = min(self._floor, earliest)
        return 0.0 if more else self.config.poll

    def _pipelines(self, conn: db.Connection) -> float:
        return 0.0 if pipeline.vet(conn) else self.config.poll

    def _conditions(self, conn: db.Connection) -> float:
        self._poller.step(conn)
        return self.config.poll

    def _tick(self, conn: db.Connection) -> float:
        sweep = time.monotonic() >= self._sweep
        done = calls.tick(conn, limit=BATCH, floor=None if sweep else self._floor)
        self._floor = done.floor
        if sweep:
            self._sweep = time.monotonic() + _SWEEP * random.uniform(0.75, 1.25)
        if done.missed:
            log.warning("occurrences missed: %d", done.missed)
        wait = timedelta(seconds=self.config.poll)
        if done.next_run is not None:
            wait = min(wait, done.next_run - done.at)
            if done.next_run <= done.at and not done.fired and not done.missed:
                return _HELD  # by others, for as long as they like
        return max(0.001, wait.total_seconds())

    def _backfill(self, conn: db.Connection) -> float:
        return 0.0 if self._backfills.step(conn) else self.config.poll

    def _reap(self, conn: db.Connection) -> float:
        taken = calls.reap(conn)
        if taken:
            log.warning("work taken back from the dead: %d", taken)
        return self.config.reap * random.uniform(0.75, 1.25)

    def _prune(self, conn: db.Connection) -> float:
        if step := calls.prune(conn, self.config.keep):
            self._pruned.update({pruned.what: pruned.n for pruned in step})
            return _STEP
        for what, n in self._pruned.items():
            log.info("pruned %s: %d", what, n)
        self._pruned.clear()
        return self.config.prune * random.uniform(0.75, 1.25)


def run(config: SchedulerConfig) -> int:
    """Run a scheduler until SIGTERM or SIGINT and return its exit code."""
    scheduler = Scheduler(config)
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: scheduler.stop()) for number in numbers]
    log.info("scheduler starts, pid %d", os.getpid())
    try:
        scheduler.run()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    return 0
