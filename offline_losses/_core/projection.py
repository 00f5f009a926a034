r"""The logits of a vocabulary, $z = h W^\top + c\,b$, a tile at a time: what is needed of them, and its gradient.

Of each row the largest logit, the sum of the exponentials and the logit of one class are kept, and the backward pass
computes the tiles again. A tile takes some classes and some rows. Classes come first, so that a slice of the head's
gradient is finished before the next one is begun and is written once; only the gradient of the hidden states is added
to by every tile. Rows are the last axis of a tile, where products of matrices are fastest.

With a group of processes each has some classes of the head, one rank after the other, and all rows.

To a compiler it is one operator, `offline_losses::projection`, which `_compile` registers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import Function

from offline_losses._core.errors import refuse
from offline_losses._core.tracing import takes_operators

CLASSES = 2048
"""Classes of a tile."""

ROWS = 512
"""Rows of a tile, 4 MiB in float32."""


def project(
    function: str,
    hidden: Tensor,  # [N, D]
    head: Tensor,  # [V, D], of any dtype
    bias: Tensor | None,  # [V]
    scale: Tensor | None,  # [], what the bias is multiplied with
    action: Tensor,  # [N]
    chunk: int,
    group: Any,
) -> tuple[Tensor, Tensor]:
    """Log-probability of the action and logarithm of the normalizer, of every row."""
    if group is not None:
        action = _on_this_rank(function, action, head, group)
    elif takes_operators():
        log_prob, log_normalizer, _, _ = torch.ops.offline_losses.projection.default(
            function, hidden, head, bias, scale, action, chunk
        )
        return log_prob, log_normalizer
    log_prob, log_normalizer, _, _ = Projection.apply(  # type: ignore[no-untyped-call]
        hidden, head, bias, scale, action, function, chunk, group
    )
    return log_prob, log_normalizer


class Projection(Function):
    """The projection, with a gradient that computes its tiles again."""

    @staticmethod
    def forward(
        hidden: Tensor,
        head: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        action: Tensor,
        function: str,
        chunk: int,
        group: Any,
    ) -> tuple[Tensor, ...]:
        return by_tiles(function, hidden, head, bias, scale, action, chunk, group)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, _, ctx.chunk, ctx.group = inputs
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*tensors, *output[2:])

    @staticmethod
    def backward(ctx: Any, by_log_prob: Tensor, by_normalizer: Tensor, *_: Any) -> Any:
        wanted = tuple(ctx.needs_input_grad[:4])
        found = iter(
            Gradient.apply(*ctx.saved_tensors, by_log_prob, by_normalizer, wanted, ctx.chunk, ctx.group)  # type: ignore[no-untyped-call]
        )
        return (*[next(found) if want else None for want in wanted], None, None, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        rows_alone = in_dims[1:4] == (None, None, None)
        return _mapped(Projection, info.batch_size, in_dims, arguments, (0, 4) if rows_alone else None)


class Gradient(Function):
    """The gradients that are wanted, of hidden states, head, bias and its scale."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return gradient_by_tiles(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> NoReturn:
        refuse_second_derivative()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        rows_alone = in_dims[1:4] == (None, None, None) and not any(arguments[9][1:])
        return _mapped(Gradient, info.batch_size, in_dims, arguments, (0, 4, 5, 6, 7, 8) if rows_alone else None)


def refuse_second_derivative() -> NoReturn:
    raise RuntimeError(
        "linear_log_prob: gradient: expected to be differentiated once, got a second derivative. "
        "Differentiate the formula itself twice, torch.log_softmax((hidden @ head.T + bias) / temperature, -1)."
    )


