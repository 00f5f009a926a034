"""The laws of the chunk's return: every start has one, and its exponent is the number of steps that were taken."""

from __future__ import annotations

import torch
from comparison import close, gradients
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import Trajectories, discounts, tensors, trajectories
from torch import Tensor
from torch.nn.functional import pad

from offline_losses import bellman_target, chunk_return, discounted_return, n_step_return

NAN, INF = float("nan"), float("inf")


def windows(x: Tensor, steps: int, value: float = 0.0) -> Tensor:
    """The rows of this many steps from each start of flat data, filled up behind its end."""
    return pad(x, (0, steps - 1), value=value).unfold(-1, steps, 1)


def exists(done: Tensor) -> Tensor:
    """The steps of a chunk, as the documentation says."""
    return done.cumsum(-1) - done.long() == 0


@given(data=st.data(), discount=discounts)
def test_follows_the_paper(data: st.DataObject, discount: float) -> None:
    """Equals the loop over the steps of a chunk; a discount for each step enters at its own."""
    x = data.draw(trajectories())
    value = data.draw(tensors(tuple(x.reward.shape[:-1])))
    each = data.draw(tensors(tuple(x.reward.shape), 0.0, 1.0))
    for knob, plain in ((discount, discount), (each, each.numpy())):
        wanted = ORACLES["chunk_return"](*(y.numpy() for y in (x.reward, value, x.terminated, x.done)), discount=plain)
        close(chunk_return(x.reward, value, x.terminated, x.done, discount=knob), torch.from_numpy(wanted))


@given(x=trajectories(max_dims=0), steps=st.integers(1, 9), discount=discounts)
def test_on_flat_data_it_is_the_n_step_return(x: Trajectories, steps: int, discount: float) -> None:
    """For every start, the last ones of an episode and of the data included."""
    x.done[-1] = True
    done = windows(x.done, steps, True)
    last = exists(done).sum(-1) - 1
    reached = x.next_value[torch.arange(len(last)) + last]
    got = chunk_return(windows(x.reward, steps, NAN), reached, windows(x.terminated, steps), done, discount=discount)
    close(got, n_step_return(x.reward, x.next_value, x.terminated, x.done, n=steps, discount=discount))
    assert got.shape == x.reward.shape


@given(data=st.data(), discount=discounts)
def test_it_is_the_first_of_the_row_s_returns(data: st.DataObject, discount: float) -> None:
    """The bootstrapped return of the row, had every step the chunk's next value."""
    x = data.draw(trajectories())
    value = data.draw(tensors(tuple(x.reward.shape[:-1])))
    following = value.unsqueeze(-1).expand_as(x.reward)
    row = discounted_return(x.reward, x.done, discount=discount, next_value=following, terminated=x.terminated)
    close(chunk_return(x.reward, value, x.terminated, x.done, discount=discount), row[..., 0])


@given(data=st.data(), discount=discounts)
def test_one_step_is_the_bellman_target(data: st.DataObject, discount: float) -> None:
    """h = 1."""
    x = data.draw(trajectories(max_steps=1))
    value = data.draw(tensors(tuple(x.reward.shape[:-1])))
    wanted = bellman_target(x.reward[..., 0], value, x.terminated[..., 0], discount=discount)
    close(chunk_return(x.reward, value, x.terminated, x.done, discount=discount), wanted)


@given(steps=st.integers(1, 8), stop=st.integers(0, 9))
def test_the_exponent_is_the_number_of_steps(steps: int, stop: int) -> None:
    """A reward of one for ever is worth the same whether the chunk is whole or was truncated on the way."""
    done = torch.arange(steps) == stop
    reward, value = torch.ones(steps).double(), torch.tensor(10.0).double()
    close(chunk_return(reward, value, torch.zeros_like(done), done, discount=0.9), 10.0)
    taken = min(steps, stop + 1)
    close(chunk_return(0 * reward, value, torch.zeros_like(done), done, discount=0.9), 10.0 * 0.9**taken)
    ended = chunk_return(reward, value, done, done, discount=0.9)
    close(ended, sum(0.9**k for k in range(taken)) + (0.0 if stop < steps else 10.0 * 0.9**steps))


