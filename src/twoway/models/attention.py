"""The two-way switch, and the use of a custom mask; nothing else.

transformers builds every attention mask from the *text* config: with `is_causal = False` there, each token sees every other real token
of its row, in every layer, under every attention backend, and the padding stays masked. The setting is saved with the config, so no
code of ours is needed to load the model. The same key at the top level of a vision-language config has no effect and gives no warning;
a stray one is removed, so that a config is unambiguous.

A custom mask (`bridge_mask`) is passed to the language model in place of the one that transformers would make. It is built with
transformers' own mask interface, in the form that the attention backend takes. The model around it is called with the ordinary
two-dimensional mask, from which some families count positions. In layers with a sliding window a token sees what both allow.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, create_masks_for_generate

from twoway.errors import TwowayError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedConfig, PreTrainedModel

    from .config import Attention

MASKED_BACKENDS = ("sdpa", "eager", "flex_attention")


def set_attention(model: PreTrainedModel, attention: Attention) -> None:
    """Switch a loaded model; what is saved from it keeps the setting."""
    text = model.config.get_text_config()
    if text is not model.config:
        vars(model.config).pop("is_causal", None)
    # A language model may hold a copy of the text config that it was built from.
    for config in (
        text,
        *(module.config for module in model.get_decoder().modules() if isinstance(getattr(module, "config", None), type(text))),
    ):
        config.is_causal = attention == "causal"


def declared_attention(config: PreTrainedConfig) -> Attention:
    """Return what a config claims; the proof says what the model does, and a card which layers are left out."""
    return "causal" if getattr(config.get_text_config(), "is_causal", True) else "two-way"


def require_two_way(config: PreTrainedConfig) -> None:
    """Refuse a model that is still causal."""
    if declared_attention(config) != "two-way":
        raise TwowayError(
            f"this {config.model_type} is causal, and no mask opens what it keeps shut; make it two-way first (twoway convert)"
        )


@contextmanager
def with_mask(model: PreTrainedModel, allowed: torch.Tensor) -> Iterator[None]:
    """Let each token see only the tokens that `allowed` marks, `(rows, length, length)`, in every layer of the language model.

    The model is a two-way one, with or without its head, and is called inside as usual, with its `attention_mask` of zeros and ones.
    """
    language = model.get_decoder()
    require_two_way(model.config)
    backend = language.config._attn_implementation
    # A backend of another name takes such a mask where it takes one of a form that is known.
    if ALL_MASK_ATTENTION_FUNCTIONS.get(backend) not in {ALL_MASK_ATTENTION_FUNCTIONS[name] for name in MASKED_BACKENDS}:
        raise TwowayError(f"attention backend {backend} takes no mask of this kind; use one of {', '.join(MASKED_BACKENDS)}")
    # A row of a softmax needs something to see: padding sees itself, and nobody else sees it.
    allowed = allowed | torch.eye(allowed.shape[-1], dtype=torch.bool, device=allowed.device)
    made: list[Any] = []  # once, when the first input says where

    def enter(_module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        like = next(value for value in (given.get("inputs_embeds"), given.get("input_ids"), *args) if value is not None)
        if like.shape[:2] != allowed.shape[:2]:
            raise TwowayError(f"the mask is for {tuple(allowed.shape[:2])} rows and tokens, the input has {tuple(like.shape[:2])}")
        if not made:
            made.append(_in_form(language, allowed.to(like.device)))
        return args, {**given, "attention_mask": made[0]}

    hook = language.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _in_form(language: Any, allowed: torch.Tensor) -> Any:
    """Return the mask in the form that the backend takes: one for all layers, or one for each kind of layer."""
    shape_alone = torch.empty(*allowed.shape[:2], 1, dtype=language.dtype, device=allowed.device)
    made = create_masks_for_generate(
        config=language.config,
        inputs_embeds=shape_alone,
        attention_mask=None,
        past_key_values=None,
        and_mask_function=lambda row, _head, who, whom: allowed[row, who, whom],
    )
    masks = made if isinstance(made, dict) else {"full_attention": made}
    if not all(isinstance(mask, (torch.Tensor, BlockMask)) and len(mask.shape) == 4 for mask in masks.values()):
        raise TwowayError(f"{language.config.model_type} has layers ({', '.join(masks)}) that no mask of who sees whom governs")
    return masks if len(masks) > 1 else next(iter(masks.values()))
