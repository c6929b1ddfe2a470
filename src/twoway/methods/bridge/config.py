"""What `bridge` can be told; the defaults are those of CoCoA's paper (arXiv 2603.01471), where it says one."""

from __future__ import annotations

from twoway.config import Field, settings
from twoway.data.config import MaskingConfig, Share, SourceConfig
from twoway.errors import UsageError, did_you_mean
from twoway.methods.config import MethodConfig


@settings
class BridgeSource(SourceConfig):
    """One source; its template makes documents or pairs."""

    def check_row_template(self) -> None:
        """Refuse a template that there is not."""
        from twoway.data.sources.formats import FORMATS, PAIR_FORMATS, document_format

        name = self.row_template
        if name is None or name in PAIR_FORMATS or name in FORMATS:
            return
        if "{" not in name:
            known = sorted({*FORMATS, *PAIR_FORMATS})
            raise UsageError(f"there is no format {name!r}{did_you_mean(name, known)} (there are: {', '.join(known)})")
        document_format(name)


@settings
class TargetMask(MaskingConfig):
    """What is masked in B; pictures are left whole, because nothing restores them here."""

    words: Share = 0.7
    patches: Share = 0.0

    def __post_init__(self) -> None:
        """Refuse masks without a loss."""
        super().__post_init__()
        if self.patches or self.whole_pictures or self.masking != "joint":
            raise UsageError("the bridge restores words alone: leave mask.patches, mask.masking and mask.whole_pictures out")
        if not self.words:
            raise UsageError("nothing would be learnt: mask.words is 0")


@settings
class BridgeConfig(MethodConfig):
    """Everything about one run of `bridge`."""

    data: tuple[BridgeSource, ...] = ()
    learning_rate: float = 2e-5
    num_train_epochs: int = 2
    mask: TargetMask = Field(default_factory=TargetMask, description="what is masked in B")
    eos_sees_target: bool = Field(default=True, description="EOS of A sees B too, as published")
    sources_see_eos: bool = Field(default=True, description="the parts of A see EOS, as published")
    max_target: int = Field(default=256, ge=1, description="tokens of B; more are cut, and counted")
    text_cut: float = Field(default=0.5, ge=0, lt=1, description="where a row of one text is cut into A and B; 0: such a row is bad")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        if self.max_target > self.max_length - 2:
            raise UsageError(f"max_target leaves two tokens of max_length {self.max_length}, not {self.max_target}")
