"""Files of others: found, opened, and read by rows; a damaged one is a sentence."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path as File
from typing import IO, Any

import numpy as np

from offline_losses.adapters.entries import Array
from offline_losses.adapters.rows import Rows, Whole


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
        opened = h5py.File(file, "r")
    except OSError as error:
        raise _damaged(loader, file, "an HDF5 file that can be read", error) from error
    with opened:
        yield opened


class Stored(Rows):
    """An array of an HDF5 file."""

    def __init__(self, loader: str, dataset: Any) -> None:
        self._loader, self._dataset = loader, dataset
        super().__init__(tuple(dataset.shape or ()), dataset.dtype, int(dataset.chunks[0]) if dataset.chunks else 1)

    def read(self, start: int, stop: int) -> Array:
        try:
            found: Array = self._dataset[start:stop] if self.shape else self._dataset[()]
        except OSError as error:
            expected = f"an HDF5 file that can be read, as to {self._dataset.name[1:]}"
            raise _damaged(self._loader, File(self._dataset.file.filename), expected, error) from error
        return found


def read_hdf5(loader: str, group: Any) -> Any:
    """A group as nested dicts of arrays."""
    return Stored(loader, group) if hasattr(group, "shape") else {key: read_hdf5(loader, group[key]) for key in group}


@contextmanager
def open_npz(loader: str, path: Any, others: str = "") -> Iterator[dict[str, Rows]]:
    """The arrays of an npz file, compressed or not."""
    file = file_of(loader, path, others)
    try:
        archive = zipfile.ZipFile(file)
        arrays: dict[str, Rows] = {
            name.removesuffix(".npy"): Member(loader, file, archive, name) for name in archive.namelist()
        }
    except _TORN as error:
        raise _damaged(loader, file, "an npz file of arrays", error) from error
    with archive:
        yield arrays


_TORN = (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error, RuntimeError)


class Member(Rows):
    """An array of an npz file, of which rows are read in one direction: to go back is to start again."""

    def __init__(self, loader: str, file: File, archive: zipfile.ZipFile, name: str) -> None:
        self._loader, self._file, self._archive, self._name = loader, file, archive, name
        shape, self._by_columns, dtype = self._rewind()
        super().__init__(shape, dtype)
        if self.dtype.hasobject:
            raise ValueError("Object arrays, which only pickle reads")
        self._width: int = self.dtype.itemsize * math.prod(self.shape[1:])

    def _rewind(self) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        self._stream: IO[bytes] = self._archive.open(self._name)
        self._next = 0
        version = np.lib.format.read_magic(self._stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = header(self._stream)
        return shape, by_columns, dtype

    def read(self, start: int, stop: int) -> Array:
        try:
            if (self._by_columns and len(self.shape) > 1) or not self.shape:
                with self._archive.open(self._name) as stream:
                    return Whole(np.lib.format.read_array(stream, allow_pickle=False)).read(start, stop)
            if start < self._next:
                self._rewind()
            while self._next < start:  # what lies between is read, too
                self._take(min(start - self._next, max(1, (1 << 20) // max(1, self._width))))
            return np.frombuffer(self._take(stop - start), self.dtype).reshape(stop - start, *self.shape[1:])
        except _TORN as error:
            raise _damaged(self._loader, self._file, f"an npz file of arrays, as to {self._name}", error) from error

    def _take(self, rows: int) -> bytes:
        read = self._stream.read(rows * self._width)
        if len(read) < rows * self._width:
            raise EOFError("fewer bytes than it says")
        self._next += rows
        return read


def _damaged(loader: str, file: File, expected: str, error: Exception) -> ValueError:
    got = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")
    return ValueError(f"{loader}: source: expected {expected} at {fspath(file)!r}, got {got}. Fetch it anew.")
