r"""The logits of a vocabulary, $z = h W^\top + c\,b$, a tile at a time: what is needed of them, and its gradient.

Of each row the largest logit, the sum of the exponentials and the logit of one class are kept, and the backward pass
computes the tiles again. A tile takes some classes and some rows. Classes come first, so that a slice of the head's
gradient is finished before the next one is begun and is written once; only the gradient of the hidden states is added
to by every tile. Rows are the last axis of a tile, where products of matrices are fastest.

To a compiler it is one operator, `offline_losses::projection`, which `_compile` registers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.autograd import Function

from offline_losses._core.exponential import exp_, finite
from offline_losses._core.ranks import Part, added, check_range, joined, part_of
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
    part = None
    if group is not None:
        part = part_of(head, group)
        action = action - part.first
    elif takes_operators():
        log_prob, log_normalizer, _, _ = torch.ops.offline_losses.projection.default(
            function, hidden, head, bias, scale, action, chunk
        )
        return log_prob, log_normalizer
    log_prob, log_normalizer, _, _ = Projection.apply(  # type: ignore[no-untyped-call]
        hidden, head, bias, scale, action, function, chunk, part
    )
    return log_prob, log_normalizer


class Kept(NamedTuple):
    """Of some rows, no more than a tile has, what their gradient is made of."""

    tiles: Tensor  # [V · N], of each the exponentials beside the largest logit so far
    tops: list[Tensor]  # the largest logit so far, [N]
    weighted: Tensor  # [N, D], sum over the head's rows times their exponentials


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
        part: Part | None,
    ) -> tuple[Tensor, ...]:
        return by_tiles(function, hidden, head, bias, scale, action, chunk, part)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, _, ctx.chunk, ctx.part = inputs
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*tensors, *output[2:])

    @staticmethod
    def backward(ctx: Any, by_log_prob: Tensor, by_normalizer: Tensor, *_: Any) -> Any:
        wanted = tuple(ctx.needs_input_grad[:4])
        found = iter(
            Gradient.apply(*ctx.saved_tensors, by_log_prob, by_normalizer, wanted, ctx.chunk, ctx.part)  # type: ignore[no-untyped-call]
        )
        return (*[next(found) if want else None for want in wanted], None, None, None, None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        refuse_derivative("one taken forwards")

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
        refuse_derivative()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        rows_alone = in_dims[1:4] == (None, None, None) and not any(arguments[9][1:])
        return _mapped(Gradient, info.batch_size, in_dims, arguments, (0, 4, 5, 6, 7, 8) if rows_alone else None)


def refuse_derivative(kind: str = "a second derivative") -> NoReturn:
    raise RuntimeError(
        f"linear_log_prob: gradient: expected one derivative, taken backwards, got {kind}. "
        "Differentiate the formula itself, torch.log_softmax((hidden @ head.T + bias) / temperature, -1)."
    )


def by_tiles(
    function: str,
    hidden: Tensor,
    head: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    action: Tensor,
    chunk: int,
    part: Part | None = None,
    kept: Kept | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probability, logarithm of the normalizer, largest logit, and the sum of exponentials beside the largest."""
    check_range(function, action, len(head), part)
    largest, chosen = hidden.new_full((2, len(hidden)), -torch.inf)
    summed = torch.zeros_like(largest)
    for _, w, rows, index, inside, z in _tiles(hidden, head, bias, scale, action, chunk, kept):
        picked = z.gather(0, index).squeeze(0)
        chosen[rows] = torch.where(inside, picked, chosen[rows])
        top = torch.maximum(largest[rows], z.amax(0))
        shift = finite(top)
        decay = (largest[rows] - shift).exp()
        summed[rows] = summed[rows] * decay + exp_(z.sub_(shift)).sum(0)
        largest[rows] = top
        if kept is not None:
            kept.tops.append(top)
            kept.weighted.mul_(decay.unsqueeze(1)).addmm_(z.t(), w)
    if part is not None:
        largest, summed, chosen = joined(largest, summed, chosen, part.group)
    log_sum = summed.log()
    log_prob = torch.where(chosen == -torch.inf, -torch.inf, chosen - finite(largest) - log_sum)
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
    part: Part | None = None,
    kept: Kept | None = None,
    by_head: Tensor | None = None,  # [V, D], of other rows, which is added to
) -> tuple[Tensor, ...]:
    """The gradient by a logit is a share of the normalizer's, and for the action the log-probability's own."""
    factor = torch.where(summed == 0, 0.0, (by_normalizer - by_log_prob) / summed)
    shift = finite(largest)
    if kept is None:
        by_hidden = torch.zeros_like(hidden, memory_format=torch.contiguous_format)
    else:
        by_hidden = kept.weighted.mul_(factor.unsqueeze(1)).addcmul_(head[action], by_log_prob.unsqueeze(1))
    adds = by_head is not None
    if wanted[1] and by_head is None:
        by_head = torch.empty(head.shape, dtype=head.dtype, device=head.device)
    by_shifted = hidden.new_zeros(len(head)) if wanted[2] or wanted[3] else None
    wide = _wide(hidden, head, chunk)
    tops = iter(() if kept is None else kept.tops)
    for classes, w, rows, index, inside, z in _tiles(hidden, head, bias, scale, action, chunk, kept, kept is not None):
        if kept is None:
            exp_(z.sub_(shift[rows])).mul_(factor[rows])
        else:
            z.mul_((next(tops) - shift).exp().mul_(factor))
        z.scatter_add_(0, index, torch.where(inside, by_log_prob[rows], 0.0).unsqueeze(0))
        if wanted[0] and kept is None:
            by_hidden[rows].addmm_(z.t(), w)
        if by_head is not None:
            slopes = by_head[classes] if wide is None else wide[: len(w)]
            slopes.addmm_(z, hidden[rows], beta=int(adds or rows.start > 0))
            if wide is not None and rows.stop >= len(hidden):
                by_head[classes] = slopes
        if by_shifted is not None:
            by_shifted[classes] += z.sum(1)
    by_bias = by_scale = None
    if bias is not None and scale is not None and by_shifted is not None:
        by_bias, by_scale = by_shifted * scale, (by_shifted * finite(bias)).sum()
    if part is not None:
        by_hidden, by_scale = added(by_hidden, by_scale, part.group)
    found = zip((by_hidden, by_head, by_bias, by_scale), wanted, strict=True)
    return tuple(x for x, want in found if want and x is not None)


