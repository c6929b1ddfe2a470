"""`mine`: hard negatives for pairs, by what a model takes for near and is not right.

Queries and candidates are embedded once, into a folder of vectors that stays for another choice; then each query meets every candidate of
its task, exactly, block by block, from disk. Scores are cosines. Files of pairs come out one by one, each whole or not at all, so a
run goes on after a kill and gives the same rows. Of a stream of the hub the first rows are copied into the cache, as training does.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from twoway.config import settings
from twoway.data.config import MINED_FILE, PairSource, SourceConfig
from twoway.data.dataset import data_folder
from twoway.data.mixture import open_pairs, open_source_table
from twoway.data.rows import BAD_ROWS, OnBad, Policy
from twoway.embedding.bulk import embed_rows
from twoway.embedding.opening import open_embedders, require_options
from twoway.embedding.shards import Shards, alone
from twoway.errors import TwowayError, UsageError
from twoway.files import write_whole
from twoway.images import DEFAULT
from twoway.limits import Limits, ReadLimits, check_pixels
from twoway.progress import steps

from . import negatives
from .negatives import CorpusSide, Miner, NegativeChoice, UnitVectors, list_corpus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twoway.embedding import Embedder

    from .negatives import Corpus

MANIFEST, PART = MINED_FILE, 1024


@dataclass(frozen=True)
class MineResult:
    """What came out. `root` is the folder that the pictures' paths are relative to."""

    out: str
    vectors: str
    rows: int
    negatives: int
    short: int  # rows with fewer negatives than asked for
    bad: int
    candidates: int
    root: str | None
    left_out: dict[str, int]


def mine(
    model: str | Path | Embedder,
    data: str | Path | Sequence[str | Path | PairSource],
    out: str | Path,
    *,
    corpus: Sequence[str | Path | SourceConfig] = (),
    num_negatives: int = 7,
    range_min: int = 0,
    range_max: int = 100,
    max_score: float | None = None,
    min_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    random_share: float = 0.0,
    sampling_strategy: Literal["top", "random"] = "top",
    seed: int = 0,
    query_prompt: str | None = None,
    query_prompt_name: str | None = None,
    corpus_prompt: str | None = None,
    corpus_prompt_name: str | None = None,
    vectors: str | Path | None = None,
    on_bad: OnBad = "fail",
    limits: ReadLimits = DEFAULT,
    part_rows: int = PART,
    overwrite: bool = False,
    **opening: Any,
) -> MineResult:
    """Write the pairs of `data` with hard negatives to `out`, chosen by the words of `mine_hard_negatives` (`NegativeChoice`).

    A prompt is a text, or the name of one that the model has (default: the model's own for queries and for documents).
    `opening` goes to `open_embedders`: with several processes, or on a machine with several GPUs, all of them embed.
    Sources are those of the training stages: specs, or `PairSource` and `SourceConfig` with a root, a template, or the cap of a stream.
    """
    require_options(mine, opening, also=("processes",))
    choice = NegativeChoice(
        num_negatives,
        range_min,
        range_max,
        max_score,
        min_score,
        absolute_margin,
        relative_margin,
        random_share,
        sampling_strategy,
        seed,
    )
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder")
    home = Path(vectors) if vectors is not None else out.with_name(f"{out.name}.vectors")
    engine = open_embedders(model, **opening)
    with contextlib.closing(engine), alone(home), alone(out):
        policy = Policy(on_bad, home / BAD_ROWS, keep=True)
        found = _open([data] if isinstance(data, str | Path) else data, corpus, policy, Limits.reading(limits))
        prompts = {"prompt": query_prompt, "prompt_name": query_prompt_name}
        asked = _embed(engine, found, "query", home / "queries", prompts, on_bad)
        prompts = {"prompt": corpus_prompt, "prompt_name": corpus_prompt_name}
        answers = _embed(engine, found, "document", home / "candidates", prompts, on_bad)
        conditions = {
            "format": 1,
            "choice": asdict(choice),
            "part_rows": part_rows,
            "queries": Shards.open(home / "queries").manifest["data"],
            "candidates": Shards.open(home / "candidates").manifest["data"],
            "fingerprint": Shards.open(home / "queries").manifest["fingerprint"],
            "prompts": [Shards.open(home / side).manifest["prompt"] for side in ("queries", "candidates")],
            "root": None if found.root is None else str(found.root),
        }
        _begin(out, conditions, overwrite)
        miner = Miner(found, asked, answers, choice, device=engine.device)
        starts = range(0, len(found.rows), part_rows)
        for number, start in enumerate(steps(starts, f"mining, {part_rows} queries a step", total=len(starts))):
            path = _part(out, number)
            if not path.exists():
                rows, facts = miner.rows(range(start, min(start + part_rows, len(found.rows))), policy)
                negatives.write_pairs(path, rows, found.root, facts)
        facts = _facts(out, len(starts))
        if not facts["rows"]:
            raise TwowayError(f"no pair has a vector for both of its sides; see {home / BAD_ROWS}")
        write_whole(out / MANIFEST, json.dumps(conditions | {"finished": True, "facts": dict(facts)}, indent=2, ensure_ascii=False) + "\n")
    left_out = {name.removeprefix("out: "): count for name, count in sorted(facts.items()) if name.startswith("out: ")}
    bad = len(found.pairs) - facts["rows"]
    return MineResult(
        str(out), str(home), facts["rows"], facts["negatives"], facts["short"], bad, len(found.keys), conditions["root"], left_out
    )


