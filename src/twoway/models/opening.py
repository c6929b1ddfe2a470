"""Open a checkpoint of any layout, to inspect it or to train from it."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from sentence_transformers import MultiVectorEncoder, SentenceTransformer

from twoway.errors import TwowayError, UsageError, did_you_mean
from twoway.files import sha256

from . import adapters, checkpoint, kernels, loading, processor
from .checkpoint import open_sentence_model
from .config import ATTENTION
from .loading import DTYPES, PROCESSOR, first_line, load_config, locate, read_json, weight_files
from .processor import set_template

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from .config import Attention
    from .processor import Style

log = logging.getLogger(__name__)


# What the layout of a checkpoint shows and its config does not: its attention, where its vector is read, how its
# inputs were written.
#
# A trainer of embedding models writes a folder that looks like a vision-language model's, or an adapter. Three things
# that decide every vector are not stored in it, because the trainer's own code has them hard-coded. The only traces
# are the name of the architecture in `config.json`, and that a folder is an adapter.
#
# - MoCa (arXiv 2506.23115): two-way, the mean, contents in order without chat turns.
# - CoCoA (arXiv 2603.01471): two-way, the state at an EOS that is appended to every row, contents in order.
# - VLM2Vec (arXiv 2410.05160): an adapter of peft, known by the layers that it asks for; contents in order, a picture's
#   placeholder without the marks around it, so that transformers of its time numbered the picture's tokens as text, and not by rows and
#   columns (`bare`); attention and pooling as its base's config has it. Any other adapter: contents in order.
#
# This is the only place that decides it, so opening such a folder and converting it give the same vectors, except for
# `bare`, whose positions no config can express: such a folder is opened as it was trained, and is converted to
# `plain`, with a warning. CoCoA's merged Qwen2-VL and VLM2Vec's merged weights cannot be told from any Qwen2-VL: for
# them the user has to say it.

# Endings of architectures' names that transformers does not have.
_MOCA = ("ForEmbedding", "ForMLMMAE")
# Layers of three families at once: VLM2Vec asks for them all, whatever its base has.
_VLM2VEC = {"qkv_proj", "gate_up_proj", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj", "down_proj"}
_COCOA = ("BiForMNTP", "ForConditionalGenerationBidirectional")


@dataclass(frozen=True)
class LayoutDefaults:
    """What a layout determines; attention and pooling are empty where it does not determine them."""

    attention: Attention | None = None
    pooling: str | None = None
    template: Style = "chat"


def layout_of(folder: Path) -> LayoutDefaults:
    """Return what the layout of a model's folder determines."""
    config = folder / "config.json"
    names = [str(name) for name in (read_json(config).get("architectures") if config.exists() else None) or ()]
    if any(name.endswith(_MOCA) for name in names):
        return LayoutDefaults("two-way", "mean", "plain")
    if any(name.endswith(_COCOA) for name in names):
        return LayoutDefaults("two-way", "eos", "plain")
    return LayoutDefaults()


def layout_of_adapter(base: LayoutDefaults, folder: Path, *, encoder: bool) -> LayoutDefaults:
    """Return what an adapter determines in addition to its base's layout; `encoder`: the base has its own settings of inputs."""
    if encoder:
        return base
    asked = read_json(folder / "adapter_config.json").get("target_modules")
    return replace(base, template="bare" if base == LayoutDefaults() and isinstance(asked, list) and set(asked) >= _VLM2VEC else "plain")


def write_as(parts: Any, style: Style) -> None:
    """Give a processor the template of a style: its own for `chat`, made if it has none."""
    processor.ensure_template(parts)
    if style != "chat":
        set_template(parts, style=style, place="user")


def number_as_text(parts: Any) -> None:
    """Give the tokens of pictures the positions of text, in memory: what a placeholder without its marks meant to transformers 4.

    Models take positions by rows and columns where the processor calls a token a picture's, and this one calls none so.
    """
    parts.image_token_ids = [-1]


# Open any model to look at it: a transformers checkpoint or a sentence-transformers one, ours or not, text or
# vision-language.
#
# What comes out is the model without its head, its processor (or tokenizer, or nothing), and what the folder declares
# about attention.


@dataclass(frozen=True)
class Declared:
    """What a model says of its attention, and where it says so; `by` is empty where nothing does."""

    attention: str
    by: str = ""
    layers: tuple[str, ...] = ()  # of a mixed one, each layer's


@dataclass(frozen=True)
class Opened:
    """A model in memory, with the folder it came from."""

    folder: Path
    model: Any  # without a language-model head
    processor: Any  # a processor, a tokenizer, or None
    sentence: Any  # the SentenceTransformer around it, or None
    declared: Declared
    provenance: dict[str, Any]  # its twoway.json, if it has one


