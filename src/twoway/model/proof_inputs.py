"""What a proof feeds a model: two rows of ordinary tokens and noise images, and the same again with one thing changed.

Everything comes from the model's own tokenizer or processor, so no token id is known here. Every change keeps the shapes (but for *more
padding*), so that whatever moves is moved by attention and not by another order of additions. The first row is the one under proof; the
second is there to leak into it. Padding is added here and not by the processor, so that it is the only thing that differs.
"""

from __future__ import annotations

import inspect
import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from twoway.errors import TwowayError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

log = logging.getLogger(__name__)

Inputs = dict[str, torch.Tensor]

TEXT_TOKENS = 12
PADS = 3  # padded positions of the first row; "more padding" doubles them
SIDE = 56  # pixels of a noise image before the processor resizes it: several tokens in every family, few in most


@dataclass(frozen=True)
class Feed:
    """A batch and its variants; `None` where the model or the case has no such thing."""

    kind: str
    padding: str
    base: Inputs
    other_row: Inputs  # another text and other images in the second row
    ordinary: tuple[int, ...]  # ids that may stand for one another
    replaceable: tuple[int, ...]  # positions of the first row that hold an ordinary token
    real: tuple[int, ...]  # positions of the first row that are not padding
    later_image: Inputs | None = None
    all_images: Inputs | None = None
    garbage: Inputs | None = None  # other ids in the padded positions
    more_padding: Inputs | None = None
    more_real: tuple[int, ...] = ()

    def token_changed(self, position: int) -> Inputs:
        """Put another ordinary token at this position of the first row."""
        ids = self.base["input_ids"].clone()
        ids[0, position] = next(other for other in self.ordinary if other != int(ids[0, position]))
        return {**self.base, "input_ids": ids}


def text_feed(model: Any, tokenizer: Any, padding: str) -> Feed:
    """Make a batch of ordinary tokens."""
    ordinary = ordinary_ids(model, tokenizer)
    draw = np.random.default_rng(0)
    ids = torch.tensor(draw.choice(ordinary, (2, TEXT_TOKENS)))
    base = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    other = {**base, "input_ids": _other_second_row(ids, ordinary, range(TEXT_TOKENS))}
    return _padded("text", padding, base, {"other_row": other}, ordinary, tuple(range(TEXT_TOKENS)), tokenizer)


def image_feed(model: Any, processor: Any, padding: str) -> Feed:
    """Make a batch of text with two noise images a row (one where the processor takes no more)."""
    ordinary = ordinary_ids(model, getattr(processor, "tokenizer", processor))
    words = known_words(processor.tokenizer, ordinary)
    plain = _process(model, processor, words, (1, 2, 3, 4))
    first = plain["input_ids"][0].tolist()
    places = tuple(place for place, token in enumerate(first) if token in set(ordinary))
    row_bound = {name for name, value in plain.items() if _per_position(value, plain["input_ids"])}

    def images(*seeds: int) -> Inputs:
        changed = _process(model, processor, words, seeds)
        return {**plain, **{name: value for name, value in changed.items() if name not in row_bound}}

    other = images(1, 2, 7, 8)
    other["input_ids"] = _other_second_row(plain["input_ids"], ordinary, places)
    variants = {"other_row": other, "later_image": images(1, 9, 3, 4), "all_images": images(5, 9, 3, 4)}
    return _padded("image", padding, plain, variants, ordinary, places, getattr(processor, "tokenizer", processor))


