"""What is checked and changed between the graph of an update and its code, which is not generated here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, library
from torch.fx import Graph, GraphModule

from offline_losses._compile import backend, private
from offline_losses._compile.backend import ReadsGradient, compile_part, compile_whole, gradient_before, kept


def module(*results: Any, static: Tensor | None = None) -> GraphModule:
    """Of two inputs, of which each result is made by the operators on its way."""
    graph, root = Graph(), torch.nn.Module()
    given = [graph.placeholder(name) for name in "xy"]
    if static is not None:
        root.static = static
        given.append(graph.get_attr("static"))
    found = []
    for place, *operators in results:
        node = given[place]
        for operator in operators:
            node = graph.call_function(operator, (node,))
        found.append(node)
    graph.output(found)
    return GraphModule(root, graph)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the compiler is given; the graph runs as it is."""
    calls: list[dict[str, Any]] = []

    def compile_fx(graph: GraphModule, inputs: Any, config_patches: dict[str, Any]) -> Any:
        calls.append({"graph": graph, "inputs": inputs, "patches": config_patches})
        return graph.forward

    monkeypatch.setattr(private.UPDATE, "compile_fx", compile_fx)
    return calls


def test_results_stay_as_they_are() -> None:
    """A copy without a gradient; what is no tensor is itself."""
    x = torch.ones(2, requires_grad=True)
    assert kept(x).equal(x)
    assert not kept(x).requires_grad
    assert kept(x).data_ptr() != x.data_ptr()
    assert kept("x") == "x"


def test_the_compiler_draws_as_eager_code_does(given: list[dict[str, Any]]) -> None:
    """And is given what the update has."""
    x, y = torch.rand(2, 3)
    graph = module((0, torch.neg))
    assert backend.compile_graph(graph, [x, y])(x, y)[0].equal(-x)
    assert given == [{"graph": graph, "inputs": [x, y], "patches": {"fallback_random": True, "size_asserts": False}}]


class OnACard(Tensor):
    """Or so it says."""

    is_cuda = True


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Filled each time that kernels are to be compiled together."""
    found: list[bool] = []

    @contextmanager
    def together() -> Iterator[None]:
        found.append(True)
        yield

    monkeypatch.setattr(backend, "together", together)
    return found


def test_a_card_has_options_of_its_own(
    given: list[dict[str, Any]], entered: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one of the inputs lies there, where kernels are no files of C++."""
    monkeypatch.setattr(private.KERNELS, "missing", lambda: None)
    card = pytest.importorskip("offline_losses._compile.card")
    monkeypatch.setattr(card, "options_of_card", lambda inputs: {"size_asserts": True, "inputs": len(inputs)})
    x = torch.rand(2)
    backend.compile_graph(module((0, torch.neg)), [x, x.as_subclass(OnACard), 3])
    assert not entered
    backend.compile_graph(module((0, torch.neg)), [x, 3])
    base = {"fallback_random": True, "size_asserts": False}
    assert [call["patches"] for call in given] == [base | {"size_asserts": True, "inputs": 3}, base]


