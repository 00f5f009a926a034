"""How kernels of formulas run as generated code: the compiler that `_core` knows nothing of, registered there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from offline_losses._compile import private
from offline_losses._compile.graph import Graphs, Plan, Process, Unsupported, size_class
from offline_losses._core import tracing

_graphs: dict[Any, Graphs] = {}


class Inductor:
    """TorchInductor, as `tracing.Compiler` wants it."""

    def is_transforming(self) -> bool:
        """Whether a transform of `torch.func` is active."""
        return private.is_transforming()

    def run(self, kernel: Callable[..., Sequence[Tensor]], *tensors: Tensor) -> Sequence[Tensor] | None:
        """The kernel as generated code; None where the compiler cannot."""
        if Process.forked:
            return None
        like = tensors[0]
        key = (kernel, tensors[1].dim(), like.dtype, like.device, size_class(tensors))
        try:
            graph = _graphs.setdefault(key, Graphs(Plan(kernel, sequential=True))).fit(tensors)
        except Unsupported:
            return None
        return kernel(*tensors) if graph is None else graph(*tensors)


tracing.register(Inductor())
