"""Manifests: what they mean, and that a bad one is refused by file, line and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ordinaut.dev import example
from ordinaut.manifest import ManifestError, parse, read, read_all

GOOD = """\
namespace: ops
tasks:
  - name: sample
    uses: python:host_tools.sample
    with: {disks: ["/"], at: 10:30, day: 2026-01-01, on: no}
    schedule: {every: 2 s}
    retry: {attempts: 5, base: 500 ms, factor: 2}
    timeout: 10
  - name: report
    uses: echo
    namespace: other
    schedule: {at: "2026-12-24T18:00", timezone: Europe/Berlin}
  - {name: by-hand, uses: echo, schedule: manual, timeout: null}
  - {name: plain, tool: echo, payload: [1, 2.5, true, null]}
"""


def test_a_manifest_becomes_arguments_of_create_task():
    sample, report, by_hand, plain = parse(GOOD, "good.yaml")

    assert sample.full_name == "ops/sample"
    assert sample.arguments == {
        "tool": "python:host_tools.sample",
        "payload": {"disks": ["/"], "at": "10:30", "day": "2026-01-01", "on": "no"},
        "schedule_kind": "interval",
        "schedule_expr": "2 s",
        "max_attempts": 5,
        "retry": {"base": "500 ms", "factor": 2},
        "timeout": "10 s",
    }
    assert report.full_name == "other/report"
    assert report.arguments == {
        "tool": "echo",
        "schedule_kind": "once",
        "schedule_expr": "2026-12-24T18:00",
        "timezone": "Europe/Berlin",
    }
    assert by_hand.arguments["timeout"] is None
    assert by_hand.arguments["schedule_kind"] == "manual"
    assert plain.arguments == {"tool": "echo", "payload": [1, 2.5, True, None]}


def test_conditions_and_forms_of_an_interval():
    text = """\
tasks:
  - name: a
    uses: echo
    schedule:
      condition:
        every: 30 s
        query: |
          select exists (select from invoice)
  - {name: b, uses: echo, schedule: {condition: {every: 5, query: "select true"}}}
  - {name: c, uses: echo, schedule: {condition: "every 1 min: select true"}}
  - {name: d, uses: echo, schedule: {every: 1 hour phase 5 min}}
  - {name: e, uses: echo, schedule: {interval: 10 min after end}}
"""
    said = [(t.arguments["schedule_kind"], t.arguments["schedule_expr"]) for t in parse(text, "a")]
    assert said == [
        ("condition", "every 30 s: select exists (select from invoice)"),
        ("condition", "every 5 s: select true"),
        ("condition", "every 1 min: select true"),
        ("interval", "1 hour phase 5 min"),
        ("interval", "10 min after end"),
    ]


def test_json_says_the_same_as_yaml():
    text = '{"tasks": [\n\t{"name": "a", "uses": "echo",\n\t "with": {"x": "\\ud83d\\ude00"}}]}'
    [task] = parse(text, "a.json")
    assert task.arguments["payload"] == {"x": "\N{GRINNING FACE}"}
    assert task.line == 2


def test_the_example_is_a_good_manifest():
    assert {d.namespace for d in read(example())} == {"host"}


def test_unions_exclusions_and_calendars_are_read_as_they_are_written():
    calendar, listed, mapped = parse(
        """\
namespace: ops
calendars:
  - {name: closed, timezone: Europe/Berlin, dates: [2026-12-25], weekly: [{from: 22:00, to: 06:00}]}
tasks:
  - {name: a, uses: echo, schedule: [{cron: 0 9 * * *}, {every: 90}], exclude: closed}
  - name: b
    uses: echo
    schedule: {union: [{at: 2026-12-25T10:00}], timezone: Europe/Berlin}
    exclude: [closed, closed]
