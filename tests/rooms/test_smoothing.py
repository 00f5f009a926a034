"""The laws of target policy smoothing: bounds, units, and no noise at all."""

from __future__ import annotations

import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import reals, tensors

from offline_losses import smoothed_action


@given(data=st.data(), scale=reals(0.0, 1.0), bound=reals(0.0, 1.0))
def test_it_follows_the_paper_within_the_bounds(data: st.DataObject, scale: float, bound: float) -> None:
    """Near the action by the clip, inside of the bounds, and the action itself without noise."""
    low, high = data.draw(tensors((2,), -3.0, -1.0)), data.draw(tensors((2,), 1.0, 3.0))
    action = low + data.draw(tensors((4, 2), 0.0, 1.0)) * (high - low)
    noise = data.draw(tensors((4, 2), -3.0, 3.0))
    knobs = {"noise_scale": scale, "max_noise": bound}
    moved = smoothed_action(action, noise, low, high, **knobs)
    close(moved, ORACLES["smoothed_action"](*(x.numpy() for x in (action, noise, low, high)), **knobs))
    not_above(low.expand(4, 2), moved)
    not_above(moved, high.expand(4, 2))
    not_above((moved - action).abs(), (bound * (high - low) / 2).expand(4, 2))
    for nothing in ({"noise_scale": 0.0}, {"max_noise": 0.0}):
        close(smoothed_action(action, noise, low, high, **{**knobs, **nothing}), action)
    unclipped = smoothed_action(action, noise, low, high, noise_scale=scale, max_noise=torch.inf)
    close(unclipped, smoothed_action(action, noise, low, high, noise_scale=scale, max_noise=100.0))


@given(data=st.data(), c=reals(0.1, 10.0))
def test_the_unit_of_actions_does_not_matter(data: st.DataObject, c: float) -> None:
    """Everything c times as wide and shifted: the result is too."""
    low, high = data.draw(tensors((2,), -3.0, -1.0)), data.draw(tensors((2,), 1.0, 3.0))
    action, noise = data.draw(tensors((4, 2), -1.0, 1.0)), data.draw(tensors((4, 2), -3.0, 3.0))
    scaled = smoothed_action(c * action + 1, noise, c * low + 1, c * high + 1)
    close(scaled, c * smoothed_action(action, noise, low, high) + 1)


def test_the_defaults_and_the_gradient() -> None:
    """0.2 and 0.5 of half the range; beyond a clip nothing flows."""
    high, noise = torch.full((4,), 2.0).double(), torch.tensor([[1.0, 9.0, -9.0, 1.0]], dtype=torch.float64)
    action = torch.tensor([[0.0, 0.0, 0.0, 1.9]], dtype=torch.float64)
    close(smoothed_action(action, noise, -high, high), torch.tensor([[0.4, 1.0, -1.0, 2.0]], dtype=torch.float64))
    slope, of_noise = gradients(lambda a, z: smoothed_action(a, z, -high, high), action, noise)
    close(slope, torch.tensor([[1.0, 1.0, 1.0, 0.0]], dtype=torch.float64))
    close(of_noise, torch.tensor([[0.4, 0.0, 0.0, 0.0]], dtype=torch.float64))
