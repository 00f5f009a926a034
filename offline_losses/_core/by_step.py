"""Weighted means over all episodes at the same step of theirs; one that has ended stays in them with its last weight.

Weights come as logarithms, and are taken over the largest of their step. A first pass over the steps adds them up, a
second, when the means are known, what each episode moves them by.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from offline_losses._core.blocks import Block, Episodes, joined
from offline_losses._core.checks import Knob
from offline_losses._core.episodes import OfEpisodes, powers, scattered
from offline_losses._core.reduce import scalar
from offline_losses._core.scan import solve


class Weighted(NamedTuple):
    """A block of episodes [N], with weights over the largest of the same step, whose logarithm is kept."""

    episodes: Episodes
    x: Tensor
    weight: Tensor
    step: Tensor  # how many steps of its episode lie before each
    largest: Tensor  # [places]
    last: OfEpisodes  # logarithm of the weight of each whole episode
    last_step: OfEpisodes


class Means(NamedTuple):
    """The weighted mean at each step, and what makes shares of the weights."""

    mean: Tensor  # [places]
    scales: Sequence[Tensor]  # of each block [places], what makes its weights shares of the sum of all at a step
    ended_share: Tensor  # [places], the largest weight of an episode that has ended, as such a share
    decay: Tensor  # [places], the largest weight of an episode that has ended, over that at the next step
    last: Tensor  # weight of each whole episode over the largest of those that have ended by then
    last_step: Tensor


def at_each_step(blocks: Iterable[Block], places: int) -> list[Weighted]:
    """Values and weights, from blocks of episodes, values and log-ratios."""
    return [weighted(episodes, x, episodes.running_sum(y), episodes.step(), places) for episodes, x, y in blocks]


def weighted(episodes: Episodes, x: Tensor, log_weight: Tensor, step: Tensor, places: int) -> Weighted:
    largest = log_weight.detach().new_full((places,), -torch.inf)
    largest = largest.scatter_reduce(0, step.long(), log_weight.detach(), "amax")
    weight = (log_weight - _finite(largest).index_select(0, step)).exp()
    return Weighted(episodes, x, weight, step, largest, episodes.at_last(log_weight), episodes.at_last(step.long()))


def means(blocks: Sequence[Weighted]) -> Means:
    (log_last, end), (last_step, _) = joined([b.last for b in blocks]), joined([b.last_step for b in blocks])
    running, at_end = torch.stack([b.largest for b in blocks]).amax(0), torch.where(end, log_last, -torch.inf)
    ended = torch.full_like(running, -torch.inf).scatter_reduce(0, last_step, at_end.detach(), "amax")
    ended = ended.cummax(0).values
    following, ended = _finite(ended), pad(ended[:-1], (1, 0), value=-torch.inf)
    largest, decay = _finite(torch.maximum(running, ended)), (ended - following).exp()
    last = (at_end - following.index_select(0, last_step)).exp()
    new, before = (pad(x[:-1], (1, 0)) for x in (scattered(last, last_step, len(running)), decay))
    ended_weight = solve(new.flip(-1), before.flip(-1), None, None).flip(-1)
    relative, scales = (ended - largest).exp(), [(b.largest - largest).exp() for b in blocks]
    weight, total = ended_weight * relative, torch.zeros_like(running)
    for b, scale in zip(blocks, scales, strict=True):
        weight = weight + scale * scattered(b.weight, b.step.long(), len(running))
        total = total + scale * scattered(b.weight * b.x.double(), b.step.long(), len(running))
    weight = torch.where(weight > 0, weight, 1.0)
    return Means(total / weight, [scale / weight for scale in scales], relative / weight, decay, last, last_step)


def moved(blocks: Sequence[Weighted], found: Means, power: Tensor) -> OfEpisodes:
    """How far each episode moves the sum of the means times these powers, to first order."""
    # An episode that has ended draws the means of all later steps towards zero, by its share of the weights there.
    later = pad(solve(power * found.mean * found.ended_share, found.decay, None, None)[1:], (0, 1))
    totals = []
    for b, scale in zip(blocks, found.scales, strict=True):
        factor = power * scale
        shift = (factor * found.mean).index_select(0, b.step)
        totals.append(b.episodes.total(b.weight * (factor.index_select(0, b.step) * b.x.double() - shift), 1.0))
    drawn = found.last * later.index_select(0, found.last_step)
    total, where = joined(totals)
    return blocks[0].episodes.less((total, where), drawn) if len(blocks) == 1 else (total - drawn, where)


def contributions(blocks: Sequence[Weighted], found: Means, power: Tensor) -> OfEpisodes:
    """The sum of the means times these powers, plus how far each episode moves it."""
    change, one_each = moved(blocks, found, power)
    count = torch.stack([b.last[1].sum() for b in blocks]).sum()
    return (power * found.mean).sum() + count * change, one_each


def redrawn(blocks: Sequence[Weighted], log_weights: Sequence[Tensor], count: Tensor) -> list[Weighted]:
    """The same with each episode so many times; by logarithms, since one that is not drawn may outweigh the others."""
    counts = torch.split(count.log(), [int(b.last[1].sum()) for b in blocks])
    return [
        weighted(b.episodes, b.x, log_weight + b.episodes.spread(each), b.step, len(b.largest))
        for b, log_weight, each in zip(blocks, log_weights, counts, strict=True)
    ]


def powers_of_steps(discount: Knob, mean: Tensor) -> Tensor:
    return powers(scalar(discount, mean).double(), torch.arange(len(mean), device=mean.device))


def _finite(log_weight: Tensor) -> Tensor:
    return torch.where(log_weight == -torch.inf, 0.0, log_weight)
