"""The laws of distributions on a support: mass and mean stay, ends clip, and what is far outside points home."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import mpmath
import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import distinct, levels, masks, probabilities, reals, tensors
from torch import Tensor

from offline_losses import (
    bellman_target,
    categorical_loss,
    categorical_projection,
    categorical_value,
    hl_gauss,
    huber_loss,
    quantile_huber_loss,
    quantile_loss,
    two_hot,
)
from offline_losses._compile import twin

Histogram = Callable[..., Tensor]

each_histogram = pytest.mark.parametrize("histogram", [two_hot, hl_gauss], ids=["two_hot", "hl_gauss"])


@st.composite
def supports(draw: st.DrawFn, least: int = 2, most: int = 8) -> Tensor:
    """Sorted atoms of any spacing, none closer than a tenth."""
    gaps = draw(tensors((draw(st.integers(least, most)) - 1,), 0.1, 3.0))
    start = torch.tensor([draw(reals(-5.0, 0.0))], dtype=torch.float64)
    return torch.cat([start, start + gaps.cumsum(0)])


def inside(data: st.DataObject, support: Tensor, count: int = 4) -> Tensor:
    """Values between the first and the last atom."""
    share: Tensor = data.draw(tensors((count,), 0.0, 1.0))
    return support[0] + share * (support[-1] - support[0])


def mean(probability: Tensor, support: Tensor) -> Tensor:
    return (probability * support).sum(-1)


# A value as a histogram.


@each_histogram
@given(data=st.data())
def test_a_row_sums_to_one_wherever_the_value_is(histogram: Histogram, data: st.DataObject) -> None:
    """However far outside, infinity included, and no probability is negative."""
    support = data.draw(supports())
    far = torch.tensor([math.inf, -math.inf, 1e300, -1e300, 1e9, -1e4, 40.0, -40.0], dtype=torch.float64)
    value = torch.cat([far, support, inside(data, support), data.draw(tensors((4,)))])
    p = histogram(value, support)
    close(p.sum(-1), torch.ones_like(value), 1e-12)
    assert bool((p >= 0).all())
    close(p[0], torch.eye(len(support), dtype=torch.float64)[-1])
    close(p[1], torch.eye(len(support), dtype=torch.float64)[0])


@each_histogram
@given(data=st.data())
def test_the_mirror_image(histogram: Histogram, data: st.DataObject) -> None:
    """With the support reversed, the probabilities are reversed."""
    support, value = data.draw(supports()), data.draw(tensors((5,), -30.0, 30.0))
    close(histogram(-value, -support.flip(-1)), histogram(value, support).flip(-1))


@each_histogram
@given(data=st.data())
def test_units_and_origin_do_not_matter(histogram: Histogram, data: st.DataObject) -> None:
    """A value and a support that are moved and scaled together."""
    support, value = data.draw(supports()), data.draw(tensors((5,), -15.0, 15.0))
    unit, shift = data.draw(reals(0.1, 5.0)), data.draw(reals())
    close(histogram(unit * value + shift, unit * support + shift), histogram(value, support), 1e-7)


@each_histogram
@given(data=st.data())
def test_a_larger_value_has_a_larger_distribution(histogram: Histogram, data: st.DataObject) -> None:
    """Its distribution function lies below, at every atom."""
    support, value = data.draw(supports()), data.draw(tensors((4,)))
    more = value + data.draw(reals(0.0, 5.0))
    not_above(histogram(more, support).cumsum(-1), histogram(value, support).cumsum(-1))


@given(data=st.data())
def test_two_hot_keeps_the_value(data: st.DataObject) -> None:
    """The mean is the value inside, the nearest end outside; at most two neighbors have mass; an atom is one-hot."""
    support = data.draw(supports())
    value = torch.cat([inside(data, support), data.draw(tensors((3,), -30.0, 30.0))])
    p = two_hot(value, support)
    close(mean(p, support), value.clamp(support[0], support[-1]))
    assert bool(((p > 0).sum(-1) <= 2).all())
    assert bool(((p[:, 2:] == 0) | (p[:, :-2] == 0)).all())
    close(two_hot(support, support), torch.eye(len(support), dtype=torch.float64))


@given(data=st.data())
def test_the_slope_of_the_mean_is_one_inside_and_zero_outside(data: st.DataObject) -> None:
    """Exactly on an atom too, where it is one and not the sum of both sides."""
    support = data.draw(supports())
    value = torch.cat([support, inside(data, support), support[:1] - 1, support[-1:] + 1])
    slope, _ = gradients(lambda x, z: mean(two_hot(x, z), z.detach()), value, support)
    wanted = torch.ones_like(value)
    wanted[-2:] = 0
    close(slope, wanted)


@each_histogram
def test_equal_neighbors_share(histogram: Histogram) -> None:
    """A support with an atom twice: no NaN, forward or backward, and the mean is that of the atom once."""
    support = torch.tensor([0.0, 0.0, 1.0, 1.0, 2.0, 2.0], dtype=torch.float64)
    value = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    p = histogram(value, support)
    close(p.sum(-1), torch.ones_like(value))
    if histogram is two_hot:
        close(mean(p, support), value.clamp(0, 2))
    for slope in gradients(lambda x, z: histogram(x, z).square(), value, support):
        assert bool(slope.isfinite().all())


@each_histogram
def test_a_support_without_any_width(histogram: Histogram) -> None:
    """A row sums to one, wherever the value is, forward and backward without NaN; bins of no width share equally."""
    support, value = torch.ones(2), torch.tensor([0.0, 1.0, 2.0, math.inf, -math.inf])
    p = histogram(value, support)
    close(p.sum(-1), 1.0)
    if histogram is hl_gauss:
        close(p, 0.5)
    for slope in gradients(lambda x, z: histogram(x, z).square(), value, support):
        assert bool(slope.isfinite().all())


@each_histogram
def test_a_support_as_wide_as_the_floats(histogram: Histogram) -> None:
    """Its range is no float, and the probabilities are those of smaller units."""
    support = torch.tensor([-3.0, -1.5, 0.0, 1.5, 3.0])
    value = torch.tensor([math.inf, -math.inf, 0.0, 1.0, -2.0, 3.4])
    close(histogram(value * 1e38, support * 1e38), histogram(value, support), 1e-5)
    close(histogram(value[2:4] * 1e38, support[::4] * 1e38), histogram(value[2:4], support[::4]), 1e-5)


# The widest dtype.

DTYPES = [torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize("on", DTYPES, ids=str)
@pytest.mark.parametrize("of", DTYPES, ids=str)
def test_dtypes_that_differ_are_computed_in_the_widest(of: torch.dtype, on: torch.dtype) -> None:
    """To all its digits, and what comes back is in it: float64 atoms and float32 values, and the reverse."""
    support = torch.linspace(-1, 1, 5, dtype=torch.float64).exp().to(on)
    x = torch.tensor([[-0.3, 0.7, 1.2, 5.0, 0.1]], dtype=torch.float64).to(of)
    widest = torch.promote_types(of, on)
    p = x.softmax(-1)
    for name, mixed, plain, sums in (
        ("two_hot", two_hot(x, support), two_hot(x.double(), support.double()), False),
        ("hl_gauss", hl_gauss(x, support), hl_gauss(x.double(), support.double()), False),
        ("value", categorical_value(x, support), categorical_value(x.double(), support.double()), True),
        (
            "projection",
            categorical_projection(p, x.to(on), support),
            categorical_projection(p.double(), x.to(on).double(), support.double()),
            True,
        ),
        (
            "atoms",
            categorical_projection(p.to(on), x, support.to(of)),
            categorical_projection(p.to(on).double(), x.double(), support.to(of).double()),
            True,
        ),
    ):
        assert mixed.dtype == (torch.promote_types(widest, torch.float32) if sums else widest), name
        digits = 10 * torch.finfo(mixed.dtype).eps
        torch.testing.assert_close(mixed.double(), plain, rtol=digits, atol=digits, msg=name)


@given(data=st.data())
def test_hl_gauss_keeps_the_mean_of_what_is_well_inside(data: st.DataObject) -> None:
    """On an even grid with σ of at least 0.75 bins the mean is the value, to a ten-thousandth of a bin."""
    support = torch.linspace(-10, 10, 81, dtype=torch.float64)
    value = data.draw(tensors((5,), -4.0, 4.0))
    for ratio in (0.75, 1.5):
        assert bool(
            ((mean(hl_gauss(value, support, sigma_to_bin_ratio=ratio), support) - value).abs() < 1e-4 / 4).all()
        )


@given(data=st.data())
def test_a_small_sigma_leaves_the_bin_of_the_value(data: st.DataObject) -> None:
    """One-hot at the nearest atom; mass comes to the neighbors as σ grows, and in the end to each by its width."""
    support = data.draw(supports(3))
    value = inside(data, support)
    near = (value.unsqueeze(-1) - support).abs().argmin(-1)
    edge = ((support[1:] + support[:-1]) / 2 - value.unsqueeze(-1)).abs().amin(-1) > 1e-3
    close(hl_gauss(value, support, sigma_to_bin_ratio=1e-6)[edge].argmax(-1), near[edge])
    close(hl_gauss(value, support, sigma_to_bin_ratio=1e-6)[edge].amax(-1), 1.0)
    gaps = support.diff()
    width = (torch.cat([gaps[:1], gaps]) + torch.cat([gaps, gaps[-1:]])) / 2
    close(hl_gauss(value, support, sigma_to_bin_ratio=1e7), (width / width.sum()).expand(len(value), -1), 1e-6)
    entropy = [
        torch.special.entr(hl_gauss(support[1], torch.linspace(0, 1, 9).double(), sigma_to_bin_ratio=r)).sum()
        for r in (0.2, 0.75, 2.0)
    ]
    assert entropy == sorted(entropy)


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=pytest.mark.thorough)], ids=["eager", "fused"])
@pytest.mark.parametrize(("bins", "step"), [(11, 2.0), (81, 0.25), (641, 0.03125)])
def test_hl_gauss_has_digits_in_the_tails_and_in_small_bins(
    bins: int, step: float, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each probability is right relative to itself, far outside too, for bins of a fiftieth of σ and of four σ."""
    monkeypatch.setattr(twin, "SMALL", 0)
    function = twin.fuse(hl_gauss) if fused else hl_gauss
    value = torch.tensor([-3000.0, -70.0, -13.0, -10.5, -2.125, 0.0, 9.75, 10.5, 17.0], dtype=torch.float64)
    support = (torch.arange(bins) - bins // 2) * torch.tensor(step, dtype=torch.float64)
    for sigma in (0.5, 1.5):
        exact = torch.stack([in_bins(x, support, sigma) for x in value.tolist()])
        seen = exact > 1e-30
        for dtype, digits in ((torch.float32, 1e-4), *([] if fused else [(torch.float64, 1e-11)])):
            p = function(value.to(dtype), support.to(dtype), sigma_to_bin_ratio=sigma / step).double()
            assert ((p - exact).abs() / exact)[seen].max() < digits, (sigma, dtype)
            close(p[~seen], 0.0, 1e-29)


def in_bins(value: float, support: Tensor, sigma: float) -> Tensor:
    """Shares of a normal distribution in bins of one width, with fifty digits."""
    step = (support[1] - support[0]).item()
    with mpmath.workdps(50):
        z = [(mpmath.mpf(support[0].item()) + (k - 0.5) * step - value) / sigma for k in range(len(support) + 1)]
        tails = [mpmath.erfc(abs(x) / mpmath.sqrt(2)) for x in z]
        ends = zip(pairwise(z), pairwise(tails), strict=True)
        mass = [2 - s - t if a < 0 <= b else abs(s - t) for (a, b), (s, t) in ends]
        total = mpmath.fsum(mass)
        return torch.tensor([float(x / total) for x in mass], dtype=torch.float64)


@given(data=st.data())
def test_narrow_and_wide_bins_fit_together(data: st.DataObject) -> None:
    """On one support, inside and on either side of where a tail is a ratio to the density, up to 30 σ outside."""
    gaps = torch.tensor(data.draw(st.lists(st.sampled_from([1e-4, 0.5, 2.0]), min_size=4, max_size=8)))
    support = torch.cat([torch.zeros(1), torch.tensor([1e-4, 1.0]), gaps]).double().cumsum(0)
    width = (support[-1] / (len(support) - 1)).item()
    outside = 0.75 * width * data.draw(tensors((5,), 0.0, 30.0))
    value = torch.cat([-outside, support[-1] + outside, inside(data, support)])
    wanted = torch.from_numpy(ORACLES["hl_gauss"](value.numpy(), support.numpy()))
    torch.testing.assert_close(hl_gauss(value, support), wanted, rtol=1e-8, atol=1e-14)


@given(data=st.data())
def test_the_gradient_of_hl_gauss_points_home(data: st.DataObject) -> None:
    """A larger value has a larger mean, also a hundred σ outside, where the slope is small, finite and not zero."""
    support = torch.linspace(-1, 1, 21, dtype=torch.float64)
    beyond = data.draw(reals(0.0, 8.0))
    value = torch.tensor([1 + beyond, -1 - beyond, 0.3, 0.05, 1.05], dtype=torch.float64)
    (slope,) = gradients(lambda x: mean(hl_gauss(x, support), support), value)
    assert bool(slope.isfinite().all())
    assert bool((slope > 0).all())
    p = hl_gauss(value, support)
    variance = mean(p, support**2) - mean(p, support) ** 2
    sigma = 0.075
    narrow = slope[2:4] * sigma**2 / variance[2:4]  # the slope of a mean is the variance over that of the noise
    assert bool(((narrow - 1).abs() < 0.15).all())


@each_histogram
def test_far_outside_the_loss_pulls_the_critic_to_the_end(histogram: Histogram) -> None:
    """Neither loss nor gradient vanishes, for a value of any size, in float32 and in half precision."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        support = torch.linspace(-1, 1, 11, dtype=dtype)
        for value in (50.0, 6e4, math.inf):
            logits = torch.zeros(11, dtype=dtype, requires_grad=True)
            loss = categorical_loss(logits, histogram(torch.tensor(value, dtype=dtype), support))
            (slope,) = torch.autograd.grad(loss, logits)
            assert loss.item() == pytest.approx(math.log(11), rel=1e-2)
            assert slope[-1] < -0.9
            assert bool((slope[:-1] > 0).all())


@given(data=st.data())
def test_the_derivative_on_an_edge_is_that_beside_it(data: st.DataObject) -> None:
    """A value midway between two atoms, as zero is on an even support, is no special place; nor is an atom."""
    support = torch.tensor([-3.0, -1.0, 1.0, 3.0], dtype=torch.float64)
    at = torch.tensor(data.draw(st.sampled_from([-4.0, -2.0, 0.0, 2.0, 4.0, 1.0, 3.0])), dtype=torch.float64)
    ratio = data.draw(st.sampled_from([0.75, 1e3]))
    factor = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        return (hl_gauss(x, support, sigma_to_bin_ratio=ratio) * factor).sum()

    def slope(x: Tensor) -> Tensor:
        return torch.func.grad(f)(x)

    step = 1e-5
    close(slope(at), (f(at + step) - f(at - step)) / (2 * step), 1e-8)
    second = torch.func.grad(slope)(at)
    close(second, (slope(at + step) - slope(at - step)) / (2 * step), 1e-4 if ratio < 1 else 1e-6)


# A distribution moved onto a support.


@given(data=st.data())
def test_the_projection_keeps_mass_and_mean(data: st.DataObject) -> None:
    """Of atoms in any order; what lies outside counts at the nearest end; no mass is negative."""
    support, count = data.draw(supports()), data.draw(st.integers(1, 6))
    p, atoms = data.draw(probabilities((3, count))), data.draw(tensors((3, count)))
    moved = categorical_projection(p, atoms, support)
    assert bool((moved >= 0).all())
    close(moved.sum(-1), torch.ones(3, dtype=torch.float64))
    close(mean(moved, support), mean(p, atoms.clamp(support[0], support[-1])))
    close(categorical_projection(3 * p, atoms, support), 3 * moved)
    order = torch.tensor(data.draw(st.permutations(range(count))))
    close(categorical_projection(p[:, order], atoms[:, order], support), moved)


@given(data=st.data())
def test_the_projection_onto_its_own_atoms_changes_nothing(data: st.DataObject) -> None:
    """Mass that lies exactly on an atom is not lost."""
    support = data.draw(supports())
    p = data.draw(probabilities((3, len(support))))
    close(categorical_projection(p, support.expand_as(p), support), p)
    fine = torch.cat([support, (support[1:] + support[:-1]) / 2]).sort().values
    there = categorical_projection(p, support.expand_as(p), fine)
    close(categorical_projection(there, fine.expand_as(there), support), p)


@given(data=st.data())
def test_one_atom_is_two_hot(data: st.DataObject) -> None:
    """And many are the mixture of as many."""
    support, atoms = data.draw(supports()), data.draw(tensors((3, 4)))
    p = data.draw(probabilities((3, 4)))
    close(
        categorical_projection(torch.ones(4, 1).double(), atoms[0].unsqueeze(-1), support), two_hot(atoms[0], support)
    )
    mixture = (p.unsqueeze(-1) * two_hot(atoms, support)).sum(-2)
    close(categorical_projection(p, atoms, support), mixture)


@given(data=st.data())
def test_a_terminal_step_is_two_hot_of_the_reward(data: st.DataObject) -> None:
    """The target of C51: the same for all next distributions where the episode ended, and its mean is Bellman's."""
    support = torch.linspace(-40, 40, 9, dtype=torch.float64)
    p, reward = data.draw(probabilities((3, 9))), data.draw(tensors((3,), -2.0, 2.0))
    terminated, discount = data.draw(masks((3,))), data.draw(reals(0.0, 0.9))
    atoms = reward.unsqueeze(-1) + discount * (~terminated).unsqueeze(-1) * support
    target = categorical_projection(p, atoms, support)
    wanted = bellman_target(reward, mean(p, support), terminated, discount=discount)
    close(mean(target, support), wanted)
    close(target[terminated], two_hot(reward, support)[terminated])


@given(data=st.data())
def test_the_gradient_of_the_projection_interpolates(data: st.DataObject) -> None:
    """By the probability: a function on the support, read off at the atoms; by the atoms: its slope there, by mass."""
    support = data.draw(supports(3))
    p, atoms = data.draw(probabilities((1, 4))), data.draw(distinct((1, 4)))
    f = data.draw(tensors((len(support),)))
    by_mass, by_place = gradients(lambda p, x: (categorical_projection(p, x, support) * f).sum(), p, atoms)
    close(by_mass, (two_hot(atoms, support) * f).sum(-1))
    step = 1e-6
    rise = ((two_hot(atoms + step, support) - two_hot(atoms - step, support)) * f).sum(-1) / (2 * step)
    smooth = ((atoms.unsqueeze(-1) - support).abs() > 1e-4).all(-1)
    close(by_place[smooth], (p * rise)[smooth], 1e-6)


# Learning a distribution, and reading it off.


@given(data=st.data())
def test_cross_entropy_is_least_at_the_target(data: st.DataObject) -> None:
    """There it is the target's entropy; elsewhere the relative entropy more, and the slope is their difference."""
    p, logits = data.draw(probabilities((3, 5), zeros=False)), data.draw(tensors((3, 5)))
    loss = categorical_loss(logits, p, reduction="none")
    close(categorical_loss(p.log(), p, reduction="none"), torch.special.entr(p).sum(-1))
    more = torch.nn.functional.kl_div(logits.log_softmax(-1), p, reduction="none").sum(-1)
    close(loss, torch.special.entr(p).sum(-1) + more)
    (slope,) = gradients(lambda x: categorical_loss(x, p, reduction="sum"), logits)
    close(slope, logits.softmax(-1) - p)


@given(data=st.data())
def test_for_one_hot_targets_it_is_the_negative_log_likelihood(data: st.DataObject) -> None:
    """Of softmax probabilities, not of raw logits: adding a constant to them changes nothing."""
    logits, label = data.draw(tensors((4, 5))), torch.tensor(data.draw(st.permutations(range(4))))
    one_hot = torch.nn.functional.one_hot(label, 5).double()
    close(categorical_loss(logits, one_hot), torch.nn.functional.nll_loss(logits.log_softmax(-1), label))
    close(categorical_loss(logits + data.draw(reals()), one_hot), categorical_loss(logits, one_hot))


def test_a_class_that_cannot_be() -> None:
    """A logit of −∞ costs nothing where the target has no mass, and everything where it has."""
    logits = torch.tensor([[0.0, 0.0, -math.inf], [0.0, 0.0, -math.inf]], dtype=torch.float64)
    target = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.4, 0.1]], dtype=torch.float64)
    loss = categorical_loss(logits, target, reduction="none")
    close(loss[:1], math.log(2))
    assert loss[1] == math.inf
    (slope,) = gradients(lambda x: categorical_loss(x, target[:1]), logits[:1])
    close(slope, torch.zeros_like(slope))


