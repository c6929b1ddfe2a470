"""Open any model to look at it: a transformers checkpoint or a sentence-transformers one, ours or not, text or vision-language.

What comes out is the model without its head, its processor (or tokenizer, or nothing), and what the folder declares about attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError

from twoway.errors import TwowayError, UsageError, did_you_mean

from . import attn_implementation, card
from .attention import ATTENTION
from .backbone import DTYPES, load_config
from .encoder import open_sentence_model
from .source import PROCESSOR, first_line, locate, weight_files

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedConfig


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
        raise UsageError(f"device {device!r} is not to be had here: {first_line(error)}") from error
    folder = locate(spec)
    provenance = card.read(folder)
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
    attn_implementation.use(inner)
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
    said = card.attention(provenance)
    if said in ATTENTION:
        layers = tuple(provenance["attention"].get("layers", ())) if said == "mixed" else ()
        return Declared(str(said), f"{card.FILE}: attention", layers)
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
    sentence = open_sentence_model(folder, settings, device)
    if not hasattr(sentence[0], "auto_model"):
        raise TwowayError(f"{folder}: its first module is {type(sentence[0]).__name__}, which holds no transformers model to look into")
    return sentence
