"""The laws of guidance: which way a condition and a critic push, and what a step away from the behavior costs."""

from __future__ import annotations

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import batches, reals, tensors
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from offline_losses import diffusion_loss, guided_field, path_kl_penalty, q_score_penalty


@given(data=st.data())
def test_guidance_is_a_line_through_both_fields(data: st.DataObject) -> None:
    """0 is the unconditional field and 1 the conditional one, exactly; 2 as far again; equal fields stay."""
    shape = (*data.draw(batches(0, 2)), 3)
    u, c, w = data.draw(tensors(shape)), data.draw(tensors(shape)), data.draw(reals(-3.0, 5.0))
    assert guided_field(u, c, guidance_scale=0.0).equal(u)
    assert guided_field(u, c, guidance_scale=1.0).equal(c)
    close(guided_field(u, c, guidance_scale=2.0), c + (c - u))
    close(guided_field(u, c, guidance_scale=w), ORACLES["guided_field"](u.numpy(), c.numpy(), guidance_scale=w))
    close(guided_field(u, u, guidance_scale=w), u)
    close(guided_field(u, c, guidance_scale=w), guided_field(c, u, guidance_scale=1 - w))
    close(guided_field(u, c, guidance_scale=w + 1), (1 + w) * c - w * u)  # at the scale of its paper


@given(data=st.data())
def test_guidance_is_the_same_in_either_direction_of_time(data: st.DataObject) -> None:
    """A velocity of the opposite time is minus ours, before the guidance or after it."""
    u, c, w = data.draw(tensors((4, 3))), data.draw(tensors((4, 3))), data.draw(reals(-3.0, 5.0))
    close(guided_field(-u, -c, guidance_scale=w), -guided_field(u, c, guidance_scale=w))


def test_a_field_that_is_not_looked_at_may_be_infinite() -> None:
    """Its factor is zero."""
    finite, infinite = torch.ones(2, 3), torch.full((2, 3), -torch.inf)
    for one in (1.0, torch.tensor(1.0)):
        assert guided_field(infinite, finite, guidance_scale=one).equal(finite)
        assert guided_field(finite, infinite, guidance_scale=one - 1.0).equal(finite)


@given(data=st.data())
def test_guidance_of_normal_scores_is_the_score_of_their_product(data: st.DataObject) -> None:
    """Normal densities of one variance: p_c^w p_u^(1 - w) is normal, with the mean on the same line."""
    x, u, c = (data.draw(tensors((4, 2))) for _ in range(3))
    w = data.draw(reals(-1.0, 4.0))
    score = guided_field(u - x, c - x, guidance_scale=w)
    leaf = x.clone().requires_grad_()
    log_density = w * Normal(c, 1.0).log_prob(leaf) + (1 - w) * Normal(u, 1.0).log_prob(leaf)
    (expected,) = torch.autograd.grad(log_density.sum(), leaf)
    close(score, expected)


@given(data=st.data())
def test_the_q_score_turns_denoising_up_the_critic(data: st.DataObject) -> None:
    """Beside eta times the loss the least is at the noise less sigma grad Q / 2 eta: less noise uphill."""
    noise, slope = data.draw(tensors((4, 3))), data.draw(tensors((4, 3)))
    alpha_bar, eta = data.draw(tensors((4,), 0.05, 0.95)), data.draw(reals(0.2, 5.0))
    best = noise - (1 - alpha_bar).sqrt().unsqueeze(-1) * slope / (2 * eta)

    def total(output: Tensor) -> Tensor:
        imitation = diffusion_loss(output, noise, noise, alpha_bar)
        return eta * imitation + q_score_penalty(output, slope, alpha_bar)

    (found,) = gradients(total, best)
    close(found, 0.0)
    penalty = q_score_penalty(best, slope, alpha_bar, reduction="none")
    not_above(penalty, q_score_penalty(noise, slope, alpha_bar, reduction="none"))
    close(penalty, ORACLES["q_score_penalty"](best.numpy(), slope.numpy(), alpha_bar.numpy()))


