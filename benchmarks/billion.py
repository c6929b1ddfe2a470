"""`python -m benchmarks.billion`: the plan for a billion pages, as tables; every number that goes in is an option."""

from __future__ import annotations

import argparse
import dataclasses

from twoway.recipes.plan import FORMS, PagePlan, Pages, Prices, plan_pages

POOL_FACTORS = (1, 2, 3, 4)
CANDIDATES = 500  # that MaxSim compares in a search in steps


def main(argv: list[str] | None = None) -> None:
    """Read the numbers, plan, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.billion", description=__doc__)
    parser.add_argument("--model", default="Qwen/Qwen2.5-VL-3B-Instruct", help="a published size, or a folder")
    parser.add_argument("--hardware", default="h100x64", metavar="NAMExN", help="as for 'twoway plan'")
    parser.add_argument("--dim", type=int, default=1024, help="numbers of a vector")
    parser.add_argument("--utilisation", type=float, default=0.4, help="share of the accelerators' peak")
    parser.add_argument("--price", type=float, help="of an accelerator for an hour")
    parser.add_argument(
        "--many", type=int, nargs="?", const=128, metavar="DIM", help="bytes of a vector for each token, of so many numbers (128), instead"
    )
    for kind in (Pages, Prices):
        for field in dataclasses.fields(kind):
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default)
    args = parser.parse_args(argv)
    given = vars(args)
    pages = Pages(**{field.name: given[field.name] for field in dataclasses.fields(Pages)})
    if args.many is not None:
        show_many(pages, args.many)
        return
    prices = Prices(**{field.name: given[field.name] for field in dataclasses.fields(Prices)})
    found = plan_pages(args.model, args.hardware, pages=pages, dim=args.dim, utilisation=args.utilisation, prices=prices, price=args.price)
    show(found, pages, args.dim)


def show(found: PagePlan, pages: Pages, dim: int) -> None:
    """Print what comes out."""
    print(f"{pages.count:,.0f} pages, {found.model}, on {found.hardware}")
    print(f"\noperations of a page      {found.operations:.2e}  ({pages.image:,.0f} tokens of its picture, {pages.text:,.0f} of its words)")
    print(f"pages a second            {found.rate:,.1f} an accelerator, {found.rate * found.hardware.count:,.0f} together")
    print(f"embedding                 {found.accelerator_hours:,.0f} accelerator hours, {found.days:,.1f} days")
    print(f"making pages ready        {found.core_hours:,.0f} core hours; {found.cores:,.1f} cores keep one accelerator busy")
    print(f"bytes read                {_bytes(found.moved)}, {_bytes(found.moved / found.days / 86_400)} a second")
    print("\n| once | dollars |\n|---|---|")
    for name, dollars in found.dollars.items():
        print(f"| {name} | {dollars:,.0f} |")
    print(f"\n| vectors of {dim} numbers | bytes | on disk, $ a month | in memory, $ a month |\n|---|---|---|---|")
    for form, (size, disk, memory) in found.kept.items():
        print(f"| {form} | {_bytes(size)} | {disk:,.0f} | {memory:,.0f} |")


def show_many(pages: Pages, dim: int) -> None:
    """Print the bytes of late interaction: pages x vectors of a page x numbers x bits of a number / 8."""
    print(f"{pages.count:,.0f} pages of {pages.image + pages.text:,.0f} tokens, a vector of {dim} numbers each\n")
    print(f"| pool factor | vectors of a page | {' | '.join(FORMS)} | float16 of {CANDIDATES} pages |\n|{'---|' * (3 + len(FORMS))}")
    for factor in POOL_FACTORS:
        many = round((pages.image + pages.text) / factor)
        sizes = [_bytes(pages.count * many * dim * bits / 8) for bits in FORMS.values()]
        print(f"| {factor} | {many:,} | {' | '.join(sizes)} | {_bytes(CANDIDATES * many * dim * FORMS['float16'] / 8)} |")
    print(f"\nmeans, one of float32 a page: {_bytes(pages.count * dim * FORMS['float32'] / 8)}")


def _bytes(size: float) -> str:
    """Write a size in thousands."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:,.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} PB"


if __name__ == "__main__":
    main()
