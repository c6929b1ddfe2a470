"""What every training stage can be told beside how it trains: its data, how batches are made, and which weights train."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, Literal

from twoway.config import Field, Range, SettingPath, settings
from twoway.data.config import AugmentConfig, CostWeights, OnBad, PairSource, SourceConfig
from twoway.embedding.config import OpenManyConfig, RerankerConfig
from twoway.errors import UsageError
from twoway.limits import ReadLimits, check_pixels
from twoway.models.config import Attention, AttnImplementation, by_part
from twoway.training.config import TrainConfig


@settings
class AdapterConfig:
    """LoRA: rank 0 trains the weights themselves."""

    r: int = Field(default=0, ge=0, description="rank of the adapter; 0: the weights themselves are trained")
    lora_alpha: int = Field(default=64, description="alpha of the adapter")
    lora_dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout before the adapter")
    use_dora: bool = Field(default=False, description="DoRA: magnitude and direction apart")
    parts: tuple[Literal["language", "tower", "projector"], ...] = Field(
        default=("language",), description="parts of the model that get the adapter"
    )
    target_modules: tuple[str, ...] = Field(default=(), description="linear layers of these parts by name, such as q_proj; default: all")
    init_lora_weights: Literal["default", "gaussian"] = Field(
        default="default", description="peft's own start, or N(0, 1 / rank); both leave the model as it is"
    )

    def covers(self, name: str) -> bool:
        """Say whether a linear layer of a chosen part gets an adapter."""
        return not self.target_modules or name.rpartition(".")[2] in self.target_modules

    def __post_init__(self) -> None:
        """Refuse an adapter of nothing."""
        if self.r and not self.parts:
            raise UsageError("an adapter needs a part to be put on: language, tower or projector")


@settings
class MethodConfig(TrainConfig):
    """What the stages have in common; each adds what it alone has."""

    data: tuple[SourceConfig, ...] = Field(default=(), description="sources of the training data")
    max_steps: int | None = Field(default=None, ge=1, description="steps of the run; default: as many as `num_train_epochs` make")
    num_train_epochs: int = Field(default=1, ge=1, description="times that the data is gone through")
    max_length: int = Field(default=2048, ge=1, description="tokens of a row; a longer one is cut, and counted")
    min_pixels: int | None = Field(default=None, ge=1, description="smaller pictures are enlarged to this area; default: the base's own")
    max_pixels: int | None = Field(default=None, ge=1, description="larger pictures are shrunk to this area; default: the base's own")
    template: Literal["chat", "plain"] = Field(default="chat", description="how a row is written: by the model's chat template, or bare")
    budget: float = Field(default=12_800.0, gt=0, lt=math.inf, description="cost of a rank's batch, in text tokens")
    cost: CostWeights = Field(default_factory=CostWeights, description="cost of an image token and of a picture, for the budget")
    per_device_train_batch_size: int | None = Field(default=None, ge=1, description="rows of a batch, instead of the budget")
    batches_per_step: int | None = Field(
        default=None, ge=1, description="batches of a step, over all ranks; a rank adds its own up. Default: one for each rank"
    )
    attn_implementation: str | AttnImplementation = Field(
        default="auto", description="an attention kernel's name, or one for each part. auto: flash_attention_2 where it can be used"
    )
    freeze_tower: bool = Field(default=False, description="do not train the vision tower")
    train_layers: int = Field(default=0, ge=0, description="train only so many last layers of the language model; 0: all")
    lora: AdapterConfig = Field(default_factory=AdapterConfig, description="train a LoRA adapter instead of the weights")
    average_checkpoints: int = Field(
        default=1, ge=1, description="the mean weights of the last so many checkpoints become the model; 1: the last ones"
    )
    held_out: int = Field(default=128, ge=0, description="rows kept out of training to measure on, at most a twentieth of all")
    on_bad: OnBad = Field(default="fail", description="a bad row stops the run, or is left out, counted and listed")
    limits: ReadLimits = Field(default_factory=ReadLimits, description="what is longer, or takes more to read, is a bad row")
    max_bad_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="a source of 1,000 rows or more that would lose a larger share of them stops the run",
    )
    dataloader_num_workers: int = Field(default=2, ge=0, description="workers that prepare batches; 0: none beside the training itself")
    dataloader_prefetch_factor: int = Field(default=2, ge=1, description="batches that each worker prepares ahead")
    dataloader_pin_memory: bool = Field(default=True, description="page-locked memory for batches of a CUDA device")
    cache_dir: SettingPath | None = Field(
        default=None,
        description="folder that keeps what is found out about data; default: $TWOWAY_CACHE, else ~/.cache/twoway",
    )
    prepared_only: bool = Field(default=False, description="refuse data that `twoway data prepare` has not gone through")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        if self.average_checkpoints > 1 and self.lora.r:
            raise UsageError(
                "average_checkpoints takes the mean of weights, and that of an adapter's factors is another thing; leave it out"
            )
        if self.average_checkpoints > self.save_total_limit:
            raise UsageError(f"average_checkpoints {self.average_checkpoints} needs as many that are kept; raise save_total_limit")
        if self.average_checkpoints > 1 and self.save_minutes:
            raise UsageError("which checkpoints are averaged must not depend on the clock; set save_minutes to 0 and choose save_steps")
        by_part(self.attn_implementation)
        check_pixels(self.min_pixels, self.max_pixels)


@settings
class PairsConfig(MethodConfig):
    """What the stages that train on pairs have in common."""

    data: tuple[PairSource, ...] = ()
    learning_rate: float = 1e-5
    global_batch_size: int = Field(default=2048, ge=2, description="rows of a global batch, over all ranks")
    mixed: bool = Field(default=False, description="rows of all tasks in a batch, instead of one task's")
    sampling: Literal["size", "smooth", "weight"] = Field(default="size", description="how tasks share the steps of an epoch")
    smoothing: float = Field(default=0.5, ge=0, le=1, description="the power of a task's size where sampling is smooth; 0: all alike")
    task_weights: dict[str, Annotated[float, Range(gt=0, lt=math.inf)]] = Field(
        default_factory=dict, description="weights of tasks, over those of sources"
    )
    max_repeats: float = Field(
        default=1.0,
        ge=1,
        lt=math.inf,
        description="times that an epoch goes through a task, at most; 1: each once, whatever sampling and weights say",
    )
    small_tasks: Literal["fail", "keep"] = Field(
        default="keep", description="tasks that do not fill a batch are refused, or have batches of their size"
    )
    hard_negatives: int = Field(default=2, ge=0, description="hard negatives of each row; 0: none")
    choose: Literal["first", "random"] = Field(default="first", description="which of them, where a row has more")
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="how the pictures of rows are changed, each epoch anew")
    attention: Attention = Field(default="two-way", description="who sees whom in the model that comes out")
    prompts: dict[str, str] = Field(default_factory=dict, description="instructions by query, document, TASK-query, TASK-document")
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


@settings
class ConvertConfig:
    """The options of `convert`; what is not given comes from the source, and then from the defaults."""

    attention: Attention = Field(default="two-way", description="who sees whom in the model that comes out")
    pooling: Literal["mean", "last", "eos"] | None = Field(default=None, description="how a vector is made; default: the source's, or mean")
    template: Literal["chat", "plain"] | None = Field(default=None, description="how inputs are written; default: the source's, or chat")
    head: Literal["yes-no"] | None = Field(
        default=None,
        description="write a reranker, whose score is the logit of yes less that of no; default: one where the source is one",
    )
    processor: str | None = Field(default=None, description="hub id or folder of the processor, where the source has none")
    base: str | None = Field(default=None, description="hub id or folder of the model that an adapter belongs to")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="type of the weights that are written; auto: the source's"
    )
    mask_token: str | None = Field(default=None, description="the token that stands for a masked word")
    prompts: dict[str, str] = Field(default_factory=dict, description="instructions by name")
    max_length: int | None = Field(default=None, description="tokens of an input, at most")
    min_pixels: int | None = Field(default=None, ge=1, description="smaller pictures are enlarged to this area")
    max_pixels: int | None = Field(default=None, ge=1, description="larger pictures are shrunk to this area")
    truncate_dim: int | None = Field(default=None, description="numbers of a vector; default: all")
    num_hidden_layers: int | None = Field(
        default=None, ge=1, description="keep so many layers of the language model, in even steps, as a small model to train; default: all"
    )
    attn_implementation: str | AttnImplementation | None = Field(
        default=None, description="attention kernel that the result is proved with; it is not saved"
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.attn_implementation is not None:
            by_part(self.attn_implementation)
        check_pixels(self.min_pixels, self.max_pixels)


@settings
class MergeConfig:
    """How models of one base become one."""

    method: Literal["linear", "slerp", "ties"] = Field(
        default="linear", description="the weighted mean; the arc between two models; or the mean of changes that agree in sign"
    )
    weights: tuple[float, ...] = Field(default=(), description="weight of each model, in their order, divided by their sum; default: equal")
    base: str | None = Field(default=None, metavar="MODEL", description="ties: the model that all were trained from")
    density: float = Field(default=0.2, gt=0, le=1, description="ties: share of a tensor's changes that is kept, the largest")
    scale: float = Field(default=1.0, gt=0, description="ties: the merged change is multiplied by this")
    settings_from: str | None = Field(
        default=None, metavar="MODEL", description="the model whose attention, pooling, prompts and limits stand where the models differ"
    )
    suite: str | None = Field(default=None, metavar="NAME", description="choose the weights by the mean score on this suite of `evaluate`")
    data: SettingPath | None = Field(default=None, description="the folder or pairs that the suite reads")
    tasks: tuple[str, ...] = Field(default=(), metavar="NAME", description="only these tasks of the suite (default: all)")
    subset: int | None = Field(default=None, ge=1, description="only so many queries of each task")
    grid: int = Field(default=4, ge=1, description="weights are tried in steps of 1 / grid")
    max_tries: int = Field(default=50, ge=1, description="evaluations at most")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if any(not (math.isfinite(one) and one >= 0) for one in self.weights) or (self.weights and not sum(self.weights)):
            raise UsageError(f"weights are not negative and do not add up to nothing, not {list(self.weights)}")
        if self.weights and self.suite is not None:
            raise UsageError("a suite chooses the weights; leave weights or suite out")
        if self.base is not None and self.method != "ties":
            raise UsageError(f"base is for method ties, and {self.method} does not use it; leave it out")
        if self.suite is None and (self.data is not None or self.tasks or self.subset is not None):
            raise UsageError("data, tasks and subset belong to a suite; name one")


@settings
class NegativeChoice:
    """Which candidates become negatives, in the words of sentence-transformers' `mine_hard_negatives`."""

    num_negatives: int = Field(default=7, ge=1, description="negatives of each pair")
    range_min: int = Field(default=0, ge=0, description="so many of the nearest wrong candidates are skipped")
    range_max: int = Field(default=100, ge=1, description="rank of the farthest candidate that may be chosen; the nearest has 1")
    max_score: float | None = Field(default=None, description="a negative scores at most this")
    min_score: float | None = Field(default=None, description="a negative scores at least this")
    absolute_margin: float | None = Field(default=None, description="a negative scores at least this much less than the positive")
    relative_margin: float | None = Field(
        default=None, ge=0, le=1, description="the same as a share of the positive's score: 0.05 for at most 95% of it"
    )
    random_share: float = Field(default=0.0, ge=0, le=1, description="share of the negatives that are drawn from all candidates")
    sampling_strategy: Literal["top", "random"] = Field(default="top", description="the nearest within the range, or drawn among them")
    seed: int = Field(default=0, description="seed of what is drawn")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.range_min >= self.range_max:
            raise UsageError(f"`range_min` is below `range_max`, not {self.range_min} and {self.range_max}")
        if self.max_score is not None and self.min_score is not None and self.max_score <= self.min_score:
            raise UsageError(f"no score is below {self.max_score} and above {self.min_score}; `max_score` is the larger one")

    def drawn(self) -> int:
        """Return how many negatives are drawn from all candidates."""
        return round(self.num_negatives * self.random_share)

    def choice(self) -> dict[str, Any]:
        """Return these settings alone."""
        return {one.name: getattr(self, one.name) for one in dataclasses.fields(NegativeChoice)}


