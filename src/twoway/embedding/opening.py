"""Open anything that gives vectors: ours, any sentence-transformers model, a checkpoint as its trainer left it, a vision-language model.

A sentence-transformers checkpoint says itself how its states become one vector. For any other, what its layout tells decides (MoCa's,
CoCoA's and VLM2Vec's are known, see `model.layout`), then what its config declares of attention, and the pooling is the one that fits: the
mean of two-way states, the last of causal ones. What is asked for stands above all of it. An adapter is merged into its base in memory. The
same folder through `convert` gives the same vectors, where both are asked for the same attention.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from ..errors import TwowayError, UsageError, did_you_mean
from ..images import check_pixels
from ..model import adapters, backbone, card, encoder, opened, source
from ..model import pooling as poolings
from ..model import processor as processors
from ..model.attention import ATTENTION, set_attention
from ..model.attn_implementation import AUTO, Setting, by_part, require_installed
from ..model.attn_implementation import use as use_kernels
from ..model.layout import number_as_text, write_as
from ..model.pixels import set_pixels
from ..model.start import open_start, warn_of_chat
from .embedder import Embedder, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ..model.attention import Attention
    from ..model.prompting import Style

_log = logging.getLogger(__name__)


def open_embedder(
    model: str | Path | Embedder | SentenceTransformer,
    *,
    device: str = "auto",
    dtype: str | None = None,
    pooling: str | None = None,
    max_length: int | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    processor: str | Path | None = None,
    template: Style | None = None,
    attention: Attention | None = None,
    attn_implementation: Setting = AUTO,
    **settings: Any,
) -> Embedder:
    """Open a model by folder or hub id; `settings` are those of `Embedder`.

    `dtype` is float32 on a CPU and the checkpoint's own elsewhere. `pooling` (mean, last or eos), `processor`, `template` (chat or plain)
    and `attention` (two-way or causal) are for models that are no sentence-transformers checkpoint. `attn_implementation` is a
    kernel's name, or one for each part (see `model.attn_implementation`); `min_pixels` and `max_pixels` bound
    the area that pictures are brought to.
    """
    require_options(open_embedder, settings)
    bounds = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    check_pixels(**bounds)
    if isinstance(model, Embedder | SentenceTransformer) and any(bounds.values()):
        raise UsageError("a model in memory has its own min_pixels and max_pixels; leave them out, or name its folder")
    if isinstance(model, Embedder):
        return model
    if isinstance(model, SentenceTransformer):
        return Embedder.of(model, **settings)
    place = _device(device)
    dtype = dtype or ("float32" if place.type == "cpu" else "auto")
    if dtype not in backbone.DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}{did_you_mean(dtype, backbone.DTYPES)} (there are: {', '.join(backbone.DTYPES)})")
    require_installed(by_part(attn_implementation))
    folder = source.locate(model)
    if pooling is not None:
        poolings.require_mode(pooling)
    if attention is not None and attention not in ATTENTION:
        raise UsageError(f"unknown attention {attention!r}{did_you_mean(attention, ATTENTION)} (there are: {', '.join(ATTENTION)})")
    how: dict[str, str] = {}
    if encoder.is_encoder(folder):
        for name, value in (("pooling", pooling), ("template", template), ("attention", attention)):
            if value is not None:
                raise UsageError(f"{model} is a sentence-transformers checkpoint and has its own {name}; leave --{name} out, or convert it")
        sentence = encoder.open_sentence_model(folder, {"dtype": dtype, "use_safetensors": True}, place)
        how = _said_by(sentence, folder)
    elif adapters.is_adapter(folder) or type(backbone.load_config(folder)) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        sentence, how = _vision_language(model, dtype, pooling, processor, template, attention)
    elif attention is not None:
        raise UsageError(f"{model} is a text model; --attention is for vision-language models, so leave it out")
    else:
        sentence, how = _text_model(folder, dtype, pooling)
    if max_length is not None:
        longest = sentence.max_seq_length
        if max_length < 1 or (longest and max_length > longest):
            raise UsageError(f"--max-length {max_length} is out of range: this model takes 1 to {longest} tokens")
        sentence.max_seq_length = max_length
    if any(bounds.values()):
        _bound(sentence, str(model), bounds)
    sentence.to(place)
    if hasattr(sentence[0], "auto_model"):
        use_kernels(sentence[0].auto_model, attn_implementation)
    engine = Embedder.of(sentence, name=str(model), **settings)
    engine.read_as = how
    return engine


def require_options(
    function: Callable[..., Any], given: Mapping[str, Any], *, also: Sequence[str] = (), elsewhere: Mapping[str, str] | None = None
) -> None:
    """Refuse further options of a function that opening a model does not know; `elsewhere` are names that others have for what it takes."""
    opening = {*inspect.signature(open_embedder).parameters, *(field.name for field in dataclasses.fields(Settings)), *also}
    own = [name for name, one in inspect.signature(function).parameters.items() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    known = list(dict.fromkeys([*own, *sorted(opening - {"model", "settings"})]))
    for name in given:
        if name not in known:
            meant = (elsewhere or {}).get(name)
            near = f"; did you mean {meant}?" if meant else did_you_mean(name, known)
            raise UsageError(f"{function.__name__} has no option {name!r}{near} (there are: {', '.join(known)})")


def _bound(sentence: SentenceTransformer, name: str, bounds: dict[str, int | None]) -> None:
    """Bound the pictures of an opened model."""
    first: Any = sentence[0]
    processor, config = getattr(first, "processor", None), getattr(getattr(first, "auto_model", None), "config", None)
    if getattr(processor, "image_processor", None) is None or getattr(processor, "image_token", None) is None:
        raise UsageError(f"{name} shows no pictures whose area could be bounded; leave min_pixels and max_pixels out")
    set_pixels(config, processor, **bounds)


def _device(name: str) -> torch.device:
    """Check that a device is there, or choose one."""
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found if found is not None else torch.device("cpu")
    try:
        place = torch.device(name)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} is not to be had here: {source.first_line(error)}") from error
    return place


def _said_by(sentence: SentenceTransformer, folder: Path) -> dict[str, str]:
    """Return the attention of a sentence-transformers checkpoint; nothing where its folder says nothing, as a text model's often does."""
    config = getattr(getattr(sentence[0], "auto_model", None), "config", None)
    if config is None:
        return {}
    found = opened.declared(config, card.read(folder))
    return {"attention": found.attention} if found.by or type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING else {}


