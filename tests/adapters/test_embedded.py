"""The embedded datasets: what they promise about quality, units and seeds, and the clinical world's exact numbers."""

# ruff: noqa: E402 (the extras are asked for before what needs them is imported)

from __future__ import annotations

import importlib
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

for _package in ("minari", "tensordict", "gymnasium", "rich", "pygame"):
    pytest.importorskip(_package, reason="needs the extra offline-losses[demo]")

import minari
import numpy as np
import torch

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
sys.path.insert(0, str(RECIPES))

import embedded
from sepsis import DEATH, SURVIVAL, IcuSepsis

from offline_losses import episode_return
from offline_losses.adapters.minari import load_minari, replay_error

SCALE = 0.05
CONTROLLED = ["pendulum/mixed-v0", "cartpole/mixed-v0"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


@pytest.fixture(scope="module")
def arrays() -> IcuSepsis:
    try:
        return IcuSepsis()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture
def world(arrays: IcuSepsis, monkeypatch: pytest.MonkeyPatch) -> IcuSepsis:
    """The clinical world, read once for all tests."""
    monkeypatch.setattr(embedded, "IcuSepsis", lambda: arrays)
    return arrays


# --- controllers of mixed quality --------------------------------------------------------------------------------


def test_pendulum_has_three_qualities_in_the_environments_units() -> None:
    data = load_minari(embedded.build_pendulum(SCALE))
    reward, done = data["next", "reward"], data["next", "done"]
    returns = episode_return(reward, done)[done]
    assert returns.shape == (15,)
    random, mediocre, good = (part.mean().item() for part in returns.split(5))
    assert random < -800 < mediocre < -300 < good
    assert data["next", "truncated"].equal(done)
    assert not data["next", "terminated"].any()
    assert 1.9 < data["action"].abs().max() <= 2.0
    assert data["action"].shape == (15 * 200, 1)


def test_cartpole_has_three_qualities() -> None:
    data = load_minari(embedded.build_cartpole(SCALE))
    reward, done = data["next", "reward"], data["next", "done"]
    random, mediocre, good = (part.mean().item() for part in episode_return(reward, done)[done].split([15, 15, 1]))
    assert random < 40 < mediocre < 250 < good == 500
    assert data["next", "truncated"].sum() >= 1
    assert data["next", "terminated"].sum() >= 15


@pytest.mark.parametrize("dataset_id", CONTROLLED)
def test_recorded_actions_replay_to_the_recorded_observations(dataset_id: str) -> None:
    dataset = embedded.EMBEDDED[dataset_id](SCALE)
    assert replay_error(dataset, episodes=dataset.total_episodes, steps=500) == 0.0


@pytest.mark.parametrize("dataset_id", embedded.EMBEDDED)
def test_builds_are_seeded(dataset_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: IcuSepsis) -> None:
    built = []
    for attempt, seed in enumerate((0, 0, 1)):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / str(attempt)))
        built.append(load_minari(embedded.EMBEDDED[dataset_id](0.002, seed=seed)))
    assert (built[0] == built[1]).all()
    assert len(built[0]) != len(built[2]) or not (built[0] == built[2]).all()


def test_gains_do_not_follow_the_first_state() -> None:
    """Environment and controller are seeded alike, and must not draw the same numbers."""
    dataset = embedded.build_pendulum(0.1)
    random = list(dataset.iterate_episodes(range(10)))
    angle = [np.arctan2(stored.observations[0, 1], stored.observations[0, 0]) for stored in random]
    torque = [stored.actions[0, 0] for stored in random]
    assert abs(np.corrcoef(angle, torque)[0, 1]) < 0.9


# --- opening and evaluating --------------------------------------------------------------------------------------


def test_missing_dataset_is_built_once_and_an_unfinished_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def build() -> Any:
        calls.append(1)
        return embedded.build_cartpole(0.01)

    monkeypatch.setitem(embedded.EMBEDDED, "cartpole/mixed-v0", build)
    whole = embedded.open_dataset("cartpole/mixed-v0")
    assert embedded.open_dataset("cartpole/mixed-v0").total_episodes == whole.total_episodes == 7
    assert len(calls) == 1
    whole.storage.update_metadata({"planned_episodes": 8})  # as an interrupted build leaves it
    assert embedded.open_dataset("cartpole/mixed-v0").total_episodes == 7
    assert len(calls) == 2


