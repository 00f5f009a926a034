r"""The linear recurrence backwards in time, under every return: the library's only scan.

Every return is $x_t = b_t + a_t x_{t+1}$: with rewards for $b$ and the discount for $a$ the discounted return, with TD
errors and $\gamma\lambda$ the generalized advantage. It is solved by halving: two neighboring steps are one step of
half as long a sequence, $x_t = (b_t + a_t b_{t+1}) + a_t a_{t+1} x_{t+2}$. Solving the even steps that way and putting
them into the odd ones takes $2T$ multiplications in $\log_2 T$ levels, with the rounding error of a tree sum.

Compiled code does the same with chunks of sixteen steps in place of two: one kernel tells what each chunk makes of the
value after it, the recurrence over the chunks is solved likewise, and a second kernel fills them. Two kernels serve
every length, and no loop over time is unrolled. To a compiler they are one operator, `offline_losses::scan`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, library
from torch.nn.functional import pad

from offline_losses._core.checks import Knob, check_axis, check_flags, check_values, present
from offline_losses._core.graph import Graphs, Unsupported, size_class
from offline_losses._core.reduce import promoted, scalar, upcast

CHUNK = 16
"""Steps that one kernel takes in a row."""

_graphs: dict[Any, Graphs] = {}


def linear_recurrence(b: Tensor, a: Tensor, *, cut: Tensor | None = None) -> Tensor:
    r"""Solve a first-order recurrence from the end of the last axis to its beginning, every row at once.

    $$x_t = b_t + a_t\, x_{t+1}, \qquad x_T = 0, \qquad x_t = b_t \text{ where cut}$$

    A cut differs from $a_t = 0$: nothing behind it leaks forward, NaN and infinity included.

    Args:
        b: `[*batch, T]`, what each step adds.
        a: `[*batch, T]`, the factor of the following step.
        cut: bool `[*batch, T]`, True where the recurrence starts afresh.

    Returns:
        `[*batch, T]`, in the input's dtype.

    Gradient:
        `b` and `a`.

    Raises:
        ValueError: shapes that differ, no time axis.
        TypeError: not a tensor, integer values, a cut that is not bool.

    Examples:
        >>> import torch
        >>> linear_recurrence(torch.tensor([1.0, 1.0, 1.0]), torch.full((3,), 0.5))
        tensor([1.7500, 1.5000, 1.0000])

    Reference:
        Blelloch, Prefix Sums and Their Applications, CMU-CS-90-190, 1990, section 1.4 (recurrences as scans).
    """
    check_values("linear_recurrence", b=b, a=a)
    check_axis("linear_recurrence", "b", b, "step")
    check_flags("linear_recurrence", b.shape, **present(cut=cut))
    cut = torch.zeros_like(b, dtype=torch.bool) if cut is None else cut
    wide = torch.promote_types(upcast(b).dtype, upcast(a).dtype)
    return _solve(b.to(wide), a.to(wide), cut).to(promoted(b, a))


def constant_recurrence(b: Tensor, factor: Knob, cut: Tensor) -> Tensor:
    """`linear_recurrence` with the same factor at every step, which is never written to memory."""
    return _solve(b, scalar(factor, b).to(b.dtype), cut)


def sequence_end(done: Tensor, terminated: Tensor | None = None) -> Tensor:
    """Where a recurrence in time is cut: done or terminated, and always on the last step of the axis."""
    return (_ends if torch.compiler.is_compiling() else _end)(done, terminated)


def _end(done: Tensor, terminated: Tensor | None) -> Tensor:
    end = done if terminated is None else done | terminated
    return pad(end[..., :-1], (0, 1), value=True)


def _solve(b: Tensor, a: Tensor, cut: Tensor) -> Tensor:
    """The recurrence, `a` being of `b`'s shape or 0-d."""
    if torch.compiler.is_compiling():
        x: Tensor = _scan(b, a, cut)
        return x
    return _halve(b, torch.where(cut, 0.0, a), cut)


def _halve(b: Tensor, a: Tensor, cut: Tensor) -> Tensor:
    steps = b.shape[-1]
    if steps == 1:
        return b
    pairs = steps // 2
    (b0, b1), (a0, a1), (c0, c1) = _halves(b), _halves(a), _halves(cut)
    joined = b0[..., :pairs] + _step(a0[..., :pairs], b1, c0[..., :pairs])
    even = _halve(
        torch.cat([joined, b0[..., pairs:]], -1),
        torch.cat([_step(a0[..., :pairs], a1, c0[..., :pairs]), a0[..., pairs:]], -1),
        torch.cat([c0[..., :pairs] | c1, c0[..., pairs:]], -1),
    )
    following = torch.cat([even[..., 1:], torch.zeros_like(b[..., : 2 * pairs + 1 - steps])], -1)
    odd = b1 + _step(a1, following, c1)
    woven = torch.stack([even[..., :pairs], odd], -1).flatten(-2)
    return torch.cat([woven, even[..., pairs:]], -1)


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 0::2], x[..., 1::2]


def _step(a: Tensor, x: Tensor, cut: Tensor) -> Tensor:
    return a * torch.where(cut, 0.0, x)


@library.custom_op("offline_losses::scan", mutates_args=(), schema="(Tensor b, Tensor a, Tensor cut) -> Tensor")
def _scan(b: Tensor, a: Tensor, cut: Tensor) -> Tensor:
    if b.numel() == 0 or b.device.type == "meta":
        return torch.empty_like(b)
    try:
        return _chunked(b.flatten(), a.flatten() if a.dim() else a, _end(cut, None).flatten()).view(b.shape)
    except Unsupported:
        return _halve(b, torch.where(cut, 0.0, a), cut)


