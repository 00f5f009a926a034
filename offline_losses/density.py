r"""Log-densities of actions under the usual continuous policies, summed over the action's dimensions.

They are densities of the action that is handed to the critic and the environment: the squashed one includes the volume
that the hyperbolic tangent compresses.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from offline_losses._core.checks import Knob, check_axis, check_float, check_knob, check_shape, check_values, present
from offline_losses._core.errors import describe
from offline_losses._core.public import public
from offline_losses._core.reduce import clamped, in_double, over_rows, scalar, summed, upcast


@public
def gaussian_log_prob(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    r"""Log-density of an action under a diagonal Gaussian policy, summed over the action's dimensions.

    $$\sum_d -\tfrac12 \left( \frac{a_d - \mu_d}{\sigma_d} \right)^2 - \log \sigma_d - \tfrac12 \log 2\pi$$

    Args:
        mean: `[*batch, A]`.
        log_std: `[*batch, A]`, or `[A]` if it does not depend on the state. Bound it in the network: here it is only
            kept from falling below the logarithm of the smallest normal float, -87 in float32.
        action: `[*batch, A]`.

    Returns:
        `[*batch]`, float32 or wider.

    Gradient:
        `mean`, `log_std`, `action`.

    Raises:
        ValueError: shapes that differ, no action axis.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> gaussian_log_prob(torch.zeros(1, 2), torch.zeros(2), torch.ones(1, 2))
        tensor([-2.8379])

    Reference:
        Williams, Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning, Machine
        Learning 8, 1992, section 6 (REINFORCE with Gaussian units).
    """
    _check_gaussian("gaussian_log_prob", mean, log_std, action=action)
    return _gaussian(mean, log_std, upcast(action)).to(summed(mean, log_std, action))


@public
def tanh_gaussian_log_prob(
    mean: Tensor,
    log_std: Tensor,
    *,
    action: Tensor | None = None,
    pre_tanh: Tensor | None = None,
    margin: Knob = 1e-6,
) -> Tensor:
    r"""Log-density of an action $a = \tanh(x)$ with Gaussian $x$: the squashed policy of SAC and CQL.

    $$\log \mathcal N(x; \mu, \sigma) - \sum_d \log(1 - \tanh^2 x_d), \qquad
    \log(1 - \tanh^2 x) = 2 \left( \log 2 - x - \text{softplus}(-2x) \right) = \log(1 + a) + \log(1 - a)$$

    Give `pre_tanh` for an action that was just sampled: the inverse loses it near the boundary. Give `action` for one
    from the data; it is moved inside by the margin, so that ±1 is finite.

    Args:
        mean: `[*batch, A]`, of $x$.
        log_std: `[*batch, A]` or `[A]`, of $x$.
        action: `[*batch, A]`, in [−1, 1].
        pre_tanh: `[*batch, A]`, $x$ itself.
        margin: how far inside ±1 an `action` is kept, in (0, 1).

    Returns:
        `[*batch]`, density with respect to the squashed action, float32 or wider.

    Gradient:
        `mean`, `log_std`, and `action` (none beyond the margin) or `pre_tanh`.

    Raises:
        ValueError: shapes that differ, no action axis, both or neither of `action` and `pre_tanh`, `margin` out of
            range.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> tanh_gaussian_log_prob(torch.zeros(1, 1), torch.zeros(1), action=torch.tensor([[0.5]]))
        tensor([-0.7821])

    Reference:
        Haarnoja, Zhou, Abbeel and Levine, Soft Actor-Critic (SAC), arXiv:1801.01290, appendix C (enforcing action
        bounds).
    """
    if (action is None) == (pre_tanh is None):
        raise ValueError(
            f"tanh_gaussian_log_prob: action: expected exactly one of action and pre_tanh, got "
            f"action={describe(action)} and pre_tanh={describe(pre_tanh)}. "
            f"Pass pre_tanh for a fresh sample, action for data."
        )
    _check_gaussian("tanh_gaussian_log_prob", mean, log_std, **present(action=action, pre_tanh=pre_tanh))
    check_knob("tanh_gaussian_log_prob", "margin", margin, 0.0, 1.0, shapes=[mean.shape[:-1]])
    if pre_tanh is not None:
        x, dtype = upcast(pre_tanh), summed(mean, log_std, pre_tanh)
        bound = torch.finfo(x.dtype).max / 4  # beyond it softplus is infinite, and the density zero whatever the slope
        inside = clamped(x, -bound, bound)
        log_slope = 2 * (math.log(2) - inside - softplus(-2 * inside))
    else:
        assert action is not None
        a = upcast(action)
        margin = over_rows(upcast(margin) if isinstance(margin, Tensor) else margin)
        border = scalar(1 - margin, a)
        limit = torch.minimum(border, scalar(1 - torch.finfo(a.dtype).eps / 2, a))  # the float before 1
        inside, dtype = clamped(a, -limit, limit), summed(mean, log_std, action)
        # The same slope, 1 - a^2, and half of atanh's work; at the border the margin itself, which 1 - margin rounds.
        least = (margin if isinstance(margin, Tensor) else in_double(margin, a.device)).log().to(a.dtype)
        above = torch.where(a <= -border, least, torch.log1p(inside))
        below = torch.where(a >= border, least, torch.log1p(-inside))
        x, log_slope = (above - below) / 2, above + below
    return (_gaussian(mean, log_std, x) - log_slope.sum(-1)).to(dtype)


@public
def uniform_log_density(action: Tensor, low: Tensor, high: Tensor) -> Tensor:
    r"""Log-density of an action that was drawn uniformly from a box, as `log_density` of CQL's random candidates.

    $$-\sum_d \log(h_d - l_d) \quad\text{for}\quad l \le a \le h, \qquad -\infty \quad\text{elsewhere}$$

    Args:
        action: `[*batch, A]`.
        low: `[A]`, lower bounds of the action space, `torch.as_tensor(space.low)`.
        high: `[A]`, upper bounds, each above its lower one.

    Returns:
        `[*batch]`, float32 or wider.

    Gradient:
        `low`, `high`; the density does not depend on where in the box the action lies.

    Raises:
        ValueError: shapes that differ, no action axis.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> uniform_log_density(torch.tensor([[0.5, 0.5], [0.5, 3.0]]), -torch.ones(2), torch.ones(2))
        tensor([-1.3863,    -inf])

    Reference:
        Kumar, Zhou, Tucker and Levine, CQL, arXiv:2006.04779, appendix F (the density of the uniform candidates).
        Public code fixes it at $2^{-A}$, for actions in [−1, 1].
    """
    check_float("uniform_log_density", action=action, low=low, high=high)
    check_axis("uniform_log_density", "action", action, "dimension")
    check_shape("uniform_log_density", "the last axis of action", action.shape[-1:], low=low, high=high)
    a, least, most = upcast(action), upcast(low), upcast(high)
    inside = ((least <= a) & (a <= most)).all(-1)
    log_volume = ((most / 2 - least / 2).log() + math.log(2)).sum(-1)  # halves: a box may be as wide as all floats
    return torch.where(inside, -log_volume, -torch.inf).to(summed(action, low, high))


def _gaussian(
    mean: Tensor,  # [*batch, A]
    log_std: Tensor,  # [*batch, A] or [A]
    x: Tensor,  # [*batch, A]
) -> Tensor:
    log_precision = -upcast(log_std)
    # The exponential of more would be infinite, which times no distance at all is not a number.
    log_precision = clamped(log_precision, high=-math.log(torch.finfo(log_precision.dtype).tiny))
    z = (x - upcast(mean)) * torch.exp(log_precision)
    return (log_precision - 0.5 * z.square()).sum(-1) - 0.5 * math.log(2 * math.pi) * mean.shape[-1]


def _check_gaussian(function: str, mean: Tensor, log_std: Tensor, **actions: Tensor) -> None:
    check_values(function, mean=mean, **actions)
    check_axis(function, "mean", mean, "dimension")
    check_float(function, log_std=log_std)
    if log_std.shape != mean.shape[-1:]:
        check_shape(function, "mean", mean.shape, log_std=log_std)
