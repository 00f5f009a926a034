"""Input checks: one message template, no data-dependent test.

Every check reads types, dtypes, shapes and Python numbers only, so that it never waits for a device and costs nothing
inside a compiled region. The template is `function: argument: expected ..., got .... How to mend it.`
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from operator import eq
from typing import Literal, NoReturn, TypeAlias

import torch
from torch import Tensor

Knob: TypeAlias = float | Tensor
"""A hyper-parameter: a Python number, or a tensor that may carry a gradient."""
Reduction: TypeAlias = Literal["mean", "sum", "none"]
"""How the elements of a loss are put together: the mean over existing ones, their sum, or each by itself."""


def describe(value: object) -> str:
    """Name a value in an error message: shape and dtype of a tensor, length of a list, the value itself otherwise."""
    if isinstance(value, Tensor):
        if value.is_nested:
            return f"a nested tensor of dtype {value.dtype}"
        return f"a tensor of shape {list(value.shape)} and dtype {value.dtype}"
    if isinstance(value, (list, tuple)) and value:
        return f"a {type(value).__name__} of {len(value)}, the first {describe(value[0])}"
    if hasattr(value, "shape"):
        return f"an array of shape {list(value.shape)} of type {type(value).__name__}"
    return f"{value!r} of type {type(value).__name__}"


def _refuse(error: type[Exception], function: str, argument: str, expected: str, got: str, mend: str) -> NoReturn:
    raise error(f"{function}: {argument}: expected {expected}, got {got}. {mend}")


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
            _refuse(TypeError, function, argument, "a torch.Tensor", describe(tensor), mend)
        if tensor.is_nested:
            _refuse_nested(function, argument, tensor)
        if not tensor.is_floating_point():
            mend = f"Convert it with {argument}.float() if that is what you mean."
            _refuse(TypeError, function, argument, "a floating dtype", describe(tensor), mend)


def check_values(function: str, **tensors: Tensor) -> None:
    """Refuse anything but floating-point tensors that all have the shape of the first."""
    check_float(function, **tensors)
    first, like = next(iter(tensors.items()))
    for argument, tensor in tensors.items():
        if tensor.shape != like.shape:
            _refuse_beside(function, argument, tensor, first, like, like.shape, first, eq)


def check_flags(function: str, shape: torch.Size, **flags: Tensor) -> None:
    """Refuse flags that are not bool tensors of the given shape."""
    for argument, flag in flags.items():
        if not isinstance(flag, Tensor) or flag.dtype != torch.bool:
            mend = f"Convert it with {argument}.bool() (True means that it holds)."
            _refuse(TypeError, function, argument, "a bool tensor", describe(flag), mend)
        if flag.is_nested:
            _refuse_nested(function, argument, flag)
        if flag.shape != shape:
            _refuse_shape(function, argument, flag, [shape])


def check_prediction(function: str, **tensors: Tensor) -> None:
    """Refuse a second tensor whose shape is not the first one's, up to leading critic axes of the first."""
    check_float(function, **tensors)
    (first, prediction), (second, target) = tensors.items()
    if not _leads(target.shape, prediction.shape):
        _refuse_beside(function, second, target, first, prediction, prediction.shape, first, _leads)


def _leads(shape: torch.Size, prediction: torch.Size) -> bool:
    """Whether the second shape is the first, after axes of critics; one number is not the target of many."""
    leading = len(prediction) - len(shape)
    return leading >= 0 and prediction[leading:] == shape and (len(shape) > 0 or leading == 0)


def check_rows(function: str, **tensors: Tensor) -> None:
    """Refuse tensors that do not have the first one's shape without its last axis."""
    (first, like), *others = tensors.items()
    for argument, tensor in others:
        if tensor.shape != like.shape[:-1]:
            what = f"{first} without its last axis"
            _refuse_beside(function, argument, tensor, first, like, like.shape[:-1], what, _are_rows)


def _are_rows(shape: torch.Size, wide: torch.Size) -> bool:
    return shape == wide[:-1]


def check_sequence(function: str, discount: Knob, values: Mapping[str, Tensor], **flags: Tensor) -> None:
    """Check quantities and flags along one time axis, the first of them deciding the shape, and their discount.

    The discount is one number, or one for each step.
    """
    check_values(function, **values)
    argument, first = next(iter(values.items()))
    check_axis(function, argument, first, "step")
    check_flags(function, first.shape, **flags)
    check_knob(function, "discount", discount, 0.0, 1.0, "[]", first.shape)


def check_axis(function: str, argument: str, tensor: Tensor, what: str) -> None:
    """Refuse a tensor without axes, or with an empty last one."""
    if tensor.ndim == 0 or tensor.shape[-1] == 0:
        expected = f"a last axis of at least one {what}"
        _refuse(ValueError, function, argument, expected, describe(tensor), "Give it one.")


