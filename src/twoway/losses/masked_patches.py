"""Masked patches (MoCa, arXiv 2506.23115, section 3.1): a shallow decoder restores what the processor saw under the noise.

The decoder is a text model of the backbone's own class with few layers, the first copied from the backbone's middle layer, so positions
and two-way attention are the backbone's by construction, for every family. It reads the states of the whole sequence; its linear
layer starts from N(0, 0.02) and zero bias, and works at masked positions alone. The loss is the mean squared error against the
processor's normalised values. Where masked patches do not enter the backbone (He et al., arXiv 2111.06377), one learnt state stands for
each of them in what the decoder reads.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from twoway.losses import Loss

if TYPE_CHECKING:
    from collections.abc import Mapping

_START = 0.02  # of the linear layer's weights; its bias starts at zero, as in the released code
_MASK_STATE = "mask_state"


class PatchDecoder(nn.Module):
    """`depth` layers over the whole sequence, then a linear layer to the `values` of one position's patches."""

    def __init__(self, language_model: Any, *, values: int, depth: int = 1, mask_state: bool = False) -> None:
        """Copy the middle layers of `language_model`; its embedding and norm stay out. With `mask_state` a learnt state is made."""
        super().__init__()
        config = copy.deepcopy(language_model.config)
        layers = language_model.layers
        if not 0 < depth <= len(layers):
            raise ValueError(f"the decoder's depth must be between 1 and the backbone's {len(layers)} layers, not {depth}")
        first = min(len(layers) // 2, len(layers) - depth)
        middle = range(first, first + depth)
        config.num_hidden_layers = depth
        if getattr(config, "layer_types", None):
            config.layer_types = [config.layer_types[index] for index in middle]
        # The text model brings masks and positions; its own vocabulary would be built for nothing, so it is one word small.
        config.vocab_size, config.pad_token_id = 1, None
        device = next(layers[first].parameters()).device
        with device:
            self.body: Any = type(language_model)(config)
        self.body.embed_tokens, self.body.norm = nn.Identity(), nn.Identity()
        for new, index in zip(self.body.layers, middle, strict=True):
            new.load_state_dict(layers[index].state_dict())
        self.to_values = nn.Linear(config.hidden_size, values, device=device)
        # torch's own start is narrower (0.013 at a width of 2,048) and has a bias.
        nn.init.normal_(self.to_values.weight, std=_START)
        nn.init.zeros_(self.to_values.bias)
        self.mask_state = nn.Parameter(torch.randn(config.hidden_size, device=device) * _START) if mask_state else None
        self.to(next(layers[first].parameters()))

    def load_heads(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Take the weights of a saved decoder; the state of masked patches stays new where that one had none, and is left where unused."""
        weights = {name: one for name, one in saved.items() if name != _MASK_STATE}
        if self.mask_state is not None:
            weights[_MASK_STATE] = saved.get(_MASK_STATE, self.mask_state.detach())
        self.load_state_dict(weights)

    def forward(self, hidden_BLD: torch.Tensor, chosen: torch.Tensor, seen: Mapping[str, Any]) -> torch.Tensor:
        """Return the predicted values (N, P) at the chosen positions; `seen` is what the language model was called with.

        `chosen` is a mask (B, L), or the numbers of the positions over the whole batch (N), which need no look at the device.
        """
        passed = {name: value for name, value in seen.items() if name not in ("input_ids", "inputs_embeds", "past_key_values")}
        states_BLD = self.body(inputs_embeds=hidden_BLD, **{"use_cache": False} | passed).last_hidden_state
        places_N = chosen.flatten().nonzero()[:, 0] if chosen.dtype == torch.bool else chosen
        values_NP: torch.Tensor = self.to_values(states_BLD.flatten(0, 1).index_select(0, places_N))
        return values_NP


def patch_loss(predicted_NP: torch.Tensor, target_NP: torch.Tensor) -> Loss:
    """Return the squared error, averaged over a position's values and summed over positions, in float32."""
    if predicted_NP.shape != target_NP.shape:
        raise ValueError(f"predicted {tuple(predicted_NP.shape)} and target {tuple(target_NP.shape)} patches differ in shape")
    total = (predicted_NP.float() - target_NP.float()).square().mean(-1).sum()
    return Loss(total, len(target_NP))
