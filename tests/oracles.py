"""What each public function must compute: plain float64 loops, written from the papers.

Every oracle has the argument names of the function that it judges, takes and returns NumPy arrays,
and is slow on purpose: one sample, one time step, one episode at a time. A loss comes back element
by element, without its reduction; `reduced` is the one reduction of the library, for the tests to
apply. Nothing here imports the package. A number such as 2006.04779 is an arXiv identifier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from scipy.stats import entropy, norm

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


def _real(x: ArrayLike) -> Array:
    return np.asarray(x, dtype=np.float64)


def _flag(x: ArrayLike) -> Flags:
    return np.asarray(x, dtype=bool)


def reduced(
    x: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> Array:
    """The tail of every loss: sum of mask * weight * x, over max(1, sum of mask) for the mean."""
    x = _real(x)
    exists = np.broadcast_to(True if mask is None else _flag(mask), x.shape)
    factor = np.broadcast_to(1.0 if weight is None else _real(weight), x.shape)
    out = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        if exists[i]:
            out[i] = factor[i] * x[i]
    if reduction == "none":
        return out
    total = math.fsum(out.flat)
    return _real(total if reduction == "sum" else total / max(1, int(exists.sum())))


# Penalties of a residual u = target - prediction.


def _residual_loss(prediction: ArrayLike, target: ArrayLike, penalty: Callable[[float], float]) -> Array:
    prediction = _real(prediction)
    target = np.broadcast_to(_real(target), prediction.shape)
    out = np.empty(prediction.shape)
    for i in np.ndindex(prediction.shape):
        out[i] = penalty(float(target[i] - prediction[i]))
    return out


def squared_loss(prediction: ArrayLike, target: ArrayLike) -> Array:
    """Least squares, as in the loss of Mnih et al. 2015 (Nature 518): u^2, with no one half."""
    return _residual_loss(prediction, target, lambda u: u * u)


def huber_loss(prediction: ArrayLike, target: ArrayLike, *, delta: float = 1.0) -> Array:
    """Huber 1964 (Ann. Math. Statist. 35), rho: u^2/2 inside, delta |u| - delta^2/2 outside."""

    def penalty(u: float) -> float:
        if abs(u) <= delta:
            return u * u / 2
        return float(delta * abs(u) - delta * delta / 2)

    return _residual_loss(prediction, target, penalty)


def expectile_loss(prediction: ArrayLike, target: ArrayLike, *, expectile: float = 0.7) -> Array:
    """Kostrikov et al. 2021 (2110.06169), section 4.1: |expectile - 1(u < 0)| u^2."""

    def penalty(u: float) -> float:
        return float((1 - expectile if u < 0 else expectile) * u * u)

    return _residual_loss(prediction, target, penalty)


def quantile_loss(prediction: ArrayLike, target: ArrayLike, *, quantile: float = 0.5) -> Array:
    """Koenker & Bassett 1978 (Econometrica 46), their check function: |quantile - 1(u < 0)| |u|."""

    def penalty(u: float) -> float:
        return float((1 - quantile) * -u if u < 0 else quantile * u)

    return _residual_loss(prediction, target, penalty)


# Values of the best actions in the data.


def _exponential(z: float, max_exponent: float) -> float:
    """The exponential, and beyond a bound the line that touches it there."""
    if z <= max_exponent:
        return math.exp(z)
    return math.exp(max_exponent) + math.exp(max_exponent) * (z - max_exponent)


def gumbel_loss(
    prediction: ArrayLike, target: ArrayLike, *, temperature: float = 1.0, max_exponent: float = 7.0
) -> Array:
    """Garg et al. 2023 (2301.02328), their Gumbel regression: e^z - z - 1 of z = (target - prediction) / T."""

    def penalty(u: float) -> float:
        z = u / temperature
        return _exponential(z, max_exponent) - z - 1

    return _residual_loss(prediction, target, penalty)


def exponential_value_loss(
    prediction: ArrayLike, target: ArrayLike, *, temperature: float = 1.0, max_exponent: float = 5.0
) -> Array:
    """Xu et al. 2023 (2303.15810), the value of EQL: exp((Q - V) / alpha) + V / alpha."""
    curve = _residual_loss(prediction, target, lambda u: _exponential(u / temperature, max_exponent))
    return curve + _real(prediction) / temperature


def sparse_value_loss(prediction: ArrayLike, target: ArrayLike, *, temperature: float = 1.0) -> Array:
    """Xu et al. 2023 (2303.15810), the value of SQL: 1(t > 0) t^2 + V / alpha with t = 1 + (Q - V) / 2 alpha."""

    def penalty(u: float) -> float:
        t = 1 + u / (2 * temperature)
        return t * t if t > 0 else 0.0

    return _residual_loss(prediction, target, penalty) + _real(prediction) / temperature


def sparse_weights(advantage: ArrayLike, *, temperature: float = 1.0) -> Array:
    """Xu et al. 2023 (2303.15810), the policy of SQL: 1(t > 0) t with t = 1 + A / 2 alpha."""
    advantage = _real(advantage)
    out = np.zeros(advantage.shape)
    for i in np.ndindex(advantage.shape):
        t = 1 + advantage[i] / (2 * temperature)
        out[i] = t if t > 0 else 0.0
    return out


def binary_expectile_loss(logits: ArrayLike, target: ArrayLike, *, expectile: float = 0.7) -> Array:
    """Park et al. 2025 (2510.22512): |expectile - 1(y < p)| times the cross-entropy of y and p = sigmoid(logits)."""
    logits = _real(logits)
    target = np.broadcast_to(_real(target), logits.shape)
    out = np.empty(logits.shape)
    for i in np.ndindex(logits.shape):
        p, y = 1 / (1 + math.exp(-logits[i])), target[i]
        out[i] = (1 - expectile if y < p else expectile) * -(y * math.log(p) + (1 - y) * math.log(1 - p))
    return out


# Distributions on a support, sorted and of any spacing.


def _between_neighbors(x: float, support: Array) -> Array:
    """All mass at one place, divided between the atoms around it so that the mean stays; outside on the last atom."""
    out = np.zeros(len(support))
    x = min(max(x, support[0]), support[-1])
    for k in range(len(support) - 1):
        if support[k] <= x <= support[k + 1]:
            gap = support[k + 1] - support[k]
            share = (x - support[k]) / gap if gap > 0 else 0.0
            out[k] += 1 - share
            out[k + 1] += share
            break
    return out


def two_hot(value: ArrayLike, support: ArrayLike) -> Array:
    """Schrittwieser et al. 2019 (1911.08265), appendix F: x = x_low p_low + x_high p_high."""
    value, support = _real(value), _real(support)
    out = np.zeros((*value.shape, len(support)))
    for i in np.ndindex(value.shape):
        out[i] = _between_neighbors(value[i], support)
    return out


def hl_gauss(value: ArrayLike, support: ArrayLike, *, sigma_to_bin_ratio: float = 0.75) -> Array:
    """Imani & White 2018 (1806.04613), section 3: a Gaussian truncated to the range, integrated over each bin."""
    value, support = _real(value), _real(support)
    edges = [support[0] - (support[1] - support[0]) / 2]
    edges += [(a + b) / 2 for a, b in pairwise(support)]
    edges += [support[-1] + (support[-1] - support[-2]) / 2]
    sigma = sigma_to_bin_ratio * (support[-1] - support[0]) / (len(support) - 1)
    out = np.zeros((*value.shape, len(support)))
    for i in np.ndindex(value.shape):
        z = [(edge - value[i]) / sigma for edge in edges]
        mass = [norm.cdf(b) - norm.cdf(a) if a < 0 else norm.sf(a) - norm.sf(b) for a, b in pairwise(z)]
        out[i] = np.array(mass) / math.fsum(mass)
    return out


def categorical_projection(probability: ArrayLike, atoms: ArrayLike, support: ArrayLike) -> Array:
    """Bellemare et al. 2017 (1707.06887), eq. 7 and algorithm 1: each atom's mass to its two neighbors."""
    probability, support = _real(probability), _real(support)
    atoms = np.broadcast_to(_real(atoms), probability.shape)
    out = np.zeros((*probability.shape[:-1], len(support)))
    for i in np.ndindex(probability.shape[:-1]):
        for mass, x in zip(probability[i], atoms[i], strict=True):
            out[i] += mass * _between_neighbors(x, support)
    return out


def categorical_loss(logits: ArrayLike, target: ArrayLike) -> Array:
    """Bellemare et al. 2017 (1707.06887), algorithm 1: - sum m_i log p_i."""
    logits = _real(logits)
    target = np.broadcast_to(_real(target), logits.shape)
    out = np.zeros(logits.shape[:-1])
    for i in np.ndindex(out.shape):
        total = logsumexp(logits[i])
        out[i] = -math.fsum(p * (x - total) for p, x in zip(target[i], logits[i], strict=True) if p > 0)
    return out


def categorical_value(logits: ArrayLike, support: ArrayLike) -> Array:
    """Bellemare et al. 2017 (1707.06887), algorithm 1: Q = sum z_i p_i."""
    logits, support = _real(logits), _real(support)
    out = np.zeros(logits.shape[:-1])
    for i in np.ndindex(out.shape):
        total = logsumexp(logits[i])
        out[i] = math.fsum(z * math.exp(x - total) for z, x in zip(support, logits[i], strict=True))
    return out


def quantile_huber_loss(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    quantile: ArrayLike | None = None,
    delta: float = 1.0,
    divide_by_delta: bool = False,
) -> Array:
    """Dabney et al. 2017 (1710.10044), eq. 10 and algorithm 1; divided by kappa as in 2018 (1806.06923), eq. 3."""
    prediction, target = _real(prediction), _real(target)
    count = prediction.shape[-1]
    levels = [(i + 0.5) / count for i in range(count)] if quantile is None else _real(quantile)
    levels = np.broadcast_to(levels, prediction.shape)
    target = np.broadcast_to(target, (*prediction.shape[:-1], target.shape[-1]))
    out = np.zeros(prediction.shape[:-1])
    for i in np.ndindex(out.shape):
        for level, x in zip(levels[i], prediction[i], strict=True):
            for y in target[i]:
                u = abs(y - x)
                huber = u * u / 2 if u <= delta else delta * (u - delta / 2)
                huber = huber / delta if divide_by_delta else huber
                out[i] += (1 - level if y < x else level) * huber / len(target[i])
    return out


# The soft maximum over the last axis.


class _Row(NamedTuple):
    place: tuple[int, ...]
    exists: Flags
    q: Array
    log_density: Array | None


def _rows(q: Array, log_density: ArrayLike | None, mask: ArrayLike | None) -> list[_Row]:
    exists = np.broadcast_to(True if mask is None else _flag(mask), q.shape)
    density = None if log_density is None else np.broadcast_to(_real(log_density), q.shape)
    return [_Row(i, exists[i], q[i], None if density is None else density[i]) for i in np.ndindex(q.shape[:-1])]


def _has_candidate(row: _Row) -> bool:
    return any(exists and value > -math.inf for exists, value in zip(row.exists, row.q, strict=True))


def _logits(row: _Row, temperature: float) -> Array:
    """q / temperature - log density, minus infinity where there is no candidate."""
    out = np.full(row.q.shape, -math.inf)
    for j, value in enumerate(row.q):
        if row.exists[j] and value > -math.inf:
            out[j] = value / temperature - (0.0 if row.log_density is None else row.log_density[j])
    return out


def soft_value(
    q: ArrayLike,
    *,
    log_density: ArrayLike | None = None,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
) -> Array:
    """Haarnoja et al. 2017 (1702.08165), eq. 5; with a density its importance-sampled integral."""
    q = _real(q)
    out = np.zeros(q.shape[:-1])
    for row in _rows(q, log_density, mask):
        if _has_candidate(row):
            log_sum = logsumexp(_logits(row, temperature))
            log_count = 0.0 if row.log_density is None else math.log(row.exists.sum())
            out[row.place] = temperature * (log_sum - log_count)
    return out


def softmax_weights(
    q: ArrayLike,
    *,
    log_density: ArrayLike | None = None,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
) -> Array:
    """Haarnoja et al. 2017 (1702.08165), eq. 6: the Boltzmann policy, over the candidates."""
    q = _real(q)
    out = np.zeros(q.shape)
    for row in _rows(q, log_density, mask):
        if _has_candidate(row):
            logits = _logits(row, temperature)
            out[row.place] = np.exp(logits - logsumexp(logits))
    return out


def softmax_entropy(q: ArrayLike, *, temperature: float = 1.0, mask: ArrayLike | None = None) -> Array:
    """Shannon 1948, section 6: -sum p log p of the Boltzmann policy, in nats."""
    probability = softmax_weights(q, temperature=temperature, mask=mask)
    out = np.zeros(probability.shape[:-1])
    for i in np.ndindex(out.shape):
        out[i] = entropy(probability[i]) if probability[i].sum() > 0 else 0.0
    return out


# The one scan, and the returns made of it. Time is the last axis.


def linear_recurrence(b: ArrayLike, a: ArrayLike, *, cut: ArrayLike | None = None) -> Array:
    """x_t = b_t + a_t x_{t+1} with x_T = 0 (Blelloch 1990, section 1.4); x_t = b_t where cut."""
    b = _real(b)
    a = np.broadcast_to(_real(a), b.shape)
    stops = np.broadcast_to(False if cut is None else _flag(cut), b.shape)
    x = np.empty(b.shape)
    for i in np.ndindex(b.shape[:-1]):
        for t in reversed(range(b.shape[-1])):
            last = t == b.shape[-1] - 1
            x[i][t] = b[i][t] if last or stops[i][t] else b[i][t] + a[i][t] * x[i][t + 1]
    return x


def _ends(done: ArrayLike) -> Flags:
    """Where a sequence ends: where done, and on the last step of the axis."""
    out = _flag(done).copy()
    out[..., -1] = True
    return out


