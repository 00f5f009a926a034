"""A compiled step as one launch: a CUDA graph of it, with memory of its own for what comes in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from offline_losses._core.graph import first_line


class Replay:
    """A CUDA graph of the compiled step: recorded on the next call, replayed from then on."""

    def __init__(self, run: Callable[..., Sequence[Tensor]], state: int) -> None:
        self.run, self.state = run, state
        self.graph: torch.cuda.CUDAGraph | None = None
        self.failed = False

    def __call__(self, *flat: Tensor) -> list[Tensor]:
        if self.graph is None and not self.failed:
            self.inputs = [x.clone() for x in flat[self.state :]]
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):
                    self.outputs = self.run(*flat[: self.state], *self.inputs)
                self.graph = graph
            except RuntimeError as error:
                self.failed = True
                warnings.warn(f"compile_update: compiled, without a CUDA graph: {first_line(error)}.", stacklevel=6)
        if self.graph is None:
            return list(self.run(*flat))
        for held, x in zip(self.inputs, flat[self.state :], strict=True):
            held.copy_(x)
        self.graph.replay()
        return [x.clone() for x in self.outputs]
