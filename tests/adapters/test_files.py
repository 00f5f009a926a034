"""What all loaders of files share: entries by choice, columns in a folder, blocks, and damage inside a file."""

# ruff: noqa: E402 (the extras are asked for before what needs them is imported)

from __future__ import annotations

import io
import multiprocessing
import os
import resource
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

h5py = pytest.importorskip("h5py", reason="needs the extra offline-losses[data]")
pytest.importorskip("tensordict", reason="needs the extra offline-losses[data]")

import numpy as np
import torch
from tensordict import TensorDict
from test_formats import d4rl, lerobot, ogbench, robomimic

from offline_losses.adapters import files, keeping, mapped, rows
from offline_losses.adapters.d4rl import load_d4rl
from offline_losses.adapters.lerobot import load_lerobot
from offline_losses.adapters.ogbench import load_ogbench
from offline_losses.adapters.robomimic import load_robomimic

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
FLAGS = {"episode", ("next", "terminated"), ("next", "truncated"), ("next", "done")}


def in_hdf5(folder: Path) -> Path:
    with h5py.File(folder / "set.hdf5", "w") as file:
        for key, value in d4rl(next_observations=None, metadata="words").items():
            file[key] = value
    return folder / "set.hdf5"


def in_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "set.npz", **ogbench())
    return folder / "set.npz"


MADE: dict[str, tuple[Callable[..., TensorDict], Callable[[Path], Path], Any]] = {
    "d4rl": (load_d4rl, in_hdf5, "observation"),
    "ogbench": (load_ogbench, in_npz, "observation"),
    "robomimic": (load_robomimic, lambda folder: robomimic(folder / "set.hdf5"), ("observation", "x")),
    "lerobot": (load_lerobot, lambda folder: lerobot(folder / "set"), ("observation", "state")),
}
EACH = pytest.mark.parametrize("kind", MADE)
QUIET = pytest.mark.filterwarnings("ignore:.*steps are left out")


def made(kind: str, folder: Path) -> tuple[Callable[..., TensorDict], Path, Any]:
    load, make, key = MADE[kind]
    source = make(folder)
    age(source)
    return load, source, key


def age(source: Path) -> None:
    """Old enough for the times of change to be trusted."""
    for file in [source, *source.rglob("*")]:
        state = file.stat()
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns - 10 * mapped.TICK))


def equal(left: TensorDict, right: TensorDict) -> bool:
    same = {key: left[key].dtype for key in left.keys(True, True)} == {
        key: right[key].dtype for key in right.keys(True, True)
    }
    return same and bool((left == right).all())


@EACH
@QUIET
def test_entries_by_choice(kind: str, tmp_path: Path) -> None:
    load, source, key = made(kind, tmp_path)
    whole = load(source, last="keep")
    part = load(source, last="keep", keys=["observation"])
    marks = FLAGS | ({("next", "observed")} & set(whole.keys(True)))
    assert set(part.keys(True, True)) == marks | {key}
    assert part[key].equal(whole[key])
    following = load(source, keys=[("next", "observation")], last="keep")
    assert set(following.keys(True, True)) - marks == {("next", *((key,) if isinstance(key, str) else key))}
    assert ("next", "reward") not in load(source, exclude=[("next", "reward")]).keys(True)
    wide = load(source, last="keep", dtype={"observation": torch.float64, ("next", "reward"): torch.int64})
    assert wide[key].dtype == torch.float64
    assert wide["next", "reward"].tolist() == list(range(9))
    with pytest.raises(ValueError, match=rf"^{load.__name__}: keys: expected keys of entries, got 'reward'"):
        load(source, keys=["reward"])
    refused = rf"^{load.__name__}: .* action: expected numbers that int64 can hold, got others, .* in rows 0 to 8\."
    with pytest.raises(ValueError, match=refused):
        load(source, dtype={"action": torch.int64})


