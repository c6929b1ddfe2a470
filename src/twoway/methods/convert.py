"""`convert`: from a one-way vision-language model to a two-way embedding model that anyone can load.

The recipe, top to bottom: open the source, whatever it is; take its processor; choose a mask token; switch attention; set the limits
and the pooling; write a plain sentence-transformers checkpoint; open that again from disk, and measure on it what the card says.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image
from sentence_transformers import CrossEncoder, MultiVectorEncoder
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers.utils import logging as tf_logging

from twoway.config import gather, takes
from twoway.errors import TwowayError, UsageError
from twoway.files import fresh_folder
from twoway.models import checkpoint, kernels, loading, reranker
from twoway.models import pooling as poolings
from twoway.models import processor as processors
from twoway.models.attention import set_attention
from twoway.models.config import AUTO
from twoway.models.opening import open_start, warn_of_chat, write_as
from twoway.models.processor import Style, ensure_mask_token, set_pixels
from twoway.proof import probe

from .config import ConvertConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from twoway.models.config import Attention
    from twoway.models.opening import Start
    from twoway.proof.verdict import Verdict

log = logging.getLogger(__name__)

_NOT_BARE = (
    "VLM2Vec numbers the tokens of a picture as text, and no checkpoint can say so: here they are numbered by rows and columns, as the "
    "family does. With pictures, scores of this model are not VLM2Vec's own; measure the source itself for those."
)


@dataclass(frozen=True)
class ConvertResult:
    """What came out."""

    out: str
    card: checkpoint.Card
    heads: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"out": self.out} | asdict(self.card)


@takes(ConvertConfig)
def convert(
    src: str | Path, out: str | Path, *, config: ConvertConfig | None = None, overwrite: bool = False, **options: Any
) -> ConvertResult:
    """Convert `src` (a hub id or a folder) into `out`, which is written whole or not at all.

    `options` are the settings of `ConvertConfig`. What is not given comes from the source, and then from the defaults.
    """
    config = gather(ConvertConfig, config, options, convert)
    kernels.require_kernels(config.attn_implementation or AUTO, torch.device("cpu"), torch.float32)
    with fresh_folder(out, overwrite=overwrite) as folder, quiet_loading():
        opened = open_start(src, dtype=config.dtype, base=config.base)
        parts = processors.load_processor(loading.locate(config.processor, loading.PROCESSOR) if config.processor else opened.folder)
        processors.require_fit(opened.model, parts)
        token = ensure_mask_token(opened.model, parts, wanted=config.mask_token)
        if config.num_hidden_layers is not None:
            _keep_layers(opened.model, config.num_hidden_layers)
        set_attention(opened.model, config.attention)
        settings = _settings(opened, config, parts)
        mode, template = _mode(settings), _template(opened, config)
        longest = _prepare(opened.model, parts, config, mode, template, settings.longest)
        # A template that passes any role on writes pairs, too: only that of a reranker says how its pairs were written.
        if settings.reranks and not (opened.settings.reranks and reranker.takes_pairs(parts)):
            reranker.set_pair_template(parts)
        decoder = opened.heads.patch_decoder
        saved_heads = checkpoint.save_model(opened.model, parts, folder, settings, has_head=opened.has_head, patch_decoder=decoder)
        name = opened.name
        step = {
            "step": "convert",
            "source": name,
            "options": _options(config) | {"pooling": mode} | ({"template": template} if template == "plain" else {}) | opened.note,
            "versions": loading.versions(),
            "source_weights": opened.weights,
            "weights": checkpoint.hashes(folder),
        }
        facts = opened.provenance
        licence, bare = opened.licence, config.template is None and opened.layout.template == "bare"
        del opened  # the model on disk is the one to measure, and two do not always fit
        result = checkpoint.assemble_model(folder, settings)
        kernels.use_kernels(cast("Any", result[0]).auto_model, config.attn_implementation or AUTO, dtype=torch.float32)
        notes = (*((_NOT_BARE,) if bare else ()), *try_out(result, mode))
        written = checkpoint.Card(
            **measure(result, config.attention, mode),
            base=facts.get("base") or name,
            max_length=longest,
            mask_token=token.record(),
            prompts=settings.prompts,
            licence=facts.get("licence") or licence,
            heads=saved_heads,
            notes=notes,
            chain=[*facts.get("chain", []), step],
        )
        written.write(folder)
    return ConvertResult(str(out), written, tuple(saved_heads))


def _mode(settings: checkpoint.CheckpointSettings) -> str:
    """Return where a vector, or a score, is read."""
    if settings.pooling is not None or settings.reads_head:
        return settings.pooling or "last"
    return str(next(module.pooling_mode for module in settings.behind if isinstance(module, Pooling)))


def _options(config: ConvertConfig) -> dict[str, Any]:
    """Return what was asked for; of a folder the name alone, since the place of it means nothing elsewhere."""
    given = {key: value for key, value in asdict(config).items() if value not in (None, {}) and key != "attn_implementation"}
    return {key: Path(value).name if key in ("processor", "base") and Path(value).exists() else value for key, value in given.items()}


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' load report to ourselves, which reads what it says; and its bars out of files."""
    before, bars = tf_logging.get_verbosity(), tf_logging.is_progress_bar_enabled()
    tf_logging.set_verbosity_error()
    if not sys.stderr.isatty():
        tf_logging.disable_progress_bar()
    try:
        yield
    finally:
        tf_logging.set_verbosity(before)
        if bars:
            tf_logging.enable_progress_bar()


