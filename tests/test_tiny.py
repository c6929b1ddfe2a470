"""The tiny models are what the tests take them for: whole, small, and the same every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file

from tiny import FAMILIES, TEXT_FAMILIES, build

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("family", [*FAMILIES, *TEXT_FAMILIES])
def test_a_model_is_the_same_every_time(family: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    first, second = (load_file(folder / "model.safetensors") for folder in (tiny_model(family), build(family, tmp_path)))
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)
    assert sum(value.numel() for value in first.values()) < 200_000
