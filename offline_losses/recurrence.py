r"""The linear recurrence backwards in time, under every return: the library's only scan.

$x_t = b_t + a_t x_{t+1}$ is solved by halving: two neighbouring steps are one step of half as long a sequence,
$x_t = (b_t + a_t b_{t+1}) + a_t a_{t+1} x_{t+2}$. Solving the even steps that way and putting them into the odd ones
takes $2T$ multiplications in $\log_2 T$ levels, with no loop over time for a compiler to unroll and with the rounding
error of a tree sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from offline_losses._core.checks import check_axis, check_flags, check_values, present
from offline_losses._core.reduce import promoted, upcast


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

    Example:
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
    return _solve(upcast(b), torch.where(cut, 0.0, upcast(a)), cut).to(promoted(b, a))


def sequence_end(done: Tensor, terminated: Tensor | None = None) -> Tensor:
    """Where a recurrence in time is cut: done or terminated, and always on the last step of the axis."""
    end = done if terminated is None else done | terminated
    return torch.cat([end[..., :-1], torch.ones_like(end[..., -1:])], -1)


def _solve(b: Tensor, a: Tensor, cut: Tensor) -> Tensor:
    steps = b.shape[-1]
    if steps == 1:
        return b
    pairs = steps // 2
    (b0, b1), (a0, a1), (c0, c1) = _halves(b), _halves(a), _halves(cut)
    joined = b0[..., :pairs] + _step(a0[..., :pairs], b1, c0[..., :pairs])
    even = _solve(
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
