"""`mine`: hard negatives for pairs, by what a model takes for near and is not right.

Queries and candidates are embedded once, into a folder of vectors that stays for another choice; then each query meets every candidate of
its task, exactly, block by block, from disk. Scores are cosines. Files of pairs come out one by one, each whole or not at all, so a
run goes on after a kill and gives the same rows. Of a stream of the hub the first rows are copied into the cache, as training does.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.config import gather, takes
from twoway.data.config import MINED_FILE, PairSource, SourceConfig
from twoway.data.dataset import data_folder
from twoway.data.mixture import open_pairs, open_source_table
from twoway.data.rows import BAD_ROWS, Policy
from twoway.embedding.bulk import embed_rows
from twoway.embedding.opening import open_embedders
from twoway.embedding.shards import Shards, alone
from twoway.errors import TwowayError, UsageError
from twoway.files import write_whole
from twoway.limits import Limits
from twoway.progress import steps

from . import negatives
from .config import MineConfig
from .negatives import CorpusSide, Miner, UnitVectors, list_corpus

if TYPE_CHECKING:
    from collections.abc import Sequence

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


@takes(MineConfig)
def mine(
    model: str | Path | Embedder,
    data: str | Path | Sequence[str | Path | PairSource],
    out: str | Path,
    *,
    config: MineConfig | None = None,
    vectors: str | Path | None = None,
    part_rows: int = PART,
    overwrite: bool = False,
    **options: Any,
) -> MineResult:
    """Write the pairs of `data` with hard negatives to `out`; `options` are the settings of `MineConfig`.

    Sources are those of the training stages: specs, or `PairSource` and `SourceConfig` with a root, a template, or the cap of a stream.
    """
    if "corpus" in options:
        options["corpus"] = [one if isinstance(one, SourceConfig) else SourceConfig(str(one)) for one in options["corpus"]]
    config = gather(MineConfig, config, options, mine)
    named = [data] if isinstance(data, str | Path) else data
    config = replace(config, data=tuple(one if isinstance(one, PairSource) else PairSource(str(one)) for one in named))
    if not config.data:
        raise UsageError("no pairs are named; pass --data SPEC, or --recipe FILE with one that names some")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder")
    home = Path(vectors) if vectors is not None else out.with_name(f"{out.name}.vectors")
    engine = open_embedders(model, **config.opening())
    with contextlib.closing(engine), alone(home), alone(out):
        policy = Policy(config.on_bad, home / BAD_ROWS, keep=True)
        found = _open(config.data, config.corpus, policy, Limits.reading(config.limits))
        asked = _embed(engine, found, "query", home / "queries", config)
        answers = _embed(engine, found, "document", home / "candidates", config)
        conditions = _conditions(config, found, home, part_rows)
        begin_folder(out, MANIFEST, conditions, "negatives mined", overwrite=overwrite)
        miner = Miner(found, asked, answers, config, device=engine.device)
        starts = range(0, len(found.rows), part_rows)
        for number, start in enumerate(steps(starts, f"mining, {part_rows} queries a step", total=len(starts))):
            path = part_file(out, number)
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


def _conditions(config: MineConfig, found: Corpus, home: Path, part_rows: int) -> dict[str, Any]:
    """Return what has to be the same for a run to go on."""
    sides = {side: Shards.open(home / side).manifest for side in ("queries", "candidates")}
    return {
        "format": 1,
        "choice": config.choice(),
        "part_rows": part_rows,
        "queries": sides["queries"]["data"],
        "candidates": sides["candidates"]["data"],
        "fingerprint": sides["queries"]["fingerprint"],
        "prompts": [manifest["prompt"] for manifest in sides.values()],
        "root": None if found.root is None else str(found.root),
    }


def _open(data: Sequence[PairSource], corpus: Sequence[SourceConfig], policy: Policy, limits: Limits) -> Corpus:
    """Open all sources and go through them; what training or `data prepare` found out about them before is used."""
    how: dict[str, Any] = {"folder": data_folder(), "policy": policy, "limits": limits}
    return list_corpus(open_pairs(data, **how), [open_source_table(one, **how) for one in corpus], policy)


def _embed(engine: Embedder, corpus: Corpus, side: Any, out: Path, config: MineConfig) -> UnitVectors:
    """Embed one side, or take the vectors that are there, and map them as one array of length 1 each."""
    prompt, name = (config.query_prompt, config.query_prompt_name) if side == "query" else (config.corpus_prompt, config.corpus_prompt_name)
    how = {"dim": engine.dimension, "precision": "float32", "shard_rows": 2048}
    source = CorpusSide(corpus, side)
    prompts = {"side": side, "prompt": prompt, "prompt_name": name}
    done = embed_rows(engine, source, out, prompts, how, on_bad=config.on_bad, title=f"embedding {out.name}")
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


def begin_folder(out: Path, manifest: str, conditions: dict[str, Any], made: str, *, overwrite: bool) -> None:
    """Start a folder of pairs, or see that it was begun under the same conditions; `made` is what it holds."""
    path = out / manifest
    if overwrite:
        for old in [*out.glob("part-*.parquet"), path]:
            old.unlink(missing_ok=True)
    if not path.exists():
        if any(out.glob("*.parquet")):
            raise UsageError(f"{out} holds Parquet files and no {manifest}; choose another folder")
        write_whole(path, json.dumps(conditions, indent=2, ensure_ascii=False) + "\n")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TwowayError(f"{path} cannot be read ({error}); begin anew with --overwrite") from error
    for name, value in json.loads(json.dumps(conditions)).items():
        if found.get(name) != value:
            known = {"choice": "with other settings", "fingerprint": "by another model", "prompt": "with another prompt"}
            what = (known | {"prompts": "with other prompts"}).get(name, "of other data")
            raise UsageError(f"{out} holds {made} {what}; choose another folder, or pass --overwrite to begin anew")


def _facts(out: Path, parts: int) -> Counter[str]:
    """Add up the counts of all files."""
    facts: Counter[str] = Counter()
    for number in range(parts):
        facts.update(negatives.facts_of(part_file(out, number)))
    return facts


def part_file(out: Path, number: int) -> Path:
    """Return where a part of the pairs is written."""
    return out / f"part-{number:06d}.parquet"
