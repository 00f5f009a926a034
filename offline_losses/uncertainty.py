r"""Disagreement as a measure of what the data does not tell: where the members of an ensemble differ, trust them less.

The members are critics or dynamics models, trained on the same data from different starts. They agree where the data
hold them together. All derivatives here are finite where all members agree; the slope of a spread is zero there.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    Reduction,
    check_count,
    check_critics,
    check_float,
    check_knob,
    check_option,
    check_shape,
    check_tail,
)
from offline_losses._core.public import public
from offline_losses._core.reduce import reduce, select, summed, times, upcast
from offline_losses._core.root import root


@public
def ensemble_lower_bound(q: Tensor, *, penalty_weight: Knob = 1.0, correction: int = 0) -> Tensor:
    r"""Mean of the critics less a multiple of their standard deviation (LCB): lower where they disagree more.

    $$\bar Q - \lambda \sqrt{\frac{1}{E - c} \sum_e \left( Q_e - \bar Q \right)^2}, \qquad \bar Q = \frac1E \sum_e Q_e$$

    For two critics with $\lambda = 1$ and $c = 0$ it is their minimum. The expected minimum of $E$ normally distributed
    critics lies about $\Phi^{-1}\!\left( \frac{E - \pi/8}{E - \pi/4 + 1} \right)$ deviations below the mean: 1.56 for
    ten.

    Args:
        q: `[E, *batch]`, critics first; all finite, or all the same infinity (for an action that does not exist).
        penalty_weight: $\lambda$, at least 0; 0 is the mean.
        correction: $c$, what is subtracted from the number of critics: 0 for the deviation of these critics, 1 for that
            of the population they are drawn from. NumPy and JAX default to 0, `torch.std` to 1.

    Returns:
        `[*batch]`, float32 or wider.

    Gradient:
        `q`, and `penalty_weight` if it is a tensor. First and second derivatives are finite where all critics agree.

    Raises:
        ValueError: no critic axis, not more critics than `correction`, a knob out of range.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> ensemble_lower_bound(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        tensor([1., 5.])

    Reference:
        An, Moon, Kim and Song, Uncertainty-Based Offline Reinforcement Learning with Diversified Q-Ensemble,
        arXiv:2110.01548, section 3 (the expected minimum of N critics as mean less deviations).
    """
    check_critics("ensemble_lower_bound", q=q)
    check_knob("ensemble_lower_bound", "penalty_weight", penalty_weight, 0.0, bounds="[)", shapes=[q.shape[1:]])
    check_count("ensemble_lower_bound", "correction", correction, 0, q.shape[0] - 1)
    critics = upcast(q)
    std = _norm(_centered(critics), 0) / math.sqrt(len(q) - correction)
    return (critics.mean(0) - times(penalty_weight, std)).to(summed(q))


@public
def diversity_penalty(
    action_gradient: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""How much the critics' slopes in the action point the same way: minimize it, so that they differ off the data.

    $$\frac{1}{E - 1} \sum_{i \ne j} \cos\!\left( \nabla_a Q_i(s, a),\, \nabla_a Q_j(s, a) \right)$$

    It is $E$ where all slopes are parallel, 0 where they are orthogonal, and never below $-E / (E - 1)$. Critics that
    have the same value and the same slope at the data's action agree on the actions beside it too, where nothing says
    that they are right, and their minimum is no pessimism. In one action dimension a cosine is 1 or −1 and has no
    gradient.

    Args:
        action_gradient: `[E, *batch, A]`, $\nabla_a Q_e$ at the data's action: `torch.autograd.grad(q.sum(), action,
            create_graph=True)` with a copy of the action for each critic.
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `action_gradient`; a slope of exactly zero has the cosine 0 and receives none. `weight` is detached.

    Raises:
        ValueError: fewer than two critics, no action axis, shapes that differ, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> diversity_penalty(torch.tensor([[[1.0, 0.0]], [[2.0, 0.0]]]))
        tensor(2.)

    Reference:
        An, Moon, Kim and Song, Uncertainty-Based Offline Reinforcement Learning with Diversified Q-Ensemble (EDAC),
        arXiv:2110.01548, section 4 and algorithm 1.
    """
    check_critics("diversity_penalty", least=2, last="dimension", action_gradient=action_gradient)
    batch = action_gradient.shape[1:-1]
    check_tail("diversity_penalty", batch, batch, mask, weight, reduction, denominator)
    slope = select(None if mask is None else mask.unsqueeze(-1), upcast(action_gradient))
    slope, _ = _scaled(slope, -1)  # a cosine knows no length
    length = root(slope.square().sum(-1, keepdim=True))
    direction = torch.where(length > 0, slope / torch.where(length > 0, length, 1.0), 0.0)
    all_pairs, own_pairs = direction.sum(0).square().sum(-1), direction.square().sum((0, -1))
    return reduce((all_pairs - own_pairs) / (len(slope) - 1), mask, weight, reduction, denominator)


@public
def uncertainty_penalized_reward(
    reward: Tensor,
    model_output: Tensor,
    *,
    uncertainty: Literal["max_aleatoric", "max_pairwise_difference", "ensemble_std"] = "max_aleatoric",
    penalty_weight: Knob = 1.0,
) -> Tensor:
    r"""Reward of a model's step less a multiple of its uncertainty: lower where the models should not be trusted.

    $$r - \lambda\,u, \qquad u = \max_m \lVert \sigma_m \rVert \quad\text{or}\quad
    \max_{m, n} \lVert \mu_m - \mu_n \rVert \quad\text{or}\quad
    \sqrt{\textstyle\sum_d \operatorname{Var}_m \mu_{m, d}}$$

    Three things are called uncertainty: how noisy the noisiest model believes the step to be (`"max_aleatoric"`, MOPO),
    how far the two models furthest apart are (`"max_pairwise_difference"`, MOReL), and how far the models scatter
    (`"ensemble_std"`; MOBILE, with the Bellman target of each model as its one dimension). They differ in scale: λ has
    to be chosen anew for each.

    Args:
        reward: `[*batch]`.
        model_output: `[M, *batch, D]`, what each of M models says of the next state: its standard deviation $\sigma$
            for `"max_aleatoric"`, its mean $\mu$ for the others.
        uncertainty: which of the three, in that order.
        penalty_weight: $\lambda$, units of reward for one unit of uncertainty; at least 0.

    Returns:
        `[*batch]`, in the reward's and output's common dtype, float32 or wider.

    Gradient:
        `reward`, `model_output`, and `penalty_weight` if it is a tensor. First and second derivatives are finite where
        all models agree.

    Raises:
        ValueError: shapes that differ, no model (two for the second), a knob out of range, an unknown uncertainty.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> std = torch.tensor([[[3.0, 4.0]], [[1.0, 0.0]]])
        >>> uncertainty_penalized_reward(torch.ones(1), std, penalty_weight=0.5)
        tensor([-1.5000])

    Reference:
        Yu et al., MOPO, arXiv:2005.13239, section 4.3; Kidambi et al., MOReL, arXiv:2005.05951, definition 1; Sun et
        al., Model-Bellman Inconsistency for Model-based Offline RL (MOBILE), ICML 2023. Public code means other things
        by the same words: see [Lineage](../lineage/uncertainty.md#uncertainty_penalized_reward).
    """
    name = "uncertainty_penalized_reward"
    check_option(name, "uncertainty", uncertainty, ("max_aleatoric", "max_pairwise_difference", "ensemble_std"))
    least = 2 if uncertainty == "max_pairwise_difference" else 1
    check_critics(name, what="model", least=least, last="dimension", model_output=model_output)
    check_float(name, reward=reward)
    check_shape(name, "model_output without its first and last axis", model_output.shape[1:-1], reward=reward)
    check_knob(name, "penalty_weight", penalty_weight, 0.0, bounds="[)", shapes=[reward.shape])
    x = upcast(model_output)
    if uncertainty == "max_aleatoric":
        u = _norm(x, -1).amax(0)
    elif uncertainty == "max_pairwise_difference":
        first, second = torch.triu_indices(len(x), len(x), 1, device=x.device)
        u = _norm(x[first] - x[second], -1).amax(0)
    else:
        u = _norm(_centered(x), (0, -1)) / math.sqrt(len(x))
    return (upcast(reward) - times(penalty_weight, u)).to(summed(reward, model_output))


def _centered(
    x: Tensor,  # [E, *batch]
) -> Tensor:
    """Distance of each from the mean of all, which is exactly zero where all are equal, infinite ones too."""
    first = x[:1].detach()  # a shift changes neither the distances nor their derivatives
    shifted = torch.where((x == first) & (x.abs() == torch.inf), 0.0, x - first)
    return shifted - shifted.mean(0)


def _norm(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    x, size = _scaled(x, dim)
    return root(x.square().sum(dim)) * size.amax(dim)


def _scaled(x: Tensor, dim: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Numbers over the largest along `dim`, a constant for the gradient, so that no square over- or underflows."""
    size = x.detach().abs().amax(dim, keepdim=True)
    size = torch.where((size > 0) & (size < torch.inf), size, 1.0)
    return x / size, size