def check_few_axes(function: str, argument: str, tensor: Tensor) -> None:
    """Refuse the axes of an image, of which the last is no list of dimensions."""
    if tensor.ndim > 3:
        expected = "shape [N, D] or [*batch, T, D], at most three axes"
        mend = f"Pass {argument}.flatten(1) for one number for each pixel, or {argument}.movedim(1, -1).flatten(0, -2) "
        mend += "for one for each channel."
        _refuse(ValueError, function, argument, expected, f"shape {list(tensor.shape)}", mend)


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
    *shapes: torch.Size,
) -> None:
    """Refuse a hyper-parameter outside its interval, or a tensor that is not 0-d.

    Only Python numbers are checked for their range: looking into a tensor would wait for the device. `bounds`
    says which ends belong to the interval: `"()"`, `"[]"`, `"(]"`, `"[)"`. Tensors of the given shapes pass too.
    """
    if isinstance(value, Tensor):
        check_float(function, **{argument: value})
        if value.ndim != 0 and value.shape not in shapes:
            _refuse_shape(function, argument, value, [torch.Size(()), *shapes])
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
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
    """Check the tail of a loss: mask and weight have the loss's shape, or that of its target without critic axes."""
    check_option(function, "reduction", reduction, ("none", "mean", "sum"))
    if weight is not None:
        check_float(function, weight=weight)
        if weight.shape not in (shape, batch):
            _refuse_tail(function, "weight", weight, shape, batch)
    if mask is not None:
        check_flags(function, getattr(mask, "shape", shape), mask=mask)
        if mask.shape not in (shape, batch):
            _refuse_tail(function, "mask", mask, shape, batch)


def _refuse_tail(function: str, argument: str, tensor: Tensor, shape: torch.Size, batch: torch.Size) -> NoReturn:
    """Say how to make of a mask or weight what was meant by it."""
    got, full = tensor.shape, ", ".join(map(str, shape))
    mends = []
    if got[-1:] == (1,) and got[:-1] in (shape, batch):
        mends.append(f"Here {argument}.squeeze(-1) does.")
    elif len(got) == len(shape) and all(a in (1, b) for a, b in zip(got, shape, strict=True)):
        mends.append(f"Here {argument}.expand({full}) does.")
    elif got and got == shape[: len(got)]:
        columns = ".unsqueeze(-1)" * (len(shape) - len(got))
        mends.append(f"If each is for a whole row, {argument}{columns}.expand({full}) does.")
    if got and len(got) < len(shape) and got == shape[len(shape) - len(got) :]:
        mends.append(f"If the first axis holds critics, {argument}.expand({full}) does.")
    expected = " or ".join(f"shape {list(each)}" for each in dict.fromkeys((batch, shape)))
    mend = " ".join(["Nothing is broadcast between samples.", *(mends or ["Reshape it to match."])])
    _refuse(ValueError, function, argument, expected, f"shape {list(got)}", mend)


def _refuse_nested(function: str, argument: str, tensor: Tensor) -> NoReturn:
    mend = f"Pad it, {argument}.to_padded_tensor(0.0), and mask what is padding, or pass the rows one after the other."
    _refuse(TypeError, function, argument, "rows of equal length", describe(tensor), mend)


def _refuse_beside(
    function: str,
    argument: str,
    tensor: Tensor,
    first: str,
    like: Tensor,
    shape: torch.Size,
    what: str,
    fit: Callable[[torch.Size, torch.Size], bool],
) -> NoReturn:
    """Refuse a shape that does not fit another's, and say whose trailing axis of one is in the way."""
    got, other = tensor.shape, like.shape
    for names, fits in (
        ([argument], got[-1:] == (1,) and fit(got[:-1], other)),
        ([first], other[-1:] == (1,) and fit(got, other[:-1])),
        ([argument, first], got[-1:] == other[-1:] == (1,) and fit(got[:-1], other[:-1])),
    ):
        if fits:
            calls = " and ".join(f"{name}.squeeze(-1)" for name in names)
            mend = f"Here {calls} {'does' if len(names) == 1 else 'do'}."
            _refuse_shape(function, argument, tensor, [shape], what, mend)
    mend = f"If one number is meant for all, {argument}.expand_as({first}) does." if not got else ""
    _refuse_shape(function, argument, tensor, [shape], what, mend)


def _refuse_shape(
    function: str, argument: str, tensor: Tensor, shapes: list[torch.Size], like: str | None = None, mend: str = ""
) -> NoReturn:
    expected = " or ".join(f"shape {list(shape)}" for shape in shapes)
    expected += f" (that of {like})" if like else ""
    rule = "Nothing is broadcast between samples: reshape it to match."
    if not mend and tensor.ndim and tensor.shape[-1] == 1 and tensor.shape[:-1] in shapes:
        mend = f"Here {argument}.squeeze(-1) does."
    elif not mend and any((*tensor.shape, 1) == tuple(shape) for shape in shapes):
        mend = "Here squeeze(-1) of the others does."
    _refuse(ValueError, function, argument, expected, f"shape {list(tensor.shape)}", f"{rule} {mend}".rstrip())
