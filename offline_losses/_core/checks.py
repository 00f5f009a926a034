"""Input checks, none of which depends on a tensor's values.

Every check reads types, dtypes, shapes and Python numbers only, so that it never waits for a device and costs nothing
inside a compiled region.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import eq
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from offline_losses._core.errors import (
    describe,
    refuse,
    refuse_beside,
    refuse_knob,
    refuse_nested,
    refuse_shape,
    refuse_tail,
)

Knob: TypeAlias = float | Tensor
"""A hyper-parameter: a Python number, or a tensor that may carry a gradient, 0-d or `[R, 1]` for runs `[R, B]`."""
Reduction: TypeAlias = Literal["mean", "sum", "none"]
"""How the elements of a loss are put together: the mean over existing ones, their sum, or each by itself."""


def present(**tensors: Tensor | None) -> dict[str, Tensor]:
    """The optional arguments that were given."""
    return {argument: tensor for argument, tensor in tensors.items() if tensor is not None}


def check_float(function: str, **tensors: Tensor) -> None:
    """Refuse anything but floating-point tensors, of rows of equal length."""
    for argument, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            mend = "Convert it with torch.as_tensor."
            if isinstance(tensor, (list, tuple)) and all(isinstance(each, Tensor) for each in tensor):
                mend = f"Critics are the first axis of one tensor: torch.stack({argument})."
            refuse(TypeError, function, argument, "a torch.Tensor", describe(tensor), mend)
        if tensor.is_nested:
            refuse_nested(function, argument, tensor)
        if not tensor.is_floating_point():
            mend = f"Convert it with {argument}.float() if that is what you mean."
            refuse(TypeError, function, argument, "a floating dtype", describe(tensor), mend)


def check_values(function: str, **tensors: Tensor) -> None:
    """Refuse anything but floating-point tensors that all have the shape of the first."""
    check_float(function, **tensors)
    first, like = next(iter(tensors.items()))
    for argument, tensor in tensors.items():
        if tensor.shape != like.shape:
            refuse_beside(function, argument, tensor, first, like, like.shape, first, eq)


def check_flags(function: str, shape: torch.Size, **flags: Tensor) -> None:
    """Refuse flags that are not bool tensors of the given shape."""
    for argument, flag in flags.items():
        if not isinstance(flag, Tensor) or flag.dtype != torch.bool:
            made = f"{argument}.bool()" if isinstance(flag, Tensor) else f"torch.as_tensor({argument}).bool()"
            mend = f"Convert it with {made} (True means that it holds)."
            refuse(TypeError, function, argument, "a bool tensor", describe(flag), mend)
        if flag.is_nested:
            refuse_nested(function, argument, flag)
        if flag.shape != shape:
            refuse_shape(function, argument, flag, [shape])


def check_prediction(function: str, **tensors: Tensor) -> None:
    """Refuse a second tensor whose shape is not the first one's, up to leading critic axes of the first."""
    check_float(function, **tensors)
    (first, prediction), (second, target) = tensors.items()
    if not leads(target.shape, prediction.shape):
        refuse_beside(function, second, target, first, prediction, prediction.shape, first, leads)


def leads(shape: torch.Size, prediction: torch.Size) -> bool:
    """Whether the second shape is the first, after axes of critics; one number is not the target of many."""
    leading = len(prediction) - len(shape)
    return leading >= 0 and prediction[leading:] == shape and (len(shape) > 0 or leading == 0)


def check_rows(function: str, **tensors: Tensor) -> None:
    """Refuse tensors that do not have the first one's shape without its last axis."""
    (first, like), *others = tensors.items()
    for argument, tensor in others:
        if tensor.shape != like.shape[:-1]:
            what = f"{first} without its last axis"
            refuse_beside(function, argument, tensor, first, like, like.shape[:-1], what, _are_rows)


def check_actions(function: str, numbers: Mapping[str, Tensor] | None = None, **actions: Tensor) -> None:
    """Refuse anything but tensors `[*batch, A]` of one shape, and numbers `[*batch]`, one for each of their rows."""
    check_values(function, **actions)
    first, like = next(iter(actions.items()))
    check_axis(function, first, like, "dimension")
    for argument, number in (numbers or {}).items():
        check_float(function, **{argument: number})
        check_rows(function, **{first: like, argument: number})


