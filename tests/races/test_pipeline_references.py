"""
Race: somebody makes a task of a pipeline while others decide about it.

    create, create      of the same content: the second waits, and both follow one pipeline
    create, verdict     a planner's verdict waits for nobody, and is given when the task is there
    edit, verdict       likewise; the other tasks of the pipeline are invalid at once
    create, prune       a pipeline that nothing follows yet, but soon, is not pruned
    prune, create       one that was pruned is stored again
"""

from __future__ import annotations

import json

import pytest

STEPS = json.dumps([{"id": "a", "uses": "echo", "if": ">"}])
CREATE = "select ordinaut.create_task(%s, p_pipeline => %s)"
VERDICT = "select ordinaut.note_pipeline_check(%s, 'bad')"


@pytest.fixture
def first(at):
    return at("first", "12:00:00")


@pytest.fixture
def second(at):
    return at("second", "12:00:00")


def the_pipeline(boss):
    found = boss.one("select pipeline_id from ordinaut.pipeline")
    boss.commit()
    return found


def statuses(boss):
    found = {row.name: row.status for row in boss.run("select name, status from ordinaut.task")}
    boss.commit()
    return found


def test_create_create(boss, first, second):
    first.run(CREATE, "one", STEPS)
    second.start(CREATE, "two", STEPS)
    second.wait_blocked(by=first)
    first.commit()
    second.result()
    second.commit()

    assert boss.one("select count(distinct pipeline_id) from ordinaut.task") == 1
    assert boss.one("select count(*) from ordinaut.pipeline_step") == 1


def test_create_verdict(boss, first, second):
    first.run(CREATE, "one", STEPS)
    first.commit()
    pipeline_id = the_pipeline(boss)

    first.run(CREATE, "two", STEPS)
    assert second.one(VERDICT, pipeline_id) is False
    second.commit()
    assert statuses(boss) == {"one": "active"}
    first.commit()

    assert second.one(VERDICT, pipeline_id) is True
    second.commit()
    assert statuses(boss) == {"one": "invalid", "two": "invalid"}


def test_edit_verdict(boss, first, second):
    for name in ("one", "two"):
        first.run(CREATE, name, STEPS)
    first.commit()
    pipeline_id = the_pipeline(boss)

    first.run("select from ordinaut.task_schedule as s join ordinaut.task as t using (task_id)"
              " where t.name = 'one' for update of s")  # fmt: skip
    assert second.one(VERDICT, pipeline_id) is False
    second.commit()
    assert statuses(boss) == {"one": "active", "two": "invalid"}
    assert boss.one("select checked_at from ordinaut.pipeline") is None
    boss.commit()
    first.run("select ordinaut.update_task('one', '{\"pipeline\": []}')")
    first.commit()

    assert second.one(VERDICT, pipeline_id) is True
    second.commit()
    assert statuses(boss) == {"one": "active", "two": "invalid"}


def test_create_prune(boss, at, first):
    first.run("select from ordinaut.enqueue(p_pipeline => %s)", STEPS)
    first.run("delete from ordinaut.due_work")
    first.commit()
    pipeline_id = the_pipeline(boss)
    late = at("late", "12:00:00").at("2026-04-20 12:00:00+00")

    first.run(CREATE, "one", STEPS)
    late.run("select ordinaut.prune('1 day')")
    late.commit()
    first.commit()

    assert the_pipeline(boss) == pipeline_id
    assert boss.one("select count(*) from ordinaut.pipeline_step") == 1


def test_prune_create(boss, at, first):
    first.run("select from ordinaut.enqueue(p_pipeline => %s)", STEPS)
    first.run("delete from ordinaut.due_work")
    first.commit()
    late = at("late", "12:00:00").at("2026-04-20 12:00:00+00")

    late.run("select ordinaut.prune('1 day')")
    first.start(CREATE, "one", STEPS)
    first.wait_blocked(by=late)
    late.commit()
    first.result()
    first.commit()

    assert boss.one("select count(*) from ordinaut.pipeline_step") == 1
    assert statuses(boss) == {"one": "active"}
