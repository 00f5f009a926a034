"""Every recipe of the lineage runs, and gives the number of what it stands for, at large advantages too."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from lineage import PAGES, RECIPES, STEPS, A, B, E, N, names, value
from torch import Tensor
from torch.distributions import Independent, Normal
from torch.nn import functional

import offline_losses


@pytest.mark.parametrize(("page", "section", "code"), RECIPES)
def test_every_recipe_runs(page: str, section: str, code: str) -> None:
    """An expression of the letters that the page explains, with finite numbers for a result."""
    result = value(code, names(page, section, code))
    for leaf in result if isinstance(result, tuple) else [result]:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            assert bool(leaf.isfinite().all())
        else:
            assert leaf is None or leaf.dtype in (torch.bool, torch.int64)


def discounted(x: SimpleNamespace, end: Tensor, discount: float = 0.9) -> Tensor:
    """Rewards to the end of an episode, by a loop."""
    total, out = torch.tensor(0.0), []
    for t in reversed(range(STEPS)):
        total = x.r[t] + (0.0 if end[t] else discount * total)
        out.append(total)
    return torch.stack(out[::-1])


def rescaled(z: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Divided by the largest exponential of the batch, as XQL's authors and others do."""
    return loss((-z.max().clamp(min=-1)).exp())


def summed_up(x: SimpleNamespace, v: Tensor, trace: Tensor, ratio: Tensor | None = None) -> Tensor:
    """Errors times their ratios, and the following ones by their traces, by a loop."""
    gamma, total, out = 0.9 * ~x.terminated, torch.tensor(0.0), []
    error = (1.0 if ratio is None else ratio) * (x.r + gamma * x.next_v - v)
    for t in reversed(range(STEPS)):
        total = error[t] + gamma[t] * trace[t] * total
        out.append(total)
    return torch.stack(out[::-1])


def quantile_huber(x: SimpleNamespace, tau: Tensor) -> Tensor:
    """Of all pairs of a quantile and a sample."""
    u = x.y.unsqueeze(1) - x.theta.unsqueeze(2)
    huber = functional.smooth_l1_loss(
        *torch.broadcast_tensors(x.y.unsqueeze(1), x.theta.unsqueeze(2)), reduction="none"
    )
    return (tau.unsqueeze(-1) - (u < 0).float()).abs() * huber


def optidice(x: SimpleNamespace, lam: float) -> Tensor:
    """The lines of OptiDICE for `elu`, with a multiplier."""
    e = x.r + x.gamma * x.next_v * ~x.terminated - x.v
    y = (e - lam) / x.alpha
    w = torch.where(y < 0, y.clamp(max=0).exp(), y + 1)
    f = torch.where(y < 0, y.clamp(max=0).exp() * (y.clamp(max=0) - 1) + 1, 0.5 * y**2)
    return ((1 - x.gamma) * x.v_0 - x.alpha * f + w * (e - lam) + lam).mean()


def distilled(x: SimpleNamespace, policy_action: Tensor, scale: Tensor | float) -> Tensor:
    """The lines of FQL's authors, without the loss of the flow."""
    return x.alpha * (policy_action - x.end.clamp(-1, 1)).square().mean() - scale * x.q.mean()


def rebrac(x: SimpleNamespace, epsilon: float) -> Tensor:
    """The policy's loss of ReBRAC's authors and others, of the smaller critic."""
    distance = (x.policy_action - x.action).square().sum(-1)
    return (x.beta1 * distance - x.q / (x.q.abs().mean() + epsilon)).mean()


def rebrac_bootstrap(x: SimpleNamespace) -> Tensor:
    """The target of CORL's ReBRAC."""
    penalty = x.beta2 * (x.next_policy_action - x.next_action).square().sum(-1)
    return x.r + (1 - x.terminated.float()) * x.gamma * (x.next_v - penalty)


def soft_bootstrap(x: SimpleNamespace, logits: Tensor) -> Tensor:
    """The target of CleanRL's discrete SAC."""
    value = (logits.softmax(-1) * (x.next_q - x.T * logits.log_softmax(-1))).sum(-1)
    return x.r + (1 - x.terminated.float()) * x.gamma * value


def vae_divergence(x: SimpleNamespace) -> Tensor:
    """Of each latent dimension, as BCQ and SPOT write it."""
    std = x.log_sigma.exp()
    return -0.5 * (1 + torch.log(std.pow(2)) - x.mu.pow(2) - std.pow(2))


def bear(x: SimpleNamespace, size: Callable[[Tensor], Tensor]) -> Tensor:
    """BEAR's root of a discrepancy, whose kernels divide by twice sigma."""

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return (-size(a.unsqueeze(2) - b.unsqueeze(1)).sum(-1) / (2.0 * x.s)).exp().mean((1, 2))

    return (mean(x.x, x.x) + mean(x.y, x.y) - 2.0 * mean(x.x, x.y) + 1e-6).sqrt()


def by_steps(x: SimpleNamespace, weight: Tensor, each: Tensor, before: Tensor | None = None) -> Tensor:
    """Sum over steps of weight times number, plus the step before's weight times another, mean over episodes."""
    terms = weight * each
    if before is not None:
        terms = terms + torch.cat([torch.ones(3, 1), weight[:, :-1]], 1) * before
    return (x.gamma ** torch.arange(4) * terms).sum(1).mean()


def normalized(weight: Tensor) -> Tensor:
    """Over the mean, of each step."""
    return weight / (weight.mean(0) + 1e-10)


