r"""Policies and critics that pay for leaving the behavior in the data, beside a critic that is blind to its own scale.

Q enters a policy's loss over the mean of its absolute value in the batch, a constant for the gradient. The weight of
the imitation stands in front of the imitation: a larger one stays nearer to the data.
"""

from __future__ import annotations

from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    Reduction,
    check_axis,
    check_flags,
    check_float,
    check_knob,
    check_rows,
    check_tail,
    check_values,
)
from offline_losses._core.public import public
from offline_losses._core.reduce import check_size, mean_size, reduce, select, summed, times, upcast
from offline_losses.targets import bellman_target


@public
def ddpg_bc_loss(
    q: Tensor,
    log_prob: Tensor,
    *,
    bc_weight: Knob = 1.0,
    epsilon: Knob = 1e-6,
    normalizer: Knob | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Climb the critic while keeping the data's actions likely (DDPG+BC); a larger `bc_weight` imitates more.

    $$-\frac{Q(s, a_\pi)}{\text{mean} |Q|} - \alpha \log \pi(a \mid s)$$

    Args:
        q: `[*batch]`, of the policy's own action, reparameterized; critics reduced.
        log_prob: `[*batch]`, $\log \pi(a \mid s)$ of the data's action.
        bc_weight: $\alpha \ge 0$.
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
        `q`, `log_prob`, and `bc_weight` if it is a tensor; `weight` and the normalizer are detached.

    Raises:
        ValueError: shapes that differ, a knob out of range, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> ddpg_bc_loss(torch.tensor([2.0, -2.0]), torch.tensor([-1.0, -3.0]), reduction="none")
        tensor([0., 4.])

    Reference:
        Park, Frans, Levine and Kumar, Is Value Learning Really the Main Bottleneck in Offline RL?, arXiv:2406.09329
        (policy extraction by DDPG+BC); Fujimoto and Gu, TD3+BC, arXiv:2106.06860, equation 5 (the normalizer).
    """
    check_values("ddpg_bc_loss", q=q, log_prob=log_prob)
    check_tail("ddpg_bc_loss", q.shape, q.shape, mask, weight, reduction, denominator)
    check_knob("ddpg_bc_loss", "bc_weight", bc_weight, 0.0, bounds="[)", shapes=[q.shape])
    check_size("ddpg_bc_loss", epsilon, normalizer, q.shape)
    value, imitation = select(mask, upcast(q)), select(mask, upcast(log_prob))
    loss = -value / mean_size(value, mask, epsilon, normalizer) - times(bc_weight, imitation)
    return reduce(loss, mask, weight, reduction, denominator)


@public
def rebrac_policy_loss(
    q: Tensor,
    policy_action: Tensor,
    data_action: Tensor,
    *,
    bc_weight: Knob = 0.01,
    epsilon: Knob = 1e-6,
    normalizer: Knob | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Climb the critics while staying near the data's action (ReBRAC); a larger `bc_weight` stays nearer.

    $$\beta_1 \sum_d \left( \pi_d(s) - a_d \right)^2 - \frac{Q(s, \pi(s))}{\text{mean} |Q|}$$

    It is `td3_bc_loss` with the weight on the other term, and with a sum over action dimensions, so that the same
    weight holds a policy of many dimensions more firmly. `rebrac_target` makes the critics pay too.

    Args:
        q: `[*batch]`, $Q(s, \pi(s))$, of the smaller critic.
        policy_action: `[*batch, A]`, $\pi(s)$.
        data_action: `[*batch, A]`, the data's action.
        bc_weight: $\beta_1 \ge 0$.
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
        `q`, `policy_action`, `data_action`, and `bc_weight` if it is a tensor; `weight` and the normalizer are
        detached.

    Raises:
        ValueError: shapes that differ, a knob out of range, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> q, action = torch.tensor([2.0, -2.0]), torch.zeros(2, 3)
        >>> rebrac_policy_loss(q, action, action + 1, bc_weight=1.0, reduction="none")
        tensor([2., 4.])

    Reference:
        Tarasov, Kurenkov, Nikulin and Kolesnikov, Revisiting the Minimalist Approach to Offline Reinforcement Learning
        (ReBRAC), arXiv:2305.09836 (decoupled penalization).
    """
    check_values("rebrac_policy_loss", policy_action=policy_action, data_action=data_action)
    check_axis("rebrac_policy_loss", "policy_action", policy_action, "dimension")
    check_float("rebrac_policy_loss", q=q)
    check_rows("rebrac_policy_loss", policy_action=policy_action, q=q)
    check_tail("rebrac_policy_loss", q.shape, q.shape, mask, weight, reduction, denominator)
    check_knob("rebrac_policy_loss", "bc_weight", bc_weight, 0.0, bounds="[)", shapes=[q.shape])
    check_size("rebrac_policy_loss", epsilon, normalizer, q.shape)
    value = select(mask, upcast(q))
    distance = _squared_distance(policy_action, data_action, mask)
    loss = times(bc_weight, distance) - value / mean_size(value, mask, epsilon, normalizer)
    return reduce(loss, mask, weight, reduction, denominator)


@public
def rebrac_target(
    reward: Tensor,
    next_value: Tensor,
    next_policy_action: Tensor,
    next_data_action: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    bc_weight: Knob = 0.01,
    discount: Knob = 0.99,
) -> Tensor:
    r"""Bellman target less the distance of the policy's next action from the one that the data took there (ReBRAC).

    $$y = r + \gamma\,(1 - \text{terminated}) \left( Q(s', a') - \beta_2\,(1 - \text{done}) \sum_d \left( a'_d -
    \hat a'_d \right)^2 \right)$$

    The next action of the data, $\hat a'$, is that of the following row only within an episode: where one is done, the
    next row belongs to another, and nothing is subtracted. `action.roll(-1, 0)` of flat data is therefore right.

    Args:
        reward: `[*batch]`.
        next_value: `[*batch]`, $Q(s', a')$ of the slow critics, the smaller one.
        next_policy_action: `[*batch, A]`, $a'$, of the slow policy, with its noise (`smoothed_action`).
        next_data_action: `[*batch, A]`, $\hat a'$; where the episode is done anything, NaN included.
        terminated: bool `[*batch]`, True where the environment ended: no next value.
        done: bool `[*batch]`, True where the episode ended, also if it was truncated: no next action of the data. Where
            that was recorded too, pass `terminated` again.
        bc_weight: $\beta_2 \ge 0$; 0 gives `bellman_target`.
        discount: $\gamma$ in [0, 1], or a tensor of the reward's shape.

    Returns:
        `[*batch]`, float32 or wider.

    Gradient:
        `reward`, `next_value`, `next_policy_action`, `next_data_action`, and `bc_weight` and `discount` if they are
        tensors.

    Raises:
        ValueError: shapes that differ, a knob out of range.
        TypeError: not a tensor, integer rewards, a flag that is not bool.

    Examples:
        >>> import torch
        >>> one, far, no = torch.ones(2), torch.full((2, 1), 2.0), torch.tensor([False, False])
        >>> rebrac_target(one, one, far, 0 * far, no, torch.tensor([False, True]), bc_weight=0.5, discount=0.5)
        tensor([0.5000, 1.5000])

    Reference:
        Tarasov, Kurenkov, Nikulin and Kolesnikov, Revisiting the Minimalist Approach to Offline Reinforcement Learning
        (ReBRAC), arXiv:2305.09836 (decoupled penalization). Some take the first action of the next episode:
        see [Lineage](../lineage/behavior.md#rebrac_target).
    """
    check_values("rebrac_target", reward=reward, next_value=next_value)
    check_values("rebrac_target", next_policy_action=next_policy_action, next_data_action=next_data_action)
    check_axis("rebrac_target", "next_policy_action", next_policy_action, "dimension")
    check_rows("rebrac_target", next_policy_action=next_policy_action, reward=reward)
    check_flags("rebrac_target", reward.shape, terminated=terminated, done=done)
    check_knob("rebrac_target", "bc_weight", bc_weight, 0.0, bounds="[)", shapes=[reward.shape])
    check_knob("rebrac_target", "discount", discount, 0.0, 1.0, "[]", [reward.shape])
    distance = _squared_distance(next_policy_action, next_data_action, ~(terminated | done))
    target = bellman_target(reward, upcast(next_value) - times(bc_weight, distance), terminated, discount=discount)
    return target.to(summed(reward, next_value, next_policy_action, next_data_action))


def _squared_distance(
    one: Tensor,  # [*batch, A]
    other: Tensor,  # [*batch, A]
    exists: Tensor | None,  # [*batch]
) -> Tensor:
    rows = None if exists is None else exists.unsqueeze(-1)
    return select(rows, upcast(one) - upcast(other)).square().sum(-1)