def _are_rows(shape: torch.Size, wide: torch.Size) -> bool:
    return shape == wide[:-1]


def check_sequence(function: str, discount: Knob, values: Mapping[str, Tensor], **flags: Tensor) -> None:
    """Check quantities and flags along one time axis, the first of them deciding the shape, and their discount.

    The discount is one number, or one for each sequence or step.
    """
    check_values(function, **values)
    argument, first = next(iter(values.items()))
    check_axis(function, argument, first, "step")
    check_flags(function, first.shape, **flags)
    check_knob(function, "discount", discount, 0.0, 1.0, "[]", of_steps(first))


def check_axis(function: str, argument: str, tensor: Tensor, what: str, size: int | None = None) -> None:
    """Refuse a tensor without axes, or with an empty last one, or with one of another size."""
    if tensor.ndim == 0 or tensor.shape[-1] == 0 or (size is not None and tensor.shape[-1] != size):
        expected = f"a last axis of at least one {what}" if size is None else f"a last axis of {size} {what}s"
        mend = "Give it one." if size is None else f"Give it one entry for each {what}."
        refuse(ValueError, function, argument, expected, describe(tensor), mend)


def check_some(function: str, argument: str, tensor: Tensor, what: str) -> None:
    """Refuse a tensor without any element."""
    if not tensor.numel():
        check_axis(function, argument, tensor.flatten(), what)


def check_critics(function: str, *, what: str = "critic", least: int = 1, last: str = "", **tensors: Tensor) -> None:
    """Refuse anything but floating-point tensors with a first axis of so many critics, and a last if it is named."""
    check_float(function, **tensors)
    for argument, tensor in tensors.items():
        if tensor.ndim < 1 + bool(last) or tensor.shape[0] < least or (last and tensor.shape[-1] == 0):
            expected = f"a first axis of at least {'one' if least == 1 else least} {what}{'s' * (least > 1)}"
            expected += f" and a last axis of at least one {last}" if last else ""
            mend = f"Stack the {what}s with torch.stack([first, second])."
            if last and tensor.ndim == 1:
                mend += f" If each has one {last}, {argument}.unsqueeze(-1) adds the axis."
            refuse(ValueError, function, argument, expected, describe(tensor), mend)


