"""Arrays that are read a block of rows at a time: from a file, from several, or at chosen places of another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from offline_losses.adapters.entries import Array, Path
from offline_losses.adapters.memory import BLOCK


class Rows:
    """What an array is to a loader: a shape, a dtype, and rows from one place to another.

    Blocks of a multiple of `chunk` rows, which a file stores together, read nothing twice.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], chunk: int = 1) -> None:
        self.shape: tuple[int, ...] = shape
        self.dtype: np.dtype[Any] = dtype
        self.chunk: int = chunk

    def read(self, start: int, stop: int) -> Array:
        raise NotImplementedError

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.read(0, self.shape[0] if self.shape else 1).astype(dtype or self.dtype, copy=False)


class Whole(Rows):
    """An array that is there."""

    def __init__(self, array: Any) -> None:
        self._array: Array = np.asarray(array)
        super().__init__(self._array.shape, self._array.dtype)

    def read(self, start: int, stop: int) -> Array:
        return self._array[start:stop] if self.shape else self._array


class Joined(Rows):
    """Rows of several arrays, one after the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = parts
        self._ends = np.cumsum([part.shape[0] for part in parts])
        super().__init__((int(self._ends[-1]), *parts[0].shape[1:]), np.result_type(*{part.dtype for part in parts}))

    def read(self, start: int, stop: int) -> Array:
        blocks = []
        for place in range(int(np.searchsorted(self._ends, start, side="right")), len(self._parts)):
            part, before = self._parts[place], int(self._ends[place]) - self._parts[place].shape[0]
            if before >= stop:
                break
            blocks.append(part.read(max(start - before, 0), min(stop - before, part.shape[0])))
        return np.concatenate([np.empty((0, *self.shape[1:]), self.dtype), *blocks])


class Picked(Rows):
    """Rows of another array at places that never go back."""

    def __init__(self, rows: Rows, places: Array) -> None:
        self._rows, self._places = rows, places
        super().__init__((len(places), *rows.shape[1:]), rows.dtype, rows.chunk)

    def read(self, start: int, stop: int) -> Array:
        places = self._places[start:stop]
        if not len(places):
            return np.empty((0, *self.shape[1:]), self.dtype)
        first = int(places[0])
        picked: Array = self._rows.read(first, int(places[-1]) + 1)[places - first]
        return picked


def blocks(*several: Rows) -> Iterator[tuple[int, int]]:
    """From where to where arrays of the same length are read at a time."""
    count = several[0].shape[0]
    width = max(1, *(rows.dtype.itemsize * math.prod(rows.shape[1:]) for rows in several))
    chunk = max(rows.chunk for rows in several)
    step = -(-max(1, BLOCK // width) // chunk) * chunk
    for start in range(0, count, step):
        yield start, min(start + step, count)


def leaves(value: Any, path: Path) -> Iterator[tuple[Path, Rows]]:
    """The arrays of a nested value, those of a sequence under "0", "1" and so on."""
    if isinstance(value, Mapping):
        for key in value:
            yield from leaves(value[key], (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from leaves(part, (*path, str(index)))
    else:
        yield path, value if isinstance(value, Rows) else Whole(value)
