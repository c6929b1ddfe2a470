"""The two-way switch, and nothing else.

transformers builds every attention mask from the *text* config: with `is_causal = False` there, each token sees every other real token
of its row, in every layer, under every attention backend, and the padding stays masked. The setting is saved with the config, so no
code of ours is needed where the model is loaded. The same name at the top level of a vision-language config does nothing, in silence;
a stray one is removed, so that a config says one thing only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Attention = Literal["two-way", "causal"]
ATTENTION: tuple[Attention, ...] = ("two-way", "causal")


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


def declared(config: PreTrainedConfig) -> Attention:
    """Return what a config claims; the proof says what the model does."""
    return "causal" if getattr(config.get_text_config(), "is_causal", True) else "two-way"
