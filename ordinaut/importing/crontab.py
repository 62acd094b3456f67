"""
Crontabs, read as Debian's cron reads them.

    30 2 * * MON-FRI  command…    of a user; of the system: a user's name before the command
    NAME = value                  for the lines below it
    # a comment                   right above a line: its description

A line becomes a task of the tool `shell` with what cron would run: SHELL -c command, in HOME, with
HOME, LOGNAME, SHELL and the file's variables; what stands after a % is the standard input.
CRON_TZ sets the zone of the lines below it, as in cronie; TZ is a variable like any other, as in
Debian's cron.

What cron has no word for stays as it was: no second try, nothing made up for after an outage.
"""

from __future__ import annotations

import pwd
import re
from dataclasses import dataclass, field
from typing import Any

from ordinaut.importing.found import Found, Job, Names, Problem, check_zone, name_of
from ordinaut.importing.reference import NotCron, read
from ordinaut.recurrence import InvalidSchedule, parse

_ASSIGNMENT = re.compile(
    r"""(?: "(?P<q1>[^"=]*)" | '(?P<q2>[^'=]*)' | (?P<name>[^\s='"][^\s=]*) )
    \s* = \s*
    (?: "(?P<v1>[^"]*)" | '(?P<v2>[^']*)' | (?P<value>[^"'\s].*?)? ) \s*""",
    re.VERBOSE,
)
_MAIL = {"MAILTO", "MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING"}  # of the daemon's mails
_DESCRIPTION = 2000  # characters of a comment that are kept


@dataclass(slots=True)
class _Reader:
    """What the lines so far have set."""

    file: str
    is_system: bool
    user: str | None
    timezone: str
    bad_timezone: str | None = None  # why there is none
    env: dict[str, str] = field(default_factory=dict)
    comment: list[str] = field(default_factory=list)
    names: Names = field(default_factory=Names)
    found: Found = field(default_factory=Found)

    def read(self, number: int, raw: bytes) -> None:
        where = f"{self.file}:{number}"
        try:
            line = raw.decode().strip(" \t\r\n")
        except UnicodeDecodeError as exc:
            self._left_out(where, "line", f"byte {exc.start + 1} is not UTF-8", repr(raw)[2:-1])
            return
        if not line:
            self.comment.clear()
        elif line.startswith("#"):
            self.comment.append(line.lstrip("# \t"))
        elif match := _ASSIGNMENT.fullmatch(line):
            given = match.groupdict()
            name = given["name"] or given["q1"] or given["q2"] or ""
            value = given["v1"] or given["v2"] or given["value"] or ""
            self._assign(where, line, name, value)
            self.comment.clear()
        else:
            self._entry(where, line)
            self.comment.clear()

    def _left_out(self, where: str, field: str, reason: str, text: str) -> None:
        self.found.items.append(Problem(where, field, reason, text))

    def _assign(self, where: str, line: str, name: str, value: str) -> None:
        if name != "CRON_TZ":
            self.env[name] = value
            return
        try:
            check_zone(value)
        except InvalidSchedule as exc:
            self.bad_timezone = f"CRON_TZ of {where} is no zone"
            self._left_out(where, "CRON_TZ", exc.reason, line)
        else:
            self.timezone, self.bad_timezone = value, None

    def _entry(self, where: str, line: str) -> None:
        try:
            expr, rest = _split(line)
            read(expr)
            parse("cron", expr, self.timezone)
            user, command = self._owner(rest)
            if self.bad_timezone:
                raise NotCron("timezone", self.bad_timezone)
            if "\0" in command:
                raise NotCron("command", "contains a NUL character")
        except (NotCron, InvalidSchedule) as exc:
            self._left_out(where, exc.field, exc.reason, line)
            return
        payload, notes = self._payload(user, command)
        task = {
            "name": self.names.unique(name_of(payload["argv"][2])),
            "description": "\n".join(self.comment)[:_DESCRIPTION],
            "uses": "shell",
            "with": payload,
            "schedule": {"cron": expr, "timezone": self.timezone},
            "catchup": "none",
            "retry": {"attempts": 1},
        }
        if not task["description"]:
            del task["description"]
        self.found.items.append(
            Job(where, task, expr, "cron", expr, self.timezone, "cron", tuple(notes))
        )

    def _owner(self, rest: str) -> tuple[str | None, str]:
        user, command = self.user, rest
        if self.is_system:
            user, command = (*re.split(r"[ \t]+", rest, maxsplit=1), "")[:2]
            if not re.fullmatch(r"[A-Za-z_][\w.:/@\\-]*\$?", user):
                raise NotCron("user", f"{user[:40]!r} is no user's name")
        if not command.strip():
            raise NotCron("command", "is missing")
        return user, command

    def _payload(self, user: str | None, command: str) -> tuple[dict[str, Any], list[str]]:
        env = {name: value for name, value in self.env.items() if name not in _MAIL}
        notes = [f"cron runs it as {user}; here the worker's own user does"] * self.is_system
        home = _home(user)
        if user:
            env["LOGNAME"] = user
        if home:
            env.setdefault("HOME", home)
        if "HOME" not in env:
            notes.append("cron starts it in its user's home directory: give it a cwd")
        shell = env.setdefault("SHELL", "/bin/sh")
        script, stdin = _percent(command)
        payload: dict[str, Any] = {"argv": [shell, "-c", script]}
        if "HOME" in env:
            payload["cwd"] = env["HOME"]
        payload["env"] = dict(sorted(env.items()))
        if stdin is not None:
            payload["stdin"] = stdin
        return payload, notes


