"""Reading a Minari dataset of a million steps in 5 000 episodes: by ours, by Minari's iterator, from the cache."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import MODES, Variant, Variants, Workload, clone_floor, shape_text

STEPS = 1_000_000
LENGTH = 200
EPISODES = 1000  # that are there
SHARE = EPISODES * LENGTH / STEPS
NOTE = f"timed on {EPISODES:,} episodes of {LENGTH} steps, scaled to {STEPS:,} steps"


def readings() -> Iterator[Workload]:
    """Two pieces of work; what they need beyond PyTorch is asked for when a variant is made."""

    def read(device: torch.device) -> Variants:
        return {"eager": lambda: _variant(_load), "minari": lambda: _variant(_iterated), "floor": _floor}

    def kept(device: torch.device) -> Variants:
        return {"eager": lambda: _variant(_mapped), "floor": _floor}

    yield Workload("reading", "load_minari", shape_text((STEPS,)), MODES[0], STEPS, read)
    yield Workload("reading", "load_minari, kept in a cache", shape_text((STEPS,)), MODES[0], STEPS, kept)


def _floor() -> Variant:
    return clone_floor(torch.zeros(STEPS, 29))


def _variant(run: Any) -> Variant:
    folder = _folder()
    return Variant(lambda: run(folder), work=SHARE, note=NOTE)


def _load(folder: str, **how: Any) -> list[Tensor]:
    from offline_losses.adapters.minari import load_minari

    with _datasets_in(folder):
        data = load_minari("benchmark/reading-v0", progress=False, **how)
    return [data["observation"], data["next", "observation"], data["action"], data["next", "reward"]]


def _mapped(folder: str) -> list[Tensor]:
    """As `load_minari` reads what it has kept, and once over the pages."""
    return [column.clone() for column in _load(folder, cache=os.path.join(folder, "kept"))]


def _iterated(folder: str) -> list[Tensor]:
    """The same columns, by Minari's own iterator."""
    import minari

    with _datasets_in(folder):
        episodes = list(minari.load_dataset("benchmark/reading-v0"))
    columns = (
        [episode.observations[:-1] for episode in episodes],
        [episode.observations[1:] for episode in episodes],
        [episode.actions for episode in episodes],
        [episode.rewards for episode in episodes],
    )
    return [torch.from_numpy(np.concatenate(parts).astype(np.float32)) for parts in columns]


@cache
def _folder() -> str:
    """A dataset of 11 numbers an observation and 3 an action, for as long as this process lives."""
    import minari
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer

    keeper = tempfile.TemporaryDirectory(prefix="benchmarks-reading-")
    _KEPT.append(keeper)
    rng = np.random.default_rng(0)
    end = np.arange(LENGTH) == LENGTH - 1
    with _datasets_in(keeper.name), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            "benchmark/reading-v0",
            [
                EpisodeBuffer(
                    observations=rng.normal(size=(LENGTH + 1, 11)),
                    actions=rng.uniform(-1, 1, (LENGTH, 3)).astype(np.float32),
                    rewards=rng.normal(size=LENGTH),
                    terminations=end,
                    truncations=np.zeros(LENGTH, bool),
                )
                for _ in range(EPISODES)
            ],
            observation_space=spaces.Box(-np.inf, np.inf, (11,), np.float64),
            action_space=spaces.Box(-1, 1, (3,), np.float32),
        )
    return keeper.name


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


@contextmanager
def _datasets_in(folder: str) -> Iterator[None]:
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
