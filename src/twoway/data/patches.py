"""Where a row's texts and pictures are: characters and tokens, tiles and views, and the pixels under each image token."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch.nn import functional
from transformers.image_processing_utils import select_best_resolution

from twoway.content import ContentError
from twoway.errors import TwowayError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from .config import VideoUnit

    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]


# Characters and tokens of one row: which characters are the document's, which are a picture's, and which tokens cover
# them.


@dataclass(frozen=True)
class TokenRow:
    """The tokens of a row with the text they stand for."""

    text: str  # what the tokenizer read, placeholders expanded
    own: tuple[tuple[int, int], ...]  # characters of the document's texts
    blocks: tuple[tuple[int, int], ...]  # characters that stand for each picture, wrappers included
    ids: Ints
    offsets: Ints  # (tokens, 2)
    units: Ints | None = None

    @classmethod
    def build(
        cls,
        ids: Sequence[int],
        offsets: Sequence[tuple[int, int]],
        laid: str,
        spans: Sequence[tuple[int, int]],
        replaced: Sequence[dict[str, Any]],
    ) -> TokenRow:
        """Expand the pictures' placeholders in the laid-out prompt and move the texts' characters along."""
        pieces, at, grown = [], 0, []
        for one in replaced:
            start, end = one["span"]
            pieces += [laid[at:start], one["replacement"]]
            at = end
            grown.append((end, one["new_span"][1] - end))
        ends, shifts = np.array([end for end, _ in grown], np.int64), np.array([0, *(shift for _, shift in grown)], np.int64)
        moved = [int(start + shifts[np.searchsorted(ends, start, "right")]) for start, _ in spans]
        own = tuple((start, start + end - first) for start, (first, end) in zip(moved, spans, strict=True))
        blocks = tuple((int(one["new_span"][0]), int(one["new_span"][1])) for one in replaced)
        text = "".join([*pieces, laid[at:]])
        return cls(text, own, blocks, np.array(ids, np.int64), np.array(offsets, np.int64).reshape(-1, 2))

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)

    def take(self, index: Ints) -> TokenRow:
        """Return the row with these of its tokens."""
        return replace(self, ids=self.ids[index], offsets=self.offsets[index], units=None if self.units is None else self.units[index])

    def covering(self, span: tuple[int, int]) -> tuple[int, int]:
        """Return the range of tokens (first, behind the last) that overlap these characters; empty where there is none."""
        found = np.flatnonzero((self.offsets[:, 0] < span[1]) & (self.offsets[:, 1] > span[0]))
        return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0)

    def pictures(self) -> Ints:
        """Return for each token the number of the picture it belongs to, or -1."""
        numbers = np.full(len(self), -1, np.int64)
        for number, span in enumerate(self.blocks):
            first, behind = self.covering(span)
            numbers[first:behind] = number
        return numbers

    def part_numbers(self, texts: Sequence[bool]) -> Ints:
        """Return for each token the number of the part that it stands for, or -1; `texts` says of each part whether it is text.

        A token that two parts share belongs to the first of them.
        """
        numbers, own, blocks = np.full(len(self), -1, np.int64), iter(self.own), iter(self.blocks)
        for number, is_text in enumerate(texts):
            first, behind = self.covering(next(own if is_text else blocks))
            numbers[first:behind] = np.where(numbers[first:behind] < 0, number, numbers[first:behind])
        return numbers

    def cut(self, length: int, *, keep_end: bool = True) -> tuple[Ints, int]:
        """Return the tokens that stay when the end of the content goes and the template's own end stays, and how many pictures fit.

        Without `keep_end` the template's end goes too, and what stays is what the tokenizer itself puts behind a row.
        """
        content = [self.covering(span) for span in (*self.own, *self.blocks)]
        last, first = max(behind for _, behind in content), min((start for start, behind in content if behind), default=0)
        if not keep_end:
            written = np.flatnonzero(self.offsets[:, 1] > self.offsets[:, 0])
            last = int(written[-1]) + 1 if len(written) else len(self)
        tail = len(self) - last
        keep = length - tail
        fitting = sum(self.covering(span)[1] <= keep for span in self.blocks)
        if keep <= first:
            return np.zeros(0, np.int64), fitting
        return np.concatenate([np.arange(keep), np.arange(last, len(self))]), fitting


def word_tokens(row: TokenRow) -> Bools:
    """Say which tokens cover the document's text and nothing else but white space beside it."""
    own = np.zeros(len(row.text) + 1, np.int64)
    allowed = np.zeros(len(row.text) + 1, np.int64)
    for start, end in row.own:
        own[start:end] = 1
        allowed[_back(row.text, start) : _on(row.text, end)] = 1
    before_own, before_allowed = (np.concatenate([[0], np.cumsum(flags)]) for flags in (own, allowed))
    starts, ends = row.offsets[:, 0], row.offsets[:, 1]
    touches = before_own[ends] > before_own[starts]
    clean = before_allowed[ends] - before_allowed[starts] == ends - starts
    words: Bools = touches & clean
    return words


