r"""What to look at when training goes wrong: numbers of a batch that say which part of it did.

Each is one number, or two, for all samples together, and is made to be written into a log. Nothing is trained on them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from offline_losses._core.checks import Knob, check_axis, check_flags, check_knob, check_values, present
from offline_losses._core.public import public
from offline_losses._core.reduce import reduce, scalar, select, summed
from offline_losses._core.root import root


class Gap(NamedTuple):
    """Mean and standard deviation of a difference over all samples, both 0-d."""

    mean: Tensor
    std: Tensor


@public
def overestimation_gap(q: Tensor, observed_return: Tensor, *, mask: Tensor | None = None) -> Gap:
    r"""How much more a critic promises than was earned: positive where it overestimates.

    $$\operatorname{mean}(Q - G), \qquad \operatorname{std}(Q - G)$$

    If $Q$ and the returns are of the same policy, the mean is the critic's bias; divided by the mean of $|G|$ it can be
    compared between tasks. Beside the returns of the data a positive mean may also be the merit of a better policy. The
    deviation is that of the bias, and of the returns where they are random. An uneven bias does more harm than a large
    one: what is the same for all actions changes no choice.

    Args:
        q: `[*batch]`, $Q(s, a)$.
        observed_return: `[*batch]`, $G$, discounted returns from the same steps on: `discounted_return`.
        mask: bool `[*batch]`, True where the sample exists.

    Returns:
        `Gap(mean, std)`, in units of reward, float32 or wider; zeros without samples.

    Gradient:
        `q` and `observed_return`.

    Raises:
        ValueError: shapes that differ.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> overestimation_gap(torch.tensor([3.0, 5.0]), torch.tensor([1.0, 1.0]))
        Gap(mean=tensor(3.), std=tensor(1.))

    Reference:
        Chen, Wang, Zhou and Ross, Randomized Ensembled Double Q-Learning: Learning Fast Without a Model,
        arXiv:2101.05982 (mean and deviation of the bias).
    """
    return _gap("overestimation_gap", mask, q=q, observed_return=observed_return)


@public
def q_gap(q_policy: Tensor, q_data: Tensor, *, mask: Tensor | None = None) -> Gap:
    r"""How much more a critic promises for the policy's actions than for the data's: it grows as values run away.

    $$\operatorname{mean}\left( Q(s, a_\pi) - Q(s, a) \right), \qquad \operatorname{std}\left( Q(s, a_\pi) - Q(s, a)
    \right)$$

    A policy that is better than the data has a small positive one. If it keeps growing, the critic is asked about
    actions that no data correct; if it is negative, a penalty on those actions outweighs what they are worth.

    Args:
        q_policy: `[*batch]`, $Q(s, a_\pi)$ of the policy's actions in the data's states.
        q_data: `[*batch]`, $Q(s, a)$ of the data's.
        mask: bool `[*batch]`, True where the sample exists.

    Returns:
        `Gap(mean, std)`, in units of reward, float32 or wider; zeros without samples.

    Gradient:
        `q_policy` and `q_data`.

    Raises:
        ValueError: shapes that differ.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> q_gap(torch.tensor([3.0, 5.0]), torch.tensor([1.0, 1.0]))
        Gap(mean=tensor(3.), std=tensor(1.))

    Reference:
        Kumar, Zhou, Tucker and Levine, Conservative Q-Learning for Offline Reinforcement Learning, arXiv:2006.04779.
    """
    return _gap("q_gap", mask, q_policy=q_policy, q_data=q_data)


@public
def clip_fraction(x: Tensor, *, low: Knob = -math.inf, high: Knob = math.inf, mask: Tensor | None = None) -> Tensor:
    r"""Share of numbers that a bound holds back: those at it or beyond.

    $$\frac1n \sum_i \mathbb 1[x_i \le l \text{ or } x_i \ge h]$$

    Of `awr_weights` at `high=max_weight`: near one the weights are all the same, near zero the bound does nothing. Of
    ratios as PPO clips them, `low=1 - epsilon, high=1 + epsilon`.

    Args:
        x: `[*batch]`, what was bounded, or is to be.
        low: $l$; minus infinity for none.
        high: $h$; infinity for none.
        mask: bool `[*batch]`, True where the sample exists.

    Returns:
        0-d, in [0, 1], float32 or wider; zero without samples.

    Gradient:
        None: comparisons have none.

    Raises:
        ValueError: shapes that differ, a bound that is NaN.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> clip_fraction(torch.tensor([0.5, 100.0, 3.0, 100.0]), high=100.0)
        tensor(0.5000)

    Reference:
        Schulman, Wolski, Dhariwal, Radford and Klimov, Proximal Policy Optimization Algorithms, arXiv:1707.06347.
    """
    _check("clip_fraction", mask, x=x)
    check_knob("clip_fraction", "low", low, -math.inf, bounds="[]")
    check_knob("clip_fraction", "high", high, -math.inf, bounds="[]")
    held = (x <= scalar(low, x)) | (x >= scalar(high, x))
    return reduce(held.to(summed(x)), mask, None, "mean")


@public
def td_error_scale(prediction: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Size of a critic's errors over the spread of its targets: 0 for a perfect fit, 1 for that of the best constant.

    $$\sqrt{ \frac{\operatorname{mean}\left( (y - Q)^2 \right)}{\operatorname{var}(y)} }$$

    Its square is one minus the explained variance, a bias of the prediction included. Above one for long, the critic
    diverges or chases targets that move faster than it learns.

    Args:
        prediction: `[*batch]`, $Q$.
        target: `[*batch]`, $y$, of `bellman_target` for instance.
        mask: bool `[*batch]`, True where the sample exists.

    Returns:
        0-d, at least 0, float32 or wider; infinity where all targets are the same and the prediction is not, zero
        without samples.

    Gradient:
        `prediction` and `target`.

    Raises:
        ValueError: shapes that differ.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> td_error_scale(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 4.0]))
        tensor(0.5000)

    Reference:
        Kvålseth, Cautionary Note about R², The American Statistician 39, 1985 (one minus the square, its first form).
    """
    _check("td_error_scale", mask, prediction=prediction, target=target)
    y, q = (select(mask, x.double()) for x in (target, prediction))
    error, spread = root(_mean((y - q).square(), mask)), root(_mean((y - _mean(y, mask)).square(), mask))
    scale = torch.where(
        spread > 0, error / torch.where(spread > 0, spread, 1.0), torch.where(error > 0, torch.inf, 0.0)
    )
    return scale.to(summed(prediction, target))


