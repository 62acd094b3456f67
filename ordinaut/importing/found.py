"""What an import finds: jobs that become tasks, and lines that do not, in their order."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ordinaut.importing.reference import Daemon
from ordinaut.recurrence import InvalidSchedule, parse


@dataclass(frozen=True, slots=True)
class Job:
    """A line that becomes a task.

    Attributes:
        where: file and line, or the job's id.
        task: the task as a manifest has it.
        was: its schedule as it stands there.
        kind, expr, timezone: its calendar, to be proven; kind None: it has none.
        daemon: whose clock the calendar must keep.
        notes: what a reader of the manifest should know.
    """

    where: str
    task: dict[str, Any]
    was: str
    kind: str | None
    expr: str
    timezone: str
    daemon: Daemon
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return str(self.task["name"])


@dataclass(frozen=True, slots=True)
class Problem:
    """A line that does not become a task: where, which field, and why; `text` is the line."""

    where: str
    field: str
    reason: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.field}: {self.reason}"


@dataclass(slots=True)
class Found:
    """All that an import found; `head` is said at the top of the manifest."""

    head: list[str] = field(default_factory=list)
    items: list[Job | Problem] = field(default_factory=list)

    @property
    def jobs(self) -> list[Job]:
        return [item for item in self.items if isinstance(item, Job)]

    @property
    def problems(self) -> list[Problem]:
        return [item for item in self.items if isinstance(item, Problem)]


def check_zone(name: str) -> None:
    """Refuse what is no time zone for a task.

    Raises:
        InvalidSchedule: with the reason.
    """
    parse("cron", "@daily", name)
    if "/" not in name and name not in ("UTC", "GMT"):  # as the database has it
        raise InvalidSchedule("timezone", f"{name} is an old name; use one like Europe/Berlin")


# Words that only prepare for what a command is about, and those that start another program.
_PREPARES = {"[", "[[", "test", "cd", "command", "export", "set", "source", ".", "sleep", "true",
             "umask", "mkdir", "which", "type", "if", "then", "echo"}  # fmt: skip
_STARTS = {"nice", "ionice", "chronic", "flock", "timeout", "sudo", "exec", "env", "nohup", "time",
           "chrt", "setsid", "run-one", "eval", "!"}  # fmt: skip
_READS = {"sh", "bash", "dash", "ksh", "zsh", "python", "python3", "perl", "php", "ruby", "node"}
_LONGEST = 60


def name_of(command: str) -> str:
    """A task's name that says what a command is about: `backup`, `php-artisan-schedule-run`."""
    simple = re.sub(r"\$\([^()]*\)|`[^`]*`", "", command)
    parts = [_about(part) for part in re.split(r"&&|\|\||[;|&(){}\n]", simple)]
    parts = [words for words in parts if words]
    best = [words for words in parts if words[0] not in _PREPARES] or parts or [["job"]]
    return _slug(_program(best[0]))


def _about(part: str) -> list[str]:
    """The words of a simple command, from the program on that it is about."""
    words = [word.strip("\"'`$") for word in part.split()]
    while words and (
        words[0] in _STARTS
        or re.match(r"\w+=|[-+]|\d+[smhd]?$", words[0])
        or (words[0].startswith("/") and "lock" in words[0])
    ):
        words.pop(0)
    return words


def _program(words: list[str]) -> list[str]:
    plain: list[str] = []
    for word in words:
        if re.match(r"\d*[<>]|#", word):
            break
        if re.match(r"[\w./~@][\w./:@~-]*$", word) and not re.match(r"[-+\d.]+$", word):
            stem = word.rstrip("/").rpartition("/")[2]
            plain.append(re.sub(r"\.(sh|py|php|pl|rb|js|bash)$", "", stem))
    if len(plain) > 1 and plain[0] in _READS:
        plain.pop(0)
    return plain[:3]


def _slug(words: list[str]) -> str:
    text = re.sub(r"[^a-z0-9_.]+", "-", "-".join(words).lower())[:_LONGEST]
    return text.strip("-._") or "job"


class Names:
    """Names that were not given yet."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, name: str) -> str:
        number, found = 1, name
        while found in self._taken:
            number += 1
            found = f"{name}-{number}"
        self._taken.add(found)
        return found
