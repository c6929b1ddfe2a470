"""Small tasks in mteb's form with their data in memory: texts, pictures and words, pages asked for in two languages, pairs, classes."""

from __future__ import annotations

import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy as np
from mteb.abstasks import AbsTaskClassification, AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from PIL import Image

from clips import clip

WORDS = tuple("red green blue white black small large round square bright dark old new map flag fox cat tree house sea".split())  # noqa: SIM905


def metadata(name: str, kind: str, category: str, score: str, languages: Any = ("eng-Latn",)) -> TaskMetadata:
    modalities = [word for word, letter in (("text", "t"), ("image", "i"), ("video", "v")) if letter in category.replace("2", "")]
    return TaskMetadata(
        name=name, type=kind, category=category, main_score=score, modalities=modalities, eval_splits=["test"],
        eval_langs=languages if isinstance(languages, dict) else list(languages), description="a task for tests",
        dataset={"path": "local/toy", "revision": "1"},
    )  # fmt: skip


def phrase(random: np.random.Generator, low: int = 2, high: int = 9) -> str:
    return " ".join(random.permutation(WORDS)[: random.integers(low, high)])


def picture(random: np.random.Generator) -> dict[str, Any]:
    size = int(random.integers(30, 70)), int(random.integers(30, 70))
    data = io.BytesIO()
    Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


def table(pictures: bool = False, **columns: Any) -> datasets.Dataset:
    found = datasets.Dataset.from_dict(columns)
    return found.cast_column("image", datasets.Image()) if pictures else found


class Toy:
    """What the searches have in common: data that `make` gives, one split a subset."""

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        if self.data_loaded:
            return
        self.dataset = {subset: {"test": self.make(np.random.default_rng(number), subset)} for number, subset in enumerate(self.hf_subsets)}
        self.data_loaded = True


def split(queries: datasets.Dataset, corpus: datasets.Dataset, right: dict[str, dict[str, int]]) -> dict[str, Any]:
    return {"queries": queries, "corpus": corpus, "relevant_docs": right, "top_ranked": None}


class ToyTexts(Toy, AbsTaskRetrieval):
    metadata = metadata("ToyTexts", "Retrieval", "t2t", "ndcg_at_10")

    def make(self, random: np.random.Generator, _: str) -> dict[str, Any]:
        texts = [phrase(random, 4) for _ in range(24)]
        queries = table(id=[f"q{n}" for n in range(8)], text=[" ".join(texts[n].split()[:2]) for n in range(8)])
        corpus = table(id=[f"d{n}" for n in range(24)], title=["" if n % 2 else "About" for n in range(24)], text=texts)
        return split(queries, corpus, {f"q{n}": {f"d{n}": 1, f"d{n + 8}": 1} for n in range(8)})


class ToyPictures(Toy, AbsTaskRetrieval):
    metadata = metadata("ToyPictures", "Any2AnyRetrieval", "i2t", "recall_at_5")

    def make(self, random: np.random.Generator, _: str) -> dict[str, Any]:
        queries = table(pictures=True, id=[f"q{n}" for n in range(6)], image=[picture(random) for _ in range(6)])
        return split(
            queries,
            table(id=[f"d{n}" for n in range(12)], text=[phrase(random) for _ in range(12)]),
            {f"q{n}": {f"d{n}": 1} for n in range(6)},
        )


class ToyPages(Toy, AbsTaskRetrieval):
    """Pages like ViDoRe's: asked for in several languages, some of them more right than others, a picture and its words each."""

    metadata = metadata("ToyPages", "DocumentUnderstanding", "t2it", "ndcg_at_5", {"english": ["eng-Latn"], "french": ["fra-Latn"]})

    def make(self, random: np.random.Generator, subset: str) -> dict[str, Any]:
        same = np.random.default_rng(9)  # the pages are those of every language
        pages = {"image": [picture(same) for _ in range(9)], "text": ["" if n % 3 == 0 else phrase(same) for n in range(9)]}
        corpus = table(pictures=True, id=[f"p{n}" for n in range(9)], **pages)
        queries = table(id=[f"{subset}-{n}" for n in range(5)], text=[phrase(random) for _ in range(5)])
        return split(queries, corpus, {f"{subset}-{n}": {f"p{n}": 2, f"p{n + 1}": 1, f"p{n + 2}": 0} for n in range(5)})


class ToyClips(Toy, AbsTaskRetrieval):
    metadata = metadata("ToyClips", "Any2AnyRetrieval", "t2v", "recall_at_1")

    def make(self, random: np.random.Generator, _: str) -> dict[str, Any]:
        with TemporaryDirectory() as folder:
            files = [clip(Path(folder) / "clip.mp4", frames=4 + 2 * n).read_bytes() for n in range(4)]
        corpus = datasets.Dataset.from_dict(
            {"id": [f"v{n}" for n in range(4)], "video": [{"bytes": one, "path": None} for one in files]},
            features=datasets.Features({"id": datasets.Value("string"), "video": datasets.Video()}),
        )
        queries = table(id=[f"q{n}" for n in range(4)], text=[phrase(random) for _ in range(4)])
        return split(queries, corpus, {f"q{n}": {f"v{n}": 1} for n in range(4)})


class ToyPairs(AbsTaskSTS):
    metadata = metadata("ToyPairs", "STS", "t2t", "cosine_spearman")
    min_score, max_score = 0, 1

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        random = np.random.default_rng(5)
        pairs = {"sentence1": [phrase(random) for _ in range(12)], "sentence2": [phrase(random) for _ in range(12)]}
        self.dataset = datasets.DatasetDict({"test": table(**pairs, score=random.random(12).tolist())})
        self.data_loaded = True


class ToyClasses(AbsTaskClassification):
    metadata = metadata("ToyClasses", "Classification", "t2c", "accuracy")
    n_experiments = 2

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        random = np.random.default_rng(6)
        parts = {name: table(text=[phrase(random) for _ in range(24)], label=[n % 2 for n in range(24)]) for name in ("train", "test")}
        self.dataset = datasets.DatasetDict(parts)
        self.data_loaded = True


TOYS = (ToyTexts, ToyPictures, ToyPages, ToyPairs, ToyClasses)
