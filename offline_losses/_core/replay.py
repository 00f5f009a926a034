"""A compiled step as one launch: a CUDA graph of it, with memory of its own for what comes in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from offline_losses._core.graph import LARGE, first_line


def options_of_card(inputs: Sequence[Tensor], state: Sequence[Tensor]) -> dict[str, Any]:
    """How to compile a step that will be replayed.

    A step of small tensors takes as long as it has kernels: those that need nothing of each other are joined, and so
    are such products, and the sums of a small batch and a small model take one kernel each.
    """
    from offline_losses._core.products import BatchProducts

    batch, model = (max(map(Tensor.numel, tensors), default=0) for tensors in (inputs, state))
    return {
        "combo_kernels": True,
        "split_reductions": batch >= LARGE or model >= 8 * LARGE,
        "post_grad_custom_pre_pass": BatchProducts(),
    }


class Replay:
    """A CUDA graph of the compiled step: recorded on the next call, replayed from then on.

    `moving` are the places of the tensors that lie in other memory in every call; the rest stays where it is.
    """

    def __init__(self, run: Callable[..., Sequence[Tensor]], moving: range) -> None:
        self.run, self.moving = run, moving
        self.graph: torch.cuda.CUDAGraph | None = None
        self.failed = False

    def __call__(self, *flat: Tensor) -> list[Tensor]:
        if self.graph is None and not self.failed:
            self._record(flat)
        if self.graph is None:
            return list(self.run(*flat))
        for places in self.arriving:
            torch._foreach_copy_([self.inputs[i] for i in places], [flat[i] for i in places])
        self.graph.replay()
        results = [torch.empty_like(x) for x in self.outputs]
        for places in self.leaving:
            torch._foreach_copy_([results[i] for i in places], [self.outputs[i] for i in places])
        return results

    def _record(self, flat: Sequence[Tensor]) -> None:
        self.inputs = {i: flat[i].clone() for i in self.moving}
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.outputs = self.run(*(self.inputs.get(i, x) for i, x in enumerate(flat)))
        except RuntimeError as error:
            self.failed = True
            warnings.warn(f"compile_update: compiled, without a CUDA graph: {first_line(error)}.", stacklevel=7)
            return
        self.arriving, self.leaving = _alike(self.inputs), _alike(dict(enumerate(self.outputs)))
        self.graph = graph


def _alike(tensors: Mapping[int, Tensor]) -> list[list[int]]:
    """The places of those of one type, which one launch copies."""
    found: dict[torch.dtype, list[int]] = {}
    for place, x in tensors.items():
        found.setdefault(x.dtype, []).append(place)
    return list(found.values())
