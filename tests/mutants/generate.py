"""
Mutants of the engine: the text of one function, changed in one place.

A guard that no test misses is a guard that the next edit loses.  So each guard is taken away, one
at a time, by these rules, and a test must fail:

    a conjunct of where, on, if, when     removed (true); negated
    a disjunct                            removed (false); negated
    the whole condition of an if          never (false); negated, when it has several parts
    a comparison anywhere else            flipped: = <>, < >=, <= >
    skip locked                           removed: waits
    for update, no key update, key share  removed: locks nothing
    on conflict …                         removed: the duplicate is an error

Negating covers `is null`, `exists` and each comparison alike: `not (x)` is null where x is.
Text in, text out: a lexer and the depth of brackets, no grammar; what is not understood becomes
a mutant that does not load, and is counted as that.

The id of a mutant is file:function:hash, and the hash is of the rule, the words it changes and
the few before them: it stays the same when lines move or other places change.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

SQL = Path(__file__).parents[2] / "sql"
FILES = (
    *("lease", "settle", "settle_calls", "exchange", "worker", "reap", "fire", "tick"),
    *("key", "cancel", "enqueue", "place", "step", "step_settle", "workflow", "run_end"),
)

_FUNCTION = re.compile(
    r"^create or replace function ordinaut\.(\w+)\(.*?\nas (\$\w*\$)\n(.*?)\2;$", re.M | re.S
)
_TOKEN = re.compile(
    r"(?P<skip>\s+|--[^\n]*|/\*.*?\*/)|'(?:[^']|'')*'|\w+"
    r"|->>|->|:=|=>|<=|>=|<>|!=|\|\||::|@>|<@|.",
    re.S,
)
_FLIP = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", "<=": ">", ">": "<="}
_CLAUSE_ENDS = frozenset(
    (
        *("where", "group", "having", "window", "order", "limit", "for", "returning", "union"),
        *("loop", "join", "cross", "left", "inner", "on", "do", ";", ")", "]"),
    )
)
_STATEMENT_STARTS = frozenset(("", ";", "then", "else", "begin", "loop"))
_BEFORE = 5  # words of context in the hash


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    start: int
    end: int
    depth: int  # of brackets, case and begin; an opening and its closing have the outer depth
    inside: str  # what opened it: ( [ case begin, or nothing


@dataclass(frozen=True, slots=True)
class Mutant:
    id: str
    line: int  # in its file
    edit: str  # for people
    sql: str  # create or replace function …


@dataclass(frozen=True, slots=True)
class Edit:
    rule: str
    first: int  # tokens first..last are replaced
    last: int
    new: str


def generate(*only: str) -> list[Mutant]:
    """Return the mutants whose ids begin with one of `only`: a file, file:function, or an id."""
    found = [m for file in FILES for m in of_file(file, (SQL / f"{file}.sql").read_text())]
    return [m for m in found if m.id.startswith(only or "")]


def of_file(file: str, text: str) -> list[Mutant]:
    seen: Counter[str] = Counter()
    found = []
    for function in _FUNCTION.finditer(text):
        body, at = function[3], function.start(3)
        tokens = lex(body)
        for edit in edits(body, tokens):
            first, last = tokens[edit.first], tokens[edit.last]
            old = _words(tokens[edit.first : edit.last + 1])
            before = _words(tokens[max(0, edit.first - _BEFORE) : edit.first])
            key = f"{edit.rule}|{before}|{old}"
            name = f"{file}:{function[1]}:{hashlib.sha256(key.encode()).hexdigest()[:8]}"
            seen[name] += 1
            if seen[name] > 1:
                name += f".{seen[name]}"
            mutated = body[: first.start] + edit.new + body[last.end :]
            found.append(
                Mutant(
                    name,
                    text.count("\n", 0, at + first.start) + 1,
                    f"{edit.rule}: {' '.join(body[first.start : last.end].split())}",
                    text[function.start() : at] + mutated + text[function.end(3) : function.end()],
                )
            )
    return found


def _words(tokens: list[Token]) -> str:
    return " ".join(t.text for t in tokens)


def lex(body: str) -> list[Token]:
    """Split the body of a function into tokens, without blanks and comments."""
    found = [m for m in _TOKEN.finditer(body) if m["skip"] is None]
    words = [m[0] for m in found]
    tokens: list[Token] = []
    opened: list[str] = []
    for i, (m, word) in enumerate(zip(found, words, strict=True)):
        after = words[i + 1] if i + 1 < len(words) else ""
        closes = word in (")", "]") or (word == "end" and after not in ("if", "loop"))
        if closes and opened:
            opened.pop()
        tokens.append(Token(word, m.start(), m.end(), len(opened), opened[-1] if opened else ""))
        ended = i > 0 and words[i - 1] == "end"
        if word in ("(", "[", "begin") or (word == "case" and not ended):
            opened.append(word)
    return tokens


def edits(body: str, tokens: list[Token]) -> Iterator[Edit]:
    """Yield every single change to these tokens."""
    covered: set[int] = set()  # comparisons that negating a part has flipped
    for i, token in enumerate(tokens):
        region = _condition(tokens, i)
        if region is not None:
            for edit in _of_condition(tokens, *region):
                if edit.rule == "negated":
                    source = body[tokens[edit.first].start : tokens[edit.last].end]
                    edit = replace(edit, new=f"not ({source})")
                    depth = tokens[edit.first].depth
                    parts = range(edit.first, edit.last + 1)
                    covered.update(j for j in parts if tokens[j].depth == depth)
                yield edit
        elif token.text == "for" and _at(tokens, i + 1) in ("update", "no", "key", "share"):
            yield from _of_lock(tokens, i)
        elif token.text == "on" and _at(tokens, i + 1) == "conflict":
            last = _end(tokens, i + 1, frozenset((";", ")", "returning")))
            yield Edit("on conflict removed", i, last, "")
    for i, token in enumerate(tokens):
        if token.text in _FLIP and i not in covered and not _assigns(tokens, i):
            yield Edit("flipped", i, i, _FLIP[token.text])


def _at(tokens: list[Token], i: int) -> str:
    return tokens[i].text if 0 <= i < len(tokens) else ""


def _condition(tokens: list[Token], i: int) -> tuple[int, int, bool] | None:
    """Say which tokens the condition that i introduces has, and whether it guards statements."""
    word, before = tokens[i].text, _at(tokens, i - 1)
    if word == "where":
        return i + 1, _end(tokens, i + 1, _CLAUSE_ENDS), False
    if word == "on" and _at(tokens, i + 1) not in ("conflict", "constraint"):
        return i + 1, _end(tokens, i + 1, _CLAUSE_ENDS), False
    if (word == "if" and before in _STATEMENT_STARTS) or word == "elsif":
        return i + 1, _end(tokens, i + 1, frozenset(("then",))), True
    if word == "while":
        return i + 1, _end(tokens, i + 1, frozenset(("loop",))), True
    if word == "when" and before in ("exit", "continue"):
        return i + 1, _end(tokens, i + 1, frozenset((";",))), True
    if word == "when" and tokens[i].inside == "case":
        case = max(j for j in range(i) if tokens[j].depth < tokens[i].depth)
        if _at(tokens, case + 1) == "when":
            return i + 1, _end(tokens, i + 1, frozenset(("then",))), True
    return None


def _end(tokens: list[Token], first: int, ends: frozenset[str]) -> int:
    """Return the last token before one of `ends` at the depth of the first, or before it closes."""
    depth = tokens[first].depth
    for j in range(first, len(tokens)):
        t = tokens[j]
        if t.depth < depth or (t.depth == depth and t.text in ends and j > first):
            # A closing bracket has the depth of its opening: it ends only what is inside it.
            if t.text in (")", "]") and t.depth == depth:
                continue
            return j - 1
    return len(tokens) - 1


def _of_condition(tokens: list[Token], first: int, last: int, stands_alone: bool) -> Iterator[Edit]:
    parts = _split(tokens, first, last)
    if stands_alone:
        yield Edit("never", first, last, "false")
    elif not parts:
        yield Edit("removed", first, last, "true")
    if stands_alone or not parts:
        yield Edit("negated", first, last, "")
    yield from _of_parts(tokens, parts)


def _of_parts(tokens: list[Token], parts: list[tuple[int, int, str]]) -> Iterator[Edit]:
    for first, last, neutral in parts:
        yield Edit("removed", first, last, neutral)
        deeper = _split(tokens, first, last)
        if deeper:
            yield from _of_parts(tokens, deeper)
        else:
            yield Edit("negated", first, last, "")


def _split(tokens: list[Token], first: int, last: int) -> list[tuple[int, int, str]]:
    """Return the parts of a condition joined by or, else by and, with what removes each."""
    depth = tokens[first].depth
    top = [j for j in range(first, last + 1) if tokens[j].depth == depth]
    for word, neutral in (("or", "false"), ("and", "true")):
        cuts = []
        between = False
        for j in top:
            if tokens[j].text == "between":
                between = True
            elif tokens[j].text == "and" and between:
                between = False
            elif tokens[j].text == word:
                cuts.append(j)
        if cuts:
            starts, ends = [first, *(j + 1 for j in cuts)], [*(j - 1 for j in cuts), last]
            return [(a, b, neutral) for a, b in zip(starts, ends, strict=True)]
    opening = first + (tokens[first].text == "not")
    closing = max(top)
    if (
        tokens[opening].text == "("
        and closing == last
        and tokens[last].text == ")"
        and not any(tokens[j].text == ")" for j in top if opening < j < last)
        and _at(tokens, opening + 1) not in ("select", "with", "values")
    ):
        return _split(tokens, opening + 1, last - 1)
    return []


def _of_lock(tokens: list[Token], i: int) -> Iterator[Edit]:
    last = i + 1
    while _at(tokens, last + 1) in ("key", "update", "share"):
        last += 1
    if (_at(tokens, last + 1), _at(tokens, last + 2)) == ("skip", "locked"):
        yield Edit("skip locked removed", last + 1, last + 2, "")
        last += 2
    yield Edit("lock removed", i, last, "")


def _assigns(tokens: list[Token], i: int) -> bool:
    """Say whether this = gives a column of an update, or an error, its value."""
    if tokens[i].text != "=" or tokens[i - 1].inside != tokens[i].inside:
        return False
    if tokens[i - 1].text in ("errcode", "message", "detail", "hint"):
        return True
    for j in range(i - 1, -1, -1):
        t = tokens[j]
        if t.depth < tokens[i].depth:
            return False
        if t.depth == tokens[i].depth and t.text in ("where", "from", "select", ";"):
            return False
        if t.depth == tokens[i].depth and t.text == "set":
            return _at(tokens, i - 2) in ("set", ",")
    return False
