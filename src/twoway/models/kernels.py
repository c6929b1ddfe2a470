"""Which attention kernel each part of a model uses, and one call for a tower's many windows where the library makes one for each.

`attn_implementation` is transformers' own word. It is one name for the whole model or one for each part; `auto` is FlashAttention-2 where
it is installed and device and type allow it, else what transformers chooses, which is sdpa.

A tower of the Qwen-VL kind packs the patches of all pictures into one row and marks where segments (windows, pictures) end: `cu_seqlens`.
FlashAttention takes these borders directly. For every other kernel transformers splits the row and makes one call for each segment, and
reads the borders from the device three times a layer. Under sdpa such a tower gets a function of ours, registered as transformers'
documentation describes. Its name contains "flash", because transformers passes the borders to such names only. It groups segments of one
length and makes one call for each length; short ones (windows at the edge of a picture) share one padded call. Towers are found by what
they expose: attention that takes `cu_seqlens`.

Borders are read once a forward pass, without a synchronization: they follow from the sizes of the pictures, which a batch has on the CPU
(`remember`). They are compared with the tower's own in its first pass, and trusted from then on.

The choice is kept in the config in memory; transformers does not save it, so a checkpoint names no kernel.
"""

from __future__ import annotations

import inspect
import itertools
import os
from collections import Counter
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available, is_torch_flex_attn_available
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_window_index

from twoway.errors import UsageError

from .config import AUTO, FLASH, KERNELS, PARTS, SDPA, Setting, by_part
from .loading import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn


# Attention by plain products, for short rows in bfloat16 on a CPU: there it is two to three times as fast as the
# fused kernel.
#
# The fused kernel never holds the scores of a whole row, which is what makes long rows possible; its backward pass on
# a CPU pays for that by computing in small pieces. Rows of a few hundred tokens have scores that fit, and two large
# products then cost less. Query heads that share a key head lie one after another along the length, so keys are never
# repeated. Everything else (long rows, other types and devices, dropout) goes to the library's own function, and so
# does all of float32, whose kernel has no such cost.
#
# Measured with `python -m benchmarks pretrain`; scores are rounded to bfloat16 as in the library's `eager` attention.

SHORT_ROWS = "twoway_short_rows_or_sdpa"
LONGEST = 512


