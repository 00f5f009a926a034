r"""Which rows of flat data a batch is made of: windows that stay inside an episode, and how often each row is drawn.

Rows are named by their index in flat time, as everywhere. Nothing here draws: a sampler does, of whatever kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    check_axis,
    check_flags,
    check_integers,
    check_knob,
    check_option,
    check_some,
)
from offline_losses._core.checks import check_sequence as check_steps
from offline_losses._core.episodes import episode_total, sequence_start
from offline_losses._core.errors import describe, refuse
from offline_losses._core.pieces import all_of, are_many, found, in_blocks
from offline_losses._core.public import public
from offline_losses._core.reduce import scalar, summed


class EpisodeBounds(NamedTuple):
    """The first and the last step of each step's episode, as places on the time axis."""

    start: Tensor
    end: Tensor


class EpisodeWindows(NamedTuple):
    """Rows of the data, and whether each lies in the episode or repeats its first or last row."""

    rows: Tensor
    mask: Tensor


@public
def episode_bounds(done: Tensor) -> EpisodeBounds:
    r"""Where the episode of each step begins and ends: two columns, made once, from which windows are cut.

    $$\text{start}_t = \max\{s \le t : s = 0 \text{ or } \text{done}_{s-1}\}, \qquad
    \text{end}_t = \min\{e \ge t : e = T - 1 \text{ or } \text{done}_e\}$$

    Unlike most functions this one looks at values, for which it waits for a device.

    Args:
        done: bool `[*batch, T]`, True on the last step of an episode; an unfinished last one ends with the axis.

    Returns:
        `EpisodeBounds(start, end)`, both int64 `[*batch, T]`.

    Gradient:
        None.

    Raises:
        ValueError: no time axis.
        TypeError: flags that are not bool.

    Examples:
        >>> import torch
        >>> episode_bounds(torch.tensor([False, False, True, False, True]))
        EpisodeBounds(start=tensor([0, 0, 0, 3, 3]), end=tensor([2, 2, 2, 4, 4]))

    Reference:
        Chi et al., Diffusion Policy, arXiv:2303.04137, whose data is one flat array beside the ends of its episodes.
    """
    check_flags("episode_bounds", getattr(done, "shape", torch.Size()), done=done)
    check_axis("episode_bounds", "done", done, "step")
    if not done.numel():
        return EpisodeBounds(*(done.new_empty(done.shape, dtype=torch.int64) for _ in range(2)))
    episodes = all_of(done)
    start = episodes.first % done.shape[-1]  # in the row that the episode lies in
    return EpisodeBounds(*(episodes.on_steps(x).view(done.shape) for x in (start, start + episodes.length - 1)))


@public
def episode_windows(index: Tensor, episode_start: Tensor, episode_end: Tensor, offset: Tensor) -> EpisodeWindows:
    r"""Rows around each row, never from another episode: sequences, action chunks, frame stacks, n-step ends, goals.

    $$w_k = \min(\max(i + o_k,\ s),\ e), \qquad \text{mask}_k = [\, s \le i + o_k \le e \,]$$

    Beyond an end the row at that end is repeated, as frame stacks repeat the first frame and action chunks the last
    action, and the mask is False. A sequence of eight steps has the offsets `torch.arange(8)`, a stack of the last
    four frames `torch.arange(-3, 1)`, each fifth step of the future `torch.arange(0, 50, 5)`; offsets drawn for each
    row are goals ahead of it. `data[windows.rows]` is a batch `[*batch, L]`, `windows.mask` the mask of its losses.

    Args:
        index: int64 `[*batch]`, rows $i$ of the flat data.
        episode_start: int64 `[*batch]`, the first row $s$ of each one's episode, from `episode_bounds`.
        episode_end: int64 `[*batch]`, the last row $e$ of each one's episode.
        offset: int64 `[L]`, steps ahead (negative: back) of each row of a window, or `[*batch, L]` of each row its own.

    Returns:
        `EpisodeWindows(rows, mask)`, int64 and bool, both `[*batch, L]`.

    Gradient:
        None.

    Raises:
        ValueError: shapes that differ, offsets without an axis.
        TypeError: rows or offsets that are not int64.

    Examples:
        >>> import torch
        >>> start, end = episode_bounds(torch.tensor([False, False, True, False, True]))
        >>> row = torch.tensor([1, 4])
        >>> episode_windows(row, start[row], end[row], torch.arange(-1, 2))
        EpisodeWindows(rows=tensor([[0, 1, 2],
                [3, 4, 4]]), mask=tensor([[ True,  True,  True],
                [ True,  True, False]]))

    Reference:
        Chi et al., Diffusion Policy, arXiv:2303.04137 (stacks of observations and chunks of actions, whose code repeats
        the row at an end). It and others say which rows are repeated in other words, or do not say it: see
        [Lineage](../lineage/sampling.md#episode_windows).
    """
    check_integers("episode_windows", "index", getattr(index, "shape", torch.Size()), index=index)
    check_integers("episode_windows", "index", index.shape, episode_start=episode_start, episode_end=episode_end)
    _check_offset(offset, index)
    place = index.unsqueeze(-1) + offset
    rows = place.clamp(episode_start.unsqueeze(-1), episode_end.unsqueeze(-1))
    return EpisodeWindows(rows, rows == place)


