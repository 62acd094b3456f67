"""Whatever a tool returns, PostgreSQL can store it, or the tool is told why not."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import pathlib
import uuid
from typing import Any

import psycopg
import pytest

from ordinaut.tools import output


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_secrets", [])


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    when: dt.date


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ({"a": "\0"}, {"a": "\ufffd"}),
        ({"\0": 1}, {"\ufffd": 1}),
        ("\\u0000", "\\u0000"),  # six characters, and no NUL
        (["\\u0000", "\0"], ["\\u0000", "\ufffd"]),
        ("\ud800", "\ufffd"),
        ("a\udc00b", "a\ufffdb"),
        ("\ud83d\ude00", "\U0001f600"),
        (math.nan, "nan"),
        ({"x": [-math.inf]}, {"x": ["-inf"]}),
        ("grün 🎉", "grün 🎉"),
        (b"\xff\x00ok", "\ufffd\ufffdok"),
        ({2, 1}, [1, 2]),
        ((1, None, True), [1, None, True]),
        (dt.datetime(2025, 1, 2, tzinfo=dt.UTC), "2025-01-02T00:00:00+00:00"),
        (dt.timedelta(minutes=1), 60.0),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (decimal.Decimal("1.10"), "1.10"),
        (pathlib.PurePosixPath("/x"), "/x"),
        (Colour.RED, "red"),
        (Point(1, dt.date(2025, 1, 2)), {"x": 1, "when": "2025-01-02"}),
    ],
)
def test_values_become_what_one_expects(value: Any, stored: Any) -> None:
    assert json.loads(output.dump(value)) == stored


@pytest.mark.parametrize("value", [object(), {"a": [print]}, {(1, 2): 3}, [math.nan, object()]])
def test_what_json_has_no_words_for_is_refused_by_name(value: Any) -> None:
    with pytest.raises(output.NotStorable, match=r"JSON|keys"):
        output.dump(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(output.NotStorable, match="itself"):
        output.dump(loop)


@pytest.mark.parametrize("depth", [101, 900, 5000])
def test_depth_is_cut(depth: int) -> None:
    assert b"nested too deeply" in output.dump(nested(depth))


def test_depth_that_is_usual_and_width_of_any_size_are_not_cut() -> None:
    for value in (nested(99), [[]] * 500):
        assert json.loads(output.dump(value)) == value


def test_an_integer_too_long_to_print_says_how_long() -> None:
    assert json.loads(output.dump([1 << 50_000])) == ["(an integer of 50001 bits)"]


def test_an_output_over_the_limit_keeps_a_preview() -> None:
    kept = json.loads(output.dump("é" * 600_000))

    assert kept["truncated"] is True
    assert kept["size"] == 1_200_002
    assert kept["preview"].startswith('"éé')


def test_secrets_are_masked_in_every_spelling_and_leave_json_whole() -> None:
    output.register_secret('hun"ter\n2')
    output.register_secret("1")

    text = output.dump({"a": 'is hun"ter\n2', "b": [1, "1"], "c": repr('hun"ter\n2')})

    assert json.loads(text) == {"a": "is ***", "b": [1, "***"], "c": "'***'"}


def test_jsonb_takes_everything(conn: psycopg.Connection[Any]) -> None:
    letters = "".join(map(chr, [*range(0x100), *range(0xD7F0, 0xE010), 0xFFFF, 0x10FFFF]))
    values = [
        letters,
        {letters: letters},
        nested(5000),
        math.nan,
        1.7e308,
        1 << 12_000,
        "é" * 10**6,
    ]

    for value in values:
        ((stored,),) = conn.execute(
            "select %s::jsonb is not null", [output.dump(value).decode()]
        ).fetchall()

        assert stored
