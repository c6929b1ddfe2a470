"""Through mteb: its own wrapper and ours give the same numbers, to the last digit; queries are kept; what cannot be scored is refused."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

import datasets
import mteb
import numpy as np
import pytest
from mteb.models import SentenceTransformerEncoderWrapper
from sentence_transformers import SentenceTransformer

import twoway
from mteb_toys import TOYS, ToyClips, ToyPictures, ToyTexts, picture, table
from twoway.cli import main
from twoway.content import ContentError, Document, Text, Video
from twoway.embedding import open_embedder
from twoway.errors import TwowayError, UsageError
from twoway.evaluation.cache import VectorSource
from twoway.evaluation.compare import compare
from twoway.evaluation.evaluate import evaluate
from twoway.evaluation.mteb import MtebModel, model_meta, open_mteb_tasks, run_mteb_task, search_chance
from twoway.evaluation.runner import read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROMPTS = {"query": "Find: ", "STS": "Same? ", "ToyPages-document": "A page: "}


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let mteb know the tasks by their names, and a benchmark of them."""
    for toy in (*TOYS, ToyClips):
        monkeypatch.setitem(sys.modules["mteb.get_tasks"]._TASKS_REGISTRY, toy.metadata.name, toy)
    together = mteb.Benchmark(name="Toys", tasks=[toy() for toy in TOYS])
    monkeypatch.setitem(sys.modules["mteb.benchmarks.get_benchmark"]._build_registry(), "Toys", together)


@pytest.fixture
def model(tiny_encoder) -> Path:
    return tiny_encoder("qwen2_vl", prompts=PROMPTS)


def theirs(folder: Path) -> SentenceTransformerEncoderWrapper:
    """Return mteb's own wrapper around sentence-transformers, told that the model takes pictures."""
    wrapped = SentenceTransformerEncoderWrapper(SentenceTransformer(str(folder), device="cpu"))
    wrapped.mteb_model_meta = wrapped.mteb_model_meta.model_copy(update={"modalities": ["image", "text"]})
    return wrapped


def scores(model: Any, task: Any) -> dict[str, Any]:
    """Return the numbers of a task as mteb writes them: six digits. Vectors come from other batches and differ in their last bits."""
    quiet = {"batch_size": 5, "show_progress_bar": False}
    found = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False, encode_kwargs=quiet)
    return written(found.task_results[0])


def written(result: Any) -> dict[str, Any]:
    found = numbers(result.to_dict()["scores"])
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in found}


