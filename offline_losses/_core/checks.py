"""Input checks: one message template, no data-dependent test.

Every check reads types, dtypes, shapes and Python numbers only, so that it never waits for a device and costs nothing
inside a compiled region. The template is `function: argument: expected ..., got .... How to mend it.`
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NoReturn, TypeAlias

import torch
from torch import Tensor

Knob: TypeAlias = float | Tensor
"""A hyper-parameter: a Python number, or a tensor that may carry a gradient."""
Reduction: TypeAlias = Literal["mean", "sum", "none"]
"""How the elements of a loss are put together: the mean over existing ones, their sum, or each by itself."""


def describe(value: object) -> str:
    """Name a value in an error message: shape and dtype of a tensor, the value itself otherwise."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)} and dtype {value.dtype}"
    return f"{value!r} of type {type(value).__name__}"


def _refuse(error: type[Exception], function: str, argument: str, expected: str, got: str, mend: str) -> NoReturn:
    raise error(f"{function}: {argument}: expected {expected}, got {got}. {mend}")


def present(**tensors: Tensor | None) -> dict[str, Tensor]:
    """The optional arguments that were given."""
    return {argument: tensor for argument, tensor in tensors.items() if tensor is not None}


def check_float(function: str, **tensors: Tensor) -> None:
    """Refuse anything but floating-point tensors."""
    for argument, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            mend = "Convert it with torch.as_tensor."
            _refuse(TypeError, function, argument, "a torch.Tensor", describe(tensor), mend)
        if not tensor.is_floating_point():
            mend = f"Convert it with {argument}.float() if that is what you mean."
            _refuse(TypeError, function, argument, "a floating dtype", describe(tensor), mend)


def check_values(function: str, **tensors: Tensor) -> None:
    """Refuse anything but floating-point tensors that all have the shape of the first."""
    check_float(function, **tensors)
    first, like = next(iter(tensors.items()))
    for argument, tensor in tensors.items():
        if tensor.shape != like.shape:
            _refuse_shape(function, argument, tensor, [like.shape], first)


def check_flags(function: str, shape: torch.Size, **flags: Tensor) -> None:
    """Refuse flags that are not bool tensors of the given shape."""
    for argument, flag in flags.items():
        if not isinstance(flag, Tensor) or flag.dtype != torch.bool:
            mend = f"Convert it with {argument}.bool() (True means that it holds)."
            _refuse(TypeError, function, argument, "a bool tensor", describe(flag), mend)
        if flag.shape != shape:
            _refuse_shape(function, argument, flag, [shape])


def check_prediction(function: str, **tensors: Tensor) -> None:
    """Refuse a second tensor whose shape is not the first one's, up to leading critic axes of the first."""
    check_float(function, **tensors)
    (first, prediction), (second, target) = tensors.items()
    leading = prediction.ndim - target.ndim
    if leading < 0 or prediction.shape[leading:] != target.shape:
        _refuse_shape(function, second, target, [prediction.shape], first)


def check_sequence(function: str, discount: Knob, values: Mapping[str, Tensor], **flags: Tensor) -> None:
    """Check quantities and flags along one time axis, the first of them deciding the shape, and their discount."""
    check_values(function, **values)
    argument, first = next(iter(values.items()))
    check_axis(function, argument, first, "step")
    check_flags(function, first.shape, **flags)
    check_knob(function, "discount", discount, 0.0, 1.0, "[]")


def check_axis(function: str, argument: str, tensor: Tensor, what: str) -> None:
    """Refuse a tensor without axes, or with an empty last one."""
    if tensor.ndim == 0 or tensor.shape[-1] == 0:
        expected = f"a last axis of at least one {what}"
        _refuse(ValueError, function, argument, expected, describe(tensor), "Give it one.")


def check_shape(function: str, like: str, shape: torch.Size, **tensors: Tensor) -> None:
    """Refuse tensors that do not have the given shape, which is that of `like`."""
    for argument, tensor in tensors.items():
        if tensor.shape != shape:
            _refuse_shape(function, argument, tensor, [shape], like)


def check_knob(
    function: str,
    argument: str,
    value: Knob,
    low: float,
    high: float = math.inf,
    bounds: str = "()",
    *,
    shape: torch.Size | None = None,
) -> None:
    """Refuse a hyper-parameter outside its interval, or a tensor that is not 0-d.

    Only Python numbers are checked for their range: looking into a tensor would wait for the device. `bounds` says
    which ends belong to the interval: `"()"`, `"[]"`, `"(]"`, `"[)"`. With `shape`, a tensor of that shape passes too.
    """
    if isinstance(value, Tensor):
        check_float(function, **{argument: value})
        if value.ndim != 0 and value.shape != shape:
            shapes = [torch.Size(())] + ([] if shape is None else [shape])
            _refuse_shape(function, argument, value, shapes)
    elif not isinstance(value, (int, float)) or isinstance(value, bool):
        mend = f"Pass {argument} as a Python number, or as a 0-d tensor to differentiate it."
        _refuse(TypeError, function, argument, "a float or a 0-d tensor", describe(value), mend)
    else:
        above = low <= value if bounds[0] == "[" else low < value
        below = value <= high if bounds[1] == "]" else value < high
        if not (above and below):
            expected = f"a number in {bounds[0]}{low}, {high}{bounds[1]}"
            _refuse(ValueError, function, argument, expected, f"{value}", f"Choose {argument} from that interval.")


def check_option(function: str, argument: str, value: str, options: tuple[str, ...]) -> None:
    """Refuse a word that is not one of the options."""
    if value not in options:
        expected = " or ".join(repr(option) for option in options)
        _refuse(ValueError, function, argument, expected, repr(value), "Pass one of these.")


def check_tail(
    function: str,
    shape: torch.Size,
    batch: torch.Size,
    mask: Tensor | None,
    weight: Tensor | None,
    reduction: Reduction,
) -> None:
    """Check the tail of a loss: mask and weight have the loss's shape, or its batch shape without the critic axes."""
    check_option(function, "reduction", reduction, ("none", "mean", "sum"))
    check_float(function, **present(weight=weight))
    if weight is not None and weight.shape not in (shape, batch):
        _refuse_shape(function, "weight", weight, [batch])
    if mask is not None:
        check_flags(function, shape if getattr(mask, "shape", None) == shape else batch, mask=mask)


def _refuse_shape(
    function: str, argument: str, tensor: Tensor, shapes: list[torch.Size], like: str | None = None
) -> NoReturn:
    expected = " or ".join(f"shape {list(shape)}" for shape in shapes)
    expected += f" (that of {like})" if like else ""
    mend = "Nothing is broadcast between samples: reshape it to match."
    if tensor.ndim and tensor.shape[-1] == 1 and tensor.shape[:-1] in shapes:
        mend += f" Here {argument}.squeeze(-1) does."
    elif any((*tensor.shape, 1) == tuple(shape) for shape in shapes):
        mend += f" Here {like or 'the other'}.squeeze(-1) does."
    _refuse(ValueError, function, argument, expected, f"shape {list(tensor.shape)}", mend)
