"""Each way to solve a recurrence is the loop, in both directions, and each is taken where it should be."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from comparison import close
from torch import Tensor

from offline_losses._core import scan
from offline_losses._core.scan import Recurrence, are_told_by_products, bounded, in_front, solve, solve_in_order
from offline_losses._core.tracing import tracing


def loop(b: Tensor, a: Tensor, cut: Tensor | None, forwards: bool = False) -> Tensor:
    """x_t = b_t + a_t x_{t+1}, or forwards x_t = b_t + a_{t-1} x_{t-1}, not across a cut."""
    steps = b.shape[-1]
    a = a.expand_as(b)
    x = list(b.unbind(-1))
    for t in range(1, steps) if forwards else range(steps - 2, -1, -1):
        at, before = (t - 1, t - 1) if forwards else (t, t + 1)
        added = a[..., at] * x[before]
        x[t] = x[t] + (added if cut is None else torch.where(cut[..., at], 0.0, added))
    return torch.stack(x, -1)


def problem(*shape: int, one: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    b, a = torch.randn(2, *shape, dtype=torch.float64)
    return b, torch.tensor(0.9).double() if one else a.tanh(), torch.rand(shape) < 0.2


def _rows(way: Callable[[Tensor, Tensor], Tensor], b: Tensor, a: Tensor, cut: Tensor | None) -> Tensor:
    factor = a.expand_as(b) if cut is None else torch.where(cut, 0.0, a)
    return way(b, factor).view(b.shape)


WAYS = {
    "values": scan._by_values,
    "halves": scan._by_halves,
    "exactly": scan._exactly,
    "blocks": scan._by_blocks,
    "steps": partial(_rows, scan._rows_by_steps),
    "chunks": partial(_rows, scan._rows_by_chunks),
}


@pytest.mark.parametrize("one", [False, True], ids=["factors", "one factor"])
@pytest.mark.parametrize("way", WAYS)
def test_each_way_is_the_loop(way: str, one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At lengths around the chunks of four steps and the blocks of ten, for few rows and for many."""
    monkeypatch.setattr(scan, "CHUNK", 4)
    monkeypatch.setattr(scan, "BLOCK", 10)
    for steps in (1, 2, 3, 10, 11, 17, 20, 21, 69):
        for rows in (2, scan.FEW_ROWS + 1):
            flat = way in ("steps", "chunks")
            b, a, cut = problem(rows, steps, one=one) if flat else problem(rows, 2, steps, one=one)
            for flags in (None, cut):
                found, before = WAYS[way](b, a, flags), b.clone()
                close(found, loop(b, a, flags))
                assert b.equal(before)


@pytest.mark.parametrize("forwards", [False, True])
@pytest.mark.parametrize("one", [False, True], ids=["factors", "one factor"])
@pytest.mark.parametrize("flags", [False, True])
def test_both_directions_and_their_derivatives(forwards: bool, one: bool, flags: bool) -> None:
    """Of first and second order, backward and forward, by either argument alone too, and mapped."""
    b, a, cut = problem(2, 5, one=one)
    given = cut if flags else None

    def solved(b: Tensor, a: Tensor) -> Tensor:
        x: Tensor = Recurrence.apply(b, a, given, forwards)  # type: ignore[no-untyped-call]
        return x

    def looped(b: Tensor, a: Tensor) -> Tensor:
        return loop(b, a, given, forwards)

    close(solved(b, a), looped(b, a))
    inner = b.clone().requires_grad_(), a.clone().requires_grad_()
    assert torch.autograd.gradcheck(solved, inner)
    assert torch.autograd.gradgradcheck(solved, inner)
    moved = torch.randn_like(b), torch.randn_like(a)
    close(torch.func.jvp(solved, (b, a), moved)[1], torch.func.jvp(looped, (b, a), moved)[1])
    for change in (lambda f: (partial(f, a=a), b, moved[0]), lambda f: (partial(f, b), a, moved[1])):
        (one_way, at, along), (other, *_) = change(solved), change(looped)
        close(torch.func.jvp(one_way, (at,), (along,))[1], torch.func.jvp(other, (at,), (along,))[1])
    in_dims = (0, None if one else 0)
    close(torch.vmap(solved, in_dims)(b, a) if not flags else solved(b, a), looped(b, a))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (2, 1)])
