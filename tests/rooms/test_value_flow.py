"""The laws of critics that are flows: what their mean is, which way time runs, and what a shared target does."""

from __future__ import annotations

import pytest
import torch
from comparison import close, gradients
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import batches, reals, tensors
from torch import Tensor

from offline_losses import bellman_target, floq_loss, flow_matching_loss, flow_point, squared_loss, value_flow_loss


@given(data=st.data())
def test_a_return_is_an_action_of_one_dimension(data: st.DataObject) -> None:
    """Flow matching with the return in the action's place, critic by critic; the oracle's; zero at R - z alone."""
    batch = data.draw(batches())
    v, z, r = data.draw(tensors((2, *batch))), data.draw(tensors(batch)), data.draw(tensors(batch))
    loss = value_flow_loss(v, z, r, reduction="none")
    close(loss, ORACLES["value_flow_loss"](v.numpy(), z.numpy(), r.numpy()))
    for critic, of_critic in zip(v, loss, strict=True):
        close(of_critic, flow_matching_loss(*(x.unsqueeze(-1) for x in (critic, z, r)), reduction="none"))
    close(value_flow_loss(v, z, r), squared_loss(v, r - z))
    assert value_flow_loss(r - z, z, r) == 0


@given(data=st.data())
def test_the_opposite_time_has_minus_the_velocity(data: st.DataObject) -> None:
    """A flow from the return, at 0, to the noise, at 1: u = z - R at x = t z + (1 - t) R."""
    u, z, r, t = (data.draw(tensors((4,))) for _ in range(4))
    close(value_flow_loss(-u, z, r, reduction="none"), (u - (z - r)).square())
    close(floq_loss(-u.unsqueeze(-1), z.unsqueeze(-1), r, reduction="none"), (u - (z - r)).square())
    close(flow_point(z[:, None], r[:, None], 1 - t).squeeze(-1), t * z + (1 - t) * r)


@given(z=tensors((6,)), r=tensors((6,)))
def test_one_step_from_the_noise_has_the_mean_of_the_returns(z: Tensor, r: Tensor) -> None:
    """At time 0 a point says nothing of the return: the best velocity at z is E[R] - z, and z + v is the value."""
    noise, returns = z.repeat_interleave(6), r.repeat(6)  # each draw of noise with each return
    best = r.mean() - z
    (slope,) = gradients(lambda v: value_flow_loss(v.repeat_interleave(6), noise, returns), best)
    close(slope, 0.0)
    close((z + best).mean(), r.mean())


@given(data=st.data())
def test_the_target_receives_no_gradient(data: st.DataObject) -> None:
    """A bootstrapped return is a constant; the prediction's slope is twice its error."""
    v, z, reward, following = (data.draw(tensors((4,))) for _ in range(4))
    terminated = torch.tensor([True, False, False, True])

    def loss(prediction: Tensor, next_return: Tensor) -> Tensor:
        target = bellman_target(reward, next_return, terminated)
        return value_flow_loss(prediction, z, target, reduction="sum")

    slope, to_the_target = gradients(loss, v, following)
    target = bellman_target(reward, following, terminated)
    close(slope, 2 * (v - (target - z)))
    close(to_the_target, 0.0)
    close(target[0], reward[0])  # a terminal return is its reward, whatever the noise became


@given(data=st.data())
def test_floq_is_a_mean_over_noises_of_one_target(data: st.DataObject) -> None:
    """The value-flow loss of each noise with the target repeated; the oracle's; not moved by the noises' order."""
    batch, n = data.draw(batches()), data.draw(st.integers(1, 4))
    v, z, y = data.draw(tensors((2, *batch, n))), data.draw(tensors((*batch, n))), data.draw(tensors(batch))
    loss = floq_loss(v, z, y, reduction="none")
    assert loss.shape == (2, *batch)
    close(loss, ORACLES["floq_loss"](v.numpy(), z.numpy(), y.numpy()))
    close(loss, value_flow_loss(v, z, y.unsqueeze(-1).expand(z.shape), reduction="none").mean(-1))
    close(floq_loss(v.flip(-1), z.flip(-1), y), floq_loss(v, z, y))
    assert floq_loss(y.unsqueeze(-1) - z, z, y) < 1e-20


@given(y=reals(), z=tensors((5,), -3.0, 3.0), steps=st.integers(1, 8))
def test_every_noise_arrives_at_the_one_target(y: float, z: Tensor, steps: int) -> None:
    """The field (y - x) / (1 - t) has loss zero at every point, and Euler steps of any number end at y."""
    x, target = z, torch.tensor(y, dtype=torch.float64)
    for k in range(steps):
        t = torch.full((5,), k / steps, dtype=torch.float64)
        close(x, flow_point(z[:, None], target.expand(5, 1), t).squeeze(-1))
        velocity = (y - x) / (1 - k / steps)
        close(floq_loss(velocity, z, target), 0.0, 1e-12)
        x = x + velocity / steps
    close(x, y)


def test_what_does_not_fit_is_refused() -> None:
    """A target for each noise of floq, a noise for each critic, one number for many."""
    with pytest.raises(ValueError, match=r"floq_loss: target: expected shape \[3\]"):
        floq_loss(torch.zeros(3, 5), torch.zeros(3, 5), torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"floq_loss: noise: expected a last axis of at least one draw"):
        floq_loss(torch.zeros(3, 0), torch.zeros(3, 0), torch.zeros(3))
    with pytest.raises(ValueError, match=r"value_flow_loss: noise: expected shape \[3\]"):
        value_flow_loss(torch.zeros(3), torch.zeros(2, 3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"value_flow_loss: target: expected shape \[3\]"):
        value_flow_loss(torch.zeros(3), torch.zeros(3), torch.zeros(()))
