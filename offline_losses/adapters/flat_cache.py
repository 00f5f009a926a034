"""Flat columns kept in one file without pickle, under a digest of the dataset that they came from."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from offline_losses.adapters.entries import Choice
from offline_losses.adapters.memory import Columns

if TYPE_CHECKING:
    import minari

_VERSION = b"offline_losses flat columns 2"  # raise it when the meaning of a column changes
_KEYS = "keys"


def digest(dataset: minari.MinariDataset, choice: Choice) -> str:
    """Digest of everything that the columns depend on: the files' content and the choice of episodes."""
    state = hashlib.blake2b(_VERSION, digest_size=16)
    state.update(repr(choice).encode())
    state.update(np.asarray(dataset.episode_indices, dtype=np.int64).tobytes())
    folder = Path(dataset.storage.data_path)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        state.update(f"\0{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                state.update(block)
    return state.hexdigest()


def read(path: Path) -> Columns | None:
    """The columns kept at `path`; None where there are none, or not whole."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            keys = json.loads(str(kept[_KEYS]))
            return {tuple(key): kept[f"column_{i}"] for i, key in enumerate(keys)}
    except FileNotFoundError:
        return None
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None  # a torn file: the dataset is read again and the file written anew


def write(path: Path, columns: Columns) -> None:
    """Keeps the columns at `path`; readers see the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"column_{i}": column for i, column in enumerate(columns.values())}
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, **{_KEYS: np.array(json.dumps(list(columns)))}, **arrays)  # type: ignore[arg-type]
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