THEIRS: dict[str, Callable[[SimpleNamespace], Tensor]] = {
    # regression
    'squared_loss: 0.5 * squared_loss(q, y, reduction="none")': lambda x: 0.5 * (x.q - x.y) ** 2,
    "squared_loss: E * squared_loss(q, y)": lambda x: sum(functional.mse_loss(q, x.y) for q in x.q),
    "huber_loss: E * huber_loss(q, y)": lambda x: sum(functional.smooth_l1_loss(q, x.y) for q in x.q),
    "huber_loss: huber_loss(q, y, delta=delta)": lambda x: functional.huber_loss(x.q, x.y.expand(E, B), delta=x.delta),
    "huber_loss: huber_loss(q, y, delta=beta) / beta": lambda x: functional.smooth_l1_loss(
        x.q, x.y.expand(E, B), beta=x.beta
    ),
    "expectile_loss: expectile_loss(v, q, expectile=e)": lambda x: (
        torch.where(x.q > x.v, x.e, 1 - x.e) * (x.q - x.v) ** 2
    ).mean(),
    'quantile_loss: huber_loss(x, y, weight=(tau - (y < x).float()).abs(), reduction="none")': lambda x: (
        (x.tau - (x.y < x.x).float()).abs() * functional.huber_loss(x.x, x.y, reduction="none")
    ),
    # implicit
    "gumbel_loss: (-((q - v) / alpha).amax().clamp(min=-1)).exp() * gumbel_loss(v, q, temperature=alpha)": lambda x: (
        rescaled(z := ((x.q - x.v) / x.alpha), lambda scale: (scale * z.exp() - z * scale - scale).mean())
    ),
    "exponential_value_loss: (-((q - v) / alpha).amax().clamp(min=-1)).exp() * exponential_value_loss(v, q, "
    "temperature=alpha)": lambda x: rescaled(
        z := ((x.q - x.v) / x.alpha), lambda scale: (scale * z.exp() + scale * x.v / x.alpha).mean()
    ),
    "sparse_value_loss: sparse_value_loss(v, q, temperature=alpha)": lambda x: (
        torch.where((t := (x.q - x.v) / (2 * x.alpha) + 1) > 0, t**2, 0.0) + x.v / x.alpha
    ).mean(),
    "sparse_weights: (2 * alpha * (sparse_weights(a, temperature=alpha) - 1)).clamp(0, 100)": lambda x: x.a.clamp(
        0, 100
    ),
    "exponential_value_loss: awr_weights(a, temperature=alpha / 10)": lambda x: (
        (10 * x.a / x.alpha).exp().clamp(0, 100)
    ),
    "binary_expectile_loss: binary_expectile_loss(x, y, expectile=e, weight=valid)": lambda x: (
        torch.where(x.y >= x.x.sigmoid(), x.e, 1 - x.e)
        * -(x.y * functional.logsigmoid(x.x) + (1 - x.y) * functional.logsigmoid(-x.x))
        * x.valid
    ).mean(),
    # distributional
    "two_hot: two_hot(x, z)": lambda x: (1 - (x.x.clamp(-2, 2).unsqueeze(-1) - x.z).abs()).clamp(min=0),
    "hl_gauss: hl_gauss(x, z, sigma_to_bin_ratio=2.0)": lambda x: (
        (cdf := torch.erf((torch.linspace(-2.5, 2.5, 6) - x.x.unsqueeze(-1)) / 8**0.5)).diff()
        / (cdf[:, -1:] - cdf[:, :1])
    ),
    "categorical_projection: categorical_projection(p, atoms, z)": lambda x: (
        (1 - (x.atoms.clamp(-2, 2).unsqueeze(1) - x.z.unsqueeze(-1)).abs()).clamp(min=0) * x.p.unsqueeze(1)
    ).sum(-1),
    "categorical_loss: categorical_loss(logits, target)": lambda x: functional.cross_entropy(x.logits, x.target),
    "categorical_value: categorical_value(p.log(), z)": lambda x: (x.p * x.z).sum(-1),
    "quantile_huber_loss: M / N * quantile_huber_loss(theta, y, quantile=tau)": lambda x: (
        quantile_huber(x, x.tau).sum(-1).mean(1).mean()
    ),
    "quantile_huber_loss: 1 / N * quantile_huber_loss(theta, y)": lambda x: quantile_huber(
        x, (torch.arange(N) + 0.5) / N
    ).mean(),
    # entropic
    "soft_value: eps * T + soft_value(q, log_density=torch.zeros_like(q), temperature=T)": lambda x: (
        x.eps * x.T + x.T * (x.q / x.T).exp().mean(-1).log()
    ),
    "soft_value: math.log(N) + soft_value(q, log_density=log_mu)": lambda x: (x.q - x.log_mu).logsumexp(-1),
    "soft_value: T * math.log(N) + soft_value(q, log_density=log_mu / T, temperature=T)": lambda x: (
        x.T * ((x.q - x.log_mu) / x.T).logsumexp(-1)
    ),
    "soft_value: soft_value(q, temperature=T)": lambda x: x.T * (x.q / x.T).logsumexp(-1),
    "softmax_weights: softmax_weights(q, temperature=T)": lambda x: (x.q / x.T).softmax(-1),
    "softmax_weights: B * softmax_weights(advantage, temperature=lam)": lambda x: B * (x.advantage / x.lam).softmax(-1),
    "softmax_entropy: softmax_entropy(logits)": lambda x: torch.distributions.Categorical(logits=x.logits).entropy(),
    # weights
    "awr_weights: awr_weights(a, temperature=1 / beta)": lambda x: (x.beta * x.a).exp().clamp(max=100),
    "awr_weights: awr_weights(a, temperature=lam)": lambda x: (x.a / x.lam).exp().clamp(max=100),
    "awr_weights: awr_weights(a, temperature=lam, max_weight=math.inf)": lambda x: (x.a / x.lam).exp(),
    "awr_weights: awr_weights((a - a.mean()) / (a.std(correction=0) + 1e-5), max_weight=20)": lambda x: (
        ((x.a - x.a.mean()) / (x.a.std(correction=0) + 1e-5)).exp().clamp(max=20)
    ),
    "crr_weights: crr_weights(a, temperature=beta)": lambda x: (x.a / x.beta).exp().clamp(max=20),
    "normalize_weights: B * softmax_weights(a, temperature=lam)": lambda x: B * (x.a / x.lam).softmax(0),
    "normalize_weights: softmax_weights(a, temperature=T, mask=chosen)": lambda x: torch.where(
        x.chosen, torch.where(x.chosen, x.a / x.T, -math.inf).softmax(0), 0.0
    ),
    "effective_sample_size: effective_sample_size(log_weight.exp()) / B": lambda x: (
        (2 * x.log_weight.logsumexp(0) - (2 * x.log_weight).logsumexp(0)).exp() / B
    ),
    # support
    "support_mask: support_mask(logits)": lambda x: (
        (p := x.logits.log_softmax(-1).exp()) / p.max(-1, keepdim=True)[0] > 0.3
    ),
    "evidence_lower_bound: evidence_lower_bound(gaussian_log_prob(u, torch.full((A,), math.log(beta / 4) / 2), a), mu, "
    "log_sigma)": lambda x: Normal(x.u, math.sqrt(x.beta / 4)).log_prob(x.a).sum(-1) - vae_divergence(x).sum(-1),
    "elbo_loss: elbo_loss(-(u - a).square().mean(-1), mu, log_sigma, kl_weight=0.5 / D)": lambda x: (
        functional.mse_loss(x.u, x.a) + 0.5 * vae_divergence(x).mean()
    ),
    "elbo_loss: elbo_loss(-(u - a).square().mean(-1), mu, log_sigma, kl_weight=beta / D)": lambda x: (
        functional.mse_loss(x.u, x.a) + x.beta * vae_divergence(x).mean()
    ),
    "spot_penalty: spot_penalty(log_weight)": lambda x: -(x.log_weight.logsumexp(-1) - math.log(N)).mean(),
    # projection
    "linear_log_prob: -linear_log_prob(h, W, a).log_prob": lambda x: functional.cross_entropy(
        x.h @ x.W.T, x.a, reduction="none"
    ),
    "linear_cql_penalty: linear_cql_penalty(h, W, a, temperature=T) / T": lambda x: functional.cross_entropy(
        x.h @ x.W.T / x.T, x.a
    ),
    "linear_nll_loss: linear_nll_loss(h, W, a, mask=a != -100)": lambda x: functional.cross_entropy(x.h @ x.W.T, x.a),
    # distance
    'mmd_penalty: (mmd_penalty(x, y, bandwidth=s ** 0.5, reduction="none") + 1e-6).sqrt()': lambda x: bear(
        x, lambda d: d.pow(2)
    ),
    'mmd_penalty: (mmd_penalty(x, y, kernel="laplacian", bandwidth=2 * s, reduction="none") + 1e-6).sqrt()': lambda x: (
        bear(x, lambda d: d.abs())
    ),
    "nearest_distance_penalty: nearest_distance_penalty(policy_action, o, data_a, data_o)": lambda x: (
        functional.mse_loss(
            x.policy_action,
            x.data_a[
                torch.cdist(torch.cat([2 * x.o, x.policy_action], -1), torch.cat([2 * x.data_o, x.data_a], -1)).argmin(
                    -1
                )
            ],
        )
    ),
    # off-policy evaluation
    "importance_weights: importance_weights(log_rho, done)": lambda x: x.log_rho.exp().cumprod(1),
    "importance_sampling_value: importance_sampling_value(r, log_rho, done, discount=gamma).value": lambda x: by_steps(
        x, x.log_rho.sum(1, keepdim=True).exp(), x.r
    ),
    "weighted_importance_sampling_value: "
    "weighted_importance_sampling_value(r, log_rho, done, discount=gamma).value": lambda x: by_steps(
        x, normalized(x.log_rho.sum(1, keepdim=True).exp()), x.r
    ),
    "per_decision_value: per_decision_value(r, log_rho, done, discount=gamma).value": lambda x: by_steps(
        x, x.log_rho.exp().cumprod(1), x.r
    ),
    "weighted_per_decision_value: weighted_per_decision_value(r, log_rho, done, discount=gamma).value": lambda x: (
        by_steps(x, normalized(x.log_rho.exp().cumprod(1)), x.r)
    ),
    "doubly_robust_value: doubly_robust_value(r, q, v, next_v, log_rho, last, done, discount=gamma).value": lambda x: (
        by_steps(x, x.log_rho.exp().cumprod(1), x.r - x.q, x.v)
    ),
    "weighted_doubly_robust_value: "
    "weighted_doubly_robust_value(r, q, v, next_v, log_rho, last, done, discount=gamma).value": lambda x: by_steps(
        x, normalized(x.log_rho.exp().cumprod(1)), x.r - x.q, x.v
    ),
    "magic_value: "
    "magic_value(r, q, v, next_v, log_rho, last, done, generator=generator, steps=[], "
    "discount=gamma).value": lambda x: by_steps(x, normalized(x.log_rho.exp().cumprod(1)), x.r - x.q, x.v),
    "ips_value: ips_value(r, p_e, p_b, max_weight=lam).value": lambda x: (
        (x.p_e / x.p_b).clamp(max=x.lam) * x.r
    ).mean(),
    "self_normalized_ips_value: self_normalized_ips_value(r, p_e, p_b).value": lambda x: (
        x.r * x.p_e / x.p_b / (x.p_e / x.p_b).mean()
    ).mean(),
    "bandit_doubly_robust_value: bandit_doubly_robust_value(r, q, v, p_e, p_b, max_weight=lam).value": lambda x: (
        x.v + (x.p_e / x.p_b).clamp(max=x.lam) * (x.r - x.q)
    ).mean(),
    "bandit_doubly_robust_value: "
    "bandit_doubly_robust_value(r, q, v, torch.where(p_e > lam * p_b, 0.0, p_e), p_b).value": lambda x: (
        x.v + x.p_e / x.p_b * (x.p_e / x.p_b <= x.lam) * (x.r - x.q)
    ).mean(),
    "empirical_bernstein_interval: "
    "empirical_bernstein_interval(v, se, count=n, spread=largest, level=1 - 2 * alpha)": lambda x: tuple(
        x.v
        + sign * (7 * x.largest * math.log(2 / x.alpha) / (3 * (x.n - 1)) + x.se * (2 * math.log(2 / x.alpha)) ** 0.5)
        for sign in (-1, 1)
    ),
    # ratios of visits
    'f_divergence_penalty: f_divergence_penalty(w, divergence="soft_chi_square", reduction="none")': lambda x: (
        torch.where(x.w < 1, x.w * ((x.w + 1e-10).log() - 1) + 1, 0.5 * (x.w - 1) ** 2)
    ),
    'f_divergence_penalty: f_divergence_penalty(w, divergence="chi_square", reduction="none")': lambda x: (
        0.5 * (x.w - 1) ** 2
    ),
    'f_conjugate: f_conjugate(y, divergence="chi_square")': lambda x: (
        (x.y + 1).relu() * x.y - 0.5 * ((x.y + 1).relu() - 1) ** 2
    ),
    'f_conjugate: f_conjugate(y.clamp(min=-1), divergence="chi_square")': lambda x: (
        0.5 * x.y.clamp(min=-1) ** 2 + x.y.clamp(min=-1)
    ),
    'dice_weights: dice_weights(e, divergence="soft_chi_square", temperature=alpha)': lambda x: torch.where(
        x.e < 0, (x.e / x.alpha).clamp(max=0).exp(), x.e / x.alpha + 1
    ),
    'dice_weights: dice_weights(e, divergence="soft_chi_square", temperature=alpha).log()': lambda x: torch.where(
        x.e < 0, x.e / x.alpha, (x.e / x.alpha).clamp(min=0).log1p()
    ),
    'dice_weights: dice_weights(e, divergence="chi_square")': lambda x: (x.e + 1).relu(),
    'dice_weights: dice_weights(e + 1, divergence="kl")': lambda x: x.e.exp(),
    "dual_dice_loss: dual_dice_loss(nu, next_nu, nu_0, terminated, discount=gamma)": lambda x: (
        (x.nu - x.gamma * x.next_nu * ~x.terminated).abs() ** 1.5 / 1.5 - (1 - x.gamma) * x.nu_0
    ).mean(),
    "dual_dice_loss: dual_dice_loss(nu, next_nu, nu_0, terminated, discount=gamma, "
    'weight=gamma**t, reduction="sum") / (gamma**t).sum()': lambda x: (
        (
            x.gamma**x.t * ((x.nu - x.gamma * x.next_nu * ~x.terminated).abs() ** 1.5 / 1.5 - (1 - x.gamma) * x.nu_0)
        ).sum()
        / (x.gamma**x.t).sum()
    ),
    "algae_dice_loss: alpha * algae_dice_loss(nu, next_nu, nu_0, r, terminated, temperature=alpha, "
    "discount=gamma)": lambda x: (
        (x.r + x.gamma * x.next_nu * ~x.terminated - x.nu) ** 2 / 2 + (1 - x.gamma) * x.nu_0 * x.alpha
    ).mean(),
    "opti_dice_loss: opti_dice_loss(v, next_v, v_0, r, terminated, temperature=alpha, discount=gamma)": lambda x: (
        optidice(x, 0.0)
    ),
    "opti_dice_loss: opti_dice_loss(v, next_v, v_0, r - lam, terminated, temperature=alpha, "
    "discount=gamma) + lam": lambda x: optidice(x, x.lam),
    "smodice_loss: smodice_loss(v, next_v, v_0, r, terminated, discount=gamma)": lambda x: (
        (1 - x.gamma) * x.v_0 + (x.r + x.gamma * x.next_v * ~x.terminated - x.v).exp().mean().log()
    ).mean(),
    'smodice_loss: opti_dice_loss(v, next_v, v_0, r, terminated, divergence="chi_square", discount=gamma)': lambda x: (
        (1 - x.gamma) * x.v_0 + (x.r + x.gamma * x.next_v * ~x.terminated - x.v).clamp(min=-1).add(1).square() / 2 - 0.5
    ).mean(),
    # flow
    "flow_point: flow_point(z, a, t)": lambda x: (1 - x.t[:, None]) * x.z + x.t[:, None] * x.a,
    "flow_point: flow_point(z, a, 1 - t)": lambda x: x.t[:, None] * x.z + (1 - x.t[:, None]) * x.a,
    "flow_matching_loss: flow_matching_loss(v, z, a)": lambda x: ((x.v - (x.a - x.z)) ** 2).mean(),
    "flow_matching_loss: flow_matching_loss(-u, z, a)": lambda x: functional.mse_loss(x.z - x.a, x.u),
    'flow_matching_loss: flow_matching_loss(-u, z, a, reduction="none")': lambda x: (
        (x.u - (x.z - x.a)).square().mean(-1)
    ),
    "distillation_loss: distillation_loss(mu, end.clamp(-1, 1), ensemble_mean(q), "
    "distillation_weight=alpha)": lambda x: x.alpha * ((x.mu - x.end.clamp(-1, 1)) ** 2).mean() - x.q.mean(0).mean(),
    "value_flow_loss: E * value_flow_loss(v, z, R, weight=w)": lambda x: (
        x.w * ((x.v[0] - (x.R - x.z)) ** 2 + (x.v[1] - (x.R - x.z)) ** 2)
    ).mean(),
    "value_flow_loss: E * squared_loss(v, next_v, weight=w.expand(E, B))": lambda x: (
        x.w * ((x.v[0] - x.next_v[0]) ** 2 + (x.v[1] - x.next_v[1]) ** 2)
    ).mean(),
    "floq_loss: N * floq_loss(v_n, z_n, y)": lambda x: ((x.v_n - (x.y[:, None] - x.z_n)) ** 2).sum(-1).mean(),
    "distillation_loss: distillation_loss(mu, end.clamp(-1, 1), "
    "ensemble_mean(q) / ensemble_mean(q).abs().mean().detach(), distillation_weight=alpha)": lambda x: distilled(
        x, x.mu, 1 / x.q.mean(0).abs().mean()
    ),
    "distillation_loss: distillation_loss(mu.clamp(-1, 1), end.clamp(-1, 1), ensemble_mean(q), "
    "distillation_weight=alpha)": lambda x: distilled(x, x.mu.clamp(-1, 1), 1.0),
    # behavior
    "ddpg_bc_loss: ddpg_bc_loss(q, log_prob, bc_weight=alpha)": lambda x: (
        -x.q.mean() / x.q.abs().mean() - (x.alpha * x.log_prob).mean()
    ),
    "ddpg_bc_loss: ddpg_bc_loss(q, log_prob, bc_weight=alpha, normalizer=q.abs().mean() + 1e-6)": lambda x: (
        -x.q.mean() / (x.q.abs().mean() + 1e-6) - (x.alpha * x.log_prob).mean()
    ),
    "rebrac_policy_loss: rebrac_policy_loss(q, policy_action, action, bc_weight=beta1)": lambda x: rebrac(x, 0.0),
    "rebrac_policy_loss: rebrac_policy_loss(q, policy_action, action, bc_weight=beta1, "
    "normalizer=q.abs().mean() + 1e-7)": lambda x: rebrac(x, 1e-7),
    "rebrac_target: rebrac_target(r, next_v, next_policy_action, next_action, terminated, terminated, bc_weight=beta2, "
    "discount=gamma)": lambda x: rebrac_bootstrap(x),
    "rebrac_target: torch.maximum(rebrac_target(r, next_v, next_policy_action, next_action, terminated, terminated, "
    "bc_weight=beta2, discount=gamma), observed_return)": lambda x: rebrac_bootstrap(x).maximum(x.observed_return),
    # goals
    "hierarchical_advantages: awr_weights(hierarchical_advantages(v, w, s, n).high, temperature=1 / 3)": lambda x: (
        (3 * (x.w - x.v)).exp().clamp(max=100)
    ),
    "hierarchical_advantages: awr_weights(hierarchical_advantages(v, w, s, n).low, temperature=1 / beta)": lambda x: (
        (x.beta * (x.n - x.s)).exp().clamp(max=100)
    ),
    "contrastive_loss: contrastive_loss(f, own)": lambda x: functional.binary_cross_entropy_with_logits(
        x.f, torch.eye(B).expand(E, B, B)
    ),
    'contrastive_loss: contrastive_loss(f, own, form="balanced_binary") / B': lambda x: (
        functional.binary_cross_entropy_with_logits(
            x.f, torch.eye(B).expand(E, B, B), torch.eye(B) + (1 - torch.eye(B)) / (B - 1)
        )
    ),
    "quasimetric_losses: quasimetric_losses(far, near, m.log()).push": lambda x: functional.softplus(
        15 - x.far, beta=0.1
    ).mean(),
    "quasimetric_losses: quasimetric_losses(far, near, m.log()).penalty": lambda x: (
        ((x.near - 1).relu().square().mean() - 0.25**2) * x.m
    ),
    "quasimetric_losses: quasimetric_losses(far, near, log_m, offset=500.0, temperature=100.0, "
    "tolerance=0.05**0.5).push": lambda x: (100 * functional.softplus(5 - x.far / 100)).mean(),
    "transitive_target: transitive_target(first, second, n, k)": lambda x: (
        torch.where(x.n <= 1, 0.99**x.n, x.first) * torch.where(x.k <= 1, 0.99**x.k, x.second)
    ),
    "transitive_weights: transitive_weights(y, exponent=lam)": lambda x: (
        (1 / (1 + x.y.log() / math.log(0.99))) ** x.lam
    ),
    "binary_expectile_loss: binary_expectile_loss(x, y, weight=w)": lambda x: (
        (torch.where(x.y >= x.x.sigmoid(), 0.7, 0.3) * x.w)
        * functional.binary_cross_entropy_with_logits(x.x, x.y, reduction="none")
    ).mean(),
    # finitely many actions
    "discrete_sac_loss: discrete_sac_loss(logits, q, temperature=T) / N": lambda x: (
        x.logits.softmax(-1) * (x.T * x.logits.log_softmax(-1) - x.q)
    ).mean(),
    "discrete_soft_target: discrete_soft_target(r, next_q, next_logits, terminated, temperature=T, discount=gamma)": (
        lambda x: soft_bootstrap(x, x.next_logits)
    ),
    "discrete_soft_target: discrete_soft_target(r, next_q, next_q / T, terminated, temperature=T, discount=gamma)": (
        lambda x: soft_bootstrap(x, x.next_q / x.T)
    ),
    "discrete_soft_target: bellman_target(r, soft_value(next_q, temperature=T), terminated, discount=gamma)": (
        lambda x: x.r + x.gamma * ~x.terminated * x.T * (x.next_q / x.T).logsumexp(-1)
    ),
    "munchausen_reward: munchausen_reward(r, log_prob, temperature=T, bonus_weight=alpha, min_bonus=-1.0)": lambda x: (
        x.r + x.alpha * (x.T * x.log_prob).clamp(-1, 0)
    ),
    "munchausen_reward: munchausen_reward(r, log_prob, temperature=T, bonus_weight=alpha, min_bonus=-10.0)": (
        lambda x: x.r + x.alpha * (x.T * x.log_prob).clamp(-10, 1)
    ),
    "advantage_learning_reward: advantage_learning_reward(r, q_data, v, bonus_weight=0.9)": lambda x: (
        x.r - 0.9 * (x.v - x.q_data)
    ),
    # sequences and language
    "sequence_action_loss: sequence_action_loss(a, y, mask=mask)": lambda x: (
        (x.a[x.mask] - x.y[x.mask]).square().mean()
    ),
    "sequence_action_loss: sequence_action_loss(a, y, mask=mask, denominator=mask.numel())": lambda x: (
        (x.a - x.y).square() * x.mask.unsqueeze(-1)
    ).mean(),
    'preference_loss: preference_loss(c, r, kind="ipo", kl_weight=beta)': lambda x: (
        (x.c - x.r - 1 / (2 * x.beta)).square().mean()
    ),
    'reward_regression_loss: reward_regression_loss(c - r, R_c - R_r, kind="rebel", '
    "kl_weight=1 / eta) * eta**2": lambda x: (x.c - x.r - x.eta * (x.R_c - x.R_r)).square().mean(),
    "chunk_return: chunk_return(rows_r, chunk_v, rows_terminated, rows_done, discount=gamma)": lambda x: (
        (x.rows_r * x.gamma ** torch.arange(STEPS)).sum(-1) + x.gamma**STEPS * x.chunk_v
    ),
    # diffusion
    "diffusion_point: diffusion_point(z, a, share)": lambda x: (
        x.share[:, None].sqrt() * x.a + (1 - x.share[:, None]).sqrt() * x.z
    ),
    "diffusion_prediction: diffusion_prediction(out, x, share)": lambda x: (
        (1 / x.share[:, None]).sqrt() * x.x - (1 / x.share[:, None] - 1).sqrt() * x.out
    ),
    "diffusion_loss: diffusion_loss(out, z, a, share)": lambda x: functional.mse_loss(x.out, x.z),
    'diffusion_loss: diffusion_loss(out, z, a, share, prediction_type="x0")': lambda x: functional.mse_loss(x.out, x.a),
    "diffusion_loss: diffusion_loss(out, z, a, share, mask=valid)": lambda x: (
        (functional.mse_loss(x.out, x.z, reduction="none") * x.valid[:, None]).sum() / (x.valid.sum() * A).clamp_min(1)
    ),
    "diffusion_loss: diffusion_loss(out, z, a, share, weight=w)": lambda x: (
        functional.mse_loss(x.out, x.z, reduction="none") * x.w[:, None]
    ).mean(),
    "diffusion_loss: A * diffusion_loss(out, z, a, share, weight=w)": lambda x: (
        ((x.out - x.z) ** 2).sum(-1) * x.w
    ).mean(),
    # guidance
    "guided_field: guided_field(v_u, v_c, guidance_scale=w)": lambda x: x.v_u + x.w * (x.v_c - x.v_u),
    "guided_field: guided_field(v_u, v_c, guidance_scale=1 + w)": lambda x: (1 + x.w) * x.v_c - x.w * x.v_u,
    "q_score_penalty: q_score_penalty(out, g / (q.abs().mean() + 1e-6), share)": lambda x: (
        (1 - x.share[:, None]).sqrt() * x.g / (x.q.abs().mean() + 1e-6) * x.out
    ).mean(),
    "q_score_penalty: q_score_penalty(out, g / (q.abs().mean() + 1e-6), torch.zeros_like(share))": lambda x: (
        x.g / (x.q.abs().mean() + 1e-6) * x.out
    ).mean(),
    'path_kl_penalty: path_kl_penalty(out, out_behavior, share, variance, reduction="none")': lambda x: (
        0.5 * x.variance * ((x.out - x.out_behavior) ** 2).sum(-1) / (1 - x.variance) / (1 - x.share)
    ),
    # density
    "gaussian_log_prob: gaussian_log_prob(mu, std.log(), a)": lambda x: Independent(Normal(x.mu, x.std), 1).log_prob(
        x.a
    ),
    "gaussian_log_prob: gaussian_log_prob(mu.tanh(), log_std.clamp(-20, 2), a)": lambda x: Independent(
        Normal(x.mu.tanh(), x.log_std.clamp(-20, 2).exp()), 1
    ).log_prob(x.a),
    "tanh_gaussian_log_prob: tanh_gaussian_log_prob(mu, log_std, pre_tanh=x)": lambda x: (
        Normal(x.mu, x.log_std.exp()).log_prob(x.x) - (1 - x.x.tanh() ** 2).log()
    ).sum(-1),
    # conservative
    "cql_logsumexp_penalty: w * E * cql_logsumexp_penalty(q_with_data, q_data, temperature=T)": lambda x: (
        x.w * sum((x.T * (q / x.T).logsumexp(-1) - y).mean() for q, y in zip(x.q_with_data, x.q_data, strict=True))
    ),
    "cql_logsumexp_penalty: w * E * (T * math.log(N) + cql_logsumexp_penalty(q, q_data, log_density=log_mu / T, "
    "temperature=T))": lambda x: (
        x.w * sum((x.T * ((q - x.log_mu) / x.T).logsumexp(-1) - y).mean() for q, y in zip(x.q, x.q_data, strict=True))
    ),
    "cql_logsumexp_penalty: alpha * w * E * (math.log(N) + cql_logsumexp_penalty(q, q_data, log_density=log_mu) - "
    "tau)": lambda x: (
        x.alpha
        * sum(
            x.w * ((q - x.log_mu).logsumexp(-1).mean() - y.mean() - x.tau) for q, y in zip(x.q, x.q_data, strict=True)
        )
    ),
    "calibrated_value: calibrated_value(q, g)": lambda x: torch.maximum(x.q, x.g.view(1, B, 1)),
    # policy
    'nll_loss: nll_loss(log_prob, weight=w, reduction="sum")': lambda x: -(x.w * x.log_prob).sum(),
    "nll_loss: w.mean() * nll_loss(log_prob)": lambda x: -(x.log_prob * x.w.unsqueeze(-1)).mean(),
    "nll_loss: nll_loss(log_prob, weight=adv * w)": lambda x: -(x.w * x.adv * x.log_prob).mean(),
    "td3_bc_loss: td3_bc_loss(q, policy_action, action, q_weight=2.5 * m / (m + 1e-7))": lambda x: (
        -2.5 / (x.q.abs().mean() + 1e-7) * x.q.mean() + functional.mse_loss(x.policy_action, x.action)
    ),
    "td3_bc_loss: beta1 * A * td3_bc_loss(q_min, policy_action, action, q_weight=1 / (beta1 * A))": lambda x: (
        x.beta1 * (x.policy_action - x.action).square().sum(-1) - x.q_min / x.q_min.abs().mean()
    ).mean(),
    "sac_policy_loss: sac_policy_loss(log_prob, ensemble_min(q), temperature=T)": lambda x: (
        x.T * x.log_prob - torch.minimum(*x.q)
    ).mean(),
    "temperature_loss: log_T / log_T.exp() * temperature_loss(log_T, log_prob, target_entropy=-A)": lambda x: (
        -(x.log_T * (x.log_prob - A)).mean()
    ),
    # time
    "discounted_return: discounted_return(r, done, discount=gamma)": lambda x: discounted(x, x.done),
    "discounted_return: torch.where(failed, r / (1 - gamma), discounted_return(r, done, discount=gamma))": lambda x: (
        torch.where(x.failed, x.r / 0.1, discounted(x, x.done))
    ),
    "episode_return: episode_return(r, done)[done]": lambda x: torch.stack(
        [part.sum() for part in torch.tensor_split(x.r, (x.done.nonzero().squeeze(-1) + 1).tolist())[:-1]]
    ),
    # corrections: rlax's loops, in which a discount of zero ends the bootstrap and the sum
    "trace_return: trace_return(r, v, next_v, terminated, terminated, trace=lam * log_rho.exp(), "
    "ratio=log_rho.exp(), discount=gamma) - v": lambda x: (
        x.log_rho.exp() * summed_up(x, x.v, 0.8 * x.log_rho.exp().roll(-1))
    ),
    "trace_return: trace_return(r, q_tm1, next_v, terminated, terminated, trace=c.roll(-1), discount=gamma)": (
        lambda x: x.q_tm1 + summed_up(x, x.q_tm1, x.c.roll(-1))
    ),
    "retrace_return: retrace_return(r, q_tm1, next_v, log_rho, terminated, terminated, discount=gamma, lambda_=lam) - "
    "q_tm1": lambda x: summed_up(x, x.q_tm1, 0.8 * x.log_rho.exp().clamp(max=1).roll(-1)),
    "tree_backup_return: tree_backup_return(r, q_tm1, next_v, log_pi, terminated, terminated, discount=gamma)": (
        lambda x: x.q_tm1 + summed_up(x, x.q_tm1, x.log_pi.exp().roll(-1))
    ),
    "vtrace_return: vtrace_return(r, v, next_v, log_rho, terminated, terminated, discount=gamma, lambda_=lam, "
    "max_ratio=rho_bar) - v": lambda x: summed_up(
        x, x.v, 0.8 * x.log_rho.exp().clamp(max=1), x.log_rho.exp().clamp(max=1.5)
    ),
    # targets
    "bellman_target: bellman_target(r, next_v, terminated, discount=gamma**interval)": lambda x: (
        x.r + 0.9**x.interval * ~x.terminated * x.next_v
    ),
    "expected_target: expected_target(r, next_q - T * p.log(), p, terminated, discount=gamma)": lambda x: (
        x.r + 0.9 * ~x.terminated * (x.p * (x.next_q - x.T * x.p.log())).sum(-1)
    ),
    "soft_bellman_target: soft_bellman_target(r, next_q, -log_prob, terminated, temperature=T, discount=gamma)": (
        lambda x: x.r + 0.9 * ~x.terminated * (x.next_q + x.T * x.log_prob)
    ),
    "double_q_target: double_q_target(r, next_q, next_q_target, terminated, discount=gamma)": lambda x: (
        x.r + 0.9 * ~x.terminated * x.next_q_target[range(STEPS), x.next_q.argmax(-1)]
    ),
    # ensemble
    "ensemble_min: ensemble_mix(q, lambda_=0.75)": lambda x: 0.75 * x.q.min(0).values + 0.25 * x.q.max(0).values,
    "ensemble_min: ensemble_mix(q).amax(-1)": lambda x: (
        (0.75 * x.q.min(0).values + 0.25 * x.q.max(0).values).max(-1).values
    ),
    "candidate_max_value: candidate_max_value(q)": lambda x: torch.minimum(*x.q.max(-1).values),
    'candidate_max_value: candidate_max_value(q, order="min_then_max")': lambda x: torch.minimum(*x.q).max(-1).values,
    # uncertainty
    "diversity_penalty: diversity_penalty(g)": lambda x: (
        torch.einsum("ebk,fbk,ef->b", *[x.g / (x.g.norm(dim=-1, keepdim=True) + 1e-10)] * 2, 1 - torch.eye(E)).mean()
        / (E - 1)
    ),
    "uncertainty_penalized_reward: uncertainty_penalized_reward(r, std)": lambda x: x.r - x.std.norm(dim=2).amax(0),
    'uncertainty_penalized_reward: uncertainty_penalized_reward(zeros, mean, uncertainty="max_pairwise_difference")': (
        lambda x: -torch.cdist(x.mean.movedim(0, 1), x.mean.movedim(0, 1)).amax((1, 2))
    ),
    'uncertainty_penalized_reward: uncertainty_penalized_reward(r, next_q[..., None], uncertainty="ensemble_std", '
    "penalty_weight=beta * (M / (M - 1)) ** 0.5)": lambda x: x.r - x.beta * x.next_q.std(0),
    # out of distribution
    "mcq_loss: 0.7 * squared_loss(q, y) + 0.3 * mcq_loss(q_policy, candidate_max_value(q_behavior)[..., None])": (
        lambda x: (
            0.7 * functional.mse_loss(x.q, x.y.expand(E, B))
            + 0.3 * (x.q_policy - torch.minimum(*x.q_behavior.max(-1).values)).square().mean()
        )
    ),
    # filters
    "reward_scale: reward_scale(r, done)": lambda x: (
        1000 / (offline_losses.episode_return(x.r, x.done).max() - offline_losses.episode_return(x.r, x.done).min())
    ),
}
"""The number that the recipe stands for, in plain PyTorch, as the implementation of the row computes it."""