def open_model(spec: str | Path, *, dtype: str = "float32", device: str = "cpu", processor: str | Path | None = None) -> Opened:
    """Load a model by folder or hub id."""
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}{did_you_mean(dtype, DTYPES)} (there are: {', '.join(DTYPES)})")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {device!r} cannot be used here: {first_line(error)}") from error
    folder = locate(spec)
    provenance = checkpoint.read_card(folder)
    settings = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    if (folder / "modules.json").exists():
        sentence = _open_sentence_model(folder, settings, place)
        first = sentence[0]
        model, own = first.auto_model, getattr(first, "processor", None) or getattr(first, "tokenizer", None)
    else:
        sentence, model = None, _open_plain(folder, settings).to(place)
        own = None if processor else open_processor(folder)
    inner = getattr(model, "base_model", model)
    inner.eval()
    kernels.use_kernels(inner)
    if processor:
        own = open_processor(locate(processor, PROCESSOR))
    return Opened(folder, inner, own, sentence, declared(inner.config, provenance), provenance)


def open_processor(folder: Path) -> Any:
    """Load a folder's processor, else its tokenizer, else nothing."""
    for kind in (transformers.AutoProcessor, transformers.AutoTokenizer):
        try:
            found = kind.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, ImportError):
            continue
        # Where the files are missing, transformers makes a tokenizer for the family that knows special tokens and nothing else.
        tokenizer = getattr(found, "tokenizer", found)
        if hasattr(tokenizer, "get_vocab") and len(tokenizer.get_vocab()) > len(tokenizer.all_special_ids):
            return found
    return None


def declared(config: PreTrainedConfig, provenance: dict[str, Any]) -> Declared:
    """Say what a model claims: its card first, then its config, the wrong place in a config included."""
    said = checkpoint.attention_of_card(provenance)
    if said in ATTENTION:
        layers = tuple(provenance["attention"].get("layers", ())) if said == "mixed" else ()
        return Declared(str(said), f"{checkpoint.CARD_FILE}: attention", layers)
    text = config.get_text_config()
    nested = text is not config
    claims = [(text, "text_config.is_causal" if nested else "is_causal"), (config, "is_causal")]
    for where, name in claims:
        value = getattr(where, "is_causal", None)
        if value is not None:
            return Declared("causal" if value else "two-way", f"config.json: {name}")
    # A wrapper's text config has this set for its images (PaliGemma); only a text model means all of its tokens by it.
    if not nested and getattr(config, "use_bidirectional_attention", None) is True:
        return Declared("two-way", "config.json: use_bidirectional_attention")
    masked = transformers.models.auto.modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if config.model_type in masked and not getattr(config, "is_decoder", False):
        return Declared("two-way", f"config.json: model_type {config.model_type}, a family of encoders")
    return Declared("causal")


def _open_plain(folder: Path, settings: dict[str, Any]) -> Any:
    config = load_config(folder)
    if config.is_encoder_decoder:
        raise TwowayError(f"{folder} is an encoder-decoder model ({config.model_type}); this is for a single stack of layers")
    weight_files(folder)
    try:
        model, info = transformers.AutoModel.from_pretrained(folder, config=config, output_loading_info=True, **settings)
    except ImportError as error:
        raise TwowayError(f"{folder}: {config.model_type} needs a package that is not here: {first_line(error)}") from error
    except (RuntimeError, ValueError, KeyError, OSError, SafetensorError) as error:
        raise TwowayError(f"{folder} cannot be loaded: {first_line(error)}") from error
    # A pooler that was never trained is no part of the states; anything else that is missing would be proved on random numbers.
    lacking = sorted(name for name in info["missing_keys"] if "pooler" not in name)
    if lacking:
        raise TwowayError(f"the weights in {folder} lack {len(lacking)} tensors of a {config.model_type} model, {lacking[0]} for one")
    return model


def _open_sentence_model(folder: Path, settings: dict[str, Any], device: torch.device) -> Any:
    kind: Any = MultiVectorEncoder if checkpoint.is_late_interaction(folder) else SentenceTransformer
    sentence = open_sentence_model(folder, settings, device, kind=kind)
    if not hasattr(sentence[0], "auto_model"):
        raise TwowayError(f"{folder}: its first module is {type(sentence[0]).__name__}, which contains no transformers model")
    return sentence


# Open anything that `convert` and the training stages can start from, with everything that is kept with the model.
#
# A source is a model, a sentence-transformers checkpoint (ours with its heads and provenance, or any other), a
# checkpoint of MoCa's trainer, or an adapter, which is merged into its base.


@dataclass(frozen=True)
class Start:
    """An opened source: the model and everything that training keeps with it."""

    model: PreTrainedModel
    name: str
    folder: Path
    heads: checkpoint.Heads
    weights: dict[str, str]
    settings: checkpoint.CheckpointSettings
    provenance: dict[str, Any]
    licence: str | None
    has_head: bool
    layout: LayoutDefaults = field(default_factory=LayoutDefaults)  # what the folder tells that the config does not
    note: dict[str, Any] = field(default_factory=dict)


