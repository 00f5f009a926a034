"""Recipes on the spaces that people have: one encoding for training and evaluation, or a sentence."""

# ruff: noqa: E402 (the extras are asked for before what needs them is imported)

from __future__ import annotations

import importlib
import math
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for _package in ("minari", "tensordict", "gymnasium", "rich"):
    pytest.importorskip(_package, reason="needs the extra offline-losses[demo]")

import gymnasium as gym
import minari
import numpy as np
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "recipes"))

import encoding
from encoding import Encoding, Unserved, encoding_of
from saved import load_policy

INF = math.inf
BOX = spaces.Box(-1, 1, (2,))
STEPS = 6
SHORT = ["--steps=2", "--evaluations=1", "--episodes=2", "--probe=3", "--batch-size=8", "--hidden=8", "--discount=0.9"]


def stacked(space: spaces.Space[Any], samples: list[Any]) -> Any:
    """Samples of a space as rows, nested as a recorded episode is."""
    if isinstance(space, spaces.Dict):
        return {key: stacked(child, [sample[key] for sample in samples]) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stacked(child, [sample[k] for sample in samples]) for k, child in enumerate(space.spaces))
    return samples if isinstance(space, spaces.Text) else np.stack([np.asarray(x, space.dtype) for x in samples])


def sampled(space: spaces.Space[Any], count: int = 20, seed: int = 0) -> Any:
    space.seed(seed)
    return stacked(space, [space.sample() for _ in range(count)])


def encoded(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> tuple[Encoding, Any, Any]:
    observation, action = sampled(observation_space), sampled(action_space)
    return encoding_of(observation_space, action_space, observation, action), observation, action


# --- observations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "rows", "expected"),
    [
        (spaces.Box(-9, 9, (2,), np.float64), [[1.5, 2], [3, 4]], [[1.5, 2], [3, 4]]),
        (spaces.Box(-9, 9, ()), [1, 2], [[1], [2]]),
        (spaces.Box(0, 255, (1, 2, 1), np.uint8), [[[[7], [255]]]], [[7, 255]]),
        (spaces.Box(-9, 9, (2,), np.int64), [[-9, 9]], [[-9, 9]]),
        (spaces.Box(0, 1, (2,), np.bool_), [[True, False]], [[1, 0]]),
        (spaces.Discrete(3), [2, 0], [[0, 0, 1], [1, 0, 0]]),
        (spaces.Discrete(3, start=-1), [-1, 1], [[1, 0, 0], [0, 0, 1]]),
        (spaces.MultiDiscrete([2, 3], start=[0, 5]), [[1, 5]], [[0, 1, 1, 0, 0]]),
        (spaces.MultiDiscrete([[2], [2]]), [[[1], [0]]], [[0, 1, 1, 0]]),
        (spaces.MultiBinary(3), [[1, 0, 1]], [[1, 0, 1]]),
    ],
)
def test_observations_become_one_vector(space: spaces.Space[Any], rows: Any, expected: Any) -> None:
    rows = np.asarray(rows, space.dtype)
    assert encoding.vector(space, rows).tolist() == expected
    # nested: from a dict and tuple as an environment shows them, and with the keys of a TensorDict
    nested = spaces.Dict({"b": spaces.Tuple([space, space]), "a": space})
    shown, recorded = {"a": rows, "b": (rows, rows)}, {"a": rows, "b": {"0": rows, "1": rows}}
    assert encoding.vector(nested, shown).tolist() == [row * 3 for row in expected]
    assert encoding.vector(nested, recorded).tolist() == [row * 3 for row in expected]


def test_measurements_are_normalized_and_choices_are_not() -> None:
    space = spaces.Dict({"cell": spaces.Discrete(2), "speed": spaces.Box(-INF, INF, (1,))})
    rows = {"cell": np.array([0, 1, 1]), "speed": np.array([[10.0], [20], [30]], np.float32)}
    seen = encoding_of(space, BOX, rows, np.zeros((3, 2))).observe(rows)
    assert seen[:, :2] == pytest.approx(torch.tensor([[1.0, 0], [0, 1], [0, 1]]).numpy(), rel=1e-5)
    assert seen[:, 2].tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5], rel=1e-3)


