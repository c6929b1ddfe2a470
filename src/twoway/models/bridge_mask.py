"""Who sees whom while one token learns to carry everything: the mask of CoCoA's second stage (arXiv 2603.01471, "collaborative attention").

A row is `A [EOS] B`, and B can learn about A only through EOS. The mask is the same in every layer; padding sees nothing and is seen by
nothing.

| row sees | A | EOS | B |
|---|---|---|---|
| A | yes | yes | no |
| EOS | yes | yes | yes |
| B | no | yes | yes |

That is the mask as published. At inference EOS is the last token: it sees A and there is no B. So `eos_sees_target=False` turns the entry
(EOS, B) to no: unmasked words of B can then not be copied into the bottleneck that is trained. `sources_see_eos=False` turns (A, EOS) to
no: then A cannot read what EOS has seen of B, and pass it back. Either one closes that path; the path from A over EOS to B stays.

The position of EOS is given, never searched for: the same token may occur in a chat template, in A or in B, and has no meaning there.
"""

from __future__ import annotations

import torch

from twoway.errors import TwowayError

PARTS = ("A", "EOS", "B")
_A, _EOS, _B = range(3)


def bridge_mask(
    eos: torch.Tensor, padding: torch.Tensor, *, eos_sees_target: bool, sources_see_eos: bool, checked: bool = False
) -> torch.Tensor:
    """Return who (row) sees whom (column) for a batch: `(rows, length, length)`, true where a token is seen.

    `eos` holds the position of the EOS token of each row, counted with the padding; `padding` is true where a position is padding. A batch
    that is `checked` (`require_parts`, on the CPU) is not checked again.
    """
    if not checked:
        require_parts(eos, padding)
    places = torch.arange(padding.shape[1], device=padding.device)
    part = torch.sign(places - eos.to(padding.device)[:, None]) + 1
    who, whom, real = part[:, :, None], part[:, None, :], ~padding
    hidden = ((who == _A) & (whom == _B)) | ((who == _B) & (whom == _A))
    if not eos_sees_target:
        hidden = hidden | ((who == _EOS) & (whom == _B))
    if not sources_see_eos:
        hidden = hidden | ((who == _A) & (whom == _EOS))
    return ~hidden & real[:, :, None] & real[:, None, :]


def require_parts(eos: torch.Tensor, padding: torch.Tensor) -> None:
    """Refuse a batch without an A, an EOS and a B in every row."""
    if padding.dim() != 2 or padding.dtype != torch.bool or eos.shape != padding.shape[:1]:
        raise TwowayError(
            f"the bridge mask takes one position a row and a true or false for each token, not {tuple(eos.shape)} and "
            f"{tuple(padding.shape)} of {padding.dtype}"
        )
    places = torch.arange(padding.shape[1], device=padding.device)
    eos = eos.to(padding.device)[:, None]
    past = (eos < 0) | (eos >= padding.shape[1])
    faults = {
        f"its EOS is past the end of a row of {padding.shape[1]} tokens": past,
        "its EOS is in the padding": padding.gather(1, eos.masked_fill(past, 0)),
        "A is empty: there is no token before EOS": ~(~padding & (places < eos)).any(1, keepdim=True),
        "B is empty: there is no token after EOS": ~(~padding & (places > eos)).any(1, keepdim=True),
    }
    for fault, found in faults.items():
        rows = found[:, 0].nonzero()[:, 0].tolist()
        if rows:
            raise TwowayError(f"row {rows[0]} of the batch (EOS at {int(eos[rows[0], 0])}): {fault}")
