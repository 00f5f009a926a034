r"""Policies over finitely many actions: what continuous control samples is an exact sum here, and entropy a bonus.

A policy is given by its logits, which may be its log-probabilities. An action of probability zero counts nothing,
whatever its value is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    Reduction,
    check_axis,
    check_flags,
    check_knob,
    check_rows,
    check_tail,
    check_values,
)
from offline_losses._core.public import public
from offline_losses._core.reduce import over_rows, promoted, reduce, scalar, select, summed, times, upcast
from offline_losses.targets import bellman_target


@public
def discrete_sac_loss(
    logits: Tensor,
    q: Tensor,
    *,
    temperature: Knob = 1.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Climb the critic while staying random, over all actions at once; a higher temperature pays more for entropy.

    $$\sum_a \pi(a \mid s) \left( T \log \pi(a \mid s) - Q(s, a) \right)$$

    It is the mean of `sac_policy_loss` over actions drawn from the policy, without the noise of drawing them. The best
    policy is $\mathrm{softmax}(Q / T)$, where the loss is minus `soft_value`.

    Args:
        logits: `[*batch, N]`, of the policy, or its log-probabilities; −∞ for an action that it never takes.
        q: `[*batch, N]`, of the same actions, critics reduced; usually detached.
        temperature: $T \ge 0$, units of return. Detach a learned one.
        mask: bool `[*batch]`, True where the state exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing states (not over actions), `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input. A state without actions has 0.

    Gradient:
        `logits`, `q`, and `temperature` if it is a tensor; `weight` is detached.

    Raises:
        ValueError: shapes that differ, no action axis, `temperature` negative, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> discrete_sac_loss(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]), temperature=0.0)
        tensor(-2.)

    Reference:
        Christodoulou, Soft Actor-Critic for Discrete Action Settings, arXiv:1910.07207. One public
        implementation divides by the number of actions: see [Lineage](../lineage/discrete.md#discrete_sac_loss).
    """
    check_values("discrete_sac_loss", logits=logits, q=q)
    check_axis("discrete_sac_loss", "logits", logits, "action")
    batch = q.shape[:-1]
    check_tail("discrete_sac_loss", batch, batch, mask, weight, reduction, denominator)
    check_knob("discrete_sac_loss", "temperature", temperature, 0.0, bounds="[)", shapes=[batch])
    rows = None if mask is None else mask.unsqueeze(-1)
    value = _soft_expectation(select(rows, upcast(logits)), select(rows, upcast(q)), temperature)
    return reduce(-value, mask, weight, reduction, denominator)


@public
def discrete_soft_target(
    reward: Tensor,
    next_q: Tensor,
    next_logits: Tensor,
    terminated: Tensor,
    *,
    temperature: Knob = 1.0,
    discount: Knob = 0.99,
) -> Tensor:
    r"""Bellman target of maximum-entropy learning, averaged over all actions of the policy: higher if it is random.

    $$y = r + \gamma\,(1 - \text{terminated}) \sum_a \pi(a \mid s') \left( Q(s', a) - T \log \pi(a \mid s') \right)$$

    With the policy $\mathrm{softmax}(Q / T)$ the sum is `soft_value` of Q: the target of soft and Munchausen DQN.

    Args:
        reward: `[*batch]`.
        next_q: `[*batch, N]`, values of all actions at the next state, critics reduced.
        next_logits: `[*batch, N]`, of the policy there, or its log-probabilities; −∞ for an action never taken.
        terminated: bool `[*batch]`, True where the environment ended.
        temperature: $T \ge 0$, units of return; 0 gives `expected_target`.
        discount: $\gamma$ in [0, 1], or a tensor of the reward's shape.

    Returns:
        `[*batch]`, float32 or wider.

    Gradient:
        `reward`, `next_q`, `next_logits`, and `temperature` and `discount` if they are tensors.

    Raises:
        ValueError: shapes that differ, a knob out of range.
        TypeError: not a tensor, integer rewards, a `terminated` that is not bool.

    Examples:
        >>> import torch
        >>> one, q, end = torch.ones(1), torch.tensor([[2.0, 6.0]]), torch.tensor([False])
        >>> discrete_soft_target(one, q, torch.tensor([[0.0, -torch.inf]]), end, discount=0.5)
        tensor([2.])

    Reference:
        Christodoulou, Soft Actor-Critic for Discrete Action Settings, arXiv:1910.07207; Vieillard, Pietquin
        and Geist, Munchausen Reinforcement Learning, arXiv:2007.14430 (soft DQN).
    """
    check_values("discrete_soft_target", next_q=next_q, next_logits=next_logits)
    check_values("discrete_soft_target", reward=reward)
    check_axis("discrete_soft_target", "next_q", next_q, "action")
    check_rows("discrete_soft_target", next_q=next_q, reward=reward)
    check_flags("discrete_soft_target", reward.shape, terminated=terminated)
    check_knob("discrete_soft_target", "temperature", temperature, 0.0, bounds="[)", shapes=[reward.shape])
    check_knob("discrete_soft_target", "discount", discount, 0.0, 1.0, "[]", [reward.shape])
    follows = ~terminated.unsqueeze(-1)
    value = _soft_expectation(select(follows, upcast(next_logits)), select(follows, upcast(next_q)), temperature)
    target = bellman_target(reward, value, terminated, discount=discount)
    return target.to(summed(reward, next_q, next_logits))


