"""MMEB's protocol: a row in its columns becomes a query and candidates; what is wrong with a row is said with its place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from twoway.cli.evaluate import show_scores
from twoway.content import ContentError, Document, Text
from twoway.data.rows import Policy
from twoway.errors import UsageError
from twoway.evaluation.cache import VectorSource
from twoway.evaluation.runner import collect_results, items_path, run_task
from twoway.evaluation.suites import GROUPS, KNOWN, OUT_OF, MmebFolder
from twoway.reports.evaluation import write_evaluation_report

if TYPE_CHECKING:
    from pathlib import Path

ROW = {"qry_text": "<|image_1|>\nWhat is it?", "qry_img_path": "images/a.png", "tgt_text": ["fox", "cat"], "tgt_img_path": ["", ""]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (20, 20), colour).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def write(folder: Path, name: str, *rows: dict[str, object]) -> None:
    (folder / name).mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / name / "test.parquet")


def only(folder: Path, **changes: object) -> Document:
    write(folder, "GQA", ROW | changes)
    return MmebFolder.open(folder).task("GQA", Policy()).items[0].query


def shape(document: Document) -> list[str]:
    return [part.text if isinstance(part, Text) else "IMAGE" for part in document.parts]


def test_there_are_36_tasks_in_four_groups_20_of_them_in_domain():
    assert {group: sum(map(len, kinds)) for group, kinds in GROUPS.items()} == {
        "classification": 10, "vqa": 10, "retrieval": 12, "grounding": 4,
    }  # fmt: skip
    assert (len(KNOWN), sum(mark == OUT_OF for _, mark in KNOWN.values())) == (36, 16)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<|image_1|>\nWhat is it?", ["IMAGE", "\nWhat is it?"]),
        ("<|image_1|>\nRepresent it.\n", ["IMAGE", "\nRepresent it.\n"]),
        ("  What is it? <|image_1|>\n", ["  What is it? ", "IMAGE", "\n"]),
        (" See <|image_1|> and  say. ", [" See ", "IMAGE", " and  say. "]),
        ("<|image_1|>", ["IMAGE"]),
        (" \n", ["IMAGE", " \n"]),
        ("What is it?", ["IMAGE", "What is it?"]),
    ],
)
def test_texts_are_read_verbatim_with_the_picture_at_its_placeholder(folder, text, expected):
    assert shape(only(folder, qry_text=text)) == expected


def test_a_text_that_looks_like_a_path_stays_text(folder):
    document = only(folder, qry_text=str(folder / "images" / "a.png"), qry_img_path="")
    assert shape(document) == [str(folder / "images" / "a.png")]


def test_candidates_of_one_content_are_one_candidate(folder):
    rows = (ROW | {"tgt_text": ["fox", "cat", "dog", "cat"], "tgt_img_path": [""] * 4}, ROW | {"tgt_text": ["cat", "fox"]})
    write(folder, "GQA", *rows)
    task = MmebFolder.open(folder).task("GQA", Policy())
    assert [shape(one) for one in task.candidates] == [["fox"], ["cat"], ["dog"]]
    assert [(item.right.tolist(), item.among.tolist()) for item in task.items] == [([0], [0, 1, 2]), ([1], [1, 0])]
    assert task.sizes().tolist() == [3, 2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"qry_img_path": "images/none.png"}, r"images/none\.png does not exist"),
        ({"qry_img_path": "../secret.png"}, "leaves the data folder"),
        ({"qry_text": "", "qry_img_path": ""}, "empty"),
        ({"qry_img_path": ""}, "placeholder and no picture"),
        ({"qry_text": "<|image_1|> <|image_2|>"}, "2 image placeholders and one picture"),
        ({"tgt_text": [], "tgt_img_path": []}, "right one is absent"),
        ({"tgt_text": ["fox"], "tgt_img_path": [""]}, "nothing to choose from"),
        ({"tgt_text": ["fox", ""]}, "candidate 2: the document is empty"),
        ({"tgt_img_path": [""]}, "2 candidates and tgt_img_path 1"),
    ],
)
def test_a_bad_row_is_an_error_with_its_place_or_is_left_out_and_listed(folder, tmp_path, changes, said):
    write(folder, "GQA", ROW, ROW | changes)
    with pytest.raises(ContentError, match=said) as caught:
        MmebFolder.open(folder).task("GQA", Policy())
    assert str(caught.value).startswith(f"{folder / 'GQA' / 'test.parquet'}:2")
    policy = Policy("skip", tmp_path / "bad.jsonl")
    policy.start()
    assert len(MmebFolder.open(folder).task("GQA", policy).items) == 1
    assert '"row": 2' in (tmp_path / "bad.jsonl").read_text()


def test_candidates_that_are_no_texts_are_bad_rows(folder):
    write(folder, "GQA", ROW | {"tgt_text": [["fox"], ["cat"]]})
    with pytest.raises(ContentError, match="candidate 1: a candidate is a text and a path, not list and str"):
        MmebFolder.open(folder).task("GQA", Policy())


def test_unknown_tasks_come_behind_the_known_and_apart(folder):
    for name in ("Foxes", "MSCOCO", "GQA"):
        write(folder, name, ROW)
    opened = MmebFolder.open(folder)
    assert opened.choose(()) == ("GQA", "MSCOCO", "Foxes")
    (folder / "results").mkdir()
    pq.write_table(pa.Table.from_pylist([{"task": "GQA"}]), items_path(folder / "results" / "r.json"))
    assert MmebFolder.open(folder) == opened
    assert opened.task("Foxes", Policy()).group == "other"
    assert (opened.task("MSCOCO", Policy()).group, opened.task("MSCOCO", Policy()).marks) == ("grounding", ("in-domain",))
    with pytest.raises(UsageError, match=r"no task 'MSCOC'.*did you mean MSCOCO"):
        opened.choose(["MSCOC"])


def test_a_folder_without_tasks_or_columns_is_refused(folder):
    with pytest.raises(UsageError, match="has no task"):
        MmebFolder.open(folder)
    with pytest.raises(UsageError, match="is not a folder"):
        MmebFolder.open(folder / "nowhere")
    write(folder, "GQA", {"qry_text": "a", "query_image": "b"})
    with pytest.raises(UsageError, match="no column 'qry_img_path'"):
        MmebFolder.open(folder).task("GQA", Policy())


def test_a_file_that_is_torn_behind_its_footer_is_named(folder):
    write(folder, "GQA", *(ROW | {"qry_text": f"question {number}", "qry_img_path": ""} for number in range(100)))
    path = folder / "GQA" / "test.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 400 + whole[404:])
    with pytest.raises(UsageError, match=r"test\.parquet is not a readable Parquet file") as caught:
        MmebFolder.open(folder).task("GQA", Policy())
    assert "\n" not in str(caught.value)


def test_an_empty_task_and_one_whose_rows_are_all_bad_are_errors(folder, tmp_path):
    (folder / "GQA").mkdir()
    pq.write_table(pa.Table.from_pylist([ROW]).slice(0, 0), folder / "GQA" / "test.parquet")
    with pytest.raises(UsageError, match="GQA has no usable row"):
        MmebFolder.open(folder).task("GQA", Policy())
    write(folder, "GQA", ROW | {"qry_img_path": "images/none.png"})
    with pytest.raises(UsageError, match="GQA has no usable row"):
        MmebFolder.open(folder).task("GQA", Policy("skip", tmp_path / "bad.jsonl"))


def test_a_subset_is_drawn_once_for_a_task(folder):
    write(folder, "GQA", *(ROW | {"qry_text": f"question {number}", "qry_img_path": ""} for number in range(20)))
    task = MmebFolder.open(folder).task("GQA", Policy())
    chosen = [shape(item.query) for item in task.subset(5).items]
    assert len(chosen) == 5
    assert chosen == [shape(item.query) for item in task.subset(5).items]
    assert task.subset(99) is task


def made(vectors, folder):
    """Return the vectors of a model that gives these to texts, and the same one to all else."""

    def embed(documents, **_):
        for number, document in enumerate(documents):
            yield number, np.array(vectors.get("".join(document.texts), [0, 1]), np.float32)

    engine = SimpleNamespace(name="engine", dimension=2, fingerprint="f", sentence=None, embed=embed)
    return VectorSource(engine, folder / "cache")


def test_a_right_candidate_that_comes_twice_is_scored_counted_and_listed(folder):
    """It is one candidate; the row stops nothing, and says which it is."""
    twice = ROW | {"qry_text": "twice", "qry_img_path": "", "tgt_text": ["fox", "cat", "fox", "dog"], "tgt_img_path": [""] * 4}
    write(folder, "GQA", ROW, twice)
    task = MmebFolder.open(folder).task("GQA", Policy())
    assert [(item.right.tolist(), item.among.tolist(), item.doubled) for item in task.items] == [
        ([0], [0, 1], False),
        ([0], [0, 1, 2], True),
    ]
    entry = run_task(task, made({"fox": [1, 0]}, folder), Policy()).entry()
    assert entry["doubled"] == ["test.parquet:2"]
    assert entry["n"] == 2


def released(scores):
    """Return whether MMEB's released code counts a hit: the first of the highest scores is the first candidate."""
    return int(np.argmax(scores)) == 0


