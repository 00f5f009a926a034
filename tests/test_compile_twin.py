"""Which calls of a fused function take generated code, which is not generated here, and what autograd sees of them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule

from offline_losses._compile import passes, private, switches, twin
from offline_losses._compile.call import Call
from offline_losses._compile.graph import Graph
from offline_losses._compile.twin import fuse
from offline_losses._core.checks import Knob

pytestmark = pytest.mark.skipif(switches.switched_off() is not None, reason="the compiler is switched off")


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[GraphModule]]:
    """What the compiler is given; the graphs run as they are, for small tensors too, and without a warning."""
    given: list[GraphModule] = []

    def compile_fx_inner(module: GraphModule, _: Any) -> Callable[[list[Tensor]], Any]:
        given.append(module)
        return lambda tensors: module.forward(*tensors)

    monkeypatch.setattr(private.COMPILER, "compile_fx_inner", compile_fx_inner)
    monkeypatch.setattr(twin, "SMALL", 0)
    monkeypatch.setattr(switches, "warned", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield given


class Pair(NamedTuple):
    """Two results."""

    first: Tensor
    second: Tensor


def weighted(x: Tensor, y: Tensor, *, scale: Knob = 3.0, word: str = "plain") -> Tensor:
    """A loss with a number and a word."""
    return scale * (x * y).exp().sum() * (2.0 if word == "twice" else 1.0)


def powers(x: Tensor, y: Tensor) -> Pair:
    """Two results, the second one of both arguments."""
    return Pair(x.exp(), (x * y).exp())


def some() -> tuple[Tensor, Tensor]:
    """Two arguments."""
    return torch.tensor([0.0, 1.0, 2.0], requires_grad=True), torch.tensor([0.5, 0.0, 1.0], requires_grad=True)


def test_arguments_by_place_and_by_name(compiled: list[GraphModule]) -> None:
    """In any order, with the defaults; a number is an input of one graph, and a word makes another."""
    function, (x, y) = fuse(weighted), some()
    expected = weighted(x, y)
    for result in (function(x, y), function(y=y, x=x), function(x, y=y, scale=3.0), function(x, word="plain", y=y)):
        assert result.allclose(expected)
    assert len(compiled) == 1
    assert function(x, scale=5.0, y=y).allclose(5 / 3 * expected)
    assert len(compiled) == 1
    assert function(x, y, word="twice").allclose(2 * expected)
    assert len(compiled) == 2


def test_gradients_by_place_and_by_name() -> None:
    """Each argument gets its own."""
    x, y = some()
    slope = 3.0 * (x * y).exp().detach()
    for result in (fuse(weighted)(x, y), fuse(weighted)(y=y, x=x)):
        of_x, of_y = torch.autograd.grad(result, [x, y])
        assert of_x.allclose(slope * y)
        assert of_y.allclose(slope * x)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.double(),
        lambda x: x.detach().requires_grad_(not x.requires_grad),
        lambda x: torch.stack([x, x], 1).detach()[:, 0].requires_grad_(),
        lambda x: torch.cat([x, x]),
        lambda x: x[None],
        lambda x: nn.Parameter(x.detach()),
        lambda x: x * 1.0,
    ],
)
def test_what_makes_a_call_another_one(change: Callable[[Tensor], Tensor]) -> None:
    """The dtype, the shape, the class, the layout in memory, and whether and how a gradient is recorded."""
    x, _ = some()
    assert twin._key([x], []) == twin._key([x.clone().detach().requires_grad_()], [])
    assert twin._key([x], []) != twin._key([change(x)], [])


def test_what_else_makes_a_call_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, values and their types, gradients switched off, and the number of threads."""
    x, _ = some()
    key = twin._key([x, 1.0], ["scale"])
    assert key != twin._key([x, 1.0], ["word"])
    assert key != twin._key([x, 2.0], ["scale"])
    assert key != twin._key([x, 1], ["scale"])
    with torch.no_grad():
        assert key != twin._key([x, 1.0], ["scale"])
    assert twin._key([x * 1.0], []) != twin._key([x.detach()], [])
    one, other = (nn.Parameter(torch.zeros(3)) for _ in range(2))
    assert twin._key([one], []) == twin._key([other], [])
    with torch.inference_mode():
        made = torch.zeros(3)
    assert twin._key([made], []) != twin._key([torch.zeros(3)], [])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert key != twin._key([x, 1.0], ["scale"])