def _check_offset(offset: Tensor, index: Tensor) -> None:
    if not isinstance(offset, Tensor) or offset.dtype != torch.int64:
        mend = "Pass torch.arange(8) for a sequence of eight steps."
        refuse(TypeError, "episode_windows", "offset", "an int64 tensor", describe(offset), mend)
    if offset.ndim != 1 and (offset.ndim == 0 or offset.shape[:-1] != index.shape):
        expected = f"shape [L], or [{', '.join([*map(str, index.shape), 'L'])}] with offsets for each row"
        mend = "Give it an axis of the steps of a window."
        refuse(ValueError, "episode_windows", "offset", expected, f"shape {list(offset.shape)}", mend)


@public
def sampling_probabilities(
    score: Tensor, done: Tensor, *, temperature: Knob = 0.1, by: Literal["episodes", "steps"] = "steps"
) -> Tensor:
    r"""How often to draw each step, more often if it is better: return- or advantage-weighted sampling.

    $$p_t \propto \exp\left(\frac{\tilde x_t}{T}\right) \text{ by steps}, \qquad
    p_t \propto \frac{1}{L_t} \exp\left(\frac{\tilde x_{s(t)}}{T}\right) \text{ by episodes}, \qquad
    \tilde x = \frac{x - \min x}{\max x - \min x}$$

    The score of a step may be the return of its episode, `episode_return`, that minus the value of the first state, or
    an advantage. A step with the best score is drawn $e^{1/T}$ times as often as one with the worst, whatever the units
    are. By steps, an episode is drawn in proportion to its length $L$; by episodes, each by the score of its
    first step $s(t)$, shared among its steps; the range is that of the scores which compete. Equal scores give equal
    chances.

    The sum is taken in float64. `torch.multinomial`, and so `WeightedRandomSampler`, takes at most $2^{24}$ rows; the
    search in a float64 running sum takes any number, and never finds a row of probability zero:

    ```python
    running = p.to(torch.float64, copy=True).cumsum_(-1)
    running /= running[-1].clone()
    rows = torch.searchsorted(running, torch.rand(256, dtype=torch.float64), right=True)
    ```

    Args:
        score: `[*batch, T]`, finite.
        done: bool `[*batch, T]`, True on the last step of an episode.
        temperature: $T$, in units of the range of the scores; positive. Small: the best alone. Large: all alike.
        by: `"steps"` or `"episodes"`, what competes.

    Returns:
        `[*batch, T]`, float32 or wider, of which the sum is 1.

    Gradient:
        None: detached.

    Raises:
        ValueError: shapes that differ, `temperature` not positive, another `by`.
        TypeError: not a tensor, integer scores, a `done` that is not bool.

    Examples:
        >>> import torch
        >>> score, done = torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([False, False, True, True])
        >>> sampling_probabilities(score, done, temperature=1.0, by="episodes")
        tensor([0.0896, 0.0896, 0.0896, 0.7311])

    Reference:
        Hong, Agrawal, Tachet des Combes and Laroche, Harnessing Mixed Offline Reinforcement Learning Datasets via
        Trajectory Weighting, arXiv:2306.13085. Their code draws by steps, and one of its copies does not normalize:
        see [Lineage](../lineage/sampling.md#sampling_probabilities).
    """
    check_steps("sampling_probabilities", 1.0, {"score": score}, done=done)
    check_some("sampling_probabilities", "score", score, "step")
    check_knob("sampling_probabilities", "temperature", temperature, 0.0)
    check_option("sampling_probabilities", "by", by, ("episodes", "steps"))
    competitors, on_steps = _competitors(score.detach(), done, by)
    low, high = (bound.double() for bound in (competitors[0].amin(), competitors[0].amax()))
    equal, scale = low == high, scalar(temperature, low).detach()

    def weight(x: Tensor, length: Tensor | float = 1.0) -> Tensor:
        below = torch.where(equal, 0.0, (x.double() - high) / torch.where(equal, 1.0, high - low))
        return (below / scale).exp() / length  # of x̃ − 1: nothing overflows

    if are_many(*competitors, knobs=[scale]):
        total = on_steps(in_blocks(weight, competitors, torch.float64)).sum()
        return on_steps(in_blocks(lambda *x: weight(*x) / total, competitors, summed(score)))
    each = weight(*competitors)
    return on_steps((each / on_steps(each).sum()).to(summed(score)))


def _competitors(
    score: Tensor, done: Tensor, by: Literal["episodes", "steps"]
) -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
    """Scores and, of episodes, how many steps share each; and what lays a number of each out over all steps."""
    if by == "steps":
        return [score], lambda x: x
    pieces = found(done, score)
    if pieces is not None:
        return [score.reshape(-1)[pieces.first], pieces.length], lambda x: pieces.on_steps(x).view(done.shape)
    first = episode_total(torch.where(sequence_start(done), score.double(), 0.0), done, 1.0)
    return [first, episode_total(torch.ones_like(first), done, 1.0)], lambda x: x
