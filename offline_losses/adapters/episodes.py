"""Minari's episodes, one by one: what a recorded episode must be, and the refusal of everything else by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

if TYPE_CHECKING:
    import minari

Array = np.ndarray[Any, np.dtype[Any]]
Record = dict[str, Any]

UNREADABLE = (OSError, LookupError, ValueError, AttributeError, AssertionError, TypeError)
"""What Minari and HDF5 raise on damaged files; the types have nothing in common."""
ARROW_LIMIT = 32768
"""Number of steps from which on Minari's arrow and parquet storages tear an episode apart."""
LARGE = 2000
"""Number of episodes from which on a progress bar shows by default."""
DISCRETE: tuple[type[spaces.Space[Any]], ...] = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
REPAIR = "Fetch or record the dataset anew, or leave such episodes out with `dataset.filter_episodes`"

_FLAG = spaces.MultiBinary(1)


def refusal(
    dataset: minari.MinariDataset, episode: int | None, name: str, expected: str, got: str, mend: str
) -> Exception:
    """The error that names dataset, episode and field."""
    where = f"dataset {dataset.id!r}" + ("" if episode is None else f", episode {episode}")
    return ValueError(f"load_minari: {where}, {name}: expected {expected}, got {got}. {mend}.")


@dataclass
class Leaf:
    """One array of the recorded episodes: where it lies there, what it must be, and its parts so far."""

    record: str
    path: tuple[str | int, ...]
    space: spaces.Space[Any]
    shape: tuple[int, ...]
    extra_rows: int = 0
    parts: list[Array] = field(default_factory=list)

    @property
    def name(self) -> str:
        return "/".join(map(str, (self.record, *self.path)))

    def joined(self, rows: slice = slice(None)) -> Array:
        """The parts, or these rows of each, one after the other."""
        return np.concatenate([part[rows] for part in self.parts])


@dataclass
class Episodes:
    """A dataset's episodes as lists of arrays, each of them checked and cast."""

    observation: list[Leaf]
    action: list[Leaf]
    reward: Leaf
    terminated: Leaf
    truncated: Leaf
    ids: list[int]
    lengths: list[int]


def read_episodes(dataset: minari.MinariDataset, progress: bool | None) -> Episodes:
    """Reads every episode once; see `load_minari`."""
    refuse_hidden_episodes(dataset)
    refuse_torn_episodes(dataset)
    read = Episodes(
        observation=_leaves(dataset, "observations", dataset.observation_space, extra_rows=1),
        action=_leaves(dataset, "actions", dataset.action_space),
        reward=Leaf("rewards", (), spaces.Box(-np.inf, np.inf, ()), ()),
        terminated=Leaf("terminations", (), _FLAG, ()),
        truncated=Leaf("truncations", (), _FLAG, ()),
        ids=[],
        lengths=[],
    )
    leaves = [*read.observation, *read.action, read.reward, read.terminated, read.truncated]
    for index, record in _with_progress(_records(dataset), dataset, progress):
        length = len(np.atleast_1d(record["rewards"]))
        if length == 0:
            raise refusal(dataset, index, "rewards", "at least one step", "an empty episode", REPAIR)
        for leaf in leaves:
            leaf.parts.append(_part(dataset, index, record, leaf, length + leaf.extra_rows))
        read.ids.append(index)
        read.lengths.append(length)
    if not read.ids:
        raise refusal(dataset, None, "episodes", "at least one", "none", "Load a dataset that has episodes")
    return read


def refuse_hidden_episodes(dataset: minari.MinariDataset) -> None:
    """Minari believes the number in metadata.json, and says nothing of episodes beyond it."""
    total = int(dataset.storage.total_episodes)
    try:
        hidden = list(dataset.storage.get_episode_metadata([total]))
    except UNREADABLE:
        return  # no episode beyond the last, as it should be
    if hidden:
        stored = f"{total}, which hides this one"
        mend = "Correct the number, or fetch the dataset anew"
        raise refusal(dataset, total, "total_episodes in metadata.json", "all the stored episodes", stored, mend)


