"""The public Python: every name is there and listed. That each is typed is checked by mypy (public_types.py)."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import twoway


def test_every_public_name_is_listed_and_there():
    assert dir(twoway) == sorted(twoway.__all__)
    assert all(getattr(twoway, name) is not None for name in twoway.__all__)
    with pytest.raises(AttributeError, match="chekc"):
        twoway.chekc  # noqa: B018


def test_each_is_looked_at_by_the_type_checker():
    checked = (Path(__file__).parent / "public_types.py").read_text()
    assert [name for name in twoway.__all__ if f" = twoway.{name}  #" not in checked] == []


def test_the_settings_of_every_function_are_public_too():
    functions = [getattr(twoway, name) for name in twoway.__all__ if inspect.isfunction(getattr(twoway, name))]
    taken = [inspect.signature(one).parameters.get("config") for one in functions]
    named = {str(one.annotation).partition(" ")[0].rpartition(".")[2] for one in taken if one is not None}
    assert len(named) >= 14
    assert named <= {*twoway.__all__}
