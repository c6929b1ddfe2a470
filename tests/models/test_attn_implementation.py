"""Each part has the kernel that was asked for, and windows that share a call give what calls of their own give."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image
from sentence_transformers import SentenceTransformer
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
from masked import batch_of
from twoway.config import load
from twoway.data.config import MaskingConfig
from twoway.embedding import open_embedder
from twoway.errors import UsageError
from twoway.methods.convert import convert
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.method import prepare
from twoway.models import kernels, loading
from twoway.models.config import AttnImplementation, by_part

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WINDOWED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")
# Pictures of patches: two of one size, windows cut at the edges, one smaller than a window.
GRIDS = torch.tensor([[1, 12, 20], [1, 12, 20], [1, 6, 10], [1, 2, 2]])


class Counted(TorchDispatchMode):
    """Counts calls of attention, and how often borders are read."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func.overloadpacket in (
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
            torch.ops.aten._scaled_dot_product_attention_math,
        )
        return func(*args, **(kwargs or {}))


def glm4v() -> Any:
    """Return a tiny model of a family that has no builder of its own."""
    tower = {
        "hidden_size": 32,
        "depth": 2,
        "num_heads": 4,
        "intermediate_size": 48,
        "out_hidden_size": 32,
        "patch_size": 14,
        "image_size": 56,
    }
    tokens = ("image", "video", "image_start", "image_end", "video_start", "video_end")
    ids = {f"{name}_token_id": number for number, name in enumerate(tokens, 5)}
    text = tiny.LANGUAGE | {"vocab_size": 64, "rope_parameters": tiny.MROPE, "pad_token_id": 0}
    model = tf.Glm4vModel(tf.Glm4vConfig(text_config=text, vision_config=tower, **ids))
    tiny.randomise(model)
    return model.eval()


@pytest.fixture(params=WINDOWED)
def pair(request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> tuple[Any, Any]:
    """The same model twice: as the library opens it, and with our choice."""
    if request.param == "glm4v":
        torch.manual_seed(0)
        plain, ours = glm4v(), glm4v()
        ours.load_state_dict(plain.state_dict())
    else:
        plain, ours = (loading.inner(loading.load_model(tiny_model(request.param), dtype="float32").model) for _ in range(2))
    kernels.use_kernels(ours)
    return plain, ours


def seen(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor], Counted]:
    """Run the tower over pictures of many sizes, there and back."""
    tower: Any = model.get_encoder(modality="image")
    tower.zero_grad()
    merge = tower.spatial_merge_size**2
    width = tower.patch_embed.proj.weight[0].numel()
    pixels = torch.randn(int(GRIDS.prod(1).sum()), width, generator=torch.Generator().manual_seed(3))
    with Counted() as counted:
        out = tower(pixels, grid_thw=GRIDS).pooler_output
    assert len(out) * merge == len(pixels)
    out.square().sum().backward()
    return out.detach(), {name: one.grad for name, one in tower.named_parameters() if one.grad is not None}, counted


def test_windows_together_give_what_they_give_alone(pair: tuple[Any, Any]) -> None:
    (left, before, apart), (right, after, together) = map(seen, pair)
    torch.testing.assert_close(right, left, atol=1e-5, rtol=1e-5)
    assert before.keys() == after.keys()
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, atol=1e-4, rtol=1e-4, msg=name)
    layers = len(pair[0].get_encoder(modality="image").blocks)
    assert apart.calls >= layers * 4
    # Four pictures of three sizes, or windows of five: one call for the long ones, one for the usual short ones, one for the odd.
    assert together.calls <= layers * 3