def discounted_return(
    reward: ArrayLike,
    done: ArrayLike,
    *,
    discount: ArrayLike = 0.99,
    next_value: ArrayLike | None = None,
    terminated: ArrayLike | None = None,
) -> Array:
    """Sutton & Barto 2018, eq. 3.9; what is cut short bootstraps, Pardo et al. 2018 (1712.00378)."""
    reward = _real(reward)
    dead = np.zeros(reward.shape, bool) if terminated is None else _flag(terminated)
    value = np.zeros(reward.shape) if next_value is None else _real(next_value)
    ends, discount = _ends(done), np.broadcast_to(discount, reward.shape)
    out = np.empty(reward.shape)
    for i in np.ndindex(reward.shape[:-1]):
        for t in reversed(range(reward.shape[-1])):
            if not ends[i][t]:
                rest = out[i][t + 1]
            elif dead[i][t]:
                rest = 0.0
            else:
                rest = value[i][t]
            out[i][t] = reward[i][t] + discount[i][t] * rest
    return out


def n_step_return(
    reward: ArrayLike,
    next_value: ArrayLike,
    terminated: ArrayLike,
    done: ArrayLike,
    *,
    n: int,
    discount: ArrayLike = 0.99,
) -> Array:
    """Sutton & Barto 2018, eq. 7.1, with fewer steps where the sequence ends first."""
    reward, value, dead = _real(reward), _real(next_value), _flag(terminated)
    ends, discount = _ends(done), np.broadcast_to(discount, reward.shape)
    out = np.empty(reward.shape)
    for i in np.ndindex(reward.shape[:-1]):
        for t in range(reward.shape[-1]):
            total, now, factor = 0.0, t, 1.0
            while True:
                total += factor * reward[i][now]
                factor *= discount[i][now]
                if now - t + 1 == n or ends[i][now]:
                    break
                now += 1
            if not dead[i][now]:
                total += factor * value[i][now]
            out[i][t] = total
    return out


def lambda_return(
    reward: ArrayLike,
    next_value: ArrayLike,
    terminated: ArrayLike,
    done: ArrayLike,
    *,
    discount: ArrayLike = 0.99,
    lambda_: ArrayLike = 0.95,
) -> Array:
    """Sutton & Barto 2018, eq. 12.3, as the lambda-weighted average of all n-step returns."""
    reward, value, dead = _real(reward), _real(next_value), _flag(terminated)
    ends, lambda_ = _ends(done), np.broadcast_to(lambda_, reward.shape)
    longest = reward.shape[-1]
    n_steps = [n_step_return(reward, value, dead, done, n=n, discount=discount) for n in range(1, longest + 1)]
    out = np.empty(reward.shape)
    for i in np.ndindex(reward.shape[:-1]):
        for t in range(longest):
            left = 1
            while not ends[i][t + left - 1]:
                left += 1
            total, share = 0.0, 1.0
            for n in range(1, left):
                total += share * (1 - lambda_[i][t + n - 1]) * n_steps[n - 1][i][t]
                share *= lambda_[i][t + n - 1]
            out[i][t] = total + share * n_steps[left - 1][i][t]
    return out


def generalized_advantage(
    reward: ArrayLike,
    value: ArrayLike,
    next_value: ArrayLike,
    terminated: ArrayLike,
    done: ArrayLike,
    *,
    discount: ArrayLike = 0.99,
    lambda_: ArrayLike = 0.95,
) -> Array:
    """Schulman et al. 2015 (1506.02438), eq. 16: sum over l of (discount lambda)^l delta_{t+l}."""
    reward, value, following = _real(reward), _real(value), _real(next_value)
    dead, ends = _flag(terminated), _ends(done)
    discount, lambda_ = np.broadcast_to(discount, reward.shape), np.broadcast_to(lambda_, reward.shape)
    out = np.empty(reward.shape)
    for i in np.ndindex(reward.shape[:-1]):
        for t in range(reward.shape[-1]):
            total, now, factor = 0.0, t, 1.0
            while True:
                bootstrap = 0.0 if dead[i][now] else following[i][now]
                total += factor * (reward[i][now] + discount[i][now] * bootstrap - value[i][now])
                factor *= discount[i][now] * lambda_[i][now]
                if ends[i][now]:
                    break
                now += 1
            out[i][t] = total
    return out


# Returns for another policy than the one that acted, as sums of products.


def _ratio(log_ratio: float, bound: float) -> float:
    return float(bound) if log_ratio > math.log(bound) else math.exp(log_ratio)


def _traced(
    reward: ArrayLike,
    value: ArrayLike,
    next_value: ArrayLike,
    terminated: ArrayLike,
    done: ArrayLike,
    discount: ArrayLike,
    trace: ArrayLike,
    ratio: ArrayLike,
) -> Array:
    """V_t + sum over k of gamma^k (c_t ... c_{t+k-1}) rho_{t+k} delta_{t+k}, up to the end, each product anew."""
    reward, value, following = _real(reward), _real(value), _real(next_value)
    dead, ends = _flag(terminated), _ends(done)
    discount, trace, ratio = (np.broadcast_to(_real(x), reward.shape) for x in (discount, trace, ratio))
    out = np.empty(reward.shape)
    for i in np.ndindex(reward.shape[:-1]):
        for t in range(reward.shape[-1]):
            terms = []
            for now in range(t, reward.shape[-1]):
                factor = math.prod(float(discount[i][s] * trace[i][s]) for s in range(t, now))
                bootstrap = 0.0 if dead[i][now] else discount[i][now] * following[i][now]
                terms.append(factor * ratio[i][now] * (reward[i][now] + bootstrap - value[i][now]))
                if ends[i][now]:
                    break
            out[i][t] = value[i][t] + math.fsum(terms)
    return out


def trace_return(
    reward: ArrayLike,
    value: ArrayLike,
    next_value: ArrayLike,
    terminated: ArrayLike,
    done: ArrayLike,
    *,
    trace: ArrayLike,
    ratio: ArrayLike = 1.0,
    discount: ArrayLike = 0.99,
) -> Array:
    """Munos et al. 2016 (1606.02647), eq. 3, with weighted errors as in Espeholt et al. 2018 (1802.01561), eq. 1."""
    return _traced(reward, value, next_value, terminated, done, discount, trace, ratio)


def vtrace_return(
    reward: ArrayLike,
    value: ArrayLike,
    next_value: ArrayLike,
    log_ratio: ArrayLike,
    terminated: ArrayLike,
    done: ArrayLike,
    *,
    discount: ArrayLike = 0.99,
    lambda_: ArrayLike = 1.0,
    max_ratio: float = 1.0,
    max_trace: float = 1.0,
) -> Array:
    """Espeholt et al. 2018 (1802.01561), eq. 1 and remark 2: rho = min(bound, pi/mu), c = lambda min(bound, rho)."""
    ratio = np.vectorize(_ratio, otypes=[float])(_real(log_ratio), max_ratio)
    trace = _real(lambda_) * np.minimum(max_trace, ratio)
    return _traced(reward, value, next_value, terminated, done, discount, trace, ratio)


def vtrace_advantage(
    reward: ArrayLike,
    value: ArrayLike,
    next_value: ArrayLike,
    log_ratio: ArrayLike,
    terminated: ArrayLike,
    done: ArrayLike,
    *,
    discount: ArrayLike = 0.99,
    lambda_: ArrayLike = 1.0,
    max_ratio: float = 1.0,
    max_trace: float = 1.0,
) -> Array:
    """Espeholt et al. 2018 (1802.01561), section 4.2: rho (r + gamma v_{t+1} - V); what v adds to V' times lambda."""
    reward, value, following, log_ratio = _real(reward), _real(value), _real(next_value), _real(log_ratio)
    dead, ends = _flag(terminated), _ends(done)
    corrected = vtrace_return(
        reward,
        value,
        following,
        log_ratio,
        dead,
        done,
        discount=discount,
        lambda_=lambda_,
        max_ratio=max_ratio,
        max_trace=max_trace,
    )
    discount, lambda_ = np.broadcast_to(discount, reward.shape), np.broadcast_to(lambda_, reward.shape)
    out = np.empty(reward.shape)
    for i in np.ndindex(reward.shape[:-1]):
        for t in range(reward.shape[-1]):
            v = 0.0 if dead[i][t] else following[i][t]
            if not ends[i][t]:
                v = v + lambda_[i][t] * (corrected[i][t + 1] - value[i][t + 1])
            out[i][t] = _ratio(log_ratio[i][t], max_ratio) * (reward[i][t] + discount[i][t] * v - value[i][t])
    return out


def retrace_return(
    reward: ArrayLike,
    q_data: ArrayLike,
    next_value: ArrayLike,
    log_ratio: ArrayLike,
    terminated: ArrayLike,
    done: ArrayLike,
    *,
    discount: ArrayLike = 0.99,
    lambda_: ArrayLike = 1.0,
) -> Array:
    """Munos et al. 2016 (1606.02647), eq. 3: products of lambda min(1, pi/mu) over the actions that come next."""
    ratio, lambda_ = np.vectorize(_ratio, otypes=[float])(_real(log_ratio), 1.0), _real(lambda_)
    trace = np.zeros(ratio.shape)
    for i in np.ndindex(ratio.shape[:-1]):
        for t in range(ratio.shape[-1] - 1):
            trace[i][t] = np.broadcast_to(lambda_, ratio.shape)[i][t] * ratio[i][t + 1]
    return _traced(reward, q_data, next_value, terminated, done, discount, trace, 1.0)


def tree_backup_return(
    reward: ArrayLike,
    q_data: ArrayLike,
    next_value: ArrayLike,
    log_prob: ArrayLike,
    terminated: ArrayLike,
    done: ArrayLike,
    *,
    discount: ArrayLike = 0.99,
    lambda_: ArrayLike = 1.0,
) -> Array:
    """Precup et al. 2000; Sutton & Barto 2018, eq. 7.16: pi(a) G for the action taken, pi Q for all others."""
    reward, q, following, probability = _real(reward), _real(q_data), _real(next_value), np.exp(_real(log_prob))
    dead, ends = _flag(terminated), _ends(done)
    discount, lambda_ = np.broadcast_to(discount, reward.shape), np.broadcast_to(lambda_, reward.shape)
    out = np.empty(reward.shape)
    for i in np.ndindex(reward.shape[:-1]):
        for t in reversed(range(reward.shape[-1])):
            rest = 0.0 if dead[i][t] else following[i][t]
            if not ends[i][t]:
                taken = lambda_[i][t] * probability[i][t + 1]
                rest = rest - taken * q[i][t + 1] + taken * out[i][t + 1]
            out[i][t] = reward[i][t] + discount[i][t] * rest
    return out


# Chunks of actions, and returns as labels.


def chunk_return(
    reward: ArrayLike, next_value: ArrayLike, terminated: ArrayLike, done: ArrayLike, *, discount: ArrayLike = 0.99
) -> Array:
    """Li et al. 2025 (2507.07969): the chunk's rewards, then the value after as many steps as there were."""
    reward, value, dead = _real(reward), _real(next_value), _flag(terminated)
    ends, discount = _ends(done), np.broadcast_to(discount, reward.shape)
    out = np.empty(reward.shape[:-1])
    for i in np.ndindex(out.shape):
        total, factor = 0.0, 1.0
        for k in range(reward.shape[-1]):
            total += factor * reward[i][k]
            factor *= discount[i][k]
            if ends[i][k]:
                out[i] = total if dead[i][k] else total + factor * value[i]
                break
    return out


def relabel_return(
    reward: ArrayLike, next_value: ArrayLike, terminated: ArrayLike, done: ArrayLike, *, discount: ArrayLike = 1.0
) -> Array:
    """Yamagata et al. 2023 (2209.03993): r + max of what follows, relabelled, and the next state's value."""
    reward, value, dead = _real(reward), _real(next_value), _flag(terminated)
    ends, discount = _ends(done), np.broadcast_to(discount, reward.shape)
    out = np.empty(reward.shape)
    for i in np.ndindex(reward.shape[:-1]):
        for t in reversed(range(reward.shape[-1])):
            rest = 0.0 if dead[i][t] else value[i][t]
            if not ends[i][t]:
                rest = max(out[i][t + 1], rest)
            out[i][t] = reward[i][t] + discount[i][t] * rest
    return out


# Whole-dataset selections: episodes are runs of the last axis, in row-major order.


class _Episode(NamedTuple):
    place: tuple[int, ...]
    start: int
    stop: int


def _episodes(done: ArrayLike) -> list[_Episode]:
    ends = _ends(done)
    found = []
    for i in np.ndindex(ends.shape[:-1]):
        start = 0
        for t in range(ends.shape[-1]):
            if ends[i][t]:
                found.append(_Episode(i, start, t + 1))
                start = t + 1
    return found


def _return_of(reward: Array, episode: _Episode, discount: ArrayLike) -> float:
    total, factor, discount = 0.0, 1.0, np.broadcast_to(discount, reward.shape)
    for t in range(episode.start, episode.stop):
        total += factor * float(reward[episode.place][t])
        factor *= discount[episode.place][t]
    return total


def episode_return(reward: ArrayLike, done: ArrayLike, *, discount: ArrayLike = 1.0) -> Array:
    """Sutton & Barto 2018, eq. 3.8 at the first step of the episode, carried by all of them."""
    reward = _real(reward)
    out = np.empty(reward.shape)
    for episode in _episodes(done):
        value = _return_of(reward, episode, discount)
        out[episode.place][episode.start : episode.stop] = value
    return out


