r"""State values and policy gradients from the data of a policy close by: V-trace.

A step's error counts as much as its bounded ratio $\rho_t = \min(\bar\rho, e^{\ell_t})$, and what follows the step as
much as its trace $c_t = \lambda \min(\bar c, \rho_t)$, with $\ell_t = \log \pi(a_t \mid s_t) - \log \mu(a_t \mid
s_t)$. It is `trace_return` with these two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from offline_losses._core.checks import Knob, check_knob, check_sequence, of_steps
from offline_losses._core.public import public
from offline_losses._core.reduce import over_steps, scalar, summed, times, upcast
from offline_losses.corrections import bounded_ratio, next_in_episode, summed_errors
from offline_losses.recurrence import td_error


@public
def vtrace_return(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    log_ratio: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    discount: Knob = 0.99,
    lambda_: Knob = 1.0,
    max_ratio: Knob = 1.0,
    max_trace: Knob = 1.0,
) -> Tensor:
    r"""State values of a policy from another's data, with bounded importance ratios: the target for a value network.

    $$G_t = V_t + \rho_t \delta_t + \gamma c_t \left( G_{t+1} - V_{t+1} \right), \qquad
    G_t = V_t + \rho_t \delta_t \text{ at a cut}, \qquad
    \delta_t = r_t + \gamma V'_t - V_t, \qquad V'_t = 0 \text{ where terminated}$$

    On the policy's own data, with bounds of at least one, it is `lambda_return` wherever `next_value[t]` equals
    `value[t + 1]` inside of an episode. The bound $\bar\rho$ decides what is estimated: the values of the
    policy proportional to $\min(\bar\rho\, \mu, \pi)$, which is $\pi$ itself only if $\bar\rho$ is above every ratio.
    The bound $\bar c$ decides how far one error is felt, and how noisy the sum is.

    Args:
        reward: `[*batch, T]`.
        value: `[*batch, T]`, value of each step's own state.
        next_value: `[*batch, T]`, value of each step's next state.
        log_ratio: `[*batch, T]`, $\ell$, log-probability of the step's action under the policy minus that under the
            behavior policy. Infinite ones are ratios of zero and of the bound.
        terminated: bool `[*batch, T]`, True where the environment ended.
        done: bool `[*batch, T]`, True on the last step of an episode.
        discount: $\gamma$ in [0, 1], or a tensor `[*batch, T]` of one for each step (steps of differing duration).
        lambda_: $\lambda$ in [0, 1], or a tensor `[*batch, T]`; it multiplies the bounded ratio.
        max_ratio: $\bar\rho$, positive; infinity for no bound.
        max_trace: $\bar c$, positive; infinity for no bound. Above $\bar\rho$ it bounds nothing more.

    Returns:
        `[*batch, T]`, float32 or wider.

    Gradient:
        `reward`, `value`, `next_value`, `log_ratio`, and the knobs that are tensors.

    Raises:
        ValueError: shapes that differ, a knob out of range.
        TypeError: not a tensor, integer rewards, flags that are not bool.

    Examples:
        >>> import torch
        >>> end, value, log_ratio = torch.tensor([False, True]), torch.ones(2), torch.tensor([0.5, 2.0]).log()
        >>> vtrace_return(torch.full((2,), 3.0), value, value, log_ratio, end, end, discount=1.0)
        tensor([3.5000, 3.0000])

    Reference:
        Espeholt et al., IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner Architectures,
        arXiv:1802.01561, equation 1, with the λ of remark 2. Others have no λ, or no bound of the trace: see
        [Lineage](../lineage/vtrace.md#vtrace_return).
    """
    values = {"reward": reward, "value": value, "next_value": next_value, "log_ratio": log_ratio}
    check_sequence("vtrace_return", discount, values, terminated=terminated, done=done)
    _check_knobs("vtrace_return", lambda_, max_ratio, max_trace, reward)
    discount, lambda_ = over_steps(discount, reward), over_steps(lambda_, reward)
    delta = td_error(reward, value, next_value, terminated, discount)
    _, above = _corrected(delta, log_ratio, done, discount, lambda_, max_ratio, max_trace)
    return (upcast(value) + above).to(summed(*values.values()))


@public
def vtrace_advantage(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    log_ratio: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    discount: Knob = 0.99,
    lambda_: Knob = 1.0,
    max_ratio: Knob = 1.0,
    max_trace: Knob = 1.0,
) -> Tensor:
    r"""What the policy gradient multiplies the log-probability by: an advantage that holds the action's ratio.

    $$A_t = \rho_t \left[ \delta_t + \gamma \lambda \left( G_{t+1} - V_{t+1} \right) \right], \qquad
    A_t = \rho_t \delta_t \text{ at a cut}$$

    with $G$ and the errors $\delta$ of `vtrace_return`. On the policy's own data, with bounds of at least one, it is
    `generalized_advantage`. As a weight it makes the policy gradient:
    `nll_loss(log_prob, weight=vtrace_advantage(...))`.

    Args:
        reward: `[*batch, T]`.
        value: `[*batch, T]`, value of each step's own state.
        next_value: `[*batch, T]`, value of each step's next state.
        log_ratio: `[*batch, T]`, log-probability of the step's action under the policy minus that under the behavior
            policy. Infinite ones are ratios of zero and of the bound.
        terminated: bool `[*batch, T]`, True where the environment ended.
        done: bool `[*batch, T]`, True on the last step of an episode.
        discount: $\gamma$ in [0, 1], or a tensor `[*batch, T]` of one for each step (steps of differing duration).
        lambda_: $\lambda$ in [0, 1], or a tensor `[*batch, T]`.
        max_ratio: $\bar\rho$, positive; infinity for no bound.
        max_trace: $\bar c$, positive; infinity for no bound. Above $\bar\rho$ it bounds nothing more.

    Returns:
        `[*batch, T]`, float32 or wider; not normalized.

    Gradient:
        `reward`, `value`, `next_value`, `log_ratio`, and the knobs that are tensors; a loss detaches its weight.

    Raises:
        ValueError: shapes that differ, a knob out of range.
        TypeError: not a tensor, integer rewards, flags that are not bool.

    Examples:
        >>> import torch
        >>> end, value, log_ratio = torch.tensor([False, True]), torch.ones(2), torch.tensor([0.5, 2.0]).log()
        >>> vtrace_advantage(torch.full((2,), 3.0), value, value, log_ratio, end, end, discount=1.0)
        tensor([2.5000, 2.0000])

    Reference:
        Espeholt et al., IMPALA, arXiv:1802.01561, section 4.2: $\rho_t (r_t + \gamma G_{t+1} - V_t)$, which this is at
        λ = 1. Others weigh what follows by λ too, or not: see [Lineage](../lineage/vtrace.md#vtrace_advantage).
    """
    values = {"reward": reward, "value": value, "next_value": next_value, "log_ratio": log_ratio}
    check_sequence("vtrace_advantage", discount, values, terminated=terminated, done=done)
    _check_knobs("vtrace_advantage", lambda_, max_ratio, max_trace, reward)
    discount, lambda_ = over_steps(discount, reward), over_steps(lambda_, reward)
    delta = td_error(reward, value, next_value, terminated, discount)
    ratio, above = _corrected(delta, log_ratio, done, discount, lambda_, max_ratio, max_trace)
    following = times(discount, times(lambda_, next_in_episode(above, done)))
    return times(ratio, delta + following).to(summed(*values.values()))


def _corrected(
    delta: Tensor,
    log_ratio: Tensor,
    done: Tensor,
    discount: Knob,
    lambda_: Knob,
    max_ratio: Knob,
    max_trace: Knob,
) -> tuple[Tensor, Tensor]:
    """The ratio of each step's own error, and what the errors from there on add to its value."""
    max_ratio, max_trace = over_steps(max_ratio, delta), over_steps(max_trace, delta)
    ratio = bounded_ratio(log_ratio, max_ratio)
    trace = bounded_ratio(log_ratio, torch.minimum(scalar(max_trace, delta), scalar(max_ratio, delta)))
    return ratio, summed_errors(times(ratio, delta), trace, done, discount, lambda_)


def _check_knobs(function: str, lambda_: Knob, max_ratio: Knob, max_trace: Knob, reward: Tensor) -> None:
    check_knob(function, "lambda_", lambda_, 0.0, 1.0, "[]", of_steps(reward))
    check_knob(function, "max_ratio", max_ratio, 0.0, bounds="(]", shapes=of_steps(reward))
    check_knob(function, "max_trace", max_trace, 0.0, bounds="(]", shapes=of_steps(reward))
