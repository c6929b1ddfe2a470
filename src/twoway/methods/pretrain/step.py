"""The task of pre-training: restore masked words from pictures and words, and masked patches from words and pictures.

Both losses come from one pass over the same masked input (MoCa, arXiv 2506.23115, section 3.1): total = MLM + w MAE. Only the work that
has a target is done: the language-model head runs at masked words, the decoder where a patch is masked, and neither where its weight is 0.

The decoder is called with the masks and positions that the model's own language model was called with, caught on the way, so nothing
about them is known here. With `drop` masked patches run through neither tower nor language model; the decoder gets the states of what
ran, a learnt state for each masked patch, and the positions of the whole row. Pictures' features that some families hand to single
layers (DeepStack) do not go to the decoder: it restores patches from the states alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from twoway.data.config import MaskingConfig
from twoway.data.patches import GRID, PIXELS, VIDEO_GRID, VIDEO_PIXELS
from twoway.errors import TwowayError
from twoway.losses.masked_lm import NO_TARGET, word_loss, word_places
from twoway.losses.masked_patches import patch_loss
from twoway.methods.model import apply_memory_options, choose_kernels, choose_trainable, freeze_head
from twoway.models import kernels, loading
from twoway.models.vision import VisiblePatches, cut_call, kept_places, restore_states
from twoway.training.module import Batch, TrainingModule
from twoway.training.probes import Predictions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import nn

    from twoway.losses import Loss
    from twoway.losses.masked_patches import PatchDecoder
    from twoway.methods.config import MethodConfig

WORDS, PATCHES = "mlm", "mae"
_AT_ONCE = 256  # positions that have logits at a time, where one looks
_WORDS, _PATCHES, _TOWER, _KEPT = "word_places", "patch_places", "tower_places", "kept_places"  # of a batch that is prepared
_PLACES = ("attention_mask", "position_ids", "cache_position")


@dataclass(frozen=True)
class States:
    """What one pass gives: the last states, and how the language model was called."""

    hidden: torch.Tensor
    call: dict[str, Any]


@dataclass(frozen=True)
class VisibleTower:
    """How masked patches skip the tower: it runs over the visible ones, and the mask token's own embedding stands for the others."""

    tower: VisiblePatches
    image_token: int
    mask_token: int
    video_token: int | None = None

    def places(self, inputs: dict[str, torch.Tensor], masked: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
        """Return where visible patches are, of pictures and of videos, worked out where the batch is; nothing without any."""
        ids = inputs["input_ids"]
        return {kind: self.tower.places(inputs[grid], ~masked[ids == token]) for kind, _, grid, token in self._shown(inputs)}

    def __call__(self, inputs: dict[str, torch.Tensor], masked: torch.Tensor, places: dict[str, dict[str, torch.Tensor]]) -> dict[str, Any]:
        """Return what the model is called with; positions are those of whole pictures, and no pixel of a masked patch is in it."""
        shown = [*self._shown(inputs)]
        if not shown:
            return inputs
        kept: dict[str, Any] = {name: value for name, value in inputs.items() if name not in (PIXELS, VIDEO_PIXELS)}
        kept["input_ids"] = inputs["input_ids"].masked_fill(masked, self.mask_token)
        seen = {kind: self.tower.run(inputs[pixels], inputs[grid], places[kind]) for kind, pixels, grid, _ in shown}
        return kept | {"mm_encoder_outputs": {kind: out for kind, out in seen.items() if out is not None}}

    def _shown(self, inputs: dict[str, torch.Tensor]) -> Iterator[tuple[str, str, str, int | None]]:
        """Go through what the inputs show: the name that the model has for it, pixels, sizes, and its token."""
        for kind, pixels, grid, token in (("image", PIXELS, GRID, self.image_token), ("video", VIDEO_PIXELS, VIDEO_GRID, self.video_token)):
            if pixels in inputs:
                yield kind, pixels, grid, token


class Reconstruction(TrainingModule):
    """A two-way model with its language-model head, and a patch decoder. `words` is the name of the loss on words."""

    word_loss_name = WORDS

    def __init__(
        self,
        model: Any,
        decoder: PatchDecoder | None,
        *,
        mlm_weight: float,
        mae_weight: float,
        shift: bool = True,
        pad_token: int = 0,
        token_keys: Sequence[str] = (),
        visible_tower: VisibleTower | None = None,
        drop: bool = False,
    ) -> None:
        """Take a model with attention set. `token_keys` are inputs with one entry a token.

        With `visible_tower` masked patches skip the tower; with `drop` they skip the language model too.
        """
        super().__init__({self.word_loss_name: mlm_weight, PATCHES: mae_weight})
        if mae_weight and decoder is None:
            raise ValueError("a loss on patches needs a decoder")
        self.model, self.decoder, self.shift = model, decoder if mae_weight else None, shift
        # The parts are looked up before adapters wrap the model: they are changed in place.
        self._inner: list[Any] = [loading.inner(model), model.get_decoder(), model.get_output_embeddings()]
        self._cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        self.pad_token, self._token_keys, self._visible_tower, self.drops_patches = pad_token, tuple(token_keys), visible_tower, drop
        self.count_work: Callable[[Batch], float] | None = None  # the operations that a batch takes

    def prepare_batch(self, batch: Batch) -> Batch:
        """Add where the targets are, and where visible patches are if the tower sees those alone."""
        inputs, masked = batch["inputs"], batch["patch_mask"]
        words = word_places(batch["labels"], shift=self.shift, mask_BL=inputs.get("attention_mask"))
        known: dict[str, Any] = {_WORDS: words, _PATCHES: masked.flatten().nonzero()[:, 0]}
        if self._visible_tower is not None:
            known[_TOWER] = self._visible_tower.places(inputs, masked)
        if self.drops_patches:
            if bool(masked.flatten()[words].any()):
                raise TwowayError("masked_patches=drop: this family predicts a word from the patch before it; use masked_patches=noise")
            known[_KEPT] = kept_places(inputs["attention_mask"], masked)
        return batch | known

    def _prepared(self, batch: Batch) -> Batch:
        """Prepare a batch that the training step has not prepared: one that is only looked at."""
        return batch if _WORDS in batch else self.prepare_batch(batch)

    def states(self, batch: Batch) -> States:
        """Run the model without its head."""
        batch = self._prepared(batch)
        inner, language, _ = self._inner
        seen: dict[str, Any] = {}
        inputs, masked = batch["inputs"], batch["patch_mask"]
        if self._visible_tower is not None:
            inputs = self._visible_tower(inputs, masked, batch[_TOWER])
        kept: dict[str, torch.Tensor] = batch[_KEPT] if self.drops_patches else {}

        def catch(_module: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            seen.update(given)
            return args, cut_call(given, kept) if kept else given

        hook = language.register_forward_pre_hook(catch, with_kwargs=True)
        try:
            hidden = inner(**inputs, use_cache=False).last_hidden_state
        finally:
            hook.remove()
        if kept:
            hidden = restore_states(hidden, kept, inputs["input_ids"].shape, self._mask_state(hidden))
        return States(hidden, {name: seen[name] for name in _PLACES if name in seen})

    def _mask_state(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the state that stands for a masked patch; without a decoder nothing reads it."""
        learnt = None if self.decoder is None else self.decoder.mask_state
        return hidden.new_zeros(hidden.shape[-1]) if learnt is None else learnt

    def head(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return the model's own logits at chosen positions."""
        logits: torch.Tensor = self._inner[2](chosen)
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

    def compute_losses(self, batch: Batch) -> tuple[dict[str, Loss], torch.Tensor]:
        """Return the losses that have targets here."""
        batch = self._prepared(batch)
        states = self.states(batch)
        losses: dict[str, Loss] = {}
        if self.word_loss_name in self.loss_weights and len(batch[_WORDS]):
            losses[self.word_loss_name] = word_loss(states.hidden, batch["labels"], self.head, shift=self.shift, places_N=batch[_WORDS])
        if self.decoder is not None and len(batch[_PATCHES]):
            kernels.require_same_masks(self._inner[1], self.decoder.body, states.call.get("attention_mask"))
            predicted = self.decoder(states.hidden, batch[_PATCHES], states.call)
            losses[PATCHES] = patch_loss(predicted, batch["patch_targets"])
        return losses, states.hidden

    def predict(self, batch: Batch) -> Predictions:
        """Return what the model says at each masked word and patch; for looking, without gradients."""
        states, labels, mask = self.states(batch), batch["labels"], batch["inputs"]["attention_mask"].bool()
        hidden = states.hidden
        if self.shift:
            hidden, labels = hidden[:, :-1], labels[:, 1:].masked_fill(~mask[:, :-1], NO_TARGET)
        chosen = labels != NO_TARGET if self.word_loss_name in self.loss_weights else torch.zeros_like(labels, dtype=torch.bool)
        words, nats, said = labels[chosen], [], []
        for piece, right in zip(torch.split(hidden[chosen], _AT_ONCE), torch.split(words, _AT_ONCE), strict=True):
            if len(right):
                logits = self.head(piece).float()
                nats.append(functional.cross_entropy(logits, right, reduction="none"))
                said.append(logits.argmax(-1))
        patches = batch["patch_targets"][:0].float()
        if self.decoder is not None and bool(batch["patch_mask"].any()):
            patches = self.decoder(states.hidden, batch["patch_mask"], states.call).float()
        targets = batch["patch_targets"][: len(patches)].float()
        return Predictions(
            word_rows=chosen.nonzero()[:, 0],
            losses=torch.cat(nats) if nats else hidden.new_zeros(0),
            predicted=torch.cat(said) if said else words,
            targets=words,
            patch_rows=batch["patch_mask"].nonzero()[: len(patches), 0],
            patch_errors=(patches - targets).square().mean(-1),
            patches=patches,
        )

    def count_targets(self, batch: Batch) -> dict[str, int]:
        """Count targets as the losses do: with `shift`, a row's first token has none."""
        counts = {}
        if self.word_loss_name in self.loss_weights:
            labels, mask = batch["labels"], batch["inputs"].get("attention_mask")
            chosen = labels[:, 1:] != NO_TARGET if self.shift else labels != NO_TARGET
            if self.shift and mask is not None:
                chosen = chosen & mask[:, :-1].bool()
            counts[self.word_loss_name] = int(chosen.sum())
        if PATCHES in self.loss_weights:
            counts[PATCHES] = int(batch["patch_mask"].sum())
        return counts

    def count_tokens(self, batch: Batch) -> dict[str, float]:
        """Return rows, tokens and padding, and where it was counted on this model, the work."""
        work = {} if self.count_work is None else {"work": self.count_work(batch)}
        return super().count_tokens(batch) | work

    def dummy_batch(self) -> Batch:
        """Return one row of one padding token, without a target."""
        ids = torch.full((1, 1), self.pad_token)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | {key: torch.zeros_like(ids) for key in self._extra_keys()}
        return {
            "inputs": inputs,
            "labels": torch.full((1, 1), NO_TARGET),
            "patch_mask": torch.zeros(1, 1, dtype=torch.bool),
            "patch_targets": torch.zeros(0, 1),
        }

    def _extra_keys(self) -> list[str]:
        return [key for key in self._token_keys if key not in ("input_ids", "attention_mask")]

    def fsdp_units(self) -> Iterable[nn.Module]:
        """Return the language model's layers: every row goes through them."""
        return list(self._inner[1].layers)


# The control of pre-training: plain next-token training of a causal model on the same rows, batches and steps.
#
# The papers ask whether restoring what is masked, with two-way attention, is worth its compute; the fair control (the
# baselines' `causal-plus-continued-pretraining`) spends the same compute as the base was trained. Every word of a
# document is a target, said from the position before it; nothing is masked, patches are no target, and attention
# stays causal. As in `reconstruction`, words of the template and the tokens of pictures are no target.

# Every word is chosen and stays as it is: a target, and seen by what comes after it.
NOTHING_MASKED = MaskingConfig(words=1.0, keep=1.0, patches=0.0)


class NextToken(Reconstruction):
    """A causal model with its language-model head."""

    word_loss_name = "clm"

    def __init__(self, model: Any, *, weight: float, pad_token: int, token_keys: Sequence[str]) -> None:
        """Take a model whose attention is causal."""
        super().__init__(model, None, mlm_weight=weight, mae_weight=0.0, shift=True, pad_token=pad_token, token_keys=token_keys)


# What a stage trains of a model, with weights or without: the loop and the counter (`methods.counting`) have the same module.


def make_module(
    model: Any,
    config: MethodConfig,
    decoder: PatchDecoder | None,
    *,
    words: float,
    image_token: int,
    video_token: int | None = None,
    mask_token: int = 0,
    pad_token: int = 0,
    token_keys: Sequence[str] = (),
) -> tuple[Reconstruction, Any]:
    """Give a model its kernels, adapters, memory options and losses; return the module, and the model as peft wraps it.

    `words` is the weight of the loss on words. Other methods have no setting for it, and are counted on the like of their module.
    """
    body, causal = [decoder.body] if decoder else [], getattr(config, "objective", "") == "causal"
    way = getattr(config, "masked_patches", "noise")
    choose_kernels(model, config, decoder=decoder.body if decoder else None, products=True)
    adapted = choose_trainable(model, config)
    if not words:
        freeze_head(model)
    given: dict[str, Any] = {"pad_token": pad_token, "token_keys": token_keys}
    if causal:
        module: Reconstruction = NextToken(model, weight=words, **given)
    else:
        module = Reconstruction(
            model,
            decoder,
            mlm_weight=words,
            mae_weight=float(getattr(config, "mae_weight", 0.0)) if decoder else 0.0,
            shift=getattr(config, "shift", True),
            visible_tower=None if way == "noise" else VisibleTower(VisiblePatches(model), image_token, mask_token, video_token),
            drop=way == "drop",
            **given,
        )
    apply_memory_options(config, [model, *body], [*module.fsdp_units(), *(layer for one in body for layer in one.layers)])
    return module, adapted