@given(data=st.data())
def test_nothing_behind_the_end_is_read(data: st.DataObject) -> None:
    """Whatever follows in the row, flags included: not in the value, and not in a gradient, the discount's included."""
    x = data.draw(trajectories(max_dims=1))
    at = data.draw(st.integers(0, x.reward.shape[-1] - 1))
    x.done[..., at] = True
    value = data.draw(tensors(tuple(x.reward.shape[:-1])))
    reward, dead, done = x.reward.clone(), x.terminated.clone(), x.done.clone()
    reward[..., at + 1 :] = NAN
    dead[..., at + 1 :] = ~dead[..., at + 1 :]
    done[..., at + 1 :] = ~done[..., at + 1 :]
    hidden = torch.where((x.terminated & x.done & exists(x.done)).any(-1), NAN, value)
    discount = torch.tensor(0.9).double()
    wanted = gradients(lambda r, v, g: chunk_return(r, v, x.terminated, x.done, discount=g), x.reward, value, discount)
    close(chunk_return(reward, hidden, dead, done), chunk_return(x.reward, value, x.terminated, x.done))
    for slope, plain in zip(
        gradients(lambda r, v, g: chunk_return(r, v, dead, done, discount=g), reward, hidden, discount),
        wanted,
        strict=True,
    ):
        close(slope, plain)


@given(data=st.data())
def test_linear_in_rewards_and_values(data: st.DataObject) -> None:
    """The return is the sum of rewards and values times their slopes (Euler): none of them is detached."""
    x = data.draw(trajectories())
    value = data.draw(tensors(tuple(x.reward.shape[:-1])))
    slopes = gradients(lambda r, v: chunk_return(r, v, x.terminated, x.done), x.reward, value)
    result = chunk_return(x.reward, value, x.terminated, x.done)
    close((slopes[0] * x.reward).sum() + (slopes[1] * value).sum(), result.sum(), 1e-8)


def test_by_hand() -> None:
    """Rewards 1, 2, 4 at a discount of one half, and a value of 16: whole, truncated and terminated after two steps."""
    reward, no = torch.tensor([1.0, 2.0, 4.0]), torch.zeros(3).bool()
    second, value = torch.tensor([False, True, False]), torch.tensor(16.0)
    assert chunk_return(reward, value, no, no, discount=0.5) == 1 + 1 + 1 + 2
    assert chunk_return(reward, value, no, second, discount=0.5) == 1 + 1 + 4
    assert chunk_return(reward, value, second, second, discount=0.5) == 1 + 1
    assert chunk_return(torch.zeros(1), value, no[:1], no[:1]) == torch.tensor(0.99) * 16


def test_what_a_discount_of_zero_multiplies_may_be_infinite() -> None:
    """Then the chunk is its first reward, as a number, as a tensor and for each step; a zero later on is felt there."""
    reward, no = torch.tensor([1.0, INF, 2.0]), torch.zeros(3).bool()
    for zero in (0.0, torch.tensor(0.0), torch.zeros(3)):
        for value in (INF, -INF):
            assert chunk_return(reward, torch.tensor(value), no, no, discount=zero) == 1
    last = torch.tensor([0.5, 0.5, 0.0])
    assert chunk_return(torch.ones(3), torch.tensor(INF), no, no, discount=last) == 1.75
    slopes = gradients(lambda r, v: chunk_return(r, v, no, no, discount=0.0), reward, torch.tensor(INF))
    assert slopes[0].tolist() == [1.0, 0.0, 0.0]
    assert slopes[1] == 0


def test_derivatives_of_both_orders() -> None:
    """Against finite differences: rewards, values and the discount."""
    reward, value = torch.randn(3, 4).double().requires_grad_(), torch.randn(3).double().requires_grad_()
    done = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 1, 0]]).bool()
    terminated = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]).bool()
    discount = torch.tensor(0.9).double().requires_grad_()

    def of(reward: Tensor, value: Tensor, discount: Tensor) -> Tensor:
        return chunk_return(reward, value, terminated, done, discount=discount)

    assert torch.autograd.gradcheck(of, (reward, value, discount))
    assert torch.autograd.gradgradcheck(of, (reward, value, discount))
