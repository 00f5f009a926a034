"""The laws of diffusion: three predictions that are one, which way the schedule runs, and what the loss weighs."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import close, gradients
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import batches, tensors
from torch import Tensor

from offline_losses import diffusion_loss, diffusion_point, diffusion_prediction, flow_matching_loss, flow_point

TYPES = ("epsilon", "x0", "v")


@st.composite
def noisy(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, action [*batch, A] and the signal's share [*batch], strictly between 0 and 1."""
    batch, dimensions = draw(batches(0, 2, 1, 3)), draw(st.integers(1, 3))
    return draw(tensors((*batch, dimensions))), draw(tensors((*batch, dimensions))), draw(tensors(batch, 0.02, 0.98))


def said(noise: Tensor, action: Tensor, alpha_bar: Tensor) -> dict[str, Tensor]:
    """What a perfect network of each type says."""
    share = alpha_bar.unsqueeze(-1)
    return {"epsilon": noise, "x0": action, "v": share.sqrt() * noise - (1 - share).sqrt() * action}


@given(drawn=noisy())
def test_the_schedule_runs_from_the_action_to_the_noise(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    """The action at 1, the noise at 0, and the variance of normal noise in between is what is left of 1."""
    noise, action, alpha_bar = drawn
    assert diffusion_point(noise, action, torch.ones_like(alpha_bar)).equal(action)
    assert diffusion_point(noise, action, torch.zeros_like(alpha_bar)).equal(noise)
    point = diffusion_point(noise, action, alpha_bar)
    close(point, ORACLES["diffusion_point"](noise.numpy(), action.numpy(), alpha_bar.numpy()))
    to_the_noise, to_the_action = gradients(lambda e, a: diffusion_point(e, a, alpha_bar), noise, action)
    close(to_the_noise.square() + to_the_action.square(), 1.0)
    close(to_the_action.square(), alpha_bar.unsqueeze(-1).expand(action.shape))


@given(drawn=noisy())
def test_a_flow_passes_the_same_points_in_the_opposite_order(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    """Divided by the sum of both shares, a noisy action is a point of the flow, later the more of the action it has."""
    noise, action, alpha_bar = drawn
    total = alpha_bar.sqrt() + (1 - alpha_bar).sqrt()
    time = alpha_bar.sqrt() / total
    close(diffusion_point(noise, action, alpha_bar) / total.unsqueeze(-1), flow_point(noise, action, time))
    schedule = torch.linspace(0.99, 0.01, 9, dtype=torch.float64)  # in the order of diffusion, from action to noise
    times = schedule.sqrt() / (schedule.sqrt() + (1 - schedule).sqrt())
    assert (times.diff() < 0).all()
    one = torch.ones(9, 1, dtype=torch.float64)
    reversed_points = diffusion_point(0 * one, one, schedule.flip(-1))
    assert (reversed_points.diff(dim=0) > 0).all()  # denoising: the action's share grows


@given(drawn=noisy())
def test_the_three_predictions_are_one(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    """Each of eps, x0 and v with the point gives the others, and there and back is the identity."""
    noise, action, alpha_bar = drawn
    point, perfect = diffusion_point(noise, action, alpha_bar), said(noise, action, alpha_bar)
    for given_type in TYPES:
        for wanted in TYPES:
            there = diffusion_prediction(perfect[given_type], point, alpha_bar, given=given_type, wanted=wanted)
            close(there, perfect[wanted], 1e-8)
            back = diffusion_prediction(there, point, alpha_bar, given=wanted, wanted=given_type)
            close(back, perfect[given_type], 1e-7)
        assert diffusion_loss(perfect[given_type], noise, action, alpha_bar, prediction_type=given_type) < 1e-20
    close(diffusion_prediction(noise, point, alpha_bar), action, 1e-8)  # the default: the action from the noise


@given(drawn=noisy(), data=st.data())
def test_an_arbitrary_prediction_stays_consistent(drawn: tuple[Tensor, Tensor, Tensor], data: st.DataObject) -> None:
    """The converted noise and action make the point again; v turns them by a quarter, so that lengths agree."""
    noise, action, alpha_bar = drawn
    point, output = diffusion_point(noise, action, alpha_bar), data.draw(tensors(noise.shape))
    for given_type in TYPES:
        epsilon, x0, v = (
            diffusion_prediction(output, point, alpha_bar, given=given_type, wanted=wanted) for wanted in TYPES
        )
        close(diffusion_point(epsilon, x0, alpha_bar), point, 1e-7)
        close(point.square() + v.square(), epsilon.square() + x0.square(), 1e-6)
        close(x0, ORACLES["diffusion_prediction"](output, point, alpha_bar, given=given_type, wanted="x0"), 1e-7)


@given(drawn=noisy(), data=st.data())
def test_the_types_weigh_the_steps_of_the_schedule(drawn: tuple[Tensor, Tensor, Tensor], data: st.DataObject) -> None:
    """The error of eps is that of x0 times alpha / (1 - alpha), that of v the one of x0 over 1 - alpha."""
    noise, action, alpha_bar = drawn
    x0, point = data.draw(tensors(noise.shape)), diffusion_point(noise, action, alpha_bar)

    def loss(kind: str) -> Tensor:
        output = diffusion_prediction(x0, point, alpha_bar, given="x0", wanted=kind)
        found = diffusion_loss(output, noise, action, alpha_bar, prediction_type=kind, reduction="none")
        numbers = (output.numpy(), noise.numpy(), action.numpy(), alpha_bar.numpy())
        close(found, ORACLES["diffusion_loss"](*numbers, prediction_type=kind), 1e-7)
        return found

    close(loss("epsilon"), loss("x0") * alpha_bar / (1 - alpha_bar), 1e-6)
    close(loss("v"), loss("x0") / (1 - alpha_bar), 1e-6)


@given(drawn=noisy(), data=st.data())
def test_the_velocity_of_a_flow_is_the_action_less_the_noise(
    drawn: tuple[Tensor, Tensor, Tensor], data: st.DataObject
) -> None:
    """A flow's network is one more type: x0 - eps, with a loss of its own."""
    noise, action, alpha_bar = drawn
    point, output = diffusion_point(noise, action, alpha_bar), data.draw(tensors(noise.shape))
    x0 = diffusion_prediction(output, point, alpha_bar)
    scale = 1 + ((1 - alpha_bar) / alpha_bar).sqrt()  # an error of eps is one of minus this in x0 - eps
    expected = diffusion_loss(output, noise, action, alpha_bar, reduction="none") * scale.square()
    close(flow_matching_loss(x0 - output, noise, action, reduction="none"), expected, 1e-6)


@given(drawn=noisy(), data=st.data())
def test_the_loss_is_a_mean_square_over_dimensions(drawn: tuple[Tensor, Tensor, Tensor], data: st.DataObject) -> None:
    """Its slope is twice the error over the dimensions; only what the type looks at has one."""
    noise, action, alpha_bar = drawn
    output, perfect = data.draw(tensors(noise.shape)), said(noise, action, alpha_bar)
    for kind in TYPES:

        def loss(*tensors: Tensor, kind: str = kind) -> Tensor:
            return diffusion_loss(*tensors, prediction_type=kind, reduction="sum")

        slope, to_noise, to_action, _ = gradients(loss, output, noise, action, alpha_bar)
        close(slope, 2 * (output - perfect[kind]) / noise.shape[-1])
        assert kind != "x0" or (to_noise == 0).all()
        assert kind != "epsilon" or (to_action == 0).all()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_derivatives_are_finite_at_both_ends_of_the_schedule(share: float) -> None:
    """A root has an infinite slope at 0: there the share of the schedule receives none, first or second."""
    noise, action = torch.tensor([[0.0, 2.0]]).double(), torch.tensor([[0.0, -1.0]]).double()
    for function in (
        diffusion_point,
        lambda e, a, x: diffusion_loss(e + 1, e, a, x, prediction_type="v"),
        lambda e, a, x: diffusion_prediction(e, a, x, given="v"),
    ):
        inputs = [x.requires_grad_() for x in (noise.clone(), action.clone(), torch.tensor([share]).double())]
        first = torch.autograd.grad(function(*inputs).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        assert all(g.isfinite().all() for g in (*first, *second))


def test_a_sampler_made_of_the_parts_finds_the_data() -> None:
    """DDIM from noise with the exact prediction of a normal distribution of mean 3 and deviation 0.5."""
    torch.manual_seed(0)
    schedule = (1 - torch.linspace(1e-4, 0.12, 100, dtype=torch.float64)).cumprod(0)
    x = torch.randn(4000, 1, dtype=torch.float64)
    for k in reversed(range(100)):
        now = schedule[k].expand(4000)
        before = schedule[k - 1].expand(4000) if k else torch.ones(4000).double()
        signal = now.sqrt().unsqueeze(-1)
        variance = 0.25 * now.unsqueeze(-1) + 1 - now.unsqueeze(-1)
        x0 = 3 + 0.25 * signal / variance * (x - 3 * signal)
        x = diffusion_point(diffusion_prediction(x0, x, now, given="x0", wanted="epsilon"), x0, before)
    assert abs(x.mean() - 3) < 0.15
    assert abs(x.std() - 0.5) < 0.05


def test_what_does_not_fit_is_refused() -> None:
    """A share for each dimension, a word that is none of the three."""
    noise = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"diffusion_point: alpha_bar: expected shape \[4\]"):
        diffusion_point(noise, noise, torch.zeros(4, 3))
    with pytest.raises(
        ValueError, match="diffusion_prediction: wanted: expected 'epsilon' or 'x0' or 'v', got 'score'"
    ):
        diffusion_prediction(noise, noise, torch.zeros(4), wanted="score")
    with pytest.raises(ValueError, match="diffusion_loss: prediction_type: expected 'epsilon' or 'x0' or 'v'"):
        diffusion_loss(noise, noise, noise, torch.zeros(4), prediction_type="eps")


def test_a_schedule_that_is_no_number_shows() -> None:
    """A root of what is no number is none."""
    assert diffusion_point(torch.ones(1, 2), torch.ones(1, 2), torch.tensor([math.nan])).isnan().all()
