"""A choice among episodes, twice: with shapes that depend on no value, and by episodes on the CPU.

Where nothing may look at a value, all steps are sorted for the few that begin an episode. In compiled code the choice
is one operator, `offline_losses::best_episodes`.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, library

from offline_losses._core.checks import Knob
from offline_losses._core.episodes import mapped_by_rows, sequence_end, sequence_start, totals
from offline_losses._core.pieces import episode_table, have_values, may_be_looked_at
from offline_losses._core.sharded import is_sharded, shared_out, whole
from offline_losses._core.tracing import is_tracing


def best_episodes(reward: Tensor, done: Tensor, fraction: Tensor, discount: Tensor, by: str) -> Tensor:
    """Bool of `done`'s shape, as `return_filter` says."""
    if is_sharded(reward):
        return shared_out(best_episodes(whole(reward), whole(done), fraction, discount, by), reward)
    if is_tracing():
        kept: Tensor = _best_episodes(reward, done, fraction, discount, by)
        return kept
    if may_be_looked_at(reward, done) and have_values(reward, done, fraction, discount):
        return _best_by_segments(reward, done, fraction.detach(), discount.detach(), by)
    return _best_by_scatter(reward, done, fraction, discount, by)


@library.custom_op(
    "offline_losses::best_episodes",
    mutates_args=(),
    schema="(Tensor reward, Tensor done, Tensor fraction, Tensor discount, str by) -> Tensor",
)
def _best_episodes(reward: Tensor, done: Tensor, fraction: Tensor, discount: Tensor, by: str) -> Tensor:
    return (_best_by_segments if done.is_cpu else _best_by_scatter)(reward, done, fraction, discount, by)


@_best_episodes.register_fake
def _(reward: Tensor, done: Tensor, fraction: Tensor, discount: Tensor, by: str) -> Tensor:
    return torch.empty_like(done, memory_format=torch.contiguous_format)


_best_episodes.register_vmap(partial(mapped_by_rows, _best_episodes))


def _best_by_scatter(reward: Tensor, done: Tensor, fraction: Tensor, discount: Tensor, by: str) -> Tensor:
    """The choice by operators whose shapes depend on no value: an episode is represented by its first step."""
    end = sequence_end(done).flatten()
    start, step = sequence_start(end), torch.arange(end.numel(), device=end.device)
    score, first_step = totals(reward.flatten(), end, discount)
    score = torch.where(start & ~score.isnan(), score, -torch.inf)
    order = score.sort(descending=True, stable=True).indices
    if by == "episodes":
        used = start[order].cumsum(-1) - 1
        limit = _rounded_share(fraction, start.sum())
    else:
        last_step = torch.where(end, step, end.numel()).flip(-1).cummin(-1).values.flip(-1)
        length = torch.where(start, last_step - step + 1, 0)
        used = length[order].cumsum(-1)
        limit = _rounded_share(fraction, torch.full_like(used[0], end.numel())) + 1
    first = start[order] & (start[order].cumsum(-1) == 1)
    kept = torch.zeros_like(start).scatter(-1, order, (used < limit) | first)
    return kept.gather(-1, first_step).view(done.shape)


def _rounded_share(fraction: Knob, total: Tensor) -> Tensor:
    return (fraction * total.double() + 0.5).floor().long()


def _best_by_segments(reward: Tensor, done: Tensor, fraction: Tensor, discount: Tensor, by: str) -> Tensor:
    """The choice with the episodes as pieces of different length."""
    score, length, last = episode_table(reward, done, discount)
    order, count = best_of_table(score, length, fraction, by)
    kept = torch.zeros(len(length) + 1, dtype=torch.int8)  # one more, behind the end
    kept[order[: int(count)]] = 1
    edge = torch.zeros(done.numel(), dtype=torch.int8)  # 1 where kept steps begin, -1 where they have ended
    edge[last + 1 - length] = torch.diff(kept[:-1], prepend=kept[-1:])
    return edge.cumsum_(0).view(torch.bool).view(done.shape)


def best_of_table(score: Tensor, length: Tensor, fraction: Tensor, by: str) -> tuple[Tensor, Tensor]:
    """The order of the episodes `[E]` from the best, and how many of them are kept."""
    order = torch.where(score.isnan(), -torch.inf, score).sort(descending=True, stable=True).indices
    used = torch.ones_like(length).cumsum(0) if by == "episodes" else length[order].cumsum(0)
    return order, (used <= _rounded_share(fraction, used[-1])).sum().clamp(min=1)
