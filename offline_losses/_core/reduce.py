"""Precision, selection and reduction: the first and the last line of every function."""

from __future__ import annotations

import torch
from torch import Tensor

from offline_losses._core.checks import Knob


def upcast(tensor: Tensor) -> Tensor:
    """Half precision to float32, in which every formula is computed; wider dtypes as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def promoted(*tensors: Tensor) -> torch.dtype:
    """The dtype in which a quantity made of these tensors comes back."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def scalar(value: Knob, like: Tensor) -> Tensor:
    """A hyper-parameter as a tensor beside `like`, for operators that would bake a Python number into a graph."""
    if isinstance(value, Tensor):
        return value
    return torch.full((), value, dtype=like.dtype, device=like.device)


def select(mask: Tensor | None, tensor: Tensor) -> Tensor:
    """Zero, in value and gradient, wherever the mask is False, whatever stands there."""
    return tensor if mask is None else torch.where(mask, tensor, 0.0)


def reduce(loss: Tensor, mask: Tensor | None, weight: Tensor | None, reduction: str) -> Tensor:
    """Σ mask·weight·loss over max(1, Σ mask) for "mean", the sum for "sum", every element for "none"."""
    if weight is not None:
        loss = loss * select(mask, upcast(weight.detach()))
    loss = select(mask, loss)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return _sum(loss)
    if mask is None:
        return _sum(loss) / max(1, loss.numel())
    return _sum(loss) / mask.expand_as(loss).sum().clamp(min=1)


def _sum(loss: Tensor) -> Tensor:
    """The sum of all elements, in generated code for the CPU in double precision.

    PyTorch's own sum is a tree; a loop that also writes a gradient adds one number after the other, which in float32
    costs four digits over four million of them.
    """
    if torch.compiler.is_compiling() and loss.is_cpu:
        return loss.sum(dtype=torch.float64).to(loss.dtype)
    return loss.sum()
