"""What embedding can be told: how a model that gives vectors is opened, and how documents become a folder of vectors."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from twoway.config import Field, Seconds, SettingPath, settings
from twoway.data.config import OnBad
from twoway.errors import UsageError
from twoway.limits import ReadLimits, check_pixels
from twoway.models.config import AUTO, Attention, AttnImplementation, by_part

Side = Literal["query", "document"]
Precision = Literal["float32", "float16", "int8", "binary"]


@settings
class OpenConfig:
    """How a model that gives vectors is opened; what is not said comes from the model."""

    pooling: Literal["mean", "last", "eos"] | None = Field(
        default=None, description="how a vector is made, for a model that is not a sentence-transformers checkpoint"
    )
    attention: Attention | None = Field(
        default=None,
        description="who sees whom, for a vision-language model that is not a sentence-transformers checkpoint "
        "(default: what its layout or its config says)",
    )
    template: Literal["chat", "plain", "bare"] | None = Field(
        default=None,
        description="how inputs are written, for a model that is not a sentence-transformers checkpoint: as a chat, or contents one behind "
        "the other; bare: plain, a picture without its marks and its tokens numbered as text "
        "(default: bare for VLM2Vec's adapters, plain for others and for MoCa's and CoCoA's checkpoints, else chat)",
    )
    processor: str | None = Field(default=None, metavar="DIR", description="where the processor is (default: with the model)")
    max_length: int | None = Field(default=None, ge=1, description="cut rows at so many tokens (default: the model's limit)")
    min_pixels: int | None = Field(
        default=None, ge=1, description="enlarge smaller pictures to this area (default: as the model's processor)"
    )
    max_pixels: int | None = Field(default=None, ge=1, description="shrink larger pictures to it (default: as the model's processor)")
    device: str = Field(default="auto", metavar="NAME", description="device to run on")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = Field(
        default=None, description="type of the weights (default: float32 on a CPU, else the model's)"
    )
    attn_implementation: str | AttnImplementation = Field(
        default=AUTO,
        metavar="NAME",
        description="attention kernel: auto, sdpa, eager, flex_attention, flash_attention_2 or flash_attention_3, or one for each part, "
        "such as tower=flash_attention_2,language=sdpa; auto is flash_attention_2 where it can be used, else sdpa",
    )
    budget: int | None = Field(
        default=None, ge=1, description="tokens of a batch, padding included; more needs more memory (default: 2,048 on a CPU, else 8,192)"
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        description="threads that decode, resize and tokenize ahead of the model (default: one for each core but one, 8 at most)",
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_pixels(self.min_pixels, self.max_pixels)
        by_part(self.attn_implementation)

    def opening(self) -> dict[str, Any]:
        """Return what was said of it, as `open_embedder` takes it."""
        found = {one.name: getattr(self, one.name) for one in dataclasses.fields(OpenConfig)}
        return {name: value for name, value in found.items() if value is not None}


@settings
class RerankerConfig:
    """How a reranker is opened; what is not said comes from the model."""

    max_length: int | None = Field(default=None, ge=1, description="cut a query with its candidate at so many tokens")
    device: str = Field(default="auto", metavar="NAME", description="device to run on")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = Field(
        default=None, description="type of the weights (default: float32 on a CPU, else the model's)"
    )
    attn_implementation: str | AttnImplementation = Field(
        default=AUTO, metavar="NAME", description="attention kernel, or one for each part, as where an embedding model is opened"
    )
    budget: int | None = Field(default=None, ge=1, description="tokens of a batch, padding included (default: 2,048 on a CPU, else 8,192)")
    workers: int | None = Field(default=None, ge=0, description="threads that prepare pairs ahead of the model")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        by_part(self.attn_implementation)


@settings
class OpenManyConfig(OpenConfig):
    """How a model is opened that embeds in several processes."""

    processes: int | None = Field(
        default=None, ge=1, description="embed in so many processes, each with a GPU of its own (default: all GPUs)"
    )

    def opening(self) -> dict[str, Any]:
        """Return what was said of it, as `open_embedders` takes it."""
        return super().opening() | ({} if self.processes is None else {"processes": self.processes})


@settings
class Cluster:
    """Which machines work with Ray, and what each actor takes of them."""

    address: str | None = Field(
        default=None, metavar="ADDRESS", description="of a running cluster, or auto (default: Ray is started on this machine)"
    )
    actors: int | None = Field(default=None, ge=1, description="at most so many actors (default: as many as there is room for)")
    cpus: float = Field(default=1, ge=0, description="cores an actor takes")
    gpus: float | None = Field(default=None, ge=0, description="GPUs an actor takes (default: 1 where the cluster has any)")


@settings
class EmbedConfig(OpenManyConfig):
    """How documents become a folder of vectors."""

    side: Side | None = Field(default=None, description="put the model's prompt for this side before each row")
    prompt: str | None = Field(default=None, description="put this text before each row")
    prompt_name: str | None = Field(default=None, metavar="NAME", description="put the model's prompt of this name before each row")
    truncate_dim: int | None = Field(default=None, description="keep the first numbers of a vector, so many (for Matryoshka models)")
    precision: Precision | None = Field(
        default=None, description="what a number is stored as; default: float32, of many vectors a document float16"
    )
    pool_factor: float = Field(
        default=1.0, ge=1, description="many vectors a document: clusters of so many, on average, become one (queries keep all of theirs)"
    )
    measure_recall: bool = Field(default=False, description="measure and print what shorter and coarser vectors cost")
    on_bad: OnBad = Field(
        default="fail", description="a bad row stops the run, or is left out, counted and listed in bad-rows.jsonl beside the vectors"
    )
    root: SettingPath | None = Field(
        default=None, metavar="DIR", description="folder that picture paths are relative to (default: that of the file)"
    )
    row_template: str | None = Field(
        default=None, description="read columns of other names, as '{title} {photo:image}'; or a ready format, such as pixelprose"
    )
    segment: Seconds | None = Field(
        default=None, gt=0, metavar="TIME", description="cut videos and sounds into segments of this length (10s), each with its own vector"
    )
    dpi: int = Field(default=144, ge=1, description="resolution of PDF pages")
    chunks: int | None = Field(
        default=None, ge=8, metavar="TOKENS", description="cut a longer text into pieces of so many tokens, a vector each"
    )
    late: bool = Field(
        default=False,
        description="late chunking: pieces of a text, or pages of a PDF, go through the model together; each vector is of its own states",
    )
    shard_rows: int | None = Field(
        default=None,
        ge=1,
        description="rows of input that a file covers; a kill costs at most these; default: 2,048, of many vectors a document 256",
    )
    limits: ReadLimits = Field(default_factory=ReadLimits, description="what is read of a row; one that has more is a bad row")
    engine: Literal["plain", "ray"] = Field(default="plain", description="this process alone, or actors of Ray that hold the model")
    cluster: Cluster = Field(default_factory=Cluster, description="many machines, with --engine ray")

    def __post_init__(self) -> None:
        """Refuse what would have no effect."""
        super().__post_init__()
        if self.pool_factor > 1 and (self.side == "query" or self.engine == "ray"):
            raise UsageError(
                "`pool_factor` makes fewer vectors of a document, in this process; leave it, or `side` query and `engine` ray, out"
            )
        if self.engine == "plain" and self.cluster != Cluster():
            raise UsageError("`cluster.address`, `cluster.actors`, `cluster.cpus` and `cluster.gpus` are for `engine` ray; say that too")
        if self.late and (self.engine == "ray" or (self.processes or 1) > 1):
            raise UsageError("`late` works in one process; leave `engine` and `processes` out")
        if self.chunks is not None and self.engine == "ray":
            raise UsageError("`chunks` are cut in this process; leave `engine` out")
        if self.segment is not None and self.engine == "ray":
            raise UsageError("videos and sounds are cut into a `segment` each in this process; leave `engine` out")
        if self.engine == "ray" and self.processes is not None:
            raise UsageError("`processes` is for one machine; with `engine` ray the cluster says how many there are")
