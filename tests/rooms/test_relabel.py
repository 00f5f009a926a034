"""The laws of the relabelled return: the best of all places to stop, so never below the return, and rising."""

from __future__ import annotations

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import Trajectories, discounts, lengths, reals, tensors, trajectories
from torch import Tensor, library

from offline_losses import bellman_target, discounted_return, n_step_return, relabel_return
from offline_losses._compile import stops as compiled_stops
from offline_losses._compile.switches import Unsupported
from offline_losses._core import stops

NAN, INF = float("nan"), float("inf")


def relabelled(x: Trajectories, discount: float | Tensor = 0.9) -> Tensor:
    return relabel_return(x.reward, x.next_value, x.terminated, x.done, discount=discount)


def plain(x: Trajectories, discount: float | Tensor = 0.9) -> Tensor:
    """The return with the bootstrap at the end."""
    return discounted_return(x.reward, x.done, discount=discount, next_value=x.next_value, terminated=x.terminated)


@given(data=st.data(), discount=discounts)
def test_follows_the_paper(data: st.DataObject, discount: float) -> None:
    """Equals the loop from the end, with one discount and with one for each step."""
    x = data.draw(trajectories(max_steps=20))
    each = data.draw(tensors(tuple(x.reward.shape), 0.0, 1.0))
    for knob, number in ((discount, discount), (each, each.numpy())):
        wanted = ORACLES["relabel_return"](
            *(y.numpy() for y in (x.reward, x.next_value, x.terminated, x.done)), discount=number
        )
        close(relabelled(x, knob), wanted)


@given(x=trajectories(), discount=discounts)
def test_it_is_the_largest_of_all_n_step_returns(x: Trajectories, discount: float) -> None:
    """To take the value after n steps, for the best n; the end of the episode is one of them."""
    every = [
        n_step_return(x.reward, x.next_value, x.terminated, x.done, n=n, discount=discount)
        for n in range(1, x.reward.shape[-1] + 1)
    ]
    close(relabelled(x, discount), torch.stack(every).amax(0))


@given(x=trajectories(), discount=discounts)
def test_never_below_the_return_nor_one_step(x: Trajectories, discount: float) -> None:
    """The observed return, with its bootstrap, and the one-step target are among what it chooses from."""
    got = relabelled(x, discount)
    not_above(plain(x, discount), got)
    not_above(bellman_target(x.reward, x.next_value, x.terminated, discount=discount), got)


@given(data=st.data(), discount=discounts)
def test_rises_with_values_and_rewards(data: st.DataObject, discount: float) -> None:
    """Nothing that is promised or given more makes it less."""
    x = data.draw(trajectories())
    more = data.draw(tensors(tuple(x.reward.shape), 0.0, 3.0))
    not_above(relabelled(x, discount), relabelled(x._replace(next_value=x.next_value + more), discount))
    not_above(relabelled(x, discount), relabelled(x._replace(reward=x.reward + more), discount))


@given(x=trajectories(), discount=discounts)
def test_values_that_promise_nothing_more_change_nothing(x: Trajectories, discount: float) -> None:
    """Values below every return inside of an episode, minus infinity included, and the true ones."""
    end = x.done.clone()
    end[..., -1] = True
    for low in (-1e6, -INF):
        lower = x._replace(next_value=torch.where(end, x.next_value, low))
        close(relabelled(lower, discount), plain(x, discount))
    following = torch.where(x.terminated, 0.0, x.next_value)
    true = x._replace(reward=x.value - discount * following, terminated=x.terminated & end)
    true = true._replace(reward=true.value - discount * torch.where(true.terminated, 0.0, true.next_value))
    close(relabelled(true, discount), true.value, 1e-8)


@given(x=trajectories(), c=reals(0.1, 5.0))
def test_scales_with_rewards_and_values(x: Trajectories, c: float) -> None:
    """In any unit the same choice."""
    close(relabelled(x._replace(reward=c * x.reward, next_value=c * x.next_value)), c * relabelled(x), 1e-8)


def test_a_promise_reaches_all_steps_before_it() -> None:
    """A maximum at each step alone would raise one of them only."""
    reward, end = torch.ones(5), torch.arange(5) == 4
    value = torch.tensor([0.0, 0.0, 100.0, 0.0, 50.0])
    got = relabel_return(reward, value, end, end)
    assert got.tolist() == [103.0, 102.0, 101.0, 2.0, 1.0]
    assert relabel_return(reward, value, ~end & end, end).tolist() == [103.0, 102.0, 101.0, 52.0, 51.0]
    assert relabel_return(reward, value, end, end, discount=0.5).tolist() == [14.25, 26.5, 51.0, 1.5, 1.0]


