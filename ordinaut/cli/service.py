"""ordinaut scheduler, worker, dev: the long-running ones."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ordinaut.cli.base import state


def scheduler() -> None:
    """Fire schedules, take work back from dead workers, keep house, until SIGTERM."""
    from ordinaut.scheduler import SchedulerConfig, run

    settings = state.settings()
    logging_to_stderr(settings.log_level, settings.log_format)
    config = SchedulerConfig(
        state.dsn(), pooled=settings.pooled, poll=settings.poll.total_seconds(), keep=settings.keep
    )
    raise typer.Exit(run(config))


def worker(
    queue: Annotated[
        list[str] | None, typer.Option("--queue", "-q", help="May be given more than once.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", "-c", min=1, max=256, help="Child processes.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="For people; default: the host.")] = None,
    drain: Annotated[
        str | None, typer.Option(help="To finish work after SIGTERM, as in '5 min'.")
    ] = None,
    poll_only: Annotated[bool, typer.Option("--poll-only", help="Do not listen.")] = False,
) -> None:
    """Lease work and run it, until SIGTERM; a second SIGTERM means now."""
    from ordinaut import guard
    from ordinaut.worker import WorkerConfig

    settings = state.settings(
        queues=queue or None,
        concurrency=concurrency,
        name=name,
        drain=drain,
        notify=False if poll_only else None,
    )
    logging_to_stderr(settings.log_level, settings.log_format)
    config = WorkerConfig(
        dsn=state.dsn(),
        queues=settings.queues,
        concurrency=settings.concurrency,
        name=settings.name,
        ttl=settings.ttl.total_seconds(),
        heartbeat=settings.heartbeat.total_seconds(),
        drain=settings.drain.total_seconds(),
        poll=settings.poll.total_seconds(),
        notify=settings.notify,
        pooled=settings.pooled,
        runner={"tools": settings.tools, "tool_role": settings.tool_role},
        log_level=settings.log_level,
        log_format=settings.log_format,
    )
    config.check()
    raise typer.Exit(guard.run(config))


def dev(
    seconds: Annotated[
        float | None, typer.Option(help="End by itself after so long, with a summary.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Where to keep it; default .ordinaut.")] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Tasks to apply; default: the example of this host.")
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, max=64)] = 2,
) -> None:
    """Start everything here: a private PostgreSQL, a scheduler, a worker, and watch it."""
    from ordinaut.dev import Dev

    settings = state.settings(data=data)
    raise typer.Exit(Dev(settings, manifest, seconds, concurrency).run())


def commands(app: typer.Typer) -> None:
    for command in (dev, scheduler, worker):
        app.command()(command)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        known = logging.makeLogRecord({}).__dict__
        line |= {k: v for k, v in record.__dict__.items() if k not in known and k != "message"}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def logging_to_stderr(level: str, style: str) -> None:
    """Send log lines to stderr: text for people and journald, or JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Json()
        if style == "json"
        else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
