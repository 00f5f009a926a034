"""The laws of the one scan: its own equation, linearity, cutting, and the adjoint gradient."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from comparison import close, gradients
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import batches, masks, reals, tensors
from torch import Tensor, library

import offline_losses
from offline_losses import discounted_return, episode_return, fused, linear_recurrence
from offline_losses._compile import scan as compiled_scan
from offline_losses._compile import twin
from offline_losses._compile.switches import Unsupported
from offline_losses._core import scan
from offline_losses._core.tracing import tracing

NAN = float("nan")
SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 257, 1000]


@st.composite
def problems(draw: st.DrawFn, max_steps: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """b, a and cut of one shape [*batch, T]; |a| goes beyond one."""
    shape = (*draw(batches(0, 2, 1, 3)), draw(st.integers(1, max_steps)))
    return draw(tensors(shape)), draw(tensors(shape, -1.5, 1.5)), draw(masks(shape))


def random_problem(steps: int, rows: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(steps)
    b = torch.randn(rows, steps, generator=generator, dtype=torch.float64)
    a = torch.rand(rows, steps, generator=generator, dtype=torch.float64) * 2 - 1
    return b, a, torch.rand(rows, steps, generator=generator) < 0.1


@pytest.mark.parametrize("steps", SIZES)
def test_equals_the_loop_at_every_length(steps: int) -> None:
    """One, two, three steps, odd and even, powers of two and their neighbors: the plain loop."""
    b, a, cut = random_problem(steps)
    close(linear_recurrence(b, a), ORACLES["linear_recurrence"](b.numpy(), a.numpy()))
    expected = ORACLES["linear_recurrence"](b.numpy(), a.numpy(), cut=cut.numpy())
    close(linear_recurrence(b, a, cut=cut), expected)


@given(problem=problems())
def test_satisfies_its_own_equation(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    """x_t = b_t + a_t x_{t+1} inside, x_t = b_t at a cut and at the last step."""
    b, a, cut = problem
    x = linear_recurrence(b, a, cut=cut)
    close(x[..., -1], b[..., -1])
    inside = b[..., :-1] + a[..., :-1] * x[..., 1:]
    close(x[..., :-1], torch.where(cut[..., :-1], b[..., :-1], inside))


@given(data=st.data())
def test_linear_in_b(data: st.DataObject) -> None:
    """Superposition: the scan of c b + d is c times the scan of b plus the scan of d."""
    b, a, cut = data.draw(problems())
    d, c = data.draw(tensors(tuple(b.shape))), data.draw(reals(-3.0, 3.0))
    together = linear_recurrence(c * b + d, a, cut=cut)
    apart = c * linear_recurrence(b, a, cut=cut) + linear_recurrence(d, a, cut=cut)
    close(together, apart, 1e-8)


@given(data=st.data())
def test_concatenation(data: st.DataObject) -> None:
    """The first part sees the second only through its first value, times the product of a."""
    b, a, _ = data.draw(problems())
    at = data.draw(st.integers(0, b.shape[-1] - 1))
    tail = linear_recurrence(b[..., at:], a[..., at:])
    whole = linear_recurrence(b, a)
    close(whole[..., at:], tail)
    head = linear_recurrence(b[..., :at], a[..., :at]) if at else b[..., :0]
    reach = a[..., :at].flip(-1).cumprod(-1).flip(-1)
    close(whole[..., :at], head + reach * tail[..., :1], 1e-8)


@given(data=st.data())
def test_a_cut_splits_the_axis(data: st.DataObject) -> None:
    """Cutting after step k is scanning the two parts apart."""
    b, a, cut = data.draw(problems())
    at = data.draw(st.integers(0, b.shape[-1] - 1))
    cut[..., at] = True
    pieces = [
        linear_recurrence(b[..., s], a[..., s], cut=cut[..., s])
        for s in (slice(None, at + 1), slice(at + 1, None))
        if b[..., s].shape[-1]
    ]
    close(linear_recurrence(b, a, cut=cut), torch.cat(pieces, dim=-1))


@given(data=st.data())
def test_nothing_crosses_a_cut(data: st.DataObject) -> None:
    """NaN behind a cut, and NaN in `a` from the cut on, reach nothing before it, nor its gradient."""
    b, a, cut = data.draw(problems())
    at = data.draw(st.integers(0, b.shape[-1] - 1))
    cut[..., at] = True
    clean = linear_recurrence(b, a, cut=cut)[..., : at + 1]
    plain = gradients(lambda x, y: linear_recurrence(x, y, cut=cut)[..., : at + 1], b, a)
    bad_b, bad_a = b.clone(), a.clone()
    bad_b[..., at + 1 :] = NAN
    bad_a[..., at:] = NAN
    close(linear_recurrence(bad_b, bad_a, cut=cut)[..., : at + 1], clean)
    poisoned = gradients(lambda x, y: linear_recurrence(x, y, cut=cut)[..., : at + 1], bad_b, bad_a)
    for got, wanted in zip(poisoned, plain, strict=True):
        close(got[..., : at + 1], wanted[..., : at + 1])
        assert bool((wanted[..., at + 1 :] == 0).all())
    assert bool((poisoned[1][..., at] == 0).all())


@pytest.mark.parametrize("steps", [2, 3, 16, 33, 100])
def test_nan_behind_a_cut_at_every_distance(steps: int) -> None:
    """The same for long axes, where the scan works in blocks: each cut position in turn."""
    b, a, _ = random_problem(steps, rows=1)
    b, a = b.expand(steps, steps).clone(), a.expand(steps, steps).clone()
    cut = torch.eye(steps, dtype=torch.bool)
    behind = torch.ones(steps, steps).triu(1).bool()
    clean = linear_recurrence(b, a, cut=cut)
    bad = torch.where(behind, torch.full_like(b, NAN), b)
    bad_a = torch.where(behind | cut, torch.full_like(a, NAN), a)
    got = linear_recurrence(bad, bad_a, cut=cut)
    close(got[~behind], clean[~behind])
    slope_b, slope_a = gradients(lambda x, y: torch.where(behind, 0.0, linear_recurrence(x, y, cut=cut)), bad, bad_a)
    assert bool(slope_b[~behind].isfinite().all())
    assert bool(slope_a[~behind].isfinite().all())


@given(problem=problems())
def test_constant_coefficients(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    """a = 0 returns b; a = 1 is the reversed cumulative sum; b = 1 gives the geometric series."""
    b, _, _ = problem
    close(linear_recurrence(b, torch.zeros_like(b)), b)
    close(linear_recurrence(b, torch.ones_like(b)), b.flip(-1).cumsum(-1).flip(-1))
    left = torch.arange(b.shape[-1], 0, -1, dtype=torch.float64).expand_as(b)
    series = linear_recurrence(torch.ones_like(b), torch.full_like(b, 0.5))
    close(series, 2 * (1 - 0.5**left))


@given(data=st.data())
def test_one_row_never_moves_another(data: st.DataObject) -> None:
    """Rows are scanned apart, values and gradients; their order does not matter."""
    rows, steps = data.draw(st.integers(2, 4)), data.draw(st.integers(1, 9))
    b, a = data.draw(tensors((rows, steps))), data.draw(tensors((rows, steps), -1.5, 1.5))
    cut = data.draw(masks((rows, steps)))
    whole = linear_recurrence(b, a, cut=cut)
    order = torch.tensor(data.draw(st.permutations(range(rows))))
    close(linear_recurrence(b[order], a[order], cut=cut[order]), whole[order])
    slope_b, slope_a = gradients(lambda x, y: linear_recurrence(x, y, cut=cut)[0], b, a)
    assert bool((slope_b[1:] == 0).all())
    assert bool((slope_a[1:] == 0).all())


def adjoint(g: Tensor, a: Tensor, cut: Tensor) -> Tensor:
    """y_t = g_t + a_{t-1} y_{t-1}, forward in time, restarted after a cut."""
    y = g.clone()
    for t in range(1, g.shape[-1]):
        passed = torch.where(cut[..., t - 1], torch.zeros_like(a[..., 0]), a[..., t - 1])
        y[..., t] = g[..., t] + passed * y[..., t - 1]
    return y


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 17, 64, 129])
def test_the_gradient_is_the_adjoint_recurrence(steps: int) -> None:
    """d/db runs the scan forward in time; d/da_t is that adjoint times the next value."""
    b, a, cut = random_problem(steps)
    g = torch.randn(b.shape, dtype=torch.float64)
    slope_b, slope_a = gradients(lambda x, y: g * linear_recurrence(x, y, cut=cut), b, a)
    y = adjoint(g, a, cut)
    close(slope_b, y)
    following = torch.nn.functional.pad(linear_recurrence(b, a, cut=cut)[..., 1:], (0, 1))
    close(slope_a, torch.where(cut, 0.0, y * following))


@given(data=st.data())
def test_adjoint_identity(data: st.DataObject) -> None:
    """<g, R b> = <R^T g, b>, where R^T g is what the gradient returns: R is linear, exactly."""
    b, a, cut = data.draw(problems())
    g = data.draw(tensors(tuple(b.shape)))
    value = (g * linear_recurrence(b, a, cut=cut)).sum()
    (slope,) = gradients(lambda x: g * linear_recurrence(x, a, cut=cut), b)
    close(value, (slope * b).sum(), 1e-8)


def test_derivatives_of_both_orders() -> None:
    """First and second derivatives against finite differences, across a cut."""
    b, a, _ = random_problem(5)
    cut = torch.tensor([[0, 0, 1, 0, 0], [0, 1, 0, 0, 1]]).bool()
    b.requires_grad_()
    a.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: linear_recurrence(x, y, cut=cut), (b, a))
    assert torch.autograd.gradgradcheck(lambda x, y: linear_recurrence(x, y, cut=cut), (b, a))


def test_long_products_neither_vanish_wrongly_nor_blow_up() -> None:
    """Ten thousand steps at 0.99: the head is the infinite series, the tail is short of it."""
    b = torch.ones(10_000, dtype=torch.float64)
    x = linear_recurrence(b, torch.full_like(b, 0.99))
    left = torch.arange(10_000, 0, -1, dtype=torch.float64)
    close(x, (1 - 0.99**left) / 0.01)


@pytest.mark.parametrize("steps", [*SIZES, 5000])
def test_chunks_equal_the_halves(steps: int) -> None:
    """The operator of compiled code, at lengths around its chunks and over several levels of them."""
    b, a, cut = random_problem(steps)
    for flags in (None, cut):
        with tracing():
            chunked = linear_recurrence(b, a, cut=flags)
        close(chunked, linear_recurrence(b, a, cut=flags))
    done = cut | (b > 1)
    with tracing():
        chunked = discounted_return(b, done, discount=0.9)
    close(chunked, discounted_return(b, done, discount=0.9))


@pytest.mark.parametrize("flags", ["none", "done", "both"])
@pytest.mark.parametrize("factor", ["each", "one"])
@pytest.mark.parametrize("steps", [1, 2, 3, 16, 17, 64, 257, 5000])
def test_chunks_forwards_are_the_adjoint(steps: int, factor: str, flags: str) -> None:
    """The operator of gradients, at lengths around its chunks, against the loop, with NaN behind every cut."""
    g, a, cut = random_problem(steps, rows=2)
    a = a if factor == "each" else torch.tensor(0.9, dtype=torch.float64)
    done, terminated = {"none": (None, None), "done": (cut, None), "both": (cut, torch.rand(cut.shape) < 0.1)}[flags]
    either = torch.zeros_like(cut) if done is None else done if terminated is None else done | terminated
    expected = adjoint(g, a.expand_as(g), either)
    close(torch.ops.offline_losses.scan_forwards(g, a, done, terminated), expected)
    if factor == "each":
        spoiled = torch.where(either, NAN, a)
        close(torch.ops.offline_losses.scan_forwards(g, spoiled, done, terminated), expected)


@pytest.mark.parametrize("steps", [1, 2, 33])
def test_without_a_compiler_the_operators_solve_by_halves(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Both directions, where nothing can be generated."""

    def unsupported(*_: object) -> None:
        raise Unsupported

    monkeypatch.setattr(compiled_scan, "run", unsupported)
    b, a, cut = random_problem(steps)
    terminated = torch.rand(cut.shape) < 0.1
    expected = linear_recurrence(b, a, cut=cut | terminated)
    close(torch.ops.offline_losses.scan(b, a, cut, terminated), expected)
    close(torch.ops.offline_losses.scan_forwards(b, a, cut, terminated), adjoint(b, a, cut | terminated))


