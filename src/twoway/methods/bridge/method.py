"""`bridge`: a two-way model learns to put all of A into its EOS, because B is restored from nothing else (CoCoA's second stage).

What comes out is pooled at EOS: the tokenizer appends it, so `SentenceTransformer(OUT)` gives the vector with no code of ours.

Where it departs from the paper (arXiv 2603.01471): `eos_sees_target` and `sources_see_eos` are options, because as released the visible
part of B leaks into the bottleneck; plain texts serve too, cut in two; and long targets are cut and counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twoway.config import takes
from twoway.errors import TwowayError
from twoway.methods.model import PreparedModel, apply_memory_options, choose_kernels, choose_trainable, open_base, prove_two_way
from twoway.methods.run import Method, TrainResult, configure, run_method
from twoway.models.pooling import require_lasting_eos

from .callbacks import BridgeCallback
from .config import BridgeConfig, BridgeSource
from .data import open_data
from .rows import eos_of
from .step import Bridge

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from twoway.data.config import SourceConfig


# The model of `bridge`: a base that is two-way already, with its head and a tokenizer that has an EOS.


def prepare(base: str | Path, config: BridgeConfig) -> PreparedModel[Bridge]:
    """Open a base and make the task out of it; the same base and configuration give the same bits."""
    opened = open_base(base, config)
    model = opened.start.model
    if opened.declared_attention == "causal":
        raise TwowayError(
            f"{opened.start.name} is still causal, and its EOS has never looked ahead; make it two-way first: "
            f"twoway pretrain {base} OUT (or twoway convert {base} OUT)"
        )
    if opened.attention == "mixed":
        raise TwowayError(f"{opened.start.name} is mixed: its one-way layers pass the bridge by; use pretrain and finetune")
    eos_of(opened.processor.tokenizer)
    require_lasting_eos(opened.processor, "the bridge needs an EOS that stays: start from a model of another family")
    if not opened.start.has_head:
        raise TwowayError(f"{base} has no language-model head to restore words with; start from a model that kept it")
    choose_kernels(model, config, masks=True)
    adapted = choose_trainable(model, config)
    task = Bridge(
        model,
        eos_sees_target=config.eos_sees_target,
        sources_see_eos=config.sources_see_eos,
        pad_token=opened.pad_token,
        token_keys=opened.geometry.token_keys,
    )
    apply_memory_options(config, [model], task.fsdp_units())
    return PreparedModel(**vars(opened), module=task, adapted=adapted)


METHOD = Method("bridge", BridgeConfig, prepare, open_data, BridgeCallback, prove_two_way, pooling="eos", source=BridgeSource)


@takes(BridgeConfig)
def bridge(
    base: str | Path,
    out: str | Path,
    data: Sequence[str | SourceConfig] = (),
    *,
    config: BridgeConfig | None = None,
    nproc: int = 1,
    force: bool = False,
    **options: Any,
) -> TrainResult:
    """Train `base` into `out` on `data` (specs of sources); `options` are the fields of `BridgeConfig`.

    The same call goes on where an earlier one stopped. `force` goes on although configuration, base or data changed.
    """
    return run_method(METHOD, base, out, configure(METHOD, config, data, options), nproc=nproc, force=force)
