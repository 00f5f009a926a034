"""`on_tensordict`: required tensors come by name, optional ones only when asked for, and shapes stay honest."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("tensordict", reason="needs the extra offline-losses[data]")

import torch
from ledger import CASES
from tensordict import TensorDict

import offline_losses
from offline_losses.adapters.keys import KEYS
from offline_losses.adapters.tensordict import on_tensordict

FUNCTIONS = [name for name in offline_losses.__all__ if inspect.isfunction(getattr(offline_losses, name))]


@pytest.fixture(params=[(6,), (2, 6)], ids=["flat", "batched"])
def data(request: pytest.FixtureRequest) -> TensorDict:
    """A transition batch as TorchRL stores it: per-step numbers with a trailing axis of one."""
    batch = request.param
    done = torch.zeros(*batch, 1, dtype=torch.bool)
    done[..., 2, :] = done[..., 5, :] = True
    terminated = done.clone()
    terminated[..., 5, :] = False
    return TensorDict(
        {
            "observation": torch.randn(*batch, 3),
            "action": torch.randn(*batch, 1),
            "state_value": torch.randn(*batch, 1),
            "value_target": torch.randn(*batch, 1),
            "mask": torch.rand(*batch, 1) > 0.3,
            "weight": torch.rand(*batch),
            "next": {
                "observation": torch.randn(*batch, 3),
                "reward": torch.randn(*batch, 1),
                "state_value": torch.randn(*batch, 1),
                "terminated": terminated,
                "truncated": done & ~terminated,
                "done": done,
            },
        },
        batch_size=batch,
    )


def test_bellman_target(data: TensorDict) -> None:
    step = data["next"]
    expected = step["reward"] + 0.9 * torch.where(step["terminated"], 0, step["state_value"])
    actual = on_tensordict(offline_losses.bellman_target)(data, discount=0.9)
    assert torch.equal(actual, expected.squeeze(-1))


def test_dataset_time(data: TensorDict) -> None:
    reward, done = data["next", "reward"].squeeze(-1), data["next", "done"].squeeze(-1)
    for function, knobs in (
        (offline_losses.discounted_return, {"discount": 0.9}),
        (offline_losses.episode_return, {}),
        (offline_losses.return_filter, {"fraction": 0.5, "by": "steps"}),
        (offline_losses.reward_scale, {"horizon": torch.tensor(10.0)}),
    ):
        assert torch.equal(on_tensordict(function)(data, **knobs), function(reward, done, **knobs))


def test_a_batch_size_without_the_time_axis() -> None:
    """Entries [B, T, 1] are B rows of T steps, whatever share of their axes the batch size counts."""
    reward, done = torch.randn(4, 5, 1), torch.rand(4, 5, 1) < 0.3
    wanted = offline_losses.discounted_return(reward.squeeze(-1), done.squeeze(-1))
    for batch in ([], [4], [4, 5]):
        data = TensorDict({"next": {"reward": reward, "done": done}}, batch)
        assert torch.equal(on_tensordict(offline_losses.discounted_return)(data), wanted)


def test_stored_without_the_trailing_axis(data: TensorDict) -> None:
    bare = data.clone()
    bare["next", "reward"] = bare["next", "reward"].squeeze(-1)
    target = on_tensordict(offline_losses.bellman_target)
    assert torch.equal(target(bare), target(data))


def test_a_batch_of_one_step_keeps_its_axis(data: TensorDict) -> None:
    one = data[..., :1]
    assert on_tensordict(offline_losses.bellman_target)(one).shape == one.batch_size


def test_an_action_of_one_number_keeps_its_axis(data: TensorDict) -> None:
    mean, log_std = torch.zeros_like(data["action"]), torch.zeros(1)
    actual = on_tensordict(offline_losses.gaussian_log_prob)(data, mean=mean, log_std=log_std)
    assert torch.equal(actual, offline_losses.gaussian_log_prob(mean, log_std, data["action"]))
    assert actual.shape == data.batch_size


def test_optional_tensors_are_not_picked_up(data: TensorDict) -> None:
    """The data holds a mask, a weight and next values; none of them may change the result unasked."""
    call = on_tensordict(offline_losses.squared_loss)
    prediction, target = data["state_value"].squeeze(-1), data["value_target"].squeeze(-1)
    assert call(data, prediction=prediction) == offline_losses.squared_loss(prediction, target)
    reward, done = data["next", "reward"].squeeze(-1), data["next", "done"].squeeze(-1)
    unbootstrapped = on_tensordict(offline_losses.discounted_return)(data)
    assert torch.equal(unbootstrapped, offline_losses.discounted_return(reward, done))


def test_optional_tensors_are_taken_when_named(data: TensorDict) -> None:
    prediction, target, mask = (data[key].squeeze(-1) for key in ("state_value", "value_target", "mask"))
    actual = on_tensordict(offline_losses.squared_loss)(
        data, prediction="state_value", mask="mask", weight="weight", reduction="none"
    )
    expected = offline_losses.squared_loss(prediction, target, mask=mask, weight=data["weight"], reduction="none")
    assert torch.equal(actual, expected)
    step = {key: data["next", key].squeeze(-1) for key in ("reward", "done", "state_value", "terminated")}
    bootstrapped = on_tensordict(offline_losses.discounted_return)(
        data, next_value=("next", "state_value"), terminated=("next", "terminated")
    )
    assert torch.equal(
        bootstrapped,
        offline_losses.discounted_return(
            step["reward"], step["done"], next_value=step["state_value"], terminated=step["terminated"]
        ),
    )


def test_string_knobs_are_not_keys(data: TensorDict) -> None:
    data["none"] = data["binary"] = data["state_value"]
    assert (
        on_tensordict(offline_losses.squared_loss)(
            data, prediction="state_value", target="value_target", reduction="none"
        ).shape
        == data.batch_size
    )
    weights = on_tensordict(offline_losses.crr_weights)(data, advantage="state_value", mode="binary")
    assert torch.equal(weights, (data["state_value"].squeeze(-1) > 0).float())


def test_tensors_are_passed_as_they_are(data: TensorDict) -> None:
    """An override is the caller's: a shape that does not fit is refused, not repaired."""
    with pytest.raises(ValueError, match="bellman_target: next_value"):
        on_tensordict(offline_losses.bellman_target)(data, next_value=data["next", "state_value"])


