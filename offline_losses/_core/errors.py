"""Refusals of an input, in one template: `function: argument: expected ..., got .... How to mend it.`"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

import torch
from torch import Tensor


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


def refuse(error: type[Exception], function: str, argument: str, expected: str, got: str, mend: str) -> NoReturn:
    raise error(f"{function}: {argument}: expected {expected}, got {got}. {mend}")


def refuse_tail(function: str, argument: str, tensor: Tensor, shape: torch.Size, batch: torch.Size) -> NoReturn:
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
    refuse(ValueError, function, argument, expected, f"shape {list(got)}", mend)


def refuse_nested(function: str, argument: str, tensor: Tensor) -> NoReturn:
    mend = f"Pad it, {argument}.to_padded_tensor(0.0), and mask what is padding, or pass the rows one after the other."
    refuse(TypeError, function, argument, "rows of equal length", describe(tensor), mend)


def refuse_beside(
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
            refuse_shape(function, argument, tensor, [shape], what, mend)
    call = f"expand_as({first})" if shape == other else f"expand({', '.join(map(str, shape))})"
    mend = f"If one number is meant for all, {argument}.{call} does." if not got else ""
    refuse_shape(function, argument, tensor, [shape], what, mend)


def refuse_knob(function: str, argument: str, value: Tensor, shapes: Sequence[torch.Size]) -> NoReturn:
    """Refuse a hyper-parameter that is neither one number nor one for each run of this batch."""
    got, shapes = value.shape, [shape for shape in dict.fromkeys(shapes) if shape]
    expected = " or ".join(f"shape {list(shape)}" for shape in [torch.Size(), *shapes])
    expected += " (any axis of it may be 1)" if shapes else ""
    mend = "All of the batch is taken together: call it once for each number."
    for shape in shapes:
        mend = f"One for each row of {list(shape)} has the shape {[*shape[:-1], 1]}."
        more = len(shape) - len(got)
        if more > 0 and all(a in (1, b) for a, b in zip(got, shape, strict=False)):
            mend = f"If each is for a whole row, {argument}{'.unsqueeze(-1)' * more} does."
            break
    refuse(ValueError, function, argument, expected, f"shape {list(got)}", mend)


def refuse_shape(
    function: str, argument: str, tensor: Tensor, shapes: list[torch.Size], like: str | None = None, mend: str = ""
) -> NoReturn:
    expected = " or ".join(f"shape {list(shape)}" for shape in shapes)
    expected += f" (that of {like})" if like else ""
    rule = "Nothing is broadcast between samples: reshape it to match."
    if not mend and tensor.ndim and tensor.shape[-1] == 1 and tensor.shape[:-1] in shapes:
        mend = f"Here {argument}.squeeze(-1) does."
    elif not mend and any((*tensor.shape, 1) == tuple(shape) for shape in shapes):
        mend = "Here squeeze(-1) of the others does."
    elif not mend and like == "a scalar":
        rule = "Where each run has its own, map the function over the runs with torch.func.vmap."
    refuse(ValueError, function, argument, expected, f"shape {list(tensor.shape)}", f"{rule} {mend}".rstrip())
