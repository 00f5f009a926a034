r"""The recurrence $x_t = b_t + a_t x_{t+1}$ as fast as its factors allow, and always what a loop over time gives.

Neighboring steps are one step of a shorter sequence, $x_t = (b_t + a_t b_{t+1}) + a_t a_{t+1} x_{t+2}$, so that chunks
of steps can be summed up at once, the recurrence over the chunks solved, and the chunks filled at once. That multiplies
factors: where they are beyond one in magnitude their product may overflow although the solution does not, and where
the solution is infinite a product that has vanished makes NaN of it. Wherever values may be looked at, such a sequence
is solved step by step instead. On a card and under a tracer, where they may not, halves take the place of chunks, in
double precision and with products that stay finite.

To a compiler all this is one operator, `offline_losses::scan`, which `_compile` registers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import pad

from offline_losses._core.tracing import is_plain, is_tracing, takes_operators

CHUNK = 32
"""Steps that operators take in a row, many chunks at once."""

LARGEST_PRODUCT = 2.0**16
"""Up to here the factors of a chunk may grow: beyond it their sums lose more to rounding than the steps themselves."""

BLOCK = 2**18
"""Steps of a long sequence that are solved at a time, so that what they take beside it stays in the cache."""

FEW_ROWS = 24
"""For up to so many rows Python's numbers are faster than operators on each step."""


def solve(b: Tensor, a: Tensor, done: Tensor | None, terminated: Tensor | None) -> Tensor:
    """The recurrence, `a` being of `b`'s shape or 0-d."""
    if takes_operators():
        x: Tensor = torch.ops.offline_losses.scan.default(b, a, done, terminated)
        return x
    cut = either(done, terminated)
    if is_tracing():  # a transform inside of a compiled region
        return _by_halves(b, a, cut)
    return _recurrence(b, a, cut, False)


class Recurrence(Function):
    """The recurrence with its derivatives, each of which is a recurrence too.

    Forwards in time, $x_t = b_t + a_{t-1} x_{t-1}$, is how gradients go; a cut keeps the step after it from what it
    had.
    """

    @staticmethod
    def forward(b: Tensor, a: Tensor, cut: Tensor | None, forwards: bool) -> Tensor:
        return solve_in_order(b, a, cut, forwards)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *saved, ctx.forwards = inputs
        # a copy of the result, which a user may write into
        ctx.save_for_backward(*saved, output.clone() if ctx.needs_input_grad[1] else None)
        ctx.save_for_forward(*saved, None)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        b, a, cut, x = ctx.saved_tensors
        db, da = _recurrence(upstream, a, cut, not ctx.forwards), None
        if ctx.needs_input_grad[1]:
            if torch.is_grad_enabled():  # a second derivative goes through it
                x = _recurrence(b, a, cut, ctx.forwards)
            early, late = (x, db) if ctx.forwards else (db, x)
            da = factor_gradient(early, late, a, cut)
        return db, da, None, None

    @staticmethod
    def jvp(ctx: Any, db: Tensor, da: Tensor, *flags: Any) -> Tensor:
        b, a, cut, _ = ctx.saved_tensors
        x = _recurrence(b, a, cut, ctx.forwards)
        passed = x if ctx.forwards else pad(x[..., 1:], (0, 1))
        passed = da * (passed if cut is None else torch.where(cut, 0.0, passed))
        moved = db + (pad(passed[..., :-1], (1, 0)) if ctx.forwards else passed)
        return _recurrence(moved, a, cut, ctx.forwards)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        b, a, cut = in_front(info.batch_size, in_dims, arguments[:3])
        return _recurrence(b, a, cut, arguments[3]), 0


def _recurrence(b: Tensor, a: Tensor, cut: Tensor | None, forwards: bool) -> Tensor:
    x: Tensor = Recurrence.apply(b, a, cut, forwards)  # type: ignore[no-untyped-call]
    return x


def solve_in_order(b: Tensor, a: Tensor, cut: Tensor | None, forwards: bool) -> Tensor:
    if b.numel() == 0 or b.shape[-1] == 1:
        return b.clone(memory_format=torch.contiguous_format)
    if forwards:
        flags = None if cut is None else reversed_factors(cut)
        return solve_in_order(b.flip(-1), reversed_factors(a) if a.dim() else a, flags, False).flip(-1)
    if b.is_cpu and is_plain(b):
        try:
            return (_by_values if b.shape[-1] <= BLOCK else _by_blocks)(b, a, cut)
        except RuntimeError:  # a tracer, which has none
            pass
    return _by_halves(b, a, cut)


