"""Masks as a pure function of seed, epoch and row; shares; and nothing of what is masked is left in the input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from documents import document, family, noise
from tiny import FAMILIES
from twoway.data.config import MaskingConfig
from twoway.data.masking import NO_TARGET, mask_inputs, random_stream
from twoway.data.processing import ordinary_ids
from twoway.errors import UsageError

TEXT = "the quick brown fox jumps over the lazy dog and runs away from it all "


@pytest.fixture(params=FAMILIES)
def each(request, tiny_model):
    return family(tiny_model(request.param))


@pytest.fixture
def qwen(tiny_model):
    return family(tiny_model("qwen2_vl"))


def mask(fam, example, *, seed=0, epoch=0, **options):
    return mask_inputs(
        example,
        MaskingConfig(**options),
        seed=seed,
        epoch=epoch,
        mask_token=MASK,
        geometry=fam.geometry,
        ordinary=ordinary_ids(fam.processor),
    )


MASK = 3


def same(one, two):
    tensors = [[*made.inputs.values(), made.labels, made.patch_mask, made.patch_targets] for made in (one, two)]
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(*tensors, strict=True))


@pytest.mark.parametrize("unit", ["token", "word", "span"])
@pytest.mark.parametrize("masking", ["joint", "alternate"])
def test_masks_are_a_function_of_seed_epoch_and_identity_alone(qwen, unit, masking):
    encoder = qwen.encoder(whole_words=True)
    options = {"unit": unit, "masking": masking, "keep": 0.1, "random": 0.1}
    example = encoder("a#1", document(TEXT, noise(200, 200)))
    first = mask(qwen, example, **options)
    mask(qwen, encoder("a#2", document(TEXT)), **options)
    np.random.default_rng().random()
    torch.rand(3)
    again = mask(qwen, encoder("a#1", document(TEXT, noise(200, 200))), **options)
    assert same(first, again)
    for other in (
        mask(qwen, example, seed=1, **options),
        mask(qwen, example, epoch=1, **options),
        mask(qwen, dataclasses.replace(example, identity="a#2"), **options),
    ):
        assert not same(first, other)


def test_streams_are_the_same_on_every_machine_and_in_every_version():
    """A run that is taken up again elsewhere must mask as it did before."""
    assert random_stream("words", 1, 2, "a#1").integers(1000, size=6).tolist() == [529, 615, 911, 855, 139, 662]
    assert random_stream("patches", 1, 2, "a#1").integers(1000, size=6).tolist() != [529, 615, 911, 855, 139, 662]


def test_nothing_of_the_example_is_changed(each):
    example = each.encoder()("a#1", document(TEXT, noise()))
    before = {key: value.clone() for key, value in example.inputs.items()}
    mask(each, example)
    assert all(torch.equal(before[key], example.inputs[key]) for key in before)


def test_masked_words_are_words_and_labels_are_what_stood_there(each):
    example = each.encoder()("a#1", document(TEXT, noise(), TEXT))
    made = mask(each, example)
    chosen = made.labels != NO_TARGET
    assert chosen.sum() == round(0.4 * int(example.words.sum()))
    assert not (chosen & ~example.words).any()
    assert torch.equal(made.labels[chosen], example.inputs["input_ids"][chosen])
    assert (made.inputs["input_ids"][chosen] == MASK).all()
    assert torch.equal(made.inputs["input_ids"][~chosen], example.inputs["input_ids"][~chosen])
    assert made.counts["masked_words"] == int(chosen.sum())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_shares_of_nothing_and_all(each, share):
    example = each.encoder()("a#1", document(TEXT, noise()))
    made = mask(each, example, words=share, patches=share)
    found = each.geometry.places(example.inputs, example.pictures, example.grids)
    assert int((made.labels != NO_TARGET).sum()) == share * int(example.words.sum())
    assert len(made.patch_targets) == int(made.patch_mask.sum()) == share * (found.units >= 0).sum()
    if not share:
        assert same(made, dataclasses.replace(made, inputs=example.inputs))


def test_random_and_kept_words_have_their_shares_and_are_plain(qwen):
    example = qwen.encoder(max_length=5000)("a#1", document(TEXT * 60))
    made = mask(qwen, example, random=0.1, keep=0.2)
    chosen = made.labels != NO_TARGET
    written, were = made.inputs["input_ids"][chosen], made.labels[chosen]
    masked, kept = written == MASK, written == were
    assert masked.float().mean().item() == pytest.approx(0.7, abs=0.05)
    assert kept.float().mean().item() == pytest.approx(0.2, abs=0.04)
    others = written[~masked & ~kept]
    assert len(others.unique()) > 50
    assert not torch.isin(others, torch.tensor(sorted(qwen.processor.tokenizer.added_tokens_decoder))).any()
    with pytest.raises(UsageError, match="ordinary ids"):
        mask_inputs(example, MaskingConfig(random=0.5), seed=0, epoch=0, mask_token=MASK, geometry=qwen.geometry)


def test_whole_words_are_masked_whole(qwen):
    example = qwen.encoder(whole_words=True)("a#1", document(TEXT, noise(), TEXT))
    chosen = mask(qwen, example, unit="word").labels != NO_TARGET
    for unit in example.units[example.words].unique():
        assert len(chosen[example.words & (example.units == unit)].unique()) == 1


def test_half_of_each_picture_is_masked(each):
    example = each.encoder()("a#1", document(noise(300, 200), TEXT, noise(90, 300, 1)))
    found = each.geometry.places(example.inputs, example.pictures, example.grids)
    made = mask(each, example)
    masked = made.patch_mask[example.image_tokens].numpy()
    assert not masked[found.units < 0].any()
    numbers = example.pictures.numpy()
    for number in (0, 1):
        cells = {cell: set(masked[(numbers == number) & (found.units >= 0) & (found.cells == cell)].tolist()) for cell in found.cells}
        values = [value for value in cells.values() if value]
        assert all(len(value) == 1 for value in values)
        assert abs(sum(True in value for value in values) - len(values) / 2) <= 0.5


def test_targets_are_the_processors_values_in_the_order_of_the_tokens(each):
    example = each.encoder()("a#1", document(noise(), TEXT, noise(90, 70, 1)))
    found = each.geometry.places(example.inputs, example.pictures, example.grids)
    made = mask(each, example)
    masked = made.patch_mask[example.image_tokens].numpy()
    assert np.array_equal(found.units[masked], made.patch_units)
    assert torch.equal(made.patch_targets, each.geometry.take(example.inputs, found.units[masked]))
    restored = each.geometry.put(made.inputs, made.patch_units, made.patch_targets)
    assert torch.equal(restored["pixel_values"], example.inputs["pixel_values"])


def test_nothing_of_a_masked_patch_is_in_the_input(each):
    """Change what the processor gave for the masked patches: targets change, and no bit of the input does."""
    example = each.encoder()("a#1", document(noise(), TEXT, noise(90, 70, 1)))
    made = mask(each, example)
    assert len(made.patch_units)
    changed = each.geometry.put(example.inputs, made.patch_units, torch.randn_like(made.patch_targets))
    other = mask(each, dataclasses.replace(example, inputs=changed))
    assert np.array_equal(other.patch_units, made.patch_units)
    assert (other.patch_targets != made.patch_targets).any(1).all()
    assert all(torch.equal(other.inputs[key], made.inputs[key]) for key in made.inputs)


def test_the_picture_itself_leaves_no_trace_where_it_is_masked(qwen):
    """The same from the picture on: other pixels under the masked patches of a still, both of its frames included."""
    encoder = qwen.encoder()
    side = 28
    pixels = np.asarray(noise(2 * side, 2 * side)).copy()
    made = mask(qwen, encoder("a#1", document(PILImage.fromarray(pixels))))
    for unit in made.patch_units.tolist():
        down, across = divmod(unit, 2)
        pixels[down * side : (down + 1) * side, across * side : (across + 1) * side] = 7
    other = mask(qwen, encoder("a#1", document(PILImage.fromarray(pixels))))
    assert len(made.patch_units) == 2
    assert not torch.equal(other.patch_targets, made.patch_targets)
    assert torch.equal(other.inputs["pixel_values"], made.inputs["pixel_values"])


def test_noise_is_unit_gaussian_and_independent_or_one_for_all(qwen):
    encoder = qwen.encoder()
    examples = [encoder(f"a#{number}", document(noise(200, 200, number))) for number in range(8)]
    for kind in ("independent", "shared"):
        drawn = []
        for example in examples:
            made = mask(qwen, example, noise=kind, patches=1.0)
            drawn.append(qwen.geometry.take(made.inputs, made.patch_units).view(-1, qwen.geometry.values // qwen.geometry.patches))
        rows = torch.cat(drawn)
        assert rows.mean().abs() < 0.1
        assert rows.std() == pytest.approx(1, abs=0.1)
        assert len(rows.unique(dim=0)) == (len(rows) if kind == "independent" else 1)
    one, two = (mask(qwen, examples[0], epoch=epoch, noise="shared", patches=1.0).inputs["pixel_values"] for epoch in (0, 1))
    assert not torch.equal(one, two)


def test_alternate_masks_words_in_some_rows_and_patches_in_others(qwen):
    encoder = qwen.encoder()
    example = encoder("", document(TEXT, noise(200, 200)))
    made = [mask(qwen, dataclasses.replace(example, identity=f"a#{n}"), masking="alternate") for n in range(200)]
    kinds = [(one.counts["masked_words"] > 0, one.counts["masked_patches"] > 0) for one in made]
    assert set(kinds) == {(True, False), (False, True)}
    assert 70 < kinds.count((True, False)) < 130
    for alone, kind in ((document(TEXT), (True, False)), (document(noise(200, 200)), (False, True))):
        rows = [mask(qwen, encoder(f"a#{n}", alone), masking="alternate") for n in range(6)]
        assert {(one.counts["masked_words"] > 0, one.counts["masked_patches"] > 0) for one in rows} == {kind}


def test_a_share_of_rows_keeps_its_pictures_whole(qwen):
    example = qwen.encoder()("", document(TEXT, noise(200, 200)))
    made = [mask(qwen, dataclasses.replace(example, identity=f"a#{n}"), whole_pictures=0.3) for n in range(200)]
    whole = [not one.patch_mask.any() for one in made]
    assert 35 < sum(whole) < 85
    assert all(one.counts["masked_words"] for one in made)
    alone = qwen.encoder()("", document(noise(200, 200)))
    assert mask(qwen, alone, whole_pictures=1.0).patch_mask.any()


def test_words_are_masked_alike_whatever_is_asked_of_the_pictures(qwen):
    example = qwen.encoder()("a#1", document(TEXT, noise(200, 200)))
    labels = [mask(qwen, example, **options).labels for options in ({}, {"patches": 0.0}, {"noise": "shared"}, {"whole_pictures": 1.0})]
    assert all(torch.equal(labels[0], one) for one in labels[1:])


@pytest.mark.parametrize("wrong", [{"words": -0.1}, {"patches": 1.5}, {"keep": 0.6, "random": 0.6}])
def test_shares_that_are_none_are_refused(wrong):
    with pytest.raises(UsageError, match=r"from 0 to 1|together at most 1"):
        MaskingConfig(**wrong)
