"""LoRA (arXiv 2106.09685) and DoRA (arXiv 2402.09353) through peft, placed by part name, and merged without loss.

Adapters are requested by part: the language model, the tower, the projector. The linear layers inside the part get one, or those whose
name ends in one of `layers`. peft silently skips names that it does not find; here that is an error, because a run in which an adapter
touches nothing looks like any other run. Merging adds the product of the two small matrices to the weight, so a merged model gives the
same outputs as the adapted one.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import peft
from safetensors import safe_open
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from twoway.errors import TwowayError, UsageError, did_you_mean

from .loading import check_safetensors, first_line, linear_names, parts, read_json, weight_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

PARTS = ("language", "tower", "projector")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model"


@dataclass(frozen=True)
class Trainable:
    """How much of a model trains."""

    trainable: int
    total: int

    def __str__(self) -> str:
        return f"{self.trainable:,} of {self.total:,} parameters train ({100 * self.trainable / self.total:.2f}%)"


def add_adapters(
    model: PreTrainedModel,
    where: Sequence[str] = ("language",),
    *,
    target_modules: Sequence[str] = (),
    r: int = 8,
    lora_alpha: int = 64,
    lora_dropout: float = 0.1,
    use_dora: bool = False,
    init_lora_weights: Literal["default", "gaussian"] = "default",
) -> tuple[peft.PeftModel, Trainable]:
    """Add adapters to the linear layers of these parts; only they train afterwards."""
    chosen = [name for part in where for name in part_layers(model, part, target_modules)]
    start: Any = "gaussian" if init_lora_weights == "gaussian" else True
    config = peft.LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        use_dora=use_dora,
        target_modules=chosen,
        init_lora_weights=start,
        bias="none",
    )
    with warnings.catch_warnings():
        # peft reads a property of the model that transformers is about to rename.
        warnings.simplefilter("ignore", FutureWarning)
        adapted = peft.get_peft_model(model, config)
    train, total = adapted.get_nb_trainable_parameters()
    if not train:
        raise TwowayError(f"the adapter trains nothing: no parameter of {', '.join(where)} takes part")
    return adapted, Trainable(train, total)


def part_layers(model: PreTrainedModel, part: str, layers: Sequence[str] = ()) -> list[str]:
    """Return the linear layers of one part by full name, or fail where an adapter would touch nothing."""
    if part not in PARTS:
        raise UsageError(f"unknown part {part!r} for an adapter{did_you_mean(part, PARTS)} (there are: {', '.join(PARTS)})")
    found = parts(model)
    projectors = linear_names(found.projectors)
    named = {
        "language": linear_names([found.language]),
        # A projector inside the tower is asked for by its own name.
        "tower": [name for name in linear_names([found.tower] if found.tower else []) if name not in projectors],
        "projector": projectors,
    }[part]
    if not named:
        raise TwowayError(f"the adapter would touch nothing: this model has no linear layer in its {part}")
    for ending in layers:
        if not any(_ends(name, ending) for name in named):
            known = sorted({name.rsplit(".", 1)[-1] for name in named})
            raise UsageError(
                f"the adapter would touch nothing: no linear layer of the {part} is called {ending!r}"
                f"{did_you_mean(ending, known)} (there are: {', '.join(known)})"
            )
    return [name for name in named if not layers or any(_ends(name, ending) for ending in layers)]


def merge_adapter(adapted: peft.PeftModel) -> PreTrainedModel:
    """Return the plain model with the adapters added into its weights; weights that are not finite are an error."""
    merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    return merged


def is_adapter(folder: Path) -> bool:
    """Say whether a folder holds a PEFT adapter."""
    return (folder / CONFIG).exists()


def base_name(folder: Path) -> str | None:
    """Return the base that an adapter names, if it names one."""
    name = read_json(folder / CONFIG).get("base_model_name_or_path")
    return str(name) if name else None


def merge_folder(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Merge an adapter into its base; a wrong base is detected by missing layers, or layers of another shape."""
    weight_files(folder, WEIGHTS)
    target, renamed = _target(model, folder)
    mapping = {f"^{re.escape(old)}(?=\\.)": new for old, new in renamed.items()}
    try:
        adapted = peft.PeftModel.from_pretrained(target, folder, use_safetensors=True, key_mapping=mapping or None)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise _other_base(folder, first_line(error)) from error
    merged = merge_adapter(adapted)
    return model if target is not model else merged


def _target(model: PreTrainedModel, folder: Path) -> tuple[PreTrainedModel, dict[str, str]]:
    """Find what the adapter was put on (the model with its head, or without) and see that it fits there, name by name.

    Adapters of older days (VLM2Vec's) name the layers as transformers did then; the names of today come with the model.
    """
    path = folder / f"{WEIGHTS}.safetensors"
    check_safetensors(path)
    with safe_open(str(path), framework="pt") as file:
        touched = {_module(name) for name in file.keys()}  # noqa: SIM118
    for candidate in (model, model.base_model):
        names = {name for name, _ in candidate.named_modules()}
        renamed = _names_of_today(candidate, touched - names)
        if names.issuperset(renamed.values()):
            return candidate, renamed
    lost = sorted(touched - {name for name, _ in model.named_modules()})[0]
    raise TwowayError(
        f"{folder} is an adapter for another base: this {model.config.model_type} model has no layer {lost}; name its base with --base"
    )


def _names_of_today(model: PreTrainedModel, names: set[str]) -> dict[str, str]:
    """Return the new name of each layer by transformers' own conversion of checkpoints, which peft applies to some families only."""
    known = [one for one in get_model_conversion_mapping(model, add_legacy=False) if isinstance(one, WeightRenaming)]
    return {name: rename_source_key(f"{name}.weight", known, [])[0].removesuffix(".weight") for name in names}


def _module(name: str) -> str:
    """Return the module that a tensor of an adapter belongs to."""
    name = name.removeprefix("base_model.model.")
    return name.partition(".lora_")[0] if ".lora_" in name else name.rpartition(".")[0].removesuffix(".modules_to_save")


def _other_base(folder: Path, why: str) -> TwowayError:
    return TwowayError(f"{folder} is an adapter for another base: {why}; name its base with --base")


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def describe_adapter(folder: Path) -> dict[str, Any]:
    """Return what an adapter is, for the provenance."""
    raw = read_json(folder / CONFIG)
    return {key: raw.get(key) for key in ("peft_type", "r", "lora_alpha", "use_dora")}