@given(data=st.data())
def test_the_q_score_is_the_score_of_a_tilted_normal(data: st.DataObject) -> None:
    """Noisy actions ~ N(m, sigma^2) times e^(g . x / 2 eta): its noise is -sigma times its score."""
    x, mean, g = (data.draw(tensors((2,))) for _ in range(3))
    alpha_bar, eta = data.draw(reals(0.05, 0.95)), data.draw(reals(0.2, 5.0))
    sigma = (1 - alpha_bar) ** 0.5
    leaf = x.clone().requires_grad_()
    (score,) = torch.autograd.grad((Normal(mean, sigma).log_prob(leaf) + g * leaf / (2 * eta)).sum(), leaf)
    behavior = (x - mean) / sigma

    def total(output: Tensor) -> Tensor:
        share = torch.tensor(alpha_bar, dtype=torch.float64)
        return eta * diffusion_loss(output, behavior, x, share) + q_score_penalty(output, g, share)

    (found,) = gradients(total, -sigma * score)
    close(found, 0.0, 1e-8)


@given(data=st.data())
def test_a_step_costs_the_divergence_of_two_normal_steps(data: st.DataObject) -> None:
    """Of DDPM's step: means (x - beta / sqrt(1 - alpha_bar) eps) / sqrt(1 - beta), variance beta."""
    x, e, behavior = (data.draw(tensors((4, 3))) for _ in range(3))
    alpha_bar, beta = data.draw(tensors((4,), 0.02, 0.98)), data.draw(tensors((4,), 0.02, 0.9))
    share, variance = alpha_bar.unsqueeze(-1), beta.unsqueeze(-1)
    ours, theirs = (
        Normal((x - variance / (1 - share).sqrt() * said) / (1 - variance).sqrt(), variance.sqrt())
        for said in (e, behavior)
    )
    penalty = path_kl_penalty(e, behavior, alpha_bar, beta, reduction="none")
    close(penalty, kl_divergence(ours, theirs).sum(-1), 1e-8)
    numbers = (e.numpy(), behavior.numpy(), alpha_bar.numpy(), beta.numpy())
    close(penalty, ORACLES["path_kl_penalty"](*numbers), 1e-8)
    close(path_kl_penalty(behavior, e, alpha_bar, beta, reduction="none"), penalty)
    close(path_kl_penalty(behavior + 2 * (e - behavior), behavior, alpha_bar, beta), 4 * penalty.mean(), 1e-8)
    assert path_kl_penalty(behavior, behavior, alpha_bar, beta) == 0
    (to_the_behavior,) = gradients(lambda b: path_kl_penalty(e, b, alpha_bar, beta), behavior)
    close(to_the_behavior, 0.0)


def test_a_step_without_noise_costs_nothing() -> None:
    """The first entry of a schedule that begins with alpha_bar = 1: no 0 / 0, in value or gradient."""
    e = torch.ones(2, 3, dtype=torch.float64)
    alpha_bar, beta = torch.tensor([1.0, 0.5]).double(), torch.tensor([0.0, 0.5]).double()
    assert path_kl_penalty(e, 0 * e, alpha_bar, beta, reduction="none")[0] == 0
    slopes = gradients(lambda *x: path_kl_penalty(x[0], 0 * e, *x[1:]), e, alpha_bar, beta)
    assert all(slope.isfinite().all() for slope in slopes)
    assert not any(slope[0].any() for slope in slopes)
    for variance in (0.0, 1e-9):  # a schedule may be learned from there: the slope is that of the formula
        beta = torch.full((2,), variance, dtype=torch.float64)
        (slope,) = gradients(lambda b: path_kl_penalty(e, 0 * e, torch.full_like(b, 0.5), b, reduction="sum"), beta)
        close(slope, 3.0, 1e-8)


def test_what_does_not_fit_is_refused() -> None:
    """Numbers for each dimension, fields of two shapes."""
    with pytest.raises(ValueError, match=r"path_kl_penalty: step_variance: expected shape \[4\]"):
        path_kl_penalty(torch.zeros(4, 3), torch.zeros(4, 3), torch.ones(4), torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"guided_field: conditional: expected shape \[4, 3\]"):
        guided_field(torch.zeros(4, 3), torch.zeros(3), guidance_scale=1.0)
    with pytest.raises(ValueError, match="guided_field: guidance_scale: expected a number in"):
        guided_field(torch.zeros(3), torch.zeros(3), guidance_scale=float("inf"))