class Own(Tensor):
    """A subclass."""


@pytest.mark.parametrize(
    "values",
    [
        lambda: (torch.ones(1), torch.ones(1)),
        lambda: (torch.ones(()), torch.ones(())),
        lambda: (torch.ones(1, 5), torch.ones(5)),
        lambda: (torch.ones(5), torch.ones(1, 5)),
        lambda: (torch.ones(5, 1, 5), torch.ones(5)),
        lambda: (torch.ones(0, 5), torch.ones(5)),
        lambda: (torch.ones(5).as_subclass(Own), torch.ones(5)),
        lambda: (torch.ones(5), torch.eye(5).to_sparse()),
        lambda: (torch.ones(5, device="meta"), torch.ones(5, device="meta")),
    ],
)
def test_calls_that_run_as_they_are(values: Callable[[], tuple[Tensor, Tensor]], compiled: list[GraphModule]) -> None:
    """A batch of one, none at all, classes and layouts and devices that generated code does not know."""
    function = fuse(lambda x, y: x * y if x.layout == y.layout else x * y.to_dense())
    one, other = values()
    found = function(one, other)
    assert type(found) is type(one * 1.0)
    assert found.shape == torch.broadcast_shapes(one.shape, other.shape)
    assert not compiled


def test_a_large_batch_of_one_is_worth_a_graph(compiled: list[GraphModule]) -> None:
    """If what it holds is much, and a last axis of one is none of a batch."""
    function = fuse(lambda x: (x * 2).exp().log())
    x = torch.rand(1, 2**15)
    assert function(x).allclose(2 * x, atol=1e-6)
    assert len(compiled) == 1
    assert function(torch.zeros(5, 1)).shape == (5, 1)
    assert len(compiled) == 2
    assert fuse(lambda x, y: x * y)(torch.ones(2), torch.ones(())).tolist() == [1.0, 1.0]
    assert len(compiled) == 3
    assert fuse(lambda x: x.exp().sum())(torch.zeros(2)) == 2.0
    assert len(compiled) == 4


def test_one_element_along_an_axis_makes_no_other_call_eager(compiled: list[GraphModule]) -> None:
    """What had more while tracing runs as it is, and the next batch by its graph."""
    function = fuse(lambda x: x.exp())
    x = torch.ones(7, 5, requires_grad=True)
    for given in (x, x[:, :1], x[:6]):
        assert function(given).equal(given.exp())
    assert type(function(x[:, :1]).grad_fn).__name__ == "ExpBackward0"
    assert type(function(x[:5]).grad_fn).__name__ == "ResultNodeBackward"
    assert len(compiled) == 1


def test_the_gradients_of_a_loss_are_written_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of nothing else."""
    seen: list[Any] = []
    monkeypatch.setattr(passes, "write_beside", seen.append)
    x, y = some()
    fuse(weighted)(x, y)
    assert len(seen) == 1
    fuse(powers)(x, y)
    fuse(weighted)(x.detach(), y.detach())
    assert len(seen) == 1


def test_who_looks_at_operators_sees_them(compiled: list[GraphModule]) -> None:
    """A transform, forward-mode differentiation, and a compiler around."""
    function, (x, y) = fuse(weighted), some()
    pairs = torch.stack([x, y]).detach()
    assert torch.func.vmap(function)(pairs, pairs).allclose(torch.func.vmap(weighted)(pairs, pairs))
    slopes = [torch.func.jvp(f, (x.detach(), y.detach()), (y.detach(), x.detach()))[1] for f in (function, weighted)]
    assert slopes[0].allclose(slopes[1])
    assert not compiled


def test_stances_hold_for_what_is_compiled_and_what_is_not(compiled: list[GraphModule]) -> None:
    """Known calls go on, new ones run eagerly or are refused, as with `torch.compile`."""
    function, (x, y) = fuse(weighted), some()

    def node(x: Tensor, y: Tensor) -> str:
        return type(function(x, y).grad_fn).__name__

    assert node(x, y) == "LossNodeBackward"
    two = torch.cat([x, y])
    with torch.compiler.set_stance("eager_on_recompile"):
        assert [node(x, y), node(two, two)] == ["LossNodeBackward", "MulBackward0"]
    with torch.compiler.set_stance("fail_on_recompile"):
        assert node(x, y) == "LossNodeBackward"
        with pytest.raises(RuntimeError, match="fail_on_recompile: expected a call that is compiled already"):
            function(torch.cat([x, two]), torch.cat([x, two]))
    with torch.compiler.set_stance("force_eager"), pytest.warns(UserWarning, match="force_eager"):
        assert node(x, y) == "MulBackward0"
    assert len(compiled) == 1


def test_a_compiler_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and the function itself runs."""

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(private.COMPILER, "compile_fx_inner", fail)
    function, (x, y) = fuse(weighted), some()
    with pytest.warns(UserWarning, match="runs eagerly: the compiler fails with OSError: disk full"):
        assert function(x, y).equal(weighted(x, y))
    assert function(y, x).equal(weighted(x, y))


