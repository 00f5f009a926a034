"""Three ways from a source to its columns: into memory, into memory and a cache, or into files alone."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from os import PathLike, fspath
from pathlib import Path as Folder
from typing import Any

import torch
from tensordict import TensorDict

from offline_losses.adapters.entries import Choice, Key
from offline_losses.adapters.flat import Last, Steps
from offline_losses.adapters.mapped import Files, Mapped, changes, manifest, opened
from offline_losses.adapters.memory import Growing, require_memory
from offline_losses.adapters.sources import FileSource, MinariSource, Source

Place = str | PathLike[str]


def from_files(
    loader: str,
    path: Any,
    steps: AbstractContextManager[Steps],
    options: Iterable[Any] = (),
    *,
    last: Last = "drop",
    keys: Iterable[Key] | None = None,
    exclude: Iterable[Key] = (),
    dtype: Mapping[Key, torch.dtype] | None = None,
    memmap: Place | None = None,
) -> TensorDict:
    """What a loader of files returns; `steps` opens them, and `options` is what else decides about the columns."""
    source = FileSource(loader, path, steps, Choice.of(loader, keys, exclude, dtype), last, tuple(options))
    if memmap is None:
        return tensordict(in_memory(source, None))
    if not isinstance(path, (str, PathLike)):
        raise TypeError(
            f"{loader}: memmap: expected None, the source being {type(path).__name__}, which is in memory already, got "
            f"{memmap!r}. Pass the path of a file, or leave memmap= out."
        )
    return tensordict(streamed(source, memmap, None))


def tensordict(loaded: Mapped) -> TensorDict:
    """The columns, and their warnings in the name of whoever called the loader."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("offline_losses.adapters"):
        frame, level = frame.f_back, level + 1
    for text in loaded.warnings:
        warnings.warn(text, stacklevel=level)
    data = TensorDict({}, batch_size=[len(loaded.columns[("episode",)])])
    for key, column in loaded.columns.items():
        data[key] = torch.from_numpy(column)
    return data


def in_memory(source: Source, progress: bool | None) -> Mapped:
    """Reads the source."""
    where = f"{source.loader}: {source.where}"
    with source.opened() as reading:
        require_memory(where, reading.steps, reading.row_bytes, _REMEDY)
        growing = Growing(reading.steps)
        try:
            told = reading.write(growing.write, progress)
        except MemoryError as error:
            size = reading.steps * reading.row_bytes / 1e9
            expected = f"room for {size:.2f} GB of columns"
            raise MemoryError(f"{where}: expected {expected}, got {error}. {_REMEDY}.") from error
    return Mapped(growing.columns(), told)


_REMEDY = "Stream the columns into files with memmap=, or leave entries out with keys= or exclude="


def cached(source: MinariSource, cache: Place, progress: bool | None) -> Mapped:
    """Opens the columns that are kept in a cache, or reads the dataset and keeps them; a read is never lost."""
    folder = _folder(source.loader, "cache", cache) / source.name
    if changes(folder, source) is None and (kept := opened(folder)) is not None:
        return kept
    read = in_memory(source, progress)
    try:
        with Files(folder, source) as files:
            for path, column in read.columns.items():
                files.write(path, column)
            files.publish(read.warnings)
    except (OSError, ValueError) as error:
        text = f"load_minari: cache: expected a folder that can be written, got {error}. The data are not kept."
        return Mapped(read.columns, [*read.warnings, text])
    return read


def streamed(source: Source, memmap: Place, progress: bool | None) -> Mapped:
    """Opens the columns in a folder, or reads the source into it block by block."""
    loader, folder = source.loader, _folder(source.loader, "memmap", memmap)
    about, told = manifest(folder), []
    if about is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{loader}: memmap: expected a folder that is new, empty, or made by {loader}, got {str(folder)!r}. "
            "Name another one; nothing was touched."
        )
    if about is not None:
        mine, other = source.selection["dataset"], about["selection"].get("dataset")
        if other != mine:
            raise ValueError(
                f"{loader}: memmap: expected a folder of dataset {mine!r}, got {str(folder)!r}, which holds {other!r}. "
                "Give each dataset a folder of its own."
            )
        why = changes(folder, source)
        if why is None:
            kept = opened(folder)
            if kept is not None:
                return kept
            why = "its files are not whole"
        told.append(f"{loader}: memmap: {str(folder)!r} is written anew: {why}.")
    with source.opened() as reading:
        size = reading.steps * reading.row_bytes
        try:
            with Files(folder, source) as files:
                free = shutil.disk_usage(files.part).free
                if size > free:
                    raise OSError(f"{free / 1e9:.2f} GB of free space")
                files.publish(reading.write(files.write, progress))
        except OSError as error:
            raise OSError(
                f"{loader}: memmap: expected a folder that can be written, with room for {size / 1e9:.2f} GB, got "
                f"{error}. Name another one, or leave entries out with keys= or exclude=; {str(folder)!r} is as it was."
            ) from error
    written = opened(folder)
    if written is None:
        raise OSError(f"{loader}: memmap: expected the columns just written in {str(folder)!r}, got others. Repeat.")
    return Mapped(written.columns, told + written.warnings)


def _folder(loader: str, argument: str, path: Place) -> Folder:
    """Where a folder really lies: a link may lead to another disk."""
    if not isinstance(path, (str, PathLike)) or not fspath(path):
        raise TypeError(
            f"{loader}: {argument}: expected the path of a folder, got {path!r}. Pass one, such as 'columns'."
        )
    folder = Folder(path).expanduser().resolve()
    if argument == "memmap" and folder == Folder.cwd():
        raise ValueError(
            f"{loader}: memmap: expected another folder than the current one, got {fspath(path)!r}. It is put in "
            "place as a whole; name a new one."
        )
    return folder
