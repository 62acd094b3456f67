"""Text that wants to be more than text: in names, templates, arguments, headers and terminals."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ordinaut import manifest, template
from ordinaut.cli import base
from ordinaut.document import ManifestError
from ordinaut.logs import _Json, _Text
from ordinaut.tools.errors import ToolFailed
from tests.postgres import one
from tests.security.conftest import ROOT, Town

NAMES = [
    "'; drop schema ordinaut cascade; --", '"; select 1', "$$", "$fn$", "%I%s%L%1$s%n", "a\nb",
    "\x1b]8;;http://x\x07y", "\u202ename", "ä" * 40, "x" * 64, "x" * 100_000, "{a,b}", "\\",
    "\\x00", " ", "", "../../etc/passwd", "${jndi:ldap://x}", "${params.x}", "[red]x[/red]", "-rf",
    "*", "null",
]  # fmt: skip


def test_a_name_is_data(town: Town, rows: Callable[..., Any]) -> None:
    producer, worker, admin = (town.login(n) for n in ("producer", "worker", "admin"))
    before = one(town.login(), "select count(*) from pg_class where relkind in ('r', 'v', 'p')")

    for conn, call in (
        (producer, "enqueue(%s)"),
        (producer, "enqueue('echo', p_queue => %s)"),
        (producer, "enqueue('echo', p_key => %s)"),
        (producer, "enqueue('echo', p_idempotency_key => %s)"),
        (producer, "enqueue('echo', to_jsonb(%s::text))"),
        (producer, "emit_event(%s)"),
        (producer, "run_now(%s)"),
        (producer, "why(%s)"),
        (producer, "find_run(%s)"),
        (producer, "list_runs(p_tool => %s)"),
        (worker, "lease_work(%s, 'default')"),
        (worker, "lease_work('me', %s)"),
        (worker, "register_worker(gen_random_uuid(), array[%s::text], '{echo}')"),
        (worker, "register_worker(gen_random_uuid(), '{default}', '{echo}', %s)"),
        (admin, "create_task(%s, 'echo')"),
        (admin, "create_task('t', 'echo', p_namespace => %s)"),
        (admin, "create_task('t', 'echo', p_timezone => %s)"),
        (admin, "create_task('t', 'echo', p_schedule_kind => %s, p_schedule_expr => '1 h')"),
        (admin, "create_task('t', 'echo', p_schedule_kind => 'cron', p_schedule_expr => %s)"),
        (admin, "set_calendar(%s, '{}')"),
        (admin, "pause_queue('q', %s)"),
        (admin, "set_breaker(%s)"),
    ):
        for name in NAMES:
            said = rows(conn, f"select ordinaut.{call}", name)
            fine = not isinstance(said, str) or said[:2] in ("22", "OR", "54", "23")
            assert fine, (call, ascii(name), said)

    after = one(town.login(), "select count(*) from pg_class where relkind in ('r', 'v', 'p')")
    assert after == before


def test_the_cli_hands_names_on_and_shows_no_more_than_text(town: Town) -> None:
    admin = town.login("admin")
    nasty = "\x1b[31mred\x1b[0m\r\x07\x1b]8;;http://x\x1b\\[bold]link\u202e"
    admin.execute("select ordinaut.create_task('t', 'echo', p_description => %s)", [nasty])
    admin.execute("select ordinaut.pause_task('t', %s)", [nasty])
    for arguments in (["task", "show", "t"], ["task", "show", nasty]):
        done = subprocess.run(
            [sys.executable, "-m", "ordinaut", "--dsn", town.dsn_of("admin"), *arguments],
            capture_output=True,
            cwd=ROOT,
            check=False,
        )
        said = (done.stdout + done.stderr).decode()
        assert not {"\x1b", "\x07", "\r", "\u202e"} & set(said), arguments
        assert done.returncode == (0 if nasty not in arguments else done.returncode or 1)


def test_a_log_line_is_one_line_and_drives_no_terminal() -> None:
    record = logging.LogRecord("o", logging.INFO, "", 0, "took %s", ("a\nb\x1b[2J\u202e",), None)
    record.error = "x\r\n12:00:00 INFO    forged"
    try:
        raise ValueError("one\n12:00:00 INFO    forged\x1b")
    except ValueError:
        record.exc_info = sys.exc_info()

    lines = _Text().format(record).split("\n")
    assert r"took a\nb\x1b[2J\u202e" in lines[0]
    assert r"error=x\r\n12:00:00 INFO    forged" in lines[0]
    assert all(line.startswith("    ") for line in lines[1:])
    assert "\x1b" not in "".join(lines)
    assert "\n" not in _Json().format(record)
    assert base.clean("a\x1b[31m\r\u202e") == "a\ufffd[31m\ufffd\ufffd"


CONTEXT = {"params": {"a": "x" * 1000, "list": [1, 2]}, "steps": {}, "run": {}, "now": ""}
HARMLESS = [
    "${__class__}", "${params.__class__.__mro__}", "${''.__class__}", "${{7*7}}",
    "${params.a.__init__.__globals__}", "{{7*7}}", "{% import os %}", "<%= 7*7 %>", "#{7*7}",
    "$(id)", "`id`", "$${params.a}",
]  # fmt: skip


@pytest.mark.parametrize("text", HARMLESS)
def test_a_template_looks_up_and_does_no_more(text: str) -> None:
    try:
        found = template.render(text, CONTEXT)
    except ToolFailed:
        return
    assert found is None or ("49" not in str(found) and "uid=" not in str(found))


BOMBS = {
    "lists within lists": "${params.a" + "|[@,@]" * 40 + "}",
    "objects within objects": "${params.a" + "|{a:@,b:@}" * 40 + "}",
    "joined": "${params.a" + "|join('',[@,@])" * 60 + "}",
    "flattened": "${params.list" + "|[@,@][]" * 60 + "}",
    "as text": "${params.a" + "|[@,@]" * 40 + "|to_string(@)}",
    "mapped": "${params.list" + "|[].[@,@][]" * 60 + "}",
    "quotes without end": "${'" + "\\'" * 200_000,
    "ticks without end": "${`" + "\\`" * 200_000 + "\\",
    "opened without end": "${" * 100_000,
    "nested": "${" + "[" * 3_000 + "}",
    "laughs": ["${params}"] * 2_000,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_before_it_grows(bomb: str) -> None:
    began = time.process_time()
    with pytest.raises(ToolFailed):
        template.render(BOMBS[bomb], CONTEXT)
    with pytest.raises(ToolFailed):
        template.condition(str(BOMBS[bomb]) + "|x", CONTEXT)
    assert time.process_time() - began < 3


def test_what_a_template_gives_is_no_template_again() -> None:
    context = CONTEXT | {"params": {"a": "${params.b}", "b": "secret", "c": "'; drop"}}
    assert template.render({"x": "${params.a}", "y": "a ${params.a}"}, context) == {
        "x": "${params.b}",
        "y": "a ${params.b}",
    }


MANIFESTS = {
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{y}: &{y} [{','.join([f'*{x}'] * 9)}]\n" for x, y in pairwise("abcdefghi")),
    "an object": "!!python/object/apply:os.system ['true']",
    "a module": "tasks: !!python/module:os",
    "depth": "[" * 100_000,
    "json depth": '{"tasks":' * 20_000,
}  # fmt: skip


@pytest.mark.parametrize("which", MANIFESTS)
def test_a_manifest_is_data(tmp_path: Path, which: str) -> None:
    file = tmp_path / ("m.json" if which.startswith("json") else "m.yaml")
    file.write_text(MANIFESTS[which])
    began = time.process_time()
    with pytest.raises(ManifestError):
        manifest.read(file)
    assert time.process_time() - began < 5


def test_deep_json_is_refused_by_the_database(town: Town, rows: Callable[..., Any]) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    said = rows(town.login("producer"), "select ordinaut.enqueue('echo', %s::jsonb)", deep)
    assert said == "54001"


def test_markup_is_text() -> None:
    out = io.StringIO()
    console = base.console()
    console.file = out
    console.print(base.cell("message", "[red]x[/red] [link=http://x]y[/link] :smile:"))
    assert "[red]x[/red] [link=http://x]y[/link] :smile:" in out.getvalue()
