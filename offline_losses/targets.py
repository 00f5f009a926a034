r"""One-step bootstrap targets: the reward, then the discounted estimate of what follows.

`terminated` is the end of the task, after which nothing follows: whatever the next value is there, NaN included, it has
no influence. A truncated episode has only stopped being recorded and is bootstrapped; there is no `done` here. Targets
keep their gradient; every loss detaches its `target`. For n steps pass the discounted sum of n rewards, the value
n steps later and the discount to the power of n.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    check_axis,
    check_critics,
    check_flags,
    check_knob,
    check_option,
    check_rows,
    check_values,
)
from offline_losses._core.public import public
from offline_losses._core.reduce import promoted, summed, times, upcast
from offline_losses.recurrence import done_or_zero


@public
def bellman_target(reward: Tensor, next_value: Tensor, terminated: Tensor, *, discount: Knob = 0.99) -> Tensor:
    r"""Reward plus discounted value of the next state; the reward alone where the episode terminated.

    $$y = r + \gamma\,(1 - \text{terminated})\,V(s')$$

    Args:
        reward: `[*batch]`.
        next_value: `[*batch]`, value of the true next state; at a terminated step anything, NaN included.
        terminated: bool `[*batch]`, True where the environment ended (not where it was truncated).
        discount: $\gamma$ in [0, 1]; also a tensor of the reward's shape, for n-step targets of differing length.

    Returns:
        `[*batch]`, in the input's dtype.

    Gradient:
        `reward`, `next_value`, and `discount` if it is a tensor.

    Raises:
        ValueError: shapes that differ, `discount` out of range.
        TypeError: not a tensor, integer rewards, a `terminated` that is not bool.

    Examples:
        >>> import torch
        >>> bellman_target(torch.ones(2), torch.tensor([10.0, torch.nan]), torch.tensor([False, True]), discount=0.5)
        tensor([6., 1.])

    Reference:
        Bellman, Dynamic Programming, 1957; Sutton and Barto, Reinforcement Learning, 2nd edition, 2018, equation 6.2
        (TD(0)). Some implementations cut at truncations too: see [Lineage](../lineage/targets.md#bellman_target).
    """
    check_values("bellman_target", reward=reward, next_value=next_value)
    _check_step("bellman_target", reward, terminated, discount)
    return _bootstrap(reward, _alive(next_value, terminated), discount).to(promoted(reward, next_value))


@public
def soft_bellman_target(
    reward: Tensor,
    next_value: Tensor,
    next_log_prob: Tensor,
    terminated: Tensor,
    *,
    temperature: Knob = 1.0,
    discount: Knob = 0.99,
) -> Tensor:
    r"""Bellman target of maximum-entropy learning: an unlikely next action is worth more.

    $$y = r + \gamma\,(1 - \text{terminated}) \left( Q(s', a') - T \log \pi(a' \mid s') \right)$$

    Args:
        reward: `[*batch]`.
        next_value: `[*batch]`, $Q(s', a')$ of an action drawn from the policy at the next state, critics reduced.
        next_log_prob: `[*batch]`, $\log \pi(a' \mid s')$ of that action.
        terminated: bool `[*batch]`, True where the environment ended.
        temperature: $T \ge 0$, units of return; 0 gives `bellman_target`.
        discount: $\gamma$ in [0, 1], or a tensor of the reward's shape.

    Returns:
        `[*batch]`, in the input's dtype.

    Gradient:
        `reward`, `next_value`, `next_log_prob`, and `temperature` and `discount` if they are tensors.

    Raises:
        ValueError: shapes that differ, a knob out of range.
        TypeError: not a tensor, integer rewards, a `terminated` that is not bool.

    Examples:
        >>> import torch
        >>> one, end = torch.ones(1), torch.tensor([False])
        >>> soft_bellman_target(one, 4 * one, -2 * one, end, temperature=0.5, discount=0.5)
        tensor([3.5000])

    Reference:
        Haarnoja et al., Soft Actor-Critic Algorithms and Applications (SAC), arXiv:1812.05905, equations 2 and 3.
    """
    check_values("soft_bellman_target", reward=reward, next_value=next_value, next_log_prob=next_log_prob)
    _check_step("soft_bellman_target", reward, terminated, discount)
    check_knob("soft_bellman_target", "temperature", temperature, 0.0, bounds="[)", shapes=[reward.shape])
    value = _alive(next_value, terminated) - times(temperature, _alive(next_log_prob, terminated))
    return _bootstrap(reward, value, discount).to(promoted(reward, next_value, next_log_prob))


@public
def expected_target(
    reward: Tensor, next_q: Tensor, next_probability: Tensor, terminated: Tensor, *, discount: Knob = 0.99
) -> Tensor:
    r"""Bellman target with the next value averaged over all actions of a policy: no sampling noise.

    $$y = r + \gamma\,(1 - \text{terminated}) \sum_a \pi(a \mid s')\, Q(s', a)$$

    Args:
        reward: `[*batch]`.
        next_q: `[*batch, N]`, values of all actions at the next state; infinity is legal where the probability is 0.
        next_probability: `[*batch, N]`, the policy's probabilities of them.
        terminated: bool `[*batch]`, True where the environment ended.
        discount: $\gamma$ in [0, 1], or a tensor of the reward's shape.

    Returns:
        `[*batch]`, float32 or wider.

    Gradient:
        `reward`, `next_q`, `next_probability`, and `discount` if it is a tensor.

    Raises:
        ValueError: shapes that differ, `discount` out of range.
        TypeError: not a tensor, integer rewards, a `terminated` that is not bool.

    Examples:
        >>> import torch
        >>> q, p = torch.tensor([[2.0, 6.0]]), torch.tensor([[0.5, 0.5]])
        >>> expected_target(torch.ones(1), q, p, torch.tensor([False]), discount=0.5)
        tensor([3.])

    Reference:
        van Seijen, van Hasselt, Whiteson and Wiering, A Theoretical and Empirical Analysis of Expected Sarsa, ADPRL
        2009.
    """
    check_values("expected_target", next_q=next_q, next_probability=next_probability)
    _check_actions("expected_target", reward, next_q=next_q)
    _check_step("expected_target", reward, terminated, discount)
    over = done_or_zero(terminated, discount).unsqueeze(-1)
    q, p = _alive(next_q, over), _alive(next_probability, over)
    value = (p * torch.where((p == 0) & (q.abs() == torch.inf), 0.0, q)).sum(-1)
    return _bootstrap(reward, value, discount).to(summed(reward, next_q, next_probability))


@public
def double_q_target(
    reward: Tensor, next_q_online: Tensor, next_q_target: Tensor, terminated: Tensor, *, discount: Knob = 0.99
) -> Tensor:
    r"""Bellman target of double Q-learning: one network chooses the next action, the other one values it.

    $$y = r + \gamma\,(1 - \text{terminated})\,Q_{\text{target}}(s', \arg\max_a Q_{\text{online}}(s', a))$$

    Args:
        reward: `[*batch]`.
        next_q_online: `[*batch, N]`, values that choose the action; the first of equals is taken.
        next_q_target: `[*batch, N]`, values that value it.
        terminated: bool `[*batch]`, True where the environment ended.
        discount: $\gamma$ in [0, 1], or a tensor of the reward's shape.

    Returns:
        `[*batch]`, in the input's dtype.

    Gradient:
        `reward`, `next_q_target` (of the chosen action), and `discount` if it is a tensor; `next_q_online` has
        none.

    Raises:
        ValueError: shapes that differ, `discount` out of range.
        TypeError: not a tensor, integer rewards, a `terminated` that is not bool.

    Examples:
        >>> import torch
        >>> online, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[8.0, 4.0]])
        >>> double_q_target(torch.ones(1), online, target, torch.tensor([False]), discount=0.5)
        tensor([3.])

    Reference:
        van Hasselt, Guez and Silver, Deep Reinforcement Learning with Double Q-learning (double DQN), arXiv:1509.06461,
        equation 4, with the target network for the second set of weights.
    """
    check_values("double_q_target", next_q_online=next_q_online, next_q_target=next_q_target)
    _check_actions("double_q_target", reward, next_q_online=next_q_online)
    _check_step("double_q_target", reward, terminated, discount)
    value = next_q_target.gather(-1, next_q_online.argmax(-1, keepdim=True)).squeeze(-1)
    return _bootstrap(reward, _alive(value, terminated), discount).to(promoted(reward, next_q_target))


@public
def candidate_max_value(q: Tensor, *, order: Literal["max_then_min", "min_then_max"] = "max_then_min") -> Tensor:
    r"""Value of the best candidate action under several critics: the maximum of Q, made smaller by their disagreement.

    $$\min_e \max_i Q_e(s, a_i) \qquad\text{or}\qquad \max_i \min_e Q_e(s, a_i)$$

    The second is never the larger: its candidate has to please all critics at once, where in the first each critic may
    choose its own.

    Args:
        q: `[E, *batch, N]`, critics first, candidates last; −∞ for a candidate that does not exist.
        order: `"max_then_min"`, the first formula (each critic takes its own maximum), or `"min_then_max"`, the second.

    Returns:
        `[*batch]`, in the input's dtype; 0 for a sample without candidates.

    Gradient:
        `q`, to the one value that is chosen; equals share it.

    Raises:
        ValueError: no critic, no candidate axis, an unknown order.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> q = torch.tensor([[[3.0, 1.0]], [[0.0, 2.0]]])
        >>> candidate_max_value(q), candidate_max_value(q, order="min_then_max")
        (tensor([2.]), tensor([1.]))

    Reference:
        Fujimoto, Meger and Precup, BCQ, arXiv:1812.02900, equation 13 (candidates from a behavior model); Kumar, Zhou,
        Tucker and Levine, CQL, arXiv:2006.04779, appendix F. Public code is split about the order: see
        [Lineage](../lineage/targets.md#candidate_max_value).
    """
    check_critics("candidate_max_value", last="candidate", q=q)
    check_option("candidate_max_value", "order", order, ("max_then_min", "min_then_max"))
    best = q.amax(-1).amin(0) if order == "max_then_min" else q.amin(0).amax(-1)
    return torch.where(best == -torch.inf, 0.0, best)


def _alive(
    tensor: Tensor,  # [*batch] or [*batch, N]
    terminated: Tensor,  # [*batch] or [*batch, 1]
) -> Tensor:
    """Zero, in value and gradient, behind a terminated step."""
    return torch.where(terminated, 0.0, upcast(tensor))


def _bootstrap(
    reward: Tensor,  # [*batch]
    value: Tensor,  # [*batch], 0 where terminated
    discount: Knob,  # [] or [*batch]
) -> Tensor:
    return upcast(reward) + times(discount, value)


def _check_step(function: str, reward: Tensor, terminated: Tensor, discount: Knob) -> None:
    check_flags(function, reward.shape, terminated=terminated)
    check_knob(function, "discount", discount, 0.0, 1.0, "[]", [reward.shape])


def _check_actions(function: str, reward: Tensor, **next_q: Tensor) -> None:
    check_values(function, reward=reward)
    for argument, q in next_q.items():
        check_axis(function, argument, q, "action")
        check_rows(function, **{argument: q}, reward=reward)
