"""The work of a batch is told as it is counted while the model computes; costs come from it, and stay with the run."""

from __future__ import annotations

import json

import pytest
import torch
from peft.tuners.lora.dora import DoraLinearLayer
from PIL import Image as PILImage

from counted import computed, computed_batch
from twoway.content import ContentError, Document, Image, Text, Video
from twoway.data.config import CostWeights, SourceConfig
from twoway.data.patches import PatchGeometry
from twoway.methods import counting
from twoway.methods.config import AdapterConfig
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.data import _work, open_data
from twoway.methods.pretrain.method import prepare, require
from twoway.training.progress import Meter

CPU, ONES = torch.device("cpu"), PatchGeometry(1, ())


def opened(family, tiny_model, out, **options):
    """A run's data on four rows, with what was counted."""
    rows = out / "rows.jsonl"
    parts = [[{"text": f"row {number} of words"}, {"image": "red.png"}] for number in range(4)]
    rows.write_text("".join(json.dumps({"parts": one}) + "\n" for one in parts))
    PILImage.new("RGB", (60, 60), "red").save(out / "red.png")
    config = PretrainConfig(data=(SourceConfig(str(rows)),), dataloader_num_workers=0, held_out=0, device="cpu", **options)
    prepared = prepare(tiny_model(family), config)
    return config, prepared, open_data(config, prepared, out / "run", shards=1, bad_rows=None)


def other_batch(data, *, video=False):
    """Rows unlike those that were tried; with a video among them, of eight frames."""
    shown = PILImage.new("RGB", (90, 60), "red")
    documents = [(Text("a few words " * 9), Image(shown), Text("and more"), Image(shown)), (Text("alone " * 12),), (Image(shown),)]
    documents += [(Video((Image(shown),) * 8), Text("moves"))] * video
    return data.collate([data.mask(data.encode(f"{n}", Document(parts)), epoch=0) for n, parts in enumerate(documents)])


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "idefics3"])
def test_what_is_counted_on_shapes_is_what_is_counted_in_computing(family, tiny_model, tmp_path):
    _, prepared, data = opened(family, tiny_model, tmp_path, gradient_checkpointing=True, calibrate="none")
    module, batch = prepared.module.train(), other_batch(data)
    counted = counting.count_batch(module, batch)
    assert counting.total(counted) == pytest.approx(computed_batch(module, batch), rel=1e-3)
    assert 0 < counting.total(counted, counting.AGAIN) < counting.total(counted, counting.FORWARD)
    with torch.no_grad():
        ahead = counting.count_batch(module, batch)
        assert counting.total(ahead) == computed(module, lambda: module(batch, module.loss_weights)[0])
    assert all(counting.total(ahead, part=one) == counting.total(counted, counting.FORWARD, part=one) for one in counting.PARTS)


@pytest.mark.parametrize(
    ("family", "options", "video"),
    [
        ("qwen2_vl", {}, False),
        ("gemma3", {}, False),
        ("gemma3", {"freeze_tower": True, "gradient_checkpointing": True}, False),
        ("qwen2_vl", {"masked_patches": "drop"}, False),
        ("qwen3_vl", {}, True),
    ],
)
def test_the_work_of_a_batch_is_what_is_counted(family, options, video, tiny_model, tmp_path):
    _, prepared, data = opened(family, tiny_model, tmp_path, **options)
    batch = other_batch(data, video=video)
    prepared.module.eval()  # nothing is computed twice
    counted = computed_batch(prepared.module, batch)
    assert prepared.module.count_tokens(batch)["work"] == pytest.approx(counted, rel=0.02)
    assert all(one.grad is None for one in prepared.module.parameters() if not one.requires_grad)


def test_counting_leaves_no_trace(tiny_model, tmp_path):
    config = PretrainConfig(calibrate="none")
    plain = prepare(tiny_model("qwen2_vl"), config).module
    _, counted, _ = opened("qwen2_vl", tiny_model, tmp_path)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    counting.measure_work(counted.module, lambda *_: counted.module.dummy_batch() | {"identities": []}, counted.geometry)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(one.grad is None for one in counted.module.parameters())
    assert all(torch.equal(left, right) for left, right in zip(plain.parameters(), counted.module.parameters(), strict=True))


def test_numbers_have_values_and_an_identity_as_wide_as_a_layer_has_none():
    made = []

    def run():
        made.extend((torch.arange(3, device="meta"), torch.eye(3, device="meta")))
        return torch.zeros(1)

    counting.count(torch.nn.Identity(), run)
    assert [one.device.type for one in made] == ["cpu", "meta"]


def test_what_looks_alike_is_counted_once_in_a_process(tiny_model, tmp_path, monkeypatch):
    config, first, data = opened("qwen2_vl", tiny_model, tmp_path, calibrate="none")
    batch, module = other_batch(data), prepare(tiny_model("qwen2_vl"), config).module
    wanted, calls = counting.count_batch(first.module, batch), []
    monkeypatch.setattr(counting, "count", lambda *_: calls.append(1) or counting.Operations())
    assert counting.count_batch(module, batch) == wanted
    assert not calls
    next(one for one in module.parameters()).requires_grad_(requires_grad=False)
    counting.count_batch(module, batch)
    counting.count_batch(module.eval(), batch)
    counting.count_batch(module, batch | {"labels": torch.full_like(batch["labels"], -100)})
    assert len(calls) == 3


