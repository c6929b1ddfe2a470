"""`auto` is the type that the machine is fast in, the same on all ranks; a run keeps the one it began in, and no fingerprint is over it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from tools.nano_base.config import NanoConfig

from cut_off import cut_off, same_bits
from tools.nano_base import base
from toy_training import train_toy
from twoway.errors import UsageError
from twoway.methods.bridge.config import BridgeConfig
from twoway.methods.finetune.config import FinetuneConfig
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.method import pretrain
from twoway.models import checkpoint
from twoway.recipes.recipe import read_recipe
from twoway.recipes.records import plan_jobs
from twoway.training import precision
from twoway.training.checkpointing import read_run
from twoway.training.precision import DtypeChoice, choose_dtype, resolve_dtype, speed_ratio
from twoway.training.progress import read_log

ROOT, CPU = Path(__file__).parents[2], torch.device("cpu")
USUAL = {
    "max_steps": 4,
    "save_steps": 2,
    "seed": 1,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 3,
    "dataloader_num_workers": 0,
    "held_out": 0,
}


@pytest.fixture
def machine(monkeypatch):
    """Return what makes this machine one that is fast in a type."""

    def become(dtype):
        monkeypatch.setattr(precision, "_measured", lambda: DtypeChoice(dtype, f"{dtype} is said to be fast"))

    return become


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"parts": [{"text": f"row {number} is {'very ' * number}good"}]}) + "\n" for number in range(9)))
    return path


def test_every_training_has_auto_unless_it_is_told_otherwise():
    assert {config().dtype for config in (PretrainConfig, BridgeConfig, FinetuneConfig, NanoConfig)} == {"auto"}
    for path in [*ROOT.glob("recipes/*.yaml"), *ROOT.glob("studies/**/*.yaml"), ROOT / "examples" / "demo.py"]:
        assert set(re.findall(r"\bdtype[:=] *(\w+)", path.read_text(encoding="utf-8"))) <= {"auto"}, path


@pytest.mark.parametrize(("ratio", "dtype"), [(0.02, "float32"), (1.0, "float32"), (1.3, "float32"), (1.9, "bfloat16"), (8.0, "bfloat16")])
def test_bfloat16_has_to_be_clearly_faster(monkeypatch, ratio, dtype):
    precision._measured.cache_clear()
    monkeypatch.setattr(precision, "speed_ratio", lambda: ratio)
    assert choose_dtype(CPU).dtype == dtype
    assert f"{ratio:g} times" in choose_dtype(CPU).why
    precision._measured.cache_clear()


def test_what_is_measured_is_stable_and_leaves_the_threads_alone():
    threads = torch.get_num_threads()
    assert len({speed_ratio() >= precision.MARGIN for _ in range(4)}) == 1
    assert torch.get_num_threads() == threads


def test_an_accelerator_is_asked_for_bfloat16_of_its_own(monkeypatch):
    for own, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, own=own: own or including_emulation)
        assert choose_dtype(torch.device("cuda")).dtype == dtype
    assert choose_dtype(torch.device("meta")).dtype == "float32"


def test_the_first_rank_decides(machine):
    class Second:
        """A rank on a machine that is fast in another type than the first one's."""

        device, is_main_process = CPU, False

        def all_gather_object(self, mine):
            assert mine is None
            return ["float32", mine]

    machine("bfloat16")
    assert resolve_dtype(PretrainConfig(), Second()).dtype == "float32"
    assert resolve_dtype(PretrainConfig(dtype="bfloat16"), Second()).dtype == "bfloat16"


def test_a_run_goes_on_in_the_type_it_began_in_and_says_so(tiny_model, rows, tmp_path, machine, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    machine("float32")
    pretrain(tiny_model("qwen2_vl"), whole, [str(rows)], dtype="float32", **USUAL)
    with cut_off(4):
        pretrain(tiny_model("qwen2_vl"), cut, [str(rows)], **USUAL)
    assert "computing in float32 (float32 is said to be fast)" in capsys.readouterr().err
    assert read_run(cut)["config"]["dtype"] == "float32"
    machine("bfloat16")
    pretrain(tiny_model("qwen2_vl"), cut, [str(rows)], **USUAL)
    assert "computing in float32, as this run began (bfloat16 would be faster here" in capsys.readouterr().err
    same_bits(cut / "model.safetensors", whole / "model.safetensors")
    assert {line["dtype"] for line in read_log(cut)} == {"float32"}
    assert checkpoint.read_card(cut)["chain"][-1]["options"]["dtype"] == "float32"
    assert "dtype=float32" in (cut / "README.md").read_text()
    # Done is done, whatever this machine is fast in; another type that is asked for is another run.
    assert pretrain(tiny_model("qwen2_vl"), cut, [str(rows)], **USUAL).resumed == 4
    with pytest.raises(UsageError, match=r'config\.dtype was "float32" and is "bfloat16"'):
        pretrain(tiny_model("qwen2_vl"), cut, [str(rows)], dtype="bfloat16", **USUAL)


def test_auto_computes_in_the_type_that_is_chosen(tmp_path, machine):
    for dtype in ("float32", "bfloat16"):
        machine(dtype)
        told, chosen = (train_toy(tmp_path / f"{name}-{dtype}", 2, dtype=name) for name in (dtype, "auto"))
        assert chosen.config.dtype == dtype
        assert all(torch.equal(one, chosen.parameters[name]) for name, one in told.parameters.items())
    assert read_log(tmp_path / "auto-float32")[-1]["loss"] != read_log(tmp_path / "auto-bfloat16")[-1]["loss"]


def test_no_fingerprint_is_over_the_machine(tmp_path, tiny_model, rows, machine):
    path = tmp_path / "recipe.yaml"
    whole = {"base": str(tiny_model("qwen2_vl")), "data": [{"spec": str(rows)}], "stages": {"convert": {}, "pretrain": {}, "finetune": {}}}
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    found = []
    for dtype in ("float32", "bfloat16"):
        machine(dtype)
        found.append([job.fingerprint for job in plan_jobs(read_recipe(path, ()))])
    assert found[0] == found[1]


def test_the_nano_base_keeps_its_type_too(monkeypatch, tmp_path, machine):
    world = SimpleNamespace(concepts=(), styles=(), texts=())
    began, nano = [], SimpleNamespace(world=world, forward=None, rows=None)
    monkeypatch.setattr(base, "prepare", lambda config, _samples: began.append(config.dtype) or nano)
    monkeypatch.setattr(base, "train", lambda *_, **__: None)
    for dtype in ("float32", "bfloat16"):
        machine(dtype)
        base.train_base(NanoConfig(tables=(), tower_rows=0), tmp_path, tmp_path / "run")
    assert began == ["float32", "float32"]
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["config"]["dtype"] == "float32"
