"""What a dataset must be before it is written: an id, arguments, steps and spaces that `load_minari` reads again."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import minari
import numpy as np
import torch
from gymnasium import spaces
from minari.dataset.minari_dataset import parse_dataset_id
from tensordict import TensorDictBase

from offline_losses.adapters.columns import bounds
from offline_losses.adapters.entries import Array, path_of

_KEPT = ("observation", "action", "next")


def check_id(dataset_id: str) -> None:
    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:  # malformed, or without a version
        raise ValueError(
            f"save_minari: dataset_id: expected an id like 'mine/best-v0', with a version and a namespace of two "
            f"letters or more, got {dataset_id!r}. Correct it."
        ) from error
    try:
        local = minari.list_local_datasets()
    except OSError as error:
        raise unwritable(error) from error
    if dataset_id in local:
        raise ValueError(
            f"save_minari: dataset_id: expected a new id, got {dataset_id!r}, which is there. Raise the version, or "
            f"remove it with `minari delete {dataset_id}`."
        )


def check_about(about: dict[str, Any]) -> None:
    known = sorted(set(inspect.signature(minari.create_dataset_from_buffers).parameters) - {"dataset_id", "buffer"})
    for name in about:
        if name not in known:
            raise TypeError(
                f"save_minari: {name}: expected an argument of minari.create_dataset_from_buffers, got {name!r}. The "
                f"arguments are {known}."
            )


def check_steps(data: TensorDictBase, done: Array, reward: Array, terminated: Array, truncated: Array) -> None:
    """What `load_minari` would refuse, or read as something else."""
    rows = len(done)
    for name, column in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
        if column.shape != (rows,):
            raise ValueError(
                f"save_minari: data: expected {rows} numbers in ('next', {name!r}), got shape {column.shape}. "
                "Squeeze it."
            )
    for key in data.keys(include_nested=True, leaves_only=True):
        value = data.get(key)
        if isinstance(value, torch.Tensor) and path_of(key)[0] in _KEPT and not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"save_minari: data: expected finite numbers in {key!r}, got others. Leave such episodes out."
            )
    if not np.array_equal(terminated.astype(bool) | truncated.astype(bool), done):
        raise ValueError(
            "save_minari: data: expected ('next', 'done') to be terminated or truncated, got another. Set all three "
            "where an episode ends."
        )


def check_space(space: spaces.Space[Any], column: Any, path: str) -> None:
    """What lies outside of a discrete space is refused, as `load_minari` would; a continuous action there is told."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        children = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, child in children:
            check_space(child, column[key], f"{path}/{key}")
        return
    if column.shape[1:] != tuple(space.shape or ()):
        raise ValueError(
            f"save_minari: {path}: expected rows of {space}, got shape {column.shape}. Pass the space of these numbers."
        )
    low, high = bounds(space)
    outside = ((column < low) | (column > high)).reshape(len(column), -1).any(axis=1)
    if not outside.any() or (isinstance(space, spaces.Box) and not path.startswith("action")):
        return
    row = int(np.argmax(outside))
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"save_minari: {path}: expected values of {space}, got {column[row]} at row {row}. Pass another space, or "
            "leave such episodes out."
        )
    warnings.warn(
        f"save_minari: {path}: {int(outside.sum())} of {len(outside)} actions lie outside {space}, the first is "
        f"{column[row]}. They are written as they are.",
        stacklevel=4,
    )


def check_rows(before: Any, after: Any, inside: Array) -> None:
    """Where an episode goes on, the next observation of a row is the observation of the row after it."""

    def check(left: Array, right: Array) -> None:
        apart = (left[1:] != right[:-1]).reshape(len(inside), int(np.prod(left.shape[1:]))).any(axis=1) & inside
        if apart.any():
            row = int(np.argmax(apart))
            raise ValueError(
                f"save_minari: data: expected rows that follow each other, got a next observation at row {row} that "
                f"is not the observation of row {row + 1}. A Minari episode has T + 1 observations: keep it whole."
            )

    mapped(check, before, after)


def mapped(function: Any, first: Any, *others: Any) -> Any:
    if isinstance(first, dict):
        return {key: mapped(function, first[key], *(other[key] for other in others)) for key in first}
    if isinstance(first, tuple):
        return tuple(mapped(function, *parts) for parts in zip(first, *others, strict=True))
    return function(first, *others)


def unwritable(error: OSError) -> OSError:
    """The sentence for a folder of datasets that cannot be written."""
    return OSError(
        f"save_minari: dataset_id: expected a folder of datasets that can be written, got {error}. Set "
        "MINARI_DATASETS_PATH to another one."
    )
