r"""Sequences of steps or tokens that were padded to one length: what is summed over them, and by what it is divided.

The mask `[*batch, T]` says which steps exist. Whatever stands at the others changes nothing, NaN included.
"""

from __future__ import annotations

from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    Reduction,
    check_axis,
    check_flags,
    check_float,
    check_option,
    check_tail,
    check_values,
)
from offline_losses._core.public import public
from offline_losses._core.reduce import reduce, select, summed, total, upcast


@public
def sequence_log_prob(log_prob: Tensor, mask: Tensor, *, length_normalized: bool = False) -> Tensor:
    r"""Log-probability of a whole sequence: the sum over the steps that exist, or their mean.

    $$\log \pi(y \mid x) = \sum_t m_t \log \pi(y_t \mid x, y_{<t}), \qquad
    \text{or that over } \max(1, \textstyle\sum_t m_t)$$

    What losses of whole sequences take, `preference_loss` for instance: of the policy, and under `torch.no_grad()` of
    the reference, over the answer's tokens and not the prompt's.

    Args:
        log_prob: `[*batch, T]`, natural logarithm, of each token or action.
        mask: bool `[*batch, T]`, True where the step exists and counts.
        length_normalized: divide by the number of steps. Then long and short sequences weigh alike, and it is no
            log-probability any more: IPO and SimPO are used so, DPO is not.

    Returns:
        `[*batch]`, float32 or wider; 0 for a sequence without steps.

    Gradient:
        `log_prob`, where the mask is True.

    Raises:
        ValueError: shapes that differ, no time axis.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> log_prob, mask = torch.tensor([[-1.0, -2.0, -9.0]]), torch.tensor([[True, True, False]])
        >>> sequence_log_prob(log_prob, mask)
        tensor([-3.])

    Reference:
        Rafailov et al., Direct Preference Optimization, arXiv:2305.18290 (the sum); Meng, Xia and Chen, SimPO,
        arXiv:2405.14734 (the mean).
    """
    check_float("sequence_log_prob", log_prob=log_prob)
    check_axis("sequence_log_prob", "log_prob", log_prob, "step")
    check_flags("sequence_log_prob", log_prob.shape, mask=mask)
    check_option("sequence_log_prob", "length_normalized", length_normalized, (False, True))
    value = total(select(mask, upcast(log_prob)), -1)
    return (value / mask.sum(-1).clamp(min=1) if length_normalized else value).to(summed(log_prob))


@public
def sequence_action_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Squared error of the actions of a sequence, mean over dimensions: the loss of the Decision Transformer.

    $$\frac1n \sum_{b, t} m_{bt} \frac1A \sum_d \left( \hat a_{btd} - a_{btd} \right)^2, \qquad
    n = \sum_{b, t} m_{bt}$$

    Divided by all steps, padding included (`denominator=mask.numel()`), an update is smaller the more padding a batch
    holds, and sequences that were cut short by the start of their episode teach less per step. Of discrete actions the
    loss is `nll_loss` with the same mask.

    Args:
        prediction: `[*batch, A]`, usually `[B, T, A]`.
        target: the same shape, the data's actions.
        mask: bool `[*batch]`, usually `[B, T]`, True where the step exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing steps, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `prediction`; `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, no axis of dimensions, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> prediction, mask = torch.ones(1, 4, 2), torch.tensor([[True, False, False, False]])
        >>> sequence_action_loss(prediction, torch.zeros(1, 4, 2), mask=mask, denominator=mask.numel())
        tensor(0.2500)

    Reference:
        Chen et al., Decision Transformer: Reinforcement Learning via Sequence Modeling, arXiv:2106.01345, section 3.
        Who divides by what: see [Lineage](../lineage/sequence.md#sequence_action_loss).
    """
    check_values("sequence_action_loss", prediction=prediction, target=target)
    check_axis("sequence_action_loss", "prediction", prediction, "dimension")
    batch = prediction.shape[:-1]
    check_tail("sequence_action_loss", batch, batch, mask, weight, reduction, denominator)
    rows = None if mask is None else mask.unsqueeze(-1)
    error = select(rows, upcast(prediction) - upcast(target.detach())).square().mean(-1)
    return reduce(error, mask, weight, reduction, denominator)
