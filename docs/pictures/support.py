"""A model of the behavior: what it bars, its bound, and its penalty."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import BLUE, ORANGE, SOFT, Axes


def support_mask(axes: Axes) -> str:
    probability = torch.tensor([0.4, 0.25, 0.15, 0.11, 0.06, 0.03])
    left = ol.support_mask(probability.log())
    axes.bar(range(6), probability, color=[BLUE if x else ORANGE for x in left])
    axes.axhline(0.3 * 0.4, color=SOFT, linestyle=":")
    axes.set(xlabel="action", ylabel="behavior's probability", xticks=range(6))
    return "barred (orange) below three tenths (dotted) of the most likely action"


def evidence_lower_bound(axes: Axes) -> str:
    # a = z + noise of deviation s: the density is known, the encoder's mean is moved away from the posterior's
    action, s = torch.tensor(1.0), 0.7
    shift, variance = torch.linspace(-1, 1, 101), s**2 / (1 + s**2)
    mean = action / (1 + s**2) + shift
    error = (action - mean).square() + variance
    reconstruction = -error / (2 * s**2) - torch.tensor(2 * torch.pi * s**2).log() / 2
    log_std = torch.full((101, 1), variance**0.5).log()
    axes.plot(shift, ol.evidence_lower_bound(reconstruction, mean[:, None], log_std), label="bound")
    density = torch.distributions.Normal(0.0, (1 + s**2) ** 0.5).log_prob(action)
    axes.axhline(float(density), color=SOFT, linestyle=":", label="log-density")
    axes.set(xlabel="encoder's mean less the posterior's", ylabel="nats")
    axes.legend(loc="lower center")
    return "below the log-density, and equal to it where the encoder is right"


def elbo_loss(axes: Axes) -> str:
    mean = torch.linspace(-2, 2, 101)
    for kl_weight in (0.5, 2.0, 8.0):
        error = -2 * (1 - mean).square()
        loss = ol.elbo_loss(error, mean[:, None], torch.zeros(101, 1), kl_weight=kl_weight, reduction="none")
        (line,) = axes.plot(mean, loss, label=f"{kl_weight:g}")
        axes.plot(mean[loss.argmin()], loss.min(), "o", color=line.get_color(), markersize=5)
    axes.set(xlabel="mean of the latent", ylabel="loss", ylim=(-0.3, 6))
    axes.legend(title="kl_weight", ncols=3, loc="upper center")
    return "a larger weight pulls the latent (dots) from its best reconstruction, at 1, to 0"


def spot_penalty(axes: Axes) -> str:
    action, z = torch.linspace(-3, 3, 121), torch.tensor([-1.2, 1.0])
    log_weight = torch.distributions.Normal(z, 0.5).log_prob(action[:, None])
    axes.plot(action, ol.spot_penalty(log_weight, reduction="none"))
    axes.plot(z, [0.3, 0.3], "|", color=SOFT)
    axes.set(xlabel="policy's action", ylabel="penalty", ylim=(0, 12))
    return "low where one of the draws (ticks) makes the action likely"
