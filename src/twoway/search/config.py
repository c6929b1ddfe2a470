"""What an index and a search can be told."""

from __future__ import annotations

import dataclasses
from typing import Literal

from twoway.config import Field, Seconds, SettingPath, defaults, settings
from twoway.data.config import OnBad
from twoway.embedding.config import EmbedConfig, OpenConfig, Side
from twoway.errors import UsageError
from twoway.limits import ReadLimits


@settings
class SearchConfig(OpenConfig):
    """What is asked of an index."""

    like: str | None = Field(default=None, metavar="ID", description="look for what is like this item (needs no model)")
    top_k: int = Field(default=10, ge=1, short="-k", description="how many are found")
    filter: str | None = Field(default=None, description='only among items that this holds of: "year > 1990"')
    hybrid: bool = Field(default=False, description="also look for the words in the texts, and fuse both")
    exact: bool = Field(default=False, description="compare every vector, whatever the size")
    maxsim_top: int | None = Field(
        default=None,
        ge=1,
        description="many vectors an item: compare so many, the nearest by their mean (default: all, or 500 of a large index)",
    )
    why: bool = Field(default=False, description="say what in each hit was found: which frames, which seconds, which part of a picture")
    side: Side | None = Field(default="query", description="the model's prompt for this side")
    prompt: str | None = Field(default=None, description="put this text before the question instead")
    prompt_name: str | None = Field(default=None, metavar="NAME", description="put the model's prompt of this name before it instead")
    model: str | None = Field(default=None, metavar="MODEL", description="where the model of the index lies now")
    rerank: str | None = Field(default=None, metavar="MODEL", description="a reranker that puts the best hits into its own order")
    rerank_top: int = Field(default=100, ge=1, description="so many of them")

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        super().__post_init__()
        if self.maxsim_top is not None and (self.exact or self.hybrid):
            raise UsageError("`maxsim_top` leaves items out, and `exact` and `hybrid` compare all of them; leave one of them out")


@settings
class IndexConfig(OpenConfig):
    """How vectors, or with `model` the data itself, come into an index."""

    delete: tuple[str, ...] = Field(default=(), metavar="ID", description="take these items out")
    compact: bool = Field(default=False, description="give back the space of what was replaced and deleted")
    thumbnails: bool = Field(default=True, description="a small picture of each item, for which the embedded data is read again")
    root: SettingPath | None = Field(
        default=None, metavar="DIR", description="folder that picture paths are relative to (default: as when embedded)"
    )
    ids: Literal["own", "place"] = Field(default="own", description="name items by their own ids, or by file and row")
    exact_below: int | None = Field(
        default=None, ge=0, description="compare all vectors below this many (default: 50,000, and an index of them that stands stays)"
    )
    kind: Literal["hnsw", "ivf", "ivf-pq"] | None = Field(
        default=None, description="index above that size; ivf-pq is the smallest (default: that which stands, or hnsw)"
    )
    recall: float = Field(default=0.95, ge=0, le=1, description="recall that index is set to; 0 measures nothing")
    limits: ReadLimits = Field(default_factory=ReadLimits, description="what is read of a row; one that has more is a bad row")
    model: str | None = Field(default=None, metavar="MODEL", description="a folder or a hub id: embed the data with it first")
    out: SettingPath | None = Field(
        default=None, metavar="DIR", description="with --model: folder of the vectors (default: that of the index, with -vectors behind it)"
    )
    row_template: str | None = Field(
        default=None,
        description="with --model: read columns of other names, as '{title} {photo:image}'; or a ready format, such as pixelprose",
    )
    segment: Seconds | None = Field(
        default=None,
        gt=0,
        metavar="TIME",
        description="with --model: cut videos and sounds into segments (10s), each an item with its time",
    )
    on_bad: OnBad = Field(default="fail", description="with --model: a bad row stops the run, or is left out, counted and listed")

    def __post_init__(self) -> None:
        """Refuse what would have no effect."""
        super().__post_init__()
        usual = defaults(IndexConfig)
        opening = (one.name for one in dataclasses.fields(OpenConfig))
        for name in (*opening, "out", "row_template", "segment", "on_bad"):
            if self.model is None and getattr(self, name) != usual[name]:
                raise UsageError(f"`{name}` is for data that is embedded first; name the model with `model`")

    def embedding(self) -> EmbedConfig:
        """Return how the data is embedded."""
        own = {name: getattr(self, name) for name in ("root", "row_template", "segment", "on_bad", "limits")}
        return EmbedConfig(side="document", **own, **self.opening())
