"""LeRobot's datasets of version 3: parquet files of numbers, one row for each frame."""

from __future__ import annotations

import json
from json import JSONDecodeError
from os import PathLike, fspath
from pathlib import Path as Folder
from typing import Any, Literal

import numpy as np
from tensordict import TensorDict

from offline_losses.adapters.entries import Array
from offline_losses.adapters.flat import Last, Steps, flag, refuse

_NEEDED = ("frame_index", "episode_index", "index")


def load_lerobot(
    folder: str | PathLike[str],
    *,
    done: Literal["terminated", "truncated"] = "truncated",
    videos: Literal["refuse", "ignore"] = "refuse",
    last: Last = "drop",
) -> TensorDict:
    """Reads the numbers of a local LeRobot dataset (format v3.0) into one flat TensorDict `[N]`.

    `observation.state` and its like become `("observation", "state")`, `action` is `action`, `next.reward` the reward.
    `next.done` says that an episode is over: the recorder writes it at a termination and at a time limit alike, so that
    the end is a cut unless you know better. No observation is on record after the last frame of an episode.

    Args:
        folder: the dataset's folder, with `meta/info.json` in it.
        done: `"truncated"`, or `"terminated"` where `next.done` is known to be set at the end of the task alone.
        videos: `"refuse"` a dataset that has images or videos, or `"ignore"` them and read the numbers.
        last: `"drop"` the last frame of an episode that was cut, or `"keep"` it with `("next", "observed")` False.

    Returns:
        The keys of `load_minari`, `task_index`, and `("next", "observed")`; no `("next", "reward")` where the dataset
        has none. A feature of shape (1,) is a scalar column.

    Raises:
        ImportError: without pyarrow.
        ValueError: another version, images or videos, a missing entry, or frames without their episodes' metadata.
    """
    for name, value, known in (
        ("done", done, ("terminated", "truncated")),
        ("videos", videos, ("refuse", "ignore")),
    ):
        if value not in known:
            raise ValueError(f"load_lerobot: {name}: expected one of {known}, got {value!r}. Choose one of these.")
    if not isinstance(folder, (str, PathLike)):
        raise TypeError(
            f"load_lerobot: folder: expected the path of a folder, got {type(folder).__name__}. Pass a dataset's."
        )
    root, where = Folder(folder).expanduser(), f"folder {fspath(folder)!r}"
    try:
        import pyarrow.parquet as parquet
        from pyarrow.lib import ArrowException
    except ImportError as error:
        raise ImportError("load_lerobot: no pyarrow. Install it: pip install pyarrow.") from error
    if not (root / "meta" / "info.json").is_file():
        raise ValueError(f"load_lerobot: {where}: expected meta/info.json, got none. Name the folder of one dataset.")
    try:
        info = json.loads((root / "meta" / "info.json").read_text())
        _check(info, root, where, videos)
        names = [name for name, about in info["features"].items() if about["dtype"] not in ("video", "image", "string")]
        files = sorted((root / "data").glob("chunk-*/file-*.parquet"))
        parts = [parquet.read_table(file) for file in files]
        counted = int(info["total_frames"])
    except (OSError, KeyError, TypeError, AttributeError, JSONDecodeError, UnicodeError, ArrowException) as error:
        raise ValueError(
            f"load_lerobot: {where}: expected a dataset that can be read, got {type(error).__name__}: {error}. "
            "Download it anew."
        ) from error
    names += [name for name in _NEEDED if name not in names]
    missing = [name for name in names if any(name not in part.column_names for part in parts)]
    if missing:
        raise ValueError(
            f"load_lerobot: {where}, data: expected the column {missing[0]}, got none. Download the dataset anew."
        )
    columns = {name: _array([part[name] for part in parts], where, name) for name in names if parts}
    frames = len(columns.get("index", ()))
    if frames != counted:
        raise ValueError(
            f"load_lerobot: {where}, data: expected the {counted} frames that meta/info.json counts, got "
            f"{frames}. Download the dataset anew."
        )
    order = np.lexsort((columns["frame_index"], columns["episode_index"]))
    columns = {name: column[order] for name, column in columns.items()}
    episode = columns["episode_index"]
    over = np.append(episode[1:] != episode[:-1], True)
    terminated = np.zeros(frames, bool)
    if done == "terminated":
        if "next.done" not in columns:
            raise ValueError(
                f"load_lerobot: {where}: expected the feature next.done, which done='terminated' is about, got none. "
                "Pass done='truncated'."
            )
        terminated = flag("load_lerobot", where, "next.done", columns["next.done"])
    observation = {name[12:]: columns[name] for name in names if name.startswith("observation.")}
    steps = Steps(
        "load_lerobot",
        where,
        observation=observation,
        action=columns["action"],
        terminated=terminated,
        truncated=over & ~terminated,
        reward=columns.get("next.reward"),
    )
    if "task_index" in columns:
        steps.others = {("task_index",): columns["task_index"]}
    return steps.tensordict(last)


def _check(info: dict[str, Any], root: Folder, where: str, videos: str) -> None:
    version = str(info.get("codebase_version"))
    if not version.startswith("v3"):
        raise ValueError(
            f"load_lerobot: {where}: expected format v3, got {version}. Convert it with lerobot's own script."
        )
    if not any((root / "meta" / "episodes").glob("chunk-*/file-*.parquet")):
        raise ValueError(
            f"load_lerobot: {where}: expected meta/episodes, got none. The recording was not closed with `finalize()`; "
            "its frames cannot be trusted to be whole."
        )
    seen = [name for name, about in info["features"].items() if about["dtype"] in ("video", "image")]
    if seen and videos != "ignore":
        raise ValueError(
            f"load_lerobot: {where}, {seen[0]}: expected numbers, got {info['features'][seen[0]]['dtype']}. Frames are "
            "not decoded here; pass videos='ignore' for the numbers alone."
        )
    if "action" not in info["features"] or not any(name.startswith("observation.") for name in info["features"]):
        raise ValueError(
            f"load_lerobot: {where}, features: expected observation.* and action, got {sorted(info['features'])}. "
            "Load another dataset."
        )


def _array(parts: list[Any], where: str, name: str) -> Array:
    """A column of numbers or lists as an array; a feature of shape (1,) is one number for each frame."""
    try:
        return np.concatenate([np.asarray(part.to_pylist()) for part in parts])
    except ValueError as error:  # lists of several lengths
        refuse("load_lerobot", where, name, "lists of one shape", str(error).rstrip("."), "Download the dataset anew")
