"""The recipes of the lineage pages, "theirs from ours", and numbers for the letters in them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import offline_losses

PAGES = Path(__file__).parents[1] / "docs" / "lineage"
E, B, N, A, STEPS = 2, 12, 5, 3, 12
PACKAGES = ("rlax", "TorchRL", "d3rlpy", "tianshou", "TRL", "obp", "scope-rl")
CALL = re.compile(r"\b(" + "|".join(offline_losses.__all__) + r")\(")


class Row(NamedTuple):
    """A recipe, and what the page says of it."""

    page: str
    section: str
    implementation: str
    place: str
    code: str

    def named(self, package: str) -> bool:
        """Whether it is one of the implementations."""
        word = re.compile(rf"\b{package}\b(?!-)")
        whose = re.sub(r"all but \w+", "", self.implementation)
        return bool(word.search(whose)) or (not any(map(whose.count, PACKAGES)) and bool(word.search(self.place)))


def rows() -> Iterator[Row]:
    """Each recipe of each page."""
    for page in sorted(PAGES.glob("*.md")):
        section, last, owner = "", "", ""
        for line in page.read_text().splitlines():
            if line.startswith("#"):
                section = line.lstrip("#").split(",")[0].strip(" `")
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|")) if line.startswith("|") else []
            if cells and set(line) <= set("| -"):
                continue
            if cells and cells[-1].strip() == "theirs from ours":
                last, owner = section, "TRL: " if "TRL's" in cells[0] else ""
            elif cells and last == section:
                for code in re.findall(r"`([^`]+)`", cells[-1]):
                    if CALL.search(code) or code.startswith(("E * loss.", "loss.", "(o - mean)", "((o - mean)")):
                        yield Row(page.stem, section, owner + cells[0].strip(), cells[1].strip(), code)


ROWS = list(rows())
RECIPES = sorted({(row.page, row.section, row.code) for row in ROWS})


def names(page: str, section: str, code: str = "", *, seed: int = 0, scale: float = 1.0) -> dict[str, Any]:
    """What the letters of the tables stand for on this page, in this section and in this recipe."""
    torch.manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return scale * torch.randn(*shape)

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
        "sampling": {
            **{**time, "R": drawn(STEPS), "v0": drawn(STEPS), "temp": 0.5, "p": 0.5, "L": 4},
            **{"i": torch.tensor([3, 9]), "s": torch.tensor([0, 8]), "e": torch.tensor([6, 11])},
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
            # values beside which an epsilon shows
            **{"q": 5e-6 * drawn(B), "policy_action": drawn(B, A), "action": drawn(B, A)},
            **{"log_prob": drawn(B), "beta2": 0.02},
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
    if page == "policy":
        found["m"] = found["q"].abs().mean()
        found["w"] = found["w"] if section == "nll_loss" else 5.0
    if page == "regression":
        found["q"] = drawn(E, B) if section in ("squared_loss", "huber_loss") else found["q"]
    if page == "targets" and section == "soft_bellman_target":
        found["next_q"] = drawn(STEPS)
    if page == "targets" and section == "candidate_max_value":
        found["q"] = drawn(E, B, N)
    if "zip(theta, tau)" in code:
        found["tau"] = (torch.arange(N) + 0.5) / N
    if "v[:-1]" in code:
        found["v"] = drawn(STEPS + 1)
    if "ensemble_mean(next_q)" in code:
        found |= {"next_q": drawn(E, STEPS, N), "next_q_target": drawn(E, STEPS, N)}
    return found


def value(code: str, letters: dict[str, Any]) -> Any:
    """What a recipe gives."""
    return eval(code, letters)
