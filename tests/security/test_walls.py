"""
What a worker's and a producer's credentials cannot do.

A lease's id is a bearer token, random and known to its lessee.  A worker's id is none: views show
it, so it is worth nothing to another login.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.postgres import one
from tests.security.conftest import Conn, Town

_LEASE = "select work_id from ordinaut.exchange(%s, %s, %s, %s) where kind = 'work'"
_SETTLE = (
    "select kind from ordinaut.exchange(%s, 'default', null, 0, %s::uuid[], %s::uuid[], %s::text[],"
    " %s::text[], %s::text[], %s::bigint[])"
)
_NOTE = "select kind from ordinaut.exchange(%s, 'default', null, 0, p_notes => %s)"


class Hand:
    """A registered worker, as whichever login."""

    def __init__(self, conn: Conn, queues: str = "{default}") -> None:
        self.conn = conn
        self.id = uuid4()
        conn.execute("select ordinaut.register_worker(%s, %s, '{echo}')", [self.id, queues])

    def lease(self, queue: str | None = "default", limit: int = 10) -> tuple[UUID, list[UUID]]:
        lease_id = uuid4()
        found = self.conn.execute(_LEASE, [self.id, queue, lease_id, limit]).fetchall()
        return lease_id, [work_id for (work_id,) in found]


@pytest.fixture
def holder(town: Town) -> Hand:
    """A worker; two units wait."""
    producer = town.login("producer")
    producer.execute("select ordinaut.enqueue('echo') from generate_series(1, 2)")
    return Hand(town.login("worker"))


@pytest.fixture
def rival(town: Town) -> Hand:
    """A worker of another login."""
    return Hand(town.login("rival"))


def test_a_workers_id_is_worth_nothing_to_another_login(
    town: Town, holder: Hand, rival: Hand, rows: Callable[..., Any]
) -> None:
    lease_id, units = holder.lease()
    (told,) = town.login("viewer").execute("select worker_id from ordinaut.run limit 1").fetchall()
    assert told == (holder.id,)  # that is how the rival may know it

    conn = rival.conn
    assert rows(conn, _LEASE, holder.id, "default", uuid4(), 1) == "OR022"
    assert rows(conn, _LEASE, holder.id, "default", lease_id, 1) == "OR022"
    assert rows(conn, "select ordinaut.heartbeat(%s, p_lease_ids => '{}')", holder.id) == "OR022"
    assert rows(conn, "select ordinaut.deregister_worker(%s, 'dead')", holder.id) == "42501"
    assert rows(conn, "select ordinaut.register_worker(%s, '{x}', '{y}')", holder.id) == "OR030"

    beat = holder.conn.execute("select * from ordinaut.heartbeat(%s, '1 min', %s)", [
        holder.id, [lease_id],
    ])  # fmt: skip
    assert beat.fetchall() == []
    done = holder.conn.execute("select outcome from ordinaut.complete_work(%s)", [lease_id])
    assert done.fetchall() == [("success",)] * len(units)


def test_an_admin_and_the_owner_may_take_a_worker_off(town: Town) -> None:
    for login in ("admin", "deployer", "postgres"):
        hand = Hand(town.login("worker"))
        options = "-c role=ordinaut_owner" if login == "deployer" else ""
        one(town.login(login, options=options), "select ordinaut.deregister_worker(%s)", hand.id)
        assert one(town.login(), "select count(*) from ordinaut.worker") == 0, login


def test_a_worker_leases_from_the_queues_that_it_declared(
    town: Town, holder: Hand, rows: Callable[..., Any]
) -> None:
    town.login("producer").execute("select ordinaut.enqueue('echo', p_queue => 'payroll')")

    for queue in ("payroll", "", None, "default,payroll", "*", "{default}"):
        assert rows(holder.conn, _LEASE, holder.id, queue, uuid4(), 1) == "22023", queue
    assert len(holder.lease()[1]) == 2


@pytest.mark.parametrize("guess", ["unit", "worker", "random", "nil", "spent", "reaped"])
def test_a_token_is_not_to_be_guessed(
    town: Town, holder: Hand, rival: Hand, rows: Callable[..., Any], guess: str
) -> None:
    lease_id, (unit, other) = holder.lease()
    forged = {"unit": unit, "worker": holder.id, "nil": UUID(int=0)}.get(guess, uuid4())
    if guess == "spent":
        holder.conn.execute("select ordinaut.complete_work(%s)", [lease_id])
        forged = uuid4()
    elif guess == "reaped":
        town.login("admin").execute("select ordinaut.deregister_worker(%s, 'dead')", [holder.id])
        forged = lease_id

    for verb in (
        "complete_work(%s, %s)", "fail_work(%s, %s, 'x')", "release_work(%s, %s)",
        "snooze_work(%s, %s, '1 h')", "skip_work(%s, %s)", "wait_work(%s, %s, '{}')",
        "assert_lease(%s, %s)", "log_work(%s, %s, 'log', '{}')",
    ):  # fmt: skip
        assert rows(rival.conn, f"select ordinaut.{verb}", forged, unit) == "OR001", verb
    assert rows(rival.conn, "select ordinaut.heartbeat(%s)", forged) in ("OR001", "OR022")
    said = rows(rival.conn, _SETTLE, rival.id, [forged], [other], ["success"], ["1"], [None], [1])
    assert ("lost",) in said and not {("already",), ("work",)} & set(said)
    ends = one(town.login(), "select count(*) from ordinaut.task_run")
    assert ends == (2 if guess == "spent" else 0)


def test_a_result_is_taken_once_however_often_it_is_sent(
    holder: Hand, rows: Callable[..., Any]
) -> None:
    lease_id, (unit, _) = holder.lease()
    first = [holder.id, [lease_id], [unit], ["success"], ['"first"'], [None], [1]]
    assert rows(holder.conn, _SETTLE, *first) == []

    replayed = [*first[:4], ['"second"'], [None], [1]]
    assert rows(holder.conn, _SETTLE, *replayed) == [("already",)]
    assert rows(holder.conn, "select output from ordinaut.get_run(%s)", unit) == [("first",)]
    again = "select outcome from ordinaut.fail_work(%s, %s)"
    assert rows(holder.conn, again, lease_id, unit) == [("already",)]


def test_a_lease_settles_and_notes_its_own_units_only(
    town: Town, holder: Hand, rival: Hand, rows: Callable[..., Any]
) -> None:
    _, units = holder.lease(limit=1)
    mine, _ = rival.lease(limit=1)
    waiting = one(town.login("producer"), "select run_id from ordinaut.enqueue('echo')")
    for unit in (units[0], waiting, uuid4(), None):
        settle = [rival.id, [mine], [unit], ["success"], [None], [None], [1]]
        assert rows(rival.conn, _SETTLE, *settle) == "22023"
        note = f'[{{"lease_id": "{mine}", "work_id": "{unit or uuid4()}", "event": "log"}}]'
        assert rows(rival.conn, _NOTE, rival.id, note) == []
        if unit:
            log = "select ordinaut.log_work(%s, %s, 'log', '{}')"
            assert rows(rival.conn, log, mine, unit) == "OR001"
    assert one(town.login(), "select count(*) from ordinaut.run_log where event = 'log'") == 0


@pytest.mark.parametrize("span", ["-1 s", "0 s", "31 days", "100000 years", None])
def test_a_lease_lasts_for_some_time_and_not_for_ever(
    holder: Hand, rows: Callable[..., Any], span: str | None
) -> None:
    conn = holder.conn
    assert rows(conn, "select ordinaut.lease_work('me', p_for => %s::interval)", span) == "22023"
    lease_id = one(conn, "select lease_id from ordinaut.lease_work('me')")
    assert rows(conn, "select ordinaut.heartbeat(%s, %s::interval)", lease_id, span) == "22023"
    register = "select ordinaut.register_worker(%s, '{default}', '{echo}', p_ttl => %s::interval)"
    if span != "31 days":
        assert rows(conn, register, uuid4(), span) == "22023"


def test_odd_arrays_change_nothing(town: Town, holder: Hand, rows: Callable[..., Any]) -> None:
    lease_id, (unit, _) = holder.lease()
    worker = holder.id
    for odd in (
        [worker, [lease_id], [unit], [None], [None], [None], [1]],
        [worker, [lease_id], [unit], ["abandoned"], [None], [None], [1]],
        [worker, [lease_id], [unit], ["skipped"], [None], [None], [1]],
        [worker, [lease_id, lease_id], [unit], ["success"], [None], [None], [1]],
        [worker, [lease_id], [unit], ["success"], ["not json"], [None], [1]],
        [worker, [lease_id], [unit], ["success"], ['"\\u0000"'], [None], [1]],
        [worker, [lease_id], [unit], ["failed"], [None], ['{"retry_after": "soon"}'], [1]],
    ):
        assert rows(holder.conn, _SETTLE, *odd)[:2] == "22", odd
    for lost in ([None], [uuid4()] * 100):
        n = len(lost)
        said = rows(
            holder.conn, _SETTLE, worker, lost, [unit] * n, ["success"] * n, [None] * n, [None] * n,
            [-(2**63)] * n,
        )  # fmt: skip
        assert set(said) == {("lost",)}
    assert one(town.login(), "select cardinality(settled) from ordinaut.lease") == 0


def test_an_odd_time_is_bounded(town: Town, holder: Hand, rows: Callable[..., Any]) -> None:
    lease_id, units = holder.lease()
    said = rows(
        holder.conn, _SETTLE, holder.id, [lease_id] * 2, units, ["snoozed", "success"],
        [None, None], ['{"retry_after": "Infinity"}', None], [-1, 2**63 - 1],
    )  # fmt: skip
    assert said == []

    dba = town.login()
    assert one(dba, "select run_at < now() + interval '11 years' from ordinaut.due_work")
    assert one(
        dba,
        "select started_at <= finished_at and isfinite(started_at) from ordinaut.task_run",
    )


def test_a_producer_is_not_there_before_the_engine(town: Town, rows: Callable[..., Any]) -> None:
    """A step that runs a task finds the run by a key: whoever held it would give the output."""
    admin, worker, producer = town.login("admin"), town.login("worker"), town.login("producer")
    admin.execute("select ordinaut.create_task('sub', 'echo')")
    steps = '[{"id": "sub", "uses": "task", "with": {"task": "sub"}}]'
    run_id = one(producer, "select run_id from ordinaut.enqueue(p_pipeline => %s::jsonb)", steps)
    lease_id, unit = (
        worker.execute("select lease_id, work_id from ordinaut.lease_work('w')").fetchone() or ()
    )

    for prefix in ("child:", "id:", "retry:", "emit:"):
        for verb in ("enqueue('echo', p_idempotency_key => %s)", "run_now('sub', null, %s)"):
            assert rows(producer, f"select ordinaut.{verb}", f"{prefix}{unit}") == "22023"
    worker.execute(
        'select ordinaut.wait_work(%s, %s, \'{"kind": "task", "task": "sub"}\')', [lease_id, unit]
    )
    child = one(
        town.login("viewer"), "select run_id from ordinaut.run where parent_run_id = %s", run_id
    )
    assert one(producer, "select task from ordinaut.get_run(%s)", child) == "default/sub"


def test_a_flood_has_bounds(town: Town, rows: Callable[..., Any]) -> None:
    admin, producer, worker = town.login("admin"), town.login("producer"), town.login("worker")
    admin.execute("select ordinaut.set_queue('default', p_max_pending => 10)")
    big = "jsonb_build_object('x', repeat('y', 1100000))"

    assert rows(producer, "select ordinaut.enqueue('echo') from generate_series(1, 11)") == "53400"
    many = "select ordinaut.enqueue_many(to_jsonb(array_fill('{}'::jsonb, '{11}')), 'echo')"
    assert rows(producer, many) == "53400"
    assert rows(producer, f"select ordinaut.enqueue('echo', {big})") == "54000"
    assert rows(producer, f"select ordinaut.emit_event('topic', {big})") == "54000"
    for name in ("tool", "queue", "key", "idempotency_key"):
        call = f"select ordinaut.enqueue(p_tool => 'echo', p_{name} => repeat('x', 100000))"
        if name == "tool":
            call = "select ordinaut.enqueue(repeat('x', 100000))"
        assert rows(producer, call) == "22023", name
    register = "select ordinaut.register_worker(gen_random_uuid(), %s, %s, %s)"
    assert rows(worker, register, ["q"] * 2000, ["echo"], "n") == "22023"
    assert rows(worker, register, ["q"], ["echo"] * 20000, "n") == "22023"
    assert rows(worker, register, ["q"], ["x" * 1000], "n") == "22023"
    assert rows(worker, register, ["q"], ["echo"], "n" * 10**6) == "22023"
    assert one(town.login(), "select count(*) from ordinaut.due_work") == 0


def test_what_is_done_is_said_of_the_login_and_not_of_the_name_it_gives(town: Town) -> None:
    town.login("admin", application_name="postgres").execute("select ordinaut.pause_queue('q')")
    with psycopg.connect(town.dsn_of("admin"), autocommit=True) as conn:
        conn.execute("set application_name = E'x)\\n(root'")
        conn.execute("select ordinaut.resume_queue('q')")

    actors = town.login().execute("select actor from ordinaut.run_log order by log_id").fetchall()
    assert all(actor.startswith("admin (") and "\n" not in actor for (actor,) in actors), actors