def test_gradients_reach_the_entries(data: TensorDict) -> None:
    data["next", "state_value"].requires_grad_()
    on_tensordict(offline_losses.bellman_target)(data, discount=0.5).sum().backward()
    expected = 0.5 * (~data["next", "terminated"]).float()
    assert torch.equal(data["next", "state_value"].grad, expected)


def test_a_name_outside_the_table_lists_the_table(data: TensorDict) -> None:
    with pytest.raises(
        ValueError, match=r"ensemble_min: q: .*terminated -> \('next', 'terminated'\).*Pass q="
    ) as error:
        on_tensordict(offline_losses.ensemble_min)(data)
    assert all(f"{name} -> {entry.key!r}" in str(error.value) for name, entry in KEYS.items() if entry.key)
    with pytest.raises(ValueError, match=r"squared_loss: prediction: .*Pass prediction="):
        on_tensordict(offline_losses.squared_loss)(data)


def test_a_missing_entry_names_key_and_entries(data: TensorDict) -> None:
    del data["next", "state_value"]
    with pytest.raises(ValueError, match=r"bellman_target: next_value: .*\('next', 'state_value'\).*'reward'"):
        on_tensordict(offline_losses.bellman_target)(data)
    with pytest.raises(ValueError, match="squared_loss: mask: expected the entry 'valid'"):
        on_tensordict(offline_losses.squared_loss)(data, prediction="state_value", mask="valid")


