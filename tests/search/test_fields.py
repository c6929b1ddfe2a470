"""Metadata become fields: each name its own, and any number of names in time."""

from __future__ import annotations

import time

import pytest

from twoway.errors import UsageError
from twoway.search.store import RESERVED, field_name, field_types


def test_a_name_that_an_item_has_by_itself_is_changed():
    assert all(field_name(name) not in RESERVED for name in RESERVED)


def test_two_names_that_would_be_one_field_are_refused():
    with pytest.raises(UsageError, match=r"the metadata 'a\.b' and 'a:b' would both be the field 'a_b'"):
        field_types([{"a.b": 1}, {"a:b": 2}])


def test_many_names_take_no_longer_than_their_number():
    start = time.process_time()
    assert len(field_types([{f"n{number}": number for number in range(30_000)}])) == 30_000
    assert time.process_time() - start < 2