def numbers(scores: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(scores, dict | list):
        for key, value in scores.items() if isinstance(scores, dict) else enumerate(scores):
            yield from numbers(value, f"{name}/{key}")
    elif not (isinstance(scores, float) and math.isnan(scores)):
        yield name, scores


@pytest.mark.parametrize("toy", TOYS)
def test_the_scores_are_those_of_mtebs_own_wrapper(toy, model, tmp_path):
    ours = evaluate(model, f"mteb:{toy.metadata.name}", cache_dir=tmp_path, device="cpu").results[0].found
    assert written(ours) == scores(theirs(model), toy())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_scores_on_mtebs_own_small_tasks_are_those_of_its_wrapper(model, tmp_path):
    from mteb.mocks import ALL_MOCK_TASK_TEST_GRID

    tasks = {one.metadata.name: type(one) for one in ALL_MOCK_TASK_TEST_GRID if {"image", "text"}.issuperset(one.metadata.modalities)}
    assert len(tasks) > 40
    ours, other = twoway.mteb_model(model, cache_dir=tmp_path, device="cpu"), theirs(model)
    assert {name: mine for name, task in tasks.items() if (mine := scores(ours, task())) != scores(other, task())} == {}


def test_queries_are_kept_and_their_mean_is_mtebs_score(model, tmp_path):
    path = tmp_path / "r.json"
    found = evaluate(model, "mteb:Toys", cache_dir=tmp_path, out=path, device="cpu").found
    _, items = read(path)
    assert {name: len(rows) for name, rows in items.items()} == {"ToyTexts": 8, "ToyPictures": 6, "ToyPages": 10}
    for name, rows in items.items():
        entry = found["tasks"][name]
        assert np.mean([row.score for row in rows.values()]) == pytest.approx(entry["score"], abs=1e-5)
        assert (entry["n"], entry["absent"]) == (len(rows), 0)
        assert entry["ci95"][0] <= entry["score"] <= entry["ci95"][1]
        assert 0 < entry["chance"] < 1
    assert found["tasks"]["ToyPages"]["metric"] == "ndcg@5"
    assert set(found["tasks"]["ToyPages"]["subsets"]) == {"test/english", "test/french"}
    assert (found["tasks"]["ToyPairs"]["n"], found["tasks"]["ToyPairs"]["chance"]) == (None, None)
    assert found["mean"] == pytest.approx(np.mean([entry["score"] for entry in found["tasks"].values()]))
    assert found["groups"]["STS"]["tasks"] == 1
    assert json.loads(path.read_text())["tasks"] == found["tasks"]


def test_a_run_that_was_cut_off_goes_on_and_pages_are_embedded_once_for_all_languages(model, tmp_path):
    whole = evaluate(model, "mteb:ToyPages", cache_dir=tmp_path / "a", device="cpu")
    assert whole.embedded == 9 + 5 + 5
    begun = evaluate(model, "mteb:Toys", tasks=["ToyPages"], subset=2, cache_dir=tmp_path / "b", device="cpu")
    assert begun.found["tasks"]["ToyPages"]["n"] == 4
    again = evaluate(model, "mteb:ToyPages", cache_dir=tmp_path / "b", device="cpu")
    assert (begun.embedded, again.embedded) == (9 + 2 + 2, 3 + 3)
    assert again.found["tasks"] == whole.found["tasks"]


def test_the_command_shows_a_table_and_compare_takes_the_files(model, tmp_path, capsys):
    words = [
        "evaluate",
        str(model),
        "--suite",
        "mteb:Toys",
        "--tasks",
        "ToyPages",
        "ToyPairs",
        "--cache-dir",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    assert main([*words, "--out", str(tmp_path / "r.json")]) == 0
    said = capsys.readouterr().out
    assert "ndcg@5" in said
    assert "cosine_spearman" in said
    assert [line.n for line in compare(tmp_path / "r.json", tmp_path / "r.json")] == [10]


def test_vidore_v2_is_mtebs_and_scored_by_ndcg_at_5():
    tasks = open_mteb_tasks("ViDoRe(v2)")
    assert [task.name for task in tasks] == [
        "Vidore2ESGReportsRetrieval",
        "Vidore2EconomicsReportsRetrieval",
        "Vidore2BioMedicalLecturesRetrieval",
        "Vidore2ESGReportsHLRetrieval",
    ]
    assert {task.task.metadata.main_score for task in tasks} == {"ndcg_at_5"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"suite": "mteb:ToyPage"}, "mteb has no benchmark or task 'ToyPage'; did you mean ToyPages"),
        ({"suite": "mteb:Toys", "tasks": ["ToyPage"]}, "Toys has no task 'ToyPage'; did you mean ToyPages"),
        ({"suite": "mteb:ToyPairs", "subset": 3}, "ToyPairs is a task of mteb's kind STS"),
        ({"suite": "mteb:ToyPages", "on_bad": "skip"}, "scores its tasks whole"),
        ({"suite": "vidore-v2", "data": "here"}, "brings its own data"),
    ],
)
def test_wrong_wishes_are_refused_before_any_work(options, said):
    with pytest.raises(UsageError, match=said):
        evaluate("nowhere", **options)


def test_data_that_is_not_to_be_had_is_one_line(model, tmp_path):
    with pytest.raises(TwowayError, match=r"Vidore2ESGReportsRetrieval: its data cannot be loaded \(.*; mteb fetches it from the hub"):
        evaluate(model, "vidore-v2", cache_dir=tmp_path, device="cpu")


def test_a_text_model_is_not_asked_about_pages(tiny_model, tmp_path):
    with pytest.raises(TwowayError, match=r"ToyPictures cannot be evaluated: Model .* supports .*text"):
        evaluate(tiny_model("bert"), "mteb:ToyPictures", cache_dir=tmp_path, device="cpu")
    assert evaluate(tiny_model("bert"), "mteb:ToyTexts", cache_dir=tmp_path, device="cpu").found["tasks"]["ToyTexts"]["n"] == 8


def test_clips_are_searched_by_a_model_that_takes_them(model, tiny_model, tmp_path):
    found = evaluate(model, "mteb:ToyClips", cache_dir=tmp_path, device="cpu").found["tasks"]["ToyClips"]
    engine, data = open_embedder(model, device="cpu", workers=0), ToyClips().make(np.random.default_rng(0), "default")
    clips = [Document((Video(one["bytes"]),)) for one in data["corpus"].cast_column("video", datasets.Video(decode=False))["video"]]
    queries = engine.array([Document((Text(one),)) for one in data["queries"]["text"]], side="query")
    best = (queries @ engine.array(clips, side="document").T).argmax(1)
    assert found["score"] == pytest.approx(np.mean(best == np.arange(len(best))))
    with pytest.raises(TwowayError, match=r"ToyClips cannot be evaluated: Model .* supports .*text"):
        evaluate(tiny_model("bert"), "mteb:ToyClips", cache_dir=tmp_path, device="cpu")


