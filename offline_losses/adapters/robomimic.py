"""robomimic's HDF5 files: a group for each demonstration, masks that name the ones of a split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any, Literal

import numpy as np
import torch
from tensordict import TensorDict

from offline_losses.adapters.entries import Key
from offline_losses.adapters.files import Stored, open_hdf5, read_hdf5
from offline_losses.adapters.flat import Last, Steps, ends, flag, joined
from offline_losses.adapters.keeping import from_files
from offline_losses.adapters.rows import leaves


def load_robomimic(
    source: str | PathLike[str],
    *,
    split: str | None = None,
    observations: Sequence[str] | None = None,
    dones: Literal["terminated", "truncated"] = "terminated",
    last: Last = "drop",
    keys: Iterable[Key] | None = None,
    exclude: Iterable[Key] = (),
    dtype: Mapping[Key, torch.dtype] | None = None,
    memmap: str | PathLike[str] | None = None,
) -> TensorDict:
    """Reads demonstrations of a robomimic file into one flat TensorDict `[N]`, in the order of their numbers.

    `dones` of these files means what whoever made them chose: success, the end of a demonstration, or both. Every
    demonstration ends with its last row, by a termination where `dones` is 1 there and by a cut where not. A last
    `next_obs` that repeats `obs` is what robomimic's converter of D4RL's files writes at terminations and time limits
    alike, so it counts as a cut without a record; a warning says so where this leaves no termination.

    Args:
        source: the HDF5 file.
        split: name of a mask, such as `"train"`; None: all demonstrations.
        observations: names of the entries of `obs` to read; None: all.
        dones: `"terminated"`, or `"truncated"` where 1 says no more than that the demonstration is over; also for
            files with 1 on several rows.
        last: `"drop"` steps that were cut without a next observation on record, or `"keep"` them, marked.
        keys: the entries that are read, as with `load_minari`; None for all.
        exclude: entries that are not read.
        dtype: of one entry or another, by its key.
        memmap: a folder for entries that are larger than memory.

    Returns:
        The keys of `load_minari`, observations nested by name, and `("next", "observed")` where one is not on record.

    Raises:
        ValueError: no such split, a missing entry (rewards are never made up), a flag inside a demonstration.
    """
    if dones not in ("terminated", "truncated"):
        raise ValueError(
            f"load_robomimic: dones: expected 'terminated' or 'truncated', got {dones!r}. Choose one of these."
        )
    if isinstance(observations, str) or (observations is not None and not observations):
        raise TypeError(
            f"load_robomimic: observations: expected a list of names, got {observations!r}. Pass one, such as "
            "['object'], or None for all."
        )
    asked = (split, observations, dones)
    steps = _steps(source, *asked)
    return from_files(
        "load_robomimic", source, steps, asked, last=last, keys=keys, exclude=exclude, dtype=dtype, memmap=memmap
    )


@contextmanager
def _steps(source: Any, split: str | None, observations: Sequence[str] | None, dones: str) -> Iterator[Steps]:
    where = f"file {str(source)!r}"
    with open_hdf5("load_robomimic", source) as file:
        names = _demos(file, where, split)
        demos = [_demo(file["data"][name], f"{where}, {name}", observations) for name in names]
        yield _of(names, demos, where, dones)


def _of(names: list[str], demos: list[dict[str, Any]], where: str, dones: str) -> Steps:
    lengths = [demo["rewards"].shape[0] if demo["rewards"].shape else 1 for demo in demos]
    for name, demo, length in zip(names, demos, lengths, strict=True):
        for path, array in leaves(demo, ()):
            if array.shape[:1] != (length,):
                raise ValueError(
                    f"load_robomimic: {where}, {name}, {'/'.join(path)}: expected {length} rows, as rewards has, got "
                    f"shape {array.shape}. Convert the file anew."
                )
    if not sum(lengths):
        raise ValueError(f"load_robomimic: {where}: expected at least one step, got none. Choose another split.")

    def column(name: str) -> Any:
        return joined("load_robomimic", where, name, [demo[name] for demo in demos], lengths)

    last_rows = ends(lengths)
    flagged = flag("load_robomimic", where, "dones", column("dones"))
    if dones == "terminated" and (flagged & ~last_rows).any():
        raise ValueError(
            f"load_robomimic: {where}, dones: expected 1 on the last row of a demonstration only, got "
            f"{int((flagged & ~last_rows).sum())} others. Pass dones='truncated', or cut the demonstrations there."
        )
    terminated = flagged & last_rows & (dones == "terminated")
    following, observed = None, None
    if all("next_obs" in demo for demo in demos):
        following = column("next_obs")
        observed = np.ones(len(last_rows), bool)
        observed[last_rows] = [not _repeats(demo) for demo, length in zip(demos, lengths, strict=True) if length]
        terminated &= observed
    steps = Steps(
        "load_robomimic",
        where,
        observation=column("obs"),
        action=column("actions"),
        terminated=terminated,
        truncated=last_rows & ~terminated,
        reward=column("rewards"),
        next_observation=following,
        observed=observed,
    )
    if dones == "terminated" and flagged.any() and not terminated.any():
        steps.warn(
            "wherever dones is 1, next_obs repeats obs, as in files converted from D4RL. Terminations cannot be told "
            "from time limits there, and all are taken for these. Load the file that it was made of, with load_d4rl."
        )
    return steps


def _demos(file: Any, where: str, split: str | None) -> list[str]:
    if "data" not in file or hasattr(file["data"], "shape") or not len(file["data"]):
        raise ValueError(
            f"load_robomimic: {where}: expected demonstrations under data, got {list(file)}. Check the file."
        )
    names = list(file["data"])
    if split is not None:
        masks = list(file["mask"]) if "mask" in file else []
        if split not in masks:
            raise ValueError(
                f"load_robomimic: split: expected one of {masks}, got {split!r}. Pass one of these, or None."
            )
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in file["mask"][split][()]]
        missing = [name for name in names if name not in file["data"]]
        if missing:
            raise ValueError(
                f"load_robomimic: {where}, mask/{split}: expected names of demonstrations, got {missing[0]!r}. "
                "Choose another split, or repair the file."
            )
    return sorted(names, key=_number)


def _number(name: str) -> tuple[float, str]:
    number = name.rpartition("_")[2]
    return (int(number) if number.isdecimal() else math.inf), name


def _demo(group: Any, where: str, observations: Sequence[str] | None) -> dict[str, Any]:
    if hasattr(group, "shape"):
        raise ValueError(f"load_robomimic: {where}: expected a demonstration, got an array. Check the file.")
    missing = [name for name in ("obs", "actions", "rewards", "dones") if name not in group]
    seen = [name for name in ("obs", "next_obs") if name in group]
    missing += [f"{each}/{name}" for each in seen for name in observations or () if name not in group[each]]
    if missing:
        raise ValueError(
            f"load_robomimic: {where}: expected {missing[0]}, got {list(group)}. Extract observations and rewards "
            "into the file first, with robomimic's dataset_states_to_obs.py."
        )
    demo = {name: Stored("load_robomimic", group[name]) for name in ("actions", "rewards", "dones")}
    for name in seen:
        entries = group[name] if observations is None else {key: group[name][key] for key in observations}
        demo[name] = read_hdf5("load_robomimic", entries)
    return demo


def _repeats(demo: dict[str, Any]) -> bool:
    """Whether the last next observation is the observation itself, in all entries."""
    following = dict(leaves(demo["next_obs"], ()))
    pairs = [
        (rows, following[path])
        for path, rows in leaves(demo["obs"], ())
        if path in following and following[path].shape == rows.shape  # refused later, by name
    ]
    last = [(before.shape[0] - 1, before, after) for before, after in pairs]
    return bool(last) and all(
        np.array_equal(before.read(row, row + 1), after.read(row, row + 1)) for row, before, after in last
    )
