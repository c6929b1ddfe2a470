"""The task of the bridge: restore B's masked words from EOS and what is left of B (CoCoA, arXiv 2603.01471, second stage).

It is the restoring of words as in pre-training, each from the position before it, under another mask of who sees whom: what B learns about
A went through EOS. EOS stands before B, so it says B's first word itself. Nothing restores pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from twoway.losses.masked_lm import NO_TARGET
from twoway.methods.pretrain.step import Reconstruction, States
from twoway.models import kernels
from twoway.models.attention import with_mask
from twoway.models.bridge_mask import bridge_mask, require_parts

from .probes import AttentionMass, Embedded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twoway.training.module import Batch

WORDS = "bridge"


class Bridge(Reconstruction):
    """A two-way model with its language-model head, called with the bridge mask."""

    word_loss_name = WORDS
    has_own_masks = True

    def __init__(
        self, model: Any, *, eos_sees_target: bool, sources_see_eos: bool, pad_token: int = 0, token_keys: Sequence[str] = ()
    ) -> None:
        """Take a model with attention set."""
        super().__init__(model, None, mlm_weight=1.0, mae_weight=0.0, shift=True, pad_token=pad_token, token_keys=token_keys)
        self.eos_sees_target, self.sources_see_eos = eos_sees_target, sources_see_eos

    def prepare_batch(self, batch: Batch) -> Batch:
        """Look for A, EOS and B in every row, too."""
        require_parts(batch["eos"], batch["inputs"]["attention_mask"] == 0)
        return super().prepare_batch(batch) | {"checked": True}

    def states(self, batch: Batch) -> States:
        """Run the model without its head, under the bridge mask."""
        inner = self._inner[0]
        with with_mask(inner, self.allowed(batch)):
            return States(inner(**batch["inputs"], use_cache=False).last_hidden_state, {})

    def allowed(self, batch: Batch) -> torch.Tensor:
        """Return who sees whom. In a batch with `cut_off`, EOS sees nothing of A: what B then lacks is what EOS carried."""
        padding = batch["inputs"]["attention_mask"] == 0
        options = {"eos_sees_target": self.eos_sees_target, "sources_see_eos": self.sources_see_eos}
        allowed = bridge_mask(batch["eos"], padding, **options, checked=bool(batch.get("checked")))
        if batch.get("cut_off"):
            rows = torch.arange(len(padding), device=padding.device)
            places = torch.arange(padding.shape[1], device=padding.device)
            allowed[rows, batch["eos"]] &= places >= batch["eos"][:, None]
        return allowed

    def embed(self, inputs: dict[str, torch.Tensor]) -> Embedded:
        """Return each row's last real state and the mean of them all, as at inference: two-way, nothing hidden."""
        hidden = self._inner[0](**inputs, use_cache=False).last_hidden_state.float()
        mask = inputs["attention_mask"]
        last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return Embedded(hidden[torch.arange(len(hidden), device=hidden.device), last], mean)

    def attend(self, batch: Batch, image: torch.Tensor) -> AttentionMass:
        """Return how much of its attention EOS gives to pictures, A's text, itself and B in each layer; `image` says what is a picture.

        Empty where a family's layers do not show what they attend to.
        """
        inner, language, _ = self._inner
        seen: list[torch.Tensor] = []
        parts = [layer.self_attn for layer in language.layers if hasattr(layer, "self_attn")]

        def keep(_module: Any, _args: Any, out: Any) -> None:
            if isinstance(out, tuple) and len(out) > 1 and isinstance(out[1], torch.Tensor) and out[1].dim() == 4:
                rows = torch.arange(len(image), device=image.device)
                seen.append(out[1].float().mean(1)[rows, batch["eos"]])

        hooks = [part.register_forward_hook(keep) for part in parts]
        try:
            with kernels.kernels_restored(inner):
                inner.set_attn_implementation("eager")  # the others do not say
                self.states(batch)
        finally:
            for hook in hooks:
                hook.remove()
        places = torch.arange(image.shape[1], device=image.device)
        eos = batch["eos"][:, None]
        regions = (image, ~image & (places < eos), places == eos, places > eos)
        return (
            torch.stack([torch.stack([(one * region).sum(1).mean() for region in regions]) for one in seen]) if seen else image.new_zeros(0)
        )

    def dummy_batch(self) -> Batch:
        """Return one row of three padding tokens, A, EOS and B, without a target."""
        batch = super().dummy_batch()
        ids = torch.full((1, 3), self.pad_token)
        inputs = {name: torch.ones_like(ids) if name == "attention_mask" else torch.zeros_like(ids) for name in batch["inputs"]}
        inputs["input_ids"] = ids
        labels, none = torch.full((1, 3), NO_TARGET), torch.zeros(1, 3, dtype=torch.bool)
        return batch | {"inputs": inputs, "labels": labels, "patch_mask": none, "eos": torch.ones(1, dtype=torch.long)}
