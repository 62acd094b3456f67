"""
Every order of a few calls on a few connections, with the oracle asked after each of them.

A `Scenario` is what `given` makes, and for each connection the calls that it sends, in order.  An
order of the scenario is a word of its connections' letters: in `abba` a sends its first call, b its
two, a its last.  `play` plays one order in one of two forms:

    a call is a transaction   what is read and what is written by whole calls
    open transactions         "commit" is a step of its own: calls wait for each other's locks.  A
                              step of a connection that waits is taken as soon as it goes on

After each step: every unit and every step of a run is in one place (tests/places.py), no attempt
counts down, what has ended stays as it is, and the call answered what it may.  After the last: what
is left is taken back and done, and then each run has ended once and nothing is held.  A deadlock is
a failure, as is a lease or a sweeper that waits.

The clock stands at 12:01:10, where leases of 12:00 for a minute have run out and are not taken back
yet: a settle and a reap may both come first.

Prior art: PostgreSQL's isolation tester, of which this is the part that we need.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

import psycopg

from tests.places import assert_conserved, assert_steps, places
from tests.races import PATIENCE, Session

NOON, NOW = "2026-03-29 12:00:00+00", "2026-03-29 12:01:10+00"
LEASES = {name: uuid5(NAMESPACE_OID, name) for name in ("L1", "L2", "L3", "L4", "W")}


@dataclass(frozen=True)
class Call:
    """A statement that answers one text.

    Attributes:
        sql: names its ids as %(name)s: those that `given` made, and LEASES.
        answers: what it may answer: texts, which it joins by +, or the SQLSTATE of its error.
        lease: which one has to stand for any answer but a refusal.
        takes: the lease that it makes: of no run of which a cancel was requested before.
        cancels: the run of which it requests this.
        waits: whether it may wait for a lock of another transaction.
    """

    sql: str
    answers: str
    lease: str = ""
    takes: str = ""
    cancels: str = ""
    waits: bool = True


COMMIT = Call("commit", "ok")
_REFUSALS = {"already", "lost", "OR001", "OR022"}


@dataclass(frozen=True)
class Scenario:
    """What is there at noon, and who calls what.

    Attributes:
        given: statements; the first column of their row gets the name, if there is one.
        sends: the calls of each connection, by its letter.
        end: statements before the drain: what nobody would do by himself (resume, emit).
    """

    given: list[tuple[str, str]]
    sends: dict[str, list[Call]]
    end: list[str] = field(default_factory=list)

    def in_transactions(self) -> Scenario:
        """The same with each connection's calls in one transaction."""
        opened = {name: [*calls, COMMIT] for name, calls in self.sends.items()}
        return Scenario(self.given, opened, self.end)

    def letters(self) -> str:
        return "".join(name * len(calls) for name, calls in self.sends.items())

    def size(self) -> int:
        """How many orders there are."""
        n = math.factorial(len(self.letters()))
        for calls in self.sends.values():
            n //= math.factorial(len(calls))
        return n

    def orders(self, wanted: str, seed: int) -> Iterator[str]:
        """Yield the orders wanted: `all`, a number of them by chance, or this one."""
        if not wanted.isdigit() and wanted != "all":
            yield wanted
        elif wanted == "all" or int(wanted) >= self.size():
            yield from _orders(Counter(self.letters()))
        else:
            chance, seen = Random(seed), set[str]()
            while len(seen) < int(wanted):
                letters = list(self.letters())
                chance.shuffle(letters)
                order = "".join(letters)
                if order not in seen:
                    seen.add(order)
                    yield order


def _orders(left: Counter[str]) -> Iterator[str]:
    if not left:
        yield ""
    for name in sorted(left):
        for rest in _orders(left - Counter(name)):
            yield name + rest


