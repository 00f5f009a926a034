"""The laws of the returns: concatenation, consistency with a value function, and what a flag ends."""

from __future__ import annotations

import inspect
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from comparison import close, gradients
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from scipy.signal import lfilter
from strategies import Trajectories, discounts, lengths, reals, tensors, trajectories
from torch import Tensor

import offline_losses
from offline_losses import (
    bellman_target,
    discounted_return,
    generalized_advantage,
    lambda_return,
    n_step_return,
)

NAN, INF = float("nan"), float("inf")


def every_return(x: Trajectories, discount: float | Tensor, lambda_: float | Tensor = 0.8) -> dict[str, Tensor]:
    """All four estimators on one batch, plus the return without a bootstrap."""
    ends = (x.terminated, x.done)
    return {
        "plain": discounted_return(x.reward, x.done, discount=discount),
        "discounted": discounted_return(
            x.reward, x.done, discount=discount, next_value=x.next_value, terminated=x.terminated
        ),
        "1": n_step_return(x.reward, x.next_value, *ends, n=1, discount=discount),
        "3": n_step_return(x.reward, x.next_value, *ends, n=3, discount=discount),
        "100": n_step_return(x.reward, x.next_value, *ends, n=100, discount=discount),
        "lambda": lambda_return(x.reward, x.next_value, *ends, discount=discount, lambda_=lambda_),
        "advantage": generalized_advantage(x.reward, x.value, x.next_value, *ends, discount=discount, lambda_=lambda_),
    }


def last_step(x: Tensor) -> Tensor:
    """True on the last step of the axis, which always ends a sequence."""
    return torch.nn.functional.one_hot(torch.tensor(x.shape[-1] - 1), x.shape[-1]).bool().expand(x.shape)


@given(x=trajectories(), discount=discounts, lambda_=reals(0.0, 1.0), n=st.integers(1, 14))
def test_follows_the_paper(x: Trajectories, discount: float, lambda_: float, n: int) -> None:
    """Each return equals its loop over steps."""
    reward, value, next_value, terminated, done = (field.numpy() for field in x)
    tail = (x.terminated, x.done)
    ends = (terminated, done)
    close(
        discounted_return(x.reward, x.done, discount=discount),
        ORACLES["discounted_return"](reward, done, discount=discount),
    )
    bootstrap = {"next_value": next_value, "terminated": terminated}
    close(
        discounted_return(x.reward, x.done, discount=discount, next_value=x.next_value, terminated=x.terminated),
        ORACLES["discounted_return"](reward, done, discount=discount, **bootstrap),
    )
    close(
        n_step_return(x.reward, x.next_value, *tail, n=n, discount=discount),
        ORACLES["n_step_return"](reward, next_value, *ends, n=n, discount=discount),
    )
    both = {"discount": discount, "lambda_": lambda_}
    close(
        lambda_return(x.reward, x.next_value, *tail, **both),
        ORACLES["lambda_return"](reward, next_value, *ends, **both),
    )
    close(
        generalized_advantage(x.reward, x.value, x.next_value, *tail, **both),
        ORACLES["generalized_advantage"](reward, value, next_value, *ends, **both),
    )


# What each return is made of.


@given(x=trajectories(), discount=discounts)
def test_the_bellman_equation(x: Trajectories, discount: float) -> None:
    """G_t - r_t is discount G_{t+1} inside, and 0 (or the bootstrap) at an end."""
    got = every_return(x, discount)
    end = x.done | last_step(x.done)
    after = got["plain"].roll(-1, -1)
    close(got["plain"], x.reward + torch.where(end, 0.0, discount * after))
    following = torch.where(end, x.next_value, got["discounted"].roll(-1, -1))
    following = torch.where(x.terminated, 0.0, following)
    close(got["discounted"], x.reward + discount * following)


