"""What a formula asks of episodes: of large data block by block, with a look at values or with shapes that need none.

A block is whole episodes, one after the other, that stay in the processor's cache from the first pass over them to the
last. Where values may be looked at and nothing is derived, each result is one number for each episode; elsewhere it
stands among the steps, with a flag on the step of each episode where it is that of the episode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from offline_losses._core.checks import Knob
from offline_losses._core.episodes import (
    OfEpisodes,
    every_one,
    exact_discount,
    first_step_of,
    first_total,
    first_totals,
    sequence_end,
    sequence_start,
)
from offline_losses._core.pieces import BLOCK, Pieces, ended, ends, found, have_values, may_be_looked_at, times_each
from offline_losses._core.reduce import clamped
from offline_losses._core.scan import solve
from offline_losses._core.tracing import is_differentiated

LOWEST = -1e30
"""What stands for −∞ in a sum, from which infinities would come out as NaN."""


class Marked(NamedTuple):
    """Episodes as flags on their last steps."""

    done: Tensor

    def running_sum(self, x: Tensor) -> Tensor:
        """The sum from the first step of the episode on, −∞ included; as doubles."""
        one = torch.ones((), dtype=torch.float64, device=self.done.device)
        backwards = clamped(x.double(), LOWEST).flip(-1)
        return or_never(solve(backwards, one, sequence_start(self.done).flip(-1), None).flip(-1))

    def total(self, x: Tensor, discount: Knob) -> OfEpisodes:
        """The discounted sum of each episode."""
        return first_total(x, self.done, discount), sequence_start(self.done)

    def totals(self, x: Tensor, reward: Tensor, discount: Knob) -> tuple[OfEpisodes, OfEpisodes]:
        """The sum of the first, −∞ included, and the discounted sum of the second."""
        start = sequence_start(self.done)
        total, gain = first_totals(clamped(x.double(), LOWEST), reward, self.done, discount)
        return (or_never(total), start), (gain, start)

    def at_first(self, x: Tensor) -> OfEpisodes:
        return x, sequence_start(self.done)

    def at_last(self, x: Tensor) -> OfEpisodes:
        return x, sequence_end(self.done)

    def less(self, total: OfEpisodes, at_last: Tensor) -> OfEpisodes:
        """Totals less what stands on the last step of each episode, and is zero elsewhere."""
        return total[0] - self.total(at_last, 1.0)[0], total[1]

    def spread(self, x: Tensor) -> Tensor:
        """A number of each episode on all of its steps; [N]."""
        return x.index_select(0, sequence_start(self.done).cumsum(0) - 1)

    def step(self) -> Tensor:
        """How many steps of its episode lie before each step; [N]."""
        step = torch.arange(len(self.done), device=self.done.device)
        return step - first_step_of(self.done, step)

    def longest(self) -> int:
        if may_be_looked_at(self.done):
            try:
                return 1 + int(self.step().max())
            except RuntimeError:  # under a transform nothing has a value
                pass
        return self.done.shape[-1]


class Listed(NamedTuple):
    """Episodes as their first steps and lengths; what it is asked for is made of doubles, one for each episode."""

    pieces: Pieces

    def running_sum(self, x: Tensor) -> Tensor:
        total = self.pieces.running(x)
        return Marked(self.pieces.done()).running_sum(x) if total is None else total

    def total(self, x: Tensor, discount: Knob) -> OfEpisodes:
        factor = None if float(discount) == 1.0 else self.pieces.powers(exact_discount(discount, x))
        return every_one(self.pieces.sums(times_each(x.double(), factor)))

    def totals(self, x: Tensor, reward: Tensor, discount: Knob) -> tuple[OfEpisodes, OfEpisodes]:
        return every_one(self.pieces.sums(x.double())), self.total(reward, discount)

    def at_first(self, x: Tensor) -> OfEpisodes:
        return every_one(x[self.pieces.first])

    def at_last(self, x: Tensor) -> OfEpisodes:
        return every_one(x[self.pieces.first + self.pieces.length - 1])

    def less(self, total: OfEpisodes, at_last: Tensor) -> OfEpisodes:
        return total[0] - at_last, total[1]

    def spread(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.pieces.length)

    def step(self) -> Tensor:
        return self.pieces.step()

    def longest(self) -> int:
        return int(self.pieces.length.max())


Episodes: TypeAlias = Marked | Listed

Block: TypeAlias = tuple[Any, ...]
"""Episodes, and what belongs to their steps."""


def by_blocks(
    function: Callable[..., Sequence[OfEpisodes]], done: Tensor, *steps: Tensor, knobs: Sequence[Knob] = ()
) -> Sequence[OfEpisodes]:
    """What a function makes of the episodes of each block and its steps."""
    blocks = [function(*block) for block in in_blocks(done, *steps, knobs=knobs)]
    return [joined(x) for x in zip(*blocks, strict=True)]


def in_blocks(done: Tensor, *steps: Tensor, knobs: Sequence[Knob] = ()) -> list[Block]:
    """Episodes and steps: as they are, or flat, in blocks of whole episodes, if they are many and may be looked at."""
    asked = [*steps, *(knob for knob in knobs if isinstance(knob, Tensor))]
    if not may_be_looked_at(done, *steps):
        return [(Marked(done), *steps)]
    if done.numel() <= BLOCK:
        pieces = found(done, *asked)
        return [(Marked(done), *steps)] if pieces is None else [(Listed(pieces), *(x.flatten() for x in steps))]
    try:
        sizes, blocks = _blocks(*ends(done))
    except RuntimeError:  # under a transform nothing has a value
        return [(Marked(done), *steps)]
    flat = [torch.split(x.reshape(-1), sizes) for x in steps]
    if have_values(*asked) and not any(map(is_differentiated, asked)):
        return list(zip(map(Listed, blocks), *flat, strict=True))
    return list(zip(map(Marked, torch.split(ended(done).reshape(-1), sizes)), *flat, strict=True))


def _blocks(last: Tensor, length: Tensor) -> tuple[list[int], list[Pieces]]:
    """How many steps each block has, and its episodes, from the last step and the length of each episode."""
    stop = torch.diff(last // BLOCK, append=last.new_tensor([-1])).nonzero().squeeze(-1) + 1
    lengths = torch.split(length, torch.diff(stop, prepend=stop.new_zeros(1)).tolist())
    blocks = [Pieces(each.cumsum(0) - each, each) for each in lengths]
    return [int(each.sum()) for each in lengths], blocks


def longest(blocks: Sequence[Block]) -> int:
    """The length of the longest episode, or a length that no episode exceeds."""
    lengths: list[int] = [episodes.longest() for episodes, *_ in blocks]
    return max(lengths)


def joined(blocks: Sequence[OfEpisodes]) -> OfEpisodes:
    """What blocks have made of their episodes; of more than one, one number for each episode."""
    return blocks[0] if len(blocks) == 1 else every_one(torch.cat([only(x) for x in blocks]))


def flat(blocks: list[Block]) -> list[Block]:
    """Blocks whose steps all lie on one axis."""
    (episodes, *steps), *others = blocks
    if isinstance(episodes, Listed) or others:
        return blocks
    return [(Marked(sequence_end(episodes.done).flatten()), *(x.flatten() for x in steps))]


def only(numbers: OfEpisodes) -> Tensor:
    x, where = numbers
    return x[where]


def or_never(total: Tensor) -> Tensor:
    return torch.where(total < LOWEST / 2, -torch.inf, total)
