"""Ranks share one task a step, and end with the model of one process; a run that is killed, however often, ends with the same bits."""

from __future__ import annotations

import json
import multiprocessing
import random

import pytest
import torch
from safetensors.torch import load_file

from pair_ranks import note_tasks
from pair_toys import USUAL, pair_file, tune
from twoway.methods.finetune.method import finetune
from twoway.training.distributed import launch
from twoway.training.progress import read_log

pytestmark = [pytest.mark.xdist_group("ranks"), pytest.mark.usefixtures("quick_ranks")]
KILLS = 20


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return pair_file(tmp_path_factory.mktemp("pairs"))


def test_two_ranks_have_rows_of_one_task_in_every_step(rows, tmp_path):
    launch(2, note_tasks, rows, tmp_path / "seen.json", 40)
    steps = json.loads((tmp_path / "seen.json").read_text())
    assert len(steps) == 40
    for left, right in steps:
        assert left
        assert right
        assert len({task for task, _ in left + right}) == 1
        assert not {row for _, row in left} & {row for _, row in right}
    assert {task for (task, _), *_ in (left for left, _ in steps)} == {"colour", "same", "words"}


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_ranks_make_the_model_of_one(tiny_model, rows, tmp_path, parallel):
    options = USUAL | {"batches_per_step": 2, "parallel": parallel}
    finetune(tiny_model("qwen2_vl"), tmp_path / "one", [str(rows)], **options)
    finetune(tiny_model("qwen2_vl"), tmp_path / "two", [str(rows)], nproc=2, **options)
    ours, theirs = ([line for line in read_log(tmp_path / name) if line["step"]] for name in ("two", "one"))
    for name in ("loss", "accuracy", "mrr/held-out"):
        found, expected = ([line[name] for line in lines if name in line] for lines in (ours, theirs))
        assert expected
        assert found == pytest.approx(expected, rel=1e-3)
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_at_random_end_with_the_same_weights(tiny_model, rows, tmp_path):
    forks = multiprocessing.get_context("forkserver")
    base, options = tiny_model("qwen2_vl"), USUAL | {"max_steps": 120, "save_steps": 1, "dataloader_num_workers": 1}
    tune(base, tmp_path / "whole", rows, options)
    draw, kills = random.Random(0), 0
    while not (tmp_path / "cut" / "twoway.json").exists():
        child = forks.Process(target=tune, args=(base, tmp_path / "cut", rows, options))
        child.start()
        child.join(draw.uniform(0.5, 6.0) if kills < KILLS else None)
        if child.is_alive():
            child.kill()
            kills += 1
        child.join()
    assert kills == KILLS
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(left[key], right[key]) for key in left)
    losses = [[(line["step"], line.get("loss")) for line in read_log(tmp_path / name)] for name in ("whole", "cut")]
    assert losses[0] == losses[1]
