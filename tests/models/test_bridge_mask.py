"""The bridge mask is its table: entry by entry, wherever the padding is, whatever the rows of one batch are."""

from __future__ import annotations

import pytest
import torch

from twoway.errors import TwowayError
from twoway.models import bridge_mask as module
from twoway.models.bridge_mask import PARTS, bridge_mask

# As the paper's second stage has it (arXiv 2603.01471).
PAPER = {
    ("A", "A"): True, ("A", "EOS"): True, ("A", "B"): False,
    ("EOS", "A"): True, ("EOS", "EOS"): True, ("EOS", "B"): True,
    ("B", "A"): False, ("B", "EOS"): True, ("B", "B"): True,
}  # fmt: skip
# Three rows with other splits, on either side; "." is padding.
LEFT = ["...AAAEBBB", "AAAAAAEBBB", ".AEBBBBBBB"]
RIGHT = [row.strip(".") + "." * row.count(".") for row in LEFT]
MIXED = ["..AAEBB...", "AAAAAAAAEB", "AEB......."]
NAMES = {"A": "A", "E": "EOS", "B": "B"}


def documented() -> dict[tuple[str, str], bool]:
    """Read the table out of the module's docstring."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in str(module.__doc__).splitlines() if line.startswith("|")]
    heads, rows = lines[0][1:], lines[2:]
    return {(who, whom): said == "yes" for who, *entries in rows for whom, said in zip(heads, entries, strict=True)}


def made(rows: list[str], **options: bool) -> torch.Tensor:
    eos = torch.tensor([row.index("E") for row in rows])
    padding = torch.tensor([[letter == "." for letter in row] for row in rows])
    return bridge_mask(eos, padding, **{"eos_sees_target": True, "sources_see_eos": True} | options)


def test_the_docstring_has_the_papers_table() -> None:
    assert documented() == PAPER
    assert {name for pair in PAPER for name in pair} == set(PARTS)


@pytest.mark.parametrize("rows", [LEFT, RIGHT, MIXED], ids=["padded left", "padded right", "padded on both sides"])
@pytest.mark.parametrize("eos_sees_target", [True, False])
@pytest.mark.parametrize("sources_see_eos", [True, False])
def test_every_entry_of_every_row_is_the_tables(rows: list[str], eos_sees_target: bool, sources_see_eos: bool) -> None:
    table = documented() | {("EOS", "B"): eos_sees_target, ("A", "EOS"): sources_see_eos}
    mask = made(rows, eos_sees_target=eos_sees_target, sources_see_eos=sources_see_eos)
    assert mask.dtype == torch.bool
    assert mask.shape == (len(rows), len(rows[0]), len(rows[0]))
    for number, row in enumerate(rows):
        for who, one in enumerate(row):
            for whom, other in enumerate(row):
                expected = "." not in (one, other) and table[NAMES[one], NAMES[other]]
                assert bool(mask[number, who, whom]) == expected, (row, one, other)


def test_nothing_of_a_reaches_b_past_eos_through_any_number_of_layers() -> None:
    """A layer is a step along the mask; ever more steps are a power of it."""
    for rows in (LEFT, RIGHT):
        for eos_sees_target in (True, False):
            mask = made(rows, eos_sees_target=eos_sees_target)
            for number, row in enumerate(rows):
                eos, reach = row.index("E"), mask[number].clone().float()
                reach[eos], reach[:, eos] = 0, 0
                for _ in range(4):
                    reach = (reach @ reach).clamp(max=1)
                source, target = row.index("A"), row.index("B")
                assert reach[target, source] == 0
                assert reach[target, target + 1] == 1
                steps = mask[number].float()
                assert (steps @ steps)[target, source] == 1  # over EOS it takes two


@pytest.mark.parametrize(
    ("row", "eos", "said"),
    [
        ("AAEBB", 5, "past the end of a row of 5 tokens"),
        ("AAEBB", -1, "past the end of a row of 5 tokens"),
        (".AEBB", 0, "EOS is in the padding"),
        ("AAEB.", 4, "EOS is in the padding"),
        ("AAEBB", 0, "A is empty"),
        (".AEBB", 1, "A is empty"),
        ("AAEBB", 4, "B is empty"),
        ("AAEB.", 3, "B is empty"),
    ],
)
def test_a_row_without_a_split_is_refused_by_number_and_reason(row: str, eos: int, said: str) -> None:
    padding = torch.tensor([[False] * 5, [letter == "." for letter in row]])
    with pytest.raises(TwowayError, match=rf"row 1 of the batch \(EOS at {eos}\): .*{said}"):
        bridge_mask(torch.tensor([2, eos]), padding, eos_sees_target=True, sources_see_eos=True)


def test_tensors_of_another_form_are_refused() -> None:
    padding = torch.zeros(2, 5, dtype=torch.bool)
    for eos, pads in ((torch.tensor([2]), padding), (torch.tensor([2, 2]), padding.long()), (torch.tensor([2, 2]), padding[0])):
        with pytest.raises(TwowayError, match="one position a row"):
            bridge_mask(eos, pads, eos_sees_target=True, sources_see_eos=True)
