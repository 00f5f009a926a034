"""The laws of disagreement: what equal members are worth, in which direction a spread moves, and its finite slopes."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from scipy.stats import norm
from strategies import batches, distinct, masks, reals, tensors
from torch import Tensor

from offline_losses import (
    diversity_penalty,
    ensemble_lower_bound,
    ensemble_mean,
    ensemble_min,
    uncertainty_penalized_reward,
)

MEANINGS = ["max_aleatoric", "max_pairwise_difference", "ensemble_std"]


@st.composite
def critics(draw: st.DrawFn, least: int = 2) -> Tensor:
    """q [E, *batch], without ties."""
    return draw(distinct((draw(st.integers(least, 5)), *draw(batches(0, 2, 1, 3)))))


@st.composite
def slopes(draw: st.DrawFn) -> Tensor:
    """action_gradient [E, *batch, A], some of them zero."""
    shape = (draw(st.integers(2, 4)), *draw(batches(0, 2, 1, 3)), draw(st.integers(1, 4)))
    return torch.where(draw(masks(shape[:-1]))[..., None], draw(tensors(shape)), 0.0)


def derivatives(function, *x: Tensor) -> list[Tensor]:
    """The gradients of a function's sum, and those of their squares' sum."""
    x = tuple(each.clone().requires_grad_() for each in x)
    first = torch.autograd.grad(function(*x).sum(), x, create_graph=True)
    second = torch.autograd.grad(sum(each.square().sum() for each in first), x, allow_unused=True)
    return [*first, *(each for each in second if each is not None)]


@given(q=critics(), penalty_weight=reals(0.0, 4.0), correction=st.sampled_from([0, 1]))
def test_lower_bound_follows_the_paper(q: Tensor, penalty_weight: float, correction: int) -> None:
    """Mean less so many deviations of the critics, or of the population."""
    options = {"penalty_weight": penalty_weight, "correction": correction}
    close(ensemble_lower_bound(q, **options), ORACLES["ensemble_lower_bound"](q.numpy(), **options))
    close(ensemble_lower_bound(q, **options), q.mean(0) - penalty_weight * q.std(0, correction=correction))


@given(q=critics(1), data=st.data())
def test_lower_bound_moves_and_scales_with_the_critics(q: Tensor, data: st.DataObject) -> None:
    """Order does not matter, constants and positive factors pass through; never above the mean."""
    c, a, penalty_weight = data.draw(reals()), data.draw(reals(0.1, 5.0)), data.draw(reals(0.0, 4.0))
    bound = ensemble_lower_bound(q, penalty_weight=penalty_weight)
    close(ensemble_lower_bound(q.flip(0), penalty_weight=penalty_weight), bound)
    close(ensemble_lower_bound(a * q + c, penalty_weight=penalty_weight), a * bound + c)
    not_above(bound, ensemble_mean(q))
    close(ensemble_lower_bound(q, penalty_weight=0.0), ensemble_mean(q))
    (slope,) = gradients(lambda x: ensemble_lower_bound(x, penalty_weight=penalty_weight), q)
    close(slope.sum(0), 1.0)


@given(q=distinct((2, 3)))
def test_lower_bound_of_two_is_their_minimum(q: Tensor) -> None:
    """Half of the distance below the mean, which is one deviation of two; with the correction it is more."""
    close(ensemble_lower_bound(q), ensemble_min(q))
    close(ensemble_lower_bound(q, correction=1), q.mean(0) - (q[0] - q[1]).abs() / math.sqrt(2))


def test_lower_bound_is_where_the_minimum_of_so_many_is_expected() -> None:
    """The constants of the docstring, 1.56 deviations for ten normal critics, against a sample of their minimum."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(10, 200_000, dtype=torch.float64, generator=generator)
    deviations = norm.ppf((10 - math.pi / 8) / (10 - math.pi / 4 + 1))
    assert round(deviations, 2) == 1.56
    expected = ensemble_lower_bound(q, penalty_weight=deviations, correction=1).mean()
    assert abs(float(ensemble_min(q).mean() - expected)) < 0.05


@given(data=st.data())
def test_agreeing_members_are_certain_and_their_slopes_finite(data: st.DataObject) -> None:
    """Where all agree the bound is their value and no reward is taken; first and second derivatives are finite."""
    value = data.draw(tensors(data.draw(batches(1, 2))))
    q = value.expand(3, *value.shape)
    close(ensemble_lower_bound(q, penalty_weight=7.0), value, 0)
    for each in derivatives(ensemble_lower_bound, q):
        assert each.isfinite().all()
    (slope,) = gradients(ensemble_lower_bound, q)
    close(slope, 1 / 3)
    models = value[..., None].expand(3, *value.shape, 1)
    for meaning in MEANINGS[1:]:

        def penalized(x: Tensor, meaning: str = meaning) -> Tensor:
            return uncertainty_penalized_reward(value, x, uncertainty=meaning)

        close(penalized(models), value, 0)
        assert all(each.isfinite().all() for each in derivatives(penalized, models))
    zero = torch.zeros_like(models)
    assert all(each.isfinite().all() for each in derivatives(lambda x: uncertainty_penalized_reward(value, x), zero))


