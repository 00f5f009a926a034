"""Each way to the best stop is the loop, and each is taken where it should be."""

from __future__ import annotations

import pytest
import torch
from comparison import close
from torch import Tensor

from offline_losses._core import stops
from offline_losses._core.stops import best_stop
from offline_losses._core.tracing import tracing


def problem(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    b, a, stopped = torch.randn(3, *shape, dtype=torch.float64)
    a = a.tanh().abs()
    a[..., -1] = 0.0
    return b, a, torch.where(torch.rand(shape) < 0.5, -9.0, stopped)


def loop(b: Tensor, a: Tensor, stopped: Tensor) -> Tensor:
    """x_t = max(b_t + a_t x_{t+1}, s_t)."""
    x = [torch.maximum(b[..., -1], stopped[..., -1])]
    for t in range(b.shape[-1] - 2, -1, -1):
        x.append(torch.maximum(b[..., t] + a[..., t] * x[-1], stopped[..., t]))
    return torch.stack(x[::-1], -1)


@pytest.mark.parametrize("few", [0, 4, 10_000])
def test_each_way_is_the_loop(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At lengths around chunks of four, for few steps in all and for many."""
    monkeypatch.setattr(stops, "CHUNK", 4)
    monkeypatch.setattr(stops, "FEW", max(few, 1))
    for steps in (1, 2, 3, 5, 16, 17, 67):
        for rows in (1, 3):
            b, a, stopped = problem(rows, 2, steps)
            expected = loop(b, a, stopped)
            before = b.clone()
            close(stops.stop_in_order(b, a, stopped), expected)
            close(stops._by_halves(b, a, stopped), expected)
            assert b.equal(before)


def test_few_steps_are_numbers_and_short_rows_are_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """From more than so many steps in all on; rows of more than four chunks go one after the other."""
    monkeypatch.setattr(stops, "CHUNK", 4)
    monkeypatch.setattr(stops, "FEW", 32)
    ways: list[str] = []
    for name in ("_by_steps", "_by_chunks", "_by_numbers"):
        own = getattr(stops, name)
        monkeypatch.setattr(stops, name, lambda *x, own=own, name=name: ways.append(name) or own(*x))
    for shape, taken in (
        ((2, 16), ["_by_chunks", "_by_numbers"]),
        ((3, 16), ["_by_steps"]),
        ((3, 17), ["_by_chunks", "_by_chunks", "_by_numbers", "_by_steps"]),
    ):
        ways.clear()
        stops.stop_in_order(*problem(*shape))
        assert ways == taken


def test_values_are_looked_at_where_they_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, of plain tensors, in no trace; a tracer that has none goes by halves."""
    looked: list[Tensor] = []

    def in_order(b: Tensor, a: Tensor, stopped: Tensor) -> Tensor:
        looked.append(b)
        return loop(b, a, stopped)

    monkeypatch.setattr(stops, "stop_in_order", in_order)
    monkeypatch.setattr(stops, "takes_operators", lambda: False)
    b, a, stopped = problem(2, 5)
    with tracing():
        close(best_stop(b, a, stopped), loop(b, a, stopped))
    assert best_stop(*(x.to("meta") for x in (b, a, stopped))).shape == (2, 5)
    other = torch.Tensor._make_subclass(type("Other", (Tensor,), {}), b)
    close(best_stop(other, a, stopped).as_subclass(Tensor), loop(b, a, stopped))
    assert not looked
    close(best_stop(b, a, stopped), loop(b, a, stopped))
    assert len(looked) == 1

    def traced(*_: Tensor) -> Tensor:
        raise RuntimeError

    monkeypatch.setattr(stops, "stop_in_order", traced)
    close(best_stop(b, a, stopped), loop(b, a, stopped))


@pytest.mark.parametrize("taken", [False, True])
def test_compiled_code_takes_the_operator(taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a transform does not want its derivative."""
    b, a, stopped = problem(2, 5)
    monkeypatch.setattr(stops, "takes_operators", lambda: taken)
    monkeypatch.setattr(torch.ops.offline_losses, "best_stop", type("", (), {"default": lambda *x: "operator"}))
    assert (best_stop(b, a, stopped) == "operator") is taken


def test_it_chooses_in_the_widest_precision_without_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least that of float32."""
    monkeypatch.setattr(stops, "FEW", 1)
    b, a, stopped = (x.requires_grad_() for x in problem(2, 5))
    assert not best_stop(b, a, stopped).requires_grad
    assert best_stop(b, a.float(), stopped.half()).dtype == torch.float64
    assert best_stop(b.float(), a, stopped.float()).dtype == torch.float32
    assert best_stop(b.half(), a.half(), stopped.half()).dtype == torch.float32
