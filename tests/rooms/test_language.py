"""The laws of a policy beside its reference: slopes at equality, minimizers, exact partition functions, consistency."""

from __future__ import annotations

import math
from typing import Any, get_args, get_type_hints

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from scipy.integrate import quad
from strategies import masks, reals, temperatures, tensors
from torch import Tensor

import offline_losses.language
from offline_losses import (
    n_step_return,
    nll_loss,
    path_consistency_loss,
    preference_loss,
    reward_regression_loss,
    sequence_log_prob,
    soft_value,
)

SMOOTHED = ["cdpo", "robust_dpo", "exo"]
OF_THE_MARGIN = ["dpo", "cdpo", "robust_dpo", "exo", "ipo", "hinge"]
OF_EACH = ["nca", "bco", "sppo", "apo_zero", "apo_down"]
KINDS = [*OF_THE_MARGIN, *OF_EACH]
each_kind = pytest.mark.parametrize("kind", KINDS)
weights = reals(0.05, 2.0)


def options(kind: str, kl_weight: float = 0.5) -> dict[str, Any]:
    """What a kind needs."""
    return {"kind": kind, "kl_weight": kl_weight, **({"label_smoothing": 0.1} if kind in SMOOTHED else {})}


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


@each_kind
@given(chosen=tensors((4,)), rejected=tensors((4,)), kl_weight=weights)
def test_preference_follows_the_papers(kind: str, chosen: Tensor, rejected: Tensor, kl_weight: float) -> None:
    """Each kind is its oracle, pair by pair."""
    found = preference_loss(chosen, rejected, **options(kind, kl_weight), reduction="none")
    close(found, ORACLES["preference_loss"](chosen.numpy(), rejected.numpy(), **options(kind, kl_weight)))


@each_kind
@given(chosen=tensors((3,)), rejected=tensors((3,)), shift=reals())
def test_who_sees_the_margin_alone(kind: str, chosen: Tensor, rejected: Tensor, shift: float) -> None:
    """Six kinds do not notice that both answers become less likely; the others do, and gradients say so."""
    loss = preference_loss(chosen, rejected, **options(kind))
    moved = preference_loss(chosen + shift, rejected + shift, **options(kind))
    won, lost = gradients(lambda *x: preference_loss(*x, **options(kind)), chosen, rejected)
    if kind in OF_THE_MARGIN:
        close(moved, loss)
        close(won, -lost)
    else:
        at, beside = ((number(1.0 + x), number(0.3 + x)) for x in (0.0, 1.0))
        assert (preference_loss(*at, **options(kind)) - preference_loss(*beside, **options(kind))).abs() > 1e-3


@pytest.mark.parametrize(
    ("kind", "won", "lost"),
    [
        ("dpo", -0.5, 0.5),
        ("cdpo", -0.4, 0.4),
        ("robust_dpo", -0.5 / 0.8, 0.5 / 0.8),
        ("exo", -math.log(0.9 / 0.1) / 4, math.log(0.9 / 0.1) / 4),
        ("ipo", -4.0, 4.0),
        ("hinge", -1.0, 1.0),
        ("nca", -0.25, 0.25),
        ("bco", -0.5, 0.5),
        ("sppo", -4.0, 4.0),
        ("apo_zero", -0.25, 0.25),
        ("apo_down", 0.0, 0.25),
    ],
)
def test_the_pull_where_policy_and_reference_agree(kind: str, won: float, lost: float) -> None:
    """By hand, at log-ratios of zero, in units of the weight: DPO's is one half of it."""
    slopes = gradients(lambda *x: preference_loss(*x, **options(kind)), number(0.0), number(0.0))
    close(slopes[0], 0.5 * won)
    close(slopes[1], 0.5 * lost)


@given(kl_weight=weights)
def test_minimizers_of_the_margin(kl_weight: float) -> None:
    """IPO's is 1 / 2 beta; with a share of wrong labels cDPO and EXO stop at odds of (1 - e) / e; SPPO halves IPO's."""

    def slope(kind: str, chosen: float, rejected: float) -> tuple[Tensor, ...]:
        loss = options(kind, kl_weight)
        return gradients(lambda *x: preference_loss(*x, **loss), number(chosen), number(rejected))

    odds = math.log(0.9 / 0.1) / kl_weight
    for kind, margin in (("ipo", 0.5 / kl_weight), ("cdpo", odds), ("exo", odds)):
        for x in slope(kind, margin, 0.0):
            close(x, 0.0, 1e-8)
    for x in slope("sppo", 0.5 / kl_weight, -0.5 / kl_weight):
        close(x, 0.0)


