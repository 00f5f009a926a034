"""Which graphs the shapes of one function need; their code is not generated here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule

from offline_losses._compile import graph, passes, private
from offline_losses._compile.graph import Graph, Graphs, Plan, size_class
from offline_losses._compile.switches import Process, Unsupported

pytestmark = pytest.mark.skipif(private.COMPILER.missing() is not None, reason="nothing is traced")


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[GraphModule]:
    """What the compiler is given; the graphs run as they are."""
    given: list[GraphModule] = []

    def compile_fx_inner(module: GraphModule, inputs: Sequence[Tensor]) -> Callable[[list[Tensor]], Any]:
        given.append(module)
        return lambda tensors: module.forward(*tensors)

    monkeypatch.setattr(private.COMPILER, "compile_fx_inner", compile_fx_inner)
    return given


def product(x: Tensor, y: Tensor) -> list[Tensor]:
    """Of two tensors, one of which may lack axes."""
    return [x * y]


def made(plan: Plan, *examples: Tensor, first: bool = False, last: bool = False) -> Graph:
    """One graph of these examples."""
    return Graph(plan, examples, first=first, last=last)


def of(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Tensors of these shapes."""
    return [torch.ones(shape) for shape in shapes]


@pytest.mark.parametrize(
    ("fixed", "fitting"),
    [
        ({}, {(7, 5), (2, 5), (7, 6)}),
        ({"last": True}, {(7, 5), (2, 5)}),
        ({"first": True}, {(7, 5), (2, 5), (7, 6)}),  # too few elements for an axis of critics
    ],
)
def test_sizes_that_a_graph_takes(fixed: dict[str, bool], fitting: set[tuple[int, ...]]) -> None:
    """Every one that is two and more, but for those of an axis that keeps its length."""
    one = made(Plan(product), *of((7, 5), (5,)), **fixed)
    assert {s for s in [(7, 5), (2, 5), (7, 6), (1, 5), (0, 5), (7, 1)] if one.fits(of(s, s[1:]))} == fitting
    assert not one.fits(of((7, 5), (6,)))  # while tracing both were 5


def test_a_short_first_axis_keeps_its_length() -> None:
    """In a tensor of very many more elements it is one of critics or models."""
    for members, rows, fixed in ((16, 1024, True), (17, 1024, False), (16, 1023, False), (2, 8192, True)):
        one = made(Plan(product), *of((members, rows), (rows,)), first=True)
        assert one.fits(of((members + 1, rows), (rows,))) != fixed
        assert one.fits(of((members, rows + 1), (rows + 1,)))


def test_only_the_input_of_most_axes_keeps_a_length() -> None:
    """A batch without candidates has its own size in every graph."""
    one = made(Plan(lambda x, y: [x.sum(-1) * y]), *of((7, 5), (7,)), last=True)
    assert one.fits(of((9, 5), (9,)))
    row = made(Plan(product), *of((7,), (7,)), last=True)
    assert row.fits(of((9,), (9,)))


def test_a_batch_of_one_shrinks() -> None:
    """An axis that had more elements while tracing has one; an axis that always had one does not."""
    one = made(Plan(product), *of((7, 1), (1,)))
    assert one.shrinks(of((1, 1), (1,)))
    assert not one.shrinks(of((9, 1), (1,)))
    assert made(Plan(lambda x: [x + 1]), torch.ones(7, 5), last=True).shrinks([torch.ones(7, 1)])


def test_a_plan_of_values() -> None:
    """One graph, called with tensors of other sizes; it keeps nothing and has no gradients."""
    one = made(Plan(product), *of((7, 5), (5,)))
    (result,) = one(2 * torch.ones(3, 4), torch.arange(4.0))
    assert result.equal(2 * torch.arange(4.0).expand(3, 4))
    assert one.gradients(*of((3, 4), (4,))) is None


def test_a_plan_with_gradients(compiled: list[GraphModule]) -> None:
    """They are another graph, made when first asked for, of the inputs, the upstream gradients and the results."""

    def both(x: Tensor, y: Tensor, upstream: Tensor) -> list[Tensor]:
        return [x.exp() * y, upstream * x.exp() * y, upstream * x.exp()]

    one = made(Plan(lambda x, y: [x.exp() * y], both, [True]), *of((7,), (7,)))
    x, y = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])
    result, *kept = one(x, y)
    assert result.allclose(x.exp() * y)
    assert len(compiled) == 1
    for _ in range(2):
        of_x, of_y = one.gradients(x, y, torch.full((3,), 2.0), result, *kept) or (None, None)
        assert of_x is not None
        assert of_y is not None
        assert of_x.allclose(2 * x.exp() * y)
        assert of_y.allclose(2 * x.exp())
    assert len(compiled) == 2


