r"""Staying where the data are, by distances: between two sets of samples, or to the nearest action of the data."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    Reduction,
    check_actions,
    check_axis,
    check_count,
    check_float,
    check_knob,
    check_option,
    check_shape,
    check_tail,
)
from offline_losses._core.errors import describe, refuse
from offline_losses._core.public import public
from offline_losses._core.reduce import over_rows, reduce, select_rows, summed, times, upcast, widest
from offline_losses._core.sharded import is_sharded

CHUNK = 8192
"""Rows of data that are compared with all queries at once: 8 MiB in float32 for a batch of 256."""


@public
def mmd_penalty(
    policy_action: Tensor,
    data_action: Tensor,
    *,
    kernel: Literal["gaussian", "laplacian"] = "gaussian",
    bandwidth: Knob = 1.0,
    estimator: Literal["biased", "unbiased"] = "biased",
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Squared maximum mean discrepancy of the policy's actions from the behavior's: 0 where the two are alike.

    $$\mathbb E\,k(x, x') + \mathbb E\,k(y, y') - 2\,\mathbb E\,k(x, y), \qquad
    k = e^{-\lVert x - y \rVert_2^2 / 2 \sigma^2} \quad\text{or}\quad e^{-\lVert x - y \rVert_1 / \sigma}$$

    It compares samples and needs no density. Few samples see the support of the behavior rather than its shape. Biased,
    a sample is compared with itself too: never negative, and 0 for equal sets, both up to rounding. Unbiased, it is
    not, and the mean over many draws is right, but one value may be negative. BEAR's is the root of the biased one:
    take it of `penalty.clamp(min=0) + 1e-6`.

    Args:
        policy_action: `[*batch, N, A]`, $x$, N actions of the policy in each state.
        data_action: `[*batch, M, A]`, $y$, M actions of a behavior model in the same state.
        kernel: `"gaussian"`, or `"laplacian"`, which feels far samples more.
        bandwidth: $\sigma$, units of action, positive.
        estimator: `"biased"` or `"unbiased"`; the second needs two samples of each.
        mask: bool `[*batch]`, True where the state exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing states, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input.

    Gradient:
        `policy_action`, `data_action`, and `bandwidth` if it is a tensor; finite where samples meet. `weight` is
        detached.

    Raises:
        ValueError: shapes that differ, too few samples, a knob out of range, an unknown word.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> x, y = torch.tensor([[[0.0], [0.0]]]), torch.tensor([[[0.0], [10.0]]])
        >>> mmd_penalty(x, x), mmd_penalty(x, y)
        (tensor(0.), tensor(0.5000))

    Reference:
        Gretton et al., A Kernel Two-Sample Test, JMLR 13, 2012; Kumar, Fu, Tucker and Levine, Stabilizing Off-Policy
        Q-Learning via Bootstrapping Error Reduction (BEAR), arXiv:1906.00949. Public code divides by 2σ in both
        kernels: see [Lineage](../lineage/distance.md#mmd_penalty).
    """
    name = "mmd_penalty"
    check_option(name, "kernel", kernel, ("gaussian", "laplacian"))
    check_option(name, "estimator", estimator, ("biased", "unbiased"))
    _check_samples(name, 2 if estimator == "unbiased" else 1, policy_action=policy_action, data_action=data_action)
    batch = policy_action.shape[:-2]
    check_knob(name, "bandwidth", bandwidth, 0.0, shapes=[batch])
    check_tail(name, batch, batch, mask, weight, reduction, denominator)
    states = None if mask is None else mask.unsqueeze(-1)
    x, y = (select_rows(states, each) for each in widest(policy_action, data_action))

    def mean_kernel(x: Tensor, y: Tensor) -> Tensor:
        difference = (x.unsqueeze(-2) - y.unsqueeze(-3)) / over_rows(bandwidth, 3)
        exponent = difference.square().sum(-1) / 2 if kernel == "gaussian" else difference.abs().sum(-1)
        return (-exponent).exp().flatten(-2).mean(-1)

    def among(x: Tensor) -> Tensor:
        n = x.shape[-2]
        return mean_kernel(x, x) if estimator == "biased" else (n * mean_kernel(x, x) - 1) / (n - 1)

    return reduce(among(x) + among(y) - 2 * mean_kernel(x, y), mask, weight, reduction, denominator)


