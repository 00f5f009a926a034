"""OGBench's files, in which `terminals` is where a trajectory was cut and `masks` where the task ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from offline_losses.adapters.entries import Key
from offline_losses.adapters.files import open_npz
from offline_losses.adapters.flat import Last, Steps, flag
from offline_losses.adapters.keeping import from_files
from offline_losses.adapters.rows import Picked, Rows, Whole


def load_ogbench(
    source: str | PathLike[str] | Mapping[str, Any],
    *,
    last: Last = "drop",
    keys: Iterable[Key] | None = None,
    exclude: Iterable[Key] = (),
    dtype: Mapping[Key, torch.dtype] | None = None,
    memmap: str | PathLike[str] | None = None,
) -> TensorDict:
    """Reads an npz file of OGBench (1.2.2), or what its `load_dataset` returns, into one flat TensorDict `[N]`.

    Three forms are told apart by their entries:

    - with neither of the next two, the file: T + 1 rows for each trajectory, `terminals` 1 on the last, whose action
      is a filler. That row is the next observation of the one before;
    - with `next_observations`, the regular form: one row for each step, `terminals` 1 on the last;
    - with `valids`, the compact form: as in the file, and rows with `valids` 0 are no steps.

    `terminals` is a cut in all of them: a trajectory of OGBench does not end with its task. `masks`, 1 where the task
    goes on, is the only termination; a step that reaches the goal inside a trajectory ends an episode here.

    Args:
        source: path of an npz file, or a dict of arrays.
        last: what becomes of a last step without a next observation on record; only a regular form that is cut short
            has such.
        keys: the entries that are read, as with `load_minari`; None for all.
        exclude: entries that are not read.
        dtype: of one entry or another, by its key.
        memmap: a folder for entries that are larger than memory.

    Returns:
        The keys of `load_minari`; no `("next", "reward")` where the file has no `rewards`, as those for goals have not.

    Raises:
        ValueError: an entry that is missing, of another length, or not finite; rows that are no transition.
    """
    steps = _steps(source)
    return from_files("load_ogbench", source, steps, last=last, keys=keys, exclude=exclude, dtype=dtype, memmap=memmap)


@contextmanager
def _steps(source: Any) -> Iterator[Steps]:
    if isinstance(source, Mapping):
        yield _of({key: Whole(value) for key, value in source.items()}, "the dict")
        return
    with open_npz("load_ogbench", source, " or a dict of arrays") as arrays:
        yield _of(arrays, f"file {str(source)!r}")


def _of(arrays: Mapping[str, Rows], where: str) -> Steps:
    missing = [name for name in ("observations", "actions", "terminals") if name not in arrays]
    if missing:
        raise ValueError(
            f"load_ogbench: {where}: expected {missing[0]}, got the entries {sorted(arrays)}. Check the file."
        )
    rows = math.prod(arrays["terminals"].shape[:1])
    short = [name for name in _ROWS if name in arrays and arrays[name].shape[:1] != (rows,)]
    if short:
        raise ValueError(
            f"load_ogbench: {where}, {short[0]}: expected {rows} rows, as terminals has, got shape "
            f"{arrays[short[0]].shape}. A file without a flag on its last row loses one in OGBench's own loader: "
            "read the file itself."
        )
    flags = {
        name: flag("load_ogbench", where, name, arrays[name])
        for name in ("terminals", "masks", "valids")
        if name in arrays
    }
    cut = flags["terminals"]
    observation = arrays["observations"]
    if "next_observations" in arrays:
        step, following = np.arange(len(cut)), arrays["next_observations"]
    else:
        goes_on = flags["valids"].copy() if "valids" in arrays else ~cut
        goes_on[-1:] = False  # with or without a flag, nothing follows
        crossing = cut[:-1] & goes_on[:-1] & goes_on[1:]
        if crossing.any():
            raise ValueError(
                f"load_ogbench: {where}, valids: expected 0 on the row after a trajectory's last step, got 1 at row "
                f"{int(np.argmax(crossing)) + 1}. Leave valids out if the rows are a file's."
            )
        step = np.flatnonzero(goes_on)
        following = Picked(observation, step + 1)
        cut = np.append(~goes_on[1:], True)
    if not len(step):
        raise ValueError(f"load_ogbench: {where}: expected two rows of a trajectory, got none. Check terminals.")
    terminated = ~flags["masks"] if "masks" in arrays else np.zeros(len(cut), bool)
    return Steps(
        "load_ogbench",
        where,
        observation=Picked(observation, step),
        action=Picked(arrays["actions"], step),
        terminated=terminated[step],
        truncated=cut[step],
        reward=Picked(arrays["rewards"], step) if "rewards" in arrays else None,
        next_observation=following,
    )


_ROWS = ("observations", "actions", "next_observations", "valids", "masks", "rewards")
