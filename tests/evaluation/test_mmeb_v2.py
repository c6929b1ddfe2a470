"""MMEB-V2: what a row of each kind of task becomes, and scores that equal a plain computation."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from twoway.content import Document, Text
from twoway.data.rows import Policy
from twoway.errors import UsageError
from twoway.evaluation.cache import VectorSource
from twoway.evaluation.mmeb_v2 import IMAGE, KINDS, PAGES, VIDEO, open_tasks
from twoway.evaluation.runner import run_task
from twoway.evaluation.tasks import BASELINES

if TYPE_CHECKING:
    from pathlib import Path

    from twoway.evaluation.tasks import RankingTask

ROW: dict[str, Any] = {"qry_inst": "", "qry_text": "", "qry_img_path": "", "tgt_inst": "", "tgt_text": [""], "tgt_img_path": [""]}


def write(folder: Path, task: str, rows: list[dict[str, Any]], part: str = "test") -> None:
    place = folder / "annotations" / task / part
    place.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), place / "test-00000.parquet")


def picture(folder: Path, name: str, colour: str = "red") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 24), colour).save(path)


def shape(document: Document) -> list[str]:
    return [part.text if isinstance(part, Text) else part.key.upper() for part in document.parts]


def only(folder: Path, task: str) -> RankingTask:
    (found,) = open_tasks(folder, [task], Policy())
    return found


def png(colour: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 56), colour).save(out, "PNG")
    return out.getvalue()


def test_there_are_78_tasks() -> None:
    counts = {kind: sum(mark == kind for mark, _ in KINDS.values()) for kind in (IMAGE, VIDEO, PAGES)}
    assert counts == {IMAGE: 36, VIDEO: 18, PAGES: 24}


@pytest.mark.parametrize(
    ("task", "row", "query", "candidate"),
    [
        (
            "HatefulMemes",
            {"qry_inst": "<|image_1|>\nIs it so?", "qry_img_path": "a.png", "tgt_text": ["Yes", "No"], "tgt_img_path": ["", ""]},
            ["IMAGE", "\nIs it so?\n"],
            ["Yes"],
        ),
        (
            "GQA",
            {
                "qry_inst": "<|image_1|> Answer: ",
                "qry_text": "What?",
                "qry_img_path": "a.png",
                "tgt_text": ["fox", "cat"],
                "tgt_img_path": ["", ""],
            },
            ["IMAGE", "\nAnswer: What?\n"],
            ["fox"],
        ),
        (
            "MSCOCO_t2i",
            {
                "qry_inst": "Find it.",
                "qry_text": "A cat.",
                "tgt_inst": "<|image_1|> Show it.",
                "tgt_text": ["", ""],
                "tgt_img_path": ["a.png", "b.png"],
            },
            ["Find it. A cat.\n"],
            ["IMAGE", "  Show it.\n"],
        ),
        (
            "WebQA",
            {
                "qry_inst": "Find it.",
                "qry_text": "A cat.",
                "tgt_inst": "<|image_1|> Show it.",
                "tgt_text": ["one", "two"],
                "tgt_img_path": ["a.png", "b.png"],
            },
            ["Find it. A cat.\n"],
            ["IMAGE", "  Show it. one\n"],
        ),
        (
            "RefCOCO",
            {
                "qry_inst": "<|image_1|> Select it",
                "qry_text": "left",
                "qry_img_path": "a.png",
                "tgt_inst": "<|image_1|>\nShow it.",
                "tgt_text": ["", ""],
                "tgt_img_path": ["a.png", "b.png"],
            },
            ["IMAGE", "\nSelect it left\n"],
            ["IMAGE", "\nShow it."],
        ),
    ],
)
def test_an_image_row_is_written_as_the_benchmark_writes_it(
    tmp_path: Path, task: str, row: dict[str, Any], query: list[str], candidate: list[str]
) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        picture(tmp_path, f"image-tasks/{name}.png", colour)
    write(tmp_path, task, [ROW | row])
    found = only(tmp_path, task)
    assert shape(found.items[0].query) == query
    assert shape(found.candidates[int(found.items[0].right[0])]) == candidate
    assert (found.marks, found.official) == ((IMAGE,), True)


def test_the_order_of_candidates_breaks_a_tie_in_the_official_score(tmp_path: Path) -> None:
    """Random vectors tie with nothing; pixels alone are blind to texts, so all candidates tie, and the first is taken."""
    picture(tmp_path, "image-tasks/a.png")
    row = ROW | {"qry_inst": "<|image_1|>\nWhat?", "qry_img_path": "a.png", "tgt_text": ["fox", "cat"], "tgt_img_path": ["", ""]}
    write(tmp_path, "ImageNet-1K", [row])
    result = run_task(only(tmp_path, "ImageNet-1K"), VectorSource(BASELINES["pixels"], tmp_path / "cache"), Policy())
    assert (result.score, result.official) == (0.0, 1.0)


def test_pages_have_a_graded_linear_ndcg(tmp_path: Path) -> None:
    rng, task = np.random.default_rng(0), "ViDoRe_arxivqa"
    pages = [{"corpus-id": f"p{n}", "image": {"bytes": png((n * 17 % 256, n * 61 % 256, 9)), "path": None}} for n in range(12)]
    queries = [{"query-id": n, "query": f"question number {n}", "language": "english"} for n in range(6)]
    qrels = [
        {"query-id": n, "corpus-id": f"p{page}", "score": int(grade)}
        for n in range(6)
        for page, grade in zip(rng.permutation(12)[:3], (2, 1, 1), strict=True)
    ]
    for part, rows in (("corpus", pages), ("queries", queries), ("qrels", qrels)):
        write(tmp_path, task, rows, part)
    found = only(tmp_path, task)
    assert shape(found.items[0].query) == ["Find a document image that matches the given query: question number 0"]
    assert shape(found.candidates[0]) == ["IMAGE", " Understand the content of the provided document image."]
    result = run_task(found, VectorSource(BASELINES["random"], tmp_path / "cache"), Policy())

    # The same, plainly.
    vector = BASELINES["random"].vector
    columns = np.stack([vector(one) for one in found.candidates])
    columns /= np.linalg.norm(columns, axis=1, keepdims=True)
    scores = []
    for n, item in enumerate(found.items):
        asked = vector(item.query)
        order = np.argsort(-(columns @ asked))
        grades = {int(row["corpus-id"][1:]): row["score"] for row in qrels if row["query-id"] == n}
        got = sum(grades.get(int(page), 0) / np.log2(place + 2) for place, page in enumerate(order[:5]))
        best = sum(grade / np.log2(place + 2) for place, grade in enumerate(sorted(grades.values(), reverse=True)[:5]))
        scores.append(got / best)
    assert result.score == pytest.approx(np.mean(scores), abs=1e-6)
    assert 0 < result.score < 1
    assert [row["score"] for row in result.rows()] == pytest.approx(scores, abs=1e-6)


def test_bad_rows_and_folders_are_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no annotations of MMEB-V2"):
        open_tasks(tmp_path, [], Policy())
    picture(tmp_path, "image-tasks/a.png")
    good = ROW | {"qry_inst": "<|image_1|>", "qry_img_path": "a.png", "tgt_text": ["fox", "cat"], "tgt_img_path": ["", ""]}
    write(tmp_path, "VOC2007", [good, good | {"qry_img_path": "gone.png"}, good | {"tgt_text": ["fox"], "tgt_img_path": [""]}])
    with pytest.raises(UsageError, match="there is no task 'VOC2008' here; did you mean VOC2007"):
        open_tasks(tmp_path, ["VOC2008"], Policy())
    with pytest.raises(UsageError, match=r"lacks it\); there are VOC2007"):
        open_tasks(tmp_path, ["UCF101"], Policy())
    (found,) = open_tasks(tmp_path, [], Policy("skip", tmp_path / "bad.jsonl"))
    assert (len(found.items), found.unread) == (1, 2)
    said = (tmp_path / "bad.jsonl").read_text()
    assert "gone.png" in said
    assert "no candidate besides the right one" in said
    write(tmp_path, "VOC2007", [{"qry_inst": ""}])
    with pytest.raises(UsageError, match="has no column 'qry_text'"):
        open_tasks(tmp_path, [], Policy())
