"""Log-ratios of twelve steps, and what is passed in their place by mistake."""

from __future__ import annotations

import torch

from pictures import BLUE, ORANGE, SOFT, Axes


def check_log_ratio(axes: Axes) -> str:
    policy = torch.tensor([0.5, 0.2, 0.9, 0.4, 0.6, 0.1, 0.8, 0.3, 0.7, 0.5, 0.2, 0.6])
    propensity = torch.full_like(policy, 0.4)
    kinds = {"log-ratios": policy / propensity, "ratios": (policy / propensity).exp(), "log-probabilities": policy}
    for place, (name, x) in enumerate(kinds.items()):
        color = BLUE if name == "log-ratios" else ORANGE
        axes.plot(x.log(), torch.full_like(x, -place), "|", color=color, markersize=12, markeredgewidth=2)
    axes.axvline(0, color=SOFT, linestyle=":")
    axes.set(xlabel="log_ratio", yticks=(0, -1, -2), yticklabels=list(kinds), ylim=(-2.6, 0.6))
    return "true ones lie on both sides of zero; what does not is refused"
