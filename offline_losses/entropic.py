r"""The soft maximum and its weights: what is left of a maximum when entropy is paid for.

With $z = q/T$ over candidates on the last axis, $T \log \sum_i e^{z_i}$ is the largest value of
$\langle p, q \rangle + T\,H(p)$ over all distributions $p$, reached at $p = \mathrm{softmax}(z)$. A candidate drawn
from a density $\mu$ counts $1/\mu$ times, which turns the sum into an integral over all actions.

A candidate exists where `mask` is True; a value of −∞ is legal and weighs nothing. A row without candidates has the
value 0 and no gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    check_axis,
    check_flags,
    check_float,
    check_knob,
    check_prediction,
    present,
)
from offline_losses._core.reduce import keep, promoted, upcast


def soft_value(
    q: Tensor, *, log_density: Tensor | None = None, temperature: Knob = 1.0, mask: Tensor | None = None
) -> Tensor:
    r"""Soft maximum (log-sum-exp) of Q over actions, which becomes the maximum as the temperature falls to zero.

    $$V = T \log \sum_a e^{Q_a / T} \qquad\text{or, for } a_i \sim \mu, \qquad
    V = T \log \frac1N \sum_{i=1}^N \frac{e^{Q_i / T}}{\mu(a_i)} \approx T \log \int e^{Q(a)/T}\,da$$

    Without `log_density` the candidates are all actions, the sum is exact, and at least the maximum. With it they are
    samples, the second form holds, and the value, on either side of the maximum, does not depend on their number $N$.
    The density stays outside the temperature.

    Args:
        q: `[*batch, N]`, values of the candidates, in units of return.
        log_density: `[*batch, N]`, natural logarithm of the density each candidate was drawn from; leading critic axes
            of q may be missing.
        temperature: units of return; positive. Towards zero the soft value becomes the maximum.
        mask: bool `[*batch, N]`, True where the candidate exists; only these count in $N$.

    Returns:
        `[*batch]`, in the input's dtype; 0 for a row without candidates.

    Gradient:
        `q` (the softmax weights), `log_density` (minus T times them), `temperature` if it is a tensor.

    Raises:
        ValueError: shapes that differ, no candidate axis, `temperature` not positive.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> soft_value(torch.tensor([[0.0, 0.0], [3.0, -torch.inf]]))
        tensor([0.6931, 3.0000])

    Reference:
        Haarnoja, Tang, Abbeel and Levine, Reinforcement Learning with Deep Energy-Based Policies (soft Q-learning),
        arXiv:1702.08165, equations 5 and 10. Seven public implementations divide the density by the temperature: see
        [Lineage](../lineage/entropic.md#soft_value).
    """
    logits, top, _, row = _logits("soft_value", q, log_density, temperature, mask)
    log_sum = keep(logits.exp().sum(-1)).log() + top.squeeze(-1)
    if log_density is not None:
        log_sum = log_sum - (math.log(q.shape[-1]) if mask is None else mask.sum(-1).clamp(min=1).to(log_sum).log())
    return torch.where(row, temperature * log_sum, 0.0).to(
        promoted(q) if log_density is None else promoted(q, log_density)
    )


def softmax_weights(
    q: Tensor, *, log_density: Tensor | None = None, temperature: Knob = 1.0, mask: Tensor | None = None
) -> Tensor:
    r"""Probability of each candidate under the distribution that attains the soft maximum; better ones weigh more.

    $$p_i = \frac{e^{Q_i/T} / \mu(a_i)}{\sum_j e^{Q_j/T} / \mu(a_j)}$$

    Args:
        q: `[*batch, N]`, values of the candidates, in units of return.
        log_density: `[*batch, N]`, logarithm of the density each candidate was drawn from; None for all actions.
        temperature: units of return; positive. Towards zero all weight goes to the maximum.
        mask: bool `[*batch, N]`, True where the candidate exists.

    Returns:
        `[*batch, N]`, each row sums to one, detached, in the input's dtype; zeros for a row without candidates.

    Gradient:
        None: the weights are detached.

    Raises:
        ValueError: shapes that differ, no candidate axis, `temperature` not positive.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> softmax_weights(torch.tensor([1.0, 1.0, -torch.inf]))
        tensor([0.5000, 0.5000, 0.0000])

    Reference:
        Haarnoja, Tang, Abbeel and Levine, arXiv:1702.08165, equation 6 (the energy-based policy of soft
        Q-learning, a Boltzmann distribution).
    """
    logits, _, exists, _ = _logits("softmax_weights", q, log_density, temperature, mask)
    e = logits.detach().exp()
    weights = torch.where(exists, e / e.sum(-1, keepdim=True), 0.0)
    return weights.to(promoted(q) if log_density is None else promoted(q, log_density))


def softmax_entropy(q: Tensor, *, temperature: Knob = 1.0, mask: Tensor | None = None) -> Tensor:
    r"""Entropy, in nats, of the distribution that attains the soft maximum; 0 if one candidate dominates.

    $$H = -\sum_i p_i \log p_i, \qquad p = \mathrm{softmax}(q / T)$$

    Args:
        q: `[*batch, N]`, values of the candidates, in units of return.
        temperature: units of return; positive.
        mask: bool `[*batch, N]`, True where the candidate exists.

    Returns:
        `[*batch]`, in the input's dtype; 0 for a row without candidates.

    Gradient:
        `q`, and `temperature` if it is a tensor.

    Raises:
        ValueError: shapes that differ, no candidate axis, `temperature` not positive.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> softmax_entropy(torch.zeros(1, 4))
        tensor([1.3863])

    Reference:
        Shannon, A Mathematical Theory of Communication, Bell System Technical Journal 27, 1948, section 6.
    """
    logits, _, exists, row = _logits("softmax_entropy", q, None, temperature, mask)
    e, surprise = logits.exp(), torch.where(exists, -logits, 0.0)  # 0 log 0 = 0
    total = keep(e.sum(-1))
    return torch.where(row, total.log() + keep((e * surprise).sum(-1)) / total, 0.0).to(q.dtype)


def _logits(
    function: str, q: Tensor, log_density: Tensor | None, temperature: Knob, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q/T − log μ less its largest value, that value `[*batch, 1]`, which candidates exist, and which rows have any.

    A missing candidate has −∞. A row of them alone would give NaN gradients: it keeps zeros, and the caller drops it.
    """
    check_candidates(function, "q", q, log_density, temperature)
    check_flags(function, q.shape, **present(mask=mask))
    exists = q != -torch.inf if mask is None else mask & (q != -torch.inf)
    logits = torch.where(exists, upcast(q), 0.0) / temperature
    if log_density is not None:
        logits = logits - torch.where(exists, upcast(log_density), 0.0)
    top = keep(torch.where(exists, logits.detach(), -torch.inf).amax(-1, keepdim=True))
    row = top != -torch.inf
    top = torch.where(top.isinf(), 0.0, top)
    return torch.where(exists | ~row, logits - top, -torch.inf), top, exists, row.squeeze(-1)


def check_candidates(function: str, argument: str, q: Tensor, log_density: Tensor | None, temperature: Knob) -> None:
    """Check candidate values, the densities that they were drawn from, and the temperature."""
    if log_density is None:
        check_float(function, **{argument: q})
    else:
        check_prediction(function, **{argument: q, "log_density": log_density})
    check_axis(function, argument, q, "candidate")
    check_knob(function, "temperature", temperature, 0.0)
