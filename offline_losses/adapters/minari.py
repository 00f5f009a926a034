"""Minari episodes as one flat, time-ordered TensorDict: read once, checked, cast once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

try:
    import minari
    import torch
    from tensordict import TensorDict
except ImportError as _error:
    raise ImportError(
        'offline_losses.adapters.minari: no minari or tensordict. Install them: pip install "offline-losses[data]".'
    ) from _error

from offline_losses.adapters.entries import Choice, Key
from offline_losses.adapters.episodes import UNREADABLE
from offline_losses.adapters.keeping import cached, in_memory, streamed, tensordict
from offline_losses.adapters.replay import distance, recorded_environment
from offline_losses.adapters.sources import MinariSource


def load_minari(
    dataset: str | minari.MinariDataset,
    *,
    keys: Iterable[Key] | None = None,
    exclude: Iterable[Key] = (),
    dtype: Mapping[Key, torch.dtype] | None = None,
    progress: bool | None = None,
    cache: str | PathLike[str] | None = None,
    memmap: str | PathLike[str] | None = None,
) -> TensorDict:
    """Reads a Minari dataset into one flat TensorDict `[N]`: episode after episode, each in time order.

    | key | content |
    |---|---|
    | `observation`, `("next", "observation")` | `[N, ...]`; dict and tuple spaces are nested keys (tuple: `"0"`) |
    | `action` | `[N, ...]`, nested likewise, in the units of the recorded action space |
    | `("next", "reward")` | `[N]` float32 |
    | `("next", "terminated")`, `("next", "truncated")`, `("next", "done")` | `[N]` bool |
    | `episode` | `[N]` int64, Minari's id of the episode |

    The keys are TorchRL's; the per-step numbers have no trailing axis of one, since the losses take `[N]`.
    Floating entries become float32 in one cast, entries of discrete spaces int64; byte images stay uint8.
    The next observation is the recorded one, at an episode's end too: Minari stores T + 1 observations. `done` is
    True on every episode's last row and nowhere else, so a recurrence that `done` cuts may run over all rows at
    once. Where the recording ends an episode with neither flag, `truncated` is set and one warning says how often.
    An observation that is no array (a text beside an image) is left out with a warning.

    Args:
        dataset: id of a local dataset, or a `MinariDataset` (a filtered one gives its own episodes only).
        keys: the entries to read, each by its key or by one above it: `["observation", "action"]` reads neither next
            observations nor rewards. The flags and `episode` always come. None: all.
        exclude: entries to leave out of these, such as `[("next", "observation", "image")]`.
        dtype: another dtype for the entries at or below a key, such as `{"observation": torch.float64}`; refused where
            an integer would change.
        progress: whether to show a bar while reading, if rich is installed; None: where reading takes seconds.
        cache: folder in which the columns are kept for the next call, which maps them into memory in milliseconds, and
            reads anew where a file of the dataset has another size or time of change. If it cannot be written, a
            warning says so.
        memmap: folder for the columns of a dataset that is larger than memory. They are streamed into it, in
            tensordict's own format, and mapped; a later call maps them again. The folder appears when it is whole.

    Returns:
        TensorDict with batch size `[N]`, N the number of steps.

    Raises:
        FileNotFoundError: no such local dataset; the message says how to get it.
        ValueError: the dataset is damaged or not what Minari promises; the message names dataset, episode and field.
        MemoryError: the columns need more memory than there is.
        OSError: the folder of `memmap` cannot be written, or is full.

    What is written into mapped columns stays in memory and never reaches the files.

    Examples:
        >>> data = load_minari("D4RL/pen/human-v2")  # doctest: +SKIP
        >>> data["next", "done"].sum() == data["episode"].unique().numel()  # doctest: +SKIP
        tensor(True)
    """
    if cache is not None and memmap is not None:
        raise ValueError(
            "load_minari: memmap: expected no cache beside it, got both. The folder of memmap= is kept, too."
        )
    source = MinariSource(open_dataset(dataset), Choice.of("load_minari", keys, exclude, dtype))
    if memmap is not None:
        return tensordict(streamed(source, memmap, progress))
    return tensordict(in_memory(source, progress) if cache is None else cached(source, cache, progress))


def replay_error(dataset: str | minari.MinariDataset, *, episodes: int = 1, steps: int = 10) -> float:
    """Replays recorded actions in the recorded environment: the largest error of an observation.

    About zero, where the dataset is what its environment does. A large error says that the recorded actions are not in
    the environment's units (say, [-1, 1] for an environment that takes [-2, 2]), or that another environment or version
    made the data.

    Args:
        dataset: id of a local dataset, or a `MinariDataset`, with an environment and seeds on record.
        episodes: number of episodes to replay, from the first on.
        steps: number of steps to replay of each.

    Returns:
        max |replayed - recorded|, in float64, over the first observation and those after each step; infinite where the
        environment ends an episode earlier than the recording does, and where one of the two is NaN, has another shape,
        or is a text that differs.

    Raises:
        ValueError: the dataset records no environment, or no seed for an episode.
        ImportError: the environment's package is missing.
    """
    source = open_dataset(dataset)
    chosen = [int(index) for index in source.episode_indices[:episodes]]
    worst = 0.0
    environment = recorded_environment(source, caller="replay_error")
    try:
        for record, episode in zip(
            source.storage.get_episode_metadata(chosen), source.iterate_episodes(chosen), strict=True
        ):
            if record.get("seed") is None:
                raise ValueError(
                    f"replay_error: dataset {source.id!r}, episode {episode.id}: expected a recorded seed, got none. "
                    "Only datasets that were recorded with seeded resets can be replayed."
                )
            observation, _ = environment.reset(seed=int(record["seed"]), options=record.get("options"))
            worst = max(worst, distance(source.observation_space, observation, _row(episode.observations, 0)))
            for step in range(min(steps, len(episode))):
                observation, _, terminated, truncated, _ = environment.step(_row(episode.actions, step))
                if (terminated or truncated) and step + 1 < len(episode):
                    return math.inf
                recorded = _row(episode.observations, step + 1)
                worst = max(worst, distance(source.observation_space, observation, recorded))
    finally:
        environment.close()
    return worst


def open_dataset(dataset: str | minari.MinariDataset) -> minari.MinariDataset:
    """The dataset itself, or the local one of that id."""
    if isinstance(dataset, minari.MinariDataset):
        return dataset
    if not isinstance(dataset, str):
        raise TypeError(
            f"load_minari: dataset: expected an id or a MinariDataset, got {type(dataset).__name__}. "
            "Pass the id of a local dataset, such as 'D4RL/pen/human-v2'."
        )
    try:
        return minari.load_dataset(dataset)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"load_minari: dataset: expected the id of a local dataset, got {dataset!r}. The local ones are "
            f"{_local_ids()}; fetch others with `minari download {dataset}` "
            '(pip install "minari[hf]"; `minari list remote` shows what there is).'
        ) from error
    except ImportError as error:
        raise ImportError(
            f"load_minari: dataset {dataset!r}: its files need another package: {error}. "
            'HDF5: pip install "offline-losses[data]"; arrow and parquet: pip install "minari[arrow]".'
        ) from error
    except UNREADABLE as error:
        raise ValueError(
            f"load_minari: dataset {dataset!r}, metadata.json: expected the description of a dataset, got "
            f"{type(error).__name__}: {error}. Fetch it again: `minari delete {dataset}`, `minari download {dataset}`."
        ) from error


def _local_ids() -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return sorted(minari.list_local_datasets())
        except UNREADABLE:  # one folder with a malformed name is enough
            return []


def _row(values: Any, step: int) -> Any:
    if isinstance(values, dict):
        return {key: _row(value, step) for key, value in values.items()}
    if isinstance(values, tuple):
        return tuple(_row(value, step) for value in values)
    return values[step]
