"""A row as `A [EOS] B` (CoCoA, arXiv 2603.01471): A as a model reads it when it embeds, then one EOS, then the words of B, masked in part.

Where EOS stands is known because the row is built here, and goes along as a number. A is written as everywhere, chat template and all; B
is words alone, as the tokenizer cuts them; so EOS ids inside a template, A or B are tokens like any other. Where a base already appends EOS
to what it reads, that EOS is the one.

What is masked in B is drawn as for pre-training (`corrupt`): a pure function of seed, epoch and the row's identity. A loses nothing.

Deviation: the paper does not say what becomes of a long target. Here B is cut at `max_target` tokens, which is counted, and A gets what is
left of `max_length`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..content import ContentError, Document, Text
from ..errors import TwowayError, UsageError
from .bridge_rows import sides
from .collate import collate
from .corrupt import CorruptConfig, Corrupted, corrupt
from .encode import Encoder, Example

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .patches import PatchGeometry
    from .spans import Ints
    from .template import Style


@dataclass(frozen=True)
class BridgeExample(Example):
    """One row; `words` are those of B, and `eos` is the place of the token between."""

    eos: int = 0
    target_cut: bool = False


@dataclass(frozen=True)
class BridgeRow(Corrupted):
    """One row with masks."""

    eos: int = 0


class BridgeEncoder:
    """Turns documents and pairs into examples; can be pickled and sent to workers."""

    def __init__(
        self,
        processor: Any,
        geometry: PatchGeometry,
        *,
        max_length: int,
        max_target: int = 256,
        template: Style = "chat",
        whole_words: bool = False,
        text_cut: float = 0.5,
    ) -> None:
        """Read what is needed of the processor; `text_cut` is where a row of one text is cut in two."""
        self.processor, self.max_length, self.max_target, self.text_cut = processor, max_length, max_target, text_cut
        self.eos = require_eos(processor.tokenizer)
        if max_target > max_length - 2:
            raise UsageError(f"max_target {max_target} leaves no room for A and EOS in rows of max_length {max_length} tokens")
        self.source = Encoder(processor, geometry, max_length=max_length, template=template, as_used=True)
        self.target = Encoder(processor, geometry, max_length=max_target + _BESIDE, template="plain", whole_words=whole_words)
        self.appends = appends_eos(processor.tokenizer)

    def __call__(self, identity: str, document: Document) -> BridgeExample:
        """Encode one row."""
        found = sides(document, self.text_cut)
        target = self.target(identity, Document((Text(found.b),), document.place))
        words = target.words.nonzero()[:, 0]
        if not len(words):
            raise ContentError("B is empty: the tokenizer makes nothing of its text", document.place)
        kept = words[: self.max_target]
        source = self.alone(identity, found.a, length=self.max_length - len(kept))
        units = None if target.units is None else torch.cat([torch.full((source.eos + 1,), -1), target.units[kept]])
        return _joined(source, target.inputs["input_ids"][kept], units, target_cut=target.cut or len(kept) < len(words))

    def alone(self, identity: str, document: Document, *, length: int | None = None) -> BridgeExample:
        """Encode A with its EOS, as it is embedded: nothing follows."""
        encode = copy.copy(self.source)
        ends = self.appends and (bool(document.images) or encode.takes_text_alone)
        encode.max_length = (length or self.max_length) - (not ends)
        example = encode(identity, document)
        place = len(example.words) - ends
        if not ends:
            example = _longer(example, torch.tensor([self.eos]))
        elif int(example.inputs["input_ids"][-1]) != self.eos:
            raise TwowayError(f"{type(self.processor).__name__} takes the EOS token off again, so it cannot be the bridge")
        return BridgeExample(**vars(example) | {"words": torch.zeros_like(example.words)}, eos=place)


# Tokens that a tokenizer may put around a text.
_BESIDE = 8


def require_eos(tokenizer: Any) -> int:
    """Return the id of EOS, or say that there is none."""
    if tokenizer.eos_token_id is None:
        raise TwowayError("this tokenizer has no EOS token, which is the bridge; set eos_token in tokenizer_config.json")
    return int(tokenizer.eos_token_id)


def appends_eos(tokenizer: Any) -> bool:
    """Tell whether a tokenizer ends every row in EOS by itself, as the models that come out of this stage do."""
    bare, whole = (tokenizer("a", add_special_tokens=adds)["input_ids"] for adds in (False, True))
    return len(whole) > len(bare) and whole[-1] == tokenizer.eos_token_id and bare[-1:] != whole[-1:]


def mask_target(
    example: BridgeExample,
    *,
    epoch: int,
    config: CorruptConfig,
    seed: int,
    mask_token: int,
    geometry: PatchGeometry,
    ordinary: Ints | None = None,
) -> BridgeRow:
    """Mask words of B."""
    row = corrupt(example, config, seed=seed, epoch=epoch, mask_token=mask_token, geometry=geometry, ordinary=ordinary)
    counts = row.counts | {"targets_cut": int(example.target_cut), "sources_cut": int(example.cut)}
    return BridgeRow(**vars(row) | {"counts": counts}, eos=example.eos)


def collate_bridge(rows: Sequence[BridgeRow], *, pad_token: int, padding_side: Literal["left", "right"] = "right") -> dict[str, Any]:
    """Return a batch as `collate` does, with `eos`, the place of each row's EOS, counted with the padding."""
    batch = collate(rows, pad_token=pad_token, padding_side=padding_side)
    longest = batch["labels"].shape[1]
    shifts = [longest - len(row.labels) if padding_side == "left" else 0 for row in rows]
    batch["eos"] = torch.tensor([row.eos + shift for row, shift in zip(rows, shifts, strict=True)])
    return batch


def _joined(source: BridgeExample, target: Tensor, units: Tensor | None, *, target_cut: bool) -> BridgeExample:
    """Put B behind EOS."""
    longer = _longer(source, target)
    words = torch.cat([torch.zeros_like(source.words), torch.ones(len(target), dtype=torch.bool)])
    return BridgeExample(**vars(longer) | {"words": words, "units": units, "eos": source.eos, "target_cut": target_cut})


def _longer(example: Example, ids: Tensor) -> Example:
    """Put tokens of text behind a row."""
    length, added = len(example.words), torch.zeros(len(ids), dtype=torch.bool)

    def grow(name: str, value: Tensor) -> Tensor:
        if value.shape != (length,):
            return value
        return torch.cat([value, ids if name == "input_ids" else torch.zeros(len(ids), dtype=value.dtype)])

    inputs = {name: grow(name, value) for name, value in example.inputs.items()}
    changed = {"inputs": inputs, "words": torch.cat([example.words, added]), "image_tokens": torch.cat([example.image_tokens, added])}
    return type(example)(**vars(example) | changed)
