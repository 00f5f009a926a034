r"""Returns along the time axis: how much reward followed, and where an estimate of the rest takes over.

Time is the last axis, flat over a whole dataset `[N]` or in rows `[*batch, T]`. `done` (terminated or truncated) cuts
the recurrence, so that the flat form equals the one for each episode alone; `terminated` ends the bootstrap, and `done`
must be True there too (`check_ends` says whether it is). The last step of the axis always ends a sequence, and nothing
behind a cut has any influence on what lies before it. `next_value[t]` is the value of the state that step `t` really
led to, which at the end of an episode is not the first state of the next one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from offline_losses._core.checks import Knob, check_count, check_knob, check_sequence, of_steps, present
from offline_losses._core.episodes import sequence_end
from offline_losses._core.errors import describe
from offline_losses._core.public import public
from offline_losses._core.reduce import over_steps, summed, times, upcast
from offline_losses.recurrence import discounted_recurrence, done_or_zero, td_error


@public
def discounted_return(
    reward: Tensor,
    done: Tensor,
    *,
    discount: Knob = 0.99,
    next_value: Tensor | None = None,
    terminated: Tensor | None = None,
) -> Tensor:
    r"""Discounted sum of the rewards from each step to the end of its episode (Monte Carlo return).

    $$G_t = r_t + \gamma G_{t+1}, \qquad G_t = r_t + \gamma V'_t \text{ at a cut}, \qquad
    V'_t = 0 \text{ where terminated}$$

    Also called reward-to-go and return-to-go. Without `next_value` nothing is added at a cut. With it, steps that are
    cut but not terminated (truncated ones, and the last step of the axis) add the value of the state that follows.

    Args:
        reward: `[*batch, T]`.
        done: bool `[*batch, T]`, True on the last step of an episode.
        discount: $\gamma$ in [0, 1], or a tensor `[*batch, T]` of one for each step (steps of differing duration).
        next_value: `[*batch, T]`, value of each step's next state; only the cut steps are read. Needs `terminated`.
        terminated: bool `[*batch, T]`, True where the environment ended. Needs `next_value`.

    Returns:
        `[*batch, T]`, float32 or wider.

    Gradient:
        `reward`, `next_value`, and `discount` if it is a tensor.

    Raises:
        ValueError: shapes that differ, `discount` out of range, `next_value` without `terminated` or the reverse.
        TypeError: not a tensor, integer rewards, flags that are not bool.

    Examples:
        >>> import torch
        >>> discounted_return(torch.ones(4), torch.tensor([False, True, False, True]), discount=0.5)
        tensor([1.5000, 1.0000, 1.5000, 1.0000])

    Reference:
        Sutton and Barto, Reinforcement Learning: An Introduction, 2nd edition, 2018, equations 3.8 and 3.9.
    """
    values, flags = {"reward": reward, **present(next_value=next_value)}, present(terminated=terminated)
    check_sequence("discounted_return", discount, values, done=done, **flags)
    discount = over_steps(discount, reward)
    if (next_value is None) != (terminated is None):
        given, missing = ("terminated", "next_value") if next_value is None else ("next_value", "terminated")
        raise ValueError(
            f"discounted_return: {missing}: expected a tensor because {given} is given, got {describe(None)}. "
            f"Pass both to bootstrap at truncated steps, or neither."
        )
    if next_value is None or terminated is None:
        b = upcast(reward)
        return discounted_recurrence(b, discount, done_or_zero(done, discount)).to(summed(reward))
    cut = sequence_end(done) & ~terminated
    b = upcast(reward) + times(discount, torch.where(cut, upcast(next_value), 0.0))
    return discounted_recurrence(b, discount, done_or_zero(done, discount)).to(summed(reward, next_value))


@public
def n_step_return(
    reward: Tensor, next_value: Tensor, terminated: Tensor, done: Tensor, *, n: int, discount: Knob = 0.99
) -> Tensor:
    r"""Sum of up to n discounted rewards, then the value of the state reached: less bias and more variance as n grows.

    $$G^{(n)}_t = \sum_{k=0}^{m-1} \gamma^k r_{t+k} + \gamma^m V'_{t+m-1}, \qquad
    m = \min(n, \text{steps left in the episode}), \qquad V' = 0 \text{ where terminated}$$

    Near the end of an episode the window is shortened, never padded, and the power of the discount with it.

    Args:
        reward: `[*batch, T]`.
        next_value: `[*batch, T]`, value of each step's next state.
        terminated: bool `[*batch, T]`, True where the environment ended.
        done: bool `[*batch, T]`, True on the last step of an episode.
        n: how many rewards at most; a Python int of at least 1. The cost grows with it.
        discount: $\gamma$ in [0, 1], or a tensor `[*batch, T]` of one for each step (steps of differing duration).

    Returns:
        `[*batch, T]`, float32 or wider.

    Gradient:
        `reward`, `next_value`, and `discount` if it is a tensor.

    Raises:
        ValueError: shapes that differ, `discount` out of range, `n` below 1.
        TypeError: not a tensor, integer rewards, flags that are not bool, `n` not an int.

    Examples:
        >>> import torch
        >>> end = torch.tensor([False, False, True])
        >>> n_step_return(torch.ones(3), torch.full((3,), 8.0), end, end, n=2, discount=0.5)
        tensor([3.5000, 1.5000, 1.0000])

    Reference:
        Sutton and Barto, Reinforcement Learning: An Introduction, 2nd edition, 2018, equation 7.1 (n-step TD).
    """
    check_sequence(
        "n_step_return", discount, {"reward": reward, "next_value": next_value}, terminated=terminated, done=done
    )
    check_count("n_step_return", "n", n, 1)
    discount, end, r = over_steps(discount, reward), sequence_end(done), upcast(reward)
    bootstrap = torch.where(terminated, 0.0, upcast(next_value))
    value = r + times(discount, bootstrap)
    for _ in range(min(n, reward.shape[-1]) - 1):
        value = r + times(discount, torch.where(end, bootstrap, pad(value[..., 1:], (0, 1))))
    return value.to(summed(reward, next_value))


@public
def lambda_return(
    reward: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    discount: Knob = 0.99,
    lambda_: Knob = 0.95,
) -> Tensor:
    r"""Geometric mixture of all n-step returns: λ = 0 trusts the next value, λ = 1 trusts the rewards.

    $$G_t = r_t + \gamma \left[ (1 - \lambda) V'_t + \lambda G_{t+1} \right], \qquad
    G_t = r_t + \gamma V'_t \text{ at a cut}, \qquad V'_t = 0 \text{ where terminated}$$

    Args:
        reward: `[*batch, T]`.
        next_value: `[*batch, T]`, value of each step's next state.
        terminated: bool `[*batch, T]`, True where the environment ended.
        done: bool `[*batch, T]`, True on the last step of an episode.
        discount: $\gamma$ in [0, 1], or a tensor `[*batch, T]` of one for each step (steps of differing duration).
        lambda_: $\lambda$ in [0, 1], or a tensor `[*batch, T]`.

    Returns:
        `[*batch, T]`, float32 or wider.

    Gradient:
        `reward`, `next_value`, and `discount` and `lambda_` if they are tensors.

    Raises:
        ValueError: shapes that differ, a knob out of range.
        TypeError: not a tensor, integer rewards, flags that are not bool.

    Examples:
        >>> import torch
        >>> end = torch.tensor([False, True])
        >>> lambda_return(torch.ones(2), torch.full((2,), 4.0), end, end, discount=0.5, lambda_=0.5)
        tensor([2.2500, 1.0000])

    Reference:
        Sutton and Barto, Reinforcement Learning: An Introduction, 2nd edition, 2018, equation 12.2 in the recursive
        form of equation 12.18 (TD(λ)); advantage-weighted regression (AWR) fits its values to it.
    """
    check_sequence(
        "lambda_return", discount, {"reward": reward, "next_value": next_value}, terminated=terminated, done=done
    )
    check_knob("lambda_return", "lambda_", lambda_, 0.0, 1.0, "[]", of_steps(reward))
    discount, lambda_ = over_steps(discount, reward), over_steps(lambda_, reward)
    end, r = sequence_end(done), upcast(reward)
    bootstrap = torch.where(terminated, 0.0, upcast(next_value))
    b = r + times(discount, torch.where(end, bootstrap, times(1 - lambda_, bootstrap)))
    return discounted_recurrence(b, discount * lambda_, done_or_zero(done, discount, lambda_)).to(
        summed(reward, next_value)
    )


@public
def generalized_advantage(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    discount: Knob = 0.99,
    lambda_: Knob = 0.95,
) -> Tensor:
    r"""How much better the action turned out than the state's value: the λ-return minus that value.

    $$A_t = \delta_t + \gamma \lambda A_{t+1}, \qquad A_t = \delta_t \text{ at a cut}, \qquad
    \delta_t = r_t + \gamma V'_t - V_t, \qquad V'_t = 0 \text{ where terminated}$$

    It is that difference exactly where `next_value[t]` equals `value[t + 1]` inside of an episode.

    Args:
        reward: `[*batch, T]`.
        value: `[*batch, T]`, value of each step's own state.
        next_value: `[*batch, T]`, value of each step's next state.
        terminated: bool `[*batch, T]`, True where the environment ended.
        done: bool `[*batch, T]`, True on the last step of an episode.
        discount: $\gamma$ in [0, 1], or a tensor `[*batch, T]` of one for each step (steps of differing duration).
        lambda_: $\lambda$ in [0, 1], or a tensor `[*batch, T]`.

    Returns:
        `[*batch, T]`, float32 or wider; not normalized.

    Gradient:
        `reward`, `value`, `next_value`, and `discount` and `lambda_` if they are tensors.

    Raises:
        ValueError: shapes that differ, a knob out of range.
        TypeError: not a tensor, integer rewards, flags that are not bool.

    Examples:
        >>> import torch
        >>> end = torch.tensor([False, True])
        >>> reward, value, next_value = torch.ones(2), torch.ones(2), torch.full((2,), 4.0)
        >>> generalized_advantage(reward, value, next_value, end, end, discount=0.5, lambda_=0.5)
        tensor([2., 0.])

    Reference:
        Schulman, Moritz, Levine, Jordan and Abbeel, High-Dimensional Continuous Control Using Generalized Advantage
        Estimation (GAE), arXiv:1506.02438, equation 16.
    """
    values = {"reward": reward, "value": value, "next_value": next_value}
    check_sequence("generalized_advantage", discount, values, terminated=terminated, done=done)
    check_knob("generalized_advantage", "lambda_", lambda_, 0.0, 1.0, "[]", of_steps(reward))
    discount, lambda_ = over_steps(discount, reward), over_steps(lambda_, reward)
    delta = td_error(reward, value, next_value, terminated, discount)
    advantage = discounted_recurrence(delta, discount * lambda_, done_or_zero(done, discount, lambda_))
    return advantage.to(summed(reward, value, next_value))
