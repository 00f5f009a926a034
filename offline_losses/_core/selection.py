"""Which steps belong to the best episodes, twice: with shapes that depend on no value, and faster on the CPU.

Under a transform, on a card and on the meta device nothing may look at a value, so that all steps are sorted for the
few that begin an episode. In compiled code the selection is one operator, `offline_losses::best_episodes`, which on the
CPU sorts episodes alone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, library
from torch.nn.functional import pad

from offline_losses._core.checks import Knob
from offline_losses._core.reduce import scalar

BLOCK = 2**18
"""Steps whose rewards are added up at a time, as doubles two megabytes."""


def best_episodes(reward: Tensor, end: Tensor, fraction: Tensor, discount: Tensor, by: str) -> Tensor:
    """Bool `[N]`, as `return_filter` says, for episodes that end where `end` is True."""
    if torch.compiler.is_compiling():
        kept: Tensor = _best_episodes(reward, end, fraction, discount, by)
        return kept
    return _by_steps(reward, end, fraction, discount, by)


def episode_start(end: Tensor) -> Tensor:
    """True on the first step of each episode."""
    return pad(end[..., :-1], (1, 0), value=True)


def episode_score(reward: Tensor, start: Tensor, discount: Knob) -> tuple[Tensor, Tensor]:
    """Return of each episode, on its first step, and the index of each step's first step.

    Summed in float64, step by step from the first, so that equal episodes tie exactly, wherever they lie.
    """
    step = torch.arange(reward.shape[-1], device=reward.device)
    first_step = torch.where(start, step, 0).cummax(-1).values
    reward = reward.double()
    powers = scalar(discount, reward) ** step
    terms = reward * powers[step - first_step]
    return torch.zeros_like(terms).scatter_add(-1, first_step, terms), first_step


def _share(fraction: Knob, total: Tensor) -> Tensor:
    return (fraction * total.double() + 0.5).floor().long()


@library.custom_op(
    "offline_losses::best_episodes",
    mutates_args=(),
    schema="(Tensor reward, Tensor end, Tensor fraction, Tensor discount, str by) -> Tensor",
)
def _best_episodes(reward: Tensor, end: Tensor, fraction: Tensor, discount: Tensor, by: str) -> Tensor:
    """To a compiler one operator, which on the CPU sorts episodes in place of steps."""
    return (_by_episodes if end.device.type == "cpu" else _by_steps)(reward, end, fraction, discount, by)


@_best_episodes.register_fake
def _(reward: Tensor, end: Tensor, fraction: Tensor, discount: Tensor, by: str) -> Tensor:
    return torch.empty_like(end)


@_best_episodes.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    def row(i: int) -> Tensor:
        inner = (x if dim is None else x.select(dim, i) for x, dim in zip(arguments, in_dims, strict=True))
        kept: Tensor = _best_episodes(*inner)
        return kept

    return torch.stack([row(i) for i in range(info.batch_size)]), 0


def _by_steps(reward: Tensor, end: Tensor, fraction: Tensor, discount: Tensor, by: str) -> Tensor:
    """The same by operators whose shapes depend on no value: an episode is represented by its first step."""
    start, step = episode_start(end), torch.arange(end.numel(), device=end.device)
    score, first_step = episode_score(reward, start, discount)
    score = torch.where(start & ~score.isnan(), score, -torch.inf)
    order = score.sort(descending=True, stable=True).indices
    if by == "episodes":
        used = start[order].cumsum(-1) - 1
        limit = _share(fraction, start.sum())
    else:
        last_step = torch.where(end, step, end.numel()).flip(-1).cummin(-1).values.flip(-1)
        length = torch.where(start, last_step - step + 1, 0)
        used = length[order].cumsum(-1)
        limit = _share(fraction, torch.full_like(used[0], end.numel())) + 1
    first = start[order] & (start[order].cumsum(-1) == 1)
    kept = torch.zeros_like(start).scatter(-1, order, (used < limit) | first)
    return kept.gather(-1, first_step)


def _by_episodes(reward: Tensor, end: Tensor, fraction: Tensor, discount: Tensor, by: str) -> Tensor:
    """The same with the episodes as pieces of different length."""
    last = _where(end)
    length = torch.diff(last, prepend=last.new_tensor([-1]))
    # the powers once for all, since a power taken in another place of a vector may differ in its last bit
    powers = discount ** torch.arange(int(length.max()), dtype=torch.float64) if float(discount) != 1.0 else None
    score = torch.cat([_scores(reward, length[i], last[i], powers) for i in _blocks(last)])
    order = torch.where(score.isnan(), -torch.inf, score).sort(descending=True, stable=True).indices
    used = torch.ones_like(length).cumsum(0) if by == "episodes" else length[order].cumsum(0)
    share = int(torch.floor(fraction * int(used[-1]) + 0.5))
    kept = torch.zeros(len(length) + 1, dtype=torch.int8)  # one more, behind the end
    kept[order[used <= share]] = 1
    kept[order[0]] = 1
    edge = torch.zeros(len(end), dtype=torch.int8)  # 1 where kept steps begin, -1 where they have ended
    edge[last + 1 - length] = torch.diff(kept[:-1], prepend=kept[-1:])
    return edge.cumsum(0, dtype=torch.int8).view(torch.bool)


def _where(flag: Tensor) -> Tensor:
    """The indices of the few that are True, looked for eight at a time."""
    eights = pad(flag, (0, -len(flag) % 8)).view(-1, 8)
    rows = eights.view(torch.int64).squeeze(-1).nonzero().squeeze(-1)
    row, column = eights[rows].nonzero(as_tuple=True)
    return 8 * rows[row] + column


def _blocks(last: Tensor) -> list[slice]:
    """Episodes that together have as many steps as stay in the processor's cache, and at least one."""
    block = last // BLOCK
    starts = (torch.diff(block, prepend=block.new_tensor([-1])) > 0).nonzero().flatten().tolist()
    return [slice(*bounds) for bounds in pairwise([*starts, len(last)])]


def _scores(reward: Tensor, length: Tensor, last: Tensor, powers: Tensor | None) -> Tensor:
    """Return of each episode of a block."""
    steps = reward[int(last[0] + 1 - length[0]) : int(last[-1] + 1)].double()
    if powers is not None:
        start = (length.cumsum(0) - length).repeat_interleave(length)
        steps = steps * powers[torch.arange(len(steps)) - start]
    return torch.segment_reduce(steps, "sum", lengths=length, unsafe=True)
