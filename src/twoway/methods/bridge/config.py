"""What `bridge` can be told; the defaults are those of CoCoA's paper (arXiv 2603.01471), where it says one."""

from __future__ import annotations

from dataclasses import dataclass, field

from twoway.data.masking import CorruptConfig
from twoway.errors import UsageError
from twoway.methods.config import MethodConfig

from .rows import BridgeSource  # noqa: TC001 - read at run time


@dataclass(frozen=True)
class TargetMask(CorruptConfig):
    """What is masked in B; pictures are left whole, because nothing restores them here."""

    words: float = 0.7
    patches: float = 0.0

    def __post_init__(self) -> None:
        """Refuse masks without a loss."""
        super().__post_init__()
        if self.patches or self.whole_pictures or self.masking != "joint":
            raise UsageError("the bridge restores words alone: leave mask.patches, mask.masking and mask.whole_pictures out")
        if not self.words:
            raise UsageError("nothing would be learnt: mask.words is 0")


@dataclass(frozen=True)
class BridgeConfig(MethodConfig):
    """Everything about one run of `bridge`."""

    data: tuple[BridgeSource, ...] = ()
    learning_rate: float = 2e-5
    num_train_epochs: int = 2
    mask: TargetMask = field(default_factory=TargetMask)
    eos_sees_target: bool = True  # as published, both of them; docs/cocoa.md has what closing the leak does
    sources_see_eos: bool = True
    max_target: int = 256  # tokens of B; more are cut and counted
    text_cut: float = 0.5  # where a row of one text is cut into A and B; 0: such a row is bad

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        if not 0 <= self.text_cut < 1:
            raise UsageError(f"text_cut is a share from 0 to below 1, not {self.text_cut}")
        if not 0 < self.max_target <= self.max_length - 2:
            raise UsageError(f"max_target is at least 1 and leaves two tokens of max_length {self.max_length}, not {self.max_target}")