def _template(opened: Start, config: ConvertConfig) -> Style:
    """Return how inputs are written; what no config can say is written as near as it can be, with a word of it."""
    if config.template is None:
        warn_of_chat(opened)
    if config.template is None and opened.layout.template == "bare":
        log.warning("%s: %s", opened.name, _NOT_BARE)
        return "plain"
    return config.template or opened.layout.template


def _settings(opened: Start, config: ConvertConfig, parts: Any) -> checkpoint.CheckpointSettings:
    """Return what the result says besides its model: what the source says, and above that what is asked for."""
    own = opened.settings
    if config.head is not None and not own.reranks:
        if not opened.has_head:
            raise TwowayError(f"{opened.name} has no language-model head whose answer could be read")
        score = reranker.yes_no(parts.tokenizer, opened.name)
        own = checkpoint.CheckpointSettings(transformer=own.transformer, behind=(score,), reranks=True, longest=own.longest)
    if own.reranks and (config.pooling is not None or config.truncate_dim is not None):
        raise UsageError(f"{opened.name} is a reranker, which gives scores and no vectors; leave pooling and truncate_dim out")
    mode = config.pooling or (None if own.behind else opened.layout.pooling or "mean")
    settings = own.pooled(mode, config.truncate_dim)
    module = {key: value for key, value in settings.module.items() if config.template is None or key != "modality_config"}
    return dataclasses.replace(settings, prompts=settings.prompts | config.prompts, module=module)


