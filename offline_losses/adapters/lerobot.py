"""LeRobot's datasets of version 3: parquet files of numbers, one row for each frame."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from json import JSONDecodeError
from os import PathLike, fspath
from pathlib import Path as Folder
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from tensordict import TensorDict

from offline_losses.adapters.entries import Array, Key
from offline_losses.adapters.flat import Last, Steps, flag, refuse
from offline_losses.adapters.keeping import from_files
from offline_losses.adapters.rows import Joined, Rows, Whole

_NEEDED = ("frame_index", "episode_index", "index")


def load_lerobot(
    folder: str | PathLike[str],
    *,
    done: Literal["terminated", "truncated"] = "truncated",
    videos: Literal["refuse", "ignore"] = "refuse",
    last: Last = "drop",
    keys: Iterable[Key] | None = None,
    exclude: Iterable[Key] = (),
    dtype: Mapping[Key, torch.dtype] | None = None,
    memmap: str | PathLike[str] | None = None,
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
        keys: the entries that are read, as with `load_minari`; None for all.
        exclude: entries that are not read.
        dtype: of one entry or another, by its key.
        memmap: a folder for entries that are larger than memory.

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
    steps = _steps(folder, done, videos)
    return from_files(
        "load_lerobot", folder, steps, [done, videos], last=last, keys=keys, exclude=exclude, dtype=dtype, memmap=memmap
    )


@contextmanager
def _steps(folder: str | PathLike[str], done: str, videos: str) -> Iterator[Steps]:
    root, where = Folder(folder).expanduser(), f"folder {fspath(folder)!r}"
    try:
        import pyarrow.parquet as parquet
        from pyarrow.lib import ArrowException
    except ImportError as error:
        raise ImportError("load_lerobot: no pyarrow. Install it: pip install pyarrow.") from error
    if not (root / "meta" / "info.json").is_file():
        raise ValueError(f"load_lerobot: {where}: expected meta/info.json, got none. Name the folder of one dataset.")
    with ExitStack() as stack:
        try:
            info = json.loads((root / "meta" / "info.json").read_text())
            _check(info, root, where, videos)
            features = info["features"].items()
            names = [name for name, about in features if about["dtype"] not in ("video", "image", "string")]
            files = sorted((root / "data").glob("chunk-*/file-*.parquet"))
            parts = [stack.enter_context(parquet.ParquetFile(file)) for file in files]
            steps = _of(parts, names, int(info["total_frames"]), where, done)
        except (OSError, KeyError, TypeError, AttributeError, JSONDecodeError, UnicodeError, ArrowException) as error:
            raise ValueError(
                f"load_lerobot: {where}: expected a dataset that can be read, got {type(error).__name__}: {error}. "
                "Download it anew."
            ) from error
        yield steps


def _of(parts: list[Any], names: list[str], counted: int, where: str, done: str) -> Steps:
    names += [name for name in _NEEDED if name not in names]
    missing = [name for name in names if any(name not in part.schema_arrow.names for part in parts)]
    if missing:
        raise ValueError(
            f"load_lerobot: {where}, data: expected the column {missing[0]}, got none. Download the dataset anew."
        )
    parts = [part for part in parts if part.metadata.num_rows]
    columns: dict[str, Rows] = {name: _column(parts, where, name) for name in names if parts}
    frames = columns["index"].shape[0] if parts else 0
    if frames != counted:
        raise ValueError(
            f"load_lerobot: {where}, data: expected the {counted} frames that meta/info.json counts, got "
            f"{frames}. Download the dataset anew."
        )
    episode, frame = (np.asarray(columns[name]) for name in ("episode_index", "frame_index"))
    order = np.lexsort((frame, episode))
    if (order[1:] < order[:-1]).any():
        columns = {name: Whole(np.asarray(column)[order]) for name, column in columns.items()}
        episode = episode[order]
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
    return steps


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


def _column(parts: list[Any], where: str, name: str) -> Rows:
    found = [Frames(part, where, name) for part in parts]
    shapes = {frames.shape[1:] for frames in found}
    if len(shapes) != 1:
        got = f"lists of the shapes {sorted(shapes)}"
        refuse("load_lerobot", where, name, "numbers, or lists of one shape", got, "Download the set anew")
    return Joined(found)


class Frames(Rows):
    """A column of one parquet file, read when it is asked for; a feature of shape (1,) is one number for each frame."""

    def __init__(self, file: Any, where: str, name: str) -> None:
        self._file, self._where, self._name = file, where, name
        first = self._numbers(next(file.iter_batches(batch_size=1, columns=[name])).column(0))
        groups = range(file.metadata.num_row_groups)
        self._lengths: list[int] = [file.metadata.row_group(group).num_rows for group in groups]
        super().__init__((sum(self._lengths), *first.shape[1:]), first.dtype, max(self._lengths))

    def read(self, start: int, stop: int) -> Array:
        before, groups, skipped = 0, [], 0
        for group, rows in enumerate(self._lengths):
            if before < stop and before + rows > start:
                groups.append(group)
            elif not groups:
                skipped += rows
            before += rows
        try:
            column = self._file.read_row_groups(groups, columns=[self._name]).column(0)
        except (OSError, ValueError) as error:  # of which Arrow's are kinds
            self._refuse(f"{type(error).__name__}: {error}".rstrip("."))
        found = self._numbers(column)
        return found[start - skipped : stop - skipped]

    def _numbers(self, column: Any) -> Array:
        from pyarrow import compute

        array = column.combine_chunks() if hasattr(column, "combine_chunks") else column
        shape = [len(array)]
        while "list" in str(array.type):
            lengths = compute.list_value_length(array).unique().to_pylist()
            if len(lengths) != 1:
                self._refuse(f"lists of {sorted(map(str, lengths))} numbers")
            shape.append(lengths[0])
            array = array.flatten()
        if array.null_count:
            self._refuse("some that are missing")
        found: Array = array.to_numpy(zero_copy_only=False)
        if found.dtype.kind not in "biuf":
            self._refuse(f"values of type {array.type}")
        return found.reshape(shape)

    def _refuse(self, got: str) -> NoReturn:
        refuse("load_lerobot", self._where, self._name, "numbers, or lists of one shape", got, "Download the set anew")
