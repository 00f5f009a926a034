r"""Relative entropy (KL) of a policy to a reference: closed forms for Gaussian and categorical ones, and from samples.

Samples are drawn from the first distribution, $D(\pi \,\|\, \rho) = \mathbb E_\pi[\log \pi - \log \rho]$.
It is zero if both are the same, with a gradient of zero, and never negative. Exchange the two for the other direction.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    Reduction,
    check_axis,
    check_float,
    check_knob,
    check_option,
    check_shape,
    check_tail,
    check_values,
)
from offline_losses._core.exponential import above_tangent, up_to
from offline_losses._core.public import public
from offline_losses._core.reduce import clamped, reduce, select, upcast


@public
def gaussian_kl_penalty(
    mean: Tensor,
    log_std: Tensor,
    reference_mean: Tensor,
    reference_log_std: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Relative entropy of one diagonal Gaussian policy to another: how far it has moved, summed over dimensions.

    $$\sum_d \log \frac{\sigma_{\rho, d}}{\sigma_d} + \frac{\sigma_d^2 + (\mu_d - \mu_{\rho, d})^2}{2
    \sigma_{\rho, d}^2} - \frac12$$

    It is also that of the policies squashed by the same hyperbolic tangent, since it does not depend on coordinates.

    Args:
        mean: `[*batch, A]`, of the policy.
        log_std: `[*batch, A]`, or `[A]` if it does not depend on the state. Bound it in the network: here it is only
            kept from falling below the logarithm of the smallest normal float, -87 in float32.
        reference_mean: `[*batch, A]`, of the policy that it is compared with; detach it, or take what stands still.
        reference_log_std: `[*batch, A]` or `[A]`, likewise.
        mask: bool `[*batch]`, True where the state exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing states, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `mean`, `log_std`, `reference_mean`, `reference_log_std`; `weight` is detached.

    Raises:
        ValueError: shapes that differ, no action axis, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> zero = torch.zeros(1, 2)
        >>> gaussian_kl_penalty(zero + 1, zero, zero, zero)
        tensor(1.)

    Reference:
        Kullback and Leibler, On Information and Sufficiency, Annals of Mathematical Statistics 22, 1951; Wu, Tucker and
        Nachum, Behavior Regularized Offline Reinforcement Learning (BRAC), arXiv:1911.11361.
    """
    name = "gaussian_kl_penalty"
    check_values(name, mean=mean, reference_mean=reference_mean)
    check_axis(name, "mean", mean, "dimension")
    check_float(name, log_std=log_std, reference_log_std=reference_log_std)
    for argument, deviation in (("log_std", log_std), ("reference_log_std", reference_log_std)):
        if deviation.shape != mean.shape[-1:]:
            check_shape(name, "mean", mean.shape, **{argument: deviation})
    batch = mean.shape[:-1]
    check_tail(name, batch, batch, mask, weight, reduction, denominator)
    rows = None if mask is None else mask.unsqueeze(-1)
    log_sigma, log_rho = (select(rows, _bounded(x).expand_as(mean)) for x in (log_std, reference_log_std))
    z = select(rows, upcast(mean) - upcast(reference_mean)) * torch.exp(-log_rho)
    # The variances' share is e^x - x - 1 of twice the difference, which has digits where both are nearly the same.
    divergence = (above_tangent(2 * (log_sigma - log_rho)) + z.square()).sum(-1) / 2
    return reduce(divergence, mask, weight, reduction, denominator)


