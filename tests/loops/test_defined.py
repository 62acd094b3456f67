"""From a manifest to success: apply, schedule, fire, run the steps, complete the task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ordinaut import calls
from ordinaut.cli.main import invoke
from ordinaut.scheduler import SchedulerConfig
from tests.loops.conftest import wait_for
from tests.unit.test_scheduler import running

TASKS = """\
tasks:
  - name: hello
    params: {{who: Integration}}
    schedule: {{at: "{at}"}}
    pipeline:
      - {{id: build, uses: echo, with: {{parts: [Hello, "${{params.who}}"]}}}}
      - id: left
        uses: echo
        needs: build
        with: {{n: "${{length(steps.build.parts)}}"}}
        save_as: n
      - {{id: right, uses: echo, needs: build, if: "params.who == 'nobody'"}}
      - id: join
        uses: echo
        needs: [left, right]
        with: {{message: "${{join(' ', steps.build.parts)}}", parts: "${{steps.n.n}}"}}
        save_as: echo_result
"""


def test_a_manifest_of_steps_is_applied_fired_and_run(
    db: Any, prod_dsn: str, worker: Any, ended: Any, tmp_path: Path, capsys: Any
) -> None:
    worker(concurrency=2)
    file = tmp_path / "tasks.yaml"
    file.write_text(TASKS.format(at=calls.server(db).now.isoformat()))

    assert invoke(["task", "apply", str(file), "--dsn", prod_dsn]) == 0
    with running(SchedulerConfig(prod_dsn).dsn):
        [run] = wait_for(lambda: calls.list_runs(db, task="hello"))
        run = ended(run.run_id)
        wait_for(lambda: calls.get_task(db, "hello").status == "completed")

    assert run.state == "success", run.error
    assert run.output == {
        "n": {"n": 2}, "echo_result": {"message": "Hello Integration", "parts": 2}
    }  # fmt: skip
    capsys.readouterr()
    assert invoke(["task", "show", "hello", "--dsn", prod_dsn, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [step["id"] for step in shown["pipeline"]] == ["build", "left", "right", "join"]


def test_a_run_that_began_keeps_the_steps_it_began_with(db: Any, worker: Any, ended: Any) -> None:
    old = [
        {"id": "a", "uses": "wait_for_event", "with": {"topic": "go"}},
        {"id": "b", "uses": "echo", "with": {"v": "${params.v}"}, "save_as": "said"},
    ]
    new = [{"id": "z", "uses": "echo", "with": {"v": "new"}, "save_as": "said"}]
    calls.create_task(db, "t", pipeline=old, payload={"v": "old"})
    queued = calls.run_now(db, "t").run_id
    calls.update_task(db, "t", {"params": {"v": "later"}})
    worker()
    wait_for(lambda: calls.get_run(db, queued).state == "running")
    calls.update_task(db, "t", {"pipeline": new, "params": {}})
    after = calls.run_now(db, "t").run_id
    db.execute("select ordinaut.emit_event('go')")

    assert ended(queued).output == {"said": {"v": "old"}}
    assert ended(after).output == {"said": {"v": "new"}}
