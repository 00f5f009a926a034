"""From what a user hands in to rows `[N, D]` and back, for what is projected onto a vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from offline_losses._core.checks import Knob, Reduction, present
from offline_losses._core.projected_sum import weighted_sum
from offline_losses._core.projection import project
from offline_losses._core.reduce import over_rows, reduce, scalar, select, select_rows, shared, summed
from offline_losses._core.sharded import is_sharded
from offline_losses._core.spread import Here, as_rows_of, here


def projected(
    function: str,
    hidden: Tensor,
    head: Tensor,
    action: Tensor,
    bias: Tensor | None,
    temperature: Knob,
    chunk: int,
    group: Any,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability and log-normalizer."""
    x = here(function, hidden, head, action, bias, temperature, mask, group)
    found = project(function, *_rows(x), chunk, x.group)
    log_prob, log_normalizer = (as_rows_of(y.view(x.action.shape), hidden) for y in found)
    return log_prob, log_normalizer


def reduced(
    function: str,
    hidden: Tensor,  # [*batch, D]
    head: Tensor,  # [V, D]
    action: Tensor,  # [*batch]
    bias: Tensor | None,  # [V]
    temperature: Knob,
    chunk: int,
    group: Any,
    mask: Tensor | None,  # [*batch]
    factor: Knob,
    weight: Tensor | None,  # [*batch]
    reduction: Reduction,
    denominator: Knob | None,
) -> Tensor:
    """Factor times log-probability, reduced; in a sum each row's weight is known before its gradient is made."""
    if reduction == "none" or is_sharded(hidden) or is_sharded(head):
        log_prob, _ = projected(function, hidden, head, action, bias, temperature, chunk, group, mask)
        return reduce(factor * select(mask, log_prob), mask, weight, reduction, denominator)
    given = _rows(Here(hidden, head, action, bias, temperature, mask, group))
    shares = factor * shared(given[0].new_ones(action.shape), mask, weight, reduction, denominator)
    return weighted_sum(function, *given, shares.reshape(-1), chunk, group)


def _rows(x: Here) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    """Hidden states over the temperature `[N, D]`, head, bias, what the bias is multiplied with, and actions `[N]`."""
    hidden, head, action, bias, temperature, mask, _ = x
    dtype = summed(hidden, head, *present(bias=bias).values())
    rows = (select_rows(mask, hidden.to(dtype)) / over_rows(temperature)).reshape(-1, hidden.shape[-1])
    if mask is not None:
        action = torch.where(mask, action, 0)
    if bias is None:
        return rows, head, None, None, action.reshape(-1)
    bias, scale = bias.to(dtype), 1 / scalar(temperature, rows).to(dtype)
    if not scale.ndim:
        return rows, head, bias, scale, action.reshape(-1)
    # A dimension more, in which each row has its scale.
    rows = torch.cat([rows, scale.expand(action.shape).reshape(-1, 1)], -1)
    return rows, torch.cat([head.to(dtype), bias.unsqueeze(-1)], -1), None, None, action.reshape(-1)