def sampling_probabilities(score: ArrayLike, done: ArrayLike, *, temperature: float = 0.1, by: str = "steps") -> Array:
    """Hong et al. 2023 (2306.13085): exp of the normalized score over the temperature, over the sum of all."""
    score = _real(score)
    competing = score.copy()
    share = np.ones(score.shape)
    for episode in _episodes(done) if by == "episodes" else []:
        competing[episode.place][episode.start : episode.stop] = score[episode.place][episode.start]
        share[episode.place][episode.start : episode.stop] = episode.stop - episode.start
    low, high = float(competing.min()), float(competing.max())
    out = np.empty(score.shape)
    for i in np.ndindex(score.shape):
        normalized = (competing[i] - low) / (high - low) if high > low else 0.0
        out[i] = math.exp(normalized / temperature) / share[i]
    return out / math.fsum(out.ravel())


def return_filter(
    reward: ArrayLike,
    done: ArrayLike,
    *,
    fraction: float,
    discount: float = 1.0,
    by: str = "episodes",
) -> Flags:
    """Chen et al. 2021 (2106.01345), section 5.1, percentile cloning: the best share."""
    reward = _real(reward)
    episodes = _episodes(done)
    returns = [_return_of(reward, episode, discount) for episode in episodes]
    # Python's sort is stable: of equal returns the earlier episode stays first.
    ranked = sorted(
        range(len(episodes)),
        key=lambda e: (math.isnan(returns[e]), 0.0 if math.isnan(returns[e]) else -returns[e]),
    )
    kept: list[int] = []
    if by == "episodes":
        kept = ranked[: max(1, math.floor(fraction * len(episodes) + 0.5))]
    else:
        budget = math.floor(fraction * reward.size + 0.5)
        spent = 0
        for e in ranked:
            spent += episodes[e].stop - episodes[e].start
            if spent > budget and kept:
                break
            kept.append(e)
            if spent > budget:
                break
    out = np.zeros(reward.shape, bool)
    for e in kept:
        out[episodes[e].place][episodes[e].start : episodes[e].stop] = True
    return out


def reward_scale(reward: ArrayLike, done: ArrayLike, *, horizon: float = 1000.0, discount: float = 1.0) -> Array:
    """Kostrikov et al. 2021 (2110.06169), appendix B: horizon / (best return - worst return)."""
    reward = _real(reward)
    returns = [_return_of(reward, episode, discount) for episode in _episodes(done)]
    spread = max(returns) - min(returns)
    return _real(1.0 if spread == 0 else horizon / spread)


def observation_statistics(observation: ArrayLike, *, mask: ArrayLike | None = None) -> tuple[Array, Array]:
    """Fujimoto & Gu 2021 (2106.06860), section 5: mean and population deviation of each feature."""
    observation = _real(observation)
    exists = np.broadcast_to(True if mask is None else _flag(mask), observation.shape[:-1])
    rows = [observation[i] for i in np.ndindex(observation.shape[:-1]) if exists[i]]
    features = observation.shape[-1]
    mean, std = np.zeros(features), np.zeros(features)
    for d in range(features):
        column = [float(row[d]) for row in rows]
        if column:
            mean[d] = math.fsum(column) / len(column)
            std[d] = math.sqrt(math.fsum((x - mean[d]) ** 2 for x in column) / len(column))
    return mean, std


def _moments(rows: list[Array], features: int) -> tuple[Array, Array, Array]:
    mean, squares = np.zeros(features), np.zeros(features)
    for d in range(features):
        column = [float(row[d]) for row in rows]
        if column:
            mean[d] = math.fsum(column) / len(column)
            squares[d] = math.fsum((x - mean[d]) ** 2 for x in column)
    return _real(len(rows)), mean, squares


def observation_moments(observation: ArrayLike, *, mask: ArrayLike | None = None) -> tuple[Array, Array, Array]:
    """Chan, Golub & LeVeque 1979: count, mean and squared distances from it, of each feature."""
    observation = _real(observation)
    exists = np.broadcast_to(True if mask is None else _flag(mask), observation.shape[:-1])
    rows = [observation[i] for i in np.ndindex(observation.shape[:-1]) if exists[i]]
    return _moments(rows, observation.shape[-1])


def merged_moments(samples: ArrayLike, mean: ArrayLike, squared_deviation: ArrayLike) -> tuple[Array, Array, Array]:
    """Chan, Golub & LeVeque 1979, eq. 2.1: two at a time, from the first part to the last."""
    samples, mean, squared = _real(samples), _real(mean), _real(squared_deviation)
    n, m, s = (np.array(x[0]) for x in (samples, mean, squared))
    for part in range(1, len(samples)):
        for i in np.ndindex(n.shape):
            both = float(n[i] + samples[part][i])
            apart = mean[part][i] - m[i]
            m[i] = m[i] + apart * (float(samples[part][i]) / both)
            s[i] = s[i] + squared[part][i] + apart**2 * (float(n[i] * samples[part][i]) / both)
            n[i] = both
    return n, m, s


def moment_statistics(samples: ArrayLike, mean: ArrayLike, squared_deviation: ArrayLike) -> tuple[Array, Array]:
    """Mean and population deviation of each feature."""
    samples, squared = _real(samples), _real(squared_deviation)
    std = np.empty(squared.shape)
    for i in np.ndindex(squared.shape):
        std[i] = math.sqrt(squared[i] / samples[i[:-1]])
    return _real(mean), std


def return_threshold(
    episode_return: ArrayLike, episode_length: ArrayLike, *, fraction: float, by: str = "episodes"
) -> tuple[Array, NDArray[np.int64]]:
    """Chen et al. 2021 (2106.01345), section 5.1: the last of the best episodes that fill the share."""
    returns, length = _real(episode_return).ravel(), np.asarray(episode_length).ravel()
    ranked = sorted(range(len(returns)), key=lambda e: -returns[e])
    last, spent = ranked[0], 0
    budget = math.floor(fraction * (len(returns) if by == "episodes" else int(length.sum())) + 0.5)
    for e in ranked:
        spent += 1 if by == "episodes" else int(length[e])
        if spent > budget:
            break
        last = e
    return _real(returns[last]), np.asarray(last)


def normalize_observation(observation: ArrayLike, mean: ArrayLike, std: ArrayLike, *, epsilon: float = 1e-3) -> Array:
    """Fujimoto & Gu 2021 (2106.06860), eq. 4: (s - mean) / (std + epsilon)."""
    observation, mean, std = _real(observation), _real(mean), _real(std)
    out = np.empty(observation.shape)
    for i in np.ndindex(observation.shape):
        out[i] = (observation[i] - mean[i[-1]]) / (std[i[-1]] + epsilon)
    return out


# Bellman targets.


def _bootstrapped(
    reward: ArrayLike,
    terminated: ArrayLike,
    discount: ArrayLike,
    following: Callable[[tuple[int, ...]], float],
) -> Array:
    reward, dead = _real(reward), _flag(terminated)
    rate = np.broadcast_to(_real(discount), reward.shape)
    out = np.empty(reward.shape)
    for i in np.ndindex(reward.shape):
        out[i] = reward[i] if dead[i] else reward[i] + rate[i] * following(i)
    return out


def bellman_target(
    reward: ArrayLike, next_value: ArrayLike, terminated: ArrayLike, *, discount: ArrayLike = 0.99
) -> Array:
    """Sutton & Barto 2018, eq. 6.2: r + discount V(s'), and r alone after a terminal step."""
    value = _real(next_value)
    return _bootstrapped(reward, terminated, discount, lambda i: float(value[i]))


def soft_bellman_target(
    reward: ArrayLike,
    next_value: ArrayLike,
    next_log_prob: ArrayLike,
    terminated: ArrayLike,
    *,
    temperature: float = 1.0,
    discount: ArrayLike = 0.99,
) -> Array:
    """Haarnoja et al. 2018 (1801.01290), eqs. 2 and 3: bootstrap Q' - temperature log pi'."""
    value, log_prob = _real(next_value), _real(next_log_prob)

    def following(i: tuple[int, ...]) -> float:
        return float(value[i] - temperature * log_prob[i])

    return _bootstrapped(reward, terminated, discount, following)


def expected_target(
    reward: ArrayLike,
    next_q: ArrayLike,
    next_probability: ArrayLike,
    terminated: ArrayLike,
    *,
    discount: ArrayLike = 0.99,
) -> Array:
    """Expected Sarsa, Sutton & Barto 2018, eq. 6.9: bootstrap sum over a of pi(a|s') Q(s', a)."""
    q, probability = _real(next_q), _real(next_probability)

    def following(i: tuple[int, ...]) -> float:
        return math.fsum(p * x for p, x in zip(probability[i], q[i], strict=True) if p != 0)

    return _bootstrapped(reward, terminated, discount, following)


def double_q_target(
    reward: ArrayLike,
    next_q_online: ArrayLike,
    next_q_target: ArrayLike,
    terminated: ArrayLike,
    *,
    discount: ArrayLike = 0.99,
) -> Array:
    """Van Hasselt et al. 2015 (1509.06461), eq. 4: one critic chooses, the other values."""
    online, target = _real(next_q_online), _real(next_q_target)

    def following(i: tuple[int, ...]) -> float:
        best = 0
        for a in range(online.shape[-1]):
            if online[i][a] > online[i][best]:
                best = a
        return float(target[i][best])

    return _bootstrapped(reward, terminated, discount, following)


# Critics first.


def _over_critics(q: ArrayLike, combine: Callable[[list[float]], float]) -> Array:
    q = _real(q)
    out = np.empty(q.shape[1:])
    for i in np.ndindex(out.shape):
        out[i] = combine([float(q[(e, *i)]) for e in range(q.shape[0])])
    return out


def ensemble_min(q: ArrayLike) -> Array:
    """Fujimoto et al. 2018 (1802.09477), eq. 10: clipped double Q, the smallest of the critics."""
    return _over_critics(q, min)


def ensemble_mean(q: ArrayLike) -> Array:
    """Chen et al. 2021 (2101.05982), algorithm 1, policy step: the average of the critics."""
    return _over_critics(q, lambda values: math.fsum(values) / len(values))


def ensemble_mix(q: ArrayLike, *, lambda_: float = 0.75) -> Array:
    """Fujimoto et al. 2019 (1812.02900), eq. 13: lambda min + (1 - lambda) max."""
    return _over_critics(q, lambda values: lambda_ * min(values) + (1 - lambda_) * max(values))


def polyak_update_(
    target: Sequence[ArrayLike], online: Sequence[ArrayLike], *, polyak: float = 0.005
) -> list[NDArray[Any]]:
    """Lillicrap et al. 2015 (1509.02971), section 3; whatever is not a float is copied."""
    out: list[NDArray[Any]] = []
    for old, new in zip(target, online, strict=True):
        old, new = np.asarray(old), np.asarray(new)
        if np.issubdtype(old.dtype, np.floating):
            out.append((1 - polyak) * _real(old) + polyak * _real(new))
        else:
            out.append(new.copy())
    return out


# Non-negative multipliers.


def awr_weights(advantage: ArrayLike, *, temperature: float = 1.0, max_weight: float = 100.0) -> Array:
    """Peng et al. 2019 (1910.00177), algorithm 1: exp(A / temperature), clipped at max_weight."""
    advantage = _real(advantage)
    out = np.empty(advantage.shape)
    for i in np.ndindex(advantage.shape):
        exponent = float(advantage[i]) / temperature
        out[i] = max_weight if exponent >= math.log(max_weight) else math.exp(exponent)
    return out


def crr_weights(
    advantage: ArrayLike,
    *,
    mode: str = "exponential",
    temperature: float = 1.0,
    max_weight: float = 20.0,
) -> Array:
    """Wang et al. 2020 (2006.15134), eqs. 3 and 4: 1(A > 0), or exp(A / temperature) clipped."""
    if mode == "exponential":
        return awr_weights(advantage, temperature=temperature, max_weight=max_weight)
    advantage = _real(advantage)
    out = np.empty(advantage.shape)
    for i in np.ndindex(advantage.shape):
        out[i] = 1.0 if advantage[i] > 0 else 0.0
    return out


