r"""A policy beside a reference policy: learn from which answer was preferred, from rewards, or from every step.

All rest on one fact: the policy that earns the most reward less $\beta$ times its divergence from $\pi_\text{ref}$ is
$\pi \propto \pi_\text{ref}\,e^{r / \beta}$, so that $\beta \log \pi / \pi_\text{ref}$ is a reward. A log-ratio of a
sequence is a difference of two of `sequence_log_prob`, the reference's under `torch.no_grad()`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from offline_losses._core.checks import (
    Knob,
    Reduction,
    check_count,
    check_knob,
    check_option,
    check_sequence,
    check_tail,
    check_values,
)
from offline_losses._core.errors import refuse
from offline_losses._core.public import public
from offline_losses._core.reduce import log_sigmoid, over_steps, reduce, scalar, select, times, upcast
from offline_losses.returns import n_step_return

KINDS = ("dpo", "cdpo", "robust_dpo", "exo", "ipo", "hinge", "nca", "bco", "sppo", "apo_zero", "apo_down")
SMOOTHED = ("cdpo", "robust_dpo", "exo")


@public
def preference_loss(
    chosen_log_ratio: Tensor,
    rejected_log_ratio: Tensor,
    *,
    kind: Literal[
        "dpo", "cdpo", "robust_dpo", "exo", "ipo", "hinge", "nca", "bco", "sppo", "apo_zero", "apo_down"
    ] = "dpo",
    kl_weight: Knob = 0.1,
    label_smoothing: Knob | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Make the preferred of two answers likelier than the other, by the reference's measure: DPO and its relatives.

    With $c = \beta \log \frac{\pi(y_w \mid x)}{\pi_\text{ref}(y_w \mid x)}$, $r$ likewise of the rejected, $h = c - r$:

    $$\begin{aligned}
    \text{dpo} &\quad -\log \sigma(h) & \text{ipo} &\quad (h - \tfrac12)^2 / \beta^2 \\
    \text{cdpo} &\quad -(1 - \epsilon) \log \sigma(h) - \epsilon \log \sigma(-h) & \text{hinge} &\quad \max(0, 1 - h) \\
    \text{robust\_dpo} &\quad \tfrac{-(1 - \epsilon) \log \sigma(h) + \epsilon \log \sigma(-h)}{1 - 2 \epsilon} &
    \text{sppo} &\quad \left( (c - \tfrac12)^2 + (r + \tfrac12)^2 \right) / \beta^2 \\
    \text{exo} &\quad \sigma(h) \log \tfrac{\sigma(h)}{1 - \epsilon} + \sigma(-h) \log \tfrac{\sigma(-h)}{\epsilon} &
    \text{bco} &\quad -\log \sigma(c) - \log \sigma(-r) \\
    \text{apo\_zero} &\quad \sigma(-c) + \sigma(r) & \text{apo\_down} &\quad \sigma(c) + \sigma(-h) \\
    \text{nca} &\quad -\log \sigma(c) - \tfrac12 \log \sigma(-c) - \tfrac12 \log \sigma(-r)
    \end{aligned}$$

    Kinds of $h$ alone lower the probability of both answers if that widens the margin; the others hold each answer by
    itself (`"apo_down"` the chosen one). `"cdpo"` believes that a share $\epsilon$ of the labels is wrong and stops at
    $\sigma(h) = 1 - \epsilon$; `"robust_dpo"` corrects for it without bias, and is not bounded below.

    Args:
        chosen_log_ratio: `[*batch]`, $\log \pi / \pi_\text{ref}$ of the preferred answers; of `"ipo"` often divided by
            their length, and of SimPO the policy's mean log-probability alone.
        rejected_log_ratio: `[*batch]`, of the others.
        kind: one of the eleven.
        kl_weight: $\beta$, positive; the price of a nat of divergence, in units of reward; larger stays nearer.
        label_smoothing: $\epsilon$, for `"cdpo"`, `"robust_dpo"` (in [0, ½)) and `"exo"` (in (0, ½)) alone.
        mask: bool `[*batch]`, True where the pair exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing pairs, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        Both log-ratios, and the knobs if they are tensors; `weight` is detached.

    Raises:
        ValueError: shapes that differ, a knob out of range, a smoothing that the kind does not use, an unknown kind.
        TypeError: not a tensor, integer values, a mask that is not bool, no smoothing where the kind needs one.

    Examples:
        >>> import torch
        >>> preference_loss(torch.tensor([2.0]), torch.tensor([-3.0]), kl_weight=0.5)
        tensor(0.0789)

    Reference:
        Rafailov et al., DPO, arXiv:2305.18290, equation 7; Mitchell, A note on DPO with noisy preferences, 2023 (cDPO);
        Chowdhury et al., arXiv:2403.00409 (robust); Ji et al., arXiv:2402.00856 (EXO); Azar et al., arXiv:2310.12036,
        equation 17 (IPO); Zhao et al., SLiC-HF, arXiv:2305.10425 (hinge); Chen et al., arXiv:2402.05369 (NCA); Jung et
        al., arXiv:2404.04656 (BCO without its shift); Wu et al., arXiv:2405.00675 (SPPO, certain labels); D'Oosterlinck
        et al., arXiv:2408.06266 (APO). What TRL does: see [Lineage](../lineage/language.md#preference_loss).
    """
    check_values("preference_loss", chosen_log_ratio=chosen_log_ratio, rejected_log_ratio=rejected_log_ratio)
    check_tail("preference_loss", chosen_log_ratio.shape, chosen_log_ratio.shape, mask, weight, reduction, denominator)
    _check_kind(kind, kl_weight, label_smoothing, chosen_log_ratio.shape)
    chosen, rejected = select(mask, upcast(chosen_log_ratio)), select(mask, upcast(rejected_log_ratio))
    loss = _preference(kind, kl_weight * chosen, kl_weight * rejected, kl_weight, label_smoothing)
    return reduce(loss, mask, weight, reduction, denominator)


