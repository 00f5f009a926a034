"""Chunks near the end of an episode."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

import offline_losses as ol
from pictures import SOFT, Axes

STEPS, HORIZON, DISCOUNT = 12, 5, 0.9


def chunk_return(axes: Axes) -> str:
    start = torch.arange(STEPS)
    reward = pad(torch.ones(STEPS), (0, HORIZON - 1)).unfold(0, HORIZON, 1)
    done = pad(start == STEPS - 1, (0, HORIZON - 1), value=True).unfold(0, HORIZON, 1)
    value, never = torch.full((STEPS,), 1 / (1 - DISCOUNT)), torch.zeros_like(done)
    rewards = ol.chunk_return(reward, torch.zeros(STEPS), never, done, discount=DISCOUNT)
    fixed = rewards + DISCOUNT**HORIZON * value
    axes.axvspan(STEPS - HORIZON + 0.5, STEPS - 0.5, color=SOFT, alpha=0.15, linewidth=0)
    axes.plot(start, ol.chunk_return(reward, value, never, done, discount=DISCOUNT), marker=".", label="γᵐ")
    axes.plot(start, fixed, marker=".", label="γʰ for all")
    axes.plot(start, rewards, marker=".", label="rewards")
    axes.set(xlabel="first step of the chunk", xticks=(0, 4, 8), ylim=(0, 14), yticks=(0, 5, 10))
    axes.legend(ncols=3, loc="upper center")
    return "a reward of 1 for ever is worth 10, also from a chunk (h = 5) that a time limit cuts short (shaded)"
