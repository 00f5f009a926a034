"""Every function under vmap, grad, jacrev, autocast and torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ledger import CASES, Case, Knob, Values, leaves, total
from torch import Tensor

each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_differentiable = pytest.mark.parametrize("case", [case for case in CASES if not case.row.detached], ids=str)
MAIN = {"expectile_loss", "cql_logsumexp_penalty", "awr_weights", "return_filter", "bellman_target"}


def batched(case: Case) -> dict[str, int]:
    """The batch axis of each tensor that has one."""
    return {
        name: 1 if isinstance(argument, Values) and case.leads(argument) else 0
        for name, argument in case.arguments.items()
        if getattr(argument, "axes", None) is not None and getattr(argument, "batched", True)
    }


@each_case
def test_vmap_equals_a_loop(case: Case) -> None:
    """Mapping over an outer axis equals calling the function for each of its entries, mask and weight included."""
    inputs, axes = case.build((3, 4)), batched(case)
    if case.row.tail:
        shape = case.shape((3, 4))
        inputs |= {"mask": torch.rand(shape) < 0.5, "weight": torch.rand(shape).double()}
        axes |= {"mask": shape.index(3), "weight": shape.index(3)}

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaves(case.row.function(**{**inputs, **dict(zip(axes, tensors, strict=True))})))

    mapped = torch.func.vmap(function, in_dims=tuple(axes.values()))(*(inputs[name] for name in axes))
    looped = [function(*(inputs[name].select(axis, i) for name, axis in axes.items())) for i in range(3)]
    for actual, expected in zip(mapped, zip(*looped, strict=True), strict=True):
        torch.testing.assert_close(actual, torch.stack(expected), rtol=1e-12, atol=1e-12)


@each_differentiable
def test_grad_and_jacrev_equal_autograd(case: Case) -> None:
    """Functional derivatives are the ordinary ones."""
    inputs = case.build()
    names = [name for name, argument in case.of(Values).items() if argument.gradient]

    def function(*tensors: Tensor) -> Tensor:
        return total(case.row.function(**{**inputs, **dict(zip(names, tensors, strict=True))}))

    tensors = [inputs[name] for name in names]
    with_grad = [tensor.clone().requires_grad_() for tensor in tensors]
    expected = torch.autograd.grad(function(*with_grad), with_grad)
    arguments = tuple(range(len(names)))
    for actual in (torch.func.grad(function, arguments)(*tensors), torch.func.jacrev(function, arguments)(*tensors)):
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@each_case
def test_autocast_changes_nothing(case: Case) -> None:
    """A loss inside an autocast region is computed as precisely as outside."""
    inputs = case.build(dtype=torch.float32)
    expected = leaves(case.row.function(**inputs))
    with torch.autocast("cpu", torch.bfloat16):
        actual = leaves(case.row.function(**inputs))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def schedule(case: Case) -> list[dict[str, Any]]:
    """Arguments of changing batch size, each knob taking five values in turn."""
    return [
        {**case.build((size,), seed=size), **{name: knob.schedule[step] for name, knob in case.of(Knob).items()}}
        for step, size in enumerate([4, 9, 6, 17, 3])
    ]


def value_and_gradient(function: Any, case: Case, inputs: dict[str, Any]) -> list[Tensor]:
    """The results, and the gradients of what receives one."""
    names = [name for name, argument in case.of(Values).items() if argument.gradient]
    inner = {name: inputs[name].clone().requires_grad_() for name in names}
    results = leaves(function(**{**inputs, **inner}))
    if case.row.detached:
        return results
    return [*results, *torch.autograd.grad(total(results), list(inner.values()))]


FULLEST = list({case.row.name: case for case in CASES}.values())


@pytest.mark.parametrize("case", FULLEST, ids=str)
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compiled_as_one_graph_equals_eager(case: Case, backend: str, request: pytest.FixtureRequest) -> None:
    """No graph break, and no value of a knob or a batch size grows stale: compiled equals eager over a schedule."""
    every = request.config.getoption("--compile-all")
    if backend == "inductor" and case.row.name not in MAIN and not every:
        pytest.skip("code is generated for the main functions only; --compile-all does it for all")
    torch._dynamo.reset()
    compiled = torch.compile(case.row.function, fullgraph=True, backend=backend)
    for inputs in schedule(case):
        actual = value_and_gradient(compiled, case, inputs)
        expected = value_and_gradient(case.row.function, case, inputs)
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
