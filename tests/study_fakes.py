"""Stages that write a file instead of training, for studies whose jobs run in processes of their own: everything is a module's own."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.config import Field, settings
from twoway.data.config import PairSource, SourceConfig
from twoway.errors import TwowayError
from twoway.evaluation.config import EvaluateConfig
from twoway.recipes.stages import StageKind
from twoway.study.grid import LookConfig

if TYPE_CHECKING:
    from twoway.study.run import StudyResult

CALLS = "calls.log"  # beside the model: a line for each stage that began, with its first step


@settings
class ShapeConfig:
    seed: int = 0
    per_device_train_batch_size: int | None = None
    batches_per_step: int | None = None
    max_steps: int = 2
    slow: float = 0.0  # seconds of a step
    fail: bool = False
    data: tuple[SourceConfig, ...] = ()


@settings
class JoinConfig:
    models: tuple[str, ...] = Field(default=(), metavar="MODEL")


@settings
class TuneConfig:
    seed: int = 0
    learning_rate: float = 1.0
    global_batch_size: int = 2
    max_steps: int = 2
    attention: str = "two-way"
    pooling: str | None = None
    held_out: int = 0
    data: tuple[PairSource, ...] = ()
    eval_data: tuple[PairSource, ...] = ()
    eval_rows: int = 256
    eval_steps: int = 0
    load_best_model_at_end: bool = False
    slow: float = 0.0
    fail: bool = False


def _steps(base: str, out: Path, config: Any) -> None:
    """Work step by step, and go on where an earlier call broke off; every model knows where calls are noted."""
    out.mkdir(parents=True, exist_ok=True)
    home = Path(base) / "home"
    notes = Path(home.read_text()) if home.exists() else Path(base)
    (out / "home").write_text(str(notes))
    so_far = out / "steps"
    begin = int(so_far.read_text()) if so_far.exists() else 0
    with (notes / CALLS).open("a") as calls:
        calls.write(f"{out.name.rpartition('-')[0]} {config.seed} {begin}\n")
    for step in range(begin, config.max_steps):
        time.sleep(config.slow)
        if config.fail and step == config.max_steps - 1:
            raise TwowayError("the data is bad in row 7")
        so_far.write_text(str(step + 1))
    (out / "made.json").write_text(json.dumps(asdict(config), default=str))


def shape(base: str, out: Path, config: ShapeConfig, _nproc: int) -> dict[str, Any]:
    _steps(base, out, config)
    return {"steps": config.max_steps}


def tune(base: str, out: Path, config: TuneConfig, _nproc: int) -> dict[str, Any]:
    _steps(base, out, config)
    return {"steps": config.max_steps, "mrr/held-out": 1 / (1 + abs(config.learning_rate - 3.0))}  # 3 is the best rate


def score(base: str, out: Path, config: EvaluateConfig, _nproc: int) -> dict[str, Any]:
    made = json.loads((Path(base) / "made.json").read_text())
    out.mkdir(parents=True, exist_ok=True)
    entry = {"score": 0.5 if made["learning_rate"] < 100 else 0.01, "chance": 0.01, "metric": "mrr", "n": 3}
    (out / "results.items.parquet").write_bytes(b"items")
    judge = None if config.rerank is None else json.loads((Path(config.rerank) / "made.json").read_text())
    (out / "results.json").write_text(json.dumps({"tasks": {"one": entry}, "mean": entry["score"], "made": made, "judge": judge}))
    return {"mean": entry["score"], "numbers_per_item": 8.0, "compare_seconds_per_query": 0.002}


def look(base: str, out: Path, config: LookConfig, _nproc: int) -> dict[str, float]:
    out.mkdir(parents=True, exist_ok=True)
    (out / "gate.json").write_text("{}")
    return {"gap": float((Path(base) / "gap").read_text())}


def join(base: str, out: Path, config: JoinConfig, _nproc: int) -> dict[str, Any]:
    """Write down what is merged: the seed and the rate of each."""
    out.mkdir(parents=True, exist_ok=True)
    parts = [json.loads((Path(one) / "made.json").read_text()) for one in (base, *config.models)]
    (out / "made.json").write_text(json.dumps({"learning_rate": 1.0, "parts": [[one["seed"], one["learning_rate"]] for one in parts]}))
    return {}


KINDS = {
    "shape": StageKind("shape", ShapeConfig, shape, marker="made.json"),
    "finetune": StageKind("finetune", TuneConfig, tune, marker="made.json"),
    "merge": StageKind("merge", JoinConfig, join, marker="made.json"),
    "evaluate": StageKind("evaluate", EvaluateConfig, score, marker="results.json", makes_model=False, free=frozenset({"cache_dir"})),
    "gate": StageKind("gate", LookConfig, look, marker="gate.json", makes_model=False),
}


def write(folder: Path, *, gap: float = 1.0, **changes: Any) -> Path:
    """Write a study of two arms, two seeds and a stage that both share; its base holds a model, as far as a hash can tell."""
    base, rows = folder / "base", folder / "rows.jsonl"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text("{}")
    (base / "gap").write_text(str(gap))
    rows.write_text('{"text": "a row"}\n')
    whole = {
        "base": str(base),
        "seeds": [1, 2],
        "stages": {"first": {"stage": "shape", "per_device_train_batch_size": 4, "rows": 8}},
        "finetune": {"from": "first", "rows": 4},
        "arms": {"causal": {"attention": "causal", "pooling": "last"}, "two-way": {}},
        "gate": {"data": [{"spec": str(rows)}]},
        "claims": [{"key": "pays", "claim": 1, "says": "two-way is better", "better": "two-way", "than": "causal"}],
    }
    path = folder / "study.yaml"
    path.write_text(json.dumps(whole | changes))  # JSON is YAML, and has no aliases
    return path


def calls(folder: Path) -> list[str]:
    """Return what began, in order: stage, seed, first step."""
    path = folder / "base" / CALLS
    return path.read_text().splitlines() if path.exists() else []


def do(path: Path, out: Path, **options: Any) -> StudyResult:
    """Do a study of these stages."""
    from twoway.study.run import run_grid  # not in its workers, which import this module

    return run_grid(path, out, kinds=KINDS, **options)


def facts(out: Path) -> Any:
    """Return what a study says of itself."""
    return json.loads((out / "study.json").read_text())


def began(folder: Path) -> Counter[str]:
    """Return how often each stage began."""
    return Counter(line.split()[0] for line in calls(folder))
