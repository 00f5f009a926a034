r"""Penalties of a residual: how far a prediction may stray from its target, and in which direction.

Everything here is a function of $u = \text{target} - \text{prediction}$. Positive $u$ means that the prediction is too
low; an asymmetric penalty that punishes positive $u$ more is optimistic. The target is detached.
"""

from __future__ import annotations

from torch import Tensor, minimum

from offline_losses._core.checks import Knob, Reduction, check_knob, check_prediction, check_tail
from offline_losses._core.public import public
from offline_losses._core.reduce import reduce, residual, scalar


@public
def squared_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Squared residual, whose minimizer over constants is the mean of the targets.

    $$\ell(u) = u^2, \qquad u = \text{target} - \text{prediction}$$

    There is no factor ½. With critics on a leading axis the mean runs over them too: multiply by their number for the
    sum over critics that several implementations use.

    Args:
        prediction: `[*batch]`, or `[E, *batch]` with critics first.
        target: `[*batch]`, or the prediction's shape.
        mask: bool, shape of target or prediction; True where the element exists.
        weight: importance, shape of target or prediction; multiplies and never enters the denominator.
        reduction: `"mean"` over existing elements, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the prediction's shape for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `prediction` only; `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> squared_loss(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0]))
        tensor(2.)

    Reference:
        Ernst, Geurts and Wehenkel, Tree-Based Batch Mode Reinforcement Learning, JMLR 6, 2005, section 3 (fitted Q
        iteration, FQI: least squares on a fixed target, as in the critics of SAC, TD3+BC, CQL and IQL).
    """
    check_prediction("squared_loss", prediction=prediction, target=target)
    check_tail("squared_loss", prediction.shape, target.shape, mask, weight, reduction, denominator)
    u = residual(prediction, target, mask)
    return reduce(u.square(), mask, weight, reduction, denominator)


@public
def huber_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    delta: Knob = 1.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Squared for small residuals and linear for large ones, so that outliers pull with bounded force.

    $$\ell_\delta(u) = \begin{cases} \tfrac12 u^2 & |u| \le \delta \\ \delta\,(|u| - \tfrac12\delta) & |u| > \delta
    \end{cases}, \qquad u = \text{target} - \text{prediction}$$

    With `delta=1` it is the smooth L1 loss, whose gradient is the clipped error of DQN.

    Args:
        prediction: `[*batch]`, or `[E, *batch]` with critics first.
        target: `[*batch]`, or the prediction's shape.
        delta: where the square becomes a line, in units of the target; positive.
        mask: bool, shape of target or prediction; True where the element exists.
        weight: importance, shape of target or prediction; multiplies and never enters the denominator.
        reduction: `"mean"` over existing elements, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the prediction's shape for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `prediction`, and `delta` if it is a tensor; `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, `delta` not positive, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> huber_loss(torch.zeros(2), torch.tensor([1.0, 3.0]), reduction="none")
        tensor([0.5000, 2.5000])

    Reference:
        Huber, Robust Estimation of a Location Parameter, Annals of Mathematical Statistics 35(1), 1964.
    """
    check_prediction("huber_loss", prediction=prediction, target=target)
    check_tail("huber_loss", prediction.shape, target.shape, mask, weight, reduction, denominator)
    check_knob("huber_loss", "delta", delta, 0.0, shapes=[target.shape, prediction.shape])
    u = residual(prediction, target, mask).abs()
    clipped = minimum(u, scalar(delta, u))  # both branches in one product, delta's gradient included
    return reduce(clipped * (u - clipped / 2), mask, weight, reduction, denominator)


@public
def expectile_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    expectile: Knob = 0.7,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Asymmetric squared residual; `expectile` above ½ pulls the prediction up, towards the largest targets.

    $$L_e(u) = \left| e - \mathbb 1[u < 0] \right| u^2, \qquad u = \text{target} - \text{prediction}$$

    In implicit Q-learning (IQL) the prediction is $V(s)$ and the target $Q(s, a)$: an expectile above ½ is always the
    optimistic side. One half gives half the squared loss; towards one, $V$ rises to the best action of the data.

    Args:
        prediction: `[*batch]`, or `[E, *batch]` with critics first.
        target: `[*batch]`, or the prediction's shape.
        expectile: the weight of targets above the prediction, in (0, 1); targets below weigh one minus it; also a
            tensor of the prediction's last axis, a level for each of its expectiles, or of its shape.
        mask: bool, shape of target or prediction; True where the element exists.
        weight: importance, shape of target or prediction; multiplies and never enters the denominator.
        reduction: `"mean"` over existing elements, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the prediction's shape for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `prediction`, and `expectile` if it is a tensor; `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, `expectile` outside (0, 1), unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> value, q = torch.tensor([0.0, 0.0]), torch.tensor([1.0, -1.0])
        >>> expectile_loss(value, q, expectile=0.75, reduction="none")
        tensor([0.7500, 0.2500])

    Reference:
        Kostrikov, Nair and Levine, Offline Reinforcement Learning with Implicit Q-Learning, arXiv:2110.06169,
        equation 5. Others take the difference, or the arguments the other way round: see
        [Lineage](../lineage/regression.md#expectile_loss).
    """
    check_prediction("expectile_loss", prediction=prediction, target=target)
    check_tail("expectile_loss", prediction.shape, target.shape, mask, weight, reduction, denominator)
    shapes = [prediction.shape[-1:], target.shape, prediction.shape]
    check_knob("expectile_loss", "expectile", expectile, 0.0, 1.0, "()", shapes)
    u = residual(prediction, target, mask)
    return reduce((expectile - (u < 0).to(u)).abs() * u.square(), mask, weight, reduction, denominator)


@public
def quantile_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    quantile: Knob = 0.5,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Asymmetric absolute residual (pinball loss); `quantile` above ½ pulls the prediction above the median target.

    $$\rho_q(u) = \left| q - \mathbb 1[u < 0] \right| |u|, \qquad u = \text{target} - \text{prediction}$$

    Args:
        prediction: `[*batch]`, or `[E, *batch]` with critics first.
        target: `[*batch]`, or the prediction's shape.
        quantile: the share of targets that should lie below the prediction, in (0, 1); also a tensor of the
            prediction's last axis, a level for each of its quantiles, or of its shape.
        mask: bool, shape of target or prediction; True where the element exists.
        weight: importance, shape of target or prediction; multiplies and never enters the denominator.
        reduction: `"mean"` over existing elements, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the prediction's shape for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `prediction` (zero where the residual is), and `quantile` if it is a tensor; `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, `quantile` outside (0, 1), unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> quantile_loss(torch.zeros(2), torch.tensor([2.0, -2.0]), quantile=0.75, reduction="none")
        tensor([1.5000, 0.5000])

    Reference:
        Koenker and Bassett, Regression Quantiles, Econometrica 46(1), 1978; of distributional critics (QR-DQN, with a
        Huber loss in place of the lines): Dabney et al., arXiv:1710.10044.
    """
    check_prediction("quantile_loss", prediction=prediction, target=target)
    check_tail("quantile_loss", prediction.shape, target.shape, mask, weight, reduction, denominator)
    shapes = [prediction.shape[-1:], target.shape, prediction.shape]
    check_knob("quantile_loss", "quantile", quantile, 0.0, 1.0, "()", shapes)
    u = residual(prediction, target, mask)
    return reduce((quantile - (u < 0).to(u)).abs() * u.abs(), mask, weight, reduction, denominator)
