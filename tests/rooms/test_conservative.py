"""The laws of conservatism: what is pushed down, what is held up, and how hard."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES, reduced
from strategies import (
    batches,
    candidate_masks,
    distinct,
    masks,
    reals,
    residuals,
    temperatures,
    tensors,
)
from torch import Tensor

from offline_losses import (
    calibrated_value,
    cql_lagrange_losses,
    cql_logsumexp_penalty,
    cql_max_penalty,
    ensemble_mean,
    softmax_weights,
)

NAN = float("nan")
INF = float("inf")


@st.composite
def critics(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates [*batch, N], the data action's value [*batch], log-densities [*batch, N]."""
    shape = draw(batches(1, 2, 1, 3))
    wide = (*shape, draw(st.integers(1, 5)))
    return draw(tensors(wide)), draw(tensors(shape)), draw(tensors(wide, -3.0, 3.0))


@given(x=critics(), t=temperatures, data=st.data())
def test_follows_the_paper(x: tuple[Tensor, Tensor, Tensor], t: float, data: st.DataObject) -> None:
    """Each penalty equals its loop, exact and importance-sampled, and its reduction."""
    q, at_data, density = x
    mask, weight = data.draw(masks(tuple(at_data.shape))), at_data.abs()
    for known in (None, density):
        wanted = ORACLES["cql_logsumexp_penalty"](
            q.numpy(),
            at_data.numpy(),
            log_density=None if known is None else known.numpy(),
            temperature=t,
        )
        knobs = {"log_density": known, "temperature": t}
        close(cql_logsumexp_penalty(q, at_data, reduction="none", **knobs), wanted)
        close(cql_logsumexp_penalty(q, at_data, **knobs), wanted.mean())
        tail = {"mask": mask, "weight": weight}
        masked = reduced(wanted, mask=mask.numpy(), weight=weight.numpy())
        close(cql_logsumexp_penalty(q, at_data, **knobs, **tail), masked)
    wanted = ORACLES["cql_max_penalty"](q.numpy(), at_data.numpy())
    close(cql_max_penalty(q, at_data, reduction="none"), wanted)
    close(cql_max_penalty(q, at_data, mask=mask), reduced(wanted, mask=mask.numpy()))


# The penalty.


@given(data=st.data(), t=temperatures)
def test_discrete_cql_is_cross_entropy(data: st.DataObject, t: float) -> None:
    """Over all actions, at T = 1: the cross-entropy of the softmax policy. At any T: T times it."""
    count, actions = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    q = data.draw(tensors((count, actions)))
    action = torch.tensor(data.draw(st.lists(st.integers(0, actions - 1), min_size=count, max_size=count)))
    at_data = q.gather(-1, action[:, None]).squeeze(-1)
    close(cql_logsumexp_penalty(q, at_data), F.cross_entropy(q, action))
    close(cql_logsumexp_penalty(q, at_data, temperature=t), t * F.cross_entropy(q / t, action))

    def penalty(q: Tensor) -> Tensor:
        return cql_logsumexp_penalty(q, q.gather(-1, action[:, None]).squeeze(-1))

    close(gradients(penalty, q)[0], gradients(lambda q: F.cross_entropy(q, action), q)[0])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_constant_critic_pays_the_volume(temperature: float) -> None:
    """Q = 3 on [-1, 1]^6, uniform proposals: the penalty is T log 64, whatever N is."""
    for count in (1, 10, 1000):
        q = torch.full((2, count), 3.0, dtype=torch.float64)
        penalty = cql_logsumexp_penalty(
            q, q[:, 0], log_density=torch.full_like(q, -6 * math.log(2.0)), temperature=temperature
        )
        close(penalty, temperature * math.log(64.0), 1e-12)