def _tiles(
    hidden: Tensor,
    head: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    action: Tensor,
    chunk: int,
    kept: Kept | None = None,
    filled: bool = False,
) -> Iterator[tuple[slice, Tensor, slice, Tensor, Tensor, Tensor]]:
    """Each tile: its classes, their part of the head, its rows, where in it their actions are, and whether, its logits.

    All tiles are made in the same memory, unless they are kept, of as many rows as one tile has.
    """
    across = hidden.t().contiguous()
    memory = hidden.new_empty(min(chunk, len(head)) * min(ROWS, len(hidden))) if kept is None else kept.tiles
    wide = _wide(hidden, head, chunk)
    for first in range(0, len(head), chunk):
        classes = slice(first, first + chunk)
        w = head[classes] if wide is None else wide[: len(head) - first].copy_(head[classes])
        for start in range(0, max(1, len(hidden)), ROWS):
            rows = slice(start, start + ROWS)
            index = action[rows] - first
            inside = (index >= 0) & (index < len(w))
            begin = 0 if kept is None else first * len(hidden)
            z = memory[begin : begin + len(w) * len(index)].view(len(w), len(index))
            if not filled:
                torch.mm(w, across[:, rows], out=z)
            if bias is not None and scale is not None and not filled:
                z.add_((bias[classes] * scale).unsqueeze(1))
            yield classes, w, rows, index.clamp(0, len(w) - 1).unsqueeze(0), inside, z


def _wide(hidden: Tensor, head: Tensor, chunk: int) -> Tensor | None:
    """Memory for a part of a head in the dtype of the hidden states, if that is another."""
    return None if head.dtype == hidden.dtype else hidden.new_empty(min(chunk, len(head)), hidden.shape[1])


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
