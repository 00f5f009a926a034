"""Sums over episodes as pieces of different length: on the CPU, where values may be looked at and nothing is derived.

What is known of many episodes at once, their first steps and their lengths, is found in one pass over the flags. Sums
from the first step on are differences of one running sum, from which each episode takes away at its first step what the
one before it has added: so it stays as small as an episode's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from offline_losses._core.tracing import is_differentiated, is_plain, is_tracing

MANY = 2**13
"""Steps from which on it takes less time to look for the episodes."""

BLOCK = 2**18
"""Steps that are worked on at a time, as doubles two megabytes."""

LARGEST = 1e5
"""Up to here the sum of an episode leaves those after it nine digits behind the point."""


class Pieces(NamedTuple):
    """The first step and the length of each episode, whose steps lie one after the other."""

    first: Tensor
    length: Tensor

    def done(self) -> Tensor:
        """Flags on the last step of each episode."""
        steps = int(self.length.sum())
        return torch.zeros(steps, dtype=torch.bool).index_fill(0, self.first + self.length - 1, True)

    def step(self) -> Tensor:
        """How many steps of its episode lie before each step; half as wide as an index, so that more of it is near."""
        step = torch.ones(int(self.length.sum()), dtype=torch.int32)
        step[0], step[self.first[1:]] = 0, 1 - self.length[:-1].int()
        return torch.cumsum(step, 0, out=step)

    def powers(self, factor: Tensor) -> Tensor:
        """The factor to the power of each step's distance from its first."""
        return powers_of(factor, self.length).index_select(0, self.step())

    def sums(self, x: Tensor) -> Tensor:
        """Of each episode, step by step from the first."""
        return torch.segment_reduce(x, "sum", lengths=self.length, unsafe=True)

    def on_steps(self, x: Tensor) -> Tensor:
        """A number of each episode on all of its steps; on the CPU in blocks, beside which the result alone is held."""
        if not may_be_looked_at(x):
            return x.repeat_interleave(self.length)
        last = self.first + self.length - 1
        result = x.new_empty(int(self.length.sum()))
        for steps in blocks(len(result), BLOCK):
            low, high = torch.searchsorted(last, torch.tensor([steps.start, steps.stop - 1])).tolist()
            episodes = slice(low, high + 1)
            inside = last[episodes].clamp(max=steps.stop - 1) + 1 - self.first[episodes].clamp(min=steps.start)
            result[steps] = x[episodes].repeat_interleave(inside)
        return result

    def running(self, x: Tensor) -> Tensor | None:
        """The sum from the first step of the episode on; None if it may grow too large for that, other than to −∞."""
        low, high = x.aminmax()
        never = x.isneginf() if low == -torch.inf else None
        if never is not None:
            x = x.masked_fill(never, 0.0)
            low = x.amin()
        largest = LARGEST / int(self.length.max())
        if not -largest <= low <= high <= largest:
            return None
        total = self._running(x)
        return total if never is None else total.masked_fill_(self._running(never) > 0.5, -torch.inf)

    def _running(self, x: Tensor) -> Tensor:
        x = x.to(torch.float64, copy=True)
        x[self.first[1:]] -= self.sums(x)[:-1]
        return torch.cumsum(x, 0, out=x)


def found(done: Tensor, *steps: Tensor) -> Pieces | None:
    """The episodes of many steps, where the formula of these may depend on values and has no derivative."""
    if done.numel() < MANY or not may_be_looked_at(done, *steps) or any(map(is_differentiated, steps)):
        return None
    if not have_values(done, *steps):
        return None
    return all_of(done)


def all_of(done: Tensor) -> Pieces:
    """The episodes; a look at values."""
    last, length = ends(done)
    return Pieces(last + 1 - length, length)


def blocks(steps: int, size: int) -> Iterator[slice]:
    """Steps in order, so many at a time."""
    return (slice(start, min(start + size, steps)) for start in range(0, steps, size))


def are_many(*columns: Tensor, knobs: Sequence[Tensor] = ()) -> bool:
    """Whether to go through columns in blocks of steps; not with hyper-parameters that have no values."""
    numbers = *columns, *knobs
    return columns[0].numel() > BLOCK and may_be_looked_at(*numbers) and have_values(*numbers)


def in_blocks(function: Callable[..., Tensor], columns: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """What a function makes of each step, in blocks beside which the result alone is held."""
    result = torch.empty(columns[0].shape, dtype=dtype)
    for steps in blocks(result.numel(), BLOCK):
        result.view(-1)[steps] = function(*(x.reshape(-1)[steps] for x in columns))
    return result


def may_be_looked_at(*tensors: Tensor) -> bool:
    """Whether a formula may depend on values: on a card it would wait for them."""
    return not is_tracing() and all(x.is_cpu and is_plain(x) for x in tensors)


def have_values(*tensors: Tensor) -> bool:
    """Whether each has a first element: under a transform nothing has a value."""
    try:
        for x in tensors:
            x[(0,) * x.ndim].item()
    except RuntimeError:
        return False
    return True


def ended(done: Tensor) -> Tensor:
    """Flags that are true on the last step of each row too."""
    if not done[..., -1].all():
        done = done.clone()
        done[..., -1] = True
    return done


def ends(done: Tensor) -> tuple[Tensor, Tensor]:
    """The last step of each episode, looked for eight at a time, and the length of each."""
    end = ended(done).flatten()
    if len(end) % 8 or end.storage_offset() % 8:
        end = pad(end, (0, -len(end) % 8))
    eights = end.view(-1, 8)
    rows = eights.view(torch.int64).squeeze(-1).nonzero().squeeze(-1)
    row, column = eights[rows].nonzero(as_tuple=True)
    last = 8 * rows[row] + column
    return last, torch.diff(last, prepend=last.new_tensor([-1]))


def episode_table(reward: Tensor, done: Tensor, discount: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return, length and last step of each episode, in order; a look at values, on the CPU."""
    last, length = ends(done)
    reward, blocks = reward.reshape(-1), blocks_of(last, length, discount)
    totals = [pieces.sums(times_each(reward[steps].double(), factor)) for steps, pieces, factor in blocks]
    return torch.cat(totals), length, last


def blocks_of(last: Tensor, length: Tensor, discount: Tensor) -> Iterator[tuple[slice, Pieces, Tensor | None]]:
    """Episodes that together stay in the processor's cache, and at least one: steps, episodes, discounts if any."""
    # the powers once for all, since a power taken in another place of a vector may differ in its last bit
    table = powers_of(discount, length) if float(discount) != 1.0 else None
    block = last // BLOCK
    starts = (torch.diff(block, prepend=block.new_tensor([-1])) > 0).nonzero().flatten().tolist()
    for start, stop in pairwise([*starts, len(last)]):
        steps = slice(int(last[start] + 1 - length[start]), int(last[stop - 1] + 1))
        pieces = Pieces(last[start:stop] + 1 - length[start:stop] - steps.start, length[start:stop])
        yield steps, pieces, None if table is None else table.index_select(0, pieces.step())


def powers_of(discount: Tensor, length: Tensor) -> Tensor:
    """The discount to the power of each step of the longest episode."""
    return discount ** torch.arange(int(length.max()), dtype=torch.float64)


def times_each(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else x * factor
