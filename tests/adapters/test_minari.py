"""The Minari adapter: flat columns equal the episodes, and every trap of a dataset is refused or handled by name."""

# ruff: noqa: E402 (the extras are asked for before what needs them is imported)

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

minari = pytest.importorskip("minari", reason="needs the extra offline-losses[data]")
h5py = pytest.importorskip("h5py", reason="needs the extra offline-losses[data]")
pytest.importorskip("tensordict", reason="needs the extra offline-losses[data]")

import numpy as np
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from offline_losses import discounted_return, episode_return, return_filter
from offline_losses.adapters import columns, episodes, hdf5, memory
from offline_losses.adapters.entries import Choice
from offline_losses.adapters.minari import load_minari, replay_error

OBSERVATION = spaces.Box(-np.inf, np.inf, (3,), np.float64)
LENGTHS = (4, 1, 7)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def episode(length: int, rng: np.random.Generator, **changes: Any) -> EpisodeBuffer:
    """A sound episode that terminates, except for what `changes` breaks."""
    sound = {
        "observations": rng.normal(size=(length + 1, 3)),
        "actions": rng.integers(0, 4, length),
        "rewards": rng.normal(size=length),
        "terminations": np.arange(length) == length - 1,
        "truncations": np.zeros(length, dtype=bool),
    }
    return EpisodeBuffer(**{**sound, **changes})


def store(
    buffers: list[EpisodeBuffer],
    *,
    observation_space: spaces.Space[Any] = OBSERVATION,
    action_space: spaces.Space[Any] | None = None,
    dataset_id: str = "test/broken-v0",
    **about: Any,
) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return minari.create_dataset_from_buffers(
            dataset_id,
            buffers,
            observation_space=observation_space,
            action_space=spaces.Discrete(4) if action_space is None else action_space,
            **about,
        )


def sound_dataset(dataset_id: str = "test/sound-v0") -> Any:
    rng = np.random.default_rng(0)
    return store([episode(length, rng) for length in LENGTHS], dataset_id=dataset_id)


def main_file(dataset: Any) -> Path:
    return Path(dataset.storage.data_path) / "main_data.hdf5"


def edit_metadata(dataset: Any, **changes: Any) -> None:
    path = Path(dataset.storage.data_path) / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- the flat columns --------------------------------------------------------------------------------------------


def test_columns_are_the_episodes_one_after_the_other() -> None:
    dataset = sound_dataset()
    data = load_minari("test/sound-v0")
    assert data.batch_size == torch.Size([sum(LENGTHS)])
    start = 0
    for stored in dataset.iterate_episodes():
        rows = data[start : start + len(stored)]
        start += len(stored)
        assert rows["observation"].numpy() == pytest.approx(stored.observations[:-1], rel=1e-6)
        assert rows["next", "observation"].numpy() == pytest.approx(stored.observations[1:], rel=1e-6)
        assert rows["next", "reward"].numpy() == pytest.approx(stored.rewards, rel=1e-6)
        assert rows["action"].tolist() == stored.actions.tolist()
        assert rows["next", "terminated"].tolist() == stored.terminations.tolist()
        assert rows["next", "truncated"].tolist() == stored.truncations.tolist()
        assert rows["next", "done"].tolist() == [False] * (len(stored) - 1) + [True]
        assert rows["episode"].tolist() == [stored.id] * len(stored)
    assert start == len(data)


def test_dtypes_and_shapes() -> None:
    sound_dataset()
    data = load_minari("test/sound-v0")
    assert {key: (data[key].dtype, data[key].ndim) for key in data.keys(include_nested=True, leaves_only=True)} == {
        "observation": (torch.float32, 2),
        "action": (torch.int64, 1),
        "episode": (torch.int64, 1),
        ("next", "observation"): (torch.float32, 2),
        ("next", "reward"): (torch.float32, 1),
        ("next", "terminated"): (torch.bool, 1),
        ("next", "truncated"): (torch.bool, 1),
        ("next", "done"): (torch.bool, 1),
    }


def test_a_row_takes_as_many_bytes_as_is_said() -> None:
    """By which memory and the room on a disk are judged beforehand."""
    kinds = {"real": np.float64, "bytes": np.uint8, "whole": np.int32}
    space = spaces.Dict({name: spaces.Box(0, 9, (2, 3), kind) for name, kind in kinds.items()})
    observations = {name: np.ones((3, 2, 3), kind) for name, kind in kinds.items()}
    dataset = store([episode(2, np.random.default_rng(0), observations=observations)], observation_space=space)
    reading = columns.EpisodeReading(dataset, Choice())
    assert reading.row_bytes == sum(x[0].nbytes for x in load_minari(dataset).values(True, True))


