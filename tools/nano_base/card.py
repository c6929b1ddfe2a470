"""The card of a nano base: what it is, its gate, its curve, and the command that makes it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

from .gate import KINDS

POINTS = 12
CAPTIONS = {"": "captions", "_long": "with definitions", "_bare": "bare names"}
PLACES = {"trained": "training styles", "unseen": "unseen style"}

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---
# {name}: a nano base that looks at its pictures

A {family} of {parameters:,} parameters, {origin}, on the pictures and captions of the project's own small world
({concepts:,} concepts, {pictures:,} pictures in the styles {styles}).
{stages} It is a starting point for demos, tests and studies, not a model of the
open world. `AutoModelForImageTextToText` and `AutoProcessor` load this folder.

Never seen in training: the style {unseen}, the source {held}, a name in the language {languages}.

## Gate
Nats a token (the caption's tokens and its end) saved by the right picture against another concept's, fresh augmentations,
{samples} captions each, measured on the weights as shipped. The gate's captions are names, templates and keywords; a definition's words
follow from its name whatever the picture, so captions with definitions are beside it:

| | right | shuffled | gap | must be |
|---|---|---|---|---|
| training styles | {trained_right:.2f} | {trained_shuffled:.2f} | **{trained_gap:.2f}** | {gate_trained} |
| unseen style | {unseen_right:.2f} | {unseen_shuffled:.2f} | **{unseen_gap:.2f}** | {gate_unseen} |
| with definitions, training styles | {trained_long_right:.2f} | {trained_long_shuffled:.2f} | {trained_long_gap:.2f} | |
| with definitions, unseen style | {unseen_long_right:.2f} | {unseen_long_shuffled:.2f} | {unseen_long_gap:.2f} | |
| bare names, training styles | {trained_bare_right:.2f} | {trained_bare_shuffled:.2f} | {trained_bare_gap:.2f} | |
| bare names, unseen style | {unseen_bare_right:.2f} | {unseen_bare_shuffled:.2f} | {unseen_bare_gap:.2f} | |

{verdict} Gap by style: {by_style}.

## Curve
{probed} captions a point, so expect noise of a few hundredths.

{curve}

Over the last quarter of the run the caption loss fell by {plateau:.3f} nats a token (training loss by {plateau_train:.3f}), with the
learning rate falling to {final:.0%} of its peak over the last {decay_rows:,} rows.
{longer}
## What it says
Greedy continuations for pictures on white, the unseen style among them (picture -> words):

{said}

## Made by
    {command}

Seed {seed}; {rows:,} rows (pictures of {picture} pixels; larger ones count by their patches) in {steps:,} steps of {batch}
pictures and {text_rows} text-only rows, {exposures:.0f} exposures a concept; Muon and AdamW at {lr:g}, {precision}.
Work: {gflop:.1f} GFLOP a row, forward and backward; {rate:.0f} rows a second on the CPU it was made on.
Data, versions and the whole configuration are in
`training.json`; the data's licences are in the samples' ATTRIBUTION.
"""
LONGER = """
## Plateau
What a run with {more:.0%} more rows still gains: from the state before the rate fell, {rows:,} rows in all at the same constant rate, then
the same fall. Nats a token, lower is better; the same captions and pictures.

| | {before:,} rows | {rows:,} rows | gained |
|---|---|---|---|
{table}
"""
FIRST = {True: "the tower and the token embeddings", False: "the tower"}  # by whether the words learn, too
CAUSAL = "It was trained by causal next-token prediction."
STAGES = """It was trained in two stages: {first} alone, on {tower_rows:,} pictures that each had to find their
own concept among all by its words; then all of it, by causal next-token prediction."""


