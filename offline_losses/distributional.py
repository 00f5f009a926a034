r"""Critics that are classifiers: a value as a distribution over the atoms of a support, or as quantiles.

A support $z_1 < \dots < z_K$ has any spacing. A target becomes probabilities on it, which cross-entropy learns.
"""

from __future__ import annotations

import torch
from torch import Tensor, minimum

from offline_losses._core.checks import (
    Knob,
    Reduction,
    check_axis,
    check_knob,
    check_option,
    check_prediction,
    check_tail,
)
from offline_losses._core.public import public
from offline_losses._core.reduce import over_rows, promoted, reduce, scalar, select_rows, times, upcast, widest
from offline_losses._core.sharded import beside
from offline_losses._core.support import check_samples, check_support, divided, normal_mass


@public
def two_hot(value: Tensor, support: Tensor) -> Tensor:
    r"""Probability on the two atoms around a value, the more the nearer, so that their mean is the value.

    $$p_k = \frac{z_{k+1} - x}{z_{k+1} - z_k}, \quad p_{k+1} = 1 - p_k \qquad\text{for } z_k \le x \le z_{k+1}$$

    Args:
        value: `[*batch]`; outside of the support it counts as the nearest atom.
        support: `[K]`, sorted atoms in units of the value.

    Returns:
        `[*batch, K]`, each row sums to one, in the inputs' dtype.

    Gradient:
        `value` (zero outside of the support), and `support`.

    Raises:
        ValueError: a support that is no vector of at least two atoms.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> two_hot(torch.tensor([0.5]), torch.tensor([-1.0, 0.0, 2.0]))
        tensor([[0.0000, 0.7500, 0.2500]])

    Reference:
        Schrittwieser et al., MuZero, arXiv:1911.08265. See [Lineage](../lineage/distributional.md#two_hot).
    """
    check_support("two_hot", support, value=value)
    x, z = widest(value.unsqueeze(-1), support)
    return divided(torch.ones_like(x), x, z).to(promoted(value, support))


@public
def hl_gauss(value: Tensor, support: Tensor, *, sigma_to_bin_ratio: Knob = 0.75) -> Tensor:
    r"""Probability of a normal distribution around a value in the bin of each atom: neighbors learn from each other.

    $$p_k \propto \Phi\left( \frac{e_{k+1} - x}\sigma \right) - \Phi\left( \frac{e_k - x}\sigma \right)$$

    The edges $e$ lie midway between the atoms, the outer ones as far outside as the next is inside.

    Args:
        value: `[*batch]`; however far outside of the support, a row sums to one.
        support: `[K]`, sorted atoms in units of the value.
        sigma_to_bin_ratio: σ over the mean distance of two atoms; positive.

    Returns:
        `[*batch, K]`, each row sums to one, in the inputs' dtype.

    Gradient:
        `value`, `support`, and `sigma_to_bin_ratio` if it is a tensor.

    Raises:
        ValueError: a support that is no vector of at least two atoms, a ratio that is not positive.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> hl_gauss(torch.tensor([0.0, 99.0]), torch.tensor([-1.0, 0.0, 1.0]))
        tensor([[0.2407, 0.5186, 0.2407],
                [0.0000, 0.0000, 1.0000]])

    Reference:
        Imani and White, arXiv:1806.04613; Farebrother et al., Stop Regressing, arXiv:2403.03950, with the ratio 0.75.
    """
    check_support("hl_gauss", support, value=value)
    check_knob("hl_gauss", "sigma_to_bin_ratio", sigma_to_bin_ratio, 0.0, shapes=[value.shape])
    x, z = widest(value, support)
    return normal_mass(x, z, over_rows(sigma_to_bin_ratio)).to(promoted(value, support))


@public
def categorical_projection(probability: Tensor, atoms: Tensor, support: Tensor) -> Tensor:
    r"""A distribution moved onto a support: each atom's mass goes to the two neighbors, so that the mean stays.

    $$p'_k = \sum_j p_j\, h_k(x_j), \qquad h_k = \text{two\_hot of the atom } x_j$$

    Args:
        probability: `[*batch, N]`, or with critics first; of the atoms.
        atoms: `[*batch, N]`, for C51 $r + \gamma(1 - \text{terminated})z$; outside of the support as its nearest atom.
        support: `[K]`, sorted atoms.

    Returns:
        `[*batch, K]`, the mass of each row unchanged, float32 or wider.

    Gradient:
        `probability`, `atoms` (zero outside of the support), and `support`.

    Raises:
        ValueError: shapes that differ, a support that is no vector of at least two atoms.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> support = torch.tensor([0.0, 1.0, 2.0])
        >>> categorical_projection(torch.tensor([0.5, 0.5, 0.0]), 0.25 + 0.5 * support, support)
        tensor([0.5000, 0.5000, 0.0000])

    Reference:
        Bellemare, Dabney and Munos, A Distributional Perspective on Reinforcement Learning (C51), arXiv:1707.06887.
    """
    check_prediction("categorical_projection", probability=probability, atoms=atoms)
    check_axis("categorical_projection", "atoms", atoms, "atom")
    check_support("categorical_projection", support)
    return divided(*widest(probability, atoms.expand_as(probability), support))


