r"""Dataset time in parts: statistics that merge, in any order, and a choice among episodes that no part can make alone.

Whoever reads a part, be it a file, a process or a stream, makes the moments of what it sees. Those of all parts are
stacked and merged into those of the whole.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    check_axis,
    check_critics,
    check_few_axes,
    check_flags,
    check_float,
    check_integers,
    check_knob,
    check_option,
    check_rows,
    check_some,
    check_values,
    present,
)
from offline_losses._core.public import public
from offline_losses._core.ranking import best_of_table
from offline_losses._core.reduce import in_double, select, summed, total, upcast
from offline_losses._core.root import root
from offline_losses._core.sharded import beside, whole
from offline_losses.filters import ObservationStatistics


class ObservationMoments(NamedTuple):
    """How many samples, 0-d, their mean, and the sum of their squared distances from it, both `[D]`."""

    samples: Tensor
    mean: Tensor
    squared_deviation: Tensor


class ReturnThreshold(NamedTuple):
    """The lowest return that is kept, and the place in the table of the last kept episode that has it, both 0-d."""

    value: Tensor
    episode: Tensor


@public
def observation_moments(observation: Tensor, *, mask: Tensor | None = None) -> ObservationMoments:
    r"""Count, mean and squared deviation of each observation dimension over a part of the data, for `merged_moments`.

    $$n = \sum_i 1, \qquad \mu_d = \frac1n \sum_i o_{id}, \qquad S_d = \sum_i (o_{id} - \mu_d)^2$$

    Returns of episodes `[N]` have moments too: pass them as `[N, 1]`.

    Args:
        observation: `[N, D]` or `[*batch, T, D]`, at most three axes; all but the last are samples.
        mask: bool `[*batch]`, True where the sample exists.

    Returns:
        `ObservationMoments(samples, mean, squared_deviation)`, 0-d, `[D]` and `[D]`, float32 or wider; zeros if
        there is no sample.

    Gradient:
        `observation`.

    Raises:
        ValueError: no observation axis, more than three axes (images), a mask of another shape.
        TypeError: not a tensor, integer observations, a mask that is not bool.

    Examples:
        >>> import torch
        >>> observation_moments(torch.tensor([[1.0], [3.0]]))
        ObservationMoments(samples=tensor(2.), mean=tensor([2.]), squared_deviation=tensor([2.]))

    Reference:
        Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.
    """
    check_float("observation_moments", observation=observation)
    check_axis("observation_moments", "observation", observation, "dimension")
    check_few_axes("observation_moments", "observation", observation)
    check_flags("observation_moments", observation.shape[:-1], **present(mask=mask))
    exists = None if mask is None else mask.reshape(-1, 1)
    rows = upcast(observation).reshape(-1, observation.shape[-1])
    samples = rows.new_full((), len(rows)) if exists is None else exists.sum().to(rows.dtype)
    mean = total(select(exists, rows), 0) / samples.clamp(min=1)
    return ObservationMoments(samples, mean, total(select(exists, rows - mean).square(), 0))


@public
def merged_moments(samples: Tensor, mean: Tensor, squared_deviation: Tensor) -> ObservationMoments:
    r"""Moments of the whole from those of its parts, as exact as if it had been read at once, whatever their order.

    $$n = \sum_p n_p, \qquad \mu = \sum_p \frac{n_p}n\, \mu_p, \qquad
    S = \sum_p S_p + \sum_p n_p (\mu_p - \mu)^2$$

    What has been merged may be merged again. Sums of squares would lose all digits where a mean is large beside its
    deviation.

    Args:
        samples: `[P, *batch]`, how many each of P parts has.
        mean: `[P, *batch, D]`; of a part without samples any number, as the next.
        squared_deviation: `[P, *batch, D]`.

    Returns:
        `ObservationMoments(samples, mean, squared_deviation)`, `[*batch]`, `[*batch, D]` and `[*batch, D]`, float32 or
        wider; zeros if no part has a sample.

    Gradient:
        All three.

    Raises:
        ValueError: shapes that differ, no part, no axis of dimensions.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> parts = [observation_moments(x) for x in torch.tensor([[[1.0], [3.0]], [[5.0], [7.0]]])]
        >>> merged_moments(*map(torch.stack, zip(*parts)))
        ObservationMoments(samples=tensor(4.), mean=tensor([4.]), squared_deviation=tensor([20.]))

    Reference:
        Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979,
        equation 2.1, for many parts at once.
    """
    _check_moments("merged_moments", samples, mean, squared_deviation)
    check_critics("merged_moments", what="part", samples=samples)
    dtype = summed(samples, mean, squared_deviation)
    parts = samples.to(dtype).unsqueeze(-1)
    mean, deviation = (torch.where(parts == 0, 0.0, x.to(dtype)) for x in (mean, squared_deviation))
    n = total(parts, 0)
    merged = total(parts / torch.where(n == 0, 1.0, n) * mean, 0)
    between = total(parts * (mean - merged).square(), 0)
    return ObservationMoments(n.squeeze(-1), merged, total(deviation, 0) + between)


@public
def moment_statistics(samples: Tensor, mean: Tensor, squared_deviation: Tensor) -> ObservationStatistics:
    r"""Mean and standard deviation that moments stand for, as `observation_statistics` gives them.

    $$\sigma_d = \sqrt{S_d / n}$$

    Args:
        samples: `[*batch]`, how many there are.
        mean: `[*batch, D]`.
        squared_deviation: `[*batch, D]`.

    Returns:
        `ObservationStatistics(mean, std)`, both `[*batch, D]`, float32 or wider; zeros where there is no sample.

    Gradient:
        All three (none through the deviation of a constant dimension).

    Raises:
        ValueError: shapes that differ, no axis of dimensions.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> moment_statistics(*observation_moments(torch.tensor([[1.0, 5.0], [3.0, 5.0]])))
        ObservationStatistics(mean=tensor([2., 5.]), std=tensor([1., 0.]))

    Reference:
        Fujimoto and Gu, A Minimalist Approach to Offline Reinforcement Learning (TD3+BC), arXiv:2106.06860, equation 4
        (what they are for).
    """
    _check_moments("moment_statistics", samples, mean, squared_deviation)
    dtype = summed(samples, mean, squared_deviation)
    n = samples.to(dtype).unsqueeze(-1)
    mean, deviation = (torch.where(n == 0, 0.0, x.to(dtype)) for x in (mean, squared_deviation))
    return ObservationStatistics(mean, root(deviation / torch.where(n == 0, 1.0, n)))


@public
def return_threshold(
    episode_return: Tensor,
    episode_length: Tensor,
    *,
    fraction: Knob,
    by: Literal["episodes", "steps"] = "episodes",
) -> ReturnThreshold:
    r"""What an episode must reach to be one of those that `return_filter` keeps, from a table of all episodes.

    $$\text{kept}_i = \mathbb 1[R_i > v] + \mathbb 1[R_i = v,\ i \le j], \qquad v = R_{(k)}$$

    with $k$ the number of episodes that are kept, $R_{(k)}$ the lowest of their returns and $j$ the last of them that
    has it, since the earlier of equals is kept first. The table is small: gather it from wherever the episodes are.
    Each place then selects its own by two comparisons, which need an episode's return and its number in the table. A
    table in the order of the dataset selects what `return_filter` does, however the episodes are spread.

    Args:
        episode_return: `[*batch]`, all of one ranking, the return of each episode; one that is NaN counts as −∞.
        episode_length: int64 `[*batch]`, its number of steps; it decides nothing by episodes.
        fraction: $f$ in (0, 1], the share to keep.
        by: `"episodes"` or `"steps"`, what the share is a share of.

    Returns:
        `ReturnThreshold(value, episode)`, both 0-d: $v$ in the dtype of the returns, and $j$, int64, counted from 0
        over all axes.

    Gradient:
        None: a choice.

    Raises:
        ValueError: shapes that differ, no episode, `fraction` out of range, another `by`.
        TypeError: not a tensor, integer returns, lengths that are not int64.

    Examples:
        >>> import torch
        >>> gain, length = torch.tensor([2.0, 1.0, 2.0, 2.0]), torch.tensor([5, 5, 5, 5])
        >>> return_threshold(gain, length, fraction=0.5)
        ReturnThreshold(value=tensor(2.), episode=tensor(2))

    Reference:
        Chen et al., Decision Transformer, arXiv:2106.01345, section 5.1 (percentile behavior cloning).
    """
    check_float("return_threshold", episode_return=episode_return)
    check_some("return_threshold", "episode_return", episode_return, "episode")
    check_integers("return_threshold", "episode_return", episode_return.shape, episode_length=episode_length)
    check_knob("return_threshold", "fraction", fraction, 0.0, 1.0, "(]")
    check_option("return_threshold", "by", by, ("episodes", "steps"))
    share = fraction.detach().double() if isinstance(fraction, Tensor) else in_double(fraction, episode_return.device)
    table = whole(episode_return.detach()).flatten()
    score = torch.where(table.isnan(), -torch.inf, table)
    order, count = best_of_table(score, whole(episode_length).flatten(), share, by)
    last = order.gather(0, (count - 1).view(1))
    value, episode = score.gather(0, last).squeeze(0), last.squeeze(0)
    return ReturnThreshold(beside(value, episode_return), beside(episode, episode_return))


def _check_moments(function: str, samples: Tensor, mean: Tensor, squared_deviation: Tensor) -> None:
    check_values(function, mean=mean, squared_deviation=squared_deviation)
    check_axis(function, "mean", mean, "dimension")
    check_float(function, samples=samples)
    check_rows(function, mean=mean, samples=samples)
