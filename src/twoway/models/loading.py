"""Find a checkpoint by hub id or folder, check its files, load it, and find its parts through what transformers exposes."""

from __future__ import annotations

import json
import re
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import torch
import transformers
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError, safe_open
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from twoway.errors import TwowayError, UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedConfig, PreTrainedModel


# Find a checkpoint, by hub id or folder, and check its weight files before anything is loaded.
#
# Weights are read from safetensors alone. A pickle runs code while it is read, so it is refused, with the way to
# convert it; a cut-off or corrupt file, or a missing shard, is named here and not as a stack of errors out of a
# loader.

# A processor alone: its files are kilobytes, the weights beside them gigabytes.
PROCESSOR = ("*.json", "*.jinja", "*.txt", "*.model")
WANTED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md", "LICENSE*")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def locate(spec: str | Path, wanted: tuple[str, ...] = WANTED) -> Path:
    """Return the folder of a checkpoint; of a hub id, what is `wanted` is fetched (or found in the cache) by the hub's own client."""
    folder = Path(spec)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise TwowayError(f"{folder} is a file; name the folder that holds the checkpoint")
    if isinstance(spec, Path) or not is_hub_id(spec):
        raise TwowayError(f"no such model: {spec} is neither a folder nor a hub id like owner/name")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                spec, allow_patterns=list(wanted), ignore_patterns=["*.index.json"] if wanted is PROCESSOR else None
            )
        )
    except GatedRepoError as error:
        raise TwowayError(f"{spec} is gated on the hub; ask for access there and log in with `hf auth login`") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise TwowayError(f"no such model: {spec} is not a local folder, and the hub has no repository of that name") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise TwowayError(f"no such model: {spec} is not a local folder, and the hub cannot be reached") from error
    except (HfHubHTTPError, OSError) as error:
        raise TwowayError(f"{spec} is not a local folder, and the hub did not answer: {first_line(error)}") from error


def is_hub_id(spec: str) -> bool:
    """Say whether a name could be that of a repository on the hub."""
    return _HUB_ID.fullmatch(spec) is not None


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object, or say what is wrong with the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TwowayError(f"{path} is missing; is {path.parent} a whole checkpoint?") from error
    except (ValueError, OSError) as error:
        raise TwowayError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise TwowayError(f"{path} should hold a JSON object, not a {type(content).__name__}")
    return content


def weight_files(folder: Path, stem: str = "model") -> list[Path]:
    """Return the safetensors files of a checkpoint, each opened once to see that it is whole."""
    index = folder / f"{stem}.safetensors.index.json"
    if index.exists():
        shards = read_json(index).get("weight_map", {})
        files = sorted({folder / str(name) for name in shards.values()})
    else:
        files = [folder / f"{stem}.safetensors"]
    missing = [path.name for path in files if not path.exists()]
    if missing and not index.exists():
        raise _no_weights(folder, stem)
    if missing or not files:
        raise TwowayError(f"{folder} lacks the weight file {', '.join(missing) or '(its index names none)'}; copy the checkpoint again")
    for path in files:
        check_safetensors(path)
    return files


def check_safetensors(path: Path) -> None:
    """Open a safetensors file, which compares its header with its length."""
    try:
        with safe_open(str(path), framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise TwowayError(f"{path} is cut off or corrupt ({first_line(error)}); copy or download it again") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, for messages of one line."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def _no_weights(folder: Path, stem: str) -> TwowayError:
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern) if path.name != "training_args.bin")
    if not pickles:
        return TwowayError(f"{folder} has no weights: {stem}.safetensors is missing")
    if stem == "model":
        how = f"M.from_pretrained('{folder}').save_pretrained('NEW')"
        way = f'python -c "from transformers import AutoModelForImageTextToText as M; {how}"'
    else:
        way = "peft's PeftModel.from_pretrained(...).save_pretrained('NEW')"
    return TwowayError(
        f"{folder} has only pickle weights ({pickles[0]}), which run code when they are read; "
        f"where you trust the file, convert it once: {way}"
    )