def attend_short_rows(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attend as `sdpa` does."""
    if not _suits(module, query, key, attention_mask, options):
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return found
    scaling = options.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if attention_mask is None and _is_causal(module, options):
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    return products(query.bfloat16(), key.bfloat16(), value.bfloat16(), attention_mask, scaling).transpose(1, 2), None


def products(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None, scaling: float) -> Tensor:
    """Return what each query (rows, heads, length, dim) takes from the values; `allowed` says which keys it sees."""
    rows, heads, length, dim = query.shape
    grouped = (rows, key.shape[1], -1, dim)
    scores = torch.matmul(query.reshape(grouped) * scaling, key.transpose(2, 3))
    if allowed is not None:
        lowest = torch.finfo(scores.dtype).min
        scores = scores.view(rows, heads, length, -1).masked_fill(~allowed, lowest).view_as(scores)
    return torch.matmul(scores.softmax(-1), value).view(rows, heads, length, -1)


def _suits(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Any]) -> bool:
    """Say whether products give the same and are faster."""
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return (
        query.device.type == "cpu"
        and (autocast or query.dtype == torch.bfloat16)
        and max(query.shape[2], key.shape[2]) <= LONGEST
        and (mask.dtype == torch.bool if mask is not None else query.shape[2] == key.shape[2])
        and not any(options.get(name) for name in ("dropout", "softcap"))
        and all(options.get(name) is None for name in ("position_bias", "cache"))
    )


def _is_causal(module: nn.Module, options: dict[str, Any]) -> bool:
    """Return, as the library decides it, whether a token sees only earlier ones if there is no mask."""
    said = options.get("is_causal")
    return bool(getattr(module, "is_causal", True) if said is None else said)


AttentionInterface.register(SHORT_ROWS, attend_short_rows)
AttentionMaskInterface.register(SHORT_ROWS, sdpa_mask)


_HERE = {
    "flex_attention": is_torch_flex_attn_available,
    "flash_attention_2": is_flash_attn_2_available,
    "flash_attention_3": is_flash_attn_3_available,
}
_HALF = (torch.bfloat16, torch.float16)
# Stretches up to this length are windows or small pictures: padding the odd ones costs less than a call for each.
_SHORT = 128

GROUPED, GROUPED_SHORT_ROWS = "twoway_sdpa_by_flash_borders", "twoway_short_rows_or_sdpa_by_flash_borders"


def is_installed(name: str) -> bool:
    """Whether this machine has a kernel."""
    return name not in _HERE or bool(_HERE[name]())


def require_installed(setting: Setting) -> None:
    """Refuse a kernel that this machine lacks."""
    for part in PARTS:
        name = getattr(by_part(setting), part)
        if not is_installed(name):
            here = ", ".join(filter(is_installed, KERNELS))
            raise UsageError(f"attn_implementation: this machine has no {name} for the {part} (it has: {here})")


def require_kernels(setting: Setting, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a kernel that this machine lacks, or that cannot compute in this type or on this device."""
    require_installed(setting)
    for part in PARTS:
        name = getattr(by_part(setting), part)
        if "flash" in name and (device.type == "cpu" or dtype not in _HALF):
            here = f"{str(dtype).removeprefix('torch.')} on {device.type}"
            raise UsageError(f"attn_implementation: {name} for the {part} needs bfloat16 or float16 on a GPU, not {here}; use sdpa")


def require_masks(setting: Setting) -> None:
    """Refuse a language model's kernel that takes no mask of our own."""
    name = by_part(setting).language
    if "flash" in name:
        raise UsageError(f"attn_implementation: {name} takes no mask of who sees whom; use sdpa for the language model here")


def use_kernels(
    model: Any,
    setting: Setting = AUTO,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    decoder: Any = None,
    masks: bool = False,
    products: bool = False,
) -> dict[str, str]:
    """Give each part of a loaded model its kernel, and return what each has.

    `dtype` and `device` are what it computes with (the model's own where they are left out); `decoder` is the text model of a patch
    decoder; `masks` says that the language model is called with masks of our own, which no flash kernel takes; with `products` attention
    over short rows in bfloat16 on a CPU is plain products.
    """
    chosen = by_part(setting)
    device, dtype = device or model.device, dtype or model.dtype
    require_kernels(chosen, device, dtype)
    if masks:
        require_masks(chosen)
    flash = device.type != "cpu" and dtype in _HALF and is_installed(FLASH)
    language, tower = _language(model), _tower(model)
    _set(model, language, chosen.language, flash=flash and not masks, short=SHORT_ROWS if products else SDPA, what="language model")
    used = {"language": str(language.config._attn_implementation)}
    if tower is not None:
        plain, grouped = (SHORT_ROWS, GROUPED_SHORT_ROWS) if products else (SDPA, GROUPED)
        bordered = takes_borders(tower)
        _set(model, tower, chosen.tower, flash=flash, short=grouped if bordered else plain, what="tower")
        if bordered and _foresee not in tower._forward_pre_hooks.values():  # a copy has them already
            tower.register_forward_pre_hook(_foresee, with_kwargs=True)
            tower.register_forward_hook(_forget, always_call=True)
        used["tower"] = str(tower.config._attn_implementation)
    if decoder is not None:
        name = used["language"] if chosen.decoder == AUTO else SHORT_ROWS if chosen.decoder == SDPA and products else chosen.decoder
        decoder.config._attn_implementation = name
        used["decoder"] = name
    return used


def require_same_masks(language: Any, decoder: Any, mask: Any) -> None:
    """Refuse a decoder whose kernel takes masks of another form than the finished one that it is handed; zeros and ones suit any."""
    names = [part.config._attn_implementation for part in (language, decoder)]
    forms = [ALL_MASK_ATTENTION_FUNCTIONS.get(name) for name in names]
    finished = mask is not None and not (isinstance(mask, torch.Tensor) and mask.dim() == 2)
    if finished and forms[0] is not forms[1]:
        raise UsageError(
            f"attn_implementation: {language.config.model_type} makes masks for its language model's {names[0]}, and the decoder is handed "
            f"them; it cannot have {names[1]}, so leave the decoder out"
        )


@contextmanager
def kernels_restored(model: Any) -> Iterator[None]:
    """Give every part its kernel back afterwards."""
    configs = {id(one.config): one.config for one in model.modules() if isinstance(getattr(one, "config", None), PreTrainedConfig)}
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        yield
    finally:
        for config, name in before:
            config._attn_implementation = {"": name}


def takes_borders(tower: nn.Module) -> bool:
    """Whether a tower's attention takes the borders of segments in one packed row."""
    return any("cu_seqlens" in inspect.signature(module.forward).parameters for module in tower.modules())


def _language(model: Any) -> Any:
    try:
        found = model.get_decoder()
    except (AttributeError, NotImplementedError):
        return model
    return found if isinstance(found, PreTrainedModel) else model


def _tower(model: Any) -> Any:
    """Return the part that sees, where a model has one with a config of its own."""
    try:
        found = model.get_encoder(modality="image")
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return None
    taken = {id(model.config), id(_language(model).config)}
    return found if isinstance(found, PreTrainedModel) and id(found.config) not in taken else None


def _set(model: Any, part: Any, name: str, *, flash: bool, short: str, what: str) -> None:
    """Give one part of a model a kernel; `short` replaces sdpa there."""
    if name == AUTO:
        name = FLASH if flash and getattr(part, "_supports_flash_attn", False) else str(part.config._attn_implementation)
        name = SDPA if name in (SHORT_ROWS, GROUPED, GROUPED_SHORT_ROWS) else name
    given = short if name == SDPA else name
    key = next((key for key in model.config.sub_configs if getattr(model.config, key) is part.config), None)
    try:
        # What is no tower counts with the language model: the whole has its kernel too.
        whole = {"": given} if what != "tower" else {}
        if part.config is model.config:
            model.set_attn_implementation(given)
        elif key is None:
            part.config._attn_implementation = given
        else:
            model.set_attn_implementation(whole | {key: given})
    except (ValueError, ImportError) as error:
        raise UsageError(f"attn_implementation: the {what} of {model.config.model_type} takes no {name}: {first_line(error)}") from error
    if part.config._attn_implementation != given:
        has = part.config._attn_implementation
        raise UsageError(f"attn_implementation: the {what} of {model.config.model_type} takes no {name}; it stays with {has}")


@dataclass(frozen=True)
class _Call:
    """Stretches that one call attends in: so many, of one length or padded to it, and which places are real where they are padded."""

    count: int
    length: int
    real: Tensor | None = None


@dataclass(frozen=True)
class _Plan:
    """How the stretches of a row are laid together: the calls, where their places come from, and where the row's places then are."""

    calls: tuple[_Call, ...]
    taken: Tensor | None = None  # nothing where the row lies right as it is
    back: Tensor | None = None


@dataclass(frozen=True)
class _Pass:
    """A tower's forward pass, with the borders that follow from the sizes of its pictures: of whole pictures, and of windows."""

    tower: nn.Module
    borders: dict[str, list[int]]


_plans: Any = WeakTensorKeyDictionary()  # a tower hands the same borders to all of its layers
_on_cpu: Any = WeakTensorKeyDictionary()  # whole numbers on a device -> the same on the CPU
_pass: ContextVar[_Pass | None] = ContextVar("pass", default=None)
_agreed: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()  # which borders were seen to be the tower's own


def remember(moved: Tensor, value: Tensor) -> Tensor:
    """Keep integers on the CPU as long as their copy on a device lives, so that they need not be read from it."""
    if moved is not value and not value.is_floating_point():
        _on_cpu[moved] = value
    return moved


def on_cpu(moved: Tensor) -> Tensor:
    """Return integers as they are known on the CPU, or themselves."""
    known: Tensor = _on_cpu.get(moved, moved)
    return known


def _foresee(tower: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
    """Work out the borders of the pass that begins, where the sizes of its pictures are known."""
    _pass.set(None)
    grids = given.get("grid_thw", args[1] if len(args) > 1 else None)
    if not isinstance(grids, torch.Tensor) or "cu_seqlens" in given:
        return
    sizes = _on_cpu.get(grids, grids)
    known: dict[str, Any] = {name: getattr(tower, name, None) for name in ("spatial_merge_size", "window_size", "patch_size")}
    windows = all(isinstance(one, int) for one in known.values())
    # On a CPU reading is free, and the pass is only compared; of a film towers have more than one way.
    if sizes.device.type != "cpu" or (sizes is grids and len(_seen_right(tower)) == 1 + windows) or bool((sizes[:, 0] != 1).any()):
        return
    borders = {"pictures": get_vision_cu_seqlens(sizes).tolist()}
    if windows:
        borders["windows"] = get_vision_window_index(sizes, **known)[1].tolist()
    _pass.set(_Pass(tower, borders))


def _seen_right(tower: nn.Module) -> set[str]:
    return _agreed.setdefault(tower, set())


def _forget(*_: Any) -> None:
    _pass.set(None)


def _numbers(borders: Tensor) -> list[int]:
    """Return borders as numbers; they are read from the device only where they are not known otherwise, or were not verified yet."""
    known, now = _on_cpu.get(borders), _pass.get()
    if known is not None:
        return [int(one) for one in known.tolist()]
    # Pictures of one window each have as many of both, which then are the same.
    kind = next((kind for kind, one in now.borders.items() if len(one) == len(borders)), None) if now else None
    if now and kind in _seen_right(now.tower):
        return now.borders[kind]
    found: list[int] = borders.tolist()
    if now and kind and now.borders[kind] == found:
        _seen_right(now.tower).add(kind)
    return found


def _plan_of(borders: Tensor) -> _Plan:
    found: _Plan | None = _plans.get(borders)
    if found is None:
        found = _plans[borders] = plan_calls(_numbers(borders), borders.device)
    return found


def plan_calls(borders: list[int], device: torch.device | str = "cpu") -> _Plan:
    """Lay stretches together: one call for each length, and one padded call for short ones of other lengths than the most usual."""
    stretches = [(start, end - start) for start, end in itertools.pairwise(borders) if end > start]
    if not stretches:
        return _Plan(())
    total = Counter[int]()
    for _, length in stretches:
        total[length] += length
    usual = max((length for length in total if length <= _SHORT), key=lambda length: (total[length], length), default=0)
    odd = [length for length in total if length <= _SHORT and length != usual]
    groups = [[length] for length in sorted(total.keys() - odd, reverse=True)] + ([odd] if odd else [])
    if len(groups) == 1 and not odd:
        return _Plan((_Call(len(stretches), stretches[0][1]),))
    calls, taken, back = [], [], torch.empty(borders[-1], dtype=torch.long)
    done = 0
    for group in groups:
        inside = [one for one in stretches if one[1] in group]
        longest = max(group)
        place = torch.arange(longest)
        starts, lengths = torch.tensor(inside).unbind(1)
        real = place < lengths[:, None]
        here = torch.where(real, starts[:, None] + place, starts[:, None])
        back[here[real]] = done + real.flatten().nonzero()[:, 0]
        taken.append(here.flatten())
        done += here.numel()
        calls.append(_Call(len(inside), longest, None if len(group) == 1 else real[:, None, None].to(device, non_blocking=True)))
    return _Plan(tuple(calls), torch.cat(taken).to(device, non_blocking=True), back.to(device, non_blocking=True))


def attend_grouped(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    kernel: Callable[..., Any],
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend within each stretch of one long row, (1, heads, length, dim); without borders as `kernel` does."""
    borders = options.pop("cu_seq_lens_q", None)
    for name in ("cu_seq_lens_k", "max_length_q", "max_length_k"):
        options.pop(name, None)
    if borders is None or attention_mask is not None:
        if borders is not None:
            attention_mask = _within(borders, query.shape[2], attention_mask)
        found: tuple[Tensor, None] = kernel(module, query, key, value, attention_mask, **options)
        return found
    plan = _plan_of(borders)
    # (1, heads, length, dim) -> (length, heads, dim)
    rows = [one[0].transpose(0, 1) for one in (query, key, value)]
    if plan.taken is not None:
        rows = [one.index_select(0, plan.taken) for one in rows]
    seen, start = [], 0
    for call in plan.calls:
        size = call.count * call.length
        given = [one[start : start + size].view(call.count, call.length, *one.shape[1:]).transpose(1, 2) for one in rows]
        seen.append(kernel(module, *given, call.real, **options)[0].flatten(0, 1))
        start += size
    whole = torch.cat(seen) if len(seen) > 1 else seen[0] if seen else rows[2]
    return (whole if plan.back is None else whole.index_select(0, plan.back))[None], None


def _within(borders: Tensor, length: int, mask: Any) -> Tensor:
    """Narrow a mask to pairs of places in one stretch."""
    number = torch.searchsorted(borders.long(), torch.arange(length, device=borders.device), right=True)
    same = number[:, None] == number
    narrowed: Tensor = same & mask if mask.dtype == torch.bool else mask.masked_fill(~same, torch.finfo(mask.dtype).min)
    return narrowed


for _name, _kernel in ((GROUPED, sdpa_attention_forward), (GROUPED_SHORT_ROWS, attend_short_rows)):
    AttentionInterface.register(_name, partial(attend_grouped, kernel=_kernel))
    AttentionMaskInterface.register(_name, sdpa_mask)


# Compiled kernels of shapes that were seen once are let go: what makes a run's memory on a CPU hang on its data
# otherwise.
#
# In bfloat16 on a CPU torch compiles a kernel for every shape of a product (oneDNN, and ideep above it), and keeps
# the last 1,024 of both, half a megabyte and more each. Batches cut by cost have ever new shapes: a step of many
# chunks grew by 10 to 15 MB a chunk, to twice the memory of a step of few. The kernels of a few chunks are enough,
# because nothing but the layers of one chunk asks for one again; it is no slower. Torch reads both limits when it
# computes the first such product, and only then.

KEPT = 64  # of each library; a pass through a model and back asks for about 30
_LIMITS = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")


def keep_few() -> None:
    """Limit the kernels that are kept, from now on and in processes begun from here, unless the environment already says how many."""
    for name in _LIMITS:
        os.environ.setdefault(name, str(KEPT))
