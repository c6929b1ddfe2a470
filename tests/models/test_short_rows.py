"""Products give what the fused kernel gives, in every layout of heads and masks, and are used where they are meant to be alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from twoway.models import kernels, loading
from twoway.models.attention import set_attention


@pytest.mark.parametrize("shared", [1, 2, 4])
@pytest.mark.parametrize("kind", ["none", "padding", "own"])
def test_products_are_attention(shared, kind):
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, heads, 7, 8, generator=draw) for heads in (4, shared, shared))
    allowed = {
        "none": None,
        "padding": (torch.arange(7) < torch.tensor([[7], [4], [5]]))[:, None, None].expand(3, 1, 7, 7),
        "own": torch.rand(3, 1, 7, 7, generator=draw).gt(0.5) | torch.eye(7, dtype=torch.bool),
    }[kind]
    given = [one.requires_grad_() for one in (query, key, value)]
    ours = kernels.products(*given, allowed, 0.3)
    theirs = functional.scaled_dot_product_attention(*given, attn_mask=allowed, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(ours, theirs)
    mine, right = (torch.autograd.grad(one.square().sum(), given) for one in (ours, theirs))
    torch.testing.assert_close(mine, right, atol=1e-5, rtol=1e-4)


@pytest.fixture
def models(tiny_model):
    """The same model twice: as it is, and with products."""
    made = [loading.load_model(tiny_model("qwen2_vl"), dtype="float32").model for _ in range(2)]
    kernels.use_kernels(made[1], products=True)
    return made


@pytest.mark.parametrize("attention", ["two-way", "causal"])
@pytest.mark.parametrize("padded", [False, True])
def test_a_model_says_the_same_in_half_precision_and_the_very_same_bits_in_float32(models, attention, padded):
    ids = torch.randint(0, 200, (2, 20), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 12:] = 0
    for model in models:
        set_attention(model, attention)
    plain, short = (model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()] for model in models)
    assert torch.equal(plain, short)
    calls = []
    with torch.autocast("cpu", torch.bfloat16), pytest.MonkeyPatch.context() as patched:
        products = kernels.products
        patched.setattr(kernels, "products", lambda *given: calls.append(1) or products(*given))
        rough = models[1].base_model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    assert len(calls) == len(loading.parts(models[1]).layers)
    assert (rough - plain).abs().mean() < 0.05 * plain.abs().mean()


def test_long_rows_go_to_the_library(models, monkeypatch):
    monkeypatch.setattr(kernels, "LONGEST", 10)
    monkeypatch.setattr(kernels, "products", lambda *_: pytest.fail("products of a long row"))
    with torch.autocast("cpu", torch.bfloat16):
        models[1].base_model(input_ids=torch.zeros(1, 11, dtype=torch.long))


def test_what_is_saved_says_nothing_of_it(models, tmp_path):
    for name, model in zip(("plain", "short"), models, strict=True):
        model.save_pretrained(tmp_path / name)
    assert (tmp_path / "plain/config.json").read_text() == (tmp_path / "short/config.json").read_text()
    assert kernels.SHORT_ROWS not in (tmp_path / "short/config.json").read_text()
