"""The laws of relative entropy: what PyTorch's distributions say, who may be exchanged, what samples estimate."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES, reduced
from strategies import batches, candidate_masks, masks, probabilities, reals, tensors
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from offline_losses import categorical_kl_penalty, gaussian_kl_penalty, sampled_kl_penalty

INF = float("inf")


@st.composite
def gaussians(draw: st.DrawFn) -> list[Tensor]:
    """Mean and log deviation [*batch, A] of two policies."""
    shape = (*draw(batches(1, 2)), draw(st.integers(1, 3)))
    return [draw(tensors(shape, -2.0, 2.0)) for _ in range(4)]


# Gaussian.


@given(x=gaussians(), data=st.data())
def test_gaussian_divergence_is_that_of_the_distributions(x: list[Tensor], data: st.DataObject) -> None:
    """PyTorch's closed form and the paper's loop, with mask and weight; a deviation may be that of all states."""
    mean, log_std, other_mean, other_log_std = x
    policy, reference = (Independent(Normal(m, s.exp()), 1) for m, s in ((mean, log_std), (other_mean, other_log_std)))
    close(gaussian_kl_penalty(*x, reduction="none"), kl_divergence(policy, reference))
    mask, weight = data.draw(masks(mean.shape[:-1])), data.draw(tensors(mean.shape[:-1], 0.0, 3.0))
    wanted = ORACLES["gaussian_kl_penalty"](*(each.numpy() for each in x))
    close(gaussian_kl_penalty(*x, mask=mask, weight=weight), reduced(wanted, mask=mask.numpy(), weight=weight.numpy()))
    row, other = log_std.flatten(0, -2)[0], other_log_std.flatten(0, -2)[0]
    close(
        gaussian_kl_penalty(mean, row, other_mean, other),
        gaussian_kl_penalty(mean, row.expand_as(mean), other_mean, other.expand_as(mean)),
    )


@given(x=gaussians())
def test_gaussian_divergence_is_least_at_the_reference(x: list[Tensor]) -> None:
    """Zero with a gradient of zero there, positive elsewhere; the scale of actions does not matter."""
    mean, log_std, other_mean, other_log_std = x
    not_above(torch.zeros(()).double(), gaussian_kl_penalty(*x, reduction="none"))
    assert gaussian_kl_penalty(mean, log_std, mean, log_std) == 0
    for slope in gradients(gaussian_kl_penalty, mean, log_std, mean, log_std):
        close(slope, 0.0)
    scaled = gaussian_kl_penalty(3 * mean, log_std + math.log(3), 3 * other_mean, other_log_std + math.log(3))
    close(scaled, gaussian_kl_penalty(*x))


def test_nearly_equal_gaussians_have_digits() -> None:
    """The square of the difference in log deviation, where the usual difference of logarithms and ratios has none."""
    zero, little = torch.zeros(1, 1), torch.tensor([[1e-4]])
    close(gaussian_kl_penalty(zero, little, zero, zero), torch.tensor(1e-8), 1e-4)
    assert abs(gaussian_kl_penalty(zero, little, zero, zero) / 1e-8 - 1) < 1e-3


def test_a_deviation_of_zero() -> None:
    """A policy without any deviation is far from all others but itself; nothing is not a number."""
    zero, none = torch.zeros(1, 1), torch.full((1, 1), -INF)
    assert gaussian_kl_penalty(zero, none, zero, none) == 0
    assert gaussian_kl_penalty(zero, none, zero, zero) > 40
    for slope in gradients(gaussian_kl_penalty, zero, none, zero, none):
        assert not slope.isnan().any()


# Categorical.


@st.composite
def categoricals(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Logits [*batch, N] of a policy with actions that it never takes, and of a reference that takes all."""
    shape = (*draw(batches(1, 2)), draw(st.integers(1, 4)))
    logits = torch.where(draw(candidate_masks(shape)), draw(tensors(shape, -3.0, 3.0)), -INF)
    return logits, draw(tensors(shape, -3.0, 3.0))


