r"""Off-policy evaluation that believes the ratios for as many steps as they are worth, and a model from there on.

The more ratios are multiplied, the more an estimate varies; the sooner a model takes over, the more it is biased. MAGIC
mixes estimates that change from the one to the other at different steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from offline_losses._core.checks import Knob, check_count, check_knob
from offline_losses._core.episodes import only, sequence_end, sequence_start, step_in_episode
from offline_losses._core.errors import describe, refuse
from offline_losses._core.public import public
from offline_losses._core.reduce import summed
from offline_losses.doubly_robust import check_model
from offline_losses.importance import ValueEstimate, cumulative_log_weight, estimate
from offline_losses.intervals import check_generator, quantiles
from offline_losses.per_decision import normalized_sums, resampled_sums, whole_share
from offline_losses.recurrence import td_error


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
    returns = truncated(**flat, discount=discount, steps=steps)
    low, high = quantiles(resampled(**flat, discount=discount, generator=generator, resamples=resamples), level)
    mean = returns.mean(1)
    low, high = torch.minimum(low, mean[-1]), torch.maximum(high, mean[-1])
    bias = (low - mean).clamp(min=0) + (mean - high).clamp(min=0)
    covariance = (returns - mean.unsqueeze(1)) @ (returns - mean.unsqueeze(1)).T / max(1, returns.shape[1] - 1)
    share = mixture((covariance / returns.shape[1] + torch.outer(bias, bias)).cpu())
    mixed = share.to(returns.device) @ returns
    weight = whole_share(cumulative_log_weight(flat["log_ratio"], flat["done"]), flat["done"])
    return estimate(mixed, torch.ones_like(mixed, dtype=torch.bool), weight, summed(*values.values()))


def _check_steps(steps: object) -> None:
    if steps is not None and not isinstance(steps, Iterable):
        refuse(TypeError, "magic_value", "steps", "numbers of steps, or None", describe(steps), "Pass them in a list.")


def truncated(
    reward: Tensor,  # [N], as the others
    q_data: Tensor,
    value: Tensor,
    next_value: Tensor,
    log_ratio: Tensor,
    terminated: Tensor,
    done: Tensor,
    discount: Knob,
    steps: Iterable[int] | None,
) -> Tensor:
    """What each episode adds to each estimate, [J, n], the errors of all steps in the last."""
    step = step_in_episode(done)
    longest = int(step.max()) + 1
    log_weight, start = cumulative_log_weight(log_ratio, done), sequence_start(done)
    error = td_error(reward, q_data, next_value, terminated, discount).double()
    chosen = [0, *(2**k for k in range(longest.bit_length()))] if steps is None else list(steps)
    for count in chosen:
        check_count("magic_value", "steps", count, 0)
    counts = [*sorted({count for count in chosen if count < longest}), longest]
    kept = (torch.where(step < count, error, 0.0) for count in counts)
    return torch.stack([value[start] + only(normalized_sums(x, log_weight, done, discount)) for x in kept])


def resampled(
    reward: Tensor,  # [N], as the others
    q_data: Tensor,
    value: Tensor,
    next_value: Tensor,
    log_ratio: Tensor,
    terminated: Tensor,
    done: Tensor,
    discount: Knob,
    generator: Generator,
    resamples: int,
) -> Tensor:
    """`weighted_doubly_robust_value` of as many episodes, drawn again as `bootstrap_interval` does; [resamples]."""
    error = td_error(reward, q_data, next_value, terminated, discount).double()
    first_value, n = value[sequence_start(done)].double(), int(done.sum())
    drawn = (torch.randint(n, (n,), generator=generator, device=generator.device) for _ in range(resamples))
    counts = [torch.bincount(index.to(done.device), minlength=n) for index in drawn]
    sums = resampled_sums(error, cumulative_log_weight(log_ratio, done), done, discount, counts)
    return torch.stack([x + count.double() @ first_value / n for x, count in zip(sums, counts, strict=True)])


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
