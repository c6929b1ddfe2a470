"""A filter is read as it is written, or refused in one line with the place and the name that was meant; nothing else gets through."""

from __future__ import annotations

import contextlib
import operator
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twoway.errors import UsageError
from twoway.search.filters import LONGEST, Comparison, Group, parse
from twoway.search.lance import to_sql
from twoway.search.milvus import to_expression

FIELDS = {"year": "integer", "price": "number", "shelf": "string", "sold": "boolean", "two words": "string", "and": "string"}


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("year=1990", "`year` = 1990"),
        ("year == -3 OR not price<>1.5e2", "(`year` = -3) OR (NOT (`price` != 150.0))"),
        ("(year > 1 or year < 0) and sold", "((`year` > 1) OR (`year` < 0)) AND (`sold` = TRUE)"),
        ("shelf in ('a', \"b\"\"c\", 'it''s')", "`shelf` IN ('a', 'b\"c', 'it''s')"),
        ("`two words` like '%x%'", "`two words` LIKE '%x%'"),
        ("shelf has '50%_\\' and not `two words` has ''", r"(`shelf` LIKE '%50\%\_\\%') AND (NOT (`two words` LIKE '%%'))"),
        (r"shelf like '%50\%\\'", r"`shelf` LIKE '%50\%\\'"),
        ("`and` = 'x' and year is not null", "(`and` = 'x') AND (NOT (`year` IS NULL))"),
        ("year > 1.5 and year <= -2.5", "(`year` > 1) AND (`year` <= -3)"),
        ("year between 1.5 and 2e3 or year = 3.0", "((`year` >= 2) AND (`year` <= 2000)) OR (`year` = 3)"),
        ("price between 1 and 2 or sold = false", "((`price` >= 1) AND (`price` <= 2)) OR (`sold` = FALSE)"),
    ],
)
def test_what_is_written_is_what_is_asked(text, condition):
    assert to_sql(parse(text, FIELDS)) == condition


def test_a_negation_is_carried_down_to_keys_that_are_there():
    said = to_expression(parse("not (year > 1 or shelf = 'a')", FIELDS))
    assert said == '((exists $meta["year"]) and $meta["year"] <= 1) and ((exists $meta["shelf"]) and $meta["shelf"] != "a")'
    assert to_expression(parse("not not year > 1", FIELDS)) == to_expression(parse("year > 1", FIELDS))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("yaer > 3", r"the index has no field 'yaer'; did you mean year\?"),
        ("year > 'x'", "year is an integer, and 'x' is not"),
        ("year = true", "year is an integer, and true is not"),
        ("shelf = 3", "shelf is a text, and 3 is not"),
        ("price has '1'", "'has' is for texts, and price is a number"),
        ("shelf has", "ends where a value for shelf"),
        ("shelf like 'x\\'", "the pattern ends in a backslash"),
        ("price like '1%'", "'like' is for texts, and price is a number"),
        ("year", "ends where a comparison of year is missing"),
        ("year >", "ends where a value for year"),
        ("year > shelf", "a value for year .* is missing before 'shelf'"),
        ("year > 3 shelf = 'x'", r"'and' or 'or' is missing before 'shelf' \(character 10\)"),
        ("(year > 3", r"ends where '\)' is missing"),
        ("shelf = 'x", "the quote is not closed"),
        ("year > 3; drop table items", "is not understood"),
        ("length(shelf) > 3", "no field 'length'"),
        ("year > 99999999999999999999", "too large a number"),
        ("year = " + "9" * 5000, "too large a number"),
        ("price < 1e400", "too large a number"),
        ("price in (1, -1e400)", "too large a number"),
        ("year = 1.5", "year is an integer, and none is 1.5"),
        ("year in (1, 2.5)", "year is an integer, and none is 2.5"),
        ("(" * 60 + "sold" + ")" * 60, "nested more than 50 deep"),
        ("(" * 5000, "nested more than 50 deep"),
        ("(sold or (year = 1 and " * 7 + "sold" + "))" * 7, "groups in groups more than 12 deep; write it flatter"),
        ("sold or " * LONGEST, "at most 10,000 are read"),
        ("", "ends where the name of a field is missing"),
    ],
)
def test_what_is_wrong_is_said(text, said):
    with pytest.raises(UsageError, match=said) as caught:
        parse(text, FIELDS)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600


def test_a_long_number_takes_no_longer_than_its_length():
    start = time.process_time()
    with pytest.raises(UsageError):
        parse("price = " + "1" * (LONGEST - 20) + "x", FIELDS)
    assert time.process_time() - start < 0.5


values = st.one_of(st.integers(-(2**62), 2**62), st.text())
tests = st.builds(
    lambda value, sign: Comparison("year" if isinstance(value, int) else "shelf", sign, (value,)),
    values,
    st.sampled_from(["=", "!=", "<", ">="]),
)
filters = st.recursive(
    tests,
    lambda inner: st.one_of(
        st.builds(lambda part: Group("not", (part,)), inner),
        st.builds(lambda how, parts: Group(how, tuple(parts)), st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3)),
    ),
    max_leaves=8,
)


def value(one, row):
    """Return whether a filter holds of a row, as SQL has it: True, False, or None where a value is missing."""
    if isinstance(one, Comparison):
        if row[one.field] is None:
            return None
        signs = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, ">=": operator.ge}
        return signs[one.sign](row[one.field], one.values[0])
    parts = [value(part, row) for part in one.parts]
    if one.how == "not":
        return None if parts[0] is None else not parts[0]
    last = one.how == "or"  # what decides, if one part has it
    return last if last in parts else None if None in parts else not last


def depth(one):
    return 1 + max(map(depth, one.parts)) if isinstance(one, Group) else 0


@given(
    filters, st.lists(st.fixed_dictionaries({"year": st.none() | st.integers(-2, 2), "shelf": st.none() | st.text(max_size=1)}), min_size=1)
)
def test_any_filter_is_read_as_it_is_meant_and_no_deeper(one, rows):
    found = parse(to_sql(one), FIELDS)
    assert parse(to_sql(found), FIELDS) == found
    assert [value(found, row) for row in rows] == [value(one, row) for row in rows]
    assert depth(found) <= depth(one) + 1

    def simple(part):
        if isinstance(part, Comparison):
            return True
        inner = [one.how for one in part.parts if isinstance(one, Group)]
        return part.how not in inner and (part.how != "not" or not inner) and all(map(simple, part.parts))

    assert simple(found)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("not " * 2000 + "sold", "`sold` = TRUE"),
        ("not " * 2001 + "sold", "NOT (`sold` = TRUE)"),
        ("(sold and " * 24 + "sold" + ")" * 24, " AND ".join(["(`sold` = TRUE)"] * 25)),
        ("not (" * 49 + "sold" + ")" * 49, "NOT (`sold` = TRUE)"),
        ("not (sold or not (year = 1 and not price = 2))", "(NOT (`sold` = TRUE)) AND (`year` = 1) AND (NOT (`price` = 2))"),
    ],
)
def test_what_says_nothing_is_not_handed_on(text, condition):
    assert to_sql(parse(text, FIELDS)) == condition


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_refused(text):
    with contextlib.suppress(UsageError):
        assert isinstance(parse(text, FIELDS), Comparison | Group)