def test_what_has_nothing_to_solve_is_copied(shape: tuple[int, ...]) -> None:
    """No rows, no steps, or one."""
    b = torch.randn(shape)
    x = solve_in_order(b, b, None, False)
    assert x.equal(b)
    assert not b.numel() or x.data_ptr() != b.data_ptr()


@pytest.mark.parametrize("shape", [(3, 2, 5), (3, 1, 5), (2, 2)])
@pytest.mark.parametrize("forwards", [False, True])
def test_time_is_the_last_axis(forwards: bool, shape: tuple[int, ...]) -> None:
    """Of however many."""
    b, a, cut = problem(*shape)
    close(solve_in_order(b, a, cut, forwards), loop(b, a, cut, forwards))


def test_no_value_of_another_kind_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither elsewhere than on the CPU nor in a tensor of another class, but in a parameter."""
    looked: list[Tensor] = []
    monkeypatch.setattr(scan, "_by_values", lambda b, a, cut: looked.append(b) or b)
    x = torch.rand(2, 3)
    solve_in_order(x.to("meta"), x.to("meta"), None, False)
    solve_in_order(torch.Tensor._make_subclass(type("Other", (Tensor,), {}), x), x, None, False)
    assert not looked
    solve_in_order(torch.nn.Parameter(x), x, None, False)
    assert len(looked) == 1


def test_long_sequences_are_solved_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the size of one."""
    sizes: list[int] = []
    own = scan._by_values
    monkeypatch.setattr(scan, "_by_values", lambda b, a, cut: sizes.append(b.shape[-1]) or own(b, a, cut))
    monkeypatch.setattr(scan, "BLOCK", 4)
    for steps in (4, 9):
        b, a, cut = problem(2, steps)
        close(solve_in_order(b, a, cut, False), loop(b, a, cut))
    assert sizes == [4, 1, 4, 4]


