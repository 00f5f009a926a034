"""The worlds that the recipes learn from: four datasets built on the spot, and what a policy is worth in them.

`python docs/recipes/embedded.py [ids...]` builds the ones that are missing, with real environments and through Minari's
own API, so that every recipe takes any other Minari id just as well.

- `pendulum/mixed-v0`: continuous; random, mediocre and good controllers in equal shares of steps.
- `cartpole/mixed-v0`: discrete; many random and mediocre episodes, few good ones.
- `icu-sepsis/clinicians-v0`: clinical; 20 000 patients under the clinicians' policy, in a process known exactly.
- `maze/play-v0`: discrete; walks through a maze whose goals nobody aimed for.

A mediocre controller is a good one with *wrong gains*, drawn anew for each episode. Noise on a good controller would
not do: plain imitation averages it away, and nothing is left to learn.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import maze  # noqa: F401  registers its world
import minari
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from minari.data_collector import EpisodeBuffer
from minari.storage import get_dataset_path
from rich.progress import track
from sepsis import SURVIVAL, IcuSepsis
from tensordict import TensorDict

from offline_losses.adapters.minari import load_minari
from offline_losses.adapters.minari import open_dataset as open_local
from offline_losses.adapters.replay import recorded_environment

Controller = Callable[[np.ndarray], Any]
Quality = tuple[int, Callable[[np.random.Generator], Controller]]  # number of episodes, a controller for each

BLOCK = 250  # episodes written at a time


def open_dataset(dataset_id: str) -> minari.MinariDataset:
    """The local dataset of that id; an embedded one is built first if it is missing, or was not finished."""
    if dataset_id not in EMBEDDED:
        try:
            return open_local(dataset_id)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error} Built on the spot are {', '.join(EMBEDDED)}.") from error
    with _one_builder():
        try:
            dataset = open_local(dataset_id)
        except FileNotFoundError:
            return _built(dataset_id)
        planned = dataset.storage.metadata.get("planned_episodes", max(1, dataset.total_episodes))
        if planned == dataset.total_episodes:
            return dataset
        minari.delete_dataset(dataset_id)  # a build of ours that was interrupted
        return _built(dataset_id)


def _built(dataset_id: str) -> minari.MinariDataset:
    try:
        return EMBEDDED[dataset_id]()
    except OSError as error:
        raise OSError(
            f"{dataset_id}: expected a folder of datasets that can be written, got {error}. "
            "Name another one in the environment variable MINARI_DATASETS_PATH."
        ) from error


@contextmanager
def _one_builder() -> Iterator[None]:
    """Makes a second process wait, which would take the half-built dataset of the first for an interrupted one."""
    with ExitStack() as stack:
        try:
            import fcntl

            get_dataset_path().mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context((get_dataset_path() / ".building").open("a")), fcntl.LOCK_EX)
        except (ImportError, OSError):  # no locks here, or a folder in which nothing can be built
            pass
        yield


def load(dataset_id: str) -> TensorDict:
    """The flat TensorDict of a dataset, kept in a hidden folder beside the datasets once it has been read."""
    return load_minari(open_dataset(dataset_id), cache=get_dataset_path() / ".flat")


def evaluate(
    dataset_id: str, act: Callable[[Any], Any], episodes: int = 20, seed: int = 0
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Returns of `episodes` episodes of a policy in the dataset's own environment, all of them side by side.

    `act` maps observations [episodes, ...] to actions in the environment's units, both tensors (float32 where they are
    floats), or dicts and tuples of them as the spaces are; if it has a method `earned`, that is told the rewards
    [episodes] of each step. Episode i is reset with seed + i. The clinical world needs no
    sampling: ask `IcuSepsis().survival(probabilities)`.
    """
    dataset = open_dataset(dataset_id)
    if dataset.env_spec is None:
        raise ValueError(f"evaluate: {dataset_id!r} has no environment. Use IcuSepsis().survival for the clinical one.")
    worlds = SyncVectorEnv([partial(recorded_environment, dataset, caller="evaluate", evaluation=True)] * episodes)
    observation, _ = worlds.reset(seed=seed)
    returns, running = np.zeros(episodes), np.ones(episodes, dtype=bool)
    while running.any():
        with torch.no_grad():
            action = act(_each(_tensor, observation))
        observation, reward, terminated, truncated, _ = worlds.step(_each(lambda x: x.cpu().numpy(), action))
        if hasattr(act, "earned"):
            act.earned(torch.as_tensor(reward, dtype=torch.float32))
        returns[running] += reward[running]
        running &= ~(terminated | truncated)
    worlds.close()
    return returns