_TABLES = """
select c.oid::regclass::text as name
from pg_class as c
where
  c.relnamespace = 'ordinaut'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
"""
# What may only grow, and what may only stay.
_ATTEMPTS = """
select u.work_id, u.attempt from ordinaut.due_work as u
union all
select u.work_id, u.attempt from ordinaut.parked as u
union all
select u.work_id, u.attempt from ordinaut.lease as l cross join unnest(l.work) as u
where u.work_id <> all (l.settled)
union all
select s.step_id, s.attempt from ordinaut.step as s where s.state = 'complete'
"""
_ENDS = """
select r.run_id as id, md5(r::text) as row from ordinaut.task_run as r
where r.finished_at is not null
union all
select s.step_id, md5(s::text) from ordinaut.step as s where s.state = 'complete'
"""
_CROWDED = """
select q.queue
from ordinaut.queue as q
join ordinaut.lease as l on l.queue = q.queue
group by q.queue
having sum(l.size - cardinality(l.settled)) > min(q.max_running)
"""
_LEASED = """
select u.run_id
from ordinaut.lease as l
cross join unnest(l.work) as u
where l.lease_id = %s and u.step is null and u.run_id = any (%s)
"""
_DOOMED = """
select r.run_id, r.state
from ordinaut.task_run as r
where r.run_id = any (%s) and r.state not in ('cancelled', 'success')
"""
_STANDS = "select exists (select from ordinaut.lease where lease_id = %s)"
_HELD = """
select 'due' as what, w.run_id::text as id from ordinaut.due_work as w
union all
select 'parked: ' || p.reason, p.run_id::text from ordinaut.parked as p
union all
select 'leased', l.lease_id::text from ordinaut.lease as l
union all
select 'key', h.key from ordinaut.hold as h where h.slot >= 1
union all
select 'cancel request', c.run_id::text from ordinaut.cancel_request as c
union all
select 'end of a child', e.run_id::text from ordinaut.unheard_end as e
union all
select 'live', r.run_id::text from ordinaut.task_run as r where r.finished_at is null
"""


