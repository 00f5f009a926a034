"""Sums over episodes, twice: with shapes that depend on no value, and by episodes on the CPU.

Under a transform, on a card and on the meta device nothing may look at a value, so that every step is sent to the first
one of its episode. In compiled code a sum is one operator, `offline_losses::episode_sum`, which on the CPU takes the
episodes as pieces of different length.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, library
from torch.nn.functional import pad

from offline_losses._core.checks import Knob
from offline_losses._core.pieces import (
    blocks_of,
    ends,
    episode_table,
    found,
    times_each,
)
from offline_losses._core.reduce import in_double
from offline_losses._core.scan import solve
from offline_losses._core.sharded import beside
from offline_losses._core.tracing import takes_operators

OfEpisodes: TypeAlias = tuple[Tensor, Tensor]
"""Numbers, and True on the step of each episode on which they are those of the episode."""


def sequence_end(done: Tensor) -> Tensor:
    """Where a recurrence in time is cut: where done, and always on the last step of the axis."""
    step = beside(torch.arange(done.shape[-1], device=done.device), done)
    return done | (step == done.shape[-1] - 1)  # generated loops take longer over a part that is padded


def sequence_start(done: Tensor) -> Tensor:
    """True on the first step of each episode."""
    return pad(done[..., :-1], (1, 0), value=True)


def episode_total(reward: Tensor, done: Tensor, discount: Knob) -> Tensor:
    """Return of each episode, on all of its steps.

    Summed in float64, step by step from the first, so that equal episodes tie exactly, wherever they lie; with a
    discount for each step by a recurrence.
    """
    if isinstance(discount, Tensor) and discount.ndim:
        step = beside(torch.arange(done.shape[-1], device=done.device), done)
        return solve(reward.double(), discount.double(), done, None).gather(-1, first_step_of(done, step))
    if _is_compiled(reward, discount):
        return _in_one_operator(reward, done, discount)
    if found(done, reward, *_tensors(discount)) is not None:
        return _sum_by_segments(reward, done, exact_discount(discount, done), False)
    total, first_step = totals(reward, done, discount)
    return total.gather(-1, first_step)


def each_total(reward: Tensor, done: Tensor, discount: Knob) -> OfEpisodes:
    """The same, once for each episode."""
    if not _is_compiled(reward, discount) and found(done, reward, *_tensors(discount)) is not None:
        return every_one(episode_table(reward, done, exact_discount(discount, done))[0])
    return first_total(reward, done, discount), sequence_start(done)


def first_total(reward: Tensor, done: Tensor, discount: Knob) -> Tensor:
    """The same on the first step at least, without a look at values."""
    if _is_compiled(reward, discount):
        return _in_one_operator(reward, done, discount)
    return totals(reward, done, discount)[0]


def first_totals(x: Tensor, reward: Tensor, done: Tensor, discount: Knob) -> tuple[Tensor, Tensor]:
    """Sum of the first and return of each episode, on its first step at least."""
    if _is_compiled(reward, discount):
        return first_total(x, done, 1.0), first_total(reward, done, discount)
    first_step, factor = _powers(done, discount)
    return scattered(x.double(), first_step), scattered(reward.double() * factor, first_step)


def _is_compiled(reward: Tensor, discount: Knob) -> bool:
    """Whether this is compiled, without a transform and without a derivative by the discount."""
    fixed = not (isinstance(discount, Tensor) and discount.requires_grad)
    return takes_operators() and fixed


def _in_one_operator(reward: Tensor, done: Tensor, discount: Knob) -> Tensor:
    """Return of each episode, on all of its steps."""
    total: Tensor = _episode_sum(reward, done, exact_discount(discount, done), False)
    return total


def totals(reward: Tensor, done: Tensor, discount: Knob) -> tuple[Tensor, Tensor]:
    """Return of each episode, on its first step, and the index of each step's first step."""
    first_step, factor = _powers(done, discount)
    return scattered(reward.double() * factor, first_step), first_step


def _powers(done: Tensor, discount: Knob) -> tuple[Tensor, Tensor]:
    """The index of each step's first step, and the discount to the power of their distance."""
    step = beside(torch.arange(done.shape[-1], device=done.device), done)
    first_step = first_step_of(done, step)
    return first_step, powers(exact_discount(discount, done), step)[step - first_step]


