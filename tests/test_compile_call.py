"""What one way of calling a function is known to take and to give, without generated code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from offline_losses._compile.call import Call
from offline_losses._core.checks import Knob


class Pair(NamedTuple):
    """Two results."""

    product: Tensor
    doubled: Tensor


def pair(x: Tensor, y: Tensor, *, scale: Knob = 3.0, rounds: int = 1) -> Pair:
    """The sum of a product, and another argument alone."""
    return Pair(scale * (x * y).sum(), 2.0 * rounds * y)


def total(x: Tensor, *, scale: Knob = 3.0) -> Tensor:
    """One number."""
    return scale * (x * x).sum()


def flags(x: Tensor) -> tuple[Tensor, Tensor]:
    """Beside a number something without a gradient."""
    return x.sum(), x > 0


def call(function: Callable[..., Any], *values: Any, chosen: Sequence[int] | None = None) -> Call:
    """The call with these values of all arguments."""
    return Call(function, list(inspect.signature(function).parameters.values()), values, chosen)


@pytest.fixture
def x() -> Tensor:
    """An argument with a gradient."""
    return torch.tensor([1.0, 2.0], requires_grad=True)


@pytest.fixture
def y() -> Tensor:
    """Another one."""
    return torch.tensor([5.0, 7.0], requires_grad=True)


def test_arguments_by_their_kind(x: Tensor, y: Tensor) -> None:
    """Tensors come first, then the hyper-parameters that are numbers, unless they are zero; the rest is kept."""
    both = call(pair, x, y, 3.0, 4)
    assert (both.tensors, both.knobs, both.others) == ([0, 1], [2], [None, None, 3.0, 4])
    assert both._filled([x, y, torch.tensor(9.0)])[2:] == [torch.tensor(9.0), 4]
    assert both._filled([x, y]) == [x, y, 3.0, 4]
    assert call(pair, x, y, 0.0, 4).knobs == []
    assert (call(pair, x, y, y.sum(), 4).tensors, call(pair, x, y, y.sum(), 4).knobs) == ([0, 1, 2], [])


def test_results_by_the_tensors_that_they_have_a_gradient_for(x: Tensor, y: Tensor) -> None:
    """Each group has a backward pass of its own, and a tensor of one group is apart from the others."""
    both = call(pair, x, y, 3.0, 1)
    assert (both.groups, both.apart, both.kind) == ([[0], [1]], {0}, Pair)
    assert (both.reached, both.wrt, both.order) == ([(0, 1), (1,)], [0, 1], [0, 1])
    assert (both.numbers, both.scalar) == (False, False)
    one = call(pair, x.detach(), y, 3.0, 1)
    assert (one.groups, one.apart, one.wrt, one.order) == ([[0, 1]], set(), [1], [None, 0])
    none = call(pair, x.detach(), y.detach(), 3.0, 1)
    assert (none.groups, none.apart, none.wrt, none.differentiable) == ([[0, 1]], set(), [], [False, False])


def test_results_that_share_a_step(x: Tensor) -> None:
    """Each is asked for its tensors, in turn."""

    def shared(x: Tensor) -> Pair:
        power = x.exp()
        return Pair(power.sum(), power.square())

    assert call(shared, x).reached == [(0,), (0,)]


def test_one_result_and_numbers(x: Tensor, y: Tensor) -> None:
    """One 0-d result is a loss; several numbers are not."""
    loss = call(total, x, 3.0)
    assert (loss.kind, loss.scalar, loss.numbers, loss.apart) == (None, True, True, set())
    assert call(pair, x, y, 3.0, 1, chosen=[0]).scalar
    assert not call(pair, x, y, 3.0, 1, chosen=[1]).scalar
    mixed = call(flags, x)
    assert (mixed.numbers, mixed.scalar, mixed.differentiable) == (False, False, [True, False])
    assert (mixed.groups, mixed.apart, mixed.kind) == ([[0], [1]], {0}, tuple)
    ends = call(lambda x: (x.sum(), x.mean()), x)
    assert (ends.numbers, ends.scalar) == (True, False)
    assert not call(lambda x: x[:1], x).numbers


def test_chosen_results(x: Tensor, y: Tensor) -> None:
    """The others are not computed, and their gradients not asked for."""
    second = call(pair, x, y, 3.0, 1, chosen=[1])
    assert (second.reached, second.wrt, second.order) == ([(1,)], [1], [None, 0])
    (doubled,) = second.value(x, y, torch.tensor(3.0))
    assert doubled.equal(2 * y)
    assert [g.tolist() for g in second.value_and_gradients(x, y, torch.tensor(3.0), torch.ones(2))[1:]] == [[2.0, 2.0]]


def test_operators_that_compute_are_counted(x: Tensor) -> None:
    """Those of the gradient too, and no views."""
    aten = torch.ops.aten
    value = call(lambda x: x.view(1, 2).exp().t(), x.detach())
    assert dict(value.operators) == {aten.exp: 1}
    assert call(lambda x: x.exp(), x).operators[aten.mul] == 1


def test_values_and_gradients(x: Tensor, y: Tensor) -> None:
    """Of one pass, with knobs among the inputs; what comes back is detached, and the inputs get no gradient."""
    both, scale = call(pair, x, y, 3.0, 1), torch.tensor(10.0)
    product, doubled, of_x, of_y = both.value_and_gradients(x, y, scale, torch.tensor(2.0), torch.tensor([1.0, 0.0]))
    assert (product.item(), doubled.tolist()) == (190.0, [10.0, 14.0])
    assert (of_x.tolist(), of_y.tolist()) == ([100.0, 140.0], [22.0, 40.0])
    assert not any(g.requires_grad for g in (product, doubled, of_x, of_y))
    slope, loss = call(total, x, 3.0).gradients_and_loss(x, scale)
    assert (slope.tolist(), loss.item()) == ([20.0, 40.0], 50.0)
    assert x.grad is None
    half = call(total, x.detach().bfloat16().requires_grad_(), 3.0)
    assert [g.dtype for g in half.gradients_and_loss(x.bfloat16(), scale.bfloat16())] == [torch.bfloat16] * 2


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [((2.0, None), ([30.0, 42.0], [6.0, 12.0])), ((None, 1.0), (None, [2.0, 2.0])), ((None, None), (None, None))],
)
def test_gradients_of_some_results(
    x: Tensor, y: Tensor, upstream: tuple[float | None, float | None], expected: Any
) -> None:
    """A tensor that none of the results with an upstream gradient reaches has none."""
    both = call(pair, x, y, 3.0, 1)
    given = [None if g is None else torch.full(shape, g) for g, shape in zip(upstream, ((), (2,)), strict=True)]
    assert both.wrt_from(given) == [k for k, g in enumerate(expected) if g is not None]
    with torch.no_grad():
        found = both.by_autograd([x, y], given)
    assert tuple(None if g is None else g.tolist() for g in found) == expected
    assert not any(g.requires_grad for g in found if g is not None)


def test_a_gradient_is_differentiated_where_autograd_records(x: Tensor, y: Tensor) -> None:
    """By the tensors themselves, from which a second derivative follows."""
    both = call(pair, x, y, 3.0, 1)
    (of_x, of_y) = both.by_autograd([x, y], [torch.tensor(1.0), None])
    assert of_x is not None
    assert of_y is not None
    (second,) = torch.autograd.grad(of_x.sum(), y)
    assert second.tolist() == [3.0, 3.0]
    alone = call(pair, x, y.detach(), 3.0, 1)
    with torch.no_grad():
        (one,) = alone.by_autograd([x, y.detach()], [torch.tensor(1.0)])
    assert one is not None
    assert (one.tolist(), one.requires_grad) == ([15.0, 21.0], False)


def test_a_hook_waits_for_the_gradient_that_is_handed_out(x: Tensor, y: Tensor) -> None:
    """It does not see those of this pass, whose caller adds them up."""
    seen: list[Tensor] = []
    x.register_hook(seen.append)
    both = call(pair, x, y, 3.0, 1)
    with torch.no_grad():
        both.by_autograd([x, y], [torch.tensor(1.0), None])
    assert not seen


def test_tensors_as_generated_code_reads_them() -> None:
    """Those that are not contiguous are copied, the others are the same objects."""
    square = torch.arange(4.0).view(2, 2)
    mixed = call(lambda x, y: x * y, square, square.t())
    assert mixed.strided == [1]
    one, other = mixed.contiguous([square, square.t()])
    assert one is square
    assert other.is_contiguous()
    assert other.equal(square.t())
    whole = [square, square]
    assert call(lambda x, y: x * y, *whole).contiguous(whole) is whole


def test_a_place_for_each_argument_of_a_node(x: Tensor, y: Tensor) -> None:
    """The call, its graph and its knobs have none."""
    one = call(pair, x.detach(), y, 3.0, 1)
    gradient = torch.ones(2)
    assert one.for_autograd([gradient]) == (None, None, None, None, gradient)


def test_a_function_s_own_error_is_raised(x: Tensor) -> None:
    """Before anything is compiled."""

    def refuse(x: Tensor) -> Tensor:
        raise ValueError("refuse: x: expected something else")

    with pytest.raises(ValueError, match="refuse: x"):
        call(refuse, x)
