"""From a trained run to a folder others load: rounded weights, measured as shipped, with card, curve and gate."""

from __future__ import annotations

import dataclasses
import json
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from twoway.data.augment import plain
from twoway.files import fresh_folder, sha256, write_whole

from .base import TRAINING
from .card import plateau, write_card
from .fast import token_losses
from .gate import by_style, measure
from .loop import PROBE_ROWS, read_curve

if TYPE_CHECKING:
    from pathlib import Path

    from .base import Nano

SAMPLES = 512
SHOWN = 3
PACKAGES = ("twoway", "torch", "transformers", "tokenizers")


def finish(
    nano: Nano,
    run: Path,
    samples: Path,
    out: Path,
    *,
    command: str,
    overwrite: bool = False,
    rows: int = SAMPLES,
    longer: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Round to the precision of the result, measure, write `out` whole; return what `training.json` holds."""
    gate = measure_as_saved(nano, rows)
    training = describe(nano, run, samples, gate, rows)
    if longer is not None:
        training["longer"] = longer
    training["command"] = command
    model = nano.forward.model
    with fresh_folder(out, overwrite=overwrite) as folder:
        model.to(getattr(torch, nano.config.saved_dtype)).save_pretrained(folder)
        model.to(torch.float32)
        nano.processor.save_pretrained(folder)
        write_whole(folder / TRAINING, json.dumps(training, indent=1, ensure_ascii=False) + "\n")
        write_whole(folder / "README.md", write_card(training, out.name, command))
    return training


def measure_as_saved(nano: Nano, rows: int) -> dict[str, float]:
    """Round the weights to the precision of the result, for good, and return their gate."""
    dtype = getattr(torch, nano.config.saved_dtype)
    for parameter in nano.forward.model.eval().parameters():
        parameter.data = parameter.data.to(dtype).float()
    return measure(nano.forward, nano.rows, samples=rows, label="gate")


def describe(nano: Nano, run: Path, samples: Path, gate: dict[str, float], rows: int) -> dict[str, Any]:
    """Gather all that the card of a model with this gate says."""
    config, world = nano.config, nano.world
    curve = read_curve(run)
    rates = [entry["rows_per_second"] for entry in curve]
    return {
        "config": dataclasses.asdict(config),
        "origin": config.origin,
        "samples_sha256": {name: sha256(samples / f"{name}.parquet") for name in config.tables},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "parameters": sum(parameter.numel() for parameter in nano.forward.model.parameters()),
        "concepts": len(world.concepts),
        "pictures": sum(map(len, world.trained)),
        "styles": sorted({world.styles[place] for pictures in world.trained for place in pictures}),
        "steps": config.steps,
        "exposures": round(config.rows / len(world.concepts), 1),
        "gflop_per_row": round(work(nano) / config.batch / 1e9, 2),
        "rows_per_second": sorted(rates)[len(rates) // 2] if rates else 0.0,
        "samples": rows,
        "probed": PROBE_ROWS,
        "gate": gate,
        "passed": gate["trained_gap"] >= config.gate_trained and gate.get("unseen_gap", 0.0) >= config.gate_unseen,
        "by_style": by_style(nano.forward, nano.rows, samples=rows // 2),
        "plateau": plateau(curve),
        "said": say(nano),
        "curve": [{key: value for key, value in entry.items() if key != "minutes_left"} for entry in curve],
    }


def work(nano: Nano) -> int:
    """Return the floating-point operations of one step, forward and backward, as torch counts them."""
    batch = nano.rows.batch(0)
    with FlopCounterMode(display=False) as counter:
        losses = token_losses(nano.forward.model, nano.forward.hidden(batch), batch)
        losses.mean().backward()  # type: ignore[no-untyped-call]
    nano.forward.model.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


def say(nano: Nano) -> dict[str, str]:
    """Return the model's greedy words for a few pictures, through the library's own processor and generation."""
    from torchvision.transforms.functional import to_pil_image

    world, processor, model = nano.world, nano.processor, nano.forward.model
    text = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], add_generation_prompt=True, tokenize=False)
    said = {}
    for pictures in (world.trained, world.unseen):
        known = [place for place, shown in enumerate(pictures) if shown]
        for place in known[:: max(1, len(known) // SHOWN)][1 : SHOWN + 1]:
            picture = pictures[place][0]
            pixels = plain(torch.from_numpy(world.pixels[picture][None]), world.pixels.shape[1])[0]
            inputs = processor(text=[text], images=[to_pil_image(pixels)], return_tensors="pt")
            made = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, inputs["input_ids"].shape[1] :]
            words = processor.tokenizer.decode(made, skip_special_tokens=True).strip()
            said[f"{world.concepts[place]['names']['en']} ({world.styles[picture]})"] = words
    return said