def _each(convert: Callable[[Any], Any], rows: Any) -> Any:
    """Rows as they are nested, each array converted."""
    if isinstance(rows, dict):
        return {key: _each(convert, part) for key, part in rows.items()}
    return tuple(_each(convert, part) for part in rows) if isinstance(rows, tuple) else convert(rows)


def _tensor(array: Any) -> Any:
    """As a tensor, where it is an array and not a text."""
    if not isinstance(array, np.ndarray):
        return array
    return torch.as_tensor(array, dtype=torch.float32 if array.dtype.kind == "f" else None)


def build_pendulum(scale: float = 1.0, seed: int = 0) -> minari.MinariDataset:
    """Pendulum-v1: 20 000 steps each of random torque, wrong gains, and energy swing-up with a catch."""

    def swing_up(gain: float, catch: float, stiffness: float, damping: float) -> Controller:
        def act(observation: np.ndarray) -> np.ndarray:
            cosine, sine, velocity = (float(number) for number in observation)
            if cosine > catch:  # near the top: hold
                torque = -stiffness * np.arctan2(sine, cosine) - damping * velocity
            else:  # elsewhere: pump up to the energy of resting at the top, which is 5
                torque = gain * velocity * (5.0 - velocity**2 / 6 - 5 * cosine)
            return np.array([np.clip(torque, -2.0, 2.0)], dtype=np.float32)

        return act

    def random(rng: np.random.Generator) -> Controller:
        return lambda _: rng.uniform(-2.0, 2.0, 1).astype(np.float32)

    def mediocre(rng: np.random.Generator) -> Controller:  # a stiffness below 5 cannot hold the pole against gravity
        return swing_up(*rng.uniform((0.1, 0.7, 3.5, 0.5), (0.5, 0.9, 4.5, 2.0)))

    def good(_: np.random.Generator) -> Controller:
        return swing_up(gain=1.0, catch=0.8, stiffness=10.0, damping=3.0)

    count = max(1, round(100 * scale))  # of 200 steps each
    qualities = [(count, random), (count, mediocre), (count, good)]
    return _from_controllers("pendulum/mixed-v0", "Pendulum-v1", qualities, seed)


def build_cartpole(scale: float = 1.0, seed: int = 0) -> minari.MinariDataset:
    """CartPole-v1: 300 random episodes, 300 of a linear controller with wrong gains, 20 of a perfect one."""

    def linear(gains: Any) -> Controller:
        return lambda observation: np.int64(observation @ np.asarray(gains) > 0)

    def random(rng: np.random.Generator) -> Controller:
        return lambda _: rng.integers(2)

    def mediocre(
        rng: np.random.Generator,
    ) -> Controller:  # wrong signs at the cart: it drifts off with the pole upright
        return linear(rng.uniform((-0.5, -0.8, 0.5, 0.05), (-0.2, -0.4, 1.0, 0.3)))

    def good(_: np.random.Generator) -> Controller:
        return linear((0.1, 0.2, 1.0, 0.5))

    many, few = max(1, round(300 * scale)), max(1, round(20 * scale))
    return _from_controllers("cartpole/mixed-v0", "CartPole-v1", [(many, random), (many, mediocre), (few, good)], seed)


def build_maze(scale: float = 1.0, seed: int = 0) -> minari.MinariDataset:
    """Maze of rooms: 1000 episodes of play, straight on for some steps and then another way, whatever the goal is."""

    def play(rng: np.random.Generator) -> Controller:
        direction, left = 0, 0

        def act(_: np.ndarray) -> np.int64:
            nonlocal direction, left
            if left == 0:
                direction, left = rng.integers(4), rng.integers(1, 5)
            left -= 1
            return np.int64(direction)

        return act

    return _from_controllers("maze/play-v0", "offline_losses/Maze-v0", [(max(1, round(1000 * scale)), play)], seed)


