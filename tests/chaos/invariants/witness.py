"""I11, I12, I13: what tools did and when, outside the database."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tests.chaos.history import History, Row, Start, seconds
from tests.chaos.invariants import Finding, invariant
from tests.chaos.invariants.failover import is_lost_attempt
from tests.chaos.lives import Lives, Settle, Unit, interval


def _brief(start: Start) -> Row:
    names = ("run", "work", "step", "attempt", "token", "rt", "mt", "boot", "pid", "end")
    return {name: getattr(start, name) for name in names}


def is_fenced(history: History, lives: Lives, start: Start) -> bool:
    """Whether the lease of this attempt was taken back while its tool may have gone on."""
    unit = lives.by_work.get(start.work)
    settles = [s for s in unit.settles if s.token == start.token] if unit else []
    if unit and not settles:
        settles = [s for s in unit.attempts() if s.token is None and s.attempt == start.attempt]
    if not settles:
        return is_lost_attempt(history, lives, start)
    # Taken back, or ended over its head: its worker wrote nothing that counts.
    return any(s.is_fenced or s.token is None or s.event in ("late", "crashed") for s in settles)


@invariant("I11", "no more than limit units of one key run at once, but for fenced ones")
def overlap(history: History, lives: Lives, found: Finding) -> None:
    prefixes = history.config.get("keys") or {}
    by_key: dict[tuple[str, str, int], list[Start]] = defaultdict(list)
    clocks = {s.boot for s in history.starts if not history.is_shifted(s.boot)}
    for start in history.starts:
        # Several hosts have no clock in common but the time of day.
        clock = start.boot if len(clocks) < 2 or history.is_shifted(start.boot) else ""
        by_key[f"unit {start.work}", clock, 1].append(start)
        row = lives.run_row(start.run) or {}
        key = start.key or row.get("key")
        if key:
            limit = row.get("key_limit") or next(
                (n for p, n in prefixes.items() if str(key).startswith(p)), 1
            )
            by_key[f"key {key}", clock, int(limit)].append(start)
    excused = 0
    for (name, clock, limit), starts in by_key.items():
        found.count(len(starts))
        spans = sorted(
            ((s.mt, float(s.end["mt"])) if clock else (s.rt, float(s.end["rt"])), n)
            for n, s in enumerate(starts)
            if s.end is not None
        )
        running: list[tuple[float, int]] = []
        for (begin, end), n in spans:
            running = [(until, m) for until, m in running if until > begin]
            free = [m for _, m in running if is_fenced(history, lives, starts[m])]
            excused += len(free) if len(running) >= limit else 0
            if len(running) - len(free) >= limit and not (
                name.startswith("unit") and is_fenced(history, lives, starts[n])
            ):
                found.wrong(
                    f"{name}: {len(running) - len(free) + 1} at once, limit {limit}",
                    *[_brief(starts[m]) for _, m in running],
                    _brief(starts[n]),
                )
            elif free and len(running) >= limit and history.declares("self_fencing"):
                found.wrong(
                    f"{name}: a fenced attempt went on beside its successor",
                    _brief(starts[free[0]]),
                    _brief(starts[n]),
                )
            running.append((end, n))
    if excused:
        found.note(f"{excused} pairs overlap, the earlier one having been fenced")


@invariant("I12", "nothing starts before it is due, nor long after; backoffs are kept")
def timing(history: History, lives: Lives, found: Finding) -> None:
    slack = history.bound("clock_s", 0.25)
    bound = (history.config.get("bounds") or {}).get("start_late_s")
    if bound is None:
        found.skip("lateness: no bound start_late_s is stated")
    starts = {(s.work, s.token): s for s in history.starts if not history.is_shifted(s.boot)}
    for unit in lives.units.values():
        due = seconds(unit.row.get("scheduled_for")) if not unit.is_step else None
        for series in unit.series():
            ready = due
            for settle in series:
                found.count()
                start = starts.get((unit.work or "", settle.token or ""))
                began = settle.started
                if ready is not None and began is not None and began < ready:
                    found.wrong(
                        f"{unit.label()}: attempt {settle.attempt} began"
                        f" {ready - began:.6f} s before it was due",
                        settle.row,
                    )
                elif ready is not None and start is not None and start.rt < ready - slack:
                    found.wrong(
                        f"{unit.label()}: attempt {settle.attempt} was started"
                        f" {ready - start.rt:.3f} s before it was due",
                        _brief(start),
                    )
                _check_backoff(unit, settle, series, found)
                ready = settle.run_at
        if bound is not None and not unit.is_step:
            _check_late(history, unit, starts, float(bound), found)


def _check_late(
    history: History,
    unit: Unit,
    starts: dict[tuple[str, str], Start],
    bound: float,
    found: Finding,
) -> None:
    """Judged only of first attempts of runs without a key, far from every fault."""
    first = next(unit.attempts(), None)
    if first is None or first.attempt != 1 or unit.row.get("key"):
        return
    due = max(seconds(unit.row.get(name)) or 0 for name in ("enqueued_at", "scheduled_for"))
    start = starts.get((unit.work or "", first.token or ""))
    if start is None or start.rt <= due + bound:
        return
    calm = history.bound("recovery_s", 60)
    if any(f["t0"] <= start.rt and (f.get("t1") or f["t0"]) + calm >= due for f in history.faults):
        return
    if any(row["event"] in ("queue_paused", "breaker_opened") for row in history.table("run_log")):
        return
    found.wrong(
        f"{unit.label()} started {start.rt - due:.3f} s after it was due, with no fault near",
        _brief(start),
        unit.row,
    )


def _check_backoff(unit: Unit, settle: Settle, series: list[Settle], found: Finding) -> None:
    if settle.event not in ("failed", "timed_out") or settle.run_at is None:
        return
    n = sum(s.event in ("failed", "timed_out") for s in series[: series.index(settle) + 1])
    least = smallest_backoff(unit.retry(), n)
    asked = (settle.row.get("detail") or {}).get("retry_after")
    if asked is not None:
        least = max(float(asked), 0)
    gap = settle.run_at - settle.at
    if least is not None and gap < least - 1e-3:
        found.wrong(
            f"{unit.label()}: tried again {gap:.3f} s after failure {n}, not {least:.3f} s",
            settle.row,
        )


def smallest_backoff(retry: Row | None, failures: int) -> float | None:
    """Return the shortest wait that this retry rule allows after so many failures."""
    rule: dict[str, Any] = retry or {}
    base = interval(rule.get("base") or "1 s")
    cap = interval(rule.get("cap") or "60 s")
    if base is None or cap is None:
        return None
    factor = {
        "fixed": 1.0,
        "linear": float(failures),
    }.get(
        rule.get("strategy") or "exponential",
        min(float(rule.get("factor", 2)) ** min(failures - 1, 40), 1e9),
    )
    return min(cap, base * factor) * (1 - float(rule.get("jitter", 0.1)))


@invariant("I13", "a tool is over by its timeout and the grace, and is not timed out before")
def timeouts(history: History, lives: Lives, found: Finding) -> None:
    grace = history.bound("kill_grace_s", 10)
    for start in history.starts:
        unit = lives.by_work.get(start.work)
        limit = unit.timeout() if unit else None
        if limit is None or start.end is None:
            continue
        found.count()
        took = float(start.end["mt"]) - start.mt
        if took <= limit + grace:
            continue
        # Nobody can stop what was stopped itself, or cut off.
        until = float(start.end["rt"])
        if any(f["t0"] <= until and (f.get("t1") or f["t0"]) >= start.rt for f in history.faults):
            found.note(f"unit {start.work} ran {took:.1f} s of {limit:.1f}, during a fault")
            continue
        found.wrong(
            f"unit {start.work} ran for {took:.1f} s, its timeout is {limit:.1f} s",
            _brief(start),
            unit.row if unit else None,
        )
    for unit in lives.units.values():
        limit = unit.timeout()
        for settle in unit.settles:
            if settle.event != "timed_out" or limit is None or settle.token is None:
                continue
            found.count()
            if settle.started is not None and settle.at - settle.started < limit - 0.1:
                detail = settle.row.get("detail") or settle.row.get("error") or {}
                if detail.get("category") in (None, "timeout") and not settle.is_fenced:
                    found.wrong(
                        f"{unit.label()} was timed out {settle.at - settle.started:.3f} s"
                        f" after its start, its timeout is {limit:.1f} s",
                        settle.row,
                    )
