r"""Policies that carry noise to actions along a flow: time runs from 0, the noise, to 1, the action.

A velocity $v$ moves points, $\dot x_t = v(x_t, t)$: what starts at a draw of noise at time 0 arrives at an action at
time 1. Much code for robots runs the other way, with the action at 0 and the noise at 1: its time is `1 - time`, its
velocity minus ours. Noise and times are arguments; nothing is drawn here.
"""

from __future__ import annotations

from torch import Tensor

from offline_losses._core.checks import Knob, Reduction, check_actions, check_knob, check_tail
from offline_losses._core.public import public
from offline_losses._core.reduce import promoted, reduce, select, select_rows, times, upcast


@public
def flow_point(noise: Tensor, action: Tensor, time: Tensor) -> Tensor:
    r"""Point on the line from the noise, at time 0, to the action, at time 1; for the opposite time pass `1 - time`.

    $$x_t = (1 - t)\,z + t\,a$$

    Args:
        noise: `[*batch, A]`, $z$, drawn from a standard normal distribution as a rule.
        action: `[*batch, A]`, $a$.
        time: `[*batch]` in [0, 1], one for each sample; for a chunk of actions `[B, H, A]` with one time for the whole
            chunk, `time[:, None].expand(B, H)`.

    Returns:
        `[*batch, A]`, in the input's dtype.

    Gradient:
        `noise`, `action` and `time`.

    Raises:
        ValueError: shapes that differ, no action axis.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> flow_point(torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([0.0, 0.75])).squeeze(-1)
        tensor([0.0000, 0.7500])

    Reference:
        Lipman et al., Flow Matching for Generative Modeling, arXiv:2210.02747; Liu, Gong and Liu, Rectified Flow,
        arXiv:2209.03003 (this line). openpi and LeRobot count time from the action to the noise: see
        [Lineage](../lineage/flow.md#flow_point).
    """
    check_actions("flow_point", {"time": time}, noise=noise, action=action)
    t = upcast(time).unsqueeze(-1)
    return ((1 - t) * upcast(noise) + t * upcast(action)).to(promoted(noise, action, time))


@public
def flow_matching_loss(
    velocity: Tensor,
    noise: Tensor,
    action: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Squared error of a velocity from noise, time 0, to the action, time 1; for the opposite time pass minus it.

    $$\frac1A \sum_d \left( v_d(x_t, t, s) - (a_d - z_d) \right)^2$$

    The line from $z$ to $a$ has one velocity, $a - z$, at all times. Many lines pass through a point, and what is
    learned there is the mean of their velocities, whose flow carries the noise to the distribution of the data. With
    `awr_weights` as `weight` it is weighted flow matching: the flow of the better actions.

    Args:
        velocity: `[*batch, A]`, the network's output at `flow_point(noise, action, time)`.
        noise: `[*batch, A]`, $z$, the same as in that point.
        action: `[*batch, A]`, $a$, the data's action.
        mask: bool `[*batch]`, True where the sample exists; padding of an action chunk belongs here.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `velocity`, `noise` and `action`; `weight` is detached.

    Raises:
        ValueError: shapes that differ, no action axis, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> noise, action = torch.zeros(2, 3), torch.ones(2, 3)
        >>> flow_matching_loss(torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 4.0]]), noise, action, reduction="none")
        tensor([0., 3.])

    Reference:
        Park, Li and Levine, Flow Q-Learning, arXiv:2502.02538; Lipman et al., Flow Matching for Generative Modeling,
        arXiv:2210.02747. Mean over action dimensions, as in FQL's code; times A it is the squared norm: see
        [Lineage](../lineage/flow.md#flow_matching_loss).
    """
    check_actions("flow_matching_loss", velocity=velocity, noise=noise, action=action)
    check_tail("flow_matching_loss", velocity.shape[:-1], velocity.shape[:-1], mask, weight, reduction, denominator)
    error = select_rows(mask, upcast(velocity) - (upcast(action) - upcast(noise)))
    return reduce(error.square().mean(-1), mask, weight, reduction, denominator)


@public
def distillation_loss(
    policy_action: Tensor,
    target: Tensor,
    q: Tensor,
    *,
    distillation_weight: Knob = 10.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Climb the critic while landing, in one step, where a flow carries the same noise (from time 0 to 1 or back).

    $$\frac{\alpha}{A} \sum_d \left( \mu_d(s, z) - \bar a_d \right)^2 - Q(s, \mu(s, z)), \qquad
    \bar a = z + \int_0^1 v(x_t, t, s)\,dt$$

    The critic never differentiates through the steps of the flow, and acting takes one step. A larger $\alpha$ stays
    nearer to the data. The distance is taken **before** an action is clipped to its range, the value **after**:
    `q = critic(s, policy_action.clamp(-1, 1))`, so that what lies outside still has a way back.

    Args:
        policy_action: `[*batch, A]`, $\mu(s, z)$, not clipped.
        target: `[*batch, A]`, $\bar a$, where the flow ends that starts at the same noise; only its end counts, so the
            direction of its time does not matter.
        q: `[*batch]`, of the policy's action, critics reduced.
        distillation_weight: $\alpha$, units of Q for one unit of squared distance; at least 0.
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `policy_action`, `q`, and `distillation_weight` if it is a tensor; `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, no action axis, a negative knob, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> distillation_loss(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([3.0]), distillation_weight=2.0)
        tensor(-1.)

    Reference:
        Park, Li and Levine, Flow Q-Learning (FQL), arXiv:2502.02538. Blind to the scale of Q with
        `q / q.abs().mean().detach()` as `q`: see [Lineage](../lineage/flow.md#distillation_loss).
    """
    check_actions("distillation_loss", {"q": q}, policy_action=policy_action, target=target)
    check_tail("distillation_loss", q.shape, q.shape, mask, weight, reduction, denominator)
    check_knob("distillation_loss", "distillation_weight", distillation_weight, 0.0, bounds="[)", shapes=[q.shape])
    error = select_rows(mask, upcast(policy_action) - upcast(target.detach()))
    loss = times(distillation_weight, error.square().mean(-1)) - select(mask, upcast(q))
    return reduce(loss, mask, weight, reduction, denominator)
