"""
The children together: who gets which unit, whose time is over, what becomes of those who die.

Between the lease and the settle a unit is in one of three places: `local` (not sent), the `held`
of one child, the results of the `outbox`.  Whatever happens to a child, its units leave `held` by
one of these doors:

    it reported them          results
    it never started them     local, uncharged; to the database if we drain
    it died of this one       results, as crashed, timed_out or cancelled
    it died of another one    results, as released: not this unit's fault
    their lease is lost       nowhere; the database has them
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import selectors
import subprocess
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ordinaut.children import Child
from ordinaut.doom import Doom, guilty
from ordinaut.ledger import Ledger
from ordinaut.outbox import Outbox
from ordinaut.prefetch import PATIENCE, Pace
from ordinaut.systemd import without_notify
from ordinaut.tools import control
from ordinaut.wire import LEASE, TIMEOUT, TOOL, WORK, Result, Unit
from ordinaut.workerconfig import WorkerConfig

log = logging.getLogger(__name__)

_LOOK = 0.02  # seconds between looks at a child that should be stopping
_NOT_RUN = frozenset({"skipped", "waiting"})  # outcomes of steps whose tool was not called
_CONTROL = frozenset(name.encode() for name in control.PLANS)
_ASYNC_GRACE = 5.0  # as a child gives its async units, if nothing else is configured


class Misconfigured(Exception):
    """A child refuses to start with what it was told."""


class Crew:
    """The slots of a worker."""

    def __init__(
        self,
        config: WorkerConfig,
        environ: dict[str, str],
        selector: selectors.BaseSelector,
        ledger: Ledger,
        tell_guard: Callable[[str], None],
    ) -> None:
        self.pace = Pace()
        self.local: deque[Unit] = deque()
        self.outbox = Outbox()
        self.tools: list[str] = []
        self.finished = 0
        self.draining = False
        self._config = config
        self._spared = {name.encode() for name in config.on_lost}
        runner = config.runner | {"dsn": config.dsn}
        # A child that can still speak gives up on a unit before.
        self._deaf = runner.get("async_grace", _ASYNC_GRACE) + 2 * config.grace
        self._env = without_notify(environ) | {"ORDINAUT_RUNNER_CONFIG": json.dumps(runner)}
        self._selector = selector
        self._ledger = ledger
        self._tell_guard = tell_guard
        self._children: dict[int, Child] = {}
        self._starts = dict.fromkeys(range(config.concurrency), 0.0)  # slot: not before
        self._failures = 0

    # Seen from the loop

    @property
    def slots(self) -> int:
        return sum(child.ready and child.doom is None for child in self._children.values())

    @property
    def free(self) -> int:
        return sum(child.free for child in self._children.values())

    @property
    def outstanding(self) -> int:
        return len(self.local) + sum(len(child.held) for child in self._children.values())

    @property
    def busy(self) -> bool:
        """Is anything running, of ours or of a lost lease?"""
        return any(child.held or child.orphans for child in self._children.values())

    @property
    def spare(self) -> int:
        """How many units more could start at once."""
        spare = self.free - len(self.local)
        if self.pace.all_shared:
            spare += sum(child.room for child in self._children.values() if child.held)
        return spare

    def want(self) -> int:
        """Return how many units to lease now."""
        return self.pace.want(self.slots, self.spare, self.outstanding)

    def start(self, now: float) -> None:
        """Start a child in every slot that has none and need not wait."""
        for slot, not_before in self._starts.items():
            if slot not in self._children and now >= not_before:
                child = Child(slot, self._env)
                self._children[slot] = child
                self._selector.register(child.sock, selectors.EVENT_READ, (self.ready, child))
                self._tell_guard(f"child {child.pid}")

    def add(self, units: list[Unit]) -> None:
        """Take leased units."""
        self.pace.meet({unit[TOOL] for unit in units})
        self.local.extend(units)
        self.dispatch()
        self.hand_back()

    def dispatch(self) -> None:
        """Give waiting units to children that can start them."""
        local, cost, shared = self.local, self.pace.cost, self.pace.shared
        while local:
            tool = local[0][TOOL]
            child = self._room() if tool in shared else None
            if child is not None:
                self._send(child, child.give([local.popleft()]))
                continue
            free = [child for child in self._children.values() if child.free]
            if not free:
                return
            left = self.pace.share(len(local), len(free))
            batch = [local.popleft()]
            first = cost(tool)
            if first is not None and tool not in shared:
                left -= first
                while local and left > 0:
                    price = cost(local[0][TOOL])
                    if price is None or price > left or local[0][TOOL] in shared:
                        break
                    left -= price
                    batch.append(local.popleft())
            self._send(free[0], free[0].give(batch))

    def hand_back(self) -> None:
        """Release what would wait here too long while other workers could start it."""
        if self.local and not self.free:
            keep = self.pace.surplus([unit[TOOL] for unit in self.local], self.slots)
            while len(self.local) > keep:
                self.outbox.report(self.local.pop(), "released")

    def cancel(self, work_id: bytes) -> None:
        """Stop a unit, wherever it is."""
        for unit in self.local:
            if unit[WORK] == work_id:
                self.local.remove(unit)
                return self.outbox.report(unit, "cancelled")
        for child in self._children.values():
            if work_id in child.held and work_id not in child.told:
                child.told.add(work_id)
                self._send(child, child.send(("cancel", work_id)))

    def lose(self, lease_id: bytes) -> None:
        """Stop the units of a lease that the database took back, and forget their results."""
        self._ledger.drop(lease_id)
        self.local = deque([unit for unit in self.local if unit[LEASE] != lease_id])
        self.outbox.drop(lease_id)
        for child in self._children.values():
            for unit in [unit for unit in child.held.values() if unit[LEASE] == lease_id]:
                del child.held[unit[WORK]]
                child.orphans[unit[WORK]] = unit
                if unit[TOOL] not in self._spared:
                    self._send(child, child.send(("cancel", unit[WORK])))

    def recall(self) -> None:
        """Begin to drain: unstarted units go back, nothing new is started."""
        self.draining = True
        while self.local:
            self.outbox.report(self.local.popleft(), "released")
        for child in self._children.values():
            if child.held:
                self._send(child, child.send(("return",)))

    def kill_all(self, grace: float, outcome: str | None, why: str) -> None:
        """Stop every child; what ran ends as `outcome`, None: nobody wants to know."""
        for child in list(self._children.values()):
            if outcome is None:
                child.held.clear()
                child.orphans.clear()
            child.kill(Doom(outcome, None, why), grace)
        if outcome is None:
            self.local.clear()
            self.outbox.clear()

    def close(self, patience: float = 1.0) -> None:
        """Let idle children end by themselves, for a moment."""
        until = time.monotonic() + patience
        for child in self._children.values():
            child.send(("stop",))
        for child in self._children.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, until - time.monotonic()))
            child.bury()
            self._tell_guard(f"gone {child.pid}")

    def check(self, now: float) -> float:
        """Enforce deadlines, cancels, losses and kills; return when to look again."""
        wake = now + (PATIENCE if self.local else 3600.0)
        wake = min(wake, self.outbox.retry_aside(now) or wake)
        self.start(now)
        for slot, not_before in self._starts.items():
            if slot not in self._children:
                wake = min(wake, not_before)
        for child in list(self._children.values()):
            if child.kill_at is not None:
                if now >= child.kill_at:
                    child.signal(9)
                    child.kill_at = now + 1.0
                wake = min(wake, child.kill_at)
            elif child.held or child.orphans:
                wake = min(wake, self._check(child, now))
            if child.process.poll() is not None:
                self._drain(child)
                wake = now
        return wake

    def ready(self, child: Child, mask: int) -> None:
        """Serve a child's socket."""
        if mask & selectors.EVENT_WRITE and child.flush():
            self._selector.modify(child.sock, selectors.EVENT_READ, (self.ready, child))
        if mask & selectors.EVENT_READ:
            try:
                for message in child.receive():
                    self._hear(child, message)
            except EOFError:
                self._bury(child)

    # Within

    def _check(self, child: Child, now: float) -> float:
        wake, overdue = child.deadline()
        running = child.running()
        grace = self._config.grace
        if running is not None:
            work_id, started, counter = running
            if work_id in child.orphans:
                if child.orphans[work_id][TOOL] not in self._spared:
                    child.kill(Doom(None, work_id, "lease lost"), grace)
            elif work_id in child.told:
                child.kill(Doom("cancelled", work_id, "cancelled while it ran"), grace)
            elif work_id == overdue:
                limit = child.held[work_id][TIMEOUT] / 1e6
                log.warning("timed out", extra={"work_id": work_id.hex(), "timeout": limit})
                child.kill(Doom("timed_out", work_id, f"ran longer than {limit:g} s"), grace)
            elif len(child.held) > 1 and child.asked_back != counter:
                slow_at = started / 1e9 + PATIENCE
                if now >= slow_at:
                    child.asked_back = counter
                    self._send(child, child.send(("return",)))
                wake = min(wake, slow_at if now < slow_at else wake)
        elif len(child.held) > 1:
            wake = min(wake, now + PATIENCE)
        if child.told or child.orphans:
            wake = min(wake, now + _LOOK)
        self._check_deaf(child, running is None, now)
        return wake if child.kill_at is None else min(wake, child.kill_at)

    def _check_deaf(self, child: Child, idle: bool, now: float) -> None:
        """Kill a child whose async units do not stop: one holds the GIL, and nobody hears us."""
        lost = [w for w, unit in child.orphans.items() if unit[TOOL] not in self._spared]
        waiting = [*(child.told & child.shared.keys()), *lost] if idle else []
        if not waiting:
            child.told_at = None
        elif child.told_at is None:
            child.told_at = now
        elif now - child.told_at > self._deaf:
            outcome = None if waiting == lost else "cancelled"
            doom = Doom(outcome, waiting[0], "did not answer when it was told to stop")
            child.kill(doom, self._config.grace)

    def _room(self) -> Child | None:
        """Return a child whose event loop takes one more async unit, fullest first."""
        able = [child for child in self._children.values() if child.held and child.room]
        return max(able, key=lambda child: len(child.held), default=None)

    def _send(self, child: Child, sent: bool) -> None:
        if not sent:
            mask = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(child.sock, mask, (self.ready, child))

    def _hear(self, child: Child, message: Any) -> None:
        kind = message[0]
        if kind == "done":
            self._done(child, message[1])
        elif kind == "note":
            if message[1] in self._ledger:
                self.outbox.note(*message[1:5])
        elif kind == "started":
            unit = child.held.get(message[1])
            if unit is not None:
                child.shared[message[1]] = time.monotonic_ns()
                self.pace.shared.add(unit[TOOL])
                self.dispatch()
        elif kind == "overdue":
            doom = Doom("timed_out", message[1], "ignored its cancellation after the timeout")
            child.kill(doom, self._config.grace)
        elif kind == "broken" and not self.tools:  # later ones are tried again
            raise Misconfigured(f"a child cannot start: {message[1]}")
        elif kind == "ready":
            child.ready = True
            self._failures = 0
            self.tools = list(message[2])
            self.dispatch()

    def _done(self, child: Child, results: list[Result]) -> None:
        held, out, told = child.held, self.outbox.results, child.told
        counted = len(out)
        spent = quick = 0
        for result in results:
            work_id = result[1]
            unit = held.pop(work_id, None)
            if unit is None:
                child.orphans.pop(work_id, None)
                continue
            outcome = result[2]
            if outcome == "success":
                out.append(result)
                spent += result[5]
            elif outcome == "settled":
                self._ledger.settled([result[0]])
                self.finished += 1
                spent += result[5]
            elif outcome == "released" and result[5] == 0:
                self._unstarted(unit, work_id in told)
            elif outcome in _NOT_RUN and unit[TOOL] not in _CONTROL:
                out.append(result)
                quick += 1
                continue  # what it took says nothing about its tool
            else:
                out.append(result)
                spent += result[5]
            if child.tool is None and outcome != "released":
                self.pace.learn(unit[TOOL], 1, result[5] / 1e6)
        ran = len(out) - counted
        self.finished += ran
        if child.shared or told:
            child.shared = {w: at for w, at in child.shared.items() if w in held}
            told &= held.keys()
        if child.tool is not None and ran > quick:
            self.pace.learn(child.tool, ran - quick, spent / 1e6)
        if self.local:
            self.dispatch()

    def _unstarted(self, unit: Unit, cancelled: bool = False) -> None:
        if cancelled:
            self.outbox.report(unit, "cancelled")
        elif self.draining:
            self.outbox.report(unit, "released")
        else:
            self.local.append(unit)

    def _drain(self, child: Child) -> None:
        """Read the last words of a child that has ended, then bury it."""
        with contextlib.suppress(EOFError):
            for message in child.receive():
                self._hear(child, message)
        self._bury(child)

    def _bury(self, child: Child) -> None:
        if self._children.get(child.slot) is not child:
            return
        self._selector.unregister(child.sock)
        how = child.bury()
        del self._children[child.slot]
        self._tell_guard(f"gone {child.pid}")
        charged = self._inherit(child, how)
        child.close()
        now = time.monotonic()
        if child.doom is None and not charged:
            # It died of nothing that we gave it.  Not in a hot loop, then.
            self._failures += 1
            delay = min(30.0, 0.2 * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)
            self._starts[child.slot] = now + delay
            event = "child died" if child.ready else "child cannot start"
            log.error(event, extra={"slot": child.slot, "how": how, "again_in": round(delay, 1)})
        elif child.doom is None:
            log.warning("child died", extra={"slot": child.slot, "how": how})
        if not self.draining:
            self.start(now)
            self.dispatch()

    def _inherit(self, child: Child, how: str) -> bool:
        """Find every unit of a dead child its door; say whether one is charged with the death."""
        running = child.running()
        at_work = running[0] if running is not None else None
        charged = guilty(child.doom, at_work, set(child.shared))
        doom = child.doom or Doom("crashed", None, f"child died: {how}")
        for work_id, unit in child.held.items():
            if work_id in charged:
                if doom.outcome is not None:
                    error = None if doom.outcome == "released" else doom.error()
                    self.outbox.report(unit, doom.outcome, error, child.spent(work_id))
            elif work_id in child.shared or work_id == at_work:
                self.outbox.report(unit, "released", spent=child.spent(work_id))
            else:
                self._unstarted(unit, work_id in child.told)
        return child.doom is None and bool(charged & child.held.keys() or child.orphans)
