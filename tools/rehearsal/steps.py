"""A step of each stage of each full-size recipe, through the program itself, and a table of what the model reads."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.content import Document, Pair
from twoway.data.mixture import open_mixture, open_pairs
from twoway.data.patches import PatchGeometry
from twoway.data.processing import Encoder
from twoway.errors import TwowayError
from twoway.models import processor as models_processor
from twoway.models.loading import load_config
from twoway.models.processor import load_processor
from twoway.recipes.recipe import StageRecipe, read_recipe

from .contents import PAGES, PHOTOS, Contents
from .models import SMALL, build
from .rows import World

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


HOME = Path(__file__).parents[2]
# Each full-size recipe with the family of its stand-in: those of Qwen2.5-VL's sizes have its own, and Qwen3-VL reads the 7B model's.
RECIPES = {
    "moca-3b": "qwen2_5_vl",
    "moca-7b": "qwen3_vl",
    "two-way-no-pretraining": "qwen2_5_vl",
    "causal-plus-continued-pretraining": "qwen3_vl",
    "cocoa-2b": "qwen2_5_vl",
    "vlm2vec-2b": "qwen2_5_vl",
    "mme5-like": "qwen3_vl",
}
# What a step on two cores can hold; everything else is the recipe's. Rows are two, and pairs; nothing is measured beside the step, and
# no work is counted ahead of it.
LESS: dict[str, Any] = {
    "max_steps": 1, "batches_per_step": 1, "dataloader_num_workers": 1, "budget": 2_400, "per_device_train_batch_size": 2,
    "global_batch_size": 2, "small_tasks": "keep", "dtype": "float32",
    "device": "cpu", "parallel": "ddp", "gradient_checkpointing": "false", "held_out": 0, "calibrate": "none", "on_bad": "fail",
}  # fmt: skip
# Where all weights train: the embeddings, which are three quarters of a model of one layer, do not, since AdamW's states of them and their
# copy in a checkpoint alone are 6 GB. Adapters leave them as they are anyway.
FROZEN = {"train_layers": 1}


@dataclass
class Source:
    """What a model reads of one source: counts over all of its rows (of pairs, over all sides)."""

    stage: str
    name: str
    rows: int = 0
    documents: int = 0
    pictures: int = 0
    least: int = 1 << 30
    most: int = 0
    picture_tokens: int = 0
    cut: int = 0
    lost_pictures: int = 0

    def add(self, tokens: int, images: int, pictures: int, *, cut: bool, lost: int) -> None:
        """Count one document."""
        self.documents += 1
        self.pictures += pictures
        self.least, self.most = min(self.least, tokens), max(self.most, tokens)
        self.picture_tokens += images
        self.cut += cut
        self.lost_pictures += lost


def rehearse(out: Path, recipes: Sequence[str]) -> int:
    """Rehearse these recipes and write `report.md`."""
    began = time.monotonic()
    out = out.resolve()
    world = World(out / "world", Contents(HOME / "samples"))
    lines, known = [f"On {_machine()}.", ""], dict[str, Source]()
    for name in recipes:
        family, path = RECIPES[name], HOME / "recipes" / f"{name}.yaml"
        model = build(family, SMALL[family], _place(out, family))
        stages = read_recipe(path, [f"base={model}"]).stages
        for stage in stages:
            world.make(stage.config.data)
        os.chdir(world.folder)
        took = _run(path, model, out / "runs" / name, stages)
        began_reading = time.process_time()
        table = [*_table(_read(model, stages, known))]
        said = f"A step of each stage: {took}. All rows, read: {time.process_time() - began_reading:.0f} s of a processor."
        lines += [f"## {name}, on a {family}", "", said, "", *table, ""]
        _write(out / "report.md", lines)
    lines += ["## Pictures", "", *_grids(out)]
    used = time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    lines += ["", f"In all {time.monotonic() - began:.0f} s, {used:.0f} s of a processor."]
    _write(out / "report.md", lines)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _write(path: Path, lines: Sequence[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _place(out: Path, family: str) -> Path:
    return out / "models" / f"{family}-{SMALL[family].label}"


def _run(recipe: Path, model: Path, out: Path, stages: Sequence[StageRecipe]) -> str:
    """Run a recipe whole; every stage ends with a model, and no row is bad. Return what it took."""
    shutil.rmtree(out, ignore_errors=True)
    words = [f"{stage.name}.{key}={value}" for stage in stages for key, value in _less(stage).items()]
    command = [sys.executable, "-m", "twoway", "run", str(recipe), str(out), f"base={model}", *words]
    began = time.monotonic()
    child = subprocess.Popen(command, cwd=Path.cwd())  # noqa: S603
    _, status, used = os.wait4(child.pid, 0)  # as `wait`, and says what it took
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise TwowayError(f"{recipe.name} ended with {child.returncode}: {' '.join(command[2:])}")
    for stage in stages:
        folder = out / stage.folder
        if not (folder / stage.kind.marker).exists():
            raise TwowayError(f"{recipe.name}: {stage.name} left no {stage.kind.marker}")
        bad = folder / "bad-rows.jsonl"
        if bad.exists() and bad.read_text():
            raise TwowayError(f"{recipe.name}: {stage.name} dropped rows, see {bad}")
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for stage in stages:  # only what is looked at stays: weights of many runs fill a disk
        for file in (out / stage.folder).rglob("*.safetensors"):
            file.unlink()
    memory = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    return f"{time.monotonic() - began:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of a processor, at most {memory:.1f} GB"


def _less(stage: StageRecipe) -> dict[str, Any]:
    """Return what is smaller in a stage than in its recipe; fine-tuning's batch is its pairs."""
    lora = getattr(stage.config, "lora", None)
    given = LESS | ({} if lora is not None and lora.r else FROZEN)
    return {
        key: value
        for key, value in given.items()
        if key in stage.kind.keys and (key, stage.kind.name) != ("per_device_train_batch_size", "finetune")
    }


