"""The laws of distances from the data: equal samples, far ones, and the nearest of all, found in chunks of any size."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from scipy.spatial import KDTree
from strategies import batches, distinct, reals, tensors
from torch import Tensor

from offline_losses import distance, mmd_penalty, nearest_distance_penalty

KERNELS = ("gaussian", "laplacian")


@pytest.mark.parametrize("kernel", KERNELS)
@given(data=st.data())
def test_the_discrepancy_follows_the_paper(kernel: str, data: st.DataObject) -> None:
    """Both estimators, both kernels; blind to a common shift, to the order of samples and to which side is which."""
    batch = data.draw(batches(0, 2, 1, 2))
    x, y = data.draw(tensors((*batch, 3, 2), -2.0, 2.0)), data.draw(tensors((*batch, 4, 2), -2.0, 2.0))
    bandwidth = data.draw(reals(0.2, 3.0))
    for estimator in ("biased", "unbiased"):
        options = {"kernel": kernel, "bandwidth": bandwidth, "estimator": estimator}
        penalty = mmd_penalty(x, y, **options, reduction="none")
        close(penalty, ORACLES["mmd_penalty"](x.numpy(), y.numpy(), **options))
        close(mmd_penalty(y, x, **options, reduction="none"), penalty)
        close(mmd_penalty(x.flip(-2), y, **options, reduction="none"), penalty)
        close(mmd_penalty(x + 5.0, y + 5.0, **options, reduction="none"), penalty)
        scaled = {**options, "bandwidth": 3 * bandwidth}
        close(mmd_penalty(3 * x, 3 * y, **scaled, reduction="none"), penalty)


@pytest.mark.parametrize("kernel", KERNELS)
@given(data=st.data())
def test_the_biased_discrepancy_is_never_negative_and_zero_for_equal_sets(kernel: str, data: st.DataObject) -> None:
    """A squared distance of means in the kernel's space; its gradient there is zero, also where samples coincide."""
    x, y = data.draw(tensors((3, 4, 2))), data.draw(tensors((3, 4, 2)))
    penalty = mmd_penalty(x, y, kernel=kernel, reduction="none")
    not_above(torch.zeros(3).double(), penalty, 1e-12)
    not_above(penalty, torch.full((3,), 2.0).double())
    assert (mmd_penalty(x, x, kernel=kernel, reduction="none") == 0).all()
    (slope,) = gradients(lambda a: mmd_penalty(a, x, kernel=kernel), x)
    close(slope, 0.0)
    repeated = x.repeat(1, 3, 1)  # the same distribution in more samples
    close(mmd_penalty(repeated, x, kernel=kernel), 0.0)


def test_the_unbiased_discrepancy_is_zero_on_average() -> None:
    """Of samples of one distribution: below zero as often as above; the biased one is above by what samples add."""
    torch.manual_seed(0)
    x, y = torch.randn(4000, 5, 2, dtype=torch.float64), torch.randn(4000, 5, 2, dtype=torch.float64)
    unbiased = mmd_penalty(x, y, estimator="unbiased", reduction="none")
    assert abs(unbiased.mean()) < 4 * unbiased.std() / 4000**0.5
    assert (unbiased < 0).double().mean() > 0.4
    assert mmd_penalty(x, y) > 0.1


@pytest.mark.parametrize(("kernel", "value"), [("gaussian", math.exp(-0.5)), ("laplacian", math.exp(-1.0))])
def test_the_convention_of_the_bandwidth(kernel: str, value: float) -> None:
    """At a distance of one bandwidth; of a gaussian over 2 sigma^2, not 2 sigma."""
    for bandwidth in (0.5, 3.0):
        x, y = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), bandwidth, dtype=torch.float64)
        close(mmd_penalty(x, y, kernel=kernel, bandwidth=bandwidth), 2 - 2 * value)
    x, y = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    distance = 25 / 2 if kernel == "gaussian" else 7.0  # Euclid's, squared, or the sum of both dimensions
    close(mmd_penalty(x, y, kernel=kernel), 2 - 2 * math.exp(-distance))
    close(mmd_penalty(x, y, kernel=kernel, bandwidth=1e9), 0.0, 1e-7)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_discrepancy_pulls_the_policy_to_the_data(kernel: str) -> None:
    """Descent on the samples ends among the data, and covers both of two clusters."""
    torch.manual_seed(0)
    y = torch.cat([torch.randn(20, 1) * 0.05 - 1, torch.randn(20, 1) * 0.05 + 1])
    x = (torch.randn(20, 1) * 0.1).requires_grad_()
    optimizer = torch.optim.Adam([x], 0.05)
    first = mmd_penalty(x, y, kernel=kernel, bandwidth=0.5).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss = mmd_penalty(x, y, kernel=kernel, bandwidth=0.5)
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 5
    assert 5 <= int((x > 0).sum()) <= 15


