"""What a whole run leaves in its folder: `recipe.yaml` with every setting, `run.json` for programs, and `report.html` on one page.

`recipe.yaml` is a recipe again: it gives the same jobs, with nothing left to defaults.
"""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any

import yaml

from twoway.config import dump
from twoway.files import write_whole
from twoway.training.report_page import folded, page, section, table, tiles
from twoway.training.report_parts import REPORT

from .records import read_record
from .steps import SUMMARY
from .surroundings import surroundings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .recipe import Recipe
    from .records import Record
    from .steps import Step

RECIPE = "recipe.yaml"
# Key figures of training stages that a reader looks for first; others come behind them.
_FIRST = ("steps", "loss", "rows_per_second", "memory_mb")
_MOST = 12


def duration(seconds: float) -> str:
    """Say a time as people do."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def write_summary(recipe: Recipe, steps: Sequence[Step], out: Path, command: str, nproc: int) -> None:
    """Write what is known of the run now; called before the first stage and after each."""
    records = [read_record(step.folder) for step in steps]
    resolved = resolve(recipe)
    write_whole(out / RECIPE, f"# {command}\n{resolved}")
    now = surroundings(nproc)
    stages = [_entry(step, record) for step, record in zip(steps, records, strict=True)]
    seconds = round(sum(record.seconds for record in records if record), 2)
    done = all(entry["state"] == "done" for entry in stages)
    seeds = {step.job.name: step.job.config.seed for step in steps if hasattr(step.job.config, "seed")}
    summary = {"recipe": recipe.name, "command": command, "base": recipe.base, "done": done, "seconds": seconds, "seeds": seeds}
    write_whole(out / SUMMARY, json.dumps(summary | {"stages": stages} | now, indent=2, ensure_ascii=False) + "\n")
    under = f"{command}; {'done' if done else 'not done yet'}, {duration(seconds)} of work"
    write_whole(out / REPORT, page(f"{recipe.name} · {out.resolve().name}", under, _body(steps, records, now, resolved)))


def resolve(recipe: Recipe) -> str:
    """Return the recipe with every setting written out."""
    stages = {}
    for stage in recipe.stages:
        own = {"stage": stage.kind.name, "from": stage.source, "folder": stage.folder}
        stages[stage.name] = own | yaml.safe_load(dump(stage.config))
    return yaml.safe_dump({"base": recipe.base, "stages": stages}, sort_keys=False, allow_unicode=True, width=120)


def _entry(step: Step, record: Record | None) -> dict[str, Any]:
    job = step.job
    about: dict[str, Any] = {"name": job.name, "stage": job.kind.name, "from": job.source, "folder": job.folder}
    if record is None:
        return about | {"fingerprint": job.fingerprint, "state": "to do"}
    kept = {name: getattr(record, name) for name in ("fingerprint", "state", "seconds", "calls", "figures", "error", "surroundings")}
    # A stage that stands there and was made of something else is not this run's.
    return about | kept | ({"wanted": job.fingerprint} if job.fingerprint != record.fingerprint else {})


def _body(steps: Sequence[Step], records: Sequence[Record | None], now: dict[str, Any], resolved: str) -> list[str]:
    done = sum(record is not None and record.state == "done" for record in records)
    seconds = sum(record.seconds for record in records if record)
    last = next((record for record in reversed(records) if record and record.state == "done"), None)
    numbers = [(f"{done} of {len(steps)}", "stages done"), (duration(seconds), "of work, over all calls")]
    numbers += [(_number(value), f"{key}, at the end of the last stage done") for key, value in _figures(last)[:3]] if last else []
    git = now["git"] or {}
    facts = [
        *now["versions"].items(),
        *now["machine"].items(),
        ("commit", git.get("commit", "not in git")),
        ("dirty", git.get("dirty", "")),
    ]
    return [
        tiles(numbers),
        *(_stage(step, record) for step, record in zip(steps, records, strict=True)),
        section("Provenance", "What made this run, and what it can be made again with.", table(("what", "value"), facts)),
        folded("The recipe with every setting", resolved),
    ]


def _stage(step: Step, record: Record | None) -> str:
    """Return the section of one stage: how it stands, its key figures, and the way to its own report."""
    job = step.job
    state = "to do" if record is None else record.state
    where = f"{job.kind.name}, from {job.source}, in {job.folder}: {state}"
    if record is not None:
        where += f", {duration(record.seconds)} in {record.calls} call{'s' if record.calls != 1 else ''}"
        where += f". {record.error}" if record.error else ""
    figures = table(("figure", "value"), [(key, _number(value)) for key, value in _figures(record)[:_MOST]]) if record else ""
    report = job.kind.report
    link = f'<p><a href="{escape(job.folder)}/{escape(report)}">The report of this stage</a></p>' if _is_there(step) and report else ""
    return section(job.name, where, figures, link, " ")


def _is_there(step: Step) -> bool:
    return step.job.kind.report is not None and (step.folder / step.job.kind.report).exists()


def _figures(record: Record) -> list[tuple[str, Any]]:
    """Return a stage's key figures, the usual ones first, without counts of single steps."""
    known = {key: value for key, value in record.figures.items() if not key.endswith(("_targets", "_error", "_rows"))}
    first = [(key, known[key]) for key in _FIRST if key in known]
    return first + [(key, value) for key, value in known.items() if key not in _FIRST]


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if isinstance(value, float) else str(value)
