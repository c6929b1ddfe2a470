"""How many operations a model's work takes, counted on the model itself with nothing computed: the one counter of the package.

The module that trains runs on the meta device, which knows shapes alone, forward and backward, with real batches, while the formulas of
torch's FlopCounterMode add up every product (`count`). So the forms that attention takes, frozen parts, adapters and activations that are
computed again are those of the training itself, no weights are read, and the same command gives the same numbers on every machine.

Where a run for every size would take too long, a few sizes are run and a line goes through them in what the work follows from (`fit`):
tokens and their squares, image tokens and their squares for each picture. So are told

- the work of any batch of a pre-training (`BatchWork`), for the share of the machine's peak, and what an image token and a picture cost
  in text tokens, for batches of equal cost (`measure_work`); `calibrate=time` takes the machine's seconds for the costs instead, which
  see what counting does not (small products are slow). Either is kept with the run, so that going on plans the same batches
- the same cost for pairs, from their vectors alone (`image_token_cost`)
- the work of a stage by part of the model, for a plan at full size (`recipes.plan`)

Activations that are computed twice are told apart (`AGAIN`): it is not work that the model needs.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft.tuners.lora.dora import DoraLinearLayer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils.flop_counter import flop_registry
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.initialization import no_init_weights

from twoway.content import ContentError, Document, Image, Text
from twoway.data.config import CostWeights
from twoway.data.masking import NO_TARGET
from twoway.data.patches import VIDEO_GRID, ramp
from twoway.data.sampler import NO_EXTRA_COST
from twoway.errors import TwowayError
from twoway.losses.masked_patches import PatchDecoder
from twoway.models import loading
from twoway.models.attention import set_attention
from twoway.training.module import to_device
from twoway.training.probes import evaluating

from .config import PairsConfig
from .memory import CHUNK, tower_layers
from .pretrain.config import PretrainConfig
from .pretrain.step import PATCHES, make_module
from .tables import counted_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from transformers import PreTrainedConfig

    from twoway.data.patches import PatchGeometry
    from twoway.training.module import Batch

    from .config import MethodConfig
    from .model import PreparedModel
    from .pretrain.step import Reconstruction

FORWARD, BACKWARD, AGAIN = "forward", "backward", "again"
NEEDED = (FORWARD, BACKWARD)
PARTS = TOWER, PROJECTOR, LANGUAGE, HEAD, DECODER, VALUES = "tower", "projector", "language model", "head", "decoder", "decoder's values"
OTHER = "other"

Operations = Counter[tuple[str, str]]  # by part of the model, and forward, backward or again


def total(operations: Operations, *kinds: str, part: str | None = None) -> int:
    """Add operations up: of some kinds (default: all), of one part or of all."""
    return sum(many for (where, kind), many in operations.items() if (not kinds or kind in kinds) and part in (None, where))


def count(module: nn.Module, run: Callable[[], torch.Tensor]) -> Operations:
    """Count what `run` does with a module, and going back from what it returns, where that has a gradient."""
    followed, layers = _parts(module)
    with _without_values(module), _Shapes() as shapes, _followed(shapes, followed, layers):
        out = run()
        if out.requires_grad:
            out.backward()  # type: ignore[no-untyped-call]
    found: Operations = shapes.found
    return found


_Place = tuple[str, int]


class _Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs what touches a tensor without values on shapes alone, and gives each product to the part that does it.

    Numbers of rows, places and sizes have their values, on the CPU: they say what is run. What is on the meta device stays there.
    A FlopCounterMode around it would count the same, by module too, in twice the time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counts: Counter[tuple[_Place, str]] = Counter()
        self.at: _Place = (OTHER, 0)  # what is at work: a part of the model, or one layer of it
        self.times: Counter[_Place] = Counter()  # how many layers a layer stands for

    @property
    def found(self) -> Operations:
        """Return the operations of all layers by part."""
        found = Operations()
        for (place, kind), many in self._counts.items():
            found[place[0], kind] += many * max(self.times[place], 1)
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, packet = kwargs or {}, func.overloadpacket
        formula = flop_registry.get(packet)
        if formula is None:
            with self:
                made = func.decompose(*args, **given)  # of what is made of several operations, each is counted
            if made is not NotImplemented:
                return made
        if given or packet in _INDEXED or not all(_has_no_values(one) for one in args):
            args, given = _on_shapes(packet, args, given)
        out = func(*args, **given)
        if formula is not None:
            # While the gradient goes back, only activations that are computed again want one themselves.
            kind = (AGAIN if torch.is_grad_enabled() else BACKWARD) if going_back() else FORWARD
            self._counts[self.at, kind] += formula(*args, **given, out_val=out)
        return out


def _has_no_values(value: Any) -> bool:
    """Say of a tensor that it has shapes alone, or of a number that it may go with one; of a list, of all that it holds."""
    if isinstance(value, torch.Tensor):
        return value.is_meta
    return all(map(_has_no_values, value)) if isinstance(value, list) else isinstance(value, int | float | None)


def _on_shapes(packet: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Take the values from all tensors where one has none; without such a one, work on the CPU.

    An identity, which DoRA makes as large as a layer is wide to see the layer's weights, says nothing of what is run.
    """
    if packet in _INDEXED:
        args = args[0], [part for one in args[1] for part in _by_number(one)], *args[2:]
    leaves, tree = tree_flatten((args, given))
    if packet is torch.ops.aten.eye or any(isinstance(one, torch.Tensor) and one.is_meta for one in leaves):
        leaves = [one.to("meta") if isinstance(one, torch.Tensor) else one for one in leaves]
    else:
        leaves = [torch.device("cpu") if isinstance(one, torch.device) and one.type == "meta" else one for one in leaves]
    args, given = tree_unflatten(leaves, tree)
    return args, given


