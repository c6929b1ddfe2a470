"""Work over visible patches only, as in masked autoencoders (He et al., arXiv 2111.06377): in the vision tower, and in the language model.

Towers of the Qwen-VL kind take patches as one long sequence, with each patch's position beside it, so masked ones can be left out: the
others keep their positions and see only each other. What the library computes from the sizes of pictures (positions, borders between
pictures, windows, interpolated embeddings) is computed by the library, for whole pictures, and then restricted to visible patches.

There is no list of supported families: a tower is run once on a picture without masks, and must give the same result as the model's own
code.

A language model is called with one entry a token of states, positions and masks, so tokens can be left out there too: the library makes
the call for the whole row, and it is cut down to the tokens that stay, each at its own position, just before the language model runs.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from twoway.errors import UsageError

from . import loading
from .loading import first_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers import PreTrainedModel

_CLOSE = 1e-4
_ROWS = "rows"


class VisiblePatches:
    """Runs the tower of one model over visible patches; `require` says first whether it can."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Find the tower."""
        found = loading.parts(model).tower
        self._tower: Any = found[1] if found else None

    def __call__(self, pixels: Tensor, grids: Tensor, visible: Tensor) -> Any:
        """Return what the model takes in the place of pictures; `visible` has an entry for each image token, in the order of the pixels."""
        return self.run(pixels, grids, self.places(grids, visible))

    def run(self, pixels: Tensor, grids: Tensor, places: Mapping[str, Tensor]) -> Any:
        """Return it, where `places` are known; nothing is returned, and the tower does not run, where no patch is visible."""
        if not places:
            return None
        given = {name: value for name, value in places.items() if name != _ROWS}
        out = self._tower(pixels.index_select(0, places[_ROWS]).type(self._tower.dtype), grid_thw=grids, **given)
        out.pooler_output = (out.pooler_output,)
        if getattr(out, "deepstack_features", None) is not None:
            out.deepstack_features = [(one,) for one in out.deepstack_features]
        return out

    def places(self, grids: Tensor, visible: Tensor) -> dict[str, Tensor]:
        """Return what the tower would work out from whole pictures, for the visible patches; nothing where there is none."""
        if not bool(visible.any()):
            return {}
        tower, merge = self._tower, self._tower.spatial_merge_size
        rows = visible.repeat_interleave(merge**2)
        borders = get_vision_cu_seqlens(grids)
        places: dict[str, Tensor] = {
            _ROWS: rows.nonzero()[:, 0],
            "position_ids": get_vision_position_ids(grids, merge)[rows],
            "cu_seqlens": _borders(borders, rows),
        }
        if hasattr(tower, "window_size"):
            order, windows = get_vision_window_index(
                grids, spatial_merge_size=merge, window_size=tower.window_size, patch_size=tower.patch_size
            )
            order = order.to(visible.device)
            kept = visible[order]
            number = visible.cumsum(0) - 1
            places["window_index"] = number[order[kept]]
            places["cu_window_seqlens"] = _borders(windows, kept.repeat_interleave(merge**2))
        if hasattr(tower, "num_grid_per_side"):
            indices, weights = get_vision_interpolation_indices_and_weights(
                grids,
                num_grid_per_side=tower.num_grid_per_side,
                mode=tower.interpolation_mode,
                align_corners=tower.interpolation_align_corners,
                spatial_merge_size=merge,
            )
            places["interp_indices"], places["interp_weights"] = indices[rows], weights[rows]
        return places

    def require(self, model: PreTrainedModel, looked: Any, option: str) -> None:
        """Refuse a model whose tower cannot leave patches out; `looked` is what its processor makes of a picture."""
        kind = f"{type(model).__name__} ({model.config.model_type})"
        why = f"masked_patches={option}: the tower of {kind} does not take patches one by one, so none can be left out"
        why += "; use masked_patches=noise"
        if loading.SKELETON.get() is not None:
            return  # the rank that has the weights looks
        if self._tower is None or "image_grid_thw" not in looked or not hasattr(self._tower, "spatial_merge_size"):
            raise UsageError(why)
        places = getattr(loading.inner(model), "get_rope_index", None)
        if places is not None and "mm_token_type_ids" not in inspect.signature(places).parameters:
            raise UsageError(f"{why} (its positions are counted by the tokens of pictures, which would be others)")
        pixels, grids = looked["pixel_values"], looked["image_grid_thw"]
        everything = torch.ones(int(grids.prod(-1).sum()) // self._tower.spatial_merge_size**2, dtype=torch.bool)
        try:
            with torch.no_grad():
                inner: Any = loading.inner(model)
                whole = torch.cat(inner.get_image_features(pixels, grids, return_dict=True).pooler_output)
                ours = self(pixels, grids, everything).pooler_output[0]
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
            raise UsageError(f"{why} ({first_line(error)})") from error
        if whole.shape != ours.shape or not torch.allclose(whole, ours, atol=_CLOSE * float(whole.abs().max()), rtol=0):
            raise UsageError(why)


def _borders(borders: Tensor, kept: Tensor) -> Tensor:
    """Return where segments begin and end among the visible rows; empty segments are dropped."""
    before = torch.nn.functional.pad(kept.cumsum(0), (1, 0))
    found: Tensor = torch.unique_consecutive(before[borders.long()])
    return found.to(torch.int32)


def kept_places(attention_mask: Tensor, dropped: Tensor) -> dict[str, Tensor]:
    """Return the places of the tokens that run through the language model, row by row; nothing where none is dropped.

    Worked out where the batch is, on the CPU; rows are padded to the one that keeps most.

    `index` (rows, kept) says which token of its row each is, and `mask` which of them are tokens and no padding; `source` and
    `target` say where each of their states lies behind one another, and where in the whole batch it belongs.
    """
    if not bool(dropped.any()):
        return {}
    kept = attention_mask.bool() & ~dropped
    rows, length = kept.shape
    most = int(kept.sum(1).max())
    # Stable, so that tokens stay in their order; those that go, and padding, come last.
    index = torch.sort((~kept).to(torch.int8), dim=1, stable=True).indices[:, :most]
    mask = kept.gather(1, index)
    source = mask.flatten().nonzero()[:, 0]
    target = (index + torch.arange(rows, device=index.device)[:, None] * length).flatten()[source]
    return {"index": index, "mask": mask.to(attention_mask.dtype), "source": source, "target": target}


def cut_call(given: Mapping[str, Any], places: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what a language model is called with, for the tokens that stay."""
    index, mask, states = places["index"], places["mask"], given["inputs_embeds"]
    length = states.shape[1]
    cut = dict(given)
    for name, value in given.items():
        if not isinstance(value, torch.Tensor) or name == "attention_mask":
            continue
        if name == "inputs_embeds":
            cut[name] = value.gather(1, index[..., None].expand(-1, -1, value.shape[-1]))
        elif name == "cache_position":
            cut[name] = value[: index.shape[1]]
        elif value.dtype == torch.bool and value.shape == states.shape[:2]:  # which tokens are pictures'
            cut[name] = value.gather(1, index) & mask.bool()
        elif value.dim() > 1 and value.shape[-2:] == states.shape[:2]:  # positions, in one or several dimensions
            cut[name] = value.gather(-1, index.expand(*value.shape[:-2], *index.shape))
        elif length in value.shape:
            raise ValueError(f"the language model is called with {name}, which cannot be cut to some of its tokens")
    return cut | {"attention_mask": mask}


def restore_states(states: Tensor, places: Mapping[str, Tensor], shape: torch.Size, fill: Tensor) -> Tensor:
    """Return states of the whole batch: those of the tokens that ran, and `fill` (a state) for the others."""
    rows, length = shape
    whole = fill.to(states.dtype).expand(rows * length, -1)
    ran = states.flatten(0, 1).index_select(0, places["source"])
    return whole.index_copy(0, places["target"], ran).view(rows, length, -1)
