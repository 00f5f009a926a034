"""On a card: the same values, no synchronization, and capture in a CUDA graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ledger import CASES, Case, Knob, leaves
from torch import Tensor

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def on_card(case: Case) -> dict[str, Any]:
    """The arguments on the card, knobs as 0-d tensors there."""
    return {
        name: value.cuda()
        if isinstance(value, Tensor)
        else torch.tensor(value).cuda()
        if name in case.of(Knob)
        else value
        for name, value in case.build(dtype=torch.float32).items()
    }


@each_case
def test_values_equal_float64_on_the_cpu(case: Case) -> None:
    """The card computes what the CPU computes in double precision."""
    inputs = {name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
              for name, value in case.build(dtype=torch.float32).items()}  # fmt: skip
    for actual, expected in zip(
        leaves(case.row.function(**on_card(case))), leaves(case.row.function(**inputs)), strict=True
    ):
        torch.testing.assert_close(actual.cpu(), expected.to(actual.dtype), rtol=1e-5, atol=1e-5)


@each_case
def test_nothing_waits_for_the_card(case: Case) -> None:
    """No function synchronizes."""
    inputs = on_card(case)
    case.row.function(**inputs)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        case.row.function(**inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@each_case
def test_a_cuda_graph_replays_it(case: Case) -> None:
    """Captured once and replayed on new data, it gives the new data's result."""
    inputs, new = on_card(case), case.build(dtype=torch.float32, seed=7)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        case.row.function(**inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = leaves(case.row.function(**inputs))
    for name, value in new.items():
        if isinstance(value, Tensor):
            inputs[name].copy_(value)
    graph.replay()
    for actual, expected in zip(captured, leaves(case.row.function(**inputs)), strict=True):
        torch.testing.assert_close(actual, expected)
