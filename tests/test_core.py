"""What all rooms share, on its edges and in both of its ways, where no identity of a room would tell."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import close
from torch import Tensor

from offline_losses import episode_return
from offline_losses._core import blocks, episodes, pieces, ranking, tracing
from offline_losses._core.exponential import above_tangent, finite, log_mean_exp
from offline_losses._core.ranking import _best_by_scatter, _best_by_segments, best_episodes


def test_the_exponential_above_its_tangent_keeps_its_digits() -> None:
    """On both sides of where the series takes over; the difference itself has five digits there, and then none."""
    z = torch.linspace(-1, 1, 4001)
    exact = torch.expm1(z.double()) - z.double()
    assert ((above_tangent(z) - exact).abs() <= 5e-6 * exact.abs()).all()


@pytest.mark.parametrize("x", [[], [3.0, torch.inf]])
def test_the_mean_exponential_of_nothing(x: list[float]) -> None:
    """Zero on every element, none of which exists."""
    y = torch.tensor(x)
    assert log_mean_exp(y, torch.zeros(len(x), dtype=torch.bool)).equal(torch.zeros_like(y))


@pytest.mark.parametrize("by", ["episodes", "steps"])
def test_the_best_episodes_in_both_ways(by: str) -> None:
    """With ties and NaN, and bit for bit: a flag that is neither zero nor one is none to other operators."""
    kinds = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, torch.nan])
    for fraction in torch.linspace(0.005, 1.0, 200):
        reward, done = kinds[torch.randint(6, (20,))], torch.rand(20) < 0.4
        knobs = fraction, torch.tensor(1.0 if fraction < 0.5 else 0.5).double(), by
        found = [way(reward, done, *knobs).view(torch.uint8) for way in (_best_by_scatter, _best_by_segments)]
        assert found[0].equal(found[1])
    assert _best_by_scatter(torch.ones(1), torch.zeros(1, dtype=torch.bool), *knobs).all()


def test_compiled_code_takes_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """And other code the function itself."""
    calls: list[Tensor] = []
    own = ranking._best_episodes
    monkeypatch.setattr(ranking, "_best_episodes", lambda *inputs: calls.append(inputs[0]) or own(*inputs))
    arguments = torch.rand(5), torch.rand(5) < 0.5, torch.tensor(0.5), torch.tensor(1.0).double(), "steps"
    kept = best_episodes(*arguments)
    assert not calls
    with tracing.tracing():
        assert best_episodes(*arguments).equal(kept)
    assert len(calls) == 1


@pytest.mark.parametrize("taken", [False, True])
def test_compiled_code_sums_episodes_by_the_operator(taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And other code by pieces or scattered, with the same results on the first step of each."""
    calls: list[Tensor] = []
    own = episodes._episode_sum
    monkeypatch.setattr(episodes, "_episode_sum", lambda *inputs: calls.append(inputs[0]) or own(*inputs))
    monkeypatch.setattr(episodes, "takes_operators", lambda: taken)
    x, reward = torch.rand(2, 7).double()
    done = torch.tensor([False, True, False, False, True, False, False])
    plain, discounted = (episode_return(y, done, discount=factor) for y, factor in ((x, 1.0), (reward, 0.9)))
    first = episodes.sequence_start(done)
    assert len(calls) == 2 * taken
    for found in (episodes.first_total(reward, done, 0.9), episodes.first_totals(x, reward, done, 0.9)[1]):
        close(found[first], discounted[first])
    close(episodes.first_totals(x, reward, done, 0.9)[0][first], plain[first])
    assert len(calls) == 7 * taken


def test_a_formula_may_ask_whether_a_number_is_zero() -> None:
    """A tensor is known not to be only where someone has said so, of itself and not of an equal one."""
    x, y = torch.tensor(2.0), torch.tensor(2.0)
    assert tracing.is_nonzero(0.5)
    assert not tracing.is_nonzero(0.0)
    with tracing.nonzero([y, x]):
        assert tracing.is_nonzero(x)
        with tracing.nonzero([y]):
            assert not tracing.is_nonzero(x)
        assert tracing.is_nonzero(x)
    assert not tracing.is_nonzero(x)


