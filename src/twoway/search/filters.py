"""Filters in one small language for every engine: `year >= 1990 and (shelf = 'A' or title like 'The %') and not draft`.

What a reader of an index may ask is checked here, once, against the fields that the index has, so a typing error is met with the name that
was meant, a number is never compared with a word, and nothing but a comparison ever reaches an engine. A field is a bare name, or stands in
backquotes where it has other signs than letters and digits; a text stands in quotes of either kind. `has` asks for a text as it stands; in
the pattern of `like` a backslash takes the sign behind it (`%`, `_`, another backslash) as it stands.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from twoway.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

Literal = str | int | float | bool
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>-?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?)(?![\w.])|(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")|`(?P<field>[^`]+)`"""
    r"""|(?P<word>[^\W\d]\w*)|(?P<sign><>|[<>!=]=|[<>=(),]))"""
)
_SIGNS = {"=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_WORDS = ("and", "or", "not", "in", "like", "is", "null", "between", "true", "false")
# Which values go with a field; a whole number goes with either kind of number.
_TAKES: Mapping[str, tuple[type, ...]] = {"string": (str,), "integer": (int, float), "number": (int, float), "boolean": (bool,)}
_WILD, _AS_IT_STANDS = re.compile(r"[\\%_]"), r"\\\g<0>"
_LONE = re.compile(r"(?:[^\\]|\\.)*\\", re.DOTALL)
_BRACKETS = 50  # open at a time in the text
DEEPEST = 12  # groups in groups; LanceDB reads 22, and its parser takes exponential time in some that are deeper
LONGEST, _SHOWN = 10_000, 200
_LARGEST = 1 << 63


@dataclass(frozen=True)
class Comparison:
    """One comparison: `=`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `like` or `null` (of which no value is asked); `has` is read as `like`."""

    field: str
    sign: str
    values: tuple[Literal, ...] = ()


@dataclass(frozen=True)
class Group:
    """Filters that hold all together (`and`), one at least (`or`), or, of a single one, not (`not`)."""

    how: str
    parts: tuple[Filter, ...]


Filter = Comparison | Group


def parse(text: str, fields: Mapping[str, str]) -> Filter:
    """Return a filter over these fields, or say in one line what is wrong with it and where.

    What comes out is as deep as its meaning: a `not` stands before comparisons alone, and a group in no other of its own kind.
    """
    if len(text) > LONGEST:
        raise UsageError(f"the filter has {len(text):,} characters; at most {LONGEST:,} are read")
    found = _Reader(text, fields).whole()
    if _depth(found) > DEEPEST:
        raise UsageError(f"filter {text[:40]!r}… has groups in groups more than {DEEPEST} deep; write it flatter")
    return found


def _negated(one: Filter) -> Filter:
    """Return what holds where a filter does not: of two negations nothing is left, and one of a group is carried to its parts.

    That is the same with values that are missing, and engines read brackets behind a `not` far worse than any others.
    """
    if not isinstance(one, Group):
        return Group("not", (one,))
    if one.how == "not":
        return one.parts[0]
    return Group({"and": "or", "or": "and"}[one.how], tuple(map(_negated, one.parts)))


def _joined(how: str, parts: list[Filter]) -> Filter:
    """Return a group with the parts of those in it that are of its kind."""
    flat = [inner for one in parts for inner in (one.parts if isinstance(one, Group) and one.how == how else (one,))]
    return flat[0] if len(flat) == 1 else Group(how, tuple(flat))


def _depth(one: Filter) -> int:
    """Count groups in groups; the text's own bound keeps this from going deep."""
    return 1 + max(map(_depth, one.parts)) if isinstance(one, Group) else 0


class _Reader:
    """One text that is being read."""

    def __init__(self, text: str, fields: Mapping[str, str]) -> None:
        self.text, self.fields = text, fields
        self.shown = repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
        self.tokens = self._split()
        self.next = self.depth = 0

    def whole(self) -> Filter:
        """Read all of it."""
        found = self._any()
        if self._peek() != ("end", ""):
            self._fail("'and' or 'or'")
        return found

    def _split(self) -> list[tuple[str, str, int]]:
        """Return kind, value and place of every token."""
        found, place = [], 0
        while self.text[place:].strip():
            match = _TOKEN.match(self.text, place)
            if match is None:
                rest = self.text[place:].strip()
                what = "the quote is not closed" if rest[0] in "'\"`" else f"{rest[:12]!r} is not understood"
                raise UsageError(f"filter {self.shown}: {what}")
            kind = str(match.lastgroup)
            found.append((kind, match[kind], match.start(kind)))
            place = match.end()
        return found

    def _peek(self) -> tuple[str, str]:
        if self.next >= len(self.tokens):
            return "end", ""
        kind, value, _ = self.tokens[self.next]
        if kind == "word" and value.lower() in _WORDS:
            return "key", value.lower()
        return kind, value

    def _if(self, *wanted: str) -> bool:
        """Pass over these keywords or signs if they come next."""
        for offset, value in enumerate(wanted):
            self.next += offset
            there = self._peek()
            self.next -= offset
            if there not in (("key", value), ("sign", value)):
                return False
        self.next += len(wanted)
        return True

    def _fail(self, wanted: str) -> NoReturn:
        if self.next >= len(self.tokens):
            raise UsageError(f"filter {self.shown} ends where {wanted} is missing")
        _, value, place = self.tokens[self.next]
        raise UsageError(f"filter {self.shown}: {wanted} is missing before {value!r} (character {place + 1})")

    def _any(self) -> Filter:
        parts = [self._all()]
        while self._if("or"):
            parts.append(self._all())
        return _joined("or", parts)

    def _all(self) -> Filter:
        parts = [self._one()]
        while self._if("and"):
            parts.append(self._one())
        return _joined("and", parts)

    def _one(self) -> Filter:
        negated = False
        while self._if("not"):
            negated = not negated
        if self._if("("):
            self.depth += 1
            if self.depth > _BRACKETS:
                raise UsageError(f"filter {self.text[:40]!r}… is nested more than {_BRACKETS} deep")
            found = self._any()
            if not self._if(")"):
                self._fail("')'")
            self.depth -= 1
        else:
            found = self._test()
        return _negated(found) if negated else found

    def _test(self) -> Filter:
        """Read a field and what is asked of it."""
        kind, name = self._peek()
        if kind not in ("word", "field"):
            self._fail("the name of a field")
        self.next += 1
        if name not in self.fields:
            known = ", ".join(self.fields) or "none"
            raise UsageError(f"filter {self.shown}: the index has no field {name!r}{did_you_mean(name, self.fields)} (there are: {known})")
        if self._if("is", "not", "null"):
            return _negated(Comparison(name, "null"))
        if self._if("is", "null"):
            return Comparison(name, "null")
        negated = self._if("not")
        found = self._compared(name)
        if found is None and (negated or self.fields[name] != "boolean"):
            self._fail(f"a comparison of {name}")
        found = found or Comparison(name, "=", (True,))
        return _negated(found) if negated else found

    def _compared(self, name: str) -> Filter | None:
        """Read the comparison; there is none behind a boolean that stands for itself."""
        kind, value = self._peek()
        if kind == "sign" and value in _SIGNS:
            self.next += 1
            return self._compare(name, _SIGNS[value])
        if self._if("like") or (kind, value.lower()) == ("word", "has"):
            return self._alike(name, value.lower())
        if self._if("between"):
            low = self._compare(name, ">=")
            if not self._if("and"):
                self._fail("'and'")
            return Group("and", (low, self._compare(name, "<=")))
        if self._if("in"):
            if not self._if("("):
                self._fail("'('")
            values = [self._value(name)]
            while self._if(","):
                values.append(self._value(name))
            if not self._if(")"):
                self._fail("')'")
            return Comparison(name, "in", tuple(values))
        return None

    def _alike(self, name: str, word: str) -> Comparison:
        """Read a pattern, or a text that is to be found as it stands."""
        self.next += word == "has"  # no keyword, since a field may have that name
        if self.fields[name] != "string":
            raise UsageError(f"filter {self.shown}: {word!r} is for texts, and {name} is {_a(self.fields[name])}")
        said = str(self._value(name))
        if word == "has":
            return Comparison(name, "like", (f"%{_WILD.sub(_AS_IT_STANDS, said)}%",))
        if _LONE.fullmatch(said):
            raise UsageError(
                f"filter {self.shown}: the pattern ends in a backslash, which takes the sign behind it as it stands; write two"
            )
        return Comparison(name, "like", (said,))

    def _compare(self, name: str, sign: str) -> Comparison:
        """Read the value of a comparison; integers are compared with the next whole number, which every engine can: `< 1.5` is `< 2`."""
        if self.fields[name] == "integer" and self._peek()[0] == "number" and sign not in ("=", "!="):
            value = self._value(name, whole=False)
            whole = math.ceil(value) if sign in ("<", ">=") else math.floor(value)  # type: ignore[arg-type]
            return Comparison(name, sign, (whole,))
        return Comparison(name, sign, (self._value(name),))

    def _value(self, name: str, *, whole: bool = True) -> Literal:
        """Read a value that goes with a field."""
        kind, said = self._peek()
        if kind == "number":
            value: Literal = float(said) if re.search(r"[.eE]", said) or len(said) > 20 else int(said)
        elif kind == "text":
            value = said[1:-1].replace(said[0] * 2, said[0])
        elif (kind, said) in (("key", "true"), ("key", "false")):
            value = said == "true"
        else:
            self._fail(f"a value for {name} (a text stands in quotes)")
        self.next += 1
        if type(value) not in _TAKES[self.fields[name]]:
            raise UsageError(f"filter {self.shown}: {name} is {_a(self.fields[name])}, and {said[:_SHOWN]} is not")
        if isinstance(value, float) and value.is_integer() and self.fields[name] == "integer":
            value = int(value)
        if isinstance(value, int | float) and (abs(value) >= _LARGEST if isinstance(value, int) else not math.isfinite(value)):
            raise UsageError(f"filter {self.shown}: {said[:_SHOWN]} is too large a number")
        if whole and isinstance(value, float) and self.fields[name] == "integer":
            raise UsageError(f"filter {self.shown}: {name} is an integer, and none is {said}")
        return value


def _a(kind: str) -> str:
    """Name the type of a field in a sentence."""
    return {"string": "a text", "integer": "an integer", "number": "a number", "boolean": "true or false"}[kind]