def spoiled(monkeypatch: pytest.MonkeyPatch, toy: Any, spoil: Any) -> None:
    make = toy.make
    monkeypatch.setattr(toy, "make", lambda self, random, subset: spoil(make(self, random, subset)))


def test_an_absent_right_candidate_is_counted_and_said(model, tmp_path, monkeypatch, caplog):
    spoiled(monkeypatch, ToyTexts, lambda data: data | {"corpus": data["corpus"].select(range(1, 24))})
    entry = evaluate(model, "mteb:ToyTexts", cache_dir=tmp_path, device="cpu").found["tasks"]["ToyTexts"]
    assert entry["absent"] == 1
    assert "1 queries have a right candidate that is not in the corpus" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data | {"corpus": data["corpus"].select([])}, "has no candidates; its data is empty"),
        (lambda data: data | {"queries": data["queries"].select([])}, "has no query with a right candidate"),
        (lambda data: data | {"relevant_docs": {}}, "has no query with a right candidate"),
        (lambda data: data | {"corpus": data["corpus"].select([0, 1, 1])}, "the candidate 'd1' is there twice"),
    ],
)
def test_a_task_that_cannot_be_scored_is_an_error(spoil, said, model, tmp_path, monkeypatch):
    spoiled(monkeypatch, ToyTexts, spoil)
    with pytest.raises(TwowayError, match=said):
        evaluate(model, "mteb:ToyTexts", cache_dir=tmp_path, device="cpu")


def test_a_score_that_is_no_number_is_an_error_and_not_a_mean_of_nothing(tmp_path):
    class Alike:
        fingerprint, name, dimension = "alike", "alike", 4

        def embed(self, documents, **_):
            return ((number, np.ones(4, np.float32)) for number, _ in enumerate(documents))

    model = MtebModel(VectorSource(Alike(), tmp_path), model_meta(Alike(), name="alike", revision="1"))
    with pytest.raises(TwowayError, match=r"ToyPairs: mteb gives no number for cosine_spearman, which happens where all vectors are alike"):
        run_mteb_task(open_mteb_tasks("ToyPairs")[0], model)


def test_a_broken_picture_is_named_with_its_row(model, tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    broken = [picture(random), {"bytes": b"no picture", "path": None}]
    spoiled(monkeypatch, ToyPictures, lambda data: data | {"queries": table(pictures=True, id=["q0", "q1"], image=broken)})
    with pytest.raises(ContentError, match=r"mteb:ToyPictures/test queries:2: the embedded picture is broken"):
        evaluate(model, "mteb:ToyPictures", cache_dir=tmp_path, device="cpu")


def test_candidates_of_one_content_tie_and_are_said_to(model, tmp_path, monkeypatch):
    def double(data: dict[str, Any]) -> dict[str, Any]:
        texts = list(data["corpus"]["text"])
        return data | {"corpus": table(id=list(data["corpus"]["id"]), title=[""] * 24, text=[texts[0], texts[0], *texts[2:]])}

    spoiled(monkeypatch, ToyTexts, double)
    assert evaluate(model, "mteb:ToyTexts", cache_dir=tmp_path, device="cpu").found["tasks"]["ToyTexts"]["tied"] >= 1


def test_a_text_that_looks_like_a_picture_stays_text(model, tmp_path, monkeypatch):
    def urls(data: dict[str, Any]) -> dict[str, Any]:
        return data | {"queries": table(id=["q0"], text=["http://localhost/none.png"])}

    spoiled(monkeypatch, ToyTexts, urls)
    assert evaluate(model, "mteb:ToyTexts", cache_dir=tmp_path, device="cpu").found["tasks"]["ToyTexts"]["n"] == 1


def test_chance_of_graded_candidates_is_what_random_rankings_score():
    random = np.random.default_rng(1)
    gains, size = [2, 1, 1], 12
    ideal = 2 + 1 / np.log2(3) + 1 / 2
    scores = []
    for _ in range(4000):
        placed = random.permutation([*gains, *[0] * (size - len(gains))])[:5]
        scores.append(placed @ (1 / np.log2(np.arange(2, 7))) / ideal)
    luck = search_chance("ndcg@5", [[(size, gains)] * 10])
    assert luck.mean == pytest.approx(np.mean(scores), abs=0.01)
    assert (luck.high - luck.low) / 2 == pytest.approx(1.96 * np.std(scores) / 10**0.5, rel=0.1)
    assert search_chance("recall@1", [[(4, [1])] * 50]).mean == pytest.approx(0.25, abs=0.01)
    assert search_chance("map@5", [[(4, [1])]]) is None
    half = [search_chance("ndcg@5", [[(size, gains)] * 10 + [(size, [])] * 10]), search_chance("recall@1", [[(4, [1]), (4, [])]])]
    assert [one.mean for one in half] == pytest.approx([luck.mean / 2, 0.125], abs=0.01)
