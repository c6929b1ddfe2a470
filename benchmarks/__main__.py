"""`python -m benchmarks [NAME …]` runs all benchmarks, or those named, and prints one table each."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path


def main() -> int:
    """Run each benchmark module's `main()`; an unknown name lists those there are."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    chosen = [f"bench_{name.removeprefix('bench_')}" for name in sys.argv[1:]] or known
    unknown = [name for name in chosen if name not in known]
    if unknown:
        print(f"no benchmark {unknown[0].removeprefix('bench_')!r}; there are: {', '.join(name.removeprefix('bench_') for name in known)}")
        return 2
    for name in chosen:
        import_module(f"benchmarks.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
