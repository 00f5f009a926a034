r"""Off-policy evaluation reward by reward: a reward counts by the actions up to it, not by those that came after.

That takes out the part of the variance that the later ratios would add. Log-ratios, episodes, infinities and precision
are those of `importance`. In the weighted form the weights of all episodes at the same step of theirs are divided by
their sum; an episode that has ended stays in that sum with its last weight, or episodes that last longer would gain by
it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from torch import Tensor

from offline_losses._core.blocks import Block, Episodes, by_blocks, flat, in_blocks, joined, longest
from offline_losses._core.by_step import Weighted, at_each_step, contributions, means, powers_of_steps
from offline_losses._core.checks import Knob, check_knob
from offline_losses._core.episodes import OfEpisodes
from offline_losses._core.public import public
from offline_losses._core.reduce import summed
from offline_losses._core.sharded import beside, whole
from offline_losses.importance import (
    ValueEstimate,
    bounded_exp,
    check_episodes,
    clipped,
    estimate,
    relative_weight,
)


@public
def per_decision_value(
    reward: Tensor, log_ratio: Tensor, done: Tensor, *, discount: Knob = 0.99, max_weight: Knob = math.inf
) -> ValueEstimate:
    r"""Value of a policy from another's episodes, each reward times the weight up to its step (PDIS), without a bias.

    $$\hat v = \frac1n \sum_i \sum_t \gamma^t W_{i, t}\, r_{i, t}, \qquad W_{i, t} = \exp \sum_{k \le t} \ell_{i, k}$$

    Args:
        reward: `[*batch, T]`.
        log_ratio: `[*batch, T]`, $\ell$, log-probability of the step's action under the policy minus that under the
            behavior policy; −∞ where the policy never takes it.
        done: bool `[*batch, T]`, True on the last step of an episode.
        discount: $\gamma$ in [0, 1], counted from the episode's first step.
        max_weight: the largest of the weights $W_{i, t}$; positive, infinity for no bound (other than $e^{600}$).

    Returns:
        `ValueEstimate(value, standard_error, effective_sample_size)`, 0-d, float32 or wider. The last is that of whole
        episodes; their first steps have more. The error is infinite for fewer than two episodes, or if the policy makes
        none of them to the end.

    Gradient:
        `reward`, `log_ratio`, and `discount` and `max_weight` if they are tensors.

    Raises:
        ValueError: shapes that differ, no step, a knob out of range.
        TypeError: not a tensor, integer rewards, a `done` that is not bool.

    Examples:
        >>> import torch
        >>> reward, log_ratio = torch.tensor([1.0, 1.0, 4.0]), torch.tensor([2.0, 0.5, 0.5]).log()
        >>> per_decision_value(reward, log_ratio, torch.tensor([False, True, True]), discount=1.0).value
        tensor(2.5000)

    Reference:
        Precup, Sutton and Singh, Eligibility Traces for Off-Policy Policy Evaluation, ICML 2000.
    """
    check_episodes("per_decision_value", done, discount, reward=reward, log_ratio=log_ratio)
    check_knob("per_decision_value", "max_weight", max_weight, 0.0, bounds="(]")
    of_block = partial(weighted_sums, discount=discount, max_weight=max_weight)
    contribution, log_weight = by_blocks(of_block, done, reward, log_ratio, knobs=[discount, max_weight])
    return estimate(*contribution, relative_weight(*log_weight), summed(reward, log_ratio))


@public
def weighted_per_decision_value(
    reward: Tensor, log_ratio: Tensor, done: Tensor, *, discount: Knob = 0.99
) -> ValueEstimate:
    r"""Value of a policy from another's episodes, the rewards of each step weighted against each other (WPDIS).

    $$\hat v = \sum_t \gamma^t\, \frac{\sum_i W_{i, t}\, r_{i, t}}{\sum_i W_{i, t}}, \qquad
    W_{i, t} = \exp \sum_{k \le t} \ell_{i, k}$$

    After its last step an episode has rewards of zero and keeps its last weight. No factor common to all weights of a
    step changes the value, and where all ratios are one it is the mean return. Its bias falls with the number of
    episodes.

    Args:
        reward: `[*batch, T]`.
        log_ratio: `[*batch, T]`, $\ell$, log-probability of the step's action under the policy minus that under the
            behavior policy; −∞ where the policy never takes it.
        done: bool `[*batch, T]`, True on the last step of an episode.
        discount: $\gamma$ in [0, 1], counted from the episode's first step.

    Returns:
        `ValueEstimate(value, standard_error, effective_sample_size)`, 0-d, float32 or wider. The error is that of a sum
        of ratios, to first order, and infinite as in `per_decision_value`; the last is that of whole episodes. From the
        step on where all weights are 0 rewards count as 0.

    Gradient:
        `reward`, `log_ratio`, and `discount` if it is a tensor.

    Raises:
        ValueError: shapes that differ, no step, `discount` out of range.
        TypeError: not a tensor, integer rewards, a `done` that is not bool.

    Examples:
        >>> import torch
        >>> reward, log_ratio = torch.tensor([1.0, 1.0, 4.0]), torch.tensor([2.0, 0.25, 0.5]).log()
        >>> weighted_per_decision_value(reward, log_ratio, torch.tensor([False, True, True]), discount=1.0).value
        tensor(2.1000)

    Reference:
        Precup, Sutton and Singh, Eligibility Traces for Off-Policy Policy Evaluation, ICML 2000; for episodes of
        differing length as Thomas and Brunskill, arXiv:1604.00923, pad them. Where toolkits differ: see
        [Lineage](../lineage/per_decision.md#weighted_per_decision_value).
    """
    check_episodes("weighted_per_decision_value", done, discount, reward=reward, log_ratio=log_ratio)
    blocks = step_blocks(done, reward, log_ratio, discount=discount)
    contribution, share = normalized_sums(at_each_step(blocks, longest(blocks)), discount)
    return for_all(estimate(*contribution, share, summed(reward, log_ratio)), reward)


def weighted_sums(
    episodes: Episodes, x: Tensor, log_ratio: Tensor, *, discount: Knob, max_weight: Knob
) -> Sequence[OfEpisodes]:
    """Discounted sum of each episode, every step times its weight, and the logarithm of the weight of the whole."""
    log_weight = clipped(episodes.running_sum(log_ratio), max_weight)
    return episodes.total(bounded_exp(log_weight) * x.double(), discount), episodes.at_last(log_weight)


def step_blocks(done: Tensor, *steps: Tensor, discount: Knob) -> list[Block]:
    """Blocks of steps that lie on one axis, whose weights are compared over all episodes."""
    return flat(in_blocks(whole(done), *map(whole, steps), knobs=[discount]))


def for_all(found: ValueEstimate, like: Tensor) -> ValueEstimate:
    """What every process has found in the whole, as a tensor of all of them."""
    return ValueEstimate(*(beside(x, like) for x in found))


def normalized_sums(blocks: Sequence[Weighted], discount: Knob) -> tuple[OfEpisodes, Tensor]:
    """Sum over steps of the weighted means, plus how far each episode moves it, and the weights of whole episodes."""
    found = means(blocks)
    contribution = contributions(blocks, found, powers_of_steps(discount, found.mean))
    return contribution, relative_weight(*joined([b.last for b in blocks]))
