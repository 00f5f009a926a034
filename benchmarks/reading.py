"""Reading a Minari dataset of a million steps: by ours, by its iterator, from a cache, into a folder; and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import MODES, Variant, Variants, Workload, clone_floor, shape_text

STEPS = 1_000_000
EPISODES = (5_000, 20_000)
TIMED = 1_000  # episodes that are read each time
ROW_BYTES = 4 * (2 * 11 + 3 + 1) + 3 + 8  # of all columns: observations, action, reward, flags, episode
KINDS = {"": {}, ", kept in a cache": {"cache": "kept"}, ", into a folder": {"memmap": "mapped"}}


def readings() -> Iterator[Workload]:
    """Pieces of work; what they need beyond PyTorch is asked for when a variant is made.

    Times are of some episodes alone, but for a cache, which is there; memory is of all, in another process.
    """
    for episodes in EPISODES:
        for kind, how in KINDS.items():
            name = f"load_minari of {episodes:,} episodes{kind}"
            yield Workload("reading", name, shape_text((STEPS,)), MODES[0], STEPS, partial(_variants, episodes, how))


def _variants(episodes: int, how: dict[str, str], device: torch.device) -> Variants:
    makers: Variants = {"eager": lambda: _variant(episodes, _load, how)}
    if not how:
        makers["minari"] = lambda: _variant(episodes, _iterated, None)
    return {**makers, "floor": lambda: clone_floor(torch.zeros(STEPS, ROW_BYTES // 4))}


def _variant(episodes: int, run: Callable[..., list[Tensor]], how: dict[str, str] | None) -> Variant:
    length = STEPS // episodes
    if how and "cache" in how:
        folder = _folder(length, episodes)
        return Variant(lambda: run(folder, **how), tolerance=None, note="from the second time on")
    folder = _folder(length, min(TIMED, episodes))
    share = min(TIMED, episodes) / episodes
    note = f"timed on {min(TIMED, episodes):,} episodes of {length} steps, scaled to {STEPS:,} steps"
    peak = None if how is None else lambda: _peak(_folder(length, episodes), how)
    return Variant(lambda: run(folder, **(how or {})), work=share, note=note, peak=peak)


def _load(folder: str, **how: str) -> list[Tensor]:
    from offline_losses.adapters.minari import load_minari

    with _datasets_in(folder), tempfile.TemporaryDirectory() as fresh:
        places = {kind: os.path.join(fresh if kind == "memmap" else folder, place) for kind, place in how.items()}
        data = load_minari("benchmark/reading-v0", progress=False, **places)
        columns = [data["observation"], data["next", "observation"], data["action"], data["next", "reward"]]
        return [column.clone() for column in columns] if how else columns  # once over the pages


_CHILD = """
import sys
from pathlib import Path
from offline_losses.adapters.minari import load_minari
def now(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))
held = now("VmRSS")
load_minari("benchmark/reading-v0", progress=False, **dict([sys.argv[1:]] if sys.argv[1:] else []))
print(now("VmHWM") - held)
"""


def _peak(folder: str, how: dict[str, str]) -> int:
    """Bytes of memory beyond those at the start; 0 where the system does not say."""
    if not sys.platform.startswith("linux"):
        return 0
    with _datasets_in(folder), tempfile.TemporaryDirectory() as fresh:
        options = [part for kind, place in how.items() for part in (kind, os.path.join(fresh, place))]
        child = [sys.executable, "-c", _CHILD, *options]
        return int(subprocess.run(child, check=True, capture_output=True, text=True).stdout)


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
def _folder(length: int, episodes: int) -> str:
    """A dataset of 11 numbers an observation and 3 an action, for as long as this process lives."""
    import minari
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer

    keeper = tempfile.TemporaryDirectory(prefix="benchmarks-reading-")
    _KEPT.append(keeper)
    rng = np.random.default_rng(0)
    end = np.arange(length) == length - 1

    def episode() -> EpisodeBuffer:
        return EpisodeBuffer(
            observations=rng.normal(size=(length + 1, 11)),
            actions=rng.uniform(-1, 1, (length, 3)).astype(np.float32),
            rewards=rng.normal(size=length),
            terminations=end,
            truncations=np.zeros(length, bool),
        )

    with _datasets_in(keeper.name), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = minari.create_dataset_from_buffers(
            "benchmark/reading-v0",
            [],
            observation_space=spaces.Box(-np.inf, np.inf, (11,), np.float64),
            action_space=spaces.Box(-1, 1, (3,), np.float32),
        )
        for start in range(0, episodes, 500):
            dataset.update_dataset_from_buffer([episode() for _ in range(min(500, episodes - start))])
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