# Load any causal vision-language model and find its parts through what transformers exposes.
#
# There is no list of families: which class loads a config is transformers' own mapping, and the parts come from
# `get_decoder`, `get_encoder`, `get_input_embeddings` and `get_output_embeddings`, which every model has. Old key
# layouts (a trainer's of 2025, say) go through transformers' own key conversion.

# Set where a model is opened without weights, for a rank that gets the first one's: the mask token that the first one has chosen.
SKELETON: ContextVar[str | None] = ContextVar("skeleton", default=None)
DTYPES = ("auto", "float32", "bfloat16", "float16")
_PROJECTOR = re.compile(r"(^|\.)(\w*merger\w*|\w*projector|connector|embed_vision)$")


@dataclass(frozen=True)
class Loaded:
    """A model with its language-model head, and what the weight files held besides."""

    model: PreTrainedModel
    has_head: bool
    extra: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Parts:
    """The parts of a model, by the name each has inside it."""

    language: tuple[str, torch.nn.Module]
    tower: tuple[str, torch.nn.Module] | None
    projectors: tuple[tuple[str, torch.nn.Module], ...]
    embeddings: tuple[str, torch.nn.Module]
    layers: torch.nn.ModuleList
    norm: torch.nn.Module | None
    head: torch.nn.Module | None
    everything: torch.nn.Module

    def sizes(self) -> dict[str, int]:
        """Return parameters by part; a projector inside the tower counts as projector, and what joins the parts as other."""
        held = {
            "embeddings": _ids(self.embeddings[1]),
            "projector": {key: size for _, module in self.projectors for key, size in _ids(module).items()},
            "tower": _ids(self.tower[1]) if self.tower else {},
            "language model": _ids(self.language[1]),
            "head": _ids(self.head) if self.head is not None else {},
            "other": _ids(self.everything),
        }
        seen: set[int] = set()
        sizes = {}
        for name, ids in held.items():
            sizes[name] = sum(size for key, size in ids.items() if key not in seen)
            seen |= ids.keys()
        return sizes


def load_config(folder: Path) -> PreTrainedConfig:
    """Read a checkpoint's config with transformers' own classes; code that a checkpoint brings is not run."""
    raw = read_json(folder / "config.json")
    if "model_type" not in raw:
        raise TwowayError(f"{folder / 'config.json'} names no model_type, so nothing can load it")
    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError) as error:
        if "auto_map" in raw:
            raise TwowayError(f"{folder} needs code of its own to load (auto_map), and code from checkpoints is not run") from error
        known = transformers.models.auto.configuration_auto.CONFIG_MAPPING.keys()
        near = did_you_mean(str(raw["model_type"]), known) if raw["model_type"] not in known else f" ({first_line(error)})"
        raise TwowayError(
            f"{folder / 'config.json'}: transformers {transformers.__version__} cannot read model_type {raw['model_type']!r}{near}"
        ) from error


def require_vision_language(config: PreTrainedConfig, folder: Path) -> None:
    """Refuse what is no causal vision-language model, and say what it is."""
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False) or getattr(config.get_text_config(), "is_encoder_decoder", False):
        raise TwowayError(f"{folder} is an encoder-decoder model ({kind}); convert takes a causal vision-language model")
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return
    # Encoders have a decoder's head too, and say that they are none.
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and getattr(config, "is_decoder", True):
        raise TwowayError(f"{folder} is a text-only model ({kind}); convert takes a causal vision-language model, with a tower for images")
    raise TwowayError(f"{folder} is not a generative model ({kind}, an encoder alone); convert takes a causal vision-language model")


