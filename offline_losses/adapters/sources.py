"""What columns are made of: a Minari dataset or files of others, with the choice of entries, and when they change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path as Folder
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from offline_losses.adapters.entries import Choice
from offline_losses.adapters.flat import Last, Steps
from offline_losses.adapters.flat_reading import FlatReading
from offline_losses.adapters.memory import Write

if TYPE_CHECKING:
    import minari

VERSION = 1  # raise it when the meaning of a column changes
State = list[list[Any]]


class Reading(Protocol):
    """Columns that are about to be read: how much they are, and the reading, which returns the warnings."""

    @property
    def steps(self) -> int: ...
    @property
    def row_bytes(self) -> int: ...
    def write(self, write: Write, progress: bool | None) -> list[str]: ...


class Source(Protocol):
    """Where columns come from."""

    @property
    def loader(self) -> str: ...

    @property
    def where(self) -> str:
        """What is read, in words."""
        ...

    @property
    def selection(self) -> dict[str, Any]:
        """What was asked for; the same for the same call, whatever the files hold."""
        ...

    def files(self) -> State:
        """Name, size and time of change of each file: one of them differs when the source has changed."""
        ...

    def opened(self) -> AbstractContextManager[Reading]: ...


@dataclass(frozen=True)
class MinariSource:
    """A Minari dataset, with its choice of episodes."""

    dataset: minari.MinariDataset
    choice: Choice
    loader: str = "load_minari"

    @property
    def where(self) -> str:
        return f"dataset {self.dataset.id!r}"

    @property
    def selection(self) -> dict[str, Any]:
        episodes = np.asarray(self.dataset.episode_indices, dtype=np.int64)
        chosen = "all"
        if not np.array_equal(episodes, np.arange(int(self.dataset.storage.total_episodes))):
            chosen = hashlib.blake2b(episodes.tobytes(), digest_size=16).hexdigest()
        return {"version": VERSION, "dataset": self.dataset.id, "episodes": chosen, "entries": repr(self.choice)}

    @property
    def name(self) -> str:
        """A name for a folder of these columns."""
        digest = hashlib.blake2b(json.dumps(self.selection).encode(), digest_size=8).hexdigest()
        return f"{self.dataset.id.replace('/', '-')}-{digest}"

    def files(self) -> State:
        folder = Folder(self.dataset.storage.data_path)
        return states(folder, (path for path in folder.rglob("*") if path.is_file()))

    def opened(self) -> AbstractContextManager[Reading]:
        from offline_losses.adapters.columns import EpisodeReading

        return nullcontext(EpisodeReading(self.dataset, self.choice))


@dataclass(frozen=True)
class FileSource:
    """A file of another format, or a folder of files; `steps` opens it."""

    loader: str
    path: str | PathLike[str]
    steps: AbstractContextManager[Steps]
    choice: Choice
    last: Last
    options: Sequence[Any]

    @property
    def where(self) -> str:
        return f"{self.path!r}"

    @property
    def selection(self) -> dict[str, Any]:
        place = str(Folder(self.path).expanduser().resolve())
        asked = repr((self.loader, self.last, *self.options))
        return {"version": VERSION, "dataset": place, "options": asked, "entries": repr(self.choice)}

    def files(self) -> State:
        path = Folder(self.path).expanduser()
        if path.is_file():
            return states(path.parent, [path])
        found = (file for part in ("meta", "data") for file in (path / part).rglob("*"))  # not what is kept beside them
        return states(path, (file for file in found if file.is_file()))

    @contextmanager
    def opened(self) -> Iterator[Reading]:
        with self.steps as steps:
            yield FlatReading(steps, self.choice, self.last)


def states(folder: Folder, files: Iterable[Folder]) -> State:
    """Name, size and time of change of files below a folder."""
    found = [(path.relative_to(folder).as_posix(), path.stat()) for path in sorted(files)]
    return [[name, state.st_size, state.st_mtime_ns] for name, state in found]