@given(data=st.data())
def test_values_come_back(data: st.DataObject) -> None:
    """Through two-hot probabilities, and from any logits between the first and the last atom."""
    support = data.draw(supports())
    value, logits = inside(data, support), data.draw(tensors((4, len(support))))
    close(categorical_value(two_hot(value, support).log(), support), value)
    read = categorical_value(logits, support)
    not_above(read, support[-1])
    not_above(support[0], read)
    close(categorical_value(logits + data.draw(reals()), support), read)
    close(categorical_value(logits.flip(-1), -support.flip(-1)), -read)
    (slope,) = gradients(lambda x: categorical_value(x, support), logits)
    close(slope, logits.softmax(-1) * (support - read.unsqueeze(-1)))


def test_an_impossible_atom_adds_nothing() -> None:
    """Wherever it lies, at infinity too; one that is possible there decides."""
    logits, support = torch.tensor([[0.0, -math.inf], [0.0, 0.0]]), torch.tensor([1.0, math.inf])
    assert categorical_value(logits, support).tolist() == [1.0, math.inf]
    by_logits, by_support = gradients(lambda x, z: categorical_value(x, z), logits[0], support)
    assert by_logits.tolist() == [0.0, 0.0]
    assert by_support.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("atoms", [254, 255])
def test_a_fresh_critic_on_a_wide_symmetric_support_says_zero(atoms: int) -> None:
    """Exactly, in float32, though the largest atoms are ±e²⁰: pairs cancel before they are added up."""
    half = torch.linspace(20 / atoms, 20, atoms // 2).expm1()
    support = torch.cat([-half.flip(0), torch.zeros(atoms % 2), half])
    assert categorical_value(torch.zeros(3, atoms), support).tolist() == [0.0, 0.0, 0.0]


def test_lengths_that_differ_are_refused() -> None:
    """Logits over other atoms, one atom, a support for each sample, samples of another batch."""
    support = torch.zeros(5)
    with pytest.raises(
        ValueError, match=r"logits: expected a last axis of 5 atoms, got .+\. Give it one entry for each atom\."
    ):
        categorical_value(torch.zeros(4, 6), support)
    for wrong in (torch.zeros(()), torch.zeros(1), torch.zeros(4, 5)):
        with pytest.raises(ValueError, match=r"two_hot: support: expected shape \[K\] of at least two atoms"):
            two_hot(torch.zeros(4), wrong)
    with pytest.raises(ValueError, match="categorical_projection: atoms: expected a last axis of at least one atom"):
        categorical_projection(torch.zeros(2, 0), torch.zeros(2, 0), support)
    with pytest.raises(ValueError, match="categorical_loss: logits: expected a last axis of at least one class"):
        categorical_loss(torch.tensor(0.0), torch.tensor(0.0))
    with pytest.raises(ValueError, match=r"quantile_huber_loss: target: expected shape \[2, 4, M\]"):
        quantile_huber_loss(torch.zeros(2, 4, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"quantile_huber_loss: target: expected shape \[M\]"):
        quantile_huber_loss(torch.zeros(3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="quantile_huber_loss: prediction: expected a last axis of at least one quant"):
        quantile_huber_loss(torch.zeros(2, 0), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="quantile_huber_loss: target: expected a last axis of at least one sample"):
        quantile_huber_loss(torch.zeros(2, 3), torch.zeros(2, 0))
    with pytest.raises(ValueError, match=r"quantile: expected shape \[3\] or shape \[4, 3\] or shape \[2, 4, 3\]"):
        quantile_huber_loss(torch.zeros(2, 4, 3), torch.zeros(4, 2), quantile=torch.zeros(4))


# Quantiles.


@given(data=st.data())
def test_one_quantile_on_one_sample_is_a_weighted_huber_loss(data: st.DataObject) -> None:
    """|τ − 1[u < 0]| times it."""
    x, y = data.draw(tensors((5, 1))), data.draw(tensors((5, 1)))
    level, delta = data.draw(levels), data.draw(reals(0.1, 5.0))
    loss = quantile_huber_loss(x, y, quantile=torch.full((1,), level).double(), delta=delta, reduction="none")
    weight = torch.where(y < x, 1 - level, level)
    close(loss, huber_loss(x, y, delta=delta, weight=weight, reduction="none").squeeze(-1), 1e-7)


@given(data=st.data())
def test_a_small_delta_gives_the_quantile_loss(data: st.DataObject) -> None:
    """Divided by δ: summed over the quantiles, with a mean over the samples."""
    x, y = data.draw(tensors((2, 3))), data.draw(tensors((2, 4)))
    narrow = quantile_huber_loss(x, y, delta=1e-8, divide_by_delta=True)
    close(quantile_huber_loss(x, y, delta=1e-8) / 1e-8, narrow)
    wanted = sum(
        quantile_loss(x[:, i : i + 1].expand_as(y), y, quantile=(i + 0.5) / 3, reduction="sum") / (2 * 4)
        for i in range(3)
    )
    close(narrow, torch.as_tensor(wanted), 1e-6)


@given(data=st.data())
def test_the_minimizer_is_the_quantile(data: st.DataObject) -> None:
    """Of the samples, for each level, and no other place costs less."""
    sample = data.draw(distinct((data.draw(st.integers(2, 10)),)))
    level = torch.tensor([data.draw(levels)], dtype=torch.float64)
    best = torch.quantile(sample, level, interpolation="lower")

    def cost(x: Tensor) -> Tensor:
        loss: Tensor = quantile_huber_loss(x, sample, quantile=level, delta=1e-9, divide_by_delta=True)
        return loss

    at = torch.sort(sample).values
    found = at[torch.stack([cost(x.unsqueeze(0)) for x in at]).argmin()]
    rank = (at <= found).double().mean()
    not_above(level.squeeze(), rank)
    not_above(rank - 1 / len(at), level.squeeze())
    assert best.shape == (1,)


@given(data=st.data())
def test_how_many_samples_or_quantiles_there_are(data: st.DataObject) -> None:
    """Samples twice change nothing; quantiles twice, at the same levels, count twice."""
    x, y = data.draw(tensors((2, 3))), data.draw(tensors((2, 4)))
    level = data.draw(tensors((2, 3), 0.05, 0.95))
    once = quantile_huber_loss(x, y, quantile=level)
    close(quantile_huber_loss(x, torch.cat([y, y], -1), quantile=level), once)
    close(quantile_huber_loss(torch.cat([x, x], -1), y, quantile=torch.cat([level, level], -1)), 2 * once)
    close(quantile_huber_loss(-x, -y, quantile=1 - level), once)


@given(data=st.data())
def test_levels_by_default_and_for_all(data: st.DataObject) -> None:
    """Midpoints; a vector is for every sample; critics share the levels of the batch."""
    x, y = data.draw(tensors((2, 3, 4))), data.draw(tensors((3, 5)))
    middle = torch.tensor([0.125, 0.375, 0.625, 0.875], dtype=torch.float64)
    plain = quantile_huber_loss(x, y, reduction="none")
    assert plain.shape == (2, 3)
    for level in (middle, middle.expand(3, 4), middle.expand(2, 3, 4)):
        close(quantile_huber_loss(x, y, quantile=level, reduction="none"), plain)
    own = data.draw(tensors((3, 4), 0.05, 0.95))
    each = [quantile_huber_loss(q, y, quantile=own, reduction="none") for q in x]
    close(quantile_huber_loss(x, y, quantile=own, reduction="none"), torch.stack(each))
    expected = ORACLES["quantile_huber_loss"](x.numpy(), y.numpy(), quantile=own.numpy())
    close(quantile_huber_loss(x, y, quantile=own, reduction="none"), expected)
    mask = torch.tensor([True, False, True])
    unknown = torch.where(mask.unsqueeze(-1), own, torch.nan)
    close(quantile_huber_loss(x, y, quantile=unknown, mask=mask), quantile_huber_loss(x, y, quantile=own, mask=mask))


@given(data=st.data())
def test_the_slope_is_bounded_by_delta(data: st.DataObject) -> None:
    """A target at infinity pulls as one far away does."""
    x = data.draw(tensors((2, 3)))
    delta = data.draw(reals(0.1, 5.0))
    y = torch.tensor([[1e9, 1e9], [math.inf, -math.inf]], dtype=torch.float64)
    (slope,) = gradients(lambda x: quantile_huber_loss(x, y, delta=delta, reduction="sum"), x)
    level = (torch.arange(3) + 0.5).double() / 3
    close(slope, torch.stack([-delta * level, delta / 2 - delta * level]))


def test_the_defaults() -> None:
    """σ of three quarters of a bin; δ one, and no division by it."""
    zero, support = torch.zeros(1, dtype=torch.float64), torch.linspace(-2, 2, 5, dtype=torch.float64)
    close(hl_gauss(zero, support), hl_gauss(zero, support, sigma_to_bin_ratio=0.75))
    assert not torch.equal(hl_gauss(zero, support), hl_gauss(zero, support, sigma_to_bin_ratio=1.0))
    close(quantile_huber_loss(zero, zero + 3), 0.5 * 2.5)
    close(quantile_huber_loss(zero, zero + 3, delta=2.0), 0.5 * 4.0)
    close(quantile_huber_loss(zero, zero + 3, delta=2.0, divide_by_delta=True), 0.5 * 2.0)


def test_levels_of_a_sample_that_is_masked_reach_no_gradient() -> None:
    """Of any other, nor of itself, nor their own."""
    x, y = torch.randn(2, 3, requires_grad=True), torch.randn(2, 4)
    level = torch.tensor([[0.2, 0.5, 0.9], [torch.nan] * 3], requires_grad=True)
    loss = quantile_huber_loss(x, y, quantile=level, mask=torch.tensor([True, False]))
    alone = x.detach()[:1].requires_grad_()
    expected = quantile_huber_loss(alone, y[:1], quantile=level[:1])
    close(loss, expected)
    slope, of_level = torch.autograd.grad(loss, [x, level])
    close(slope[:1], torch.autograd.grad(expected, alone)[0])
    assert slope[1].tolist() == of_level[1].tolist() == [0.0] * 3
