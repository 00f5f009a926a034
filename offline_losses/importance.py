r"""What another policy would have earned, from recorded episodes: each counts as often as that policy makes it.

An episode of the behavior policy $\mu$ stands for $W = \prod_t \pi(a_t \mid s_t) / \mu(a_t \mid s_t)$ episodes of the
policy $\pi$. Ratios come as logarithms and are added up along each episode, so that no product of them leaves the range
of floats; −∞, an action that $\pi$ never takes, is one of them. Time is the last axis, flat over the dataset `[N]` or
in rows `[*batch, T]`, and ends an episode where done and on its last step; the episodes of all rows are one sample. All
sums are taken in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from offline_losses._core.blocks import Episodes, by_blocks, in_blocks
from offline_losses._core.checks import (
    Knob,
    check_axis,
    check_flags,
    check_knob,
    check_sequence,
    check_some,
    check_values,
    of_steps,
)
from offline_losses._core.episodes import OfEpisodes
from offline_losses._core.public import public
from offline_losses._core.reduce import clamped, over_steps, scalar, select, summed
from offline_losses._core.root import root

LARGEST_EXPONENT = 600.0
"""Where weights stop to grow: the largest float has room for one of them times any reward, and nothing is NaN."""


class ValueEstimate(NamedTuple):
    """Value of a policy, the standard error of that value, and how many episodes of its own it is worth; all 0-d."""

    value: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor


@public
def importance_weights(log_ratio: Tensor, done: Tensor, *, max_weight: Knob = math.inf) -> Tensor:
    r"""How many times likelier the policy makes each episode up to and with each step than the behavior policy did.

    $$W_t = \min\left( w_{\max},\ \exp \sum_{k = s}^{t} \ell_k \right), \qquad
    \ell_k = \log \pi(a_k \mid s_k) - \log \mu(a_k \mid s_k)$$

    for an episode that starts at $s$. A bound acts on each weight and not on those after it.

    Args:
        log_ratio: `[*batch, T]`, $\ell$; −∞ where the policy never takes the action. Logarithms: of probabilities
            `probability.log() - propensity.log()`.
        done: bool `[*batch, T]`, True on the last step of an episode.
        max_weight: $w_{\max}$, positive; infinity for no bound.

    Returns:
        `[*batch, T]`, detached, float32 or wider. Infinity where a weight is beyond the range of that type.

    Gradient:
        None: the weights are detached.

    Raises:
        ValueError: shapes that differ, no time axis, `max_weight` not positive.
        TypeError: not a tensor, integer values, a `done` that is not bool.

    Examples:
        >>> import torch
        >>> log_ratio, done = torch.tensor([2.0, 0.5, 3.0]).log(), torch.tensor([False, True, True])
        >>> importance_weights(log_ratio, done)
        tensor([2., 1., 3.])

    Reference:
        Precup, Sutton and Singh, Eligibility Traces for Off-Policy Policy Evaluation, ICML 2000.
    """
    check_values("importance_weights", log_ratio=log_ratio)
    check_axis("importance_weights", "log_ratio", log_ratio, "step")
    check_flags("importance_weights", log_ratio.shape, done=done)
    check_knob("importance_weights", "max_weight", max_weight, 0.0, bounds="(]", shapes=of_steps(log_ratio))
    exponent = cumulative_log_weight(log_ratio, done)
    return clipped(exponent, over_steps(max_weight, log_ratio)).detach().exp().to(summed(log_ratio))


@public
def importance_sampling_value(
    reward: Tensor, log_ratio: Tensor, done: Tensor, *, discount: Knob = 0.99, max_weight: Knob = math.inf
) -> ValueEstimate:
    r"""Value of a policy from another's episodes: mean of their returns times their weights (IS), without a bias.

    $$\hat v = \frac1n \sum_i W_i G_i, \qquad W_i = \exp \sum_t \ell_{i, t}, \qquad G_i = \sum_t \gamma^t r_{i, t}$$

    One episode that the policy makes far likelier than the behavior policy can outweigh all others, the likelier the
    longer episodes are: see the effective sample size. A bound on the weights gives up the freedom from bias for that.

    Args:
        reward: `[*batch, T]`.
        log_ratio: `[*batch, T]`, $\ell$, log-probability of the step's action under the policy minus that under the
            behavior policy; −∞ where the policy never takes it.
        done: bool `[*batch, T]`, True on the last step of an episode.
        discount: $\gamma$ in [0, 1], counted from the episode's first step.
        max_weight: the largest weight of an episode; positive, infinity for no bound (other than $e^{600}$).

    Returns:
        `ValueEstimate(value, standard_error, effective_sample_size)`, 0-d, float32 or wider. The error is infinite for
        fewer than two episodes, or if the policy makes none of them.

    Gradient:
        `reward`, `log_ratio`, and `discount` and `max_weight` if they are tensors.

    Raises:
        ValueError: shapes that differ, no step, a knob out of range.
        TypeError: not a tensor, integer rewards, a `done` that is not bool.

    Examples:
        >>> import torch
        >>> reward, log_ratio = torch.tensor([1.0, 1.0, 4.0]), torch.tensor([2.0, 0.5, 0.5]).log()
        >>> importance_sampling_value(reward, log_ratio, torch.tensor([False, True, True]), discount=1.0).value
        tensor(2.)

    Reference:
        Precup, Sutton and Singh, Eligibility Traces for Off-Policy Policy Evaluation, ICML 2000.
    """
    check_episodes("importance_sampling_value", done, discount, reward=reward, log_ratio=log_ratio)
    check_knob("importance_sampling_value", "max_weight", max_weight, 0.0, bounds="(]")
    (log_weight, one_each), (gain, _) = _totals(log_ratio, reward, done, discount)
    log_weight = clipped(log_weight, max_weight)
    share = relative_weight(log_weight, one_each)
    return estimate(bounded_exp(log_weight) * gain, one_each, share, summed(reward, log_ratio))


@public
def weighted_importance_sampling_value(
    reward: Tensor, log_ratio: Tensor, done: Tensor, *, discount: Knob = 0.99
) -> ValueEstimate:
    r"""Value of a policy as the mean of recorded returns, weighted by how much likelier it makes the episodes (WIS).

    $$\hat v = \frac{\sum_i W_i G_i}{\sum_i W_i}, \qquad W_i = \exp \sum_t \ell_{i, t}, \qquad
    G_i = \sum_t \gamma^t r_{i, t}$$

    It never leaves the range of the recorded returns, and no factor common to all weights changes it. Its bias falls
    with the number of episodes; with one it is that episode's return.

    Args:
        reward: `[*batch, T]`.
        log_ratio: `[*batch, T]`, $\ell$, log-probability of the step's action under the policy minus that under the
            behavior policy; −∞ where the policy never takes it.
        done: bool `[*batch, T]`, True on the last step of an episode.
        discount: $\gamma$ in [0, 1], counted from the episode's first step.

    Returns:
        `ValueEstimate(value, standard_error, effective_sample_size)`, 0-d, float32 or wider. The error is that of a
        ratio, to first order: too small if few episodes carry the weight, which the effective sample size shows. It is
        infinite for fewer than two episodes. If the policy makes none of them, the value is 0 and the error infinite.

    Gradient:
        `reward`, `log_ratio`, and `discount` if it is a tensor.

    Raises:
        ValueError: shapes that differ, no step, `discount` out of range.
        TypeError: not a tensor, integer rewards, a `done` that is not bool.

    Examples:
        >>> import torch
        >>> reward, log_ratio = torch.tensor([1.0, 5.0]), torch.tensor([1.0, 3.0]).log()
        >>> weighted_importance_sampling_value(reward, log_ratio, torch.tensor([True, True])).value
        tensor(4.)

    Reference:
        Precup, Sutton and Singh, Eligibility Traces for Off-Policy Policy Evaluation, ICML 2000; the standard error of
        a ratio after Owen, Monte Carlo Theory, Methods and Examples, 2013, chapter 9.
    """
    check_episodes("weighted_importance_sampling_value", done, discount, reward=reward, log_ratio=log_ratio)
    (log_weight, one_each), (gain, _) = _totals(log_ratio, reward, done, discount)
    share = relative_weight(log_weight, one_each)
    return estimate(self_normalized(gain, share, one_each), one_each, share, summed(reward, log_ratio))


def check_episodes(function: str, done: Tensor, discount: Knob, **values: Tensor) -> None:
    """Check quantities along one time axis, their flags and their discount, which is one number for all steps."""
    check_sequence(function, discount, values, done=done)
    check_knob(function, "discount", discount, 0.0, 1.0, "[]")
    first, tensor = next(iter(values.items()))
    check_some(function, first, tensor, "step")


def _totals(log_ratio: Tensor, reward: Tensor, done: Tensor, discount: Knob) -> Sequence[OfEpisodes]:
    """Logarithm of each episode's weight, and its return, on its first step at least."""

    def of_block(episodes: Episodes, log_ratio: Tensor, reward: Tensor) -> Sequence[OfEpisodes]:
        return episodes.totals(log_ratio, reward, discount)

    return by_blocks(of_block, done, log_ratio, reward, knobs=[discount])


