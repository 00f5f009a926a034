"""The least that a piece of work can take: a copy of its input, or its bare matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from benchmarks.variants import Variant

Product: TypeAlias = tuple[int, int, int]  # [m, k] times [k, n]


def clone_floor(tensor: Tensor) -> Variant:
    """Reads and writes as many bytes as the first input has."""
    return Variant(tensor.detach().clone, tolerance=None)


def product_floor(products: list[Product], device: torch.device) -> Variant:
    """The matrix products alone, into memory that is there already; on a card one CUDA graph of them."""
    operands = [
        (torch.randn(m, k, device=device), torch.randn(k, n, device=device), torch.empty(m, n, device=device))
        for m, k, n in products
    ]

    def run() -> None:
        for left, right, out in operands:
            torch.mm(left, right, out=out)

    if device.type == "cpu":
        return Variant(run, tolerance=None)
    run()  # what a first product prepares cannot be recorded
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()

    def replay() -> int:
        graph.replay()
        return len(operands)  # which the graph reads and writes, and does not hold

    return Variant(replay, tolerance=None)


def passes(rows: int, widths: tuple[int, ...], *, weights: bool = False, inputs: bool = False) -> Iterator[Product]:
    """Products of one network: forward, and backward to its weights, to its input, to both or to neither."""
    layers = list(pairwise(widths))
    yield from ((rows, into, out) for into, out in layers)
    for layer, (into, out) in enumerate(layers):
        if weights:
            yield out, rows, into
        if inputs or (weights and layer > 0):
            yield rows, out, into
