r"""Off-policy evaluation with a model's help: the values it predicts, and weighted by the ratios what it got wrong.

$Q$ and $V$ are those of the policy in question, fitted on other episodes if the estimate is to have no bias
(`expected_target` is the target of fitted Q evaluation). An estimate is right on average if the ratios are right,
whatever $Q$ is, and if $Q$ is right, whatever the ratios are; the better $Q$, the less the ratios add to its variance.
Everything else is as in `per_decision`, of which these are the estimates for $r_t + \gamma V_{t+1} - Q_t$.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from offline_losses._core.blocks import Episodes, by_blocks, joined, longest
from offline_losses._core.by_step import at_each_step
from offline_losses._core.checks import Knob, check_flags, check_knob
from offline_losses._core.episodes import OfEpisodes
from offline_losses._core.public import public
from offline_losses._core.reduce import summed
from offline_losses.importance import ValueEstimate, check_episodes, estimate, relative_weight
from offline_losses.per_decision import for_all, normalized_sums, step_blocks, weighted_sums
from offline_losses.recurrence import td_error


@public
def doubly_robust_value(
    reward: Tensor,
    q_data: Tensor,
    value: Tensor,
    next_value: Tensor,
    log_ratio: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    discount: Knob = 0.99,
    max_weight: Knob = math.inf,
) -> ValueEstimate:
    r"""Value of a policy from another's episodes and a model of its values (DR): the ratios weigh the model's errors.

    $$\hat v = \frac1n \sum_i \left[ V(s_{i, 0}) + \sum_t \gamma^t W_{i, t}
    \left( r_{i, t} + \gamma V(s_{i, t+1}) - Q(s_{i, t}, a_{i, t}) \right) \right], \qquad
    W_{i, t} = \exp \sum_{k \le t} \ell_{i, k}$$

    with $V(s_{i, t+1}) = 0$ where terminated. An episode cut off by a time limit goes on with the value of the model.
    With all of $Q$ and $V$ zero it is `per_decision_value`.

    Args:
        reward: `[*batch, T]`.
        q_data: `[*batch, T]`, $Q(s_t, a_t)$ of the data's actions.
        value: `[*batch, T]`, $V(s_t) = \mathbb E_{a \sim \pi}[Q(s_t, a)]$ of each step's own state; only read on the
            first step of an episode.
        next_value: `[*batch, T]`, $V(s_{t+1})$ of each step's next state, the same numbers one step later.
        log_ratio: `[*batch, T]`, $\ell$, log-probability of the step's action under the policy minus that under the
            behavior policy; −∞ where the policy never takes it.
        terminated: bool `[*batch, T]`, True where the environment ended.
        done: bool `[*batch, T]`, True on the last step of an episode.
        discount: $\gamma$ in [0, 1].
        max_weight: the largest of the weights $W_{i, t}$; positive, infinity for no bound (other than $e^{600}$).

    Returns:
        `ValueEstimate(value, standard_error, effective_sample_size)` as in `per_decision_value`.

    Gradient:
        `reward`, `q_data`, `value`, `next_value`, `log_ratio`, and `discount` and `max_weight` if they are tensors.

    Raises:
        ValueError: shapes that differ, no step, a knob out of range.
        TypeError: not a tensor, integer rewards, flags that are not bool.

    Examples:
        >>> import torch
        >>> step, end = torch.ones(1), torch.tensor([True])
        >>> doubly_robust_value(step, 0.5 * step, 2 * step, 0 * step, torch.tensor([3.0]).log(), end, end).value
        tensor(3.5000)

    Reference:
        Jiang and Li, Doubly Robust Off-policy Value Evaluation for Reinforcement Learning, arXiv:1511.03722.
        Toolkits treat the last step of an episode differently: see
        [Lineage](../lineage/doubly_robust.md#doubly_robust_value).
    """
    values = {"reward": reward, "q_data": q_data, "value": value, "next_value": next_value, "log_ratio": log_ratio}
    check_model("doubly_robust_value", values, terminated, done, discount)
    check_knob("doubly_robust_value", "max_weight", max_weight, 0.0, bounds="(]")

    def of_block(episodes: Episodes, log_ratio: Tensor, value: Tensor, *steps: Tensor) -> Sequence[OfEpisodes]:
        error = model_error(steps, discount)
        (total, first), log_weight = weighted_sums(episodes, error, log_ratio, discount=discount, max_weight=max_weight)
        return (episodes.at_first(value)[0] + total, first), log_weight

    steps, knobs = (log_ratio, value, reward, q_data, next_value, terminated), (discount, max_weight)
    contribution, log_weight = by_blocks(of_block, done, *steps, knobs=knobs)
    return estimate(*contribution, relative_weight(*log_weight), summed(*values.values()))


@public
def weighted_doubly_robust_value(
    reward: Tensor,
    q_data: Tensor,
    value: Tensor,
    next_value: Tensor,
    log_ratio: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    discount: Knob = 0.99,
) -> ValueEstimate:
    r"""Value of a policy from a model of its values and the model's errors, weighted against each other (WDR).

    $$\hat v = \frac1n \sum_i V(s_{i, 0}) + \sum_t \gamma^t\, \frac{\sum_i W_{i, t}
    \left( r_{i, t} + \gamma V(s_{i, t+1}) - Q(s_{i, t}, a_{i, t}) \right)}{\sum_i W_{i, t}}, \qquad
    W_{i, t} = \exp \sum_{k \le t} \ell_{i, k}$$

    with $V(s_{i, t+1}) = 0$ where terminated. After its last step an episode has errors of zero and keeps its last
    weight. With all of $Q$ and $V$ zero it is `weighted_per_decision_value`.

    Args:
        reward: `[*batch, T]`.
        q_data: `[*batch, T]`, $Q(s_t, a_t)$ of the data's actions.
        value: `[*batch, T]`, $V(s_t) = \mathbb E_{a \sim \pi}[Q(s_t, a)]$ of each step's own state; only read on the
            first step of an episode.
        next_value: `[*batch, T]`, $V(s_{t+1})$ of each step's next state, the same numbers one step later.
        log_ratio: `[*batch, T]`, $\ell$, log-probability of the step's action under the policy minus that under the
            behavior policy; −∞ where the policy never takes it.
        terminated: bool `[*batch, T]`, True where the environment ended.
        done: bool `[*batch, T]`, True on the last step of an episode.
        discount: $\gamma$ in [0, 1].

    Returns:
        `ValueEstimate(value, standard_error, effective_sample_size)` as in `weighted_per_decision_value`.

    Gradient:
        `reward`, `q_data`, `value`, `next_value`, `log_ratio`, and `discount` if it is a tensor.

    Raises:
        ValueError: shapes that differ, no step, `discount` out of range.
        TypeError: not a tensor, integer rewards, flags that are not bool.

    Examples:
        >>> import torch
        >>> one, zero, end = torch.ones(2), torch.zeros(2), torch.tensor([True, True])
        >>> reward, log_ratio = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]).log()
        >>> weighted_doubly_robust_value(reward, one, one, zero, log_ratio, end, end).value
        tensor(1.7500)

    Reference:
        Thomas and Brunskill, Data-Efficient Off-Policy Policy Evaluation for Reinforcement Learning, arXiv:1604.00923
        (WDR).
    """
    values = {"reward": reward, "q_data": q_data, "value": value, "next_value": next_value, "log_ratio": log_ratio}
    check_model("weighted_doubly_robust_value", values, terminated, done, discount)
    blocks = step_blocks(done, log_ratio, value, reward, q_data, next_value, terminated, discount=discount)
    first_value, _ = joined([episodes.at_first(value) for episodes, _, value, *_ in blocks])
    errors = ((episodes, model_error(steps, discount), log_ratio) for episodes, log_ratio, _, *steps in blocks)
    (error_sum, one_each), share = normalized_sums(at_each_step(errors, longest(blocks)), discount)
    return for_all(estimate(first_value + error_sum, one_each, share, summed(*values.values())), reward)


def model_error(steps: Sequence[Tensor], discount: Knob) -> Tensor:
    reward, q_data, next_value, terminated = steps
    return td_error(reward, q_data, next_value, terminated, discount)


def check_model(function: str, values: dict[str, Tensor], terminated: Tensor, done: Tensor, discount: Knob) -> None:
    check_episodes(function, done, discount, **values)
    check_flags(function, done.shape, terminated=terminated)
