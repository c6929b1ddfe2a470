"""What `pretrain` can be told; the defaults are those of MoCa's paper for its 3B model, where it says one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from twoway.data.masking import CorruptConfig
from twoway.errors import UsageError
from twoway.methods.config import MethodConfig


@dataclass(frozen=True)
class PretrainConfig(MethodConfig):
    """Everything about one run of `pretrain`."""

    objective: Literal["reconstruct", "causal"] = "reconstruct"  # causal: plain next-token training, the control of equal compute
    mask: CorruptConfig = field(default_factory=CorruptConfig)
    masked_patches: Literal["noise", "skip"] = "noise"  # skip: the tower sees visible patches alone, which is cheaper
    shift: bool = True  # a word is predicted from the position before it
    mlm_weight: float = 1.0
    mae_weight: float = 0.5
    decoder_depth: int = 1
    # What an image token and a picture cost, where `cost` says nothing: counted on the model, or measured in seconds and kept with the run.
    calibrate: Literal["count", "time", "none"] = "count"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        for name in ("mlm_weight", "mae_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} is 0 or more, not {getattr(self, name)}")
        if self.objective == "causal":
            self._require_causal()
        elif not (self.mlm_weight and self.mask.words) and not (self.mae_weight and self.mask.patches):
            raise UsageError("nothing would be learnt: mlm_weight or mask.words is 0, and so is mae_weight or mask.patches")
        if self.decoder_depth < 1:
            raise UsageError(f"decoder_depth is at least 1, not {self.decoder_depth}")

    def _require_causal(self) -> None:
        """Refuse what next-token training has no use for; the weight of patches is 0 there, whatever its default."""
        if not self.mlm_weight:
            raise UsageError("nothing would be learnt: with objective=causal mlm_weight is the weight of words and above 0")
        usual = PretrainConfig()
        for name, why in (
            ("mask", "masks nothing"),
            ("masked_patches", "masks nothing"),
            ("shift", "says a word from the position before it"),
            ("mae_weight", "restores no patches"),
            ("decoder_depth", "restores no patches"),
        ):
            if getattr(self, name) not in (getattr(usual, name), *([0] if name == "mae_weight" else [])):
                raise UsageError(f"objective=causal {why}: leave {name} out, or at its default")
