"""Which pixels a token covers: held against the towers themselves, in nine families."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from transformers import AutoModelForImageTextToText

from documents import document, family, noise
from tiny import FAMILIES
from twoway.content import ContentError, Place
from twoway.data.config import MaskingConfig
from twoway.data.masking import NO_TARGET, mask_inputs
from twoway.data.patches import PatchGeometry, TileGrid, find_grid, line_places, overview_cells, ramp, tile_cells
from twoway.errors import TwowayError
from twoway.reports.training import to_pictures

TILED = ("idefics3", "smolvlm", "llava_onevision", "internvl")


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture
def each(name, tiny_model):
    return family(tiny_model(name))


@pytest.fixture(params=["one picture", "two pictures"])
def row(request, each):
    parts = [noise(), "text"] if request.param == "one picture" else ["text", noise(), "and", noise(70, 30, 1)]
    example = each.encoder()("a#1", document(*parts))
    return example, each.geometry.places(example.inputs, example.pictures, example.grids)


def everything(fam, inputs):
    return fam.geometry.take(inputs, np.arange(fam.geometry.units(inputs)))


def test_the_units_are_the_pixels_in_another_order(each, row):
    inputs = row[0].inputs
    pixels = inputs["pixel_values"]
    numbered = {**inputs, "pixel_values": torch.arange(pixels.numel(), dtype=torch.float64).view(pixels.shape)}
    assert torch.equal(everything(each, numbered).flatten().sort().values, torch.arange(pixels.numel(), dtype=torch.float64))
    again = each.geometry.put({**inputs, "pixel_values": pixels * 0}, np.arange(each.geometry.units(inputs)), everything(each, inputs))
    assert torch.equal(again["pixel_values"], pixels)


def test_put_changes_these_units_and_nothing_else(each, row):
    example, found = row
    units = found.units[found.units >= 0][::3]
    new = torch.randn(len(units), each.geometry.values)
    before = everything(each, example.inputs)
    changed = each.geometry.put(example.inputs, units, new)
    assert torch.equal(each.geometry.take(changed, units), new)
    others = np.setdiff1d(np.arange(len(before)), units)
    assert torch.equal(everything(each, changed)[others], before[others])
    assert torch.equal(everything(each, example.inputs), before)
    assert {key for key in changed if changed[key] is not example.inputs[key]} == {"pixel_values"}


def test_a_tokens_feature_depends_on_its_unit_and_no_other(name, each, row, tiny_model):
    """With attention silenced in the tower, changing one unit's pixels moves the feature of the token that stands for it alone."""
    example, found = row
    model = AutoModelForImageTextToText.from_pretrained(tiny_model(name), dtype=torch.float32).eval()
    for part, module in model.get_encoder(modality="image").named_modules():
        if re.search(r"(^|\.)(attn|self_attn|attention)$", part):
            module.register_forward_hook(lambda _module, _args, out: (out[0] * 0, *out[1:]) if isinstance(out, tuple) else out * 0)

    def features(inputs):
        given = {key: value for key, value in inputs.items() if key not in each.geometry.token_keys}
        with torch.no_grad():
            out = model.get_image_features(**given, return_dict=True).pooler_output
        return torch.cat([one.reshape(-1, one.shape[-1]) for one in out])

    before = features(example.inputs)
    assert len(before) == len(found.units)
    for token in range(0, len(before), 3):
        unit = found.units[token : token + 1]
        if unit[0] < 0:
            continue
        changed = each.geometry.put(example.inputs, unit, torch.randn(1, each.geometry.values))
        moved = (features(changed) - before).abs().amax(1) > 1e-6
        assert moved.nonzero().flatten().tolist() == [token]


def test_tokens_without_pixels_have_no_unit(name, row):
    _, found = row
    if name == "llava_onevision":
        assert (found.units < 0).any()
    else:
        assert (found.units >= 0).all()
    shown = found.units[found.units >= 0]
    assert len(set(shown.tolist())) == len(shown)


def test_pictures_do_not_share_units(each, row):
    example, found = row
    numbers = example.pictures.numpy()
    sets = [set(found.units[(numbers == number) & (found.units >= 0)].tolist()) for number in np.unique(numbers)]
    assert sum(map(len, sets)) == len(set().union(*sets))


@pytest.mark.parametrize("tiled", TILED)
def test_what_shows_the_same_part_of_a_picture_has_one_cell(tiled, tiny_model):
    """Blacken the quarter that one cell of the overview shows: the units that change are, but for the rim, that cell's."""
    fam = family(tiny_model(tiled))
    # Smooth, so that tiles and overview are alike; wide, so that rows and columns cannot be mistaken for one another.
    ramp = np.linspace(60, 250, 112 * 56 * 3).reshape(56, 112, 3) + 30 * np.sin(np.arange(112) / 9)[None, :, None]
    whole = np.clip(ramp, 20, 255).astype(np.uint8)
    dark = whole.copy()
    dark[:28, 56:] = 0
    one, two = (fam.encoder()("a#1", document(PILImage.fromarray(pixels))) for pixels in (whole, dark))
    found = fam.geometry.places(one.inputs, one.pictures, one.grids)
    real = found.units >= 0
    assert real.sum() > 4
    change = (fam.geometry.take(one.inputs, found.units[real]) - fam.geometry.take(two.inputs, found.units[real])).abs().mean(1).numpy()
    changed = change > 0.5 * change.max()
    assert set(found.cells[real][changed].tolist()) == {1}
    assert (found.cells[real][~changed] != 1).all()
    assert changed.sum() > 1


