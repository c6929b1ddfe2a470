"""`data prepare` finds out what training needs: a stage that comes after looks at no row again, and is told or refused what differs."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from PIL import Image

from twoway.cli import main
from twoway.data import dataset, lengths
from twoway.data.sources import parquet
from twoway.errors import UsageError
from twoway.methods import tables
from twoway.methods.finetune.method import finetune
from twoway.methods.pretrain.method import pretrain

pytestmark = pytest.mark.usefixtures("short_proof")

USUAL = {"max_steps": 1, "dtype": "float32", "dataloader_num_workers": 0, "held_out": 0, "max_length": 128}


@pytest.fixture
def recipe(tiny_model, tmp_path):
    """A recipe of two stages; one row of documents is bad, and one is longer than a row may be."""
    for number, size in enumerate([(40, 30), (60, 60)]):
        Image.new("RGB", size, (number * 60, 0, 0)).save(tmp_path / f"{number}.png")
    documents = [{"image": f"{number % 2}.png", "text": "a cat " * (1 + number % 5)} for number in range(40)]
    documents += [{"text": "word " * 400}, {"image": "gone.png"}, {"image": "1.png", "text": "the last"}]
    pairs = [{"query": f"what is {number}", "positive": {"image": f"{number % 2}.png", "text": f"{number}"}} for number in range(12)]
    for name, rows in (("documents", documents), ("pairs", pairs)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stages = {
        "first": {
            "stage": "pretrain",
            "data": [{"spec": str(tmp_path / "documents.jsonl")}],
            "on_bad": "skip",
            "per_device_train_batch_size": 2,
            **USUAL,
        },
        "second": {"stage": "finetune", "data": [{"spec": str(tmp_path / "pairs.jsonl")}], "global_batch_size": 4, **USUAL},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"base": str(tiny_model("qwen2_vl")), "stages": stages}, sort_keys=False))
    return path


def forbid(monkeypatch):
    """Let nothing look at data anew."""
    monkeypatch.setattr(dataset, "_scan_blocks", lambda spec, *_: pytest.fail(f"{spec} was looked through again"))
    monkeypatch.setattr(lengths, "_rest", lambda *_: pytest.fail("rows were measured again"))
    monkeypatch.setattr(parquet, "_copy", lambda argument, *_: pytest.fail(f"{argument} was copied again"))


def test_what_is_prepared_is_not_done_again_by_any_stage(recipe, tiny_model, tmp_path, monkeypatch, capsys):
    words = ["data", "prepare", str(recipe), "--cache-dir", str(tmp_path / "cache"), "--json", "--processes", "1"]
    assert main(words) == 1  # a row is bad
    said = json.loads(capsys.readouterr().out)
    first, second = said["sources"]
    assert (first["stage"], first["rows"], len(first["bad"]), first["cut"], first["known"]) == ("first", 43, 1, 1, False)
    assert "documents.jsonl:42: picture gone.png does not exist" in first["bad"][0]
    assert (second["stage"], second["rows"], second["bad"], second["cut"]) == ("second", 12, [], None)
    assert first["bytes_read"] == (tmp_path / "documents.jsonl").stat().st_size
    assert first["rows_per_second"] > 0
    assert first["kept"].startswith(said["cache"])

    forbid(monkeypatch)
    options = {**USUAL, "cache_dir": tmp_path / "cache", "prepared_only": True}
    base = tiny_model("qwen2_vl")
    pretrain(base, tmp_path / "out", [str(tmp_path / "documents.jsonl")], on_bad="skip", per_device_train_batch_size=2, **options)
    finetune(base, tmp_path / "tuned", [str(tmp_path / "pairs.jsonl")], global_batch_size=4, **options)
    main(words)
    assert [one["known"] for one in json.loads(capsys.readouterr().out)["sources"]] == [True, True]


def test_rows_that_are_lost_or_cut_are_listed_and_too_many_are_refused(recipe, tiny_model, tmp_path, monkeypatch, capsys):
    Image.new("RGB", (1000, 900)).save(tmp_path / "page.png")
    with (tmp_path / "documents.jsonl").open("a") as file:
        file.write('{"image": "page.png", "text": "a page"}\n')
    with (tmp_path / "pairs.jsonl").open("a") as file:
        file.write('{"query": "which page", "positive": {"image": "page.png"}}\n')
    words = ["data", "prepare", str(recipe), "*.max_pixels=900_000", "--processes", "1", "--cache-dir", str(tmp_path / "cache")]
    assert main([*words, "--json"]) == 1
    first, second = json.loads(capsys.readouterr().out)["sources"]
    assert [(one["lost"], one["cut"], one["refused"]) for one in (first, second)] == [(1, 1, None), (1, None, None)]
    assert re.search(r"documents.jsonl:44: a picture of [\d,]+ tokens, where a row has room for \d+$", first["lost_rows"][0])
    assert re.search(r"documents.jsonl:41: about [\d,]+ tokens, and a row has 128$", first["cut_rows"][0])
    assert "pairs.jsonl:13: a picture of" in second["lost_rows"][0]

    monkeypatch.setattr(tables, "SMALLEST_SOURCE", 10)  # of a source that is not small
    assert main([*words, "first.max_bad_share=0.01"]) == 1
    shown = capsys.readouterr().out
    assert re.search(r"first, .*documents.jsonl: training would stop: .* loses 2 of 44 rows \(4.5%\)", shown)
    assert "or allow it with max_bad_share (now 0.01)" in shown
    assert "second, " not in shown  # one of 13 rows is below a tenth
    for kind, row in (("bad", 42), ("lost", 44), ("cut", 41)):
        assert re.search(rf"  {kind}: .*documents.jsonl:{row}: ", shown)
    options = {**USUAL, "cache_dir": tmp_path / "cache", "on_bad": "skip", "max_pixels": 900_000, "max_bad_share": 0.01}
    with pytest.raises(UsageError, match=r"loses 2 of 44 rows"):
        pretrain(tiny_model("qwen2_vl"), tmp_path / "out", [str(tmp_path / "documents.jsonl")], **options)


def test_what_is_not_prepared_is_refused_where_that_is_asked(recipe, tiny_model, tmp_path, capsys):
    base, words = str(tiny_model("qwen2_vl")), ["prepared_only=true", f"cache_dir={tmp_path / 'cache'}", "dtype=float32", "max_steps=1"]
    command = ["pretrain", base, str(tmp_path / "out"), "--data", str(tmp_path / "documents.jsonl"), *words]
    assert main(command) == 2
    assert "documents.jsonl is not prepared; prepare it first (twoway data prepare)" in capsys.readouterr().err
    assert main(["data", "prepare", str(tmp_path / "documents.jsonl"), "--cache-dir", str(tmp_path / "cache")]) == 1
    shown = capsys.readouterr().out
    assert "no model is named, so no row was measured" in shown
    assert "1 of 1 sources are not good; kept in" in shown
    with (tmp_path / "documents.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    assert main(command) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "documents.jsonl was prepared before and cannot be used as it is: its files have changed since" in said[0]


def test_a_stream_is_copied_and_training_needs_no_net(recipe, tiny_model, tmp_path, monkeypatch, capsys):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "stream").mkdir()
    rows = [{"text": f"row {number}", "image": {"bytes": (tmp_path / "0.png").read_bytes(), "path": None}} for number in range(30)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "stream" / "train.parquet")
    recipe = tmp_path / "stream.yaml"
    base = str(tiny_model("qwen2_vl"))
    recipe.write_text(
        yaml.safe_dump(
            {"base": base, "data": [{"spec": f"hub:{tmp_path / 'stream'}", "cap": 24}], "stages": {"pretrain": {"max_length": 128}}}
        )
    )
    assert main(["data", "prepare", str(recipe), "--cache-dir", str(tmp_path / "cache")]) == 0
    assert "all 1 sources are good" in capsys.readouterr().out
    forbid(monkeypatch)
    monkeypatch.setattr(parquet, "open_stream", lambda argument: pytest.fail("the stream was opened"))
    run = ["run", str(recipe), str(tmp_path / "out"), f"pretrain.cache_dir={tmp_path / 'cache'}", "pretrain.prepared_only=true"]
    assert (
        main(
            [
                *run,
                "pretrain.dtype=float32",
                "pretrain.max_steps=1",
                "pretrain.dataloader_num_workers=0",
                "pretrain.per_device_train_batch_size=2",
            ]
        )
        == 0
    )


def test_a_source_that_cannot_be_opened_stops_no_other(recipe, tmp_path, capsys):
    text = yaml.safe_load(recipe.read_text())
    text["stages"]["first"]["data"].append({"spec": str(tmp_path / "gone.jsonl")})
    recipe.write_text(yaml.safe_dump(text, sort_keys=False))
    assert main(["data", "prepare", str(recipe), "--json"]) == 1
    first, gone, second = json.loads(capsys.readouterr().out)["sources"]
    assert (first["rows"], second["rows"], "there is no" in gone["error"]) == (43, 12, True)
