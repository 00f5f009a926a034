"""The laws of the policy losses: what they climb, what they stay close to, what they freeze."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES, reduced
from strategies import batches, masks, probabilities, reals, residuals, temperatures, tensors
from torch import Tensor

from offline_losses import (
    awr_weights,
    gaussian_log_prob,
    nll_loss,
    sac_policy_loss,
    soft_value,
    softmax_weights,
    td3_bc_loss,
    temperature_loss,
)

NAN = float("nan")


@given(data=st.data(), t=temperatures)
def test_follows_the_paper(data: st.DataObject, t: float) -> None:
    """Each loss equals its loop, with mask and weight."""
    shape = data.draw(batches(1, 2))
    log_prob, q = data.draw(tensors(shape)), data.draw(tensors(shape))
    mask, weight = data.draw(masks(shape)), data.draw(tensors(shape, 0.0, 3.0))
    tail = {"mask": mask, "weight": weight}
    plain = {"mask": mask.numpy(), "weight": weight.numpy()}
    wanted = ORACLES["nll_loss"](log_prob.numpy())
    close(nll_loss(log_prob, **tail), reduced(wanted, **plain))
    wanted = ORACLES["sac_policy_loss"](log_prob.numpy(), q.numpy(), temperature=t)
    close(sac_policy_loss(log_prob, q, temperature=t, **tail), reduced(wanted, **plain))
    log_t = torch.tensor(math.log(t), dtype=torch.float64)
    wanted = ORACLES["temperature_loss"](log_t.numpy(), log_prob.numpy(), target_entropy=-3.0)
    close(temperature_loss(log_t, log_prob, target_entropy=-3.0, **tail), reduced(wanted, **plain))


# Weighted behavior cloning.


@given(data=st.data())
def test_likelihood_rises_by_the_weight(data: st.DataObject) -> None:
    """The slope of each log-probability is minus its weight over n: descent makes data likelier."""
    log_prob = data.draw(tensors((4,)))
    weight = data.draw(tensors((4,), 0.0, 3.0))
    close(gradients(lambda x: nll_loss(x, weight=weight), log_prob)[0], -weight / 4)


@given(data=st.data(), t=temperatures)
def test_advantage_weighting_freezes_the_advantage(data: st.DataObject, t: float) -> None:
    """nll with awr_weights moves the policy only: the advantage gets no gradient, good data most."""
    log_prob, advantage = data.draw(tensors((4,))), data.draw(tensors((4,)))

    def loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
        return nll_loss(log_prob, weight=awr_weights(advantage, temperature=t))

    slope, frozen = gradients(loss, log_prob, advantage)
    close(slope, -awr_weights(advantage, temperature=t) / 4)
    assert bool((frozen == 0).all())
    direct = torch.randn(4, dtype=torch.float64, requires_grad=True)
    nll_loss(log_prob.requires_grad_(), weight=direct.exp()).backward()
    assert direct.grad is None


# TD3+BC.


@st.composite
def actors(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """q [*batch] away from zero, policy and data actions [*batch, A]."""
    shape = draw(batches(1, 2))
    wide = (*shape, draw(st.integers(1, 4)))
    return draw(residuals(shape)), draw(tensors(wide, -1.0, 1.0)), draw(tensors(wide, -1.0, 1.0))


@given(x=actors(), q_weight=reals(0.1, 5.0), data=st.data())
def test_td3_bc_follows_the_paper(x: tuple[Tensor, Tensor, Tensor], q_weight: float, data: st.DataObject) -> None:
    """-lambda Q + mean over dimensions of (pi - a)^2, with lambda = q_weight / mean |Q|."""
    arrays = [v.numpy() for v in x]
    wanted = ORACLES["td3_bc_loss"](*arrays, q_weight=q_weight)
    close(td3_bc_loss(*x, q_weight=q_weight, reduction="none"), wanted)
    close(td3_bc_loss(*x, q_weight=q_weight), wanted.mean())
    mask = data.draw(masks(tuple(x[0].shape)))
    wanted = ORACLES["td3_bc_loss"](*arrays, q_weight=q_weight, mask=mask.numpy())
    close(td3_bc_loss(*x, q_weight=q_weight, mask=mask), reduced(wanted, mask=mask.numpy()))


@given(x=actors(), c=reals(0.1, 100.0))
def test_the_unit_of_q_does_not_matter(x: tuple[Tensor, Tensor, Tensor], c: float) -> None:
    """c Q gives the same loss and the same pull on the policy; the scale of Q has no slope."""
    q, policy, data = x
    close(td3_bc_loss(c * q, policy, data), td3_bc_loss(q, policy, data))
    (slope,) = gradients(lambda q: td3_bc_loss(q, policy, data), q)
    (scaled,) = gradients(lambda q: td3_bc_loss(q, policy, data), c * q)
    close(c * scaled, slope)


@given(x=actors(), q_weight=reals(0.1, 5.0))
def test_the_normalizer_is_a_constant(x: tuple[Tensor, Tensor, Tensor], q_weight: float) -> None:
    """The slope in Q is exactly -lambda / B: nothing flows through mean |Q|."""
    q, policy, data = x
    slope, pull, _ = gradients(lambda q, p, a: td3_bc_loss(q, p, a, q_weight=q_weight), q, policy, data)
    close(slope, float(-q_weight / q.abs().mean() / q.numel()))
    close(pull, 2 * (policy - data) / policy.numel())


@given(x=actors(), size=reals(0.1, 5.0))
def test_a_normalizer_may_be_given(x: tuple[Tensor, Tensor, Tensor], size: float) -> None:
    """That of the batch changes nothing; any other divides Q, is a constant, and is held to the same least size."""
    q, policy, data = x
    close(td3_bc_loss(*x, normalizer=q.abs().mean()), td3_bc_loss(*x))
    close(
        td3_bc_loss(*x, normalizer=size),
        td3_bc_loss(q, data, data, q_weight=1.0, normalizer=size / 2.5) + (policy - data).square().mean(),
    )
    knob = torch.tensor(size, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(td3_bc_loss(knob.expand_as(q), policy, data, normalizer=knob), knob)
    close(slope, -2.5 / size)
    close(td3_bc_loss(q, data, data, normalizer=0.0, epsilon=size), -2.5 / size * q.mean())
    assert td3_bc_loss(q[0].float(), policy[0].float(), data[0].float(), normalizer=knob).dtype == torch.float32


@given(x=actors())
def test_cloning_does_not_depend_on_the_number_of_dimensions(
    x: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Every action dimension twice: the same loss, because squares are averaged, not summed."""
    q, policy, data = x
    twice = td3_bc_loss(q, torch.cat([policy] * 2, -1), torch.cat([data] * 2, -1))
    close(twice, td3_bc_loss(q, policy, data))