def _by_blocks(b: Tensor, a: Tensor, cut: Tensor | None) -> Tensor:
    """A long sequence from its last block on; what a block begins with passes on to the last step of the one before."""
    x = b.clone(memory_format=torch.contiguous_format)
    for start in reversed(range(0, b.shape[-1], BLOCK)):
        block, last = (..., slice(start, start + BLOCK)), (..., start - 1)
        x[block] = _by_values(x[block], a[block] if a.dim() else a, None if cut is None else cut[block])
        if start:
            passed = (a[last] if a.dim() else a) * x[..., start]
            x[last] += passed if cut is None else torch.where(cut[last], 0.0, passed)
    return x


def _by_values(b: Tensor, a: Tensor, cut: Tensor | None) -> Tensor:
    """The fastest way whose values tell that it is as good as the loop."""
    steps = b.shape[-1]
    factor = a.expand_as(b) if cut is None else torch.where(cut, 0.0, a)
    rows, factors = b.reshape(-1, steps), factor.reshape(-1, steps)
    for way in _ways(rows):
        x = way(rows, factors).to(b.dtype)
        low, high = x.aminmax()
        if -math.inf < float(low) <= float(high) < math.inf:
            return x.reshape(b.shape).contiguous()
    return _exactly(b, a, cut)


def _ways(rows: Tensor) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """The ways from the fastest one on; a long sequence is worth chunks, in double precision too."""
    if rows.shape[-1] <= 4 * CHUNK:
        return [_rows_by_steps]
    ways: list[Callable[[Tensor, Tensor], Tensor]] = [_rows_by_chunks]
    if rows.dtype == torch.float32:
        ways.append(lambda b, a: _rows_by_chunks(b.double(), a.double(), LARGEST_PRODUCT**2))
    if len(rows) > FEW_ROWS:
        ways.append(_rows_by_steps)
    return ways


def _rows_by_steps(b: Tensor, a: Tensor) -> Tensor:
    return _by_steps(b.t().contiguous(), a.t().contiguous()).t()


def _rows_by_chunks(b: Tensor, a: Tensor, largest: float = LARGEST_PRODUCT) -> Tensor:
    a = a.clone()
    a[:, -1] = 0.0
    return _by_chunks(b.flatten(), a.flatten(), largest)


def _by_steps(b: Tensor, a: Tensor) -> Tensor:
    """One step after the other; time is the first axis, and every factor finite."""
    x = torch.empty_like(b)
    x[-1] = b[-1]
    following, *parts = [list(reversed(part.unbind())) for part in (x, b, a)]
    for one, b_t, a_t, before in zip(following[1:], *(part[1:] for part in parts), following, strict=False):
        torch.addcmul(b_t, a_t, before, out=one)
    return x


def _by_chunks(b: Tensor, a: Tensor, largest: float) -> Tensor:
    """A flat sequence in chunks; NaN where products of its factors would not tell what a loop does."""
    steps = len(b)
    if steps <= 4 * CHUNK:
        return _by_steps(b.unsqueeze(-1), a.unsqueeze(-1)).squeeze(-1)
    b, a = (pad(x, (0, -steps % CHUNK)).view(-1, CHUNK).t().contiguous() for x in (b, a))
    alone, product = b[-1], a[-1]
    for b_t, a_t in zip(reversed(b.unbind()[:-1]), reversed(a.unbind()[:-1]), strict=True):
        alone, product = torch.addcmul(b_t, a_t, alone), product * a_t
    if not are_told_by_products(product, largest):
        return torch.full_like(b, math.nan).flatten()[:steps]
    first = _by_chunks(alone, product, largest)
    b[-1] += a[-1] * pad(first[1:], (0, 1))
    return _by_steps(b, a).t().flatten()[:steps]


def are_told_by_products(product: Tensor, largest: float = LARGEST_PRODUCT) -> bool:
    """Whether these products of the factors of chunks are so small that chunks are as exact as steps."""
    square = product * product if product.dim() == 0 else torch.dot(product, product)
    return float(square) <= largest**2


