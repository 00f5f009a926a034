"""Writing back: what `save_minari` wrote, `load_minari` and Minari itself read, number for number."""

# ruff: noqa: E402 (the extras are asked for before what needs them is imported)

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest

minari = pytest.importorskip("minari", reason="needs the extra offline-losses[data]")
pytest.importorskip("h5py", reason="needs the extra offline-losses[data]")
pytest.importorskip("tensordict", reason="needs the extra offline-losses[data]")

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer

from offline_losses import return_filter
from offline_losses.adapters import saving
from offline_losses.adapters.minari import load_minari
from offline_losses.adapters.saving import save_minari

LENGTHS = (4, 1, 7)
SPACE = spaces.Dict(
    {
        "place": spaces.Box(-np.inf, np.inf, (3,), np.float64),
        "parts": spaces.Tuple((spaces.Discrete(5, start=2), spaces.Box(0, 255, (32, 32), np.uint8))),
    }
)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def made() -> Any:
    rng = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            seed=100 + i,
            observations={
                "place": rng.normal(size=(n + 1, 3)),
                "parts": (rng.integers(2, 7, n + 1), rng.integers(0, 256, (n + 1, 32, 32)).astype(np.uint8)),
            },
            actions=rng.uniform(-1, 1, (n, 2)).astype(np.float32),
            rewards=rng.normal(size=n),
            terminations=(np.arange(n) == n - 1) & (i != 1),
            truncations=(np.arange(n) == n - 1) & (i == 1),
        )
        for i, n in enumerate(LENGTHS)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = minari.create_dataset_from_buffers(
            "test/source-v0",
            buffers,
            observation_space=SPACE,
            action_space=spaces.Box(-1, 1, (2,), np.float32),
            author="A. N. Author",
            algorithm_name="noise",
            description="words",
            jpeg_encoding=False,
        )
    # an environment that is not installed here
    dataset.storage.update_metadata({"env_spec": EnvSpec(id="Nowhere-v0", entry_point="nowhere:Nowhere").to_json()})
    return minari.load_dataset("test/source-v0")


def test_round_trip_is_exact() -> None:
    source = made()
    data = load_minari(source)
    saved = save_minari(data, "mine/copy-v0", like=source)
    again = load_minari("mine/copy-v0")
    assert set(again.keys(True, True)) == set(data.keys(True, True))
    assert (again == data).all()
    assert saved.observation_space == SPACE
    assert saved.env_spec == source.env_spec
    stored = saved.storage.metadata
    assert (stored["author"], stored["algorithm_name"], stored["description"]) == ({"A. N. Author"}, "noise", "words")
    assert [record["seed"] for record in saved.storage.get_episode_metadata([0, 1, 2])] == [100, 101, 102]


def test_a_relabelled_selection_keeps_its_episodes() -> None:
    source = made()
    data = load_minari(source, dtype={"observation": torch.float64, ("next", "observation"): torch.float64})
    data["next", "reward"] = torch.arange(12.0)
    chosen = data[return_filter(data["next", "reward"], data["next", "done"], fraction=2 / 3)]
    saved = save_minari(chosen, "mine/best-v0", like="test/source-v0", description="the better ones")
    again = load_minari(saved, dtype={"observation": torch.float64, ("next", "observation"): torch.float64})
    assert (again.exclude("episode") == chosen.exclude("episode")).all()
    assert again["episode"].tolist() == [0] * 4 + [1] * 7
    assert saved.storage.metadata["description"] == "the better ones"
    assert [record["seed"] for record in saved.storage.get_episode_metadata([0, 1])] == [100, 102]


def test_one_row_is_an_episode_and_gradients_stay_behind() -> None:
    """Without the number of its episode nothing is known of its seed."""
    source = made()
    data = load_minari(source)[4:5]
    data["next", "reward"].requires_grad_()
    for name, rows, seed in (("mine/one-v0", data, 101), ("mine/two-v0", data.exclude("episode"), None)):
        saved = save_minari(rows, name, like=source)
        (record,) = saved.storage.get_episode_metadata([0])
        assert record.get("seed") == seed
        assert (load_minari(saved)["next", "reward"] == data["next", "reward"]).all()


def test_what_is_not_known_of_a_dataset_is_not_warned_of() -> None:
    """Minari misses an author, an environment and more, which a selection may not have."""
    source = made()
    data = load_minari(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved = save_minari(
            data, "mine/copy-v0", observation_space=SPACE, action_space=spaces.Box(-1, 1, (2,), np.float32)
        )
    assert (load_minari(saved) == data).all()
    assert not {"author", "seed"} & {*saved.storage.metadata, *next(iter(saved.storage.get_episode_metadata([0])))}


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "_BLOCK", 1)
    data = load_minari(made())
    save_minari(data, "mine/copy-v0", like="test/source-v0")
    assert (load_minari("mine/copy-v0") == data).all()


