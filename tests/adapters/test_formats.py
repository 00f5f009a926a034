"""The field's files as one TensorDict: what their flags mean, what is not on record, and each trap by name."""

# ruff: noqa: E402 (the extras are asked for before what needs them is imported)

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

h5py = pytest.importorskip("h5py", reason="needs the extra offline-losses[data]")
pytest.importorskip("tensordict", reason="needs the extra offline-losses[data]")

import numpy as np
import torch
from tensordict import TensorDict

from offline_losses import check_ends
from offline_losses.adapters.d3rlpy import from_d3rlpy
from offline_losses.adapters.d4rl import load_d4rl
from offline_losses.adapters.entries import ALWAYS, Choice, LostSteps
from offline_losses.adapters.flat import Steps, ends
from offline_losses.adapters.flat_reading import FlatReading
from offline_losses.adapters.lerobot import Frames, load_lerobot
from offline_losses.adapters.ogbench import load_ogbench
from offline_losses.adapters.robomimic import load_robomimic
from offline_losses.adapters.torchrl import from_torchrl

LENGTHS = (3, 2, 4)
TERMINATED = (True, False, True)
ENDS = np.array([0, 0, 1, 0, 1, 0, 0, 0, 1], bool)
TERMINAL = np.array([0, 0, 1, 0, 0, 0, 0, 0, 1], bool)
STATES = np.concatenate([10 * i + np.arange(n + 1.0) for i, n in enumerate(LENGTHS)])[:, None]
FIRST = np.delete(STATES, [3, 6, 11], 0)  # T states of each episode
NEXT = np.delete(STATES, [0, 4, 7], 0)
ACTION = np.linspace(-1, 1, 9)[:, None]
REWARD = np.arange(9.0)


@pytest.fixture
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def d4rl(**changes: Any) -> dict[str, Any]:
    whole = {
        "observations": FIRST,
        "actions": ACTION,
        "rewards": REWARD,
        "terminals": TERMINAL,
        "timeouts": ENDS & ~TERMINAL,
        "next_observations": NEXT,
    }
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def sound(data: TensorDict) -> None:
    """The guarantees of `load_minari`."""
    step = data["next"]
    check_ends(step["terminated"], step["done"])
    assert step["done"].equal(step["terminated"] | step["truncated"])
    assert bool(step["done"][-1])
    assert step["done"][:-1].equal(data["episode"][1:] != data["episode"][:-1])
    for value in data.values(True, True):
        assert value.dtype in (torch.float32, torch.int64, torch.bool, torch.uint8)
        assert value.shape[0] == len(data)


def whole(data: TensorDict) -> None:
    """All nine steps with their next states."""
    sound(data)
    observation = data["observation"] if isinstance(data["observation"], torch.Tensor) else data["observation", "x"]
    following = data["next", "observation"]
    following = following if isinstance(following, torch.Tensor) else following["x"]
    assert np.array_equal(observation.numpy(), FIRST)
    assert np.array_equal(following.numpy(), NEXT)
    assert data["next", "reward"].tolist() == REWARD.tolist()
    assert data["action"].numpy() == pytest.approx(ACTION)
    assert data["next", "terminated"].tolist() == TERMINAL.tolist()
    assert data["next", "truncated"].tolist() == (ENDS & ~TERMINAL).tolist()
    assert data["episode"].tolist() == [0] * 3 + [1] * 2 + [2] * 4
    assert ("next", "observed") not in data.keys(True)


def without_the_cut(data: TensorDict) -> None:
    """The step that was cut is gone, and the one before it ends the episode."""
    sound(data)
    assert data["next", "reward"].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert data["next", "truncated"].tolist() == [False, False, False, True] + [False] * 4
    assert data["next", "terminated"].tolist() == [False, False, True, False, False, False, False, True]
    shown = data["next", "observed"]
    assert shown.tolist() == [True, True, False, True, True, True, True, False]
    following = data["next", "observation"]
    following = following if isinstance(following, torch.Tensor) else following["state"]
    assert following[shown].flatten().tolist() == [1, 2, 11, 21, 22, 23]


def test_a_row_takes_as_many_bytes_as_is_said() -> None:
    """By which memory and the room on a disk are judged beforehand; of what is left out, none."""
    observation = {"real": np.zeros((9, 2, 3)), "bytes": np.zeros((9, 5), np.uint8), "left": np.zeros((9, 7))}
    flags = {"terminated": TERMINAL, "truncated": ENDS & ~TERMINAL}
    steps = Steps("load", "here", observation, np.zeros((9, 2), np.int32), reward=REWARD[:, None], **flags)
    choice = Choice.of("load", None, [("observation", "left"), ("next", "observation", "left")], None)
    reading, found = FlatReading(steps, choice, "keep"), {}
    reading.write(lambda path, column: found.update({path: column[0].nbytes}))
    assert reading.row_bytes == sum(found.values())


def test_ends_of_episodes_of_any_length() -> None:
    assert ends([1, 2, 0, 1]).tolist() == [True, False, True, True]


def test_changes_from_row_to_row_are_those_of_float64() -> None:
    """Two rows are enough; of whole numbers none is told."""
    for before, lost in ((np.array([1.0, 1.0 + 1e-9]), 1), (np.array([2**24, 2**24 + 1]), 0)):
        count = LostSteps()
        count(before, before.astype(np.float32))
        assert count.lost == lost


def test_a_row_is_compared_with_the_one_before_it() -> None:
    """And not with the first one."""
    count = LostSteps()
    before = np.array([0.0, 1.0, 1.0, 2.0, 2.0])
    count(before, before.astype(np.float32))
    assert (count.changes, count.lost) == (2, 0)


def test_lost_changes_are_told_from_a_tenth_of_all_on() -> None:
    count = LostSteps()
    for count.lost, count.changes, told in ((0, 0, False), (9, 100, False), (10, 100, True), (100, 100, True)):
        assert (count.told("observation", "float32", "Mend it") is not None) == told


def test_where_episodes_end_is_always_taken() -> None:
    """Whatever else is chosen, or left out."""
    choice = Choice.of("load", ["observation"], [("next", "done"), "episode"], None)
    assert all(choice.takes(path) for path in ALWAYS)
    assert choice.takes(("observation", "left"))
    assert not choice.takes(("action",))