def _back(text: str, at: int) -> int:
    """Go back over white space."""
    while at > 0 and text[at - 1].isspace():
        at -= 1
    return at


def _on(text: str, at: int) -> int:
    """Go on over white space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


# Pictures that a model sees twice: cut into tiles, and once more as a whole.
#
# A patch masked in a tile and visible in the overview would be masked from nobody. So each token gets a *cell* of its
# picture's overview: its own, or for a token of a tile the one that holds its middle; cells are masked with all their
# tokens. Where the grid of tiles divides evenly (all families but LLaVA-OneVision) a cell's tokens show just that
# cell, and what shows elsewhere is the resampling at its rim.
#
# How the tiles lie is not in a processor's output, and what decides it differs between processors. So a ramp of
# colours of the picture's size goes through the same processor: its tiles, laid together and made small, look like
# its overview in one way only. That costs a second run for each new size of a tiled picture, and, unlike a look at
# the picture itself, leaves masks independent of what is under them.

# A mosaic that is no picture of the overview is about twice its variance away from it, one that is far below half.
_ALIKE = 0.5
_REMEMBERED = 100_000


@dataclass(frozen=True)
class TileGrid:
    """How a picture's tiles lie: which is the overview, and the rows and columns of the others."""

    overview: int
    rows: int
    columns: int


class TileGrids:
    """The grids of one processor's pictures by their size."""

    def __init__(self, processor: Any, side: int) -> None:
        """Remember what is needed to look one up."""
        self.processor, self.side = processor, side
        self._known: dict[tuple[int, int], TileGrid | None] = {}

    def __call__(self, size: tuple[int, int]) -> TileGrid | None:
        """Return the grid of a picture of this width and height; `None` where it has no overview."""
        if size not in self._known:
            if len(self._known) > _REMEMBERED:
                self._known.clear()
            pixels = process_image(self.processor, ramp(*size))["pixel_values"]
            self._known[size] = find_grid(pixels.reshape(-1, *pixels.shape[-3:]), self.side)
        return self._known[size]


def process_image(processor: Any, picture: PILImage.Image) -> Any:
    """Run the processor over one picture."""
    return processor(text=[str(processor.image_token)], images=[[picture]], images_kwargs={"return_tensors": "pt"})


def ramp(width: int, height: int) -> PILImage.Image:
    """Make a picture whose every place has a colour of its own."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None, :]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return PILImage.fromarray(pixels)


def tile_cells(count: int, side: int, grid: TileGrid | None) -> Ints:
    """Return the cell of each token of one picture's `count` tiles, `side` tokens along each."""
    square = np.arange(side * side)
    if grid is None:
        return np.arange(count * side * side)
    lines = overview_cells(side, grid.rows * side, grid.columns * side).reshape(grid.rows, side, grid.columns, side)
    fine = lines.transpose(0, 2, 1, 3).reshape(grid.rows * grid.columns, side * side)
    return np.insert(fine, grid.overview, square, axis=0).reshape(-1)


def overview_cells(side: int, rows: int, columns: int) -> Ints:
    """Return for a grid of tokens which of the overview's `side` x `side` cells holds the middle of each."""
    down = ((2 * np.arange(rows) + 1) * side) // (2 * rows)
    across = ((2 * np.arange(columns) + 1) * side) // (2 * columns)
    return down[:, None] * side + across[None, :]


