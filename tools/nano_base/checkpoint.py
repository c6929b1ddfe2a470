"""The run's state on disk: weights, optimiser and step in one safetensors file.

It is written beside and renamed, so that a kill at any moment loses minutes at most.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import save

from twoway.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from .optimiser import MuonAndAdamW

NAME = "state.safetensors"
BEFORE_DECAY = "before_decay.safetensors"


def save_state(folder: Path, model: Any, optimiser: MuonAndAdamW, step: int, name: str = NAME) -> None:
    """Write everything that the next step depends on; what is frozen is as it was built."""
    trained = _trained(model)
    tensors = {f"model/{part}": parameter.detach() for part, parameter in trained.items()}
    for part, parameter in trained.items():
        for key, value in optimiser.state[parameter].items():
            tensors[f"optimiser/{key}/{part}"] = value
    write_whole(folder / name, save({key: value.contiguous() for key, value in tensors.items()}, {"step": json.dumps(step)}))


def load_state(folder: Path, model: Any, optimiser: MuonAndAdamW, name: str = NAME) -> int:
    """Bring model and optimiser back to the last saved step and return it; 0 where nothing is saved."""
    if not (folder / name).is_file():
        return 0
    with safe_open(folder / name, framework="pt") as file:
        by_name = _trained(model)
        for part, parameter in by_name.items():
            parameter.data.copy_(file.get_tensor(f"model/{part}"))
            optimiser.state[parameter] = {}
        for entry in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
            if entry.startswith("optimiser/"):
                _, key, part = entry.split("/", 2)
                optimiser.state[by_name[part]][key] = file.get_tensor(entry)
        return int(json.loads(file.metadata()["step"]))


def saved_step(folder: Path) -> int:
    """Return the step of the last saved state; 0 where nothing is saved."""
    if not (folder / NAME).is_file():
        return 0
    with safe_open(folder / NAME, framework="pt") as file:
        return int(json.loads(file.metadata()["step"]))


def _trained(model: Any) -> dict[str, Any]:
    """Return the parameters that are not frozen."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