def by_tiles(
    function: str,
    hidden: Tensor,
    head: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    action: Tensor,
    chunk: int,
    group: Any = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probability, logarithm of the normalizer, largest logit, and the sum of exponentials beside the largest."""
    if group is None:
        _check_range(function, action, len(head))
    largest, chosen = hidden.new_full((2, len(hidden)), -torch.inf)
    summed = torch.zeros_like(largest)
    for _, _, rows, index, inside, z in _tiles(hidden, head, bias, scale, action, chunk):
        picked = z.gather(0, index).squeeze(0)
        chosen[rows] = torch.where(inside, picked, chosen[rows])
        top = torch.maximum(largest[rows], z.amax(0))
        shift = _finite(top)
        summed[rows] = summed[rows] * (largest[rows] - shift).exp() + _exp(z.sub_(shift)).sum(0)
        largest[rows] = top
    if group is not None:
        largest, summed, chosen = _joined(largest, summed, chosen, group)
    log_sum = summed.log()
    log_prob = torch.where(chosen == -torch.inf, -torch.inf, chosen - _finite(largest) - log_sum)
    return log_prob, largest + torch.where(summed == 0, 0.0, log_sum), largest, summed


def gradient_by_tiles(
    hidden: Tensor,
    head: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    action: Tensor,
    largest: Tensor,
    summed: Tensor,
    by_log_prob: Tensor,
    by_normalizer: Tensor,
    wanted: Sequence[bool],
    chunk: int,
    group: Any = None,
) -> tuple[Tensor, ...]:
    """The gradient by a logit is a share of the normalizer's, and for the action the log-probability's own."""
    factor = torch.where(summed == 0, 0.0, (by_normalizer - by_log_prob) / summed)
    shift = _finite(largest)
    by_hidden = torch.zeros_like(hidden, memory_format=torch.contiguous_format)
    by_head = torch.empty(head.shape, dtype=head.dtype, device=head.device) if wanted[1] else None
    by_shifted = hidden.new_zeros(len(head)) if wanted[2] or wanted[3] else None
    wide = hidden.new_empty(min(chunk, len(head)), hidden.shape[1]) if head.dtype != hidden.dtype else None
    for classes, w, rows, index, inside, z in _tiles(hidden, head, bias, scale, action, chunk):
        _exp(z.sub_(shift[rows])).mul_(factor[rows])
        z.scatter_add_(0, index, torch.where(inside, by_log_prob[rows], 0.0).unsqueeze(0))
        if wanted[0]:
            by_hidden[rows].addmm_(z.t(), w)
        if by_head is not None:
            part = by_head[classes] if wide is None else wide[: len(w)]
            part.addmm_(z, hidden[rows], beta=min(rows.start, 1))
            if wide is not None and rows.stop >= len(hidden):
                by_head[classes] = part
        if by_shifted is not None:
            by_shifted[classes] += z.sum(1)
    by_bias = by_scale = None
    if bias is not None and scale is not None and by_shifted is not None:
        by_bias, by_scale = by_shifted * scale, (by_shifted * _finite(bias)).sum()
    if group is not None:
        by_hidden, by_scale = _added(by_hidden, by_scale, group)
    found = zip((by_hidden, by_head, by_bias, by_scale), wanted, strict=True)
    return tuple(x for x, want in found if want and x is not None)


def _tiles(
    hidden: Tensor, head: Tensor, bias: Tensor | None, scale: Tensor | None, action: Tensor, chunk: int
) -> Iterator[tuple[slice, Tensor, slice, Tensor, Tensor, Tensor]]:
    """Each tile: its classes, their part of the head, its rows, where in it their actions are, and whether, its logits.

    All tiles are made in the same memory.
    """
    across = hidden.t().contiguous()
    memory = hidden.new_empty(min(chunk, len(head)) * min(ROWS, len(hidden)))
    for first in range(0, len(head), chunk):
        classes = slice(first, first + chunk)
        w = head[classes].to(hidden.dtype)
        for start in range(0, max(1, len(hidden)), ROWS):
            rows = slice(start, start + ROWS)
            index = action[rows] - first
            inside = (index >= 0) & (index < len(w))
            z = torch.mm(w, across[:, rows], out=memory[: len(w) * len(index)].view(len(w), len(index)))
            if bias is not None and scale is not None:
                z.add_((bias[classes] * scale).unsqueeze(1))
            yield classes, w, rows, index.clamp(0, len(w) - 1).unsqueeze(0), inside, z


def _exp(x: Tensor) -> Tensor:
    """In place, by way of powers of two, which a processor takes a third of the time for."""
    return x.mul_(math.log2(math.e)).exp2_()


def _finite(x: Tensor) -> Tensor:
    """Zero for −∞: nothing is subtracted from logits, and nothing multiplied, where there is no class."""
    return torch.where(x == -torch.inf, 0.0, x)


def _check_range(function: str, action: Tensor, classes: int) -> None:
    """Refuse an action that is no row of the head, where values can be seen at no cost."""
    if action.is_cpu and action.numel():
        low, high = map(int, action.aminmax())
        if low < 0 or high >= classes:
            mend = "Number the classes from 0, and give masked rows any of them."
            got = f"{low if low < 0 else high}"
            refuse(ValueError, function, "action", f"classes in [0, {classes})", got, mend)


def _on_this_rank(function: str, action: Tensor, head: Tensor, group: Any) -> Tensor:
    """The action, counted from the first class of this rank."""
    sizes = _gathered(action.new_full((), len(head)), group)
    if action.is_cpu:
        _check_range(function, action, int(sizes.sum()))
    return action - sizes[: torch.distributed.get_rank(group)].sum()


def _joined(largest: Tensor, summed: Tensor, chosen: Tensor, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Of all ranks, of which at most one has found the action."""
    tops, sums, found = _gathered(torch.stack([largest, summed, chosen]), group).unbind(1)
    top = tops.amax(0)
    return top, (sums * (tops - _finite(top)).exp()).sum(0), found.amax(0)


def _gathered(mine: Tensor, group: Any) -> Tensor:
    """Of all ranks, stacked."""
    all_ranks = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(all_ranks, mine, group=group)
    return torch.stack(all_ranks)


def _added(by_hidden: Tensor, by_scale: Tensor | None, group: Any) -> tuple[Tensor, Tensor | None]:
    """What each rank's classes add to the gradients of what all ranks share."""
    if by_scale is None:
        torch.distributed.all_reduce(by_hidden, group=group)
        return by_hidden, None
    both = torch.cat([by_hidden.flatten(), by_scale.view(1)])
    torch.distributed.all_reduce(both, group=group)
    return both[:-1].view_as(by_hidden), both[-1]


def _mapped(
    function: Any, size: int, in_dims: Sequence[Any], arguments: Sequence[Any], rows: Sequence[int] | None
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """More rows, where only these arguments are mapped, of which each has rows; otherwise one call after the other."""
    given = list(arguments)
    if rows is None:
        found = [
            function.apply(*(x.select(d, i) if isinstance(d, int) else x for x, d in zip(given, in_dims, strict=True)))
            for i in range(size)
        ]
        stacked = tuple(torch.stack(x) for x in zip(*found, strict=True))
        return stacked, (0,) * len(stacked)
    for i in rows:
        dim = in_dims[i]
        whole = given[i].expand(size, *given[i].shape) if dim is None else given[i].movedim(dim, 0)
        given[i] = whole.flatten(0, 1)
    results = function.apply(*given)
    split = tuple(x.unflatten(0, (size, len(x) // size)) for x in results)
    return split, (0,) * len(split)
