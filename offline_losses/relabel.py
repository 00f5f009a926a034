r"""Returns as labels of what is still possible, not only of what followed.

A policy that is conditioned on returns imitates the best of its data, but cannot join the beginning of one episode to
the end of another. A learned value can: where it promises more than the data brought, it takes their place.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from offline_losses._core.checks import Knob, check_sequence
from offline_losses._core.episodes import sequence_end
from offline_losses._core.public import public
from offline_losses._core.reduce import over_steps, scalar, summed, times, upcast
from offline_losses._core.stops import best_stop
from offline_losses.recurrence import discounted_recurrence, done_or_zero


@public
def relabel_return(
    reward: Tensor, next_value: Tensor, terminated: Tensor, done: Tensor, *, discount: Knob = 1.0
) -> Tensor:
    r"""Return-to-go that takes the value of the next state wherever it is above what followed: never below the return.

    $$G_t = r_t + \gamma \max(G_{t+1}, V'_t), \qquad G_t = r_t + \gamma V'_t \text{ at a cut}, \qquad
    V'_t = 0 \text{ where terminated}$$

    It is `discounted_return` with its bootstrap, as if the episode were cut wherever the value is above. So the steps
    before such a place profit from it too, which a maximum of return and value at each step alone would not do.

    Args:
        reward: `[*batch, T]`, unscaled, or scaled as the values were. A shift of each reward is no shift of a return.
        next_value: `[*batch, T]`, value of each step's next state; in units of return.
        terminated: bool `[*batch, T]`, True where the environment ended.
        done: bool `[*batch, T]`, True on the last step of an episode.
        discount: $\gamma$ in [0, 1], or a tensor `[*batch, T]` of one for each step (steps of differing duration).

    Returns:
        `[*batch, T]`, float32 or wider.

    Gradient:
        `reward`, `next_value`, and `discount` if it is a tensor; the choice of the larger has none.

    Raises:
        ValueError: shapes that differ, `discount` out of range.
        TypeError: not a tensor, integer rewards, flags that are not bool.

    Examples:
        >>> import torch
        >>> end, next_value = torch.tensor([False, False, True]), torch.tensor([0.0, 9.0, 9.0])
        >>> relabel_return(torch.ones(3), next_value, end, end)
        tensor([11., 10.,  1.])

    Reference:
        Yamagata, Khalil and Santos-Rodriguez, Q-learning Decision Transformer (QDT), arXiv:2209.03993, the relabelled
        returns-to-go, undiscounted. A public version leaves out the last reward: see
        [Lineage](../lineage/relabel.md#relabel_return).
    """
    check_sequence(
        "relabel_return", discount, {"reward": reward, "next_value": next_value}, terminated=terminated, done=done
    )
    discount, r, end = over_steps(discount, reward), upcast(reward), sequence_end(done)
    factor, bootstrap = scalar(discount, r), torch.where(terminated, 0.0, upcast(next_value))
    stop = end | (bootstrap == math.inf) | (bootstrap > _following(r, bootstrap, factor, end))
    b, a = r + times(discount, torch.where(stop, bootstrap, 0.0)), torch.where(stop, 0.0, factor)
    # A factor of zero ends a sum as a cut does, and faster where there are many; but not a sum that is infinite.
    cut = done_or_zero(end, discount) | (stop & (b.abs() > _largest(b)).any(-1, keepdim=True))
    return discounted_recurrence(b, a, cut).to(summed(reward, next_value))


def _following(reward: Tensor, next_value: Tensor, discount: Tensor, end: Tensor) -> Tensor:
    """The relabelled return of the next step; infinite numbers are large ones, whose product with zero is zero."""
    largest = _largest(reward)
    r, v = (x.detach().nan_to_num(0.0).clamp(-largest, largest) for x in (reward, next_value))
    stopped = r + discount * v
    best = best_stop(torch.where(end, stopped, r), torch.where(end, 0.0, discount), stopped)
    return pad(best[..., 1:], (0, 1))


def _largest(x: Tensor) -> float:
    """A number that may be added up along any axis without becoming infinite."""
    return torch.finfo(x.dtype).max * 2.0**-40