def check_count(function: str, argument: str, value: int, low: int, high: float = math.inf) -> None:
    """Refuse anything but a Python int in [low, high]."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        expected = f"an int of at least {low}" + (f" and at most {high}" if high < math.inf else "")
        error = ValueError if isinstance(value, int) else TypeError
        refuse(error, function, argument, expected, describe(value), f"Choose {argument} from that range.")


def check_index(function: str, argument: str, index: Tensor, what: str) -> None:
    """Refuse anything but an int64 vector that is not empty."""
    if not isinstance(index, Tensor) or index.dtype != torch.int64:
        mend = f"Number each {what} from 0, torch.tensor([0, 1])."
        refuse(TypeError, function, argument, "an int64 tensor", describe(index), mend)
    if index.ndim != 1 or len(index) == 0:
        refuse(ValueError, function, argument, f"shape [M] of at least one {what}", describe(index), "Give it one.")


def check_integers(function: str, like: str, shape: torch.Size, *, critics: bool = False, **tensors: Tensor) -> None:
    """Refuse anything but int64 tensors of the given shape, that of `like`, or of its trailing part after critics."""
    for argument, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.int64:
            mend = f"Convert it with torch.as_tensor({argument}).long() if these are whole numbers."
            refuse(TypeError, function, argument, "an int64 tensor", describe(tensor), mend)
        if tensor.shape != shape and not (critics and leads(tensor.shape, shape)):
            refuse_shape(function, argument, tensor, [shape], like)


def check_few_axes(function: str, argument: str, tensor: Tensor) -> None:
    """Refuse the axes of an image, of which the last is no list of dimensions."""
    if tensor.ndim > 3:
        expected = "shape [N, D] or [*batch, T, D], at most three axes"
        mend = f"Pass {argument}.flatten(1) for one number for each pixel, or {argument}.movedim(1, -1).flatten(0, -2) "
        mend += "for one for each channel."
        refuse(ValueError, function, argument, expected, f"shape {list(tensor.shape)}", mend)


def check_shape(function: str, like: str, shape: torch.Size, **tensors: Tensor) -> None:
    """Refuse tensors that do not have the given shape, which is that of `like`."""
    for argument, tensor in tensors.items():
        if tensor.shape != shape:
            refuse_shape(function, argument, tensor, [shape], like)


def check_knob(
    function: str,
    argument: str,
    value: Knob,
    low: float,
    high: float = math.inf,
    bounds: str = "()",
    shapes: Sequence[torch.Size] = (),
) -> None:
    """Refuse a hyper-parameter outside its interval, or a tensor that is neither 0-d nor one for each run.

    Only Python numbers are checked for their range: looking into a tensor would wait for the device. `bounds`
    says which ends belong to the interval: `"()"`, `"[]"`, `"(]"`, `"[)"`. A tensor with axes fits one of the shapes,
    that of the batch and what else it may be given for, with as many axes, each as long as the shape's or one.
    """
    if isinstance(value, Tensor):
        check_float(function, **{argument: value})
        if value.ndim and not any(spreads(value.shape, shape) for shape in shapes):
            refuse_knob(function, argument, value, shapes)
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        mend = f"Pass {argument} as a Python number, or as a 0-d tensor to differentiate it."
        refuse(TypeError, function, argument, "a float or a 0-d tensor", describe(value), mend)
    else:
        above = low <= value if bounds[0] == "[" else low < value
        below = value <= high if bounds[1] == "]" else value < high
        if not (above and below):
            expected = f"a number in {bounds[0]}{low}, {high}{bounds[1]}"
            refuse(ValueError, function, argument, expected, f"{value}", f"Choose {argument} from that interval.")


def spreads(shape: torch.Size, over: torch.Size) -> bool:
    """Whether a hyper-parameter of the first shape is one for each part of the second, axis by axis."""
    return len(shape) == len(over) and all(a in (1, b) for a, b in zip(shape, over, strict=True))


def of_steps(x: Tensor) -> list[torch.Size]:
    """What a hyper-parameter beside `[*batch, T]` may be given for: sequences, or their steps."""
    return [x.shape[:-1], x.shape]


def check_option(function: str, argument: str, value: object, options: tuple[object, ...]) -> None:
    """Refuse a word that is not one of the options."""
    if value not in options:
        expected = " or ".join(repr(option) for option in options)
        refuse(ValueError, function, argument, expected, repr(value), "Pass one of these.")


def check_tail(
    function: str,
    shape: torch.Size,
    batch: torch.Size,
    mask: Tensor | None,
    weight: Tensor | None,
    reduction: Reduction,
    denominator: Knob | None,
) -> None:
    """Check the tail of a loss: mask and weight have the loss's shape, or that of its target without critic axes.

    A count is a whole number, and so may a denominator be, as a tensor too.
    """
    check_option(function, "reduction", reduction, ("none", "mean", "sum"))
    if denominator is not None:
        if reduction != "mean":
            mend, got = 'Only the mean has one: pass reduction="mean".', describe(denominator)
            refuse(ValueError, function, "denominator", f"None with reduction={reduction!r}", got, mend)
        if isinstance(denominator, Tensor) and denominator.dtype in (torch.int32, torch.int64):
            denominator = denominator.float()
        check_knob(function, "denominator", denominator, 0.0, bounds="[)", shapes=[batch, shape])
    if weight is not None:
        check_float(function, weight=weight)
        if weight.shape not in (shape, batch):
            refuse_tail(function, "weight", weight, shape, batch)
    if mask is not None:
        check_flags(function, getattr(mask, "shape", shape), mask=mask)
        if mask.shape not in (shape, batch):
            refuse_tail(function, "mask", mask, shape, batch)