def powers(factor: Tensor, index: Tensor) -> Tensor:
    """The factor to the power of each index, of which the first is zero; its slopes at a factor of zero are finite."""
    return pad(factor ** index[1:], (1, 0), value=1.0)


def every_one(x: Tensor) -> OfEpisodes:
    return x, torch.ones_like(x, dtype=torch.bool)


def first_step_of(done: Tensor, step: Tensor) -> Tensor:
    return (step * sequence_start(done)).cummax(-1).values


def _tensors(*knobs: Knob) -> list[Tensor]:
    """Those of the hyper-parameters that a derivative may be asked by."""
    return [knob for knob in knobs if isinstance(knob, Tensor)]


def exact_discount(discount: Knob, like: Tensor) -> Tensor:
    return discount.double() if isinstance(discount, Tensor) else in_double(discount, like.device)


def scattered(terms: Tensor, first_step: Tensor, places: int | None = None) -> Tensor:
    """The sum of each episode on its first step; outside of generated code the same for episodes of the same terms."""
    if terms.is_cuda:  # `scatter_add` would add in whatever order there
        return _scattered_in_order(terms, first_step)
    zeros = torch.zeros_like(terms) if places is None else terms.new_zeros(places)
    return zeros.scatter_add(-1, first_step, terms)


def _scattered_in_order(terms: Tensor, first_step: Tensor) -> Tensor:
    """The same by an operator that, on a card, sorts by index and adds up the values of each on their own."""
    row = torch.arange(terms.shape[:-1].numel(), device=terms.device).view(*terms.shape[:-1], 1)
    place = (row * terms.shape[-1] + first_step).flatten()
    return torch.zeros_like(terms).flatten().index_put((place,), terms.flatten(), accumulate=True).view(terms.shape)


@library.custom_op(
    "offline_losses::episode_sum",
    mutates_args=(),
    schema="(Tensor x, Tensor done, Tensor discount, bool transposed) -> Tensor",
)
def _episode_sum(x: Tensor, done: Tensor, discount: Tensor, transposed: bool) -> Tensor:
    """Discounted sum of each episode on all of its steps, or transposed: its plain sum, discounted on each step."""
    return (_sum_by_segments if x.is_cpu else _sum_by_scatter)(x, done, discount, transposed)


def _sum_by_scatter(x: Tensor, done: Tensor, discount: Tensor, transposed: bool) -> Tensor:
    first_step, factor = _powers(done, discount)
    terms = x.double()
    total = scattered(terms if transposed else terms * factor, first_step).gather(-1, first_step)
    return total * factor if transposed else total


def _sum_by_segments(x: Tensor, done: Tensor, discount: Tensor, transposed: bool) -> Tensor:
    result = torch.empty(x.shape, dtype=torch.float64)
    if x.numel():
        for steps, pieces, factor in blocks_of(*ends(done), discount):
            terms = x.reshape(-1)[steps].double()
            if transposed:
                result.view(-1)[steps] = times_each(pieces.sums(terms).repeat_interleave(pieces.length), factor)
            else:
                result.view(-1)[steps] = pieces.sums(times_each(terms, factor)).repeat_interleave(pieces.length)
    return result


@_episode_sum.register_fake
def _(x: Tensor, done: Tensor, discount: Tensor, transposed: bool) -> Tensor:
    return torch.empty(x.shape, dtype=torch.float64, device=x.device)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, done, discount, ctx.transposed = inputs
    ctx.dtype = x.dtype
    ctx.save_for_backward(done, discount)


def _transpose(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
    return _episode_sum(upstream, *ctx.saved_tensors, not ctx.transposed).to(ctx.dtype), None, None, None


_episode_sum.register_autograd(_transpose, setup_context=_save)


def mapped_by_rows(operator: Any, info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    rows = [
        operator(*(x if dim is None else x.select(dim, i) for x, dim in zip(arguments, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    return torch.stack(rows), 0


_episode_sum.register_vmap(partial(mapped_by_rows, _episode_sum))
