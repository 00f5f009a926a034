"""A head whose classes are divided among processes: what each of them tells the others of its own part.

One rank's classes come after those of the last, any number of them, and all ranks have all rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from offline_losses._core.errors import refuse
from offline_losses._core.exponential import finite


class Part(NamedTuple):
    """Of a head: the processes that have one, the first class of this one, 0-d, and how many classes all have."""

    group: Any
    first: Tensor
    classes: Tensor


def part_of(head: Tensor, group: Any) -> Part:
    """What this rank has, from the sizes of all."""
    sizes = _gathered(torch.full((), len(head), device=head.device), group)
    return Part(group, sizes[: torch.distributed.get_rank(group)].sum(), sizes.sum())


def check_range(function: str, action: Tensor, classes: int, part: Part | None) -> None:
    """Refuse an action that is no row of the head, where values can be seen at no cost."""
    if action.is_cpu and action.numel():
        first, classes = (0, classes) if part is None else (int(part.first), int(part.classes))
        low, high = (int(x) + first for x in action.aminmax())
        if low < 0 or high >= classes:
            mend = "Number the classes from 0, and give masked rows any of them."
            got = f"{low if low < 0 else high}"
            refuse(ValueError, function, "action", f"classes in [0, {classes})", got, mend)


def joined(largest: Tensor, summed: Tensor, chosen: Tensor, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Of all ranks, of which at most one has found the action."""
    tops, sums, found = _gathered(torch.stack([largest, summed, chosen]), group).unbind(1)
    top = tops.amax(0)
    return top, (sums * (tops - finite(top)).exp()).sum(0), found.amax(0)


def added(by_hidden: Tensor, by_scale: Tensor | None, group: Any) -> tuple[Tensor, Tensor | None]:
    """What each rank's classes add to the gradients of what all ranks share."""
    if by_scale is None:
        torch.distributed.all_reduce(by_hidden, group=group)
        return by_hidden, None
    both = torch.cat([by_hidden.flatten(), by_scale.view(1)])
    torch.distributed.all_reduce(both, group=group)
    return both[:-1].view_as(by_hidden), both[-1]


def _gathered(mine: Tensor, group: Any) -> Tensor:
    """Of all ranks, stacked."""
    all_ranks = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(all_ranks, mine, group=group)
    return torch.stack(all_ranks)