def line_places(size: tuple[int, int], pinpoints: tuple[tuple[int, int], ...], tile: int, side: int, count: int) -> tuple[Ints, Ints]:
    """Return unit and cell of each token of a picture that is packed in lines: an overview, then the unpadded tiles line by line.

    Each line ends with a token that stands for no pixels (unit -1). In a row of several pictures there is the overview alone.
    """
    square = np.arange(side * side)
    if count == side * side + 1:
        return np.append(square, -1), np.append(square, -1)
    height, width = select_best_resolution(size, [list(one) for one in pinpoints])
    columns = width // tile
    map_height, map_width = height // tile * side, columns * side
    # As the model does: the side that was padded is cut to the picture's own shape.
    if size[1] / size[0] > map_width / map_height:
        top, left = (map_height - int(round(size[0] * (map_width / size[1]), 7))) // 2, 0
    else:
        top, left = 0, (map_width - int(round(size[1] * (map_height / size[0]), 7))) // 2
    y, x = np.arange(top, map_height - top), np.arange(left, map_width - left)
    if count != side * side + len(y) * (len(x) + 1):
        raise ContentError(
            f"a picture of {size[0]} x {size[1]} pixels has more tiles than the model takes and its features are resampled, so no token "
            "is tied to its pixels; use smaller pictures, or pre-train on words alone (mae_weight=0)"
        )
    tiles = 1 + (y // side)[:, None] * columns + (x // side)[None, :]
    units = tiles * side * side + (y % side)[:, None] * side + (x % side)[None, :]
    cells = overview_cells(side, len(y), len(x))
    ends = ((0, 0), (0, 1))
    lines = [np.pad(part, ends, constant_values=-1).reshape(-1) for part in (units, cells)]
    return np.append(square, lines[0]), np.append(square, lines[1])


def find_grid(tiles: Tensor, side: int) -> TileGrid | None:
    """Find which tile is the overview (the first or the last) and how the others lie; `None` where none is the others made small."""
    if len(tiles) == 1:
        return None
    small = functional.adaptive_avg_pool2d(tiles.float(), 4 * side)
    count, channels, edge, _ = small.shape
    best: tuple[float, int, int, int] | None = None
    for overview in (count - 1, 0):
        whole = small[overview]
        others = torch.cat([small[:overview], small[overview + 1 :]])
        for rows in range(1, count):
            if (count - 1) % rows:
                continue
            columns = (count - 1) // rows
            mosaic = (
                others.reshape(rows, columns, channels, edge, edge).permute(2, 0, 3, 1, 4).reshape(channels, rows * edge, columns * edge)
            )
            off = float((functional.adaptive_avg_pool2d(mosaic, edge) - whole).square().mean())
            if off <= _ALIKE * float(whole.var()) + 1e-6 and (best is None or off < best[0]):
                best = (off, overview, rows, columns)
    return None if best is None else TileGrid(*best[1:])


# Which pixels one image token covers, for every family, from the model's config and what its processor gives.
#
# There are two layouts. Where `pixel_values` has a row for each patch (`image_grid_thw` says how they lie), a token
# stands for as many consecutive rows as the tower merges. Where it has tiles (…, channels, height, width), a token
# stands for a block of a tile, and the tokens of a tile are a square, row by row; pixel shuffle and pooling make
# blocks larger than the tower's patches, and nothing else differs.
#
# A geometry numbers the units of a row's pixels, one unit a token and its values patch by patch, reads and writes
# them. `places` says for each image token which unit it stands for (-1: none, such as the token that ends a line of
# tiles) and which cell of its picture it shows: tokens that show the same part of a picture, in the tiles and in the
# overview, have one cell and are masked together, or each would give the other away.
#
# A video of a family with rows of patches has tokens and pixels of its own, laid out alike; its units follow those of
# the row's pictures. A token of it stands for as many frames as the tower takes at once, so a masked one is a tube
# through these. What shows in the frames before and after stays visible, unless tubes go through all of them, or whole
# frames are masked (`cells_in_time`).

PIXELS, GRID, SIZES = "pixel_values", "image_grid_thw", "image_sizes"
VIDEO_PIXELS, VIDEO_GRID = "pixel_values_videos", "video_grid_thw"


@dataclass(frozen=True)
class PatchPlaces:
    """For each image token: its unit in the table, or -1, and its cell; equal cells of one picture are masked together."""

    units: Ints
    cells: Ints


@dataclass(frozen=True)
class PatchGeometry:
    """How one model's image tokens and pixels belong together."""

    image_token: int
    token_keys: tuple[str, ...]  # what the processor gives for each token
    width: int = 0  # values of one token
    patches: int = 1  # of one token
    channels: int = 0
    patch: int = 0
    frames: int = 1  # of one patch; a still image is repeated
    side: int = 0  # tokens along a tile's side; 0 where pixels come as rows of patches
    pinpoints: tuple[tuple[int, int], ...] = ()
    trouble: str = ""  # why a token cannot be tied to its pixels; words can be masked all the same
    video_token: int | None = None  # that videos have, where it is another one and their pixels are laid out alike

    @classmethod
    def of(cls, config: Any, processor: Any) -> PatchGeometry:
        """Read a model's config, and look at what its processor makes of a picture."""
        token = getattr(config, "image_token_id", None)
        token = getattr(config, "image_token_index", None) if token is None else token
        if token is None or getattr(config, "vision_config", None) is None:
            raise TwowayError(f"a {config.model_type} model has no image token or no vision tower in its config")
        out = process_image(processor, ramp(64, 64))
        ids = np.asarray(out["input_ids"][0])
        names = (name for name, value in out.items() if name not in ("attention_mask", "labels"))
        keys = tuple(name for name in names if np.shape(out[name]) == (1, len(ids)))
        pixels = out.get(PIXELS)
        if not isinstance(pixels, torch.Tensor) or (GRID not in out and pixels.dim() < 4):
            return cls(int(token), keys, trouble=f"{type(processor).__name__} gives pixels in a layout that is not known")
        if GRID in out:
            found = cls._of_rows(config.vision_config, int(token), keys, pixels.shape[1])
            video = getattr(config, "video_token_id", None)
            return found if video is None else replace(found, video_token=int(video))
        pinpoints = tuple((int(one[0]), int(one[1])) for one in getattr(config, "image_grid_pinpoints", None) or ())
        return cls._of_tiles(config.vision_config, int(token), keys, tuple(pixels.shape), int((ids == token).sum()), pinpoints)

    @classmethod
    def _of_rows(cls, vision: Any, token: int, keys: tuple[str, ...], values: int) -> PatchGeometry:
        patch, frames, merged = int(vision.patch_size), int(vision.temporal_patch_size), int(vision.spatial_merge_size) ** 2
        return cls(token, keys, values * merged, merged, values // (frames * patch**2), patch, frames)

    @classmethod
    def _of_tiles(
        cls, vision: Any, token: int, keys: tuple[str, ...], shape: tuple[int, ...], count: int, pinpoints: tuple[tuple[int, int], ...]
    ) -> PatchGeometry:
        channels, height, width = shape[-3:]
        tiles = int(np.prod(shape[:-3]))
        patch = int(np.max(vision.patch_size))
        side = height // patch if pinpoints else math.isqrt(count // tiles)
        if not side or height != width or height % side or (not pinpoints and side * side * tiles != count):
            return cls(token, keys, trouble=f"{count} image tokens for {tiles} tiles of {height} x {width} pixels are not a square grid")
        block = height // side
        patch = patch if block % patch == 0 else block
        return cls(token, keys, channels * block**2, (block // patch) ** 2, channels, patch, 1, side, pinpoints)

    @property
    def values(self) -> int:
        """Return how many values one token covers; an error where tokens cannot be tied to pixels."""
        if self.trouble:
            raise TwowayError(f"{self.trouble}, so no token is tied to its pixels; pre-train this model on words alone (mae_weight=0)")
        return self.width

    @property
    def tiled(self) -> bool:
        """Say whether a picture may be cut into tiles that a grid describes."""
        return bool(self.side) and not self.pinpoints

    def is_patch(self, ids: Tensor) -> Tensor:
        """Return which tokens are those of pictures and videos."""
        found = ids == self.image_token
        return found if self.video_token is None else found | (ids == self.video_token)

    def places(self, inputs: Mapping[str, Tensor], pictures: Tensor, grids: Sequence[TileGrid | None] = ()) -> PatchPlaces:
        """Return where the image tokens of one row belong; `pictures` has each token's picture, `grids` how each picture's tiles lie."""
        numbers, units, cells, used = pictures.numpy(), [], [], 0
        if not self.side:
            return self._places_of_rows(inputs, numbers)
        values, pixels = self.values, inputs[PIXELS]
        square, tile = self.side**2, pixels.shape[-1]
        for number in np.unique(numbers):
            count = int((numbers == number).sum())
            if self.pinpoints:
                size = tuple(inputs[SIZES][number].tolist())
                unit, cell = line_places(size, self.pinpoints, tile, self.side, count)
                unit = np.where(unit < 0, -1, unit + number * pixels.shape[1] * square)
            else:
                unit = np.arange(used, used + count)
                cell = tile_cells(count // square, self.side, grids[number] if grids else None)
                used += count
            units.append(unit)
            cells.append(cell)
        if not self.pinpoints and used * values != pixels.numel():
            raise ContentError(f"{used} image tokens do not cover the pixels {tuple(pixels.shape)} of the row")
        return PatchPlaces(np.concatenate(units), np.concatenate(cells))

    def _places_of_rows(self, inputs: Mapping[str, Tensor], numbers: Ints) -> PatchPlaces:
        """Return the places where pixels come as rows of patches: pictures and videos take their own rows in turn."""
        ids = inputs["input_ids"]
        is_video = np.zeros(len(numbers), bool) if self.video_token is None else (ids[self.is_patch(ids)] == self.video_token).numpy()
        units, first = np.zeros(len(numbers), np.int64), 0
        for name, own in ((PIXELS, ~is_video), (VIDEO_PIXELS, is_video)):
            count, held = int(own.sum()), inputs[name].numel() if name in inputs else 0
            if count * self.values != held:
                raise ContentError(f"{count} image tokens do not cover the {held:,} values of {name} in the row")
            units[own] = first + np.arange(count)
            first += count
        starts = np.concatenate([[0], np.flatnonzero(np.diff(numbers)) + 1, [len(numbers)]])
        return PatchPlaces(units, np.arange(len(numbers)) - np.repeat(starts[:-1], np.diff(starts)))

    def cells_in_time(self, cells: Ints, inputs: Mapping[str, Tensor], pictures: Tensor, unit: VideoUnit) -> Ints:
        """Return the cells of `places` such that those of a video are tubes through all its frames, or whole frames; images keep theirs."""
        if unit == "patch" or VIDEO_GRID not in inputs or self.video_token is None:
            return cells
        ids, made = inputs["input_ids"], cells.copy()
        is_video = (ids[self.is_patch(ids)] == self.video_token).numpy()
        numbers = np.where(is_video, pictures.numpy(), -1)
        for number, (_, height, width) in zip(np.unique(numbers[is_video]), inputs[VIDEO_GRID].tolist(), strict=True):
            own, area = numbers == number, height * width // self.patches
            made[own] = cells[own] % area if unit == "tube" else cells[own] // area
        return made

    def take(self, inputs: Mapping[str, Tensor], units: Ints) -> Tensor:
        """Return the values (tokens, values) of these units, patch by patch."""
        found = torch.zeros(len(units), self.values)
        for name, own, index in self._tables(inputs, units):
            found = found.to(inputs[name].dtype)
            found[own] = self._view(inputs[name])[index].reshape(-1, self.values)
        return found

    def put(self, inputs: Mapping[str, Tensor], units: Ints, values: Tensor) -> dict[str, Tensor]:
        """Return the inputs with other values in these units; all frames of a still picture are overwritten."""
        changed = dict(inputs)
        for name, own, index in self._tables(inputs, units):
            pixels = changed[name] = inputs[name].clone(memory_format=torch.contiguous_format)
            view = self._view(pixels)
            view[index] = values[own].to(pixels.dtype).reshape(view[index].shape)
        return changed

    def _tables(self, inputs: Mapping[str, Tensor], units: Ints) -> Iterator[tuple[str, Tensor, tuple[Tensor, ...]]]:
        """Go through the inputs that hold pixels: which of the units lie there, and where."""
        first = 0
        for name in (PIXELS, VIDEO_PIXELS):
            if name in inputs:
                count = inputs[name].numel() // self.values
                own = (units >= first) & (units < first + count)
                if own.any():
                    yield name, torch.from_numpy(own), self._index(units[own] - first)
                first += count

    def units(self, inputs: Mapping[str, Tensor]) -> int:
        """Return how many units a row has, those of tiles that only fill up included."""
        return sum(inputs[name].numel() for name in (PIXELS, VIDEO_PIXELS) if name in inputs) // self.values

    def _view(self, pixels: Tensor) -> Tensor:
        """Return the pixels as rows of patches (units, values), or as tiles (tile, line, column, then patch by patch), without a copy."""
        if not self.side:
            return pixels.view(-1, self.values)
        many = math.isqrt(self.patches)
        shape = (-1, self.channels, self.side, many, self.patch, self.side, many, self.patch)
        return pixels.contiguous().view(shape).permute(0, 2, 5, 3, 6, 1, 4, 7)

    def _index(self, units: Ints) -> tuple[Tensor, ...]:
        shape = (1 + int(units.max(initial=0)) // self.side**2, self.side, self.side) if self.side else (1 + int(units.max(initial=0)),)
        return tuple(map(torch.from_numpy, np.unravel_index(units, shape)))
