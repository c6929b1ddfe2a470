"""`merge`: several models of one base become one model, whose weights are made of theirs.

The steps: open the models; check that they come from one base and agree in everything that is no weight; choose the weight of each, on a
held-out suite where one is named; combine tensor by tensor in float32; write and measure the result as `convert` does.
"""

from __future__ import annotations

import logging
import math
import tempfile
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from twoway.config import gather, takes
from twoway.errors import TwowayError, UsageError
from twoway.evaluation.evaluate import evaluate
from twoway.files import fresh_folder
from twoway.models import checkpoint, loading, opening
from twoway.models import processor as processors
from twoway.models.opening import open_start

from .config import MergeConfig
from .convert import measure, quiet_loading, try_out

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from twoway.models.opening import Start

    Tensors = dict[str, torch.Tensor]

log = logging.getLogger(__name__)

ONE_BASE = 0.5  # cosine of two models' weights: above 0.9 after training from one base, about 0 from two


@dataclass(frozen=True)
class MergeResult:
    """What came out: the card, the weight of each model, and the score of each choice of weights that was tried."""

    out: str
    card: checkpoint.Card
    weights: tuple[float, ...]
    tried: tuple[tuple[tuple[float, ...], float], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        tried = [{"weights": weights, "score": score} for weights, score in self.tried]
        return {"out": self.out, "weights": self.weights, "tried": tried} | asdict(self.card)


@takes(MergeConfig)
def merge(
    models: Sequence[str | Path], out: str | Path, *, config: MergeConfig | None = None, overwrite: bool = False, **options: Any
) -> MergeResult:
    """Merge `models` (folders or hub ids) into `out`, which is written whole or not at all; `options` are the settings of `MergeConfig`."""
    config = gather(MergeConfig, config, options, merge)
    _require_fit(models, config)
    with fresh_folder(out, overwrite=overwrite) as folder, quiet_loading():
        opened = [_open(one) for one in models]
        lead = opened[_lead(models, config)]
        if config.suite is not None and lead.settings.reranks:
            raise UsageError("a suite scores vectors, and these models are rerankers; give weights instead of a suite")
        _require_one_shape(opened)
        _require_agreement(opened, lead, named=config.settings_from is not None)
        base = _base(config, lead)
        for one in opened:
            _require_one_base(lead, one)
        parts = processors.load_processor(lead.folder)
        kind = lead.model.dtype
        target = _Target(lead, opened, base, config)
        weights, tried = _choose(target, parts, config)
        target.put(weights)
        lead.model.to(kind)
        decoder = target.patch_decoder(weights)
        heads = checkpoint.save_model(lead.model, parts, folder, lead.settings, has_head=lead.has_head, patch_decoder=decoder)
        entry = {
            "step": "merge",
            "source": ", ".join(one.name for one in opened),
            "options": _options(config, weights),
            "versions": loading.versions(),
            "weights": checkpoint.hashes(folder),
            "merged": [
                {"source": one.name, "weight": weight, "source_weights": one.weights, "chain": one.provenance.get("chain", []) + _note(one)}
                for one, weight in zip(opened, weights, strict=True)
            ],
        } | ({"tried": [{"weights": list(each), "score": score} for each, score in tried]} if tried else {})
        result = checkpoint.assemble_model(folder, lead.settings)
        mode = str(lead.settings.pooling or "")
        notes = try_out(result, mode)
        card = checkpoint.Card(
            **measure(result, _attention(lead), mode),
            base=lead.provenance.get("base") or lead.name,
            max_length=int(parts.tokenizer.model_max_length),
            mask_token=lead.provenance.get("mask_token") or processors.ensure_mask_token(lead.model, parts).record(),
            prompts=lead.settings.prompts,
            licence=lead.provenance.get("licence") or lead.licence,
            heads=heads,
            notes=notes,
            chain=[*_shared_chain(opened), entry],
        )
        card.write(folder)
    return MergeResult(str(out), card, weights, tried)


def _require_fit(models: Sequence[str | Path], config: MergeConfig) -> None:
    """Refuse settings that do not fit the number of models, before anything is opened."""
    if len(models) < 2:
        raise UsageError("a merge needs two models or more")
    if config.method == "slerp" and len(models) != 2:
        raise UsageError(f"slerp goes from one model to another, and {len(models)} are named; take method linear or ties")
    if config.weights and len(config.weights) != len(models):
        raise UsageError(f"{len(config.weights)} weights are given for {len(models)} models; give one for each, in their order")
    if config.settings_from is not None and str(config.settings_from) not in [str(one) for one in models]:
        raise UsageError(f"settings_from {config.settings_from} is none of the models that are merged")
    if config.suite is not None:
        number = math.comb(config.grid + len(models) - 1, len(models) - 1)
        if number > config.max_tries:
            raise UsageError(
                f"{len(models)} models at grid {config.grid} are {number} evaluations; lower grid, or raise max_tries to {number}"
            )


def _lead(models: Sequence[str | Path], config: MergeConfig) -> int:
    """Return which model's settings stand."""
    return 0 if config.settings_from is None else [str(one) for one in models].index(str(config.settings_from))


def _open(src: str | Path) -> Start:
    """Open a model that gives vectors, or an adapter of one."""
    start = open_start(src)
    if not start.settings.behind:
        raise UsageError(f"{src} says nothing of how its states become a vector; convert it first: twoway convert {src} NEW")
    if start.settings.learnt:
        raise TwowayError(f"{src} has trained weights behind its pooling ({start.settings.learnt}), and these are not merged")
    return start


def _base(config: MergeConfig, lead: Start) -> Tensors | None:
    """Open the model that all were trained from, where the method needs it."""
    if config.method != "ties":
        return None
    if config.base is None:
        raise UsageError("ties merges what each model has changed; name the model that all were trained from as base")
    found = open_start(config.base)
    _require_one_base(lead, found)
    tensors = _tensors(found)
    lacking = [name for name in _tensors(lead) if name not in tensors]
    if lacking:
        raise TwowayError(f"base {config.base} lacks {lacking[0]}, which the models have; is it the model that they were trained from?")
    return tensors


def _tensors(start: Start) -> Tensors:
    """Return the weights of a model; what is tied comes once."""
    return {name: one.data for name, one in start.model.named_parameters()}


def _require_one_shape(opened: Sequence[Start]) -> None:
    """Refuse models whose weights do not match by name and shape."""
    first = {name: tuple(one.shape) for name, one in _tensors(opened[0]).items()}
    for other in opened[1:]:
        shapes = {name: tuple(one.shape) for name, one in _tensors(other).items()}
        for name in sorted(first.keys() | shapes.keys()):
            if first.get(name) != shapes.get(name):
                said = [
                    f"{one.name} has {'none' if shape is None else shape}"
                    for one, shape in ((opened[0], first.get(name)), (other, shapes.get(name)))
                ]
                raise TwowayError(f"the models are not of one base: of {name}, {' and '.join(said)}")


def _require_one_base(lead: Start, other: Start) -> None:
    """Refuse models that were not trained from one base: their weights have nothing to do with each other."""
    ours, theirs = _tensors(lead), _tensors(other)
    dot = own = their = 0.0
    for name, one in ours.items():
        if one.dim() > 1 and name in theirs and theirs[name].shape == one.shape:
            left, right = one.float().flatten(), theirs[name].float().flatten()
            dot, own, their = dot + float(left @ right), own + float(left @ left), their + float(right @ right)
    cosine = dot / math.sqrt(own * their) if own and their else 0.0
    if not cosine > ONE_BASE:
        raise TwowayError(
            f"{lead.name} and {other.name} were not trained from one base: the cosine of their weights is {cosine:.2f}, "
            f"and of one base it is near 1; merged, they would know nothing"
        )


def _require_agreement(opened: Sequence[Start], lead: Start, *, named: bool) -> None:
    """Refuse models that differ in what is no weight, unless it is said whose settings stand."""
    ours = _said(lead)
    for other in opened:
        differing = {name: f"{ours[name]!r} and {value!r}" for name, value in _said(other).items() if value != ours[name]}
        if differing and not named:
            name, values = next(iter(differing.items()))
            shown = f": {values}" if len(values) < 120 else ""  # no template or vocabulary in an error
            raise UsageError(f"{lead.name} and {other.name} differ in {name}{shown}; say with settings_from which model's settings stand")
        for name in differing:
            log.warning("%s: its %s is left out, and that of %s stands", other.name, name, lead.name)


def _said(start: Start) -> dict[str, Any]:
    """Return what a model says besides its weights."""
    settings, parts = start.settings, processors.load_processor(start.folder)
    images = getattr(parts, "image_processor", None)
    return {
        "attention": _attention(start),
        "pooling": settings.pooling or [str(one) for one in settings.behind],
        "dimension": settings.truncate_dim or settings.dim,
        "prompts": {name: text for name, text in settings.prompts.items() if text},
        "default prompt": settings.default_prompt,
        "similarity": settings.similarity,
        "longest row": settings.longest or parts.tokenizer.model_max_length,
        "template": parts.chat_template or parts.tokenizer.chat_template,
        "processor": None if images is None else images.to_dict(),
        "vocabulary": parts.tokenizer.get_vocab(),
    }


def _attention(start: Start) -> Any:
    """Return the attention that a model declares."""
    return opening.declared(start.model.config, start.provenance).attention


class _Target:
    """The model that gets the merged weights; the models' own stay beside it."""

    def __init__(self, lead: Start, opened: Sequence[Start], base: Tensors | None, config: MergeConfig) -> None:
        self.lead, self.base, self.config = lead, base, config
        self.tensors = [
            {name: one.clone() for name, one in _tensors(start).items()} if start is lead else _tensors(start) for start in opened
        ]
        self.decoders = [start.heads.patch_decoder for start in opened]
        lead.model.float()

    @torch.no_grad()
    def put(self, weights: Sequence[float]) -> None:
        """Give the model the weights that a choice makes."""
        for name, one in self.lead.model.named_parameters():
            tensors = [tensors[name] for tensors in self.tensors]
            one.copy_(combine(tensors, weights, self.config, None if self.base is None else self.base[name]))

    def patch_decoder(self, weights: Sequence[float]) -> Tensors:
        """Merge the patch decoders, where every model has one of the same form; they are new in each, so their mean is all there is."""
        shapes = [{name: one.shape for name, one in decoder.items()} for decoder in self.decoders]
        same = bool(shapes[0]) and all(one == shapes[0] for one in shapes)
        if any(shapes) and not same:
            log.warning("the patch decoders of the models differ, and none is kept; pre-training from the result begins a new one")
        merged = {}
        for name in shapes[0] if same else ():
            tensors = [decoder[name] for decoder in self.decoders]
            merged[name] = combine(tensors, weights, MergeConfig(), None).to(tensors[0].dtype)
        return merged


def combine(tensors: Sequence[torch.Tensor], weights: Sequence[float], config: MergeConfig, base: torch.Tensor | None) -> torch.Tensor:
    """Combine one tensor of every model, in float32; the weights add up to 1."""
    given = [one.float() for one in tensors]
    if config.method == "slerp":
        return slerp(given[0], given[1], weights[1])
    if config.method == "ties" and base is not None:
        start = base.float()
        return start + config.scale * ties([one - start for one in given], weights, config.density)
    return torch.stack([weight * one for weight, one in zip(weights, given, strict=True)]).sum(0)


def slerp(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    """Go from one tensor to another along the arc between their directions; nearly parallel ones along the line."""
    cosine = torch.nn.functional.cosine_similarity(first.flatten(), second.flatten(), dim=0).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if float(angle.sin()) < 1e-4:
        return torch.lerp(first, second, share)
    return (torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * second) / torch.sin(angle)


def ties(changes: Sequence[torch.Tensor], weights: Sequence[float], density: float) -> torch.Tensor:
    """Merge changes (TIES, arXiv 2306.01708): keep the largest of each, elect a sign for each value, and average those that have it."""
    kept = torch.stack([_largest(one, density) for one in changes])
    by = torch.tensor(weights, dtype=kept.dtype, device=kept.device).view(-1, *[1] * (kept.dim() - 1))
    sign = (by * kept).sum(0).sign()
    agree = (kept.sign() == sign) & (kept != 0)
    total = (by * agree).sum(0)
    return (by * kept * agree).sum(0) / torch.where(total == 0, torch.ones_like(total), total)


def _largest(change: torch.Tensor, density: float) -> torch.Tensor:
    """Keep the share of the values that moved furthest."""
    keep = max(1, round(density * change.numel()))
    if keep == change.numel():
        return change
    places = change.abs().flatten().topk(keep).indices
    return torch.zeros_like(change).flatten().index_copy(0, places, change.flatten()[places]).view_as(change)


def _choose(target: _Target, parts: Any, config: MergeConfig) -> tuple[tuple[float, ...], tuple[tuple[tuple[float, ...], float], ...]]:
    """Return the weights, and the score of each choice that was tried for them; of equal scores the first is taken."""
    number = len(target.tensors)
    if config.suite is None:
        given = config.weights or (1.0,) * number
        return tuple(one / sum(given) for one in given), ()
    tried = []
    ready = checkpoint.read_around(loading.inner(target.lead.model), parts, target.lead.settings)
    for weights in _grid(number, config.grid):
        target.put(weights)
        with tempfile.TemporaryDirectory() as cache:  # vectors of weights that nobody keeps
            found = evaluate(ready, config.suite, data=config.data, tasks=config.tasks, subset=config.subset, cache_dir=cache).found
        tried.append((weights, float(found["mean"])))
        log.info("weights %s: %.4f", ", ".join(f"{one:g}" for one in weights), tried[-1][1])
    return max(tried, key=lambda one: one[1])[0], tuple(tried)


def _grid(number: int, grid: int) -> Iterator[tuple[float, ...]]:
    """Return all choices of weights in steps of 1 / grid, each model alone among them."""
    for steps in product(range(grid, -1, -1), repeat=number):
        if sum(steps) == grid:
            yield tuple(one / grid for one in steps)


def _options(config: MergeConfig, weights: tuple[float, ...]) -> dict[str, Any]:
    """Return what was asked for; of a folder the name alone."""
    given = {key: value for key, value in asdict(config).items() if value != getattr(MergeConfig(), key) or key == "method"}
    return {key: Path(value).name if key in ("base", "settings_from", "data") else value for key, value in given.items()} | {
        "weights": list(weights)
    }


def _note(start: Start) -> list[dict[str, Any]]:
    """Return the adapter or the revision that a model was opened with, as a step of its chain."""
    return [{"step": "open", **start.note}] if start.note else []


def _shared_chain(opened: Sequence[Start]) -> list[dict[str, Any]]:
    """Return the steps that all models have in common, from the first on."""
    shared = []
    for steps in zip(*(one.provenance.get("chain", []) for one in opened), strict=False):
        if any(step != steps[0] for step in steps):
            break
        shared.append(steps[0])
    return shared
