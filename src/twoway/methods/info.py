"""`info`: what a model is, in one look: family, sizes by part, attention as declared and as measured, and where it comes from.

Attention is measured here under one backend and without padding, which takes seconds; `check` is the whole proof.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from twoway.errors import TwowayError
from twoway.models import checkpoint, loading
from twoway.models.loading import weight_files
from twoway.models.opening import Opened, open_model
from twoway.proof import probe
from twoway.proof.check import quiet_compiler

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)


def info(model: str | Path) -> dict[str, Any]:
    """Describe `model`, a folder or hub id, of transformers or sentence-transformers."""
    with quiet_compiler():
        opened = open_model(model)
        verdict = probe.probe(opened.model, opened.processor, paddings=("none",))
    tensors = _stored(opened)
    tokenizer = getattr(opened.processor, "tokenizer", opened.processor)
    facts = opened.provenance
    return {
        "model": str(model),
        "family": opened.model.config.model_type,
        "kind": "sentence-transformers" if opened.sentence is not None else "transformers",
        "sizes": _sizes(opened, tensors),
        "dtype": ", ".join(sorted({dtype for _, dtype, _ in tensors})),
        "attention": {
            "declared": opened.declared.attention,
            "by": opened.declared.by or "nothing says otherwise",
            "measured": verdict.attention,
            "how": f"{verdict.cells[0].backend}, unpadded, {' and '.join(cell.kind for cell in verdict.cells)}",
            "why": verdict.reason,
        },
        "pooling": _pooling(opened),
        "width": _width(opened),
        "mask_token": facts.get("mask_token") or getattr(tokenizer, "mask_token", None),
        "prompts": {name: text for name, text in _prompts(opened).items() if text},
        "max_length": _max_length(opened, tokenizer),
        "licence": facts.get("licence") or checkpoint.licence_of(opened.folder),
        "base": facts.get("base"),
        "heads": facts.get("heads", {}),
        "chain": facts.get("chain", []),
    }


def _stored(opened: Opened) -> list[tuple[str, str, int]]:
    """Read name, precision and size of every stored tensor from the files' headers."""
    found = []
    for path in weight_files(opened.folder if opened.sentence is None else _module_folder(opened)):
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                part = file.get_slice(name)
                size = 1
                for side in part.get_shape():
                    size *= side
                found.append((name, str(part.get_dtype()), size))
    return found


def _module_folder(opened: Opened) -> Path:
    """Return where a sentence-transformers model keeps its transformer: its own folder, or the first module's."""
    places = [opened.folder, *sorted(opened.folder.glob("0_*"))]
    return next((place for place in places if any(place.glob("model*.safetensors"))), opened.folder)


def _sizes(opened: Opened, tensors: list[tuple[str, str, int]]) -> dict[str, int]:
    """Count parameters by part; the head is counted as stored, since the model is opened without it."""
    total = sum(parameter.numel() for parameter in opened.model.parameters())
    try:
        sizes = loading.parts(opened.model).sizes()
    except TwowayError:
        embeddings = sum(parameter.numel() for parameter in opened.model.get_input_embeddings().parameters())
        sizes = {"embeddings": embeddings, "language model": total - embeddings}
    sizes.setdefault("other", max(0, total - sum(sizes.values())))
    sizes["head"] = sum(size for name, _, size in tensors if "lm_head" in name.split("."))
    return {name: size for name, size in sizes.items() if size} | {"total": total + sizes["head"]}


def _pooling(opened: Opened) -> str | None:
    if opened.provenance.get("pooling"):
        return str(opened.provenance["pooling"])
    for module in opened.sentence or ():
        mode = module.get_config_dict().get("pooling_mode") if hasattr(module, "get_config_dict") else None
        if mode:
            return str(mode)
    return None


def _prompts(opened: Opened) -> dict[str, str]:
    return dict(opened.sentence.prompts if opened.sentence is not None else opened.provenance.get("prompts", {}))


def _width(opened: Opened) -> int:
    width = opened.sentence.get_embedding_dimension() if opened.sentence is not None else None
    return int(width or loading.text_width(opened.model))


def _max_length(opened: Opened, tokenizer: Any) -> int | None:
    """Return the longest row that the model is made for; a tokenizer without a limit names an absurd one."""
    positions = getattr(opened.model.config.get_text_config(), "max_position_embeddings", None)
    limits = [
        opened.sentence.max_seq_length if opened.sentence is not None else None,
        getattr(tokenizer, "model_max_length", None),
        positions,
    ]
    known = [int(limit) for limit in limits if isinstance(limit, int) and 0 < limit < 10**9]
    return min(known) if known else None
