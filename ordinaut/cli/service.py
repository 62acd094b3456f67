"""ordinaut scheduler, worker, dev: the long-running ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ordinaut.cli.base import state
from ordinaut.logs import logging_to_stderr


def scheduler() -> None:
    """Fire schedules, take work back from dead workers, keep house, until SIGTERM."""
    from ordinaut.scheduler import SchedulerConfig, run

    settings = state.settings()
    logging_to_stderr(settings.log_level, settings.log_format)
    config = SchedulerConfig(
        state.dsn(), pooled=settings.pooled, poll=settings.poll.total_seconds(), keep=settings.keep,
        condition_role=settings.condition_role,
    )  # fmt: skip
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
    from ordinaut.workerconfig import WorkerConfig

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
        listen_dsn=settings.listen_dsn,
        runner={
            "tools": settings.tools,
            "tool_role": settings.tool_role,
            "pooled": settings.pooled,
            "secrets_dir": str(settings.secrets_dir) if settings.secrets_dir else None,
        },
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
