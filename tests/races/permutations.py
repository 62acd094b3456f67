"""
Every order: a few calls on three connections, played in all orders that keep each connection's own.

A call is one transaction.  Played `apart`, it is two moves, the call and its commit, so that calls
meet open transactions and wait for their locks; else it is one.  After each move what is committed
must hold: each unit is in one place, each step where its state says, attempts never fall, and what
has ended does not change.  At the end everything is played out, and each run has ended.

A call may answer with what its COMMENT promises.  A deadlock is never among that: locks are taken
in one order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import namedtuple_row

from tests.places import assert_steps, places
from tests.races import Session

NOON = "2026-03-29 12:00:00+00"
SOON = "2026-03-29 12:00:10+00"
LATE = "2026-03-29 12:02:00+00"  # every lease of noon has run out, every worker is silent
END = "2026-03-29 18:00:00+00"

_CLEAN = """
truncate ordinaut.due_work, ordinaut.parked, ordinaut.lease, ordinaut.worker, ordinaut.hold,
  ordinaut.cancel_request, ordinaut.queue, ordinaut.task_run, ordinaut.step, ordinaut.occurrence,
  ordinaut.approval, ordinaut.event, ordinaut.unheard_end, ordinaut.server_epoch,
  ordinaut.task_schedule, ordinaut.task, ordinaut.payload cascade
