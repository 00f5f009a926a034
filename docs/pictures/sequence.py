"""Rows of a batch that hold less and less, the rest being padding."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import Axes


def sequence_log_prob(axes: Axes) -> str:
    length = torch.arange(1, 41)
    mask = torch.arange(40) < length[:, None]
    for flag in (False, True):
        value = ol.sequence_log_prob(torch.full((40, 40), -1.5), mask, length_normalized=flag)
        axes.plot(length, value, label="mean" if flag else "sum")
    axes.set(xlabel="tokens, of 1.5 nats each", ylabel="value", yticks=(-60, -30, 0))
    axes.legend(loc="lower left")
    return "a sum is a probability, a mean compares lengths"


def sequence_action_loss(axes: Axes) -> str:
    exist = torch.arange(1, 21)
    ones, masks = torch.ones(1, 20, 1), (torch.arange(20) < exist[:, None])[:, None]
    for label, denominator in (("existing steps", None), ("all steps", 20)):
        losses = [ol.sequence_action_loss(ones, 0 * ones, mask=mask, denominator=denominator) for mask in masks]
        axes.plot(exist, torch.stack(losses), label=label)
    axes.set(xlabel="steps that exist, of 20", ylabel="loss", ylim=(0, 1.5), yticks=(0, 0.5, 1))
    axes.legend(loc="upper left")
    return "errors of 1: divided by all, padding counts as learned"
