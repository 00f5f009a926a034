r"""Off-policy evaluation of single decisions: shown items, treatments, prices, with the propensity that was logged.

Each sample is an action $a$ drawn with the propensity $p = \mu(a \mid x)$ and its reward; $\pi(a \mid x)$ is the
probability of the same action under the policy in question, 0 if it never takes it. Take the propensity that was logged
with the action, not one of a policy rebuilt later. For densities and for episodes of more than one step see
`importance`. All sums are taken in double precision.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from offline_losses._core.checks import Knob, check_knob, check_some, check_values
from offline_losses._core.public import public
from offline_losses._core.reduce import relative, scalar, summed
from offline_losses.importance import ValueEstimate, estimate, self_normalized


@public
def ips_value(
    reward: Tensor, policy_probability: Tensor, propensity: Tensor, *, max_weight: Knob = math.inf
) -> ValueEstimate:
    r"""Value of a policy from another's decisions: mean reward by inverse propensity (IPS, IPW), without a bias.

    $$\hat v = \frac1n \sum_i w_i r_i, \qquad w_i = \min\left( w_{\max}, \frac{\pi(a_i \mid x_i)}{p_i} \right)$$

    It changes with a constant added to all rewards. A bound on the weights gives up the freedom from bias. In a slate,
    a list of items each shown with a propensity of its own, every position is a sample if its reward depends on its
    item alone; if also on those above it, the slate is an episode of `per_decision_value`.

    Args:
        reward: `[*batch]`.
        policy_probability: `[*batch]`, $\pi(a \mid x)$ of the logged action, in [0, 1].
        propensity: `[*batch]`, $p$, the probability with which it was taken; positive.
        max_weight: $w_{\max}$, positive; infinity for no bound.

    Returns:
        `ValueEstimate(value, standard_error, effective_sample_size)`, 0-d, float32 or wider. The error is infinite for
        fewer than two samples, or if the policy takes none of the actions.

    Gradient:
        `reward`, `policy_probability`, `propensity`, and `max_weight` if it is a tensor.

    Raises:
        ValueError: shapes that differ, no sample, `max_weight` not positive.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> reward, probability = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.6, 0.2, 0.0])
        >>> ips_value(reward, probability, torch.tensor([0.2, 0.4, 0.4])).value
        tensor(1.)

    Reference:
        Horvitz and Thompson, A Generalization of Sampling Without Replacement from a Finite Universe, JASA 47, 1952;
        Saito, Aihara, Matsutani and Narita, Open Bandit Dataset and Pipeline, arXiv:2008.07146.
    """
    _check("ips_value", reward=reward, policy_probability=policy_probability, propensity=propensity)
    check_knob("ips_value", "max_weight", max_weight, 0.0, bounds="(]")
    weight = _bounded(policy_probability, propensity, max_weight)
    return _estimate(weight * reward, weight, summed(reward, policy_probability, propensity))


@public
def self_normalized_ips_value(reward: Tensor, policy_probability: Tensor, propensity: Tensor) -> ValueEstimate:
    r"""Value of a policy as the mean of logged rewards, weighted by probability over propensity (SNIPS, SNIPW).

    $$\hat v = \frac{\sum_i w_i r_i}{\sum_i w_i}, \qquad w_i = \frac{\pi(a_i \mid x_i)}{p_i}$$

    It never leaves the range of the logged rewards and moves along with a constant added to them; its bias falls with
    the number of samples.

    Args:
        reward: `[*batch]`.
        policy_probability: `[*batch]`, $\pi(a \mid x)$ of the logged action, in [0, 1]. A factor common to all of them
            does not matter.
        propensity: `[*batch]`, $p$, the probability with which it was taken; positive.

    Returns:
        `ValueEstimate(value, standard_error, effective_sample_size)`, 0-d, float32 or wider. The error is that of a
        ratio, to first order, and infinite for fewer than two samples. If the policy takes none of the actions the
        value is 0 and the error infinite.

    Gradient:
        `reward`, `policy_probability`, `propensity`.

    Raises:
        ValueError: shapes that differ, no sample.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> reward, probability = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.6, 0.4, 0.0])
        >>> self_normalized_ips_value(reward, probability, torch.tensor([0.2, 0.4, 0.4])).value
        tensor(0.7500)

    Reference:
        Swaminathan and Joachims, The Self-Normalized Estimator for Counterfactual Learning, NIPS 2015.
    """
    _check("self_normalized_ips_value", reward=reward, policy_probability=policy_probability, propensity=propensity)
    weight = relative(policy_probability.double() / propensity.double())
    contribution = self_normalized(reward.double(), weight, torch.ones_like(reward, dtype=torch.bool))
    return _estimate(contribution, weight, summed(reward, policy_probability, propensity))


@public
def bandit_doubly_robust_value(
    reward: Tensor,
    q_data: Tensor,
    value: Tensor,
    policy_probability: Tensor,
    propensity: Tensor,
    *,
    max_weight: Knob = math.inf,
) -> ValueEstimate:
    r"""Value of a policy from another's decisions and a model of rewards (DR): the weights carry the model's errors.

    $$\hat v = \frac1n \sum_i \left[ V(x_i) + w_i \left( r_i - Q(x_i, a_i) \right) \right], \qquad
    w_i = \min\left( w_{\max}, \frac{\pi(a_i \mid x_i)}{p_i} \right)$$

    Right on average if the propensities are right, whatever $Q$ is, or if $Q$ is right. With a $Q$ of zero it is
    `ips_value`; as the bound falls to zero it becomes the mean of $V$, the direct method. Fit $Q$ on other samples.

    Args:
        reward: `[*batch]`.
        q_data: `[*batch]`, $Q(x, a)$, the model's reward for the logged action.
        value: `[*batch]`, $V(x) = \sum_a \pi(a \mid x)\, Q(x, a)$ over all actions.
        policy_probability: `[*batch]`, $\pi(a \mid x)$ of the logged action, in [0, 1].
        propensity: `[*batch]`, $p$, the probability with which it was taken; positive.
        max_weight: $w_{\max}$, positive; infinity for no bound.

    Returns:
        `ValueEstimate(value, standard_error, effective_sample_size)`, 0-d, float32 or wider, as in `ips_value`.

    Gradient:
        `reward`, `q_data`, `value`, `policy_probability`, `propensity`, and `max_weight` if it is a tensor.

    Raises:
        ValueError: shapes that differ, no sample, `max_weight` not positive.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> reward, q, value = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]), torch.tensor([0.7, 0.7])
        >>> bandit_doubly_robust_value(reward, q, value, torch.tensor([0.6, 0.2]), torch.tensor([0.2, 0.4])).value
        tensor(1.3250)

    Reference:
        Dudík, Langford and Li, Doubly Robust Policy Evaluation and Learning, arXiv:1103.4601.
    """
    model = {"reward": reward, "q_data": q_data, "value": value}
    tensors = {**model, "policy_probability": policy_probability, "propensity": propensity}
    _check("bandit_doubly_robust_value", **tensors)
    check_knob("bandit_doubly_robust_value", "max_weight", max_weight, 0.0, bounds="(]")
    weight = _bounded(policy_probability, propensity, max_weight)
    contribution = value + weight * (reward.double() - q_data.double())
    return _estimate(contribution, weight, summed(*tensors.values()))


def _check(function: str, **tensors: Tensor) -> None:
    check_values(function, **tensors)
    check_some(function, "reward", tensors["reward"], "sample")


def _bounded(probability: Tensor, propensity: Tensor, max_weight: Knob) -> Tensor:
    ratio = probability.double() / propensity.double()
    return torch.minimum(ratio, scalar(max_weight, ratio).double())


def _estimate(contribution: Tensor, weight: Tensor, dtype: torch.dtype) -> ValueEstimate:
    return estimate(contribution, torch.ones_like(weight, dtype=torch.bool), relative(weight), dtype)