@given(data=st.data())
def test_the_nearest_is_that_of_a_tree(data: st.DataObject) -> None:
    """As PRDC finds it: a tree of scaled observations beside actions; chunks of any size find the same."""
    size, batch = data.draw(st.integers(1, 9)), data.draw(batches(1, 2, 1, 3))
    actions, states = data.draw(distinct((size, 2), -2.0, 2.0)), data.draw(tensors((size, 3), -2.0, 2.0))
    action, state = data.draw(tensors((*batch, 2), -2.0, 2.0)), data.draw(tensors((*batch, 3), -2.0, 2.0))
    scale = data.draw(reals(0.0, 3.0))
    tree = KDTree(torch.cat([scale * states, actions], -1).numpy())
    distance, index = tree.query(torch.cat([scale * state, action], -1).numpy())
    penalty = nearest_distance_penalty(action, state, actions, states, observation_scale=scale, reduction="none")
    numbers = (x.numpy() for x in (action, state, actions, states))
    close(penalty, ORACLES["nearest_distance_penalty"](*numbers, observation_scale=scale))
    close(penalty, (action - actions[torch.as_tensor(index)]).square().mean(-1))
    not_above(penalty, torch.as_tensor(distance).square() / 2)
    for chunk in (1, 2, 5, 100):
        options = {"observation_scale": scale, "chunk": chunk, "reduction": "none"}
        assert nearest_distance_penalty(action, state, actions, states, **options).equal(penalty)


@given(data=st.data())
def test_the_data_costs_nothing_and_all_its_actions_are_allowed(data: st.DataObject) -> None:
    """Zero at every pair; with scale 0 at every action in any state; at a large scale only those of near states."""
    actions, states = data.draw(distinct((6, 2))), data.draw(distinct((6, 3)))
    order = torch.tensor(data.draw(st.permutations(range(6))))
    assert nearest_distance_penalty(actions[order], states[order], actions, states) == 0
    assert nearest_distance_penalty(actions[order], states, actions, states, observation_scale=0.0) == 0
    far = nearest_distance_penalty(actions[order], states, actions, states, observation_scale=1e4, reduction="none")
    close(far, (actions[order] - actions).square().mean(-1))


@given(data=st.data())
def test_the_slope_leads_to_the_nearest_action(data: st.DataObject) -> None:
    """Twice the difference over the dimensions; observations choose and receive none; the data's action the reverse."""
    actions, states = data.draw(distinct((5, 2))), data.draw(tensors((5, 3)))
    action, state = data.draw(tensors((4, 2))), data.draw(tensors((4, 3)))

    def loss(*x: Tensor) -> Tensor:
        return nearest_distance_penalty(*x, reduction="sum")

    to_action, to_state, to_data, to_states = gradients(loss, action, state, actions, states)
    tree = KDTree(torch.cat([2 * states, actions], -1).numpy())
    nearest = actions[torch.as_tensor(tree.query(torch.cat([2 * state, action], -1).numpy())[1])]
    close(to_action, action - nearest)  # 2 / A, of two dimensions
    close(to_data.sum(0), -to_action.sum(0))
    assert (to_state == 0).all()
    assert (to_states == 0).all()


def test_of_equally_near_pairs_the_first_counts() -> None:
    """In one chunk, and in two."""
    actions, states = torch.tensor([[1.0], [-1.0], [1.0]]), torch.zeros(3, 1)
    for chunk in (1, 2, 3):
        (slope,) = gradients(
            lambda a, chunk=chunk: nearest_distance_penalty(torch.zeros(1, 1), states[:1], a, states, chunk=chunk),
            actions,
        )
        assert slope.squeeze(-1).tolist() == [2.0, 0.0, 0.0]


