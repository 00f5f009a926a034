"""A compiled step as one launch: a CUDA graph of it, with memory of its own for what comes in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from offline_losses._compile.graph import LARGE
from offline_losses._compile.switches import first_line

COPIED_TOGETHER = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool)
"""The types that one launch copies many tensors of, whatever the version of PyTorch."""


def options_of_card(inputs: Sequence[Tensor], state: Sequence[Tensor]) -> dict[str, Any]:
    """How to compile a step that will be replayed.

    A step of small tensors takes as long as it has kernels: those that need nothing of each other are joined, equal
    products of small matrices become one batched product (unless the user has a pass of his own there), and the sums of
    a small batch and a small model take one kernel each.
    """
    from offline_losses._compile.products import BatchProducts

    batch, model = (max(map(Tensor.numel, tensors), default=0) for tensors in (inputs, state))
    return {
        "combo_kernels": True,
        "split_reductions": batch >= LARGE or model >= 8 * LARGE,
        "post_grad_custom_pre_pass": torch._inductor.config.post_grad_custom_pre_pass or BatchProducts(),
    }


class Replay:
    """A CUDA graph of the compiled step: recorded on the next call, replayed from then on.

    The tensors from place `start` to `stop` lie in other memory in every call; the rest stays where it is.
    """

    def __init__(self, run: Callable[..., Sequence[Tensor]], start: int, stop: int) -> None:
        self.run, self.start, self.stop = run, start, stop
        self.graph: torch.cuda.CUDAGraph | None = None
        self.failed = False

    def __call__(self, *flat: Tensor) -> list[Tensor]:
        if self.graph is None and not self.failed:
            self._record(flat)
        if self.graph is None:
            return list(self.run(*flat))
        self.arrive(self.inputs, flat[self.start : self.stop])
        self.graph.replay()
        results = [torch.empty_like(x) for x in self.outputs]
        self.leave(results, self.outputs)
        return results

    def _record(self, flat: Sequence[Tensor]) -> None:
        self.inputs = [x.clone() for x in flat[self.start : self.stop]]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.outputs = self.run(*flat[: self.start], *self.inputs, *flat[self.stop :])
        except RuntimeError as error:
            self.failed = True
            warnings.warn(f"compile_update: compiled, without a CUDA graph: {first_line(error)}.", stacklevel=6)
            return
        self.arrive, self.leave = _Copies(self.inputs), _Copies(self.outputs)
        self.graph = graph


class _Copies:
    """Copies into tensors like these, with one launch for all of one type."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        alike: dict[Any, list[int]] = {}
        for place, x in enumerate(tensors):
            alike.setdefault(x.dtype if x.dtype in COPIED_TOGETHER else place, []).append(place)
        self.alike = list(alike.values())

    def __call__(self, targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        for places in self.alike:
            if len(places) == 1:
                targets[places[0]].copy_(sources[places[0]])
            else:
                torch._foreach_copy_([targets[i] for i in places], [sources[i] for i in places])