@public
def munchausen_reward(
    reward: Tensor,
    log_prob: Tensor,
    *,
    temperature: Knob = 0.03,
    bonus_weight: Knob = 0.9,
    min_bonus: Knob = -1.0,
) -> Tensor:
    r"""Reward less what the policy thinks little of: the likelier it finds its own action, the less is subtracted.

    $$r + \alpha \left[ T \log \pi(a \mid s) \right]_{l}^{0}$$

    The best action keeps its reward, and the gap between it and the others grows, as if each policy were held near the
    last one by a relative entropy. For $\pi = \mathrm{softmax}(Q / T)$ the bonus is $T \log \pi = Q(s, a) -$
    `soft_value`; as T falls it is that of `advantage_learning_reward`.

    Args:
        reward: `[*batch]`.
        log_prob: `[*batch]`, $\log \pi(a \mid s)$ of the data's action under the slow policy; −∞ is legal.
        temperature: $T \ge 0$, units of return.
        bonus_weight: $\alpha$ in [0, 1].
        min_bonus: $l \le 0$, units of return: the least that the bracket becomes.

    Returns:
        `[*batch]`, in the input's dtype.

    Gradient:
        `reward`, `log_prob` (none beyond the bounds), and the knobs if they are tensors.

    Raises:
        ValueError: shapes that differ, a knob out of range.
        TypeError: not a tensor, integer rewards.

    Examples:
        >>> import torch
        >>> munchausen_reward(torch.ones(3), torch.tensor([0.0, -1.0, -torch.inf]), temperature=0.5)
        tensor([1.0000, 0.5500, 0.1000])

    Reference:
        Vieillard, Pietquin and Geist, Munchausen Reinforcement Learning, arXiv:2007.14430. The authors'
        code bounds it above by 1: see [Lineage](../lineage/discrete.md#munchausen_reward).
    """
    check_values("munchausen_reward", reward=reward, log_prob=log_prob)
    check_knob("munchausen_reward", "temperature", temperature, 0.0, bounds="[)", shapes=[reward.shape])
    check_knob("munchausen_reward", "bonus_weight", bonus_weight, 0.0, 1.0, "[]", [reward.shape])
    check_knob("munchausen_reward", "min_bonus", min_bonus, -math.inf, 0.0, "(]", [reward.shape])
    bonus = times(temperature, upcast(log_prob))
    bonus = torch.where(bonus > 0, 0.0, torch.where(bonus < min_bonus, scalar(min_bonus, bonus), bonus))
    return (upcast(reward) + times(bonus_weight, bonus)).to(promoted(reward, log_prob))


@public
def advantage_learning_reward(reward: Tensor, q_data: Tensor, value: Tensor, *, bonus_weight: Knob = 0.9) -> Tensor:
    r"""Reward less a share of what the action is worse than the best: widens the gap between the best and the others.

    $$r - \alpha \left( V(s) - Q(s, a) \right), \qquad V(s) = \max_{a'} Q(s, a')$$

    The best action keeps its value, and where values are only approximate the order of actions is safer.

    Args:
        reward: `[*batch]`.
        q_data: `[*batch]`, $Q(s, a)$ of the data's action, of the slow critic.
        value: `[*batch]`, its largest value in the same state.
        bonus_weight: $\alpha$ in [0, 1]; below 1 the best action stays the best.

    Returns:
        `[*batch]`, in the input's dtype.

    Gradient:
        `reward`, `q_data`, `value`, and `bonus_weight` if it is a tensor.

    Raises:
        ValueError: shapes that differ, `bonus_weight` out of range.
        TypeError: not a tensor, integer rewards.

    Examples:
        >>> import torch
        >>> advantage_learning_reward(torch.ones(2), torch.tensor([4.0, 2.0]), torch.full((2,), 4.0), bonus_weight=0.5)
        tensor([1., 0.])

    Reference:
        Bellemare, Ostrovski, Guez, Thomas and Munos, Increasing the Action Gap, arXiv:1512.04860 (advantage learning).
    """
    check_values("advantage_learning_reward", reward=reward, q_data=q_data, value=value)
    check_knob("advantage_learning_reward", "bonus_weight", bonus_weight, 0.0, 1.0, "[]", [reward.shape])
    gap = upcast(value) - upcast(q_data)
    return (upcast(reward) - times(bonus_weight, gap)).to(promoted(reward, q_data, value))


def _soft_expectation(
    logits: Tensor,  # [*batch, N]
    q: Tensor,  # [*batch, N]
    temperature: Knob,  # [] or [*batch]
) -> Tensor:
    """Mean of Q − T log π under the policy; 0 without an action."""
    some = (logits != -torch.inf).any(-1, keepdim=True)
    log_p = torch.where(some, torch.where(some, logits, 0.0).log_softmax(-1), -torch.inf)
    p = log_p.exp()
    taken = p > 0
    return (p * (torch.where(taken, q, 0.0) - over_rows(temperature) * torch.where(taken, log_p, 0.0))).sum(-1)