def _vision_language(
    model: str | Path, dtype: str, mode: str | None, processor: str | Path | None, template: Style | None, attention: Attention | None
) -> tuple[SentenceTransformer, dict[str, str]]:
    """Put pooling behind a vision-language model in memory; return how it is read, too."""
    start = open_start(model, dtype=dtype)
    told = start.layout
    wanted: Any = attention or told.attention or opened.declared(start.model.config, start.provenance).attention
    set_attention(start.model, wanted)
    own = start.settings
    settings = own.pooled(mode or (None if own.behind else told.pooling or ("mean" if wanted == "two-way" else "last")), None)
    mode = settings.pooling or "its own"
    if template is None:
        warn_of_chat(start)
    template = template or told.template
    _log.info("%s: %s attention, pooling %s, %s template", model, wanted, mode, template)
    if mode == "eos" and attention is None and wanted == "causal":
        _log.warning(
            "%s: pooling eos over causal attention, which is what its config means; if CoCoA trained it, say --attention two-way", model
        )
    parts: Any = processors.load_processor(source.locate(processor, source.PROCESSOR) if processor else start.folder)
    processors.require_fit(start.model, parts)
    write_as(parts, template)
    if template == "bare":
        _log.warning("%s: pictures keep their shape; VLM2Vec's first code made each 1344 pixels square, so scores are not its own", model)
    processors.set_max_length(start.model, parts, own.longest)
    if mode == "eos":
        poolings.append_eos(parts)
    sentence = encoder.around(backbone.inner(start.model), parts, settings)
    if template == "bare":
        number_as_text(sentence[0].processor)
    return sentence, {"attention": wanted, "pooling": mode, "template": template}


def _text_model(folder: Path, dtype: str, mode: str | None) -> tuple[SentenceTransformer, dict[str, str]]:
    """Put pooling behind a text model as sentence-transformers opens it; return how it is read, too."""
    config = backbone.load_config(folder)
    source.weight_files(folder)
    attention = opened.declared(config, {}).attention
    mode = mode or ("mean" if attention == "two-way" else "last")
    if poolings.require_mode(mode) == "eos":
        raise UsageError("pooling eos is for vision-language models; use --pooling last or mean")
    try:
        transformer = Transformer(str(folder), model_kwargs={"dtype": dtype, "use_safetensors": True})
    except (RuntimeError, ValueError, KeyError, OSError, ImportError, TypeError, SafetensorError) as error:
        raise TwowayError(f"{folder} cannot be loaded: {source.first_line(error)}") from error
    behind = poolings.modules(mode, transformer.get_embedding_dimension(), None, transformer.model.dtype)
    return SentenceTransformer(modules=[transformer, *behind], device="cpu"), {"attention": attention, "pooling": mode}