def test_cells_of_even_grids_are_whole_blocks():
    assert overview_cells(2, 4, 4).tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2
    assert overview_cells(2, 2, 2).tolist() == [[0, 1], [2, 3]]
    assert overview_cells(3, 1, 6).tolist() == [[3, 3, 4, 4, 5, 5]]


def test_tiles_without_an_overview_are_each_their_own():
    torch.manual_seed(0)
    assert find_grid(torch.randn(5, 3, 28, 28), 2) is None
    assert tile_cells(5, 2, None).tolist() == list(range(20))


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("columns", [2, 3, 4])
@pytest.mark.parametrize("last", [True, False])
def test_a_grid_is_found_from_a_ramp(rows, columns, last):
    whole = torch.from_numpy(np.array(ramp(28 * columns, 28 * rows))).permute(2, 0, 1).float() / 127.5 - 1
    tiles = whole.reshape(3, rows, 28, columns, 28).permute(1, 3, 0, 2, 4).reshape(-1, 3, 28, 28)
    small = torch.nn.functional.interpolate(whole[None], (28, 28), mode="bilinear", antialias=True)
    found = find_grid(torch.cat([tiles, small] if last else [small, tiles]), 2)
    assert found == TileGrid(len(tiles) if last else 0, rows, columns)


def test_resampled_features_are_refused():
    with pytest.raises(TwowayError, match="tied to its pixels"):
        line_places((300, 400), ((56, 56),), 28, 2, 11)


@pytest.mark.parametrize("whole", [name for name in FAMILIES if name not in ("idefics3", "smolvlm")])  # those enlarge every picture
def test_pixels_come_back_as_the_picture(whole, tiny_model):
    """A picture that needs no resizing comes back bit by bit."""
    fam = family(tiny_model(whole))
    many = 1 if fam.geometry.side else 2
    side = fam.geometry.patch * round(fam.geometry.patches**0.5) * (fam.geometry.side or 1)
    picture = noise(many * side, side)
    example = fam.encoder()("a#1", document(picture))
    shown = to_pictures(fam.geometry, example.inputs, fam.processor.image_processor)
    assert np.array_equal(np.asarray(shown[0]), np.asarray(picture))
    assert to_pictures(fam.geometry, {}, fam.processor.image_processor) == []


def test_pixels_that_are_no_grid_stop_masked_patches_and_not_masked_words(tiny_model):
    fam = family(tiny_model("gemma3"))
    changed = type(fam.config).from_dict(fam.config.to_dict())
    changed.image_token_id = 0  # stands for no picture
    geometry = PatchGeometry.of(changed, fam.processor)
    with pytest.raises(TwowayError, match=r"not a square grid.*mae_weight=0"):
        assert geometry.values
    example = fam.encoder()("a#1", document("some text", noise()))
    settings = {"seed": 0, "epoch": 0, "mask_token": 3, "geometry": geometry}
    assert (mask_inputs(example, MaskingConfig(patches=0), **settings).labels != NO_TARGET).any()
    with pytest.raises(TwowayError, match="not a square grid"):
        mask_inputs(example, MaskingConfig(), **settings)


def test_a_row_whose_tokens_and_pixels_differ_is_an_error_with_its_place(tiny_model):
    fam = family(tiny_model("gemma3"))
    example = fam.encoder()("a#1", document(noise()))
    wrong = dataclasses.replace(example, pictures=example.pictures[:-1], place=Place("rows.jsonl", 7))
    with pytest.raises(ContentError, match=r"rows.jsonl:7: 3 image tokens do not cover"):
        mask_inputs(wrong, MaskingConfig(), seed=0, epoch=0, mask_token=3, geometry=fam.geometry)


def test_a_text_model_has_no_geometry(tiny_model):
    import transformers

    with pytest.raises(TwowayError, match="no image token"):
        PatchGeometry.of(transformers.AutoConfig.from_pretrained(tiny_model("llama")), None)


def test_the_sizes_are_the_configs(each):
    vision, geometry = each.config.vision_config, each.geometry
    assert geometry.patch == np.max(vision.patch_size)
    assert geometry.frames == getattr(vision, "temporal_patch_size", 1)
    assert geometry.values == geometry.channels * geometry.frames * geometry.patch**2 * geometry.patches
    if hasattr(vision, "spatial_merge_size"):
        assert geometry.patches == vision.spatial_merge_size**2
    else:
        assert (geometry.side * geometry.patch) ** 2 * geometry.patches == np.max(vision.image_size) ** 2
