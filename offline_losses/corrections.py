r"""Returns for another policy than the one that acted: what each step keeps of the TD errors after it.

Every correction adds up the same errors, $\delta_t = r_t + \gamma V'_t - V_t$, each multiplied by the traces on the way
to it: near one where the policy in question acts as the data do, near zero where it does not. Ratios of a policy $\pi$
over the behavior policy $\mu$ come as logarithms, $\log \pi(a \mid s) - \log \mu(a \mid s)$, and are bounded before the
exponential. Time and its flags are those of `returns`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from offline_losses._core.checks import Knob, check_knob, check_sequence, of_steps
from offline_losses._core.public import public
from offline_losses._core.reduce import over_steps, scalar, summed, times, upcast
from offline_losses.recurrence import discounted_recurrence, done_or_zero, td_error


@public
def trace_return(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    trace: Knob,
    ratio: Knob = 1.0,
    discount: Knob = 0.99,
) -> Tensor:
    r"""Value of each step plus the TD errors from there on, each as far as the traces on the way let it through.

    $$G_t = V_t + \sum_{k \ge 0} \gamma^k \left( \prod_{i < k} c_{t+i} \right) \rho_{t+k}\, \delta_{t+k}, \qquad
    \delta_t = r_t + \gamma V'_t - V_t$$

    The sum ends with the episode, and $V' = 0$ where terminated. The trace $c_t$ leads from step $t$ to step $t + 1$:
    for state values it belongs to the action of step $t$; for action values, with $Q(s_t, a_t)$ as $V_t$ and
    $\mathbb E_\pi[Q(s_{t+1}, \cdot)]$ as $V'_t$, to that of step $t + 1$.

    Args:
        reward: `[*batch, T]`.
        value: `[*batch, T]`, value of each step's own state, or of its state and action.
        next_value: `[*batch, T]`, value of each step's next state.
        terminated: bool `[*batch, T]`, True where the environment ended.
        done: bool `[*batch, T]`, True on the last step of an episode.
        trace: $c$, not negative, or a tensor `[*batch, T]`. One number is the λ of
            `generalized_advantage`, and of `lambda_return` if `next_value[t]` is `value[t + 1]` inside of episodes.
        ratio: $\rho$, not negative, or a tensor `[*batch, T]`: what a step's own error is multiplied by.
        discount: $\gamma$ in [0, 1], or a tensor `[*batch, T]` of one for each step (steps of differing duration).

    Returns:
        `[*batch, T]`, float32 or wider.

    Gradient:
        `reward`, `value`, `next_value`, and `trace`, `ratio` and `discount` if they are tensors.

    Raises:
        ValueError: shapes that differ, a knob out of range.
        TypeError: not a tensor, integer rewards, flags that are not bool.

    Examples:
        >>> import torch
        >>> end, value = torch.tensor([False, False, True]), torch.zeros(3)
        >>> trace_return(torch.ones(3), value, value, end, end, trace=torch.tensor([1.0, 0.5, 0.0]), discount=1.0)
        tensor([2.5000, 1.5000, 1.0000])

    Reference:
        Munos, Stepleton, Harutyunyan and Bellemare, Safe and Efficient Off-Policy Reinforcement Learning (Retrace),
        arXiv:1606.02647, equation 3, for action values; IMPALA, arXiv:1802.01561, equation 1, for state values.
    """
    values = {"reward": reward, "value": value, "next_value": next_value}
    check_sequence("trace_return", discount, values, terminated=terminated, done=done)
    check_knob("trace_return", "trace", trace, 0.0, math.inf, "[)", of_steps(reward))
    check_knob("trace_return", "ratio", ratio, 0.0, math.inf, "[)", of_steps(reward))
    discount, trace, ratio = (over_steps(x, reward) for x in (discount, trace, ratio))
    delta = td_error(reward, value, next_value, terminated, discount)
    following = discounted_recurrence(times(ratio, delta), discount * trace, done_or_zero(done, discount, trace))
    return (upcast(value) + following).to(summed(reward, value, next_value))


@public
def retrace_return(
    reward: Tensor,
    q_data: Tensor,
    next_value: Tensor,
    log_ratio: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    discount: Knob = 0.99,
    lambda_: Knob = 1.0,
) -> Tensor:
    r"""Action values of a policy from any other's data: traces are ratios cut off at one (Retrace).

    $$G_t = r_t + \gamma \left[ V'_t + \lambda \min(1, e^{\ell_{t+1}}) \left( G_{t+1} - Q_{t+1} \right) \right],
    \qquad G_t = r_t + \gamma V'_t \text{ at a cut}, \qquad V'_t = 0 \text{ where terminated}$$

    with $\ell_t = \log \pi(a_t \mid s_t) - \log \mu(a_t \mid s_t)$. Each step takes the ratio of the *next* action, as
    its own is given. Errors themselves are not weighted, so that the fixed point is $Q^\pi$ whatever the data.

    Args:
        reward: `[*batch, T]`.
        q_data: `[*batch, T]`, $Q(s_t, a_t)$ of the data's actions.
        next_value: `[*batch, T]`, $V'_t = \mathbb E_{a \sim \pi}[Q(s_{t+1}, a)]$, of each step's next state.
        log_ratio: `[*batch, T]`, $\ell$, log-probability of the step's action under the policy minus that under the
            behavior policy; not read on the first step of an episode. Infinite ones are ratios of zero and one.
        terminated: bool `[*batch, T]`, True where the environment ended.
        done: bool `[*batch, T]`, True on the last step of an episode.
        discount: $\gamma$ in [0, 1], or a tensor `[*batch, T]` of one for each step (steps of differing duration).
        lambda_: $\lambda$ in [0, 1], or a tensor `[*batch, T]`, as in `lambda_return` that of step $t$ in $G_t$.

    Returns:
        `[*batch, T]`, float32 or wider.

    Gradient:
        `reward`, `q_data`, `next_value`, `log_ratio`, and `discount` and `lambda_` if they are tensors.

    Raises:
        ValueError: shapes that differ, a knob out of range.
        TypeError: not a tensor, integer rewards, flags that are not bool.

    Examples:
        >>> import torch
        >>> end, q, log_ratio = torch.tensor([False, True]), torch.zeros(2), torch.tensor([3.0, 0.5]).log()
        >>> retrace_return(torch.ones(2), q, q, log_ratio, end, end, discount=1.0)
        tensor([1.5000, 1.0000])

    Reference:
        Munos, Stepleton, Harutyunyan and Bellemare, Safe and Efficient Off-Policy Reinforcement Learning,
        arXiv:1606.02647, equation 3 with the traces of Retrace(λ).
    """
    values = {"reward": reward, "q_data": q_data, "next_value": next_value, "log_ratio": log_ratio}
    check_sequence("retrace_return", discount, values, terminated=terminated, done=done)
    check_knob("retrace_return", "lambda_", lambda_, 0.0, 1.0, "[]", of_steps(reward))
    discount, lambda_ = over_steps(discount, reward), over_steps(lambda_, reward)
    delta = td_error(reward, q_data, next_value, terminated, discount)
    trace = bounded_ratio(next_in_episode(log_ratio, done), 1.0)
    following = summed_errors(delta, trace, done, discount, lambda_)
    return (upcast(q_data) + following).to(summed(*values.values()))


@public
def tree_backup_return(
    reward: Tensor,
    q_data: Tensor,
    next_value: Tensor,
    log_prob: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    discount: Knob = 0.99,
    lambda_: Knob = 1.0,
) -> Tensor:
    r"""Action values of a policy from data whose behavior policy is unknown: traces are its own probabilities.

    $$G_t = r_t + \gamma \left[ V'_t + \lambda\, \pi(a_{t+1} \mid s_{t+1}) \left( G_{t+1} - Q_{t+1} \right) \right],
    \qquad G_t = r_t + \gamma V'_t \text{ at a cut}, \qquad V'_t = 0 \text{ where terminated}$$

    The action that was taken counts with its return and all others with their values. Traces are short wherever the
    policy is not nearly deterministic, also on its own data.

    Args:
        reward: `[*batch, T]`.
        q_data: `[*batch, T]`, $Q(s_t, a_t)$ of the data's actions.
        next_value: `[*batch, T]`, $V'_t = \sum_a \pi(a \mid s_{t+1})\, Q(s_{t+1}, a)$, of each step's next state.
        log_prob: `[*batch, T]`, $\log \pi(a_t \mid s_t)$ of the data's actions, which are discrete: a density would not
            do. Not read on the first step of an episode.
        terminated: bool `[*batch, T]`, True where the environment ended.
        done: bool `[*batch, T]`, True on the last step of an episode.
        discount: $\gamma$ in [0, 1], or a tensor `[*batch, T]` of one for each step (steps of differing duration).
        lambda_: $\lambda$ in [0, 1], or a tensor `[*batch, T]`, as in `lambda_return` that of step $t$ in $G_t$.

    Returns:
        `[*batch, T]`, float32 or wider.

    Gradient:
        `reward`, `q_data`, `next_value`, `log_prob`, and `discount` and `lambda_` if they are tensors.

    Raises:
        ValueError: shapes that differ, a knob out of range.
        TypeError: not a tensor, integer rewards, flags that are not bool.

    Examples:
        >>> import torch
        >>> end, q, log_prob = torch.tensor([False, True]), torch.zeros(2), torch.tensor([0.5, 0.25]).log()
        >>> tree_backup_return(torch.ones(2), q, q, log_prob, end, end, discount=1.0)
        tensor([1.2500, 1.0000])

    Reference:
        Precup, Sutton and Singh, Eligibility Traces for Off-Policy Policy Evaluation, ICML 2000; Sutton and Barto,
        Reinforcement Learning: An Introduction, 2nd edition, 2018, equation 7.16; λ as in arXiv:1606.02647.
    """
    values = {"reward": reward, "q_data": q_data, "next_value": next_value, "log_prob": log_prob}
    check_sequence("tree_backup_return", discount, values, terminated=terminated, done=done)
    check_knob("tree_backup_return", "lambda_", lambda_, 0.0, 1.0, "[]", of_steps(reward))
    discount, lambda_ = over_steps(discount, reward), over_steps(lambda_, reward)
    delta = td_error(reward, q_data, next_value, terminated, discount)
    trace = next_in_episode(log_prob, done).exp()
    following = summed_errors(delta, trace, done, discount, lambda_)
    return (upcast(q_data) + following).to(summed(*values.values()))


def summed_errors(
    error: Tensor,  # [*batch, T]
    trace: Tensor,  # [*batch, T], the exponential of a logarithm
    done: Tensor,  # [*batch, T]
    discount: Knob,
    lambda_: Knob,
) -> Tensor:
    """Every error from each step on, multiplied by the discounts, lambdas and traces on the way to it."""
    # Where an exponential is zero its slope is too, so that a cut takes nothing away.
    cut = done_or_zero(done, discount, lambda_) | (trace == 0)
    return discounted_recurrence(error, discount * (lambda_ * trace), cut)


def next_in_episode(
    x: Tensor,  # [*batch, T]
    done: Tensor,  # [*batch, T]
) -> Tensor:
    """The number of the next step; zero where an episode ends, whatever the next one begins with."""
    return torch.where(done, 0.0, pad(upcast(x)[..., 1:], (0, 1)))


def bounded_ratio(log_ratio: Tensor, bound: Knob) -> Tensor:
    """The ratio or the bound, whichever is less; the ratio itself may overflow."""
    exponent = upcast(log_ratio)
    return torch.minimum(exponent, scalar(bound, exponent).log()).exp()
