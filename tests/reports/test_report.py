"""The report: one whole file, nothing from outside, true to the log, and words for what the gaps say."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image as PILImage

from twoway.methods.pretrain.callbacks import describe_gaps, write_report
from twoway.methods.pretrain.method import pretrain
from twoway.reports.charts import Curve, line_chart, round_ticks, running_mean
from twoway.reports.training import Examples, Sentence, Word
from twoway.training.progress import read_log
from whole_page import read


def gap(kind, value, error, wrong="shuffled"):
    return {"step": 9, "words_rows": 40, f"{kind}_gap_{wrong}": value, f"{kind}_gap_{wrong}_error": error}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (gap("words", 0.93, 0.1), "A word costs 0.930 (± 0.10) nats less with its own picture"),
        (gap("words", 0.05, 0.1), "No help of pictures is seen yet"),
        (gap("patches", 0.0, 0.001), "No help of captions is seen yet"),
        (gap("patches", -0.2, 0.01), "The right captions do harm"),
        (
            gap("frames", 0.2, 0.01, "backwards"),
            "A word beside a video costs 0.200 (± 0.010) nats less than with the same frames backwards",
        ),
        ({"step": 9, "loss": 1.0}, "No held-out row"),
    ],
)
def test_the_verdict_says_what_was_measured(entry, said):
    assert said in describe_gaps([{"step": 0}, entry])


def test_a_run_without_anything_has_a_report(tmp_path):
    write_report(tmp_path, 5)
    assert "step 0 of 5" in read(tmp_path / "report.html")


def test_what_rows_and_errors_say_is_no_markup(tmp_path):
    evil = "<script>alert(1)</script>"
    (tmp_path / "bad-rows.jsonl").write_text(json.dumps({"file": evil, "row": 3, "unit": "row", "reason": evil}) + "\n")
    sentence = Sentence({}, {name: [Word(evil), Word(evil, evil), Word("a", "a", True)] for name in ("right", "shuffled")})
    write_report(tmp_path, 5, [(evil, 1.0, 1000, 20)], Examples([sentence], []))
    text = read(tmp_path / "report.html")
    assert text.count("&lt;script&gt;") >= 6
    assert "1,000" in text


def test_a_list_of_bad_rows_that_a_kill_cut_is_shown_all_the_same(tmp_path):
    row = json.dumps({"file": "rows.jsonl", "row": 3, "unit": "row", "reason": "broken"})
    (tmp_path / "bad-rows.jsonl").write_text(f"{row}\n{row[:20]}\n{row}\n{row[:9]}")
    write_report(tmp_path, 5)
    assert "2 rows could not be used" in read(tmp_path / "report.html")


def test_a_chart_shows_every_point_between_round_ticks():
    points = [(0, 0.0), (5, 0.42), (10, 0.9)]
    figure = ElementTree.fromstring(re.search(r"(?s)<svg.*</svg>", line_chart("t", "u", [Curve("a", points, (0.1, 0.1, 0.3))])).group())
    assert len(figure.findall("circle")) == 3
    places = [tuple(map(float, pair.split(","))) for pair in figure.find("polyline").get("points").split()]
    assert places == sorted(places, key=lambda place: place[0])
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    assert figure.find("polygon") is not None
    assert line_chart("t", "u", [Curve("a", [])]) == ""


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.003, 0.02), (2.13, 2.19), (0, 12_345), (5, 5.0001)])
def test_ticks_are_round_and_hold_the_values(low, high):
    ticks = round_ticks(low, high)
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9
    assert 2 <= len(ticks) <= 9
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])


def test_a_running_mean_stays_where_values_do():
    assert running_mean([(step, 2.0) for step in range(100)]) == [(step, 2.0) for step in range(100)]


def test_a_run_writes_its_report_and_measures_at_both_ends(tiny_model, tmp_path):
    draw = np.random.default_rng(0)
    lines = []
    for number in range(60):
        PILImage.fromarray(draw.integers(0, 255, (56, 56, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        lines.append({"parts": [{"image": f"{number}.png"}, {"text": f"the caption of picture {number} says <so> and more"}]})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    options = {"max_steps": 2, "seed": 1, "dtype": "float32", "per_device_train_batch_size": 2, "dataloader_num_workers": 0}
    pretrain(tiny_model("qwen2_vl"), out, [str(tmp_path / "rows.jsonl")], **options)
    measured = [line for line in read_log(out) if "words_rows" in line]
    assert [line["step"] for line in measured] == [0, 2]
    assert measured[0]["words_rows"] == 3  # one in twenty
    assert {"words_gap_none", "patches_gap_shuffled", "words_none_accuracy"} <= measured[1].keys()
    text = read(out / "report.html")
    assert text.count("<img ") == 3 * 3 + 3 * 2
    assert text.count("<figure>") == 9  # every chart has its numbers in the log
    for heading in ("Do the modalities help", "Restored pictures", "Restored words", "Speed", "Data", "Provenance"):
        assert heading in text
    assert "max_steps: 2" in text