@given(chosen=tensors((5,)), rejected=tensors((5,)), e=reals(0.0, 0.45))
def test_smoothed_kinds_and_dpo(chosen: Tensor, rejected: Tensor, e: float) -> None:
    """Without smoothing all are DPO; cDPO is the mean over flipped labels; of robust DPO that mean is DPO again."""
    dpo, flipped = (preference_loss(*x, reduction="none") for x in ((chosen, rejected), (rejected, chosen)))
    for kind in ("cdpo", "robust_dpo"):
        close(preference_loss(chosen, rejected, kind=kind, label_smoothing=0.0, reduction="none"), dpo)
    cdpo = preference_loss(chosen, rejected, kind="cdpo", label_smoothing=e, reduction="none")
    close(cdpo, (1 - e) * dpo + e * flipped)
    robust, wrong = (
        preference_loss(*x, kind="robust_dpo", label_smoothing=e, reduction="none")
        for x in ((chosen, rejected), (rejected, chosen))
    )
    close((1 - e) * robust + e * wrong, dpo)


@each_kind
def test_smoothing_is_refused_where_it_is_not_used(kind: str) -> None:
    """And asked for where it is; never ignored."""
    x = torch.zeros(2)
    if kind in SMOOTHED:
        with pytest.raises(TypeError, match=f"label_smoothing: expected a number for kind '{kind}', got None"):
            preference_loss(x, x, kind=kind)
    else:
        with pytest.raises(ValueError, match=f"label_smoothing: expected None for kind '{kind}', got 0.1"):
            preference_loss(x, x, kind=kind, label_smoothing=0.1)
    for e in (0.5, *([0.0] if kind == "exo" else [])):
        if kind in SMOOTHED:
            with pytest.raises(ValueError, match="label_smoothing: expected a number in"):
                preference_loss(x, x, kind=kind, label_smoothing=e)


def test_the_kinds_of_the_signature_are_those_of_the_room() -> None:
    """No kind is forgotten in either."""
    hint = get_type_hints(preference_loss)["kind"]
    assert set(get_args(hint)) == set(KINDS) == set(offline_losses.language.KINDS)


@each_kind
def test_extreme_ratios_are_finite_or_truly_infinite(kind: str) -> None:
    """No kind is NaN where one answer is impossible; first and second derivatives are finite at large margins."""
    for won, lost in ((math.inf, 0.0), (-math.inf, 0.0), (0.0, math.inf), (0.0, -math.inf), (1e5, -1e5), (-1e5, 1e5)):
        c, r = (number(x).requires_grad_() for x in (won, lost))
        loss = preference_loss(c, r, **options(kind))
        assert not loss.isnan(), (won, lost)
        if math.isfinite(won + lost):
            first = torch.autograd.grad(loss, (c, r), create_graph=True)
            assert all(x.isfinite() for x in first)
            second = torch.autograd.grad(sum(x.square() for x in first), (c, r), allow_unused=True)
            assert all(x is None or x.isfinite() for x in second)