"""
_LIVES = """
select w.work_id as id, w.attempt, null::jsonb as done from ordinaut.work as w
where w.finished_at is null
union all
select r.run_id, r.attempt, jsonb_build_array(r.state, r.finished_at, r.lease_id, r.output, r.error)
from ordinaut.task_run as r
where r.finished_at is not null
"""


@dataclass
class World:
    """What the sessions know of one play: the ids that were made, and what each has leased."""

    ids: dict[str, Any] = field(default_factory=dict)
    held: dict[str, list[Any]] = field(default_factory=dict)

    def leased(self, who: str, n: int = 0) -> tuple[UUID, UUID]:
        """The n-th unit of the last lease; one that got nothing guesses, and must not get away."""
        rows = self.held.get(who, [])
        return (rows[n].lease_id, rows[n].work_id) if len(rows) > n else (uuid4(), uuid4())


Query = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Call:
    """One call of one session; `ask` is evaluated when its turn comes."""

    name: str
    ask: Callable[[World, str], Query]
    may: tuple[type[Exception], ...] = ()  # what it may answer besides a result
    leases: bool = False
    waits: bool = True  # may it wait for a transaction that somebody leaves open?


@dataclass(frozen=True)
class Scenario:
    """What is arranged, and who does what, at which time of which clock."""

    name: str
    arrange: Callable[[Session, World], None]
    calls: dict[str, Sequence[Call]]
    clocks: dict[str, str] = field(default_factory=dict)


def orders(lengths: dict[str, int]) -> Iterator[tuple[str, ...]]:
    """Yield every sequence in which each name occurs as often as it says."""
    left = {name: n for name, n in lengths.items() if n}
    if not left:
        yield ()
    for name in left:
        for rest in orders(left | {name: left[name] - 1}):
            yield (name, *rest)


class Stage:
    """Three sessions, and two that look: one at noon, one at the end of the day."""

    def __init__(self, dsn: str, names: Sequence[str]) -> None:
        self.sessions = {name: Session(name, dsn) for name in names}
        self.boss = Session("boss", dsn).at(NOON)
        self.last = Session("last", dsn).at(END)
        self.watch = psycopg.connect(dsn, autocommit=True, row_factory=namedtuple_row)

    def close(self) -> None:
        for session in [*self.sessions.values(), self.boss, self.last]:
            session.close()
        self.watch.close()

    def play(self, scenario: Scenario, order: Sequence[str], apart: bool) -> None:
        """Play one order.

        Raises:
            AssertionError: something does not hold; the order is told as a script.
        """
        play = _Play(self, scenario, apart)
        try:
            play.run(order)
        except AssertionError as wrong:
            script = "\n".join(play.script)
            raise AssertionError(f"{scenario.name}, {list(order)}:\n{script}\n{wrong}") from wrong
        finally:
            for session in self.sessions.values():
                session.rollback()


class _Play:
    def __init__(self, stage: Stage, scenario: Scenario, apart: bool) -> None:
        self.stage, self.scenario, self.apart = stage, scenario, apart
        self.world = World()
        self.script: list[str] = []
        self.next = dict.fromkeys(scenario.calls, 0)
        self.open: dict[str, Call] = {}  # answered, and not committed
        self.sent: dict[str, Call] = {}  # waiting for a lock
        self.lives: dict[UUID, tuple[int, Any]] = {}

    def run(self, order: Sequence[str]) -> None:
        boss = self.stage.boss
        boss.run(_CLEAN)
        boss.commit()
        self.scenario.arrange(boss, self.world)
        boss.commit()
        for name, session in self.stage.sessions.items():
            session.at(self.scenario.clocks.get(name, SOON))
        todo = list(order)
        while todo:
            # Whose statement waits has no move until somebody lets go.
            able = [n for n, name in enumerate(todo) if name not in self.sent]
            assert able, "everybody waits for somebody"
            self.move(todo.pop(able[0]))
            self.hear()
        self.play_out()

    def move(self, name: str) -> None:
        if name in self.open:
            self.commit(name)
            return
        call = self.scenario.calls[name][self.next[name]]
        self.next[name] += 1
        query, args = call.ask(self.world, name)
        self.stage.sessions[name].start(query, *args)
        self.sent[name] = call
        self.hear()
        if not self.apart:
            assert name not in self.sent, f"{name}: {call.name} waits, and nothing is open"
            self.commit(name)

    def hear(self) -> None:
        """Take the answers of those that no longer wait."""
        for name, call in list(self.sent.items()):
            session = self.stage.sessions[name]
            if session.is_waiting(self.stage.watch):
                assert call.waits, f"{name}: {call.name} waits for an open transaction"
                continue
            del self.sent[name]
            self.open[name] = call
            try:
                rows = session.result()
            except call.may as refused:
                self.script.append(f"  {name}: {call.name} -> {type(refused).__name__}")
                continue
            except psycopg.Error as error:
                raise AssertionError(f"{name}: {call.name} -> {error!r}") from error
            if call.leases:
                self.world.held[name] = rows
            self.script.append(f"  {name}: {call.name} -> {[tuple(row)[:3] for row in rows]}")

    def commit(self, name: str) -> None:
        self.stage.sessions[name].commit()
        del self.open[name]
        if self.apart:
            self.script.append(f"  {name}: commit")
        self.look()

    def look(self) -> None:
        """What is committed holds after each commit."""
        boss = self.stage.boss
        places(boss)
        assert_steps(boss)
        for row in boss.run(_LIVES):
            attempt, done = self.lives.get(row.id, (0, None))
            assert row.attempt >= attempt, f"the attempt of {row.id} fell to {row.attempt}"
            assert done is None or done == row.done, f"{row.id} had ended: {done} -> {row.done}"
            self.lives[row.id] = (row.attempt, row.done)
        boss.commit()

    def play_out(self) -> None:
        """Whatever is left is taken back, done and answered: then nothing is left over."""
        last = self.stage.last
        last.run("select ordinaut.resume_queue('default', 'the end')")
        for _ in itertools.repeat(None, 30):
            last.run("select ordinaut.reap()")
            last.run("select ordinaut.emit_event('bell')")
            last.commit()
            units = last.run("select * from ordinaut.lease_work('last', p_limit => 10)")
            last.commit()
            for unit in units:
                last.run("select ordinaut.complete_work(%s, %s)", unit.lease_id, unit.work_id)
                last.commit()
            live = last.one("select count(*) from ordinaut.run as r where r.finished_at is null")
            if not units and not live:
                break
        rest = last.run("select * from ordinaut.work as w where w.finished_at is null")
        assert not rest, f"left over: {rest}"
        live = last.run("select * from ordinaut.run as r where r.finished_at is null")
        assert not live, f"never ended: {live}"
        held = last.run("select * from ordinaut.hold as h where h.held_until is null")
        assert not held, f"held by nobody: {held}"
        asked = last.run("select * from ordinaut.cancel_request")
        assert not asked, f"asked for, and forgotten: {asked}"
        last.commit()
        self.look()
