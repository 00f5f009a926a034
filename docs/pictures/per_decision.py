"""The logs of `importance`, evaluated reward by reward."""

from __future__ import annotations

import offline_losses as ol
from pictures import Axes
from pictures.importance import estimates


def per_decision_value(axes: Axes) -> str:
    estimates(axes, lambda *x: ol.per_decision_value(*x, discount=1.0))
    return "40 logs of each size: right on average, less wide than whole episodes"


def weighted_per_decision_value(axes: Axes) -> str:
    estimates(axes, lambda *x: ol.weighted_per_decision_value(*x, discount=1.0))
    return "the same logs, the weights of each step against each other"
