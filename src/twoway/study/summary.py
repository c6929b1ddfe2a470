"""What a study says of itself, for programs and for the report: `study.json`, `study.yaml` and `gate.json`, written anew after each job."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import yaml

from twoway.config import dump
from twoway.files import write_whole
from twoway.stages.records import read_record
from twoway.stages.surroundings import surroundings

from . import gate
from .grid import LOGS, base_of
from .rates import tried
from .reading import rows_read
from .workers import log_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from twoway.stages.records import Record

    from .config import Study
    from .grid import Grid, Run, Task

FILE, YAML = "study.json", "study.yaml"


@dataclass(frozen=True)
class Facts:
    """How the study's own process goes."""

    state: str
    jobs: int
    verdict: gate.Verdict
    failed: Mapping[str, str]  # key of a task -> why
    claims: tuple[int, ...] = ()  # those that were asked for, where not all were


def write(study: Study, grid: Grid, out: Path, facts: Facts) -> None:
    """Write all that is known now."""
    records = {key: read_record(task.folder) for key, task in grid.tasks.items()}
    scores = tried(grid)
    now = surroundings()
    words = [str(study.file), str(out), *study.words, *_asked(facts.claims)]
    causes = {key: cause for key in grid.tasks if (cause := _cause(key, grid, records, facts.failed))}
    whole = {
        "study": study.name,
        "file": str(study.file),
        "command": shlex.join(["twoway", "study", *words]),
        "state": facts.state,
        "base": study.base,
        "seeds": list(study.seeds),
        "suite": getattr(study.evaluate, "suite", None),
        "tasks": list(getattr(study.evaluate, "tasks", ())),
        "smallest": study.smallest,
        "surroundings": now,
        "jobs_at_once": facts.jobs,
        "seconds": round(sum(record.seconds for record in records.values() if record), 1),
        "stages": {one.recipe.name: _stage(one.recipe.name, grid, records) for one in study.before},
        "arms": {arm.name: _arm(arm.name, study, grid, records, causes, scores, out) for arm in study.arms},
        "claims": [asdict(claim) for claim in study.claims],
        "jobs": [_job(task, records[key], facts.failed.get(key), out) for key, task in grid.tasks.items()],
    }
    files = {
        YAML: f"# {whole['command']}\n{resolved(study)}",
        gate.FILE: json.dumps(facts.verdict.as_json(), indent=1, ensure_ascii=False) + "\n",
        FILE: json.dumps(whole, indent=1, ensure_ascii=False, default=str) + "\n",
    }
    for name, text in files.items():
        if not (out / name).exists() or (out / name).read_text(encoding="utf-8") != text:
            write_whole(out / name, text)


def _asked(claims: Collection[int]) -> list[str]:
    return ["--claims", ",".join(str(one) for one in sorted(set(claims)))] if claims else []


def resolved(study: Study) -> str:
    """Return the study with every setting written out."""
    stages = {
        one.recipe.name: {"stage": one.recipe.kind.name, "from": one.recipe.source, "seeds": list(one.seeds)}
        | {key: value for key, value in yaml.safe_load(dump(one.recipe.config)).items() if key != "seed"}
        for one in study.before
    }
    arms = {}
    for arm in study.arms:
        said = {key: value for key, value in yaml.safe_load(dump(arm.recipe.config)).items() if key != "seed"}
        if arm.search is not None:
            usual = {one.name: one.default for one in fields(arm.search)}
            said["lr"] = {key: value for key, value in yaml.safe_load(dump(arm.search)).items() if value != usual[key] and value != []}
        arms[arm.name] = {"from": arm.recipe.source, **said}
    said = {
        "base": study.base,
        "seeds": list(study.seeds),
        "stages": stages,
        "evaluate": yaml.safe_load(dump(study.evaluate)),
        "arms": arms,
        "gate": yaml.safe_load(dump(study.gate)),
        "smallest": study.smallest,
        "claims": [
            {key: value for key, value in yaml.safe_load(dump(claim)).items() if value not in (None, "", [], {})} for claim in study.claims
        ],
    }
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=120)


def _stage(name: str, grid: Grid, records: Mapping[str, Record | None]) -> dict[str, Any]:
    keys = grid.named.get(name, ())
    if not keys:
        return {"state": "new"}
    task, found = grid.tasks[keys[0]], [records[key] for key in keys]
    states = [record.state if record else "new" for record in found]
    return {
        "stage": task.job.kind.name,
        "from": base_of(task),
        "rows": rows_read(task.job.config),
        "seconds": round(sum(record.seconds for record in found if record) / len(found), 1),
        "state": "done" if set(states) == {"done"} else next(state for state in states if state != "done"),
        "seeds": [getattr(grid.tasks[key].job.config, "seed", None) for key in keys],
        "settings": _told(task),
        "figures": dict(found[0].figures) if found[0] else {},
    }


