"""`twoway study` on a tiny untrained base: what a forecast says, and a base that the gate refuses; the stages are the real ones."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image as PILImage

from pair_toys import WORDS, pair_file
from study_made import made
from twoway.cli import main
from twoway.data import dataset


@pytest.fixture
def study(tiny_model, tmp_path):
    pairs, seen = pair_file(tmp_path), tmp_path / "seen.jsonl"
    draw, rows = np.random.default_rng(1), []
    for number in range(80):
        PILImage.fromarray(draw.integers(0, 255, (28, 28, 3), dtype=np.uint8)).save(tmp_path / f"seen-{number}.png")
        rows.append({"parts": [{"image": f"seen-{number}.png"}, {"text": f"{WORDS[number % 10]} {number}"}]})
    seen.write_text("".join(json.dumps(row) + "\n" for row in rows))
    usual = {"dtype": "float32", "dataloader_num_workers": 0, "held_out": 0, "max_length": 64}
    whole = {
        "base": str(tiny_model("qwen2_vl")),
        "stages": {"moca": {"stage": "pretrain", "per_device_train_batch_size": 2, "rows": 8, "data": [{"spec": str(seen)}], **usual}},
        "finetune": {"data": [{"spec": str(pairs)}], "global_batch_size": 6, "rows": 12, "hard_negatives": 0, **usual},
        "evaluate": {"tasks": ["definition-term"]},
        "arms": {
            "causal": {"attention": "causal", "pooling": "last", "learning_rate": {"rates": ["1e-3", "1e-4"], "rows": 6}},
            "two-way": {"from": "moca"},
        },
        "gate": {"rows": 4, "data": [{"spec": str(seen)}], "max_length": 64},
        "claims": [{"key": "pays", "claim": 2, "says": "it pays", "better": "two-way", "than": "causal"}],
    }
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(whole).replace('"1e-3"', "1e-3").replace('"1e-4"', "1e-4"))
    return path


def test_a_forecast_counts_jobs_and_rows_and_writes_nothing(study, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    passes, look = [], dataset._scan_blocks
    monkeypatch.setattr(dataset, "_scan_blocks", lambda *given: passes.append(given[0]) or look(*given))
    assert main(["study", str(study), str(out), "--dry-run", "--json", "--jobs", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not out.exists()
    lines = {line["name"]: line for line in found["lines"]}
    assert {name: (line["times"], line["rows"]) for name, line in lines.items() if line["rows"]} == {
        "causal: rates": (2, 6),
        "causal": (3, 12),
        "moca": (1, 8),
        "two-way": (3, 12),
    }
    assert all(lines[name]["seconds"] > 0 for name in ("moca", "causal"))
    assert "16 jobs, 0 done" in found["said"]
    # Whatever many arms read is looked through once for all of them.
    assert len(passes) == len(set(passes)) == 2


@pytest.mark.parametrize("given", ["x", "1,", "1;2"])
def test_claims_are_numbers(tmp_path, capsys, given):
    assert main(["study", "studies/quick.yaml", str(tmp_path / "out"), "--claims", given, "--dry-run"]) == 2
    assert "--claims takes a whole number, not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--report", "--claims", "1"], "shows all that stands in .*, so leave out --claims"),
        (["--report", "--jobs", "1"], "so leave out --jobs"),
        (["seeds=[1]", "--report"], r"so leave out seeds=\[1\]"),
        (["--report", "--dry-run"], "--dry-run writes nothing; leave it out, or --report"),
        (["--write", "page.md", "--dry-run"], "--dry-run writes nothing; leave it out, or --write"),
        (["--report"], r"holds the study made \(studies/made\.yaml\), not studies/quick\.yaml"),
    ],
)
def test_what_a_report_would_not_obey_is_refused(tmp_path, capsys, words, message):
    made(tmp_path, {"a": 0.3}, [], items=20)
    before = sorted(tmp_path.rglob("*"))
    assert main(["study", "studies/quick.yaml", str(tmp_path), *words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_study_found_is_written_as_a_page(tmp_path, capsys):
    claim = {"key": "pays", "claim": 1, "says": "it pays", "better": "b", "than": "a"}
    out, page = tmp_path / "one", tmp_path / "page.md"
    out.mkdir()
    made(out, {"a": 0.3, "b": 0.35}, [claim], items=20)
    words = ["study", str(out / "study.yaml"), str(out), "--report"]
    assert main(words) == 0
    assert not page.exists()
    assert main([*words, "--write", str(page)]) == 0
    assert "page.svg" in capsys.readouterr().out
    assert page.read_text().startswith("# Results of the study `made`")
    assert main([*words, "--write", str(page), "--json"]) == 0
    assert str(page) in json.loads(capsys.readouterr().out)["written"]


@pytest.mark.xdist_group("ranks")
def test_an_untrained_base_is_asked_first_and_decides_nothing(study, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["study", str(study), str(out), "--jobs", "1"]) == 1
    said = capsys.readouterr().out
    assert "not decidable: the base does not use its pictures enough" in said
    assert json.loads((out / "gate.json").read_text())["base"]["passed"] is False
    assert [one["state"] for one in json.loads((out / "study.json").read_text())["jobs"] if one["kind"] == "gate"] == ["done"]
    assert not (out / "results").exists()
    assert "the base does not use its pictures" in (out / "report.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    assert main(["study", str(study), str(out), "--report", "--write", str(tmp_path / "page.md")]) == 0
    assert "nothing run" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.json")} == before
    assert "does not use its pictures" in (tmp_path / "page.md").read_text()
