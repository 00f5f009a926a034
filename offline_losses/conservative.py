r"""Conservatism: push values down on what a maximum of Q likes, and up on what the data holds.

Without it the maximum over actions seeks out the errors of Q, which nothing in a fixed dataset corrects. All penalties
are unweighted: multiply by α yourself, or let `cql_lagrange_losses` find it.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    Reduction,
    check_axis,
    check_float,
    check_knob,
    check_option,
    check_prediction,
    check_rows,
    check_tail,
)
from offline_losses._core.public import public
from offline_losses._core.reduce import over_elements, promoted, reduce, scalar, select, select_rows, upcast
from offline_losses.entropic import soft_value


class CQLLagrangeLosses(NamedTuple):
    """The critic's term and the multiplier's own: minimize each with its own optimizer, or their sum with one."""

    penalty: Tensor
    dual: Tensor


@public
def cql_logsumexp_penalty(
    q_candidates: Tensor,
    q_data: Tensor,
    *,
    log_density: Tensor | None = None,
    temperature: Knob = 1.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Soft maximum of Q over all actions minus Q of the data's action: CQL(H), large where Q prefers unseen actions.

    $$\underbrace{T \log \sum_a e^{Q(s,a)/T}}_{\text{all actions}} - Q(s, a_{\text{data}}) \qquad\text{or}\qquad
    \underbrace{T \log \frac1N \sum_{i} \frac{e^{Q(s,a_i)/T}}{\mu(a_i)}}_{a_i \sim \mu} - Q(s, a_{\text{data}})$$

    Without `log_density` the candidates are all actions, and at temperature 1 the penalty is the cross-entropy of the
    data action under softmax(Q). With it they are samples (uniform ones and the policy's, say, side by side, each with
    the density that it was drawn from), and the penalty does not depend on their number.

    Args:
        q_candidates: `[*batch, N]` or `[E, *batch, N]`, values of the candidates; −∞ for one that does not exist.
        q_data: the candidates' shape without the last axis, values of the data's actions.
        log_density: shape of q_candidates, or without the critic axis, logarithm of the density of each candidate.
            Detach the policy's unless its gradient is wanted.
        temperature: $T$, units of return; positive.
        mask: bool, shape of q_data (of log_density without its last axis also, if that has no critics); True where the
            sample exists.
        weight: importance, likewise; multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples (and critics), `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the shape of q_data for `"none"`; float32, or float64 for float64 input. A sample whose candidates are
        all −∞ has 0.

    Gradient:
        `q_candidates` (softmax weights, summing to +1 a sample), `q_data` (−1), `log_density`, and `temperature` if it
        is a tensor; `weight` is detached. None from a sample without candidates.

    Raises:
        ValueError: shapes that differ, `temperature` not positive, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> q, action = torch.tensor([[1.0, 3.0]]), torch.tensor([[1]])
        >>> cql_logsumexp_penalty(q, q.gather(-1, action).squeeze(-1))
        tensor(0.1269)

    Reference:
        Kumar, Zhou, Tucker and Levine, Conservative Q-Learning for Offline Reinforcement Learning, arXiv:2006.04779,
        equation 4 and appendix F. Temperature, density and log N are where others differ: see
        [Lineage](../lineage/conservative.md#cql_logsumexp_penalty).
    """
    _check_penalty("cql_logsumexp_penalty", q_candidates, q_data, log_density, mask, weight, reduction, denominator)
    shapes = [(q_candidates if log_density is None else log_density).shape[:-1], q_data.shape]
    check_knob("cql_logsumexp_penalty", "temperature", temperature, 0.0, shapes=shapes)
    q = select_rows(mask, upcast(q_candidates))
    density = None if log_density is None else select_rows(mask, upcast(log_density).expand(q.shape))
    value = soft_value(q, log_density=density, temperature=over_elements(temperature, q_data))
    return reduce(_gap(q, value, select(mask, upcast(q_data))), mask, weight, reduction, denominator)