def cumulative_log_weight(log_ratio: Tensor, done: Tensor) -> Tensor:
    """Logarithm of the weight of each episode up to and with each step."""
    found = [episodes.running_sum(x) for episodes, x in in_blocks(done, log_ratio)]
    return (found[0] if len(found) == 1 else torch.cat(found)).view(done.shape)


def clipped(log_weight: Tensor, max_weight: Knob) -> Tensor:
    if not isinstance(max_weight, Tensor) and max_weight == math.inf:
        return log_weight
    return torch.minimum(log_weight, scalar(max_weight, log_weight).double().log())


def bounded_exp(log_weight: Tensor) -> Tensor:
    return clamped(log_weight, high=LARGEST_EXPONENT).exp()


def relative_weight(log_weight: Tensor, one_each: Tensor) -> Tensor:
    """Weights of the episodes over the largest of them, a constant for the gradient; zeros if all are zero."""
    log_weight = torch.where(one_each, log_weight, -torch.inf)
    largest = log_weight.detach().amax()
    return (log_weight - torch.where(largest == -torch.inf, 0.0, largest)).exp()


def self_normalized(
    gain: Tensor,  # [*batch]
    weight: Tensor,  # [*batch], over the largest of them, and zero where the next is False
    one_each: Tensor,  # [*batch]
) -> Tensor:
    """The weighted mean, plus how far each sample moves it: what a sample contributes to a ratio, to first order."""
    share = weight / clamped(weight.sum(), 1.0)  # the largest is one, if any is not zero
    mean = (share * gain).sum()
    return mean + one_each.sum() * share * (gain - mean)


def estimate(
    contribution: Tensor,  # [*batch]
    one_each: Tensor,  # [*batch], True on one step of each episode, whose contribution counts
    weight: Tensor,  # of all episodes, over the largest of them, zero elsewhere
    dtype: torch.dtype,
) -> ValueEstimate:
    """Mean and standard error of the mean of what episodes contribute, and the effective number of their weights."""
    n = one_each.sum()
    mean = select(one_each, contribution).sum() / n
    deviation = root(select(one_each, contribution - mean).square().sum() / (n - 1).clamp(min=1) / n)
    size = weight.sum().square() / clamped(weight.square().sum(), 1.0)
    error = torch.where((n > 1) & (size > 0), deviation, torch.inf)
    return ValueEstimate(mean.to(dtype), error.to(dtype), size.to(dtype))
