"""TensorDicts that TorchRL's collectors and buffers hold: trailing axes of one go, and slices get ends."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase

from offline_losses.adapters.entries import ALWAYS, Array, Path, key_of, path_of
from offline_losses.adapters.flat import Steps, flag, squeezed
from offline_losses.adapters.keeping import from_files

_FLAGS = {("next", "done"), ("next", "terminated"), ("next", "truncated")}
_SEEN = {"observation", "pixels", "state"}
_OWN = {"collector", "done", "terminated", "truncated"}


def from_torchrl(data: TensorDictBase) -> TensorDict:
    """A TensorDict of TorchRL's keys, `[N]` or `[B, T]` with time last, as one flat TensorDict `[N]`.

    Rewards and flags `[..., 1]` lose that axis. Each of B slices is followed by the next one, and ends where it was
    cut: its last step is marked truncated if it has neither flag, and a warning says how often. With
    `("collector", "traj_ids")`, so does every trajectory. Where the source had only `done`, an end is what
    `terminated` says, and a cut if it does not.

    Args:
        data: with `observation`s and `action`, and rewards, flags and next observations under `"next"`. The folder that
            a replay buffer has dumped is not such: it holds rows that were never written, and after a wrap their order
            stands elsewhere. Load it into a buffer, and pass `buffer[:]`, oldest step first.

    Returns:
        The keys of `load_minari`; the root's flags and the collector's own entries are left out, others are kept.

    Raises:
        TypeError: not a TensorDict.
        ValueError: no reward, flag, action or next observation; numbers that are not finite.
    """
    if not isinstance(data, TensorDictBase):
        raise TypeError(
            f"from_torchrl: data: expected a TensorDict, got {type(data).__name__}. Pass what a collector yields, or "
            "`buffer[:]` of a replay buffer."
        )
    where, dims = f"TensorDict {list(data.batch_size)}", data.batch_dims
    if dims not in (1, 2):
        raise ValueError(f"from_torchrl: {where}: expected batch size [N] or [B, T], got that. Reshape it, time last.")
    rows = data.batch_size.numel()
    if not rows:
        raise ValueError(f"from_torchrl: {where}: expected at least one step, got none. Collect some first.")
    columns: dict[Path, Array] = {}
    for key in data.keys(include_nested=True, leaves_only=True):
        value = data.get(key)
        if isinstance(value, torch.Tensor):
            path = path_of(key)
            column = (value.float() if value.dtype == torch.bfloat16 else value).numpy(force=True)
            columns[path] = column.reshape(rows, *column.shape[dims:])
    wanted = [("action",), ("next", "reward"), ("next", "done")]
    missing = [key_of(path) for path in wanted if path not in columns]
    if missing:
        raise ValueError(
            f"from_torchrl: {where}: expected {missing[0]!r}, got {sorted(map('/'.join, columns))}. Rename the entry."
        )
    flags = {
        path: flag("from_torchrl", where, "/".join(path), columns[path], rows) for path in _FLAGS if path in columns
    }
    done = flags["next", "done"]
    terminated = flags.get(("next", "terminated"), done & ~flags.get(("next", "truncated"), ~done))
    truncated = (done & ~terminated) | flags.get(("next", "truncated"), False)
    over = _cuts(columns, data.batch_size) & ~done & ~terminated & ~truncated
    here = {path[0] for path in columns} - {"next", "action", *_OWN}
    following = {path[1] for path in columns if path[0] == "next"} & here - {"step_count"}
    if not following:
        raise ValueError(
            f"from_torchrl: {where}: expected next observations under 'next', got none. Collect with them; the row "
            "after may belong to another trajectory."
        )
    steps = Steps(
        "from_torchrl",
        where,
        observation=None,
        action=None,
        terminated=terminated,
        truncated=truncated | over,
        reward=None,
        others={path: column for path, column in columns.items() if path not in ALWAYS and path[0] not in _OWN},
    )
    alone = sorted(_SEEN & here - following)
    if alone:
        beside = ", ".join(sorted(following))
        steps.warn(
            f"{', '.join(alone)}: no next one is on record, as that of {beside} is. Collect with both to use it."
        )
    if int(over.sum()):
        steps.warn(f"{int(over.sum())} slices end with neither flag; their last step is marked truncated.")
    return from_files("from_torchrl", data, nullcontext(steps), last="keep")


def _cuts(columns: dict[Path, Array], batch_size: torch.Size) -> Array:
    """True on the last row of each slice, and of each trajectory that the collector numbers."""
    cut = np.zeros(batch_size, bool)
    cut[..., -1] = True
    cut = cut.ravel()
    if ("collector", "traj_ids") in columns:
        ids = squeezed(columns["collector", "traj_ids"])
        cut[:-1] |= ids[1:] != ids[:-1]
    return cut