def _exactly(b: Tensor, a: Tensor, cut: Tensor | None) -> Tensor:
    """One step after the other, with whatever the factors and values are: the loop that all else is a short cut of."""
    steps, ended = b.shape[-1], torch.zeros_like(b, dtype=torch.bool) if cut is None else cut
    rows = [x.reshape(-1, steps) for x in (b, a.expand_as(b), ended)]
    if len(rows[0]) <= FEW_ROWS:
        largest = torch.finfo(b.dtype).max
        found = [_row(b, a, cut, largest) for b, a, cut in zip(*(x.tolist() for x in rows), strict=True)]
        return torch.tensor(found, dtype=b.dtype).view(b.shape)
    parts = [part.t().contiguous() for part in rows]  # time first, for steps to lie in a row
    x = [parts[0][-1]]
    for b_t, a_t, cut_t in zip(*(reversed(part.unbind()[:-1]) for part in parts), strict=True):
        x.append(torch.where(cut_t, b_t, torch.addcmul(b_t, a_t, x[-1])))
    return torch.stack(x[::-1], -1).view(b.shape)


def _row(b: list[float], a: list[float], cut: list[bool], largest: float) -> list[float]:
    x, found = b[-1], [b[-1]]
    for b_t, a_t, cut_t in zip(b[-2::-1], a[-2::-1], cut[-2::-1], strict=True):
        x = b_t if cut_t else b_t + a_t * x
        if abs(x) > largest:
            x = math.copysign(math.inf, x)
        found.append(x)
    return found[::-1]


def _by_halves(b: Tensor, a: Tensor, cut: Tensor | None) -> Tensor:
    """In twice as many multiplications as steps, one level for each power of two, and no look at any value."""
    cut = torch.zeros_like(b, dtype=torch.bool) if cut is None else cut
    dtype = b.dtype if b.device.type == "mps" else torch.float64
    return _halve(b.to(dtype), torch.where(cut, 0.0, a).to(dtype), cut).to(b.dtype)


def _halve(b: Tensor, a: Tensor, cut: Tensor) -> Tensor:
    steps = b.shape[-1]
    if steps == 1:
        return b
    pairs = steps // 2
    (b0, b_last), (a0, a_last), (c0, c_last) = (x[..., 0::2].tensor_split([pairs], -1) for x in (b, a, cut))
    b1, a1, c1 = (x[..., 1::2] for x in (b, a, cut))
    even = _halve(
        torch.cat([b0 + _step(a0, b1, c0), b_last], -1),
        torch.cat([bounded(_step(a0, a1, c0)), a_last], -1),
        torch.cat([c0 | c1, c_last], -1),
    )
    following = torch.cat([even[..., 1:], torch.zeros_like(b[..., : 2 * pairs + 1 - steps])], -1)
    odd = b1 + _step(a1, following, c1)
    first, last = even.tensor_split([pairs], -1)
    woven = torch.stack([first, odd], -1).reshape(*b.shape[:-1], 2 * pairs)
    return torch.cat([woven, last], -1)


def _step(a: Tensor, x: Tensor, cut: Tensor) -> Tensor:
    return a * torch.where(cut, 0.0, x)


def either(done: Tensor | None, terminated: Tensor | None) -> Tensor | None:
    return done if done is None or terminated is None else done | terminated


def reversed_factors(x: Tensor) -> Tensor:
    """The factor or cut of the step before each, backwards."""
    return pad(x[..., :-1], (1, 0)).flip(-1)


def bounded(product: Tensor) -> Tensor:
    """Zero times what is too large for a number is zero."""
    limit = torch.finfo(product.dtype).max
    return product.clamp(-limit, limit)


def factor_gradient(early: Tensor, late: Tensor, a: Tensor, cut: Tensor | None) -> Tensor:
    """The gradient of the factors, each of which joins the first of a step to the second of the next one."""
    if cut is not None:
        early, late = torch.where(cut, 0.0, early), torch.where(pad(cut[..., :-1], (1, 0)), 0.0, late)
    each = pad(early[..., :-1] * late[..., 1:], (0, 1))
    return each if a.dim() else each.sum()


def in_front(size: int, in_dims: Sequence[int | None], tensors: Sequence[Any]) -> list[Any]:
    """The mapped axis first, in every tensor that there is."""
    mapped: list[Any] = [
        x if x is None else x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(tensors, in_dims, strict=False)
    ]
    b, a, *flags = mapped
    return [b, a if a.dim() == b.dim() else a.view(-1, *[1] * (b.dim() - 1)).expand_as(b), *flags]
