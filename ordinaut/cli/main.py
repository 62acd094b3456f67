"""
The command line: what is common to all commands.

`--dsn` and `--json` may stand anywhere, before the command or after it.  A user's mistake ends
in one sentence and what to do about it; a traceback means that the mistake is ours.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import psycopg
import typer
from psycopg import errors

from ordinaut import db
from ordinaut.cli import (
    backfill,
    base,
    calendar,
    calendars,
    define,
    forecast,
    imports,
    ops,
    plan,
    run,
    service,
    simulate,
    step,
    task,
    trouble,
    wait,
)
from ordinaut.errors import (
    ConfigurationError,
    OrdinautError,
    RunFailed,
    VersionSkew,
    WaitTimeout,
    sentence,
)
from ordinaut.version import __version__

OK, NEGATIVE, USAGE, INTERNAL, SKEW, CONFIG = 0, 1, 2, 70, 75, 78

EPILOG = (
    "--dsn and --json may stand anywhere. Ids may be cut to any tail that is unique."
    "\n\n"
    "Exit codes: 0 done; 1 failed, or the answer is no; 2 wrong usage or argument;"
    " 69 database unavailable; 70 a bug in Ordinaut; 75 this program and the database are of"
    " different versions; 78 wrong configuration."
)

# Newer typers bring a click of their own, so its classes are reached through typer.
_ClickException: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="ordinaut",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"ordinaut {__version__}")
        raise typer.Exit


@app.callback(epilog=EPILOG)
def _globals(
    dsn: Annotated[
        str | None,
        typer.Option(help="PostgreSQL: URL or conninfo. Default: ORDINAUT_DSN, DATABASE_URL."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="And exit.")
    ] = False,
) -> None:
    """A scheduler, job queue and workflow engine in PostgreSQL."""
    base.state.reset(dsn=dsn, json=json)


app.add_typer(task.app, name="task")
app.add_typer(run.app, name="run")
app.add_typer(step.app, name="step")
app.add_typer(calendars.app, name="calendar")
app.add_typer(ops.queue, name="queue")
app.add_typer(imports.app, name="import")
app.add_typer(trouble.breaker, name="breaker")
app.add_typer(trouble.errors, name="errors")
app.add_typer(wait.approval, name="approval")
for group in (service, run, ops, forecast, wait):
    group.commands(app)
for looking in (define, calendar, backfill, simulate, plan):
    looking.commands(task.app)
trouble.commands(run.app)


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    sys.exit(invoke(sys.argv[1:] if argv is None else argv))


def invoke(argv: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    try:
        code = app(args=_hoisted(list(argv)), prog_name="ordinaut", standalone_mode=False)
        return code if isinstance(code, int) else OK
    except typer.Exit as exc:
        return int(exc.exit_code)
    except _ClickException as exc:
        ctx = getattr(exc, "ctx", None)
        if type(exc).__name__ == "NoArgsIsHelpError":
            exc.show()
            return USAGE
        command = ctx.command_path if ctx else "ordinaut"
        return base.complain(exc.format_message(), f"See: {command} --help", USAGE)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # `ordinaut run list | head`
        sys.stderr.close()
        return OK
    except Exception as exc:
        return _explain(exc)
    finally:
        base.state.close()


def _explain(exc: Exception) -> int:
    """Say what went wrong in a sentence, what to do about it, and return the exit code."""
    if isinstance(exc, ConfigurationError):
        return base.complain(str(exc), exc.hint, CONFIG)
    if isinstance(exc, RunFailed | WaitTimeout):
        return base.complain(str(exc), "", NEGATIVE)
    if not isinstance(exc, psycopg.Error):
        return _internal(exc)
    diag = exc.diag
    message = sentence(exc)
    hint = diag.message_hint or ""
    match exc:
        case VersionSkew():
            return base.complain(
                message,
                hint or "Upgrade this program, or run `ordinaut install` with the newer one.",
                SKEW,
            )
        case OrdinautError():
            return base.complain(message, hint, NEGATIVE)
        case errors.InvalidSchemaName() | errors.UndefinedFunction() | errors.UndefinedTable():
            return base.complain(
                f"the database has no Ordinaut, or another version of it: {message}",
                "Run: ordinaut install",
                CONFIG,
            )
        case errors.InsufficientPrivilege():
            return base.complain(
                message,
                hint or "Ask the database's owner to: grant ordinaut_admin to <you>",
                CONFIG,
            )
        case errors.DataError() | errors.ProgramLimitExceeded():
            # PostgreSQL's own: "unsupported Unicode escape sequence", and which one below it.
            return base.complain(message, hint or diag.message_detail or "", USAGE)
        case _ if db.is_gone(exc):
            where = base.state.where()
            return base.complain(
                f"cannot reach the database ({where}): {_last_line(exc)}",
                hint or "Is it running, and is the DSN right? See: ordinaut doctor",
                base.UNAVAILABLE,
            )
        case psycopg.OperationalError():
            return base.complain(message, hint or "Try again.", NEGATIVE)
        case _:
            return _internal(exc)


def _last_line(exc: Exception) -> str:
    """The reason in libpq's words: of "connection to … failed: REASON" the reason."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    reason = next((line for line in lines if "failed: " in line), lines[0] if lines else "")
    return reason.rpartition("failed: ")[2].removeprefix("FATAL:").strip() or type(exc).__name__


def _internal(exc: Exception) -> int:
    traceback.print_exception(exc, file=sys.stderr)
    return base.complain(
        f"a bug in Ordinaut {__version__}: {exc}",
        "Please report it with the lines above.",
        INTERNAL,
    )


def _hoisted(argv: list[str]) -> list[str]:
    """Move --dsn and --json to the front, where the global options are read."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--json" or word.startswith("--dsn="):
            front.append(word)
        elif word == "--dsn":
            front += [word, *(value for value in [next(words, None)] if value is not None)]
        else:
            rest.append(word)
    return front + rest
