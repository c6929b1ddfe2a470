"""What the proof of the bridge says: who sees whom in each layer, what a change reaches through all of them, and the name this gets.

*bridge*: every layer sees what the table allows and nothing else, and through all layers B learns of A, and A of B, over EOS alone.
*leaks*: something moves that must stay. *mixed*: something stays that must move, so a layer is shut. *unclear*: a change does not even
move itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .proof_verdict import LEAKS, MIXED, UNCLEAR, ranges

if TYPE_CHECKING:
    from .proof_verdict import LayerProof, Movement

BRIDGE = "bridge"


@dataclass(frozen=True)
class Options:
    """The two options of the mask."""

    eos_sees_target: bool
    sources_see_eos: bool

    def __str__(self) -> str:
        """Say what differs from the mask as published."""
        shut = [text for on, text in ((self.eos_sees_target, "EOS sees no B"), (self.sources_see_eos, "A sees no EOS")) if not on]
        return " and ".join(shut) or "as published"


EVERY = tuple(Options(eos, sources) for eos in (True, False) for sources in (True, False))


@dataclass(frozen=True)
class Flow:
    """A change in one part, what it did to another through all layers, and whether it may."""

    movement: Movement
    allowed: bool
    how: str = ""  # what was done to EOS meanwhile

    @property
    def moved(self) -> bool:
        """Tell whether anything moved."""
        return self.movement.share > 0

    def __str__(self) -> str:
        """Say it in words."""
        return f"{self.movement.source} moves {self.movement.target}{self.how and f' with EOS {self.how}'}"


@dataclass(frozen=True)
class BridgeCell:
    """One case: a backend, the options of the mask, a side of padding, text or image."""

    backend: str
    options: Options
    padding: str
    kind: str
    flows: tuple[Flow, ...]
    layers: tuple[LayerProof, ...]  # here a movement from `source` to `target` means that target sees source
    table: dict[tuple[str, str], bool]  # (who, whom) -> whether it may see it
    control: bool = True
    noise: float = 0.0

    @property
    def group(self) -> str:
        """Name the row of a table that the case belongs to."""
        return f"{self.backend}, {self.options}"

    @property
    def leaking(self) -> tuple[str, ...]:
        """Name everything that moves and must not."""
        through = [f"{flow} ({flow.movement.largest:.1e})" for flow in self.flows if flow.moved and not flow.allowed]
        return (*self._layers(allowed=False), *through)

    @property
    def shut(self) -> tuple[str, ...]:
        """Name everything that stays and must not."""
        through = [f"{flow}: it does not" for flow in self.flows if flow.movement.share < 0.5 and flow.allowed]
        return (*self._layers(allowed=True), *through)

    def _layers(self, *, allowed: bool) -> list[str]:
        """Name the entries of the table that layers disagree with, with the layers."""
        wrong: dict[str, list[int]] = {}
        for layer in self.layers:
            for one in layer.movements:
                wanted = self.table[one.target, one.source]
                broken = one.share < 0.5 if wanted else one.share > 0
                if wanted == allowed and broken:
                    wrong.setdefault(f"{one.target} {'does not see' if wanted else 'sees'} {one.source}", []).append(layer.index)
        return [f"{what} in layer{'s' * (len(ids) > 1)} {ranges(ids)} of {len(self.layers)}" for what, ids in wrong.items()]

    @property
    def verdict(self) -> str:
        """Name the case."""
        if not self.control:
            return UNCLEAR
        if self.leaking:
            return LEAKS
        return MIXED if self.shut else BRIDGE

    @property
    def largest(self) -> float:
        """Return how far anything moves that must stay."""
        layers = [one.largest for layer in self.layers for one in layer.movements if not self.table[one.target, one.source]]
        return max([flow.movement.largest for flow in self.flows if not flow.allowed] + layers, default=0.0)

    @property
    def reason(self) -> str:
        """Say what decides the verdict."""
        if not self.control:
            return "a changed token moves no state at all, not even its own"
        return "; ".join(self.leaking or self.shut)

    def as_json(self) -> dict[str, Any]:
        """Return the case as plain data."""
        layers = [
            {"layer": layer.index, "sees": {f"{one.target} sees {one.source}": one.largest for one in layer.movements}}
            for layer in self.layers
        ]
        flows = [{"what": str(flow), "allowed": flow.allowed, "largest": flow.movement.largest} for flow in self.flows]
        head = {"backend": self.backend, **asdict(self.options), "padding": self.padding, "kind": self.kind}
        rest = {"flows": flows, "layers": layers, "control": self.control, "noise": self.noise}
        return head | rest | {"verdict": self.verdict, "largest": self.largest, "reason": self.reason}