# --- actions -----------------------------------------------------------------------------------------------------

ACTIONS = [
    BOX,
    spaces.Box(np.array([-2, 0, -INF, 5], np.float32), np.array([2, INF, INF, 5], np.float32)),
    spaces.Box(-3, 4, (), np.float64),
    spaces.Box(-1, 1, (2, 3)),
    spaces.Box(0, 10, (2,), np.int64),
    spaces.Box(0, 255, (2,), np.uint8),
    spaces.Discrete(4),
    spaces.Discrete(4, start=1),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([3, 2, 4]),
    spaces.MultiDiscrete([3, 2], start=[1, -1]),
    spaces.MultiDiscrete([[2, 3], [2, 2]]),
    spaces.MultiBinary(3),
    spaces.MultiBinary((2, 2)),
    spaces.Dict({"steer": spaces.Box(-1, 1, (1,)), "gas": spaces.Box(0, 5, ())}),
    spaces.Tuple([spaces.Discrete(3), spaces.MultiBinary(2)]),
    spaces.Dict({"a": spaces.Tuple([spaces.Discrete(3, start=1)]), "b": spaces.Discrete(2)}),
]


@pytest.mark.parametrize("space", ACTIONS, ids=str)
@pytest.mark.filterwarnings("ignore:.*without a bound")
def test_actions_come_back_as_the_environment_takes_them(space: spaces.Space[Any]) -> None:
    encoder, _, action = encoded(BOX, space)
    inside = encoder.from_environment(action)
    assert torch.isfinite(inside).all()
    if encoder.discrete:
        assert inside.dtype == torch.int64
        assert 0 <= inside.min() <= inside.max() < encoder.action_size
        every = encoder.to_environment(torch.arange(encoder.action_size))
        assert encoder.from_environment(every).tolist() == list(range(encoder.action_size))  # each choice is another
    else:
        assert inside.shape == (20, encoder.action_size)
        assert inside.abs().max() <= 1 + 1e-6
    back = encoder.to_environment(inside)
    for recorded, returned in zip(encoding.taken_apart(space, action), encoding.taken_apart(space, back), strict=True):
        assert returned.dtype == recorded.dtype
        assert returned.double().numpy() == pytest.approx(recorded.double().numpy(), rel=1e-5, abs=1e-5)
    extreme = torch.arange(20) % encoder.action_size if encoder.discrete else torch.randn_like(inside).sign()
    for row in rows_of(space, encoder.to_environment(extreme), 20):
        assert space.contains(row)


def rows_of(space: spaces.Space[Any], batch: Any, count: int) -> Iterator[Any]:
    for k in range(count):
        arrays = iter([array.numpy()[k] for array in encoding.taken_apart(space, batch)])
        yield encoding.put_together(space, arrays)


def test_a_missing_bound_is_the_data_s_and_says_so() -> None:
    """Low or high missing, both, present; and a dimension that cannot be moved."""
    space = spaces.Box(np.array([-2, 0, -INF, -INF, 5], np.float32), np.array([2, INF, 9, INF, 5], np.float32))
    action = np.array([[0, 1, 3, -8, 5], [1, 7, 4, 2, 5]], np.float32)
    with pytest.warns(UserWarning, match="leaves 3 of 5 dimensions of an action without a bound"):
        encoder = encoding_of(BOX, space, np.zeros((2, 2), np.float32), action)
    assert encoder.bounds.tolist() == [[-2, 0, 3, -8, 5], [2, 7, 9, 2, 5]]
    assert encoder.from_environment(action)[0].tolist() == pytest.approx([0, -5 / 7, -1, -1, 0])


