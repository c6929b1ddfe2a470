"""`pretrain`: a causal vision-language model learns two-way attention by restoring words and patches (MoCa's first stage)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twoway.config import takes
from twoway.data.patches import process_image, ramp
from twoway.errors import TwowayError, UsageError
from twoway.losses.masked_patches import PatchDecoder
from twoway.methods.model import PreparedModel, open_base, prove_two_way, require_causal
from twoway.methods.run import Method, TrainResult, configure, run_method
from twoway.models.loading import first_line
from twoway.models.vision import VisiblePatches

from .callbacks import PretrainCallback
from .config import PretrainConfig
from .data import open_data
from .step import NextToken, Reconstruction, make_module

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from twoway.data.config import SourceConfig
    from twoway.methods.model import OpenedBase


# The model of `pretrain`: a two-way base with its heads, or, for the control, a causal one.


def prepare(base: str | Path, config: PretrainConfig) -> PreparedModel[Reconstruction]:
    """Open a base and make the task out of it; the same base and configuration give the same bits."""
    causal = config.objective == "causal"
    opened = open_base(base, config, attention="causal" if causal else "two-way")
    model = opened.start.model
    if config.mlm_weight and not opened.start.has_head:
        instead = "" if causal else ", or set mlm_weight=0"
        raise TwowayError(f"{base} has no language-model head to say words with; start from its base{instead}")
    decoder = _decoder(opened, config) if config.mae_weight and not causal else None
    geometry = opened.geometry
    task, adapted = make_module(
        model,
        config,
        decoder,
        words=config.mlm_weight,
        image_token=geometry.image_token,
        video_token=geometry.video_token,
        mask_token=opened.token.id,
        pad_token=opened.pad_token,
        token_keys=geometry.token_keys,
    )
    if config.masked_patches != "noise":
        VisiblePatches(model).require(model, process_image(opened.processor, ramp(112, 84)), config.masked_patches)
    return PreparedModel(**vars(opened), module=task, adapted=adapted)


def require(prepared: PreparedModel[Reconstruction]) -> None:
    """Measure that attention is what the objective wants."""
    (require_causal if isinstance(prepared.module, NextToken) else prove_two_way)(prepared)


def _decoder(base: OpenedBase, config: PretrainConfig) -> PatchDecoder:
    """Make the patch decoder, from the one beside the base where there is one."""
    start, values = base.start, base.geometry.values
    try:
        decoder = PatchDecoder(
            start.model.get_decoder(), values=values, depth=config.decoder_depth, mask_state=config.masked_patches == "drop"
        )
    except ValueError as error:
        raise UsageError(f"decoder_depth: {first_line(error)}") from error
    if start.heads.patch_decoder:
        try:
            decoder.load_heads(start.heads.patch_decoder)
        except RuntimeError as error:
            layers = {name.split(".")[2] for name in start.heads.patch_decoder if name.startswith("body.layers.")}
            raise TwowayError(
                f"the patch decoder beside {start.name} has {len(layers)} layers and "
                f"{len(start.heads.patch_decoder.get('to_values.weight', ()))} values a token; this run asks for decoder_depth "
                f"{config.decoder_depth} and {values} values"
            ) from error
    return decoder


METHOD = Method("pretrain", PretrainConfig, prepare, open_data, PretrainCallback, require)


@takes(PretrainConfig)
def pretrain(
    base: str | Path,
    out: str | Path,
    data: Sequence[str | SourceConfig] = (),
    *,
    config: PretrainConfig | None = None,
    nproc: int = 1,
    force: bool = False,
    **options: Any,
) -> TrainResult:
    """Pre-train `base` into `out` on `data` (specs of sources); `options` are the fields of `PretrainConfig`.

    The same call goes on where an earlier one stopped. `force` goes on although configuration, base or data changed.
    """
    return run_method(METHOD, base, out, configure(METHOD, config, data, options), nproc=nproc, force=force)