def _preference(kind: str, c: Tensor, r: Tensor, kl_weight: Knob, e: Knob | None) -> Tensor:
    h = c - r
    if kind == "dpo":
        return -log_sigmoid(h)
    if e is not None and kind == "cdpo":
        return -(1 - e) * log_sigmoid(h) - times(e, log_sigmoid(-h))
    if e is not None and kind == "robust_dpo":
        return (times(e, log_sigmoid(-h)) - (1 - e) * log_sigmoid(h)) / (1 - 2 * e)
    if e is not None and kind == "exo":
        wins, loses, e = log_sigmoid(h), log_sigmoid(-h), scalar(e, h)
        return times(wins.exp(), wins - torch.log1p(-e)) + times(loses.exp(), loses - e.log())
    if kind == "ipo":
        return ((h - 0.5) / kl_weight).square()
    if kind == "hinge":
        return (1 - h).relu()
    if kind == "nca":
        return -log_sigmoid(c) - log_sigmoid(-c) / 2 - log_sigmoid(-r) / 2
    if kind == "bco":
        return -log_sigmoid(c) - log_sigmoid(-r)
    if kind == "sppo":
        return ((c - 0.5) / kl_weight).square() + ((r + 0.5) / kl_weight).square()
    return (-c).sigmoid() + r.sigmoid() if kind == "apo_zero" else c.sigmoid() + (-h).sigmoid()


def _check_kind(kind: str, kl_weight: Knob, label_smoothing: Knob | None, batch: torch.Size) -> None:
    check_option("preference_loss", "kind", kind, KINDS)
    check_knob("preference_loss", "kl_weight", kl_weight, 0.0, shapes=[batch])
    if kind in SMOOTHED:
        if label_smoothing is None:
            mend = "Pass the share of labels that you believe to be wrong, 0.1 for instance."
            refuse(TypeError, "preference_loss", "label_smoothing", f"a number for kind {kind!r}", "None", mend)
        bounds = "()" if kind == "exo" else "[)"
        check_knob("preference_loss", "label_smoothing", label_smoothing, 0.0, 0.5, bounds, [batch])
    elif label_smoothing is not None:
        mend = f"It is used by {', '.join(SMOOTHED)}; of {kind!r} leave it out."
        refuse(ValueError, "preference_loss", "label_smoothing", f"None for kind {kind!r}", f"{label_smoothing}", mend)