@settings
class ScoreConfig(RerankerConfig):
    """Pairs whose candidates a teacher scores, and how."""

    data: tuple[PairSource, ...] = Field(default=(), description="sources of the pairs: columns query, positive, negatives and so on")
    prompt: str | None = Field(
        default=None, description="the instruction of a reranker, or a text before each query (default: the model's prompts)"
    )
    on_bad: OnBad = Field(default="fail", description="a bad row stops the run, or is left out, counted and listed beside the rows")
    limits: ReadLimits = Field(default_factory=ReadLimits, description="what is read of a row; one that has more is a bad row")

    def opening(self) -> dict[str, Any]:
        """Return what was said of opening the model."""
        found = {one.name: getattr(self, one.name) for one in dataclasses.fields(RerankerConfig)}
        return {name: value for name, value in found.items() if value is not None}


@settings
class MineConfig(NegativeChoice, OpenManyConfig):
    """Pairs that get hard negatives, and how those are chosen."""

    data: tuple[PairSource, ...] = Field(default=(), description="sources of the pairs: columns query, positive and so on")
    corpus: tuple[SourceConfig, ...] = Field(default=(), description="more candidates, for queries of every task")
    query_prompt: str | None = Field(default=None, description="text before a query (default: the model's prompt for queries)")
    query_prompt_name: str | None = Field(default=None, metavar="NAME", description="the model's prompt of this name before a query")
    corpus_prompt: str | None = Field(default=None, description="text before a candidate (default: the prompt for documents)")
    corpus_prompt_name: str | None = Field(default=None, metavar="NAME", description="the model's prompt of this name before a candidate")
    on_bad: OnBad = Field(default="fail", description="a bad row stops the run, or is left out, counted and listed beside the vectors")
    limits: ReadLimits = Field(default_factory=ReadLimits, description="what is read of a row; one that has more is a bad row")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        OpenManyConfig.__post_init__(self)
        for source in self.corpus:
            if source != SourceConfig(source.spec, cap=source.cap, row_template=source.row_template, root=source.root):
                raise UsageError(f"every row of a corpus counts once: leave weight and name of {source.spec} out")