# --- D4RL --------------------------------------------------------------------------------------------------------


def test_d4rl_with_everything_on_record(quiet: None, tmp_path: Path) -> None:
    whole(load_d4rl(d4rl(rewards=REWARD[:, None])))
    with h5py.File(tmp_path / "set.hdf5", "w") as file:
        for key, value in d4rl(**{"infos/qpos": FIRST, "metadata/algorithm": "SAC"}).items():
            file[key] = value
    data = load_d4rl(tmp_path / "set.hdf5", infos=True)
    assert np.array_equal(data["infos", "qpos"].numpy(), FIRST)
    whole(load_d4rl(tmp_path / "set.hdf5"))
    assert ("infos", "qpos") not in load_d4rl(tmp_path / "set.hdf5").keys(True)


def test_d4rl_without_next_observations_drops_or_marks_the_cut() -> None:
    with pytest.warns(
        UserWarning, match=r"load_d4rl: the dict: 1 of 9 steps are left out.*each holds a reward"
    ) as told:
        without_the_cut(load_d4rl(d4rl(next_observations=None)))
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_d4rl(d4rl(next_observations=None), last="keep")
    sound(data)
    assert data["next", "reward"].tolist() == REWARD.tolist()
    assert data["next", "observed"].tolist() == (~ENDS).tolist()


@pytest.mark.parametrize("block", [1, 20, 1 << 20])
def test_d4rl_without_timeouts_finds_the_cut_in_the_next_observations(
    block: int, quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the cut lies in a block of rows or between two."""
    monkeypatch.setattr("offline_losses.adapters.rows.BLOCK", block)
    whole(load_d4rl(d4rl(timeouts=None)))
    other = d4rl(timeouts=None, observations={"x": FIRST, "y": FIRST}, next_observations={"x": NEXT, "z": NEXT})
    message = r"next/observation: expected the entries of the observation, got others: \['y', 'z'\]\."
    with pytest.raises(ValueError, match=message):
        load_d4rl(other)


def test_d4rl_numbers_of_each_step(quiet: None) -> None:
    """Nested, or by names with slashes; of whatever else stands there, nothing."""
    for infos in ({"infos": {"qpos": FIRST, "seed": np.ones(1)}}, {"infos/qpos": FIRST, "infos/seed": np.ones(1)}):
        data = load_d4rl(d4rl(**infos), infos=True)
        assert np.array_equal(data["infos", "qpos"].numpy(), FIRST)
        assert ("infos", "seed") not in data.keys(True)
    whole(load_d4rl(d4rl(infos=REWARD), infos=True))
    assert "infos" not in load_d4rl(d4rl(infos=REWARD), infos=True)


def test_d4rl_without_timeouts_and_next_observations_says_so() -> None:
    with pytest.warns(UserWarning, match="neither timeouts nor next_observations"):
        data = load_d4rl(d4rl(timeouts=None, next_observations=None))
    assert data["episode"].tolist() == [0] * 3 + [1] * 6


def test_d4rl_terminals_on_two_rows_are_told() -> None:
    twice = TERMINAL.copy()
    twice[[1, 7]] = True
    with pytest.warns(UserWarning, match="2 rows are flagged as terminals although the next row goes on from them"):
        load_d4rl(d4rl(terminals=twice))


def test_d4rl_a_file_that_stops_within_an_episode() -> None:
    part = {key: value[:7] for key, value in d4rl().items()}
    with pytest.warns(UserWarning, match="the last step has neither flag; it is marked truncated"):
        data = load_d4rl(part)
    assert data["next", "truncated"].tolist() == [False, False, False, False, True, False, True]
    assert data["next", "observation"][-1].item() == 22


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": None}, r"load_d4rl: the dict: expected rewards, got the entries"),
        ({"terminals": None}, r"load_d4rl: the dict: expected terminals"),
        ({"actions": ACTION[:-1]}, r"the dict, action: expected 9 rows, as the flags have, got shape \(8, 1\)"),
        ({"rewards": np.where(REWARD == 4, np.nan, REWARD)}, r"next/reward: expected numbers.*got nan at row 4"),
        (
            {"observations": np.where(np.arange(18).reshape(9, 2) == 9, np.inf, 0.5), "next_observations": None},
            r"observation: expected numbers that are finite in float32, got \[0\.5 inf\] at row 4\.",
        ),
        ({"terminals": 2 * TERMINAL}, r"terminals: expected one flag for each row"),
        ({"observations": np.array(["a"] * 9)}, r"observation: expected numbers, got dtype"),
    ],
)
def test_d4rl_refuses_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_d4rl(d4rl(**changes))
    with pytest.raises(ValueError, match="last: expected 'drop' or 'keep', got 'zero'"):
        load_d4rl(d4rl(), last="zero")  # type: ignore[arg-type]


# --- OGBench -----------------------------------------------------------------------------------------------------


def ogbench(**changes: Any) -> dict[str, Any]:
    """The file's form: a row for each state."""
    over = np.zeros(12)
    over[[3, 6, 11]] = 1
    actions = np.insert(ACTION, [3, 5, 9], 77.0, 0)  # fillers
    rewards = np.insert(REWARD, [3, 5, 9], 77.0)
    masks = np.insert(1.0 - TERMINAL, [3, 5, 9], 1.0)
    file = {"observations": STATES, "actions": actions, "terminals": over, "rewards": rewards, "masks": masks}
    return {key: value for key, value in {**file, **changes}.items() if value is not None}


def test_ogbench_file(quiet: None, tmp_path: Path) -> None:
    np.savez(tmp_path / "maze.npz", **ogbench())
    data = load_ogbench(tmp_path / "maze.npz")
    assert data["next", "truncated"].tolist() == ENDS.tolist()
    data["next", "truncated"] &= ~data["next", "terminated"]
    whole(data)


def test_ogbench_terminals_are_cuts_and_rewards_are_not_made_up(quiet: None) -> None:
    data = load_ogbench(ogbench(masks=None, rewards=None))
    assert not data["next", "terminated"].any()
    assert data["next", "truncated"].tolist() == ENDS.tolist()
    assert ("next", "reward") not in data.keys(True)


def test_ogbench_regular_and_compact_forms_are_the_same_steps(quiet: None) -> None:
    file = load_ogbench(ogbench())
    regular = {
        "observations": FIRST,
        "next_observations": NEXT,
        "actions": ACTION,
        "terminals": ENDS,
        "rewards": REWARD,
        "masks": 1 - TERMINAL,
    }
    compact = ogbench()
    compact["valids"] = 1 - compact["terminals"]
    compact["terminals"] = np.minimum(compact["terminals"] + np.append(compact["terminals"][1:], 1), 1)
    for form in (regular, compact):
        data = load_ogbench(form)
        assert set(data.keys(True, True)) == set(file.keys(True, True))
        assert (data == file).all()


def test_ogbench_without_a_flag_on_the_last_row(quiet: None) -> None:
    file = ogbench()
    file["terminals"][-1] = 0
    assert len(load_ogbench(file)) == 9
    short = {"observations": FIRST, "next_observations": NEXT[:-1], "actions": ACTION, "terminals": ENDS}
    with pytest.raises(
        ValueError, match=r"next_observations: expected 9 rows.*got shape \(8, 1\).*loses one in OGBench's own loader"
    ):
        load_ogbench(short)


# --- robomimic ---------------------------------------------------------------------------------------------------


def robomimic(path: Path, *, number: int = 9, **changes: Any) -> Path:
    """Demonstrations 9, 10 and 11: by name the first would come last."""
    edges = np.cumsum([0, *LENGTHS])
    with h5py.File(path, "w") as file:
        for i in range(3):
            rows = slice(edges[i], edges[i + 1])
            demo = {"obs/x": FIRST, "next_obs/x": NEXT, "actions": ACTION, "rewards": REWARD, "dones": TERMINAL}
            for key, value in {**demo, **changes}.items():
                if value is not None:
                    file[f"data/demo_{number + i}/{key}"] = value[rows]
        file["mask/train"] = np.array([b"demo_10", b"demo_9"])
        file["mask/odd"] = np.array([b"demo_1"])
    return path


def test_robomimic(quiet: None, tmp_path: Path) -> None:
    path = robomimic(tmp_path / "demo.hdf5")
    whole(load_robomimic(path))
    part = load_robomimic(path, split="train")
    assert part["next", "reward"].tolist() == [0, 1, 2, 3, 4]
    assert load_robomimic(path, observations=["x"])["observation", "x"].shape == (9, 1)
    assert not load_robomimic(path, dones="truncated")["next", "terminated"].any()


def test_robomimic_at_a_time_limit_repeats_the_observation(tmp_path: Path) -> None:
    """As converted from D4RL: `dones` 1, and the last `next_obs` is `obs`."""
    following = NEXT.copy()
    following[4] = FIRST[4]
    path = robomimic(tmp_path / "demo.hdf5", **{"next_obs/x": following, "dones": ENDS})
    with pytest.warns(UserWarning, match="1 of 9 steps are left out"):
        data = load_robomimic(path)
    sound(data)
    assert load_robomimic(path, last="keep")["next", "observed"].tolist() == [row != 4 for row in range(9)]
    assert data["next", "terminated"].tolist() == [False, False, True, False, False, False, False, True]
    assert data["next", "truncated"].tolist() == [False, False, False, True] + [False] * 4


def test_robomimic_next_observations_are_of_all_or_none(tmp_path: Path) -> None:
    """Where one demonstration has none, those of the others are left out, and rows follow each other."""
    path = demonstrations(tmp_path / "demo.hdf5", {"next_obs/x": NEXT[:3]}, {})
    data = load_robomimic(path, last="keep")
    assert data["next", "observed"].tolist() == [True, True, False] * 2
    assert data["next", "terminated"].tolist() == [False, False, True] * 2


def test_robomimic_an_observation_is_repeated_in_all_entries_or_not(quiet: None, tmp_path: Path) -> None:
    """One that rests says nothing; one without a next one is refused by name."""
    still = {"obs/still": np.ones((3, 1)), "next_obs/x": NEXT[:3]}
    data = load_robomimic(demonstrations(tmp_path / "a.hdf5", still | {"next_obs/still": np.ones((3, 1))}))
    assert data["next", "terminated"].tolist() == [False, False, True]
    with pytest.raises(ValueError, match="next/observation: expected the entries of the observation, got others"):
        load_robomimic(demonstrations(tmp_path / "b.hdf5", still))


def test_robomimic_converted_from_d4rl_has_lost_its_terminations(tmp_path: Path) -> None:
    """Its converter sets `dones` and repeats the observation at each end, whatever ended the episode."""
    following = np.where(ENDS[:, None], FIRST, NEXT)
    path = robomimic(tmp_path / "demo.hdf5", **{"next_obs/x": following, "dones": ENDS})
    with pytest.warns(UserWarning, match=r"Terminations cannot be told from time limits|3 of 9 steps") as told:
        data = load_robomimic(path)
    assert not data["next", "terminated"].any()
    assert len(told) == 2
    with pytest.warns(UserWarning, match="3 of 9 steps") as told:
        load_robomimic(path, dones="truncated")
    assert len(told) == 1


def test_robomimic_refuses_by_name(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "demo.hdf5", rewards=None)
    with pytest.raises(ValueError, match=r"demo_9: expected rewards, got \['actions', 'dones'"):
        load_robomimic(path)
    path = robomimic(tmp_path / "often.hdf5", dones=np.ones(9))
    with pytest.raises(ValueError, match=r"dones: expected 1 on the last row of a demonstration only, got 6 others"):
        load_robomimic(path)
    with pytest.raises(ValueError, match=r"split: expected one of \['odd', 'train'\], got 'valid'"):
        load_robomimic(path, split="valid")
    with pytest.raises(ValueError, match=r"mask/odd: expected names of demonstrations, got 'demo_1'"):
        load_robomimic(path, split="odd")
    with pytest.raises(ValueError, match=r"demo_9: expected obs/y, got"):
        load_robomimic(path, observations=["y"])


# --- d3rlpy ------------------------------------------------------------------------------------------------------


def episodes() -> list[Any]:
    edges = np.cumsum([0, *LENGTHS])
    return [
        SimpleNamespace(
            observations=FIRST[start:stop].astype(np.float32),
            actions=ACTION[start:stop].astype(np.float32),
            rewards=REWARD[start:stop, None].astype(np.float32),
            terminated=terminated,
            transition_count=stop - start - (not terminated),
        )
        for start, stop, terminated in zip(edges[:-1], edges[1:], TERMINATED, strict=True)
    ]


def dump(path: Path, columns: tuple[str, ...] = ("observations", "actions", "rewards", "terminated")) -> Path:
    """As `ReplayBuffer.dump` of d3rlpy 2.8.1 writes it."""
    with h5py.File(path, "w") as file:
        file["columns"] = list(columns)
        file["num_episodes"] = len(LENGTHS)
        for i, episode in enumerate(episodes()):
            for name in columns:
                file[f"{name}_{i}"] = getattr(episode, name)
        file["version"] = "2.1"
    return path


def test_d3rlpy_episodes_and_dumps(tmp_path: Path) -> None:
    buffer = SimpleNamespace(episodes=episodes(), transition_count=8)
    for source in (episodes(), buffer, dump(tmp_path / "buffer.h5")):
        with pytest.warns(UserWarning, match="1 of 9 steps are left out") as told:
            without_the_cut(from_d3rlpy(source))
        assert len(told) == 1
        data = from_d3rlpy(source, last="keep")
        assert data["next", "reward"].tolist() == REWARD.tolist()


def test_d3rlpy_evicted_steps_that_come_back_are_told() -> None:
    with pytest.warns(UserWarning, match="its episodes have 8 transitions and the buffer holds 5"):
        from_d3rlpy(SimpleNamespace(episodes=episodes(), transition_count=5), last="keep")


def test_d3rlpy_discrete_actions_and_several_observations() -> None:
    parts = episodes()
    for episode in parts:
        episode.actions = np.arange(len(episode.rewards))[:, None]
        episode.observations = (episode.observations, np.zeros((len(episode.rewards), 2, 2), np.uint8))
    data = from_d3rlpy(parts, last="keep")
    assert data["action"].tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    assert data["observation", "1"].dtype == torch.uint8
    assert data["next", "observation", "0"][0].item() == 1


def test_d3rlpy_refuses_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected at least one episode, got none"):
        from_d3rlpy([])
    with h5py.File(tmp_path / "old.h5", "w") as file:
        for name in ("num_episodes", *"abcdef"):
            file[name] = 1
    with pytest.raises(
        ValueError, match=r"expected num_episodes and columns.* got \['a', 'b', 'c', 'd', 'e'\].*load_d4rl"
    ):
        from_d3rlpy(tmp_path / "old.h5")


def test_d3rlpy_dump_of_several_observations(tmp_path: Path) -> None:
    path = dump(tmp_path / "buffer.h5")
    with h5py.File(path, "a") as file:
        for i, name in enumerate(f"observations_{i}" for i in range(len(LENGTHS))):
            file[f"{name}_0"], file[f"{name}_1"] = file[name][()], np.full((LENGTHS[i], 2), i)
            del file[name]
    data, plain = from_d3rlpy(path, last="keep"), from_d3rlpy(episodes(), last="keep")
    assert data["observation", "0"].equal(plain["observation"])
    assert data["observation", "1"].tolist() == [[i, i] for i, length in enumerate(LENGTHS) for _ in range(length)]


def test_d3rlpy_itself_gives_the_same_transitions(tmp_path: Path) -> None:
    d3rlpy = pytest.importorskip("d3rlpy", reason="d3rlpy is not among the extras")
    made = [d3rlpy.dataset.Episode(e.observations, e.actions, e.rewards, e.terminated) for e in episodes()]
    buffer = d3rlpy.dataset.create_infinite_replay_buffer(made)
    with (tmp_path / "buffer.h5").open("w+b") as file:
        buffer.dump(file)
    for source in (buffer, tmp_path / "buffer.h5"):
        with pytest.warns(UserWarning, match="1 of 9 steps"):
            data = from_d3rlpy(source)
        pick, row = d3rlpy.dataset.BasicTransitionPicker(), 0
        for episode in made:
            for index in range(episode.transition_count):
                theirs, ours = pick(episode, index), data[row]
                row += 1
                assert ours["observation"].tolist() == theirs.observation.tolist()
                assert ours["action"].tolist() == theirs.action.tolist()
                assert ours["next", "reward"].tolist() == theirs.reward.item()
                assert ours["next", "terminated"].item() == bool(theirs.terminal)
                if not theirs.terminal:  # where they have zeros
                    assert ours["next", "observation"].tolist() == theirs.next_observation.tolist()
        assert row == len(data)


def test_d3rlpy_torchrl_and_ours_see_the_same_transitions() -> None:
    """Of the same recorded episodes; d3rlpy gives zeros after a terminated step, and leaves out one that was cut."""
    d3rlpy = pytest.importorskip("d3rlpy", reason="d3rlpy is not among the extras")
    torchrl = pytest.importorskip("torchrl.data", reason="TorchRL is not among the extras")
    buffer = torchrl.TensorDictReplayBuffer(storage=torchrl.LazyTensorStorage(9), batch_size=9)
    buffer.extend(collected().select("observation", "action", "next", "collector"))
    theirs, steps = buffer[:], from_torchrl(buffer[:])
    for path in (("observation",), ("action",), ("next", "observation")):
        assert theirs[path].equal(steps[path])
    for name in ("reward", "terminated", "truncated", "done"):
        assert theirs["next", name].squeeze(-1).equal(steps["next", name])
    whole(load_d4rl(d4rl()))
    flat = load_d4rl(d4rl())
    assert all(bool((flat[key] == steps[key]).all()) for key in flat.keys(True, True))
    made = [d3rlpy.dataset.Episode(e.observations, e.actions, e.rewards, e.terminated) for e in episodes()]
    pick, known = d3rlpy.dataset.BasicTransitionPicker(), [0, 1, 2, 3, 5, 6, 7, 8]  # row 4 was cut
    picked = [pick(episode, index) for episode in made for index in range(episode.transition_count)]
    assert len(picked) == len(known)
    for row, transition in zip(known, picked, strict=True):
        assert transition.observation.tolist() == steps["observation"][row].tolist()
        assert transition.action.tolist() == steps["action"][row].tolist()
        assert transition.reward.item() == steps["next", "reward"][row].item()
        assert bool(transition.terminal) == steps["next", "terminated"][row].item()
        following = (
            0 * transition.next_observation if transition.terminal else steps["next", "observation"][row].numpy()
        )
        assert transition.next_observation.tolist() == following.tolist()


# --- TorchRL -----------------------------------------------------------------------------------------------------


def collected(batch: tuple[int, ...] = (9,), **step: Any) -> TensorDict:
    """As a collector writes it: flags and rewards with a trailing axis of one."""
    flags = {"terminated": TERMINAL, "truncated": ENDS & ~TERMINAL, "done": ENDS}
    inner = {name: torch.from_numpy(flag)[:, None] for name, flag in flags.items()} | step
    inner |= {"reward": torch.from_numpy(REWARD).float()[:, None], "observation": torch.from_numpy(NEXT).float()}
    inner = {name: value for name, value in inner.items() if value is not None}
    outer = {
        "observation": torch.from_numpy(FIRST).float(),
        "action": torch.from_numpy(ACTION).float(),
        "done": torch.zeros(9, 1, dtype=torch.bool),
        "next": TensorDict(inner, [9]),
        "collector": TensorDict({"traj_ids": torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])}, [9]),
    }
    return TensorDict(outer, [9]).reshape(batch)


def test_torchrl(quiet: None) -> None:
    whole(from_torchrl(collected()))
    assert set(from_torchrl(collected()).keys()) == {"observation", "action", "next", "episode"}


def test_torchrl_slices_are_cut_where_they_end() -> None:
    with pytest.warns(UserWarning, match="1 slices end with neither flag"):
        data = from_torchrl(collected((3, 3)).exclude("collector"))
    sound(data)
    assert data["next", "truncated"].tolist() == [False] * 4 + [True, True, False, False, False]
    assert data["next", "observation"].flatten().tolist() == NEXT.flatten().tolist()


def test_torchrl_trajectories_without_a_flag_are_cut() -> None:
    none = torch.zeros(9, 1, dtype=torch.bool)
    with pytest.warns(UserWarning, match="3 slices end with neither flag"):
        data = from_torchrl(collected(done=none, terminated=none, truncated=none))
    assert data["next", "truncated"].tolist() == ENDS.tolist()


def test_torchrl_done_alone(quiet: None) -> None:
    data = from_torchrl(collected(terminated=None, truncated=None))
    assert data["next", "terminated"].tolist() == ENDS.tolist()
    sound(data)


def test_torchrl_flags_that_are_not_on_record_follow_from_the_others(quiet: None) -> None:
    """Done and not truncated is terminated, and done and not terminated is truncated."""
    whole(from_torchrl(collected(terminated=None)))
    whole(from_torchrl(collected(truncated=None)))


def test_torchrl_trailing_axes_of_trajectories_and_gradients_do_not_matter(quiet: None) -> None:
    data = collected()
    data["collector", "traj_ids"] = data["collector", "traj_ids"][:, None]
    data["observation"].requires_grad_()
    whole(from_torchrl(data))


def test_torchrl_refuses_by_name() -> None:
    with pytest.raises(TypeError, match="expected a TensorDict, got list"):
        from_torchrl([])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected 'action', got"):
        from_torchrl(collected().exclude("action"))
    with pytest.raises(ValueError, match=r"expected next observations under 'next', got none"):
        from_torchrl(collected().exclude(("next", "observation")))
    half = collected()
    half["pixels"] = torch.zeros(9, 4, 4, dtype=torch.uint8)
    with pytest.warns(UserWarning, match=r"pixels: no next one is on record, as that of observation is"):
        from_torchrl(half)
    half["step_count"] = half["next", "step_count"] = torch.zeros(9, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"expected next observations under 'next', got none"):
        from_torchrl(half.exclude("observation", ("next", "observation")))


# --- LeRobot -----------------------------------------------------------------------------------------------------


def lerobot(folder: Path, *, reward: bool = True, metadata: bool = True, camera: bool = False, frames: int = 9) -> Path:
    """As lerobot writes format v3.0: a row for each frame, the episodes' metadata beside."""
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not among the extras")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {
        "observation.state": FIRST.astype(np.float32).tolist(),
        "action": np.repeat(ACTION, 2, 1).astype(np.float32).tolist(),
        "next.reward": REWARD.astype(np.float32),
        "next.done": ENDS,
        "timestamp": np.arange(9, dtype=np.float32),
        "frame_index": np.concatenate([np.arange(n) for n in LENGTHS]),
        "episode_index": np.repeat(np.arange(3), LENGTHS),
        "index": np.arange(9),
        "task_index": np.arange(50, 59),
    }
    if not reward:
        del columns["next.reward"]
    features = {name: {"dtype": "float32", "shape": [1]} for name in columns}
    if camera:
        features["observation.images.top"] = {"dtype": "video", "shape": [8, 8, 3]}
    for part, rows in enumerate((slice(0, 5), slice(5, 9))):
        file = folder / "data" / "chunk-000" / f"file-{part:03d}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(arrow.table({name: list(value[rows]) for name, value in columns.items()}), file)
    if metadata:
        file = folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(arrow.table({"episode_index": [0, 1, 2], "length": list(LENGTHS)}), file)
    (folder / "meta").mkdir(exist_ok=True)
    info = {"codebase_version": "v3.0", "total_frames": frames, "total_episodes": 3, "features": features}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    return folder


def test_lerobot(tmp_path: Path) -> None:
    folder = lerobot(tmp_path)
    with pytest.warns(UserWarning, match="3 of 9 steps are left out") as told:
        data = load_lerobot(folder)
    assert len(told) == 1
    sound(data)
    assert data["next", "reward"].tolist() == [0, 1, 3, 5, 6, 7]
    assert data["task_index"].tolist() == [50, 51, 53, 55, 56, 57]
    assert data["observation", "state"].shape == (6, 1)
    assert data["action"].shape == (6, 2)
    assert not data["next", "terminated"].any()
    ended = load_lerobot(folder, done="terminated")
    assert ended["next", "terminated"].tolist() == ENDS.tolist()
    assert ended["next", "observed"].tolist() == (~ENDS).tolist()