@pytest.mark.parametrize("missing", [None, "PyTorch has no x"])
def test_kernels_are_compiled_together(
    missing: str | None, given: list[dict[str, Any]], entered: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where PyTorch has what it takes."""
    monkeypatch.setattr(private.KERNELS, "missing", lambda: missing)
    backend.compile_graph(module((0, torch.neg)), [])
    assert len(given) == 1
    assert entered == ([] if missing else [True])


def test_a_result_is_copied_where_it_is_memory_of_an_input(given: list[dict[str, Any]]) -> None:
    """Known after the first call: those that are returned, and no others; then none is looked for."""
    x, y = torch.rand(2, 3)
    mark = backend.result_of_update
    graph = module((0, mark), (1, torch.detach), (0, torch.neg, mark), (1, torch.neg))
    compiled = compile_whole(graph, [x, y])
    assert torch.clone in [node.target for node in graph.graph.nodes]
    assert mark not in [node.target for node in graph.graph.nodes]
    assert "torch.ops.offline_losses" not in graph.code
    found = compiled(x, y)
    assert [z.data_ptr() in (x.data_ptr(), y.data_ptr()) for z in found] == [False, True, False, False]
    shared = backend._with_memory_of_its_own(lambda x, y: (x, y, -x), [0, 2])
    for _ in range(2):
        found = shared(x, y)
        assert [z.data_ptr() in (x.data_ptr(), y.data_ptr()) for z in found] == [False, True, False]
        assert found[0].equal(x)
        assert found[2].equal(-x)
    apart = backend._with_memory_of_its_own(lambda x, y: (-x, y), [0])
    assert apart(x, 3)[0].equal(-x)


def test_a_gradient_that_is_read_is_refused(given: list[dict[str, Any]]) -> None:
    """One that is cleared first is not."""
    x, y = torch.rand(2, 3)
    with pytest.raises(ReadsGradient):
        compile_whole(module((0, gradient_before, torch.neg)), [x, y])
    graph = module((1, torch.neg))
    with graph.graph.inserting_before(graph.graph.output_node()):
        graph.graph.call_function(gradient_before, (next(iter(graph.graph.nodes)),))
    assert compile_whole(graph, [x, y])(x, y)[0].equal(-y)
    assert gradient_before not in [node.target for node in given[0]["graph"].graph.nodes]


def test_a_parameter_that_is_static_is_refused(given: list[dict[str, Any]]) -> None:
    """It would get no gradient; a constant has none."""
    x, y = torch.rand(2, 3)
    with pytest.raises(RuntimeError, match="a parameter is marked as static"):
        compile_whole(module((2, torch.neg), static=torch.nn.Parameter(x)), [x, y])
    assert compile_whole(module((2, torch.neg), static=x), [x, y])(x, y)[0].equal(-x)


@pytest.mark.parametrize(
    ("x", "frozen"),
    [
        (torch.tensor(1.0).double(), True),
        (torch.tensor(1.0), False),
        (torch.ones(1).double(), False),
        (torch.tensor(1.0).double().requires_grad_(), False),
        (torch.tensor(1.0, device="meta").double(), False),
        (1.0, False),
    ],
)
def test_a_number_of_doubles_is_not_written_into(x: Any, frozen: bool, given: list[dict[str, Any]]) -> None:
    """A whole update is refused, and a part runs as it is."""
    assert backend._is_frozen(x) is frozen
    graph = module((1, torch.neg))
    if frozen:
        with pytest.raises(RuntimeError, match="a 0-d tensor of doubles on the CPU"):
            compile_whole(graph, [x, torch.ones(1)])
    else:
        compile_whole(graph, [x, torch.ones(1)])
    given.clear()
    assert compile_part(graph, [x, torch.ones(1)]) == graph.forward
    assert len(given) == (not frozen)


def test_a_part_that_does_not_compile_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """But another analysis, which Dynamo asks for, begins."""
    errors: list[Exception] = [RuntimeError(), private.UPDATE.RestartAnalysis()]

    def fails(*_: Any, **__: Any) -> None:
        raise errors[0]

    monkeypatch.setattr(private.UPDATE, "compile_fx", fails)
    graph, x = module((0, torch.neg)), torch.ones(1)
    assert compile_part(graph, [x, x]) == graph.forward
    del errors[0]
    with pytest.raises(private.UPDATE.RestartAnalysis):
        compile_part(graph, [x, x])


def test_a_marker_is_an_operator() -> None:
    """With a kernel for all devices, and shapes where there are no values."""
    marker = backend._marker("marker_of_a_test", torch.zeros_like)
    assert marker(torch.ones(2)).tolist() == [0.0, 0.0]
    library.opcheck(marker, (torch.ones(2),))


@pytest.mark.parametrize("name", ["gradient_before", "result_of_update"])
def test_markers_are_new_memory(name: str) -> None:
    """Zeros, or the same."""
    x = torch.rand(3)
    found = getattr(backend, name)(x)
    assert found.equal(x if name == "result_of_update" else torch.zeros(3))
    assert found.data_ptr() != x.data_ptr()
    assert getattr(backend, name)(x.to("meta")).shape == (3,)
