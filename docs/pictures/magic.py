"""One log of `importance`, and the model of `doubly_robust`."""

from __future__ import annotations

from typing import Any

import torch

import offline_losses as ol
from pictures import BLUE, ORANGE, SOFT, Axes
from pictures.doubly_robust import with_model
from pictures.importance import BETTER, STEPS, log


def magic_value(axes: Axes) -> str:
    def mixed(*arguments: Any, **knobs: Any) -> ol.ValueEstimate:
        return ol.magic_value(*arguments, **knobs, generator=torch.Generator().manual_seed(0), resamples=20)

    for place, episodes in enumerate((10, 30, 100)):
        for seed in range(3):
            for function, color, side in ((ol.weighted_doubly_robust_value, SOFT, -0.15), (mixed, BLUE, 0.15)):
                value = with_model(function)(*log(episodes, seed)).value
                axes.plot([place + side], [value], "_", color=color, markersize=9)
    axes.axhline(STEPS * BETTER, color=ORANGE, linestyle=":")
    axes.set(xlabel="episodes", xticks=range(3), xticklabels=("10", "30", "100"), ylabel="value", ylim=(5, 10))
    return "three logs of each size: weighted doubly robust on the left, mixed on the right (dotted: the truth)"
