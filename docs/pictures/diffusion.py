"""An action that dissolves in noise along a schedule, and what a network may say of it."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import ORANGE, SOFT, Axes

SCHEDULE = (1 - torch.linspace(1e-3, 0.15, 60)).cumprod(0)


def diffusion_point(axes: Axes) -> str:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(14, 1, generator=generator)
    action = torch.tensor([-1.5, 1.5]).repeat(7).unsqueeze(-1)
    paths = torch.stack([ol.diffusion_point(noise, action, share.expand(14)).squeeze(-1) for share in SCHEDULE])
    axes.plot(range(60), paths, color=SOFT, linewidth=0.8)
    axes.plot([0] * 14, paths[0], "o", color=ORANGE, markersize=3)
    axes.set(xlabel="step of the schedule", ylabel="point", xticks=(0, 59), xticklabels=("action", "noise"))
    return "two actions (orange) on their way to noise: the opposite way of a flow"


def diffusion_prediction(axes: Axes) -> str:
    noise, action = torch.tensor([[1.0]]), torch.tensor([[-1.5]])
    share = SCHEDULE.unsqueeze(-1)
    point = ol.diffusion_point(noise.expand(60, 1), action.expand(60, 1), SCHEDULE)
    for wanted in ("epsilon", "x0", "v"):
        said = ol.diffusion_prediction(action.expand(60, 1), point, SCHEDULE, given="x0", wanted=wanted)
        axes.plot(1 - share, said, label=wanted)
    axes.plot(1 - share, point, color=SOFT, linestyle=":")
    axes.set(xlabel="1 − ᾱ", ylabel="prediction", xticks=(0, 1), ylim=(-2, 3))
    axes.legend(ncols=3, loc="upper center")
    return "three names of one knowledge, of the point that is dotted; v turns from the noise to minus the action"


def diffusion_loss(axes: Axes) -> str:
    error = 0.5  # of the action that a network has in mind
    noise, action = torch.zeros(60, 1), torch.ones(60, 1)
    point = ol.diffusion_point(noise, action, SCHEDULE)
    for kind in ("epsilon", "x0", "v"):
        said = ol.diffusion_prediction(action + error, point, SCHEDULE, given="x0", wanted=kind)
        loss = ol.diffusion_loss(said, noise, action, SCHEDULE, prediction_type=kind, reduction="none")
        axes.plot(1 - SCHEDULE, loss, label=kind)
    axes.set(xlabel="1 − ᾱ", ylabel="loss", yscale="log", xticks=(0, 1))
    axes.legend(ncols=3, loc="upper right")
    return "the same error of the action counts differently at each step"