""",
        "f.yaml",
    )
    assert (calendar.what, calendar.full_name) == ("calendar", "ops/closed")
    assert calendar.arguments == {
        "timezone": "Europe/Berlin",
        "data": {"dates": ["2026-12-25"], "weekly": [{"from": "22:00", "to": "06:00"}]},
    }
    assert listed.arguments["schedule_kind"] == "union"
    assert json.loads(listed.arguments["schedule_expr"]) == [
        {"kind": "cron", "expr": "0 9 * * *"}, {"kind": "interval", "expr": "90 s"}
    ]  # fmt: skip
    assert listed.arguments["exclude"] == ["closed"]
    assert mapped.arguments == {
        "tool": "echo", "schedule_kind": "union", "timezone": "Europe/Berlin",
        "schedule_expr": '[{"kind": "once", "expr": "2026-12-25T10:00"}]',
        "exclude": ["closed", "closed"],
    }  # fmt: skip


def bad(*lines: str) -> str:
    return "tasks:\n  - name: a\n    uses: echo\n" + "\n".join(f"    {line}" for line in lines)


BOMB = "a: &a [x]\n" + "b: [" + "*a," * 200 + "]"
WIDE = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "f.yaml:1: empty"),
        ("[]", "f.yaml:1: must be a mapping"),
        ("tasks: x", "f.yaml:1: tasks: must be a list"),
        ("taks: []", "f.yaml:1: taks: unknown field"),
        ("tasks:\n  - 5", "f.yaml:2: tasks[0]: must be a mapping"),
        ("tasks:\n  - uses: echo", "f.yaml:2: tasks[0]: name is missing"),
        ("tasks:\n  - name: a", "f.yaml:2: tasks[0]: uses is missing"),
        ("tasks:\n  - name: [a]\n    uses: echo", "f.yaml:2: tasks[0].name: must be text"),
        ("tasks:\n  - name: a\n   uses: echo", "f.yaml:3: not YAML"),
        ("tasks: [\n", "f.yaml:2: not YAML"),
        ("tasks: \x00", "f.yaml: not YAML"),
        (bad("tool: sql"), "f.yaml:4: tasks[0].tool: says the same as uses"),
        (bad("priority: high"), "f.yaml:4: tasks[0].priority: must be a whole number"),
        (bad("priority: true"), "f.yaml:4: tasks[0].priority: must be a whole number"),
        (bad("queue: 5"), "f.yaml:4: tasks[0].queue: must be text"),
        (bad("timeout: [1]"), "f.yaml:4: tasks[0].timeout: must be text"),
        (bad("schedule: often"), "f.yaml:4: tasks[0].schedule: must be manual or a mapping"),
        (bad("schedule: [cron]"), "f.yaml:4: tasks[0].schedule[0]: must be a mapping"),
        (bad("schedule: [{cron: x, every: 1 s}]"), "f.yaml:4: tasks[0].schedule[0]: give exactly"),
        (
            bad("schedule:", "  - cron: x", "  - cron: 5"),
            "f.yaml:6: tasks[0].schedule[1].cron: must be text",
        ),
        (bad("schedule: [{manual: x}]"), "f.yaml:4: tasks[0].schedule[0].manual: unknown field"),
        (bad("schedule: {union: x}"), "f.yaml:4: tasks[0].schedule.union: must be a list"),
        (bad("exclude: 5"), "f.yaml:4: tasks[0].exclude: must be a list of calendars"),
        (bad("exclude: [a, 5]"), "f.yaml:4: tasks[0].exclude[1]: must be text"),
        ("calendars: x", "f.yaml:1: calendars: must be a list"),
        ("calendars: []", "f.yaml:1: tasks is missing"),
        ("calendars:\n  - dates: []", "f.yaml:2: calendars[0]: name is missing"),
        ("calendars:\n  - name: a\n    days: []", "f.yaml:3: calendars[0].days: unknown field"),
        ("calendars:\n  - name: a\n  - name: a", "f.yaml:3: calendar a, name: also defined"),
        (bad("schedule: {}"), "f.yaml:4: tasks[0].schedule: says no time"),
        (bad("schedule:", "  every: 1 s", "  at: x"), "f.yaml:4: tasks[0].schedule: has every and"),
        (bad("schedule:", "  evry: 1 s"), "f.yaml:5: tasks[0].schedule.evry: unknown field"),
        (
            bad("schedule: {condition: {every: 1 s}}"),
            "f.yaml:4: tasks[0].schedule.condition: query",
        ),
        (bad("schedule: {condition: {query: x}}"), "f.yaml:4: tasks[0].schedule.condition: every"),
        (bad("schedule: {condition: 5}"), "f.yaml:4: tasks[0].schedule.condition: must be text"),
        (bad("retry:", "  base: 1 s", "  tries: 5"), "f.yaml:6: tasks[0].retry.tries: unknown"),
        (bad("retry: {attempts: x}"), "f.yaml:4: tasks[0].retry.attempts: must be a whole number"),
        (bad("uses: sql"), "f.yaml:4: tasks[0].uses: given twice"),
        (bad("with: !!python/name:os.system x"), "f.yaml:4: tasks[0].with: the tag"),
        (bad("with: !!python/object:os.x {}"), "f.yaml:4: tasks[0].with: the tag"),
        (bad("? [a, b]", ": c"), "f.yaml:2: tasks[0]: a field's name must be text"),
        (bad(f"with: {'[' * 50}{']' * 50}"), "f.yaml:4: nested deeper"),
        (bad(f"with: {'9' * 10_000}"), "f.yaml:4: tasks[0].with: cannot read"),
        (bad("") + "\n  - {name: a, uses: echo}", "f.yaml:5: task a, name: also defined in line 2"),
        (BOMB, "f.yaml:2: more than 100 aliases"),
        (WIDE, "f.yaml:1: more than 100000 values"),
        ("a: &a [*a]\ntasks: []", "f.yaml:1: a[0][0]: nested deeper"),
    ],
)
def test_a_bad_manifest_names_file_line_and_field(text, says):
    with pytest.raises(ManifestError) as caught:
        parse(text, "f.yaml")
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"tasks": [\n}', "f.json:2: not JSON"),
        ("tasks: []", "f.json:1: not JSON"),
        ("[" * 100_000, "f.json: nested too deep"),
        ('{"tasks": [\n {"name": "a",\n "uses": 5}]}', "f.json:3: tasks[0].uses: must be text"),
    ],
)
def test_bad_json_is_named_the_same_way(text, says):
    with pytest.raises(ManifestError) as caught:
        parse(text, "f.json")
    assert str(caught.value).startswith(says)


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    binary, large = tmp_path / "binary.yaml", tmp_path / "large.json"
    binary.write_bytes(b"\xff\xfe\x00")
    large.write_text(json.dumps({"tasks": ["x" * 2_100_000]}))

    for path, says in (
        (tmp_path / "none.yaml", "No such file"),
        (tmp_path, "directory"),
        (binary, "not UTF-8"),
        (large, "larger than"),
    ):
        with pytest.raises(ManifestError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert says in str(caught.value)


def test_two_files_may_not_define_one_task(tmp_path: Path):
    one, two = tmp_path / "1.yaml", tmp_path / "2.yaml"
    for path in (one, two):
        path.write_text(bad())
    with pytest.raises(ManifestError) as caught:
        list(read_all([one, two]))
    assert f"{two}:2: task a, name: also defined at {one}:2" in str(caught.value)
