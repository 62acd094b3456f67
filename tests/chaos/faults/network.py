"""Faults between the processes and the server."""

from __future__ import annotations

import random
import time

from tests.chaos.faults import fault
from tests.chaos.lab import TTL, Lab


@fault
def terminate_backends(lab: Lab, dice: random.Random, scale: float) -> None:
    """pg_terminate_backend of whoever is there, again and again."""
    with lab.fault("terminate_backends"), lab.connect() as conn:
        for _ in range(20):
            conn.execute(
                "select pg_terminate_backend(a.pid) from pg_stat_activity as a"
                " where a.pid <> pg_backend_pid() and a.backend_type = 'client backend'"
                " and random() < 0.3"
            )
            time.sleep(dice.uniform(0.05, 0.4))


@fault
def lose_answers(lab: Lab, dice: random.Random, scale: float) -> None:
    """The server commits, and nobody hears."""
    with lab.fault("lose_answers"):
        for _ in range(4):
            lab.proxy.swallow(5)
            until = time.monotonic() + 3
            while lab.proxy.swallowing and time.monotonic() < until:
                time.sleep(0.02)
        lab.proxy.swallow(0)


@fault
def half_open(lab: Lab, dice: random.Random, scale: float) -> None:
    """Nothing passes and nobody is told, longer than the ttl; then it all begins anew."""
    with lab.fault("half_open"):
        lab.proxy.stall()
        try:
            time.sleep(dice.choice((3.0, 2 * TTL)))
        finally:
            lab.proxy.unstall()


@fault
def reset_connections(lab: Lab, dice: random.Random, scale: float) -> None:
    """RST, many times, and a while without new connections."""
    with lab.fault("reset_connections"):
        for _ in range(8):
            lab.proxy.reset()
            time.sleep(dice.uniform(0.05, 0.5))
        lab.proxy.refuse = True
        try:
            lab.proxy.reset()
            time.sleep(2)
        finally:
            lab.proxy.refuse = False


@fault
def slow_network(lab: Lab, dice: random.Random, scale: float) -> None:
    with lab.fault("slow_network"):
        lab.proxy.delay = 0.15
        try:
            time.sleep(5)
        finally:
            lab.proxy.delay = 0.0
