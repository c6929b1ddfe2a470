"""The vision tower over visible patches only, as in masked autoencoders (He et al., arXiv 2111.06377), in a language model's tower.

Towers of the Qwen-VL kind take patches as one long sequence, with each patch's position beside it, so masked ones can be left out: the
others keep their positions and see only each other. What the library computes from the sizes of pictures (positions, borders between
pictures, windows, interpolated embeddings) is computed by the library, for whole pictures, and then restricted to visible patches.

There is no list of supported families: a tower is run once on a picture without masks, and must give the same result as the model's own
code.
"""

from __future__ import annotations

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

    def __call__(self, pixels: Tensor, grids: Tensor, visible: Tensor) -> dict[str, Any]:
        """Return what the model takes in the place of pictures; `visible` has an entry for each image token, in the order of the pixels."""
        return self.run(pixels, grids, self.places(grids, visible))

    def run(self, pixels: Tensor, grids: Tensor, places: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return it, where `places` are known; nothing is returned, and the tower does not run, where no patch is visible."""
        if not places:
            return {}
        given = {name: value for name, value in places.items() if name != _ROWS}
        out = self._tower(pixels.index_select(0, places[_ROWS]).type(self._tower.dtype), grid_thw=grids, **given)
        out.pooler_output = (out.pooler_output,)
        if getattr(out, "deepstack_features", None) is not None:
            out.deepstack_features = [(one,) for one in out.deepstack_features]
        return {"mm_encoder_outputs": {"image": out}}

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

    def require(self, model: PreTrainedModel, looked: Any) -> None:
        """Refuse a model whose tower cannot leave patches out; `looked` is what its processor makes of a picture."""
        kind = f"{type(model).__name__} ({model.config.model_type})"
        why = (
            f"masked_patches=skip: the tower of {kind} does not take patches one by one, so none can be left out; use masked_patches=noise"
        )
        if loading.SKELETON.get() is not None:
            return  # the rank that has the weights looks
        if self._tower is None or "image_grid_thw" not in looked or not hasattr(self._tower, "spatial_merge_size"):
            raise UsageError(why)
        pixels, grids = looked["pixel_values"], looked["image_grid_thw"]
        everything = torch.ones(int(grids.prod(-1).sum()) // self._tower.spatial_merge_size**2, dtype=torch.bool)
        try:
            with torch.no_grad():
                inner: Any = loading.inner(model)
                whole = torch.cat(inner.get_image_features(pixels, grids, return_dict=True).pooler_output)
                ours = self(pixels, grids, everything)["mm_encoder_outputs"]["image"].pooler_output[0]
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
            raise UsageError(f"{why} ({first_line(error)})") from error
        if whole.shape != ours.shape or not torch.allclose(whole, ours, atol=_CLOSE * float(whole.abs().max()), rtol=0):
            raise UsageError(why)


def _borders(borders: Tensor, kept: Tensor) -> Tensor:
    """Return where segments begin and end among the visible rows; empty segments are dropped."""
    before = torch.nn.functional.pad(kept.cumsum(0), (1, 0))
    found: Tensor = torch.unique_consecutive(before[borders.long()])
    return found.to(torch.int32)
