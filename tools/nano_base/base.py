"""From the samples to a grounded base model, read top to bottom."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from twoway.errors import UsageError
from twoway.files import sha256, write_whole
from twoway.training.precision import choose_dtype

from .batches import Rows
from .checkpoint import saved_step
from .loop import change_length, train
from .model import build, family_of
from .table import World, load_world
from .tokenizer import train_tokenizer
from .tower import train_tower

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .config import NanoConfig
    from .library import Forward
    from .smollm2 import SmolNano

logger = logging.getLogger(__name__)
TRAINING = "training.json"


@dataclass(frozen=True)
class Nano:
    """One prepared run: its world, model, processor, rows and forward."""

    config: NanoConfig
    world: World
    processor: Any
    rows: Rows
    forward: Forward


def _own(config: NanoConfig, world: World) -> tuple[Any, Any]:
    """Return a model and a processor that are new altogether; the tokenizer is learned from the world."""
    return build(config, train_tokenizer(world.corpus(), config.vocabulary, family_of(config.family).tokens))


def _smollm2(config: SmolNano, world: World) -> tuple[Any, Any]:
    """Return a model whose text part is SmolLM2, and its processor."""
    from . import smollm2

    return smollm2.build(config)


# what the text part is made of
LANGUAGE_MODELS: dict[str, Callable[[Any, World], tuple[Any, Any]]] = {"own": _own, "smollm2": _smollm2}


def prepare(config: NanoConfig, samples: Path) -> Nano:
    """Read the world, build and initialise the model: the same for the same config and samples."""
    config = _settled(config)
    world = load_world(samples, config)
    model, processor = LANGUAGE_MODELS[config.lm](config, world)
    rows = Rows(world, processor.tokenizer, picture_tokens(processor, model.config.image_token_id), config)
    return Nano(config, world, processor, rows, family_of(config.family).forward(model, processor, dtype=config.dtype))


def picture_tokens(processor: Any, image_token: int) -> Callable[[int], tuple[list[int], int]]:
    """Return what gives the ids of a square picture as the processor itself writes them, and how many come before its first own token.

    The line break that ends a message is not among them: more of the message may come.
    """
    from PIL import Image

    known: dict[int, tuple[list[int], int]] = {}

    def ids_of(side: int) -> tuple[list[int], int]:
        if side not in known:
            message = [{"role": "user", "content": [{"type": "image"}]}]
            text = processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False).removesuffix("\n")
            ids = processor(text=[text], images=[Image.new("RGB", (side, side))])["input_ids"][0]
            ids = [int(token) for token in ids]
            known[side] = ids, ids.index(image_token)
        return known[side]

    return ids_of


def check_plan(run: Path, config: NanoConfig, samples: Path) -> None:
    """Fix the plan in the run's folder at the start; a later start with another plan or other samples is refused.

    Another number of rows is no other plan where the rate is, or was, still constant: the run goes on from there.
    """
    hashes = {name: sha256(samples / f"{name}.parquet") for name in config.tables}
    plan = json.loads(json.dumps({"config": dataclasses.asdict(config), "samples": hashes}))
    path = run / "plan.json"
    if not path.is_file():
        run.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(plan, indent=1) + "\n")
        return
    before = json.loads(path.read_text())
    begun = dataclasses.replace(config, rows=before["config"]["rows"])
    if config.rows != begun.rows and plan == {**before, "config": before["config"] | {"rows": config.rows}}:
        change_length(run, begun, config)
        write_whole(path, json.dumps(plan, indent=1) + "\n")
        return
    for part, values in plan.items():
        changed = [name for name in {**values, **before[part]} if values.get(name) != before[part].get(name)]
        if changed:
            what = f"{part} {changed[0]} was {before[part].get(changed[0])!r} and is now {values.get(changed[0])!r}"
            raise UsageError(f"{run} holds an unfinished run with another plan ({what}); finish it as it was, or remove that folder")


def _settled(config: NanoConfig, run: Path | None = None) -> NanoConfig:
    """Return a configuration with its type chosen: the one that the run in a folder began in, or what this machine is fast in."""
    if config.dtype != "auto":
        return config
    plan = run / "plan.json" if run is not None else None
    begun = json.loads(plan.read_text())["config"]["dtype"] if plan is not None and plan.is_file() else None
    here = choose_dtype(torch.device("cpu"))
    logger.info("computing in %s (%s is faster here: %s)", begun or here.dtype, here.dtype, here.why)
    return dataclasses.replace(config, dtype=begun or here.dtype)


def train_base(config: NanoConfig, samples: Path, run: Path, *, seen: Callable[[dict[str, Any]], None] | None = None) -> Nano:
    """Train, or go on training, in the folder `run`; return the run with the trained model."""
    config = _settled(config, run)
    check_plan(run, config, samples)
    nano = prepare(config, samples)
    logger.info("%d concepts, %d pictures, %d texts", len(nano.world.concepts), len(nano.world.styles), len(nano.world.texts))
    if config.tower_rows and not saved_step(run):
        train_tower(nano, run, seen=seen)
    train(nano.forward, nano.rows, config, run, seen=seen)
    return nano


def make_base(
    out: Path,
    config: NanoConfig,
    samples: Path,
    *,
    command: str,
    overwrite: bool = False,
    plateau: bool = False,
    seen: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train to the end of the plan, measure, and write `out`; return what its `training.json` holds.

    The unfinished run lies beside `out` in `OUT.run`; the same call goes on with it. With `plateau`, a longer branch of the run is trained,
    too, and what it gains is said.
    """
    from .finish import finish
    from .longer import train_longer

    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists already; choose another folder, or pass --overwrite to replace it")
    if plateau and not config.decay_start:
        raise UsageError(f"--plateau lengthens the part before the rate falls; ask for more --rows than the last {config.decay_rows:,}")
    run = out.with_name(f"{out.name}.run")
    nano = train_base(config, samples, run, seen=seen)
    longer = train_longer(nano.config, samples, run, seen=seen) if plateau else None
    return finish(nano, run, samples, out, command=command, overwrite=overwrite, longer=longer)