@given(x=critics(), t=temperatures)
def test_enumerating_all_actions_is_exact(x: tuple[Tensor, Tensor, Tensor], t: float) -> None:
    """Each of N actions once, at density 1 / N, is the exact penalty: the known constant is 0.

    At density 1 / volume it is larger by T (log volume - log N).
    """
    q, at_data, _ = x
    n = q.shape[-1]
    exact = cql_logsumexp_penalty(q, at_data, temperature=t)
    for log_volume in (math.log(n), 1.5):
        density = torch.full_like(q, -log_volume)
        sampled = cql_logsumexp_penalty(q, at_data, log_density=density, temperature=t)
        close(sampled, exact + t * (log_volume - math.log(n)))


@given(x=critics(), t=temperatures, sampled=st.booleans())
def test_candidates_go_down_and_the_data_goes_up(x: tuple[Tensor, Tensor, Tensor], t: float, sampled: bool) -> None:
    """Candidate gradients are >= 0 and sum to 1 (they are the weights); the data action's is -1."""
    q, at_data, density = x
    knobs = {"log_density": density if sampled else None, "temperature": t}
    down, up = gradients(lambda q, d: cql_logsumexp_penalty(q, d, reduction="sum", **knobs), q, at_data)
    assert bool((down >= 0).all())
    close(down.sum(-1), 1.0)
    close(down, softmax_weights(q, **knobs))
    close(up, -1.0)


@given(x=critics(), t=temperatures, sampled=st.booleans(), c=reals())
def test_only_differences_matter(x: tuple[Tensor, Tensor, Tensor], t: float, sampled: bool, c: float) -> None:
    """A constant added to the whole critic changes no penalty."""
    q, at_data, density = x
    knobs = {"log_density": density if sampled else None, "temperature": t}
    same = cql_logsumexp_penalty(q, at_data, **knobs)
    close(cql_logsumexp_penalty(q + c, at_data + c, **knobs), same)
    close(cql_max_penalty(q + c, at_data + c), cql_max_penalty(q, at_data))


@given(x=critics(), t=temperatures, sampled=st.booleans(), a=reals(0.1, 5.0))
def test_units(x: tuple[Tensor, Tensor, Tensor], t: float, sampled: bool, a: float) -> None:
    """L(a Q, a T) = a L(Q, T) with the proposal density fixed: rewards in other units."""
    q, at_data, density = x
    known = density if sampled else None
    large = cql_logsumexp_penalty(a * q, a * at_data, log_density=known, temperature=a * t)
    small = cql_logsumexp_penalty(q, at_data, log_density=known, temperature=t)
    close(large, a * small, 1e-8)
    close(cql_max_penalty(a * q, a * at_data), a * cql_max_penalty(q, at_data))


@given(x=critics(), t=temperatures, sampled=st.booleans(), data=st.data())
def test_the_order_of_the_candidates(
    x: tuple[Tensor, Tensor, Tensor], t: float, sampled: bool, data: st.DataObject
) -> None:
    """Candidates are a set: any order, the same penalty."""
    q, at_data, density = x
    order = torch.tensor(data.draw(st.permutations(range(q.shape[-1]))))
    one = {"log_density": density if sampled else None, "temperature": t}
    two = {"log_density": density[..., order] if sampled else None, "temperature": t}
    close(
        cql_logsumexp_penalty(q[..., order], at_data, **two),
        cql_logsumexp_penalty(q, at_data, **one),
    )
    close(cql_max_penalty(q[..., order], at_data), cql_max_penalty(q, at_data))


@given(data=st.data(), t=temperatures, sampled=st.booleans())
def test_one_row_never_moves_another(data: st.DataObject, t: float, sampled: bool) -> None:
    """States are penalized apart: no value and no gradient crosses from one row to the next."""
    n = data.draw(st.integers(1, 4))
    q, at_data = data.draw(distinct((3, n))), data.draw(tensors((3,)))
    density = data.draw(tensors((3, n), -3.0, 3.0)) if sampled else None
    for of in (
        lambda q, d: cql_logsumexp_penalty(q, d, log_density=density, temperature=t, reduction="none"),
        lambda q, d: cql_max_penalty(q, d, reduction="none"),
    ):
        moved = q.clone()
        moved[1:] += 1.0
        close(of(moved, at_data)[0], of(q, at_data)[0])
        down, up = gradients(lambda q, d, of=of: of(q, d)[0], q, at_data)
        assert bool((down[1:] == 0).all())
        assert bool((up[1:] == 0).all())


