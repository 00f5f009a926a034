r"""The best place to stop: $x_t = \max(b_t + a_t x_{t+1}, s_t)$ from the end of the last axis to its beginning.

Two neighboring steps are one of the same form, of sum $b_t + a_t b_{t+1}$, product $a_t a_{t+1}$ and best stop
$\max(s_t, b_t + a_t s_{t+1})$. So chunks of steps are summed up at once, the chunks solved, and filled at once; under a
transform and on a card halves take their place, as in `scan`. To a compiler it is one operator,
`offline_losses::best_stop`, which `_compile` registers. It serves to choose, and has no derivative.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from offline_losses._core.reduce import summed
from offline_losses._core.tracing import is_tracing, takes_operators

CHUNK = 32
"""Steps that operators take in a row, many chunks at once."""

FEW = 1024
"""Up to so many steps Python's numbers are faster than operators."""


def best_stop(b: Tensor, a: Tensor, stopped: Tensor) -> Tensor:
    """The solution, for finite tensors of one shape whose `a` is zero on the last step of the axis."""
    wide = summed(b, stopped)
    b, a, stopped = (x.detach().to(wide) for x in (b, a, stopped))
    if takes_operators():
        found: Tensor = torch.ops.offline_losses.best_stop.default(b, a, stopped)
        return found
    if b.is_cpu and type(b) is Tensor and not is_tracing():
        try:
            return stop_in_order(b, a, stopped)
        except RuntimeError:  # a tracer, which has no values
            pass
    return _by_halves(b, a, stopped)


def stop_in_order(b: Tensor, a: Tensor, stopped: Tensor) -> Tensor:
    """Rows one after the other are one sequence, since nothing passes the last step of each."""
    shape, steps, total = b.shape, b.shape[-1], b.numel()
    if total > FEW and steps <= 4 * CHUNK:
        b, a, stopped = (x.reshape(-1, steps).t().contiguous() for x in (b, a, stopped))
        return _by_steps(b, a, stopped, torch.zeros_like(b[0])).t().contiguous().view(shape)
    return _by_chunks(b.flatten(), a.flatten(), stopped.flatten()).view(shape)


def _by_steps(b: Tensor, a: Tensor, stopped: Tensor, following: Tensor) -> Tensor:
    """One step after the other; time is the first axis."""
    found = []
    for b_t, a_t, s_t in zip(*(reversed(x.unbind()) for x in (b, a, stopped)), strict=True):
        following = torch.maximum(torch.addcmul(b_t, a_t, following), s_t)
        found.append(following)
    return torch.stack(found[::-1])


def _by_chunks(b: Tensor, a: Tensor, stopped: Tensor) -> Tensor:
    steps = len(b)
    if steps <= FEW:
        return _by_numbers(b, a, stopped)
    b, a, stopped = (pad(x, (0, -steps % CHUNK)).view(-1, CHUNK).t().contiguous() for x in (b, a, stopped))
    total, product, best = b[-1], a[-1], stopped[-1]
    for b_t, a_t, s_t in zip(*(reversed(x.unbind()[:-1]) for x in (b, a, stopped)), strict=True):
        best = torch.maximum(torch.addcmul(b_t, a_t, best), s_t)
        total, product = torch.addcmul(b_t, a_t, total), a_t * product
    first = _by_chunks(total, product, best)
    return _by_steps(b, a, stopped, pad(first[1:], (0, 1))).t().flatten()[:steps]


def _by_numbers(b: Tensor, a: Tensor, stopped: Tensor) -> Tensor:
    x, found = 0.0, []
    for b_t, a_t, s_t in zip(*(reversed(y.tolist()) for y in (b, a, stopped)), strict=True):
        x = max(b_t + a_t * x, s_t)
        found.append(x)
    return torch.tensor(found[::-1], dtype=b.dtype)


def _by_halves(b: Tensor, a: Tensor, stopped: Tensor) -> Tensor:
    """In twice as many steps, one level for each power of two, and no look at any value."""
    steps = b.shape[-1]
    if steps == 1:
        return torch.maximum(b, stopped)
    whole = [pad(x, (0, steps % 2)) for x in (b, a, stopped)]
    (b0, a0, s0), (b1, a1, s1) = ([x[..., first::2] for x in whole] for first in (0, 1))
    even = _by_halves(b0 + a0 * b1, a0 * a1, torch.maximum(s0, b0 + a0 * s1))
    odd = torch.maximum(b1 + a1 * pad(even[..., 1:], (0, 1)), s1)
    return torch.stack([even, odd], -1).flatten(-2)[..., :steps]
