"""Precision, selection and reduction: the first and the last line of every function."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from offline_losses._core.checks import Knob, Reduction, check_knob
from offline_losses._core.sharded import added_up, is_sharded
from offline_losses._core.tracing import is_nonzero, is_tracing


def upcast(tensor: Tensor) -> Tensor:
    """Half precision to float32, in which every formula is computed; wider dtypes as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def promoted(*tensors: Tensor) -> torch.dtype:
    """The dtype in which a quantity made of these tensors comes back."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def summed(*tensors: Tensor) -> torch.dtype:
    """The dtype in which a sum over an axis comes back: the same, but at least float32, which a sum has digits for."""
    return torch.promote_types(promoted(*tensors), torch.float32)


def widest(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All in the dtype in which a formula of them is computed: the widest, and at least float32."""
    dtype = summed(*tensors)
    return tuple(tensor.to(dtype) for tensor in tensors)


def scalar(value: Knob, like: Tensor) -> Tensor:
    """A hyper-parameter as a tensor beside `like`, for operators that would bake a Python number into a graph."""
    if isinstance(value, Tensor):
        return value
    if torch.compiler.is_compiling():  # PyTorch keeps an old number where a graph both fills and computes with it
        return torch.zeros((), dtype=like.dtype, device=like.device) + value
    return torch.full((), value, dtype=like.dtype, device=like.device)


def in_double(number: float, device: torch.device) -> Tensor:
    """A hyper-parameter as a tensor outside the graph, in double precision as Python's own numbers are.

    Filled where it is: a copy from the host would wait for a card.
    """
    dtype = torch.float32 if device.type == "mps" else torch.float64
    if torch.compiler.is_compiling():  # as in `scalar`
        return torch.zeros((), dtype=dtype, device=device) + number
    return torch.full((), number, dtype=dtype, device=device)


def exact(value: Knob, device: torch.device) -> Tensor:
    """A hyper-parameter as a tensor in double precision, where float32 does not tell it from one."""
    return value if isinstance(value, Tensor) else 0.0 + in_double(value, device)


def over_rows(value: Knob, axes: int = 1) -> Knob:
    """A hyper-parameter of the batch beside tensors with so many axes more."""
    return value[(..., *[None] * axes)] if isinstance(value, Tensor) and value.ndim else value


def over_elements(value: Knob, like: Tensor) -> Knob:
    """A hyper-parameter beside a tensor: one number, or one for each of its elements."""
    return value.expand(like.shape) if isinstance(value, Tensor) and value.ndim else value


def over_steps(value: Knob, like: Tensor) -> Knob:
    """A hyper-parameter beside `[*batch, T]`: one number, or one for each step."""
    each = over_rows(value) if isinstance(value, Tensor) and value.ndim < like.ndim else value
    return over_elements(each, like)


def times(factor: Knob, x: Tensor) -> Tensor:
    """The product, in which zero times infinity is zero."""
    if is_nonzero(factor):
        return factor * x
    finite = torch.where(x.abs() == torch.inf, 0.0, x)  # generated loops take three times as long with isinf
    return factor * torch.where(scalar(factor, x) == 0, finite, x)


def log_sigmoid(x: Tensor) -> Tensor:
    """PyTorch's own, but of a DTensor, for which its derivative has no rule."""
    if not is_sharded(x):
        return logsigmoid(x)
    near = clamped(x, -80.0, 80.0)  # beyond, an exponential is nothing beside one
    return clamped(x - near, high=0.0) - torch.logaddexp(torch.zeros_like(near), -near)


def clamped(x: Tensor, low: Knob | None = None, high: Knob | None = None) -> Tensor:
    """Within bounds. At a bound the derivative is one; that of PyTorch's own is zero there since 2.14, or a half."""
    x = added_up(x)  # once, and not for each of what follows
    if low is not None:
        x = torch.where(x < low, low, x)
    return x if high is None else torch.where(x > high, high, x)


def select(mask: Tensor | None, tensor: Tensor) -> Tensor:
    """Zero, in value and gradient, wherever the mask is False, whatever stands there."""
    return tensor if mask is None else torch.where(mask, tensor, 0.0)


def select_rows(mask: Tensor | None, tensor: Tensor) -> Tensor:
    """The same for tensors `[*batch, A]` with one axis more than the mask."""
    return tensor if mask is None else torch.where(mask.unsqueeze(-1), tensor, 0.0)


