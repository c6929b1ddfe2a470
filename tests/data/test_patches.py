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
from twoway.data.patches import PatchGeometry
from twoway.data.pixels import pictures
from twoway.data.views import Grid, find_grid, line_places, overview_cells, ramp, tile_cells
from twoway.errors import TwowayError

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


def test_the_table_of_units_is_the_pixels_in_another_order(each, row):
    inputs = row[0].inputs
    table = each.geometry.table(inputs)
    assert table.shape[1] == each.geometry.values
    assert torch.equal(each.geometry.restore(inputs, table)["pixel_values"], inputs["pixel_values"])
    numbered = {**inputs, "pixel_values": torch.arange(table.numel()).float().view(inputs["pixel_values"].shape)}
    assert torch.equal(each.geometry.table(numbered).flatten().sort().values, torch.arange(table.numel()).float())


def test_put_changes_these_units_and_nothing_else(each, row):
    example, found = row
    units = found.units[found.units >= 0][::3]
    new = torch.randn(len(units), each.geometry.values)
    before = each.geometry.table(example.inputs).clone()
    changed = each.geometry.put(example.inputs, units, new)
    assert torch.equal(each.geometry.take(changed, units), new)
    others = np.setdiff1d(np.arange(len(before)), units)
    assert torch.equal(each.geometry.table(changed)[torch.from_numpy(others)], before[torch.from_numpy(others)])
    assert torch.equal(each.geometry.table(example.inputs), before)
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
    assert found == Grid(len(tiles) if last else 0, rows, columns)


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
    shown = pictures(fam.geometry, example.inputs, fam.processor.image_processor)
    assert np.array_equal(np.asarray(shown[0]), np.asarray(picture))
    assert pictures(fam.geometry, {}, fam.processor.image_processor) == []


def test_pixels_that_are_no_grid_are_refused(tiny_model):
    fam = family(tiny_model("gemma3"))
    example = fam.encoder()("a#1", document(noise()))
    with pytest.raises(TwowayError, match="do not cover"):
        fam.geometry.places(example.inputs, example.pictures[:-1])
    with pytest.raises(TwowayError, match="no square grid"):
        PatchGeometry.of(_other_token(fam.config), fam.processor)


def _other_token(config):
    """Name a token that stands for no picture."""
    changed = type(config).from_dict(config.to_dict())
    changed.image_token_id = 0
    return changed


def test_a_geometry_is_plain_data(each):
    assert dataclasses.asdict(each.geometry)["values"] == each.geometry.values
    assert hash(each.geometry) == hash(dataclasses.replace(each.geometry))