@pytest.mark.parametrize("taken", [False, True])
def test_a_solution_is_the_loop_or_the_operator(taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut where either flag is."""
    b, a, done = problem(2, 7)
    terminated = torch.rand(2, 7) < 0.3
    monkeypatch.setattr(scan, "takes_operators", lambda: taken)
    operator = type("", (), {"default": lambda *inputs: inputs})
    monkeypatch.setattr(torch.ops.offline_losses, "scan", operator)
    found = solve(b, a, done, terminated)
    if taken:
        assert found == (b, a, done, terminated)
    else:
        close(found, loop(b, a, done | terminated))


def test_a_trace_solves_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot take the operator, as inside of a transform."""
    b, a, cut = problem(2, 7)
    monkeypatch.setattr(scan, "takes_operators", lambda: False)
    monkeypatch.setattr(scan, "_recurrence", lambda *inputs: pytest.fail("it looks at values"))
    with tracing():
        close(solve(b, a, cut, None), loop(b, a, cut))


@pytest.mark.parametrize("value", [1.0, math.inf, -math.inf, math.nan])
def test_only_infinite_results_are_solved_exactly(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of finite ones any way tells the truth."""
    calls: list[Tensor] = []
    own = scan._exactly
    monkeypatch.setattr(scan, "_exactly", lambda b, a, cut: calls.append(b) or own(b, a, cut))
    b = torch.tensor([[0.5, value, 1.0]])
    found = scan._by_values(b, torch.tensor([[0.5, 0.0, 2.0]]), torch.tensor([[False, True, False]]))
    torch.testing.assert_close(found, torch.tensor([[0.5 + 0.5 * value, value, 1.0]]), equal_nan=True)
    assert len(calls) == (not math.isfinite(value))


def test_chunks_are_for_long_sequences() -> None:
    """Single precision has a second try in double, and many rows a third by steps."""
    for rows, steps, dtype, ways in (
        (1, 4 * scan.CHUNK, torch.float32, 1),
        (1, 4 * scan.CHUNK + 1, torch.float32, 2),
        (scan.FEW_ROWS, 4 * scan.CHUNK + 1, torch.float64, 1),
        (scan.FEW_ROWS + 1, 4 * scan.CHUNK + 1, torch.float64, 2),
        (scan.FEW_ROWS + 1, 4 * scan.CHUNK + 1, torch.float32, 3),
    ):
        found = scan._ways(torch.zeros(rows, steps, dtype=dtype))
        assert len(found) == ways
        assert (found[0] is scan._rows_by_steps) == (steps <= 4 * scan.CHUNK)
        assert (found[-1] is scan._rows_by_steps) == (steps <= 4 * scan.CHUNK or rows > scan.FEW_ROWS)


def test_double_precision_lets_factors_grow_further() -> None:
    """By chunks up to the square of the limit: the loop's numbers in single precision."""
    steps = 4 * scan.CHUNK + 1
    growth = scan.LARGEST_PRODUCT ** (1.5 / scan.CHUNK)
    b, a = torch.rand(1, steps), torch.full((1, steps), growth)
    single, double = (way(b, a) for way in scan._ways(b)[:2])
    assert single.isnan().all()
    assert scan._ways(b)[1](b, a ** (5 / 3)).isnan().all()
    expected = loop(b.double(), a.double(), None).flatten()
    torch.testing.assert_close(double, expected, rtol=1e-6, atol=0, check_dtype=False)


@pytest.mark.parametrize(("products", "told"), [([3.0, 4.0], True), ([3.0, 4.1], False), ([-3.0, -4.1], False)])
def test_products_tell_by_their_length(products: list[float], told: bool) -> None:
    """The root of the sum of their squares, the limit itself included; of one product its size."""
    assert are_told_by_products(torch.tensor(products), 5.0) is told
    assert are_told_by_products(torch.tensor(products[1]), 4.0) is told
    assert not are_told_by_products(torch.tensor([math.nan]), 5.0)


@pytest.mark.parametrize("rows", [1, scan.FEW_ROWS + 1])
def test_the_loop_overflows_as_floats_do(rows: int) -> None:
    """To an infinity of its sign, from the largest number on, which Python's own numbers are far from."""
    largest = torch.finfo(torch.float32).max
    b = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(rows, 4)
    found = scan._exactly(b, torch.tensor([-0.5, -2.0, largest, 0.0]).expand(rows, 4), None)
    assert found[-1].tolist() == [math.inf, -math.inf, largest, 1.0]


def test_by_halves_nothing_infinite_passes_a_cut() -> None:
    """Wherever it stands behind one, and neither do flags get lost."""
    for steps in (2, 5, 8, 13):
        for at in range(steps - 1):
            b, a, cut = problem(2, 3, steps)
            cut[..., at] = True
            b[..., at + 1] = torch.inf
            found = scan._by_halves(b, a, cut)
            close(found[..., : at + 1], loop(b, a, cut)[..., : at + 1])
    assert scan.either(cut, ~cut).all()  # type: ignore[union-attr]
    assert scan.either(cut, None) is cut
    assert scan.either(None, None) is None


def test_products_stay_finite() -> None:
    """At the largest number of either sign."""
    largest = torch.finfo(torch.float64).max
    x = torch.tensor([math.inf, -math.inf, 2.0]).double()
    assert bounded(x).tolist() == [largest, -largest, 2.0]


def test_the_mapped_axis_comes_first() -> None:
    """In what has none too; one factor for each becomes one for all of its steps."""
    b, a, cut = in_front(3, (1, 0, None), (torch.rand(2, 3), torch.tensor([1.0, 2.0, 3.0]), torch.ones(2).bool()))
    assert [x.shape for x in (b, a, cut)] == [(3, 2)] * 3
    assert a[:, 0].tolist() == a[:, 1].tolist() == [1.0, 2.0, 3.0]
    assert in_front(3, (0, 0, None), (b, b, None))[2] is None


def test_by_halves_sums_are_rounded_once() -> None:
    """What adds up in single precision counts in double."""
    torch.manual_seed(0)
    b, a, cut = torch.randn(2, 1000), torch.full((2, 1000), 0.999), torch.zeros(2, 1000, dtype=torch.bool)
    assert scan._by_halves(b, a, cut).equal(scan._by_halves(b.double(), a.double(), cut).float())
