"""The laws of reachability: what a classifier of pairs is at its optimum, what a pushed quasimetric, what a product."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import batches, candidate_masks, masks, probabilities, reals, temperatures, tensors
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, softplus

from offline_losses import contrastive_loss, quasimetric_losses, transitive_target, transitive_weights

FORMS = ["binary", "balanced_binary", "infonce"]


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
def test_contrastive_follows_the_papers(form: str, data: st.DataObject) -> None:
    """With critics and with goals that do not exist; a positive at any place; shuffled goals change nothing."""
    batch = data.draw(batches(1, 2, 1, 3))
    logits = data.draw(tensors((2, *batch, 4)))
    positive = torch.from_numpy(data.draw(tensors(batch, 0.0, 3.9)).long().numpy())
    exists = data.draw(candidate_masks(logits.shape)) | (torch.arange(4) == positive.unsqueeze(-1))
    logits = torch.where(exists, logits, -torch.inf)
    loss = contrastive_loss(logits, positive, form=form, reduction="none")
    close(loss, ORACLES["contrastive_loss"](logits.numpy(), positive.numpy(), form=form))
    order = torch.tensor(data.draw(st.permutations(range(4))))
    moved = order.argsort()[positive]
    close(contrastive_loss(logits[..., order], moved, form=form, reduction="none"), loss)


@given(logits=tensors((5, 5)))
def test_contrastive_forms_are_the_losses_of_pytorch(logits: Tensor) -> None:
    """All pairs of a batch against the unit matrix, and the cross-entropy of a row against its own place."""
    own, unit = torch.arange(5), torch.eye(5, dtype=torch.float64)
    close(contrastive_loss(logits, own), binary_cross_entropy_with_logits(logits, unit))
    close(contrastive_loss(logits, own, form="infonce"), cross_entropy(logits, own))
    weights = torch.where(unit == 1, 1.0, 1 / 4)
    balanced = binary_cross_entropy_with_logits(logits, unit, weight=weights, reduction="sum") / 5
    close(contrastive_loss(logits, own, form="balanced_binary"), balanced)


@given(joint=probabilities((4, 4), zeros=False))
def test_contrastive_is_least_at_the_logarithm_of_a_ratio(joint: Tensor) -> None:
    """In expectation over own goals from p(g | s) and others from p(g): the docstring's optimum, for each form."""
    joint = joint / 4
    goal, given_state = joint.sum(0), joint / joint.sum(1, keepdim=True)
    ratio, n = (given_state / goal).log(), 3
    # every state, own goal and pair of other goals, and the chance of each
    state, own, first, second = (x.flatten() for x in torch.meshgrid(*[torch.arange(4)] * 4, indexing="ij"))
    chance = joint[state, own] * goal[first] * goal[second]
    place = torch.zeros_like(state)

    def slope(form: str, f: Tensor) -> Tensor:
        def expected(table: Tensor) -> Tensor:
            logits = torch.stack([table[state, own], table[state, first], table[state, second]], -1)
            return (chance * contrastive_loss(logits, place, form=form, reduction="none")).sum()

        return gradients(expected, f)[0]

    close(slope("balanced_binary", ratio), 0.0)
    close(slope("binary", ratio - math.log(n - 1)), 0.0)
    anything = torch.tensor([[3.0], [-1.0], [0.5], [2.0]], dtype=torch.float64)
    close(slope("infonce", ratio + anything), 0.0)
    assert slope("binary", ratio).abs().max() > 1e-4


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
def test_contrastive_pulls_the_own_and_pushes_the_others(form: str, data: st.DataObject) -> None:
    """Descent raises the own logit and lowers all others; one row never moves another."""
    logits = data.draw(tensors((3, 4)))
    positive = torch.tensor([0, 2, 3])
    (slope,) = gradients(lambda x: contrastive_loss(x, positive, form=form, reduction="none")[1], logits)
    assert slope[1, 2] < 0
    assert (slope[1, [0, 1, 3]] > 0).all()
    assert (slope[[0, 2]] == 0).all()


def test_contrastive_weighs_the_positive_as_its_name_says() -> None:
    """At logits of zero the positive pulls with one half: over N in the mean of all pairs, whole where balanced."""
    logits, own = torch.zeros(1, 5, dtype=torch.float64), torch.tensor([1])
    for form, pull in (("binary", 0.1), ("balanced_binary", 0.5), ("infonce", 0.8)):
        (slope,) = gradients(lambda x, form=form: contrastive_loss(x, own, form=form), logits)
        close(slope[0, 1], -pull)


@pytest.mark.parametrize("form", FORMS)
def test_contrastive_without_other_goals_and_without_any(form: str) -> None:
    """One goal is told apart from nothing; an own goal that cannot be costs infinitely much; nothing is NaN."""
    alone = contrastive_loss(torch.tensor([[2.0, -math.inf]]), torch.tensor([0]), form=form)
    close(alone, 0.0 if form == "infonce" else softplus(torch.tensor(-2.0)), 1e-6)
    logits = torch.tensor([[-math.inf, 1.0], [-math.inf, -math.inf]])
    assert (contrastive_loss(logits, torch.tensor([0, 0]), form=form, reduction="none") == math.inf).all()