def test_borders_are_read_once_a_pass(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    plan = kernels.plan_calls
    monkeypatch.setattr(kernels, "plan_calls", lambda borders, device: made.append(len(borders)) or plan(borders, device))
    seen(pair[1])
    windows = hasattr(pair[1].get_encoder(modality="image"), "fullatt_block_indexes")
    assert len(made) == 1 + windows
    seen(pair[1])
    assert len(made) == 2 * (1 + windows)
    assert not len(kernels._plans)


@pytest.mark.parametrize("of", ["get_vision_cu_seqlens", "get_vision_window_index"])
def test_borders_that_are_not_the_towers_are_not_believed(pair: tuple[Any, Any], of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many of them, and other ones: a family that counts in another way."""
    before = seen(pair[1])[0]
    torch.testing.assert_close(seen(pickle.loads(pickle.dumps(pair[1])))[0], before, atol=0, rtol=0)  # a copy has to look for itself
    tower = pair[1].get_encoder(modality="image")
    assert len(kernels._agreed[tower]) == 1 + hasattr(tower, "window_size")
    right = getattr(kernels, of)

    def wrong(*args: Any, **options: Any) -> Any:
        made = right(*args, **options)
        return tuple(one + (one > 0) for one in made) if isinstance(made, tuple) else made + (made > 0)

    monkeypatch.setattr(kernels, of, wrong)
    kernels._agreed[tower].clear()
    torch.testing.assert_close(seen(pair[1])[0], before, atol=0, rtol=0)
    kind = "windows" if of.endswith("index") else "pictures"
    assert kind not in kernels._agreed[tower]
    kernels._agreed[tower].clear()


@pytest.mark.parametrize(
    "lengths", [[64] * 5, [64, 64, 16, 32, 64, 16], [300, 64, 300, 40], [7], [200, 100], [1, 2, 3], [64, 300, 64, 8, 300, 5]]
)
@pytest.mark.parametrize("shared", [1, 2])
def test_any_stretches(lengths: list[int], shared: int) -> None:
    draw = torch.Generator().manual_seed(0)
    borders = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    given = [torch.randn(1, heads, sum(lengths), 8, generator=draw).requires_grad_() for heads in (4, 4 // shared, 4 // shared)]
    module = torch.nn.Module()
    module.num_key_value_groups = shared  # type: ignore[assignment]
    found, _ = kernels.attend_grouped(
        module, *given, None, kernel=kernels.sdpa_attention_forward, scaling=0.3, is_causal=False, cu_seq_lens_q=borders, max_length_q=1
    )
    stretches = zip(*(one.split(lengths, 2) for one in given), strict=True)
    parts = [functional.scaled_dot_product_attention(*one, scale=0.3, enable_gqa=True) for one in stretches]
    right = torch.cat(parts, 2).transpose(1, 2)
    torch.testing.assert_close(found, right)
    mine, theirs = (torch.autograd.grad(one.square().sum(), given, retain_graph=True) for one in (found, right))
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    mask = torch.rand(sum(lengths), sum(lengths), generator=draw).gt(0.5) | torch.eye(sum(lengths), dtype=torch.bool)
    options: dict[str, Any] = {"kernel": kernels.sdpa_attention_forward, "scaling": 0.3, "is_causal": False}
    both, _ = kernels.attend_grouped(module, *given, mask[None, None], **options, cu_seq_lens_q=borders)
    block = torch.block_diag(*(torch.ones(n, n) for n in lengths)).bool() & mask
    masked = functional.scaled_dot_product_attention(*given, attn_mask=block, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(both, masked.transpose(1, 2))


def test_six_pictures_take_two_calls_a_layer_at_most() -> None:
    """Qwen2.5-VL's windows of 64 patches: pictures of 1,024 tokens are cut into whole ones; a page leaves some at its edges."""
    whole = kernels.plan_calls(list(range(0, 6 * 4096 + 1, 64)))
    assert [(call.count, call.length) for call in whole.calls] == [(384, 64)]
    assert whole.taken is None
    page = [64] * 54 + [16] * 9 + [48] * 6 + [12]
    odd = kernels.plan_calls([0, *torch.tensor(page).cumsum(0).tolist()])
    assert [(call.count, call.length, call.real is not None) for call in odd.calls] == [(54, 64, False), (16, 48, True)]


def test_each_part_has_its_own(tiny_model: Callable[[str], Path]) -> None:
    model = loading.load_model(tiny_model("qwen2_5_vl"), dtype="float32").model
    tower, language = model.get_encoder(modality="image"), model.get_decoder()
    assert kernels.use_kernels(model) == {"language": "sdpa", "tower": kernels.GROUPED}
    assert kernels.use_kernels(model, "tower=eager,language=sdpa") == {"language": "sdpa", "tower": "eager"}
    assert tower.config._attn_implementation == "eager"
    assert language.config._attn_implementation == "sdpa"
    assert kernels.use_kernels(model, "language=eager,tower=sdpa") == {"language": "eager", "tower": kernels.GROUPED}
    assert language.config._attn_implementation == "eager"
    with kernels.kernels_restored(model):
        model.set_attn_implementation("sdpa")
        assert tower.config._attn_implementation == language.config._attn_implementation == "sdpa"
    assert (tower.config._attn_implementation, language.config._attn_implementation) == (kernels.GROUPED, "eager")


@pytest.mark.parametrize("family", ["gemma3", "internvl", "smolvlm", "paligemma", "idefics3"])
def test_other_towers_stay_as_they_are(family: str, tiny_model: Callable[[str], Path]) -> None:
    model = loading.load_model(tiny_model(family), dtype="float32").model
    assert kernels.use_kernels(model) == {"language": "sdpa", "tower": "sdpa"}


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_text_model_has_one_part(family: str, tiny_model: Callable[[str], Path]) -> None:
    assert kernels.use_kernels(tf.AutoModel.from_pretrained(tiny_model(family)), "eager") == {"language": "eager"}


def test_flash_attention_is_chosen_where_it_can_be_used(tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = loading.load_model(tiny_model("qwen2_5_vl"), dtype="float32").model
    monkeypatch.setitem(kernels._HERE, kernels.FLASH, lambda: True)
    chosen: dict[str, str] = {}
    monkeypatch.setattr(kernels, "_set", lambda _model, _part, name, *, flash, what, **_: chosen.update({what: f"{name} {flash}"}))
    gpu, half = torch.device("cuda"), torch.bfloat16
    for device, dtype, masks, said in (
        (gpu, half, False, ("auto True", "auto True")),
        (gpu, half, True, ("auto False", "auto True")),
        (gpu, torch.float32, False, ("auto False", "auto False")),
        (torch.device("cpu"), half, False, ("auto False", "auto False")),
    ):
        kernels.use_kernels(model, device=device, dtype=dtype, masks=masks)
        assert (chosen["language model"], chosen["tower"]) == said
    with pytest.raises(UsageError, match="flash_attention_2 takes no mask of who sees whom; use sdpa"):
        kernels.use_kernels(model, "flash_attention_2", device=gpu, dtype=half, masks=True)
    with pytest.raises(UsageError, match="needs bfloat16 or float16 on a GPU, not float32 on cuda"):
        kernels.use_kernels(model, "flash_attention_2", device=gpu, dtype=torch.float32)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("spda", "unknown kernel 'spda' for the tower; did you mean sdpa"),
        ("towr=sdpa", "PART=NAME for any of tower, language, decoder"),
        ("tower=sdpa,tower=eager", "PART=NAME"),
        ("tower=flash", "unknown kernel 'flash' for the tower"),
    ],
)
def test_a_setting_that_is_none(setting: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        by_part(setting)
    with pytest.raises(UsageError, match=said):
        PretrainConfig(attn_implementation=setting)


def test_what_the_machine_lacks_is_one_line(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    if kernels.is_installed("flash_attention_2"):
        pytest.skip("this machine has it")
    line = r"this machine has no flash_attention_2 for the language \(it has: auto, sdpa, eager, flex_attention\)"
    with pytest.raises(UsageError, match=line):
        convert(tmp_path / "nothing", tmp_path / "out", attn_implementation="language=flash_attention_2")
    with pytest.raises(UsageError, match=line):
        open_embedder(tmp_path / "nothing", attn_implementation="language=flash_attention_2")


def test_the_setting_is_read_from_files_and_words(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("attn_implementation: {tower: eager, decoder: sdpa}\n")
    assert load(PretrainConfig, tmp_path / "a.yaml").attn_implementation == AttnImplementation("eager", "auto", "sdpa")
    assert load(PretrainConfig, None, ["attn_implementation=eager"]).attn_implementation == "eager"
    assert load(PretrainConfig, None, ["attn_implementation.tower=eager"]).attn_implementation == AttnImplementation("eager")
    (tmp_path / "a.yaml").write_text("attn_implementation: {towr: eager}\n")
    with pytest.raises(UsageError, match=r"a\.yaml:1: unknown key attn_implementation\.towr; did you mean attn_implementation\.tower"):
        load(PretrainConfig, tmp_path / "a.yaml")


@pytest.mark.parametrize(("family", "taken"), [("qwen2_vl", True), ("gemma3", False)])
def test_a_decoder_may_differ_where_it_makes_its_own_masks(family: str, taken: bool, tiny_model: Callable[[str], Path]) -> None:
    options = {"dtype": "float32", "mask": MaskingConfig(words=0.5, patches=0.5)}
    found = {}
    for name in ("sdpa", "eager"):
        torch.manual_seed(0)
        prepared = prepare(tiny_model(family), PretrainConfig(attn_implementation=f"decoder={name}", **options))
        prepared.module.eval()
        batch = batch_of(prepared, "both", words=0.5, patches=0.5)
        if name == "sdpa" or taken:
            found[name] = {key: float(loss.total.detach()) for key, loss in prepared.module.compute_losses(batch)[0].items()}
        else:
            with pytest.raises(UsageError, match="it cannot have eager, so leave the decoder out"):
                prepared.module.compute_losses(batch)
    if taken:
        assert found["eager"] == pytest.approx(found["sdpa"], rel=1e-4)


def test_nothing_of_it_is_saved_and_vectors_are_the_same(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    convert(tiny_model("qwen2_5_vl"), tmp_path / "out", attn_implementation="sdpa")
    for path in (tmp_path / "out").rglob("*.json"):
        assert "attn_implementation" not in path.read_text(), path
        assert kernels.GROUPED not in path.read_text()
    plain, ours = SentenceTransformer(str(tmp_path / "out"), device="cpu"), open_embedder(tmp_path / "out", device="cpu").sentence
    assert ours[0].auto_model.visual.config._attn_implementation == kernels.GROUPED
    draw = np.random.default_rng(0)
    rows = [Image.fromarray(draw.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in ((56, 84), (84, 140), (56, 84))]
    left, right = (one.encode([*rows, {"image": rows[1], "text": "w4 w5"}], show_progress_bar=False) for one in (plain, ours))
    assert np.abs(left - right).max() < 1e-5
