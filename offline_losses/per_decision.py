r"""Off-policy evaluation reward by reward: a reward counts by the actions up to it, not by those that came after.

That takes out the part of the variance that the later ratios would add. Log-ratios, episodes, infinities and precision
are those of `importance`. In the weighted form the weights of all episodes at the same step of theirs are divided by
their sum; an episode that has ended stays in that sum with its last weight, or episodes that last longer would gain by
it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from offline_losses._core.checks import Knob, check_knob
from offline_losses._core.episodes import (
    OfEpisodes,
    by_blocks,
    every_one,
    first_total,
    in_blocks,
    only,
    powers,
    scattered,
    sequence_end,
    sequence_start,
    step_in_episode,
)
from offline_losses._core.pieces import may_be_looked_at
from offline_losses._core.public import public
from offline_losses._core.reduce import scalar, summed
from offline_losses._core.scan import solve
from offline_losses._core.sharded import shared_out, whole
from offline_losses.importance import (
    ValueEstimate,
    bounded_exp,
    check_episodes,
    clipped,
    cumulative_log_weight,
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
    contribution, log_weight = by_blocks(of_block, done, reward, log_ratio)
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
    log_weight = cumulative_log_weight(log_ratio, done)
    contribution = normalized_sums(reward, log_weight, done, discount)
    return estimate(*contribution, whole_share(log_weight, done), summed(reward, log_ratio))


def whole_share(log_weight: Tensor, done: Tensor) -> Tensor:
    """Weight of each whole episode over the largest, on its last step at least."""
    ((log_weight, last),) = by_blocks(lambda done, x: [(x, sequence_end(done))], done, log_weight)
    return relative_weight(log_weight, last)


def weighted_sums(
    done: Tensor, x: Tensor, log_ratio: Tensor, *, discount: Knob, max_weight: Knob
) -> Sequence[OfEpisodes]:
    """Discounted sum of each episode, every step times its weight, and the logarithm of the weight of the whole."""
    log_weight = clipped(cumulative_log_weight(log_ratio, done), max_weight)
    total = first_total(bounded_exp(log_weight) * x, done, discount)
    return (total, sequence_start(done)), (log_weight, sequence_end(done))


def normalized_sums(x: Tensor, log_weight: Tensor, done: Tensor, discount: Knob) -> OfEpisodes:
    """Sum over steps of the weighted means, plus how far each episode moves it."""
    blocks = [_block(*block) for block in in_blocks(whole(done), whole(x), whole(log_weight))]
    sums, shares, mean = _means(blocks, _places(blocks))
    power = _power(discount, mean)
    # An episode that has ended draws the means of all later steps towards zero, by its share of the weights there.
    later = pad(solve(power * mean * sums.ended_share, sums.decay, None, None)[1:], (0, 1))
    moved = []
    for b, share, last in zip(blocks, shares, sums.last, strict=True):
        each = b.at(power) * share * (b.x - b.at(mean)) - last * b.at(later)
        moved.append((first_total(each, b.end, 1.0), sequence_start(b.end)))
    value, count = (power * mean).sum(), torch.stack([b.end.sum() for b in blocks]).sum()
    if len(moved) > 1:
        return every_one(value + count * torch.cat([only(x) for x in moved]))
    return shared_out((value + count * moved[0][0]).view(x.shape), x), sequence_start(done)


def resampled_sums(
    x: Tensor,  # [N]
    log_weight: Tensor,  # [N]
    done: Tensor,  # [N]
    discount: Knob,
    counts: Iterable[Tensor],  # each [n], how often each episode was drawn
) -> list[Tensor]:
    """The sum over steps of the weighted means, of episodes drawn again: their weights times these counts."""
    block = _block(done, x, log_weight)
    episode, places = block.end.cumsum(0) - block.end.long(), _places([block])
    found = []
    for count in counts:
        log_count = count.double().log().index_select(0, episode)
        _, _, mean = _means([block._replace(log_weight=log_weight + log_count)], places)
        found.append((_power(discount, mean) * mean).sum())
    return found


def _power(discount: Knob, mean: Tensor) -> Tensor:
    return powers(scalar(discount, mean).double(), torch.arange(len(mean), device=mean.device))


class _Block(NamedTuple):
    """Whole episodes, one after the other."""

    end: Tensor
    x: Tensor
    log_weight: Tensor
    step: Tensor  # how many steps of its episode lie before each

    def at(self, table: Tensor) -> Tensor:
        """What is the same for the same step of every episode."""
        return table.index_select(0, self.step)


def _block(done: Tensor, x: Tensor, log_weight: Tensor) -> _Block:
    end = sequence_end(done).flatten()
    return _Block(end, x.flatten(), log_weight.flatten(), step_in_episode(end))


def _places(blocks: Sequence[_Block]) -> int:
    """The length of the longest episode, or a length that no episode exceeds."""
    if may_be_looked_at(*(b.step for b in blocks)):
        try:
            return 1 + max(int(b.step.max()) for b in blocks)
        except RuntimeError:  # under a transform nothing has a value
            pass
    return blocks[0].step.shape[-1]


def _means(blocks: Sequence[_Block], places: int) -> tuple[_Sums, list[Tensor], Tensor]:
    """The sums of the weights, the share of each step in that of its place, and the weighted mean of each place."""
    sums = _sums(blocks, places)
    shares = [weight / b.at(sums.weight) for weight, b in zip(sums.weights, blocks, strict=True)]
    return sums, shares, _by_step([share * b.x for share, b in zip(shares, blocks, strict=True)], blocks, places)


class _Sums(NamedTuple):
    """The weights of all episodes at the same step of theirs: what the shares are made of."""

    weights: list[Tensor]  # over the largest of their step
    weight: Tensor  # of each step, the sum of these, and of those of the episodes that have ended
    ended_share: Tensor  # of each step, the largest weight of an episode that has ended, over the sum
    decay: Tensor  # of each step, the largest weight of an episode that has ended, over that at the next step
    last: list[Tensor]  # of the last step of each episode, its weight over the largest of those that have ended by then


def _sums(blocks: Sequence[_Block], places: int) -> _Sums:
    running = ended = blocks[0].log_weight.detach().new_full((places,), -torch.inf)
    for b in blocks:
        log_weight = b.log_weight.detach()
        running = running.scatter_reduce(-1, b.step, log_weight, "amax")
        ended = ended.scatter_reduce(-1, b.step, torch.where(b.end, log_weight, -torch.inf), "amax")
    ended = ended.cummax(-1).values
    following, ended = _finite(ended), pad(ended[:-1], (1, 0), value=-torch.inf)
    largest, decay = _finite(torch.maximum(running, ended)), (ended - following).exp()
    last = [torch.where(b.end, b.log_weight - b.at(following), -torch.inf).exp() for b in blocks]
    new = pad(_by_step(last, blocks, places)[:-1], (1, 0))
    before = pad(decay[:-1], (1, 0))
    ended_weight = solve(new.flip(-1), before.flip(-1), None, None).flip(-1)
    relative = (ended - largest).exp()
    weights = [(b.log_weight - b.at(largest)).exp() for b in blocks]
    weight = _by_step(weights, blocks, places) + ended_weight * relative
    weight = torch.where(weight > 0, weight, 1.0)
    return _Sums(weights, weight, relative / weight, decay, last)


def _by_step(terms: Sequence[Tensor], blocks: Sequence[_Block], places: int) -> Tensor:
    """The sum over all episodes of what they add at the same step of theirs."""
    total = scattered(terms[0], blocks[0].step, places)
    for x, b in zip(terms[1:], blocks[1:], strict=True):
        total = total + scattered(x, b.step, places)
    return total


def _finite(log_weight: Tensor) -> Tensor:
    return torch.where(log_weight == -torch.inf, 0.0, log_weight)
