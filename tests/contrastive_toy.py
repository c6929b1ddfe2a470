"""A tiny model with batches of pairs of every kind, for tests of the contrastive task on one rank and on several."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch
from PIL import Image as PILImage

from twoway.content import Document, Pair
from twoway.data.collators import PairEncoder, collate_pairs
from twoway.data.patches import PatchGeometry
from twoway.data.processing import Encoder
from twoway.methods.finetune.config import ContrastiveConfig
from twoway.methods.finetune.data import SentenceInputs
from twoway.methods.finetune.late_interaction import LateInteractionModule
from twoway.methods.finetune.step import ContrastiveModule
from twoway.models import adapters, checkpoint, late_interaction, loading, processor
from twoway.models.attention import set_attention
from twoway.training.distributed import Ranks, full_tensor
from twoway.training.gradient_cache import ChunkList
from twoway.training.module import StepContext, read_tensors

WARM = {"temperature": 0.2}  # so that no softmax is all on one side


def picture(color, size=(56, 28)):
    return {"image": PILImage.new("RGB", size, color)}


def text(words):
    return {"text": words}


# Texts of different lengths, one picture, several, both; no hard negative, one, two; a query twice, a positive twice.
ROWS = [
    ([text("a red thing")], [picture("red")], [[picture("blue")], [text("something long that is not red, and goes on about it")]]),
    ([picture("green"), text("and"), picture("blue", (28, 56))], [text("two colours")], []),
    ([text("a red thing")], [text("redness, said in many more words than are needed for it by anybody")], [[text("blue")]]),
    ([text("what is it?"), picture("blue")], [text("blue")], []),
    ([text("the last one")], [picture("red")], [[picture("gray"), text("no")]]),
    ([text("and one more for luck")], [text("luck")], [[text("none")]]),
]


def load(folder, *, lora=0.0, checkpointing=False, two_way=True, hold=0.0, pooling="mean", late=0, **config):
    """Return the task on a saved model, and what makes batches for it; `lora` is the dropout of adapters, `late` a projection's width."""
    torch.manual_seed(0)
    model = loading.load_model(Path(folder), dtype="float32").model
    parts = processor.load_processor(Path(folder))
    processor.ensure_template(parts)
    set_attention(model, "two-way" if two_way else "causal")
    geometry = PatchGeometry.of(model.config, parts)
    settings = checkpoint.CheckpointSettings(pooling=pooling)
    if late:
        behind = late_interaction.new_modules(loading.text_width(model), late)
        settings = checkpoint.CheckpointSettings(behind=tuple(behind), late_interaction=True)
    modules = checkpoint.modules_around(loading.inner(model), parts, settings)
    if lora:
        adapters.add_adapters(model, r=2, lora_dropout=lora)
        for name, one in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(one, std=0.1)
    elif model.get_output_embeddings() is not None:
        model.get_output_embeddings().requires_grad_(False)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    pad = parts.tokenizer.pad_token_id
    task = (LateInteractionModule if late else ContrastiveModule)(
        model, modules, ContrastiveConfig(**WARM | config), keep_graph_tokens=hold, pad_token=pad, token_keys=geometry.token_keys
    )
    inputs = SentenceInputs(checkpoint.input_module(modules[0]), Encoder(parts, geometry, max_length=256))
    encode = PairEncoder(inputs, {}, 2)
    return task.train(), partial(make, encode, pad_token=pad, padding_side=parts.tokenizer.padding_side)


def make(encode, rows, *, budget=60.0, **options):
    """Return the batch of some rows, in chunks of a budget."""
    documents = [[Document.from_parts(one) for one in (query, positive, *negatives)] for query, positive, negatives in rows]
    pairs = [Pair(one[0], (one[1],), tuple(one[2:]), f"task {number % 2}") for number, one in enumerate(documents)]
    examples = [encode((f"row {number}", pair), epoch=0) for number, pair in enumerate(pairs)]
    batch = collate_pairs(examples, budget=budget, **options)
    return batch | {"chunks": ChunkList(list(batch["chunks"]))}


def seeds(number, rank=0):
    return 1000 * rank + number


def gradients(task, batches, *, shared=None, ranks=None):
    """Return the gradients of one step by name, in one piece, and its numbers."""
    ranks = ranks or Ranks("cpu")
    losses = task.training_step(batches, StepContext(shared or task, ranks, {}, "float32", partial(seeds, rank=ranks.rank)))
    made = losses.finish(read_tensors(losses.tensors))
    found = {
        name: torch.zeros(one.shape) if one.grad is None else full_tensor(one.grad)
        for name, one in task.named_parameters()
        if one.requires_grad
    }
    task.zero_grad()
    return found, made


def rank_of_two(folder, out, cases):
    """Be one of two ranks: take the gradients of each case and let the first rank write them down."""
    torch.set_num_threads(1)
    ranks = Ranks("cpu")
    for name, parallel, options, split in cases:
        task, batch = load(folder, **options)
        shared = ranks.wrap(task, parallel)
        own = batch(ROWS[:split] if ranks.is_main_process else ROWS[split:])
        found, made = gradients(task, [own], shared=shared, ranks=ranks)
        if ranks.is_main_process:
            torch.save((found, made.numbers), os.path.join(out, f"{name}.pt"))
    ranks.destroy()