@public
def nearest_distance_penalty(
    policy_action: Tensor,
    observation: Tensor,
    data_action: Tensor,
    data_observation: Tensor,
    *,
    observation_scale: Knob = 2.0,
    chunk: int = CHUNK,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Knob | None = None,
) -> Tensor:
    r"""Squared distance of the policy's action from that of the nearest pair in the data; 0 anywhere on the data.

    $$\frac1A \sum_d \left( \pi_d(s) - a^\star_d \right)^2, \qquad
    (s^\star, a^\star) = \arg\min_{(\hat s, \hat a) \in \mathcal D}\ \beta^2 \lVert s - \hat s \rVert^2 +
    \lVert \pi(s) - \hat a \rVert^2$$

    The policy is not held to the one action that was taken in this state: an action from a similar state will do, so
    that it may put together what different parts of the data did well. A larger $\beta$ asks for more similar states.

    The whole data is searched, on its own device, a chunk at a time: memory grows with the batch times the chunk.

    Args:
        policy_action: `[*batch, A]`, $\pi(s)$.
        observation: `[*batch, D]`, $s$.
        data_action: `[M, A]`, of all the data, of the same range as the policy's.
        data_observation: `[M, D]`, beside them.
        observation_scale: $\beta$, how much a distance of observations counts beside one of actions; at least 0.
        chunk: rows of data to compare at once.
        mask: bool `[*batch]`, True where the sample exists.
        weight: `[*batch]`, multiplies and never enters the denominator.
        reduction: `"mean"` over existing samples, `"sum"`, or `"none"`.
        denominator: what the mean is divided by, in place of its own count; one number, or one for each run, detached.

    Returns:
        0-d, or `[*batch]` for `"none"`; float32, or float64 for float64 input. Of equally near pairs the first counts.

    Gradient:
        `policy_action`, and `data_action` where they are nearest; observations and knobs only choose. `weight` is
        detached.

    Raises:
        ValueError: shapes that differ, no data, a knob out of range, unknown reduction.
        TypeError: not a tensor, integer values, a mask that is not bool.

    Examples:
        >>> import torch
        >>> state, data_action = torch.zeros(1, 2), torch.tensor([[0.0], [1.0]])
        >>> nearest_distance_penalty(torch.tensor([[1.5]]), state, data_action, torch.zeros(2, 2))
        tensor(0.2500)

    Reference:
        Ran, Li, Zhang, Zhang and Yu, Policy Regularization with Dataset Constraint for Offline Reinforcement Learning
        (PRDC), arXiv:2306.06569. Mean over action dimensions, as in its code: see
        [Lineage](../lineage/distance.md#nearest_distance_penalty).
    """
    name = "nearest_distance_penalty"
    _check_data(name, policy_action, observation, data_action, data_observation)
    check_knob(name, "observation_scale", observation_scale, 0.0, bounds="[)")
    check_count(name, "chunk", chunk, 1)
    batch = policy_action.shape[:-1]
    check_tail(name, batch, batch, mask, weight, reduction, denominator)
    action = select_rows(mask, upcast(policy_action))
    state = select_rows(mask, observation)
    nearest = _nearest(action, state, data_action, data_observation, observation_scale, chunk)
    return reduce((action - upcast(data_action[nearest])).square().mean(-1), mask, weight, reduction, denominator)


def _nearest(
    action: Tensor,  # [*batch, A]
    observation: Tensor,  # [*batch, D]
    data_action: Tensor,  # [M, A]
    data_observation: Tensor,  # [M, D]
    scale: Knob,
    chunk: int,
) -> Tensor:
    """Index [*batch] of the nearest pair.

    A product of matrices would be faster, and its rounding may be larger than the distance: differences are squared.
    """
    dtype = summed(action, observation, data_action, data_observation)
    bits = torch.int64 if dtype == torch.float64 else torch.int32

    def pairs(observation: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([times(scale, observation.to(dtype)), action.to(dtype)], -1)
        try:
            return x.detach().view(bits).view(dtype)  # `cdist` refuses a tangent, and integers carry none
        except RuntimeError:  # PyTorch 2.8 does not map that over a batch
            return x.detach()

    query = pairs(observation, action)
    query = query.reshape(-1, query.shape[-1])
    best, index = query.new_full(query.shape[:1], torch.inf), query.new_zeros(query.shape[:1], dtype=torch.int64)
    for start in range(0, len(data_action), chunk):
        data = pairs(data_observation[start : start + chunk], data_action[start : start + chunk])
        distance = _distance(query, data)
        distance, found = distance.nan_to_num(torch.inf, torch.inf).min(-1)  # of what is no number nothing is near
        index = torch.where(distance < best, found + start, index)
        best = torch.minimum(distance, best)
    return index.view(action.shape[:-1])


def _distance(x: Tensor, y: Tensor) -> Tensor:
    """Between all rows; of a DTensor by their differences, since `cdist` has no rule for it."""
    if is_sharded(x):
        distance: Tensor = torch.linalg.vector_norm(x.unsqueeze(1) - y, dim=-1)
        return distance
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _check_samples(function: str, least: int, **samples: Tensor) -> None:
    """Refuse anything but tensors of at least so many samples `[*batch, N, A]` of one batch and one action."""
    check_float(function, **samples)
    (first, like), (second, other) = samples.items()
    for argument, tensor in samples.items():
        if tensor.ndim < 2 or tensor.shape[-2] < least or not tensor.shape[-1]:
            expected = f"shape [*batch, N, A] of at least {least} sample{'s' * (least > 1)} of one dimension or more"
            refuse(ValueError, function, argument, expected, describe(tensor), "Samples are the last axis but one.")
    if (like.shape[:-2], like.shape[-1]) != (other.shape[:-2], other.shape[-1]):
        sizes = ", ".join([*map(str, like.shape[:-2]), "M", str(like.shape[-1])])
        mend = f"It has the batch and the dimensions of {first}."
        refuse(ValueError, function, second, f"shape [{sizes}]", f"shape {list(other.shape)}", mend)


def _check_data(
    function: str, policy_action: Tensor, observation: Tensor, data_action: Tensor, data_observation: Tensor
) -> None:
    """Refuse actions and observations of two batches, and data that do not have their dimensions."""
    check_actions(function, policy_action=policy_action)
    check_float(function, observation=observation, data_action=data_action, data_observation=data_observation)
    check_axis(function, "observation", observation, "dimension")
    batch, size = policy_action.shape[:-1], observation.shape[-1]
    check_shape(function, "policy_action, with its own last axis", torch.Size([*batch, size]), observation=observation)
    if data_action.ndim != 2 or not len(data_action) or data_action.shape[1:] != policy_action.shape[-1:]:
        expected = f"shape [M, {policy_action.shape[-1]}] of at least one row"
        refuse(ValueError, function, "data_action", expected, describe(data_action), "Pass all the data, one row each.")
    like = "one row for each of data_action"
    check_shape(function, like, torch.Size([len(data_action), size]), data_observation=data_observation)