def test_bounds_of_a_wide_integer_are_none() -> None:
    with pytest.warns(UserWarning, match="without a bound"):
        encoder, _, action = encoded(BOX, spaces.Box(-(2**31), 2**31 - 1, (2,), np.int32))
    assert encoder.bounds.numpy() == pytest.approx(np.stack([action.min(0), action.max(0)]), rel=1e-6)


@pytest.mark.parametrize(
    ("observation_space", "action_space", "why"),
    [
        (spaces.Box(0, 255, (64, 64, 3), np.uint8), BOX, "its observations are 12288 numbers, as images are"),
        (spaces.Discrete(5000), BOX, "its observations are 5000 numbers"),
        (BOX, spaces.MultiBinary(11), "its actions are 2048 joint choices"),
        (BOX, spaces.Discrete(2000), "its actions are 2000 joint choices"),
        (BOX, spaces.Dict({"move": BOX, "grip": spaces.Discrete(2)}), "continuous in part and choices in part"),
        (spaces.Sequence(BOX), BOX, "holds no arrays of a fixed shape"),
    ],
)
def test_what_no_recipe_takes_is_refused_without_a_pointer_to_one(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any], why: str
) -> None:
    with pytest.raises(Unserved, match=why) as told:
        encoding_of(observation_space, action_space, None, None)
    assert ".py" not in str(told.value)


# --- whole recipes -----------------------------------------------------------------------------------------------


class Odd(gym.Env[Any, Any]):
    """Shows anything, takes any valid action and nothing else, and pays 1 a step."""

    def __init__(self, case: int) -> None:
        self.observation_space, self.action_space = CASES[case][:2]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.steps += 1
        return self.observation_space.sample(), 1.0, False, self.steps == STEPS, {}


CASES: list[tuple[spaces.Space[Any], spaces.Space[Any], str]] = [
    (spaces.Dict({"a": BOX, "b": spaces.Discrete(3)}), BOX, "iql"),
    (spaces.Tuple([BOX, spaces.Box(0, 9, (2, 2), np.int64)]), spaces.Discrete(3, start=1), "discrete_cql"),
    (spaces.Box(-1, 1, ()), spaces.Box(-1, INF, (2,)), "td3_bc"),
    (spaces.Discrete(5, start=2), spaces.Box(np.array([-1, 3], np.float32), np.array([1, 3], np.float32)), "cql"),
    (spaces.Box(0, 255, (3, 3, 1), np.uint8), spaces.MultiDiscrete([2, 3]), "qr_cql"),
    (spaces.MultiBinary(4), spaces.MultiBinary(2), "iql"),
    (spaces.MultiDiscrete([3, 4]), spaces.Dict({"x": BOX, "y": spaces.Box(0, 5, ())}), "fql"),
    (BOX, spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2, start=1)]), "decision_transformer"),
    (BOX, spaces.Box(0, 10, (2,), np.int64), "decision_transformer"),
    (BOX, BOX, "bc"),
    (spaces.Dict({"a": spaces.Dict({"mission": spaces.Text(5), "b": BOX})}), BOX, "awr"),
    (spaces.Box(-INF, INF, (3,)), spaces.Box(-INF, INF, (2,)), "sac"),
    (spaces.Box(-5, 5, (), np.int64), spaces.Box(3, 3, (2,)), "rebrac"),
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    gym.register("Odd-v0", entry_point=f"{__name__}:Odd", disable_env_checker=True)
    yield
    del gym.registry["Odd-v0"]


