"""A filter in the words of Milvus, where metadata are keys that an item may lack.

SQL lets nothing through that compares a missing value, negated or not, and that is the meaning of our filters. Milvus is not clear there,
so a negation is carried down to the comparisons, and each says that the key must be there.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from .fields import OPEN
from .filters import Group

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .filters import Comparison, Filter, Literal

_ESCAPED = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
_BETWEEN, _ESCAPE = re.compile(r"(%*+)((?:[^%_\\]|\\[^%_])*+)(%*+)", re.DOTALL), re.compile(r"\\(.)", re.DOTALL)
_OPPOSITE = {"=": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def expression(one: Filter, *, negated: bool = False) -> str:
    """Return the expression."""
    if not isinstance(one, Group):
        return _test(one, negated=negated)
    if one.how == "not":
        return expression(one.parts[0], negated=not negated)
    how = one.how if not negated else {"and": "or", "or": "and"}[one.how]
    return f" {how} ".join(f"({expression(part, negated=negated)})" for part in one.parts)


def among(names: Iterable[str]) -> str:
    """Return the expression of items with these ids; the client's own is open to whatever stands in an id."""
    return f"id in [{', '.join(map(literal, names))}]"


def literal(value: Literal) -> str:
    """Return a value as Milvus writes it, which knows fewer escapes than JSON."""
    return f'"{value.translate(_ESCAPED)}"' if isinstance(value, str) else json.dumps(value)


def _test(one: Comparison, *, negated: bool) -> str:
    own = one.field in OPEN
    name = one.field if own else f"$meta[{json.dumps(one.field, ensure_ascii=False)}]"
    there = f'{name} != ""' if own else f"(exists {name})"  # in brackets: older servers take what comes after it as its own
    if one.sign == "null":
        missing = f'{name} == ""' if own else f"not {there}"
        return there if negated else missing
    values = [literal(value) for value in one.values]
    if one.sign == "in" and not own:  # Milvus Lite takes lists for its own columns alone
        sign, how = ("!=", " and ") if negated else ("==", " or ")
        asked = f"({how.join(f'{name} {sign} {value}' for value in values)})"
    elif one.sign == "in":
        asked = f"{name} {'not in' if negated else 'in'} [{', '.join(values)}]"
    elif one.sign == "like":
        alike = _like(name, str(one.values[0]))
        asked = f"not ({alike})" if negated else f"({alike})"
    else:
        asked = f"{name} {_OPPOSITE[one.sign] if negated else {'=': '=='}.get(one.sign, one.sign)} {values[0]}"
    return f"{there} and {asked}"


def _like(name: str, pattern: str) -> str:
    """Return the condition of a pattern.

    Where a text with a backslash stands between nothing but `%`, pyarrow, which Milvus Lite asks, takes its backslashes literally. One sign
    more beside the text, any, or none at all, says the same and is read as it is meant.
    """
    found = _BETWEEN.fullmatch(pattern)
    if found is None or "\\" not in found[2] or not (found[1] or found[3]):
        return f"{name} like {literal(pattern)}"
    text = found[2]
    more = [f"%{text}_%", f"%_{text}"] if found[1] and found[3] else [f"%_{text}"] if found[1] else [f"{text}_%"]
    whole = literal(_ESCAPE.sub(r"\g<1>", text))
    return " or ".join([f"{name} == {whole}", *(f"{name} like {literal(one)}" for one in more)])