def test_returns_on_flat_data_equal_loops_over_episodes() -> None:
    dataset = sound_dataset()
    data = load_minari(dataset)
    reward, done = data["next", "reward"].double(), data["next", "done"]
    expected = []
    for stored in dataset.iterate_episodes():
        tail = 0.0
        backwards = []
        for number in stored.rewards[::-1].astype(np.float32).astype(np.float64):
            tail = number + 0.9 * tail
            backwards.append(tail)
        expected += backwards[::-1]
    assert discounted_return(reward, done, discount=0.9).numpy() == pytest.approx(np.array(expected), rel=1e-12)
    sums = [float(np.sum(stored.rewards.astype(np.float32), dtype=np.float64)) for stored in dataset.iterate_episodes()]
    assert episode_return(reward, done)[done].tolist() == pytest.approx(sums, rel=1e-12)
    kept = return_filter(reward, done, fraction=1 / 3)
    assert data["episode"][kept].unique().tolist() == [int(np.argmax(sums))]


def test_dict_and_tuple_spaces_are_nested_keys() -> None:
    observation_space = spaces.Dict(
        {
            "goal": spaces.Box(-1, 1, (2,), np.float32),
            "parts": spaces.Tuple((spaces.Discrete(5), spaces.Box(0, 255, (2, 2, 1), np.uint8))),
        }
    )
    action_space = spaces.Dict({"move": spaces.Box(-1, 1, (1,), np.float32), "press": spaces.MultiDiscrete([2, 3])})
    rng = np.random.default_rng(1)
    buffers = [
        episode(
            length,
            rng,
            observations={
                "goal": rng.uniform(-1, 1, (length + 1, 2)).astype(np.float32),
                "parts": (rng.integers(0, 5, length + 1), rng.integers(0, 256, (length + 1, 2, 2, 1)).astype(np.uint8)),
            },
            actions={"move": rng.uniform(-1, 1, (length, 1)), "press": rng.integers(0, 2, (length, 2))},
        )
        for length in LENGTHS
    ]
    data = load_minari(store(buffers, observation_space=observation_space, action_space=action_space))
    goals = [buffer.observations["goal"] for buffer in buffers]
    images = [buffer.observations["parts"][1] for buffer in buffers]
    assert np.array_equal(data["observation", "goal"], np.concatenate([goal[:-1] for goal in goals]))
    assert np.array_equal(data["next", "observation", "goal"], np.concatenate([goal[1:] for goal in goals]))
    assert np.array_equal(data["next", "observation", "parts", "1"], np.concatenate([image[1:] for image in images]))
    assert data["observation", "parts", "0"].dtype == torch.int64
    assert data["observation", "parts", "1"].dtype == torch.uint8
    assert data["action", "move"].dtype == torch.float32
    assert data["action", "press"].shape == (sum(LENGTHS), 2)


def test_a_key_with_a_slash(tmp_path: Path) -> None:
    """It is read as any other, and left out of what becomes files."""
    space, rng = spaces.Dict({"a/b": spaces.Box(-1, 1, (2,)), "c": spaces.Box(-1, 1, (1,))}), np.random.default_rng(0)
    seen = {"a/b": rng.uniform(-1, 1, (4, 2)).astype(np.float32), "c": np.zeros((4, 1), np.float32)}
    dataset = store([episode(3, rng, observations=seen)], observation_space=space)
    assert np.array_equal(load_minari(dataset)["next", "observation", "a/b"], seen["a/b"][1:])
    with pytest.raises(ValueError, match=r"^load_minari: expected keys that may name files, got .*'a/b'"):
        load_minari(dataset, memmap=tmp_path / "flat")
    others = [("observation", "a/b"), ("next", "observation", "a/b")]
    assert len(load_minari(dataset, memmap=tmp_path / "flat", exclude=others)) == 3


def test_filtered_dataset_gives_its_own_episodes() -> None:
    dataset = sound_dataset().filter_episodes(lambda stored: len(stored) != 1)
    data = load_minari(dataset)
    assert data["episode"].tolist() == [0] * 4 + [2] * 7


def test_the_buffers_dtype_does_not_decide() -> None:
    rng = np.random.default_rng(2)
    changes = {"actions": np.array([0.0, 3.0]), "rewards": np.array([1, 2]), "terminations": np.array([0, 1])}
    data = load_minari(store([episode(2, rng, **changes)]))
    assert data["action"].tolist() == [0, 3]
    assert data["action"].dtype == torch.int64
    assert data["next", "reward"].dtype == torch.float32
    assert data["next", "done"].tolist() == [False, True]


# --- what is mended, with a warning ------------------------------------------------------------------------------


def test_an_open_end_is_marked_truncated_and_counted() -> None:
    rng = np.random.default_rng(3)
    buffers = [episode(3, rng, terminations=np.zeros(3, dtype=bool)) for _ in range(2)] + [episode(2, rng)]
    dataset = store(buffers)
    with pytest.warns(UserWarning, match="'test/broken-v0': 2 of 3 episodes end with neither flag") as caught:
        data = load_minari(dataset)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert data["next", "truncated"].tolist() == [False, False, True] * 2 + [False, False]
    assert data["next", "terminated"].tolist() == [False] * 7 + [True]
    assert data["next", "done"].tolist() == [False, False, True] * 2 + [False, True]