def test_a_target_of_inference_mode() -> None:
    """Autograd saves none of them, whatever stands beside it."""
    x, y = some()
    with torch.inference_mode():
        made = y.clone()
    result = fuse(lambda x, y: (x * y.exp()).exp().sum())(x, made.detach())
    assert result.allclose((x * y.exp()).exp().sum())


def test_a_gradient_of_16_bits_is_not_scaled_afterwards() -> None:
    """It would be rounded twice."""
    x, y = some()
    function = fuse(lambda x, y: (x * y).exp().sum())
    half = y.detach().bfloat16().requires_grad_()
    assert type(function(x, half).grad_fn).__name__ == "ResultNodeBackward"
    assert type(function(x, y.detach().double().requires_grad_()).grad_fn).__name__ == "LossNodeBackward"


def test_a_gradient_is_scaled() -> None:
    """By the one from above, which may be one, another, a batch of them, or recorded."""
    x, y = some()
    of_x = 3.0 * (x * y).exp().detach() * y.detach()
    for factor in (1.0, 0.5, 2.0):
        assert torch.autograd.grad(factor * fuse(weighted)(x, y), x)[0].allclose(factor * of_x)
    loss, factors = fuse(weighted)(x, y), torch.tensor([1.0, 2.0])
    batch = torch.autograd.grad(loss, x, factors, is_grads_batched=True, retain_graph=True)[0]
    assert batch.allclose(factors[:, None] * of_x)
    mapped = torch.func.vmap(lambda g: torch.autograd.grad(loss, x, g, retain_graph=True)[0])
    assert mapped(factors).allclose(factors[:, None] * of_x)
    for _ in range(2):  # given away the first time
        assert torch.autograd.grad(loss, x, retain_graph=True)[0].allclose(of_x)
    slope = torch.autograd.grad(fuse(weighted)(x, y), x, create_graph=True)[0]
    second = torch.autograd.grad(slope.sum(), x)[0]
    assert second.allclose(of_x * y.detach())


def test_rows_of_gradients() -> None:
    """Differentiated again where that is recorded, and by the graph of gradients where it is not."""
    x, y = some()
    of_x = torch.autograd.grad(fuse(powers)(x, y).second.sum(), x, create_graph=True)[0]
    assert of_x.allclose((x * y).exp() * y)
    assert torch.autograd.grad(of_x.sum(), x)[0].allclose((x * y).exp() * y * y)
    pair = fuse(powers)(x, y)
    assert torch.autograd.grad(pair.first.sum(), x, retain_graph=True)[0].allclose(x.exp())
    of_y = torch.autograd.grad(pair.first.sum(), y, retain_graph=True, allow_unused=True)[0]
    assert of_y is None
    both = torch.autograd.grad(pair.first.sum() + 2 * pair.second.sum(), [x, y])
    assert both[0].allclose(x.exp() + 2 * (x * y).exp() * y)
    assert both[1].allclose(2 * (x * y).exp() * x)