def loop(b: Tensor, a: Tensor, cut: Tensor | None = None) -> Tensor:
    """One step after the other, as nobody would write it for speed."""
    x = [b[..., -1]]
    for t in range(b.shape[-1] - 2, -1, -1):
        stopped = torch.zeros_like(b[..., t], dtype=torch.bool) if cut is None else cut[..., t]
        x.append(b[..., t] + torch.where(stopped, 0.0, a[..., t] * torch.where(stopped, 0.0, x[-1])))
    return torch.stack(x[::-1], -1)


def hard_problem(kind: str, rows: int, steps: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
    """Factors whose products overflow or vanish, or infinities among the values."""
    generator = torch.Generator().manual_seed(steps)
    b = torch.randn(rows, steps, generator=generator, dtype=dtype)
    cut = torch.rand(rows, steps, generator=generator) < 0.02
    first = torch.zeros_like(b)
    first[:, 0] = 1.0
    ratio = torch.exp(4 * torch.randn(rows, steps, generator=generator, dtype=dtype))
    infinite = torch.where(torch.rand(rows, steps, generator=generator) < 0.02, torch.inf, b)
    return {
        "large factors": (first, torch.full_like(b, 1e20), None),
        "doubling": (b, torch.full_like(b, 2.0), None),
        "doubling of nothing": (first, torch.full_like(b, 2.0), None),
        "a fixed point": (torch.cat([-torch.ones_like(b[:, 1:]), torch.ones_like(b[:, :1])], -1), b * 0 + 2.0, None),
        "importance ratios": (b, ratio, cut),
        "infinity far behind": (torch.cat([b[:, 1:], torch.full_like(b[:, :1], torch.inf)], -1), b * 0 + 0.01, None),
        "infinities": (infinite, torch.rand(rows, steps, generator=generator, dtype=dtype), cut),
    }[kind]


HARD = ["large factors", "doubling", "doubling of nothing", "a fixed point", "importance ratios", "infinity far behind"]


@pytest.mark.parametrize("module", [offline_losses, fused], ids=["eager", "fused"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("rows", "steps"), [(1, 3), (2, 200), (40, 200), (1, 1000)])
@pytest.mark.parametrize("kind", [*HARD, "infinities"])
def test_products_of_factors_never_show(
    module: ModuleType, kind: str, rows: int, steps: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever overflows or vanishes when factors are multiplied: the loop's values and gradients, infinite or not."""
    monkeypatch.setattr(twin, "SMALL", 0)
    b, a, cut = hard_problem(kind, rows, steps, dtype)
    found = []
    for function in (lambda x, y: module.linear_recurrence(x, y, cut=cut), lambda x, y: loop(x, y, cut)):
        inner = b.clone().requires_grad_(), a.clone().requires_grad_()
        x = function(*inner)
        found.append([x, *torch.autograd.grad(x.sum(), inner)])
    rtol = 1e-2 if kind == "importance ratios" else 1e-4  # where much cancels, rounding shows in the loop too
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("block", [1, 7, 200])
@pytest.mark.parametrize("kind", [*HARD, "infinities"])
def test_blocks_never_show(kind: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sequence that is too long for one, with NaN behind a cut; one factor for all steps too."""
    monkeypatch.setattr(scan, "BLOCK", block)
    b, a, cut = hard_problem(kind, 2, 401, torch.float64)
    cut = torch.arange(401).expand(2, 401) % 50 == 49 if cut is None else cut
    b = torch.where(torch.cat([cut.new_zeros(2, 1), cut[:, :-1]], -1) & (torch.arange(401) > 300), NAN, b)
    torch.testing.assert_close(linear_recurrence(b, a, cut=cut), loop(b, a, cut), equal_nan=True)
    torch.testing.assert_close(linear_recurrence(b, a), loop(b, a), equal_nan=True)
    returned = discounted_return(b, cut, discount=0.9)
    torch.testing.assert_close(returned, loop(b, torch.full_like(b, 0.9), cut), equal_nan=True)


@pytest.mark.parametrize("kind", HARD[:-1])
def test_products_never_show_under_transforms(kind: str) -> None:
    """Mapped, forward-mode, and a gradient of a gradient."""
    b, a, cut = hard_problem(kind, 2, 40, torch.float64)

    def recurrence(x: Tensor, y: Tensor) -> Tensor:
        return linear_recurrence(x, y, cut=cut)

    def plain(x: Tensor, y: Tensor) -> Tensor:
        return loop(x, y, cut)

    def second(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, y: torch.func.grad(lambda y: torch.func.grad(lambda y: function(x, y).sum())(y).sum())(y)

    def slope(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, y: torch.func.jvp(function, (x, y), (torch.ones_like(x), torch.ones_like(y)))[1]

    for change in (second, slope):
        torch.testing.assert_close(change(recurrence)(b, a), change(plain)(b, a), equal_nan=True)
    if cut is None:
        torch.testing.assert_close(torch.vmap(recurrence)(b, a), plain(b, a))


def test_both_flags_cut() -> None:
    """Two flags are one flag that is True where either is."""
    b, a, done = random_problem(300)
    terminated = torch.rand(done.shape) < 0.1
    scan = torch.ops.offline_losses.scan
    close(scan(b, a, done, terminated), linear_recurrence(b, a, cut=done | terminated))
    close(scan(b, a), linear_recurrence(b, a))


@pytest.mark.parametrize("flags", ["without", "with"])
def test_compiled_as_one_graph_over_many_chunks(flags: str) -> None:
    """The kernels of the operator take their sizes from their inputs, whatever the first call's were."""
    compiled = torch.compile(linear_recurrence, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows, steps in [(3, 40), (2, 700), (5, 33), (2, 17)]:
        b, a, cut = random_problem(steps, rows)
        given = cut if flags == "with" else None
        found = []
        for function in (lambda x, y: compiled(x, y, cut=given), lambda x, y: loop(x, y, given)):  # noqa: B023
            inner = b.clone().requires_grad_(), a.clone().requires_grad_()
            x = function(*inner)
            found.append([x, *torch.autograd.grad(x.square().sum(), inner)])
        for actual, expected in zip(*found, strict=True):
            close(actual, expected)


def test_one_step_is_a_copy() -> None:
    """In a compiled region what is made of the result leaves the input as it was."""
    b, last = torch.tensor([2.0]), torch.tensor([True])
    compiled = torch.compile(lambda x: discounted_return(x, last).exp() + 1)
    assert float(compiled(b)) == pytest.approx(8.389056)
    assert b.tolist() == [2.0]


def test_chunks_stop_at_a_cut() -> None:
    """Neither the values nor the factors behind a cut have any influence, NaN and infinity included."""
    b, a, cut = random_problem(200)
    with tracing():
        clean = linear_recurrence(b, a, cut=cut)
        b[:, 150:], a[:, 150:], cut[:, 149] = NAN, torch.inf, True
        a[cut] = NAN
        spoiled = linear_recurrence(b, a, cut=cut)
    first = cut[:, :149].int().argmax(-1)
    assert bool(first.all())
    for row, end in enumerate(first):
        close(spoiled[row, : end + 1], clean[row, : end + 1])
    assert not spoiled[:, :150].isnan().any()


@pytest.mark.parametrize("factor", ["each", "one"])
def test_the_operator_is_registered_soundly(factor: str) -> None:
    """Schema, shapes without values, gradient and tracing, as PyTorch checks them; and the gradient by differences."""
    b, a, cut = random_problem(20)
    b.requires_grad_()
    a = (a if factor == "each" else torch.tensor(0.9, dtype=torch.float64)).requires_grad_()
    library.opcheck(torch.ops.offline_losses.scan.default, (b, a, cut, ~cut))
    library.opcheck(torch.ops.offline_losses.scan.default, (b, a))
    for operator in (torch.ops.offline_losses.scan, torch.ops.offline_losses.scan_forwards):
        library.opcheck(operator.default, (b, a, cut))
        assert torch.autograd.gradcheck(operator, (b, a, cut))
        assert torch.autograd.gradgradcheck(operator, (b, a, cut))
        for shape in ((1,), (3, 1)) if factor == "each" else ():
            library.opcheck(operator.default, (torch.rand(shape), torch.rand(shape)))


@pytest.mark.parametrize("function", [discounted_return, episode_return])
@pytest.mark.parametrize("by", ["reward", "discount"])
def test_derivatives_of_functions_in_a_compiled_region(function: Callable[..., Tensor], by: str) -> None:
    """`torch.func` sees no rule of an operator, so that the formula itself is compiled."""
    reward, done = torch.rand(8, dtype=torch.float64), torch.tensor([False, False, False, True] * 2)
    discount = torch.tensor(0.9, dtype=torch.float64)

    def of(x: Tensor) -> Tensor:
        result = function(x, done, discount=discount) if by == "reward" else function(reward, done, discount=x)
        return result.square().sum()

    x = reward if by == "reward" else discount
    for transformed in (torch.func.grad(of), lambda x: torch.func.jvp(of, (x,), (torch.ones_like(x),))[1]):
        expected = transformed(x)
        assert bool((expected != 0).all())
        close(torch.compile(transformed, backend="aot_eager")(x), expected)


def test_the_operator_under_vmap() -> None:
    """Mapped over any of its arguments."""
    b, a, cut = random_problem(40, rows=3)
    scan = torch.ops.offline_losses.scan
    close(torch.vmap(scan)(b, a, cut), scan(b, a, cut))
    close(torch.vmap(scan, in_dims=(1, 1, None))(b.T, a.T, cut[0]), scan(b, a, cut[:1].expand(3, -1)))
    factors = torch.tensor([0.5, 0.9, 1.0], dtype=torch.float64)
    close(torch.vmap(scan)(b, factors, cut), scan(b, factors.unsqueeze(-1).expand_as(b), cut))
    forwards = torch.ops.offline_losses.scan_forwards
    close(torch.vmap(forwards)(b, a, cut), forwards(b, a, cut))


def test_the_operator_on_strided_tensors() -> None:
    """Every second column, a transposed table, one row for all: where a tensor lies does not matter."""
    b, a, cut = random_problem(40, rows=3)
    scan = torch.ops.offline_losses.scan
    expected = scan(b, a, cut)
    pair = [torch.stack([x, x], -1)[..., 0] for x in (b, a, cut)]
    close(scan(*pair), expected)
    close(scan(*(x.T.contiguous().T for x in (b, a, cut))), expected)
    close(scan(pair[0][0], pair[1][0], pair[2][0]), expected[0])
    close(scan(b[:1].expand(3, -1), a, cut), scan(b[:1].repeat(3, 1), a, cut))
