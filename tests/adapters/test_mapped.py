"""Columns in files: a cache that never loses a read, and sets larger than memory; whole or not there at all."""

# ruff: noqa: E402 (the extras are asked for before what needs them is imported)

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

minari = pytest.importorskip("minari", reason="needs the extra offline-losses[data]")
pytest.importorskip("h5py", reason="needs the extra offline-losses[data]")
pytest.importorskip("tensordict", reason="needs the extra offline-losses[data]")

import numpy as np
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from tensordict import TensorDict
from torch import Tensor

from benchmarks.timing import peak_bytes
from offline_losses import discounted_return, episode_return, return_filter, reward_scale
from offline_losses.adapters import columns, keeping, mapped, sources
from offline_losses.adapters.entries import Choice
from offline_losses.adapters.minari import load_minari
from offline_losses.adapters.sources import MinariSource

LENGTHS = (4, 1, 7)
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and locks")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    (tmp_path / "sets").mkdir()


def episode(length: int, rng: np.random.Generator, *, ended: bool = True) -> EpisodeBuffer:
    return EpisodeBuffer(
        observations={"place": rng.normal(size=(length + 1, 3)), "empty": np.zeros((length + 1, 0))},
        actions=rng.integers(0, 4, length),
        rewards=rng.normal(size=length),
        terminations=(np.arange(length) == length - 1) & ended,
        truncations=np.zeros(length, dtype=bool),
    )


def made(name: str = "test/kept-v0", *, ended: bool = True, lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> Any:
    """A dataset whose files are old enough for their time of change to be trusted."""
    rng = np.random.default_rng(seed)
    box = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = minari.create_dataset_from_buffers(
            name,
            [episode(length, rng, ended=ended) for length in lengths],
            observation_space=spaces.Dict({"place": box, "empty": spaces.Box(-1, 1, (0,), np.float64)}),
            action_space=spaces.Discrete(4),
        )
    age(dataset)
    return dataset


def age(dataset: Any) -> None:
    for file in Path(dataset.storage.data_path).iterdir():
        state = file.stat()
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns - 10 * mapped.TICK))


def equal(left: TensorDict, right: TensorDict) -> bool:
    return set(left.keys(True, True)) == set(right.keys(True, True)) and bool((left == right).all())


def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "EpisodeReading", lambda *_: pytest.fail("read again"))