def _cause(key: str, grid: Grid, records: Mapping[str, Record | None], failed: Mapping[str, str]) -> str:
    """Say which job has failed that a task needs, be it itself."""
    open_ends = [key]
    while open_ends:
        one = open_ends.pop()
        record, title = records[one], grid.tasks[one].title
        if why := failed.get(one) or (record.error if record is not None and record.state == "failed" else None):
            return f"{title} failed: {why}"
        open_ends += grid.tasks[one].needs
    return ""


def _waits(name: str, study: Study, grid: Grid, causes: Mapping[str, str], tries: Mapping[str, Mapping[float, float | None]]) -> str | None:
    """Say why an arm has no runs yet: its rate is not known, maybe because a try has failed, or none gave a number."""
    if name not in grid.waiting:
        return None
    search = study.arm(name).search
    of = name if search is None or search.like is None else search.like
    why = next((causes[key] for key in grid.trials.get(of, {}).values() if key in causes), "")
    if not why and None not in tries.get(of, {}).values():
        why = "with none of those that were tried is the score on held-out rows a number"
    return f"{'its learning rate' if of == name else f'the learning rate of {of}'} is not known{f': {why}' if why else ' yet'}"


def _arm(
    name: str,
    study: Study,
    grid: Grid,
    records: Mapping[str, Record | None],
    causes: Mapping[str, str],
    tries: Mapping[str, Mapping[float, float | None]],
    out: Path,
) -> dict[str, Any]:
    arm, scores = study.arm(name), tries.get(name)
    runs = [one for one in grid.runs if one.arm == name]
    task = grid.tasks[runs[0].finetune] if runs else None
    config = arm.recipe.config if task is None else task.job.config
    chain = [grid.tasks[key] for key in grid.chains.get(name, ())]
    rows = [rows_read(one.job.config) for one in chain]
    return {
        "from": arm.recipe.source,
        "attention": getattr(config, "attention", None),
        "pooling": getattr(config, "pooling", None) or "mean",
        "lr": getattr(config, "lr", None) if arm.search is None or task is not None else None,
        "rates": None if not scores else {f"{rate:g}": score for rate, score in scores.items()},
        "rows": rows_read(config),
        "settings": {} if task is None else _told(task),
        "before": {
            "stages": [one.job.name for one in chain],
            "rows": sum(one for one in rows if one),
            "seconds": round(sum(record.seconds for one in chain if (record := records[one.key])), 1),
        },
        "waits": _waits(name, study, grid, causes, tries),
        "runs": [_run(one, records, causes, out) for one in runs],
    }


def _run(one: Run, records: Mapping[str, Record | None], causes: Mapping[str, str], out: Path) -> dict[str, Any]:
    both = {name: records[key] for name, key in (("finetune", one.finetune), ("evaluate", one.evaluate))}
    last = both["evaluate"] or both["finetune"]
    state = "done" if one.results.exists() else "new" if last is None else "begun" if last.state == "done" else last.state
    return {
        "seed": one.seed,
        "stage_seeds": one.stage_seeds,
        "file": str(one.results.relative_to(out)),
        "state": state,
        "seconds": {name: record.seconds for name, record in both.items() if record},
        "error": (last.error if last else None) or (None if state == "done" else causes.get(one.evaluate)),
    }


def _told(task: Task) -> dict[str, Any]:
    """Return the settings of a stage that are not its defaults."""
    usual = yaml.safe_load(dump(task.job.kind.config()))
    said = {key: value for key, value in yaml.safe_load(dump(task.job.config)).items() if value != usual.get(key)}
    return {key: value for key, value in said.items() if key not in task.job.kind.free}


def _job(task: Task, record: Record | None, failed: str | None, out: Path) -> dict[str, Any]:
    log = log_of(out / LOGS, task)
    return {
        "name": task.title,
        "kind": task.job.kind.name,
        "state": "failed" if failed else record.state if record else "new",
        "rows": rows_read(task.job.config),
        "seconds": record.seconds if record else 0.0,
        "error": failed or (record.error if record else None),
        "log": str(log.relative_to(out)) if log.exists() else None,
        "folder": str(task.folder.relative_to(out)),
    }
