r"""How much to imitate: non-negative multipliers made of advantages, detached, and what they are worth.

A policy extracted with weights maximizes $\mathbb E[w(s, a) \log \pi(a \mid s)]$: hand them to `nll_loss` as `weight`.
The temperature divides the advantage.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from offline_losses._core.checks import Knob, check_flags, check_float, check_knob, check_option, check_shape, present
from offline_losses._core.public import public
from offline_losses._core.reduce import clamped, over_mean, relative, scalar, select, total, upcast, widest


class NormalizedAdvantage(NamedTuple):
    """An advantage `[*batch]` over the root of a moving mean of its square, and that mean, 0-d, for the next step."""

    advantage: Tensor
    mean_square: Tensor


@public
def awr_weights(advantage: Tensor, *, temperature: Knob = 1.0, max_weight: Knob = 100.0) -> Tensor:
    r"""Exponential weights: actions better than the state's value count more, up to a bound.

    $$w = \exp\left( \min\left( \frac{A}{T},\ \log w_{\max} \right) \right)$$

    The bound acts on the exponent, so that no advantage overflows. As T grows all weights go to one (behavior
    cloning); as it falls only the best actions count.

    Args:
        advantage: `[*batch]`, units of return.
        temperature: $T$, units of return; positive. It divides: an inverse temperature β is `1 / β` here.
        max_weight: $w_{\max}$, the largest weight; positive. Infinity means no bound: the exponential then overflows
            to infinity where the float ends. For weights relative to each other over a batch take `softmax_weights`.

    Returns:
        `[*batch]`, in (0, max_weight], detached, in the input's dtype.

    Gradient:
        None: the weights are detached.

    Raises:
        ValueError: a knob that is not positive, or an infinite temperature.
        TypeError: not a tensor, integer advantages.

    Examples:
        >>> import torch
        >>> awr_weights(torch.tensor([0.0, 1e30]))
        tensor([  1., 100.])

    Reference:
        Peng, Kumar, Zhang and Levine, Advantage-Weighted Regression (AWR), arXiv:1910.00177, algorithm 1; Nair et al.,
        advantage-weighted actor-critic (AWAC), arXiv:2006.09359; Kostrikov, Nair and Levine, implicit Q-learning (IQL),
        arXiv:2110.06169, equation 7, writes the inverse temperature β: see
        [Lineage](../lineage/weights.md#awr_weights).
    """
    check_float("awr_weights", advantage=advantage)
    check_knob("awr_weights", "temperature", temperature, 0.0, shapes=[advantage.shape])
    check_knob("awr_weights", "max_weight", max_weight, 0.0, bounds="(]", shapes=[advantage.shape])
    return _exponential(advantage, temperature, max_weight)


@public
def crr_weights(
    advantage: Tensor,
    *,
    mode: Literal["exponential", "binary"] = "exponential",
    temperature: Knob = 1.0,
    max_weight: Knob = 20.0,
) -> Tensor:
    r"""Weights of critic-regularized regression (CRR): a threshold at zero advantage, or a bounded exponential.

    $$w = \mathbb 1[A > 0] \quad\text{(binary)}, \qquad w = \min\left( e^{A/T}, w_{\max} \right)
    \quad\text{(exponential)}$$

    The advantage is $Q(s, a)$ of the data action minus the mean (or maximum) of Q over actions of the policy.

    Args:
        advantage: `[*batch]`, units of return.
        mode: `"exponential"` or `"binary"`.
        temperature: $T$, units of return; positive; unused by `"binary"`.
        max_weight: $w_{\max}$; positive, infinity for no bound; unused by `"binary"`.

    Returns:
        `[*batch]`, in [0, max_weight], detached, in the input's dtype.

    Gradient:
        None: the weights are detached.

    Raises:
        ValueError: another mode, a knob that is not positive, or an infinite temperature.
        TypeError: not a tensor, integer advantages.

    Examples:
        >>> import torch
        >>> crr_weights(torch.tensor([-1.0, 0.0, 1.0]), mode="binary")
        tensor([0., 0., 1.])

    Reference:
        Wang et al., Critic Regularized Regression, arXiv:2006.15134, equations 3 and 4.
    """
    check_float("crr_weights", advantage=advantage)
    check_option("crr_weights", "mode", mode, ("exponential", "binary"))
    check_knob("crr_weights", "temperature", temperature, 0.0, shapes=[advantage.shape])
    check_knob("crr_weights", "max_weight", max_weight, 0.0, bounds="(]", shapes=[advantage.shape])
    if mode == "binary":
        return (advantage > 0).to(advantage.dtype)
    return _exponential(advantage, temperature, max_weight)


@public
def normalize_weights(weight: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Weights scaled to mean one over the batch, so that they do not change the size of a step.

    $$\tilde w_i = \frac{N\, w_i}{\sum_j w_j}$$

    Args:
        weight: `[*batch]`, non-negative and finite.
        mask: bool `[*batch]`, True where the element exists; only these count in $N$.

    Returns:
        `[*batch]`, detached, in the input's dtype; 0 where masked, and everywhere if all weights are 0.

    Gradient:
        None: the weights are detached.

    Raises:
        ValueError: a mask of another shape.
        TypeError: not a tensor, integer weights, a mask that is not bool.

    Examples:
        >>> import torch
        >>> normalize_weights(torch.tensor([1.0, 3.0]))
        tensor([0.5000, 1.5000])

    Reference:
        Owen, Monte Carlo Theory, Methods and Examples, 2013, chapter 9 (self-normalized importance sampling).
    """
    existing = _existing("normalize_weights", weight, mask).detach()
    count = max(1, weight.numel()) if mask is None else mask.sum().clamp(min=1)
    return over_mean(existing, count).to(weight.dtype)


@public
def effective_sample_size(weight: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Number of equally weighted samples that carry as much information: N for equal weights, 1 if one dominates.

    $$n_{\text{eff}} = \frac{\left( \sum_i w_i \right)^2}{\sum_i w_i^2}$$

    The effective sample size (ESS).

    Args:
        weight: `[*batch]`, non-negative and finite; their scale does not matter.
        mask: bool `[*batch]`, True where the element exists.

    Returns:
        0-d, float32 or wider; 0 if all weights are 0.

    Gradient:
        `weight`.

    Raises:
        ValueError: a mask of another shape.
        TypeError: not a tensor, integer weights, a mask that is not bool.

    Examples:
        >>> import torch
        >>> effective_sample_size(torch.tensor([1.0, 1.0, 0.0]))
        tensor(2.)

    Reference:
        Kish, Survey Sampling, 1965; Owen, Monte Carlo Theory, Methods and Examples, 2013, chapter 9.
    """
    share = relative(_existing("effective_sample_size", weight, mask))
    return total(share).square() / clamped(total(share.square()), 1.0)


@public
def normalize_advantage(
    advantage: Tensor, mean_square: Tensor, *, rate: Knob = 0.01, mask: Tensor | None = None
) -> NormalizedAdvantage:
    r"""Advantage over the root of a moving mean of its square, so that one temperature fits all scales of reward.

    $$\tilde A = \frac A {\sqrt{c'}}, \qquad c' = c + \rho \left( \text{mean}(A^2) - c \right)$$

    Nothing is stored: what comes back as `mean_square` is passed in again at the next step. It moves slowly, unlike the
    statistics of a batch, which would make a sample's weight depend on its neighbors.

    Args:
        advantage: `[*batch]`, units of return.
        mean_square: 0-d, $c$, of the last step, units of return squared; the first one for instance
            `advantage.square().mean()`. In float64 where float32 has no room for a square: above 10¹⁹, below 10⁻¹⁹.
        rate: $\rho$ in (0, 1]; 1 is the mean square of this batch.
        mask: bool `[*batch]`, True where the sample exists; only these count.

    Returns:
        `NormalizedAdvantage(advantage, mean_square)`, `[*batch]` and 0-d, float32 or wider; the advantage is 0 where
        masked, and everywhere while the mean square is 0. Without samples the mean square stays what it was.

    Gradient:
        `advantage`, as if the mean square were a constant; `mean_square` is detached.

    Raises:
        ValueError: shapes that differ, `rate` out of range.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> normalize_advantage(torch.tensor([2.0, -2.0]), torch.tensor(0.0), rate=1.0)
        NormalizedAdvantage(advantage=tensor([ 1., -1.]), mean_square=tensor(4.))

    Reference:
        Wang et al., Exponentially Weighted Imitation Learning for Batched Historical Data (MARWIL), NeurIPS 2018. The
        rate is far lower in public code: see [Lineage](../lineage/weights.md#normalize_advantage).
    """
    existing = _existing("normalize_advantage", advantage, mask, "advantage")
    check_float("normalize_advantage", mean_square=mean_square)
    check_shape("normalize_advantage", "a scalar", torch.Size(()), mean_square=mean_square)
    check_knob("normalize_advantage", "rate", rate, 0.0, 1.0, "(]")
    existing, last = widest(existing, mean_square)
    count = scalar(existing.numel(), last) if mask is None else mask.sum()
    mean = torch.where(count > 0, total(existing.square()) / count.clamp(min=1), last)
    moved = (last + rate * (mean - last)).detach()
    zero = moved == 0
    normalized = torch.where(zero, 0.0, existing / torch.where(zero, 1.0, moved).sqrt())
    return NormalizedAdvantage(normalized, moved)


def _exponential(advantage: Tensor, temperature: Knob, max_weight: Knob) -> Tensor:
    exponent = upcast(advantage.detach()) / temperature
    bound = scalar(max_weight, exponent)
    clipped = torch.minimum(exponent, bound.log())
    # exp(log(bound)) is off by a rounding, on either side: beyond the clip take the bound itself, before it no more.
    weight = torch.where(clipped < exponent, bound, torch.minimum(clipped.exp(), bound)).detach()
    if advantage.dtype == torch.float16:  # which ends at 65 504
        weight = torch.where(bound.isfinite(), weight.clamp(max=torch.finfo(torch.float16).max), weight)
    return weight.to(advantage.dtype)


def _existing(function: str, x: Tensor, mask: Tensor | None, argument: str = "weight") -> Tensor:
    check_float(function, **{argument: x})
    check_flags(function, x.shape, **present(mask=mask))
    return select(mask, upcast(x))
