"""Weights against the advantage, and what a batch of them is worth."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes

A = torch.linspace(-3, 3, 601)


def awr_weights(axes: Axes) -> str:
    for temperature in (0.5, 1.0, 3.0):
        axes.plot(A, ol.awr_weights(A, temperature=temperature, max_weight=6.0), label=f"{temperature}")
    axes.set(xlabel="advantage", ylabel="weight")
    axes.legend(title="temperature")
    return "exponential, up to max_weight (here 6)"


def crr_weights(axes: Axes) -> str:
    for mode in ("binary", "exponential"):
        axes.plot(A, ol.crr_weights(A, mode=mode, max_weight=6.0), label=mode)
    axes.set(xlabel="advantage", ylabel="weight")
    axes.legend(title="mode")
    return "a step at 0, or an exponential up to max_weight"


def normalize_weights(axes: Axes) -> str:
    weight = torch.tensor([0.5, 3.0, 1.0, 6.0, 2.0, 4.0])
    axes.bar([i - 0.2 for i in range(6)], weight, 0.4, color=SOFT, label="as given")
    axes.bar([i + 0.2 for i in range(6)], ol.normalize_weights(weight), 0.4, label="normalized")
    axes.axhline(1, color=SOFT, linestyle=":")
    axes.set(xlabel="sample", ylabel="weight", ylim=(0, 8.5), xticks=range(6))
    axes.legend(loc="upper left")
    return "the same ratios, with mean 1"


def effective_sample_size(axes: Axes) -> str:
    advantage, temperatures = torch.randn(256, generator=torch.Generator().manual_seed(0)), torch.logspace(-1, 1, 60)
    sizes = [ol.effective_sample_size(ol.awr_weights(advantage, temperature=t, max_weight=1e9)) for t in temperatures]
    axes.plot(temperatures, sizes)
    axes.axhline(256, color=SOFT, linestyle=":")
    axes.set(xscale="log", xlabel="temperature", ylabel="effective samples", yticks=(1, 128, 256))
    axes.xaxis.set_major_formatter("{x:g}")
    return "how many of 256 samples count under awr_weights"


def normalize_advantage(axes: Axes) -> str:
    steps = 60
    for rate in (0.02, 0.1, 0.5):
        sizes, state = [], torch.tensor(1.0)
        for step in range(steps):
            advantage = torch.full((1,), 1.0 if step < steps // 2 else 5.0)
            normalized, state = ol.normalize_advantage(advantage, state, rate=rate)
            sizes.append(normalized.item())
        axes.plot(range(steps), sizes, label=f"{rate}")
    axes.set(xlabel="updates", ylabel="normalized advantage")
    axes.legend(title="rate", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 0.95))
    return "advantages of a sudden five times as large come back to one"
