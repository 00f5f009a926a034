"""The laws of behavior models: which actions are barred, that a bound is one, and that a density cannot be left."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import batches, reals, tensors
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from offline_losses import elbo_loss, evidence_lower_bound, soft_value, spot_penalty, support_mask


@given(data=st.data())
def test_the_mask_compares_with_the_most_likely_action(data: st.DataObject) -> None:
    """The ratio of probabilities against the threshold; normalized or not; the best is always left; more bars more."""
    logits = data.draw(tensors((*data.draw(batches(0, 2)), 4), -3.0, 3.0))
    threshold = data.draw(reals(0.0, 0.99))
    mask = support_mask(logits, threshold=threshold)
    probability = logits.softmax(-1)
    ratio = probability / probability.amax(-1, keepdim=True)
    decided = (ratio - threshold).abs() > 1e-9
    assert (mask == (ratio > threshold))[decided].all()
    assert (support_mask(logits + data.draw(reals()), threshold=threshold) == mask)[decided].all()
    assert mask.gather(-1, logits.argmax(-1, keepdim=True)).all()
    assert (support_mask(logits, threshold=min(0.999, threshold + 0.2)) <= mask).all()
    assert (
        mask.equal(torch.from_numpy(ORACLES["support_mask"](logits.numpy(), threshold=threshold))) or not decided.all()
    )
    assert support_mask(logits, threshold=0.0).all()


def test_each_run_has_a_threshold() -> None:
    """One for each, beside a batch, bars what it bars alone."""
    logits, threshold = torch.tensor([0.6, 0.3, 0.1]).log().expand(2, 4, 3), torch.tensor([[0.3], [0.6]])
    mask = support_mask(logits, threshold=threshold)
    assert mask[0, 0].tolist() == [True, True, False]
    assert mask[1, 3].tolist() == [True, False, False]


def test_the_boundary_is_barred_and_ties_are_left() -> None:
    """Strictly above the threshold, as in discrete BCQ; all of equal actions are the best."""
    logits = torch.tensor([[0.0, math.log(0.5), math.log(0.25)]], dtype=torch.float64)
    assert support_mask(logits, threshold=0.25).tolist() == [[True, True, False]]
    assert support_mask(torch.zeros(2, 3), threshold=0.99).all()
    assert support_mask(logits).tolist() == [[True, True, False]]  # 0.3


def test_the_mask_of_infinite_logits() -> None:
    """What has no probability is barred at any threshold; a certain action leaves itself; nothing leaves nothing."""
    inf = torch.inf
    logits = torch.tensor([[-inf, 0.0], [inf, 0.0], [inf, inf], [-inf, -inf]])
    expected = [[False, True], [True, False], [True, True], [False, False]]
    for threshold in (0.0, 0.3, torch.tensor(0.3)):
        assert support_mask(logits, threshold=threshold).tolist() == expected
    assert support_mask(torch.tensor([60000.0, -60000.0]).half()).tolist() == [True, False]


@given(data=st.data())
def test_the_divergence_is_that_of_two_normal_distributions(data: st.DataObject) -> None:
    """torch.distributions; zero, with a slope of zero, at the prior; the bound falls with its weight."""
    batch = data.draw(batches(0, 2, 1, 3))
    log_prob, mean = data.draw(tensors(batch)), data.draw(tensors((*batch, 2), -3.0, 3.0))
    log_std, kl_weight = data.draw(tensors((*batch, 2), -3.0, 2.0)), data.draw(reals(0.0, 3.0))
    encoder = Independent(Normal(mean, log_std.exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), 1.0), 1)
    divergence = kl_divergence(encoder, prior)
    bound = evidence_lower_bound(log_prob, mean, log_std, kl_weight=kl_weight)
    close(bound, log_prob - kl_weight * divergence)
    not_above(bound, log_prob)
    numbers = (log_prob.numpy(), mean.numpy(), log_std.numpy())
    close(bound, ORACLES["evidence_lower_bound"](*numbers, kl_weight=kl_weight))
    close(elbo_loss(log_prob, mean, log_std, kl_weight=kl_weight, reduction="none"), -bound)
    close(elbo_loss(log_prob, mean, log_std), -(log_prob - divergence).mean())
    zero = torch.zeros_like(mean)
    close(evidence_lower_bound(log_prob, zero, zero), log_prob)
    for slope in gradients(lambda m, s: evidence_lower_bound(log_prob, m, s), zero, zero):
        close(slope, 0.0)


@given(x=tensors((4,), -3.0, 3.0), loading=reals(0.2, 3.0), noise=reals(0.3, 2.0))
def test_the_bound_holds_and_is_tight_at_the_posterior(x: Tensor, loading: float, noise: float) -> None:
    """a = w z + s eps: log-density, posterior and mean reconstruction are known; any other encoder gives less."""
    density = Normal(torch.zeros(()).double(), math.hypot(loading, noise)).log_prob(x)
    precision = 1 + loading**2 / noise**2
    mean, variance = loading * x / noise**2 / precision, 1 / precision

    def bound(mean: Tensor, variance: float) -> Tensor:
        # the expected log-probability of the decoder over z ~ N(mean, variance)
        error = (x - loading * mean).square() + loading**2 * variance
        reconstruction = -error / (2 * noise**2) - math.log(noise) - math.log(2 * math.pi) / 2
        log_std = torch.full_like(mean, math.log(variance) / 2)
        return evidence_lower_bound(reconstruction, mean[:, None], log_std[:, None])

    close(bound(mean, variance), density)
    not_above(bound(mean + 0.3, variance), density - 1e-3)
    not_above(bound(mean, 2 * variance), density - 1e-3)


def test_no_digit_of_a_small_divergence_is_lost() -> None:
    """Near the prior it is mu^2 / 2 + log_std^2, below what a difference of ones has in float32."""
    small = torch.tensor([[1e-5]])
    close(evidence_lower_bound(torch.zeros(1), 0 * small, small), torch.tensor([-1e-10]), 1e-12)
    divergence = -evidence_lower_bound(torch.zeros(1), 0 * small, small)
    assert abs(divergence / 1e-10 - 1) < 1e-4


def test_a_divergence_of_weight_zero_may_be_infinite() -> None:
    """An encoder without noise has an infinite one."""
    log_std = torch.full((2, 3), -torch.inf)
    assert evidence_lower_bound(torch.ones(2), log_std * 0 + 1.0, log_std).tolist() != [1.0, 1.0]
    zeros = torch.zeros(2, 3)
    assert evidence_lower_bound(torch.ones(2), zeros, log_std).tolist() == [-math.inf] * 2
    assert evidence_lower_bound(torch.ones(2), zeros, log_std, kl_weight=0.0).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("kl_weight", [0.0, torch.zeros(()), torch.tensor([0.0, 1.0])])
def test_a_divergence_of_weight_zero_has_no_slope(kl_weight: float | Tensor) -> None:
    """However wide or narrow the encoder is, though in float32 the exponential of its deviation is infinite."""
    for width in (-torch.inf, -100.0, 0.0, 50.0, 100.0):
        at = torch.ones(2), torch.ones(2, 3), torch.full((2, 3), width)
        slopes = gradients(lambda *x: elbo_loss(*x, kl_weight=kl_weight, reduction="none")[:1], *at)
        assert [slope[0].tolist() for slope in slopes] == [-1.0, [0.0] * 3, [0.0] * 3]


@pytest.mark.parametrize("width", [-3.0, 30.0])
def test_the_slope_of_the_weight_is_the_divergence(width: float) -> None:
    """At a weight of zero too, from which it may be learned."""
    zero, log_std = torch.zeros(1, 2, dtype=torch.float64), torch.full((1, 2), width, dtype=torch.float64)
    for weight in (0.0, 0.5):
        at = torch.tensor(weight, dtype=torch.float64)
        (slope,) = gradients(lambda kl_weight: elbo_loss(zero[:, 0], zero, log_std, kl_weight=kl_weight), at)
        close(slope, math.exp(2 * width) - 1 - 2 * width)


@given(data=st.data())
def test_the_penalty_is_minus_the_log_of_a_mean_of_weights(data: st.DataObject) -> None:
    """The oracle's; one draw is its own logarithm; a shift goes through; at least minus the best, at most the mean."""
    batch, n = data.draw(batches(0, 2, 1, 3)), data.draw(st.integers(1, 5))
    log_weight, shift = data.draw(tensors((*batch, n))), data.draw(reals())
    penalty = spot_penalty(log_weight, reduction="none")
    close(penalty, ORACLES["spot_penalty"](log_weight.numpy()))
    close(penalty, -soft_value(log_weight, log_density=torch.zeros_like(log_weight)))
    close(spot_penalty(log_weight[..., :1], reduction="none"), -log_weight[..., 0])
    close(spot_penalty(log_weight + shift, reduction="none"), penalty - shift)
    not_above(-log_weight.amax(-1), penalty)
    not_above(penalty, -log_weight.mean(-1))  # Jensen: more draws, a tighter bound
    (slope,) = gradients(lambda x: spot_penalty(x, reduction="sum"), log_weight)
    close(slope, -log_weight.softmax(-1))


