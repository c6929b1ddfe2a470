"""How much work a batch is, counted on the model itself: what the share of the machine's peak and the costs of rows are told from.

A few small batches of words and of pictures go through the module, forward and backward, while torch's FlopCounterMode adds up every
product. A line through them, in what is known of a batch without a model, tells the work of any batch: tokens with their padding and their
squares (attention), both once more where the patch decoder reads them, image tokens, and their squares for each picture. What the heads do
for a target is known. Counting
gives the same numbers on every machine, so the same command plans the same batches; `calibrate=time` takes the machine's seconds instead,
which see what counting does not (small products are slow). Either is kept with the run, so that going on plans the same batches.

Activations that are computed twice count once: it is the work that the model needs.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count

from twoway.content import ContentError, Document, Image, Text
from twoway.data.config import CostWeights
from twoway.data.patches import ramp
from twoway.methods.tables import counted_once
from twoway.training.module import to_device
from twoway.training.probes import evaluating

from .step import PATCHES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from twoway.methods.model import PreparedModel
    from twoway.training.module import Batch

    from .config import PretrainConfig
    from .step import Reconstruction

# Words of a text, and pictures by width and height, of the batches that are tried: sizes that most processors give other numbers of tokens.
_SMALL, _LARGE = (96, 64), (160, 160)
_TRIED: tuple[tuple[int, tuple[tuple[int, int], ...]], ...] = (
    (6, ()), (24, ()), (60, ()), (12, (_SMALL,)), (40, (_SMALL,)), (12, (_SMALL,) * 3), (12, (_LARGE,)), (40, (_LARGE,) * 2),
)  # fmt: skip
_ROUNDS, _LONGER, _FACTS = 3, 4, 6
_FUSED = tuple(
    getattr(torch.ops.aten, f"_scaled_dot_product_{name}_backward")
    for name in ("efficient_attention", "flash_attention", "flash_attention_for_cpu", "cudnn_attention")
)


@dataclass(frozen=True)
class BatchWork:
    """What was found of one model: `line` tells the operations of a batch, `cost` what an image token and a picture cost in text tokens."""

    line: tuple[float, ...]
    cost: CostWeights

    def of(self, batch: Batch, module: Reconstruction, image_token: int) -> float:
        """Return the operations of a batch."""
        return float(np.dot(self.line, _facts(batch, image_token))) + _heads(module, batch)


def known_work(
    config: PretrainConfig,
    prepared: PreparedModel[Reconstruction],
    make: Callable[[str, Document], Batch],
    image_token: int,
    folder: Path,
) -> BatchWork:
    """Count, or read what was counted when the run began. `make` turns a document into a masked row's batch."""

    def count(device: torch.device) -> dict[str, Any]:
        by_time = config.calibrate == "time"
        # Products are as many in either type, so a CPU counts in float32, which none is slow in.
        autocast = config.dtype == "bfloat16" and (by_time or device.type != "cpu")
        found = measure_work(prepared.module, make, image_token, device=device, by_time=by_time, autocast=autocast)
        return {"line": found.line, "cost": dataclasses.asdict(found.cost)}

    kept = counted_once(config, prepared, folder, "work", count)
    return BatchWork(tuple(kept["line"]), CostWeights(**kept["cost"]))


def measure_work(
    module: Reconstruction,
    make: Callable[[str, Document], Batch],
    image_token: int,
    *,
    device: torch.device,
    by_time: bool = False,
    autocast: bool = False,
) -> BatchWork:
    """Try a few batches; training notices nothing of it but the place of the weights. Nothing is known where no row is short enough."""
    module.to(device)
    tried = [batch for words, sizes in _TRIED if (batch := _batch(make, words, sizes)) is not None]
    if not tried:
        return BatchWork((0.0,) * _FACTS, CostWeights())
    with evaluating(module), torch.enable_grad(), torch.compiler.set_stance("force_eager"):
        counted = [_count(module, batch, device, autocast=autocast) for batch in tried]
        rest = [one - _heads(module, batch) for one, batch in zip(counted, tried, strict=True)]
        line = _fit([_facts(batch, image_token) for batch in tried], rest)
        if by_time:
            tried = [batch for words, sizes in _TRIED if (batch := _batch(make, _LONGER * words, _LONGER * sizes)) is not None]
            counted = _seconds(module, tried, device, autocast=autocast)
    module.zero_grad(set_to_none=True)
    return BatchWork(tuple(line), _weights(tried, counted, image_token))


