"""What an image token costs in text tokens, counted on the model itself: a row of words and a row of a picture, product by product.

The tower's work is in it, so that chunks of pictures alone are neither slower nor larger than chunks of text. Counting gives the same on
every machine. Pre-training counts its own task more closely, in `work`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.flop_counter import FlopCounterMode

from twoway.content import ContentError, Document, Image, Text
from twoway.data.batching import PLAIN, CostWeights
from twoway.data.collate import model_inputs
from twoway.data.views import ramp
from twoway.training.probes import undisturbed
from twoway.training.task import to_device

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from twoway.data.encode import Encoder

_WORDS, _SIDE = 600, 160


def picture_cost(task: Any, encode: Encoder, device: torch.device, **padding: Any) -> CostWeights:
    """Count both rows; where one cannot be made within the longest row, an image token counts as a word."""
    try:
        text = encode("cost", Document((Text("some word " * _WORDS),))).inputs
        shown = encode("cost", Document((Image(ramp(_SIDE, _SIDE)), Text("some word"))))
    except ContentError:
        return PLAIN
    tokens, images = len(shown.inputs["input_ids"]), int(shown.image_tokens.sum())
    # As long as the other row, so that attention costs both the same.
    alone = {name: value[:tokens] for name, value in text.items()}
    with undisturbed(task, ("embed",)):
        task.to(device)
        words, pictures = (_operations(task.embed, to_device(model_inputs([row], **padding), device)) for row in (alone, shown.inputs))
    each = words / len(alone["input_ids"])
    return CostWeights(round(max(1.0, (pictures - (tokens - images) * each) / (images * each)), 2)) if images else PLAIN


def _operations(embed: Callable[[Any], Any], inputs: dict[str, Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        embed(inputs)
    return float(counter.get_total_flops())