def normalize_weights(weight: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
    """Self-normalized weights, Owen 2013 (Monte Carlo, chapter 9), scaled to mean one."""
    weight = _real(weight)
    exists = np.broadcast_to(True if mask is None else _flag(mask), weight.shape)
    total = math.fsum(weight[exists])
    out = np.zeros(weight.shape)
    for i in np.ndindex(weight.shape):
        if exists[i] and total > 0:
            out[i] = weight[i] * exists.sum() / total
    return out


def effective_sample_size(weight: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
    """Kish 1965 (Survey Sampling), Owen 2013 (Monte Carlo, chapter 9): (sum w)^2 / sum w^2."""
    weight = _real(weight)
    exists = np.broadcast_to(True if mask is None else _flag(mask), weight.shape)
    values = [float(w) for w in weight[exists]]
    squares = math.fsum(w * w for w in values)
    return _real(math.fsum(values) ** 2 / squares if squares > 0 else 0.0)


# Conservative critics.


def cql_logsumexp_penalty(
    q_candidates: ArrayLike,
    q_data: ArrayLike,
    *,
    log_density: ArrayLike | None = None,
    temperature: float = 1.0,
) -> Array:
    """Kumar et al. 2020 (2006.04779), eq. 4; appendix F for the importance-sampled integral."""
    value = soft_value(q_candidates, log_density=log_density, temperature=temperature)
    return np.where(_real(q_candidates).max(-1) > -math.inf, value - _real(q_data), 0.0)


def cql_max_penalty(q_candidates: ArrayLike, q_data: ArrayLike) -> Array:
    """Kumar et al. 2020 (2006.04779), eq. 3 without regularizer: all mass on the best action."""
    candidates, data = _real(q_candidates), _real(q_data)
    out = np.empty(data.shape)
    for i in np.ndindex(data.shape):
        best = max(float(x) for x in candidates[i])
        out[i] = best - data[i] if best > -math.inf else 0.0
    return out


def cql_lagrange_losses(
    gap: ArrayLike,
    log_multiplier: ArrayLike,
    *,
    threshold: float = 5.0,
    penalty_weight: float = 1.0,
    threshold_on: str = "weighted_gap",
    max_multiplier: float = 1e6,
) -> tuple[Array, Array]:
    """Kumar et al. 2020 (2006.04779), appendix F: the critic's term and the dual's."""
    gap = _real(gap)
    multiplier = math.exp(min(float(_real(log_multiplier)), math.log(max_multiplier)))
    penalty, dual = np.empty(gap.shape), np.empty(gap.shape)
    for i in np.ndindex(gap.shape):
        if threshold_on == "weighted_gap":
            excess = penalty_weight * gap[i] - threshold
        else:
            excess = penalty_weight * (gap[i] - threshold)
        penalty[i] = multiplier * excess
        dual[i] = -multiplier * excess
    return penalty, dual


def calibrated_value(q_candidates: ArrayLike, reference_value: ArrayLike) -> Array:
    """Nakamoto et al. 2023 (2303.05479), eq. 5.1: max(Q(s, a), V_reference(s)) each that exists."""
    candidates = _real(q_candidates)
    reference = np.broadcast_to(_real(reference_value), candidates.shape[:-1])
    out = np.empty(candidates.shape)
    for i in np.ndindex(candidates.shape):
        exists = candidates[i] != -np.inf
        out[i] = max(float(candidates[i]), float(reference[i[:-1]])) if exists else -np.inf
    return out


# Policies.


def nll_loss(log_prob: ArrayLike) -> Array:
    """Maximum likelihood: minus the log-probability of the data action."""
    return -_real(log_prob)


def linear_log_prob(
    hidden: ArrayLike,
    head: ArrayLike,
    action: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    temperature: float = 1.0,
    chunk: int = 1,
    group: None = None,
) -> tuple[Array, Array]:
    """The softmax policy of a linear layer, logit by logit."""
    hidden, head, action = _real(hidden), _real(head), np.asarray(action)
    added = np.zeros(len(head)) if bias is None else _real(bias)
    log_prob, log_normalizer = np.empty(action.shape), np.empty(action.shape)
    for i in np.ndindex(action.shape):
        logits = [
            (math.fsum(w * h for w, h in zip(row, hidden[i], strict=True)) + b) / temperature
            for row, b in zip(head, added, strict=True)
        ]
        log_normalizer[i] = logsumexp(logits)
        log_prob[i] = logits[action[i]] - log_normalizer[i]
    return log_prob, log_normalizer


def linear_cql_penalty(
    hidden: ArrayLike, head: ArrayLike, action: ArrayLike, *, temperature: float = 1.0, **options: Any
) -> Array:
    """Kumar et al. 2020 (2006.04779), eq. 4, over the values of all actions."""
    q = _real(hidden) @ _real(head).T + _real(0.0 if options.get("bias") is None else options["bias"])
    q_data = np.take_along_axis(q, np.asarray(action)[..., None], -1)[..., 0]
    return cql_logsumexp_penalty(q, q_data, temperature=temperature)


def linear_nll_loss(hidden: ArrayLike, head: ArrayLike, action: ArrayLike, **options: Any) -> Array:
    """Maximum likelihood of the same policy."""
    return -linear_log_prob(hidden, head, action, **options)[0]


def gaussian_log_prob(mean: ArrayLike, log_std: ArrayLike, action: ArrayLike) -> Array:
    """Williams 1992, section 6: independent normals, summed over the action's dimensions."""
    mean, action = _real(mean), _real(action)
    log_std = np.broadcast_to(_real(log_std), mean.shape)
    out = np.zeros(mean.shape[:-1])
    for i in np.ndindex(mean.shape):
        out[i[:-1]] += norm.logpdf(action[i], loc=mean[i], scale=math.exp(log_std[i]))
    return out


def _log_slope_of_tanh(x: float) -> float:
    """log(1 - tanh(x)^2), written so that it stays exact far out."""
    return math.log(4.0) - 2 * abs(x) - 2 * math.log1p(math.exp(-2 * abs(x)))


def tanh_gaussian_log_prob(
    mean: ArrayLike,
    log_std: ArrayLike,
    *,
    action: ArrayLike | None = None,
    pre_tanh: ArrayLike | None = None,
    margin: float = 1e-6,
) -> Array:
    """Haarnoja et al. 2018 (1801.01290), eq. 21: the change of variables a = tanh(x)."""
    mean = _real(mean)
    if pre_tanh is None:
        inside = np.clip(_real(action), -(1 - margin), 1 - margin)
        pre_tanh = np.arctanh(inside)
    pre_tanh = _real(pre_tanh)
    out = gaussian_log_prob(mean, log_std, pre_tanh)
    for i in np.ndindex(mean.shape):
        out[i[:-1]] -= _log_slope_of_tanh(float(pre_tanh[i]))
    return out


def td3_bc_loss(
    q: ArrayLike,
    policy_action: ArrayLike,
    data_action: ArrayLike,
    *,
    q_weight: float = 2.5,
    epsilon: float = 1e-6,
    normalizer: float | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    """Fujimoto & Gu 2021 (2106.06860), eqs. 3 and 5; existing samples alone normalize Q, unless it is told by what."""
    q, policy, data = _real(q), _real(policy_action), _real(data_action)
    scale = q_weight / _mean_size(q, epsilon, normalizer, mask)
    out = np.empty(q.shape)
    for i in np.ndindex(q.shape):
        squares = [(float(p) - float(a)) ** 2 for p, a in zip(policy[i], data[i], strict=True)]
        out[i] = -scale * q[i] + math.fsum(squares) / len(squares)
    return out


def sac_policy_loss(log_prob: ArrayLike, q: ArrayLike, *, temperature: float = 1.0) -> Array:
    """Haarnoja et al. 2018 (1812.05905), eq. 7: temperature log pi - Q."""
    q = _real(q)
    log_prob = np.broadcast_to(_real(log_prob), q.shape)
    out = np.empty(q.shape)
    for i in np.ndindex(q.shape):
        out[i] = temperature * log_prob[i] - q[i]
    return out


def temperature_loss(log_temperature: ArrayLike, log_prob: ArrayLike, *, target_entropy: float) -> Array:
    """Haarnoja et al. 2018 (1812.05905), eq. 18: -temperature (log pi + target entropy)."""
    log_prob = _real(log_prob)
    temperature = math.exp(float(_real(log_temperature)))
    out = np.empty(log_prob.shape)
    for i in np.ndindex(log_prob.shape):
        out[i] = -temperature * (log_prob[i] + target_entropy)
    return out


# What an ensemble knows that one of its members does not.


def ensemble_subset_min(q: ArrayLike, index: ArrayLike) -> Array:
    """Chen et al. 2021 (2101.05982), algorithm 1: the minimum over the critics that were drawn."""
    q = _real(q)
    out = np.empty(q.shape[1:])
    for i in np.ndindex(out.shape):
        out[i] = min(float(q[(e, *i)]) for e in np.asarray(index).tolist())
    return out


def candidate_max_value(q: ArrayLike, *, order: str = "max_then_min") -> Array:
    """Min over critics of the max over candidates (2006.04779, appendix F), or max of the min (1812.02900)."""
    q = _real(q)
    critics, candidates = range(q.shape[0]), range(q.shape[-1])
    out = np.empty(q.shape[1:-1])
    for i in np.ndindex(out.shape):
        table = [[float(q[(e, *i, n)]) for n in candidates] for e in critics]
        if order == "max_then_min":
            best = min(max(row) for row in table)
        else:
            best = max(min(row[n] for row in table) for n in candidates)
        out[i] = 0.0 if best == -math.inf else best
    return out


def ensemble_lower_bound(q: ArrayLike, *, penalty_weight: float = 1.0, correction: int = 0) -> Array:
    """An et al. 2021 (2110.01548), section 3: mean of the critics less a multiple of their standard deviation."""
    q = _real(q)
    out = np.empty(q.shape[1:])
    for i in np.ndindex(out.shape):
        critics = [float(q[(e, *i)]) for e in range(q.shape[0])]
        mean = math.fsum(critics) / len(critics)
        variance = math.fsum((x - mean) ** 2 for x in critics) / (len(critics) - correction)
        out[i] = mean - penalty_weight * math.sqrt(variance)
    return out


def diversity_penalty(action_gradient: ArrayLike) -> Array:
    """An et al. 2021 (2110.01548), section 4: cosines of all ordered pairs of critics, over E - 1; cos(0, .) is 0."""
    g = _real(action_gradient)
    out = np.zeros(g.shape[1:-1])
    for i in np.ndindex(out.shape):
        for a in range(g.shape[0]):
            for b in range(g.shape[0]):
                lengths = np.linalg.norm(g[(a, *i)]) * np.linalg.norm(g[(b, *i)])
                if a != b and lengths > 0:
                    out[i] += float(g[(a, *i)] @ g[(b, *i)]) / lengths / (g.shape[0] - 1)
    return out


def uncertainty_penalized_reward(
    reward: ArrayLike, model_output: ArrayLike, *, uncertainty: str = "max_aleatoric", penalty_weight: float = 1.0
) -> Array:
    """MOPO (2005.13239), section 4.3: r - lambda u; u of MOPO, of MOReL (2005.05951) or the scatter of the models."""
    reward, x = _real(reward), _real(model_output)
    out = np.empty(reward.shape)
    for i in np.ndindex(reward.shape):
        models = [x[(m, *i)] for m in range(x.shape[0])]
        if uncertainty == "max_aleatoric":
            u = max(float(np.linalg.norm(std)) for std in models)
        elif uncertainty == "max_pairwise_difference":
            u = max(float(np.linalg.norm(a - b)) for a in models for b in models)
        else:
            mean = sum(models) / len(models)
            u = math.sqrt(math.fsum(float((a - mean) @ (a - mean)) for a in models) / len(models))
        out[i] = reward[i] - penalty_weight * u
    return out


def combo_penalty(q: ArrayLike, rollout: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
    """Yu et al. 2021 (2102.08363): mean of Q over rollouts less its mean over data, as shares of one mean."""
    q = _real(q)
    is_rollout = np.broadcast_to(_flag(rollout), q.shape)
    exists = np.broadcast_to(True if mask is None else _flag(mask), q.shape)
    places = [i for i in np.ndindex(q.shape) if exists[i]]
    rollouts = [i for i in places if is_rollout[i]]
    out = np.zeros(q.shape)
    for i in places:
        side = len(rollouts) if is_rollout[i] else len(rollouts) - len(places)
        out[i] = q[i] * len(places) / side
    return out


def mcq_loss(prediction: ArrayLike, target: ArrayLike) -> Array:
    """Lyu et al. 2022 (2206.04745), section 4: squared distance from the best of the behavior model's actions."""
    target = _real(target)
    best = np.array([max(row) for row in target.reshape(-1, target.shape[-1]).tolist()]).reshape(target.shape[:-1])
    return _residual_loss(prediction, best, lambda u: 0.0 if u == -math.inf else u * u)


def uniform_log_density(action: ArrayLike, low: ArrayLike, high: ArrayLike) -> Array:
    """The uniform density on a box: one over its volume inside, zero outside."""
    action, low, high = _real(action), _real(low), _real(high)
    out = np.empty(action.shape[:-1])
    for i in np.ndindex(out.shape):
        inside = all(a <= x <= b for a, x, b in zip(low, action[i], high, strict=True))
        out[i] = -math.log(math.prod(high - low)) if inside else -math.inf
    return out


# Generative policies and critics.


def _action_rows(x: Array) -> list[tuple[int, ...]]:
    return list(np.ndindex(x.shape[:-1]))


def flow_point(noise: ArrayLike, action: ArrayLike, time: ArrayLike) -> Array:
    """Liu et al. 2022 (2209.03003), Park et al. 2025 (2502.02538): (1 - t) z + t a, noise at 0, action at 1."""
    z, a, t = _real(noise), _real(action), _real(time)
    out = np.empty(z.shape)
    for i in _action_rows(z):
        for d in range(z.shape[-1]):
            out[(*i, d)] = (1 - t[i]) * z[(*i, d)] + t[i] * a[(*i, d)]
    return out


def flow_matching_loss(velocity: ArrayLike, noise: ArrayLike, action: ArrayLike) -> Array:
    """Park et al. 2025 (2502.02538): squared distance of v from a - z, here over the number of dimensions."""
    v, z, a = _real(velocity), _real(noise), _real(action)
    out = np.empty(v.shape[:-1])
    for i in _action_rows(v):
        errors = [v[(*i, d)] - (a[(*i, d)] - z[(*i, d)]) for d in range(v.shape[-1])]
        out[i] = math.fsum(u * u for u in errors) / len(errors)
    return out


def distillation_loss(
    policy_action: ArrayLike, target: ArrayLike, q: ArrayLike, *, distillation_weight: float = 10.0
) -> Array:
    """Park et al. 2025 (2502.02538): alpha times the mean squared distance from the flow's end, less Q."""
    mu, end, q = _real(policy_action), _real(target), _real(q)
    out = np.empty(q.shape)
    for i in _action_rows(mu):
        errors = [mu[(*i, d)] - end[(*i, d)] for d in range(mu.shape[-1])]
        out[i] = distillation_weight * math.fsum(u * u for u in errors) / len(errors) - q[i]
    return out


def guided_field(unconditional: ArrayLike, conditional: ArrayLike, *, guidance_scale: float) -> Array:
    """Ho & Salimans 2022 (2207.12598), at their scale plus one: from the unconditional towards the conditional."""
    u, c = _real(unconditional), _real(conditional)
    out = np.empty(u.shape)
    for i in np.ndindex(u.shape):
        out[i] = u[i] + guidance_scale * (c[i] - u[i])
    return out


def value_flow_loss(prediction: ArrayLike, noise: ArrayLike, target: ArrayLike) -> Array:
    """Dong et al. 2025 (2510.07650), bootstrapped conditional flow matching: (v - (R - z))^2."""
    v = _real(prediction)
    z, r = (np.broadcast_to(_real(x), v.shape) for x in (noise, target))
    out = np.empty(v.shape)
    for i in np.ndindex(v.shape):
        out[i] = (v[i] - (r[i] - z[i])) ** 2
    return out


def floq_loss(prediction: ArrayLike, noise: ArrayLike, target: ArrayLike) -> Array:
    """Agrawalla et al. 2025 (2509.06863): (v - (y - z))^2, mean over draws of noise that share y."""
    v, z = _real(prediction), _real(noise)
    z, y = np.broadcast_to(z, v.shape), np.broadcast_to(_real(target), v.shape[:-1])
    out = np.empty(v.shape[:-1])
    for i in _action_rows(v):
        errors = [v[(*i, n)] - (y[i] - z[(*i, n)]) for n in range(v.shape[-1])]
        out[i] = math.fsum(u * u for u in errors) / len(errors)
    return out


def diffusion_point(noise: ArrayLike, action: ArrayLike, alpha_bar: ArrayLike) -> Array:
    """Ho et al. 2020 (2006.11239), equation 4: mean sqrt(alpha_bar) a, variance 1 - alpha_bar."""
    e, a, share = _real(noise), _real(action), _real(alpha_bar)
    out = np.empty(e.shape)
    for i in _action_rows(e):
        for d in range(e.shape[-1]):
            out[(*i, d)] = math.sqrt(share[i]) * a[(*i, d)] + math.sqrt(1 - share[i]) * e[(*i, d)]
    return out


def diffusion_prediction(
    model_output: ArrayLike,
    point: ArrayLike,
    alpha_bar: ArrayLike,
    *,
    given: str = "epsilon",
    wanted: str = "x0",
) -> Array:
    """Salimans & Ho 2022 (2202.00512): x and one of eps, x0, v are two linear equations for eps and x0, solved here."""
    said, x, share = _real(model_output), _real(point), _real(alpha_bar)
    out = np.empty(x.shape)
    for i in _action_rows(x):
        s, n = math.sqrt(share[i]), math.sqrt(1 - share[i])
        rows = {"epsilon": [1.0, 0.0], "x0": [0.0, 1.0], "v": [s, -n]}
        for d in range(x.shape[-1]):
            solved = np.linalg.solve(np.array([[n, s], rows[given]]), np.array([x[(*i, d)], said[(*i, d)]]))
            out[(*i, d)] = np.array(rows[wanted]) @ solved
    return out


def diffusion_loss(
    model_output: ArrayLike,
    noise: ArrayLike,
    action: ArrayLike,
    alpha_bar: ArrayLike,
    *,
    prediction_type: str = "epsilon",
) -> Array:
    """Ho et al. 2020 (2006.11239), equation 14, and with x0 or v (2202.00512) in place of eps; mean over dimensions."""
    said, e, a, share = _real(model_output), _real(noise), _real(action), _real(alpha_bar)
    out = np.empty(share.shape)
    for i in _action_rows(said):
        errors = []
        for d in range(said.shape[-1]):
            v = math.sqrt(share[i]) * e[(*i, d)] - math.sqrt(1 - share[i]) * a[(*i, d)]
            errors.append(said[(*i, d)] - {"epsilon": e[(*i, d)], "x0": a[(*i, d)], "v": v}[prediction_type])
        out[i] = math.fsum(u * u for u in errors) / len(errors)
    return out


def q_score_penalty(model_output: ArrayLike, action_gradient: ArrayLike, alpha_bar: ArrayLike) -> Array:
    """Fang et al. 2024 (2405.20555), soft guidance: sqrt(1 - alpha_bar) eps . grad Q, over the number of dimensions."""
    e, g, share = _real(model_output), _real(action_gradient), _real(alpha_bar)
    out = np.empty(share.shape)
    for i in _action_rows(e):
        products = [e[(*i, d)] * g[(*i, d)] for d in range(e.shape[-1])]
        out[i] = math.sqrt(1 - share[i]) * math.fsum(products) / len(products)
    return out


def path_kl_penalty(
    model_output: ArrayLike, target: ArrayLike, alpha_bar: ArrayLike, step_variance: ArrayLike
) -> Array:
    """Gao et al. 2025 (2502.04778): KL of two normal steps of variance beta, whose means are those of 2006.11239."""
    e, behavior, share, beta = _real(model_output), _real(target), _real(alpha_bar), _real(step_variance)
    out = np.zeros(share.shape)
    for i in _action_rows(e):
        for d in range(e.shape[-1]):
            means = [
                (1.0 - beta[i] / math.sqrt(1 - share[i]) * said[(*i, d)]) / math.sqrt(1 - beta[i])
                for said in (e, behavior)
            ]
            out[i] += (means[0] - means[1]) ** 2 / (2 * beta[i])
    return out


# Goals.


def hindsight_goals(
    index: ArrayLike,
    episode_end: ArrayLike,
    random_index: ArrayLike,
    uniform: ArrayLike,
    *,
    current_share: float = 0.2,
    future_share: float = 0.5,
    future: str = "geometric",
    discount: float = 0.99,
) -> NDArray[np.int64]:
    """Andrychowicz et al. 2017 (1707.01495) and OGBench (2410.20092): itself, a later row of the episode, or any."""
    index, end, other, uniform = np.asarray(index), np.asarray(episode_end), np.asarray(random_index), _real(uniform)
    out = np.empty(index.shape, dtype=np.int64)
    for i in np.ndindex(index.shape):
        kind, u = uniform[i]
        if kind < current_share:
            out[i] = index[i]
        elif kind < current_share + future_share:
            out[i] = _followed(int(index[i]), int(end[i]), float(u), future, discount)
        else:
            out[i] = other[i]
    return out


def _followed(row: int, end: int, u: float, future: str, discount: float) -> int:
    """The first later row up to which the chances sum to more than u."""
    rows = range(row + 1, end + 1)
    chances = [1.0 if future == "uniform" else (1 - discount) * discount**k for k in range(len(rows))]
    if future != "geometric":
        chances = [chance / math.fsum(chances) for chance in chances]
    for place, candidate in enumerate(rows):
        if math.fsum(chances[: place + 1]) > u:
            return candidate
    return end


def goal_reward(distance: ArrayLike, *, threshold: float = 0.0, kind: str = "step_cost") -> tuple[Array, Flags]:
    """Andrychowicz et al. 2017 (1707.01495), section 3.2: minus one until the goal is reached; or one when it is."""
    distance = _real(distance)
    reward, terminated = np.empty(distance.shape), np.empty(distance.shape, dtype=bool)
    for i in np.ndindex(distance.shape):
        terminated[i] = distance[i] <= threshold
        reward[i] = (0.0 if terminated[i] else -1.0) if kind == "step_cost" else (1.0 if terminated[i] else 0.0)
    return reward, terminated


def hierarchical_advantages(
    value: ArrayLike, subgoal_value: ArrayLike, value_to_subgoal: ArrayLike, next_value_to_subgoal: ArrayLike
) -> tuple[Array, Array]:
    """Park et al. 2023 (2307.11949), section 4.2: V(w, g) - V(s, g) and V(s', w) - V(s, w)."""
    return _real(subgoal_value) - _real(value), _real(next_value_to_subgoal) - _real(value_to_subgoal)


def contrastive_loss(logits: ArrayLike, positive: ArrayLike, *, form: str = "binary") -> Array:
    """Eysenbach et al. 2022 (2206.07568): classify pairs; or van den Oord et al. 2018 (1807.03748): choose the own."""
    logits = _real(logits)
    out = np.empty(logits.shape[:-1])
    positive = np.broadcast_to(np.asarray(positive), out.shape)
    for i in np.ndindex(out.shape):
        row, own = logits[i].tolist(), int(positive[i])
        of_own = float(np.logaddexp(0, -row[own]))
        of_others = [float(np.logaddexp(0, f)) for j, f in enumerate(row) if j != own and f > -math.inf]
        if form == "binary":
            out[i] = math.fsum([of_own, *of_others]) / (len(of_others) + 1)
        elif form == "balanced_binary":
            out[i] = of_own + math.fsum(of_others) / max(1, len(of_others))
        else:
            out[i] = logsumexp(row) - row[own]
    return out


def quasimetric_losses(
    push_distance: ArrayLike,
    step_distance: ArrayLike,
    log_multiplier: ArrayLike,
    *,
    step_cost: float = 1.0,
    tolerance: float = 0.25,
    offset: float = 15.0,
    temperature: float = 10.0,
) -> tuple[Array, Array, Array]:
    """Wang et al. 2023 (2304.01203), section 3: a softplus of c - d, and a dual for d(s, s') <= cost."""
    far, near, multiplier = _real(push_distance), _real(step_distance), math.exp(float(_real(log_multiplier)))
    push, penalty, dual = np.empty(far.shape), np.empty(far.shape), np.empty(far.shape)
    for i in np.ndindex(far.shape):
        push[i] = temperature * np.logaddexp(0, (offset - far[i]) / temperature)
        excess = max(0.0, float(near[i]) - step_cost) ** 2 - tolerance**2
        penalty[i], dual[i] = multiplier * excess, -multiplier * excess
    return push, penalty, dual


def transitive_target(
    first_value: ArrayLike,
    second_value: ArrayLike,
    first_steps: ArrayLike,
    second_steps: ArrayLike,
    *,
    discount: float = 0.99,
) -> Array:
    """Park et al. 2025 (2510.22512): the product of two halves, each discount^n where it is at most one step."""
    first, second = _real(first_value), _real(second_value)
    n, m = (np.broadcast_to(np.asarray(steps), first.shape) for steps in (first_steps, second_steps))
    out = np.empty(first.shape)
    for i in np.ndindex(first.shape):
        out[i] = discount ** int(n[i]) if n[i] <= 1 else first[i]
        out[i] *= discount ** int(m[i]) if m[i] <= 1 else second[i]
    return out


def transitive_weights(target: ArrayLike, *, discount: float = 0.99, exponent: float = 1.0) -> Array:
    """Park et al. 2025 (2510.22512): one over one plus the distance in steps, to a power."""
    target = _real(target)
    out = np.empty(target.shape)
    for i in np.ndindex(target.shape):
        steps = math.log(target[i]) / math.log(discount) if target[i] > 0 else math.inf
        out[i] = (1 / (1 + max(0.0, steps))) ** exponent
    return out


# Sequences and language.


def sequence_log_prob(log_prob: ArrayLike, mask: ArrayLike, *, length_normalized: bool = False) -> Array:
    """Rafailov et al. 2023 (2305.18290): the sum over the answer's tokens; SimPO (2405.14734): their mean."""
    log_prob, exists = _real(log_prob), _flag(mask)
    out = np.empty(log_prob.shape[:-1])
    for i in np.ndindex(out.shape):
        tokens = [float(x) for x, there in zip(log_prob[i], exists[i], strict=True) if there]
        out[i] = math.fsum(tokens) / (max(1, len(tokens)) if length_normalized else 1)
    return out


def sequence_action_loss(prediction: ArrayLike, target: ArrayLike) -> Array:
    """Chen et al. 2021 (2106.01345), section 3: mean squared error of an action; what it is divided by comes later."""
    prediction, target = _real(prediction), _real(target)
    out = np.empty(prediction.shape[:-1])
    for i in np.ndindex(out.shape):
        out[i] = math.fsum((float(a) - float(b)) ** 2 for a, b in zip(prediction[i], target[i], strict=True))
        out[i] /= prediction.shape[-1]
    return out


def _log_sigmoid(x: float) -> float:
    return -float(np.logaddexp(0.0, -x))


def preference_loss(
    chosen_log_ratio: ArrayLike,
    rejected_log_ratio: ArrayLike,
    *,
    kind: str = "dpo",
    kl_weight: float = 0.1,
    label_smoothing: float | None = None,
) -> Array:
    """DPO (2305.18290), its noisy labels, robust DPO (2403.00409), EXO (2402.00856), IPO (2310.12036), SLiC
    (2305.10425), NCA (2402.05369), BCO (2404.04656), SPPO (2405.00675), APO (2408.06266): as the papers write them."""
    chosen, rejected = _real(chosen_log_ratio), _real(rejected_log_ratio)
    e = 0.0 if label_smoothing is None else label_smoothing
    out = np.empty(chosen.shape)

    def sigmoid(x: float) -> float:
        return math.exp(_log_sigmoid(x))

    def loss(won: float, lost: float) -> float:
        c, r = kl_weight * won, kl_weight * lost
        h = c - r
        match kind:
            case "dpo":
                return -_log_sigmoid(h)
            case "cdpo":
                return -(1 - e) * _log_sigmoid(h) - e * _log_sigmoid(-h)
            case "robust_dpo":
                return (-(1 - e) * _log_sigmoid(h) + e * _log_sigmoid(-h)) / (1 - 2 * e)
            case "exo":  # the divergence of (sigma(h), sigma(-h)) from (1 - e, e)
                return float(entropy([sigmoid(h), sigmoid(-h)], [1 - e, e]))
            case "ipo":
                return (won - lost - 1 / (2 * kl_weight)) ** 2
            case "hinge":
                return max(0.0, 1 - h)
            case "nca":
                return -_log_sigmoid(c) - 0.5 * (_log_sigmoid(-c) + _log_sigmoid(-r))
            case "bco":
                return -_log_sigmoid(c) - _log_sigmoid(-r)
            case "sppo":
                return (won - 1 / (2 * kl_weight)) ** 2 + (lost + 1 / (2 * kl_weight)) ** 2
            case "apo_zero":
                return 1 - sigmoid(c) + sigmoid(r)
        return sigmoid(c) + 1 - sigmoid(c - r)

    for i in np.ndindex(chosen.shape):
        out[i] = loss(float(chosen[i]), float(rejected[i]))
    return out


def reward_regression_loss(
    log_ratio: ArrayLike, target: ArrayLike, *, kind: str = "rebel", kl_weight: float = 0.1
) -> Array:
    """REBEL (2404.16767) on differences; QRPO (2507.08068), whose Z is the integral of e^(u / beta) over [0, 1]."""
    log_ratio, target = _real(log_ratio), _real(target)
    log_z = math.log(kl_weight * math.expm1(1 / kl_weight)) if kind == "qrpo" else 0.0
    out = np.empty(target.shape)
    for i in np.ndindex(target.shape):
        out[i] = (target[i] - kl_weight * log_z - kl_weight * log_ratio[i]) ** 2
    return out


def path_consistency_loss(
    value: ArrayLike,
    next_value: ArrayLike,
    reward: ArrayLike,
    log_ratio: ArrayLike,
    terminated: ArrayLike,
    done: ArrayLike,
    *,
    n: int,
    kl_weight: float = 0.1,
    discount: float = 1.0,
    mask: ArrayLike | None = None,
) -> Array:
    """Nachum et al. 2017 (1702.08892): the square of V less what n steps earn, less V at their end."""
    value, next_value, reward, ratio = (_real(x) for x in (value, next_value, reward, log_ratio))
    terminated, done = _flag(terminated), _flag(done)
    exists = np.broadcast_to(True if mask is None else _flag(mask), value.shape)
    out = np.zeros(value.shape)
    steps = value.shape[-1]
    for i in np.ndindex(value.shape[:-1]):
        for t in range(steps):
            if not exists[i][t]:
                continue
            earned, k = 0.0, t
            while True:
                earned += discount ** (k - t) * (reward[i][k] - kl_weight * ratio[i][k])
                if k - t + 1 == n or done[i][k] or k == steps - 1 or not exists[i][k + 1]:
                    break
                k += 1
            beyond = 0.0 if terminated[i][k] else discount ** (k - t + 1) * next_value[i][k]
            out[i][t] = (value[i][t] - earned - beyond) ** 2
    return out


# Staying in the support of the data.


def support_mask(logits: ArrayLike, *, threshold: float = 0.3) -> Flags:
    """Fujimoto et al. 2019 (1910.01708): G(a) over the largest G is above the threshold; the largest always is."""
    logits = _real(logits)
    out = np.zeros(logits.shape, dtype=bool)
    for i in _action_rows(logits):
        row = [float(x) for x in logits[i]]
        best = max(row)
        for n, x in enumerate(row):
            out[(*i, n)] = x > -math.inf and (x == best or math.exp(x - best) > threshold)
    return out


def evidence_lower_bound(
    log_prob: ArrayLike, latent_mean: ArrayLike, latent_log_std: ArrayLike, *, kl_weight: float = 1.0
) -> Array:
    """Kingma & Welling 2013 (1312.6114), appendix B: reconstruction less KL(N(mu, sigma) || N(0, 1))."""
    log_prob, mean, log_std = _real(log_prob), _real(latent_mean), _real(latent_log_std)
    out = np.empty(log_prob.shape)
    for i in np.ndindex(out.shape):
        divergence = 0.0
        for d in range(mean.shape[-1]):
            variance = math.exp(2 * log_std[(*i, d)])
            divergence -= 0.5 * (1 + math.log(variance) - mean[(*i, d)] ** 2 - variance)
        out[i] = log_prob[i] - kl_weight * divergence
    return out


def elbo_loss(
    log_prob: ArrayLike, latent_mean: ArrayLike, latent_log_std: ArrayLike, *, kl_weight: float = 1.0
) -> Array:
    """Kingma & Welling 2013 (1312.6114): minus the bound."""
    return -evidence_lower_bound(log_prob, latent_mean, latent_log_std, kl_weight=kl_weight)


def spot_penalty(log_weight: ArrayLike) -> Array:
    """Wu et al. 2022 (2202.06239): minus the logarithm of the mean importance weight of N draws."""
    log_weight = _real(log_weight)
    out = np.empty(log_weight.shape[:-1])
    for i in np.ndindex(out.shape):
        out[i] = math.log(log_weight.shape[-1]) - logsumexp(log_weight[i])
    return out


def mmd_penalty(
    policy_action: ArrayLike,
    data_action: ArrayLike,
    *,
    kernel: str = "gaussian",
    bandwidth: float = 1.0,
    estimator: str = "biased",
) -> Array:
    """Gretton et al. 2012 (JMLR 13), lemma 6: squared MMD of all pairs, or of those of two different samples."""
    x, y = _real(policy_action), _real(data_action)

    def k(a: Array, b: Array) -> float:
        if kernel == "gaussian":
            return math.exp(-float(np.sum((a - b) ** 2)) / (2 * bandwidth**2))
        return math.exp(-float(np.sum(np.abs(a - b))) / bandwidth)

    def within(rows: Array) -> float:
        n = len(rows)
        pairs = [k(rows[a], rows[b]) for a in range(n) for b in range(n) if estimator == "biased" or a != b]
        return math.fsum(pairs) / len(pairs)

    out = np.empty(x.shape[:-2])
    for i in np.ndindex(out.shape):
        between = math.fsum(k(a, b) for a in x[i] for b in y[i]) / (len(x[i]) * len(y[i]))
        out[i] = within(x[i]) + within(y[i]) - 2 * between
    return out


def nearest_distance_penalty(
    policy_action: ArrayLike,
    observation: ArrayLike,
    data_action: ArrayLike,
    data_observation: ArrayLike,
    *,
    observation_scale: float = 2.0,
    chunk: int = 8192,
) -> Array:
    """Ran et al. 2023 (2306.06569), as their code has it: squared distance from the nearest pair's action, its mean."""
    action, state = _real(policy_action), _real(observation)
    actions, states = _real(data_action), _real(data_observation)
    out = np.empty(action.shape[:-1])
    for i in np.ndindex(out.shape):
        distances = [
            observation_scale**2 * float(np.sum((state[i] - s) ** 2)) + float(np.sum((action[i] - a) ** 2))
            for s, a in zip(states, actions, strict=True)
        ]
        nearest = actions[distances.index(min(distances))]
        out[i] = float(np.mean((action[i] - nearest) ** 2))
    return out


# From values to actions.


def mpo_weights(q: ArrayLike, *, temperature: float = 1.0) -> Array:
    """Abdolmaleki et al. 2018 (1806.06920), E-step: exp(Q / temperature) over its sum, of the samples of a state."""
    return softmax_weights(q, temperature=temperature)


def mpo_temperature_loss(log_temperature: ArrayLike, q: ArrayLike, *, max_kl: float = 0.1) -> Array:
    """The dual of that step: temperature (bound + log of the samples' mean of exp(Q / temperature))."""
    q, temperature = _real(q), math.exp(float(_real(log_temperature)))
    out = np.zeros(q.shape[:-1])
    for i in np.ndindex(out.shape):
        samples = [x for x in q[i].tolist() if x > -math.inf]
        if samples:
            log_mean = logsumexp([x / temperature for x in samples]) - math.log(len(samples))
            out[i] = temperature * (max_kl + log_mean)
    return out


def advantage_indicator(advantage: ArrayLike, *, fraction: float = 0.3, mask: ArrayLike | None = None) -> Flags:
    """Whether a sample is among the best; the earlier one of equals, and at least one."""
    advantage = _real(advantage)
    exists = np.broadcast_to(True if mask is None else _flag(mask), advantage.shape)
    ranked = sorted((-advantage[i], i) for i in np.ndindex(advantage.shape) if exists[i])
    count = max(1, math.floor(fraction * len(ranked) + 0.5))
    out = np.zeros(advantage.shape, dtype=bool)
    for _, i in ranked[:count]:
        out[i] = True
    return out


def top_fraction_weights(advantage: ArrayLike, *, fraction: float = 0.5, mask: ArrayLike | None = None) -> Array:
    """Song et al. 2019 (1909.12238): the best share of the batch, as zeros and ones."""
    return _real(advantage_indicator(advantage, fraction=fraction, mask=mask))


def best_of_n(q: ArrayLike, action: ArrayLike) -> Array:
    """Fujimoto et al. 2019 (1812.02900): the candidate with the largest Q, the first of equals."""
    q, action = _real(q), _real(action)
    out = np.zeros((*q.shape[:-1], action.shape[-1]))
    for i in np.ndindex(q.shape[:-1]):
        values = q[i].tolist()
        if max(values) > -math.inf:
            out[i] = action[i][values.index(max(values))]
    return out


# How far a policy has moved.


def gaussian_kl_penalty(
    mean: ArrayLike, log_std: ArrayLike, reference_mean: ArrayLike, reference_log_std: ArrayLike
) -> Array:
    """Kullback & Leibler 1951, of two normal distributions in each dimension, summed."""
    mean = _real(mean)
    other, log_s, log_r = (np.broadcast_to(_real(x), mean.shape) for x in (reference_mean, log_std, reference_log_std))
    out = np.zeros(mean.shape[:-1])
    for i in np.ndindex(mean.shape):
        s, r = math.exp(log_s[i]), math.exp(log_r[i])
        out[i[:-1]] += math.log(r / s) + (s * s + (mean[i] - other[i]) ** 2) / (2 * r * r) - 0.5
    return out


def categorical_kl_penalty(logits: ArrayLike, reference_logits: ArrayLike) -> Array:
    """Kullback & Leibler 1951, of two distributions over finitely many actions."""
    logits, reference = _real(logits), _real(reference_logits)
    out = np.zeros(logits.shape[:-1])
    for i in np.ndindex(out.shape):
        log_p, log_q = logits[i] - logsumexp(logits[i]), reference[i] - logsumexp(reference[i])
        out[i] = math.fsum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True) if p > -math.inf)
    return out


def sampled_kl_penalty(
    log_prob: ArrayLike, reference_log_prob: ArrayLike, *, estimator: str = "k3", max_exponent: float = 20.0
) -> Array:
    """Schulman 2020 (Approximating KL Divergence): k1, k2 or k3, its exponential a line beyond a bound."""
    log_prob, reference = _real(log_prob), _real(reference_log_prob)
    out = np.zeros(log_prob.shape)
    for i in np.ndindex(out.shape):
        x = log_prob[i] - reference[i]
        k3 = _exponential(-x, max_exponent) - 1 + x
        out[i] = {"k1": x, "k2": x * x / 2, "k3": k3}[estimator]
    return out


# Policies that pay for leaving the data.


def _mean_size(q: Array, epsilon: float, normalizer: float | None, mask: ArrayLike | None) -> float:
    if normalizer is not None:
        return max(normalizer, epsilon)
    exists = np.broadcast_to(True if mask is None else _flag(mask), q.shape)
    sizes = [abs(float(q[i])) for i in np.ndindex(q.shape) if exists[i]]
    return max(math.fsum(sizes) / max(1, len(sizes)), epsilon)


def ddpg_bc_loss(
    q: ArrayLike,
    log_prob: ArrayLike,
    *,
    bc_weight: float = 1.0,
    epsilon: float = 1e-6,
    normalizer: float | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    """Park et al. 2024 (2406.09329): Q over its mean size, and the data's log-probability."""
    q, log_prob = _real(q), _real(log_prob)
    size, out = _mean_size(q, epsilon, normalizer, mask), np.empty(q.shape)
    for i in np.ndindex(q.shape):
        out[i] = -q[i] / size - bc_weight * log_prob[i]
    return out


def rebrac_policy_loss(
    q: ArrayLike,
    policy_action: ArrayLike,
    data_action: ArrayLike,
    *,
    bc_weight: float = 0.01,
    epsilon: float = 1e-6,
    normalizer: float | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    """Tarasov et al. 2023 (2305.09836): squared distance, summed over dimensions, less Q over its mean size."""
    q, policy, data = _real(q), _real(policy_action), _real(data_action)
    size, out = _mean_size(q, epsilon, normalizer, mask), np.empty(q.shape)
    for i in np.ndindex(q.shape):
        distance = math.fsum((float(p) - float(a)) ** 2 for p, a in zip(policy[i], data[i], strict=True))
        out[i] = bc_weight * distance - q[i] / size
    return out


def rebrac_target(
    reward: ArrayLike,
    next_value: ArrayLike,
    next_policy_action: ArrayLike,
    next_data_action: ArrayLike,
    terminated: ArrayLike,
    done: ArrayLike,
    *,
    bc_weight: float = 0.01,
    discount: float = 0.99,
) -> Array:
    """The same paper: the next value pays for its distance from the data's next action, if there is one."""
    reward, value = _real(reward), _real(next_value)
    policy, data = _real(next_policy_action), _real(next_data_action)
    terminated, done, out = _flag(terminated), _flag(done), reward.copy()
    for i in np.ndindex(reward.shape):
        if not terminated[i]:
            distance = sum((float(p) - float(a)) ** 2 for p, a in zip(policy[i], data[i], strict=True))
            out[i] += discount * (value[i] - (0.0 if done[i] else bc_weight * distance))
    return out


# Policies over finitely many actions.


def _soft_expectation(logits: Array, q: Array, temperature: float) -> float:
    log_p = logits - logsumexp(logits)
    terms = zip(log_p.tolist(), q.tolist(), strict=True)
    return math.fsum(math.exp(p) * (x - temperature * p) for p, x in terms if p > -math.inf)


def discrete_sac_loss(logits: ArrayLike, q: ArrayLike, *, temperature: float = 1.0) -> Array:
    """Christodoulou 2019 (1910.07207): the expectation over all actions of temperature log pi - Q."""
    logits, q = _real(logits), _real(q)
    out = np.empty(q.shape[:-1])
    for i in np.ndindex(out.shape):
        out[i] = -_soft_expectation(logits[i], q[i], temperature)
    return out


def discrete_soft_target(
    reward: ArrayLike,
    next_q: ArrayLike,
    next_logits: ArrayLike,
    terminated: ArrayLike,
    *,
    temperature: float = 1.0,
    discount: float = 0.99,
) -> Array:
    """The same paper: the discounted expectation over all next actions of Q - temperature log pi."""
    reward, q, logits = _real(reward), _real(next_q), _real(next_logits)
    terminated, out = _flag(terminated), reward.copy()
    for i in np.ndindex(reward.shape):
        if not terminated[i]:
            out[i] += discount * _soft_expectation(logits[i], q[i], temperature)
    return out


def munchausen_reward(
    reward: ArrayLike,
    log_prob: ArrayLike,
    *,
    temperature: float = 0.03,
    bonus_weight: float = 0.9,
    min_bonus: float = -1.0,
) -> Array:
    """Vieillard et al. 2020 (2007.14430): a share of temperature log pi, clipped, is added."""
    reward, log_prob = _real(reward), _real(log_prob)
    out = np.empty(reward.shape)
    for i in np.ndindex(reward.shape):
        out[i] = reward[i] + bonus_weight * min(max(temperature * log_prob[i], min_bonus), 0.0)
    return out


def advantage_learning_reward(
    reward: ArrayLike, q_data: ArrayLike, value: ArrayLike, *, bonus_weight: float = 0.9
) -> Array:
    """Bellemare et al. 2016 (1512.04860): a share of the gap to the best action is subtracted."""
    reward, q, value = _real(reward), _real(q_data), _real(value)
    out = np.empty(reward.shape)
    for i in np.ndindex(reward.shape):
        out[i] = reward[i] - bonus_weight * (value[i] - q[i])
    return out


# Values of all sizes, actions with noise, advantages of a moving scale.


def _odd(x: ArrayLike, of_size: Callable[[float], float]) -> Array:
    x = _real(x)
    out = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        out[i] = math.copysign(of_size(abs(float(x[i]))), x[i])
    return out


def symlog(x: ArrayLike) -> Array:
    """Hafner et al. 2023 (2301.04104): the logarithm of 1 + abs(x), with the sign of x."""
    return _odd(x, math.log1p)


def symexp(x: ArrayLike) -> Array:
    """Hafner et al. 2023 (2301.04104): its inverse."""
    return _odd(x, math.expm1)


def signed_hyperbolic(x: ArrayLike, *, epsilon: float = 1e-3) -> Array:
    """Pohlen et al. 2018 (1805.11593): a square root with a little of the identity."""
    return _odd(x, lambda size: math.sqrt(size + 1) - 1 + epsilon * size)


def signed_parabolic(x: ArrayLike, *, epsilon: float = 1e-3) -> Array:
    """Pohlen et al. 2018 (1805.11593): its inverse, by bisection."""

    def inverse(size: float) -> float:
        low, high = 0.0, size * (size + 2)
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if math.sqrt(middle + 1) - 1 + epsilon * middle < size else (low, middle)
        return (low + high) / 2

    return _odd(x, inverse)


def smoothed_action(
    action: ArrayLike,
    noise: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    *,
    noise_scale: float = 0.2,
    max_noise: float = 0.5,
) -> Array:
    """Fujimoto et al. 2018 (1802.09477), target policy smoothing, in units of half the range of actions."""
    action, noise, low, high = _real(action), _real(noise), _real(low), _real(high)
    out = np.empty(action.shape)
    for i in np.ndindex(action.shape):
        least, most = low[i[-1]], high[i[-1]]
        moved = action[i] + (most - least) / 2 * min(max(noise_scale * noise[i], -max_noise), max_noise)
        out[i] = min(max(moved, least), most)
    return out


def normalize_advantage(
    advantage: ArrayLike, mean_square: ArrayLike, *, rate: float = 0.01, mask: ArrayLike | None = None
) -> tuple[Array, Array]:
    """Wang et al. 2018 (MARWIL): over the root of a moving mean of squares, of which this batch is a part."""
    advantage, last = _real(advantage), float(_real(mean_square))
    exists = np.broadcast_to(True if mask is None else _flag(mask), advantage.shape)
    squares = [float(advantage[i]) ** 2 for i in np.ndindex(advantage.shape) if exists[i]]
    moved = (1 - rate) * last + rate * math.fsum(squares) / len(squares) if squares else last
    out = np.zeros(advantage.shape)
    for i in np.ndindex(advantage.shape):
        if exists[i] and moved > 0:
            out[i] = advantage[i] / math.sqrt(moved)
    return out, _real(moved)


# What another policy would have earned.


def _estimate(estimator: Callable[[list[complex]], complex], weight: Sequence[float]) -> tuple[Array, Array, Array]:
    """Of an estimator that counts each episode so often: its value, its standard error, the effective sample size.

    The error is that of the mean of n times the derivatives by the counts (the infinitesimal jackknife of Efron 1982),
    which are taken by a complex step.
    """
    n, step = len(weight), 1e-30
    value = estimator([1.0] * n).real
    slopes = [estimator([1 + 1j * step * (i == j) for j in range(n)]).imag / step for i in range(n)]
    largest = max(weight)
    share = [w / largest if largest > 0 else 0.0 for w in weight]
    size = math.fsum(share) ** 2 / math.fsum(w * w for w in share) if largest > 0 else 0.0
    error = math.sqrt(math.fsum((n * s) ** 2 for s in slopes) / (n * (n - 1))) if n > 1 and size > 0 else math.inf
    return _real(value), _real(error), _real(size)


def _products(log_ratio: Array, episode: _Episode, bound: float = math.inf) -> list[float]:
    """The product of the ratios up to and with each step of an episode, each bounded by itself."""
    product, found = 1.0, []
    for t in range(episode.start, episode.stop):
        product *= math.exp(log_ratio[episode.place][t])
        found.append(min(product, bound))
    return found


def importance_weights(log_ratio: ArrayLike, done: ArrayLike, *, max_weight: float = math.inf) -> Array:
    """Precup, Sutton & Singh 2000: the product of the ratios up to and with each step."""
    log_ratio = _real(log_ratio)
    out = np.empty(log_ratio.shape)
    for episode in _episodes(done):
        out[episode.place][episode.start : episode.stop] = _products(log_ratio, episode, max_weight)
    return out


def importance_sampling_value(
    reward: ArrayLike,
    log_ratio: ArrayLike,
    done: ArrayLike,
    *,
    discount: float = 0.99,
    max_weight: float = math.inf,
) -> tuple[Array, Array, Array]:
    """Precup, Sutton & Singh 2000: the mean of weight times return."""
    reward, log_ratio, episodes = _real(reward), _real(log_ratio), _episodes(done)
    gain = [_return_of(reward, episode, discount) for episode in episodes]
    weight = [_products(log_ratio, episode, max_weight)[-1] for episode in episodes]
    return _estimate(lambda c: sum(x * w * g for x, w, g in zip(c, weight, gain, strict=True)) / sum(c), weight)


def weighted_importance_sampling_value(
    reward: ArrayLike, log_ratio: ArrayLike, done: ArrayLike, *, discount: float = 0.99
) -> tuple[Array, Array, Array]:
    """Precup, Sutton & Singh 2000: the mean of the returns, weighted."""
    reward, log_ratio, episodes = _real(reward), _real(log_ratio), _episodes(done)
    gain = [_return_of(reward, episode, discount) for episode in episodes]
    weight = [_products(log_ratio, episode)[-1] for episode in episodes]

    def estimator(count: list[complex]) -> complex:
        total = sum(x * w for x, w in zip(count, weight, strict=True))
        return sum(x * w * g for x, w, g in zip(count, weight, gain, strict=True)) / total if total else 0j

    return _estimate(estimator, weight)


def per_decision_value(
    reward: ArrayLike,
    log_ratio: ArrayLike,
    done: ArrayLike,
    *,
    discount: float = 0.99,
    max_weight: float = math.inf,
) -> tuple[Array, Array, Array]:
    """Precup, Sutton & Singh 2000: each reward times the product of the ratios up to it."""
    zero, step = np.zeros(np.shape(reward)), np.zeros(np.shape(reward), bool)
    return doubly_robust_value(
        reward, zero, zero, zero, log_ratio, step, done, discount=discount, max_weight=max_weight
    )


def weighted_per_decision_value(
    reward: ArrayLike, log_ratio: ArrayLike, done: ArrayLike, *, discount: float = 0.99
) -> tuple[Array, Array, Array]:
    """Precup, Sutton & Singh 2000: the rewards of each step weighted; an ended episode keeps its last weight."""
    zero, step = np.zeros(np.shape(reward)), np.zeros(np.shape(reward), bool)
    return weighted_doubly_robust_value(reward, zero, zero, zero, log_ratio, step, done, discount=discount)


def doubly_robust_value(
    reward: ArrayLike,
    q_data: ArrayLike,
    value: ArrayLike,
    next_value: ArrayLike,
    log_ratio: ArrayLike,
    terminated: ArrayLike,
    done: ArrayLike,
    *,
    discount: float = 0.99,
    max_weight: float = math.inf,
) -> tuple[Array, Array, Array]:
    """Jiang & Li 2016 (1511.03722), written out: V plus the weighted errors of Q, from each first step."""
    reward, q_data, value, next_value = _real(reward), _real(q_data), _real(value), _real(next_value)
    terminated, log_ratio, episodes, each = _flag(terminated), _real(log_ratio), _episodes(done), []
    for episode in episodes:
        sum_ = float(value[episode.place][episode.start])
        for k, product in enumerate(_products(log_ratio, episode, max_weight)):
            i = (*episode.place, episode.start + k)
            following = 0.0 if terminated[i] else float(next_value[i])
            sum_ += discount**k * product * (float(reward[i]) + discount * following - float(q_data[i]))
        each.append(sum_)
    weight = [_products(log_ratio, episode, max_weight)[-1] for episode in episodes]
    return _estimate(lambda c: sum(x * v for x, v in zip(c, each, strict=True)) / sum(c), weight)


def weighted_doubly_robust_value(
    reward: ArrayLike,
    q_data: ArrayLike,
    value: ArrayLike,
    next_value: ArrayLike,
    log_ratio: ArrayLike,
    terminated: ArrayLike,
    done: ArrayLike,
    *,
    discount: float = 0.99,
) -> tuple[Array, Array, Array]:
    """Thomas & Brunskill 2016 (1604.00923), their WDR: the weights of each step over their sum."""
    reward, q_data, value, next_value = _real(reward), _real(q_data), _real(value), _real(next_value)
    terminated, log_ratio, episodes = _flag(terminated), _real(log_ratio), _episodes(done)
    products = [_products(log_ratio, episode) for episode in episodes]

    def estimator(count: list[complex]) -> complex:
        first = [float(value[episode.place][episode.start]) for episode in episodes]
        result = sum(x * v for x, v in zip(count, first, strict=True)) / sum(count)
        for k in range(max(map(len, products))):
            total = sum(x * product[min(k, len(product) - 1)] for x, product in zip(count, products, strict=True))
            for x, product, episode in zip(count, products, episodes, strict=True):
                if k < len(product) and total:
                    i = (*episode.place, episode.start + k)
                    following = 0.0 if terminated[i] else float(next_value[i])
                    error = float(reward[i]) + discount * following - float(q_data[i])
                    result += discount**k * x * product[k] / total * error
        return result

    return _estimate(estimator, [product[-1] for product in products])


def ips_value(
    reward: ArrayLike, policy_probability: ArrayLike, propensity: ArrayLike, *, max_weight: float = math.inf
) -> tuple[Array, Array, Array]:
    """Horvitz & Thompson 1952: the mean of the rewards over their propensities, times the policy's probabilities."""
    zero = np.zeros(np.shape(reward))
    return bandit_doubly_robust_value(reward, zero, zero, policy_probability, propensity, max_weight=max_weight)


def self_normalized_ips_value(
    reward: ArrayLike, policy_probability: ArrayLike, propensity: ArrayLike
) -> tuple[Array, Array, Array]:
    """Swaminathan & Joachims 2015: the same over the mean of the ratios."""
    gain = _real(reward).ravel().tolist()
    weight = (_real(policy_probability) / _real(propensity)).ravel().tolist()

    def estimator(count: list[complex]) -> complex:
        total = sum(x * w for x, w in zip(count, weight, strict=True))
        return sum(x * w * g for x, w, g in zip(count, weight, gain, strict=True)) / total if total else 0j

    return _estimate(estimator, weight)


def bandit_doubly_robust_value(
    reward: ArrayLike,
    q_data: ArrayLike,
    value: ArrayLike,
    policy_probability: ArrayLike,
    propensity: ArrayLike,
    *,
    max_weight: float = math.inf,
) -> tuple[Array, Array, Array]:
    """Dudik, Langford & Li 2011 (1103.4601): the model's value plus its weighted error, mean over the samples."""
    weight = [min(w, max_weight) for w in (_real(policy_probability) / _real(propensity)).ravel().tolist()]
    samples = (_real(x).ravel().tolist() for x in (value, reward, q_data))
    each = [v + w * (r - q) for w, v, r, q in zip(weight, *samples, strict=True)]
    return _estimate(lambda c: sum(x * v for x, v in zip(c, each, strict=True)) / sum(c), weight)


def normal_interval(value: ArrayLike, standard_error: ArrayLike, *, level: float = 0.95) -> tuple[Array, Array]:
    """The quantiles of a normal distribution around the estimate."""
    value, error = _real(value), _real(standard_error)
    low, high = np.empty(value.shape), np.empty(value.shape)
    for i in np.ndindex(value.shape):
        low[i] = norm.ppf((1 - level) / 2, value[i], error[i]) if error[i] > 0 else value[i]
        high[i] = norm.ppf((1 + level) / 2, value[i], error[i]) if error[i] > 0 else value[i]
    return low, high


def empirical_bernstein_interval(
    value: ArrayLike, standard_error: ArrayLike, *, count: float, spread: float, level: float = 0.95
) -> tuple[Array, Array]:
    """Maurer & Pontil 2009 (0907.3740), for both tails: sqrt(2 V log(2 / d) / n) + 7 log(2 / d) / 3 (n - 1),
    of samples over their range, with half of the probability to fail for d."""
    value, error = _real(value), _real(standard_error)
    low, high = np.empty(value.shape), np.empty(value.shape)
    fails = (1 - level) / 2
    for i in np.ndindex(value.shape):
        variance = count * (error[i] / spread) ** 2
        half = math.sqrt(2 * variance * math.log(2 / fails) / count) + 7 * math.log(2 / fails) / (3 * (count - 1))
        low[i], high[i] = value[i] - spread * half, value[i] + spread * half
    return low, high


# What runs are reported as.


def normalized_score(score: ArrayLike, *, random_score: float, reference_score: float) -> Array:
    """Fu et al. 2020 (2004.07219), without their factor of 100."""
    score = _real(score)
    out = np.empty(score.shape)
    for i in np.ndindex(score.shape):
        out[i] = (score[i] - random_score) / (reference_score - random_score)
    return out


def interquartile_mean(score: ArrayLike) -> Array:
    """Agarwal et al. 2021 (2108.13264): the mean without the lowest and the highest quarter of all scores."""
    ranked = sorted(_real(score).ravel().tolist())
    cut = math.floor(len(ranked) / 4)
    middle = ranked[cut : len(ranked) - cut]
    return _real(math.fsum(middle) / len(middle))


def probability_of_improvement(score: ArrayLike, other_score: ArrayLike) -> Array:
    """Agarwal et al. 2021 (2108.13264): the share of pairs of runs that the first wins, half for ties."""
    x, y = _real(score), _real(other_score)
    out = np.zeros(x.shape[:-1])
    for i in np.ndindex(out.shape):
        pairs = [(a, b) for a in x[i] for b in y[i]]
        out[i] = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    return out


# Divergences of ratios, and the losses made of their conjugates.


def _f(w: float, divergence: str) -> float:
    entropic = w * math.log(w) if w > 0 else 0.0
    if w < 0:
        return math.inf
    if divergence == "kl":
        return entropic
    return entropic - w + 1 if divergence == "soft_chi_square" and w < 1 else (w - 1) ** 2 / 2


def _best_ratio(y: float, divergence: str, max_exponent: float) -> float:
    """Where the slope of f is y, or no ratio at all."""
    if divergence == "kl":
        return math.exp(min(y - 1, max_exponent))
    return math.exp(y) if divergence == "soft_chi_square" and y < 0 else max(0.0, y + 1)


def _conjugate(y: float, divergence: str, max_exponent: float) -> float:
    w = _best_ratio(y, divergence, max_exponent)
    return w * y - _f(w, divergence)


def f_divergence_penalty(ratio: ArrayLike, *, divergence: str = "soft_chi_square") -> Array:
    """Csiszar 1967; OptiDICE (2106.10783) for the soft chi-square: f at each ratio."""
    ratio = _real(ratio)
    out = np.zeros(ratio.shape)
    for i in np.ndindex(ratio.shape):
        out[i] = _f(float(ratio[i]), divergence)
    return out


def f_conjugate(y: ArrayLike, *, divergence: str = "soft_chi_square", max_exponent: float = 20.0) -> Array:
    """Nachum & Dai 2020 (2001.01866): the reward of the best ratio less what it costs."""
    y = _real(y)
    out = np.zeros(y.shape)
    for i in np.ndindex(y.shape):
        out[i] = _conjugate(float(y[i]), divergence, max_exponent)
    return out


def dice_weights(
    advantage: ArrayLike,
    *,
    divergence: str = "soft_chi_square",
    temperature: float = 1.0,
    max_exponent: float = 20.0,
) -> Array:
    """OptiDICE (2106.10783): the best ratio, max(0, f'^-1(e / alpha))."""
    advantage = _real(advantage)
    out = np.zeros(advantage.shape)
    for i in np.ndindex(advantage.shape):
        out[i] = _best_ratio(float(advantage[i]) / temperature, divergence, max_exponent)
    return out


def _dice(
    first_share: float,
    value: ArrayLike,
    next_value: ArrayLike,
    initial_value: ArrayLike,
    reward: ArrayLike,
    terminated: ArrayLike,
    discount: float,
    convex: Callable[[float], float],
) -> Array:
    value, following, first, reward = _real(value), _real(next_value), _real(initial_value), _real(reward)
    terminated = _flag(terminated)
    out = np.zeros(value.shape)
    for i in np.ndindex(value.shape):
        after = 0.0 if terminated[i] else discount * following[i]
        out[i] = first_share * (1 - discount) * first[i] + convex(reward[i] + after - value[i])
    return out


def dual_dice_loss(
    value: ArrayLike,
    next_value: ArrayLike,
    initial_value: ArrayLike,
    terminated: ArrayLike,
    *,
    exponent: float = 1.5,
    discount: float = 0.99,
) -> Array:
    """Nachum et al. 2019 (1906.04733): f(nu - gamma nu') less (1 - gamma) nu of first states, f(x) = |x|^p / p."""
    return _dice(
        -1.0,
        value,
        next_value,
        initial_value,
        np.zeros(np.shape(value)),
        terminated,
        discount,
        lambda e: float(abs(e) ** exponent / exponent),
    )


def algae_dice_loss(
    value: ArrayLike,
    next_value: ArrayLike,
    initial_value: ArrayLike,
    reward: ArrayLike,
    terminated: ArrayLike,
    *,
    exponent: float = 2.0,
    temperature: float = 1.0,
    discount: float = 0.99,
) -> Array:
    """Nachum et al. 2019 (1912.02074): (1 - gamma) nu of first states, plus alpha f*((r + gamma nu' - nu) / alpha)."""
    return _dice(
        1.0,
        value,
        next_value,
        initial_value,
        reward,
        terminated,
        discount,
        lambda e: float(temperature * abs(e / temperature) ** exponent / exponent),
    )


def opti_dice_loss(
    value: ArrayLike,
    next_value: ArrayLike,
    initial_value: ArrayLike,
    reward: ArrayLike,
    terminated: ArrayLike,
    *,
    divergence: str = "soft_chi_square",
    temperature: float = 1.0,
    discount: float = 0.99,
    max_exponent: float = 20.0,
) -> Array:
    """Lee et al. 2021 (2106.10783): (1 - gamma) nu of first states plus w e - alpha f(w) at the best w >= 0."""
    return _dice(
        1.0,
        value,
        next_value,
        initial_value,
        reward,
        terminated,
        discount,
        lambda e: temperature * _conjugate(e / temperature, divergence, max_exponent),
    )


def smodice_loss(
    value: ArrayLike,
    next_value: ArrayLike,
    initial_value: ArrayLike,
    reward: ArrayLike,
    terminated: ArrayLike,
    *,
    temperature: float = 1.0,
    discount: float = 0.99,
    mask: ArrayLike | None = None,
) -> Array:
    """Ma et al. 2022 (2202.02433), their KL form: (1 - gamma) V of first states plus log E exp(e)."""
    exists = np.broadcast_to(True if mask is None else _flag(mask), np.shape(value))
    error = _dice(0.0, value, next_value, initial_value, reward, terminated, discount, lambda e: e)
    seen = [float(error[i]) / temperature for i in np.ndindex(error.shape) if exists[i]]
    price = temperature * (float(logsumexp(seen)) - math.log(len(seen))) if seen else 0.0
    return (1 - discount) * _real(initial_value) + price


# What to look at when training goes wrong.


def _existing(x: ArrayLike, mask: ArrayLike | None) -> list[float]:
    x = _real(x)
    exists = np.broadcast_to(True if mask is None else _flag(mask), x.shape)
    return [float(x[i]) for i in np.ndindex(x.shape) if exists[i]]


def _mean_of(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / max(1, len(numbers))


def _gap(first: ArrayLike, second: ArrayLike, mask: ArrayLike | None) -> tuple[Array, Array]:
    gaps = _existing(_real(first) - _real(second), mask)
    mean = _mean_of(gaps)
    return _real(mean), _real(math.sqrt(_mean_of([(x - mean) ** 2 for x in gaps])))


def overestimation_gap(
    q: ArrayLike, observed_return: ArrayLike, *, mask: ArrayLike | None = None
) -> tuple[Array, Array]:
    """Chen et al. 2021 (2101.05982): mean and deviation of Q less the observed return."""
    return _gap(q, observed_return, mask)


def q_gap(q_policy: ArrayLike, q_data: ArrayLike, *, mask: ArrayLike | None = None) -> tuple[Array, Array]:
    """Kumar et al. 2020 (2006.04779), their gap: Q of the policy's actions less that of the data's."""
    return _gap(q_policy, q_data, mask)


def clip_fraction(
    x: ArrayLike, *, low: float = -math.inf, high: float = math.inf, mask: ArrayLike | None = None
) -> Array:
    """Schulman et al. 2017 (1707.06347): how many of the numbers a bound holds back."""
    return _real(_mean_of([float(each <= low or each >= high) for each in _existing(x, mask)]))


def td_error_scale(prediction: ArrayLike, target: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
    """Kvalseth 1985: the root of one minus his first R^2."""
    q, y = _existing(prediction, mask), _existing(target, mask)
    error = _mean_of([(a - b) ** 2 for a, b in zip(q, y, strict=True)])
    spread = _mean_of([(b - _mean_of(y)) ** 2 for b in y])
    if spread == 0:
        return _real(math.inf if error > 0 else 0.0)
    return _real(math.sqrt(error / spread))


def support_coverage(probability: ArrayLike, support: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
    """The mean over states of the probabilities of supported actions."""
    probability, support = _real(probability), _flag(support)
    rows = np.zeros(probability.shape[:-1])
    for i in np.ndindex(rows.shape):
        rows[i] = math.fsum(p for p, known in zip(probability[i], support[i], strict=True) if known)
    return _real(_mean_of(_existing(rows, mask)))


ORACLES: dict[str, Callable[..., Any]] = {
    oracle.__name__: oracle
    for oracle in (
        squared_loss,
        huber_loss,
        expectile_loss,
        quantile_loss,
        gumbel_loss,
        exponential_value_loss,
        sparse_value_loss,
        sparse_weights,
        binary_expectile_loss,
        two_hot,
        hl_gauss,
        categorical_projection,
        categorical_loss,
        categorical_value,
        quantile_huber_loss,
        soft_value,
        softmax_weights,
        softmax_entropy,
        linear_recurrence,
        discounted_return,
        n_step_return,
        lambda_return,
        generalized_advantage,
        trace_return,
        retrace_return,
        tree_backup_return,
        vtrace_return,
        vtrace_advantage,
        chunk_return,
        relabel_return,
        episode_return,
        return_filter,
        sampling_probabilities,
        reward_scale,
        observation_statistics,
        observation_moments,
        merged_moments,
        moment_statistics,
        return_threshold,
        normalize_observation,
        bellman_target,
        soft_bellman_target,
        expected_target,
        double_q_target,
        ensemble_min,
        ensemble_mean,
        ensemble_mix,
        ensemble_subset_min,
        candidate_max_value,
        ensemble_lower_bound,
        diversity_penalty,
        uncertainty_penalized_reward,
        combo_penalty,
        mcq_loss,
        importance_weights,
        importance_sampling_value,
        weighted_importance_sampling_value,
        per_decision_value,
        weighted_per_decision_value,
        doubly_robust_value,
        weighted_doubly_robust_value,
        normal_interval,
        empirical_bernstein_interval,
        normalized_score,
        interquartile_mean,
        probability_of_improvement,
        ips_value,
        self_normalized_ips_value,
        bandit_doubly_robust_value,
        uniform_log_density,
        hindsight_goals,
        goal_reward,
        hierarchical_advantages,
        contrastive_loss,
        quasimetric_losses,
        transitive_target,
        transitive_weights,
        sequence_log_prob,
        sequence_action_loss,
        preference_loss,
        reward_regression_loss,
        path_consistency_loss,
        polyak_update_,
        awr_weights,
        crr_weights,
        normalize_weights,
        effective_sample_size,
        cql_logsumexp_penalty,
        cql_max_penalty,
        cql_lagrange_losses,
        calibrated_value,
        nll_loss,
        linear_log_prob,
        linear_cql_penalty,
        linear_nll_loss,
        gaussian_log_prob,
        tanh_gaussian_log_prob,
        td3_bc_loss,
        sac_policy_loss,
        temperature_loss,
        flow_point,
        flow_matching_loss,
        distillation_loss,
        guided_field,
        value_flow_loss,
        floq_loss,
        diffusion_point,
        diffusion_prediction,
        diffusion_loss,
        q_score_penalty,
        path_kl_penalty,
        support_mask,
        evidence_lower_bound,
        elbo_loss,
        spot_penalty,
        mmd_penalty,
        nearest_distance_penalty,
        mpo_weights,
        mpo_temperature_loss,
        top_fraction_weights,
        advantage_indicator,
        best_of_n,
        gaussian_kl_penalty,
        categorical_kl_penalty,
        sampled_kl_penalty,
        ddpg_bc_loss,
        rebrac_policy_loss,
        rebrac_target,
        discrete_sac_loss,
        discrete_soft_target,
        munchausen_reward,
        advantage_learning_reward,
        symlog,
        symexp,
        signed_hyperbolic,
        signed_parabolic,
        smoothed_action,
        normalize_advantage,
        overestimation_gap,
        q_gap,
        clip_fraction,
        td_error_scale,
        support_coverage,
        f_divergence_penalty,
        f_conjugate,
        dice_weights,
        dual_dice_loss,
        algae_dice_loss,
        opti_dice_loss,
        smodice_loss,
    )
}