def read_crontab(
    data: bytes, file: str, *, timezone: str, is_system: bool = False, user: str | None = None
) -> Found:
    """Read a crontab.

    Args:
        file: its name, for messages.
        timezone: the daemon's, an IANA name.
        is_system: a user's name stands before each command.
        user: otherwise, whose crontab it is; None: nobody's that we know.

    Raises:
        InvalidSchedule: there is no such time zone.
    """
    check_zone(timezone)
    reader = _Reader(file, is_system, user, timezone)
    for number, line in enumerate(data.split(b"\n"), start=1):
        reader.read(number, line)
    found = reader.found
    shells = sorted({job.task["with"]["argv"][0] for job in found.jobs})
    names = sorted({name for job in found.jobs for name in job.task["with"].get("env", ())})
    found.head = [
        f"From the crontab {file}; its times are {timezone}'s unless CRON_TZ says otherwise.",
        "Day of month and day of week: either, if neither begins with *, as in cron. When the",
        "clocks change: as Debian's cron. No second try, and no run for what an outage swallowed.",
        "Output is kept with the run (ordinaut run show), and nothing is mailed.",
    ]
    if shells:
        found.head += [
            "The worker's configuration must allow this:",
            "  [tools.shell]",
            f"  allow = {_toml(shells)}",
            f"  env = {_toml(names)}",
        ]
    return found


def _split(line: str) -> tuple[str, str]:
    """The time, as one text, and the rest of the line."""
    count = 1 if line.startswith("@") else 5
    words = re.split(r"[ \t]+", line, maxsplit=count)
    if words[0] in ("@reboot", "@restart"):
        raise NotCron(
            "time", "a database has no boot; start it by a systemd unit, or ordinaut task run"
        )
    if len(words) < count:
        raise NotCron(
            "time", f"only {len(words)} field{'s' * (len(words) > 1)}: no minute, hour, day of "
            "month, month, day of week",
        )  # fmt: skip
    return " ".join(words[:count]), words[count] if len(words) > count else ""


def _percent(command: str) -> tuple[str, str | None]:
    r"""What the shell runs, and its standard input, which a % begins.

    In the first \% is % and \\ is \; in the second % ends a line, and \% is a %.  (Measured:
    Debian's cron 3.0pl1-162.)
    """
    match = re.fullmatch(r"((?:\\.|[^\\%])*\\?)(?:%(.*))?", command, re.DOTALL)
    assert match is not None
    script = re.sub(r"\\([%\\])", r"\1", match[1])
    if match[2] is None:
        return script, None
    stdin = re.sub(r"(\\)?%", lambda m: "%" if m[1] else "\n", match[2])
    return script, stdin if stdin.endswith("\n") or not stdin else stdin + "\n"


def _home(user: str | None) -> str | None:
    try:
        return pwd.getpwnam(user or "").pw_dir
    except KeyError:
        return None


def _toml(names: list[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"
