"""The laws of the critic axis, and of the slow copy of a network."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import batches, distinct, reals, tensors
from torch import Tensor, nn

from offline_losses import ensemble_mean, ensemble_min, ensemble_mix, ensemble_subset_min, polyak_update_

REDUCTIONS = [ensemble_min, ensemble_mean, ensemble_mix]
each_reduction = pytest.mark.parametrize("of", REDUCTIONS, ids=lambda of: of.__name__)


@st.composite
def critics(draw: st.DrawFn) -> Tensor:
    """q [E, *batch], without ties."""
    return draw(distinct((draw(st.integers(1, 4)), *draw(batches(0, 2, 1, 3)))))


@each_reduction
@given(q=critics())
def test_follows_the_paper(of, q: Tensor) -> None:
    """Each equals its loop over critics, and the critic axis is gone."""
    close(of(q), ORACLES[of.__name__](q.numpy()))
    assert of(q).shape == q.shape[1:]


@each_reduction
@given(q=critics(), data=st.data())
def test_symmetry_shift_and_scale(of, q: Tensor, data: st.DataObject) -> None:
    """The order of the critics does not matter; constants and positive factors pass through."""
    order = torch.tensor(data.draw(st.permutations(range(q.shape[0]))))
    close(of(q[order]), of(q))
    c, a = data.draw(reals()), data.draw(reals(0.1, 5.0))
    close(of(a * q + c), a * of(q) + c)


@each_reduction
@given(data=st.data())
def test_agreeing_critics(of, data: st.DataObject) -> None:
    """Critics that agree, or one critic alone, give their common value."""
    q = data.draw(tensors(data.draw(batches(0, 2))))
    close(of(q[None]), q)
    close(of(torch.stack([q, q, q])), q)


@each_reduction
@given(q=critics())
def test_the_slope_is_shared_among_the_critics(of, q: Tensor) -> None:
    """Gradients over the critics sum to one: a common shift moves the result as much."""
    (slope,) = gradients(of, q)
    close(slope.sum(0), 1.0)
    if of is ensemble_min:
        close(slope, torch.nn.functional.one_hot(q.argmin(0), len(q)).double().movedim(-1, 0))
    if of is ensemble_mean:
        close(slope, 1 / len(q))


@given(q=critics(), lambda_=reals(0.0, 1.0))
def test_order_of_pessimism(q: Tensor, lambda_: float) -> None:
    """min <= mean <= max, and the mixture runs from the maximum (0) to the minimum (1)."""
    low, high = ensemble_min(q), q.amax(0)
    not_above(low, ensemble_mean(q))
    not_above(ensemble_mean(q), high)
    mix = ensemble_mix(q, lambda_=lambda_)
    not_above(low, mix)
    not_above(mix, high)
    close(ensemble_mix(q, lambda_=1.0), low)
    close(ensemble_mix(q, lambda_=0.0), high)
    close(mix - high, lambda_ * (low - high))
    close(ensemble_mix(q[:2], lambda_=0.5), ensemble_mean(q[:2]))
    close(mix, ORACLES["ensemble_mix"](q.numpy(), lambda_=lambda_))


def test_the_default_mixture_leans_to_the_minimum() -> None:
    """Three quarters of the minimum, one quarter of the maximum."""
    close(ensemble_mix(torch.tensor([0.0, 4.0], dtype=torch.float64)), 1.0)


# The slow copy.


def network() -> nn.Module:
    """Parameters, float buffers and an integer buffer."""
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    for x in (*net.parameters(), *net.buffers()):
        if x.is_floating_point():
            x.data.copy_(torch.randn(x.shape, dtype=torch.float64))
        else:
            x.data.fill_(int(torch.randint(1, 1000, ())))
    return net


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in net.state_dict().items()}


@pytest.mark.parametrize("polyak", [0.0, 0.005, 0.3, 1.0])
def test_each_tensor_moves_by_the_same_share(polyak: float) -> None:
    """target + polyak (online - target), float buffers included; counters are copied."""
    target, online = network(), network()
    old, new = state(target), state(online)
    polyak_update_(target, online, polyak=polyak)
    wanted = ORACLES["polyak_update_"](
        [x.numpy() for x in old.values()], [x.numpy() for x in new.values()], polyak=polyak
    )
    for (name, got), expected in zip(state(target).items(), wanted, strict=True):
        close(got, torch.from_numpy(expected), 1e-14)
        if polyak == 1.0 or not got.is_floating_point():
            assert torch.equal(got, new[name])
        elif polyak == 0.0:
            assert torch.equal(got, old[name])
    assert all(torch.equal(x, new[name]) for name, x in state(online).items())


def test_each_run_moves_by_its_own_share() -> None:
    """Parameters of three runs stacked, of any number of axes, in compiled code too; as a map over the runs has it."""
    polyak = torch.tensor([0.0, 0.3, 1.0])
    shapes = [(3, 2, 4), (3, 2), (3,)]
    old, new = ([torch.randn(shape, dtype=torch.float64) for shape in shapes] for _ in range(2))
    alone = [[x[i].clone() for x in old] for i in range(3)]
    for run, share, i in zip(alone, polyak, range(3), strict=True):
        polyak_update_(run, [x[i] for x in new], polyak=share)

    compiled = torch.compile(polyak_update_, fullgraph=True, backend="eager")
    for way in (polyak_update_, compiled):
        target = [x.clone() for x in old]
        way(target, new, polyak=polyak)
        torch.testing.assert_close(
            target, [torch.vmap(torch.lerp)(*pair, polyak.double()) for pair in zip(old, new, strict=True)]
        )
        for x, *runs in zip(target, *alone, strict=True):
            torch.testing.assert_close(x, torch.stack(runs), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("runs", "shapes"), [((2,), [(3, 2)]), ((3,), [(3, 2), ()]), ((3, 1), [(3, 2)]), ((3,), [(3, 2), (2,)])], ids=str
)
def test_a_share_of_other_runs_changes_nothing(runs: tuple[int, ...], shapes: list[tuple[int, ...]]) -> None:
    """And is refused by name."""
    target, online = ([make(shape) for shape in shapes] for make in (torch.zeros, torch.ones))
    with pytest.raises(ValueError, match=r"polyak_update_: polyak: expected shape \[\], or \[R\] beside .+, got shape"):
        polyak_update_(target, online, polyak=torch.full(runs, 0.5))
    assert not any(x.any() for x in target)


def test_the_default_is_slow() -> None:
    """0.005: after one update the target has come half a percent closer."""
    target, online = [torch.zeros(3, dtype=torch.float64)], [torch.ones(3, dtype=torch.float64)]
    polyak_update_(target, online)
    close(target[0], 0.005)


def test_equal_networks_stay_equal() -> None:
    """The online network is a fixed point."""
    online = network()
    target = network()
    target.load_state_dict(online.state_dict())
    polyak_update_(target, online, polyak=0.3)
    for name, x in state(target).items():
        close(x, online.state_dict()[name], 1e-15)


@given(polyak=reals(0.05, 1.0), steps=st.integers(1, 20))
def test_the_distance_shrinks_geometrically(polyak: float, steps: int) -> None:
    """After k updates (1 - polyak)^k of the distance is left."""
    target = [torch.tensor([1.0, -2.0], dtype=torch.float64)]
    online = [torch.tensor([0.0, 0.0], dtype=torch.float64)]
    for _ in range(steps):
        polyak_update_(target, online, polyak=polyak)
    close(target[0], (1 - polyak) ** steps * torch.tensor([1.0, -2.0], dtype=torch.float64))


@pytest.mark.parametrize("polyak", [0.3, 1.0])
def test_the_copies_share_no_memory(polyak: float) -> None:
    """After any update, changing one network does not change the other; identities are kept."""
    target, online = network(), network()
    before = {name: x.data_ptr() for name, x in target.state_dict().items()}
    polyak_update_(target, online, polyak=polyak)
    assert {name: x.data_ptr() for name, x in target.state_dict().items()} == before
    theirs = {x.data_ptr() for x in online.state_dict().values()}
    assert theirs.isdisjoint(before.values())
    kept = state(target)
    for x in online.state_dict().values():
        x.fill_(0)
    assert all(torch.equal(x, kept[name]) for name, x in state(target).items())


def test_no_graph_is_left_behind() -> None:
    """The update happens outside autograd: no history, requires_grad as before, leaves trainable."""
    target, online = network(), network()
    polyak_update_(target, online, polyak=0.3)
    for x in target.parameters():
        assert x.is_leaf
        assert x.requires_grad
        assert x.grad_fn is None
    values = [torch.zeros(2, requires_grad=True)]
    polyak_update_(values, [torch.ones(2, requires_grad=True)], polyak=0.5)
    assert values[0].is_leaf
    assert values[0].tolist() == [0.5, 0.5]


def test_networks_must_match() -> None:
    """Another number of tensors, or another shape, is an error and leaves the target as it was."""
    target, online = [torch.zeros(2)], [torch.ones(2), torch.ones(2)]
    with pytest.raises(ValueError, match="polyak_update_"):
        polyak_update_(target, online)
    with pytest.raises(ValueError, match="polyak_update_"):
        polyak_update_(target, [torch.ones(2, 1)])
    assert target[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("slow", "fast"), [(torch.float32, torch.bfloat16), (torch.float64, torch.float32)], ids=str)
def test_a_wider_copy_of_a_narrow_network_arrives(slow: torch.dtype, fast: torch.dtype) -> None:
    """The copy is averaged in its own precision, so that small steps count."""
    target, online = [torch.full((4,), 0.9, dtype=slow)], [torch.ones(4, dtype=fast)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2000):
            polyak_update_(target, online, polyak=0.005)
    close(target[0], torch.ones(4, dtype=slow), 1e-3)
    assert target[0].dtype == slow


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_copy_in_16_bits_says_that_it_stands_still(dtype: torch.dtype) -> None:
    """It stops on the way; at polyak 0 it shall, and at 1 it is exact."""
    online = nn.Linear(2, 2).to(dtype)
    target = copy.deepcopy(online)
    with pytest.warns(UserWarning, match=r"polyak_update_: target: .+copy\.deepcopy\(online\)\.float\(\)") as said:
        polyak_update_(target, online, polyak=0.005)
    assert said[0].filename == __file__
    enough = 50 * torch.finfo(dtype).eps  # a step is then half a unit of what is a hundredth away
    with pytest.warns(UserWarning, match="stops far from online"):
        polyak_update_(target, online, polyak=0.999 * enough)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for polyak in (0.0, enough, 1.0):
            polyak_update_(target, online, polyak=polyak)


def test_a_copy_in_floats_of_what_is_counted() -> None:
    """Whether a tensor is averaged or copied is a matter of the copy's dtype."""
    average, copied = torch.zeros(2), torch.zeros(2, dtype=torch.long)
    polyak_update_([average, copied], [torch.ones(2, dtype=torch.long), torch.ones(2)], polyak=0.25)
    assert average.tolist() == [0.25, 0.25]
    assert copied.tolist() == [1, 1]


# A few of the critics.


@given(q=critics(), data=st.data())
def test_a_subset_is_less_pessimistic(q: Tensor, data: st.DataObject) -> None:
    """All critics, or all and some twice, give the minimum; any others are never below it."""
    everyone = torch.tensor(data.draw(st.permutations(range(len(q)))))
    close(ensemble_subset_min(q, everyone), ensemble_min(q), 0)
    index = torch.tensor(data.draw(st.lists(st.integers(0, len(q) - 1), min_size=1, max_size=4)))
    few = ensemble_subset_min(q, index)
    not_above(ensemble_min(q), few)
    close(few, ensemble_min(q[index]), 0)
    close(few, ORACLES["ensemble_subset_min"](q.numpy(), index.numpy()))
    (slope,) = gradients(lambda x: ensemble_subset_min(x, index), q)
    assert not slope[[e for e in range(len(q)) if e not in index]].any()
