"""Checkpoints as MoCa's trainer saves them, and the heads that go on beside a model.

Such a checkpoint names an architecture that transformers does not have (`Qwen2_5ForEmbedding`, or `Qwen2_5ForMLMMAE` with a patch
decoder beside the backbone) and keeps the key layout of its time. The backbone goes through transformers' own key conversion.
The heads (the patch decoder, and a language-model head that is not tied) serve further training alone, so they lie in `heads/`
beside the model, where nothing that others load looks. They are in `PatchDecoder`'s form, `body.layers.N.*` and `to_values.*`: the
released code lays the values of a position's patches out value by value, here they lie patch by patch, as the processor gives them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from twoway.errors import TwowayError

from .source import check_file, read_json, weight_files

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

FOLDER, INDEX = "heads", "heads.json"
PATCH_DECODER, LM_HEAD = "patch_decoder", "lm_head"
# The trainer's names and the patch decoder's; its decoder is one layer.
_NAMES = {"mae_decoder.": "body.layers.0.", "mae_proj.": "to_values."}


@dataclass(frozen=True)
class Heads:
    """What a model needs to go on training and nobody needs to embed."""

    patch_decoder: dict[str, torch.Tensor] = field(default_factory=dict)
    lm_head: dict[str, torch.Tensor] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.patch_decoder or self.lm_head)


def is_head(name: str) -> bool:
    """Say whether a tensor of a checkpoint belongs to a head of MoCa's trainer."""
    return name.startswith(tuple(_NAMES))


def read_patch_decoder(folder: Path, config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """Read the patch decoder out of a trainer's checkpoint; empty where there is none."""
    found: dict[str, torch.Tensor] = {}
    patches = getattr(config.vision_config, "spatial_merge_size", 1) ** 2
    for path in weight_files(folder):
        with safe_open(str(path), framework="pt") as file:
            for name in filter(is_head, file.keys()):
                old = next(prefix for prefix in _NAMES if name.startswith(prefix))
                found[_NAMES[old] + name.removeprefix(old)] = file.get_tensor(name)
    for name in [name for name in found if name.startswith("to_values.")]:
        rows = found[name]
        if len(rows) % patches:
            raise TwowayError(f"{folder}: the patch decoder gives {len(rows)} values, which {patches} patches a position cannot share")
        found[name] = rows.reshape(-1, patches, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape).contiguous()
    return found


def lm_head_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the language-model head where it is a matrix of its own; a tied one is in the embeddings already."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings().weight
    if head is None or head.weight is table:
        return {}
    return {name: tensor.detach().contiguous() for name, tensor in head.state_dict().items()}


def save_heads(heads: Heads, out: Path) -> dict[str, Any]:
    """Write the heads below `out` with a small JSON that says what they are, and return that."""
    index: dict[str, Any] = {}
    if heads.patch_decoder:
        layers = {name.split(".")[2] for name in heads.patch_decoder if name.startswith("body.layers.")}
        values = int(heads.patch_decoder["to_values.weight"].shape[0])
        index[PATCH_DECODER] = {"file": f"{PATCH_DECODER}.safetensors", "depth": len(layers), "values": values}
    if heads.lm_head:
        rows, width = heads.lm_head["weight"].shape
        index[LM_HEAD] = {"file": f"{LM_HEAD}.safetensors", "rows": rows, "width": width}
    if index:
        (out / FOLDER).mkdir()
        for name, entry in index.items():
            save_file(getattr(heads, name), out / FOLDER / entry["file"], metadata={"format": "pt"})
        (out / FOLDER / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return index


def load_heads(folder: Path) -> Heads:
    """Read the heads beside a model that `convert` or a training stage wrote; without any, they are empty."""
    if not (folder / FOLDER / INDEX).exists():
        return Heads()
    read: dict[str, dict[str, torch.Tensor]] = {}
    for name, entry in read_json(folder / FOLDER / INDEX).items():
        if name not in (PATCH_DECODER, LM_HEAD) or not isinstance(entry, dict) or "file" not in entry:
            raise TwowayError(f"{folder / FOLDER / INDEX} names a head {name!r} that is not known; it holds {PATCH_DECODER} and {LM_HEAD}")
        path = folder / FOLDER / str(entry["file"])
        check_file(path)
        read[name] = load_file(path)
    return Heads(**read)