def test_gradients_without_code_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autograd computes them, and it is said."""
    x, y = some()
    result = fuse(powers)(x, y).second.sum()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(private.COMPILER, "compile_fx_inner", fail)
    with pytest.warns(UserWarning, match="disk full"):
        assert torch.autograd.grad(result, x)[0].allclose((x * y).exp() * y)


def test_a_view_among_the_results_may_be_overwritten() -> None:
    """As one of the function itself."""
    x, _ = some()
    result = fuse(lambda x: x.exp().view(3, 1))(x)
    result.mul_(2.0)
    assert torch.autograd.grad(result.sum(), x)[0].allclose(2 * x.exp())


def test_results_of_two_arguments_apart() -> None:
    """One of which is a leaf and the other not: the other sees no zeros."""
    x, y = some()
    seen: list[Tensor] = []
    inner = y * 1.0
    inner.register_hook(seen.append)
    found = fuse(lambda x, y: Pair(x.exp(), y.exp()))(x, inner)
    found.first.sum().backward()
    assert not seen
    assert x.grad is not None
    assert y.grad is None


def test_results_without_a_gradient() -> None:
    """They are not differentiable, as the function's own, beside those that are."""
    function = fuse(lambda x: Pair(x.exp(), x.detach().exp()))
    x, _ = some()
    for given in (x, x * 1.0):
        assert [result.requires_grad for result in function(given)] == [True, False]
    assert [result.requires_grad for result in function(x.detach())] == [False, False]


def test_results_of_one_node_and_of_several(compiled: list[GraphModule]) -> None:
    """Leaves may share one; of other tensors each group of results has its own, and no zeros go through the rest."""
    x, y = some()
    function = fuse(powers)
    found = function(x, y)
    assert type(found) is Pair
    assert found.first.grad_fn is found.second.grad_fn
    assert len(compiled) == 1
    seen: list[Tensor] = []
    inner = y * 1.0
    inner.register_hook(seen.append)
    apart = function(x, inner)
    assert apart.first.grad_fn is not apart.second.grad_fn
    assert apart.first.allclose(x.exp())
    assert apart.second.allclose((x * y).exp())
    apart.first.sum().backward(retain_graph=True)
    assert (seen, y.grad) == ([], None)
    apart.second.sum().backward()
    assert y.grad is not None
    assert y.grad.allclose(x.detach() * (x * y).exp().detach())


def test_an_argument_whose_gradient_nobody_asks_for() -> None:
    """No zeros are led through what made it."""
    x, y = some()
    inner = y.sqrt()  # whose slope at zero is infinite
    loss = fuse(lambda x, y: (x * y.detach()).exp().sum())(x, inner)
    loss.backward()
    assert x.grad is not None
    assert y.grad is None


def test_one_of_two_results_is_overwritten() -> None:
    """No gradient reads it any more, its own neither."""
    for overwritten in (0, 1):
        for asked in (0, 1):
            x, y = some()
            expected = torch.autograd.grad(powers(x, y)[asked].sum(), x)[0]
            found = fuse(powers)(x, y)
            with torch.no_grad():
                found[overwritten].zero_()
            assert torch.autograd.grad(found[asked].sum(), x)[0].allclose(expected)


