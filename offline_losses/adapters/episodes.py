"""Minari's episodes, one by one: what a recorded episode must be, and the refusal of everything else by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium import spaces

from offline_losses.adapters.entries import ALWAYS, Array, Choice, Path

if TYPE_CHECKING:
    import minari

UNREADABLE = (OSError, LookupError, ValueError, AttributeError, AssertionError, TypeError, RuntimeError)
"""What Minari and HDF5 raise on damaged files; the types have nothing in common."""
ARROW_LIMIT = 32768
"""Number of steps from which on Minari's arrow and parquet storages tear an episode apart."""
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
    """One array of the recorded episodes: where it lies there, what it must be, and the entries that it becomes.

    Of `extra_rows` 1, the first T rows are the first entry and the last T the second.
    """

    record: str
    path: tuple[str | int, ...]
    space: spaces.Space[Any]
    entries: tuple[Path, ...]
    extra_rows: int = 0
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = () if self.space is _FLAG else tuple(self.space.shape or ())

    @property
    def name(self) -> str:
        return "/".join(map(str, (self.record, *self.path)))

    @property
    def kind(self) -> str:
        """How it is cast."""
        if self.space is _FLAG:
            return "flag"
        if isinstance(self.space, DISCRETE):
            return "integer"
        return "float" if self.space.dtype is None or self.space.dtype.kind == "f" else "number"

    @property
    def expected(self) -> str:
        """Its values, in words."""
        return "flags (bool, or 0 and 1)" if self.space is _FLAG else f"values of {self.space}"

    @property
    def row_bytes(self) -> int:
        """About what a row takes in all its entries."""
        width = 1 if self.space is _FLAG or self.space.dtype == np.uint8 else 4 if self.kind == "float" else 8
        return int(np.prod(self.shape)) * width * len(self.entries)


class Piece(NamedTuple):
    """Rows of one episode, from `start` on: an array for each leaf; `last` where they reach the episode's end."""

    episode: int
    start: int
    length: int
    last: bool
    parts: list[Array]


@dataclass
class Leaves:
    """The leaves of a dataset, and the entries that are left out for not being arrays."""

    all: list[Leaf]
    skipped: list[str]

    @property
    def rewards(self) -> int:
        """The place of the rewards, which say how many steps there are."""
        return next(place for place, leaf in enumerate(self.all) if leaf.record == "rewards")


def leaves_of(dataset: minari.MinariDataset, choice: Choice) -> Leaves:
    """What is to be read: the chosen entries, the flags, and the rewards for their number at least."""
    others: dict[str, tuple[Path, ...]] = {}
    found = [
        *_leaves(dataset, "observations", dataset.observation_space, choice, others),
        *_leaves(dataset, "actions", dataset.action_space, choice, others),
    ]
    reward = Leaf("rewards", (), spaces.Box(-np.inf, np.inf, ()), (("next", "reward"),))
    flags = [Leaf(f"{name}s", (), _FLAG, (("next", flag),)) for name, flag in _FLAGS.items()]
    arrays = [path for leaf in [*found, reward] for path in leaf.entries]
    choice.check("load_minari", [*arrays, *(path for entries in others.values() for path in entries), *ALWAYS])
    for leaf in [*found, reward]:
        leaf.entries = tuple(path for path in leaf.entries if choice.takes(path))
    skipped = [name for name, entries in others.items() if any(map(choice.takes, entries))]
    return Leaves([*(leaf for leaf in found if leaf.entries), reward, *flags], skipped)


_FLAGS = {"termination": "terminated", "truncation": "truncated"}


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


def recorded_lengths(dataset: minari.MinariDataset) -> dict[int, int]:
    """The number of steps that the metadata of an arrow or parquet dataset gives for each episode.

    Minari returns the pieces of a long episode as episodes, so that all that follow are misaligned: these are refused.
    """
    indices = [int(index) for index in dataset.episode_indices]
    lengths = {}
    for index, record in zip(indices, dataset.storage.get_episode_metadata(indices), strict=True):
        lengths[index] = int(record["total_steps"])
        if lengths[index] >= ARROW_LIMIT:
            expected = (
                f"less than {ARROW_LIMIT} steps, since Minari tears longer {dataset.storage.FORMAT} episodes apart"
            )
            mend = 'Record the dataset with data_format="hdf5"'
            raise refusal(dataset, index, "total_steps", expected, f"{lengths[index]}", mend)
    return lengths


def record_pieces(dataset: minari.MinariDataset, leaves: list[Leaf]) -> Iterator[Piece]:
    """Whole episodes as Minari's storage returns them, whatever the format."""
    lengths = recorded_lengths(dataset) if dataset.storage.FORMAT in ("arrow", "parquet") else {}
    for index, record in _records(dataset):
        length = len(np.atleast_1d(record["rewards"]))
        if length != lengths.get(index, length):
            mend = "An episode of these formats that is appended to is overwritten. " + REPAIR
            raise refusal(dataset, index, "rewards", f"the {lengths[index]} steps on record", f"{length}", mend)
        parts = []
        for leaf in leaves:
            value = record[leaf.record]
            try:
                for key in leaf.path:
                    value = value[key]
            except LookupError as error:
                raise refusal(dataset, index, leaf.name, f"an entry for {leaf.space}", "none", REPAIR) from error
            parts.append(np.asarray(value))
            check_part(dataset, index, leaf, length, parts[-1].shape, parts[-1].dtype)
        yield Piece(index, 0, length, True, parts)


def check_part(
    dataset: minari.MinariDataset, index: int, leaf: Leaf, length: int, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    """Refuses an array of a wrong shape, or that holds no numbers."""
    if length == 0:
        raise refusal(dataset, index, "rewards", "at least one step", "an empty episode", REPAIR)
    expected = (length + leaf.extra_rows, *leaf.shape)
    if shape != expected:
        rule = "a row for each reward" + (" and one for the last next observation" if leaf.extra_rows else "")
        raise refusal(dataset, index, leaf.name, f"shape {expected} ({rule})", f"{shape}", REPAIR)
    if dtype.kind not in "biuf":
        raise refusal(dataset, index, leaf.name, leaf.expected, f"others, of dtype {dtype}", REPAIR)


def _leaves(
    dataset: minari.MinariDataset,
    record: str,
    space: spaces.Space[Any],
    choice: Choice,
    others: dict[str, tuple[Path, ...]],
    path: tuple[str | int, ...] = (),
) -> list[Leaf]:
    children: Iterable[tuple[str | int, spaces.Space[Any]]]
    if isinstance(space, spaces.Dict):
        children = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        children = enumerate(space.spaces)
    else:
        below = tuple(map(str, path))
        entries: tuple[Path, ...] = (("action", *below),)
        if record == "observations":
            entries = (("observation", *below), ("next", "observation", *below))
        if isinstance(space, (spaces.Box, *DISCRETE)):
            return [Leaf(record, path, space, entries, extra_rows=len(entries) - 1)]
        name = "/".join(map(str, (record, *path)))
        wanted = any(map(choice.takes, entries)) and (record == "actions" or not path)
        if wanted or any(map(choice.names, entries)):
            expected = "a space of arrays (Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of them)"
            mend = f"Encode such entries as arrays and record anew, or leave them out with exclude={[*entries]}"
            raise refusal(dataset, None, name, expected, f"{space}", mend)
        others[name] = entries
        return []
    return [leaf for key, child in children for leaf in _leaves(dataset, record, child, choice, others, (*path, key))]


def _records(dataset: minari.MinariDataset) -> Iterator[tuple[int, dict[str, Any]]]:
    indices = [int(index) for index in dataset.episode_indices]
    stored: Iterator[dict[str, Any]] | None = None
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
