"""The general forward, for families without a fast one: pictures go through the family's own processor, the model finds the rest itself.

It is slower (pictures and positions are prepared one by one), and right for every family that the library knows.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from .batches import Batch

TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
TYPES = ("mm_token_type_ids", "token_type_ids")


class Forward(Protocol):
    """What training asks of a model: the last hidden states of a batch."""

    model: Any
    dtype: str  # of the arithmetic

    def pictures(self, pixels: Tensor) -> Tensor:
        """Return the language-model tokens of all pictures, one after another."""
        ...

    def hidden(self, batch: Batch) -> Tensor:
        """Return the last hidden states (rows, length, width)."""
        ...


class LibraryForward:
    """Hidden states of a batch by the library's own forward."""

    def __init__(self, model: Any, processor: Any, *, dtype: str) -> None:
        self.model, self.dtype = model, dtype
        self.processor, self.image_token = processor, model.config.image_token_id
        self.picture = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], tokenize=False)
        self.known = set(inspect.signature(model.model.forward).parameters)

    def pictures(self, pixels: Tensor) -> Tensor:
        """Return the language-model tokens of all pictures, one after another."""
        known = set(inspect.signature(self.model.model.get_image_features).parameters)
        inputs = {name: value for name, value in self._processed(pixels).items() if name in known}
        found = self.model.model.get_image_features(**inputs).pooler_output
        return found.flatten(0, -2) if isinstance(found, torch.Tensor) else torch.cat([tokens.flatten(0, -2) for tokens in found])

    def hidden(self, batch: Batch) -> Tensor:
        """Return the last hidden states (rows, length, width); padding stands right of every row and is never a target."""
        inputs: dict[str, Any] = {"input_ids": batch.ids}
        if len(batch.pixels):
            made = self._processed(batch.pixels)
            inputs |= {name: value for name, value in made.items() if name in self.known and name not in TEXT}
        # 1 marks a picture's token, which some families read for positions, others for attention among a picture's tokens
        inputs |= {name: (batch.ids == self.image_token).int() for name in TYPES if name in self.known}
        states: Tensor = self.model.model(**inputs, use_cache=False).last_hidden_state
        return states

    def _processed(self, pixels: Tensor) -> Mapping[str, Tensor]:
        """Return what the family's processor makes of pictures that are in 0..1 already."""
        pictures = [[picture] for picture in pixels]
        made: Mapping[str, Tensor] = self.processor(
            text=[self.picture] * len(pictures), images=pictures, return_tensors="pt", do_rescale=False
        )
        return made
