"""Files in the style of D4RL: one row for each step, flags of two kinds, next observations in some."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from offline_losses.adapters.entries import Key, Path
from offline_losses.adapters.files import open_hdf5, read_hdf5
from offline_losses.adapters.flat import Last, Steps, flag
from offline_losses.adapters.keeping import from_files
from offline_losses.adapters.rows import Rows, Whole, blocks, leaves


def load_d4rl(
    source: str | PathLike[str] | Mapping[str, Any],
    *,
    infos: bool = False,
    last: Last = "drop",
    keys: Iterable[Key] | None = None,
    exclude: Iterable[Key] = (),
    dtype: Mapping[Key, torch.dtype] | None = None,
    memmap: str | PathLike[str] | None = None,
) -> TensorDict:
    """Reads a flat HDF5 file, or a dict of arrays, in the style of D4RL into one flat TensorDict `[N]`.

    `terminals` are terminations. `timeouts` are cuts; without them, a row whose `next_observations` differ from the
    observation of the row after is a cut. Without both, only terminations end episodes, and a warning says so.
    `next_observations` are used where they are there, and are else the observations of the rows after.

    Args:
        source: an HDF5 file, or what `env.get_dataset()` returns; not `d4rl.qlearning_dataset`, which has dropped the
            steps at which an episode was cut.
        infos: whether to keep the numbers of each step under `infos`, as entries `("infos", ...)`.
        last: what becomes of a step at which an episode was cut, where no next observation is on record: `"drop"` it,
            with a warning (it holds a reward), or `"keep"` it with `("next", "observed")` False.
        keys: the entries that are read, as with `load_minari`; None for all.
        exclude: entries that are not read.
        dtype: of one entry or another, by its key.
        memmap: a folder for entries that are larger than memory.

    Returns:
        The keys of `load_minari`. Where next observations are not on record there is `("next", "observed")`, False on
        terminated rows as well, which need none; a copy of the observation stands there.

    Raises:
        ValueError: an entry that is missing, of another length, or not finite; flags that are not 0 and 1.

    Examples:
        >>> import numpy as np
        >>> flags = {"terminals": np.array([0, 0, 1]), "timeouts": np.zeros(3)}
        >>> steps = {"observations": np.arange(3.0)[:, None], "actions": np.zeros((3, 1)), "rewards": np.ones(3)}
        >>> load_d4rl(steps | flags)["next", "observed"].tolist()
        [True, True, False]
    """
    steps = _steps(source, infos)
    return from_files(
        "load_d4rl", source, steps, [infos], last=last, keys=keys, exclude=exclude, dtype=dtype, memmap=memmap
    )


@contextmanager
def _steps(source: Any, infos: bool) -> Iterator[Steps]:
    if isinstance(source, Mapping):
        yield _of(_arrays(source), "the dict", infos)
        return
    with open_hdf5("load_d4rl", source, " or a dict of arrays") as file:
        yield _of(read_hdf5("load_d4rl", file), f"file {str(source)!r}", infos)


def _arrays(source: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays of lists, too, which are rows here and no parts of an observation."""
    arrays = {}
    for name, value in source.items():
        try:
            arrays[name] = np.asarray(value) if isinstance(value, (list, tuple)) else value
        except ValueError as error:
            got = "lists of several lengths"
            raise ValueError(
                f"load_d4rl: the dict, {name}: expected an array, got {got}. Pass one row for each step."
            ) from error
    return arrays


def _of(arrays: dict[str, Any], where: str, infos: bool) -> Steps:
    missing = [name for name in ("observations", "actions", "rewards", "terminals") if name not in arrays]
    if missing:
        raise ValueError(
            f"load_d4rl: {where}: expected {missing[0]}, got the entries {sorted(arrays)}. Rename what stands for it."
        )
    terminated = flag("load_d4rl", where, "terminals", arrays["terminals"])
    rows = len(terminated)
    cut = flag("load_d4rl", where, "timeouts", arrays.get("timeouts", np.zeros(rows)), rows)
    steps = Steps(
        "load_d4rl",
        where,
        observation=arrays["observations"],
        action=arrays["actions"],
        terminated=terminated,
        truncated=cut,
        reward=arrays["rewards"],
        next_observation=arrays.get("next_observations"),
    )
    if infos:
        steps.others = {path: array for path, array in _infos(arrays) if array.shape[:1] == (rows,)}
    if "next_observations" in arrays:
        _compare_rows(steps, known="timeouts" in arrays)
    elif "timeouts" not in arrays:
        steps.warn("neither timeouts nor next_observations: an episode that was cut runs on into the next one.")
    return steps


def _infos(arrays: Mapping[str, Any]) -> list[tuple[Path, Rows]]:
    nested = [part for part in leaves(arrays.get("infos", {}), ("infos",)) if part[0] != ("infos",)]
    flat = [(("infos", *key.split("/")[1:]), Whole(arrays[key])) for key in arrays if key.startswith("infos/")]
    return [*nested, *flat]


def _compare_rows(steps: Steps, known: bool) -> None:
    """Where the next observation is not the row after: the ends that lack a flag; and where it is: no end."""
    before, after = dict(leaves(steps.next_observation, ())), dict(leaves(steps.observation, ()))
    rows = len(steps.terminated)
    if rows == 0 or any(
        path not in after or x.shape != after[path].shape or x.shape[:1] != (rows,) for path, x in before.items()
    ):
        return  # refused later, by name
    goes_on = np.ones(rows - 1, bool)
    for path, following in before.items():
        for start, stop in blocks(following):
            there, here = following.read(start, min(stop, rows - 1)), after[path].read(start + 1, min(stop + 1, rows))
            goes_on[start:stop] &= (there == here).reshape(len(there), math.prod(there.shape[1:])).all(axis=1)
    if not known:
        cut = ~goes_on & ~steps.terminated[:-1]
        steps.truncated = np.append(cut, [False])
    doubtful = int((goes_on & steps.terminated[:-1]).sum())
    if doubtful:
        steps.warn(
            f"{doubtful} rows are flagged as terminals although the next row goes on from them. Take another entry "
            "for the flag where the file has one (`episode_terminals`)."
        )
