"""Pictures of the page for the README and the docs: the nano model fine-tuned, the samples' drawings indexed, the page served and seen.

`make screenshots` runs it; minutes on two cores, most of them fine-tuning. What it makes on the way lies in build/page and is used again.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from transformers.utils import logging as transformers_logging

from scripts.chromium import launched
from twoway.cli import main as twoway
from twoway.data.samples import load, samples_folder
from twoway.files import fresh_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

WORK, OUT = Path("build/page"), Path("docs/images")
MODEL, DATA, VECTORS, INDEX = (WORK / name for name in ("model", "data", "vectors", "index"))
STYLES = ("flat", "flag", "clipart")  # drawings in colour
PAGES = 140
WORDS = "a red heart"
LARGEST = 200_000  # bytes of a picture
COLOURS = 160  # that a picture is brought down to; there are few in it


def command(line: str) -> None:
    """Run a command of twoway and stop where it fails."""
    print(f"$ twoway {line}", flush=True)
    code = twoway(shlex.split(line))
    if code:
        sys.exit(f"the command ended with {code}")


def write_data(folder: Path) -> None:
    """Write drawings and pages as files, with a line for each: what the picture shows is told to the page, and not to the model."""
    world = load()
    with fresh_folder(folder) as fresh, (fresh / "drawings.jsonl").open("w", encoding="utf-8") as listed:
        for row in [*world.pictures, *world.pages[:PAGES]]:
            style = row.get("style", "page")
            if style not in (*STYLES, "page"):
                continue
            name = re.sub(r"[^\w-]+", "-", row["id"]) + ".png"
            (fresh / name).write_bytes(_png(row["image"]))
            concept = world.concepts.get(row.get("concept", ""))
            facts = (
                {"name": concept["names"]["en"], "kind": concept["kind"]}
                if concept
                else {"name": row["text"].splitlines()[0], "kind": "page"}
            )
            line = {"id": row["id"], "image": name, "style": style, "seen_in_training": row["half"] == "seen", **facts}
            listed.write(json.dumps(line, ensure_ascii=False) + "\n")


def _png(data: bytes) -> bytes:
    written = io.BytesIO()
    Image.open(io.BytesIO(data)).save(written, "PNG")
    return written.getvalue()


@contextmanager
def served() -> Iterator[str]:
    """Serve the index with the command itself; yield the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "twoway", "serve", str(MODEL), "--db", str(INDEX), "--port", str(port), "--read-only"]
    with subprocess.Popen(line) as server:
        try:
            _await(server, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _await(server: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the server answers."""
    pause = threading.Event()
    for _ in range(600):
        if server.poll() is not None:
            sys.exit("the server has ended")
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        pause.wait(0.2)
    sys.exit("the server does not answer")


def keep(page: Page, name: str) -> None:
    """Write what the page shows, small."""
    page.wait_for_function("[...document.images].every((one) => one.complete)")
    page.wait_for_timeout(400)
    picture = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    path = OUT / f"{name}.png"
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {picture.width} x {picture.height}, {size:,} bytes")
    if size > LARGEST:
        sys.exit(f"{path} has more than {LARGEST:,} bytes")


def results(page: Page) -> None:
    """Wait for what is found."""
    page.wait_for_selector("#results:not([aria-busy]) .card[data-id]")


def shoot(browser: Browser, address: str, scheme: Any) -> None:
    """Look at the page as a reader does."""
    page = browser.new_context(base_url=address, color_scheme=scheme, viewport={"width": 1280, "height": 820}).new_page()
    page.goto("/")
    page.fill("#words", WORDS)
    page.keyboard.press("Enter")
    results(page)
    keep(page, f"page-words-{scheme}")
    page.locator(".card .acts button", has_text="Why").first.click()
    page.wait_for_selector("#detail canvas")
    keep(page, f"page-why-{scheme}")
    page.keyboard.press("Escape")
    page.set_input_files("#file", DATA / "rooster-flat.png")
    page.wait_for_selector("#given:not([hidden])")
    results(page)
    keep(page, f"page-picture-{scheme}")
    page.context.close()


def shoot_narrow(browser: Browser, address: str) -> None:
    """Look at it on a telephone."""
    page = browser.new_context(base_url=address, viewport={"width": 390, "height": 780}).new_page()
    page.goto(f"/?q={WORDS}")
    results(page)
    keep(page, "page-narrow")


def main() -> None:
    """Make what is missing, then the pictures."""
    transformers_logging.disable_progress_bar()
    OUT.mkdir(parents=True, exist_ok=True)
    if not (MODEL / "modules.json").exists():
        command(f"finetune {samples_folder() / 'base'} {MODEL} --recipe recipes/nano-finetune.yaml")
    if not DATA.exists():
        write_data(DATA)
    if not INDEX.exists():
        command(f"embed {MODEL} --data {DATA / 'drawings.jsonl'} --out {VECTORS} --as document")
        command(f"index {VECTORS} --db {INDEX}")
    with served() as address, launched() as browser:
        for scheme in ("light", "dark"):
            shoot(browser, address, scheme)
        shoot_narrow(browser, address)


if __name__ == "__main__":
    main()
