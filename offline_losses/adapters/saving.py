"""A flat TensorDict, filtered or relabelled, as a new Minari dataset that any other library reads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any

import minari
import numpy as np
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from tensordict import TensorDictBase

from offline_losses.adapters.entries import Array, Path, key_of
from offline_losses.adapters.minari import open_dataset
from offline_losses.adapters.saving_checks import (
    check_about,
    check_id,
    check_rows,
    check_space,
    check_steps,
    mapped,
    unwritable,
)

_BLOCK = 200  # episodes written at a time
_COPIED = ("algorithm_name", "code_permalink", "description", "ref_min_score", "ref_max_score", "requirements")
_SPECS = ("env_spec", "eval_env_spec")


def save_minari(
    data: TensorDictBase,
    dataset_id: str,
    *,
    like: str | minari.MinariDataset | None = None,
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Space[Any] | None = None,
    **about: Any,
) -> minari.MinariDataset:
    """Writes whole episodes, with the keys of `load_minari`, as a new local Minari dataset.

    `load_minari` reads back what was written, number for number; `episode` counts from zero again. Other entries than
    those of `load_minari` have no place in a Minari dataset and stay behind.

    Args:
        data: `[N]`, episode after episode, such as `data[return_filter(reward, done, fraction=0.1)]`.
        dataset_id: id of the new dataset, with its version: `"mine/best-v0"`.
        like: the dataset that the data come from: its spaces, environment and metadata are taken over, and the seed of
            each episode that is still as long as it was there, by `data["episode"]`.
        observation_space: the space of the observations, in place of that.
        action_space: the space of the actions, in place of that.
        about: further arguments of `minari.create_dataset_from_buffers`, such as `author` and `description`.

    Returns:
        The new dataset. Images are stored without loss.

    Raises:
        ValueError: an id that is malformed or taken, no spaces, a missing entry, numbers that are not finite, `done`
            that is not its two flags or not on the last row of each episode, rows that do not follow each other, or
            values outside of a discrete space. Nothing is written then.
        TypeError: an argument that Minari does not know.
        OSError: a folder of datasets that cannot be written.
    """
    check_id(dataset_id)
    check_about(about)
    source = None if like is None else _opened(like)
    observation_space = observation_space or (source and source.observation_space)
    action_space = action_space or (source and source.action_space)
    if observation_space is None or action_space is None:
        raise ValueError("save_minari: like: expected a dataset, or both spaces, got neither. Pass one of them.")
    edges = _edges(data)
    given = _given(source) | about
    buffers = _buffers(data, edges, observation_space, action_space, _seeds(source, data, edges))
    first = list(islice(buffers, _BLOCK))  # checked before anything is written
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*(author|email|eval_env|env_spec|permalink|algorithm|description).*"
        )
        try:
            dataset = minari.create_dataset_from_buffers(
                dataset_id,
                first,
                observation_space=observation_space,
                action_space=action_space,
                **{"jpeg_encoding": False, **given},
            )
        except OSError as error:
            raise unwritable(error) from error
    try:
        while block := list(islice(buffers, _BLOCK)):
            dataset.update_dataset_from_buffer(block)
        if source is not None and "env" not in about:
            stored = source.storage.metadata
            dataset.storage.update_metadata({name: stored[name] for name in _SPECS if stored.get(name)})
    except BaseException:
        minari.delete_dataset(dataset_id)  # half of a dataset
        raise
    return minari.load_dataset(dataset_id)


def _opened(like: str | minari.MinariDataset) -> minari.MinariDataset:
    try:
        return open_dataset(like)
    except (TypeError, ValueError, FileNotFoundError, ImportError) as error:
        raise type(error)(str(error).replace("load_minari: dataset", "save_minari: like", 1)) from error


def _given(source: minari.MinariDataset | None) -> dict[str, Any]:
    if source is None:
        return {}
    stored = source.storage.metadata
    given = {name: stored[name] for name in _COPIED if stored.get(name) is not None}
    for name in ("author", "author_email"):
        if stored.get(name):
            given[name] = set(stored[name])
    return given


def _edges(data: TensorDictBase) -> list[tuple[int, int]]:
    """First row and end of each episode."""
    if not isinstance(data, TensorDictBase) or data.batch_dims != 1:
        got = f"batch size {list(data.batch_size)}" if isinstance(data, TensorDictBase) else type(data).__name__
        raise ValueError(f"save_minari: data: expected a flat TensorDict [N], got {got}. Flatten it, in time order.")
    done = _entry(data, ("next", "done")).astype(bool)
    if len(done) == 0 or not done[-1]:
        raise ValueError(
            "save_minari: data: expected whole episodes, the last row with done, got another. Select with a filter "
            "that keeps episodes whole, such as `return_filter`."
        )
    stops = np.flatnonzero(done) + 1
    return list(zip([0, *stops[:-1].tolist()], stops.tolist(), strict=True))


def _seeds(
    source: minari.MinariDataset | None, data: TensorDictBase, edges: list[tuple[int, int]]
) -> Iterator[dict[str, Any]]:
    """Seed and options of each episode that is as long as in the source."""
    known = set() if source is None else set(map(int, source.episode_indices))
    episode = data.get("episode", None)
    for start, stop in edges:
        index = -1 if episode is None else int(episode[start])
        if source is None or index not in known:
            yield {}
            continue
        (record,) = source.storage.get_episode_metadata([index])
        whole = record.get("total_steps") == stop - start
        yield {name: record[name] for name in ("seed", "options") if whole and record.get(name) is not None}


def _buffers(
    data: TensorDictBase,
    edges: list[tuple[int, int]],
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    seeds: Iterator[dict[str, Any]],
) -> Iterator[EpisodeBuffer]:
    before = _nested(data, observation_space, ("observation",))
    after = _nested(data, observation_space, ("next", "observation"))
    action = _nested(data, action_space, ("action",))
    reward, terminated, truncated = (_entry(data, ("next", name)) for name in ("reward", "terminated", "truncated"))
    done = _entry(data, ("next", "done")).astype(bool)
    check_steps(data, done, reward, terminated, truncated)
    for space, column, path in ((observation_space, before, "observation"), (action_space, action, "action")):
        check_space(space, column, path)
    check_rows(before, after, ~done[:-1])
    for (start, stop), seed in zip(edges, seeds, strict=True):
        rows = slice(start, stop)
        yield EpisodeBuffer(
            observations=mapped(lambda x, y, a=start, b=stop: np.concatenate([x[a:b], y[b - 1 : b]]), before, after),
            actions=mapped(lambda x, rows=rows: x[rows], action),
            rewards=reward[rows],
            terminations=terminated[rows],
            truncations=truncated[rows],
            **seed,
        )


def _nested(data: TensorDictBase, space: spaces.Space[Any], path: Path) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _nested(data, child, (*path, key)) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_nested(data, child, (*path, str(index))) for index, child in enumerate(space.spaces))
    return _entry(data, path)


def _entry(data: TensorDictBase, path: Path) -> Array:
    value = data.get(path, None)
    if not isinstance(value, torch.Tensor):
        raise ValueError(
            f"save_minari: data: expected the entry {key_of(path)!r}, as the spaces have it, got none. Load it, or "
            "pass a space without it."
        )
    array: Array = value.numpy(force=True)
    return array
