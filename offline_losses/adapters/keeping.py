"""Three ways from a dataset to its columns: into memory, into memory and a cache, or into files alone."""

from __future__ import annotations

import shutil
from os import PathLike, fspath
from pathlib import Path as Folder

from offline_losses.adapters.columns import Reading
from offline_losses.adapters.mapped import Files, Mapped, Source, changes, manifest, opened
from offline_losses.adapters.memory import Growing, require_memory

_REMEDY = "Stream the columns into files with memmap=, or leave entries out with keys= or exclude="


def in_memory(source: Source, progress: bool | None) -> Mapped:
    """Reads the dataset."""
    reading = Reading(source.dataset, source.choice)
    where = f"load_minari: dataset {source.dataset.id!r}"
    require_memory(where, reading.steps, reading.row_bytes, _REMEDY)
    growing = Growing(reading.steps)
    try:
        warnings = reading.write(growing.write, progress)
    except MemoryError as error:
        size = reading.steps * reading.row_bytes / 1e9
        raise MemoryError(f"{where}: expected room for {size:.2f} GB of columns, got {error}. {_REMEDY}.") from error
    return Mapped(growing.columns(), warnings)


def cached(source: Source, cache: str | PathLike[str], progress: bool | None) -> Mapped:
    """Opens the columns that are kept in a cache, or reads the dataset and keeps them; a read is never lost."""
    folder = _folder("cache", cache) / source.name
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


def streamed(source: Source, memmap: str | PathLike[str], progress: bool | None) -> Mapped:
    """Opens the columns in a folder, or reads the dataset into it block by block."""
    folder = _folder("memmap", memmap)
    about, told = manifest(folder), []
    if about is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"load_minari: memmap: expected a folder that is new, empty, or made by load_minari, got {str(folder)!r}. "
            "Name another one; nothing was touched."
        )
    if about is not None:
        other = about["selection"].get("dataset")
        if other != source.dataset.id:
            raise ValueError(
                f"load_minari: memmap: expected a folder of dataset {source.dataset.id!r}, got {str(folder)!r}, which "
                f"holds {other!r}. Give each dataset a folder of its own."
            )
        why = changes(folder, source)
        if why is None:
            kept = opened(folder)
            if kept is not None:
                return kept
            why = "its files are not whole"
        told.append(f"load_minari: memmap: {str(folder)!r} is written anew: {why}.")
    reading = Reading(source.dataset, source.choice)
    try:
        with Files(folder, source) as files:
            size, free = reading.steps * reading.row_bytes, shutil.disk_usage(files.part).free
            if size > free:
                raise OSError(f"{free / 1e9:.2f} GB of free space")
            files.publish(reading.write(files.write, progress))
    except OSError as error:
        size = reading.steps * reading.row_bytes
        raise OSError(
            f"load_minari: memmap: expected a folder that can be written, with room for {size / 1e9:.2f} GB, got "
            f"{error}. Name another one, or leave entries out with keys= or exclude=; {str(folder)!r} is as it was."
        ) from error
    written = opened(folder)
    if written is None:
        raise OSError(f"load_minari: memmap: expected the columns just written in {str(folder)!r}, got others. Repeat.")
    return Mapped(written.columns, told + written.warnings)


def _folder(argument: str, path: str | PathLike[str]) -> Folder:
    """Where a folder really lies: a link may lead to another disk."""
    if not isinstance(path, (str, PathLike)) or not fspath(path):
        raise TypeError(
            f"load_minari: {argument}: expected the path of a folder, got {path!r}. Pass one, such as 'columns'."
        )
    folder = Folder(path).expanduser().resolve()
    if argument == "memmap" and folder == Folder.cwd():
        raise ValueError(
            f"load_minari: memmap: expected another folder than the current one, got {fspath(path)!r}. It is put in "
            "place as a whole; name a new one."
        )
    return folder
