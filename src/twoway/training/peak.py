"""What the machine can do at most: the rate of one large matrix product in the type that training computes in."""

from __future__ import annotations

import time
from functools import cache

import torch

_SIDE = {"cpu": 1024}
_ELSEWHERE, _ROUNDS = 8192, 4


@cache
def peak(device: torch.device, dtype: str) -> float:
    """Return operations a second, of the best of a few products; measured once, in a fraction of a second."""
    side, best = _SIDE.get(device.type, _ELSEWHERE), float("inf")
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    left = torch.linspace(-1, 1, side * side, device=device).view(side, side).to(kind)
    for _ in range(_ROUNDS):
        _wait(device)
        start = time.perf_counter()
        left @ left
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()