def test_load_keeps_the_flat_data_out_of_minaris_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(embedded.EMBEDDED, "cartpole/mixed-v0", lambda: embedded.build_cartpole(0.01))
    data = embedded.load("cartpole/mixed-v0")
    assert len(list((tmp_path / ".flat").iterdir())) == 1
    assert (embedded.load("cartpole/mixed-v0") == data).all()
    assert list(minari.list_local_datasets()) == ["cartpole/mixed-v0"]


def test_other_datasets_are_opened_or_explained() -> None:
    with pytest.raises(FileNotFoundError, match="minari download D4RL/pen/human-v2"):
        embedded.open_dataset("D4RL/pen/human-v2")


def test_evaluation_is_that_of_the_environment() -> None:
    embedded.build_cartpole(0.01)
    good = torch.tensor([0.1, 0.2, 1.0, 0.5])
    returns = embedded.evaluate("cartpole/mixed-v0", lambda seen: (seen @ good > 0).long(), episodes=3)
    assert returns.tolist() == [500.0] * 3
    fall = embedded.evaluate("cartpole/mixed-v0", lambda seen: torch.ones(len(seen), dtype=torch.int64), episodes=5)
    environment = minari.load_dataset("cartpole/mixed-v0").recover_environment()
    expected = []
    for seed in range(5):
        environment.reset(seed=seed)
        ended, steps = False, 0
        while not ended:
            _, _, terminated, truncated, _ = environment.step(1)
            ended, steps = terminated or truncated, steps + 1
        expected.append(steps)
    assert fall.tolist() == expected


def test_clinical_policies_are_not_sampled(world: IcuSepsis) -> None:
    embedded.build_sepsis(0.001)
    with pytest.raises(ValueError, match="IcuSepsis"):
        embedded.evaluate("icu-sepsis/clinicians-v0", lambda seen: seen)


# --- the clinical world ------------------------------------------------------------------------------------------


def uniform(world: IcuSepsis) -> Any:
    return np.full(world.clinicians.shape, 1 / world.clinicians.shape[1])


def test_exact_survival(world: IcuSepsis) -> None:
    """The published numbers: 0.78 for the clinicians and for chance, 0.88 at best; four digits by linear solves."""
    assert world.survival(world.clinicians) == pytest.approx(0.7818, abs=5e-5)
    assert world.survival(uniform(world)) == pytest.approx(0.7801, abs=5e-5)
    best, policy = world.optimum()
    assert best == pytest.approx(0.8751, abs=5e-5)
    assert world.survival(policy) == pytest.approx(best, abs=1e-12)


def test_inadmissible_treatments_act_like_the_mean_of_the_others(world: IcuSepsis) -> None:
    admissible = world.admissible / world.admissible.sum(axis=1, keepdims=True)
    assert world.survival(admissible) == pytest.approx(world.survival(uniform(world)), abs=1e-9)


def test_survival_against_probabilities_pushed_forward(world: IcuSepsis) -> None:
    """The same number without a linear system: the distribution over states, step after step."""
    onward = np.einsum("sa,sat->st", world.clinicians, world.transition)
    distribution, survived = world.initial, 0.0
    for _ in range(2000):
        distribution = distribution @ onward
        survived += distribution[SURVIVAL]
        distribution = np.where(np.arange(len(distribution)) < DEATH, distribution, 0.0)
    assert distribution.sum() < 1e-12
    assert world.survival(world.clinicians) == pytest.approx(survived, abs=1e-10)


def test_optimum_is_a_fixed_point_of_bellmans_equation(world: IcuSepsis) -> None:
    best, policy = world.optimum()
    survived = np.arange(len(world.initial)) == SURVIVAL
    values = survived.astype(np.float64)
    for _ in range(150):  # value iteration, from below; one patient in 10^5 is treated for longer
        values[:DEATH] = (world.transition[:DEATH] @ values).max(axis=1)
    assert best - 1e-5 < world.initial @ values < best + 1e-12
    assert set(policy[:DEATH].sum(axis=1)) == {1.0}