@given(x=actors(), q_weight=reals(0.1, 5.0))
def test_the_two_terms(x: tuple[Tensor, Tensor, Tensor], q_weight: float) -> None:
    """With the data's own actions only -lambda Q is left, of size q_weight if all Q have one sign."""
    q, policy, data = x
    only_q = td3_bc_loss(q.abs(), data, data, q_weight=q_weight)
    close(only_q, -q_weight)
    both = td3_bc_loss(q, policy, data, q_weight=q_weight)
    clone = ((policy - data) ** 2).mean()
    close(both, td3_bc_loss(q, data, data, q_weight=q_weight) + clone)
    close(td3_bc_loss(q, policy, data, q_weight=2 * q_weight) - clone, 2 * (both - clone))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_critic_of_zeros(dtype: torch.dtype) -> None:
    """Q = 0 everywhere: behavior cloning alone, and the slope in Q is bounded by epsilon."""
    q, policy, data = torch.zeros(4, dtype=dtype), torch.ones(4, 2, dtype=dtype), torch.zeros(4, 2, dtype=dtype)
    close(td3_bc_loss(q, policy, data).double(), 1.0)
    (slope,) = gradients(lambda q: td3_bc_loss(q, policy, data, epsilon=0.5), q)
    close(slope.double(), -2.5 / 0.5 / 4)
    (slope,) = gradients(lambda q: td3_bc_loss(q, policy, data), q)
    assert bool(slope.isfinite().all())


@given(x=actors(), data=st.data())
def test_masked_samples_do_not_normalize(x: tuple[Tensor, Tensor, Tensor], data: st.DataObject) -> None:
    """A masked sample, NaN included, changes neither lambda nor the loss nor a gradient."""
    q, policy, actions = (v.flatten(0, x[0].dim() - 1) for v in x)
    mask = data.draw(masks(tuple(q.shape)))
    hidden = [torch.where(mask if v.dim() == 1 else mask[:, None], v, NAN) for v in (q, policy, actions)]
    got = td3_bc_loss(*hidden, mask=mask)
    slopes = gradients(lambda q, p, a: td3_bc_loss(q, p, a, mask=mask), *hidden)
    if bool(mask.any()):
        close(got, td3_bc_loss(q[mask], policy[mask], actions[mask]))
        plain = gradients(td3_bc_loss, q[mask], policy[mask], actions[mask])
        for slope, wanted in zip(slopes, plain, strict=True):
            close(slope[mask], wanted)
    else:
        assert got == 0
    assert all(bool((slope[~mask] == 0).all()) for slope in slopes)


