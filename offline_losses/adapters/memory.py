"""Columns that grow in memory, and the sentence in place of a bare MemoryError."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path as File

import numpy as np

from offline_losses.adapters.entries import Array, Path

Columns = dict[Path, Array]
Write = Callable[[Path, Array], None]
BLOCK = 1 << 21
"""Bytes of rows that are held beside the columns while reading."""


class Growing:
    """Blocks of rows joined into columns, with room for as many steps as are expected, and half as much again after.

    Pages of memory that are never written take no memory, and the columns are cut where the data end.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._filled: dict[Path, int] = {}
        self._columns: Columns = {}

    def write(self, path: Path, block: Array) -> None:
        start = self._filled.setdefault(path, 0)
        if path not in self._columns:
            self._columns[path] = np.empty((max(self._steps, len(block)), *block.shape[1:]), block.dtype)
        column = self._columns[path]
        stop = self._filled[path] = start + len(block)
        if stop > len(column):
            column.resize((max(stop, len(column) * 3 // 2), *column.shape[1:]), refcheck=False)
        column[start:stop] = block

    def columns(self) -> Columns:
        """The columns, without the room that was not needed."""
        for path, column in self._columns.items():
            column.resize((self._filled[path], *column.shape[1:]), refcheck=False)
        return self._columns


def require_memory(where: str, steps: int, row_bytes: int, mend: str) -> None:
    """Refuses columns that the machine cannot hold, before they are read."""
    size, free = steps * row_bytes, free_memory()
    if free is not None and size > free:
        raise MemoryError(
            f"{where}: expected room for {size / 1e9:.2f} GB of columns ({steps} steps of {row_bytes} bytes), got "
            f"{free / 1e9:.2f} GB of free memory. {mend}."
        )


def free_memory() -> int | None:
    """Bytes that can be had without swapping others out, as far as the system tells; a container's limit counts."""
    known = []
    try:
        lines = File("/proc/meminfo").read_text().splitlines()
        known += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        limit, used = (File(f"/sys/fs/cgroup/memory.{name}").read_text() for name in ("max", "current"))
        known.append(int(limit) - int(used))
    except (OSError, ValueError):  # another system, or no limit
        pass
    return max(0, min(known)) if known else None
