"""A process small enough to enumerate: the mean of an estimate over all episodes, each with its probability, is exact.

The process is that of the tests: two states, three steps, 84 episodes or so, and a policy that never takes one of the
logged actions.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from evaluation import PROCESS, WEIGHTED, WITHOUT_BIAS


def right(steps: int) -> Tensor:
    """Q of the policy, exactly."""
    return PROCESS.q(steps)


def wrong(steps: int) -> Tensor:
    """Another Q."""
    return steps * torch.tensor([[2.0, 0.0], [-1.0, 5.0]], dtype=torch.float64)


MODELS = {"right": right, "wrong": wrong}


def differences() -> list[dict[str, Any]]:
    """How far the mean over all episodes, or the estimate from all of them at once, lies from the truth."""
    truth = PROCESS.truth()
    rows = []
    for kind, model in MODELS.items():
        episodes = list(PROCESS.every_episode(model))
        sample = PROCESS.sample(model)
        found = {
            name: sum(p * estimator(log, discount=PROCESS.discount).value for p, log in episodes)
            for name, estimator in WITHOUT_BIAS.items()
        }
        found |= {name: estimator(sample, discount=PROCESS.discount).value for name, estimator in WEIGHTED.items()}
        for name, value in found.items():
            if "robust" in name or kind == "right":  # the others know no model
                row = {"name": name, "model": kind if "robust" in name else "", "episodes": len(episodes)}
                rows.append(row | {"truth": truth.item(), "difference": float(value - truth)})
    return rows
