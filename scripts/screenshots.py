"""Pictures of the page for the README and the docs: what `make demo` has trained and indexed, served and looked at in Chromium.

python -m scripts.screenshots [MODEL INDEX]      (default: samples/search demo/index; the index has what samples:gallery has)
"""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from scripts.chromium import launched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

OUT = Path("docs/images")
WORDS, NAME = "heart", "rooster"  # asked in words; the name of what is asked by its picture
LARGEST = 200_000  # bytes of a picture
COLOURS = 256  # that a picture is brought down to
PATIENCE = 600  # seconds, for machines that are busy


@contextmanager
def served(model: str, index: str) -> Iterator[str]:
    """Serve the index with the command itself; yield the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "twoway", "serve", model, "--index", index, "--port", str(port), "--read-only"]
    with subprocess.Popen(line) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            _await(server, address)
            yield address
        finally:
            server.terminate()


def _await(server: subprocess.Popen[bytes], address: str) -> None:
    """Wait until the server takes work."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/readyz", timeout=PATIENCE).close()  # noqa: S310
        except OSError:
            time.sleep(0.2)
        else:
            return
    sys.exit("the server does not answer, or has ended")


def picture_of(address: str, name: str) -> bytes:
    """Return the small picture of something in the index."""
    body = json.dumps({"filter": f"name = '{name}'", "top_k": 1}).encode()
    asked = urllib.request.Request(f"{address}/v1/search", body, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:  # noqa: S310
        place = json.load(answer)["hits"][0]["thumbnail"]
    with urllib.request.urlopen(f"{address}{place}", timeout=PATIENCE) as answer:  # noqa: S310
        found: bytes = answer.read()
    return found


def keep(page: Page, name: str) -> None:
    """Write what the page shows, small."""
    page.evaluate("() => Promise.all([...document.images].map((one) => one.decode().catch(() => null)))")
    page.wait_for_timeout(400)
    picture = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    path = OUT / f"{name}.png"
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {picture.width} x {picture.height}, {size:,} bytes")
    if size > LARGEST:
        sys.exit(f"{path} has more than {LARGEST:,} bytes")


def opened(browser: Browser, address: str, **options: Any) -> Page:
    """Open a window, with patience."""
    context = browser.new_context(base_url=address, **options)
    context.set_default_timeout(PATIENCE * 1000)
    return context.new_page()


def results(page: Page) -> None:
    """Wait for what is found."""
    page.wait_for_selector(".asked #results:not([aria-busy]) .card[data-id]")


def shoot(browser: Browser, address: str, scheme: Any) -> None:
    """Look at the page as a reader does: words, why, a picture."""
    page = opened(browser, address, color_scheme=scheme, viewport={"width": 1280, "height": 820})
    page.goto(f"/?q={WORDS}")
    results(page)
    keep(page, f"page-words-{scheme}")
    page.locator(".card .acts button", has_text="Why").first.click()
    page.wait_for_selector("#detail canvas")
    keep(page, f"page-why-{scheme}")
    page.keyboard.press("Escape")
    page.goto("/")
    page.set_input_files("#file", {"name": f"{NAME}.webp", "mimeType": "image/webp", "buffer": picture_of(address, NAME)})
    results(page)
    keep(page, f"page-picture-{scheme}")
    page.context.close()


def shoot_narrow(browser: Browser, address: str) -> None:
    """Look at it on a telephone."""
    page = opened(browser, address, viewport={"width": 390, "height": 780})
    page.goto(f"/?q={WORDS}")
    results(page)
    keep(page, "page-narrow")


def main(model: str = "samples/search", index: str = "demo/index") -> None:
    """Serve, and look."""
    if not Path(model).is_dir() or not Path(index).is_dir():
        sys.exit(f"{model} or {index} is not there; 'make demo' makes both")
    OUT.mkdir(parents=True, exist_ok=True)
    with served(model, index) as address, launched() as browser:
        for scheme in ("light", "dark"):
            shoot(browser, address, scheme)
        shoot_narrow(browser, address)


if __name__ == "__main__":
    main(*sys.argv[1:])
