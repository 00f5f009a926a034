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
from offline_losses._core.public import public
from offline_losses._core.reduce import over_rows, promoted, summed, upcast


@public
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
        `[*batch]`, float32 or wider; 0 for a row without candidates.

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
    scaled, counts, best, row = _scaled("soft_value", q, log_density, temperature, mask)
    log_sum = _normalizer(_exponentials(scaled, counts), row).log()
    if log_density is not None:
        log_sum = log_sum - (math.log(q.shape[-1]) if mask is None else mask.sum(-1).clamp(min=1).to(log_sum).log())
    value = torch.where(row, best + temperature * log_sum, 0.0)
    return value.to(summed(q) if log_density is None else summed(q, log_density))


@public
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
    scaled, counts, _, row = _scaled("softmax_weights", q, log_density, temperature, mask)
    e = _exponentials(scaled.detach(), counts)
    weights = e / _normalizer(e, row).unsqueeze(-1)
    return weights.to(promoted(q) if log_density is None else promoted(q, log_density))


@public
def softmax_entropy(q: Tensor, *, temperature: Knob = 1.0, mask: Tensor | None = None) -> Tensor:
    r"""Entropy, in nats, of the distribution that attains the soft maximum; 0 if one candidate dominates.

    $$H = -\sum_i p_i \log p_i, \qquad p = \mathrm{softmax}(q / T)$$

    Args:
        q: `[*batch, N]`, values of the candidates, in units of return.
        temperature: units of return; positive.
        mask: bool `[*batch, N]`, True where the candidate exists.

    Returns:
        `[*batch]`, float32 or wider; 0 for a row without candidates.

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
    scaled, counts, _, row = _scaled("softmax_entropy", q, None, temperature, mask)
    e = _exponentials(scaled, counts)
    normalizer = _normalizer(e, row)
    mean = (e * scaled).sum(-1) / normalizer
    return (normalizer.log() - mean).to(summed(q))


def _scaled(
    function: str,
    q: Tensor,  # [*batch, N]
    log_density: Tensor | None,  # [*batch, N]
    temperature: Knob,  # [] or [*batch]
    mask: Tensor | None,  # [*batch, N]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q/T − log μ less the best candidate's, which candidates count, T times that of the best, which rows have any.

    The best is subtracted before the division, which a small temperature would carry beyond the largest float. What is
    so far below it that its exponential is zero does not count and is 0 here: zero times infinity would be NaN.
    """
    check_candidates(function, "q", q, log_density, temperature)
    temperature = over_rows(temperature)
    check_flags(function, q.shape, **present(mask=mask))
    value = upcast(q) if mask is None else torch.where(mask, upcast(q), -torch.inf)
    if log_density is not None:
        value = value - temperature * torch.where(value == -torch.inf, 0.0, upcast(log_density))
    best = value.detach().amax(-1, keepdim=True)
    row = best != -torch.inf
    best = torch.where(best.isinf(), 0.0, best)
    below = value - best
    limits = torch.finfo(below.dtype)
    counts = below > (math.log(limits.smallest_normal) + math.log(limits.eps) - 1) * temperature
    return torch.where(counts, below, 0.0) / temperature, counts, best.squeeze(-1), row.squeeze(-1)


def _exponentials(
    scaled: Tensor,  # [*batch, N]
    counts: Tensor,  # [*batch, N]
) -> Tensor:
    return torch.where(counts, scaled.exp(), 0.0)


def _normalizer(
    e: Tensor,  # [*batch, N]
    row: Tensor,  # [*batch]
) -> Tensor:
    """The sum of the exponentials; one for a row without candidates, since the logarithm of zero has no gradient."""
    return torch.where(row, e.sum(-1), 1.0)


def check_candidates(function: str, argument: str, q: Tensor, log_density: Tensor | None, temperature: Knob) -> None:
    """Check candidate values, the densities that they were drawn from, and the temperature."""
    if log_density is None:
        check_float(function, **{argument: q})
    else:
        check_prediction(function, **{argument: q, "log_density": log_density})
    check_axis(function, argument, q, "candidate")
    shapes = [(q if log_density is None else log_density).shape[:-1], q.shape[:-1]]
    check_knob(function, "temperature", temperature, 0.0, shapes=shapes)
