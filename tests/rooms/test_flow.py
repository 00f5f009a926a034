"""The laws of flow matching: what its minimizer transports, which way time runs, how distillation leaves the data."""

from __future__ import annotations

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import batches, distinct, probabilities, reals, tensors
from torch import Tensor

from offline_losses import (
    awr_weights,
    distillation_loss,
    flow_matching_loss,
    flow_point,
    squared_loss,
    td3_bc_loss,
)


@st.composite
def lines(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, action [*batch, A] and time [*batch]."""
    batch, dimensions = draw(batches(0, 2, 1, 3)), draw(st.integers(1, 3))
    return draw(tensors((*batch, dimensions))), draw(tensors((*batch, dimensions))), draw(tensors(batch, 0.0, 1.0))


@given(line=lines())
def test_time_runs_from_the_noise_to_the_action(line: tuple[Tensor, Tensor, Tensor]) -> None:
    """Noise at 0, action at 1, half way the middle; the velocity of the line is action less noise, at every time."""
    noise, action, time = line
    assert flow_point(noise, action, torch.zeros_like(time)).equal(noise)
    assert flow_point(noise, action, torch.ones_like(time)).equal(action)
    close(flow_point(noise, action, torch.full_like(time, 0.5)), (noise + action) / 2)
    close(flow_point(noise, action, time), ORACLES["flow_point"](noise.numpy(), action.numpy(), time.numpy()))
    later = flow_point(noise, action, time + 1e-3)
    close((later - flow_point(noise, action, time)) / 1e-3, action - noise, 1e-6)
    close(flow_point(noise, action, time) + (1 - time).unsqueeze(-1) * (action - noise), action)


@given(line=lines(), data=st.data())
def test_the_opposite_time_is_one_minus_ours_and_its_velocity_minus_ours(
    line: tuple[Tensor, Tensor, Tensor], data: st.DataObject
) -> None:
    """openpi, LeRobot: the action at 0, the noise at 1, x = t z + (1 - t) a, u = z - a: same points, same loss."""
    noise, action, time = line
    theirs, t = data.draw(tensors(noise.shape)), time.unsqueeze(-1)
    point, velocity = t * noise + (1 - t) * action, noise - action
    close(flow_point(noise, action, 1 - time), point)
    close(flow_matching_loss(-theirs, noise, action, reduction="none"), (theirs - velocity).square().mean(-1))
    close(flow_point(action, noise, time), point)  # or with the two tensors in each other's place
    close(flow_matching_loss(theirs, action, noise), flow_matching_loss(-theirs, noise, action))


@given(line=lines(), data=st.data())
def test_the_loss_is_the_mean_square_over_dimensions(line: tuple[Tensor, Tensor, Tensor], data: st.DataObject) -> None:
    """Zero at action less noise alone; blind to a common shift of both ends; the oracle's."""
    noise, action, _ = line
    velocity = data.draw(tensors(noise.shape))
    loss = flow_matching_loss(velocity, noise, action, reduction="none")
    close(loss, ORACLES["flow_matching_loss"](velocity.numpy(), noise.numpy(), action.numpy()))
    close(loss, squared_loss(velocity, action - noise, reduction="none").mean(-1))
    close(flow_matching_loss(velocity, noise, action), squared_loss(velocity, action - noise))  # elements, or rows
    assert flow_matching_loss(action - noise, noise, action) == 0
    shift = data.draw(reals())
    close(flow_matching_loss(velocity, noise + shift, action + shift), flow_matching_loss(velocity, noise, action))
    (slope,) = gradients(lambda v: flow_matching_loss(v, noise, action, reduction="sum"), velocity)
    close(slope, 2 * (velocity - (action - noise)) / noise.shape[-1])


@given(noise=distinct((5, 2), -3.0, 3.0), action=tensors((2,)))
def test_the_minimizer_transports_one_action(noise: Tensor, action: Tensor) -> None:
    """With one action in the data the best velocity at x_t is (a - x) / (1 - t): Euler steps of any size end at it."""
    steps = 7
    x = noise
    for k in range(steps):
        t = torch.full((5,), k / steps, dtype=torch.float64)
        velocity = (action - x) / (1 - t.unsqueeze(-1))
        close(flow_matching_loss(velocity, noise, action.expand(5, 2)), 0.0, 1e-12)
        x = x + velocity / steps
    close(x, action.expand(5, 2))
    close(noise + (action - noise), action.expand(5, 2))  # one step from time 0


@given(action=tensors((6, 2)), weight=tensors((6,), 0.1, 3.0))
def test_weights_move_the_flow_to_the_better_actions(action: Tensor, weight: Tensor) -> None:
    """At time 0 nothing is known of the action: the best velocity goes to the (weighted) mean of the data."""
    noise = torch.ones(6, 2, dtype=torch.float64)
    mean = (weight.unsqueeze(-1) * action).sum(0) / weight.sum()
    (slope,) = gradients(lambda v: flow_matching_loss(v.expand(6, 2), noise, action, weight=weight), mean - noise[0])
    close(slope, 0.0)
    close(flow_matching_loss(action, noise, action, weight=torch.ones(6).double()), 1.0)
    advantage = weight.log()
    plain = flow_matching_loss(action * 2, noise, action, reduction="none")
    weighted = flow_matching_loss(action * 2, noise, action, weight=awr_weights(advantage), reduction="none")
    close(weighted, weight * plain)


@given(data=st.data())
def test_distillation_is_a_distance_less_a_value(data: st.DataObject) -> None:
    """The oracle's; at weight 0 the value alone, at a weight that grows the distance alone."""
    batch = data.draw(batches(0, 2, 1, 3))
    mu, end, q = data.draw(tensors((*batch, 2))), data.draw(tensors((*batch, 2))), data.draw(tensors(batch))
    alpha = data.draw(reals(0.0, 20.0))
    loss = distillation_loss(mu, end, q, distillation_weight=alpha, reduction="none")
    close(loss, ORACLES["distillation_loss"](mu.numpy(), end.numpy(), q.numpy(), distillation_weight=alpha))
    close(distillation_loss(mu, end, q, distillation_weight=0.0, reduction="none"), -q)
    far = distillation_loss(mu, end, q, distillation_weight=1e9, reduction="none") / 1e9
    close(far, (mu - end).square().mean(-1), 1e-6)
    not_above(loss, distillation_loss(mu, end, q - 1.0, distillation_weight=alpha, reduction="none"))


@given(data=st.data())
def test_distillation_leaves_the_flow_as_far_as_the_slope_of_q(data: st.DataObject) -> None:
    """With Q = g . a the best action is the flow's plus A g / 2 alpha: the critic moves it, the weight holds it."""
    end, g = data.draw(tensors((4, 3))), data.draw(tensors((3,)))
    alpha = data.draw(reals(0.5, 5.0))
    best = end + 3 * g / (2 * alpha)
    (slope,) = gradients(lambda a: distillation_loss(a, end, a @ g, distillation_weight=alpha), best)
    close(slope, 0.0)
    (to_the_flow,) = gradients(lambda x: distillation_loss(best, x, best @ g), end)
    close(to_the_flow, 0.0)  # nothing trains the teacher


@given(data=st.data())
def test_distillation_of_the_data_with_a_scaled_value_is_td3_bc(data: st.DataObject) -> None:
    """The data's action in place of the flow's end, and Q over its mean size."""
    mu, action = data.draw(tensors((4, 3))), data.draw(tensors((4, 3)))
    q = data.draw(distinct((4,)))
    scaled = 2.5 * q / q.abs().mean()
    close(distillation_loss(mu, action, scaled, distillation_weight=1.0), td3_bc_loss(q, mu, action))


def test_the_way_back_from_outside_of_the_range() -> None:
    """Distance before the clip, value after: an action outside is pulled back although the clip has no slope there."""
    raw, end = torch.tensor([[3.0]], requires_grad=True), torch.tensor([[0.5]])
    (slope,) = torch.autograd.grad(distillation_loss(raw, end, raw.clamp(-1, 1).squeeze(-1)), raw)
    close(slope, torch.tensor([[50.0]]))
    clipped = raw.clamp(-1, 1)
    (lost,) = torch.autograd.grad(distillation_loss(clipped, end, clipped.squeeze(-1)), raw)
    assert lost == 0


def test_a_mixture_of_lines_ends_in_a_mixture_of_actions() -> None:
    """The mean velocity of all lines through a point carries normal noise to both of two actions, half each."""
    torch.manual_seed(0)
    actions = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    x = torch.randn(2000, dtype=torch.float64)
    steps = 200
    for k in range(steps):
        t = k / steps
        likely = (-((x.unsqueeze(-1) - t * actions) ** 2) / (2 * (1 - t) ** 2)).softmax(-1)
        x = x + ((likely * actions).sum(-1) - x) / (1 - t) / steps
    assert ((x.abs() - 1).abs() < 0.05).double().mean() > 0.97
    assert abs((x > 0).double().mean() - 0.5) < 0.05


@given(share=probabilities((3,)), noise=tensors((3,)))
def test_an_infinite_distance_of_weight_zero_costs_nothing(share: Tensor, noise: Tensor) -> None:
    """A flow that has blown up is not looked at where the distillation is switched off."""
    end = torch.full((1, 3), torch.inf, dtype=torch.float64)
    q = share.sum().reshape(1)
    close(distillation_loss(noise[None], end, q, distillation_weight=0.0), -q.squeeze())


def test_what_does_not_fit_is_refused() -> None:
    """A time for each dimension, or for a whole chunk; a vector of actions without its axis."""
    noise = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"flow_point: time: expected shape \[4\]"):
        flow_point(noise, noise, torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"flow_point: time: expected shape \[4\] .+ time\.squeeze\(-1\) does"):
        flow_point(noise, noise, torch.zeros(4, 1))
    with pytest.raises(ValueError, match="flow_matching_loss: velocity: expected a last axis of at least one dim"):
        flow_matching_loss(torch.zeros(()), torch.zeros(()), torch.zeros(()))
    with pytest.raises(ValueError, match=r"distillation_loss: q: expected shape \[4\]"):
        distillation_loss(noise, noise, torch.zeros(2, 4))


def test_one_time_for_all_samples_is_expanded_as_the_refusal_says() -> None:
    """To the samples, not to the actions."""
    noise, action, time = torch.zeros(5, 2), torch.ones(5, 2), torch.tensor(0.5)
    with pytest.raises(ValueError, match=r"time: expected shape \[5\].+ time\.expand\(5\) does"):
        flow_point(noise, action, time)
    assert torch.equal(flow_point(noise, action, time.expand(5)), torch.full((5, 2), 0.5))