def test_importance_weights_find_the_density() -> None:
    """a = z + eps: with a wrong encoder the mean weight is still the density, in expectation."""
    torch.manual_seed(0)
    action = torch.tensor([0.5, 2.0], dtype=torch.float64)
    mean, log_std = 0.4 * action, torch.full((2,), -0.2, dtype=torch.float64)
    z = mean[:, None] + log_std.exp()[:, None] * torch.randn(2, 20_000, dtype=torch.float64)
    log_weight = (
        Normal(z, 1.0).log_prob(action[:, None])
        + Normal(0.0, 1.0).log_prob(z)
        - Normal(mean[:, None], log_std.exp()[:, None]).log_prob(z)
    )
    expected = Normal(torch.zeros(2).double(), 2**0.5).log_prob(action)
    close(-spot_penalty(log_weight, reduction="none"), expected, 0.02)


def test_an_impossible_action_has_an_infinite_penalty_and_nothing_else_is_lost() -> None:
    """No draw can have made it: density zero. One that cannot beside one that can is just no help."""
    inf = torch.inf
    log_weight = torch.tensor([[-inf, -inf], [-inf, 0.0], [1e4, 1e4 - 1]], dtype=torch.float64)
    penalty = spot_penalty(log_weight, reduction="none")
    expected = [math.log(2), math.log(2) - 1e4 - math.log1p(math.exp(-1))]
    close(penalty[1:], torch.tensor(expected, dtype=torch.float64))
    assert penalty[0] == inf
    (slope,) = gradients(lambda x: spot_penalty(x, reduction="none"), log_weight)
    close(slope[0], 0.0)
    close(slope[1], torch.tensor([0.0, -1.0]).double())
    assert spot_penalty(log_weight, mask=torch.tensor([False, True, False])) == penalty[1]


def test_what_does_not_fit_is_refused() -> None:
    """No actions, no draws, a threshold that bars all, latents of another batch."""
    with pytest.raises(ValueError, match="support_mask: logits: expected a last axis of at least one action"):
        support_mask(torch.zeros(3, 0))
    with pytest.raises(ValueError, match=r"support_mask: threshold: expected a number in \[0.0, 1.0\)"):
        support_mask(torch.zeros(3), threshold=1.0)
    with pytest.raises(ValueError, match="spot_penalty: log_weight: expected a last axis of at least one draw"):
        spot_penalty(torch.zeros(()))
    with pytest.raises(ValueError, match=r"elbo_loss: log_prob: expected shape \[4\]"):
        elbo_loss(torch.zeros(3), torch.zeros(4, 2), torch.zeros(4, 2))
