"""A step waits for its device once, whatever it has of batches, and what libraries wait for is known."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

import masked
from contrastive_toy import ROWS, load
from documents import document, noise
from far_device import DEVICE, Far, Waits, moved
from twoway.data.config import MaskingConfig
from twoway.methods.bridge import method
from twoway.methods.bridge.config import BridgeConfig
from twoway.methods.bridge.rows import BridgeEncoder, collate_bridge, mask_target
from twoway.methods.config import AdapterConfig
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.method import prepare
from twoway.models import kernels, loading
from twoway.training import distributed as between
from twoway.training import trainer as trainers
from twoway.training.config import TrainConfig
from twoway.training.module import to_device

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from twoway.training.module import Batch, TrainingModule


def test_the_stand_in_is_seen() -> None:
    """What counts and what does not."""
    cpu = torch.arange(6.0)
    with Waits() as waits:
        far = cpu.to(DEVICE, non_blocking=True)
        assert isinstance(far, Far)
        assert isinstance(far * 2 + torch.ones(6, device=DEVICE), Far)
        assert isinstance(far.view(2, 3)[0], Far)
        assert not waits.found
        assert float(far.sum()) == 15
        assert bool((far > 1).any())
        assert far.tolist() == cpu.tolist()
        assert far.cpu().tolist() == cpu.tolist()
        assert len(far[far > 2]) == 3
        assert len(far.nonzero()) == 5
        cpu.to(DEVICE)
        torch.tensor([1.0], device=DEVICE)
    assert sum(waits.found.values()) == 8, waits.found


def step(task: TrainingModule, batches: Sequence[Batch], out: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Waits, dict[str, Any]]:
    """Make two steps on the stand-in; return the waits of the second, and what would be logged."""

    def far_ranks(ranks: Any, *_: Any) -> None:
        ranks.device, ranks.rank, ranks.world_size = DEVICE, 0, 1

    def share(_ranks: Any, task: TrainingModule, _parallel: Any, _dtype: str) -> TrainingModule:
        moved(task)
        return task

    monkeypatch.setattr(between.Ranks, "__init__", far_ranks)
    monkeypatch.setattr(between.Ranks, "wrap", share)
    monkeypatch.setattr(between.Ranks, "barrier", lambda _: None)
    # The fused optimizer is one operator of a real device, which waits for nothing.
    monkeypatch.setattr(trainers, "_optimizer", lambda parameters, config: torch.optim.SGD(parameters, lr=config.learning_rate))
    with Waits():
        trainer = trainers.Trainer(task, TrainConfig(dtype="float32", learning_rate=1e-3), out, total_steps=9, ranks=between.Ranks())
    trainer.module.train()
    for _ in range(2):  # a tower's borders are read in its first pass, to see that they are what the sizes of its pictures say
        with Waits() as waits:
            numbers = trainer.count_targets(batches)
            trainer.train_step(batches, numbers)
    return waits, trainer.meter.entry(2, 9, task.loss_weights)


BORDERS = ("twoway/models/kernels.py:_numbers", "numbers are read")


def check(waits: Waits) -> None:
    """One wait is ours: the numbers of the step, in one copy. No batch and no chunk of it has one of its own."""
    for (where, what), count in sorted(waits.theirs().items()):
        sys.stdout.write(f"{where}: {what}, {count} times\n")  # pytest -s
    assert waits.ours() == {("twoway/training/module.py:read_tensors", "a copy to the CPU"): 1}, waits.ours()


@pytest.mark.parametrize(
    ("ways", "count"),
    [({}, 3), ({"masked_patches": "skip"}, 3), ({"masked_patches": "drop"}, 3), ({"lora": {"r": 2}}, 3)],
    ids=["noise", "skip", "drop", "lora"],
)
def test_pre_training(
    ways: dict[str, Any], count: int, tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "lora" in ways:
        ways = {"lora": AdapterConfig(r=2)}
    prepared = prepare(tiny_model("qwen2_5_vl"), PretrainConfig(dtype="float32", **ways))
    kinds = ("both", "image", "text")[:count]
    batches = [masked.batch_of(prepared, kind, words=0.5, patches=0.5) for kind in kinds]
    waits, entry = step(prepared.module, batches, tmp_path, monkeypatch)
    check(waits)
    assert entry["mlm"] > 0
    assert entry["mae"] > 0
    # The library's are there, and are named; a wait for each layer of the tower would be more than these.
    assert all(one[0].startswith(("transformers/", "torch/", "peft/")) for one in waits.theirs()), waits.theirs()


@pytest.mark.parametrize(
    ("options", "hold"),
    [({}, 0.0), ({"learn_temperature": True, "symmetric": True, "margin": 0.1}, 1e9), ({"negatives": "own"}, 1e9)],
    ids=["twice", "kept, with options", "kept, own negatives"],
)
def test_fine_tuning(
    options: dict[str, Any], hold: float, tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, batch = load(tiny_model("qwen2_5_vl"), hold=hold, **options)
    batches = [batch(ROWS[:2]), batch(ROWS[4:])]
    kernels.use_kernels(task.model)
    waits, entry = step(task, batches, tmp_path, monkeypatch)
    check(waits)
    assert entry["contrastive"] > 0
    assert 0 <= entry["accuracy"] <= 1


def test_the_bridge(tiny_encoder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = method.prepare(tiny_encoder("qwen2_5_vl"), BridgeConfig(dtype="float32"))
    encode = BridgeEncoder(prepared.processor, prepared.geometry, max_length=200, max_target=30)
    options = {"config": MaskingConfig(words=0.7, patches=0.0), "mask_token": prepared.token.id, "geometry": prepared.geometry}
    rows = [
        document(noise(28, 28), "a caption of a picture"),
        document("what is it?", noise(28, 28, seed=1), "an answer"),
        document("two halves"),
    ]
    made = [mask_target(encode(str(number), row), epoch=0, seed=0, **options) for number, row in enumerate(rows)]
    batches = [collate_bridge(some, pad_token=prepared.pad_token, padding_side="left") for some in (made[:2], made[2:])]
    waits, entry = step(prepared.module, batches, tmp_path, monkeypatch)
    check(waits)
    assert entry["bridge"] > 0


def test_a_tower_reads_no_borders(tiny_model: Callable[[str], Path]) -> None:
    """By the library three times a layer; by us in the first pass alone, where the sizes of the pictures are known on the CPU."""
    model = moved(loading.inner(loading.load_model(tiny_model("qwen2_5_vl"), dtype="float32").model))
    tower = model.get_encoder(modality="image")
    kernels.use_kernels(model)
    grids = torch.tensor([[1, 12, 20], [1, 6, 10]])
    pixels = torch.randn(int(grids.prod(1).sum()), tower.patch_embed.proj.weight[0].numel())
    modeling = "transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py:Qwen2_5_VLVisionAttention.forward"

    def run(name: str, *, known: bool) -> Waits:
        tower.config._attn_implementation = name
        with Waits() as waits:
            there = to_device({"grids": grids, "pixels": pixels}, DEVICE) if known else {"grids": Far(grids), "pixels": Far(pixels)}
            tower(there["pixels"], grid_thw=there["grids"])
        return waits

    assert run("sdpa", known=True).found[modeling, "numbers are read"] == 3 * len(tower.blocks)
    for known, reads in ((False, 2), (False, 2), (True, 2), (True, 0), (False, 2)):
        waits = run(kernels.GROUPED, known=known)
        assert waits.found[modeling, "numbers are read"] == 0
        assert waits.ours() == ({BORDERS: reads} if reads else {}), (known, waits.ours())