@given(x=trajectories(), discount=discounts)
def test_a_true_value_function_is_reproduced_by_every_estimator(x: Trajectories, discount: float) -> None:
    """If r_t = V_t - discount V_{t+1}, every return is V and every advantage is 0, for all n, lambda."""
    following = torch.where(x.terminated, 0.0, x.next_value)
    consistent = x._replace(reward=x.value - discount * following)
    got = every_return(consistent, discount)
    close(got.pop("advantage"), 0.0, 1e-8)
    got.pop("plain")
    for estimate in got.values():
        close(estimate, x.value, 1e-8)


@given(x=trajectories(), discount=discounts, c=reals())
def test_the_advantage_ignores_potentials(x: Trajectories, discount: float, c: float) -> None:
    """Moving V by c and the reward by c - discount c (c at a terminal step) leaves each advantage."""
    follows = (~x.terminated).double()
    moved = x._replace(
        reward=x.reward + c - discount * c * follows,
        value=x.value + c,
        next_value=x.next_value + c,
    )
    close(every_return(moved, discount)["advantage"], every_return(x, discount)["advantage"], 1e-8)


@given(x=trajectories(), discount=discounts)
def test_lambda_zero_and_one(x: Trajectories, discount: float) -> None:
    """lambda = 0 is the one-step target; lambda = 1 is the bootstrapped discounted return."""
    td = bellman_target(x.reward, x.next_value, x.terminated, discount=discount)
    close(every_return(x, discount, 0.0)["lambda"], td)
    one = every_return(x, discount, 1.0)
    close(one["lambda"], one["discounted"])


@given(x=trajectories(), discount=discounts)
def test_n_equal_one_and_n_beyond_the_end(x: Trajectories, discount: float) -> None:
    """n = 1 is the one-step target; n >= T is the bootstrapped discounted return."""
    got = every_return(x, discount)
    close(got["1"], bellman_target(x.reward, x.next_value, x.terminated, discount=discount))
    close(got["100"], got["discounted"])
    steps = x.reward.shape[-1]
    exact = n_step_return(x.reward, x.next_value, x.terminated, x.done, n=steps, discount=discount)
    close(exact, got["discounted"])


@given(x=trajectories(), discount=discounts, n=st.integers(2, 14))
def test_n_steps_from_n_minus_one(x: Trajectories, discount: float, n: int) -> None:
    """G^(n)_t = r_t + discount G^(n-1)_{t+1} where no end is in between."""
    many, fewer = (
        n_step_return(x.reward, x.next_value, x.terminated, x.done, n=k, discount=discount) for k in (n, n - 1)
    )
    end = x.done | last_step(x.done)
    td = bellman_target(x.reward, x.next_value, x.terminated, discount=discount)
    close(many, torch.where(end, td, x.reward + discount * fewer.roll(-1, -1)))


@given(x=trajectories(), discount=discounts, lambda_=reals(0.0, 1.0))
def test_lambda_is_a_mixture_of_all_n(x: Trajectories, discount: float, lambda_: float) -> None:
    """(1 - lambda) sum over n of lambda^(n-1) G^(n): the geometric mixture, its tail at the end."""
    steps = x.reward.shape[-1]
    mixture = torch.zeros_like(x.reward)
    for n in range(1, steps + 1):
        share = lambda_ ** (n - 1) * (1 if n == steps else 1 - lambda_)
        mixture += share * n_step_return(x.reward, x.next_value, x.terminated, x.done, n=n, discount=discount)
    close(every_return(x, discount, lambda_)["lambda"], mixture)


@given(x=trajectories(), discount=discounts, lambda_=reals(0.0, 1.0))
def test_advantage_is_lambda_return_minus_value(x: Trajectories, discount: float, lambda_: float) -> None:
    """A_t = G^lambda_t - V_t, when V_{t+1} is the next value of step t."""
    got = every_return(x, discount, lambda_)
    close(got["advantage"], got["lambda"] - x.value)


@given(x=trajectories(), discount=discounts)
def test_lambda_zero_advantage_is_the_one_step_error(x: Trajectories, discount: float) -> None:
    """lambda = 0: r + discount V' - V; the sign is reward minus expectation."""
    td = bellman_target(x.reward, x.next_value, x.terminated, discount=discount)
    close(every_return(x, discount, 0.0)["advantage"], td - x.value)


