r"""Policy extraction: imitate with weights, climb a critic near the data, or both.

Behavior cloning, filtered cloning, AWR, AWAC, CRR and the policy of IQL are one loss, `nll_loss`, with other weights.
"""

from __future__ import annotations

import math

from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    Reduction,
    check_axis,
    check_float,
    check_knob,
    check_rows,
    check_tail,
    check_values,
)
from offline_losses._core.public import public
from offline_losses._core.reduce import check_size, mean_size, reduce, select, times, upcast


@public
def nll_loss(
    log_prob: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Negative log-likelihood of the data's actions: lower as the policy imitates them, each by its weight.

    $$-\,w(s, a) \log \pi(a \mid s)$$

    No weight is behavior cloning (BC); `return_filter` as `mask` is filtered cloning (%BC); `awr_weights` as `weight`
    is AWR, AWAC and the policy of IQL; `crr_weights` is CRR.

    Args:
        log_prob: `[*batch]`, $\log \pi(a \mid s)$ of the data's actions, natural logarithm.
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `log_prob`; `weight` is detached.

    Raises:
        ValueError: shapes that differ, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> nll_loss(torch.tensor([-1.0, -2.0]), weight=torch.tensor([1.0, 3.0]))
        tensor(3.5000)

    Reference:
        Peng, Kumar, Zhang and Levine, Advantage-Weighted Regression, arXiv:1910.00177, algorithm 1; Kostrikov, Nair and
        Levine, implicit Q-learning, arXiv:2110.06169, equation 7.
    """
    check_float("nll_loss", log_prob=log_prob)
    check_tail("nll_loss", log_prob.shape, log_prob.shape, mask, weight, reduction, denominator)
    return reduce(-select(mask, upcast(log_prob)), mask, weight, reduction, denominator)


@public
def td3_bc_loss(
    q: Tensor,
    policy_action: Tensor,
    data_action: Tensor,
    *,
    q_weight: Knob = 2.5,
    epsilon: Knob = 1e-6,
    normalizer: Knob | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Climb the critic while staying near the data's action; a larger `q_weight` trusts the critic more.

    $$-\lambda\,Q(s, \pi(s)) + \frac1A \sum_d \left( \pi_d(s) - a_d \right)^2, \qquad
    \lambda = \frac{\alpha}{\text{mean} |Q|}$$

    The normalizer is the mean over the batch's existing samples, detached; it makes the loss blind to the scale of Q.

    Args:
        q: `[*batch]`, $Q(s, \pi(s))$ of one critic.
        policy_action: `[*batch, A]`, $\pi(s)$.
        data_action: `[*batch, A]`, the data's action.
        q_weight: $\alpha$, positive.
        epsilon: smallest normalizer, so that Q = 0 is finite; positive.
        normalizer: what takes the place of mean |Q|, for a part of a batch that of the whole; one number, or one for
            each run, detached.
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters a denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `q`, `policy_action`, `data_action`, and `q_weight` if it is a tensor; `weight` and the normalizer are detached.

    Raises:
        ValueError: shapes that differ, a knob that is not positive, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> q, action = torch.tensor([2.0, -2.0]), torch.zeros(2, 3)
        >>> td3_bc_loss(q, action, action + 1, reduction="none")
        tensor([-1.5000,  3.5000])

    Reference:
        Fujimoto and Gu, A Minimalist Approach to Offline Reinforcement Learning (TD3+BC), arXiv:2106.06860, equations 3
        and 5. Mean over action dimensions, as there; ReBRAC sums: see [Lineage](../lineage/policy.md#td3_bc_loss).
    """
    check_values("td3_bc_loss", policy_action=policy_action, data_action=data_action)
    check_axis("td3_bc_loss", "policy_action", policy_action, "dimension")
    check_float("td3_bc_loss", q=q)
    check_rows("td3_bc_loss", policy_action=policy_action, q=q)
    check_tail("td3_bc_loss", q.shape, q.shape, mask, weight, reduction, denominator)
    check_knob("td3_bc_loss", "q_weight", q_weight, 0.0, shapes=[q.shape])
    check_size("td3_bc_loss", epsilon, normalizer, q.shape)
    value = select(mask, upcast(q))
    size = mean_size(value, mask, epsilon, normalizer)
    rows = None if mask is None else mask.unsqueeze(-1)
    difference = select(rows, upcast(policy_action) - upcast(data_action))
    distance = difference.square().mean(-1)
    return reduce(distance - q_weight / size * value, mask, weight, reduction, denominator)


@public
def sac_policy_loss(
    log_prob: Tensor,
    q: Tensor,
    *,
    temperature: Knob = 1.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Climb the critic while staying random; a higher temperature pays more for entropy.

    $$T \log \pi(a \mid s) - Q(s, a), \qquad a \sim \pi(\cdot \mid s) \text{ reparameterized}$$

    For one sampled action. Over all actions of a discrete policy, `[*batch, N]`, this would be their plain mean; the
    expectation is `discrete_sac_loss`.

    Args:
        log_prob: `[*batch]`, of the sampled action; not `[*batch, N]` of all.
        q: `[*batch]`, of the same action, critics reduced.
        temperature: $T \ge 0$, units of return. Detach a learned one: it is trained by
            `temperature_loss`, and this loss would move it by the entropy alone, towards no target.
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `log_prob`, `q` (and through both the policy), `temperature` if it is a tensor; `weight` is detached.

    Raises:
        ValueError: shapes that differ, `temperature` negative, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> sac_policy_loss(torch.tensor([-1.0]), torch.tensor([3.0]), temperature=0.5)
        tensor(-3.5000)

    Reference:
        Haarnoja et al., Soft Actor-Critic Algorithms and Applications (SAC), arXiv:1812.05905, equations 7 and 9.
    """
    check_values("sac_policy_loss", log_prob=log_prob, q=q)
    check_tail("sac_policy_loss", log_prob.shape, log_prob.shape, mask, weight, reduction, denominator)
    check_knob("sac_policy_loss", "temperature", temperature, 0.0, bounds="[)", shapes=[q.shape])
    loss = times(temperature, select(mask, upcast(log_prob))) - select(mask, upcast(q))
    return reduce(loss, mask, weight, reduction, denominator)


@public
def temperature_loss(
    log_temperature: Tensor,
    log_prob: Tensor,
    *,
    target_entropy: Knob,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Raise the temperature while the policy's entropy is below its target, lower it while it is above.

    $$-\,T \left( \log \pi(a \mid s) + \bar{\mathcal H} \right), \qquad T = e^{\log T}$$

    A dual loss: it moves its multiplier and nothing else, so the log-probability is detached.

    Args:
        log_temperature: 0-d, $\log T$, the dual variable; or one for each run, `[R, 1]` beside `[R, B]`.
        log_prob: `[*batch]`, of actions sampled from the policy.
        target_entropy: $\bar{\mathcal H}$, nats; minus the number of action dimensions is usual.
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `log_temperature`, and `target_entropy` if it is a tensor; `log_prob` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> temperature_loss(torch.tensor(0.0), torch.tensor([1.0, 3.0]), target_entropy=-1.0)
        tensor(-1.)

    Reference:
        Haarnoja et al., Soft Actor-Critic Algorithms and Applications (SAC), arXiv:1812.05905, equation 18. Some use
        log T as the factor: see [Lineage](../lineage/policy.md#temperature_loss).
    """
    check_float("temperature_loss", log_temperature=log_temperature, log_prob=log_prob)
    check_knob("temperature_loss", "log_temperature", log_temperature, -math.inf, shapes=[log_prob.shape])
    check_tail("temperature_loss", log_prob.shape, log_prob.shape, mask, weight, reduction, denominator)
    check_knob("temperature_loss", "target_entropy", target_entropy, -math.inf, shapes=[log_prob.shape])
    excess = select(mask, upcast(log_prob.detach())) + target_entropy
    return reduce(-times(upcast(log_temperature).exp(), excess), mask, weight, reduction, denominator)
