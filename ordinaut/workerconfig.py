"""What a worker is told, in a form that passes from the guard to the parent through a pipe."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ordinaut.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Everything in seconds.

    Attributes:
        queues: what to lease from, in turn.
        concurrency: children, each running one unit at a time (async tools share one).
        ttl: silence for longer than this means dead.
        heartbeat: between signs of life; at most a third of the ttl.
        drain: to finish work after SIGTERM.
        poll: between looks at an empty queue.
        grace: from TERM to KILL.
        timeout: of units that bring none; None: none.
        notify: listen for new work; else only poll.
        pooled: a pooler stands between, even if it cannot be found out (db.py).
        listen_dsn: where to listen; without it and behind a pooler: only poll.
        runner: what the children read from ORDINAUT_RUNNER_CONFIG, but for the dsn.
        on_lost: tools whose running units are not killed when their lease is lost.
        tick: also fire schedules, once a second.
    """

    dsn: str
    queues: list[str] = field(default_factory=lambda: ["default"])
    concurrency: int = 2
    name: str | None = None
    ttl: float = 60.0
    heartbeat: float = 10.0
    drain: float = 30.0
    poll: float = 0.25
    grace: float = 2.0
    timeout: float | None = None
    notify: bool = True
    pooled: bool = False
    listen_dsn: str | None = None
    runner: dict[str, Any] = field(default_factory=dict)
    on_lost: list[str] = field(default_factory=list)
    tick: bool = False
    log_level: str = "info"
    log_format: str = "text"

    def check(self) -> None:
        """Raise `ConfigurationError` for values that cannot work together."""
        if not self.queues or len(set(self.queues)) < len(self.queues):
            raise ConfigurationError("a worker needs at least one queue, each named once")
        if self.concurrency < 1:
            raise ConfigurationError("concurrency must be at least 1")
        if not 0 < self.heartbeat <= self.ttl / 3:
            raise ConfigurationError(
                f"a heartbeat every {self.heartbeat:g} s is too rare for a ttl of {self.ttl:g} s",
                "Set the heartbeat to a third of the ttl or less.",
            )
        if self.poll <= 0 or self.drain < 0 or self.grace < 0:
            raise ConfigurationError("poll must be more than zero, drain and grace not less")

    @property
    def fence(self) -> float:
        """Seconds without a successful heartbeat after which the worker stops its tools."""
        return self.ttl * 2 / 3

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerConfig:
        return cls(**json.loads(text))
