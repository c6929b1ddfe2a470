"""A filter is read as it is written, or refused in one line with the place and the name that was meant; nothing else gets through."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twoway.errors import UsageError
from twoway.search.filters import LONGEST, Comparison, Group, parse
from twoway.search.lance_filter import sql
from twoway.search.milvus_filter import expression

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
    assert sql(parse(text, FIELDS)) == condition


def test_a_negation_is_carried_down_to_keys_that_are_there():
    said = expression(parse("not (year > 1 or shelf = 'a')", FIELDS))
    assert said == '((exists $meta["year"]) and $meta["year"] <= 1) and ((exists $meta["shelf"]) and $meta["shelf"] != "a")'
    assert expression(parse("not not year > 1", FIELDS)) == expression(parse("year > 1", FIELDS))


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
        ("not " * 60 + "sold", "nested more than 50 deep"),
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


@given(filters)
def test_any_filter_survives_being_written_and_read(one):
    assert parse(sql(one), FIELDS) == one


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_refused(text):
    with contextlib.suppress(UsageError):
        assert isinstance(parse(text, FIELDS), Comparison | Group)
