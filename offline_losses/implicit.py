r"""Values of the best actions in the data, without asking for any other action.

Where $V(s)$ is fitted to $Q(s, a)$ over the data's actions, each of these losses has its minimizer above the mean, as
`expectile_loss` of `regression` has. The target is detached.
"""

from __future__ import annotations

import torch
from torch import Tensor

from offline_losses._core.checks import Knob, Reduction, check_float, check_knob, check_prediction, check_tail
from offline_losses._core.exponential import above_tangent, up_to
from offline_losses._core.public import public
from offline_losses._core.reduce import clamped, log_sigmoid, reduce, residual, select, times, upcast


@public
def gumbel_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    temperature: Knob = 1.0,
    max_exponent: Knob = 7.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Exponential where the prediction is too low, linear where it is too high: it rises to the soft maximum.

    $$\ell_T(u) = e^z - z - 1, \qquad z = \frac uT, \quad u = \text{target} - \text{prediction}$$

    The minimizer over constants is $T \log \operatorname{mean} e^{\text{target}/T}$, as long as no residual there
    exceeds `max_exponent` temperatures (else it is lower): the mean of the targets for a large temperature, their
    maximum for a small one. Beyond `max_exponent` the exponential goes on as its tangent: the gradient is at most
    $(e^{z_{\max}} - 1)/T$ and does not vanish. In extreme Q-learning $V(s)$ is fitted to $Q(s, a)$.

    Args:
        prediction: `[*batch]`, or `[E, *batch]` with critics first.
        target: `[*batch]`, or the prediction's shape.
        temperature: $T$, units of the target; positive. It divides.
        max_exponent: $z_{\max}$, where the exponential becomes a line; in (0, 50].
        mask: bool, shape of target or prediction; True where the element exists.
        weight: importance, shape of target or prediction; multiplies and never enters the denominator.
        reduction: `"mean"` over existing elements, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the prediction's shape for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `prediction`, and the knobs that are tensors; `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, a knob out of range, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> gumbel_loss(torch.zeros(3), torch.tensor([1.0, -1.0, 1000.0]), reduction="none")
        tensor([7.1828e-01, 3.6788e-01, 1.0891e+06])

    Reference:
        Garg, Hejna, Geist and Ermon, Extreme Q-Learning: MaxEnt RL without Entropy (XQL), arXiv:2301.02328. Others
        divide by the largest exponential of the batch: see [Lineage](../lineage/implicit.md#gumbel_loss).
    """
    check_prediction("gumbel_loss", prediction=prediction, target=target)
    check_tail("gumbel_loss", prediction.shape, target.shape, mask, weight, reduction, denominator)
    _check_exponent("gumbel_loss", temperature, max_exponent, [target.shape, prediction.shape])
    z, excess = up_to(residual(prediction, target, mask) / temperature, max_exponent)
    return reduce(above_tangent(z) + (z.exp() - 1) * excess, mask, weight, reduction, denominator)


@public
def exponential_value_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    temperature: Knob = 1.0,
    max_exponent: Knob = 5.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Pays for a high value, and exponentially for targets above it: the soft maximum again.

    $$\ell_T = e^z + \frac{\text{prediction}}T, \qquad z = \frac uT, \quad u = \text{target} - \text{prediction}$$

    It is `gumbel_loss` plus $1 + \text{target}/T$, which no prediction changes: the same minimizer over constants, as
    long as no residual there exceeds `max_exponent` temperatures. Then the weights of the policy, `awr_weights` of $u$
    at the same temperature and without a clip, have mean one there.

    Args:
        prediction: `[*batch]`, or `[E, *batch]` with critics first.
        target: `[*batch]`, or the prediction's shape.
        temperature: $T$, units of the target; positive. It divides.
        max_exponent: where the exponential becomes a line; in (0, 50].
        mask: bool, shape of target or prediction; True where the element exists.
        weight: importance, shape of target or prediction; multiplies and never enters the denominator.
        reduction: `"mean"` over existing elements, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the prediction's shape for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `prediction`, and the knobs that are tensors; `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, a knob out of range, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> exponential_value_loss(torch.zeros(2), torch.tensor([1.0, -1.0]), reduction="none")
        tensor([2.7183, 0.3679])

    Reference:
        Xu et al., Offline RL with No OOD Actions: In-Sample Learning via Implicit Value Regularization (EQL),
        arXiv:2303.15810. Their code differs: see [Lineage](../lineage/implicit.md#exponential_value_loss).
    """
    check_prediction("exponential_value_loss", prediction=prediction, target=target)
    check_tail("exponential_value_loss", prediction.shape, target.shape, mask, weight, reduction, denominator)
    _check_exponent("exponential_value_loss", temperature, max_exponent, [target.shape, prediction.shape])
    z, excess = up_to(residual(prediction, target, mask) / temperature, max_exponent)
    return reduce(z.exp() * (1 + excess) + _price(prediction, temperature, mask), mask, weight, reduction, denominator)


@public
def sparse_value_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    temperature: Knob = 1.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Pays for a high value, and quadratically for targets that are not far below it, which no longer count.

    $$\ell_T = \operatorname{relu}(t)^2 + \frac{\text{prediction}}T, \qquad
    t = 1 + \frac u{2T}, \quad u = \text{target} - \text{prediction}$$

    At the minimizer over constants the `sparse_weights`, $\operatorname{relu}(t)$, have mean one.

    Args:
        prediction: `[*batch]`, or `[E, *batch]` with critics first.
        target: `[*batch]`, or the prediction's shape.
        temperature: $T$, units of the target; positive. Targets more than $2T$ below the prediction do not count.
        mask: bool, shape of target or prediction; True where the element exists.
        weight: importance, shape of target or prediction; multiplies and never enters the denominator.
        reduction: `"mean"` over existing elements, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the prediction's shape for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `prediction`, and `temperature` if it is a tensor; `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, `temperature` not positive, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> sparse_value_loss(torch.zeros(3), torch.tensor([2.0, 0.0, -3.0]), reduction="none")
        tensor([4., 1., 0.])

    Reference:
        Xu et al., Offline RL with No OOD Actions (SQL, sparse Q-learning), arXiv:2303.15810.
    """
    check_prediction("sparse_value_loss", prediction=prediction, target=target)
    check_tail("sparse_value_loss", prediction.shape, target.shape, mask, weight, reduction, denominator)
    check_knob("sparse_value_loss", "temperature", temperature, 0.0, shapes=[target.shape, prediction.shape])
    t = (1 + residual(prediction, target, mask) / (2 * temperature)).relu()
    return reduce(t.square() + _price(prediction, temperature, mask), mask, weight, reduction, denominator)


@public
def sparse_weights(advantage: Tensor, *, temperature: Knob = 1.0) -> Tensor:
    r"""Linear weights that are zero for bad actions: the policy of `sparse_value_loss`.

    $$w = \operatorname{relu}\left( 1 + \frac A{2T} \right)$$

    Args:
        advantage: `[*batch]`, units of return.
        temperature: $T$, units of return; positive, that of the value. Actions worse than $-2T$ have weight zero.

    Returns:
        `[*batch]`, not negative, detached, in the input's dtype.

    Gradient:
        None: the weights are detached.

    Raises:
        ValueError: `temperature` not positive.
        TypeError: integer advantages.

    Examples:
        >>> import torch
        >>> sparse_weights(torch.tensor([-3.0, 0.0, 2.0]))
        tensor([0., 1., 2.])

    Reference:
        Xu et al., arXiv:2303.15810. Their code takes relu(A): see [Lineage](../lineage/implicit.md#sparse_weights).
    """
    check_float("sparse_weights", advantage=advantage)
    check_knob("sparse_weights", "temperature", temperature, 0.0, shapes=[advantage.shape])
    return (1 + upcast(advantage) / (2 * temperature)).relu().detach().to(advantage.dtype)


@public
def binary_expectile_loss(
    logits: Tensor,
    target: Tensor,
    *,
    expectile: Knob = 0.7,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Asymmetric cross-entropy of a value between 0 and 1; `expectile` above ½ pulls it towards the largest targets.

    $$\ell_e = \left| e - \mathbb 1[y < \sigma(x)] \right|
    \left( -y \log \sigma(x) - (1 - y) \log \sigma(-x) \right), \qquad x = \text{logits},\ y = \text{target}$$

    Its gradient $|e - \mathbb 1[y < \sigma(x)]|\,(\sigma(x) - y)$ vanishes over constants where $\sigma(x)$ is the
    expectile of the targets, as in `expectile_loss`; the loss itself jumps where $\sigma(x)$ passes a target.

    Args:
        logits: `[*batch]`, or `[E, *batch]` with critics first; the value is their sigmoid.
        target: `[*batch]`, or the shape of the logits; in [0, 1], which is not checked: clip it if necessary.
        expectile: the weight of targets above the value, in (0, 1); also a tensor of the logits' last axis or shape.
        mask: bool, shape of target or logits; True where the element exists.
        weight: importance, shape of target or logits; multiplies and never enters the denominator.
        reduction: `"mean"` over existing elements, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the shape of the logits for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `logits`, and `expectile` if it is a tensor; `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, `expectile` outside (0, 1), unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> binary_expectile_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), expectile=0.75, reduction="none")
        tensor([0.5199, 0.1733])

    Reference:
        Park et al., Transitive RL: Value Learning via Divide and Conquer, arXiv:2510.22512; Li, Park and Levine,
        Decoupled Q-Chunking (DQC), arXiv:2512.10926.
    """
    check_prediction("binary_expectile_loss", logits=logits, target=target)
    check_tail("binary_expectile_loss", logits.shape, target.shape, mask, weight, reduction, denominator)
    shapes = [logits.shape[-1:], target.shape, logits.shape]
    check_knob("binary_expectile_loss", "expectile", expectile, 0.0, 1.0, "()", shapes)
    x, y = select(mask, upcast(logits)), select(mask, upcast(target.detach()))
    cross_entropy = -times(y, log_sigmoid(x)) - times(1 - y, log_sigmoid(-x))
    return reduce((expectile - (y < x.sigmoid()).to(x)).abs() * cross_entropy, mask, weight, reduction, denominator)


def _check_exponent(function: str, temperature: Knob, max_exponent: Knob, shapes: list[torch.Size]) -> None:
    check_knob(function, "temperature", temperature, 0.0, shapes=shapes)
    check_knob(function, "max_exponent", max_exponent, 0.0, 50.0, "(]", shapes)  # float32 ends at e^88


def _price(prediction: Tensor, temperature: Knob, mask: Tensor | None) -> Tensor:
    """The prediction over T; a float at −∞, where the other term of the loss is ∞ and outweighs it."""
    price = select(mask, upcast(prediction)) / temperature
    return clamped(price, torch.finfo(price.dtype).min)