def test_two_optimal_answers_of_dpo_are_the_tilted_reference() -> None:
    """Over answers preferred by Bradley-Terry on a reward, the minimizer is the reference times e^(reward / beta)."""
    reward = torch.tensor([0.0, 1.0, -0.5], dtype=torch.float64)
    kl_weight, slope = 0.7, torch.zeros(3, dtype=torch.float64)
    wins = (reward.unsqueeze(1) - reward).sigmoid()  # [i, j]: how often i is preferred to j
    first, second = (x.flatten() for x in torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"))

    def expected(ratio: Tensor) -> Tensor:
        loss = preference_loss(ratio[first], ratio[second], kl_weight=kl_weight, reduction="none")
        return (wins[first, second] * loss).sum()

    (slope,) = gradients(expected, reward / kl_weight)
    close(slope, 0.0)


TOKENS = [[4, 2, 5], [3, 4, 1]]
POLICY = [
    *([-2.91, -2.123, -1.378, -2.762, 0, 0], [-0.536, -1.053, 0, 0, 0, 0], [-1.066, -1.866, -1.446, -1.322, -1.222, 0]),
    *([-1.995, -2.355, -0.631, 0, 0, 0], [-0.678, -1.675, -1.763, -2.046, 0, 0], [-2.43, 0, 0, 0, 0, 0]),
]
REFERENCE = [
    *(
        [-1.716, -1.442, -2.388, -1.104, 0, 0],
        [-2.246, -1.025, 0, 0, 0, 0],
        [-2.992, -2.639, -2.289, -0.768, -0.569, 0],
    ),
    *([-2.339, -1.086, -1.698, 0, 0, 0], [-1.709, -0.145, -0.489, -2.996, 0, 0], [-1.182, 0, 0, 0, 0, 0]),
]
# fmt: off
TRL = [
    ("sigmoid", "dpo", 0.1, False, 0.646976260962,
     [-0.0188744486, -0.0145900145, -0.0137123717, 0.0188744486, 0.0145900145, 0.0137123717]),
    ("sigmoid", "dpo", 0.5, False, 0.657399015177,
     [-0.1318756439, -0.0370446128, -0.0238148196, 0.1318756439, 0.0370446128, 0.0238148196]),
    ("hinge", "hinge", 0.5, False, 0.777500000000,
     [-0.1666666667, 0, 0, 0.1666666667, 0, 0]),
    ("ipo", "ipo", 0.5, True, 1.109791412037,
     [-0.2796805556, 0.0155833333, 0.0953333333, 0.3729074074, -0.0077916667, -0.4766666667]),
    ("exo_pair", "exo", 0.5, False, 0.468249330955,
     [-0.0971681331, -0.027218264, -0.0082816281, 0.0971681331, 0.027218264, 0.0082816281]),
    ("nca_pair", "nca", 0.5, False, 1.472464356238,
     [-0.1114877208, 0.0080022798, 0.0240065413, 0.0431452123, 0.0332127087, 0.0290726884]),
    ("robust", "robust_dpo", 0.5, False, 0.586086515177,
     [-0.1527089772, -0.0578779461, -0.0446481529, 0.1527089772, 0.0578779461, 0.0446481529]),
    ("bco_pair", "bco", 0.5, False, 1.269030158794,
     [-0.1298807027, -0.0502207024, -0.0395511947, 0.0862904245, 0.0664254173, 0.0581453769]),
    ("sppo_hard", "sppo", 0.5, False, 5.351958333333,
     [-2.3486666667, 0.4546666667, 0.89, 0.7613333333, 0.118, -0.1653333333]),
    ("apo_zero", "apo_zero", 0.5, False, 0.861027637141,
     [-0.0286667211, -0.0350879887, -0.0301654127, 0.0416142003, 0.0399514009, 0.0378600678]),
    ("apo_down", "apo_down", 0.5, False, 0.946164952998,
     [0.0011381899, 0.0062771959, 0.0097534669, 0.0275285312, 0.0288107928, 0.0204119458]),
    ("sigmoid_norm", "dpo", 0.5, True, 0.565303212984,
     [-0.0243315714, -0.0310052821, -0.0099287311, 0.0324420952, 0.015502641, 0.0496436553]),
]
# fmt: on
"""TRL 1.16.0, `DPOTrainer._compute_loss` in float64 with PyTorch 2.13: its loss_type, ours, beta, whether the answers'
mean is compared, its loss and its gradient by the first token of each answer (ε = 0.1 where one is used)."""


@pytest.mark.parametrize(("theirs", "kind", "beta", "mean", "loss", "slope"), TRL, ids=lambda x: str(x)[:12])
def test_the_numbers_of_trl(theirs: str, kind: str, beta: float, mean: bool, loss: float, slope: list[float]) -> None:
    """Three pairs of answers of one to five tokens: value and gradient by a token."""
    policy, reference = (torch.tensor(x, dtype=torch.float64) for x in (POLICY, REFERENCE))
    mask = torch.arange(6) < torch.tensor(TOKENS).flatten().unsqueeze(-1)
    policy.requires_grad_()
    ratio = sequence_log_prob(policy - reference, mask, length_normalized=mean)
    found = preference_loss(*ratio.chunk(2), **options(kind, beta))
    close(found, number(loss), 1e-10)
    found.backward()
    assert policy.grad is not None
    close(policy.grad[:, 0], torch.tensor(slope, dtype=torch.float64), 1e-9)
    assert (policy.grad[~mask] == 0).all()


def test_micro_batches_add_up() -> None:
    """A sum over pairs over their number is the same however the pairs are split."""
    chosen, rejected = torch.randn(2, 6, dtype=torch.float64)
    whole = preference_loss(chosen, rejected)
    parts = sum(
        preference_loss(chosen[part], rejected[part], reduction="sum") for part in (slice(1), slice(1, 3), slice(3, 6))
    )
    close(parts / 6, whole)


@given(kl_weight=st.one_of(temperatures, st.sampled_from([1e-4, 1e-3, 0.01, 30.0, 1000.0])))
def test_the_partition_function_is_the_integral(kl_weight: float) -> None:
    """Of e^(u / beta) over quantiles u in [0, 1]: at a target of beta log Z the policy is the reference."""
    area, _ = quad(lambda u: math.exp((u - 1) / kl_weight), max(0.0, 1 - 40 * kl_weight), 1)
    beta_log_z = 1 + kl_weight * math.log(area)
    loss = reward_regression_loss(number(0.0), number(0.0), kind="qrpo", kl_weight=kl_weight)
    close(loss.sqrt(), beta_log_z, 1e-7)
    assert 0.5 - 1e-9 <= beta_log_z <= 1


def test_the_partition_function_of_one() -> None:
    """0.54 at a weight of 1; and in single precision at the ends of what is used."""
    loss = reward_regression_loss(torch.zeros(()), torch.zeros(()), kind="qrpo", kl_weight=1.0)
    close(loss.sqrt(), torch.tensor(math.log(math.e - 1)), 1e-6)
    for kl_weight, expected in ((1e-5, 1 + 1e-5 * math.log(1e-5)), (100.0, 0.5 + 1 / 2400)):
        loss = reward_regression_loss(torch.zeros(()), torch.zeros(()), kind="qrpo", kl_weight=kl_weight)
        close(loss.sqrt(), torch.tensor(expected), 3e-5)


@given(kl_weight=reals(0.2, 2.0))
def test_the_policy_of_no_loss_is_a_distribution(kl_weight: float) -> None:
    """Under the policy that every quantile reward is regressed to, the ratio to the reference has the mean one."""
    quantile = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    zero = torch.zeros_like(quantile)
    # the residual at a ratio of zero over the weight is the log-ratio that has none
    (slope,) = gradients(
        lambda x: reward_regression_loss(x, quantile, kind="qrpo", kl_weight=kl_weight, reduction="sum"), zero
    )
    ratio = -slope / (2 * kl_weight**2)
    close(ratio.exp().mean(), 1.0, 1e-5)
    close(reward_regression_loss(ratio, quantile, kind="qrpo", kl_weight=kl_weight), 0.0)


@given(ratio=tensors((3,)), target=tensors((3,)), kl_weight=weights)
def test_rebel_is_a_least_square_of_differences(ratio: Tensor, target: Tensor, kl_weight: float) -> None:
    """No partition function; zero where beta times the ratio is the reward; the oracle's numbers."""
    found = reward_regression_loss(ratio, target, kind="rebel", kl_weight=kl_weight, reduction="none")
    close(found, (target - kl_weight * ratio).square())
    close(found, ORACLES["reward_regression_loss"](ratio, target, kind="rebel", kl_weight=kl_weight))
    close(reward_regression_loss(target / kl_weight, target, kind="rebel", kl_weight=kl_weight), 0.0)
    qrpo = reward_regression_loss(ratio, target, kind="qrpo", kl_weight=kl_weight, reduction="none")
    close(qrpo, ORACLES["reward_regression_loss"](ratio, target, kind="qrpo", kl_weight=kl_weight))


def test_the_target_does_not_move() -> None:
    """A reward model that is differentiated is not trained by the policy's loss."""
    target = torch.zeros(2, requires_grad=True)
    reward_regression_loss(torch.ones(2, requires_grad=True), target, kind="rebel").backward()
    assert target.grad is None


def solved(kl_weight: float, discount: float) -> tuple[Tensor, ...]:
    """A tabular process of four states and three actions: its optimum and a reference, by iteration to the end."""
    torch.manual_seed(0)
    following = torch.randint(0, 4, (4, 3))
    reward, reference = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64).log_softmax(-1)
    ends = torch.zeros(4, 3, dtype=torch.bool)
    ends[0, 1] = ends[2, 0] = True
    value = torch.zeros(4, dtype=torch.float64)
    for _ in range(500):
        q = reward + discount * torch.where(ends, 0.0, value[following])
        value = soft_value(q + kl_weight * reference, temperature=kl_weight)
    return following, reward, ends, value, (q - value.unsqueeze(-1)) / kl_weight