def test_seconds_are_measured_once_and_stay_with_the_run(tiny_model, tmp_path, monkeypatch):
    def slow(task, tried, device, *, half):
        image = PatchGeometry(task.model.config.image_token_id, ())
        return [
            0.1 * batch["labels"].numel() + 0.2 * counting.count_pictures(batch, image)[0] + 0.5 * counting.count_pictures(batch, image)[1]
            for batch in tried
        ]

    monkeypatch.setattr(counting, "_seconds", slow)
    _, _, first = opened("qwen2_vl", tiny_model, tmp_path, calibrate="time")
    monkeypatch.setattr(counting, "_seconds", lambda *_, **__: pytest.fail("measured again"))
    _, _, again = opened("qwen2_vl", tiny_model, tmp_path, calibrate="time")
    assert (again.epochs.costs.extra == first.epochs.costs.extra).all()
    (path,) = (tmp_path / "run" / "tables").glob("work-*.json")
    assert json.loads(path.read_text())["cost"] == {"image_token": 3.0, "image": 5.0}


def test_costs_of_image_tokens_and_of_pictures_are_told_apart_where_pictures_differ():
    def row(*pictures, words):
        shown = [token for count in pictures for token in ([1] * count + [2])]
        ids = torch.tensor([shown + [3] * words])
        return {"inputs": {"input_ids": ids}, "labels": ids}

    tried = [row(words=9), row(words=30), row(4, words=5), row(16, words=7), row(4, 4, 4, words=20)]
    seconds = [
        0.1 * one["labels"].numel() + 0.2 * tokens + 0.5 * count for one in tried for tokens, count in [counting.count_pictures(one, ONES)]
    ]
    assert counting.cost_weights(tried, seconds, ONES) == CostWeights(3.0, 5.0)
    same = [row(words=9), row(words=30), row(4, words=5), row(4, 4, words=7)]  # then a picture's cost is told as that of its tokens
    seconds = [
        0.1 * one["labels"].numel() + 0.2 * tokens + 0.5 * count for one in same for tokens, count in [counting.count_pictures(one, ONES)]
    ]
    assert counting.cost_weights(same, seconds, ONES) == CostWeights(4.25, 0.0)
    cheap = [0.1 * one["labels"].numel() - 0.01 * counting.count_pictures(one, ONES)[0] for one in tried]
    assert counting.cost_weights(tried, cheap, ONES) == CostWeights(1.0, 0.0)  # a picture is never made cheaper than words


def test_rows_too_short_for_any_trial_leave_work_and_costs_unknown(tiny_model, tmp_path):
    prepared = prepare(tiny_model("qwen2_vl"), config := PretrainConfig())

    def refuse(name, document):
        raise ContentError("too long")

    assert _work(config, prepared, refuse, tmp_path) == CostWeights()
    assert prepared.module.count_work is None


def test_costs_that_are_given_are_taken(tiny_model, tmp_path):
    given = CostWeights(7.0, 11.0)
    prepared = prepare(tiny_model("qwen2_vl"), config := PretrainConfig(cost=given))
    make = lambda *_: prepared.module.dummy_batch() | {"identities": []}  # noqa: E731
    assert _work(config, prepared, make, tmp_path) == given
    assert prepared.module.count_work is not None


def test_nothing_is_counted_where_that_is_not_wanted(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "count", lambda *_, **__: pytest.fail("counted"))
    _, prepared, data = opened("qwen2_vl", tiny_model, tmp_path, calibrate="none")
    assert "work" not in prepared.module.count_tokens(other_batch(data))


def test_a_base_is_proved_without_the_adapters_that_are_to_train(tiny_model, monkeypatch):
    prepared = prepare(tiny_model("qwen2_vl"), PretrainConfig(lora=AdapterConfig(r=2, use_dora=True)))
    train = [name for name, one in prepared.module.named_parameters() if one.requires_grad]
    with monkeypatch.context() as patch:
        patch.setattr(DoraLinearLayer, "forward", lambda *_, **__: pytest.fail("computed with DoRA"))
        require(prepared)
    assert [name for name, one in prepared.module.named_parameters() if one.requires_grad] == train
    monkeypatch.setattr(DoraLinearLayer, "forward", lambda *_, **__: (_ for _ in ()).throw(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):  # and it is there again
        prepared.start.model(input_ids=torch.tensor([[1, 2]]))


def test_the_log_says_share_of_peak_and_imbalance():
    meter = Meter(CPU, "float32", ranks=2)
    meter.add({"rows": 4, "tokens": 40, "padding": 0, "work": 3e6, "longest": 4e6})
    entry = meter.entry(1, 2, {})
    assert entry["imbalance"] == 0.25
    assert entry["peak_share"] > 0
    meter.add({"rows": 4, "tokens": 40, "padding": 0, "work": 0.0, "longest": 0.0})
    assert "peak_share" not in meter.entry(2, 2, {})
