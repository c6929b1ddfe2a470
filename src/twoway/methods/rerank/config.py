"""What `rerank` can be told."""

from __future__ import annotations

from typing import Literal

from twoway.config import Field, settings
from twoway.methods.config import PairsConfig


@settings
class RerankConfig(PairsConfig):
    """Everything about one run of `rerank`."""

    global_batch_size: int = 64
    hard_negatives: int = Field(default=7, ge=1, description="wrong candidates of each row, at most; a row without any is a bad row")
    loss: Literal["listwise", "pairwise", "pointwise"] = Field(
        default="listwise", description="the right candidate among all of a query's; above each wrong one; or each candidate by itself"
    )
    head: Literal["yes-no", "linear"] | None = Field(
        default=None,
        description="where a score is read: the logit of yes less that of no by the model's own head, or a new linear layer on the states. "
        "Default: as the base has it, or yes-no",
    )
    pooling: Literal["mean", "last"] | None = Field(
        default=None, description="the states that a new linear layer reads; default: the mean of two-way states, the last of causal ones"
    )
