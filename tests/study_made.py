"""A study's folder in which the truth is known: scores of items with planted differences between arms."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twoway.evaluation.metrics import Outcome, chance, value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SIZE = 200  # candidates of an item
TASKS = {"picture-name": ("retrieval", "known style"), "name-picture": ("retrieval", "unseen style"), "page": ("documents", "known style")}
PASSED = {"passed": True, "base": {"gap": 1.9, "least": 0.5}, "smoke": {"arm": "a", "score": 0.2, "chance": 0.03, "times": 4}, "why": ""}

SEARCH = {"numbers_per_item": 256.0, "compare_seconds_per_query": 0.0025}

# What a study says of itself, but for its arms, stages and claims.
USUAL = {
    "study": "made",
    "file": "studies/made.yaml",
    "command": "twoway study studies/made.yaml out",
    "state": "done",
    "base": "samples/base",
    "suite": "nano",
    "tasks": list(TASKS),
    "surroundings": {
        "versions": {"twoway": "0.1.0", "torch": "2.8"},
        "git": {"commit": "0" * 40, "dirty": False},
        "machine": {"system": "Linux", "cores": 2, "device": "cpu", "threads": 1, "ranks": 1},
    },
    "jobs_at_once": 2,
    "seconds": 5400.0,
    "jobs": [],
}


def made(
    out: Path,
    levels: Mapping[str, float],
    claims: Sequence[Mapping[str, Any]],
    *,
    items: int = 400,
    seeds: Sequence[int] = (1, 2, 3),
    luck: float = 0.003,
    draw: int = 0,
    sources: Mapping[str, str] | None = None,
    stage_seeds: Sequence[int] = (),
    stage_luck: float = 0.0,
    gate: Mapping[str, Any] | None = None,
    failed: Sequence[str] = (),
) -> Path:
    """Write a study: an arm's score is its level, moved by each seed's luck; items are as hard for every arm.

    `sources` names the stage that an arm starts from; each such stage with each of `stage_seeds` has a luck of its own.
    """
    random = np.random.default_rng(draw)
    hard = {task: random.normal(0.0, 0.1, items) for task in TASKS}
    sources = sources or {}
    befores = {(name, seed): random.normal(0.0, stage_luck) for name in sorted(set(sources.values())) for seed in stage_seeds or (0,)}
    arms: dict[str, Any] = {}
    for arm, level in levels.items():
        source = sources.get(arm)
        runs = []
        for before in (stage_seeds or (0,)) if source else (None,):
            for seed in seeds:
                name = f"seed-{seed}" if before is None or not stage_seeds else f"seed-{before}-{seed}"
                run = {"seed": seed, "stage_seeds": {source: before} if source else {}, "file": f"results/{arm}/{name}.json"}
                if arm in failed:
                    runs.append(run | {"state": "failed", "seconds": {}, "error": "the loss is not a number at step 3"})
                    continue
                at = level + random.normal(0.0, luck) + (befores[source, before] if source else 0.0)
                _write(out / run["file"], {task: at + hard[task] + random.normal(0.0, 0.08, items) for task in TASKS})
                runs.append(run | {"state": "done", "seconds": {"finetune": 60.0, "evaluate": 20.0}, "search": SEARCH, "error": None})
        arms[arm] = _arm(arm, source, runs)
    stages = {
        name: {"stage": "pretrain", "from": "base", "rows": 24000, "seconds": 900.0, "state": "done"} for name in set(sources.values())
    }
    about = {"seeds": list(seeds), "stages": stages, "arms": arms, "claims": list(claims)}
    (out / "study.json").write_text(json.dumps(USUAL | about))
    if gate is None or gate:
        (out / "gate.json").write_text(json.dumps(gate or PASSED))
    return out


def _arm(name: str, source: str | None, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a study says of an arm; its name tells attention and pooling."""
    return {
        "from": source or "base",
        "attention": "causal" if "causal" in name else "two-way",
        "pooling": "last" if "last" in name else "mean",
        "learning_rate": 0.0006,
        "rows": 7680,
        "rates": {"0.0002": 0.31, "0.0006": 0.35},
        "settings": {},
        "before": {"rows": 24000 if source else 0, "seconds": 900.0 if source else 0.0},
        "runs": runs,
    }


def _write(path: Path, scores: Mapping[str, np.ndarray]) -> None:
    """Write results as an evaluation does. A place is drawn so that one over it is near the wanted score."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tasks, rows = {}, []
    for task, wanted in scores.items():
        places = np.clip(np.round(1 / np.clip(wanted, 1 / SIZE, 1.0)), 1, SIZE).astype(int)
        luck = chance("mrr", [SIZE] * len(places), [1] * len(places), draws=50)
        group, mark = TASKS[task]
        tasks[task] = {
            "metric": "mrr",
            "score": float((1 / places).mean()),
            "n": len(places),
            "chance": luck.mean,
            "chance95": [luck.low, luck.high],
            "group": group,
            "marks": [mark],
            "also": {"recall@1": value("recall@1", Outcome((int(places[0]),), SIZE, tied=False, found=()))},
        }
        rows += [
            {"task": task, "item": f"{task}-{number}", "places": [int(place)], "size": SIZE, "tied": False, "about": [f"{task}-{number}"]}
            for number, place in enumerate(places)
        ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    path.with_name(f"{path.stem}.items.parquet").write_bytes(buffer.getvalue())
    path.write_text(
        json.dumps({"suite": "nano", "tasks": tasks, "groups": {}, "mean": 0.0, "baselines": {"random": dict.fromkeys(tasks, 0.03)}})
    )
