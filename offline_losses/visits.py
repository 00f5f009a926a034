r"""Values whose errors tell how often a given policy visits a step for each time that the data do: DICE.

Each loss has a term of first states, $(1 - \gamma)\, \nu(s_0, a_0)$, and a convex function of the error of each of the
data's steps. At the minimum the slope of that function is the ratio $d^\pi(s, a) / d^{\mathcal D}(s, a)$ of discounted
visits. So the gradient goes through the next value as through the value; draw as many first states as steps. Where the
environment is random, one next state in place of the mean over them makes the convex function too large.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from offline_losses._core.checks import Knob, Reduction, check_flags, check_knob, check_tail, check_values
from offline_losses._core.exponential import power
from offline_losses._core.public import public
from offline_losses._core.reduce import reduce, select, times, upcast
from offline_losses.recurrence import td_error


@public
def dual_dice_loss(
    value: Tensor,
    next_value: Tensor,
    initial_value: Tensor,
    terminated: Tensor,
    *,
    exponent: Knob = 1.5,
    discount: Knob = 0.99,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""At its minimum, what a value loses over a step tells how much oftener the policy visits it than the data do.

    $$\frac{|\delta|^p}{p} - (1 - \gamma)\, \nu(s_0, a_0), \qquad \delta = \nu(s, a) - \gamma\, \nu(s', a'), \qquad
    \frac{d^\pi}{d^{\mathcal D}} = |\delta|^{p - 1} \operatorname{sign} \delta$$

    with $a' \sim \pi(\cdot \mid s')$, $a_0 \sim \pi(\cdot \mid s_0)$ and $\nu(s', a') = 0$ where terminated. No reward
    is read: the mean of rewards times the ratio is the policy's value per step, $(1 - \gamma)$ times its return.

    Args:
        value: `[*batch]`, $\nu(s, a)$ of the data's steps.
        next_value: `[*batch]`, $\nu(s', a')$ at the policy's next action, or its mean over actions.
        initial_value: `[*batch]`, $\nu(s_0, a_0)$ at the policy's action in first states.
        terminated: bool `[*batch]`, True where the environment ended.
        exponent: $p$, above 1.
        discount: $\gamma$ in [0, 1].
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `value`, `next_value`, `initial_value`, and the knobs that are tensors; `weight` is detached.

    Raises:
        ValueError: shapes that differ, a knob out of range, unknown reduction.
        TypeError: not a tensor, integer values, flags or a mask that are not bool.

    Examples:
        >>> import torch
        >>> one, end = torch.ones(1), torch.tensor([True])
        >>> dual_dice_loss(4 * one, one, one, end, discount=0.5)
        tensor(4.8333)

    Reference:
        Nachum, Chow, Dai and Li, DualDICE, arXiv:1906.04733: see [Lineage](../lineage/visits.md#dual_dice_loss).
    """
    values = {"value": value, "next_value": next_value, "initial_value": initial_value}
    check_branches("dual_dice_loss", values, terminated, discount, mask, weight, reduction, denominator)
    check_knob("dual_dice_loss", "exponent", exponent, 1.0, shapes=[value.shape])
    first, error = terms({**values, "reward": value.new_zeros(value.shape)}, terminated, discount, mask)
    return reduce(power(error, exponent) - first, mask, weight, reduction, denominator)


@public
def algae_dice_loss(
    value: Tensor,
    next_value: Tensor,
    initial_value: Tensor,
    reward: Tensor,
    terminated: Tensor,
    *,
    exponent: Knob = 2.0,
    temperature: Knob = 1.0,
    discount: Knob = 0.99,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Minimized over the critic it is what a policy earns per step, less a price for leaving the data; maximize that.

    $$(1 - \gamma)\, \nu(s_0, a_0) + \frac T p \left| \frac e T \right|^p, \qquad
    e = r + \gamma\, \nu(s', a') - \nu(s, a), \qquad
    \frac{d^\pi}{d^{\mathcal D}} = \left| \frac e T \right|^{p - 1} \operatorname{sign} e$$

    with $a' \sim \pi(\cdot \mid s')$, $a_0 \sim \pi(\cdot \mid s_0)$ and $\nu(s', a') = 0$ where terminated. The critic
    minimizes it; the policy, with the critic held fixed, maximizes it through $\nu(s', a')$ and $\nu(s_0, a_0)$.

    Args:
        value: `[*batch]`, $\nu(s, a)$ of the data's steps.
        next_value: `[*batch]`, $\nu(s', a')$ at the policy's next action.
        initial_value: `[*batch]`, $\nu(s_0, a_0)$ at the policy's action in first states.
        reward: `[*batch]`.
        terminated: bool `[*batch]`, True where the environment ended.
        exponent: $p$, above 1.
        temperature: $T$, units of reward; positive. The price of a unit of divergence.
        discount: $\gamma$ in [0, 1].
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        All values, `reward`, and the knobs that are tensors; `weight` is detached.

    Raises:
        ValueError: shapes that differ, a knob out of range, unknown reduction.
        TypeError: not a tensor, integer values, flags or a mask that are not bool.

    Examples:
        >>> import torch
        >>> one, end = torch.ones(1), torch.tensor([True])
        >>> algae_dice_loss(4 * one, one, one, one, end, temperature=3.0, discount=0.5)
        tensor(2.)

    Reference:
        Nachum et al., AlgaeDICE, arXiv:1912.02074: see [Lineage](../lineage/visits.md#algae_dice_loss).
    """
    values = {"value": value, "next_value": next_value, "initial_value": initial_value, "reward": reward}
    check_branches("algae_dice_loss", values, terminated, discount, mask, weight, reduction, denominator)
    check_knob("algae_dice_loss", "exponent", exponent, 1.0, shapes=[value.shape])
    check_knob("algae_dice_loss", "temperature", temperature, 0.0, shapes=[value.shape])
    first, error = terms(values, terminated, discount, mask)
    return reduce(first + temperature * power(error / temperature, exponent), mask, weight, reduction, denominator)


def check_branches(function: str, values: dict[str, Tensor], terminated: Tensor, discount: Knob, *tail: Any) -> None:
    check_values(function, **values)
    check_flags(function, values["value"].shape, terminated=terminated)
    check_knob(function, "discount", discount, 0.0, 1.0, "[]", [terminated.shape])
    check_tail(function, terminated.shape, terminated.shape, *tail)


def terms(values: dict[str, Tensor], terminated: Tensor, discount: Knob, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """What first states add, and the error of each step."""
    v, following, first, r = (select(mask, upcast(x)) for x in values.values())
    return times(1 - discount, first), td_error(r, v, following, terminated, discount)