@given(data=st.data())
def test_a_flat_dataset_is_its_episodes(data: st.DataObject) -> None:
    """On one time axis cut by `done`, it equals the one computed episode by episode."""
    parts = []
    for count in data.draw(lengths()):
        done = torch.zeros(count, dtype=torch.bool)
        done[-1] = True
        reward, value, following = (data.draw(tensors((count,), -5.0, 5.0)) for _ in range(3))
        parts.append(Trajectories(reward, value, following, done & data.draw(st.booleans()), done))
    flat = Trajectories(*(torch.cat(field) for field in zip(*parts, strict=True)))
    close(relabelled(flat), torch.cat([relabelled(part) for part in parts]))


@given(data=st.data())
def test_nothing_crosses_an_end(data: st.DataObject) -> None:
    """NaN after a `done`, and NaN as a terminated step's next value, reach nothing before it, nor its gradient."""
    x = data.draw(trajectories(max_dims=1))
    at = data.draw(st.integers(0, x.reward.shape[-1] - 1))
    x.done[..., at] = True
    dirty = Trajectories(*(field.clone() for field in x))
    for field in (dirty.reward, dirty.next_value):
        field[..., at + 1 :] = NAN
    dirty = dirty._replace(next_value=torch.where(x.terminated, NAN, dirty.next_value))
    close(relabelled(dirty)[..., : at + 1], relabelled(x)[..., : at + 1])

    def head(reward: Tensor, value: Tensor) -> Tensor:
        return relabel_return(reward, value, x.terminated, x.done, discount=0.9)[..., : at + 1]

    wanted = gradients(head, x.reward, x.next_value)
    for slope, clean in zip(gradients(head, dirty.reward, dirty.next_value), wanted, strict=True):
        close(slope[..., : at + 1], clean[..., : at + 1])


@given(data=st.data())
def test_infinite_rewards_and_values(data: st.DataObject) -> None:
    """A value of infinity is taken, a return of minus infinity is not, and neither makes a NaN of another step."""
    x = data.draw(trajectories())
    for number, reward, value in ((INF, x.reward, x.next_value.clone()), (-INF, x.reward.clone(), x.next_value)):
        changed = value if number > 0 else reward
        changed[..., data.draw(st.integers(0, x.reward.shape[-1] - 1))] = number
        arrays = [y.numpy() for y in (reward, value, x.terminated, x.done)]
        for discount in (0.9, 0.01):
            got = relabel_return(reward, value, x.terminated, x.done, discount=discount)
            close(got, ORACLES["relabel_return"](*arrays, discount=discount))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinity_is_above_all_large_numbers(dtype: torch.dtype) -> None:
    """An infinite reward behind a large promise is waited for, and an infinite promise before it is taken."""
    no = torch.zeros(2).bool()
    for large in (1.0, 1e10, 1e25):
        for reward, value, wanted in (
            ([0.0, INF], [large, 0.0], [INF, INF]),
            ([0.0, large], [INF, 0.0], [INF, large]),
            ([0.0, -INF], [-large, 0.0], [-large, -INF]),
            ([0.0, -large], [-INF, 0.0], [-large, -large]),
        ):
            got = relabel_return(torch.tensor(reward, dtype=dtype), torch.tensor(value, dtype=dtype), no, no)
            close(got, torch.tensor(wanted, dtype=dtype))


def test_what_follows_a_promise_may_be_too_large_for_its_float() -> None:
    """Losses whose sum is no number are left behind."""
    no = torch.zeros(3).bool()
    reward, value = torch.tensor([1.0, -3e38, -3e38]), torch.tensor([5.0, -INF, 0.0])
    assert relabel_return(reward, value, no, no).tolist() == [6.0, -INF, reward[2].item()]


def test_what_a_discount_of_zero_multiplies_may_be_infinite() -> None:
    """Then each return is its reward: as a number, as a tensor and for each step."""
    reward, no = torch.tensor([1.0, INF, 2.0]), torch.zeros(3).bool()
    for zero in (0.0, torch.tensor(0.0), torch.zeros(3)):
        for value in (torch.zeros(3), torch.tensor([0.0, INF, -INF]), torch.full((3,), INF)):
            assert relabel_return(reward, value, no, no, discount=zero).tolist() == reward.tolist()
            for slope in gradients(lambda r, v, g=zero: relabel_return(r, v, no, no, discount=g), reward, value):
                assert bool(slope.isfinite().all())


def test_the_gradient_is_that_of_what_was_chosen() -> None:
    """Up to the promise that was taken: one for each reward, the discount's power for the value, zero behind it."""
    reward, end = torch.ones(4).double(), torch.arange(4) == 3
    value = torch.tensor([0.0, 9.0, 0.0, 0.0]).double()
    slopes = gradients(lambda r, v: relabel_return(r, v, end, end, discount=0.5)[0], reward, value)
    assert slopes[0].tolist() == [1.0, 0.5, 0.0, 0.0]
    assert slopes[1].tolist() == [0.0, 0.25, 0.0, 0.0]