@given(steps=st.integers(1, 30), discount=st.sampled_from([0.0, 0.5, 0.9]))
def test_constant_reward_is_a_geometric_series(steps: int, discount: float) -> None:
    """Reward one for n steps: (1 - discount^n) / (1 - discount); with its own tail: the limit."""
    reward = torch.ones(steps, dtype=torch.float64)
    no = torch.zeros(steps, dtype=torch.bool)
    left = torch.arange(steps, 0, -1, dtype=torch.float64)
    series = (1 - discount**left) / (1 - discount)
    close(discounted_return(reward, no, discount=discount), series)
    tail = torch.full_like(reward, 1 / (1 - discount))
    endless = discounted_return(reward, no, discount=discount, next_value=tail, terminated=no)
    close(endless, 1 / (1 - discount))


def test_the_defaults() -> None:
    """Discount 0.99, lambda 0.95."""
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    no = torch.zeros(2, dtype=torch.bool)
    close(discounted_return(one, no)[0], 1.99)
    close(n_step_return(zero, one, no, no, n=2)[0], 0.99**2)
    lambda_one_step = 0.99 * (0.05 + 0.95 * 0.99)
    close(lambda_return(zero, one, no, no)[0], lambda_one_step)
    close(generalized_advantage(zero, one, one, no, no)[0], lambda_one_step - 1)


# Concatenation, and what an end stops.


@given(data=st.data(), discount=discounts)
def test_concatenation_within_an_episode(data: st.DataObject, discount: float) -> None:
    """G over R1 then R2 is G(R1) + discount^n G(R2)."""
    one, two = (data.draw(tensors((data.draw(st.integers(1, 6)),))) for _ in range(2))
    no = torch.zeros(len(one) + len(two), dtype=torch.bool)
    whole = discounted_return(torch.cat([one, two]), no, discount=discount)
    second = discounted_return(two, no[: len(two)], discount=discount)
    first = discounted_return(one, no[: len(one)], discount=discount)
    left = torch.arange(len(one), 0, -1, dtype=torch.float64)
    close(whole, torch.cat([first + discount**left * second[0], second]))


@given(data=st.data(), discount=discounts)
def test_a_flat_dataset_is_its_episodes(data: st.DataObject, discount: float) -> None:
    """On one time axis cut by `done`, each return equals the one computed episode by episode."""
    steps = data.draw(lengths())
    parts = []
    for count in steps:
        done = torch.zeros(count, dtype=torch.bool)
        done[-1] = True
        reward, value, following = (data.draw(tensors((count,), -5.0, 5.0)) for _ in range(3))
        dead = done & data.draw(st.booleans())
        parts.append(Trajectories(reward, value, following, dead, done))
    flat = Trajectories(*(torch.cat(field) for field in zip(*parts, strict=True)))
    apart = [every_return(part, discount) for part in parts]
    for name, got in every_return(flat, discount).items():
        close(got, torch.cat([part[name] for part in apart]))


@given(data=st.data())
def test_nothing_crosses_an_end(data: st.DataObject) -> None:
    """NaN after a `done`, and NaN as a terminated step's next value, reach nothing before it.

    Neither a value nor a gradient.
    """
    x = data.draw(trajectories(max_dims=1))
    at = data.draw(st.integers(0, x.reward.shape[-1] - 1))
    x.done[..., at] = True
    dirty = Trajectories(*(field.clone() for field in x))
    for field in (dirty.reward, dirty.value, dirty.next_value):
        field[..., at + 1 :] = NAN
    dirty = dirty._replace(next_value=torch.where(x.terminated, NAN, dirty.next_value))
    clean = every_return(x, 0.9)
    for name, got in every_return(dirty, 0.9).items():
        close(got[..., : at + 1], clean[name][..., : at + 1])

    def head(reward: Tensor, value: Tensor, next_value: Tensor) -> Tensor:
        batch = Trajectories(reward, value, next_value, x.terminated, x.done)
        return torch.stack(list(every_return(batch, 0.9).values()))[..., : at + 1]

    wanted = gradients(head, x.reward, x.value, x.next_value)
    got = gradients(head, dirty.reward, dirty.value, dirty.next_value)
    for slope, plain in zip(got, wanted, strict=True):
        close(slope[..., : at + 1], plain[..., : at + 1])
        assert bool((plain[..., at + 1 :] == 0).all())