@given(data=st.data(), t=temperatures)
def test_bounds_of_the_penalties(data: st.DataObject, t: float) -> None:
    """max - Q <= T lse - Q <= max - Q + T log N; both are >= 0 if the data action is a candidate."""
    shape = (*data.draw(batches(1, 2, 1, 3)), data.draw(st.integers(1, 5)))
    q = data.draw(tensors(shape))
    at_data = q[..., 0]
    soft = cql_logsumexp_penalty(q, at_data, temperature=t, reduction="none")
    hard = cql_max_penalty(q, at_data, reduction="none")
    assert bool((hard >= 0).all())
    not_above(hard, soft)
    not_above(soft, hard + t * math.log(shape[-1]))
    cold = cql_logsumexp_penalty(q, at_data, temperature=1e-5, reduction="none")
    close(cold, hard, 1e-4)


@given(data=st.data())
def test_the_max_penalty_pushes_the_best_candidate(data: st.DataObject) -> None:
    """The whole gradient falls on the highest candidate and, negative, on the data action."""
    q = data.draw(distinct((*data.draw(batches(1, 2, 1, 3)), data.draw(st.integers(1, 4)))))
    down, up = gradients(lambda q, d: cql_max_penalty(q, d, reduction="sum"), q, torch.zeros_like(q[..., 0]))
    close(down, F.one_hot(q.argmax(-1), q.shape[-1]).double())
    close(up, -1.0)


@given(data=st.data(), t=temperatures)
def test_an_impossible_candidate_is_not_pushed(data: st.DataObject, t: float) -> None:
    """A candidate at -inf is absent: the penalty of the others, and a finite, zero gradient."""
    n = data.draw(st.integers(1, 4))
    q, at_data = data.draw(distinct((n,))), data.draw(tensors(()))
    exists = data.draw(candidate_masks((n,)))
    masked = torch.where(exists, q, -INF)
    for of in (
        lambda q: cql_logsumexp_penalty(q, at_data, temperature=t),
        lambda q: cql_max_penalty(q, at_data),
    ):
        close(of(masked), of(q[exists]))
        (down,) = gradients(of, masked)
        assert bool((down[~exists] == 0).all())
        close(down.sum(), 1.0)


@given(data=st.data(), t=temperatures)
def test_a_masked_row(data: st.DataObject, t: float) -> None:
    """A masked state counts for nothing though it is NaN."""
    q, at_data = data.draw(distinct((3, 2))), data.draw(tensors((3,)))
    mask = torch.tensor([True, False, True])
    poisoned = torch.where(mask[:, None], q, NAN)
    at_poison = torch.where(mask, at_data, NAN)
    for of in (
        lambda q, d, **tail: cql_logsumexp_penalty(q, d, temperature=t, **tail),
        lambda q, d, **tail: cql_max_penalty(q, d, **tail),
    ):
        close(of(poisoned, at_poison, mask=mask), of(q[mask], at_data[mask]))
        down, up = gradients(lambda q, d, of=of: of(q, d, mask=mask), poisoned, at_poison)
        close(up, torch.where(mask, -0.5, 0.0).double())
        assert bool((down[1] == 0).all())
        close(down.sum(), 1.0)
    knob = torch.tensor(t, dtype=torch.float64)
    (slope,) = gradients(lambda x: cql_logsumexp_penalty(poisoned, at_poison, temperature=x, mask=mask), knob)
    (plain,) = gradients(lambda x: cql_logsumexp_penalty(q[mask], at_data[mask], temperature=x), knob)
    close(slope, plain)


