r"""The linear recurrence backwards in time, under every return: the library's only scan.

Every return is $x_t = b_t + a_t x_{t+1}$: with rewards for $b$ and the discount for $a$ the discounted return, with TD
errors and $\gamma\lambda$ the generalized advantage. `_core/scan.py` solves it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from offline_losses._core.checks import Knob, check_axis, check_flags, check_values, present
from offline_losses._core.public import public
from offline_losses._core.reduce import scalar, summed, times, upcast
from offline_losses._core.scan import solve
from offline_losses._core.tracing import is_differentiated, is_nonzero


@public
def linear_recurrence(b: Tensor, a: Tensor, *, cut: Tensor | None = None) -> Tensor:
    r"""Solve a first-order recurrence from the end of the last axis to its beginning, every row at once.

    $$x_t = b_t + a_t\, x_{t+1}, \qquad x_T = 0, \qquad x_t = b_t \text{ where cut}$$

    A cut differs from $a_t = 0$: nothing behind it leaks forward, NaN and infinity included.

    Args:
        b: `[*batch, T]`, what each step adds.
        a: `[*batch, T]`, the factor of the following step.
        cut: bool `[*batch, T]`, True where the recurrence starts afresh.

    Returns:
        `[*batch, T]`, float32 or wider.

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
    wide = summed(b, a)
    return solve(b.to(wide), a.to(wide), cut, None)


def discounted_recurrence(
    b: Tensor,  # [*batch, T]
    factor: Knob,  # [] or [*batch, T]
    done: Tensor,  # [*batch, T]
) -> Tensor:
    """`linear_recurrence` whose factor may be one number for all steps, which compiled code never expands."""
    return solve(b, scalar(factor, b).to(b.dtype), done, None)


def done_or_zero(
    done: Tensor,  # [*batch, T]
    *factors: Knob,  # [] or [*batch, T]
) -> Tensor:
    """Where a recurrence by these factors is cut: where one is zero, what follows adds nothing, infinite as it may be.

    A factor that is differentiated cuts nothing, since a cut has no slope in it.
    """
    for factor in factors:
        if not is_nonzero(factor) and not (isinstance(factor, Tensor) and is_differentiated(factor)):
            done = done | (factor == 0)
    return done


def td_error(
    reward: Tensor,  # [*batch, T], as the others
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    discount: Knob,
) -> Tensor:
    """How much better one step turned out than its value."""
    return upcast(reward) + times(discount, torch.where(terminated, 0.0, upcast(next_value))) - upcast(value)
