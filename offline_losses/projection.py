r"""Policies and values over a vocabulary: from hidden states to the action's log-probability, a tile at a time.

The logits of all tokens over all classes are never held, neither forwards nor backwards.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.distributed import ProcessGroup

from offline_losses._core.checks import (
    Knob,
    Reduction,
    check_axis,
    check_count,
    check_float,
    check_integers,
    check_knob,
    check_shape,
    check_tail,
    present,
)
from offline_losses._core.errors import describe, refuse
from offline_losses._core.projected import projected, reduced
from offline_losses._core.projection import CLASSES
from offline_losses._core.public import public


class LinearLogProb(NamedTuple):
    """Of the action, and of the sum over all classes that it was divided by."""

    log_prob: Tensor
    log_normalizer: Tensor


@public
def linear_log_prob(
    hidden: Tensor,
    head: Tensor,
    action: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: Knob = 1.0,
    chunk: int = CLASSES,
    group: ProcessGroup | None = None,
) -> LinearLogProb:
    r"""Log-probability of an action under a linear head over many classes, and its log-normalizer, without the logits.

    $$\log \pi(a \mid h) = z_a - \log \sum_{v} e^{z_v}, \qquad z = \frac{h W^\top + b}{T}$$

    What else a loss needs is arithmetic on the two: with values $Q = h W^\top + b$, the value of the action is
    $T (\log \pi + \log \sum e^{z})$, `soft_value` is $T \log \sum e^{z}$, and the gap between them, CQL's, is
    $-T \log \pi$. The logits are computed again in the backward pass, so that memory grows with neither the number of
    rows nor that of classes. The fused twin is this function: nine tenths of its time go into products of matrices,
    which generated code would only call.

    Args:
        hidden: `[*batch, D]`, what goes into the head.
        head: `[V, D]`, one row for each class, the weight of a `torch.nn.Linear(D, V)`.
        action: `[*batch]`, int64, the class that was taken; one that does not exist is refused on the CPU, and has
            probability zero on a card, which is not waited for.
        bias: `[V]`, added to the products; −∞ for a class that is never taken.
        temperature: $T > 0$, divides products and bias.
        chunk: classes whose logits are computed at once, for up to 512 rows.
        group: processes that hold parts of the head, and of the bias, in the order of their ranks, each of any number
            of classes; `hidden`, `action` and the results are the same on all. Two collectives forward, one backward.
            A head that is a DTensor of the classes, `Shard(0)`, says it by itself.

    Returns:
        `LinearLogProb(log_prob, log_normalizer)`, each `[*batch]`; float32, or float64 for float64 input. Without any
        class both are −∞.

    Gradient:
        `hidden`, `head`, `bias`, and `temperature` if it is a tensor. Once: a second derivative is refused.

    Raises:
        ValueError: shapes that differ, an action out of range, `temperature` not positive, `chunk` below 1.
        TypeError: not a tensor, integer values, an action that is not int64.

    Examples:
        >>> import torch
        >>> found = linear_log_prob(torch.tensor([[1.0]]), torch.tensor([[0.0], [1.0986]]), torch.tensor([1]))
        >>> found.log_prob.exp(), found.log_normalizer.exp()
        (tensor([0.7500]), tensor([4.0000]))

    Reference:
        Wijmans, Huval, Hertzberg, Koltun and Krähenbühl, Cut Your Losses in Large-Vocabulary Language Models,
        arXiv:2411.09009 (tiles of the vocabulary, recomputed). PyTorch's own chunks are of rows: see
        [Lineage](../lineage/projection.md#linear_log_prob).
    """
    name = "linear_log_prob"
    _check_head(name, hidden, head, action, bias, temperature, chunk, group)
    return LinearLogProb(*projected(name, hidden, head, action, bias, temperature, chunk, group))


@public
def linear_cql_penalty(
    hidden: Tensor,
    head: Tensor,
    action: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: Knob = 1.0,
    chunk: int = CLASSES,
    group: ProcessGroup | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""`cql_logsumexp_penalty` of a linear head over many actions: large where Q prefers what was not done.

    $$T \log \sum_v e^{Q(s, v) / T} - Q(s, a_\text{data}), \qquad Q(s, \cdot) = h W^\top + b$$

    The values of all actions are never held: see `linear_log_prob`. On the CPU the gradient of a mean or sum is made
    with it, for which those of at least 64 rows are: from 256 dimensions on in a quarter of the head's memory.

    Args:
        hidden: `[*batch, D]`, what goes into the head.
        head: `[V, D]`, one row for each action.
        action: `[*batch]`, int64, the data's; any number where the mask is False.
        bias: `[V]`, added to the products; −∞ for an action that does not exist.
        temperature: $T > 0$, units of return.
        chunk: actions whose values are computed at once, for up to 512 rows.
        group: processes that hold parts of the head, as in `linear_log_prob`.
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `hidden`, `head`, `bias`, and `temperature` if it is a tensor; `weight` is detached. Once: a second derivative
        is refused.

    Raises:
        ValueError: shapes that differ, an action out of range, a knob out of range, unknown reduction.
        TypeError: not a tensor, integer values, an action that is not int64, a mask that is not bool.

    Examples:
        >>> import torch
        >>> linear_cql_penalty(torch.tensor([[1.0]]), torch.tensor([[1.0], [3.0]]), torch.tensor([1]))
        tensor(0.1269)

    Reference:
        Kumar, Zhou, Tucker and Levine, Conservative Q-Learning for Offline Reinforcement Learning, arXiv:2006.04779,
        equation 4; Snell et al., Offline RL for Natural Language Generation with Implicit Language Q Learning,
        arXiv:2206.11871 (over tokens).
    """
    name = "linear_cql_penalty"
    _check_head(name, hidden, head, action, bias, temperature, chunk, group)
    check_tail(name, action.shape, action.shape, mask, weight, reduction, denominator)
    given = (name, hidden, head, action, bias, temperature, chunk, group, mask)
    return reduced(*given, -temperature, weight, reduction, denominator)


@public
def linear_nll_loss(
    hidden: Tensor,
    head: Tensor,
    action: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: Knob = 1.0,
    chunk: int = CLASSES,
    group: ProcessGroup | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""`nll_loss` of a linear head over many classes, imitation of tokens: lower where the data's action is likelier.

    $$-\log \mathrm{softmax}\left( \frac{h W^\top + b}{T} \right)_{a}$$

    The logits of all rows are never held: see `linear_log_prob`, and `linear_cql_penalty` for those that are. With
    `awr_weights` as `weight` it is advantage-weighted regression.

    Args:
        hidden: `[*batch, D]`, what goes into the head.
        head: `[V, D]`, one row for each class.
        action: `[*batch]`, int64, the data's; any number where the mask is False.
        bias: `[V]`, added to the products; −∞ for a class that is never taken.
        temperature: $T > 0$, divides products and bias.
        chunk: classes whose logits are computed at once, for up to 512 rows.
        group: processes that hold parts of the head, as in `linear_log_prob`.
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `hidden`, `head`, `bias`, and `temperature` if it is a tensor; `weight` is detached. Once: a second derivative
        is refused.

    Raises:
        ValueError: shapes that differ, an action out of range, a knob out of range, unknown reduction.
        TypeError: not a tensor, integer values, an action that is not int64, a mask that is not bool.

    Examples:
        >>> import torch
        >>> linear_nll_loss(torch.tensor([[1.0]]), torch.tensor([[1.0], [3.0]]), torch.tensor([0]))
        tensor(2.1269)

    Reference:
        Maximum likelihood; as a behavior policy of tokens in Snell et al., Offline RL for Natural Language Generation
        with Implicit Language Q Learning, arXiv:2206.11871.
    """
    name = "linear_nll_loss"
    _check_head(name, hidden, head, action, bias, temperature, chunk, group)
    check_tail(name, action.shape, action.shape, mask, weight, reduction, denominator)
    given = (name, hidden, head, action, bias, temperature, chunk, group, mask)
    return reduced(*given, -1.0, weight, reduction, denominator)


def _check_head(
    function: str,
    hidden: Tensor,
    head: Tensor,
    action: Tensor,
    bias: Tensor | None,
    temperature: Knob,
    chunk: int,
    group: ProcessGroup | None,
) -> None:
    check_float(function, hidden=hidden, head=head, **present(bias=bias))
    check_axis(function, "hidden", hidden, "dimension")
    if head.ndim != 2 or (group is None and not len(head)) or head.shape[1] != hidden.shape[-1]:
        expected = f"shape [V, {hidden.shape[-1]}] of at least one class"
        refuse(ValueError, function, "head", expected, describe(head), "Pass the weight of the last linear layer.")
    check_shape(function, "one number for each row of head", head.shape[:1], **present(bias=bias))
    check_integers(function, "hidden without its last axis", hidden.shape[:-1], action=action)
    for argument, x in present(head=head, action=action, bias=bias).items():
        if x.device != hidden.device:  # a product that is written into memory elsewhere is not refused by itself
            mend = f"Move it with {argument}.to(hidden.device)."
            refuse(ValueError, function, argument, f"a tensor on {hidden.device} as hidden is", f"{x.device}", mend)
    check_knob(function, "temperature", temperature, 0.0, shapes=[action.shape])
    check_count(function, "chunk", chunk, 1)