@given(x=categoricals(), shift=reals(), data=st.data())
def test_categorical_divergence_is_that_of_the_distributions(
    x: tuple[Tensor, Tensor], shift: float, data: st.DataObject
) -> None:
    """PyTorch's and the paper's, with mask and weight; a constant added to logits changes nothing."""
    policy, reference = (Categorical(probs=each.softmax(-1)) for each in x)
    close(categorical_kl_penalty(*x, reduction="none"), kl_divergence(policy, reference), 1e-7)
    mask, weight = data.draw(masks(x[0].shape[:-1])), data.draw(tensors(x[0].shape[:-1], 0.0, 3.0))
    wanted = ORACLES["categorical_kl_penalty"](*(each.numpy() for each in x))
    close(
        categorical_kl_penalty(*x, mask=mask, weight=weight),
        reduced(wanted, mask=mask.numpy(), weight=weight.numpy()),
    )
    close(categorical_kl_penalty(x[0] + shift, x[1] - shift), categorical_kl_penalty(*x))


@given(x=categoricals())
def test_categorical_divergence_is_least_at_the_reference(x: tuple[Tensor, Tensor]) -> None:
    """Zero there, with a gradient of zero; the reference's gradient is its share less the policy's."""
    logits, reference = x
    not_above(torch.zeros(()).double(), categorical_kl_penalty(*x, reduction="none"))
    close(categorical_kl_penalty(logits, logits), 0.0)
    for slope in gradients(categorical_kl_penalty, logits, logits):
        close(slope, 0.0)
    ours, theirs = gradients(lambda p, q: categorical_kl_penalty(p, q, reduction="sum"), logits, reference)
    close(theirs, reference.softmax(-1) - logits.softmax(-1))
    p = logits.softmax(-1)
    ratio = torch.where(p > 0, logits.log_softmax(-1) - reference.log_softmax(-1), 0.0)
    close(ours, p * (ratio - (p * ratio).sum(-1, keepdim=True)))


def test_actions_that_one_of_both_never_takes() -> None:
    """What the policy never takes counts nothing; what only the policy takes is infinitely far; no action, nothing."""
    logits = torch.tensor([[0.0, -INF], [0.0, 0.0], [-INF, -INF], [-INF, -INF]])
    reference = torch.tensor([[0.0, -INF], [0.0, -INF], [0.0, 0.0], [-INF, -INF]])
    assert categorical_kl_penalty(logits, reference, reduction="none").tolist() == [0, INF, 0, 0]
    none = torch.full((1, 2), -INF)
    assert categorical_kl_penalty(torch.zeros(1, 2), none) == INF
    for slope in gradients(lambda p, q: categorical_kl_penalty(p, q), logits[[0, 2, 3]], reference[[0, 2, 3]]):
        assert slope.isfinite().all()


# From samples.


@given(data=st.data())
def test_estimates_follow_their_formulas(data: st.DataObject) -> None:
    """Each of the three, with mask and weight, and beyond the largest exponent."""
    shape = data.draw(batches())
    log_prob, reference = data.draw(tensors(shape, -5.0, 0.0)), data.draw(tensors(shape, -5.0, 0.0))
    mask, weight, bound = data.draw(masks(shape)), data.draw(tensors(shape, 0.0, 3.0)), data.draw(reals(0.5, 6.0))
    for kind in ("k1", "k2", "k3"):
        knobs = {"estimator": kind, "max_exponent": bound}
        wanted = ORACLES["sampled_kl_penalty"](log_prob.numpy(), reference.numpy(), **knobs)
        found = sampled_kl_penalty(log_prob, reference, mask=mask, weight=weight, **knobs)
        close(found, reduced(wanted, mask=mask.numpy(), weight=weight.numpy()))


@given(p=probabilities((4,), zeros=False), q=probabilities((4,), zeros=False))
def test_two_of_the_estimates_are_unbiased(p: Tensor, q: Tensor) -> None:
    """Averaged over all actions by the policy: k1 and k3 are the relative entropy, k3 of no sample is negative."""
    divergence = (p * (p / q).log()).sum()
    for kind in ("k1", "k3"):
        close((p * sampled_kl_penalty(p.log(), q.log(), estimator=kind, reduction="none")).sum(), divergence)
    half_second_moment = (p * (p / q).log().square()).sum() / 2
    close((p * sampled_kl_penalty(p.log(), q.log(), estimator="k2", reduction="none")).sum(), half_second_moment)
    not_above(torch.zeros(()).double(), sampled_kl_penalty(p.log(), q.log(), reduction="none"))
    assert sampled_kl_penalty(p.log(), p.log()) == 0