def test_the_nearest_of_differences_is_that_of_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which a DTensor is made, for which PyTorch has no rule of the second."""
    torch.manual_seed(0)
    inputs = [torch.randn(*shape) for shape in ((5, 2), (5, 3), (20, 2), (20, 3))]
    apart = nearest_distance_penalty(*inputs, chunk=7, reduction="none")
    monkeypatch.setattr(distance, "is_sharded", lambda x: True)
    close(nearest_distance_penalty(*inputs, chunk=7, reduction="none"), apart)


def test_a_neighbor_at_a_distance_below_rounding_is_found() -> None:
    """Far from the origin, where squares of the coordinates have no digits for it."""
    actions = torch.linspace(0, 1, 64).unsqueeze(-1)
    states = torch.full((64, 1), 1000.0)
    penalty = nearest_distance_penalty(actions, states, actions, states, reduction="none")
    assert (penalty == 0).all()


def test_memory_grows_with_the_chunk_and_not_with_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of distances is larger than the batch times the chunk."""
    sizes, cdist = [], torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda a, b, **rest: sizes.append(len(a) * len(b)) or cdist(a, b, **rest))
    data = torch.randn(1000, 3)
    nearest_distance_penalty(torch.randn(7, 3), torch.randn(7, 3), data, data, chunk=64)
    assert len(sizes) == 16
    assert max(sizes) == 7 * 64


def test_what_does_not_fit_is_refused() -> None:
    """One sample for the unbiased estimator, another batch, data of other dimensions or none, rows that differ."""
    x = torch.zeros(4, 1, 3)
    with pytest.raises(ValueError, match=r"mmd_penalty: policy_action: expected .+ of at least 2 samples"):
        mmd_penalty(x, x, estimator="unbiased")
    with pytest.raises(
        ValueError, match=r"mmd_penalty: data_action: expected shape \[4, M, 3\], got shape \[5, 1, 3\]"
    ):
        mmd_penalty(x, torch.zeros(5, 1, 3))
    for shape in ((3,), (4, 1, 0), (4, 0, 1)):
        with pytest.raises(
            ValueError, match=r"mmd_penalty: policy_action: expected shape \[\*batch, N, A\] of at least 1 sample of"
        ):
            mmd_penalty(torch.zeros(shape), torch.zeros(shape))
    action, state = torch.zeros(4, 2), torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"nearest_distance_penalty: data_action: expected shape \[M, 2\]"):
        nearest_distance_penalty(action, state, torch.zeros(0, 2), torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"nearest_distance_penalty: data_action: expected shape \[M, 2\]"):
        nearest_distance_penalty(torch.zeros(3, 4, 2), torch.zeros(3, 4, 3), torch.zeros(5, 4), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="nearest_distance_penalty: observation: expected a last axis of at least one"):
        nearest_distance_penalty(action, torch.zeros(4, 0), torch.zeros(5, 2), torch.zeros(5, 0))
    with pytest.raises(ValueError, match=r"nearest_distance_penalty: data_observation: expected shape \[5, 3\]"):
        nearest_distance_penalty(action, state, torch.zeros(5, 2), torch.zeros(6, 3))
    with pytest.raises(ValueError, match=r"nearest_distance_penalty: observation: expected shape \[4, 3\]"):
        nearest_distance_penalty(action, torch.zeros(5, 3), torch.zeros(5, 2), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="nearest_distance_penalty: chunk: expected an int of at least 1"):
        nearest_distance_penalty(action, state, action, state, chunk=0)


def test_the_choice_has_no_tangent() -> None:
    """Forward-mode derivatives and second ones are those of the distance from the neighbor that was chosen."""
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, dtype=torch.float64) for shape in ((4, 2), (4, 3), (6, 2), (6, 3))]
    narrow = nearest_distance_penalty(*(x.float() for x in inputs))
    close(narrow, nearest_distance_penalty(*inputs).float(), 1e-6)
    tangents = [torch.randn_like(x) for x in inputs]

    def loss(*x: Tensor) -> Tensor:
        return nearest_distance_penalty(*x, reduction="sum")

    _, tangent = torch.func.jvp(loss, tuple(inputs), tuple(tangents))
    close(tangent, sum((g * t).sum() for g, t in zip(gradients(loss, *inputs), tangents, strict=True)))
    hessian = torch.func.hessian(loss)(*inputs).reshape(8, 8)
    close(hessian, torch.eye(8, dtype=torch.float64))  # 2 / A


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_a_row_that_is_no_number_is_near_to_nothing(chunk: int) -> None:
    """Wherever it stands in the data, and however they are cut."""
    action, observation = torch.zeros(1, 1), torch.zeros(1, 1)
    data_action = torch.tensor([[5.0], [0.0], [1.0]])
    for place in (0, 2):
        data_observation = torch.zeros(3, 1)
        data_observation[place] = math.nan
        found = nearest_distance_penalty(action, observation, data_action, data_observation, chunk=chunk)
        assert found == 0
