"""The laws of extraction: what the dual of the E-step settles at, how many are the best, which action is taken."""

from __future__ import annotations

import math
import re

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES, reduced
from strategies import batches, candidate_masks, distinct, fractions, masks, reals, temperatures, tensors
from torch import Tensor

from offline_losses import (
    advantage_indicator,
    best_of_n,
    mpo_temperature_loss,
    mpo_weights,
    nll_loss,
    soft_value,
    softmax_weights,
    top_fraction_weights,
)

NAN, INF = float("nan"), float("inf")


@st.composite
def samples(draw: st.DrawFn) -> Tensor:
    """Values [B, N] of samples, some of which do not exist, at least one in each row."""
    shape = (*draw(batches(1, 1)), draw(st.integers(1, 5)))
    return torch.where(draw(candidate_masks(shape)), draw(tensors(shape)), -INF)


# The E-step and its dual.


@given(q=samples(), t=temperatures, data=st.data())
def test_mpo_follows_the_paper(q: Tensor, t: float, data: st.DataObject) -> None:
    """Weights and dual equal their loops, with mask and weight of states."""
    close(mpo_weights(q, temperature=t), ORACLES["mpo_weights"](q.numpy(), temperature=t))
    log_t, bound = torch.tensor(math.log(t), dtype=torch.float64), data.draw(reals(0.01, 2.0))
    mask, weight = data.draw(masks(q.shape[:-1])), data.draw(tensors(q.shape[:-1], 0.0, 3.0))
    wanted = ORACLES["mpo_temperature_loss"](log_t.numpy(), q.numpy(), max_kl=bound)
    close(
        mpo_temperature_loss(log_t, q, max_kl=bound, mask=mask, weight=weight),
        reduced(wanted, mask=mask.numpy(), weight=weight.numpy()),
    )


@given(q=samples(), t=temperatures, bound=reals(0.01, 2.0))
def test_the_dual_slopes_by_the_bound_less_the_divergence(q: Tensor, t: float, bound: float) -> None:
    """In T; in log T that times T. The divergence is that of the weights from equal ones on what exists."""

    def loss(temperature: Tensor) -> Tensor:
        return mpo_temperature_loss(temperature.log(), q, max_kl=bound, reduction="none")

    w, n = mpo_weights(q, temperature=t), (q > -INF).sum(-1, keepdim=True)
    divergence = torch.where(w > 0, w * (w * n).log(), 0.0).sum(-1)
    (slope,) = gradients(loss, torch.tensor(t, dtype=torch.float64))
    close(slope, (bound - divergence).sum())
    (slope,) = gradients(
        lambda x: mpo_temperature_loss(x, q, max_kl=bound, reduction="none"), torch.tensor(t, dtype=torch.float64).log()
    )
    close(slope, t * (bound - divergence).sum())


@given(q=samples(), one=temperatures, other=temperatures, share=reals(0.0, 1.0))
def test_the_dual_is_convex_in_the_temperature(q: Tensor, one: float, other: float, share: float) -> None:
    """Between two temperatures it lies below the chord, so that there is one minimum."""

    def loss(temperature: float) -> Tensor:
        return mpo_temperature_loss(torch.tensor(math.log(temperature), dtype=torch.float64), q)

    not_above(loss(share * one + (1 - share) * other), share * loss(one) + (1 - share) * loss(other))