KINDS = ["cache", "memmap"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_load_reads_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_minari(made())
    first = load_minari("test/kept-v0", **{kind: tmp_path / "flat"})
    unreadable(monkeypatch)
    second = load_minari("test/kept-v0", **{kind: tmp_path / "flat"})
    assert equal(whole, first)
    assert equal(whole, second)


@pytest.mark.parametrize("kind", KINDS)
def test_mapped_columns_serve_as_others_do(kind: str, tmp_path: Path) -> None:
    whole = load_minari(made())
    for _ in range(2):
        data = load_minari("test/kept-v0", **{kind: tmp_path / "flat"})
    data["return"] = discounted_return(data["next", "reward"], data["next", "done"], discount=0.9)
    kept = return_filter(data["next", "reward"], data["next", "done"], fraction=0.4)
    assert data["return"].equal(discounted_return(whole["next", "reward"], whole["next", "done"], discount=0.9))
    assert kept.equal(return_filter(whole["next", "reward"], whole["next", "done"], fraction=0.4))
    rows = torch.tensor([3, 3, 0])
    assert equal(data.exclude("return")[rows], whole[rows])
    data["next", "reward"].mul_(2)  # stays in memory
    assert equal(load_minari("test/kept-v0", **{kind: tmp_path / "flat"}), whole)


def test_tensordict_loads_the_folder_too(tmp_path: Path) -> None:
    data = load_minari(made(), memmap=tmp_path / "flat")
    assert equal(TensorDict.load_memmap(tmp_path / "flat"), data)


@pytest.mark.parametrize(
    "function", [discounted_return, partial(return_filter, fraction=0.1), episode_return, reward_scale]
)
def test_tensordicts_columns_take_no_more_memory(function: Callable[..., Tensor], tmp_path: Path) -> None:
    """Of a subclass of tensors, which it opens a folder with."""
    reward, done = torch.randn(300_000), torch.arange(300_000) % 200 == 199
    TensorDict({"reward": reward, "done": done}, [300_000]).memmap(str(tmp_path))
    opened = TensorDict.load_memmap(tmp_path)
    columns = opened["reward"], opened["done"]
    assert function(*columns).equal(function(reward, done))
    least = peak_bytes(lambda: [function(reward, done)], done.device)
    assert peak_bytes(lambda: [function(*columns)], done.device) <= least


@pytest.mark.parametrize("kind", KINDS)
def test_warnings_come_with_every_load(kind: str, tmp_path: Path) -> None:
    made(ended=False)
    for _ in range(2):
        with pytest.warns(UserWarning, match="3 of 3 episodes end with neither flag") as caught:
            load_minari("test/kept-v0", **{kind: tmp_path / "flat"})
        assert caught[0].filename == __file__


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    load_minari(made(), cache="~/flat")
    load_minari("test/kept-v0", memmap="~/mapped")
    assert (tmp_path / "flat").is_dir()
    assert (tmp_path / "mapped" / "meta.json").is_file()


def test_a_cache_is_replaced_when_the_files_change(tmp_path: Path) -> None:
    dataset = made()
    load_minari(dataset, cache=tmp_path / "flat")
    dataset.update_dataset_from_buffer([episode(2, np.random.default_rng(1))])
    age(dataset)
    assert len(load_minari(dataset, cache=tmp_path / "flat")) == sum(LENGTHS) + 2
    assert len(list((tmp_path / "flat").iterdir())) == 1
    part = dataset.filter_episodes(lambda stored: len(stored) == 7)
    assert len(load_minari(part, cache=tmp_path / "flat")) == 7
    assert len(load_minari(dataset, cache=tmp_path / "flat", keys=["action"]).keys()) == 3


def test_a_mapped_folder_says_that_the_files_have_changed(tmp_path: Path) -> None:
    dataset = made()
    before = load_minari(dataset, memmap=tmp_path / "flat")
    copy = before.clone()
    dataset.update_dataset_from_buffer([episode(2, np.random.default_rng(1))])
    age(dataset)
    with pytest.warns(UserWarning, match=r"flat' is written anew: the dataset's files have changed since"):
        assert len(load_minari(dataset, memmap=tmp_path / "flat")) == sum(LENGTHS) + 2
    assert equal(before, copy)  # whoever has mapped the old files keeps them
    with pytest.warns(UserWarning, match="another choice of entries"):
        load_minari(dataset, memmap=tmp_path / "flat", keys=["action"])


def test_files_that_are_too_young_are_not_trusted(tmp_path: Path) -> None:
    """A change within one tick of the clock leaves the same size and time behind."""
    dataset = made()
    (file,) = Path(dataset.storage.data_path).glob("*.hdf5")
    os.utime(file)
    load_minari(dataset, cache=tmp_path / "flat")
    (folder,) = (tmp_path / "flat").iterdir()
    assert mapped.changes(folder, MinariSource(dataset, Choice())) is not None


def test_a_manifest_is_an_object_with_a_selection(tmp_path: Path) -> None:
    """Whatever else is valid JSON is not one."""
    for text, found in (("{}", False), ('"selection"', False), ('["selection"]', False), ('{"selection": 1}', True)):
        (tmp_path / "source.json").write_text(text)
        assert (mapped.manifest(tmp_path) is not None) == found


def test_columns_of_another_meaning_are_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version of the library that reads them otherwise says so by a number."""
    load_minari(made(), cache=tmp_path / "kept")
    load_minari("test/kept-v0", memmap=tmp_path / "flat")
    monkeypatch.setattr(sources, "VERSION", sources.VERSION + 1)
    load_minari("test/kept-v0", cache=tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 2
    with pytest.warns(UserWarning, match="flat' is written anew: it holds another choice"):
        load_minari("test/kept-v0", memmap=tmp_path / "flat")


@pytest.mark.parametrize("early", [0, 1])
def test_files_are_trusted_from_one_tick_on(early: int, tmp_path: Path) -> None:
    """A nanosecond earlier they are not."""
    files = [["main", 3, 100]]
    kept = {"selection": {}, "files": files, "read": 100 + mapped.TICK - early}
    (tmp_path / "source.json").write_text(json.dumps(kept))
    source: Any = SimpleNamespace(selection={}, files=lambda: files)
    assert (mapped.changes(tmp_path, source) is None) == (not early)


def test_what_is_published_is_whole_and_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, with nothing beside the columns; what is not published is closed too."""
    source: Any = MinariSource(made(), Choice())
    with mapped.Files(tmp_path / "flat", source) as files:
        files.write(("episode",), np.arange(3))
        files.write(("image",), np.ones((3, 2, 2), np.uint8))
        files.publish([])
        columns = mapped.opened(tmp_path / "flat").columns  # type: ignore[union-attr]
        assert columns["episode",].tolist() == [0, 1, 2]
        assert columns["image",].shape == (3, 2, 2)
    assert not list((tmp_path / "flat").glob(".*"))
    with mapped.Files(tmp_path / "other", source) as files:
        files.write(("episode",), np.arange(3))
    assert all(file.closed for file in files._files.values())
    if files._lock is not None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(files._lock)
    monkeypatch.setattr(mapped, "fcntl", None)
    with mapped.Files(tmp_path / "third", source) as files:
        assert files._lock is None


@POSIX
def test_a_lock_that_another_process_has_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next try has its number."""
    locks: list[int] = []

    def flock(lock: int, _: int) -> None:
        locks.append(lock)
        if len(locks) == 1:
            raise BlockingIOError

    monkeypatch.setattr(mapped.fcntl, "flock", flock)
    _, lock = mapped._locked_folder(tmp_path / "flat")
    assert locks == [lock, lock]
    os.close(lock or 0)


@POSIX
def test_what_killed_writers_left_is_removed_and_let_go(tmp_path: Path) -> None:
    """The number of its lock is free again."""
    (tmp_path / f".flat.{'a1' * 6}.part").mkdir()
    numbers = []
    for _ in range(2):
        numbers.append(os.open(tmp_path, os.O_RDONLY))
        os.close(numbers[-1])
        mapped._clear(tmp_path)
    assert numbers[0] == numbers[1]
    assert not list(tmp_path.glob(".*.part"))


def test_a_folder_takes_the_place_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one has a name that the next writer clears away, should it stay; without a place it is an error."""
    left: list[tuple[str, bool]] = []
    monkeypatch.setattr(mapped.shutil, "rmtree", lambda path, ignore_errors: left.append((path.name, ignore_errors)))
    for name in ("part", "flat"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    mapped._replace(tmp_path / "part", tmp_path / "flat")
    assert [path.name for path in (tmp_path / "flat").iterdir()] == ["part"]
    ((name, ignored),) = left
    assert mapped._LEFT.fullmatch(name)
    assert ignored
    with pytest.raises(FileNotFoundError):
        mapped._replace(tmp_path / "flat", tmp_path / "nowhere" / "flat")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["cut", "gone", "manifest"])
def test_torn_files_are_replaced(kind: str, damage: str, tmp_path: Path) -> None:
    whole = load_minari(made(), **{kind: tmp_path / "flat"}).clone()
    (manifest,) = (tmp_path / "flat").rglob("source.json")
    file = manifest.with_name("action.memmap")
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    else:
        manifest.write_text("{")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if (kind, damage) == ("memmap", "manifest"):  # as good as anyone's folder
            with pytest.raises(ValueError, match="made by load_minari"):
                load_minari("test/kept-v0", memmap=tmp_path / "flat")
            return
        for _ in range(2):
            assert equal(load_minari("test/kept-v0", **{kind: tmp_path / "flat"}), whole)


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    dataset = made()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(ValueError, match=r"expected a folder that is new, empty, or made by load_minari"):
        load_minari(dataset, memmap=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "words"
    load_minari(dataset, memmap=tmp_path / "flat")
    with pytest.raises(ValueError, match=r"expected a folder of dataset 'test/other-v0'.*holds 'test/kept-v0'"):
        load_minari(made("test/other-v0"), memmap=tmp_path / "flat")
    (tmp_path / "empty").mkdir()
    assert len(load_minari(dataset, memmap=tmp_path / "empty")) == sum(LENGTHS)
    with pytest.raises(ValueError, match="expected no cache beside it"):
        load_minari(dataset, memmap=tmp_path / "flat", cache=tmp_path)


def test_hidden_folders_of_others_beside_it_are_left_alone(tmp_path: Path) -> None:
    """What killed writers leave is known by its whole name."""
    left = tmp_path / f".flat.{'a1' * 6}.part"
    others = [tmp_path / ".vim.old", tmp_path / ".download.part", tmp_path / f".{'a1' * 6}.part"]
    for folder in (left, *others):
        folder.mkdir()
        (folder / "precious").write_text("words")
    load_minari(made(), memmap=tmp_path / "flat")
    assert all((folder / "precious").is_file() for folder in others)
    assert left.exists() == (sys.platform == "win32")


@POSIX
def test_a_link_leads_to_where_the_columns_are_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "flat", target_is_directory=True)
    (tmp_path / "disk" / "flat").mkdir()
    load_minari(made(), memmap=tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "flat" / "meta.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link", "sets"]


def test_what_is_no_new_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"load_minari: memmap: expected another folder than the current one, got '\.'"
    ):
        load_minari("test/kept-v0", memmap=".")
    for kind in KINDS:
        for folder in ("", 3, True):
            with pytest.raises(TypeError, match=f"load_minari: {kind}: expected the path of a folder, got {folder!r}"):
                load_minari("test/kept-v0", **{kind: folder})  # type: ignore[arg-type]


