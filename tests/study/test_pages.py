"""A study's page and text say what was found, what was not run, and why; at every moment of a study."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from study_made import made
from twoway.study.page import CLAIMS, write_study_page, write_study_results
from whole_page import read

LEVELS = {"causal-last": 0.30, "causal-mean": 0.29, "two-way-last": 0.28, "two-way-mean": 0.26, "more": 0.33, "most": 0.36, "next": 0.28}
DOSES = {"0": "two-way-mean", "50": "more", "100": "most"}
MADE = [
    {
        "key": "a",
        "claim": 1,
        "says": "two-way <b>beats</b> causal",
        "paper": "66.4 | 65.4",
        "better": "two-way-mean",
        "than": "causal-mean",
    },
    {"key": "b", "claim": 2, "says": "more beats next", "better": "more", "than": "next"},
    {
        "key": "c",
        "claim": 4,
        "says": "more helps more",
        "curve": {"axis": "rows, %", "points": DOSES, "control": {"50": "next", "100": "next", "0": "causal-mean"}},
    },
]

OWN = {"key": "own", "claim": 12, "says": "what no paper says", "better": "more", "than": "next"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    sources = {"more": "moca", "most": "moca", "next": "next-token"}
    return made(out, LEVELS, [*MADE, OWN], sources=sources, items=150, failed=("next",))


def test_the_page_is_whole_and_has_all_parts(study):
    (path,) = write_study_page(study)
    text = read(path)
    for said in ("What it decides", "Map: attention by pooling", "Map: more helps more", "Cost against score", "Gate", "Provenance"):
        assert said in text
    assert "two-way &lt;b&gt;" in text.casefold()
    for number, paper in CLAIMS.items():
        assert f"{number}. {paper.title}".replace("'", "&#39;") in text
    assert text.count("no claim of this study is about it") == len(CLAIMS) - 3
    assert "12. A claim of the study&#39;s own" in text
    assert "the loss is not a number at step 3" in text


def test_what_a_search_takes_stands_beside_the_score(study, tmp_path):
    file, _ = write_study_results(study, tmp_path / "results.md")
    rows = [
        line.split(" | ") for line in file.read_text().split("## Cost beside score")[1].split("\n## ")[0].splitlines() if line[:2] == "| "
    ]
    costs = {row[0]: row[1:7] for row in rows}
    assert costs["| two-way-mean"] == ["0", "0", "60", "256", "2.5", "–"]
    assert costs["| more"] == ["24,000", "900", "60", "256", "2.5", "–"]
    assert "| next" not in costs
    assert "reranked, ms a query" in read(write_study_page(study)[0])


def test_the_text_has_every_arm_every_seed_and_what_was_not_run(study, tmp_path):
    file, picture = write_study_results(study, tmp_path / "docs" / "results.md")
    text = file.read_text()
    assert (file.name, picture.name) == ("results.md", "results.svg")
    assert text.startswith("# Results of the study `made`")
    assert ElementTree.fromstring(picture.read_text()).tag.endswith("svg")
    assert f"]({picture.name})" in text
    assert "**opposite**" in text
    assert "**not run**" in text
    for name in LEVELS:
        assert f"| {name} |" in text
    assert r"66.4 \| 65.4" in text
    assert "not run: every seed: the loss is not a number at step 3" in text
    missing = text.split("## Not run")[1].split("##")[0]
    listed = [number for number in (*CLAIMS, 12) if f"claim {number}:" in missing or f"claim {number}," in missing]
    assert listed == [2, 4, 12]
    assert "claim 2:" in missing
    assert "claim 4, in part:" in missing
    assert "The study does not ask the papers' claims 3, 5, 6, 7, 8." in missing
    assert f"| 2 | {CLAIMS[2].title} |" in text
    assert CLAIMS[5].title not in text
    assert "next not run (every seed: the loss is not a number at step 3)" in missing
    assert "67.5 / 59.8" in text
    assert "It is seen from 0 on (rows, %; not run: 50, 100), the smallest that was tried" not in text
    assert "It is seen at no dose from which on it stays (rows, %; not run: 50, 100)" in text


def test_a_study_that_has_just_begun_has_a_page_and_a_text(tmp_path):
    made(tmp_path, {"a": 0.3, "b": 0.3}, [MADE[0] | {"better": "a", "than": "b"}], failed=("a", "b"), gate={})
    text = read(write_study_page(tmp_path)[0])
    assert "Not known yet" in text
    assert "0 of 6" in text
    (file,) = write_study_results(tmp_path, tmp_path / "results.md")
    assert "**not run**" in file.read_text()
    assert "run once" not in file.read_text()


def test_a_gate_that_is_not_passed_is_said_everywhere(tmp_path):
    why = "the right picture saves 0.1 nats a word, and at least 0.5 are asked for"
    made(tmp_path, {"a": 0.3, "b": 0.35}, [MADE[0] | {"better": "b", "than": "a"}], items=60, gate={"passed": False, "why": why})
    assert read(write_study_page(tmp_path)[0]).count(why) >= 2
    file, _ = write_study_results(tmp_path, tmp_path / "results.md")
    assert "**not passed**" in file.read_text()
    assert "**not decidable at this size**" in file.read_text()


def test_seeds_of_stages_before_are_told_apart(tmp_path):
    made(tmp_path, {"a": 0.3, "b": 0.35}, [MADE[0] | {"better": "b", "than": "a"}], items=60, sources={"b": "moca"}, stage_seeds=(1, 2))
    text = read(write_study_page(tmp_path)[0])
    assert ">runs</th>" in text
    assert text.count('class="hollow"') == 3
    assert "as far as those with several seeds show it" in text
    assert "9 of 9" in text


def test_a_study_in_part_lists_what_waits_and_why(tmp_path):
    claims = [MADE[0] | {"better": "b", "than": "a"}, MADE[1] | {"better": "c", "than": "d"}]
    made(tmp_path, {"a": 0.3, "b": 0.35, "c": 0.3, "d": -0.3}, claims, items=60, failed=("c",))
    about = json.loads((tmp_path / "study.json").read_text())
    arms = about["arms"]
    arms["c"] |= {
        "runs": [],
        "learning_rate": None,
        "rates": {"0.0002": None},
        "waits": "its learning rate is not known: c at 0.0002 failed: no disk",
    }
    arms["b"]["runs"][2] |= {"state": "new", "error": None}
    (tmp_path / "study.json").write_text(json.dumps(about | {"state": "in part"}))
    (file, _) = write_study_results(tmp_path, tmp_path / "results.md")
    text = file.read_text()
    assert ": in part, " in text
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.split("## Arms")[1].splitlines() if line.startswith("| ")}
    assert "not run: every seed: its learning rate is not known: c at 0.0002 failed: no disk" in lines["c"]
    assert "; not run: seed 3: not begun" in lines["b"]
    assert "0.0006, the largest tried" in lines["a"]
    assert ", at chance" in lines["d"]
    assert ", at chance" not in lines["a"]
    assert "- claim 1, b minus a: seen, the interval is above zero; b without seed 3: not begun" in text
    assert "c not run (every seed: its learning rate is not known: c at 0.0002 failed: no disk)" in text.split("## Not run")[1]
    assert "8 of 12" in read(write_study_page(tmp_path)[0])


def test_a_kind_on_which_all_are_at_chance_shows_no_difference(tmp_path):
    claims = [MADE[0] | {"better": "b", "than": "a"}, MADE[2] | {"key": "d", "curve": {"axis": "rows", "points": {"0": "a", "1": "b"}}}]
    made(tmp_path, {"a": 0.3, "b": 0.35}, claims, items=60)
    for arm in "ab":
        for seed in (1, 2, 3):
            path = tmp_path / "results" / arm / f"seed-{seed}.json"
            found = json.loads(path.read_text())
            found["tasks"]["page"]["chance95"] = [0.0, 0.9]
            path.write_text(json.dumps(found))
    file, _ = write_study_results(tmp_path, tmp_path / "results.md")
    (line,) = [line for line in file.read_text().split("## By kind")[1].splitlines() if " | b minus a | " in line]
    (head,) = [line for line in file.read_text().split("## By kind")[1].splitlines() if line.startswith("| claim | comparison")]
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert cells["documents"] == "at chance"
    assert "at chance" not in cells["retrieval"]
    assert "<td>at chance</td>" in read(write_study_page(tmp_path)[0])
