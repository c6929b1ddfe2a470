"""The learning rate as a pure function of the step, so that a resumed run needs no state for it."""

from __future__ import annotations


def rate(step: int, total: int, peak: float, warmup: float) -> float:
    """Return the rate of step `step` of `total`: up in a line for the share `warmup`, then down in a line towards zero.

    The first step has a rate above zero, and so has the last: a step at rate zero is work for nothing.
    """
    rising = round(total * warmup)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * (total - step) / max(1, total - rising)