def _keep_layers(model: PreTrainedModel, number: int) -> None:
    """Keep so many layers of the language model, from the first to the last in even steps."""
    found, text = loading.parts(model), model.config.get_text_config()
    depth = len(found.layers)
    if number > depth:
        raise UsageError(f"num_hidden_layers is at most {depth} in this model, not {number}")
    if getattr(text, "num_kv_shared_layers", 0):
        raise TwowayError("layers of this model read the keys and values of others, so none can be left out")
    kept = np.linspace(0, depth - 1, number).round().astype(int).tolist()
    for name, value in text.to_dict().items():
        if isinstance(value, list) and len(value) == depth:  # a value for each layer, such as its kind of attention
            setattr(text, name, [value[place] for place in kept])
    text.num_hidden_layers = number
    for place in sorted(set(range(depth)) - set(kept), reverse=True):
        del found.layers[place]
    for place, layer in enumerate(found.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", place)  # noqa: B010 - no type has it


def _prepare(model: PreTrainedModel, parts: Any, config: ConvertConfig, mode: str, template: Style, longest: int | None) -> int:
    """Set the processor's limits and template, and return the longest row."""
    set_pixels(model.config, parts, min_pixels=config.min_pixels, max_pixels=config.max_pixels)
    write_as(parts, template)
    longest = processors.set_max_length(model, parts, config.max_length or longest)
    if mode == "eos":
        poolings.append_eos(parts)
    return longest


def try_out(result: checkpoint.Assembled, mode: str) -> tuple[str, ...]:
    """Run the saved model on every kind of input, and return what its user must know."""
    if isinstance(result, CrossEncoder):
        return _try_pairs(result)
    transformer, picture = cast("Any", result[0]), _picture()
    rows: list[Any] = ["a text"]
    if "image" in transformer.modalities:
        rows += [picture, {"image": picture, "text": "and words"}]
    result.float()  # rounding in half precision would look like a difference

    def encode(rows: list[Any]) -> NDArray[np.float32]:
        return np.concatenate([np.atleast_2d(one) for one in result.encode(rows, convert_to_numpy=True, show_progress_bar=False)])

    with _own_processor():
        alone, together = np.concatenate([encode([row]) for row in rows]), encode(rows)
        if mode == "eos":
            poolings.require_eos(transformer, transformer.tokenizer.eos_token_id, rows)
    if not np.isfinite(alone).all():
        raise TwowayError("the converted model gives vectors that are not finite; look at its weights or at --dtype")
    if alone.shape != together.shape or np.abs(alone - together).max() > 1e-3:
        name = type(transformer.processor).__name__
        return (f"Encode texts and images in calls of their own: {name} writes a text differently where the batch also holds images.",)
    return ()


def measure(result: checkpoint.Assembled, attention: Attention, pooling: str) -> dict[str, Any]:
    """Return what a card says of a saved model: its family, its attention as proved, and the numbers of its vectors, or its score."""
    first = cast("Any", result[0])
    width = loading.text_width(first.model)
    dim = width if isinstance(result, CrossEncoder) else getattr(result, "truncate_dim", None) or result.get_embedding_dimension()
    return {
        "family": first.model.config.model_type,
        "attention": prove_attention(result, attention),
        "pooling": pooling,
        "width": width,
        "dim": None if dim == width else dim,
        "score": reranker.describe_score([*result][1:]) if isinstance(result, CrossEncoder) else "",
        "late_interaction": isinstance(result, MultiVectorEncoder),
    }


@contextmanager
def _own_processor() -> Iterator[None]:
    """Say of what fails on every kind of input that it may be another model's processor."""
    try:
        yield
    except TwowayError:
        raise
    except Exception as error:
        why = loading.first_line(error)
        raise TwowayError(f"model and processor do not work together: {why}; is this the model's own processor?") from error


def _picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8))


def _try_pairs(result: CrossEncoder) -> tuple[str, ...]:
    """Run the saved reranker on every kind of pair, and return what its user must know: nothing, where it works."""
    transformer, picture = cast("Any", result[0]), _picture()
    pairs: list[Any] = [("a text", "another"), ("a text", "a longer one, about something else")]
    if "image" in transformer.modalities:
        pairs += [("a text", picture), (picture, "a text")]
    result.float()
    with _own_processor():
        scores = result.predict(pairs, show_progress_bar=False)
    if not np.isfinite(scores).all():
        raise TwowayError("the reranker gives scores that are not finite; look at its weights or at --dtype")
    return ()


def prove_attention(result: checkpoint.Assembled, wanted: Attention) -> dict[str, Any]:
    """Prove that the saved model attends as it declares; of a mixed one, say which layers do what."""
    transformer = cast("Any", result[0])
    verdict = probe.probe(transformer.model, transformer.processor)
    family, measured = transformer.model.config.model_type, verdict.attention
    if measured not in ({wanted} if wanted != "causal" else {"causal", "mixed"}):
        why = f" ({verdict.reason})" if verdict.reason else ""
        if measured == "mixed" and _some_two_way(verdict):
            raise TwowayError(
                f"{family} was to be two-way and is measured mixed{why}; --attention mixed takes what can be had, and says so in the card"
            )
        if wanted == "mixed" and measured == "two-way":
            raise TwowayError(f"{family} is two-way in every layer, and a card that calls it mixed would be wrong; leave --attention out")
        raise TwowayError(f"{family} was to be {wanted} and is measured {measured}{why}; a model like this cannot be converted so")
    backends = sorted({cell.backend for cell in verdict.cells})
    said = {"declared": wanted, "measured": measured, "reason": verdict.reason, "backends": backends}
    return said | ({"layers": [layer.attention for layer in verdict.layers]} if wanted == "mixed" else {})


def _some_two_way(verdict: Verdict) -> bool:
    """Say whether there is something to be had: a layer that the switch has opened."""
    return any(layer.attention == "two-way" for layer in verdict.layers)