@public
def support_coverage(probability: Tensor, support: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Share of a policy's decisions that the data know: 1 if it never leaves their support.

    $$\operatorname{mean} \sum_a \pi(a \mid s)\, \mathbb 1[a \text{ in the support at } s]$$

    with a support such as `support_mask` of a behavior model gives it. What lies outside, neither ratios nor a model
    fitted on the data can judge.

    Args:
        probability: `[*batch, N]`, $\pi(a \mid s)$ of all actions.
        support: bool `[*batch, N]`, True for actions that the data have there.
        mask: bool `[*batch]`, True where the state exists.

    Returns:
        0-d, in [0, 1], float32 or wider; zero without states.

    Gradient:
        `probability`.

    Raises:
        ValueError: shapes that differ, no action axis.
        TypeError: not a tensor, integer values, a support or mask that is not bool.

    Examples:
        >>> import torch
        >>> support_coverage(torch.tensor([[0.7, 0.3]]), torch.tensor([[True, False]]))
        tensor(0.7000)

    Reference:
        Fujimoto, Meger and Precup, Off-Policy Deep Reinforcement Learning without Exploration, arXiv:1812.02900.
    """
    check_values("support_coverage", probability=probability)
    check_axis("support_coverage", "probability", probability, "action")
    check_flags("support_coverage", probability.shape, support=support)
    check_flags("support_coverage", probability.shape[:-1], **present(mask=mask))
    return reduce(select(support, probability.to(summed(probability))).sum(-1), mask, None, "mean")


def _check(function: str, mask: Tensor | None, **values: Tensor) -> None:
    check_values(function, **values)
    check_flags(function, next(iter(values.values())).shape, **present(mask=mask))


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Of the existing elements, in double precision."""
    return reduce(x.double(), mask, None, "mean")


def _gap(function: str, mask: Tensor | None, **values: Tensor) -> Gap:
    _check(function, mask, **values)
    first, second = (select(mask, x.double()) for x in values.values())
    gap, dtype = first - second, summed(*values.values())
    mean = _mean(gap, mask)
    return Gap(mean.to(dtype), root(_mean((gap - mean).square(), mask)).to(dtype))
