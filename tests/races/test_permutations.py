"""
Every order of lease, heartbeat, complete, fail, release, cancel, reap, retry, pause, tick, signal.

The suite plays a sample, always the same.  ORDERS=all plays all orders of calls, and 500 of each
scenario in open transactions; ORDERS=ann,bob,… one, of the scenario that -k picks.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator

import pytest

from ordinaut.errors import IllegalTransition, LeaseLost, WorkerUnknown, WrongState
from tests.places import exchange
from tests.races import Session
from tests.races.permutations import LATE, Call, Query, Scenario, Stage, World, orders

SAMPLE = 6  # orders of each scenario, of each form
NAMES = ("ann", "bob", "cleo")
JOIN = [
    {"id": "a", "uses": "echo", "needs": []},
    {"id": "b", "uses": "echo", "needs": []},
    {"id": "j", "uses": "echo", "needs": ["a", "b"], "on_rollback": {"uses": "echo"}},
]
BELL = {"kind": "event", "topic": "bell", "key": None, "timeout": None, "on_timeout": "fail"}


def plain(
    name: str, query: str, *ids: str, may: tuple[type[Exception], ...] = (), waits: bool = True
) -> Call:
    def ask(world: World, who: str) -> Query:
        return query, tuple(world.ids[i] for i in ids)

    return Call(name, ask, may, waits=waits)


def lease(n: int = 1) -> Call:
    query = "select * from ordinaut.lease_work(%s, p_limit => %s)"
    return Call(f"lease {n}", lambda world, who: (query, (who, n)), leases=True, waits=False)


def of_lease(name: str, query: str, n: int = 0) -> Call:
    def ask(world: World, who: str) -> Query:
        return query, world.leased(who, n)

    return Call(name, ask, (LeaseLost,))


COMPLETE = of_lease("complete", "select * from ordinaut.complete_work(%s, %s, '{}')")
COMPLETE_2 = of_lease("complete 2", "select * from ordinaut.complete_work(%s, %s, '{}')", 1)
FAIL = of_lease("fail", "select * from ordinaut.fail_work(%s, %s, 'boom')")
FAIL_2 = of_lease("fail 2", "select * from ordinaut.fail_work(%s, %s, 'boom', false)", 1)
GIVE_UP = of_lease("fail for good", "select * from ordinaut.fail_work(%s, %s, 'boom', false)")
RELEASE = of_lease("release", "select * from ordinaut.release_work(%s, %s)")
WAIT = of_lease("wait", f"select * from ordinaut.wait_work(%s, %s, '{json.dumps(BELL)}')")
RENEW = Call(
    "heartbeat",
    lambda world, who: ("select * from ordinaut.heartbeat(%s)", (world.leased(who)[0],)),
    (LeaseLost, WorkerUnknown),
)
REAP = plain("reap", "select ordinaut.reap()", waits=False)
CANCEL = plain("cancel", "select ordinaut.cancel_run(%s)", "run")
RETRY = plain("retry", "select * from ordinaut.retry_run(%s)", "run", may=(WrongState,))
PAUSE = plain("pause queue", "select ordinaut.pause_queue('default', 'x')")
RESUME = plain("resume queue", "select ordinaut.resume_queue('default', 'x')")
SIGNAL = plain("signal", "select * from ordinaut.emit_event('bell')")
TICK = plain("tick", "select * from ordinaut.tick()", waits=False)
RUN_NOW = plain("run_now", "select ordinaut.run_now('t')", may=(WrongState,))
PAUSE_TASK = plain("pause task", "select ordinaut.pause_task('t', 'x')")
RESUME_TASK = plain(
    "resume task", "select ordinaut.resume_task('t', 'x')", may=(IllegalTransition,)
)


def one_unit(boss: Session, world: World) -> None:
    world.ids["run"] = boss.one("select run_id from ordinaut.enqueue('echo')")


def three_units(boss: Session, world: World) -> None:
    rows = boss.run("""select run_id from ordinaut.enqueue_many('[{}, {}, {}]', 'echo')""")
    world.ids["run"] = rows[1].run_id


def one_key(boss: Session, world: World) -> None:
    items = json.dumps([{"key": "k", "max_attempts": 2}] * 3)
    rows = boss.run("select run_id from ordinaut.enqueue_many(%s, 'echo')", items)
    world.ids["run"] = rows[0].run_id


def a_join(boss: Session, world: World) -> None:
    world.ids["run"] = boss.one(
        "select run_id from ordinaut.enqueue(p_pipeline => %s)", json.dumps(JOIN)
    )


def a_wait(boss: Session, world: World) -> None:
    steps = [{"id": "ear", "uses": "echo"}, {"id": "then", "uses": "echo"}]
    world.ids["run"] = boss.one(
        "select run_id from ordinaut.enqueue(p_pipeline => %s)", json.dumps(steps)
    )


def a_task(boss: Session, world: World) -> None:
    boss.run(
        "select ordinaut.create_task('t', 'echo', p_schedule_kind => 'interval',"
        " p_schedule_expr => '1 min', p_overlap => 'buffer_one', p_catchup => 'all',"
        " p_start_at => ordinaut.now() + interval '5 s')"
    )


def two_workers(boss: Session, world: World) -> None:
    three_units(boss, world)
    for who in ("ann", "bob"):
        world.ids[who] = boss.one("select ordinaut.uuid_generate_v7()")
        world.ids[f"{who} leases"] = boss.one("select gen_random_uuid()")
        boss.run("select ordinaut.register_worker(%s, '{default}', '{echo}')", world.ids[who])


def turn(settles: bool) -> Call:
    """One exchange: what the worker has leased before is done, and the next is asked for."""

    def ask(world: World, who: str) -> Query:
        done = [(row.lease_id, row.work_id, "success", "{}") for row in world.held.get(who, [])]
        lease_id = None if settles else world.ids[f"{who} leases"]
        query, *args = exchange(world.ids[who], lease_id, 0 if settles else 2, done)
        return f"{query} where kind in ('work', 'lost', 'already')", tuple(args)

    name = "exchange: settle" if settles else "exchange: lease"
    return Call(name, ask, (WorkerUnknown,), leases=not settles, waits=False)


BEAT = Call(
    "heartbeat",
    lambda world, who: (
        "select * from ordinaut.heartbeat(%s, p_lease_ids => %s)",
        (world.ids[who], [world.ids[f"{who} leases"]]),
    ),
    (WorkerUnknown,),
)

SCENARIOS = [
    Scenario(
        "a unit, a reaper, a cancel and a retry",
        one_unit,
        {"ann": (lease(), RENEW, COMPLETE), "bob": (REAP, lease(), FAIL), "cleo": (CANCEL, RETRY)},
        {"bob": LATE},
    ),
    Scenario(
        "a batch, settled in parts while it is taken back",
        three_units,
        {
            "ann": (lease(3), COMPLETE, FAIL_2),
            "bob": (REAP, lease(2), COMPLETE_2),
            "cleo": (CANCEL,),
        },
        {"bob": LATE},
    ),
    Scenario(
        "a key that three want",
        one_key,
        {"ann": (lease(3), FAIL), "bob": (lease(2), COMPLETE), "cleo": (CANCEL, REAP)},
        {"cleo": LATE},
    ),
    Scenario(
        "a paused queue",
        three_units,
        {
            "ann": (lease(2), RELEASE, COMPLETE_2),
            "bob": (lease(), COMPLETE),
            "cleo": (PAUSE, RESUME),
        },
    ),
    Scenario(
        "a join, one branch of which fails",
        a_join,
        {"ann": (lease(), COMPLETE), "bob": (lease(), GIVE_UP), "cleo": (CANCEL, REAP)},
        {"cleo": LATE},
    ),
    Scenario(
        "a join that two cancel",
        a_join,
        {"ann": (lease(2), COMPLETE), "bob": (CANCEL, lease()), "cleo": (CANCEL, RETRY)},
    ),
    Scenario(
        "a step that waits for a signal",
        a_wait,
        {"ann": (lease(), WAIT, lease()), "bob": (SIGNAL, SIGNAL), "cleo": (CANCEL,)},
    ),
    Scenario(
        "a task that two tick",
        a_task,
        {
            "ann": (TICK, lease(2), COMPLETE),
            "bob": (TICK, PAUSE_TASK),
            "cleo": (RUN_NOW, RESUME_TASK),
        },
        {"bob": LATE},
    ),
    Scenario(
        "two workers, a reaper",
        two_workers,
        {
            "ann": (turn(False), BEAT, turn(True)),
            "bob": (turn(False), turn(True)),
            "cleo": (REAP, CANCEL),
        },
        {"cleo": LATE},
    ),
]


@pytest.fixture
def stage(dsn: str) -> Iterator[Stage]:
    stage = Stage(dsn, NAMES)
    yield stage
    stage.close()


def chosen(scenario: Scenario, apart: bool) -> list[tuple[str, ...]]:
    wanted = os.environ.get("ORDERS", "")
    if wanted not in ("", "all"):
        return [tuple(wanted.split(","))]
    moves = {name: len(calls) * (2 if apart else 1) for name, calls in scenario.calls.items()}
    if wanted == "all" and not apart:
        return list(orders(moves))
    # In transactions there are millions: a shuffle of the moves draws from all alike.
    dice = random.Random(f"{scenario.name} {apart}")
    order = [name for name, n in moves.items() for _ in range(n)]
    n = 500 if wanted == "all" else SAMPLE
    return [tuple(dice.sample(order, len(order))) for _ in range(n)]


@pytest.mark.parametrize("apart", [False, True], ids=["calls", "transactions"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_order_holds(stage: Stage, scenario: Scenario, apart: bool) -> None:
    for order in chosen(scenario, apart):
        stage.play(scenario, order, apart)


def test_orders_are_all_and_each_once() -> None:
    found = list(orders({"a": 2, "b": 1, "c": 1}))

    assert len(found) == len(set(found)) == 12
    assert all(order.count("a") == 2 for order in found)