@given(data=st.data())
def test_contrastive_masks_samples_and_not_goals(data: st.DataObject) -> None:
    """A sample that does not exist may have any place as its positive, and adds nothing."""
    logits, mask = data.draw(tensors((4, 3))), data.draw(masks((4,)))
    mask[0] = True
    positive = torch.where(mask, 1, -7)
    close(contrastive_loss(logits, positive, mask=mask), contrastive_loss(logits[mask], positive[mask]))


@given(data=st.data())
def test_quasimetric_follows_the_paper(data: st.DataObject) -> None:
    """Three terms, of which the last two are one number with two signs."""
    far, near = data.draw(tensors((5,), 0.0, 30.0)), data.draw(tensors((5,), 0.0, 5.0))
    multiplier = data.draw(tensors((), -2.0, 2.0))
    options = {"step_cost": data.draw(reals(0.0, 3.0)), "tolerance": data.draw(reals(0.0, 2.0))}
    options |= {"offset": data.draw(reals(0.0, 30.0)), "temperature": data.draw(temperatures)}
    found = quasimetric_losses(far, near, multiplier, **options, reduction="none")
    for one, other in zip(found, ORACLES["quasimetric_losses"](far, near, multiplier, **options), strict=True):
        close(one, other)
    close(found.penalty, -found.dual)
    costs = torch.full((5,), options["step_cost"], dtype=torch.float64)
    for one, other in zip(
        quasimetric_losses(far, near, multiplier, **{**options, "step_cost": costs}, reduction="none"),
        found,
        strict=True,
    ):
        close(one, other)


@given(data=st.data())
def test_quasimetric_terms_share_no_gradient(data: st.DataObject) -> None:
    """Push raises far distances, the less the farther; the penalty lowers steps that are too long; the dual follows."""
    far, near = data.draw(tensors((4,), 0.0, 30.0)), data.draw(tensors((4,), 0.0, 5.0))
    multiplier = data.draw(tensors((), -2.0, 2.0))
    push, *none = gradients(lambda *x: quasimetric_losses(*x).push, far, near, multiplier)
    assert (push < 0).all()
    close(push, -torch.sigmoid((15 - far) / 10) / 4)
    assert all((x == 0).all() for x in none)
    first, step, last = gradients(lambda *x: quasimetric_losses(*x).penalty, far, near, multiplier)
    close(step, 2 * multiplier.exp() * (near - 1).clamp(min=0) / 4)
    assert (first == 0).all()
    assert last == 0
    first, step, last = gradients(lambda *x: quasimetric_losses(*x).dual, far, near, multiplier)
    excess = (near - 1).clamp(min=0).square().mean() - 0.25**2
    close(last, -multiplier.exp() * excess)
    assert (first == 0).all()
    assert (step == 0).all()


def test_quasimetric_derivatives_are_those_of_the_values() -> None:
    """Each loss by its own variables, and once more."""
    torch.manual_seed(0)
    far, near = (3 * torch.rand(2, 4, dtype=torch.float64)).unbind()
    knobs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.3, 1.0, 0.5, 4.0, 2.0)]

    def field(name: str, far: Tensor, near: Tensor, multiplier: Tensor, *knobs: Tensor) -> Tensor:
        names = "step_cost", "tolerance", "offset", "temperature"
        found = quasimetric_losses(far, near, multiplier, **dict(zip(names, knobs, strict=True)))
        return getattr(found, name)

    leaves = [far.requires_grad_(), near.requires_grad_(), *knobs]
    for name, own in (("push", (0, 5, 6)), ("penalty", (1, 3, 4)), ("dual", (2,))):

        def function(*x: Tensor, name: str = name, own: tuple[int, ...] = own) -> Tensor:
            all_of_them = list(leaves)
            for i, value in zip(own, x, strict=True):
                all_of_them[i] = value
            return field(name, *all_of_them)

        assert torch.autograd.gradcheck(function, [leaves[i] for i in own])
        assert torch.autograd.gradgradcheck(function, [leaves[i] for i in own])