def _chunked(b: Tensor, a: Tensor, cut: Tensor) -> Tensor:
    steps = b.shape[0]
    if steps <= CHUNK:  # one chunk and an empty one, since a graph is for two or more
        longer = (0, 2 * CHUNK - steps)
        padded = pad(b, longer), pad(a, longer) if a.dim() else a, pad(cut, longer, value=True)
        return _run(_filled, *padded, b.new_zeros(2))[0][:steps]
    x, factor, stopped = _run(_summary, b, a, cut)
    following = pad(_chunked(x, factor, stopped)[1:], (0, 1))
    return _run(_filled, b, a, cut, following)[0]


def _run(kernel: Callable[..., list[Tensor]], *tensors: Tensor) -> Sequence[Tensor]:
    like = tensors[0]
    key = (kernel, tensors[1].dim(), like.dtype, like.device, size_class(tensors))
    tensors = tuple(x.contiguous() for x in tensors)  # the flattened view of a strided tensor is strided
    graph = _graphs.setdefault(key, Graphs(kernel)).fit(tensors)
    return kernel(*tensors) if graph is None else graph(*tensors)


def _summary(b: Tensor, a: Tensor, cut: Tensor) -> list[Tensor]:
    """What a chunk makes of the value after it: it adds the first to the second times it, unless the third is True.

    The second is one number for all chunks if `a` is one.
    """
    b, cut, factors = _chunks(b, 0.0), _chunks(cut, True), _factors(a)
    x, factor, stopped = torch.zeros_like(b[:, 0]), torch.ones_like(factors[0]), torch.zeros_like(cut[:, 0])
    for t in reversed(range(CHUNK)):
        x = b[:, t] + torch.where(cut[:, t], 0.0, factors[t] * x)
        factor = factors[t] * factor
        stopped = stopped | cut[:, t]
    return [x, factor, stopped]


def _filled(b: Tensor, a: Tensor, cut: Tensor, following: Tensor) -> list[Tensor]:
    """Every step of a chunk, from the value after it."""
    steps = b.shape[0]
    b, cut, factors = _chunks(b, 0.0), _chunks(cut, True), _factors(a)
    x, filled = following, []
    for t in reversed(range(CHUNK)):
        x = b[:, t] + torch.where(cut[:, t], 0.0, factors[t] * x)
        filled.append(x)
    return [torch.stack(filled[::-1], -1).flatten()[:steps]]


def _factors(a: Tensor) -> Sequence[Tensor]:
    return _chunks(a, 0.0).unbind(-1) if a.dim() else [a] * CHUNK


def _chunks(x: Tensor, filling: float) -> Tensor:
    return pad(x, (0, -x.shape[0] % CHUNK), value=filling).view(-1, CHUNK)


# An operator of its own because the loops that Inductor writes for the CPU store bool thirty times slower than float.
@library.custom_op(
    "offline_losses::sequence_end", mutates_args=(), schema="(Tensor done, Tensor? terminated) -> Tensor"
)
def _ends(done: Tensor, terminated: Tensor | None) -> Tensor:
    return _end(done, terminated)


@_ends.register_fake
def _(done: Tensor, terminated: Tensor | None) -> Tensor:
    return torch.empty_like(done, memory_format=torch.contiguous_format)


@_ends.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *flags: Tensor | None) -> tuple[Tensor, int]:
    return _ends(*_mapped(info.batch_size, in_dims, flags)), 0


@_scan.register_fake
def _(b: Tensor, a: Tensor, cut: Tensor) -> Tensor:
    return torch.empty_like(b, memory_format=torch.contiguous_format)


@_scan.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Tensor, int]:
    b, a, cut = _mapped(info.batch_size, in_dims, tensors)
    return _scan(b, a if a.dim() == b.dim() else a.view(-1, *[1] * (b.dim() - 1)).expand_as(b), cut), 0


def _mapped(size: int, in_dims: tuple[int | None, ...], tensors: Sequence[Tensor | None]) -> list[Any]:
    """The mapped axis first, in every tensor that there is."""
    return [
        x if x is None else x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(tensors, in_dims, strict=True)
    ]


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:], output)


@library.custom_op(
    "offline_losses::scan_forwards", mutates_args=(), schema="(Tensor b, Tensor a, Tensor cut) -> Tensor"
)
def _scan_forwards(b: Tensor, a: Tensor, cut: Tensor) -> Tensor:
    """The same recurrence forwards in time, each factor and cut one step later: what gradients follow."""
    before = pad(a[..., :-1], (1, 0)).flip(-1) if a.dim() else a
    x: Tensor = _scan(b.flip(-1), before, pad(cut[..., :-1], (1, 0), value=True).flip(-1)).flip(-1)
    return x


@_scan_forwards.register_fake
def _(b: Tensor, a: Tensor, cut: Tensor) -> Tensor:
    return torch.empty_like(b, memory_format=torch.contiguous_format)


def _adjoint(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor | None, None]:
    a, cut, x = ctx.saved_tensors
    db = _scan_forwards(upstream, a, cut)
    if not ctx.needs_input_grad[1]:
        return db, None, None
    da = db * torch.where(cut, 0.0, pad(x[..., 1:], (0, 1)))
    return db, da if a.dim() else da.sum(), None


_scan.register_autograd(_adjoint, setup_context=_save)
