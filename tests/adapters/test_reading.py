"""Episodes on their way into columns: blocks, casts, and the place of a wrong number."""

# ruff: noqa: E402 (the extras are asked for before what needs them is imported)

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

minari = pytest.importorskip("minari", reason="needs the extra offline-losses[data]")
pytest.importorskip("h5py", reason="needs the extra offline-losses[data]")
pytest.importorskip("tensordict", reason="needs the extra offline-losses[data]")

import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from offline_losses.adapters import columns
from offline_losses.adapters.columns import EpisodeReading, _Block, _first_inexact
from offline_losses.adapters.entries import Choice
from offline_losses.adapters.episodes import Leaf, Piece, record_pieces
from offline_losses.adapters.minari import load_minari

LENGTHS = (4, 1, 7)
REALS = spaces.Box(-1, 1, (2,), np.float64)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def recorded(lengths: tuple[int, ...] = LENGTHS, space: Any = REALS, **changes: Any) -> Any:
    """Episodes of observations that are far outside of their space."""
    buffers = [
        EpisodeBuffer(
            observations=np.full((length + 1, 2), 9.0),
            actions=np.zeros((length, 2)),
            rewards=np.arange(float(length)),
            terminations=np.arange(length) == length - 1,
            truncations=np.zeros(length, bool),
        )
        for length in lengths
    ]
    for name, values in changes.items():
        buffers = [replace(buffer, **{name: value}) for buffer, value in zip(buffers, values, strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return minari.create_dataset_from_buffers("test/read-v0", buffers, observation_space=space, action_space=REALS)


def test_the_steps_of_a_part_are_its_share() -> None:
    """Of all episodes; at least one, and as many as are on record of the whole."""
    dataset = recorded()
    assert EpisodeReading(dataset, Choice()).steps == 12
    part = dataset.filter_episodes(lambda stored: len(stored) != 1)
    assert EpisodeReading(part, Choice()).steps == 2 * 12 // 3


@pytest.mark.parametrize("lengths", [(1,), (1, 1)])
def test_there_is_a_step_at_least(lengths: tuple[int, ...]) -> None:
    """Also of one episode of two that have one each."""
    part = recorded(lengths).filter_episodes(lambda stored: stored.id == 0)
    assert EpisodeReading(part, Choice()).steps == 1


@pytest.mark.parametrize(("rows", "sizes"), [(0, [4, 1, 7]), (5, [5, 7]), (6, [12]), (100, [12])])
def test_a_block_ends_with_the_episode_that_fills_it(
    rows: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many rows as its bytes allow, and one at least."""
    reading = EpisodeReading(recorded(), Choice())
    monkeypatch.setattr(columns, "BLOCK", rows * reading.row_bytes)
    monkeypatch.setattr(EpisodeReading, "_pieces", lambda self, rows: record_pieces(self.dataset, self.leaves.all))
    found: list[int] = []
    told = reading.write(lambda path, column: found.append(len(column)) if path == ("episode",) else None, None)
    assert found == sizes
    assert not told


def test_actions_outside_are_counted_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the first is named; observations may lie where they do."""
    actions = [np.full((4, 2), 2.0), np.zeros((1, 2)), np.array([[0.0, -3.0]] * 7)]
    dataset = recorded(actions=actions)
    monkeypatch.setattr(columns, "BLOCK", 1)
    with pytest.warns(UserWarning, match=r"actions: 11 of 12 actions lie outside Box.*first is \[2\. 2\.\]") as told:
        load_minari(dataset)
    assert len(told) == 1


def block(*lengths: int) -> _Block:
    """Of episodes 10, 11 and so on."""
    dataset = SimpleNamespace(id="here")
    made = _Block(SimpleNamespace(dataset=dataset, choice=Choice()), lambda *_: None)  # type: ignore[arg-type]
    made.pieces = [Piece(10 + i, 0, length, True, []) for i, length in enumerate(lengths)]
    return made


WHOLE = Leaf("actions", (), spaces.Discrete(4), (("action",),))
STATES = Leaf("observations", (), spaces.Discrete(4), (("observation",), ("next", "observation")), extra_rows=1)


def test_parts_of_different_dtypes_are_cast_each_by_itself() -> None:
    """A whole number beside a float would lose digits."""
    large = 2**53 + 1
    parts = [np.array([large, 2]), np.array([1.0, 2.0]), np.array([3], np.int32)]
    assert block(2, 2, 1)._cast(parts, WHOLE, None).tolist() == [large, 2, 1, 2, 3]
    assert block(2, 2)._cast(parts[:2], WHOLE, None).tolist() == [large, 2, 1, 2]


def test_rows_of_one_block_follow_each_other() -> None:
    """The changes between pieces count too."""
    real = Leaf("rewards", (), spaces.Box(-1, 1, ()), (("next", "reward"),))
    made = block(1, 1)
    made._cast([np.array([1.0]), np.array([1.0 + 1e-12])], real, None, ("next", "reward"))
    assert (made.lost["next", "reward"].changes, made.lost["next", "reward"].lost) == (1, 1)


@pytest.mark.parametrize("wrong", range(3))
@pytest.mark.parametrize("leaf", [WHOLE, STATES], ids=["T rows", "T + 1 rows"])
@pytest.mark.parametrize("dtypes", [["f8", "f8", "f8"], ["f8", "i4", "f8"]], ids=["one dtype", "several dtypes"])
@pytest.mark.parametrize("pieces", [2, 3])
def test_a_fraction_is_refused_with_its_episode(pieces: int, dtypes: list[str], leaf: Leaf, wrong: int) -> None:
    """Wherever it stands in a block, the first row of its piece or the last."""
    wrong %= pieces
    for place in (0, -1):
        parts = [np.ones(3 + leaf.extra_rows, dtype) for dtype in dtypes[:pieces]]
        parts[wrong] = parts[wrong].astype(float)
        parts[wrong][place] = 0.5
        with pytest.raises(ValueError, match=rf"episode {10 + wrong}, {leaf.record}: .*float64, 0\.5 among them"):
            block(*[3] * pieces)._cast(parts, leaf, None)


def test_a_number_is_refused_with_its_step() -> None:
    """Within its episode."""
    for row, (episode, step) in enumerate([(10, 0), (10, 1), (11, 0), (12, 0), (12, 1), (12, 2)]):
        refused = str(block(2, 1, 3)._refusal(row, "reward", "a number", "none"))
        assert f"episode {episode}, reward: expected a number, got none at step {step}" in refused


def test_the_first_inexact_row_is_found() -> None:
    for row in range(3):
        array = np.where(np.arange(4) >= row, 0.5, 1.0)
        array[row] = 1.5
        assert _first_inexact(array, "integer", None) == (row, 1.5)


def test_a_number_that_is_not_finite_is_the_first() -> None:
    """Of rows with more than one axis too."""
    column = np.zeros((6, 2, 2), np.float32)
    column[3:, 1, 0] = np.inf
    with pytest.raises(
        ValueError, match=r"(?s)episode 12, next/x: expected numbers that are finite in float32.*at step 0"
    ):
        block(2, 1, 3)._check_finite(("next", "x"), column)
    column = np.full((6, 2), 2.0)
    column[:2] = 0
    made = block(2, 1, 3)
    made._check_action(Leaf("actions", (), REALS, (("action",),)), column)
    assert made.first_outside["actions"][0] == 4


@pytest.mark.parametrize(
    ("space", "width"),
    [(spaces.Box(0, 1, (3,), np.float64), 12), (spaces.Box(0, 9, (3,), np.int32), 24), (spaces.Discrete(3), 8)],
)
def test_bytes_of_a_leaf(space: Any, width: int) -> None:
    """Floats take four, whole numbers eight, once for each entry."""
    assert Leaf("observations", (), space, (("observation",),)).row_bytes == width
    assert Leaf("observations", (), space, (("observation",), ("next", "observation"))).row_bytes == 2 * width


def test_words_are_refused_where_one_of_their_entries_is_wanted() -> None:
    """As the only observation, also with the next one left out."""
    words = recorded((2,), spaces.Text(3), observations=[["a", "b", "c"]])
    with pytest.raises(ValueError, match=r"observations: expected a space of arrays .* got Text"):
        load_minari(words, exclude=[("next", "observation")])


class Bar:
    """What is asked of a progress bar."""

    shown: list[Any]

    def __init__(self) -> None:
        Bar.shown = []

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def add_task(self, text: str, total: int) -> int:
        self.shown += [text, total]
        return 7

    def advance(self, task: int, rows: int) -> None:
        self.shown.append((task, rows))

    def update(self, task: int, completed: int) -> None:
        self.shown.append((task, "of", completed))


@pytest.mark.parametrize(("large", "shown"), [(12 + 250 * 3, True), (12 + 250 * 3 + 1, False)])
def test_a_bar_shows_from_so_many_steps_on(large: int, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An episode counts as 250 beside its own; the bar ends full, whatever metadata promised."""
    module = ModuleType("rich.progress")
    module.Progress = Bar  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rich.progress", module)
    monkeypatch.setattr(columns, "LARGE", large)
    Bar.shown = []
    reading = EpisodeReading(recorded(), Choice())
    monkeypatch.setattr(EpisodeReading, "row_bytes", 250_000)
    reading.write(lambda *_: None, None)
    steps = [(7, 4), (7, 1), (7, 7)]
    assert Bar.shown == (["reading test/read-v0, 3 MB", 12, *steps, (7, "of", 12)] if shown else [])
