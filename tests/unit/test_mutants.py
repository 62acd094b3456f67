"""The generator of mutants: which changes it makes of a text, and that their ids last."""

from __future__ import annotations

import pytest

from tests.mutants.generate import FILES, Mutant, edits, generate, lex, of_file


def changed(body: str) -> dict[str, list[str]]:
    """Return each rule's results for a body, blanks made single."""
    tokens = lex(body)
    made: dict[str, list[str]] = {}
    for e in edits(body, tokens):
        text = body[: tokens[e.first].start] + e.new + body[tokens[e.last].end :]
        made.setdefault(e.rule, []).append(" ".join(text.split()))
    return made


def function(body: str, name: str = "f") -> str:
    return (
        f"create or replace function ordinaut.{name}(p_at timestamptz)\nreturns void\n"
        f"language plpgsql\nas $fn$\n{body}\n$fn$;\n"
    )


def test_each_conjunct_is_removed_and_negated():
    assert changed("delete from t where a = 1 and b < 2;") == {
        "removed": [
            "delete from t where true and b < 2;",
            "delete from t where a = 1 and true;",
        ],
        "negated": [
            "delete from t where not (a = 1) and b < 2;",
            "delete from t where a = 1 and not (b < 2);",
        ],
    }


def test_a_disjunct_is_removed_by_false_also_inside_brackets():
    made = changed("select 1 from t where x and (e is null or e <= n);")

    assert made["removed"] == [
        "select 1 from t where true and (e is null or e <= n);",
        "select 1 from t where x and true;",
        "select 1 from t where x and (false or e <= n);",
        "select 1 from t where x and (e is null or false);",
    ]


def test_the_and_of_between_joins_nothing():
    assert changed("select 1 from t where a between 1 and 2 and b;")["removed"] == [
        "select 1 from t where true and b;",
        "select 1 from t where a between 1 and 2 and true;",
    ]


def test_a_condition_ends_where_its_clause_does():
    made = changed("for r in select 1 from t join u on u.a = t.a where x order by 1 loop end loop;")

    assert made["removed"] == [
        "for r in select 1 from t join u on true where x order by 1 loop end loop;",
        "for r in select 1 from t join u on u.a = t.a where true order by 1 loop end loop;",
    ]


def test_an_if_never_happens_or_is_negated():
    assert changed("begin if a and b then return; end if; end") == {
        "never": ["begin if false then return; end if; end"],
        "removed": [
            "begin if true and b then return; end if; end",
            "begin if a and true then return; end if; end",
        ],
        "negated": [
            "begin if not (a and b) then return; end if; end",
            "begin if not (a) and b then return; end if; end",
            "begin if a and not (b) then return; end if; end",
        ],
    }


def test_a_case_is_a_bracket_and_has_conditions_of_its_own():
    made = changed("select 1 from t where a >= case when b is null then c and d else e end and f;")

    assert made["never"] == [
        "select 1 from t where a >= case when false then c and d else e end and f;"
    ]
    assert made["removed"][0] == "select 1 from t where true and f;"


@pytest.mark.parametrize(
    "body", ["case a when 'x' then b; end case;", "exception when others then"]
)
def test_what_is_no_condition_is_left_alone(body):
    assert changed(f"begin {body} end") == {}


def test_exit_and_continue_are_conditions():
    assert changed("loop exit when not found; end loop;") == {
        "never": ["loop exit when false; end loop;"],
        "negated": ["loop exit when not (not found); end loop;"],
    }


def test_locks_are_removed_whole_and_made_to_wait():
    assert changed("select 1 from t order by a for no key update skip locked;") == {
        "skip locked removed": ["select 1 from t order by a for no key update ;"],
        "lock removed": ["select 1 from t order by a ;"],
    }


def test_on_conflict_is_removed_and_its_where_too():
    made = changed(
        "insert into t values (1) on conflict on constraint k do update set a = 1 where b;"
    )

    assert made["on conflict removed"] == ["insert into t values (1) ;"]
    assert made["removed"] == [
        "insert into t values (1) on conflict on constraint k do update set a = 1 where true;"
    ]


def test_other_comparisons_are_flipped_and_assignments_are_not():
    made = changed("update t set a = b >= 1, c = d where true; perform f(p => x = 'y');")

    assert made["flipped"] == [
        "update t set a = b < 1, c = d where true; perform f(p => x = 'y');",
        "update t set a = b >= 1, c = d where true; perform f(p => x <> 'y');",
    ]


def test_comments_and_strings_say_nothing():
    assert changed("begin -- where a = b\n perform 'if a = ''b'' then'; /* where c */ end") == {}


def test_ids_last_when_lines_move_and_other_places_change():
    body = "begin\n  delete from t where a = 1;\n  delete from u where b = 2;\nend"
    moved = "begin\n\n -- why\n  delete from t where a = 1;\n  delete from u where b = 3;\nend"

    before = of_file("x", function(body))
    after = of_file("x", "-- more\n" + function("begin\nend", "g") + function(moved))

    assert [m.id for m in before[:2]] == [m.id for m in after[:2]]
    assert before[0].line != after[0].line
    assert before[2].id != after[2].id


def test_places_that_look_alike_have_ids_of_their_own():
    found = of_file("x", function("begin delete from t where a; delete from t where a; end"))

    assert len({m.id for m in found}) == len(found) == 4


def test_a_mutant_is_the_statement_that_makes_its_function():
    [removed, _] = of_file("x", "select 1;\n" + function("begin delete from t where a; end"))

    assert removed.sql == function("begin delete from t where true; end").rstrip("\n")


@pytest.fixture(scope="module")
def all_of_them() -> list[Mutant]:
    return generate()


def test_every_guard_of_the_engine_is_mutated(all_of_them):
    places = {m.id.rpartition(":")[0] for m in all_of_them}

    assert {p.partition(":")[0] for p in places} == set(FILES)
    assert {"lease:_lease", "settle:_settle", "exchange:exchange", "worker:heartbeat"} <= places
    assert {"worker:_dissolve", "reap:reap", "tick:tick", "fire:_fire"} <= places
    assert len({m.id for m in all_of_them}) == len(all_of_them)


def test_a_prefix_chooses(all_of_them):
    chosen = generate("lease:_lease:")

    assert chosen == [m for m in all_of_them if m.id.startswith("lease:_lease:")]
    assert [m.edit for m in chosen if m.edit.startswith("skip")] == [
        "skip locked removed: skip locked"
    ]
