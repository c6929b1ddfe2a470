"""What is rented: accelerators by name, with the peak and memory of their data sheets and a price that is an assumption.

Peaks are those of dense products in bfloat16, which `dtype: auto` means on all of these, and in float32 (SXM boards; no sparsity, no TF32).
Memory is what torch sees of it. Prices move, and differ threefold between vendors: those of a100, h100 and h200 lie within what was posted
for on-demand hours in May 2026, that of b200 is a guess; say your own with --price.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from twoway.errors import UsageError, did_you_mean

PRICES_OF = "May 2026"
_NAME = re.compile(r"([a-z0-9]+?)(?:x(\d+))?")
_COUNT_FIRST = re.compile(r"^(\d+)x(\w+)$")
_GIB = 2**30


@dataclass(frozen=True)
class Hardware:
    """So many accelerators of one kind, one rank each."""

    name: str
    peak: float  # operations a second, dense bfloat16
    single: float  # the same in float32
    memory: float  # bytes
    price: float  # of one for an hour, in dollars
    count: int = 1

    def rate(self, dtype: str) -> float:
        """Return the peak in the type that a stage computes in."""
        return self.single if dtype == "float32" else self.peak

    def __str__(self) -> str:
        return f"{self.name}x{self.count}"


KNOWN = {
    one.name: one
    for one in (
        Hardware("a100", 312e12, 19.5e12, 79 * _GIB, 1.50),
        Hardware("h100", 989e12, 67e12, 79 * _GIB, 3.00),
        Hardware("h200", 989e12, 67e12, 139 * _GIB, 4.00),
        Hardware("b200", 2250e12, 75e12, 178 * _GIB, 6.00),
    )
}


def hardware(said: str, price: float | None = None) -> Hardware:
    """Read NAMExCOUNT or COUNTxNAME, as in h200x8 and 8xh200; one accelerator where no count stands."""
    word = _COUNT_FIRST.sub(r"\2x\1", said.strip().lower())
    match = _NAME.fullmatch(word)
    name, count = (match[1], int(match[2] or 1)) if match else (said, 1)
    if name not in KNOWN:
        raise UsageError(
            f"--hardware {said}: there is no {name!r}{did_you_mean(name, KNOWN)} (there are: {', '.join(KNOWN)}; h200x8 is eight)"
        )
    if count < 1:
        raise UsageError(f"--hardware {said}: at least one is needed")
    if price is not None and price < 0:
        raise UsageError(f"--price is 0 or more, not {price}")
    return replace(KNOWN[name], count=count, price=KNOWN[name].price if price is None else price)