def test_a_key_that_is_no_file_name_stays_out_of_the_files(tmp_path: Path) -> None:
    source: Any = MinariSource(made(), Choice())
    told = pytest.raises(ValueError, match=r"^load_minari: expected keys that may name files, got .*up")
    with mapped.Files(tmp_path / "flat", source) as files, told:
        files.write(("observation", "../up"), np.zeros(1))


class NoSpace:
    """A disk that is full after some blocks."""

    def __init__(self, blocks: int) -> None:
        self.left = blocks
        self.write = mapped.Files.write

    def __call__(self, files: mapped.Files, path: Any, block: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device")
        self.write(files, path, block)


@pytest.mark.parametrize("blocks", [0, 5])
def test_a_full_or_unwritable_folder_loses_no_read(
    blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_minari(made())
    disk = NoSpace(blocks)
    monkeypatch.setattr(mapped.Files, "write", lambda *arguments: disk(*arguments))
    with pytest.warns(UserWarning, match="cache: expected a folder that can be written, got .*No space left"):
        assert equal(load_minari("test/kept-v0", cache=tmp_path / "flat"), whole)
    disk.left = blocks
    with pytest.raises(OSError, match=r"memmap: expected a folder that can be written, with room for .*No space left"):
        load_minari("test/kept-v0", memmap=tmp_path / "mapped")
    assert not list((tmp_path / "flat").iterdir())
    assert not (tmp_path / "mapped").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_minari(made())
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="The data are not kept"):
        assert equal(load_minari("test/kept-v0", cache=tmp_path / "file"), whole)
    with pytest.raises(OSError, match="memmap: expected a folder that can be written"):
        load_minari("test/kept-v0", memmap=tmp_path / "file" / "flat")
    monkeypatch.setattr(keeping.shutil, "disk_usage", lambda _: type("", (), {"free": 10}))
    with pytest.raises(OSError, match=r"got 0\.00 GB of free space"):
        load_minari("test/kept-v0", memmap=tmp_path / "flat")


def test_room_is_told_in_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve steps of an eighth of one are 1.5; just as much free space is enough."""
    whole = load_minari(made())
    monkeypatch.setattr(columns.EpisodeReading, "row_bytes", 125_000_000)
    monkeypatch.setattr(keeping, "require_memory", lambda *_: None)
    free = 1_490_000_000
    monkeypatch.setattr(keeping.shutil, "disk_usage", lambda _: type("", (), {"free": free}))
    with pytest.raises(OSError, match=r"with room for 1\.50 GB, got 1\.49 GB of free space"):
        load_minari("test/kept-v0", memmap=tmp_path / "flat")
    free = 1_500_000_000
    assert equal(load_minari("test/kept-v0", memmap=tmp_path / "flat"), whole)

    def full(*_: Any) -> None:
        raise MemoryError("less")

    monkeypatch.setattr(keeping.Growing, "write", full)
    with pytest.raises(MemoryError, match=r"expected room for 1\.50 GB of columns, got less\. Stream"):
        load_minari("test/kept-v0")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_may_only_be_read(kind: str, tmp_path: Path) -> None:
    """What is kept in it is opened, and nothing new is kept."""
    whole, shelf = load_minari(made()), tmp_path / "shelf"
    load_minari("test/kept-v0", **{kind: shelf / "kept"})
    for folder in [shelf, *shelf.rglob("*")]:
        folder.chmod(0o500 if folder.is_dir() else 0o400)
    if os.access(shelf, os.W_OK):
        pytest.skip("this user may write everywhere")
    assert equal(load_minari("test/kept-v0", **{kind: shelf / "kept"}), whole)
    if kind == "cache":
        with pytest.warns(UserWarning, match=r"cache: expected a folder that can be written, got .*denied"):
            assert equal(load_minari("test/kept-v0", cache=shelf / "flat"), whole)
    else:
        with pytest.raises(OSError, match=r"memmap: expected a folder that can be written, .*denied"):
            load_minari("test/kept-v0", memmap=shelf / "flat")
    for folder in [shelf, *shelf.glob("**")]:
        folder.chmod(0o700)


def _slow_load(folder: Path, kind: str, pause: float) -> None:
    write = mapped.Files.write

    def slow(files: mapped.Files, path: Any, block: Any) -> None:
        time.sleep(pause)
        write(files, path, block)

    mapped.Files.write = slow  # type: ignore[method-assign]
    load_minari("test/kept-v0", **{kind: folder})


@POSIX
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment_the_next_load_is_right(kind: str, tmp_path: Path) -> None:
    whole = load_minari(made())
    fork = multiprocessing.get_context("fork")
    rng = np.random.default_rng(0)
    for moment in rng.uniform(0, 0.12, 10):
        victim = fork.Process(target=_slow_load, args=(tmp_path / "flat", kind, 0.01))
        victim.start()
        time.sleep(moment)
        os.kill(victim.pid or 0, signal.SIGKILL)
        victim.join()
        if kind == "memmap" and (tmp_path / "flat").exists():
            assert equal(TensorDict.load_memmap(tmp_path / "flat"), whole)
    assert equal(load_minari("test/kept-v0", **{kind: tmp_path / "flat"}), whole)
    assert equal(load_minari("test/kept-v0", **{kind: tmp_path / "flat"}), whole)
    assert not list(tmp_path.rglob(".*.part"))


@POSIX
@pytest.mark.parametrize("kind", KINDS)
def test_two_at_once_do_not_disturb_each_other(kind: str, tmp_path: Path) -> None:
    whole = load_minari(made())
    fork = multiprocessing.get_context("fork")
    others = [fork.Process(target=_slow_load, args=(tmp_path / "flat", kind, 0.01), daemon=True) for _ in range(3)]
    for other in others:
        other.start()
    assert equal(load_minari("test/kept-v0", **{kind: tmp_path / "flat"}), whole)
    for other in others:
        other.join(300)
        assert other.exitcode == 0
    assert equal(load_minari("test/kept-v0", **{kind: tmp_path / "flat"}), whole)
    assert not list(tmp_path.rglob(".*.part"))


@pytest.mark.parametrize("kind", KINDS)
def test_threads_at_once_do_not_disturb_each_other(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, write = load_minari(made()), mapped.Files.write

    def slow(files: mapped.Files, path: Any, block: Any) -> None:
        time.sleep(0.01)
        write(files, path, block)

    monkeypatch.setattr(mapped.Files, "write", slow)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: load_minari("test/kept-v0", **{kind: tmp_path / "flat"}), range(3)))
    assert all(equal(each, whole) for each in found)
    assert not list(tmp_path.rglob(".*"))


def test_an_interrupted_load_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mapped.Files, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_minari(made(), memmap=tmp_path / "flat")
    assert [path.name for path in tmp_path.iterdir()] == ["sets"]


def test_an_interrupted_load_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the first attempt is taken over: every block is written by the second."""
    whole, write, written = load_minari(made()), mapped.Files.write, []

    def failing(files: mapped.Files, path: Any, block: Any) -> None:
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt
        write(files, path, block)

    monkeypatch.setattr(mapped.Files, "write", failing)
    with pytest.raises(KeyboardInterrupt):
        load_minari("test/kept-v0", memmap=tmp_path / "flat")
    assert equal(load_minari("test/kept-v0", memmap=tmp_path / "flat"), whole)
    assert set(written[3:]) == set(mapped.opened(tmp_path / "flat").columns)  # type: ignore[union-attr]


@POSIX
def test_streaming_takes_little_memory(tmp_path: Path) -> None:
    """Of 94 MB of columns, one episode, no more than a few blocks are held."""
    made(lengths=(2_000_000,))

    def child() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        load_minari("test/kept-v0", memmap=tmp_path / "flat", progress=False)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os._exit(0 if grown < 60_000 else 1)

    process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
    process.start()
    process.join(300)
    assert process.exitcode == 0