def load_model(folder: Path, *, dtype: str = "auto") -> Loaded:
    """Load a causal vision-language model with its head, and fail where the weights do not cover the model."""
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}{did_you_mean(dtype, DTYPES)} (there are: {', '.join(DTYPES)})")
    config = load_config(folder)
    require_vision_language(config, folder)
    weight_files(folder)
    try:
        if SKELETON.get() is not None:
            return _skeleton(config, dtype)
        model, info = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except ImportError as error:
        raise TwowayError(f"{folder}: {config.model_type} needs a package that is not here: {first_line(error)}") from error
    except (RuntimeError, ValueError, KeyError, OSError, SafetensorError) as error:
        raise TwowayError(f"the weights in {folder} do not fit its config: {first_line(error)}") from error
    if info["mismatched_keys"]:
        raise TwowayError(f"the weights in {folder} do not fit its config: {sorted(info['mismatched_keys'])[0]} has another shape")
    head = head_names(model)
    lacking = sorted(set(info["missing_keys"]) - head)
    if lacking:
        raise TwowayError(f"the weights in {folder} lack {len(lacking)} tensors of a {config.model_type} model, {lacking[0]} for one")
    model.eval()
    return Loaded(model, not (set(info["missing_keys"]) & head), tuple(sorted(info["unexpected_keys"])))


def _skeleton(config: PreTrainedConfig, dtype: str) -> Loaded:
    """Make a model without weights; what its files hold is seen by the rank that reads them."""
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config, dtype=None if dtype == "auto" else getattr(torch, dtype))
    model.tie_weights()
    model.eval()
    return Loaded(model, has_head=True)


def head_names(model: PreTrainedModel) -> set[str]:
    """Return the names of the language-model head's tensors."""
    head = model.get_output_embeddings()
    return {f"{name}.{key}" for name, module in model.named_modules() if module is head and head is not None for key in head.state_dict()}


def inner(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model without its head, which is what an embedding model is made of."""
    return model.base_model


def parts(model: PreTrainedModel) -> Parts:
    """Find the parts of a loaded model."""
    names = {id(module): name for name, module in model.named_modules()}
    language, tower = model.get_decoder(), model.get_encoder(modality="image")
    # What holds the layers may lie deeper: a family may keep its language model with a head of its own (Llama 4).
    while not hasattr(language, "layers") and hasattr(language, "get_decoder") and language.get_decoder() is not language:
        language = language.get_decoder()
    layers = getattr(language, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList):
        raise TwowayError(f"no decoder layers found in {type(model).__name__}; its language model shows none")
    inside = {id(module) for module in language.modules()}
    has_tower = tower is not None and id(tower) != id(model) and id(tower) not in inside
    projectors = tuple((name, module) for name, module in model.named_modules() if _PROJECTOR.search(name) and id(module) not in inside)
    embeddings = model.get_input_embeddings()
    return Parts(
        language=(names[id(language)], language),
        tower=(names[id(tower)], tower) if has_tower else None,
        projectors=projectors,
        embeddings=(names[id(embeddings)], embeddings),
        layers=layers,
        norm=getattr(language, "norm", None),
        head=model.get_output_embeddings(),
        everything=model,
    )


def text_width(model: PreTrainedModel) -> int:
    """Return the width of the language model's states."""
    return int(model.config.get_text_config().hidden_size)


def linear_names(modules: Sequence[tuple[str, torch.nn.Module]]) -> list[str]:
    """Return the full names of the linear layers inside these modules."""
    return [
        ".".join(filter(None, (prefix, name)))
        for prefix, module in modules
        for name, child in module.named_modules()
        if isinstance(child, torch.nn.Linear)
    ]


def _ids(module: torch.nn.Module) -> dict[int, int]:
    return {id(parameter): parameter.numel() for parameter in module.parameters()}


def versions() -> dict[str, Any]:
    """Return the versions that a result depends on."""
    import sentence_transformers

    import twoway

    return {
        "twoway": twoway.__version__,
        "transformers": transformers.__version__,
        "sentence_transformers": sentence_transformers.__version__,
        "torch": torch.__version__,
    }
