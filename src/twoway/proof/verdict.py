"""The result of a proof: the measured movements, the verdict, and the layers that differ.

The verdicts. *two-way*: a change at a later position moves earlier states. *causal*: it moves none. *mixed*: some layers or some kinds of
tokens only (Gemma 3 as released lets the tokens of one image see each other both ways and keeps text causal). *leaks*: the content of the
padding, its amount, or another row moves a row's states. *unclear*: nothing moved at all, so nothing is proved.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TWO_WAY, CAUSAL, MIXED, LEAKS, UNCLEAR = "two-way", "causal", "mixed", "leaks", "unclear"


@dataclass(frozen=True)
class Movement:
    """A change at `source` and how far it moves the earlier states that `target` names."""

    source: str
    target: str
    largest: float  # of all targets, relative to the median length of a state
    share: float  # of the targets that move at all

    @property
    def attention(self) -> str:
        """Name one movement; where fewer than half of the targets move, attention is neither one nor the other."""
        if self.share == 0:
            return CAUSAL
        return TWO_WAY if self.share >= 0.5 else MIXED

    def __str__(self) -> str:
        """Say it in words."""
        return f"{self.source} to {self.target}"


@dataclass(frozen=True)
class LayerProof:
    """One decoder layer, probed alone: its own input is perturbed at a later position, its own output observed at earlier ones."""

    index: int
    movements: tuple[Movement, ...]

    @property
    def attention(self) -> str:
        """Name the layer."""
        return merge_names(movement.attention for movement in self.movements)

    @property
    def largest(self) -> float:
        """Return the largest movement of an earlier output."""
        return max((movement.largest for movement in self.movements), default=0.0)


@dataclass(frozen=True)
class Cell:
    """One case: one attention backend, one kind of padding, text or image."""

    backend: str
    padding: str
    kind: str
    movements: tuple[Movement, ...]
    layers: tuple[LayerProof, ...]
    leaks: dict[str, float] = field(default_factory=dict)  # what was changed -> how far this row moved; everything measured
    leaking: tuple[str, ...] = ()  # those of them that are above the noise
    control: bool = True  # the changed positions themselves moved, so the proof can see
    noise: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """Name the row of a table that the case belongs to."""
        return self.backend

    @property
    def verdict(self) -> str:
        """Name the case."""
        if not self.control:
            return UNCLEAR
        if self.leaking:
            return LEAKS
        return merge_names([*(movement.attention for movement in self.movements), *(layer.attention for layer in self.layers)])

    @property
    def largest(self) -> float:
        """Return the largest movement of an earlier state, or of this row where it leaks."""
        moved = [self.leaks[name] for name in self.leaking] or [movement.largest for movement in self.movements]
        return max(moved, default=0.0)

    @property
    def reason(self) -> str:
        """Say in a few words what decides the verdict."""
        if not self.control:
            return "a changed token moves no state at all, not even its own"
        if self.leaking:
            return "moved by " + ", ".join(f"{name} ({self.leaks[name]:.1e})" for name in self.leaking)
        if self.verdict != MIXED:
            return ""
        named = name_layers(self.layers)
        return "; ".join(part for part in (named, "" if named else _kinds(self.movements)) if part)

    def as_json(self) -> dict[str, Any]:
        """Return the case as plain data."""
        layers = [{"layer": layer.index, "attention": layer.attention, "largest": layer.largest} for layer in self.layers]
        return asdict(self) | {"verdict": self.verdict, "largest": self.largest, "reason": self.reason, "layers": layers}


@dataclass(frozen=True)
class Verdict:
    """All cases of one model under one backend."""

    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()

    @property
    def attention(self) -> str:
        """Name the model."""
        return merge_names(cell.verdict for cell in self.cells)

    @property
    def reason(self) -> str:
        """Say what decides the name, with the cases it is true for."""
        return explain(self.cells)

    @property
    def layers(self) -> tuple[LayerProof, ...]:
        """Return the layers as probed in the last unpadded case (with images where there are any)."""
        return next((cell.layers for cell in reversed(self.cells) if cell.padding == "none"), ())

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as plain data."""
        cells = [cell.as_json() for cell in self.cells]
        return {"attention": self.attention, "reason": self.reason, "cells": cells, "notes": list(self.notes)}


