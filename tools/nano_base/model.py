"""A nano model and its processor, and the forward that trains it: the real transformers model of a family, only small.

PaliGemma is refused: its prompt attends two-way and its pictures stand before all text, so it is trained neither causally nor interleaved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twoway.errors import UsageError, did_you_mean

from . import families, families_tiles
from .families import Family
from .fast import GridForward
from .init import initialise

if TYPE_CHECKING:
    from .config import NanoConfig

FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(families.qwen2_vl, families.QWEN_TOKENS, GridForward),
    "qwen2_5_vl": Family(families.qwen2_5_vl, families.QWEN_TOKENS),
    "qwen3_vl": Family(families.qwen3_vl, families.QWEN_TOKENS),
    "idefics3": Family(families_tiles.idefics3, families_tiles.IDEFICS_TOKENS),
    "smolvlm": Family(families_tiles.smolvlm, families_tiles.IDEFICS_TOKENS),
    "llava_onevision": Family(families_tiles.llava_onevision, families_tiles.LLAVA_TOKENS),
    "internvl": Family(families_tiles.internvl, families_tiles.INTERN_TOKENS),
    "gemma3": Family(families_tiles.gemma3, families_tiles.GEMMA_TOKENS),
}
REFUSED = {
    "paligemma": "its prompt attends two-way and its pictures stand before all text, so it cannot be trained causally on interleaved rows"
}


def family_of(name: str) -> Family:
    """Return how a family is made, or say which there are."""
    if name in REFUSED:
        raise UsageError(f"--family {name}: {REFUSED[name]}; choose one of {', '.join(FAMILIES)}")
    if name not in FAMILIES:
        raise UsageError(f"--family {name}: the nano base can be made as {', '.join(FAMILIES)}{did_you_mean(name, FAMILIES)}")
    return FAMILIES[name]


def build(config: NanoConfig, tokenizer: Any) -> tuple[Any, Any]:
    """Return model (initialised from the seed) and processor."""
    model, processor = family_of(config.family).build(config, tokenizer)
    initialise(model, model.get_decoder(), config.seed)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor
