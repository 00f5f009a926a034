"""Flat arrays of any format as one TensorDict with the guarantees of `load_minari`: ends, next observations, finite."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path as File
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from tensordict import TensorDict

from offline_losses.adapters.entries import Array, LostSteps, Path, cast

Last = Literal["drop", "keep"]
_KINDS = {"reward": "float"}


@dataclass
class Steps:
    """Steps in time order, episode after episode, as a format gives them.

    Args:
        loader: name of the function that speaks in errors.
        where: what is read, in words.
        observation, action: arrays `[N, ...]`, or nested dicts and sequences of them; None: both are among `others`.
        terminated: True where the task ended.
        truncated: True where an episode was cut.
        reward: `[N]` or `[N, 1]`; None where the format has none.
        next_observation: like `observation`; None: the row after, within an episode.
        observed: False where `next_observation` is not a recorded one.
        others: further columns.
    """

    loader: str
    where: str
    observation: Any
    action: Any
    terminated: Array
    truncated: Array
    reward: Array | None
    next_observation: Any = None
    observed: Array | None = None
    others: dict[Path, Array] = field(default_factory=dict)

    def refuse(self, name: str, expected: str, got: str, mend: str) -> NoReturn:
        """The error that names loader, source and entry."""
        refuse(self.loader, self.where, name, expected, got, mend)

    def warn(self, text: str) -> None:
        frame, level = sys._getframe(), 1
        while frame.f_back is not None and frame.f_globals["__name__"].startswith("offline_losses.adapters"):
            frame, level = frame.f_back, level + 1  # up to whoever called the loader
        warnings.warn(f"{self.loader}: {self.where}: {text}", stacklevel=level)

    def tensordict(self, last: Last = "drop") -> TensorDict:
        """The flat TensorDict; `last` says what becomes of rows whose next observation is not on record."""
        if last not in ("drop", "keep"):
            raise ValueError(f"{self.loader}: last: expected 'drop' or 'keep', got {last!r}. Choose one of these.")
        terminated = flag(self.loader, self.where, "terminated", self.terminated)
        rows = len(terminated)
        truncated = flag(self.loader, self.where, "truncated", self.truncated, rows)
        if rows == 0:
            self.refuse("rows", "at least one step", "none", "Load a file that has steps")
        columns = dict(self._entries(rows))
        self._check_next(columns)
        if not (terminated | truncated)[-1]:
            truncated = truncated.copy()
            truncated[-1] = True
            self.warn("the last step has neither flag; it is marked truncated.")
        done = terminated | truncated
        shifted = self.next_observation is None and self.observation is not None
        observed = ~done if shifted else np.ones(rows, bool) if self.observed is None else self.observed
        if shifted:
            following = np.where(observed, np.minimum(np.arange(rows) + 1, rows - 1), np.arange(rows))
            found = {path: column[following] for path, column in columns.items() if path[0] == "observation"}
            columns |= {("next", *path): column for path, column in found.items()}
        columns[("episode",)] = np.concatenate([[0], np.cumsum(done)[:-1]]).astype(np.int64)
        columns |= {("next", "terminated"): terminated, ("next", "truncated"): truncated}
        if shifted or not observed.all():
            columns[("next", "observed")] = observed
        if last == "drop":
            columns = self._without_open_ends(columns, observed)
        columns[("next", "done")] = columns["next", "terminated"] | columns["next", "truncated"]
        data = TensorDict({}, batch_size=[len(columns[("episode",)])])
        for path, column in columns.items():
            data[path] = torch.from_numpy(np.require(column, requirements=["C", "W"]))
        return data

    def _without_open_ends(self, columns: dict[Path, Array], observed: Array) -> dict[Path, Array]:
        """Truncated rows without a next observation go, and the rows before them end their episodes."""
        gone = ~observed & ~columns["next", "terminated"]
        if not gone.any():
            return columns
        if gone.all():
            self.refuse("rows", "a transition", "none", "With last='keep' the single steps stay")
        self.warn(
            f"{int(gone.sum())} of {len(gone)} steps are left out, an episode being cut there without a record of the "
            "next observation; each holds a reward. last='keep' keeps them, with ('next', 'observed') False."
        )
        episode = columns["episode",]
        cut = np.zeros_like(gone)
        cut[:-1] = gone[1:] & (episode[1:] == episode[:-1])
        columns["next", "truncated"] = columns["next", "truncated"] | cut
        return {path: column[~gone] for path, column in columns.items()}

    def _entries(self, rows: int) -> Iterator[tuple[Path, Array]]:
        sources: list[tuple[Path, Any]] = [(("action",), self.action)]
        if self.observation is not None:
            sources.append((("observation",), self.observation))
        if self.next_observation is not None:
            sources.append((("next", "observation"), self.next_observation))
        if self.reward is not None:
            sources.append((("next", "reward"), squeezed(np.asarray(self.reward))))
        for above, value in [*sources, *self.others.items()]:
            for path, array in leaves(value, above):
                name = "/".join(path)
                if array.ndim == 0 or len(array) != rows:
                    self.refuse(name, f"{rows} rows, as the flags have", f"shape {array.shape}", "Check the file")
                column = cast(array, _KINDS.get(path[-1], "flag" if array.dtype == np.bool_ else "number"))
                if column is None:
                    self.refuse(name, "numbers", f"dtype {array.dtype}", "Leave the entry out")
                if column.dtype.kind == "f" and not np.isfinite(column).all():
                    row = int(np.argmin(np.isfinite(column).reshape(rows, -1).all(axis=1)))
                    got = f"{column[row]} at row {row}"
                    self.refuse(name, "numbers that are finite in float32", got, "Repair the file, or cut it there")
                if path == ("next", "reward") and column.ndim != 1:
                    self.refuse(name, "one number for each row", f"shape {column.shape}", "Choose one of them")
                if path[0] == "observation":
                    lost = LostSteps()
                    lost(array, column)
                    text = lost.told(name, str(column.dtype), "Subtract an offset from them first")
                    if text:
                        self.warn(text.rstrip("."))
                if path[0] == "action" and column.dtype == np.int64:
                    column = squeezed(column)
                yield path, column

    def _check_next(self, columns: dict[Path, Array]) -> None:
        """A next observation is like the observation."""
        for path, column in columns.items():
            following = columns.get(("next", *path))
            if path[0] != "next" and following is not None and following.shape != column.shape:
                expected, got = f"shape {column.shape}, as {'/'.join(path)} has", f"shape {following.shape}"
                self.refuse("/".join(("next", *path)), expected, got, "Check the file")
        if self.observation is None or self.next_observation is None:
            return
        before = {path[1:] for path in columns if path[0] == "observation"}
        after = {path[2:] for path in columns if path[:2] == ("next", "observation")}
        if before != after:
            others = sorted("/".join(path) for path in before ^ after)
            self.refuse("next/observation", "the entries of the observation", f"others: {others}", "Check the file")


def refuse(loader: str, where: str, name: str, expected: str, got: str, mend: str) -> NoReturn:
    """The error that names loader, source and entry."""
    raise ValueError(f"{loader}: {where}, {name}: expected {expected}, got {got}. {mend}.")


def flag(loader: str, where: str, name: str, values: Any, rows: int | None = None) -> Array:
    """One flag for each row, `[N]` or `[N, 1]`; anything but 0 and 1 is refused."""
    array = squeezed(np.asarray(values))
    found = cast(array, "flag")
    if found is None or found.ndim != 1:
        got = f"others, of dtype {array.dtype} and shape {array.shape}"
        refuse(loader, where, name, "one flag for each row (bool, or 0 and 1)", got, "Check the file")
    if rows is not None and len(found) != rows:
        refuse(loader, where, name, f"{rows} rows, as the other flags have", str(len(found)), "Check the file")
    return found


def leaves(value: Any, path: Path) -> Iterator[tuple[Path, Array]]:
    """The arrays of a nested value, those of a sequence under "0", "1" and so on."""
    if isinstance(value, Mapping):
        for key in value:
            yield from leaves(value[key], (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from leaves(part, (*path, str(index)))
    else:
        yield path, np.asarray(value)


def joined(loader: str, where: str, name: str, parts: Sequence[Any], lengths: Sequence[int]) -> Any:
    """Nested values of episodes, one after the other; each has its episode's length, and the form of the first."""
    first = parts[0]
    if isinstance(first, (Mapping, list, tuple)):
        keys = _keys(first)
        for number, part in enumerate(parts):
            if _keys(part) != keys:
                got = f"others in episode {number} of these"
                refuse(loader, where, name, f"the entries {sorted(keys)} in all", got, "Leave such episodes out")
        found = {key: joined(loader, where, f"{name}/{key}", [part[key] for part in parts], lengths) for key in keys}
        return found if isinstance(first, Mapping) else [found[index] for index in range(len(first))]
    arrays = [np.asarray(part) for part in parts]
    for number, (array, length) in enumerate(zip(arrays, lengths, strict=True)):
        expected = (length, *arrays[0].shape[1:])
        if array.shape != expected:
            got = f"{array.shape} in episode {number} of these"
            refuse(loader, where, name, f"shape {expected}", got, "Leave such episodes out, or convert the file anew")
    return np.concatenate(arrays)


