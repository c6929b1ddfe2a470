"""What `finetune` can be told; the defaults are those of MoCa's second stage (arXiv 2506.23115, section 4.1), where the paper says one."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from twoway.config import Field, Range, settings
from twoway.errors import UsageError
from twoway.methods.config import PairsConfig

COLDEST = 0.01  # a learnt temperature stays above it, as CLIP's does
HELD_OUT = "held-out"  # what the rows of training that are kept for measuring are called in figures


@settings
class ContrastiveConfig:
    """What is compared with what, and how. The defaults are those of the MoCa paper where it says one."""

    name: str = Field(default="contrastive", description="the loss on pairs: contrastive, or one that is registered")
    temperature: float = Field(
        default=0.03, gt=0, lt=math.inf, description="what similarities are divided by; the papers use 0.02 and 0.03"
    )
    learn_temperature: bool = Field(default=False, description="train the temperature too")
    negatives: Literal["own", "positives", "all"] = Field(
        default="all", description="a query's own hard negatives; and other rows' positives; and their hard negatives too"
    )
    gather_across_devices: bool = Field(default=True, description="a step's batches see each other, on whatever ranks they are")
    symmetric: bool = Field(default=False, description="each positive has to find its query too")
    mask_copies: bool = Field(default=True, description="what answers a query as its positive does, by content, is no negative")
    margin: float | None = Field(
        default=None, ge=-2, le=2, description="negatives this near to the positive's similarity, or above it, are none"
    )
    margin_strategy: Literal["absolute", "relative"] = Field(
        default="absolute", description="margin is a difference of cosines, or a share"
    )
    distill: Literal["none", "kl", "margin-mse"] = Field(
        default="none",
        description="follow a teacher, whose scores stand in the rows (`twoway score`): the distribution over a query's own candidates, or "
        "the margins between them",
    )
    distill_weight: float = Field(default=1.0, gt=0, le=1, description="share of the teacher's loss; the rest is the contrastive one's")
    distill_temperature: float = Field(default=1.0, gt=0, lt=math.inf, description="what a teacher's scores are divided by")
    teacher_margin: float | None = Field(
        default=None, description="own hard negatives that a teacher scores within this of the positive, or above it, are none"
    )
    matryoshka_dims: tuple[Annotated[int, Range(ge=1)], ...] = Field(
        default=(), description="Matryoshka: the loss is the mean of those of vectors cut to these lengths"
    )

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher's scores are read."""
        return self.distill != "none" or self.teacher_margin is not None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.learn_temperature and self.temperature < COLDEST:
            raise UsageError(f"a learnt temperature starts at {COLDEST} or above, not {self.temperature}")
        if self.symmetric and self.negatives == "own":
            raise UsageError("symmetric needs other rows to compare with: negatives is positives or all, not own")
        if self.distill == "none" and (self.distill_weight, self.distill_temperature) != (1.0, 1.0):
            raise UsageError("distill_weight and distill_temperature are of a teacher's loss; choose one with distill: kl or margin-mse")
        if len(set(self.matryoshka_dims)) < len(self.matryoshka_dims):
            raise UsageError(f"matryoshka_dims are different numbers, not {', '.join(map(str, self.matryoshka_dims))}")


@settings
class FinetuneConfig(PairsConfig):
    """Everything about one run of `finetune`."""

    fill_negatives: bool = Field(
        default=False, description="a row that has fewer repeats its last one, as in the released code of MoCa and mmE5"
    )
    loss: ContrastiveConfig = Field(default_factory=ContrastiveConfig, description="the contrastive loss")
    guide: str | None = Field(default=None, description="a model whose vectors measure loss.margin, instead of this one's own")
    pooling: Literal["mean", "last", "eos"] | None = Field(default=None, description="how a vector is made; default: the base's, or mean")
    truncate_dim: int | None = Field(default=None, ge=1, description="numbers of a vector; default: the base's own, or all")
    late_interaction: bool | None = Field(
        default=None,
        description="a vector for each token, compared by MaxSim (ColBERT, ColPali), instead of one for each text or page; "
        "default: as the base has it",
    )
    projection_dim: int | None = Field(
        default=None, ge=1, description="late interaction: numbers of each vector, by a new projection; default: the base's own, or 128"
    )
    query_expansion: int = Field(default=0, ge=0, le=512, description="late interaction: mask tokens behind each query")
    prompt_place: Literal["user", "system"] | None = Field(
        default=None, description="turn that holds the instruction; default: user, or where a base with prompts writes them"
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        if self.guide is not None and self.loss.margin is None:
            raise UsageError("a guide finds negatives that are too near: say how near with loss.margin (0 for nearer than the positive)")
        self.require_vectors(late_interaction=self.late_interaction)

    def require_vectors(self, *, late_interaction: bool | None) -> None:
        """Refuse what does not go with one vector, or with many, where it is known which come out."""
        of_one = {
            "pooling": self.pooling is not None,
            "truncate_dim": self.truncate_dim is not None,
            "loss.matryoshka_dims": bool(self.loss.matryoshka_dims),
            "loss.name": self.loss.name != "contrastive",
        }
        of_many = {"projection_dim": self.projection_dim is not None, "query_expansion": self.query_expansion > 0}
        if late_interaction and any(of_one.values()):
            raise UsageError(f"{next(filter(of_one.get, of_one))} is for one vector; leave it out, or late_interaction")
        if late_interaction is False and any(of_many.values()):
            raise UsageError(f"{next(filter(of_many.get, of_many))} belongs to late_interaction=true")
