"""What a model can be told when it is opened: its attention, and the kernel of each part."""

from __future__ import annotations

from typing import Literal

from twoway.config import Field, settings
from twoway.errors import UsageError, did_you_mean

# Mixed: two-way wherever the switch works, in a family with layers that run along the row and that no mask opens.
Attention = Literal["two-way", "causal", "mixed"]
ATTENTION: tuple[Attention, ...] = ("two-way", "causal", "mixed")

AUTO, SDPA, FLASH = "auto", "sdpa", "flash_attention_2"
KERNELS = (AUTO, SDPA, "eager", "flex_attention", FLASH, "flash_attention_3")
PARTS = ("tower", "language", "decoder")


@settings
class AttnImplementation:
    """A kernel for each part; the decoder is the patch decoder of pre-training, and its `auto` is what the language model has."""

    tower: str = Field(default=AUTO, description="of the vision tower")
    language: str = Field(default=AUTO, description="of the language model")
    decoder: str = Field(default=AUTO, description="of the patch decoder of pre-training; auto: what the language model has")

    def __post_init__(self) -> None:
        """Refuse names that are none."""
        for part in PARTS:
            name = getattr(self, part)
            if name not in KERNELS:
                near = did_you_mean(name, KERNELS)
                raise UsageError(f"attn_implementation: unknown kernel {name!r} for the {part}{near} (there are: {', '.join(KERNELS)})")


Setting = str | AttnImplementation


def by_part(setting: Setting) -> AttnImplementation:
    """Read a setting: parts, one name for all of them, or `tower=…,language=…` as the command line has it."""
    if isinstance(setting, AttnImplementation):
        return setting
    if "=" not in setting:
        return AttnImplementation(setting, setting, setting)
    chosen: dict[str, str] = {}
    for word in setting.split(","):
        part, sign, name = (piece.strip() for piece in word.partition("="))
        if part not in PARTS or not sign or part in chosen:
            raise UsageError(
                f"attn_implementation {setting!r} is one name, or PART=NAME for any of {', '.join(PARTS)}, with commas between"
            )
        chosen[part] = name
    return AttnImplementation(**chosen)
