"""What it takes to embed and keep a great many pages: operations, machines, bytes and money, each by a formula of a few named numbers.

Operations are counted from the model's parts, as `plan` counts them for training, forward alone. All other numbers are given: those of
the machine by `plan_hardware`, the rest by who asks, who knows whether they were measured, published or assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from twoway.errors import UsageError

from .plan_count import Load, Training, count
from .plan_hardware import Hardware, hardware
from .plan_model import anatomy

if TYPE_CHECKING:
    from pathlib import Path

_HOUR, _DAY = 3600, 86_400
# Bits of a number of a vector as it is stored.
FORMS = {"float32": 32, "float16": 16, "int8": 8, "binary": 1}


@dataclass(frozen=True)
class Pages:
    """The pages, and what one of them costs besides operations."""

    count: float = 1e9
    text: float = 400  # tokens of its words and the prompt
    image: float = 1000  # tokens of its picture
    bytes: float = 250_000  # of its file
    core_seconds: float = 0.1  # to render or decode it, resize it, and cut it into patches
    record: float = 1200  # bytes kept beside its vector: id, place, text, metadata, compressed

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (name == "count" and not value):
                raise UsageError(f"{name} of the pages is {'above 0' if name == 'count' else '0 or more'}, not {value:g}")


@dataclass(frozen=True)
class Prices:
    """In dollars; that of an accelerator comes with the hardware."""

    core_hour: float = 0.04
    byte_month: float = 0.023e-9  # on object storage
    memory_month: float = 3.8e-9  # of a byte of memory


@dataclass(frozen=True)
class PagePlan:
    """What comes out."""

    model: str
    hardware: Hardware
    operations: float  # of a page
    accelerator_hours: float
    days: float  # on all of the hardware
    rate: float  # pages a second and accelerator
    cores: float  # that keep one accelerator busy
    core_hours: float
    moved: float  # bytes read
    dollars: dict[str, float]  # by stage, once
    kept: dict[str, tuple[float, float, float]]  # by form: bytes of vectors, dollars a month on disk, and in memory


def plan_pages(
    base: str | Path,
    machine: str,
    *,
    pages: Pages | None = None,
    dim: int = 1024,
    utilisation: float = 0.4,
    padding: float = 0.03,
    prices: Prices | None = None,
    price: float | None = None,
) -> PagePlan:
    """Plan; `machine` is as for `plan`, with so many accelerators that work at once."""
    pages, prices, rented = pages or Pages(), prices or Prices(), hardware(machine, price)
    if not 0 < utilisation <= 1 or padding < 0 or dim < 1:
        raise UsageError(f"utilisation is a share, padding 0 or more, dim 1 or more; not {utilisation:g}, {padding:g}, {dim}")
    operations = forward(base, pages) * (1 + padding)
    rate = rented.peak * utilisation / operations
    hours = pages.count / rate / _HOUR
    core_hours = pages.count * pages.core_seconds / _HOUR
    moved = pages.count * pages.bytes
    dollars = {
        "make pages ready": core_hours * prices.core_hour,
        "embed": hours * rented.price,
        "keep the pages, a month": moved * prices.byte_month,
    }
    kept = {}
    for form, bits in FORMS.items():
        size = pages.count * dim * bits / 8
        kept[form] = (size, (size + pages.count * pages.record) * prices.byte_month, size * prices.memory_month)
    days = hours * _HOUR / _DAY / rented.count
    return PagePlan(str(base), rented, operations, hours, days, rate, rate * pages.core_seconds, core_hours, moved, dollars, kept)


def forward(base: str | Path, pages: Pages) -> float:
    """Count the operations of one page, forward alone and without logits."""
    load = Load.square(1, pages.text, 1 if pages.image else 0, pages.image)
    # What gradient caching runs once before, without a gradient, is just that.
    done = count(anatomy(base), Training(logits=False, second=1.0), [load])
    return float(sum(done.again.values()))
