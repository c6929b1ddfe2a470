"""The page of an evaluation shows scores beside chance and what was found instead; nothing in it is markup of the data's."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as PILImage

from twoway.content import Document, Image, Text
from twoway.errors import UsageError
from twoway.evaluation.compare import MEAN, Difference
from twoway.evaluation.metrics import Outcome
from twoway.evaluation.runner import TaskResult, collect_results
from twoway.evaluation.tasks import RankingQuery, RankingTask
from twoway.reports.evaluation import write_evaluation_report, write_picture
from whole_page import read

COUNT = 12
GAPS = [Difference("a", 40, 0.2, 0.3, 0.05, 0.15), Difference("b", 40, 0.2, 0.2, -0.1, 0.1), Difference(MEAN, 80, 0.2, 0.25, 0.01, 0.1)]


def picture(number):
    stream = io.BytesIO()
    PILImage.new("RGB", (400, 300), (20 * number, 40, 90)).save(stream, "PNG")
    return Image(stream.getvalue())


def result(name, place):
    """Return a task in which the right answer of each query is at this place."""
    candidates = tuple(Document((picture(number), Text(f"<b>{number}"))) for number in range(COUNT))
    items = tuple(RankingQuery(Document((Text(f"query <i>{number}"),)), np.array([number])) for number in range(COUNT))
    outcomes = []
    for number in range(COUNT):
        wrong = [other for other in range(COUNT) if other != number]
        found = [*wrong[: place - 1], number, *wrong[place - 1 :]]
        outcomes.append(Outcome((place,), COUNT, tied=False, found=tuple(found[:5])))
    task = RankingTask(name, "retrieval", candidates, items, "mrr", marks=("known style",))
    return TaskResult(task, tuple(outcomes), tuple(range(COUNT)))


def page(tmp_path, *results):
    found = collect_results("nano", "a <model>", "f", {"subset": None}, results) | {
        "baselines": {"words": {one.name: 0.25 for one in results}}
    }
    write_evaluation_report(tmp_path / "pages" / "report.html", found, results)
    return read(tmp_path / "pages" / "report.html")


def test_misses_are_shown_with_what_was_found_and_what_was_right(tmp_path):
    text = page(tmp_path, result("second", 2), result("ninth", 9), result("first", 1))
    assert "12 of 12 queries; 4 drawn at random" in text
    assert "right, at 9 of 12" in text
    assert "right, at 2 of 12" not in text  # it stands among those found
    assert text.count('class="hit"') == 8
    assert "None: the right answer always comes first." in text
    assert text.count("data:image/jpeg") == 4 * 3 + 4 * 4
    assert len(text) < 200_000
    assert "&lt;b&gt;" in text
    assert "query &lt;i&gt;" in text


def test_of_several_right_ones_the_place_is_not_said_of_the_one_that_is_shown(tmp_path):
    one = result("several", 9)
    items = tuple(replace(item, right=np.array([number, (number + 1) % COUNT])) for number, item in enumerate(one.task.items))
    outcomes = tuple(
        replace(found, places=(9, 10), found=(2, 3, 4) if number not in (1, 2, 3, 4) else (6, 7, 8))
        for number, found in enumerate(one.outcomes)
    )
    text = page(tmp_path, replace(one, task=replace(one.task, items=items), outcomes=outcomes))
    assert "right, one of 2; the first of them is at 9 of 12" in text
    assert "right, at 9 of 12" not in text


def test_scores_stand_beside_chance_and_those_at_chance_are_red(tmp_path):
    text = page(tmp_path, result("second", 2), result("ninth", 9))
    assert '<span class="w no">0.111 at chance</span>' in text
    assert "Red is at chance: ninth." in text
    for title in ("recall@1", "recall@10", "mrr", "ndcg@10", "words"):
        assert f">{title}</th>" in text
    assert text.count('<rect class="band') == 2


@pytest.mark.parametrize("many", [1, 2])
def test_differences_are_drawn_as_a_drawing_or_a_page(tmp_path, many):
    found = {f"{number}.json": GAPS for number in range(many)}
    write_picture(tmp_path / "d.svg", "base.json", found)
    drawing = (tmp_path / "d.svg").read_text()
    assert drawing.count("<polyline") == 3 * many
    assert drawing.index(MEAN) < drawing.index("+0.100 [+0.050")
    assert drawing.count('<polyline class="line good"') == 2 * many
    write_picture(tmp_path / "d.html", "base.json", found)
    assert read(tmp_path / "d.html").count("<svg") == many


def test_another_kind_of_picture_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"ends in \.svg or \.html"):
        write_picture(tmp_path / "d.png", "base.json", {"a.json": GAPS})