def test_a_batch_of_upstream_gradients_for_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is mapped over operators, whichever result it is for: generated code takes no batch."""
    monkeypatch.setattr(Graph, "gradients", lambda *_: pytest.fail("generated code"))
    for which in (0, 1):
        x, y = some()
        results = fuse(powers)(x, y), powers(x, y)
        given = {"grad_outputs": torch.eye(3), "is_grads_batched": True, "retain_graph": True}
        slopes = [torch.autograd.grad(r[which], x, **given)[0] for r in results]
        assert slopes[0].allclose(slopes[1])
        mapped = torch.func.vmap(lambda g, r=results[0], x=x: torch.autograd.grad(r[which], x, g, retain_graph=True)[0])  # noqa: B023
        assert mapped(torch.eye(3)).allclose(slopes[1])


def test_the_first_look_is_not_recorded() -> None:
    """Hooks on what autograd saves see tensors of this device only."""
    seen: list[str] = []

    def note(x: Tensor) -> Tensor:
        seen.append(x.device.type)
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, note):
        fuse(weighted)(*some())
    assert set(seen) == {"cpu"}


def test_light_calls_are_other_ones_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """There calls take the time until the kernels do; and a gradient of many elements is not scaled afterwards."""
    monkeypatch.setattr(twin, "SMALL", 2**14)
    by_episodes, few, on_the_cpu = twin._Eager(), twin._Eager(), twin._Eager()
    by_episodes.below, by_episodes.by_episodes = 2**18, True  # as the first calls set them
    few.differentiated, on_the_cpu.below = True, float("inf")

    def covered(light: twin._Eager, device: str, elements: int) -> bool:
        with FakeTensorMode():
            return bool(light.takes((torch.empty(elements, device=device, requires_grad=True),), {}))

    for light, device, limit in (
        *((by_episodes, "cpu", 2**18), (by_episodes, "cuda:0", 2**20)),
        *((few, "cpu", 2**14), (few, "cuda:0", 2**20)),
    ):
        assert covered(light, device, limit - 1)
        assert not covered(light, device, limit)
    assert covered(on_the_cpu, "cpu", 2**24)
    assert not covered(on_the_cpu, "cuda:0", 2)
    with FakeTensorMode():
        found = {d: [twin._is_heavy(torch.empty(2**23 - i, device=d)) for i in (1, 0)] for d in ("cpu", "cuda:0")}
    assert found == {"cpu": [False, False], "cuda:0": [False, True]}


def test_few_operators_of_small_tensors(compiled: list[GraphModule], monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to five beside their gradient, and ten apart from it, run as they are; without a gradient they do not."""
    monkeypatch.setattr(twin, "SMALL", 4)
    x, _ = some()
    loss, rows = fuse(lambda x: (x * 2.0).sum()), fuse(lambda x: x * 2.0)
    assert type(loss(x).grad_fn).__name__ == "SumBackward0"
    assert type(rows(x).grad_fn).__name__ == "MulBackward0"
    assert not compiled
    loss(torch.cat([x, x]))
    assert len(compiled) == 1
    rows(x.detach())
    assert len(compiled) == 2


@pytest.mark.parametrize(
    ("function", "operators", "node"),
    [
        (lambda x: x.abs().sum(), 5, "SumBackward0"),
        (lambda x: x.exp().sum() * 2.0, 6, "LossNodeBackward"),
        (lambda x: x.exp().exp().exp().abs(), 10, "AbsBackward0"),
        (lambda x: x.exp().exp().exp().exp().exp(), 11, "ResultNodeBackward"),
    ],
)
def test_how_many_operators_are_few(
    function: Callable[[Tensor], Tensor], operators: int, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the gradient are counted too."""
    monkeypatch.setattr(twin, "SMALL", 4)
    x, _ = some()
    assert Call(function, list(inspect.signature(function).parameters.values()), [x]).operators.total() == operators
    assert type(fuse(function)(x).grad_fn).__name__ == node
    mixed = fuse(lambda x, y: function(x))  # beside a tensor that is not small
    assert type(mixed(x, torch.ones(4)).grad_fn).__name__ in ("LossNodeBackward", "ResultNodeBackward")


def test_a_process_that_was_forked_from_one_with_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function itself runs, which is said once."""
    monkeypatch.setattr(switches.Process, "forked", True)
    x, y = some()
    function = fuse(weighted)
    with pytest.warns(UserWarning, match="forked"):
        assert function(x, y).equal(weighted(x, y))
    function(x, y)


def test_calls_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then anew; the results are the same."""
    monkeypatch.setattr(twin, "SHAPES", 2)
    entry, made = twin._entry, []
    monkeypatch.setattr(twin, "_entry", lambda *given: made.append(None) or entry(*given))
    function = fuse(weighted)
    for size in (5, 6, 5, 6, 7, 7, 5):
        x = torch.rand(size)
        assert function(x, x).allclose(weighted(x, x))
    assert len(made) == 4


def test_what_cannot_be_a_key_is_told_by_the_function() -> None:
    """A list in the place of a tensor, and too many arguments."""
    with pytest.raises(AttributeError, match="'list' object has no attribute 'exp'"):
        fuse(lambda x: x.exp())([1.0])
    with pytest.raises(TypeError, match="positional arguments"):
        fuse(weighted)(torch.ones(2), torch.ones(2), 3.0)  # type: ignore[misc]
