"""Three episodes in flat time, and windows or chances of their steps."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import BLUE, GREEN, ORANGE, SOFT, Axes

DONE = torch.zeros(14, dtype=torch.bool)
DONE[[4, 10, 13]] = True
STEP = torch.arange(14)


def _episodes(axes: Axes) -> None:
    for end in DONE.nonzero().squeeze(-1)[:-1].tolist():
        axes.axvline(end + 0.5, color=SOFT, linestyle=":", linewidth=1)
    axes.set(xlabel="row of the data", xlim=(-0.7, 13.7))


def episode_bounds(axes: Axes) -> str:
    start, end = ol.episode_bounds(DONE)
    axes.step(STEP, end, where="mid", color=ORANGE, label="end")
    axes.plot(STEP, STEP, color=SOFT, linewidth=1)
    axes.step(STEP, start, where="mid", color=BLUE, label="start")
    _episodes(axes)
    axes.legend(loc="upper left")
    return "the first and the last row of each row's episode"


def episode_windows(axes: Axes) -> str:
    start, end = ol.episode_bounds(DONE)
    row = torch.tensor([1, 7, 12])
    window = ol.episode_windows(row, start[row], end[row], torch.arange(-2, 3))
    for height, (places, there) in enumerate(zip(*window, strict=True)):
        axes.plot(places[there], torch.full((int(there.sum()),), height), "o", color=BLUE, markersize=5)
        axes.plot(row[height], height, "o", color=GREEN, markersize=5)
        for k in (~there).nonzero().squeeze(-1).tolist():
            beyond = row[height] + k - 2
            axes.plot([beyond, places[k]], [height, height], color=ORANGE, linewidth=1, zorder=0)
            axes.plot(beyond, height, "o", color=ORANGE, markersize=5, markerfacecolor="none")
    _episodes(axes)
    axes.set(xlim=(-1.7, 14.7), ylim=(-0.6, 2.8), yticks=(0, 1, 2), yticklabels=("row 1", "row 7", "row 12"))
    return "two rows before and behind; what lies beyond an end repeats the row at it, and is masked"


def sampling_probabilities(axes: Axes) -> str:
    reward = torch.zeros(14)
    reward[DONE] = torch.tensor([1.0, 4.0, 3.0])
    score = ol.episode_return(reward, DONE)
    for by, color, style in (("steps", BLUE, "-"), ("episodes", ORANGE, "--")):
        p = ol.sampling_probabilities(score, DONE, temperature=0.5, by=by)
        axes.step(STEP, p, where="mid", color=color, linestyle=style, label=f'by="{by}"')
    _episodes(axes)
    axes.set(ylabel="chance of a step", ylim=(0, 0.2))
    axes.legend(loc="upper left")
    return "returns 1, 4 and 3: by episodes, the short one is drawn as often as its return says"
