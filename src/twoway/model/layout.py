"""What the layout of a checkpoint tells that its config does not: how it attends, where its vector is read, how its inputs were written.

A trainer of embedding models leaves a folder that looks like a vision-language model's, or an adapter. Three things that decide every
vector stand nowhere in it, and the trainer's own code knows them by heart. What is left of them here is the name of the architecture in
`config.json`, and that a folder is an adapter.

- MoCa (arXiv 2506.23115): two-way, the mean, contents one behind the other without the turns of a chat.
- CoCoA (arXiv 2603.01471): two-way, the state at an EOS that is appended to every row, contents one behind the other.
- VLM2Vec (arXiv 2410.05160): an adapter of peft, known by the layers that it asks for; contents one behind the other, a picture's
  placeholder without the marks around it, so that transformers of its time numbered the picture's tokens as text, and not by rows and
  columns (`bare`); attention and pooling as its base's config has it. Any other adapter: contents one behind the other.

This is the one place that says so: who opens such a folder and who converts it get the same vectors, but for `bare`, whose positions no
config can say: such a folder is opened as it was trained, and is converted to `plain`, with a word of it. CoCoA's merged Qwen2-VL and
VLM2Vec's merged weights have the name of any Qwen2-VL, so nobody can see what they are: that has to be asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import processor
from .prompting import set_template
from .source import read_json

if TYPE_CHECKING:
    from pathlib import Path

    from .attention import Attention
    from .prompting import Style

# Endings of architectures' names that transformers does not have.
_MOCA = ("ForEmbedding", "ForMLMMAE")
# Layers of three families at once: VLM2Vec asks for them all, whatever its base has.
_VLM2VEC = {"qkv_proj", "gate_up_proj", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj", "down_proj"}
_COCOA = ("BiForMNTP", "ForConditionalGenerationBidirectional")


@dataclass(frozen=True)
class Layout:
    """What a layout tells; nothing of attention and pooling where it tells nothing."""

    attention: Attention | None = None
    pooling: str | None = None
    template: Style = "chat"


def layout_of(folder: Path) -> Layout:
    """Return what the layout of a model's folder tells."""
    config = folder / "config.json"
    names = [str(name) for name in (read_json(config).get("architectures") if config.exists() else None) or ()]
    if any(name.endswith(_MOCA) for name in names):
        return Layout("two-way", "mean", "plain")
    if any(name.endswith(_COCOA) for name in names):
        return Layout("two-way", "eos", "plain")
    return Layout()


def layout_of_adapter(base: Layout, folder: Path, *, encoder: bool) -> Layout:
    """Return what being an adapter tells beside its base's layout; `encoder`: the base says itself how its inputs are written."""
    if encoder:
        return base
    asked = read_json(folder / "adapter_config.json").get("target_modules")
    return replace(base, template="bare" if base == Layout() and isinstance(asked, list) and set(asked) >= _VLM2VEC else "plain")


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
