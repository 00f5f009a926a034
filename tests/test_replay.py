"""The replay of a compiled step, with a stand-in for the CUDA graph: what goes in, what comes out, what is kept."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from offline_losses._compile.replay import Replay


def step(state: Tensor, x: Tensor, flags: Tensor, y: Tensor, knob: Tensor) -> Sequence[Tensor]:
    """Changes its state, and returns results of two types."""
    state += knob * (x - y)[flags].sum()
    return x - knob * y, state * 1, ~flags


def arguments(seed: int) -> list[Tensor]:
    """A batch in memory of its own."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 5, generator=generator)
    return [x.clone(), x > y, y.clone()]


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> tuple[Replay, Tensor, Tensor]:
    """The step's replay, and its state and its knob, which stay where they are."""
    state, knob = torch.zeros(()), torch.tensor(2.0)
    recorded: list[Tensor] = []

    def run(*flat: Tensor) -> Sequence[Tensor]:
        recorded[:] = flat
        return step(*flat)

    replay = Replay(run, 1, 4)

    class Graph:
        def replay(self) -> None:  # the same step in the same memory
            for held, x in zip(replay.outputs, step(*recorded), strict=True):
                held.copy_(x)

    @contextmanager
    def recording(graph: Graph) -> Iterator[None]:
        before = state.clone()
        yield
        state.copy_(before)  # what is recorded is not done

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    return replay, state, knob


def test_every_replay_sees_its_batch_and_its_results_stay(replayed: tuple[Replay, Tensor, Tensor]) -> None:
    """New batches, which are not written into, a knob that moves where it lies, results that are read at the end."""
    replay, state, knob = replayed
    expected_state, calls, batches = torch.zeros(()), [], [arguments(seed) for seed in range(4)]
    for seed, batch in enumerate(batches):
        knob.fill_(seed + 1)
        actual = replay(state, *batch, knob)
        calls.append((actual, step(expected_state, *arguments(seed), torch.tensor(seed + 1.0))))
        torch.testing.assert_close(state, expected_state)
    for seed, (actual, expected) in enumerate(calls):
        assert all(map(torch.equal, batches[seed], arguments(seed)))
        torch.testing.assert_close(actual, list(expected))


def test_what_cannot_be_recorded_runs_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so once, with the reason."""

    @contextmanager
    def refusing(graph: object) -> Iterator[None]:
        raise RuntimeError("operation not permitted")
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", refusing)
    replay, state, knob = Replay(step, 1, 4), torch.zeros(()), torch.tensor(2.0)
    with pytest.warns(UserWarning, match="without a CUDA graph: operation not permitted"):
        first = replay(state, *arguments(0), knob)
    torch.testing.assert_close(first, list(step(torch.zeros(()), *arguments(0), knob)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replay(state, *arguments(1), knob)
