"""Compiled kernels of shapes that were seen once are let go: what makes a run's memory on a CPU hang on its data otherwise.

In bfloat16 on a CPU torch compiles a kernel for every shape of a product (oneDNN, and ideep above it), and keeps the last 1,024 of both,
half a megabyte and more each. Batches cut by cost have ever new shapes: a step of many chunks grew by 10 to 15 MB a chunk, to twice the
memory of a step of few. The kernels of a few chunks are enough, because nothing but the layers of one chunk asks for one again; it is
no slower. Torch reads both limits when it computes the first such product, and only then.
"""

from __future__ import annotations

import os

KEPT = 64  # of each library; a pass through a model and back asks for about 30
_LIMITS = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")


def keep_few() -> None:
    """Limit the kernels that are kept, from now on and in processes begun from here, unless the environment already says how many."""
    for name in _LIMITS:
        os.environ.setdefault(name, str(KEPT))
