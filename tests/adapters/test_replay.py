"""Replaying a dataset in its environment: how far the two lie apart, whatever the observations are made of."""

# ruff: noqa: E402 (the extras are asked for before what needs them is imported)

from __future__ import annotations

import warnings
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
from offline_losses.adapters.replay import distance


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
        space = spaces.Dict({"a": spaces.Tuple([spaces.Box(0, 1, (1,)), space])})
        new, old = ({"a": (np.zeros(1, np.float32), x)} for x in (new, old))
    assert distance(space, new, old) == error


def test_replay_tells_another_shape() -> None:
    assert distance(spaces.Box(0, 1, (3,)), np.zeros(1), np.zeros(3)) == np.inf


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