@given(x=trajectories())
def test_it_is_the_sum_of_what_it_moves_with(x: Trajectories) -> None:
    """Rewards and values times their slopes (Euler): neither is detached."""
    slopes = gradients(lambda r, v: relabel_return(r, v, x.terminated, x.done, discount=0.9), x.reward, x.next_value)
    close((slopes[0] * x.reward).sum() + (slopes[1] * x.next_value).sum(), relabelled(x).sum(), 1e-8)


def test_it_is_undiscounted_by_default() -> None:
    """As returns-to-go are."""
    reward, no = torch.ones(3), torch.zeros(3).bool()
    assert relabel_return(reward, torch.zeros(3), no, no).tolist() == [3.0, 2.0, 1.0]


def test_a_long_sequence() -> None:
    """A hundred thousand steps in episodes of any length, in float32, against the loop."""
    generator = torch.Generator().manual_seed(0)
    done = torch.rand(100_003, generator=generator) < 0.002
    reward, value = (torch.randn(100_003, generator=generator) for _ in range(2))
    terminated = done & (torch.rand(100_003, generator=generator) < 0.5)
    got = relabel_return(reward, 10 * value, terminated, done, discount=0.99)
    wanted = ORACLES["relabel_return"](
        reward.numpy(), 10 * value.numpy(), terminated.numpy(), done.numpy(), discount=0.99
    )
    assert (got - torch.from_numpy(wanted)).abs().max() < 1e-4


@pytest.mark.parametrize("shape", [(60, 41), (3, 3000), (2, 40, 64), (1, 2049)], ids=str)
def test_every_way_to_the_best_stop(shape: tuple[int, ...]) -> None:
    """Many rows step by step, long ones in chunks, and under a transform by halves: the loop's numbers."""
    generator = torch.Generator().manual_seed(0)
    reward, value = (torch.randn(shape, generator=generator).double() for _ in range(2))
    done = torch.rand(shape, generator=generator) < 0.05
    terminated, value = done & (reward > 0), 5 * value
    arrays = [x.numpy() for x in (reward, value, terminated, done)]
    wanted = torch.from_numpy(ORACLES["relabel_return"](*arrays, discount=0.97))
    close(relabel_return(reward, value, terminated, done, discount=0.97), wanted)
    mapped = torch.func.vmap(lambda *x: relabel_return(*x, discount=0.97))
    close(mapped(reward, value, terminated, done), wanted)


@pytest.mark.parametrize("shape", [(1,), (16,), (17,), (5, 7), (3, 600), (40_001,), (0, 7)], ids=str)
def test_the_operator_of_compiled_code(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    """Chunks of generated code, the steps in order and halves find the same; so does what is without a compiler."""
    generator = torch.Generator().manual_seed(0)
    b, stopped, a = (torch.rand(shape, generator=generator).double() for _ in range(3))
    a = torch.where(torch.rand(shape, generator=generator) < 0.1, 0.0, a)
    a[..., -1], b[..., -1] = 0.0, stopped[..., -1]
    expected = stops.stop_in_order(b, a, 2 * stopped)
    best_stop = torch.ops.offline_losses.best_stop
    close(best_stop(b, a, 2 * stopped), expected)
    close(stops._by_halves(b, a, 2 * stopped), expected)
    checks = "test_schema", "test_faketensor"
    library.opcheck(best_stop, (b, a, stopped), test_utils=checks)

    def unsupported(*_: object) -> None:
        raise Unsupported

    monkeypatch.setattr(compiled_stops, "run", unsupported)
    close(best_stop(b, a, 2 * stopped), expected)


def test_precisions_may_be_mixed() -> None:
    """A value, or a discount, of double precision beside rewards of single precision."""
    reward, end = torch.ones(3), torch.tensor([False, False, True])
    value = torch.tensor([0.0, 9.0, 0.0]).double()
    got = relabel_return(reward, value, end, end, discount=torch.tensor(0.5).double())
    close(got, torch.tensor([1 + 0.5 + 0.25 * 9, 1 + 4.5, 1.0]).double())


def test_derivatives_of_both_orders() -> None:
    """Against finite differences: rewards, values and the discount, where no two choices are equal."""
    generator = torch.Generator().manual_seed(1)
    reward, value = (torch.randn(2, 5, generator=generator).double().requires_grad_() for _ in range(2))
    discount = torch.tensor(0.9).double().requires_grad_()
    done = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]).bool()
    terminated = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()

    def of(reward: Tensor, value: Tensor, discount: Tensor) -> Tensor:
        return relabel_return(reward, value, terminated, done, discount=discount)

    assert torch.autograd.gradcheck(of, (reward, value, discount))
    assert torch.autograd.gradgradcheck(of, (reward, value, discount))