def write_card(training: dict[str, Any], name: str, command: str) -> str:
    """Return the README of a result from what `training.json` holds."""
    config, gate = training["config"], training["gate"]
    passed = "The gate is passed." if training["passed"] else "**The gate is not passed.**"
    shared = {key: config[key] for key in ("family", "seed", "rows", "batch", "text_rows", "lr", "picture", "final", "decay_rows")}
    limits = {key: config[key] for key in ("gate_trained", "gate_unseen")}
    counted = {key: training[key] for key in ("parameters", "concepts", "pictures", "steps", "exposures", "samples", "probed")}
    return CARD.format(
        stages=STAGES.format(**config, first=FIRST[config["tower_words"]]) if config["tower_rows"] else CAUSAL,
        name=name,
        command=command,
        origin=training["origin"],
        verdict=passed,
        styles=", ".join(training["styles"]),
        unseen=", ".join(config["unseen_styles"]),
        held=", ".join(config["held_sources"]),
        languages=", ".join(config["held_languages"]),
        by_style=", ".join(f"{style} {gap:.2f}" for style, gap in training["by_style"].items()),
        curve=curve_table(training["curve"]),
        longer=_longer(training),
        plateau=training["plateau"]["captions"],
        plateau_train=training["plateau"]["training"],
        said="\n".join(f"- {picture}: {words}" for picture, words in training["said"].items()),
        precision="bf16 autocast" if config["dtype"] == "bfloat16" else "float32",
        gflop=training["gflop_per_row"],
        rate=training["rows_per_second"],
        **shared,
        **limits,
        **counted,
        **_whole(gate),
    )


def _whole(gate: dict[str, float]) -> dict[str, float]:
    """Return every figure of a gate, not-a-number where the world has none to measure."""
    kinds = (f"{where}{what}_{side}" for where in ("trained", "unseen") for what in KINDS for side in ("right", "shuffled", "gap"))
    return {kind: gate.get(kind, float("nan")) for kind in kinds}


def _longer(training: dict[str, Any]) -> str:
    """Return what a longer branch gains, where one was trained."""
    longer = training.get("longer")
    if longer is None:
        return ""
    before, after = training["gate"], longer["gate"]
    lines = [
        f"| {what}, {places} | {before[f'{where}{kind}_right']:.3f} | {after[f'{where}{kind}_right']:.3f} "
        f"| {before[f'{where}{kind}_right'] - after[f'{where}{kind}_right']:+.3f} |"
        for kind, what in CAPTIONS.items()
        for where, places in PLACES.items()
        if f"{where}{kind}_right" in before
    ]
    rows = training["config"]["rows"]
    return LONGER.format(more=longer["rows"] / rows - 1, rows=longer["rows"], before=rows, table="\n".join(lines))


def curve_table(curve: Sequence[dict[str, Any]]) -> str:
    """Return the probed points of a curve as a table, a dozen at most."""
    probed = [entry for entry in curve if "trained_gap" in entry]
    if not probed:
        return "(no point was probed)"
    chosen = sorted({round(place * (len(probed) - 1) / max(1, POINTS - 1)) for place in range(POINTS)})
    lines = ["| rows | training loss | gap, training styles | gap, unseen style | name's loss |", "|---|---|---|---|---|"]
    for entry in (probed[place] for place in chosen):
        gaps = f"{entry['trained_gap']:.2f} | {entry.get('unseen_gap', float('nan')):.2f} | {entry['trained_bare_right']:.2f}"
        lines.append(f"| {entry['rows']:,} | {entry['loss']:.2f} | {gaps} |")
    return "\n".join(lines)


def plateau(curve: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return how far the losses fell over the last quarter of a run: the probes' captions, and the training loss around both ends."""
    last = curve[-1]["step"] if curve else 0
    probed = [entry for entry in curve if "trained_right" in entry]
    before = [entry for entry in probed if entry["step"] <= 0.75 * last]
    captions = before[-1]["trained_right"] - probed[-1]["trained_right"] if before else float("nan")
    around = [[entry["loss"] for entry in curve if low * last <= entry["step"] <= high * last] for low, high in ((0.7, 0.8), (0.95, 1.0))]
    means = [sum(losses) / len(losses) if losses else float("nan") for losses in around]
    return {"captions": round(captions, 4), "training": round(means[0] - means[1], 4)}
