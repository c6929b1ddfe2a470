"""One hash for everything that decides a model's vectors: weights and precision, configuration, processor, pooling, prompts.

It is taken from the model in memory, so a model on disk, the same model in training, and an adapter merged on the fly agree where their
vectors do. What a tokenizer remembers of its latest call (padding, truncation) is left out, and so are names of folders and versions.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

from ..data.lengths import clean, processor_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        "model": clean(first.auto_model.config.to_dict()) if hasattr(first, "auto_model") else {},
        "processor": processor_settings(processor),
    }


def _config_of(module: Any) -> Any:
    """Return a module's own settings, but for the transformer's, which name classes and files."""
    said = module.get_config_dict() if hasattr(module, "get_config_dict") else {}
    return clean(said)