@public
def categorical_kl_penalty(
    logits: Tensor,
    reference_logits: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Relative entropy of one policy over finitely many actions to another: how far it has moved.

    $$\sum_a \pi(a) \left( \log \pi(a) - \log \rho(a) \right), \qquad \pi = \mathrm{softmax}(\text{logits}), \quad
    \rho = \mathrm{softmax}(\text{reference\_logits})$$

    Args:
        logits: `[*batch, N]`, of the policy, or its log-probabilities; −∞ for an action that it never takes.
        reference_logits: `[*batch, N]`, of the policy that it is compared with; detach them, or take what stands still.
        mask: bool `[*batch]`, True where the state exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing states, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input. Infinite, without a defined gradient,
        where the policy takes an action that the reference never takes; 0 where the policy has no action.

    Gradient:
        `logits`, `reference_logits`; `weight` is detached.

    Raises:
        ValueError: shapes that differ, no action axis, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> categorical_kl_penalty(torch.tensor([[0.0, -torch.inf]]), torch.zeros(1, 2))
        tensor(0.6931)

    Reference:
        Kullback and Leibler, On Information and Sufficiency, Annals of Mathematical Statistics 22, 1951; Wu, Tucker and
        Nachum, Behavior Regularized Offline Reinforcement Learning (BRAC), arXiv:1911.11361.
    """
    check_values("categorical_kl_penalty", logits=logits, reference_logits=reference_logits)
    check_axis("categorical_kl_penalty", "logits", logits, "action")
    batch = logits.shape[:-1]
    check_tail("categorical_kl_penalty", batch, batch, mask, weight, reduction, denominator)
    rows = None if mask is None else mask.unsqueeze(-1)
    log_p, log_q = (_log_softmax(select(rows, upcast(x))) for x in (logits, reference_logits))
    p = log_p.exp()
    taken = p > 0
    ratio = torch.where(taken, log_p, 0.0) - torch.where(taken, log_q, 0.0)
    return reduce((p * ratio).sum(-1), mask, weight, reduction, denominator)


@public
def sampled_kl_penalty(
    log_prob: Tensor,
    reference_log_prob: Tensor,
    *,
    estimator: Literal["k1", "k2", "k3"] = "k3",
    max_exponent: Knob = 20.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Relative entropy of a policy to a reference, estimated from samples of the policy: how far it has moved.

    $$k_1 = x, \qquad k_2 = \tfrac12 x^2, \qquad k_3 = e^{-x} - 1 + x, \qquad x = \log \pi(a) - \log \rho(a), \quad
    a \sim \pi$$

    The mean of $k_1$ and of $k_3$ is the relative entropy; $k_3$ is never negative and varies less; $k_2$ is half the
    second moment, close to it while the policies are close. **As losses they differ more**: on samples that carry no
    gradient themselves, the expected gradient of $k_1$ is zero, that of $k_2$ is the one of $D(\pi \,\|\, \rho)$, and
    that of $k_3$ is the one of the other direction, $D(\rho \,\|\, \pi)$. Through reparameterized samples $k_1$ has the
    right one.

    Args:
        log_prob: `[*batch]`, $\log \pi(a)$ of actions, or tokens, drawn from the policy.
        reference_log_prob: `[*batch]`, $\log \rho(a)$ of the same; detach it, or take what stands still.
        estimator: `"k1"`, `"k2"` or `"k3"`.
        max_exponent: where the exponential of $k_3$ becomes a line, so that its gradient is bounded; in (0, 50].
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input. 0 where both exclude the action.

    Gradient:
        `log_prob`, `reference_log_prob`, and `max_exponent` if it is a tensor; `weight` is detached.

    Raises:
        ValueError: shapes that differ, another estimator, `max_exponent` out of range, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> log_prob, reference = torch.tensor([0.0, 0.0]), torch.tensor([-1.0, 1.0])
        >>> [round(sampled_kl_penalty(log_prob, reference, estimator=k).item(), 4) for k in ("k1", "k2", "k3")]
        [0.0, 0.5, 0.5431]

    Reference:
        Schulman, Approximating KL Divergence, 2020, http://joschu.net/blog/kl-approx.html. Public code means either
        by KL: see [Lineage](../lineage/divergence.md#sampled_kl_penalty).
    """
    check_values("sampled_kl_penalty", log_prob=log_prob, reference_log_prob=reference_log_prob)
    check_tail("sampled_kl_penalty", log_prob.shape, log_prob.shape, mask, weight, reduction, denominator)
    check_option("sampled_kl_penalty", "estimator", estimator, ("k1", "k2", "k3"))
    check_knob("sampled_kl_penalty", "max_exponent", max_exponent, 0.0, 50.0, "(]", [log_prob.shape])
    policy, reference = select(mask, upcast(log_prob)), select(mask, upcast(reference_log_prob))
    excluded = (policy == -torch.inf) & (reference == -torch.inf)
    x = torch.where(excluded, 0.0, policy) - torch.where(excluded, 0.0, reference)
    if estimator == "k1":
        return reduce(x, mask, weight, reduction, denominator)
    if estimator == "k2":
        return reduce(x.square() / 2, mask, weight, reduction, denominator)
    z, beyond = up_to(-x, max_exponent)
    return reduce(above_tangent(z) + (z.exp() - 1) * beyond, mask, weight, reduction, denominator)


def _bounded(log_std: Tensor) -> Tensor:
    """No smaller than the logarithm of a float: zero times infinity is not a number."""
    return clamped(upcast(log_std), math.log(torch.finfo(upcast(log_std).dtype).tiny))


def _log_softmax(logits: Tensor) -> Tensor:
    """Logarithms of probabilities; where there is no action at all, none has any, and nothing has a gradient."""
    some = (logits != -torch.inf).any(-1, keepdim=True)
    return torch.where(some, torch.where(some, logits, 0.0).log_softmax(-1), -torch.inf)
