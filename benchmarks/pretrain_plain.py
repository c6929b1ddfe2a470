"""A plain transformers loop that works as MoCa's released code does; the other side of the pre-training benchmark.

Written for the benchmark, from what the released code and its training script do. Both forms pad to the longest row of the batch, run
the processor over the whole batch in the collator, attend with `eager` and a 4-D mask, make float32 logits of all positions, run the
decoder's linear layer at all positions, draw one noise vector a batch, and use AdamW as torch gives it. `released` does besides what the
script asks for: lengths padded to a multiple of 32, activations computed twice (gradient checkpointing), rows grouped by cost in bins
of a ratio of 1.3, an image token counted as 4 text tokens. The plain form takes rows at random.
Its script asks for bfloat16; `half` says whether it has it.

Two departures, both in its favour: attention is two-way under every kernel, and a batch without pictures gets no black one.
"""

from __future__ import annotations

import copy
import json
import math
import random
from typing import TYPE_CHECKING, Any

import torch
import transformers
from PIL import Image
from torch import nn
from torch.nn import functional

from twoway.models import processor

if TYPE_CHECKING:
    from pathlib import Path


_MULTIPLE, _RATIO, _IMAGE_TOKEN, _PICTURE = 32, 1.3, 4, 2


class PlainLoop:
    """Model, data and optimizer of the plain loop; `step(rows)` trains on rows by number."""

    def __init__(
        self, base: Path, data: Path, *, released: bool, half: bool, words: float = 0.4, patches: float = 0.5, lr: float = 2e-6
    ) -> None:
        """Load everything."""
        self.released, self.half = released, half
        self.model: Any = transformers.AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
        self.model.config.text_config.is_causal = False
        self.processor: Any = processor.load_processor(base)
        self.mask_token = processor.ensure_mask_token(self.model, self.processor).id
        layers = self.model.model.language_model.layers
        vision = self.model.config.vision_config
        self.merged = vision.spatial_merge_size**2
        values = self.merged * vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        self.decoder = copy.deepcopy(layers[len(layers) // 2])
        self.to_values = nn.Linear(self.model.config.text_config.hidden_size, values)
        self.parts = nn.ModuleList([self.model, self.decoder, self.to_values]).train()
        if released:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.optimizer = torch.optim.AdamW(self.parts.parameters(), lr=lr)
        self.home = data.parent
        self.rows = [json.loads(line)["parts"] for line in data.read_text().splitlines()]
        self.words, self.patches = 0.4, 0.5

    def order(self, rows: int) -> list[list[int]]:
        """Return the batches of an epoch, of `rows` rows each; `released` groups them by cost, and a bin's last batch may be small."""
        numbers = list(range(len(self.rows)))
        random.Random(0).shuffle(numbers)
        if not self.released:
            return [numbers[at : at + rows] for at in range(0, len(numbers), rows)]
        costs = [self._cost(self.rows[number]) for number in range(len(self.rows))]
        budget = rows * sum(costs) / len(costs)
        bins: dict[int, list[int]] = {}
        for number in numbers:
            bins.setdefault(math.ceil(math.log(max(costs[number] / _MULTIPLE, 1), _RATIO)), []).append(number)
        batches = []
        for level, members in sorted(bins.items()):
            size = max(1, int(budget // (_MULTIPLE * _RATIO**level)))
            batches += [members[at : at + size] for at in range(0, len(members), size)]
        return batches

    def _cost(self, parts: list[dict[str, str]]) -> float:
        """Return what the released code says a row costs."""
        text = sum(len(self.processor.tokenizer(part["text"])["input_ids"]) for part in parts if "text" in part)
        sizes = [Image.open(self.home / part["image"]).size for part in parts if "image" in part]
        side = int(self.model.config.vision_config.patch_size * self.model.config.vision_config.spatial_merge_size)
        return text + _IMAGE_TOKEN * sum((width // side) * (height // side) for width, height in sizes) + _PICTURE * len(sizes)

    def batch(self, numbers: list[int]) -> dict[str, Any]:
        """Open, encode, mask and pad rows."""
        prompts, pictures = [], []
        for number in numbers:
            content = [{"type": "image"} if "image" in part else {"type": "text", "text": part["text"]} for part in self.rows[number]]
            prompts.append(self.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False))
            pictures.append([Image.open(self.home / part["image"]).convert("RGB") for part in self.rows[number] if "image" in part])
        flat = [one for row in pictures for one in row]
        settings = {"padding": True, "pad_to_multiple_of": _MULTIPLE if self.released else None, "return_tensors": "pt"}
        inputs = dict(self.processor(text=prompts, images=flat or None, **settings))
        ids, real = inputs["input_ids"], inputs["attention_mask"].bool()
        special = torch.isin(ids, torch.tensor(self.processor.tokenizer.all_special_ids))
        chosen = (torch.rand(ids.shape) < self.words) & real & ~special
        labels = torch.where(chosen, ids, -100)
        images = ids == self.model.config.image_token_id
        patch_mask = (torch.rand(ids.shape) < self.patches) & images
        inputs["input_ids"] = torch.where(chosen, self.mask_token, ids)
        targets = None
        if flat:
            pixels = inputs["pixel_values"].view(-1, self.merged, inputs["pixel_values"].shape[-1])
            masked = patch_mask[images]
            targets = pixels[masked].flatten(1)
            pixels = pixels.clone()
            pixels[masked] = torch.randn(pixels.shape[-1])
            inputs["pixel_values"] = pixels.flatten(0, 1)
        return {"inputs": inputs, "labels": labels, "patch_mask": patch_mask, "targets": targets}

    def losses(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return the total loss."""
        inputs = dict(batch["inputs"])
        real = inputs.pop("attention_mask").bool()
        rows, length = real.shape
        model = self.model.model
        kinds = inputs.pop("mm_token_type_ids")
        if "image_grid_thw" in inputs:
            positions = model.get_rope_index(inputs["input_ids"], kinds, inputs["image_grid_thw"], attention_mask=real.long())[0]
        else:
            positions = torch.arange(length).expand(3, rows, length)
        lowest = torch.finfo(torch.float32).min
        mask = torch.zeros(rows, 1, length, length).masked_fill(~real[:, None, None, :], lowest)
        hidden = model(**inputs, position_ids=positions, attention_mask=mask, use_cache=False).last_hidden_state
        logits = self.model.lm_head(hidden).float()
        total = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)
        if batch["targets"] is not None:
            rotary = model.language_model.rotary_emb(hidden, positions)
            states = self.decoder(hidden, attention_mask=mask, position_embeddings=rotary)
            predicted = self.to_values(states).float()[batch["patch_mask"]]
            total = total + 0.5 * functional.mse_loss(predicted, batch["targets"])
        return total

    def step(self, numbers: list[int]) -> float:
        """Train on rows."""
        batch = self.batch(numbers)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            total = self.losses(batch)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parts.parameters(), 5.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(total.detach())
