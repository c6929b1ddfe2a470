"""The fast forward: the library's own submodules, fed with inputs whose grids and positions are known from the batch's fixed shape.

The general path finds placeholders, grids and rotary positions row by row and splits the tower's attention picture by picture. Here every
picture of a batch has the same size, so positions are one table, and the tower's attention runs once over all pictures as a batch. The
result is the same; a test holds the two losses together.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.vision_utils import get_vision_position_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from .batches import Batch

SHORT = "twoway_short_rows"
EQUAL_PICTURES = "twoway_equal_pictures"


def _attend(query: Tensor, key: Tensor, value: Tensor, scaling: float, *, causal: bool) -> Tensor:
    """Attention by plain products: for rows this short, several times as fast on a CPU as the fused kernel and its backward.

    Query heads that share a key head are laid one after another along the length, so keys are never repeated.
    """
    rows, heads, length, dim = query.shape
    shared = key.shape[1]
    scores = torch.matmul(query.reshape(rows, shared, -1, dim) * scaling, key.transpose(2, 3)).float()
    if causal:
        later = torch.full((length, length), -torch.inf).triu(1)
        scores = (scores.view(rows, heads, length, length) + later).view_as(scores)
    return torch.matmul(scores.softmax(-1).to(value.dtype), value).view(rows, heads, length, dim)


def _short_rows(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **options: Any
) -> tuple[Tensor, None]:
    """Attend causally; padding stands right of every row and is never a target, so no mask is needed."""
    return _attend(query, key, value, scaling, causal=True).transpose(1, 2), None


def _equal_pictures(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **options: Any
) -> tuple[Tensor, None]:
    """Attend within each picture where (1, heads, pictures * patches, dim) holds pictures of equal size one after another."""

    def split(tensor: Tensor) -> Tensor:
        heads, pictures = tensor.shape[1], int(options["equal_pictures"])
        return tensor.view(heads, pictures, -1, tensor.shape[-1]).transpose(0, 1)

    seen = _attend(split(query), split(key), split(value), scaling, causal=False)
    # (pictures, heads, patches, dim) -> (1, pictures * patches, heads, dim), as the library's functions return it
    return seen.transpose(1, 2).flatten(0, 1)[None], None


AttentionInterface.register(EQUAL_PICTURES, _equal_pictures)
AttentionInterface.register(SHORT, _short_rows)


@contextmanager
def _attention(part: Any, name: str) -> Iterator[None]:
    """Let one part of the model use an attention function for a while."""
    before, part.config._attn_implementation = part.config._attn_implementation, name
    try:
        yield
    finally:
        part.config._attn_implementation = before


def rotary_positions(length: int, starts: Tensor, side: int) -> Tensor:
    """Return the (3, rows, length) positions of rows whose pictures of `side` x `side` tokens begin at `starts` (rows, pictures).

    A picture takes `side` steps of the count whatever its number of tokens; a start at or beyond `length` is no picture.
    """
    place = torch.arange(length).expand(starts.shape[0], length)
    count = place.clone()
    positions = torch.zeros(3, *place.shape, dtype=torch.long)
    tokens = side * side
    inside = torch.zeros_like(place, dtype=torch.bool)
    for start in starts.T:
        since = place - start[:, None]
        within = (since >= 0) & (since < tokens)
        first = count - since
        grid = torch.stack([first, first + since // side, first + since % side])
        positions = torch.where(within, grid, positions)
        inside |= within
        count = count - (since >= tokens) * (tokens - side)
    return torch.where(inside, positions, count)


class GridForward:
    """Hidden states of a batch for models of the Qwen-VL kind: flat patches with a grid, three-part rotary positions."""

    def __init__(self, model: Any, processor: Any, *, dtype: str) -> None:
        self.model, self.dtype = model, dtype
        self.images = processor.image_processor
        self.image_token = model.config.image_token_id
        self._grids: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def patches(self, pixels: Tensor) -> Tensor:
        """Normalise (pictures, 3, height, width) in 0..1 and cut it as the family's image processor does."""
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.images.image_mean, self.images.image_std))
        flat: Tensor = self.images.patchify(
            (pixels - mean) / std,
            patch_size=self.images.patch_size,
            merge_size=self.images.merge_size,
            temporal_patch_size=self.images.temporal_patch_size,
        )[0]
        return flat.reshape(-1, flat.shape[-1])

    def grid(self, pictures: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return grid, patch positions and the bounds of one single chunk, computed once for every shape."""
        if (pictures, side) not in self._grids:
            grid = torch.tensor([[1, side, side]]).expand(pictures, 3)
            positions = get_vision_position_ids(grid, self.images.merge_size)
            self._grids[pictures, side] = grid, positions, torch.tensor([0, pictures * side * side], dtype=torch.int32)
        return self._grids[pictures, side]

    def pictures(self, pixels: Tensor) -> Tensor:
        """Return the language-model tokens of all pictures, one after another."""
        tower = self.model.model.visual
        grid, positions, bounds = self.grid(len(pixels), pixels.shape[-1] // self.images.patch_size)
        with _attention(tower, EQUAL_PICTURES):
            found = tower(self.patches(pixels), grid, position_ids=positions, cu_seqlens=bounds, equal_pictures=len(pixels))
        tokens: Tensor = found.pooler_output
        return tokens

    def hidden(self, batch: Batch) -> Tensor:
        """Return the last hidden states (rows, length, width)."""
        embedded = self.model.get_input_embeddings()(batch.ids)
        if len(batch.pixels):
            tokens = self.pictures(batch.pixels)
            embedded = embedded.to(tokens.dtype).masked_scatter((batch.ids == self.image_token)[..., None], tokens)
        side = batch.pixels.shape[-1] // (self.images.patch_size * self.images.merge_size)
        positions = rotary_positions(batch.ids.shape[1], batch.starts, side)
        return torch.cat([self._read(embedded, positions, rows, length) for rows, length in batch.runs])

    def _read(self, embedded: Tensor, positions: Tensor, rows: slice, length: int) -> Tensor:
        """Run the language model over some rows, cut to their longest and padded back."""
        decoder = self.model.model.language_model
        mask = {"full_attention": None}
        with _attention(decoder, SHORT):
            near = positions[:, rows, :length]
            seen = decoder(inputs_embeds=embedded[rows, :length], position_ids=near, attention_mask=mask, use_cache=False)
        return functional.pad(seen.last_hidden_state, (0, 0, 0, embedded.shape[1] - length))


def token_losses(model: Any, hidden: Tensor, batch: Batch) -> Tensor:
    """Return the loss of every target token; logits are made at those places only."""
    logits = model.get_output_embeddings()(hidden.flatten(0, 1)[batch.places])
    return functional.cross_entropy(logits.float(), batch.targets, reduction="none")
