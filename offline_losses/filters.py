r"""Dataset time: statistics and selections over whole episodes, made once before any network exists.

Time is the last axis, flat over the dataset `[N]` or in rows `[*batch, T]`; `done` is True on the last step of an
episode, and the last step of the axis always ends one, so that an unfinished last episode counts as an episode. The
episodes of all rows belong to one dataset and are ranked together. Nothing here knows padding: hand in the flat data.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    check_axis,
    check_few_axes,
    check_flags,
    check_float,
    check_knob,
    check_option,
    check_sequence,
    check_shape,
    check_some,
    present,
)
from offline_losses._core.episodes import each_total, episode_total
from offline_losses._core.public import public
from offline_losses._core.ranking import best_episodes
from offline_losses._core.reduce import over_rows, over_steps, promoted, scalar, select, summed, total, upcast


class ObservationStatistics(NamedTuple):
    """Mean and standard deviation of each observation dimension, both `[D]`."""

    mean: Tensor
    std: Tensor


@public
def episode_return(reward: Tensor, done: Tensor, *, discount: Knob = 1.0) -> Tensor:
    r"""Return of the whole episode, written on each of its steps: a column to filter, weight or condition by.

    $$R_t = \sum_{k=0}^{L-1} \gamma^k r_{s+k} \qquad \text{for every step } t \text{ of the episode of length } L
    \text{ that starts at } s$$

    Args:
        reward: `[*batch, T]`.
        done: bool `[*batch, T]`, True on the last step of an episode.
        discount: $\gamma$ in [0, 1], counted from the episode's first step, or a tensor `[*batch, T]` of one for each
            step, whose products take the place of the powers.

    Returns:
        `[*batch, T]`, float32 or wider.

    Gradient:
        `reward`, and `discount` if it is a tensor.

    Raises:
        ValueError: shapes that differ, `discount` out of range.
        TypeError: not a tensor, integer rewards, a `done` that is not bool.

    Examples:
        >>> import torch
        >>> episode_return(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([False, True, False]))
        tensor([3., 3., 5.])

    Reference:
        Peng, Kumar, Zhang and Levine, Advantage-Weighted Regression (AWR), arXiv:1910.00177, section 2 (the return of
        a trajectory).
    """
    check_sequence("episode_return", discount, {"reward": reward}, done=done)
    return episode_total(reward, done, over_steps(discount, reward)).to(summed(reward))


@public
def return_filter(
    reward: Tensor, done: Tensor, *, fraction: Knob, discount: Knob = 1.0, by: Literal["episodes", "steps"] = "episodes"
) -> Tensor:
    r"""Select the steps of the best episodes: what filtered behavior cloning (%BC, for instance 10% BC) imitates.

    $$\text{kept}_t = \mathbb 1\left[ \text{rank of } R_{\text{episode}(t)} \le k \right], \qquad
    k = \max\left(1, \lfloor f n + \tfrac12 \rfloor\right) \text{ of } n \text{ episodes}$$

    Among equal returns the earlier episode ranks first; one that is NaN counts as −∞. With `by="steps"` the
    share is one of steps: the best episodes are kept, whole, up to the first that would carry their steps beyond
    $\lfloor f N + \tfrac12 \rfloor$ of $N$; the very best is always kept.

    Args:
        reward: `[*batch, T]`.
        done: bool `[*batch, T]`, True on the last step of an episode.
        fraction: $f$ in (0, 1], the share to keep.
        discount: $\gamma$ in [0, 1] of the ranking return, counted from the episode's first step.
        by: `"episodes"` or `"steps"`, what the share is a share of.

    Returns:
        bool `[*batch, T]`, True on every step of a kept episode.

    Gradient:
        None: a selection.

    Raises:
        ValueError: shapes that differ, `fraction` or `discount` out of range, another `by`.
        TypeError: not a tensor, integer rewards, a `done` that is not bool.

    Examples:
        >>> import torch
        >>> reward, done = torch.tensor([1.0, 1.0, 5.0]), torch.tensor([False, True, True])
        >>> return_filter(reward, done, fraction=0.5)
        tensor([False, False,  True])

    Reference:
        Chen et al., Decision Transformer, arXiv:2106.01345, section 5.1 (percentile behavior cloning, by steps).
        Others count episodes, and split them by other rules: see [Lineage](../lineage/filters.md#return_filter).
    """
    check_sequence("return_filter", discount, {"reward": reward}, done=done)
    check_knob("return_filter", "discount", discount, 0.0, 1.0, "[]")
    check_knob("return_filter", "fraction", fraction, 0.0, 1.0, "(]")
    check_some("return_filter", "reward", reward, "step")
    check_option("return_filter", "by", by, ("episodes", "steps"))
    double = reward.new_empty((), dtype=torch.float64)  # the ranking adds in double precision
    share, factor = scalar(fraction, double), scalar(discount, double)
    return best_episodes(reward.detach(), done, share, factor, by)


@public
def reward_scale(reward: Tensor, done: Tensor, *, horizon: Knob = 1000.0, discount: Knob = 1.0) -> Tensor:
    r"""Factor that brings the range of the dataset's episode returns to a fixed size, as is usual for locomotion data.

    $$c = \frac{H}{\max_i R_i - \min_i R_i} \quad \text{over the episodes } i, \qquad c = 1 \text{ if all are equal}$$

    Multiply the rewards by it. It never shifts them, which would reward or punish long episodes.

    Args:
        reward: `[*batch, T]`.
        done: bool `[*batch, T]`, True on the last step of an episode.
        horizon: $H$, the range wanted, in units of return; positive.
        discount: $\gamma$ in [0, 1] of the return, counted from the episode's first step.

    Returns:
        0-d, float32 or wider.

    Gradient:
        `reward` (through the best and the worst episode), and `horizon` and `discount` if they are tensors.

    Raises:
        ValueError: shapes that differ, a knob out of range.
        TypeError: not a tensor, integer rewards, a `done` that is not bool.

    Examples:
        >>> import torch
        >>> reward_scale(torch.tensor([1.0, 2.0, 8.0]), torch.tensor([False, True, True]))
        tensor(200.)

    Reference:
        Kostrikov, Nair and Levine, Offline Reinforcement Learning with Implicit Q-Learning (IQL), arXiv:2110.06169,
        appendix B (rewards divided by the range of returns; its code multiplies by 1000).
    """
    check_sequence("reward_scale", discount, {"reward": reward}, done=done)
    check_knob("reward_scale", "discount", discount, 0.0, 1.0, "[]")
    check_some("reward_scale", "reward", reward, "step")
    check_knob("reward_scale", "horizon", horizon, 0.0)
    score, first = each_total(reward, done, discount)
    best, worst = torch.where(first, score, -torch.inf).amax(), torch.where(first, score, torch.inf).amin()
    spread = best - worst
    equal = spread == 0
    return torch.where(equal, 1.0, horizon / torch.where(equal, 1.0, spread)).to(summed(reward))


@public
def observation_statistics(observation: Tensor, *, mask: Tensor | None = None) -> ObservationStatistics:
    r"""Mean and standard deviation of each observation dimension over the dataset, for `normalize_observation`.

    $$\mu_d = \frac1N \sum_n o_{nd}, \qquad \sigma_d = \sqrt{\frac1N \sum_n (o_{nd} - \mu_d)^2}$$

    Args:
        observation: `[N, D]` or `[*batch, T, D]`, at most three axes; all but the last are samples. Flatten images:
            each pixel is a dimension, or each channel if it is the last axis and those before are flattened.
        mask: bool `[*batch]`, True where the sample exists.

    Returns:
        `ObservationStatistics(mean, std)`, both `[D]`, float32 or wider; zeros if no sample exists.

    Gradient:
        `observation` (none through the deviation of a constant dimension).

    Raises:
        ValueError: no observation axis, more than three axes (images), a mask of another shape.
        TypeError: not a tensor, integer observations, a mask that is not bool.

    Examples:
        >>> import torch
        >>> observation_statistics(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        ObservationStatistics(mean=tensor([2., 5.]), std=tensor([1., 0.]))

    Reference:
        Fujimoto and Gu, A Minimalist Approach to Offline Reinforcement Learning (TD3+BC), arXiv:2106.06860, equation 4.
    """
    check_float("observation_statistics", observation=observation)
    check_axis("observation_statistics", "observation", observation, "dimension")
    check_few_axes("observation_statistics", "observation", observation)
    check_flags("observation_statistics", observation.shape[:-1], **present(mask=mask))
    exists = None if mask is None else mask.reshape(-1, 1)
    samples = upcast(observation).reshape(-1, observation.shape[-1])
    count = max(1, samples.shape[0]) if exists is None else exists.sum().clamp(min=1)
    mean = total(select(exists, samples), 0) / count
    variance = total(select(exists, samples - mean).square(), 0) / count
    constant = variance == 0  # the square root has no derivative there
    std = torch.where(constant, 0.0, torch.where(constant, 1.0, variance).sqrt())
    return ObservationStatistics(mean, std)


@public
def normalize_observation(observation: Tensor, mean: Tensor, std: Tensor, *, epsilon: Knob = 1e-3) -> Tensor:
    r"""Observation with each dimension at zero mean and unit deviation; a constant dimension becomes zero.

    $$\tilde o = \frac{o - \mu}{\sigma + \epsilon}$$

    Args:
        observation: `[*batch, D]`.
        mean: `[D]`, from `observation_statistics` of the training data.
        std: `[D]`, likewise.
        epsilon: added to the deviation, in units of the observation; positive.

    Returns:
        `[*batch, D]`, in the input's dtype.

    Gradient:
        `observation`, `mean`, `std`, and `epsilon` if it is a tensor.

    Raises:
        ValueError: `mean` or `std` not of shape `[D]`, `epsilon` not positive.
        TypeError: not a tensor, integer observations.

    Examples:
        >>> import torch
        >>> normalize_observation(torch.tensor([[4.0]]), torch.tensor([2.0]), torch.tensor([0.999]))
        tensor([[2.]])

    Reference:
        Fujimoto and Gu, arXiv:2106.06860 (TD3+BC), equation 4 (ε = 10⁻³ outside the deviation).
    """
    check_float("normalize_observation", observation=observation, mean=mean, std=std)
    check_axis("normalize_observation", "observation", observation, "dimension")
    check_shape("normalize_observation", "one observation", observation.shape[-1:], mean=mean, std=std)
    check_knob("normalize_observation", "epsilon", epsilon, 0.0, shapes=[observation.shape[:-1]])
    return ((upcast(observation) - upcast(mean)) / (upcast(std) + over_rows(epsilon))).to(
        promoted(observation, mean, std)
    )
