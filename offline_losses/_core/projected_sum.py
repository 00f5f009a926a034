"""A weighted sum of log-probabilities over a vocabulary, whose gradient is made with it.

The gradient by a logit needs the normalizer of its row and the row's weight. Where both are known in the forward pass,
the logits of some rows over all classes are kept until it has used them, and are not computed again: three products of
matrices in place of four. The gradients are those of a sum that is multiplied by one, until the backward pass.

They are handed out once. Whoever asks again, or maps the function, gets them from the tiles of `projection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import Function

from offline_losses._core.projection import (
    CLASSES,
    ROWS,
    Gradient,
    Kept,
    Projection,
    by_tiles,
    gradient_by_tiles,
    project,
    refuse_derivative,
)
from offline_losses._core.tracing import is_tracing


@dataclass(eq=False)
class _Made:
    """Which gradients are made in the forward pass, and, until they are handed out, these."""

    function: str
    wanted: Sequence[bool]
    gradients: list[Tensor] | None = None

    def hand_out(self, wanted: Sequence[bool]) -> list[Tensor] | None:
        found, self.gradients = self.gradients, None
        return found if found is not None and list(wanted) == list(self.wanted) else None


def weighted_sum(
    function: str,
    hidden: Tensor,  # [N, D]
    head: Tensor,  # [V, D], of any dtype
    bias: Tensor | None,  # [V]
    scale: Tensor | None,  # [], what the bias is multiplied with
    action: Tensor,  # [N]
    weight: Tensor,  # [N]
    chunk: int,
    group: Any,
) -> Tensor:
    """The sum over rows of weight times log-probability; a row of weight zero adds nothing."""
    wanted = [x is not None and x.requires_grad for x in (hidden, head, bias, scale)]
    is_one_pass = head.dtype == hidden.dtype or len(hidden) <= _kept_rows(head)  # in half precision the head's gradient
    if group is None and hidden.is_cpu and is_one_pass and any(wanted) and torch.is_grad_enabled() and not is_tracing():
        made = _Made(function, wanted)
        return WeightedSum.apply(hidden, head, bias, scale, action, weight, function, chunk, made)[0]  # type: ignore[no-untyped-call, no-any-return]
    return _times(weight, project(function, hidden, head, bias, scale, action, chunk, group)[0]).sum()


class WeightedSum(Function):
    """The sum, and beside it what the gradient needs if it is computed again."""

    @staticmethod
    def forward(
        hidden: Tensor,
        head: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        action: Tensor,
        weight: Tensor,
        function: str,
        chunk: int,
        made: _Made,
    ) -> tuple[Tensor, ...]:
        found, made.gradients = sum_and_gradient(
            function, made.wanted, chunk, hidden, head, bias, scale, action, weight
        )
        return _times(weight, found[0]).sum(), *found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, _, ctx.chunk, ctx.made = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> Any:
        wanted = [*ctx.needs_input_grad[:4], ctx.needs_input_grad[5]]
        found = iter(SumGradient.apply(*ctx.saved_tensors, upstream, wanted, ctx.chunk, ctx.made))  # type: ignore[no-untyped-call]
        *slopes, by_weight = [next(found) if want else None for want in wanted]
        return (*slopes, None, by_weight, None, None, None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        refuse_derivative("one taken forwards")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        *tensors, function, chunk, _ = arguments

        def sum_of_tiles(*x: Any) -> tuple[Tensor, ...]:
            *given, weight = x
            log_prob, _, largest, summed = Projection.apply(*given, function, chunk, None)  # type: ignore[no-untyped-call]
            return _times(weight, log_prob).sum(), log_prob, largest, summed

        return torch.func.vmap(sum_of_tiles, in_dims[:6])(*tensors), (0,) * 4


class SumGradient(Function):
    """The gradients that are wanted, of hidden states, head, bias, its scale, and weight."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        *given, log_prob, _, _, upstream, wanted, chunk, made = arguments
        found = made.hand_out(wanted[:4])
        if found is None:
            _, found = sum_and_gradient(made.function, wanted[:4], chunk, *given)
        slopes = [x.mul_(upstream) for x in found]
        return (*slopes, _by_weight(given[5], log_prob, upstream)) if wanted[4] else tuple(slopes)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> NoReturn:
        refuse_derivative()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        *tensors, wanted, chunk, _ = arguments

        def gradient_of_tiles(*x: Any) -> tuple[Tensor, ...]:
            *given, weight, log_prob, largest, summed, upstream = x
            slopes = (weight * upstream, torch.zeros_like(weight * upstream))
            found = Gradient.apply(*given, largest, summed, *slopes, wanted[:4], chunk, None)  # type: ignore[no-untyped-call]
            return (*found, _by_weight(weight, log_prob, upstream)) if wanted[4] else found

        return torch.func.vmap(gradient_of_tiles, in_dims[:10])(*tensors), (0,) * sum(wanted)


def sum_and_gradient(
    function: str,
    wanted: Sequence[bool],
    chunk: int,
    hidden: Tensor,
    head: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    action: Tensor,
    weight: Tensor,
) -> tuple[list[Tensor], list[Tensor]]:
    """Log-probability, largest logit and sum of exponentials, and the gradients, some rows at a time."""
    rows = _kept_rows(head)
    tiles = hidden.new_empty(len(head) * min(rows, len(hidden)))
    saved = hidden.new_empty(3, len(hidden))
    by_hidden = torch.empty_like(hidden, memory_format=torch.contiguous_format)
    by_head: Tensor | None = None
    others: list[Sequence[Tensor]] = []
    for start in range(0, max(1, len(hidden)), rows):
        mine = slice(start, start + rows)
        h, a, w = hidden[mine], action[mine], weight[mine].to(hidden.dtype)
        kept = Kept(tiles, [], by_hidden[mine].zero_())
        log_prob, _, largest, summed = by_tiles(function, h, head, bias, scale, a, chunk, kept=kept)
        slopes = (largest, summed, w, torch.zeros_like(w), (True, *wanted[1:]), chunk)
        found = gradient_by_tiles(h, head, bias, scale, a, *slopes, kept=kept, by_head=by_head)
        by_head = found[1] if wanted[1] else None
        others.append(found[1 + wanted[1] :])
        saved[:, mine] = torch.stack([log_prob, largest, summed])
    of_sums = [torch.stack(each).sum(0) for each in zip(*others, strict=True)]
    gradients = [by_hidden] * wanted[0] + ([] if by_head is None else [by_head]) + of_sums
    return list(saved), gradients


def _times(weight: Tensor, log_prob: Tensor) -> Tensor:
    """Zero where the weight is, however unlikely the action."""
    return torch.where(weight == 0, 0.0, weight * log_prob)


def _by_weight(weight: Tensor, log_prob: Tensor, upstream: Tensor) -> Tensor:
    return torch.where(weight == 0, 0.0, log_prob) * upstream


def _kept_rows(head: Tensor) -> int:
    """Of how many rows the exponentials are kept: in the memory of a tile, or of a quarter of the head.

    With 64 to 256 of them the head's gradient, which is added to each time, is not most of the work.
    """
    return min(ROWS, max(min(max(64, head.shape[1] // 4), 256), ROWS * CLASSES // len(head)))
