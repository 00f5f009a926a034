r"""Values where the data hold nothing: push them down, or pull them to what the data's own actions are worth.

Both losses stand beside the ordinary one on the data, `squared_loss` with a Bellman target.
"""

from __future__ import annotations

import torch
from torch import Tensor

from offline_losses._core.checks import Knob, Reduction, check_flags, check_float, check_tail
from offline_losses._core.errors import describe, refuse
from offline_losses._core.public import public
from offline_losses._core.reduce import reduce, select, upcast


@public
def combo_penalty(
    q: Tensor,
    rollout: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Mean Q of a model's rollouts less mean Q of the data: large where Q prefers what only the model has seen.

    $$\frac{1}{n_\text{rollout}} \sum_\text{rollout} Q(s, a) - \frac{1}{n_\text{data}} \sum_\text{data} Q(s, a)$$

    Both lie in one batch, as they do in the rest of the update, in any proportion. An element is its Q times
    $n / n_\text{rollout}$ or $-n / n_\text{data}$, of $n$ samples in all, so that the mean is the formula. For a soft
    maximum over actions in place of the rollout's own action pass
    `torch.where(rollout, soft_value(q_candidates, log_density=...), q)`.

    Args:
        q: `[*batch]` or `[E, *batch]`, of rollouts and of data.
        rollout: bool `[*batch]`, True where the sample comes from the model, False where it comes from the data.
        mask: bool, shape of rollout or q; True where the sample exists.
        weight: importance, likewise; multiplies and never enters a denominator.
        reduction: `"mean"` over existing samples (and critics), `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the shape of q for `"none"`; float32, or float64 for float64 input. Of a batch that holds only rollouts,
        or only data, the other term is 0.

    Gradient:
        `q`: positive on rollouts, negative on data, of equal sums; `weight` is detached.

    Raises:
        ValueError: shapes that differ, unknown reduction.
        TypeError: not a tensor, integer values, a mask or rollout that is not bool.

    Examples:
        >>> import torch
        >>> combo_penalty(torch.tensor([5.0, 1.0, 2.0]), torch.tensor([True, False, False]))
        tensor(3.5000)

    Reference:
        Yu et al., COMBO: Conservative Offline Model-Based Policy Optimization, arXiv:2102.08363, section 3
        (conservative policy evaluation). One public implementation pushes nothing down: see
        [Lineage](../lineage/out_of_distribution.md#combo_penalty).
    """
    check_float("combo_penalty", q=q)
    check_flags(
        "combo_penalty", q.shape[-(getattr(rollout, "ndim", 0) or q.ndim) :] if q.ndim else q.shape, rollout=rollout
    )
    check_tail("combo_penalty", q.shape, rollout.shape, mask, weight, reduction, denominator)
    x = select(mask, upcast(q))
    from_model = rollout.expand_as(x) if mask is None else mask & rollout.expand_as(x)
    n = x.numel() if mask is None else mask.expand_as(x).sum().to(x.dtype)
    n_rollout = from_model.sum().to(x.dtype)
    share = torch.where(rollout, n / n_rollout.clamp(min=1), -n / (n - n_rollout).clamp(min=1))
    return reduce(x * share, mask, weight, reduction, denominator)


@public
def mcq_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Squared distance of an action's value from that of the best action of the data: conservative, but only mildly.

    $$\left( Q(s, a_\pi) - \max_i \bar Q(s, a_i) \right)^2, \qquad a_\pi \sim \pi(\cdot \mid s), \quad
    a_i \sim \beta(\cdot \mid s)$$

    The policy's own action is worth what the best of the behavior model's actions is worth, no more and no less. MCQ
    mixes this with the loss on the data, `ratio * squared_loss(q, y) + (1 - ratio) * mcq_loss(q_policy, q_behavior)`,
    at a ratio below 1.

    Args:
        prediction: `[*batch]`, or `[E, *batch]` with critics first: Q of the policy's action.
        target: `[*batch, N]`, slow copy's Q of N actions of a behavior model, the smaller critic's for instance
            (`ensemble_min`); −∞ for one that does not exist.
        mask: bool, shape of prediction or of target without its last axis; True where the sample exists.
        weight: importance, likewise; multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples (and critics), `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or the prediction's shape for `"none"`; float32, or float64 for float64 input. A sample without candidates
        has 0.

    Gradient:
        `prediction` only; `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, no candidate axis, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> mcq_loss(torch.tensor([5.0]), torch.tensor([[1.0, 3.0]]))
        tensor(4.)

    Reference:
        Lyu, Ma, Li and Lu, Mildly Conservative Q-Learning for Offline Reinforcement Learning, arXiv:2206.04745,
        section 4 (the practical algorithm).
    """
    _check_candidates("mcq_loss", prediction, target)
    best = upcast(target.detach()).amax(-1)
    check_tail("mcq_loss", prediction.shape, best.shape, mask, weight, reduction, denominator)
    u = torch.where(best == -torch.inf, 0.0, best - upcast(prediction))
    return reduce(select(mask, u).square(), mask, weight, reduction, denominator)


def _check_candidates(function: str, prediction: Tensor, target: Tensor) -> None:
    """Refuse a target that has no axis of candidates after the prediction's batch."""
    check_float(function, prediction=prediction, target=target)
    shape, rows = prediction.shape, target.shape[:-1]
    critics = len(shape) - len(rows)
    if not target.ndim or not target.shape[-1] or critics < 0 or shape[critics:] != rows or (critics and not rows):
        expected = f"shape [{', '.join(map(str, [*shape, 'N']))}] of at least one candidate"
        mend = "For one candidate each, target.unsqueeze(-1) does." if target.shape == shape else "Reshape it to match."
        refuse(ValueError, function, "target", expected, describe(target), mend)
