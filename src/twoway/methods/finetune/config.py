"""What `finetune` can be told; the defaults are those of MoCa's second stage (arXiv 2506.23115, section 4.1), where the paper says one."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from twoway.config import Field, Range, settings
from twoway.data.config import AugmentConfig, PairSource
from twoway.errors import UsageError
from twoway.methods.config import MethodConfig
from twoway.models.config import Attention

COLDEST = 0.01  # a learnt temperature stays above it, as CLIP's does


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
    matryoshka_dims: tuple[Annotated[int, Range(ge=1)], ...] = Field(
        default=(), description="Matryoshka: the loss is the mean of those of vectors cut to these lengths"
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.learn_temperature and self.temperature < COLDEST:
            raise UsageError(f"a learnt temperature starts at {COLDEST} or above, not {self.temperature}")
        if self.symmetric and self.negatives == "own":
            raise UsageError("symmetric needs other rows to compare with: negatives is positives or all, not own")
        if len(set(self.matryoshka_dims)) < len(self.matryoshka_dims):
            raise UsageError(f"matryoshka_dims are different numbers, not {', '.join(map(str, self.matryoshka_dims))}")


@settings
class FinetuneConfig(MethodConfig):
    """Everything about one run of `finetune`."""

    data: tuple[PairSource, ...] = ()
    learning_rate: float = 1e-5
    global_batch_size: int = Field(default=2048, ge=2, description="rows of a global batch, over all ranks")
    mixed: bool = Field(default=False, description="rows of all tasks in a batch, instead of one task's")
    sampling: Literal["size", "smooth", "weight"] = Field(default="size", description="how tasks share the steps of an epoch")
    smoothing: float = Field(default=0.5, ge=0, le=1, description="the power of a task's size where sampling is smooth; 0: all alike")
    task_weights: dict[str, Annotated[float, Range(gt=0, lt=math.inf)]] = Field(
        default_factory=dict, description="weights of tasks, over those of sources"
    )
    max_repeats: float = Field(default=1.0, ge=1, lt=math.inf, description="times that an epoch goes through a task, at most")
    small_tasks: Literal["fail", "keep"] = Field(
        default="keep", description="tasks that do not fill a batch are refused, or have batches of their size"
    )
    hard_negatives: int = Field(default=2, ge=0, description="hard negatives of each row; 0: none")
    choose: Literal["first", "random"] = Field(default="first", description="which of them, where a row has more")
    fill_negatives: bool = Field(
        default=False, description="a row that has fewer repeats its last one, as in the released code of MoCa and mmE5"
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="how the pictures of rows are changed, each epoch anew")
    loss: ContrastiveConfig = Field(default_factory=ContrastiveConfig, description="the contrastive loss")
    guide: str | None = Field(default=None, description="a model whose vectors measure loss.margin, instead of this one's own")
    attention: Attention = Field(default="two-way", description="who sees whom in the model that comes out")
    pooling: Literal["mean", "last", "eos"] | None = Field(default=None, description="how a vector is made; default: the base's, or mean")
    truncate_dim: int | None = Field(default=None, ge=1, description="numbers of a vector; default: the base's own, or all")
    prompts: dict[str, str] = Field(default_factory=dict, description="instructions by query, document, TASK-query, TASK-document")
    prompt_place: Literal["user", "system"] | None = Field(
        default=None, description="turn that holds the instruction; default: user, or where a base with prompts writes them"
    )
    calibrate: Literal["count", "none"] = Field(
        default="count", description="what an image token costs where `cost` is not given: counted on the model, or as a word"
    )
    worker_type: Literal["auto", "thread", "process"] = Field(
        default="auto", description="kind of `dataloader_num_workers`. auto: processes where a CUDA device would wait for threads"
    )
    decoded_bytes: int = Field(
        default=64 << 20,
        ge=0,
        description="bytes of decoded pictures kept for a batch's second pass; others are decoded again",
    )
    keep_graph_tokens: float | None = Field(
        default=None, ge=0, lt=math.inf, description="tokens of the chunks that keep their graphs; default: `budget`"
    )
    eval_data: tuple[PairSource, ...] = Field(default=(), description="pairs that retrieval is measured on, beside held-out rows")
    eval_rows: int = Field(default=256, ge=0, description="rows of each task of them")
    held_out: int = Field(default=64, ge=0, description="rows of each task kept out of training to measure on")
    load_best_model_at_end: bool = Field(
        default=False, description="the weights of the best evaluation become the model, instead of the last ones"
    )

    def all_prompts(self) -> dict[str, str]:
        """Return the instructions of all tasks, those of sources included."""
        found: dict[str, str] = dict(self.prompts)
        for source in self.data:
            for name, text in source.prompts().items():
                if found.setdefault(name, text) != text:
                    raise UsageError(f"the prompt {name} is said twice, and not alike: {found[name]!r} and {text!r}")
        return found

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        if self.guide is not None and self.loss.margin is None:
            raise UsageError("a guide finds negatives that are too near: say how near with loss.margin (0 for nearer than the positive)")
        if self.per_device_train_batch_size is not None:
            raise UsageError(
                "global_batch_size is the rows of a step, and budget bounds what runs at a time; leave per_device_train_batch_size out"
            )
        if self.mixed and self.sampling != "size":
            raise UsageError(f"mixed batches take rows as they come: sampling is size, not {self.sampling}")
        if self.load_best_model_at_end and self.average_checkpoints > 1:
            raise UsageError("load_best_model_at_end takes one evaluation's weights, average_checkpoints a mean; leave one of them out")
        if self.load_best_model_at_end and not self.eval_steps:
            raise UsageError("load_best_model_at_end needs eval_steps: the best of the evaluations on the way becomes the model")