def test_an_entry_that_is_no_tensor_is_refused(data: TensorDict) -> None:
    data["observation"] = TensorDict({"place": torch.zeros(*data.batch_size, 2)}, batch_size=data.batch_size)
    with pytest.raises(ValueError, match="observation_statistics: observation: expected a tensor at 'observation'"):
        on_tensordict(offline_losses.observation_statistics)(data)
    statistics = on_tensordict(offline_losses.observation_statistics)(data, observation=("observation", "place"))
    assert torch.equal(statistics.mean, torch.zeros(2))


def test_an_unknown_override_is_refused(data: TensorDict) -> None:
    with pytest.raises(
        TypeError, match=r"bellman_target: gamma: expected one of the arguments \['reward', .*'discount'"
    ):
        on_tensordict(offline_losses.bellman_target)(data, gamma=0.9)


def test_other_containers_are_refused() -> None:
    with pytest.raises(TypeError, match="bellman_target: data: expected a TensorDict, got dict"):
        on_tensordict(offline_losses.bellman_target)({"reward": torch.zeros(2)})  # type: ignore[arg-type]


def test_functions_without_annotations_go_by_the_table(data: TensorDict) -> None:
    def shifted(reward, offset, label="episode"):  # type: ignore[no-untyped-def]
        return reward + offset, label

    result, label = on_tensordict(shifted)(data, offset=1.0)
    assert torch.equal(result, data["next", "reward"].squeeze(-1) + 1.0)
    assert label == "episode"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_can_be_adapted(name: str) -> None:
    """Required tensors are asked for by name; what is no per-sample tensor stays Python's own business."""
    function: Callable[..., Any] = getattr(offline_losses, name)
    call = on_tensordict(function)
    assert call.__name__ == name
    with pytest.raises((ValueError, TypeError), match=name):
        call(TensorDict({}, batch_size=[3]))


def test_one_number_for_each_sample_is_a_scalar() -> None:
    """As the functions take it; an argument that some take with an axis of its own never loses one."""
    forms: dict[str, set[bool]] = {}
    for case in CASES:
        for name, x in case.build((4,)).items():
            if isinstance(x, torch.Tensor) and name in KEYS:
                forms.setdefault(name, set()).add(x.shape[-1] == 4 and x.ndim <= 2)
    both = {"action", "logits", "support", "noise", "score", "other_score"}  # of either form
    assert {name for name in forms if KEYS[name].scalar} == {name for name in forms if True in forms[name]} - both
    for first, second in (("next_observation", "observation"), ("truncated", "done"), ("episode", "done")):
        assert KEYS[first].scalar is KEYS[second].scalar


def test_axes_of_entries_that_are_named() -> None:
    """A name that the table does not know keeps its axes, as an action does; a batch of one row is no trailing axis."""
    data = TensorDict({"mine": torch.ones(1, 1), "next": TensorDict({"reward": torch.ones(1)}, [1])}, [1])

    def shape(x: torch.Tensor) -> torch.Size:
        """Of what came."""
        return x.shape

    def action(action: torch.Tensor) -> torch.Size:
        return action.shape

    def reward(reward: torch.Tensor) -> torch.Size:
        return reward.shape

    assert on_tensordict(shape)(data, x="mine") == (1, 1)
    assert on_tensordict(action)(data, action="mine") == (1, 1)
    assert on_tensordict(reward)(data, reward="mine") == (1,)
    assert on_tensordict(reward)(data) == (1,)
    told = r"shape: x: expected the entry 'none' in the data, got the entries \[\"\('next', 'reward'\)\", 'mine'\]"
    with pytest.raises(ValueError, match=told):
        on_tensordict(shape)(data, x="none")
    assert (on_tensordict(shape).__doc__ or "").endswith("Of what came.")
    for other in ((), ("mine", 3)):
        with pytest.raises(AttributeError, match="'tuple' object has no attribute 'shape'"):
            on_tensordict(shape)(data, x=other)