def test_members_agree_exactly_though_their_mean_is_rounded() -> None:
    """Three times 0.1, of which the third part is more than 0.1: no deviation, and none of its slope."""
    q = torch.full((3, 1), 0.1, dtype=torch.float64)
    assert q.mean(0) != q[0]
    deviation = uncertainty_penalized_reward(torch.zeros(1).double(), q[..., None], uncertainty="ensemble_std")
    assert deviation == 0
    (slope,) = gradients(ensemble_lower_bound, q)
    close(slope, 1 / 3, 1e-12)


@pytest.mark.parametrize("size", [1e-25, 1e20])
def test_no_square_leaves_the_range_of_floats(size: float) -> None:
    """Spreads of float32 numbers whose squares are zero or infinite."""
    q = torch.tensor([[1.0], [3.0]]) * size
    close(ensemble_lower_bound(q) / size, torch.tensor([1.0]), 1e-6)
    for meaning, u in zip(MEANINGS, (3.0, 2.0, 1.0), strict=True):
        reward = uncertainty_penalized_reward(torch.zeros(1), q[..., None], uncertainty=meaning)
        close(reward / size, torch.tensor([-u]), 1e-6)
    (slope,) = gradients(ensemble_lower_bound, q)
    close(slope, torch.tensor([[1.0], [0.0]]), 1e-6)


@pytest.mark.parametrize("low", [-torch.inf, torch.inf])
def test_an_infinite_value_of_all_critics_is_their_bound(low: float) -> None:
    """A candidate that does not exist has minus infinity for every critic, and stays what it is, without NaN."""
    q = torch.tensor([[1.0, low], [3.0, low]], dtype=torch.float64)
    close(ensemble_lower_bound(q), torch.tensor([1.0, low], dtype=torch.float64))
    (slope,) = gradients(lambda x: ensemble_lower_bound(x)[:1], q)
    close(slope, torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double())
    assert not any(each.isnan().any() for each in derivatives(lambda x: ensemble_lower_bound(x)[:1], q))


@given(g=slopes())
def test_diversity_follows_the_paper(g: Tensor) -> None:
    """The cosines of all ordered pairs, over E - 1."""
    close(diversity_penalty(g, reduction="none"), ORACLES["diversity_penalty"](g.numpy()))


@given(data=st.data())
def test_parallel_slopes_count_the_critics_and_orthogonal_ones_nothing(data: st.DataObject) -> None:
    """E where all point the same way, 0 where none shares a direction, -E / (E - 1) at least: two opposite ones."""
    e, batch = data.draw(st.integers(2, 4)), data.draw(batches(1, 2))
    direction = data.draw(tensors((*batch, 4), 0.5, 2.0))
    lengths = data.draw(tensors((e, *batch, 1), 0.5, 3.0))
    close(diversity_penalty(lengths * direction, reduction="none"), float(e))
    close(diversity_penalty(lengths, reduction="none"), float(e))  # one dimension
    axes = torch.eye(4, dtype=torch.float64)[:e]
    close(diversity_penalty(lengths * axes.view(e, *[1] * len(batch), 4), reduction="none"), 0.0)
    close(diversity_penalty(torch.stack([direction, -direction])), -2.0)
    g = data.draw(tensors((e, *batch, 3)))
    not_above(torch.full((), -e / (e - 1)).double(), diversity_penalty(g, reduction="none"))
    not_above(diversity_penalty(g, reduction="none"), torch.full((), float(e)).double())


@given(g=slopes(), data=st.data())
def test_diversity_knows_directions_only(g: Tensor, data: st.DataObject) -> None:
    """Lengths do not matter, however small or large, and no gradient runs along a slope."""
    factor = data.draw(st.sampled_from([1e-200, 1e-30, 0.5, 1e30, 1e200]))
    close(diversity_penalty(factor * g), diversity_penalty(g))
    (slope,) = gradients(diversity_penalty, g)
    close((slope * g).sum(-1), 0.0)
    close(diversity_penalty(g.flip(0)), diversity_penalty(g))


@given(g=slopes())
def test_a_slope_of_zero_has_no_direction_and_finite_derivatives(g: Tensor) -> None:
    """It adds nothing and receives no gradient; the second derivative, which trains the critics, is finite too."""
    nothing = torch.cat([g, torch.zeros_like(g[:1])])
    e = len(g)
    close(diversity_penalty(nothing), diversity_penalty(g) * (e - 1) / e)
    assert all(each.isfinite().all() for each in derivatives(diversity_penalty, nothing))
    (slope,) = gradients(diversity_penalty, nothing)
    close(slope[-1], 0.0)