def open_start(src: str | Path, *, dtype: str = "auto", base: str | None = None, late_interaction: bool = False) -> Start:
    """Open a source: an adapter with its base, a sentence-transformers checkpoint (`late_interaction`: with many vectors, too), a model."""
    folder = loading.locate(src)
    if adapters.is_adapter(folder):
        return _open_adapter(src, folder, dtype, base)
    ready = checkpoint.is_encoder(folder)
    settings = checkpoint.read_checkpoint_settings(folder) if ready else checkpoint.CheckpointSettings()
    if settings.late_interaction and not late_interaction:
        raise TwowayError(
            f"{src} gives a vector for each token (late interaction), and one vector is needed here; finetune trains it further"
        )
    inside = folder / settings.transformer
    loaded = loading.load_model(inside, dtype=dtype)
    heads = checkpoint.load_heads(folder)
    if any(checkpoint.is_head(name) for name in loaded.extra):
        heads = dataclasses.replace(heads, patch_decoder=checkpoint.read_patch_decoder(inside, loaded.model.config))
    ignored = [name for name in loaded.extra if not checkpoint.is_head(name)]
    if ignored:
        log.warning("%s: ignoring %d tensors that the model does not have, such as %s", folder, len(ignored), ignored[0])
    has_head = loaded.has_head or _put_head(loaded.model, heads)
    return Start(
        model=loaded.model,
        name=str(src) if not Path(src).exists() else folder.resolve().name,
        folder=inside,
        heads=heads,
        weights=checkpoint.hashes(inside) if loading.SKELETON.get() is None else {},
        settings=settings,
        provenance=checkpoint.read_card(folder),
        licence=checkpoint.licence_of(folder),
        has_head=has_head,
        layout=LayoutDefaults() if ready else layout_of(folder),
        # The hub's client names the folder after the revision.
        note={} if Path(src).exists() else {"revision": folder.name},
    )


def warn_of_chat(start: Start) -> None:
    """Say that inputs are written as a chat where nothing says so: a trainer's whole weights have the name of their base."""
    told = start.layout != LayoutDefaults() or start.settings.behind or start.provenance or checkpoint.speaks(start.folder)
    if not told:
        log.warning(
            "%s: nothing says how its inputs were written, and its chat template is taken; an embedding model of VLM2Vec's or CoCoA's kind "
            "without a card needs --template plain (or bare, for VLM2Vec)",
            start.name,
        )


def open_config_and_processor(folder: Path) -> tuple[PreTrainedConfig, Any, checkpoint.CheckpointSettings]:
    """Open a model's config, its processor as a training stage has it, and its settings; the weights are not read."""
    settings = checkpoint.read_checkpoint_settings(folder) if checkpoint.is_encoder(folder) else checkpoint.CheckpointSettings()
    inside = folder / settings.transformer
    config, parts = loading.load_config(inside), processor.load_processor(inside)
    processor.ensure_template(parts)
    settings.bake(parts)
    return config, parts, settings


def _open_adapter(src: str | Path, folder: Path, dtype: str, base: str | None) -> Start:
    """Open an adapter's base and merge the adapter into it."""
    loading.weight_files(folder, adapters.WEIGHTS)
    base = base or adapters.base_name(folder)
    if base is None:
        raise UsageError(f"{folder} is an adapter that names no base; name it with --base")
    opened = open_start(base, dtype=dtype)
    model = adapters.merge_folder(opened.model, folder)
    own = any((folder / name).exists() for name in ("processor_config.json", "preprocessor_config.json"))
    merged = {"adapter": folder.resolve().name if Path(src).exists() else str(src), **adapters.describe_adapter(folder)}
    sums = {f"base/{name}": value for name, value in opened.weights.items()}
    sums[f"adapter/{adapters.WEIGHTS}.safetensors"] = sha256(folder / f"{adapters.WEIGHTS}.safetensors")
    layout = layout_of_adapter(opened.layout, folder, encoder=checkpoint.is_encoder(loading.locate(base)))
    note, home = opened.note | {"merged": merged}, folder if own else opened.folder
    return dataclasses.replace(opened, model=model, folder=home, weights=sums, layout=layout, note=note)


def _put_head(model: PreTrainedModel, heads: checkpoint.Heads) -> bool:
    """Give a model that was saved without its head the head that is stored beside it."""
    head = model.get_output_embeddings()
    if head is None or not heads.lm_head:
        return False
    try:
        head.load_state_dict(heads.lm_head)
    except RuntimeError as error:
        raise TwowayError(f"the language-model head beside the model does not fit it: {loading.first_line(error)}") from error
    return True