@given(data=st.data(), t=temperatures, sampled=st.booleans())
def test_a_state_without_candidates_pushes_nothing(data: st.DataObject, t: float, sampled: bool) -> None:
    """Its penalty is 0 and no value moves, not even the data's; the other states keep theirs."""
    q, at_data = data.draw(distinct((3, 2))), data.draw(tensors((3,)))
    density = data.draw(tensors((3, 2), -3.0, 3.0)) if sampled else None
    q[1] = -INF
    full = torch.tensor([True, False, True])
    for of in (
        lambda q, d, **tail: cql_logsumexp_penalty(q, d, log_density=density, temperature=t, **tail),
        lambda q, d, **tail: cql_max_penalty(q, d, **tail),
    ):
        each = of(q, at_data, reduction="none")
        assert each[1] == 0
        close(each[full], of(torch.where(full[:, None], q, 0.0), at_data, reduction="none")[full])
        close(of(q, at_data), each.sum() / 3)
        down, up = gradients(lambda q, d, of=of: of(q, d), q, at_data)
        close(down.sum(-1), full.double() / 3)
        close(up, -full.double() / 3)
        assert bool((down[1] == 0).all())


@given(data=st.data(), t=temperatures, sampled=st.booleans())
def test_critics_are_a_leading_axis(data: st.DataObject, t: float, sampled: bool) -> None:
    """E critics on the same proposals: the mean of E penalties, not the penalty of the mean."""
    shape = data.draw(batches(1, 1, 1, 3))
    wide = (*shape, data.draw(st.integers(1, 4)))
    q, at_data = data.draw(tensors((2, *wide))), data.draw(tensors((2, *shape)))
    density = data.draw(tensors(wide, -3.0, 3.0)) if sampled else None
    mask = data.draw(masks(shape))
    knobs = {"log_density": density, "temperature": t}
    apart = [cql_logsumexp_penalty(q[e], at_data[e], **knobs, mask=mask) for e in range(2)]
    both = mask.expand(2, *shape)  # only a density without critics tells that the first axis holds them
    for each in (mask, both) if sampled else (both,):
        close(cql_logsumexp_penalty(q, at_data, **knobs, mask=each), sum(apart) / 2)
    apart = [cql_max_penalty(q[e], at_data[e], mask=mask) for e in range(2)]
    close(cql_max_penalty(q, at_data, mask=both), sum(apart) / 2)


@pytest.mark.parametrize("rows", [3, 4], ids=["B != T", "B == T"])
def test_a_weight_for_each_sequence_is_not_one_for_each_step(rows: int) -> None:
    """[B] on [B, T] is refused, where B equals T too, and [T] as well; expanded it is right."""
    q, at_data, log_multiplier = torch.randn(rows, 4, 7), torch.randn(rows, 4), torch.tensor(0.0)
    calls = {
        "cql_logsumexp_penalty": lambda **tail: cql_logsumexp_penalty(q, at_data, **tail),
        "cql_max_penalty": lambda **tail: cql_max_penalty(q, at_data, **tail),
        "cql_lagrange_losses": lambda **tail: cql_lagrange_losses(at_data, log_multiplier, **tail).penalty,
    }
    for name, call in calls.items():
        for each in (torch.rand(rows), torch.rand(4)):
            for tail in ({"weight": each}, {"mask": each > 0.5}):
                wanted = rf"{name}: \w+: expected shape \[{rows}, 4\], got.+expand\({rows}, 4\)"
                with pytest.raises(ValueError, match=wanted):
                    call(**tail)
        weight = torch.rand(rows)
        wanted = (call(reduction="none") * weight[:, None]).mean()
        close(call(weight=weight.unsqueeze(-1).expand(rows, 4)), wanted, 1e-5)


