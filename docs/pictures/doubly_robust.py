"""The logs of `importance`, with a model that takes the actions for less different than they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import offline_losses as ol
from pictures import Axes
from pictures.importance import BETTER, STEPS, estimates


def doubly_robust_value(axes: Axes) -> str:
    estimates(axes, with_model(ol.doubly_robust_value))
    return "40 logs of each size, with a model that is roughly right"


def weighted_doubly_robust_value(axes: Axes) -> str:
    estimates(axes, with_model(ol.weighted_doubly_robust_value))
    return "the same logs and model, the weights of each step against each other"


def with_model(function: Callable[..., ol.ValueEstimate]) -> Callable[..., ol.ValueEstimate]:
    def estimator(reward: Tensor, log_ratio: Tensor, done: Tensor) -> ol.ValueEstimate:
        left = torch.arange(STEPS - 1, -1, -1).expand_as(reward)  # steps after this one
        worth = 0.2 + 0.7 * BETTER  # of a step under the policy, as the model has it
        value, next_value = worth * (left + 1), worth * left
        q = 0.2 + 0.7 * reward + next_value
        return function(reward, q, value, next_value, log_ratio, done, done, discount=1.0)

    return estimator