def refuse_torn_episodes(dataset: minari.MinariDataset) -> None:
    """Minari returns the pieces of a long arrow episode as episodes, so that all that follow are misaligned."""
    if dataset.storage.FORMAT not in ("arrow", "parquet"):
        return
    indices = [int(index) for index in dataset.episode_indices]
    for index, record in zip(indices, dataset.storage.get_episode_metadata(indices), strict=True):
        if record["total_steps"] >= ARROW_LIMIT:
            expected = (
                f"less than {ARROW_LIMIT} steps, since Minari tears longer {dataset.storage.FORMAT} episodes apart"
            )
            mend = 'Record the dataset with data_format="hdf5"'
            raise refusal(dataset, index, "total_steps", expected, f"{record['total_steps']}", mend)


def _leaves(
    dataset: minari.MinariDataset,
    record: str,
    space: spaces.Space[Any],
    path: tuple[str | int, ...] = (),
    extra_rows: int = 0,
) -> list[Leaf]:
    children: Iterable[tuple[str | int, spaces.Space[Any]]]
    if isinstance(space, spaces.Dict):
        children = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        children = enumerate(space.spaces)
    elif isinstance(space, (spaces.Box, *DISCRETE)):
        return [Leaf(record, path, space, tuple(space.shape or ()), extra_rows)]
    else:
        expected = "a space of arrays (Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of them)"
        name = "/".join(map(str, (record, *path)))
        raise refusal(dataset, None, name, expected, f"{space}", "Encode such entries as arrays and record anew")
    return [leaf for key, child in children for leaf in _leaves(dataset, record, child, (*path, key), extra_rows)]


def _records(dataset: minari.MinariDataset) -> Iterator[tuple[int, Record]]:
    indices = [int(index) for index in dataset.episode_indices]
    stored: Iterator[Record] | None = None
    for index in indices:
        try:
            if stored is None:
                stored = iter(dataset.storage.get_episodes(indices))
            record = next(stored, None)
        except UNREADABLE as error:
            got = f"{type(error).__name__}: {error}"
            raise refusal(dataset, index, "files", "a readable episode", got, REPAIR) from error
        if record is None:
            raise refusal(dataset, index, "files", f"{len(indices)} episodes", "fewer", REPAIR)
        yield index, record


def _with_progress(
    records: Iterator[tuple[int, Record]], dataset: minari.MinariDataset, progress: bool | None
) -> Iterable[tuple[int, Record]]:
    total = len(dataset.episode_indices)
    if not (total >= LARGE if progress is None else progress):
        return records
    try:
        from rich.progress import track
    except ImportError:
        return records
    return track(records, f"reading {dataset.id}", total)


def _part(dataset: minari.MinariDataset, index: int, record: Record, leaf: Leaf, rows: int) -> Array:
    value = record[leaf.record]
    try:
        for key in leaf.path:
            value = value[key]
    except LookupError as error:
        raise refusal(dataset, index, leaf.name, f"an entry for {leaf.space}", "none", REPAIR) from error
    array, shape = np.asarray(value), (rows, *leaf.shape)
    if array.shape != shape:
        rule = (
            "a row for each reward and one for the last next observation"
            if leaf.extra_rows
            else "a row for each reward"
        )
        raise refusal(dataset, index, leaf.name, f"shape {shape} ({rule})", f"{array.shape}", REPAIR)
    part = _cast(array, leaf.space)
    if part is None:
        expected = "flags (bool, or 0 and 1)" if leaf.space is _FLAG else f"values of {leaf.space}"
        raise refusal(dataset, index, leaf.name, expected, f"others, of dtype {array.dtype}", REPAIR)
    return part


def _cast(array: Array, space: spaces.Space[Any]) -> Array | None:
    """The one cast: to float32, int64 or bool, bytes as they are; None where a value would change its meaning."""
    if array.dtype.kind not in "biuf":
        return None
    if space is _FLAG or isinstance(space, DISCRETE):
        exact = array.astype(np.bool_ if space is _FLAG else np.int64)
        return exact if np.array_equal(exact, array) else None
    if array.dtype.kind == "f" or space.dtype is None or space.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what overflows is refused for not being finite
            return array.astype(np.float32, copy=False)
    return array if array.dtype == np.uint8 else array.astype(np.int64)