def test_proposals_reach_the_penalty_only_through_their_arguments() -> None:
    """Quantities passed in are differentiated: q with weight 1, the density with -T; weight is not."""
    q = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    density = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    at_data = torch.randn(3, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(3, dtype=torch.float64, requires_grad=True)
    cql_logsumexp_penalty(q, at_data, log_density=density, temperature=0.5, weight=weight).backward()
    assert q.grad is not None
    assert density.grad is not None
    close(density.grad, -0.5 * q.grad)
    assert weight.grad is None


def test_shapes_are_told_apart() -> None:
    """[B, N] against [B, 1], candidates without their axis, foreign densities: errors."""
    q, at_data = torch.zeros(5, 3), torch.zeros(5)
    for wrong in (at_data[:, None], torch.zeros(4), torch.zeros(())):
        with pytest.raises(ValueError, match="cql_logsumexp_penalty"):
            cql_logsumexp_penalty(q, wrong)
        with pytest.raises(ValueError, match="cql_max_penalty"):
            cql_max_penalty(q, wrong)
    for density in (torch.zeros(5, 1), torch.zeros(5), torch.zeros(5, 3, 1)):
        with pytest.raises(ValueError, match="log_density"):
            cql_logsumexp_penalty(q, at_data, log_density=density)


# The Lagrange pair.


@st.composite
def duals(draw: st.DrawFn) -> tuple[Tensor, Tensor, float, float]:
    """gap [*batch], log multiplier, threshold, penalty weight."""
    gap = draw(tensors(draw(batches(0, 2))))
    log_multiplier = torch.tensor(draw(reals(-3.0, 3.0)), dtype=torch.float64)
    return gap, log_multiplier, draw(reals(-5.0, 5.0)), draw(reals(0.1, 5.0))


@pytest.mark.parametrize("on", ["weighted_gap", "gap"])
@given(x=duals(), data=st.data())
def test_both_losses_follow_the_paper(on: str, x: tuple[Tensor, Tensor, float, float], data: st.DataObject) -> None:
    """Penalty and dual equal their loops, reduced like any loss; the dual is minus the penalty."""
    gap, log_multiplier, threshold, weight = x
    knobs = {
        "threshold": threshold,
        "penalty_weight": weight,
        "threshold_on": on,
        "max_multiplier": 2.0,
    }
    wanted = ORACLES["cql_lagrange_losses"](gap.numpy(), log_multiplier.numpy(), **knobs)
    got = cql_lagrange_losses(gap, log_multiplier, reduction="none", **knobs)
    close(got.penalty, wanted[0])
    close(got.dual, wanted[1])
    close(got.dual, -got.penalty)
    mask = data.draw(masks(tuple(gap.shape)))
    got = cql_lagrange_losses(gap, log_multiplier, mask=mask, **knobs)
    close(got.penalty, reduced(wanted[0], mask=mask.numpy()))
    close(got.dual, reduced(wanted[1], mask=mask.numpy()))


@given(x=duals())
def test_each_player_moves_its_own_piece(x: tuple[Tensor, Tensor, float, float]) -> None:
    """The penalty moves the critic alone, by multiplier times weight; the dual the multiplier alone."""
    gap, log_multiplier, threshold, weight = x
    knobs = {"threshold": threshold, "penalty_weight": weight}
    for on in ("weighted_gap", "gap"):
        to_gap, to_dual = gradients(
            lambda g, m, on=on: cql_lagrange_losses(g, m, threshold_on=on, **knobs).penalty,
            gap,
            log_multiplier,
        )
        close(to_gap, float(log_multiplier.exp()) * weight / gap.numel())
        assert to_dual == 0
        to_gap, to_dual = gradients(
            lambda g, m, on=on: cql_lagrange_losses(g, m, threshold_on=on, **knobs).dual,
            gap,
            log_multiplier,
        )
        assert bool((to_gap == 0).all())
        close(to_dual, cql_lagrange_losses(gap, log_multiplier, threshold_on=on, **knobs).dual)


@pytest.mark.parametrize("on", ["weighted_gap", "gap"])
@given(data=st.data(), weight=reals(0.1, 5.0), threshold=reals(-5.0, 5.0))
def test_a_gap_above_the_threshold_raises_the_multiplier(
    on: str, data: st.DataObject, weight: float, threshold: float
) -> None:
    """One descent step on the dual: up above the threshold, down below it."""
    excess = data.draw(residuals((1,)))
    gap = (excess + threshold) / weight if on == "weighted_gap" else excess / weight + threshold
    start = torch.tensor(data.draw(reals(-3.0, 3.0)), dtype=torch.float64)
    (slope,) = gradients(
        lambda m: cql_lagrange_losses(gap, m, threshold=threshold, penalty_weight=weight, threshold_on=on).dual,
        start,
    )
    after = start - 0.1 * slope
    assert bool((after > start) if excess > 0 else (after < start))


def test_dual_ascent_finds_the_multiplier() -> None:
    """A critic with gap g - m at multiplier m settles where the weighted gap is the threshold."""
    log_multiplier = torch.zeros((), dtype=torch.float64)
    for _ in range(100):
        gap = (8.0 - log_multiplier.exp())[None]
        (slope,) = gradients(lambda m, gap=gap: cql_lagrange_losses(gap, m, threshold=5.0).dual, log_multiplier)
        log_multiplier = log_multiplier - 0.05 * slope
    close(log_multiplier.exp(), 3.0, 1e-3)


@given(x=duals())
def test_the_two_conventions(x: tuple[Tensor, Tensor, float, float]) -> None:
    """Thresholds on the weighted gap and on the gap agree at weight 1; else at w times the threshold."""
    gap, log_multiplier, threshold, weight = x
    one, two = (
        cql_lagrange_losses(gap, log_multiplier, threshold=threshold, threshold_on=on) for on in ("weighted_gap", "gap")
    )
    close(one.penalty, two.penalty)
    close(one.dual, two.dual)
    on_gap = cql_lagrange_losses(gap, log_multiplier, threshold=threshold, penalty_weight=weight, threshold_on="gap")
    on_weighted = cql_lagrange_losses(gap, log_multiplier, threshold=weight * threshold, penalty_weight=weight)
    close(on_gap.penalty, on_weighted.penalty)
    close(on_gap.dual, on_weighted.dual)


@pytest.mark.parametrize("log_multiplier", [math.log(10.0) + 1e-6, 5.0, 50.0, 1000.0])
def test_a_clipped_multiplier_can_come_down(log_multiplier: float) -> None:
    """Above max_multiplier the losses use the clip, and the dual still pulls the logarithm down."""
    gap = torch.tensor([1.0], dtype=torch.float64)
    start = torch.tensor(log_multiplier, dtype=torch.float64)
    knobs = {"threshold": 5.0, "max_multiplier": 10.0}
    losses = cql_lagrange_losses(gap, start, **knobs)
    close(losses.penalty, 10.0 * (1.0 - 5.0), 1e-5)
    close(losses.dual, 10.0 * (5.0 - 1.0), 1e-5)
    (slope,) = gradients(lambda m: cql_lagrange_losses(gap, m, **knobs).dual, start)
    assert bool(slope.isfinite())
    assert slope > 0


@pytest.mark.parametrize("on", ["weighted_gap", "gap"])
def test_masked_gaps_move_nobody(on: str) -> None:
    """NaN behind the mask reaches neither loss nor the gradient of gap, multiplier, weight, threshold."""
    gap = torch.tensor([7.0, NAN, 1.0], dtype=torch.float64)
    share = torch.tensor([0.5, NAN, 2.0], dtype=torch.float64)
    mask = torch.tensor([True, False, True])
    knobs = [torch.tensor(v, dtype=torch.float64) for v in (0.3, 2.0, 5.0)]

    def of(tail: dict[str, Tensor], gap: Tensor, log_multiplier: Tensor, *knobs: Tensor) -> Tensor:
        weight, threshold = knobs
        return torch.stack(
            cql_lagrange_losses(
                gap, log_multiplier, threshold=threshold, penalty_weight=weight, threshold_on=on, **tail
            )
        )

    full, kept = {"mask": mask, "weight": share}, {"weight": share[mask]}
    close(of(full, gap, *knobs), of(kept, gap[mask], *knobs))
    dual = gradients(lambda *x: of(full, *x)[1], gap, *knobs)
    close(dual[1], gradients(lambda *x: of(kept, *x)[1], gap[mask], *knobs)[1])
    slopes = gradients(lambda *x: of(full, *x), gap, *knobs)
    plain = gradients(lambda *x: of(kept, *x), gap[mask], *knobs)
    assert slopes[0][1] == 0
    close(slopes[0][mask], plain[0])
    for slope, wanted in zip(slopes[1:], plain[1:], strict=True):
        close(slope, wanted)


def test_the_lagrange_defaults() -> None:
    """Threshold 5 on the weighted gap, weight 1, multiplier at most a million."""
    gap = torch.tensor([7.0], dtype=torch.float64)
    zero = torch.tensor(0.0, dtype=torch.float64)
    close(cql_lagrange_losses(gap, zero).penalty, 2.0)
    close(cql_lagrange_losses(gap, zero, penalty_weight=2.0).penalty, 9.0)
    close(cql_lagrange_losses(gap, zero + 100.0).penalty, 2e6)
    with pytest.raises(ValueError, match="threshold_on"):
        cql_lagrange_losses(gap, zero, threshold_on="both")


@given(x=critics(), t=temperatures)
def test_a_fixed_multiplier_is_a_weighted_penalty(x: tuple[Tensor, Tensor, Tensor], t: float) -> None:
    """With the threshold at 0, the Lagrange penalty's gradient is the plain penalty's, times alpha'."""
    q, at_data, _ = x
    log_multiplier = torch.tensor(math.log(3.0), dtype=torch.float64)

    def lagrange(q: Tensor) -> Tensor:
        gap = cql_logsumexp_penalty(q, at_data, temperature=t, reduction="none")
        return cql_lagrange_losses(gap, log_multiplier, threshold=0.0, penalty_weight=2.0).penalty

    (plain,) = gradients(lambda q: cql_logsumexp_penalty(q, at_data, temperature=t), q)
    close(gradients(lagrange, q)[0], 6.0 * plain)


# Calibration.


@given(x=critics(), data=st.data())
def test_calibration_is_a_lower_bound(x: tuple[Tensor, Tensor, Tensor], data: st.DataObject) -> None:
    """max(Q, reference): never below either, equal to one of them, and idempotent."""
    q, _, _ = x
    reference = data.draw(tensors(tuple(q.shape[:-1])))
    got = calibrated_value(q, reference)
    close(got, ORACLES["calibrated_value"](q.numpy(), reference.numpy()))
    wide = reference[..., None].expand_as(q)
    not_above(q, got)
    not_above(wide, got)
    assert bool(((got == q) | (got == wide)).all())
    close(calibrated_value(got, reference), got)
    close(calibrated_value(q, torch.full_like(reference, -INF)), q)
    close(calibrated_value(q, q.amax(-1) + 1.0), (q.amax(-1) + 1.0)[..., None].expand_as(q))


@given(data=st.data())
def test_a_calibrated_candidate_is_not_pushed_below_its_reference(data: st.DataObject) -> None:
    """Candidates under the reference receive no gradient from the penalty; the others all of it."""
    values = data.draw(distinct((3, 5)))
    q, reference = values[:, :4], values[:, 4]

    def penalty(q: Tensor) -> Tensor:
        bounded = calibrated_value(q, reference)
        return cql_logsumexp_penalty(bounded, reference, reduction="sum")

    (down,) = gradients(penalty, q)
    under = q < reference[:, None]
    assert bool((down[under] == 0).all())
    close(down[~under], softmax_weights(calibrated_value(q, reference))[~under])


@given(x=critics(), data=st.data())
def test_calibration_of_several_critics(x: tuple[Tensor, Tensor, Tensor], data: st.DataObject) -> None:
    """One reference [*batch] bounds every critic of [E, *batch, N]."""
    q, reference, _ = x
    both = torch.stack([q, data.draw(tensors(tuple(q.shape)))])
    got = calibrated_value(both, reference)
    close(got, torch.stack([calibrated_value(part, reference) for part in both]))
    not_above(ensemble_mean(both), ensemble_mean(got))


def test_a_multiplier_of_zero() -> None:
    """log 0 is minus infinity: no penalty and no slope, with and without a bound."""
    log_multiplier = torch.tensor(-math.inf, requires_grad=True)
    gap = torch.tensor([7.0, 9.0], requires_grad=True)
    for bound in (1e6, math.inf):
        losses = cql_lagrange_losses(gap, log_multiplier, max_multiplier=bound)
        assert losses.penalty == 0
        assert losses.dual == 0
        slopes = torch.autograd.grad(losses.penalty + losses.dual, (gap, log_multiplier))
        assert all(bool((slope == 0).all()) for slope in slopes)


def test_no_bound_on_the_multiplier() -> None:
    """An infinite bound leaves the exponential as it is."""
    gap, log_multiplier = torch.tensor([6.0], dtype=torch.float64), torch.tensor(30.0, dtype=torch.float64)
    close(cql_lagrange_losses(gap, log_multiplier, max_multiplier=math.inf).penalty, math.exp(30.0))


@pytest.mark.parametrize("density", [False, True], ids=["exact", "sampled"])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_candidates_masked_by_the_lowest_float(density: bool, temperature: float) -> None:
    """What discrete environments put in place of impossible actions is as good as minus infinity."""
    q, at_data = torch.randn(6, 5), torch.randn(6)
    log_density = torch.randn(6, 5) if density else None
    t = torch.tensor(temperature)
    found = []
    for lowest in (torch.finfo(torch.float32).min, -math.inf):
        masked = q.clone()
        masked[:, 3] = lowest
        of = lambda x, y, t: cql_logsumexp_penalty(x, y, log_density=log_density, temperature=t)  # noqa: E731
        found.append([of(masked, at_data, t), *gradients(of, masked, at_data, t)])
    for one, other in zip(*found, strict=True):
        assert bool(one.isfinite().all())
        close(one, other, 1e-6)


def test_a_missing_candidate_is_not_calibrated() -> None:
    """Minus infinity stays, and no gradient reaches the bound from there: the soft maximum must not count it."""
    q = torch.tensor([[1.0, -math.inf, 3.0]], requires_grad=True)
    bound = torch.tensor([2.0], requires_grad=True)
    value = calibrated_value(q, bound)
    assert value.tolist() == [[2.0, -math.inf, 3.0]]
    penalty = cql_logsumexp_penalty(value, torch.zeros(1))
    slopes = torch.autograd.grad(penalty, (q, bound))
    close(penalty, torch.tensor([2.0, 3.0]).logsumexp(0), 1e-6)
    close(slopes[0], torch.tensor([[0.0, 0.0, torch.tensor(1.0).sigmoid()]]), 1e-6)
    close(slopes[1], torch.tensor([torch.tensor(-1.0).sigmoid()]), 1e-6)


def test_the_bound_on_the_multiplier_may_be_small() -> None:
    """Below one too; and an infinite multiplier without a bound is infinite."""
    gap, zero = torch.tensor([7.0], dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    close(cql_lagrange_losses(gap, zero, max_multiplier=0.25).penalty, 0.5)
    losses = cql_lagrange_losses(gap, zero + INF, max_multiplier=math.inf)
    assert (losses.penalty, losses.dual) == (INF, -INF)


def test_a_temperature_for_each_sample_of_all_critics() -> None:
    """With densities of the candidates, which no critic changes."""
    q, at_data = torch.randn(5, 2, 3, 4, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    log_density, t = torch.randn(2, 3, 4, dtype=torch.float64), 0.5 + torch.rand(2, 3, dtype=torch.float64)
    knobs = {"log_density": log_density, "temperature": t, "reduction": "none"}
    together = cql_logsumexp_penalty(q, at_data, **knobs)
    for e in range(5):
        close(together[e], cql_logsumexp_penalty(q[e], at_data[e], **knobs))
