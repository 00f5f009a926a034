r"""Scores of several runs on several tasks as a few numbers that do not hang on the luckiest of them.

A table of scores is `[*task, runs]`, the runs of one algorithm last. Average over everything at once: a mean of tasks'
trimmed means is another number, and so is an interval that ignores how few the runs are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from offline_losses._core.checks import Knob, check_axis, check_count, check_float, check_knob, check_shape, check_some
from offline_losses._core.public import public
from offline_losses._core.reduce import summed, upcast
from offline_losses.intervals import Interval, check_generator, number, quantiles


@public
def normalized_score(score: Tensor, *, random_score: Knob, reference_score: Knob) -> Tensor:
    r"""Score on a scale where a random policy has 0 and a reference policy, an expert for instance, has 1.

    $$\frac{s - s_{\text{random}}}{s_{\text{reference}} - s_{\text{random}}}$$

    D4RL's normalized scores are 100 times this.

    Args:
        score: `[*batch]`, returns.
        random_score: $s_{\text{random}}$, or a tensor `[*batch]` of one for each score.
        reference_score: $s_{\text{reference}}$, likewise; another number than that.

    Returns:
        `[*batch]`, in the score's dtype.

    Gradient:
        `score`, and `random_score` and `reference_score` if they are tensors.

    Raises:
        ValueError: shapes that differ, a number that is not finite.
        TypeError: not a tensor, integer scores.

    Examples:
        >>> import torch
        >>> normalized_score(torch.tensor([-20.0, 180.0]), random_score=-20.0, reference_score=80.0)
        tensor([0., 2.])

    Reference:
        Fu, Kumar, Nachum, Tucker and Levine, D4RL: Datasets for Deep Data-Driven Reinforcement Learning,
        arXiv:2004.07219.
    """
    check_float("normalized_score", score=score)
    check_knob("normalized_score", "random_score", random_score, -math.inf, math.inf, "()", [score.shape])
    check_knob("normalized_score", "reference_score", reference_score, -math.inf, math.inf, "()", [score.shape])
    return ((upcast(score) - random_score) / (reference_score - random_score)).to(score.dtype)


@public
def interquartile_mean(score: Tensor) -> Tensor:
    r"""Mean of the middle half of all scores (IQM): robust as the median is, and less noisy with few runs.

    $$\frac{1}{n - 2k} \sum_{i = k + 1}^{n - k} s_{(i)}, \qquad k = \lfloor n / 4 \rfloor$$

    for the $n$ scores in ascending order, those of all runs and tasks together. Fewer than four lose none of them.

    Args:
        score: `[*batch]`, normalized, so that tasks have one scale.

    Returns:
        0-d, float32 or wider.

    Gradient:
        `score`, those of the middle half.

    Raises:
        ValueError: no score.
        TypeError: not a tensor, integer scores.

    Examples:
        >>> import torch
        >>> interquartile_mean(torch.tensor([[0.0, 1.0], [3.0, 100.0]]))
        tensor(2.)

    Reference:
        Agarwal, Schwarzer, Castro, Courville and Bellemare, Deep Reinforcement Learning at the Edge of the Statistical
        Precipice, arXiv:2108.13264.
    """
    check_float("interquartile_mean", score=score)
    check_some("interquartile_mean", "score", score, "sample")
    ranked = upcast(score).flatten().sort(stable=True).values
    cut = ranked.numel() // 4
    return ranked[cut : ranked.numel() - cut].mean().to(summed(score))


@public
def probability_of_improvement(score: Tensor, other_score: Tensor) -> Tensor:
    r"""How likely a run of one algorithm scores higher than a run of another, on each task; ties count half.

    $$\frac{1}{M N} \sum_{i, j} \left( \mathbb 1[x_i > y_j] + \tfrac12 \mathbb 1[x_i = y_j] \right)$$

    It says how often, and not by how much. Over tasks take its mean.

    Args:
        score: `[*task, M]`, runs of the one, last.
        other_score: `[*task, N]`, runs of the other.

    Returns:
        `[*task]`, in [0, 1], float32 or wider; NaN where a score is.

    Gradient:
        None: comparisons have none.

    Raises:
        ValueError: other tasks, no run.
        TypeError: not a tensor, integer scores.

    Examples:
        >>> import torch
        >>> probability_of_improvement(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0]))
        tensor(0.6250)

    Reference:
        Agarwal et al., arXiv:2108.13264. One public form is its mean over tasks: see
        [Lineage](../lineage/reporting.md#probability_of_improvement).
    """
    check_float("probability_of_improvement", score=score, other_score=other_score)
    check_axis("probability_of_improvement", "score", score, "run")
    check_axis("probability_of_improvement", "other_score", other_score, "run")
    tasks = torch.Size([*score.shape[:-1], other_score.shape[-1]])
    check_shape("probability_of_improvement", "score up to its last axis", tasks, other_score=other_score)
    x, y = upcast(score).unsqueeze(-1), upcast(other_score).unsqueeze(-2)
    wins = (x > y).to(summed(score, other_score)) + 0.5 * (x == y)
    return torch.where(x.isnan() | y.isnan(), torch.nan, wins).mean((-2, -1))


@public
def stratified_bootstrap_interval(
    metric: Callable[[Tensor], Tensor],
    score: Tensor,
    *,
    generator: Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    r"""Interval of a metric between its quantiles over resampled runs, drawn for each task by itself.

    $$\left[ q_{(1-p)/2},\ q_{(1+p)/2} \right] \text{ of } m(S^*_1), \dots, m(S^*_B)$$

    where each $S^*$ has as many runs of every task as $S$, drawn with replacement among its own. It looks at values,
    for which it waits for a device.

    Args:
        metric: a function of scores `[*task, runs]` that returns a 0-d tensor, such as `interquartile_mean`.
        score: `[*task, runs]`.
        generator: draws the runs; no other random state is read or moved.
        resamples: $B$, how many.
        level: $p$ in (0, 1).

    Returns:
        `Interval(low, high)`, both 0-d.

    Gradient:
        None: the interval is detached.

    Raises:
        ValueError: no run, a number out of range.
        TypeError: not a tensor, integer scores.

    Examples:
        >>> import torch
        >>> score = torch.tensor([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]])  # tasks differ, runs do not
        >>> stratified_bootstrap_interval(torch.mean, score, generator=torch.Generator(), resamples=9)
        Interval(low=tensor(2.), high=tensor(2.))

    Reference:
        Agarwal et al., arXiv:2108.13264 (stratified bootstrap).
    """
    check_float("stratified_bootstrap_interval", score=score)
    check_axis("stratified_bootstrap_interval", "score", score, "run")
    check_count("stratified_bootstrap_interval", "resamples", resamples, 1)
    check_knob("stratified_bootstrap_interval", "level", level, 0.0, 1.0)
    check_generator("stratified_bootstrap_interval", generator)
    found = []
    for _ in range(resamples):
        drawn = torch.randint(score.shape[-1], score.shape, generator=generator, device=generator.device)
        result = metric(score.gather(-1, drawn.to(score.device)))
        found.append(number("stratified_bootstrap_interval", "metric", result))
    return quantiles(torch.stack(found), level)