@pytest.mark.parametrize("n", [1, 3, 50])
def test_paths_are_consistent_at_the_optimum_whoever_walked_them(n: int) -> None:
    """On random walks through a process that was solved exactly; and nowhere else: shifted values contradict it."""
    kl_weight, discount, steps = 0.3, 0.9, 40
    following, reward, ends, value, log_ratio = solved(kl_weight, discount)
    state, walk = 0, []
    for action in torch.randint(0, 3, (steps,)).tolist():
        walk.append((state, action))
        state = 1 if ends[state, action] else int(following[state, action])
    s, a = torch.tensor(walk).unbind(-1)
    arguments = reward[s, a], log_ratio[s, a], ends[s, a], ends[s, a]
    knobs = {"n": n, "kl_weight": kl_weight, "discount": discount}
    loss = path_consistency_loss(value[s], value[following[s, a]], *arguments, **knobs, reduction="none")
    assert loss.max() < 1e-20
    off = path_consistency_loss(value[s] + 0.1, value[following[s, a]] + 0.1, *arguments, **knobs, reduction="none")
    assert off.min() > 1e-5


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[Tensor], Tensor]:
    """The six tensors [2, 5] of a path's steps, and a mask."""
    values = [draw(tensors((2, 5), -3.0, 3.0)) for _ in range(4)]
    done = draw(masks((2, 5)))
    return [*values, done & draw(masks((2, 5))), done], draw(masks((2, 5)))


