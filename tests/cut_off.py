"""A training run that ends in the middle, as Ctrl-C ends it, and what it may not change."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from twoway.training.checkpointing import Checkpoints

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def cut_off(step: int, *, saved: bool = False) -> Iterator[None]:
    """End the run where it comes to save this step, before that or after."""
    save = Checkpoints.save

    def cut(self: Checkpoints, at: int, *rest: object) -> None:
        if at == step and not saved:
            raise KeyboardInterrupt
        save(self, at, *rest)
        if at == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Checkpoints, "save", cut)
        yield


def same_bits(one: Path, other: Path) -> None:
    """Hold that two files have the same weights."""
    left, right = load_file(one), load_file(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left), one.name
