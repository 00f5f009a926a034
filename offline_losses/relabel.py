r"""Returns as labels of what is still possible, not only of what followed.

A policy that is conditioned on returns imitates the best of its data, but cannot join the beginning of one episode to
the end of another. A learned value can: where it promises more than the data brought, it takes their place.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from offline_losses._core.checks import Knob, check_sequence
from offline_losses._core.episodes import sequence_end
from offline_losses._core.public import public
from offline_losses._core.reduce import scalar, summed, upcast
from offline_losses.recurrence import discounted_recurrence


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
        reward: `[*batch, T]`, unscaled, or scaled as the values were: a shift of rewards is none of returns.
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
    r, end = upcast(reward), sequence_end(done)
    factor, bootstrap = scalar(discount, r), torch.where(terminated, 0.0, upcast(next_value))
    cut = end | _promises_more(r.detach(), bootstrap.detach(), factor.detach(), end)
    value = discounted_recurrence(r + factor * torch.where(cut, bootstrap, 0.0), factor, cut)
    return value.to(summed(reward, next_value))


def _promises_more(reward: Tensor, next_value: Tensor, discount: Tensor, end: Tensor) -> Tensor:
    """Where the value is above the relabelled return of the step that follows."""
    stopped = reward + discount * next_value
    factor, b = torch.where(end, 0.0, discount), torch.where(end, stopped, reward)
    relabelled = _largest(factor, b, stopped)
    return ~end & (next_value > pad(relabelled[..., 1:], (0, 1)))


def _largest(a: Tensor, b: Tensor, stopped: Tensor) -> Tensor:
    """Solve x_t = max(b_t + a_t x_{t+1}, stopped_t) by halves: two steps make one of the same form."""
    steps = b.shape[-1]
    if steps == 1:
        return stopped
    whole = [pad(x, (0, steps % 2)) for x in (a, b, stopped)]
    (a0, b0, s0), (a1, b1, s1) = ([x[..., first::2] for x in whole] for first in (0, 1))
    even = _largest(a0 * a1, b0 + _times(a0, b1), torch.maximum(s0, b0 + _times(a0, s1)))
    odd = torch.maximum(b1 + _times(a1, pad(even[..., 1:], (0, 1))), s1)
    return torch.stack([even, odd], -1).flatten(-2)[..., :steps]


def _times(factor: Tensor, x: Tensor) -> Tensor:
    """The product, in which zero times anything is zero: nothing behind an end is read."""
    return torch.where(factor == 0, 0.0, factor * x)