def test_pushed_distances_become_shortest_paths() -> None:
    """On a ring that is walked one way: a distance with the triangle inequality, pushed up, is the number of steps."""
    n = 6
    start, goal = (x.flatten() for x in torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij"))
    following = (torch.arange(n) + 1) % n
    edge = torch.full((n, n), 3.0, dtype=torch.float64, requires_grad=True)
    log_multiplier = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([edge, log_multiplier], 0.05)

    def closed(edge: Tensor) -> Tensor:
        """The largest quasimetric below these numbers."""
        d = torch.where(torch.eye(n, dtype=torch.bool), 0.0, edge)
        for _ in range(3):
            d = (d.unsqueeze(-1) + d.unsqueeze(0)).amin(1)
        return d

    for _ in range(600):
        d = closed(edge)
        far = d[start, goal]
        near = d[torch.arange(n), following].repeat(n)
        losses = quasimetric_losses(far, near, log_multiplier, tolerance=0.0, offset=20.0, temperature=20.0)
        optimizer.zero_grad()
        (losses.push + losses.penalty + losses.dual).backward()
        optimizer.step()
    steps = (goal - start).remainder(n).view(n, n).double()
    assert (closed(edge) - steps).abs().max() < 0.35


def test_far_distances_have_a_push_of_nothing() -> None:
    """Infinity is far enough."""
    distance = torch.tensor([math.inf, 0.0], requires_grad=True)
    loss = quasimetric_losses(distance, torch.ones(2), torch.tensor(0.0), reduction="none").push
    loss.sum().backward()
    assert loss[0] == 0
    assert distance.grad is not None
    assert distance.grad.isfinite().all()


@given(data=st.data())
def test_transitive_target_follows_the_paper(data: st.DataObject) -> None:
    """The product of the halves, of which those of at most one step are known; the same either way round."""
    batch = data.draw(batches(1, 2))
    first, second = (data.draw(tensors((2, *batch), 0.0, 1.0)) for _ in range(2))
    n, m = (data.draw(tensors(batch, 0.0, 3.9)).long() for _ in range(2))
    discount = data.draw(reals(0.0, 1.0))
    target = transitive_target(first, second, n, m, discount=discount)
    close(target, ORACLES["transitive_target"](first, second, n, m, discount=discount))
    close(transitive_target(second, first, m, n, discount=discount), target)


@given(n=st.integers(0, 9), m=st.integers(0, 9), discount=reals(0.1, 0.99))
def test_transitive_target_of_true_values_is_the_true_value(n: int, m: int, discount: float) -> None:
    """Along a path the values of the halves multiply to that of the whole."""
    steps = torch.tensor([n, m])
    value = discount ** steps.double()
    whole = transitive_target(value[:1], value[1:], steps[:1], steps[1:], discount=discount)
    close(whole, discount ** (n + m))


def test_known_halves_are_not_asked_for() -> None:
    """Of a half of at most one step neither the value nor a gradient is used, NaN included."""
    first = torch.tensor([math.nan, math.nan, 0.5], requires_grad=True)
    second = torch.tensor([0.5, 0.5, 0.5], requires_grad=True)
    target = transitive_target(first, second, torch.tensor([0, 1, 2]), torch.tensor([2, 3, 4]), discount=0.9)
    close(target, torch.tensor([0.5, 0.45, 0.25]), 1e-6)
    target.sum().backward()
    close(first.grad, torch.tensor([0.0, 0.0, 0.5]))


@given(target=tensors((2, 4), 0.001, 1.0), discount=reals(0.05, 0.95), exponent=reals(0.0, 3.0))
def test_transitive_weights_follow_the_paper(target: Tensor, discount: float, exponent: float) -> None:
    """In [0, 1], falling with the distance, one for the goal itself, and the oracle's numbers."""
    weight = transitive_weights(target, discount=discount, exponent=exponent)
    close(weight, ORACLES["transitive_weights"](target, discount=discount, exponent=exponent))
    not_above(weight, torch.ones_like(weight))
    not_above(transitive_weights(target / 2, discount=discount, exponent=exponent), weight)
    close(transitive_weights(torch.ones(3), discount=discount, exponent=exponent), 1.0)


def test_transitive_weights_at_the_ends() -> None:
    """A value of zero is infinitely far; with the exponent 0 all weigh one; more than one is no distance below zero."""
    target = torch.tensor([0.0, 1.0, 1.5])
    close(transitive_weights(target), torch.tensor([0.0, 1.0, 1.0]))
    close(transitive_weights(target, exponent=0.0), torch.ones(3))
    for n in range(4):
        close(transitive_weights(torch.tensor(0.9**n), discount=0.9, exponent=2.0), (1 / (1 + n)) ** 2, 1e-6)


def test_what_is_meant_where_nothing_is_said() -> None:
    """A discount of 0.99, and weights of one over one plus the distance."""
    half, steps = torch.tensor([0.5, 0.25]), torch.tensor([1, 3])
    close(transitive_target(half, half, steps, steps), transitive_target(half, half, steps, steps, discount=0.99))
    close(transitive_weights(half), transitive_weights(half, discount=0.99, exponent=1.0))


def test_a_discount_near_one_is_not_rounded_to_it() -> None:
    """The number of steps would be zero over zero."""
    found = transitive_weights(torch.tensor([1.0, 0.5]), discount=1 - 1e-8)
    assert found[0] == 1
    assert found[1].item() == pytest.approx(1 / (1 + math.log(2) / 1e-8), rel=1e-5)


def test_steps_of_both_halves_have_one_shape() -> None:
    """For all critics, or for each: not one of these for the first half and the other for the second."""
    value, steps = torch.ones(2, 4), torch.ones(4, dtype=torch.long)
    with pytest.raises(ValueError, match="transitive_target: second_steps: expected shape"):
        transitive_target(value, value, steps, steps.expand(2, 4))