def test_a_trace_takes_operators_where_no_transform_is_active(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where there is a compiler that has them."""
    monkeypatch.setattr(tracing, "_is_transforming", [])
    with tracing.tracing():
        assert not tracing.takes_operators()
        for active in (True, False):
            tracing.register(lambda active=active: active)  # type: ignore[misc]
            assert tracing.takes_operators() != active
    assert not tracing.takes_operators()


def test_episodes_are_asked_alike_in_both_forms() -> None:
    """As flags and as pieces: what a number of each is on its steps, where a step stands, and the longest."""
    done = torch.tensor([False, False, True, True, False])
    pair = blocks.Marked(done), blocks.Listed(pieces.Pieces(torch.tensor([0, 3, 4]), torch.tensor([3, 1, 1])))
    for form in pair:
        assert form.spread(torch.tensor([5.0, 6.0, 7.0])).tolist() == [5, 5, 5, 6, 7]
        assert form.step().tolist() == [0, 1, 2, 0, 0]
        assert form.longest() == 3
    with tracing.tracing():  # where no value may be looked at, none is longer than all
        assert pair[0].longest() == 5
    assert torch.func.vmap(lambda x: torch.full((), blocks.Marked(x).longest()))(done[None]).tolist() == [5]


def test_blocks_are_of_whole_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each begins with the first that ends behind a multiple of their size; few steps are no blocks."""
    monkeypatch.setattr(blocks, "BLOCK", 4)
    assert blocks._blocks(torch.tensor([1, 4, 6, 10]), torch.tensor([2, 3, 2, 4]))[0] == [2, 5, 4]
    done = torch.tensor([False, True, False, True, True])
    assert [len(x) for _, x in blocks.in_blocks(done, torch.rand(5))] == [4, 1]
    assert len(blocks.in_blocks(done[:3], torch.rand(3))) == 1
    with tracing.tracing():
        assert len(blocks.in_blocks(done, torch.rand(5))) == 1


@pytest.mark.parametrize(
    ("x", "sums"),
    [
        ([1.0, -math.inf, 1.0, 0.5, 1.0], [1.0, -math.inf, -math.inf, 0.5, 1.5]),
        ([1.0] * 5, [1.0, 2.0, 3.0, 1.0, 2.0]),
        ([-1.0] * 5, [-1.0, -2.0, -3.0, -1.0, -2.0]),
        ([1.25, 0.0, 0.0, 0.0, 0.0], None),
        ([0.0, 0.0, -1.25, 0.0, -math.inf], None),
    ],
)
def test_running_sums_of_episodes(x: list[float], sums: list[float] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself, and none of numbers so large that the next episode would lose digits."""
    monkeypatch.setattr(pieces, "LARGEST", 3.0)
    found = pieces.Pieces(torch.tensor([0, 3]), torch.tensor([3, 2])).running(torch.tensor(x).double())
    assert sums == (found if found is None else found.tolist())


def test_what_may_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of plain tensors on the CPU, outside of a trace, and with nothing to differentiate by."""
    x, done = torch.rand(4), torch.tensor([False, True, False, True])
    other = torch.Tensor._make_subclass(type("Other", (Tensor,), {}), torch.rand(4))
    assert pieces.may_be_looked_at(x, torch.nn.Parameter(x))
    assert not any(pieces.may_be_looked_at(x, y) for y in (other, x.to("meta")))
    with tracing.tracing():
        assert not pieces.may_be_looked_at(x)
    monkeypatch.setattr(pieces, "MANY", 4)
    assert pieces.found(done, x, x) is not None
    assert pieces.found(done, x, x.clone().requires_grad_()) is None
    assert pieces.found(done[:3], x[:3]) is None


@pytest.mark.parametrize("shape", [(9,), (2, 3, 9)])
def test_sums_of_a_card_at_any_number_of_axes(shape: tuple[int, ...]) -> None:
    """Added up in order, or by one operator."""
    x, done = torch.rand(shape).double(), torch.rand(shape) < 0.4
    first = episodes.first_step_of(done, torch.arange(9))
    close(episodes._scattered_in_order(x, first), torch.zeros_like(x).scatter_add(-1, first, x))
    total = episodes._sum_by_scatter(x, done, torch.tensor(0.9).double(), False)
    close(total, episodes._sum_by_segments(x, done, torch.tensor(0.9).double(), False))


def test_nothing_is_subtracted_where_there_is_no_class() -> None:
    """All other numbers stay."""
    assert finite(torch.tensor([-torch.inf, -2.0, torch.inf])).tolist() == [0.0, -2.0, torch.inf]