@given(x=trajectories())
def test_what_a_terminal_step_hides_has_no_gradient(x: Trajectories) -> None:
    """A terminated step's next value may be NaN: all gradients stay, discount and lambda included."""
    hidden = x._replace(next_value=torch.where(x.terminated, NAN, x.next_value))
    knobs = [torch.tensor(v, dtype=torch.float64) for v in (0.9, 0.8)]

    def of(reward: Tensor, value: Tensor, following: Tensor, *knobs: Tensor) -> Tensor:
        batch = Trajectories(reward, value, following, x.terminated, x.done)
        return torch.stack(list(every_return(batch, *knobs).values()))

    wanted = gradients(of, *x[:3], *knobs)
    for slope, plain in zip(gradients(of, *hidden[:3], *knobs), wanted, strict=True):
        close(slope, plain)


@given(x=trajectories(), discount=discounts)
def test_all_returns_read_the_same_flags_alike(x: Trajectories, discount: float) -> None:
    """`done` alone cuts: without a next value that counts, all returns to the end are one, whatever is terminated."""
    x = x._replace(terminated=torch.rand(x.done.shape) < 0.5, next_value=torch.zeros_like(x.reward))
    got = every_return(x, discount, lambda_=1.0)
    for name in ("discounted", "100", "lambda"):
        close(got[name], got["plain"])
    close(every_return(x._replace(value=torch.zeros_like(x.value)), discount, 1.0)["advantage"], got["plain"])


@given(data=st.data())
def test_a_discount_for_each_step(data: st.DataObject) -> None:
    """Steps of differing duration: each return equals its loop, and equal ones are one number."""
    x = data.draw(trajectories())
    one, two = (data.draw(tensors(x.reward.shape, 0.0, 1.0)) for _ in range(2))
    same = torch.full_like(x.reward, 0.9)
    for got, wanted in zip(every_return(x, same, same).values(), every_return(x, 0.9, 0.9).values(), strict=True):
        close(got, wanted)
    arrays = {name: field.numpy() for name, field in x._asdict().items()}
    for name, knobs in {
        "discounted_return": {"discount": one},
        "n_step_return": {"discount": one, "n": data.draw(st.integers(1, 14))},
        "lambda_return": {"discount": one, "lambda_": two},
        "generalized_advantage": {"discount": one, "lambda_": two},
    }.items():
        names = [p for p in inspect.signature(getattr(offline_losses, name)).parameters if p in arrays]
        names = names if name != "discounted_return" else ["reward", "done"]
        plain = {knob: value.numpy() if isinstance(value, Tensor) else value for knob, value in knobs.items()}
        got = getattr(offline_losses, name)(*(getattr(x, each) for each in names), **knobs)
        close(got, ORACLES[name](*(arrays[each] for each in names), **plain))


def test_a_semi_markov_return_by_hand() -> None:
    """Two steps of two and three seconds: the discount of each is to the power of its duration."""
    reward, done = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([False, False, True])
    discount = 0.9 ** torch.tensor([2.0, 3.0, 1.0])
    close(discounted_return(reward, done, discount=discount), torch.tensor([1 + 0.81 * 1.729, 1.729, 1.0]), 1e-6)
    with pytest.raises(ValueError, match=r"discounted_return: discount: expected shape \[\] or shape \[3\]"):
        discounted_return(reward, done, discount=discount[:2])


