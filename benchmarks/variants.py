"""One way to do a piece of work, and how a function and its gradient become one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
from ledger import leaves
from torch import Tensor

Run: TypeAlias = Callable[[], Any]
Maker: TypeAlias = "Callable[[], Variant]"
Variants: TypeAlias = "dict[str, Maker]"

MODES = ("forward", "forward+backward")
TOLERANCE = 1e-4
PATIENCE = 30.0  # for plain torch.compile, to which a recurrence with symbolic sizes is minutes of work


@dataclass(frozen=True)
class Variant:
    """`run` does the work once and returns what it computed."""

    run: Run
    work: float = 1.0  # the share of the whole that a run does; its time is divided by it
    tolerance: float | None = (
        TOLERANCE  # of its results, against the first variant's; None: there is nothing to compare
    )
    note: str = ""
    calls: int = 1  # before it is ready; the last of them is compared
    patience: float | None = None  # seconds for these calls, which may have to compile


@dataclass(frozen=True)
class Workload:
    """A piece of work and the variants that do it, the first being the reference; to make one may raise ImportError."""

    group: str
    name: str
    shape: str
    mode: str
    elements: int
    variants: Callable[[torch.device], Variants]
    precision: str = "highest"  # of products of float32, in the words of PyTorch

    def __str__(self) -> str:
        return f"{self.name} {self.shape} {self.mode}"


def run_of(function: Callable[..., Any], arguments: Mapping[str, Any], mode: str) -> Run:
    """A call that computes the results and, for forward+backward, the gradient of whatever requires one."""
    if mode == "forward":
        return lambda: leaves(function(**arguments))
    inputs = [value for value in arguments.values() if isinstance(value, Tensor) and value.requires_grad]
    factors: list[Tensor | None] = []

    def run() -> list[Tensor | None]:
        results = [leaf for leaf in leaves(function(**arguments)) if leaf.requires_grad]
        if not factors:  # made in the first call, which is the one that compiles
            factors.extend(cotangents(results))
        return [*results, *torch.autograd.grad(results, inputs, factors, allow_unused=True)]

    return run


def maker(function: Callable[..., Any], arguments: Mapping[str, Any], mode: str, **fields: Any) -> Maker:
    """The variant that calls this function."""
    return lambda: Variant(run_of(function, arguments, mode), **fields)


def cotangents(results: Sequence[Tensor]) -> list[Tensor | None]:
    """One fixed factor for each element of a result; a number needs none."""
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(x.shape, generator=generator).to(x.device) if x.ndim else None for x in results]


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """What one line around a function gives its user."""
    return torch.compile(function, dynamic=True)


def shape_text(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(str(side) for side in shape) + "]"