def ordinary_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """List ids that are plain text: no special and no added tokens, none that the config names; a thousand are enough."""
    rows = model.get_input_embeddings().weight.shape[0]
    configs = (model.config, model.config.get_text_config())
    values = [value for config in configs for key, value in vars(config).items() if "_token_i" in key]
    named = {token for value in values for token in (value if isinstance(value, (list, tuple)) else [value])}
    special = set(getattr(tokenizer, "all_special_ids", ())) | set(getattr(tokenizer, "added_tokens_decoder", ()))
    known = sorted(tokenizer.get_vocab().values()) if tokenizer is not None else range(rows)
    plain = [token for token in known if token < rows and token not in special and token not in named]
    if len(plain) < 2 * PADS + 1:
        raise TwowayError(f"the tokenizer has {len(plain)} ordinary tokens that the model knows; is it the model's own?")
    return tuple(plain[:: max(1, len(plain) // 1000)])


def _process(model: Any, processor: Any, words: list[str], seeds: Sequence[int]) -> Inputs:
    """Run the processor over two rows of the same text with these images; keep what the model's forward takes."""
    rows = [[noise_image(seed) for seed in seeds[:2]], [noise_image(seed) for seed in seeds[2:]]]
    text = _text(processor, words)
    with _as_they_are(processor.image_processor):
        batch = processor(text=[text, text], images=rows, return_tensors="pt", padding=True)
    taken = inspect.signature(model.forward).parameters
    anything = any(one.kind is one.VAR_KEYWORD for one in taken.values())
    wanted = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor) and name != "labels"}
    return {name: value for name, value in wanted.items() if anything or name in taken}


@contextmanager
def _as_they_are(image: Any) -> Iterator[None]:
    """Let small images stay small, where a processor has a least area: a few tokens prove what hundreds would, at far less."""
    before = image.size
    least = dict(before or {}).get("shortest_edge") or 0
    try:
        if least > SIDE**2:  # an edge is never that long
            image.size = {**dict(before), "shortest_edge": SIDE**2}
        yield
    finally:
        image.size = before


def _text(processor: Any, words: list[str]) -> str:
    """Write text, image, text, image, text as the chat template has it; without a template, images first, as PaliGemma wants them."""
    parts = [{"type": "text", "text": words[0]}, {"type": "image"}, {"type": "text", "text": words[1]}, {"type": "image"}]
    if getattr(processor, "chat_template", None):
        message = {"role": "user", "content": [*parts, {"type": "text", "text": words[2]}]}
        return str(processor.apply_chat_template([message], tokenize=False))
    return str(processor.image_token) * 2 + " ".join(words)


def known_words(tokenizer: Any, ordinary: Sequence[int]) -> list[str]:
    """Choose three short texts that the tokenizer knows."""
    tokens = [tokenizer.decode([token]).strip() for token in ordinary]
    letters = [token for token in tokens if token.isascii() and token.isalnum()] or tokens
    return [" ".join(letters[start :: max(1, len(letters) // 4)][:4]) for start in range(3)]


def noise_image(seed: int) -> Image.Image:
    """Make a small image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _other_second_row(ids: torch.Tensor, ordinary: Sequence[int], places: Sequence[int]) -> torch.Tensor:
    """Replace the ordinary tokens of the second row."""
    ids = ids.clone()
    turned = {token: ordinary[(place + 1) % len(ordinary)] for place, token in enumerate(ordinary)}
    for place in places:
        ids[1, place] = turned.get(int(ids[1, place]), ordinary[0])
    return ids


def _per_position(value: torch.Tensor, ids: torch.Tensor) -> bool:
    return value.shape == ids.shape and not value.is_floating_point()


def _padded(
    kind: str, padding: str, base: Inputs, variants: dict[str, Inputs], ordinary: tuple[int, ...], places: tuple[int, ...], tokenizer: Any
) -> Feed:
    """Pad the first row of every variant on this side; the second row gets tokens there, so that the batch is as real ones are."""
    length = base["input_ids"].shape[1]
    shift = PADS if padding == "left" else 0
    pads = 0 if padding == "none" else PADS
    pad_id = next(
        (one for one in (getattr(tokenizer, "pad_token_id", None), getattr(tokenizer, "eos_token_id", None)) if one is not None), 0
    )

    def pad(inputs: Inputs, count: int, filler: Sequence[int]) -> Inputs:
        return {name: _extend(name, value, base["input_ids"], padding, count, filler, ordinary) for name, value in inputs.items()}

    extra: dict[str, Any] = {}
    if pads:
        extra["garbage"] = pad(base, pads, ordinary[1 : pads + 1])
        extra["more_padding"] = pad(base, 2 * pads, [pad_id] * 2 * pads)
        extra["more_real"] = tuple(place + 2 * shift for place in range(length))
    padded: dict[str, Any] = {name: pad(value, pads, [pad_id] * pads) for name, value in {"base": base, **variants}.items()}
    replaceable = tuple(place + shift for place in places)
    real = tuple(place + shift for place in range(length))
    return Feed(kind=kind, padding=padding, ordinary=ordinary, replaceable=replaceable, real=real, **padded, **extra)


def _extend(
    name: str, value: torch.Tensor, ids: torch.Tensor, side: str, count: int, filler: Sequence[int], ordinary: Sequence[int]
) -> torch.Tensor:
    """Lengthen one per-position tensor: padding in the first row, ordinary tokens in the second."""
    if not _per_position(value, ids) or count == 0:
        return value
    block = torch.zeros(2, count, dtype=value.dtype)
    if name == "input_ids":
        block[0] = torch.tensor(list(filler))
        block[1] = torch.tensor(list(ordinary[:count]))
    elif name == "attention_mask":
        block[1] = 1
    return torch.cat([block, value] if side == "left" else [value, block], dim=1)