@pytest.mark.parametrize("recipe", THEIRS)
def test_a_recipe_gives_their_number(recipe: str) -> None:
    """Ours, turned round as the page says, is theirs."""
    section, _, code = recipe.partition(": ")
    page = next(page for page, name, each in RECIPES if (name, each) == (section, code))
    letters = names(page, section, code)
    torch.testing.assert_close(value(code, letters), THEIRS[recipe](SimpleNamespace(**letters)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("advantage", [[100.0, 200.0], [-300.0, -200.0], [1000.0, 1000.0, 0.0]])
def test_recipes_hold_at_large_advantages(advantage: list[float]) -> None:
    """A softmax over the batch stays one, and a bound stays a bound."""
    a = torch.tensor(advantage)
    letters = {**names("weights", ""), "a": a, "B": len(a), "lam": 1.0, "T": 1.0, "chosen": torch.ones(len(a)).bool()}
    for page, section, code in RECIPES:
        if page == "weights" and re.search(r"\ba\b", code) and "inf" not in code:
            got = value(code, letters)
            assert bool(got.isfinite().all()), code
            if "softmax" in code:
                wanted = a.double().softmax(0).float() * (len(a) if code.startswith("B") else 1)
                torch.testing.assert_close(got, wanted, msg=f"{section}: {code}")


def test_every_function_with_a_table_has_a_recipe() -> None:
    """The pattern that finds recipes finds them on every page."""
    others = {"index", "defects", "checked", "shards", "diagnostics"}
    assert {page for page, _, _ in RECIPES} == {page.stem for page in PAGES.glob("*.md")} - others
    assert len(RECIPES) > 70
