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
from offline_losses.adapters import episodes, flat_cache
from offline_losses.adapters import minari as adapter
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
    "observations T": ({"observations": np.zeros((3, 3))}, r"observations: expected shape \(4, 3\).*got \(3, 3\)"),
    "observations T+3": ({"observations": np.zeros((6, 3))}, r"observations: expected shape \(4, 3\).*got \(6, 3\)"),
    "observation width": ({"observations": np.zeros((4, 2))}, r"observations: expected shape \(4, 3\).*got \(4, 2\)"),
    "fewer actions": ({"actions": np.array([0, 1])}, r"actions: expected shape \(3,\).*got \(2,\)"),
    "action shape": ({"actions": np.zeros((3, 1), dtype=int)}, r"actions: expected shape \(3,\).*got \(3, 1\)"),
    "reward column": ({"rewards": np.zeros((3, 1))}, r"rewards: expected shape \(3,\).*got \(3, 1\)"),
    "fewer flags": ({"truncations": np.zeros(2, dtype=bool)}, r"truncations: expected shape \(3,\).*got \(2,\)"),
    "more flags": ({"terminations": np.zeros(4, dtype=bool)}, r"terminations: expected shape \(3,\).*got \(4,\)"),
    "NaN observation": ({"observations": WITH_NAN}, r"observation: expected numbers.*finite.*nan.*at step 1"),
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


def test_dataset_without_episodes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'test/broken-v0', episodes: expected at least one, got none"):
        load_minari(store([]))


def test_spaces_that_are_no_arrays_are_refused() -> None:
    rng = np.random.default_rng(8)
    space = spaces.Dict({"words": spaces.Text(10), "place": OBSERVATION})
    observations = {"words": ["a", "b", "c"], "place": np.zeros((3, 3))}
    dataset = store([episode(2, rng, observations=observations)], observation_space=space)
    with pytest.raises(
        ValueError, match=r"'test/broken-v0', observations/words: expected a space of arrays .* got Text"
    ):
        load_minari(dataset)


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
        ValueError, match=r"'test/broken-v0', episode 3, files: expected a readable episode, got KeyError"
    ):
        load_minari("test/broken-v0")


def test_missing_field_is_refused() -> None:
    dataset = sound_dataset("test/broken-v0")
    with h5py.File(main_file(dataset), "a") as file:
        del file["episode_1/rewards"]
    with pytest.raises(ValueError, match=r"'test/broken-v0', episode 1, files: .*KeyError.*rewards"):
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

    episodes.refuse_torn_episodes(dataset(32_767))
    with pytest.raises(
        ValueError, match=rf"'test/long-v0', episode 1, total_steps: .*{storage_format}.*got 32768.*hdf5"
    ):
        episodes.refuse_torn_episodes(dataset(32_768))


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


# --- the cache ---------------------------------------------------------------------------------------------------


def test_cache_is_read_instead_of_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = sound_dataset()
    first = load_minari(dataset, cache=tmp_path / "flat")
    monkeypatch.setattr(adapter, "flat_columns", lambda *_: pytest.fail("read again"))
    second = load_minari(dataset, cache=tmp_path / "flat")
    assert set(second.keys(True, True)) == set(first.keys(True, True))
    assert (first == second).all()


def test_cache_follows_the_content(tmp_path: Path) -> None:
    dataset = sound_dataset()
    part = dataset.filter_episodes(lambda stored: len(stored) == 7)
    keys = {flat_cache.digest(dataset), flat_cache.digest(part)}
    dataset.update_dataset_from_buffer([episode(2, np.random.default_rng(10))])
    keys.add(flat_cache.digest(dataset))
    assert len(keys) == 3
    assert len(load_minari(dataset, cache=tmp_path / "flat")) == sum(LENGTHS) + 2
    assert len(load_minari(part, cache=tmp_path / "flat")) == 7


def test_torn_cache_is_replaced(tmp_path: Path) -> None:
    dataset = sound_dataset()
    whole = load_minari(dataset, cache=tmp_path / "flat")
    (file,) = (tmp_path / "flat").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    assert flat_cache.read(file) is None
    assert (load_minari(dataset, cache=tmp_path / "flat") == whole).all()
    assert flat_cache.read(file) is not None


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    sound_dataset()
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *_, **__: pytest.fail("unpickled"))
    for _ in range(2):
        load_minari("test/sound-v0", cache=tmp_path / "flat")
    (file,) = (tmp_path / "flat").iterdir()
    np.savez(file, keys=np.array([["x"]], dtype=object))
    assert flat_cache.read(file) is None


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