@given(data=st.data())
def test_terminated_is_not_truncated(data: st.DataObject) -> None:
    """Turning a termination into a truncation adds the discounted next value there, and only so."""
    x = data.draw(trajectories(max_dims=0))
    steps = x.reward.shape[-1]
    end = x.done | last_step(x.done)
    x = x._replace(done=end, terminated=end)
    with_bootstrap = every_return(x._replace(terminated=torch.zeros_like(end)), 0.9)["discounted"]
    distance = ORACLES["discounted_return"](np.ones(steps), end.numpy(), discount=1.0)
    last = (torch.arange(steps) + torch.from_numpy(distance).long() - 1).long()
    extra = 0.9 ** torch.from_numpy(distance) * x.next_value[last]
    close(with_bootstrap, every_return(x, 0.9)["plain"] + extra)


@given(x=trajectories(max_dims=0), discount=discounts)
def test_a_return_sees_only_its_own_future(x: Trajectories, discount: float) -> None:
    """d G_0 / d r_k is discount^k up to the first end and exactly 0 behind it."""
    (slope,) = gradients(lambda r: discounted_return(r, x.done, discount=discount)[0], x.reward)
    end = x.done | last_step(x.done)
    stop = int(end.nonzero()[0]) + 1
    reach = torch.tensor([discount**k if k < stop else 0.0 for k in range(len(x.reward))])
    close(slope, reach.double(), 1e-6)
    assert bool((slope[stop:] == 0).all())


@given(data=st.data(), discount=discounts, c=reals(-3.0, 3.0))
def test_linear_in_rewards_and_values(data: st.DataObject, discount: float, c: float) -> None:
    """Twice the rewards and values is twice the return; sums of problems are sums of returns."""
    x = data.draw(trajectories())
    other = [data.draw(tensors(tuple(x.reward.shape), -5.0, 5.0)) for _ in range(3)]
    y = Trajectories(*other, x.terminated, x.done)
    both = Trajectories(*(c * one + two for one, two in zip(x[:3], y[:3], strict=True)), x.terminated, x.done)
    left, right = every_return(x, discount), every_return(y, discount)
    for name, got in every_return(both, discount).items():
        close(got, c * left[name] + right[name], 1e-8)


def test_derivatives_of_both_orders() -> None:
    """Against finite differences: rewards, values, discount and lambda, across both kinds of end."""
    reward, value, following = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    discount = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    lambda_ = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    done = torch.tensor([[1, 0, 1], [0, 1, 0]]).bool()
    terminated = torch.tensor([[1, 0, 0], [0, 0, 0]]).bool()

    def of(reward: Tensor, value: Tensor, following: Tensor, discount: Tensor, lambda_: Tensor) -> tuple[Tensor, ...]:
        x = Trajectories(reward, value, following, terminated, done)
        return tuple(every_return(x, discount, lambda_).values())

    assert torch.autograd.gradcheck(of, (reward, value, following, discount, lambda_))
    assert torch.autograd.gradgradcheck(of, (reward, value, following, discount, lambda_))


def test_a_compiled_return_follows_its_discount() -> None:
    """A number that enters both a product and the recurrence is no constant of the code that PyTorch generates."""
    reward, value = torch.randn(2, 4, 7).double()
    done, no = torch.rand(4, 7) < 0.3, torch.zeros(4, 7).bool()

    def both(discount: float) -> Tensor:
        plain = discounted_return(reward, done, discount=discount, next_value=value, terminated=no)
        return plain + lambda_return(reward, value, no, done, discount=discount)

    compiled = torch.compile(both)
    for discount in (0.0, 0.5, 0.9, 0.3):
        close(compiled(discount), both(discount))


