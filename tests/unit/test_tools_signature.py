"""A typed signature is an input schema: what fits is converted, what does not is named."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict
from uuid import UUID

import jsonschema
import pydantic
import pytest

from ordinaut.tools.errors import ToolFailed, classify
from ordinaut.tools.registry import Context
from ordinaut.tools.signature import Signature

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTheChecker


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Leaf:
    at: datetime
    children: list[Leaf] = dataclasses.field(default_factory=list)


class Movie(TypedDict, total=False):
    name: str


class Account(pydantic.BaseModel):
    id: int
    tags: list[str] = []


ID = "0190b3a4-0000-7000-8000-000000000001"
NOON = "2025-06-01T12:00:00Z"
AT_NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hint", "given", "got"),
    [
        (str, "a", "a"),
        (int, 1, 1),
        (int, 2.0, 2),
        (float, 1, 1.0),
        (bool, True, True),
        (Any, {"x": [1]}, {"x": [1]}),
        (object, 5, 5),
        (list, [1, "a"], [1, "a"]),
        (list[int], [1, 2], [1, 2]),
        (Sequence[UUID], [ID], [UUID(ID)]),
        (dict, {"a": 1}, {"a": 1}),
        (dict[str, date], {"a": "2025-06-01"}, {"a": date(2025, 6, 1)}),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[int, ...], [1, 2], (1, 2)),
        (set[str], ["a", "b"], {"a", "b"}),
        (str | None, None, None),
        (datetime | None, NOON, AT_NOON),
        (date | str, "soon", "soon"),
        (list[int] | int, [3], [3]),
        (Literal["a", 2], 2, 2),
        (Annotated[int, "about"], 4, 4),
        (Colour, "red", Colour.RED),
        (datetime, NOON, AT_NOON),
        (UUID, ID, UUID(ID)),
        (timedelta, 90, timedelta(seconds=90)),
        (Decimal, "1.10", Decimal("1.10")),
        (Path, "/tmp", Path("/tmp")),
        (Leaf, {"at": NOON, "children": [{"at": NOON}]}, Leaf(AT_NOON, [Leaf(AT_NOON)])),
        (Movie, {"name": "x"}, {"name": "x"}),
        (Account, {"id": 1}, Account(id=1)),
        (list[Account], [{"id": 1}], [Account(id=1)]),
    ],
)
def test_what_fits_is_given_as_the_annotation_says(hint: Any, given: Any, got: Any) -> None:
    def tool(x: Any) -> None: ...

    tool.__annotations__["x"] = hint
    signature = Signature(tool)

    assert signature.bind({"x": given}) == {"x": got}
    jsonschema.Draft202012Validator.check_schema(signature.schema)
    jsonschema.validate({"x": given}, signature.schema)


@pytest.mark.parametrize(
    ("hint", "given"),
    [
        (str, 1),
        (int, "1"),
        (int, True),
        (int, 1.5),
        (float, None),
        (bool, 1),
        (list[int], ["a"]),
        (dict, []),
        (tuple[int, str], [1]),
        (int | None, "a"),
        (Literal["a"], "b"),
        (Colour, "blue"),
        (datetime, "noon"),
        (datetime | None, "noon"),
        (UUID, "x"),
        (timedelta, 1e300),
        (Decimal, "ten"),
        (Leaf, {}),
        (Leaf, {"at": NOON, "more": 1}),
        (Leaf, {"at": NOON, "children": [{"at": 5}]}),
        (Account, {"id": "x"}),
    ],
)
def test_what_does_not_fit_is_a_validation_error_that_names_the_field(
    hint: Any, given: Any
) -> None:
    def tool(x: Any) -> None: ...

    tool.__annotations__["x"] = hint

    with pytest.raises(ToolFailed, match=r"^x\b") as caught:
        Signature(tool).bind({"x": given})

    assert classify(caught.value) == ("validation", "E2002", False)


def several(name: str, count: int = 1, *, context: Context, flag: bool | None = None) -> None: ...


def test_defaults_are_optional_and_nothing_else_is_taken() -> None:
    signature = Signature(several)

    assert signature.context == "context"
    assert signature.schema == {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "count": {"type": "integer"},
            "flag": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        },
        "required": ["name"],
        "additionalProperties": False,
    }
    assert signature.bind({"name": "n", "flag": True}) == {"name": "n", "flag": True}


@pytest.mark.parametrize(
    ("payload", "code", "says"),
    [
        ({}, "E2003", "name: missing"),
        ({"name": "n", "colour": 1}, "E2002", "colour: the tool takes no such argument"),
        ({"name": "n", "context": {}}, "E2002", "context: "),
        (["n"], "E2001", "must be an object"),
    ],
)
def test_the_set_of_fields_is_checked(payload: Any, code: str, says: str) -> None:
    with pytest.raises(ToolFailed, match=says) as caught:
        Signature(several).bind(payload)

    assert classify(caught.value).code == code


def untyped(a, b=2, **rest): ...  # type: ignore[no-untyped-def]


def test_an_untyped_function_takes_anything_by_name_and_more_with_kwargs() -> None:
    assert Signature(untyped).bind({"a": [1], "z": None}) == {"a": [1], "z": None}

    with pytest.raises(ToolFailed, match="a: missing"):
        Signature(untyped).bind({"b": 1})


def test_the_context_is_found_by_type_name_or_annotation_text() -> None:
    def by_type(me: Context) -> None: ...
    def by_name(context) -> None: ...  # type: ignore[no-untyped-def]
    def optional(me: Context | None = None) -> None: ...
    def by_text(me: Context, x: OnlyForTheChecker) -> None: ...

    names = [Signature(tool).context for tool in (by_type, by_name, optional, by_text)]

    assert names == ["me", "context", "me", "me"]


def test_a_parameter_that_has_no_name_to_be_given_by_is_refused() -> None:
    def tool(x: int, /) -> None: ...

    with pytest.raises(TypeError, match="only be given by position"):
        Signature(tool)
