r"""Critics that carry noise to returns along a flow: time runs from 0, the noise, to 1, the return.

Their points are those of `flow_point`, with a return in place of the action. Where every draw of noise has a return of
its own, the flow learns the distribution of returns; where all have the same, it is a value that is computed in many
steps. The loss on points that were carried from the next state, of which value flows have one more, is `squared_loss`
with the slow copy's velocity there as its target, and `bellman_target(reward, x, terminated)` as the point.
"""

from __future__ import annotations

from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    Reduction,
    check_axis,
    check_float,
    check_prediction,
    check_rows,
    check_tail,
)
from offline_losses._core.public import public
from offline_losses._core.reduce import reduce, select, select_rows, upcast


@public
def value_flow_loss(
    prediction: Tensor,
    noise: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Squared error of a velocity from noise, time 0, to a return, time 1; for the opposite time pass minus it.

    $$\left( v(x_t, t, s, a) - (R - z) \right)^2, \qquad x_t = (1 - t)\,z + t R$$

    The flow learns the distribution of returns: with $R$ the reward plus the discounted return to which a slow copy
    carries the same noise at the next state and action, it is distributional temporal-difference learning. The mean of
    the returns to which draws of noise are carried is Q; one step from time 0, $z + v(z, 0, s, a)$, has that mean too.

    Args:
        prediction: `[*batch]`, or `[E, *batch]` with critics first: the velocity at $x_t$.
        noise: `[*batch]`, $z$, the same as in that point.
        target: `[*batch]`, one return $R$ for each draw of noise, `bellman_target(reward, next_return, terminated)`.
        mask: bool, shape of target or prediction; True where the sample exists.
        weight: importance, likewise; multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples (and critics), `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the prediction's shape for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `prediction` and `noise`; `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> value_flow_loss(torch.tensor([5.0, 0.0]), torch.tensor([-1.0, 1.0]), torch.tensor([4.0, 4.0]))
        tensor(4.5000)

    Reference:
        Dong, Zheng and Eysenbach, Value Flows, arXiv:2510.07650 (the bootstrapped conditional flow matching loss): see
        [Lineage](../lineage/value_flow.md#value_flow_loss).
    """
    check_prediction("value_flow_loss", prediction=prediction, noise=noise)
    check_prediction("value_flow_loss", prediction=prediction, target=target)
    check_tail("value_flow_loss", prediction.shape, noise.shape, mask, weight, reduction, denominator)
    error = select(mask, upcast(prediction) - (upcast(target.detach()) - upcast(noise)))
    return reduce(error.square(), mask, weight, reduction, denominator)


@public
def floq_loss(
    prediction: Tensor,
    noise: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Squared error of a velocity from noise, time 0, to one value, time 1; for the opposite time pass minus it.

    $$\frac1N \sum_{i=1}^N \left( v(x_i, t_i, s, a) - (y - z_i) \right)^2, \qquad x_i = (1 - t_i)\,z_i + t_i\,y$$

    All draws of noise have the same target, so what is learned is a value and not a distribution: the gain is a critic
    of many steps, each of which is told its velocity. Q is where a draw of noise is carried. The noise is uniform on a
    range that should hold the returns.

    Args:
        prediction: `[*batch, N]`, or `[E, *batch, N]` with critics first: the velocity at N points.
        noise: `[*batch, N]`, $z_i$, the same as in these points.
        target: `[*batch]`, $y$, a Bellman target.
        mask: bool, shape of target or of prediction without its last axis; True where the sample exists.
        weight: importance, likewise; multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples (and critics), `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the prediction's shape without its last axis for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `prediction` and `noise`; `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, no axis of noises, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> noise = torch.tensor([[-1.0, 1.0]])
        >>> floq_loss(torch.tensor([[5.0, 0.0]]), noise, torch.tensor([4.0]), reduction="none")
        tensor([4.5000])

    Reference:
        Agrawalla, Nauman, Agrawal and Kumar, floq: Training Critics via Flow-Matching for Scaling Compute in
        Value-Based RL, arXiv:2509.06863. Mean over the noises; their code sums: see
        [Lineage](../lineage/value_flow.md#floq_loss).
    """
    check_prediction("floq_loss", prediction=prediction, noise=noise)
    check_axis("floq_loss", "noise", noise, "draw")
    check_float("floq_loss", target=target)
    check_rows("floq_loss", noise=noise, target=target)
    check_tail("floq_loss", prediction.shape[:-1], target.shape, mask, weight, reduction, denominator)
    error = select_rows(mask, upcast(prediction) - (upcast(target.detach()).unsqueeze(-1) - upcast(noise)))
    return reduce(error.square().mean(-1), mask, weight, reduction, denominator)
