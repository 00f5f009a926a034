"""Replaying a dataset in its environment: how far the two lie apart, whatever the observations are made of."""

# ruff: noqa: E402 (the extras are asked for before what needs them is imported)

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

for _package in ("minari", "tensordict", "gymnasium"):
    pytest.importorskip(_package, reason="needs the extra offline-losses[data]")

import gymnasium as gym
import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from offline_losses.adapters.minari import replay_error
from offline_losses.adapters.replay import distance, recorded_environment


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def store(dataset_id: str, **about: Any) -> Any:
    """One episode of three steps in which nothing happens, recorded in Failing-v0."""
    episode = EpisodeBuffer(
        seed=0,
        observations=np.zeros((4, 2)),
        actions=np.zeros(3, np.int64),
        rewards=np.zeros(3),
        terminations=np.zeros(3, bool),
        truncations=np.array([False, False, True]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return minari.create_dataset_from_buffers(dataset_id, [episode], env="Failing-v0", **about)


@pytest.mark.parametrize(
    ("space", "replayed", "recorded", "error"),
    [
        (spaces.Box(0, 255, (2,), np.uint8), [10, 3], [11, 3], 1.0),
        (spaces.Box(-128, 127, (1,), np.int8), [-100], [100], 200.0),
        (spaces.Box(0, 1, (2,), np.bool_), [True, False], [True, True], 1.0),
        (spaces.MultiBinary(2), [0, 1], [0, 1], 0.0),
        (spaces.Discrete(5, start=-2), -2, 2, 4.0),
        (spaces.Box(-np.inf, np.inf, (2,)), [np.nan, 50.0], [0.0, 0.0], np.inf),
        (spaces.Box(-np.inf, np.inf, (2,)), [0.0, 50.0], [np.nan, 0.0], np.inf),
        (spaces.Box(-np.inf, np.inf, (2,)), [np.nan, 50.0], [np.nan, 0.0], 50.0),
        (spaces.Box(-np.inf, np.inf, (2,)), [np.inf, 1.0], [np.inf, 1.5], 0.5),
        (spaces.Box(-np.inf, np.inf, (2,)), [np.inf, 1.0], [-np.inf, 1.0], np.inf),
        (spaces.Text(5), "up", "up", 0.0),
        (spaces.Text(5), "up", "down", np.inf),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_replay_measures_in_float64_what_the_environment_shows(
    space: spaces.Space[Any], replayed: Any, recorded: Any, error: float, nested: bool
) -> None:
    new, old = (
        np.asarray(x, space.dtype) if isinstance(space, (spaces.Box, spaces.MultiBinary)) else x
        for x in (replayed, recorded)
    )
    if nested:
        space = spaces.Dict({"a": spaces.Tuple([spaces.Box(0, 1, (1,)), space]), "b": spaces.Dict({})})
        new, old = ({"a": (np.zeros(1, np.float32), x), "b": {}} for x in (new, old))
    assert distance(space, new, old) == error


def test_replay_tells_another_shape() -> None:
    assert distance(spaces.Box(0, 1, (3,)), np.zeros(1), np.zeros(3)) == np.inf


@pytest.mark.parametrize(
    "shown", [{"a": 0.0}, {"a": 0.0, "c": 0.0}, {"a": 0.0, "b": 0.0, "c": 0.0}, (0.0,), (0.0,) * 3]
)
def test_replay_tells_other_parts(shown: Any) -> None:
    """An environment of another version may show more, or less."""
    box = spaces.Box(0, 1, ())
    space = spaces.Dict({"a": box, "b": box}) if isinstance(shown, dict) else spaces.Tuple([box, box])
    recorded: Any = {"a": 0.0, "b": 0.0} if isinstance(shown, dict) else (0.0, 0.0)
    assert distance(space, recorded, recorded) == 0
    assert distance(space, shown, recorded) == np.inf


def test_nothing_differs_where_nothing_is_shown() -> None:
    assert distance(spaces.Dict({}), {}, {}) == distance(spaces.Tuple([]), (), ()) == 0


class Failing(gym.Env[Any, Any]):
    """What it shows is NaN after the first step, beside an error that grows."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self, broken: bool = False) -> None:
        self.broken, self.steps = broken, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        return np.zeros(2), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return np.array([np.nan, 50.0]) if self.broken else np.zeros(2), 0.0, False, self.steps == 3, {}


def test_replay_does_not_swallow_nan() -> None:
    for broken, error in ((False, 0.0), (True, np.inf)):
        gym.register("Failing-v0", entry_point=f"{__name__}:Failing", kwargs={"broken": broken})
        try:
            assert replay_error(store(f"test/failing{int(broken)}-v0")) == error
        finally:
            del gym.registry["Failing-v0"]


def test_replay_says_which_environment_is_missing() -> None:
    gym.register("Failing-v0", entry_point=f"{__name__}:Failing")
    dataset = store("test/missing-v0", requirements=["some-worlds>=2"])
    del gym.registry["Failing-v0"]
    dataset.env_spec.entry_point = "some_worlds:Failing"
    asked = pytest.warns(UserWarning, match="some-worlds")  # Minari's own
    with asked, pytest.raises(ImportError, match=r"^replay_error: dataset 'test/missing-v0': expected its env") as told:
        replay_error(dataset)
    assert "pip install 'some-worlds>=2'" in str(told.value)
    assert "'Failing-v0' to be installed, got ModuleNotFoundError: No module named 'some_worlds'. " in str(told.value)


def test_the_recorded_environment_or_the_one_to_evaluate_in() -> None:
    ids = ("Failing-v0", "Better-v0")
    for name in ids:
        gym.register(name, entry_point=f"{__name__}:Failing")
    try:
        dataset = store("test/two-v0", eval_env="Better-v0")
        found = [recorded_environment(dataset, evaluation=evaluation).spec for evaluation in (False, True)]
        assert [spec and spec.id for spec in (*found, recorded_environment(dataset).spec)] == [*ids, ids[0]]
    finally:
        for name in ids:
            del gym.registry[name]


class Counting(gym.Env[Any, Any]):
    """Shows the number of the step, and is over after so many."""

    def __init__(self, length: int, cut: bool) -> None:
        self.length, self.cut, self.closed = length, cut, False

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        return np.zeros(1), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        over = self.steps == self.length
        return np.full(1, float(self.steps)), 0.0, over and not self.cut, over and self.cut, {}

    def close(self) -> None:
        self.closed = True


def replayed(
    monkeypatch: pytest.MonkeyPatch, length: int = 100, *, cut: bool = False, wrong: int = 100, seed: int | None = 0
) -> Callable[..., float]:
    """The error of two episodes of twelve steps; in the first one observation is off by 2, in the second all by 1."""
    steps = np.arange(13.0)[:, None]
    episodes = [
        EpisodeBuffer(
            seed=seed,
            observations=observations,
            actions=np.zeros(12, np.int64),
            rewards=np.zeros(12),
            terminations=np.zeros(12, bool),
            truncations=np.arange(12) == 11,
        )
        for observations in (steps + 2 * (steps == wrong), steps + 1)
    ]
    box, choice = spaces.Box(-np.inf, np.inf, (1,), np.float64), spaces.Discrete(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = minari.create_dataset_from_buffers(
            "test/counted-v0", episodes, observation_space=box, action_space=choice
        )

    def error(**asked: int) -> float:
        environment = Counting(length, cut)
        monkeypatch.setattr("offline_losses.adapters.minari.recorded_environment", lambda *_, **__: environment)
        try:
            return replay_error(dataset, **asked)
        finally:
            assert environment.closed

    return error


def test_replay_takes_the_first_episode_and_ten_steps_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless more are asked for; what there is is enough."""
    error = replayed(monkeypatch, wrong=11)
    assert error() == error(steps=10) == error(steps=0) == 0
    assert error(steps=11) == error(steps=50) == 2
    assert error(episodes=2) == error(episodes=2, steps=0) == 1
    assert error(episodes=5, steps=50) == 2


def test_replay_begins_with_the_first_observation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert replayed(monkeypatch, wrong=0)(steps=0) == 2


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(("length", "expected"), [(11, np.inf), (12, 0.0), (13, 0.0)])
def test_replay_tells_an_episode_that_is_over_too_early(
    length: int, expected: float, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one step; an environment that ends with the recording, or goes on, does as recorded."""
    error = replayed(monkeypatch, length, cut=cut)
    assert error(steps=12) == expected
    assert error(steps=10) == 0


def test_replay_closes_the_environment_of_an_episode_without_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="recorded seed"):
        replayed(monkeypatch, seed=None)()