def test_the_td3_bc_default() -> None:
    """q_weight is 2.5."""
    one = torch.ones(2, dtype=torch.float64)
    close(td3_bc_loss(one, one[:, None], one[:, None]), -2.5)


# Maximum entropy.


@given(data=st.data(), t=temperatures)
def test_the_best_entropic_policy_is_the_softmax(data: st.DataObject, t: float) -> None:
    """E over p of (T log p - Q) is least at softmax(Q / T), where it is minus the soft value."""
    q = data.draw(tensors((3,), -2.0, 2.0))

    def cost(p: Tensor) -> Tensor:
        return (p * sac_policy_loss(p.log(), q, temperature=t, reduction="none")).sum()

    best = cost(softmax_weights(q, temperature=t).clamp(min=1e-300))
    close(best, -soft_value(q, temperature=t))
    other = data.draw(probabilities((3,), zeros=False))
    not_above(best, cost(other))


@given(data=st.data(), t=temperatures)
def test_slopes_of_the_entropic_policy_loss(data: st.DataObject, t: float) -> None:
    """T / B in the log-probability, -1 / B in Q, the mean log-probability in the temperature."""
    log_prob, q = data.draw(tensors((4,))), data.draw(tensors((4,)))
    knob = torch.tensor(t, dtype=torch.float64)
    slopes = gradients(lambda p, q, t: sac_policy_loss(p, q, temperature=t), log_prob, q, knob)
    close(slopes[0], t / 4)
    close(slopes[1], -1 / 4)
    close(slopes[2], log_prob.mean())


def test_the_entropic_default() -> None:
    """The temperature is 1."""
    one = torch.ones(2, dtype=torch.float64)
    close(sac_policy_loss(3 * one, one), 2.0)


@given(data=st.data(), target=reals(-5.0, 5.0))
def test_too_little_entropy_raises_the_temperature(data: st.DataObject, target: float) -> None:
    """One descent step: up where the entropy is below its target, down above, at rest on it."""
    excess = float(data.draw(residuals((1,))))
    log_prob = torch.full((3,), -target + excess, dtype=torch.float64)
    start = torch.tensor(data.draw(reals(-3.0, 3.0)), dtype=torch.float64)
    (slope,) = gradients(lambda x: temperature_loss(x, log_prob, target_entropy=target), start)
    # The entropy is -E log pi = target - excess: too small exactly when the excess is positive.
    assert bool(start - 0.1 * slope > start) == (excess > 0)
    close(slope, float(-start.exp() * excess))
    rest = torch.full((3,), -target, dtype=torch.float64)
    (slope,) = gradients(lambda x: temperature_loss(x, rest, target_entropy=target), start)
    close(slope, 0.0)


def test_the_temperature_loss_moves_the_temperature_alone() -> None:
    """The policy's log-probability is a constant here; the slope is the loss itself (exp)."""
    log_prob = torch.randn(4, dtype=torch.float64, requires_grad=True)
    log_t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    loss = temperature_loss(log_t, log_prob, target_entropy=-2.0)
    loss.backward()
    assert log_prob.grad is None
    close(log_t.grad, loss.detach())


def test_a_temperature_of_zero_does_not_see_an_impossible_action() -> None:
    """Zero times infinity is zero here too, in the value and in the slope."""
    log_prob = torch.tensor([-math.inf, 1.0], dtype=torch.float64)
    loss = lambda x: temperature_loss(x, log_prob, target_entropy=0.5)  # noqa: E731
    log_t = torch.tensor(-math.inf, dtype=torch.float64)
    close(loss(log_t), 0.0)
    close(gradients(loss, log_t)[0], 0.0)


def test_the_temperature_finds_the_entropy() -> None:
    """A Gaussian whose deviation is its temperature settles at the target entropy."""
    log_t = torch.zeros((), dtype=torch.float64)
    for _ in range(100):
        # At its own one-sigma point a normal has log-probability minus its entropy.
        one = log_t.exp().reshape(1, 1)
        log_prob = gaussian_log_prob(torch.zeros_like(one), log_t.reshape(1), one)
        (slope,) = gradients(lambda x, p=log_prob: temperature_loss(x, p, target_entropy=0.5), log_t)
        log_t = log_t - 0.3 * slope
    close(log_t, 0.5 - 0.5 * math.log(2 * math.pi * math.e), 1e-3)


