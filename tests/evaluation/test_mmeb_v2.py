"""MMEB-V2: what a row of each kind of task becomes, and scores that equal a plain computation."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from twoway.content import ContentError, Document, Text
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
    by_luck = 4 / 12 * sum(1 / np.log2(place + 2) for place in range(5)) / best  # the mean grade at each place
    assert result.entry()["chance"] == pytest.approx(by_luck, abs=0.01)


def frames(folder: Path, video: str, count: int = 12, start: int = 0) -> None:
    for number in range(count):
        picture(folder, f"video-tasks/frames/{video}/frame{number}.jpeg", f"#{(start * 37) % 256:02x}{(number * 20) % 256:02x}40")


QUESTION = " Given a video and a question, select the most accurate answer from the provided candidates. "
QUESTION += "Return only the exact text of your chosen answer. Question:  "
ANSWERS = {f"a{number}": word for number, word in enumerate(("one", "two", "three", "four", "five"))}


@pytest.mark.parametrize(
    ("task", "videos", "row", "query", "candidates", "right"),
    [
        (
            "UCF101",
            ["video_cls/UCF101/v1"],
            {"video_id": "v1", "pos_text": "Diving"},
            ["VIDEO", " What activities or sports are being performed by the person in the video?"],
            [["Diving"]],
            [0],
        ),
        (
            "SmthSmthV2",
            ["video_cls/SSv2/7"],
            {"video_id": 7, "pos_text": "b", "neg_text": ["a", "b", "c"]},
            ["VIDEO", " What actions or object interactions are being performed by the person in the video?"],
            [["a"], ["b"], ["c"]],
            [1],
        ),
        (
            "MSR-VTT",
            ["video_ret/MSR-VTT/v1"],
            {"video_id": "v1", "video": "v1.mp4", "caption": "a man"},
            ["Find a video that contains the following visual content: a man"],
            [["VIDEO", " Understand the content of the provided video."]],
            [0],
        ),
        (
            "DiDeMo",
            ["video_ret/DiDeMo/x_1"],
            {"video": "some/x_1.mp4", "caption": ["a man", "two"]},
            ["Find a video that includes the following described scenes: a man"],
            [["VIDEO", " Understand the content of the provided video."]],
            [0],
        ),
        (
            "NExTQA",
            ["video_qa/NExTQA/8"],
            {"video": 8, "question": "why", "answer": 2, **ANSWERS},
            ["VIDEO", f"{QUESTION}why\nOptions:\n(A) one\n(B) two\n(C) three\n(D) four\n(E) five"],
            [["one"], ["two"], ["three"], ["four"], ["five"]],
            [2],
        ),
        (
            "MVBench",
            ["video_qa/MVBench/state_change/v.mp4"],
            {"subset": "state_change", "question": "what", "video": "v.mp4", "candidates": ["no", "yes"], "answer": "yes"},
            ["VIDEO", f"{QUESTION}what\nOptions:\n(A) no\n(B) yes"],
            [["(A) no"], ["(B) yes"]],
            [1],
        ),
        (
            "Video-MME",
            ["video_qa/Video-MME/k"],
            {"videoID": "k", "question": "what", "options": ["A. Cats.", "B. Dogs."], "answer": "B"},
            ["VIDEO", f"{QUESTION}what\nA. Cats.\nB. Dogs."],
            [["Cats"], ["Dogs"]],
            [1],
        ),
        (
            "EgoSchema",
            ["video_qa/EgoSchema/k"],
            {"video_idx": "k", "question": "what", "option": ["A. Cats.", "B. Dogs."], "answer": "0"},
            ["VIDEO", f"{QUESTION}whatA. Cats. B. Dogs."],
            [["Cats"], ["Dogs"]],
            [0],
        ),
        (
            "ActivityNetQA",
            ["video_qa/ActivityNetQA/v_k"],
            {"video_name": "k", "question": "is it", "answer": "no"},
            ["VIDEO", f"{QUESTION}is it? (A) yes; (B) no."],
            [["yes"], ["no"]],
            [1],
        ),
        (
            "QVHighlight",
            [f"video_mret/QVHighlight/v1/{name}" for name in ("query", "positive_0", "negative_0", "negative_1")],
            {"query": "a dog", "video_path": "x/v1.mp4"},
            ["VIDEO", " Find the clip that corresponds to the described scene in the given video: a dog"],
            [["VIDEO", " Understand the content of the provided video."]] * 3,
            [2],
        ),
        (
            "MomentSeeker",
            [f"video_mret/MomentSeeker/video_frames/{name}" for name in ("m_q", "m_p", "m_n")],
            {
                "query": "then",
                "input_frames": "m/q.mp4",
                "positive_frames": [{"output_path": "m/p.mp4"}],
                "negative_frames": [{"output_path": "m/n.mp4"}],
            },
            ["VIDEO", " Find the clip that corresponds to the given sentence and video segment: then"],
            [["VIDEO", " Understand the content of the provided video clip."]] * 2,
            [0],
        ),
    ],
)
def test_a_video_row_is_written_as_the_benchmark_writes_it(
    tmp_path: Path, task: str, videos: list[str], row: dict[str, Any], query: list[str], candidates: list[list[str]], right: list[int]
) -> None:
    for number, video in enumerate(videos):
        frames(tmp_path, video, start=number)
    write(tmp_path, task, [row])
    found = only(tmp_path, task)
    (item,) = found.items
    assert shape(item.query) == query
    assert [shape(one) for one in found.candidates] == candidates
    assert item.right.tolist() == right
    assert (found.marks, found.official) == ((VIDEO,), True)
    part = next(part for one in (item.query, *found.candidates) for part in one.media)
    assert [int(one.source.stem.removeprefix("frame")) for one in part.source] == [0, 1, 3, 4, 6, 7, 9, 11]


def plain_hits(task: RankingTask) -> list[bool]:
    """Return whether the first of the highest scores is right, computed from vectors alone."""
    vector = BASELINES["random"].vector
    columns = np.stack([vector(one) for one in task.candidates])
    columns /= np.linalg.norm(columns, axis=1, keepdims=True)
    hits = []
    for item in task.items:
        among = np.arange(len(columns)) if item.among is None else item.among
        hits.append(int(among[np.argmax(columns[among] @ vector(item.query))]) in item.right)
    return hits


@pytest.mark.parametrize("task", ["UCF101", "HMDB51", "MSR-VTT", "VATEX", "NExTQA", "EgoSchema", "QVHighlight", "Charades-STA"])
def test_precision_is_that_of_a_plain_computation(tmp_path: Path, task: str) -> None:
    """Two tasks of each group of videos, to the item."""
    rows: list[dict[str, Any]] = []
    for number in range(8):
        name = f"v{number}"
        if task in ("UCF101", "HMDB51"):
            frames(tmp_path, f"video_cls/{task}/{name}", 3, number)
            rows.append({"video_id": name, "pos_text": f"class {number % 3}"})
        elif task in ("MSR-VTT", "VATEX"):
            frames(tmp_path, f"video_ret/{task}/{name}", 3, number)
            rows.append({"video_id": name, "videoID": name, "caption": f"caption {number}", "enCap": [f"caption {number}", "other"]})
        elif task in ("NExTQA", "EgoSchema"):
            frames(tmp_path, f"video_qa/{task}/{name}", 3, number)
            row = {"video": name, "video_idx": name, "question": f"why {number}", "answer": str(number % 3)}
            rows.append(row | ANSWERS | {"option": [f"A. it is {option} {number}" for option in range(5)]})
        else:
            folder = {"QVHighlight": "QVHighlight", "Charades-STA": "Charades_STA"}[task]
            for place, clip in enumerate(("query", "positive", "clip_1", "clip_2")):
                frames(tmp_path, f"video_mret/{folder}/{name}/{clip}", 2, 5 * number + place)
            rows.append({"query": f"scene {number}", "video_path": f"{name}.mp4"})
    write(tmp_path, task, rows)
    found = only(tmp_path, task)
    result = run_task(found, VectorSource(BASELINES["random"], tmp_path / "cache"), Policy())
    expected = plain_hits(found)
    assert [one.leads for one in result.outcomes] == expected
    assert result.official == result.score == pytest.approx(np.mean(expected))
    assert len(expected) == 8


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
    write(tmp_path, "VOC2007", [good, good | {"tgt_text": None}, good | {"tgt_img_path": [""]}])
    with pytest.raises(ContentError, match=r"test-00000\.parquet:2: the row is not as the benchmark has it"):
        open_tasks(tmp_path, [], Policy())
    (found,) = open_tasks(tmp_path, [], Policy("skip", tmp_path / "bad.jsonl"))
    assert (len(found.items), found.unread) == (1, 2)
    write(tmp_path, "VOC2007", [{"qry_inst": ""}])
    with pytest.raises(UsageError, match="has no column 'qry_text'"):
        open_tasks(tmp_path, [], Policy())
