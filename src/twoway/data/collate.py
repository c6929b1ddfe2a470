"""Rows become a batch as the processor itself would make one: tokens padded, pixels one behind the other."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn import functional

from ..errors import TwowayError
from .corrupt import NO_TARGET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from .corrupt import Corrupted


def collate(rows: Sequence[Corrupted], *, pad_token: int, padding_side: Literal["left", "right"] = "right") -> dict[str, Any]:
    """Return `inputs` (what the model is called with), `labels`, `patch_mask`, `patch_targets`, `identities` and `counts`."""
    if not rows:
        raise TwowayError("a batch needs at least one row")
    longest = max(len(row.labels) for row in rows)

    def padded(tensors: list[Tensor], value: float | bool) -> Tensor:
        return torch.stack([_pad(tensor, longest, value, padding_side) for tensor in tensors])

    inputs = model_inputs([row.inputs for row in rows], pad_token=pad_token, padding_side=padding_side)
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row.counts)
    counts.update({"rows": len(rows), "padding": longest * len(rows) - sum(len(row.labels) for row in rows)})
    return {
        "inputs": inputs,
        "labels": padded([row.labels for row in rows], NO_TARGET),
        "patch_mask": padded([row.patch_mask for row in rows], False),
        "patch_targets": torch.cat([row.patch_targets for row in rows]),
        "identities": [row.identity for row in rows],
        "counts": dict(counts),
    }


def model_inputs(rows: Sequence[Mapping[str, Tensor]], *, pad_token: int, padding_side: Literal["left", "right"]) -> dict[str, Tensor]:
    """Put the inputs of rows together: what has one entry a token is padded, anything else goes one behind the other."""
    lengths = [len(row["input_ids"]) for row in rows]
    longest = max(lengths)

    def padded(tensors: list[Tensor], value: float) -> Tensor:
        return torch.stack([_pad(tensor, longest, value, padding_side) for tensor in tensors])

    inputs = {"attention_mask": padded([torch.ones(length, dtype=torch.long) for length in lengths], 0)}
    for name in dict.fromkeys(name for row in rows for name in row):
        if all(name in row and row[name].shape == row["input_ids"].shape for row in rows):
            inputs[name] = padded([row[name] for row in rows], pad_token if name == "input_ids" else 0)
        else:
            inputs[name] = _behind([row[name] for row in rows if name in row])
    return inputs


def _pad(tensor: Tensor, length: int, value: float | bool, side: str) -> Tensor:
    missing = length - len(tensor)
    return functional.pad(tensor, (0, missing) if side == "right" else (missing, 0), value=value)


def _behind(tensors: list[Tensor]) -> Tensor:
    """Put tensors one behind the other; the dimensions behind the first are brought to one size with zeros (numbers of tiles differ)."""
    size = [max(tensor.shape[axis] for tensor in tensors) for axis in range(1, tensors[0].dim())]
    full = []
    for tensor in tensors:
        missing = [want - have for want, have in zip(size, tensor.shape[1:], strict=True)]
        full.append(functional.pad(tensor, [amount for gap in reversed(missing) for amount in (0, gap)]) if any(missing) else tensor)
    return torch.cat(full)
