"""A row a value: its interval where it belongs, zero in sight, names as text, light and dark in a file of its own."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from twoway.reports.charts import Curve, IntervalRow, format_interval, interval_chart, interval_file, line_chart

ROWS = [
    IntervalRow("mean", 0.02, 0.01, 0.03, "good", dots=(0.015, 0.025), strong=True),
    IntervalRow("<script>" + "x" * 40, -0.01, -0.03, 0.01, band=(-0.02, 0.0)),
]


def test_rows_lie_where_their_values_do():
    figure = ElementTree.fromstring(re.search(r"(?s)<svg.*</svg>", interval_chart("gap", "MRR", ROWS)).group())
    lines = [[float(pair.split(",")[0]) for pair in line.get("points").split()] for line in figure.findall("polyline")]
    at = {circle.get("class"): float(circle.get("cx")) for circle in figure.findall("circle")}
    zero = next(float(line.get("x1")) for line in figure.findall("line") if line.get("class") == "zero")
    assert lines[0][0] < at["good"] < lines[0][1]
    assert lines[1][0] < at["c0"] < zero < lines[0][0]
    assert sum(lines[0]) / 2 == pytest.approx(at["good"], abs=0.2)
    assert len(figure.findall("circle")) == 4
    assert len(figure.findall("rect")) == 1


def test_names_are_no_markup_and_long_ones_are_cut():
    text = interval_chart("a <b>", "c", ROWS)
    assert "<script" not in text
    assert "xxx…<title>&lt;script&gt;" in text
    assert interval_chart("a", "b", []) == ""


def test_a_file_of_its_own_is_whole():
    file = ElementTree.fromstring(interval_file("Differences", ROWS))
    assert file.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme:dark" in file.find("{*}style").text


def test_nothing_but_zeros_lies_at_zero():
    figure = ElementTree.fromstring(re.search(r"(?s)<svg.*</svg>", interval_chart("gap", "", [IntervalRow("same", 0.0, 0.0, 0.0)])).group())
    zeros = [float(line.get("x1")) for line in figure.findall("line") if line.get("class") == "zero"]
    assert zeros == [float(figure.find("circle").get("cx"))]


def test_numbers_have_their_sign():
    assert format_interval(0.02, -0.01, 0.05) == "+0.020 [−0.010, +0.050]"
    assert format_interval(0.02, 0.01, 0.05, signed=False) == "0.020 [0.010, 0.050]"


def test_a_chart_may_lie_over_something_else_than_steps():
    text = line_chart("a", "b", [Curve("x", [(0.2, 1.0), (0.4, 2.0), (0.5, 1.5)])], x_label="mask share")
    assert ">mask share</text>" in text
    assert ">0.3<" in text