def test_the_temperature_settles_where_the_divergence_is_the_bound() -> None:
    """Gradient descent on log T ends with weights whose divergence, averaged over states, is the bound."""
    torch.manual_seed(0)
    q, log_t = 5 * torch.randn(8, 6, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for _ in range(400):
        (slope,) = gradients(lambda x: mpo_temperature_loss(x, q, max_kl=0.3), log_t)
        log_t = log_t - 0.1 * slope
    w = mpo_weights(q, temperature=log_t.exp())
    close((w * (6 * w).log()).sum(-1).mean(), 0.3, 1e-3)


@given(q=samples(), t=temperatures, shift=reals())
def test_the_dual_moves_with_q_and_does_not_count_copies(q: Tensor, t: float, shift: float) -> None:
    """A constant comes out, samples twice change nothing, and at a high temperature the mean is left."""
    log_t = torch.tensor(math.log(t), dtype=torch.float64)
    close(mpo_temperature_loss(log_t, q + shift), mpo_temperature_loss(log_t, q) + shift)
    close(mpo_temperature_loss(log_t, torch.cat([q, q], -1)), mpo_temperature_loss(log_t, q))
    high = mpo_temperature_loss(torch.tensor(20.0).double(), q, max_kl=1e-12, reduction="none")
    mean = torch.where(q > -INF, q, 0.0).sum(-1) / (q > -INF).sum(-1)
    close(high, mean, 1e-2)


def test_the_dual_in_a_state_without_samples_and_at_temperatures_beyond_the_float() -> None:
    """No samples, nothing to say; a temperature that underflows leaves the best sample, one that overflows no NaN."""
    log_t = torch.zeros((), requires_grad=True)
    loss = mpo_temperature_loss(log_t, torch.full((2, 3), -INF))
    loss.backward()
    assert loss == 0
    assert log_t.grad == 0
    q = torch.tensor([[1.0, 3.0, 2.0]])
    close(mpo_temperature_loss(torch.tensor(-1000.0), q), 3.0)
    for far in (-1000.0, 80.0, 1000.0):
        (slope,) = gradients(lambda x: mpo_temperature_loss(x, q), torch.tensor(far))
        assert not slope.isnan()
        assert not mpo_temperature_loss(torch.tensor(far), q).isnan()
    largest = math.log(torch.finfo(torch.float64).max)
    for far, meant in ((largest - 1.5, largest - 1.5), (largest + 1.5, largest - 1)):
        log_t = torch.tensor(far, dtype=torch.float64)
        close(mpo_temperature_loss(log_t, torch.ones(1, 1).double()) / math.exp(meant), 0.1)


def test_the_default_bound() -> None:
    """0.1 nats, and temperature 1."""
    close(mpo_temperature_loss(torch.tensor(0.0), torch.zeros(1, 2)), 0.1)
    close(mpo_weights(torch.tensor([0.0, 1.0])), torch.tensor([0.0, 1.0]).softmax(-1))


@given(data=st.data(), t=temperatures)
def test_imitating_the_samples_climbs_the_soft_value(data: st.DataObject, t: float) -> None:
    """The weighted likelihood's slope is that of the soft value of Q + T log pi, which the M-step improves."""
    q, log_prob = data.draw(tensors((3, 4))), data.draw(tensors((3, 4), -3.0, 0.0))
    w = mpo_weights(q + t * log_prob, temperature=t)
    (slope,) = gradients(lambda p: nll_loss(p, weight=4 * w), log_prob)
    (climb,) = gradients(lambda p: soft_value(q + t * p, temperature=t).mean() / t, log_prob)
    close(slope, -climb)


# The best of a batch.


@given(data=st.data(), fraction=fractions)
def test_the_best_are_counted_exactly(data: st.DataObject, fraction: float) -> None:
    """As many as the share says, rounded half up and at least one, of those that exist, whatever ties there are."""
    advantage = data.draw(tensors(data.draw(batches(1, 2)), -2.0, 2.0))
    mask = data.draw(masks(advantage.shape))
    for exists in (None, mask):
        n = advantage.numel() if exists is None else int(exists.sum())
        best = advantage_indicator(advantage, fraction=fraction, mask=exists)
        assert int(best.sum()) == min(n, max(1, math.floor(fraction * n + 0.5)))
        none_of = None if exists is None else exists.numpy()
        wanted = ORACLES["advantage_indicator"](advantage.numpy(), fraction=fraction, mask=none_of)
        assert (best.numpy() == wanted).all()
        weights = top_fraction_weights(advantage, fraction=fraction, mask=exists)
        close(weights, best.double())
        if exists is not None:
            assert not best[~exists].any()
        if best.any():
            left = ~best if exists is None else ~best & exists
            assert not left.any() or bool(advantage[left].max() <= advantage[best].min())


@given(data=st.data(), fraction=fractions)
def test_without_ties_the_order_does_not_matter(data: st.DataObject, fraction: float) -> None:
    """Nor does any rising function of the advantage."""
    advantage = data.draw(distinct((7,)))
    order = torch.tensor(data.draw(st.permutations(range(7))))
    best = advantage_indicator(advantage, fraction=fraction)
    assert best[order].equal(advantage_indicator(advantage[order], fraction=fraction))
    assert best.equal(advantage_indicator(advantage.exp(), fraction=fraction))


def test_equal_advantages_do_not_all_count() -> None:
    """A threshold at the quantile would take all of them; the earlier ones are taken."""
    assert advantage_indicator(torch.zeros(6), fraction=0.5).tolist() == [True] * 3 + [False] * 3
    assert advantage_indicator(torch.zeros(2, 3), fraction=0.5).tolist() == [[True] * 3, [False] * 3]
    assert top_fraction_weights(torch.zeros(10)).sum() == 5
    assert advantage_indicator(torch.zeros(10)).sum() == 3


def test_what_is_not_a_number_is_never_among_the_best() -> None:
    """It counts in the number of samples, and ranks behind minus infinity."""
    advantage = torch.tensor([NAN, -INF, INF, NAN])
    assert advantage_indicator(advantage, fraction=1.0).tolist() == [False, True, True, False]
    assert advantage_indicator(advantage, fraction=0.25).tolist() == [False, False, True, False]
    mask = torch.tensor([True, True, False, True])
    assert advantage_indicator(advantage, fraction=1.0, mask=mask).tolist() == [False, True, False, False]


def test_tasks_are_ranked_on_their_own() -> None:
    """One indicator for each, put together: the easier task does not take all places."""
    advantage, task = torch.tensor([10.0, 11.0, 0.0, 1.0]), torch.tensor([0, 0, 1, 1])
    of_each = [advantage_indicator(advantage, fraction=0.5, mask=task == k) for k in range(2)]
    assert (of_each[0] | of_each[1]).tolist() == [False, True, False, True]


@pytest.mark.parametrize("count", [3, 10, 1000])
def test_the_share_is_counted_in_double_precision(count: int) -> None:
    """A third of a million is not lost to the rounding of float32, and a share may be a tensor."""
    advantage = torch.arange(float(count))
    for fraction in (0.1, 0.3, 0.7):
        wanted = max(1, math.floor(fraction * count + 0.5))
        assert advantage_indicator(advantage, fraction=fraction).sum() == wanted
        assert advantage_indicator(advantage, fraction=torch.tensor(fraction).double()).sum() == wanted


# The best of the candidates.


@given(data=st.data())
def test_the_best_candidate_is_taken(data: st.DataObject) -> None:
    """Its value is the largest; the order of candidates does not matter; one candidate is taken as it is."""
    q = data.draw(distinct((3, 4)))
    action = data.draw(tensors((3, 4, 2)))
    chosen = best_of_n(q, action)
    for i in range(3):
        close(chosen[i], action[i, q[i].tolist().index(q[i].max())])
    order = torch.tensor(data.draw(st.permutations(range(4))))
    close(best_of_n(q[:, order], action[:, order]), chosen)
    close(best_of_n(q[:, :1], action[:, :1]), action[:, 0])
    cold = softmax_weights(q, temperature=1e-4)
    close((cold.unsqueeze(-1) * action).sum(-2), chosen)


@given(data=st.data())
def test_candidates_that_do_not_exist_are_not_taken(data: st.DataObject) -> None:
    """Nor does what stands in their place leak; a state without any has zeros, and no gradient."""
    exists = data.draw(candidate_masks((3, 4)))
    exists[0] = False
    q = torch.where(exists, data.draw(tensors((3, 4))), -INF)
    action = torch.where(exists.unsqueeze(-1), data.draw(tensors((3, 4, 2))), NAN)
    chosen = best_of_n(q, action)
    assert chosen[0].tolist() == [0, 0]
    assert chosen.isfinite().all()
    (slope,) = gradients(best_of_n, q, action)[1:]
    assert slope.isfinite().all()
    assert bool((slope.sum(-2)[1:] == 1).all())
    assert bool((slope[0] == 0).all())


def test_the_first_of_equal_candidates_is_taken() -> None:
    """As `argmax` and everyone's Python would."""
    assert best_of_n(torch.zeros(1, 3), torch.tensor([[[1.0], [2.0], [3.0]]])).item() == 1


def test_an_action_for_each_value_is_needed() -> None:
    """Candidates stand before dimensions."""
    for shape in [(4, 2), (4, 2, 3), (4,), (2, 4, 3, 1)]:
        message = "best_of_n: action: expected shape [4, 3, A] (an action for each value)"
        with pytest.raises(ValueError, match=re.escape(message)):
            best_of_n(torch.zeros(4, 3), torch.zeros(shape))
