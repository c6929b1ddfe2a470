"""Which type training computes in, and what the machine can do at most in it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeVar

import torch

if TYPE_CHECKING:
    from .config import TrainConfig
    from .distributed import Ranks

# The type that training computes in: `auto` is bfloat16 where the machine is fast in it, and float32 elsewhere.
#
# Weights and optimizer are float32 either way; this is about the products. On CUDA torch knows which cards have
# bfloat16 of their own. Of a CPU nothing tells it reliably: AVX2 alone computes a bfloat16 product at a tenth to a
# hundredth of float32's rate, AVX-512 without its bf16 part gains nothing, and with it, or with AMX, bfloat16 is
# twice to ten times as fast. So a product of a few milliseconds is timed in both, in one thread, once a process.
# bfloat16 must be faster by `MARGIN`, which lies between the processors that have it (2 and more) and those that do
# not (1 and less), so that noise does not decide. Time is that of this thread on a core, which other work changes
# little; where the first rounds are neither clearly faster nor clearly slower, more are taken.
#
# A run keeps the type that it began in (`methods.run.run_method`), and no fingerprint is over the choice.

C = TypeVar("C", bound="TrainConfig")

MARGIN = 1.4
_LOOK, _SIDE, _ROUNDS = 256, 512, 5  # rows of the square matrices, for a first look and to measure
_UNCLEAR, _MOST = (0.5, 2.0), 30  # between these ratios as many rounds again are taken, and how many there are at most
_HOPELESS = 2.0  # so many times as slow at the first look, and nothing more is measured


@dataclass(frozen=True)
class DtypeChoice:
    """The type for `auto`, and why, as a clause."""

    dtype: Literal["float32", "bfloat16"]
    why: str


def choose_dtype(device: torch.device) -> DtypeChoice:
    """Return what `auto` means on a device."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return DtypeChoice("bfloat16", "the device has bfloat16 products of its own")
        return DtypeChoice("float32", "the device has no bfloat16 products of its own")
    if device.type != "cpu":
        return DtypeChoice("float32", f"nothing is known of bfloat16 on {device.type}")
    return _measured()


@cache
def _measured() -> DtypeChoice:
    """Time both types on this CPU."""
    ratio = speed_ratio()
    return DtypeChoice(
        "bfloat16" if ratio >= MARGIN else "float32", f"a bfloat16 product is {ratio:.2g} times as fast as a float32 one here"
    )


def speed_ratio() -> float:
    """Return how many times as fast a bfloat16 product is as one in float32 on a core of this CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of several, some would wait for others
    try:
        first = _ratio(_rounds(_LOOK))
        if first * _HOPELESS < 1:
            return first
        taken = _rounds(_SIDE)
        while len(taken) < _MOST and _UNCLEAR[0] < _ratio(taken) < _UNCLEAR[1]:
            taken += _rounds(_SIDE)
        return _ratio(taken)
    finally:
        torch.set_num_threads(threads)


def _rounds(side: int) -> list[tuple[float, float]]:
    """Return the times of some rounds in both types, in turns; one more goes before, because the first product of a kind also prepares."""
    left = torch.linspace(-1, 1, side * side).view(side, side)
    pair = [(matrix, torch.empty_like(matrix)) for matrix in (left, left.bfloat16())]
    return [(_seconds(*pair[0]), _seconds(*pair[1])) for _ in range(_ROUNDS + 1)][1:]


def _ratio(taken: list[tuple[float, float]]) -> float:
    """Return the ratio by the best of all rounds."""
    return min(one for one, _ in taken) / min(other for _, other in taken)


def _seconds(matrix: torch.Tensor, out: torch.Tensor) -> float:
    """Return the time of a product into memory that is there, so that fetching memory is not in it."""
    start = time.thread_time()
    torch.mm(matrix, matrix, out=out)
    return max(time.thread_time() - start, 1e-9)


def resolve_dtype(config: C, ranks: Ranks) -> C:
    """Return a configuration whose type is chosen: the first rank's choice, for all."""
    if config.dtype != "auto":
        return config
    chosen = ranks.all_gather_object(choose_dtype(ranks.device).dtype if ranks.is_main_process else None)[0]
    return replace(config, dtype=chosen)


# What the machine can do at most: the rate of one large matrix product in the type that training computes in.

_PEAK_SIDE = {"cpu": 1024}
_ELSEWHERE, _PEAK_ROUNDS = 8192, 4


@cache
def peak_rate(device: torch.device, dtype: str) -> float:
    """Return operations a second, of the best of a few products; measured once, in a fraction of a second."""
    side, best = _PEAK_SIDE.get(device.type, _ELSEWHERE), float("inf")
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    left = torch.linspace(-1, 1, side * side, device=device).view(side, side).to(kind)
    for _ in range(_PEAK_ROUNDS):
        _wait(device)
        start = time.perf_counter()
        left @ left
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()
