"""Flags of flat files: what cannot be right is told in a sentence, and what may be is let through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import masks
from torch import Tensor

from benchmarks.timing import peak_bytes
from offline_losses import check_ends, ends


def flags(*rows: str) -> Tensor:
    """Flags as rows of 0 and 1."""
    return torch.tensor([[each == "1" for each in row] for row in rows]).squeeze(0)


@pytest.fixture(params=[1, 2, 5, ends.BLOCK], ids="blocks of {}".format)
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags are read in blocks, wherever these begin."""
    monkeypatch.setattr(ends, "BLOCK", request.param)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(
    ("terminated", "done", "said"),
    [
        (["0011"], ["0001"], r"done: expected True wherever terminated is, got False in 1 of 4 rows, .+ is 2\."),
        (["001001"], ["000100"], r"done: .+in 2 of 6 rows, the first of which is 2\. It is terminated \| truncated\."),
        (["0000"], ["0000"], r"done: expected the last row of each episode, got not one in 4 of 4 rows, .+ is 0\."),
        (["0011"], ["0011"], r"terminated: .+ 1 of 4 rows, the first of which is 3\. Keep the first of the two\."),
        (["00110011001"], ["00110011001"], r"terminated: .+in 2 of 11 rows, the first of which is 3\."),
        (["00110", "00110"], ["00110", "00111"], r"terminated: .+in 2 of 10 rows, the first of which is \[0, 3\]\."),
        (["00100", "01010"], ["00000", "01001"], r"done: .+in 2 of 10 rows, the first of which is \[0, 2\]\."),
        (["00000", "01010"], ["11111", "01001"], r"done: .+in 1 of 10 rows, the first of which is \[1, 3\]\."),
        (["000", "010", "000"], ["111", "101", "111"], r"done: .+in 1 of 9 rows, the first of which is \[1, 1\]\."),
    ],
)
def test_flags_that_cannot_be_right(terminated: list[str], done: list[str], said: str) -> None:
    """Refused in a sentence that names the first row."""
    with pytest.raises(ValueError, match=f"check_ends: {said}"):
        check_ends(flags(*terminated), flags(*done))


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(
    ("terminated", "done"),
    [
        (["0001"], ["0101"]),  # a time limit and an end
        (["0000"], ["0001"]),  # time limits alone
        (["1111"], ["1111"]),  # episodes of one step, as bandits have
        (["0001100010001"], ["0001100010001"]),  # one episode of one step among longer ones
        (["00110001"], ["00110001"]),  # as many as are longer
        (["0010", "0000"], ["0010", "0001"]),  # rows
    ],
)
def test_flags_that_may_be_right(terminated: list[str], done: list[str]) -> None:
    """Nothing is said, nor returned."""
    assert check_ends(flags(*terminated), flags(*done)) is None


@given(data=st.data())
def test_flags_of_whole_episodes_pass(data: st.DataObject) -> None:
    """Episodes of two steps or more that end once are never refused, however they end."""
    steps = data.draw(st.lists(st.integers(2, 6), min_size=1, max_size=8))
    done = torch.zeros(sum(steps), dtype=torch.bool)
    done[torch.tensor(steps).cumsum(0) - 1] = True
    check_ends(done & data.draw(masks(tuple(done.shape))), done)


def test_a_large_file_takes_no_memory() -> None:
    """Beside the flags, of a million steps in one row and in many."""
    done = torch.arange(1_000_000) % 200 == 199
    for shape in [(-1,), (-1, 200)]:
        flags = done.view(shape)
        assert peak_bytes(lambda flags=flags: [check_ends(flags, flags)], done.device) < 2 * done.numel()


def test_what_check_ends_cannot_read() -> None:
    """Flags of numbers, or of different shapes."""
    done = torch.tensor([False, True])
    with pytest.raises(TypeError, match="check_ends: terminated: expected a bool tensor"):
        check_ends(done.float(), done)
    with pytest.raises(ValueError, match=r"check_ends: done: expected shape \[2\]"):
        check_ends(done, done[:1])


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_there_is_a_step(shape: tuple[int, ...]) -> None:
    """Flags of nothing are refused."""
    nothing = torch.zeros(shape, dtype=torch.bool)
    with pytest.raises(ValueError, match="check_ends: terminated: expected a last axis of at least one step"):
        check_ends(nothing, nothing)
