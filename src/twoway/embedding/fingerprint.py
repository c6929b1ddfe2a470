"""One hash for everything that decides a model's vectors: weights and precision, configuration, processor, pooling, prompts.

It is taken from the model in memory, so a model on disk, the same model in training, and an adapter merged on the fly agree where their
vectors do. What a tokenizer remembers of its latest call (padding, truncation) is left out, and so are names of folders and versions.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

# What says where a model comes from or how it is run, not what it computes.
_ASIDE = ("_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures", "_attn_implementation")
_BYTES = 1 << 26


def fingerprint(sentence: Any) -> str:
    """Return the hash in hex; it reads every weight once."""
    digest = hashlib.sha256()
    for name, tensor in sorted(sentence.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for piece in _pieces(tensor):
            digest.update(piece)
    digest.update(json.dumps(_settings(sentence), sort_keys=True, default=str, ensure_ascii=False).encode())
    return digest.hexdigest()


def _pieces(tensor: torch.Tensor) -> Iterator[Any]:
    """Give a tensor's bytes piece by piece, so that a large matrix on an accelerator is never whole in memory twice."""
    flat = tensor.detach().reshape(-1)
    step = max(1, _BYTES // max(1, flat.element_size()))
    for start in range(0, len(flat), step):
        yield flat[start : start + step].cpu().contiguous().view(torch.uint8).numpy().data


def _settings(sentence: Any) -> dict[str, Any]:
    """Return everything besides weights."""
    modules = [(type(module).__name__, _config_of(module)) for module in sentence]
    first = sentence[0]
    processor = getattr(first, "processor", None) or getattr(first, "tokenizer", None)
    return {
        "modules": modules,
        "prompts": dict(sentence.prompts),
        "default": sentence.default_prompt_name,
        "cut": sentence.truncate_dim,
        "longest": sentence.max_seq_length,
        "model": _clean(first.auto_model.config.to_dict()) if hasattr(first, "auto_model") else {},
        "processor": _processor(processor),
    }


def _config_of(module: Any) -> Any:
    """Return a module's own settings, but for the transformer's, which name classes and files."""
    said = module.get_config_dict() if hasattr(module, "get_config_dict") else {}
    return _clean(said)


def _processor(processor: Any) -> dict[str, Any]:
    tokenizer = getattr(processor, "tokenizer", processor)
    image = getattr(processor, "image_processor", None)
    found: dict[str, Any] = {"template": getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)}
    if image is not None:
        found["image"] = _clean(image.to_dict())
    backend = getattr(tokenizer, "backend_tokenizer", None) or getattr(tokenizer, "_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        said = json.loads(backend.to_str())
        found["tokenizer"] = {key: value for key, value in said.items() if key not in ("padding", "truncation")}
        found["side"] = [getattr(tokenizer, name, None) for name in ("padding_side", "truncation_side")]
    return found


def _clean(value: Any) -> Any:
    """Leave out what says nothing about vectors, at any depth."""
    if isinstance(value, dict):
        return {str(key): _clean(item) for key, item in value.items() if key not in _ASIDE and item is not None}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value