def recorded(case: int, dataset_id: str = "test/odd-v0", **about: Any) -> Any:
    world = gym.make("Odd-v0", case=case)
    world.action_space.seed(0)
    buffers = []
    for seed in range(3):
        observations, actions = [world.reset(seed=seed)[0]], []
        for _ in range(STEPS):
            actions.append(world.action_space.sample())
            observations.append(world.step(actions[-1])[0])
        buffers.append(
            EpisodeBuffer(
                seed=seed,
                observations=stacked(world.observation_space, observations),
                actions=stacked(world.action_space, actions),
                rewards=np.full(STEPS, float(seed)),
                terminations=np.zeros(STEPS, bool),
                truncations=np.arange(STEPS) == STEPS - 1,
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return minari.create_dataset_from_buffers(dataset_id, buffers, env=world, **about)


def run(recipe: str, *flags: str) -> Any:
    [result] = importlib.import_module(recipe).main(["--dataset", "test/odd-v0", *SHORT, *flags])
    return result


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{recipe}-{seen}-{act}" for seen, act, recipe in CASES])
@pytest.mark.filterwarnings("ignore:.*without a bound", "ignore:.*mission")
def test_recipes_learn_and_act_in_odd_spaces(case: int, tmp_path: Path) -> None:
    recorded(case)
    result = run(CASES[case][2], "--out", str(tmp_path))
    assert result["return"] == STEPS
    assert all(math.isfinite(x) for row in result["history"] for x in row.values())
    saved = load_policy(tmp_path)
    assert saved.encoding.action_space == CASES[case][1]
    if case == 10:  # the text is left out
        assert saved.encoding.observation_space == spaces.Dict({"a": spaces.Dict({"b": BOX})})
    else:
        assert saved.encoding.observation_space == CASES[case][0]
    assert saved.dataset == "test/odd-v0"


def test_a_missing_environment_shows_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(9, requirements=["odd-worlds"])
    monkeypatch.delattr(sys.modules[__name__], "Odd")
    monkeypatch.setattr("common.compile_update", lambda *_: pytest.fail("training began"))
    with (
        pytest.warns(UserWarning, match="odd-worlds"),
        pytest.raises(SystemExit, match=r"expected its environment 'Odd-v0' to be installed.*pip install 'odd-worlds'"),
    ):
        run("bc", "--compile")


def test_a_dataset_that_is_missing_is_a_sentence() -> None:
    with pytest.raises(SystemExit, match="minari download test/odd-v0"):
        run("bc")


def test_a_folder_of_datasets_that_may_only_be_read_is_enough(tmp_path: Path) -> None:
    recorded(9)
    (tmp_path / "datasets").chmod(0o500)
    if os.access(tmp_path / "datasets", os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.warns(UserWarning, match="The data are not kept"):
        assert run("bc")["return"] == STEPS
    (tmp_path / "datasets").chmod(0o700)


def test_an_unserved_space_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MOST_NUMBERS", 1)
    recorded(9)
    with pytest.raises(SystemExit, match=r"^test/odd-v0: its observations are 2 numbers"):
        run("bc")


def test_evaluation_and_reward_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(9)
    common, scales, seeds = importlib.import_module("common"), [], []

    def start_return(dataset: str, act: Any, episodes: int, seed: int) -> tuple[float, float]:
        scales.append(act.scale)
        seeds.append(seed)
        return float(len(seeds)), 0.0

    monkeypatch.setattr(common, "start_return", start_return)
    result = run("bc", "--evaluation-seed=3", "--raw-rewards", "--checkpoints=2", "--steps=3", "--evaluations=3")
    assert result["return_of_checkpoints"] == 3.5  # of the points 2, 3 and 4, behind the episode before the training
    run("bc", "--seed=7", "--return-range=50")
    assert seeds == [0, 0, 0, 0, 3, 0, 0, 10_007]
    assert scales[0] == 1.0
    assert scales[-1] == pytest.approx(50 / 12)


def test_the_temperature_for_locomotion_is_the_paper_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """1/3 where returns span 1000."""
    page, iql = (Path(encoding.__file__).parent / "index.md").read_text(), importlib.import_module("iql")
    _, flags = page.partition("docs/recipes/iql.py --dataset mujoco/")[2].partition("```")[0].split("\\\n", 1)
    options = []
    monkeypatch.setattr(iql, "load_task", lambda given: options.append(given) or sys.exit())
    with pytest.raises(SystemExit):
        iql.main(flags.split())
    assert options[0].temperature == pytest.approx(options[0].return_range / 1000 / 3, rel=0.02)