class Stage:
    """A database on which orders are played, one after the other, and what was seen of the last."""

    def __init__(self, dsn: str, names: str) -> None:
        self.boss = Session("boss", dsn)
        self.boss.conn.autocommit = True
        self.sessions = {name: Session(name, dsn).at(NOW) for name in names}
        self._ids: dict[str, Any] = {}
        self._script: list[str] = []
        self._found: dict[UUID, str] = {}
        self._attempts: dict[UUID, int] = {}
        self._ends: dict[UUID, str] = {}
        self._doomed: list[UUID] = []  # a cancel was requested, and is committed
        self._cancelled: dict[str, list[UUID]] = {}
        # What is empty after the installation is emptied for each order.
        tables = [row.name for row in self.boss.run(_TABLES)]
        self._reset = "; ".join(
            f"delete from {name}"
            for name in tables
            if not self.boss.one(f"select exists (select from {name})")
        )

    def close(self) -> None:
        for session in [self.boss, *self.sessions.values()]:
            session.close()

    def play(self, scenario: Scenario, order: str) -> None:
        """Play one order.

        Raises:
            AssertionError: with the order, as a script of what was called and answered.
        """
        self._script = []
        try:
            self._arrange(scenario)
            self._act(scenario, order)
            self._drain(scenario)
        except (AssertionError, psycopg.Error) as wrong:
            for session in self.sessions.values():
                session.give_up()
            raise AssertionError(
                "\n".join([f"in the order {order}:", *self._script, f"    {wrong}"])
            ) from wrong

    def _arrange(self, scenario: Scenario) -> None:
        self.boss.run("set session_replication_role = replica")
        self.boss.run(self._reset)
        self.boss.run("reset session_replication_role")
        self.boss.at(NOON)
        self._ids = dict(LEASES)
        self._found, self._attempts, self._ends = {}, {}, {}
        self._doomed, self._cancelled = [], {}
        for name, query in scenario.given:
            rows = self.boss.run(query % _Quoted(self._ids))
            if name:
                self._ids[name] = rows[0][0]
        for session in self.sessions.values():
            session.conn.autocommit = COMMIT not in scenario.sends.get(session.name, [])
        self._look()

    def _act(self, scenario: Scenario, order: str) -> None:
        left = {name: list(calls) for name, calls in scenario.sends.items()}
        due = list(order)
        sent: dict[str, tuple[Call, bool, list[Any]]] = {}
        stuck = time.monotonic() + PATIENCE
        while due or sent:
            for name in [n for n in sent if self.sessions[n].has_answered(self.boss.conn)]:
                self._hear(name, *sent.pop(name))
                self._look()
            name = next((n for n in due if n not in sent), "")
            if not name:
                assert time.monotonic() < stuck, f"waits for ever: {', '.join(sent)}"
                continue
            due.remove(name)
            call = left[name].pop(0)
            session = self.sessions[name]
            if call is COMMIT:
                session.commit()
                self._doomed += self._cancelled.pop(name, [])
                self._say(name, "commit", "")
            else:
                held = not call.lease or session.one(_STANDS, self._ids[call.lease])
                doomed = list(self._doomed)
                session.start(call.sql % _Quoted(self._ids))
                if session.has_answered(self.boss.conn):
                    self._hear(name, call, held, doomed)
                else:
                    self._say(name, call.sql, "waits")
                    assert call.waits, "this must not wait for anybody"
                    sent[name] = call, held, doomed
            self._look()

    def _hear(self, name: str, call: Call, held: bool, doomed: list[Any]) -> None:
        session = self.sessions[name]
        try:
            answer = str(session.result()[0][0])
        except psycopg.Error as error:
            session.rollback()
            self._cancelled.pop(name, None)
            answer = error.sqlstate or "?"
        self._say(name, call.sql, answer)
        said = set(answer.split("+"))
        assert said <= set(call.answers.split()), f"it may answer {call.answers}"
        assert held or said & _REFUSALS, "accepted, but the lease was gone"
        if call.takes and doomed:
            taken = session.run(_LEASED, self._ids[call.takes], doomed)
            assert not taken, f"leased, though a cancel was requested: {taken}"
        if call.cancels and answer == "requested":
            requested = self._cancelled.setdefault(name, [])
            requested.append(self._ids[call.cancels])
            if session.conn.autocommit:
                self._doomed += self._cancelled.pop(name)

    def _say(self, name: str, query: str, answer: str) -> None:
        self._script.append(f"    {name}  {' '.join((query % _Quoted(self._ids)).split())}")
        if answer:
            self._script[-1] += f"  ->  {answer}"

    def _look(self) -> None:
        """Ask the oracle of what is committed, and compare it with what was seen before."""
        found = places(self.boss)
        gone = self._found.keys() - found.keys()
        assert not gone, f"gone: {gone}"
        assert_steps(self.boss)
        assert not self.boss.run(_CROWDED), "more is leased than its queue allows"
        attempts = {row.work_id: row.attempt for row in self.boss.run(_ATTEMPTS)}
        for work_id, attempt in attempts.items():
            before = self._attempts.get(work_id, 0)
            assert attempt >= before, f"{work_id}: attempt {attempt} after {before}"
        ends = {row.id: row.row for row in self.boss.run(_ENDS)}
        for ended, row in self._ends.items():
            assert ends.get(ended) == row, f"{ended} had ended, and has changed"
        self._found, self._attempts, self._ends = found, self._attempts | attempts, ends

    def _drain(self, scenario: Scenario) -> None:
        for query in scenario.end:
            self.boss.run(query % _Quoted(self._ids))
        for minute in range(5, 60, 5):
            self.boss.at(f"2026-03-29 12:{minute:02}:00+00")
            self.boss.run("select ordinaut.reap()")
            taken = self.boss.run("select * from ordinaut.lease_work('drain', p_limit => 100)")
            missed = [u for u in taken if u.step is None and u.run_id in self._doomed]
            assert not missed, f"leased, though a cancel was requested: {missed}"
            if taken:
                self.boss.run("select * from ordinaut.complete_work(%s)", taken[0].lease_id)
            self._look()
            if not (held := self.boss.run(_HELD)):
                break
        assert not held, f"left in the end: {held}"
        assert_conserved(self.boss, len(self._found))
        ends = self.boss.run(_DOOMED, self._doomed)
        assert not ends, f"a cancel was requested, and it ended otherwise: {ends}"


class _Quoted(dict[str, Any]):
    """Ids as SQL: a script of them can be pasted into psql."""

    def __getitem__(self, name: str) -> str:
        return f"'{super().__getitem__(name)}'"
