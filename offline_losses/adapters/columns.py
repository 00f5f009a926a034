"""Episodes joined into flat columns, and the checks that only whole columns can be given."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from offline_losses.adapters.episodes import DISCRETE, REPAIR, Array, Episodes, Leaf, read_episodes, refusal
from offline_losses.adapters.flat_cache import Columns

if TYPE_CHECKING:
    import minari

_CALLER = 4  # stack levels up to whoever called `load_minari`


def flat_columns(dataset: minari.MinariDataset, progress: bool | None) -> Columns:
    """All episodes of a dataset, one after the other; see `load_minari` for the keys."""
    read = read_episodes(dataset, progress)
    rows = _Rows(dataset, read)
    columns: Columns = {}
    for leaf in read.observation:
        path = tuple(map(str, leaf.path))
        columns[("observation", *path)] = leaf.joined(slice(None, -1))
        columns[("next", "observation", *path)] = leaf.joined(slice(1, None))
        leaf.parts.clear()
    for leaf in read.action:
        column = columns[("action", *map(str, leaf.path))] = leaf.joined()
        rows.check_action(leaf, column)
    columns["next", "reward"] = read.reward.joined()
    for key, column in columns.items():
        rows.check_finite(key, column)
    terminated, truncated = rows.closed(read.terminated.joined(), read.truncated.joined())
    columns["next", "terminated"] = terminated
    columns["next", "truncated"] = truncated
    columns["next", "done"] = terminated | truncated
    columns[("episode",)] = np.repeat(np.asarray(read.ids, dtype=np.int64), read.lengths)
    return columns


class _Rows:
    """The flat rows, each of them known by its episode and step."""

    def __init__(self, dataset: minari.MinariDataset, read: Episodes) -> None:
        self.dataset = dataset
        self.ids = read.ids
        self.last = np.cumsum(read.lengths) - 1
        self.first = self.last - np.asarray(read.lengths) + 1

    def refusal(self, row: int, name: str, expected: str, got: str) -> Exception:
        position = int(np.searchsorted(self.last, row))
        step = row - int(self.first[position])
        return refusal(self.dataset, self.ids[position], name, expected, f"{got} at step {step}", REPAIR)

    def check_finite(self, key: tuple[str, ...], column: Array) -> None:
        if column.dtype.kind != "f":
            return
        finite = np.isfinite(column).reshape(len(column), -1).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            raise self.refusal(row, "/".join(key), "numbers that are finite in float32", f"{column[row]}")

    def check_action(self, leaf: Leaf, column: Array) -> None:
        low, high = _bounds(leaf.space)
        outside = ((column < low) | (column > high)).reshape(len(column), -1).any(axis=1)
        if not outside.any():
            return
        row = int(np.argmax(outside))
        if isinstance(leaf.space, DISCRETE):
            raise self.refusal(row, leaf.name, f"values of {leaf.space}", f"{column[row]}")
        warnings.warn(
            f"load_minari: dataset {self.dataset.id!r}, {leaf.name}: {int(outside.sum())} of {len(column)} actions lie "
            f"outside {leaf.space}, the first is {column[row]}. They are kept as they are; check the units "
            "(`replay_error` does) before you use a loss that needs the range.",
            stacklevel=_CALLER,
        )

    def closed(self, terminated: Array, truncated: Array) -> tuple[Array, Array]:
        """The flags, with every episode ended at its last row and nowhere else."""
        inside = terminated | truncated
        ended = inside[self.last]
        inside[self.last] = False
        if inside.any():
            row = int(np.argmax(inside))
            name = "terminations" if terminated[row] else "truncations"
            raise self.refusal(row, name, "an end flag on the last step only", "one")
        if not ended.all():
            truncated[self.last[~ended]] = True
            warnings.warn(
                f"load_minari: dataset {self.dataset.id!r}: {int((~ended).sum())} of {len(ended)} episodes end with "
                "neither flag; their last step is marked truncated.",
                stacklevel=_CALLER,
            )
        return terminated, truncated


def _bounds(space: spaces.Space[Any]) -> tuple[Any, Any]:
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return 0, 1
