"""Part of a study: the jobs that some claims need, so that a long one can be done claim by claim."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from twoway.errors import UsageError
from twoway.stages.recipe import known_kinds

from .grid import Layout
from .reading import read_study

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from twoway.stages.kinds import Kind

    from .config import Study
    from .grid import Grid


def opened(study: str | Path, out: str | Path, words: Sequence[str], *, jobs: int, kinds: Mapping[str, Kind] | None) -> Layout:
    """Read a study, and return it laid out in the folder `out`. What cannot be done is refused."""
    if jobs < 1:
        raise UsageError(f"--jobs is at least 1, not {jobs}")
    kinds = known_kinds(kinds)
    return Layout(read_study(study, words, kinds=kinds), Path(out), kinds)


def chosen_arms(study: Study, claims: Collection[int]) -> frozenset[str]:
    """Return the arms that claims of these numbers compare, those whose rate they take, and the first arm; all arms for no numbers."""
    known = {claim.claim for claim in study.claims}
    for number in claims:
        if number not in known:
            raise UsageError(f"{study.file} has no claim {number} (it has {', '.join(map(str, sorted(known)))})")
    if not claims:
        return frozenset(arm.name for arm in study.arms)
    compared = {name for claim in study.claims if claim.claim in claims for name in claim.arms()}
    rates = {arm.search.like for arm in study.arms if arm.name in compared and arm.search is not None and arm.search.like}
    return frozenset({study.smoke, *compared, *rates})


def needed(grid: Grid, arms: Collection[str]) -> frozenset[str]:
    """Return the keys of the tasks that arms need, the base's gate among them."""
    open_ends = [grid.gate.key]
    open_ends += [key for run in grid.runs if run.arm in arms for key in (run.finetune, run.evaluate)]
    open_ends += [key for arm, trials in grid.trials.items() if arm in arms for key in trials.values()]
    found: set[str] = set()
    while open_ends:
        key = open_ends.pop()
        if key not in found:
            found.add(key)
            open_ends += grid.tasks[key].needs
    return frozenset(found)
