"""The projection of `_core/projection.py` as one operator, and its gradient as another.

Its tiles are products of matrices, which generated code would only call: nothing is generated for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, library

from offline_losses._core.projection import by_tiles, gradient_by_tiles, refuse_derivative


def _projection(
    function: str,
    hidden: Tensor,
    head: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    action: Tensor,
    chunk: int,
) -> tuple[Tensor, ...]:
    return by_tiles(function, hidden, head, bias, scale, action, chunk)


def _empty_rows(function: str, hidden: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(hidden.new_empty(hidden.shape[:1]) for _ in range(4))


def _gradient(*arguments: Any) -> list[Tensor]:
    return list(gradient_by_tiles(*arguments))


def _empty_gradient(*arguments: Any) -> list[Tensor]:
    *_, wanted, _ = arguments
    found = zip(arguments[:4], wanted, strict=True)
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x, want in found if want]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    _, *tensors, ctx.chunk = inputs
    ctx.save_for_backward(*tensors, *output[2:])


def _adjoint(ctx: Any, by_log_prob: Tensor, by_normalizer: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[1:5])
    found = iter(gradient(*ctx.saved_tensors, by_log_prob, by_normalizer, wanted, ctx.chunk))
    return (None, *[next(found) if want else None for want in wanted], None, None)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _refuse(ctx: Any, *upstream: Any) -> None:
    refuse_derivative()


_library = library.Library("offline_losses", "FRAGMENT")  # type: ignore[no-untyped-call]
_ARGUMENTS = "Tensor hidden, Tensor head, Tensor? bias, Tensor? scale, Tensor action"
_SAVED = "Tensor largest, Tensor summed, Tensor by_log_prob, Tensor by_normalizer"
for _name, _schema, _kernel, _fake in (
    ("projection", f"(str function, {_ARGUMENTS}, int chunk) -> (Tensor, Tensor, Tensor, Tensor)",
     _projection, _empty_rows),
    ("projection_gradient", f"({_ARGUMENTS}, {_SAVED}, bool[] wanted, int chunk) -> Tensor[]",
     _gradient, _empty_gradient),
):  # fmt: skip
    _library.define(_name + _schema, tags=torch.Tag.pt2_compliant_tag)  # type: ignore[no-untyped-call]
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    library.register_fake(f"offline_losses::{_name}", _fake, lib=_library)
projection = torch.ops.offline_losses.projection.default
gradient = torch.ops.offline_losses.projection_gradient.default
library.register_autograd("offline_losses::projection", _adjoint, setup_context=_save, lib=_library)
library.register_autograd("offline_losses::projection_gradient", _refuse, setup_context=_save_nothing, lib=_library)