LOSSES = {
    "nll_loss": lambda p, **tail: nll_loss(p, **tail),
    "sac_policy_loss": lambda p, **tail: sac_policy_loss(p, torch.zeros_like(p), **tail),
    "temperature_loss": lambda p, **tail: temperature_loss(
        torch.zeros((), dtype=p.dtype), p, target_entropy=0.0, **tail
    ),
    "td3_bc_loss": lambda p, **tail: td3_bc_loss(
        p, torch.zeros_like(p)[..., None], torch.zeros_like(p)[..., None], **tail
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_masked_samples_do_not_exist(name: str) -> None:
    """NaN behind the mask reaches neither value nor gradient; an empty mask gives 0 and no slope."""
    loss = LOSSES[name]
    x = torch.tensor([1.0, NAN, 3.0], dtype=torch.float64)
    mask = torch.tensor([True, False, True])
    close(loss(x, mask=mask), loss(x[mask]))
    (slope,) = gradients(lambda x: loss(x, mask=mask), x)
    assert bool(slope.isfinite().all())
    assert slope[1] == 0
    nobody = torch.zeros(3, dtype=torch.bool)
    assert loss(x, mask=nobody) == 0
    (slope,) = gradients(lambda x: loss(x, mask=nobody), x)
    assert bool((slope == 0).all())


KNOBS = {
    "temperature": lambda x, knob, **tail: sac_policy_loss(x, x, temperature=knob, **tail),
    "log_temperature": lambda x, knob, **tail: temperature_loss(knob, x, target_entropy=0.0, **tail),
    "target_entropy": lambda x, knob, **tail: temperature_loss(
        torch.zeros((), dtype=x.dtype), x, target_entropy=knob, **tail
    ),
    "q_weight": lambda x, knob, **tail: td3_bc_loss(x, x[:, None], x[:, None] + 1, q_weight=knob, **tail),
}


@pytest.mark.parametrize("name", KNOBS)
def test_a_learned_knob_does_not_see_masked_samples(name: str) -> None:
    """Its gradient is that of the existing samples, though the others and their weights are NaN."""
    loss = KNOBS[name]
    x = torch.tensor([1.0, NAN, 3.0], dtype=torch.float64)
    weight = torch.tensor([0.5, NAN, 2.0], dtype=torch.float64)
    mask = torch.tensor([True, False, True])
    knob = torch.tensor(0.7, dtype=torch.float64)
    (slope,) = gradients(lambda k: loss(x, k, mask=mask, weight=weight), knob)
    (plain,) = gradients(lambda k: loss(x[mask], k, weight=weight[mask]), knob)
    assert plain != 0
    close(slope, plain)


@pytest.mark.parametrize("name", LOSSES)
def test_the_weight_is_a_constant_factor(name: str) -> None:
    """Twice the weight, twice the loss; it never divides."""
    loss = LOSSES[name]
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    weight = torch.tensor([0.0, 1.0, 2.5], dtype=torch.float64)
    parts = loss(x, reduction="none")
    close(loss(x, weight=weight), (weight * parts).mean())


@pytest.mark.parametrize("temperature", [0.0, torch.tensor(0.0, dtype=torch.float64)], ids=["number", "tensor"])
def test_an_impossible_action_at_temperature_zero(temperature: float | Tensor) -> None:
    """Entropy that is paid nothing for counts for nothing, infinite as it may be: the critic alone is climbed."""
    log_prob, q = torch.tensor([-math.inf, -1.0]).double(), torch.tensor([1.0, 2.0]).double()
    loss = lambda p, q: sac_policy_loss(p, q, temperature=temperature)  # noqa: E731
    close(loss(log_prob, q), -q.mean())
    slope_p, slope_q = gradients(loss, log_prob, q)
    assert slope_p.tolist() == [0, 0]
    assert slope_q.tolist() == [-0.5, -0.5]


def test_shapes_are_told_apart() -> None:
    """A [B, 1] critic against [B] log-probabilities is an error, not a [B, B] matrix."""
    vector, column = torch.zeros(5), torch.zeros(5, 1)
    with pytest.raises(ValueError, match="sac_policy_loss"):
        sac_policy_loss(vector, column)
    with pytest.raises(ValueError, match="td3_bc_loss"):
        td3_bc_loss(column, torch.zeros(5, 2), torch.zeros(5, 2))
    with pytest.raises(ValueError, match="td3_bc_loss"):
        td3_bc_loss(vector, torch.zeros(5, 2), torch.zeros(5, 1))
    with pytest.raises(ValueError, match="weight"):
        nll_loss(vector, weight=column)
