"""`score`: a teacher's scores of each pair's candidates, written ahead, for distillation in fine-tuning.

The teacher is a reranker, which reads a query with each candidate, or an embedding model or a server of one, whose score is the cosine, or
MaxSim where it gives many vectors.
Files of pairs come out one by one, each whole or not at all, so a run goes on after a kill. A row has `positive_scores` and
`negative_scores` beside its sides.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.config import gather, takes
from twoway.content import ContentError
from twoway.data.config import SCORED_FILE, PairSource
from twoway.data.dataset import data_folder
from twoway.data.mixture import open_pairs
from twoway.data.rows import BAD_ROWS, Policy
from twoway.embedding.endpoint import is_endpoint
from twoway.embedding.opening import open_engine
from twoway.embedding.reranker import Reranker, gives_scores, open_reranker
from twoway.embedding.shards import MultiVectors, alone
from twoway.errors import TwowayError, UsageError
from twoway.files import write_whole
from twoway.limits import Limits
from twoway.models import loading
from twoway.progress import steps

from .config import ScoreConfig
from .mine import begin_folder, part_file
from .negatives import facts_of, write_scored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twoway.content import Pair
    from twoway.data.mixture import Pairs
    from twoway.embedding import Embedder
    from twoway.embedding.endpoint import Endpoint

PART = 256


@dataclass(frozen=True)
class ScoreResult:
    """What came out. `root` is the folder that the pictures' paths are relative to."""

    out: str
    rows: int
    candidates: int  # that were scored, of all rows
    bad: int
    root: str | None


@takes(ScoreConfig)
def score(
    model: str | Path | Reranker | Embedder,
    data: str | Path | Sequence[str | Path | PairSource],
    out: str | Path,
    *,
    config: ScoreConfig | None = None,
    part_rows: int = PART,
    overwrite: bool = False,
    **options: Any,
) -> ScoreResult:
    """Write the pairs of `data` with the scores of `model` to `out`; `options` are the settings of `ScoreConfig`."""
    config = gather(ScoreConfig, config, options, score)
    named = [data] if isinstance(data, str | Path) else data
    sources = tuple(one if isinstance(one, PairSource) else PairSource(str(one)) for one in named)
    if not sources:
        raise UsageError("no pairs are named; pass --data SPEC")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder")
    teacher = _open_teacher(model, config)
    with contextlib.closing(teacher), alone(out):
        policy = Policy(config.on_bad, out / BAD_ROWS, keep=True)
        pairs = open_pairs(sources, folder=data_folder(), policy=policy, limits=Limits.reading(config.limits))
        root = _root_of(pairs)
        conditions = {
            "format": 1,
            "data": pairs.digest(),
            "fingerprint": teacher.fingerprint,
            "prompt": config.prompt,
            "part_rows": part_rows,
            "root": None if root is None else str(root),
        }
        begin_folder(out, SCORED_FILE, conditions, "scores", overwrite=overwrite)
        starts = range(0, len(pairs), part_rows)
        for number, start in enumerate(steps(starts, f"scoring, {part_rows} rows a step", total=len(starts))):
            if not part_file(out, number).exists():
                rows = _score(teacher, pairs, range(start, min(start + part_rows, len(pairs))), config.prompt, policy)
                facts = {"rows": len(rows), "candidates": sum(len(right) + len(wrong) for _, right, wrong in rows)}
                write_scored(part_file(out, number), rows, root, facts)
        facts = Counter[str]()
        for number in range(len(starts)):
            facts.update(facts_of(part_file(out, number)))
        if not facts["rows"]:
            raise TwowayError(f"no pair could be scored; see {out / BAD_ROWS}")
        done = conditions | {"finished": True, "facts": dict(facts)}
        write_whole(out / SCORED_FILE, json.dumps(done, indent=2, ensure_ascii=False) + "\n")
    return ScoreResult(str(out), facts["rows"], facts["candidates"], len(pairs) - facts["rows"], conditions["root"])


