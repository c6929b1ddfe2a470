"""What `finetune` can be told; the defaults are those of MoCa's second stage (arXiv 2506.23115, section 4.1), where the paper says one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from twoway.data.mixture import PairSource  # noqa: TC001 - read at run time
from twoway.errors import UsageError
from twoway.methods.config import MethodConfig
from twoway.models.attention import Attention  # noqa: TC001 - read at run time

from .step import ContrastiveConfig


@dataclass(frozen=True)
class FinetuneConfig(MethodConfig):
    """Everything about one run of `finetune`."""

    data: tuple[PairSource, ...] = ()
    learning_rate: float = 1e-5
    global_batch_size: int = 2048  # rows of a global batch, over all ranks
    mixed: bool = False  # rows of all tasks in a batch, instead of one task's
    sampling: Literal["size", "smooth", "weight"] = "size"  # how tasks share the steps of an epoch
    smoothing: float = 0.5  # the power of a task's size where sampling is smooth
    task_weights: dict[str, float] = field(default_factory=dict)  # over the weights of sources
    max_repeats: float = 1.0  # a task is gone through at most so often an epoch
    small_tasks: Literal["fail", "keep"] = "keep"  # tasks that do not fill a batch: refused, or in batches of their size
    hard_negatives: int = 2  # of each row; 0 for none
    choose: Literal["first", "random"] = "first"  # which of them, where a row has more
    fill_negatives: bool = False  # a row that has fewer has its last one again, as in the released code of MoCa and mmE5
    loss: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    guide: str | None = None  # a model by whose vectors loss.margin is measured, instead of this one's own
    attention: Attention = "two-way"
    pooling: Literal["mean", "last", "eos"] | None = None  # default: the base's own, or mean
    dim: int | None = None  # numbers of a vector; default: the base's own, or all
    prompts: dict[str, str] = field(default_factory=dict)  # by query, document, TASK-query, TASK-document
    prompt_place: Literal["user", "system"] | None = None  # default: user, or where a base with prompts writes them
    calibrate: Literal["count", "none"] = "count"  # what an image token costs, where `cost` does not say: counted, or that of a word
    worker_type: Literal["auto", "thread", "process"] = (
        "auto"  # of `dataloader_num_workers`; auto: processes where a CUDA device would wait for threads
    )
    decoded_bytes: int = 64 << 20  # of decoded pictures that a rank keeps for the second pass over a batch; the others are decoded again
    hold: float | None = None  # cost of the chunks that are not run twice; default: one budget's
    eval_data: tuple[PairSource, ...] = ()  # retrieval is measured on these, beside held-out rows
    eval_rows: int = 256  # of each task of them
    held_out: int = 64  # of each task
    load_best_model_at_end: bool = False  # the weights of the best evaluation become the model, instead of the last ones

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
        if self.global_batch_size < 2:
            raise UsageError(f"global_batch_size is at least 2 rows, because each is told apart from others, not {self.global_batch_size}")
        if self.guide is not None and self.loss.margin is None:
            raise UsageError("a guide finds negatives that are too near: say how near with loss.margin (0 for nearer than the positive)")
        if self.batch_rows is not None:
            raise UsageError("global_batch_size is the rows of a step here, and budget bounds what runs at a time; leave batch_rows out")
        if not 0 <= self.smoothing <= 1:
            raise UsageError(f"smoothing is a power from 0 (all tasks alike) to 1 (by size), not {self.smoothing}")
        if not 1 <= self.max_repeats < math.inf:
            raise UsageError(f"max_repeats is at least 1, not {self.max_repeats}")
        if self.mixed and self.sampling != "size":
            raise UsageError(f"mixed batches take rows as they come: sampling is size, not {self.sampling}")
        for task, weight in self.task_weights.items():
            if not 0 < weight < math.inf:
                raise UsageError(f"task_weights.{task} is above 0, not {weight}")
        for name in ("hard_negatives", "eval_rows"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is 0 or more, not {getattr(self, name)}")
        if self.dim is not None and self.dim < 1:
            raise UsageError(f"dim is at least 1, not {self.dim}")
        if self.hold is not None and not 0 <= self.hold < math.inf:
            raise UsageError(f"hold is 0 or more, not {self.hold}")
        if self.decoded_bytes < 0:
            raise UsageError(f"decoded_bytes is 0 or more, not {self.decoded_bytes}")
        if self.load_best_model_at_end and not self.eval_steps:
            raise UsageError("load_best_model_at_end needs eval_steps: the best of the evaluations on the way becomes the model")