def _read(model: Path, stages: Sequence[StageRecipe], known: dict[str, Source]) -> Iterator[Source]:
    """Encode every row of every source as its stage does; what is `known` of the same model, settings and source is not read again."""
    config = load_config(model)
    for stage in stages:
        given = stage.config
        processor = load_processor(model)
        bounds = {name: getattr(given, name) for name in ("min_pixels", "max_pixels")}
        models_processor.set_pixels(config, processor, **bounds)
        encoder = Encoder(processor, PatchGeometry.of(config, processor), max_length=given.max_length, template=given.template)
        for source in given.data:
            key = str((model.name, stage.kind.name, bounds, given.max_length, given.template, source))
            if key not in known:
                known[key] = _encoded(source, encoder, pairs=stage.kind.name == "finetune")
            yield replace(known[key], stage=stage.name)


def _encoded(source: Any, encoder: Encoder, *, pairs: bool) -> Source:
    """Encode every row of a source."""
    found = Source("", source.label)
    opened = (open_pairs if pairs else open_mixture)([source], folder=Path("copies"))
    found.rows = len(opened)
    for row in range(found.rows):
        for document in _documents(opened.read(row)[1]):
            example = encoder("", document)
            tokens, images = len(example.words), int(example.image_tokens.sum())
            found.add(tokens, images, len(document.images), cut=example.cut, lost=example.images_cut)
    return found


def _documents(row: Any) -> Iterator[Document]:
    """Return the documents of a row: of a pair, both sides and its negatives."""
    yield from (row.query, row.positive, *row.negatives) if isinstance(row, Pair) else (row,)


def _table(sources: Iterator[Source]) -> list[str]:
    head = ("stage", "source", "rows", "documents", "pictures", "tokens, least", "most", "of pictures", "cut", "pictures lost")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * 2}{'---:|' * (len(head) - 2)}"]
    for one in sources:
        total = (one.rows, one.documents, one.pictures, one.least, one.most, one.picture_tokens, one.cut, one.lost_pictures)
        lines.append(f"| {one.stage} | {one.name} | " + " | ".join(f"{number:,}" for number in total) + " |")
    return lines


def _grids(out: Path) -> list[str]:
    """Say how many tokens a picture of each size is, under the family's own bounds and under MoCa's."""
    bounds = {"min_pixels": 200_704, "max_pixels": 802_816}
    columns: list[tuple[str, Any]] = []
    for family in dict.fromkeys(RECIPES.values()):
        model = _place(out, family)
        if not model.exists():
            continue
        for name, given in (("its own", {"min_pixels": None, "max_pixels": None}), ("MoCa's", bounds)):
            processor = load_processor(model)
            models_processor.set_pixels(load_config(model), processor, **given)
            columns.append((f"{family}, {name} bounds", processor))
    lines = [f"| picture | {' | '.join(name for name, _ in columns)} |", f"|---|{'---:|' * len(columns)}"]
    for size in (*PAGES, *PHOTOS):
        counts = [f"{models_processor.see(processor, size).tokens:,}" for _, processor in columns]
        lines.append(f"| {size[0]} x {size[1]} | {' | '.join(counts)} |")
    return lines


def _machine() -> str:
    """Say what machine this is."""
    import torch

    return f"{os.cpu_count()} cores ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()}), torch {torch.__version__}"
