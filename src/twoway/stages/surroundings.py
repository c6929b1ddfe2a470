"""What a result was made with: versions, the state of the code in git, and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

import twoway
from twoway.model.backbone import versions


def surroundings(nproc: int = 1) -> dict[str, Any]:
    """Return all that is not in a recipe and may show in a result."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "device": device, "threads": torch.get_num_threads(), "ranks": nproc}
    return {"versions": versions() | {"python": platform.python_version()}, "git": git_state(), "machine": machine}


@cache
def git_state(folder: Path | None = None) -> dict[str, Any] | None:
    """Return commit and whether files differ from it; `None` where the package does not run from a checkout."""
    home = folder or Path(twoway.__file__).parent
    commit = _git(home, "rev-parse", "HEAD")
    # A package that is installed inside somebody's repository is no part of it.
    if commit is None or _git(home, "ls-files", "--error-unmatch", "." if folder else "__init__.py") is None:
        return None
    return {"commit": commit, "dirty": bool(_git(home, "status", "--porcelain", "--untracked-files=normal", "--", "."))}


def _git(home: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=home, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603, S607
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