def _open_teacher(model: Any, config: ScoreConfig) -> Embedder | Endpoint:
    """Open a reranker, or what gives vectors: a model, or a server."""
    if isinstance(model, Reranker) or (isinstance(model, str | Path) and not is_endpoint(model) and gives_scores(loading.locate(model))):
        return open_reranker(model, **config.opening())
    return open_engine(model, **config.opening(), late_interaction=True)


def _root_of(pairs: Pairs) -> Path | None:
    """Return the deepest folder that all pictures on disk lie in; rows that cannot be read are refused when they are scored."""
    folders: set[str] = set()
    for row in steps(range(len(pairs)), "listing pairs", total=len(pairs)):
        with contextlib.suppress(ContentError):
            pair = pairs.read(row)[1]
            paths = (part.path(one.place) for one in pair.documents for part in one.media)
            folders.update(str(path.parent) for path in paths if path is not None)
    return Path(os.path.commonpath(folders)) if folders else None


Scored = tuple["Pair", list[float], list[float]]


def _score(teacher: Embedder | Endpoint, pairs: Pairs, rows: range, prompt: str | None, policy: Policy) -> list[Scored]:
    """Return rows with the scores of their right and of their wrong candidates; a row is refused whole."""
    read: list[Pair] = []
    for row in rows:
        try:
            read.append(pairs.read(row)[1])
        except ContentError as error:
            policy.refuse(error)
    bad: dict[int, ContentError] = {}
    found = _of_reranker(teacher, read, prompt, bad) if isinstance(teacher, Reranker) else _of_embedder(teacher, read, prompt, bad)
    scored = []
    for number, (pair, scores) in enumerate(zip(read, found, strict=True)):
        if number in bad:
            policy.refuse(ContentError(bad[number].reason, pair.place))
            continue
        right = len(pair.positives)
        scored.append((pair, scores[:right], scores[right:]))
    return scored


def _of_reranker(teacher: Reranker, read: Sequence[Pair], prompt: str | None, bad: dict[int, ContentError]) -> list[list[float]]:
    """Score each candidate of each pair; the rows of one task have the reranker's instruction for it."""
    found: list[list[float]] = [[0.0] * (len(pair.documents) - 1) for pair in read]
    known = teacher.sentence.prompts
    told = [known.get(f"{pair.task}-query") if prompt is None else prompt for pair in read]
    for text in dict.fromkeys(told):
        places = [(number, at) for number, one in enumerate(told) if one == text for at in range(len(found[number]))]
        asked = ((read[number].query, read[number].documents[1 + at]) for number, at in places)

        def refuse(place: int, error: ContentError, places: Sequence[tuple[int, int]] = places) -> None:
            bad.setdefault(places[place][0], error)

        for place, value in teacher.scores(asked, prompt=text, refuse=refuse):
            number, at = places[place]
            found[number][at] = value
    return found


def _of_embedder(teacher: Embedder | Endpoint, read: Sequence[Pair], prompt: str | None, bad: dict[int, ContentError]) -> list[list[float]]:
    """Return how near each candidate is to its query, by cosine or by MaxSim; the prompt is that of queries."""
    places = [(number, at) for number, pair in enumerate(read) for at in range(len(pair.documents))]
    vectors: dict[tuple[int, int], Any] = {}
    for side, chosen in (("query", [one for one in places if not one[1]]), ("document", [one for one in places if one[1]])):

        def refuse(place: int, error: ContentError, chosen: Sequence[tuple[int, int]] = chosen) -> None:
            bad.setdefault(chosen[place][0], error)

        how: dict[str, Any] = {"prompt": prompt} if side == "query" and prompt is not None else {"side": side}
        for place, vector in teacher.embed((read[number].documents[at] for number, at in chosen), refuse=refuse, **how):
            vectors[chosen[place]] = vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12)
    return [
        [] if number in bad else _similarities(vectors[number, 0], [vectors[number, at] for at in range(1, len(pair.documents))])
        for number, pair in enumerate(read)
    ]


def _similarities(query: Any, candidates: Sequence[Any]) -> list[float]:
    if query.ndim == 1:
        return [float(query @ one) for one in candidates]
    found: list[float] = MultiVectors.of(candidates, query.shape[1]).maxsim(query).tolist()
    return found
