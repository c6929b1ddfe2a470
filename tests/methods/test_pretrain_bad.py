"""What cannot be trained is refused with a clear word, and leaves nothing behind; what is merely extreme trains."""

from __future__ import annotations

import errno
import json

import pyarrow as pa
import pytest
import torch
from PIL import Image as PILImage
from pyarrow import parquet as pq

from twoway.data.config import MaskingConfig, SourceConfig
from twoway.errors import TwowayError, UsageError
from twoway.methods import export, model
from twoway.methods.pretrain.method import pretrain
from twoway.models import checkpoint
from twoway.training.checkpointing import Checkpoints
from twoway.training.progress import read_log

pytestmark = pytest.mark.usefixtures("short_proof")

USUAL = {"max_steps": 1, "seed": 1, "dtype": "float32", "per_device_train_batch_size": 2, "dataloader_num_workers": 0}


@pytest.fixture
def rows(tmp_path):
    """Return `rows(parts, …) -> path` of a JSONL file; `red` is a picture."""
    PILImage.new("RGB", (56, 56), "red").save(tmp_path / "red.png")

    def make(*documents):
        path = tmp_path / "rows.jsonl"
        parts = [[{"image": "red.png"} if one == "red" else {"text": one} for one in document] for document in documents]
        path.write_text("".join(json.dumps({"parts": one}) + "\n" for one in parts))
        return str(path)

    return make


def test_a_missing_column_is_named_with_those_that_there_are(tiny_model, tmp_path):
    pq.write_table(pa.table({"caption": ["a", "b"]}), tmp_path / "rows.parquet")
    for template, missing in ((None, "parts"), ("{image} {caption}", "image"), ("visrag", "image")):
        source = SourceConfig(str(tmp_path / "rows.parquet"), row_template=template)
        with pytest.raises(TwowayError, match=rf"rows\.parquet.*{missing}.*caption"):
            pretrain(tiny_model("qwen2_vl"), tmp_path / "out", [source], **USUAL)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("document", "share"),
    [(["red"], 1.0), (["w"], 0.0), (["w"], 1.0), (["red", "some words", "red"], 1.0)],
    ids=["image", "one token, not masked", "one token", "both"],
)
def test_all_or_nothing_masked_trains(document, share, rows, tiny_model, tmp_path):
    mask = MaskingConfig(words=share, patches=1.0)
    pretrain(tiny_model("qwen2_vl"), tmp_path / "out", [rows(document, document)], **USUAL, mask=mask, held_out=0)
    (line,) = [line for line in read_log(tmp_path / "out") if "loss" in line]
    assert (line["mlm_targets"] > 0) == (share == 1.0 and document != ["red"])
    assert (line["mae_targets"] > 0) == ("red" in document)
    assert torch.isfinite(torch.tensor(line["loss"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": MaskingConfig(words=0.0, patches=0.0)}, "nothing would be learnt"),
        ({"mask": MaskingConfig(words=0.0), "mae_weight": 0.0}, "nothing would be learnt"),
        ({"mae_weight": -0.5}, "mae_weight takes a number from 0, not '-0.5'"),
    ],
)
def test_nothing_to_learn_and_negative_weights_are_refused(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        pretrain("nowhere", tmp_path / "out", ["samples:pretrain"], **options)


def test_a_negative_weight_of_a_source_and_a_share_that_is_none_are_refused():
    with pytest.raises(UsageError, match="weight takes a number above 0"):
        SourceConfig("rows", weight=-1.0)
    with pytest.raises(UsageError, match=r"words takes a number from 0 to 1, not '1\.5'"):
        MaskingConfig(words=1.5)


def test_a_base_that_stays_causal_is_refused_before_anything_is_written(rows, tiny_model, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        # As a family would be that does not look at the switch.
        patched.setattr(model, "set_attention", lambda model, attention: None)
        with pytest.raises(TwowayError, match=r"qwen2_vl.*cannot be made two-way: it is measured causal"):
            pretrain(tiny_model("qwen2_vl"), tmp_path / "out", [rows(["a b"], ["c d"])], **USUAL)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_full_at_the_end_loses_no_step(rows, tiny_model, tmp_path, monkeypatch):
    data, out = rows(["a b"], ["c d"]), tmp_path / "out"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(export.checkpoint, "save_model", full)
        with pytest.raises(TwowayError, match="no space left on the disk"):
            pretrain(tiny_model("qwen2_vl"), out, [data], **USUAL)
    assert Checkpoints(out).steps() == [1]
    assert not (out / checkpoint.CARD_FILE).exists()
    result = pretrain(tiny_model("qwen2_vl"), out, [data], **USUAL)
    assert (result.resumed, result.steps) == (1, 1)
    assert (out / checkpoint.CARD_FILE).exists()


def test_other_words_in_the_data_are_refused_and_another_folder_is_not(rows, tiny_model, tmp_path):
    data, out = rows(["a b"], ["c d"]), tmp_path / "out"
    pretrain(tiny_model("qwen2_vl"), out, [data], **USUAL)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "rows.jsonl").write_bytes((tmp_path / "rows.jsonl").read_bytes())
    (out / checkpoint.CARD_FILE).unlink()  # as if it had been cut off before the model was written
    assert pretrain(tiny_model("qwen2_vl"), out, [str(moved / "rows.jsonl")], **USUAL).resumed == 1
    (out / checkpoint.CARD_FILE).unlink()
    rows(["a b"], ["c e"])
    with pytest.raises(UsageError, match=r'data was .*"digest"'):
        pretrain(tiny_model("qwen2_vl"), out, [data], **USUAL)