def _keys(value: Any) -> set[Any]:
    if isinstance(value, Mapping):
        return set(value)
    return set(range(len(value))) if isinstance(value, (list, tuple)) else set()


def squeezed(array: Array) -> Array:
    """`[N, 1]` as `[N]`."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def ends(lengths: Sequence[int]) -> Array:
    """True on the last row of each episode."""
    flags = np.zeros(sum(lengths), bool)
    flags[np.cumsum(lengths)[np.asarray(lengths) > 0] - 1] = True
    return flags


def read_hdf5(group: Any) -> Any:
    """A group as nested dicts of arrays."""
    return group[()] if hasattr(group, "shape") else {key: read_hdf5(group[key]) for key in group}


def file_of(loader: str, path: Any, others: str = "") -> File:
    """The file of a path; `others` says what else the loader takes."""
    if not isinstance(path, (str, PathLike)):
        raise TypeError(
            f"{loader}: source: expected the path of a file{others}, got {type(path).__name__}. Pass one of these."
        )
    file = File(path).expanduser()
    if not file.is_file():
        got = "a folder" if file.is_dir() else "none"
        raise FileNotFoundError(f"{loader}: source: expected a file at {fspath(path)!r}, got {got}. Check the path.")
    return file


@contextmanager
def open_hdf5(loader: str, path: Any, others: str = "") -> Iterator[Any]:
    """An HDF5 file, or the name of the package that is missing."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f'{loader}: no h5py. Install it: pip install "offline-losses[data]".') from error
    file = file_of(loader, path, others)
    try:
        with h5py.File(file, "r") as opened:
            yield opened
    except OSError as error:
        got = " ".join(str(error).split())
        raise ValueError(
            f"{loader}: source: expected an HDF5 file that can be read at {fspath(path)!r}, got {got}. Fetch it anew."
        ) from error
