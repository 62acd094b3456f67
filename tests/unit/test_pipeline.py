"""Pipelines in files: what they mean, that a bad one is refused by line and step, and by whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ordinaut import Ordinaut, calls, db, pipeline
from ordinaut.cli.main import invoke
from ordinaut.manifest import ManifestError, parse
from ordinaut.pipeline import InvalidPipeline
from ordinaut.scheduler import Scheduler, SchedulerConfig
from tests.unit.test_scheduler import running, until

STEPS = """\
tasks:
  - name: nightly
    params: {table: sales, since: 2026-01-01}
    pipeline:
      - {id: fetch, uses: http, with: {url: "https://x.org/${params.table}"}, save_as: rows}
      - id: load
        uses: echo
        with: {rows: "${steps.rows}"}
        if: length(steps.rows) > `0`
        retry: {base: 2 s, max_attempts: 4}
      - {uses: echo, timeout: 1.5}
"""


@pytest.fixture
def cli(dsn: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> tuple[int, Any]:
        code = invoke([*argv, "--dsn", dsn])
        said = capsys.readouterr()
        text = said.out or said.err
        return code, json.loads(text) if "--json" in argv else text

    return run


@pytest.fixture
def conn(dsn: str) -> Any:
    with db.connect(dsn, name="test") as conn:
        yield conn


def test_a_manifest_says_what_create_task_takes():
    [task] = parse(STEPS, "f.yaml")

    assert task.arguments["payload"] == {"table": "sales", "since": "2026-01-01"}
    fetch, load, last = task.arguments["pipeline"]
    assert fetch["with"] == {"url": "https://x.org/${params.table}"}
    assert (load["if"], load["retry"]) == (
        "length(steps.rows) > `0`", {"base": "2 s", "max_attempts": 4}
    )  # fmt: skip
    assert last == {"uses": "echo", "timeout": 1.5}
    assert [task.lines[f"step {n}"] for n in (1, 2, 3)] == [5, 6, 11]


def test_params_and_pipeline_in_one_payload_mean_the_same():
    text = "tasks: [{name: a, uses: pipeline, with: {params: {x: 1}, pipeline: [{uses: echo}]}}]"
    [task] = parse(text, "f.yaml")

    assert task.arguments == {"pipeline": [{"uses": "echo"}], "payload": {"x": 1}}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("save_as:", "saveas:", "f.yaml:5: tasks[0].pipeline[0].saveas: unknown field"),
        ("base: 2 s", "delay: 2 s", "f.yaml:10: tasks[0].pipeline[1].retry.delay: unknown field"),
        ("uses: echo, ", "", "f.yaml:11: tasks[0].pipeline[2]: uses is missing"),
        ("- {uses: echo, timeout: 1.5}", "- echo", "f.yaml:11: tasks[0].pipeline[2]: must be a"),
        ("params: {", "uses: echo # {", "f.yaml:3: tasks[0].uses: it has a pipeline"),
        ("params: {", "with: {", "f.yaml:3: tasks[0].with: it has a pipeline; give it params"),
        ("params: {", "params: [1] # {", "f.yaml:3: tasks[0].params: must be a mapping"),
        ("pipeline:\n", "pipeline: x\n    steps:\n", "f.yaml:5: tasks[0].steps: unknown field"),
        ("pipeline:\n", "uses: echo\n    schedule:\n", "f.yaml:3: tasks[0].params: are those of"),
    ],
)
def test_a_bad_step_in_a_manifest_is_named_by_line(old, new, says):
    assert old in STEPS
    with pytest.raises(ManifestError) as caught:
        parse(STEPS.replace(old, new), "f.yaml")
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("id: fetch", "id: 9x", "tasks.yaml:5: task nightly: step 1 (9x): id '9x' is not a name"),
        ("timeout: 1.5", "retry_count: 0",
         "tasks.yaml:11: task nightly: step 3 (step_3): retry_count 0 must be a whole number"),
        ("> `0`", "> 0", "tasks.yaml:6: task nightly: step load, if: "),
        ("length(", "size(", "tasks.yaml:6: task nightly: step load, if: "),
        ("${params.table}", "${table}", "tasks.yaml:5: task nightly: step fetch, with.url: "),
        ("timeout: 1.5", "with: {x: '${steps.step_3}'}",
         "tasks.yaml:11: task nightly: step step_3, with.x: "),
        ("timeout: 1.5", "output_schema: {type: objekt}",
         "tasks.yaml:11: task nightly: step step_3, output_schema: "),
    ],
)  # fmt: skip
def test_apply_refuses_a_bad_step_in_its_line_and_applies_nothing(
    cli, conn, tmp_path, old, new, says
):
    assert old in STEPS
    (tmp_path / "tasks.yaml").write_text(STEPS.replace(old, new) + "  - {name: b, uses: echo}\n")

    code, text = cli("task", "apply", "tasks.yaml")

    assert code == 78
    assert text.startswith(f"error: {says}")
    assert calls.list_tasks(conn) == []


def test_applying_twice_changes_nothing_and_a_step_that_changed_is_seen(cli, conn, tmp_path):
    file = tmp_path / "tasks.yaml"
    file.write_text(STEPS)
    assert [row["action"] for row in cli("task", "apply", "tasks.yaml", "--json")[1]] == ["created"]
    [row] = cli("task", "apply", "tasks.yaml", "--json")[1]
    assert row["action"] == "unchanged"

    file.write_text(STEPS.replace("2 s", "3 s"))
    code, text = cli("task", "plan", "tasks.yaml")
    assert code == 0
    assert 'step load changed: retry {"base": "2 s", "max_attempts": 4} -> {"base": "3 s"' in text
    [row] = cli("task", "apply", "tasks.yaml", "--json")[1]
    assert (row["action"], row["fields"]) == ("updated", "pipeline")

    file.write_text("tasks: [{name: nightly, uses: echo, with: {n: 1}}]")
    assert cli("task", "apply", "tasks.yaml")[0] == 0
    task = calls.get_task(conn, "nightly")
    assert (task.tool, task.payload, task.pipeline) == ("echo", {"n": 1}, None)
    file.write_text(STEPS)
    assert cli("task", "apply", "tasks.yaml")[0] == 0
    assert calls.get_task(conn, "nightly").tool == "pipeline"


def test_the_command_line_creates_shows_finds_and_enqueues(cli, conn, tmp_path):
    (tmp_path / "steps.yaml").write_text(
        "- {id: a, uses: echo, save_as: x}\n"
        "- {id: b, uses: sql, needs: a, if: steps.x, retry_count: 2, map: {over: [1]}}\n"
    )
    (tmp_path / "both.json").write_text('{"pipeline": [{"uses": "echo"}], "params": {"p": 1}}')

    code, said = cli("task", "create", "ops/t", "--pipeline", "steps.yaml", "--every", "5 min")
    assert code == 0, said
    code, text = cli("task", "show", "ops/t")
    assert code == 0
    assert [line.split() for line in text.splitlines()[-2:]] == [
        ["a", "echo", "-", "-", "-", "x", "-"],
        ["b", "sql", "a", "steps.x", "2", "times", "-", "map"],
    ]
    found = cli("task", "show", "ops/t", "--json")[1]
    assert (found["tool"], found["payload"], found["pipeline"][0]["id"]) == ("pipeline", {}, "a")
    assert [t["name"] for t in cli("task", "list", "--uses", "sql", "--json")[1]] == ["t"]
    assert cli("task", "list", "--uses", "http", "--json")[1] == []

    assert cli("enqueue", "--pipeline", "both.json", "--json")[0] == 0
    code, said = cli("enqueue", "--pipeline", "both.json", "--params", '{"p": 2}', "--json")
    assert code == 0
    run = calls.get_run(conn, said["run_id"])
    assert (run.tool, run.payload) == ("pipeline", {"p": 2})
    assert cli("task", "create", "plain", "--uses", "echo", "--with", '{"n": 1}')[0] == 0
    assert calls.get_task(conn, "plain").payload == {"n": 1}


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("- {id: a, uses: echo, iff: x}", 78, "steps.yaml:1: [0].iff: unknown field"),
        ("- {id: a, uses: echo, if: '>'}", 78, "step a, if: "),
        ("- {id: a, uses: echo, needs: b}", 2, "step 1 (a): it needs 'b', which is no step"),
        ("tasks: []", 78, "steps.yaml:1: tasks: this defines tasks"),
        ("pipeline: {a: 1}", 78, "steps.yaml:1: pipeline: must be a list of steps"),
        ("pipeline: []\nparams: 5", 78, "steps.yaml:2: params: must be a mapping"),
        ("{", 78, "steps.yaml:1: not YAML"),
        ("x", 78, "steps.yaml:1: must be a mapping"),
    ],
)
def test_a_bad_file_of_steps_is_one_sentence(cli, conn, tmp_path, text, code, says):
    (tmp_path / "steps.yaml").write_text(text)
    for command in (("enqueue",), ("task", "create", "t")):
        got, said = cli(*command, "--pipeline", "steps.yaml")
        assert (got, said[: len(says) + 7]) == (code, f"error: {says}")
    assert calls.list_tasks(conn) == []
    assert calls.list_runs(conn) == []


def test_the_python_api_checks_before_it_sends(dsn, conn):
    good = [{"id": "a", "uses": "echo"}, {"id": "b", "uses": "echo", "with": {"x": "${steps.a}"}}]
    bad = [{"uses": "echo", "if": "steps."}]
    with Ordinaut(dsn) as ordinaut:
        for refused in (
            lambda: ordinaut.create_task("t", pipeline=bad),
            lambda: ordinaut.enqueue(pipeline=bad),
            lambda: ordinaut.enqueue("pipeline", {"pipeline": bad}),
            lambda: ordinaut.enqueue_many([{"pipeline": good}, {"pipeline": bad}]),
        ):
            with pytest.raises(InvalidPipeline, match="step step_1, if"):
                refused()
        assert calls.list_runs(conn) == []

        ordinaut.create_task("t", pipeline=good, params={"n": 1})
        run = ordinaut.enqueue(pipeline=good, params={"n": 2})
        [many] = ordinaut.enqueue_many([{"pipeline": good, "payload": {"n": 3}}])

        assert (calls.get_task(conn, "t").pipeline, calls.get_task(conn, "t").payload) == (
            good, {"n": 1}
        )  # fmt: skip
        assert [ordinaut.get_run(r.run_id).payload for r in (run, many) if r.run_id] == [
            {"n": 2}, {"n": 3}
        ]  # fmt: skip


def test_a_bad_template_from_psql_makes_its_task_invalid_and_no_other(prod_dsn):
    bad = [{"id": "a", "uses": "echo", "if": "params.n > 25"}]
    with db.connect(prod_dsn, name="test") as conn, running(prod_dsn):
        calls.create_task(conn, "bad", pipeline=bad)
        calls.create_task(conn, "good", pipeline=[{"id": "a", "uses": "echo"}])
        until(lambda: calls.get_task(conn, "bad").status == "invalid")
        until(lambda: not calls.unchecked_pipelines(conn))

        assert calls.get_task(conn, "good").status == "active"
        [reason] = [r for r in calls.why(conn, "bad") if r.reason == "task_invalid"]
        assert "step a, if: " in reason.detail
        assert "`25`" in reason.detail
        calls.update_task(conn, "bad", {"priority": 2})
        until(lambda: calls.get_task(conn, "bad").status == "invalid")


def test_a_planner_waits_for_nobody_who_refers_to_a_pipeline(dsn, session, conn):
    one, two = session("one"), session("two")
    bad = json.dumps([{"id": "a", "uses": "echo", "if": ">"}])
    calls.create_task(conn, "first", pipeline=json.loads(bad))
    other = [{"id": "b", "uses": "echo", "if": ">"}]
    calls.create_task(conn, "other", pipeline=other)
    one.run("begin")
    one.run("select ordinaut.create_task('second', p_pipeline => %s)", bad)

    pipeline.vet(conn)

    status = {t.name: t.status for t in calls.list_tasks(conn)}
    assert status == {"first": "active", "other": "invalid"}
    one.run("commit")
    two.run("begin")
    two.run("select ordinaut.update_task('first', '{\"priority\": 2}')")
    pipeline.vet(conn)
    assert {t.name: t.status for t in calls.list_tasks(conn)} == {
        "first": "active", "other": "invalid", "second": "active"
    }  # fmt: skip
    two.run("commit")
    pipeline.vet(conn)
    assert {t.status for t in calls.list_tasks(conn)} == {"invalid"}
    assert calls.unchecked_pipelines(conn) == []


def test_ten_thousand_pipelines_are_searched_by_an_index(conn):
    conn.execute(
        """
        insert into ordinaut.pipeline (pipeline_id, definition, created_at)
        select gen_random_uuid(),
          jsonb_build_array(jsonb_build_object('id', 'a', 'uses', 'tool' || n)), now()
        from generate_series(1, 10000) as n
        """
    )
    calls.create_task(conn, "t", pipeline=[{"uses": "echo-tool"}])
    conn.execute("analyze ordinaut.pipeline")
    plan = "\n".join(
        line for (line,) in conn.execute("explain select * from ordinaut._tasks_using('echo-tool')")
    )

    assert "pipeline_definition_idx" in plan
    assert "Seq Scan on pipeline" not in plan
    assert [t.name for t in calls.list_tasks(conn, uses="echo-tool")] == ["t"]


def test_a_thousand_steps_are_compiled_within_a_second(conn):
    steps = [
        {"id": f"s{n}", "uses": "echo", "needs": [f"s{m}" for m in range(max(0, n - 5), n)],
         "with": {"x": f"${{steps.s{n - 1}.y}}"} if n else {}}
        for n in range(1000)
    ]  # fmt: skip
    pipeline.check(steps)
    conn.execute("set statement_timeout = '1s'")
    calls.create_task(conn, "t", pipeline=steps)
    levels = conn.execute("select max(level), count(*) from ordinaut.pipeline_step").fetchone()
    assert levels == (999, 1000)


def test_the_scheduler_has_the_chore():
    assert "pipelines" in {chore.name for chore in Scheduler(SchedulerConfig("x"))._chores}