@given(data=steps(), n=st.integers(1, 6), kl_weight=weights, discount=reals(0.0, 1.0))
def test_path_consistency_follows_the_papers(
    data: tuple[list[Tensor], Tensor], n: int, kl_weight: float, discount: float
) -> None:
    """With a mask too; without one it is the square of V less an n-step return of what is earned."""
    arguments, mask = data
    knobs = {"n": n, "kl_weight": kl_weight, "discount": discount}
    found = path_consistency_loss(*arguments, **knobs, mask=mask, reduction="none")
    plain = [x.numpy() for x in arguments]
    close(found, ORACLES["path_consistency_loss"](*plain, **knobs, mask=mask.numpy()))
    value, next_value, reward, ratio, terminated, done = arguments
    earned = n_step_return(reward - kl_weight * ratio, next_value, terminated, done, n=n, discount=discount)
    close(path_consistency_loss(*arguments, **knobs), (value - earned).square().mean())


@given(data=steps())
def test_padding_of_paths_never_matters(data: tuple[list[Tensor], Tensor]) -> None:
    """Steps beyond the answer hold anything, and the last step that exists ends the path with its own next value."""
    arguments, _ = data
    mask = torch.arange(5) < torch.tensor([[3], [5]])
    filled = [torch.where(mask, x, torch.nan) if x.is_floating_point() else x for x in arguments]
    found = path_consistency_loss(*filled, n=5, mask=mask, reduction="none")
    alone = path_consistency_loss(*(x[0, :3] for x in arguments), n=5, reduction="none")
    close(found[0, :3], alone)
    assert (found[0, 3:] == 0).all()
    slopes = gradients(lambda *x: path_consistency_loss(*x, *filled[4:], n=5, mask=mask), *filled[:4])
    assert all(x.isfinite().all() for x in slopes)


def test_every_token_of_an_answer_is_moved_by_its_reward() -> None:
    """An answer that is judged at its end: the loss of its first token reaches all log-ratios, by the weight."""
    zero, end = torch.zeros(4, dtype=torch.float64), torch.tensor([False, False, False, True])
    (slope,) = gradients(
        lambda x: path_consistency_loss(zero, zero, end.double(), x, end, end, n=4, kl_weight=0.5, reduction="none")[0],
        zero,
    )
    close(slope, 2 * (0 - 1) * 0.5)  # V - (1 - 0.5 x), squared


def test_kinds_fall_as_the_chosen_answer_becomes_likelier() -> None:
    """Near the reference every kind but APO-down, which lowers both, raises the chosen and lowers the rejected."""
    x = torch.linspace(-0.5, 0.5, 21, dtype=torch.float64)
    for kind in KINDS:
        found = preference_loss(x, torch.zeros_like(x), **options(kind), reduction="none")
        if kind != "apo_down":
            not_above(found[1:], found[:-1])
    close(preference_loss(x, -1e9 + 0 * x), nll_loss(0 * x))


def test_what_is_meant_where_nothing_is_said() -> None:
    """DPO at a weight of 0.1; no discount."""
    x, y = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([0.5, 1.0], dtype=torch.float64)
    close(preference_loss(x, y), preference_loss(x, y, kind="dpo", kl_weight=0.1))
    for kind in ("rebel", "qrpo"):
        close(reward_regression_loss(x, y, kind=kind), reward_regression_loss(x, y, kind=kind, kl_weight=0.1))
    path = x, y, x, y, torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    close(path_consistency_loss(*path, n=2), path_consistency_loss(*path, n=2, kl_weight=0.1, discount=1.0))