@public
def categorical_loss(
    logits: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Cross-entropy of a critic's distribution and the target's, least where they are the same.

    $$\ell = -\sum_k p_k \log \operatorname{softmax}(\text{logits})_k, \qquad p = \text{target}$$

    Args:
        logits: `[*batch, K]`, or `[E, *batch, K]` with critics first.
        target: `[*batch, K]`, probabilities, or the shape of the logits.
        mask: bool, shape of target or logits without the last axis; True where the element exists.
        weight: importance, the same shapes; multiplies and never enters the denominator.
        reduction: `"mean"` over existing elements, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the logits' shape without its last axis for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `logits` (the softmax minus the target, for a target that sums to one); `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, no last axis, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> categorical_loss(torch.zeros(1, 4), torch.tensor([[0.0, 0.5, 0.5, 0.0]]))
        tensor(1.3863)

    Reference:
        Bellemare, Dabney and Munos, arXiv:1707.06887. See [Lineage](../lineage/distributional.md#categorical_loss).
    """
    check_prediction("categorical_loss", logits=logits, target=target)
    check_axis("categorical_loss", "logits", logits, "class")
    check_tail("categorical_loss", logits.shape[:-1], target.shape[:-1], mask, weight, reduction, denominator)
    x, p = select_rows(mask, upcast(logits)), select_rows(mask, upcast(target.detach()))
    log_p = torch.where(p == 0, 0.0, x.log_softmax(-1))  # an impossible class may have the logit −∞
    return reduce(-(p * log_p).sum(-1), mask, weight, reduction, denominator)


@public
def categorical_value(logits: Tensor, support: Tensor) -> Tensor:
    r"""Mean of a critic's distribution over its support: the value that it stands for.

    $$V = \sum_k z_k \operatorname{softmax}(\text{logits})_k$$

    Args:
        logits: `[*batch, K]`; −∞ for an atom without probability.
        support: `[K]`, atoms in units of the value.

    Returns:
        `[*batch]`, float32 or wider.

    Gradient:
        `logits` and `support`.

    Raises:
        ValueError: a support that is no vector of at least two atoms, logits of another size.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> categorical_value(torch.tensor([[0.0, 0.0, -torch.inf]]), torch.tensor([0.0, 1.0, 2.0]))
        tensor([0.5000])

    Reference:
        Bellemare, Dabney and Munos, arXiv:1707.06887.
    """
    check_support("categorical_value", support, logits=logits)
    check_axis("categorical_value", "logits", logits, "atom", len(support))
    x, z = widest(logits, support)
    part = times(x.softmax(-1), z)
    return (part + part.flip(-1)).sum(-1) / 2  # where atoms are ±z and equally likely, they cancel to the last digit


@public
def quantile_huber_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    quantile: Tensor | None = None,
    delta: Knob = 1.0,
    divide_by_delta: bool = False,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Regression of N quantiles on M samples of a return, with a Huber loss in place of straight lines.

    $$\ell = \sum_{i=1}^N \frac1M \sum_{j=1}^M \left| \tau_i - \mathbb 1[u_{ij} < 0] \right| H_\delta(u_{ij}),
    \qquad u_{ij} = \text{target}_j - \text{prediction}_i$$

    A sum over quantiles and a mean over samples. Divided by δ, it becomes `quantile_loss` as δ falls to zero.

    Args:
        prediction: `[*batch, N]`, or `[E, *batch, N]` with critics first.
        target: `[*batch, M]`, samples, or quantiles of the target.
        quantile: levels τ, `[N]`, `[*batch, N]` or the prediction's shape, in (0, 1); if None, $(i - \tfrac12)/N$.
        delta: where the square becomes a line, in units of the target; positive.
        divide_by_delta: whether to divide by δ, as IQN does and QR-DQN does not.
        mask: bool, shape of target or prediction without the last axis; True where the element exists.
        weight: importance, the same shapes; multiplies and never enters the denominator.
        reduction: `"mean"` over existing elements, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the prediction's shape without its last axis for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `prediction`, `quantile`, and `delta` if it is a tensor; `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, `delta` not positive, an unknown option.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> quantile_huber_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 3.0, 4.0]]))
        tensor(1.7500)

    Reference:
        Dabney et al., QR-DQN, arXiv:1710.10044; Dabney et al., Implicit Quantile Networks (IQN), arXiv:1806.06923. Sums
        and means differ elsewhere: see [Lineage](../lineage/distributional.md#quantile_huber_loss).
    """
    check_samples("quantile_huber_loss", prediction, target, quantile)
    check_tail("quantile_huber_loss", prediction.shape[:-1], target.shape[:-1], mask, weight, reduction, denominator)
    check_knob("quantile_huber_loss", "delta", delta, 0.0, shapes=[target.shape[:-1], prediction.shape[:-1]])
    check_option("quantile_huber_loss", "divide_by_delta", divide_by_delta, (False, True))
    x, y = select_rows(mask, upcast(prediction)), select_rows(mask, upcast(target.detach()))
    u = y.unsqueeze(-2) - x.unsqueeze(-1)
    if quantile is None:
        quantile = (beside(torch.arange(x.shape[-1], dtype=x.dtype, device=x.device), x) + 0.5) / x.shape[-1]
    level = select_rows(mask if quantile.ndim > 1 else None, upcast(quantile)).unsqueeze(-1)
    size, kink = u.abs(), scalar(over_rows(delta, 2), u)
    clipped = minimum(size, kink)
    loss = (level - (u < 0).to(u)).abs() * (clipped * (size - clipped / 2) / (kink if divide_by_delta else 1.0))
    return reduce(loss.mean(-1).sum(-1), mask, weight, reduction, denominator)