def test_sampled_patients_follow_the_process(world: IcuSepsis) -> None:
    patients = world.sample(20_000, np.random.default_rng(0))
    survived = np.array([states[-1] == SURVIVAL for states, _ in patients])
    assert survived.mean() == pytest.approx(world.survival(world.clinicians), abs=4 * np.sqrt(0.78 * 0.22 / 20_000))
    steps = sum(len(actions) for _, actions in patients)
    onward = np.einsum("sa,sat->st", world.clinicians, world.transition)[:DEATH, :DEATH]
    expected_steps = world.initial[:DEATH] @ np.linalg.solve(np.eye(DEATH) - onward, np.ones(DEATH))
    assert steps / 20_000 == pytest.approx(expected_steps, rel=0.02)
    for states, actions in patients[:2000]:
        assert len(states) == len(actions) + 1
        assert (states[:-1] < DEATH).all()
        assert states[-1] in (DEATH, SURVIVAL)
        assert (world.clinicians[states[:-1], actions] > 0).all()
        assert (world.transition[states[:-1], actions, states[1:]] > 0).all()


def test_sampled_patients_under_another_policy(world: IcuSepsis) -> None:
    best, policy = world.optimum()
    survived = [states[-1] == SURVIVAL for states, _ in world.sample(5000, np.random.default_rng(1), policy)]
    assert np.mean(survived) == pytest.approx(best, abs=4 * np.sqrt(best * (1 - best) / 5000))


def test_clinical_dataset_is_the_sample(world: IcuSepsis) -> None:
    data = load_minari(embedded.build_sepsis(0.01, seed=3))
    patients = world.sample(200, np.random.default_rng(3))
    states = np.concatenate([states[:-1] for states, _ in patients])
    following = np.concatenate([states[1:] for states, _ in patients])
    assert np.array_equal(data["observation"], world.features[states])
    assert np.array_equal(data["next", "observation"], world.features[following])
    assert np.array_equal(data["action"], np.concatenate([actions for _, actions in patients]))
    assert np.array_equal(data["next", "reward"], following == SURVIVAL)
    assert np.array_equal(data["next", "terminated"], following >= DEATH)
    assert not data["next", "truncated"].any()


def test_the_package_itself_is_never_imported(world: IcuSepsis) -> None:
    assert "icu_sepsis" not in sys.modules
    assert "gym" not in sys.modules


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and locks")
def test_a_second_builder_waits_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    build = embedded.EMBEDDED["cartpole/mixed-v0"]
    monkeypatch.setitem(embedded.EMBEDDED, "cartpole/mixed-v0", lambda: build(SCALE))
    fork = multiprocessing.get_context("fork")
    builders = [fork.Process(target=embedded.open_dataset, args=("cartpole/mixed-v0",), daemon=True) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(300)
        assert builder.exitcode == 0
    monkeypatch.setitem(embedded.EMBEDDED, "cartpole/mixed-v0", lambda: pytest.fail("built again"))
    assert embedded.open_dataset("cartpole/mixed-v0").total_episodes == 31


def test_help_is_no_traceback() -> None:
    shown = subprocess.run([sys.executable, embedded.__file__, "--help"], capture_output=True, text=True, check=True)
    assert "icu-sepsis/clinicians-v0" in shown.stdout


def test_what_cannot_be_opened_or_built_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"got 'cartpole/mixed'\..*Built on the spot are pendulum/mixed-v0, cartpole/"):
        embedded.main(["cartpole/mixed"])

    def denied() -> Any:
        raise PermissionError(13, "Permission denied", "/data/cartpole")

    monkeypatch.setitem(embedded.EMBEDDED, "cartpole/mixed-v0", denied)
    for command in (embedded.main, importlib.import_module("bc").main):
        with pytest.raises(
            SystemExit, match=r"got .*denied: '/data/cartpole'\. Name another one in .*MINARI_DATASETS_PA"
        ):
            command(["cartpole/mixed-v0"] if command is embedded.main else ["--dataset", "cartpole/mixed-v0"])