_INDEXED = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


def _by_number(index: torch.Tensor | None) -> Sequence[torch.Tensor | None]:
    """Name the places of a mask by number: how many there are says the shape of what comes out."""
    return index.nonzero().unbind(1) if index is not None and index.dtype == torch.bool and not index.is_meta else [index]


def going_back() -> bool:
    """Say whether a gradient is on its way."""
    return bool(torch._C._current_graph_task_id() != -1)


@contextmanager
def _without_values(module: nn.Module) -> Iterator[None]:
    """Put the weights of a module on the meta device for a while; they are neither moved nor copied."""
    twins: dict[int, torch.Tensor] = {}
    held: list[tuple[dict[str, Any], str, torch.Tensor]] = [
        (place, key, tensor)
        for part in module.modules()
        for place in (part._parameters, part._buffers)
        for key, tensor in place.items()
        if tensor is not None and tensor.is_floating_point() and not tensor.is_meta
    ]
    for _, _, tensor in held:
        if id(tensor) not in twins:
            shape = torch.empty_like(tensor.detach(), device="meta")
            twins[id(tensor)] = nn.Parameter(shape, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shape
    try:
        for place, key, tensor in held:
            place[key] = twins[id(tensor)]
        yield
    finally:
        for place, key, tensor in held:
            place[key] = tensor


def _parts(module: Any) -> tuple[list[tuple[str, nn.Module]], list[tuple[str, nn.Module]]]:
    """Return the parts that operations are told apart by, and the layers within them, where the module is one that trains a model."""
    model, decoder = getattr(module, "model", None), getattr(module, "decoder", None)
    if model is None:
        return [], []
    found = loading.parts(model)
    layers = [(LANGUAGE, one) for one in found.layers]
    parts = [(LANGUAGE, found.language[1]), *((PROJECTOR, one) for _, one in found.projectors)]
    if found.head is not None:
        parts.append((HEAD, found.head))
    if decoder is not None:
        parts += [(DECODER, decoder.body), (VALUES, decoder.to_values)]
        layers += [(DECODER, one) for one in decoder.body.layers]
    if found.tower is not None:
        blocks = tower_layers(found.tower[1])
        apart = {id(one) for _, module in (*found.projectors, ("", blocks)) for one in module.modules()}
        whole = {id(above) for above in found.tower[1].modules() if any(id(one) in apart for one in above.modules())}
        parts += [(TOWER, one) for one in found.tower[1].modules() if id(one) not in whole]
        layers += [(TOWER, one) for one in blocks]
        parts.append((TOWER, found.tower[1]))
    return parts, layers


@contextmanager
def _followed(shapes: _Shapes, parts: Sequence[tuple[str, nn.Module]], layers: Sequence[tuple[str, nn.Module]]) -> Iterator[None]:
    """Tell `shapes` which part is at work: on the way forward by its call, on the way back by the gradient of what it gave.

    Of layers that are alike, with inputs that are alike, the first runs and stands for all; the others hand on what they get.
    """
    above: list[_Place] = []
    alike: dict[Any, tuple[_Place, Any]] = {}
    inside = {id(layer) for _, layer in layers}
    whole = {id(module) for _, module in parts if any(id(one) in inside for one in module.modules())}  # may give what a layer gave

    def watch(out: Any, place: _Place) -> None:
        for one in tree_leaves(out):
            if isinstance(one, torch.Tensor) and one.requires_grad:
                one.register_hook(lambda _gradient: setattr(shapes, "at", place))  # type: ignore[no-untyped-call]

    def enter(part: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            above.append(shapes.at)
            shapes.at = part, 0

        return hook

    def leave(part: str) -> Callable[..., None]:
        def hook(module: nn.Module, _args: Any, out: Any) -> None:
            if not going_back() and id(module) not in whole:
                watch(out, (part, 0))
            shapes.at = above.pop()

        return hook

    def run(part: str, layer: nn.Module, plain: Callable[..., Any]) -> Callable[..., Any]:
        place = part, 1 + len(alike)

        def call(*args: Any, **given: Any) -> Any:
            nonlocal place
            if going_back():  # activations are computed again, up to the last that is asked for
                shapes.at = place
                return plain(*args, **given)
            key = part, layer.training, type(layer), _looks((list(layer.parameters()), args, given))
            states = next(one for one in tree_leaves((args, given)) if isinstance(one, torch.Tensor))
            if key in alike:
                stands, out = alike[key]
                shapes.times[stands] += 1
                return states if out is None else (states, *out)
            place, before = (part, 1 + len(alike)), shapes.at
            shapes.at = place
            out = plain(*args, **given)
            watch(out, place)
            shapes.at = before
            if isinstance(out, torch.Tensor | tuple) and tree_leaves(out)[0].shape == states.shape:
                alike[key] = place, None if isinstance(out, torch.Tensor) else out[1:]
                shapes.times[place] = 1
            return out

        return call

    hooks = [module.register_forward_pre_hook(enter(part)) for part, module in parts]
    hooks += [module.register_forward_hook(leave(part)) for part, module in parts]
    for part, layer in layers:
        vars(layer)["forward"] = run(part, layer, layer.forward)
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
        for _, layer in layers:
            del vars(layer)["forward"]


def _looks(values: Any) -> tuple[Any, ...]:
    """Return what the work on some values follows from: shapes, whether a gradient is wanted, and borders."""
    return tuple(
        (
            one.shape,
            one.dtype,
            one.requires_grad,
            tuple(one.tolist()) if one.dim() == 1 and not one.is_meta and one.dtype == torch.int32 else (),
        )
        if isinstance(one, torch.Tensor)
        else one
        if isinstance(one, int | float | str | None)
        else type(one)
        for one in tree_leaves(values)
    )


def stage_module(
    model_config: PreTrainedConfig, config: MethodConfig, *, values: int, pad_token: int = 0, token_keys: Sequence[str] = ()
) -> Reconstruction:
    """Make what a stage trains, without weights.

    Vectors are made by the model without its head, so a module that has no loss stands for `finetune`.
    """
    config = dataclasses.replace(config, torch_compile=False)
    causal = getattr(config, "objective", "") == "causal"
    with torch.device("meta"), no_init_weights():
        model = AutoModelForImageTextToText.from_config(copy.deepcopy(model_config), dtype=torch.float32)
    model.tie_weights()
    set_attention(model, "causal" if causal else "two-way")
    decoder = None
    if isinstance(config, PretrainConfig) and config.mae_weight and not causal:
        depth, drop = config.decoder_depth, config.masked_patches == "drop"
        decoder = PatchDecoder(model.get_decoder(), values=values, depth=depth, mask_state=drop)
    image_token = int(getattr(model_config, "image_token_id", None) or 0)
    words = 0.0 if isinstance(config, PairsConfig) else float(getattr(config, "mlm_weight", 1.0))
    module, _ = make_module(model, config, decoder, words=words, image_token=image_token, pad_token=pad_token, token_keys=token_keys)
    return module.train()


def count_batch(module: Reconstruction, batch: Batch) -> Operations:
    """Count a step's work on one batch."""
    given = {key: value for key, value in batch.items() if key != "identities"}
    return count_once(module, given, lambda: module(given, module.loss_weights)[0])


_counted: dict[str, Operations] = {}


def count_once(module: nn.Module, given: Mapping[str, Any], run: Callable[[], torch.Tensor], *, name: str = "") -> Operations:
    """Count what `run` (its `name`) does with a module and what it is given, or return what was counted of the like in this process."""
    key = hashlib.sha256(repr((name, torch.is_grad_enabled(), _outline(given), [*map(_settings, module.modules())])).encode()).hexdigest()
    if key not in _counted:
        _counted[key] = count(module, run)
    return Operations(_counted[key])


def _outline(value: Any) -> Any:
    """Return shapes of numbers, and the whole numbers themselves: they say where pictures and targets are."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype, None if value.is_floating_point() or value.is_meta else value.tolist()
    if isinstance(value, Mapping):
        return [(key, _outline(one)) for key, one in value.items()]
    return [_outline(one) for one in value] if isinstance(value, list | tuple) else value


def _settings(part: nn.Module) -> Any:
    """Return what says how a part of a module works: its class, its own settings, and the shapes of its weights and which of them train."""
    own = [
        (key, value if isinstance(value, bool | int | float | str | tuple) or key == "loss_weights" else type(value))
        for key, value in vars(part).items()
    ]
    weights = [(key, one if one is None else (one.shape, one.dtype, one.requires_grad)) for key, one in part._parameters.items()]
    config = (part.config.to_json_string(use_diff=False), part.config._attn_implementation) if isinstance(part, PreTrainedModel) else ()
    return type(part), own, weights, config


# The work of batches of a pre-training, of any model: a few small batches of words and of pictures are counted, and a
# line goes through them in what is known of a batch without a model. What the heads do goes by their targets.

# Words of a text, and pictures by width and height, of the batches that are tried: sizes that most processors give other numbers of tokens.
_SMALL, _LARGE = (96, 64), (160, 160)
_TRIED: tuple[tuple[int, tuple[tuple[int, int], ...]], ...] = (
    (6, ()), (24, ()), (60, ()), (12, (_SMALL,)), (40, (_SMALL,)), (12, (_SMALL,) * 3), (12, (_LARGE,)), (40, (_LARGE,) * 2),
)  # fmt: skip
_ROUNDS, _LONGER, _FACTS = 3, 4, 6


@dataclass(frozen=True)
class BatchWork:
    """What was found of one model: the operations of a batch, by its `facts` and its targets, and what pictures cost in text tokens."""

    line: tuple[float, ...]
    targets: Mapping[str, float]  # operations for each target of a loss
    forward: float  # share of them that is on the way forward
    cost: CostWeights

    def of(self, batch: Batch, module: Reconstruction, geometry: PatchGeometry) -> float:
        """Return the operations of a batch."""
        counts = module.count_targets(batch)
        return float(np.dot(self.line, batch_facts(batch, module, geometry))) + sum(
            counts.get(name, 0) * one for name, one in self.targets.items()
        )


def known_work(
    config: PretrainConfig,
    prepared: PreparedModel[Reconstruction],
    make: Callable[[str, Document], Batch],
    folder: Path,
) -> BatchWork:
    """Count, or read what was counted when the run began. `make` turns a document into a masked row's batch."""

    def found() -> dict[str, Any]:
        work = measure_work(prepared.module, make, prepared.geometry)
        if config.calibrate == "time":
            # In pieces a model may fit where it does not in one.
            whole = config.device == "auto" and config.parallel == "ddp" and torch.accelerator.is_available()
            device = torch.accelerator.current_accelerator() if whole else None
            device = device or torch.device("cpu")
            cost = measure_seconds(prepared.module, make, prepared.geometry, device, half=config.dtype == "bfloat16")
            work = dataclasses.replace(work, cost=cost)
        return dataclasses.asdict(work)

    kept = counted_once(config, prepared, folder, "work", found)
    return BatchWork(tuple(kept["line"]), kept["targets"], kept["forward"], CostWeights(**kept["cost"]))


def measure_work(module: Reconstruction, make: Callable[[str, Document], Batch], geometry: PatchGeometry) -> BatchWork:
    """Count a few batches. Nothing is known where no row is short enough."""
    tried = _trials(make)
    if not tried:
        return BatchWork((0.0,) * _FACTS, {}, 0.0, CostWeights())
    with evaluating(module), torch.enable_grad():
        counted = [count_batch(module, batch) for batch in tried]
    many = [module.count_targets(batch) for batch in tried]
    heads = {module.word_loss_name: HEAD, PATCHES: VALUES}
    targets = {
        name: sum(total(one, *NEEDED, part=part) for one in counted) / seen
        for name, part in heads.items()
        if (seen := sum(one.get(name, 0) for one in many))
    }
    whole = [total(one, *NEEDED) for one in counted]
    rest = [many - sum(total(one, *NEEDED, part=part) for part in heads.values()) for many, one in zip(whole, counted, strict=True)]
    line = fit([batch_facts(batch, module, geometry) for batch in tried], rest)
    forward = sum(total(one, FORWARD) for one in counted) / max(sum(whole), 1)
    return BatchWork(tuple(line), targets, forward, cost_weights(tried, whole, geometry))


def measure_seconds(
    module: Reconstruction, make: Callable[[str, Document], Batch], geometry: PatchGeometry, device: torch.device, *, half: bool
) -> CostWeights:
    """Take the seconds of a few batches; training notices nothing of it but the place of the weights."""
    module.to(device)
    tried = _trials(make, _LONGER)
    with evaluating(module), torch.enable_grad():
        taken = _seconds(module, tried, device, half=half)
    module.zero_grad(set_to_none=True)
    return cost_weights(tried, taken, geometry) if tried else CostWeights()


def batch_facts(batch: Batch, module: Reconstruction, geometry: PatchGeometry) -> list[float]:
    """Return what the work of a batch is a line in: tokens and their squares, again where the decoder reads them, and those of pictures.

    Of dropped patches only the decoder reads anything.
    """
    (rows, length), masked = batch["labels"].shape, batch["patch_mask"]
    kept, read = length, bool(masked.any())
    if module.drops_patches and read:
        kept = int((batch["inputs"]["attention_mask"].bool() & ~masked).sum(1).max())
    images, pictures = count_pictures(batch, geometry)
    return [rows * kept, rows * kept**2, rows * length * read, rows * length**2 * read, images, images**2 / max(pictures, 1)]


def count_pictures(batch: Batch, geometry: PatchGeometry) -> tuple[int, int]:
    """Return how many tokens of pictures a batch has, and how many pictures they are of: stretches of them with something between.

    Of a video each step of its grid, a frame or a pair of frames, is a picture: a tower looks at one at a time.
    """
    ids, grid = batch["inputs"]["input_ids"], batch["inputs"].get(VIDEO_GRID)
    shown = ids == geometry.image_token
    begins = shown & ~torch.nn.functional.pad(shown, (1, 0))[:, :-1]
    return int(geometry.is_patch(ids).sum()), int(begins.sum()) + (0 if grid is None else int(grid[:, 0].sum()))


def cost_weights(tried: Sequence[Batch], counted: Sequence[float], geometry: PatchGeometry) -> CostWeights:
    """Return what image tokens and pictures cost besides what every token does; rounded, so that crumbs do not change plans."""
    text, token, picture = fit([(batch["labels"].numel(), *count_pictures(batch, geometry)) for batch in tried], counted)
    if text <= 0:
        return CostWeights()
    return CostWeights(round(1 + max(token / text, 0.0), 2), round(max(picture / text, 0.0), 1))


def fit(facts: Any, counted: Sequence[float]) -> list[float]:
    """Return the line through what was counted. A fact that those before it say already has no share (squares, where sizes are one)."""
    columns = np.array(facts, float)
    size = np.maximum(np.abs(columns).max(axis=0), 1e-9)
    columns /= size
    kept: list[int] = []
    for number in range(columns.shape[1]):
        if np.linalg.matrix_rank(columns[:, [*kept, number]]) > len(kept):
            kept.append(number)
    found = np.zeros(columns.shape[1])
    found[kept] = np.linalg.lstsq(columns[:, kept], np.array(counted, float), rcond=None)[0]
    return [float(one) for one in found / size]


def _trials(make: Callable[[str, Document], Batch], times: int = 1) -> list[Batch]:
    """Make batches of one row of words and pictures; those that cannot be made, or are longer than a row may be, are left out."""
    made = []
    for words, sizes in _TRIED:
        parts: tuple[Text | Image, ...] = (*(Image(ramp(*size)) for size in times * sizes), Text("some word " * words * times))
        try:
            made.append(make(f"work {words} {sizes}", Document(parts)))
        except ContentError:
            continue
    return made


def _seconds(module: Reconstruction, batches: Sequence[Batch], device: torch.device, *, half: bool) -> list[float]:
    """Return the median seconds of each batch, over rounds in which all are run in turns; the first round warms up."""
    taken: list[list[float]] = [[] for _ in batches]
    for _ in range(_ROUNDS + 1):
        for number, batch in enumerate(batches):
            start = time.perf_counter()
            moved = to_device({key: value for key, value in batch.items() if key != "identities"}, device)
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss, _ = module(moved, module.loss_weights)
            loss.backward()
            if device.type != "cpu":
                torch.accelerator.synchronize()
            taken[number].append(time.perf_counter() - start)
    return [statistics.median(one[1:]) for one in taken]


# What an image token costs in text tokens where vectors are made: a row of words and a row of a picture, as long as
# each other, so that attention costs both the same. The tower's work is in it, so that chunks of pictures alone are
# neither slower nor larger than chunks of text.

_WORDS, _SIDE = 600, 160


def image_token_cost(module: Any, encode: Callable[[str, Document], Any], collate: Callable[..., Any]) -> CostWeights:
    """Count both rows; where one cannot be made within the longest row, an image token counts as a word."""
    try:
        text = encode("cost", Document((Text("some word " * _WORDS),))).inputs
        shown = encode("cost", Document((Image(ramp(_SIDE, _SIDE)), Text("some word"))))
    except ContentError:
        return NO_EXTRA_COST
    tokens, images = len(shown.inputs["input_ids"]), int(shown.image_tokens.sum())
    alone = {name: value[:tokens] for name, value in text.items()}

    def operations(row: Mapping[str, Any]) -> int:
        inputs = collate([row])
        return total(count_once(module, inputs, lambda: module.states(inputs), name="states"))

    with evaluating(module, ("embed",)):
        words, pictures = operations(alone), operations(shown.inputs)
    each = words / len(alone["input_ids"])
    return CostWeights(round(max(1.0, (pictures - (tokens - images) * each) / (images * each)), 2)) if images else NO_EXTRA_COST


# The work of a stage by part of the model, for rows of any size, of families whose tower sees rows of patches merged by
# `spatial_merge_size` into image tokens (Qwen's): there a picture of any size is a grid, and no processor is needed.
# A few texts and pictures are counted, and a parabola goes through them, by part: in the tokens of a row,
# and for the tower in those of a picture.

_TEXTS, _SIDES = (128, 512, 2560), (8, 16, 24)  # the last text has more targets than have logits at a time; sides are whole windows
_BESIDE = 16  # words beside a picture


@dataclass(frozen=True)
class PictureGrid:
    """How a tower that merges patches sees pictures."""

    merged: int  # patches of an image token
    values: int  # of the pixels of an image token
    area: int  # pixels that an image token covers

    @classmethod
    def of(cls, name: str, config: Any) -> PictureGrid:
        """Read it from a model's config; other towers are refused, because their tiles would be guessed."""
        vision: Any = getattr(config, "vision_config", None)
        if not hasattr(vision, "spatial_merge_size"):
            raise TwowayError(
                f"{name} ({config.model_type}): plan knows towers that merge patches into image tokens (Qwen's families), "
                "and not this one; 'twoway run RECIPE OUT --dry-run' estimates it roughly"
            )
        merged, patch = int(vision.spatial_merge_size) ** 2, int(vision.patch_size) ** 2
        return cls(merged, merged * patch * int(vision.in_channels) * int(vision.temporal_patch_size), merged * patch)


@dataclass(frozen=True)
class Load:
    """Rows of one shape, or of this mean shape (the square of a mean is a little less than the mean of squares), and what has a target."""

    rows: float
    text: float
    pictures: float = 0.0
    tokens: float = 0.0  # of a picture
    words: float = 0.0  # places of a row with logits
    patches: float = 0.0  # image tokens of a row that are restored
    padded: float | None = None  # length that is computed; default: all of the row and no more

    @property
    def image(self) -> float:
        """Image tokens of a row."""
        return self.pictures * self.tokens

    @property
    def length(self) -> float:
        """Places of a row that are computed."""
        return self.text + self.image if self.padded is None else self.padded


@dataclass
class Products:
    """Operations by part: `needed` for the gradient, and `again` what is computed more than once."""

    needed: defaultdict[str, float]
    again: defaultdict[str, float]

    @property
    def total(self) -> float:
        """All that is done."""
        return sum(self.needed.values()) + sum(self.again.values())


class StageWork:
    """What a stage's module computes for rows of any size."""

    def __init__(self, module: Reconstruction, config: Any, *, masked: float = 0.0) -> None:
        """Count a few rows of a model with this config; `masked` is the share of patches that are restored."""
        # Only the norms of DoRA cost something for each call, so elsewhere two sizes tell a parabola.
        first = 0 if any(isinstance(one, DoraLinearLayer) for one in module.modules()) else 1
        texts = [_grid_batch(config, text=text) for text in _TEXTS[first:]]
        pictures = [_grid_batch(config, text=_BESIDE, side=side, masked=masked) for side in _SIDES[first:]]
        plain, shown = ([count_batch(module, batch) for batch in tried] for tried in (texts, pictures))
        lengths = [[batch["labels"].numel() for batch in tried] for tried in (texts, pictures)]
        areas = [side**2 for side in _SIDES[first:]]
        self._dropped = masked if module.drops_patches else 0.0
        kept = [round(length - self._dropped * area) for length, area in zip(lengths[1], areas, strict=True)]
        self._curves = {False: _curves(plain, lengths[0], lengths[0], lengths[0]), True: _curves(shown, lengths[1], areas, kept)}
        targets = {HEAD: (plain[-1], module.count_targets(texts[-1]).get(module.word_loss_name, 0))}
        targets |= {VALUES: (shown[-1], module.count_targets(pictures[-1]).get(PATCHES, 0))}
        self._targets = {
            label: many / seen for part, (found, seen) in targets.items() for label, many in found.items() if label[0] == part and seen
        }

    def of(self, loads: Iterable[Load], *, calls: float = 1.0, repeated: float = 0.0) -> Products:
        """Add up the work of all rows in `calls` batches, of which a share `repeated` goes forward once before (gradient caching)."""
        found: defaultdict[tuple[str, str], float] = defaultdict(float)
        loads = list(loads)
        chunked = sum(load.rows * load.words for load in loads) / max(calls, 1) > CHUNK
        for load in loads:
            for (part, kind), (once, square, _) in self._curves[load.pictures > 0].items():
                times, size = (load.rows * load.pictures, load.tokens) if part in (TOWER, PROJECTOR) else (load.rows, load.length)
                if part == LANGUAGE:
                    size -= load.image * self._dropped
                if part != DECODER or load.patches:
                    found[part, kind] += times * (once * size + square * size**2)
            for (part, kind), each in self._targets.items():
                if kind != AGAIN or chunked:
                    found[part, kind] += load.rows * (load.words if part == HEAD else load.patches) * each
        for label, (_, _, call) in self._curves[any(load.pictures for load in loads)].items():
            found[label] += calls * call
        made = Products(defaultdict(float), defaultdict(float))
        for (part, kind), many in sorted(found.items(), key=lambda one: (*PARTS, OTHER).index(one[0][0])):
            name = DECODER if part == VALUES else part
            made.needed[name] += many if kind in NEEDED else 0
            made.again[name] += many if kind == AGAIN else repeated * many if kind == FORWARD else 0
        return made

    def image_token(self, tokens: float = 500.0) -> float:
        """Return what an image token costs in text tokens, in rows and a picture of so many."""
        picture, text = (self.of([load]).total for load in (Load(1, 0, 1, tokens), Load(1, tokens)))
        return picture / text

    def forward(self, load: Load) -> float:
        """Return the operations of a pass without a gradient."""
        return self.of([load], repeated=1.0).total - self.of([load]).total


def _curves(
    counted: Sequence[Operations], lengths: Sequence[int], areas: Sequence[int], kept: Sequence[int]
) -> dict[tuple[str, str], list[float]]:
    """Return the parabola of each part and kind: by token, by token squared, by call. Heads go by their targets."""
    labels = dict.fromkeys(label for one in counted for label in one if label[0] not in (HEAD, VALUES))
    sizes = dict.fromkeys((TOWER, PROJECTOR), areas) | {LANGUAGE: kept}
    return {
        label: fit([(size, size**2, 1) for size in sizes.get(label[0], lengths)], [float(one[label]) for one in counted])
        for label in labels
    }


def _grid_batch(config: Any, *, text: int, side: int = 0, masked: float = 0.0) -> Batch:
    """Make a row of words, half of them targets, behind a square picture."""
    images = side * side
    ids = torch.full((1, images + bool(images) + text), 5)
    labels, mask = torch.full_like(ids, NO_TARGET), torch.zeros_like(ids, dtype=torch.bool)
    labels[:, -(text // 2) :] = ids[:, -(text // 2) :]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    grid = PictureGrid.of("", config)
    if images:
        ids[0, 0], ids[0, 1 : images + 1], mask[0, 1 : round(masked * images) + 1] = (
            config.vision_start_token_id,
            config.image_token_id,
            True,
        )
        merge = int(config.vision_config.spatial_merge_size)
        inputs["pixel_values"] = torch.empty(images * grid.merged, grid.values // grid.merged, device="meta")
        inputs["image_grid_thw"] = torch.tensor([[1, side * merge, side * merge]])
        inputs["mm_token_type_ids"] = (ids == config.image_token_id).long()
    return {
        "inputs": inputs,
        "labels": labels,
        "patch_mask": mask,
        "patch_targets": torch.empty(int(mask.sum()), grid.values, device="meta"),
    }
