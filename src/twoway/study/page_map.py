"""The claim's map: where a difference shows, over doses and kinds of task, over attention and pooling; and who holds out of domain."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..training.report_intervals import spelled
from ..training.report_page import badge, section, table

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ..training.report_page import Markup
    from .claims import Claim
    from .evidence import Evidence, Interval

_EVEN = ("attention", "pooling", "lr", "from")  # what may differ between the cells of one table
_UNSEEN = "unseen"


def dose_maps(evidence: Evidence, claims: Sequence[Claim]) -> list[str]:
    """Return for each curve a table of doses by kinds of task: against its control, else against its first dose."""
    made = []
    for claim in claims:
        if not claim.curve or not claim.scope:
            continue
        points = dict(claim.curve[0].points)
        control = dict(claim.curve[1].points) if len(claim.curve) > 1 else dict.fromkeys(points, next(iter(points.values())))
        kinds = {"all": claim.scope} | evidence.reading.groups(claim.scope)
        rows: list[list[object]] = []
        for dose, arm in points.items():
            against = control.get(dose)
            there = against is not None and against != arm and all(evidence.reading.arms[one].runs for one in (arm, against))
            cells = [_against(evidence, arm, str(against), scope) if there else "–" for scope in kinds.values()]
            rows.append([dose, *cells])
        what = "the control at the same dose" if len(claim.curve) > 1 else f"the first point, {next(iter(points))}"
        made.append(section(f"Map: {claim.about['says']}", f"Difference to {what}, by kind of task.", table((claim.axis, *kinds), rows)))
    return made


def crossed(evidence: Evidence) -> str:
    """Return attention by pooling, for arms that are alike in all else."""
    reading = evidence.reading
    scope = reading.scope()
    alike: dict[str, dict[tuple[str, str], str]] = {}
    for name, arm in reading.arms.items():
        rest = {key: value for key, value in (arm.about.get("settings") or {}).items() if key not in _EVEN}
        key = json.dumps([arm.source, rest], sort_keys=True)
        if arm.runs:
            alike.setdefault(key, {}).setdefault((str(arm.about.get("attention")), str(arm.about.get("pooling"))), name)
    made = []
    for key, cells in alike.items():
        attentions, poolings = (list(dict.fromkeys(one[at] for one in cells)) for at in (0, 1))
        if len(attentions) < 2 or len(poolings) < 2:
            continue
        rows: list[list[object]] = []
        for attention in attentions:
            found = [cells.get((attention, pooling)) for pooling in poolings]
            rows.append([attention, *(_score(evidence.interval({name: 1.0}, scope)) if name else "–" for name in found)])
        rows.append(["difference", *(_between(evidence, cells, [(one, pooling) for one in attentions[:2]], scope) for pooling in poolings)])
        source = json.loads(key)[0]
        made.append(table((f"attention, from {source}", *poolings), rows))
    said = "Mean over all tasks of arms that differ in nothing else but their rate; the last line is the lower minus the upper attention."
    return section("Map: attention by pooling", said, *made)


def unseen(evidence: Evidence) -> str:
    """Return each arm on what it was tuned for and on what no stage has seen, and what it keeps of it."""
    reading = evidence.reading
    pairs = {kind: _paired(tasks, reading.tasks) for kind, tasks in reading.groups(reading.scope()).items() if kind.startswith(_UNSEEN)}
    pairs = {kind: found for kind, found in pairs.items() if found}
    rows: list[list[object]] = []
    for name, arm in reading.arms.items():
        if arm.runs and pairs:
            made: list[object] = [name]
            for found in pairs.values():
                known, new = (evidence.interval({name: 1.0}, scope) for scope in (tuple(found.values()), tuple(found)))
                made += [_score(known), _score(new), f"{new.value / known.value:.0%}" if known.value > 0 else "–"]
            rows.append(made)
    head = [title for kind in pairs for title in ("known", kind, "kept")]
    said = "The same tasks with pictures as in fine-tuning, and with pictures of a kind that no stage has seen; what is kept is the share."
    return section("Out of domain", said, table(("arm", *head), rows))


def _paired(tasks: Sequence[str], known: Collection[str]) -> dict[str, str]:
    """Return each task's counterpart, by name: that of name-picture-new-style is name-picture."""
    found = {}
    for task in tasks:
        others = [one for one in known if one not in tasks and task.startswith(f"{one}-")]
        if others:
            found[task] = max(others, key=len)
    return found


def _against(evidence: Evidence, arm: str, other: str, scope: Sequence[str]) -> object:
    if not evidence.any_above_chance((arm, other), scope):
        return "at chance"
    return cell(evidence.interval({arm: 1.0, other: -1.0}, scope))


def cell(found: Interval) -> Markup:
    """Return a difference; one whose interval leaves zero out is coloured."""
    kind = "yes" if found.low > 0 else "no" if found.high < 0 else "dull"
    return badge(spelled(found.value, found.low, found.high), kind)


def _score(found: Interval) -> str:
    return spelled(found.value, found.low, found.high, signed=False)


def _between(evidence: Evidence, cells: dict[tuple[str, str], str], keys: Sequence[tuple[str, str]], scope: Sequence[str]) -> object:
    upper, lower = (cells.get(key) for key in keys)
    return cell(evidence.interval({lower: 1.0, upper: -1.0}, scope)) if upper and lower else "–"
