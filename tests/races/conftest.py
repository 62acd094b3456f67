"""
Fixtures of the races.  Noon is 2026-03-29 12:00:00 UTC by the boss's clock.

    at           makes a Session with a clock of its own: at("reaper", "12:01:01")
    boss         a Session at noon: arranges, and looks at what came of it; when the test ends, all
                 steps are where their states say
    work         enqueues n units; when the test ends, each is in exactly one place
    worker_id    a worker registered at noon, with a ttl of 60 s
    lend         leases ad hoc from noon for 60 s, and commits
    unit, lease  one unit, and a lease of it
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.places import assert_conserved, assert_steps
from tests.races import Session


@pytest.fixture
def at(session: Callable[[str], Session]) -> Callable[[str, str], Session]:
    def make(name: str, time: str) -> Session:
        return session(name).at(f"2026-03-29 {time}+00")

    return make


@pytest.fixture
def boss(at: Callable[[str, str], Session]) -> Iterator[Session]:
    boss = at("boss", "12:00:00")
    yield boss
    boss.rollback()
    assert_steps(boss)


@pytest.fixture
def work(boss: Session) -> Iterator[Callable[..., list[UUID]]]:
    n_made = 0

    def enqueue(n: int = 1, **arguments: Any) -> list[UUID]:
        nonlocal n_made
        items = json.dumps([{"tool": "echo", **arguments}] * n)
        rows = boss.run("select * from ordinaut.enqueue_many(%s) order by ord", items)
        boss.commit()
        n_made += n
        return [row.run_id for row in rows]

    yield enqueue
    boss.rollback()
    assert_conserved(boss, n_made)


@pytest.fixture
def worker_id(boss: Session) -> UUID:
    worker_id = uuid4()
    boss.run("select ordinaut.register_worker(%s, '{default}', '{echo}')", worker_id)
    boss.commit()
    return worker_id


@pytest.fixture
def lend(boss: Session) -> Callable[[int], UUID]:
    def lease(limit: int = 1) -> UUID:
        rows = boss.run("select * from ordinaut.lease_work('w1', p_limit => %s)", limit)
        boss.commit()
        assert len(rows) == limit
        lease_id: UUID = rows[0].lease_id
        return lease_id

    return lease


@pytest.fixture
def unit(work: Callable[..., list[UUID]]) -> UUID:
    [work_id] = work()
    return work_id


@pytest.fixture
def lease(unit: UUID, lend: Callable[[int], UUID]) -> UUID:
    return lend(1)