def test_both_flags_on_the_last_step_are_kept() -> None:
    data = load_minari(store([episode(2, np.random.default_rng(4), truncations=np.array([False, True]))]))
    assert data["next", "terminated"].tolist() == data["next", "truncated"].tolist() == [False, True]


def test_continuous_actions_outside_the_space_are_told() -> None:
    rng = np.random.default_rng(5)
    dataset = store(
        [episode(3, rng, actions=np.array([[0.5], [2.0], [-1.5]]))], action_space=spaces.Box(-1, 1, (1,), np.float32)
    )
    with pytest.warns(UserWarning, match=r"2 of 3 actions lie outside Box\(-1.0, 1.0, .*first is \[2.\]"):
        data = load_minari(dataset)
    assert data["action"].tolist() == [[0.5], [2.0], [-1.5]]


# --- what is refused ---------------------------------------------------------------------------------------------

WITH_NAN = np.array([[0.0, 0, 0], [0, np.nan, 0], [0, 0, 0], [0, 0, 0]])
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "observations T": (
        {"observations": np.zeros((3, 3))},
        r"observations: expected shape \(4, 3\) \(a row for each reward and one for the last .*got \(3, 3\)",
    ),
    "observations T-1": ({"observations": np.zeros((2, 3))}, r"observations: expected shape \(4, 3\).*got \(2, 3\)"),
    "observations T+3": ({"observations": np.zeros((6, 3))}, r"observations: expected shape \(4, 3\).*got \(6, 3\)"),
    "observation width": ({"observations": np.zeros((4, 2))}, r"observations: expected shape \(4, 3\).*got \(4, 2\)"),
    "fewer actions": (
        {"actions": np.array([0, 1])},
        r"actions: expected shape \(3,\) \(a row for each reward\), got \(2,\)",
    ),
    "action shape": ({"actions": np.zeros((3, 1), dtype=int)}, r"actions: expected shape \(3,\).*got \(3, 1\)"),
    "reward column": ({"rewards": np.zeros((3, 1))}, r"rewards: expected shape \(3,\).*got \(3, 1\)"),
    "fewer flags": ({"truncations": np.zeros(2, dtype=bool)}, r"truncations: expected shape \(3,\).*got \(2,\)"),
    "more flags": ({"terminations": np.zeros(4, dtype=bool)}, r"terminations: expected shape \(3,\).*got \(4,\)"),
    "NaN observation": ({"observations": WITH_NAN}, r"observation: expected numbers.*finite.*nan.*at step 1"),
    "complex reward": ({"rewards": np.ones(3, complex)}, r"rewards: expected values of Box\(-inf, inf, .*complex128"),
    "infinite reward": ({"rewards": np.array([0, 0, np.inf])}, r"next/reward: expected.*finite.*got inf at step 2"),
    "float32 overflow": ({"rewards": np.array([0, 1e300, 0])}, r"next/reward: expected.*finite.*got inf at step 1"),
    "unknown action": ({"actions": np.array([0, 4, 1])}, r"actions: expected values of Discrete\(4\), got 4 at step 1"),
    "negative action": ({"actions": np.array([0, 1, -1])}, r"actions: expected values of Discrete\(4\), got -1"),
    "fractional action": ({"actions": np.array([0.5, 1, 1])}, r"actions: expected values of Discrete\(4\), got others"),
    "flags of 2": ({"terminations": np.array([0, 0, 2])}, r"terminations: expected flags"),
    "end inside": ({"terminations": np.array([True, False, True])}, r"terminations: expected an end flag.*at step 0"),
    "cut inside": ({"truncations": np.array([False, True, False])}, r"truncations: expected an end flag.*at step 1"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_episode_is_refused_by_name(case: str) -> None:
    changes, message = BROKEN[case]
    rng = np.random.default_rng(6)
    dataset = store([episode(5, rng), episode(3, rng, **changes), episode(2, rng)])
    with pytest.raises(ValueError, match=rf"^load_minari: dataset 'test/broken-v0', episode 1, {message}.* anew"):
        load_minari(dataset)


@pytest.mark.parametrize("case", BROKEN)
def test_broken_episode_of_another_storage_is_refused_alike(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole episodes as Minari gives them are checked as slices of its HDF5 files are."""
    whole = columns.EpisodeReading
    monkeypatch.setattr(whole, "_pieces", lambda self, rows: episodes.record_pieces(self.dataset, self.leaves.all))
    test_broken_episode_is_refused_by_name(case)


def test_missing_leaf_of_a_dict_space_is_refused() -> None:
    space = spaces.Dict({"goal": spaces.Box(-1, 1, (2,), np.float32), "sight": spaces.Box(-1, 1, (1,), np.float32)})
    rng = np.random.default_rng(7)
    observations = {"goal": np.zeros((3, 2), np.float32), "sight": np.zeros((3, 1), np.float32)}
    dataset = store([episode(2, rng, observations=observations)], observation_space=space)
    with h5py.File(main_file(dataset), "a") as file:
        del file["episode_0/observations/sight"]
    with pytest.raises(ValueError, match=r"dataset 'test/broken-v0', episode 0, observations/sight: .*got none"):
        load_minari(dataset)


def test_empty_episode_is_refused() -> None:
    dataset = sound_dataset("test/broken-v0")
    with h5py.File(main_file(dataset), "a") as file:
        for name in ("rewards", "actions", "terminations", "truncations"):
            file[f"episode_1/{name}"].resize(0, axis=0)
    with pytest.raises(ValueError, match=r"'test/broken-v0', episode 1, rewards: expected at least one step"):
        load_minari(dataset)


def test_a_reward_that_is_one_number_is_refused() -> None:
    dataset = sound_dataset("test/broken-v0")
    with h5py.File(main_file(dataset), "a") as file:
        del file["episode_1/rewards"]
        file["episode_1/rewards"] = 1.0
    with pytest.raises(ValueError, match=r"'test/broken-v0', episode 1, rewards: expected at least one step"):
        load_minari(dataset)


def test_dataset_without_episodes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'test/broken-v0', episodes: expected at least one, got none"):
        load_minari(store([]))


def with_words(rng: np.random.Generator) -> Any:
    space = spaces.Dict({"words": spaces.Text(10), "place": OBSERVATION})
    observations = {"words": ["a", "b", "c"], "place": np.zeros((3, 3))}
    return store([episode(2, rng, observations=observations)], observation_space=space)


def test_an_entry_that_is_no_array_is_left_out_and_told() -> None:
    dataset = with_words(np.random.default_rng(8))
    told = "'test/broken-v0': observations/words is left out, being no array"
    with pytest.warns(UserWarning, match=told):
        data = load_minari(dataset)
    with pytest.warns(UserWarning, match=told):
        load_minari(dataset, exclude=[("next", "observation", "words")])
    assert data["observation", "place"].shape == data["next", "observation", "place"].shape == (2, 3)
    assert ("observation", "words") not in data.keys(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_minari(dataset, keys=[("observation", "place"), "action"])
        load_minari(dataset, exclude=[("observation", "words"), ("next", "observation", "words")])


def test_entries_that_are_no_arrays_are_refused_where_they_are_wanted() -> None:
    rng = np.random.default_rng(8)
    expected = r"expected a space of arrays .* got Text.*exclude=\[\("
    with pytest.raises(ValueError, match=rf"'test/broken-v0', observations/words: {expected}"):
        load_minari(with_words(rng), keys=[("observation", "words")])
    alone = episode(2, rng, observations=["a", "b", "c"])
    alone = store([alone], observation_space=spaces.Text(3), dataset_id="test/text-v0")
    for keys in (None, ["observation"]):
        with pytest.raises(ValueError, match=rf"'test/text-v0', observations: {expected}"):
            load_minari(alone, keys=keys)
    spoken = episode(2, rng, actions=["a", "b"])
    with pytest.raises(ValueError, match=rf"'test/said-v0', actions: {expected}"):
        load_minari(store([spoken], action_space=spaces.Text(3), dataset_id="test/said-v0"))


# --- entries by choice -------------------------------------------------------------------------------------------


def test_keys_pick_entries_and_exclude_leaves_them_out() -> None:
    dataset = sound_dataset()
    always = {"episode", ("next", "terminated"), ("next", "truncated"), ("next", "done")}
    whole = load_minari(dataset)
    picked = load_minari(dataset, keys=["observation", ("next", "reward")])
    assert set(picked.keys(True, True)) == always | {"observation", ("next", "reward")}
    left = load_minari(dataset, exclude=[("next", "observation"), "action"])
    assert set(left.keys(True, True)) == always | {"observation", ("next", "reward")}
    assert (picked == whole.select(*picked.keys(True, True))).all()
    assert set(load_minari(dataset, keys=[]).keys(True, True)) == always
    assert set(load_minari(dataset, keys=["next"], exclude=["next"]).keys(True, True)) == always


def test_a_damaged_entry_that_is_left_out_is_not_read() -> None:
    dataset = sound_dataset("test/broken-v0")
    with h5py.File(main_file(dataset), "a") as file:
        del file["episode_1/actions"]
    assert len(load_minari(dataset, exclude=["action"])) == sum(LENGTHS)


@pytest.mark.parametrize("argument", ["keys", "exclude", "dtype"])
def test_a_key_that_fits_nothing_is_refused(argument: str) -> None:
    value: Any = {"obs": torch.float64} if argument == "dtype" else ["obs"]
    with pytest.raises(ValueError, match=rf"^load_minari: {argument}: expected keys of entries, got 'obs'.*'action'"):
        load_minari(sound_dataset(), **{argument: value})
    with pytest.raises(TypeError, match=r"load_minari: keys: expected a list of keys, got 'action'"):
        load_minari("test/sound-v0", keys="action")
    for one_key in (("next", "reward"), ("next", "observation")):
        with pytest.raises(TypeError, match=r"load_minari: exclude: expected a list of keys, got \('next'"):
            load_minari("test/sound-v0", exclude=one_key)
    with pytest.raises(TypeError, match=r"load_minari: keys: expected keys, got 1"):
        load_minari("test/sound-v0", keys=[1])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"load_minari: dtype: expected a dict .*, got torch\.float64"):
        load_minari("test/sound-v0", dtype=torch.float64)  # type: ignore[arg-type]


def test_dtype_of_an_entry() -> None:
    dataset = sound_dataset()
    stored = np.concatenate([buffer.observations[:-1] for buffer in dataset.iterate_episodes()])
    dtype = {
        "observation": torch.float64,
        "next": torch.float16,
        ("next", "reward"): torch.float64,
        "action": torch.uint8,
    }
    data = load_minari(dataset, dtype=dtype)
    assert np.array_equal(data["observation"].numpy(), stored)
    assert data["next", "observation"].dtype == torch.float16
    assert data["next", "reward"].dtype == torch.float64
    assert data["next", "done"].dtype == torch.bool
    assert data["action"].dtype == torch.uint8
    with pytest.raises(ValueError, match=r"episode \d, observations: expected values of Box.* that int8 can hold"):
        load_minari(dataset, dtype={"observation": torch.int8})
    with pytest.raises(TypeError, match=r"dtype of 'action': expected one of .*got torch.bfloat16"):
        load_minari(dataset, dtype={"action": torch.bfloat16})
    large = episode(2, np.random.default_rng(0), rewards=np.array([1.0, 1e5]))
    with pytest.raises(ValueError, match=r"episode 0, next/reward: expected numbers that are finite in float16"):
        load_minari(store([large]), dtype={("next", "reward"): torch.float16})


def test_numbers_that_become_equal_in_float32_are_told_by_name() -> None:
    clock = 1.7e9 + np.arange(4.0)[:, None] + np.zeros((4, 3))
    dataset = store([episode(3, np.random.default_rng(0), observations=clock)])
    with pytest.warns(UserWarning, match=r"'test/broken-v0', observation: 9 of 9 changes .* in float32.*1700000001.0"):
        load_minari(dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_minari(dataset, dtype={"observation": torch.float64, "next": torch.float64})
        load_minari(sound_dataset())
    assert (data["next", "observation"] - data["observation"]).unique().tolist() == [1.0]


# --- spaces ------------------------------------------------------------------------------------------------------


def test_discrete_spaces_keep_their_numbers() -> None:
    rng = np.random.default_rng(0)
    space = spaces.Dict(
        {
            "start": spaces.Discrete(3, start=5),
            "grid": spaces.MultiDiscrete([[2, 3], [4, 5]]),
            "lit": spaces.MultiBinary((2, 2)),
            "whole": spaces.Box(-5, 5, (2,), np.int32),
            "a/b": spaces.Box(-1, 1, (), np.float32),
        }
    )
    steps = {name: np.stack([space[name].sample() for _ in range(4)]) for name in space}
    actions = {name: column[:-1] for name, column in steps.items()}
    dataset = store([episode(3, rng, observations=steps, actions=actions)], observation_space=space, action_space=space)
    data = load_minari(dataset)
    for name, column in steps.items():
        dtype = torch.float32 if name == "a/b" else torch.int64
        assert data["observation", name].dtype == data["action", name].dtype == dtype
        assert np.array_equal(data["observation", name].numpy(), column[:-1])
        assert np.array_equal(data["next", "observation", name].numpy(), column[1:])
        assert np.array_equal(data["action", name].numpy(), column[:-1])


@pytest.mark.parametrize(
    ("space", "wrong"),
    [
        (spaces.Discrete(3, start=5), 4),
        (spaces.Discrete(3, start=5), 8),
        (spaces.MultiDiscrete([2, 3]), [1, 3]),
        (spaces.MultiDiscrete([2, 3], start=[0, 1]), [0, 0]),
        (spaces.MultiBinary(2), [0, 2]),
    ],
)
def test_discrete_actions_outside_their_space_are_refused(space: Any, wrong: Any) -> None:
    sound = space.sample()
    bad = episode(2, np.random.default_rng(0), actions=np.stack([sound, np.asarray(wrong, dtype=space.dtype)]))
    with pytest.raises(ValueError, match=r"episode 0, actions: expected values of .*at step 1"):
        load_minari(store([bad], action_space=space))


@pytest.mark.parametrize("jpeg", [True, False])
def test_images_as_minari_stores_them(jpeg: bool) -> None:
    """JPEG is Minari's default for 32 x 32 pixels and more, and loses a little; smaller ones are stored as they are."""
    rng = np.random.default_rng(0)
    space = spaces.Dict(
        {"large": spaces.Box(0, 255, (32, 40, 3), np.uint8), "small": spaces.Box(0, 255, (7, 7, 3), np.uint8)}
    )
    smooth = np.broadcast_to(np.linspace(0, 250, 40).astype(np.uint8)[None, None, :, None], (4, 32, 40, 3))
    observations = {"large": smooth, "small": rng.integers(0, 256, (4, 7, 7, 3)).astype(np.uint8)}
    dataset = store([episode(3, rng, observations=observations)], observation_space=space, jpeg_encoding=jpeg)
    (stored,) = dataset.iterate_episodes()
    data = load_minari(dataset)
    assert data["observation", "large"].dtype == torch.uint8
    assert np.array_equal(data["next", "observation", "large"], stored.observations["large"][1:])
    assert np.array_equal(data["observation", "small"], observations["small"][:-1])
    error = np.abs(data["observation", "large"].numpy().astype(int) - smooth[:-1]).max()
    assert 0 < error < 10 if jpeg else error == 0


def test_images_that_are_missing_are_refused() -> None:
    """One frame for each observation, also where they are stored as JPEG."""
    rng = np.random.default_rng(0)
    frames = np.zeros((4, 32, 40, 3), np.uint8)
    dataset = store([episode(3, rng, observations=frames)], observation_space=spaces.Box(0, 255, (32, 40, 3), np.uint8))
    with h5py.File(main_file(dataset), "a") as file:
        file["episode_0/observations"].resize(3, axis=0)
    with pytest.raises(
        ValueError, match=r"episode 0, observations: expected shape \(4, 32, 40, 3\) .*got \(3, 32, 40, 3"
    ):
        load_minari(dataset)


# --- many episodes, and long ones --------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 200, 1 << 21])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes in slices, one by one, or many together."""
    rng = np.random.default_rng(0)
    dataset = store([*(episode(length, rng) for length in LENGTHS), episode(3, rng, terminations=np.zeros(3, bool))])
    with pytest.warns(UserWarning, match="1 of 4 episodes end with neither flag"):
        whole = load_minari(dataset)
    monkeypatch.setattr(columns, "BLOCK", block)
    with pytest.warns(UserWarning, match="1 of 4 episodes end with neither flag"):
        assert (load_minari(dataset) == whole).all()


@pytest.mark.parametrize("block", [1, 1 << 21])
@pytest.mark.parametrize("case", ["infinite reward", "unknown action", "fractional action", "end inside"])
def test_blocks_name_the_same_step(case: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK", block)
    test_broken_episode_is_refused_by_name(case)


def test_hdf5_keeps_little_of_what_it_has_looked_at() -> None:
    """A mebibyte from the first episode to the last, where it would take up to 32."""
    config = hdf5._opened(str(main_file(sound_dataset()))).get_mdc_config()
    assert config.initial_size == config.max_size == 1 << 20


def test_infos_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    dataset = store([episode(2, rng, infos={"k": np.arange(3)})])
    monkeypatch.setattr(type(dataset.storage), "get_episodes", lambda *_: pytest.fail("read with infos"))
    assert len(load_minari(dataset)) == 2


def test_steps_that_metadata_counts_are_there() -> None:
    dataset = sound_dataset("test/broken-v0")
    edit_metadata(dataset, total_steps=20)
    with pytest.raises(ValueError, match=r"'test/broken-v0', rewards: expected the 20 steps that metadata.json counts"):
        load_minari("test/broken-v0")
    chosen = minari.load_dataset("test/broken-v0").filter_episodes(lambda stored: len(stored) > 1)
    assert len(load_minari(chosen)) == 11


def test_steps_that_the_metadata_of_an_episode_counts_are_there() -> None:
    records = [{"total_steps": 3}]
    storage = SimpleNamespace(
        FORMAT="arrow",
        get_episode_metadata=lambda _: records,
        get_episodes=lambda _: [{"rewards": np.zeros(2)}],
    )
    dataset: Any = SimpleNamespace(id="test/arrow-v0", storage=storage, episode_indices=np.array([0]))
    with pytest.raises(ValueError, match=r"'test/arrow-v0', episode 0, rewards: expected the 3 steps on record, got 2"):
        list(episodes.record_pieces(dataset, []))


def test_an_arrow_episode_that_was_appended_to_is_refused() -> None:
    pytest.importorskip("pyarrow", reason="Minari's arrow format is not among the extras")
    rng = np.random.default_rng(0)
    dataset = store([episode(2, rng)], data_format="arrow")
    rest = episode(3, rng, id=0, observations=np.zeros((3, 3)))
    dataset.storage.update_episodes([rest])
    with pytest.raises(ValueError, match=r"episode 0, rewards: expected the 3 steps on record, got 2"):
        load_minari(minari.load_dataset("test/broken-v0"))


def test_columns_larger_than_memory_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 100)
    with pytest.raises(MemoryError, match=r"'test/sound-v0': expected room for .* GB of columns \(12 steps of"):
        load_minari(sound_dataset())


def test_just_as_much_memory_as_there_is_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve steps of an eighth of a gigabyte are 1.5."""
    monkeypatch.setattr(memory, "free_memory", lambda: 1_500_000_000)
    memory.require_memory("here", 12, 125_000_000, "Do")
    monkeypatch.setattr(memory, "free_memory", lambda: 1_490_000_000)
    with pytest.raises(MemoryError, match=r"1\.50 GB .*\(12 steps of 125000000 bytes\), got 1\.49 GB of free memory"):
        memory.require_memory("here", 12, 125_000_000, "Do")


INFO = "MemTotal:  9 kB\nMemFree:  1 kB\nMemAvailable:  3 kB\n"


@pytest.mark.parametrize(
    ("info", "limit", "used", "free"),
    [
        (INFO, "max\n", "500\n", 3 * 1024),
        (INFO, None, None, 3 * 1024),
        (INFO, "2000\n", "500\n", 1500),
        (INFO, "9000\n", "500\n", 3 * 1024),
        (INFO, "2000\n", "2001\n", 0),
        ("MemTotal:  9 kB\n", None, None, None),
        (None, None, None, None),
    ],
)
def test_free_memory_is_what_machine_and_container_have(
    info: str | None, limit: str | None, used: str | None, free: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bytes, the lesser of both; None where the system tells nothing."""
    texts = {"/proc/meminfo": info, "/sys/fs/cgroup/memory.max": limit, "/sys/fs/cgroup/memory.current": used}

    def read(path: str) -> str:
        text = texts[path]
        if text is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(memory, "File", lambda path: SimpleNamespace(read_text=lambda: read(path)))
    assert memory.free_memory() == free


def test_columns_grow_beyond_what_is_expected() -> None:
    """By half; what is expected has its room from the beginning."""
    growing, rows = memory.Growing(10), np.arange(40).reshape(20, 2)
    room = []
    for start in range(0, 20, 5):
        growing.write(("x",), rows[start : start + 5])
        room.append(len(growing._columns["x",]))
    assert room == [10, 10, 15, 22]
    assert np.array_equal(growing.columns()["x",], rows)


# --- what metadata hides -----------------------------------------------------------------------------------------


def test_episodes_hidden_by_metadata_are_refused() -> None:
    dataset = sound_dataset("test/broken-v0")
    edit_metadata(dataset, total_episodes=2)
    assert len(list(minari.load_dataset("test/broken-v0"))) == 2  # Minari says nothing
    with pytest.raises(ValueError, match=r"'test/broken-v0', episode 2, total_episodes in metadata.json: .*hides"):
        load_minari("test/broken-v0")


def test_episodes_promised_by_metadata_and_not_there_are_refused() -> None:
    dataset = sound_dataset("test/broken-v0")
    edit_metadata(dataset, total_episodes=4)
    with pytest.raises(
        ValueError, match=r"'test/broken-v0', episode 3, files: expected a readable episode, got .*episode_3"
    ):
        load_minari("test/broken-v0")


def test_missing_field_is_refused() -> None:
    dataset = sound_dataset("test/broken-v0")
    with h5py.File(main_file(dataset), "a") as file:
        del file["episode_1/rewards"]
    with pytest.raises(ValueError, match=r"'test/broken-v0', episode 1, rewards: expected an entry .*got none"):
        load_minari("test/broken-v0")


def test_torn_file_is_refused() -> None:
    dataset = sound_dataset("test/broken-v0")
    path = main_file(dataset)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"'test/broken-v0', episode 0, files: .*OSError"):
        load_minari("test/broken-v0")


@pytest.mark.parametrize("damage", ["{", "{}", '{"data_format": "hdf5"}', None])
def test_damaged_metadata_is_refused(damage: str | None) -> None:
    path = Path(sound_dataset("test/broken-v0").storage.data_path) / "metadata.json"
    path.unlink() if damage is None else path.write_text(damage)
    with pytest.raises(ValueError, match=r"dataset 'test/broken-v0', metadata.json: expected .*minari download"):
        load_minari("test/broken-v0")


@pytest.mark.parametrize("storage_format", ["arrow", "parquet"])
def test_arrow_episodes_that_minari_tears_apart_are_refused(storage_format: str) -> None:
    def dataset(steps: int) -> Any:
        records = {0: {"total_steps": 10}, 1: {"total_steps": steps}}
        storage = SimpleNamespace(FORMAT=storage_format, get_episode_metadata=lambda ids: [records[i] for i in ids])
        return SimpleNamespace(id="test/long-v0", storage=storage, episode_indices=np.array([0, 1]))

    assert episodes.recorded_lengths(dataset(32_767)) == {0: 10, 1: 32_767}
    with pytest.raises(
        ValueError, match=rf"'test/long-v0', episode 1, total_steps: .*{storage_format}.*got 32768.*hdf5"
    ):
        episodes.recorded_lengths(dataset(32_768))


def test_arrow_limit_is_where_minari_tears() -> None:
    pytest.importorskip("pyarrow", reason="Minari's arrow format is not among the extras")
    rng = np.random.default_rng(9)
    for steps in (32_767, 32_768):
        dataset_id = f"test/long{steps}-v0"
        dataset = store([episode(steps, rng), episode(5, rng)], dataset_id=dataset_id, data_format="arrow")
        whole = [len(stored.rewards) for stored in dataset.iterate_episodes()] == [steps, 5]
        assert whole == (steps < 32_768)
        if whole:
            assert len(load_minari(dataset)) == steps + 5
        else:
            with pytest.raises(ValueError, match="episode 0, total_steps"):
                load_minari(dataset)


# --- getting at datasets -----------------------------------------------------------------------------------------


def test_missing_dataset_says_how_to_get_it() -> None:
    sound_dataset()
    message = r"got 'D4RL/pen/human-v2'. .*\['test/sound-v0'\].*`minari download D4RL/pen/human-v2`.*minari\[hf\]"
    with pytest.raises(FileNotFoundError, match=message):
        load_minari("D4RL/pen/human-v2")


def test_missing_dataset_is_told_beside_a_malformed_folder(tmp_path: Path) -> None:
    (tmp_path / "no-version" / "data").mkdir(parents=True)
    with pytest.raises(Exception, match="NoneType"):  # Minari's own listing breaks
        minari.list_local_datasets()
    with pytest.raises(FileNotFoundError, match="minari download"):
        load_minari("test/sound-v0")


def test_what_minari_says_of_other_datasets_is_left_out() -> None:
    """Of one without a description it warns whenever it lists them."""
    path = Path(sound_dataset("test/broken-v0").storage.data_path) / "metadata.json"
    path.unlink()
    with pytest.warns(UserWarning, match="Misconfigured dataset named test/broken-v0"):
        minari.list_local_datasets()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FileNotFoundError, match="minari download"):
            load_minari("test/sound-v0")


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"expected an id or a MinariDataset, got (Posix|Windows)Path"):
        load_minari(Path("test/sound-v0"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("package", "module"), [("minari", "minari"), ("tensordict", "tensordict")])
def test_without_the_extra_the_import_says_what_to_install(package: str, module: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import offline_losses.adapters.{module}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert 'pip install "offline-losses[data]"' in run.stderr


def test_progress_bar_changes_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = sound_dataset()
    quiet = load_minari(dataset)
    assert capsys.readouterr().out == ""
    pytest.importorskip("rich", reason="the bar is rich's")
    shown = load_minari(dataset, progress=True)
    assert "reading test/sound-v0" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    assert (load_minari(dataset, progress=True) == quiet).all()
    assert (shown == quiet).all()


# --- units -------------------------------------------------------------------------------------------------------


def recorded(env_id: str, *, seeded: bool = True, action_scale: float = 1.0, **about: Any) -> Any:
    gymnasium = pytest.importorskip("gymnasium")
    environment = gymnasium.make(env_id)
    buffers = []
    for seed in range(2):
        rng = np.random.default_rng([seed, 1])
        observation, _ = environment.reset(seed=seed)
        observations, actions, rewards = [observation], [], []
        for _ in range(8):
            actions.append(rng.uniform(-2, 2, 1).astype(np.float32))
            observation, reward, *_ = environment.step(actions[-1])
            observations.append(observation)
            rewards.append(reward)
        buffers.append(
            EpisodeBuffer(
                seed=seed if seeded else None,
                observations=np.stack(observations),
                actions=np.stack(actions) * action_scale,
                rewards=np.array(rewards),
                terminations=np.zeros(8, dtype=bool),
                truncations=np.arange(8) == 7,
            )
        )
    spaces_ = {"observation_space": environment.observation_space, "action_space": environment.action_space}
    return store(buffers, **spaces_, **{"env": environment, **about})


def test_replay_tells_right_units_from_wrong_ones() -> None:
    pytest.importorskip("pygame", reason="Pendulum-v1 needs gymnasium[classic-control]")
    assert replay_error(recorded("Pendulum-v1"), episodes=2) == 0.0
    wrong = recorded("Pendulum-v1", action_scale=0.5, dataset_id="test/units-v0")
    assert replay_error(wrong, episodes=2) > 0.05


def test_replay_needs_seeds_and_an_environment() -> None:
    with pytest.raises(ValueError, match=r"replay_error: dataset 'test/broken-v0', episode 0: .*recorded seed"):
        replay_error(recorded("Pendulum-v1", seeded=False))
    with pytest.raises(ValueError, match=r"replay_error: dataset 'test/no-env-v0': expected a recorded environment"):
        replay_error(recorded("Pendulum-v1", env=None, dataset_id="test/no-env-v0"))


def test_replay_after_minaris_combination_misses_the_seeds() -> None:
    parts = [recorded("Pendulum-v1", dataset_id=f"test/part{i}-v0") for i in range(2)]
    combined = minari.combine_datasets(parts, "combined-v0")
    assert len(load_minari(combined)) == 32
    with pytest.raises(ValueError, match="recorded seed"):
        replay_error(combined)
