"""Under which settings an update is traced, and what of PyTorch's ways is corrected meanwhile."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from test_compile_step import Slope, X, graphs
from torch import Tensor, nn
from torch.optim import SGD

from offline_losses import compile_update
from offline_losses._compile import private, switches, tracer, whole

__all__ = ["graphs"]
pytestmark = [
    pytest.mark.skipif(switches.switched_off() is not None, reason="the compiler is switched off"),
    pytest.mark.skipif(private.BACKWARD.missing() is not None, reason="no update is whole"),
]


class Net(nn.Module):
    """Counts how often it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.ones(2)), 0

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        self.calls += 1
        return self.weight * x * (1.0 + self.calls % 2)


def test_a_counter_of_a_module_does_not_choose_the_graph(graphs: list[Any]) -> None:
    """A second graph takes it for a number that changes."""
    net, eager = Net(), Net()
    optimizers = [SGD(one.parameters(), 0.1) for one in (net, eager)]

    def made(one: Net, optimizer: SGD) -> Any:
        def update(x: Tensor) -> None:
            optimizer.zero_grad()
            one(x).sum().backward()
            optimizer.step()

        return update

    run, plain = compile_update(made(net, optimizers[0])), made(eager, optimizers[1])
    for calls in range(1, 9):
        run(X)
        plain(X)
        assert net.calls == calls
        assert net.weight.allclose(eager.weight)
    assert len(graphs) == 2


def test_a_hook_that_a_module_gets_later_runs() -> None:
    """From the next call on."""
    net, scaled = nn.Linear(2, 1, bias=False), []
    optimizer = SGD(net.parameters(), 0.0)

    def update(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        y = net(x).sum()
        y.backward()
        optimizer.step()
        return y

    run = compile_update(update)
    for _ in range(3):
        scaled.append(run(X).item())
    net.register_forward_hook(lambda _, inputs, output: 3.0 * output)
    for _ in range(2):
        scaled.append(run(X).item() / 3)
    assert scaled == pytest.approx([scaled[0]] * 5)


@pytest.mark.parametrize(("library", "seed"), [("NumPy", np.random.seed), ("Python", random.seed)])
def test_random_numbers_are_drawn_from_their_own_stream(library: str, seed: Callable[[int], None]) -> None:
    """In an update that is compiled around them, which is told."""
    draw: dict[str, Callable[[], float]] = {"NumPy": np.random.rand, "Python": random.random}
    drawn: list[list[float]] = []
    for compiled in (True, False):
        one = Slope(lambda one, x: float(np.random.rand()) if library == "NumPy" else random.random())
        run = compile_update(one.update) if compiled else one.update
        seed(0)
        first = run(X)
        told = pytest.warns(UserWarning, match=f"{library} draws random numbers in") if compiled else nullcontext()
        with told:
            second = run(X)
        drawn.append([first, second, run(X), float(draw[library]())])
        assert one.at(3)
    assert drawn[0] == drawn[1]


def test_a_generator_of_ones_own_is_not_drawn_from_once_and_for_all() -> None:
    """What a trace drew from it would be a constant of the graph."""
    drawn = []
    for compiled in (True, False):
        generator = random.Random(3)
        one = Slope(lambda one, x, generator=generator: generator.random())
        run = compile_update(one.update) if compiled else one.update
        first = run(X)
        with pytest.warns(UserWarning, match="Python draws random numbers in") if compiled else nullcontext():
            second = run(X)
        drawn.append([first, second, *(run(X) for _ in range(3)), generator.random()])
        assert one.at(5)
    assert drawn[0] == drawn[1]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_backward_pass_behind_a_break_is_done() -> None:
    """Traced with `trace_autograd_ops` it would do nothing there."""
    one = Slope()

    def update(x: Tensor) -> None:
        one.optimizer.zero_grad()
        loss = (one.weight * x).sum()
        print("besides")
        loss.backward()
        one.optimizer.step()

    run = compile_update(update)
    run(X)
    with pytest.warns(UserWarning, match="in parts: something is printed"):
        run(X)
    for calls in range(3, 6):
        run(X)
        assert one.at(calls)


def test_graphs_of_one_update_are_counted(graphs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs one too many runs eagerly, which is told; another update of the same code has as many of its own."""
    monkeypatch.setattr(whole, "GRAPHS", 3)
    one, other = (Slope(lambda one, x: x * len(one.word)) for _ in range(2))
    runs = [compile_update(each.update) for each in (one, other)]
    runs[0](X)
    for one.word in ("", "x", "", "xx", ""):
        runs[0](X)
    assert len(graphs) == 3
    one.word = "xxx"
    with pytest.warns(UserWarning, match="update runs eagerly|update is compiled in parts"):
        runs[0](X)
    assert one.at(7)
    for calls in range(1, 4):
        runs[1](X)
        assert other.at(calls)


class Parent:
    """Has an attribute."""

    size = 1


class Child(Parent):
    """Inherits it."""


@pytest.mark.parametrize("kind", [Parent, Child])
def test_what_is_replaced_is_put_back(kind: type[Parent]) -> None:
    """Whether it was inherited or not, also after an error."""
    before = dict(vars(kind))
    with tracer.replaced(kind, "size", 2):
        assert kind.size == 2
    assert dict(vars(kind)) == before

    def fail() -> Iterator[None]:
        with tracer.replaced(kind, "size", 3):
            raise KeyError
        yield

    with pytest.raises(KeyError):
        next(fail())
    assert dict(vars(kind)) == before


def test_constants_of_one_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyTorch shares them between all traces, each of the three is an object of its own; and nowhere else."""
    constants = sys.modules["torch._dynamo.variables.constant"]
    for version, own in (("2.13.0", True), ("2.14.1", True), ("2.15.0", False)):
        monkeypatch.setattr(torch, "__version__", version)
        context = tracer._constants_of_their_own()
        assert isinstance(context, nullcontext) != (own and hasattr(constants, "CONSTANT_VARIABLE_NONE"))
        if isinstance(context, nullcontext):
            continue
        create = constants.ConstantVariable.create
        with context:
            for value in (None, True, False):
                one, other = (constants.ConstantVariable.create(value) for _ in range(2))
                assert one is not other
                assert one.value is other.value is value
            assert constants.ConstantVariable.create(3).value == 3
        assert constants.ConstantVariable.create is create
    monkeypatch.delattr(constants, "CONSTANT_VARIABLE_NONE", raising=False)
    monkeypatch.setattr(torch, "__version__", "2.13.0")
    assert isinstance(tracer._constants_of_their_own(), nullcontext)