@EACH
@QUIET
def test_columns_in_a_folder(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, source, key = made(kind, tmp_path)
    whole, folder = load(source), tmp_path / "flat"
    first = load(source, memmap=folder)
    assert equal(TensorDict.load_memmap(folder), whole)
    with monkeypatch.context() as patched:
        patched.setattr(keeping, "Files", lambda *_: pytest.fail("written again"))
        second = load(source, memmap=folder)
    assert equal(first, whole)
    assert equal(second, whole)
    second[key].zero_()  # in memory alone
    assert equal(load(source, memmap=folder), whole)
    with pytest.warns(UserWarning, match=f"^{load.__name__}: memmap: .* is written anew: it holds another choice"):
        load(source, memmap=folder, last="keep")
    for file in [source] if source.is_file() else source.rglob("*.parquet"):
        os.utime(file)
    with pytest.warns(UserWarning, match="files have changed since"):
        assert len(load(source, memmap=folder, last="keep")) == 9


@EACH
@QUIET
def test_warnings_of_a_reading_are_kept(kind: str, tmp_path: Path) -> None:
    load, source, _ = made(kind, tmp_path)
    for _ in range(2):
        if kind in ("d4rl", "lerobot"):
            with pytest.warns(UserWarning, match=f"^{load.__name__}: .* of 9 steps are left out") as told:
                load(source, memmap=tmp_path / "flat")
            assert told[0].filename == __file__
        else:
            load(source, memmap=tmp_path / "flat")


@EACH
@QUIET
def test_blocks_change_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, source, _ = made(kind, tmp_path)
    whole = load(source)
    for block in (1, 30):
        monkeypatch.setattr(rows, "BLOCK", block)
        assert equal(load(source), whole)
        assert equal(load(source, memmap=tmp_path / f"flat{block}"), whole)


@pytest.mark.parametrize(
    ("arrays", "chunks", "step"),
    [
        ([np.zeros(100)], [1], 5),
        ([np.zeros(100, np.uint8)], [1], 40),
        ([np.zeros((100, 2, 2))], [1], 1),
        ([np.zeros((100, 9))], [1], 1),
        ([np.zeros((100, 0))], [1], 40),
        ([np.zeros(100)], [4], 8),
        ([np.zeros((100, 9))], [3], 3),
        ([np.zeros((100, 2)), np.zeros(100)], [1, 4], 4),
        ([np.zeros(100), np.zeros((100, 2))], [7, 1], 7),
    ],
)
def test_blocks_are_as_large_as_is_said(
    arrays: list[Any], chunks: list[int], step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty bytes of the widest array, up to whole chunks of the longest, and a row at least."""
    monkeypatch.setattr(rows, "BLOCK", 40)
    several = [rows.Whole(array) for array in arrays]
    assert [one.chunk for one in several] == [1] * len(several)
    for one, chunk in zip(several, chunks, strict=True):
        one.chunk = chunk
    starts = range(0, 100, step)
    assert list(rows.blocks(*several)) == [(start, min(start + step, 100)) for start in starts]


def test_rows_as_an_array() -> None:
    """Without a copy, in the dtype that they have unless another is asked for; of a number without axes too."""
    for array in (np.arange(6, dtype=np.int32).reshape(3, 2), np.array(3, np.int32)):
        found = np.asarray(rows.Whole(array))
        assert found.dtype == np.int32
        assert np.array_equal(found, array)
        assert np.shares_memory(found, array)
        assert rows.Whole(array).__array__(np.float32).dtype == np.float32


def test_no_places_pick_no_rows() -> None:
    picked = rows.Picked(rows.Whole(np.zeros((5, 2, 3), np.float32)), np.arange(0))
    assert picked.read(0, 0).shape == (0, 2, 3)


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, source, _ = made("ogbench", tmp_path)
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "flat", Path("/proc/flat")):
        with pytest.raises(OSError, match=r"^load_ogbench: memmap: expected a folder that can be written"):
            load(source, memmap=folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(ValueError, match=r"new, empty, or made by load_ogbench"):
        load(source, memmap=tmp_path / "mine")
    monkeypatch.setattr(keeping.shutil, "disk_usage", lambda _: type("", (), {"free": 10}))
    with pytest.raises(OSError, match=r"^load_ogbench: memmap: .* got 0\.00 GB of free space"):
        load(source, memmap=tmp_path / "flat")
    assert not (tmp_path / "flat").exists()


@pytest.mark.parametrize(("load", "arrays"), [(load_d4rl, d4rl()), (load_ogbench, ogbench())])
def test_arrays_in_memory_are_not_streamed(load: Any, arrays: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=rf"^{load.__name__}: memmap: expected None, the source being dict"):
        load(arrays, memmap=tmp_path / "flat")


def test_columns_larger_than_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, source, _ = made("ogbench", tmp_path)
    monkeypatch.setattr("offline_losses.adapters.memory.free_memory", lambda: 10)
    with pytest.raises(MemoryError, match=r"^load_ogbench: .*expected room for .* GB of columns.*with memmap="):
        load(source)


def test_a_file_that_is_damaged_inside(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = d4rl(observations=rng.normal(size=(9, 500)), next_observations=None)
    np.savez(tmp_path / "set.npz", **{**arrays, "terminals": np.arange(9) == 8})
    with h5py.File(tmp_path / "set.hdf5", "w") as file:
        for key, value in arrays.items():
            file.create_dataset(key, data=value, **({"compression": "gzip"} if key == "observations" else {}))
    for name, load in (("set.npz", load_ogbench), ("set.hdf5", load_d4rl)):
        content = bytearray((tmp_path / name).read_bytes())
        middle = len(content) // 2
        content[middle : middle + 1000] = bytes(1000)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"^{load.__name__}: source: expected an .* file .*, as to observations"):
            load(tmp_path / name)


ARRAYS = {
    "number": np.array(3.5),
    "row": np.arange(7.0),
    "wide": np.arange(7 * 2 * 3, dtype=np.int16).reshape(7, 2, 3),
    "columns": np.asfortranarray(np.arange(21).reshape(7, 3)),
    "empty": np.zeros((7, 0)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_rows_of_an_archive(name: str, tmp_path: Path) -> None:
    """In one direction, with rows left out, and back again."""
    np.savez_compressed(tmp_path / "set.npz", **ARRAYS)  # type: ignore[arg-type]
    array = ARRAYS[name]
    with files.open_npz("load", tmp_path / "set.npz") as archive:
        assert (archive[name].shape, archive[name].dtype) == (array.shape, array.dtype)
        if array.ndim == 0:
            assert archive[name].read(0, 1) == np.asarray(archive[name]) == 3.5
            assert archive[name].read(0, 1).shape == ()
        else:
            for start, stop in ((0, 2), (2, 3), (5, 7), (7, 7), (1, 4), (3, 5), (0, 7)):
                assert np.array_equal(archive[name].read(start, stop), array[start:stop])


def test_rows_of_an_archive_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one direction, and none but these are held."""
    np.savez(tmp_path / "set.npz", x=np.arange(20.0).reshape(10, 2))
    with files.open_npz("load", tmp_path / "set.npz") as archive:
        monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("begun again"))
        for start in (0, 2, 6):
            assert archive["x"].read(start, start + 2).flatten().tolist() == list(range(2 * start, 2 * start + 4))


@pytest.mark.parametrize(
    ("width", "skipped", "parts"),
    [
        (1, (2 << 20) + 100, [1 << 20, 1 << 20, 100]),
        (8, (2 << 17) + 100, [1 << 17, 1 << 17, 100]),
        (3 << 20, 2, [1, 1]),
        (0, 5, [5]),
    ],
)
def test_what_lies_between_is_read_a_mebibyte_at_a_time(
    width: int, skipped: int, parts: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row at a time where one takes more."""
    np.savez(tmp_path / "set.npz", x=np.zeros(1, np.uint8))
    taken = []
    with files.open_npz("load", tmp_path / "set.npz") as archive:
        member: Any = archive["x"]

        def take(rows: int) -> bytes:
            taken.append(rows)
            member._next += rows
            return bytes(1)

        monkeypatch.setattr(member, "_width", width)
        monkeypatch.setattr(member, "_take", take)
        member.read(skipped, skipped + 1)
    assert taken == [*parts, 1]


def test_an_archive_with_fewer_rows_than_it_says(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.arange(9.0))
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("x.npy", stream.getvalue()[:-8])
    with files.open_npz("load", tmp_path / "set.npz") as arrays:
        assert arrays["x"].read(6, 8).tolist() == [6, 7]
        with pytest.raises(ValueError, match=r"as to x\.npy at .*, got EOFError: fewer bytes than it says"):
            arrays["x"].read(8, 9)


def test_rows_that_hdf5_stores_together(tmp_path: Path) -> None:
    """As a file says; each by itself where they follow each other."""
    with h5py.File(tmp_path / "set.hdf5", "w") as file:
        file.create_dataset("chunked", data=np.zeros((9, 6)), chunks=(4, 2))
        file["plain"], file["number"] = np.zeros((9, 6)), 1.5
        found = files.read_hdf5("load", file)
        assert {name: array.chunk for name, array in found.items()} == {"chunked": 4, "number": 1, "plain": 1}
        assert found["number"].read(0, 1) == 1.5


def test_arrays_stored_by_columns(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "set.npz", **{**ogbench(), "observations": np.asfortranarray(np.tile(ogbench()["observations"], 3))}
    )
    assert load_ogbench(tmp_path / "set.npz")["observation"][:, 2].tolist() == [0, 1, 2, 10, 11, 20, 21, 22, 23]


def _slow_load(load: Callable[..., TensorDict], source: Path, folder: Path) -> None:
    write = mapped.Files.write

    def pausing(files: mapped.Files, path: Any, block: Any) -> None:
        time.sleep(0.01)
        write(files, path, block)

    mapped.Files.write = pausing  # type: ignore[method-assign]
    load(source, memmap=folder)


@POSIX
def test_killed_at_any_moment_the_next_load_is_right(tmp_path: Path) -> None:
    load, source, _ = made("ogbench", tmp_path)
    whole = load(source)
    for moment in np.random.default_rng(0).uniform(0, 0.1, 10):
        victim = multiprocessing.get_context("fork").Process(target=_slow_load, args=(load, source, tmp_path / "flat"))
        victim.start()
        time.sleep(moment)
        os.kill(victim.pid or 0, signal.SIGKILL)
        victim.join()
        if (tmp_path / "flat").exists():
            assert equal(TensorDict.load_memmap(tmp_path / "flat"), whole)
    assert equal(load(source, memmap=tmp_path / "flat"), whole)
    assert not list(tmp_path.glob(".*.part"))


@POSIX
@QUIET
@pytest.mark.parametrize("kind", ["d4rl", "ogbench", "robomimic"])
def test_several_at_once_do_not_disturb_each_other(kind: str, tmp_path: Path) -> None:
    load, source, _ = made(kind, tmp_path)
    whole, fork = load(source), multiprocessing.get_context("fork")
    others = [fork.Process(target=_slow_load, args=(load, source, tmp_path / "flat"), daemon=True) for _ in range(3)]
    for other in others:
        other.start()
    assert equal(load(source, memmap=tmp_path / "flat"), whole)
    for other in others:
        other.join(60)
        assert other.exitcode == 0
    assert equal(load(source, memmap=tmp_path / "flat"), whole)
    assert not list(tmp_path.glob(".*"))


@EACH
@QUIET
def test_a_folder_that_may_only_be_read(kind: str, tmp_path: Path) -> None:
    load, source, _ = made(kind, tmp_path)
    whole, shelf = load(source), tmp_path / "shelf"
    load(source, memmap=shelf / "kept")
    shelf.chmod(0o500)
    if os.access(shelf, os.W_OK):
        pytest.skip("this user may write everywhere")
    assert equal(load(source, memmap=shelf / "kept"), whole)
    with pytest.raises(OSError, match=rf"^{load.__name__}: memmap: expected a folder that can be written, .*denied"):
        load(source, memmap=shelf / "flat")
    shelf.chmod(0o700)


@POSIX
@pytest.mark.parametrize("kind", ["d4rl", "ogbench"])
def test_streaming_takes_little_memory(kind: str, tmp_path: Path) -> None:
    """Of 100 MB of columns no more than flags, places and a few blocks are held."""
    steps = 300_000
    arrays = {
        "observations": np.zeros((steps, 40), np.float32),
        "actions": np.zeros((steps, 1), np.float32),
        "rewards": np.zeros(steps, np.float32),
        "terminals": np.arange(steps) % 1000 == 999,
    }
    for name, part in (("few", slice(1000)), ("set", slice(None))):
        if kind == "ogbench":
            np.savez_compressed(tmp_path / name, **{key: value[part] for key, value in arrays.items()})
        else:
            with h5py.File(tmp_path / name, "w") as file:
                for key, value in arrays.items():
                    file.create_dataset(key, data=value[part], compression="gzip")
    del arrays

    def child() -> None:
        load, end = (load_ogbench, ".npz") if kind == "ogbench" else (load_d4rl, "")
        load(tmp_path / f"few{end}", memmap=tmp_path / "first")  # the code itself takes memory once
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        load(tmp_path / f"set{end}", memmap=tmp_path / "flat")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os._exit(0 if grown < 40_000 else 1)

    process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
    process.start()
    process.join(300)
    assert process.exitcode == 0
