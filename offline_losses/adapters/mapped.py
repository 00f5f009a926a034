"""Flat columns in files, as a memory-mapped TensorDict: written whole or not at all, and opened without a copy."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path as Folder
from typing import IO, Any

import numpy as np
import torch
from tensordict import TensorDict

from offline_losses.adapters.entries import Array, Path
from offline_losses.adapters.memory import Columns
from offline_losses.adapters.sources import Source

try:
    import fcntl
except ImportError:  # not on this system: what killed writers leave stays
    fcntl = None  # type: ignore[assignment]

TICK = 100_000_000
"""Nanoseconds for which a file may change without another time of change."""
_MANIFEST = "source.json"
_LEFT = re.compile(r"\..+\.[0-9a-f]{12}\.(part|old)")


@dataclass(frozen=True)
class Mapped:
    """Columns as they lie in a folder, and the warnings of their reading."""

    columns: Columns
    warnings: list[str]


def manifest(folder: Folder) -> dict[str, Any] | None:
    """What a folder says of its columns; None where it holds none."""
    try:
        read = json.loads((folder / _MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return read if isinstance(read, dict) and "selection" in read else None


def changes(folder: Folder, source: Source) -> str | None:
    """Why the columns in a folder are not those of the source; None where they are."""
    kept = manifest(folder)
    if kept is None:
        return "it holds no columns"
    if kept["selection"] != source.selection:
        return "it holds another choice of entries or episodes"
    files = source.files()
    if kept["files"] != files or any(changed + TICK > kept["read"] for _, _, changed in files):
        return "the dataset's files have changed since"
    return None


def opened(folder: Folder) -> Mapped | None:
    """The columns in a folder; what is written into them stays in memory. None where they are not whole."""
    for _ in range(3):
        kept = manifest(folder)
        if kept is None:
            return None
        try:
            columns = {tuple(path): _column(folder, path, dtype, shape) for path, dtype, shape in kept["columns"]}
        except (OSError, ValueError):
            return None
        if manifest(folder) == kept:  # and no other folder was put in its place meanwhile
            return Mapped(columns, kept["warnings"])
    return None


def _column(folder: Folder, path: list[str], dtype: str, shape: list[int]) -> Array:
    file, kind = _file(folder, path), np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    if file.stat().st_size != size:
        raise ValueError("torn")
    if size == 0:
        return np.empty(shape, kind)
    return np.memmap(file, kind, "c", shape=tuple(shape))


def _file(folder: Folder, path: Path | list[str]) -> Folder:
    return folder.joinpath(*path[:-1]) / f"{path[-1]}.memmap"


class Files:
    """Columns on their way into a folder: a hidden one beside it takes its place at the end, or nothing does."""

    def __init__(self, folder: Folder, source: Source) -> None:
        self.folder: Folder = folder
        self.source: Source = source
        self._files: dict[Path, IO[bytes]] = {}
        self._columns: dict[Path, tuple[str, int, tuple[int, ...]]] = {}

    def __enter__(self) -> Files:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        _clear(self.folder.parent)
        part, self._lock = _locked_folder(self.folder)
        self.part: Folder = part
        self._read, self._state = time.time_ns(), self.source.files()
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # a full disk, again
                file.close()
        shutil.rmtree(self.part, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)

    def write(self, path: Path, block: Array) -> None:
        """Appends rows to a column."""
        if path not in self._files:
            if any("/" in key or "\\" in key or key in ("", ".", "..") for key in path):
                raise ValueError(
                    f"{self.source.loader}: expected keys that may name files, got {path}. "
                    f"Leave the entry out with exclude=[{path}], or read without a folder."
                )
            file = _file(self.part, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            self._files[path] = file.open("wb")
            self._columns[path] = (block.dtype.name, 0, block.shape[1:])
        dtype, rows, shape = self._columns[path]
        self._files[path].write(np.ascontiguousarray(block).ravel().view(np.uint8).data)
        self._columns[path] = (dtype, rows + len(block), shape)

    def publish(self, warnings: list[str]) -> None:
        """Puts the whole folder in place, unless another process has been faster."""
        for file in self._files.values():
            file.close()
        self._write_metadata()
        about = {
            "selection": self.source.selection,
            "files": self._state,
            "read": self._read,
            "columns": [(path, dtype, (rows, *shape)) for path, (dtype, rows, shape) in self._columns.items()],
            "warnings": warnings,
        }
        (self.part / _MANIFEST).write_text(json.dumps(about))
        if changes(self.folder, self.source) is not None or opened(self.folder) is None:
            _replace(self.part, self.folder)

    def _write_metadata(self) -> None:
        """What `TensorDict.load_memmap` reads, written by tensordict beside empty files that take no room."""
        rows = self._columns[("episode",)][1]
        skeleton = TensorDict({}, batch_size=[rows])
        for path, (dtype, _, shape) in self._columns.items():
            skeleton[path] = torch.from_numpy(np.empty((), dtype)).expand(rows, *shape)
        scratch = self.part / ".skeleton"
        skeleton.memmap_like(prefix=str(scratch))
        for file in scratch.rglob("meta.json"):
            file.replace(self.part / file.relative_to(scratch))
        shutil.rmtree(scratch)


def _locked_folder(folder: Folder) -> tuple[Folder, int | None]:
    """A new hidden folder beside another, locked for as long as this process lives."""
    while True:
        part = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.part")
        part.mkdir()
        if fcntl is None:
            return part, None
        try:
            lock = os.open(part, os.O_RDONLY)
        except FileNotFoundError:
            continue  # taken for a leftover, in the moment before it was locked
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if part.exists():
                return part, lock
        except BlockingIOError:
            pass
        except OSError:  # a file system without locks
            return part, lock
        os.close(lock)


def _clear(parent: Folder) -> None:
    """Removes what writers that were killed have left."""
    if fcntl is None:
        return
    for part in filter(lambda path: _LEFT.fullmatch(path.name), parent.glob(".*")):  # no one else's
        try:
            lock = os.open(part, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(part, ignore_errors=True)
        except OSError:  # its writer is alive
            pass
        finally:
            os.close(lock)


def _replace(part: Folder, folder: Folder) -> None:
    old = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.old")
    for attempt in range(10):
        try:
            part.rename(folder)
            break
        except OSError:
            if attempt == 9:
                raise
        try:
            folder.rename(old)
        except FileNotFoundError:
            continue  # another process has just moved it
        shutil.rmtree(old, ignore_errors=True)
