"""A Chromium for the tests of the page and for its pictures: the one that is there, or the system's package.

`python -m scripts.chromium` installs it where apt-get is and may be used, and otherwise says what to install. Set-up goes on without; the
tests of the page then say the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

PROGRAMS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
# No sandbox, because root has none in a container; the pages that are opened are our own. No shared memory, because containers have little.
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage")
MISSING = (
    "no Chromium is here, which the tests of the page drive; install it (Debian: apt-get install chromium, Fedora: dnf install chromium, "
    "Arch: pacman -S chromium, macOS: brew install --cask chromium), or Google Chrome"
)


def find() -> str | None:
    """Return the program, if there is one."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


@contextmanager
def launched() -> Iterator[Browser]:
    """Start it without a window."""
    from playwright.sync_api import sync_playwright

    program = find()
    if program is None:
        raise RuntimeError(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


def install() -> str:
    """Install the system's package with apt-get; return what went wrong, if anything did."""
    prefix = _as_root()
    if shutil.which("apt-get") is None or prefix is None:
        return "apt-get is not here" if shutil.which("apt-get") is None else "only root may install it, and sudo asks for a password"
    quiet = ["-qq", "-o", "DPkg::Lock::Timeout=300"]
    for what in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        done = subprocess.run(
            [*prefix, "apt-get", *quiet, *what],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
        if done.returncode:
            return f"apt-get {what[0]}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    return ""


def _as_root() -> list[str] | None:
    """Return what to put before a command of root; nothing where it cannot be had without a password."""
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is None or subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode:
        return None
    return [sudo, "-n"]


def main() -> None:
    """See that there is one."""
    if find():
        return
    print("installing Chromium, which the tests of the page drive", file=sys.stderr)
    trouble = install()
    if not find():
        print(f"{MISSING}{f' ({trouble})' if trouble else ''}", file=sys.stderr)


if __name__ == "__main__":
    main()