def residual(
    prediction: Tensor,  # [*batch] or [E, *batch]
    target: Tensor,  # [*batch]
    mask: Tensor | None,  # of either shape
) -> Tensor:
    """Target minus prediction, the target detached."""
    return select(mask, upcast(target.detach()) - upcast(prediction))


def reduce(
    loss: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    reduction: Reduction,
    denominator: Knob | None = None,
) -> Tensor:
    """Σ mask·weight·loss over max(1, Σ mask) for "mean", the sum for "sum", every element for "none".

    An element of weight zero adds nothing, even if its loss is infinite. The denominator of a mean may be given, for
    each run too: then it is the sum of the runs' means.
    """
    if weight is not None:
        weight = select(mask, upcast(weight.detach()))
        loss = (loss * weight).masked_fill(weight == 0, 0.0)
    loss = select(mask, loss)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return total(loss)
    if denominator is not None:
        divisor = _divisor(denominator, loss.dtype)
        several = isinstance(divisor, Tensor) and divisor.ndim
        return total(loss / divisor) if several else total(loss) / divisor
    if mask is None:
        return total(loss) / max(1, loss.numel())
    return total(loss) / mask.expand_as(loss).sum().clamp(min=1)


def shared(
    ones: Tensor, mask: Tensor | None, weight: Tensor | None, reduction: Reduction, denominator: Knob | None
) -> Tensor:
    """What the reduction to one number multiplies each element with, which is its share of the result."""
    share = reduce(ones, mask, weight, "none")
    if reduction == "sum":
        return share
    if denominator is not None:
        return share / _divisor(denominator, ones.dtype)
    return share / (max(1, ones.numel()) if mask is None else mask.expand_as(ones).sum().clamp(min=1))


def _divisor(denominator: Knob, dtype: torch.dtype) -> Knob:
    """A constant; one where nothing exists anywhere, over which the sum is zero."""
    if not isinstance(denominator, Tensor):
        return denominator or 1
    denominator = denominator.detach().to(dtype)
    return torch.where(denominator == 0, 1.0, denominator)


def check_size(function: str, epsilon: Knob, normalizer: Knob | None, batch: torch.Size) -> None:
    check_knob(function, "epsilon", epsilon, 0.0, shapes=[batch])
    if normalizer is not None:
        check_knob(function, "normalizer", normalizer, 0.0, bounds="[)", shapes=[batch])


def mean_size(x: Tensor, mask: Tensor | None, least: Knob, given: Knob | None) -> Tensor:
    """Mean of the existing elements' absolute values unless it is given, at least so much; a constant for the gradient.

    A given one is of the same dtype, which a 0-d tensor beside an `x` without axes would otherwise widen.
    """
    size = reduce(x.detach().abs(), mask, None, "mean") if given is None else scalar(given, x).detach().to(x.dtype)
    return torch.maximum(size, scalar(least, size))


def total(x: Tensor, dim: int | None = None) -> Tensor:
    """The sum, over all elements or one axis; in generated code for the CPU in double precision.

    PyTorch's own sum is a tree. A generated loop may add one number after the other, which in float32 leaves four right
    digits of the sum of four million.
    """
    if is_tracing() and x.is_cpu:
        return x.sum(dim, dtype=torch.float64).to(x.dtype)
    return x.sum(dim)


def relative(x: Tensor) -> Tensor:
    """Non-negative numbers over the largest, a constant for the gradient: what is made of it is blind to their scale.

    The sum of large numbers, or of their squares, is not a float. These sums are at least one, or zero if all are.
    """
    if not x.numel():
        return x
    largest = x.detach().amax()
    return x / torch.where(largest == 0, 1.0, largest)


def over_mean(x: Tensor, count: int | Tensor) -> Tensor:
    """Non-negative numbers over the mean of `count` of them, blind to their scale too; zeros if all are zero."""
    if is_tracing() and x.is_cpu and x.dtype == torch.float32:  # a loop for the largest takes longer than all the rest
        mean = x.sum(dtype=torch.float64) * (1 / count)
        larger = torch.where(mean < 2.0**-60, 2.0**60, 1.0)  # a float has fewer digits near its smallest
        mean = torch.where(mean == 0, 1.0, mean * larger)
        return x * larger / mean.to(x.dtype)
    x = relative(x)
    return x * (count / clamped(total(x), 1.0))
