r"""From values to actions: which samples a policy should follow, and how strictly, once a critic has scored them.

Candidates of one state lie on the last axis, and −∞ is the value of one that does not exist. The best fraction of a
batch is counted exactly, so that equal advantages never make it larger.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    Reduction,
    check_axis,
    check_flags,
    check_float,
    check_knob,
    check_shape,
    check_tail,
    present,
)
from offline_losses._core.errors import describe, refuse
from offline_losses._core.public import public
from offline_losses._core.reduce import clamped, in_double, reduce, select, upcast
from offline_losses._core.sharded import shared_out, whole
from offline_losses.entropic import soft_value, softmax_weights


@public
def mpo_weights(q: Tensor, *, temperature: Knob = 1.0) -> Tensor:
    r"""Share of each of a state's sampled actions in the improved policy (MPO): larger for a higher value.

    $$w_i = \frac{e^{Q(s, a_i) / T}}{\sum_j e^{Q(s, a_j) / T}}, \qquad a_i \sim \pi_\text{old}(\cdot \mid s)$$

    The policy then imitates the samples by these weights, `nll_loss(log_prob, weight=N * w)`. `mpo_temperature_loss`
    finds the temperature. It is `softmax_weights` without a density, since the samples come from the policy itself. For
    V-MPO the samples are those of a batch: pass `torch.where(best, advantage, -torch.inf)`, with the better half from
    `advantage_indicator`.

    Args:
        q: `[*batch, N]`, value of each sampled action, in units of return; −∞ for one that does not exist.
        temperature: $T$, units of return; positive. The lower, the more the best sample takes.

    Returns:
        `[*batch, N]`, each row sums to one, detached, in the input's dtype; zeros for a row without samples.

    Gradient:
        None: the weights are detached.

    Raises:
        ValueError: no sample axis, `temperature` not positive.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> mpo_weights(torch.tensor([[0.0, 0.0, -torch.inf]]))
        tensor([[0.5000, 0.5000, 0.0000]])

    Reference:
        Abdolmaleki et al., Maximum a Posteriori Policy Optimisation (MPO), arXiv:1806.06920 (E-step); Song et al.,
        V-MPO, arXiv:1909.12238.
    """
    check_float("mpo_weights", q=q)
    check_axis("mpo_weights", "q", q, "sample")
    check_knob("mpo_weights", "temperature", temperature, 0.0, shapes=[q.shape[:-1]])
    return softmax_weights(q, temperature=temperature)


@public
def mpo_temperature_loss(
    log_temperature: Tensor,
    q: Tensor,
    *,
    max_kl: Knob = 0.1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Raise the temperature of `mpo_weights` while they stray too far from the policy, lower it while they could more.

    $$T \epsilon + T \log \frac1N \sum_{i=1}^N e^{Q(s, a_i) / T}, \qquad T = e^{\log T}$$

    Its slope in $T$ is $\epsilon$ minus the relative entropy (KL) of the weights to equal ones, so that it rests where
    the mean over states of this divergence is $\epsilon$. It is convex in $T$.

    Args:
        log_temperature: 0-d, $\log T$, the dual variable.
        q: `[*batch, N]`, value of each sampled action; −∞ for one that does not exist.
        max_kl: $\epsilon$, nats; positive. With N samples no divergence exceeds $\log N$.
        mask: bool `[*batch]`, True where the state exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing states, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input. A state without samples has 0.

    Gradient:
        `log_temperature`, and `max_kl` if it is a tensor; `q` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, no sample axis, `max_kl` not positive, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> mpo_temperature_loss(torch.tensor(0.0), torch.tensor([[1.0, 1.0]]), max_kl=0.5)
        tensor(1.5000)

    Reference:
        Abdolmaleki et al., Maximum a Posteriori Policy Optimisation (MPO), arXiv:1806.06920 (dual of the
        E-step). Others learn T by another function of a parameter: see
        [Lineage](../lineage/extraction.md#mpo_temperature_loss).
    """
    check_float("mpo_temperature_loss", log_temperature=log_temperature, q=q)
    check_shape("mpo_temperature_loss", "a scalar", torch.Size(()), log_temperature=log_temperature)
    check_axis("mpo_temperature_loss", "q", q, "sample")
    batch = q.shape[:-1]
    check_tail("mpo_temperature_loss", batch, batch, mask, weight, reduction, denominator)
    check_knob("mpo_temperature_loss", "max_kl", max_kl, 0.0, shapes=[batch])
    value = select(None if mask is None else mask.unsqueeze(-1), upcast(q.detach()))
    exists = value != -torch.inf
    logarithm, limits = upcast(log_temperature), torch.finfo(upcast(log_temperature).dtype)
    temperature = clamped(logarithm, math.log(limits.tiny), math.log(limits.max) - 1).exp()  # it also divides
    # The mean over samples is the soft value under a density of one.
    soft = soft_value(value, log_density=torch.zeros_like(value), temperature=temperature, mask=exists)
    loss = torch.where(exists.any(-1), soft + temperature * max_kl, 0.0)
    return reduce(loss, mask, weight, reduction, denominator)