def merge_names(names: Iterable[str]) -> str:
    """Make one name of several: a leak anywhere is a leak, equal names stay, anything else is mixed."""
    names = set(names)
    for strong in (LEAKS, UNCLEAR):
        if strong in names:
            return strong
    if not names:
        return UNCLEAR
    return names.pop() if len(names) == 1 else MIXED


class Case(Protocol):
    """What is common to the cases of all proofs."""

    @property
    def group(self) -> str:
        """Return the row of a table."""

    @property
    def kind(self) -> str:
        """Return text or image."""

    @property
    def padding(self) -> str:
        """Return the side of the padding."""

    @property
    def verdict(self) -> str:
        """Return its name."""

    @property
    def reason(self) -> str:
        """Return what decides the name."""


def explain(cells: Iterable[Case]) -> str:
    """Say in one line why cases differ or leak; empty where all agree and are whole."""
    cells = list(cells)
    reasons: dict[str, list[Case]] = {}
    for cell in cells:
        reasons.setdefault(cell.reason, []).append(cell)
    decided = {reason: those for reason, those in reasons.items() if reason}
    if not decided and len({cell.verdict for cell in cells}) > 1:
        for cell in cells:
            decided.setdefault(cell.verdict, []).append(cell)
    return "; ".join(f"{reason} [{where(those, cells)}]" for reason, those in decided.items())


def where(those: Sequence[Case], cells: Sequence[Case]) -> str:
    """Name cases briefly: `text` for all paddings of it, no backend where all backends agree."""

    def cases(group: str) -> str:
        kinds: dict[str, list[str]] = {}
        for cell in those:
            if cell.group == group:
                kinds.setdefault(cell.kind, []).append(cell.padding)
        paddings = {kind: {cell.padding for cell in cells if cell.kind == kind} for kind in kinds}
        words = {"none": "unpadded", "left": "padded left", "right": "padded right"}
        return ", ".join(
            kind if set(those) == paddings[kind] else f"{kind} {' and '.join(words.get(one, one) for one in those)}"
            for kind, those in kinds.items()
        )

    by_group = {group: cases(group) for group in dict.fromkeys(cell.group for cell in cells)}
    labels: dict[str, list[str]] = {}
    for group, label in by_group.items():
        if label:
            labels.setdefault(label, []).append(group)
    if len(labels) == 1 and all(by_group.values()):
        return next(iter(labels))
    return "; ".join(f"{', '.join(groups)}: {label}" for label, groups in labels.items())


def name_layers(layers: tuple[LayerProof, ...]) -> str:
    """Name the layers that differ from the others; empty where all are alike."""
    groups: dict[str, list[int]] = {}
    for layer in layers:
        groups.setdefault(layer.attention, []).append(layer.index)
    if len(groups) < 2:
        return ""
    return ", ".join(
        f"layer{'s' if len(ids) > 1 else ''} {ranges(ids)} of {len(layers)} {'are' if len(ids) > 1 else 'is'} {name}"
        for name, ids in sorted(groups.items(), key=lambda item: len(item[1]))
    )


def ranges(numbers: list[int]) -> str:
    """Write `0-3, 5` for 0, 1, 2, 3, 5."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _kinds(movements: tuple[Movement, ...]) -> str:
    """Say which kinds of tokens are seen from before and which are not."""
    seen = sorted({str(movement) for movement in movements if movement.attention == TWO_WAY})
    partly = sorted({str(movement) for movement in movements if movement.attention == MIXED})
    unseen = sorted({str(movement) for movement in movements if movement.attention == CAUSAL})
    parts = [("moves", seen), ("moves a few", partly), ("does not move", unseen)]
    return "; ".join(f"{word}: {', '.join(names)}" for word, names in parts if names)