@pytest.mark.parametrize("kind", ["number", "tensor", "steps"])
def test_what_weighs_nothing_may_be_infinite(kind: str) -> None:
    """At λ = 1 no value inside of an episode counts, at λ = 0 no later one, and at γ = 0 none at all."""
    number = {
        "number": float,
        "tensor": lambda x: torch.tensor(x, dtype=torch.float64),
        "steps": lambda x: torch.full((3,), x, dtype=torch.float64),
    }[kind]
    zero, one, half = number(0.0), number(1.0), number(0.5)
    reward, value = torch.tensor([1.0, 2.0, 4.0]).double(), torch.zeros(3).double()
    end = torch.tensor([False, False, True])
    late, early = torch.tensor([3.0, INF, 3.0]).double(), torch.tensor([3.0, 3.0, INF]).double()
    found = {
        "to the end": lambda r, v: lambda_return(r, v, end, end, discount=half, lambda_=one),
        "one step": lambda r, v: lambda_return(r, v, end, end, discount=half, lambda_=zero),
        "one step's advantage": lambda r, v: generalized_advantage(r, value, v, end, end, discount=half, lambda_=zero),
    }
    wanted = {
        "to the end": [3.0, 4.0, 4.0],
        "one step": [2.5, INF, 4.0],
        "one step's advantage": [2.5, INF, 4.0],
    }
    for name, of in found.items():
        assert of(reward, late).tolist() == wanted[name]
        for slope in gradients(of, reward, late):
            assert bool(slope.isfinite().all())
    no = torch.zeros_like(end)
    for v in (late, early):
        for of in (
            lambda r, v: lambda_return(r, v, no, end, discount=zero, lambda_=half),
            lambda r, v: generalized_advantage(r, value, v, no, end, discount=zero, lambda_=half),
            lambda r, v: discounted_return(r, end, discount=zero, next_value=v, terminated=no),
            lambda r, v: n_step_return(r, v, no, end, n=2, discount=zero),
        ):
            assert of(reward, v).tolist() == reward.tolist()
            for slope in gradients(of, reward, v):
                assert bool(slope.isfinite().all())


@pytest.mark.parametrize("shape", [(), (3,)])
def test_the_slope_in_a_discount_of_zero(shape: tuple[int, ...]) -> None:
    """A step that looks ahead a little would see the next reward: backwards, forwards, and mapped."""
    reward, end = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([False, False, True])
    of = lambda discount: discounted_return(reward, end, discount=discount)  # noqa: E731
    zero = torch.zeros(shape, dtype=torch.float64)
    wanted = torch.tensor([2.0, 3.0, 0.0]).double()
    close(gradients(of, zero)[0], wanted if shape else wanted.sum())
    close(torch.func.jvp(of, (zero,), (torch.ones_like(zero),))[1], wanted)
    close(torch.func.vmap(of)(torch.stack([zero, zero])), reward.expand(2, 3))


def test_the_bootstrap_needs_both_arguments() -> None:
    """next_value without terminated, or the reverse, is an error: one cannot be guessed."""
    reward, no = torch.zeros(3), torch.zeros(3, dtype=torch.bool)
    with pytest.raises((ValueError, TypeError), match="terminated"):
        discounted_return(reward, no, next_value=reward)
    with pytest.raises((ValueError, TypeError), match="next_value"):
        discounted_return(reward, no, terminated=no)


def test_ten_million_steps_at_once() -> None:
    """10 000 episodes, 10 million steps, float32, one call: SciPy's float64 filter per episode."""
    generator = np.random.default_rng(0)
    cuts = np.sort(generator.choice(10_000_000 - 1, 9_999, replace=False)) + 1
    bounds = np.concatenate([[0], cuts, [10_000_000]])
    reward = generator.standard_normal(10_000_000).astype(np.float32)
    done = np.zeros(10_000_000, bool)
    done[bounds[1:] - 1] = True
    start = time.perf_counter()
    got = discounted_return(torch.from_numpy(reward), torch.from_numpy(done), discount=0.99).numpy()
    seconds = time.perf_counter() - start
    assert got.dtype == np.float32
    assert seconds < 60
    worst = 0.0
    for first, last in pairwise(bounds):
        backward = reward[first:last][::-1].astype(np.float64)
        exact = lfilter([1.0], [1.0, -0.99], backward)[::-1]
        scale = lfilter([1.0], [1.0, -0.99], np.abs(backward))[::-1]
        worst = max(worst, float((np.abs(got[first:last] - exact) / scale).max()))
    assert worst < 2e-6
