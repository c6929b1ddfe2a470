"""Operations told from a config are those that torch counts while the model computes, forward and backward."""

from __future__ import annotations

import pytest
import torch

from counted import computed_batch
from twoway.data.patches import PatchGeometry
from twoway.losses.masked_lm import NO_TARGET
from twoway.losses.masked_patches import PatchDecoder
from twoway.methods.config import AdapterConfig
from twoway.methods.counting import Load, PictureGrid, StageWork, stage_module
from twoway.methods.model import apply_memory_options, choose_trainable
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.step import Reconstruction, VisibleTower
from twoway.models import loading, processor
from twoway.models.attention import set_attention
from twoway.models.vision import VisiblePatches

# Words of the two rows, and the image tokens down and across of the first row's picture.
TEXT, DOWN, ACROSS, WORDS, PATCHES = (14, 50), 4, 3, 7, 5
LENGTH = TEXT[0] + DOWN * ACROSS
LORA = {"r": 4, "parts": ("language", "tower")}
OPTIONS = {
    "whole": {},
    "tower frozen": {"freeze_tower": True},
    "one layer": {"train_layers": 1},
    "computed again": {"gradient_checkpointing": True},
    "adapters": {"lora": AdapterConfig(**LORA, lora_dropout=0.0)},
    "adapters of words": {"lora": AdapterConfig(r=4, lora_dropout=0.1)},
    "adapters of named layers": {"lora": AdapterConfig(r=4, lora_dropout=0.0, target_modules=("q_proj", "o_proj", "down_proj"))},
    "patches dropped": {"masked_patches": "drop"},
    "as in CoCoA": {"lora": AdapterConfig(**LORA, use_dora=True, lora_dropout=0.1), "gradient_checkpointing": True},
}


# Every option on one family, and on the others those that meet other code.
CASES = [("qwen2_5_vl", name) for name in OPTIONS]
CASES += [(family, name) for family in ("qwen2_vl", "qwen3_vl") for name in ("whole", "computed again", "patches dropped")]


def reconstruction(folder, config):
    """A task that restores words and patches, as pre-training makes it."""
    torch.manual_seed(0)
    model, parts = loading.load_model(folder, dtype="float32").model, processor.load_processor(folder)
    set_attention(model, "two-way")
    values = PatchGeometry.of(model.config, parts).values
    drop = config.masked_patches == "drop"
    decoder = PatchDecoder(model.get_decoder(), values=values, depth=1, mask_state=drop)
    choose_trainable(model, config)
    tower = VisibleTower(VisiblePatches(model), model.config.image_token_id, 0) if drop else None
    task = Reconstruction(model, decoder, mlm_weight=1.0, mae_weight=0.5, shift=False, visible_tower=tower, drop=drop)
    apply_memory_options(config, [model, decoder.body], [])
    return task.train()


def batch(model, rows):
    """Rows of ids, the first with one picture; `rows` says which of them there are."""
    config, vision = model.config, model.config.vision_config
    merge = vision.spatial_merge_size
    made = [torch.arange(5, 5 + TEXT[0]), torch.arange(5, 5 + TEXT[1])]
    start, image = torch.tensor([config.vision_start_token_id]), torch.full((DOWN * ACROSS,), config.image_token_id)
    made[0] = torch.cat([made[0][1:], start, image])
    ids = torch.stack([made[0]]) if rows == "picture" else torch.stack([made[1]])
    labels = torch.full_like(ids, NO_TARGET)
    labels[:, :WORDS] = ids[:, :WORDS]
    mask = torch.zeros_like(ids, dtype=torch.bool)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    size = 3 * vision.temporal_patch_size * vision.patch_size**2
    if rows == "picture":
        mask[:, -PATCHES:] = True
        inputs["pixel_values"] = torch.randn(DOWN * ACROSS * merge**2, size)
        inputs["image_grid_thw"] = torch.tensor([[1, DOWN * merge, ACROSS * merge]])
        inputs["mm_token_type_ids"] = (ids == config.image_token_id).long()
    return {"inputs": inputs, "labels": labels, "patch_mask": mask, "patch_targets": torch.zeros(int(mask.sum()), size * merge**2)}


@pytest.mark.parametrize(("family", "name"), CASES)
def test_the_operations_of_a_row_are_those_that_are_counted(family, name, tiny_model):
    folder = tiny_model(family)
    config = PretrainConfig(dtype="float32", **OPTIONS[name])
    task, base = reconstruction(folder, config), loading.load_config(folder)
    work = StageWork(stage_module(base, config, values=PictureGrid.of("", base).values), base, masked=PATCHES / (DOWN * ACROSS))
    picture = Load(1, TEXT[0], 1, DOWN * ACROSS, words=WORDS, patches=PATCHES)
    for rows, load in {"picture": picture, "words": Load(1, TEXT[1], words=WORDS)}.items():
        assert work.of([load]).total == pytest.approx(computed_batch(task, batch(task.model, rows)), rel=0.02), rows