@public
def top_fraction_weights(advantage: Tensor, *, fraction: Knob = 0.5, mask: Tensor | None = None) -> Tensor:
    r"""One for the batch's samples of highest advantage, zero for the others: imitate the best, and them alike.

    $$w_i = \mathbb 1\left[ \text{rank of } A_i \le k \right], \qquad k = \max\left(1, \lfloor f n + \tfrac12 \rfloor
    \right) \text{ of } n$$

    Among equals the earlier one ranks first, so that their sum is $k$ however many are equal. It is
    `advantage_indicator` as a number, a `weight` of `nll_loss`.

    Args:
        advantage: `[*batch]`, units of return; all of one ranking. One that is NaN is never taken.
        fraction: $f$ in (0, 1].
        mask: bool `[*batch]`, True where the sample exists; only these are ranked, and count in $n$.

    Returns:
        `[*batch]`, zeros and ones, detached, in the input's dtype.

    Gradient:
        None: the weights are detached.

    Raises:
        ValueError: `fraction` out of range, a mask of another shape.
        TypeError: not a tensor, integer advantages, a mask that is not bool.

    Examples:
        >>> import torch
        >>> top_fraction_weights(torch.tensor([3.0, 1.0, 3.0, 3.0]), fraction=0.5)
        tensor([1., 0., 1., 0.])

    Reference:
        Song et al., V-MPO, arXiv:1909.12238 (the better half of the advantages). Others let equals in
        together: see [Lineage](../lineage/extraction.md#top_fraction_weights).
    """
    return _is_among_best("top_fraction_weights", advantage, fraction, mask).to(advantage.dtype)


@public
def advantage_indicator(advantage: Tensor, *, fraction: Knob = 0.3, mask: Tensor | None = None) -> Tensor:
    r"""Whether a sample is among the best of its task: what a policy is conditioned on, and told to be when it acts.

    $$I_i = \mathbb 1\left[ \text{rank of } A_i \le k \right], \qquad k = \max\left(1, \lfloor f n + \tfrac12 \rfloor
    \right) \text{ of } n$$

    A fixed fraction is as good as a threshold at its quantile, and stays what it is where many advantages are equal.
    Rank each task on its own, `advantage_indicator(advantage, mask=task == k)`, and put their results together by `|`;
    set what a person corrected to True yourself.

    Args:
        advantage: `[*batch]`, units of return; all of one ranking. One that is NaN is never taken.
        fraction: $f$ in (0, 1], the share that is called good.
        mask: bool `[*batch]`, True where the sample takes part; only these count in $n$, and the others are False.

    Returns:
        bool `[*batch]`; the earlier one of equals ranks first.

    Gradient:
        None: a selection.

    Raises:
        ValueError: `fraction` out of range, a mask of another shape.
        TypeError: not a tensor, integer advantages, a mask that is not bool.

    Examples:
        >>> import torch
        >>> advantage_indicator(torch.tensor([3.0, 1.0, 2.0, 3.0]), fraction=0.5)
        tensor([ True, False, False,  True])

    Reference:
        Physical Intelligence, a VLA that learns from experience (RECAP), arXiv:2511.14759 (binarized advantages with a
        threshold for each task). Public code compares with a quantile: see
        [Lineage](../lineage/extraction.md#advantage_indicator).
    """
    return _is_among_best("advantage_indicator", advantage, fraction, mask)


@public
def best_of_n(q: Tensor, action: Tensor) -> Tensor:
    r"""The candidate action that the critic values most: what a generative policy does when it acts.

    $$a^* = a_{i^*}, \qquad i^* = \arg\max_i Q(s, a_i)$$

    Args:
        q: `[*batch, N]`, critics reduced; −∞ for a candidate that does not exist. The first of equals is taken.
        action: `[*batch, N, A]`, the candidates.

    Returns:
        `[*batch, A]`, in the dtype of `action`; zeros for a state without candidates.

    Gradient:
        `action`, of the chosen candidate; `q` has none.

    Raises:
        ValueError: shapes that differ, no candidate axis.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> best_of_n(torch.tensor([[1.0, 4.0]]), torch.tensor([[[0.1, 0.2], [0.3, 0.4]]]))
        tensor([[0.3000, 0.4000]])

    Reference:
        Fujimoto, Meger and Precup, Off-Policy Deep Reinforcement Learning without Exploration (BCQ), arXiv:1812.02900;
        Hansen-Estruch et al., IDQL, arXiv:2304.10573 (candidates of a diffusion model).
    """
    check_float("best_of_n", q=q, action=action)
    check_axis("best_of_n", "q", q, "candidate")
    if action.ndim != q.ndim + 1 or action.shape[:-1] != q.shape:
        expected = f"shape [{', '.join([*map(str, q.shape), 'A'])}] (an action for each value)"
        refuse(ValueError, "best_of_n", "action", expected, describe(action), "Put candidates before dimensions.")
    index = q.detach().argmax(-1, keepdim=True)
    exists = (q.detach() != -torch.inf).any(-1, keepdim=True)
    chosen = action.gather(-2, index.unsqueeze(-1).expand(*index.shape, action.shape[-1])).squeeze(-2)
    return torch.where(exists, chosen, 0.0)


def _is_among_best(function: str, advantage: Tensor, fraction: Knob, mask: Tensor | None) -> Tensor:
    check_float(function, advantage=advantage)
    check_knob(function, "fraction", fraction, 0.0, 1.0, "(]")
    check_flags(function, advantage.shape, **present(mask=mask))
    x = advantage.detach()
    x, exists = whole(x), None if mask is None else whole(mask)
    ranked = (x if exists is None else torch.where(exists, x, torch.nan)).flatten()
    count = ranked.numel() if exists is None else exists.sum()
    share = fraction.detach().double() if isinstance(fraction, Tensor) else in_double(fraction, x.device)
    kept = (share * count + 0.5).floor().clamp(min=1)
    order = ranked.neg().argsort(stable=True)  # what is not a number comes last
    first = torch.arange(ranked.numel(), device=x.device) < kept
    among = torch.zeros_like(first).scatter(0, order, first)
    return shared_out((among & ~ranked.isnan()).view(x.shape), advantage)
