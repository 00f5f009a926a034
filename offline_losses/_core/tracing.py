"""What a formula may ask about a compiler: whether one is reading it, and how a kernel of ours runs as generated code.

Nothing here imports one. `_compile` registers itself when it is loaded; without it formulas run as they are written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor


class Compiler(Protocol):
    """What `_compile` offers."""

    def is_transforming(self) -> bool:
        """Whether a transform of `torch.func` is active, which does not find the derivative of an operator."""

    def run(self, kernel: Callable[..., Sequence[Tensor]], *tensors: Tensor) -> Sequence[Tensor] | None:
        """The kernel as generated code on contiguous tensors; None where there can be none."""


class _Thread(threading.local):
    tracing = False


_thread = _Thread()
_registered: list[Compiler] = []


def register(compiler: Compiler) -> None:
    """Let formulas use this compiler."""
    _registered[:] = [compiler]


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


def takes_operators() -> bool:
    """Whether a whole algorithm may enter the trace as one operator."""
    return is_tracing() and bool(_registered) and not _registered[0].is_transforming()


def run_kernel(kernel: Callable[..., Sequence[Tensor]], *tensors: Tensor) -> Sequence[Tensor] | None:
    """A kernel as generated code; None where there can be none."""
    return _registered[0].run(kernel, *tensors) if _registered else None