def build_sepsis(scale: float = 1.0, seed: int = 0) -> minari.MinariDataset:
    """ICU-Sepsis: 20 000 patients; the observation is the state's 47 features, the reward 1 for survival."""
    world = IcuSepsis()
    patients = world.sample(max(1, round(20_000 * scale)), np.random.default_rng(seed))

    def episodes() -> Iterator[EpisodeBuffer]:
        for states, actions in patients:
            end = np.arange(len(actions)) == len(actions) - 1
            yield EpisodeBuffer(
                observations=world.features[states],
                actions=actions,
                rewards=(states[1:] == SURVIVAL).astype(np.float32),
                terminations=end,
                truncations=np.zeros_like(end),
            )

    return _store(
        "icu-sepsis/clinicians-v0",
        episodes(),
        len(patients),
        observation_space=spaces.Box(-np.inf, np.inf, (world.features.shape[1],), np.float32),
        action_space=spaces.Discrete(world.clinicians.shape[1]),
        algorithm_name="the clinicians' policy",
        description="Patients of ICU-Sepsis (arXiv:2406.05646; package icu-sepsis, MIT) under its clinicians' policy.",
    )


EMBEDDED: dict[str, Callable[..., minari.MinariDataset]] = {
    "pendulum/mixed-v0": build_pendulum,
    "cartpole/mixed-v0": build_cartpole,
    "icu-sepsis/clinicians-v0": build_sepsis,
    "maze/play-v0": build_maze,
}


def _from_controllers(dataset_id: str, env_id: str, qualities: list[Quality], seed: int) -> minari.MinariDataset:
    environment = gym.make(env_id)

    def episodes() -> Iterator[EpisodeBuffer]:
        makers = [maker for count, maker in qualities for _ in range(count)]
        for reset_seed, maker in enumerate(makers, start=1_000_000 * (seed + 1)):  # far from those of evaluations
            # the environment draws from default_rng(reset_seed): the controller needs a stream of its own
            yield _record(environment, maker(np.random.default_rng([reset_seed, 1])), reset_seed)
        environment.close()

    return _store(
        dataset_id,
        episodes(),
        sum(count for count, _ in qualities),
        env=environment,
        eval_env=environment,
        algorithm_name="scripted controllers: random, wrong gains, good",
        description=f"{env_id} under controllers of mixed quality; every episode's reset seed is recorded.",
        requirements=["gymnasium>=1.0"],
    )


def _record(environment: gym.Env[Any, Any], controller: Controller, seed: int) -> EpisodeBuffer:
    observation, _ = environment.reset(seed=seed)
    observations, actions, rewards, terminations, truncations = [observation], [], [], [], []
    while not (terminations and (terminations[-1] or truncations[-1])):
        actions.append(controller(observation))
        observation, reward, terminated, truncated, _ = environment.step(actions[-1])
        observations.append(observation)
        rewards.append(np.float32(reward))
        terminations.append(terminated)
        truncations.append(truncated)
    return EpisodeBuffer(
        seed=seed,
        observations=np.stack(observations),
        actions=np.stack(actions),
        rewards=np.stack(rewards),
        terminations=np.array(terminations),
        truncations=np.array(truncations),
    )


def _store(dataset_id: str, episodes: Iterator[EpisodeBuffer], total: int, **about: Any) -> minari.MinariDataset:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(author_email|eval_env|env_spec).*")  # there is none to name
        dataset = minari.create_dataset_from_buffers(
            dataset_id,
            buffer=[],
            author="the authors of offline_losses",
            code_permalink="docs/recipes/embedded.py in the source of offline_losses",
            **about,
        )
    dataset.storage.update_metadata({"planned_episodes": total})
    block: list[EpisodeBuffer] = []
    for episode in track(episodes, f"building {dataset_id}", total):
        block.append(episode)
        if len(block) == BLOCK:
            dataset.update_dataset_from_buffer(block)
            block = []
    dataset.update_dataset_from_buffer(block)
    return minari.load_dataset(dataset_id)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Builds the datasets of the recipes that are missing.")
    parser.add_argument("ids", nargs="*", metavar="ID", default=list(EMBEDDED), help=", ".join(EMBEDDED) + "; all")
    for name in parser.parse_args(argv).ids:
        try:
            built = open_dataset(name)
        except (OSError, ImportError, ValueError) as error:
            raise SystemExit(str(error)) from error
        print(f"{name}: {built.total_episodes} episodes, {built.total_steps} steps, {built.storage.get_size()} MB")


if __name__ == "__main__":
    main()
