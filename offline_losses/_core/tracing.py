"""What a formula may ask about a compiler: whether one is reading it.

Nothing here imports one. `_compile` registers itself when it is loaded; without it formulas are read as they are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual


class _Thread(threading.local):
    tracing = False
    nonzero: Sequence[Tensor] = ()


_thread = _Thread()
_is_transforming: list[Callable[[], bool]] = []


def register(is_transforming: Callable[[], bool]) -> None:
    """Note that there is a compiler with our operators, and how it tells that a transform of `torch.func` is active."""
    _is_transforming[:] = [is_transforming]


@contextmanager
def tracing() -> Iterator[None]:
    """Let the formulas that this thread calls know that they are being traced."""
    before, _thread.tracing = _thread.tracing, True
    try:
        yield
    finally:
        _thread.tracing = before


def is_tracing() -> bool:
    """Whether what runs now becomes generated code: here, or in a region that a user compiles."""
    return torch.compiler.is_compiling() or _thread.tracing


@contextmanager
def nonzero(numbers: Sequence[Tensor]) -> Iterator[None]:
    """Let the formulas that this thread calls know that none of these numbers will be zero."""
    before, _thread.nonzero = _thread.nonzero, numbers
    try:
        yield
    finally:
        _thread.nonzero = before


def is_nonzero(number: Tensor | float) -> bool:
    """Whether this is known not to be zero, without a look at any tensor."""
    if isinstance(number, Tensor):
        return not torch.compiler.is_compiling() and any(number is x for x in _thread.nonzero)
    return number != 0


def takes_operators() -> bool:
    """Whether a whole algorithm may enter the trace as one operator: a transform does not find its derivative."""
    return is_tracing() and bool(_is_transforming) and not _is_transforming[0]()


def is_plain(x: Tensor) -> bool:
    """Whether operators find numbers in it and nothing else: in a tensor, a parameter, or a column in a file."""
    kind = type(x)
    sees_no_call = kind is Tensor or kind.__torch_function__ is torch._C._disabled_torch_function_impl
    return sees_no_call and kind.__torch_dispatch__ is Tensor.__torch_dispatch__


def is_differentiated(x: Tensor) -> bool:
    """Whether a derivative by this may be asked for."""
    if is_tracing() or x.requires_grad:
        return x.requires_grad
    return unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]
