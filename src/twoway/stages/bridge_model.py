"""The model of `bridge`: a base that is two-way already, with its head and a tokenizer that has an EOS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twoway.data.bridge import require_eos
from twoway.errors import TwowayError
from twoway.model.pooling import require_lasting_eos

from .bridge_task import Bridge
from .stage_model import Prepared, choose, open_base, spare, use_kernels

if TYPE_CHECKING:
    from pathlib import Path

    from .bridge_config import BridgeConfig


def prepare(base: str | Path, config: BridgeConfig) -> Prepared[Bridge]:
    """Open a base and make the task out of it; the same base and configuration give the same bits."""
    opened = open_base(base, config)
    model = opened.start.model
    if opened.was == "causal":
        raise TwowayError(
            f"{opened.start.name} is still causal, and its EOS has never looked ahead; make it two-way first: "
            f"twoway pretrain {base} OUT (or twoway convert {base} OUT)"
        )
    if opened.attention == "mixed":
        raise TwowayError(f"{opened.start.name} is mixed: its one-way layers pass the bridge by; use pretrain and finetune")
    require_eos(opened.processor.tokenizer)
    require_lasting_eos(opened.processor, "the bridge needs an EOS that stays: start from a model of another family")
    if not opened.start.has_head:
        raise TwowayError(f"{base} has no language-model head to restore words with; start from a model that kept it")
    use_kernels(model, config, masks=True)
    adapted = choose(model, config)
    task = Bridge(
        model,
        eos_sees_target=config.eos_sees_target,
        sources_see_eos=config.sources_see_eos,
        pad_token=opened.pad_token,
        token_keys=opened.geometry.token_keys,
    )
    spare(config, [model], task.blocks())
    return Prepared(**vars(opened), task=task, adapted=adapted)
