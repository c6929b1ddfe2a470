"""What can be told of running a recipe, planning it, and checking or preparing its data."""

from __future__ import annotations

from twoway.config import Field, SettingPath, settings
from twoway.methods.config import MergeConfig


@settings
class RunConfig:
    """How the stages of a recipe are run."""

    start: str | None = Field(default=None, metavar="STAGE", description="begin with this stage; those before it are used as they stand")
    only: str | None = Field(default=None, metavar="STAGE", description="this stage alone; those before it are used as they stand")
    redo: bool = Field(default=False, description="do stale stages again; with start or only also stages that are done")
    nproc: int = Field(default=1, ge=1, description="ranks of the training stages on this machine")


@settings
class MergeStageConfig(MergeConfig):
    """How the model that a stage starts from is merged with others."""

    models: tuple[str, ...] = Field(
        default=(),
        metavar="MODEL",
        description="models that are merged with it, behind it in the order of `weights`; stage:NAME is a stage's",
    )


@settings
class PlanConfig:
    """What a plan assumes."""

    tokens: tuple[str, ...] = Field(default=(), metavar="STAGE=N", description="tokens that a stage reads, instead of its rows")
    source: tuple[str, ...] = Field(
        default=(),
        metavar="NAME=…",
        description="rows and means of a source: NAME=ROWS:TEXT:PICTURES:TOKENS, for pairs :TEXT:PICTURES:TOKENS of the answer",
    )
    utilisation: float = Field(
        default=0.4, gt=0, le=1, metavar="SHARE", description="share of the peak reached in all operations that are done, an assumption"
    )
    padding: float = Field(default=0.03, ge=0, lt=1, metavar="SHARE", description="padding over the tokens")
    price: float | None = Field(
        default=None, ge=0, metavar="DOLLARS", description="of one for an hour (default: an assumption, with its date)"
    )


@settings
class CheckDataConfig:
    """How data is looked at before any training."""

    model: str | None = Field(
        default=None, metavar="BASE", description="hub id or folder of the model that will read the data; its weights are not loaded"
    )
    rows: int | None = Field(default=None, ge=1, description="look at so many first rows of each source (default: all; streams: 64)")
    decode: bool = Field(default=False, description="decode every picture, not its header alone")
    pairs: bool = Field(
        default=False, description="the source is pairs of a query and its answer (recipes and files of pairs say so themselves)"
    )
    against: tuple[str, ...] = Field(default=(), metavar="SPEC", description="of pairs: an evaluation set that must not be in it")


@settings
class PrepareConfig:
    """How data is prepared."""

    model: str | None = Field(
        default=None, metavar="BASE", description="hub id or folder of the model that will read the data (default: the recipe's base)"
    )
    pairs: bool = Field(default=False, description="the source is pairs of a query and its answer (recipes say so themselves)")
    processes: int | None = Field(default=None, ge=1, description="how many at once (default: one for each processor)")
    cache_dir: SettingPath | None = Field(
        default=None, metavar="DIR", description="where it is kept (default: $TWOWAY_CACHE, else ~/.cache/twoway)"
    )