@given(logits=tensors((4,), -2.0, 2.0), q=probabilities((4,), zeros=False))
def test_expected_gradients_of_the_estimates(logits: Tensor, q: Tensor) -> None:
    """None of k1, the relative entropy's of k2, that of the other direction of k3."""
    p = logits.softmax(-1)

    def expected(kind: str) -> Tensor:
        def loss(x: Tensor) -> Tensor:
            return (p * sampled_kl_penalty(x.log_softmax(-1), q.log(), estimator=kind, reduction="none")).sum()

        return gradients(loss, logits)[0]

    close(expected("k1"), 0.0)
    close(expected("k2"), gradients(lambda x: categorical_kl_penalty(x, q.log()), logits)[0])
    close(expected("k3"), gradients(lambda x: categorical_kl_penalty(q.log(), x), logits)[0])


def test_the_exponential_goes_on_as_its_tangent() -> None:
    """Value and slope are continuous at the bound, and the slope stays what it is there."""
    reference = torch.tensor([1.999, 2.001, 50.0, 1e6], dtype=torch.float64)
    zero = torch.zeros(4, dtype=torch.float64)
    (slope,) = gradients(lambda x: sampled_kl_penalty(x, reference, max_exponent=2.0, reduction="sum"), zero)
    close(slope[1:], 1 - math.exp(2.0))
    close(slope[0], 1 - math.exp(1.999))
    k3 = sampled_kl_penalty(zero, reference, max_exponent=2.0, reduction="none")
    close(k3[2], math.exp(2.0) - 3 + 48 * (math.exp(2.0) - 1))
    close(
        sampled_kl_penalty(torch.tensor([-20.0, -30.0]).double(), torch.zeros(2).double()),
        0.0 + float((math.exp(20) - 21 + (math.exp(20) - 21) + 10 * (math.exp(20) - 1)) / 2),
    )


def test_estimates_of_excluded_actions() -> None:
    """Excluded by both: nothing. By the reference alone: infinitely far. Never NaN."""
    log_prob, reference = torch.tensor([-INF, -1.0, -INF]), torch.tensor([-INF, -INF, -1.0])
    for kind, wanted in (("k1", [0, INF, -INF]), ("k2", [0, INF, INF]), ("k3", [0, INF, INF])):
        assert sampled_kl_penalty(log_prob, reference, estimator=kind, reduction="none").tolist() == wanted
    for kind in ("k1", "k2", "k3"):
        (slope,) = gradients(lambda x, k=kind: sampled_kl_penalty(x, reference[:1], estimator=k), log_prob[:1])
        assert slope == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_log_ratio_of_half_precision(dtype: torch.dtype) -> None:
    """Subtracted in float32, and near zero k3 has the digits of its series."""
    x = torch.tensor([1.0, 1.0078125], dtype=dtype)
    close(
        sampled_kl_penalty(x, torch.ones(2, dtype=dtype), estimator="k3", reduction="none")[1].double(),
        math.exp(-0.0078125) - 1 + 0.0078125,
        1e-9,
    )


@pytest.mark.parametrize("bound", [0.5, 50.0])
def test_the_bound_of_the_exponent(bound: float) -> None:
    """Small ones are taken, and as large ones as float32 has the exponential of with a factor to spare."""
    assert sampled_kl_penalty(torch.zeros(1), torch.full((1,), 1e3), max_exponent=bound).isfinite()
    with pytest.raises(ValueError, match="max_exponent"):
        sampled_kl_penalty(torch.zeros(1), torch.zeros(1), max_exponent=50.5)


def test_logits_that_are_no_numbers_show() -> None:
    """On either side; only −∞ everywhere is a state without actions."""
    zero, nan = torch.zeros(2, 3), torch.full((2, 3), math.nan)
    assert categorical_kl_penalty(nan, zero).isnan()
    assert categorical_kl_penalty(zero, nan).isnan()