@pytest.mark.parametrize(
    "order", [[0, 2, 1, 3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 5, 6, 8, 7], [8, 7, 6, 5, 4, 3, 2, 1, 0]]
)
def test_lerobot_frames_are_put_in_order(order: list[int], quiet: None, tmp_path: Path) -> None:
    """Those of an episode by their number, wherever a file has them."""
    folder = lerobot(tmp_path)
    whole = load_lerobot(folder, last="keep")
    rewrite(folder, lambda table: table.take(order))
    data = load_lerobot(folder, last="keep")
    assert data["task_index"].tolist() == list(range(50, 59))
    assert bool((data == whole).all())


def rewrite(folder: Path, change: Callable[[Any], Any], **options: Any) -> Path:
    """All frames in one file, changed."""
    parquet = pytest.importorskip("pyarrow.parquet")
    first, second = sorted((folder / "data" / "chunk-000").iterdir())
    table = pytest.importorskip("pyarrow").concat_tables([parquet.read_table(first), parquet.read_table(second)])
    second.unlink()
    parquet.write_table(change(table), first, **options)
    return first


def test_lerobot_rows_of_a_file_are_read_by_the_groups_that_hold_them(tmp_path: Path) -> None:
    """Here of four, four and one."""
    parquet = pytest.importorskip("pyarrow.parquet")
    file = parquet.ParquetFile(rewrite(lerobot(tmp_path), lambda table: table, row_group_size=4))
    asked: list[list[int]] = []

    def read(groups: list[int], columns: list[str]) -> Any:
        asked.append(groups)
        return file.read_row_groups(groups, columns=columns)

    seen: Any = SimpleNamespace(iter_batches=file.iter_batches, metadata=file.metadata, read_row_groups=read)
    frames = Frames(seen, "here", "action")
    assert (frames.shape, frames.chunk) == ((9, 2), 4)
    expected = np.repeat(ACTION, 2, 1).astype(np.float32)
    for start, stop, groups in (
        (0, 4, [0]),
        (3, 4, [0]),
        (4, 8, [1]),
        (5, 7, [1]),
        (5, 9, [1, 2]),
        (3, 5, [0, 1]),
        (8, 9, [2]),
    ):
        assert np.array_equal(frames.read(start, stop), expected[start:stop])
        assert asked.pop() == groups
    seen.read_row_groups = lambda *_, **__: (_ for _ in ()).throw(OSError("torn."))
    with pytest.raises(ValueError, match=r"^load_lerobot: here, action: expected numbers, .* got OSError: torn\. Down"):
        frames.read(0, 1)