def _weights(tried: Sequence[Batch], counted: Sequence[float], image_token: int) -> CostWeights:
    """Return what image tokens and pictures cost besides what every token does; rounded, so that crumbs do not change plans."""
    text, token, picture = _fit([(batch["labels"].numel(), *_pictures(batch, image_token)) for batch in tried], counted)
    if text <= 0:
        return CostWeights()
    return CostWeights(round(1 + max(token / text, 0.0), 2), round(max(picture / text, 0.0), 1))


def _heads(module: Reconstruction, batch: Batch) -> float:
    """Return the operations of the heads: two for each weight and target, forward, back to the states, and to the weight if it trains."""
    counts = module.count_targets(batch)
    head = module.model.get_output_embeddings()
    found = {
        module.word_loss_name: head.weight if head is not None else None,
        PATCHES: module.decoder.to_values.weight if module.decoder else None,
    }
    return sum(counts.get(name, 0) * one.numel() * (4 + 2 * one.requires_grad) for name, one in found.items() if one is not None)


def _facts(batch: Batch, image_token: int) -> list[float]:
    """Return what the work of a batch is a line in."""
    rows, length = batch["labels"].shape
    tokens, read = rows * length, bool(batch["patch_mask"].any())
    images, pictures = _pictures(batch, image_token)
    return [tokens, tokens * length, tokens * read, tokens * length * read, images, images**2 / max(pictures, 1)]


def _pictures(batch: Batch, image_token: int) -> tuple[int, int]:
    """Return how many image tokens a batch has, and how many pictures they are of: stretches of them with something between."""
    shown = batch["inputs"]["input_ids"] == image_token
    begins = shown & ~torch.nn.functional.pad(shown, (1, 0))[:, :-1]
    return int(shown.sum()), int(begins.sum())


def _fit(facts: Any, counted: Sequence[float]) -> list[float]:
    """Return the line through what was counted. A fact that those before it say already has no share (squares, where sizes are one)."""
    columns = np.array(facts, float)
    size = np.maximum(np.abs(columns).max(axis=0), 1e-9)
    columns /= size
    kept: list[int] = []
    for number in range(columns.shape[1]):
        if np.linalg.matrix_rank(columns[:, [*kept, number]]) > len(kept):
            kept.append(number)
    found = np.zeros(columns.shape[1])
    found[kept] = np.linalg.lstsq(columns[:, kept], np.array(counted, float), rcond=None)[0]
    return [float(one) for one in found / size]


def _batch(make: Callable[[str, Document], Batch], words: int, sizes: tuple[tuple[int, int], ...]) -> Batch | None:
    """Make a batch of one row of words and pictures; None where it cannot be made, or is longer than a row may be."""
    parts: tuple[Text | Image, ...] = (*(Image(ramp(*size)) for size in sizes), Text("some word " * words))
    try:
        return make(f"work {words} {sizes}", Document(parts))
    except ContentError:
        return None


def _run(module: Reconstruction, batch: Batch, device: torch.device, *, autocast: bool) -> None:
    moved = to_device({key: value for key, value in batch.items() if key != "identities"}, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        total, _ = module(moved, module.loss_weights)
    total.backward()


def _count(module: Reconstruction, batch: Batch, device: torch.device, *, autocast: bool) -> float:
    with FlopCounterMode(display=False, custom_mapping=dict.fromkeys(_FUSED, _fused)) as counter:
        _run(module, batch, device, autocast=autocast)
    return float(counter.get_total_flops())


def _fused(*shapes: Any, **options: Any) -> int:
    """Count the way back through fused attention without the scores that it computes once more: four products of five."""
    return int(sdpa_backward_flop_count(*shapes[:4])) * 4 // 5  # type: ignore[no-untyped-call]


def _seconds(module: Reconstruction, batches: Sequence[Batch], device: torch.device, *, autocast: bool) -> list[float]:
    """Return the median seconds of each batch, over rounds in which all are run in turns; the first round warms up."""
    taken: list[list[float]] = [[] for _ in batches]
    for _ in range(_ROUNDS + 1):
        for number, batch in enumerate(batches):
            start = time.perf_counter()
            _run(module, batch, device, autocast=autocast)
            if device.type != "cpu":
                torch.accelerator.synchronize()
            taken[number].append(time.perf_counter() - start)
    return [statistics.median(one[1:]) for one in taken]
