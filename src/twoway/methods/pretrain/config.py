"""What `pretrain` can be told; the defaults are those of MoCa's paper for its 3B model, where it says one."""

from __future__ import annotations

import math
from typing import Literal

from twoway.config import Field, settings
from twoway.data.config import MaskingConfig
from twoway.errors import UsageError
from twoway.methods.config import MethodConfig


@settings
class PretrainConfig(MethodConfig):
    """Everything about one run of `pretrain`."""

    objective: Literal["reconstruct", "causal"] = Field(
        default="reconstruct", description="restore what is masked, or plain next-token training: the control of equal compute"
    )
    mask: MaskingConfig = Field(default_factory=MaskingConfig, description="what is masked")
    masked_patches: Literal["noise", "skip", "drop"] = Field(
        default="noise",
        description="where masked patches go: `noise` stands for them everywhere; `skip` leaves them out of the tower; "
        "`drop` leaves them out of tower and language model, which is cheapest",
    )
    shift: bool = Field(default=True, description="a word is predicted from the position before it")
    mlm_weight: float = Field(default=1.0, ge=0, lt=math.inf, description="weight of the loss on words")
    mae_weight: float = Field(default=0.5, ge=0, lt=math.inf, description="weight of the loss on patches")
    decoder_depth: int = Field(default=1, ge=1, description="layers of the patch decoder")
    calibrate: Literal["count", "time", "none"] = Field(
        default="count", description="what pictures cost where `cost` is not given: counted on the model, measured in seconds, or as words"
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        if self.objective == "causal":
            self._require_causal()
        elif not (self.mlm_weight and self.mask.words) and not (self.mae_weight and self.mask.patches):
            raise UsageError("nothing would be learnt: mlm_weight or mask.words is 0, and so is mae_weight or mask.patches")

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
