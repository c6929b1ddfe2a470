"""The probes: paired with other content, the same targets in every case, and nothing of training is touched."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from twoway.content import Document, Text
from twoway.data.collators import collate
from twoway.data.masking import NO_TARGET
from twoway.data.processing import Encoder
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.method import prepare
from twoway.training.probes import Prober, RowLosses, evaluating, gaps, measure_modalities, pair_pictured_rows

COLOURS = ("red", "blue", "green", "black", "white", "olive")


def row(colour, text=None):
    return Document.from_parts([{"image": PILImage.new("RGB", (56, 56), colour)}, {"text": text or f"a thing that is {colour}"}])


def rows():
    return [(f"rows#{number}", row(colour)) for number, colour in enumerate(COLOURS)]


@pytest.fixture(scope="module", params=["qwen2_vl", "gemma3"])
def probed(request, tiny_model):
    prepared = prepare(tiny_model(request.param), PretrainConfig(dtype="float32"))
    encode = Encoder(prepared.processor, prepared.geometry, max_length=prepared.max_length)
    together = partial(collate, pad_token=prepared.module.pad_token, padding_side=prepared.processor.tokenizer.padding_side)
    return prepared, Prober(encode, together, prepared.geometry, prepared.token.id)


def test_no_row_is_paired_with_its_own_content():
    same = [("twin#0", row("red", "one text")), ("twin#1", row("red", "another text")), ("twin#2", row("blue", "one text"))]
    for made in pair_pictured_rows([*rows(), *same]):
        for ours, theirs in zip(made.document.parts, made.other.parts, strict=True):
            assert type(ours) is type(theirs)
        both = [{Document((part,)).fingerprint() for part in one.parts} for one in (made.document, made.other)]
        assert not both[0] & both[1]
    assert pair_pictured_rows(same[:2]) == []


def test_rows_without_both_modalities_and_rows_of_another_form_are_left_out():
    text, picture = Document((Text("words"),)), Document((row("red").parts[0],))
    backwards = Document(tuple(reversed(row("blue").parts)))
    assert pair_pictured_rows([("a", text), ("b", picture), ("c", row("red")), ("d", backwards)]) == []


def test_a_row_that_shares_no_rare_word_is_taken_first():
    cats = [(f"c#{number}", row(colour, f"the cat {colour}")) for number, colour in enumerate(("red", "blue"))]
    dogs = [(f"d#{number}", row(colour, f"the dog {colour}")) for number, colour in enumerate(("green", "black"))]
    many = [(f"m#{number}", row((number, 9, 9), f"the thing{number}")) for number in range(20)]
    for made in pair_pictured_rows([*cats, *dogs, *many]):
        ours, theirs = made.document.texts[0].split()[1], made.other.texts[0].split()[1]
        assert ours != theirs


def test_swapping_changes_one_modality_alone():
    made = pair_pictured_rows(rows())[0]
    pictures, words = made.swapped(texts=False), made.swapped(texts=True)
    assert pictures.texts == made.document.texts
    assert pictures.images == made.other.images
    assert words.images == made.document.images
    assert words.texts == made.other.texts


def test_all_cases_have_the_same_targets(probed):
    _, prober = probed
    for made in pair_pictured_rows(rows()):
        words = prober.word_rows(made)
        assert set(words) == {"right", "shuffled", "none"}
        answers = [one.labels[one.labels != NO_TARGET].tolist() for one in words.values()]
        assert answers[0]
        assert answers[0] == answers[1] == answers[2]
        assert not any(one.patch_mask.any() for one in words.values())
        patches = prober.patch_rows(made)
        assert torch.equal(patches["right"].patch_targets, patches["shuffled"].patch_targets)
        assert torch.equal(patches["right"].inputs["pixel_values"], patches["shuffled"].inputs["pixel_values"])
        assert not torch.equal(patches["right"].inputs["input_ids"], patches["shuffled"].inputs["input_ids"])


def test_the_losses_are_those_of_training(probed):
    prepared, prober = probed
    task, pairs = prepared.module, pair_pictured_rows(rows())
    found = measure_modalities(task, pairs, prober)
    with evaluating(task):
        words, _ = task.compute_losses(prober.collate([prober.word_rows(made)["right"] for made in pairs]))
        patches, _ = task.compute_losses(prober.collate([prober.patch_rows(made)["right"] for made in pairs]))
    assert found["words_right"] == pytest.approx(float(words["mlm"].mean), rel=1e-4)
    assert found["patches_right"] == pytest.approx(float(patches["mae"].mean), rel=1e-4)
    assert found["words_probed"] == words["mlm"].count
    assert found["words_gap_shuffled"] == pytest.approx(found["words_shuffled"] - found["words_right"], abs=1e-5)
    assert found["patches_gap_shuffled"] == pytest.approx(found["patches_shuffled"] - found["patches_right"], abs=1e-5)


def test_training_does_not_notice(probed):
    prepared, prober = probed
    task = prepared.module
    task.train()
    odd = next(module for module in task.modules() if not list(module.children()))
    odd.eval()
    parameter = next(one for one in task.parameters() if one.requires_grad)
    parameter.grad = torch.ones_like(parameter)
    modes, state, numpy = [one.training for one in task.modules()], torch.get_rng_state(), np.random.get_state()[1].copy()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    first, second = (
        measure_modalities(task, pair_pictured_rows(rows()), prober),
        measure_modalities(task, pair_pictured_rows(rows()), prober),
    )
    assert first == second
    assert [one.training for one in task.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy).all()
    assert torch.equal(parameter.grad, torch.ones_like(parameter))
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    parameter.grad = None


def test_nothing_to_measure_is_nothing_found(probed):
    prepared, prober = probed
    assert measure_modalities(prepared.module, [], prober) == {}


def test_gaps_are_means_over_targets_with_an_error_over_rows():
    count, hits = np.array([1.0, 3.0]), np.zeros(2)
    right, other = RowLosses(np.array([1.0, 3.0]), count, hits), RowLosses(np.array([2.0, 6.0]), count, hits)
    found = gaps("words", {"right": right, "shuffled": other})
    assert found["words_gap_shuffled"] == pytest.approx(1.0)
    assert found["words_gap_shuffled_error"] == pytest.approx(0.0)
    uneven = gaps("words", {"right": right, "shuffled": RowLosses(np.array([2.0, 3.0]), count, hits)})
    assert uneven["words_gap_shuffled"] == pytest.approx(0.25)
    assert uneven["words_gap_shuffled_error"] > 0.1
    assert (found["words_rows"], found["words_probed"]) == (2, 4)