@public
def reward_regression_loss(
    log_ratio: Tensor,
    target: Tensor,
    *,
    kind: Literal["rebel", "qrpo"],
    kl_weight: Knob = 0.1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Regress the reward that a policy stands for to a reward that was given: REBEL on pairs, QRPO on single answers.

    $$\left( \text{target} - \beta \log Z - \beta \log \frac{\pi}{\pi_\text{ref}} \right)^2, \qquad
    \log Z = \begin{cases} 0 & \text{rebel} \\ \log \beta + \log(e^{1/\beta} - 1) & \text{qrpo} \end{cases}$$

    A reward stands beside the logarithm of a partition function $Z$ that nobody knows. In the difference of two
    answers to one prompt it cancels: for `"rebel"` both arguments are such differences. It is known for a reward that
    is uniform under the reference: for `"qrpo"` the target is the share of the reference's answers that this one beats.

    Args:
        log_ratio: `[*batch]`, $\log \pi / \pi_\text{ref}$ of answers; for `"rebel"` that of one less that of another.
        target: `[*batch]`, for `"rebel"` the reward of the one less that of the other; for `"qrpo"` a quantile.
        kind: `"rebel"` or `"qrpo"`.
        kl_weight: $\beta$, positive, $1 / \eta$ in REBEL: the price of a nat of divergence, in units of reward.
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `log_ratio`, and `kl_weight` if it is a tensor; `target` and `weight` are detached.

    Raises:
        ValueError: shapes that differ, `kl_weight` not positive, an unknown kind or reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> reward_regression_loss(torch.zeros(1), torch.tensor([0.5]), kind="qrpo", kl_weight=1.0)
        tensor(0.0017)

    Reference:
        Gao et al., arXiv:2404.16767 (REBEL); Matrenok, Moalla and Gulcehre, arXiv:2507.08068 (QRPO). A public log Z is
        another: see [Lineage](../lineage/language.md#reward_regression_loss).
    """
    check_values("reward_regression_loss", log_ratio=log_ratio, target=target)
    check_tail("reward_regression_loss", log_ratio.shape, log_ratio.shape, mask, weight, reduction, denominator)
    check_option("reward_regression_loss", "kind", kind, ("rebel", "qrpo"))
    check_knob("reward_regression_loss", "kl_weight", kl_weight, 0.0, shapes=[log_ratio.shape])
    u = select(mask, upcast(target.detach())) - kl_weight * select(mask, upcast(log_ratio))
    if kind == "qrpo":
        b = scalar(kl_weight, u)
        half = torch.tanh(0.5 / b)  # e^(1/b) overflows, and e^(1/b) - 1 has no digits where b is large
        u = u - (1 + b * ((2 * b * half).log() - torch.log1p(half)))
    return reduce(u.square(), mask, weight, reduction, denominator)


@public
def path_consistency_loss(
    value: Tensor,
    next_value: Tensor,
    reward: Tensor,
    log_ratio: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    n: int,
    kl_weight: Knob = 0.1,
    discount: Knob = 1.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Squared contradiction between values and policy along n steps: zero only where both are the optimum's (PCL).

    $$\left( V_t - \sum_{k=0}^{m-1} \gamma^k \left( r_{t+k} - \beta \log \frac{\pi_{t+k}}{\pi_{\text{ref}, t+k}} \right)
    - \gamma^m V'_{t+m-1} \right)^2, \qquad V' = 0 \text{ where terminated}$$

    The sums are those of `n_step_return`: $m$ is $n$, or what is left of the episode, or of the steps that exist.
    The optimum of reward less $\beta$ times the divergence satisfies this for every path, whoever walked it, so that no
    importance ratio is needed.

    Args:
        value: `[*batch, T]`, $V(s_t)$.
        next_value: `[*batch, T]`, $V'_t$, value of each step's next state.
        reward: `[*batch, T]`; of an answer that is judged once, its last step's.
        log_ratio: `[*batch, T]`, $\log \pi / \pi_\text{ref}$ of each action or token.
        terminated: bool `[*batch, T]`, True where the environment, or the answer, ended.
        done: bool `[*batch, T]`, True on the last step of an episode.
        n: how many steps at most; $T$ for all that follow. The cost grows with it.
        kl_weight: $\beta$, positive; the price of a nat of divergence, in units of reward.
        discount: $\gamma$ in [0, 1], or a tensor `[*batch, T]` of one for each step.
        mask: bool `[*batch, T]`, True where the step exists; a path ends before one that does not, and bootstraps.
        weight: `[*batch, T]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing steps, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch, T]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `value`, `next_value`, `reward`, `log_ratio`, and the knobs if they are tensors; `weight` is detached.

    Raises:
        ValueError: shapes that differ, a knob out of range, `n` below 1, unknown reduction.
        TypeError: not a tensor, integer values, flags or a mask that are not bool, `n` not an int.

    Examples:
        >>> import torch
        >>> end, zero = torch.tensor([False, True]), torch.zeros(2)
        >>> path_consistency_loss(torch.ones(2), torch.ones(2), end.float(), zero, end, end, n=2)
        tensor(0.)

    Reference:
        Nachum, Norouzi, Xu and Schuurmans, arXiv:1702.08892 (PCL); Wang et al., arXiv:2412.16145 (OREO). See
        [Lineage](../lineage/language.md#path_consistency_loss).
    """
    values = {"value": value, "next_value": next_value, "reward": reward, "log_ratio": log_ratio}
    check_sequence("path_consistency_loss", discount, values, terminated=terminated, done=done)
    check_count("path_consistency_loss", "n", n, 1)
    check_knob("path_consistency_loss", "kl_weight", kl_weight, 0.0, shapes=[value.shape[:-1], value.shape])
    check_tail("path_consistency_loss", value.shape, value.shape, mask, weight, reduction, denominator)
    v, following, r, ratio = (select(mask, upcast(x)) for x in values.values())
    end = done if mask is None else done | ~mask | ~pad(mask[..., 1:], (0, 1), value=False)
    earned = n_step_return(r - over_steps(kl_weight, r) * ratio, following, terminated, end, n=n, discount=discount)
    return reduce((v - earned).square(), mask, weight, reduction, denominator)