def test_lerobot_refuses_columns_that_are_not_numbers_of_one_shape(tmp_path: Path) -> None:
    """In any file of several."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = lerobot(tmp_path)
    file = folder / "data" / "chunk-000" / "file-001.parquet"
    table = parquet.read_table(file)
    place = table.column_names.index("action")
    for column, got in (
        ([[1.0, 2.0], [1.0], [1.0, 2.0], [1.0, 2.0]], r"lists of \['1', '2'\] numbers"),
        ([[1.0, 2.0], None, [1.0, 2.0], [1.0, 2.0]], r"lists of \['2', 'None'\] numbers"),
        ([[1.0, 2.0], [1.0, None], [1.0, 2.0], [1.0, 2.0]], "some that are missing"),
        ([["a", "b"]] * 4, "values of type string"),
        ([[1.0, 2.0, 3.0]] * 4, r"lists of the shapes \[\(2,\), \(3,\)\]"),
    ):
        parquet.write_table(table.set_column(place, "action", arrow.array(column)), file)
        with pytest.raises(ValueError, match=rf"action: expected numbers, or lists of one shape, got {got}\. Download"):
            load_lerobot(folder, last="keep")
    later = arrow.array([[1.0, 2.0], [1.0], [1.0, 2.0], [1.0, 2.0]])  # not looked at where the entry is left out
    parquet.write_table(table.set_column(place, "action", later), file)
    assert len(load_lerobot(folder, last="keep", exclude=["action"])) == 9
    parquet.write_table(table.remove_column(place), file)
    with pytest.raises(ValueError, match="data: expected the column action, got none"):
        load_lerobot(folder)


def test_lerobot_without_frames_or_features(tmp_path: Path) -> None:
    folder = lerobot(tmp_path)
    about = folder / "meta" / "info.json"
    info = json.loads(about.read_text())
    for missing in ("action", "observation.state"):
        features = {name: feature for name, feature in info["features"].items() if name != missing}
        about.write_text(json.dumps(info | {"features": features}))
        with pytest.raises(ValueError, match=r"features: expected observation\.\* and action, got \["):
            load_lerobot(folder)
    features = {name: feature for name, feature in info["features"].items() if name != "task_index"}
    about.write_text(json.dumps(info | {"features": features}))
    assert "task_index" not in set(load_lerobot(folder, last="keep").keys())
    about.write_text(json.dumps(info))
    for file in (folder / "data" / "chunk-000").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"expected the 9 frames that meta/info\.json counts, got 0\."):
        load_lerobot(folder)


def test_lerobot_refuses_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected numbers, got video.*videos='ignore'"):
        load_lerobot(lerobot(tmp_path / "a", camera=True))
    assert len(load_lerobot(tmp_path / "a", videos="ignore", last="keep")) == 9
    with pytest.raises(ValueError, match=r"expected meta/episodes, got none.*finalize"):
        load_lerobot(lerobot(tmp_path / "b", metadata=False))
    with pytest.raises(ValueError, match=r"expected the 10 frames that meta/info\.json counts, got 9"):
        load_lerobot(lerobot(tmp_path / "c", frames=10))
    data = load_lerobot(lerobot(tmp_path / "d", reward=False), last="keep")
    assert ("next", "reward") not in data.keys(True)
    with pytest.raises(ValueError, match=r"expected meta/info.json, got none"):
        load_lerobot(tmp_path / "nowhere")


# ---------------------------------------------------------------------------------------------------------------------
# What people really have: paths, torn files, rows that do not fit


@pytest.mark.parametrize("load", [load_d4rl, load_ogbench, load_robomimic, from_d3rlpy])
def test_a_file_that_cannot_be_read_is_a_sentence(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    name = load.__name__
    with pytest.raises(FileNotFoundError, match=f"^{name}: source: expected a file at .*, got none. Check the path"):
        load(str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=f"^{name}: source: expected a file at .*, got a folder"):
        load(tmp_path)
    with pytest.raises(TypeError, match=f"^{name}: source: expected .*, got int"):
        load(3)
    np.savez(tmp_path / "whole.npz", FIRST)
    np.savez(tmp_path / "objects.npz", np.array([{}]))
    np.save(tmp_path / "one.npy", FIRST)
    h5py.File(tmp_path / "whole.hdf5", "w").close()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("words")
    for whole in ("whole.npz", "whole.hdf5"):
        (tmp_path / f"torn-{whole}").write_bytes((tmp_path / whole).read_bytes()[:300])
    for file in ("objects.npz", "one.npy", "empty", "text", "torn-whole.npz", "torn-whole.hdf5"):
        with pytest.raises(ValueError, match=rf"^{name}: source: expected an (HDF5|npz) file .*{file}"):
            load(tmp_path / file)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=f"^{name}: file '~/whole"):
        load("~/whole.npz" if load is load_ogbench else "~/whole.hdf5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": np.ones((9, 2))}, r"next/reward: expected one number for each row, got shape \(9, 2\)"),
        (
            {"next_observations": np.zeros((9, 3))},
            r"next/observation: expected shape \(9, 1\), as observation has, got",
        ),
        (
            {"next_observations": NEXT.astype(int)},
            r"next/observation: expected numbers that become float32, as observation, got int64. Load it with dtype=",
        ),
        ({"next_observations": NEXT[:4]}, r"next/observation: expected 9 rows"),
        ({"next_observations": {"x": NEXT}}, r"next/observation: expected the entries of the observation"),
        ({"timeouts": np.zeros(4)}, r"timeouts: expected 9 rows, as the other flags have, got 4"),
        ({"timeouts": np.zeros(1)}, r"timeouts: expected 9 rows"),
        ({"terminals": np.full(9, 2)}, r"terminals: expected one flag for each row"),
        ({"terminals": np.full(9, np.nan), "timeouts": None}, r"terminals: expected one flag for each row"),
    ],
)
def test_d4rl_refuses_what_does_not_fit(changes: dict[str, Any], message: str, quiet: None) -> None:
    with pytest.raises(ValueError, match=f"^load_d4rl: the dict, {message}"):
        load_d4rl(d4rl(**changes))


def test_d4rl_of_dicts_of_observations(quiet: None) -> None:
    observations, following = {"x": FIRST, "still": np.ones((9, 0))}, {"x": NEXT, "still": np.ones((9, 0))}
    whole(load_d4rl(d4rl(observations=observations, next_observations=following)))
    whole(load_d4rl(d4rl(observations=observations, next_observations=following, timeouts=None)))


def test_d4rl_next_observations_of_another_dtype(quiet: None) -> None:
    whole(load_d4rl(d4rl(next_observations=NEXT.astype(int)), dtype={("next", "observation"): torch.float32}))


def test_d4rl_of_lists(quiet: None) -> None:
    whole(load_d4rl({key: value.tolist() for key, value in d4rl().items()}))
    with pytest.raises(ValueError, match=r"load_d4rl: the dict, observations: expected an array, got lists of several"):
        load_d4rl(d4rl(observations=[[1.0], [1.0, 2.0]]))


@pytest.mark.parametrize("timeouts", [np.ones(1), None])
def test_d4rl_of_one_row_and_of_none(timeouts: Any) -> None:
    row = {key: value[:1] for key, value in d4rl(terminals=np.ones(9, bool)).items()} | {"timeouts": timeouts}
    row = {key: value for key, value in row.items() if value is not None}
    assert load_d4rl(row)["next", "terminated"].tolist() == [True]
    with pytest.raises(ValueError, match="rows: expected at least one step, got none"):
        load_d4rl({key: value[:0] for key, value in row.items()})


def test_an_entry_is_checked_whose_next_one_is_left_out() -> None:
    with pytest.raises(
        ValueError, match=r"the dict, observation: expected 9 rows, as the flags have, got shape \(8, 1"
    ):
        load_d4rl(d4rl(observations=FIRST[:-1]), keys=["observation"])


def test_single_steps_without_a_next_observation_are_no_data() -> None:
    """Unless they are asked for."""
    steps = d4rl(terminals=np.zeros(9), timeouts=np.ones(9), next_observations=None)
    with pytest.raises(ValueError, match=r"rows: expected a transition, got none\. With last='keep' the single steps"):
        load_d4rl(steps)
    assert load_d4rl(steps, last="keep")["episode"].tolist() == list(range(9))


def test_numbers_that_become_equal_in_float32_are_told() -> None:
    with pytest.warns(UserWarning, match=r"load_d4rl: the dict: observation: 8 of 8 changes .* are lost in .*float32"):
        load_d4rl(d4rl(observations=1.7e9 + np.arange(9.0)[:, None]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": None}, r"expected actions, got the entries \['masks', 'observations', 'rewards', 'terminals'\]"),
        ({"terminals": np.ones((12, 2))}, "terminals: expected one flag for each row"),
        ({"masks": np.full(12, 0.5)}, "masks: expected one flag for each row"),
        ({"masks": np.full(12, np.nan)}, "masks: expected one flag for each row"),
        ({"terminals": np.full(12, 2)}, "terminals: expected one flag for each row"),
        ({"valids": np.ones(12)}, r"valids: expected 0 on the row after a trajectory's last step, got 1 at row 4"),
        ({"observations": np.float64(1)}, r"observations: expected 12 rows, as terminals has, got shape \(\)"),
    ],
)
def test_ogbench_refuses_flags_that_cannot_be_right(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^load_ogbench: the dict[,:] {message}"):
        load_ogbench(ogbench(**changes))


def demonstrations(path: Path, *demos: dict[str, Any], names: tuple[str, ...] = ("demo_0", "demo_1")) -> Path:
    with h5py.File(path, "w") as file:
        for name, changes in zip(names, demos, strict=False):
            demo = {"obs/x": FIRST[:3], "actions": ACTION[:3], "rewards": REWARD[:3], "dones": np.array([0, 0, 1])}
            for key, value in (demo | changes).items():
                file[f"data/{name}/{key}"] = value
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dones": np.array([0, 0, 2])}, "dones: expected one flag for each row"),
        ({"dones": np.array([0, 0, np.nan])}, "dones: expected one flag for each row"),
        ({"obs/y": FIRST[:3]}, r"obs: expected the entries \['x'\] in all, got others in episode 1"),
        ({"actions": np.zeros((3, 2))}, r"actions: expected shape \(3, 1\), got \(3, 2\) in episode 1"),
        ({"obs/x": 1.0}, r"demo_1, obs/x: expected 3 rows, as rewards has, got shape \(\)"),
        ({"rewards": 1.0}, r"demo_1, actions: expected 1 rows"),
    ],
)
def test_robomimic_refuses_demonstrations_that_do_not_fit(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = demonstrations(tmp_path / "demo.hdf5", {}, changes)
    with pytest.raises(ValueError, match=f"^load_robomimic: file .*, {message}"):
        load_robomimic(path)


def test_robomimic_serves_odd_files(quiet: None, tmp_path: Path) -> None:
    column = {"dones": np.array([[0], [0], [1]]), "rewards": REWARD[:3, None]}
    nothing = {"obs/x": FIRST[:0], "actions": ACTION[:0], "rewards": REWARD[:0], "dones": np.zeros(0)}
    for case, demos in enumerate(([column, column], [nothing, {}], [{}, nothing])):
        path = demonstrations(tmp_path / f"{case}.hdf5", *demos, names=("second", "first"))
        data = load_robomimic(path)
        assert data["next", "terminated"].tolist() == [False, False, True] * (2 if case == 0 else 1)
    with pytest.raises(ValueError, match="expected at least one step, got none"):
        load_robomimic(demonstrations(tmp_path / "none.hdf5", nothing))
    wrong: list[Any] = ["x", []]
    for names in wrong:
        with pytest.raises(TypeError, match="observations: expected a list of names"):
            load_robomimic(path, observations=names)


def test_d3rlpy_holds_each_episode_to_its_length(quiet: None) -> None:
    def one(**changes: Any) -> Any:
        arrays = {"observations": FIRST[:3], "actions": ACTION[:3], "rewards": REWARD[:3, None], "terminated": True}
        return SimpleNamespace(**(arrays | changes))

    for name, array in (("observations", FIRST), ("actions", ACTION)):
        shifted = [one(**{name: array[:2]}), one(**{name: array[:4]})]  # as many rows in all
        with pytest.raises(ValueError, match=rf"from_d3rlpy: list, {name}: expected shape \(3, 1\), got \(2, 1\)"):
            from_d3rlpy(shifted)
    empty = one(observations=FIRST[:0], actions=ACTION[:0], rewards=REWARD[:0, None])
    assert from_d3rlpy([empty, one(), empty])["next", "terminated"].tolist() == [False, False, True]
    with pytest.raises(ValueError, match="expected at least one episode, got none"):
        from_d3rlpy([empty])
    with pytest.raises(ValueError, match=r"expected episodes with .*, got one without observations"):
        from_d3rlpy(["words"])
    with pytest.raises(
        ValueError, match=r"observations: expected the entries \[0, 1\] in all, got others in episode 1"
    ):
        from_d3rlpy([one(observations=[FIRST[:3], FIRST[:3]]), one()])


def test_torchrl_refuses_what_does_not_fit() -> None:
    for batch in ((0,), (2, 0), (0, 2)):
        with pytest.raises(ValueError, match="expected at least one step, got none"):
            from_torchrl(TensorDict({"action": torch.zeros(*batch, 1)}, batch_size=batch))
    wrong = {
        "next/done: expected one flag for each row": [torch.zeros(9, 2, dtype=torch.bool), torch.full((9, 1), 0.5)],
        "next/reward: expected one number for each row": [torch.zeros(9, 2)],
        "next/observation: expected shape": [torch.zeros(9, 3)],
    }
    for message, values in wrong.items():
        for value in values:
            data = collected()
            data["next", message[5:].partition(":")[0]] = value
            with pytest.raises(ValueError, match=f"^from_torchrl: TensorDict .*, {message}"):
                from_torchrl(data)
    half = collected()
    half["observation"] = half["observation"].bfloat16()
    assert from_torchrl(half)["observation"].dtype == torch.float32


def test_lerobot_refuses_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lerobot(tmp_path / "whole")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    with pytest.raises(ValueError, match=r"load_lerobot: done: expected one of .*, got 'done'"):
        load_lerobot(folder, done="done")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="load_lerobot: folder: expected the path of a folder, got NoneType"):
        load_lerobot(None)  # type: ignore[arg-type]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_lerobot("~/whole", last="keep")) == 9

    about = folder / "meta" / "info.json"
    info = json.loads(about.read_text())
    for damaged in (b"{", b"[]", b"\xff\xfe"):
        about.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^load_lerobot: folder .*: expected a dataset that can be read"):
            load_lerobot(folder)
    features = {name: feature for name, feature in info["features"].items() if name not in ("next.done", "index")}
    about.write_text(json.dumps(info | {"features": features}))
    assert len(load_lerobot(folder, last="keep")) == 9
    with pytest.raises(ValueError, match=r"expected the feature next\.done, which done='terminated' is about"):
        load_lerobot(folder, done="terminated")
    about.write_text(json.dumps(info | {"features": info["features"] | {"observation.more": {"dtype": "float32"}}}))
    with pytest.raises(ValueError, match=r"data: expected the column observation\.more, got none"):
        load_lerobot(folder)

    about.write_text(json.dumps(info))
    file = folder / "data" / "chunk-000" / "file-001.parquet"
    table = parquet.read_table(file)
    for column in ([[1.0, 2.0], [1.0], [1.0, 2.0], [1.0, 2.0]], ["a"] * 4):
        place = table.column_names.index("action")
        parquet.write_table(table.set_column(place, "action", arrow.array(column)), file)
        with pytest.raises(ValueError, match="action: expected numbers, or lists of one shape"):
            load_lerobot(folder)
    file.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="expected a dataset that can be read, got ArrowInvalid"):
        load_lerobot(folder)
