"""
ordinaut import …: another scheduler's jobs as a manifest, and the proof that they fire the same.

The manifest goes to the standard output, all that is said about it to the other.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ordinaut import calls
from ordinaut.cli import base
from ordinaut.cli.base import state
from ordinaut.errors import ConfigurationError
from ordinaut.importing.crontab import read_crontab
from ordinaut.importing.document import document
from ordinaut.importing.found import Found
from ordinaut.importing.pgcron import read_pg_cron
from ordinaut.importing.proof import Proof, prove
from ordinaut.recurrence import InvalidSchedule, tzdata_version

app = typer.Typer(no_args_is_help=True, help="Move in: from a crontab, from pg_cron.")

Prove = Annotated[
    bool, typer.Option("--prove/--no-prove", help="Compare the next 1000 firing times.")
]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Of the tasks.")]

_COLUMNS = [
    ("name", "task"), ("schedule", "was"), ("timezone", "time zone"), ("compared", "compared"),
    ("until", "until"), ("witnesses", "with"), ("verdict", "verdict"),
]  # fmt: skip


@app.command()
def crontab(
    file: Annotated[str, typer.Argument(help="A crontab, or - for the standard input.")],
    system: Annotated[
        bool,
        typer.Option("--system", help="The form of /etc/crontab and /etc/cron.d: with users."),
    ] = False,
    timezone: Annotated[
        str | None, typer.Option(help="The daemon's time zone. Default: this host's.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Whose crontab it is. Default: yours.")] = None,
    namespace: Namespace = None,
    proof: Prove = True,
) -> None:
    """Print a crontab as a manifest: `ordinaut task apply` takes it.

    Exit code 1: a line was left out, or a task would not fire when cron does; the rest is printed.
    """
    is_system = system or file.startswith(("/etc/crontab", "/etc/cron.d/"))
    try:
        found = read_crontab(
            _bytes(file), "crontab" if file == "-" else file, timezone=timezone or _host_zone(),
            is_system=is_system, user=user or _me(),
        )  # fmt: skip
    except InvalidSchedule as exc:
        raise typer.BadParameter(f"--timezone: {exc.reason}") from None
    answer(found, namespace, proof)


@app.command("pg-cron")
def pg_cron(namespace: Namespace = None, proof: Prove = True) -> None:
    """Print pg_cron's jobs as a manifest; --dsn is the database that has cron.job.

    Exit code 1: a job was left out, or a task would not fire when pg_cron does.
    """
    there = calls.pg_cron(state.connect(check=False))
    if there is None:
        raise ConfigurationError(
            "this database has no table cron.job",
            "Give the one in which pg_cron is installed: --dsn …; cron.database_name names it.",
        )
    if not there.jobs:
        base.console(stderr=True).print(
            f"{there.role} sees no job: pg_cron shows each role its own"
        )
    answer(read_pg_cron(there), namespace, proof)


def answer(found: Found, namespace: str | None, asked: bool) -> None:
    """Print what was found; exit code 1 unless all of it is imported and fires as it did."""
    now = datetime.now(UTC)
    text = document(found, namespace)
    proofs = [prove(job, now) for job in found.jobs if asked and job.kind]
    if state.json:
        base.answer({"manifest": text, "problems": found.problems, "proof": proofs})
    else:
        sys.stdout.write(text)
        sys.stdout.flush()
        _say(found, proofs, now, asked)
    if found.problems or any(proof.differences for proof in proofs):
        raise typer.Exit(1)


def _say(found: Found, proofs: Sequence[Proof], now: datetime, asked: bool) -> None:
    out = base.console(stderr=True)
    if asked:
        rows = [
            {
                **base.plain(proof), "verdict": proof.verdict,
                "until": f"{proof.until:%Y-%m-%d}" if proof.until else None,
                "witnesses": ", ".join(proof.witnesses),
            }
            for proof in proofs
        ]  # fmt: skip
        out.print(base.grid(rows, _COLUMNS, "verdict"))
        for proof in proofs:
            for d in proof.differences:
                said = (
                    f"{proof.name}: firing {d.n}: ours {_utc(d.ours)}, {d.witness} {_utc(d.theirs)}"
                )
                out.print(base.clean(said), style="red", soft_wrap=True)
        out.print(f"compared from {_utc(now)} on, with the zones of tzdata {tzdata_version()}")
    for problem in found.problems:
        out.print(base.clean(f"left out: {problem}"), style="yellow", soft_wrap=True)
    out.print(f"{len(found.jobs)} tasks, {len(found.problems)} left out")


def _utc(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else "never again"


def _bytes(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"{file}: {exc.strerror}") from None


def _me() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return None


def _host_zone() -> str:
    """This host's time zone, as cron has it: by its name, which only the link tells."""
    name = str(Path("/etc/localtime").resolve()).partition("zoneinfo/")[2]
    if not name:
        try:
            name = Path("/etc/timezone").read_text().strip()
        except OSError:
            name = "UTC"
    return name
