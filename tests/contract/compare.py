"""Compare what two commits computed on one machine, bit for bit: `python -m tests.contract.compare OLD.json NEW.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

SHOWN = 40


def main(words: list[str]) -> int:
    """Print what differs; 0 where nothing does."""
    if len(words) != 2:
        sys.stderr.write("usage: python -m tests.contract.compare OLD.json NEW.json\n")
        return 2
    old, new = (json.loads(Path(word).read_text(encoding="utf-8")) for word in words)
    gone, more = old.keys() - new.keys(), new.keys() - old.keys()
    differ = [path for path in old if path in new and old[path] != new[path]]
    lines = [f"{path}: {old[path]!r} was, {new[path]!r} is" for path in differ]
    lines += [f"{path}: gone" for path in sorted(gone)] + [f"{path}: new" for path in sorted(more)]
    for line in lines[:SHOWN]:
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{len(old):,} values: {len(differ):,} differ, {len(gone):,} are gone, {len(more):,} are new\n")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
