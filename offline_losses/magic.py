r"""Off-policy evaluation that believes the ratios for as many steps as they are worth, and a model from there on.

The more ratios are multiplied, the more an estimate varies; the sooner a model takes over, the more it is biased. MAGIC
mixes estimates that change from the one to the other at different steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from offline_losses._core.blocks import in_blocks, joined, only
from offline_losses._core.by_step import (
    Weighted,
    contributions,
    means,
    powers_of_steps,
    redrawn,
    weighted,
)
from offline_losses._core.checks import Knob, check_count, check_knob
from offline_losses._core.episodes import every_one, sequence_end
from offline_losses._core.errors import describe, refuse
from offline_losses._core.public import public
from offline_losses._core.reduce import summed
from offline_losses.doubly_robust import check_model, model_error
from offline_losses.importance import ValueEstimate, estimate, relative_weight
from offline_losses.intervals import check_generator, quantiles


@public
def magic_value(
    reward: Tensor,
    q_data: Tensor,
    value: Tensor,
    next_value: Tensor,
    log_ratio: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    generator: Generator,
    steps: Iterable[int] | None = None,
    level: float = 0.5,
    resamples: int = 200,
    discount: Knob = 0.99,
) -> ValueEstimate:
    r"""Value of a policy by the ratios for some steps and by a model from there on, mixed for the least error (MAGIC).

    $$\hat v = \sum_j x_j\, g_j, \qquad x = \operatorname*{arg\,min}_{x \ge 0,\ \sum x = 1} x^\top \left( \Omega +
    b b^\top \right) x$$

    where $g_j$ is `weighted_doubly_robust_value` with the errors of the first $j$ steps of each episode alone: of none
    the mean of $V(s_0)$, of all of them that estimate itself. $\Omega$ is their covariance, to first order, and $b_j$
    how far $g_j$ lies outside of a bootstrap interval of the latter. It looks at values.

    Args:
        reward: `[*batch, T]`.
        q_data: `[*batch, T]`, $Q(s_t, a_t)$ of the data's actions.
        value: `[*batch, T]`, $V(s_t)$ of each step's own state; only read on the first step of an episode.
        next_value: `[*batch, T]`, $V(s_{t+1})$ of each step's next state, the same numbers one step later.
        log_ratio: `[*batch, T]`, $\ell$, as in `weighted_doubly_robust_value`.
        terminated: bool `[*batch, T]`, True where the environment ended.
        done: bool `[*batch, T]`, True on the last step of an episode.
        generator: draws the episodes of the interval; no other random state is read or moved.
        steps: the numbers $j$ beside that of all steps; None for 0, 1, 2, 4 and so on.
        level: of the interval, in (0, 1); the higher, the longer the model is believed.
        resamples: how many the interval is made of.
        discount: $\gamma$ in [0, 1].

    Returns:
        `ValueEstimate(value, standard_error, effective_sample_size)`. The error takes the shares $x$ as they are; the
        last is that of whole episodes, as in `weighted_doubly_robust_value`, on which the value may not rest.

    Gradient:
        None: the estimate is detached.

    Raises:
        ValueError: shapes that differ, no step, a number out of range.
        TypeError: not a tensor, integer rewards, flags that are not bool, no generator.

    Examples:
        >>> import torch
        >>> one, end = torch.ones(3), torch.ones(3).bool()
        >>> magic_value(one, one, one, 0 * one, 0 * one, end, end, generator=torch.Generator()).value
        tensor(1.)

    Reference:
        Thomas and Brunskill, Data-Efficient Off-Policy Policy Evaluation for Reinforcement Learning, arXiv:1604.00923
        (MAGIC); they take the sums of the weights for constants in $\Omega$. See
        [Lineage](../lineage/magic.md#magic_value).
    """
    values = {"reward": reward, "q_data": q_data, "value": value, "next_value": next_value, "log_ratio": log_ratio}
    check_model("magic_value", values, terminated, done, discount)
    check_count("magic_value", "resamples", resamples, 1)
    check_knob("magic_value", "level", level, 0.0, 1.0)
    check_generator("magic_value", generator)
    _check_steps(steps)
    flat = {name: x.detach().flatten() for name, x in {**values, "terminated": terminated}.items()}
    flat["done"] = sequence_end(done).flatten()
    log = modeled(**flat, discount=discount)
    returns = log.first_value + truncated(log, steps)
    low, high = quantiles(resampled(log, generator, resamples), level)
    mean = returns.mean(1)
    low, high = torch.minimum(low, mean[-1]), torch.maximum(high, mean[-1])
    bias = (low - mean).clamp(min=0) + (mean - high).clamp(min=0)
    covariance = (returns - mean.unsqueeze(1)) @ (returns - mean.unsqueeze(1)).T / max(1, returns.shape[1] - 1)
    share = mixture((covariance / returns.shape[1] + torch.outer(bias, bias)).cpu())
    mixed = share.to(returns.device) @ returns
    weight = relative_weight(*joined([b.last for b in log.blocks]))
    return estimate(*every_one(mixed), weight, summed(*values.values()))


def _check_steps(steps: object) -> None:
    if steps is not None and not isinstance(steps, Iterable):
        refuse(TypeError, "magic_value", "steps", "numbers of steps, or None", describe(steps), "Pass them in a list.")


class Modeled(NamedTuple):
    """The model's errors with their weights, whose logarithms stand beside, and its value of each first step."""

    blocks: Sequence[Weighted]
    log_weights: Sequence[Tensor]
    first_value: Tensor  # [n]
    discount: Knob


def modeled(
    reward: Tensor,  # [N], as the others
    q_data: Tensor,
    value: Tensor,
    next_value: Tensor,
    log_ratio: Tensor,
    terminated: Tensor,
    done: Tensor,
    discount: Knob,
) -> Modeled:
    log = in_blocks(done, log_ratio, value, reward, q_data, next_value, terminated)
    blocks, log_weights, places = [], [], 1 + max(int(episodes.step().max()) for episodes, *_ in log)
    for episodes, x, _, *steps in log:
        error, log_weight = model_error(steps, discount).double(), episodes.running_sum(x)
        blocks.append(weighted(episodes, error, log_weight, episodes.step(), places))
        log_weights.append(log_weight)
    first_value = only(joined([episodes.at_first(value) for episodes, _, value, *_ in log])).double()
    return Modeled(blocks, log_weights, first_value, discount)


def truncated(log: Modeled, steps: Iterable[int] | None) -> Tensor:
    """What each episode adds to each estimate beside its first value, [J, n], the errors of all steps in the last."""
    found = means(log.blocks)
    power = powers_of_steps(log.discount, found.mean)
    longest = len(power)
    chosen = [0, *(2**k for k in range(longest.bit_length()))] if steps is None else list(steps)
    for count in chosen:
        check_count("magic_value", "steps", count, 0)
    counts = [*sorted({count for count in chosen if count < longest}), longest]
    kept = (torch.where(torch.arange(longest, device=power.device) < count, power, 0.0) for count in counts)
    return torch.stack([only(contributions(log.blocks, found, power)) for power in kept])


def resampled(log: Modeled, generator: Generator, resamples: int) -> Tensor:
    """`weighted_doubly_robust_value` of as many episodes, drawn again as `bootstrap_interval` does; [resamples]."""
    n, values = len(log.first_value), []
    for _ in range(resamples):
        drawn = torch.randint(n, (n,), generator=generator, device=generator.device)
        count = torch.bincount(drawn.to(log.first_value.device), minlength=n).double()
        mean = means(redrawn(log.blocks, log.log_weights, count)).mean
        values.append((powers_of_steps(log.discount, mean) * mean).sum() + count @ log.first_value / n)
    return torch.stack(values)


def mixture(error: Tensor) -> Tensor:
    """The shares, none negative, whose square by this positive matrix is least (the minimum norm point of Wolfe)."""
    share, least = torch.zeros_like(error[0]), error.diagonal().argmin()
    share[least] = 1.0
    used = [int(least)]
    for _ in range(100 * len(share)):  # far more than it takes; each set of shares in use comes once
        slope = error @ share
        if slope.min() >= share @ slope - 1e-12 * error.diagonal().max() or int(slope.argmin()) in used:
            break
        used.append(int(slope.argmin()))
        while True:
            best = _least(error[used][:, used])
            if (best > 0).all():
                share = torch.zeros_like(share).index_put((torch.tensor(used),), best)
                break
            now = share[used]
            way = torch.where(best <= 0, now / (now - best), torch.inf).amin()
            share[used] = now + way * (best - now)
            used = [i for i, x in zip(used, best.tolist(), strict=True) if x > 0 or share[i] > 1e-15]
    return share


def _least(error: Tensor) -> Tensor:
    """The shares of sum one, negative ones among them, of the least square."""
    bordered = pad(error / error.diagonal().max().clamp(min=1e-300), (0, 1, 0, 1), value=1.0)
    bordered[-1, -1] = 0.0
    wanted = torch.zeros_like(bordered[0])
    wanted[-1] = 1.0
    solution: Tensor = torch.linalg.lstsq(bordered, wanted.unsqueeze(1), driver="gelsd").solution
    return solution[:-1, 0]