def test_what_is_computed_twice_is_computed_once(compiled: list[GraphModule]) -> None:
    """Also where a detached copy hides that it is the same, and what nothing needs is left out."""

    def twice(x: Tensor) -> list[Tensor]:
        x.cos()
        return [x.exp() + x.detach().exp()]

    (result,) = made(Plan(twice), torch.ones(4))(torch.zeros(3))
    assert result.tolist() == [2.0, 2.0, 2.0]
    names = [str(node.target) for node in compiled[0].graph.nodes if node.op == "call_function"]
    assert [name for name in names if "sym_size" not in name] == ["aten.exp.default", "aten.add.Tensor"]


def test_gradients_whose_code_cannot_be_made(
    compiled: list[GraphModule], monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """There are none, which is said once and tried once."""
    both = Plan(lambda x: [x.exp()], lambda x, upstream: [x.exp(), upstream * x.exp()], [True])
    one = made(both, torch.ones(4))
    tries: list[Any] = []

    def fail(*_: Any) -> None:
        tries.append(None)
        raise RuntimeError("no\nwords")

    monkeypatch.setattr(private.COMPILER, "compile_fx_inner", fail)
    monkeypatch.setattr("offline_losses._compile.switches.warned", set())
    given = torch.ones(4), torch.ones(4), torch.ones(4).exp()
    assert [one.gradients(*given), one.gradients(*given)] == [None, None]
    assert len(tries) == 1
    assert [str(w.message) for w in recwarn] == [
        "offline_losses.fused runs eagerly: the compiler fails with RuntimeError: no."
    ]


def test_the_first_length_is_fixed_and_the_next_ones_open() -> None:
    """Three graphs serve every number of critics and candidates; other sizes find theirs again."""
    graphs = Graphs(Plan(product))
    shapes = [(4, 3000, 5), (4, 3001, 5), (4, 3000, 6), (4, 3000, 7), (5, 3000, 6), (4, 3000, 5), (6, 2999, 9)]
    found = [graphs.fit(of(shape, shape[1:])) for shape in shapes]
    assert [graphs._graphs.index(one) if one else None for one in found] == [0, 0, 1, 1, 2, 0, 2]
    assert len(graphs) == 3


def test_the_second_graph_keeps_what_has_not_changed() -> None:
    """Only the axis that changed is open in it."""
    graphs = Graphs(Plan(product))
    for shape in [(4, 3000, 5), (4, 3000, 6)]:
        graphs.fit(of(shape, shape[1:]))
    _, second = graphs._graphs
    assert second.fits(of((4, 2000, 9), (2000, 9)))
    assert not second.fits(of((5, 3000, 6), (3000, 6)))
    numbers = Graphs(Plan(lambda x: [x + 1]))
    assert numbers.fit(of(())) is numbers.fit([torch.tensor(2.0)])


def test_a_smaller_batch_than_any_graph_runs_eagerly() -> None:
    """It is not worth one more, but what comes first is."""
    graphs = Graphs(Plan(product))
    assert graphs.fit(of((7, 5), (5,))) is not None
    assert graphs.fit(of((1, 5), (5,))) is None
    assert len(graphs) == 1


@pytest.mark.parametrize(
    "slow", [lambda x: x.sort(stable=True).values, lambda x: x.cummax(0).values, lambda x: x.argmax(0)]
)
def test_what_is_slower_as_code_stays_eager(
    slow: Callable[[Tensor], Tensor], compiled: list[GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sort is tried once, a cumulative maximum and its place too, and no graph is kept."""
    traced: list[Any] = []
    trace = Graph._trace
    monkeypatch.setattr(Graph, "_trace", lambda *given: traced.append(None) or trace(*given))
    graphs = Graphs(Plan(lambda x: [slow(x)]))
    assert [graphs.fit([torch.ones(5)]), graphs.fit([torch.ones(9)])] == [None, None]
    assert (len(graphs), len(traced), compiled) == (0, 1, [])


def each_size(x: Tensor) -> list[Tensor]:
    """Something else for each of the first sizes, as a guard."""
    return next([x + size] for size in range(2, 99) if x.shape[0] == size)


def test_too_many_graphs() -> None:
    """What needs more than eight is refused, and what has one goes on."""
    graphs = Graphs(Plan(each_size))
    first = [graphs.fit([torch.ones(size)]) for size in range(2, 10)]
    assert len(graphs) == len(set(first)) == 8
    for _ in range(2):
        with pytest.raises(Unsupported, match="the shapes of one function have needed 8 graphs already"):
            graphs.fit([torch.ones(10)])
    assert graphs.fit([torch.ones(5)]) is first[3]


def test_the_third_graph_keeps_no_length() -> None:
    """Even of an axis that has not changed yet."""
    graphs = Graphs(Plan(each_size))
    for rows in (5, 7, 6):
        graphs.fit([torch.ones(rows, 3)])
    assert [one.fits([torch.ones(rows, 9)]) for rows, one in zip((5, 7, 6), graphs._graphs, strict=True)] == [
        *(False, False),
        True,
    ]


def test_the_tensor_of_most_axes_tells_which_lengths_are_kept() -> None:
    """Wherever it stands among the inputs."""
    graphs = Graphs(Plan(product))
    for count in (5, 6, 7):
        graphs.fit(of((), (9, count)))
    assert len(graphs) == 2


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked once, and the reason is its first line."""
    tries: list[Any] = []

    def fail(*_: Any) -> None:
        tries.append(None)
        raise OSError("disk full\nat")

    monkeypatch.setattr(private.COMPILER, "compile_fx_inner", fail)
    graphs = Graphs(Plan(product))
    for size in (5, 6):
        with pytest.raises(Unsupported, match=r"^the compiler fails with OSError: disk full$"):
            graphs.fit(of((size,), (size,)))
    assert len(tries) == 1


def test_a_version_that_lacks_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is that of the probe."""
    monkeypatch.setattr(private, "COMPILER", private.Names(make_fx="torch:no_such_thing"))
    graphs = Graphs(Plan(product))
    for _ in range(2):
        with pytest.raises(Unsupported, match="no_such_thing"):
            graphs.fit(of((5,), (5,)))


def test_shapes_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then anew, and the graphs stay."""
    monkeypatch.setattr(graph, "SHAPES", 2)
    graphs, seen = Graphs(Plan(product)), []
    monkeypatch.setattr(Graph, "fits", lambda self, tensors: seen.append(tensors[0].shape[0]) or True)
    for size in (5, 6, 5, 7, 7, 6):
        graphs.fit(of((size,), (size,)))
    assert seen == [6, 7, 6]
    assert len(graphs) == 1


def test_graphs_of_a_card_serve_few_sizes() -> None:
    """A sum keeps its number of blocks, so that sizes share a graph only up to four times the smallest."""
    with FakeTensorMode():
        classes = [size_class([torch.empty(2**n, device="cuda:0")])[0] for n in range(8, 27)]
        assert size_class([torch.empty(()), torch.empty(2**17, device="cuda:0")])[0] == 2  # a number of the CPU
    assert classes[:7] == [0] * 7  # up to 2¹⁴
    assert classes[7:] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5]
    assert [size_class([torch.empty(2**n)])[0] for n in (14, 15, 20)] == [0, 1, 1]


def test_small_and_large_have_graphs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the largest tensor, and by the number of threads."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert size_class(of((2**15 - 1,), (2,))) == (0, 3)
    assert size_class(of((2,), (2**15,))) == (1, 3)


@pytest.mark.parametrize("loss", [True, False])
def test_the_passes_over_a_graph(loss: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each graph of the CPU has them, and that of a loss one more."""
    seen: list[str] = []
    for name in ("write_beside", "add_in_double", "count_as_numbers", "write_as_numbers", "read_as_numbers"):
        own = getattr(passes, name)

        def spied(nodes: Any, name: str = name, own: Any = own) -> Any:
            seen.append(name)
            return own(nodes)

        monkeypatch.setattr(passes, name, spied)
    made(Plan(lambda x: [x.exp()], loss=loss), torch.ones(5))
    rest = ["add_in_double", "count_as_numbers", "write_as_numbers", "read_as_numbers"]
    assert seen == (["write_beside", *rest] if loss else rest)
    seen.clear()
    made(Plan(lambda x: [x.exp()], sequential=True), torch.ones(5))
    assert seen == rest[:-1]


def test_flags_go_in_and_come_out_as_numbers(compiled: list[GraphModule]) -> None:
    """Of generated code, whose caller sees flags."""
    one = made(Plan(lambda x, flag: [torch.where(flag, x, -x), flag & (x > 0)]), torch.ones(5), torch.ones(5).bool())
    x, flag = torch.tensor([1.0, -1.0, 2.0]), torch.tensor([True, True, False])
    moved, both = one(x, flag)
    assert moved.tolist() == [1.0, -1.0, -2.0]
    assert both.equal(torch.tensor([True, False, False]))
    assert len([node for node in compiled[0].graph.nodes if node.op == "placeholder"]) == 3


@pytest.mark.parametrize("sequential", [True, False])
def test_the_compiler_s_settings_are_its_own_on_the_cpu(sequential: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for checks of sizes, which have been made; and the process is known to have compiled."""
    seen: list[Any] = []
    config = private.COMPILER.config
    before = config.realize_opcount_threshold
    inner = private.COMPILER.compile_fx_inner
    monkeypatch.setattr(
        private.COMPILER,
        "compile_fx_inner",
        lambda *given: seen.append((config.realize_opcount_threshold, config.size_asserts)) or inner(*given),
    )
    monkeypatch.setattr(Process, "compiled", False)
    made(Plan(lambda x: [x.exp()], sequential=sequential), torch.ones(5))
    assert seen == [(before, private.needs_size_asserts())]
    assert Process.compiled
