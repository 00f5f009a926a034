"""Every recipe of the lineage runs, and gives the number of what it stands for, at large advantages too."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal
from torch.nn import functional

import offline_losses

PAGES = Path(__file__).parents[1] / "docs" / "lineage"
E, B, N, A, STEPS = 2, 12, 5, 3, 12
CALL = re.compile(r"\b(" + "|".join(offline_losses.__all__) + r")\(")


def recipes() -> Iterator[tuple[str, str, str]]:
    """Page, function and expression of each recipe."""
    for page in sorted(PAGES.glob("*.md")):
        section, last = "", ""
        for line in page.read_text().splitlines():
            if line.startswith("#"):
                section = line.lstrip("#").split(",")[0].strip(" `")
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|")) if line.startswith("|") else []
            if cells and set(line) <= set("| -"):
                continue
            if cells and cells[-1].strip() == "theirs from ours":
                last = section
            elif cells and last == section:
                for code in re.findall(r"`([^`]+)`", cells[-1]):
                    if CALL.search(code) or code.startswith(("E * loss.", "loss.", "(o - mean)", "((o - mean)")):
                        yield page.stem, section, code


RECIPES = sorted(set(recipes()))


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape)


def names(page: str, section: str) -> dict[str, Any]:
    """What the letters of the tables stand for on this page."""
    torch.manual_seed(0)
    done, terminated = torch.rand(STEPS) < 0.3, torch.rand(STEPS) < 0.2
    done = done | terminated
    done[-1] = True
    numbers = {"E": E, "B": B, "N": N, "A": A, "T": 0.5, "beta": 3.0, "lam": 0.5, "gamma": 0.9, "eps": 0.1}
    numbers |= {"tau": 0.1, "delta": 0.7, "e": 0.7, "alpha": 0.3, "w": 5.0, "beta1": 0.01, "step_size": 0.1, "f": 0.3}
    time = {"r": drawn(STEPS), "v": drawn(STEPS), "next_v": drawn(STEPS), "done": done, "terminated": terminated}
    time |= {"truncated": done & ~terminated, "interval": torch.tensor([1.0, 3.0] * 6), "v_tm1": drawn(STEPS)}
    time |= {"n": 3, "steps": STEPS, "failed": torch.rand(STEPS) < 0.3, "q_tm1": drawn(STEPS), "lam": 0.8}
    ratios = {"log_rho": drawn(STEPS), "log_pi": -drawn(STEPS).abs(), "c": drawn(STEPS).abs()}
    rows = torch.zeros(3, 4, dtype=torch.bool)
    logged = {"r": drawn(3, 4), "log_rho": drawn(3, 4), "q": drawn(3, 4), "v": (v := drawn(3, 4)), "done": rows}
    logged |= {"next_v": v.roll(-1, 1), "last": torch.arange(4).expand(3, 4) == 3}
    pages: dict[str, dict[str, Any]] = {
        "regression": {"q": drawn(B), "y": drawn(B), "v": drawn(B), "x": drawn(B), "theta": drawn(N)},
        "implicit": {
            **{"v": drawn(B), "q": drawn(B), "a": drawn(B), "x": drawn(B), "y": torch.rand(B), "alpha": 0.8},
            **{"w": drawn(B).exp(), "valid": (torch.rand(B) < 0.7).float()},
        },
        "distributional": {
            **{"x": drawn(B), "z": torch.linspace(-2, 2, 5), "atoms": drawn(B, N), "p": drawn(B, N).softmax(-1)},
            **{"logits": drawn(B, N), "target": drawn(B, N).softmax(-1), "theta": drawn(B, N), "y": drawn(B, 3)},
            **{"tau": torch.rand(N), "M": 3},
        },
        "entropic": {"q": drawn(B, N), "log_mu": drawn(B, N), "logits": drawn(B, N), "advantage": drawn(B)},
        "recurrence": {**time, "delta": drawn(STEPS)},
        "returns": time,
        "corrections": {**time, **ratios},
        "vtrace": {**time, **ratios, "rho_bar": 1.5, "c_bar": 1.2},
        "chunks": {
            "rows_r": drawn(B, STEPS),
            "chunk_v": drawn(B),
            "rows_terminated": torch.zeros(B, STEPS, dtype=torch.bool),
            "rows_done": torch.zeros(B, STEPS, dtype=torch.bool),
        },
        "relabel": time,
        "filters": {**time, "n": int(done.sum()), "o": drawn(B, A), "mean": drawn(A), "std": drawn(A).exp(), "N": B},
        "targets": {
            **time,
            "next_q": drawn(STEPS, N),
            "next_q_target": drawn(STEPS, N),
            "p": drawn(STEPS, N).softmax(-1),
            "log_prob": drawn(STEPS),
            "q_t_selector": drawn(STEPS, N),
            "q_t_value": drawn(STEPS, N),
        },
        "ensemble": {"q": drawn(E, B, N), "subset": torch.tensor([1]), "slow": [drawn(3)], "fast": [drawn(3)]},
        "uncertainty": {
            "q": drawn(E, B),
            "g": drawn(E, B, A),
            "r": drawn(B),
            "zeros": torch.zeros(B),
            "std": drawn(E, B, A).exp(),
            "mean": drawn(E, B, A),
            "next_q": drawn(E, B),
            "M": E,
        },
        "out_of_distribution": {
            "q": drawn(E, B),
            "y": drawn(B),
            "q_policy": drawn(E, B),
            "q_behavior": drawn(E, B, N),
            "q_data": drawn(B),
        },
        "support": {
            **{"logits": drawn(B, N), "u": drawn(B, A), "a": drawn(B, A), "mu": drawn(B, 4), "D": 4},
            **{"log_sigma": 0.5 * drawn(B, 4), "log_weight": drawn(B, N)},
        },
        "distance": {
            **{"x": drawn(B, N, A), "y": drawn(B, 4, A), "s": 2.5, "policy_action": drawn(B, A), "o": drawn(B, 4)},
            **{"data_a": drawn(30, A), "data_o": drawn(30, 4)},
        },
        "flow": {
            **{"z": drawn(B, A), "a": drawn(B, A), "t": torch.rand(B), "v": drawn(B, A), "u": drawn(B, A)},
            **{"mu": drawn(B, A), "end": drawn(B, A), "q": drawn(E, B)},
        },
        "value_flow": {
            **{"z": drawn(B), "R": drawn(B), "v": drawn(E, B), "next_v": drawn(E, B), "w": torch.rand(B)},
            **{"z_n": drawn(B, N), "v_n": drawn(E, B, N), "y": drawn(B)},
        },
        "diffusion": {
            **{"z": drawn(B, A), "a": drawn(B, A), "out": drawn(B, A), "x": drawn(B, A), "share": torch.rand(B)},
            **{"w": torch.rand(B), "valid": torch.rand(B) < 0.7},
        },
        "guidance": {
            **{"v_u": drawn(B, A), "v_c": drawn(B, A), "out": drawn(B, A), "g": drawn(B, A), "w": 1.5},
            **{"share": torch.rand(B), "variance": torch.rand(B), "out_behavior": drawn(B, A), "q": drawn(E, B)},
        },
        "goal": {
            **{name: torch.arange(B) + ahead for name, ahead in (("index", 0), ("end", 9), ("j", 40), ("goal", 2))},
            **{"u": torch.rand(B, 2), "v": drawn(B), "w": drawn(B), "s": drawn(B), "n": drawn(B)},
        },
        "reachability": {
            **{"f": drawn(E, B, B), "own": torch.arange(B), "far": drawn(B).exp(), "near": drawn(B).exp()},
            **{"log_m": torch.tensor(0.3), "m": torch.tensor(1.3), "first": torch.rand(E, B), "y": torch.rand(B)},
            **{"second": torch.rand(E, B), "n": torch.arange(B), "k": torch.arange(B)},
        },
        "projection": {"h": drawn(B, 4), "W": drawn(N, 4), "a": torch.arange(B) % N, "w": torch.rand(B)},
        "sequence": {
            **{"lp": drawn(B, 4), "mask": torch.rand(B, 4) < 0.7},
            **{"a": drawn(B, 4, A), "y": drawn(B, 4, A)},
        },
        "language": {
            **{name: drawn(B) for name in ("c", "r", "c_mean", "r_mean", "lp_c", "lp_r", "R_c", "R_r")},
            **{"q": torch.rand(B), "eta": 2.0, "steps": 4, "beta": 0.3},
            **{name: drawn(B, 4) for name in ("v", "next_v", "rows_r", "lr")},
            **{name: torch.arange(4).expand(B, 4) == 3 for name in ("terminated", "done")},
        },
        "weights": {
            "c": torch.tensor(100.0),
            "a": 3 * drawn(B),
            "w": drawn(B).exp(),
            "log_weight": drawn(B),
            "chosen": drawn(B) > 0,
        },
        "importance": logged,
        "per_decision": logged,
        "doubly_robust": logged,
        "magic": {**logged, "generator": torch.Generator()},
        "intervals": {"v": drawn(B), "se": torch.rand(B), "alpha": 0.1, "n": 30, "largest": 3.0},
        "reporting": {"x": drawn(3, 5), "y": drawn(3, 4), "low": -1.0, "high": 2.0},
        "bandit": {"r": drawn(B), "q": drawn(B), "v": drawn(B), "p_e": torch.rand(B), "p_b": 0.1 + torch.rand(B)},
        "conservative": {
            "q": drawn(E, B, N),
            "q_data": drawn(E, B),
            "q_with_data": drawn(E, B, N + 1),
            "log_mu": drawn(B, N),
            "g": drawn(B),
            "tau": 10.0,
            "loss": offline_losses.cql_lagrange_losses(drawn(E, B), torch.tensor(0.3)),
        },
        "density": {
            "mu": drawn(B, A),
            "log_std": drawn(B, A),
            "sigma": drawn(B, A).exp(),
            "log_sigma": drawn(B, A),
            "std": drawn(B, A).exp(),
            "a": drawn(B, A).tanh(),
            "x": drawn(B, A),
            "low": torch.full((A,), -2.0),
            "high": torch.full((A,), 3.0),
        },
        "policy": {
            "log_prob": drawn(B),
            "data_log_prob": drawn(B),
            "w": drawn(B).exp(),
            "adv": drawn(B),
            "policy_action": drawn(B, A),
            "action": drawn(B, A),
            "q": drawn(B) if section == "td3_bc_loss" else drawn(E, B),
            "q_min": drawn(B),
            "log_T": torch.tensor(-0.7),
        },
        "squash": {"x": drawn(B), "eps": 0.01},
        "smoothing": {
            **{"action": drawn(B, A).tanh(), "noise": drawn(B, A), "ones": torch.ones(A)},
            **{"low": torch.full((A,), -1.0), "high": torch.full((A,), 1.0)},
        },
        "extraction": {
            **{"q": drawn(B, N), "a": drawn(B), "best": drawn(B) > 0, "log_T": torch.tensor(-0.7)},
            **{"candidates": drawn(B, N, A), "log_prob": drawn(B, N), "w": drawn(B, N).softmax(-1)},
        },
        "divergence": {
            **{"mu_0": drawn(B, A), "sigma_0": drawn(B, A).exp(), "mu_1": drawn(B, A), "sigma_1": drawn(B, A).exp()},
            **{"mu": drawn(B, A), "log_std": drawn(B, A), "mu_slow": drawn(B, A), "log_std_slow": drawn(B, A)},
            **{"logits": drawn(B, N), "reference_logits": drawn(B, N)},
            **{"log_prob": drawn(B, STEPS), "ref_log_prob": drawn(B, STEPS)},
        },
        "f_divergence": {"w": drawn(B).exp(), "e": drawn(B), "y": drawn(B)},
        "dice": {
            **{"v": drawn(B), "next_v": drawn(B), "v_0": drawn(B), "r": drawn(B), "terminated": torch.rand(B) < 0.3},
        },
        "visits": {
            **{"nu": drawn(B), "next_nu": drawn(B), "nu_0": drawn(B), "r": drawn(B)},
            **{"terminated": torch.rand(B) < 0.3, "t": torch.arange(B)},
        },
        "behavior": {
            **{"q": drawn(B), "policy_action": drawn(B, A), "action": drawn(B, A), "log_prob": drawn(B), "beta2": 0.02},
            **{"r": drawn(B), "next_v": drawn(B), "next_policy_action": drawn(B, A), "next_action": drawn(B, A)},
            **{"terminated": torch.rand(B) < 0.3, "observed_return": drawn(B)},
        },
        "discrete": {
            **{"logits": drawn(B, N), "q": drawn(B, N), "next_q": drawn(B, N), "next_logits": drawn(B, N)},
            **{
                "r": drawn(B),
                "terminated": torch.rand(B) < 0.3,
                "interval": torch.ones(B),
                "log_prob": -drawn(B).abs(),
            },
            **{"q_data": drawn(B), "v": drawn(B)},
        },
    }
    found = {**vars(offline_losses), "torch": torch, "math": math, **numbers, **pages[page]}
    if page == "behavior":
        found["m"] = found["q"].abs().mean()
    if page == "policy":
        found["m"] = found["q"].abs().mean()
        found["w"] = found["w"] if section == "nll_loss" else 5.0
    if page == "regression":
        found["q"] = drawn(E, B) if section in ("squared_loss", "huber_loss") else found["q"]
    if page == "targets" and section == "soft_bellman_target":
        found["next_q"] = drawn(STEPS)
    if page == "targets" and section == "candidate_max_value":
        found["q"] = drawn(E, B, N)
    return found


def value(code: str, letters: dict[str, Any]) -> Any:
    """What a recipe gives."""
    if "zip(theta, tau)" in code:
        letters = {**letters, "tau": (torch.arange(N) + 0.5) / N}
    if "v[:-1]" in code:
        letters = {**letters, "v": drawn(STEPS + 1)}
    if "ensemble_mean(next_q)" in code:
        letters = {**letters, "next_q": drawn(E, STEPS, N), "next_q_target": drawn(E, STEPS, N)}
    return eval(code, letters)


@pytest.mark.parametrize(("page", "section", "code"), RECIPES)
def test_every_recipe_runs(page: str, section: str, code: str) -> None:
    """An expression of the letters that the page explains, with finite numbers for a result."""
    result = value(code, names(page, section))
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
    letters = names(page, section)
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
    assert {page for page, _, _ in RECIPES} == {page.stem for page in PAGES.glob("*.md")} - {"index", "defects"}
    assert len(RECIPES) > 70
