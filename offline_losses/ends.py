r"""Ends of episodes as a file tells them: what can be wrong with flags, before anything is made of them.

Every return and every filter believes its flags. A file that marks its ends by another rule gives numbers that look
like returns; most such rules show in the flags alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from offline_losses._core.checks import check_axis, check_flags
from offline_losses._core.pieces import BLOCK, blocks
from offline_losses._core.public import public


@public
def check_ends(terminated: Tensor, done: Tensor) -> None:
    r"""Refuse flags that cannot be right, as read from a flat file: call it once, before anything is made of them.

    Three mistakes show in the flags alone: a `done` that is not True where `terminated` is (the truncations alone, or
    another convention), a file read without its time limits (no row is done), and terminations that stand on two rows
    in a row, on the last step and on the one after it. Episodes of a single step look like the last; only where they
    make up more than half of the terminations, and not all rows, are they taken for it. Unlike all other functions this
    one looks at values, for which it waits for a device.

    Args:
        terminated: bool `[*batch, T]`, True where the environment ended.
        done: bool `[*batch, T]`, True on the last step of an episode: terminated or truncated.

    Returns:
        None.

    Gradient:
        None: flags have none.

    Raises:
        ValueError: shapes that differ, or one of the mistakes, with the first row that has it.
        TypeError: flags that are not bool.

    Examples:
        >>> import torch
        >>> check_ends(torch.tensor([False, True, False]), torch.tensor([False, True, True]))
    """
    check_flags("check_ends", getattr(terminated, "shape", torch.Size()), terminated=terminated)
    check_axis("check_ends", "terminated", terminated, "step")
    check_flags("check_ends", terminated.shape, done=done)
    find = partial(_find, terminated, done)
    (runs, _), pairs = find(_is_first), find(_is_second)
    doubled = pairs if 2 * pairs[0] > runs and not terminated.all() else (0, 0)
    for (wrong, place), argument, expected, got, mend in (
        (find(_is_not_done), "done", "True wherever terminated is", "False", "It is terminated | truncated"),
        (
            (0 if done.any() else done.numel(), 0),
            *("done", "the last row of each episode", "not one", "Read the file's time limits too"),
        ),
        (doubled, "terminated", "the last row of an episode alone", "that after it too", "Keep the first of the two"),
    ):
        if wrong:
            row = [int(x) for x in torch.unravel_index(torch.tensor(place), done.shape)]
            raise ValueError(
                f"check_ends: {argument}: expected {expected}, got {got} in {wrong} of {done.numel()} "
                f"rows, the first of which is {row if len(row) > 1 else row[0]}. {mend}."
            )


def _is_not_done(terminated: Tensor, done: Tensor) -> Tensor:
    return terminated & ~done


def _is_first(terminated: Tensor, done: Tensor) -> Tensor:
    """Whether terminations begin with this row."""
    return terminated & ~_before(terminated)


def _is_second(terminated: Tensor, done: Tensor) -> Tensor:
    """Whether they have begun with the row before."""
    return terminated & _before(_is_first(terminated, done))


def _before(flags: Tensor) -> Tensor:
    """Those of the row before each."""
    return pad(flags[..., :-1], (1, 0))


def _find(terminated: Tensor, done: Tensor, are: Callable[[Tensor, Tensor], Tensor]) -> tuple[int, int]:
    """How many rows are so, and the place of the first; looked for in blocks, each of which begins two steps early."""
    count, first, steps = 0, 0, done.shape[-1]
    flags = [x.reshape(-1, steps) for x in (terminated, done)]
    for rows in blocks(len(flags[0]), max(1, BLOCK // steps)):
        for part in blocks(steps, BLOCK):
            early = max(0, part.start - 2)
            found = are(*(x[rows, early : part.stop] for x in flags))[:, part.start - early :]
            several = int(found.count_nonzero())
            if several and not count:
                row, step = found.nonzero()[0].tolist()
                first = (rows.start + row) * steps + part.start + step
            count += several
    return count, first
