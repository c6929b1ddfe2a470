"""What tells files apart."""

from __future__ import annotations

import pytest

from twoway.files import contents


@pytest.mark.parametrize("most", [1 << 30, 1 << 18])
def test_files_are_told_apart_by_what_they_hold(tmp_path, most):
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(bytes(1 << 20))
    small.write_bytes(b"x")
    before = contents([large, small], most)
    assert contents([large, small], most) == before
    assert contents([small, large], most) != before
    for change in (0, (1 << 20) - 1):
        changed = bytearray(1 << 20)
        changed[change] = 1
        large.write_bytes(changed)
        assert contents([large, small], most) != before
    large.write_bytes(bytes((1 << 20) + 1))
    assert contents([large, small], most) != before
