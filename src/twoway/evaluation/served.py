"""Is a server still the model whose vectors are in the cache: asked of its vectors, because it may change its model and keep the name.

A model in memory has a fingerprint of its weights; a server has an address and a name. So a few texts, always the same, are embedded first,
and what came of them lies beside the vectors that the server gave. Vectors of one model move in their last bits (other batches, other
machines); those of another model, or of a later step of the same training, move more. In doubt it counts as another and is asked again.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import disk_errors, write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

SAME = 0.02  # how far vectors of length 1 may lie apart and be of one model: rounding to bfloat16 moves them by less


def fingerprint_in(folder: Path, engine: Any) -> str:
    """Return the name of a model in a cache: its fingerprint, and for a server that of the vectors that it is known by there."""
    probe = getattr(engine, "probe", None)
    if probe is None:
        return str(engine.fingerprint)
    for path in sorted(folder.glob(f"{engine.fingerprint}-*.npy")):
        if _near(probe, path):
            return path.stem
    name = f"{engine.fingerprint}-{hashlib.sha256(np.ascontiguousarray(probe).tobytes()).hexdigest()[:16]}"
    written = io.BytesIO()
    np.save(written, probe, allow_pickle=False)
    with disk_errors():
        folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{name}.npy", written.getvalue())
    return name


def _near(probe: Vectors, path: Path) -> bool:
    """Say whether what a server gives is what it gave; a file that cannot be read speaks for nobody."""
    try:
        known = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return known.shape == probe.shape and bool(np.linalg.norm(known - probe, axis=1).max() <= SAME)