def test_official_and_strict_score_stand_side_by_side(folder):
    """Ties are hits in the one and none in the other; a double of the right candidate changes neither."""
    vectors = {"q": [1, 0], "fox": [1, 0], "cat": [1, 0], "dog": [0, 1], "owl": [1, 0]}
    lists = [["fox", "dog"], ["fox", "cat"], ["dog", "fox"], ["fox", "dog", "fox"], ["fox", "fox", "cat"], ["dog", "owl", "dog"]]
    rows = [{"qry_text": "q", "qry_img_path": "", "tgt_text": names, "tgt_img_path": [""] * len(names)} for names in lists]
    write(folder, "GQA", *rows)
    result = run_task(MmebFolder.open(folder).task("GQA", Policy()), made(vectors, folder), Policy())
    hits = [released([np.dot(vectors["q"], vectors[name]) for name in names]) for names in lists]
    assert result.official == pytest.approx(np.mean(hits)) == pytest.approx(4 / 6)
    assert result.score == pytest.approx(2 / 6)
    found = collect_results("mmeb", "m", "f", {}, [result])
    assert found["tasks"]["GQA"]["official"] == found["official_mean"] == found["groups"]["vqa"]["official"] == pytest.approx(4 / 6)
    assert (found["mean"], found["tasks"]["GQA"]["doubled"]) == (pytest.approx(2 / 6), [f"test.parquet:{row}" for row in (4, 5, 6)])


def test_the_terminal_and_the_page_have_both_scores_and_the_doubled_rows(folder, capsys):
    lists = [["fox", "cat"], ["fox", "dog", "fox"], ["dog", "fox"]]
    write(folder, "GQA", *({"qry_text": "q", "qry_img_path": "", "tgt_text": names, "tgt_img_path": [""] * len(names)} for names in lists))
    result = run_task(MmebFolder.open(folder).task("GQA", Policy()), made({"q": [1, 0], "fox": [1, 0], "cat": [1, 0]}, folder), Policy())
    found = collect_results("mmeb", "m", "f", {}, [result])
    show_scores(found)
    said = capsys.readouterr().out
    assert all(word in said for word in ("strict", "official", "0.333", "0.667"))
    assert "GQA: the right candidate comes twice in 1 rows, and counts once: test.parquet:2" in said
    write_evaluation_report(folder / "page.html", found, [result])
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert all(word in page for word in ("strict", "official", "0.333", "0.667", "GQA (test.parquet:2)"))
