r"""How far one state is from another, learned without rewards: by telling pairs apart, by pushing apart, by halves.

Three ways to the same thing, the value of a goal. A classifier of pairs knows how likely a state is to follow; a
quasimetric is as large as single steps allow; and what leads from a midpoint to the goal is worth the product.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    Reduction,
    check_axis,
    check_float,
    check_integers,
    check_knob,
    check_option,
    check_shape,
    check_tail,
    check_values,
)
from offline_losses._core.public import public
from offline_losses._core.reduce import exact, log_sigmoid, promoted, reduce, scalar, select, times, upcast
from offline_losses._core.sharded import beside
from offline_losses.entropic import soft_value


class QuasimetricLosses(NamedTuple):
    """The two terms of the distance, and the multiplier's own: minimize their sum with one optimizer, or with two."""

    push: Tensor
    penalty: Tensor
    dual: Tensor


@public
def contrastive_loss(
    logits: Tensor,
    positive: Tensor,
    *,
    form: Literal["binary", "balanced_binary", "infonce"] = "binary",
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Tell a state's own future goal from the goals of others: low where the own one has the largest logit.

    $$\begin{aligned}
    \text{binary} &\quad \frac1N \Big( -\log \sigma(f_p) - \sum_{j \ne p} \log \sigma(-f_j) \Big) \\
    \text{balanced\_binary} &\quad -\log \sigma(f_p) - \frac1{N - 1} \sum_{j \ne p} \log \sigma(-f_j) \\
    \text{infonce} &\quad \log \sum_j e^{f_j} - f_p
    \end{aligned}$$

    With the goals of the batch itself as candidates the logits are `[B, B]` and the positives `torch.arange(B)`. At the
    optimum $f$ is the logarithm of how much likelier the goal is after this state and action than at random: exactly so
    for `"balanced_binary"`; less $\log(N - 1)$ for `"binary"`, where one pair in $N$ is positive; and up to a number
    that depends on state and action alone for `"infonce"`.

    Args:
        logits: `[*batch, N]`, or `[E, *batch, N]` with critics first: of N goals; −∞ for one that does not exist.
        positive: int64 `[*batch]`, or with critics, the place of each sample's own goal among the N.
        form: one of the three.
        mask: bool, shape of positive, or of logits without the last axis; True where the sample exists. As a candidate
            of others it is taken out by a logit of −∞.
        weight: importance, likewise; multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples (and critics), `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the logits' shape without the last axis for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `logits`; `weight` is detached.

    Raises:
        ValueError: shapes that differ, no axis of goals, an unknown form or reduction.
        TypeError: not a tensor, integer logits, positives that are not int64, a mask that is not bool.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> contrastive_loss(logits, torch.arange(2), form="infonce")
        tensor(0.1269)

    Reference:
        Eysenbach, Zhang, Levine and Salakhutdinov, Contrastive Learning as Goal-Conditioned Reinforcement Learning,
        arXiv:2206.07568 (binary); van den Oord, Li and Vinyals, arXiv:1807.03748 (InfoNCE). Who weighs the positive
        how: see [Lineage](../lineage/reachability.md#contrastive_loss).
    """
    check_float("contrastive_loss", logits=logits)
    check_axis("contrastive_loss", "logits", logits, "goal")
    batch = logits.shape[:-1]
    check_integers("contrastive_loss", "logits without its last axis", batch, critics=True, positive=positive)
    check_tail("contrastive_loss", batch, positive.shape, mask, weight, reduction, denominator)
    check_option("contrastive_loss", "form", form, ("binary", "balanced_binary", "infonce"))
    f = select(None if mask is None else mask.unsqueeze(-1), upcast(logits))
    own = beside(torch.arange(f.shape[-1], device=f.device), f) == positive.unsqueeze(-1)
    if form == "infonce":
        loss = soft_value(f) - torch.where(own, f, 0.0).sum(-1)
    else:
        pairs = -log_sigmoid(torch.where(own, f, -f))
        count = (f != -torch.inf).sum(-1, keepdim=True).to(f.dtype)
        others = (count if form == "binary" else count - 1).clamp(min=1)
        loss = (pairs / (torch.where(own, 1.0, others) if form == "balanced_binary" else others)).sum(-1)
    return reduce(loss, mask, weight, reduction, denominator)


@public
def quasimetric_losses(
    push_distance: Tensor,
    step_distance: Tensor,
    log_multiplier: Tensor,
    *,
    step_cost: Knob = 1.0,
    tolerance: Knob = 0.25,
    offset: Knob = 15.0,
    temperature: Knob = 10.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> QuasimetricLosses:
    r"""Push states apart as far as single steps allow (QRL): then a quasimetric is the cost of the shortest path.

    $$\begin{aligned}
    \text{push} &= T \log\left( 1 + e^{(c - d(s, g)) / T} \right) \\
    \text{penalty} &= \text{sg}(\lambda)\, x, \qquad \text{dual} = -\lambda\,\text{sg}(x) \\
    x &= \max(0,\ d(s, s') - \text{cost})^2 - \epsilon^2
    \end{aligned}$$

    The push is smaller where the distance is larger, and fades out beyond $c$: set $c$ above the distances that occur,
    or far states are left where they are. A quasimetric is a network with the triangle inequality built in; a plain one
    would be pushed up everywhere and learn nothing. The three terms share no gradient and may be summed.

    Args:
        push_distance: `[*batch]`, $d(s, g) \ge 0$ of a state and a random goal.
        step_distance: `[*batch]`, $d(s, s')$ of a state and its next.
        log_multiplier: 0-d, $\log \lambda$, the dual variable.
        step_cost: what a step costs, or a tensor `[*batch]` of minus the rewards.
        tolerance: $\epsilon \ge 0$, units of distance: by how much a step may be too long, as root mean square.
        offset: $c$, units of distance.
        temperature: $T$, units of distance; positive: over how much the push fades out.
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        `QuasimetricLosses(push, penalty, dual)`, each 0-d, or `[*batch]` for `"none"`; float32, or float64 for float64
        input.

    Gradient:
        `push` to `push_distance` (and `offset`, `temperature` if they are tensors); `penalty` to `step_distance` (and
        `step_cost`, `tolerance`); `dual` to `log_multiplier`. `weight` is detached.

    Raises:
        ValueError: shapes that differ, a knob out of range, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> quasimetric_losses(torch.tensor([15.0]), torch.tensor([2.0]), torch.tensor(0.0))
        QuasimetricLosses(push=tensor(6.9315), penalty=tensor(0.9375), dual=tensor(-0.9375))

    Reference:
        Wang, Torralba, Isola and Zhang, Optimal Goal-Reaching Reinforcement Learning via Quasimetric Learning,
        arXiv:2304.01203, section 3. Tolerances and multipliers mean two things: see
        [Lineage](../lineage/reachability.md#quasimetric_losses).
    """
    name = "quasimetric_losses"
    check_values(name, push_distance=push_distance, step_distance=step_distance)
    check_float(name, log_multiplier=log_multiplier)
    check_shape(name, "a scalar", torch.Size(()), log_multiplier=log_multiplier)
    check_tail(name, push_distance.shape, push_distance.shape, mask, weight, reduction, denominator)
    shapes = [push_distance.shape]
    check_knob(name, "step_cost", step_cost, 0.0, bounds="[)", shapes=shapes)
    check_knob(name, "tolerance", tolerance, 0.0, bounds="[)", shapes=shapes)
    check_knob(name, "offset", offset, -torch.inf, shapes=shapes)
    check_knob(name, "temperature", temperature, 0.0, shapes=shapes)
    push = -temperature * log_sigmoid((select(mask, upcast(push_distance)) - offset) / temperature)
    too_long = select(mask, upcast(step_distance) - step_cost).relu()
    excess, multiplier = too_long.square() - tolerance**2, upcast(log_multiplier).exp()
    return QuasimetricLosses(
        push=reduce(push, mask, weight, reduction, denominator),
        penalty=reduce(multiplier.detach() * excess, mask, weight, reduction, denominator),
        dual=reduce(-multiplier * excess.detach(), mask, weight, reduction, denominator),
    )


@public
def transitive_target(
    first_value: Tensor, second_value: Tensor, first_steps: Tensor, second_steps: Tensor, *, discount: Knob = 0.99
) -> Tensor:
    r"""Value of a goal by way of a midpoint: the product of the values of both halves, each known where it is one step.

    $$y = \hat Q(s_i, s_k)\,\hat Q(s_k, s_j), \qquad
    \hat Q = \begin{cases} \gamma^n & n \le 1 \\ \bar Q & n > 1 \end{cases}$$

    A value of $\gamma^n$ at $n$ steps multiplies along a path, so that $\log T$ updates reach as far as $T$ of the
    Bellman equation. Regress to it with `binary_expectile_loss`, whose weight may be `transitive_weights`.

    Args:
        first_value: `[*batch]` or `[E, *batch]`, slow copy's $\bar Q(s_i, a_i, s_k)$, in [0, 1].
        second_value: the same shape, $\bar Q(s_k, a_k, s_j)$.
        first_steps: int64 `[*batch]`, steps from $i$ to $k$ in the data.
        second_steps: int64 `[*batch]`, steps from $k$ to $j$.
        discount: $\gamma$ in [0, 1].

    Returns:
        The shape of the values, in their common dtype.

    Gradient:
        Both values where they are used, and `discount` if it is a tensor.

    Raises:
        ValueError: shapes that differ, `discount` out of range.
        TypeError: not a tensor, integer values, steps that are not int64.

    Examples:
        >>> import torch
        >>> half, steps = torch.tensor([0.5, 0.5]), torch.tensor([3, 1])
        >>> transitive_target(half, half, steps, steps + 1, discount=0.9)
        tensor([0.2500, 0.4500])

    Reference:
        Park et al., Transitive RL: Value Learning via Divide and Conquer, arXiv:2510.22512.
    """
    check_values("transitive_target", first_value=first_value, second_value=second_value)
    steps = {"first_steps": first_steps, "second_steps": second_steps}
    check_integers("transitive_target", "first_value", first_value.shape, critics=True, **steps)
    check_integers("transitive_target", "first_steps", first_steps.shape, second_steps=second_steps)
    check_knob("transitive_target", "discount", discount, 0.0, 1.0, "[]", [first_steps.shape, first_value.shape])
    one_step = scalar(discount, upcast(first_value))
    first = torch.where(first_steps > 1, upcast(first_value), torch.where(first_steps == 1, one_step, 1.0))
    second = torch.where(second_steps > 1, upcast(second_value), torch.where(second_steps == 1, one_step, 1.0))
    return (first * second).to(promoted(first_value, second_value))


@public
def transitive_weights(target: Tensor, *, discount: Knob = 0.99, exponent: Knob = 1.0) -> Tensor:
    r"""Weights that fall with the distance a target stands for: near goals are learned first, far ones build on them.

    $$w = \left( 1 + \log_\gamma y \right)^{-\lambda}$$

    Args:
        target: `[*batch]` or `[E, *batch]`, values in [0, 1] as from `transitive_target`.
        discount: $\gamma$ in (0, 1), which turns a value into a number of steps, $\log_\gamma y$.
        exponent: $\lambda \ge 0$; 0 weighs all alike.

    Returns:
        The target's shape and dtype, in [0, 1]; 0 for a target of 0, unless the exponent is 0.

    Gradient:
        None: weights are detached.

    Raises:
        ValueError: a knob out of range.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> transitive_weights(torch.tensor([1.0, 0.9, 0.9**3]), discount=0.9)
        tensor([1.0000, 0.5000, 0.2500])

    Reference:
        Park et al., Transitive RL: Value Learning via Divide and Conquer, arXiv:2510.22512.
    """
    check_float("transitive_weights", target=target)
    check_knob("transitive_weights", "discount", discount, 0.0, 1.0, shapes=[target.shape])
    check_knob("transitive_weights", "exponent", exponent, 0.0, bounds="[)", shapes=[target.shape])
    y = upcast(target)
    steps = (y.log() / exact(discount, y.device).log()).clamp(min=0.0)
    return torch.exp(-times(exponent, torch.log1p(steps))).detach().to(target.dtype)