@public
def cql_max_penalty(
    q_candidates: Tensor,
    q_data: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Maximum of Q over actions minus Q of the data's action: the greedy μ, zero where the data's action is the best.

    $$\max_a Q(s, a) - Q(s, a_{\text{data}})$$

    The limit of `cql_logsumexp_penalty` as the temperature goes to zero: only the best candidate is pushed down.

    Args:
        q_candidates: `[*batch, N]` or `[E, *batch, N]`, values of the candidates; −∞ for one that does not exist.
        q_data: the candidates' shape without the last axis, values of the data's actions.
        mask: bool, shape of q_data; True where the sample exists.
        weight: importance, shape of q_data; multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples (and critics), `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the shape of q_data for `"none"`; float32, or float64 for float64 input. A sample whose candidates are
        all −∞ has 0.

    Gradient:
        `q_candidates` (+1 a sample, shared by equals) and `q_data` (−1); `weight` is detached. None from a sample
        without candidates.

    Raises:
        ValueError: shapes that differ, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> cql_max_penalty(torch.tensor([[1.0, 3.0]]), torch.tensor([1.0]))
        tensor(2.)

    Reference:
        Kumar, Zhou, Tucker and Levine, arXiv:2006.04779 (CQL), equation 3 without a regularizer on μ.
    """
    _check_penalty("cql_max_penalty", q_candidates, q_data, None, mask, weight, reduction, denominator)
    q = select_rows(mask, upcast(q_candidates))
    return reduce(_gap(q, q.amax(-1), select(mask, upcast(q_data))), mask, weight, reduction, denominator)


@public
def cql_lagrange_losses(
    gap: Tensor,
    log_multiplier: Tensor,
    *,
    threshold: Knob = 5.0,
    penalty_weight: Knob = 1.0,
    threshold_on: Literal["weighted_gap", "gap"] = "weighted_gap",
    max_multiplier: Knob = 1e6,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> CQLLagrangeLosses:
    r"""Let a multiplier rise while the CQL gap is above a threshold and fall while it is below.

    $$\text{penalty} = \text{sg}(\alpha')\,x, \qquad \text{dual} = -\alpha'\,\text{sg}(x), \qquad
    \alpha' = e^{\min(\log \alpha',\ \log \alpha'_{\max})}$$

    with the excess $x = w\,\text{gap} - \tau$ for `threshold_on="weighted_gap"`, $x = w\,(\text{gap} - \tau)$ for
    `"gap"`. Both conventions are in use and their thresholds do not compare: $\tau$ is in units of $w\,\text{gap}$ in
    the first. The two terms share no gradient, so they may be summed and differentiated once.

    Args:
        gap: `[*batch]`, `[E, *batch]` or 0-d, a CQL penalty of either kind, unreduced or not.
        log_multiplier: 0-d, $\log \alpha'$, the dual variable; or one for each run, `[R, 1]` beside
            `[R, B]`, `[1, R, 1]` beside `[E, R, B]`.
        threshold: $\tau$, the gap that is tolerated.
        penalty_weight: $w$, positive.
        threshold_on: `"weighted_gap"` or `"gap"`.
        max_multiplier: $\alpha'_{\max}$, positive, infinity for no bound; a clipped multiplier still receives its
            gradient and can come down.
        mask: bool, shape of gap; True where the sample exists.
        weight: importance, shape of gap; multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        `CQLLagrangeLosses(penalty, dual)`, each 0-d, or the shape of gap for `"none"`.

    Gradient:
        `penalty` to `gap` (and `penalty_weight`, `threshold` if they are tensors); `dual` to `log_multiplier`.

    Raises:
        ValueError: shapes that differ, a knob out of range, another `threshold_on`, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> cql_lagrange_losses(torch.tensor([7.0, 9.0]), torch.tensor(0.0))
        CQLLagrangeLosses(penalty=tensor(3.), dual=tensor(-3.))

    Reference:
        Kumar, Zhou, Tucker and Levine, Conservative Q-Learning (CQL), arXiv:2006.04779, appendix F (`"gap"`). Others
        sum undetached terms, which scales the penalty by 1 − α'/2: see
        [Lineage](../lineage/conservative.md#cql_lagrange_losses).
    """
    check_float("cql_lagrange_losses", gap=gap, log_multiplier=log_multiplier)
    check_knob("cql_lagrange_losses", "log_multiplier", log_multiplier, -torch.inf, shapes=[gap.shape])
    check_tail("cql_lagrange_losses", gap.shape, gap.shape, mask, weight, reduction, denominator)
    check_knob("cql_lagrange_losses", "threshold", threshold, -torch.inf, shapes=[gap.shape])
    check_knob("cql_lagrange_losses", "penalty_weight", penalty_weight, 0.0, shapes=[gap.shape])
    check_knob("cql_lagrange_losses", "max_multiplier", max_multiplier, 0.0, bounds="(]", shapes=[gap.shape])
    check_option("cql_lagrange_losses", "threshold_on", threshold_on, ("weighted_gap", "gap"))
    log_alpha = upcast(log_multiplier)
    bound = scalar(max_multiplier, log_alpha).log()
    beyond = torch.where(log_alpha > bound, log_alpha - bound, 0.0).detach()
    multiplier = (log_alpha - beyond).exp()  # straight-through: the clip keeps the gradient
    x, weighted = select(mask, upcast(gap)), threshold_on == "weighted_gap"
    excess = penalty_weight * x - threshold if weighted else penalty_weight * (x - threshold)
    return CQLLagrangeLosses(
        penalty=reduce(multiplier.detach() * excess, mask, weight, reduction, denominator),
        dual=reduce(-multiplier * excess.detach(), mask, weight, reduction, denominator),
    )


@public
def calibrated_value(q_candidates: Tensor, reference_value: Tensor) -> Tensor:
    r"""Q of policy actions, never below the value of a reference policy: stops CQL from pushing values under it.

    $$\max\left( Q(s, a_i),\ V^{\text{ref}}(s) \right)$$

    Apply it to the policy's candidates alone, before the density correction: the result goes into
    `cql_logsumexp_penalty` in place of those candidates, beside the uncalibrated uniform ones.

    Args:
        q_candidates: `[*batch, N]` or `[E, *batch, N]`, values of the policy's candidates; one of −∞ stays what it is.
        reference_value: `[*batch]`, or the candidates' shape without the last axis: a lower bound in units of return,
            usually the dataset's `discounted_return`.

    Returns:
        The shape of q_candidates, in the input's dtype.

    Gradient:
        `q_candidates` where they are above the bound, `reference_value` elsewhere; equals share it.

    Raises:
        ValueError: shapes that differ.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> calibrated_value(torch.tensor([[1.0, 3.0]]), torch.tensor([2.0]))
        tensor([[2., 3.]])

    Reference:
        Nakamoto et al., Cal-QL: Calibrated Offline RL Pre-Training for Efficient Online Fine-Tuning, arXiv:2303.05479,
        equation 5.1.
    """
    check_float("calibrated_value", q_candidates=q_candidates)
    check_axis("calibrated_value", "q_candidates", q_candidates, "candidate")
    check_prediction("calibrated_value", **{"q_candidates": q_candidates[..., 0], "reference_value": reference_value})
    bound = torch.where(q_candidates == -torch.inf, -torch.inf, reference_value.unsqueeze(-1))
    return torch.maximum(q_candidates, bound).to(promoted(q_candidates, reference_value))


def _gap(q: Tensor, value: Tensor, q_data: Tensor) -> Tensor:  # [*batch, N], [*batch], [*batch]
    """The maximum minus the data's value; 0 for a sample without candidates, which pushes nothing up or down."""
    return torch.where(q.detach().amax(-1) != -torch.inf, value - q_data, 0.0)


def _check_penalty(function: str, q_candidates: Tensor, q_data: Tensor, log_density: Tensor | None, *tail: Any) -> None:
    check_float(function, q_candidates=q_candidates, q_data=q_data)
    check_axis(function, "q_candidates", q_candidates, "candidate")
    check_rows(function, q_candidates=q_candidates, q_data=q_data)
    if log_density is not None:
        check_prediction(function, q_candidates=q_candidates, log_density=log_density)
    # Only a density without critics tells a leading axis of critics from one of samples.
    batch = q_data.shape if log_density is None else log_density.shape[:-1]
    check_tail(function, q_data.shape, batch, *tail)
