"""What a server can be told."""

from __future__ import annotations

from twoway.config import Field, SettingPath, settings
from twoway.embedding.config import OpenConfig


@settings
class ServeConfig(OpenConfig):
    """A model behind HTTP."""

    index: str | None = Field(default=None, metavar="PATH", description="to search: a folder, a .db file, or milvus://host:port/collection")
    rerank: str | None = Field(
        default=None, metavar="MODEL", description="a reranker beside the model: /v1/rerank, and search in two steps"
    )
    host: str = Field(default="127.0.0.1", metavar="NAME", description="address to answer at")
    port: int = Field(default=8000, description="port to answer at; 0 takes any that is free")
    api_keys: SettingPath | None = Field(
        default=None, metavar="FILE", description="keys that may ask, one a line (or TWOWAY_API_KEYS, with commas)"
    )
    allow_host: tuple[str, ...] = Field(
        default=(),
        metavar="NAME",
        description="answer to local names and to these alone (default: local names without keys, else any)",
    )
    name: str | None = Field(default=None, description="what the model is called in answers (default: its folder's name)")
    read_only: bool = Field(default=False, description="nobody adds to the index or deletes from it")
    budget: int | None = Field(
        default=None, ge=1, metavar="TOKENS", description="tokens of a batch, with padding (default: 2,048 on a CPU, else 8,192)"
    )
    batch_size: int = Field(default=256, ge=1, description="documents of a batch at most")
    queue: int = Field(default=4096, ge=1, description="documents that may wait; past that, 429")
    timeout: int = Field(default=60, ge=1, metavar="SECONDS", description="time a request may take")
    max_body: int = Field(default=32, ge=1, metavar="MIB", description="size of a request")
    decode_pixels: int = Field(default=20_000_000, ge=1, description="refuse pictures larger than this")
    grace: int = Field(default=30, ge=1, metavar="SECONDS", description="time that running requests get when it is told to stop")