def test_diversity_of_two_critics_is_trained_through_their_slopes() -> None:
    """A step against the penalty turns the slopes of two networks apart: the gradient of a gradient."""
    torch.manual_seed(0)
    critics = [torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)) for _ in range(2)]
    optimizer = torch.optim.Adam([p for critic in critics for p in critic.parameters()], lr=1e-2)
    penalties = []
    for _ in range(30):
        action = torch.randn(64, 3).expand(2, 64, 3).requires_grad_()
        q = torch.stack([critic(action[e]).squeeze(-1) for e, critic in enumerate(critics)])
        (slope,) = torch.autograd.grad(q.sum(), action, create_graph=True)
        loss = diversity_penalty(slope)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        penalties.append(loss.item())
    assert penalties[-1] < penalties[0] - 0.5


@pytest.mark.parametrize("meaning", MEANINGS)
@given(data=st.data())
def test_penalized_reward_follows_the_paper(meaning: str, data: st.DataObject) -> None:
    """Each meaning of uncertainty, times the weight, off the reward; without a weight the reward is left."""
    batch = data.draw(batches(0, 2, 1, 3))
    reward, x = data.draw(tensors(batch)), data.draw(distinct((data.draw(st.integers(2, 4)), *batch, 3)))
    penalty_weight = data.draw(reals(0.0, 4.0))
    options = {"uncertainty": meaning, "penalty_weight": penalty_weight}
    actual = uncertainty_penalized_reward(reward, x, **options)
    close(actual, ORACLES["uncertainty_penalized_reward"](reward.numpy(), x.numpy(), **options))
    close(uncertainty_penalized_reward(reward, x, uncertainty=meaning, penalty_weight=0.0), reward)
    not_above(actual, reward)
    not_above(uncertainty_penalized_reward(reward, 2 * x, **options), actual)
    close(uncertainty_penalized_reward(reward, 2 * x, **options) - reward, 2 * (actual - reward))
    close(uncertainty_penalized_reward(reward, x.flip(0), **options), actual)


@given(x=distinct((3, 4, 2)))
def test_scatter_and_distance_ignore_what_all_models_share(x: Tensor) -> None:
    """Two meanings are blind to a common shift; of two models the distance is twice the scatter; noise is not blind."""
    reward = torch.zeros(4, dtype=torch.float64)
    for meaning in MEANINGS[1:]:
        close(
            uncertainty_penalized_reward(reward, x + 100.0, uncertainty=meaning),
            uncertainty_penalized_reward(reward, x, uncertainty=meaning),
            1e-9,
        )
    distance, scatter = (uncertainty_penalized_reward(reward, x[:2], uncertainty=m) for m in MEANINGS[1:])
    close(distance, 2 * scatter)
    assert (uncertainty_penalized_reward(reward, x + 100.0) < uncertainty_penalized_reward(reward, x)).all()


@given(q=critics(2))
def test_scatter_of_one_dimension_is_the_deviation_of_the_models_targets(q: Tensor) -> None:
    """MOBILE: the Bellman target of each model as its one dimension."""
    reward = torch.zeros(q.shape[1:], dtype=torch.float64)
    scatter = -uncertainty_penalized_reward(reward, q[..., None], uncertainty="ensemble_std")
    close(scatter, q.std(0, correction=0))
    close(q.mean(0) - 2 * scatter, ensemble_lower_bound(q, penalty_weight=2.0))


def test_an_infinite_uncertainty_of_weight_zero_takes_nothing() -> None:
    """A model that has blown up costs nothing where nothing is asked for it, and everything elsewhere."""
    reward, std = torch.ones(2).double(), torch.tensor([[[1.0], [torch.inf]]]).double()
    close(uncertainty_penalized_reward(reward, std, penalty_weight=0.0), reward)
    close(uncertainty_penalized_reward(reward, std, penalty_weight=torch.zeros(()).double()), reward)
    close(uncertainty_penalized_reward(reward, std), torch.tensor([0.0, -torch.inf]).double())


def test_the_defaults() -> None:
    """One deviation of these critics; the noisiest model, at weight one."""
    q = torch.tensor([[0.0], [4.0]], dtype=torch.float64)
    close(ensemble_lower_bound(q), 0.0)
    close(uncertainty_penalized_reward(torch.ones(1).double(), q[..., None]), -3.0)


def test_too_few_are_refused() -> None:
    """One critic has no other to differ from, nor a deviation with the correction; one model is not far from itself."""
    with pytest.raises(ValueError, match="diversity_penalty: action_gradient: expected a first axis of at least 2"):
        diversity_penalty(torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match=r"action_gradient: expected .+ and a last axis of at least one dimension"):
        diversity_penalty(torch.zeros(2, 3, 0))
    with pytest.raises(ValueError, match="ensemble_lower_bound: correction: expected an int of at least 0 and at most"):
        ensemble_lower_bound(torch.zeros(1, 3), correction=1)
    with pytest.raises(ValueError, match="model_output: expected a first axis of at least 2 models"):
        uncertainty_penalized_reward(torch.zeros(3), torch.zeros(1, 3, 2), uncertainty="max_pairwise_difference")
