"""Hugging Face `datasets`: the real library reads, pictures stay undecoded until their row, and no stream ends at one bad picture."""

from __future__ import annotations

import datasets
import pytest

from twoway.content import ContentError, Place, Text
from twoway.data.dataset import open_source
from twoway.data.sources import parquet
from twoway.errors import TwowayError, UsageError

PARTS = [{"text": "a", "image": None}, {"text": None, "image": b"PNG"}, {"text": "b", "image": None}]


@pytest.fixture(autouse=True)
def quiet_cache(tmp_path, monkeypatch):
    """Nothing is written outside the test's own folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def short_form(png):
    rows = {"image": [png(), None, b"broken", png("blue")], "text": ["a", "b", "c", None], "id": [1, 2, 3, 4]}
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image(decode=False)).cast_column("image", datasets.Image())


def test_a_saved_folder_is_read_with_one_bad_picture_as_one_bad_row(tmp_path, png):
    short_form(png).save_to_disk(tmp_path / "saved")
    source = open_source(tmp_path / "saved", on_bad="skip")
    first, second, last = source
    assert [type(part).__name__ for part in first.parts] == ["Image", "Text"]
    assert (first.texts, first.meta, second.texts, last.texts) == (("a",), {"id": 1}, ("b",), ())
    assert last.images[0].source.getpixel((0, 0)) == (0, 0, 255)
    assert [document.place.row for document in (first, second, last)] == [1, 2, 4]
    assert "saved:3: the embedded picture is broken or in an unknown format" in str(source.report())


def test_the_long_form_keeps_its_order_through_datasets(tmp_path, png):
    part = {"text": datasets.Value("string"), "image": datasets.Image()}
    rows = {"parts": [[{**part, "image": png()} if part["image"] else part for part in PARTS]]}
    datasets.Dataset.from_dict(rows, features=datasets.Features({"parts": datasets.List(part)})).save_to_disk(tmp_path / "saved")
    (document,) = open_source(tmp_path / "saved")
    assert [isinstance(part, Text) for part in document.parts] == [True, False, True]
    assert document.images[0].source.size == (4, 3)


def test_a_folder_of_splits_asks_for_one_of_them(tmp_path, png):
    splits = datasets.DatasetDict({"train": short_form(png), "test": short_form(png)})
    splits.save_to_disk(tmp_path / "saved")
    with pytest.raises(UsageError, match=r"holds several splits; name one of .*saved/train, .*saved/test"):
        list(open_source(tmp_path / "saved"))
    assert len(list(open_source(tmp_path / "saved" / "test", on_bad="skip"))) == 3
    datasets.DatasetDict({"train": short_form(png)}).save_to_disk(tmp_path / "single")
    assert len(list(open_source(tmp_path / "single", on_bad="skip"))) == 3


def test_load_dataset_streams_a_folder_by_split(tmp_path, png):
    folder = tmp_path / "set"
    folder.mkdir()
    short_form(png).to_parquet(folder / "train.parquet")
    datasets.Dataset.from_dict({"text": ["x", "y"]}).to_parquet(folder / "test.parquet")
    source = open_source(f"hub:{folder}", on_bad="skip")
    assert [document.place.row for document in source] == [1, 2, 4]
    assert [document.texts for document in open_source(f"hub:{folder}:test")] == [("x",), ("y",)]
    assert next(iter(open_source(f"hub:{folder}:train"))).images[0].source.getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(TwowayError, match=r"hub:.*:dev cannot be opened") as caught:
        list(open_source(f"hub:{folder}:dev"))
    assert "\n" not in str(caught.value)


def test_a_folder_of_pictures_with_captions_streams(tmp_path, png):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    (folder / "b.png").write_bytes(b"broken")
    (folder / "metadata.csv").write_text("file_name,text\na.png,good\nb.png,bad\n")
    source = open_source(f"hub:{folder}", on_bad="skip")
    assert [document.texts for document in source] == [("good",)]
    assert source.report().bad == 1


def test_a_name_that_the_hub_does_not_answer_for_is_one_line(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(TwowayError, match=r"hub:no-one/nothing:train cannot be opened") as caught:
        list(open_source("hub:no-one/nothing:train"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"write hub:OWNER/NAME"):
        list(open_source("hub:a b c"))


def test_name_config_and_split_reach_load_dataset(monkeypatch):
    asked = []

    def load(*args, **options):
        asked.append((*args, options["split"], options["streaming"]))
        return datasets.Dataset.from_dict({"text": ["a"]}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    for spec in ("hub:own/name", "hub:own/name:test", "hub:own/name/en:test", "hub:name:train"):
        assert len(list(open_source(spec))) == 1
    assert asked == [
        ("own/name", None, "train", True),
        ("own/name", None, "test", True),
        ("own/name", "en", "test", True),
        ("name", None, "train", True),
    ]


def test_a_data_set_of_the_hub_may_not_name_a_file_of_this_machine(tmp_path, png, monkeypatch):
    (tmp_path / "private.png").write_bytes(png())
    features = datasets.Features({"image": datasets.Image()})
    table = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": str(tmp_path / "private.png")}]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table.to_iterable_dataset())
    with pytest.raises(ContentError, match=r"hub:own/name:1: picture .*private.png is a path on this machine"):
        list(open_source("hub:own/name"))


def test_a_picture_that_the_hub_does_not_give_is_one_bad_row(monkeypatch):
    def broken(*_):
        raise ConnectionError("no route\nmore")

    monkeypatch.setattr("datasets.utils.file_utils.xopen", broken)
    with pytest.raises(ContentError, match=r"x:1: picture hf://datasets/own/name/a.png cannot be fetched \(no route\)"):
        parquet._fetched({"bytes": None, "path": "hf://datasets/own/name/a.png"}, None, Place("x", 1))


def test_wrong_columns_are_named(tmp_path):
    datasets.Dataset.from_dict({"texts": ["a"]}).save_to_disk(tmp_path / "saved")
    columns = "parts, image, images, video, videos, audio, audios, messages, text"
    with pytest.raises(UsageError, match=rf"none of the columns {columns}; did you mean text\? \(it has texts\)"):
        list(open_source(tmp_path / "saved"))


def test_a_damaged_folder_is_one_line(tmp_path, png):
    short_form(png).save_to_disk(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:50])
    with pytest.raises(TwowayError, match="is not a readable folder of") as caught:
        list(open_source(tmp_path / "saved"))
    assert "\n" not in str(caught.value)