def _open(data: Sequence[str | Path | SourceConfig], corpus: Sequence[str | Path | SourceConfig], policy: Policy, limits: Limits) -> Corpus:
    """Open all sources and go through them; what training or `data prepare` found out about them before is used."""
    given = [one if isinstance(one, SourceConfig) else PairSource(str(one)) for one in data]
    more = [one if isinstance(one, SourceConfig) else SourceConfig(str(one)) for one in corpus]
    how: dict[str, Any] = {"folder": data_folder(), "policy": policy, "limits": limits}
    return list_corpus(open_pairs(given, **how), [open_source_table(one, **how) for one in more], policy)


def _embed(engine: Embedder, corpus: Corpus, side: Any, out: Path, prompts: Mapping[str, Any], on_bad: OnBad) -> UnitVectors:
    """Embed one side, or take the vectors that are there, and map them as one array of length 1 each."""
    how = {"dim": engine.dimension, "precision": "float32", "shard_rows": 2048}
    source = CorpusSide(corpus, side)
    done = embed_rows(engine, source, out, {"side": side, **prompts}, how, on_bad=on_bad, title=f"embedding {out.name}")
    path, shards = out / "vectors.npy", Shards.open(out)
    there = np.zeros(source.count(), bool)
    if done.embedded or not path.exists():
        beside = path.with_name(".vectors.tmp")
        array = np.lib.format.open_memmap(beside, mode="w+", dtype=np.float32, shape=(source.count(), engine.dimension))
        for table in shards.tables():
            found = shards.vectors(table)
            array[_numbers(table)] = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        array.flush()
        del array
        beside.replace(path)
    for table in shards.tables(["id"]):
        there[_numbers(table)] = True
    return UnitVectors(np.load(path, mmap_mode="r", allow_pickle=False), there)


def _numbers(table: Any) -> list[int]:
    return [int(one) for one in table["id"].to_pylist()]


def _begin(out: Path, conditions: dict[str, Any], overwrite: bool) -> None:
    """Start the folder, or see that it was begun under the same conditions."""
    path = out / MANIFEST
    if overwrite:
        for old in [*out.glob("part-*.parquet"), path]:
            old.unlink(missing_ok=True)
    if not path.exists():
        if any(out.glob("*.parquet")):
            raise UsageError(f"{out} holds Parquet files and no {MANIFEST}; choose another folder")
        write_whole(path, json.dumps(conditions, indent=2, ensure_ascii=False) + "\n")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TwowayError(f"{path} cannot be read ({error}); begin anew with --overwrite") from error
    for name, value in json.loads(json.dumps(conditions)).items():
        if found.get(name) != value:
            what = {"choice": "with other settings", "fingerprint": "by another model", "prompts": "with other prompts"}.get(
                name, "of other data"
            )
            raise UsageError(f"{out} holds negatives mined {what}; choose another folder, or pass --overwrite to begin anew")


def _facts(out: Path, parts: int) -> Counter[str]:
    """Add up the counts of all files."""
    facts: Counter[str] = Counter()
    for number in range(parts):
        facts.update(negatives.facts_of(_part(out, number)))
    return facts


def _part(out: Path, number: int) -> Path:
    return out / f"part-{number:06d}.parquet"


# What the stage `mine` of a recipe can be told: the options of `twoway mine`.


@settings
class MineConfig(NegativeChoice):
    """Pairs that get hard negatives, and how those are chosen."""

    data: tuple[PairSource, ...] = Field(default=(), description="sources of the pairs")
    corpus: tuple[SourceConfig, ...] = Field(default=(), description="more candidates, for queries of every task")
    pooling: Literal["mean", "last", "eos"] | None = Field(default=None, description="how a vector is made; default: as the model says")
    max_length: int | None = Field(default=None, description="tokens of an input; default: as the model says")
    min_pixels: int | None = Field(default=None, ge=1, description="smaller pictures are enlarged to this area")
    max_pixels: int | None = Field(default=None, ge=1, description="larger pictures are shrunk to this area")
    device: str = Field(default="auto", description="device to compute on")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(default=None, description="type of the weights; default: the model's")
    processes: int | None = Field(default=None, description="processes that embed; default: one for each GPU")
    on_bad: Literal["fail", "skip"] = Field(default="fail", description="a bad row is an error, or is left out, counted and listed")
    limits: ReadLimits = Field(default_factory=ReadLimits, description="what is longer, or takes more to read, is a bad row")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        check_pixels(self.min_pixels, self.max_pixels)
        for source in self.corpus:
            if source != SourceConfig(source.spec, cap=source.cap, template=source.template, root=source.root):
                raise UsageError(f"every row of a corpus counts once: leave weight and name of {source.spec} out")

    def selection(self) -> dict[str, Any]:
        """Return how negatives are chosen."""
        return {one.name: getattr(self, one.name) for one in fields(NegativeChoice)}

    def opening(self) -> dict[str, Any]:
        """Return how the model is opened."""
        return {name: getattr(self, name) for name in ("pooling", "max_length", "min_pixels", "max_pixels", "device", "dtype", "processes")}