def test_refusals_write_nothing(tmp_path: Path) -> None:
    source = made()
    data = load_minari(source)
    step, never = data["next"], torch.zeros(len(data), dtype=torch.bool)

    def changed(**columns: torch.Tensor) -> Any:
        new = data.clone()
        for name, column in columns.items():
            new["next", name] = column
        return new

    def moved(row: int) -> Any:
        new = data.clone()
        new["next", "observation", "place"][row, 1] += 1
        return new

    def choice(number: int) -> Any:
        new = data.clone()
        new["observation", "parts", "0"] = torch.full((12,), number)
        return new

    cases: list[tuple[Any, dict[str, Any], str]] = [
        (
            changed(reward=step["reward"] + torch.tensor([math.nan] + [0.0] * 11)),
            {"like": source},
            r"finite numbers in \('next', 'reward'\)",
        ),
        (changed(reward=step["reward"][:, None]), {"like": source}, r"numbers in \('next', 'reward'\), got shape"),
        (changed(terminated=never, truncated=never), {"like": source}, "to be terminated or truncated"),
        (changed(truncated=~never), {"like": source}, "to be terminated or truncated"),
        (dict(data), {"like": source}, r"a flat TensorDict \[N\], got dict"),
        (data[None], {"like": source}, r"a flat TensorDict \[N\], got batch size \[1, "),
        (data[:3], {"like": source}, "expected whole episodes"),
        (data[:0], {"like": source}, "expected whole episodes"),
        (data[[0, 2, 3]], {"like": source}, r"a next observation at row 0 that is not the observation of row 1"),
        (moved(1), {"like": source}, r"a next observation at row 1 that is not the observation of row 2"),
        (
            data.exclude(("next", "observation", "parts")),
            {"like": source},
            r"the entry \('next', 'observation', 'parts'",
        ),
        (data.exclude("action"), {"like": source}, "expected the entry 'action'"),
        (data, {}, "expected a dataset, or both spaces"),
        (data, {"observation_space": SPACE}, "expected a dataset, or both spaces"),
        (data, {"action_space": spaces.Box(-1, 1, (2,))}, "expected a dataset, or both spaces"),
        (data, {"like": source, "action_space": spaces.Box(-1, 1, (5,))}, r"action: expected rows of Box.*got shape"),
        (
            choice(7),
            {"like": source},
            r"observation/parts/0: expected values of Discrete\(5, start=2\), got 7 at row 0",
        ),
    ]
    for wrong, about, message in cases:
        with pytest.raises(ValueError, match=rf"save_minari: .*{message}"):
            save_minari(wrong, "mine/copy-v0", **about)
    for name in ("mine/copy", "m/copy-v0", "test/source-v0"):
        with pytest.raises(ValueError, match="save_minari: dataset_id: expected"):
            save_minari(data, name, like=source)
    assert sorted(minari.list_local_datasets()) == ["test/source-v0"]
    assert not (tmp_path / "m").exists()


def test_arguments_and_folders_that_are_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = made()
    data = load_minari(source)
    with pytest.raises(TypeError, match=r"^save_minari: autor: expected an argument of minari\.create_dataset"):
        save_minari(data, "mine/copy-v0", like=source, autor="A. N. Author")
    with pytest.raises(TypeError, match=r"^save_minari: like: expected an id or a MinariDataset, got int"):
        save_minari(data, "mine/copy-v0", like=3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"^save_minari: like: expected the id of a local dataset"):
        save_minari(data, "mine/copy-v0", like="no/where-v0")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file" / "sets"))
    with pytest.raises(OSError, match=r"^save_minari: dataset_id: expected a folder of datasets"):
        save_minari(data, "mine/copy-v0", like=source)


def test_continuous_actions_outside_their_space_are_told() -> None:
    source = made()
    data = load_minari(source)
    data["action"][3] = torch.tensor([0.5, 7])  # one of two numbers
    with pytest.warns(UserWarning, match=r"save_minari: action: 1 of 12 actions lie outside Box.*\[0\.5 7") as told:
        save_minari(data, "mine/copy-v0", like=source)
    assert told[0].filename == __file__


def test_an_interrupted_save_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_minari(made())
    monkeypatch.setattr(saving, "_BLOCK", 1)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(minari.MinariDataset, "update_dataset_from_buffer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_minari(data, "mine/copy-v0", like="test/source-v0")
    assert sorted(minari.list_local_datasets()) == ["test/source-v0"]
